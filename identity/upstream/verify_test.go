package upstream

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"holdfast/identity/account"
	"holdfast/identity/saml"
	"holdfast/store"
)

// hostile is a provider that signs whatever it is told to.
type hostile struct {
	*httptest.Server
	key   *rsa.PrivateKey
	token string // what the token endpoint gives
	asked bool   // it has a userinfo endpoint
	info  string // what that gives; "": 500
	sent  url.Values

	published []jose.JSONWebKey
	fetched   atomic.Int32 // how often they were
}

var hostileKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func newHostile(t *testing.T) *hostile {
	key := hostileKey()
	h := &hostile{key: key, published: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k", Use: "sig"}}}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			d := map[string]any{"issuer": h.URL, "authorization_endpoint": h.URL + "/auth", "token_endpoint": h.URL + "/token", "jwks_uri": h.URL + "/keys", "id_token_signing_alg_values_supported": []string{"none", "HS256", "RS256"}}
			if h.asked {
				d["userinfo_endpoint"] = h.URL + "/info"
			}
			json.NewEncoder(w).Encode(d)
		case "/keys":
			h.fetched.Add(1)
			json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: h.published})
		case "/token":
			r.ParseForm()
			h.sent = r.PostForm
			json.NewEncoder(w).Encode(map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": h.token})
		case "/info":
			if h.info == "" {
				w.WriteHeader(500)
			}
			w.Write([]byte(h.info))
		default:
			w.Write([]byte(strings.Repeat("x", 4<<20)))
		}
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hostile) sign(t *testing.T, alg jose.SignatureAlgorithm, key any, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jwt.Signed(s).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// 39: an ID token that is signed by nothing, by the secret or by another key, of another
// issuer, for another application, of another sign-in or too old is refused.
// Spec: OpenID Connect Core section 3.1.3.7
func TestAttack39IDTokens(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "x.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	same := func(s string) (string, error) { return s, nil }
	u, err := New(t.Context(), Options{DB: db, Log: quiet(), Accounts: account.New(account.Options{DB: db, ServerName: "hs.test", Now: time.Now}), Seal: same, Unseal: same, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	h := newHostile(t)
	secret := strings.Repeat("s", 40)
	if err := u.Set(t.Context(), "h", Config{Name: "H", Issuer: h.URL, ClientID: "me", ClientSecret: secret}); err != nil {
		t.Fatal(err)
	}
	to, asked, err := u.Ask(t.Context(), "h", "https://hs.test/upstream/h/callback", "")
	if err != nil {
		t.Fatal(err)
	}
	q := must(url.Parse(to)).Query()
	if q.Get("code_challenge_method") != "S256" || q.Get("nonce") != asked.Nonce || q.Get("state") != asked.State || q.Get("code_challenge") == "" || strings.Contains(to, asked.Verifier) {
		t.Fatal(to)
	}
	good := map[string]any{"iss": h.URL, "sub": "s1", "aud": "me", "nonce": asked.Nonce, "exp": time.Now().Add(time.Minute).Unix(), "iat": time.Now().Unix(), "preferred_username": "Dora", "name": "Dora D", "email": "admin@hs.test"}
	with := func(kv ...any) map[string]any {
		m := maps.Clone(good)
		for i := 0; i < len(kv); i += 2 {
			m[kv[i].(string)] = kv[i+1]
		}
		return m
	}
	try := func(token string) (Person, error) {
		h.token = token
		return u.Answered(t.Context(), asked, url.Values{"state": {asked.State}, "code": {"c"}})
	}
	key := jose.JSONWebKey{Key: h.key, KeyID: "k"}
	who, err := try(h.sign(t, jose.RS256, key, good))
	if err != nil || who.Subject != "s1" || who.Issuer != h.URL || who.Name != "dora" || h.sent.Get("code_verifier") != asked.Verifier {
		t.Fatalf("%+v %v %v", who, err, h.sent)
	}
	b, _ := json.Marshal(good)
	e := base64.RawURLEncoding.EncodeToString
	other, _ := rsa.GenerateKey(rand.Reader, 2048)
	for what, token := range map[string]string{
		"signed by nothing":       e([]byte(`{"alg":"none"}`)) + "." + e(b) + ".",
		"signed by the secret":    h.sign(t, jose.HS256, []byte(secret), good),
		"signed by another key":   h.sign(t, jose.RS256, jose.JSONWebKey{Key: other, KeyID: "k"}, good),
		"of another issuer":       h.sign(t, jose.RS256, key, with("iss", "https://evil.test")),
		"for another application": h.sign(t, jose.RS256, key, with("aud", "you")),
		"for several without azp": h.sign(t, jose.RS256, key, with("aud", []string{"me", "you"})),
		"made for another":        h.sign(t, jose.RS256, key, with("aud", []string{"me", "you"}, "azp", "you")),
		"of another sign-in":      h.sign(t, jose.RS256, key, with("nonce", "other")),
		"without a nonce":         h.sign(t, jose.RS256, key, with("nonce", "")),
		"too old":                 h.sign(t, jose.RS256, key, with("exp", time.Now().Add(-time.Hour).Unix())),
		"without a subject":       h.sign(t, jose.RS256, key, with("sub", "")),
		"of no kind":              "x",
		"missing":                 "",
	} {
		if who, err := try(token); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %+v %v", what, who, err)
		}
	}
	for what, v := range map[string]url.Values{
		"another state":  {"state": {"x"}, "code": {"c"}},
		"no state":       {"code": {"c"}},
		"another issuer": {"state": {asked.State}, "code": {"c"}, "iss": {"https://evil.test"}},
	} {
		if _, err := u.Answered(t.Context(), asked, v); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := u.Answered(t.Context(), asked, url.Values{"state": {asked.State}, "error": {"access_denied"}}); !errors.Is(err, ErrDenied) {
		t.Errorf("%v", err)
	}
	late := asked
	late.Until = time.Now().Add(-time.Second)
	h.token = h.sign(t, jose.RS256, key, good)
	if _, err := u.Answered(t.Context(), late, url.Values{"state": {asked.State}, "code": {"c"}}); !errors.Is(err, ErrRefused) {
		t.Errorf("too late: %v", err)
	}
	// 40: nobody is found by an e-mail address or by the same subject of another issuer.
	x, err := u.Account(t.Context(), who)
	if err != nil || x.Localpart != "dora" {
		t.Fatalf("%+v %v", x, err)
	}
	for what, p := range map[string]Person{
		"the same name, other subject": {Upstream: "h", Issuer: h.URL, Subject: "s2", Name: "dora"},
		"the same subject elsewhere":   {Upstream: "h", Issuer: "https://evil.test", Subject: "s1", Name: "dora"},
	} {
		if y, err := u.Account(t.Context(), p); !errors.Is(err, ErrTaken) || y.ID != "" {
			t.Errorf("%s: %+v %v", what, y, err)
		}
	}
	for _, name := range []string{"", "no good name!", "_x:y", strings.Repeat("a", 300)} {
		if y, err := u.Account(t.Context(), Person{Upstream: "h", Issuer: h.URL, Subject: "s3" + name, Name: name}); !errors.Is(err, ErrNoName) {
			t.Errorf("the name %.20q: %+v %v", name, y, err)
		}
	}
}

// FuzzAnswer reads what a browser brings back from a provider.
func FuzzAnswer(f *testing.F) {
	u := &Upstreams{o: Options{Now: time.Now}, open: map[string]*opened{}}
	f.Add("state=s&code=c")
	f.Add("state=x&error=%00")
	f.Fuzz(func(t *testing.T, raw string) {
		v, err := url.ParseQuery(raw)
		if err != nil {
			return
		}
		// The provider is not known, so that nothing can be good.
		if who, err := u.Answered(t.Context(), Asked{ID: "h", State: "s", Nonce: "n", Until: time.Now().Add(time.Minute)}, v); err == nil || who.Subject != "" {
			t.Fatalf("%q signs in %+v", raw, who)
		}
	})
}

func must(u *url.URL, err error) *url.URL {
	if err != nil {
		panic(err)
	}
	return u
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// A logout token that is not the provider's, not for here, not of now, no logout token, or
// used before ends nothing; a good one ends those sessions that it names, and no others.
// Spec: OpenID Connect Back-Channel Logout 1.0 section 2.6
func TestLogoutTokens(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "x.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	same := func(s string) (string, error) { return s, nil }
	accounts := account.New(account.Options{DB: db, ServerName: "hs.test", Now: time.Now})
	u, err := New(t.Context(), Options{DB: db, Log: quiet(), Accounts: accounts, Seal: same, Unseal: same, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	h := newHostile(t)
	if err := u.Set(t.Context(), "h", Config{Name: "H", Issuer: h.URL, ClientID: "me", ClientSecret: strings.Repeat("s", 40)}); err != nil {
		t.Fatal(err)
	}
	begin := func(name, subject, session string) []byte {
		t.Helper()
		x, err := accounts.ByLocalpart(t.Context(), name)
		if errors.Is(err, account.ErrNoUser) {
			x, err = accounts.Create(t.Context(), account.NewUser{Localpart: name, Source: account.FromUpstream})
		}
		if err != nil {
			t.Fatal(err)
		}
		secret, err := accounts.StartBrowser(t.Context(), x, []string{"fed"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := accounts.BrowserByCookie(t.Context(), secret)
		if err != nil {
			t.Fatal(err)
		}
		if err := u.Began(t.Context(), x, b.SID, From{Upstream: "h", Session: saml.Session{NameID: subject, Index: session}}); err != nil {
			t.Fatal(err)
		}
		return []byte(secret)
	}
	live := func(secret []byte) bool {
		_, err := accounts.BrowserByCookie(t.Context(), string(secret))
		return err == nil
	}
	dora1, dora2, emil := begin("dora", "s1", "one"), begin("dora", "s1", "two"), begin("emil", "s2", "three")
	now := time.Now()
	event := map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}
	good := map[string]any{"iss": h.URL, "sub": "s1", "sid": "one", "aud": "me", "jti": "a", "exp": now.Add(time.Minute).Unix(), "iat": now.Unix(), "events": event}
	with := func(kv ...any) map[string]any {
		m := maps.Clone(good)
		for i := 0; i < len(kv); i += 2 {
			if kv[i+1] == nil {
				delete(m, kv[i].(string))
				continue
			}
			m[kv[i].(string)] = kv[i+1]
		}
		return m
	}
	key := jose.JSONWebKey{Key: h.key, KeyID: "k"}
	other, _ := rsa.GenerateKey(rand.Reader, 2048)
	e := base64.RawURLEncoding.EncodeToString
	b, _ := json.Marshal(good)
	for what, token := range map[string]string{
		"nothing":                 "",
		"too much":                strings.Repeat("x", maxIDToken+1),
		"signed by nothing":       e([]byte(`{"alg":"none"}`)) + "." + e(b) + ".",
		"signed by the secret":    h.sign(t, jose.HS256, []byte(strings.Repeat("s", 40)), good),
		"signed by another key":   h.sign(t, jose.RS256, jose.JSONWebKey{Key: other, KeyID: "k"}, good),
		"of another issuer":       h.sign(t, jose.RS256, key, with("iss", "https://evil.test")),
		"for another application": h.sign(t, jose.RS256, key, with("aud", "you")),
		"an ID token":             h.sign(t, jose.RS256, key, with("nonce", "n")),
		"without the event":       h.sign(t, jose.RS256, key, with("events", map[string]any{})),
		"without a name":          h.sign(t, jose.RS256, key, with("sub", nil, "sid", nil)),
		"without jti":             h.sign(t, jose.RS256, key, with("jti", nil)),
		"without iat":             h.sign(t, jose.RS256, key, with("iat", nil)),
		"expired":                 h.sign(t, jose.RS256, key, with("exp", now.Add(-time.Hour).Unix())),
		"of yesterday":            h.sign(t, jose.RS256, key, with("iat", now.Add(-24*time.Hour).Unix())),
		"of tomorrow":             h.sign(t, jose.RS256, key, with("iat", now.Add(24*time.Hour).Unix(), "exp", now.Add(25*time.Hour).Unix())),
	} {
		if err := u.LeftOpenID(t.Context(), "h", token); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := u.LeftOpenID(t.Context(), "other", h.sign(t, jose.RS256, key, good)); !errors.Is(err, ErrNone) {
		t.Errorf("of no provider: %v", err)
	}
	if !live(dora1) || !live(dora2) || !live(emil) {
		t.Fatal("a session ended by a token that was refused")
	}
	if err := u.LeftOpenID(t.Context(), "h", h.sign(t, jose.RS256, key, good)); err != nil {
		t.Fatal(err)
	}
	if live(dora1) || !live(dora2) || !live(emil) {
		t.Fatal("one session of hers was to end")
	}
	if err := u.LeftOpenID(t.Context(), "h", h.sign(t, jose.RS256, key, with("sid", "two"))); !errors.Is(err, ErrRefused) || !live(dora2) {
		t.Fatalf("the same jti again: %v", err)
	}
	if err := u.LeftOpenID(t.Context(), "h", h.sign(t, jose.RS256, key, with("jti", "b", "sid", nil))); err != nil || live(dora2) || !live(emil) {
		t.Fatalf("all of hers: %v", err)
	}
	if err := u.LeftOpenID(t.Context(), "h", h.sign(t, jose.RS256, key, with("jti", "c", "sub", nil, "sid", "three"))); err != nil || live(emil) {
		t.Fatalf("by the session alone: %v", err)
	}
}

// Anybody can send a token, by a key that nobody has. That asks a provider for its keys once
// a minute and not for each, and a key that it has changed to is taken after that.
func TestLogoutTokensAskSparingly(t *testing.T) {
	s := newSite(t)
	h, now := s.h, time.Now()
	s.u.o.Now = func() time.Time { return now }
	s.set("h", Config{})
	other, _ := rsa.GenerateKey(rand.Reader, 2048)
	n := 0
	token := func(key any, kid string) string {
		n++
		return h.sign(t, jose.RS256, jose.JSONWebKey{Key: key, KeyID: kid}, map[string]any{"iss": h.URL, "sub": "s1", "aud": "me", "jti": fmt.Sprint(n), "exp": now.Add(time.Minute).Unix(), "iat": now.Unix(),
			"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}})
	}
	left := func(token string) error { return s.u.LeftOpenID(t.Context(), "h", token) }
	for i := range 20 {
		if err := left(token(other, fmt.Sprint("unknown", i))); !errors.Is(err, ErrRefused) {
			t.Fatal(err)
		}
	}
	if err := left(token(other, "k")); !errors.Is(err, ErrRefused) { // a known key that did not sign it
		t.Fatal(err)
	}
	if n := h.fetched.Load(); n != 1 {
		t.Fatalf("its keys were fetched %d times", n)
	}
	if err := left(token(h.key, "k")); err != nil { // meanwhile its own are good
		t.Fatal(err)
	}
	h.published = []jose.JSONWebKey{{Key: &other.PublicKey, KeyID: "k2", Use: "sig"}}
	if err := left(token(other, "k2")); !errors.Is(err, ErrRefused) {
		t.Fatalf("so soon: %v", err)
	}
	now = now.Add(refetchEvery)
	if err := left(token(other, "k2")); err != nil || h.fetched.Load() != 2 {
		t.Fatalf("%v, fetched %d times", err, h.fetched.Load())
	}
	if err := left(token(h.key, "k")); !errors.Is(err, ErrRefused) {
		t.Fatalf("a key that it no longer has: %v", err)
	}
	// What it is, is asked as sparingly, while it is not there.
	h.Close()
	s.set("h", Config{})
	for i, want := range []bool{false, true, true, false} {
		if err := left(token(other, "k2")); !errors.Is(err, ErrDown) || strings.Contains(err.Error(), "a moment ago") != want {
			t.Fatalf("token %d: %v", i, err)
		}
		if i == 2 {
			now = now.Add(refetchEvery)
		}
	}
}
