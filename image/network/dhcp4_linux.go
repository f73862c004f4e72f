package network

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"golang.org/x/sys/unix"
)

// errNAK: the server says that the address is not ours (any more).
var errNAK = errors.New("the DHCP server took the address back")

const (
	maxRetry      = time.Minute
	declinePause  = 10 * time.Second
	linkLocalWait = 5 * time.Second // without an answer, before 169.254.x.y is taken
	maxRoutes     = 64
)

// lease4 is an acknowledged lease.
type lease4 struct {
	savedLease
	asked      time.Time // its time counts from when it was asked for
	time       time.Duration
	t1, t2     time.Duration
	routes     []route
	mtu        int
	remembered bool
}

func (l *lease4) infinite() bool { return l.time == 0 }

func (l *lease4) left() time.Duration { return l.time - time.Since(l.asked) }

// dhcp4 keeps the port's IPv4 address by DHCP (RFC 2131).
func (r *runner) dhcp4() {
	var b *binding
	defer func() {
		if !r.keeping() {
			r.unbind(b)
		}
	}()
	for r.ctx.Err() == nil {
		l := r.obtain()
		if l == nil {
			return
		}
		for l != nil {
			next := r.toBinding(l)
			if err := r.bind(b, next, l.left()); err != nil {
				r.report("dhcp", "%v", err)
				break
			}
			fresh := b == nil || b.prefix != next.prefix
			b = &next
			r.report("dhcp", "")
			r.publish(l)
			if fresh {
				r.m.log.Info("network: address by DHCP", "port", r.unit.name, "address", l.Address, "server", l.Server, "gateway", l.Gateway, "for", l.time, "remembered", l.remembered)
				r.announce(l.Address.Addr())
			}
			l = r.keep(l)
		}
		if r.ctx.Err() != nil {
			return
		}
		r.unbind(b)
		b = nil
		r.publish(nil)
		pause(r.ctx, time.Second)
	}
}

func (r *runner) toBinding(l *lease4) binding {
	b := binding{prefix: l.Address, source: "dhcp"}
	for _, x := range l.routes {
		x.metric, x.from, x.mtu = r.unit.metric(), l.Address.Addr(), l.mtu
		b.routes = append(b.routes, x)
	}
	return b
}

// publish shows a lease in State and uses its DNS servers.
func (r *runner) publish(l *lease4) {
	r.m.mu.Lock()
	if l == nil {
		r.lease, r.dns4, r.ntp = nil, resolver{}, nil
	} else {
		s := &Lease{Address: l.Address, Server: l.Server, Remembered: l.remembered}
		if !l.infinite() {
			s.Expires = time.Now().Add(l.left())
		}
		r.lease, r.dns4, r.ntp = s, resolver{l.DNS, l.Search}, l.NTP
	}
	r.m.mu.Unlock()
	if l != nil && !l.remembered {
		s := l.savedLease
		s.Expires = time.Time{}
		if !l.infinite() {
			s.Expires = time.Now().Add(l.left())
		}
		if old, ok := r.m.leases.get(r.identity); ok && old.Gateway == s.Gateway && old.Address == s.Address {
			s.GatewayMAC = old.GatewayMAC
		} else if s.Gateway.IsValid() {
			if mac, err := r.w.find(r.ctx, s.Address.Addr(), s.Gateway); err == nil && mac != nil {
				s.GatewayMAC = mac.String()
			}
		}
		if err := r.m.leases.put(r.identity, s); err != nil {
			r.m.log.Warn("network: the address is not kept for the next start", "error", err)
		}
	}
	r.m.poke()
}

