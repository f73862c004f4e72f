package netem

import (
	"math"
	"testing"
	"time"
)

// fate sends n packets of size bytes, every apart, and returns which arrive, and when.
func fate(s *shaper, n, size int, every time.Duration) (arrives map[int]time.Duration) {
	arrives = map[int]time.Duration{}
	for i := range n {
		sent := time.Unix(0, 0).Add(time.Duration(i) * every)
		if at, ok := s.take(sent, size); ok {
			arrives[i] = at.Sub(time.Unix(0, 0))
		}
	}
	return arrives
}

func TestLoss(t *testing.T) {
	const n = 20_000
	a := fate(newShaper(1, Rules{Loss: 0.05}), n, 100, time.Millisecond)
	if lost := 1 - float64(len(a))/n; math.Abs(lost-0.05) > 0.005 {
		t.Errorf("lost %.3f", lost)
	}
	b := fate(newShaper(1, Rules{Loss: 0.05, Delay: time.Second, Rate: 1e9}), n, 50, time.Millisecond)
	c := fate(newShaper(2, Rules{Loss: 0.05}), n, 100, time.Millisecond)
	same := 0
	for i := range n {
		_, inA := a[i]
		_, inB := b[i]
		_, inC := c[i]
		if inA != inB {
			t.Fatalf("packet %d: the same seed loses another packet", i)
		}
		if !inA && !inC {
			same++
		}
	}
	if lost := n - len(a); same > lost/2 {
		t.Errorf("another seed loses %d of the same %d packets", same, lost)
	}
	if got := len(fate(newShaper(1, Rules{Loss: 1}), 100, 100, time.Millisecond)); got != 0 {
		t.Errorf("%d get through a line that is cut", got)
	}
}

func TestDelayAndRate(t *testing.T) {
	a := fate(newShaper(1, Rules{Delay: 100 * time.Millisecond}), 3, 1000, 10*time.Millisecond)
	for i, at := range a {
		if want := time.Duration(i)*10*time.Millisecond + 100*time.Millisecond; at != want {
			t.Errorf("packet %d after %v, want %v", i, at, want)
		}
	}
	// 1000 bytes take 8 ms at a megabit; ten at once fit in the queue, and go one by one.
	s := newShaper(1, Rules{Rate: 1_000_000, Queue: 10_000})
	a = fate(s, 10, 1000, 0)
	for i := range 10 {
		if want := time.Duration(i+1) * 8 * time.Millisecond; a[i] != want {
			t.Errorf("packet %d after %v, want %v", i, a[i], want)
		}
	}
	// Twice the rate: half gets through, and waits no longer than the queue allows.
	s = newShaper(1, Rules{Rate: 1_000_000, Queue: 10_000})
	a = fate(s, 2000, 1000, 4*time.Millisecond)
	if got := len(a); got < 1000 || got > 1020 {
		t.Errorf("%d of 2000 got through", got)
	}
	for i, at := range a {
		if wait := at - time.Duration(i)*4*time.Millisecond; wait > 80*time.Millisecond {
			t.Fatalf("packet %d waited for %v", i, wait)
		}
	}
	if c := s.counts; c.Came != 2000 || c.Lost != 0 || c.Dropped != 2000-len(a) {
		t.Errorf("%+v", c)
	}
	// A queue of four packets: a small one finds no more room than a large one.
	s = newShaper(1, Rules{Rate: 1_000_000, Queue: 10_000, Packets: 4})
	now := time.Unix(0, 0)
	for i := range 4 {
		if _, ok := s.take(now, 1000); !ok {
			t.Errorf("packet %d does not get through", i)
		}
	}
	if _, ok := s.take(now.Add(7*time.Millisecond), 10); ok {
		t.Error("a fifth packet waits")
	}
	if _, ok := s.take(now.Add(8*time.Millisecond), 10); !ok {
		t.Error("one has been sent, and yet there is no room")
	}
	// One that is larger than the queue goes when nothing waits.
	if _, ok := newShaper(1, Rules{Rate: 1000, Queue: 10}).take(time.Now(), 1000); !ok {
		t.Error("a packet can never be sent")
	}
}

func TestOrder(t *testing.T) {
	s := newShaper(1, Rules{Delay: time.Second})
	now := time.Unix(0, 0)
	first, _ := s.take(now, 100)
	s.set(Rules{})
	if second, ok := s.take(now.Add(time.Millisecond), 100); !ok || second.Before(first) {
		t.Errorf("the second arrives at %v, the first at %v", second, first)
	}
}
