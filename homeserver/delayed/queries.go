package delayed

import (
	"context"
	"database/sql"
	"encoding/json"

	"holdfast/store"
	"holdfast/store/sealed"
)

// purpose is what delay IDs are sealed for.
const purpose = "delayed event"

// stored is a delay ID as the database has it.
func (s *Service) stored(delayID string) string { return s.o.Secrets.Token(purpose, delayID) }

// sealIDs seals those that an earlier version kept in clear.
func (s *Service) sealIDs(ctx context.Context) error {
	return sealed.Once(ctx, s.o.DB, "delayed_events", func(tx *store.Tx) (bool, error) {
		return sealed.Rewrite(tx, "delayed_events", "rowid", func(row map[string]any) error {
			row["delay_id"] = s.stored(row["delay_id"].(string))
			return nil
		})
	})
}

// row is a delayed event as stored. Times are in ms.
type row struct {
	Event
	sinceTS, dueTS   int64 // dueTS 0: finalised
	finalisedTS      int64 // 0: it waits
	eventID, failure string
}

const columns = `delay_id, user_id, device_id, room_id, type, state_key, content, origin_ts, delay_ms, since_ts,
	coalesce(due_ts, 0), coalesce(finalised_ts, 0), coalesce(event_id, ''), coalesce(error, '')`

func (s *Service) scan(from interface{ Scan(...any) error }) (r row, err error) {
	var key sql.NullString
	var content string
	var delay int64
	err = from.Scan(&r.DelayID, &r.UserID, &r.DeviceID, &r.RoomID, &r.Type, &key, &content, &r.Timestamp, &delay, &r.sinceTS,
		&r.dueTS, &r.finalisedTS, &r.eventID, &r.failure)
	if err != nil {
		return r, err
	}
	if r.DelayID, err = s.o.Secrets.Open(purpose, r.DelayID); err != nil {
		return r, err
	}
	if key.Valid {
		r.StateKey = &key.String
	}
	r.Content = json.RawMessage(content)
	r.Delay = fromMS(delay)
	r.TxnID = txnPrefix + r.DelayID
	return r, nil
}

const insertSQL = `INSERT INTO delayed_events
	(delay_id, user_id, device_id, request, room_id, type, state_key, content, origin_ts, delay_ms, since_ts, due_ts)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`

func (s *Service) insert(tx *store.Tx, e Event, request string, now int64) error {
	var key, req any
	if e.StateKey != nil {
		key = *e.StateKey
	}
	if request != "" {
		req = request
	}
	ms := e.Delay.Milliseconds()
	_, err := tx.Exec(insertSQL, s.stored(e.DelayID), e.UserID, e.DeviceID, req, e.RoomID, e.Type, key, string(e.Content), e.Timestamp, ms, now, now+ms)
	return err
}

const byRequestSQL = `SELECT delay_id FROM delayed_events WHERE user_id = $1 AND device_id = $2 AND request = $3`

func (s *Service) byRequest(q store.Querier, userID, deviceID, request string) (id string, err error) {
	if err = q.QueryRow(byRequestSQL, userID, deviceID, request).Scan(&id); err != nil {
		return "", err
	}
	return s.o.Secrets.Open(purpose, id)
}

const loadSQL = `SELECT ` + columns + ` FROM delayed_events WHERE delay_id = $1`

func (s *Service) loadRow(q store.Querier, delayID string) (row, error) {
	return s.scan(q.QueryRow(loadSQL, s.stored(delayID)))
}

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

func (s *Service) listDue(q store.Querier, limit int) (out []dueEvent, err error) {
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
		if d.id, err = s.o.Secrets.Open(purpose, d.id); err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, rows.Err()
}

const restartSQL = `UPDATE delayed_events SET since_ts = $2, due_ts = $2 + delay_ms WHERE delay_id = $1 AND due_ts IS NOT NULL`

func (s *Service) updateRestarted(tx *store.Tx, delayID string, now int64) error {
	_, err := tx.Exec(restartSQL, s.stored(delayID), now)
	return err
}

const finaliseSQL = `UPDATE delayed_events SET due_ts = NULL, finalised_ts = $2, event_id = $3, error = $4 WHERE delay_id = $1`

func (s *Service) noteFinal(tx *store.Tx, delayID string, now int64, eventID, failure string) error {
	var ev, fail any
	if eventID != "" {
		ev = eventID
	}
	if failure != "" {
		fail = failure
	}
	_, err := tx.Exec(finaliseSQL, s.stored(delayID), now, ev, fail)
	return err
}

const (
	listWaitingSQL   = `SELECT ` + columns + ` FROM delayed_events WHERE user_id = $1 AND due_ts IS NOT NULL ORDER BY due_ts, rowid LIMIT $2`
	listFinalisedSQL = `SELECT ` + columns + ` FROM delayed_events WHERE user_id = $1 AND due_ts IS NULL ORDER BY finalised_ts DESC, rowid DESC LIMIT $2`
)

func (s *Service) listRows(q store.Querier, query, userID string, limit int) (out []row, err error) {
	rows, err := q.Query(query, userID, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		r, err := s.scan(rows)
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
