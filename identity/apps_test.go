package identity_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"holdfast/identity"
	"holdfast/store/schema"
)

// app makes an application with a secret.
func (r *rig) app(change func(*identity.AppConfig)) (*identity.App, string) {
	r.t.Helper()
	c, err := identity.AppTemplate("generic", "Wiki", "https://wiki.example.org")
	if err != nil {
		r.t.Fatal(err)
	}
	c.RedirectURIs, c.WithoutPKCE = []string{webRedirect}, true
	if change != nil {
		change(&c)
	}
	a, secret, err := r.svc.CreateApp(r.t.Context(), c, "")
	if err != nil {
		r.t.Fatal(err)
	}
	return a, secret
}

func appParams(id string, kv ...string) url.Values {
	return authParams(id, append([]string{"scope", "openid profile email groups", "code_challenge", "", "code_challenge_method", ""}, kv...)...)
}

// withSecret sends a form with the secret in the header.
func (b *browser) withSecret(u, id, secret string, v url.Values) answer {
	req, _ := http.NewRequest("POST", abs(u), strings.NewReader(v.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	return b.do(req)
}

func tradeForm(code string) url.Values {
	return url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {webRedirect}}
}

func claimsOf(t *testing.T, token any) map[string]any {
	t.Helper()
	s, _ := token.(string)
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		t.Fatalf("no token: %v", token)
	}
	b, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// RFC 6749 sections 2.3 and 4.1.3: an application proves itself to get tokens, in one
// way, and nobody else can use its code.
func TestAppSecret(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("alice")
	a, secret := r.app(nil)
	b := r.browser()
	code := b.code("alice", appParams(a.ID, "nonce", "n1"))
	v := tradeForm(code)
	v.Set("client_id", a.ID)
	r.wantError(b.api("/oauth2/token", v), 401, "invalid_client")
	r.wantError(b.withSecret("/oauth2/token", a.ID, "wrong", tradeForm(code)), 401, "invalid_client")
	v.Set("client_secret", secret)
	r.wantError(b.withSecret("/oauth2/token", a.ID, secret, v), 400, "invalid_request")
	x := b.withSecret("/oauth2/token", a.ID, secret, tradeForm(code))
	m := x.json(t)
	if x.StatusCode != 200 {
		t.Fatalf("%d %s", x.StatusCode, x.body)
	}
	c := claimsOf(t, m["id_token"])
	if c["sub"] != u.ID || c["nonce"] != "n1" || c["acr"] != "urn:holdfast:acr:1fa" || c["sid"] == nil || c["preferred_username"] != "alice" {
		t.Fatalf("%v", c)
	}
	// 41: it is no token for Matrix, and a Matrix scope is not granted at all.
	if r.alive(m["access_token"].(string)) {
		t.Fatal("an application's token is good for Matrix")
	}
	r.refused(appParams(a.ID, "scope", "openid "+matrixScope), "invalid_scope")
	// The other way of sending the secret.
	v = tradeForm(b.code("alice", appParams(a.ID, "scope", "openid offline_access")))
	v.Set("client_id", a.ID)
	v.Set("client_secret", secret)
	tk := r.tokens(b.api("/oauth2/token", v))
	// A refresh asks for the proof again.
	r.wantError(r.refresh(a.ID, tk.refresh), 401, "invalid_client")
	if x := r.refresh(a.ID, tk.refresh, "client_secret", secret); x.StatusCode != 200 || claimsOf(t, x.json(t)["id_token"])["acr"] == nil {
		t.Fatalf("%d %s", x.StatusCode, x.body)
	}
	// A verifier without a challenge is refused: somebody took the challenge out.
	v = tradeForm(b.code("alice", appParams(a.ID)))
	v.Set("code_verifier", verifier)
	r.wantError(b.withSecret("/oauth2/token", a.ID, secret, v), 400, "invalid_request")
	// An application that was not let off PKCE needs it.
	strict, _ := r.app(func(c *identity.AppConfig) { c.WithoutPKCE = false })
	r.refused(appParams(strict.ID), "invalid_request")
}

func TestAppSecretRotation(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	a, first := r.app(nil)
	r.wait(time.Second) // they are listed by age
	second, err := r.svc.AddAppSecret(t.Context(), a.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.svc.AddAppSecret(t.Context(), a.ID); err != identity.ErrSecrets {
		t.Fatalf("a third secret: %v", err)
	}
	ask := func(secret string) int {
		return r.browser().withSecret("/oauth2/introspect", a.ID, secret, url.Values{"token": {"x"}}).StatusCode
	}
	if ask(first) != 200 || ask(second) != 200 {
		t.Fatal("one of two secrets does not work")
	}
	list, _ := r.svc.Apps(t.Context())
	if len(list) != 1 || len(list[0].Secrets) != 2 || list[0].Secrets[0].LastUsed.IsZero() {
		t.Fatalf("%+v", list)
	}
	if err := r.svc.DeleteAppSecret(t.Context(), a.ID, list[0].Secrets[0].ID); err != nil {
		t.Fatal(err)
	}
	if ask(first) != 401 || ask(second) != 200 {
		t.Fatal("the withdrawn secret works, or the other does not")
	}
}

// keyApp makes an application with a key, and signs assertions of it.
func (r *rig) keyApp() (*identity.App, func(kv ...any) string) {
	r.t.Helper()
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	jwks, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k1", Algorithm: "ES256", Use: "sig"}}})
	a, _ := r.app(func(c *identity.AppConfig) { c.Auth, c.JWKS = "private_key_jwt", jwks })
	return a, func(kv ...any) string { return assertion(r, a, key, kv...) }
}

func assertion(r *rig, a *identity.App, key *ecdsa.PrivateKey, kv ...any) string {
	m := map[string]any{"iss": a.ID, "sub": a.ID, "aud": origin + "/oauth2/token", "jti": rand.Text(), "exp": r.now().Add(time.Minute).Unix()}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i].(string)] = kv[i+1]
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k1"}}, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	b, _ := json.Marshal(m)
	o, _ := s.Sign(b)
	out, _ := o.CompactSerialize()
	return out
}

