package image_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"holdfast/image/disk/gpt"
	"holdfast/image/disk/luks"
)

// writeLog is what QEMU's blklogwrites driver noted: every write to a disk in
// order, and every flush. Format: Linux, Documentation/admin-guide/device-mapper/log-writes.rst.
type writeLog struct {
	f       *os.File
	sector  int64
	entries []logEntry
}

type logEntry struct {
	sector, count int64 // in units of writeLog.sector
	flags         uint64
	data          int64 // where its data is in the log
	end           int64 // where the next entry begins
}

const (
	logMagic   = 0x6a736677736872
	logFlush   = 1
	logFUA     = 2
	logDiscard = 4
)

func openLog(path string) (*writeLog, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	l := &writeLog{f: f, sector: 512}
	var head [28]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint64(head[:]) != logMagic {
		return nil, errors.New("this is no log of writes")
	}
	l.sector = int64(binary.LittleEndian.Uint32(head[24:]))
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	// The header's count is only written now and then: the entries themselves end
	// where nothing sensible follows.
	for at := l.sector; at+l.sector <= size; {
		var b [32]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			return nil, err
		}
		e := logEntry{
			sector: int64(binary.LittleEndian.Uint64(b[0:])), count: int64(binary.LittleEndian.Uint64(b[8:])),
			flags: binary.LittleEndian.Uint64(b[16:]), data: at + l.sector,
		}
		e.end = e.data
		if e.flags&logDiscard == 0 {
			e.end += e.count * l.sector
		}
		if e.flags == 0 && e.count == 0 || e.flags > 15 || e.end > size {
			break
		}
		l.entries = append(l.entries, e)
		at = e.end
	}
	return l, nil
}

// cut builds what is on the disk when the power goes right after entry n: all that
// was flushed by then, and of the rest whichever writes the disk happened to do.
func (l *writeLog) cut(blank, to string, n int, r *rand.Rand, t testing.TB) {
	t.Helper()
	copyFile(t, blank, to)
	out, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	safe := 0
	for i, e := range l.entries[:n] {
		if e.flags&logFlush != 0 {
			safe = i + 1
		}
	}
	for i, e := range l.entries[:n] {
		if i >= safe && e.flags&logFUA == 0 && r.IntN(2) == 0 {
			continue // it was in the disk's cache
		}
		if err := l.apply(out, e); err != nil {
			t.Fatal(err)
		}
	}
}

func (l *writeLog) apply(out *os.File, e logEntry) error {
	if e.count == 0 {
		return nil
	}
	at, n := e.sector*l.sector, e.count*l.sector
	if e.flags&logDiscard != 0 {
		return nil // what was discarded may still be there
	}
	_, err := io.Copy(io.NewOffsetWriter(out, at), io.NewSectionReader(l.f, e.data, n))
	return err
}

