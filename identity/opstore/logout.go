package opstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"holdfast/identity/account"
	"holdfast/identity/register"
	"holdfast/identity/trust"
	"holdfast/store"
)

// This file tells applications that a sign-in they rely on has ended: OpenID Connect
// Back-Channel Logout 1.0. Which ones rely on a browser session is noted when they
// trade a code; what they are to be told lies in the database until they took it.

// Bounds of logouts.
const (
	logoutTokenFor  = 2 * time.Minute
	logoutTimeout   = 10 * time.Second
	logoutBatch     = 50 // of an application, read at a time
	tellFor         = 15 * time.Second
	logoutsAtOnce   = 4      // applications that are told at the same time
	maxLogouts      = 10_000 // kept for an application
	logoutsKeptFor  = 24 * time.Hour
	maxLogoutAnswer = 64 << 10
	// logoutType is the type of a logout token, so that none is taken for an ID token.
	logoutType = "logout+jwt"
	// LogoutEvent is what a logout token says happened.
	LogoutEvent = "http://schemas.openid.net/event/backchannel-logout"
)

// refusedWaits are those between the tries where the application answers 400. It says so
// of a bad token, and of a logout that failed: Nextcloud, where it could not reach us.
// Spec: OpenID Connect Back-Channel Logout 1.0 section 2.8
var refusedWaits = []time.Duration{time.Minute, 30 * time.Minute}

// logoutWaits are those between the other tries; the last goes on.
var logoutWaits = []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour}

const (
	upsertLogin = `INSERT INTO id_logins (user_id, sid, client_id, issuer, created) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (user_id, sid, client_id) DO UPDATE SET issuer = excluded.issuer`
	loginsOfSID    = `DELETE FROM id_logins WHERE user_id = $1 AND sid = $2 RETURNING user_id, sid, client_id, issuer`
	loginsOfUser   = `DELETE FROM id_logins WHERE user_id = $1 RETURNING user_id, sid, client_id, issuer`
	loginsOfApp    = `DELETE FROM id_logins WHERE user_id = $1 AND client_id = $2 RETURNING user_id, sid, client_id, issuer`
	loginsOfOne    = `DELETE FROM id_logins WHERE user_id = $1 AND client_id = $2 AND sid = $3 RETURNING user_id, sid, client_id, issuer`
	loginsOfClient = `DELETE FROM id_logins WHERE client_id = $1 RETURNING user_id, sid, client_id, issuer`
	// A device without a browser session is not told of one that ends, so its row goes
	// once no session can be left.
	sweepLogins  = `DELETE FROM id_logins WHERE sid = '' AND created < $1`
	insertLogout = `INSERT INTO id_logouts (id, client_id, user_id, sid, issuer, created, tries, next) VALUES ($1, $2, $3, $4, $5, $6, 0, $6)`
	countLogouts = `SELECT count(*) FROM (SELECT 1 FROM id_logouts WHERE client_id = $1 LIMIT $2)`
	// Of each application some, so that none has to wait for all of another's.
	selectLogouts = `SELECT id, client_id, user_id, sid, issuer, created, tries FROM (
	SELECT *, row_number() OVER (PARTITION BY client_id ORDER BY next, id) AS n FROM id_logouts WHERE next <= $1
) WHERE n <= $2 ORDER BY next, id`
	nextLogout   = `SELECT coalesce(min(next), 0) FROM id_logouts`
	deleteLogout = `DELETE FROM id_logouts WHERE id = $1`
	retryLogout  = `UPDATE id_logouts SET tries = tries + 1, next = $2 WHERE id = $1`
	deferLogouts = `UPDATE id_logouts SET next = $2 WHERE client_id = $1 AND next < $2`
	hurryLogouts = `UPDATE id_logouts SET next = $2 WHERE client_id = $1 AND next > $2`
	dropLogouts  = `DELETE FROM id_logouts WHERE client_id = $1`
)

// logouts is the queue's wake-up.
type logouts struct {
	mu   sync.Mutex // one delivery at a time: none is sent twice
	wake chan struct{}
}

func (l *logouts) ring() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// loginTx notes that an application signed somebody in.
func (s *Store) loginTx(tx *store.Tx, c *register.Client, userID, sid, issuer string) error {
	if c.App == nil {
		return nil // who registered by themselves is told nothing
	}
	_, err := tx.Exec(upsertLogin, userID, sid, c.ID, issuer, s.Now().UnixMilli())
	return err
}

