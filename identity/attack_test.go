package identity_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/identity"
)

// The numbers are those of the table of bad inputs that this provider is held to
// (docs/dev/identity.md).

// refused checks that authorize sends the application an error.
func (r *rig) refused(v url.Values, code string) {
	r.t.Helper()
	u := r.browser().get("/oauth2/authorize?" + v.Encode()).to(r.t)
	if !strings.HasPrefix(u.String(), "https://app.client.test/callback?x=1&") {
		r.t.Fatalf("not sent to the application but to %s", u)
	}
	if q := u.Query(); q.Get("error") != code || q.Get("state") != v.Get("state") || q.Get("iss") != origin {
		r.t.Fatalf("%v, want the error %s with state and iss", q, code)
	}
}

// page400 checks that authorize answers with a page of its own and no redirect.
func (r *rig) page400(v url.Values) {
	r.t.Helper()
	a := r.browser().get("/oauth2/authorize?" + v.Encode())
	if a.StatusCode != http.StatusBadRequest || a.Header.Get("Location") != "" || !strings.Contains(a.body, "<html") {
		r.t.Fatalf("redirect_uri %q: %d to %q", v.Get("redirect_uri"), a.StatusCode, a.Header.Get("Location"))
	}
}

func TestAttack01PKCERequired(t *testing.T) {
	r := newRig(t, nil)
	c := r.client(nil)
	r.refused(authParams(c, "code_challenge", "", "code_challenge_method", ""), "invalid_request")
	r.refused(authParams(c, "code_challenge_method", "plain"), "invalid_request")
	r.refused(authParams(c, "code_challenge_method", ""), "invalid_request")
	r.refused(authParams(c, "code_challenge_method", "s256"), "invalid_request")
	r.refused(authParams(c, "code_challenge", "short"), "invalid_request")
}

func TestAttack02Verifier(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c := r.client(nil)
	b := r.browser()
	code := b.code("alice", authParams(c))
	r.wantError(b.api("/oauth2/token", exchangeForm(c, code, "code_verifier", strings.Repeat("x", 43))), 400, "invalid_grant")
	r.wantError(b.api("/oauth2/token", exchangeForm(c, code, "code_verifier", "")), 400, "invalid_request")
	r.tokens(b.api("/oauth2/token", exchangeForm(c, code))) // the code was not spent by that
}

func TestAttack03CodeReplay(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("alice")
	c := r.client(nil)
	b := r.browser()
	code := b.code("alice", authParams(c))
	tk := r.tokens(b.api("/oauth2/token", exchangeForm(c, code)))
	if !r.alive(tk.access) || !r.devices.has(u.UserID, "ABCDEFGHIJ") {
		t.Fatal("the session did not start with its device")
	}
	r.wantError(b.api("/oauth2/token", exchangeForm(c, code)), 400, "invalid_grant")
	if r.alive(tk.access) || r.devices.has(u.UserID, "ABCDEFGHIJ") {
		t.Fatal("the session survived a replayed code")
	}
	r.wantError(r.refresh(c, tk.refresh), 400, "invalid_grant")
}

func TestAttack04ParallelExchange(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c := r.client(nil)
	code := r.browser().code("alice", authParams(c))
	var ok, bad int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			a := r.browser().api("/oauth2/token", exchangeForm(c, code))
			mu.Lock()
			defer mu.Unlock()
			switch a.StatusCode {
			case 200:
				ok++
			case 400:
				bad++
			}
		})
	}
	wg.Wait()
	if ok != 1 || bad != 15 {
		t.Fatalf("%d exchanges succeeded, %d were refused", ok, bad)
	}
}

func TestAttack05OtherClientOrRedirect(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c := r.client(nil)
	other := r.client(func(m map[string]any) { m["client_name"] = "Other" })
	b := r.browser()
	code := b.code("alice", authParams(c))
	r.wantError(b.api("/oauth2/token", exchangeForm(other, code)), 400, "invalid_grant")
	r.wantError(b.api("/oauth2/token", exchangeForm(c, code, "redirect_uri", "https://app.client.test/other")), 400, "invalid_grant")
	r.wantError(b.api("/oauth2/token", exchangeForm(c, code, "redirect_uri", "")), 400, "invalid_grant")
}

func TestAttack06RedirectExact(t *testing.T) {
	r := newRig(t, nil)
	c := r.client(nil)
	for _, uri := range []string{
		"https://evil.test/callback", webRedirect + "/", webRedirect + "&y=2", "https://app.client.test/callback",
		url.QueryEscape(webRedirect), "https://app.client.test.evil.test/callback?x=1", "https://app.client.test/callback%3Fx=1",
		"HTTPS://app.client.test/callback?x=1", "https://app.client.test:443/callback?x=1", webRedirect + "#f", "http://app.client.test/callback?x=1", "https://u@app.client.test/callback?x=1",
	} {
		r.page400(authParams(c, "redirect_uri", uri))
	}
	r.page400(authParams(c, "redirect_uri", ""))
	r.page400(authParams("nobody"))
	plus := r.client(func(m map[string]any) { m["redirect_uris"] = []string{"https://client.test/a+b"} })
	if u := r.browser().get("/oauth2/authorize?" + authParams(plus, "redirect_uri", "https://client.test/a+b").Encode()).to(t); u.Path != "/login" {
		t.Fatalf("a registered + does not work: %s", u)
	}
}

