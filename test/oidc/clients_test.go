package oidc

import (
	"encoding/pem"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	jose "github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"
)

// listener is the back-channel address of an application. It takes a logout token as
// go-oidc does.
type listener struct {
	*httptest.Server
	got chan *oidc.LogoutToken
}

func newListener(t *testing.T) *listener {
	l := &listener{got: make(chan *oidc.LogoutToken, 16)}
	l.Server = httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(l.Close)
	return l
}

// newTLSListener is a listener whose certificate is of an authority of its own, which is
// in a file.
func newTLSListener(t *testing.T) (l *listener, file string) {
	l = &listener{got: make(chan *oidc.LogoutToken, 16)}
	l.Server = httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(l.Close)
	file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return l, file
}

func (l *listener) of(a *app) {
	l.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		v, _ := url.ParseQuery(string(raw))
		x, err := a.provider.Verifier(&oidc.Config{ClientID: a.ID}).VerifyLogout(r.Context(), v.Get("logout_token"))
		if err != nil {
			a.t.Errorf("the logout token is not taken: %v", err)
			w.WriteHeader(400)
			return
		}
		l.got <- x
	})
}

// TestRealClients signs in and out with go-oidc and x/oauth2 as the applications do that
// there are templates for: what each sends is in their own sources and documentation.
func TestRealClients(t *testing.T) {
	priv, jwks := newKeys(t)
	for name, c := range map[string]struct {
		flags    []string
		redirect string // as the application makes it of its address
		scopes   string
		style    oauth2.AuthStyle
		pkce     bool
		keyed    bool
		claims   string
		params   url.Values // of its own at the authorization endpoint; "": it leaves that out
		trade    url.Values // of its own at the token endpoint
		after    string     // post_logout_redirect_uri; "": it has no logout here
		hint     bool       // it shows its ID token when somebody signs out
		want     []string   // claims that it reads from userinfo
		reads    []string   // claims that it reads from the ID token
		asked    bool       // people are asked, whatever was set up
		tls      bool       // its certificate is of an authority of its own
	}{
		"nextcloud": {flags: []string{"--template", "nextcloud", "--url", "https://cloud.example.org"}, redirect: "https://cloud.example.org/apps/user_oidc/code",
			scopes: "openid email profile", style: oauth2.AuthStyleInParams, pkce: true, after: "https://cloud.example.org/",
			claims: `{"id_token":{"email":null,"name":null,"quota":null,"groups":null},"userinfo":{"email":null,"name":null,"quota":null,"groups":null}}`,
			want:   []string{"sub", "name", "preferred_username", "groups"}},
		// With what its page says: by the ID token alone, and a back channel by TLS.
		"nextcloud as documented": {flags: []string{"--template", "nextcloud", "--url", "https://cloud.example.org"}, redirect: "https://cloud.example.org/index.php/apps/user_oidc/code",
			scopes: "openid email profile groups", style: oauth2.AuthStyleInParams, pkce: true, after: "https://cloud.example.org/", hint: true, tls: true,
			params: url.Values{"state": {"0123456789ABCDEFGHIJKLMNOPQRSTUV"}, "nonce": {"VUTSRQPONMLKJIHGFEDCBA9876543210"}},
			claims: `{"id_token":{"email":null,"name":null,"quota":null,"groups":null,"preferred_username":{"essential":true}},"userinfo":{"email":null,"name":null,"quota":null,"groups":null,"preferred_username":{"essential":true}}}`,
			want:   []string{"sub"}, reads: []string{"sub", "sid", "nonce", "name", "preferred_username", "groups"}},
		"grafana": {flags: []string{"--template", "grafana", "--url", "https://grafana.example.org/"}, redirect: "https://grafana.example.org/login/generic_oauth",
			scopes: "openid profile email groups offline_access", style: oauth2.AuthStyleAutoDetect, pkce: true, after: "https://grafana.example.org/login", hint: true,
			params: url.Values{"nonce": {""}, "state": {"q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA="}},
			want:   []string{"sub", "name", "preferred_username", "email", "groups"}, reads: []string{"sub", "name", "preferred_username", "email", "groups"}},
		"gitea": {flags: []string{"--template", "gitea", "--url", "https://git.example.org"}, redirect: "https://git.example.org/user/oauth2/Holdfast/callback",
			scopes: "openid profile email groups", style: oauth2.AuthStyleInHeader, after: "https://git.example.org/",
			want: []string{"sub", "name", "preferred_username", "email", "groups"}},
		// Newer ones send a challenge, and all try how the secret is sent.
		"gitea with PKCE": {flags: []string{"--template", "gitea", "--url", "https://git.example.org"}, redirect: "https://git.example.org/user/oauth2/Holdfast/callback",
			scopes: "openid profile email groups", style: oauth2.AuthStyleAutoDetect, pkce: true, after: "https://git.example.org/",
			params: url.Values{"nonce": {""}}, want: []string{"sub", "name", "preferred_username", "email", "groups"}, reads: []string{"sub", "exp", "aud", "iss"}},
		"jitsi": {flags: []string{"--template", "jitsi", "--url", "https://meet.example.org"}, redirect: "https://meet.example.org/oidc/tokenize",
			scopes: "openid profile email", style: oauth2.AuthStyleInParams, want: []string{"sub", "name", "email"}},
		// It asks for consent each time, keeps the room in the state, and repeats that when it
		// trades the code.
		"jitsi-oidc-adapter": {flags: []string{"--template", "jitsi", "--url", "https://meet.example.org"}, redirect: "https://meet.example.org/oidc/tokenize",
			scopes: "openid profile email", style: oauth2.AuthStyleInHeader, asked: true,
			params: url.Values{"nonce": {""}, "prompt": {"consent"}, "state": {jitsiRoom}}, trade: url.Values{"state": {jitsiRoom}},
			want: []string{"sub", "name", "preferred_username", "email"}},
		"jitsi-openid": {flags: []string{"--template", "jitsi", "--url", "https://meet.example.org"}, redirect: "https://meet.example.org/oidc/callback",
			scopes: "openid profile email", style: oauth2.AuthStyleInHeader, pkce: true,
			want: []string{"sub"}, reads: []string{"sub", "nonce", "at_hash", "name", "preferred_username", "email"}},
		"generic": {flags: []string{"--redirect", "https://wiki.example.org/cb", "--after-logout", "https://wiki.example.org/bye"}, redirect: "https://wiki.example.org/cb",
			scopes: "openid profile", style: oauth2.AuthStyleInHeader, pkce: true, after: "https://wiki.example.org/bye", hint: true, want: []string{"sub", "name"}},
		"generic with a key": {flags: []string{"--redirect", "https://wiki.example.org/cb", "--jwks", jwks}, redirect: "https://wiki.example.org/cb",
			scopes: "openid profile", style: oauth2.AuthStyleInParams, pkce: true, keyed: true, want: []string{"sub", "name"}},
	} {
		t.Run(name, func(t *testing.T) {
			back, flags := newListener(t), append(c.flags, "--skip-consent")
			if c.tls {
				var file string
				back, file = newTLSListener(t)
				flags = append(flags, "--ca-file", file)
			}
			a := newApp(t, main, append(flags, "--logout-url", back.URL+"/logout")...)
			back.of(a)
			if !slices.Contains(a.Redirect, c.redirect) {
				t.Fatalf("%s is none of %v", c.redirect, a.Redirect)
			}
			a.conf.RedirectURL, a.conf.Scopes, a.conf.Endpoint.AuthStyle = c.redirect, strings.Fields(c.scopes), c.style
			if c.keyed {
				a.conf.ClientSecret = ""
			}
			b := newBrowser(t, main)
			verifier := oauth2.GenerateVerifier()
			params := url.Values{}
			maps.Copy(params, c.params)
			var opts []oauth2.AuthCodeOption
			for k := range c.trade {
				opts = append(opts, oauth2.SetAuthURLParam(k, c.trade.Get(k)))
			}
			if c.pkce {
				params.Set("code_challenge", oauth2.S256ChallengeFromVerifier(verifier))
				params.Set("code_challenge_method", "S256")
				opts = append(opts, oauth2.VerifierOption(verifier))
			}
			if c.claims != "" {
				params.Set("claims", c.claims)
			}
			if c.keyed {
				assertion := sign(t, jose.PS256, priv.m[jose.PS256], a.ID, a.conf.Endpoint.TokenURL)
				opts = append(opts, oauth2.SetAuthURLParam("client_assertion", assertion), oauth2.SetAuthURLParam("client_assertion_type", assertionType))
			}
			x, err := a.trade(a.code(b, "alice", params), opts...)
			if err != nil {
				t.Fatal(err)
			}
			if slices.Contains(b.seen, "/consent") != c.asked {
				t.Errorf("people see %v", b.seen)
			}
			for _, k := range c.reads {
				if _, has := x.all[k]; !has {
					t.Errorf("the ID token has no %s: %v", k, x.all)
				}
			}
			m := a.userinfo(x)
			for _, k := range c.want {
				if _, has := m[k]; !has {
					t.Errorf("userinfo has no %s: %v", k, m)
				}
			}
			if strings.Contains(c.scopes, "offline_access") {
				again, err := a.conf.TokenSource(t.Context(), &oauth2.Token{RefreshToken: x.RefreshToken}).Token()
				if err != nil || again.AccessToken == x.AccessToken {
					t.Fatalf("%v", err)
				}
			}
			a.signOut(b, x, c.after, c.hint)
			select {
			case l := <-back.got:
				if l.Subject != x.id.Subject || l.SessionID == "" || l.SessionID != x.all["sid"] || l.Issuer != main.issuer {
					t.Fatalf("%+v for %v", l, x.all)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the application is not told")
			}
		})
	}
}

// jitsiRoom is what Jitsi Meet has its adapter keep.
const jitsiRoom = `{"room":"Ward 3","roomSafe":"ward3","tenant":"","config.prejoinConfig.enabled":false,"config.startAudioOnly":"a+b&c%"}`

// signOut signs out as the application has people do, or at the program itself.
func (a *app) signOut(b *browser, x *tokens, after string, hint bool) {
	a.t.Helper()
	v := url.Values{"client_id": {a.ID}}
	if after != "" {
		v.Set("post_logout_redirect_uri", after)
	}
	if hint {
		v.Set("id_token_hint", x.raw)
	}
	var ends struct {
		Endpoint string `json:"end_session_endpoint"`
	}
	if err := a.provider.Claims(&ends); err != nil {
		a.t.Fatal(err)
	}
	page := must(url.Parse(ends.Endpoint + "?" + v.Encode()))
	status, loc, _ := b.do("GET", page.String(), nil)
	if hint != (loc != nil) {
		a.t.Fatalf("with a hint (%v): %d %v", hint, status, loc)
	}
	if loc == nil {
		status, loc = b.answer(page, url.Values{"answer": {"yes"}})
	}
	if after != "" && (loc == nil || loc.String() != after) {
		a.t.Fatalf("%d %v instead of %s", status, loc, after)
	}
	if after == "" && status != 200 {
		a.t.Fatalf("%d", status)
	}
	a.refusedAs(b, "", url.Values{"prompt": {"none"}, "code_challenge": {oauth2.S256ChallengeFromVerifier(oauth2.GenerateVerifier())}, "code_challenge_method": {"S256"}}, "login_required")
}

// A disabled person is out of applications that listen, whatever they did there.
func TestLockReachesApplications(t *testing.T) {
	back := newListener(t)
	a := newApp(t, main, "--template", "grafana", "--url", "https://grafana.example.org", "--skip-consent", "--logout-url", back.URL+"/logout")
	back.of(a)
	if _, err := main.cli("user", "add", "carol", "--password", password); err != nil {
		t.Fatal(err)
	}
	b := newBrowser(t, main)
	x := a.signIn(b, "carol", nil)
	if _, err := main.cli("user", "disable", "carol"); err != nil {
		t.Fatal(err)
	}
	select {
	case l := <-back.got:
		if l.Subject != x.id.Subject {
			t.Fatalf("%+v", l)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the application is not told")
	}
	a.refusedAs(b, "carol", url.Values{"prompt": {"none"}}, "login_required")
}
