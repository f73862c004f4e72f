package sfu

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/livekit/livekit-server/pkg/service"
	"github.com/livekit/protocol/logger"
	"github.com/livekit/protocol/logger/pionlogger"
	"github.com/pion/turn/v5"
)

// startTURN serves TURN over UDP at each of the addresses, and over the connections
// that ServeTURN is given. Clients use it as their STUN server too.
// Credentials are those that LiveKit gives to each participant: they last five
// minutes for new allocations. What comes in is relayed to this relay's own media
// port only, so that nobody can reach the network behind it. Those that SFU.TURN
// gives are for calls without the relay, whose packets go to each other only.
func (e *engine) startTURN(check turn.AuthHandler) error {
	conf, own := e.conf, e.own
	e.stream = newStreams()
	calls := &exchange{}
	open := &allocations{of: map[string]int{}}
	sc := turn.ServerConfig{
		QuotaHandler: func(participant, _ string, _ net.Addr) bool { return open.room(participant) },
		EventHandler: turn.EventHandler{
			OnAllocationCreated: func(from, _ net.Addr, _, participant, _ string, relayed net.Addr, _ int) {
				open.add(participant, 1)
				e.origins.add(from, relayed)
				e.stream.allocated(from, true)
			},
			OnAllocationDeleted: func(from, _ net.Addr, _, participant, _ string) {
				open.add(participant, -1)
				e.origins.remove(from)
				e.stream.allocated(from, false)
			},
		},
		Realm:         service.LivekitRealm,
		AuthHandler:   check,
		LoggerFactory: pionlogger.NewLoggerFactory(logger.GetLogger()),
	}
	permit := func(_ net.Addr, peer net.IP) bool { return own[peer.String()] }
	listens := map[string]bool{}
	// One socket for everything in a family where an address is not the machine's, as
	// behind NAT: it and another one for a single address would take each other's port.
	outside := map[string]bool{}
	for _, ip := range e.addr.all {
		if !isLocal(ip) {
			outside[family(ip)] = true
		}
	}
	relays := familyRelays{}
	for _, ip := range e.addr.all {
		network, bind := family(ip), ip
		if outside[network] {
			bind = map[string]string{"udp4": "0.0.0.0", "udp6": "::"}[network]
		}
		if listens[bind] {
			continue
		}
		pc, err := listenSettled(network, net.JoinHostPort(bind, strconv.Itoa(conf.TURN.UDPPort)))
		if errors.Is(err, syscall.EADDRNOTAVAIL) && len(e.addr.all) > 1 {
			// It went again, or is somebody else's: the machine's other addresses do.
			logger.GetLogger().Warnw("an address has no TURN port", err, "address", ip)
			continue
		}
		if err != nil {
			for _, p := range sc.PacketConnConfigs {
				p.PacketConn.Close()
			}
			return fmt.Errorf("open the TURN port (UDP %d): %w", conf.TURN.UDPPort, err)
		}
		listens[bind] = true
		e.turnOn = append(e.turnOn, ip)
		relay := &relaySockets{ip: net.ParseIP(ip), bind: bind, port: conf.RTC.UDPPort.Start, calls: calls}
		if outside[network] {
			relay.inside = insideAddress(network, e.addr.loopback)
		}
		if relays[network] == nil {
			relays[network] = relay
		}
		sc.PacketConnConfigs = append(sc.PacketConnConfigs, turn.PacketConnConfig{
			PacketConn:            pc,
			RelayAddressGenerator: relay,
			PermissionHandler:     permit,
		})
	}
	if len(sc.PacketConnConfigs) == 0 {
		return fmt.Errorf("open the TURN port (UDP %d): none of the machine's addresses can be used", conf.TURN.UDPPort)
	}
	if len(relays) == 1 {
		for _, r := range relays {
			e.stream.only = r.ip
		}
	}
	sc.ListenerConfigs = []turn.ListenerConfig{{Listener: e.stream, RelayAddressGenerator: relays, PermissionHandler: permit}}
	var err error
	e.turn, err = turn.NewServer(sc)
	return err
}

// family is the network of an address, as net.ListenPacket calls it.
func family(ip string) string {
	if net.ParseIP(ip).To4() == nil {
		return "udp6"
	}
	return "udp4"
}

// insideAddress is an address of the machine on which media arrives.
func insideAddress(network string, loopback bool) net.IP {
	a, err := chooseAddress("")
	if err != nil {
		return nil
	}
	if loopback {
		a.all = append(a.all, "127.0.0.1", "::1")
	}
	for _, ip := range a.all {
		if family(ip) == network {
			return net.ParseIP(ip)
		}
	}
	return nil
}

