package feed

import (
	"context"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/timeline"
	"holdfast/homeserver/todevice"
	"holdfast/homeserver/userdata"
	"holdfast/store"
)

// Look is what an API sees that asks room by room: one snapshot, as of position To.
type Look struct {
	To      int64
	Q       store.Querier
	Members map[string]rooms.Member // all memberships of the user; not to be changed
	s       *Session
	ignore  map[string]bool
}

// Touched is what changed for the user since a position, of what is in memory.
type Touched struct {
	All                     bool // too much or too long ago: everything may have changed
	Rooms, Receipts, Typing map[string]bool
	User                    bool // account data and the like
	Device                  bool // to-device messages, one-time keys
	Lists                   bool // device lists, or who shares a room
}

// Look calls f with a snapshot, again where a room was deleted meanwhile.
func (s *Session) Look(ctx context.Context, f func(l *Look) error) error {
	return again(func() error {
		to, members, err := s.now(ctx)
		if err != nil {
			return err
		}
		return s.f.o.DB.Read(ctx, func(q store.Querier) error {
			l := &Look{To: to, Q: q, Members: members, s: s}
			if l.ignore, err = s.ignored(q, to); err != nil {
				return err
			}
			return f(l)
		})
	})
}

// Acknowledge removes to-device messages that the device has shown to have.
func (s *Session) Acknowledge(ctx context.Context, upTo int64) error {
	return s.acknowledge(ctx, timeline.Token{Pos: upTo, ToDevice: upTo})
}

// Touched finds what changed since a position.
func (l *Look) Touched(from int64) Touched {
	t := l.s.touches(from, l.To, l.Members)
	return Touched{t.all, t.room, t.receipt, t.typing, t.user, t.device, t.list || t.sharing}
}

// Ignores reports whether the user ignores another.
func (l *Look) Ignores(userID string) bool { return l.ignore[userID] }

// Last is the position of the last event of a room of Members, for the order of
// rooms: of one that the user is not joined to it is the end of that.
func (l *Look) Last(m rooms.Member) (int64, error) {
	if m.Membership != mx.Join {
		return m.Pos, nil
	}
	f := l.s.f
	f.lastMu.RLock()
	pos, ok := f.last[m.RoomID]
	f.lastMu.RUnlock()
	if ok {
		return pos, nil
	}
	all, err := f.o.Rooms.Activity(l.Q, l.s.UserID)
	if err != nil {
		return 0, err
	}
	f.lastMu.Lock()
	defer f.lastMu.Unlock()
	for id, pos := range all {
		// What was committed after this snapshot is there already.
		f.last[id] = max(f.last[id], pos)
	}
	return f.last[m.RoomID], nil
}

// Events gives the newest events of (from, To] of a room of Members that the user
// may see, at most limit, with Events, Limited, Prev and View filled in. Of a
// room that the user has left these end with the leaving.
func (l *Look) Events(m rooms.Member, from int64, limit int) (*Room, error) {
	a := l.answer(from)
	if m.Gone {
		room := &Room{ID: m.RoomID, Prev: m.Pos}
		if m.Pos <= from {
			return room, nil
		}
		e, err := l.s.f.o.Rooms.Departure(l.Q, m.RoomID, l.s.UserID)
		if err == nil {
			room.Events, room.Prev = []*rooms.Event{e}, e.Pos-1
		}
		return room, err
	}
	room, end := &Room{ID: m.RoomID, Prev: l.To}, l.To
	load := func() (*timeline.View, error) { return l.s.f.o.Timeline.View(l.Q, m.RoomID, l.s.UserID, l.To) }
	if m.Membership == mx.Join {
		room.View = timeline.Joined(l.s.UserID, m.Pos, load)
	} else {
		end = m.Pos
		room.Prev = end
		var err error
		if room.View, err = load(); err != nil {
			return nil, err
		}
	}
	if m.Membership == mx.Join && len(l.ignore) == 0 {
		events, more, err := l.s.f.o.Rooms.Last(l.Q, m.RoomID, from, end, limit)
		if err != nil {
			return nil, err
		}
		if len(events) == 0 || events[0].Pos > m.Pos { // nearly always: all of it came while they were in the room
			room.Events, room.Limited = events, more
			if len(events) > 0 {
				room.Prev = events[0].Pos - 1
			}
			return room, nil
		}
	}
	err := a.pick(room, from, end, limit, &timeline.RoomEventFilter{}, room.View.Sees)
	if len(room.Events) > 0 {
		room.Prev = room.Events[0].Pos - 1
	}
	return room, err
}

