package network

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	mac0 = "52:54:00:00:00:10"
	mac1 = "52:54:00:00:00:11"
)

// leaseFile keeps leases in a file.
func leaseFile(path string) Option {
	text, _ := os.ReadFile(path) // none yet
	return Leases(text, func(text []byte) error { return os.WriteFile(path, text, 0o600) })
}

func TestDHCP(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.address("192.0.2.1/24")
	o.greet("192.0.2.1:80")
	o.plug("eth0", true)
	_, leases := o.dnsmasq("--dhcp-range=192.0.2.50,192.0.2.99,255.255.255.0,1h", "--dhcp-option=option:dns-server,192.0.2.53",
		"--dhcp-option=option:domain-search,Office.Example.org,example.org", "--dhcp-option=option:ntp-server,192.0.2.123", "--dhcp-option=option:mtu,1400")
	dir := t.TempDir()
	resolv, file := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "leases.json")
	c := Default()
	c.Hostname = "chat"
	m := machine(t, c, ResolvConf(resolv), leaseFile(file))
	a := gets(t, m, "eth0", "dhcp")
	if !netip.MustParsePrefix("192.0.2.0/24").Contains(a.Addr()) || a.Bits() != 24 {
		t.Errorf("address %s", a)
	}
	until(t, "the outside is reached", func() bool { return greeted("192.0.2.1:80") == nil })
	until(t, "resolv.conf is written", func() bool {
		text, _ := os.ReadFile(resolv)
		return strings.Contains(string(text), "nameserver 192.0.2.53\n") && strings.Contains(string(text), "search office.example.org example.org\n")
	})
	s := m.State()
	p := portOf(s, "eth0")
	if p.Lease == nil || p.Lease.Server != netip.MustParseAddr("192.0.2.1") || time.Until(p.Lease.Expires) < 50*time.Minute {
		t.Errorf("lease %+v", p.Lease)
	}
	if len(p.Gateways) != 1 || p.Gateways[0] != netip.MustParseAddr("192.0.2.1") || len(s.NTP) != 1 || s.NTP[0] != netip.MustParseAddr("192.0.2.123") {
		t.Errorf("gateways %v, time servers %v", p.Gateways, s.NTP)
	}
	if r := s.Reachable(); len(r) != 1 || r[0] != a.Addr() {
		t.Errorf("reachable at %v", r)
	}
	routes, err := netlink.RouteGet([]byte{198, 51, 100, 1})
	if err != nil || len(routes) != 1 || !routes[0].Src.Equal(a.Addr().AsSlice()) {
		t.Errorf("route to the world %v, %v", routes, err)
	}
	if text, _ := os.ReadFile(leases); !strings.Contains(string(text), " chat ") {
		t.Errorf("the server was not told the name: %s", text)
	}
	until(t, "the lease is on disk", func() bool {
		text, _ := os.ReadFile(file)
		return strings.Contains(string(text), a.String()) && strings.Contains(string(text), "gateway_mac")
	})
	m.Close()

	// Started anew the machine asks for its address, though the server would give
	// another one to a stranger.
	nl := byName(t, "eth0")
	ip, _ := netlink.ParseAddr(a.String())
	must(t, netlink.AddrDel(nl, ip))
	m = machine(t, c, ResolvConf(resolv), leaseFile(file))
	if b := gets(t, m, "eth0", "dhcp"); b != a {
		t.Errorf("address %s before and %s after a restart", a, b)
	}
	m.Close()
	if s, err := newLeaseStore([]byte("{"), nil); err == nil || len(s.leases) != 0 {
		t.Errorf("a file that is none: %v, %v", s.leases, err)
	}
}