func TestAttack07Loopback(t *testing.T) {
	r := newRig(t, nil)
	c := r.native()
	for _, uri := range []string{
		"https://localhost/cb", "https://localhost:1234/cb", "http://u@localhost:1234/cb", "http://u:p@127.0.0.1:1/cb", "http://localhost:1234/cb#f",
		"http://127.9.9.9:1234/cb", "http://localhost.evil.test:1234/cb", "http://localhost:1234/other", "http://localhost:/cb", "http://localhost:0/cb",
		"http://localhost:99999/cb", "http://localhost:12a/cb", "http://localhost:1@evil.test/cb", "http://[::1]:1234/other", "http://LOCALHOST:1234/cb", "http://localhost:1234/cb?x",
	} {
		r.page400(authParams(c, "redirect_uri", uri))
	}
	for _, uri := range []string{"http://localhost:1234/cb", "http://127.0.0.1:65535/cb", "http://[::1]:80/cb", "http://localhost/cb", "test.client.app:/cb"} {
		if u := r.browser().get("/oauth2/authorize?" + authParams(c, "redirect_uri", uri).Encode()).to(t); u.Path != "/login" {
			t.Fatalf("%s was refused: %s", uri, u)
		}
	}
}

func TestAttack08RepeatedParameter(t *testing.T) {
	r := newRig(t, nil)
	c := r.client(nil)
	a := r.browser().get("/oauth2/authorize?" + authParams(c).Encode() + "&state=s2")
	if a.StatusCode != 400 {
		t.Fatalf("repeated state: %d", a.StatusCode)
	}
	v := exchangeForm(c, "x")
	v.Add("code", "y")
	r.wantError(r.browser().api("/oauth2/token", v), 400, "invalid_request")
}

func TestAttack09To12AuthorizeParameters(t *testing.T) {
	r := newRig(t, nil)
	c := r.client(nil)
	r.refused(authParams(c, "response_type", "token"), "unsupported_response_type") // 9
	r.refused(authParams(c, "response_type", "code id_token"), "unsupported_response_type")
	r.refused(authParams(c, "response_type", ""), "invalid_request")
	r.refused(authParams(c, "request", "eyJ"), "request_not_supported") // 10
	r.refused(authParams(c, "request_uri", "https://evil.test/"), "request_uri_not_supported")
	r.refused(authParams(c, "prompt", "none"), "login_required") // 11
	r.refused(authParams(c, "prompt", "none login"), "invalid_request")
	r.refused(authParams(c, "response_mode", "web_message"), "invalid_request") // 12
	r.refused(authParams(c, "response_mode", "fragment "), "invalid_request")
}

func TestAttack13Scopes(t *testing.T) {
	r := newRig(t, nil)
	c := r.client(nil)
	const api, dev = "urn:matrix:client:api:*", "urn:matrix:client:device:"
	const uapi, udev = "urn:matrix:org.matrix.msc2967.client:api:*", "urn:matrix:org.matrix.msc2967.client:device:"
	for _, s := range []string{
		api, dev + "AAAAAAAAAA", api + " " + dev + "A " + dev + "B", api + " " + udev + "A", uapi + " " + dev + "A", api + " " + dev, api + " " + dev + "a/b",
		api + " " + dev + "A urn:synapse:admin:*", "urn:synapse:admin:*", "openid urn:mas:admin", "openid other", " ", api + " " + uapi + " " + dev + "A",
	} {
		r.refused(authParams(c, "scope", s), "invalid_scope")
	}
	for _, s := range []string{api + " " + dev + "A", uapi + " " + udev + "A", "openid " + uapi + " " + udev + "A", "openid profile"} {
		if u := r.browser().get("/oauth2/authorize?" + authParams(c, "scope", s).Encode()).to(t); u.Path != "/login" {
			t.Fatalf("scope %q was refused: %s", s, u)
		}
	}
}

func TestAttack14FragmentState(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c := r.client(nil)
	b := r.browser()
	const state = "a+b/c=d e&f%"
	loc := b.get(b.signIn("alice", authParams(c, "response_mode", "fragment", "state", state))).Header.Get("Location")
	head, frag, _ := strings.Cut(loc, "#")
	v, err := url.ParseQuery(frag)
	if err != nil || head != webRedirect || v.Get("state") != state || v.Get("iss") != origin || v.Get("code") == "" {
		t.Fatalf("%s: %v %v", loc, v, err)
	}
}

func TestAttack15Callback(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c := r.client(nil)
	b := r.browser()
	cb := b.signIn("alice", authParams(c))
	if a := r.browser().get(cb); a.StatusCode != http.StatusForbidden {
		t.Fatalf("another browser: %d %s", a.StatusCode, a.Header.Get("Location"))
	}
	stranger := r.browser()
	stranger.get("/oauth2/authorize?" + authParams(c).Encode()) // has a cookie of its own
	if a := stranger.get(cb); a.StatusCode != http.StatusForbidden {
		t.Fatalf("another browser with a cookie: %d", a.StatusCode)
	}
	if b.get(cb).to(t).Query().Get("code") == "" {
		t.Fatal("no code")
	}
	if a := b.get(cb); a.StatusCode != http.StatusBadRequest {
		t.Fatalf("the second time: %d", a.StatusCode)
	}
	// Nor can a callback skip the sign-in.
	login := b.get("/oauth2/authorize?" + authParams(c).Encode()).to(t)
	if a := b.get("/oauth2/authorize/callback?id=" + login.Query().Get("request")); a.StatusCode != http.StatusBadRequest {
		t.Fatalf("before consent: %d", a.StatusCode)
	}
}

