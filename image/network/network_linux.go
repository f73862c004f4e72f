// Package network connects the machine: ports, bonds and VLANs, addresses by DHCP,
// by router advertisements or as given, routes, and where DNS is asked.
//
// Invariants: a configuration is checked whole before any of it is done, and one
// that does not come up, or that nobody confirms, is taken back; what the kernel
// has is compared with what it should have at every change of a port, so that a
// cable may be pulled, put in another port, or come late; IPv4 addresses and
// routes belong to a port that has link, so that the default route follows the
// cable; an IPv4 address is used only after nobody answered for it, and another
// machine that uses it later is reported; DHCP servers, routers and neighbours are
// strangers: what they say is bounded, and never becomes text in a file unchecked.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Errors of Start, Apply and Confirm, for errors.Is.
var (
	ErrPermission  = errors.New("the kernel does not let this program configure the network: it must run as root")
	ErrUnreachable = errors.New("with the new configuration the appliance got no address, so the previous one is in force again; check the cable, the addresses and the VLAN")
	ErrUnconfirmed = errors.New("another change is waiting to be confirmed: confirm it, or take it back first")
	ErrNoChange    = errors.New("there is no change to confirm: it was taken back, or was confirmed before")
	ErrClosed      = errors.New("the network is being shut down")
)

// Option changes how Start works.
type Option func(*options)

type options struct {
	resolv    string
	leases    []byte
	keep      func([]byte) error
	save      func(Config) error
	settle    time.Duration
	grace     time.Duration
	firstWait time.Duration
}

// ResolvConf is the file that Go's resolver reads, /etc/resolv.conf when nothing is
// said. It is replaced by rename: its folder must be writable.
func ResolvConf(path string) Option { return func(o *options) { o.resolv = path } }

// Leases keeps DHCP leases over a restart: text is what save was called with last.
// It is called when an address has changed, at most once a day for a lease that was
// only renewed, and by Close.
func Leases(text []byte, save func([]byte) error) Option {
	return func(o *options) { o.leases, o.keep = text, save }
}

// Save is called with each configuration that has become permanent.
func Save(f func(Config) error) Option { return func(o *options) { o.save = f } }

// Manager keeps the network as configured until Close.
type Manager struct {
	log    *slog.Logger
	o      options
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	leases *leaseStore
	// requests run in the loop, which alone changes links and runners.
	requests chan func()
	changed  chan struct{}
	wake     chan struct{}
	applying sync.Mutex

	mu       sync.Mutex
	config   Config
	previous *Config // to return to, while a change is not confirmed
	deadline time.Time
	giveUp   *time.Timer
	refused  string // why the last change was taken back
	runners  map[int]*runner
	plan     plan
	macs     map[string]bool
	problems []string
	dns      resolver
	ntp      []netip.Addr
	ra       map[int]map[netip.Addr]time.Time // DNS servers of routers, by port, until when
	raSearch map[int]map[string]time.Time
	ports    string            // the last State's ports, to see changes
	mtus     map[int]int       // before anything was changed
	made     map[string]string // bonds and VLANs, with what they were made by

	lastResolv []byte
}

// Start configures the network and keeps it until ctx ends or Close. It does not
// wait for addresses: see Changed. A configuration that the kernel refuses in part
// is an error in State, not here, since a machine half connected is better than
// one that is not.
func Start(ctx context.Context, c Config, log *slog.Logger, opts ...Option) (*Manager, error) {
	c = c.clone()
	if err := c.check(); err != nil {
		return nil, err
	}
	m := &Manager{
		log: log, o: options{resolv: "/etc/resolv.conf", settle: 30 * time.Second, grace: 4 * time.Second, firstWait: 2 * time.Second},
		config: c, requests: make(chan func()), changed: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		runners: map[int]*runner{}, ra: map[int]map[netip.Addr]time.Time{}, raSearch: map[int]map[string]time.Time{},
		mtus: map[int]int{}, made: map[string]string{}, macs: map[string]bool{},
	}
	for _, f := range opts {
		f(&m.o)
	}
	if _, err := netlink.LinkList(); err != nil {
		return nil, fmt.Errorf("the kernel's list of network ports cannot be read: %w", err)
	}
	if err := mayConfigure(); err != nil {
		return nil, err
	}
	var err error
	if m.leases, err = newLeaseStore(m.o.leases, m.o.keep); err != nil {
		log.Warn("network: " + err.Error())
	}
	m.ctx, m.cancel = context.WithCancel(ctx)
	updates, err := m.subscribe()
	if err != nil {
		m.cancel()
		return nil, err
	}
	m.reconcile()
	m.wg.Go(func() { m.loop(updates) })
	m.wg.Go(m.routers)
	return m, nil
}

