package upstream

import (
	"context"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/identity/account"
	"holdfast/identity/saml"
	"holdfast/identity/saml/samltest"
	"holdfast/store"
)

func (s *site) provider(id string) Provider {
	s.t.Helper()
	list, err := s.u.List(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range list {
		if p.ID == id {
			return p
		}
	}
	return Provider{}
}

// All are asked at the same time, and none that does not answer keeps the others waiting.
func TestAskAll(t *testing.T) {
	s := newSite(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0") // connections come in, and nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s.set("h", Config{})
	for _, id := range []string{"hangs", "hangs2"} {
		if err := s.u.Set(t.Context(), id, Config{Name: "X", Issuer: "http://" + ln.Addr().String(), ClientID: "me"}); err != nil {
			t.Fatal(err)
		}
	}
	if p := s.provider("hangs"); p.Down != "" || !p.Asked.IsZero() {
		t.Fatalf("it knows what it did not ask: %+v", p)
	}
	s.u.AskAll(t.Context(), 2*time.Second)
	if p := s.provider("h"); p.Down != "" || p.Asked.IsZero() {
		t.Fatalf("%+v", p)
	}
	for _, id := range []string{"hangs", "hangs2"} {
		if p := s.provider(id); p.Down == "" || p.Asked.IsZero() {
			t.Fatalf("%+v", p)
		}
	}
	if down := s.u.Down(); !slices.Equal(down, []string{"hangs", "hangs2"}) {
		t.Fatal(down)
	}
}

// A SAML provider is down where it answered before and does not now, also after a start. One
// that only browsers can reach is not: it never answered.
func TestAskSAML(t *testing.T) {
	s := newSite(t)
	idp := samltest.New(t)
	set := func(id string) {
		t.Helper()
		p, err := saml.ParseMetadata(idp.XML(t), "", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.u.Set(t.Context(), id, Config{Name: "Hall", SAML: &saml.Settings{IdP: p, Base: "https://hs.test"}}); err != nil {
			t.Fatal(err)
		}
	}
	status := 0
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodHead || r.URL.RawQuery != "" {
			t.Errorf("it is asked for something: %s %s", r.Method, r.URL)
		}
		w.WriteHeader(status)
	}))
	idp.SSOURL = *must(url.Parse(front.URL + "/sso"))
	set("hall")
	if p := s.provider("hall"); p.Down != "" || p.Unheard != "" || !p.Asked.IsZero() {
		t.Fatalf("%+v", p)
	}
	for _, c := range []struct {
		status int
		down   bool
	}{{503, false}, {400, false}, {502, true}, {405, false}, {504, true}, {500, false}, {303, false}, {503, true}} {
		status = c.status
		got, err := s.u.Test(t.Context(), "hall")
		if p := s.provider("hall"); errors.Is(err, ErrDown) != c.down || (p.Down != "") != c.down || p.Asked.IsZero() || !got.SAML || got.At != front.URL+"/sso" {
			t.Fatalf("%d: %v %+v", c.status, err, p)
		}
	}
	status = 200
	s.u.AskAll(t.Context(), time.Second)
	if down := s.u.Down(); len(down) != 0 {
		t.Fatal(down)
	}
	// It stops, and so does this process; another provider there was never reached.
	front.Close()
	set("hall") // new metadata with the same address change nothing of that
	set("remote")
	again, err := New(t.Context(), s.u.o)
	if err != nil {
		t.Fatal(err)
	}
	s.u = again
	s.u.AskAll(t.Context(), time.Second)
	if down := s.u.Down(); !slices.Equal(down, []string{"hall"}) {
		t.Fatal(down)
	}
	if p := s.provider("remote"); p.Down != "" || !strings.Contains(p.Unheard, "refused") {
		t.Fatalf("%+v", p)
	}
	if got, err := s.u.Test(t.Context(), "remote"); err != nil || got.Unheard == "" {
		t.Fatalf("%+v %v", got, err)
	}
	// Somebody who is not to be trusted by this process answers all the same.
	private := httptest.NewTLSServer(http.NotFoundHandler())
	defer private.Close()
	idp.SSOURL = *must(url.Parse(private.URL + "/sso"))
	set("hall")
	if got, err := s.u.Test(t.Context(), "hall"); err != nil || got.Unheard != "" || len(s.u.Down()) != 0 {
		t.Fatalf("%+v %v", got, err)
	}
}

// Metadata come from an address that an administrator gives, or it is said why not.
func TestFetchMetadata(t *testing.T) {
	s := newSite(t)
	idp := samltest.New(t)
	long := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 2 << 10 {
			w.Write(make([]byte, 1<<10))
		}
	}))
	defer long.Close()
	raw, err := s.u.FetchMetadata(t.Context(), idp.Server.URL+"/metadata")
	if err == nil {
		_, err = saml.ParseMetadata(raw, "", time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = s.u.FetchMetadata(t.Context(), long.URL); err != nil || len(raw) != maxAnswer+1 {
		t.Fatalf("%d bytes of 2 MiB: %v", len(raw), err)
	}
	if _, err := saml.ParseMetadata(raw, "", time.Now()); !errors.Is(err, saml.ErrMetadata) || !strings.Contains(err.Error(), "longer") {
		t.Fatal(err)
	}
	for at, want := range map[string]string{idp.Server.URL + "/nowhere": "404", "file:///etc/passwd": "address", "https://a:b@x.test/": "address", "": "address", "http://127.0.0.1:1/": "cannot be fetched"} {
		if _, err := s.u.FetchMetadata(t.Context(), at); !errors.Is(err, ErrSettings) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", at, err)
		}
	}
}

