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

	"holdfast/homeserver/mx"
	"holdfast/store"
)

// Rooms is what the package asks of the rooms.
type Rooms interface {
	// SharedUsers lists the users who are joined to a room that userID is joined to.
	SharedUsers(q store.Querier, userID string) ([]string, error)
	// Membership is the user's membership of a room, "" for none.
	Membership(q store.Querier, roomID, userID string) (string, error)
}

// Options of New.
type Options struct {
	DB         *store.DB
	ServerName string
	Rooms      Rooms
	// PublicUsers lists users joined to rooms that anybody may join; nil: none.
	PublicUsers func(q store.Querier) ([]string, error)
	// Everyone lets the user directory find every local account, not only those
	// who share a room with the searcher or are in a public room.
	Everyone bool
	// ProfileChanged brings a changed display name or avatar into the member
	// events of the user's joined rooms; nil: nothing is done.
	ProfileChanged func(ctx context.Context, userID string, p Profile) error
}

// Service answers the package's operations. Its methods are safe for concurrent use.
type Service struct {
	o     Options
	rules ruleCache
}

// New makes the service.
func New(o Options) *Service { return &Service{o: o} }

// Profile is what member events carry of a user.
type Profile struct {
	DisplayName string // "": none
	AvatarURL   string // "": none
}

// Data is one piece of account data, as sync gives it.
type Data struct {
	Type    string `json:"type"`
	Content mx.Raw `json:"content"`
}