// mayConfigure sets the loopback interface up, which every machine needs, to see
// whether the kernel lets us.
func mayConfigure() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("the loopback interface: %w", err)
	}
	if err := netlink.LinkSetUp(lo); errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return ErrPermission
	} else if err != nil {
		return fmt.Errorf("the loopback interface: %w", err)
	}
	return nil
}

// Close stops keeping the network. Addresses and routes stay as they are, so that
// what is still being sent gets out; leases are written.
func (m *Manager) Close() {
	m.cancel()
	m.mu.Lock()
	if m.giveUp != nil {
		m.giveUp.Stop()
	}
	m.mu.Unlock()
	m.wg.Wait()
	if err := m.leases.flush(); err != nil {
		m.log.Warn("network: the addresses are not kept for the next start", "error", err)
	}
}

// Changed is readable after something in State has changed.
func (m *Manager) Changed() <-chan struct{} { return m.changed }

func (m *Manager) signal() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Config is the configuration in force.
func (m *Manager) Config() Config {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.config.clone()
}

// Apply puts another configuration in force for good: for who stands before the
// machine. When it is not valid, does not come up or cannot be saved, the previous
// one stays, and the error says why.
func (m *Manager) Apply(c Config) error { return m.apply(c, 0) }

// Try puts another configuration in force, and takes it back unless Confirm is
// called within the time: for who comes over the network, and might not be able to
// come back.
func (m *Manager) Try(c Config, within time.Duration) error {
	if within <= 0 {
		return errors.New("a change that is tried needs a time to confirm it")
	}
	return m.apply(c, within)
}

func (m *Manager) apply(c Config, within time.Duration) error {
	m.applying.Lock()
	defer m.applying.Unlock()
	c = c.clone()
	if err := c.check(); err != nil {
		return err
	}
	m.mu.Lock()
	if m.previous != nil {
		m.mu.Unlock()
		return ErrUnconfirmed
	}
	old := m.config
	m.refused = ""
	m.mu.Unlock()
	was := m.connected()

	problems, err := m.change(c)
	if err == nil && len(problems) > 0 {
		err = errors.New(strings.Join(problems, "; "))
	}
	if err == nil && was && !m.comesUp() {
		err = ErrUnreachable
	}
	if err == nil && within == 0 && m.o.save != nil {
		if e := m.o.save(c.clone()); e != nil {
			err = fmt.Errorf("the new configuration cannot be saved, so the previous one is in force again: %w", e)
		}
	}
	if err != nil {
		m.mu.Lock()
		m.refused = err.Error()
		m.mu.Unlock()
		if _, e := m.change(old); e != nil {
			return e
		}
		return err
	}
	if within > 0 {
		m.mu.Lock()
		m.previous, m.deadline = &old, time.Now().Add(within)
		m.giveUp = time.AfterFunc(within, func() { _ = m.revert("nobody confirmed it in time") }) // ErrNoChange: confirmed just now
		m.mu.Unlock()
	}
	m.signal()
	return nil
}

// Confirm makes what was tried permanent.
func (m *Manager) Confirm() error {
	m.applying.Lock()
	defer m.applying.Unlock()
	m.mu.Lock()
	if m.previous == nil {
		m.mu.Unlock()
		return ErrNoChange
	}
	c := m.config.clone()
	m.mu.Unlock()
	if m.o.save != nil {
		if err := m.o.save(c); err != nil {
			return fmt.Errorf("the new configuration cannot be saved, and is taken back when its time is over: %w", err)
		}
	}
	m.mu.Lock()
	m.previous = nil
	m.giveUp.Stop()
	m.mu.Unlock()
	m.signal()
	return nil
}

