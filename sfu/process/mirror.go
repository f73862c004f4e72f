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
	mu     sync.Mutex
	rooms  map[string]map[string]bool // room → identity → away
	told   *sfu.Changes
	grace  *time.Timer // ends the absences; nil: nobody is away
	closed bool
}

func newMirror() *mirror {
	return &mirror{rooms: map[string]map[string]bool{}, told: sfu.NewChanges()}
}

func (m *mirror) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.grace != nil {
		m.grace.Stop()
	}
	m.closed = true
	m.told.Close()
}

func (m *mirror) subscribe(f func(sfu.Change)) func() { return m.told.Subscribe(f) }

// began notes a room. m.mu is held.
func (m *mirror) began(room string) {
	if m.rooms[room] == nil {
		m.rooms[room] = map[string]bool{}
		m.told.Put(sfu.Change{Kind: sfu.Began, Room: room})
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
			m.told.Put(c)
		}
	case sfu.Left:
		if _, was := m.rooms[c.Room][c.Identity]; was {
			delete(m.rooms[c.Room], c.Identity)
			m.told.Put(c)
		}
	case sfu.Ended:
		if was, ok := m.rooms[c.Room]; ok {
			for who := range was {
				m.told.Put(sfu.Change{Kind: sfu.Left, Room: c.Room, Identity: who})
			}
			delete(m.rooms, c.Room)
			m.told.Put(c)
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
				m.told.Put(sfu.Change{Kind: sfu.Left, Room: room, Identity: who})
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
