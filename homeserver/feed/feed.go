// Package feed answers "what changed for this device in (from, to]". It is the only
// change engine: every sync API renders what it gives.
//
// Invariants:
//   - An answer holds what changed up to its position To and nothing that a later
//     answer, asked from To, would have to give again; nothing is left out between.
//   - Recent changes are found in memory, in the touches of the last commits; a
//     position older than these is answered from SQL. Both give the same.
//   - A subscription's keys are set before To is read, so that whoever waits after
//     an empty answer is woken by the first change after it.
//   - What a device was sent counts as received only once the device came back with
//     a token at or after that answer.
package feed

import (
	"context"
	"sync"
	"time"

	"holdfast/homeserver/e2ee"
	"holdfast/homeserver/ephemeral"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/timeline"
	"holdfast/homeserver/userdata"
	"holdfast/store"
)

// Counts are unread notifications.
type Counts struct {
	Notifications int `json:"notification_count"`
	Highlights    int `json:"highlight_count"`
}

// Options of New.
type Options struct {
	DB        *store.DB
	Hub       *notify.Hub
	Rooms     *rooms.Rooms
	Timeline  *timeline.Timeline
	Userdata  *userdata.Service
	Ephemeral *ephemeral.Service
	E2EE      *e2ee.Service
	// Ignored gives the users whose messages a user does not want. nil: none.
	Ignored func(q store.Querier, userID string) (map[string]bool, error)
	// InvitesBlocked reports whether a user takes no invitations. nil: nobody blocks them.
	InvitesBlocked func(q store.Querier, userID string) (bool, error)
	// Unread counts what a user has not read in a room up to a position: the main
	// timeline, and each thread that has any. nil: zeros.
	Unread func(q store.Querier, roomID, userID string, to int64) (main Counts, threads map[string]Counts, err error)
	// Recounted names the rooms in which what is unread counts in another way since a
	// change of (from, to], other than a receipt; all: in every room. nil: none ever.
	Recounted func(q store.Querier, userID string, from, to int64) (roomIDs []string, all bool, err error)
}

// Feed is the change engine. Its methods are safe for concurrent use.
type Feed struct {
	o    Options
	ring ring

	mu      sync.Mutex
	users   map[string]*user
	devices map[string]*device // by notify.DeviceKey
	told    int64              // position of the last commit that committed was told of
	closed  bool

	stop chan struct{}
	done chan struct{}

	counts countCache

	lastMu sync.RWMutex
	last   map[string]int64 // by room: position of its last event, of rooms that were asked for or had one since the start
}

// idle is how long what is known of a user or device is kept without a request.
const idle = 30 * time.Minute

// Keys that the feed itself publishes: who shares a room with a user, and everybody.
const (
	sharedKey = "shared"
	allKey    = "all"
)

// New makes a Feed and listens to commits. Close it before the store.
func New(o Options) *Feed {
	f := &Feed{o: o, users: map[string]*user{}, devices: map[string]*device{}, stop: make(chan struct{}), done: make(chan struct{})}
	f.counts.m = map[string]roomCounts{}
	f.last = map[string]int64{}
	// Commits between these two lines are in the ring but below its floor: they are
	// looked up in SQL.
	f.ring.init()
	o.DB.OnCommit(f.committed)
	o.DB.OnVisible(f.wake)
	f.ring.raise(o.DB.Pos())
	go f.sweep()
	return f
}

// Close forgets what is known and ends the sweeper.
func (f *Feed) Close() {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return
	}
	f.closed = true
	users := f.users
	f.users, f.devices = map[string]*user{}, map[string]*device{}
	f.mu.Unlock()
	for _, u := range users {
		u.sub.Close()
	}
	close(f.stop)
	<-f.done
}

// committed runs under the store's writer before the store reports the position:
// whoever reads up to a position finds its touches in the ring, and knows what is
// stale.
func (f *Feed) committed(pos int64, touched []store.Touch) {
	f.ring.add(touched)
	f.lastMu.Lock()
	for i := range touched {
		if t := &touched[i]; t.Kind == notify.Room {
			f.last[t.Key] = t.Pos
		}
	}
	f.lastMu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = pos
	for _, t := range touched {
		switch t.Kind {
		case notify.Member:
			if u := f.users[t.Key]; u != nil {
				u.memberAt.Store(t.Pos)
			}
		case notify.User:
			if u := f.users[t.Key]; u != nil {
				u.dataAt.Store(t.Pos)
			}
		case notify.Device:
			if d := f.devices[t.Key]; d != nil {
				d.touched.Store(t.Pos)
			}
		}
	}
}

// wake runs under the store's writer once the store reports the position.
func (f *Feed) wake(pos int64, touched []store.Touch) {
	f.o.Hub.Touched(pos, touched)
	var shared []string // rooms of those whose presence or devices changed
	all := false
	f.mu.Lock()
	for _, t := range touched {
		if t.Kind != notify.DevList && t.Kind != notify.Presence {
			continue
		}
		if u := f.users[t.Key]; u != nil {
			shared = append(shared, u.roomList()...)
		} else {
			all = true
		}
	}
	f.mu.Unlock()
	for _, id := range shared {
		f.o.Hub.Publish(notify.Key{Kind: sharedKey, Key: id}, pos)
	}
	if all {
		f.o.Hub.Publish(notify.Key{Kind: allKey}, pos)
	}
	for _, t := range touched {
		if t.Kind == notify.DevList || t.Kind == notify.Presence {
			f.o.Hub.Publish(notify.Key{Kind: notify.User, Key: t.Key}, t.Pos)
		}
	}
}

// sweep forgets users and devices that were not seen for long.
func (f *Feed) sweep() {
	defer close(f.done)
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for {
		select {
		case <-f.stop:
			return
		case now := <-t.C:
			f.forget(now.Add(-idle))
		}
	}
}

func (f *Feed) forget(before time.Time) {
	f.mu.Lock()
	var gone []*user
	for id, u := range f.users {
		if u.using.Load() == 0 && u.used.Load() < before.UnixNano() {
			delete(f.users, id)
			gone = append(gone, u)
		}
	}
	for id, d := range f.devices {
		if d.used.Load() < before.UnixNano() {
			delete(f.devices, id)
		}
	}
	f.mu.Unlock()
	for _, u := range gone {
		u.sub.Close()
	}
}

// Wait returns true when something may have changed for the device after position
// seen, false when the time is over or ctx has ended.
func (s *Session) Wait(ctx context.Context, seen int64, timeout time.Duration) bool {
	return s.user.sub.Wait(ctx, seen, timeout)
}