// obtain gets a lease, however long it takes; nil: the runner ends. While no server
// answers the port has a link-local address, so that a computer that is plugged in
// directly finds the appliance.
func (r *runner) obtain() *lease4 {
	if saved, ok := r.m.leases.get(r.identity); ok {
		if l := r.again(saved); l != nil {
			return l
		}
		if own := r.w.mac.String(); r.ctx.Err() == nil && r.identity != own {
			// What was taken over from another port is of no use here.
			r.m.mu.Lock()
			r.identity = own
			r.m.mu.Unlock()
		}
	}
	ctx, cancel := context.WithCancel(r.ctx)
	local := make(chan struct{})
	started := false
	defer func() {
		cancel()
		if started {
			<-local
		}
	}()
	begin := time.Now()
	wait := r.m.o.firstWait
	for r.ctx.Err() == nil {
		l, err := r.discover(wait)
		if l != nil || r.ctx.Err() != nil {
			return l
		}
		switch {
		case errors.Is(err, nclient4.ErrNoResponse), errors.Is(err, context.DeadlineExceeded):
			if time.Since(begin) >= linkLocalWait || wait >= 2*r.m.o.firstWait {
				text := "no DHCP server answers: check that one is on this network, or give the port a static address"
				if !r.unit.v4.NoLinkLocal {
					if !started {
						started = true
						go func() { defer close(local); r.linkLocal(ctx) }()
					}
					text += "; a computer that is plugged in here directly finds the appliance at its 169.254 address"
				}
				r.report("dhcp", "%s", text)
			}
		case errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
			// The port went down; the loop ends this runner, or the link returns.
			pause(r.ctx, time.Second)
			continue
		default:
			r.report("dhcp", "DHCP: %v", err)
			pause(r.ctx, time.Second)
		}
		wait = min(2*wait, maxRetry)
		select {
		case <-r.relinked:
			wait = r.m.o.firstWait
		default:
		}
	}
	return nil
}

// exchange sends a message until an answer fits, or the time is over. A link that
// returns ends it early.
func (r *runner) exchange(c *nclient4.Client, to *net.UDPAddr, msg *dhcpv4.DHCPv4, wait time.Duration, types ...dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	ctx, cancel := context.WithTimeout(r.ctx, wait)
	defer cancel()
	return c.SendAndRead(ctx, to, msg, func(p *dhcpv4.DHCPv4) bool { return nclient4.IsMessageType(types[0], types[1:]...)(p) })
}

// raw opens a client for a port without an address.
func (r *runner) raw() (*nclient4.Client, error) {
	return nclient4.New(r.unit.name, nclient4.WithTimeout(maxRetry), nclient4.WithHWAddr(r.w.mac))
}

// ordinary opens a client that sends from the port's address.
func (r *runner) ordinary() (*nclient4.Client, error) {
	var set error
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		err := c.Control(func(fd uintptr) {
			set = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.BindToDevice(int(fd), r.unit.name))
		})
		return errors.Join(err, set)
	}}
	conn, err := lc.ListenPacket(r.ctx, "udp4", "0.0.0.0:68")
	if err != nil {
		return nil, err
	}
	return nclient4.NewWithConn(conn, r.w.mac, nclient4.WithTimeout(maxRetry))
}

// about are the options that every message to a server has.
func (r *runner) about(m *dhcpv4.DHCPv4) {
	mac, err := net.ParseMAC(r.identity)
	if err != nil {
		mac = r.w.mac
	}
	m.UpdateOption(dhcpv4.OptClientIdentifier(append([]byte{1}, mac...)))
	m.UpdateOption(dhcpv4.OptMaxMessageSize(1472))
	if name, err := os.Hostname(); err == nil && validHost(name) {
		m.UpdateOption(dhcpv4.OptHostName(name))
	}
	m.UpdateOption(dhcpv4.OptParameterRequestList(
		dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionDomainNameServer,
		dhcpv4.OptionDomainName, dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionNTPServers, dhcpv4.OptionInterfaceMTU,
		dhcpv4.OptionIPAddressLeaseTime, dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue))
}

// discover asks all servers, and takes the first offer that can be used.
func (r *runner) discover(wait time.Duration) (*lease4, error) {
	c, err := r.raw()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	d, err := dhcpv4.NewDiscovery(r.w.mac, r.about)
	if err != nil {
		return nil, err
	}
	if saved, ok := r.m.leases.get(r.identity); ok {
		d.UpdateOption(dhcpv4.OptRequestedIPAddress(saved.Address.Addr().AsSlice()))
	}
	offer, err := r.exchange(c, nclient4.DefaultServers, d, wait+rand.N(wait/4), dhcpv4.MessageTypeOffer)
	if err != nil {
		return nil, err
	}
	asked := time.Now()
	req, err := dhcpv4.NewRequestFromOffer(offer, r.about)
	if err != nil {
		return nil, fmt.Errorf("the DHCP server's offer cannot be used: %w", err)
	}
	ack, err := r.exchange(c, nclient4.DefaultServers, req, 2*r.m.o.firstWait, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak)
	if err != nil {
		return nil, err
	}
	l, err := r.toLease(ack, asked)
	if err != nil {
		return nil, err
	}
	mac, err := r.w.probe(r.ctx, l.Address.Addr())
	if err != nil {
		return nil, err
	}
	if mac != nil {
		r.decline(c, l)
		r.report("dhcp", "the DHCP server gave the address %s, which another machine (%s) has: look for a second DHCP server, or for a machine with a static address from the server's range", l.Address.Addr(), mac)
		pause(r.ctx, declinePause)
		return nil, fmt.Errorf("the DHCP server gave the address %s, which another machine (%s) has", l.Address.Addr(), mac)
	}
	return l, nil
}

