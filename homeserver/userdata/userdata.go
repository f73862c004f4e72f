// Package userdata keeps what belongs to a user alone: profile, account data,
// tags, filters, push rules; and it searches people.
//
// Invariants: every change of account data or push rules takes a position and
// touches notify.User of its user; m.push_rules and m.fully_read are never
// written by the account data endpoints; a profile stays under 64 KiB; a filter's
// ID is a function of its content.
package userdata

import (
	"context"
	"sync"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// Rooms is what the package asks of the rooms.
type Rooms interface {
	// SharedUsers lists the users who are joined to a room that userID is joined to.
	SharedUsers(q store.Querier, userID string) ([]string, error)
}

// Options of New.
type Options struct {
	// Builtin gives the profile of a user of the server's own, who has no account. nil:
	// there is none.
	Builtin    func(userID string) (Profile, bool)
	DB         *store.DB
	ServerName string
	Rooms      Rooms
	// PublicUsers lists the users who are joined to a room that anybody may find;
	// nil: none.
	PublicUsers func(q store.Querier) ([]string, error)
	// Everyone reports whether the user directory finds every local account, not
	// only those who share a room with the searcher or are in a public room. nil: no.
	Everyone func() bool
	// ProfileChanged brings a changed display name or avatar into the member
	// events of the user's joined rooms; nil: nothing is done.
	ProfileChanged func(ctx context.Context, userID string, p Profile) error
	// Kept says what of a user a directory keeps. nil: nothing of anybody.
	Kept func(ctx context.Context, userID string) (Kept, error)
}

// Service answers the package's operations. Its methods are safe for concurrent use.
type Service struct {
	o Options

	mu      sync.Mutex
	rules   map[string]*userRules      // by user ID; nobody changes an entry
	ignored map[string]map[string]bool // by user ID; nobody changes an entry
}

// maxCached bounds the users whose rules and ignore lists are in memory.
const maxCached = 10000

// New makes the service.
func New(o Options) *Service {
	return &Service{o: o, rules: map[string]*userRules{}, ignored: map[string]map[string]bool{}}
}

// cacheGet, cachePut: a writer always puts, a reader only where nothing is, since
// a writer knows better than a snapshot. cachePut returns what is in force.
func cacheGet[V any](s *Service, m map[string]V, k string) (V, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := m[k]
	return v, ok
}

func cachePut[V any](s *Service, m map[string]V, k string, v V, writer bool) V {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := m[k]; ok && !writer {
		return old
	}
	if len(m) >= maxCached {
		clear(m)
	}
	m[k] = v
	return v
}

// Routes are the package's operations.
func (s *Service) Routes() []route.Route {
	var out []route.Route
	out = append(out, s.profileRoutes()...)
	out = append(out, s.accountDataRoutes()...)
	out = append(out, s.filterRoutes()...)
	out = append(out, s.ruleRoutes()...)
	return append(out, s.directoryRoutes()...)
}

// own checks that a request speaks of its sender's own data.
func own(r *route.Request) error {
	if r.Param("userID") != r.UserID {
		return mx.Errorf(mx.Forbidden, "You can only do this with your own data (%s).", r.UserID)
	}
	return nil
}

// Deactivated removes what belongs to an account that is closed. The profile goes
// too, and the user directory does not find the user any more.
func (s *Service) Deactivated(tx *store.Tx, userID string) error {
	tx.AfterCommit(func() {
		s.mu.Lock()
		delete(s.rules, userID)
		delete(s.ignored, userID)
		s.mu.Unlock()
	})
	return deleteUser(tx, userID)
}

// DeleteRoom deletes what users noted of a room that is gone, at most limit rows at
// once, and tells how many.
func (s *Service) DeleteRoom(tx *store.Tx, roomID string, limit int) (int64, error) {
	return deleteRoom(tx, roomID, limit)
}
