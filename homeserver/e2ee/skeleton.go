package e2ee

import (
	"errors"

	"holdfast/homeserver/route"

	"holdfast/store"
)

var errSoon = errors.New("e2ee: being written")

// New makes the service.
func New(o Options) *Service { return &Service{o: o} }

// Routes are the package's operations.
func (s *Service) Routes() []route.Route { return nil }

// Counts gives how many one-time keys a device has left, by algorithm
// (signed_curve25519 always, even if 0), and the algorithms whose fallback key is
// not used yet (never nil). It is answered from memory after the first time; the
// results must not be changed.
func (s *Service) Counts(q store.Querier, userID, deviceID string) (otk map[string]int, unusedFallback []string, err error) {
	return nil, nil, errSoon
}

// ListChanges gives whose keys userID must fetch again and whom they share no
// room with any more, for (from, to].
func (s *Service) ListChanges(q store.Querier, userID string, from, to int64) (changed, left []string, err error) {
	return nil, nil, errSoon
}

// Changed notes that a user's devices or cross-signing keys changed.
func (s *Service) Changed(tx *store.Tx, userID string) error { return errSoon }

// DeviceDeleted removes the keys of a device that goes.
func (s *Service) DeviceDeleted(tx *store.Tx, userID, deviceID string) error { return errSoon }

// Membership is to be called, in the transaction and after the event's position
// was taken, whenever a user becomes joined to a room or stops being so.
func (s *Service) Membership(tx *store.Tx, roomID, userID string, joined bool) error { return errSoon }