// RFC 7523 section 3.
func TestAppKey(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	jwks, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k1", Algorithm: "ES256", Use: "sig"}}})
	a, _ := r.app(func(c *identity.AppConfig) { c.Auth, c.JWKS = "private_key_jwt", jwks })
	sign := func(kv ...any) string { return assertion(r, a, key, kv...) }
	b := r.browser()
	send := func(assertion string) answer {
		return b.api("/oauth2/introspect", url.Values{"token": {"x"}, "client_assertion": {assertion}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}})
	}
	// The endpoint itself is an audience, too.
	good := sign()
	if x := send(good); x.StatusCode != 200 {
		t.Fatalf("%d %s", x.StatusCode, x.body)
	}
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	mine := key
	key = other
	forged := sign()
	key = mine
	for what, s := range map[string]string{
		"used again": good, "of another key": forged, "for somebody else": sign("aud", "https://other.test"), "expired": sign("exp", r.now().Add(-time.Minute).Unix()),
		"good for years": sign("exp", r.now().Add(10000*time.Hour).Unix()), "without jti": sign("jti", ""), "of another issuer": sign("iss", "x"), "not yet good": sign("nbf", r.now().Add(time.Hour).Unix()), "no JWT": "a.b.c",
	} {
		if x := send(s); x.StatusCode != 401 {
			t.Errorf("an assertion %s: %d", what, x.StatusCode)
		}
	}
	v := tradeForm(b.code("alice", appParams(a.ID)))
	v.Set("client_assertion", sign("aud", []string{origin}))
	v.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	if x := b.api("/oauth2/token", v); x.StatusCode != 200 {
		t.Fatalf("%d %s", x.StatusCode, x.body)
	}
	private, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key, KeyID: "k1"}}})
	c := a.AppConfig
	c.JWKS = private
	if _, _, err := r.svc.CreateApp(t.Context(), c, ""); err == nil {
		t.Fatal("a private key was taken")
	}
}

