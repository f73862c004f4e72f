package appservice

import (
	"errors"

	"holdfast/store"
)

const loadCursorSQL = `SELECT pos, sending, txn FROM appservice_cursors WHERE id = $1`

// cursor is how far a service has come in the stream of events.
type cursor struct{ pos, sending, txn int64 }

// loadCursor returns false for a service that was never seen.
func loadCursor(q store.Querier, id string) (c cursor, ok bool, err error) {
	err = q.QueryRow(loadCursorSQL, id).Scan(&c.pos, &c.sending, &c.txn)
	if errors.Is(err, store.ErrNotFound) {
		return cursor{}, false, nil
	}
	return c, err == nil, err
}

const saveCursorSQL = `INSERT INTO appservice_cursors (id, pos, sending, txn) VALUES ($1, $2, $3, $4)
	ON CONFLICT (id) DO UPDATE SET pos = excluded.pos, sending = excluded.sending, txn = excluded.txn`

func saveCursor(tx *store.Tx, id string, c cursor) error {
	_, err := tx.Exec(saveCursorSQL, id, c.pos, c.sending, c.txn)
	return err
}
