package network

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"holdfast/image/vmtest"
)

// The image's own kernel has what the test machine's may lack.
func TestInImageKernel(t *testing.T) {
	vmtest.Run(t, "^(TestVLAN|TestBond|TestBondModes|TestDHCPConflict)$",
		"net/8021q/*", "net/802/*", "net/llc/*", "net/bridge/bridge.ko", "net/packet/*", "net/tls/*", "drivers/net/bonding/*", "drivers/net/veth.ko")
}

// can skips where the kernel has no such interfaces.
func can(t *testing.T, l netlink.Link) {
	t.Helper()
	err := netlink.LinkAdd(l)
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("this kernel has no %s interfaces; TestInImageKernel runs the test where there are", l.Type())
	}
	must(t, err)
	must(t, netlink.LinkDel(l))
}

func canVLAN(t *testing.T) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "try", byName(t, "eth0").Attrs().Index
	can(t, &netlink.Vlan{LinkAttrs: attrs, VlanId: 5, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
}

func canBond(t *testing.T) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "try"
	can(t, netlink.NewLinkBond(attrs))
}

// tagged gives the outside an interface in a VLAN.
func (o *outside) tagged(id int, cidr string) {
	o.t.Helper()
	o.do(func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = "tagged", byName(o.t, "switch").Attrs().Index
		must(o.t, netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}))
		up(o.t, "tagged")
	})
	o.on("tagged", cidr, true)
}

