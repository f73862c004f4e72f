package feed

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/rooms"
	"holdfast/store"
)

// user is what is known of a user who syncs.
type user struct {
	id   string
	sub  *notify.Sub
	used atomic.Int64 // ns
	// using is how many requests hold it: it is not forgotten meanwhile.
	using atomic.Int64

	memberAt atomic.Int64 // position of the last change of a membership
	dataAt   atomic.Int64 // position of the last change of account data

	// mu is taken before a read of the database is waited for, never within one:
	// the reads are few.
	mu      sync.Mutex
	loaded  bool
	at      int64                   // memberships are as of this position, until memberAt is later
	members map[string]rooms.Member // by room
	devices map[string]bool         // whose keys the subscription has

	// Not under mu, whose holder may wait for a read: this is asked within one.
	ignoreMu  sync.Mutex
	ignoredAt int64
	ignored   map[string]bool

	list atomic.Pointer[[]string] // joined rooms, for the commit listener
}

func (u *user) roomList() []string {
	if l := u.list.Load(); l != nil {
		return *l
	}
	return nil
}

// device is what is known of a device that syncs.
type device struct {
	used    atomic.Int64 // ns
	touched atomic.Int64 // position of the last to-device message for it, or a later one

	mu    sync.Mutex
	clean int64 // no message up to this position waits; 0: not known
	sent  map[string]map[string]sentMember
	count int
}

// idle reports whether no to-device message waits for it.
//
// It compares positions: a message may be stored while an answer is read that ends
// before it, and must be found by the next one.
func (d *device) idle() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clean > 0 && d.touched.Load() <= d.clean
}

// found notes that a look up to a position found no message (none) or some.
func (d *device) found(none bool, to int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if none {
		d.clean = max(d.clean, to)
	} else {
		d.clean = 0
	}
}

// sentMember is a member event that the device was sent.
type sentMember struct {
	event int64 // its position
	in    int64 // token of the answer: once the device shows it, it has the event
}

// maxSent bounds the member events noted for a device: about 100 bytes each.
const maxSent = 5000

// had reports whether the device, which came with token since, has a member event;
// if not, it is noted as sent with the answer to.
func (d *device) had(room, userID string, event, since, to int64) bool {
	m := d.sent[room]
	if s, ok := m[userID]; ok && s.event == event && s.in <= since {
		return true
	}
	if d.count >= maxSent {
		d.sent, d.count, m = map[string]map[string]sentMember{}, 0, nil
	}
	if m == nil {
		m = map[string]sentMember{}
		d.sent[room] = m
	}
	if _, ok := m[userID]; !ok {
		d.count++
	}
	m[userID] = sentMember{event, to}
	return false
}

// Session is one device's access to the feed, for one request.
type Session struct {
	f        *Feed
	user     *user
	device   *device
	UserID   string
	DeviceID string
}

// Open begins a request of a device. Close must be called.
func (f *Feed) Open(userID, deviceID string) *Session {
	now := time.Now().UnixNano()
	f.mu.Lock()
	u := f.users[userID]
	if u == nil {
		u = &user{id: userID, sub: f.o.Hub.Subscribe(), devices: map[string]bool{}}
		f.users[userID] = u
	}
	u.used.Store(now)
	u.using.Add(1)
	k := notify.DeviceKey(userID, deviceID)
	d := f.devices[k]
	if d == nil {
		d = &device{sent: map[string]map[string]sentMember{}}
		// Perhaps the last commit was for it, and its position is not reported yet.
		d.touched.Store(f.told)
		f.devices[k] = d
	}
	d.used.Store(now)
	f.mu.Unlock()
	return &Session{f, u, d, userID, deviceID}
}

// Close ends the request.
func (s *Session) Close() {
	now := time.Now().UnixNano()
	s.user.used.Store(now)
	s.device.used.Store(now)
	s.user.using.Add(-1)
}

// now brings what is known of the user up to date and gives the position to answer
// up to, and the memberships as of it, which must not be changed.
func (s *Session) now(ctx context.Context) (to int64, members map[string]rooms.Member, err error) {
	u, db := s.user, s.f.o.DB
	u.mu.Lock()
	defer u.mu.Unlock()
	for {
		if !u.loaded || u.memberAt.Load() > u.at || !u.devices[s.DeviceID] {
			if err := s.load(ctx); err != nil {
				return 0, nil, err
			}
		}
		to = db.Pos()
		// What was read from a snapshot may have been committed a moment before
		// the position that says so.
		for to < u.at {
			time.Sleep(50 * time.Microsecond)
			to = db.Pos()
		}
		if u.memberAt.Load() <= u.at {
			return to, u.members, nil
		}
	}
}

// load reads the memberships and sets the subscription's keys.
func (s *Session) load(ctx context.Context) error {
	u, f := s.user, s.f
	at := f.o.DB.Pos()
	members := map[string]rooms.Member{}
	err := f.o.DB.Read(ctx, func(q store.Querier) error {
		list, err := f.o.Rooms.Rooms(q, u.id)
		if err != nil {
			return err
		}
		gone, err := f.o.Rooms.Departures(q, u.id)
		for _, m := range append(list, gone...) {
			members[m.RoomID] = m
			at = max(at, m.Pos)
		}
		return err
	})
	if err != nil {
		return err
	}
	u.devices[s.DeviceID] = true
	keys := []notify.Key{{Kind: notify.User, Key: u.id}, {Kind: notify.Member, Key: u.id}, {Kind: allKey}}
	for d := range u.devices {
		keys = append(keys, notify.Key{Kind: notify.Device, Key: notify.DeviceKey(u.id, d)})
	}
	joined := []string{}
	for id, m := range members {
		if m.Membership == mx.Join {
			joined = append(joined, id)
			keys = append(keys, notify.Key{Kind: notify.Room, Key: id}, notify.Key{Kind: notify.Typing, Key: id},
				notify.Key{Kind: notify.Receipt, Key: id}, notify.Key{Kind: sharedKey, Key: id})
		}
	}
	u.sub.Set(keys)
	u.list.Store(&joined)
	u.members, u.at, u.loaded = members, at, true
	return nil
}

// ignored is whom the user ignores, as of position to or later.
func (s *Session) ignored(q store.Querier, to int64) (map[string]bool, error) {
	if s.f.o.Ignored == nil {
		return nil, nil
	}
	u := s.user
	u.ignoreMu.Lock()
	m, at := u.ignored, u.ignoredAt
	u.ignoreMu.Unlock()
	if at > 0 && u.dataAt.Load() <= at {
		return m, nil
	}
	m, err := s.f.o.Ignored(q, u.id)
	if err != nil {
		return nil, err
	}
	u.ignoreMu.Lock()
	if to >= u.ignoredAt {
		u.ignored, u.ignoredAt = m, max(to, 1)
	}
	u.ignoreMu.Unlock()
	return m, nil
}
