package userdata

import (
	"errors"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

var errSoon = errors.New("userdata: being written")

type ruleCache struct{}

// Routes are the package's operations.
func (s *Service) Routes() []route.Route { return nil }

// Create makes the profile of a new account.
func (s *Service) Create(tx *store.Tx, userID, displayName string) error { return errSoon }

// LoadProfile gives a user's display name and avatar. Errors: store.ErrNotFound.
func LoadProfile(q store.Querier, userID string) (Profile, error) { return Profile{}, errSoon }

// AccountDataSince gives what changed in (from, to]; from 0 gives all there is.
// m.push_rules is among the global data.
func (s *Service) AccountDataSince(q store.Querier, userID string, from, to int64) (global []Data, rooms map[string][]Data, err error) {
	return nil, nil, errSoon
}

// AccountData gives one piece; roomID "" for global. Errors: store.ErrNotFound.
func AccountData(q store.Querier, userID, roomID, typ string) (mx.Raw, error) { return nil, errSoon }

// SetRoomData writes account data of a user in a room (for m.fully_read).
func (s *Service) SetRoomData(tx *store.Tx, userID, roomID, typ string, content []byte) error {
	return errSoon
}

// Filter gives a stored filter. Errors: store.ErrNotFound.
func Filter(q store.Querier, userID, filterID string) (mx.Raw, error) { return nil, errSoon }

// Ignored gives the users that userID ignores (m.ignored_user_list).
func Ignored(q store.Querier, userID string) (map[string]bool, error) { return nil, errSoon }
