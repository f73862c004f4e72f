package threads

import (
	"errors"

	"holdfast/store"
)

// state says whether a user is subscribed to a thread.
type state int

const (
	none      state = 0
	manual    state = 1
	automatic state = 2
)

// row is a row of thread_subscriptions, or what stands for none.
type row struct {
	there        bool
	state        state
	endedAt, pos int64
}

const selectRow = `SELECT state, ended_at, pos FROM thread_subscriptions WHERE user_id = $1 AND room_id = $2 AND root = $3`

func load(q store.Querier, userID, roomID, root string) (r row, err error) {
	err = q.QueryRow(selectRow, userID, roomID, root).Scan(&r.state, &r.endedAt, &r.pos)
	if errors.Is(err, store.ErrNotFound) {
		return row{}, nil
	}
	r.there = err == nil
	return r, err
}

const upsertRow = `INSERT INTO thread_subscriptions (user_id, room_id, root, state, ended_at, pos) VALUES ($1, $2, $3, $4, $5, $6)
	ON CONFLICT (user_id, room_id, root) DO UPDATE SET state = excluded.state, ended_at = excluded.ended_at, pos = excluded.pos`

func upsert(tx *store.Tx, userID, roomID, root string, s state, endedAt, pos int64) error {
	_, err := tx.Exec(upsertRow, userID, roomID, root, int(s), endedAt, pos)
	return err
}

const countRows = `SELECT count(*) FROM thread_subscriptions WHERE user_id = $1`

func count(q store.Querier, userID string) (n int, err error) {
	err = q.QueryRow(countRows, userID).Scan(&n)
	return n, err
}

const deleteOldest = `DELETE FROM thread_subscriptions WHERE (user_id, room_id, root) IN
	(SELECT user_id, room_id, root FROM thread_subscriptions WHERE user_id = $1 AND state = 0 ORDER BY pos LIMIT 1)`

func forgetOldest(tx *store.Tx, userID string) (int64, error) { return tx.Exec(deleteOldest, userID) }

const selectRoots = `SELECT root FROM thread_subscriptions WHERE user_id = $1 AND room_id = $2 AND state <> 0 ORDER BY root`

func subscribedRoots(q store.Querier, userID, roomID string) ([]string, error) {
	return texts(q, selectRoots, userID, roomID)
}

const selectChangedRooms = `SELECT DISTINCT room_id FROM thread_subscriptions WHERE user_id = $1 AND pos > $2 AND pos <= $3`

func changedRooms(q store.Querier, userID string, from, to int64) ([]string, error) {
	return texts(q, selectChangedRooms, userID, from, to)
}

func texts(q store.Querier, query string, args ...any) (out []string, err error) {
	rows, err := q.Query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

type change struct {
	roomID, root string
	state        state
	pos          int64
}

const selectChanges = `SELECT room_id, root, state, pos FROM thread_subscriptions
	WHERE user_id = $1 AND pos > $2 AND pos <= $3 ORDER BY pos DESC LIMIT $4`

// changes are those of (after, upTo], newest first. Position 0 is never among them.
func changes(q store.Querier, userID string, after, upTo int64, limit int) (out []change, err error) {
	rows, err := q.Query(selectChanges, userID, after, upTo, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c change
		if err := rows.Scan(&c.roomID, &c.root, &c.state, &c.pos); err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, rows.Err()
}

const (
	selectUsers = `SELECT user_id FROM thread_subscribers`
	selectSince = `SELECT pos FROM thread_subscribers WHERE user_id = $1`
	insertSince = `INSERT INTO thread_subscribers (user_id, pos) VALUES ($1, $2) ON CONFLICT DO NOTHING`
)

func eachUser(q store.Querier, f func(userID string)) error {
	list, err := texts(q, selectUsers)
	for _, id := range list {
		f(id)
	}
	return err
}

// userSince is when a user's clients came to know subscriptions. Errors: store.ErrNotFound.
func userSince(q store.Querier, userID string) (pos int64, err error) {
	err = q.QueryRow(selectSince, userID).Scan(&pos)
	return pos, err
}

func insertUser(tx *store.Tx, userID string, pos int64) error {
	_, err := tx.Exec(insertSince, userID, pos)
	return err
}

const (
	deleteUserRows = `DELETE FROM thread_subscriptions WHERE user_id = $1`
	deleteUserUse  = `DELETE FROM thread_subscribers WHERE user_id = $1`
	deleteRoomRows = `DELETE FROM thread_subscriptions WHERE (user_id, room_id, root) IN
		(SELECT user_id, room_id, root FROM thread_subscriptions WHERE room_id = $1 LIMIT $2)`
)

func deleteUser(tx *store.Tx, userID string) error {
	for _, sql := range []string{deleteUserRows, deleteUserUse} {
		if _, err := tx.Exec(sql, userID); err != nil {
			return err
		}
	}
	return nil
}

func deleteRoom(tx *store.Tx, roomID string, limit int) (int64, error) {
	return tx.Exec(deleteRoomRows, roomID, limit)
}
