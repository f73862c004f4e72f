package upstream

import (
	"context"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/identity/account"
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