// cuts is how many power cuts are replayed: 50 in a full run, few in CI.
func cuts(t testing.TB, usual int) int {
	if s := os.Getenv("HOLDFAST_CUTS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return usual
}

// logged starts a machine whose writes are logged, also after it was started again.
func logged(t testing.TB, disk, log string) *vm {
	t.Helper()
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m := start(t, options{diskArgs: logArgs(disk, log, false)})
	m.opt.diskArgs = logArgs(disk, log, true)
	return m
}

func logArgs(disk, log string, more bool) []string {
	driver := "driver=blklogwrites,node-name=hd,file=base,log=log"
	if more {
		driver += ",log-append=on"
	}
	return []string{
		"-blockdev", "driver=raw,node-name=base,file.driver=file,file.filename=" + disk + ",cache.direct=off,cache.no-flush=off",
		"-blockdev", "driver=file,node-name=log,filename=" + log,
		"-blockdev", driver,
		"-device", "virtio-blk-pci,drive=hd,bootindex=1",
	}
}

// ack is a message that was acknowledged when the log had so many bytes.
type ack struct {
	n  int
	at int64
}

// TestPowerCuts records every write of a first boot, a setup, some messages, and an
// update until it is blessed, and then switches machines on whose disks are what a
// power cut at a random moment leaves. Each must boot, with the version before or
// the new one; each must have what was acknowledged before its moment.
func TestPowerCuts(t *testing.T) {
	good := bundle(t, "HOLDFAST_UPDATE")
	dir := t.TempDir()
	blank, work, log := disk(t, 2), filepath.Join(dir, "work.raw"), filepath.Join(dir, "log")
	copyFile(t, blank, work)
	m := logged(t, work, log)
	size := func() int64 {
		info, err := os.Stat(log)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	first := m.ready(0)
	booted := size()
	s := claim(t, m)
	claimed := size()
	var acks []ack
	for range 60 {
		s.mustSend()
		acks = append(acks, ack{s.sent, size()})
	}
	written := size()
	s.signIn()
	version := s.update(good)
	if got := m.ready(m.again()); got != version {
		t.Fatalf("%s runs after the update to %s", got, version)
	}
	blessed := size()
	m.pullPlug()

	l, err := openLog(log)
	if err != nil {
		t.Fatal(err)
	}
	defer l.f.Close()
	if last := l.entries[len(l.entries)-1].end; last < blessed-blessed/100 {
		t.Fatalf("the log was understood up to %d of %d bytes", last, blessed)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("%d writes and flushes, %d MB; seed %d", len(l.entries), size()>>20, seed)
	r := rand.New(rand.NewPCG(seed, 1))
	spans := []struct {
		name     string
		from, to int64
	}{{"first boot", 0, booted}, {"messages", claimed, written}, {"update", written, blessed}}
	for i := range cuts(t, 50) {
		span := spans[i%len(spans)]
		n := l.entryBetween(span.from, span.to, r)
		t.Run(fmt.Sprintf("%d in %s at entry %d", i, span.name, n), func(t *testing.T) {
			at := l.entries[n-1].end
			disk := filepath.Join(t.TempDir(), "cut.raw")
			l.cut(blank, disk, n, r, t)
			m := start(t, options{disk: disk})
			if got := m.ready(0); got != first && (got != version || span.name != "update") {
				t.Errorf("%s runs", got)
			}
			if at < claimed {
				claim(t, m).mustSend()
				return
			}
			after := &site{vm: m, admin: m.client(), room: s.room}
			after.login()
			for _, a := range acks {
				if a.at <= at {
					after.sent = a.n
				}
			}
			after.check()
			after.sent = len(acks) + i // transaction IDs that nobody used
			after.mustSend()
		})
	}
}

// entryBetween picks an entry that ends between two sizes of the log, as a count.
func (l *writeLog) entryBetween(from, to int64, r *rand.Rand) int {
	var first, last int
	for i, e := range l.entries {
		if e.end <= from {
			first = i + 1
		}
		if e.end <= to {
			last = i + 1
		}
	}
	return max(1, first+r.IntN(max(1, last-first+1)))
}

// TestCutWhileGrowing cuts the power where the file system's new size is in its journal
// and nowhere else yet: the kernel counts the block groups before it reads that.
func TestCutWhileGrowing(t *testing.T) {
	dir := t.TempDir()
	blank, work, log := disk(t, 2), filepath.Join(dir, "work.raw"), filepath.Join(dir, "log")
	copyFile(t, blank, work)
	m := logged(t, work, log)
	m.ready(0)
	m.pullPlug()
	l, err := openLog(log)
	if err != nil {
		t.Fatal(err)
	}
	defer l.f.Close()
	superblock := dataStart(t, work)
	writes := 0 // of the superblock in its place, once there is a file system: by mounting, by growing
	n := slices.IndexFunc(l.entries, func(e logEntry) bool {
		at := e.sector * l.sector
		if at <= superblock && superblock < at+e.count*l.sector && e.count*l.sector <= 64<<10 {
			writes++
		}
		return writes == 2
	})
	if n < 0 {
		t.Fatal("the superblock was not written twice")
	}
	t.Logf("the power goes before entry %d of %d", n, len(l.entries))
	cut := filepath.Join(dir, "cut.raw")
	l.cut(blank, cut, n, rand.New(rand.NewPCG(1, 1)), t)
	m = start(t, options{disk: cut})
	m.ready(0)
	claim(t, m).mustSend()
}

// dataStart is where the file system begins on a raw disk, in bytes.
func dataStart(t testing.TB, raw string) int64 {
	t.Helper()
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Read(f, 512, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	data, err := table.Find("holdfast-data")
	if err != nil {
		t.Fatal(err)
	}
	return int64(data.First)*512 + luks.DataOffset
}
