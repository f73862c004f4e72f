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
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/route"
	"holdfast/homeserver/userdata"
)

// Accounts is what the identity provider does for this package. User IDs are
// full. Errors for the client are *mx.Error; others are transient.
type Accounts interface {
	// VerifyPassword returns the user ID as it is stored. Errors: Forbidden,
	// LimitExceeded, UserLocked, UserDeactivated.
	VerifyPassword(ctx context.Context, userID, password, from string) (string, error)
	// CreateUser errors: UserInUse, InvalidUsername, WeakPassword, Exclusive, Unauthorized (invite).
	CreateUser(ctx context.Context, n NewUser) (userID string, err error)
	// Available reports whether a localpart could be registered. Errors as CreateUser.
	Available(ctx context.Context, localpart string) error
	StartSession(ctx context.Context, r NewSession) (Session, error)
	Refresh(ctx context.Context, token string) (Session, error)
	EndDevice(ctx context.Context, userID, deviceID string) error
	EndAll(ctx context.Context, userID, keepDeviceID string) error
	// EndToken ends the session of an access token that has no device.
	EndToken(ctx context.Context, token string) error
	SetPassword(ctx context.Context, userID, password, keepDeviceID string, logoutOthers bool) error
	// CheckPassword reports whether a password may be chosen. Errors: WeakPassword.
	CheckPassword(password string) error
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
	Emails
	// Metadata is the authorization server's metadata at an origin.
	Metadata(origin string) any
}

// NewUser describes an account to make.
type NewUser struct {
	Localpart, DisplayName, Password string
	Admin                            bool
	Invite                           string // token of an invite to use up, or ""
	Source                           string
	EmailSID, EmailSecret            string // proof of the account's e-mail address, or ""
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

// Logins are the ways in of the legacy login that an administrator may close. The
// OAuth API, application services and sessions that exist are another matter.
type Logins struct {
	Password bool // m.login.password
	SSO      bool // m.login.sso, and the tokens of m.login.token that follow from it or from a session
}

// Options of New.
type Options struct {
	ServerName       string
	PublicURL        func(*http.Request) string // origin the request came in by
	Accounts         Accounts
	Log              *slog.Logger
	RegistrationOpen bool
	SharedSecret     string // of /_synapse/admin/v1/register; "": off
	// Logins says which ways of the legacy login are open; it must be quick. nil: all.
	Logins func() Logins
	Mail   Mailer // nil: no e-mail is sent
	// Subscription is the address that messages about what is unread go to, by their
	// link; end ends them. Errors: NotFound. nil: there are no such messages.
	Subscription func(ctx context.Context, id int64, secret string, end bool) (address string, err error)
	// Erase keeps what a closed account wrote from those who join a room later.
	Erase func(ctx context.Context, userID string) error
	// WellKnown adds to /.well-known/matrix/client. May be nil.
	WellKnown func(*http.Request) map[string]any
	// RoomVersion is the version of rooms that ask for none. nil: pdu.Default.
	RoomVersion func() pdu.Version
	// ForcesEncryption reports whether rooms that clients make with a preset are
	// encrypted in any case. nil: none are.
	ForcesEncryption func(preset string) bool
	// PolicyKey is the ed25519 key of the policy server. "": there is none.
	PolicyKey string
	// Capabilities adds to /capabilities. May be nil.
	Capabilities func() map[string]any
	// Kept says what of a user a directory keeps.
	Kept func(ctx context.Context, userID string) (userdata.Kept, error)
	// AppserviceUser reports whether the application service owns the user ID. May be nil.
	AppserviceUser func(appservice, userID string) bool
	// AppserviceOnly reports whether a localpart belongs to another application
	// service alone than the one named. May be nil.
	AppserviceOnly func(localpart, appservice string) bool
	// Text is the message catalogue of the fallback page. nil: keys are shown.
	Text func(lang, key string) string
	Now  func() time.Time // nil: the machine's clock
}

// Service answers the account operations.
type Service struct {
	o        Options
	uia      uia
	nonces   nonces
	features map[string]bool
	// dehydration: whether devices may be dehydrated here (MSC3814).
	dehydration bool
}

// New prepares the service.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Text == nil {
		o.Text = func(_, key string) string { return key }
	}
	return &Service{o: o}
}