// The server is silent at the second start, but its network is the same one.
func TestDHCPRemembered(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.address("192.0.2.1/24")
	o.greet("192.0.2.1:80")
	o.plug("eth0", true)
	server, _ := o.dnsmasq("--dhcp-range=192.0.2.50,192.0.2.99,255.255.255.0,1h")
	file := filepath.Join(t.TempDir(), "leases.json")
	m := machine(t, Default(), leaseFile(file))
	a := gets(t, m, "eth0", "dhcp")
	until(t, "the lease is on disk", func() bool {
		text, _ := os.ReadFile(file)
		return strings.Contains(string(text), "gateway_mac")
	})
	m.Close()
	must(t, server.Process.Kill())
	ip, _ := netlink.ParseAddr(a.String())
	must(t, netlink.AddrDel(byName(t, "eth0"), ip))

	m = machine(t, Default(), leaseFile(file))
	if b := gets(t, m, "eth0", "dhcp"); b != a {
		t.Errorf("address %s before and %s after a restart", a, b)
	}
	if l := portOf(m.State(), "eth0").Lease; l == nil || !l.Remembered {
		t.Errorf("lease %+v", l)
	}
	until(t, "the outside is reached", func() bool { return greeted("192.0.2.1:80") == nil })
	m.Close()
	must(t, netlink.AddrDel(byName(t, "eth0"), ip))

	// In another network it is not used.
	o.on("switch", "192.0.2.1/24", false)
	m = machine(t, Default(), leaseFile(file))
	if l := gets(t, m, "eth0", "link-local"); !l.Addr().IsLinkLocalUnicast() {
		t.Errorf("address %s", l)
	}
	if b, ok := has(m, "eth0", "dhcp"); ok {
		t.Errorf("address %s of another network", b)
	}
}

func TestNoServer(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.plug("eth0", true)
	// A laptop that is plugged in directly.
	o.address("169.254.7.7/16")
	o.greet("169.254.7.7:80")
	m := machine(t, Default())
	a := gets(t, m, "eth0", "link-local")
	if !a.Addr().Is4() { // IPv6 has one always
		until(t, "an IPv4 one", func() bool {
			for _, x := range portOf(m.State(), "eth0").Addresses {
				if x.Prefix.Addr().Is4() && x.Source == "link-local" {
					a = x.Prefix
				}
			}
			return a.Addr().Is4()
		})
	}
	if a.Bits() != 16 || !a.Addr().IsLinkLocalUnicast() {
		t.Errorf("address %s", a)
	}
	until(t, "the laptop is reached", func() bool { return greeted("169.254.7.7:80") == nil })
	until(t, "State says why", func() bool { return problem(m, "eth0", "no DHCP server answers") })
	if s := m.State(); len(s.Reachable()) != 1 || s.Reachable()[0] != a.Addr() {
		t.Errorf("reachable at %v", s.Reachable())
	}
	// A server comes.
	o.address("192.0.2.1/24")
	o.dnsmasq("--dhcp-range=192.0.2.50,192.0.2.99,255.255.255.0,1h")
	gets(t, m, "eth0", "dhcp")
	until(t, "the link-local address goes", func() bool {
		for _, x := range portOf(m.State(), "eth0").Addresses {
			if x.Prefix.Addr().Is4() && x.Source != "dhcp" {
				return false
			}
		}
		return !problem(m, "eth0", "no DHCP server")
	})
}

func TestStatic(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.plug("eth0", true)
	o.address("192.0.2.1/24")
	o.address("2001:db8::1/64")
	o.greet("192.0.2.1:80")
	o.greet("[2001:db8::1]:80")
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	m := machine(t, parse(t, `{"ports": [{"port": "52:54:00:00:00:10", "mtu": 1400,
		"ipv4": {"method": "static", "addresses": ["192.0.2.10/24", "198.51.100.10/25"], "gateway": "192.0.2.1"},
		"ipv6": {"method": "static", "addresses": ["2001:db8::10/64"], "gateway": "2001:db8::1"}}],
		"dns": {"servers": ["192.0.2.53", "2001:db8::53"], "search": ["example.org"]}}`), ResolvConf(resolv))
	until(t, "the outside is reached", func() bool { return greeted("192.0.2.1:80") == nil && greeted("[2001:db8::1]:80") == nil })
	p := portOf(m.State(), "eth0")
	if p.MTU != 1400 || len(p.Gateways) != 2 || len(p.Problems) != 0 {
		t.Errorf("%+v", p)
	}
	static := 0
	for _, a := range p.Addresses {
		if a.Source == "static" {
			static++
		}
	}
	if static != 3 {
		t.Errorf("addresses %+v", p.Addresses)
	}
	text, err := os.ReadFile(resolv)
	if err != nil || !strings.Contains(string(text), "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch example.org\n") {
		t.Errorf("resolv.conf %q, %v", text, err)
	}
	if r := m.State().Reachable(); len(r) != 3 {
		t.Errorf("reachable at %v", r)
	}
}

