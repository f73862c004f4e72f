package account

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestPassword(t *testing.T) {
	h := newHasher(Cost{MemoryKiB: 64, Passes: 1, Threads: 1})
	stored, err := h.hash(t.Context(), "correct horse")
	if err != nil || !strings.HasPrefix(stored, "$argon2id$v=19$m=64,t=1,p=1$") {
		t.Fatal(stored, err)
	}
	if again, _ := h.hash(t.Context(), "correct horse"); again == stored {
		t.Error("the salt is not random")
	}
	for password, want := range map[string]bool{"correct horse": true, "correct horsf": false, "": false} {
		if ok, err := h.verify(t.Context(), stored, password); ok != want || err != nil {
			t.Errorf("%q: %v %v", password, ok, err)
		}
	}
	if ok, err := h.verify(t.Context(), "", ""); ok || err != nil {
		t.Error("no password matches the empty one", err)
	}
	p := phc{Cost: Cost{MemoryKiB: 64, Passes: 2, Threads: 1}, salt: []byte("somesalt"), key: make([]byte, keyBytes)}
	if q, err := parsePHC(p.String()); err != nil || q.String() != p.String() {
		t.Error(q, err)
	}
}

// As many checks wait as may; whoever comes then is told to come again, and the others
// are answered.
func TestChecksWaitInALine(t *testing.T) {
	h := newHasher(Cost{MemoryKiB: 64, Passes: 1, Threads: 1})
	stored, err := h.hash(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	for range cap(h.slots) { // all are busy
		h.slots <- struct{}{}
		h.checks.Add(1)
	}
	line := cap(h.slots) * maxLine
	answers := make(chan error, line)
	for range line {
		go func() {
			ok, err := h.verify(context.Background(), stored, "correct horse")
			if err == nil && !ok {
				err = errors.New("the right password is wrong")
			}
			answers <- err
		}()
	}
	for h.checks.Load() < int64(cap(h.slots)+line) {
		time.Sleep(time.Millisecond)
	}
	var slow *SlowDown
	if _, err := h.verify(t.Context(), stored, "correct horse"); !errors.As(err, &slow) || !slow.Busy || slow.Wait <= 0 {
		t.Errorf("one too many: %v", err)
	}
	for range cap(h.slots) {
		<-h.slots
		h.checks.Add(-1)
	}
	for range line {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if ok, err := h.verify(t.Context(), stored, "correct horse"); !ok || err != nil || h.checks.Load() != 0 {
		t.Errorf("once the line is gone: %v %v, %d left", ok, err, h.checks.Load())
	}
}

func TestCalibrationKeepsTheFloor(t *testing.T) {
	if testing.Short() {
		t.Skip("computes a real hash")
	}
	c := newHasher(Cost{}).calibrated()
	if c.MemoryKiB < Floor.MemoryKiB || c.Passes < Floor.Passes || c.Threads < 1 {
		t.Fatalf("%+v is below the floor", c)
	}
}

func TestULID(t *testing.T) {
	if got := NewULID(time.UnixMilli(1469918176385)); !strings.HasPrefix(got, "01ARYZ6S41") || len(got) != 26 {
		t.Fatal(got)
	}
	if a, b := NewULID(time.UnixMilli(1)), NewULID(time.UnixMilli(2)); a >= b {
		t.Error("IDs do not sort by time")
	}
}

// FuzzPHC checks that what is read is within bounds and written the same way.
func FuzzPHC(f *testing.F) {
	for _, s := range []string{"$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "$argon2i$v=19$m=1,t=1,p=1$$", "$argon2id$v=19$m=4294967295,t=2,p=1$c29tZXNhbHQ$AAAA", "", "$$$$$"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePHC(s)
		if err != nil {
			return
		}
		if p.MemoryKiB == 0 || p.MemoryKiB > maxMemoryKiB || p.Passes == 0 || p.Passes > maxPasses || p.Threads == 0 || len(p.key) != keyBytes || len(p.salt) < 8 {
			t.Fatalf("%q: %+v", s, p.Cost)
		}
		if p.String() != s {
			t.Fatalf("%q is written as %q", s, p)
		}
	})
}