// Routes are the package's operations.
func (s *Service) Routes() []route.Route {
	const v3, r0 = "/_matrix/client/v3/", "/_matrix/client/r0/"
	return []route.Route{
		{Op: "getVersions", Pattern: "GET /_matrix/client/versions", Handle: route.Get(s.versions)},
		{Op: "getWellknown", Pattern: "GET /.well-known/matrix/client", Handle: route.Get(s.wellKnownClient)},
		{Op: "getWellknownServer", Pattern: "GET /.well-known/matrix/server", Handle: route.Get(s.wellKnownServer)},
		{Op: "getWellknownPolicy", Pattern: "GET /.well-known/matrix/policy_server", Handle: route.Get(s.wellKnownPolicy)},
		{Op: "getWellknownSupport", Pattern: "GET /.well-known/matrix/support", Handle: route.Get(s.wellKnownSupport)},
		{Op: "getCapabilities", Pattern: "GET " + v3 + "capabilities", Aliases: []string{r0 + "capabilities"}, Auth: route.User, Limit: route.Reads, Handle: route.Get(s.capabilities)},
		{Op: "getAuthMetadata", Pattern: "GET /_matrix/client/v1/auth_metadata",
			Aliases: []string{"/_matrix/client/unstable/org.matrix.msc2965/auth_metadata"}, Handle: route.Get(s.authMetadata)},
		{Op: "getAuthIssuer", Pattern: "GET /_matrix/client/unstable/org.matrix.msc2965/auth_issuer", Handle: route.Get(s.authIssuer)},

		{Op: "getLoginFlows", Pattern: "GET " + v3 + "login", Aliases: []string{r0 + "login"}, Limit: route.Reads, Handle: route.Get(s.loginFlows)},
		{Op: "login", Pattern: "POST " + v3 + "login", Aliases: []string{r0 + "login"}, Auth: route.Optional, Limit: route.Logins, NewUsers: true, Handle: route.JSON(s.login)},
		{Op: "generateLoginToken", Pattern: "POST /_matrix/client/v1/login/get_token", Auth: route.User, Limit: route.Logins, Handle: route.Get(s.getToken)},
		{Op: "redirectToSSO", Pattern: "GET " + v3 + "login/sso/redirect", Aliases: []string{r0 + "login/sso/redirect"}, Limit: route.Reads, Handle: route.Get(s.ssoRedirect)},
		{Op: "redirectToIdP", Pattern: "GET " + v3 + "login/sso/redirect/{idpID}", Aliases: []string{r0 + "login/sso/redirect/{idpID}"}, Limit: route.Reads, Handle: route.Get(s.ssoRedirect)},
		{Op: "logout", Pattern: "POST " + v3 + "logout", Aliases: []string{r0 + "logout"}, Auth: route.User, Locked: true, Handle: route.Get(s.logout)},
		{Op: "logout_all", Pattern: "POST " + v3 + "logout/all", Aliases: []string{r0 + "logout/all"}, Auth: route.User, Locked: true, Handle: route.Get(s.logoutAll)},
		{Op: "refresh", Pattern: "POST " + v3 + "refresh", Handle: route.JSON(s.refresh)}, // unlimited: clients take 429 for a refusal
		{Op: "getTokenOwner", Pattern: "GET " + v3 + "account/whoami", Aliases: []string{r0 + "account/whoami"}, Auth: route.User, Handle: route.Get(s.whoami)},

		{Op: "register", Pattern: "POST " + v3 + "register", Aliases: []string{r0 + "register"}, Auth: route.Optional, Limit: route.Logins, NewUsers: true, Handle: route.JSON(s.register)},
		{Op: "checkUsernameAvailability", Pattern: "GET " + v3 + "register/available", Aliases: []string{r0 + "register/available"}, Limit: route.Logins, Handle: route.Get(s.available)},
		{Op: "registrationTokenValidity", Pattern: "GET /_matrix/client/v1/register/m.login.registration_token/validity", Limit: route.Logins, Handle: route.Get(s.tokenValidity)},
		{Op: "changePassword", Pattern: "POST " + v3 + "account/password", Aliases: []string{r0 + "account/password"}, Auth: route.Optional, Limit: route.Logins, Handle: route.JSON(s.changePassword)},
		{Op: "deactivateAccount", Pattern: "POST " + v3 + "account/deactivate", Aliases: []string{r0 + "account/deactivate"}, Auth: route.User, Limit: route.Logins, Handle: route.JSON(s.deactivate)},
		{Op: "getAccount3PIDs", Pattern: "GET " + v3 + "account/3pid", Aliases: []string{r0 + "account/3pid"}, Auth: route.User, Limit: route.Reads, Handle: route.Get(s.threepids)},

		{Op: "post3PIDs", Pattern: "POST " + v3 + "account/3pid", Aliases: []string{r0 + "account/3pid"}, Auth: route.User, Limit: route.Logins, Handle: route.JSON(s.post3PIDs)},
		{Op: opAdd3PID, Pattern: "POST " + v3 + "account/3pid/add", Aliases: []string{r0 + "account/3pid/add"}, Auth: route.User, Limit: route.Logins, Handle: route.JSON(s.add3PID)},
		{Op: "bind3PID", Pattern: "POST " + v3 + "account/3pid/bind", Aliases: []string{r0 + "account/3pid/bind"}, Auth: route.User, Limit: route.Logins, Refuse: noIdentityServers},
		{Op: "unbind3pidFromAccount", Pattern: "POST " + v3 + "account/3pid/unbind", Aliases: []string{r0 + "account/3pid/unbind"}, Auth: route.User, Limit: route.Logins, Handle: route.JSON(s.unbind3PID)},
		{Op: "delete3pidFromAccount", Pattern: "POST " + v3 + "account/3pid/delete", Aliases: []string{r0 + "account/3pid/delete"}, Auth: route.User, Limit: route.Logins, Handle: route.JSON(s.delete3PID)},
		{Op: "requestTokenTo3PIDEmail", Pattern: "POST " + v3 + "account/3pid/email/requestToken", Aliases: []string{r0 + "account/3pid/email/requestToken"}, Auth: route.Optional, Limit: route.Logins, Handle: route.JSON(s.requestToken(ProofAdd))},
		{Op: "requestTokenToRegisterEmail", Pattern: "POST " + v3 + "register/email/requestToken", Aliases: []string{r0 + "register/email/requestToken"}, Auth: route.Optional, Limit: route.Logins, Handle: route.JSON(s.requestToken(ProofRegister))},
		{Op: "requestTokenToResetPasswordEmail", Pattern: "POST " + v3 + "account/password/email/requestToken", Aliases: []string{r0 + "account/password/email/requestToken"}, Auth: route.Optional, Limit: route.Logins, Handle: route.JSON(s.requestToken(ProofPassword))},
		{Op: "uiaEmailPage", Pattern: "GET " + submitPath, Limit: route.Logins, Handle: route.Get(s.emailPage)},
		{Op: "unsubscribePage", Pattern: "GET " + unsubscribePath, Limit: route.Logins, Handle: route.Get(s.unsubscribePage)},
		{Op: "unsubscribe", Pattern: "POST " + unsubscribePath, Limit: route.Logins, Handle: route.Get(s.unsubscribe)},
		{Op: "submitEmailToken", Pattern: "POST " + submitPath, Limit: route.Logins, Handle: route.Get(s.submitEmail)},
		{Op: "requestTokenTo3PIDMSISDN", Pattern: "POST " + v3 + "account/3pid/msisdn/requestToken", Auth: route.Optional, Limit: route.Logins, Refuse: noPhones(mx.ThreepidMedium)},
		{Op: "requestTokenToRegisterMSISDN", Pattern: "POST " + v3 + "register/msisdn/requestToken", Auth: route.Optional, Limit: route.Logins, Refuse: noPhones(mx.ThreepidDenied)},
		{Op: "requestTokenToResetPasswordMSISDN", Pattern: "POST " + v3 + "account/password/msisdn/requestToken", Auth: route.Optional, Limit: route.Logins, Refuse: noPhones(mx.ThreepidDenied)},

		{Op: "loginFallback", Pattern: "GET /_matrix/static/client/login/{$}", Handle: route.Get(s.loginPage)},
		{Op: "uiaFallback", Pattern: "GET " + v3 + "auth/{stage}/fallback/web", Aliases: []string{r0 + "auth/{stage}/fallback/web"}, Limit: route.Logins, Handle: route.Get(s.fallback)},
		{Op: "uiaFallbackSubmit", Pattern: "POST " + v3 + "auth/{stage}/fallback/web", Aliases: []string{r0 + "auth/{stage}/fallback/web"}, Limit: route.Logins, Handle: route.Get(s.fallbackSubmit)},

		{Op: "synapseRegisterNonce", Pattern: "GET /_synapse/admin/v1/register", Handle: route.Get(s.nonce)},
		{Op: "synapseRegister", Pattern: "POST /_synapse/admin/v1/register", Handle: route.JSON(s.sharedSecretRegister)},
	}
}
