// Package identity is the appliance's OpenID provider and its accounts: who
// somebody is, which sessions and tokens they hold, and the pages where they
// sign in. zitadel/oidc runs the protocol behind a strict front of ours.
//
// Invariants:
//   - Tokens, codes, invites, cookies and client secrets are stored as SHA-256
//     only; signing keys are sealed under a key that is not in the database.
//   - Origins come from Options, never from Host or Forwarded headers.
//   - A session and its device are made and removed in one transaction.
//   - The package knows no Matrix beyond user IDs, device IDs and scopes.
package identity

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"holdfast/store"
)

// Errors that callers may test for.
var (
	ErrUnknownToken  = errors.New("identity: unknown token")
	ErrExpiredToken  = errors.New("identity: the access token has expired") // refresh it; the session lives
	ErrLocked        = errors.New("identity: the account is locked")
	ErrDeactivated   = errors.New("identity: the account is deactivated")
	ErrWrongPassword = errors.New("identity: wrong user name or password")
	ErrUserExists    = errors.New("identity: the user name is taken")
	ErrBadName       = errors.New("identity: the user name is not allowed")
	ErrWeakPassword  = errors.New("identity: the password is too weak")
	ErrNoUser        = errors.New("identity: no such user")
	ErrInvite        = errors.New("identity: the invite is used up, expired or revoked")
	ErrRefresh       = errors.New("identity: the refresh token is not valid")
)

// SlowDown is returned when too many attempts failed. Retry after Wait.
type SlowDown struct{ Wait time.Duration }

func (e *SlowDown) Error() string { return "identity: too many failed attempts" }

// DeviceSink keeps the homeserver's devices in step with sessions.
type DeviceSink interface {
	UpsertDevice(tx *store.Tx, userID, deviceID, displayName string) error
	DeleteDevice(tx *store.Tx, userID, deviceID string) error
}

// ProfileSink receives the display name of a new account.
type ProfileSink interface {
	SetDisplayName(tx *store.Tx, userID, displayName string) error
}

// PasswordCost is the work of argon2id.
type PasswordCost struct {
	MemoryKiB uint32
	Passes    uint32
	Threads   uint8
}

// Options of New.
type Options struct {
	ServerName   string                     // of user IDs
	PublicURL    string                     // canonical origin, "https://chat.example.org"; the issuer
	Origin       func(*http.Request) string // origin a request came in by; nil: PublicURL
	Organisation func() string              // shown on pages; nil: ServerName
	DB           *store.DB
	Log          *slog.Logger
	Devices      DeviceSink                    // nil: none
	Profiles     ProfileSink                   // nil: none
	Text         func(lang, key string) string // message catalogue; nil: built-in English
	KeyFile      string                        // 32 secret bytes, made if missing; "": identity.key beside the database
	Limits       bool                          // slow down repeated failures and registrations
	// PasswordCost overrides the calibrated cost. Below the floor (19 MiB, 2, 1)
	// only tests may go.
	PasswordCost PasswordCost
	// Reserved reports user names that nobody may take (application services). nil: none.
	Reserved func(localpart string) bool
}

// Principal is whose access token was looked up.
type Principal struct {
	UserID    string // "@alice:example.org"
	DeviceID  string
	SessionID string
	ClientID  string // "": a legacy login
	Admin     bool
	Suspended bool
	Guest     bool
}

// User is an account.
type User struct {
	ID          string // ULID; the OpenID subject
	UserID      string // "@alice:example.org"
	Localpart   string
	DisplayName string
	Admin       bool
	State       string // "active", "suspended", "locked" or "deactivated"
	HasPassword bool
	Created     time.Time
	LastSeen    time.Time // zero: never
}

// NewUser describes an account to make.
type NewUser struct {
	Localpart   string
	DisplayName string // "": none
	Password    string // "": no password login until one is set
	Admin       bool
	Invite      string // token of an invite to consume in the same transaction; "": none needed
	Source      string // "setup", "cli", "invite", "register", "admin-api", "appservice"
}

// SessionRequest asks for a session of a legacy login.
type SessionRequest struct {
	UserID      string
	DeviceID    string // "": a new one
	DisplayName string // of a new device
	Refresh     bool   // short access token and a refresh token, instead of a lasting one
}

// Tokens are what a session is used with.
type Tokens struct {
	Access    string
	Refresh   string        // "": none
	ExpiresIn time.Duration // 0: does not expire
	DeviceID  string
}

// NewInvite describes an invite link.
type NewInvite struct {
	Uses      int           // 0: one
	ExpiresIn time.Duration // 0: seven days
	Localpart string        // fixed user name; "": chosen by the person
	Admin     bool
	CreatedBy string // user ID
}

// Invite is an invite without its secret.
type Invite struct {
	ID        string
	Token     string // only from CreateInvite
	URL       string // only from CreateInvite; on the canonical origin
	Localpart string
	Admin     bool
	UsesLeft  int
	Created   time.Time
	Expires   time.Time
	CreatedBy string
	Revoked   bool
}

// Browser is a person signed in at the pages.
type Browser struct {
	User     User
	AuthTime time.Time
}

