package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// runner gives one port its addresses while it has link, and takes them away when
// it ends.
type runner struct {
	m        *Manager
	unit     unit
	identity string // see Manager.identity
	ctx      context.Context
	cancel   context.CancelFunc
	done     chan struct{}
	relinked chan struct{}
	w        *watcher
	lostAt   time.Time // of the loop

	// Guarded by Manager.mu.
	sources map[netip.Addr]string
	lease   *Lease
	dns4    resolver
	dns6    resolver
	ntp     []netip.Addr
	trouble map[string]string // by what it is about
	clashes map[netip.Addr]clash
}

// clash is another machine that uses an address of ours.
type clash struct {
	mac      string
	last     time.Time
	defended time.Time
	giveItUp func() // of an address that DHCP gave
}

// clashShown is how long after the last sight it is reported.
const clashShown = 2 * time.Minute

// same tells whether a runner can go on with another plan.
func (u unit) same(v unit) bool { return reflect.DeepEqual(u, v) }

func newRunner(m *Manager, u unit, identity string) *runner {
	r := &runner{
		m: m, unit: u, identity: identity, done: make(chan struct{}), relinked: make(chan struct{}, 1),
		sources: map[netip.Addr]string{}, trouble: map[string]string{}, clashes: map[netip.Addr]clash{},
	}
	r.ctx, r.cancel = context.WithCancel(m.ctx)
	// A bond's address, not that of a member, is what the network sees.
	mac := u.mac
	if nl, err := netlink.LinkByIndex(u.index); err == nil && len(nl.Attrs().HardwareAddr) == 6 {
		mac = nl.Attrs().HardwareAddr
	}
	r.w = newWatcher(u.name, mac)
	r.w.ours = func(x net.HardwareAddr) bool {
		if bytes.Equal(x, mac) {
			return true
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.macs[x.String()]
	}
	r.w.conflict = r.clash
	return r
}

func (r *runner) start() { go r.run() }

// stop ends it, and waits until its addresses are gone.
func (r *runner) stop() {
	r.cancel()
	<-r.done
	if nl, err := netlink.LinkByIndex(r.unit.index); err == nil {
		r.flushSix(nl)
	}
}

// relink tells that the link was lost for a moment: the port may be in another
// network now.
func (r *runner) relink() {
	select {
	case r.relinked <- struct{}{}:
	default:
	}
}

func (r *runner) run() {
	defer close(r.done)
	if err := r.w.open(); err != nil {
		if r.ctx.Err() == nil {
			r.report("arp", "%v", err)
		}
		return // the port is gone; a message about it comes
	}
	var wg sync.WaitGroup
	wg.Go(func() { r.w.run(r.ctx) })
	wg.Go(r.six)
	if r.unit.v6.Method == DHCP {
		wg.Go(r.dhcp6)
	}
	switch r.unit.v4.Method {
	case DHCP:
		r.dhcp4()
	case Static:
		r.static4()
	}
	wg.Wait()
}

// report says what is wrong with the port, in words for an administrator; no text
// ends it.
func (r *runner) report(about, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.m.mu.Lock()
	old := r.trouble[about]
	if text == "" {
		delete(r.trouble, about)
	} else {
		r.trouble[about] = text
	}
	r.m.mu.Unlock()
	if old != text {
		if text != "" {
			r.m.log.Warn("network: "+text, "port", r.unit.name)
		}
		r.m.poke()
	}
}

// troubles are called with Manager.mu.
func (r *runner) troubles() []string {
	var list []string
	for _, about := range []string{"arp", "dhcp", "static", "route", "ipv6", "dhcp6"} {
		if t := r.trouble[about]; t != "" {
			list = append(list, t)
		}
	}
	for _, a := range sortedKeys(r.clashes) {
		if c := r.clashes[a]; time.Since(c.last) < clashShown {
			list = append(list, fmt.Sprintf("another machine (%s) uses the address %s as well: give one of the two another", c.mac, a))
		}
	}
	return list
}

func sortedKeys[T any](m map[netip.Addr]T) []netip.Addr {
	var list []netip.Addr
	for a := range m {
		list = append(list, a)
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return list
}

func (r *runner) source(a netip.Addr) string { return r.sources[a] }

// hasAddress tells whether the port has one that others can reach, and is called
// with Manager.mu.
func (r *runner) hasAddress() bool {
	for a, s := range r.sources {
		if s != "link-local" && a.IsValid() {
			return true
		}
	}
	if r.unit.v6.Method != Auto && r.unit.v6.Method != DHCP {
		return false
	}
	nl, err := netlink.LinkByIndex(r.unit.index)
	if err != nil {
		return false
	}
	list, err := netlink.AddrList(nl, netlink.FAMILY_V6)
	return err == nil && slices.ContainsFunc(list, func(a netlink.Addr) bool {
		return a.IP.IsGlobalUnicast() && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0
	})
}

// route is one that a runner made.
type route struct {
	to     netip.Prefix // 0.0.0.0/0 or ::/0: the default
	via    netip.Addr   // not valid: directly
	onlink bool         // via is in none of the port's networks
	metric int
	mtu    int
	from   netip.Addr
}

// metric of a port's routes: lower is preferred.
func (u unit) metric() int { return 100 + u.order }

func (r *runner) toRoute(x route) *netlink.Route {
	n := &netlink.Route{
		LinkIndex: r.unit.index, Dst: toIPNet(x.to), Priority: x.metric, MTU: x.mtu,
		Protocol: unix.RTPROT_DHCP, Family: netlink.FAMILY_V4,
	}
	if x.to.Addr().Is6() {
		n.Family = netlink.FAMILY_V6
	} else if !x.via.IsValid() {
		n.Scope = netlink.SCOPE_LINK
	}
	if r.unit.v4.Method == Static {
		n.Protocol = unix.RTPROT_STATIC
	}
	if x.via.IsValid() {
		n.Gw = x.via.AsSlice()
	}
	if x.from.IsValid() {
		n.Src = x.from.AsSlice()
	}
	if x.onlink {
		n.Flags = int(netlink.FLAG_ONLINK)
	}
	return n
}

// binding is an address with its routes, as the kernel has them.
type binding struct {
	prefix netip.Prefix
	source string
	routes []route
}

// bind gives the port an IPv4 address. Called again with the same address it
// renews its time and brings the routes to what they are to be now.
func (r *runner) bind(old *binding, b binding, valid time.Duration) error {
	nl, err := netlink.LinkByIndex(r.unit.index)
	if err != nil {
		return err
	}
	if old != nil && old.prefix != b.prefix {
		r.unbind(old)
		old = nil
	}
	addr := &netlink.Addr{IPNet: toIPNet(b.prefix)}
	if b.prefix.Addr().Is4() {
		// The kernel's own route to the network has no metric, so that with two ports
		// in one network it would not follow the order of preference.
		addr.Flags = unix.IFA_F_NOPREFIXROUTE
		if b.prefix.Bits() < 31 {
			addr.Broadcast = broadcast(b.prefix).AsSlice()
		}
		if b.source == "link-local" {
			addr.Scope = unix.RT_SCOPE_LINK
		}
		if b.prefix.Bits() < 32 {
			b.routes = append([]route{{to: b.prefix.Masked(), from: b.prefix.Addr(), metric: r.unit.metric()}}, b.routes...)
		}
	}
	if s := int(valid / time.Second); s > 0 {
		// Should this program end, the kernel gives up what the server takes back.
		addr.ValidLft, addr.PreferedLft = s, s
	}
	if err := netlink.AddrReplace(nl, addr); err != nil {
		return fmt.Errorf("the kernel refuses the address %s: %w", b.prefix, err)
	}
	r.m.mu.Lock()
	r.sources[b.prefix.Addr()] = b.source
	r.m.mu.Unlock()
	if b.prefix.Addr().Is4() {
		r.w.hold(b.prefix.Addr(), true)
	}
	var failed []string
	for _, x := range b.routes {
		if err := netlink.RouteReplace(r.toRoute(x)); err != nil {
			failed = append(failed, fmt.Sprintf("to %s by %s: %v", x.to, x.via, err))
		}
	}
	if old != nil {
		for _, x := range old.routes {
			if !slices.ContainsFunc(b.routes, func(y route) bool { return y.to == x.to && y.metric == x.metric }) {
				_ = netlink.RouteDel(r.toRoute(x)) // gone already
			}
		}
	}
	if len(failed) > 0 {
		r.report("route", "the kernel refuses the route %s", failed[0])
	} else {
		r.report("route", "")
	}
	r.m.poke()
	return nil
}

func (r *runner) unbind(b *binding) {
	if b == nil {
		return
	}
	r.w.hold(b.prefix.Addr(), false)
	r.m.mu.Lock()
	delete(r.sources, b.prefix.Addr())
	delete(r.clashes, b.prefix.Addr())
	r.m.mu.Unlock()
	nl, err := netlink.LinkByIndex(r.unit.index)
	if err != nil {
		return
	}
	for _, x := range b.routes {
		_ = netlink.RouteDel(r.toRoute(x)) // gone with the link, perhaps
	}
	if b.prefix.Addr().Is4() && b.prefix.Bits() < 32 {
		_ = netlink.RouteDel(r.toRoute(route{to: b.prefix.Masked(), from: b.prefix.Addr(), metric: r.unit.metric()}))
	}
	if err := netlink.AddrDel(nl, &netlink.Addr{IPNet: toIPNet(b.prefix)}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
		r.m.log.Warn("network: an address cannot be taken away", "port", r.unit.name, "address", b.prefix, "error", err)
	}
	r.m.poke()
}

// keeping tells whether addresses should stay when the runner ends: the whole
// program ends.
func (r *runner) keeping() bool { return r.m.ctx.Err() != nil }

// announce tells the neighbours of an address, twice.
func (r *runner) announce(a netip.Addr) {
	go func() {
		for range 2 {
			// A link that went down meanwhile is seen elsewhere.
			_ = r.w.announce(a)
			if !pause(r.ctx, 2*time.Second) {
				return
			}
		}
	}()
}

// clash is called when another machine uses an address of ours (RFC 5227, 2.4).
func (r *runner) clash(a netip.Addr, mac net.HardwareAddr) {
	const again = 10 * time.Second
	now := time.Now()
	r.m.mu.Lock()
	c := r.clashes[a]
	fresh := now.Sub(c.last) > clashShown
	twice := now.Sub(c.last) < again && !c.defended.IsZero()
	defend := now.Sub(c.defended) > again
	c.mac, c.last = mac.String(), now
	if defend {
		c.defended = now
	}
	r.clashes[a] = c
	r.m.mu.Unlock()
	if fresh {
		r.m.log.Warn("network: another machine uses an address of this one", "port", r.unit.name, "address", a, "mac", mac.String())
		r.m.poke()
	}
	switch {
	case twice && c.giveItUp != nil:
		c.giveItUp()
	case defend:
		_ = r.w.announce(a) // lost like any packet may be
	}
}

// static4 gives the port its own IPv4 addresses. One that another machine has is
// tried again now and then.
func (r *runner) static4() {
	bound := make([]*binding, len(r.unit.v4.Addresses))
	defer func() {
		if !r.keeping() {
			for _, b := range bound {
				r.unbind(b)
			}
		}
	}()
	for {
		var taken []string
		for i, p := range r.unit.v4.Addresses {
			if bound[i] != nil {
				continue
			}
			mac, err := r.w.probe(r.ctx, p.Addr())
			if r.ctx.Err() != nil {
				return
			}
			if err != nil && !errors.Is(err, unix.ENETDOWN) {
				r.m.log.Warn("network: whether an address is free cannot be found out", "port", r.unit.name, "address", p.Addr(), "error", err)
			}
			if mac != nil {
				taken = append(taken, fmt.Sprintf("another machine (%s) has the address %s, so it is not used here: give one of the two another", mac, p.Addr()))
				continue
			}
			b := binding{prefix: p, source: "static"}
			if gw := r.unit.v4.Gateway; gw.IsValid() && p.Masked().Contains(gw) {
				b.routes = []route{{to: netip.PrefixFrom(netip.IPv4Unspecified(), 0), via: gw, from: p.Addr(), metric: r.unit.metric()}}
			}
			if err := r.bind(nil, b, 0); err != nil {
				taken = append(taken, err.Error())
				continue
			}
			bound[i] = &b
			r.announce(p.Addr())
		}
		text := ""
		if len(taken) > 0 {
			text = taken[0]
		}
		r.report("static", "%s", text)
		var again <-chan time.Time
		if len(taken) > 0 {
			again = time.After(10 * time.Second)
		}
		select {
		case <-r.ctx.Done():
			return
		case <-r.relinked:
			for _, b := range bound {
				if b != nil {
					r.announce(b.prefix.Addr())
				}
			}
		case <-again:
		}
	}
}

// six gives the port its own IPv6 addresses. The kernel finds out by itself whether
// they are free, and does what routers advertise.
func (r *runner) six() {
	var bound []*binding
	for _, p := range r.unit.v6.Addresses {
		b := binding{prefix: p, source: "static"}
		if gw := r.unit.v6.Gateway; gw.IsValid() && len(bound) == 0 {
			b.routes = []route{{to: netip.PrefixFrom(netip.IPv6Unspecified(), 0), via: gw, metric: r.unit.metric()}}
		}
		if err := r.bind(nil, b, 0); err != nil {
			r.report("ipv6", "%v", err)
			continue
		}
		bound = append(bound, &b)
	}
	<-r.ctx.Done()
	if !r.keeping() {
		for _, b := range bound {
			r.unbind(b)
		}
	}
}

// flushSix takes away what routers advertised, which the kernel would keep until
// its time is over.
func (r *runner) flushSix(nl netlink.Link) {
	if list, err := netlink.AddrList(nl, netlink.FAMILY_V6); err == nil {
		for _, a := range list {
			if a.Flags&unix.IFA_F_PERMANENT == 0 && a.IP.IsGlobalUnicast() {
				_ = netlink.AddrDel(nl, &a) // its time was over meanwhile
			}
		}
	}
	if list, err := netlink.RouteList(nl, netlink.FAMILY_V6); err == nil {
		for _, x := range list {
			if x.Protocol == unix.RTPROT_RA {
				_ = netlink.RouteDel(&x)
			}
		}
	}
	r.m.mu.Lock()
	delete(r.m.ra, r.unit.index)
	delete(r.m.raSearch, r.unit.index)
	r.m.mu.Unlock()
}
