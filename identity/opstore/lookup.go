package opstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"sync/atomic"

	"holdfast/identity/account"
	"holdfast/store"
)

// Principal is whose access token was looked up.
type Principal struct {
	ID        string // ULID of the account
	UserID    string // "@alice:example.org"
	DeviceID  string
	SessionID string
	ClientID  string // "": a legacy login
	Admin     bool
	Roles     account.Roles
	Suspended bool
	Guest     bool
	Scopes    []string // nil: a legacy login
}

// Matrix reports whether the token is for the client-server API.
func (p Principal) Matrix() bool { return p.ClientID == "" || matrixAPI(p.Scopes) }

type tokenHash = [sha256.Size]byte

// entry is a token in memory. All but used is fixed once it is in the cache.
type entry struct {
	Principal
	err     error // why the account must not be used
	expires int64 // ms; 0: never
	refresh []byte
	used    atomic.Bool // its first use is on disk, or needs no note
}

// maxCached bounds the tokens in memory (about 400 bytes each).
const maxCached = 50_000

type cache struct {
	mu  sync.RWMutex
	m   map[tokenHash]*entry
	gen uint64 // counts drops: what was read before one must not be put after it
}

func (c *cache) get(h tokenHash) (*entry, uint64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.m[h], c.gen
}

func (c *cache) put(h tokenHash, e *entry, gen uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gen != gen {
		return
	}
	if len(c.m) >= maxCached {
		n := maxCached / 10
		for k := range c.m { // any tenth: they come back when they are used
			delete(c.m, k)
			if n--; n <= 0 {
				break
			}
		}
	}
	c.m[h] = e
}

func (c *cache) drop(match func(tokenHash, *entry) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	for h, e := range c.m {
		if match(h, e) {
			delete(c.m, h)
		}
	}
}

// DropUser forgets what is in memory about a user's tokens, after the commit that
// changed the account.
func (s *Store) DropUser(id string) {
	s.cache.drop(func(_ tokenHash, e *entry) bool { return e.ID == id })
}

// Lookup returns whose access token it is, of any application.
// Errors: ErrUnknownToken, ErrExpiredToken, account.ErrLocked (with the principal),
// account.ErrDeactivated; any other is transient.
func (s *Store) Lookup(ctx context.Context, token string) (Principal, error) {
	if token == "" || len(token) > maxToken {
		return Principal{}, ErrUnknownToken
	}
	h := sha256.Sum256([]byte(token))
	e, gen := s.cache.get(h)
	if e == nil {
		var err error
		if e, err = s.load(ctx, h); err != nil {
			return Principal{}, err
		}
		s.cache.put(h, e, gen)
	}
	if e.expires != 0 && s.Now().UnixMilli() >= e.expires {
		return Principal{}, ErrExpiredToken
	}
	if errors.Is(e.err, account.ErrLocked) {
		return e.Principal, e.err // who is locked out may still sign out
	}
	if e.err != nil {
		return Principal{}, e.err
	}
	if !e.used.Load() {
		if err := s.firstUse(ctx, h, e); err != nil {
			return Principal{}, err
		}
	}
	return e.Principal, nil
}

func (s *Store) load(ctx context.Context, h tokenHash) (*entry, error) {
	var (
		row  accessRow
		sess Session
		u    account.User
	)
	err := s.DB.Read(ctx, func(q store.Querier) (err error) {
		if row, err = loadAccess(q, h[:]); err != nil {
			return err
		}
		if sess, err = loadSession(q, row.session); err != nil {
			return err
		}
		u, err = s.Accounts.LoadByID(q, sess.UserID)
		return err
	})
	if errors.Is(err, ErrRefresh) || errors.Is(err, account.ErrNoUser) {
		err = ErrUnknownToken
	}
	if err != nil {
		return nil, err
	}
	e := &entry{
		Principal: Principal{
			ID: u.ID, UserID: u.UserID, DeviceID: sess.DeviceID, SessionID: sess.ID, ClientID: sess.ClientID,
			Admin: u.Admin, Roles: u.Roles, Suspended: u.Suspended,
		},
		err: u.Err(), expires: row.expires, refresh: row.refresh,
	}
	if sess.ClientID != "" {
		e.Scopes = row.scopes
	}
	e.used.Store(row.refresh == nil || row.firstUsed != 0)
	return e, nil
}

// firstUse notes on disk that a token arrived, which ends its predecessors. It
// happens once for a pair that came from a refresh.
func (s *Store) firstUse(ctx context.Context, h tokenHash, e *entry) error {
	err := s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := markUsed(tx, h[:], s.Now()); err != nil {
			return err
		}
		return s.arrivedTx(tx, e.refresh)
	})
	if err == nil {
		e.used.Store(true)
	}
	return err
}
