package network

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// build makes the bonds and VLANs of the configuration, removes those of an earlier
// one, and returns the links as they are then.
func (m *Manager) build(c Config, links []link, bad func(string, ...any)) []link {
	changed := false
	find := func(name string) (link, bool) {
		i := slices.IndexFunc(links, func(l link) bool { return l.name == name })
		if i < 0 {
			return link{}, false
		}
		return links[i], true
	}
	again := func() {
		if l, err := listLinks(); err == nil {
			links, changed = l, true
		}
	}
	remove := func(name string) {
		if nl, err := netlink.LinkByName(name); err == nil {
			if err := netlink.LinkDel(nl); err != nil {
				bad("%s cannot be removed: %v", name, err)
			}
		}
		delete(m.made, name)
		again()
	}
	wanted := map[string]string{}
	for _, b := range c.Bonds {
		wanted[b.Name] = fmt.Sprintf("bond %s %s %s", b.Mode, b.LACPRate, b.Hash)
	}
	p := makePlan(c, links)
	below := map[string]string{} // VLAN to the interface below it
	for _, v := range c.VLANs {
		base := v.On
		for _, l := range links {
			if l.wired && l.mac.String() == v.On {
				base = l.name
			}
		}
		below[v.Name] = base
		wanted[v.Name] = fmt.Sprintf("vlan %d on %s", v.ID, base)
	}
	// VLANs first: one may stand on a bond that goes.
	for _, kind := range []string{"vlan", "bond"} {
		for name, how := range m.made {
			if l, ok := find(name); ok && l.kind == kind && wanted[name] != how {
				remove(name)
			}
		}
	}
	for _, b := range c.Bonds {
		if l, ok := find(b.Name); ok && l.kind == "bond" && m.made[b.Name] == "" {
			remove(b.Name) // someone else's, or of a program that ended
		} else if ok && l.kind != "bond" {
			bad("%q is the name of a port: give the bond another", b.Name)
			continue
		}
		if _, ok := find(b.Name); !ok {
			if err := addBond(b); err != nil {
				bad("the bond %s cannot be made: %v", b.Name, explain(err))
				continue
			}
			m.made[b.Name] = wanted[b.Name]
			again()
		}
		bond, ok := find(b.Name)
		if !ok {
			continue
		}
		for name, of := range p.members {
			l, there := find(name)
			if of != b.Name || !there || l.master == bond.index {
				continue
			}
			if err := enslave(l, bond); err != nil {
				bad("%s cannot become part of %s: %v", name, b.Name, explain(err))
			}
			again()
		}
		if b.Primary != "" {
			for _, l := range links {
				if l.master == bond.index && (l.name == b.Primary || l.mac.String() == b.Primary) {
					if err := setPrimary(bond, l); err != nil {
						bad("%s cannot be the primary port of %s: %v", l.name, b.Name, explain(err))
					}
				}
			}
		}
	}
	// Ports that are no longer members become free.
	for _, l := range links {
		if l.master == 0 || !l.wired || p.members[l.name] != "" {
			continue
		}
		if master := slices.IndexFunc(links, func(b link) bool { return b.index == l.master }); master >= 0 && links[master].kind == "bond" {
			if nl, err := netlink.LinkByIndex(l.index); err == nil {
				if err := netlink.LinkSetNoMaster(nl); err != nil {
					bad("%s cannot be taken out of its bond: %v", l.name, err)
				}
				again()
			}
		}
	}
	for _, v := range c.VLANs {
		base, ok := find(below[v.Name])
		if !ok {
			continue
		}
		if l, ok := find(v.Name); ok && l.kind == "vlan" && m.made[v.Name] == "" {
			remove(v.Name)
		} else if ok && l.kind != "vlan" {
			bad("%q is the name of a port: give the VLAN another", v.Name)
			continue
		}
		if _, ok := find(v.Name); ok {
			continue
		}
		if !base.up {
			// A VLAN is up only while what carries it is.
			if nl, err := netlink.LinkByIndex(base.index); err == nil {
				_ = netlink.LinkSetUp(nl) // prepare says when it cannot
			}
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = v.Name, base.index
		if err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: v.ID, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}); err != nil {
			bad("VLAN %d on %s cannot be made: %v", v.ID, v.On, explain(err))
			continue
		}
		m.made[v.Name] = wanted[v.Name]
		again()
	}
	if changed {
		again()
	}
	return links
}

// explain says what an error of the kernel means here.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return errors.New("this machine's kernel cannot do that")
	case errors.Is(err, unix.EEXIST):
		return errors.New("there is one already")
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return ErrPermission
	}
	return err
}

func addBond(b Bond) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = b.Name
	bond := netlink.NewLinkBond(attrs)
	bond.Mode = netlink.StringToBondMode(b.Mode)
	bond.Miimon = 100
	if b.LACPRate != "" {
		bond.LacpRate = netlink.StringToBondLacpRate(b.LACPRate)
	}
	if b.Hash != "" {
		bond.XmitHashPolicy = netlink.StringToBondXmitHashPolicy(b.Hash)
	}
	return netlink.LinkAdd(bond)
}

// enslave puts a port into a bond. The kernel wants it down and without addresses,
// and turns it on itself.
func enslave(l, bond link) error {
	nl, err := netlink.LinkByIndex(l.index)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetDown(nl); err != nil {
		return err
	}
	addrs, err := netlink.AddrList(nl, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if err := netlink.AddrDel(nl, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return err
		}
	}
	return netlink.LinkSetMasterByIndex(nl, bond.index)
}

func setPrimary(bond, l link) error {
	path := "/sys/class/net/" + bond.name + "/bonding/primary"
	if now, err := os.ReadFile(path); err == nil && string(now) == l.name+"\n" {
		return nil
	}
	return os.WriteFile(path, []byte(l.name), 0)
}
