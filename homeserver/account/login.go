package account

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
)

// loginFlows answers GET /login. Spec: cs#get_matrixclientv3login
func (s *Service) loginFlows(context.Context, *route.Request) (any, error) {
	open, flows := s.logins(), []map[string]any{}
	if open.Password {
		flows = append(flows, map[string]any{"type": "m.login.password"})
	}
	if open.SSO {
		flows = append(flows,
			// MSC3824: clients that know the OAuth API should use that instead.
			map[string]any{"type": "m.login.sso", "oauth_aware_preferred": true, "org.matrix.msc3824.delegated_oidc_compatibility": true},
			map[string]any{"type": "m.login.token", "get_login_token": true})
	}
	return map[string]any{"flows": append(flows, map[string]any{"type": "m.login.application_service"})}, nil
}

// logins are the ways in that are open.
func (s *Service) logins() Logins {
	if s.o.Logins == nil {
		return Logins{Password: true, SSO: true}
	}
	return s.o.Logins()
}

// errClosed refuses a way in that an administrator closed, as if it were not known:
// that is how the specification has it.
func errClosed(what string) error {
	return mx.Errorf(mx.Unknown, "Signing in with %s is switched off on this server. Use an application that signs in in the browser (OAuth 2.0).", what)
}

// identifier names a user. Spec: cs#identifier-types
type identifier struct {
	Type    string `json:"type"`
	User    string `json:"user"`
	Medium  string `json:"medium"`
	Address string `json:"address"`
}

type loginRequest struct {
	Type         string      `json:"type"`
	Identifier   *identifier `json:"identifier"`
	User         string      `json:"user"` // before identifiers, as the next two
	Medium       string      `json:"medium"`
	Address      string      `json:"address"`
	Password     *string     `json:"password"`
	Token        string      `json:"token"`
	DeviceID     string      `json:"device_id"`
	DisplayName  string      `json:"initial_device_display_name"`
	RefreshToken bool        `json:"refresh_token"`
}

type loginResponse struct {
	UserID       string         `json:"user_id"`
	AccessToken  string         `json:"access_token,omitempty"`
	RefreshToken string         `json:"refresh_token,omitempty"`
	ExpiresInMS  int64          `json:"expires_in_ms,omitempty"`
	DeviceID     string         `json:"device_id,omitempty"`
	HomeServer   string         `json:"home_server"` // deprecated, still read by older clients
	WellKnown    map[string]any `json:"well_known,omitempty"`
}

// userOf is the full user ID that an identifier means. An e-mail address that is
// nobody's stands for itself: no password fits it, which takes as long to find out.
func (s *Service) userOf(ctx context.Context, id *identifier, user string) (string, error) {
	if id != nil {
		kind := id.Type
		if kind == "" && id.Medium != "" { // the specification's example of a login has no type
			kind = "m.id.thirdparty"
		}
		switch kind {
		case "m.id.user", "":
			if id.User != "" {
				user = id.User
			}
		case "m.id.thirdparty":
			if id.Medium == "" || id.Address == "" {
				return "", mx.Errorf(mx.MissingParam, "Name medium and address of the third-party identifier.")
			}
			if id.Medium != mediumEmail {
				return "", mx.Errorf(mx.Forbidden, "Nobody is known here by a %.40s. Sign in with the user name or an e-mail address.", id.Medium)
			}
			address, err := s.o.Accounts.CanonicalEmail(id.Address)
			if err != nil {
				return "", mx.Errorf(mx.Forbidden, "Nobody is known here by this address.")
			}
			owner, err := s.o.Accounts.EmailOwner(ctx, address)
			if err != nil || owner != "" {
				return owner, err
			}
			return address, nil
		case "m.id.phone":
			return "", mx.Errorf(mx.Forbidden, "Nobody is known here by a phone number. Sign in with the user name or an e-mail address.")
		default:
			return "", mx.Errorf(mx.Unknown, "The identifier type is not known. Use m.id.user.")
		}
	}
	if user == "" {
		return "", mx.Errorf(mx.MissingParam, "Name the user: identifier {type: m.id.user, user: ...}.")
	}
	if len(user) > 255 {
		return "", mx.Errorf(mx.InvalidParam, "The user name is too long.")
	}
	if !strings.HasPrefix(user, "@") {
		return "@" + strings.ToLower(user) + ":" + s.o.ServerName, nil
	}
	return user, nil
}

// maxDeviceID bounds the device IDs that clients choose, in bytes.
const maxDeviceID = 255

func checkDevice(id string) error {
	if len(id) > maxDeviceID || strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r == 0x7f || r == '|' }) {
		return mx.Errorf(mx.InvalidParam, "A device ID has at most %d printable characters.", maxDeviceID)
	}
	return nil
}

