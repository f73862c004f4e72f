package gpt

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"testing"
	"unicode/utf16"

	"holdfast/image/disk/disktest"
)

var (
	espType, _  = ParseGUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
	dataType, _ = ParseGUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
)

func put(t *Table, number int, kind, id GUID, first, last uint64, name string) {
	e := t.entries[(number-1)*t.entrySize:]
	copy(e, kind[:])
	copy(e[16:], id[:])
	binary.LittleEndian.PutUint64(e[32:], first)
	binary.LittleEndian.PutUint64(e[40:], last)
	for i, c := range utf16.Encode([]rune(name)) {
		binary.LittleEndian.PutUint16(e[56+2*i:], c)
	}
}

// shipped is a disk of size bytes onto which an image of 80 MiB was written, as
// another program writes it.
func shipped(t testing.TB, size int64, sector int) *disktest.Disk {
	t.Helper()
	const image = 80 << 20
	d := disktest.New(size)
	tab := &Table{SectorSize: sector, Sectors: uint64(image / sector), ID: GUID{1}, firstUsable: 2 + uint64(16384/sector),
		entrySize: 128, entries: make([]byte, 128*128)}
	mib := uint64(1 << 20 / sector)
	put(tab, 1, espType, GUID{2}, mib, 10*mib-1, "holdfast-esp")
	put(tab, 2, dataType, GUID{3}, 10*mib, 74*mib-1, "holdfast-data")
	last := tab.Sectors - 1
	n := tab.entrySectors()
	mbr := make([]byte, sector)
	mbr[510], mbr[511], mbr[450] = 0x55, 0xaa, 0xee
	binary.LittleEndian.PutUint32(mbr[454:], 1)
	binary.LittleEndian.PutUint32(mbr[458:], uint32(last))
	for at, b := range map[uint64][]byte{0: mbr, 1: tab.header(1, last, 2, tab.firstUsable), 2: tab.entries,
		last - n: tab.entries, last: tab.header(last, 1, last-n, tab.firstUsable)} {
		if _, err := d.WriteAt(b, int64(at)*int64(sector)); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func data(t testing.TB, tab *Table) Partition {
	t.Helper()
	p, err := tab.Find("holdfast-data")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestGrow(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		const size = 300<<20 + 12345*4096
		d := shipped(t, size, sector)
		was, err := Read(d, sector, size)
		if err != nil {
			t.Fatal(err)
		}
		if !was.Unfinished() {
			t.Fatal("the copy in the middle of the disk is taken for good")
		}
		tab := was.Clone()
		tab.Rename()
		if !tab.Grow(2) {
			t.Fatal("nothing to grow")
		}
		if err := tab.Write(d, was); err != nil {
			t.Fatal(err)
		}
		got, err := Read(d, sector, size)
		if err != nil {
			t.Fatal(err)
		}
		p := data(t, got)
		end := int64(p.Last+1) * int64(sector)
		if got.Unfinished() || got.Grow(2) || end > size || end%align != 0 || end < size-3*align || p.First != data(t, was).First ||
			p.ID == data(t, was).ID || got.ID == was.ID || got.ID != tab.ID {
			t.Fatalf("%+v, %d of %d bytes", p, end, int64(size))
		}
		// Each copy alone is enough.
		for _, lba := range []uint64{1, got.Sectors - 1} {
			c := d.Clone()
			c.WriteAt(make([]byte, sector), int64(lba)*int64(sector))
			half, err := Read(c, sector, size)
			if err != nil || data(t, half) != p || !half.Unfinished() {
				t.Fatal(lba, err)
			}
			if err := half.Write(c, half.Clone()); err != nil {
				t.Fatal(err)
			}
			if whole, err := Read(c, sector, size); err != nil || whole.Unfinished() || data(t, whole) != p {
				t.Fatal(lba, err)
			}
		}
	}
}

// After every loss of power the primary table, which alone the kernel uses, is the
// old or the new one; and starting over ends with the new one.
func TestCuts(t *testing.T) {
	for _, what := range []string{"grown disk", "same disk", "primary lost", "elsewhere"} {
		const size = 200 << 20
		d := shipped(t, size, 512)
		was, _ := Read(d, 512, size)
		if what != "grown disk" {
			first := was.Clone()
			first.Grow(2)
			if err := first.Write(d, was); err != nil {
				t.Fatal(err)
			}
			was = first
		}
		switch what {
		case "primary lost":
			d.WriteAt(make([]byte, 512), 512)
		case "elsewhere":
			// As it is between the two changes of the header.
			n := was.entrySectors()
			d.WriteAt(was.entries, int64(2+n)*512)
			d.WriteAt(was.header(1, was.Sectors-1, 2+n, 2+2*n), 512)
		}
		was, err := Read(d, 512, size)
		if err != nil {
			t.Fatal(what, err)
		}
		want := was.Clone()
		want.Rename()
		want.Grow(2)
		d.Record()
		if err := want.Write(d, was); err != nil {
			t.Fatal(what, err)
		}
		if d.Writes() < 5 {
			t.Fatal(d.Writes())
		}
		var old, fresh int
		for name, c := range d.Cuts(1) {
			primary, err := readOne(c, 512, size/512, 1)
			if err != nil && what != "primary lost" {
				t.Fatal(what, name, err)
			}
			got, err := Read(c, 512, size)
			if err != nil {
				t.Fatal(what, name, err)
			}
			switch {
			case got.ID == was.ID && data(t, got) == data(t, was):
				old++
			case got.ID == want.ID && data(t, got) == data(t, want):
				fresh++
			default:
				t.Fatalf("%s, %s: %+v", what, name, got.Partitions())
			}
			if name == "the end" && (primary == nil || primary.ID != want.ID || got.Unfinished()) {
				t.Fatal(what, "the end is not the end")
			}
			again := got.Clone()
			again.Grow(2)
			if err := again.Write(c, got); err != nil {
				t.Fatal(what, name, err)
			}
			if end, err := Read(c, 512, size); err != nil || end.Unfinished() || data(t, end).Last != data(t, want).Last {
				t.Fatal(what, name, err)
			}
		}
		if old == 0 || fresh == 0 {
			t.Fatal(what, old, fresh)
		}
	}
}

func TestErrors(t *testing.T) {
	const size = 100 << 20
	none := disktest.New(size)
	if _, err := Read(none, 512, size); !errors.Is(err, ErrNoTable) {
		t.Fatal(err)
	}
	if _, err := Read(none, 512, 100); !errors.Is(err, ErrNoTable) {
		t.Fatal(err)
	}
	if _, err := Read(none, 500, size); err == nil {
		t.Fatal("sectors of 500 bytes")
	}
	d := shipped(t, size, 512)
	if _, err := Read(d, 512, 70<<20); !errors.Is(err, ErrNoRoom) {
		t.Fatal(err)
	}
	// The copy is in the middle, where nobody looks, so losing the first one is all.
	c := d.Clone()
	c.WriteAt(make([]byte, 512), 3*512)
	c.WriteAt([]byte(string(make([]byte, 100))+"x"+string(make([]byte, 411))), 512)
	if _, err := Read(c, 512, size); !errors.Is(err, ErrNoTable) {
		t.Fatal(err)
	}
	c = d.Clone()
	b := make([]byte, 512)
	c.ReadAt(b, 2*512)
	b[0] ^= 1
	c.WriteAt(b, 2*512)
	if _, err := Read(c, 512, size); !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
	// Nothing after the partition, and another one after it.
	tab, _ := Read(d, 512, size)
	put(tab, 3, dataType, GUID{9}, 90*2048, 92*2048-1, "somebody's")
	if !tab.Grow(2) || data(t, tab).Last != 90*2048-1 || tab.Grow(2) || tab.Grow(7) {
		t.Fatal(data(t, tab))
	}
	if _, err := tab.Find("no such"); !errors.Is(err, ErrNotThere) {
		t.Fatal(err)
	}
}

func TestGUID(t *testing.T) {
	if espType.String() != "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" || espType[0] != 0x28 {
		t.Fatal(espType, espType[:])
	}
	if g, err := ParseGUID("C12A7328-F81F-11D2-BA4B-00A0C93EC93B"); err != nil || g != espType {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "c12a7328", "c12a7328-f81f-11d2-ba4b-00a0c93ec93", "c12a7328xf81f-11d2-ba4b-00a0c93ec93b", "g12a7328-f81f-11d2-ba4b-00a0c93ec93b"} {
		if _, err := ParseGUID(bad); err == nil {
			t.Error(bad)
		}
	}
	if a, b := NewGUID(), NewGUID(); a == b {
		t.Fatal("the same twice")
	}
}

// A table of whatever content is read without a panic and without reaching beyond
// the disk, and what is accepted can be written and read back.
func FuzzRead(f *testing.F) {
	const size = 84 << 20
	d := shipped(f, size, 512)
	head := make([]byte, 4*512)
	d.ReadAt(head, 0)
	f.Add(head, uint64(1))
	f.Fuzz(func(t *testing.T, head []byte, seed uint64) {
		c := d.Clone()
		b := make([]byte, 34*512)
		c.ReadAt(b, 0)
		copy(b, head)
		// Half of the time with a right checksum, or nothing else would be tried.
		if rand.New(rand.NewPCG(seed, 0)).IntN(2) == 0 {
			seal(b)
		}
		c.WriteAt(b, 0)
		tab, err := Read(c, 512, size)
		if err != nil {
			return
		}
		for _, p := range tab.Partitions() {
			if p.Last >= tab.Sectors || p.First > p.Last {
				t.Fatalf("%+v", p)
			}
		}
		want := tab.Clone()
		want.Grow(2)
		if want.Write(c, tab) != nil {
			return
		}
		if got, err := Read(c, 512, size); err != nil || got.Unfinished() {
			t.Fatal(err)
		}
	})
}

// seal makes the checksums right.
func seal(b []byte) {
	le := binary.LittleEndian
	h := b[512:1024]
	if at, n := le.Uint64(h[72:]), uint64(le.Uint32(h[80:]))*uint64(le.Uint32(h[84:])); at < 34 && n < 1<<20 && at*512+n <= uint64(len(b)) {
		le.PutUint32(h[88:], crc32.ChecksumIEEE(b[at*512:at*512+n]))
	}
	if n := le.Uint32(h[12:]); n <= 512 {
		le.PutUint32(h[16:], 0)
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:n]))
	}
}
