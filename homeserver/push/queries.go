package push

import (
	"encoding/json"
	"errors"

	"holdfast/store"
)

// checkpoint is an entry as it is stored.
type checkpoint struct {
	pos  int64
	born int64
	data []byte
}

// stored is the JSON of a checkpoint.
type stored struct {
	Threads []string       `json:"t,omitempty"`
	Items   [][3]int64     `json:"i,omitempty"` // position, thread, 1 highlight + 2 call
	Folded  map[string]sum `json:"f,omitempty"`
}

func (e *entry) checkpoint() checkpoint {
	s := stored{Threads: e.threads, Folded: e.folded, Items: make([][3]int64, len(e.items))}
	for i, it := range e.items {
		s.Items[i] = [3]int64{it.pos, int64(it.thread), 0}
		if it.highlight {
			s.Items[i][2] = 1
		}
		if it.call {
			s.Items[i][2] += 2
		}
	}
	data, err := json.Marshal(s)
	if err != nil {
		panic(err) // plain numbers and strings always marshal
	}
	return checkpoint{e.pos, e.born, data}
}

const selectCheckpoint = `SELECT pos, data FROM push_counts WHERE user_id = $1 AND room_id = $2`

// load puts the entry where its last checkpoint was. What has been read since is
// pruned as for any entry.
func (c *Counter) load(q store.Querier, e *entry) error {
	var pos int64
	var data []byte
	err := q.QueryRow(selectCheckpoint, e.key.user, e.key.room).Scan(&pos, &data)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	e.loaded = true
	var s stored
	if err != nil || json.Unmarshal(data, &s) != nil {
		return nil
	}
	for _, it := range s.Items {
		if it[1] < 0 || int(it[1]) > len(s.Threads) {
			return nil
		}
		e.items = append(e.items, item{it[0], int32(it[1]), it[2]&1 != 0, it[2]&2 != 0})
	}
	e.pos, e.threads, e.folded = pos, s.Threads, s.Folded
	return nil
}

const upsertCheckpoint = `INSERT INTO push_counts (user_id, room_id, pos, data) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_id, room_id) DO UPDATE SET pos = excluded.pos, data = excluded.data`

func saveCheckpoint(tx *store.Tx, k key, cp checkpoint) error {
	_, err := tx.Exec(upsertCheckpoint, k.user, k.room, cp.pos, string(cp.data))
	return err
}

const (
	deleteEntrySQL = `DELETE FROM push_counts WHERE user_id = $1 AND room_id = $2`
	deleteUserSQL  = `DELETE FROM push_counts WHERE user_id = $1`
)

const deleteRoomSQL = `DELETE FROM push_counts WHERE (user_id, room_id) IN (SELECT user_id, room_id FROM push_counts WHERE room_id = $1 LIMIT $2)`
