package hstest

import (
	"context"
	"crypto/rand"
	"net/http"
	"strings"
	"sync"
	"time"

	"holdfast/homeserver/account"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// Password is that of every account that did not change it.
const Password = "correct horse battery staple"

// accounts stands in for the identity provider: it keeps in memory what the real one
// keeps on disk, proves no e-mail addresses, and knows no invites.
type accounts struct {
	hs *HS

	mu        sync.Mutex
	passwords map[string]string    // by user ID; missing: Password
	standing  map[string]*mx.Error // of those that are not in a good one
	logins    map[string]string    // login token → user ID
	emails    map[string]string    // address → user ID
}

var _ account.Accounts = (*accounts)(nil)

func newAccounts(hs *HS) *accounts {
	return &accounts{hs: hs, passwords: map[string]string{}, standing: map[string]*mx.Error{}, logins: map[string]string{}, emails: map[string]string{}}
}

// Standing is homeserver.Options.Standing.
func (a *accounts) Standing(_ context.Context, userID string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.standing[userID]; e != nil {
		return e
	}
	return nil
}

func (a *accounts) set(userID string, e *mx.Error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.standing[userID] = e; e == nil {
		delete(a.standing, userID)
	}
}

// principal is what a token opens for an account in this standing.
func (a *accounts) principal(p route.Principal) (route.Principal, error) {
	err := a.Standing(context.Background(), p.UserID)
	if e, ok := err.(*mx.Error); ok && e.Code == mx.UserSuspended {
		p.Suspended = true
		return p, nil
	}
	return p, err
}

// Lock locks a user's account or unlocks it.
func (hs *HS) Lock(userID string, locked bool) {
	hs.t.Helper()
	var e *mx.Error
	if locked {
		e = &mx.Error{Code: mx.UserLocked, Msg: "locked", Fields: map[string]any{"soft_logout": true}}
	}
	hs.accounts.set(userID, e)
	if err := hs.Homeserver.Locked(context.Background(), userID, locked); err != nil {
		hs.t.Fatal(err)
	}
}

// Suspend suspends a user's account or restores it.
func (hs *HS) Suspend(userID string, suspended bool) {
	var e *mx.Error
	if suspended {
		e = mx.Errorf(mx.UserSuspended, "suspended")
	}
	hs.accounts.set(userID, e)
	hs.Homeserver.Suspended(userID, suspended)
}

func (a *accounts) exists(userID string) (found bool) {
	a.hs.tokens.mu.RLock()
	defer a.hs.tokens.mu.RUnlock()
	return a.hs.tokens.users[userID]
}

func (a *accounts) VerifyPassword(ctx context.Context, userID, password, _ string) (string, error) {
	a.mu.Lock()
	want, ok := a.passwords[userID]
	a.mu.Unlock()
	if !ok {
		want = Password
	}
	if !a.exists(userID) || password != want {
		return "", mx.Errorf(mx.Forbidden, "wrong password")
	}
	if e, ok := a.Standing(ctx, userID).(*mx.Error); ok && e.Code != mx.UserSuspended {
		return "", e
	}
	return userID, nil
}

func (a *accounts) CreateUser(ctx context.Context, n account.NewUser) (string, error) {
	if err := a.Available(ctx, n.Localpart); err != nil {
		return "", err
	}
	id := mx.UserID(n.Localpart, Server)
	err := a.hs.DB.Write(ctx, func(tx *store.Tx) error { return a.hs.SetDisplayName(tx, id, n.DisplayName) })
	if err != nil {
		return "", err
	}
	a.hs.tokens.mu.Lock()
	a.hs.tokens.users[id] = true
	a.hs.tokens.mu.Unlock()
	return id, a.SetPassword(ctx, id, n.Password, "", false)
}

func (a *accounts) Available(_ context.Context, localpart string) error {
	if a.exists(mx.UserID(localpart, Server)) {
		return mx.Errorf(mx.UserInUse, "taken")
	}
	return nil
}

func (a *accounts) StartSession(ctx context.Context, r account.NewSession) (account.Session, error) {
	if r.DeviceID == "" {
		r.DeviceID = rand.Text()
	}
	err := a.hs.DB.Write(ctx, func(tx *store.Tx) error { return a.hs.UpsertDevice(tx, r.UserID, r.DeviceID, r.DisplayName) })
	if err != nil {
		return account.Session{}, err
	}
	token := rand.Text()
	a.hs.tokens.put(token, route.Principal{UserID: r.UserID, DeviceID: r.DeviceID})
	return account.Session{AccessToken: token, DeviceID: r.DeviceID}, nil
}

func (a *accounts) Refresh(context.Context, string) (account.Session, error) {
	return account.Session{}, mx.Errorf(mx.UnknownToken, "there are no refresh tokens")
}

// end forgets the tokens that match names, and deletes their devices.
func (a *accounts) end(ctx context.Context, match func(token string, p route.Principal) bool) error {
	for _, p := range a.hs.tokens.drop(match) {
		err := a.hs.DB.Write(ctx, func(tx *store.Tx) error { return a.hs.DeleteDevice(tx, p.UserID, p.DeviceID) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *accounts) EndDevice(ctx context.Context, userID, deviceID string) error {
	return a.end(ctx, func(_ string, p route.Principal) bool { return p.UserID == userID && p.DeviceID == deviceID })
}

func (a *accounts) EndAll(ctx context.Context, userID, keep string) error {
	return a.end(ctx, func(_ string, p route.Principal) bool {
		return p.UserID == userID && (keep == "" || p.DeviceID != keep)
	})
}

func (a *accounts) EndToken(ctx context.Context, token string) error {
	return a.end(ctx, func(t string, _ route.Principal) bool { return t == token })
}

func (a *accounts) SetPassword(ctx context.Context, userID, password, keep string, logoutOthers bool) error {
	a.mu.Lock()
	a.passwords[userID] = password
	a.mu.Unlock()
	if logoutOthers {
		return a.EndAll(ctx, userID, keep)
	}
	return nil
}

func (a *accounts) CheckPassword(password string) error {
	if len(password) < 8 {
		return mx.Errorf(mx.WeakPassword, "too short")
	}
	return nil
}

func (a *accounts) Deactivate(ctx context.Context, userID string) error {
	a.set(userID, mx.Errorf(mx.UserDeactivated, "closed"))
	if err := a.EndAll(ctx, userID, ""); err != nil {
		return err
	}
	return a.hs.LeaveAll(ctx, userID)
}

func (a *accounts) InviteValid(context.Context, string) (bool, error) { return false, nil }

func (a *accounts) CreateLoginToken(_ context.Context, userID string, _ time.Duration) (string, error) {
	token := rand.Text()
	a.mu.Lock()
	a.logins[token] = userID
	a.mu.Unlock()
	return token, nil
}

func (a *accounts) ConsumeLoginToken(_ context.Context, token string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	userID, ok := a.logins[token]
	if !ok {
		return "", mx.Errorf(mx.Forbidden, "unknown login token")
	}
	delete(a.logins, token)
	return userID, nil
}

func (a *accounts) SignedIn(*http.Request) (string, time.Time) { return "", time.Time{} }

func (a *accounts) ResetApproved(context.Context, string) (bool, error) { return false, nil }

func (a *accounts) OAuth(context.Context, string) bool { return false }

func (a *accounts) Metadata(origin string) any { return map[string]string{"issuer": origin + "/"} }

// SetEmail gives an address to a user's account, or takes it away: userID "".
func (hs *HS) SetEmail(address, userID string) {
	hs.accounts.mu.Lock()
	defer hs.accounts.mu.Unlock()
	if hs.accounts.emails[address] = userID; userID == "" {
		delete(hs.accounts.emails, address)
	}
}

// E-mail addresses are given by SetEmail alone.

var errNoEmails = mx.Errorf(mx.ThreepidAuthFailed, "no e-mail address was ever proved here")

func (a *accounts) CanonicalEmail(address string) (string, error) {
	return strings.ToLower(address), nil
}

func (a *accounts) EmailOwner(_ context.Context, address string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.emails[address], nil
}

func (a *accounts) Emails(_ context.Context, userID string) (out []account.Email, _ error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for address, owner := range a.emails {
		if owner == userID {
			out = append(out, account.Email{Address: address})
		}
	}
	return out, nil
}

func (a *accounts) AddEmail(context.Context, string, string, string) error { return errNoEmails }

func (a *accounts) RemoveEmail(context.Context, string, string) error { return nil }

func (a *accounts) BeginEmail(context.Context, account.EmailRequest) (account.EmailTicket, error) {
	return account.EmailTicket{}, errNoEmails
}

func (a *accounts) EmailByToken(context.Context, string, string) (account.EmailProof, error) {
	return account.EmailProof{}, errNoEmails
}

func (a *accounts) SubmitEmail(context.Context, string, *string, string) (account.EmailProof, error) {
	return account.EmailProof{}, errNoEmails
}

func (a *accounts) ProvedEmail(context.Context, string, string, string) (account.EmailProof, error) {
	return account.EmailProof{}, errNoEmails
}

func (a *accounts) UseEmail(context.Context, string, string, string) (account.EmailProof, error) {
	return account.EmailProof{}, errNoEmails
}
