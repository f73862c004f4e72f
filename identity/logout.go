package identity

import (
	"errors"
	"net/http"
	"net/url"
	"slices"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"holdfast/identity/login"
	"holdfast/identity/register"
)

// endOP signs the browser out for an application. It happens without a question only if
// the application shows an ID token of the session that is to end.
// Spec: OpenID Connect RP-Initiated Logout 1.0
func (s *Service) endOP(w http.ResponseWriter, r *http.Request) {
	var (
		v   url.Values
		err error
	)
	if r.Method == http.MethodPost {
		v, err = form(w, r)
	} else {
		v, err = params(r.URL.RawQuery)
	}
	if err != nil {
		s.pages.Message(w, r, http.StatusBadRequest, "badRequest")
		return
	}
	login.Prefer(r, v.Get("ui_locales"))
	q, claims, err := s.checkLogout(r, v)
	switch {
	case errors.Is(err, errHint):
		s.pages.Message(w, r, http.StatusBadRequest, "badHint")
		return
	case errors.Is(err, register.ErrNoClient):
		s.pages.Message(w, r, http.StatusBadRequest, "badRedirect")
		return
	case err != nil:
		s.o.Log.Error("an application's logout could not be looked at", "err", err)
		s.pages.Message(w, r, http.StatusServiceUnavailable, "trouble")
		return
	}
	b, in := s.pages.SignedIn(r)
	if in {
		sure := claims != nil && claims.Subject == s.sessions.Subject(q.Client, b.User.ID)
		// A token that names another session says nothing about this one.
		if sid, _ := claims.claim("sid").(string); sid != "" && sid != s.sessions.SessionID(q.Client.ID, b.SID) {
			sure = false
		}
		if !sure {
			s.pages.AskLogout(w, r, b, q)
			return
		}
		if !s.pages.SignOut(w, r, b) {
			return
		}
	}
	s.pages.AfterLogout(w, r, q)
}

// hint are the claims of an ID token that an application shows.
type hint struct{ *oidc.IDTokenClaims }

func (h *hint) claim(name string) any {
	if h == nil {
		return nil
	}
	return h.Claims[name]
}

// errHint is an ID token that is not one of ours, or of another application than it says.
var errHint = errors.New("the id_token_hint is not valid")

// checkLogout checks an application's logout. Errors: errHint; ErrNoClient where nobody
// is known to lead on to; any other is transient.
func (s *Service) checkLogout(r *http.Request, v url.Values) (q login.Logout, h *hint, err error) {
	id := v.Get("client_id")
	if raw := v.Get("id_token_hint"); raw != "" {
		c, err := op.VerifyIDTokenHint[*oidc.IDTokenClaims](r.Context(), raw, s.provider.IDTokenHintVerifier(r.Context()))
		// That it has expired is no fault: applications keep it as long as their session.
		if err != nil && !errors.As(err, &op.IDTokenHintExpiredError{}) || c == nil {
			return q, nil, errHint
		}
		of := c.GetAuthorizedParty()
		if of == "" && len(c.GetAudience()) == 1 {
			of = c.GetAudience()[0]
		}
		if of == "" || id != "" && id != of || !slices.Contains(c.GetAudience(), of) {
			return q, nil, errHint
		}
		id, h = of, &hint{c}
	}
	if q, err = s.pages.CheckLogout(r.Context(), id, v.Get("post_logout_redirect_uri"), v.Get("state")); err != nil {
		return q, nil, err
	}
	return q, h, nil
}
