package network

import (
	"net"
	"slices"
	"strings"
)

// link is what the plan looks at of a kernel interface.
type link struct {
	index    int
	name     string
	mac      net.HardwareAddr // the permanent one where the kernel knows it
	wired    bool             // an Ethernet port, not made by software
	carrier  bool
	up       bool
	mtu      int
	master   int
	kind     string // "", "bond", "vlan", ...
	wireless bool
}

// unit is what one interface is to be.
type unit struct {
	name     string // of the kernel interface
	index    int
	mac      net.HardwareAddr
	kind     string // "wired", "bond", "vlan"
	selector string // what in the configuration selected it
	order    int    // lower is preferred for the default route
	mtu      int
	v4       IPv4
	v6       IPv6
	// any: selected by AnyWired.
	any bool
	// bare: it only carries VLANs, and has no address itself.
	bare bool
}

// plan is what is to be done with the machine's links.
type plan struct {
	units   []unit            // interfaces that get addresses (or are bare), in order of preference
	members map[string]string // interface name to the bond that it belongs to
	missing []string          // selectors for which there is no port
}

// makePlan matches a checked configuration with the links there are. Bonds and
// VLANs that are not there yet are not in it: it is made again once they are.
func makePlan(c Config, links []link) plan {
	p := plan{members: map[string]string{}}
	taken := map[string]bool{}
	find := func(selector string) (link, bool) {
		// A hardware address is that of a port and never of a bond or VLAN, which
		// have the address of the port below.
		for _, l := range links {
			if l.name == selector && (l.wired || l.wireless) || l.wired && l.mac.String() == selector {
				return l, true
			}
		}
		return link{}, false
	}
	byName := func(name, kind string) (link, bool) {
		i := slices.IndexFunc(links, func(l link) bool { return l.name == name && l.kind == kind })
		if i < 0 {
			return link{}, false
		}
		return links[i], true
	}
	missing := func(s string) {
		if !slices.Contains(p.missing, s) {
			p.missing = append(p.missing, s)
		}
	}
	for _, b := range c.Bonds {
		for _, s := range b.Ports {
			if l, ok := find(s); ok {
				p.members[l.name] = b.Name
				taken[l.name] = true
			} else {
				missing(s)
			}
		}
	}
	// A port's order depends on where it stands in the configuration, not on which
	// other ports there are: else one that goes would change the routes of the rest.
	add := func(order int, l link, kind, selector string, mtu int, v4 IPv4, v6 IPv6) {
		taken[l.name] = true
		p.units = append(p.units, unit{
			name: l.name, index: l.index, mac: l.mac, kind: kind, selector: selector, mtu: mtu,
			v4: v4, v6: v6, any: selector == AnyWired, order: order,
		})
	}
	for i, port := range c.Ports {
		if port.Port == AnyWired {
			continue
		}
		if l, ok := find(port.Port); !ok {
			missing(port.Port)
		} else if !taken[l.name] {
			add(i, l, "wired", port.Port, port.MTU, port.IPv4, port.IPv6)
		}
	}
	for i, b := range c.Bonds {
		if l, ok := byName(b.Name, "bond"); ok {
			add(maxEntries+i, l, "bond", b.Name, b.MTU, b.IPv4, b.IPv6)
		}
	}
	bare := IPv4{Method: None}
	for i, v := range c.VLANs {
		isBond := slices.ContainsFunc(c.Bonds, func(b Bond) bool { return b.Name == v.On })
		if l, ok := find(v.On); !isBond && !ok {
			missing(v.On)
			continue
		} else if !isBond && !taken[l.name] {
			add(2*maxEntries+i, l, "wired", v.On, 0, bare, IPv6{Method: None})
			p.units[len(p.units)-1].bare = true
		}
		if l, ok := byName(v.Name, "vlan"); ok {
			add(2*maxEntries+i, l, "vlan", v.Name, v.MTU, v.IPv4, v.IPv6)
		}
	}
	for _, port := range c.Ports {
		if port.Port != AnyWired {
			continue
		}
		var rest []link
		for _, l := range links {
			if l.wired && !taken[l.name] {
				rest = append(rest, l)
			}
		}
		slices.SortFunc(rest, func(a, b link) int { return natural(a.name, b.name) })
		for _, l := range rest {
			add(3*maxEntries+min(l.index, 1000), l, "wired", AnyWired, port.MTU, port.IPv4, port.IPv6)
		}
	}
	return p
}

// natural compares names so that eth2 comes before eth10.
func natural(a, b string) int {
	split := func(s string) (string, int) {
		head := strings.TrimRight(s, "0123456789")
		n := 0
		for _, r := range s[len(head):] {
			n = min(n*10+int(r-'0'), 1<<30)
		}
		return head, n
	}
	ah, an := split(a)
	bh, bn := split(b)
	if c := strings.Compare(ah, bh); c != 0 {
		return c
	}
	if an != bn {
		return an - bn
	}
	return strings.Compare(a, b)
}
