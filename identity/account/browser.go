package account

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"holdfast/store"
	"holdfast/store/audit"
)

// Lifetimes say how long a browser stays signed in.
type Lifetimes struct {
	Most time.Duration // since the person proved who they are
	Idle time.Duration // since the browser was last used; 0: as long as Most
}

// StandardLifetimes hold where nobody decided others.
var StandardLifetimes = Lifetimes{Most: 30 * 24 * time.Hour}

// usedEvery is how exactly it is known when a browser was last used, so that not each
// request writes.
const usedEvery = time.Minute

func (a *Accounts) lifetimes() Lifetimes {
	if a.Lifetimes == nil {
		return StandardLifetimes
	}
	return a.Lifetimes()
}

// alive are the times after which a session must have begun, and have been used, to go on:
// those that are asked for now, whatever they were when it began.
func (a *Accounts) alive() (begun, used int64) {
	now, l := a.Now(), a.lifetimes()
	if l.Idle == 0 {
		l.Idle = l.Most
	}
	return now.Add(-l.Most).UnixMilli(), now.Add(-l.Idle).UnixMilli()
}

// BrowserFor is how long a browser that signs in now stays signed in at most.
func (a *Accounts) BrowserFor() time.Duration { return a.lifetimes().Most }

// Browser is a person signed in at the pages.
type Browser struct {
	User     User
	AuthTime time.Time // when they last proved who they are
	Methods  []string  // by what, RFC 8176
	Hash     []byte    // of the cookie
	SID      string    // names the session to others; it outlives a change of the cookie
}

// Strong reports whether more than one factor was proved.
func (b Browser) Strong() bool { return slices.Contains(b.Methods, "mfa") }

// StartBrowser starts a browser session, always with a new secret, and ends the
// one with the hash old. methods are those of RFC 8176 that were passed. The returned
// secret is the cookie's value.
func (a *Accounts) StartBrowser(ctx context.Context, u User, methods []string, old []byte) (secret string, err error) {
	return a.StartBrowserOf(ctx, u, methods, old, a.Now())
}

// StartBrowserOf is StartBrowser for somebody who proved who they are at a time before, as
// at another provider.
func (a *Accounts) StartBrowserOf(ctx context.Context, u User, methods []string, old []byte, at time.Time) (secret string, err error) {
	secret = Secret()
	now := a.Now()
	if at.After(now) {
		at = now
	}
	return secret, a.DB.Write(ctx, func(tx *store.Tx) error {
		sid := NewULID(now)
		if old != nil {
			// Who proves anew who they are goes on with the session that applications know.
			var owner, had string
			err := tx.QueryRow(deleteBrowser, old).Scan(&owner, &had)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if owner == u.ID && had != "" {
				sid = had
			} else if err := a.endedTx(tx, owner, had); err != nil {
				return err
			}
		}
		if err := a.SeenTx(tx, u.ID); err != nil {
			return err
		}
		if _, err := tx.Exec(insertBrowser, Hash(secret), u.ID, at.UnixMilli(), now.Add(a.BrowserFor()).UnixMilli(), sid, strings.Join(methods, " "), now.UnixMilli()); err != nil {
			return err
		}
		return a.Audit.Tx(ctx, tx, audit.Event{Name: "signin", Actor: u.UserID, Target: u.UserID, Data: audit.Data{"methods": methods}})
	})
}

const insertBrowser = `INSERT INTO id_browser_sessions (hash, user_id, auth_time, created, used, expires, sid, amr) VALUES ($1, $2, $3, $7, $7, $4, $5, $6)`

const updateUsed = `UPDATE id_browser_sessions SET used = $2 WHERE hash = $1 AND used < $2`

const deleteBrowser = `DELETE FROM id_browser_sessions WHERE hash = $1 RETURNING user_id, sid`

const deleteBrowsers = `DELETE FROM id_browser_sessions WHERE user_id = $1 AND hash IS NOT $2 RETURNING user_id, sid`

const deleteNamed = `DELETE FROM id_browser_sessions WHERE user_id = $1 AND sid = $2 RETURNING user_id, sid`

const selectOwner = `SELECT user_id FROM id_browser_sessions WHERE hash = $1`

const selectLive = `SELECT EXISTS (SELECT 1 FROM id_browser_sessions WHERE user_id = $1 AND sid = $2 AND expires > $3 AND created > $4 AND used > $5)`

