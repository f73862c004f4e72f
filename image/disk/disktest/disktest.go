// Package disktest has disks in memory that record what is written to them, and
// gives every state in which a loss of power can leave such a disk.
package disktest

import (
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
)

// Sector is what a disk writes whole or not at all.
const Sector = 512

type write struct {
	at   int64
	data []byte // nil: a sync
}

// Disk is a disk in memory.
type Disk struct {
	Bytes int64
	// Locked refuses writes.
	Locked  bool
	sectors map[int64]*[Sector]byte
	log     []write
	start   map[int64]*[Sector]byte // as it was when the log began
}

// New makes an empty disk.
func New(size int64) *Disk { return &Disk{Bytes: size, sectors: map[int64]*[Sector]byte{}} }

// ReadAt implements io.ReaderAt.
func (d *Disk) ReadAt(p []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(p)) > d.Bytes {
		return 0, io.ErrUnexpectedEOF
	}
	for n := 0; n < len(p); {
		i, in := (at+int64(n))/Sector, (at+int64(n))%Sector
		if s := d.sectors[i]; s != nil {
			n += copy(p[n:], s[in:])
		} else {
			end := min(len(p), n+int(Sector-in))
			clear(p[n:end])
			n = end
		}
	}
	return len(p), nil
}

// WriteAt implements io.WriterAt.
func (d *Disk) WriteAt(p []byte, at int64) (int, error) {
	if d.Locked {
		return 0, fmt.Errorf("the disk is locked")
	}
	if at < 0 || at+int64(len(p)) > d.Bytes {
		return 0, io.ErrShortWrite
	}
	if at%Sector != 0 || len(p)%Sector != 0 {
		return 0, fmt.Errorf("%d bytes at %d are not whole sectors", len(p), at)
	}
	w := write{at, append([]byte{}, p...)}
	d.apply(w, nil)
	if d.start != nil {
		d.log = append(d.log, w)
	}
	return len(p), nil
}

// apply writes those sectors for which keep is true.
func (d *Disk) apply(w write, keep func() bool) {
	for i := 0; i < len(w.data); i += Sector {
		if keep == nil || keep() {
			s := [Sector]byte(w.data[i:])
			d.sectors[(w.at+int64(i))/Sector] = &s
		}
	}
}

// Sync implements the barrier: what was written before is kept.
func (d *Disk) Sync() error {
	if d.start != nil {
		d.log = append(d.log, write{})
	}
	return nil
}

// Clone gives a disk with the same content, whose log is empty and off.
func (d *Disk) Clone() *Disk {
	return &Disk{Bytes: d.Bytes, sectors: maps.Clone(d.sectors)}
}

// Record begins a new log.
func (d *Disk) Record() { d.start, d.log = maps.Clone(d.sectors), nil }

// Cuts gives the disks that a loss of power can leave behind, at any moment since
// Record: all that was synced is there, and of what came after it any sectors. The
// last one has everything. Each disk is named for the messages of a test.
func (d *Disk) Cuts(seed uint64) iter.Seq2[string, *Disk] {
	return func(yield func(string, *Disk) bool) {
		r := rand.New(rand.NewPCG(seed, 0))
		synced := &Disk{Bytes: d.Bytes, sectors: maps.Clone(d.start)}
		var loose []write
		give := func(name string, keep func(i, n int) func() bool) bool {
			c := synced.Clone()
			for i, w := range loose {
				c.apply(w, keep(i, len(w.data)/Sector))
			}
			return yield(name, c)
		}
		for i, w := range d.log {
			if w.data == nil {
				for _, l := range loose {
					synced.apply(l, nil)
				}
				loose = nil
				continue
			}
			loose = append(loose, w)
			at := fmt.Sprintf("write %d of %d (%d bytes at %d)", i+1, len(d.log), len(w.data), w.at)
			some := func(int, int) func() bool { return func() bool { return r.IntN(2) == 0 } }
			last := len(loose) - 1
			ok := give(at+", none of it", func(j, _ int) func() bool { return func() bool { return j < last } }) &&
				give(at+", its first half", func(j, n int) func() bool {
					k := 0
					return func() bool { k++; return j < last || k <= n/2 }
				}) &&
				give(at+", its second half alone", func(j, n int) func() bool {
					k := 0
					return func() bool { k++; return j == last && k > n/2 }
				}) &&
				give(at+", its last sector alone", func(j, n int) func() bool {
					k := 0
					return func() bool { k++; return j == last && k == n }
				}) &&
				give(at+", some sectors", some) && give(at+", some other sectors", some) &&
				give(at+", all of it", func(int, int) func() bool { return nil })
			if !ok {
				return
			}
		}
		yield("the end", d.Clone())
	}
}

// Writes is how many writes were recorded.
func (d *Disk) Writes() (n int) {
	for _, w := range d.log {
		if w.data != nil {
			n++
		}
	}
	return n
}

// Cut gives one of the disks of Cuts at random.
func (d *Disk) Cut(r *rand.Rand) (name string, c *Disk) {
	n := r.IntN(max(1, 7*d.Writes()))
	for name, c = range d.Cuts(r.Uint64()) {
		if n--; n < 0 {
			break
		}
	}
	return name, c
}

// Contains reports whether the text stands anywhere on the disk within a sector or
// across two.
func (d *Disk) Contains(text []byte) bool {
	for i := range d.sectors {
		b := make([]byte, min(2*Sector, d.Bytes-i*Sector))
		d.ReadAt(b, i*Sector)
		for j := 0; j+len(text) <= len(b); j++ {
			if string(b[j:j+len(text)]) == string(text) {
				return true
			}
		}
	}
	return false
}
