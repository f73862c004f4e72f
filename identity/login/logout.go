package login

import (
	"context"
	"net/http"
	"net/url"
	"slices"

	"holdfast/identity/account"
	"holdfast/identity/register"
)

// Logout is what an application asks for when it has people sign out.
type Logout struct {
	Client *register.Client // nil: no application asks
	URI    string           // where it wants them back, which it registered; "": nowhere
	State  string
}

// CheckLogout checks the application of a logout, and where it wants people back: that
// must be registered, byte for byte. Errors: register.ErrNoClient when it is not, or the
// application is not known; any other is transient.
// Spec: OpenID Connect RP-Initiated Logout 1.0 section 3
func (p *Pages) CheckLogout(ctx context.Context, clientID, uri, state string) (q Logout, err error) {
	if clientID == "" {
		if uri != "" {
			return q, register.ErrNoClient
		}
		return q, nil
	}
	if q.Client, err = p.Clients.Client(ctx, clientID); err != nil {
		return q, err
	}
	if uri != "" && !slices.Contains(q.Client.PostLogoutRedirectURIs, uri) {
		return q, register.ErrNoClient
	}
	q.URI, q.State = uri, state
	return q, nil
}

// to is where people go on to, or "".
func (q Logout) to() string {
	if q.URI == "" || q.State == "" {
		return q.URI
	}
	u, err := url.Parse(q.URI)
	if err != nil {
		return q.URI
	}
	v := u.Query()
	v.Set("state", q.State)
	u.RawQuery = v.Encode()
	return u.String()
}

// form is the address of the form that asks.
func (q Logout) form() string {
	if q.Client == nil {
		return "/logout"
	}
	v := url.Values{"client_id": {q.Client.ID}}
	if q.URI != "" {
		v.Set("post_logout_redirect_uri", q.URI)
	}
	if q.State != "" {
		v.Set("state", q.State)
	}
	return "/logout?" + v.Encode()
}

// SignOut ends the browser session and removes its cookie. It answers itself when that
// fails: nobody is told that they are out while they are not.
func (p *Pages) SignOut(w http.ResponseWriter, r *http.Request, b account.Browser) bool {
	p.leads(r, b)
	if err := p.Accounts.EndBrowser(r.Context(), b.Hash); err != nil {
		p.fail(w, r, err)
		return false
	}
	p.setCookie(w, r, sessionCookie, "", 0)
	return true
}

// leads keeps the sign-out at the provider that a session came from for AfterLogout.
func (p *Pages) leads(r *http.Request, b account.Browser) {
	if p.Upstreams == nil {
		return
	}
	l, ok, err := p.Upstreams.Leave(r.Context(), b.SID, p.Origin(r))
	if err != nil { // who wants to be signed out here is
		p.Log.Error("a sign-out at another provider could not be made", "err", err)
	}
	if ok {
		*r = *r.WithContext(context.WithValue(r.Context(), leavingKey{}, l))
	}
}

// AskLogout is the page that asks before an application's logout is followed.
func (p *Pages) AskLogout(w http.ResponseWriter, r *http.Request, b account.Browser, q Logout) {
	v := view{Action: q.form(), UserID: b.User.UserID}
	if q.Client != nil && !q.Client.Trusted {
		v.App = q.Client.Name()
	}
	if p.Upstreams != nil {
		v.Leads = p.Upstreams.Leads(r.Context(), b.SID)
	}
	p.render(w, r, http.StatusOK, "logout", q.URI, v)
}

// AfterLogout leads on when nobody is signed in any more: first to the provider that the
// session came from, if it wants to know.
func (p *Pages) AfterLogout(w http.ResponseWriter, r *http.Request, q Logout) {
	if p.leave(w, r, q.to()) {
		return
	}
	if to := q.to(); to != "" {
		redirect(w, r, to)
		return
	}
	p.message(w, r, http.StatusOK, "signedOut")
}

func (p *Pages) showLogout(w http.ResponseWriter, r *http.Request) {
	b, in := p.SignedIn(r)
	if !in {
		p.message(w, r, http.StatusOK, "signedOut")
		return
	}
	p.AskLogout(w, r, b, Logout{})
}

func (p *Pages) doLogout(w http.ResponseWriter, r *http.Request) {
	v := r.URL.Query()
	q, err := p.CheckLogout(r.Context(), v.Get("client_id"), v.Get("post_logout_redirect_uri"), v.Get("state"))
	if err != nil {
		p.message(w, r, http.StatusBadRequest, "badRedirect")
		return
	}
	if r.PostForm.Get("answer") == "no" {
		p.message(w, r, http.StatusOK, "staySignedIn")
		return
	}
	if b, in := p.SignedIn(r); in {
		if r.PostForm.Get("everywhere") != "" {
			p.leads(r, b) // while it is known where the session came from
			if err := p.EndEverything(r.Context(), b.User); err != nil {
				p.fail(w, r, err)
				return
			}
		}
		if !p.SignOut(w, r, b) {
			return
		}
	}
	p.AfterLogout(w, r, q)
}
