package disk_test

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/crypto/xts"
	"golang.org/x/sys/unix"

	"holdfast/image/disk"
	"holdfast/image/disk/luks"
	"holdfast/image/hardware"
)

// kernelPackage is Debian's kernel; any version of it will do.
const kernelPackage = "linux-image-6.1.0-56-amd64"

const root = "../../.."

// kept is a folder for all tests.
var kept string

func TestMain(m *testing.M) {
	code := 1
	if dir, err := os.MkdirTemp("", "disk"); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		kept = dir
		code = m.Run()
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func run(t *testing.T, dir, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

// kernel gives the unpacked kernel package: from the cache of the image's builder,
// or from Debian.
func kernel(t *testing.T) string {
	t.Helper()
	dir := kept
	var debs []string
	if p := os.Getenv("HOLDFAST_KERNEL_DEB"); p != "" {
		debs = []string{p}
	} else if cache, err := os.UserCacheDir(); err == nil {
		debs, _ = filepath.Glob(filepath.Join(cache, "holdfast/debs/linux-image-*-amd64_*.deb"))
	}
	if len(debs) == 0 {
		if os.Getenv("CI") != "true" {
			t.Skipf("needs a kernel: make image, or apt-get download %s and HOLDFAST_KERNEL_DEB=FILE", kernelPackage)
		}
		get := exec.Command("apt-get", "download", "-q", kernelPackage)
		if get.Dir = dir; get.Run() != nil { // the lists may be missing
			run(t, dir, "apt-get", "update", "-q")
			run(t, dir, "apt-get", "download", "-q", kernelPackage)
		}
		debs, _ = filepath.Glob(filepath.Join(dir, "*.deb"))
	}
	run(t, dir, "dpkg-deb", "-x", debs[len(debs)-1], "tree")
	return filepath.Join(dir, "tree")
}

// archive writes an initial file system.
type archive struct {
	bytes.Buffer
	n int
}

func (a *archive) add(name string, mode int, content []byte) {
	a.n++
	fmt.Fprintf(a, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00", a.n, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
	a.pad()
	a.Write(content)
	a.pad()
}

func (a *archive) pad() {
	for a.Len()%4 != 0 {
		a.WriteByte(0)
	}
}

// initramfs holds the guest, the modules that it needs, and the template.
func initramfs(t *testing.T, tree string) (kernel, initrd string) {
	t.Helper()
	dir := kept
	images, _ := filepath.Glob(filepath.Join(tree, "boot/vmlinuz-*"))
	modules, _ := filepath.Glob(filepath.Join(tree, "lib/modules/*"))
	if len(images) != 1 || len(modules) != 1 {
		t.Fatalf("the kernel package has %v and %v", images, modules)
	}
	index, err := hardware.BuildIndex(os.DirFS(modules[0]))
	if err != nil {
		t.Fatal(err)
	}
	files, needs := map[string]string{}, map[string][]string{}
	for line := range strings.Lines(string(index)) {
		f := strings.Fields(line)
		switch f[0] {
		case "module":
			files[f[1]] = f[2]
		case "depends":
			needs[f[1]] = append(needs[f[1]], f[2:]...)
		case "softdep":
			needs[f[1]] = append(needs[f[1]], slices.DeleteFunc(f[2:], func(s string) bool { return strings.HasSuffix(s, ":") })...)
		}
	}
	var a archive
	for _, d := range []string{"dev", "proc", "sys", "run", "data", "sbin", "share", "lib", "lib/modules"} {
		a.add(d, 0o40755, nil)
	}
	into := "lib/modules/" + filepath.Base(modules[0])
	made := map[string]bool{}
	var folder func(p string)
	folder = func(p string) {
		if p == "lib/modules" || made[p] {
			return
		}
		folder(filepath.Dir(p))
		made[p] = true
		a.add(p, 0o40755, nil)
	}
	want := []string{"virtio_pci", "virtio_blk", "tpm_crb", "dm_mod", "dm_crypt", "ext4", "xts", "aesni_intel", "crc32c_generic"}
	for i := 0; i < len(want); i++ {
		p := files[want[i]]
		if p == "" {
			continue // part of the kernel itself
		}
		b, err := os.ReadFile(filepath.Join(modules[0], p))
		if err != nil {
			t.Fatal(err)
		}
		folder(filepath.Dir(into + "/" + p))
		a.add(into+"/"+p, 0o100644, b)
		for _, n := range needs[want[i]] {
			if !slices.Contains(want, n) {
				want = append(want, n)
			}
		}
	}
	// The whole index would name modules that are not there.
	var small strings.Builder
	head, _, _ := strings.Cut(string(index), "\n")
	small.WriteString(head + "\n")
	for line := range strings.Lines(string(index)) {
		f := strings.Fields(line)
		name := f[1]
		if f[0] == "alias" {
			name = f[len(f)-1]
		}
		if f[0] == "builtin" || slices.Contains(want, name) {
			small.WriteString(line)
		}
	}
	a.add(into+"/"+hardware.IndexName, 0o100644, []byte(small.String()))
	template := filepath.Join(dir, "ext4")
	run(t, dir, "truncate", "-s", fmt.Sprint(disk.TemplateSize), template)
	run(t, dir, "mke2fs", append(disk.TemplateOptions("6b1a58f3-5c1d-4e0b-9b0e-484f4c444641", "6b1a58f4-5c1d-4e0b-9b0e-484f4c444641"), template)...)
	b, err := os.ReadFile(template)
	if err != nil {
		t.Fatal(err)
	}
	z, _ := zstd.NewWriter(nil)
	a.add(strings.TrimPrefix(disk.Template, "/"), 0o100644, z.EncodeAll(b, nil))
	run(t, root, "go", "build", "-o", filepath.Join(dir, "guest"), "./test/image/disk/guest")
	if b, err = os.ReadFile(filepath.Join(dir, "guest")); err != nil {
		t.Fatal(err)
	}
	a.add("init", 0o100755, b)
	a.add("sbin/modprobe", 0o120777, []byte("/init"))
	a.add("TRAILER!!!", 0, nil)
	initrd = filepath.Join(dir, "initrd")
	if err := os.WriteFile(initrd, a.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return images[0], initrd
}

// lab is where machines are started.
type lab struct {
	t              *testing.T
	kernel, initrd string
	dir            string
	disk           string
	tpm            string // folder of the chip's state, "" for none
	readOnly       bool
}

// parts are made once for all tests.
var parts struct{ kernel, initrd string }

func newLab(t *testing.T) *lab {
	t.Helper()
	for _, p := range []string{"qemu-system-x86_64", "swtpm", "mke2fs", "e2fsck", "sfdisk", "dpkg-deb", "cryptsetup"} {
		if _, err := exec.LookPath(p); err != nil {
			missing(t, "needs %s: apt-get install qemu-system-x86 swtpm e2fsprogs fdisk cryptsetup-bin", p)
		}
	}
	if parts.initrd == "" {
		parts.kernel, parts.initrd = initramfs(t, kernel(t))
	}
	return &lab{t: t, dir: t.TempDir(), kernel: parts.kernel, initrd: parts.initrd}
}

// image makes a disk of size bytes onto which an image was written: an EFI system
// partition, and 64 MiB for the data with the marker in its first sector.
func (l *lab) image(name string, size int64) {
	l.t.Helper()
	l.disk = filepath.Join(l.dir, name)
	f, err := os.Create(l.disk)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(80 << 20); err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.Command("sfdisk", "-q", l.disk)
	cmd.Stdin = strings.NewReader("label: gpt\nstart=1MiB, size=8MiB, type=U, name=" + disk.ESPLabel + "\nstart=9MiB, size=64MiB, name=" + disk.DataLabel + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	if _, err := f.WriteAt([]byte(disk.Marker), 9<<20); err != nil {
		l.t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		l.t.Fatal(err)
	}
}

// machine is one that runs.
type machine struct {
	l       *lab
	in      io.Writer
	lines   chan string
	exited  chan struct{}
	console string
}

type answer struct {
	Err, Text  string
	Bytes      int64
	Protection disk.Protection
}

// patience is for a processor that is emulated, and busy with other things.
const patience = 4 * time.Minute

func (l *lab) start() *machine {
	l.t.Helper()
	m := &machine{l: l, lines: make(chan string, 10), exited: make(chan struct{}), console: filepath.Join(l.dir, "console")}
	args := []string{"-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max", "-smp", "2", "-m", "512", "-display", "none", "-nodefaults", "-no-reboot",
		"-kernel", l.kernel, "-initrd", l.initrd, "-append", "console=ttyS0 panic=-1 loglevel=4 lockdown=integrity module.sig_enforce=1",
		"-serial", "file:" + m.console, "-chardev", "stdio,id=talk,signal=off", "-serial", "chardev:talk",
		"-drive", fmt.Sprintf("if=virtio,format=raw,cache=unsafe,file=%s,readonly=%v", l.disk, map[bool]string{true: "on", false: "off"}[l.readOnly])}
	if l.tpm != "" {
		// The path of a socket must be short.
		run, err := os.MkdirTemp("", "tpm")
		if err != nil {
			l.t.Fatal(err)
		}
		l.t.Cleanup(func() { os.RemoveAll(run) })
		socket := filepath.Join(run, "s")
		chip := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+l.tpm, "--ctrl", "type=unixio,path="+socket, "--terminate")
		if err := chip.Start(); err != nil {
			l.t.Fatal(err)
		}
		l.t.Cleanup(func() { chip.Process.Kill(); chip.Wait() })
		for range 500 {
			if _, err := os.Stat(socket); err == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		args = append(args, "-chardev", "socket,id=tpm,path="+socket, "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0")
	}
	cmd := exec.Command("qemu-system-x86_64", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	m.in = in
	l.t.Cleanup(func() { cmd.Process.Kill(); <-m.exited })
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			m.lines <- s.Text()
		}
		close(m.lines)
		cmd.Wait()
		close(m.exited)
	}()
	if a := m.answer("start"); a.Text != "hello" {
		l.t.Fatalf("%+v\n%s", a, stderr.String())
	}
	return m
}

func (m *machine) answer(what string) (a answer) {
	m.l.t.Helper()
	for {
		select {
		case line, ok := <-m.lines:
			if !ok {
				m.fail("%s: the machine stopped", what)
			}
			if json.Unmarshal([]byte(line), &a) == nil {
				return a
			}
		case <-time.After(patience):
			m.fail("%s: no answer", what)
		}
	}
}

func (m *machine) fail(format string, args ...any) {
	m.l.t.Helper()
	b, _ := os.ReadFile(m.console)
	m.l.t.Fatalf(format+"\nconsole:\n%s", append(args, b)...)
}

// ask sends a command and expects an error of that name, "" for none.
func (m *machine) ask(want, format string, args ...any) answer {
	m.l.t.Helper()
	command := fmt.Sprintf(format, args...)
	begin := time.Now()
	if _, err := io.WriteString(m.in, command+"\n"); err != nil {
		m.fail("%s: %v", command, err)
	}
	a := m.answer(command)
	m.l.t.Logf("%s: %q %v", command, a.Text, time.Since(begin).Round(time.Millisecond))
	if a.Err != want {
		m.fail("%s gives %q (%s), not %q", command, a.Err, a.Text, want)
	}
	return a
}

func (m *machine) off() {
	m.l.t.Helper()
	m.ask("", "off")
	select {
	case <-m.exited:
	case <-time.After(patience):
		m.fail("the machine does not switch itself off")
	}
}

// partition copies what is written of the data partition into a file of its own.
func (l *lab) partition() string {
	l.t.Helper()
	var table struct {
		PartitionTable struct {
			Partitions []struct {
				Name        string
				Start, Size int64
			}
		}
	}
	if err := json.Unmarshal(run(l.t, "", "sfdisk", "-J", l.disk), &table); err != nil {
		l.t.Fatal(err)
	}
	if out := run(l.t, "", "sfdisk", "--verify", l.disk); !bytes.Contains(out, []byte("No errors")) {
		l.t.Fatalf("sfdisk: %s", out)
	}
	p := table.PartitionTable.Partitions[1]
	if p.Name != disk.DataLabel {
		l.t.Fatalf("%+v", p)
	}
	path := filepath.Join(l.dir, "partition")
	copySparse(l.t, path, l.disk, p.Start*512, p.Size*512, nil)
	return path
}

// copySparse copies those parts of a file that were written. change is called for
// each, with its place.
func copySparse(t *testing.T, to, from string, offset, size int64, change func(b []byte, at int64)) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := out.Truncate(size); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1<<20)
	for at := offset; at < offset+size; {
		data, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		data -= data % 4096
		hole, err := unix.Seek(int(in.Fd()), max(data, at), unix.SEEK_HOLE)
		if err != nil {
			t.Fatal(err)
		}
		for at = max(data, at); at < min(hole, offset+size); {
			n, err := in.ReadAt(b[:min(int64(len(b)), hole-at, offset+size-at)], at)
			if err != nil && err != io.EOF || n == 0 {
				t.Fatal(n, err)
			}
			if change != nil {
				change(b[:n], at-offset)
			}
			if _, err := out.WriteAt(b[:n], at-offset); err != nil {
				t.Fatal(err)
			}
			at += int64(n)
		}
	}
}

// judge opens the data partition with cryptsetup, decrypts it here, and has e2fsck
// look at the file system. It gives the file that the guest wrote.
func (l *lab) judge(pass string, file bool) string {
	l.t.Helper()
	part := l.partition()
	cmd := exec.Command("cryptsetup", "open", "--test-passphrase", "--key-file", "-", part)
	cmd.Stdin = strings.NewReader(pass)
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("cryptsetup: %v\n%s", err, out)
	}
	f, err := os.OpenFile(part, os.O_RDWR, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		l.t.Fatal(err)
	}
	h, err := luks.ReadOnly(f, st.Size())
	if err != nil {
		l.t.Fatal(err)
	}
	key, _, err := h.Open(f, []byte(pass))
	if err != nil {
		l.t.Fatal(err)
	}
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		l.t.Fatal(err)
	}
	offset, ss := h.Data()
	plain := filepath.Join(l.dir, "plain")
	copySparse(l.t, plain, part, offset, st.Size()-offset, func(b []byte, at int64) {
		for i := 0; i < len(b); i += ss {
			c.Decrypt(b[i:i+ss], b[i:i+ss], uint64(at+int64(i))/512)
		}
	})
	if out, err := exec.Command("e2fsck", "-fn", plain).CombinedOutput(); err != nil {
		l.t.Fatalf("e2fsck: %v\n%s", err, out)
	}
	if !file {
		return ""
	}
	out, err := exec.Command("debugfs", "-R", "cat /file", plain).Output()
	if err != nil {
		l.t.Fatal(err)
	}
	return string(out)
}

