// Package gpt reads a disk's GUID partition table and makes its last partition as
// large as the disk.
//
// Invariants: a write that stops anywhere, after any sector, leaves a primary table
// that is whole: the one before or the new one. Both copies are read with their
// checksums; what they say is never used to reach beyond the disk. Entries that
// this package does not know are kept byte for byte.
package gpt

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"unicode/utf16"
)

// Errors of reading a table.
var (
	ErrNoTable  = errors.New("the disk has no GUID partition table: write the image to it")
	ErrDamaged  = errors.New("both copies of the disk's partition table are damaged: write the image to it, or repair it with gdisk from a rescue stick")
	ErrNoRoom   = errors.New("the disk is smaller than its partition table says: use a disk at least as large as the image")
	ErrNotThere = errors.New("the disk has no such partition")
)

// Device is a disk.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Sync returns when all that was written is on the disk.
	Sync() error
}

// GUID is as it stands on the disk: its first three fields are little endian.
type GUID [16]byte

// NewGUID makes a random one.
func NewGUID() (g GUID) {
	rand.Read(g[:])
	g[7] = g[7]&0x0f | 0x40
	g[8] = g[8]&0x3f | 0x80
	return g
}

// swap changes between the byte order on the disk and that of the text.
func (g GUID) swap() GUID {
	slices.Reverse(g[0:4])
	slices.Reverse(g[4:6])
	slices.Reverse(g[6:8])
	return g
}

func (g GUID) String() string {
	s := g.swap()
	return fmt.Sprintf("%x-%x-%x-%x-%x", s[0:4], s[4:6], s[6:8], s[8:10], s[10:])
}

// ParseGUID reads the usual text, in either case.
func ParseGUID(s string) (g GUID, err error) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, fmt.Errorf("%.40q is not a GUID", s)
	}
	if _, err := hex.Decode(g[:], []byte(strings.ReplaceAll(s, "-", ""))); err != nil {
		return g, fmt.Errorf("%.40q is not a GUID", s)
	}
	return g.swap(), nil
}

// Partition is one entry of the table.
type Partition struct {
	Number      int // from 1, as the kernel counts
	Type, ID    GUID
	First, Last uint64 // sectors, both included
	Name        string
}

// Table is a disk's partition table.
type Table struct {
	SectorSize int
	Sectors    uint64 // of the disk
	ID         GUID

	firstUsable uint64
	entryLBA    uint64 // of the primary table
	entrySize   int
	entries     []byte // the whole array
	backupLBA   uint64 // where the primary table says that the copy is
	fromBackup  bool
	unfinished  bool // the copies differ, or the table is not where it belongs
}

// Offsets in the header. Source: UEFI 2.10, 5.3.2.
const (
	signature  = "EFI PART"
	revision   = 0x00010000
	headerSize = 92
	// The largest array that is read: the usual one has 16 KiB.
	maxEntries = 1 << 20
)

// Read reads the table of a disk of size bytes. Errors: ErrNoTable, ErrDamaged,
// ErrNoRoom, of the device.
func Read(d io.ReaderAt, sectorSize int, size int64) (*Table, error) {
	if sectorSize < 512 || sectorSize > 4096 || sectorSize&(sectorSize-1) != 0 || size < 0 {
		return nil, fmt.Errorf("sectors of %d bytes are not supported", sectorSize)
	}
	sectors := uint64(size) / uint64(sectorSize)
	if sectors < 8 {
		return nil, ErrNoTable
	}
	t, err := readOne(d, sectorSize, sectors, 1)
	if err == nil {
		copied, backupErr := readOne(d, sectorSize, sectors, sectors-1)
		t.unfinished = backupErr != nil || t.backupLBA != sectors-1 || t.entryLBA != 2 ||
			copied.ID != t.ID || !bytes.Equal(copied.entries, t.entries)
		return t, nil
	}
	if !errors.Is(err, ErrNoTable) && !errors.Is(err, ErrDamaged) {
		return nil, err
	}
	t, backupErr := readOne(d, sectorSize, sectors, sectors-1)
	if backupErr == nil {
		t.fromBackup, t.unfinished = true, true
		return t, nil
	}
	if errors.Is(err, ErrNoTable) && errors.Is(backupErr, ErrDamaged) {
		return nil, ErrDamaged
	}
	return nil, err
}

