package network

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/sys/unix"
)

// checkResolver fails when something of a stranger would get into resolv.conf.
func checkResolver(t *testing.T, servers []netip.Addr, search []string) {
	t.Helper()
	var r resolver
	r.merge(resolver{servers, search})
	lines := len(r.servers) + 2
	if len(r.search) > 0 {
		lines++
	}
	text := r.file()
	n := 0
	for _, c := range text {
		if c == '\n' {
			n++
		} else if c < ' ' || c > '~' {
			t.Fatalf("resolv.conf: %q", text)
		}
	}
	if n != lines || len(r.servers) > maxServers {
		t.Fatalf("resolv.conf has %d lines of %d: %q", n, lines, text)
	}
}

func FuzzLease(f *testing.F) {
	ack, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeAck), dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 50)), dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 1))), dhcpv4.WithOption(dhcpv4.OptIPAddressLeaseTime(time.Hour)),
		dhcpv4.WithRouter(net.IPv4(192, 0, 2, 1)), dhcpv4.WithDNS(net.IPv4(192, 0, 2, 53)), dhcpv4.WithDomainSearchList("example.org"),
		dhcpv4.WithOption(dhcpv4.OptDomainName("example.org")), dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{5, 220}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ack.ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1500 {
			return // what a packet holds
		}
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		l, err := leaseOf(m, time.Now())
		if err != nil {
			return
		}
		if !usable(l.Address.Addr()) || l.Address.Bits() < 1 || !usable(l.Server) || len(l.routes) > maxRoutes {
			t.Fatalf("%+v", l)
		}
		if !l.infinite() && (l.t1 <= 0 || l.t1 > l.t2 || l.t2 > l.time) {
			t.Fatalf("times %s %s %s", l.t1, l.t2, l.time)
		}
		for _, r := range l.routes {
			if !r.to.IsValid() || r.via.IsValid() && !usable(r.via) {
				t.Fatalf("route %+v", r)
			}
		}
		checkResolver(t, l.DNS, l.Search)
	})
}

func FuzzLease6(f *testing.F) {
	m, err := dhcpv6.NewMessage(dhcpv6.WithIAID([4]byte{1}), dhcpv6.WithDNS(net.ParseIP("2001:db8::53")), dhcpv6.WithDomainSearchList("example.org"))
	if err != nil {
		f.Fatal(err)
	}
	m.MessageType = dhcpv6.MessageTypeReply
	dhcpv6.WithIANA(dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP("2001:db8::1"), PreferredLifetime: time.Hour, ValidLifetime: time.Hour})(m)
	f.Add(m.ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1500 {
			return
		}
		m, err := dhcpv6.MessageFromBytes(b)
		if err != nil {
			return
		}
		l, err := toLease6(m, time.Now())
		if err != nil {
			return
		}
		if len(l.addrs) == 0 || len(l.addrs) > maxAddresses || l.t1 <= 0 || l.t1 > l.t2 || l.t2 > l.valid {
			t.Fatalf("%+v", l)
		}
		l.resolver()
	})
}

func FuzzARP(f *testing.F) {
	f.Add(arpPacket{op: arpReply, senderMAC: broadcastMAC, sender: netip.MustParseAddr("192.0.2.1"), targetMAC: broadcastMAC, target: netip.MustParseAddr("192.0.2.2")}.bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parseARP(b)
		if ok && string(p.bytes()) != string(b[:arpLen]) {
			t.Fatalf("%x became %x", b[:arpLen], p.bytes())
		}
	})
}

func FuzzRouterOption(f *testing.F) {
	head := make([]byte, ndHeader)
	head[0], head[8] = unix.AF_INET6, icmpRA
	binary.NativeEndian.PutUint16(head[2:], 24)
	option := append([]byte{ndRDNSS, 3, 0, 0, 0, 0, 0, 60}, netip.MustParseAddr("2001:db8::53").AsSlice()...)
	f.Add(append(head, option...))
	head = append([]byte(nil), head...)
	binary.NativeEndian.PutUint16(head[2:], 24)
	f.Add(append(head, append([]byte{ndDNSSL, 3, 0, 0, 0, 0, 0, 60}, "\x07example\x03org\x00\x00\x00\x00"...)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, ok := parseND(b)
		if !ok {
			return
		}
		if len(o.servers) > maxFromRA || len(o.search) > maxFromRA {
			t.Fatalf("%+v", o)
		}
		checkResolver(t, o.servers, o.search)
	})
}
