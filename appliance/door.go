package appliance

import (
	lists "container/list"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Limits of a port. A connection is half-open until the headers of its first request
// have come, or it turned out to be one of TURN, which has limits of its own. Honest
// ones are for some milliseconds; many people may come from one address.
const (
	maxOpening     = 4096 // half-open
	maxOpeningEach = 256  // of which from one address
	maxOpenEach    = 8192 // from one address, except this machine's own, where a proxy is
)

// door is a port that cannot be filled with connections on which nothing comes, or
// little by little. Where there are too many half-open ones from one address, or in all,
// the oldest gives way: the next that comes may be honest, and whoever waited longest is
// least likely to be.
type door struct {
	net.Listener
	opening, openingEach, openEach int

	mu      sync.Mutex
	waiting *lists.List // of *knock: half-open, the oldest first
	from    map[netip.Addr]*callers
	dropped atomic.Int64
}

// callers counts the connections from one address.
type callers struct{ open, opening int }

// knock is a connection that came to a door.
type knock struct {
	net.Conn
	d    *door
	from netip.Addr

	at   *lists.Element // in d.waiting; nil: settled. d.mu
	gone bool           // d.mu
}

func newDoor(ln net.Listener) *door {
	return &door{Listener: ln, opening: maxOpening, openingEach: maxOpeningEach, openEach: maxOpenEach, waiting: lists.New(), from: map[netip.Addr]*callers{}}
}

// callerOf is what counts as one address: a network has as many of IPv6 as it likes.
func callerOf(a net.Addr) netip.Addr {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	ip := t.AddrPort().Addr().Unmap().WithZone("")
	if ip.Is6() && !ip.IsLoopback() {
		if p, err := ip.Prefix(64); err == nil {
			ip = p.Addr()
		}
	}
	return ip
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		k := &knock{Conn: c, d: d, from: callerOf(c.RemoteAddr())}
		old, ok := d.enter(k)
		if old != nil {
			old.Close()
		}
		if ok {
			return k, nil
		}
		c.Close()
	}
}

// enter counts a connection, and returns the one that gives way to it, if one has to.
func (d *door) enter(k *knock) (old *knock, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.from[k.from]
	if n == nil {
		n = &callers{}
		d.from[k.from] = n
	}
	if n.open >= d.openEach && !k.from.IsLoopback() {
		d.dropped.Add(1)
		return nil, false
	}
	if each := n.opening >= d.openingEach; each || d.waiting.Len() >= d.opening {
		for e := d.waiting.Front(); e != nil; e = e.Next() {
			if o := e.Value.(*knock); !each || o.from == k.from {
				old = o
				break
			}
		}
		d.settle(old)
		d.dropped.Add(1)
	}
	n.open++
	n.opening++
	k.at = d.waiting.PushBack(k)
	return old, true
}

// settle takes a connection out of the half-open ones. d.mu is held.
func (d *door) settle(k *knock) {
	if k.at != nil {
		d.waiting.Remove(k.at)
		k.at = nil
		d.from[k.from].opening--
	}
}

// settled says that a connection is not half-open any more.
func settled(c net.Conn) {
	for {
		switch x := c.(type) {
		case *knock:
			x.d.mu.Lock()
			x.d.settle(x)
			x.d.mu.Unlock()
			return
		case *tls.Conn:
			c = x.NetConn()
		case *begun:
			c = x.Conn
		case *begunTLS:
			c = x.Conn
		default:
			return
		}
	}
}

// settledHTTP is an http.Server's ConnState: a connection is new until the headers of a
// request, or what HTTP/2 begins with, have come.
func settledHTTP(c net.Conn, s http.ConnState) {
	if s != http.StateNew {
		settled(c)
	}
}

// Close implements net.Conn.
func (k *knock) Close() error {
	k.d.mu.Lock()
	k.d.settle(k)
	if !k.gone {
		k.gone = true
		n := k.d.from[k.from]
		if n.open--; n.open == 0 {
			delete(k.d.from, k.from)
		}
	}
	k.d.mu.Unlock()
	return k.Conn.Close()
}

// ReadFrom implements io.ReaderFrom: files go out without a copy.
func (k *knock) ReadFrom(r io.Reader) (int64, error) { return io.Copy(k.Conn, r) }
