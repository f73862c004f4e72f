package login

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"holdfast/identity/account"
	"holdfast/identity/upstream"
)

// This file signs people in with other providers.

const (
	upstreamCookie = "hf_upstream" // what a sign-in elsewhere began with
	joinCookie     = "hf_join"     // who signed in elsewhere, and has an account here to prove
)

const (
	joinFor    = 10 * time.Minute
	maxCarried = 1024 // of the sign-in page's query
)

// joining is somebody who was signed in elsewhere and has to prove a local account.
type joining struct {
	Person upstream.Person `json:"p"`
	At     time.Time       `json:"t"`
}

// carried reads what a cookie of ours keeps for this browser, and this process sealed.
func (p *Pages) carried(r *http.Request, name string, v any) bool {
	full, _ := p.cookieName(r, name)
	c, err := r.Cookie(full)
	return err == nil && len(c.Value) <= 4000 && p.unsealed(name, c.Value, v)
}

func (p *Pages) carry(w http.ResponseWriter, r *http.Request, name string, v any, age time.Duration) error {
	text, err := p.sealed(name, v)
	if err == nil {
		p.setCookie(w, r, name, text, age)
	}
	return err
}

// upstreams are the buttons of the sign-in page.
func (p *Pages) upstreams(r *http.Request) (out []upstreamView) {
	if p.Upstreams == nil {
		return nil
	}
	q := url.Values{}
	for _, k := range []string{"request", "next"} {
		if v := r.URL.Query().Get(k); v != "" && len(v) < maxCarried {
			q.Set(k, v)
		}
	}
	for _, b := range p.Upstreams.Buttons() {
		out = append(out, upstreamView{b.Name, "/upstream/" + b.ID + "/start?" + q.Encode()})
	}
	return out
}

type upstreamView struct{ Name, URL string }

// startUpstream sends the browser to a provider. What it has to come back with is kept in
// a cookie, so that no other browser's answer is taken and nothing is stored.
func (p *Pages) startUpstream(w http.ResponseWriter, r *http.Request) {
	if p.Upstreams == nil || len(r.URL.RawQuery) > 2*maxCarried {
		p.message(w, r, http.StatusNotFound, "upstreamNone")
		return
	}
	id := r.PathValue("id")
	if p.Upstreams.IsSAML(id) {
		p.startSAML(w, r)
		return
	}
	to, asked, err := p.Upstreams.AskWithin(r.Context(), id, p.Origin(r)+"/upstream/"+id+"/callback", r.URL.RawQuery, p.within(r))
	if err != nil {
		p.failUpstream(w, r, err)
		return
	}
	if err := p.carry(w, r, upstreamCookie, asked, time.Until(asked.Until)+time.Minute); err != nil {
		p.fail(w, r, err)
		return
	}
	redirect(w, r, to)
}

// again is in the query of a sign-in at a provider that only confirms who is signed in here.
const again = "again"

// within is the time within which somebody must have proved at the provider who they are:
// because we want it, or the application that they sign in to.
func (p *Pages) within(r *http.Request) time.Duration {
	q := r.URL.Query()
	if q.Get(again) != "" {
		return 0
	}
	if !q.Has("request") {
		return upstream.AnyTime
	}
	req, err := p.Sessions.Request(r.Context(), q.Get("request"), p.BrowserHash(r))
	switch {
	case err != nil: // the sign-in page says so
	case slices.Contains(req.Prompt, "login"):
		return 0
	case req.MaxAge != nil:
		return time.Duration(*req.MaxAge) * time.Second
	}
	return upstream.AnyTime
}

func (p *Pages) failUpstream(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, upstream.ErrNone):
		p.message(w, r, http.StatusNotFound, "upstreamNone")
	case errors.Is(err, upstream.ErrDown):
		p.Log.Warn("an upstream provider gave no answer", "upstream", r.PathValue("id"), "err", err)
		p.message(w, r, http.StatusServiceUnavailable, "upstreamDown")
	case errors.Is(err, upstream.ErrDenied):
		p.message(w, r, http.StatusForbidden, "upstreamDenied")
	case errors.Is(err, upstream.ErrRefused):
		p.Log.Warn("the answer of an upstream provider was refused", "upstream", r.PathValue("id"), "err", err)
		p.message(w, r, http.StatusBadRequest, "upstreamRefused")
	case errors.Is(err, upstream.ErrStale):
		p.Log.Warn("an upstream provider did not have somebody prove anew who they are", "upstream", r.PathValue("id"), "err", err)
		p.message(w, r, http.StatusForbidden, "upstreamStale")
	case errors.Is(err, upstream.ErrNoName):
		p.message(w, r, http.StatusForbidden, "upstreamNoName")
	case errors.Is(err, upstream.ErrNotAdmitted):
		p.Log.Warn("somebody of an upstream provider may not come in", "upstream", r.PathValue("id"), "err", err)
		p.message(w, r, http.StatusForbidden, "upstreamNotAdmitted")
	case errors.Is(err, upstream.ErrClosed):
		p.message(w, r, http.StatusForbidden, "upstreamClosed")
	default:
		p.fail(w, r, err)
	}
}

