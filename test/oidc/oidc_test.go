// Package oidc signs in at the real program as other applications do: by the modules of
// the OpenID Foundation's basic certification plan, by what discovery advertises, and by
// the client libraries that applications are built on.
package oidc

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const password = "correct horse battery staple"

// program is a running holdfast.
type program struct {
	bin, data, issuer string
	cmd               *exec.Cmd
	log               bytes.Buffer
}

var (
	theBinary string
	main      *program
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "holdfast-oidc-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if theBinary = os.Getenv("HOLDFAST_BIN"); theBinary == "" {
		theBinary = filepath.Join(dir, "holdfast")
		build := exec.Command("go", "build", "-o", theBinary, "../../cmd/holdfast")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	if main, err = start(filepath.Join(dir, "data"), "hs.test"); err != nil {
		return 0, err
	}
	defer func() {
		if e := main.stop(); e != nil && err == nil {
			err = e
		}
		if code != 0 || err != nil {
			fmt.Fprintf(os.Stderr, "log of the program:\n%s", main.log.Bytes())
		}
	}()
	for _, name := range []string{"alice", "bob"} {
		if _, err := main.cli("user", "add", name, "--password", password); err != nil {
			return 0, err
		}
	}
	return m.Run(), nil
}

// start starts the program on a folder.
func start(data, name string, set ...string) (*program, error) {
	p := &program{bin: theBinary, data: data}
	args := []string{"serve", "--data", data}
	for _, s := range append([]string{"server_name=" + name, "tls.mode=off", "listen.http=127.0.0.1:0", "listen.metrics=", "sfu.enabled=false",
		"limits.enabled=false", "network.allow_private=true"}, set...) {
		args = append(args, "--set", s)
	}
	p.cmd = exec.Command(p.bin, args...)
	p.cmd.Stderr = &p.log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	found := make(chan string, 1)
	go func() {
		at := regexp.MustCompile(`http://localhost:\d+`)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if u := at.FindString(sc.Text()); u != "" && len(found) == 0 {
				found <- u
			}
		}
	}()
	select {
	case p.issuer = <-found:
		return p, nil
	case <-time.After(30 * time.Second):
		p.cmd.Process.Kill()
		p.cmd.Wait()
		return nil, fmt.Errorf("no address was printed:\n%s", p.log.Bytes())
	}
}

func (p *program) stop() error {
	if p.cmd == nil {
		return nil
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	err := p.cmd.Wait()
	p.cmd = nil
	if err != nil {
		return fmt.Errorf("the program did not stop cleanly: %w", err)
	}
	return nil
}

// cli runs a command at the command line.
func (p *program) cli(args ...string) ([]byte, error) {
	cmd := exec.Command(p.bin, append(args, "--data", p.data)...)
	var e bytes.Buffer
	cmd.Stderr = &e
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("holdfast %s: %w\n%s", strings.Join(args, " "), err, e.Bytes())
	}
	return out, nil
}

// app is an application that signs people in.
type app struct {
	t        *testing.T
	p        *program
	ID       string   `json:"client_id"`
	Secret   string   `json:"client_secret"`
	Redirect []string `json:"redirect_uris"`
	Logouts  []string `json:"post_logout_redirect_uris"`
	provider *oidc.Provider
	conf     oauth2.Config
}

// newApp makes an application at the command line and sets up a client of it.
func newApp(t *testing.T, p *program, flags ...string) *app {
	t.Helper()
	out, err := p.cli(append([]string{"app", "add", strings.ReplaceAll(t.Name(), "/", " "), "--json"}, flags...)...)
	if err != nil {
		t.Fatal(err)
	}
	a := &app{t: t, p: p}
	if err := json.Unmarshal(out, a); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if a.provider, err = oidc.NewProvider(t.Context(), p.issuer); err != nil {
		t.Fatal(err)
	}
	a.conf = oauth2.Config{ClientID: a.ID, ClientSecret: a.Secret, Endpoint: a.provider.Endpoint(), RedirectURL: a.Redirect[0], Scopes: []string{"openid"}}
	return a
}

// plain makes an application without PKCE, as the certification plan has it, whose
// people have an e-mail address.
func plain(t *testing.T) *app {
	t.Helper()
	return newApp(t, main, "--template", "grafana", "--url", "https://grafana.example.org", "--skip-consent")
}

// browser keeps cookies, and follows no redirect by itself.
type browser struct {
	t    *testing.T
	c    *http.Client
	p    *program
	seen []string // pages that wanted something of the person
	last string   // the last page

	header http.Header // of the last answer
}