// RFC 7662: only who proves itself may ask, and about its own tokens alone.
func TestIntrospection(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("alice")
	a, secret := r.app(nil)
	other, otherSecret := r.app(nil)
	all, allSecret := r.app(func(c *identity.AppConfig) { c.IntrospectAll = true })
	b := r.browser()
	token := b.withSecret("/oauth2/token", a.ID, secret, tradeForm(b.code("alice", appParams(a.ID)))).json(t)["access_token"].(string)
	ask := func(id, secret, token string) map[string]any {
		x := b.withSecret("/oauth2/introspect", id, secret, url.Values{"token": {token}})
		if x.StatusCode != 200 {
			t.Fatalf("%d %s", x.StatusCode, x.body)
		}
		return x.json(t)
	}
	if m := ask(a.ID, secret, token); m["active"] != true || m["sub"] != u.ID || m["client_id"] != a.ID || m["username"] != "alice" || m["scope"] != "openid profile email groups" || m["exp"] == nil {
		t.Fatalf("%v", m)
	}
	if m := ask(other.ID, otherSecret, token); len(m) != 1 || m["active"] != false {
		t.Fatalf("another application's token: %v", m)
	}
	if m := ask(all.ID, allSecret, token); m["active"] != true {
		t.Fatalf("%v", m)
	}
	public := r.client(nil)
	matrix := r.session("alice", public)
	if m := ask(a.ID, secret, matrix.access); len(m) != 1 || m["active"] != false {
		t.Fatalf("a Matrix token: %v", m)
	}
	r.wantError(b.api("/oauth2/introspect", url.Values{"client_id": {public}, "token": {matrix.access}}), 401, "invalid_client")
	r.wantError(b.api("/oauth2/introspect", url.Values{"token": {matrix.access}}), 401, "invalid_client")
	if err := r.svc.SetDisabled(t.Context(), "@alice:example.org", true); err != nil {
		t.Fatal(err)
	}
	if m := ask(a.ID, secret, token); m["active"] != false {
		t.Fatalf("of a locked account: %v", m)
	}
}

// 42: who leaves the group gets no new tokens; an application that is off gives none.
func TestAppGroupsAndOff(t *testing.T) {
	r := newRig(t, nil)
	alice := r.user("alice")
	if _, err := r.svc.CreateGroup(t.Context(), "staff"); err != nil {
		t.Fatal(err)
	}
	member := func(in bool) {
		t.Helper()
		if err := r.svc.SetMember(t.Context(), "staff", alice.UserID, in); err != nil {
			t.Fatal(err)
		}
	}
	member(true)
	a, secret := r.app(func(c *identity.AppConfig) { c.Groups = []string{"staff"} })
	b := r.browser()
	x := b.withSecret("/oauth2/token", a.ID, secret, tradeForm(b.code("alice", appParams(a.ID, "scope", "openid groups offline_access"))))
	tk := r.tokens(x)
	if g, _ := claimsOf(t, x.json(t)["id_token"])["groups"].([]any); !slices.Equal(g, []any{"staff"}) {
		t.Fatalf("groups: %v", g)
	}
	member(false)
	r.wantError(r.refresh(a.ID, tk.refresh, "client_secret", secret), 400, "invalid_grant")
	loc := b.get("/oauth2/authorize?" + appParams(a.ID).Encode()).to(t)
	if p := b.get(loc.String()); p.StatusCode != 403 {
		t.Fatalf("without the group: %d", p.StatusCode)
	}
	member(true)
	tk = r.tokens(r.refresh(a.ID, tk.refresh, "client_secret", secret))
	if _, err := r.svc.ChangeApp(t.Context(), a.ID, func(a *identity.App) error { a.Disabled = true; return nil }); err != nil {
		t.Fatal(err)
	}
	r.wantError(r.refresh(a.ID, tk.refresh, "client_secret", secret), 401, "invalid_client")
	if p := b.get("/oauth2/authorize?" + appParams(a.ID).Encode()); p.StatusCode != 403 {
		t.Fatalf("switched off: %d", p.StatusCode)
	}
}

