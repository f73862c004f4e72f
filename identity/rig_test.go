package identity_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/identity"
	"holdfast/store"
	"holdfast/store/audit"
)

const origin = "https://chat.example.org"

// rig is an identity provider on a real database, and browsers to use it with.
type rig struct {
	t       *testing.T
	svc     *identity.Service
	h       http.Handler
	db      *store.DB
	log     *audit.Log
	path    string
	opts    identity.Options
	devices *deviceList
	program *program // in the place of svc, db and log
	addr    string   // of its browsers; "": 192.0.2.1:40000

	mu     sync.Mutex
	offset time.Duration
}

// deviceList is what the homeserver would keep.
type deviceList struct {
	mu  sync.Mutex
	m   map[string]string
	ask func(userID, deviceID string) bool // who keeps it, if not this
}

func (d *deviceList) UpsertDevice(tx *store.Tx, userID, deviceID, name string) error {
	tx.AfterCommit(func() { d.mu.Lock(); defer d.mu.Unlock(); d.m[userID+"|"+deviceID] = name })
	return nil
}

func (d *deviceList) DeleteDevice(tx *store.Tx, userID, deviceID string) error {
	tx.AfterCommit(func() { d.mu.Lock(); defer d.mu.Unlock(); delete(d.m, userID+"|"+deviceID) })
	return nil
}

func (d *deviceList) has(userID, deviceID string) bool {
	if d.ask != nil {
		return d.ask(userID, deviceID)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.m[userID+"|"+deviceID]
	return ok
}

func catalogue(t testing.TB) func(lang, key string) string {
	b, err := os.ReadFile("../web/ui/src/i18n/en.json")
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]string
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return func(_, key string) string {
		s, ok := m[key]
		if !ok {
			t.Errorf("the catalogue has no %q", key)
		}
		return s
	}
}

func newRig(t *testing.T, change func(*identity.Options)) *rig {
	if strings.HasPrefix(t.Name(), onTheProgram) {
		return running.rig(t)
	}
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "holdfast.db"), devices: &deviceList{m: map[string]string{}}}
	r.opts = identity.Options{
		ServerName: "example.org", PublicURL: origin, Devices: r.devices, Text: catalogue(t), Limits: true,
		PasswordCost: identity.PasswordCost{MemoryKiB: 64, Passes: 1, Threads: 1}, Now: r.now,
	}
	if change != nil {
		change(&r.opts)
	}
	r.start()
	t.Cleanup(r.stop)
	return r
}

func (r *rig) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Add(r.offset)
}

// wait lets time pass.
func (r *rig) wait(d time.Duration) {
	if r.program != nil {
		r.t.Fatal("the program's clock is its own")
	}
	r.mu.Lock()
	r.offset += d
	r.mu.Unlock()
}

func (r *rig) start() {
	r.t.Helper()
	var err error
	if r.db, err = store.Open(r.t.Context(), r.path, store.Options{}); err != nil {
		r.t.Fatal(err)
	}
	o := r.opts
	o.DB = r.db
	key, err := identity.AuditKey(r.db)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.log, err = audit.Open(context.Background(), audit.Options{DB: r.db, Key: key, Now: r.now}); err != nil {
		r.t.Fatal(err)
	}
	o.Audit = r.log
	if r.svc, err = identity.New(context.Background(), o); err != nil {
		r.t.Fatal(err)
	}
	r.svc.Start()
	pages := r.svc.Handler()
	r.h = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		ip, _, _ := net.SplitHostPort(q.RemoteAddr)
		pages.ServeHTTP(w, q.WithContext(audit.From(q.Context(), ip)))
	})
}

func (r *rig) stop() {
	r.svc.Close()
	r.log.Close()
	r.db.Close()
}

func (r *rig) user(name string) identity.User {
	r.t.Helper()
	if r.program != nil {
		return r.program.user(r.t, name)
	}
	u, err := r.svc.CreateUser(r.t.Context(), identity.NewUser{Localpart: name, DisplayName: strings.ToUpper(name), Password: "correct horse " + name, Source: "cli"})
	if err != nil {
		r.t.Fatal(err)
	}
	return u
}

// browser keeps cookies and follows no redirect by itself.
type browser struct {
	r    *rig
	c    *http.Client
	addr string
}

func (r *rig) browser() *browser {
	jar, _ := cookiejar.New(nil)
	b := &browser{r: r, addr: cmp.Or(r.addr, "192.0.2.1:40000")}
	b.c = &http.Client{Jar: jar, Transport: b, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return b
}

// RoundTrip hands the request to the handler, as it would arrive.
func (b *browser) RoundTrip(req *http.Request) (*http.Response, error) {
	in := req.Clone(req.Context())
	in.RemoteAddr, in.RequestURI = b.addr, req.URL.RequestURI()
	in.Host = req.Host
	if in.Host == "" {
		in.Host = req.URL.Host
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	rec := httptest.NewRecorder()
	b.r.h.ServeHTTP(rec, in)
	res := rec.Result()
	res.Request = req
	return res, nil
}

type answer struct {
	*http.Response
	body string
}

func (a answer) json(t *testing.T) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(a.body), &m); err != nil {
		t.Fatalf("%s: %v: %.200s", a.Request.URL.Path, err, a.body)
	}
	return m
}

