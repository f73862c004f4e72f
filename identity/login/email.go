package login

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"holdfast/identity/account"
)

// Mailer sends e-mail.
type Mailer interface {
	// Ready reports whether a mail server is set.
	Ready() bool
	Send(ctx context.Context, to, subject, text string) error
}

func (p *Pages) mailReady() bool { return p.Mail != nil && p.Mail.Ready() }

// mailed sends a link for a request to prove an address. path is the page that the
// link opens. It reports what to tell the person who asked; "" where all went well.
func (p *Pages) mailed(r *http.Request, q account.EmailRequest, path string) (status int, problem string, err error) {
	l := lang(r)
	if wait := p.MayMail(r); wait > 0 {
		return http.StatusTooManyRequests, p.text(l, "login.slow", "seconds", secondsUp(wait)), nil
	}
	ctx := context.WithoutCancel(r.Context()) // a mail that went out is one that went out
	t, err := p.Accounts.BeginEmail(ctx, q)
	var slow *account.SlowDown
	if errors.As(err, &slow) {
		return http.StatusTooManyRequests, p.text(l, "email.slow"), nil
	}
	if err != nil || !t.Send {
		return 0, "", err
	}
	key := "mail." + q.Purpose
	if q.Purpose == account.ProofAdd {
		key = "mail.addOnPage"
	}
	if t.Token == "" {
		key = "mail.taken"
		if q.Purpose == account.ProofReset {
			key = "mail.unknown"
		}
	}
	link := p.Origin(r) + path + "?" + url.Values{"sid": {t.SID}, "token": {t.Token}}.Encode()
	fill := strings.NewReplacer("{server}", p.ServerName, "{address}", q.Address, "{user}", t.Owner.UserID, "{link}", link, "{hours}", strconv.Itoa(int(account.ProofFor/time.Hour)))
	if err := p.Mail.Send(ctx, q.Address, fill.Replace(p.Text(l, key+".subject")), fill.Replace(p.Text(l, key+".text"))+"\n"); err != nil {
		p.Log.Warn("an e-mail could not be sent; holdfast mail test finds out more", "err", err)
		return http.StatusBadGateway, p.text(l, "email.notSent"), p.Accounts.EmailNotSent(ctx, t)
	}
	return 0, "", nil
}

// nameOf is the user name of who typed it, or an e-mail address instead. An address
// that is nobody's stays as it is: as a name it is nobody's either.
func (p *Pages) nameOf(ctx context.Context, typed string) (string, error) {
	to, err := account.CanonicalEmail(strings.TrimSpace(typed))
	if err != nil || strings.HasPrefix(to, "@") {
		return typed, nil
	}
	u, err := p.Accounts.EmailOwner(ctx, to)
	if errors.Is(err, account.ErrNoUser) {
		return typed, nil
	}
	return u.Localpart, err
}

// showForgot asks for the address of somebody who forgot the password.
func (p *Pages) showForgot(w http.ResponseWriter, r *http.Request) {
	if !p.mailReady() {
		p.message(w, r, http.StatusNotFound, "noMail")
		return
	}
	p.render(w, r, http.StatusOK, "forgot", "", view{})
}

// doForgot mails a link with which a new password can be set. The answer does not tell
// whether the address belongs to an account: the mail does.
func (p *Pages) doForgot(w http.ResponseWriter, r *http.Request) {
	if !p.mailReady() {
		p.message(w, r, http.StatusNotFound, "noMail")
		return
	}
	typed := strings.TrimSpace(r.PostForm.Get("email"))
	again := func(status int, problem string) {
		p.render(w, r, status, "forgot", "", view{Address: typed, Error: problem})
	}
	to, err := account.CanonicalEmail(typed)
	if err != nil {
		again(http.StatusBadRequest, p.text(lang(r), "email.wrong"))
		return
	}
	status, problem, err := p.mailed(r, account.EmailRequest{Purpose: account.ProofReset, Address: to, Secret: rand.Text(), Attempt: 1}, "/login/forgot/new")
	switch {
	case err != nil:
		p.fail(w, r, err)
	case problem != "":
		again(status, problem)
	default:
		l := lang(r)
		p.render(w, r, http.StatusOK, "message", "", view{Title: p.text(l, "forgot.sent.title"), Message: p.text(l, "forgot.sent.text", "address", to)})
	}
}

