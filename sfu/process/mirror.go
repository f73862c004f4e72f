package process

import (
	"slices"
	"sync"
	"time"

	"holdfast/sfu"
)

// mirror is what the house knows of who is where. It outlives the relay's process:
// who was in a call when that ended is away, not gone, until the grace passes.
type mirror struct {
	mu    sync.Mutex
	rooms map[string]map[string]bool // room → identity → away
	next  int
	subs  map[int]func(sfu.Change)
	grace *time.Timer // ends the absences; nil: nobody is away

	queue  []sfu.Change
	wake   chan struct{}
	closed bool
}

func newMirror() *mirror {
	m := &mirror{rooms: map[string]map[string]bool{}, subs: map[int]func(sfu.Change){}, wake: make(chan struct{}, 1)}
	go m.run()
	return m
}

// run calls the subscribers, one change after the other.
func (m *mirror) run() {
	for range m.wake {
		m.mu.Lock()
		queue := m.queue
		m.queue = nil
		subs := make([]func(sfu.Change), 0, len(m.subs))
		for _, f := range m.subs {
			subs = append(subs, f)
		}
		m.mu.Unlock()
		for _, c := range queue {
			for _, f := range subs {
				f(c)
			}
		}
	}
}

func (m *mirror) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.grace != nil {
		m.grace.Stop()
	}
	if !m.closed {
		m.closed = true
		close(m.wake)
	}
}

// put queues a change for the subscribers. m.mu is held.
func (m *mirror) put(c sfu.Change) {
	if m.closed {
		return
	}
	m.queue = append(m.queue, c)
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *mirror) subscribe(f func(sfu.Change)) func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.next
	m.next++
	m.subs[id] = f
	return func() {
		m.mu.Lock()
		delete(m.subs, id)
		m.mu.Unlock()
	}
}

// began notes a room. m.mu is held.
func (m *mirror) began(room string) {
	if m.rooms[room] == nil {
		m.rooms[room] = map[string]bool{}
		m.put(sfu.Change{Kind: sfu.Began, Room: room})
	}
}

// ensure notes a room that the relay was asked for.
func (m *mirror) ensure(room string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.began(room)
}

// apply takes over what the relay says.
func (m *mirror) apply(c sfu.Change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch c.Kind {
	case sfu.Began:
		m.began(c.Room)
	case sfu.Joined:
		m.began(c.Room)
		_, was := m.rooms[c.Room][c.Identity]
		m.rooms[c.Room][c.Identity] = false
		if !was {
			m.put(c)
		}
	case sfu.Left:
		if _, was := m.rooms[c.Room][c.Identity]; was {
			delete(m.rooms[c.Room], c.Identity)
			m.put(c)
		}
	case sfu.Ended:
		if was, ok := m.rooms[c.Room]; ok {
			for who := range was {
				m.put(sfu.Change{Kind: sfu.Left, Room: c.Room, Identity: who})
			}
			delete(m.rooms, c.Room)
			m.put(c)
		}
	}
}

// lost notes that the relay's process ended: everybody is away, for at most the time
// that is given.
func (m *mirror) lost(within time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.rooms {
		for who := range r {
			r[who] = true
		}
	}
	m.within(within)
}

// within ends the absences after d. m.mu is held.
func (m *mirror) within(d time.Duration) {
	if m.grace != nil {
		m.grace.Stop()
	}
	if !m.closed {
		m.grace = time.AfterFunc(d, m.giveUp)
	}
}

// back notes that the relay runs again: who is away has d to return.
func (m *mirror) back(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.grace != nil {
		m.within(d)
	}
}

func (m *mirror) giveUp() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.grace = nil
	for room, r := range m.rooms {
		for who, away := range r {
			if away {
				delete(r, who)
				m.put(sfu.Change{Kind: sfu.Left, Room: room, Identity: who})
			}
		}
	}
}

// in lists who is in a room, or away from it.
func (m *mirror) in(room string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]string, 0, len(m.rooms[room]))
	for who := range m.rooms[room] {
		out = append(out, who)
	}
	slices.Sort(out)
	return out
}

func (m *mirror) list() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]string, 0, len(m.rooms))
	for room := range m.rooms {
		out = append(out, room)
	}
	slices.Sort(out)
	return out
}

// stats counts who is there; who is away is not.
func (m *mirror) stats() sfu.Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := sfu.Stats{Rooms: len(m.rooms)}
	for room, r := range m.rooms {
		if sfu.IsSelfTest(room) {
			continue
		}
		here := 0
		for _, away := range r {
			if !away {
				here++
			}
		}
		s.Participants += here
		if here > 0 {
			s.Calls++
		}
	}
	return s
}
