package timeline

import (
	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/rooms"
	"holdfast/store"
)

// View is what one user may see of one room: the memberships that the user had
// and the history visibilities that the room had, by position. Events of a local
// room are in the order of their positions, so this is the state before each.
type View struct {
	UserID  string
	members []rooms.Change
	history []rooms.Change // history_visibility in place of membership

	since int64 // with load: the user has been joined from here on
	load  func() (*View, error)
	all   bool // see Everything
}

// Everything is the view of who administers the server and looks into a room: all of
// it is seen, and there is no membership to tell of.
func Everything() *View { return &View{all: true} }

// Joined is the view of a user who has been joined since the member event at
// position since. What was before is read by load when somebody asks.
func Joined(userID string, since int64, load func() (*View, error)) *View {
	return &View{UserID: userID, since: since, load: load}
}

// fill reads what a view that Joined made does not know yet. Where that fails, the
// user sees nothing of the time before.
func (v *View) fill() {
	if v.load == nil {
		return
	}
	all, err := v.load()
	v.load = nil
	if err != nil {
		v.members = []rooms.Change{{Pos: v.since, Membership: mx.Join}}
		v.history = []rooms.Change{{Pos: 0, Membership: mx.VisibilityJoined}}
		return
	}
	v.members, v.history = all.members, all.history
}

// View reads what a user may see of a room as of position to. userID may be empty.
// Errors: store.ErrNotFound when there is no such room.
func (t *Timeline) View(q store.Querier, roomID, userID string, to int64) (*View, error) {
	v := &View{UserID: userID}
	if userID != "" {
		list, err := t.o.Rooms.MembershipHistory(q, roomID, userID)
		if err != nil {
			return nil, err
		}
		for _, c := range list {
			if c.Pos <= to {
				v.members = append(v.members, c)
			}
		}
	}
	list, err := t.o.Rooms.StateHistory(q, roomID, mx.RoomHistoryVisibility, "")
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		if e.Pos <= to {
			v.history = append(v.history, rooms.Change{Pos: e.Pos, Membership: visibility(e.Event)})
		}
	}
	return v, nil
}

// visibility is what a history visibility event says, "shared" if nothing valid.
func visibility(e *pdu.Event) string {
	switch s := e.ContentString("history_visibility"); s {
	case mx.VisibilityWorldReadable, mx.VisibilityInvited, mx.VisibilityJoined:
		return s
	}
	return mx.VisibilityShared
}

// at is the value that the list had up to and including pos, or def.
func at(list []rooms.Change, pos int64, def string) string {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].Pos <= pos {
			return list[i].Membership
		}
	}
	return def
}

// Membership is the user's membership after the event at pos, "leave" if there
// was none yet. Spec: MSC4115
func (v *View) Membership(pos int64) string {
	if v.since > 0 && pos >= v.since {
		return mx.Join
	}
	v.fill()
	return at(v.members, pos, mx.Leave)
}

// Now is the user's membership at the view's position, "" for none.
func (v *View) Now() string {
	v.fill()
	if len(v.members) == 0 {
		return ""
	}
	return v.members[len(v.members)-1].Membership
}

// Left is the position of the event by which a former member left. ok is false
// for members and for those who never were.
func (v *View) Left() (pos int64, ok bool) {
	v.fill()
	joined := false
	for _, c := range v.members {
		switch c.Membership {
		case mx.Join:
			joined = true
		case mx.Leave, mx.Ban:
			if joined {
				pos, ok, joined = c.Pos, true, false
			}
		}
	}
	return pos, ok && v.Now() != mx.Join
}

// WorldReadable reports whether anybody may see what is in the room now.
func (v *View) WorldReadable() bool {
	v.fill()
	return at(v.history, 1<<62, mx.VisibilityShared) == mx.VisibilityWorldReadable
}

// StateUntil is the last position up to pos as of which the user may see the state
// of the room: to a former member it ends where they left, unless anybody may read
// the room as it was later. ok is false for those who never were members.
func (v *View) StateUntil(pos int64) (until int64, ok bool) {
	if v.Now() == mx.Join {
		return pos, true
	}
	left, ok := v.Left()
	if ok && pos > left && at(v.history, pos, mx.VisibilityShared) != mx.VisibilityWorldReadable {
		pos = left
	}
	return pos, ok
}

// Enter reports whether the user may read in the room at all: as a member, a
// former member, or because anybody may.
func (v *View) Enter() bool {
	if v.all || v.Now() == mx.Join || v.WorldReadable() {
		return true
	}
	_, was := v.Left()
	return was
}

// Sees reports whether the user may see an event. Spec: cs#server-behaviour-5
func (v *View) Sees(e *rooms.Event) bool {
	if v.SeesAt(e.Pos) {
		return true
	}
	// A change of visibility, or of the user's own membership, is seen if the value
	// before or the one after shows it.
	switch {
	case e.IsStateOf(mx.RoomHistoryVisibility, ""):
		return v.sees(e.Pos, visibility(e.Event), at(v.members, e.Pos-1, ""))
	case e.IsStateOf(mx.RoomMember, v.UserID):
		// The end of one's own membership is always told, or a declined invitation
		// would not go away.
		m := e.Membership()
		return m == mx.Leave || m == mx.Ban || v.sees(e.Pos, at(v.history, e.Pos-1, mx.VisibilityShared), m)
	}
	return false
}

// SeesAt is Sees for an event at a position that changes neither the visibility nor
// the user's own membership.
func (v *View) SeesAt(pos int64) bool {
	if v.all || v.since > 0 && pos > v.since {
		return true
	}
	v.fill()
	return v.sees(pos, at(v.history, pos-1, mx.VisibilityShared), at(v.members, pos-1, ""))
}

// SeesSince reports whether the user may see everything after a position, as far as
// that can be told without looking at each event.
func (v *View) SeesSince(pos int64) bool {
	if v.all || v.since > 0 && pos >= v.since {
		return true
	}
	v.fill()
	all := func(list []rooms.Change, def string, ok func(string) bool) bool {
		if !ok(at(list, pos, def)) {
			return false
		}
		for _, c := range list {
			if c.Pos > pos && !ok(c.Membership) {
				return false
			}
		}
		return true
	}
	return v.Now() == mx.Join && (all(v.members, "", func(m string) bool { return m == mx.Join }) ||
		all(v.history, mx.VisibilityShared, func(h string) bool { return h == mx.VisibilityShared || h == mx.VisibilityWorldReadable }))
}

// sees applies the rules to a visibility and a membership.
func (v *View) sees(pos int64, visibility, membership string) bool {
	if visibility == mx.VisibilityWorldReadable || membership == mx.Join {
		return true
	}
	switch visibility {
	case mx.VisibilityShared:
		for _, c := range v.members {
			if c.Pos > pos && c.Membership == mx.Join {
				return true
			}
		}
	case mx.VisibilityInvited:
		return membership == mx.Invite
	}
	return false
}
