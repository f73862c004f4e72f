package unlock

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// gate lets guesses through, one at a time.
//
// An address may be wrong three times, and then has to wait: two seconds, four, and
// so on up to a minute. All together may be wrong thirty times, and then once in
// ten seconds; somebody who was never wrong does not wait for others, so that
// nobody can keep the administrator out.
type gate struct {
	turn chan struct{}
	now  func() time.Time

	mu      sync.Mutex
	waiting int
	by      map[netip.Prefix]*record
	wrong   int // by all, less one for each ten seconds
	since   time.Time
}

type record struct {
	wrong int
	until time.Time
}

const (
	freeGuesses = 3
	longestWait = time.Minute
	allGuesses  = 30
	allPause    = 10 * time.Second
	maxWaiting  = 8
	maxRecords  = 4096
	// forgetAfter is when an address begins anew.
	forgetAfter = time.Hour
)

func newGate(now func() time.Time) *gate {
	return &gate{turn: make(chan struct{}, 1), now: now, by: map[netip.Prefix]*record{}, since: now()}
}

// enter waits for the turn of an address. leave must be called with whether the
// guess was not wrong. Where it is nil, the address has to wait that long.
func (g *gate) enter(ctx context.Context, from netip.Prefix) (leave func(ok bool), wait time.Duration) {
	if wait := g.ask(from); wait > 0 {
		return nil, wait
	}
	defer func() {
		g.mu.Lock()
		g.waiting--
		g.mu.Unlock()
	}()
	select {
	case g.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, time.Second
	}
	// Others of the same address may have been wrong meanwhile.
	g.mu.Lock()
	wait = g.pause(from)
	g.mu.Unlock()
	if wait > 0 {
		<-g.turn
		return nil, wait
	}
	return func(ok bool) {
		if !ok {
			g.fail(from)
		}
		<-g.turn
	}, 0
}

func (g *gate) ask(from netip.Prefix) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if wait := g.pause(from); wait > 0 {
		return wait
	}
	if g.waiting >= maxWaiting {
		return 5 * time.Second
	}
	g.waiting++
	return 0
}

// pause is how long an address has to wait now.
func (g *gate) pause(from netip.Prefix) time.Duration {
	now := g.now()
	if n := int(now.Sub(g.since) / allPause); n > 0 {
		g.wrong = max(0, g.wrong-n)
		g.since = g.since.Add(time.Duration(n) * allPause)
	}
	r := g.by[from]
	if r == nil {
		return 0
	}
	if wait := r.until.Sub(now); wait > 0 {
		return wait
	}
	if g.wrong >= allGuesses {
		return g.since.Add(allPause).Sub(now)
	}
	return 0
}

func (g *gate) fail(from netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	g.wrong++
	r := g.by[from]
	if r == nil || now.Sub(r.until) > forgetAfter {
		if len(g.by) >= maxRecords {
			g.forget(now)
		}
		r = &record{}
		g.by[from] = r
	}
	r.wrong++
	r.until = now
	if n := r.wrong - freeGuesses; n >= 0 {
		r.until = now.Add(min(longestWait, 2*time.Second<<min(n, 10)))
	}
}

// forget makes room: those who need not wait any more go, or else the one who would
// wait the shortest.
func (g *gate) forget(now time.Time) {
	var first netip.Prefix
	var until time.Time
	for p, r := range g.by {
		if r.until.Before(now) {
			delete(g.by, p)
		} else if until.IsZero() || r.until.Before(until) {
			first, until = p, r.until
		}
	}
	if len(g.by) >= maxRecords {
		delete(g.by, first)
	}
}