// A provider's own authority is trusted for it, and for no other.
func TestOwnAuthority(t *testing.T) {
	s := newSite(t)
	var tls *httptest.Server
	tls = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.h.Config.Handler.ServeHTTP(w, r)
	}))
	defer tls.Close()
	own := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tls.Certificate().Raw}))
	plain := s.h.URL
	s.h.URL = tls.URL
	s.set("h", Config{})
	if _, err := s.u.Test(t.Context(), "h"); !errors.Is(err, ErrDown) {
		t.Fatalf("it is trusted: %v", err)
	}
	s.set("h", Config{CA: own})
	if who, err := s.come("h", nil); err != nil || who.Subject != "s1" {
		t.Fatalf("%+v %v", who, err)
	}
	again, err := New(t.Context(), s.u.o) // also after a start
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Test(t.Context(), "h"); err != nil {
		t.Fatal(err)
	}
	s.set("other", Config{})
	if _, err := s.u.Test(t.Context(), "other"); !errors.Is(err, ErrDown) {
		t.Fatalf("it is trusted for others: %v", err)
	}
	var bad *SettingsError
	if err := s.u.Set(t.Context(), "h", Config{Name: "H", Issuer: plain, ClientID: "me", CA: "no"}); !errors.As(err, &bad) {
		t.Fatal(err)
	}
}

// The secret stays while the provider is the same, and is sent to no other.
func TestSecretStays(t *testing.T) {
	s := newSite(t)
	secret := strings.Repeat("s", 40)
	s.set("h", Config{ClientSecret: secret})
	s.set("h", Config{Closed: true})
	if !s.provider("h").Secret || s.u.open["h"].c.ClientSecret != secret {
		t.Fatal("it is lost")
	}
	if s.provider("h").Config.ClientSecret != "" {
		t.Fatal("it is shown")
	}
	other := newHostile(t)
	s.h = other
	s.set("h", Config{})
	if s.provider("h").Secret {
		t.Fatal("another provider gets it")
	}
}

// What becomes of the people of a provider that is removed.
func TestRemovedPeople(t *testing.T) {
	s := newSite(t)
	var locked []string
	s.u.o.Lock = func(_ context.Context, id string, on bool) error { locked = append(locked, id); return nil }
	s.set("h", Config{})
	x, _ := s.signIn("h", nil)
	y, err := s.accounts.Create(t.Context(), account.NewUser{Localpart: "local", Password: "correct horse battery staple", Source: "cli"})
	if err != nil {
		t.Fatal(err)
	}
	who, err := s.come("h", map[string]any{"sub": "s2", "preferred_username": "local"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.u.Join(t.Context(), who, y); err != nil {
		t.Fatal(err)
	}
	if n, err := s.u.OnlyHere(t.Context(), "h"); err != nil || n != 1 || s.provider("h").People != 2 {
		t.Fatalf("%d %v", n, err)
	}
	var bad *SettingsError
	if _, err := s.u.Remove(t.Context(), "h", "burn"); !errors.As(err, &bad) {
		t.Fatal(err)
	}
	// It comes back: the same people.
	if n, err := s.u.Remove(t.Context(), "h", Keep); err != nil || n != 0 {
		t.Fatal(n, err)
	}
	if _, err := s.u.OnlyHere(t.Context(), "h"); !errors.Is(err, ErrNone) {
		t.Fatal(err)
	}
	s.set("h", Config{})
	if z, _ := s.signIn("h", nil); z.ID != x.ID {
		t.Fatal("she is somebody else")
	}
	if n, err := s.u.Remove(t.Context(), "h", Lock); err != nil || n != 1 || !slices.Equal(locked, []string{x.UserID}) {
		t.Fatal(n, err, locked)
	}
	// Nobody is joined any more: a name that exists must be proved.
	s.set("h", Config{})
	if who, err = s.come("h", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.u.Account(t.Context(), who); !errors.Is(err, ErrTaken) {
		t.Fatal(err)
	}
	// Another way in than a password counts as well.
	s.u.o.OtherWay = func(store.Querier, account.User) (bool, error) { return true, nil }
	if err := s.u.Join(t.Context(), who, x); err != nil {
		t.Fatal(err)
	}
	if n, err := s.u.Remove(t.Context(), "h", Unlink); err != nil || n != 0 || len(locked) != 1 {
		t.Fatal(n, err, locked)
	}
	s.set("h", Config{})
	if n := s.provider("h").People; n != 0 {
		t.Fatalf("%d are joined", n)
	}
}
