package sfu

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// site serves a relay over TLS, with TURN at the same port, as the appliance does; front
// stands before the relay.
func site(t *testing.T, s *SFU, front func(http.Handler) http.Handler) string {
	t.Helper()
	var at string
	relay := http.StripPrefix("/livekit/sfu", s.Handler())
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		relay.ServeHTTP(w, r.WithContext(WithReach(r.Context(), Reach{HTTPS: at})))
	})
	if front != nil {
		h = front(h)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	turn, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: srv.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { turn.Close() })
	go func() {
		for {
			c, err := turn.Accept()
			if err != nil {
				return
			}
			s.ServeTURN(c)
		}
	}()
	at = turn.Addr().String()
	return "wss://" + srv.Listener.Addr().String() + "/livekit/sfu"
}

func said(hops []Hop) string {
	var b strings.Builder
	for _, h := range hops {
		fmt.Fprintf(&b, "%s %v %s %q %v\n", h.Name, h.OK, h.Fault, h.Detail, h.Took.Round(time.Millisecond))
	}
	return b.String()
}

// faults is what Hops found, by hop.
func faults(hops []Hop) map[string]Fault {
	out := map[string]Fault{}
	for _, h := range hops {
		if out[h.Name] = h.Fault; h.OK != (h.Fault == "") {
			out[h.Name] = "neither"
		}
	}
	return out
}

// What keeps clients from signalling, or from TURN at the HTTPS port, is named; all the
// rest works meanwhile.
func TestHops(t *testing.T) {
	s, plain := begin(t, Options{})
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	deaf, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deaf.Close() })
	good := site(t, s, nil)
	for _, c := range []struct {
		name              string
		trial             Trial
		signalling, https Fault
	}{
		{"all is well", Trial{URL: good}, "", ""},
		{"without TLS", Trial{URL: plain}, "", FaultOff},
		{"nobody listens", Trial{URL: "wss://" + free.Addr().String()}, FaultRefused, FaultDepends},
		{"no answer", Trial{URL: "wss://" + deaf.Addr().String()}, FaultTimeout, FaultDepends},
		{"a name that is not known", Trial{URL: "wss://holdfast.invalid/livekit/sfu"}, FaultName, FaultDepends},
		{"a certificate of another name", Trial{URL: "wss://other.test/livekit/sfu", Dial: []string{strings.TrimSuffix(strings.TrimPrefix(good, "wss://"), "/livekit/sfu")}}, FaultCertificate, FaultDepends},
		{"a proxy that knows no websockets", Trial{URL: site(t, s, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Header.Del("Upgrade")
				r.Header.Del("Connection")
				h.ServeHTTP(w, r)
			})
		})}, FaultProxy, FaultDepends},
		{"a proxy with nothing behind", Trial{URL: site(t, s, func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
		})}, FaultGateway, FaultDepends},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			hops := s.Hops(t.Context(), c.trial)
			got := faults(hops)
			for name, want := range map[string]Fault{HopSignalling: c.signalling, HopHTTPS: c.https, HopUDP: "", HopTCP: "", HopTURN: ""} {
				if got[name] != want {
					t.Errorf("%s: %q, want %q", name, got[name], want)
				}
			}
			if t.Failed() {
				t.Log(said(hops))
			}
		})
	}
}

// Media ports that are closed are named, and what cannot be told because of them is not
// judged; a wrong address is told from a closed port.
func TestHopsOfMedia(t *testing.T) {
	closed, _ := begin(t, Options{tcpOnly: true})
	wrong, _ := begin(t, Options{NodeIP: "203.0.113.7,2001:db8::7", UDPPort: AnyPort, TCPPort: AnyPort, TURNPort: AnyPort})
	stopped, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		s    *SFU
		want map[string]Fault
	}{
		{"without UDP", closed, map[string]Fault{HopSignalling: "", HopUDP: FaultClosed, HopTCP: "", HopTURN: FaultDepends, HopHTTPS: FaultDepends}},
		{"a wrong address", wrong, map[string]Fault{HopSignalling: "", HopUDP: FaultAddress, HopTCP: FaultAddress, HopTURN: FaultClosed, HopHTTPS: ""}},
		{"no relay", stopped, map[string]Fault{HopSignalling: FaultStart, HopUDP: FaultStart, HopTCP: FaultStart, HopTURN: FaultStart, HopHTTPS: FaultDepends}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			hops := c.s.Hops(t.Context(), Trial{URL: site(t, c.s, nil)})
			got := faults(hops)
			for name, want := range c.want {
				if got[name] != want {
					t.Errorf("%s: %q, want %q", name, got[name], want)
				}
			}
			if t.Failed() {
				t.Log(said(hops))
			}
		})
	}
}

// Errors of connections that no test can bring about everywhere.
func TestFaultOf(t *testing.T) {
	for want, err := range map[Fault]error{
		FaultGateway: &refusal{504}, FaultProxy: fmt.Errorf("x: %w", &refusal{200}), FaultName: &net.DNSError{}, FaultOther: errors.New("x"),
	} {
		if got := faultOf(err); got != want {
			t.Errorf("%v is %q, want %q", err, got, want)
		}
	}
}
