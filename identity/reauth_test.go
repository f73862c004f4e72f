package identity_test

import (
	"bytes"
	"compress/flate"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	crew "github.com/crewjam/saml"
	jose "github.com/go-jose/go-jose/v4"

	"holdfast/identity"
	"holdfast/identity/saml"
	"holdfast/identity/saml/samltest"
	"holdfast/identity/upstream"
	"holdfast/store"
)

// townHall is an OpenID provider that says what a test has it say.
type townHall struct {
	*httptest.Server
	r   *rig
	key *rsa.PrivateKey

	mu    sync.Mutex
	token string
}

var townKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// newTownHall is a provider that people of the rig sign in with, as "town".
func newTownHall(r *rig) *townHall {
	h := &townHall{r: r, key: townKey()}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch q.URL.Path {
		case "/.well-known/openid-configuration":
			json.NewEncoder(w).Encode(map[string]any{"issuer": h.URL, "authorization_endpoint": h.URL + "/auth", "token_endpoint": h.URL + "/token", "jwks_uri": h.URL + "/keys", "id_token_signing_alg_values_supported": []string{"RS256"}})
		case "/keys":
			json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &h.key.PublicKey, KeyID: "k", Use: "sig"}}})
		case "/token":
			h.mu.Lock()
			defer h.mu.Unlock()
			json.NewEncoder(w).Encode(map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": h.token})
		}
	}))
	r.t.Cleanup(h.Close)
	if err := r.svc.Upstreams().Set(r.t.Context(), "town", upstream.Config{Name: "Town Hall", Issuer: h.URL, ClientID: "here", ClientSecret: "shared"}); err != nil {
		r.t.Fatal(err)
	}
	return h
}

// answers comes back from the provider, which signed somebody in.
func (h *townHall) answers(b *browser, asked *url.URL, sub string, more map[string]any) answer {
	t := h.r.t
	t.Helper()
	q, now := asked.Query(), h.r.now()
	if !strings.HasPrefix(asked.String(), h.URL+"/auth?") {
		t.Fatalf("the browser is not sent to the provider: %s", asked)
	}
	claims := map[string]any{"iss": h.URL, "sub": sub, "aud": "here", "nonce": q.Get("nonce"), "exp": now.Add(time.Minute).Unix(), "iat": now.Unix(), "preferred_username": sub, "name": strings.ToUpper(sub)}
	maps.Copy(claims, more)
	raw, _ := json.Marshal(claims)
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: h.key, KeyID: "k"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign(raw)
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.token, err = signed.CompactSerialize()
	h.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	return b.get("/upstream/town/callback?" + url.Values{"state": {q.Get("state")}, "code": {"c"}}.Encode())
}

// aged has all browsers have signed in ten minutes ago.
func (r *rig) aged() {
	r.t.Helper()
	if err := r.db.Write(r.t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(`UPDATE id_browser_sessions SET auth_time = auth_time - 600000`)
		return err
	}); err != nil {
		r.t.Fatal(err)
	}
}

const dangerous = "/account?action=org.matrix.account_deactivate"

var confirmWith = regexp.MustCompile(`href="(/upstream/[^"]*)">Confirm with Town Hall<`)

// asksAgain is the page that asks who is signed in to confirm it, on the way to what is
// dangerous, and where its button leads.
func (b *browser) asksAgain() (page answer, button string) {
	t := b.r.t
	t.Helper()
	at := b.get(dangerous).to(t)
	if at.Path != "/reauth" {
		t.Fatalf("it leads to %s", at)
	}
	page = b.get(at.String())
	if m := confirmWith.FindStringSubmatch(page.body); m != nil {
		button = html.UnescapeString(m[1])
	}
	return page, button
}

func (b *browser) mayNow() bool { return b.get(dangerous).StatusCode == http.StatusOK }

