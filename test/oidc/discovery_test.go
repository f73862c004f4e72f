package oidc

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"golang.org/x/oauth2"
)

// post sends a form as an application does.
func post(t *testing.T, u string, v url.Values, auth ...string) (int, map[string]any) {
	t.Helper()
	req, _ := http.NewRequest("POST", u, strings.NewReader(v.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if len(auth) == 2 {
		req.SetBasicAuth(url.QueryEscape(auth[0]), url.QueryEscape(auth[1]))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(resp.Body)
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatalf("%s: %d %v in %.300s", u, resp.StatusCode, err, raw)
	}
	return resp.StatusCode, m
}

// keys are private keys for each algorithm of assertions.
type keys struct {
	m map[jose.SignatureAlgorithm]jose.JSONWebKey
}

func newKeys(t *testing.T) (*keys, string) {
	t.Helper()
	k := &keys{m: map[jose.SignatureAlgorithm]jose.JSONWebKey{}}
	rk, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	add := func(id string, key crypto.Signer, algs ...jose.SignatureAlgorithm) {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: id, Use: "sig"})
		for _, a := range algs {
			k.m[a] = jose.JSONWebKey{Key: key, KeyID: id}
		}
	}
	add("r", rk, jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512)
	for id, c := range map[string]struct {
		curve elliptic.Curve
		alg   jose.SignatureAlgorithm
	}{"e2": {elliptic.P256(), jose.ES256}, "e3": {elliptic.P384(), jose.ES384}, "e5": {elliptic.P521(), jose.ES512}} {
		ek, err := ecdsa.GenerateKey(c.curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		add(id, ek, c.alg)
	}
	raw, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return k, file
}

func sign(t *testing.T, alg jose.SignatureAlgorithm, key any, client, audience string) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	out, err := jwt.Signed(s).Claims(jwt.Claims{Issuer: client, Subject: client, Audience: jwt.Audience{audience}, ID: rand.Text(), Expiry: jwt.NewNumericDate(now.Add(time.Minute)), IssuedAt: jwt.NewNumericDate(now)}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

func asserted(assertion string, kv ...string) url.Values {
	v := url.Values{"client_assertion": {assertion}, "client_assertion_type": {assertionType}}
	for i := 0; i < len(kv); i += 2 {
		v.Set(kv[i], kv[i+1])
	}
	return v
}

// TestDiscoveryIsTrue tries all that discovery advertises, and something of each kind that
// it does not. A member that no check here knows fails it: who advertises more tries it here.
// Spec: OpenID Connect Discovery 1.0 section 3, RFC 8414 section 2
func TestDiscoveryIsTrue(t *testing.T) {
	get := func(u string) (int, string, http.Header) {
		t.Helper()
		resp, err := http.Get(u)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(raw), resp.Header
	}
	var d map[string]any
	_, raw, header := get(main.issuer + "/.well-known/openid-configuration")
	if err := json.Unmarshal([]byte(raw), &d); err != nil || header.Get("Content-Type") != "application/json" {
		t.Fatalf("%v %s", err, raw)
	}
	for _, same := range []string{"/.well-known/oauth-authorization-server", "/_matrix/client/v1/auth_metadata"} {
		var x map[string]any
		_, raw, _ := get(main.issuer + same)
		if err := json.Unmarshal([]byte(raw), &x); err != nil || !reflect.DeepEqual(x, d) {
			t.Errorf("%s says something else: %v", same, err)
		}
	}
	str := func(k string) string { s, _ := d[k].(string); return s }
	strs := func(k string) (out []string) {
		for _, x := range d[k].([]any) {
			out = append(out, x.(string))
		}
		if len(out) == 0 {
			t.Errorf("%s is empty", k)
		}
		return out
	}
	a := plain(t)
	b := newBrowser(t, main)
	a.signIn(b, "alice", nil)
	public := newApp(t, main, "--template", "public", "--redirect", "https://public.example.org/cb", "--skip-consent")
	pkce := func(v url.Values) (url.Values, oauth2.AuthCodeOption) {
		verifier := oauth2.GenerateVerifier()
		v = maps.Clone(v)
		if v == nil {
			v = url.Values{}
		}
		v.Set("code_challenge", oauth2.S256ChallengeFromVerifier(verifier))
		v.Set("code_challenge_method", "S256")
		return v, oauth2.VerifierOption(verifier)
	}
	priv, jwks := newKeys(t)
	keyed := newApp(t, main, "--redirect", "https://keyed.example.org/cb", "--jwks", jwks, "--skip-consent")
	algs := func(k, endpoint string) func() {
		return func() {
			for _, alg := range strs(k) {
				key := priv.m[jose.SignatureAlgorithm(alg)]
				status, m := post(t, str(endpoint), asserted(sign(t, jose.SignatureAlgorithm(alg), key, keyed.ID, main.issuer), "token", "x", "grant_type", "authorization_code", "code", "x", "redirect_uri", "https://keyed.example.org/cb"))
				if status == 401 || m["error"] != nil && m["error"] != "invalid_grant" {
					t.Errorf("%s at %s: %d %v", alg, endpoint, status, m)
				}
			}
			for _, bad := range []string{sign(t, jose.HS256, []byte(strings.Repeat("k", 32)), keyed.ID, main.issuer), unsigned(`{"iss":"` + keyed.ID + `","sub":"` + keyed.ID + `","aud":"` + main.issuer + `","jti":"1","exp":9999999999}`)} {
				if status, m := post(t, str(endpoint), asserted(bad, "token", "x", "grant_type", "authorization_code", "code", "x")); status != 401 {
					t.Errorf("an assertion of another kind at %s: %d %v", endpoint, status, m)
				}
			}
		}
	}
	methods := func(k, endpoint string, form url.Values, good func(int, map[string]any) bool) func() {
		return func() {
			for _, how := range strs(k) {
				var status int
				var m map[string]any
				v := maps.Clone(form)
				switch how {
				case "none":
					v.Set("client_id", public.ID)
					status, m = post(t, str(endpoint), v)
				case "client_secret_basic":
					status, m = post(t, str(endpoint), v, a.ID, a.Secret)
				case "client_secret_post":
					v.Set("client_id", a.ID)
					v.Set("client_secret", a.Secret)
					status, m = post(t, str(endpoint), v)
				case "private_key_jwt":
					maps.Copy(v, asserted(sign(t, jose.ES256, priv.m[jose.ES256], keyed.ID, str(endpoint))))
					status, m = post(t, str(endpoint), v)
				default:
					t.Errorf("%s: nobody tries %s", k, how)
				}
				if !good(status, m) {
					t.Errorf("%s at %s: %d %v", how, endpoint, status, m)
				}
			}
		}
	}
	is := func(k string, want any) func() {
		return func() {
			if d[k] != want {
				t.Errorf("%s is %v", k, d[k])
			}
		}
	}
	code := func(status int, m map[string]any) bool { return status == 400 && m["error"] == "invalid_grant" }
	fine := func(status int, m map[string]any) bool { return status == 200 }
	checks := map[string]func(){
		"issuer":                 is("issuer", main.issuer),
		"authorization_endpoint": func() { a.signIn(newBrowser(t, main), "alice", nil) },
		"token_endpoint":         func() { a.signIn(b, "alice", nil) },
		"jwks_uri": func() {
			_, raw, _ := get(str("jwks_uri"))
			var set jose.JSONWebKeySet
			if err := json.Unmarshal([]byte(raw), &set); err != nil || len(set.Keys) == 0 {
				t.Fatalf("%v %s", err, raw)
			}
			for _, k := range set.Keys {
				if !k.IsPublic() || k.KeyID == "" || k.Use != "sig" || k.Algorithm != "RS256" {
					t.Errorf("%+v", k)
				}
			}
		},
		"userinfo_endpoint": func() { a.userinfo(a.signIn(b, "alice", nil)) },
		"revocation_endpoint": func() {
			x := a.signIn(b, "alice", nil)
			if status, m := post(t, str("revocation_endpoint"), url.Values{"token": {x.AccessToken}}, a.ID, a.Secret); status != 200 {
				t.Errorf("%d %v", status, m)
			}
			if _, m := post(t, str("introspection_endpoint"), url.Values{"token": {x.AccessToken}}, a.ID, a.Secret); m["active"] != false {
				t.Errorf("%v", m)
			}
		},
		"introspection_endpoint": func() {
			x := a.signIn(b, "alice", nil)
			if _, m := post(t, str("introspection_endpoint"), url.Values{"token": {x.AccessToken}}, a.ID, a.Secret); m["active"] != true || m["sub"] != x.id.Subject {
				t.Errorf("%v", m)
			}
		},
		"registration_endpoint": func() {
			body := `{"client_name":"X","client_uri":"https://x.example.org/","redirect_uris":["https://x.example.org/cb"],"token_endpoint_auth_method":"none","response_types":["code"],"grant_types":["authorization_code","refresh_token"]}`
			resp, err := http.Post(str("registration_endpoint"), "application/json", strings.NewReader(body))
			if err != nil || resp.StatusCode != 201 {
				t.Fatalf("%v %v", err, resp)
			}
			resp.Body.Close()
		},
		"device_authorization_endpoint": func() {
			body := `{"client_name":"TV","client_uri":"https://tv.example.org/","redirect_uris":["https://tv.example.org/cb"],"token_endpoint_auth_method":"none","grant_types":["authorization_code","refresh_token","urn:ietf:params:oauth:grant-type:device_code"]}`
			resp, err := http.Post(str("registration_endpoint"), "application/json", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			var reg struct {
				ID string `json:"client_id"`
			}
			json.NewDecoder(resp.Body).Decode(&reg)
			resp.Body.Close()
			conf := oauth2.Config{ClientID: reg.ID, Endpoint: oauth2.Endpoint{DeviceAuthURL: str("device_authorization_endpoint"), TokenURL: str("token_endpoint"), AuthStyle: oauth2.AuthStyleInParams},
				Scopes: []string{"openid", "urn:matrix:client:api:*", "urn:matrix:client:device:DEVICE1234"}}
			dev, err := conf.DeviceAuth(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			db := newBrowser(t, main)
			a.signIn(db, "alice", nil)
			if status, _, _ := db.do("GET", dev.VerificationURIComplete, nil); status != 200 {
				t.Fatalf("%d\n%s", status, db.last)
			}
			page, _ := url.Parse(dev.VerificationURIComplete)
			db.answer(page, url.Values{"user_code": {dev.UserCode}, "answer": {"yes"}})
			dev.Interval = 1
			tk, err := conf.DeviceAccessToken(t.Context(), dev)
			if err != nil || tk.RefreshToken == "" {
				t.Fatalf("%v\n%s", err, db.last)
			}
		},
		"end_session_endpoint": func() {
			lb := newBrowser(t, main)
			x := a.signIn(lb, "alice", nil)
			if _, loc, _ := lb.do("GET", str("end_session_endpoint")+"?"+url.Values{"id_token_hint": {x.raw}, "post_logout_redirect_uri": {a.Logouts[0]}}.Encode(), nil); loc == nil || loc.String() != a.Logouts[0] {
				t.Errorf("%v\n%s", loc, lb.last)
			}
			a.refusedAs(lb, "alice", url.Values{"prompt": {"none"}}, "login_required")
		},
		"response_types_supported": func() {
			if got := strs("response_types_supported"); !slices.Equal(got, []string{"code"}) {
				t.Errorf("%v", got)
			}
			for _, other := range []string{"token", "id_token", "id_token token", "code id_token", "code token", "code id_token token", "none"} {
				a.refusedAs(b, "alice", url.Values{"response_type": {other}}, "unsupported_response_type")
			}
		},
		"response_modes_supported": func() {
			v := func(mode string) string {
				x := url.Values{"client_id": {a.ID}, "redirect_uri": {a.conf.RedirectURL}, "response_type": {"code"}, "scope": {"openid"}, "state": {"s"}, "response_mode": {mode}}
				end, err := b.follow("alice", must(url.Parse(a.conf.Endpoint.AuthURL+"?"+x.Encode())))
				if err != nil { // a page that sends the form on
					return b.last
				}
				return end.String()
			}
			for _, mode := range strs("response_modes_supported") {
				got := v(mode)
				switch mode {
				case "query":
					if !strings.Contains(got, "?code=hac_") {
						t.Errorf("%s: %s", mode, got)
					}
				case "fragment":
					if !strings.Contains(got, "#code=hac_") {
						t.Errorf("%s: %s", mode, got)
					}
				case "form_post":
					if !strings.Contains(got, `name="code" value="hac_`) || !strings.Contains(got, a.conf.RedirectURL) {
						t.Errorf("%s: %s", mode, got)
					}
				default:
					t.Errorf("nobody tries %s", mode)
				}
			}
			for _, other := range []string{"web_message", "jwt", "query.jwt"} {
				if got := v(other); !strings.Contains(got, "error=invalid_request") {
					t.Errorf("%s: %s", other, got)
				}
			}
		},
		"grant_types_supported": func() {
			tried := []string{"authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"}
			if got := strs("grant_types_supported"); !slices.Equal(got, tried) {
				t.Errorf("%v", got) // tried above, in the plan and below
			}
			for _, other := range []string{"password", "client_credentials", "implicit", "urn:ietf:params:oauth:grant-type:jwt-bearer", "urn:ietf:params:oauth:grant-type:token-exchange", "urn:openid:params:grant-type:ciba"} {
				if status, m := post(t, str("token_endpoint"), url.Values{"grant_type": {other}, "username": {"alice"}, "password": {password}, "scope": {"openid"}}, a.ID, a.Secret); status != 400 || m["error"] != "unsupported_grant_type" {
					t.Errorf("%s: %d %v", other, status, m)
				}
			}
		},
		"code_challenge_methods_supported": func() {
			if got := strs("code_challenge_methods_supported"); !slices.Equal(got, []string{"S256"}) {
				t.Errorf("%v", got)
			}
			v, opt := pkce(nil)
			if _, err := public.trade(public.code(b, "alice", v), opt); err != nil {
				t.Error(err)
			}
			for _, other := range []string{"plain", "S512"} {
				public.refusedAs(b, "alice", url.Values{"code_challenge": {oauth2.GenerateVerifier()}, "code_challenge_method": {other}}, "invalid_request")
			}
			public.refusedAs(b, "alice", nil, "invalid_request")
		},
		"token_endpoint_auth_methods_supported":                    methods("token_endpoint_auth_methods_supported", "token_endpoint", url.Values{"grant_type": {"authorization_code"}, "code": {"x"}, "redirect_uri": {"https://x.example.org/"}, "code_verifier": {oauth2.GenerateVerifier()}}, code),
		"revocation_endpoint_auth_methods_supported":               methods("revocation_endpoint_auth_methods_supported", "revocation_endpoint", url.Values{"token": {"x"}}, fine),
		"introspection_endpoint_auth_methods_supported":            methods("introspection_endpoint_auth_methods_supported", "introspection_endpoint", url.Values{"token": {"x"}}, fine),
		"token_endpoint_auth_signing_alg_values_supported":         algs("token_endpoint_auth_signing_alg_values_supported", "token_endpoint"),
		"revocation_endpoint_auth_signing_alg_values_supported":    algs("revocation_endpoint_auth_signing_alg_values_supported", "revocation_endpoint"),
		"introspection_endpoint_auth_signing_alg_values_supported": algs("introspection_endpoint_auth_signing_alg_values_supported", "introspection_endpoint"),
		"subject_types_supported": func() {
			if got := strs("subject_types_supported"); !slices.Equal(got, []string{"public", "pairwise"}) {
				t.Errorf("%v", got)
			}
			var subs []string
			for range 2 {
				p := newApp(t, main, "--template", "grafana", "--url", "https://g.example.org", "--pairwise", "--skip-consent")
				subs = append(subs, p.signIn(b, "alice", nil).id.Subject)
			}
			subs = append(subs, a.signIn(b, "alice", nil).id.Subject)
			if subs[0] == subs[1] || subs[1] == subs[2] || subs[0] == subs[2] {
				t.Errorf("%v", subs)
			}
			if again := a.signIn(newBrowser(t, main), "alice", nil).id.Subject; again != subs[2] {
				t.Error("a public subject changes")
			}
		},
		"id_token_signing_alg_values_supported": func() {
			x := a.signIn(b, "alice", nil)
			h, _ := base64.RawURLEncoding.DecodeString(strings.Split(x.raw, ".")[0])
			var head struct{ Alg string }
			json.Unmarshal(h, &head)
			if got := strs("id_token_signing_alg_values_supported"); !slices.Equal(got, []string{head.Alg}) {
				t.Errorf("%v, signed by %s", got, head.Alg)
			}
		},
		"scopes_supported": func() {
			for _, s := range strs("scopes_supported") {
				if strings.HasPrefix(s, "urn:") {
					kind := strings.TrimSuffix(strings.TrimSuffix(s, "api:*"), "device:*")
					v, _ := pkce(url.Values{"scope": {"openid " + kind + "api:* " + kind + "device:ABCDEFGHIJ"}, "prompt": {"none"}})
					// Another application never gets them; who registered by themselves does, and asks.
					public.refusedAs(b, "alice", v, "invalid_scope")
					continue
				}
				x := a.signIn(b, "alice", url.Values{"scope": {"openid " + s}})
				if got, _ := x.Extra("scope").(string); !slices.Contains(strings.Fields(got), s) {
					t.Errorf("%s is not granted: %q", s, got)
				}
			}
			for _, other := range []string{"admin", "urn:synapse:admin:*", "api"} {
				a.refusedAs(b, "alice", url.Values{"scope": {"openid " + other}}, "invalid_scope")
			}
		},
		"claims_supported": func() {
			cb := newBrowser(t, main)
			x := a.signIn(cb, "alice", url.Values{"scope": {"openid profile email groups"}})
			all := a.userinfo(x)
			maps.Copy(all, x.all)
			for _, c := range strs("claims_supported") {
				if _, has := all[c]; !has {
					t.Errorf("the claim %s is not there", c)
				}
			}
			for c := range all {
				if !slices.Contains(strs("claims_supported"), c) && c != "client_id" {
					t.Errorf("the claim %s is there, and not advertised", c)
				}
			}
		},
		"claims_parameter_supported": func() {
			is("claims_parameter_supported", true)()
			x := a.signIn(b, "alice", url.Values{"claims": {`{"id_token":{"preferred_username":null}}`}})
			if x.all["preferred_username"] != "alice" {
				t.Errorf("%v", x.all)
			}
			a.refusedAs(b, "alice", url.Values{"claims": {`[1]`}}, "invalid_request")
		},
		"acr_values_supported": func() {
			for _, v := range strs("acr_values_supported") {
				q, err := a.authorize(b, "alice", url.Values{"prompt": {"none"}, "claims": {`{"id_token":{"acr":{"essential":true,"value":"` + v + `"}}}`}})
				if err != nil {
					t.Fatal(err)
				}
				// Alice has no second factor: what is more than a password is refused to her.
				if one := strings.HasSuffix(v, ":1fa"); one != (q.Get("code") != "") || !one && q.Get("error") != "unmet_authentication_requirements" {
					t.Errorf("%s: %v", v, q)
				}
			}
		},
		"request_parameter_supported": func() {
			is("request_parameter_supported", false)()
			a.refusedAs(b, "alice", url.Values{"request": {unsigned("{}")}}, "request_not_supported")
		},
		"request_uri_parameter_supported": func() {
			is("request_uri_parameter_supported", false)()
			a.refusedAs(b, "alice", url.Values{"request_uri": {"https://g.example.org/r"}}, "request_uri_not_supported")
		},
		"authorization_response_iss_parameter_supported": is("authorization_response_iss_parameter_supported", true), // each answer here is looked at for it
		"prompt_values_supported": func() {
			silent := func(v string) []string {
				if _, err := a.authorize(b, "alice", url.Values{"prompt": {v}}); err != nil {
					t.Errorf("prompt=%s: %v", v, err)
				}
				return b.seen
			}
			for _, v := range strs("prompt_values_supported") {
				want := map[string]string{"none": "", "login": "/login", "consent": "/consent", "select_account": "/consent"}
				page, known := want[v]
				if !known {
					t.Errorf("nobody tries prompt=%s", v)
				}
				if got := strings.Join(silent(v), " "); got != page {
					t.Errorf("prompt=%s shows %q", v, got)
				}
			}
			a.refusedAs(b, "alice", url.Values{"prompt": {"shout"}}, "invalid_request")
			a.refusedAs(b, "alice", url.Values{"prompt": {"none login"}}, "invalid_request")
		},
		"display_values_supported": func() {
			for _, v := range strs("display_values_supported") {
				a.signIn(b, "alice", url.Values{"display": {v}})
			}
		},
		"ui_locales_supported": func() {
			for _, v := range strs("ui_locales_supported") {
				lb := newBrowser(t, main)
				x := url.Values{"client_id": {a.ID}, "redirect_uri": {a.conf.RedirectURL}, "response_type": {"code"}, "scope": {"openid"}, "ui_locales": {v}}
				_, loc, _ := lb.do("GET", a.conf.Endpoint.AuthURL+"?"+x.Encode(), nil)
				if lb.do("GET", loc.String(), nil); !strings.Contains(lb.last, `<html lang="`+v+`"`) {
					t.Errorf("%s: %.200s", v, lb.last)
				}
			}
		},
		"backchannel_logout_supported":         is("backchannel_logout_supported", true),         // TestRealClients
		"backchannel_logout_session_supported": is("backchannel_logout_session_supported", true), // the same
		"account_management_uri": func() {
			if status, _, _ := b.do("GET", str("account_management_uri"), nil); status != 200 {
				t.Errorf("%d", status)
			}
		},
		"account_management_actions_supported": func() {
			for _, v := range strs("account_management_actions_supported") {
				if status, loc, _ := b.do("GET", str("account_management_uri")+"?"+url.Values{"action": {v}}.Encode(), nil); status >= 400 {
					t.Errorf("%s: %d %v", v, status, loc)
				}
			}
		},
	}
	for _, k := range slices.Sorted(maps.Keys(d)) {
		if checks[k] == nil {
			t.Errorf("%s is advertised, and nobody tries it", k)
			continue
		}
		t.Run(k, func(t2 *testing.T) {
			had := t
			t, a.t, b.t, public.t, keyed.t = t2, t2, t2, t2, t2
			defer func() { t, a.t, b.t, public.t, keyed.t = had, had, had, had, had }()
			checks[k]()
		})
	}
	for k := range checks {
		if _, has := d[k]; !has {
			t.Errorf("%s is not advertised any more", k)
		}
	}
	for _, path := range []string{"/oauth2/par", "/oauth2/ciba", "/oauth2/keys", "/oauth2/logout", "/oauth2/check_session", "/.well-known/webfinger", "/oauth2/registration/x"} {
		if status, body, _ := get(main.issuer + path); status == 200 && !bytes.Contains([]byte(body), []byte("<html")) {
			t.Errorf("%s is there, and not advertised", path)
		}
	}
}

func must(u *url.URL, err error) *url.URL {
	if err != nil {
		panic(err)
	}
	return u
}
