package oidc

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	crew "github.com/crewjam/saml"

	"holdfast/identity/saml/samltest"
)

// hall is a program that a SAML provider knows, at an address that stays.
func hall(t *testing.T) *program {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := "localhost:" + strings.TrimPrefix(l.Addr().String(), "127.0.0.1:")
	l.Close()
	p, err := start(filepath.Join(t.TempDir(), "hall"), "hs.test", "public_url=http://"+at, "listen.http=127.0.0.1:"+strings.TrimPrefix(at, "localhost:"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd != nil {
			p.stop()
		}
		if t.Failed() {
			t.Logf("%s", p.log.Bytes())
		}
	})
	return p
}

// knows has a program and a SAML provider know each other.
func knows(t *testing.T, p *program, idp *samltest.IdP, id string, flags ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "idp.xml")
	if err := os.WriteFile(file, idp.XML(t), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := p.cli(append([]string{"upstream", "add", id, "--saml", file, "--name", "Town Hall"}, flags...)...)
	if err != nil || !strings.Contains(string(out), p.issuer+"/upstream/"+id+"/acs") {
		t.Fatalf("%v %s", err, out)
	}
	if out, err = p.cli("upstream", "metadata", id); err != nil {
		t.Fatal(err)
	}
	if d := idp.Know(t, out); d.EntityID != p.issuer+"/upstream/"+id+"/metadata" || d.Signature == nil {
		t.Fatalf("%s", out)
	}
}

var hidden = regexp.MustCompile(`name="(SAML\w+|RelayState)" value="([^"]*)"`)

