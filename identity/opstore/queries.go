package opstore

import (
	"errors"
	"strings"
	"time"

	"holdfast/store"
)

const insertSessionSQL = `INSERT INTO id_sessions (id, user_id, client_id, scopes, device_id, auth_time, created, last_active, ended, reason, signed)
VALUES ($1, $2, $3, $4, $5, $6, $7, $7, 0, '', $8)`

func insertSession(tx *store.Tx, s *Session) error {
	_, err := tx.Exec(insertSessionSQL, s.ID, s.UserID, s.ClientID, strings.Join(s.Scopes, " "), s.DeviceID, s.AuthTime.UnixMilli(), s.Created.UnixMilli(), s.Signed.text())
	return err
}

const sessionColumns = `SELECT id, user_id, client_id, scopes, device_id, auth_time, created, last_active, signed FROM id_sessions `

func scanSession(scan func(...any) error) (s Session, err error) {
	var scopes, signed string
	var auth, created, active int64
	if err := scan(&s.ID, &s.UserID, &s.ClientID, &scopes, &s.DeviceID, &auth, &created, &active, &signed); err != nil {
		return Session{}, err
	}
	if s.Signed, err = parseSigned(signed); err != nil {
		return Session{}, err
	}
	s.Scopes = strings.Fields(scopes)
	s.AuthTime, s.Created, s.LastActive = time.UnixMilli(auth), time.UnixMilli(created), time.UnixMilli(active)
	return s, nil
}

// loadSession loads a session that is alive. Errors: ErrRefresh.
func loadSession(q store.Querier, id string) (Session, error) {
	s, err := scanSession(q.QueryRow(sessionColumns+`WHERE id = $1 AND ended = 0`, id).Scan)
	if errors.Is(err, store.ErrNotFound) {
		err = ErrRefresh
	}
	return s, err
}