// Whoever comes from an OpenID provider and has no password confirms there who they are,
// where they have to prove it anew, and goes on with what they wanted.
func TestReauthAtOpenIDProvider(t *testing.T) {
	r := newRig(t, func(o *identity.Options) { o.Client = http.DefaultClient })
	h := newTownHall(r)
	b := r.browser()
	ago := func(d time.Duration) map[string]any { return map[string]any{"auth_time": r.now().Add(-d).Unix()} }
	asked := b.get("/upstream/town/start?next=/account").to(t)
	if asked.Query().Has("prompt") || asked.Query().Has("max_age") {
		t.Errorf("a sign-in asks for more than a session: %s", asked)
	}
	if to := h.answers(b, asked, "dora", nil).to(t); to.Path != "/account" {
		t.Fatal(to)
	}
	if !b.mayNow() {
		t.Fatal("a sign-in of now is not fresh")
	}
	if p := b.get("/account?action=password"); p.StatusCode != 200 || strings.Contains(p.body, `type="password"`) || !strings.Contains(p.body, "no password here") {
		t.Errorf("a password is changed that there is not: %d", p.StatusCode)
	}
	r.aged()
	page, button := b.asksAgain()
	if page.StatusCode != 200 || button == "" || strings.Contains(page.body, `type="password"`) || strings.Contains(page.body, "/login/forgot") {
		t.Fatalf("%d %s", page.StatusCode, page.body)
	}
	ask := func() *url.URL {
		t.Helper()
		to := b.get(button).to(t)
		if to.Query().Get("prompt") != "login" || to.Query().Get("max_age") != "0" {
			t.Fatalf("the provider need not ask: %s", to)
		}
		return to
	}
	// The request goes through the browser: what counts is what the provider says.
	for what, said := range map[string]map[string]any{"an old sign-in": ago(10 * time.Minute), "no time": nil, "no number": {"auth_time": "now"}} {
		if p := h.answers(b, ask(), "dora", said); p.StatusCode != 403 || !strings.Contains(p.body, "did not ask you") || b.mayNow() {
			t.Errorf("%s: %d", what, p.StatusCode)
		}
	}
	// Somebody else is not signed in by it, and gets no account.
	if p := h.answers(b, ask(), "emil", ago(0)); p.StatusCode != 403 || !strings.Contains(p.body, "somebody else") || !strings.Contains(p.body, "Confirm with Town Hall") || b.mayNow() {
		t.Errorf("somebody else: %d %s", p.StatusCode, p.body)
	}
	if _, err := r.svc.User(t.Context(), "emil"); !errors.Is(err, identity.ErrNoUser) {
		t.Errorf("an account was made: %v", err)
	}
	if to := h.answers(b, ask(), "dora", ago(0)).to(t); to.String() != dangerous || !b.mayNow() {
		t.Errorf("it ends at %s", to)
	}
	// Only paths of here are gone on to.
	asked = b.get("/upstream/town/start?again=1&next=" + url.QueryEscape("//evil.test")).to(t)
	if to := h.answers(b, asked, "dora", ago(0)).to(t); to.String() != "/account" {
		t.Errorf("it leads to %s", to)
	}
	// Who is signed out meanwhile is not signed in by a confirmation.
	out := r.browser()
	h.answers(out, out.get("/upstream/town/start?next=/account").to(t), "dora", ago(0)).to(t)
	asked = out.get(button).to(t)
	out.post("/logout", url.Values{"answer": {"yes"}})
	if to := h.answers(out, asked, "dora", ago(0)).to(t); to.Path != "/login" || to.Query().Get("next") != dangerous || out.signedIn() {
		t.Errorf("it leads to %s", to)
	}

	// With a second factor here both are asked for.
	app, _ := b.enrolApp()
	r.aged()
	if _, button = b.asksAgain(); button == "" {
		t.Fatal("no button")
	}
	to := h.answers(b, ask(), "dora", ago(0)).to(t)
	if to.Path != "/login/totp" || b.mayNow() {
		t.Fatalf("without the second factor: %s", to)
	}
	r.wait(time.Minute)
	if to = b.post(to.String(), url.Values{"code": {r.digits(app)}}).to(t); to.String() != dangerous || !b.mayNow() {
		t.Errorf("it ends at %s", to)
	}
	// A passkey alone does as well, but nobody else's.
	dora, err := r.svc.User(t.Context(), "dora")
	must(t, err)
	mine, others := newDevice(t, dora), newDevice(t, r.user("otto"))
	b.enrolPasskey(mine, "mine")
	otto := r.browser()
	otto.password("otto").to(t)
	otto.enrolPasskey(others, "others")
	r.aged()
	page, _ = b.asksAgain()
	if p := b.post("/login/passkey/alone?again=1&next="+url.QueryEscape(dangerous), url.Values{"response": {others.get(options(t, r.browser().get("/login")))}}); p.StatusCode == 303 {
		t.Errorf("another's passkey leads to %s", p.Header.Get("Location"))
	}
	if got := b.get("/account"); !strings.Contains(got.body, "@dora:") || b.mayNow() {
		t.Error("another's passkey counts")
	}
	if to := b.post("/login/passkey/alone?again=1&next="+url.QueryEscape(dangerous), url.Values{"response": {mine.get(options(t, page))}}).to(t); to.String() != dangerous || !b.mayNow() {
		t.Errorf("it ends at %s", to)
	}
}

