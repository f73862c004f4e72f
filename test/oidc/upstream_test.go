package oidc

import (
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// upstreamOf has people of a provider, a second process of the program, sign in at main.
func upstreamOf(t *testing.T, p *program, id string, flags ...string) {
	t.Helper()
	callback := main.issuer + "/upstream/" + id + "/callback"
	a := newApp(t, p, "--redirect", callback, "--skip-consent", "--logout-url", main.issuer+"/upstream/"+id+"/backchannel-logout", "--after-logout", main.issuer+"/upstream/"+id+"/signed-out")
	args := append([]string{"upstream", "add", id, "--issuer", p.issuer, "--client-id", a.ID, "--name", "Town Hall", "--secret-stdin", "--data", main.data}, flags...)
	cmd := exec.Command(theBinary, args...)
	cmd.Stdin = strings.NewReader(a.Secret + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "/upstream/"+id+"/callback") {
		t.Fatalf("%v %s", err, out)
	}
}

// through presses the provider's button and signs in there, wherever the browser is asked.
func (b *browser) through(t *testing.T, p *program, id, user, next string) (*url.URL, error) {
	t.Helper()
	at := must(url.Parse(main.issuer + "/upstream/" + id + "/start?" + url.Values{"next": {next}}.Encode()))
	for range 15 {
		status, loc, _ := b.do("GET", at.String(), nil)
		if loc == nil {
			there := strings.HasPrefix(at.String(), p.issuer+"/")
			if there && at.Path == "/login" {
				status, loc = b.answer(at, url.Values{"username": {user}, "password": {password}})
			}
			if loc == nil {
				if status == 200 {
					return at, nil
				}
				return at, fmt.Errorf("%s: %d", at.Path, status)
			}
		}
		at = loc
	}
	t.Fatalf("it goes round: %s", at)
	return nil, nil
}

func (b *browser) whoami(t *testing.T) string {
	t.Helper()
	if status, _, page := b.do("GET", main.issuer+"/account", nil); status == 200 {
		for _, name := range []string{"alice", "bob", "dora", "emil", "fred"} {
			if strings.Contains(page, "@"+name+":hs.test") {
				return name
			}
		}
	}
	return ""
}

// TestUpstream signs in with a second real process as the provider: people of it get an
// account, whoever has a local one proves it, nobody gets another's; and when it is
// stopped, sessions go on and local accounts sign in.
func TestUpstream(t *testing.T) {
	town, err := start(filepath.Join(t.TempDir(), "town"), "town.test")
	if err != nil {
		t.Fatal(err)
	}
	defer town.stop()
	for _, name := range []string{"dora", "alice", "emil", "fred"} {
		if _, err := town.cli("user", "add", name, "--password", password); err != nil {
			t.Fatal(err)
		}
	}
	// Groups there are groups here, where they are mapped.
	for _, args := range [][]string{{"group", "add", "Guards"}, {"group", "add", "Elders"}, {"group", "join", "Guards", "dora"}, {"group", "join", "Elders", "dora"}} {
		if _, err := town.cli(args...); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"Watch", "Elders"} {
		if _, err := main.cli("group", "add", name); err != nil {
			t.Fatal(err)
		}
	}
	upstreamOf(t, town, "town", "--scope", "profile", "--scope", "groups", "--group", "Guards=Watch", "--sign-out")
	if out, err := main.cli("upstream", "test", "town"); err != nil || !strings.Contains(string(out), town.issuer) {
		t.Fatalf("%v %s", err, out)
	}
	// The sign-in page has the button, and takes the application along.
	a := plain(t)
	b := newBrowser(t, main)
	v := url.Values{"client_id": {a.ID}, "redirect_uri": {a.conf.RedirectURL}, "response_type": {"code"}, "scope": {"openid"}, "state": {"s"}}
	_, loc, _ := b.do("GET", a.conf.Endpoint.AuthURL+"?"+v.Encode(), nil)
	b.do("GET", loc.String(), nil)
	if !strings.Contains(b.last, "Sign in with Town Hall") || !strings.Contains(b.last, "/upstream/town/start?request=") {
		t.Fatalf("no button:\n%s", b.last)
	}
	// Somebody new gets an account, and the same one the next time.
	for range 2 {
		b = newBrowser(t, main)
		if at, err := b.through(t, town, "town", "dora", "/account"); err != nil || at.Path != "/account" || b.whoami(t) != "dora" {
			t.Fatalf("%v %v %q\n%s", at, err, b.whoami(t), b.last)
		}
	}
	groups := func() string {
		out, err := main.cli("group", "list", "--json")
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if in := groups(); !regexp.MustCompile(`"name": ?"Watch"[^}]*"members": ?1`).MatchString(in) || !regexp.MustCompile(`"name": ?"Elders"[^}]*"members": ?0`).MatchString(in) {
		t.Fatalf("who is in which group: %s", in)
	}
	if _, err := town.cli("group", "leave", "Guards", "dora"); err != nil {
		t.Fatal(err)
	}
	b = newBrowser(t, main)
	if at, err := b.through(t, town, "town", "dora", "/account"); err != nil || b.whoami(t) != "dora" {
		t.Fatalf("%v %v", at, err)
	}
	if in := groups(); !regexp.MustCompile(`"name": ?"Watch"[^}]*"members": ?0`).MatchString(in) {
		t.Fatalf("she left the group there: %s", in)
	}
	// Her session is good for applications.
	if x := a.signIn(b, "dora", nil); len(x.all["amr"].([]any)) == 0 {
		t.Fatalf("%v", x.all)
	}
	// An answer belongs to the browser that asked, and is good once.
	other := newBrowser(t, main)
	if status, _, _ := other.do("GET", main.issuer+"/upstream/town/callback?code=x&state=y", nil); status != 403 {
		t.Fatalf("in another browser: %d", status)
	}
	other.do("GET", main.issuer+"/upstream/town/start", nil)
	if status, _, _ := other.do("GET", main.issuer+"/upstream/town/callback?code=x&state=y", nil); status != 400 {
		t.Fatalf("with another state: %d", status)
	}
	if status, _, _ := other.do("GET", main.issuer+"/upstream/town/callback?code=x&state=y", nil); status != 403 {
		t.Fatalf("again: %d", status)
	}
	// 40: alice there is not alice here, until she proves both.
	thief := newBrowser(t, main)
	at, err := thief.through(t, town, "town", "alice", "/account")
	if err != nil || at.Path != "/login" || thief.whoami(t) != "" {
		t.Fatalf("%v %v", at, err)
	}
	if status, _, _ := thief.do("POST", main.issuer+"/upstream/join", url.Values{"answer": {"yes"}}); status != 303 || thief.whoami(t) != "" {
		t.Fatalf("joined without the password: %d", status)
	}
	// Somebody else who was signed in at that browser before does not get it either.
	shared := newBrowser(t, main)
	a.signIn(shared, "alice", nil)
	if at, err := shared.through(t, town, "town", "emil", "/account"); err != nil || shared.whoami(t) != "emil" {
		t.Fatalf("%v %v", at, err)
	}
	owner := newBrowser(t, main)
	if at, err = owner.through(t, town, "town", "alice", "/account"); err != nil {
		t.Fatal(err)
	}
	_, loc = owner.answer(at, url.Values{"username": {"alice"}, "password": {password}})
	if loc == nil || loc.Path != "/upstream/join" {
		t.Fatalf("%v\n%s", loc, owner.last)
	}
	owner.do("GET", loc.String(), nil)
	owner.answer(loc, url.Values{"answer": {"yes"}})
	again := newBrowser(t, main)
	if at, err := again.through(t, town, "town", "alice", "/account"); err != nil || again.whoami(t) != "alice" {
		t.Fatalf("%v %v", at, err)
	}
	// Who signs out here goes on to the provider, which leads back. Both have localhost's
	// cookies here, so that nobody is signed in there any more, and it need not ask.
	_, _, page := again.do("GET", main.issuer+"/logout", nil)
	if !strings.Contains(page, "<form") {
		t.Fatalf("%.2000s", page)
	}
	_, loc = again.answer(must(url.Parse(main.issuer+"/logout")), url.Values{"answer": {"yes"}})
	if loc == nil || !strings.HasPrefix(loc.String(), town.issuer+"/") || loc.Query().Get("logout_hint") == "" || again.whoami(t) != "" {
		t.Fatalf("%v %q", loc, again.whoami(t))
	}
	state := loc.Query().Get("state")
	if _, loc, _ = again.do("GET", loc.String(), nil); loc == nil || loc.Path != "/upstream/town/signed-out" || loc.Query().Get("state") != state {
		t.Fatalf("%v\n%s", loc, again.last)
	}
	if status, _, page := again.do("GET", loc.String(), nil); status != 200 || !strings.Contains(page, "signed out") {
		t.Fatalf("%d %.2000s", status, page)
	}
	// Whose sessions end there is signed out here, and nobody else.
	fred := newBrowser(t, main)
	if at, err := fred.through(t, town, "town", "fred", "/account"); err != nil || fred.whoami(t) != "fred" {
		t.Fatalf("%v %v", at, err)
	}
	if _, err := town.cli("user", "disable", "fred"); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); fred.whoami(t) != ""; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("he is signed out there and in here")
		}
	}
	if b.whoami(t) != "dora" {
		t.Fatal("another's session ended")
	}
	// A locked person stays out.
	if _, err := main.cli("user", "disable", "emil"); err != nil {
		t.Fatal(err)
	}
	if at, err := newBrowser(t, main).through(t, town, "town", "emil", "/account"); err == nil {
		t.Fatalf("a locked person is in: %s", at)
	}
	// It goes away: who is signed in stays, local accounts sign in, the rest is told.
	if err := town.stop(); err != nil {
		t.Fatal(err)
	}
	if b.whoami(t) != "dora" {
		t.Fatal("a session ended with its provider")
	}
	a.signIn(b, "dora", url.Values{"prompt": {"none"}})
	local := newBrowser(t, main)
	if status, _, page := local.do("GET", main.issuer+"/upstream/town/start", nil); status == 303 {
		// Discovery is kept for an hour: the browser sees for itself.
	} else if status != 503 || !strings.Contains(page, "cannot be reached") {
		t.Fatalf("%d %s", status, page)
	}
	a.signIn(local, "alice", nil)
	if _, err := main.cli("upstream", "test", "town"); err == nil {
		t.Fatal("a provider that was stopped answers")
	}
	if out, err := main.cli("upstream", "list"); err != nil || !strings.Contains(string(out), "down") {
		t.Fatalf("%v %s", err, out)
	}
	if out, err := main.cli("doctor", "--json"); err == nil || !regexp.MustCompile(`"name": ?"provider town",\s*"ok": ?false,\s*"detail": ?"down: `).Match(out) {
		t.Fatalf("%v %s", err, out)
	}
	// A local administrator who signs in now is noticed.
	if _, err := main.cli("user", "add", "glass", "--password", password, "--admin"); err != nil {
		t.Fatal(err)
	}
	a.signIn(newBrowser(t, main), "glass", nil)
	if out, err := main.cli("audit", "list", "--json"); err != nil || !strings.Contains(string(out), "signin.breakglass") {
		t.Fatalf("%v %.2000s", err, out)
	}
	// Whoever has no other way in is locked on request, dora and fred; alice has a password here.
	if out, err := main.cli("upstream", "remove", "town", "--people", "lock", "--json"); err != nil || !regexp.MustCompile(`"locked": ?2\b`).Match(out) {
		t.Fatalf("%v %s", err, out)
	}
	if b.whoami(t) != "" {
		t.Fatal("she is locked and signed in")
	}
	if status, _, _ := local.do("GET", main.issuer+"/upstream/town/start", nil); status != 404 {
		t.Fatalf("removed: %d", status)
	}
}
