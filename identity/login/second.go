package login

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/identity/account"
	"holdfast/identity/factor"
	"holdfast/identity/opstore"
	"holdfast/identity/upstream"
)

// Cookies that belong to the second factor.
const (
	pendingCookie = "hf_pending" // of who passed the first
	knownCookie   = "hf_known"   // names the browser to accounts that signed in with it
)

// pendingFor is how long somebody who passed the first factor has for the second.
const pendingFor = 10 * time.Minute

const knownFor = 365 * 24 * time.Hour

// pending is who passed the first factor. The cookie has it sealed under a key that
// only this process knows.
type pending struct {
	User    string    `json:"u"`
	Methods []string  `json:"m"`
	Until   time.Time `json:"t"`
	// Mark is of the password that there was: with another, who knew the old one is out.
	Mark string `json:"k,omitempty"`
	// From is the session at a provider that the first factor was, of SAML.
	From *upstream.From `json:"f,omitempty"`
}

// sealed gives text that only this process can read, and only for this purpose.
func (p *Pages) sealed(purpose string, v any) (string, error) {
	b, err := json.Marshal(v)
	if err == nil {
		b, err = opstore.Seal(p.key, append([]byte(purpose+"\x00"), b...))
	}
	return base64.RawURLEncoding.EncodeToString(b), err
}

func (p *Pages) unsealed(purpose, text string, v any) bool {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) > 4096 {
		return false
	}
	if b, err = opstore.Unseal(p.key, b); err != nil {
		return false
	}
	rest, ok := strings.CutPrefix(string(b), purpose+"\x00")
	return ok && json.Unmarshal([]byte(rest), v) == nil
}

// longCookie is cookie for values that are longer than a secret.
func (p *Pages) longCookie(r *http.Request, name string) string {
	name, _ = p.cookieName(r, name)
	c, err := r.Cookie(name)
	if err != nil || len(c.Value) > 1024 {
		return ""
	}
	return c.Value
}

// at is where a request comes from, for an account's slow-down.
func (p *Pages) at(r *http.Request, localpart string) account.At {
	localpart, _ = p.Accounts.Localpart(localpart)
	return account.At{Address: address(r), Known: p.Accounts.KnownIn(p.longCookie(r, knownCookie), localpart)}
}

// passed goes on once methods were passed: to the second factor where the account has
// one, to a page that adds one where the rules want it, else the person is signed in. It
// reports whether they are; otherwise it answered.
func (p *Pages) passed(w http.ResponseWriter, r *http.Request, u account.User, methods ...string) bool {
	has, err := p.Factors.Of(r.Context(), u.ID)
	if err != nil {
		p.fail(w, r, err)
		return false
	}
	path, lasts := p.secondPath(r, has), pendingFor
	if !has.Any() {
		asks, err := p.asksToEnrol(r, u, methods)
		if err == nil && !asks {
			err = p.SignIn(w, r, u, methods...)
		}
		if err != nil {
			p.fail(w, r, err)
			return false
		}
		if !asks {
			return true
		}
		path, lasts = "/login/enrol", enrolFor
	}
	mark, err := p.Accounts.PasswordMark(r.Context(), u.ID)
	if err != nil {
		p.fail(w, r, err)
		return false
	}
	wait := pending{User: u.ID, Methods: methods, Until: p.Now().Add(lasts), Mark: mark}
	if from, ok := r.Context().Value(fromKey{}).(upstream.From); ok {
		wait.From = &from
	}
	text, err := p.sealed(pendingCookie, wait)
	if err != nil {
		p.fail(w, r, err)
		return false
	}
	p.setCookie(w, r, pendingCookie, text, lasts)
	redirect(w, r, path+"?"+r.URL.RawQuery)
	return false
}

func (p *Pages) secondPath(r *http.Request, has factor.State) string {
	if has.Passkeys > 0 && (!has.App || p.Factors.PasskeysAt(p.Origin(r))) {
		return "/login/passkey"
	}
	return "/login/totp"
}

// waits is who passed the first factor in this browser. It leads back where nobody did,
// or too long ago.
func (p *Pages) waits(w http.ResponseWriter, r *http.Request) (x pending, u account.User, ok bool) {
	if p.carried(r, pendingCookie, &x) && p.Now().Before(x.Until) {
		mark, err := p.Accounts.PasswordMark(r.Context(), x.User)
		if err == nil && mark != x.Mark {
			err = account.ErrNoUser // who passed then need not pass now
		}
		if err == nil {
			u, err = p.Accounts.ByID(r.Context(), x.User)
		}
		if err == nil {
			err = u.Err()
		}
		if err == nil {
			withFrom(r, x.From)
			return x, u, true
		}
		if status, text := p.attemptText(r, err); status != 0 {
			p.loginForm(w, r, status, nil, nil, "", text)
			return x, u, false
		}
		if !errors.Is(err, account.ErrNoUser) {
			p.fail(w, r, err)
			return x, u, false
		}
	}
	redirect(w, r, "/login?"+r.URL.RawQuery)
	return x, u, false
}

