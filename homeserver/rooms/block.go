package rooms

import (
	"context"
	"sync"

	"holdfast/homeserver/mx"
	"holdfast/store"
)

// blocks are the rooms that nobody may join, with who blocked each. They may be rooms
// that this server does not know. They are few, so all are in memory.
type blocks struct {
	mu sync.RWMutex
	m  map[string]string
}

func loadBlocks(q store.Querier) (map[string]string, error) {
	rows, err := q.Query(`SELECT room_id, user_id FROM room_blocks`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]string{}
	for rows.Next() {
		var id, by string
		if err := rows.Scan(&id, &by); err != nil {
			return nil, err
		}
		out[id] = by
	}
	return out, rows.Err()
}

// Block keeps everybody from joining a room, or lets them again. by is who does it.
func (r *Rooms) Block(ctx context.Context, roomID, by string, on bool) error {
	return r.db.Write(ctx, func(tx *store.Tx) error {
		tx.AfterCommit(func() {
			r.blocks.mu.Lock()
			defer r.blocks.mu.Unlock()
			if !on {
				delete(r.blocks.m, roomID)
			} else if _, ok := r.blocks.m[roomID]; !ok {
				r.blocks.m[roomID] = by
			}
		})
		if !on {
			_, err := tx.Exec(`DELETE FROM room_blocks WHERE room_id = $1`, roomID)
			return err
		}
		_, err := tx.Exec(`INSERT INTO room_blocks (room_id, user_id, ts) VALUES ($1, $2, $3) ON CONFLICT (room_id) DO NOTHING`, roomID, by, r.o.Now().UnixMilli())
		return err
	})
}

// Blocked reports whether a room is blocked, and by whom.
func (r *Rooms) Blocked(roomID string) (by string, yes bool) {
	r.blocks.mu.RLock()
	defer r.blocks.mu.RUnlock()
	by, yes = r.blocks.m[roomID]
	return by, yes
}

// notBlocked refuses joins of a blocked room, and of one that is being deleted.
func (r *Rooms) notBlocked(roomID string) error {
	if _, yes := r.Blocked(roomID); yes {
		return mx.Errorf(mx.Forbidden, "The administrator has blocked this room: nobody can join it.")
	}
	if r.closing.has(roomID) {
		return mx.Errorf(mx.Forbidden, "This room is being deleted: nobody can join it.")
	}
	return nil
}
