package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"holdfast/image/disk"
	"holdfast/image/update"
	"holdfast/test/need"
)

// scattered is a disk with data at its begin, across chunks and in its last sector.
func scattered(t *testing.T, size int64) *sparse {
	t.Helper()
	d := newSparse(size)
	for _, w := range []struct {
		at   int64
		data []byte
	}{
		{0, bytes.Repeat([]byte("first"), 3000)},
		{chunkBytes - 10, bytes.Repeat([]byte{1, 2, 3}, 50_000)},
		{64<<20 + 512, bytes.Repeat([]byte("far"), 100)},
		{40 * chunkBytes, make([]byte, chunkBytes)}, // written, and zeros all the same
		{size - 512, bytes.Repeat([]byte{0xee}, 512)},
	} {
		if _, err := d.WriteAt(w.data, w.at); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func TestSparse(t *testing.T) {
	d := scattered(t, 70<<20+512)
	if _, err := d.WriteAt([]byte("x"), d.size); err == nil {
		t.Error("a write behind the end was taken")
	}
	all, err := io.ReadAll(d.reader())
	if err != nil || int64(len(all)) != d.size {
		t.Fatalf("%d bytes, %v", len(all), err)
	}
	if string(all[:10]) != "firstfirst" || string(all[64<<20+512:64<<20+518]) != "farfar" || all[len(all)-1] != 0xee {
		t.Error("it reads another content")
	}
	for _, i := range d.used() {
		if i == 40 {
			t.Error("zeros count as used")
		}
	}
}

// Other programs must read what is written as the same disk.
func TestFormats(t *testing.T) {
	d := scattered(t, 5<<30)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, write := range map[string]func(f *os.File) error{
		"disk.raw":   func(f *os.File) error { return writeRaw(f, d) },
		"disk.qcow2": func(f *os.File) error { return writeQCOW2(f, d) },
		"disk.vmdk":  func(f *os.File) error { return writeVMDK(f, d, "disk.vmdk") },
	} {
		if err := create(path(name), write); err != nil {
			t.Fatal(err)
		}
		first, err := os.ReadFile(path(name))
		if name != "disk.raw" {
			if err != nil {
				t.Fatal(err)
			}
			if err := create(path(name), write); err != nil {
				t.Fatal(err)
			}
			if again, _ := os.ReadFile(path(name)); !bytes.Equal(first, again) {
				t.Errorf("%s: the second one differs", name)
			}
			if len(first) > 2<<20 {
				t.Errorf("%s has %d bytes", name, len(first))
			}
		}
	}
	qemu := need.Program(t, "qemu-img", "qemu-utils")
	for _, format := range []string{"qcow2", "vmdk"} {
		out, err := exec.Command(qemu, "compare", "-f", "raw", "-F", format, path("disk.raw"), path("disk."+format)).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "identical") {
			t.Errorf("%s: %v\n%s", format, err, out)
		}
		if out, err := exec.Command(qemu, "check", "-f", format, path("disk."+format)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", format, err, out)
		}
	}
}

func TestZstd(t *testing.T) {
	d := scattered(t, 70<<20)
	var b bytes.Buffer
	if err := writeZstd(&b, d); err != nil {
		t.Fatal(err)
	}
	r, err := zstd.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	want, _ := io.ReadAll(d.reader())
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestOVF(t *testing.T) {
	b := ovf("1.2.3", `a&b.vmdk`, 12345, vmBytes)
	var e struct {
		References struct {
			File struct {
				Href string `xml:"href,attr"`
				Size int64  `xml:"size,attr"`
			}
		}
		VirtualSystem struct {
			VirtualHardwareSection struct {
				Item   []struct{ ResourceType int }
				Config struct {
					Key   string `xml:"key,attr"`
					Value string `xml:"value,attr"`
				}
			}
		}
	}
	if err := xml.Unmarshal(b, &e); err != nil {
		t.Fatal(err)
	}
	hw := e.VirtualSystem.VirtualHardwareSection
	if e.References.File.Href != "a&b.vmdk" || e.References.File.Size != 12345 || len(hw.Item) != 5 || hw.Config.Key != "firmware" || hw.Config.Value != "efi" {
		t.Errorf("%+v", e)
	}
}

func TestKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if err := makeKeys(dir, false); err != nil {
		t.Fatal(err)
	}
	if err := makeKeys(dir, false); !errors.Is(err, os.ErrExist) {
		t.Errorf("keys were written over: %v", err)
	}
	k, err := openKeys(options{keys: dir, secure: true})
	if err != nil {
		t.Fatal(err)
	}
	if k.test || bytes.Contains(k.updatePub(), []byte("development")) {
		t.Error("keys of a folder count as those for development")
	}
	files, err := k.enrolment(when)
	if err != nil || len(files) != 6 {
		t.Errorf("%d files, %v", len(files), err)
	}
	again, _ := k.enrolment(when)
	for i := range files {
		if !bytes.Equal(files[i].data, again[i].data) {
			t.Errorf("%s is not the same twice", files[i].name)
		}
	}

	// Who has the public key alone can build, but signs nothing.
	if err := os.Remove(filepath.Join(dir, updateKey)); err != nil {
		t.Fatal(err)
	}
	if k, err = openKeys(options{keys: dir}); err != nil || k.signer != nil {
		t.Errorf("without the private key: %v", err)
	}

	// A key that does not belong to the public one is noticed.
	other := filepath.Join(t.TempDir(), "other")
	if err := makeKeys(other, false); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(other, updateKey))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, updateKey), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = openKeys(options{keys: dir}); err == nil || !strings.Contains(err.Error(), "does not belong") {
		t.Errorf("a key of others: %v", err)
	}
	for _, name := range []string{"db.key", "db.crt"} {
		b, err := os.ReadFile(filepath.Join(other, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "db.key" {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err = readSecure(dir, "db"); err == nil || !strings.Contains(err.Error(), "does not belong") {
		t.Errorf("a certificate of others: %v", err)
	}
}

func TestBundle(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	k := &keys{signer: private, public: []ed25519.PublicKey{public}}
	o := options{version: "1.2.3", created: when, notes: "news"}
	efi := bytes.Repeat([]byte("image"), 1000)
	bundle, head, err := makeBundle(o, "amd64", efi, k)
	if err != nil {
		t.Fatal(err)
	}
	b, err := update.Open(bytes.NewReader(bundle), k.public)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, efi) || b.Version != "1.2.3" || b.Schema == 0 || b.Notes != "news" || !b.Created.Equal(when) {
		t.Errorf("%+v, %d bytes, %v", b.Manifest, len(got), err)
	}
	if !bytes.Equal(append(head, efi...), bundle) {
		t.Error("the head and the image are not the bundle")
	}
}

// What is published is what its checksums say, and who has the public key can tell.
func TestPublication(t *testing.T) {
	dir := t.TempDir()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable() // any Go program names its modules
	if err != nil {
		t.Fatal(err)
	}
	o := options{version: "1.2.3", created: when, out: dir, archs: []string{"amd64"}, binaries: program, lists: "../../NOTICES.txt"}
	p := &publication{o: o, keys: &keys{signer: private, public: []ed25519.PublicKey{public}}}
	if err := p.text("a", "abc"); err != nil {
		t.Fatal(err)
	}
	p.unsigned("amd64", "holdfast", []byte("abc"))
	if err := p.finish(); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	sums := read("SHA256SUMS")
	if !ed25519.Verify(public, sums, read("SHA256SUMS.sig")) {
		t.Error("the signature is wrong")
	}
	if sum := "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; !bytes.Contains(sums, []byte(sum+"  a\n")) || !bytes.Contains(read("UNSIGNED.sha256"), []byte(sum)) {
		t.Errorf("checksums:\n%s", sums)
	}
	list := string(read("holdfast-1.2.3.sources.txt"))
	if !strings.Contains(list, "\n  linux 6.") || !strings.Contains(list, "\n  systemd ") || strings.Contains(list, "u-boot") ||
		!strings.Contains(list, "https://snapshot.debian.org/package/linux/6.") || !regexp.MustCompile(`(?m)^    [0-9a-f]{64}  linux_\S+\.orig\.tar\.xz$`).MatchString(list) {
		t.Errorf("sources:\n%s", list)
	}

	var doc struct {
		SPDXVersion   string
		Packages      []struct{ SPDXID, Name, VersionInfo, LicenseDeclared string }
		Relationships []struct{ SpdxElementID, RelatedSpdxElement string }
	}
	if err := json.Unmarshal(read("holdfast-1.2.3.spdx.json"), &doc); err != nil {
		t.Fatal(err)
	}
	ids, names := map[string]bool{"SPDXRef-DOCUMENT": true}, map[string]string{}
	for _, q := range doc.Packages {
		if ids[q.SPDXID] {
			t.Errorf("%s is there twice", q.SPDXID)
		}
		ids[q.SPDXID], names[q.Name] = true, q.LicenseDeclared
	}
	for _, r := range doc.Relationships {
		if !ids[r.SpdxElementID] || !ids[r.RelatedSpdxElement] {
			t.Errorf("%v names what is not there", r)
		}
	}
	for name, licence := range map[string]string{
		"holdfast": "EUPL-1.2", "react": "MIT", "@element-hq/element-call-embedded": "AGPL-3.0-only",
		"systemd-boot-efi": "LGPL-2.1-or-later", "github.com/klauspost/compress": "",
	} {
		if got, ok := names[name]; !ok || licence != "" && got != licence {
			t.Errorf("%s: %q (there: %v)", name, got, ok)
		}
	}
}

func TestModulesOfNoKernel(t *testing.T) {
	_, err := choose(map[string]string{"ext4": "kernel/fs/ext4/ext4.ko"}, "amd64")
	if err == nil || !strings.Contains(err.Error(), "is no module of this kernel") {
		t.Errorf("a list that names what is not there: %v", err)
	}
}

// The template is a whole file system, and the same each time.
func TestExt4Template(t *testing.T) {
	need.Program(t, "mke2fs", "e2fsprogs")
	o := options{created: when}
	a, err := ext4Template(t.Context(), o, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ext4Template(t.Context(), o, t.TempDir())
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("the second one differs (%v)", err)
	}
	if len(a) > 100_000 {
		t.Errorf("it has %d bytes", len(a))
	}
	r, err := zstd.NewReader(bytes.NewReader(a))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	img, err := io.ReadAll(r)
	if err != nil || int64(len(img)) != disk.TemplateSize {
		t.Fatalf("%d bytes, %v", len(img), err)
	}
	name := filepath.Join(t.TempDir(), "ext4")
	if err := os.WriteFile(name, img, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(need.Program(t, "e2fsck", "e2fsprogs"), "-fn", name).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}