func TestAttack16TokenMethod(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c := r.client(nil)
	b := r.browser()
	v := exchangeForm(c, b.code("alice", authParams(c)))
	if a := b.get("/oauth2/token?" + v.Encode()); a.StatusCode < 400 || a.StatusCode >= 500 {
		t.Fatalf("GET: %d", a.StatusCode)
	}
	r.wantError(b.api("/oauth2/token?"+v.Encode(), url.Values{}), 400, "invalid_request")
	r.wantError(b.api("/oauth2/token?x=1", v), 400, "invalid_request")
	r.wantError(b.postJSON("/oauth2/token", map[string]string{"grant_type": "authorization_code"}), 400, "invalid_request")
	for _, g := range []string{"password", "client_credentials", "urn:ietf:params:oauth:grant-type:jwt-bearer", "urn:ietf:params:oauth:grant-type:token-exchange"} {
		r.wantError(b.api("/oauth2/token", url.Values{"grant_type": {g}}), 400, "unsupported_grant_type")
	}
	r.tokens(b.api("/oauth2/token", v))
}

func TestAttack17RefreshWhileDatabaseFails(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c := r.client(nil)
	tk := r.session("alice", c)
	r.stop() // the database is gone under a running server
	a := r.refresh(c, tk.refresh)
	r.wantError(a, http.StatusServiceUnavailable, "temporarily_unavailable")
	r.start()
	next := r.tokens(r.refresh(c, tk.refresh))
	if !r.alive(next.access) {
		t.Fatal("the retry gave a dead token")
	}
}

// The same at userinfo: a site must not take trouble of ours for a token that ended.
func TestAttack17UserinfoWhileDatabaseFails(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c := r.client(nil)
	b := r.browser()
	token, _ := b.api("/oauth2/token", exchangeForm(c, b.code("alice", authParams(c, "scope", "openid profile")))).json(t)["access_token"].(string)
	ask := func(method, token string) answer {
		if method == "POST" {
			return r.browser().api("/oauth2/userinfo", url.Values{"access_token": {token}})
		}
		req, _ := http.NewRequest("GET", origin+"/oauth2/userinfo", nil)
		req.Header.Set("Authorization", "Bearer "+token)
		return r.browser().do(req)
	}
	for _, m := range []string{"GET", "POST"} {
		if a := ask(m, token); a.StatusCode != 200 || a.json(t)["preferred_username"] != "alice" {
			t.Errorf("%s: %d %s", m, a.StatusCode, a.body)
		}
		r.wantError(ask(m, "mat_unknown"), http.StatusUnauthorized, "invalid_token")
		r.wantError(ask(m, ""), http.StatusUnauthorized, "invalid_token")
	}
	r.stop()
	r.start() // nothing is in memory
	r.stop()
	for _, m := range []string{"GET", "POST"} {
		r.wantError(ask(m, token), http.StatusServiceUnavailable, "temporarily_unavailable")
	}
	r.start()
	if a := ask("GET", token); a.StatusCode != 200 {
		t.Errorf("afterwards: %d %s", a.StatusCode, a.body)
	}
	r.wait(time.Hour)
	r.wantError(ask("GET", token), http.StatusUnauthorized, "invalid_token")
}

func TestAttack18ParallelRefresh(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c := r.client(nil)
	tk := r.session("alice", c)
	var mu sync.Mutex
	pairs := map[tokens]int{}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			a := r.refresh(c, tk.refresh)
			mu.Lock()
			defer mu.Unlock()
			if a.StatusCode == 200 {
				m := a.json(t)
				pairs[tokens{m["access_token"].(string), m["refresh_token"].(string)}]++
			}
		})
	}
	wg.Wait()
	if len(pairs) != 1 {
		t.Fatalf("%d different pairs", len(pairs))
	}
	for p, n := range pairs {
		if n != 16 {
			t.Fatalf("%d of 16 refreshes succeeded", n)
		}
		// The answers were lost: the old pair still works, also much later.
		if !r.alive(tk.access) {
			t.Fatal("the old access token died before its successor was used")
		}
		if r.program != nil {
			return // the rest needs an hour
		}
		r.wait(time.Hour)
		if got := r.tokens(r.refresh(c, tk.refresh)); got != p {
			t.Fatal("a later retry gave another pair")
		}
		if !r.alive(p.access) {
			t.Fatal("the access token of a later retry has expired already")
		}
	}
}

func TestAttack19RefreshReuse(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c := r.client(nil)
	tk := r.session("alice", c)
	next := r.tokens(r.refresh(c, tk.refresh))
	if !r.alive(next.access) { // first use
		t.Fatal("the new token is dead")
	}
	if r.alive(tk.access) {
		t.Fatal("the old access token outlived the first use of its successor")
	}
	r.wantError(r.refresh(c, tk.refresh), 400, "invalid_grant")
	if r.alive(next.access) {
		t.Fatal("the session survived the reuse")
	}
	r.wantError(r.refresh(c, next.refresh), 400, "invalid_grant")

	// Using the child's refresh token counts as use, too.
	tk = r.session("alice", c)
	second := r.tokens(r.refresh(c, tk.refresh))
	third := r.tokens(r.refresh(c, second.refresh))
	r.wantError(r.refresh(c, tk.refresh), 400, "invalid_grant")
	if r.alive(third.access) {
		t.Fatal("the session survived the reuse of a grandparent")
	}
}

func TestAttack20And21RefreshByOthersOrWider(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c := r.client(nil)
	other := r.client(func(m map[string]any) { m["client_name"] = "Other" })
	tk := r.session("alice", c)
	r.wantError(r.refresh(other, tk.refresh), 400, "invalid_grant")
	r.wantError(r.refresh("nobody", tk.refresh), 401, "invalid_client")
	r.wantError(r.refresh("", tk.refresh), 401, "invalid_client")
	r.wantError(r.refresh(c, tk.refresh, "scope", matrixScope+" openid"), 400, "invalid_scope") // 21
	r.wantError(r.refresh(c, tk.refresh, "scope", "urn:synapse:admin:*"), 400, "invalid_scope")
	r.tokens(r.refresh(c, tk.refresh)) // nobody lost anything by that
}