// An address that another machine has is not taken until it is free.
func TestStaticConflict(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.plug("eth0", true)
	o.address("192.0.2.10/24")
	m := machine(t, parse(t, `{"ports": [{"port": "eth0", "ipv4": {"addresses": ["192.0.2.10/24"]}, "ipv6": {"method": "none"}}]}`))
	until(t, "State names the conflict", func() bool { return problem(m, "eth0", "has the address 192.0.2.10, so it is not used here") })
	if a, ok := has(m, "eth0", "static"); ok {
		t.Errorf("it is used all the same: %s", a)
	}
	o.on("switch", "192.0.2.10/24", false)
	gets(t, m, "eth0", "static")
	until(t, "State has no problem any more", func() bool { return !problem(m, "eth0", "192.0.2.10") })

	// Another machine takes it later, and is reported.
	o.address("192.0.2.10/24")
	other := newOutsideARP(t, o)
	must(t, other.announce(netip.MustParseAddr("192.0.2.10")))
	until(t, "State names the conflict", func() bool { return problem(m, "eth0", "uses the address 192.0.2.10 as well") })
	if _, ok := has(m, "eth0", "static"); !ok {
		t.Error("the machine gave its own address up")
	}
}

// newOutsideARP sends ARP in the outside.
func newOutsideARP(t *testing.T, o *outside) *watcher {
	t.Helper()
	var w *watcher
	var err error
	o.do(func() {
		w = newWatcher("switch", byName(t, "switch").Attrs().HardwareAddr)
		err = w.open()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.conn.Close() })
	return w
}

// The cable is put into another port: the machine keeps its address.
func TestCableMoved(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.port("eth1", mac1)
	o.address("192.0.2.1/24")
	o.greet("192.0.2.1:80")
	o.plug("eth0", true)
	o.dnsmasq("--dhcp-range=192.0.2.50,192.0.2.99,255.255.255.0,1h")
	m := machine(t, Default())
	a := gets(t, m, "eth0", "dhcp")
	until(t, "the outside is reached", func() bool { return greeted("192.0.2.1:80") == nil })

	for _, x := range [][2]string{{"eth0", "eth1"}, {"eth1", "eth0"}, {"eth0", "eth1"}} {
		o.plug(x[0], false)
		until(t, "the link is lost", func() bool { return !portOf(m.State(), x[0]).Link })
		o.plug(x[1], true)
		if b := gets(t, m, x[1], "dhcp"); b != a {
			t.Errorf("address %s at %s, and %s at %s", a, x[0], b, x[1])
		}
		until(t, "the outside is reached", func() bool { return greeted("192.0.2.1:80") == nil })
		if b, ok := has(m, x[0], "dhcp"); ok {
			t.Errorf("%s still has %s", x[0], b)
		}
	}
	// For a moment only: nothing changes.
	o.plug("eth1", false)
	until(t, "the link is lost", func() bool { return !portOf(m.State(), "eth1").Link })
	o.plug("eth1", true)
	until(t, "the outside is reached", func() bool { return greeted("192.0.2.1:80") == nil })
	if b, ok := has(m, "eth1", "dhcp"); !ok || b != a {
		t.Errorf("address %s after a lost link, %s before", b, a)
	}
}

