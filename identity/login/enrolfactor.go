package login

import (
	"context"
	"net/http"
	"time"

	"holdfast/identity/account"
	"holdfast/identity/factor"
)

// This file has the pages where somebody adds a second factor before a session starts,
// because the rules of the appliance want one.

// enrolFor is how long somebody who passed the first factor has to add the second: an
// app may have to be installed first.
const enrolFor = 30 * time.Minute

// Demand is what the rules of the appliance want of somebody.
type Demand struct {
	Wanted bool      // a second factor
	Due    time.Time // from when on there is no signing in without
}

// Overdue reports whether it cannot be put off any more.
func (d Demand) Overdue(now time.Time) bool { return d.Wanted && !now.Before(d.Due) }

func (p *Pages) demand(ctx context.Context, u account.User) (Demand, error) {
	if p.Demand == nil {
		return Demand{}, nil
	}
	return p.Demand(ctx, u)
}

// Enough reports whether a browser's session satisfies the rules: one that began before
// they did goes on, but opens nothing new.
func (p *Pages) Enough(ctx context.Context, b account.Browser) (bool, error) {
	if b.Strong() {
		return true, nil
	}
	d, err := p.demand(ctx, b.User)
	return err == nil && !d.Overdue(p.Now()), err
}

// asksToEnrol reports whether somebody without a second factor is led to the page that
// adds one. Who could put it off and is signed in here already was asked then.
func (p *Pages) asksToEnrol(r *http.Request, u account.User, methods []string) (bool, error) {
	d, err := p.demand(r.Context(), u)
	if err != nil || !d.Wanted || (account.Browser{Methods: methods}).Strong() {
		return false, err
	}
	b, in := p.SignedIn(r)
	return d.Overdue(p.Now()) || !in || b.User.ID != u.ID, nil
}

// showDemand fills in what the rules want.
func (p *Pages) showDemand(r *http.Request, u account.User, v *factorView) error {
	d, err := p.demand(r.Context(), u)
	v.Wanted = d.Wanted
	if d.Wanted && !d.Overdue(p.Now()) {
		v.Due = d.Due.UTC().Format("2006-01-02")
	}
	return err
}

// enrols is who may add their first second factor in this browser. It leads on where
// that is nobody, or somebody who has one by now.
func (p *Pages) enrols(w http.ResponseWriter, r *http.Request) (x pending, u account.User, ok bool) {
	x, u, ok = p.waits(w, r)
	if !ok {
		return x, u, false
	}
	has, err := p.Factors.Of(r.Context(), u.ID)
	if err != nil {
		p.fail(w, r, err)
		return x, u, false
	}
	if has.Any() { // only who has it in hand may go on
		redirect(w, r, p.secondPath(r, has)+"?"+r.URL.RawQuery)
		return x, u, false
	}
	return x, u, true
}

func (p *Pages) showEnrol(w http.ResponseWriter, r *http.Request) {
	if _, u, ok := p.enrols(w, r); ok {
		p.enrolPage(w, r, http.StatusOK, u, "")
	}
}

func (p *Pages) enrolPage(w http.ResponseWriter, r *http.Request, status int, u account.User, problem string) {
	v := p.secondView(r, u, factor.State{}, problem)
	v.Action = "/login/enrol?" + r.URL.RawQuery
	v.Factor.Here, v.Factor.Address = p.Factors.PasskeysAt(p.Origin(r)), p.passkeyAddress()
	if err := p.showDemand(r, u, &v.Factor); err != nil {
		p.fail(w, r, err)
		return
	}
	p.render(w, r, status, "enrolfactor", "", v)
}

// doEnrolLater signs in somebody who may put it off.
func (p *Pages) doEnrolLater(w http.ResponseWriter, r *http.Request) {
	x, u, ok := p.enrols(w, r)
	if !ok {
		return
	}
	d, err := p.demand(r.Context(), u)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	if d.Overdue(p.Now()) {
		p.enrolPage(w, r, http.StatusForbidden, u, p.text(lang(r), "enrolfactor.now"))
		return
	}
	p.setCookie(w, r, pendingCookie, "", 0)
	if err := p.SignIn(w, r, u, x.Methods...); err != nil {
		p.fail(w, r, err)
		return
	}
	p.onward(w, r)
}

func (p *Pages) showEnrolApp(w http.ResponseWriter, r *http.Request) {
	if _, u, ok := p.enrols(w, r); ok {
		p.addApp(w, r, http.StatusOK, u, factor.NewSecret(), enrolPath("/app", r), enrolPath("", r), "")
	}
}

func enrolPath(way string, r *http.Request) string {
	return "/login/enrol" + way + "?" + r.URL.RawQuery
}

func (p *Pages) doEnrolApp(w http.ResponseWriter, r *http.Request) {
	x, u, ok := p.enrols(w, r)
	if !ok {
		return
	}
	if codes, ok := p.addedApp(w, r, u, enrolPath("/app", r), enrolPath("", r)); ok {
		p.enrolled(w, r, u, codes, "security.appAdded", with(x.Methods, "otp", "mfa")...)
	}
}

func (p *Pages) addAtSignIn(w http.ResponseWriter, r *http.Request, u account.User) adding {
	return adding{u, enrolPath("/passkey", r), enrolPath("", r), func(problem string) { p.enrolPage(w, r, http.StatusConflict, u, problem) }}
}

func (p *Pages) showEnrolPasskey(w http.ResponseWriter, r *http.Request) {
	if _, u, ok := p.enrols(w, r); ok {
		p.addPasskeyPage(w, r, http.StatusOK, p.addAtSignIn(w, r, u), "", "")
	}
}

func (p *Pages) doEnrolPasskey(w http.ResponseWriter, r *http.Request) {
	x, u, ok := p.enrols(w, r)
	if !ok {
		return
	}
	if proved, codes, ok := p.addedPasskey(w, r, p.addAtSignIn(w, r, u)); ok {
		p.enrolled(w, r, u, codes, "security.passkeyAdded", with(x.Methods, append(proved, "mfa")...)...)
	}
}

// enrolled signs in who has a second factor now, and shows the recovery codes.
func (p *Pages) enrolled(w http.ResponseWriter, r *http.Request, u account.User, codes []string, notice string, methods ...string) {
	p.setCookie(w, r, pendingCookie, "", 0)
	if err := p.SignIn(w, r, u, methods...); err != nil {
		p.fail(w, r, err)
		return
	}
	if codes == nil {
		p.onward(w, r)
		return
	}
	p.codesPage(w, r, u, codes, p.text(lang(r), notice), onwardTo(r))
}