// secondView is what the pages of the second factor show.
func (p *Pages) secondView(r *http.Request, u account.User, has factor.State, problem string) view {
	v := view{Action: r.URL.Path + "?" + r.URL.RawQuery, UserID: u.UserID, Error: problem}
	v.Factor = factorView{State: has, Query: template.URL(r.URL.RawQuery)}
	return v
}

func (p *Pages) showTOTP(w http.ResponseWriter, r *http.Request) { p.second(w, r, "totp", "") }

func (p *Pages) showCode(w http.ResponseWriter, r *http.Request) { p.second(w, r, "code", "") }

// second shows a page of the second factor.
func (p *Pages) second(w http.ResponseWriter, r *http.Request, page, problem string) {
	_, u, ok := p.waits(w, r)
	if !ok {
		return
	}
	has, err := p.Factors.Of(r.Context(), u.ID)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	p.render(w, r, http.StatusOK, page, "", p.secondView(r, u, has, problem))
}

func (p *Pages) doTOTP(w http.ResponseWriter, r *http.Request) {
	p.check(w, r, "totp", p.Factors.UseApp, "totp.wrong")
}

func (p *Pages) doCode(w http.ResponseWriter, r *http.Request) {
	p.check(w, r, "code", p.Factors.UseCode, "code.wrong")
}

// check takes a code that somebody typed.
func (p *Pages) check(w http.ResponseWriter, r *http.Request, page string, use func(ctx context.Context, user, typed string) error, wrong string) {
	x, u, ok := p.waits(w, r)
	if !ok {
		return
	}
	has, err := p.Factors.Of(r.Context(), u.ID)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	right := false
	err = p.Accounts.Second(r.Context(), u, p.at(r, u.Localpart), func() (bool, error) {
		err := use(r.Context(), u.ID, r.PostForm.Get("code"))
		right = err == nil
		if errors.Is(err, factor.ErrCode) {
			err = nil
		}
		return right, err
	})
	if err != nil {
		if status, text := p.attemptText(r, err); status != 0 {
			p.render(w, r, status, page, "", p.secondView(r, u, has, text))
			return
		}
		p.fail(w, r, err)
		return
	}
	if !right {
		p.render(w, r, http.StatusUnauthorized, page, "", p.secondView(r, u, has, p.text(lang(r), wrong)))
		return
	}
	p.setCookie(w, r, pendingCookie, "", 0)
	if err := p.SignIn(w, r, u, append(x.Methods, "otp", "mfa")...); err != nil {
		p.fail(w, r, err)
		return
	}
	p.onward(w, r)
}

// onward goes on with what the sign-in was for.
func (p *Pages) onward(w http.ResponseWriter, r *http.Request) { redirect(w, r, onwardTo(r)) }

func onwardTo(r *http.Request) string {
	if id := r.URL.Query().Get("request"); id != "" {
		return "/login?request=" + url.QueryEscape(id)
	}
	return nextOr(r, "/account")
}

// Fresh reports whether a person proved lately who they are, as strongly as they can:
// what cannot be undone asks for that.
func (p *Pages) Fresh(ctx context.Context, b account.Browser) (bool, error) {
	if p.Now().Sub(b.AuthTime) > stepUpFor {
		return false, nil
	}
	if b.Strong() {
		return true, nil
	}
	has, err := p.Factors.Of(ctx, b.User.ID)
	return err == nil && !has.Any(), err
}

// couldReach reports whether a person who signs in anew can satisfy a class of sign-in.
func (p *Pages) couldReach(r *http.Request, b account.Browser, wanted []string) (bool, error) {
	has, err := p.Factors.Of(r.Context(), b.User.ID)
	if err != nil || !has.Any() {
		return false, err
	}
	could := []string{"pwd", "mfa"}
	if has.Passkeys > 0 && p.Factors.PasskeysAt(p.Origin(r)) {
		could = append(could, "hwk")
	}
	return opstore.Reaches(could, wanted), nil
}

