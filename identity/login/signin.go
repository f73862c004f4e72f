package login

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"holdfast/identity/account"
	"holdfast/identity/factor"
	"holdfast/identity/opstore"
	"holdfast/identity/register"
	"holdfast/identity/upstream"
)

// load finds the sign-in that the page is about, and its application. It answers
// itself when there is none.
func (p *Pages) load(w http.ResponseWriter, r *http.Request) (*opstore.Request, *register.Client, bool) {
	req, err := p.Sessions.Request(r.Context(), r.URL.Query().Get("request"), p.BrowserHash(r))
	if err != nil {
		p.fail(w, r, err)
		return nil, nil, false
	}
	p.Suit(r, req)
	c, err := p.Clients.Client(r.Context(), req.ClientID)
	if errors.Is(err, register.ErrNoClient) {
		err = opstore.ErrNoRequest
	}
	if err != nil {
		p.fail(w, r, err)
		return nil, nil, false
	}
	return req, c, true
}

// Fresh reports whether who is signed in satisfies a sign-in's prompt, max_age
// and id_token_hint. subject is by what the application knows them.
func Fresh(req *opstore.Request, subject string, b account.Browser, now time.Time) bool {
	if req.Subject != "" && req.Subject != subject {
		return false
	}
	if slices.Contains(req.Prompt, "login") && b.AuthTime.Before(req.Created) {
		return false
	}
	if req.MaxAge != nil && b.AuthTime.Before(req.Created.Add(-time.Duration(*req.MaxAge)*time.Second)) {
		return false
	}
	return true
}

func (p *Pages) showLogin(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Has("request") {
		req, c, ok := p.load(w, r)
		if !ok {
			return
		}
		if b, in := p.SignedIn(r); in && p.fresh(req, c, b) && req.UserID == "" {
			enough, err := p.Enough(r.Context(), b)
			if err != nil {
				p.fail(w, r, err)
				return
			}
			if enough {
				p.proceed(w, r, req, c, b)
				return
			}
		}
		p.loginForm(w, r, http.StatusOK, req, c, loginHint(req.LoginHint), "")
		return
	}
	if b, in := p.SignedIn(r); in {
		enough, err := p.Enough(r.Context(), b)
		if err != nil {
			p.fail(w, r, err)
			return
		}
		if enough {
			redirect(w, r, nextOr(r, "/account"))
			return
		}
	}
	p.loginForm(w, r, http.StatusOK, nil, nil, loginHint(r.URL.Query().Get("hint")), "")
}

func nextOr(r *http.Request, other string) string {
	if n := SafeNext(r.URL.Query().Get("next")); n != "" {
		return n
	}
	return other
}

// loginHint is the user name in a login_hint. Spec: cs#login_hint (mxid:@user:server)
func loginHint(h string) string {
	h = strings.TrimPrefix(h, "mxid:")
	if len(h) > 255 {
		return ""
	}
	return h
}

func (p *Pages) loginForm(w http.ResponseWriter, r *http.Request, status int, req *opstore.Request, c *register.Client, name, problem string) {
	v := view{Action: "/login?" + r.URL.RawQuery, Username: name, Error: problem, Upstreams: p.upstreams(r)}
	options, err := p.passkeyOptions(w, r, factor.Person{}, false)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	v.Factor.Options, v.Factor.Alone = options, aloneAction(r, false)
	target := ""
	if req != nil {
		v.App, target = c.Name(), req.RedirectURI
		if c.Trusted {
			v.App = ""
		}
		if p.RegistrationOpen {
			v.CreateURL = "/login/create?request=" + url.QueryEscape(req.ID)
		}
	}
	p.render(w, r, status, "login", target, v)
}

