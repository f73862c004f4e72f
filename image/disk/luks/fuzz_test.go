package luks

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"holdfast/image/disk/disktest"
)

// whole writes a header with any JSON and any binary part, with checksums that are
// right, as both copies.
func whole(d *disktest.Disk, head, body []byte) {
	for which := range int64(2) {
		b := make([]byte, headerSize)
		d.ReadAt(b, which*headerSize)
		for i := range b[binSize:] {
			b[binSize+i] = 0
		}
		copy(b[6:448], head)
		copy(b[binSize:], body)
		binary.BigEndian.PutUint64(b[256:], uint64(which*headerSize))
		clear(b[448:512])
		sum := sha256.Sum256(b)
		copy(b[448:], sum[:])
		d.WriteAt(b, which*headerSize)
	}
}

func sample(t testing.TB) (d *disktest.Disk, head, body []byte, key []byte) {
	d = disktest.New(testSize)
	h, key, err := Format(d, testUUID, "holdfast-data", "holdfast", 4096,
		NewSlot{Pass: []byte("first"), KDF: RandomKDF(), Token: NewToken("test-first", map[string]any{"x": 1})},
		NewToken(WipeToken, map[string]any{"areas": []span{{1 << 20, 4096}}}))
	if err != nil {
		t.Fatal(err)
	}
	if body, err = h.marshal(); err != nil {
		t.Fatal(err)
	}
	head = make([]byte, 442)
	d.ReadAt(make([]byte, 512), 0)
	first := make([]byte, 512)
	d.ReadAt(first, 0)
	copy(head, first[6:448])
	return d, head, body, key
}

// What a header says is understood or refused: nothing panics, nothing is written
// outside the header's own place, and what was taken is read back after a change.
func FuzzHeader(f *testing.F) {
	d, head, body, key := sample(f)
	f.Add(head, body)
	for _, change := range [][2]string{
		{`"16777216"`, `"8192"`}, {`"dynamic"`, `"99"`}, {`"offset":"32768"`, `"offset":"0"`}, {`"size":"258048"`, `"size":"99999999999999999"`},
		{`"requirements"`, `"x"`}, {`"keyslots":["0"]`, `"keyslots":["7"]`}, {`{"0"`, `{"-1"`}, {`holdfast-wipe`, `luks2-keyring`},
		{`"iterations":1000`, `"iterations":-5`}, {`"offset":"1048576"`, `"offset":"16000000000"`},
	} {
		f.Add(head, []byte(strings.ReplaceAll(string(body), change[0], change[1])))
	}
	outside := make([]byte, 1<<20)
	for i := range outside {
		outside[i] = byte(i * 7)
	}
	f.Fuzz(func(t *testing.T, head, body []byte) {
		c := d.Clone()
		c.WriteAt(outside, DataOffset)
		whole(c, head, body)
		h, err := Read(c, testSize)
		if err != nil {
			return
		}
		offset, ss := h.Data()
		if offset < 2*headerSize || offset > testSize || ss < 512 || ss > 4096 {
			t.Fatal(offset, ss)
		}
		h.Discards()
		h.Tokens("test-first")
		slots := h.Slots()
		change := Change{Add: []NewSlot{{Pass: []byte("added"), KDF: RandomKDF()}}}
		if len(slots) > 0 {
			change.Remove = slots[:1]
		}
		err = h.Change(c, key, change)
		got := make([]byte, len(outside))
		c.ReadAt(got, DataOffset)
		if offset == DataOffset && string(got) != string(outside) {
			t.Fatal("the data was written to")
		}
		if err != nil {
			return
		}
		again, err := Read(c, testSize)
		if err != nil {
			t.Fatal(err)
		}
		// A digest of another key does not open, but never another way.
		if _, _, err := again.Open(c, []byte("added"), again.Slots()[len(again.Slots())-1]); err != nil && !errors.Is(err, ErrPass) && !errors.Is(err, ErrNewer) && !errors.Is(err, ErrMemory) {
			t.Fatal(err)
		}
	})
}

// Any bytes in the place of the first copy: the second one is used, and the first
// one put back.
func FuzzFirstCopy(f *testing.F) {
	d, _, _, key := sample(f)
	f.Add([]byte("LUKS\xba\xbe\x00\x02"), uint16(0))
	f.Add([]byte("LUKS\xba\xbe\x00\x09"), uint16(0))
	f.Add([]byte("{}"), uint16(binSize))
	f.Fuzz(func(t *testing.T, junk []byte, at uint16) {
		c := d.Clone()
		b := make([]byte, headerSize)
		c.ReadAt(b, 0)
		was := string(b)
		copy(b[int(at)%headerSize:], junk)
		if string(b) == was {
			return
		}
		c.WriteAt(b, 0)
		for range 2 {
			h, err := Read(c, testSize)
			if err != nil {
				t.Fatal(err)
			}
			if got, _, err := h.Open(c, []byte("first")); err != nil || string(got) != string(key) {
				t.Fatal(err)
			}
			c.WriteAt(make([]byte, 512), headerSize) // from now on the first one is needed
		}
	})
}
