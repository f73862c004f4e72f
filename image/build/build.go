package main

import (
	"context"
	"fmt"
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

// build makes everything for each architecture.
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
	for _, arch := range o.archs {
		var pins []pin
		for _, p := range all {
			if p.Arch == arch || p.Arch == "all" {
				pins = append(pins, p)
			}
		}
		debs, err := fetch(ctx, o.cache, o.sources, pins)
		if err != nil {
			return err
		}
		if err := buildArch(ctx, o, arch, pins, debs, keys); err != nil {
			return fmt.Errorf("%s: %w", arch, err)
		}
	}
	return nil
}

func buildArch(ctx context.Context, o options, arch string, pins []pin, debs map[string]string, keys *keys) error {
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
	}
	efi, err := buildUKI(ctx, o, arch, work, pins, keys)
	if err != nil {
		return err
	}
	loader, err := os.ReadFile(filepath.Join(work, "systemd-boot-efi/usr/lib/systemd/boot/efi/systemd-boot"+machines[arch].efi+".efi"))
	if err != nil {
		return err
	}
	name := filepath.Join(o.out, fmt.Sprintf("holdfast-%s-%s", o.version, arch))
	if err := os.WriteFile(name+".efi", efi, 0o644); err != nil {
		return err
	}
	boot := strings.ToUpper(machines[arch].efi)
	files := []file{
		{"EFI/BOOT/BOOT" + boot + ".EFI", loader},
		{"EFI/systemd/systemd-boot" + machines[arch].efi + ".efi", loader},
		{"EFI/Linux/holdfast_" + o.version + ".efi", efi},
		{"loader/loader.conf", []byte("timeout 0\neditor no\n")},
	}
	return writeDisk(ctx, o, name, files)
}

// writeDisk writes the disk and its formats.
func writeDisk(ctx context.Context, o options, name string, files []file) error {
	say("%s: writing the disk", filepath.Base(name))
	raw := name + ".raw"
	f, err := os.Create(raw)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(diskSectors * sectorBytes); err != nil {
		return err
	}
	parts := []partition{
		{typeESP, espID, "holdfast-esp", espFirst, espSectors},
		{typeLUKS, dataID, "holdfast-data", dataFirst, dataSectors},
	}
	if err := writeGPT(f, diskSectors, diskID, parts, nil); err != nil {
		return err
	}
	if err := writeFAT(f, espFirst*sectorBytes, espSectors*sectorBytes, espFirst, "HOLDFAST", files, o.created); err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte(disk.Marker), dataFirst*sectorBytes); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if slices.Contains(o.formats, "zst") {
		if err := compressFile(raw, raw+".zst"); err != nil {
			return err
		}
	}
	return nil
}

// buildUKI makes the image that the boot loader starts: kernel, command line and
// initial file system in one UEFI program.
func buildUKI(ctx context.Context, o options, arch, work string, pins []pin, keys *keys) ([]byte, error) {
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
	// It is not earlier than this, whatever the machine's clock says.
	root.file("etc/holdfast/built", []byte(o.created.Format(time.RFC3339)+"\n"), 0o444)
	root.file("etc/holdfast/version", []byte(o.version+"\n"), 0o444)
	if err := addModules(root, filepath.Join(tree, "lib/modules", release), release, arch); err != nil {
		return nil, err
	}
	template, err := ext4Template(ctx, o, work)
	if err != nil {
		return nil, err
	}
	root.file("share/ext4.img.zst", template, 0o444)

	say("%s: kernel %s, %d files in the initial file system", arch, release, len(root))
	initrd, err := compress(root.cpio())
	if err != nil {
		return nil, err
	}
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

func compressFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	e, err := encoder()
	if err != nil {
		return err
	}
	e.Reset(out)
	if _, err := e.ReadFrom(in); err != nil {
		return err
	}
	if err := e.Close(); err != nil {
		return err
	}
	return out.Close()
}
