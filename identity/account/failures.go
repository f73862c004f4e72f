package account

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"holdfast/store"
	"holdfast/store/audit"
)

// After its free failures, each further wrong attempt for a name from a place makes
// the next wait: firstWait, doubling to maxWait. It is never for good, and a day
// without an attempt forgets. A place is an address; as whoever is in an IPv6 network
// can use as many of its addresses as they like, the network is a place as well.
// Everywhere together is one, too, for who tries a name from many addresses; there the
// wait stays short, as its owner waits as well where no browser knows them.
const (
	freeFailures    = 5
	freeFromNetwork = 50
	freeEverywhere  = 100
	maxEverywhere   = time.Minute
	firstWait       = 2 * time.Second
	maxWait         = 15 * time.Minute
	forgetAfter     = 24 * time.Hour
)

// place is a name and where somebody tries its password.
type place struct {
	key  []byte
	free int64
	most time.Duration // the longest wait
}

// Known is a browser in which somebody signed in before, as KnownIn found it; "": none.
type Known string

// At is where an attempt comes from.
type At struct {
	Address string
	Known   Known
}

// places are those that an attempt at a name is counted at. Who comes with a browser
// of theirs does not wait for what others try: it is counted alone.
func places(localpart string, from At) []place {
	if from.Known != "" {
		return []place{{Hash("password\x00" + localpart + "\x00browser\x00" + string(from.Known)), freeFailures, maxWait}}
	}
	return append(addresses(localpart, from.Address), place{Hash("password\x00" + localpart), freeEverywhere, maxEverywhere})
}

func addresses(localpart, from string) []place {
	at := func(from string, free int64) place {
		return place{Hash("password\x00" + localpart + "\x00" + from), free, maxWait}
	}
	ps := []place{at(from, freeFailures)}
	if n := Network(from); n != from {
		ps = append(ps, at(n, freeFromNetwork))
	}
	return ps
}

// Network is the smallest network that an address of a client stands for: the /64
// of an IPv6 address, and any other as it is.
func Network(from string) string {
	ip, err := netip.ParseAddr(from)
	if err != nil || ip.Is4() || ip.Is4In6() {
		return from
	}
	return netip.PrefixFrom(ip.WithZone(""), 64).Masked().String()
}

// turns lets attempts at one place run one after the other: of many that begin at
// once, all would be looked at before the first failure is counted.
type turns struct {
	mu sync.Mutex
	m  map[string]*turn
}

type turn struct {
	busy chan struct{} // holds one value while an attempt runs
	n    int           // attempts that run or wait
}