func TestAttack24Registration(t *testing.T) {
	r := newRig(t, nil)
	base := func() map[string]any {
		return map[string]any{"client_name": "X", "client_uri": "https://client.test/", "redirect_uris": []string{webRedirect}, "token_endpoint_auth_method": "none", "application_type": "web"}
	}
	try := func(change func(map[string]any), code string) {
		t.Helper()
		m := base()
		change(m)
		a := r.browser().postJSON("/oauth2/registration", m)
		if a.StatusCode != 400 || a.json(t)["error"] != code {
			t.Errorf("%v: %d %s", m, a.StatusCode, a.body)
		}
	}
	for _, uri := range []string{
		"javascript:alert(1)", "http://client.test/cb", "https://u:p@client.test/cb", "https://client.test.evil.test/", "https://evilclient.test/cb",
		"https://client.test/cb#f", "https://client.test\\@evil.test/", "data:text/html,x", "test.client:/cb", "http://localhost/cb", "", "https://", "https:///cb", "//client.test/cb",
	} {
		try(func(m map[string]any) { m["redirect_uris"] = []string{uri} }, "invalid_redirect_uri")
	}
	for _, uri := range []string{
		"test.client://cb", "com.evil:/cb", "test.clientevil:/cb", "javascript:alert(1)", "https://localhost/cb", "http://localhost:8080/cb", "http://example.org/cb",
		"http://u@localhost/cb", "example:/cb", "test.client:///cb", "http://127.0.0.2/cb", "http://localhost.evil/cb", "Test.Client:/cb",
	} {
		try(func(m map[string]any) { m["redirect_uris"], m["application_type"] = []string{uri}, "native" }, "invalid_redirect_uri")
	}
	for _, uri := range []string{"https://evil.test/logo.png", "http://client.test/logo.png", "javascript:x", "https://u@client.test/l"} {
		try(func(m map[string]any) { m["logo_uri"] = uri }, "invalid_client_metadata")
		try(func(m map[string]any) { m["policy_uri"] = uri }, "invalid_client_metadata")
	}
	for _, uri := range []string{"", "http://client.test/", "https://u@client.test/", "client.test"} {
		try(func(m map[string]any) { m["client_uri"] = uri }, "invalid_client_metadata")
	}
	try(func(m map[string]any) { m["token_endpoint_auth_method"] = "client_secret_basic" }, "invalid_client_metadata")
	try(func(m map[string]any) { m["client_name"] = strings.Repeat("x", 500) }, "invalid_client_metadata")
	try(func(m map[string]any) { m["application_type"] = "other" }, "invalid_client_metadata")
	try(func(m map[string]any) { m["grant_types"] = []string{"implicit"} }, "invalid_client_metadata")
	try(func(m map[string]any) { delete(m, "redirect_uris") }, "invalid_redirect_uri")

	// What real clients send is accepted, twice the same is one client.
	again := base()
	again["grant_types"] = []string{"refresh_token", "authorization_code", "implicit"}
	again["client_name#fr"] = "Exemple"
	id := r.client(func(m map[string]any) { m["client_name"] = "X" })
	if a := r.browser().postJSON("/oauth2/registration", again); a.StatusCode != 201 || a.json(t)["client_id"] != id {
		t.Errorf("the same registration gave another client: %d %s", a.StatusCode, a.body)
	}
	again["grant_types"] = []string{"authorization_code", "refresh_token", deviceGrant}
	if a := r.browser().postJSON("/oauth2/registration", again); a.StatusCode != 201 || a.json(t)["client_id"] == id || !strings.Contains(a.body, deviceGrant) {
		t.Errorf("with the device grant: %d %s", a.StatusCode, a.body)
	}
	r.native()
}

func TestAttack25Revoke(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("alice")
	c := r.client(nil)
	other := r.client(func(m map[string]any) { m["client_name"] = "Other" })
	for _, pick := range []func(tokens) string{func(t tokens) string { return t.access }, func(t tokens) string { return t.refresh }} {
		tk := r.session("alice", c)
		r.wantError(r.browser().api("/oauth2/revoke", url.Values{"token": {pick(tk)}, "client_id": {other}}), 401, "invalid_client")
		if !r.alive(tk.access) {
			t.Fatal("another application revoked the session")
		}
		if a := r.browser().api("/oauth2/revoke", url.Values{"token": {pick(tk)}}); a.StatusCode != 200 {
			t.Fatalf("revoke: %d %s", a.StatusCode, a.body)
		}
		if r.alive(tk.access) || r.devices.has(u.UserID, "ABCDEFGHIJ") {
			t.Fatal("the session survived")
		}
		r.wantError(r.refresh(c, tk.refresh), 400, "invalid_grant")
	}
	if a := r.browser().api("/oauth2/revoke", url.Values{"token": {"unknown"}}); a.StatusCode != 200 {
		t.Fatalf("unknown token: %d", a.StatusCode)
	}
	r.wantError(r.browser().api("/oauth2/revoke", url.Values{}), 400, "invalid_request")
}

