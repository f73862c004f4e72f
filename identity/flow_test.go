package identity_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/identity"
	"holdfast/store"
)

func TestMetadata(t *testing.T) {
	r := newRig(t, nil)
	a := r.browser().get("/.well-known/openid-configuration")
	m := a.json(t)
	if a.Header.Get("Access-Control-Allow-Origin") != "*" || a.Header.Get("Access-Control-Allow-Credentials") != "" {
		t.Errorf("CORS: %v", a.Header)
	}
	if m["issuer"] != origin {
		t.Errorf("issuer %v", m["issuer"])
	}
	for _, k := range []string{"authorization_endpoint", "token_endpoint", "revocation_endpoint", "registration_endpoint", "device_authorization_endpoint", "jwks_uri", "userinfo_endpoint", "end_session_endpoint", "account_management_uri"} {
		if u, _ := m[k].(string); !strings.HasPrefix(u, origin+"/") {
			t.Errorf("%s is %v", k, m[k])
		}
	}
	// What the clients insist on. Lists hold exactly this: nothing is announced that is refused.
	for k, want := range map[string][]string{
		"response_types_supported": {"code"}, "response_modes_supported": {"query", "fragment", "form_post"}, "grant_types_supported": {"authorization_code", "refresh_token", deviceGrant},
		"code_challenge_methods_supported": {"S256"}, "token_endpoint_auth_methods_supported": {"none", "client_secret_basic", "client_secret_post", "private_key_jwt"}, "prompt_values_supported": {"none", "login", "consent", "select_account"},
	} {
		var got []string
		for _, x := range m[k].([]any) {
			got = append(got, x.(string))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s is %v, want %v", k, got, want)
		}
	}
	if b := r.browser().get("/.well-known/oauth-authorization-server"); b.body != a.body {
		t.Error("the two discovery documents differ")
	}
	req, _ := http.NewRequest("OPTIONS", origin+"/oauth2/token", nil)
	req.Header.Set("Origin", "https://app.test")
	req.Header.Set("Access-Control-Request-Method", "POST")
	if a := r.browser().do(req); a.StatusCode != 204 || a.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("preflight: %d %v", a.StatusCode, a.Header)
	}
}

func TestTokenAnswer(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c := r.client(nil)
	b := r.browser()
	a := b.api("/oauth2/token", exchangeForm(c, b.code("alice", authParams(c))))
	m := a.json(t)
	if m["token_type"] != "Bearer" || m["scope"] != matrixScope || m["expires_in"] != float64(300) || m["id_token"] != nil || m["state"] != nil {
		t.Fatalf("%s", a.body)
	}
	tk := r.tokens(a)
	if !strings.HasPrefix(tk.access, "mat_") || len(tk.access) < 4+32 || a.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("the token is weak or cached: %s", a.body)
	}
	p, err := r.svc.Lookup(t.Context(), tk.access)
	if err != nil || p.UserID != "@alice:example.org" || p.DeviceID != "ABCDEFGHIJ" || p.ClientID != c || p.Admin {
		t.Fatalf("%+v %v", p, err)
	}
	// The unstable spelling is answered in the unstable spelling.
	const unstable = "openid urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:org.matrix.msc2967.client:device:ZYXWVUTSRQ"
	m = b.api("/oauth2/token", exchangeForm(c, b.code("alice", authParams(c, "scope", unstable)))).json(t)
	if m["scope"] != unstable || m["refresh_token"] == nil || m["id_token"] == nil {
		t.Fatalf("%v", m)
	}
	// A short token ends when it says, and its owner is told to refresh.
	r.wait(5*time.Minute + time.Second)
	if _, err := r.svc.Lookup(t.Context(), tk.access); !errors.Is(err, identity.ErrExpiredToken) {
		t.Fatalf("after its life: %v", err)
	}
	r.wait(90 * 24 * time.Hour)
	r.wantError(r.refresh(c, tk.refresh), 400, "invalid_grant")
}

