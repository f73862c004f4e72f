package disk

// TemplateSize is that of the file system that a new data partition begins with, in
// bytes. It fits into the smallest data partition, as the image has it.
const TemplateSize = 40 << 20

// TemplateOptions are mke2fs's options for it, with the file system's identity and
// the seed of its directories' hashes. It is written once and grows to any size while
// it is mounted: descriptors of block groups stand with their groups (meta_bg), so
// that no limit is set now; and nothing is left for the kernel to initialise later,
// for the disk behind it is not empty.
func TemplateOptions(id, seed string) []string {
	return []string{"-q", "-F", "-t", "ext4", "-b", "4096", "-i", "16384", "-I", "256", "-m", "0", "-L", DataLabel,
		"-O", "64bit,metadata_csum,meta_bg,^resize_inode", "-J", "size=16", "-U", id,
		"-E", "hash_seed=" + seed + ",root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard"}
}
