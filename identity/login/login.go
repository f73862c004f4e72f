// Package login has the pages where people sign in, agree, accept an invite, sign
// out and look after their account. They are rendered here and work without
// JavaScript.
//
// Invariants:
//   - Nothing changes on GET. Every POST passes http.CrossOriginProtection, but for those
//     of SAML providers, which are signed.
//   - A sign-in belongs to the browser that began it, by cookie.
//   - Signing in always makes a new cookie; an old one is never carried over.
//   - Pages are never cached, framed, or sent elsewhere by their own forms, except
//     to the redirect URI that was checked before.
//   - The answer to a wrong password does not tell whether the name exists.
package login

import (
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/identity/account"
	"holdfast/identity/factor"
	"holdfast/identity/opstore"
	"holdfast/identity/register"
	"holdfast/identity/roster"
	"holdfast/identity/upstream"
)

//go:embed pages/*.html
var files embed.FS

// Options of New.
type Options struct {
	Accounts         *account.Accounts
	Sessions         *opstore.Store
	Upstreams        *upstream.Upstreams // nil: none
	Clients          *register.Registry
	Factors          *factor.Factors
	QR               func(text string) (svg string, err error) // nil: none is drawn
	ServerName       string
	PublicURL        string // where passkeys work
	Organisation     func() string
	RegistrationOpen bool
	Origin           func(*http.Request) string
	Text             func(lang, key string) string
	Log              *slog.Logger
	Now              func() time.Time
	// DisplayName and Rename are of the profile that others see. nil: the name is what
	// it was when the account was made.
	DisplayName func(ctx context.Context, userID string) (string, error)
	Rename      func(ctx context.Context, userID, displayName string) error
	// Kept is what of an account a directory keeps: it is not changed here.
	Kept func(ctx context.Context, userID string) (roster.Kept, error)
	// Demand is what the rules want of somebody. nil: nothing.
	Demand func(ctx context.Context, u account.User) (Demand, error)
	// Refuse answers the application that the person declined or could not sign in.
	Refuse func(w http.ResponseWriter, r *http.Request, req *opstore.Request, code string)
	// SetPassword, Deactivate and EndSession change accounts together with their sessions.
	SetPassword func(ctx context.Context, u account.User, password string, keepBrowser []byte, endOthers bool) error
	Deactivate  func(ctx context.Context, u account.User) error
	// UseLink sets a password by a link, which is used up. Errors: account.ErrLink,
	// account.ErrNoLink, account.ErrWeakPassword, account.ErrElsewhere, account.ErrPIN,
	// *account.SlowDown.
	UseLink    func(ctx context.Context, token, password, pin string) (account.Link, error)
	EndSession func(ctx context.Context, u account.User, sessionID string) error
	// EndEverything signs somebody out of all browsers, applications and devices.
	EndEverything func(ctx context.Context, u account.User) error
	// Phones fetch notifications from here. nil: none can.
	Phones Phones
	Mail   Mailer // nil: no e-mail is sent
	// MayMail takes one mail from the allowance of the address that a request came
	// from, or says how long to wait.
	MayMail func(r *http.Request) time.Duration
}

// Pages answers the pages.
type Pages struct {
	Options
	pages map[string]*template.Template
	key   []byte // seals what forms and cookies carry from one page to the next
}

// stepUpFor is how fresh a sign-in must be for what cannot be undone.
const stepUpFor = 5 * time.Minute

// resetFor is how long an approved reset of cross-signing keys may be used.
const resetFor = 10 * time.Minute

const maxForm = 64 << 10

// New prepares the pages.
func New(o Options) *Pages {
	p := &Pages{Options: o, pages: map[string]*template.Template{}, key: make([]byte, 32)}
	rand.Read(p.key)
	// The functions are bound to a request when a page is rendered.
	funcs := template.FuncMap{"t": func(string, ...any) string { return "" }}
	layout := template.Must(template.New("layout.html").Funcs(funcs).ParseFS(files, "pages/layout.html"))
	names, _ := files.ReadDir("pages")
	for _, n := range names {
		if n.Name() == "layout.html" {
			continue
		}
		p.pages[strings.TrimSuffix(n.Name(), ".html")] = template.Must(template.Must(layout.Clone()).ParseFS(files, "pages/"+n.Name()))
	}
	return p
}