// attemptText is the text for a refused password, or "" for an error of ours.
func (p *Pages) attemptText(r *http.Request, err error) (status int, text string) {
	l := lang(r)
	var slow *account.SlowDown
	switch {
	case errors.Is(err, account.ErrWrongPassword):
		return http.StatusUnauthorized, p.text(l, "login.wrong")
	case errors.As(err, &slow) && slow.Busy:
		return http.StatusTooManyRequests, p.text(l, "login.busy", "seconds", secondsUp(slow.Wait))
	case errors.As(err, &slow):
		return http.StatusTooManyRequests, p.text(l, "login.slow", "seconds", secondsUp(slow.Wait))
	case errors.Is(err, account.ErrLocked):
		return http.StatusForbidden, p.text(l, "login.locked")
	case errors.Is(err, account.ErrDeactivated):
		return http.StatusForbidden, p.text(l, "login.deactivated")
	case errors.Is(err, account.ErrDirectory):
		return http.StatusServiceUnavailable, p.text(l, "login.directory")
	case errors.Is(err, account.ErrDirectoryPassword):
		return http.StatusForbidden, p.text(l, "login.directoryPassword")
	case errors.Is(err, account.ErrElsewhere):
		return http.StatusForbidden, p.text(l, "login.elsewhere")
	case errors.Is(err, account.ErrUserExists), errors.Is(err, account.ErrBadName), errors.Is(err, account.ErrReserved):
		return http.StatusConflict, p.text(l, "login.directoryName")
	}
	return 0, ""
}

func secondsUp(d time.Duration) string {
	return time.Duration((d + time.Second - 1).Truncate(time.Second)).String()
}

func (p *Pages) doLogin(w http.ResponseWriter, r *http.Request) {
	var (
		req *opstore.Request
		c   *register.Client
	)
	if r.URL.Query().Has("request") {
		var ok bool
		if req, c, ok = p.load(w, r); !ok {
			return
		}
	}
	name := r.PostForm.Get("username")
	localpart, err := p.nameOf(r.Context(), name)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	u, err := p.Accounts.VerifyAt(r.Context(), localpart, r.PostForm.Get("password"), p.at(r, localpart))
	if err != nil {
		if status, text := p.attemptText(r, err); status != 0 {
			p.loginForm(w, r, status, req, c, name, text)
			return
		}
		p.fail(w, r, err)
		return
	}
	if !p.passed(w, r, u, "pwd") {
		return
	}
	if req == nil {
		redirect(w, r, nextOr(r, "/account"))
		return
	}
	b, _ := p.SignedIn(r)
	p.proceed(w, r, req, c, b)
}

// proceed goes on with a sign-in: to the consent page, or, for our own client,
// straight back to it.
func (p *Pages) proceed(w http.ResponseWriter, r *http.Request, req *opstore.Request, c *register.Client, b account.Browser) {
	if !p.fresh(req, c, b) { // somebody else than the application asked for
		p.loginForm(w, r, http.StatusForbidden, req, c, "", p.text(lang(r), "login.otherUser"))
		return
	}
	if !p.allowed(w, r, req, c, b) {
		return
	}
	ask, err := p.Sessions.MustAsk(r.Context(), c, req, b.User.ID)
	switch {
	case err != nil:
		p.fail(w, r, err)
	case ask:
		redirect(w, r, "/consent?request="+url.QueryEscape(req.ID))
	default:
		p.agree(w, r, req, b)
	}
}

func (p *Pages) fresh(req *opstore.Request, c *register.Client, b account.Browser) bool {
	return Fresh(req, p.Sessions.Subject(c, b.User.ID), b, p.Now())
}

// allowed reports whether the person may use the application, and signed in as strongly
// as it must have it. It answers itself when not.
func (p *Pages) allowed(w http.ResponseWriter, r *http.Request, req *opstore.Request, c *register.Client, b account.Browser) bool {
	enough, err := p.Enough(r.Context(), b)
	if err == nil && !enough {
		redirect(w, r, "/login?request="+url.QueryEscape(req.ID)) // which asks for the password
		return false
	}
	if err == nil {
		err = p.Sessions.MayUse(r.Context(), c, b.User.ID)
	}
	if errors.Is(err, opstore.ErrNotAllowed) {
		p.message(w, r, http.StatusForbidden, "appNotAllowed")
		return false
	}
	if err != nil {
		p.fail(w, r, err)
		return false
	}
	if wanted, must := req.ACR(); len(wanted) > 0 && !opstore.Reaches(opstore.Methods(b), wanted) {
		if p.wantsMore(w, r, req, b, wanted) {
			return false
		}
		if !must {
			return true // a wish: the application sees in acr what it got
		}
		if err := p.Sessions.End(r.Context(), req.ID, p.BrowserHash(r)); err != nil {
			p.fail(w, r, err)
			return false
		}
		p.Refuse(w, r, req, "unmet_authentication_requirements")
		return false
	}
	return true
}