func TestAttack26And27Logout(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c := r.client(func(m map[string]any) { m["post_logout_redirect_uris"] = []string{"https://client.test/bye"} })
	b := r.browser()
	a := b.api("/oauth2/token", exchangeForm(c, b.code("alice", authParams(c, "scope", "openid "+matrixScope))))
	hint, _ := a.json(t)["id_token"].(string)
	if hint == "" {
		t.Fatalf("no ID token with openid: %s", a.body)
	}
	end := func(v url.Values) answer { return b.get("/oauth2/end_session?" + v.Encode()) }
	for _, evil := range []string{"https://evil.test/", "https://client.test/bye/../x", "https://client.test/bye?x"} {
		if a := end(url.Values{"id_token_hint": {hint}, "post_logout_redirect_uri": {evil}}); a.StatusCode != 400 {
			t.Fatalf("%s: %d", evil, a.StatusCode)
		}
	}
	if a := end(url.Values{"post_logout_redirect_uri": {"https://evil.test/"}}); a.StatusCode != 400 {
		t.Fatalf("without client: %d", a.StatusCode)
	}
	signedIn := func() bool { return b.get("/account").StatusCode == 200 }
	if a := end(url.Values{}); a.StatusCode != 200 || !strings.Contains(a.body, `action="/logout"`) || !signedIn() { // 27
		t.Fatalf("without hint: %d, signed in %v", a.StatusCode, signedIn())
	}
	if a := end(url.Values{"client_id": {c}, "post_logout_redirect_uri": {"https://client.test/bye"}}); a.StatusCode != 200 || !signedIn() {
		t.Fatalf("with client but no hint: %d", a.StatusCode)
	}
	u := end(url.Values{"id_token_hint": {hint}, "post_logout_redirect_uri": {"https://client.test/bye"}, "state": {"z"}}).to(t)
	if u.String() != "https://client.test/bye?state=z" || signedIn() {
		t.Fatalf("with hint: %s, signed in %v", u, signedIn())
	}
}

func TestAttack28ForgedHost(t *testing.T) {
	r := newRig(t, nil)
	req, _ := http.NewRequest("GET", origin+"/.well-known/openid-configuration", nil)
	req.Host = "evil.test"
	req.Header.Set("Forwarded", "host=evil.test;proto=http")
	req.Header.Set("X-Forwarded-Host", "evil.test")
	a := r.browser().do(req)
	if strings.Contains(a.body, "evil") || a.json(t)["issuer"] != origin {
		t.Fatal(a.body)
	}
}

func TestAttack29CrossSite(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c := r.client(nil)
	b := r.browser()
	loc := b.get("/oauth2/authorize?" + authParams(c).Encode()).to(t)
	cross := func(path string, v url.Values, header, value string) {
		t.Helper()
		req, _ := http.NewRequest("POST", abs(path), strings.NewReader(v.Encode()))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set(header, value)
		if a := b.do(req); a.StatusCode != http.StatusForbidden {
			t.Errorf("POST %s with %s: %s: %d", path, header, value, a.StatusCode)
		}
	}
	login := url.Values{"username": {"alice"}, "password": {"correct horse alice"}}
	for _, h := range [][2]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.test"}, {"Origin", "null"}} {
		cross(loc.String(), login, h[0], h[1])
		cross("/consent?request="+loc.Query().Get("request"), url.Values{"answer": {"yes"}}, h[0], h[1])
		cross("/logout", url.Values{}, h[0], h[1])
		cross("/account/password", url.Values{}, h[0], h[1])
		cross("/account/reset", url.Values{}, h[0], h[1])
		cross("/login/sso?redirectUrl=https://x.test/", url.Values{}, h[0], h[1])
	}
}

func TestAttack30SessionFixation(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	b := r.browser()
	here, _ := url.Parse(origin)
	b.c.Jar.SetCookies(here, []*http.Cookie{{Name: "__Host-hf_session", Value: "chosen-by-the-attacker-0123456789abcdef", Path: "/", Secure: true}})
	session := func() string {
		for _, k := range b.c.Jar.Cookies(here) {
			if k.Name == "__Host-hf_session" {
				return k.Value
			}
		}
		return ""
	}
	in := func() string {
		t.Helper()
		a := b.post("/login", url.Values{"username": {"alice"}, "password": {"correct horse alice"}})
		a.to(t)
		for _, k := range a.Cookies() {
			if k.Name == "__Host-hf_session" && (!k.Secure || !k.HttpOnly || k.Path != "/" || k.Domain != "" || k.SameSite != http.SameSiteLaxMode) {
				t.Errorf("the cookie is weak: %+v", k)
			}
		}
		return session()
	}
	first := in()
	if strings.HasPrefix(first, "chosen") || len(first) < 48 {
		t.Fatalf("the pre-set cookie survived: %q", first)
	}
	if second := in(); second == first {
		t.Fatal("the session ID stayed the same")
	}
	// The old one is dead.
	old := r.browser()
	old.c.Jar.SetCookies(here, []*http.Cookie{{Name: "__Host-hf_session", Value: first, Path: "/", Secure: true}})
	if a := old.get("/account"); a.StatusCode == 200 {
		t.Fatal("the old session ID still works")
	}
}

func TestAttack31Frames(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c := r.client(nil)
	b := r.browser()
	loc := b.get("/oauth2/authorize?" + authParams(c).Encode()).to(t)
	consent := b.post(loc.String(), url.Values{"username": {"alice"}, "password": {"correct horse alice"}}).to(t)
	for _, p := range []string{"/login", loc.String(), consent.String(), "/account", "/logout", "/e/unknown", "/oauth2/authorize"} {
		a := b.get(p)
		csp := a.Header.Get("Content-Security-Policy")
		if a.StatusCode/100 == 3 {
			continue
		}
		if !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "default-src 'none'") || a.Header.Get("X-Frame-Options") != "DENY" || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s may be framed or cached: %v", p, a.Header)
		}
		if strings.Contains(a.body, "<script") || strings.Contains(a.body, " style=") {
			t.Errorf("%s has a script or inline style", p)
		}
	}
	if csp := b.get(consent.String()).Header.Get("Content-Security-Policy"); !strings.Contains(csp, "form-action 'self' https://app.client.test;") {
		t.Errorf("the form cannot lead back to the application: %s", csp)
	}
}

