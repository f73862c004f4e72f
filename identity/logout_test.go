package identity_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"html"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"holdfast/identity"
	"holdfast/store"
)

// told is an application that is told of logouts: a real server, whose requests come
// by the client of the provider.
type told struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	tokens []string
	asked  int
	first  func() // runs when it is told
}

func newTold(t *testing.T) *told {
	b := newToldBy(t)
	b.Start()
	return b
}

// newToldBy is newTold that is still to be started.
func newToldBy(t *testing.T) *told {
	b := &told{status: 200}
	b.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.asked++
		if b.first != nil {
			b.first()
		}
		if r.Method != "POST" || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || r.URL.RawQuery != "" {
			t.Errorf("a logout comes by %s %s as %s", r.Method, r.URL, r.Header.Get("Content-Type"))
		}
		raw, _ := io.ReadAll(r.Body)
		v, _ := url.ParseQuery(string(raw))
		if len(v) != 1 {
			t.Errorf("a logout comes with %q", raw)
		}
		if b.status == 302 {
			http.Redirect(w, r, "/elsewhere", 302)
			return
		}
		w.WriteHeader(b.status)
		if b.status == 200 || b.status == 204 {
			b.tokens = append(b.tokens, v.Get("logout_token"))
		}
	}))
	b.Config.ErrorLog = log.New(io.Discard, "", 0) // it is told of refused certificates
	t.Cleanup(b.Close)
	return b
}

func (b *told) answer(status int) {
	b.mu.Lock()
	b.status = status
	b.mu.Unlock()
}

// take returns the tokens that came since it was last asked.
func (b *told) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.tokens
	b.tokens = nil
	return out
}

func (b *told) times() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked
}

// logoutRig is a rig whose applications can be told of logouts. It does so when asked.
func logoutRig(t *testing.T) *rig {
	return newRig(t, func(o *identity.Options) { o.Client = &http.Client{} })
}

func (r *rig) backchannel(b *told, scopes ...string) (*identity.App, string) {
	return r.app(func(c *identity.AppConfig) {
		c.BackchannelURI, c.LogoutURIs = b.URL+"/logout", []string{"https://wiki.example.org/bye"}
	})
}

// signedInTo signs a browser in to an application and returns the ID token.
func (b *browser) signedInTo(a *identity.App, secret, user string, kv ...string) (idToken, access string) {
	b.r.t.Helper()
	x := b.withSecret("/oauth2/token", a.ID, secret, tradeForm(b.code(user, appParams(a.ID, kv...))))
	m := x.json(b.r.t)
	if x.StatusCode != 200 {
		b.r.t.Fatalf("%d %s", x.StatusCode, x.body)
	}
	return m["id_token"].(string), m["access_token"].(string)
}

func (r *rig) deliver() {
	r.t.Helper()
	if err := r.svc.DeliverLogouts(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// until waits for what happens in the background.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not happen: %s", what)
		}
	}
}

func (b *told) one(t *testing.T) string {
	t.Helper()
	var got []string
	until(t, "the application is told", func() bool { got = append(got, b.take()...); return len(got) > 0 })
	if len(got) != 1 {
		t.Fatalf("told %d times", len(got))
	}
	return got[0]
}

func (b *browser) signedIn() bool { return b.get("/account").StatusCode == 200 }

