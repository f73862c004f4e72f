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
func (v *View) Membership(pos int64) string { return at(v.members, pos, mx.Leave) }

// Now is the user's membership at the view's position, "" for none.
func (v *View) Now() string {
	if len(v.members) == 0 {
		return ""
	}
	return v.members[len(v.members)-1].Membership
}

// Left is the position of the event by which a former member left. ok is false
// for members and for those who never were.
func (v *View) Left() (pos int64, ok bool) {
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
	return at(v.history, 1<<62, mx.VisibilityShared) == mx.VisibilityWorldReadable
}

// Enter reports whether the user may read in the room at all: as a member, a
// former member, or because anybody may.
func (v *View) Enter() bool {
	if v.Now() == mx.Join || v.WorldReadable() {
		return true
	}
	_, was := v.Left()
	return was
}

// Sees reports whether the user may see an event. Spec: cs#server-behaviour-5
func (v *View) Sees(e *rooms.Event) bool {
	if e.Type == mx.RoomMember && e.StateKey != nil && *e.StateKey == v.UserID {
		return true
	}
	if v.sees(e.Pos, at(v.history, e.Pos-1, mx.VisibilityShared)) {
		return true
	}
	// A change of visibility is seen if either value shows it.
	return e.IsStateOf(mx.RoomHistoryVisibility, "") && v.sees(e.Pos, visibility(e.Event))
}

func (v *View) sees(pos int64, visibility string) bool {
	if visibility == mx.VisibilityWorldReadable {
		return true
	}
	then := at(v.members, pos-1, "")
	if then == mx.Join {
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
		return then == mx.Invite
	}
	return false
}
