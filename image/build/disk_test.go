package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"holdfast/test/need"
)

var when = time.Date(2026, 3, 4, 5, 6, 8, 0, time.UTC)

// fatReader reads FAT32 the way the specification tells it, knowing nothing of the
// writer.
type fatReader struct {
	t     *testing.T
	b     []byte
	fat   []byte
	data  int
	cells int // bytes of a cluster
}

func readFAT(t *testing.T, b []byte) *fatReader {
	le := binary.LittleEndian
	if le.Uint16(b[510:]) != 0xaa55 || le.Uint16(b[11:]) != 512 || string(b[82:90]) != "FAT32   " {
		t.Fatal("this is no FAT32 boot sector")
	}
	if !bytes.Equal(b[:512], b[6*512:7*512]) {
		t.Error("the copy of the boot sector differs")
	}
	reserved, copies, size := int(le.Uint16(b[14:]))*512, int(b[16]), int(le.Uint32(b[36:]))*512
	first, second := b[reserved:reserved+size], b[reserved+size:reserved+2*size]
	if copies != 2 || !bytes.Equal(first, second) {
		t.Error("the tables differ")
	}
	return &fatReader{t, b, first, reserved + copies*size, int(b[13]) * 512}
}

func (r *fatReader) chain(c uint32) (out []byte) {
	for n := 0; c < 0x0ffffff8; n++ {
		if c < 2 || n > len(r.fat)/4 {
			r.t.Fatalf("the chain leads to cluster %d", c)
		}
		at := r.data + int(c-2)*r.cells
		out = append(out, r.b[at:at+r.cells]...)
		c = binary.LittleEndian.Uint32(r.fat[4*c:]) & 0x0fffffff
	}
	return out
}

func (r *fatReader) walk(cluster uint32, at string, out map[string][]byte) {
	le := binary.LittleEndian
	var long []uint16
	var sum byte
	b := r.chain(cluster)
	for ; len(b) > 0 && b[0] != 0; b = b[32:] {
		if b[11] == 0x0f {
			var part []uint16
			for _, p := range [][2]int{{1, 11}, {14, 26}, {28, 32}} {
				for i := p[0]; i < p[1]; i += 2 {
					if c := le.Uint16(b[i:]); c != 0 && c != 0xffff {
						part = append(part, c)
					}
				}
			}
			long, sum = append(part, long...), b[13]
			continue
		}
		if b[11]&0x08 != 0 || b[0] == '.' {
			long = nil
			continue
		}
		var want byte
		for i := range 11 {
			want = (want>>1 | want<<7) + b[i]
		}
		if want != sum {
			r.t.Errorf("%q has another checksum than its long name", b[:11])
		}
		name := at + string(utf16.Decode(long))
		long = nil
		if le.Uint16(b[24:]) != 46<<9|3<<5|4 || le.Uint16(b[22:]) != 5<<11|6<<5|4 {
			r.t.Errorf("%s has another time", name)
		}
		first := uint32(le.Uint16(b[20:]))<<16 | uint32(le.Uint16(b[26:]))
		if b[11]&0x10 != 0 {
			r.walk(first, name+"/", out)
			continue
		}
		size := le.Uint32(b[28:])
		if size == 0 {
			out[name] = nil
			continue
		}
		out[name] = r.chain(first)[:size]
	}
}

func TestFAT(t *testing.T) {
	files := []file{
		{"EFI/BOOT/BOOTX64.EFI", bytes.Repeat([]byte("boot"), 5000)},
		{"EFI/Linux/holdfast_0.0.154-g7046365.efi", bytes.Repeat([]byte("a longer one. "), 100_000)},
		{"EFI/Linux/holdfast_0.0.155-g7046366.efi", []byte("x")},
		{"loader/loader.conf", []byte("timeout 0\n")},
		{"empty", nil},
		{"Schlüssel und Schloß.txt", []byte("ü")},
	}
	for i := range 200 { // a folder of more than one cluster
		files = append(files, file{fmt.Sprintf("many/a name that needs entries %d.txt", i), fmt.Append(nil, i)})
	}
	const size = 300 << 20
	disk := filepath.Join(t.TempDir(), "esp")
	f, err := os.Create(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := writeFAT(f, 0, size, 2048, "HOLDFAST", files, when); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	have := map[string][]byte{}
	readFAT(t, b).walk(2, "", have)
	if len(have) != len(files) {
		t.Errorf("%d files are there, %d were written", len(have), len(files))
	}
	for _, w := range files {
		if got, ok := have[w.name]; !ok || !bytes.Equal(got, w.data) {
			t.Errorf("%s has %d bytes, not the %d that were written (there: %v)", w.name, len(got), len(w.data), ok)
		}
	}
	fsck := need.Program(t, "fsck.fat", "dosfstools")
	if out, err := exec.Command(fsck, "-n", disk).CombinedOutput(); err != nil {
		t.Errorf("fsck.fat: %v\n%s", err, out)
	}
}

func TestFATRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		size  int64
		files []file
	}{
		{"too small", 20 << 20, nil},
		{"full", 300 << 20, []file{{"a", make([]byte, 301<<20)}}},
		{"twice", 300 << 20, []file{{"a/b", nil}, {"A/B", nil}}},
		{"file as folder", 300 << 20, []file{{"a", nil}, {"a/b", nil}}},
		{"letter", 300 << 20, []file{{"a:b", nil}}},
	} {
		if err := writeFAT(discard{}, 0, c.size, 0, "X", c.files, when); err == nil {
			t.Errorf("%s: there was no error", c.name)
		}
	}
}

