// Package clock is the time by which sign-ins, tokens and invites expire: the machine's,
// except that it does not go back.
//
// Invariants:
//   - A time that was passed is not passed again: what has expired stays expired when the
//     machine's clock is set back, also over a restart. Corrections of less than a minute
//     are followed.
//   - While the machine's clock is behind, time goes on from the latest that was seen, so
//     that people still sign in.
//   - Only a person decides that the latest time was wrong (Accept).
package clock

import (
	"context"
	"errors"
	"sync"
	"time"

	"holdfast/store"
)

// slack is how far the machine's clock may go back and is followed.
const slack = time.Minute

// Clock is that time. Its methods are safe for concurrent use.
type Clock struct {
	db      *store.DB
	machine func() time.Time

	mu    sync.Mutex
	high  time.Time // latest that was seen
	at    time.Time // what the machine's clock said when high was set; its monotonic part counts
	saved time.Time // what the database has
}

// Open loads the latest time that was seen.
func Open(ctx context.Context, db *store.DB, machine func() time.Time) (*Clock, error) {
	c := &Clock{db: db, machine: machine}
	var ms int64
	err := db.Read(ctx, func(q store.Querier) error {
		return q.QueryRow(`SELECT high_water FROM id_clock WHERE id = 1`).Scan(&ms)
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	now := machine()
	c.high, c.at = now, now
	if err == nil {
		c.saved = time.UnixMilli(ms)
		if c.saved.After(now) {
			c.high = c.saved
		}
	}
	return c, nil
}

// Now is the time: the machine's, or if that went back, the latest that was seen and what
// has passed since.
func (c *Clock) Now() time.Time {
	m := c.machine()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !m.Before(c.high.Add(-slack)) {
		if m.After(c.high) {
			c.high, c.at = m, m
		}
		return m
	}
	if d := m.Sub(c.at); d > 0 { // by the monotonic clock, where the machine has one
		c.high = c.high.Add(d)
	}
	c.at = m
	return c.high
}

// Behind is how far the machine's clock is behind the latest time that was seen; 0: it is
// not.
func (c *Clock) Behind() time.Duration {
	m := c.machine()
	c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := c.high.Sub(m); d > slack {
		return d
	}
	return 0
}

// keepEvery is how old the time in the database may get: what expired in that time could
// be good again if the machine stops without warning and its clock is set back.
const keepEvery = time.Minute

const upsertHigh = `INSERT INTO id_clock (id, high_water) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET high_water = excluded.high_water`

// Keep writes the time into the database, if that has an old one or end is true.
func (c *Clock) Keep(ctx context.Context, end bool) error {
	c.Now()
	c.mu.Lock()
	high, saved := c.high, c.saved
	c.mu.Unlock()
	if d := high.Sub(saved); d < keepEvery && !(end && d > 0) {
		return nil
	}
	err := c.db.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(upsertHigh, high.UnixMilli())
		return err
	})
	if err == nil {
		c.mu.Lock()
		c.saved = high
		c.mu.Unlock()
	}
	return err
}

// AcceptTx takes the machine's clock for right, also where it is behind: what expired since
// then may be good again. It returns the time that is given up.
func (c *Clock) AcceptTx(tx *store.Tx) (was, is time.Time, err error) {
	m := c.machine()
	if _, err = tx.Exec(upsertHigh, m.UnixMilli()); err != nil {
		return was, is, err
	}
	c.mu.Lock()
	was = c.high
	c.mu.Unlock()
	tx.AfterCommit(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.high, c.at, c.saved = m, m, m
	})
	return was, m, nil
}