func readOne(d io.ReaderAt, sectorSize int, sectors, lba uint64) (*Table, error) {
	h := make([]byte, sectorSize)
	if _, err := d.ReadAt(h, int64(lba)*int64(sectorSize)); err != nil {
		return nil, err
	}
	if string(h[:8]) != signature {
		return nil, ErrNoTable
	}
	le := binary.LittleEndian
	n := le.Uint32(h[12:])
	if n < headerSize || n > uint32(sectorSize) || le.Uint16(h[10:]) != revision>>16 {
		return nil, ErrDamaged
	}
	sum := le.Uint32(h[16:])
	le.PutUint32(h[16:], 0)
	if crc32.ChecksumIEEE(h[:n]) != sum || le.Uint64(h[24:]) != lba {
		return nil, ErrDamaged
	}
	t := &Table{SectorSize: sectorSize, Sectors: sectors, ID: GUID(h[56:72]),
		backupLBA: le.Uint64(h[32:]), firstUsable: le.Uint64(h[40:]), entryLBA: le.Uint64(h[72:]),
		entrySize: int(le.Uint32(h[84:]))}
	count := le.Uint32(h[80:])
	if t.entrySize < 128 || t.entrySize > 4096 || t.entrySize%128 != 0 || count == 0 ||
		uint64(count)*uint64(t.entrySize) > maxEntries || t.firstUsable >= sectors {
		return nil, ErrDamaged
	}
	if le.Uint64(h[48:]) >= sectors {
		return nil, ErrNoRoom
	}
	t.entries = make([]byte, int(count)*t.entrySize)
	if t.entryLBA >= sectors || t.entryLBA+t.entrySectors() > sectors {
		return nil, ErrDamaged
	}
	if _, err := d.ReadAt(t.entries, int64(t.entryLBA)*int64(sectorSize)); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(t.entries) != le.Uint32(h[88:]) {
		return nil, ErrDamaged
	}
	for _, p := range t.Partitions() {
		if p.First > p.Last || p.First < t.firstUsable {
			return nil, ErrDamaged
		}
		if p.Last >= sectors {
			return nil, ErrNoRoom
		}
	}
	if lba != 1 {
		t.entryLBA, t.backupLBA = 2, lba
	}
	return t, nil
}

func (t *Table) entrySectors() uint64 {
	return (uint64(len(t.entries)) + uint64(t.SectorSize) - 1) / uint64(t.SectorSize)
}

// lastUsable is the last sector before the copy at the disk's end.
func (t *Table) lastUsable() uint64 { return t.Sectors - 2 - t.entrySectors() }

// Partitions gives the entries that are used.
func (t *Table) Partitions() []Partition {
	var list []Partition
	le := binary.LittleEndian
	for i := 0; i < len(t.entries); i += t.entrySize {
		e := t.entries[i:][:t.entrySize]
		p := Partition{Number: i/t.entrySize + 1, Type: GUID(e[0:16]), ID: GUID(e[16:32]),
			First: le.Uint64(e[32:]), Last: le.Uint64(e[40:])}
		if p.Type == (GUID{}) {
			continue
		}
		var name []uint16
		for j := 56; j < 128; j += 2 {
			c := le.Uint16(e[j:])
			if c == 0 {
				break
			}
			name = append(name, c)
		}
		p.Name = string(utf16.Decode(name))
		list = append(list, p)
	}
	return list
}

// Find gives the partition of that name. Errors: ErrNotThere.
func (t *Table) Find(name string) (Partition, error) {
	for _, p := range t.Partitions() {
		if p.Name == name {
			return p, nil
		}
	}
	return Partition{}, fmt.Errorf("%w: %s", ErrNotThere, name)
}

// Unfinished reports whether the table on the disk should be written again although
// nothing in it changes: a copy is damaged or not at the disk's end.
func (t *Table) Unfinished() bool { return t.unfinished }

// align is where partitions end, in bytes.
const align = 1 << 20

// Grow makes a partition reach up to the next one or to the end of the disk, and
// reports whether that changed anything. It never makes it smaller.
func (t *Table) Grow(number int) bool {
	var p Partition
	for _, q := range t.Partitions() {
		if q.Number == number {
			p = q
		}
	}
	if p.Number == 0 {
		return false
	}
	end := t.lastUsable() + 1
	for _, q := range t.Partitions() {
		if q.First > p.Last {
			end = min(end, q.First)
		}
	}
	end -= end % uint64(align/t.SectorSize)
	if end <= p.Last+1 {
		return false
	}
	binary.LittleEndian.PutUint64(t.entries[(number-1)*t.entrySize+40:], end-1)
	return true
}

