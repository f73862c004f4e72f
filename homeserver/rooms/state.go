package rooms

import (
	"holdfast/store"
)

const selectStateAt = `SELECT pos FROM events WHERE room = $1 AND type = $2 AND state_key = $3 AND pos <= $4 ORDER BY pos DESC LIMIT 1`

// StateEventAt is one piece of a room's state as of a position. It looks at the
// line of events, where StateAt would read all of a state group.
// Errors: store.ErrNotFound.
func (r *Rooms) StateEventAt(q store.Querier, roomID, typ, key string, pos int64) (*Event, error) {
	nid, err := r.nid(q, roomID)
	if err != nil {
		return nil, err
	}
	var at int64
	if err := q.QueryRow(selectStateAt, nid, typ, key, pos).Scan(&at); err != nil {
		return nil, err
	}
	return r.EventAt(q, at)
}
