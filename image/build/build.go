package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"holdfast/image/disk"
	"holdfast/image/uki"
	"holdfast/image/update"
	"holdfast/store/schema"
)

// machine is what differs between architectures.
type machine struct {
	efi     string // as UEFI names it
	console string
}

var machines = map[string]machine{
	"amd64": {"x64", "ttyS0,115200"},
	"arm64": {"aa64", "ttyAMA0"},
}

// commandLine is the kernel's. It is part of the signed image, and the boot loader
// lets nobody change it.
const commandLine = "console=tty0 console=%s quiet loglevel=3 panic=5 oops=panic lockdown=integrity module.sig_enforce=1 init_on_alloc=1"

// The disk that is shipped, in sectors of 512 bytes. The second partition grows to
// the end of the disk that it is written to.
const (
	mebibyte    = 1 << 20
	espFirst    = 1 * mebibyte / sectorBytes
	espSectors  = 512 * mebibyte / sectorBytes
	dataFirst   = espFirst + espSectors
	dataSectors = 64 * mebibyte / sectorBytes
	diskSectors = dataFirst + dataSectors + mebibyte/sectorBytes
)

const (
	diskID guid = "6B1A58F0-5C1D-4E0B-9B0E-484F4C444641"
	espID  guid = "6B1A58F1-5C1D-4E0B-9B0E-484F4C444641"
	dataID guid = "6B1A58F2-5C1D-4E0B-9B0E-484F4C444641"
)

// loaderSettings are systemd-boot's: it starts the newest version at once, and lets
// nobody change what the kernel is told.
const loaderSettings = "timeout 0\neditor no\n"

// vmBytes is the size of the disk that virtual machines get. It takes no more room
// than what is written to it.
const vmBytes = 16 << 30

// build makes everything for each architecture, and what is published with it.
func build(ctx context.Context, o options) error {
	all, err := readPins()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	keys, err := openKeys(o)
	if err != nil {
		return err
	}
	pub := &publication{o: o, keys: keys}
	for _, arch := range o.archs {
		pins := slices.DeleteFunc(slices.Clone(all), func(p pin) bool { return !slices.Contains(p.For, arch) })
		debs, err := fetch(ctx, o, pins)
		if err != nil {
			return err
		}
		if err := buildArch(ctx, o, arch, pins, debs, keys, pub); err != nil {
			return fmt.Errorf("%s: %w", arch, err)
		}
	}
	if !o.published() {
		return nil // raw disks and updates alone are for tests
	}
	return pub.finish()
}