func TestAttack32WrongPasswords(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	text := map[string]string{}
	for _, name := range []string{"alice", "nobody"} {
		b := r.browser()
		for i := range 6 {
			a := b.post("/login", url.Values{"username": {name}, "password": {"wrong"}})
			want := http.StatusUnauthorized
			if i == 5 {
				want = http.StatusTooManyRequests
			}
			if a.StatusCode != want {
				t.Fatalf("%s, attempt %d: %d, want %d", name, i+1, a.StatusCode, want)
			}
			text[name] += optionsIn.ReplaceAllString(strings.ReplaceAll(a.body, name, "NAME"), "") // challenges differ each time
		}
		// Not even the right password is looked at meanwhile.
		if a := b.post("/login", url.Values{"username": {name}, "password": {"correct horse " + name}}); a.StatusCode != http.StatusTooManyRequests {
			t.Fatalf("%s: %d while slowed down", name, a.StatusCode)
		}
	}
	if text["alice"] != text["nobody"] {
		t.Error("the pages tell whether the name exists")
	}
	// Somebody at another address is not held up, and it passes.
	other := r.browser()
	other.addr = "198.51.100.7:1"
	other.post("/login", url.Values{"username": {"alice"}, "password": {"correct horse alice"}}).to(t)
	if r.program != nil {
		return // the rest needs time to pass
	}
	r.wait(3 * time.Second)
	r.browser().post("/login", url.Values{"username": {"alice"}, "password": {"correct horse alice"}}).to(t)
}

// TestAttack32Work: a wrong password costs the same work whether the name exists
// or not, so that the time it takes tells nothing. The work is compared, not the
// time, which depends on what else the machine does.
func TestAttack32Work(t *testing.T) {
	r := newRig(t, func(o *identity.Options) { o.Limits = false })
	r.user("alice")
	work := map[string]uint64{}
	for _, name := range []string{"alice", "nobody", "@alice:elsewhere.test"} {
		before := r.svc.PasswordWork()
		if _, err := r.svc.VerifyPassword(t.Context(), name, "wrong", "192.0.2.9"); !errors.Is(err, identity.ErrWrongPassword) {
			t.Fatal(err)
		}
		work[name] = r.svc.PasswordWork() - before
		if work[name] == 0 || work[name] != work["alice"] {
			t.Errorf("%s costs %d, alice %d", name, work[name], work["alice"])
		}
	}
	// The cost came out differently at another start: names that do not exist cost
	// what those do that exist, not what a new password would.
	r.stop()
	r.opts.PasswordCost.Passes = 3
	r.start()
	cost := func(name string) uint64 {
		before := r.svc.PasswordWork()
		if _, err := r.svc.VerifyPassword(t.Context(), name, "wrong", "192.0.2.9"); !errors.Is(err, identity.ErrWrongPassword) {
			t.Fatal(err)
		}
		return r.svc.PasswordWork() - before
	}
	if got := cost("nobody"); got != work["alice"] {
		t.Errorf("nobody costs %d, and all who exist %d", got, work["alice"])
	}
	r.user("bob")
	seen := map[uint64]int{}
	for i := range 64 {
		name := fmt.Sprint("nobody", i)
		if first, second := cost(name), cost(name); first != second {
			t.Errorf("the cost of %s changes", name)
		}
		seen[cost(name)]++
	}
	if seen[cost("alice")] == 0 || seen[cost("bob")] == 0 || len(seen) != 2 {
		t.Errorf("costs of unknown names %v, alice's is %d and bob's %d", seen, cost("alice"), cost("bob"))
	}
}

