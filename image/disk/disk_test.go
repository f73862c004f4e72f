package disk

import (
	"bytes"
	"context"
	"crypto/aes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/crypto/xts"

	"holdfast/appliance/tpm"
	"holdfast/appliance/tpm/tpmtest"
	"holdfast/image/disk/disktest"
	"holdfast/image/disk/gpt"
	"holdfast/image/disk/luks"
	"holdfast/image/disk/mapper"
)

var (
	ctx   = context.Background()
	quiet = slog.New(slog.NewTextHandler(io.Discard, nil))
)

// ram is a disk in memory as this package sees it.
type ram struct {
	*disktest.Disk
	locked bool
}

func (r ram) size() int64                    { return r.Bytes }
func (r ram) sectorSize() int                { return 512 }
func (r ram) readOnly() bool                 { return r.locked }
func (r ram) resize(int, int64, int64) error { return nil }
func (r ram) Close() error                   { return nil }

// decrypted does what the kernel's dm-crypt does.
type decrypted struct {
	section
	c *xts.Cipher
	mapper.Crypt
}

func (d decrypted) size() int64                    { return d.Crypt.Size }
func (d decrypted) sectorSize() int                { return d.SectorSize }
func (d decrypted) readOnly() bool                 { return false }
func (d decrypted) resize(int, int64, int64) error { return nil }
func (d decrypted) Close() error                   { return nil }

func (d decrypted) each(p []byte, at int64, f func(part []byte, n uint64)) {
	for i := 0; i < len(p); i += d.SectorSize {
		f(p[i:i+d.SectorSize], uint64(at+int64(i))/512)
	}
}

func (d decrypted) WriteAt(p []byte, at int64) (int, error) {
	b := bytes.Clone(p)
	d.each(b, at, func(part []byte, n uint64) { d.c.Encrypt(part, part, n) })
	return d.section.WriteAt(b, d.Offset+at)
}

func (d decrypted) ReadAt(p []byte, at int64) (int, error) {
	from := at - at%int64(d.SectorSize)
	b := make([]byte, (at+int64(len(p))-from+int64(d.SectorSize)-1)/int64(d.SectorSize)*int64(d.SectorSize))
	if _, err := d.section.ReadAt(b, d.Offset+from); err != nil {
		return 0, err
	}
	d.each(b, from, func(part []byte, n uint64) { d.c.Decrypt(part, part, n) })
	return copy(p, b[at-from:]), nil
}

// machine is a computer with disks in memory.
type machine struct {
	t     testing.TB
	root  string
	disks map[string]*disktest.Disk
	chip  func() (*tpm.TPM, error)
	host  host
}

func newMachine(t testing.TB) *machine {
	m := &machine{t: t, root: t.TempDir(), disks: map[string]*disktest.Disk{},
		chip: func() (*tpm.TPM, error) { return nil, tpm.ErrNone }}
	var view decrypted
	m.host = host{
		sys: filepath.Join(m.root, "sys"), dev: "/dev", vars: filepath.Join(m.root, "vars"),
		open: func(path string) (device, error) {
			if path == "/dev/view" {
				return view, nil
			}
			d, ok := m.disks[filepath.Base(path)]
			if !ok {
				return nil, os.ErrNotExist
			}
			return ram{d, d.Locked}, nil
		},
		view: func(name, uuid string, c mapper.Crypt) (string, error) {
			d := m.disks[strings.TrimRight(filepath.Base(c.Device), "0123456789")]
			tab, err := gpt.Read(d, 512, d.Bytes)
			if err != nil {
				return "", err
			}
			p, err := tab.Find(DataLabel)
			if err != nil {
				return "", err
			}
			x, err := xts.NewCipher(aes.NewCipher, bytes.Clone(c.Key))
			view = decrypted{section{ram{d, false}, int64(p.First) * 512, int64(p.Last-p.First+1) * 512}, x, c}
			return "/dev/view", err
		},
		unview: func(string) error { view = decrypted{}; return nil },
		tpm:    func() (*tpm.TPM, error) { return m.chip() },
		guess:  20 * time.Millisecond,
	}
	return m
}

