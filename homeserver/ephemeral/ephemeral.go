// Package ephemeral keeps what passes: who is typing, who read how far, who is
// online.
//
// Invariants: typing lives in memory only, and of presence the last activity until it
// is stored now and then, yet their changes take positions of the store's sequence;
// a user's presence is that of all their devices together, and survives a restart;
// receipts only move forward; an
// m.read.private receipt is given to its own user only; an end of typing is a
// change like its begin, also after the server ended meanwhile.
package ephemeral

import (
	"context"
	"sync"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// Rooms is what the package asks of the rooms.
type Rooms interface {
	// Membership is the user's membership of a room, "" for none.
	Membership(q store.Querier, roomID, userID string) (string, error)
	// EventPos is the position of an event of the room.
	// Errors: store.ErrNotFound when the room has no such event.
	EventPos(q store.Querier, roomID, eventID string) (int64, error)
}

// Options of New.
type Options struct {
	DB    *store.DB
	Rooms Rooms
	// SetRoomData writes account data of a user in a room: userdata.(*Service).SetRoomData.
	SetRoomData func(tx *store.Tx, userID, roomID, typ string, content []byte) error
	// SharedUsers lists who shares a room with a user: they may see the presence.
	SharedUsers func(q store.Querier, userID string) ([]string, error)
	Now         func() time.Time // nil: time.Now
}

// Service answers the package's operations. Its methods are safe for concurrent use.
type Service struct {
	o Options

	mu       sync.Mutex
	closed   bool
	typing   map[string]*typingRoom // by room ID
	presence map[string]*presence   // by user ID
	sweep    *time.Timer            // of presence; nil: nobody is there
}

// New makes the service. Close ends it.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{o: o, typing: map[string]*typingRoom{}, presence: map[string]*presence{}}
}

// Close stops the timers and stores who was active when. To be called before the
// store is closed.
func (s *Service) Close() {
	s.stop()
	_ = s.savePresence(context.Background(), 0) // what is missing then is how long ago somebody did something
}

func (s *Service) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, r := range s.typing {
		if r.timer != nil {
			r.timer.Stop()
		}
	}
	if s.sweep != nil {
		s.sweep.Stop()
	}
}

// Routes are the package's operations.
func (s *Service) Routes() []route.Route {
	const v3, r0 = "/_matrix/client/v3", "/_matrix/client/r0"
	rt := func(op, method, path string, h route.Handler) route.Route {
		return route.Route{Op: op, Pattern: method + " " + v3 + path, Aliases: []string{r0 + path}, Auth: route.User, Limit: route.Reads, Handle: h}
	}
	return []route.Route{
		rt("setTyping", "PUT", "/rooms/{roomID}/typing/{userID}", route.JSON(s.putTyping)),
		rt("postReceipt", "POST", "/rooms/{roomID}/receipt/{receiptType}/{eventID}", route.JSON(s.postReceipt)),
		rt("setReadMarker", "POST", "/rooms/{roomID}/read_markers", route.JSON(s.postMarkers)),
		rt("setPresence", "PUT", "/presence/{userID}/status", route.JSON(s.putPresence)),
		rt("getPresence", "GET", "/presence/{userID}/status", route.Get(s.getPresence)),
	}
}

// joined checks that a user is in a room.
func (s *Service) joined(q store.Querier, roomID, userID string) error {
	m, err := s.o.Rooms.Membership(q, roomID, userID)
	if err == nil && m != mx.Join {
		err = mx.Errorf(mx.Forbidden, "You are not in this room.")
	}
	return err
}