const selectBrowser = `SELECT user_id, auth_time, sid, amr, used FROM id_browser_sessions WHERE hash = $1 AND expires > $2 AND created > $3 AND used > $4`

// BrowserByCookie finds who is signed in with a cookie, and notes that the browser is used.
// Errors: ErrNoUser.
func (a *Accounts) BrowserByCookie(ctx context.Context, secret string) (Browser, error) {
	b, used, err := a.loadBrowser(ctx, secret)
	if now := a.Now(); err == nil && now.Sub(used) >= usedEvery {
		// Where the disk takes nothing, people stay signed in, and only end sooner.
		_ = a.DB.Write(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(updateUsed, b.Hash, now.UnixMilli())
			return err
		})
	}
	return b, err
}

// IdleBrowserByCookie is BrowserByCookie for what a browser asks by itself, while nobody
// need sit at it. Errors: ErrNoUser.
func (a *Accounts) IdleBrowserByCookie(ctx context.Context, secret string) (Browser, error) {
	b, _, err := a.loadBrowser(ctx, secret)
	return b, err
}

func (a *Accounts) loadBrowser(ctx context.Context, secret string) (b Browser, used time.Time, err error) {
	if secret == "" || len(secret) > 256 {
		return Browser{}, used, ErrNoUser
	}
	b.Hash = Hash(secret)
	begun, since := a.alive()
	err = a.DB.Read(ctx, func(q store.Querier) error {
		var id, methods string
		var at, last int64
		if err := q.QueryRow(selectBrowser, b.Hash, a.Now().UnixMilli(), begun, since).Scan(&id, &at, &b.SID, &methods, &last); err != nil {
			if errors.Is(err, store.ErrNotFound) {
				err = ErrNoUser
			}
			return err
		}
		b.AuthTime, b.Methods, used = time.UnixMilli(at), strings.Fields(methods), time.UnixMilli(last)
		b.User, err = a.LoadByID(q, id)
		return err
	})
	if err == nil && b.User.Err() != nil {
		err = ErrNoUser
	}
	if err != nil {
		return Browser{}, used, err
	}
	return b, used, nil
}

// OnEnd has fn run in the transaction in which a browser session ends. Call it before
// the accounts are used.
func (a *Accounts) OnEnd(fn func(tx *store.Tx, userID, sid string) error) { a.onEnd = fn }

func (a *Accounts) endedTx(tx *store.Tx, userID, sid string) error {
	if a.onEnd == nil || sid == "" {
		return nil
	}
	return a.onEnd(tx, userID, sid)
}

// endBrowsersTx runs a statement that removes browser sessions and returns whose they
// were.
func (a *Accounts) endBrowsersTx(tx *store.Tx, statement string, args ...any) error {
	rows, err := tx.Query(statement, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	var ended [][2]string
	for rows.Next() {
		var x [2]string
		if err := rows.Scan(&x[0], &x[1]); err != nil {
			return err
		}
		ended = append(ended, x)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	rows.Close()
	for _, x := range ended {
		if err := a.endedTx(tx, x[0], x[1]); err != nil {
			return err
		}
	}
	return nil
}

// EndBrowser ends a browser session.
func (a *Accounts) EndBrowser(ctx context.Context, hash []byte) error {
	return a.DB.Write(ctx, func(tx *store.Tx) error {
		var id string
		err := tx.QueryRow(selectOwner, hash).Scan(&id)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := a.note(tx, "signout", id, nil); err != nil {
			return err
		}
		return a.endBrowsersTx(tx, deleteBrowser, hash)
	})
}

// EndBrowserTx ends one browser session of a user, by the name that others know.
func (a *Accounts) EndBrowserTx(tx *store.Tx, id, sid string) error {
	return a.endBrowsersTx(tx, deleteNamed, id, sid)
}

// EndBrowsersTx ends a user's browser sessions except the one with the hash keep.
func (a *Accounts) EndBrowsersTx(tx *store.Tx, id string, keep []byte) error {
	return a.endBrowsersTx(tx, deleteBrowsers, id, keep)
}

// BrowserLives reports whether a user's browser session goes on.
func (a *Accounts) BrowserLives(q store.Querier, userID, sid string) (lives bool, err error) {
	begun, used := a.alive()
	err = q.QueryRow(selectLive, userID, sid, a.Now().UnixMilli(), begun, used).Scan(&lives)
	return lives, err
}
