package appliance

import (
	"context"
	"errors"

	"holdfast/homeserver/admin"
	"holdfast/homeserver/mx"
	"holdfast/identity"
)

// people is the accounts as the homeserver's administration sees them.
type people struct{ id *identity.Service }

var _ admin.Accounts = people{}

// peopleError is matrixError for who administers: what is not there is not found.
func peopleError(err error) error {
	if errors.Is(err, identity.ErrNoUser) || errors.Is(err, identity.ErrDeactivated) {
		return mx.Errorf(mx.NotFound, "There is no such user, or the account was closed.")
	}
	return matrixError(err)
}

func (p people) User(ctx context.Context, userID string) (admin.User, error) {
	u, err := p.id.User(ctx, userID)
	return toAdmin(u), peopleError(err)
}

func toAdmin(u identity.User) admin.User {
	return admin.User{UserID: u.UserID, Localpart: u.Localpart, Admin: u.Admin,
		Locked: errors.Is(u.Err(), identity.ErrLocked), Suspended: u.Suspended, Deactivated: errors.Is(u.Err(), identity.ErrDeactivated),
		HasPassword: u.HasPassword, Created: u.Created, LastSeen: u.LastSeen}
}

func (p people) SetLocked(ctx context.Context, userID string, locked bool) error {
	return peopleError(p.id.SetDisabled(ctx, userID, locked))
}

func (p people) SetSuspended(ctx context.Context, userID string, suspended bool) error {
	return peopleError(p.id.SetSuspended(ctx, userID, suspended))
}