func TestIDToken(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("alice")
	c := r.client(nil)
	b := r.browser()
	m := b.api("/oauth2/token", exchangeForm(c, b.code("alice", authParams(c, "scope", "openid profile "+matrixScope, "nonce", "n-0S6")))).json(t)
	parts := strings.Split(m["id_token"].(string), ".")
	payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	if claims["iss"] != origin || claims["sub"] != u.ID || claims["nonce"] != "n-0S6" || claims["preferred_username"] != "alice" || strings.Contains(u.ID, ":") {
		t.Fatalf("%s", payload)
	}
	var keys struct {
		Keys []struct{ N, E, Kid, Alg, Use string }
	}
	if err := json.Unmarshal([]byte(b.get("/oauth2/jwks").body), &keys); err != nil || len(keys.Keys) != 1 || strings.Contains(b.get("/oauth2/jwks").body, `"d":`) {
		t.Fatalf("%v %+v", err, keys)
	}
	n, _ := base64.RawURLEncoding.DecodeString(keys.Keys[0].N)
	sig, _ := base64.RawURLEncoding.DecodeString(parts[2])
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}, crypto.SHA256, sum[:], sig); err != nil {
		t.Fatal(err)
	}
	// The key outlives a restart; another key file is noticed.
	r.stop()
	r.start()
	if again := r.browser().get("/oauth2/jwks"); !strings.Contains(again.body, keys.Keys[0].Kid) {
		t.Fatal("a restart made another key")
	}
}

func TestFirstPartyClient(t *testing.T) {
	const local = "http://localhost:8080"
	r := newRig(t, func(o *identity.Options) {
		o.Origin = func(q *http.Request) string {
			if q.Host == "localhost:8080" {
				return local
			}
			return origin
		}
	})
	r.user("alice")
	b := r.browser()
	v := authParams("holdfast-web", "redirect_uri", origin+"/", "response_mode", "fragment")
	loc := b.get("/oauth2/authorize?" + v.Encode()).to(t)
	loc = b.post(loc.String(), url.Values{"username": {"@alice:example.org"}, "password": {"correct horse alice"}}).to(t)
	if loc.Path != "/oauth2/authorize/callback" {
		t.Fatalf("our own client needs no consent, but is sent to %s", loc)
	}
	back := b.get(loc.String()).Header.Get("Location")
	frag, ok := strings.CutPrefix(back, origin+"/#")
	if !ok {
		t.Fatal(back)
	}
	q, _ := url.ParseQuery(frag)
	r.tokens(b.api("/oauth2/token", exchangeForm("holdfast-web", q.Get("code"), "redirect_uri", origin+"/")))
	// Signed in already: not even a page. prompt=none works, prompt=login asks again.
	if loc := b.get(b.get("/oauth2/authorize?" + v.Encode()).to(t).String()).to(t); loc.Path != "/oauth2/authorize/callback" {
		t.Fatalf("single sign-on leads to %s", loc)
	}
	v.Set("prompt", "none")
	if loc := b.get("/oauth2/authorize?" + v.Encode()).to(t); loc.Path != "/oauth2/authorize/callback" {
		t.Fatalf("prompt=none leads to %s", loc)
	}
	v.Set("prompt", "login")
	loc = b.get("/oauth2/authorize?" + v.Encode()).to(t)
	if a := b.get(loc.String()); a.StatusCode != 200 || !strings.Contains(a.body, `type="password"`) {
		t.Fatalf("prompt=login: %d", a.StatusCode)
	}
	v.Del("prompt")
	v.Set("max_age", "60")
	r.wait(2 * time.Minute)
	loc = b.get("/oauth2/authorize?" + v.Encode()).to(t)
	if a := b.get(loc.String()); a.StatusCode != 200 {
		t.Fatalf("max_age: %d", a.StatusCode)
	}
	for _, uri := range []string{"https://evil.test/", origin, origin + "/x", "http://localhost:9999/"} {
		r.page400(authParams("holdfast-web", "redirect_uri", uri))
	}
	// At http://localhost everything is on that origin, with a plain cookie.
	a := b.get(local + "/oauth2/authorize?" + authParams("holdfast-web", "redirect_uri", local+"/").Encode())
	a.to(t)
	if k := a.Cookies(); len(k) != 1 || k[0].Name != "hf_browser" || k[0].Secure {
		t.Fatalf("%+v", k)
	}
	if m := b.get(local + "/.well-known/openid-configuration").json(t); m["issuer"] != local {
		t.Fatalf("issuer %v", m["issuer"])
	}
}