func newBrowser(t *testing.T, p *program) *browser {
	jar, _ := cookiejar.New(nil)
	return &browser{t: t, p: p, c: &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func (b *browser) do(method, u string, form url.Values) (status int, location *url.URL, body string) {
	b.t.Helper()
	var in io.Reader
	if form != nil {
		in = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(b.t.Context(), method, u, in)
	if err != nil {
		b.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	resp, err := b.c.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	if l := resp.Header.Get("Location"); l != "" {
		if location, err = req.URL.Parse(l); err != nil {
			b.t.Fatal(err)
		}
	}
	b.last, b.header = string(raw), resp.Header
	return resp.StatusCode, location, string(raw)
}

var formAction = regexp.MustCompile(`<form[^>]* action="([^"]*)"`)

// answer sends the form of a page.
func (b *browser) answer(page *url.URL, form url.Values) (int, *url.URL) {
	b.t.Helper()
	m := formAction.FindStringSubmatch(b.last)
	if m == nil {
		b.t.Fatalf("the page %s has no form:\n%s", page.Path, b.last)
	}
	to, err := page.Parse(html.UnescapeString(m[1]))
	if err != nil {
		b.t.Fatal(err)
	}
	status, loc, _ := b.do("POST", to.String(), form)
	return status, loc
}

// errPage is a page that leads nowhere.
var errPage = errors.New("a page that leads nowhere")

// follow goes where a sign-in leads, as a person who answers what they are asked, until
// it leaves the program or ends on a page (errPage).
func (b *browser) follow(user string, at *url.URL) (*url.URL, error) {
	b.t.Helper()
	for range 15 {
		if !strings.HasPrefix(at.String(), b.p.issuer+"/") {
			return at, nil
		}
		status, loc, _ := b.do("GET", at.String(), nil)
		if loc == nil {
			b.seen = append(b.seen, at.Path)
			switch {
			case status == http.StatusOK && at.Path == "/login":
				status, loc = b.answer(at, url.Values{"username": {user}, "password": {password}})
			case status == http.StatusOK && at.Path == "/consent":
				status, loc = b.answer(at, url.Values{"answer": {"yes"}})
			}
			if loc == nil {
				return nil, fmt.Errorf("%w: %s %d", errPage, at.Path, status)
			}
		}
		at = loc
	}
	b.t.Fatalf("it goes round: %s", at)
	return nil, nil
}

// authorize sends a browser to sign in and returns what the application is answered.
func (a *app) authorize(b *browser, user string, params url.Values) (url.Values, error) {
	a.t.Helper()
	v := url.Values{"client_id": {a.ID}, "redirect_uri": {a.conf.RedirectURL}, "response_type": {"code"}, "scope": {strings.Join(a.conf.Scopes, " ")}, "state": {"st at&e"}, "nonce": {"nonce1"}}
	for k, x := range params {
		if v[k] = x; len(x) == 1 && x[0] == "" {
			v.Del(k)
		}
	}
	return a.go_(b, user, a.conf.Endpoint.AuthURL+"?"+v.Encode())
}

func (a *app) go_(b *browser, user, to string) (url.Values, error) {
	a.t.Helper()
	b.seen = nil
	u, err := url.Parse(to)
	if err != nil {
		a.t.Fatal(err)
	}
	end, err := b.follow(user, u)
	if err != nil {
		return nil, err
	}
	if at := end.Scheme + "://" + end.Host + end.Path; at != a.conf.RedirectURL {
		a.t.Fatalf("it ends at %s instead of %s", at, a.conf.RedirectURL)
	}
	q := end.Query()
	// RFC 9207, which every answer has here.
	if q.Get("iss") != a.p.issuer {
		a.t.Fatalf("the issuer of the answer is %q", q.Get("iss"))
	}
	return q, nil
}

// code is a code for a user.
func (a *app) code(b *browser, user string, params url.Values) string {
	a.t.Helper()
	q, err := a.authorize(b, user, params)
	if err != nil {
		a.t.Fatalf("%v\n%s", err, b.last)
	}
	if q.Get("code") == "" {
		a.t.Fatalf("no code: %v", q)
	}
	if s, given := params["state"]; !given && q.Get("state") != "st at&e" || given && q.Get("state") != s[0] {
		a.t.Fatalf("another state: %q", q.Get("state"))
	}
	return q.Get("code")
}

// tokens are what a code was traded for.
type tokens struct {
	*oauth2.Token
	id  *oidc.IDToken
	raw string
	all map[string]any // claims of the ID token
}

// trade trades a code and checks the ID token, as OpenID Connect Core section 3.1.3.7 has it.
func (a *app) trade(code string, opts ...oauth2.AuthCodeOption) (*tokens, error) {
	t, err := a.conf.Exchange(a.t.Context(), code, opts...)
	if err != nil {
		return nil, err
	}
	return a.check(t)
}

func (a *app) check(t *oauth2.Token) (*tokens, error) {
	raw, _ := t.Extra("id_token").(string)
	x := &tokens{Token: t, raw: raw}
	var err error
	if x.id, err = a.provider.Verifier(&oidc.Config{ClientID: a.ID}).Verify(a.t.Context(), raw); err != nil {
		return nil, err
	}
	if x.id.AccessTokenHash != "" {
		if err := x.id.VerifyAccessToken(t.AccessToken); err != nil {
			return nil, err
		}
	}
	return x, x.id.Claims(&x.all)
}

// signIn signs somebody in.
func (a *app) signIn(b *browser, user string, params url.Values) *tokens {
	a.t.Helper()
	x, err := a.trade(a.code(b, user, params))
	if err != nil {
		a.t.Fatal(err)
	}
	return x
}

func (a *app) userinfo(x *tokens) map[string]any {
	a.t.Helper()
	u, err := a.provider.UserInfo(a.t.Context(), oauth2.StaticTokenSource(x.Token))
	if err != nil {
		a.t.Fatal(err)
	}
	var m map[string]any
	if err := u.Claims(&m); err != nil {
		a.t.Fatal(err)
	}
	if u.Subject != x.id.Subject {
		a.t.Fatalf("userinfo is of %s, the ID token of %s", u.Subject, x.id.Subject)
	}
	return m
}

// refusedAs checks that a request is answered with an error.
func (a *app) refusedAs(b *browser, user string, params url.Values, code string) {
	a.t.Helper()
	q, err := a.authorize(b, user, params)
	if err != nil {
		a.t.Fatalf("%v\n%s", err, b.last)
	}
	if q.Get("error") != code || q.Get("code") != "" {
		a.t.Fatalf("answered with %v, not with %s", q, code)
	}
}

// oauthError is the error of a token endpoint's answer.
func oauthError(t *testing.T, err error) string {
	t.Helper()
	var e *oauth2.RetrieveError
	if !errors.As(err, &e) {
		t.Fatalf("no OAuth error: %v", err)
	}
	return e.ErrorCode
}

// module is one of the certification plan: its name there, what it checks, and the check.
type module struct {
	name, rule string
	check      func(t *testing.T)
}

// TestBasicPlan has the modules of the OpenID Foundation's
// oidcc-basic-certification-test-plan (client registration static, response type code),
// by their names there.
func TestBasicPlan(t *testing.T) {
	for _, m := range slices.Concat(planTokens, planParameters, planErrors) {
		if m.rule == "" {
			t.Errorf("%s cites no rule", m.name)
		}
		t.Run(m.name, func(t *testing.T) {
			t.Log(m.rule)
			m.check(t)
		})
	}
}

var planTokens = []module{
	{"oidcc-server", "Core 3.1: code flow; 2: the ID token; RFC 6749 5.1: the answer", func(t *testing.T) {
		a := plain(t)
		begun := time.Now().Add(-5 * time.Second)
		x := a.signIn(newBrowser(t, main), "alice", nil)
		if x.id.Issuer != main.issuer || !slices.Equal(x.id.Audience, []string{a.ID}) || x.id.Nonce != "nonce1" || x.id.Subject == "" || len(x.id.Subject) > 255 {
			t.Fatalf("%+v", x.id)
		}
		if x.id.IssuedAt.Before(begun) || !x.id.Expiry.After(time.Now()) || x.TokenType != "Bearer" || x.ExpiresIn <= 0 {
			t.Fatalf("%+v %+v", x.id, x.Token)
		}
		if x.all["auth_time"] == nil {
			t.Fatal("no auth_time")
		}
	}},
	{"oidcc-userinfo-get", "Core 5.3.1: GET with the token in the header", func(t *testing.T) {
		userinfoBy(t, func(a *app, token string) *http.Request {
			r, _ := http.NewRequest("GET", a.provider.UserInfoEndpoint(), nil)
			r.Header.Set("Authorization", "Bearer "+token)
			return r
		})
	}},
	{"oidcc-userinfo-post-header", "Core 5.3.1: POST with the token in the header", func(t *testing.T) {
		userinfoBy(t, func(a *app, token string) *http.Request {
			r, _ := http.NewRequest("POST", a.provider.UserInfoEndpoint(), nil)
			r.Header.Set("Authorization", "Bearer "+token)
			return r
		})
	}},
	{"oidcc-userinfo-post-body", "RFC 6750 2.2: POST with the token in the body", func(t *testing.T) {
		userinfoBy(t, func(a *app, token string) *http.Request {
			r, _ := http.NewRequest("POST", a.provider.UserInfoEndpoint(), strings.NewReader(url.Values{"access_token": {token}}.Encode()))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			return r
		})
	}},
	{"oidcc-ensure-request-without-nonce-succeeds-for-code-flow", "Core 3.1.2.1: nonce is optional in the code flow", func(t *testing.T) {
		if x := plain(t).signIn(newBrowser(t, main), "alice", url.Values{"nonce": {""}}); x.id.Nonce != "" {
			t.Fatalf("a nonce out of nothing: %q", x.id.Nonce)
		}
	}},
	{"oidcc-scope-profile", "Core 5.4: profile", func(t *testing.T) { scope(t, "openid profile", "name", "preferred_username") }},
	{"oidcc-scope-email", "Core 5.4: email", func(t *testing.T) { scope(t, "openid email", "email", "email_verified") }},
	{"oidcc-scope-address", "Core 5.4: what there is none of is left out", func(t *testing.T) { scope(t, "openid address") }},
	{"oidcc-scope-phone", "Core 5.4: what there is none of is left out", func(t *testing.T) { scope(t, "openid phone") }},
	{"oidcc-scope-all", "Core 5.4: all of them together", func(t *testing.T) {
		scope(t, "openid profile email address phone", "name", "preferred_username", "email", "email_verified")
	}},
	{"oidcc-server-client-secret-post", "RFC 6749 2.3.1: the secret in the body", func(t *testing.T) {
		a := plain(t)
		a.conf.Endpoint.AuthStyle = oauth2.AuthStyleInParams
		a.signIn(newBrowser(t, main), "alice", nil)
	}},
	{"oidcc-codereuse", "RFC 6749 4.1.2: a code is used once", func(t *testing.T) { reuse(t, 0) }},
	{"oidcc-codereuse-30seconds", "RFC 6749 4.1.2: and what it gave is revoked when it comes again", func(t *testing.T) {
		wait := time.Second
		if os.Getenv("HOLDFAST_LONG") != "" {
			wait = 30 * time.Second
		}
		reuse(t, wait)
	}},
	{"oidcc-refresh-token", "Core 12.2: the ID token of a refresh; RFC 6749 6", func(t *testing.T) {
		a := plain(t)
		a.conf.Scopes = []string{"openid", "offline_access"}
		x := a.signIn(newBrowser(t, main), "alice", url.Values{"prompt": {"consent"}})
		if x.RefreshToken == "" {
			t.Fatal("no refresh token")
		}
		again, err := a.conf.TokenSource(t.Context(), &oauth2.Token{RefreshToken: x.RefreshToken}).Token()
		if err != nil {
			t.Fatal(err)
		}
		y, err := a.check(again)
		if err != nil {
			t.Fatal(err)
		}
		if y.id.Issuer != x.id.Issuer || y.id.Subject != x.id.Subject || !slices.Equal(y.id.Audience, x.id.Audience) || y.all["auth_time"] != x.all["auth_time"] || y.id.Nonce != "" && y.id.Nonce != x.id.Nonce || y.id.IssuedAt.Before(x.id.IssuedAt) {
			t.Fatalf("%+v after %+v", y.all, x.all)
		}
		a.userinfo(y)
		other := plain(t)
		if _, err := other.conf.TokenSource(t.Context(), &oauth2.Token{RefreshToken: y.RefreshToken}).Token(); oauthError(t, err) != "invalid_grant" {
			t.Fatal(err)
		}
	}},
}

func userinfoBy(t *testing.T, request func(a *app, token string) *http.Request) {
	t.Helper()
	a := plain(t)
	x := a.signIn(newBrowser(t, main), "alice", nil)
	resp, err := http.DefaultClient.Do(request(a, x.AccessToken))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var m map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&m); err != nil || resp.StatusCode != 200 || m["sub"] != x.id.Subject || resp.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%d %v %v", resp.StatusCode, err, m)
	}
}

// claimsOf are the claims of the standard scopes.
var claimsOf = []string{"name", "preferred_username", "email", "email_verified", "address", "phone_number", "phone_number_verified", "groups"}

func scope(t *testing.T, scopes string, want ...string) {
	t.Helper()
	a := plain(t)
	x := a.signIn(newBrowser(t, main), "alice", url.Values{"scope": {scopes}})
	m := a.userinfo(x)
	for _, c := range claimsOf {
		if _, has := m[c]; has != slices.Contains(want, c) {
			t.Errorf("userinfo with %q: %s is %v", scopes, c, m[c])
		}
	}
	if slices.Contains(want, "preferred_username") && m["preferred_username"] != "alice" {
		t.Errorf("%v", m)
	}
}

func reuse(t *testing.T, wait time.Duration) {
	t.Helper()
	a := plain(t)
	code := a.code(newBrowser(t, main), "alice", nil)
	x, err := a.trade(code)
	if err != nil {
		t.Fatal(err)
	}
	a.userinfo(x)
	time.Sleep(wait)
	if _, err := a.trade(code); oauthError(t, err) != "invalid_grant" {
		t.Fatal(err)
	}
	if _, err := a.provider.UserInfo(context.Background(), oauth2.StaticTokenSource(x.Token)); err == nil {
		t.Fatal("the access token of the first use lives on")
	}
}
