package oidc

import (
	"encoding/base64"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"
)

var planParameters = []module{
	{"oidcc-display-page", "Core 3.1.2.1: display", func(t *testing.T) { succeeds(t, url.Values{"display": {"page"}}) }},
	{"oidcc-display-popup", "Core 3.1.2.1: display", func(t *testing.T) {
		succeeds(t, url.Values{"display": {"popup"}})
		// The page that opened the window finds it again; without display it does not.
		a := plain(t)
		for display, policy := range map[string]string{"popup": "unsafe-none", "page": "same-origin-allow-popups"} {
			b := newBrowser(t, main)
			v := url.Values{"client_id": {a.ID}, "redirect_uri": {a.conf.RedirectURL}, "response_type": {"code"}, "scope": {"openid"}, "display": {display}}
			_, loc, _ := b.do("GET", a.conf.Endpoint.AuthURL+"?"+v.Encode(), nil)
			b.do("GET", loc.String(), nil)
			if got := b.header.Get("Cross-Origin-Opener-Policy"); got != policy {
				t.Fatalf("display=%s: %q", display, got)
			}
		}
	}},
	{"oidcc-prompt-login", "Core 3.1.2.1: prompt=login asks who is signed in again; 2: auth_time", func(t *testing.T) {
		a, b := plain(t), newBrowser(t, main)
		x := a.signIn(b, "alice", nil)
		time.Sleep(1100 * time.Millisecond) // auth_time has seconds
		y := a.signIn(b, "alice", url.Values{"prompt": {"login"}})
		if !slices.Contains(b.seen, "/login") {
			t.Fatalf("nobody was asked: %v", b.seen)
		}
		if y.all["auth_time"].(float64) <= x.all["auth_time"].(float64) || y.id.Subject != x.id.Subject {
			t.Fatalf("%v after %v", y.all, x.all)
		}
	}},
	{"oidcc-prompt-none-not-logged-in", "Core 3.1.2.6: login_required", func(t *testing.T) {
		b := newBrowser(t, main)
		plain(t).refusedAs(b, "alice", url.Values{"prompt": {"none"}}, "login_required")
		if len(b.seen) != 0 {
			t.Fatalf("a page was shown: %v", b.seen)
		}
	}},
	{"oidcc-prompt-none-logged-in", "Core 3.1.2.1: prompt=none shows no page; 2: the same auth_time", func(t *testing.T) {
		a, b := plain(t), newBrowser(t, main)
		x := a.signIn(b, "alice", nil)
		y := a.signIn(b, "alice", url.Values{"prompt": {"none"}})
		if len(b.seen) != 0 || y.all["auth_time"] != x.all["auth_time"] || y.id.Subject != x.id.Subject {
			t.Fatalf("%v %v", b.seen, y.all)
		}
	}},
	{"oidcc-max-age-1", "Core 3.1.2.1: max_age, and auth_time where it was asked for", func(t *testing.T) {
		a, b := plain(t), newBrowser(t, main)
		x := a.signIn(b, "alice", nil)
		time.Sleep(2 * time.Second)
		y := a.signIn(b, "alice", url.Values{"max_age": {"1"}})
		if !slices.Contains(b.seen, "/login") || y.all["auth_time"].(float64) <= x.all["auth_time"].(float64) {
			t.Fatalf("%v %v", b.seen, y.all)
		}
		if at := time.Unix(int64(y.all["auth_time"].(float64)), 0); y.id.IssuedAt.Sub(at) > 10*time.Second {
			t.Fatalf("signed in at %v, token of %v", at, y.id.IssuedAt)
		}
	}},
	{"oidcc-max-age-10000", "Core 3.1.2.1: max_age that is not over asks nobody", func(t *testing.T) {
		a, b := plain(t), newBrowser(t, main)
		x := a.signIn(b, "alice", nil)
		y := a.signIn(b, "alice", url.Values{"max_age": {"10000"}})
		if len(b.seen) != 0 || y.all["auth_time"] != x.all["auth_time"] {
			t.Fatalf("%v %v", b.seen, y.all)
		}
	}},
	{"oidcc-id-token-hint", "Core 3.1.2.1: id_token_hint of who is signed in", func(t *testing.T) {
		a, b := plain(t), newBrowser(t, main)
		x := a.signIn(b, "alice", nil)
		if y := a.signIn(b, "alice", url.Values{"prompt": {"none"}, "id_token_hint": {x.raw}}); y.id.Subject != x.id.Subject {
			t.Fatal("somebody else")
		}
		// Of somebody else: nobody can be signed in silently.
		other := a.signIn(newBrowser(t, main), "bob", nil)
		a.refusedAs(b, "alice", url.Values{"prompt": {"none"}, "id_token_hint": {other.raw}}, "login_required")
	}},
	{"oidcc-login-hint", "Core 3.1.2.1: login_hint", func(t *testing.T) {
		a, b := plain(t), newBrowser(t, main)
		v := url.Values{"client_id": {a.ID}, "redirect_uri": {a.conf.RedirectURL}, "response_type": {"code"}, "scope": {"openid"}, "login_hint": {"bob"}}
		_, loc, _ := b.do("GET", a.conf.Endpoint.AuthURL+"?"+v.Encode(), nil)
		if _, _, page := b.do("GET", loc.String(), nil); !strings.Contains(page, `value="bob"`) {
			t.Fatalf("the page does not know the name:\n%s", page)
		}
		a.signIn(newBrowser(t, main), "alice", url.Values{"login_hint": {"bob@example.com"}})
	}},
	{"oidcc-ui-locales", "Core 3.1.2.1: ui_locales that is not there is no error", func(t *testing.T) { succeeds(t, url.Values{"ui_locales": {"se fr-CA en"}}) }},
	{"oidcc-claims-locales", "Core 5.2: claims_locales that is not there is no error", func(t *testing.T) { succeeds(t, url.Values{"claims_locales": {"se"}}) }},
	{"oidcc-claims-essential", "Core 5.5.1: single claims, of which none has to be there", func(t *testing.T) {
		a := plain(t)
		x := a.signIn(newBrowser(t, main), "alice", url.Values{"claims": {`{"userinfo":{"name":{"essential":true},"phone_number":{"essential":true}},"id_token":{"auth_time":{"essential":true}}}`}})
		if m := a.userinfo(x); m["name"] != "alice" || x.all["auth_time"] == nil {
			t.Fatalf("%v %v", m, x.all)
		}
	}},
	{"oidcc-ensure-post-request-succeeds", "Core 3.1.2.1: POST", func(t *testing.T) {
		a, b := plain(t), newBrowser(t, main)
		v := url.Values{"client_id": {a.ID}, "redirect_uri": {a.conf.RedirectURL}, "response_type": {"code"}, "scope": {"openid"}, "state": {"x"}, "nonce": {"nonce1"}}
		status, loc, _ := b.do("POST", a.conf.Endpoint.AuthURL, v)
		if loc == nil {
			t.Fatalf("%d", status)
		}
		q, err := a.go_(b, "alice", loc.String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.trade(q.Get("code")); err != nil {
			t.Fatal(err)
		}
	}},
	{"oidcc-ensure-request-with-unknown-parameter-succeeds", "Core 3.1.2.1, RFC 6749 3.1: unknown parameters are ignored", func(t *testing.T) { succeeds(t, url.Values{"extra": {"foobar"}}) }},
	{"oidcc-ensure-request-with-acr-values-succeeds", "Core 3.1.2.1: acr_values is a wish; 2: acr", func(t *testing.T) {
		a := plain(t)
		x := a.signIn(newBrowser(t, main), "alice", url.Values{"acr_values": {"urn:holdfast:acr:2fa urn:holdfast:acr:1fa"}})
		if x.all["acr"] != "urn:holdfast:acr:1fa" {
			t.Fatalf("acr is %v", x.all["acr"])
		}
		succeeds(t, url.Values{"acr_values": {"somebody's own"}})
	}},
	{"oidcc-ensure-request-with-valid-pkce-succeeds", "RFC 7636", func(t *testing.T) {
		a := plain(t)
		verifier := oauth2.GenerateVerifier()
		params := url.Values{"code_challenge": {oauth2.S256ChallengeFromVerifier(verifier)}, "code_challenge_method": {"S256"}}
		if _, err := a.trade(a.code(newBrowser(t, main), "alice", params), oauth2.VerifierOption(verifier)); err != nil {
			t.Fatal(err)
		}
		if _, err := a.trade(a.code(newBrowser(t, main), "alice", params), oauth2.VerifierOption(oauth2.GenerateVerifier())); oauthError(t, err) != "invalid_grant" {
			t.Fatal(err)
		}
	}},
}

var planErrors = []module{
	{"oidcc-response-type-missing", "RFC 6749 3.1.1, 4.1.2.1: invalid_request", func(t *testing.T) {
		plain(t).refusedAs(newBrowser(t, main), "alice", url.Values{"response_type": {""}}, "invalid_request")
	}},
	{"oidcc-ensure-registered-redirect-uri", "Core 3.1.2.1: exactly one that is registered, and none is led to another", func(t *testing.T) {
		a, b := plain(t), newBrowser(t, main)
		for _, uri := range []string{"https://evil.example.org/cb", a.conf.RedirectURL + "/", a.conf.RedirectURL + "?x=1", "", strings.Replace(a.conf.RedirectURL, "https", "http", 1)} {
			v := url.Values{"client_id": {a.ID}, "response_type": {"code"}, "scope": {"openid"}}
			if uri != "" {
				v.Set("redirect_uri", uri)
			}
			if status, loc, _ := b.do("GET", a.conf.Endpoint.AuthURL+"?"+v.Encode(), nil); status != 400 || loc != nil {
				t.Errorf("%q: %d %v", uri, status, loc)
			}
		}
	}},
	{"oidcc-unsigned-request-object-supported-correctly-or-rejected-as-unsupported", "Core 3.1.2.6: request_not_supported", func(t *testing.T) {
		a := plain(t)
		a.refusedAs(newBrowser(t, main), "alice", url.Values{"request": {unsigned(`{"client_id":"` + a.ID + `","response_type":"code","scope":"openid"}`)}}, "request_not_supported")
		a.refusedAs(newBrowser(t, main), "alice", url.Values{"request_uri": {"https://grafana.example.org/request"}}, "request_uri_not_supported")
	}},
	{"oidcc-ensure-request-object-with-redirect-uri", "Core 6.1: the redirect URI of a request object leads nobody astray", func(t *testing.T) {
		a, b := plain(t), newBrowser(t, main)
		object := unsigned(`{"client_id":"` + a.ID + `","redirect_uri":"https://evil.example.org/cb"}`)
		a.refusedAs(b, "alice", url.Values{"request": {object}}, "request_not_supported")
		// Without one outside the object nobody is led anywhere.
		if _, err := a.authorize(b, "alice", url.Values{"request": {object}, "redirect_uri": {""}}); !errors.Is(err, errPage) {
			t.Fatalf("%v", err)
		}
	}},
}

func unsigned(claims string) string {
	e := base64.RawURLEncoding.EncodeToString
	return e([]byte(`{"alg":"none"}`)) + "." + e([]byte(claims)) + "."
}

func succeeds(t *testing.T, params url.Values) *browser {
	t.Helper()
	b := newBrowser(t, main)
	plain(t).signIn(b, "alice", params)
	return b
}
