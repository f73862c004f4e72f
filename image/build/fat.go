package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf16"
)

// file is a file of the EFI system partition.
type file struct {
	name string // with slashes: "EFI/BOOT/BOOTX64.EFI"
	data []byte
}

// The geometry of the FAT32 file system that is written.
// Source: Microsoft FAT Specification, 2005.
const (
	sectorBytes     = 512
	clusterSectors  = 8
	clusterBytes    = clusterSectors * sectorBytes
	reservedSectors = 32
	fatCopies       = 2
	endOfChain      = 0x0fffffff
	mediaFixed      = 0xf8
	minFAT32        = 65525 // clusters; with fewer it would be FAT16
)

// volume is a FAT32 file system in the making.
type volume struct {
	w        io.WriterAt
	at       int64 // where it begins in w
	sectors  uint32
	fatSize  uint32 // sectors of one copy
	clusters uint32
	fat      []uint32
	stamp    [2]uint16 // time, date
}

// writeFAT writes a FAT32 file system with these files, all with the same time.
// w must read as zeros where nothing is written. The label has at most 11 letters.
func writeFAT(w io.WriterAt, at, size int64, hidden uint32, label string, files []file, when time.Time) error {
	v := &volume{w: w, at: at, sectors: uint32(size / sectorBytes)}
	v.fatSize = 1
	for { // the table's size depends on the number of clusters, and they on it
		v.clusters = (v.sectors - reservedSectors - fatCopies*v.fatSize) / clusterSectors
		need := ((v.clusters+2)*4 + sectorBytes - 1) / sectorBytes
		if need <= v.fatSize {
			break
		}
		v.fatSize = need
	}
	if v.clusters < minFAT32 {
		return fmt.Errorf("a FAT32 file system cannot be as small as %d bytes", size)
	}
	when = when.UTC()
	v.stamp = [2]uint16{
		uint16(when.Hour()<<11 | when.Minute()<<5 | when.Second()/2),
		uint16((when.Year()-1980)<<9 | int(when.Month())<<5 | when.Day()),
	}
	v.fat = []uint32{0x0fffff00 | mediaFixed, endOfChain}

	root, err := tree(files)
	if err != nil {
		return err
	}
	root.label = label
	if err := v.layOut(root); err != nil {
		return err
	}
	if err := v.write(root, 0); err != nil {
		return err
	}
	return v.writeHead(hidden, label)
}

// node is a folder or a file.
type node struct {
	name    string
	label   string // of the volume, on the root only
	data    []byte
	folder  bool
	entries []*node
	first   uint32 // cluster
}

// tree makes folders of names.
func tree(files []file) (*node, error) {
	root := &node{folder: true}
	for _, f := range files {
		dir := root
		parts := strings.Split(f.name, "/")
		for i, part := range parts {
			if len(part) == 0 || len(part) > 255 || strings.ContainsAny(part, `\:*?"<>|`) {
				return nil, fmt.Errorf("%q cannot be a name on the EFI system partition", f.name)
			}
			k := slices.IndexFunc(dir.entries, func(n *node) bool { return strings.EqualFold(n.name, part) })
			last := i == len(parts)-1
			switch {
			case k < 0 && last:
				dir.entries = append(dir.entries, &node{name: part, data: f.data})
			case k < 0:
				dir.entries = append(dir.entries, &node{name: part, folder: true})
				dir = dir.entries[len(dir.entries)-1]
			case last || !dir.entries[k].folder:
				return nil, fmt.Errorf("%q is there twice", f.name)
			default:
				dir = dir.entries[k]
			}
		}
	}
	return root, nil
}

// layOut gives each node its clusters, in the order of the tree.
func (v *volume) layOut(n *node) error {
	size := len(n.data)
	if n.folder {
		slots := 2
		if n.label != "" {
			slots = 1
		}
		for _, e := range n.entries {
			slots += 1 + longSlots(e.name)
		}
		size = max(32*slots, 1)
	}
	count := (size + clusterBytes - 1) / clusterBytes
	if uint32(len(v.fat)+count) > v.clusters+2 {
		return fmt.Errorf("the EFI system partition is full at %q", n.name)
	}
	if count > 0 {
		n.first = uint32(len(v.fat))
		for i := 1; i < count; i++ {
			v.fat = append(v.fat, uint32(len(v.fat)+1))
		}
		v.fat = append(v.fat, endOfChain)
	}
	for _, e := range n.entries {
		if err := v.layOut(e); err != nil {
			return err
		}
	}
	return nil
}

func (v *volume) offset(cluster uint32) int64 {
	return v.at + (reservedSectors+fatCopies*int64(v.fatSize))*sectorBytes + int64(cluster-2)*clusterBytes
}

// write writes a node and all below it. parent is the cluster of the folder above,
// 0 where that is the root.
func (v *volume) write(n *node, parent uint32) error {
	data := n.data
	if n.folder {
		data = nil
		if n.label != "" {
			data = append(data, v.entry(shortName(n.label), 0x08, 0, 0)...)
		} else {
			data = append(data, v.entry(".          ", 0x10, n.first, 0)...)
			data = append(data, v.entry("..         ", 0x10, parent, 0)...)
		}
		used := map[string]bool{}
		for _, e := range n.entries {
			attr := byte(0x20)
			if e.folder {
				attr = 0x10
			}
			short := aliasOf(e.name, used)
			data = append(data, longEntries(e.name, short)...)
			data = append(data, v.entry(short, attr, e.first, uint32(len(e.data)))...)
		}
	}
	if len(data) > 0 {
		if _, err := v.w.WriteAt(data, v.offset(n.first)); err != nil {
			return err
		}
	}
	me := n.first
	if n.label != "" {
		me = 0
	}
	for _, e := range n.entries {
		if err := v.write(e, me); err != nil {
			return err
		}
	}
	return nil
}