// upstreamCallback takes a provider's answer.
func (p *Pages) upstreamCallback(w http.ResponseWriter, r *http.Request) {
	var asked upstream.Asked
	if p.Upstreams == nil || !p.carried(r, upstreamCookie, &asked) || asked.ID != r.PathValue("id") {
		p.message(w, r, http.StatusForbidden, "otherBrowser")
		return
	}
	p.setCookie(w, r, upstreamCookie, "", 0)
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || len(r.URL.RawQuery) > maxForm {
		p.message(w, r, http.StatusBadRequest, "badRequest")
		return
	}
	who, err := p.Upstreams.Answered(r.Context(), asked, v)
	if err != nil {
		p.failUpstream(w, r, err)
		return
	}
	p.enter(w, r, who, asked)
}

// enter signs in whom a provider named, or leads to where a local account is proved.
func (p *Pages) enter(w http.ResponseWriter, r *http.Request, who upstream.Person, asked upstream.Asked) {
	if q, err := url.ParseQuery(asked.Query); err == nil && q.Get(again) != "" && !p.sameAgain(w, r, who, asked) {
		return
	}
	u, err := p.Upstreams.Account(r.Context(), who)
	if errors.Is(err, upstream.ErrTaken) {
		if err := p.carry(w, r, joinCookie, joining{who, p.Now()}, joinFor); err != nil {
			p.fail(w, r, err)
			return
		}
		redirect(w, r, "/login?"+url.Values{"next": {"/upstream/join"}, "hint": {who.Name}}.Encode())
		return
	}
	if err == nil {
		err = u.Err()
	}
	switch {
	case errors.Is(err, account.ErrLocked), errors.Is(err, account.ErrDeactivated):
		_, text := p.attemptText(r, err)
		p.loginForm(w, r, http.StatusForbidden, nil, nil, "", text)
		return
	case err != nil:
		p.failUpstream(w, r, err)
		return
	}
	r.URL.RawQuery = asked.Query
	withFrom(r, who.From)
	methods := []string{"fed"}
	if who.MFA {
		methods = append(methods, "mfa")
	}
	if !p.passed(w, r, u, methods...) {
		return
	}
	if id := r.URL.Query().Get("request"); id != "" {
		redirect(w, r, "/login?request="+url.QueryEscape(id))
		return
	}
	redirect(w, r, nextOr(r, "/account"))
}

// sameAgain reports whether a provider confirmed the person who is signed in. It answers
// itself when not: nobody else is signed in by that, and no account is made.
func (p *Pages) sameAgain(w http.ResponseWriter, r *http.Request, who upstream.Person, asked upstream.Asked) bool {
	r.URL.RawQuery = asked.Query
	b, in := p.SignedIn(r)
	if !in {
		redirect(w, r, "/login?"+url.Values{"next": {nextOr(r, "/account")}}.Encode())
		return false
	}
	same, err := p.Upstreams.Is(r.Context(), who, b.User.ID)
	if err != nil {
		p.fail(w, r, err)
		return false
	}
	if !same {
		p.reauthForm(w, r, http.StatusForbidden, b, p.text(lang(r), "reauth.other", "user", b.User.UserID))
	}
	return same
}

// joinable is who signed in elsewhere, and the local account that was proved since. It
// leads to what is missing.
func (p *Pages) joinable(w http.ResponseWriter, r *http.Request) (j joining, b account.Browser, ok bool) {
	if p.Upstreams == nil || !p.carried(r, joinCookie, &j) || p.Now().Sub(j.At) > joinFor {
		p.message(w, r, http.StatusBadRequest, "expired")
		return j, b, false
	}
	b, in := p.SignedIn(r)
	next := url.Values{"next": {"/upstream/join"}}
	switch {
	case !in:
		next.Set("hint", j.Person.Name)
		redirect(w, r, "/login?"+next.Encode())
		return j, b, false
	case b.AuthTime.Before(j.At): // whoever sits at this browser need not be its owner
		redirect(w, r, "/reauth?"+next.Encode())
		return j, b, false
	}
	return j, b, true
}

func (p *Pages) showJoin(w http.ResponseWriter, r *http.Request) {
	j, b, ok := p.joinable(w, r)
	if !ok {
		return
	}
	p.render(w, r, http.StatusOK, "join", "", view{Action: "/upstream/join", UserID: b.User.UserID, Username: j.Person.Name, Host: hostOf(j.Person.Issuer)})
}

func hostOf(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return s // an entity ID of SAML need not be an address
	}
	return u.Host
}

func (p *Pages) doJoin(w http.ResponseWriter, r *http.Request) {
	j, b, ok := p.joinable(w, r)
	if !ok {
		return
	}
	p.setCookie(w, r, joinCookie, "", 0)
	if r.PostForm.Get("answer") == "yes" {
		if err := p.Upstreams.Join(r.Context(), j.Person, b.User); err != nil {
			p.fail(w, r, err)
			return
		}
	}
	redirect(w, r, "/account")
}
