package appliance

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The HTTPS port tells TURN from HTTP, with TLS and without, whatever protocol the
// client names in the handshake.
func TestSniffer(t *testing.T) {
	ts := httptest.NewUnstartedServer(nil)
	ts.StartTLS()
	cert := ts.TLS.Certificates
	ts.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conf := &tls.Config{Certificates: cert, NextProtos: []string{"h2", "http/1.1"}}
	srv := &http.Server{TLSConfig: conf, ConnContext: tlsContext, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, named := r.Context().Value(tlsKey{}).(*tls.ConnectionState)
		if r.TLS == nil && !named {
			t.Error("HTTPS looks like HTTP")
		}
		io.WriteString(w, r.Proto)
	})}
	go srv.Serve(newSniffer(ln, conf, func(c net.Conn) {
		b := make([]byte, 4)
		io.ReadFull(c, b)
		c.Write(append([]byte("turn"), b...))
		c.Close()
	}))
	defer srv.Close()
	const get, stun = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "\x00\x03\x00\x00"
	for _, c := range []struct {
		name, send, want string
		tls              bool
		alpn             []string
	}{
		{"HTTP, no protocol named", get, "HTTP/1.1 200 OK", true, nil},
		{"HTTP/1.1", get, "HTTP/1.1 200 OK", true, []string{"http/1.1"}},
		{"TURN over TLS", stun, "turn" + stun, true, nil},
		{"TURN over TLS, named", stun, "turn" + stun, true, []string{"stun.turn"}},
		{"TURN over TCP", stun, "turn" + stun, false, nil},
		{"HTTP on the HTTPS port", get, "HTTP/1.0 400 Bad Request", false, nil},
	} {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if c.tls {
			conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: c.alpn})
		}
		io.WriteString(conn, c.send)
		if got, _ := io.ReadAll(conn); !strings.HasPrefix(string(got), c.want) {
			t.Errorf("%s: %.100q", c.name, got)
		}
		conn.Close()
	}
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Get("https://" + ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 {
		t.Errorf("HTTP/%d", resp.ProtoMajor)
	}
	client.CloseIdleConnections()
}
