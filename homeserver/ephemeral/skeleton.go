package ephemeral

import (
	"context"
	"errors"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

var errSoon = errors.New("ephemeral: being written")

// New makes the service.
func New(o Options) *Service { return &Service{o: o} }

// Routes are the package's operations.
func (s *Service) Routes() []route.Route { return nil }

// Receipts gives the content of the m.receipt event for what changed in (from, to]
// (from 0: all), or nil. Private receipts are only those of forUser.
func (s *Service) Receipts(q store.Querier, roomID, forUser string, from, to int64) (mx.Raw, error) {
	return nil, errSoon
}

// PrivateRooms lists the rooms in which the user's private receipts moved in
// (from, to]: they touch notify.User, not notify.Receipt.
func (s *Service) PrivateRooms(q store.Querier, userID string, from, to int64) ([]string, error) {
	return nil, errSoon
}

// ReadUpTo are positions of events up to which a user has read a room.
type ReadUpTo struct {
	Unthreaded int64            // covers all threads
	Main       int64            // thread "main"
	Threads    map[string]int64 // by thread root
}

// ReadUpTo gives how far the user's receipts, public and private, have come.
func (s *Service) ReadUpTo(q store.Querier, roomID, userID string) (ReadUpTo, error) {
	return ReadUpTo{}, errSoon
}

// Typing gives who types in a room and whether that changed after from. users may
// be empty with changed true: the end of typing must be sent.
func (s *Service) Typing(roomID string, from int64) (users []string, changed bool) { return nil, false }

// Presence gives the m.presence events that changed in (from, to] of those users
// whom visible accepts; it is asked only about users with a change.
func (s *Service) Presence(from, to int64, visible func(userID string) bool) []mx.Raw { return nil }

// Synced notes that a device asked for a sync with set_presence ("" means online).
func (s *Service) Synced(ctx context.Context, userID, setPresence string) error { return nil }
