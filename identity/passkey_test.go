package identity_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/descope/virtualwebauthn"

	"holdfast/identity"
)

// device is somebody's security key, by which the pages are used as a browser's script
// would.
type device struct {
	t    *testing.T
	rp   virtualwebauthn.RelyingParty
	auth virtualwebauthn.Authenticator
	cred virtualwebauthn.Credential
}

func newDevice(t *testing.T, u identity.User) *device {
	d := &device{t: t, rp: virtualwebauthn.RelyingParty{ID: "chat.example.org", Name: "Example", Origin: origin}}
	d.auth = virtualwebauthn.NewAuthenticatorWithOptions(virtualwebauthn.AuthenticatorOptions{UserHandle: []byte(u.ID)})
	d.cred = newCredential(t)
	return d
}

// newCredential makes a key whose coordinates both have 32 bytes: of others, one in 128,
// virtualwebauthn 1.0.3 leaves out the zeros in front, which no real authenticator does.
// Spec: RFC 8152 section 13.1.1
func newCredential(t *testing.T) virtualwebauthn.Credential {
	t.Helper()
	for {
		c := virtualwebauthn.NewCredential(virtualwebauthn.KeyTypeEC2)
		key, err := x509.ParsePKCS8PrivateKey(c.Key.Data)
		if err != nil {
			t.Fatal(err)
		}
		point, err := key.(*ecdsa.PrivateKey).PublicKey.Bytes() // 4, X, Y
		if err != nil {
			t.Fatal(err)
		}
		if len(point) == 65 && point[1] != 0 && point[33] != 0 {
			return c
		}
	}
}

var optionsIn = regexp.MustCompile(`data-options="([^"]+)"`)

func options(t *testing.T, a answer) string {
	t.Helper()
	m := optionsIn.FindStringSubmatch(a.body)
	if m == nil {
		t.Fatalf("%s: %d, no options: %.1500s", a.Request.URL, a.StatusCode, a.body)
	}
	if !strings.HasPrefix(a.Header.Get("Content-Security-Policy"), "script-src 'self'; default-src 'none'") || strings.Count(a.body, "<script") != 1 {
		t.Errorf("%s: %s", a.Request.URL.Path, a.Header.Get("Content-Security-Policy"))
	}
	return html.UnescapeString(m[1])
}

func (d *device) create(o string) string {
	d.t.Helper()
	a, err := virtualwebauthn.ParseAttestationOptions(o)
	if err != nil {
		d.t.Fatal(err)
	}
	return virtualwebauthn.CreateAttestationResponse(d.rp, d.auth, d.cred, *a)
}

// get answers a question. It counts, as devices do.
func (d *device) get(o string) string {
	d.t.Helper()
	a, err := virtualwebauthn.ParseAssertionOptions(o)
	if err != nil {
		d.t.Fatal(err)
	}
	d.cred.Counter++
	return virtualwebauthn.CreateAssertionResponse(d.rp, d.auth, d.cred, *a)
}

// enrolPasskey adds a device to the account that is signed in.
func (b *browser) enrolPasskey(d *device, name string) answer {
	t := b.r.t
	t.Helper()
	o := options(t, b.get("/account/security/passkey"))
	if !strings.Contains(o, `"attestation":"none"`) || !strings.Contains(o, `"id":"chat.example.org"`) {
		t.Fatalf("%s", o)
	}
	a := b.post("/account/security/passkey", url.Values{"response": {d.create(o)}, "name": {name}})
	if a.StatusCode != http.StatusOK {
		t.Fatalf("%d %.2000s", a.StatusCode, a.body)
	}
	return a
}

func (b *browser) alone(d *device, page string) answer {
	b.r.t.Helper()
	return b.post("/login/passkey/alone", url.Values{"response": {d.get(options(b.r.t, b.get(page)))}})
}

