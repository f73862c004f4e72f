package identity

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/zitadel/oidc/v3/pkg/oidc"

	"holdfast/identity/opstore"
	"holdfast/identity/register"
)

// client finds the application that an endpoint is called by. It answers itself when
// there is none.
func (s *Service) client(w http.ResponseWriter, r *http.Request, v url.Values) (*register.Client, bool) {
	c, err := s.proveClient(r, v)
	switch {
	case err != nil:
		s.clientError(w, r, err)
	case !c.Devices():
		oauthError(w, http.StatusBadRequest, "unauthorized_client", "The application did not register the grant type "+register.DeviceGrant+".")
	default:
		return c, true
	}
	return nil, false
}

// device begins the sign-in of a device that is confirmed on another's page.
// Spec: RFC 8628 section 3.1
func (s *Service) device(w http.ResponseWriter, r *http.Request) {
	noStore(w)
	v, err := form(w, r)
	if err != nil {
		oauthError(w, http.StatusBadRequest, "invalid_request", err.Error())
		return
	}
	c, ok := s.client(w, r, v)
	if !ok {
		return
	}
	scopes, deviceID, err := opstore.CheckScopes(v.Get("scope"))
	if err != nil {
		oauthError(w, http.StatusBadRequest, "invalid_scope", err.Error())
		return
	}
	if bad := c.Refuses(scopes); bad != "" {
		oauthError(w, http.StatusBadRequest, "invalid_scope", "The application may not have the scope "+bad+".")
		return
	}
	if s.o.Limits {
		if wait := s.devices.allow(r, s.o.Now()); wait > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds()+1)))
			oauthError(w, http.StatusTooManyRequests, "temporarily_unavailable", "Too many devices ask from this address. Try again later.")
			return
		}
	}
	address, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		address = r.RemoteAddr
	}
	code, userCode, err := s.sessions.BeginGrant(r.Context(), c, scopes, deviceID, address, strings.ToValidUTF8(r.UserAgent(), ""))
	if errors.Is(err, opstore.ErrManyGrants) {
		w.Header().Set("Retry-After", "60")
		oauthError(w, http.StatusTooManyRequests, "temporarily_unavailable", "Too many devices wait to be signed in. Try again later.")
		return
	}
	if err != nil {
		s.unavailable(w, r, err)
		return
	}
	page, shown := s.origin(r)+"/link", opstore.ShowUserCode(userCode)
	writeJSON(w, http.StatusOK, map[string]any{
		"device_code":               code,
		"user_code":                 shown,
		"verification_uri":          page,
		"verification_uri_complete": page + "?" + url.Values{"user_code": {shown}}.Encode(),
		"expires_in":                int(opstore.GrantFor.Seconds()),
		"interval":                  int(opstore.PollInterval.Seconds()),
	})
}

// collect answers a device that asks for its tokens. Spec: RFC 8628 section 3.4
func (s *Service) collect(w http.ResponseWriter, r *http.Request, v url.Values) {
	c, ok := s.client(w, r, v)
	if !ok {
		return
	}
	code := v.Get("device_code")
	if code == "" {
		oauthError(w, http.StatusBadRequest, "invalid_request", "device_code is missing.")
		return
	}
	t, sess, err := s.sessions.Collect(r.Context(), code, c.ID)
	refuse := func(name, msg string) { oauthError(w, http.StatusBadRequest, name, msg) }
	switch {
	case errors.Is(err, opstore.ErrPending):
		refuse("authorization_pending", "Nobody has confirmed this device yet. Ask again.")
		return
	case errors.Is(err, opstore.ErrSlowDown):
		refuse("slow_down", "The device asks too often. Wait 5 seconds longer each time.")
		return
	case errors.Is(err, opstore.ErrGrantExpired):
		refuse("expired_token", "Nobody confirmed this device in time. Begin again.")
		return
	case errors.Is(err, opstore.ErrDenied):
		refuse("access_denied", "The sign-in of this device was declined, or was completed before.")
		return
	case errors.Is(err, opstore.ErrNoRequest):
		refuse("invalid_grant", "The device code is not known here.")
		return
	case err != nil:
		s.unavailable(w, r, err)
		return
	}
	out := map[string]any{"access_token": t.Access, "token_type": "Bearer", "expires_in": int(t.ExpiresIn.Seconds()), "scope": strings.Join(sess.Scopes, " ")}
	if t.Refresh != "" {
		out["refresh_token"] = t.Refresh
	}
	if slices.Contains(sess.Scopes, oidc.ScopeOpenID) {
		id, err := (opstore.Storage{S: s.sessions}).IDToken(r.Context(), s.origin(r), sess, t.Access, c)
		if err != nil {
			// The session is there, and the device would ask for it with a used code.
			s.o.Log.Error("an ID token could not be made", "err", err)
		} else {
			out["id_token"] = id
		}
	}
	writeJSON(w, http.StatusOK, out)
}