// Register adds the pages to a mux.
func (p *Pages) Register(mux *http.ServeMux) {
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.message(w, r, http.StatusForbidden, "crossSite")
	}))
	handlers := map[string]http.HandlerFunc{
		"GET /login": p.showLogin, "POST /login": p.doLogin,
		"GET /login/forgot": p.showForgot, "POST /login/forgot": p.doForgot,
		"GET /login/forgot/new": p.showNewPassword, "POST /login/forgot/new": p.doNewPassword,
		"POST /account/email": p.doEmail, "GET /account/email": p.showEmail,
		"POST /account/email/confirm": p.doConfirmEmail, "POST /account/email/remove": p.doRemoveEmail,
		"GET /login/create": p.showCreate, "POST /login/create": p.doCreate,
		"GET /login/passkey": p.showPasskey, "POST /login/passkey": p.doPasskey,
		"POST /login/passkey/alone": p.doPasskeyAlone, "GET /login/passkey.js": script(passkeyScript), "GET /reauth/done": p.showReauthDone, "GET /reauth/done.js": script(doneScript),
		"GET /account/security/passkey": p.showAddPasskey, "POST /account/security/passkey": p.doAddPasskey,
		"POST /account/security/passkey/rename": p.doRenamePasskey, "POST /account/security/passkey/remove": p.doRemovePasskey,
		"GET /login/enrol": p.showEnrol, "POST /login/enrol": p.doEnrolLater,
		"GET /login/enrol/app": p.showEnrolApp, "POST /login/enrol/app": p.doEnrolApp,
		"GET /login/enrol/passkey": p.showEnrolPasskey, "POST /login/enrol/passkey": p.doEnrolPasskey,
		"GET /login/totp": p.showTOTP, "POST /login/totp": p.doTOTP,
		"GET /login/code": p.showCode, "POST /login/code": p.doCode,
		"GET /account/security":     p.showSecurity,
		"GET /account/security/app": p.showAddApp, "POST /account/security/app": p.doAddApp,
		"POST /account/security/app/remove": p.doRemoveApp,
		"POST /account/security/codes":      p.doNewCodes, "POST /account/security/codes/file": p.doCodesFile,
		"GET /upstream/{id}/start": p.startUpstream, "GET /upstream/{id}/callback": p.upstreamCallback,
		"GET /upstream/join": p.showJoin, "POST /upstream/join": p.doJoin,
		"GET /login/sso": p.showSSO, "POST /login/sso": p.doSSO,
		"GET /consent": p.showConsent, "POST /consent": p.doConsent,
		"GET /logout": p.showLogout, "POST /logout": p.doLogout,
		"GET /reauth": p.showReauth, "POST /reauth": p.doReauth,
		"GET /link": p.showLink, "POST /link": p.doLink,
		"GET /e": p.showTypeCode, "POST /e": p.doTypeCode,
		"GET /e/{token}": p.showEntry, "POST /e/{token}": p.doEntry,
		"GET /account": p.showAccount, "GET /account/{$}": p.showAccount,
		"POST /account/end": p.doEnd, "POST /account/password": p.doPassword,
		"POST /account/profile": p.doProfile, "POST /account/withdraw": p.doWithdraw,
		"POST /account/reset": p.doReset, "POST /account/deactivate": p.doDeactivate,
	}
	p.registerSAML(mux)
	if p.Phones != nil {
		handlers["GET /account/phones"] = p.showPhones
		handlers["POST /account/phones/add"] = p.doAddPhone
		handlers["POST /account/phones/end"] = p.doEndPhone
	}
	for pattern, h := range handlers {
		mux.Handle(pattern, guard.Handler(p.limitBody(h)))
	}
}

func (p *Pages) limitBody(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if r.Method == http.MethodPost {
			if err := r.ParseForm(); err != nil {
				p.message(w, r, http.StatusBadRequest, "badForm")
				return
			}
		}
		h(w, r)
	}
}

// view is what a template sees.
type view struct {
	Lang, Title, Organisation, Server string
	User                              account.User
	Error                             string // text, shown as an alert
	Notice                            string
	Action                            string // where the form goes
	Username, DisplayName             string
	Fixed                             bool // the user name cannot be changed
	App, Host                         string
	CreateURL                         string
	Requested                         string
	Open                              bool
	Sessions                          []sessionView
	Session                           sessionView
	UserID                            string
	Next                              string
	Message                           string
	Approved                          bool
	Code, From, Agent, Asked, Device  string // of a device that waits to be signed in
	HasPhones                         bool
	Phones                            []phoneView
	NewPhone                          *NewPhone
	Mail                              bool // e-mail can be sent
	Emails                            []account.Email
	Kept                              roster.Kept
	Address                           string // an e-mail address
	SID, Token                        string // of a mail's link
	Wants                             []string
	Upstreams                         []upstreamView
	Allowed                           []allowedView
	Factor                            factorView
	Done                              bool   // a page that waits is told
	Leads                             string // a further place that the page's form may lead to
	NeedsPIN                          bool   // of a card
	PIN                               string
	Typed                             codeForm // of a page where a code is typed
	Least                             int      // characters of a new password
	LeastText                         string
	Password                          bool // there is one to ask for
	Elsewhere                         bool // a directory keeps it
}