// cross sends on the form of a page as a browser does to another site: without cookies
// of that site, whose answer may set some.
func (b *browser) cross(page, to string, edit func(url.Values)) (int, *url.URL) {
	b.t.Helper()
	v := url.Values{}
	for _, m := range hidden.FindAllStringSubmatch(page, -1) {
		v.Set(m[1], html.UnescapeString(m[2]))
	}
	if edit != nil {
		edit(v)
	}
	req, err := http.NewRequestWithContext(b.t.Context(), "POST", to, strings.NewReader(v.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	req.Header.Set("Origin", "https://idp.example")
	c := *b.c
	c.Jar = nil
	resp, err := c.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(resp.Body)
	b.last = string(raw)
	b.c.Jar.SetCookies(req.URL, resp.Cookies())
	loc, _ := resp.Location()
	return resp.StatusCode, loc
}

// asks begins a sign-in at a SAML provider, and gives its page with the answer.
func (b *browser) asks(id, next string) string {
	b.t.Helper()
	status, loc, page := b.do("GET", b.p.issuer+"/upstream/"+id+"/start?"+url.Values{"next": {next}}.Encode(), nil)
	if status != 303 {
		b.t.Fatalf("%d %s", status, page)
	}
	status, _, page = b.do("GET", loc.String(), nil)
	if status != 200 || !strings.Contains(page, "SAMLResponse") {
		b.t.Fatalf("the provider: %d %s", status, page)
	}
	return page
}

// bySAML signs in at a SAML provider and gives the page where it ends.
func (b *browser) bySAML(id, next string) *url.URL {
	b.t.Helper()
	status, at := b.cross(b.asks(id, next), b.p.issuer+"/upstream/"+id+"/acs", nil)
	for range 10 {
		if at == nil {
			b.t.Fatalf("%d\n%s", status, b.last)
		}
		var loc *url.URL
		if status, loc, _ = b.do("GET", at.String(), nil); loc == nil {
			if status != 200 {
				b.t.Fatalf("%s: %d\n%s", at, status, b.last)
			}
			return at
		}
		at = loc
	}
	b.t.Fatalf("it goes round: %s", at)
	return nil
}

// is reports whether somebody is signed in.
func (b *browser) is(name string) bool {
	b.t.Helper()
	status, _, page := b.do("GET", b.p.issuer+"/account", nil)
	return status == 200 && strings.Contains(page, "@"+name+":hs.test")
}

var (
	appSecret = regexp.MustCompile(`<code id="secret">([A-Z2-7 ]+)</code>`)
	appSetup  = regexp.MustCompile(`name="setup" value="([^"]+)"`)
	appCode   = regexp.MustCompile(`<li><code>([0-9A-Z-]+)</code></li>`)
)

// enrolApp adds an authenticator app to the account that is signed in, and gives the
// recovery codes. Spec: RFC 6238
func (b *browser) enrolApp() (codes []string) {
	b.t.Helper()
	at := b.p.issuer + "/account/security/app"
	_, _, page := b.do("GET", at, nil)
	m, form := appSecret.FindStringSubmatch(page), appSetup.FindStringSubmatch(page)
	if m == nil || form == nil {
		b.t.Fatalf("%.2000s", page)
	}
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ReplaceAll(m[1], " ", ""))
	if err != nil {
		b.t.Fatal(err)
	}
	h := hmac.New(sha1.New, key)
	binary.Write(h, binary.BigEndian, uint64(time.Now().Unix()/30))
	sum := h.Sum(nil)
	digits := fmt.Sprintf("%06d", binary.BigEndian.Uint32(sum[sum[19]&15:])&0x7fffffff%1000000)
	_, _, page = b.do("POST", at, url.Values{"setup": {form[1]}, "code": {digits}})
	for _, c := range appCode.FindAllStringSubmatch(page, -1) {
		codes = append(codes, c[1])
	}
	if len(codes) != 10 {
		b.t.Fatalf("%.2000s", page)
	}
	return codes
}

// TestSAML signs in with a real SAML provider, in this process, at the real program: who
// is new gets an account, whoever has a local one proves it, and signing out works from
// both ends. When the provider is stopped, sessions go on and local accounts sign in.
func TestSAML(t *testing.T) {
	p, idp := hall(t), samltest.New(t)
	persistent := string(crew.PersistentNameIDFormat)
	for _, name := range []string{"alice", "bob"} {
		if _, err := p.cli("user", "add", name, "--password", password); err != nil {
			t.Fatal(err)
		}
	}
	knows(t, p, idp, "hall")
	if out, err := p.cli("upstream", "list"); err != nil || !strings.Contains(string(out), "answers; certificate until") {
		t.Fatalf("%v %s", err, out)
	}
	// Whose signatures are believed from now on is in the log.
	sum := sha256.Sum256(idp.Certificate.Raw)
	if out, err := p.cli("audit", "list", "--event", "upstream.set", "--json"); err != nil || !strings.Contains(string(out), fmt.Sprintf("%X", sum)) {
		t.Fatalf("%v %s", err, out)
	}
	if out, err := p.cli("upstream", "test", "hall"); err != nil || !strings.Contains(string(out), idp.SSOURL.String()) {
		t.Fatalf("%v %s", err, out)
	}
	// The sign-in page has the button, and takes the application along.
	a := newApp(t, p, "--template", "grafana", "--url", "https://grafana.example.org", "--skip-consent")
	b := newBrowser(t, p)
	v := url.Values{"client_id": {a.ID}, "redirect_uri": {a.conf.RedirectURL}, "response_type": {"code"}, "scope": {"openid"}, "state": {"s"}}
	_, loc, _ := b.do("GET", a.conf.Endpoint.AuthURL+"?"+v.Encode(), nil)
	b.do("GET", loc.String(), nil)
	if !strings.Contains(b.last, "Sign in with Town Hall") || !strings.Contains(b.last, "/upstream/hall/start?request=") {
		t.Fatalf("no button:\n%s", b.last)
	}
	// Somebody new gets an account, and the same one the next time.
	idp.SignIn("id-of-dora", persistent, "dora", "Dora D", "s1")
	for range 2 {
		b = newBrowser(t, p)
		if at := b.bySAML("hall", "/account"); at.Path != "/account" || !b.is("dora") {
			t.Fatalf("%s\n%s", at, b.last)
		}
	}
	a.signIn(b, "dora", nil)
	// An answer belongs to the browser that asked, and is good once.
	other := newBrowser(t, p)
	page := other.asks("hall", "/account")
	thief := newBrowser(t, p)
	if status, loc := thief.cross(page, p.issuer+"/upstream/hall/acs", nil); status != 303 {
		t.Fatalf("%d\n%s", status, thief.last)
	} else if status, _, _ := thief.do("GET", loc.String(), nil); status != 403 || thief.is("dora") {
		t.Fatalf("in another browser: %d", status)
	}
	if status, _ := other.cross(page, p.issuer+"/upstream/hall/acs", nil); status != 400 {
		t.Fatalf("replayed: %d\n%s", status, other.last)
	}
	// 38, as far as a browser can: the table of it is that of identity/upstream.
	for what, edit := range map[string]func(url.Values){
		"changed":  func(v url.Values) { v.Set("SAMLResponse", "AAAA"+v.Get("SAMLResponse")) },
		"no XML":   func(v url.Values) { v.Set("SAMLResponse", "AAAA") },
		"missing":  func(v url.Values) { v.Del("SAMLResponse") },
		"repeated": func(v url.Values) { v.Add("SAMLResponse", "x") },
		"too long": func(v url.Values) { v.Set("x", strings.Repeat("x", 600<<10)) },
	} {
		x := newBrowser(t, p)
		if status, loc := x.cross(x.asks("hall", "/account"), p.issuer+"/upstream/hall/acs", edit); status != 400 || loc != nil || x.is("dora") {
			t.Errorf("%s: %d %v", what, status, loc)
		}
		if status, _, _ := x.do("GET", p.issuer+"/upstream/hall/acs", nil); status != 400 || x.is("dora") {
			t.Errorf("%s: going on: %d", what, status)
		}
	}
	if status, _, _ := newBrowser(t, p).do("GET", p.issuer+"/upstream/hall/acs", nil); status != 403 {
		t.Errorf("going on without having asked: %d", status)
	}
	if status, _ := newBrowser(t, p).cross("", p.issuer+"/upstream/other/acs", nil); status != 404 {
		t.Errorf("another provider: %d", status)
	}
	// Only those two addresses take posts of other sites.
	if status, _ := newBrowser(t, p).cross("", p.issuer+"/upstream/join", nil); status != 403 {
		t.Errorf("a post of another site: %d", status)
	}
	// 40: alice there is not alice here, until she proves both.
	idp.SignIn("id-of-alice", persistent, "alice", "Alice A", "s2")
	owner := newBrowser(t, p)
	at := owner.bySAML("hall", "/account")
	if at.Path != "/login" || owner.is("alice") {
		t.Fatalf("%s\n%s", at, owner.last)
	}
	owner.do("GET", at.String(), nil)
	_, loc = owner.answer(at, url.Values{"username": {"alice"}, "password": {password}})
	if loc == nil || loc.Path != "/upstream/join" {
		t.Fatalf("%v\n%s", loc, owner.last)
	}
	owner.do("GET", loc.String(), nil)
	owner.answer(loc, url.Values{"answer": {"yes"}})
	owner = newBrowser(t, p)
	if owner.bySAML("hall", "/account"); !owner.is("alice") {
		t.Fatalf("%s", owner.last)
	}
	// Signing out here signs out there, and comes back.
	_, _, page = owner.do("GET", p.issuer+"/logout", nil)
	if csp := owner.header.Get("Content-Security-Policy"); !strings.Contains(csp, "form-action 'self' "+idp.Server.URL+";") {
		t.Errorf("the form may not lead to the provider: %s", csp)
	}
	_, loc = owner.answer(must(url.Parse(p.issuer+"/logout")), url.Values{"answer": {"yes"}})
	if loc == nil || !strings.HasPrefix(loc.String(), idp.LogoutURL.String()+"?SAMLRequest=") || owner.is("alice") {
		t.Fatalf("%v\n%s", loc, owner.last)
	}
	for loc != nil {
		_, loc, page = owner.do("GET", loc.String(), nil)
	}
	if got := idp.Ended(); len(got) != 1 || got[0] != "alice" || !strings.Contains(page, "You are signed out") {
		t.Fatalf("%v\n%s", got, page)
	}
	// Who proves a second factor here after that is signed out from both ends as well.
	idp.SignIn("id-of-emil", persistent, "emil", "Emil E", "s4")
	b = newBrowser(t, p)
	b.bySAML("hall", "/account")
	codes := b.enrolApp()
	second := func(code string) *browser {
		t.Helper()
		b := newBrowser(t, p)
		at := b.bySAML("hall", "/account")
		if at.Path != "/login/totp" || b.is("emil") {
			t.Fatalf("no second factor is asked for: %s\n%s", at, b.last)
		}
		at.Path = "/login/code"
		if _, loc, _ := b.do("POST", at.String(), url.Values{"code": {code}}); loc == nil || loc.Path != "/account" || !b.is("emil") {
			t.Fatalf("%v\n%s", loc, b.last)
		}
		return b
	}
	b = second(codes[0])
	_, loc, page = b.do("GET", idp.Server.URL+"/out", nil)
	for loc != nil {
		_, loc, page = b.do("GET", loc.String(), nil)
	}
	if b.is("emil") || strings.Contains(page, "could not") {
		t.Fatalf("signed out there: %s", page)
	}
	idp.SignIn("id-of-emil", persistent, "emil", "Emil E", "s5")
	b = second(codes[1])
	b.do("GET", p.issuer+"/logout", nil)
	if _, loc = b.answer(must(url.Parse(p.issuer+"/logout")), url.Values{"answer": {"yes"}}); loc == nil || !strings.HasPrefix(loc.String(), idp.LogoutURL.String()+"?SAMLRequest=") {
		t.Fatalf("%v\n%s", loc, b.last)
	}
	for loc != nil {
		_, loc, page = b.do("GET", loc.String(), nil)
	}
	if got := idp.Ended(); len(got) == 0 || got[len(got)-1] != "emil" || !strings.Contains(page, "You are signed out") {
		t.Fatalf("%v\n%s", got, page)
	}
	// Signing out there signs out here: that session, and the applications of it.
	idp.SignIn("id-of-dora", persistent, "dora", "Dora D", "s3")
	b = newBrowser(t, p)
	b.bySAML("hall", "/account")
	still := newBrowser(t, p)
	still.follow("bob", must(url.Parse(p.issuer+"/login?next=/account")))
	if !b.is("dora") || !still.is("bob") {
		t.Fatal("nobody is signed in")
	}
	_, loc, page = b.do("GET", idp.Server.URL+"/out", nil)
	for loc != nil {
		_, loc, page = b.do("GET", loc.String(), nil)
	}
	if b.is("dora") || !still.is("bob") || strings.Contains(page, "could not") {
		t.Fatalf("%v %v\n%s", b.is("dora"), still.is("bob"), page)
	}
	// One that is not signed ends nothing.
	b = newBrowser(t, p)
	b.bySAML("hall", "/account")
	_, loc, _ = newBrowser(t, p).do("GET", idp.Server.URL+"/out", nil)
	q := loc.Query()
	q.Del("Signature")
	q.Del("SigAlg")
	loc.RawQuery = q.Encode()
	if status, _, _ := newBrowser(t, p).do("GET", loc.String(), nil); status != 400 || !b.is("dora") {
		t.Fatalf("unsigned: %d %v", status, b.is("dora"))
	}
	// It goes away: who is signed in stays, local accounts sign in.
	idp.Server.Close()
	if !b.is("dora") {
		t.Fatal("a session ended with its provider")
	}
	a.signIn(b, "dora", url.Values{"prompt": {"none"}})
	a.signIn(newBrowser(t, p), "bob", nil)
	if _, err := p.cli("upstream", "test", "hall"); err == nil {
		t.Fatal("a provider that was stopped answers")
	}
	if out, err := p.cli("upstream", "list"); err != nil || !strings.Contains(string(out), "down: ") {
		t.Fatalf("%v %s", err, out)
	}
	if out, err := p.cli("doctor", "--json"); err == nil || !regexp.MustCompile(`"name": ?"provider hall",\s*"ok": ?false,\s*"detail": ?"down: `).Match(out) {
		t.Fatalf("%v %s", err, out)
	}
	// A local administrator who signs in now is noticed.
	if _, err := p.cli("user", "add", "glass", "--password", password, "--admin"); err != nil {
		t.Fatal(err)
	}
	a.signIn(newBrowser(t, p), "glass", nil)
	if out, err := p.cli("audit", "list", "--json"); err != nil || !regexp.MustCompile(`signin\.breakglass[^}]*\{[^}]*"hall"`).Match(out) {
		t.Fatalf("%v %.2000s", err, out)
	}
	if _, err := p.cli("upstream", "remove", "hall", "--people", "keep"); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := still.do("GET", p.issuer+"/upstream/hall/start", nil); status != 404 {
		t.Fatalf("removed: %d", status)
	}
}
