package rooms

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// A room of notices is made by the server's own user (Options.NoticesUser), and its
// create event names whose notices it is for: nobody else can make one.

// NoticesFor is the key, in a create event's content, of the user whom the room's
// notices are for.
const NoticesFor = "holdfast.notices_for"

// NoticesUser is the server's own user, or "".
func (r *Rooms) NoticesUser() string { return r.o.NoticesUser }

func (r *Rooms) noticesFor(create *pdu.Event) string {
	if create == nil || r.o.NoticesUser == "" || create.Sender != r.o.NoticesUser {
		return ""
	}
	return create.ContentString(NoticesFor)
}

// NoticesOf is the user whom a room's notices are for, "" of other rooms.
// Errors: store.ErrNotFound when there is no such room.
func (r *Rooms) NoticesOf(q store.Querier, roomID string) (userID string, err error) {
	e, err := r.State(q, roomID, mx.RoomCreate, "")
	if err != nil {
		return "", err
	}
	return r.noticesFor(e.Event), nil
}

const selectNotices = `SELECT r.room_id FROM room_members s JOIN room_members m ON m.room = s.room AND m.user_id = $2 JOIN rooms r ON r.nid = s.room
	WHERE m.user_id = $2 AND s.user_id = $1 AND s.membership = 'join' ORDER BY r.nid DESC`

// NoticesRoom is the room of a user's notices that is in use. Errors: store.ErrNotFound.
func (r *Rooms) NoticesRoom(q store.Querier, userID string) (roomID string, err error) {
	list, err := strs(q.Query(selectNotices, r.o.NoticesUser, userID))
	if err != nil {
		return "", err
	}
	for _, id := range list {
		whose, err := r.NoticesOf(q, id)
		if err != nil {
			return "", err
		}
		if whose != userID { // an administrator, in somebody else's
			continue
		}
		switch _, err := r.State(q, id, mx.RoomTombstone, ""); {
		case errors.Is(err, store.ErrNotFound):
			return id, nil
		case err != nil:
			return "", err
		}
	}
	return "", store.ErrNotFound
}

// SetStates sends those of the state events whose content differs from what is there,
// all or none.
func (r *Rooms) SetStates(ctx context.Context, roomID string, list []NewEvent) error {
	return r.change(ctx, roomID, func(b *batch) error {
		for _, n := range list {
			old, err := b.get(n.Type, *n.StateKey)
			if err != nil {
				return err
			}
			c, err := pdu.Canonical(n.Content)
			if err != nil {
				return err
			}
			if old != nil && bytes.Equal(c, old.Content) {
				continue
			}
			if _, err := b.add(n); err != nil {
				return err
			}
		}
		return nil
	})
}

// mustStay refuses that a user leaves the room of their notices, or declines it.
// Spec: cs#server-notices
func (b *batch) mustStay(userID string) error {
	if m := b.membership(userID); b.r.o.NoticesUser == "" || m != mx.Join && m != mx.Invite {
		return nil
	}
	create, err := b.get(mx.RoomCreate, "")
	if err == nil && b.r.noticesFor(create) == userID {
		err = mx.Errorf(mx.CannotLeaveNotices, "The administrators of this server tell you here what you have to know: you cannot leave this room. Mute it, if you like.")
	}
	return err
}

// mayAct refuses what a suspended user may not do in a room. In the room of their
// notices it is power alone that counts: there a user may answer the administrators.
// Spec: cs#account-suspension
func (r *Rooms) mayAct(ctx context.Context, q *route.Request, roomID string) error {
	err := q.NotSuspended()
	if err == nil {
		return nil
	}
	var whose string
	if e := r.db.Read(ctx, func(s store.Querier) (e error) {
		whose, e = r.NoticesOf(s, roomID)
		return e
	}); e != nil && !errors.Is(e, store.ErrNotFound) {
		return e
	}
	if whose == q.UserID {
		return nil
	}
	return err
}

// plusJoins adds to the first events of a room that those who were invited and need
// not be asked are in it.
func (r *Rooms) plusJoins(ctx context.Context, list []NewEvent, users []string) ([]NewEvent, error) {
	list = slices.Clip(list)
	for _, u := range users {
		content, err := r.memberContent(ctx, memberChange{target: u, membership: mx.Join})
		if err != nil {
			return nil, err
		}
		list = append(list, NewEvent{Sender: u, Type: mx.RoomMember, StateKey: &u, Content: content})
	}
	return list, nil
}