// take waits for the turn of a key. Call done after the attempt.
func (t *turns) take(ctx context.Context, key string) (done func(), err error) {
	t.mu.Lock()
	x := t.m[key]
	if x == nil {
		if t.m == nil {
			t.m = map[string]*turn{}
		}
		x = &turn{busy: make(chan struct{}, 1)}
		t.m[key] = x
	}
	x.n++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if x.n--; x.n == 0 {
			delete(t.m, key)
		}
	}
	select {
	case x.busy <- struct{}{}:
		return func() { <-x.busy; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// attempt waits for the turn of a name's places, and refuses with *SlowDown while
// one has to wait. Without an error, call done after the attempt.
func (a *Accounts) attempt(ctx context.Context, ps []place) (done func(), err error) {
	if !a.Limits {
		return func() {}, nil
	}
	var taken []func()
	done = func() {
		for _, f := range taken {
			f()
		}
	}
	for _, p := range ps { // in the same order for everybody: address, network
		f, err := a.turns.take(ctx, string(p.key))
		if err != nil {
			done()
			return nil, err
		}
		taken = append(taken, f)
	}
	var until int64
	err = a.DB.Read(ctx, func(q store.Querier) error {
		for _, p := range ps {
			var u int64
			if err := q.QueryRow(selectFailures, p.key).Scan(new(int64), &u); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			until = max(until, u)
		}
		return nil
	})
	if wait := time.UnixMilli(until).Sub(a.Now()); err == nil && wait > 0 {
		err = &SlowDown{Wait: wait}
	}
	if err != nil {
		done()
		return nil, err
	}
	return done, nil
}

// Wrong guesses of a code before the next has to wait.
const (
	freeGuesses            = 10
	freeGuessesFromNetwork = 50
)

// Guess runs try, which looks for something by a code that somebody typed, unless
// there were too many codes that were none: by the account u, or from an address.
// What is found forgets no failures: who guesses has codes of their own, too.
// Errors: *SlowDown, try's.
func (a *Accounts) Guess(ctx context.Context, u User, from string, try func() (found bool, err error)) error {
	ps := []place{
		{Hash("code\x00" + u.ID), freeGuesses, maxWait},
		{Hash("code from\x00" + Network(from)), freeGuessesFromNetwork, maxWait},
	}
	done, err := a.attempt(ctx, ps)
	if err != nil {
		return err
	}
	defer done()
	found, err := try()
	if err != nil || found {
		return err
	}
	return a.failed(ctx, ps)
}

// Second runs try, which checks a second factor of an account, unless there were too
// many that were wrong. Whoever tries knows the password, and is counted as one wherever
// they are; a browser of the account's is counted alone. Errors: *SlowDown, try's.
func (a *Accounts) Second(ctx context.Context, u User, from At, try func() (right bool, err error)) error {
	ps := []place{{Hash("second\x00" + u.ID + "\x00" + string(from.Known)), freeFailures, maxWait}}
	done, err := a.attempt(ctx, ps)
	if err != nil {
		return err
	}
	defer done()
	right, err := try()
	switch {
	case right:
		return a.succeeded(ctx, ps)
	case err != nil:
		return err
	}
	return a.wrong(ctx, ps, u, "second factor")
}

const selectFailures = `SELECT count, until FROM id_auth_failures WHERE key = $1`

const upsertFailure = `INSERT INTO id_auth_failures (key, count, until, at) VALUES ($1, $2, $3, $4)
ON CONFLICT (key) DO UPDATE SET count = excluded.count, until = excluded.until, at = excluded.at`

// wrong is failed for a password or a second factor; u is whose it was not, zero: a name that nobody has. The
// name is not noted then: it may be a password in the wrong field.
func (a *Accounts) wrong(ctx context.Context, ps []place, u User, method string) error {
	return a.failedAnd(ctx, ps, func(tx *store.Tx) error {
		who := audit.WhoOf(tx.Context())
		return a.Audit.Bounded(tx.Context(), tx, method+"|"+u.ID+"|"+Network(who.IP), audit.Event{Name: "signin.failed", Actor: strangerOr(who), Target: u.UserID, Data: audit.Data{"method": method}})
	})
}

// refused notes that somebody proved who they are and does not get in, as err says, which
// it gives back.
func (a *Accounts) refused(ctx context.Context, u User, err error) error {
	reason := ""
	switch {
	case errors.Is(err, ErrLocked):
		reason = "locked"
	case errors.Is(err, ErrDeactivated):
		reason = "closed"
	}
	if reason == "" || a.Audit == nil {
		return err
	}
	noted := a.DB.Write(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		who := audit.WhoOf(tx.Context())
		return a.Audit.Bounded(tx.Context(), tx, reason+"|"+u.ID+"|"+Network(who.IP), audit.Event{Name: "signin.refused", Actor: strangerOr(who), Target: u.UserID, Data: audit.Data{"reason": reason}})
	})
	if noted != nil {
		return noted
	}
	return err
}

func strangerOr(who audit.Who) string {
	if who.Actor == "" {
		return audit.Nobody
	}
	return who.Actor
}

func (a *Accounts) failed(ctx context.Context, ps []place) error {
	return a.failedAnd(ctx, ps, func(*store.Tx) error { return nil })
}

func (a *Accounts) failedAnd(ctx context.Context, ps []place, and func(tx *store.Tx) error) error {
	// Who hangs up does not get the attempt for free.
	return a.DB.Write(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		if err := and(tx); err != nil || !a.Limits {
			return err
		}
		now := a.Now()
		for _, p := range ps {
			var count int64
			if err := tx.QueryRow(selectFailures, p.key).Scan(&count, new(int64)); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			count++
			var until int64
			if count >= p.free {
				until = now.Add(min(p.most, firstWait<<min(count-p.free, 10))).UnixMilli()
			}
			if _, err := tx.Exec(upsertFailure, p.key, count, until, now.UnixMilli()); err != nil {
				return err
			}
		}
		return nil
	})
}

const deleteFailure = `DELETE FROM id_auth_failures WHERE key = $1`

// succeeded forgets the failures from an address. Those from its network stay: they
// may be somebody else's.
func (a *Accounts) succeeded(ctx context.Context, ps []place) error {
	if !a.Limits {
		return nil
	}
	key := ps[0].key
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
	sweepBrowsers = `DELETE FROM id_browser_sessions WHERE expires <= $1 OR created <= $2 OR used <= $3 RETURNING user_id, sid`
	sweepResets   = `DELETE FROM id_resets WHERE until < $1`
)

// SweepTx removes what has expired.
func (a *Accounts) SweepTx(tx *store.Tx) error {
	now := a.Now()
	if _, err := tx.Exec(sweepFailures, now.Add(-forgetAfter).UnixMilli()); err != nil {
		return err
	}
	begun, used := a.alive()
	if err := a.endBrowsersTx(tx, sweepBrowsers, now.UnixMilli(), begun, used); err != nil {
		return err
	}
	if _, err := tx.Exec(sweepResets, now.UnixMilli()); err != nil {
		return err
	}
	if _, err := tx.Exec(sweepLinks, now.Add(-keepLinks).UnixMilli()); err != nil {
		return err
	}
	for _, q := range []string{sweepInvites, sweepCards, sweepBatches} {
		if _, err := tx.Exec(q, now.Add(-keepLinks).UnixMilli()); err != nil {
			return err
		}
	}
	return sweepEmails(tx, now)
}