func (m *machine) file(path, content string) {
	m.t.Helper()
	path = filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) plug(name string, d *disktest.Disk) {
	m.disks[name] = d
	m.file("sys/class/block/"+name+"/size", "1000\n")
	m.file("sys/class/block/"+name+"/"+name+"2/partition", "2\n")
	m.file("sys/class/block/"+name+"2/partition", "2\n")
}

// loader says which partition the boot loader was read from.
func (m *machine) loader(id string) {
	b := []byte{6, 0, 0, 0}
	for _, c := range utf16.Encode([]rune(id + "\x00")) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	m.file("vars/LoaderDevicePartUUID-"+loaderVendor, string(b))
}

// disk gives the machine's first disk without looking for it.
func (m *machine) disk() *Disk {
	d := m.host.look("sda", gpt.GUID{})
	if d == nil {
		m.t.Fatal("the disk is not recognised")
	}
	d.start(m.host, quiet)
	d.Template = filepath.Join(m.root, "template")
	return d
}

const imageSize = 80 << 20

var template = bytes.Repeat([]byte("a file system that is quite empty, made by somebody else\n...."), 70000)[:4<<20]

// shipped is a disk of size bytes onto which the image was written, with a fresh
// data partition.
func (m *machine) shipped(size int64) *disktest.Disk {
	m.t.Helper()
	if _, err := os.Stat(filepath.Join(m.root, "template")); err != nil {
		z, _ := zstd.NewWriter(nil)
		m.file("template", string(z.EncodeAll(template, nil)))
		// As an ext4 has it, as far as it is looked at before mounting.
	}
	d := disktest.New(size)
	const mib = 2048
	entries := make([]byte, 128*128)
	for i, p := range []struct {
		name        string
		first, last uint64
	}{{ESPLabel, mib, 10*mib - 1}, {DataLabel, 10 * mib, 74*mib - 1}} {
		e := entries[i*128:]
		e[0], e[16] = byte(i+1), byte(i+1)
		binary.LittleEndian.PutUint64(e[32:], p.first)
		binary.LittleEndian.PutUint64(e[40:], p.last)
		for j, c := range p.name {
			e[56+2*j] = byte(c)
		}
	}
	writeTable(m.t, d, entries, imageSize/512)
	marker := make([]byte, 512)
	copy(marker, Marker)
	d.WriteAt(marker, 10<<20)
	// What was on the disk before the image was written to it.
	d.WriteAt(bytes.Repeat([]byte("old data"), 64), 12<<20)
	d.WriteAt(bytes.Repeat([]byte("old data"), 64), 40<<20)
	return d
}

// boot starts the machine as image/boot does, and gives the view.
func boot(d *Disk, pass string) error {
	if err := d.Prepare(ctx); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	err := d.Unlock(ctx)
	if errors.Is(err, ErrPassphrase) && pass != "" {
		err = d.UnlockWith(ctx, pass)
	}
	if err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fill()
}

func (m *machine) view() device {
	v, err := m.host.open("/dev/view")
	if err != nil {
		m.t.Fatal(err)
	}
	return v
}

const canaryAt = 24 << 20

var canary = bytes.Repeat([]byte("what people wrote"), 512)[:4096]

// writeData is the appliance at work.
func (m *machine) writeData() {
	v := m.view()
	if _, err := v.WriteAt(canary, canaryAt); err != nil {
		m.t.Fatal(err)
	}
	v.Sync()
}

func (m *machine) hasData() bool {
	b := make([]byte, len(canary))
	m.view().ReadAt(b, canaryAt)
	return bytes.Equal(b, canary)
}

func (m *machine) hasTemplate() bool {
	b := make([]byte, len(template))
	m.view().ReadAt(b, 0)
	return bytes.Equal(b, template)
}