// OpenID Connect Back-Channel Logout 1.0 sections 2.4 to 2.6: what an application is told.
func TestBackchannelLogoutToken(t *testing.T) {
	r := logoutRig(t)
	r.user("alice")
	app := newTold(t)
	a, secret := r.backchannel(app)
	b := r.browser()
	idToken, _ := b.signedInTo(a, secret, "alice")
	if p := b.post("/logout", url.Values{"answer": {"yes"}}); p.StatusCode != 200 || b.signedIn() {
		t.Fatalf("%d", p.StatusCode)
	}
	token := app.one(t)
	id, out := claimsOf(t, idToken), claimsOf(t, token)
	if out["iss"] != id["iss"] || out["sub"] != id["sub"] || out["aud"] != a.ID || out["sid"] != id["sid"] || id["sid"] == nil || out["jti"] == "" || out["jti"] == nil || out["iat"] == nil || out["exp"] == nil {
		t.Fatalf("%v for the ID token %v", out, id)
	}
	if out["exp"].(float64)-out["iat"].(float64) > 120 {
		t.Fatal("it is good for more than two minutes")
	}
	ev, _ := out["events"].(map[string]any)
	if x, ok := ev["http://schemas.openid.net/event/backchannel-logout"].(map[string]any); len(ev) != 1 || !ok || len(x) != 0 {
		t.Fatalf("events: %v", out["events"])
	}
	if _, has := out["nonce"]; has {
		t.Fatal("it has a nonce, and could be taken for an ID token")
	}
	raw, _ := base64.RawURLEncoding.DecodeString(token[:strings.Index(token, ".")])
	var h struct{ Alg, Kid, Typ string }
	json.Unmarshal(raw, &h)
	var keys jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(b.get("/oauth2/jwks").body), &keys); err != nil {
		t.Fatal(err)
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil || h.Typ != "logout+jwt" || len(keys.Key(h.Kid)) != 1 {
		t.Fatalf("%+v %v", h, err)
	}
	if _, err := jws.Verify(keys.Key(h.Kid)[0]); err != nil {
		t.Fatal(err)
	}
	// No endpoint takes it for an ID token.
	b.signIn("alice", appParams(a.ID))
	if p := b.get("/oauth2/end_session?" + url.Values{"id_token_hint": {token}}.Encode()); p.StatusCode == 303 || !b.signedIn() {
		t.Fatalf("a logout token signs out: %d", p.StatusCode)
	}
	r.deliver()
	if n := app.times(); n != 1 {
		t.Fatalf("told %d times of one logout", n)
	}
}

// Back-Channel Logout 1.0 section 2.7: what ends with a browser session, and what goes on.
func TestBackchannelLogoutEndsWhatItShould(t *testing.T) {
	r := logoutRig(t)
	r.user("alice")
	r.user("bob")
	one, two := newTold(t), newTold(t)
	a1, s1 := r.backchannel(one)
	a2, s2 := r.backchannel(two)
	matrix := r.client(nil)
	b := r.browser()
	hint, online := b.signedInTo(a1, s1, "alice")
	x := b.withSecret("/oauth2/token", a2.ID, s2, tradeForm(b.code("alice", appParams(a2.ID, "scope", "openid offline_access"))))
	lasting := r.tokens(x)
	device := r.tokens(b.api("/oauth2/token", exchangeForm(matrix, b.code("alice", authParams(matrix)))))
	other := r.browser() // another browser of hers, and one of somebody else
	other.signedInTo(a1, s1, "alice")
	third := r.browser()
	third.signedInTo(a1, s1, "bob")

	u := b.get("/oauth2/end_session?" + url.Values{"id_token_hint": {hint}, "post_logout_redirect_uri": {"https://wiki.example.org/bye"}}.Encode()).to(t)
	if u.String() != "https://wiki.example.org/bye" || b.signedIn() {
		t.Fatalf("%s", u)
	}
	if got := claimsOf(t, one.one(t)); got["sid"] != claimsOf(t, hint)["sid"] {
		t.Fatalf("%v", got)
	}
	two.one(t)
	active := func(a *identity.App, secret, token string) any {
		return b.withSecret("/oauth2/introspect", a.ID, secret, url.Values{"token": {token}}).json(t)["active"]
	}
	if active(a1, s1, online) != false {
		t.Fatal("the access token of an application lives on without offline_access")
	}
	if active(a2, s2, lasting.access) != true || r.refresh(a2.ID, lasting.refresh, "client_secret", s2).StatusCode != 200 {
		t.Fatal("an application with offline_access lost its session")
	}
	if !r.alive(device.access) {
		t.Fatal("an application's logout signed a Matrix device out")
	}
	if !other.signedIn() || !third.signedIn() {
		t.Fatal("it signed other browsers out")
	}
	r.deliver()
	if one.times() != 1 || two.times() != 1 {
		t.Fatalf("told %d and %d times", one.times(), two.times())
	}
	// Chosen on the page, all of it ends.
	if p := other.post("/logout", url.Values{"answer": {"yes"}, "everywhere": {"1"}}); p.StatusCode != 200 {
		t.Fatalf("%d", p.StatusCode)
	}
	one.one(t)
	if r.alive(device.access) || other.signedIn() || active(a2, s2, lasting.access) != false {
		t.Fatal("something outlives signing out everywhere")
	}
	if !third.signedIn() {
		t.Fatal("somebody else was signed out")
	}
}