// proof finds what a mail's link is about. It answers itself when that is nothing.
func (p *Pages) proof(w http.ResponseWriter, r *http.Request, purpose, sid, token string) (account.EmailProof, bool) {
	e, err := p.Accounts.EmailByToken(r.Context(), sid, token)
	if err == nil && e.Purpose == purpose {
		return e, true
	}
	if err == nil || errors.Is(err, account.ErrEmailToken) || errors.Is(err, account.ErrEmailExpired) {
		p.message(w, r, http.StatusGone, "mailGone")
		return e, false
	}
	p.fail(w, r, err)
	return e, false
}

// showNewPassword is where the mail's link leads. It uses nothing up: mail programs and
// scanners follow links.
func (p *Pages) showNewPassword(w http.ResponseWriter, r *http.Request) {
	sid, token := r.URL.Query().Get("sid"), r.URL.Query().Get("token")
	if e, ok := p.proof(w, r, account.ProofReset, sid, token); ok {
		p.newPasswordForm(w, r, http.StatusOK, e, token, "")
	}
}

func (p *Pages) newPasswordForm(w http.ResponseWriter, r *http.Request, status int, e account.EmailProof, token, problem string) {
	// The address of the page has the token in it, and is told to nobody.
	p.render(w, r, status, "newpassword", "", view{User: e.Owner, UserID: e.Owner.UserID, SID: e.SID, Token: token, Error: problem})
}

func (p *Pages) doNewPassword(w http.ResponseWriter, r *http.Request) {
	sid, token := r.PostForm.Get("sid"), r.PostForm.Get("token")
	e, ok := p.proof(w, r, account.ProofReset, sid, token)
	if !ok {
		return
	}
	l, password := lang(r), r.PostForm.Get("password")
	if password != r.PostForm.Get("password2") {
		p.newPasswordForm(w, r, http.StatusBadRequest, e, token, p.text(l, "invite.mismatch"))
		return
	}
	// What cannot be a password must not cost the link.
	if err := p.Accounts.CheckPassword(password, e.Owner.Localpart, e.Owner.DisplayName); err != nil {
		p.newPasswordForm(w, r, http.StatusBadRequest, e, token, p.weakText(r, err))
		return
	}
	u, err := p.Accounts.UseReset(r.Context(), sid, token)
	if errors.Is(err, account.ErrEmailToken) || errors.Is(err, account.ErrEmailExpired) { // another was quicker
		p.message(w, r, http.StatusGone, "mailGone")
		return
	}
	if err == nil {
		err = p.SetPassword(r.Context(), u, password, nil, r.PostForm.Get("end_others") != "")
	}
	if err != nil {
		p.fail(w, r, err)
		return
	}
	p.Log.Info("a forgotten password was set anew by e-mail", "user", u.UserID)
	p.render(w, r, http.StatusOK, "newpassworddone", "", view{User: u, UserID: u.UserID})
}

// pageSecret is the secret of proofs that the account page begins: only who is signed
// in as the same account can use them. Clients of the API cannot choose such a one.
func pageSecret(u account.User) string { return "page:" + u.ID }