// Member reports whether the user is joined to a room, or was. Its state up to the
// position until is theirs to see: that may be before their last member event, where
// they left and then declined another invitation.
func (l *Look) Member(m rooms.Member) (until int64, member bool, err error) {
	if m.Membership == mx.Join {
		return l.To, true, nil
	}
	if m.Gone {
		return 0, false, nil
	}
	view, err := l.s.f.o.Timeline.View(l.Q, m.RoomID, l.s.UserID, l.To)
	if err != nil {
		return 0, false, err
	}
	until, member = view.StateUntil(m.Pos)
	return until, member, nil
}

// Summary counts a room's members and names its heroes if it has no name.
func (l *Look) Summary(roomID string) (*Summary, error) { return l.answer(0).summary(roomID) }

// Unread counts what is unread in a room, threads included.
func (l *Look) Unread(roomID string) (Counts, error) {
	if l.s.f.o.Unread == nil {
		return Counts{}, nil
	}
	main, threads, err := l.s.f.o.Unread(l.Q, roomID, l.s.UserID, l.To)
	for _, c := range threads {
		main.Notifications += c.Notifications
		main.Highlights += c.Highlights
	}
	return main, err
}

// Receipts is the m.receipt event of what changed in (from, To] (from 0: all), nil
// for nothing.
func (l *Look) Receipts(roomID string, from int64) (mx.Raw, error) {
	return l.s.f.o.Ephemeral.Receipts(l.Q, roomID, l.s.UserID, from, l.To, l.ignore)
}

// PrivateReceipts names the rooms in which a private receipt of the user's own
// changed in (from, To].
func (l *Look) PrivateReceipts(from int64) ([]string, error) {
	return l.s.f.o.Ephemeral.PrivateRooms(l.Q, l.s.UserID, from, l.To)
}

// Recounted adds the rooms in which what is unread counts in another way since a
// change of (from, To], other than a receipt.
func (l *Look) Recounted(from int64, rooms map[string]bool) error {
	return l.answer(from).recounted(from, rooms)
}

// Typing is the m.typing event of a room, nil if nothing changed since from.
func (l *Look) Typing(roomID string, from int64) mx.Raw {
	users, changed := l.s.f.o.Ephemeral.Typing(roomID, from)
	if !changed || from == 0 && len(users) == 0 {
		return nil
	}
	return typingEvent(users, l.ignore)
}

// Data is the account data that changed in (from, To], as AccountDataSince has it.
func (l *Look) Data(from int64) (global []userdata.Data, byRoom map[string][]userdata.Data, err error) {
	return l.s.f.o.Userdata.AccountDataSince(l.Q, l.s.UserID, from, l.To)
}

// ToDevice gives at most limit messages for the device after a position, and the
// position up to which these are all.
func (l *Look) ToDevice(from int64, limit int) (messages []mx.Raw, last int64, err error) {
	l.s.device.found(false, l.To) // what is before from may wait still
	return todevice.Since(l.Q, l.s.UserID, l.s.DeviceID, from, l.To, limit)
}

// Keys counts the device's one-time keys and names its unused fallback keys.
func (l *Look) Keys() (counts map[string]int, fallback []string, err error) {
	return l.s.f.o.E2EE.Counts(l.Q, l.s.UserID, l.s.DeviceID)
}

// DeviceLists names the users whose devices changed in (from, To], and those with
// whom the user shares no room any more.
func (l *Look) DeviceLists(from int64) (changed, left []string, err error) {
	return l.s.f.o.E2EE.ListChanges(l.Q, l.s.UserID, from, l.To)
}

func (l *Look) answer(from int64) *answer {
	return &answer{Session: l.s, q: l.Q, r: Request{Filter: &timeline.Filter{}}, from: from, to: l.To, members: l.Members, ignore: l.ignore, out: &Changes{}}
}
