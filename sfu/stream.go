package sfu

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// TURN over TCP and TLS has no listener of its own: the HTTPS port's connections that
// turn out to be TURN come in through ServeTURN. So it passes wherever web pages do.

// Limits of connections.
const (
	maxStreams      = 4096
	maxStreamsNew   = 512 // of which without an allocation
	maxStreamsEach  = 64  // without an allocation, from one address; many may share it
	streamOpening   = 30 * time.Second
	streamIdle      = 11 * time.Minute // an allocation is refreshed at least every ten
	streamWriteTime = 10 * time.Second
)

// StreamStats are the figures of TURN over TCP.
type StreamStats struct {
	Open     int   // connections
	Relayed  int   // allocations that stand, over UDP and over connections
	Accepted int64 // so far
	Refused  int64 // so far: too many at once, or the relay was not running
	Expired  int64 // so far: no allocation in time, or nothing came any more
}

var (
	streamsAccepted, streamsRefused, streamsExpired atomic.Int64
	streamsOpen                                     atomic.Int64
)

// StreamStats returns the figures of ServeTURN.
func (s *SFU) StreamStats() StreamStats {
	st := StreamStats{Open: int(streamsOpen.Load()), Accepted: streamsAccepted.Load(), Refused: streamsRefused.Load(), Expired: streamsExpired.Load()}
	if e, err := s.running(); err == nil {
		st.Relayed = e.origins.len()
	}
	return st
}

// ServeTURN takes over a connection on which a client speaks TURN, after TLS. Its
// addresses must be those of the client and of this machine, as *net.TCPAddr. It
// returns at once; the connection is closed in any case.
func (s *SFU) ServeTURN(conn net.Conn) {
	e, err := s.running()
	if err == nil {
		err = e.stream.give(conn)
	}
	if err != nil {
		streamsRefused.Add(1)
		conn.Close()
	}
}

var errStreams = errors.New("sfu: too many connections to TURN")

// streams are the connections of TURN. It is the net.Listener that they come from.
type streams struct {
	in   chan net.Conn
	done chan struct{}
	once sync.Once
	// only is an address of the one family in which TURN relays; nil: it does in both.
	only net.IP

	mu   sync.Mutex
	open map[string]*stream // by the client's address
	each map[netip.Addr]int // without an allocation
	new  int                // their sum
}

func newStreams() *streams {
	return &streams{in: make(chan net.Conn), done: make(chan struct{}), open: map[string]*stream{}, each: map[netip.Addr]int{}}
}

// source is what counts as one client.
func source(a net.Addr) (netip.Addr, bool) {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	ip := t.AddrPort().Addr().Unmap()
	if ip.Is6() { // a network has as many addresses as it likes
		p, err := ip.WithZone("").Prefix(64)
		if err != nil {
			return netip.Addr{}, false
		}
		ip = p.Addr()
	}
	return ip, true
}

func (l *streams) give(conn net.Conn) error {
	from, ok := source(conn.RemoteAddr())
	if _, local := source(conn.LocalAddr()); !ok || !local {
		return errOnlyUDP
	}
	s := &stream{Conn: conn, l: l, key: conn.RemoteAddr().String(), from: from, opened: time.Now()}
	l.mu.Lock()
	if l.open[s.key] != nil || len(l.open) >= maxStreams {
		l.mu.Unlock()
		return errStreams
	}
	// The next may be somebody who wants into a call: the one that waited longest gives
	// way, of the same address where that has too many.
	var old *stream
	if each := l.each[from] >= maxStreamsEach; each || l.new >= maxStreamsNew {
		for _, o := range l.open {
			if !o.allocated && (!each || o.from == from) && (old == nil || o.opened.Before(old.opened)) {
				old = o
			}
		}
		l.forget(old)
		streamsExpired.Add(1)
	}
	l.open[s.key] = s
	l.each[from]++
	l.new++
	l.mu.Unlock()
	if old != nil {
		old.Close()
	}
	streamsAccepted.Add(1)
	streamsOpen.Add(1)
	select {
	case l.in <- s:
		return nil
	case <-l.done:
		s.Close()
		return nil
	}
}

// allocated notes that a client's allocation was made, or ended.
func (l *streams) allocated(from net.Addr, is bool) {
	if _, ok := from.(*net.TCPAddr); !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.open[from.String()]
	if s == nil || s.allocated == is {
		return
	}
	s.allocated = is
	if is {
		l.settled(s)
		return
	}
	// It may make another one; until then it counts as new.
	s.opened = time.Now()
	l.each[s.from]++
	l.new++
	s.Conn.SetReadDeadline(s.opened.Add(streamOpening))
}

// settled takes a connection out of those without an allocation. l.mu is held.
func (l *streams) settled(s *stream) {
	l.new--
	if l.each[s.from]--; l.each[s.from] <= 0 {
		delete(l.each, s.from)
	}
}

func (l *streams) gone(s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(s)
	streamsOpen.Add(-1)
}

// forget takes a connection out of all lists. l.mu is held.
func (l *streams) forget(s *stream) {
	if l.open[s.key] == s {
		delete(l.open, s.key)
		if !s.allocated {
			l.settled(s)
		}
	}
}

// Accept implements net.Listener.
func (l *streams) Accept() (net.Conn, error) {
	select {
	case c := <-l.in:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener; it ends all connections, too.
func (l *streams) Close() error {
	l.once.Do(func() { close(l.done) })
	l.mu.Lock()
	var all []*stream
	for _, s := range l.open {
		all = append(all, s)
	}
	l.mu.Unlock()
	for _, s := range all {
		s.Close()
	}
	return nil
}

// Addr implements net.Listener.
func (l *streams) Addr() net.Addr { return &net.TCPAddr{} }

// stream is one connection, with its time limits.
type stream struct {
	net.Conn
	l    *streams
	key  string
	from netip.Addr
	once sync.Once

	opened    time.Time // l.mu
	allocated bool      // l.mu
}

// Read implements net.Conn.
func (s *stream) Read(b []byte) (int, error) {
	s.l.mu.Lock()
	end := s.opened.Add(streamOpening) // however slowly it sends
	if s.allocated {
		end = time.Now().Add(streamIdle)
	}
	s.Conn.SetReadDeadline(end)
	s.l.mu.Unlock()
	n, err := s.Conn.Read(b)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		streamsExpired.Add(1)
	}
	return n, err
}

// LocalAddr implements net.Conn. Its family is that of the client's relayed address,
// unless the client asks for one: who came by the other family is given the one there is.
func (s *stream) LocalAddr() net.Addr {
	at, ok := s.Conn.LocalAddr().(*net.TCPAddr)
	if !ok || s.l.only == nil || (at.IP.To4() == nil) == (s.l.only.To4() == nil) {
		return s.Conn.LocalAddr()
	}
	return &net.TCPAddr{IP: s.l.only, Port: at.Port}
}

// Write implements net.Conn. A client that takes nothing is not waited for: what is
// relayed to it meanwhile is dropped, as by a network.
func (s *stream) Write(b []byte) (int, error) {
	s.Conn.SetWriteDeadline(time.Now().Add(streamWriteTime))
	n, err := s.Conn.Write(b)
	if err != nil {
		s.Conn.Close() // half a frame may have been written
	}
	return n, err
}

// Close implements net.Conn. That the client was gone before TLS could say goodbye is
// no error: TURN would write it into the log.
func (s *stream) Close() error {
	s.once.Do(func() { s.l.gone(s) })
	s.Conn.Close()
	return nil
}