func buildArch(ctx context.Context, o options, arch string, pins []pin, debs map[string]string, keys *keys, pub *publication) error {
	work, err := os.MkdirTemp(o.out, "work-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	say("%s: unpacking %d packages", arch, len(pins))
	for _, p := range pins {
		if err := unpack(ctx, debs[p.Name], filepath.Join(work, p.Name)); err != nil {
			return err
		}
		if err := pub.licence(work, p); err != nil {
			return err
		}
	}
	efi, err := buildUKI(ctx, o, arch, work, pins, keys, pub)
	if err != nil {
		return err
	}
	m := machines[arch]
	loader, err := os.ReadFile(filepath.Join(work, "systemd-boot-efi/usr/lib/systemd/boot/efi/systemd-boot"+m.efi+".efi"))
	if err != nil {
		return err
	}
	pub.unsigned(arch, "holdfast", efi)
	var files []file
	settings := loaderSettings
	if o.secure {
		pub.unsigned(arch, "systemd-boot", loader)
		if loader, err = keys.db.Sign(loader); err != nil {
			return err
		}
		if efi, err = keys.db.Sign(efi); err != nil {
			return err
		}
		if files, err = keys.enrolment(o.created); err != nil {
			return err
		}
		// Only a machine in setup mode takes them: who cleared its keys wants new ones.
		settings += "secure-boot-enroll force\n"
	}
	name := fmt.Sprintf("holdfast-%s-%s", o.version, arch)
	files = append(files,
		file{"EFI/BOOT/BOOT" + strings.ToUpper(m.efi) + ".EFI", loader},
		file{"EFI/systemd/systemd-boot" + m.efi + ".efi", loader},
		file{"EFI/Linux/holdfast_" + o.version + ".efi", efi},
		file{"holdfast/licences.txt", []byte(pub.licenceText())},
		file{"loader/loader.conf", []byte(settings)},
	)
	if keys.signer != nil {
		bundle, head, err := makeBundle(o, arch, efi, keys)
		if err != nil {
			return err
		}
		files = append(files, file{update.HeadFile(o.version), head})
		if o.wants("hfu") {
			if err := pub.write(name+update.Extension, func(f *os.File) error { _, err := f.Write(bundle); return err }); err != nil {
				return err
			}
		}
	}
	if err := writeDisks(o, name, files, pub); err != nil {
		return err
	}
	if arch == "arm64" && o.wants("rpi") {
		return writeRaspberry(o, work, pins, files, pub)
	}
	return nil
}

func (o options) wants(format string) bool { return slices.Contains(o.formats, format) }

// published tells whether disks are made that are for others.
func (o options) published() bool {
	return o.wants("zst") || o.wants("qcow2") || o.wants("vmdk") || o.wants("rpi")
}

// makeBundle makes the update by which appliances get this version. head is what of
// it a disk keeps, so that an appliance can hand its version on.
func makeBundle(o options, arch string, efi []byte, keys *keys) (bundle, head []byte, err error) {
	migrations, err := schema.Migrations()
	if err != nil {
		return nil, nil, err
	}
	var b bytes.Buffer
	m := update.Manifest{Version: o.version, Arch: arch, Created: o.created, Schema: len(migrations), Notes: o.notes}
	if err := update.Write(&b, m, bytes.NewReader(efi), keys.signer); err != nil {
		return nil, nil, err
	}
	head, _, err = update.Head(bytes.NewReader(b.Bytes()), keys.public)
	return b.Bytes(), head, err
}

// makeDisk lays the partitions and the system partition's files out.
func makeDisk(o options, size int64, files []file, mbr bool) (*sparse, error) {
	d := newSparse(size)
	parts := []partition{
		{typeESP, espID, "holdfast-esp", espFirst, espSectors},
		{typeLUKS, dataID, "holdfast-data", dataFirst, dataSectors},
	}
	var old []partition
	if mbr {
		old = parts[:1]
	}
	if err := writeGPT(d, uint64(size/sectorBytes), diskID, parts, old); err != nil {
		return nil, err
	}
	// By this the first start knows that the partition may be made into one of data.
	if _, err := d.WriteAt([]byte(disk.Marker), dataFirst*sectorBytes); err != nil {
		return nil, err
	}
	return d, writeFAT(d, espFirst*sectorBytes, espSectors*sectorBytes, espFirst, "HOLDFAST", files, o.created)
}

// writeDisks writes the disk in its formats.
func writeDisks(o options, name string, files []file, pub *publication) error {
	if !o.wants("raw") && !o.published() {
		return nil
	}
	say("%s: writing disks", name)
	d, err := makeDisk(o, diskSectors*sectorBytes, files, false)
	if err != nil {
		return err
	}
	if o.wants("raw") {
		// Not published: it is what .raw.zst holds.
		if err := create(filepath.Join(o.out, name+".raw"), func(f *os.File) error { return writeRaw(f, d) }); err != nil {
			return err
		}
	}
	if o.wants("zst") {
		if err := pub.write(name+".raw.zst", func(f *os.File) error { return writeZstd(f, d) }); err != nil {
			return err
		}
	}
	if !o.wants("qcow2") && !o.wants("vmdk") {
		return nil
	}
	if d, err = makeDisk(o, vmBytes, files, false); err != nil {
		return err
	}
	if o.wants("qcow2") {
		if err := pub.write(name+".qcow2", func(f *os.File) error { return writeQCOW2(f, d) }); err != nil {
			return err
		}
	}
	if o.wants("vmdk") && !strings.HasSuffix(name, "arm64") {
		var size int64
		if err := pub.write(name+".vmdk", func(f *os.File) error {
			if err := writeVMDK(f, d, name+".vmdk"); err != nil {
				return err
			}
			size, err = f.Seek(0, io.SeekCurrent)
			return err
		}); err != nil {
			return err
		}
		return pub.write(name+".ovf", func(f *os.File) error {
			_, err := f.Write(ovf(o.version, name+".vmdk", size, vmBytes))
			return err
		})
	}
	return nil
}

// buildUKI makes the image that the boot loader starts: kernel, command line and
// initial file system in one UEFI program.
func buildUKI(ctx context.Context, o options, arch, work string, pins []pin, keys *keys, pub *publication) ([]byte, error) {
	i := slices.IndexFunc(pins, func(p pin) bool { return strings.HasPrefix(p.Name, "linux-image-") })
	if i < 0 {
		return nil, fmt.Errorf("%s has no kernel; run: make image-pins", pinsFile)
	}
	tree := filepath.Join(work, pins[i].Name)
	release, err := kernelOfTree(tree)
	if err != nil {
		return nil, err
	}
	kernel, err := os.ReadFile(filepath.Join(tree, "boot/vmlinuz-"+release))
	if err != nil {
		return nil, err
	}
	stub, err := os.ReadFile(filepath.Join(work, "systemd-boot-efi/usr/lib/systemd/boot/efi/linux"+machines[arch].efi+".efi.stub"))
	if err != nil {
		return nil, err
	}
	root := rootFS{}
	for _, dir := range []string{"dev", "proc", "sys", "run", "data", "efi", "etc"} {
		root.folder(dir, 0o755)
	}
	root.folder("tmp", fs.ModeSticky|0o777)
	root["dev/console"] = entry{mode: fs.ModeDevice | fs.ModeCharDevice | 0o600, major: 5, minor: 1}
	program, err := os.ReadFile(strings.ReplaceAll(o.binaries, "%s", arch))
	if err != nil {
		return nil, fmt.Errorf("the program is missing: %w; make image builds it", err)
	}
	root.file("init", program, 0o555)
	root.link("sbin/modprobe", "/init")
	root.file("etc/holdfast/update.pub", keys.updatePub(), 0o444)
	// Without it localhost is asked of a name server, and the check of a new version
	// goes to localhost.
	root.file("etc/hosts", []byte("127.0.0.1 localhost\n::1 localhost\n"), 0o444)
	// It is not earlier than this, whatever the machine's clock says.
	root.file("etc/holdfast/built", []byte(o.created.Format(time.RFC3339)+"\n"), 0o444)
	root.file("etc/holdfast/version", []byte(o.version+"\n"), 0o444)
	if err := addModules(root, filepath.Join(tree, "lib/modules", release), release, arch); err != nil {
		return nil, err
	}
	found, missing, err := addFirmware(root, work, pins)
	if err != nil {
		return nil, err
	}
	pub.firmware(arch, found, missing)
	template, err := ext4Template(ctx, o, work)
	if err != nil {
		return nil, err
	}
	root.file("share/ext4.img.zst", template, 0o444)

	say("%s: kernel %s, %d files in the initial file system", arch, release, len(root))
	initrd, err := microcode(work)
	if err != nil {
		return nil, err
	}
	packed, err := compress(root.cpio())
	if err != nil {
		return nil, err
	}
	initrd = append(initrd, packed...)
	osrel := fmt.Sprintf("ID=holdfast\nNAME=Holdfast\nPRETTY_NAME=\"Holdfast %[1]s\"\nVERSION_ID=%[1]s\nIMAGE_ID=holdfast\nIMAGE_VERSION=%[1]s\n", o.version)
	return uki.Build(stub, []uki.Section{
		{Name: ".osrel", Data: []byte(osrel)},
		{Name: ".cmdline", Data: fmt.Appendf(nil, commandLine, machines[arch].console)},
		{Name: ".uname", Data: []byte(release)},
		{Name: ".linux", Data: kernel},
		{Name: ".initrd", Data: initrd},
	})
}

// mke2fsConf stands in for the machine's own configuration, which differs.
const mke2fsConf = `[defaults]
	base_features = none
	default_mntopts = acl,user_xattr
[fs_types]
	ext4 = {
		features = has_journal,ext_attr,dir_index,filetype,sparse_super,large_file,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
	}
	small = {
		inode_size = 256
	}
`

// ext4Template is an empty file system that fits into the data partition that is
// shipped and grows from there.
func ext4Template(ctx context.Context, o options, work string) ([]byte, error) {
	img, conf := filepath.Join(work, "ext4.img"), filepath.Join(work, "mke2fs.conf")
	if err := os.WriteFile(conf, []byte(mke2fsConf), 0o644); err != nil {
		return nil, err
	}
	args := disk.TemplateOptions("6b1a58f3-5c1d-4e0b-9b0e-484f4c444641", "6b1a58f4-5c1d-4e0b-9b0e-484f4c444641")
	cmd := exec.CommandContext(ctx, mke2fs(), append(args, img, fmt.Sprint(disk.TemplateSize/4096))...)
	// The clock of the file system's own times.
	cmd.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME="+fmt.Sprint(o.created.Unix()), "MKE2FS_CONFIG="+conf, "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mke2fs: %w\n%s", err, out)
	}
	b, err := os.ReadFile(img)
	if err != nil {
		return nil, err
	}
	return compress(b)
}

// mke2fs is often outside an ordinary user's path.
func mke2fs() string {
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if _, err := os.Stat(dir + "/mke2fs"); err == nil {
			return dir + "/mke2fs"
		}
	}
	return "mke2fs"
}

// encoder makes the same output each time: one worker, no time in it.
func encoder() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
}

func compress(b []byte) ([]byte, error) {
	e, err := encoder()
	if err != nil {
		return nil, err
	}
	defer e.Close()
	return e.EncodeAll(b, nil), nil
}