// admit says which groups an application is for; none: everybody.
func (r *rig) admit(a *identity.App, groups ...string) (*identity.App, error) {
	return r.svc.ChangeApp(r.t.Context(), a.ID, func(x *identity.App) error {
		x.Groups = append([]string{}, groups...)
		return nil
	})
}

// An application that is for a group is for that one, whatever its name is: not for a new
// group of its old name, and for nobody once it is removed.
func TestAppAccessIsByTheGroupItself(t *testing.T) {
	r := logoutRig(t)
	ctx := t.Context()
	told := newTold(t)
	for _, name := range []string{"alice", "bob"} {
		r.user(name)
	}
	group := func(name string, who ...string) {
		t.Helper()
		if _, err := r.svc.CreateGroup(ctx, name); err != nil {
			t.Fatal(err)
		}
		for _, x := range who {
			must(t, r.svc.SetMember(ctx, name, "@"+x+":example.org", true))
		}
	}
	group("Staff", "alice")
	group("Other")
	c, _ := identity.AppTemplate("generic", "Wiki", "")
	c.RedirectURIs, c.Groups = []string{webRedirect}, []string{"staff", "Nobody's"}
	var wrong *identity.AppError
	if _, _, err := r.svc.CreateApp(ctx, c, ""); !errors.As(err, &wrong) || !strings.Contains(wrong.Msg, "Nobody's") {
		t.Fatalf("a group that there is not: %v", err)
	}
	a, secret := r.app(func(c *identity.AppConfig) {
		c.Groups, c.BackchannelURI = []string{" staff "}, told.URL+"/logout"
	})
	alice, bob := r.browser(), r.browser()
	in := func(b *browser, user string) (string, bool) {
		t.Helper()
		loc := b.get("/oauth2/authorize?" + appParams(a.ID).Encode()).to(t).String()
		p := b.get(loc)
		if p.StatusCode == 200 { // who is not signed in yet
			p = b.post(loc, url.Values{"username": {user}, "password": {"correct horse " + user}})
		}
		if p.StatusCode == 403 {
			return "", false
		}
		x := b.withSecret("/oauth2/token", a.ID, secret, tradeForm(b.code(user, appParams(a.ID, "scope", "openid offline_access"))))
		return r.tokens(x).refresh, true
	}
	refreshes := func(token string) bool {
		return r.refresh(a.ID, token, "client_secret", secret).StatusCode == 200
	}
	old, ok := in(alice, "alice")
	if !ok {
		t.Fatal("alice is in the group and may not come in")
	}
	must(t, r.svc.RenameGroup(ctx, "staff", "Crew"))
	group("Staff", "bob")
	if _, ok := in(bob, "bob"); ok {
		t.Fatal("a new group of the old name comes in")
	}
	if !refreshes(old) {
		t.Fatal("the group's other name ended its access")
	}
	if list, err := r.svc.Apps(ctx); err != nil || len(list) != 1 || !slices.Equal(list[0].Access, []identity.AppAccess{{GroupID: a.Access[0].GroupID, Name: "Crew"}}) {
		t.Fatalf("%+v %v", list[0].Access, err)
	}

	// Removed, it ends at once, of which the application and the log have word.
	old, _ = in(alice, "alice")
	told.take()
	must(t, r.svc.DeleteGroup(ctx, "crew"))
	r.deliver()
	told.one(t)
	if refreshes(old) {
		t.Fatal("the group is gone and its access is not")
	}
	if e := r.last("app.change"); e.Target != a.ID || !strings.Contains(e.Data, `"group_removed":"Crew"`) || !strings.Contains(e.Data, `"for_all":false`) {
		t.Fatalf("%s %s", e.Target, e.Data)
	}
	group("Crew", "alice", "bob")
	for name, b := range map[string]*browser{"alice": alice, "bob": bob} {
		if _, ok := in(b, name); ok {
			t.Fatalf("%s comes in by a group of a removed one's name", name)
		}
	}
	// Changing something else leaves it so.
	if _, err := r.svc.ChangeApp(ctx, a.ID, func(x *identity.App) error { x.Name = "Wiki 2"; return nil }); err != nil {
		t.Fatal(err)
	}
	list, err := r.svc.Apps(ctx)
	if err != nil || len(list[0].Access) != 1 || !list[0].Access[0].Gone || list[0].Access[0].Name != "Crew" {
		t.Fatalf("%+v %v", list[0].Access, err)
	}
	if _, ok := in(bob, "bob"); ok {
		t.Fatal("an application of a removed group is for everybody")
	}

	// Who decides so has it for another group, or for all; narrowed, it ends for the others.
	if _, err := r.admit(a); err != nil {
		t.Fatal(err)
	}
	old, ok = in(bob, "bob")
	if !ok {
		t.Fatal("it is for everybody and bob may not come in")
	}
	if _, err := r.admit(a, "Other", "Crew"); err != nil || !refreshes(old) {
		t.Fatalf("bob is in one of the groups: %v", err)
	}
	told.take()
	if _, err := r.admit(a, "Other"); err != nil || refreshes(old) {
		t.Fatalf("bob's session goes on: %v", err)
	}
	r.deliver()
	told.one(t)

	// Who leaves the group is out of the application as well, and not of others.
	if _, err := r.admit(a, "Crew"); err != nil {
		t.Fatal(err)
	}
	free, freeSecret := r.backchannel(told)
	alice.signedInTo(free, freeSecret, "alice")
	alice.signedInTo(a, secret, "alice")
	x := bob.withSecret("/oauth2/token", a.ID, secret, tradeForm(bob.code("bob", appParams(a.ID, "scope", "openid offline_access"))))
	token := r.tokens(x)
	good := func() (active, userinfo bool) {
		t.Helper()
		for _, tk := range []string{token.access, token.refresh} {
			m := bob.withSecret("/oauth2/introspect", a.ID, secret, url.Values{"token": {tk}}).json(t)
			active = active || m["active"] == true
		}
		req, _ := http.NewRequest("GET", abs("/oauth2/userinfo"), nil)
		req.Header.Set("Authorization", "Bearer "+token.access)
		return active, bob.do(req).StatusCode == 200
	}
	if active, info := good(); !active || !info {
		t.Fatal("a good token is none")
	}
	must(t, r.svc.SetMember(ctx, "crew", "@bob:example.org", false)) // whose session waits for them
	if active, info := good(); active || info {
		t.Fatalf("who may not use the application: active %v, userinfo %v", active, info)
	}
	r.deliver()
	told.take()
	must(t, r.svc.SetMember(ctx, "crew", "@alice:example.org", false))
	r.deliver()
	if c := claimsOf(t, told.one(t)); c["aud"] != a.ID {
		t.Fatalf("%v is told", c["aud"])
	}
}

