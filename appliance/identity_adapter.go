package appliance

import (
	"context"
	"errors"
	"net/http"
	"time"

	"holdfast/homeserver/account"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/homeserver/userdata"
	"holdfast/identity"
)

// This file shows the homeserver the identity provider, through the small
// interfaces that the homeserver declares. The other way is in core.go (sinks).

// tokens is the homeserver's view of access tokens.
type tokens struct{ id *identity.Service }

var _ route.Authenticator = tokens{}

// Authenticate implements route.Authenticator.
func (t tokens) Authenticate(ctx context.Context, token string) (route.Principal, error) {
	p, err := t.id.Lookup(ctx, token)
	return route.Principal{UserID: p.UserID, DeviceID: p.DeviceID, Admin: p.Admin, Moderator: p.Roles&identity.Moderator != 0, Auditor: p.Roles&identity.Auditor != 0, Suspended: p.Suspended, Guest: p.Guest}, matrixError(err)
}

// matrixError gives errors of the identity provider their Matrix codes. Others
// stay as they are: they are trouble of ours.
func matrixError(err error) error {
	var slow *identity.SlowDown
	var weak *identity.WeakPassword
	switch {
	case err == nil:
		return nil
	case errors.As(err, &slow) && slow.Busy:
		return &mx.Error{Code: mx.LimitExceeded, Msg: "Many people sign in at this moment. Wait and try again.", RetryAfter: slow.Wait}
	case errors.As(err, &slow):
		return &mx.Error{Code: mx.LimitExceeded, Msg: "Too many attempts failed. Wait and try again.", RetryAfter: slow.Wait}
	case errors.Is(err, identity.ErrUnknownToken):
		return &mx.Error{Code: mx.UnknownToken, Msg: "The access token is not known. Sign in again.", Fields: map[string]any{"soft_logout": false}}
	case errors.Is(err, identity.ErrExpiredToken):
		return &mx.Error{Code: mx.UnknownToken, Msg: "The access token has expired. Refresh it.", Fields: map[string]any{"soft_logout": true}}
	case errors.Is(err, identity.ErrRefresh):
		return &mx.Error{Code: mx.UnknownToken, Msg: "The refresh token is not valid any more. Sign in again.", Fields: map[string]any{"soft_logout": false}}
	case errors.Is(err, identity.ErrLocked):
		return &mx.Error{Code: mx.UserLocked, Msg: "This account is locked. Ask your administrator.", Fields: map[string]any{"soft_logout": true}}
	case errors.Is(err, identity.ErrDeactivated):
		return mx.Errorf(mx.UserDeactivated, "This account was closed.")
	case errors.Is(err, identity.ErrWrongPassword):
		return mx.Errorf(mx.Forbidden, "The user name or the password is wrong.")
	case errors.Is(err, identity.ErrSecondFactor):
		return mx.Errorf(mx.Forbidden, "This account has a second factor. Sign in or confirm with the browser (single sign-on) instead of the password.")
	case errors.Is(err, identity.ErrFactorMissing):
		return mx.Errorf(mx.Forbidden, "This account must have a second factor. Sign in with the browser (single sign-on), which helps you to add one.")
	case errors.Is(err, identity.ErrUserExists):
		return mx.Errorf(mx.UserInUse, "This user name is taken. Choose another.")
	case errors.Is(err, identity.ErrBadName):
		return mx.Errorf(mx.InvalidUsername, "A user name has small letters, digits and . _ = - / + only, and is not too long.")
	case errors.Is(err, identity.ErrReserved):
		return mx.Errorf(mx.Exclusive, "This user name is reserved for the server or an application service.")
	case errors.As(err, &weak):
		return &mx.Error{Code: mx.WeakPassword, Msg: weak.Text()}
	case errors.Is(err, identity.ErrDirectory):
		return mx.Errorf(mx.Forbidden, "The directory that knows your password cannot be reached. Try again later; who is signed in stays signed in.")
	case errors.Is(err, identity.ErrDirectoryPassword):
		return mx.Errorf(mx.Forbidden, "Your password has expired. Change it where your organisation keeps it, then sign in.")
	case errors.Is(err, identity.ErrElsewhere):
		return mx.Errorf(mx.Forbidden, "Your organisation's directory keeps this password. Change it there.")
	case errors.Is(err, identity.ErrOwner):
		return mx.Errorf(mx.Forbidden, "This account owns the appliance. Only an owner may do this.")
	case errors.Is(err, identity.ErrLastOwner):
		return mx.Errorf(mx.Forbidden, "This account is the last that owns the appliance. Make another person an owner first.")
	case errors.Is(err, identity.ErrNoUser):
		return &mx.Error{Code: mx.Forbidden, Msg: "There is no such account."}
	case errors.Is(err, identity.ErrEmail):
		return mx.Errorf(mx.InvalidParam, "This is not an e-mail address. It looks like anna@example.org, in letters without accents.")
	case errors.Is(err, identity.ErrEmailInUse):
		return mx.Errorf(mx.ThreepidInUse, "This e-mail address belongs to an account already.")
	case errors.Is(err, identity.ErrEmailToken):
		return mx.Errorf(mx.TokenIncorrect, "The code is not the one that was mailed.")
	case errors.Is(err, identity.ErrEmailExpired):
		return mx.Errorf(mx.SessionExpired, "The mail is too old. Ask for another.")
	case errors.Is(err, identity.ErrEmailProof):
		return mx.Errorf(mx.ThreepidAuthFailed, "The e-mail address is not confirmed, or too long ago. Open the link of the mail first.")
	case errors.Is(err, identity.ErrEmailKept):
		return mx.Errorf(mx.Forbidden, "The e-mail address of this account comes from your organisation's directory. Change it there.")
	case errors.Is(err, identity.ErrEmails):
		return mx.Errorf(mx.ThreepidDenied, "The account has as many e-mail addresses as it may. Remove one first.")
	case errors.Is(err, identity.ErrPIN):
		return mx.Errorf(mx.Forbidden, "This card needs its PIN. Open its address in a browser.")
	case errors.Is(err, identity.ErrInvite):
		return mx.Errorf(mx.Unauthorized, "The invite was used up, has expired or was withdrawn.")
	}
	return err
}

