package account

import (
	"context"
	"errors"
	"time"

	"holdfast/store"
)

// After freeFailures wrong attempts for a name from an address, each further one
// makes the next wait: firstWait, doubling to maxWait. It is never for good, and
// a day without an attempt forgets.
const (
	freeFailures = 5
	firstWait    = 2 * time.Second
	maxWait      = 15 * time.Minute
	forgetAfter  = 24 * time.Hour
)

// attempt refuses with *SlowDown while a key has to wait.
func (a *Accounts) attempt(ctx context.Context, key []byte) error {
	if !a.Limits {
		return nil
	}
	var until int64
	err := a.DB.Read(ctx, func(q store.Querier) error {
		err := q.QueryRow(selectFailures, key).Scan(new(int64), &until)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	if wait := time.UnixMilli(until).Sub(a.Now()); wait > 0 {
		return &SlowDown{wait}
	}
	return nil
}

const selectFailures = `SELECT count, until FROM id_auth_failures WHERE key = $1`

const upsertFailure = `INSERT INTO id_auth_failures (key, count, until, at) VALUES ($1, $2, $3, $4)
ON CONFLICT (key) DO UPDATE SET count = excluded.count, until = excluded.until, at = excluded.at`

func (a *Accounts) failed(ctx context.Context, key []byte) error {
	if !a.Limits {
		return nil
	}
	return a.DB.Write(ctx, func(tx *store.Tx) error {
		var count int64
		if err := tx.QueryRow(selectFailures, key).Scan(&count, new(int64)); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		count++
		now := a.Now()
		var until int64
		if count >= freeFailures {
			until = now.Add(min(maxWait, firstWait<<min(count-freeFailures, 10))).UnixMilli()
		}
		_, err := tx.Exec(upsertFailure, key, count, until, now.UnixMilli())
		return err
	})
}

const deleteFailure = `DELETE FROM id_auth_failures WHERE key = $1`

func (a *Accounts) succeeded(ctx context.Context, key []byte) error {
	if !a.Limits {
		return nil
	}
	var known bool
	err := a.DB.Read(ctx, func(q store.Querier) error {
		err := q.QueryRow(selectFailures, key).Scan(new(int64), new(int64))
		known = err == nil
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	if err != nil || !known {
		return err
	}
	return a.DB.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(deleteFailure, key)
		return err
	})
}

const (
	sweepFailures = `DELETE FROM id_auth_failures WHERE at < $1`
	sweepBrowsers = `DELETE FROM id_browser_sessions WHERE expires < $1`
	sweepResets   = `DELETE FROM id_resets WHERE until < $1`
)

// SweepTx removes what has expired.
func (a *Accounts) SweepTx(tx *store.Tx) error {
	now := a.Now()
	if _, err := tx.Exec(sweepFailures, now.Add(-forgetAfter).UnixMilli()); err != nil {
		return err
	}
	if _, err := tx.Exec(sweepBrowsers, now.UnixMilli()); err != nil {
		return err
	}
	_, err := tx.Exec(sweepResets, now.UnixMilli())
	return err
}