// Revert takes back what was tried.
func (m *Manager) Revert() error { return m.revert("") }

func (m *Manager) revert(why string) error {
	m.applying.Lock()
	defer m.applying.Unlock()
	m.mu.Lock()
	if m.previous == nil {
		m.mu.Unlock()
		return ErrNoChange
	}
	old := *m.previous
	m.previous, m.refused = nil, why
	m.giveUp.Stop()
	m.mu.Unlock()
	m.log.Warn("network: the change is taken back", "why", why)
	_, err := m.change(old)
	m.signal()
	return err
}

// change puts a configuration in force, and returns what the kernel refused.
func (m *Manager) change(c Config) ([]string, error) {
	var refused []string
	done := make(chan struct{})
	select {
	case m.requests <- func() {
		m.mu.Lock()
		m.config = c
		m.mu.Unlock()
		refused = m.reconcile()
		close(done)
	}:
	case <-m.ctx.Done():
		return nil, ErrClosed
	}
	<-done
	return refused, nil
}

// connected tells whether some port has an address that others can reach.
func (m *Manager) connected() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.runners {
		if r.hasAddress() {
			return true
		}
	}
	return false
}

// comesUp waits for that.
func (m *Manager) comesUp() bool {
	end := time.Now().Add(m.o.settle)
	for time.Now().Before(end) {
		if m.connected() {
			return true
		}
		if !pause(m.ctx, 100*time.Millisecond) {
			return false
		}
	}
	return m.connected()
}

// subscribe returns a channel that is readable after links or addresses changed.
// The content of the messages is not used: all is read anew, so that one that was
// lost does no harm.
func (m *Manager) subscribe() (chan struct{}, error) {
	out := make(chan struct{}, 1)
	tell := func() {
		select {
		case out <- struct{}{}:
		default:
		}
	}
	links := make(chan netlink.LinkUpdate, 16)
	addrs := make(chan netlink.AddrUpdate, 16)
	broken := func(err error) {
		if m.ctx.Err() == nil {
			m.log.Warn("network: the kernel's messages about ports", "error", err)
		}
	}
	if err := netlink.LinkSubscribeWithOptions(links, m.ctx.Done(), netlink.LinkSubscribeOptions{ErrorCallback: broken}); err != nil {
		return nil, fmt.Errorf("listening to the kernel about ports: %w", err)
	}
	if err := netlink.AddrSubscribeWithOptions(addrs, m.ctx.Done(), netlink.AddrSubscribeOptions{ErrorCallback: broken}); err != nil {
		return nil, fmt.Errorf("listening to the kernel about addresses: %w", err)
	}
	m.wg.Go(func() {
		for links != nil || addrs != nil {
			select {
			case _, ok := <-links:
				if !ok {
					links = nil
				}
			case _, ok := <-addrs:
				if !ok {
					addrs = nil
				}
			}
			tell()
		}
	})
	return out, nil
}

func (m *Manager) loop(updates chan struct{}) {
	// A look now and then finds what no message told.
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-m.ctx.Done():
			m.mu.Lock()
			runners := slices.Collect(maps.Values(m.runners))
			m.mu.Unlock()
			for _, r := range runners {
				r.cancel()
				<-r.done
			}
			return
		case f := <-m.requests:
			f()
			continue
		case <-updates:
			// Changes come in flocks.
			pause(m.ctx, 20*time.Millisecond)
			select {
			case <-updates:
			default:
			}
		case <-m.wake:
		case <-tick.C:
		}
		m.reconcile()
	}
}

// virtualKinds are not ports that a cable goes into. A veth is one to whom it was
// given: containers and tests have nothing else.
func wiredKind(kind string) bool { return kind == "device" || kind == "" || kind == "veth" }

