package appservice

import (
	"sync"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/store"
)

// interestCache remembers which rooms interest which services by who is in them.
// Only the writer adds to it, with what it sees, so that it is never older than
// the last event of the room.
type interestCache struct {
	mu sync.Mutex
	m  map[string]map[*app]bool // by room ID
}

// maxRooms bounds the cache; a room takes about 200 bytes.
const maxRooms = 20_000

func (c *interestCache) init() { c.m = map[string]map[*app]bool{} }

func (c *interestCache) get(roomID string, a *app) (in, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in, known = c.m[roomID][a]
	return in, known
}

func (c *interestCache) put(roomID string, a *app, in bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.m[roomID]
	if m == nil {
		if len(c.m) >= maxRooms {
			clear(c.m)
		}
		m = map[*app]bool{}
		c.m[roomID] = m
	}
	m[a] = in
}

func (c *interestCache) drop(roomID string) {
	c.mu.Lock()
	delete(c.m, roomID)
	c.mu.Unlock()
}

// Event is what the service needs to know of an event that is being stored.
type Event struct {
	Pos      int64
	RoomID   string
	Sender   string
	Type     string
	StateKey *string
}

// Stored queues an event for those whom it interests. It is to be called in the
// transaction that stores it, after the memberships were brought up to date.
// Spec: as#definition-registration
func (s *Service) Stored(tx *store.Tx, e Event) error {
	apps := s.all()
	if len(apps) == 0 {
		return nil
	}
	target := ""
	if e.Type == mx.RoomMember && e.StateKey != nil {
		target = *e.StateKey
		for _, a := range apps {
			if s.owns(a, target) {
				s.rooms.drop(e.RoomID)
				tx.OnRollback(func() { s.rooms.drop(e.RoomID) })
				break
			}
		}
	}
	for _, a := range apps {
		if a.URL == "" {
			continue
		}
		ok := s.owns(a, e.Sender) || target != "" && s.owns(a, target)
		if !ok {
			var err error
			if ok, err = s.interested(tx, a, e.RoomID, true); err != nil {
				return err
			}
		}
		if !ok {
			continue
		}
		if err := insertQueued(tx, a.ID, e.Pos, nil); err != nil {
			return err
		}
		tx.AfterCommit(func() { a.queued.Store(true) })
	}
	return nil
}

// Message queues a to-device message for the services of its receiver. It is to be
// called in the transaction that stores it, with its position.
func (s *Service) Message(tx *store.Tx, userID, deviceID string, pos int64, msg mx.Raw) error {
	for _, a := range s.all() {
		if a.URL == "" || !a.Ephemeral && !a.Encryption || !s.owns(a, userID) {
			continue
		}
		body, err := withTarget(msg, userID, deviceID)
		if err != nil {
			return err
		}
		if err := insertQueued(tx, a.ID, pos, body); err != nil {
			return err
		}
		tx.AfterCommit(func() { a.queued.Store(true) })
	}
	return nil
}

// interested reports whether a service gets all that happens in a room: by the
// room's ID, one of its aliases, or a joined member. writing says that q is the
// writer's.
func (s *Service) interested(q store.Querier, a *app, roomID string, writing bool) (bool, error) {
	if matchesAny(a.Namespaces.Rooms, roomID) {
		return true, nil
	}
	in, known := s.rooms.get(roomID, a)
	if !known {
		members, err := s.o.Rooms.Members(q, roomID, mx.Join)
		if err != nil {
			return false, err
		}
		for _, m := range members {
			if s.owns(a, m) {
				in = true
				break
			}
		}
		if writing {
			s.rooms.put(roomID, a, in)
			if tx, ok := q.(*store.Tx); ok {
				tx.OnRollback(func() { s.rooms.drop(roomID) })
			}
		}
	}
	if in || len(a.Namespaces.Aliases) == 0 {
		return in, nil
	}
	aliases, err := s.o.Rooms.Aliases(q, roomID)
	if err != nil {
		return false, err
	}
	for _, al := range aliases {
		if matchesAny(a.Namespaces.Aliases, al) {
			return true, nil
		}
	}
	return false, nil
}

// touched runs under the writer after each commit: it wakes those for whom there
// may be something.
func (s *Service) touched(_ int64, list []store.Touch) {
	for _, a := range s.all() {
		if a.URL == "" {
			continue
		}
		wake := a.queued.Swap(false)
		for i := range list {
			t := &list[i]
			switch t.Kind {
			case notify.Typing, notify.Receipt, notify.Presence:
				wake = wake || a.Ephemeral
			case notify.User: // a private receipt, perhaps
				wake = wake || a.Ephemeral && s.owns(a, t.Key)
			case notify.DevList, notify.Member:
				wake = wake || a.Encryption
			case notify.Device:
				if user, device, ok := cutDevice(t.Key); a.Encryption && ok && s.owns(a, user) {
					a.markDirty(user, device)
					wake = true
				}
			}
		}
		if wake {
			a.poke()
		}
	}
}

func (a *app) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// tryNow ends the wait between two tries.
func (a *app) tryNow() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// maxDirty bounds how many devices are remembered whose key counts changed.
const maxDirty = 10_000

func (a *app) markDirty(user, device string) {
	a.mu.Lock()
	if len(a.dirty) < maxDirty {
		a.dirty[[2]string{user, device}] = true
	}
	a.mu.Unlock()
}