// TestAppAccessOfBefore brings a file to the schema in which access is by the group itself.
func TestAppAccessOfBefore(t *testing.T) {
	r := newRig(t, nil)
	alice := r.user("alice")
	ctx := t.Context()
	for _, g := range []string{"Staff", "Ops"} {
		if _, err := r.svc.CreateGroup(ctx, g); err != nil {
			t.Fatal(err)
		}
	}
	must(t, r.svc.SetMember(ctx, "staff", alice.UserID, true))
	byName := map[string][]string{"both": {"Ops", "Staff"}, "one": {"Staff"}, "none": {"staff", "Left"}, "all": nil}
	ids := map[string]string{}
	for name := range byName {
		a, _ := r.app(func(c *identity.AppConfig) { c.Name = name })
		ids[name] = a.ID
	}
	r.stop()
	steps, err := schema.Migrations()
	must(t, err)
	n := slices.IndexFunc(steps, func(m schema.Migration) bool { return strings.HasSuffix(m.Name, "_app_groups.sql") })
	db, err := sql.Open("sqlite", r.path)
	must(t, err)
	// What this migration and those after it made is taken away, as far as it matters here.
	if _, err := db.Exec(`DROP TABLE id_app_groups`); err != nil {
		t.Fatal(err)
	}
	for name, groups := range byName {
		if groups == nil {
			continue
		}
		raw, _ := json.Marshal(groups)
		if _, err := db.Exec(`UPDATE id_apps SET config = json_set(config, '$.groups', json($2)) WHERE id = $1`, ids[name], string(raw)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.Exec(steps[n].SQL); err != nil {
		t.Fatal(err)
	}
	must(t, db.Close())
	r.start()
	list, err := r.svc.Apps(ctx)
	must(t, err)
	for _, a := range list {
		var names, gone []string
		for _, x := range a.Access {
			if names = append(names, x.Name); x.Gone {
				gone = append(gone, x.Name)
			}
		}
		if want := byName[a.Name]; strings.Join(slices.Sorted(slices.Values(names)), " ") != strings.Join(slices.Sorted(slices.Values(want)), " ") {
			t.Errorf("%s is for %v instead of %v", a.Name, names, want)
		}
		if (len(gone) > 0) != (a.Name == "none") {
			t.Errorf("%s is for %v, of which %v are gone", a.Name, names, gone)
		}
		b := r.browser()
		page := b.get("/oauth2/authorize?" + appParams(a.ID).Encode()).to(t).String()
		got := b.post(page, url.Values{"username": {"alice"}, "password": {"correct horse alice"}})
		if (got.StatusCode == 403) != (a.Name == "none") {
			t.Errorf("%s answers %d", a.Name, got.StatusCode)
		}
	}
}

// OpenID Connect Core section 3.1.2.1 (prompt) and 3.1.2.4: consent is asked for once.
func TestConsentRemembered(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	a, _ := r.app(nil)
	b := r.browser()
	b.code("alice", appParams(a.ID, "scope", "openid profile"))
	none := b.get("/oauth2/authorize?" + appParams(a.ID, "scope", "openid profile", "prompt", "none").Encode()).to(t)
	if none.Path != "/oauth2/authorize/callback" {
		t.Fatalf("not remembered: %s", none)
	}
	if e := b.get("/oauth2/authorize?" + appParams(a.ID, "scope", "openid email", "prompt", "none").Encode()).to(t).Query().Get("error"); e != "consent_required" {
		t.Fatalf("more than was allowed: %q", e)
	}
	loc := b.get("/oauth2/authorize?" + appParams(a.ID, "scope", "openid profile", "prompt", "consent").Encode()).to(t)
	if loc = b.get(loc.String()).to(t); loc.Path != "/consent" {
		t.Fatalf("prompt=consent leads to %s", loc)
	}
	page := b.get("/account")
	if !strings.Contains(page.body, "Wiki") {
		t.Fatal("the account page does not show the application")
	}
	if p := b.post("/account/withdraw", url.Values{"app": {a.ID}}); p.StatusCode != 200 || strings.Contains(p.body, "Wiki") {
		t.Fatalf("%d", p.StatusCode)
	}
	if e := b.get("/oauth2/authorize?" + appParams(a.ID, "scope", "openid profile", "prompt", "none").Encode()).to(t).Query().Get("error"); e != "consent_required" {
		t.Fatalf("after it was withdrawn: %q", e)
	}
}

// OpenID Connect Core section 8.1 (pairwise) and 5.5 (claims).
func TestPairwiseAndClaims(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("alice")
	pair := func(c *identity.AppConfig) { c.Pairwise, c.MadeUpEmail = true, true }
	a, secret := r.app(pair)
	z, zSecret := r.app(pair)
	b := r.browser()
	m := b.withSecret("/oauth2/token", a.ID, secret, tradeForm(b.code("alice", appParams(a.ID, "scope", "openid", "claims", `{"id_token":{"email":{"essential":true},"x":null},"userinfo":{"name":null}}`)))).json(t)
	c := claimsOf(t, m["id_token"])
	d := claimsOf(t, b.withSecret("/oauth2/token", z.ID, zSecret, tradeForm(b.code("alice", appParams(z.ID)))).json(t)["id_token"])
	if c["sub"] == u.ID || c["sub"] == d["sub"] || c["sid"] == d["sid"] {
		t.Fatalf("%v %v", c["sub"], d["sub"])
	}
	if c["email"] != "alice@example.org.invalid" || c["email_verified"] == true || c["name"] != nil {
		t.Fatalf("%v", c)
	}
	req, _ := http.NewRequest("GET", origin+"/oauth2/userinfo", nil)
	req.Header.Set("Authorization", "Bearer "+m["access_token"].(string))
	if i := b.do(req).json(t); i["sub"] != c["sub"] || i["name"] != "ALICE" || i["email"] != nil {
		t.Fatalf("%v", i)
	}
	hint := m["id_token"].(string)
	if p := b.get("/oauth2/authorize?" + appParams(a.ID, "scope", "openid", "prompt", "none", "id_token_hint", hint).Encode()).to(t); p.Path != "/oauth2/authorize/callback" {
		t.Fatalf("its own hint: %s", p)
	}
	r.refused(appParams(a.ID, "claims", "[]"), "invalid_request")
	must := b.get("/oauth2/authorize?" + appParams(a.ID, "scope", "openid", "prompt", "none", "claims", `{"id_token":{"acr":{"essential":true,"values":["phr"]}}}`).Encode()).to(t)
	if must.Query().Get("error") != "unmet_authentication_requirements" {
		t.Fatalf("%s", must)
	}
}

// OAuth 2.0 Form Post Response Mode.
func TestFormPost(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	a, _ := r.app(nil)
	b := r.browser()
	p := b.get(b.signIn("alice", appParams(a.ID, "response_mode", "form_post", "state", `"><script>`)))
	csp := p.Header.Get("Content-Security-Policy")
	if p.StatusCode != 200 || !strings.Contains(p.body, `name="code" value="hac_`) || !strings.Contains(p.body, `name="iss"`) || strings.Contains(p.body, `"><script>"`) ||
		!strings.Contains(csp, "form-action https://app.client.test;") || !strings.Contains(csp, "script-src 'sha256-") || strings.Contains(csp, "unsafe") {
		t.Fatalf("%d %s\n%s", p.StatusCode, csp, p.body)
	}
}

// OpenID Connect Core section 10.1.1: keys are published before they sign and after.
func TestKeyRotation(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	a, secret := r.app(nil)
	kids := func() (out []string) {
		var k struct{ Keys []struct{ Kid string } }
		if err := json.Unmarshal([]byte(r.browser().get("/oauth2/jwks").body), &k); err != nil {
			t.Fatal(err)
		}
		for _, x := range k.Keys {
			out = append(out, x.Kid)
		}
		return out
	}
	b := r.browser()
	token := func() (raw, kid string) {
		raw = b.withSecret("/oauth2/token", a.ID, secret, tradeForm(b.code("alice", appParams(a.ID, "scope", "openid")))).json(t)["id_token"].(string)
		h, _ := base64.RawURLEncoding.DecodeString(raw[:strings.Index(raw, ".")])
		var x struct{ Kid string }
		json.Unmarshal(h, &x)
		return raw, x.Kid
	}
	old, first := token()
	if err := r.svc.RotateKey(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if got := kids(); len(got) != 2 {
		t.Fatalf("the next key is not published: %v", got)
	}
	if _, k := token(); k != first {
		t.Fatal("the next key signs before its time")
	}
	r.wait(25 * time.Hour)
	if err := r.svc.UpkeepKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, k := token(); k == first || !slices.Contains(kids(), first) {
		t.Fatalf("%s signs; published: %v", k, kids())
	}
	// What the old one signed is still known.
	if p := b.get("/oauth2/authorize?" + appParams(a.ID, "scope", "openid", "prompt", "none", "id_token_hint", old).Encode()).to(t); p.Path != "/oauth2/authorize/callback" {
		t.Fatalf("a hint of the old key: %s", p)
	}
	if err := r.svc.RotateKey(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if got := kids(); len(got) != 1 || slices.Contains(got, first) {
		t.Fatalf("after a rotation at once: %v", got)
	}
	r.wait(89*24*time.Hour + time.Minute)
	if err := r.svc.UpkeepKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := kids(); len(got) != 2 {
		t.Fatalf("no next key is made by itself: %v", got)
	}
}

// 46 for what applications bring: no secret of theirs can be read from the file.
func TestAppSecretsAtRest(t *testing.T) {
	r := newRig(t, nil)
	a, secret := r.app(nil)
	second, _ := r.svc.AddAppSecret(t.Context(), a.ID)
	var file []byte
	for _, p := range []string{r.path, r.path + "-wal"} {
		b, err := os.ReadFile(p)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		file = append(file, b...)
	}
	if !bytes.Contains(file, []byte(a.ID)) || bytes.Contains(file, []byte(secret)) || bytes.Contains(file, []byte(second)) {
		t.Fatal("the file lacks the application, or has its secret")
	}
}

func TestAppConfig(t *testing.T) {
	r := newRig(t, nil)
	for _, tpl := range []string{"nextcloud", "grafana", "gitea", "jitsi"} {
		c, err := identity.AppTemplate(tpl, tpl, "https://app.example.org/")
		if err == nil {
			_, _, err = r.svc.CreateApp(t.Context(), c, "")
		}
		if err != nil {
			t.Errorf("%s: %v", tpl, err)
		}
		if _, err := identity.AppTemplate(tpl, tpl, ""); err == nil {
			t.Errorf("%s without an address", tpl)
		}
	}
	if _, err := identity.AppTemplate("grafana", "x", "https://app.example.org/?a=b"); err == nil {
		t.Error("an address with a query")
	}
	// Applications may know people by their address, also by one that is made up.
	a, secret := r.app(func(c *identity.AppConfig) { c.MadeUpEmail = true })
	seen := map[any]string{}
	for _, name := range []string{"a-b", "a/b", "a=b", "a+b", "a+2fb"} {
		r.user(name)
		b := r.browser()
		token, _ := b.signedInTo(a, secret, name, "scope", "openid email")
		mail := claimsOf(t, token)["email"]
		if seen[mail] != "" {
			t.Errorf("%s and %s are both %v", name, seen[mail], mail)
		}
		seen[mail] = name
	}
	for _, uri := range []string{"javascript:alert(1)", "http://evil.com/cb", "https://a@b.test/", "https://a.test/#x", "data:text/html,x", "ftp://a.test/"} {
		c, _ := identity.AppTemplate("generic", "x", "")
		c.RedirectURIs = []string{uri}
		if _, _, err := r.svc.CreateApp(t.Context(), c, ""); err == nil {
			t.Errorf("%s was taken", uri)
		}
	}
	c, _ := identity.AppTemplate("generic", "x", "")
	c.RedirectURIs = []string{"http://10.1.2.3/cb", "http://wiki.lan/cb"}
	if _, _, err := r.svc.CreateApp(t.Context(), c, ""); err != nil {
		t.Error(err)
	}
}