func toLink(l netlink.Link) link {
	a := l.Attrs()
	mac := a.HardwareAddr
	// A bond's members all show its address; theirs is the permanent one.
	if len(a.PermHWAddr) == 6 && !slices.Equal(a.PermHWAddr, make(net.HardwareAddr, 6)) {
		mac = a.PermHWAddr
	} else if s, ok := a.Slave.(*netlink.BondSlave); ok && len(s.PermHardwareAddr) == 6 {
		mac = s.PermHardwareAddr
	}
	x := link{
		index: a.Index, name: a.Name, mac: mac, mtu: a.MTU, master: a.MasterIndex, kind: l.Type(),
		up: a.Flags&net.FlagUp != 0, carrier: a.RawFlags&unix.IFF_LOWER_UP != 0 && a.RawFlags&unix.IFF_UP != 0,
	}
	if a.EncapType == "ether" && a.Flags&net.FlagLoopback == 0 && wiredKind(x.kind) && len(mac) == 6 {
		_, err := os.Stat(filepath.Join("/sys/class/net", a.Name, "phy80211"))
		x.wireless = err == nil
		x.wired = err != nil
	}
	return x
}

func listLinks() ([]link, error) {
	list, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("the kernel's list of network ports cannot be read: %w", err)
	}
	var out []link
	for _, l := range list {
		if l.Attrs().Flags&net.FlagLoopback == 0 {
			out = append(out, toLink(l))
		}
	}
	return out, nil
}

// reconcile brings the kernel to what the configuration says, as far as the links
// that there are allow. It runs in the loop alone.
func (m *Manager) reconcile() (refused []string) {
	m.mu.Lock()
	c := m.config
	m.mu.Unlock()
	bad := func(format string, args ...any) { refused = append(refused, fmt.Sprintf(format, args...)) }

	setHostname(c.Hostname, bad)
	links, err := listLinks()
	if err != nil {
		bad("%v", err)
		m.setProblems(refused)
		return refused
	}
	links = m.build(c, links, bad)
	p := makePlan(c, links)
	byIndex := map[int]link{}
	macs := map[string]bool{}
	for _, l := range links {
		byIndex[l.index] = l
		macs[l.mac.String()] = true
	}
	// A bond has an address of its own when its members have none.
	m.mu.Lock()
	m.plan, m.macs = p, macs
	m.mu.Unlock()

	for _, u := range p.units {
		m.prepare(u, byIndex[u.index], bad)
	}
	m.assign(p, byIndex)

	for _, s := range p.missing {
		text := fmt.Sprintf("this machine has no port %q: those it has are %s", s, names(links))
		refused = append(refused, text)
	}
	m.setProblems(refused)
	m.refreshDNS()
	// A port that is missing may come later, on a machine that starts; a change that
	// names one is refused all the same, since it is most likely mistyped.
	return refused
}

func names(links []link) string {
	var list []string
	for _, l := range links {
		if l.wired {
			list = append(list, fmt.Sprintf("%s (%s)", l.name, l.mac))
		}
	}
	if len(list) == 0 {
		return "none with a driver"
	}
	return strings.Join(list, ", ")
}

func (m *Manager) setProblems(list []string) {
	m.mu.Lock()
	fresh := !slices.Equal(m.problems, list)
	m.problems = list
	m.mu.Unlock()
	if fresh {
		for _, p := range list {
			m.log.Warn("network: " + p)
		}
	}
	m.noticeChanges()
}

// noticeChanges signals when State has changed.
func (m *Manager) noticeChanges() {
	s := m.State()
	text := fmt.Sprintf("%+v", s)
	m.mu.Lock()
	fresh := text != m.ports
	m.ports = text
	m.mu.Unlock()
	if fresh {
		m.signal()
	}
}

func setHostname(name string, bad func(string, ...any)) {
	if name == "" {
		return
	}
	if now, err := os.Hostname(); err == nil && now == name {
		return
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		bad("the machine's name cannot be set: %v", err)
	}
}

// sysctl sets what the kernel does with a port by itself.
func sysctl(path, value string) error {
	path = "/proc/sys/net/" + path
	if now, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(now)) == value {
		return nil
	}
	return os.WriteFile(path, []byte(value), 0)
}