func TestFirstStart(t *testing.T) {
	m := newMachine(t)
	m.plug("sda", m.shipped(200<<20))
	d := m.disk()
	if err := d.Unlock(ctx); !errors.Is(err, ErrNotPrepared) {
		t.Fatal(err)
	}
	if err := boot(d, ""); err != nil {
		t.Fatal(err)
	}
	if !m.hasTemplate() {
		t.Fatal("no file system")
	}
	p := d.Protection()
	if !p.Clear || p.Encrypted || p.TPM || p.Passphrase || p.Device != "sda2" || p.Bytes < 180<<20 || !strings.Contains(p.Warning, "not protected") {
		t.Fatalf("%+v", p)
	}
	if d.ESP() != "/dev/sda1" {
		t.Fatal(d.ESP())
	}
	m.writeData()
	// The next start, on a disk that has grown, changes nothing of the data.
	m.disks["sda"].Bytes = 300 << 20
	d = m.disk()
	if err := boot(d, ""); err != nil || !m.hasData() || !m.hasTemplate() {
		t.Fatal(err)
	}
	if p := d.Protection(); p.Bytes < 280<<20 {
		t.Fatalf("%+v", p)
	}
	if err := d.Unmount(); err != nil || d.key != nil {
		t.Fatal(err)
	}
}

func TestRecovery(t *testing.T) {
	m := newMachine(t)
	m.plug("sda", m.shipped(100<<20))
	d := m.disk()
	if _, err := d.NewRecovery(); !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
	if err := d.ConfirmRecovery(ctx, "x"); !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
	if err := boot(d, ""); err != nil {
		t.Fatal(err)
	}
	m.writeData()
	if err := d.ConfirmRecovery(ctx, "x"); !errors.Is(err, ErrNoRecovery) {
		t.Fatal(err)
	}
	plain := clearPass(t, d)
	if !m.disks["sda"].Contains([]byte(plain)) {
		t.Fatal("the test does not see the passphrase of the slot without protection")
	}
	pass, err := d.NewRecovery()
	if err != nil {
		t.Fatal(err)
	}
	for typed, part := range map[string]string{"": "and this has 0", pass[1:]: "29", other(pass, 14): "group 3", pass + "A": "31", "Y" + pass[1:]: "no Y"} {
		if err := d.ConfirmRecovery(ctx, typed); !errors.Is(err, ErrNotTheSame) || !strings.Contains(err.Error(), part) {
			t.Fatal(typed, err)
		}
	}
	if p := d.Protection(); !p.Clear || p.Passphrase {
		t.Fatalf("%+v", p)
	}
	if err := d.ConfirmRecovery(ctx, strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(pass, "-", " "), "0", "o"))); err != nil {
		t.Fatal(err)
	}
	if p := d.Protection(); p.Clear || !p.Passphrase || !p.Encrypted || p.TPM || p.Warning != "" {
		t.Fatalf("%+v", p)
	}
	if m.disks["sda"].Contains([]byte(plain)) {
		t.Fatal("the passphrase of the slot without protection is still on the disk")
	}
	if err := d.ConfirmRecovery(ctx, pass); !errors.Is(err, ErrNoRecovery) {
		t.Fatal(err)
	}
	d = m.disk()
	if err := boot(d, ""); !errors.Is(err, ErrPassphrase) {
		t.Fatal(err)
	}
	for typed, want := range map[string]string{"": "30 letters", other(pass, 0): "", pass[2:]: "has 28"} {
		if err := d.UnlockWith(ctx, typed); !errors.Is(err, ErrWrongPassphrase) || !strings.Contains(err.Error(), want) {
			t.Fatal(typed, err)
		}
	}
	if err := boot(d, strings.ReplaceAll(pass, "-", "")); err != nil || !m.hasData() {
		t.Fatal(err)
	}
	// Another passphrase takes its place.
	second, err := d.NewRecovery()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.ConfirmRecovery(ctx, second); err != nil {
		t.Fatal(err)
	}
	d = m.disk()
	if err := boot(d, pass); !errors.Is(err, ErrWrongPassphrase) {
		t.Fatal(err)
	}
	if err := boot(d, second); err != nil || !m.hasData() {
		t.Fatal(err)
	}
}

// other is the passphrase with another sign at i.
func other(pass string, i int) string {
	c := byte('A')
	if pass[i] == c {
		c = 'B'
	}
	return pass[:i] + string(c) + pass[i+1:]
}

func clearPass(t testing.TB, d *Disk) (pass string) {
	for _, tok := range d.header.Tokens(clearToken) {
		tok.Field("passphrase", &pass)
	}
	if pass == "" {
		t.Fatal("no slot without protection")
	}
	return pass
}

