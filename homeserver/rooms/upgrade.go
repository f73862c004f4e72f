package rooms

import (
	"context"
	"encoding/json"
	"errors"

	"holdfast/homeserver/eventauth"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/route"
	"holdfast/store"
)

type upgradeRequest struct {
	Version  string   `json:"new_version"`
	Creators []string `json:"additional_creators"`
}

type upgradeResponse struct {
	Replacement string `json:"replacement_room"`
}

// carried is the state that an upgraded room keeps. Spec: cs#server-behaviour-19
var carried = []string{mx.RoomServerACL, mx.RoomEncryption, mx.RoomName, mx.RoomAvatar, mx.RoomTopic, mx.RoomGuestAccess,
	mx.RoomHistoryVisibility, mx.RoomJoinRules}

// upgrade makes a new room of another version in the place of a room: what the
// room is like goes along, the old one gets a tombstone, its aliases move.
// Spec: cs#post_matrixclientv3roomsroomidupgrade
func (r *Rooms) upgrade(ctx context.Context, q *route.Request, in upgradeRequest) (out upgradeResponse, err error) {
	if err := q.NotSuspended(); err != nil {
		return out, err
	}
	v := pdu.Version(in.Version)
	if v == "" {
		return out, mx.Errorf(mx.MissingParam, "Name the version in new_version.")
	}
	if !pdu.Creatable(v) {
		return out, mx.Errorf(mx.UnsupportedRoom, "Rooms of version %.20q cannot be created here.", in.Version)
	}
	old := q.Param("roomID")
	c := Create{Version: in.Version, Content: map[string]json.RawMessage{}, PowerLevels: map[string]json.RawMessage{}}
	var (
		bans    []*Event
		aliases []string
		head    string
		public  bool
		levels  *Event
		was     pdu.Version
		had     []string // the old room's creators
	)
	err = r.db.Read(ctx, func(s store.Querier) error {
		if _, err := r.nid(s, old); err != nil {
			return noRoom(err)
		}
		if ok, err := r.MaySendState(s, old, q.UserID, mx.RoomTombstone); err != nil || !ok {
			if err == nil {
				err = mx.Errorf(mx.Forbidden, "Upgrading a room takes the power to send %s.", mx.RoomTombstone)
			}
			return err
		}
		create, err := r.State(s, old, mx.RoomCreate, "")
		if err != nil {
			return err
		}
		if r.noticesFor(create.Event) != "" {
			return mx.Errorf(mx.Forbidden, "This is a room of the server's notices: only the server makes such rooms.")
		}
		if err := json.Unmarshal(create.Content, &c.Content); err != nil {
			return err
		}
		if levels, err = r.State(s, old, mx.RoomPowerLevels, ""); err != nil && err != store.ErrNotFound {
			return err
		}
		for _, typ := range carried {
			e, err := r.State(s, old, typ, "")
			if err == nil {
				c.InitialState = append(c.InitialState, InitialState{typ, "", e.Content})
			} else if err != store.ErrNotFound {
				return err
			}
		}
		children, err := r.children(s, old, false)
		if err != nil {
			return err
		}
		for _, e := range children {
			c.InitialState = append(c.InitialState, InitialState{e.Type, *e.StateKey, e.Content})
		}
		was, had = create.Version, eventauth.Creators(create.Version, create.Event)
		banned, err := r.MemberList(s, old, mx.Ban)
		if err != nil {
			return err
		}
		for _, m := range banned {
			e, err := r.EventAt(s, m.Pos)
			if err != nil {
				return err
			}
			bans = append(bans, e)
		}
		if aliases, err = r.Aliases(s, old); err != nil {
			return err
		}
		last, _, err := r.Last(s, old, 0, r.db.Pos(), 1)
		if err != nil {
			return err
		}
		head = last[0].ID
		return s.QueryRow(`SELECT public FROM rooms WHERE room_id = $1`, old).Scan(&public)
	})
	if err != nil {
		return out, err
	}
	delete(c.Content, "additional_creators")
	delete(c.Content, "room_version")
	if v.PrivilegedCreators() && len(in.Creators) > 0 {
		c.Content["additional_creators"], _ = json.Marshal(in.Creators)
	}
	// Version 12 names the old room only: the event ID is not known to be the last.
	c.Content["predecessor"], _ = json.Marshal(map[string]string{"room_id": old, "event_id": head})
	after, err := carryLevels(&c, levels, was, v, q.UserID, had, in.Creators)
	if err != nil {
		return out, err
	}
	if public {
		c.Visibility = "public"
		c.Preset = "private_chat"
	}
	if out.Replacement, err = r.Create(ctx, q.UserID, c); err != nil {
		return out, err
	}
	for _, e := range bans {
		var refusal *mx.Error
		if err := r.Ban(ctx, out.Replacement, q.UserID, *e.StateKey, e.ContentString("reason")); err != nil && !errors.As(err, &refusal) {
			return out, err
		}
	}
	empty := ""
	if after != nil {
		// What follows may take more power than the old room gave.
		if len(aliases) > 0 {
			if err := r.moveAliases(ctx, old, out.Replacement); err != nil {
				return out, err
			}
			if err := r.moveCanonicalAlias(ctx, old, out.Replacement, q.UserID); err != nil {
				return out, err
			}
		}
		if _, err := r.Send(ctx, NewEvent{RoomID: out.Replacement, Sender: q.UserID, Type: mx.RoomPowerLevels, StateKey: &empty, Content: after}); err != nil {
			return out, err
		}
	}
	tomb, _ := json.Marshal(map[string]string{"body": "This room has been replaced", "replacement_room": out.Replacement})
	if _, err := r.Send(ctx, NewEvent{RoomID: old, Sender: q.UserID, Type: mx.RoomTombstone, StateKey: &empty, Content: tomb}); err != nil {
		return out, err
	}
	if err := r.moveAliases(ctx, old, out.Replacement); err != nil {
		return out, err
	}
	if after == nil && len(aliases) > 0 {
		if err := r.moveCanonicalAlias(ctx, old, out.Replacement, q.UserID); err != nil {
			return out, err
		}
	}
	// Nobody but those with power speaks in the old room any more. That is a
	// courtesy: who upgraded may lack the power for it.
	r.silence(ctx, old, q.UserID)
	return out, nil
}