// prepare sets a port's size and the kernel's behaviour on it, and turns it on.
func (m *Manager) prepare(u unit, l link, bad func(string, ...any)) {
	six := "0"
	if u.v6.Method == None {
		six = "1"
	}
	ra := "0"
	if u.v6.Method == Auto || u.v6.Method == DHCP {
		ra = "1"
	}
	settings := [][2]string{
		// Only the port that has an address answers for it; two ports in one network
		// would otherwise answer for each other.
		{"ipv4/conf/" + u.name + "/arp_ignore", "1"},
		{"ipv4/conf/" + u.name + "/arp_announce", "2"},
		{"ipv4/conf/" + u.name + "/rp_filter", "2"},
		{"ipv4/conf/" + u.name + "/accept_redirects", "0"},
		// The default route follows the cable.
		{"ipv4/conf/" + u.name + "/ignore_routes_with_linkdown", "1"},
		{"ipv6/conf/" + u.name + "/disable_ipv6", six},
	}
	if six == "0" {
		settings = append(settings, [][2]string{
			{"ipv6/conf/" + u.name + "/accept_ra", ra},
			{"ipv6/conf/" + u.name + "/autoconf", ra},
			{"ipv6/conf/" + u.name + "/accept_redirects", "0"},
			{"ipv6/conf/" + u.name + "/use_tempaddr", "0"}, // a server is to be found
			{"ipv6/conf/" + u.name + "/ignore_routes_with_linkdown", "1"},
		}...)
	}
	for _, s := range settings {
		// A kernel without IPv6 has no such files.
		if err := sysctl(s[0], s[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
			bad("%s: the kernel refuses %s=%s: %v", u.name, s[0], s[1], err)
		}
	}
	// Kernels before 5.12 lack it; the order of preference is then the kernel's.
	if err := sysctl("ipv6/conf/"+u.name+"/ra_defrtr_metric", strconv.Itoa(1024+u.order)); err != nil && !errors.Is(err, os.ErrNotExist) {
		bad("%s: the kernel refuses the metric of router advertisements: %v", u.name, err)
	}
	nl, err := netlink.LinkByIndex(u.index)
	if err != nil {
		return // gone; a message about it comes
	}
	if _, ok := m.mtus[u.index]; !ok {
		m.mtus[u.index] = l.mtu
	}
	mtu := u.mtu
	if mtu == 0 {
		mtu = m.mtus[u.index]
	}
	if mtu != l.mtu {
		if err := netlink.LinkSetMTU(nl, mtu); err != nil {
			bad("%s: the port refuses an MTU of %d: use a smaller one, or leave it out: %v", u.name, mtu, err)
		}
	}
	if !l.up {
		if err := netlink.LinkSetUp(nl); err != nil {
			bad("%s cannot be turned on: %v", u.name, err)
		}
	}
}

// assign starts and stops what gives ports their addresses.
func (m *Manager) assign(p plan, links map[int]link) {
	m.mu.Lock()
	runners := maps.Clone(m.runners)
	m.mu.Unlock()

	// A static address that any port may have is at one port at a time: where it is
	// while that has link, else at the first that does.
	holder := 0
	for _, u := range p.units {
		if u.any && (u.v4.Method == Static || len(u.v6.Addresses) > 0) && links[u.index].carrier {
			if holder == 0 || runners[u.index] != nil {
				holder = u.index
			}
		}
	}
	wanted := map[int]unit{}
	for _, u := range p.units {
		if u.bare || u.any && holder != 0 && u.index != holder && (u.v4.Method == Static || len(u.v6.Addresses) > 0) {
			continue
		}
		wanted[u.index] = u
	}
	stop := func(i int) {
		runners[i].stop()
		delete(runners, i)
		m.mu.Lock()
		delete(m.runners, i)
		m.mu.Unlock()
	}
	now := time.Now()
	for i, r := range runners {
		u, ok := wanted[i]
		switch {
		case !ok || !r.unit.same(u):
			stop(i)
		case links[i].carrier:
			if !r.lostAt.IsZero() {
				r.lostAt = time.Time{}
				r.relink()
			}
		case r.lostAt.IsZero():
			m.log.Info("network: no link", "port", r.unit.name)
			r.lostAt = now
			time.AfterFunc(m.o.grace+10*time.Millisecond, m.poke)
		case now.Sub(r.lostAt) >= m.o.grace:
			stop(i)
		}
	}
	for _, u := range p.units {
		if _, ok := wanted[u.index]; !ok || runners[u.index] != nil || !links[u.index].carrier {
			continue
		}
		id := u.mac.String()
		if u.any && u.v4.Method == DHCP {
			var from int
			if id, from = m.identity(u, p, links, runners); from != 0 {
				stop(from)
			}
		}
		r := newRunner(m, u, id)
		m.mu.Lock()
		m.runners[u.index] = r
		m.mu.Unlock()
		runners[u.index] = r
		m.log.Info("network: link", "port", u.name, "mac", u.mac.String())
		r.start()
	}
}

// identity is the hardware address under which a port is known to the DHCP server:
// its own, unless it was never used, and the cable seems to have come from another
// port. It then goes on as that port, so that the machine keeps its address. from is
// the port's runner that has to end for that.
func (m *Manager) identity(u unit, p plan, links map[int]link, runners map[int]*runner) (id string, from int) {
	m.mu.Lock()
	inUse := map[string]int{}
	for i, r := range runners {
		inUse[r.identity] = i
	}
	m.mu.Unlock()
	// free: nobody has it, or only a port that lost its link just now.
	free := func(id string) bool { return inUse[id] == 0 || !links[inUse[id]].carrier }
	own := u.mac.String()
	if _, known := m.leases.get(own); known && free(own) {
		return own, inUse[own]
	}
	var spare string
	for _, o := range p.units {
		other := o.mac.String()
		if !o.any || o.index == u.index || !free(other) {
			continue
		}
		if _, known := m.leases.get(other); known && !links[o.index].carrier {
			return other, inUse[other]
		}
		spare = other
	}
	if !free(own) && spare != "" {
		// Another port goes on as this one: they change places.
		return spare, inUse[spare]
	}
	return own, inUse[own]
}

// refreshDNS writes resolv.conf when it has changed.
func (m *Manager) refreshDNS() {
	m.mu.Lock()
	r := resolver{}
	r.merge(resolver{m.config.DNS.Servers, m.config.DNS.Search})
	var ntp []netip.Addr
	list := slices.SortedFunc(maps.Values(m.runners), func(a, b *runner) int { return a.unit.order - b.unit.order })
	for _, x := range list {
		ntp = append(ntp, x.ntp...)
		heard := resolver{slices.Concat(x.dns4.servers, x.dns6.servers), slices.Concat(x.dns4.search, x.dns6.search)}
		now := time.Now()
		for _, a := range slices.SortedFunc(maps.Keys(m.ra[x.unit.index]), netip.Addr.Compare) {
			if m.ra[x.unit.index][a].After(now) {
				heard.servers = append(heard.servers, a)
			}
		}
		for _, d := range slices.Sorted(maps.Keys(m.raSearch[x.unit.index])) {
			if m.raSearch[x.unit.index][d].After(now) {
				heard.search = append(heard.search, d)
			}
		}
		if len(m.config.DNS.Servers) > 0 {
			heard.servers = nil
		}
		if len(m.config.DNS.Search) > 0 {
			heard.search = nil
		}
		r.merge(heard)
	}
	if len(ntp) > 8 {
		ntp = ntp[:8]
	}
	m.dns, m.ntp = r, ntp
	text := r.file()
	same := slices.Equal(text, m.lastResolv)
	m.mu.Unlock()
	if same {
		return
	}
	if err := writeFile(m.o.resolv, text, 0o644); err != nil {
		m.log.Warn("network: names cannot be looked up: the file for it cannot be written", "file", m.o.resolv, "error", err)
		return
	}
	m.mu.Lock()
	m.lastResolv = text
	m.mu.Unlock()
}

// State reads what there is.
func (m *Manager) State() State {
	s := State{Problems: []string{}, Ports: []PortState{}}
	s.Hostname, _ = os.Hostname()
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		s.Problems = append(s.Problems, fmt.Sprintf("the kernel's list of network ports cannot be read: %v", err))
		return s
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.DNS, s.Search, s.NTP = slices.Clone(m.dns.servers), slices.Clone(m.dns.search), slices.Clone(m.ntp)
	s.Problems = append(s.Problems, m.problems...)
	s.TakenBack = m.refused
	if m.previous != nil {
		d := m.deadline
		s.Unconfirmed = &d
	}
	nameOf := map[int]string{}
	for _, l := range links {
		nameOf[l.Attrs().Index] = l.Attrs().Name
	}
	order := map[string]int{}
	anyLink := false
	for _, nl := range links {
		l := toLink(nl)
		i := slices.IndexFunc(m.plan.units, func(u unit) bool { return u.index == l.index })
		if !l.wired && !l.wireless && i < 0 {
			continue
		}
		p := PortState{
			Name: l.name, Kind: "wired", MAC: l.mac.String(), Link: l.carrier, MTU: l.mtu,
			Addresses: []Address{}, Gateways: []netip.Addr{}, Problems: []string{},
		}
		anyLink = anyLink || l.carrier
		switch {
		case l.wireless:
			p.Kind = "wireless"
		case !l.wired:
			p.Kind = l.kind
		}
		order[p.Name] = 1 << 20
		if i >= 0 {
			p.Selector = m.plan.units[i].selector
			order[p.Name] = m.plan.units[i].order
		}
		if b, ok := m.plan.members[l.name]; ok {
			p.Bond = b
			if l.master == 0 || nameOf[l.master] != b {
				p.Problems = append(p.Problems, fmt.Sprintf("it is not part of %s yet", b))
			}
		}
		if text, err := os.ReadFile(filepath.Join("/sys/class/net", l.name, "speed")); err == nil {
			if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && n > 0 && l.carrier {
				p.Speed = n
			}
		}
		r := m.runners[l.index]
		m.addresses(nl, r, &p)
		if r != nil {
			p.Lease = r.lease
			p.Problems = append(p.Problems, r.troubles()...)
		}
		if i >= 0 && !l.carrier && !m.plan.units[i].any {
			p.Problems = append(p.Problems, "no link: put in the cable, or check what is at its other end")
		}
		s.Ports = append(s.Ports, p)
	}
	slices.SortStableFunc(s.Ports, func(a, b PortState) int {
		if d := order[a.Name] - order[b.Name]; d != 0 {
			return d
		}
		return natural(a.Name, b.Name)
	})
	switch {
	case len(s.Ports) == 0:
		s.Problems = append(s.Problems, "this machine has no network port with a driver: put in a network card that is supported")
	case !anyLink:
		s.Problems = append(s.Problems, "no port has link: put in a network cable, or check what is at its other end")
	}
	return s
}

// addresses fills in what the kernel has on a port.
func (m *Manager) addresses(nl netlink.Link, r *runner, p *PortState) {
	list, err := netlink.AddrList(nl, netlink.FAMILY_ALL)
	if err != nil {
		return // the port is gone by now
	}
	for _, a := range list {
		prefix, ok := toPrefix(a.IPNet)
		if !ok {
			continue
		}
		x := Address{Prefix: prefix}
		if r != nil {
			x.Source = r.source(prefix.Addr())
		}
		switch {
		case x.Source != "":
		case prefix.Addr().Is6() && prefix.Addr().IsLinkLocalUnicast():
			x.Source = "link-local"
		case prefix.Addr().Is6() && a.Flags&unix.IFA_F_PERMANENT == 0:
			x.Source = "router"
		}
		if a.Flags&unix.IFA_F_DADFAILED != 0 {
			p.Problems = append(p.Problems, fmt.Sprintf("another machine has the address %s: give one of the two another", prefix.Addr()))
			continue
		}
		x.Tentative = a.Flags&unix.IFA_F_TENTATIVE != 0
		p.Addresses = append(p.Addresses, x)
	}
	slices.SortStableFunc(p.Addresses, func(a, b Address) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) })
	routes, err := netlink.RouteList(nl, netlink.FAMILY_ALL)
	if err != nil {
		return
	}
	for _, x := range routes {
		if x.Gw == nil || x.Dst != nil && !x.Dst.IP.IsUnspecified() {
			continue
		}
		if gw, ok := netip.AddrFromSlice(x.Gw); ok && !slices.Contains(p.Gateways, gw.Unmap()) {
			p.Gateways = append(p.Gateways, gw.Unmap())
		}
	}
}

func toPrefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones), ok
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