func (p *Pages) agree(w http.ResponseWriter, r *http.Request, req *opstore.Request, b account.Browser) {
	if err := p.Sessions.Agree(r.Context(), req.ID, p.BrowserHash(r), b); err != nil {
		p.fail(w, r, err)
		return
	}
	redirect(w, r, "/oauth2/authorize/callback?id="+url.QueryEscape(req.ID))
}

func (p *Pages) showConsent(w http.ResponseWriter, r *http.Request) {
	req, c, ok := p.load(w, r)
	if !ok {
		return
	}
	b, in := p.SignedIn(r)
	if !in || !p.fresh(req, c, b) {
		redirect(w, r, "/login?request="+url.QueryEscape(req.ID))
		return
	}
	if !p.allowed(w, r, req, c, b) {
		return
	}
	host := c.Host()
	p.render(w, r, http.StatusOK, "consent", req.RedirectURI, view{
		Wants:  p.wants(r, req.Wanted()),
		Action: "/consent?request=" + url.QueryEscape(req.ID), App: c.Name(), Host: host, UserID: b.User.UserID, User: b.User, Open: req.DeviceID != "",
	})
}

// wants says what an application gets to know by scopes.
func (p *Pages) wants(r *http.Request, scopes []string) (out []string) {
	for _, s := range []string{"profile", "email", "groups", "offline_access"} {
		if s == "profile" || slices.Contains(scopes, s) {
			out = append(out, p.text(lang(r), "consent."+s))
		}
	}
	return out
}

func (p *Pages) doConsent(w http.ResponseWriter, r *http.Request) {
	req, c, ok := p.load(w, r)
	if !ok {
		return
	}
	b, in := p.SignedIn(r)
	if !in || !p.fresh(req, c, b) {
		redirect(w, r, "/login?request="+url.QueryEscape(req.ID))
		return
	}
	switch r.PostForm.Get("answer") {
	case "yes":
		if !p.allowed(w, r, req, c, b) {
			return
		}
		if err := p.Sessions.Remember(r.Context(), c, req, b.User.ID); err != nil {
			p.fail(w, r, err)
			return
		}
		p.agree(w, r, req, b)
	case "other":
		if !p.SignOut(w, r, b) {
			return
		}
		redirect(w, r, "/login?request="+url.QueryEscape(req.ID))
	default:
		if err := p.Sessions.End(r.Context(), req.ID, p.BrowserHash(r)); err != nil {
			p.fail(w, r, err)
			return
		}
		p.Refuse(w, r, req, "access_denied")
	}
}

func (p *Pages) showReauth(w http.ResponseWriter, r *http.Request) {
	b, in := p.SignedIn(r)
	if !in {
		redirect(w, r, "/login?"+url.Values{"next": {nextOr(r, "/account")}}.Encode())
		return
	}
	p.reauthForm(w, r, http.StatusOK, b, "")
}