// logoutTx forgets sign-ins that a statement removes, and has their applications told.
func (s *Store) logoutTx(tx *store.Tx, statement string, args ...any) error {
	rows, err := tx.Query(statement, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	type login struct{ user, sid, client, issuer string }
	var list []login
	for rows.Next() {
		var l login
		if err := rows.Scan(&l.user, &l.sid, &l.client, &l.issuer); err != nil {
			return err
		}
		list = append(list, l)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	rows.Close()
	if s.Client == nil || len(list) == 0 {
		return nil
	}
	room := map[string]int{} // how many more an application may have; 0: it is not told
	now := s.Now()
	queued := false
	for _, l := range list {
		left, known := room[l.client]
		if !known {
			c, err := s.Clients.Load(tx, l.client)
			if err != nil && !errors.Is(err, register.ErrNoClient) {
				return err
			}
			if err == nil && c.App != nil && c.App.BackchannelURI != "" {
				var n int
				if err := tx.QueryRow(countLogouts, l.client, maxLogouts).Scan(&n); err != nil {
					return err
				}
				if left = maxLogouts - n; left <= 0 {
					s.Log.Error("an application has too many logouts that it did not take; it is not told of more", "app", l.client)
				}
			}
		}
		room[l.client] = left - 1
		if left <= 0 {
			room[l.client] = 0
			continue
		}
		if _, err := tx.Exec(insertLogout, account.NewULID(now), l.client, l.user, l.sid, l.issuer, now.UnixMilli()); err != nil {
			return err
		}
		queued = true
	}
	if queued {
		tx.AfterCommit(s.logouts.ring)
	}
	return nil
}

// BrowserEndedTx follows the end of a browser session: the applications that it signed
// somebody in to are told, and their sessions end that were not to outlive it. Those
// with offline_access were, and a Matrix device is signed out for itself.
// Spec: OpenID Connect Back-Channel Logout 1.0 section 2.7
func (s *Store) BrowserEndedTx(tx *store.Tx, userID, sid string) error {
	all, err := listSessions(tx, userID)
	if err != nil {
		return err
	}
	for _, x := range all {
		if x.SID != sid || x.DeviceID != "" || matrixAPI(x.Scopes) || offline(x.Scopes) {
			continue
		}
		if err := s.endTx(tx, x.ID, "signed out in the browser", true); err != nil {
			return err
		}
	}
	// What led to a session and was agreed to in this one makes none any more.
	rows, err := tx.Query(`SELECT id, signed FROM id_auth_requests WHERE user_id = $1 AND state IN ('done', 'code')`, userID)
	if err != nil {
		return err
	}
	defer rows.Close()
	var drop []string
	for rows.Next() {
		var id, raw string
		if err := rows.Scan(&id, &raw); err != nil {
			return err
		}
		signed, err := parseSigned(raw)
		if err != nil {
			return err
		}
		if signed.SID == sid {
			drop = append(drop, id)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	rows.Close()
	for _, id := range drop {
		if _, err := tx.Exec(`DELETE FROM id_auth_requests WHERE id = $1`, id); err != nil {
			return err
		}
	}
	return s.logoutTx(tx, loginsOfSID, userID, sid)
}

// LogoutUserTx has all applications that somebody is signed in to told that this is over.
func (s *Store) LogoutUserTx(tx *store.Tx, userID string) error {
	return s.logoutTx(tx, loginsOfUser, userID)
}

// logout is one that an application is still to be told of.
type logout struct {
	id, client, user, sid, issuer string
	created                       time.Time
	tries                         int
}

// errRefused is the answer 400.
var errRefused = errors.New("the application refused the logout token")

// RunLogouts tells applications of logouts until ctx ends.
func (s *Store) RunLogouts(ctx context.Context) {
	if s.Client == nil {
		return
	}
	for ctx.Err() == nil {
		wait, err := s.DeliverLogouts(ctx)
		if err != nil {
			if ctx.Err() == nil {
				s.Log.Error("applications could not be told of logouts", "err", err)
			}
			wait = time.Minute
		}
		if wait == 0 {
			wait = time.Hour // until one is queued
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-s.logouts.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// DeliverLogouts tells applications of the logouts that are due, and returns how long
// until the next is; 0: there is none.
func (s *Store) DeliverLogouts(ctx context.Context) (next time.Duration, err error) {
	s.logouts.mu.Lock()
	defer s.logouts.mu.Unlock()
	for {
		due, err := s.dueLogouts(ctx)
		if err != nil {
			return 0, err
		}
		if len(due) == 0 {
			break
		}
		of := map[string][]logout{}
		for _, l := range due {
			of[l.client] = append(of[l.client], l)
		}
		var wg sync.WaitGroup
		slots := make(chan struct{}, logoutsAtOnce)
		errs := make(chan error, len(of))
		for client, list := range of {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				if err := s.tell(ctx, client, list); err != nil {
					errs <- err
				}
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			return 0, err
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
	var at int64
	err = s.DB.Read(ctx, func(q store.Querier) error { return q.QueryRow(nextLogout).Scan(&at) })
	if err != nil || at == 0 {
		return 0, err
	}
	return max(time.UnixMilli(at).Sub(s.Now()), time.Millisecond), nil
}

func (s *Store) dueLogouts(ctx context.Context) (out []logout, err error) {
	err = s.DB.Read(ctx, func(q store.Querier) error {
		rows, err := q.Query(selectLogouts, s.Now().UnixMilli(), logoutBatch)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var l logout
			var created int64
			if err := rows.Scan(&l.id, &l.client, &l.user, &l.sid, &l.issuer, &created, &l.tries); err != nil {
				return err
			}
			l.created = time.UnixMilli(created)
			out = append(out, l)
		}
		return rows.Err()
	})
	return out, err
}

// tell hands an application its logouts, one after the other. One that it does not take
// is tried later, and where it cannot be reached so are the others. Where it is slow, what
// is left waits for the next round, so that other applications do not wait for it.
func (s *Store) tell(ctx context.Context, clientID string, list []logout) error {
	c, err := s.Clients.Client(ctx, clientID)
	if errors.Is(err, register.ErrNoClient) || err == nil && (c.App == nil || c.App.BackchannelURI == "") {
		return s.write(ctx, dropLogouts, clientID)
	}
	if err != nil {
		return err
	}
	by, err := trust.Client(s.Client, c.App.CA)
	if err != nil {
		return fmt.Errorf("the application %s: %w", clientID, err)
	}
	if by != s.Client {
		defer by.CloseIdleConnections() // it is used for these alone
	}
	for began := time.Now(); len(list) > 0 && time.Since(began) < tellFor; list = list[1:] {
		l := list[0]
		err := s.post(ctx, by, c, l)
		if err == nil {
			// Also where the program is stopped meanwhile: it is not told again then.
			if err := s.write(context.WithoutCancel(ctx), deleteLogout, l.id); err != nil {
				return err
			}
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		refused := errors.Is(err, errRefused)
		if s.Now().Sub(l.created) >= logoutsKeptFor || refused && l.tries >= len(refusedWaits) {
			s.Log.Error("an application did not take a logout, and is not told again", "app", clientID, "tries", l.tries+1, "err", err)
			if err := s.write(ctx, deleteLogout, l.id); err != nil {
				return err
			}
			continue
		}
		wait := logoutWaits[min(l.tries, len(logoutWaits)-1)]
		if refused {
			wait = refusedWaits[l.tries]
		}
		at := s.Now().Add(wait).UnixMilli()
		s.Log.Warn("an application did not take a logout; it is told again later", "app", clientID, "tries", l.tries+1, "err", err)
		if err := s.write(ctx, retryLogout, l.id, at); err != nil {
			return err
		}
		if !refused {
			return s.write(ctx, deferLogouts, clientID, at)
		}
	}
	return nil
}

func (s *Store) write(ctx context.Context, statement string, args ...any) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(statement, args...)
		return err
	})
}

// RetryTx has an application told at once of what it did not take before: it is reached
// in another way now.
func (s *Store) RetryTx(tx *store.Tx, clientID string) error {
	n, err := tx.Exec(hurryLogouts, clientID, s.Now().UnixMilli())
	if n > 0 {
		tx.AfterCommit(s.logouts.ring)
	}
	return err
}

// logoutToken is what an application is told. Spec: OpenID Connect Back-Channel Logout
// 1.0 section 2.4
func (s *Store) logoutToken(ctx context.Context, c *register.Client, l logout) (string, error) {
	k, err := s.signer(ctx)
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: k.priv, KeyID: k.id}}, (&jose.SignerOptions{}).WithType(logoutType))
	if err != nil {
		return "", err
	}
	now := s.Now()
	claims := map[string]any{
		"iss": l.issuer, "sub": s.Subject(c, l.user), "aud": c.ID, "jti": l.id,
		"iat": now.Unix(), "exp": now.Add(logoutTokenFor).Unix(),
		"events": map[string]any{LogoutEvent: struct{}{}},
	}
	if sid := s.SessionID(c.ID, l.sid); sid != "" {
		claims["sid"] = sid
	}
	return jwt.Signed(signer).Claims(claims).Serialize()
}

// post hands over one. Errors: errRefused.
func (s *Store) post(ctx context.Context, by *http.Client, c *register.Client, l logout) error {
	token, err := s.logoutToken(ctx, c, l)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, logoutTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.App.BackchannelURI, strings.NewReader(url.Values{"logout_token": {token}}.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("User-Agent", "Holdfast")
	client := *by
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, maxLogoutAnswer))
	switch {
	case resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNoContent:
		return nil
	case resp.StatusCode == http.StatusBadRequest:
		return errRefused
	}
	return fmt.Errorf("it answered %d", resp.StatusCode)
}

// maxAssertions are remembered until they expire, so that none is used twice.
const maxAssertions = 20_000

// FirstUse reports whether a signed assertion of an application was not used before,
// and remembers it until then. Where there are too many it says no.
func (s *Store) FirstUse(ctx context.Context, clientID, id string, until time.Time) (first bool, err error) {
	h := sha256.Sum256([]byte(clientID + "\x00" + id))
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		first = false
		var n int
		if err := tx.QueryRow(`SELECT count(*) FROM id_assertions`).Scan(&n); err != nil {
			return err
		}
		if n >= maxAssertions {
			dropped, err := tx.Exec(sweepAssertions, s.Now().UnixMilli())
			if err != nil || dropped == 0 {
				return err
			}
		}
		added, err := tx.Exec(`INSERT INTO id_assertions (hash, expires) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING`, h[:], until.UnixMilli())
		first = added == 1
		return err
	})
	return first && err == nil, err
}

const sweepAssertions = `DELETE FROM id_assertions WHERE expires < $1`
