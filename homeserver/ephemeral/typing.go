package ephemeral

import (
	"context"
	"slices"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// How long one request keeps a user typing.
const (
	defaultTyping = 30 * time.Second
	maxTyping     = 2 * time.Minute
)

// typingRoom is who types in a room. It stays after the last one stopped, so that
// whoever syncs later hears of the stop; forgetTyping bounds that.
type typingRoom struct {
	users map[string]time.Time // until when
	pos   int64                // of the last change of who types
	noted bool                 // in room_typing
	timer *time.Timer
}

// forgetTyping is how many rooms without typists are remembered.
const forgetTyping = 10000

type typingRequest struct {
	Typing  *bool  `json:"typing"`
	Timeout *int64 `json:"timeout"` // ms
}

// Spec: cs#put_matrixclientv3roomsroomidtypinguserid
func (s *Service) putTyping(ctx context.Context, r *route.Request, in typingRequest) (out route.Empty, err error) {
	if r.Param("userID") != r.UserID {
		return out, mx.Errorf(mx.Forbidden, "You cannot type for somebody else.")
	}
	if in.Typing == nil {
		return out, mx.Errorf(mx.MissingParam, "Say in %q whether you type.", "typing")
	}
	timeout := defaultTyping
	if in.Timeout != nil {
		timeout = min(max(time.Duration(*in.Timeout), 0), maxTyping/time.Millisecond) * time.Millisecond
	}
	if err := s.o.DB.Read(ctx, func(q store.Querier) error { return s.joined(q, r.Param("roomID"), r.UserID) }); err != nil {
		return out, err
	}
	if !*in.Typing {
		timeout = 0
	}
	if timeout > 0 {
		s.Active(r.UserID)
	}
	return out, s.SetTyping(ctx, r.Param("roomID"), r.UserID, timeout)
}

// SetTyping makes a user type in a room for some time; 0 ends it. A repetition
// while the user types already is no change.
func (s *Service) SetTyping(ctx context.Context, roomID, userID string, timeout time.Duration) error {
	now := s.o.Now()
	s.mu.Lock()
	room := s.typing[roomID]
	if room == nil && timeout > 0 {
		s.tidyTyping()
		room = &typingRoom{users: map[string]time.Time{}}
		s.typing[roomID] = room
	}
	if room == nil {
		s.mu.Unlock()
		return nil
	}
	_, was := room.users[userID]
	note := !room.noted
	room.noted = true
	if timeout > 0 {
		room.users[userID] = now.Add(timeout)
		s.schedule(roomID, room)
	} else {
		delete(room.users, userID)
	}
	s.mu.Unlock()
	if was == (timeout > 0) {
		return nil
	}
	return s.announceTyping(ctx, roomID, note)
}

// Start takes up the presence of before the server ended, and sends the end of typing
// to those rooms in which somebody typed then, however it ended. To be called before
// the first request.
func (s *Service) Start(ctx context.Context) error {
	if err := s.o.DB.Read(ctx, s.loadPresence); err != nil {
		return err
	}
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		list, err := takeTyping(tx)
		if err != nil || len(list) == 0 {
			return err
		}
		pos := tx.NextPos()
		tx.AfterCommit(func() {
			s.mu.Lock()
			for _, id := range list {
				s.typing[id] = &typingRoom{users: map[string]time.Time{}, pos: pos}
			}
			s.mu.Unlock()
		})
		return nil
	})
}

// announceTyping takes a position for what changed and wakes who waits. It costs a
// disk access only the first time in a room (note), for Start.
func (s *Service) announceTyping(ctx context.Context, roomID string, note bool) error {
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if note {
			if err := insertTyping(tx, roomID); err != nil {
				return err
			}
		}
		pos := tx.NextPos()
		tx.AfterCommit(func() {
			s.mu.Lock()
			if room := s.typing[roomID]; room != nil {
				room.pos = pos
			}
			s.mu.Unlock()
		})
		tx.Touch(notify.Typing, roomID)
		return nil
	})
}

// schedule sets the room's timer to the first end. It needs s.mu.
func (s *Service) schedule(roomID string, room *typingRoom) {
	if s.closed || len(room.users) == 0 {
		return
	}
	var first time.Time
	for _, until := range room.users {
		if first.IsZero() || until.Before(first) {
			first = until
		}
	}
	wait := max(first.Sub(s.o.Now()), time.Millisecond)
	if room.timer == nil {
		room.timer = time.AfterFunc(wait, func() { s.expireTyping(roomID) })
	} else {
		room.timer.Reset(wait)
	}
}

func (s *Service) expireTyping(roomID string) {
	s.mu.Lock()
	room, ended := s.typing[roomID], false
	if room != nil && !s.closed {
		now := s.o.Now()
		for user, until := range room.users {
			if !until.After(now) {
				delete(room.users, user)
				ended = true
			}
		}
		s.schedule(roomID, room)
	}
	s.mu.Unlock()
	if ended {
		_ = s.announceTyping(context.Background(), roomID, false) // the store closes: nobody is left to tell
	}
}

// tidyTyping forgets rooms in which nobody types when there are many. It needs s.mu.
func (s *Service) tidyTyping() {
	if len(s.typing) < forgetTyping {
		return
	}
	for id, room := range s.typing {
		if len(room.users) == 0 {
			delete(s.typing, id)
		}
	}
}

// Typing gives who types in a room, sorted, and whether that changed after from.
// users may be empty with changed true: the end of typing must be sent.
func (s *Service) Typing(roomID string, from int64) (users []string, changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	room := s.typing[roomID]
	if room == nil || room.pos <= from || from == 0 && len(room.users) == 0 {
		return nil, false
	}
	users = make([]string, 0, len(room.users))
	for u := range room.users {
		users = append(users, u)
	}
	slices.Sort(users)
	return users, true
}

// TypingRooms gives who types, sorted, in each room where that changed in
// (from, to]. A list may be empty: the end of typing must be sent.
func (s *Service) TypingRooms(from, to int64) map[string][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out map[string][]string
	for id, room := range s.typing {
		if room.pos <= from || room.pos > to {
			continue
		}
		users := make([]string, 0, len(room.users))
		for u := range room.users {
			users = append(users, u)
		}
		slices.Sort(users)
		if out == nil {
			out = map[string][]string{}
		}
		out[id] = users
	}
	return out
}

// Left ends a user's typing with the membership, in the transaction of the event.
func (s *Service) Left(tx *store.Tx, roomID, userID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	room := s.typing[roomID]
	if room == nil {
		return
	}
	if _, typing := room.users[userID]; !typing {
		return
	}
	pos := tx.NextPos()
	tx.Touch(notify.Typing, roomID)
	tx.AfterCommit(func() {
		s.mu.Lock()
		delete(room.users, userID)
		room.pos = pos
		s.mu.Unlock()
	})
}
