package network

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/vishvananda/netlink"
)

// dhcpServer is one whose mood can be changed: what it gives, and whether it
// answers, refuses or keeps silent.
type dhcpServer struct {
	mu     sync.Mutex
	give   string
	server net.IP
	time   time.Duration
	extra  []dhcpv4.Modifier
	nak    bool
	silent bool
	seen   map[string]int
}

func newDHCPServer(t *testing.T, o *outside, give string, lease time.Duration) *dhcpServer {
	t.Helper()
	s := &dhcpServer{give: give, server: net.IPv4(192, 0, 2, 1), time: lease, seen: map[string]int{}}
	var srv *server4.Server
	var err error
	o.do(func() { srv, err = server4.NewServer("switch", &net.UDPAddr{Port: 67}, s.answer) })
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve()
	t.Cleanup(func() { srv.Close() })
	return s
}

func (s *dhcpServer) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *dhcpServer) count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[what]
}

func (s *dhcpServer) answer(conn net.PacketConn, peer net.Addr, m *dhcpv4.DHCPv4) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kind := strings.ToLower(m.MessageType().String())
	if m.MessageType() == dhcpv4.MessageTypeRequest {
		switch {
		case m.ServerIdentifier() != nil:
			kind = "request"
		case !m.ClientIPAddr.IsUnspecified():
			kind = "renew"
		default:
			kind = "again"
		}
	}
	s.seen[kind]++
	if s.silent {
		return
	}
	mods := []dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(s.server)),
	}
	switch {
	case m.MessageType() == dhcpv4.MessageTypeDiscover:
		mods = append(mods, dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer))
	case m.MessageType() != dhcpv4.MessageTypeRequest:
		return
	case s.nak:
		mods = append(mods, dhcpv4.WithMessageType(dhcpv4.MessageTypeNak))
		s.seen["nak"]++
	default:
		mods = append(mods, dhcpv4.WithMessageType(dhcpv4.MessageTypeAck))
	}
	if !s.nak || m.MessageType() == dhcpv4.MessageTypeDiscover {
		mods = append(mods, dhcpv4.WithYourIP(net.ParseIP(s.give)), dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
			dhcpv4.WithOption(dhcpv4.OptIPAddressLeaseTime(s.time)))
		mods = append(mods, s.extra...)
	}
	r, err := dhcpv4.NewReplyFromRequest(m, mods...)
	if err != nil {
		panic(err)
	}
	conn.WriteTo(r.ToBytes(), peer)
}

// A short lease is renewed, then renewed with any server, then taken back.
func TestDHCPRenewal(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.address("192.0.2.1/24")
	o.greet("192.0.2.1:80")
	o.plug("eth0", true)
	s := newDHCPServer(t, o, "192.0.2.50", 8*time.Second)
	s.set(func() {
		s.extra = []dhcpv4.Modifier{dhcpv4.WithRouter(net.IPv4(192, 0, 2, 1)), dhcpv4.WithDNS(net.IPv4(192, 0, 2, 53))}
	})
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	m := machine(t, Default(), ResolvConf(resolv))
	if a := gets(t, m, "eth0", "dhcp"); a != netip.MustParsePrefix("192.0.2.50/24") {
		t.Errorf("address %s", a)
	}
	// Renewed by unicast: the kernel would drop the address after 8 s otherwise.
	s.set(func() { s.extra[1] = dhcpv4.WithDNS(net.IPv4(192, 0, 2, 54)) })
	until(t, "it is renewed", func() bool { return s.count("renew") >= 3 })
	until(t, "the new DNS server is used", func() bool {
		text, _ := os.ReadFile(resolv)
		return strings.Contains(string(text), "nameserver 192.0.2.54") && !strings.Contains(string(text), "192.0.2.53")
	})
	if s.count("discover") != 1 || s.count("request") != 1 {
		t.Errorf("%v", s.seen)
	}
	if a, ok := has(m, "eth0", "dhcp"); !ok || a.Addr() != netip.MustParseAddr("192.0.2.50") {
		t.Errorf("address %s", a)
	}
	// The lease says that it is of a server that nobody is: only who asks all
	// servers is answered.
	s.set(func() { s.server, s.seen = net.IPv4(192, 0, 2, 9), map[string]int{} })
	until(t, "the lease is of the other server", func() bool {
		l := portOf(m.State(), "eth0").Lease
		return l != nil && l.Server == netip.MustParseAddr("192.0.2.9")
	})
	n := s.count("renew")
	until(t, "any server renews it", func() bool { return s.count("renew") >= n+2 })
	if s.count("discover") != 0 {
		t.Errorf("%v", s.seen)
	}
	// Taken back: another address is asked for.
	s.set(func() { s.nak = true })
	until(t, "it is refused", func() bool { return s.count("nak") > 0 })
	until(t, "the address goes", func() bool { _, ok := has(m, "eth0", "dhcp"); return !ok })
	s.set(func() { s.nak, s.give = false, "192.0.2.60" })
	until(t, "another one comes", func() bool {
		a, ok := has(m, "eth0", "dhcp")
		return ok && a.Addr() == netip.MustParseAddr("192.0.2.60")
	})
	until(t, "the outside is reached", func() bool { return greeted("192.0.2.1:80") == nil })
}