func TestConsent(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	r.user("bob")
	c := r.client(nil)
	b := r.browser()
	open := func() (loc *url.URL, page answer) {
		loc = b.get("/oauth2/authorize?" + authParams(c).Encode()).to(t)
		if p := b.get(loc.String()); p.StatusCode == 200 {
			loc = b.post(loc.String(), url.Values{"username": {"alice"}, "password": {"correct horse alice"}}).to(t)
		} else {
			loc = p.to(t)
		}
		return loc, b.get(loc.String())
	}
	loc, page := open()
	for _, want := range []string{"Test App", "client.test", "@alice:example.org", "example.org"} {
		if !strings.Contains(page.body, want) {
			t.Errorf("the consent page does not name %s", want)
		}
	}
	q := b.post(loc.String(), url.Values{"answer": {"no"}}).to(t).Query()
	if q.Get("error") != "access_denied" || q.Get("state") != "s1" || q.Get("iss") != origin {
		t.Fatalf("%v", q)
	}
	if a := b.post(loc.String(), url.Values{"answer": {"yes"}}); a.StatusCode != 400 {
		t.Fatalf("agreed after declining: %d", a.StatusCode)
	}
	loc, _ = open()
	if to := b.post(loc.String(), url.Values{"answer": {"other"}}).to(t); to.Path != "/login" {
		t.Fatalf("another account: %s", to)
	}
	if a := b.get("/account"); a.StatusCode == 200 {
		t.Fatal("still signed in")
	}
	// Somebody else's name in the page is text, not markup.
	evil := r.client(func(m map[string]any) { m["client_name"] = `<script>alert(1)</script>` })
	loc = b.get("/oauth2/authorize?" + authParams(evil).Encode()).to(t)
	if a := b.get(loc.String()); strings.Contains(a.body, "<script>") {
		t.Fatal("a client's name is markup")
	}
}

