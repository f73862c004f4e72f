package login

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"time"

	"holdfast/identity/account"
	"holdfast/identity/saml"
	"holdfast/identity/upstream"
)

// This file is the browser's side of SAML 2.0. Providers post their messages from pages of
// theirs, with which browsers send no cookies of ours; so such a post is believed for what
// the provider signed, and leads to a GET of ours that has the cookies and goes on.

const leavingCookie = "hf_leaving" // a sign-out at a provider that is on its way

const leavingFor = 10 * time.Minute

const maxSAML = 512 << 10 // a form with a message

// leaving is where a browser goes on to once it is signed out at a provider.
type leaving struct {
	Request string    `json:"r"`
	To      string    `json:"t,omitempty"`
	Until   time.Time `json:"u"`
}

// registerSAML adds the addresses that providers know. Their posts come from other sites
// and change nothing that the provider's signature does not ask for.
func (p *Pages) registerSAML(mux *http.ServeMux) {
	bounded := func(h http.HandlerFunc) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxSAML)
			if r.Method == http.MethodPost {
				if err := r.ParseForm(); err != nil {
					p.message(w, r, http.StatusBadRequest, "badForm")
					return
				}
			}
			h(w, r)
		})
	}
	mux.Handle("GET /upstream/{id}/acs", bounded(p.samlCome))
	mux.Handle("POST /upstream/{id}/acs", bounded(p.samlAnswer))
	mux.Handle("GET /upstream/{id}/slo", bounded(p.samlLogout))
	mux.Handle("POST /upstream/{id}/slo", bounded(p.samlLogout))
	mux.Handle("GET /upstream/{id}/metadata", bounded(p.samlMetadata))
	mux.Handle("GET /upstream/{id}/signed-out", bounded(p.upstreamLeft))
	mux.Handle("POST /upstream/{id}/backchannel-logout", bounded(p.backchannelLogout))
}

// backchannelLogout takes an OpenID provider's word that somebody signed out there.
// Spec: OpenID Connect Back-Channel Logout 1.0 section 2.8
func (p *Pages) backchannelLogout(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if p.Upstreams == nil {
		http.NotFound(w, r)
		return
	}
	id, v := r.PathValue("id"), r.PostForm["logout_token"]
	err := fmt.Errorf("%w: there is one logout token", upstream.ErrRefused)
	if len(v) == 1 {
		err = p.Upstreams.LeftOpenID(r.Context(), id, v[0])
	}
	status, code := http.StatusOK, ""
	switch {
	case err == nil:
		return
	case errors.Is(err, upstream.ErrNone):
		status, code = http.StatusNotFound, "invalid_request"
	case errors.Is(err, upstream.ErrRefused):
		p.Log.Warn("a logout of an upstream provider was refused", "upstream", id, "err", err)
		status, code = http.StatusBadRequest, "invalid_request"
	case errors.Is(err, upstream.ErrDown):
		status, code = http.StatusServiceUnavailable, "temporarily_unavailable"
	default:
		p.Log.Error("a logout of an upstream provider was not followed", "upstream", id, "err", err)
		status, code = http.StatusInternalServerError, "server_error"
	}
	h.Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":%q}`, code)
}

// startSAML sends the browser to a SAML provider.
func (p *Pages) startSAML(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if base := p.Upstreams.Base(id); p.Origin(r) != base && r.URL.Query().Get("moved") == "" {
		// The provider knows one address of here, and cookies belong to one.
		v := r.URL.Query()
		v.Set("moved", "1")
		redirect(w, r, base+"/upstream/"+id+"/start?"+v.Encode())
		return
	}
	to, asked, err := p.Upstreams.AskSAMLWithin(id, r.URL.RawQuery, p.within(r))
	if err != nil {
		p.failUpstream(w, r, err)
		return
	}
	if err := p.carry(w, r, upstreamCookie, asked, time.Until(asked.Until)+time.Minute); err != nil {
		p.fail(w, r, err)
		return
	}
	p.send(w, r, to)
}

// send sends the browser to a provider: by a redirect, or a form that a page of ours
// sends on.
func (p *Pages) send(w http.ResponseWriter, r *http.Request, to saml.Going) {
	if to.Form == nil {
		redirect(w, r, to.URL)
		return
	}
	l := lang(r)
	var buf bytes.Buffer
	err := formPost.Execute(&buf, map[string]any{"Lang": l, "Title": p.text(l, "samlPost.title"), "Go": p.text(l, "formPost.go"), "To": template.URL(to.URL), "Values": to.Form}) // #nosec: an address that an administrator set
	if err != nil {
		p.fail(w, r, err)
		return
	}
	SecurityHeaders(w, to.URL)
	h := w.Header()
	// A provider's sign-in may lead from host to host, which browsers hold against the form.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'sha256-"+submitHash+"'; form-action "+formSource(to.URL)+" https:; frame-ancestors 'none'; base-uri 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Type", "text/html; charset=utf-8")
	w.Write(buf.Bytes())
}

// samlAnswer takes a provider's answer.
func (p *Pages) samlAnswer(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	v := r.PostForm["SAMLResponse"]
	if p.Upstreams == nil || !p.Upstreams.IsSAML(id) {
		p.message(w, r, http.StatusNotFound, "upstreamNone")
		return
	}
	if len(v) != 1 {
		p.message(w, r, http.StatusBadRequest, "badRequest")
		return
	}
	if err := p.Upstreams.AnswerSAML(r.Context(), id, v[0]); err != nil {
		p.failUpstream(w, r, err)
		return
	}
	redirect(w, r, "/upstream/"+id+"/acs")
}