// Service is the identity provider.
type Service struct{ o Options }

var errTodo = errors.New("identity: not built yet")

// New prepares the identity provider.
func New(ctx context.Context, o Options) (*Service, error) { return &Service{o}, nil }

// Handler answers /oauth2/, /login, /logout, /consent, /account, /reauth, /e/,
// /.well-known/openid-configuration and /.well-known/oauth-authorization-server.
func (s *Service) Handler() http.Handler { return http.NotFoundHandler() }

// Lookup returns whose access token it is, from memory where it can.
// Errors: ErrUnknownToken, ErrExpiredToken, ErrLocked, ErrDeactivated.
func (s *Service) Lookup(ctx context.Context, token string) (Principal, error) {
	return Principal{}, errTodo
}

// CreateUser makes an account. Errors: ErrUserExists, ErrBadName, ErrWeakPassword, ErrInvite.
func (s *Service) CreateUser(ctx context.Context, n NewUser) (User, error) { return User{}, errTodo }

// User finds an account by its user ID or localpart. Errors: ErrNoUser.
func (s *Service) User(ctx context.Context, userID string) (User, error) { return User{}, errTodo }

// Users lists all accounts by name.
func (s *Service) Users(ctx context.Context) ([]User, error) { return nil, errTodo }

// VerifyPassword checks a password; from is the address it came from, for the
// slow-down. Errors: ErrWrongPassword, *SlowDown, ErrLocked, ErrDeactivated.
func (s *Service) VerifyPassword(ctx context.Context, userID, password, from string) (User, error) {
	return User{}, errTodo
}

// SetPassword sets a password and ends all sessions except the named one ("": none is kept).
// keepAll leaves every session alive.
func (s *Service) SetPassword(ctx context.Context, userID, password, keepSession string, keepAll bool) error {
	return errTodo
}

// SetDisabled locks an account and ends its sessions, or unlocks it.
func (s *Service) SetDisabled(ctx context.Context, userID string, disabled bool) error {
	return errTodo
}

// SetAdmin grants or takes away administration.
func (s *Service) SetAdmin(ctx context.Context, userID string, admin bool) error { return errTodo }

// Deactivate closes an account for good: its sessions end and its password goes.
func (s *Service) Deactivate(ctx context.Context, userID string) error { return errTodo }

// StartSession makes a session with its device. Errors: ErrNoUser, ErrLocked, ErrDeactivated.
func (s *Service) StartSession(ctx context.Context, r SessionRequest) (Tokens, error) {
	return Tokens{}, errTodo
}

// Refresh rotates a refresh token. Errors: ErrRefresh; store.ErrUnavailable and
// other errors are transient: answer 503.
func (s *Service) Refresh(ctx context.Context, refresh string) (Tokens, error) {
	return Tokens{}, errTodo
}

// EndDevice ends a device's session and deletes the device.
func (s *Service) EndDevice(ctx context.Context, userID, deviceID string) error { return errTodo }

// EndDeviceTx ends a device's sessions inside the transaction that deletes the device.
func (s *Service) EndDeviceTx(tx *store.Tx, userID, deviceID string) error { return errTodo }

// EndAll ends all sessions of a user and deletes their devices, except the session keep.
func (s *Service) EndAll(ctx context.Context, userID, keep string) error { return errTodo }

// CreateInvite makes an invite link.
func (s *Service) CreateInvite(ctx context.Context, n NewInvite) (Invite, error) {
	return Invite{}, errTodo
}

// Invites lists invites, newest first.
func (s *Service) Invites(ctx context.Context) ([]Invite, error) { return nil, errTodo }

// RevokeInvite makes an invite useless.
func (s *Service) RevokeInvite(ctx context.Context, id string) error { return errTodo }

// InviteValid reports whether an invite's token could be used now.
func (s *Service) InviteValid(ctx context.Context, token string) (bool, error) { return false, errTodo }

// BrowserSession is who is signed in at the pages in the request's browser.
// It does not check where the request came from: use http.CrossOriginProtection.
func (s *Service) BrowserSession(r *http.Request) (Browser, bool) { return Browser{}, false }

// SignIn starts a browser session and sets its cookie.
func (s *Service) SignIn(w http.ResponseWriter, r *http.Request, userID string) error { return errTodo }

// Metadata is the authorization server's metadata at an origin, for auth_metadata.
func (s *Service) Metadata(origin string) map[string]any { return nil }

// CreateLoginToken makes a token that logs in once within ttl (m.login.token).
func (s *Service) CreateLoginToken(ctx context.Context, userID string, ttl time.Duration) (string, error) {
	return "", errTodo
}

// ConsumeLoginToken returns whose login token it is and makes it useless. Errors: ErrUnknownToken.
func (s *Service) ConsumeLoginToken(ctx context.Context, token string) (userID string, err error) {
	return "", errTodo
}

// ResetApproved reports whether the person approved, on the account page, that
// their cross-signing keys may be replaced now.
func (s *Service) ResetApproved(ctx context.Context, userID string) (bool, error) {
	return false, errTodo
}