// factorView is what pages show of second factors.
type factorView struct {
	factor.State
	Query  template.URL  // of the address, for other ways
	Secret string        // of an authenticator app that is being added, in groups of four
	URI    template.URL  // the same for an app on this device
	QR     template.HTML // and as a drawing
	Setup  string        // the same, sealed
	Codes  []string      // new recovery codes
	File   string        // the same, in a form
	Left   string

	Wanted bool   // by the rules of the appliance
	Due    string // the day from which on there is no signing in without; "": it has come
	Back   string // where adding one is given up

	Options string // for passkeys, JSON; "": they cannot be used
	Alone   string // where a passkey instead of a password goes
	Address string // where passkeys work
	Here    bool   // they work at this address
	Listed  []passkeyView
}

// Last reports whether what there is must stay.
func (v factorView) Last() bool { return v.Wanted && (v.Passkeys == 0 || v.Passkeys == 1 && !v.App) }

// setup is an authenticator app that somebody is adding.
type setup struct {
	User   string    `json:"u"`
	Secret string    `json:"s"`
	Until  time.Time `json:"t"`
}

const setupFor = time.Hour

// securityPage shows what an account is protected with.
func (p *Pages) securityPage(w http.ResponseWriter, r *http.Request, status int, b account.Browser, problem, notice string) {
	has, err := p.Factors.Of(r.Context(), b.User.ID)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	v := view{User: b.User, UserID: b.User.UserID, Error: problem, Notice: notice}
	v.Factor = factorView{State: has, Left: strconv.Itoa(has.Codes), Address: p.passkeyAddress(), Here: p.Factors.PasskeysAt(p.Origin(r))}
	if err := p.showDemand(r, b.User, &v.Factor); err != nil {
		p.fail(w, r, err)
		return
	}
	if v.Factor.Listed, err = p.passkeyViews(r, b.User.ID); err != nil {
		p.fail(w, r, err)
		return
	}
	p.render(w, r, status, "security", "", v)
}

func (p *Pages) showSecurity(w http.ResponseWriter, r *http.Request) {
	if b, ok := p.signedIn(w, r); ok {
		p.securityPage(w, r, http.StatusOK, b, "", "")
	}
}

// showAddApp shows the secret for an authenticator app.
func (p *Pages) showAddApp(w http.ResponseWriter, r *http.Request) {
	if b, ok := p.stepUp(w, r); ok {
		p.addApp(w, r, http.StatusOK, b.User, factor.NewSecret(), "/account/security/app", "/account/security", "")
	}
}

func (p *Pages) addApp(w http.ResponseWriter, r *http.Request, status int, u account.User, secret, action, back, problem string) {
	sealed, err := p.sealed("setup", setup{u.ID, secret, p.Now().Add(setupFor)})
	if err != nil {
		p.fail(w, r, err)
		return
	}
	uri := factor.KeyURI(p.Organisation(), u.Localpart+"@"+p.ServerName, secret)
	v := view{User: u, UserID: u.UserID, Action: action, Error: problem}
	v.Factor = factorView{Setup: sealed, Back: back, URI: template.URL(uri)} //nolint:gosec // made of escaped parts, with a scheme of its own
	for i := 0; i < len(secret); i += 4 {
		v.Factor.Secret += " " + secret[i:min(i+4, len(secret))]
	}
	v.Factor.Secret = strings.TrimSpace(v.Factor.Secret)
	if p.QR != nil {
		svg, err := p.QR(uri)
		if err != nil {
			p.fail(w, r, err)
			return
		}
		v.Factor.QR = template.HTML(svg) //nolint:gosec // drawn by us
	}
	p.render(w, r, status, "addapp", "", v)
}

func (p *Pages) doAddApp(w http.ResponseWriter, r *http.Request) {
	b, ok := p.stepUp(w, r)
	if !ok {
		return
	}
	codes, ok := p.addedApp(w, r, b.User, "/account/security/app", "/account/security")
	if !ok {
		return
	}
	// Who added it has it in hand: the session is as strong as one that begins with it.
	if err := p.SignIn(w, r, b.User, with(b.Methods, "otp", "mfa")...); err != nil {
		p.fail(w, r, err)
		return
	}
	if codes == nil {
		p.securityPage(w, r, http.StatusOK, b, "", p.text(lang(r), "security.appAdded"))
		return
	}
	p.codesPage(w, r, b.User, codes, p.text(lang(r), "security.appAdded"), "/account/security")
}

// with adds methods to those that were passed.
func with(methods []string, more ...string) []string {
	for _, m := range more {
		if !slices.Contains(methods, m) {
			methods = append(slices.Clip(methods), m)
		}
	}
	return methods
}