func TestCableMovedStatic(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.port("eth1", mac1)
	o.address("192.0.2.1/24")
	o.greet("192.0.2.1:80")
	o.plug("eth1", true)
	m := machine(t, parse(t, `{"ports": [{"port": "any wired", "ipv4": {"addresses": ["192.0.2.10/24"], "gateway": "192.0.2.1"}, "ipv6": {"method": "none"}}]}`))
	gets(t, m, "eth1", "static")
	until(t, "the outside is reached", func() bool { return greeted("192.0.2.1:80") == nil })
	o.plug("eth0", true)
	until(t, "the second link", func() bool { return portOf(m.State(), "eth0").Link })
	if a, ok := has(m, "eth0", "static"); ok {
		t.Errorf("%s is at both ports", a)
	}
	o.plug("eth1", false)
	gets(t, m, "eth0", "static")
	until(t, "the outside is reached", func() bool { return greeted("192.0.2.1:80") == nil })
}

// With two ports the default route is the preferred one's while it has link.
func TestTwoPorts(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.port("eth1", mac1)
	o.address("192.0.2.1/24")
	o.address("198.51.100.1/32")
	o.greet("198.51.100.1:80")
	o.plug("eth0", true)
	o.plug("eth1", true)
	o.dnsmasq("--dhcp-range=192.0.2.50,192.0.2.99,255.255.255.0,1h")
	m := machine(t, parse(t, `{"ports": [{"port": "eth1"}, {"port": "eth0"}]}`))
	first, second := gets(t, m, "eth1", "dhcp"), gets(t, m, "eth0", "dhcp")
	if first == second {
		t.Fatalf("both ports have %s", first)
	}
	by := func() string {
		r, err := netlink.RouteGet([]byte{198, 51, 100, 1})
		if err != nil || len(r) == 0 {
			return ""
		}
		l, err := netlink.LinkByIndex(r[0].LinkIndex)
		if err != nil {
			return ""
		}
		return l.Attrs().Name
	}
	until(t, "the preferred port is used", func() bool { return by() == "eth1" && greeted("198.51.100.1:80") == nil })
	o.plug("eth1", false)
	until(t, "the other port is used", func() bool { return by() == "eth0" && greeted("198.51.100.1:80") == nil })
	o.plug("eth1", true)
	until(t, "the preferred port is used", func() bool { return by() == "eth1" && greeted("198.51.100.1:80") == nil })
}