func (r *runner) decline(c *nclient4.Client, l *lease4) {
	m, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeDecline), dhcpv4.WithHwAddr(r.w.mac),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(l.Address.Addr().AsSlice())),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(l.Server.AsSlice())), r.about)
	if err != nil {
		return
	}
	m.DeleteOption(dhcpv4.OptionParameterRequestList)
	// There is no answer to a DECLINE; it is sent once.
	_, _ = r.exchange(c, nclient4.DefaultServers, m, 50*time.Millisecond, dhcpv4.MessageTypeNone)
	_ = r.m.leases.forget(r.identity) // it is asked for anew
}

// again asks for the address of an earlier time (RFC 2131, INIT-REBOOT). When no
// server answers but the gateway is the one that it was, a lease whose time is not
// over is used.
func (r *runner) again(saved savedLease) *lease4 {
	c, err := r.raw()
	if err != nil {
		return nil
	}
	defer c.Close()
	m, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithHwAddr(r.w.mac),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(saved.Address.Addr().AsSlice())), r.about)
	if err != nil {
		return nil
	}
	for range 2 {
		asked := time.Now()
		ack, err := r.exchange(c, nclient4.DefaultServers, m, r.m.o.firstWait, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak)
		if r.ctx.Err() != nil {
			return nil
		}
		if err != nil {
			continue
		}
		l, err := r.toLease(ack, asked)
		if errors.Is(err, errNAK) {
			_ = r.m.leases.forget(r.identity)
			return nil
		}
		if err != nil {
			return nil
		}
		if mac, err := r.w.probe(r.ctx, l.Address.Addr()); err != nil || mac != nil {
			if mac != nil {
				r.decline(c, l)
			}
			return nil
		}
		return l
	}
	left := time.Until(saved.Expires)
	if saved.Expires.IsZero() || left <= 0 || !saved.Gateway.IsValid() || saved.GatewayMAC == "" {
		return nil
	}
	if mac, err := r.w.find(r.ctx, saved.Address.Addr(), saved.Gateway); err != nil || mac.String() != saved.GatewayMAC {
		return nil
	}
	if mac, err := r.w.probe(r.ctx, saved.Address.Addr()); err != nil || mac != nil {
		return nil
	}
	l := &lease4{savedLease: saved, asked: time.Now(), time: left, t1: min(left/2, maxRetry), t2: min(left*7/8, 2*maxRetry), remembered: true}
	l.routes = []route{{to: netip.PrefixFrom(netip.IPv4Unspecified(), 0), via: saved.Gateway, onlink: !saved.Address.Masked().Contains(saved.Gateway)}}
	return l
}

