package login

import (
	"errors"
	"net/http"
	"net/url"

	"holdfast/identity/account"
	"holdfast/identity/opstore"
	"holdfast/identity/register"
)

// This file has the pages where somebody confirms a device that waits to be signed
// in: they enter its code, or come by a link that has it, and see who asks.
// Spec: RFC 8628 section 3.3

// linkPath is the page of a code.
func linkPath(code string) string {
	if code == "" {
		return "/link"
	}
	return "/link?" + url.Values{"user_code": {code}}.Encode()
}

func (p *Pages) linkForm(w http.ResponseWriter, r *http.Request, status int, code, problem string) {
	p.askCode(w, r, status, codeForm{"link", "/link", "user_code", "one-time-code", 32}, code, problem)
}

// showLink asks for a code, or shows what waits under the one in the address.
func (p *Pages) showLink(w http.ResponseWriter, r *http.Request) {
	typed := r.URL.Query().Get("user_code")
	if len(typed) > 64 {
		typed = ""
	}
	b, in := p.SignedIn(r)
	if !in {
		redirect(w, r, "/login?"+url.Values{"next": {linkPath(typed)}}.Encode())
		return
	}
	if typed == "" {
		p.linkForm(w, r, http.StatusOK, "", "")
		return
	}
	code, g, ok := p.waiting(w, r, b, typed)
	if !ok || !p.freshLink(w, r, b, code) {
		return
	}
	c, err := p.Clients.Client(r.Context(), g.ClientID)
	if errors.Is(err, register.ErrNoClient) {
		p.linkForm(w, r, http.StatusGone, "", p.text(lang(r), "link.gone"))
		return
	}
	if err != nil {
		p.fail(w, r, err)
		return
	}
	p.render(w, r, http.StatusOK, "linkconfirm", "", view{Action: "/link", Code: opstore.ShowUserCode(code), App: c.Name(), Host: c.Host(), UserID: b.User.UserID,
		From: g.Address, Agent: g.Agent, Asked: g.Created.UTC().Format("2006-01-02 15:04 UTC"), Device: g.DeviceID, Open: g.DeviceID != ""})
}

// waiting finds the device that waits under a code. It answers itself when there is
// none: after too many such codes, more slowly.
func (p *Pages) waiting(w http.ResponseWriter, r *http.Request, b account.Browser, typed string) (code string, g *opstore.Grant, ok bool) {
	err := p.Accounts.Guess(r.Context(), b.User, address(r), func() (bool, error) {
		var well bool
		if code, well = opstore.ParseUserCode(typed); !well {
			return false, nil
		}
		var err error
		g, err = p.Sessions.Grant(r.Context(), code)
		if errors.Is(err, opstore.ErrNoRequest) {
			return false, nil
		}
		return err == nil, err
	})
	var slow *account.SlowDown
	switch {
	case errors.As(err, &slow):
		p.linkForm(w, r, http.StatusTooManyRequests, typed, p.text(lang(r), "login.slow", "seconds", secondsUp(slow.Wait)))
	case err != nil:
		p.fail(w, r, err)
	case g == nil:
		p.linkForm(w, r, http.StatusNotFound, typed, p.text(lang(r), "link.unknown"))
	default:
		return code, g, true
	}
	return "", nil, false
}

// freshLink has the person prove anew who they are, if they did not lately: whoever
// finds a browser open must not get a device signed in.
func (p *Pages) freshLink(w http.ResponseWriter, r *http.Request, b account.Browser, code string) bool {
	enough, err := p.Enough(r.Context(), b)
	if err == nil && !enough {
		redirect(w, r, "/login?"+url.Values{"next": {linkPath(opstore.ShowUserCode(code))}}.Encode())
		return false
	}
	fresh := false
	if err == nil {
		fresh, err = p.Fresh(r.Context(), b)
	}
	if err != nil {
		p.fail(w, r, err)
		return false
	}
	if fresh {
		return true
	}
	redirect(w, r, "/reauth?"+url.Values{"next": {linkPath(opstore.ShowUserCode(code))}}.Encode())
	return false
}

// doLink takes a code that was typed to its page, and there the answer.
func (p *Pages) doLink(w http.ResponseWriter, r *http.Request) {
	typed, said := r.PostForm.Get("user_code"), r.PostForm.Get("answer")
	if len(typed) > 64 {
		typed = typed[:64]
	}
	if said == "" {
		redirect(w, r, linkPath(typed))
		return
	}
	b, in := p.SignedIn(r)
	if said == "other" {
		if in && !p.SignOut(w, r, b) {
			return
		}
		in = false
	}
	if !in {
		redirect(w, r, "/login?"+url.Values{"next": {linkPath(typed)}}.Encode())
		return
	}
	code, _, ok := p.waiting(w, r, b, typed)
	if !ok || said == "yes" && !p.freshLink(w, r, b, code) {
		return
	}
	err := p.Sessions.Decide(r.Context(), code, b, said == "yes")
	switch {
	case errors.Is(err, opstore.ErrNoRequest): // another was quicker
		p.linkForm(w, r, http.StatusGone, "", p.text(lang(r), "link.gone"))
	case err != nil:
		p.fail(w, r, err)
	case said == "yes":
		p.message(w, r, http.StatusOK, "linkDone")
	default:
		p.message(w, r, http.StatusOK, "linkDeclined")
	}
}