// login answers POST /login. Spec: cs#post_matrixclientv3login
func (s *Service) login(ctx context.Context, r *route.Request, in loginRequest) (any, error) {
	if err := checkDevice(in.DeviceID); err != nil {
		return nil, err
	}
	if in.Identifier == nil && in.User == "" && in.Medium != "" {
		in.Identifier = &identifier{Medium: in.Medium, Address: in.Address}
	}
	var userID string
	var err error
	switch in.Type {
	case "m.login.password":
		if !s.logins().Password {
			return nil, errClosed("a password in the application")
		}
		if userID, err = s.userOf(ctx, in.Identifier, in.User); err != nil {
			return nil, err
		}
		if in.Password == nil {
			return nil, mx.Errorf(mx.MissingParam, "password is missing.")
		}
		if userID, err = s.o.Accounts.VerifyPassword(ctx, userID, *in.Password, address(r.Request)); err != nil {
			return nil, err
		}
	case "m.login.token":
		if !s.logins().SSO {
			return nil, errClosed("a login token")
		}
		if in.Token == "" {
			return nil, mx.Errorf(mx.MissingParam, "token is missing.")
		}
		if userID, err = s.o.Accounts.ConsumeLoginToken(ctx, in.Token); err != nil {
			return nil, err
		}
	case "m.login.application_service", "uk.half-shot.msc2778.login.application_service":
		if userID, err = s.userOf(ctx, in.Identifier, in.User); err != nil {
			return nil, err
		}
		if r.Appservice == "" && r.UserID != "" {
			return nil, mx.Errorf(mx.Forbidden, "The token is no application service's.")
		}
		if r.Appservice == "" {
			return nil, mx.Errorf(mx.MissingToken, "Send the application service's token in the Authorization header.")
		}
		if s.o.AppserviceUser == nil || !s.o.AppserviceUser(r.Appservice, userID) {
			return nil, mx.Errorf(mx.Exclusive, "The user is in none of the application service's namespaces.")
		}
	case "":
		return nil, mx.Errorf(mx.MissingParam, "The login type is missing.")
	default:
		return nil, mx.Errorf(mx.Unknown, "The login type is not known. GET this address lists those that are.")
	}
	return s.start(ctx, r, NewSession{UserID: userID, DeviceID: in.DeviceID, DisplayName: in.DisplayName, Refresh: in.RefreshToken})
}

// start starts a session and answers with it.
func (s *Service) start(ctx context.Context, r *route.Request, n NewSession) (loginResponse, error) {
	t, err := s.o.Accounts.StartSession(ctx, n)
	if err != nil {
		return loginResponse{}, err
	}
	return loginResponse{
		UserID: n.UserID, AccessToken: t.AccessToken, RefreshToken: t.RefreshToken, ExpiresInMS: t.ExpiresIn.Milliseconds(),
		DeviceID: t.DeviceID, HomeServer: s.o.ServerName,
		WellKnown: map[string]any{"m.homeserver": map[string]string{"base_url": s.o.PublicURL(r.Request)}},
	}, nil
}

// loginTokenFor is how long a token from get_token may be used.
const loginTokenFor = 2 * time.Minute

// getToken answers POST /login/get_token. Spec: cs#post_matrixclientv1loginget_token
func (s *Service) getToken(ctx context.Context, r *route.Request) (any, error) {
	if !s.logins().SSO {
		return nil, mx.Errorf(mx.Forbidden, "Login tokens are switched off on this server.")
	}
	if err := s.Confirm(ctx, r); err != nil {
		return nil, err
	}
	t, err := s.o.Accounts.CreateLoginToken(ctx, r.UserID, loginTokenFor)
	if err != nil {
		return nil, err
	}
	return map[string]any{"login_token": t, "expires_in_ms": loginTokenFor.Milliseconds()}, nil
}

// ssoRedirect sends the browser to our login page, which checks redirectUrl and
// asks. Spec: cs#get_matrixclientv3loginssoredirect
func (s *Service) ssoRedirect(_ context.Context, r *route.Request) (any, error) {
	if !s.logins().SSO {
		return s.say(http.StatusForbidden, "ssoOff"), nil
	}
	to := r.Query("redirectUrl")
	if to == "" {
		return nil, mx.Errorf(mx.MissingParam, "redirectUrl is missing.")
	}
	target := s.o.PublicURL(r.Request) + "/login/sso?" + url.Values{"redirectUrl": {to}}.Encode()
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		http.Redirect(w, hr, target, http.StatusFound)
	}), nil
}

// logout answers POST /logout. Spec: cs#post_matrixclientv3logout
func (s *Service) logout(ctx context.Context, r *route.Request) (route.Empty, error) {
	if r.Appservice != "" && r.DeviceID == "" {
		return route.Empty{}, nil
	}
	if r.DeviceID == "" {
		return route.Empty{}, s.o.Accounts.EndToken(ctx, route.Token(r.Request))
	}
	return route.Empty{}, s.o.Accounts.EndDevice(ctx, r.UserID, r.DeviceID)
}

// logoutAll answers POST /logout/all. Spec: cs#post_matrixclientv3logoutall
func (s *Service) logoutAll(ctx context.Context, r *route.Request) (route.Empty, error) {
	return route.Empty{}, s.o.Accounts.EndAll(ctx, r.UserID, "")
}

// refresh answers POST /refresh. Spec: cs#post_matrixclientv3refresh
func (s *Service) refresh(ctx context.Context, _ *route.Request, in struct {
	RefreshToken string `json:"refresh_token"`
}) (any, error) {
	if in.RefreshToken == "" {
		return nil, mx.Errorf(mx.MissingParam, "refresh_token is missing.")
	}
	t, err := s.o.Accounts.Refresh(ctx, in.RefreshToken)
	var refused *mx.Error
	if err != nil && !errors.As(err, &refused) && ctx.Err() == nil {
		// Anything but a refusal must not log the client out.
		err = &mx.Error{Code: mx.Unknown, Status: http.StatusServiceUnavailable, Msg: "The server has trouble at the moment. Try again.", Err: err}
	}
	if err != nil {
		return nil, err
	}
	return map[string]any{"access_token": t.AccessToken, "refresh_token": t.RefreshToken, "expires_in_ms": t.ExpiresIn.Milliseconds()}, nil
}

// whoami answers GET /account/whoami. Spec: cs#get_matrixclientv3accountwhoami
func (s *Service) whoami(_ context.Context, r *route.Request) (any, error) {
	out := map[string]any{"user_id": r.UserID, "is_guest": r.Guest}
	if r.DeviceID != "" {
		out["device_id"] = r.DeviceID
	}
	return out, nil
}

// address is where a request came from, for the slow-down after failures.
func address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