// Wherever the power goes during the first start, the next one gets to its end.
func TestCutFirstStart(t *testing.T) {
	m := newMachine(t)
	d := m.shipped(100 << 20)
	m.plug("sda", d)
	d.Record()
	if err := boot(m.disk(), ""); err != nil {
		t.Fatal(err)
	}
	m.checkCuts(d, func(name string) {
		if err := boot(m.disk(), ""); err != nil || !m.hasTemplate() {
			t.Fatalf("%s: %v", name, err)
		}
	})
}

// checkCuts starts the machine from every disk that a cut leaves, and from some
// that a second cut during that start leaves.
func (m *machine) checkCuts(d *disktest.Disk, check func(name string)) {
	m.t.Helper()
	n := 0
	r := rand.New(rand.NewPCG(3, 4))
	for name, c := range d.Cuts(1) {
		n++
		m.disks["sda"] = c
		twice := n%5 == 0
		if twice {
			c.Record()
		}
		check(name)
		if twice {
			second, again := c.Cut(r)
			m.disks["sda"] = again
			check(name + ", and then " + second)
		}
	}
	if n < 30 {
		m.t.Fatalf("only %d cuts", n)
	}
	m.t.Logf("%d cuts", n)
}

// A partition that grows keeps its data wherever the power goes.
func TestCutGrow(t *testing.T) {
	m := newMachine(t)
	d := m.shipped(100 << 20)
	m.plug("sda", d)
	if err := boot(m.disk(), ""); err != nil {
		t.Fatal(err)
	}
	m.writeData()
	d.Bytes = 200 << 20
	d.Record()
	if err := m.disk().Prepare(ctx); err != nil {
		t.Fatal(err)
	}
	n := 0
	for name, c := range d.Cuts(1) {
		m.disks["sda"] = c
		if err := boot(m.disk(), ""); err != nil || !m.hasData() || !m.hasTemplate() {
			t.Fatal(name, err)
		}
		n++
	}
	if n < 20 {
		t.Fatal(n)
	}
}

// Wherever the power goes while a recovery passphrase comes into force, the data
// opens: as before, or with the passphrase and with nothing else.
func TestCutRecovery(t *testing.T) {
	m := newMachine(t)
	d := m.shipped(100 << 20)
	m.plug("sda", d)
	first := m.disk()
	if err := boot(first, ""); err != nil {
		t.Fatal(err)
	}
	m.writeData()
	plain := clearPass(t, first)
	area := make([]byte, 256<<10)
	first.mustRead(area, 2*16<<10)
	pass, _ := first.NewRecovery()
	d.Record()
	if err := first.ConfirmRecovery(ctx, pass); err != nil {
		t.Fatal(err)
	}
	var before, after int
	m.checkCuts(d, func(name string) {
		n := m.disk()
		if err := n.Prepare(ctx); err != nil {
			t.Fatal(name, err)
		}
		err := n.Unlock(ctx)
		switch {
		case err == nil:
			before++
			if p := n.Protection(); !p.Clear || p.Passphrase {
				t.Fatalf("%s: %+v", name, p)
			}
			if name == "the end" {
				t.Fatal("it was confirmed, and the data opens without it")
			}
		case errors.Is(err, ErrPassphrase):
			after++
			if err := n.UnlockWith(ctx, pass); err != nil {
				t.Fatal(name, err)
			}
			if p := n.Protection(); p.Clear || !p.Passphrase {
				t.Fatalf("%s: %+v", name, p)
			}
			if m.disks["sda"].Contains([]byte(plain)) {
				t.Fatal(name, "the plain passphrase is still there")
			}
			now := make([]byte, len(area))
			n.mustRead(now, 2*16<<10)
			if same(area, now) {
				t.Fatal(name, "the removed slot is still there")
			}
		default:
			t.Fatal(name, err)
		}
		if !m.hasData() {
			t.Fatal(name, "the data is lost")
		}
	})
	if before == 0 || after == 0 {
		t.Fatal(before, after)
	}
}

// same reports whether any sector is in both at the same place.
func same(a, b []byte) bool {
	for i := 0; i+512 <= len(a); i += 512 {
		if bytes.Equal(a[i:i+512], b[i:i+512]) && len(bytes.Trim(a[i:i+512], "\x00")) > 0 {
			return true
		}
	}
	return false
}