func TestApply(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.plug("eth0", true)
	o.address("192.0.2.1/24")
	o.greet("192.0.2.1:80")
	var saved []Config
	m := machine(t, parse(t, `{"ports": [{"port": "eth0", "ipv4": {"addresses": ["192.0.2.10/24"]}, "ipv6": {"method": "none"}}]}`),
		Save(func(c Config) error { saved = append(saved, c); return nil }), func(o *options) { o.settle = 8 * time.Second })
	gets(t, m, "eth0", "static")

	// Not valid, no such port, and nothing that answers.
	if err := m.Apply(Config{}); err == nil {
		t.Error("an empty configuration was taken")
	}
	if err := m.Apply(parse(t, `{"ports": [{"port": "eth7"}]}`)); err == nil || !strings.Contains(err.Error(), `no port "eth7"`) {
		t.Errorf("a port that is not there: %v", err)
	}
	gets(t, m, "eth0", "static")
	if err := m.Apply(parse(t, `{"ports": [{"port": "eth0", "ipv6": {"method": "none"}}]}`)); !errors.Is(err, ErrUnreachable) {
		t.Errorf("no DHCP server: %v", err)
	}
	if a := gets(t, m, "eth0", "static"); a.Addr() != netip.MustParseAddr("192.0.2.10") {
		t.Errorf("address %s", a)
	}
	if len(saved) != 0 {
		t.Errorf("saved %+v", saved)
	}
	// Good, for good.
	other := parse(t, `{"ports": [{"port": "eth0", "ipv4": {"addresses": ["192.0.2.11/24"]}, "ipv6": {"method": "none"}}]}`)
	if err := m.Apply(other); err != nil {
		t.Fatal(err)
	}
	if len(saved) != 1 || !saved[0].equal(other) || !m.Config().equal(other) {
		t.Errorf("saved %+v", saved)
	}
	// Nobody confirms: an address that works, but not for who asked.
	far := parse(t, `{"ports": [{"port": "eth0", "ipv4": {"addresses": ["203.0.113.10/24"]}, "ipv6": {"method": "none"}}]}`)
	if err := m.Try(far, 3*time.Second); err != nil {
		t.Fatal(err)
	}
	if s := m.State(); s.Unconfirmed == nil {
		t.Error("State does not say that a change waits")
	}
	if err := m.Apply(other); !errors.Is(err, ErrUnconfirmed) {
		t.Errorf("a change while one waits: %v", err)
	}
	until(t, "the change is taken back", func() bool {
		a, ok := has(m, "eth0", "static")
		return ok && a.Addr() == netip.MustParseAddr("192.0.2.11") && greeted("192.0.2.1:80") == nil
	})
	if s := m.State(); len(saved) != 1 || s.Unconfirmed != nil || s.TakenBack != "nobody confirmed it in time" {
		t.Errorf("saved %+v", saved)
	}
	if err := m.Confirm(); !errors.Is(err, ErrNoChange) {
		t.Errorf("confirmed too late: %v", err)
	}
	// Confirmed.
	if err := m.Try(far, time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := m.Confirm(); err != nil {
		t.Fatal(err)
	}
	if len(saved) != 2 || !saved[1].equal(far) {
		t.Errorf("saved %+v", saved)
	}
	// Taken back by hand.
	if err := m.Try(other, time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := m.Revert(); err != nil {
		t.Fatal(err)
	}
	if !m.Config().equal(far) {
		t.Errorf("in force: %s", m.Config().JSON())
	}
	if err := m.Try(other, 0); err == nil {
		t.Error("a try without a time")
	}
}

// What cannot be saved is not kept.
func TestApplyNotSaved(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.plug("eth0", true)
	first := parse(t, `{"ports": [{"port": "eth0", "ipv4": {"addresses": ["192.0.2.10/24"]}}]}`)
	full := errors.New("no space left on device")
	m := machine(t, first, Save(func(Config) error { return full }))
	gets(t, m, "eth0", "static")
	if err := m.Apply(Default()); !errors.Is(err, ErrUnreachable) && !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	second := parse(t, `{"ports": [{"port": "eth0", "ipv4": {"addresses": ["192.0.2.11/24"]}}]}`)
	if err := m.Apply(second); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	if !m.Config().equal(first) {
		t.Errorf("in force: %s", m.Config().JSON())
	}
}

// Who is not root is told so.
func TestNotRoot(t *testing.T) {
	if os.Getenv("HOLDFAST_TEST_NOBODY") != "" {
		_, err := Start(context.Background(), Default(), slog.New(slog.DiscardHandler))
		if !errors.Is(err, ErrPermission) {
			t.Errorf("%v", err)
		}
		return
	}
	if os.Geteuid() != 0 {
		_, err := Start(context.Background(), Default(), slog.New(slog.DiscardHandler))
		if !errors.Is(err, ErrPermission) {
			t.Errorf("%v", err)
		}
		return
	}
	exe := filepath.Join("/tmp", filepath.Base(t.TempDir())+"-nobody.test")
	text, err := os.ReadFile(os.Args[0])
	must(t, err)
	must(t, os.WriteFile(exe, text, 0o755))
	t.Cleanup(func() { os.Remove(exe) })
	cmd := exec.Command(exe, "-test.run=^TestNotRoot$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = []string{"HOLDFAST_TEST_NOBODY=1", "PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestNotRoot") {
		t.Fatalf("%v\n%s", err, out)
	}
}
