package rooms

import (
	"errors"

	"holdfast/homeserver/mx"
	"holdfast/store"
)

const selectActivity = `SELECT r.room_id, (SELECT max(e.pos) FROM events e WHERE e.room = m.room)
	FROM room_members m JOIN rooms r ON r.nid = m.room WHERE m.user_id = $1 AND m.membership = 'join'`

// Activity gives the position of the last event of each room that a user is joined to.
func (r *Rooms) Activity(q store.Querier, userID string) (map[string]int64, error) {
	rows, err := q.Query(selectActivity, userID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	last := map[string]int64{}
	for rows.Next() {
		var id string
		var pos int64
		if err := rows.Scan(&id, &pos); err != nil {
			return nil, err
		}
		last[id] = pos
	}
	return last, rows.Err()
}

const selectTypes = `SELECT r.room_id, coalesce(json_extract(CAST(e.json AS TEXT), '$.content.type'), '')
	FROM room_members m JOIN rooms r ON r.nid = m.room
	JOIN room_state s ON s.room = m.room AND s.type = 'm.room.create' AND s.state_key = ''
	JOIN events e ON e.pos = s.event WHERE m.user_id = $1`

// Types gives the type of each room that a user has or had something to do with, ""
// for those without one. What is no string is none.
func (r *Rooms) Types(q store.Querier, userID string) (map[string]string, error) {
	rows, err := q.Query(selectTypes, userID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	types := map[string]string{}
	for rows.Next() {
		var id string
		var typ any
		if err := rows.Scan(&id, &typ); err != nil {
			return nil, err
		}
		types[id], _ = typ.(string)
	}
	return types, rows.Err()
}

// Encrypted reports whether a room has encryption switched on.
func (r *Rooms) Encrypted(q store.Querier, roomID string) (bool, error) {
	nid, err := r.nid(q, roomID)
	if err != nil {
		return false, err
	}
	var one int
	err = q.QueryRow(`SELECT 1 FROM room_state WHERE room = $1 AND type = $2 AND state_key = ''`, nid, mx.RoomEncryption).Scan(&one)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
