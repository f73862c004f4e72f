package login

import (
	_ "embed"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"holdfast/identity/account"
	"holdfast/identity/factor"
)

//go:embed pages/passkey.js
var passkeyScript []byte

//go:embed pages/done.js
var doneScript []byte

// script answers with one of the scripts.
func script(text []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { sendScript(w, text) }
}

// showReauthDone is where the window ends in which somebody proved anew who they are, for
// a page that waits for it.
func (p *Pages) showReauthDone(w http.ResponseWriter, r *http.Request) {
	b, ok := p.signedIn(w, r)
	if !ok {
		return
	}
	fresh, err := p.Fresh(r.Context(), b)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	if !fresh {
		redirect(w, r, "/reauth?next=%2Freauth%2Fdone")
		return
	}
	l := lang(r)
	p.render(w, r, http.StatusOK, "message", "", view{Title: p.text(l, "reauthDone.title"), Message: p.text(l, "reauthDone.text"), Done: true})
}

func sendScript(w http.ResponseWriter, text []byte) {
	w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Write(text)
}

func person(u account.User) factor.Person {
	return factor.Person{ID: u.ID, Name: u.Localpart, DisplayName: u.DisplayName}
}

// passkeyAddress is where passkeys work, or "".
func (p *Pages) passkeyAddress() string {
	if p.Factors.RPID == "" {
		return ""
	}
	return p.PublicURL
}

// passkeyOptions are what a sign-in page asks a browser with: for somebody who is known,
// or for anybody. "" where passkeys cannot be used.
func (p *Pages) passkeyOptions(w http.ResponseWriter, r *http.Request, of factor.Person, second bool) (string, error) {
	o, err := p.Factors.BeginSignIn(r.Context(), of, second, p.Origin(r), p.EnsureBrowser(w, r))
	if errors.Is(err, factor.ErrNoPasskeys) || errors.Is(err, factor.ErrNone) {
		return "", nil
	}
	return o, err
}

func (p *Pages) showPasskey(w http.ResponseWriter, r *http.Request) {
	if _, u, ok := p.waits(w, r); ok {
		p.passkeyPage(w, r, http.StatusOK, u, "")
	}
}

// passkeyPage asks for a passkey as the second factor.
func (p *Pages) passkeyPage(w http.ResponseWriter, r *http.Request, status int, u account.User, problem string) {
	has, err := p.Factors.Of(r.Context(), u.ID)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	v := p.secondView(r, u, has, problem)
	v.Factor.Address = p.passkeyAddress()
	if v.Factor.Options, err = p.passkeyOptions(w, r, person(u), true); err != nil {
		p.fail(w, r, err)
		return
	}
	p.render(w, r, status, "passkey", "", v)
}

func (p *Pages) doPasskey(w http.ResponseWriter, r *http.Request) {
	x, u, ok := p.waits(w, r)
	if !ok {
		return
	}
	_, proved, err := p.Factors.SignIn(r.Context(), u.ID, p.Origin(r), p.BrowserHash(r), r.PostForm.Get("response"))
	switch {
	case errors.Is(err, factor.ErrPasskey), errors.Is(err, factor.ErrNoPasskeys):
		p.Log.Info("a passkey was refused", "user", u.UserID, "err", err)
		p.passkeyPage(w, r, http.StatusUnauthorized, u, p.text(lang(r), "passkey.wrong"))
	case err != nil:
		p.fail(w, r, err)
	default:
		p.setCookie(w, r, pendingCookie, "", 0)
		if err := p.SignIn(w, r, u, append(append(x.Methods, proved...), "mfa")...); err != nil {
			p.fail(w, r, err)
			return
		}
		p.onward(w, r)
	}
}

// doPasskeyAlone signs somebody in by a passkey and nothing else: the device has asked
// for a finger or a PIN.
func (p *Pages) doPasskeyAlone(w http.ResponseWriter, r *http.Request) {
	b, in := p.SignedIn(r)
	confirms := in && r.URL.Query().Get(again) != ""
	refuse := func(status int, key string) {
		if confirms {
			p.reauthForm(w, r, status, b, p.text(lang(r), key, "user", b.User.UserID))
			return
		}
		p.loginForm(w, r, status, nil, nil, "", p.text(lang(r), key))
	}
	id, proved, err := p.Factors.SignIn(r.Context(), "", p.Origin(r), p.BrowserHash(r), r.PostForm.Get("response"))
	if errors.Is(err, factor.ErrPasskey) || errors.Is(err, factor.ErrNoPasskeys) {
		p.Log.Info("a passkey was refused", "err", err)
		refuse(http.StatusUnauthorized, "passkey.wrong")
		return
	}
	if err == nil && confirms && id != b.User.ID {
		refuse(http.StatusForbidden, "reauth.other")
		return
	}
	var u account.User
	if err == nil {
		u, err = p.Accounts.ByID(r.Context(), id)
	}
	if err == nil {
		err = u.Err()
	}
	if err == nil {
		err = p.Accounts.Local(r.Context(), u.ID)
	}
	switch {
	case errors.Is(err, account.ErrLocked):
		refuse(http.StatusForbidden, "login.locked")
	case errors.Is(err, account.ErrDeactivated):
		refuse(http.StatusForbidden, "login.deactivated")
	case errors.Is(err, account.ErrElsewhere):
		// Only the directory knows whether they may still come in.
		refuse(http.StatusForbidden, "passkey.directory")
	case err != nil:
		p.fail(w, r, err)
	default:
		if err := p.SignIn(w, r, u, append(proved, "mfa")...); err != nil {
			p.fail(w, r, err)
			return
		}
		p.onward(w, r)
	}
}