func listSessions(q store.Querier, userID string) ([]Session, error) {
	rows, err := q.Query(sessionColumns+`WHERE user_id = $1 AND ended = 0`, userID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Session
	for rows.Next() {
		s, err := scanSession(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

func listDeviceSessions(q store.Querier, userID, deviceID string) ([]string, error) {
	return strings1(q, `SELECT id FROM id_sessions WHERE user_id = $1 AND device_id = $2 AND ended = 0`, userID, deviceID)
}

// LiveClients are the clients that have sessions which are alive.
func LiveClients(q store.Querier) (map[string]bool, error) {
	ids, err := strings1(q, `SELECT DISTINCT client_id FROM id_sessions WHERE ended = 0`)
	out := make(map[string]bool, len(ids))
	for _, id := range ids {
		out[id] = true
	}
	return out, err
}

func strings1(q store.Querier, query string, args ...any) ([]string, error) {
	rows, err := q.Query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

const touchSessionSQL = `UPDATE id_sessions SET last_active = $2 WHERE id = $1`

func touchSession(tx *store.Tx, id string, now time.Time) error {
	_, err := tx.Exec(touchSessionSQL, id, now.UnixMilli())
	return err
}

const (
	endSessionSQL        = `UPDATE id_sessions SET ended = $2, reason = $3 WHERE id = $1 AND ended = 0`
	deleteSessionAccess  = `DELETE FROM id_access_tokens WHERE session_id = $1`
	deleteSessionRefresh = `DELETE FROM id_refresh_tokens WHERE session_id = $1`
)

func endSession(tx *store.Tx, id, reason string, now time.Time) error {
	if _, err := tx.Exec(endSessionSQL, id, now.UnixMilli(), reason); err != nil {
		return err
	}
	if _, err := tx.Exec(deleteSessionAccess, id); err != nil {
		return err
	}
	_, err := tx.Exec(deleteSessionRefresh, id)
	return err
}

// A repeated refresh gives the same pair again: the rows stay, the access token's
// time begins anew.
const upsertAccessSQL = `INSERT INTO id_access_tokens (hash, session_id, refresh, scopes, expires, first_used) VALUES ($1, $2, $3, $4, $5, 0)
ON CONFLICT (hash) DO UPDATE SET expires = excluded.expires, scopes = excluded.scopes`

func upsertAccess(tx *store.Tx, hash []byte, session string, refresh []byte, scopes []string, expires int64) error {
	var r any
	if refresh != nil {
		r = refresh
	}
	_, err := tx.Exec(upsertAccessSQL, hash, session, r, strings.Join(scopes, " "), expires)
	return err
}

const insertRefreshSQL = `INSERT INTO id_refresh_tokens (hash, session_id, parent, created, expires, consumed) VALUES ($1, $2, $3, $4, $5, 0)
ON CONFLICT (hash) DO NOTHING`

func insertRefresh(tx *store.Tx, hash []byte, session string, parent []byte, now, expires time.Time) error {
	var p any
	if parent != nil {
		p = parent
	}
	_, err := tx.Exec(insertRefreshSQL, hash, session, p, now.UnixMilli(), expires.UnixMilli())
	return err
}

// loadRefresh finds a refresh token by its hash. Errors: ErrRefresh.
func loadRefresh(q store.Querier, hash []byte) (session string, expires, consumed int64, err error) {
	err = q.QueryRow(`SELECT session_id, expires, consumed FROM id_refresh_tokens WHERE hash = $1`, hash).Scan(&session, &expires, &consumed)
	if errors.Is(err, store.ErrNotFound) {
		err = ErrRefresh
	}
	return session, expires, consumed, err
}

// loadParent is the hash of the token that a refresh token replaced, or nil.
func loadParent(q store.Querier, hash []byte) (parent []byte, err error) {
	err = q.QueryRow(`SELECT parent FROM id_refresh_tokens WHERE hash = $1`, hash).Scan(&parent)
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return parent, err
}

func consumeRefresh(tx *store.Tx, hash []byte, now time.Time) (int64, error) {
	return tx.Exec(`UPDATE id_refresh_tokens SET consumed = $2 WHERE hash = $1 AND consumed = 0`, hash, now.UnixMilli())
}

// expireAccess ends the access tokens that were given out with a refresh token.
func expireAccess(tx *store.Tx, refresh []byte, now time.Time) error {
	_, err := tx.Exec(`UPDATE id_access_tokens SET expires = $2
WHERE session_id = (SELECT session_id FROM id_refresh_tokens WHERE hash = $1) AND refresh = $1 AND expires > $2`, refresh, now.UnixMilli())
	return err
}

const markUsedSQL = `UPDATE id_access_tokens SET first_used = $2 WHERE hash = $1 AND first_used = 0`

func markUsed(tx *store.Tx, hash []byte, now time.Time) error {
	_, err := tx.Exec(markUsedSQL, hash, now.UnixMilli())
	return err
}

func loadAccessSession(q store.Querier, hash []byte) (session string, err error) {
	err = q.QueryRow(`SELECT session_id FROM id_access_tokens WHERE hash = $1`, hash).Scan(&session)
	if errors.Is(err, store.ErrNotFound) {
		err = ErrUnknownToken
	}
	return session, err
}

// accessRow is an access token as it is stored.
type accessRow struct {
	session   string
	refresh   []byte
	scopes    []string
	expires   int64
	firstUsed int64
}

func loadAccess(q store.Querier, hash []byte) (r accessRow, err error) {
	var scopes string
	err = q.QueryRow(`SELECT session_id, refresh, scopes, expires, first_used FROM id_access_tokens WHERE hash = $1`, hash).
		Scan(&r.session, &r.refresh, &scopes, &r.expires, &r.firstUsed)
	if errors.Is(err, store.ErrNotFound) {
		err = ErrUnknownToken
	}
	r.scopes = strings.Fields(scopes)
	return r, err
}

const (
	insertLoginToken  = `INSERT INTO id_login_tokens (hash, user_id, expires) VALUES ($1, $2, $3)`
	consumeLoginToken = `DELETE FROM id_login_tokens WHERE hash = $1 RETURNING user_id, expires`
)

// selectDeadSessions finds sessions that have no token left that works: those of
// applications that get no refresh token, and those that nobody came back to.
const selectDeadSessions = `SELECT id FROM id_sessions s WHERE ended = 0
AND NOT EXISTS (SELECT 1 FROM id_access_tokens t WHERE t.session_id = s.id AND (t.expires = 0 OR t.expires > $1))
AND NOT EXISTS (SELECT 1 FROM id_refresh_tokens r WHERE r.session_id = s.id AND r.consumed = 0 AND r.expires > $1) LIMIT $2`

const sweepBatch = 500 // sessions that end in one transaction

// sweep removes what has expired. An expired access token whose refresh token is
// still good stays, so that its owner is told to refresh rather than to sign in.
// Used refresh tokens stay a day, so that their theft is noticed.
func sweep(tx *store.Tx, now time.Time) error {
	const day = 24 * time.Hour
	for _, q := range []struct {
		sql    string
		before time.Time
	}{
		{`DELETE FROM id_access_tokens WHERE expires <> 0 AND expires < $1
AND (refresh IS NULL OR NOT EXISTS (SELECT 1 FROM id_refresh_tokens r WHERE r.hash = id_access_tokens.refresh AND r.consumed = 0))`, now.Add(-time.Hour)},
		{`DELETE FROM id_refresh_tokens WHERE consumed <> 0 AND consumed < $1`, now.Add(-day)},
		{`DELETE FROM id_auth_requests WHERE expires < $1`, now},
		{`DELETE FROM id_login_tokens WHERE expires < $1`, now},
		{sweepLogins, now.Add(-refreshFor)},
		{sweepAssertions, now},
		{sweepGrants, now.Add(-time.Hour)}, // so long a device is told that it came too late
		{`DELETE FROM id_sessions WHERE ended <> 0 AND ended < $1`, now.Add(-90 * day)},
	} {
		if _, err := tx.Exec(q.sql, q.before.UnixMilli()); err != nil {
			return err
		}
	}
	return nil
}
