package rooms

import (
	"context"
	"encoding/json"

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
	if err := notSuspended(q); err != nil {
		return out, err
	}
	v := pdu.Version(in.Version)
	if !pdu.Creatable(v) {
		return out, mx.Errorf(mx.UnsupportedRoom, "Rooms of version %.20q cannot be created here.", in.Version)
	}
	old := q.Param("roomID")
	c := Create{Version: in.Version, Content: map[string]json.RawMessage{}, PowerLevels: map[string]json.RawMessage{}}
	var (
		bans, aliases []string
		head          string
		public        bool
		levels        *Event
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
		if bans, err = r.Members(s, old, mx.Ban); err != nil {
			return err
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
	if levels != nil {
		if err := json.Unmarshal(levels.Content, &c.PowerLevels); err != nil {
			return out, err
		}
		if v.PrivilegedCreators() {
			users := map[string]json.RawMessage{}
			json.Unmarshal(c.PowerLevels["users"], &users)
			delete(users, q.UserID)
			for _, u := range in.Creators {
				delete(users, u)
			}
			c.PowerLevels["users"], _ = json.Marshal(users)
		} else if _, err := levelOf(levels, q.UserID); err != nil {
			// The creator must be able to set up the room.
			users := map[string]json.RawMessage{}
			json.Unmarshal(c.PowerLevels["users"], &users)
			users[q.UserID] = json.RawMessage("100")
			c.PowerLevels["users"], _ = json.Marshal(users)
		}
	}
	if public {
		c.Visibility = "public"
		c.Preset = "private_chat"
	}
	if out.Replacement, err = r.Create(ctx, q.UserID, c); err != nil {
		return out, err
	}
	for _, u := range bans {
		if err := r.Ban(ctx, out.Replacement, q.UserID, u, ""); err != nil {
			return out, err
		}
	}
	empty := ""
	tomb, _ := json.Marshal(map[string]string{"body": "This room has been replaced", "replacement_room": out.Replacement})
	if _, err := r.Send(ctx, NewEvent{RoomID: old, Sender: q.UserID, Type: mx.RoomTombstone, StateKey: &empty, Content: tomb}); err != nil {
		return out, err
	}
	err = r.db.Write(ctx, func(tx *store.Tx) error {
		from, err := r.nid(tx, old)
		if err != nil {
			return err
		}
		to, err := r.nid(tx, out.Replacement)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE rooms SET public = 0 WHERE nid = $1`, from); err != nil {
			return err
		}
		_, err = tx.Exec(`UPDATE room_aliases SET room = $2 WHERE room = $1`, from, to)
		return err
	})
	if err != nil {
		return out, err
	}
	if len(aliases) > 0 {
		if e := r.moveCanonicalAlias(ctx, old, out.Replacement, q.UserID); e != nil {
			return out, e
		}
	}
	// Nobody but those with power speaks in the old room any more. That is a
	// courtesy: who upgraded may lack the power for it.
	r.silence(ctx, old, q.UserID)
	return out, nil
}

func levelOf(pl *Event, userID string) (int64, error) {
	n, ok := pdu.Int(pdu.Path(pl.Content, "users", userID))
	if !ok || n < 50 {
		return n, store.ErrNotFound
	}
	return n, nil
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
