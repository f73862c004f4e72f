package rooms

import (
	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/store"
)

// Overview is what administrators see of a room. Texts are "" where there is none.
type Overview struct {
	RoomID, Version, Creator, Type                string
	Name, Topic, Avatar, Alias                    string
	Encryption, JoinRule, GuestAccess, Visibility string
	Replacement                                   string // room that replaces it
	Tombstoned, Federates, Public                 bool
	Joined, Local                                 int // members, and those of them on this server
	State                                         int // pieces of state
}

const selectOverview = `SELECT r.nid, r.room_id, r.version, r.public,
		(SELECT count(*) FROM room_members m WHERE m.room = r.nid AND m.membership = 'join'),
		(SELECT count(*) FROM room_members m WHERE m.room = r.nid AND m.membership = 'join' AND m.user_id LIKE '%:' || $1),
		(SELECT count(*) FROM room_state s WHERE s.room = r.nid)
	FROM rooms r WHERE ($2 = '' OR r.room_id = $2)`

const selectOverviewState = `SELECT s.room, e.type, e.sender, e.json FROM room_state s JOIN events e ON e.pos = s.event
	WHERE s.state_key = '' AND s.type IN ('m.room.create', 'm.room.name', 'm.room.topic', 'm.room.avatar', 'm.room.canonical_alias', 'm.room.encryption',
		'm.room.join_rules', 'm.room.guest_access', 'm.room.history_visibility', 'm.room.tombstone')
	AND ($1 = '' OR s.room = (SELECT nid FROM rooms WHERE room_id = $1))`

// Overviews describes all rooms, or one.
func (r *Rooms) Overviews(q store.Querier, roomID string) ([]Overview, error) {
	var list []Overview
	at := map[int64]int{}
	rows, err := q.Query(selectOverview, r.o.ServerName, roomID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		o := Overview{Federates: true}
		var nid int64
		if err := rows.Scan(&nid, &o.RoomID, &o.Version, &o.Public, &o.Joined, &o.Local, &o.State); err != nil {
			return nil, err
		}
		at[nid] = len(list)
		list = append(list, o)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	state, err := q.Query(selectOverviewState, roomID)
	if err != nil {
		return nil, err
	}
	defer state.Close()
	for state.Next() {
		var nid int64
		var typ, sender string
		var raw []byte
		if err := state.Scan(&nid, &typ, &sender, &raw); err != nil {
			return nil, err
		}
		i, ok := at[nid]
		if !ok {
			continue
		}
		list[i].add(typ, sender, pdu.Field(raw, "content"))
	}
	return list, state.Err()
}

func (o *Overview) add(typ, sender string, content []byte) {
	s := func(key string) string { return pdu.FieldString(content, key) }
	switch typ {
	case mx.RoomCreate:
		o.Creator, o.Type = sender, s("type")
		o.Federates = string(pdu.Field(content, "m.federate")) != "false"
	case mx.RoomName:
		o.Name = s("name")
	case mx.RoomTopic:
		o.Topic = s("topic")
	case "m.room.avatar":
		o.Avatar = s("url")
	case mx.RoomCanonicalAlias:
		o.Alias = s("alias")
	case "m.room.encryption":
		o.Encryption = s("algorithm")
	case mx.RoomJoinRules:
		o.JoinRule = s("join_rule")
	case mx.RoomGuestAccess:
		o.GuestAccess = s("guest_access")
	case mx.RoomHistoryVisibility:
		o.Visibility = s("history_visibility")
	case mx.RoomTombstone:
		o.Tombstoned, o.Replacement = true, s("replacement_room")
	}
}