func (b *browser) do(req *http.Request) answer {
	b.r.t.Helper()
	res, err := b.c.Do(req)
	if err != nil {
		b.r.t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	return answer{res, string(body)}
}

func abs(u string) string {
	if strings.HasPrefix(u, "/") {
		return origin + u
	}
	return u
}

func (b *browser) get(u string) answer {
	req, err := http.NewRequest("GET", abs(u), nil)
	if err != nil {
		b.r.t.Fatal(err)
	}
	return b.do(req)
}

// post sends a form of our own pages.
func (b *browser) post(u string, v url.Values) answer {
	req, _ := http.NewRequest("POST", abs(u), strings.NewReader(v.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	return b.do(req)
}

// api sends a form as an application does.
func (b *browser) api(u string, v url.Values) answer {
	req, _ := http.NewRequest("POST", abs(u), strings.NewReader(v.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.do(req)
}

func (b *browser) postJSON(u string, v any) answer {
	raw, _ := json.Marshal(v)
	req, _ := http.NewRequest("POST", abs(u), bytes.NewReader(raw))
	req.Header.Set("Content-Type", "application/json")
	return b.do(req)
}

const (
	verifier    = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	webRedirect = "https://app.client.test/callback?x=1"
	matrixScope = "urn:matrix:client:api:* urn:matrix:client:device:ABCDEFGHIJ"
)

func challenge() string {
	h := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

func (r *rig) client(change func(map[string]any)) string {
	r.t.Helper()
	m := map[string]any{
		"client_name": "Test App", "client_uri": "https://client.test/", "redirect_uris": []string{webRedirect},
		"token_endpoint_auth_method": "none", "response_types": []string{"code"}, "grant_types": []string{"authorization_code", "refresh_token"}, "application_type": "web",
	}
	if change != nil {
		change(m)
	}
	a := r.browser().postJSON("/oauth2/registration", m)
	if a.StatusCode != http.StatusCreated {
		r.t.Fatalf("registration: %d %s", a.StatusCode, a.body)
	}
	return a.json(r.t)["client_id"].(string)
}

func (r *rig) native() string {
	return r.client(func(m map[string]any) {
		m["application_type"] = "native"
		m["redirect_uris"] = []string{"test.client.app:/cb", "http://localhost/cb", "http://127.0.0.1/cb", "http://[::1]/cb"}
	})
}

func authParams(client string, kv ...string) url.Values {
	v := url.Values{"client_id": {client}, "redirect_uri": {webRedirect}, "response_type": {"code"}, "scope": {matrixScope}, "state": {"s1"},
		"code_challenge": {challenge()}, "code_challenge_method": {"S256"}}
	for i := 0; i < len(kv); i += 2 {
		if kv[i+1] == "" {
			v.Del(kv[i])
		} else {
			v.Set(kv[i], kv[i+1])
		}
	}
	return v
}

// to checks for a redirect and returns where it leads.
func (a answer) to(t *testing.T) *url.URL {
	t.Helper()
	if a.StatusCode != http.StatusSeeOther && a.StatusCode != http.StatusFound {
		t.Fatalf("%s %s: no redirect but %d: %.300s", a.Request.Method, a.Request.URL.Path, a.StatusCode, a.body)
	}
	u, err := url.Parse(a.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// signIn goes through login and consent up to the callback's address.
func (b *browser) signIn(user string, v url.Values) string {
	t := b.r.t
	t.Helper()
	loc := b.get("/oauth2/authorize?" + v.Encode()).to(t)
	if loc.Path != "/login" {
		t.Fatalf("authorize leads to %s", loc)
	}
	page := b.get(loc.String())
	if page.StatusCode == http.StatusOK {
		loc = b.post(loc.String(), url.Values{"username": {user}, "password": {"correct horse " + user}}).to(t)
	} else {
		loc = page.to(t)
	}
	if loc.Path == "/consent" {
		if p := b.get(loc.String()); p.StatusCode != http.StatusOK {
			t.Fatalf("consent: %d", p.StatusCode)
		}
		loc = b.post(loc.String(), url.Values{"answer": {"yes"}}).to(t)
	}
	if loc.Path != "/oauth2/authorize/callback" {
		t.Fatalf("sign-in leads to %s", loc)
	}
	return loc.String()
}

// code is a fresh code.
func (b *browser) code(user string, v url.Values) string {
	b.r.t.Helper()
	u := b.get(b.signIn(user, v)).to(b.r.t)
	c := u.Query().Get("code")
	if c == "" {
		b.r.t.Fatalf("no code in %s", u)
	}
	return c
}

func exchangeForm(client, code string, kv ...string) url.Values {
	v := url.Values{"grant_type": {"authorization_code"}, "client_id": {client}, "code": {code}, "redirect_uri": {webRedirect}, "code_verifier": {verifier}}
	for i := 0; i < len(kv); i += 2 {
		if kv[i+1] == "" {
			v.Del(kv[i])
		} else {
			v.Set(kv[i], kv[i+1])
		}
	}
	return v
}

type tokens struct{ access, refresh string }

// session signs a user in and returns the tokens.
func (r *rig) session(user, client string) tokens {
	r.t.Helper()
	a := r.browser().api("/oauth2/token", exchangeForm(client, r.browser().code(user, authParams(client))))
	return r.tokens(a)
}

func (r *rig) tokens(a answer) tokens {
	r.t.Helper()
	if a.StatusCode != http.StatusOK {
		r.t.Fatalf("token: %d %s", a.StatusCode, a.body)
	}
	m := a.json(r.t)
	tk := tokens{}
	tk.access, _ = m["access_token"].(string)
	tk.refresh, _ = m["refresh_token"].(string)
	if tk.access == "" || tk.refresh == "" {
		r.t.Fatalf("tokens are missing: %s", a.body)
	}
	return tk
}

func (r *rig) refresh(client, token string, kv ...string) answer {
	v := url.Values{"grant_type": {"refresh_token"}, "client_id": {client}, "refresh_token": {token}}
	for i := 0; i < len(kv); i += 2 {
		v.Set(kv[i], kv[i+1])
	}
	return r.browser().api("/oauth2/token", v)
}

// alive reports whether an access token works at the Matrix API.
func (r *rig) alive(token string) bool {
	r.t.Helper()
	if r.program != nil {
		switch code := r.program.matrix(r.t, "GET", "/_matrix/client/v3/account/whoami", token, nil, nil); code {
		case http.StatusOK:
			return true
		case http.StatusUnauthorized:
			return false
		default:
			r.t.Fatalf("whoami: %d", code)
		}
	}
	_, err := r.svc.Lookup(r.t.Context(), token)
	switch err {
	case nil:
		return true
	case identity.ErrUnknownToken, identity.ErrExpiredToken, identity.ErrLocked, identity.ErrDeactivated:
		return false
	}
	r.t.Fatal(err)
	return false
}

// disable locks an account, or unlocks it.
func (r *rig) disable(u identity.User, off bool) {
	r.t.Helper()
	if r.program != nil {
		r.program.disable(r.t, u, off)
	} else if err := r.svc.SetDisabled(r.t.Context(), u.UserID, off); err != nil {
		r.t.Fatal(err)
	}
}

// deactivate closes an account for good.
func (r *rig) deactivate(u identity.User) {
	r.t.Helper()
	if r.program != nil {
		r.program.deactivate(r.t, u)
	} else if err := r.svc.Deactivate(r.t.Context(), u.UserID); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) invite(n identity.NewInvite) identity.Invite {
	r.t.Helper()
	if r.program != nil {
		return r.program.invite(r.t, n)
	}
	inv, err := r.svc.CreateInvite(r.t.Context(), n)
	if err != nil {
		r.t.Fatal(err)
	}
	return inv
}

func (r *rig) revoke(inv identity.Invite) {
	r.t.Helper()
	if r.program != nil {
		r.program.revoke(r.t, inv)
	} else if err := r.svc.RevokeInvite(r.t.Context(), inv.ID); err != nil {
		r.t.Fatal(err)
	}
}

// exists reports whether there is an account of a name.
func (r *rig) exists(name string) bool {
	r.t.Helper()
	if r.program != nil {
		return r.program.exists(r.t, name)
	}
	users, err := r.svc.Users(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return slices.ContainsFunc(users, func(u identity.User) bool { return u.Localpart == name })
}

// locked reports whether the Matrix API refuses an access token as a locked account's.
func (r *rig) locked(token string) bool {
	r.t.Helper()
	if r.program == nil {
		_, err := r.svc.Lookup(r.t.Context(), token)
		return errors.Is(err, identity.ErrLocked)
	}
	var out map[string]any
	code := r.program.matrix(r.t, "GET", "/_matrix/client/v3/account/whoami", token, nil, &out)
	return code == http.StatusUnauthorized && out["errcode"] == "M_USER_LOCKED"
}

// unknown reports whether the Matrix API does not know an access token.
func (r *rig) unknown(token string) bool {
	r.t.Helper()
	if r.program == nil {
		_, err := r.svc.Lookup(r.t.Context(), token)
		return errors.Is(err, identity.ErrUnknownToken)
	}
	var out map[string]any
	code := r.program.matrix(r.t, "GET", "/_matrix/client/v3/account/whoami", token, nil, &out)
	return code == http.StatusUnauthorized && out["errcode"] == "M_UNKNOWN_TOKEN" && out["soft_logout"] != true
}

func (r *rig) wantError(a answer, status int, code string) {
	r.t.Helper()
	if a.StatusCode != status {
		r.t.Fatalf("%s: %d, want %d: %.300s", a.Request.URL.Path, a.StatusCode, status, a.body)
	}
	if code != "" && a.json(r.t)["error"] != code {
		r.t.Fatalf("error %v, want %s", a.json(r.t)["error"], code)
	}
	if a.Header.Get("Cache-Control") != "no-store" {
		r.t.Errorf("%s may be cached", a.Request.URL.Path)
	}
}