func TestPasskeys(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("alice")
	app, secret := r.app(nil)
	b := r.browser()
	b.password("alice").to(t)
	phone, key := newDevice(t, u), newDevice(t, u)
	first := b.enrolPasskey(phone, "my phone")
	codes := codeIn.FindAllStringSubmatch(first.body, -1)
	if len(codes) != 10 {
		t.Fatalf("the first factor brings %d recovery codes", len(codes))
	}
	if p := b.enrolPasskey(key, "blue key"); strings.Contains(p.body, "<li><code>") || !strings.Contains(p.body, "my phone") || !strings.Contains(p.body, "blue key") {
		t.Fatalf("%s", p.body)
	}
	// The same device is not added twice.
	if !strings.Contains(options(t, b.get("/account/security/passkey")), "excludeCredentials") {
		t.Error("the browser is not told what there is")
	}

	// Without a password, on an application's way.
	n := r.browser()
	loc := n.get("/oauth2/authorize?" + appParams(app.ID).Encode()).to(t)
	o := options(t, n.get(loc.String()))
	if !strings.Contains(o, `"userVerification":"required"`) || strings.Contains(o, "allowCredentials") {
		t.Fatalf("%s", o)
	}
	loc = n.post("/login/passkey/alone?"+loc.RawQuery, url.Values{"response": {phone.get(o)}}).to(t)
	loc = n.get(loc.String()).to(t)
	loc = n.post(loc.String(), url.Values{"answer": {"yes"}}).to(t)
	c := claimsOf(t, n.withSecret("/oauth2/token", app.ID, secret, tradeForm(n.get(loc.String()).to(t).Query().Get("code"))).json(t)["id_token"])
	if fmt.Sprint(c["amr"]) != "[hwk mfa]" || c["acr"] != "phr" || c["sub"] != u.ID {
		t.Fatalf("%v", c)
	}

	// As the second factor.
	n = r.browser()
	loc = n.password("alice").to(t)
	if loc.Path != "/login/passkey" {
		t.Fatal(loc)
	}
	if to := n.post(loc.String(), url.Values{"response": {key.get(options(t, n.get(loc.String())))}}).to(t); to.Path != "/account" {
		t.Fatal(to)
	}
	if p := n.get("/account?action=org.matrix.cross_signing_reset"); p.StatusCode != http.StatusOK {
		t.Fatalf("step-up after both factors: %d", p.StatusCode)
	}
	// To prove anew who one is.
	r.wait(6 * time.Minute)
	loc = n.get("/account?action=org.matrix.cross_signing_reset").to(t)
	if loc.Path != "/reauth" {
		t.Fatal(loc)
	}
	if to := n.alone(key, loc.String()).to(t); to.Path != "/account" {
		t.Fatal(to)
	}
	if p := n.get("/account?action=org.matrix.cross_signing_reset"); p.StatusCode != http.StatusOK {
		t.Fatalf("step-up with a passkey: %d", p.StatusCode)
	}

	// Names, removal, and what is left then.
	ids := regexp.MustCompile(`name="passkey" value="([^"]+)"`).FindAllStringSubmatch(n.get("/account/security").body, -1)
	if len(ids) != 4 {
		t.Fatalf("%d", len(ids))
	}
	if p := n.post("/account/security/passkey/rename", url.Values{"passkey": {ids[0][1]}, "name": {"old phone"}}); !strings.Contains(p.body, "old phone") || strings.Contains(p.body, "my phone") {
		t.Fatalf("%s", p.body)
	}
	for _, bad := range []string{"", strings.Repeat("x", 101), "a\x00b"} {
		if p := n.post("/account/security/passkey/rename", url.Values{"passkey": {ids[0][1]}, "name": {bad}}); p.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: %d", bad, p.StatusCode)
		}
	}
	r.user("eve")
	eve := r.browser()
	eve.password("eve").to(t)
	eve.post("/account/security/passkey/remove", url.Values{"passkey": {ids[0][1]}})
	if p := n.get("/account/security"); strings.Count(p.body, "/passkey/remove") != 2 {
		t.Fatal("somebody else removed a passkey")
	}
	for _, id := range []string{ids[0][1], ids[2][1]} {
		n.post("/account/security/passkey/remove", url.Values{"passkey": {id}})
	}
	if p := r.browser().alone(phone, "/login"); p.StatusCode != http.StatusUnauthorized {
		t.Fatalf("a passkey that was removed: %d", p.StatusCode)
	}
	if to := r.browser().password("alice").to(t); to.Path != "/account" {
		t.Fatalf("without a second factor: %s", to)
	}
}