// keep renews a lease. It returns the renewed one, or nil when the address has to
// be given up.
func (r *runner) keep(l *lease4) *lease4 {
	lost := make(chan struct{}, 1)
	r.m.mu.Lock()
	k := r.clashes[l.Address.Addr()]
	k.giveItUp = func() {
		select {
		case lost <- struct{}{}:
		default:
		}
	}
	r.clashes[l.Address.Addr()] = k
	r.m.mu.Unlock()

	for {
		var due <-chan time.Time
		at := l.t1
		rebinding := false
		since := time.Since(l.asked)
		if !l.infinite() {
			if since >= l.time {
				r.report("dhcp", "the DHCP server did not renew the address %s, and its time is over: check the server", l.Address.Addr())
				return nil
			}
			// Half of what is left until the next state, as the standard has it, and no
			// more often than once a minute, or a twentieth of a short lease.
			least := min(maxRetry, max(l.time/20, time.Second))
			switch {
			case since < l.t1:
			case since < l.t2:
				at = since + max((l.t2-since)/2, least)
			default:
				rebinding = true
				at = since + max((l.time-since)/2, least)
			}
			if since < l.t2 && at > l.t2 {
				at = l.t2
			}
			at = min(at, l.time)
			due = time.After(at - since)
		}
		select {
		case <-r.ctx.Done():
			return nil
		case <-lost:
			if c, err := r.raw(); err == nil {
				r.decline(c, l)
				c.Close()
			}
			r.report("dhcp", "another machine uses the address %s that the DHCP server gave: another one is asked for", l.Address.Addr())
			return nil
		case <-r.relinked:
			next, gone := r.verify(l)
			if gone {
				return nil
			}
			if next != nil {
				return next
			}
			continue
		case <-due:
		}
		if time.Since(l.asked) >= l.time {
			continue
		}
		rebinding = rebinding || time.Since(l.asked) >= l.t2
		next, err := r.renew(l, rebinding)
		switch {
		case errors.Is(err, errNAK):
			r.m.log.Warn("network: the DHCP server took the address back", "port", r.unit.name, "address", l.Address)
			_ = r.m.leases.forget(r.identity) // written with the next one
			return nil
		case next != nil:
			return next
		case r.ctx.Err() == nil && err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nclient4.ErrNoResponse):
			r.m.log.Warn("network: the lease is not renewed yet", "port", r.unit.name, "error", err)
		}
	}
}

// renew asks the server that gave the lease, or with rebinding any.
func (r *runner) renew(l *lease4, rebinding bool) (*lease4, error) {
	c, err := r.ordinary()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	m, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithHwAddr(r.w.mac),
		dhcpv4.WithClientIP(l.Address.Addr().AsSlice()), r.about)
	if err != nil {
		return nil, err
	}
	to := &net.UDPAddr{IP: l.Server.AsSlice(), Port: nclient4.ServerPort}
	if rebinding {
		to = nclient4.DefaultServers
	}
	asked := time.Now()
	ack, err := r.exchange(c, to, m, r.m.o.firstWait, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak)
	if err != nil {
		return nil, err
	}
	return r.toLease(ack, asked)
}

// verify finds out, after a link returned, whether the address is right in the
// network that the port is in now. gone: it is not.
func (r *runner) verify(l *lease4) (next *lease4, gone bool) {
	c, err := r.raw()
	if err != nil {
		return nil, false
	}
	defer c.Close()
	m, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithHwAddr(r.w.mac),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(l.Address.Addr().AsSlice())), r.about)
	if err != nil {
		return nil, false
	}
	for range 2 {
		asked := time.Now()
		ack, err := r.exchange(c, nclient4.DefaultServers, m, r.m.o.firstWait, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak)
		if r.ctx.Err() != nil {
			return nil, false
		}
		if err != nil {
			continue
		}
		next, err := r.toLease(ack, asked)
		if errors.Is(err, errNAK) {
			_ = r.m.leases.forget(r.identity)
			return nil, true
		}
		if err == nil {
			r.announce(l.Address.Addr())
		}
		return next, false
	}
	if !l.Gateway.IsValid() {
		return nil, false
	}
	mac, err := r.w.find(r.ctx, l.Address.Addr(), l.Gateway)
	return nil, err == nil && mac == nil
}

// toLease reads an acknowledgement.
func (r *runner) toLease(ack *dhcpv4.DHCPv4, asked time.Time) (*lease4, error) {
	if ack.MessageType() == dhcpv4.MessageTypeNak {
		return nil, errNAK
	}
	return leaseOf(ack, asked)
}