// allowedView is an application that somebody allowed to know them.
type allowedView struct {
	ID, App, Host, Since string
	Wants                []string
}

type sessionView struct{ ID, App, Host, DeviceID, Active, Since string }

// lang is the language to answer in: the first that the browser asks for.
func lang(r *http.Request) string {
	first, _, _ := strings.Cut(r.Header.Get("Accept-Language"), ",")
	first, _, _ = strings.Cut(first, ";")
	first, _, _ = strings.Cut(strings.ToLower(strings.TrimSpace(first)), "-")
	if len(first) < 2 || len(first) > 3 || strings.Trim(first, "abcdefghijklmnopqrstuvwxyz") != "" {
		return "en"
	}
	return first
}

// text is a text of the catalogue with {name} parameters filled in.
func (p *Pages) text(lang, key string, args ...any) string {
	s := p.Text(lang, "identity."+key)
	for i := 0; i+1 < len(args); i += 2 {
		name, _ := args[i].(string)
		val, _ := args[i+1].(string)
		s = strings.ReplaceAll(s, "{"+name+"}", val)
	}
	return s
}

// render answers with a page. target is a further place that the page's form may
// lead to: the checked redirect URI, or "".
func (p *Pages) render(w http.ResponseWriter, r *http.Request, status int, page, target string, v view) {
	v.Lang = lang(r)
	v.HasPhones = p.Phones != nil
	v.Organisation, v.Server, v.Mail = p.Organisation(), p.ServerName, p.mailReady()
	v.Least = p.Accounts.LeastPassword()
	v.LeastText = strconv.Itoa(v.Least)
	if l := p.text(v.Lang, "lang"); l != "identity.lang" && l != "" {
		v.Lang = l
	}
	if v.Title == "" {
		v.Title = p.text(v.Lang, page+".title")
	}
	t, err := p.pages[page].Clone()
	if err == nil {
		var buf bytes.Buffer
		t.Funcs(template.FuncMap{"t": func(key string, args ...any) string { return p.text(v.Lang, key, args...) }})
		if err = t.ExecuteTemplate(&buf, "layout.html", v); err == nil {
			SecurityHeaders(w, target, v.Leads)
			if v.Factor.Options != "" || v.Done {
				allowScript(w)
			}
			leaveOpener(w, r)
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.WriteHeader(status)
			w.Write(buf.Bytes())
			return
		}
	}
	p.Log.Error("a page could not be rendered", "page", page, "err", err)
	http.Error(w, "The page could not be made.", http.StatusInternalServerError)
}

// SecurityHeaders sets what every page has. target are further places that a form
// may lead to: browsers hold redirects after a form to form-action as well.
func SecurityHeaders(w http.ResponseWriter, target ...string) {
	h := w.Header()
	form := "'self'"
	for _, t := range target {
		if src := formSource(t); src != "" {
			form += " " + src
		}
	}
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; form-action "+form+"; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Set("Cross-Origin-Opener-Policy", "same-origin-allow-popups")
}

// allowScript lets a page run our scripts.
func allowScript(w http.ResponseWriter) {
	const csp = "Content-Security-Policy"
	w.Header().Set(csp, "script-src 'self'; "+w.Header().Get(csp))
}

// formSource is the CSP source of a redirect URI.
func formSource(target string) string {
	u, err := url.Parse(target)
	if target == "" || err != nil || u.Scheme == "" {
		return ""
	}
	if (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && !strings.ContainsAny(u.Host, "[]*;, '\"") {
		return u.Scheme + "://" + u.Host
	}
	return u.Scheme + ":" // private schemes; IPv6 addresses have no host source
}

// message answers with a page that only says something.
func (p *Pages) message(w http.ResponseWriter, r *http.Request, status int, key string) {
	l := lang(r)
	p.render(w, r, status, "message", "", view{Title: p.text(l, key+".title"), Message: p.text(l, key+".text")})
}

// Message answers with the page of a text of the catalogue, "identity.<key>.title" and ".text".
func (p *Pages) Message(w http.ResponseWriter, r *http.Request, status int, key string) {
	p.message(w, r, status, key)
}

// fail answers to an error of ours.
func (p *Pages) fail(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, opstore.ErrBrowser):
		p.message(w, r, http.StatusForbidden, "otherBrowser")
	case errors.Is(err, opstore.ErrNoRequest):
		p.message(w, r, http.StatusBadRequest, "expired")
	case errors.Is(err, account.ErrInvite):
		p.message(w, r, http.StatusGone, "inviteGone")
	case errors.Is(err, account.ErrLink), errors.Is(err, account.ErrNoLink):
		p.message(w, r, http.StatusGone, "linkGone")
	case errors.Is(err, account.ErrElsewhere):
		p.message(w, r, http.StatusForbidden, "elsewhere")
	default:
		if r.Context().Err() == nil {
			p.Log.Error("a page failed", "path", r.Pattern, "err", err)
		}
		p.message(w, r, http.StatusServiceUnavailable, "trouble")
	}
}