type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// memory is a disk in memory.
type memory []byte

func (m memory) WriteAt(p []byte, at int64) (int, error) {
	if int(at)+len(p) > len(m) {
		return 0, io.ErrShortWrite
	}
	return copy(m[at:], p), nil
}

func TestGPT(t *testing.T) {
	const sectors = 20000
	disk := make(memory, sectors*sectorBytes)
	parts := []partition{
		{typeESP, espID, "holdfast-esp", 2048, 10000},
		{typeLUKS, dataID, "holdfast-data", 12048, 4096},
	}
	if err := writeGPT(disk, sectors, diskID, parts, parts[:1]); err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	for _, at := range []uint64{1, sectors - 1} {
		h := bytes.Clone(disk[at*512:][:92])
		if string(h[:8]) != "EFI PART" || le.Uint64(h[24:]) != at || le.Uint64(h[32:]) != sectors-at {
			t.Fatalf("sector %d is not a header that knows where it and the other are", at)
		}
		sum := le.Uint32(h[16:])
		le.PutUint32(h[16:], 0)
		if crc32.ChecksumIEEE(h) != sum {
			t.Errorf("sector %d: the header's checksum is wrong", at)
		}
		table := disk[le.Uint64(h[72:])*512:][:128*128]
		if crc32.ChecksumIEEE(table) != le.Uint32(h[88:]) {
			t.Errorf("sector %d: the table's checksum is wrong", at)
		}
		// C12A7328-F81F-11D2-BA4B-00A0C93EC93B as the specification prints its bytes.
		if want := "\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b"; string(table[:16]) != want {
			t.Errorf("the type is %x", table[:16])
		}
		if a, b := le.Uint64(table[128+32:]), le.Uint64(table[128+40:]); a != 12048 || b != 16143 {
			t.Errorf("the second partition goes from %d to %d", a, b)
		}
	}
	if disk[510] != 0x55 || disk[446+4] != 0x0c || disk[462+4] != 0xee {
		t.Errorf("the master boot record is % x", disk[446:512])
	}
	sfdisk := need.Program(t, "sfdisk", "fdisk")
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(sfdisk, "-V", name).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No errors detected") {
		t.Errorf("sfdisk: %v\n%s", err, out)
	}
}

func TestCPIO(t *testing.T) {
	cpio := need.Program(t, "cpio", "cpio")
	root := rootFS{}
	root.file("init", []byte("program"), 0o555)
	root.file("lib/modules/x/a.ko", make([]byte, 1001), 0o444)
	root.link("sbin/modprobe", "/init")
	root.folder("proc", 0o755)
	archive := root.cpio()
	dir := t.TempDir()
	cmd := exec.Command(cpio, "-idm", "--no-absolute-filenames")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "init")); string(b) != "program" {
		t.Errorf("init is %q, %v", b, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "lib/modules/x/a.ko")); err != nil || info.Size() != 1001 || info.Mode() != 0o444 {
		t.Errorf("the module: %v, %v", info, err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "sbin/modprobe")); to != "/init" {
		t.Errorf("modprobe leads to %q, %v", to, err)
	}
	if !bytes.Equal(archive, root.cpio()) {
		t.Error("the second archive differs")
	}
}

func TestSources(t *testing.T) {
	deb822 := `# a remark
Types: deb deb-src
URIs: http://a.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main
Signed-By: /k.gpg

Types: deb
URIs: http://b.example/other
Suites: nodistro
Components: main

Enabled: no
Types: deb
URIs: http://c.example/debian
Suites: bookworm
Components: main
`
	want := `Types: deb
URIs: http://a.example/debian
Suites: bookworm bookworm-updates
Components: main non-free-firmware
Architectures: amd64 arm64
Signed-By: /k.gpg

`
	if got := debianSources(deb822); got != want {
		t.Errorf("deb822:\n%s", got)
	}
	lines := "deb [arch=amd64 signed-by=/k.gpg] http://a.example/debian bookworm main contrib\n# deb http://b.example bookworm main\ndeb http://d.example stable main\n"
	want = strings.Replace(want, "bookworm bookworm-updates", "bookworm", 1)
	if got := debianSources(lines); got != want {
		t.Errorf("lines:\n%s", got)
	}
}

func TestPinCheck(t *testing.T) {
	name := filepath.Join(t.TempDir(), "p.deb")
	if err := os.WriteFile(name, []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := pin{Name: "p", SHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"} // of "abc"
	if err := p.check(name); err == nil || !strings.Contains(err.Error(), "pinned") {
		t.Errorf("a changed package: %v", err)
	}
	if err := os.WriteFile(name, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.check(name); err != nil {
		t.Error(err)
	}
	if err := p.check(name + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