// The server falls silent for good: the address ends with its time.
func TestDHCPExpiry(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.address("192.0.2.1/24")
	o.plug("eth0", true)
	s := newDHCPServer(t, o, "192.0.2.50", 6*time.Second)
	m := machine(t, Default())
	gets(t, m, "eth0", "dhcp")
	s.set(func() { s.silent = true })
	until(t, "the address ends", func() bool { _, ok := has(m, "eth0", "dhcp"); return !ok })
	until(t, "the lease ends", func() bool { return portOf(m.State(), "eth0").Lease == nil })
	until(t, "a link-local one comes", func() bool {
		for _, a := range portOf(m.State(), "eth0").Addresses {
			if a.Prefix.Addr().Is4() && a.Source == "link-local" {
				return problem(m, "eth0", "no DHCP server answers")
			}
		}
		return false
	})
	s.set(func() { s.silent = false })
	gets(t, m, "eth0", "dhcp")
}

// An address that another machine has is declined, before it is used and after.
func TestDHCPConflict(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.address("192.0.2.1/24")
	o.address("192.0.2.50/24")
	o.plug("eth0", true)
	s := newDHCPServer(t, o, "192.0.2.50", time.Hour)
	m := machine(t, Default())
	until(t, "it is declined", func() bool {
		return s.count("decline") > 0 && problem(m, "eth0", "gave the address 192.0.2.50, which another machine")
	})
	if a, ok := has(m, "eth0", "dhcp"); ok {
		t.Errorf("%s is used all the same", a)
	}
	s.set(func() { s.give = "192.0.2.51" })
	if a := gets(t, m, "eth0", "dhcp"); a.Addr() != netip.MustParseAddr("192.0.2.51") {
		t.Errorf("address %s", a)
	}
	n := s.count("decline")
	s.set(func() { s.give = "192.0.2.52" })
	other := newOutsideARP(t, o)
	until(t, "it is declined while it is used", func() bool {
		must(t, other.announce(netip.MustParseAddr("192.0.2.51")))
		return s.count("decline") > n
	})
	until(t, "another one is used", func() bool {
		a, ok := has(m, "eth0", "dhcp")
		return ok && a.Addr() == netip.MustParseAddr("192.0.2.52")
	})
}

// Classless routes take the place of the router, also one that is in no network of
// the port.
func TestDHCPRoutes(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.address("192.0.2.1/24")
	o.plug("eth0", true)
	s := newDHCPServer(t, o, "192.0.2.50", time.Hour)
	cidr := func(s string) *net.IPNet { _, n, _ := net.ParseCIDR(s); return n }
	s.set(func() {
		s.extra = []dhcpv4.Modifier{
			dhcpv4.WithRouter(net.IPv4(192, 0, 2, 9)),
			dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(
				&dhcpv4.Route{Dest: cidr("198.51.100.0/24"), Router: net.IPv4(192, 0, 2, 7)},
				&dhcpv4.Route{Dest: cidr("0.0.0.0/0"), Router: net.IPv4(203, 0, 113, 1)})),
			dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{5, 0x78}),
		}
	})
	m := machine(t, Default())
	gets(t, m, "eth0", "dhcp")
	by := func(ip ...byte) string {
		r, err := netlink.RouteGet(ip)
		if err != nil || len(r) == 0 {
			return ""
		}
		return r[0].Gw.String()
	}
	until(t, "the routes are there", func() bool { return by(198, 51, 100, 1) == "192.0.2.7" && by(8, 8, 8, 8) == "203.0.113.1" })
	if g := portOf(m.State(), "eth0").Gateways; len(g) != 1 || g[0] != netip.MustParseAddr("203.0.113.1") {
		t.Errorf("gateways %v", g)
	}
	list, err := netlink.RouteList(byName(t, "eth0"), netlink.FAMILY_V4)
	must(t, err)
	for _, r := range list {
		if r.Gw != nil && r.MTU != 1400 {
			t.Errorf("%s has MTU %d", r, r.MTU)
		}
	}
}
