// Package admin is what administrators do: the specification's server
// administration, and the admin API that existing tools know from Synapse.
//
// Invariants: whether the caller is an administrator is checked before anything is
// looked up (route.Admin); accounts are the identity provider's, rooms, media and
// devices those of the packages below, and this package only asks them; what takes
// long runs in bounded steps in the background and goes on after a restart.
package admin

import (
	"context"
	"strings"
	"time"

	"holdfast/homeserver/devices"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// Accounts is what the identity provider does for this package. User IDs are full.
// Errors for the client are *mx.Error; others are transient.
type Accounts interface {
	// User errors: NotFound.
	User(ctx context.Context, userID string) (User, error)
	// SetLocked and SetSuspended errors: NotFound, also of a closed account.
	SetLocked(ctx context.Context, userID string, locked bool) error
	SetSuspended(ctx context.Context, userID string, suspended bool) error
}

// User is an account.
type User struct {
	UserID, Localpart              string
	Admin                          bool
	Locked, Suspended, Deactivated bool
	HasPassword                    bool
	Created, LastSeen              time.Time // LastSeen zero: never signed in
}

// Options of New.
type Options struct {
	DB         *store.DB
	ServerName string
	Accounts   Accounts
	Devices    *devices.Service
}

// Service answers the package's operations. Its methods are safe for concurrent use.
type Service struct{ o Options }

// New makes the service.
func New(o Options) *Service { return &Service{o} }

// Routes are the package's operations.
func (s *Service) Routes() []route.Route {
	const client, synapse = "/_matrix/client/", "/_synapse/admin/v1/"
	return []route.Route{
		{Op: "getAdminLockUser", Pattern: "GET " + client + "v1/admin/lock/{userID}", Auth: route.Admin, Limit: route.Reads, Handle: route.Get(s.getLocked)},
		{Op: "setAdminLockUser", Pattern: "PUT " + client + "v1/admin/lock/{userID}", Auth: route.Admin, Limit: route.Reads, Handle: route.JSON(s.putLocked)},
		{Op: "getAdminSuspendUser", Pattern: "GET " + client + "v1/admin/suspend/{userID}", Auth: route.Admin, Limit: route.Reads, Handle: route.Get(s.getSuspended)},
		{Op: "setAdminSuspendUser", Pattern: "PUT " + client + "v1/admin/suspend/{userID}", Auth: route.Admin, Limit: route.Reads, Handle: route.JSON(s.putSuspended)},
		{Op: "getWhoIs", Pattern: "GET " + client + "v3/admin/whois/{userID}", Auth: route.User, Limit: route.Reads, Handle: route.Get(s.whois),
			Aliases: []string{client + "r0/admin/whois/{userID}", synapse + "whois/{userID}"}},
	}
}

var (
	errNotLocal = mx.Errorf(mx.InvalidParam, "The user does not belong to this server.")
	errNoUser   = mx.Errorf(mx.NotFound, "There is no such user.")
)

// local is the account of a user ID of this server. Errors: InvalidParam, NotFound.
func (s *Service) local(ctx context.Context, userID string) (User, error) {
	if !strings.HasPrefix(userID, "@") || mx.Domain(userID) != s.o.ServerName {
		return User{}, errNotLocal
	}
	return s.o.Accounts.User(ctx, userID)
}
