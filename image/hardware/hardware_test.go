package hardware

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// ko is a kernel module with nothing in it but its information.
func ko(info ...string) []byte {
	data := []byte(strings.Join(info, "\x00") + "\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	const head, section = 64, 64
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	le := binary.LittleEndian
	put := func(v ...any) {
		for _, x := range v {
			binary.Write(&b, le, x)
		}
	}
	tables := uint64(head + len(data) + len(names))
	put(uint16(1), uint16(62), uint32(1), uint64(0), uint64(0), tables, uint32(0), uint16(head), uint16(0), uint16(0), uint16(section), uint16(3), uint16(2))
	b.Write(data)
	b.Write(names)
	put(make([]byte, section))
	put(uint32(1), uint32(1), uint64(0), uint64(0), uint64(head), uint64(len(data)), uint32(0), uint32(0), uint64(1), uint64(0))
	put(uint32(10), uint32(3), uint64(0), uint64(0), uint64(head+len(data)), uint64(len(names)), uint32(0), uint32(0), uint64(1), uint64(0))
	return b.Bytes()
}

func file(b []byte) *fstest.MapFile { return &fstest.MapFile{Data: b} }

func modules() fstest.MapFS {
	return fstest.MapFS{
		"kernel/net/e1000.ko":      file(ko("alias=pci:v00008086d0000100Esv*sd*bc*sc*i*", "depends=", "license=GPL")),
		"kernel/md/dm-mod.ko":      file(ko("alias=devname:mapper/control", "alias=char-major-10-236")),
		"kernel/md/dm-crypt.ko":    file(ko("depends=dm-mod,lib", "softdep=pre: crypto-xts post: extra")),
		"kernel/lib/lib.ko":        file(ko("license=GPL")),
		"kernel/lib/extra.ko":      file(ko("depends=dm-crypt")),
		"kernel/crypto/xts.ko":     file(ko("alias=crypto-xts", "softdep=pre: dm-crypt")),
		"kernel/fs/vfat.ko":        file(ko("alias=fs-vfat", "depends=fat")),
		"kernel/wifi/card.ko":      file(ko("alias=dmi*:svnMaker:pn[A-C]ox-1*", "firmware=card/card.bin")),
		"modules.builtin":          file([]byte("kernel/fs/fat/fat.ko\nkernel/drivers/rtc/rtc-cmos.ko\n")),
		"modules.builtin.modinfo":  file([]byte("rtc_cmos.alias=acpi*:PNP0B00:*\x00rtc_cmos.license=GPL\x00")),
		"kernel/notes-not-used.md": file([]byte("x")),
	}
}

func index(t *testing.T) *Index {
	t.Helper()
	b, err := BuildIndex(modules())
	if err != nil {
		t.Fatal(err)
	}
	again, err := BuildIndex(modules())
	if err != nil || !bytes.Equal(b, again) {
		t.Fatalf("built twice, the index differs: %v", err)
	}
	x, err := ReadIndex(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestIndex(t *testing.T) {
	x := index(t)
	for name, want := range map[string]string{
		"pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00": "e1000",
		"pci:v00008086d0000100Fsv00001AF4sd00001100bc02sc00i00": "",
		"fs-vfat":                 "vfat",
		"crypto-xts":              "xts",
		"char-major-10-236":       "dm_mod",
		"acpi:PNP0B00:":           "rtc_cmos",
		"dmi:svnMaker:pnBox-12:x": "card",
		"dmi:svnMaker:pnDox-12:x": "",
	} {
		if got := strings.Join(x.Match(name), ","); got != want {
			t.Errorf("Match(%s) = %q, want %q", name, got, want)
		}
	}
	if got := x.resolve("dm-crypt"); !slices.Equal(got, []string{"dm_crypt"}) {
		t.Errorf("a module's own name: %q", got)
	}
	if got := x.resolve("rtc-cmos"); !slices.Equal(got, []string{"rtc_cmos"}) || !x.Builtin("rtc-cmos") {
		t.Errorf("a module that the kernel holds: %q", got)
	}
	m := x.modules["dm_crypt"]
	if !slices.Equal(m.deps, []string{"dm_mod", "lib"}) || m.path != "kernel/md/dm-crypt.ko" || !slices.Equal(m.post, []string{"extra"}) {
		t.Errorf("dm_crypt: %+v", m)
	}
	// dm_crypt would like xts before it, and xts dm_crypt: one of the wishes is not kept.
	if n := len(m.pre) + len(x.modules["xts"].pre); n != 1 {
		t.Errorf("%d wishes of a circle are left, want 1", n)
	}
}

func TestBuildIndexRefuses(t *testing.T) {
	for name, change := range map[string]func(fstest.MapFS){
		"compressed": func(m fstest.MapFS) { m["kernel/a.ko.xz"] = file(nil) },
		"no ELF":     func(m fstest.MapFS) { m["kernel/a.ko"] = file([]byte("text")) },
		"needs":      func(m fstest.MapFS) { delete(m, "kernel/lib/lib.ko") },
		"twice":      func(m fstest.MapFS) { m["kernel/b/dm_mod.ko"] = file(ko("license=GPL")) },
		"no list":    func(m fstest.MapFS) { delete(m, "modules.builtin") },
	} {
		m := modules()
		change(m)
		if _, err := BuildIndex(m); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestReadIndexRefuses(t *testing.T) {
	for _, text := range []string{
		"", "something else\n", indexHead + "\nmodule\n", indexHead + "\nalias x\n", indexHead + "\nwhat is this\n",
		indexHead + "\nmodule a ../../../tmp/a.ko\n", indexHead + "\ndepends a b\n",
		indexHead + "\nmodule a a.ko\nmodule b b.ko\ndepends a b\ndepends b a\n",
	} {
		if _, err := ReadIndex(strings.NewReader(text)); !errors.Is(err, ErrIndex) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"*", "", true}, {"a*", "a", true}, {"a*b", "axxb", true}, {"a*b", "axxbc", false},
		{"*b*d", "abcd", true}, {"a?c", "abc", true}, {"a?c", "ac", false}, {"[0-9a]x", "5x", true}, {"[0-9a]x", "ax", true},
		{"[0-9a]x", "bx", false}, {"[x", "[x", true}, {"usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00", true},
	} {
		if got := matches(c.pattern, c.s); got != c.want {
			t.Errorf("matches(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

func TestEvent(t *testing.T) {
	for event, want := range map[string]string{
		"add@/devices/x\x00ACTION=add\x00DEVPATH=/devices/x\x00MODALIAS=usb:v1\x00": "usb:v1",
		"remove@/devices/x\x00ACTION=remove\x00MODALIAS=usb:v1\x00":                 "",
		"add@/devices/x\x00ACTION=add\x00":                                          "",
		"":                                                                          "",
	} {
		if got := addedDevice([]byte(event)); got != want {
			t.Errorf("%q: %q, want %q", event, got, want)
		}
	}
}

func TestScan(t *testing.T) {
	root := t.TempDir()
	sys := filepath.Join(root, "sys")
	put := func(name, text string) {
		p := filepath.Join(sys, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	nic := "bus/pci/devices/0000:00:03.0/"
	put(nic+"vendor", "0x8086")
	put(nic+"device", "0x100e")
	put(nic+"class", "0x020000")
	put(nic+"modalias", "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00")
	disk := "bus/pci/devices/0000:00:04.0/"
	put(disk+"vendor", "0x1b36")
	put(disk+"class", "0x010802")
	if err := os.Symlink("../../drivers/nvme", filepath.Join(sys, disk, "driver")); err != nil {
		t.Fatal(err)
	}
	put("bus/usb/devices/1-1/idVendor", "46f4")
	put("bus/usb/devices/1-1/idProduct", "0001")
	put("bus/usb/devices/1-1/product", "Stick\x1b[2J")
	put("bus/usb/devices/1-1:1.0/bInterfaceClass", "08")
	put("class/dmi/id/sys_vendor", "Maker")
	r := Scan(sys, index(t))
	if r.Machine != "Maker" || len(r.Devices) != 3 {
		t.Fatalf("%+v", r)
	}
	if d := r.Devices[0]; d.Class != "Ethernet card" || d.ID != "8086:100e" || !d.Missing() || !slices.Equal(d.Modules, []string{"e1000"}) {
		t.Errorf("network card: %+v", d)
	}
	if d := r.Devices[1]; d.Class != "NVMe disk" || d.Driver != "nvme" || d.Missing() {
		t.Errorf("disk: %+v", d)
	}
	if d := r.Devices[2]; d.Class != "disk or memory stick" || d.ID != "46f4:0001" || d.Name != "Stick[2J" {
		t.Errorf("stick: %+v", d)
	}
	if m := r.Missing(); len(m) != 2 {
		t.Errorf("missing: %+v", m)
	}
}
