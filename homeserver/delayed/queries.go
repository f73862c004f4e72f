package delayed

import (
	"database/sql"
	"encoding/json"

	"holdfast/store"
)

// row is a delayed event as stored. Times are in ms.
type row struct {
	Event
	sinceTS, dueTS   int64 // dueTS 0: finalised
	finalisedTS      int64 // 0: it waits
	eventID, failure string
}

const columns = `delay_id, user_id, device_id, room_id, type, state_key, content, origin_ts, delay_ms, since_ts,
	coalesce(due_ts, 0), coalesce(finalised_ts, 0), coalesce(event_id, ''), coalesce(error, '')`

func scan(s interface{ Scan(...any) error }) (r row, err error) {
	var key sql.NullString
	var content string
	var delay int64
	err = s.Scan(&r.DelayID, &r.UserID, &r.DeviceID, &r.RoomID, &r.Type, &key, &content, &r.Timestamp, &delay, &r.sinceTS,
		&r.dueTS, &r.finalisedTS, &r.eventID, &r.failure)
	if key.Valid {
		r.StateKey = &key.String
	}
	r.Content = json.RawMessage(content)
	r.Delay = fromMS(delay)
	r.TxnID = txnPrefix + r.DelayID
	return r, err
}

const insertSQL = `INSERT INTO delayed_events
	(delay_id, user_id, device_id, request, room_id, type, state_key, content, origin_ts, delay_ms, since_ts, due_ts)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`

func insert(tx *store.Tx, e Event, request string, now int64) error {
	var key, req any
	if e.StateKey != nil {
		key = *e.StateKey
	}
	if request != "" {
		req = request
	}
	ms := e.Delay.Milliseconds()
	_, err := tx.Exec(insertSQL, e.DelayID, e.UserID, e.DeviceID, req, e.RoomID, e.Type, key, string(e.Content), e.Timestamp, ms, now, now+ms)
	return err
}

const byRequestSQL = `SELECT delay_id FROM delayed_events WHERE user_id = $1 AND device_id = $2 AND request = $3`

func byRequest(q store.Querier, userID, deviceID, request string) (id string, err error) {
	err = q.QueryRow(byRequestSQL, userID, deviceID, request).Scan(&id)
	return id, err
}

const loadSQL = `SELECT ` + columns + ` FROM delayed_events WHERE delay_id = $1`

func load(q store.Querier, delayID string) (row, error) { return scan(q.QueryRow(loadSQL, delayID)) }

const waitingSQL = `SELECT count(*), coalesce(min(due_ts), 0) FROM delayed_events WHERE user_id = $1 AND due_ts IS NOT NULL`

// waiting counts a user's events that wait, and tells when the next of them is due.
func waiting(q store.Querier, userID string) (n int, next int64, err error) {
	err = q.QueryRow(waitingSQL, userID).Scan(&n, &next)
	return n, next, err
}

const dueSQL = `SELECT delay_id, due_ts FROM delayed_events WHERE due_ts IS NOT NULL ORDER BY due_ts, rowid LIMIT $1`

type dueEvent struct {
	id string
	ts int64
}

func listDue(q store.Querier, limit int) (out []dueEvent, err error) {
	rows, err := q.Query(dueSQL, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var d dueEvent
		if err := rows.Scan(&d.id, &d.ts); err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, rows.Err()
}

const restartSQL = `UPDATE delayed_events SET since_ts = $2, due_ts = $2 + delay_ms WHERE delay_id = $1 AND due_ts IS NOT NULL`

func updateRestarted(tx *store.Tx, delayID string, now int64) error {
	_, err := tx.Exec(restartSQL, delayID, now)
	return err
}

const finaliseSQL = `UPDATE delayed_events SET due_ts = NULL, finalised_ts = $2, event_id = $3, error = $4 WHERE delay_id = $1`

func finalise(tx *store.Tx, delayID string, now int64, eventID, failure string) error {
	var ev, fail any
	if eventID != "" {
		ev = eventID
	}
	if failure != "" {
		fail = failure
	}
	_, err := tx.Exec(finaliseSQL, delayID, now, ev, fail)
	return err
}

const (
	listWaitingSQL   = `SELECT ` + columns + ` FROM delayed_events WHERE user_id = $1 AND due_ts IS NOT NULL ORDER BY due_ts, rowid LIMIT $2`
	listFinalisedSQL = `SELECT ` + columns + ` FROM delayed_events WHERE user_id = $1 AND due_ts IS NULL ORDER BY finalised_ts DESC, rowid DESC LIMIT $2`
)

func list(q store.Querier, query, userID string, limit int) (out []row, err error) {
	rows, err := q.Query(query, userID, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

const (
	pruneSQL     = `DELETE FROM delayed_events WHERE finalised_ts < $1`
	pruneUserSQL = `DELETE FROM delayed_events WHERE user_id = $1 AND due_ts IS NULL AND rowid NOT IN
		(SELECT rowid FROM delayed_events WHERE user_id = $1 AND due_ts IS NULL ORDER BY finalised_ts DESC, rowid DESC LIMIT $2)`
	deleteUserSQL = `DELETE FROM delayed_events WHERE user_id = $1`
	deleteRoomSQL = `DELETE FROM delayed_events WHERE rowid IN (SELECT rowid FROM delayed_events WHERE room_id = $1 LIMIT $2)`
)

// prune removes what was finalised before a time.
func prune(tx *store.Tx, before int64) error {
	_, err := tx.Exec(pruneSQL, before)
	return err
}

// pruneUser keeps a user's latest finalised events.
func pruneUser(tx *store.Tx, userID string, keep int) error {
	_, err := tx.Exec(pruneUserSQL, userID, keep)
	return err
}