// Names of the cookies. Over https they have the __Host- prefix, which ties them
// to exactly this host; http://localhost cannot have that.
const (
	sessionCookie = "hf_session"
	browserCookie = "hf_browser"
)

func (p *Pages) cookieName(r *http.Request, name string) (string, bool) {
	if strings.HasPrefix(p.Origin(r), "https://") {
		return "__Host-" + name, true
	}
	return name, false
}

func (p *Pages) cookie(r *http.Request, name string) string {
	name, _ = p.cookieName(r, name)
	c, err := r.Cookie(name)
	if err != nil || len(c.Value) > 128 {
		return ""
	}
	return c.Value
}

func (p *Pages) setCookie(w http.ResponseWriter, r *http.Request, name, value string, age time.Duration) {
	name, secure := p.cookieName(r, name)
	c := &http.Cookie{Name: name, Value: value, Path: "/", Secure: secure, HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: int(age.Seconds())}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// BrowserHash is the hash of the cookie that names this browser, or nil.
func (p *Pages) BrowserHash(r *http.Request) []byte {
	if v := p.cookie(r, browserCookie); len(v) >= 32 {
		return account.Hash(v)
	}
	return nil
}

// EnsureBrowser is BrowserHash, with a new cookie where there is none.
func (p *Pages) EnsureBrowser(w http.ResponseWriter, r *http.Request) []byte {
	if h := p.BrowserHash(r); h != nil {
		return h
	}
	v := account.Secret()
	p.setCookie(w, r, browserCookie, v, 0)
	return account.Hash(v)
}

// Background is a header of requests that a page makes by itself, as to show what is new:
// they are no use of the browser, whose session ends when nobody sits at it.
const Background = "Holdfast-Background"

// SignedIn is who is signed in in this browser.
func (p *Pages) SignedIn(r *http.Request) (account.Browser, bool) {
	if b, ok := r.Context().Value(signedInKey{}).(account.Browser); ok {
		return b, true
	}
	find := p.Accounts.BrowserByCookie
	if r.Header.Get(Background) != "" {
		find = p.Accounts.IdleBrowserByCookie
	}
	b, err := find(r.Context(), p.cookie(r, sessionCookie))
	if err != nil && !errors.Is(err, account.ErrNoUser) && r.Context().Err() == nil {
		p.Log.Error("a browser session could not be read", "err", err)
	}
	return b, err == nil
}

// SignIn starts a browser session with a new cookie. methods are those of RFC 8176 by
// which the person proved who they are.
func (p *Pages) SignIn(w http.ResponseWriter, r *http.Request, u account.User, methods ...string) error {
	var old []byte
	if v := p.cookie(r, sessionCookie); v != "" {
		old = account.Hash(v)
	}
	secret, err := p.Accounts.StartBrowserOf(r.Context(), u, methods, old, p.provedAt(r, methods))
	if err != nil {
		return err
	}
	b, err := p.Accounts.BrowserByCookie(r.Context(), secret)
	if err == nil {
		err = p.remember(r, b)
	}
	if err != nil {
		return err
	}
	p.setCookie(w, r, sessionCookie, secret, p.Accounts.BrowserFor())
	p.setCookie(w, r, knownCookie, p.Accounts.NewKnown(p.longCookie(r, knownCookie), u.Localpart), knownFor)
	*r = *r.WithContext(context.WithValue(r.Context(), signedInKey{}, b)) // its cookie is still the old one
	return nil
}

// provedAt is when the person proved who they are: now, or where nothing was proved here,
// when they did at the provider, if it says so.
func (p *Pages) provedAt(r *http.Request, methods []string) time.Time {
	from, ok := r.Context().Value(fromKey{}).(upstream.From)
	here := func(m string) bool { return m != "fed" && m != "mfa" }
	if !ok || from.At.IsZero() || slices.ContainsFunc(methods, here) {
		return p.Now()
	}
	return from.At
}

// signedInKey is who signed in during a request.
type signedInKey struct{}

// address is where a request came from, for the slow-down.
func address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// SafeNext is a path of ours to go on to, or "" if next is anything else.
func SafeNext(next string) string {
	if len(next) > 4096 || !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\r\n\t") {
		return ""
	}
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || strings.HasPrefix(u.Path, "//") {
		return ""
	}
	return next
}

func redirect(w http.ResponseWriter, r *http.Request, to string) {
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, to, http.StatusSeeOther)
}
