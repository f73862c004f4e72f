package main

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// guid is one as it is written down; on disk the first three groups are reversed.
type guid string

func (g guid) bytes() []byte {
	var b []byte
	hi := -1
	for _, c := range []byte(g) {
		var d int
		switch {
		case c >= '0' && c <= '9':
			d = int(c - '0')
		case c >= 'A' && c <= 'F':
			d = int(c-'A') + 10
		default:
			continue
		}
		if hi < 0 {
			hi = d
			continue
		}
		b, hi = append(b, byte(hi<<4|d)), -1
	}
	for _, r := range [][2]int{{0, 3}, {1, 2}, {4, 5}, {6, 7}} {
		b[r[0]], b[r[1]] = b[r[1]], b[r[0]]
	}
	return b
}

// Types of partitions. Source: UAPI Discoverable Partitions Specification.
const (
	typeESP  guid = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
	typeLUKS guid = "CA7D7CCB-63ED-4C53-861C-1742536059CC"
)

// partition is one of a disk, in sectors.
type partition struct {
	kind, id     guid
	label        string
	first, count uint64
}

const (
	gptEntries    = 128
	gptEntrySize  = 128
	gptTableBytes = gptEntries * gptEntrySize
	gptTail       = gptTableBytes/sectorBytes + 1 // sectors at the disk's end
)

// writeGPT writes both partition tables and the protective master boot record.
// mbr entries, if there are any, come first in that record, for firmware that knows
// no GPT.
// Source: UEFI Specification, "GUID Partition Table (GPT) Disk Layout".
func writeGPT(w io.WriterAt, sectors uint64, disk guid, parts []partition, mbr []partition) error {
	table := make([]byte, gptTableBytes)
	le := binary.LittleEndian
	for i, p := range parts {
		e := table[i*gptEntrySize:]
		copy(e, p.kind.bytes())
		copy(e[16:], p.id.bytes())
		le.PutUint64(e[32:], p.first)
		le.PutUint64(e[40:], p.first+p.count-1)
		for k, c := range utf16.Encode([]rune(p.label)) {
			le.PutUint16(e[56+2*k:], c)
		}
	}
	last := sectors - 1
	head := func(me, other, tableAt uint64) []byte {
		h := make([]byte, sectorBytes)
		copy(h, "EFI PART\x00\x00\x01\x00")
		le.PutUint32(h[12:], 92)
		le.PutUint64(h[24:], me)
		le.PutUint64(h[32:], other)
		le.PutUint64(h[40:], 1+gptTail) // first sector that partitions may use
		le.PutUint64(h[48:], last-gptTail)
		copy(h[56:], disk.bytes())
		le.PutUint64(h[72:], tableAt)
		le.PutUint32(h[80:], gptEntries)
		le.PutUint32(h[84:], gptEntrySize)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(table))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		return h
	}
	record := make([]byte, sectorBytes)
	for i, p := range mbr {
		putMBR(record[446+16*i:], 0x0c, p.first, p.count)
	}
	putMBR(record[446+16*len(mbr):], 0xee, 1, min(last, 0xffffffff))
	record[510], record[511] = 0x55, 0xaa
	for _, p := range []struct {
		sector uint64
		data   []byte
	}{
		{0, record}, {1, head(1, last, 2)}, {2, table},
		{last - gptTail + 1, table}, {last, head(last, 1, last-gptTail+1)},
	} {
		if _, err := w.WriteAt(p.data, int64(p.sector)*sectorBytes); err != nil {
			return err
		}
	}
	return nil
}

func putMBR(b []byte, kind byte, first, count uint64) {
	copy(b[1:], "\x00\x02\x00")
	b[4] = kind
	copy(b[5:], "\xff\xff\xff")
	binary.LittleEndian.PutUint32(b[8:], uint32(first))
	binary.LittleEndian.PutUint32(b[12:], uint32(count))
}