// What ends a session besides the person: an administrator, a new password, a lock,
// closing, an application that is withdrawn or off, another person in the browser, time.
func TestBackchannelLogoutCauses(t *testing.T) {
	id := "@alice:example.org"
	for what, end := range map[string]func(r *rig, b *browser, a *identity.App) error{
		"locked":                         func(r *rig, _ *browser, _ *identity.App) error { return r.svc.SetDisabled(t.Context(), id, true) },
		"closed":                         func(r *rig, _ *browser, _ *identity.App) error { return r.svc.Deactivate(t.Context(), id) },
		"signed out by an administrator": func(r *rig, _ *browser, _ *identity.App) error { return r.svc.EndAll(t.Context(), id, "") },
		"a new password": func(r *rig, _ *browser, _ *identity.App) error {
			return r.svc.SetPassword(t.Context(), id, "another battery staple", "", false)
		},
		"the application withdrawn": func(r *rig, b *browser, a *identity.App) error {
			b.post("/account/withdraw", url.Values{"app": {a.ID}})
			return nil
		},
		"the application off": func(r *rig, _ *browser, a *identity.App) error {
			_, err := r.svc.ChangeApp(t.Context(), a.ID, func(a *identity.App) error { a.Disabled = true; return nil })
			return err
		},
		"somebody else in the browser": func(r *rig, b *browser, _ *identity.App) error {
			r.user("bob")
			b.post("/login?"+url.Values{"next": {"/account"}}.Encode(), url.Values{"username": {"bob"}, "password": {"correct horse bob"}})
			return nil
		},
		"expiry": func(r *rig, _ *browser, _ *identity.App) error {
			r.wait(31 * 24 * time.Hour)
			return r.svc.Sweep(context.Background())
		},
	} {
		t.Run(strings.ReplaceAll(what, " ", "_"), func(t *testing.T) {
			r := logoutRig(t)
			r.user("alice")
			app := newTold(t)
			a, secret := r.backchannel(app)
			b := r.browser()
			hint, _ := b.signedInTo(a, secret, "alice")
			// What is no end of the session tells nobody: a token that ran out, a new proof
			// of the same person.
			r.wait(2 * time.Hour)
			if err := r.svc.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.post("/reauth", url.Values{"password": {"correct horse alice"}})
			r.deliver()
			if n := app.times(); n != 0 {
				t.Fatalf("told %d times of nothing", n)
			}
			if err := end(r, b, a); err != nil {
				t.Fatal(err)
			}
			if got := claimsOf(t, app.one(t)); got["sub"] != claimsOf(t, hint)["sub"] || got["sid"] != claimsOf(t, hint)["sid"] {
				t.Fatalf("%v", got)
			}
		})
	}
}

