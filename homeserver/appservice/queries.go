package appservice

import (
	"context"
	"errors"

	"holdfast/store"
	"holdfast/store/sealed"
)

const loadCursorSQL = `SELECT pos, txn FROM appservice_cursors WHERE id = $1`

// cursor is how far a service has come in what is not queued for it: receipts,
// typing, presence, device lists.
type cursor struct {
	pos int64
	txn int64 // number of the last transaction
}

// loadCursor returns false for a service that was never seen.
func loadCursor(q store.Querier, id string) (c cursor, ok bool, err error) {
	err = q.QueryRow(loadCursorSQL, id).Scan(&c.pos, &c.txn)
	if errors.Is(err, store.ErrNotFound) {
		return cursor{}, false, nil
	}
	return c, err == nil, err
}

const saveCursorSQL = `INSERT INTO appservice_cursors (id, pos, txn) VALUES ($1, $2, $3)
	ON CONFLICT (id) DO UPDATE SET pos = excluded.pos, txn = excluded.txn`

func saveCursor(tx *store.Tx, id string, c cursor) error {
	_, err := tx.Exec(saveCursorSQL, id, c.pos, c.txn)
	return err
}

const listCursorsSQL = `SELECT id FROM appservice_cursors`

const insertQueuedSQL = `INSERT INTO appservice_queue (id, pos, message) VALUES ($1, $2, $3)`

// insertQueued adds an event by its position, or a to-device message.
func insertQueued(tx *store.Tx, id string, pos int64, message []byte) error {
	var m any
	if message != nil {
		m = string(message)
	}
	_, err := tx.Exec(insertQueuedSQL, id, pos, m)
	return err
}

// queued is one row of the queue. message is nil for an event.
type queued struct {
	pos     int64
	message []byte
}

const listQueuedSQL = `SELECT pos, message FROM appservice_queue WHERE id = $1 AND pos <= $2 ORDER BY pos LIMIT $3`

func listQueued(q store.Querier, id string, to int64, limit int) (out []queued, err error) {
	rows, err := q.Query(listQueuedSQL, id, to, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r queued
		if err := rows.Scan(&r.pos, &r.message); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

const deleteQueuedSQL = `DELETE FROM appservice_queue WHERE id = $1 AND pos <= $2`

func deleteQueued(tx *store.Tx, id string, to int64) error {
	_, err := tx.Exec(deleteQueuedSQL, id, to)
	return err
}

// What a transaction is being tried with has left the queue, and waits all the same.
const countQueuedSQL = `SELECT (SELECT count(*) FROM appservice_queue WHERE id = $1)
	+ (SELECT COALESCE(sum(COALESCE(json_array_length(CAST(body AS TEXT), '$.events'), 0) + COALESCE(json_array_length(CAST(body AS TEXT), '$.to_device'), 0)), 0)
		FROM appservice_transactions WHERE id = $1)`

func countQueued(q store.Querier, id string) (n int64, err error) {
	err = q.QueryRow(countQueuedSQL, id).Scan(&n)
	return n, err
}

// stored is a transaction that a service has not taken yet.
type stored struct {
	txn  string // its ID
	upTo int64  // all before this position is in it or in one before
	body []byte
}

const (
	loadTxnSQL   = `SELECT txn, up_to, body FROM appservice_transactions WHERE id = $1`
	insertTxnSQL = `INSERT INTO appservice_transactions (id, txn, up_to, body) VALUES ($1, $2, $3, $4)`
	deleteTxnSQL = `DELETE FROM appservice_transactions WHERE id = $1`
)

// loadTxn errors: store.ErrNotFound.
func loadTxn(q store.Querier, id string) (t stored, err error) {
	err = q.QueryRow(loadTxnSQL, id).Scan(&t.txn, &t.upTo, &t.body)
	return t, err
}

func insertTxn(tx *store.Tx, id string, t stored) error {
	_, err := tx.Exec(insertTxnSQL, id, t.txn, t.upTo, t.body)
	return err
}

func deleteTxn(tx *store.Tx, id string) error {
	_, err := tx.Exec(deleteTxnSQL, id)
	return err
}

const (
	deleteCursorSQL       = `DELETE FROM appservice_cursors WHERE id = $1`
	deleteRegistrationSQL = `DELETE FROM appservice_registrations WHERE id = $1`
	deleteListedSQL       = `DELETE FROM appservice_rooms WHERE id = $1`
)

// forget removes all that is kept of a service.
func forget(tx *store.Tx, id string) error {
	for _, sql := range []string{deleteCursorSQL, deleteRegistrationSQL, deleteTxnSQL, deleteListedSQL} {
		if _, err := tx.Exec(sql, id); err != nil {
			return err
		}
	}
	return deleteQueued(tx, id, 1<<62)
}

const insertRegistrationSQL = `INSERT INTO appservice_registrations (id, yaml) VALUES ($1, $2)`

// registrationPurpose is what registrations are sealed for: they have the tokens by which
// a service and the homeserver know each other.
const registrationPurpose = "application service"

func insertRegistration(tx *store.Tx, secrets *sealed.Box, id string, text []byte) error {
	_, err := tx.Exec(insertRegistrationSQL, id, secrets.Seal(registrationPurpose, string(text)))
	return err
}

// sealRegistrations seals what an earlier version kept in clear.
func sealRegistrations(ctx context.Context, o Options) error {
	return sealed.Once(ctx, o.DB, "appservice_registrations", func(tx *store.Tx) (bool, error) {
		return sealed.Rewrite(tx, "appservice_registrations", "id", func(row map[string]any) error {
			row["yaml"] = o.Secrets.Seal(registrationPurpose, row["yaml"].(string))
			return nil
		})
	})
}

const listRegistrationsSQL = `SELECT yaml FROM appservice_registrations ORDER BY id`

func listRegistrations(q store.Querier, secrets *sealed.Box) (out [][]byte, err error) {
	rows, err := q.Query(listRegistrationsSQL)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var kept string
		if err := rows.Scan(&kept); err != nil {
			return nil, err
		}
		text, err := secrets.Open(registrationPurpose, kept)
		if err != nil {
			return nil, err
		}
		out = append(out, []byte(text))
	}
	return out, rows.Err()
}

func texts(q store.Querier, sql string, args ...any) (out []string, err error) {
	rows, err := q.Query(sql, args...)
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

const (
	insertListedSQL  = `INSERT INTO appservice_rooms (id, network_id, room_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`
	deleteListed1SQL = `DELETE FROM appservice_rooms WHERE id = $1 AND network_id = $2 AND room_id = $3`
	listNetworkSQL   = `SELECT room_id FROM appservice_rooms WHERE id = $1 AND network_id = $2`
	listAllSQL       = `SELECT DISTINCT room_id FROM appservice_rooms`
)

const deleteListedRoomSQL = `DELETE FROM appservice_rooms WHERE room_id = $1`
