package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"holdfast/homeserver/eventauth"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// What administrators of the server do in rooms.

// AdminHierarchy is the handler of a space's hierarchy for a route of administrators.
func (r *Rooms) AdminHierarchy() route.Handler { return route.Get(r.getHierarchy) }

// Bring joins a user to a room for the administrator by: as the user could join, or else
// on an invitation of by, who must be in the room with the power to invite. Whoever
// is in the room already stays so. Errors: Forbidden, NotFound.
func (r *Rooms) Bring(ctx context.Context, roomID, by, userID string) error {
	if !mx.ValidUserID(userID) {
		return mx.Errorf(mx.InvalidParam, "%.60q is not a user ID.", userID)
	}
	var content [2]json.RawMessage
	for i, membership := range []string{mx.Invite, mx.Join} {
		c, err := r.memberContent(ctx, memberChange{target: userID, membership: membership})
		if err != nil {
			return err
		}
		content[i] = c
	}
	return r.change(ctx, roomID, func(b *batch) error {
		now := b.membership(userID)
		if now == mx.Join {
			return nil
		}
		if err := r.notBlocked(roomID); err != nil {
			return err
		}
		join, err := b.authoriseJoin(userID, content[1])
		if err != nil && !isCode(err, mx.Forbidden, mx.UnableToAuthorizeJoin) {
			return err
		}
		rules, e := b.joinRules()
		if e != nil {
			return e
		}
		open := now == mx.Invite || rules.JoinRule == mx.JoinPublic || pdu.Field(join, "join_authorised_via_users_server") != nil
		if err != nil || !open {
			switch {
			case by == userID:
				return mx.Errorf(mx.Forbidden, "The room takes invited people only. Have yourself made its administrator first (make_room_admin): that invites you.")
			case b.membership(by) != mx.Join:
				return mx.Errorf(mx.Forbidden, "The room takes invited people only, and you are not in it to invite. Join it first, for example by make_room_admin.")
			}
			if _, err := b.add(NewEvent{Sender: by, Type: mx.RoomMember, StateKey: &userID, Content: content[0]}); err != nil {
				return err
			}
			join = content[1]
		}
		_, err = b.add(NewEvent{Sender: userID, Type: mx.RoomMember, StateKey: &userID, Content: join})
		return err
	})
}

func isCode(err error, codes ...mx.Code) bool {
	var e *mx.Error
	return errors.As(err, &e) && slices.Contains(codes, e.Code)
}

// MakeAdmin gives a user the power of the most powerful of this server's users in a
// room, who is the one that gives it, and an invitation where the user needs one to
// join. It returns who that was. Errors: NotFound; Unknown where nobody of this
// server has the power.
func (r *Rooms) MakeAdmin(ctx context.Context, roomID, userID string) (by string, err error) {
	if !mx.ValidUserID(userID) {
		return "", mx.Errorf(mx.InvalidParam, "%.60q is not a user ID.", userID)
	}
	invite, err := r.memberContent(ctx, memberChange{target: userID, membership: mx.Invite})
	if err != nil {
		return "", err
	}
	err = r.change(ctx, roomID, func(b *batch) error {
		var readErr error
		pl := eventauth.LevelsOf(b.h.version, b.lookup(&readErr))
		if readErr != nil {
			return readErr
		}
		var level int64
		switch by, level = b.strongest(pl); {
		case by == "" || level < pl.Event(mx.RoomPowerLevels, true):
			return mx.Errorf(mx.Unknown, "Nobody of this server who is in the room has the power to make others its administrators.")
		case by == userID:
			return nil
		}
		if level == eventauth.Infinite { // creators cannot give theirs away
			level = highest(pl)
		}
		if pl.User(userID) < level {
			content, err := b.withLevels(map[string]*int64{userID: &level})
			if err != nil {
				return err
			}
			if _, err := b.add(NewEvent{Sender: by, Type: mx.RoomPowerLevels, StateKey: new(string), Content: content}); err != nil {
				return err
			}
		}
		switch b.membership(userID) {
		case mx.Join, mx.Invite:
			return nil
		}
		rules, err := b.joinRules()
		if err != nil || rules.JoinRule == mx.JoinPublic {
			return err
		}
		_, err = b.add(NewEvent{Sender: by, Type: mx.RoomMember, StateKey: &userID, Content: invite})
		return err
	})
	return by, err
}