func TestVLAN(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	canVLAN(t)
	o.plug("eth0", true)
	o.address("192.0.2.1/24")
	o.tagged(10, "198.51.100.1/24")
	o.greet("192.0.2.1:80")
	o.greet("198.51.100.1:80")
	both := parse(t, `{"ports": [{"port": "eth0", "ipv4": {"addresses": ["192.0.2.10/24"]}, "ipv6": {"method": "none"}}],
		"vlans": [{"name": "office", "on": "52:54:00:00:00:10", "id": 10, "mtu": 1400, "ipv4": {"addresses": ["198.51.100.10/24"], "gateway": "198.51.100.1"}, "ipv6": {"method": "none"}}]}`)
	m := machine(t, both)
	if a := gets(t, m, "office", "static"); a != netip.MustParsePrefix("198.51.100.10/24") {
		t.Errorf("address %s", a)
	}
	until(t, "both networks are reached", func() bool { return greeted("198.51.100.1:80") == nil && greeted("192.0.2.1:80") == nil })
	if p := portOf(m.State(), "office"); p.Kind != "vlan" || p.MTU != 1400 || len(p.Gateways) != 1 || !p.Link {
		t.Errorf("%+v", p)
	}
	// Another number, and the VLAN alone: the port only carries it.
	if err := m.Apply(parse(t, `{"ports": [], "vlans": [{"name": "office", "on": "eth0", "id": 11, "ipv4": {"addresses": ["198.51.100.10/24"]}, "ipv6": {"method": "none"}}]}`)); err != nil {
		t.Fatal(err)
	}
	if v, ok := byName(t, "office").(*netlink.Vlan); !ok || v.VlanId != 11 {
		t.Errorf("%+v", v)
	}
	if _, ok := has(m, "eth0", "static"); ok {
		t.Error("the port kept its address")
	}
	if err := m.Apply(both); err != nil {
		t.Fatal(err)
	}
	until(t, "both networks are reached", func() bool { return greeted("198.51.100.1:80") == nil && greeted("192.0.2.1:80") == nil })
	// Gone.
	if err := m.Apply(parse(t, `{"ports": [{"port": "eth0", "ipv4": {"addresses": ["192.0.2.10/24"]}}]}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := netlink.LinkByName("office"); err == nil {
		t.Error("the VLAN is still there")
	}
	// The cable is pulled and returns: so does the VLAN.
	if err := m.Apply(both); err != nil {
		t.Fatal(err)
	}
	o.plug("eth0", false)
	until(t, "the VLAN's address goes", func() bool { _, ok := has(m, "office", "static"); return !ok })
	o.plug("eth0", true)
	until(t, "both networks are reached", func() bool { return greeted("198.51.100.1:80") == nil && greeted("192.0.2.1:80") == nil })
}

func TestBond(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.port("eth1", mac1)
	canBond(t)
	o.plug("eth0", true)
	o.plug("eth1", true)
	o.address("192.0.2.1/24")
	o.tagged(10, "198.51.100.1/24")
	o.greet("192.0.2.1:80")
	o.greet("198.51.100.1:80")
	s := newDHCPServer(t, o, "192.0.2.50", time.Hour)
	m := machine(t, parse(t, `{"bonds": [{"name": "bond0", "ports": ["eth0", "52:54:00:00:00:11"], "mode": "active-backup", "primary": "eth0"}],
		"vlans": [{"on": "bond0", "id": 10, "ipv4": {"addresses": ["198.51.100.10/24"]}, "ipv6": {"method": "none"}}]}`))
	a := gets(t, m, "bond0", "dhcp")
	gets(t, m, "vlan10", "static")
	reached := func() bool { return greeted("192.0.2.1:80") == nil && greeted("198.51.100.1:80") == nil }
	until(t, "both networks are reached", reached)
	for _, n := range []string{"eth0", "eth1"} {
		if p := portOf(m.State(), n); p.Bond != "bond0" || len(p.Problems) != 0 || len(p.Addresses) != 0 {
			t.Errorf("%+v", p)
		}
	}
	active := func() string {
		b, ok := byName(t, "bond0").(*netlink.Bond)
		if !ok || b.ActiveSlave <= 0 {
			return ""
		}
		l, err := netlink.LinkByIndex(b.ActiveSlave)
		if err != nil {
			return ""
		}
		return l.Attrs().Name
	}
	until(t, "the primary port is used", func() bool { return active() == "eth0" })
	for _, n := range []string{"eth0", "eth1"} {
		o.plug(n, false)
		until(t, "the other port is used", func() bool { return active() != n && active() != "" && reached() })
		o.plug(n, true)
		until(t, "both networks are reached", reached)
	}
	if b, ok := has(m, "bond0", "dhcp"); !ok || b != a || s.count("discover") != 1 {
		t.Errorf("address %s before and %s after, asked %v", a, b, s.seen)
	}
	// The ports are free again without the bond.
	if err := m.Apply(Default()); err != nil {
		t.Fatal(err)
	}
	if _, err := netlink.LinkByName("bond0"); err == nil {
		t.Error("the bond is still there")
	}
	until(t, "a port of its own is reached", func() bool { _, ok := has(m, "eth0", "dhcp"); return ok && greeted("192.0.2.1:80") == nil })
}

func TestBondModes(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.port("eth1", mac1)
	canBond(t)
	o.plug("eth0", true)
	o.plug("eth1", true)
	o.address("192.0.2.1/24")
	o.greet("192.0.2.1:80")
	m := machine(t, parse(t, `{"ports": [{"port": "eth0", "ipv4": {"addresses": ["192.0.2.10/24"]}, "ipv6": {"method": "none"}}]}`))
	for _, mode := range BondModes {
		extra := ""
		if mode == "802.3ad" {
			extra = `"lacp_rate": "fast", "hash": "layer3+4", `
		}
		c := parse(t, `{"bonds": [{"name": "b", "ports": ["eth0", "eth1"], "mode": "`+mode+`", `+extra+`"ipv4": {"addresses": ["192.0.2.10/24"]}, "ipv6": {"method": "none"}}]}`)
		if err := m.Apply(c); err != nil {
			t.Errorf("%s: %v", mode, err)
			continue
		}
		b, ok := byName(t, "b").(*netlink.Bond)
		if !ok || b.Mode.String() != mode || mode == "802.3ad" && (b.LacpRate.String() != "fast" || b.XmitHashPolicy.String() != "layer3+4") {
			t.Errorf("%s: %+v", mode, b)
		}
		for _, n := range []string{"eth0", "eth1"} {
			if byName(t, n).Attrs().MasterIndex != b.Index {
				t.Errorf("%s: %s does not belong to the bond", mode, n)
			}
		}
		if mode != "802.3ad" && mode != "balance-rr" && mode != "balance-xor" && mode != "broadcast" { // they need a switch that plays along
			until(t, mode+": the outside is reached", func() bool { return greeted("192.0.2.1:80") == nil })
		}
	}
}
