// Package account has the Matrix operations about accounts and sessions: the
// legacy login, registration, logout and refresh, whoami, passwords, interactive
// authentication, and what the server says about itself (versions,
// capabilities, well-known).
//
// Invariants: accounts, passwords and tokens are the identity provider's; this
// package only speaks for it. An interactive-authentication session is bound to
// the operation and the user it was begun for, and completes once.
package account

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
)

// Accounts is what the identity provider does for this package. User IDs are
// full. Errors for the client are *mx.Error; others are transient.
type Accounts interface {
	// VerifyPassword errors: Forbidden, LimitExceeded, UserLocked, UserDeactivated.
	VerifyPassword(ctx context.Context, userID, password, from string) error
	// CreateUser errors: UserInUse, InvalidUsername, WeakPassword, Exclusive, Unauthorized (invite).
	CreateUser(ctx context.Context, n NewUser) error
	// Available reports whether a localpart could be registered. Errors as CreateUser.
	Available(ctx context.Context, localpart string) error
	StartSession(ctx context.Context, r NewSession) (Session, error)
	Refresh(ctx context.Context, token string) (Session, error)
	EndDevice(ctx context.Context, userID, deviceID string) error
	EndAll(ctx context.Context, userID, keepDeviceID string) error
	SetPassword(ctx context.Context, userID, password, keepDeviceID string, logoutOthers bool) error
	Deactivate(ctx context.Context, userID string) error
	InviteValid(ctx context.Context, token string) (bool, error)
	CreateLoginToken(ctx context.Context, userID string, ttl time.Duration) (string, error)
	ConsumeLoginToken(ctx context.Context, token string) (userID string, err error)
	// SignedIn is who is signed in at the pages in the request's browser, or "".
	SignedIn(r *http.Request) (userID string, authTime time.Time)
	// ResetApproved reports whether the person approved that their cross-signing keys are replaced.
	ResetApproved(ctx context.Context, userID string) (bool, error)
	// OAuth reports whether an access token came from the OAuth API.
	OAuth(ctx context.Context, token string) bool
	// Metadata is the authorization server's metadata at an origin.
	Metadata(origin string) any
}

// NewUser describes an account to make.
type NewUser struct {
	Localpart, DisplayName, Password string
	Admin                            bool
	Invite                           string // token of an invite to use up, or ""
	Source                           string
}

// NewSession describes a session to start.
type NewSession struct {
	UserID, DeviceID, DisplayName string
	Refresh                       bool
}

// Session is a started or refreshed session.
type Session struct {
	AccessToken, RefreshToken, DeviceID string
	ExpiresIn                           time.Duration // 0: does not expire
}

// Options of New.
type Options struct {
	ServerName       string
	PublicURL        func(*http.Request) string // origin the request came in by
	Accounts         Accounts
	Log              *slog.Logger
	RegistrationOpen bool
	SharedSecret     string // of /_synapse/admin/v1/register; "": off
	// Capabilities adds to GET /capabilities what other packages offer. May be nil.
	Capabilities func(userID string) map[string]any
	// RTCFoci are the transports of well-known's org.matrix.msc4143.rtc_foci. May be nil.
	RTCFoci func(*http.Request) []map[string]any
	// AppserviceUser reports whether the application service owns the user ID. May be nil.
	AppserviceUser func(appservice, userID string) bool
}

// Service answers the account operations.
type Service struct{ o Options }

// New prepares the service.
func New(o Options) *Service { return &Service{o} }

// Routes are the package's operations.
func (s *Service) Routes() []route.Route { return nil }

// Confirm asks that the person proves again who they are (interactive
// authentication) before something that a stolen session must not do. It
// returns nil when the request's auth is complete, or the 401 to answer.
// Spec: cs#user-interactive-authentication-api
func (s *Service) Confirm(ctx context.Context, r *route.Request) error {
	return mx.Errorf(mx.Unauthorized, "Confirmation is not built yet.")
}

// ConfirmReset is Confirm for replacing cross-signing keys: sessions of the
// OAuth API approve on the account page (m.oauth, MSC4312), others by Confirm.
func (s *Service) ConfirmReset(ctx context.Context, r *route.Request) error {
	return mx.Errorf(mx.Unauthorized, "Confirmation is not built yet.")
}