// doEmail mails a link with which a signed-in person adds an address. Whoever has the
// address can set the password, so the sign-in has to be fresh.
func (p *Pages) doEmail(w http.ResponseWriter, r *http.Request) {
	b, ok := p.stepUp(w, r)
	if !ok {
		return
	}
	l := lang(r)
	again := func(status int, problem string) { p.accountPage(w, r, status, "account", b, problem, "") }
	if kept, err := p.Kept(r.Context(), b.User.UserID); err != nil || kept.Email {
		if err != nil {
			p.fail(w, r, err)
			return
		}
		again(http.StatusForbidden, p.text(l, "account.emailKept"))
		return
	}
	if !p.mailReady() {
		again(http.StatusNotFound, p.text(l, "noMail.text"))
		return
	}
	to, err := account.CanonicalEmail(strings.TrimSpace(r.PostForm.Get("email")))
	if err != nil {
		again(http.StatusBadRequest, p.text(l, "email.wrong"))
		return
	}
	if _, err := p.Accounts.EmailOwner(r.Context(), to); !errors.Is(err, account.ErrNoUser) {
		if err != nil {
			p.fail(w, r, err)
			return
		}
		again(http.StatusConflict, p.text(l, "email.taken"))
		return
	}
	status, problem, err := p.mailed(r, account.EmailRequest{Purpose: account.ProofAdd, Address: to, Secret: pageSecret(b.User), Attempt: p.Now().UnixMilli()}, "/account/email")
	switch {
	case err != nil:
		p.fail(w, r, err)
	case problem != "":
		again(status, problem)
	default:
		p.accountPage(w, r, http.StatusOK, "account", b, "", p.text(l, "account.emailSent", "address", to))
	}
}

// showEmail is where the link of that mail leads.
func (p *Pages) showEmail(w http.ResponseWriter, r *http.Request) {
	sid, token := r.URL.Query().Get("sid"), r.URL.Query().Get("token")
	e, ok := p.proof(w, r, account.ProofAdd, sid, token)
	if !ok {
		return
	}
	if b, ok := p.stepUp(w, r); ok {
		p.render(w, r, http.StatusOK, "email", "", view{User: b.User, UserID: b.User.UserID, Address: e.Address, SID: sid, Token: token})
	}
}

func (p *Pages) doConfirmEmail(w http.ResponseWriter, r *http.Request) {
	b, ok := p.stepUp(w, r)
	if !ok {
		return
	}
	sid, secret, l := r.PostForm.Get("sid"), pageSecret(b.User), lang(r)
	_, err := p.Accounts.SubmitEmail(r.Context(), sid, &secret, r.PostForm.Get("token"))
	if err == nil {
		err = p.Accounts.AddEmail(r.Context(), b.User.ID, account.ProofAdd, sid, secret)
	}
	switch {
	case err == nil:
		p.accountPage(w, r, http.StatusOK, "account", b, "", p.text(l, "account.emailAdded"))
	case errors.Is(err, account.ErrEmailToken), errors.Is(err, account.ErrEmailExpired), errors.Is(err, account.ErrEmailProof):
		p.message(w, r, http.StatusGone, "mailGone")
	case errors.Is(err, account.ErrEmailInUse):
		p.accountPage(w, r, http.StatusConflict, "account", b, p.text(l, "email.taken"), "")
	case errors.Is(err, account.ErrEmailKept):
		p.accountPage(w, r, http.StatusForbidden, "account", b, p.text(l, "account.emailKept"), "")
	case errors.Is(err, account.ErrEmails):
		p.accountPage(w, r, http.StatusConflict, "account", b, p.text(l, "email.many"), "")
	default:
		p.fail(w, r, err)
	}
}

func (p *Pages) doRemoveEmail(w http.ResponseWriter, r *http.Request) {
	b, ok := p.stepUp(w, r)
	if !ok {
		return
	}
	if b.User.Suspended {
		p.accountPage(w, r, http.StatusForbidden, "account", b, p.text(lang(r), "account.suspended"), "")
		return
	}
	err := p.Accounts.RemoveEmail(r.Context(), b.User.ID, r.PostForm.Get("email"))
	if errors.Is(err, account.ErrEmailKept) {
		p.accountPage(w, r, http.StatusForbidden, "account", b, p.text(lang(r), "account.emailKept"), "")
		return
	}
	if err != nil {
		p.fail(w, r, err)
		return
	}
	p.accountPage(w, r, http.StatusOK, "account", b, "", p.text(lang(r), "account.emailRemoved"))
}
