package identity

import (
	"context"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/store"
)

// FuzzAssertion reads what an application sends to prove itself.
func FuzzAssertion(f *testing.F) {
	f.Add("eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.AAAA", []byte(`{"iss":"a","sub":"a","aud":["x",1,null],"exp":1e300,"jti":"1"}`))
	f.Add("a.b.c", []byte(`{"aud":"x","exp":-1,"nbf":99999999999999}`))
	f.Add(strings.Repeat("A", maxAssertion+1), []byte(`[]`))
	f.Fuzz(func(t *testing.T, raw string, body []byte) {
		if sub := assertionSubject(raw); sub != "" && (len(raw) > maxAssertion || strings.Count(raw, ".") != 2) {
			t.Fatalf("%q is of %q", raw, sub)
		}
		a, aud, err := parseAssertion(body)
		if err == nil && (a.Exp > maxTime || a.Nbf > maxTime || slices.Contains(aud, "") && !strings.Contains(string(body), `""`)) {
			t.Fatalf("%q gives %+v for %q", body, a, aud)
		}
	})
}

// FuzzEndSession asks for logouts: nobody is ever led to an address that the application
// did not register.
func FuzzEndSession(f *testing.F) {
	db, err := store.Open(context.Background(), filepath.Join(f.TempDir(), "f.db"), store.Options{})
	if err != nil {
		f.Fatal(err)
	}
	const origin, bye = "https://chat.example.org", "https://wiki.example.org/bye?x=1"
	s, err := New(context.Background(), Options{ServerName: "example.org", PublicURL: origin, DB: db})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close(); db.Close() })
	c, err := AppTemplate("generic", "Wiki", "")
	if err != nil {
		f.Fatal(err)
	}
	c.RedirectURIs, c.LogoutURIs = []string{"https://wiki.example.org/cb"}, []string{bye}
	a, _, err := s.CreateApp(context.Background(), c, "")
	if err != nil {
		f.Fatal(err)
	}
	h := s.Handler()
	for _, q := range []string{"client_id=APP&post_logout_redirect_uri=https%3A%2F%2Fwiki.example.org%2Fbye%3Fx%3D1&state=a%0d%0ab", "client_id=APP&post_logout_redirect_uri=//evil.test",
		"id_token_hint=eyJhbGciOiJub25lIn0.eyJhdWQiOiJBUFAifQ.&client_id=APP", "ui_locales=de%20%00&client_id=APP&client_id=APP", "%zz", "post_logout_redirect_uri=x"} {
		f.Add(q, false)
		f.Add(q, true)
	}
	f.Fuzz(func(t *testing.T, q string, post bool) {
		q = strings.ReplaceAll(q, "APP", a.ID)
		r := httptest.NewRequest("GET", origin+"/oauth2/end_session", nil)
		r.URL.RawQuery = q
		if post {
			r = httptest.NewRequest("POST", origin+"/oauth2/end_session", strings.NewReader(q))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		to := w.Header().Get("Location")
		switch w.Code {
		case 200, 400:
			if to != "" {
				t.Fatalf("%d with the address %q", w.Code, to)
			}
		case 303:
			if to != bye && !strings.HasPrefix(to, "https://wiki.example.org/bye?state=") || strings.ContainsAny(to, "\r\n") {
				t.Fatalf("%q leads to %q", q, to)
			}
		default:
			t.Fatalf("%q: %d", q, w.Code)
		}
	})
}
