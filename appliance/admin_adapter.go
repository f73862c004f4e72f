package appliance

import (
	"context"
	"errors"
	"time"

	"holdfast/homeserver/admin"
	"holdfast/homeserver/mx"
	"holdfast/identity"
)

// people is the accounts as the homeserver's administration sees them.
type people struct{ id *identity.Service }

var _ admin.Accounts = people{}

// by says who asks, for what only owners may do.
func by(ctx context.Context) context.Context {
	if who := admin.Caller(ctx); who != "" {
		return identity.WithActor(ctx, who)
	}
	return ctx
}

func (p people) MayChange(ctx context.Context, userID string) error {
	return peopleError(p.id.MayChange(by(ctx), userID))
}

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

func (p people) Users(ctx context.Context) ([]admin.User, error) {
	list, err := p.id.Users(ctx)
	out := make([]admin.User, 0, len(list))
	for _, u := range list {
		if u.Localpart != selfTestUser {
			out = append(out, toAdmin(u))
		}
	}
	return out, err
}

func (p people) Create(ctx context.Context, n admin.NewUser) (admin.User, error) {
	source := "admin-api"
	if n.Password == "" {
		source = "cli" // somebody sets a password later
	}
	u, err := p.id.CreateUser(ctx, identity.NewUser{Localpart: n.Localpart, DisplayName: n.DisplayName, Password: n.Password, Admin: n.Admin, Source: source})
	return toAdmin(u), matrixError(err)
}

func (p people) Available(ctx context.Context, localpart string) error {
	return matrixError(p.id.Available(ctx, localpart))
}

func (p people) SetAdmin(ctx context.Context, userID string, admin bool) error {
	return peopleError(p.id.SetAdmin(by(ctx), userID, admin))
}

func (p people) SetPassword(ctx context.Context, userID, password string, logout bool) error {
	return peopleError(p.id.SetPassword(by(ctx), userID, password, "", !logout))
}

func (p people) Deactivate(ctx context.Context, userID string) error {
	return peopleError(p.id.Deactivate(by(ctx), userID))
}

func (p people) Emails(ctx context.Context, userID string) ([]admin.Address, error) {
	list, err := p.id.Emails(ctx, userID)
	out := make([]admin.Address, len(list))
	for i, e := range list {
		out[i] = admin.Address{Address: e.Address, Added: e.Added, Validated: e.Validated}
	}
	return out, peopleError(err)
}

func (p people) EmailOwner(ctx context.Context, address string) (admin.User, error) {
	u, err := p.id.EmailOwner(ctx, address)
	return toAdmin(u), peopleError(err)
}

func (p people) SignInAs(ctx context.Context, userID string, until time.Time) (string, error) {
	t, err := p.id.SignInAs(by(ctx), userID, until)
	if errors.Is(err, identity.ErrLocked) { // not the caller's own
		return "", mx.Errorf(mx.Forbidden, "The account is locked.")
	}
	return t, peopleError(err)
}

func (p people) Tokens(ctx context.Context) ([]admin.Token, error) {
	list, err := p.id.RegistrationTokens(ctx)
	out := make([]admin.Token, len(list))
	for i, t := range list {
		out[i] = toToken(t)
	}
	return out, err
}

func toToken(t identity.RegistrationToken) admin.Token {
	return admin.Token{Token: t.Token, Uses: t.Uses, Completed: t.Completed, Expires: t.Expires}
}

func tokenError(err error) error {
	switch {
	case errors.Is(err, identity.ErrNoToken):
		return mx.Errorf(mx.NotFound, "There is no such registration token.")
	case errors.Is(err, identity.ErrTokenExists):
		return mx.Errorf(mx.InvalidParam, "There is a registration token with this word already.")
	}
	return matrixError(err)
}

func (p people) Token(ctx context.Context, token string) (admin.Token, error) {
	t, err := p.id.RegistrationToken(ctx, token)
	return toToken(t), tokenError(err)
}

func (p people) TokenWord(length int) string { return identity.NewTokenWord(length) }

func (p people) CreateToken(ctx context.Context, t admin.Token) error {
	return tokenError(p.id.CreateRegistrationToken(ctx, identity.RegistrationToken{Token: t.Token, Uses: t.Uses, Expires: t.Expires}))
}

func (p people) ChangeToken(ctx context.Context, token string, change func(*admin.Token)) (admin.Token, error) {
	t, err := p.id.ChangeRegistrationToken(ctx, token, func(t *identity.RegistrationToken) error {
		x := toToken(*t)
		change(&x)
		t.Uses, t.Expires = x.Uses, x.Expires
		return nil
	})
	return toToken(t), tokenError(err)
}

func (p people) DeleteToken(ctx context.Context, token string) error {
	return tokenError(p.id.DeleteRegistrationToken(ctx, token))
}

func (p people) SetLocked(ctx context.Context, userID string, locked bool) error {
	return peopleError(p.id.SetDisabled(by(ctx), userID, locked))
}

func (p people) SetSuspended(ctx context.Context, userID string, suspended bool) error {
	return peopleError(p.id.SetSuspended(by(ctx), userID, suspended))
}