// addedApp takes the first code of a new authenticator app. It answers itself where the
// app is not added.
func (p *Pages) addedApp(w http.ResponseWriter, r *http.Request, u account.User, action, back string) (codes []string, ok bool) {
	l := lang(r)
	var s setup
	if !p.unsealed("setup", r.PostForm.Get("setup"), &s) || s.User != u.ID || p.Now().After(s.Until) {
		p.addApp(w, r, http.StatusBadRequest, u, factor.NewSecret(), action, back, p.text(l, "addapp.old"))
		return nil, false
	}
	codes, err := p.Factors.AddApp(r.Context(), u.ID, s.Secret, r.PostForm.Get("code"))
	switch {
	case errors.Is(err, factor.ErrCode):
		p.addApp(w, r, http.StatusBadRequest, u, s.Secret, action, back, p.text(l, "addapp.wrong"))
	case errors.Is(err, factor.ErrExist):
		p.message(w, r, http.StatusConflict, "appThere")
	case err != nil:
		p.fail(w, r, err)
	default:
		return codes, true
	}
	return nil, false
}

// doRemoveApp takes the authenticator app away.
func (p *Pages) doRemoveApp(w http.ResponseWriter, r *http.Request) {
	b, ok := p.stepUp(w, r)
	if !ok {
		return
	}
	err := p.Factors.RemoveApp(r.Context(), b.User.ID)
	p.removed(w, r, b, err, "security.appRemoved")
}

// removed answers to taking a factor away.
func (p *Pages) removed(w http.ResponseWriter, r *http.Request, b account.Browser, err error, done string) {
	switch {
	case errors.Is(err, factor.ErrNeeded):
		p.securityPage(w, r, http.StatusConflict, b, p.text(lang(r), "security.needed"), "")
	case err != nil:
		p.fail(w, r, err)
	default:
		p.securityPage(w, r, http.StatusOK, b, "", p.text(lang(r), done))
	}
}

// doNewCodes makes recovery codes, and shows them this once.
func (p *Pages) doNewCodes(w http.ResponseWriter, r *http.Request) {
	b, ok := p.stepUp(w, r)
	if !ok {
		return
	}
	codes, err := p.Factors.NewCodes(r.Context(), b.User.ID)
	switch {
	case errors.Is(err, factor.ErrNone):
		p.securityPage(w, r, http.StatusConflict, b, p.text(lang(r), "security.codesAlone"), "")
	case err != nil:
		p.fail(w, r, err)
	default:
		p.codesPage(w, r, b.User, codes, "", "/account/security")
	}
}

func (p *Pages) codesPage(w http.ResponseWriter, r *http.Request, u account.User, codes []string, notice, next string) {
	v := view{User: u, UserID: u.UserID, Notice: notice, Next: next}
	v.Factor = factorView{Codes: codes, File: strings.Join(codes, " ")}
	p.render(w, r, http.StatusOK, "codes", "", v)
}

// doCodesFile gives the codes that the page shows back as a file: they are kept
// nowhere else.
func (p *Pages) doCodesFile(w http.ResponseWriter, r *http.Request) {
	b, ok := p.signedIn(w, r)
	if !ok {
		return
	}
	codes := strings.Fields(r.PostForm.Get("codes"))
	if len(codes) == 0 || len(codes) > 20 {
		p.message(w, r, http.StatusBadRequest, "badForm")
		return
	}
	var out strings.Builder
	out.WriteString(p.text(lang(r), "codes.file", "user", b.User.UserID, "date", p.Now().UTC().Format("2006-01-02")) + "\r\n\r\n")
	for _, c := range codes {
		if factor.ReadCode(c) == "" {
			p.message(w, r, http.StatusBadRequest, "badForm")
			return
		}
		out.WriteString(c + "\r\n")
	}
	SecurityHeaders(w, "")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="recovery-codes.txt"`)
	w.Write([]byte(out.String()))
}

// wantsMore sends somebody whose sign-in is too weak for an application to prove more,
// where they can.
func (p *Pages) wantsMore(w http.ResponseWriter, r *http.Request, req *opstore.Request, b account.Browser, wanted []string) bool {
	could, err := p.couldReach(r, b, wanted)
	if err != nil {
		p.fail(w, r, err)
		return true
	}
	if could {
		redirect(w, r, "/reauth?"+url.Values{"next": {"/login?request=" + url.QueryEscape(req.ID)}}.Encode())
	}
	return could
}