// moveAliases has the aliases lead to the new room, which takes the old one's
// place in the directory.
func (r *Rooms) moveAliases(ctx context.Context, old, replacement string) error {
	return r.db.Write(ctx, func(tx *store.Tx) error {
		from, err := r.nid(tx, old)
		if err != nil {
			return err
		}
		to, err := r.nid(tx, replacement)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE rooms SET public = 0 WHERE nid = $1`, from); err != nil {
			return err
		}
		_, err = tx.Exec(`UPDATE room_aliases SET room = $2 WHERE room = $1`, from, to)
		return err
	})
}

// carryLevels puts the power levels of the old room into the new one. Who upgrades
// it may need more power to set it up than the old room gave: then after is what the
// power levels are to be at the end, else nil. Creators, who stand above all levels
// in version 12, have the highest level there is in an older version.
func carryLevels(c *Create, levels *Event, was, now pdu.Version, userID string, had, creators []string) (after json.RawMessage, err error) {
	if levels == nil {
		return nil, nil
	}
	if err := json.Unmarshal(levels.Content, &c.PowerLevels); err != nil {
		return nil, err
	}
	object := func(key string) map[string]json.RawMessage {
		m := map[string]json.RawMessage{}
		if raw, ok := c.PowerLevels[key]; ok && (json.Unmarshal(raw, &m) != nil || m == nil) {
			m = map[string]json.RawMessage{}
		}
		return m
	}
	set := func(key string, m map[string]json.RawMessage) { c.PowerLevels[key], _ = json.Marshal(m) }
	old := eventauth.ParsePowerLevels(was, nil, levels.Event)
	need := max(old.Ban, old.Kick, old.Invite, old.StateDefault, 100)
	for _, n := range old.Events {
		need = max(need, n)
	}
	for _, n := range old.Users {
		need = max(need, n)
	}
	if now.IntegerPowerLevels() && !was.IntegerPowerLevels() {
		integers(c.PowerLevels, old)
	}
	users := object("users")
	if now.PrivilegedCreators() {
		for _, u := range append([]string{userID}, creators...) {
			delete(users, u)
		}
		set("users", users)
		// Spec: cs#post_matrixclientv3createroom: it must stand above state_default.
		if events := object("events"); old.Event(mx.RoomTombstone, true) <= old.StateDefault {
			events[mx.RoomTombstone], _ = json.Marshal(max(150, old.StateDefault+1))
			set("events", events)
		}
		return nil, nil
	}
	most, _ := json.Marshal(need)
	if was.PrivilegedCreators() {
		for _, u := range had {
			users[u] = most
		}
		set("users", users)
	}
	if old.User(userID) >= need || string(users[userID]) == string(most) {
		return nil, nil
	}
	if after, err = json.Marshal(c.PowerLevels); err != nil {
		return nil, err
	}
	users[userID] = most
	set("users", users)
	return after, nil
}

// integers writes power levels that older versions take as text as numbers.
// Spec: rooms/v10#event-format
func integers(content map[string]json.RawMessage, levels *eventauth.PowerLevels) {
	for key, n := range map[string]int64{"ban": levels.Ban, "kick": levels.Kick, "redact": levels.Redact, "invite": levels.Invite,
		"events_default": levels.EventsDefault, "state_default": levels.StateDefault, "users_default": levels.UsersDefault} {
		if _, ok := content[key]; ok {
			content[key], _ = json.Marshal(n)
		}
	}
	for key, m := range map[string]map[string]int64{"users": levels.Users, "events": levels.Events, "notifications": levels.Notifications} {
		if _, ok := content[key]; ok {
			if m == nil {
				m = map[string]int64{}
			}
			content[key], _ = json.Marshal(m)
		}
	}
}

func (r *Rooms) moveCanonicalAlias(ctx context.Context, old, replacement, userID string) error {
	var e *Event
	err := r.db.Read(ctx, func(q store.Querier) (err error) {
		e, err = r.State(q, old, mx.RoomCanonicalAlias, "")
		return err
	})
	if err == store.ErrNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	empty := ""
	_, err = r.Send(ctx, NewEvent{RoomID: replacement, Sender: userID, Type: mx.RoomCanonicalAlias, StateKey: &empty, Content: e.Content})
	return err
}

func (r *Rooms) silence(ctx context.Context, roomID, userID string) {
	err := r.change(ctx, roomID, func(b *batch) error {
		var readErr error
		pl := eventauth.LevelsOf(b.h.version, b.lookup(&readErr))
		if readErr != nil {
			return readErr
		}
		content := map[string]json.RawMessage{}
		if e, err := b.get(mx.RoomPowerLevels, ""); err != nil {
			return err
		} else if e != nil {
			if err := json.Unmarshal(e.Content, &content); err != nil {
				return err
			}
		}
		quiet, _ := json.Marshal(max(50, pl.UsersDefault+1))
		content["events_default"], content["invite"] = quiet, quiet
		raw, err := json.Marshal(content)
		if err != nil {
			return err
		}
		empty := ""
		_, err = b.add(NewEvent{Sender: userID, Type: mx.RoomPowerLevels, StateKey: &empty, Content: raw})
		return err
	})
	if err != nil {
		r.o.Log.Debug("an upgraded room could not be closed for messages", "room", roomID, "err", err)
	}
}