// Rename gives the disk and its partitions identities of their own. All that are
// written from one image have the same at first, and could not be told apart.
func (t *Table) Rename() {
	t.ID = NewGUID()
	for _, p := range t.Partitions() {
		id := NewGUID()
		copy(t.entries[(p.Number-1)*t.entrySize+16:], id[:])
	}
}

// header makes the sector of one copy.
func (t *Table) header(lba, backup, entryLBA, firstUsable uint64) []byte {
	h := make([]byte, t.SectorSize)
	le := binary.LittleEndian
	copy(h, signature)
	le.PutUint32(h[8:], revision)
	le.PutUint32(h[12:], headerSize)
	le.PutUint64(h[24:], lba)
	le.PutUint64(h[32:], backup)
	le.PutUint64(h[40:], firstUsable)
	le.PutUint64(h[48:], t.lastUsable())
	copy(h[56:], t.ID[:])
	le.PutUint64(h[72:], entryLBA)
	le.PutUint32(h[80:], uint32(len(t.entries)/t.entrySize))
	le.PutUint32(h[84:], uint32(t.entrySize))
	le.PutUint32(h[88:], crc32.ChecksumIEEE(t.entries))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:headerSize]))
	return h
}

// Write puts the table on the disk. old is the table as Read gave it, before it was
// changed.
//
// The kernel uses the primary table alone, and not every firmware repairs it. So it
// changes by the write of one sector, twice: to a list of entries elsewhere, and
// back to the usual place once that has the new list. The copy at the disk's end is
// written first, or, where it is the only one that is whole, second.
func (t *Table) Write(d Device, old *Table) error {
	n := t.entrySectors()
	for _, p := range t.Partitions() {
		if p.Last > t.lastUsable() {
			return ErrNoRoom
		}
	}
	at := func(lba uint64, b []byte) error {
		_, err := d.WriteAt(b, int64(lba)*int64(t.SectorSize))
		return err
	}
	list := make([]byte, n*uint64(t.SectorSize))
	copy(list, t.entries)
	last := t.Sectors - 1

	steps := [][]func() error{
		{
			func() error { return at(last-n, list) },
			func() error { return at(last, t.header(last, 1, last-n, t.firstUsable)) },
		},
	}
	primary := func(lba uint64) {
		first := max(t.firstUsable, lba+n)
		steps = append(steps,
			[]func() error{func() error { return at(lba, list) }},
			[]func() error{func() error { return at(1, t.header(1, last, lba, first)) }})
	}
	if old.fromBackup {
		// The primary table is lost already: it is put back as the copy has it, before
		// that one is touched.
		oldList := make([]byte, n*uint64(t.SectorSize))
		copy(oldList, old.entries)
		steps = slices.Insert(steps, 0,
			[]func() error{func() error { return at(2, oldList) }},
			[]func() error{func() error { return at(1, old.header(1, last, 2, old.firstUsable)) }})
	}
	if old.entryLBA < 2+n {
		elsewhere := old.entryLBA + n
		for _, p := range t.Partitions() {
			if p.First < elsewhere+n {
				return errors.New("there is no room before the first partition to change the partition table safely: write the image again")
			}
		}
		primary(elsewhere)
	}
	primary(2)
	for _, step := range steps {
		for _, f := range step {
			if err := f(); err != nil {
				return err
			}
		}
		if err := d.Sync(); err != nil {
			return err
		}
	}
	return t.protect(d)
}

// protect says in the old-style partition table that the whole disk is taken. Only
// tools that do not know this kind of table read it.
func (t *Table) protect(d Device) error {
	mbr := make([]byte, t.SectorSize)
	if _, err := d.ReadAt(mbr, 0); err != nil {
		return err
	}
	if mbr[510] != 0x55 || mbr[511] != 0xaa || mbr[450] != 0xee {
		return nil
	}
	binary.LittleEndian.PutUint32(mbr[458:], uint32(min(t.Sectors-1, 1<<32-1)))
	if _, err := d.WriteAt(mbr, 0); err != nil {
		return err
	}
	return d.Sync()
}

// Clone gives a table that can be changed without changing this one.
func (t *Table) Clone() *Table {
	c := *t
	c.entries = bytes.Clone(t.entries)
	return &c
}