// A session at the provider is as old here as it is there, for applications, too: they are
// told the truth, and can have people prove anew who they are.
func TestAuthTimeOfProvider(t *testing.T) {
	r := newRig(t, func(o *identity.Options) { o.Client = http.DefaultClient })
	h := newTownHall(r)
	b := r.browser()
	hour := map[string]any{"auth_time": r.now().Add(-time.Hour).Unix()}
	h.answers(b, b.get("/upstream/town/start?next=/account").to(t), "dora", hour).to(t)
	if b.mayNow() {
		t.Error("a session of an hour there is a fresh sign-in here")
	}
	id := r.client(nil)
	code := func(b *browser, kv ...string) (asked *url.URL) {
		t.Helper()
		loc := b.get("/oauth2/authorize?" + authParams(id, append([]string{"scope", "openid"}, kv...)...).Encode()).to(t)
		page := b.get(loc.String())
		m := regexp.MustCompile(`href="(/upstream/town/start[^"]*)"`).FindStringSubmatch(page.body)
		if m == nil {
			t.Fatalf("the application takes a sign-in of an hour: %d", page.StatusCode)
		}
		return b.get(html.UnescapeString(m[1])).to(t)
	}
	finish := func(a answer) (authTime int64) {
		t.Helper()
		to := a.to(t)
		for to.Host == "" || to.Host == "chat.example.org" {
			if to.Path == "/consent" {
				b.get(to.String())
				to = b.post(to.String(), url.Values{"answer": {"yes"}}).to(t)
				continue
			}
			to = b.get(to.String()).to(t)
		}
		if to.Query().Get("code") == "" {
			t.Fatalf("it leads to %s", to)
		}
		c := claimsOf(t, b.api("/oauth2/token", exchangeForm(id, to.Query().Get("code"))).json(t)["id_token"])
		return int64(c["auth_time"].(float64))
	}
	asked := code(b, "max_age", "600")
	if asked.Query().Get("max_age") != "600" || asked.Query().Has("prompt") {
		t.Errorf("the provider is asked for %s", asked)
	}
	if p := h.answers(b, asked, "dora", hour); p.StatusCode != 403 {
		t.Errorf("a session of an hour is good for an application that wants ten minutes: %d", p.StatusCode)
	}
	five := r.now().Add(-5 * time.Minute).Unix()
	if at := finish(h.answers(b, code(b, "max_age", "600"), "dora", map[string]any{"auth_time": five})); at != five {
		t.Errorf("auth_time is %d, want %d", at, five)
	}
	asked = code(b, "prompt", "login")
	if asked.Query().Get("prompt") != "login" || asked.Query().Get("max_age") != "0" {
		t.Errorf("the provider is asked for %s", asked)
	}
	now := r.now().Unix()
	if at := finish(h.answers(b, asked, "dora", map[string]any{"auth_time": now - 30})); at < now-1 {
		t.Errorf("auth_time is %d s before the sign-in", now-at)
	}
}

