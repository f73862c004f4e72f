package appliance_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"holdfast/appliance/appliancetest"
)

// peer talks to a running appliance as an application or a browser does.
type peer struct {
	t     *testing.T
	s     *appliancetest.Server
	c     *http.Client
	token string
}

func newPeer(t *testing.T, s *appliancetest.Server) *peer {
	jar, _ := cookiejar.New(nil)
	return &peer{t: t, s: s, c: &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

type obj = map[string]any

type reply struct {
	*http.Response
	body string
	m    obj
}

func (p *peer) with(token string) *peer {
	q := *p
	q.token = token
	return &q
}

func (p *peer) send(method, path, contentType string, body io.Reader) reply {
	p.t.Helper()
	if strings.HasPrefix(path, "/") {
		path = p.s.URL + path
	}
	req, err := http.NewRequest(method, path, body)
	if err != nil {
		p.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	res, err := p.c.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	r := reply{Response: res, body: string(b)}
	json.Unmarshal(b, &r.m)
	return r
}

func (p *peer) call(method, path string, body any) reply {
	p.t.Helper()
	var rd io.Reader
	if body != nil {
		b, _ := json.Marshal(body)
		rd = bytes.NewReader(b)
	}
	return p.send(method, "/_matrix/client/v3"+path, "application/json", rd)
}

func (p *peer) form(path string, v url.Values) reply {
	p.t.Helper()
	return p.send("POST", path, "application/x-www-form-urlencoded", strings.NewReader(v.Encode()))
}

// want checks status and error code, and returns the answer.
func (r reply) want(t *testing.T, status int, code string) reply {
	t.Helper()
	got, _ := r.m["errcode"].(string)
	if r.StatusCode != status || got != code {
		t.Fatalf("%s %s: %d %s, want %d %s: %s", r.Request.Method, r.Request.URL.Path, r.StatusCode, got, status, code, r.body)
	}
	return r
}

func (r reply) str(key string) string { s, _ := r.m[key].(string); return s }

func password(user, pass string) obj {
	return obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": user}, "password": pass}
}

func TestRegisterOpen(t *testing.T) {
	s := appliancetest.Start(t, "registration.open=true")
	p := newPeer(t, s)
	dummy := obj{"type": "m.login.dummy"}
	// One request.
	r := p.call("POST", "/register", obj{"username": "alice", "password": "long enough", "auth": dummy, "device_id": "DEV", "initial_device_display_name": "Phone"}).want(t, 200, "")
	if r.str("user_id") != "@alice:hs.test" || r.str("device_id") != "DEV" || r.str("access_token") == "" {
		t.Fatal(r.body)
	}
	who := p.with(r.str("access_token")).call("GET", "/account/whoami", nil).want(t, 200, "")
	if who.str("user_id") != "@alice:hs.test" || who.str("device_id") != "DEV" {
		t.Fatal(who.body)
	}
	if d := p.with(r.str("access_token")).call("GET", "/devices/DEV", nil).want(t, 200, ""); d.str("display_name") != "Phone" {
		t.Fatal(d.body)
	}
	if d := p.with(r.str("access_token")).call("GET", "/profile/@alice:hs.test", nil).want(t, 200, ""); d.str("displayname") != "alice" {
		t.Fatal(d.body)
	}
	// In two, with the parameters only in the first.
	r = p.call("POST", "/register", obj{"username": "Bob", "password": "long enough", "inhibit_login": true})
	if r.StatusCode != 401 || r.str("session") == "" || !strings.Contains(r.body, `{"stages":["m.login.dummy"]}`) {
		t.Fatal(r.StatusCode, r.body)
	}
	session := r.str("session")
	r = p.call("POST", "/register", obj{"auth": obj{"type": "m.login.dummy", "session": session}}).want(t, 200, "")
	if r.str("user_id") != "@bob:hs.test" || r.str("access_token") != "" {
		t.Fatal(r.body)
	}
	if r = p.call("POST", "/register", obj{"username": "carl", "password": "long enough", "auth": obj{"session": session}}); r.StatusCode != 401 {
		t.Fatalf("a session completed twice: %s", r.body)
	}
	for _, c := range []struct {
		body obj
		code string
	}{
		{obj{"username": "alice", "password": "long enough", "auth": dummy}, "M_USER_IN_USE"},
		{obj{"username": "ä", "password": "long enough", "auth": dummy}, "M_INVALID_USERNAME"},
		{obj{"username": "", "password": "long enough", "auth": dummy}, "M_INVALID_USERNAME"},
		{obj{"username": "dora", "password": "short", "auth": dummy}, "M_WEAK_PASSWORD"},
		{obj{"username": "dora", "auth": dummy}, "M_MISSING_PARAM"},
		{obj{"username": "dora", "password": "long enough", "auth": "x"}, "M_BAD_JSON"},
		{obj{"username": "dora", "password": "long enough", "auth": dummy, "device_id": strings.Repeat("x", 300)}, "M_INVALID_PARAM"},
	} {
		p.call("POST", "/register", c.body).want(t, 400, c.code)
	}
	p.call("POST", "/register?kind=guest", obj{}).want(t, 403, "M_GUEST_ACCESS_FORBIDDEN")
	p.call("GET", "/register/available?username=dora", nil).want(t, 200, "")
	p.call("GET", "/register/available?username=alice", nil).want(t, 400, "M_USER_IN_USE")
	// A name is made up when none is asked for.
	if r = p.call("POST", "/register", obj{"password": "long enough", "auth": dummy}).want(t, 200, ""); len(r.str("user_id")) < len("@x:hs.test") {
		t.Fatal(r.body)
	}
	p.call("POST", "/register", obj{"type": "m.login.application_service", "username": "_bot"}).want(t, 401, "M_MISSING_TOKEN")
}

func TestRegisterWithInvite(t *testing.T) {
	s := appliancetest.Start(t)
	p := newPeer(t, s)
	out, _, code := s.CLI(t, "invite", "--json")
	var inv struct {
		URL string `json:"url"`
	}
	if err := json.Unmarshal([]byte(out), &inv); err != nil || code != 0 {
		t.Fatal(out, err)
	}
	token := inv.URL[strings.LastIndex(inv.URL, "/")+1:]
	valid := func() bool {
		r := p.send("GET", "/_matrix/client/v1/register/m.login.registration_token/validity?token="+token, "", nil).want(t, 200, "")
		return r.m["valid"] == true
	}
	if !valid() {
		t.Fatal("a new invite is not valid")
	}
	body := obj{"username": "alice", "password": "long enough"}
	r := p.call("POST", "/register", body)
	if r.StatusCode != 401 || !strings.Contains(r.body, "m.login.registration_token") || strings.Contains(r.body, "dummy") {
		t.Fatal(r.body)
	}
	body["auth"] = obj{"type": "m.login.dummy", "session": r.str("session")}
	p.call("POST", "/register", body).want(t, 401, "M_FORBIDDEN")
	body["auth"] = obj{"type": "m.login.registration_token", "session": r.str("session"), "token": "wrong"}
	p.call("POST", "/register", body).want(t, 401, "M_UNAUTHORIZED")
	body["auth"] = obj{"type": "m.login.registration_token", "session": r.str("session"), "token": token}
	p.call("POST", "/register", body).want(t, 200, "")
	if valid() {
		t.Fatal("a used invite is still valid")
	}
	body["username"] = "bob"
	p.call("POST", "/register", body).want(t, 401, "M_UNAUTHORIZED")
}

func TestLoginAndLogout(t *testing.T) {
	s := appliancetest.Start(t, "registration.open=true")
	p := newPeer(t, s)
	p.call("POST", "/register", obj{"username": "alice", "password": "long enough", "auth": obj{"type": "m.login.dummy"}, "inhibit_login": true}).want(t, 200, "")
	flows := p.call("GET", "/login", nil).want(t, 200, "")
	for _, f := range []string{`"m.login.password"`, `"m.login.sso"`, `"oauth_aware_preferred":true`, `"m.login.token"`} {
		if !strings.Contains(flows.body, f) {
			t.Errorf("no %s in %s", f, flows.body)
		}
	}
	for _, user := range []string{"alice", "Alice", "@alice:hs.test"} {
		p.call("POST", "/login", password(user, "long enough")).want(t, 200, "")
	}
	p.call("POST", "/login", obj{"type": "m.login.password", "user": "alice", "password": "long enough"}).want(t, 200, "")
	for _, c := range []struct {
		body   obj
		status int
		code   string
	}{
		{password("alice", "wrong"), 403, "M_FORBIDDEN"},
		{password("nobody", "wrong"), 403, "M_FORBIDDEN"},
		{password("@alice:elsewhere.test", "long enough"), 403, "M_FORBIDDEN"},
		{password("alice", ""), 403, "M_FORBIDDEN"},
		{password("", "x"), 400, "M_MISSING_PARAM"},
		{obj{"type": "m.login.password", "identifier": obj{"type": "m.id.thirdparty", "medium": "email", "address": "a@b"}, "password": "x"}, 403, "M_FORBIDDEN"},
		{obj{"type": "m.login.unknown"}, 400, "M_UNKNOWN"},
		{obj{}, 400, "M_MISSING_PARAM"},
		{obj{"type": "m.login.token", "token": "wrong"}, 403, "M_FORBIDDEN"},
		{obj{"type": "m.login.application_service", "identifier": obj{"type": "m.id.user", "user": "alice"}}, 401, "M_MISSING_TOKEN"},
	} {
		p.call("POST", "/login", c.body).want(t, c.status, c.code)
	}

	// Refresh: the old pair works until the new one is used.
	body := password("alice", "long enough")
	body["refresh_token"], body["device_id"] = true, "PHONE"
	in := p.call("POST", "/login", body).want(t, 200, "")
	if in.m["expires_in_ms"] != float64(300000) {
		t.Fatal(in.body)
	}
	next := p.call("POST", "/refresh", obj{"refresh_token": in.str("refresh_token")}).want(t, 200, "")
	p.with(in.str("access_token")).call("GET", "/account/whoami", nil).want(t, 200, "")
	again := p.call("POST", "/refresh", obj{"refresh_token": in.str("refresh_token")}).want(t, 200, "")
	if next.str("access_token") != again.str("access_token") || next.str("refresh_token") != again.str("refresh_token") {
		t.Fatal("a lost answer cannot be asked for again")
	}
	alice := p.with(next.str("access_token"))
	alice.call("GET", "/account/whoami", nil).want(t, 200, "")
	if r := p.with(in.str("access_token")).call("GET", "/account/whoami", nil).want(t, 401, "M_UNKNOWN_TOKEN"); r.m["soft_logout"] != true {
		t.Fatal(r.body)
	}
	p.call("POST", "/refresh", obj{"refresh_token": in.str("refresh_token")}).want(t, 401, "M_UNKNOWN_TOKEN")
	if r := alice.call("GET", "/account/whoami", nil).want(t, 401, "M_UNKNOWN_TOKEN"); r.m["soft_logout"] != false {
		t.Fatal(r.body)
	}

	// A login token signs in once.
	in = p.call("POST", "/login", password("alice", "long enough")).want(t, 200, "")
	alice = p.with(in.str("access_token"))
	get := func(auth obj) reply {
		b, _ := json.Marshal(obj{"auth": auth})
		return alice.send("POST", "/_matrix/client/v1/login/get_token", "application/json", bytes.NewReader(b))
	}
	ask := get(nil)
	auth := password("alice", "long enough")
	auth["session"] = ask.str("session")
	tok := get(auth).want(t, 200, "").str("login_token")
	p.call("POST", "/login", obj{"type": "m.login.token", "token": tok}).want(t, 200, "")
	p.call("POST", "/login", obj{"type": "m.login.token", "token": tok}).want(t, 403, "M_FORBIDDEN")

	// Logout takes the device with it.
	second := p.call("POST", "/login", password("alice", "long enough")).want(t, 200, "")
	alice.call("POST", "/logout", obj{}).want(t, 200, "")
	alice.call("GET", "/account/whoami", nil).want(t, 401, "M_UNKNOWN_TOKEN")
	other := p.with(second.str("access_token"))
	other.call("GET", "/devices/"+in.str("device_id"), nil).want(t, 404, "M_NOT_FOUND")
	other.call("POST", "/logout/all", obj{}).want(t, 200, "")
	other.call("GET", "/account/whoami", nil).want(t, 401, "M_UNKNOWN_TOKEN")
	p.call("GET", "/account/whoami", nil).want(t, 401, "M_MISSING_TOKEN")

	// Locked and closed accounts.
	in = p.call("POST", "/login", password("alice", "long enough")).want(t, 200, "")
	alice = p.with(in.str("access_token"))
	if _, e, code := s.CLI(t, "user", "disable", "alice"); code != 0 {
		t.Fatal(e)
	}
	if r := alice.call("GET", "/account/whoami", nil).want(t, 401, "M_USER_LOCKED"); r.m["soft_logout"] != true {
		t.Fatal(r.body)
	}
	p.call("POST", "/login", password("alice", "long enough")).want(t, 401, "M_USER_LOCKED")
}

func TestConfirmation(t *testing.T) {
	s := appliancetest.Start(t, "registration.open=true")
	p := newPeer(t, s)
	for _, u := range []string{"alice", "bob"} {
		p.call("POST", "/register", obj{"username": u, "password": "long enough", "auth": obj{"type": "m.login.dummy"}, "inhibit_login": true}).want(t, 200, "")
	}
	login := func(user, device string) *peer {
		b := password(user, "long enough")
		b["device_id"] = device
		return newPeer(t, s).with(p.call("POST", "/login", b).want(t, 200, "").str("access_token"))
	}
	one, two := login("alice", "ONE"), login("alice", "TWO")
	ask := one.call("DELETE", "/devices/TWO", obj{})
	if ask.StatusCode != 401 || !strings.Contains(ask.body, `{"stages":["m.login.password"]}`) || ask.str("session") == "" {
		t.Fatal(ask.body)
	}
	proof := func(user, pass, session string) obj {
		a := password(user, pass)
		a["session"] = session
		return obj{"auth": a}
	}
	one.call("DELETE", "/devices/TWO", proof("alice", "wrong", ask.str("session"))).want(t, 401, "M_FORBIDDEN")
	one.call("DELETE", "/devices/TWO", proof("bob", "long enough", ask.str("session"))).want(t, 401, "M_FORBIDDEN")
	// What was asked for one thing confirms no other, nor for somebody else.
	three := login("alice", "THREE")
	if r := one.call("DELETE", "/devices/THREE", obj{"auth": obj{"session": ask.str("session")}}); r.StatusCode != 401 {
		t.Fatal(r.body)
	}
	one.call("DELETE", "/devices/TWO", proof("alice", "long enough", ask.str("session"))).want(t, 200, "")
	two.call("GET", "/account/whoami", nil).want(t, 401, "M_UNKNOWN_TOKEN") // the device's token died with it
	three.call("GET", "/account/whoami", nil).want(t, 200, "")
	if r := one.call("DELETE", "/devices/THREE", obj{"auth": obj{"session": ask.str("session")}}); r.StatusCode != 401 {
		t.Fatalf("a completed session was used again: %s", r.body)
	}

	// By the browser: the page asks, the request goes on.
	ask = one.call("DELETE", "/devices/THREE", obj{})
	page := "/_matrix/client/v3/auth/m.login.sso/fallback/web?session=" + ask.str("session")
	web := newPeer(t, s)
	r := web.send("GET", page, "", nil)
	if r.StatusCode != 302 || !strings.Contains(r.Header.Get("Location"), "/login?") {
		t.Fatal(r.StatusCode, r.Header)
	}
	r = web.form(r.Header.Get("Location"), url.Values{"username": {"alice"}, "password": {"long enough"}})
	if r.StatusCode != 303 || !strings.HasPrefix(r.Header.Get("Location"), "/_matrix/client/v3/auth/") {
		t.Fatal(r.StatusCode, r.Header)
	}
	r = web.send("GET", r.Header.Get("Location"), "", nil)
	if r.StatusCode != 200 || !strings.Contains(r.body, "@alice:hs.test") || !strings.Contains(r.Header.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
		t.Fatal(r.StatusCode, r.body)
	}
	if r := one.call("DELETE", "/devices/THREE", obj{"auth": obj{"session": ask.str("session")}}); r.StatusCode != 401 {
		t.Fatal("looking at the page confirmed")
	}
	req, _ := http.NewRequest("POST", s.URL+page, nil)
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	if res, err := web.c.Do(req); err != nil || res.StatusCode != 403 {
		t.Fatal(res.StatusCode, err)
	}
	stranger := newPeer(t, s)
	r = stranger.form("/login", url.Values{"username": {"bob"}, "password": {"long enough"}})
	if r = stranger.form(page, nil); r.StatusCode != 403 {
		t.Fatalf("bob confirmed for alice: %d", r.StatusCode)
	}
	if r = web.form(page, nil); r.StatusCode != 200 {
		t.Fatal(r.StatusCode, r.body)
	}
	one.call("DELETE", "/devices/THREE", obj{"auth": obj{"session": ask.str("session")}}).want(t, 200, "")

	// Password: other devices are signed out, this one stays.
	two = login("alice", "TWO")
	ask = one.call("POST", "/account/password", obj{"new_password": "another one"})
	body := proof("alice", "long enough", ask.str("session"))
	body["new_password"] = "another one"
	one.call("POST", "/account/password", body).want(t, 200, "")
	one.call("GET", "/account/whoami", nil).want(t, 200, "")
	two.call("GET", "/account/whoami", nil).want(t, 401, "M_UNKNOWN_TOKEN")
	p.call("POST", "/login", password("alice", "long enough")).want(t, 403, "M_FORBIDDEN")

	// Closing the account leaves the rooms.
	room := one.call("POST", "/createRoom", obj{"preset": "public_chat"}).want(t, 200, "").str("room_id")
	bob := login("bob", "B")
	bob.call("POST", "/join/"+url.PathEscape(room), obj{}).want(t, 200, "")
	ask = one.call("POST", "/account/deactivate", obj{})
	one.call("POST", "/account/deactivate", proof("alice", "another one", ask.str("session"))).want(t, 200, "")
	one.call("GET", "/account/whoami", nil).want(t, 401, "M_UNKNOWN_TOKEN")
	p.call("POST", "/login", password("alice", "another one")).want(t, 403, "M_FORBIDDEN")
	p.call("GET", "/register/available?username=alice", nil).want(t, 400, "M_USER_IN_USE")
	if m := bob.call("GET", "/rooms/"+url.PathEscape(room)+"/joined_members", nil).want(t, 200, ""); strings.Contains(m.body, "@alice") {
		t.Fatal(m.body)
	}
}

func TestSharedSecret(t *testing.T) {
	s := appliancetest.Start(t, "registration.shared_secret=the secret")
	p := newPeer(t, s)
	const path = "/_synapse/admin/v1/register"
	nonce := func() string { return p.send("GET", path, "", nil).want(t, 200, "").str("nonce") }
	register := func(nonce, name, secret string, admin bool, signed bool) reply {
		role := "notadmin"
		if signed {
			role = "admin"
		}
		m := hmac.New(sha1.New, []byte(secret))
		fmt.Fprintf(m, "%s\x00%s\x00%s\x00%s", nonce, name, "password", role)
		b, _ := json.Marshal(obj{"nonce": nonce, "username": name, "password": "password", "displayname": "The " + name, "admin": admin, "mac": hex.EncodeToString(m.Sum(nil))})
		return p.send("POST", path, "application/json", bytes.NewReader(b))
	}
	n := nonce()
	r := register(n, "alice", "the secret", true, true).want(t, 200, "")
	if r.str("user_id") != "@alice:hs.test" || r.str("home_server") != "hs.test" {
		t.Fatal(r.body)
	}
	p.with(r.str("access_token")).call("GET", "/account/whoami", nil).want(t, 200, "")
	p.call("POST", "/login", password("alice", "password")).want(t, 200, "")
	out, _, _ := s.CLI(t, "user", "list", "--json")
	if !strings.Contains(out, `"admin": true`) && !strings.Contains(out, `"admin":true`) {
		t.Fatal(out)
	}
	register(n, "bob", "the secret", false, false).want(t, 400, "M_UNKNOWN") // the nonce was used
	register(nonce(), "bob", "wrong secret", false, false).want(t, 403, "M_FORBIDDEN")
	register(nonce(), "bob", "the secret", true, false).want(t, 403, "M_FORBIDDEN") // admin was not signed
	register("made-up", "bob", "the secret", false, false).want(t, 400, "M_UNKNOWN")
	register(nonce(), "alice", "the secret", false, false).want(t, 400, "M_USER_IN_USE")
	register(nonce(), "bob", "the secret", false, false).want(t, 200, "")

	off := newPeer(t, appliancetest.Start(t))
	if r := off.send("GET", path, "", nil); r.StatusCode != 400 {
		t.Fatal(r.StatusCode, r.body)
	}
}

func TestOAuthSessionAtTheHomeserver(t *testing.T) {
	s := appliancetest.Start(t)
	if _, e, code := s.CLI(t, "user", "add", "alice", "--password", "long enough"); code != 0 {
		t.Fatal(e)
	}
	web := newPeer(t, s)
	meta := web.send("GET", "/_matrix/client/v1/auth_metadata", "", nil).want(t, 200, "")
	if old := web.send("GET", "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata", "", nil); old.body != meta.body {
		t.Fatal("the unstable metadata differ")
	}
	origin := meta.str("issuer")
	at := func(u string) string { // the listener instead of the public address
		return s.URL + strings.TrimPrefix(u, origin)
	}
	const verifier = "a-verifier-of-enough-length-for-anybody-to-use-it"
	sum := sha256.Sum256([]byte(verifier))
	session := func(device string) (access string) {
		t.Helper()
		r := web.send("GET", at(meta.str("authorization_endpoint"))+"?"+url.Values{"client_id": {"holdfast-web"}, "redirect_uri": {origin + "/"}, "response_type": {"code"},
			"response_mode": {"fragment"}, "state": {"x"}, "scope": {"urn:matrix:client:api:* urn:matrix:client:device:" + device},
			"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"}}.Encode(), "", nil)
		for range 6 {
			loc := r.Header.Get("Location")
			if _, frag, ok := strings.Cut(loc, "/#"); ok {
				q, _ := url.ParseQuery(frag)
				r = web.form(at(meta.str("token_endpoint")), url.Values{"grant_type": {"authorization_code"}, "client_id": {"holdfast-web"}, "code": {q.Get("code")},
					"redirect_uri": {origin + "/"}, "code_verifier": {verifier}}).want(t, 200, "")
				return r.str("access_token")
			}
			if loc == "" {
				t.Fatal(r.StatusCode, r.body)
			}
			if r = web.send("GET", loc, "", nil); r.StatusCode == 200 {
				r = web.form(loc, url.Values{"username": {"alice"}, "password": {"long enough"}})
			}
		}
		t.Fatal("the sign-in does not end")
		return ""
	}
	access := session("WEBDEVICE1")
	alice := web.with(access)
	who := alice.call("GET", "/account/whoami", nil).want(t, 200, "")
	if who.str("device_id") != "WEBDEVICE1" || who.str("user_id") != "@alice:hs.test" {
		t.Fatal(who.body)
	}
	alice.call("GET", "/devices/WEBDEVICE1", nil).want(t, 200, "")
	// Ending the session at the identity provider removes the device, and the other way round.
	access2 := session("WEBDEVICE2")
	web.form(at(meta.str("revocation_endpoint")), url.Values{"token": {access2}}).want(t, 200, "")
	alice.call("GET", "/devices/WEBDEVICE2", nil).want(t, 404, "M_NOT_FOUND")
	// Cross-signing keys: the first need nothing, replacing them needs the account page.
	keys := func(pub string) obj {
		return obj{"master_key": obj{"user_id": "@alice:hs.test", "usage": []string{"master"}, "keys": obj{"ed25519:" + pub: pub}}}
	}
	alice.call("POST", "/keys/device_signing/upload", keys("nqOvzeuGWT/sRx3h7+MHoInYj3Uk2LD/unI9kDYcHwk")).want(t, 200, "")
	r := alice.call("POST", "/keys/device_signing/upload", keys("kt9fgJvfFZCjFnSKBhJaVGRSvbQN5BZfwnSXrwJjSnU"))
	if r.StatusCode != 401 || !strings.Contains(r.body, `"m.oauth"`) || !strings.Contains(r.body, `"org.matrix.cross_signing_reset"`) {
		t.Fatal(r.StatusCode, r.body)
	}
	params := r.m["params"].(obj)["m.oauth"].(obj)
	page := params["url"].(string)
	if p := web.send("GET", at(page), "", nil); p.StatusCode != 200 {
		t.Fatal(p.StatusCode, p.Header)
	}
	if p := web.form(s.URL+"/account/reset", url.Values{}); p.StatusCode != 200 {
		t.Fatal(p.StatusCode, p.body)
	}
	alice.call("POST", "/keys/device_signing/upload", keys("kt9fgJvfFZCjFnSKBhJaVGRSvbQN5BZfwnSXrwJjSnU")).want(t, 200, "")
}
