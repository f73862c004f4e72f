package login

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"holdfast/identity/account"
	"holdfast/identity/guess"
	"holdfast/identity/opstore"
)

// showInvite shows an invite. It does not use it up: link previews fetch links.
func (p *Pages) showInvite(w http.ResponseWriter, r *http.Request) {
	inv, err := p.Accounts.InviteByToken(r.Context(), r.PathValue("token"))
	if err != nil {
		p.fail(w, r, err)
		return
	}
	p.enrolForm(w, r, http.StatusOK, inv, inv.Localpart, "", "")
}

func (p *Pages) enrolForm(w http.ResponseWriter, r *http.Request, status int, inv account.Invite, name, display, problem string) {
	if inv.Localpart != "" {
		name = inv.Localpart
	}
	p.render(w, r, status, "invite", "", view{Action: r.URL.RequestURI(), Username: name, DisplayName: display, Fixed: inv.Localpart != "", Error: problem,
		NeedsPIN: inv.PIN, PIN: r.PostForm.Get("pin")})
}

func (p *Pages) doInvite(w http.ResponseWriter, r *http.Request) {
	token := r.PathValue("token")
	inv, err := p.Accounts.InviteByToken(r.Context(), token)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	u, ok := p.enrol(w, r, inv, token, "invite")
	if !ok {
		return
	}
	if !p.passed(w, r, u, "pwd") {
		return
	}
	p.render(w, r, http.StatusOK, "welcome", "", view{UserID: u.UserID, User: u})
}

// enrol makes the account that the form describes. It answers itself when that fails.
func (p *Pages) enrol(w http.ResponseWriter, r *http.Request, inv account.Invite, token, source string) (account.User, bool) {
	l := lang(r)
	name, display := r.PostForm.Get("username"), r.PostForm.Get("display_name")
	if inv.Localpart != "" {
		name = inv.Localpart
	}
	said := func(status int, text string) (account.User, bool) {
		p.enrolForm(w, r, status, inv, name, display, text)
		return account.User{}, false
	}
	again := func(status int, key string) (account.User, bool) { return said(status, p.text(l, key)) }
	if len(display) > 256 {
		return again(http.StatusBadRequest, "invite.longName")
	}
	if r.PostForm.Get("password") != r.PostForm.Get("password2") {
		return again(http.StatusBadRequest, "invite.mismatch")
	}
	if display == "" {
		display = name
	}
	u, err := p.Accounts.Create(r.Context(), account.NewUser{Localpart: name, DisplayName: display, Password: r.PostForm.Get("password"), Invite: token, PIN: r.PostForm.Get("pin"), Source: source})
	if status, text := p.pinText(r, err); status != 0 {
		p.enrolForm(w, r, status, inv, name, display, text)
		return account.User{}, false
	}
	switch {
	case err == nil:
		return u, true
	case errors.Is(err, account.ErrUserExists), errors.Is(err, account.ErrReserved):
		return again(http.StatusConflict, "invite.taken")
	case errors.Is(err, account.ErrBadName):
		return again(http.StatusBadRequest, "invite.badName")
	case errors.Is(err, account.ErrWeakPassword):
		return said(http.StatusBadRequest, p.weakText(r, err))
	}
	p.fail(w, r, err)
	return account.User{}, false
}

// weakText is what is said about a password that is not taken.
func (p *Pages) weakText(r *http.Request, err error) string {
	l := lang(r)
	var weak *account.WeakPassword
	switch {
	case errors.As(err, &weak) && weak.Why != guess.Fine:
		return p.text(l, "invite.weak."+string(weak.Why))
	case weak != nil && weak.Least == 0:
		return p.text(l, "invite.long")
	}
	return p.text(l, "invite.weak", "least", strconv.Itoa(p.Accounts.LeastPassword()))
}

// showCreate is where an application sends people who have no account (prompt=create).
func (p *Pages) showCreate(w http.ResponseWriter, r *http.Request) {
	req, _, ok := p.load(w, r)
	if !ok {
		return
	}
	if !p.RegistrationOpen {
		p.needInvite(w, r, req)
		return
	}
	p.enrolForm(w, r, http.StatusOK, account.Invite{}, "", "", "")
}

// needInvite says who makes accounts here; whoever has one can go on with the sign-in.
func (p *Pages) needInvite(w http.ResponseWriter, r *http.Request, req *opstore.Request) {
	l := lang(r)
	p.render(w, r, http.StatusForbidden, "message", "", view{Title: p.text(l, "needInvite.title"), Message: p.text(l, "needInvite.text"),
		Next: "/login?request=" + url.QueryEscape(req.ID)})
}

func (p *Pages) doCreate(w http.ResponseWriter, r *http.Request) {
	req, _, ok := p.load(w, r)
	if !ok {
		return
	}
	if !p.RegistrationOpen {
		p.needInvite(w, r, req)
		return
	}
	u, ok := p.enrol(w, r, account.Invite{}, "", "register")
	if !ok {
		return
	}
	if !p.passed(w, r, u, "pwd") {
		return
	}
	redirect(w, r, "/login?request="+url.QueryEscape(req.ID))
}