func leaseOf(ack *dhcpv4.DHCPv4, asked time.Time) (*lease4, error) {
	a, ok := addr4(ack.YourIPAddr)
	if !ok || !usable(a) {
		return nil, fmt.Errorf("the DHCP server gave the address %s, which is none for a port", ack.YourIPAddr)
	}
	ones, bits := net.IPMask(ack.SubnetMask()).Size()
	if bits != 32 || ones == 0 {
		// Without a mask, that of the address's old class would be meant; a private
		// network is most often a /24.
		ones = 24
	}
	server, ok := addr4(ack.ServerIdentifier())
	if !ok || !usable(server) {
		return nil, errors.New("the DHCP server does not say its address")
	}
	l := &lease4{asked: asked}
	l.Address, l.Server = netip.PrefixFrom(a, ones), server
	const forever = time.Duration(0xffffffff) * time.Second
	if t := ack.IPAddressLeaseTime(forever); t < forever {
		l.time = max(t, 5*time.Second)
		l.t1 = ack.IPAddressRenewalTime(l.time / 2)
		l.t2 = ack.IPAddressRebindingTime(l.time * 7 / 8)
		if l.t2 <= 0 || l.t2 >= l.time {
			l.t2 = l.time * 7 / 8
		}
		if l.t1 <= 0 || l.t1 >= l.t2 {
			l.t1 = min(l.time/2, l.t2)
		}
	}
	everything := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	add := func(to netip.Prefix, via netip.Addr) {
		if len(l.routes) >= maxRoutes {
			return
		}
		x := route{to: to, via: via}
		if !via.IsUnspecified() {
			if !usable(via) || via == a {
				return
			}
			x.onlink = !l.Address.Masked().Contains(via)
		} else {
			x.via = netip.Addr{}
		}
		if to == everything && x.via.IsValid() && !l.Gateway.IsValid() {
			l.Gateway = via
		}
		l.routes = append(l.routes, x)
	}
	// Classless routes, where there are any, stand in place of the router (RFC 3442).
	for _, x := range ack.ClasslessStaticRoute() {
		if x == nil || x.Dest == nil {
			continue
		}
		to, ok := toPrefix(x.Dest)
		via, ok2 := addr4(x.Router)
		if ok && ok2 && to.Addr().Is4() && to.IsValid() {
			add(to.Masked(), via)
		}
	}
	if len(l.routes) == 0 {
		for _, g := range ack.Router() {
			if gw, ok := addr4(g); ok && !l.Gateway.IsValid() && usable(gw) {
				add(everything, gw)
			}
		}
	}
	for _, s := range ack.DNS() {
		if d, ok := addr4(s); ok && usable(d) && len(l.DNS) < maxServers {
			l.DNS = append(l.DNS, d)
		}
	}
	for _, s := range ack.NTPServers() {
		if d, ok := addr4(s); ok && usable(d) && len(l.NTP) < 4 {
			l.NTP = append(l.NTP, d)
		}
	}
	var search []string
	if s := ack.DomainSearch(); s != nil {
		search = s.Labels
	}
	search = append(search, strings.Fields(strings.Trim(ack.DomainName(), "\x00"))...)
	var r resolver
	r.merge(resolver{search: search})
	l.Search = r.search
	if b := ack.Options.Get(dhcpv4.OptionInterfaceMTU); len(b) == 2 {
		if n := int(b[0])<<8 | int(b[1]); n >= 576 {
			l.mtu = n
		}
	}
	return l, nil
}

func addr4(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip.To4())
	return a, ok
}

// linkLocal gives the port an address of 169.254/16 (RFC 3927) until ctx ends.
func (r *runner) linkLocal(ctx context.Context) {
	h := fnv.New64a()
	h.Write(r.w.mac)
	random := rand.New(rand.NewPCG(h.Sum64(), 0x169254)) // the same address each time
	for ctx.Err() == nil {
		n := 256 + random.IntN(65536-512)
		a := netip.AddrFrom4([4]byte{169, 254, byte(n >> 8), byte(n)})
		mac, err := r.w.probe(ctx, a)
		if err != nil {
			pause(ctx, time.Second)
			continue
		}
		if mac != nil {
			continue
		}
		b := binding{prefix: netip.PrefixFrom(a, 16), source: "link-local"}
		lost := make(chan struct{}, 1)
		r.m.mu.Lock()
		r.clashes[a] = clash{giveItUp: func() {
			select {
			case lost <- struct{}{}:
			default:
			}
		}}
		r.m.mu.Unlock()
		if err := r.bind(nil, b, 0); err != nil {
			r.m.log.Warn("network: no link-local address", "port", r.unit.name, "error", err)
			pause(ctx, maxRetry)
			continue
		}
		r.m.log.Info("network: link-local address", "port", r.unit.name, "address", a)
		r.announce(a)
		select {
		case <-ctx.Done():
		case <-lost:
		}
		if r.keeping() {
			return
		}
		r.unbind(&b)
	}
}