// The same with a provider of SAML 2.0.
func TestReauthAtSAMLProvider(t *testing.T) {
	r := newRig(t, nil)
	idp := samltest.New(t)
	said, err := saml.ParseMetadata(idp.XML(t), "", time.Now())
	must(t, err)
	must(t, r.svc.Upstreams().Set(t.Context(), "town", upstream.Config{Name: "Town Hall", SAML: &saml.Settings{IdP: said, Base: origin}}))
	ours, err := r.svc.Upstreams().Metadata("town")
	must(t, err)
	idp.Know(t, ours)
	idp.SignIn("id-of-dora", string(crew.PersistentNameIDFormat), "dora", "Dora D", "s1")
	b := r.browser()
	forced := false
	// asks gives the provider's answer to what a button asks.
	asks := func(button string) answer {
		t.Helper()
		to := b.get(button).to(t)
		deflated, err := base64.StdEncoding.DecodeString(to.Query().Get("SAMLRequest"))
		must(t, err)
		request, err := io.ReadAll(flate.NewReader(bytes.NewReader(deflated)))
		must(t, err)
		forced = bytes.Contains(request, []byte(`ForceAuthn="true"`))
		form := url.Values{"SAMLResponse": {base64.StdEncoding.EncodeToString(samltest.Bytes(t, idp.Respond(t, to.String())))}}
		req, err := http.NewRequest("POST", origin+"/upstream/town/acs", strings.NewReader(form.Encode()))
		must(t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Sec-Fetch-Site", "cross-site")
		return b.get(b.do(req).to(t).String())
	}
	if to := asks("/upstream/town/start?next=/account").to(t); to.Path != "/account" || forced || !b.mayNow() {
		t.Fatalf("%s, forced %v", to, forced)
	}
	r.aged()
	page, button := b.asksAgain()
	if page.StatusCode != 200 || button == "" || strings.Contains(page.body, `type="password"`) {
		t.Fatalf("%d %s", page.StatusCode, page.body)
	}
	idp.Bend = func(a *crew.Assertion) { a.AuthnStatements[0].AuthnInstant = time.Now().Add(-10 * time.Minute) }
	if p := asks(button); p.StatusCode != 403 || !strings.Contains(p.body, "did not ask you") || !forced || b.mayNow() {
		t.Errorf("an old sign-in: %d, forced %v", p.StatusCode, forced)
	}
	idp.Bend = nil
	idp.SignIn("id-of-emil", string(crew.PersistentNameIDFormat), "emil", "Emil", "s2")
	if p := asks(button); p.StatusCode != 403 || !strings.Contains(p.body, "somebody else") || b.mayNow() {
		t.Errorf("somebody else: %d", p.StatusCode)
	}
	if _, err := r.svc.User(t.Context(), "emil"); !errors.Is(err, identity.ErrNoUser) {
		t.Errorf("an account was made: %v", err)
	}
	idp.SignIn("id-of-dora", string(crew.PersistentNameIDFormat), "dora", "Dora D", "s3")
	if to := asks(button).to(t); to.String() != dangerous || !b.mayNow() {
		t.Errorf("it ends at %s", to)
	}
}

// Who has nothing to confirm with is told what to do.
func TestReauthWithNothing(t *testing.T) {
	r := newRig(t, func(o *identity.Options) { o.Client = http.DefaultClient })
	h := newTownHall(r)
	b := r.browser()
	h.answers(b, b.get("/upstream/town/start?next=/account").to(t), "dora", nil).to(t)
	if _, err := r.svc.Upstreams().Remove(t.Context(), "town", upstream.Keep); err != nil {
		t.Fatal(err)
	}
	r.aged()
	if page, button := b.asksAgain(); button != "" || strings.Contains(page.body, `type="password"`) || !strings.Contains(page.body, "recovery link") {
		t.Error(page.body)
	}
}
