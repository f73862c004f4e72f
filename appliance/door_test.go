package appliance

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// Connections on which nothing comes, or half of what should, from one address: there are
// never more than may be, others from elsewhere and from the same address are answered,
// and those that are in use stay.
func TestDoor(t *testing.T) {
	ts := httptest.NewUnstartedServer(nil)
	ts.StartTLS()
	cert := ts.TLS.Certificates
	ts.Close()
	const each, all = 8, 20
	tlsOf := func(c net.Conn, alpn ...string) *tls.Conn {
		return tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: alpn})
	}
	for _, kind := range []struct {
		name  string
		begin func(net.Conn) error
	}{
		{"nothing at all", func(net.Conn) error { return nil }},
		{"half a handshake", func(c net.Conn) error { _, err := c.Write([]byte{22, 3, 1, 2, 0, 1}); return err }},
		{"a handshake", func(c net.Conn) error { return tlsOf(c).Handshake() }},
		{"a handshake of HTTP/2", func(c net.Conn) error { return tlsOf(c, "h2").Handshake() }},
		{"half a request for signalling", func(c net.Conn) error {
			_, err := io.WriteString(tlsOf(c, "http/1.1"), "GET /livekit/sfu/rtc HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nX-A: ")
			return err
		}},
		{"the same, no protocol named", func(c net.Conn) error {
			_, err := io.WriteString(tlsOf(c), "GET /livekit/sfu/rtc HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nX-A: ")
			return err
		}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			conf := &tls.Config{Certificates: cert, NextProtos: []string{"h2", "http/1.1"}}
			d := newDoor(ln)
			d.openingEach, d.opening = each, all
			hold := make(chan struct{})
			srv := &http.Server{TLSConfig: conf, ConnContext: tlsContext, ConnState: settledHTTP, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					http.NewResponseController(w).Flush()
					<-hold
				}
				io.WriteString(w, "fine")
			})}
			go srv.Serve(newSniffer(d, conf, func(c net.Conn) { settled(c); c.Close() }))
			defer srv.Close()
			knocks := func(from string) net.Conn {
				t.Helper()
				c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", ln.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				return c
			}
			asks := func(from, path string) *bufio.Reader {
				t.Helper()
				c := tlsOf(knocks(from), "http/1.1")
				c.SetDeadline(time.Now().Add(time.Minute))
				if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
					t.Fatalf("%s: %v", from, err)
				}
				r := bufio.NewReader(c)
				if line, err := r.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 200") {
					t.Fatalf("%s: %q %v", from, line, err)
				}
				return r
			}
			working := asks("127.0.0.2", "/slow")
			gone := func(c net.Conn) {
				t.Helper()
				c.SetReadDeadline(time.Now().Add(time.Minute))
				_, err := io.Copy(io.Discard, c)
				if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
					t.Fatal("a connection that should have given way stands")
				}
			}
			count := func(from string) callers {
				d.mu.Lock()
				defer d.mu.Unlock()
				if n := d.from[netip.MustParseAddr(from)]; n != nil {
					return *n
				}
				return callers{}
			}
			var conns []net.Conn
			for range 3 * each {
				c := knocks("127.0.0.2")
				conns = append(conns, c)
				if err := kind.begin(c); err != nil {
					t.Fatal(err)
				}
			}
			for _, c := range conns[:2*each] {
				gone(c)
			}
			if n := count("127.0.0.2"); n.opening != each {
				t.Errorf("%+v, want %d half-open", n, each)
			}
			asks("127.0.0.3", "/")
			asks("127.0.0.2", "/") // one more of them had to give way
			gone(conns[2*each])
			// From many addresses: no more than may be in all.
			for _, from := range []string{"127.0.0.4", "127.0.0.5", "127.0.0.6"} {
				for range each {
					if err := kind.begin(knocks(from)); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, c := range conns {
				gone(c)
			}
			d.mu.Lock()
			if n := d.waiting.Len(); n > all {
				t.Errorf("%d half-open, want %d", n, all)
			}
			d.mu.Unlock()
			asks("127.0.0.3", "/")
			close(hold)
			if b, err := io.ReadAll(working); err != nil || !strings.Contains(string(b), "fine") {
				t.Errorf("a request that was being answered: %q %v", b, err)
			}
		})
	}
}

// From one address there are only so many connections, in use or not; this machine's own,
// where a proxy may be, is not counted so.
func TestDoorOpen(t *testing.T) {
	d := newDoor(nil)
	d.openEach = 3
	enter := func(from string) (*knock, bool) {
		here, there := net.Pipe()
		t.Cleanup(func() { here.Close(); there.Close() })
		k := &knock{Conn: here, d: d, from: callerOf(&net.TCPAddr{IP: net.ParseIP(from)})}
		_, ok := d.enter(k)
		settled(k)
		return k, ok
	}
	for _, from := range []string{"192.0.2.1", "2001:db8::1"} {
		var last *knock
		for range 3 {
			k, ok := enter(from)
			if !ok {
				t.Fatalf("%s is not let in", from)
			}
			last = k
		}
		again := strings.Replace(from, "::1", "::2", 1) // the same network
		if _, ok := enter(again); ok {
			t.Errorf("%s has more than it may", again)
		}
		last.Close()
		last.Close()
		if _, ok := enter(again); !ok {
			t.Errorf("%s is refused though one has gone", again)
		}
	}
	for range 10 {
		if _, ok := enter("127.0.0.1"); !ok {
			t.Error("a proxy on this machine is refused")
		}
	}
	if n := d.dropped.Load(); n != 2 {
		t.Errorf("%d were dropped, want 2", n)
	}
}