func (p *Pages) showAddPasskey(w http.ResponseWriter, r *http.Request) {
	if b, ok := p.stepUp(w, r); ok {
		p.addPasskeyPage(w, r, http.StatusOK, p.addHere(w, r, b), "", "")
	}
}

// adding is where and for whom a passkey is added.
type adding struct {
	u            account.User
	action, back string
	refuse       func(problem string) // shows why there can be none
}

// addHere adds one to the account of who is signed in.
func (p *Pages) addHere(w http.ResponseWriter, r *http.Request, b account.Browser) adding {
	return adding{b.User, "/account/security/passkey", "/account/security", func(problem string) {
		p.securityPage(w, r, http.StatusConflict, b, problem, "")
	}}
}

func (p *Pages) addPasskeyPage(w http.ResponseWriter, r *http.Request, status int, a adding, name, problem string) {
	v := view{User: a.u, UserID: a.u.UserID, Action: a.action, DisplayName: name, Error: problem}
	v.Factor.Back = a.back
	var err error
	v.Factor.Options, err = p.Factors.BeginPasskey(r.Context(), person(a.u), p.Origin(r), p.EnsureBrowser(w, r))
	switch {
	case errors.Is(err, factor.ErrNoPasskeys):
		a.refuse("") // the page says why
	case errors.Is(err, factor.ErrManyKeys):
		a.refuse(p.text(lang(r), "security.manyPasskeys"))
	case err != nil:
		p.fail(w, r, err)
	default:
		p.render(w, r, status, "addpasskey", "", v)
	}
}

// addedPasskey takes a new passkey. It answers itself where it is not added.
func (p *Pages) addedPasskey(w http.ResponseWriter, r *http.Request, a adding) (proved, codes []string, ok bool) {
	l, name := lang(r), r.PostForm.Get("name")
	proved, codes, err := p.Factors.AddPasskey(r.Context(), person(a.u), p.Origin(r), p.BrowserHash(r), r.PostForm.Get("response"), name)
	switch {
	case errors.Is(err, factor.ErrPasskeyName):
		p.addPasskeyPage(w, r, http.StatusBadRequest, a, "", p.text(l, "addpasskey.badName"))
	case errors.Is(err, factor.ErrPasskey), errors.Is(err, factor.ErrNoPasskeys), errors.Is(err, factor.ErrManyKeys):
		p.Log.Info("a passkey was not added", "user", a.u.UserID, "err", err)
		p.addPasskeyPage(w, r, http.StatusBadRequest, a, name, p.text(l, "addpasskey.failed"))
	case err != nil:
		p.fail(w, r, err)
	default:
		return proved, codes, true
	}
	return nil, nil, false
}

func (p *Pages) doAddPasskey(w http.ResponseWriter, r *http.Request) {
	b, ok := p.stepUp(w, r)
	if !ok {
		return
	}
	proved, codes, ok := p.addedPasskey(w, r, p.addHere(w, r, b))
	if !ok {
		return
	}
	if err := p.SignIn(w, r, b.User, with(b.Methods, append(proved, "mfa")...)...); err != nil {
		p.fail(w, r, err)
		return
	}
	l := lang(r)
	if codes == nil {
		p.securityPage(w, r, http.StatusOK, b, "", p.text(l, "security.passkeyAdded"))
		return
	}
	p.codesPage(w, r, b.User, codes, p.text(l, "security.passkeyAdded"), "/account/security")
}

func (p *Pages) doRenamePasskey(w http.ResponseWriter, r *http.Request) {
	b, ok := p.signedIn(w, r)
	if !ok {
		return
	}
	l := lang(r)
	err := p.Factors.RenamePasskey(r.Context(), b.User.ID, r.PostForm.Get("passkey"), r.PostForm.Get("name"))
	switch {
	case errors.Is(err, factor.ErrPasskeyName):
		p.securityPage(w, r, http.StatusBadRequest, b, p.text(l, "addpasskey.badName"), "")
	case err != nil:
		p.fail(w, r, err)
	default:
		p.securityPage(w, r, http.StatusOK, b, "", p.text(l, "security.passkeyRenamed"))
	}
}

func (p *Pages) doRemovePasskey(w http.ResponseWriter, r *http.Request) {
	b, ok := p.stepUp(w, r)
	if !ok {
		return
	}
	err := p.Factors.RemovePasskey(r.Context(), b.User.ID, r.PostForm.Get("passkey"))
	p.removed(w, r, b, err, "security.passkeyRemoved")
}

// passkeyView is a passkey as the page shows it.
type passkeyView struct {
	factor.Passkey
	MadeOn, UsedOn string
}

func (p *Pages) passkeyViews(r *http.Request, user string) (out []passkeyView, err error) {
	keys, err := p.Factors.Passkeys(r.Context(), user)
	for _, k := range keys {
		v := passkeyView{k, k.Made.UTC().Format("2006-01-02"), ""}
		if !k.Used.IsZero() {
			v.UsedOn = k.Used.UTC().Format("2006-01-02")
		}
		out = append(out, v)
	}
	return out, err
}

// aloneAction is where a form with a passkey instead of a password goes.
func aloneAction(r *http.Request, only bool) string {
	q := url.Values{}
	for _, k := range []string{"request", "next"} {
		if s := r.URL.Query().Get(k); s != "" {
			q.Set(k, s)
		}
	}
	if only {
		q.Set(again, "1")
	}
	return strings.TrimSuffix("/login/passkey/alone?"+q.Encode(), "?")
}