func TestAccountPage(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("alice")
	r.user("bob")
	c := r.client(nil)
	tk := r.session("alice", c)
	bobs := r.session("bob", c)
	b := r.browser()
	to := b.get("/account?action=org.matrix.device_delete&device_id=ABCDEFGHIJ").to(t)
	if to.Path != "/login" || to.Query().Get("next") != "/account?action=org.matrix.device_delete&device_id=ABCDEFGHIJ" {
		t.Fatalf("not signed in: %s", to)
	}
	to = b.post(to.String(), url.Values{"username": {"alice"}, "password": {"correct horse alice"}}).to(t)
	page := b.get(to.String())
	_, rest, ok := strings.Cut(page.body, `name="session" value="`)
	if !ok || !strings.Contains(page.body, "ABCDEFGHIJ") || !strings.Contains(page.body, "Test App") {
		t.Fatalf("%d %s", page.StatusCode, page.body)
	}
	id, _, _ := strings.Cut(rest, `"`)
	if a := r.browser().post("/account/end", url.Values{"session": {id}}); a.StatusCode == 200 {
		t.Fatal("nobody ended somebody's session")
	}
	bob := r.browser()
	bob.post("/login", url.Values{"username": {"bob"}, "password": {"correct horse bob"}}).to(t)
	bob.post("/account/end", url.Values{"session": {id}})
	if !r.alive(tk.access) {
		t.Fatal("bob ended alice's session")
	}
	if a := b.post("/account/end", url.Values{"session": {id}}); a.StatusCode != 200 {
		t.Fatalf("%d", a.StatusCode)
	}
	if r.alive(tk.access) || r.devices.has(u.UserID, "ABCDEFGHIJ") || !r.alive(bobs.access) {
		t.Fatal("the wrong sessions ended")
	}

	// Password.
	change := func(current, a, b2 string) answer {
		return b.post("/account/password", url.Values{"current": {current}, "password": {a}, "password2": {b2}, "end_others": {"1"}})
	}
	tk = r.session("alice", c)
	for _, bad := range []answer{change("wrong", "a new password", "a new password"), change("correct horse alice", "a new password", "another"), change("correct horse alice", "short", "short")} {
		if bad.StatusCode < 400 {
			t.Fatalf("%d", bad.StatusCode)
		}
	}
	if a := change("correct horse alice", "a new password", "a new password"); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if r.alive(tk.access) || b.get("/account").StatusCode != 200 {
		t.Fatal("the other sessions live on, or this browser was signed out")
	}
	if _, err := r.svc.VerifyPassword(t.Context(), "alice", "a new password", ""); err != nil {
		t.Fatal(err)
	}

	// What cannot be undone wants a fresh sign-in.
	if ok, err := r.svc.ResetApproved(t.Context(), u.UserID); ok || err != nil {
		t.Fatal(ok, err)
	}
	r.wait(6 * time.Minute)
	if to := b.get("/account?action=org.matrix.cross_signing_reset").to(t); to.Path != "/reauth" {
		t.Fatalf("%s", to)
	}
	if a := b.post("/account/reset", nil); a.to(t).Path != "/reauth" {
		t.Fatal("approved without a fresh sign-in")
	}
	to = b.get("/account?action=org.matrix.cross_signing_reset").to(t)
	if a := b.post(to.String(), url.Values{"password": {"wrong"}}); a.StatusCode != 401 {
		t.Fatalf("%d", a.StatusCode)
	}
	to = b.post(to.String(), url.Values{"password": {"a new password"}}).to(t)
	if a := b.get(to.String()); a.StatusCode != 200 || !strings.Contains(a.body, `action="/account/reset"`) {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if ok, _ := r.svc.ResetApproved(t.Context(), u.UserID); ok {
		t.Fatal("looking at the page approved the reset")
	}
	b.post("/account/reset", nil)
	if ok, _ := r.svc.ResetApproved(t.Context(), u.UserID); !ok {
		t.Fatal("not approved")
	}
	r.wait(11 * time.Minute)
	if ok, _ := r.svc.ResetApproved(t.Context(), u.UserID); ok {
		t.Fatal("approved for ever")
	}

	b.post("/reauth", url.Values{"password": {"a new password"}})
	if a := b.post("/account/deactivate", url.Values{"confirm": {"bob"}}); a.StatusCode != 400 {
		t.Fatalf("%d", a.StatusCode)
	}
	if a := b.post("/account/deactivate", url.Values{"confirm": {"alice"}}); a.StatusCode != 200 {
		t.Fatalf("%d", a.StatusCode)
	}
	if got, _ := r.svc.User(t.Context(), "alice"); got.State != "deactivated" || got.HasPassword {
		t.Fatalf("%+v", got)
	}
}

func TestEveryPageRenders(t *testing.T) {
	r := newRig(t, func(o *identity.Options) { o.RegistrationOpen = true }) // the catalogue reports missing texts
	r.user("alice")
	c := r.client(nil)
	r.session("alice", c)
	b := r.browser()
	b.post("/login", url.Values{"username": {"alice"}, "password": {"correct horse alice"}}).to(t)
	for _, p := range []string{"/account", "/account?action=password", "/account?action=org.matrix.device_view&device_id=ABCDEFGHIJ", "/account?action=org.matrix.device_view&device_id=NO",
		"/account?action=org.matrix.account_deactivate", "/account?action=org.matrix.cross_signing_reset", "/account?action=unknown", "/account/security", "/account/security/app", "/logout", "/reauth", "/login/sso?redirectUrl=https://element.test/"} {
		a := b.get(p)
		if a.StatusCode != 200 || !strings.Contains(a.body, `<html lang="en">`) || strings.Count(a.body, "<h1") != 1 || strings.Contains(a.body, "{") {
			t.Errorf("%s: %d %s", p, a.StatusCode, a.body)
		}
	}
	n := r.browser()
	loc := n.get("/oauth2/authorize?" + authParams(c, "prompt", "create").Encode()).to(t)
	if loc.Path != "/login/create" {
		t.Fatalf("prompt=create leads to %s", loc)
	}
	if a := n.get(loc.String()); a.StatusCode != 200 {
		t.Fatalf("%d", a.StatusCode)
	}
	to := n.post(loc.String(), url.Values{"username": {"carol"}, "password": {"long enough"}, "password2": {"long enough"}}).to(t)
	if to = n.get(to.String()).to(t); to.Path != "/consent" {
		t.Fatalf("after making an account: %s", to)
	}
	// Without open registration it says how to get an account.
	closed := newRig(t, nil)
	c = closed.client(nil)
	n = closed.browser()
	loc = n.get("/oauth2/authorize?" + authParams(c, "prompt", "create").Encode()).to(t)
	if a := n.post(loc.String(), url.Values{"username": {"carol"}, "password": {"long enough"}, "password2": {"long enough"}}); a.StatusCode != 403 {
		t.Fatalf("closed registration: %d", a.StatusCode)
	}
}

func TestLegacySSO(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	b := r.browser()
	for _, bad := range []string{"", "javascript:alert(1)", "data:text/html,x", "//evil.test", "https://u@evil.test/", "https:///x", "/account"} {
		if a := b.get("/login/sso?" + url.Values{"redirectUrl": {bad}}.Encode()); a.StatusCode != 400 {
			t.Errorf("%q: %d", bad, a.StatusCode)
		}
	}
	path := "/login/sso?" + url.Values{"redirectUrl": {"https://element.test/?a=b"}}.Encode()
	to := b.get(path).to(t)
	to = b.post(to.String(), url.Values{"username": {"alice"}, "password": {"correct horse alice"}}).to(t)
	page := b.get(to.String())
	if page.StatusCode != 200 || !strings.Contains(page.body, "element.test") || strings.Contains(page.body, "loginToken") {
		t.Fatalf("%d %s", page.StatusCode, page.body)
	}
	back := b.post(to.String(), url.Values{"answer": {"yes"}}).to(t)
	token := back.Query().Get("loginToken")
	if back.Host != "element.test" || back.Query().Get("a") != "b" || token == "" {
		t.Fatalf("%s", back)
	}
	if id, err := r.svc.ConsumeLoginToken(t.Context(), token); err != nil || id != "@alice:example.org" {
		t.Fatal(id, err)
	}
	if _, err := r.svc.ConsumeLoginToken(t.Context(), token); !errors.Is(err, identity.ErrUnknownToken) {
		t.Fatalf("used twice: %v", err)
	}
	late := b.post(path, url.Values{"answer": {"yes"}}).to(t).Query().Get("loginToken")
	r.wait(61 * time.Second)
	if _, err := r.svc.ConsumeLoginToken(t.Context(), late); !errors.Is(err, identity.ErrUnknownToken) {
		t.Fatalf("after a minute: %v", err)
	}
}

func TestLegacySessions(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("alice")
	start := func(q identity.SessionRequest) identity.Tokens {
		t.Helper()
		q.UserID = u.UserID
		tk, err := r.svc.StartSession(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return tk
	}
	lasting := start(identity.SessionRequest{DeviceID: "ONE"})
	if lasting.ExpiresIn != 0 || lasting.Refresh != "" || lasting.DeviceID != "ONE" {
		t.Fatalf("%+v", lasting)
	}
	r.wait(400 * 24 * time.Hour)
	if !r.alive(lasting.Access) {
		t.Fatal("a lasting token ended")
	}
	// The same device again replaces its session, and keeps the device.
	again := start(identity.SessionRequest{DeviceID: "ONE", Refresh: true})
	if r.alive(lasting.Access) || !r.alive(again.Access) || !r.devices.has(u.UserID, "ONE") {
		t.Fatal("the device's old session lives on, or the device is gone")
	}
	next, err := r.svc.Refresh(t.Context(), again.Refresh)
	if err != nil || next.DeviceID != "ONE" || !r.alive(next.Access) {
		t.Fatal(next, err)
	}
	if _, err := r.svc.Refresh(t.Context(), "hrt_unknown"); !errors.Is(err, identity.ErrRefresh) {
		t.Fatal(err)
	}
	// A legacy token is nothing to the OAuth endpoints, nor the other way round.
	c := r.client(nil)
	r.wantError(r.refresh(c, next.Refresh), 400, "invalid_grant")
	oauth := r.session("alice", c)
	if _, err := r.svc.Refresh(t.Context(), oauth.refresh); !errors.Is(err, identity.ErrRefresh) {
		t.Fatal(err)
	}
	two := start(identity.SessionRequest{})
	if err := r.svc.EndAll(t.Context(), u.UserID, two.DeviceID); err != nil {
		t.Fatal(err)
	}
	if r.alive(next.Access) || !r.alive(two.Access) || r.devices.has(u.UserID, "ONE") || !r.devices.has(u.UserID, two.DeviceID) {
		t.Fatal("the wrong sessions ended")
	}
	if err := r.svc.EndDevice(t.Context(), u.UserID, two.DeviceID); err != nil || r.alive(two.Access) || r.devices.has(u.UserID, two.DeviceID) {
		t.Fatal("the device is still there", err)
	}
}

// A session with which nothing can be done any more ends, and its device goes: the
// account page does not show it, and its application may make room.
func TestDeadSessionsEnd(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("alice")
	c := r.client(nil)
	b := r.browser()
	count := func() int {
		t.Helper()
		if err := r.svc.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		page := b.get("/account")
		if page.StatusCode == http.StatusSeeOther {
			b.post("/login", url.Values{"username": {"alice"}, "password": {"correct horse alice"}})
			page = b.get("/account")
		}
		return strings.Count(page.body, `name="session"`)
	}
	// Somebody signs in at a site that is no Matrix client: it gets no refresh token.
	b.api("/oauth2/token", exchangeForm(c, b.code("alice", authParams(c, "scope", "openid profile"))))
	tk := r.session("alice", c)
	lasting, err := r.svc.StartSession(t.Context(), identity.SessionRequest{UserID: u.UserID, DeviceID: "LASTING"})
	if err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 3 {
		t.Fatalf("%d sessions, want 3", n)
	}
	r.wait(time.Hour)
	if n := count(); n != 2 {
		t.Errorf("%d sessions after the site's token expired, want 2", n)
	}
	for range 4 { // who comes back within 90 days stays
		r.wait(80 * 24 * time.Hour)
		tk = r.tokens(r.refresh(c, tk.refresh))
		if !r.alive(tk.access) || count() != 2 || !r.devices.has(u.UserID, "ABCDEFGHIJ") {
			t.Fatal("a session that is used ended")
		}
	}
	r.wait(91 * 24 * time.Hour)
	if n := count(); n != 1 || r.devices.has(u.UserID, "ABCDEFGHIJ") {
		t.Errorf("%d sessions after 91 days, want the lasting one", n)
	}
	if !r.alive(lasting.Access) || !r.devices.has(u.UserID, "LASTING") {
		t.Error("a token that does not expire ended")
	}
	r.wantError(r.refresh(c, tk.refresh), 400, "invalid_grant")
}

// What has to come together with an account comes with it, or neither does.
func TestCreateIsOneTransaction(t *testing.T) {
	r := newRig(t, nil)
	inv, err := r.svc.CreateInvite(t.Context(), identity.NewInvite{})
	if err != nil {
		t.Fatal(err)
	}
	trouble := errors.New("the other half failed")
	n := identity.NewUser{Localpart: "anna", Password: "correct horse anna", Invite: inv.Token, Source: "setup", Also: func(*store.Tx, identity.User) error { return trouble }}
	if _, err := r.svc.CreateUser(t.Context(), n); !errors.Is(err, trouble) {
		t.Fatal(err)
	}
	if users, err := r.svc.Users(t.Context()); err != nil || len(users) != 0 {
		t.Fatal(users, err)
	}
	n.Also = nil
	if _, err := r.svc.CreateUser(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

func TestAdminChangesShowAtOnce(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("alice")
	tk, _ := r.svc.StartSession(t.Context(), identity.SessionRequest{UserID: u.UserID})
	admin := func() bool {
		p, err := r.svc.Lookup(t.Context(), tk.Access)
		if err != nil {
			t.Fatal(err)
		}
		return p.Admin
	}
	for _, want := range []bool{false, true, false} {
		if err := r.svc.SetAdmin(t.Context(), u.UserID, want); err != nil {
			t.Fatal(err)
		}
		if admin() != want {
			t.Fatalf("admin is not %v", want)
		}
	}
	if err := r.svc.SetSuspended(t.Context(), u.UserID, true); err != nil {
		t.Fatal(err)
	}
	if p, err := r.svc.Lookup(t.Context(), tk.Access); err != nil || !p.Suspended {
		t.Fatal(p, err)
	}
}

func TestNames(t *testing.T) {
	r := newRig(t, func(o *identity.Options) { o.Reserved = func(l string) bool { return strings.HasPrefix(l, "_irc_") } })
	for name, want := range map[string]error{
		"": identity.ErrBadName, "Alice": identity.ErrBadName, "a b": identity.ErrBadName, "ä": identity.ErrBadName, "a:b": identity.ErrBadName, "a@b": identity.ErrBadName,
		strings.Repeat("a", 255): identity.ErrBadName, "_irc_x": identity.ErrReserved, "a.b_c=d-e/f+1": nil,
	} {
		_, err := r.svc.CreateUser(t.Context(), identity.NewUser{Localpart: name, Password: "long enough", Source: "register"})
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", name, err, want)
		}
	}
	if _, err := r.svc.CreateUser(t.Context(), identity.NewUser{Localpart: "_irc_x", Source: "appservice"}); err != nil {
		t.Error(err)
	}
	if _, err := r.svc.VerifyPassword(t.Context(), "_irc_x", "", ""); !errors.Is(err, identity.ErrWrongPassword) {
		t.Errorf("an account without a password: %v", err)
	}
	if _, err := r.svc.CreateUser(t.Context(), identity.NewUser{Localpart: "weak", Password: "1234567", Source: "register"}); !errors.Is(err, identity.ErrWeakPassword) {
		t.Error(err)
	}
}

func BenchmarkLookup(b *testing.B) {
	db, err := store.Open(b.Context(), filepath.Join(b.TempDir(), "holdfast.db"), store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	r, err := identity.New(b.Context(), identity.Options{ServerName: "example.org", PublicURL: origin, DB: db})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	if _, err := r.CreateUser(b.Context(), identity.NewUser{Localpart: "alice", Source: "cli"}); err != nil {
		b.Fatal(err)
	}
	tk, err := r.StartSession(b.Context(), identity.SessionRequest{UserID: "@alice:example.org"})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	if _, err := r.Lookup(b.Context(), tk.Access); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := r.Lookup(b.Context(), tk.Access); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// TestRegistrationToken: a word registers as many accounts as it may, whoever uses it
// at once.
func TestRegistrationToken(t *testing.T) {
	r := newRig(t, nil)
	two := int64(2)
	word := identity.NewTokenWord(16)
	if err := r.svc.CreateRegistrationToken(t.Context(), identity.RegistrationToken{Token: word, Uses: &two}); err != nil {
		t.Fatal(err)
	}
	if err := r.svc.CreateRegistrationToken(t.Context(), identity.RegistrationToken{Token: word}); !errors.Is(err, identity.ErrTokenExists) {
		t.Fatalf("the same word twice: %v", err)
	}
	valid := func() bool {
		ok, err := r.svc.InviteValid(t.Context(), word)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if !valid() {
		t.Fatal("a new token is not valid")
	}
	made := make(chan error)
	for _, name := range []string{"a", "b", "c", "d"} {
		go func() {
			u, err := r.svc.CreateUser(t.Context(), identity.NewUser{Localpart: name, Password: "long enough", Invite: word, Source: "register"})
			if err == nil && u.Admin {
				err = errors.New("it made an administrator")
			}
			made <- err
		}()
	}
	good := 0
	for range 4 {
		if err := <-made; err == nil {
			good++
		} else if !errors.Is(err, identity.ErrInvite) {
			t.Error(err)
		}
	}
	got, err := r.svc.RegistrationToken(t.Context(), word)
	if good != 2 || err != nil || got.Completed != 2 || valid() {
		t.Fatalf("%d accounts were made, %+v, %v", good, got, err)
	}
}
