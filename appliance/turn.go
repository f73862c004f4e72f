package appliance

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"holdfast/sfu"
)

// sniffer is the HTTPS port: it tells TURN from HTTP, by what comes after the TLS
// handshake or, without TLS, instead of it. Clients of TURN name no protocol in the
// handshake (RFC 7443 has a name for it, which browsers do not send). The first byte
// does: a STUN message begins with two zero bits, an HTTP request with a letter.
//
// Connections of HTTP are given to http.Server as *tls.Conn, so that HTTP/2 works,
// except those that were looked into.
type sniffer struct {
	net.Listener
	conf  *tls.Config
	turn  func(net.Conn)
	conns chan net.Conn
	fail  chan error
	done  chan struct{}
	once  sync.Once

	mu      sync.Mutex
	pending map[net.Conn]bool
}

const alpnTURN = "stun.turn" // RFC 7443

func newSniffer(ln net.Listener, conf *tls.Config, turn func(net.Conn)) *sniffer {
	conf = conf.Clone()
	conf.NextProtos = append(conf.NextProtos[:len(conf.NextProtos):len(conf.NextProtos)], alpnTURN)
	s := &sniffer{Listener: ln, conf: conf, turn: turn, conns: make(chan net.Conn), fail: make(chan error, 1), done: make(chan struct{}), pending: map[net.Conn]bool{}}
	go s.run()
	return s
}

func (s *sniffer) run() {
	for {
		c, err := s.Listener.Accept()
		if err != nil {
			if ne, ok := err.(net.Error); ok && ne.Temporary() { // as net/http does: too many files are open
				select {
				case <-time.After(100 * time.Millisecond):
					continue
				case <-s.done:
				}
			}
			s.fail <- err
			return
		}
		s.mu.Lock()
		s.pending[c] = true
		s.mu.Unlock()
		go func() {
			s.sort(c)
			s.mu.Lock()
			delete(s.pending, c)
			s.mu.Unlock()
		}()
	}
}

// isSTUN reports whether a connection that begins with b carries STUN messages.
func isSTUN(b byte) bool { return b < 2 } // the messages of TURN begin with 0 or 1

// sort finds out what a connection is for, within the time that a request's headers have.
func (s *sniffer) sort(raw net.Conn) {
	raw.SetDeadline(time.Now().Add(headerTime))
	first := make([]byte, 1)
	if _, err := raw.Read(first); err != nil {
		raw.Close()
		return
	}
	c := &begun{Conn: raw, first: first}
	if isSTUN(first[0]) {
		raw.SetDeadline(time.Time{})
		s.turn(c)
		return
	}
	t := tls.Server(c, s.conf)
	const handshake = 22 // the type of TLS' first record
	if first[0] != handshake {
		s.give(raw, t) // http.Server has an answer to those who speak HTTP here
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), headerTime)
	err := t.HandshakeContext(ctx)
	cancel()
	proto := t.ConnectionState().NegotiatedProtocol
	switch {
	case err != nil || proto != "" && proto != alpnTURN:
		s.give(raw, t) // where it failed, http.Server notes it
		return
	case proto == "":
		if _, err := t.Read(first); err != nil {
			raw.Close()
			return
		}
		in := &begunTLS{begun: begun{Conn: t, first: first}, state: t.ConnectionState()}
		if !isSTUN(first[0]) {
			s.give(raw, in)
			return
		}
		raw.SetDeadline(time.Time{})
		s.turn(in)
		return
	}
	raw.SetDeadline(time.Time{})
	s.turn(t)
}

func (s *sniffer) give(raw, c net.Conn) {
	raw.SetDeadline(time.Time{})
	select {
	case s.conns <- c:
	case <-s.done:
		raw.Close()
	}
}

// Accept implements net.Listener.
func (s *sniffer) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case err := <-s.fail:
		s.fail <- err
		return nil, err
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (s *sniffer) Close() error {
	s.once.Do(func() { close(s.done) })
	s.mu.Lock()
	for c := range s.pending {
		c.SetDeadline(time.Now())
	}
	s.mu.Unlock()
	return s.Listener.Close()
}

// begun is a connection of which the first byte was read.
type begun struct {
	net.Conn
	first []byte
}

// Read implements net.Conn.
func (b *begun) Read(p []byte) (int, error) {
	if len(b.first) > 0 && len(p) > 0 {
		n := copy(p, b.first)
		b.first = b.first[n:]
		return n, nil
	}
	return b.Conn.Read(p)
}

// begunTLS is one of HTTPS. http.Server does not see that it is.
type begunTLS struct {
	begun
	state tls.ConnectionState
}

type tlsKey struct{}

func tlsContext(ctx context.Context, c net.Conn) context.Context {
	if b, ok := c.(*begunTLS); ok {
		ctx = context.WithValue(ctx, tlsKey{}, &b.state)
	}
	return ctx
}

// serveTURN gives a connection to the call relay.
func (a *Appliance) serveTURN(c net.Conn) {
	settled(c)
	a.sfu.ServeTURN(c)
}

// reach is how the sender of a request came here. Behind a reverse proxy only the
// name is known, and TURN is not offered at the HTTPS port, which is the proxy's.
func (a *Appliance) reach(r *http.Request) sfu.Reach {
	var out sfu.Reach
	u, err := url.Parse(a.origin(r))
	if err != nil {
		return out
	}
	out.Name = u.Hostname()
	l, _ := r.Context().Value(listenerKey{}).(*listener)
	if l == nil || l.name != "https" || proxied(r) {
		return out
	}
	if u.Scheme == "https" {
		port := u.Port()
		if port == "" {
			port = "443"
		}
		out.HTTPS = net.JoinHostPort(u.Hostname(), port)
	}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if ap, err := netip.ParseAddrPort(local.String()); err == nil && !ap.Addr().Unmap().IsLoopback() {
			out.Local = ap.Addr().Unmap().WithZone("")
		}
	}
	return out
}
