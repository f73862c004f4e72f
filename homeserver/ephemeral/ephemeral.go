// Package ephemeral keeps what passes: who is typing, who read how far, who is
// online.
//
// Invariants: typing and presence live in memory only, yet their changes take
// positions of the store's sequence; receipts only move forward; an
// m.read.private receipt is given to its own user only; an end of typing is a
// change like its begin.
package ephemeral

import (
	"time"

	"holdfast/store"
)

// Rooms is what the package asks of the rooms.
type Rooms interface {
	// Membership is the user's membership of a room, "" for none.
	Membership(q store.Querier, roomID, userID string) (string, error)
	// EventPos is the position of an event of the room.
	// Errors: store.ErrNotFound when the room has no such event.
	EventPos(q store.Querier, roomID, eventID string) (int64, error)
}

// Options of New.
type Options struct {
	DB    *store.DB
	Rooms Rooms
	// SetRoomData writes account data of a user in a room: userdata.(*Service).SetRoomData.
	SetRoomData func(tx *store.Tx, userID, roomID, typ string, content []byte) error
	// SharedUsers lists who shares a room with a user: they may see the presence.
	SharedUsers func(q store.Querier, userID string) ([]string, error)
	Now         func() time.Time // nil: time.Now
}

// Service answers the package's operations. Its methods are safe for concurrent use.
type Service struct{ o Options }
