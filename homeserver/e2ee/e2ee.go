// Package e2ee keeps the public keys of devices and users, the signatures between
// them, encrypted key backups and dehydrated devices, and tells who must fetch
// keys again.
//
// Invariants: a one-time key is given out once, in the order of upload; a
// signature is stored only after it was verified with the key it names; a
// user-signing key is given to its user only; each change to a user's devices or
// cross-signing keys takes a position in the list stream.
package e2ee

import (
	"context"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// Rooms is what the package asks of the rooms.
type Rooms interface {
	JoinedRooms(q store.Querier, userID string) ([]string, error)
	// Members lists the users with a membership of a room.
	Members(q store.Querier, roomID, membership string) ([]string, error)
	// SharedUsers lists who is joined to a room that userID is joined to.
	SharedUsers(q store.Querier, userID string) ([]string, error)
}

// Devices is what the package asks of the device list.
type Devices interface {
	// Names maps the user's device IDs to display names.
	Names(q store.Querier, userID string) (map[string]string, error)
	// Upsert adds a device or, with a name, renames it.
	Upsert(tx *store.Tx, userID, deviceID, displayName string) error
	// Delete removes a device with all that belongs to it.
	Delete(tx *store.Tx, userID, deviceID string) error
}

// Messages is what dehydrated devices ask of the to-device queue.
type Messages interface {
	// Since gives a device's messages in (from, to], at most limit, and the
	// position of the last one given.
	Since(q store.Querier, userID, deviceID string, from, to int64, limit int) ([]mx.Raw, int64, error)
}

// Options of New.
type Options struct {
	DB         *store.DB
	ServerName string
	Rooms      Rooms
	Devices    Devices
	Messages   Messages
	// ConfirmReset makes the person behind a request prove again who they are
	// before cross-signing keys are replaced (user-interactive authentication); it
	// reads the body's "auth". nil result: proved. Otherwise the 401 to answer.
	// nil: nobody is asked.
	ConfirmReset func(ctx context.Context, r *route.Request) error
}

// Service answers the package's operations. Its methods are safe for concurrent use.
type Service struct{ o Options }