// entry is a directory entry of 32 bytes.
func (v *volume) entry(short string, attr byte, first, size uint32) []byte {
	b := make([]byte, 32)
	copy(b, short)
	b[11] = attr
	le := binary.LittleEndian
	le.PutUint16(b[14:], v.stamp[0])
	le.PutUint16(b[16:], v.stamp[1])
	le.PutUint16(b[18:], v.stamp[1])
	le.PutUint16(b[20:], uint16(first>>16))
	le.PutUint16(b[22:], v.stamp[0])
	le.PutUint16(b[24:], v.stamp[1])
	le.PutUint16(b[26:], uint16(first))
	le.PutUint32(b[28:], size)
	return b
}

func longSlots(name string) int { return (len(utf16.Encode([]rune(name))) + 12) / 13 }

// shortName fills a label up to eleven bytes.
func shortName(label string) string { return fmt.Sprintf("%-11.11s", strings.ToUpper(label)) }

// aliasOf is the 8.3 name that stands beside a long one, always with a number.
func aliasOf(name string, used map[string]bool) string {
	clean := func(s string, n int) string {
		s = strings.Map(func(r rune) rune {
			if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' {
				return r
			}
			return -1
		}, strings.ToUpper(s))
		return s[:min(n, len(s))]
	}
	ext := path.Ext(name)
	base := strings.TrimSuffix(name, ext)
	exact := fmt.Sprintf("%-8s%-3s", clean(base, 9), clean(ext, 4))
	if len(exact) == 11 && strings.ToUpper(name) == strings.TrimSuffix(strings.TrimRight(exact[:8], " ")+"."+strings.TrimRight(exact[8:], " "), ".") && !used[exact] {
		used[exact] = true
		return exact
	}
	for i := 1; ; i++ {
		tail := fmt.Sprintf("~%d", i)
		short := fmt.Sprintf("%-8s%-3s", clean(base, 8-len(tail))+tail, clean(ext, 3))
		if !used[short] {
			used[short] = true
			return short
		}
	}
}

// longEntries hold a long name, 13 letters each, the last part first.
func longEntries(name, short string) []byte {
	var sum byte
	for i := range 11 {
		sum = sum>>1 | sum<<7
		sum += short[i]
	}
	units := utf16.Encode([]rune(name))
	n := longSlots(name)
	var out []byte
	for i := n; i >= 1; i-- {
		b := make([]byte, 32)
		b[0] = byte(i)
		if i == n {
			b[0] |= 0x40
		}
		b[11], b[13] = 0x0f, sum
		for k := range 13 {
			at := 1 + 2*k
			switch {
			case k >= 11:
				at = 28 + 2*(k-11)
			case k >= 5:
				at = 14 + 2*(k-5)
			}
			c := uint16(0xffff)
			switch j := (i-1)*13 + k; {
			case j < len(units):
				c = units[j]
			case j == len(units):
				c = 0
			}
			binary.LittleEndian.PutUint16(b[at:], c)
		}
		out = append(out, b...)
	}
	return out
}

// writeHead writes the boot sector, its copy, the free space and both tables.
func (v *volume) writeHead(hidden uint32, label string) error {
	le := binary.LittleEndian
	boot := make([]byte, sectorBytes)
	copy(boot, "\xeb\x58\x90HOLDFAST")
	le.PutUint16(boot[11:], sectorBytes)
	boot[13] = clusterSectors
	le.PutUint16(boot[14:], reservedSectors)
	boot[16] = fatCopies
	boot[21] = mediaFixed
	le.PutUint16(boot[24:], 63)
	le.PutUint16(boot[26:], 255)
	le.PutUint32(boot[28:], hidden)
	le.PutUint32(boot[32:], v.sectors)
	le.PutUint32(boot[36:], v.fatSize)
	le.PutUint32(boot[44:], 2) // the root's cluster
	le.PutUint16(boot[48:], 1) // where the free space stands
	le.PutUint16(boot[50:], 6) // where the copy stands
	boot[64], boot[66] = 0x80, 0x29
	le.PutUint32(boot[67:], 0x484f4c44)
	copy(boot[71:], shortName(label))
	copy(boot[82:], "FAT32   ")
	boot[510], boot[511] = 0x55, 0xaa

	info := make([]byte, sectorBytes)
	copy(info, "RRaA")
	copy(info[484:], "rrAa")
	le.PutUint32(info[488:], v.clusters+2-uint32(len(v.fat)))
	le.PutUint32(info[492:], uint32(len(v.fat)))
	info[510], info[511] = 0x55, 0xaa

	table := make([]byte, 4*len(v.fat))
	for i, c := range v.fat {
		le.PutUint32(table[4*i:], c)
	}
	type part struct {
		at   int64
		data []byte
	}
	parts := []part{{0, boot}, {1, info}, {6, boot}, {7, info}, {reservedSectors, table}, {reservedSectors + int64(v.fatSize), table}}
	for _, p := range parts {
		if _, err := v.w.WriteAt(p.data, v.at+p.at*sectorBytes); err != nil {
			return err
		}
	}
	return nil
}