func near(got, want int64) bool { return got > want/100*96 && got <= want }

// Without a TPM chip: the first start, the recovery passphrase, a disk that grows,
// a disk that cannot be written.
func TestPassphrase(t *testing.T) {
	l := newLab(t)
	const gib = 1 << 30
	l.image("disk", 8*gib)
	m := l.start()
	m.ask("", "find")
	m.ask("", "prepare")
	m.ask("", "unlock")
	a := m.ask("", "mount")
	for _, want := range []string{"nodev", "nosuid", "noexec", "noatime", "commit=2", "errors=remount-ro"} {
		if !strings.Contains(a.Text, want) {
			t.Errorf("mounted without %s: %s", want, a.Text)
		}
	}
	if p := a.Protection; !near(a.Bytes, 8*gib) || !p.Clear || p.Encrypted || p.Passphrase || p.TPM || p.Device != "vda2" || !near(p.Bytes, 8*gib) {
		t.Fatalf("%+v", a)
	}
	m.ask("", "write before the passphrase")
	// The key is in dm-crypt, and not to be found otherwise.
	for line := range strings.Lines(m.ask("", "keys").Text) {
		if flags := strings.Fields(line)[1]; strings.Contains(line, "holdfast:") && !strings.Contains(flags, "R") {
			t.Errorf("the disk's key is still in the keyring: %s", line)
		}
	}
	m.off()

	// As nothing was confirmed, the next start asks nothing.
	m = l.start()
	m.ask("", "find")
	m.ask("", "prepare")
	m.ask("", "unlock")
	m.ask("", "mount")
	if a := m.ask("", "read"); a.Text != "before the passphrase" {
		t.Fatalf("%+v", a)
	}
	pass := m.ask("", "recovery").Text
	m.ask("", "confirm %s", strings.ToLower(pass))
	if p := m.ask("", "protection").Protection; p.Clear || !p.Encrypted || !p.Passphrase || p.Warning != "" {
		t.Fatalf("%+v", p)
	}
	if a := m.ask("tpm.ErrNone", "reseal"); a.Text == "" {
		t.Fatal(a)
	}
	m.ask("", "write with the passphrase")
	m.ask("", "unmount")
	m.off()
	if got := l.judge(pass, true); got != "with the passphrase" {
		t.Fatal(got)
	}

	// The disk is copied to a much larger one.
	const large = 300 * gib
	if err := os.Truncate(l.disk, large); err != nil {
		t.Fatal(err)
	}
	m = l.start()
	m.ask("", "find")
	m.ask("", "prepare")
	m.ask("ErrPassphrase", "unlock")
	m.ask("ErrWrongPassphrase", "unlockwith wrong")
	m.ask("ErrWrongPassphrase", "unlockwith %s", strings.Repeat("01234-", 6))
	m.ask("", "unlockwith %s", strings.ReplaceAll(pass, "-", " "))
	m.ask("", "mount")
	if a := m.ask("", "read"); a.Text != "with the passphrase" {
		t.Fatalf("%+v", a)
	}
	m.ask("", "fill 64")
	// A stop in the middle of its growing, and then to the end.
	m.ask("", "unmount")
	m.ask("", "unlockwith %s", pass)
	m.ask("", "mount")
	for end := time.Now().Add(patience); ; time.Sleep(time.Second) {
		if a := m.ask("", "size"); near(a.Bytes, large) && a.Protection.Warning == "" {
			break
		} else if time.Now().After(end) {
			t.Fatalf("the file system does not grow: %+v", a)
		}
	}
	m.ask("", "unmount")
	m.off()
	if got := l.judge(pass, true); got != "with the passphrase" {
		t.Fatal(got)
	}

	l.readOnly = true
	m = l.start()
	m.ask("", "find")
	m.ask("ErrReadOnly", "prepare")
	m.off()
}