// An application that is down or refuses is told again, a bounded number of times, also
// after a restart; the others do not wait for it.
// An application whose certificate is of the site's own authority is told by that one's,
// and by it alone: an application without does not trust it, and with it no other is trusted.
func TestBackchannelLogoutOwnAuthority(t *testing.T) {
	r := logoutRig(t)
	r.user("alice")
	app := newToldBy(t)
	app.StartTLS()
	own := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: app.Certificate().Raw}))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true},
		&x509.Certificate{SerialNumber: big.NewInt(1)}, key.Public(), key)
	must(t, err)
	other := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	set := func(a *identity.App, uri, ca string) error {
		_, err := r.svc.ChangeApp(t.Context(), a.ID, func(x *identity.App) error { x.BackchannelURI, x.CA = uri, ca; return nil })
		return err
	}
	a, secret := r.backchannel(app)
	b := r.browser()
	out := func() {
		t.Helper()
		b.signedInTo(a, secret, "alice")
		b.post("/logout", url.Values{"answer": {"yes"}})
		r.deliver()
	}
	for name, ca := range map[string]string{"none": "", "another": other} {
		must(t, set(a, app.URL+"/logout", ca))
		if out(); app.times() != 0 {
			t.Fatalf("with the authority %q it is told", name)
		}
	}
	// What waits is told with the authority that is right as soon as it is there.
	must(t, set(a, app.URL+"/logout", own))
	r.deliver()
	if got := app.take(); len(got) != 2 {
		t.Fatalf("told %d times", len(got))
	}
	out()
	app.one(t)
	must(t, set(a, app.URL+"/logout", ""))
	if out(); len(app.take()) != 0 {
		t.Fatal("it is trusted by all from then on")
	}
	secretKey := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("x")}))
	for name, c := range map[string]struct{ uri, ca, want string }{
		"no certificate": {app.URL + "/logout", "x", "BEGIN CERTIFICATE"},
		"a private key":  {app.URL + "/logout", own + secretKey, "nothing that is secret"},
		"plain http":     {"http://127.0.0.1:1/logout", own, "begin with https://"},
		"no address":     {"", own, "begin with https://"},
	} {
		var wrong *identity.AppError
		if err := set(a, c.uri, c.ca); !errors.As(err, &wrong) || !strings.Contains(wrong.Msg, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if e := r.last("app.change"); !strings.Contains(e.Data, `"own_ca":false`) || !strings.Contains(e.Data, `"logout":"https://127.0.0.1`) {
		t.Errorf("%s", e.Data)
	}
}

// A slow application does not keep others waiting for all that it has to take.
func TestBackchannelLogoutsAreFair(t *testing.T) {
	const many = 250
	r := logoutRig(t)
	alice := r.user("alice")
	slow, quick := newTold(t), newTold(t)
	a1, _ := r.backchannel(slow)
	a2, s2 := r.backchannel(quick)
	r.svc.Close() // what is queued is delivered when this test says so
	must(t, r.db.Write(t.Context(), func(tx *store.Tx) error {
		for i := range many {
			if _, err := tx.Exec(`INSERT INTO id_logouts (id, client_id, user_id, sid, issuer, created, tries, next) VALUES ($1, $2, $3, 's', 'https://example.org', $4, 0, 1)`,
				fmt.Sprint(i), a1.ID, alice.ID, r.now().UnixMilli()); err != nil {
				return err
			}
		}
		return nil
	}))
	r.wait(time.Second)
	b := r.browser()
	b.signedInTo(a2, s2, "alice")
	b.post("/logout", url.Values{"answer": {"yes"}})
	var before int
	quick.first = func() { before = slow.times() }
	r.deliver()
	quick.one(t)
	if len(slow.take()) != many {
		t.Fatalf("%d of %d arrived", slow.times(), many)
	}
	if before > many/2 {
		t.Fatalf("it waited for %d of another application", before)
	}
}

func TestBackchannelLogoutRetries(t *testing.T) {
	r := logoutRig(t)
	r.user("alice")
	app, other := newTold(t), newTold(t)
	a, secret := r.backchannel(app)
	a2, secret2 := r.backchannel(other)
	b := r.browser()
	out := func() {
		t.Helper()
		b.signedInTo(a, secret, "alice")
		b.signedInTo(a2, secret2, "alice")
		b.post("/logout", url.Values{"answer": {"yes"}})
	}
	app.answer(503)
	out()
	other.one(t)
	until(t, "the first try", func() bool { return app.times() == 1 })
	r.deliver() // it is over, and what the other one took is noted
	r.stop()
	app.answer(200)
	r.wait(10 * time.Second)
	r.start()
	first := claimsOf(t, app.one(t))
	if first["jti"] == nil {
		t.Fatal("no jti")
	}
	// A redirect is not followed: its target was not named by an administrator.
	app.answer(302)
	out()
	other.one(t)
	until(t, "the redirect", func() bool { return app.times() == 3 })
	r.deliver() // it is noted
	for range 40 {
		r.wait(2 * time.Hour)
		r.deliver()
	}
	most := app.times()
	if most < 10 || most > 30 {
		t.Fatalf("%d tries in a day", most)
	}
	r.wait(48 * time.Hour)
	r.deliver()
	if app.times() != most {
		t.Fatal("it is tried for ever")
	}
	// What the application says is no good is not repeated for a day.
	app.answer(400)
	out()
	other.one(t)
	until(t, "the refusal", func() bool { return app.times() == most+1 })
	r.deliver() // it is noted
	// It says the same where it could not reach the provider, so it is given some time.
	for after, want := range []int{1, 2, 2} {
		r.wait(50 * time.Second)
		if r.deliver(); app.times() != most+want {
			t.Fatalf("%d tries in %d seconds", app.times()-most, 50*(after+1))
		}
	}
	for range 20 {
		r.wait(time.Hour)
		r.deliver()
	}
	if n := app.times() - most; n != 3 {
		t.Fatalf("a refused token was tried %d times", n)
	}
}

// A code that was given out is worth nothing once its browser signed out: the application
// could not be told any more.
func TestCodeAfterLogout(t *testing.T) {
	r := logoutRig(t)
	r.user("alice")
	a, secret := r.app(nil)
	b := r.browser()
	code := b.code("alice", appParams(a.ID))
	b.post("/logout", url.Values{"answer": {"yes"}})
	r.wantError(b.withSecret("/oauth2/token", a.ID, secret, tradeForm(code)), 400, "invalid_grant")
}

// RP-Initiated Logout 1.0 sections 2 and 3.
func TestRPInitiatedLogout(t *testing.T) {
	r := logoutRig(t)
	r.user("alice")
	r.user("bob")
	app := newTold(t)
	a, secret := r.backchannel(app)
	other, otherSecret := r.backchannel(app)
	const bye = "https://wiki.example.org/bye"
	b := r.browser()
	hint, _ := b.signedInTo(a, secret, "alice")
	end := func(kv ...string) answer {
		v := url.Values{}
		for i := 0; i < len(kv); i += 2 {
			v.Set(kv[i], kv[i+1])
		}
		return b.get("/oauth2/end_session?" + v.Encode())
	}
	otherHint, _ := r.browser().signedInTo(other, otherSecret, "bob")
	for what, p := range map[string]answer{
		"a hint of another application": end("id_token_hint", otherHint, "client_id", a.ID),
		"a changed hint":                end("id_token_hint", hint[:len(hint)-6]+"AAAAAA"),
		"no token":                      end("id_token_hint", "x.y.z"),
		"an unknown application":        end("client_id", "nobody", "post_logout_redirect_uri", bye),
		"an address of another":         end("client_id", a.ID, "post_logout_redirect_uri", "https://evil.test/bye"),
		"an address with more":          end("id_token_hint", hint, "post_logout_redirect_uri", bye+"?x=1"),
		"twice the same parameter":      b.get("/oauth2/end_session?client_id=a&client_id=b"),
	} {
		if p.StatusCode != 400 || p.Header.Get("Location") != "" || !b.signedIn() {
			t.Errorf("%s: %d", what, p.StatusCode)
		}
	}
	// Of somebody else, or of another of her sessions: she is asked.
	ask := func(p answer) string {
		t.Helper()
		if p.StatusCode != 200 || !strings.Contains(p.body, `name="everywhere"`) || !b.signedIn() {
			t.Fatalf("not asked: %d", p.StatusCode)
		}
		if csp := p.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "frame-ancestors 'none'") {
			t.Fatal(csp)
		}
		_, rest, _ := strings.Cut(p.body, `<form method="post" action="`)
		action, _, _ := strings.Cut(rest, `"`)
		return html.UnescapeString(action)
	}
	elsewhere, _ := r.browser().signedInTo(a, secret, "alice")
	ask(end("id_token_hint", otherHint))
	ask(end("id_token_hint", elsewhere))
	ask(end())
	ask(end("client_id", a.ID))
	// What Nextcloud sends: no hint. Who stays is told so, who goes is led back with the state.
	action := ask(end("client_id", a.ID, "post_logout_redirect_uri", bye, "state", "a b&c"))
	if p := b.post(action, url.Values{"answer": {"no"}}); p.StatusCode != 200 || !b.signedIn() {
		t.Fatalf("%d", p.StatusCode)
	}
	req, _ := http.NewRequest("POST", abs(action), strings.NewReader("answer=yes"))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	if p := b.do(req); p.StatusCode != 403 || !b.signedIn() {
		t.Fatalf("from another site: %d", p.StatusCode)
	}
	if p := b.post(strings.Replace(action, "wiki.example.org", "evil.test", 1), url.Values{"answer": {"yes"}}); p.StatusCode != 400 || !b.signedIn() {
		t.Fatalf("a form with another address: %d", p.StatusCode)
	}
	u := b.post(action, url.Values{"answer": {"yes"}}).to(t)
	if u.Scheme+"://"+u.Host+u.Path != bye || u.Query().Get("state") != "a b&c" || b.signedIn() {
		t.Fatalf("%s", u)
	}
	// Nobody is signed in: it leads back at once. An expired hint is as good as a new one.
	r.wait(24 * time.Hour)
	if u := end("id_token_hint", hint, "post_logout_redirect_uri", bye).to(t); u.String() != bye {
		t.Fatalf("%s", u)
	}
	b.signedInTo(a, secret, "alice")
	hint, _ = b.signedInTo(a, secret, "alice")
	r.wait(24 * time.Hour)
	post := b.api("/oauth2/end_session", url.Values{"id_token_hint": {hint}, "client_id": {a.ID}, "post_logout_redirect_uri": {bye}, "state": {"s"}})
	if u := post.to(t); u.String() != bye+"?state=s" || b.signedIn() {
		t.Fatalf("by POST: %s", u)
	}
}

// RFC 7523 section 3, jti: an assertion is not used twice, a restart in between or not.
func TestAssertionReplayAfterRestart(t *testing.T) {
	r := newRig(t, nil)
	a, sign := r.keyApp()
	v := func(s string) url.Values {
		return url.Values{"token": {"x"}, "client_assertion": {s}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}}
	}
	_ = a
	used := sign()
	if x := r.browser().api("/oauth2/introspect", v(used)); x.StatusCode != 200 {
		t.Fatalf("%d %s", x.StatusCode, x.body)
	}
	r.stop()
	r.start()
	r.wantError(r.browser().api("/oauth2/introspect", v(used)), 401, "invalid_client")
	if err := r.svc.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.wantError(r.browser().api("/oauth2/introspect", v(used)), 401, "invalid_client")
	if x := r.browser().api("/oauth2/introspect", v(sign())); x.StatusCode != 200 {
		t.Fatalf("%d %s", x.StatusCode, x.body)
	}
}