// TestAttack32Parallel: guesses that are sent at once are no more than those that
// come one after the other, and many addresses of one network are one attacker.
func TestAttack32Parallel(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	guess := func(from, password string) (looked bool) {
		t.Helper()
		_, err := r.svc.VerifyPassword(t.Context(), "alice", password, from)
		var slow *identity.SlowDown
		switch {
		case errors.As(err, &slow):
			return false
		case errors.Is(err, identity.ErrWrongPassword):
			return true
		}
		t.Error(err)
		return false
	}
	var looked atomic.Int32
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			if guess("192.0.2.66", fmt.Sprint("wrong ", i)) {
				looked.Add(1)
			}
		})
	}
	wg.Wait()
	if n := looked.Load(); n != 5 {
		t.Errorf("%d of 64 guesses at once were looked at, want 5", n)
	}
	n := 0
	for i := range 200 {
		if guess(fmt.Sprintf("2001:db8:0:1::%x", i+1), "wrong") {
			n++
		}
	}
	if n != 50 {
		t.Errorf("%d guesses from one IPv6 network were looked at, want 50", n)
	}
	// Neither holds up people elsewhere, also when they sign in at the same time.
	for range 8 {
		wg.Go(func() {
			if _, err := r.svc.VerifyPassword(t.Context(), "alice", "correct horse alice", "2001:db8:0:2::1"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestAttack35Invites(t *testing.T) {
	r := newRig(t, nil)
	invite := func(n identity.NewInvite) string {
		t.Helper()
		inv := r.invite(n)
		if inv.URL != origin+"/e/"+inv.Token {
			t.Fatalf("the link is %s", inv.URL)
		}
		return "/e/" + inv.Token
	}
	join := func(link, name string) answer {
		return r.browser().post(link, url.Values{"username": {name}, "display_name": {name}, "password": {"long enough"}, "password2": {"long enough"}})
	}
	link := invite(identity.NewInvite{})
	for range 3 { // previews do not use it up
		if a := r.browser().get(link); a.StatusCode != 200 {
			t.Fatalf("GET: %d", a.StatusCode)
		}
	}
	var ok, gone int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			a := join(link, fmt.Sprintf("user%d", i))
			mu.Lock()
			defer mu.Unlock()
			switch a.StatusCode {
			case http.StatusOK:
				ok++
			case http.StatusGone:
				gone++
			}
		})
	}
	wg.Wait()
	made := 0
	for i := range 8 {
		if r.exists(fmt.Sprintf("user%d", i)) {
			made++
		}
	}
	if ok != 1 || gone != 7 || made != 1 {
		t.Fatalf("%d winners, %d gone, %d accounts", ok, gone, made)
	}
	if a := r.browser().get(link); a.StatusCode != http.StatusGone {
		t.Fatalf("used: %d", a.StatusCode)
	}
	link = invite(identity.NewInvite{ExpiresIn: time.Hour, Uses: 2})
	if a := join(link, "dora"); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if a := join(link, "dora"); a.StatusCode != http.StatusConflict {
		t.Fatalf("taken name: %d", a.StatusCode)
	}
	if r.program == nil { // whose clock is its own
		r.wait(2 * time.Hour)
		if a := join(link, "erik"); a.StatusCode != http.StatusGone {
			t.Fatalf("expired: %d", a.StatusCode)
		}
	}
	inv := r.invite(identity.NewInvite{Localpart: "frida"})
	if a := join("/e/"+inv.Token, "somebody-else"); a.StatusCode != 200 || !strings.Contains(a.body, "@frida:example.org") {
		t.Fatalf("a fixed name was not kept: %d", a.StatusCode)
	}
	inv = r.invite(identity.NewInvite{})
	r.revoke(inv)
	if a := join("/e/"+inv.Token, "gina"); a.StatusCode != http.StatusGone {
		t.Fatalf("revoked: %d", a.StatusCode)
	}
}

func TestAttack41ForeignToken(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c := r.client(nil)
	b := r.browser()
	a := b.api("/oauth2/token", exchangeForm(c, b.code("alice", authParams(c, "scope", "openid profile"))))
	m := a.json(t)
	token, _ := m["access_token"].(string)
	if token == "" || m["refresh_token"] != nil {
		t.Fatal(a.body)
	}
	if !r.unknown(token) {
		t.Fatal("the Matrix API knows the token of an application without Matrix scope")
	}
	info := func(token string) answer {
		req, _ := http.NewRequest("GET", origin+"/oauth2/userinfo", nil)
		req.Header.Set("Authorization", "Bearer "+token)
		return b.do(req)
	}
	if a := info(token); a.StatusCode != 200 || a.json(t)["preferred_username"] != "alice" || strings.Contains(a.body, ":") && strings.Contains(a.json(t)["sub"].(string), ":") {
		t.Fatalf("userinfo: %d %s", a.StatusCode, a.body)
	}
	// And the other way: a Matrix token without openid tells nothing about its user.
	tk := r.session("alice", c)
	if a := info(tk.access); a.StatusCode != 401 || a.Header.Get("WWW-Authenticate") == "" {
		t.Fatalf("userinfo with a Matrix token: %d %s", a.StatusCode, a.body)
	}
	if a := b.get("/oauth2/userinfo?access_token=" + token); a.StatusCode != 400 {
		t.Fatalf("token in the URL: %d", a.StatusCode)
	}
}

func TestAttack42Disabled(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("alice")
	c := r.client(nil)
	tk := r.session("alice", c)
	b := r.browser()
	b.post("/login", url.Values{"username": {"alice"}, "password": {"correct horse alice"}}).to(t)
	pending := b.code("alice", authParams(c))
	if !r.alive(tk.access) {
		t.Fatal("dead before")
	}
	r.disable(u, true)
	if !r.locked(tk.access) {
		t.Fatal("the token of a disabled account works")
	}
	// A refusal would have the client forget its session; what it gets opens nothing.
	a := r.refresh(c, tk.refresh)
	fresh, _ := a.json(t)["access_token"].(string)
	if a.StatusCode != 200 || !r.locked(fresh) {
		t.Fatalf("refresh of a disabled account: %d", a.StatusCode)
	}
	r.wantError(b.api("/oauth2/token", exchangeForm(c, pending)), 400, "invalid_grant")
	if a := b.get("/account"); a.StatusCode == 200 {
		t.Fatal("the browser is still signed in")
	}
	if a := b.post("/login", url.Values{"username": {"alice"}, "password": {"correct horse alice"}}); a.StatusCode != http.StatusForbidden {
		t.Fatalf("sign-in: %d", a.StatusCode)
	}
	r.disable(u, false)
	if !r.alive(tk.access) {
		t.Fatal("the session did not come back")
	}
	r.deactivate(u)
	if r.alive(tk.access) || r.devices.has(u.UserID, "ABCDEFGHIJ") {
		t.Fatal("a session survived deactivation")
	}
	if r.program != nil {
		if out, err := r.program.cli(t, "user", "disable", "--undo", "alice"); err == nil || r.alive(tk.access) {
			t.Fatalf("a closed account came back: %s", out)
		}
		if out, err := r.program.cli(t, "user", "add", "alice", "--password", "another one"); err == nil || !strings.Contains(out, "taken") {
			t.Fatalf("the name of a closed account was given away: %s", out)
		}
		return
	}
	if err := r.svc.SetDisabled(t.Context(), u.UserID, false); !errors.Is(err, identity.ErrDeactivated) {
		t.Fatalf("a closed account came back: %v", err)
	}
	if _, err := r.svc.CreateUser(t.Context(), identity.NewUser{Localpart: "alice", Password: "another one", Source: "cli"}); !errors.Is(err, identity.ErrUserExists) {
		t.Fatalf("the name of a closed account was given away: %v", err)
	}
}

func TestAttack44Next(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	for next, want := range map[string]string{
		"//evil.test": "/account", "https://evil.test": "/account", "/\\evil.test": "/account", "\\\\evil.test": "/account", "/%2f/evil.test": "/account",
		"/\t/evil.test": "/account", "javascript:alert(1)": "/account", "": "/account", "evil": "/account",
		"/account?action=org.matrix.devices_list": "/account?action=org.matrix.devices_list",
	} {
		a := r.browser().post("/login?"+url.Values{"next": {next}}.Encode(), url.Values{"username": {"alice"}, "password": {"correct horse alice"}})
		if a.to(t); a.Header.Get("Location") != want {
			t.Errorf("next=%q leads to %q", next, a.Header.Get("Location"))
		}
	}
}

func TestAttack45RegistrationFlood(t *testing.T) {
	r := newRig(t, func(o *identity.Options) { o.MaxClients = 50 })
	r.user("alice")
	live := r.client(nil)
	tk := r.session("alice", live)
	flood := func(n int, from string) (made, refused int) {
		b := r.browser()
		b.addr = from
		for i := range n {
			a := b.postJSON("/oauth2/registration", map[string]any{"client_name": fmt.Sprintf("%s %d", from, i), "client_uri": "https://client.test/", "redirect_uris": []string{webRedirect}})
			switch a.StatusCode {
			case 201:
				made++
			case 429:
				refused++
				if a.Header.Get("Retry-After") == "" {
					t.Fatal("no Retry-After")
				}
			default:
				t.Fatalf("%d %s", a.StatusCode, a.body)
			}
		}
		return made, refused
	}
	if made, refused := flood(1000, "203.0.113.1:1"); made > 100 || refused < 900 {
		t.Fatalf("one address registered %d clients", made)
	}
	// From many addresses: the bound holds, and the client in use stays.
	total := 0
	for i := range 40 {
		made, _ := flood(5, fmt.Sprintf("203.0.113.%d:1", i+2))
		total += made
	}
	if total > 50 {
		t.Fatalf("%d clients were kept", total)
	}
	r.wait(time.Hour)
	if made, _ := flood(10, "203.0.113.200:1"); made != 10 {
		t.Fatalf("idle clients did not make room: %d", made)
	}
	r.tokens(r.refresh(live, tk.refresh))
}

// An address that used its allowance up gets no new one because others come from many.
func TestAttack45ManyAddresses(t *testing.T) {
	var l identity.Limiter
	now := time.Now()
	greedy := func() (n int) {
		for l.Allow("192.0.2.1:1", now) {
			n++
		}
		return n
	}
	if n := greedy(); n != 60 {
		t.Fatalf("a burst is %d", n)
	}
	for i := range 2*identity.MaxAddresses + 10 {
		if !l.Allow(fmt.Sprintf("[2001:db8:%x:%x::1]:1", i>>16, i&0xffff), now) {
			t.Fatalf("address %d is held up for others", i)
		}
	}
	if n := l.Addresses(); n > identity.MaxAddresses {
		t.Errorf("%d addresses are counted", n)
	}
	if n := greedy(); n != 0 {
		t.Errorf("the first address may come %d times more", n)
	}
	now = now.Add(time.Minute)
	if n := greedy(); n != 6 {
		t.Errorf("after a minute it may come %d times", n)
	}
}

func TestAttack46StolenDatabase(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c := r.client(nil)
	b := r.browser()
	code := b.code("alice", authParams(c, "scope", "openid "+matrixScope))
	tk := r.tokens(b.api("/oauth2/token", exchangeForm(c, code)))
	next := r.tokens(r.refresh(c, tk.refresh))
	legacy, err := r.svc.StartSession(t.Context(), identity.SessionRequest{UserID: "@alice:example.org", Refresh: true})
	if err != nil {
		t.Fatal(err)
	}
	loginToken, _ := r.svc.CreateLoginToken(t.Context(), "@alice:example.org", time.Minute)
	inv, _ := r.svc.CreateInvite(t.Context(), identity.NewInvite{})
	here, _ := url.Parse(origin)
	app, codes := b.enrolApp()
	secrets := map[string]string{
		"authenticator app's secret": app, "recovery code": codes[0],
		"access token": tk.access, "refresh token": tk.refresh, "next access token": next.access, "next refresh token": next.refresh, "code": code,
		"legacy access token": legacy.Access, "legacy refresh token": legacy.Refresh, "login token": loginToken, "invite": inv.Token, "password": "correct horse alice",
	}
	for _, k := range b.c.Jar.Cookies(here) {
		secrets["cookie "+k.Name] = k.Value
	}
	if len(secrets) != 15 {
		t.Fatalf("%d secrets", len(secrets))
	}
	keyFile := strings.TrimSuffix(r.path, "holdfast.db") + "identity.key"
	key, err := os.ReadFile(keyFile)
	if err != nil || len(key) != 32 {
		t.Fatalf("key file: %v", err)
	}
	if st, _ := os.Stat(keyFile); st.Mode().Perm() != 0o600 {
		t.Fatalf("the key file is readable by others: %v", st.Mode())
	}
	var file []byte
	for _, p := range []string{r.path, r.path + "-wal"} {
		b, err := os.ReadFile(p)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		file = append(file, b...)
	}
	if !bytes.Contains(file, []byte("alice")) {
		t.Fatal("the file does not even have the user's name")
	}
	for what, s := range secrets {
		if s == "" || bytes.Contains(file, []byte(s)) {
			t.Errorf("the %s is in the database", what)
		}
	}
	if bytes.Contains(file, key) {
		t.Error("the key is in the database")
	}
	// An RSA key in PKCS #8 has its algorithm's identifier in clear.
	if bytes.Contains(file, []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01}) {
		t.Error("the signing key is not sealed")
	}
}