func (d *Disk) mustRead(b []byte, at int64) {
	o, err := d.open()
	if err != nil {
		panic(err)
	}
	if _, err := o.data.ReadAt(b, at); err != nil {
		panic(err)
	}
}

// With one passphrase in force, another one comes: one of the two opens the data.
func TestCutSecondRecovery(t *testing.T) {
	m := newMachine(t)
	d := m.shipped(100 << 20)
	m.plug("sda", d)
	n := m.disk()
	if err := boot(n, ""); err != nil {
		t.Fatal(err)
	}
	m.writeData()
	old, _ := n.NewRecovery()
	if err := n.ConfirmRecovery(ctx, old); err != nil {
		t.Fatal(err)
	}
	fresh, _ := n.NewRecovery()
	d.Record()
	if err := n.ConfirmRecovery(ctx, fresh); err != nil {
		t.Fatal(err)
	}
	var before, after int
	i := 0
	for name, c := range d.Cuts(7) {
		// Each guess is expensive on purpose.
		if i++; i%4 != 0 && name != "the end" {
			continue
		}
		m.disks["sda"] = c
		n := m.disk()
		if err := boot(n, fresh); err == nil {
			after++
		} else if err := boot(n, old); err == nil && name != "the end" {
			before++
		} else {
			t.Fatal(name, err)
		}
		if !m.hasData() {
			t.Fatal(name, "the data is lost")
		}
	}
	if before == 0 || after == 0 {
		t.Fatal(before, after)
	}
}