// An answer from anywhere else, for something else, or once more is refused.
func TestAttack34Passkeys(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("alice")
	b := r.browser()
	b.password("alice").to(t)
	d := newDevice(t, u)
	b.enrolPasskey(d, "key")
	n := r.browser()
	refused := func(what string, a answer) {
		t.Helper()
		if a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d %.200s", what, a.StatusCode, a.body)
		}
		if to := n.get("/account").to(t); to.Path != "/login" {
			t.Fatalf("%s: signed in", what)
		}
	}
	send := func(response string) answer {
		return n.post("/login/passkey/alone", url.Values{"response": {response}})
	}
	ask := func() string { return options(t, n.get("/login")) }
	good := d.rp
	for what, rp := range map[string]virtualwebauthn.RelyingParty{
		"wrong origin":      {ID: good.ID, Origin: "https://chat.example.org.evil.test"},
		"other port":        {ID: good.ID, Origin: "https://chat.example.org:444"},
		"http":              {ID: good.ID, Origin: "http://chat.example.org"},
		"subdomain":         {ID: good.ID, Origin: "https://www.chat.example.org"},
		"wrong RP ID":       {ID: "evil.test", Origin: good.Origin},
		"the domain's name": {ID: "example.org", Origin: good.Origin},
	} {
		d.rp = rp
		refused(what, send(d.get(ask())))
	}
	d.rp = good
	d.auth.Options.UserNotVerified = true
	refused("nobody's finger", send(d.get(ask())))
	d.auth.Options.UserNotVerified, d.auth.Options.UserNotPresent = false, true
	refused("nobody there", send(d.get(ask())))
	d.auth.Options.UserNotPresent = false

	// A challenge that is made up, of another browser, of another purpose, too old.
	refused("made-up challenge", send(d.get(`{"challenge":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","rpId":"chat.example.org"}`)))
	refused("another browser's challenge", send(d.get(options(t, r.browser().get("/login")))))
	second := n.password("alice").to(t)
	refused("the second factor's challenge", send(d.get(options(t, n.get(second.String())))))
	refused("the first factor's as second", n.post(second.String(), url.Values{"response": {d.get(ask())}}))
	refused("an answer about adding", send(newDevice(t, u).create(options(t, b.get("/account/security/passkey")))))
	if r.program == nil { // whose clock is its own
		old := ask()
		r.wait(16 * time.Minute)
		refused("an old challenge", send(d.get(old)))
	}

	// Another key under the same credential; a key that nobody added; nothing at all.
	forged := *d
	forged.cred.Key = newCredential(t).Key
	refused("another key", send(forged.get(ask())))
	refused("an unknown passkey", send(newDevice(t, u).get(ask())))
	other := *d
	other.auth.Options.UserHandle = []byte(r.user("eve").ID)
	refused("somebody else's name on it", send(other.get(ask())))
	for _, s := range []string{"", "{}", "null", "[", strings.Repeat("x", 40<<10)} {
		refused(fmt.Sprintf("%.10q", s), send(s))
	}

	// An answer that was good is not good again, neither in its browser nor where it was
	// taken to, and of many at once one is.
	answerOnce := d.get(ask())
	var mu sync.Mutex
	var statuses []int
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			a := send(answerOnce)
			mu.Lock()
			defer mu.Unlock()
			statuses = append(statuses, a.StatusCode)
		})
	}
	wg.Wait()
	if n := len(slices.DeleteFunc(slices.Clone(statuses), func(s int) bool { return s != http.StatusSeeOther })); n != 1 {
		t.Fatalf("one answer, eight times at once: %v", statuses)
	}
	n.post("/logout", nil)
	refused("again", send(answerOnce))
	// A device that counts backwards is not the only one with its key.
	d.cred.Counter -= 5
	refused("a copy", send(d.get(ask())))
	d.cred.Counter += 5
	if to := send(d.get(ask())).to(t); to.Path != "/account" {
		t.Fatal(to)
	}
	// Locked accounts stay locked.
	r.disable(u, true)
	n = r.browser()
	if p := send(d.get(ask())); p.StatusCode != http.StatusForbidden {
		t.Fatalf("a locked account: %d", p.StatusCode)
	}
}

// Passkeys exist only where browsers allow them, and the pages say so.
func TestPasskeysNeedAName(t *testing.T) {
	for _, public := range []string{"https://192.0.2.7", "https://[2001:db8::1]", "https://chat", "http://chat.example.org"} {
		r := newRig(t, func(o *identity.Options) {
			o.PublicURL, o.Origin = public, func(*http.Request) string { return origin }
		})
		r.user("alice")
		b := r.browser()
		if p := b.get("/login"); strings.Contains(p.body, "data-passkey") || strings.Contains(p.body, "<script") || strings.Contains(p.Header.Get("Content-Security-Policy"), "script-src") {
			t.Errorf("%s: the page offers passkeys", public)
		}
		b.password("alice").to(t)
		if p := b.get("/account/security"); !strings.Contains(p.body, "name with a dot") {
			t.Errorf("%s: the page does not say why there are none", public)
		}
		if p := b.get("/account/security/passkey"); p.StatusCode != http.StatusConflict {
			t.Errorf("%s: %d", public, p.StatusCode)
		}
	}
	// At the address that they are not for, the page says which they are for.
	at := origin
	r := newRig(t, func(o *identity.Options) { o.Origin = func(*http.Request) string { return at } })
	u := r.user("alice")
	b := r.browser()
	b.password("alice").to(t)
	d := newDevice(t, u)
	b.enrolPasskey(d, "key")
	at = "https://192.0.2.7"
	if p := b.get("/account/security"); !strings.Contains(p.body, origin) || strings.Contains(p.body, `href="/account/security/passkey"`) {
		t.Error("by the address: passkeys are offered")
	}
	n := r.browser()
	to := n.password("alice").to(t)
	if p := n.get(to.String()); to.Path != "/login/passkey" || !strings.Contains(p.body, origin) || !strings.Contains(p.body, "/login/code") {
		t.Fatalf("by the address: %s %s", to, p.body)
	}
}

func TestPasskeysAfterARestart(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("alice")
	b := r.browser()
	b.password("alice").to(t)
	d := newDevice(t, u)
	b.enrolPasskey(d, "key")
	r.stop()
	r.start()
	// Restarting forgets what was asked, not what is known.
	n := r.browser()
	before := options(t, n.get("/login"))
	r.stop()
	r.start()
	if p := n.post("/login/passkey/alone", url.Values{"response": {d.get(before)}}); p.StatusCode != http.StatusUnauthorized {
		t.Fatalf("a challenge of before: %d", p.StatusCode)
	}
	if to := n.alone(d, "/login").to(t); to.Path != "/account" {
		t.Fatal(to)
	}
}