// accounts is the homeserver's view of accounts and sessions.
type accounts struct{ id *identity.Service }

var _ account.Accounts = accounts{}

func (a accounts) VerifyPassword(ctx context.Context, userID, password, from string) (string, error) {
	u, err := a.id.VerifyPassword(ctx, userID, password, from)
	return u.UserID, matrixError(err)
}

// Kept is what of a user a directory keeps.
func (a accounts) Kept(ctx context.Context, userID string) (userdata.Kept, error) {
	k, err := a.id.Kept(ctx, userID)
	return userdata.Kept{Directory: k.Directory, Name: k.Name, Avatar: k.Picture, Emails: k.Email}, err
}

// Standing refuses a user whose account is locked, suspended or closed. Who has no
// account, as a user of an application service, is not refused.
func (a accounts) Standing(ctx context.Context, userID string) error {
	u, err := a.id.User(ctx, userID)
	switch {
	case errors.Is(err, identity.ErrNoUser):
		return nil
	case err == nil && u.Err() != nil:
		err = u.Err()
	case err == nil && u.Suspended:
		return mx.Errorf(mx.UserSuspended, "This account is suspended.")
	}
	return matrixError(err)
}

func (a accounts) CreateUser(ctx context.Context, n account.NewUser) (string, error) {
	u, err := a.id.CreateUser(ctx, identity.NewUser{Localpart: n.Localpart, DisplayName: n.DisplayName, Password: n.Password,
		Admin: n.Admin, Invite: n.Invite, EmailSID: n.EmailSID, EmailSecret: n.EmailSecret, Source: n.Source})
	return u.UserID, matrixError(err)
}

func (a accounts) Available(ctx context.Context, localpart string) error {
	return matrixError(a.id.Available(ctx, localpart))
}

func (a accounts) StartSession(ctx context.Context, n account.NewSession) (account.Session, error) {
	t, err := a.id.StartSession(ctx, identity.SessionRequest{UserID: n.UserID, DeviceID: n.DeviceID, DisplayName: n.DisplayName, Refresh: n.Refresh})
	return toSession(t), matrixError(err)
}

func (a accounts) Refresh(ctx context.Context, token string) (account.Session, error) {
	t, err := a.id.Refresh(ctx, token)
	return toSession(t), matrixError(err)
}

func toSession(t identity.Tokens) account.Session {
	return account.Session{AccessToken: t.Access, RefreshToken: t.Refresh, DeviceID: t.DeviceID, ExpiresIn: t.ExpiresIn}
}

func (a accounts) EndDevice(ctx context.Context, userID, deviceID string) error {
	return matrixError(a.id.EndDevice(ctx, userID, deviceID))
}

func (a accounts) EndAll(ctx context.Context, userID, keepDeviceID string) error {
	return matrixError(a.id.EndAll(ctx, userID, keepDeviceID))
}

func (a accounts) EndToken(ctx context.Context, token string) error {
	return matrixError(a.id.EndToken(ctx, token))
}

func (a accounts) SetPassword(ctx context.Context, userID, password, keepDeviceID string, logoutOthers bool) error {
	return matrixError(a.id.ChangePassword(ctx, userID, password, keepDeviceID, !logoutOthers))
}

func (a accounts) Deactivate(ctx context.Context, userID string) error {
	return matrixError(a.id.Deactivate(ctx, userID))
}

func (a accounts) InviteValid(ctx context.Context, token string) (bool, error) {
	ok, err := a.id.InviteValid(ctx, token)
	return ok, matrixError(err)
}

func (a accounts) CreateLoginToken(ctx context.Context, userID string, ttl time.Duration) (string, error) {
	t, err := a.id.CreateLoginToken(ctx, userID, ttl)
	return t, matrixError(err)
}

func (a accounts) ConsumeLoginToken(ctx context.Context, token string) (string, error) {
	userID, err := a.id.ConsumeLoginToken(ctx, token)
	if errors.Is(err, identity.ErrUnknownToken) {
		return "", mx.Errorf(mx.Forbidden, "The login token is not valid: it was used, or is too old.")
	}
	return userID, matrixError(err)
}

func (a accounts) SignedIn(r *http.Request) (string, time.Time) {
	b, ok := a.id.BrowserSession(r)
	if !ok {
		return "", time.Time{}
	}
	// Who has a second factor and signed in without it has to prove it first.
	fresh, err := a.id.Fresh(r.Context(), b)
	if err != nil || !fresh {
		return b.User.UserID, time.Time{}
	}
	return b.User.UserID, b.AuthTime
}

func (a accounts) ResetApproved(ctx context.Context, userID string) (bool, error) {
	ok, err := a.id.ResetApproved(ctx, userID)
	return ok, matrixError(err)
}

func (a accounts) OAuth(ctx context.Context, token string) bool {
	p, err := a.id.Lookup(ctx, token)
	return err == nil && p.ClientID != ""
}

func (a accounts) Metadata(origin string) any { return a.id.Metadata(origin) }