// strongest is the joined user of this server with the most power, and that power.
func (b *batch) strongest(pl *eventauth.PowerLevels) (userID string, level int64) {
	for k, e := range b.h.state {
		if k.Type != mx.RoomMember || e.membership != mx.Join || mx.Domain(k.Key) != b.r.o.ServerName {
			continue
		}
		if n := pl.User(k.Key); userID == "" || n > level || n == level && k.Key < userID {
			userID, level = k.Key, n
		}
	}
	return userID, level
}

// highest is the level with which everything can be done in a room, 100 at least.
func highest(pl *eventauth.PowerLevels) int64 {
	n := max(100, pl.Ban, pl.Kick, pl.Redact, pl.Invite, pl.EventsDefault, pl.StateDefault)
	for _, v := range pl.Events {
		n = max(n, v)
	}
	return n
}

// withLevels is the content of the room's power levels with other levels of users; nil:
// the room's default.
func (b *batch) withLevels(levels map[string]*int64) (json.RawMessage, error) {
	content := map[string]json.RawMessage{}
	old, err := b.get(mx.RoomPowerLevels, "")
	if err != nil {
		return nil, err
	}
	users := map[string]json.RawMessage{}
	if old != nil {
		if err := json.Unmarshal(old.Content, &content); err != nil {
			return nil, err
		}
		if u := content["users"]; pdu.IsObject(u) {
			if err := json.Unmarshal(u, &users); err != nil {
				return nil, err
			}
		}
	}
	if old == nil { // the creator's power came from there being no levels
		create, err := b.get(mx.RoomCreate, "")
		if err != nil {
			return nil, err
		}
		if !b.h.version.PrivilegedCreators() {
			for _, c := range eventauth.Creators(b.h.version, create) {
				users[c] = json.RawMessage("100")
			}
		}
	}
	for userID, level := range levels {
		if level == nil {
			delete(users, userID)
		} else if users[userID], err = json.Marshal(*level); err != nil {
			return nil, err
		}
	}
	if content["users"], err = json.Marshal(users); err != nil {
		return nil, err
	}
	return json.Marshal(content)
}

// ResolveKnown is Resolve for a room that this server has. Errors: NotFound,
// InvalidParam.
func (r *Rooms) ResolveKnown(ctx context.Context, idOrAlias string) (id string, err error) {
	err = r.db.Read(ctx, func(q store.Querier) error {
		if id, err = r.Resolve(q, idOrAlias); err == nil && strings.HasPrefix(idOrAlias, "!") {
			_, err = r.nid(q, id)
		}
		return noRoom(err)
	})
	return id, err
}

// Newest is the last event of a room. Errors: store.ErrNotFound.
func (r *Rooms) Newest(q store.Querier, roomID string) (*Event, error) {
	list, _, err := r.Last(q, roomID, 0, 1<<62, 1)
	if err == nil && len(list) == 0 {
		err = store.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// Size is about how many bytes of the database a room takes.
type Size struct {
	RoomID string
	Bytes  int64
}

// rowBytes is about what an event takes besides its JSON: the other columns, the
// indexes, and its part of the state.
const rowBytes = 400

const selectLargest = `SELECT r.room_id, sum(octet_length(e.json)) + count(*) * $1 AS n FROM events e JOIN rooms r ON r.nid = e.room
	GROUP BY e.room ORDER BY n DESC, r.room_id LIMIT $2`

// Largest lists the rooms whose events take the most space. It looks at all events.
func (r *Rooms) Largest(q store.Querier, limit int) ([]Size, error) {
	rows, err := q.Query(selectLargest, rowBytes, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []Size
	for rows.Next() {
		var s Size
		if err := rows.Scan(&s.RoomID, &s.Bytes); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, rows.Err()
}