func (p *Pages) reauthForm(w http.ResponseWriter, r *http.Request, status int, b account.Browser, problem string) {
	next := url.Values{"next": {nextOr(r, "/account")}}
	v := view{User: b.User, Action: "/reauth?" + next.Encode(), UserID: b.User.UserID, Username: b.User.Localpart, Error: problem, Password: b.User.HasPassword}
	err := p.Accounts.Local(r.Context(), b.User.ID)
	switch {
	case errors.Is(err, account.ErrElsewhere): // a passkey alone does not do where the password is the directory's
		v.Password, err = true, nil
	case err == nil:
		v.Factor.Alone = aloneAction(r, true)
		v.Factor.Options, err = p.passkeyOptions(w, r, person(b.User), false)
	}
	if err == nil && p.Upstreams != nil {
		var joined []upstream.Button
		joined, err = p.Upstreams.Joined(r.Context(), b.User.ID)
		next.Set(again, "1")
		for _, x := range joined {
			v.Upstreams = append(v.Upstreams, upstreamView{x.Name, "/upstream/" + x.ID + "/start?" + next.Encode()})
		}
	}
	if err != nil {
		p.fail(w, r, err)
		return
	}
	p.render(w, r, status, "reauth", "", v)
}

func (p *Pages) doReauth(w http.ResponseWriter, r *http.Request) {
	b, in := p.SignedIn(r)
	if !in {
		redirect(w, r, "/login?"+url.Values{"next": {nextOr(r, "/account")}}.Encode())
		return
	}
	u, err := p.Accounts.VerifyAt(r.Context(), b.User.Localpart, r.PostForm.Get("password"), p.at(r, b.User.Localpart))
	if err != nil {
		if status, text := p.attemptText(r, err); status != 0 {
			p.reauthForm(w, r, status, b, text)
			return
		}
		p.fail(w, r, err)
		return
	}
	if p.passed(w, r, u, "pwd") {
		redirect(w, r, nextOr(r, "/account"))
	}
}

// ssoTarget checks where a legacy login wants its token sent.
// Spec: cs#get_matrixclientv3loginssoredirect
func ssoTarget(s string) (*url.URL, bool) {
	u, err := url.Parse(s)
	if err != nil || len(s) > 2048 || u.User != nil || u.Fragment != "" || strings.ContainsAny(s, "\\\r\n\t ") {
		return nil, false
	}
	switch u.Scheme {
	case "", "javascript", "data", "vbscript", "file", "blob", "about":
		return nil, false
	case "http", "https":
		return u, u.Hostname() != ""
	}
	return u, true
}

func (p *Pages) sso(w http.ResponseWriter, r *http.Request) (*url.URL, account.Browser, bool) {
	u, ok := ssoTarget(r.URL.Query().Get("redirectUrl"))
	if !ok {
		p.message(w, r, http.StatusBadRequest, "badRedirect")
		return nil, account.Browser{}, false
	}
	b, in := p.SignedIn(r)
	if in {
		var err error
		if in, err = p.Enough(r.Context(), b); err != nil {
			p.fail(w, r, err)
			return nil, account.Browser{}, false
		}
	}
	if !in {
		redirect(w, r, "/login?"+url.Values{"next": {"/login/sso?" + r.URL.RawQuery}}.Encode())
		return nil, account.Browser{}, false
	}
	return u, b, true
}

// showSSO asks before a login token is given out: any page can send a browser here.
func (p *Pages) showSSO(w http.ResponseWriter, r *http.Request) {
	u, b, ok := p.sso(w, r)
	if !ok {
		return
	}
	host := u.Host
	if host == "" {
		host = u.Scheme
	}
	p.render(w, r, http.StatusOK, "sso", u.String(), view{Action: "/login/sso?" + r.URL.RawQuery, Host: host, UserID: b.User.UserID})
}

func (p *Pages) doSSO(w http.ResponseWriter, r *http.Request) {
	u, b, ok := p.sso(w, r)
	if !ok {
		return
	}
	if r.PostForm.Get("answer") == "other" {
		if !p.SignOut(w, r, b) {
			return
		}
		redirect(w, r, "/login?"+url.Values{"next": {"/login/sso?" + r.URL.RawQuery}}.Encode())
		return
	}
	token, err := p.Sessions.CreateLoginToken(r.Context(), b.User.ID, time.Minute)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	q := u.Query()
	q.Set("loginToken", token)
	u.RawQuery = q.Encode()
	redirect(w, r, u.String())
}