// With a TPM chip: it opens the data, and does not after something else was
// measured; the recovery passphrase does, and the chip again after that.
func TestChip(t *testing.T) {
	l := newLab(t)
	l.image("disk", 200<<20)
	l.tpm = t.TempDir()
	m := l.start()
	m.ask("", "find")
	m.ask("", "prepare")
	m.ask("", "unlock")
	a := m.ask("", "mount")
	if p := a.Protection; !p.TPM || !p.Encrypted || p.Clear || p.Passphrase || !strings.Contains(p.Warning, "Only this machine's TPM chip") {
		t.Fatalf("%+v", p)
	}
	pass := m.ask("", "recovery").Text
	m.ask("", "confirm %s", pass)
	m.ask("", "write sealed")
	m.ask("", "unmount")
	m.off()
	if got := l.judge(pass, true); got != "sealed" {
		t.Fatal(got)
	}

	m = l.start()
	m.ask("", "find")
	m.ask("", "prepare")
	m.ask("", "unlock")
	m.ask("", "mount")
	if a := m.ask("", "read"); a.Text != "sealed" || !a.Protection.TPM || !a.Protection.Passphrase || !strings.Contains(a.Protection.Warning, "Secure Boot is off") {
		t.Fatalf("%+v", a)
	}
	m.ask("", "unmount")
	// Another start, as far as the chip sees it.
	m.ask("", "extend something else was loaded")
	if a := m.ask("ErrPassphrase", "unlock"); !strings.Contains(a.Text, "Secure Boot") {
		t.Fatalf("%+v", a)
	}
	m.ask("", "unlockwith %s", pass)
	m.ask("", "mount")
	m.ask("", "reseal")
	m.ask("", "unmount")
	m.ask("", "unlock")
	m.ask("", "unmount")
	m.off()

	// The start as it was before is another one now.
	m = l.start()
	m.ask("", "find")
	m.ask("", "prepare")
	m.ask("ErrPassphrase", "unlock")
	m.ask("", "unlockwith %s", pass)
	m.ask("", "mount")
	if a := m.ask("", "read"); a.Text != "sealed" {
		t.Fatalf("%+v", a)
	}
	m.off()
}
