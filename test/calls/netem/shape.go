// Package netem joins two network namespaces by a bad line, for tests: a given share of
// packets is lost, all of them take a while, and no more than a given number of bits a
// second get through a queue of limited length. It is what `tc qdisc add … netem` does,
// for kernels that are built without sch_netem, and it can be changed while packets are
// under way.
//
// Invariants: which of the packets are lost depends on the seed and on their number
// alone; packets keep their order; what waits is bounded by the queue, and by
// maxWaiting packets; both directions are independent of each other.
package netem

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Rules are what a line does to the packets of one direction.
type Rules struct {
	Loss  float64       // share of packets that are lost, 0 to 1
	Delay time.Duration // how long a packet takes, after it has been sent
	Rate  int           // bits a second; 0: unlimited
	// Queue is how many bytes may wait to be sent where Rate is set. 0: a fifth of a
	// second's worth.
	Queue int
	// Packets is how many packets may wait where Rate is set, besides. A queue that has
	// room for so many loses of small ones as much as of large ones; one of bytes spares
	// the small ones. 0: any number.
	Packets int
}

// Counts are the packets of one direction.
type Counts struct {
	Came, Lost, Dropped int // Dropped: the queue was full
}

// shaper decides what becomes of each packet. It knows no clock of its own.
type shaper struct {
	mu     sync.Mutex
	rules  Rules
	rand   *rand.Rand
	free   time.Time   // when the line has sent what it took so far
	last   time.Time   // when the latest packet arrives
	leave  []time.Time // when those that wait have been sent
	counts Counts
}

func newShaper(seed uint64, r Rules) *shaper {
	return &shaper{rules: r, rand: rand.New(rand.NewPCG(seed, seed))}
}

func (s *shaper) set(r Rules) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = r
}

// take takes a packet of n bytes, and tells when it arrives, if it does.
func (s *shaper) take(now time.Time, n int) (at time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Came++
	if s.rand.Float64() < s.rules.Loss { // drawn for every packet, so that rules do not shift the sequence
		s.counts.Lost++
		return time.Time{}, false
	}
	at = now
	if rate := s.rules.Rate; rate > 0 {
		queue := s.rules.Queue
		if queue == 0 {
			queue = rate / 8 / 5
		}
		if s.free.Before(now) {
			s.free = now
		}
		for len(s.leave) > 0 && !s.leave[0].After(now) {
			s.leave = s.leave[1:]
		}
		waiting := int(s.free.Sub(now).Seconds() * float64(rate) / 8)
		if waiting > 0 && waiting+n > queue || s.rules.Packets > 0 && len(s.leave) >= s.rules.Packets {
			s.counts.Dropped++
			return time.Time{}, false
		}
		s.free = s.free.Add(time.Duration(float64(n) * 8 / float64(rate) * float64(time.Second)))
		at = s.free
		s.leave = append(s.leave, at)
	}
	at = at.Add(s.rules.Delay)
	if at.Before(s.last) { // the rules became kinder
		at = s.last
	}
	s.last = at
	return at, true
}
