package federation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// other is another Matrix server, with a certificate for names of its own.
func other(t *testing.T, h http.HandlerFunc) (address string, roots *x509.CertPool, asked *atomic.Int64) {
	t.Helper()
	asked = &atomic.Int64{}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		h(w, r)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	roots = x509.NewCertPool()
	roots.AddCert(srv.Certificate()) // for example.com and 127.0.0.1
	return srv.Listener.Addr().String(), roots, asked
}

// through connects to addresses of a table, and to no others.
func through(table map[string]string) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{}, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		to, ok := table[address]
		if !ok {
			return nil, fmt.Errorf("nothing is at %s", address)
		}
		return (&net.Dialer{}).DialContext(ctx, network, to)
	}}}
}

// A server is believed about its own users, and what it answers is bounded.
func TestUserinfoElsewhere(t *testing.T) {
	var answer http.HandlerFunc
	address, roots, asked := other(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/_matrix/federation/v1/openid/userinfo" || r.URL.Query().Get("access_token") != "a+b/c" {
			t.Errorf("%s", r.URL)
		}
		answer(w, r)
	})
	say := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status); fmt.Fprint(w, body) }
	}
	c := NewClient([]string{address}, nil, roots)
	for _, x := range []struct {
		name   string
		answer http.HandlerFunc
		user   string
		err    error
	}{
		{"its user", say(200, `{"sub":"@anna:`+address+`"}`), "@anna:" + address, nil},
		{"unknown token", say(401, `{"errcode":"M_UNKNOWN_TOKEN"}`), "", ErrUnknownThere},
		{"another server's user", say(200, `{"sub":"@anna:example.org"}`), "", ErrNoAnswer},
		{"no user", say(200, `{"sub":"anna"}`), "", ErrNoAnswer},
		{"no JSON", say(200, `<html>`), "", ErrNoAnswer},
		{"trouble", say(500, ``), "", ErrNoAnswer},
		{"too long", say(200, `{"sub":"@anna:`+address+`","x":"`+strings.Repeat("x", maxAnswer)+`"}`), "", ErrNoAnswer},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://example.com/", http.StatusFound)
		}, "", ErrNoAnswer},
	} {
		answer = x.answer
		user, err := c.Userinfo(t.Context(), address, "a+b/c")
		if user != x.user || !errors.Is(err, x.err) {
			t.Errorf("%s: %q %v", x.name, user, err)
		}
		if err != nil && strings.Contains(err.Error(), "a%2Bb") {
			t.Errorf("%s: the token is in the error: %v", x.name, err)
		}
	}
	answer = func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Userinfo(ctx, address, "a+b/c"); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("no answer in time: %v", err)
	}
	before := asked.Load()
	if _, err := NewClient([]string{"elsewhere.example"}, nil, roots).Userinfo(t.Context(), address, "x"); !errors.Is(err, ErrNoAnswer) || asked.Load() != before {
		t.Errorf("a server that is not in the list was asked: %v", err)
	}
	if _, err := NewClient([]string{address}, nil, x509.NewCertPool()).Userinfo(t.Context(), address, "a+b/c"); !errors.Is(err, ErrNoAnswer) || asked.Load() != before {
		t.Errorf("a certificate of an unknown authority is taken: %v", err)
	}
}

// Where a server is asked is found as the specification has it.
func TestFindsServers(t *testing.T) {
	wellKnown := `{"m.server":"example.com:4711"}`
	var hosts []string
	address, roots, _ := other(t, func(w http.ResponseWriter, r *http.Request) {
		hosts = append(hosts, r.Host)
		if r.URL.Path == "/.well-known/matrix/server" {
			fmt.Fprint(w, wellKnown)
			return
		}
		fmt.Fprintf(w, `{"sub":"@anna:%s"}`, r.Header.Get("X-Never")+"example.com")
	})
	ask := func(table map[string]string) error {
		hosts = nil
		_, err := NewClient([]string{"example.com"}, through(table), roots).Userinfo(t.Context(), "example.com", "x")
		return err
	}
	if err := ask(map[string]string{"example.com:443": address, "example.com:4711": address}); err != nil || len(hosts) != 2 || hosts[1] != "example.com:4711" {
		t.Errorf("delegated: %v %v", hosts, err)
	}
	wellKnown = `{"m.server":"no name at all"}`
	if err := ask(map[string]string{"example.com:443": address, "example.com:8448": address}); err != nil || len(hosts) != 2 || hosts[1] != "example.com" {
		t.Errorf("a damaged well-known file: %v %v", hosts, err)
	}
	if err := ask(map[string]string{"example.com:8448": address}); err != nil || len(hosts) != 1 {
		t.Errorf("port 8448: %v %v", hosts, err)
	}
	if err := ask(nil); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("nowhere: %v", err)
	}
}