// samlCome signs in whom a provider's answer named, if it answers what this browser asked.
func (p *Pages) samlCome(w http.ResponseWriter, r *http.Request) {
	var asked upstream.Asked
	if p.Upstreams == nil || !p.carried(r, upstreamCookie, &asked) || asked.ID != r.PathValue("id") {
		p.message(w, r, http.StatusForbidden, "otherBrowser")
		return
	}
	p.setCookie(w, r, upstreamCookie, "", 0)
	who, err := p.Upstreams.Come(asked)
	if err != nil {
		p.failUpstream(w, r, err)
		return
	}
	p.enter(w, r, who, asked)
}

func (p *Pages) samlMetadata(w http.ResponseWriter, r *http.Request) {
	if p.Upstreams == nil {
		p.message(w, r, http.StatusNotFound, "upstreamNone")
		return
	}
	raw, err := p.Upstreams.Metadata(r.PathValue("id"))
	if err != nil {
		p.failUpstream(w, r, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/samlmetadata+xml")
	h.Set("Content-Disposition", `attachment; filename="metadata.xml"`)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.Write(raw)
}

// samlLogout takes a provider's sign-out, or its answer to ours; without either it is
// where the browser goes on after that answer.
func (p *Pages) samlLogout(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if p.Upstreams == nil || !p.Upstreams.IsSAML(id) {
		p.message(w, r, http.StatusNotFound, "upstreamNone")
		return
	}
	v := r.PostForm
	m := saml.Message{}
	if r.Method == http.MethodGet {
		v, m.Query = r.URL.Query(), r.URL.RawQuery
	}
	for _, k := range []string{"SAMLRequest", "SAMLResponse", "RelayState"} {
		if len(v[k]) > 1 {
			p.message(w, r, http.StatusBadRequest, "badRequest")
			return
		}
	}
	m.Request, m.Response, m.RelayState = v.Get("SAMLRequest"), v.Get("SAMLResponse"), v.Get("RelayState")
	switch {
	case m.Request != "":
		to, err := p.Upstreams.LeftSAML(r.Context(), id, m)
		if err != nil {
			p.failUpstream(w, r, err)
			return
		}
		p.send(w, r, to)
	case m.Response != "":
		request, err := p.Upstreams.EndedSAML(id, m)
		q := url.Values{"of": {request}}
		if errors.Is(err, upstream.ErrDenied) {
			q.Set("partly", "1")
		} else if err != nil {
			p.failUpstream(w, r, err)
			return
		}
		redirect(w, r, "/upstream/"+id+"/slo?"+q.Encode())
	default:
		p.samlLeft(w, r)
	}
}

// samlLeft goes on after a sign-out at a provider of SAML.
func (p *Pages) samlLeft(w http.ResponseWriter, r *http.Request) { p.left(w, r, "of") }

// upstreamLeft goes on after a sign-out at a provider of OpenID Connect.
func (p *Pages) upstreamLeft(w http.ResponseWriter, r *http.Request) { p.left(w, r, "state") }

// left goes on after a sign-out at a provider; a parameter names it.
func (p *Pages) left(w http.ResponseWriter, r *http.Request, parameter string) {
	var l leaving
	mine := p.carried(r, leavingCookie, &l) && l.Request == r.URL.Query().Get(parameter) && p.Now().Before(l.Until)
	p.setCookie(w, r, leavingCookie, "", 0)
	switch {
	case r.URL.Query().Get("partly") != "":
		p.message(w, r, http.StatusOK, "signedOutHere")
	case mine && l.To != "":
		redirect(w, r, l.To)
	default:
		p.message(w, r, http.StatusOK, "signedOut")
	}
}

// leave sends the browser on to the provider that its session came from, which ends its
// own; after that it goes on to an application, if one asked. It reports whether it did.
func (p *Pages) leave(w http.ResponseWriter, r *http.Request, to string) bool {
	l, ok := r.Context().Value(leavingKey{}).(upstream.Leaving)
	if !ok {
		return false
	}
	if err := p.carry(w, r, leavingCookie, leaving{l.Request, to, p.Now().Add(leavingFor)}, leavingFor); err != nil {
		p.Log.Error("where a browser goes on to after a sign-out could not be kept", "err", err)
	}
	p.send(w, r, l.To)
	return true
}

// leavingKey is the sign-out at a provider that follows from the one in a request.
type leavingKey struct{}

// remember keeps the session at a provider that the one in this browser came from.
func (p *Pages) remember(r *http.Request, b account.Browser) error {
	from, ok := r.Context().Value(fromKey{}).(upstream.From)
	if !ok || p.Upstreams == nil {
		return nil
	}
	return p.Upstreams.Began(r.Context(), b.User, b.SID, from)
}

// fromKey is the session at a provider by which somebody signs in during a request.
type fromKey struct{}

func withFrom(r *http.Request, from *upstream.From) {
	if from != nil {
		*r = *r.WithContext(context.WithValue(r.Context(), fromKey{}, *from))
	}
}