// familyRelays are the relays of connections, which are all accepted in one place.
type familyRelays map[string]*relaySockets

var errNoFamily = errors.New("sfu: TURN has no address of that family")

func (g familyRelays) Validate() error { return nil }

func (g familyRelays) AllocatePacketConn(c turn.AllocateListenerConfig) (net.PacketConn, net.Addr, error) {
	r := g[c.Network]
	if r == nil {
		return nil, nil, errNoFamily
	}
	return r.AllocatePacketConn(c)
}

func (g familyRelays) AllocateListener(turn.AllocateListenerConfig) (net.Listener, net.Addr, error) {
	return nil, nil, errOnlyUDP
}

func (g familyRelays) AllocateConn(turn.AllocateConnConfig) (net.Conn, error) {
	return nil, errOnlyUDP
}

// listenSettled opens a UDP port, for as long as settleTime where the kernel still
// examines the address: one may come after settle has looked.
func listenSettled(network, addr string) (pc net.PacketConn, err error) {
	for end := time.Now().Add(settleTime); ; time.Sleep(100 * time.Millisecond) {
		pc, err = net.ListenPacket(network, addr)
		if !errors.Is(err, syscall.EADDRNOTAVAIL) || time.Now().After(end) {
			return pc, err
		}
	}
}

// Each allocation is a socket of ours. A client has some for each of its addresses,
// and the old ones for ten minutes after each change of its network.
const (
	maxAllocationsEach = 32
	maxAllocations     = 4096
)

// allocations counts what stands, by participant.
type allocations struct {
	mu  sync.Mutex
	of  map[string]int
	all int
}

func (a *allocations) room(participant string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.of[participant] < maxAllocationsEach && a.all < maxAllocations
}

func (a *allocations) add(participant string, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all += n
	if a.of[participant] += n; a.of[participant] <= 0 {
		delete(a.of, participant)
	}
}

// relaySockets opens the sockets that TURN relays from. They talk to this machine
// only, so their ports need not be reachable from outside.
type relaySockets struct {
	ip   net.IP
	bind string
	port int // the only port that may be sent to
	// inside is where media arrives that is sent to an address which is not the
	// machine's; nil where there is none. Many routers do not send back what comes
	// from inside and is for their outside address.
	inside net.IP
	// calls are the relayed addresses of those who call each other.
	calls *exchange
}

var errOnlyUDP = errors.New("sfu: TURN relays UDP only")

func (g *relaySockets) Validate() error { return nil }

func (g *relaySockets) AllocatePacketConn(c turn.AllocateListenerConfig) (net.PacketConn, net.Addr, error) {
	if strings.HasPrefix(c.UserID, userOf) {
		l, err := g.calls.open(g.ip)
		if err != nil {
			return nil, nil, err
		}
		return l, l.addr, nil
	}
	pc, err := net.ListenPacket(c.Network, net.JoinHostPort(g.bind, "0"))
	if err != nil {
		return nil, nil, err
	}
	local, ok := pc.LocalAddr().(*net.UDPAddr)
	if !ok {
		pc.Close()
		return nil, nil, errOnlyUDP
	}
	return &relaySocket{PacketConn: pc, port: g.port, inside: g.inside}, &net.UDPAddr{IP: g.ip, Port: local.Port}, nil
}

func (g *relaySockets) AllocateListener(turn.AllocateListenerConfig) (net.Listener, net.Addr, error) {
	return nil, nil, errOnlyUDP
}

func (g *relaySockets) AllocateConn(turn.AllocateConnConfig) (net.Conn, error) {
	return nil, errOnlyUDP
}

type relaySocket struct {
	net.PacketConn
	port   int
	inside net.IP
	as     atomic.Pointer[net.UDPAddr] // what the client calls the address inside
}

// WriteTo drops what is not for the media port: permissions name addresses only.
func (s *relaySocket) WriteTo(b []byte, to net.Addr) (int, error) {
	if u, ok := to.(*net.UDPAddr); !ok || u.Port != s.port {
		return len(b), nil
	}
	if u := to.(*net.UDPAddr); s.inside != nil && !u.IP.Equal(s.inside) {
		s.as.Store(u)
		to = &net.UDPAddr{IP: s.inside, Port: s.port}
	}
	return s.PacketConn.WriteTo(b, to)
}

// ReadFrom names the sender as WriteTo's caller did.
func (s *relaySocket) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := s.PacketConn.ReadFrom(b)
	if as := s.as.Load(); as != nil && err == nil {
		if u, ok := from.(*net.UDPAddr); ok && u.Port == s.port && u.IP.Equal(s.inside) {
			return n, as, nil
		}
	}
	return n, from, err
}