func TestBadDisks(t *testing.T) {
	m := newMachine(t)
	const size = 100 << 20
	start := func(change func(d *disktest.Disk)) error {
		d := m.shipped(size)
		m.plug("sda", d)
		change(d)
		return m.disk().Prepare(ctx)
	}
	sector := func(d *disktest.Disk, at int64, s string) {
		b := make([]byte, 512)
		copy(b, s)
		if _, err := d.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	const data = 10 << 20
	if err := start(func(d *disktest.Disk) { d.Locked = true }); !errors.Is(err, ErrReadOnly) {
		t.Fatal(err)
	}
	// Another file system, in the header's area or behind it.
	if err := start(func(d *disktest.Disk) { sector(d, data, "XFSB") }); !errors.Is(err, ErrForeign) {
		t.Fatal(err)
	}
	if err := start(func(d *disktest.Disk) { sector(d, data, ""); sector(d, data+15<<20, "x") }); !errors.Is(err, ErrForeign) {
		t.Fatal(err)
	}
	// LUKS1, and a LUKS of the future.
	if err := start(func(d *disktest.Disk) { sector(d, data, "LUKS\xba\xbe\x00\x01") }); !errors.Is(err, ErrForeign) {
		t.Fatal(err)
	}
	if err := start(func(d *disktest.Disk) { sector(d, data, "LUKS\xba\xbe\x00\x03") }); !errors.Is(err, luks.ErrNewer) {
		t.Fatal(err)
	}
	// Somebody else's LUKS2.
	if err := start(func(d *disktest.Disk) {
		if _, _, err := luks.Format(section{ram{d, false}, data, 64 << 20}, newUUID(), "", "", 512,
			luks.NewSlot{Pass: []byte("theirs"), KDF: luks.RandomKDF()}); err != nil {
			t.Fatal(err)
		}
	}); !errors.Is(err, ErrForeign) {
		t.Fatal(err)
	}
	// Ours, with both copies gone.
	if err := start(func(d *disktest.Disk) {
		if err := boot(m.disk(), ""); err != nil {
			t.Fatal(err)
		}
		sector(d, data+8192, "damage")
		sector(d, data+16384+8192, "damage")
	}); !errors.Is(err, luks.ErrDamaged) {
		t.Fatal(err)
	}
	// Nothing at all, without a marker, is fresh; so is one that was left half done.
	for _, s := range []string{"", Marker} {
		if err := start(func(d *disktest.Disk) { clearArea(d, data); sector(d, data, s) }); err != nil {
			t.Fatal(err)
		}
	}
}

func clearArea(d *disktest.Disk, at int64) { d.WriteAt(make([]byte, 16<<20), at) }

// plugChip gives the machine a chip, which forgets what was measured at each start.
func (m *machine) plugChip(dir string, events ...string) {
	m.chip = func() (*tpm.TPM, error) { return tpm.New(tpmtest.Start(m.t, dir, events...)), nil }
}

func TestChip(t *testing.T) {
	m := newMachine(t)
	m.plug("sda", m.shipped(100<<20))
	dir := t.TempDir()
	m.plugChip(dir, "secure boot is on")
	d := m.disk()
	if err := boot(d, ""); err != nil {
		t.Fatal(err)
	}
	m.writeData()
	if p := d.Protection(); !p.TPM || !p.Encrypted || p.Clear || !strings.Contains(p.Warning, "Only this machine's TPM chip") {
		t.Fatalf("%+v", p)
	}
	// Without a recovery passphrase nothing else helps, and the error says so.
	m.plugChip(dir, "secure boot is off")
	d = m.disk()
	if err := boot(d, "x"); !errors.Is(err, ErrNoKey) || !errors.Is(err, tpm.ErrChanged) {
		t.Fatal(err)
	}
	if err := d.UnlockWith(ctx, "x"); !errors.Is(err, ErrNoKey) {
		t.Fatal(err)
	}
	m.plugChip(dir, "secure boot is on")
	d = m.disk()
	if err := boot(d, ""); err != nil || !m.hasData() {
		t.Fatal(err)
	}
	pass, _ := d.NewRecovery()
	if err := d.ConfirmRecovery(ctx, pass); err != nil {
		t.Fatal(err)
	}
	slots := len(d.header.Slots())
	if err := d.Reseal(ctx); err != nil || len(d.header.Slots()) != slots {
		t.Fatal("a chip that opens the data was sealed again", err)
	}
	// The chip is taken away; and another machine has another one.
	m.chip = func() (*tpm.TPM, error) { return nil, tpm.ErrNone }
	d = m.disk()
	if err := boot(d, pass); err != nil || !m.hasData() {
		t.Fatal(err)
	}
	if err := d.Reseal(ctx); !errors.Is(err, tpm.ErrNone) || !d.Protection().TPM {
		t.Fatal(err)
	}
	if w := d.Protection().Warning; !strings.Contains(w, "did not open the data") {
		t.Fatal(w)
	}
	other := t.TempDir()
	m.plugChip(other, "secure boot is on")
	d = m.disk()
	if err := boot(d, ""); !errors.Is(err, ErrPassphrase) || !errors.Is(err, tpm.ErrOther) {
		t.Fatal(err)
	}
	if err := d.Reseal(ctx); !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
	if err := boot(d, pass); err != nil {
		t.Fatal(err)
	}
	if err := d.Reseal(ctx); err != nil || len(d.header.Slots()) != slots {
		t.Fatal(err)
	}
	if w := d.Protection().Warning; !strings.Contains(w, "Secure Boot is off") {
		t.Fatal(w)
	}
	m.file("vars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", "\x06\x00\x00\x00\x01")
	if w := d.Protection().Warning; w != "" {
		t.Fatal(w)
	}
	d = m.disk()
	if err := boot(d, ""); err != nil || !m.hasData() {
		t.Fatal(err)
	}
	m.plugChip(dir, "secure boot is on")
	if err := boot(m.disk(), ""); !errors.Is(err, ErrPassphrase) {
		t.Fatal("the old chip still opens", err)
	}
}

// A machine that got its chip later: it counts with the recovery passphrase.
func TestChipLater(t *testing.T) {
	m := newMachine(t)
	m.plug("sda", m.shipped(100<<20))
	if err := boot(m.disk(), ""); err != nil {
		t.Fatal(err)
	}
	m.writeData()
	m.plugChip(t.TempDir(), "secure boot is on")
	d := m.disk()
	if err := boot(d, ""); err != nil {
		t.Fatal(err)
	}
	if err := d.Reseal(ctx); err != nil || d.Protection().TPM || !d.Protection().Clear {
		t.Fatal(err)
	}
	pass, _ := d.NewRecovery()
	if err := d.ConfirmRecovery(ctx, pass); err != nil {
		t.Fatal(err)
	}
	if p := d.Protection(); !p.TPM || !p.Passphrase || p.Clear {
		t.Fatalf("%+v", p)
	}
	if err := boot(m.disk(), ""); err != nil || !m.hasData() {
		t.Fatal(err)
	}
}

// Wherever the power goes while the chip gets another key, the passphrase opens the
// data, and the chip is sealed again by the same call.
func TestCutReseal(t *testing.T) {
	m := newMachine(t)
	d := m.shipped(100 << 20)
	m.plug("sda", d)
	dir := t.TempDir()
	m.plugChip(dir, "a")
	n := m.disk()
	if err := boot(n, ""); err != nil {
		t.Fatal(err)
	}
	m.writeData()
	pass, _ := n.NewRecovery()
	if err := n.ConfirmRecovery(ctx, pass); err != nil {
		t.Fatal(err)
	}
	m.plugChip(dir, "b")
	n = m.disk()
	if err := boot(n, pass); err != nil {
		t.Fatal(err)
	}
	d.Record()
	if err := n.Reseal(ctx); err != nil {
		t.Fatal(err)
	}
	var before, after int
	for name, c := range d.Cuts(5) {
		m.disks["sda"] = c
		n := m.disk()
		err := boot(n, "")
		if err == nil {
			after++
		} else if before++; !errors.Is(err, ErrPassphrase) || name == "the end" {
			t.Fatal(name, err)
		} else if before%5 == 1 {
			if err := boot(n, pass); err != nil {
				t.Fatal(name, err)
			}
			if err := n.Reseal(ctx); err != nil {
				t.Fatal(name, err)
			}
			if err := boot(m.disk(), ""); err != nil || !m.hasData() {
				t.Fatal(name, err)
			}
		}
	}
	if before == 0 || after == 0 {
		t.Fatal(before, after)
	}
}

func TestFind(t *testing.T) {
	m := newMachine(t)
	short := func() (*Disk, error) {
		c, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		return find(c, m.host, quiet)
	}
	if _, err := short(); !errors.Is(err, ErrNoDisk) || !strings.Contains(err.Error(), "no driver") {
		t.Fatal(err)
	}
	m.plug("sdb", disktest.New(100<<20))
	if _, err := short(); !errors.Is(err, ErrNoDisk) || !strings.Contains(err.Error(), "sdb") {
		t.Fatal(err)
	}
	m.plug("sda", m.shipped(100<<20))
	if d, err := short(); err != nil || d.Name() != "sda" {
		t.Fatal(err)
	}
	// Two fresh copies of the image cannot be told apart.
	m.plug("sdc", m.shipped(100<<20))
	if _, err := short(); !errors.Is(err, ErrTwoDisks) || !strings.Contains(err.Error(), "sda, sdc") {
		t.Fatal(err)
	}
	fresh := "00000001-0000-0000-0000-000000000000"
	m.loader(fresh)
	if _, err := short(); !errors.Is(err, ErrTwoDisks) {
		t.Fatal(err)
	}
	// Once started, they can.
	if err := m.disk().Prepare(ctx); err != nil {
		t.Fatal(err)
	}
	if d, err := short(); err != nil || d.Name() != "sdc" {
		t.Fatal(err)
	}
	tab, err := gpt.Read(m.disks["sda"], 512, 100<<20)
	if err != nil {
		t.Fatal(err)
	}
	esp, _ := tab.Find(ESPLabel)
	m.loader(strings.ToUpper(esp.ID.String()))
	if d, err := short(); err != nil || d.Name() != "sda" {
		t.Fatal(err)
	}
	// The disk that the loader means is not there: another one is not taken for it.
	m.loader(gpt.NewGUID().String())
	if _, err := short(); !errors.Is(err, ErrNoDisk) {
		t.Fatal(err)
	}
	m.loader("nonsense")
	if _, err := short(); !errors.Is(err, ErrTwoDisks) {
		t.Fatal(err)
	}
}

func TestRecoveryText(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		p := newRecovery()
		if got, err := parseRecovery(p); err != nil || got != p || len(p) != 35 || seen[p] {
			t.Fatal(p, got, err)
		}
		seen[p] = true
	}
	if got, err := parseRecovery(" o1il2-34567.89abc/defgh jkmnp,qrstv\n"); err != nil || got != "01112-34567-89ABC-DEFGH-JKMNP-QRSTV" {
		t.Fatal(got, err)
	}
	if _, err := parseRecovery(strings.Repeat("0", 1<<20)); err == nil {
		t.Fatal("too long")
	}
}
