package sfu

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/livekit/livekit-server/pkg/service"
	"github.com/pion/stun/v3"
	"github.com/pion/turn/v5"
)

// Calls of two people that clients set up by themselves (m.call.invite) use TURN
// without the call relay. Where neither reaches the other, both of them allocate
// here, and what one sends to the other's relayed address is handed over in memory.
// No packet of theirs leaves this machine but to the two, so that TURN is no way
// into the network behind it.

// Credentials let a user make allocations until they expire. What stands may be
// refreshed after that.
type Credentials struct {
	Username, Password string
	URIs               []string
	TTL                time.Duration
}

// turnTTL is how long credentials for calls without the call relay last.
const turnTTL = time.Hour

// TURN gives a user credentials of the built-in TURN server, at addresses that fit
// the way that the user's client came. Errors: ErrNotRunning.
func (s *SFU) TURN(user string, r Reach) (c Credentials, err error) {
	e, err := s.running()
	if err != nil {
		return c, err
	}
	c.URIs = e.turnURLs(r, true, false)
	c.TTL = turnTTL
	c.Username = strconv.FormatInt(time.Now().Add(turnTTL).Unix(), 10) + ":" + user
	c.Password = turnPassword(s.secret, c.Username)
	return c, nil
}

// turnPassword is that of the usual scheme for TURN servers that share a secret
// with whoever gives out credentials (draft-uberti-behave-turn-rest).
func turnPassword(secret, username string) string {
	m := hmac.New(sha1.New, []byte("turn|"+secret))
	m.Write([]byte(username))
	return base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// userOf marks the users of TURN who are no participants of the call relay.
const userOf = "user:"

// authenticate is turn.AuthHandler: callers by their own credentials, all others,
// whose names hold no colon, by participant.
func (s *SFU) authenticate(participant turn.AuthHandler) turn.AuthHandler {
	return func(ra *turn.RequestAttributes) (string, []byte, bool) {
		expires, user, ok := strings.Cut(ra.Username, ":")
		if !ok {
			return participant(ra)
		}
		until, err := strconv.ParseInt(expires, 10, 64)
		if err != nil || user == "" || ra.Method == stun.MethodAllocate && time.Now().Unix() > until {
			return "", nil, false
		}
		return userOf + user, turn.GenerateAuthKey(ra.Username, service.LivekitRealm, turnPassword(s.secret, ra.Username)), true
	}
}

// exchange hands packets over between callers. Relayed ports are numbers here and
// no sockets: nothing else can send to them.
type exchange struct {
	mu    sync.Mutex
	lines map[int]*line // by port
}

// line is a caller's relayed address. It is a net.PacketConn.
type line struct {
	x    *exchange
	addr *net.UDPAddr
	in   chan packet
	done chan struct{}
	once sync.Once
}

type packet struct {
	data []byte
	from net.Addr
}

const (
	firstPort = 49152
	lastPort  = 65535
	maxQueue  = 32   // packets that wait for a caller; more are dropped, as by a network
	maxPacket = 1600 // bytes
)

var errNoPort = errors.New("sfu: TURN has no port left")

func (x *exchange) open(ip net.IP) (*line, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.lines == nil {
		x.lines = map[int]*line{}
	}
	n, err := rand.Int(rand.Reader, big.NewInt(lastPort-firstPort+1))
	if err != nil {
		return nil, fmt.Errorf("sfu: %w", err)
	}
	for i := range int64(lastPort - firstPort + 1) {
		port := firstPort + int((n.Int64()+i)%(lastPort-firstPort+1))
		if x.lines[port] != nil {
			continue
		}
		l := &line{x: x, addr: &net.UDPAddr{IP: ip, Port: port}, in: make(chan packet, maxQueue), done: make(chan struct{})}
		x.lines[port] = l
		return l, nil
	}
	return nil, errNoPort
}

// ReadFrom waits for what another caller sent.
func (l *line) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case p := <-l.in:
		return copy(b, p.data), p.from, nil
	case <-l.done:
		return 0, nil, net.ErrClosed
	}
}

// WriteTo hands a packet to the caller whose relayed address it is, and drops it
// where there is none.
func (l *line) WriteTo(b []byte, to net.Addr) (int, error) {
	u, ok := to.(*net.UDPAddr)
	if !ok || len(b) > maxPacket {
		return len(b), nil
	}
	l.x.mu.Lock()
	other := l.x.lines[u.Port]
	l.x.mu.Unlock()
	if other == nil || !other.addr.IP.Equal(u.IP) {
		return len(b), nil
	}
	select {
	case other.in <- packet{slices.Clone(b), l.addr}:
	default:
	}
	return len(b), nil
}

// Close gives the port back.
func (l *line) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.x.mu.Lock()
		delete(l.x.lines, l.addr.Port)
		l.x.mu.Unlock()
	})
	return nil
}

// LocalAddr is the relayed address.
func (l *line) LocalAddr() net.Addr { return l.addr }

// SetDeadline and its like are not supported: TURN closes a relayed address instead.
func (l *line) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (l *line) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (l *line) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
