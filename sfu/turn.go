package sfu

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/livekit/livekit-server/pkg/config"
	"github.com/livekit/livekit-server/pkg/service"
	"github.com/livekit/protocol/logger"
	"github.com/livekit/protocol/logger/pionlogger"
	"github.com/pion/turn/v5"
)

// startTURN serves TURN over UDP. Clients use it as their STUN server too.
// Credentials are those that LiveKit gives to each participant: they last five
// minutes for new allocations. What comes in is relayed to this relay's own media
// port only, so that nobody can reach the network behind it. Those that SFU.TURN
// gives are for calls without the relay, whose packets go to each other only.
func startTURN(conf *config.Config, check turn.AuthHandler) (*turn.Server, error) {
	own := ownAddresses(conf)
	calls := &exchange{}
	open := &allocations{of: map[string]int{}}
	sc := turn.ServerConfig{
		QuotaHandler: func(participant, _ string, _ net.Addr) bool { return open.room(participant) },
		EventHandler: turn.EventHandler{
			OnAllocationCreated: func(_, _ net.Addr, _, participant, _ string, _ net.Addr, _ int) { open.add(participant, 1) },
			OnAllocationDeleted: func(_, _ net.Addr, _, participant, _ string) { open.add(participant, -1) },
		},
		Realm:         service.LivekitRealm,
		AuthHandler:   check,
		LoggerFactory: pionlogger.NewLoggerFactory(logger.GetLogger()),
	}
	for _, ip := range conf.RTC.NodeIP.ToStringSlice() {
		network, bind := "udp4", ip
		if net.ParseIP(ip).To4() == nil {
			network = "udp6"
		}
		if !isLocal(ip) { // behind NAT
			bind = map[string]string{"udp4": "0.0.0.0", "udp6": "::"}[network]
		}
		pc, err := listenSettled(network, net.JoinHostPort(bind, strconv.Itoa(conf.TURN.UDPPort)))
		if errors.Is(err, syscall.EADDRNOTAVAIL) && len(conf.RTC.NodeIP.ToStringSlice()) > 1 {
			// It went again, or is somebody else's: the machine's other addresses do.
			logger.GetLogger().Warnw("an address has no TURN port", err, "address", ip)
			continue
		}
		if err != nil {
			for _, p := range sc.PacketConnConfigs {
				p.PacketConn.Close()
			}
			return nil, fmt.Errorf("open the TURN port (UDP %d): %w", conf.TURN.UDPPort, err)
		}
		sc.PacketConnConfigs = append(sc.PacketConnConfigs, turn.PacketConnConfig{
			PacketConn:            pc,
			RelayAddressGenerator: &relaySockets{ip: net.ParseIP(ip), bind: bind, port: conf.RTC.UDPPort.Start, calls: calls},
			PermissionHandler:     func(_ net.Addr, peer net.IP) bool { return own[peer.String()] },
		})
	}
	if len(sc.PacketConnConfigs) == 0 {
		return nil, fmt.Errorf("open the TURN port (UDP %d): none of the machine's addresses can be used", conf.TURN.UDPPort)
	}
	return turn.NewServer(sc)
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
	return &relaySocket{pc, g.port}, &net.UDPAddr{IP: g.ip, Port: local.Port}, nil
}

func (g *relaySockets) AllocateListener(turn.AllocateListenerConfig) (net.Listener, net.Addr, error) {
	return nil, nil, errOnlyUDP
}

func (g *relaySockets) AllocateConn(turn.AllocateConnConfig) (net.Conn, error) {
	return nil, errOnlyUDP
}

type relaySocket struct {
	net.PacketConn
	port int
}

// WriteTo drops what is not for the media port: permissions name addresses only.
func (s *relaySocket) WriteTo(b []byte, to net.Addr) (int, error) {
	if u, ok := to.(*net.UDPAddr); !ok || u.Port != s.port {
		return len(b), nil
	}
	return s.PacketConn.WriteTo(b, to)
}
