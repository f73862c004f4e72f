package disk

import (
	"encoding/binary"
	"hash/crc32"
	"testing"

	"holdfast/image/disk/disktest"
)

// writeTable writes a partition table of a disk of that many sectors, as another
// program does.
func writeTable(t testing.TB, d *disktest.Disk, entries []byte, sectors uint64) {
	t.Helper()
	le := binary.LittleEndian
	for _, c := range []struct{ lba, other, list uint64 }{{1, sectors - 1, 2}, {sectors - 1, 1, sectors - 33}} {
		h := make([]byte, 512)
		copy(h, "EFI PART\x00\x00\x01\x00\x5c")
		le.PutUint64(h[24:], c.lba)
		le.PutUint64(h[32:], c.other)
		le.PutUint64(h[40:], 34)
		le.PutUint64(h[48:], sectors-34)
		le.PutUint64(h[72:], c.list)
		le.PutUint32(h[80:], 128)
		le.PutUint32(h[84:], 128)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		for at, b := range map[uint64][]byte{c.lba: h, c.list: entries} {
			if _, err := d.WriteAt(b, int64(at)*512); err != nil {
				t.Fatal(err)
			}
		}
	}
}
