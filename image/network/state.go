package network

import (
	"net/netip"
	"time"
)

// State is what there is: read from the kernel, with what DHCP said beside it.
type State struct {
	Hostname string      `json:"hostname"`
	Ports    []PortState `json:"ports"`
	// DNS and Search are what stands in resolv.conf.
	DNS    []netip.Addr `json:"dns"`
	Search []string     `json:"search"`
	// NTP are the time servers that DHCP servers named.
	NTP []netip.Addr `json:"ntp"`
	// Unconfirmed is set while a change waits for Confirm: the time at which it is
	// taken back.
	Unconfirmed *time.Time `json:"unconfirmed,omitempty"`
	// TakenBack says why the last change was, until the next one.
	TakenBack string `json:"taken_back,omitempty"`
	// Problems that belong to no port that there is.
	Problems []string `json:"problems"`
}

// PortState is one port, bond or VLAN.
type PortState struct {
	Name string `json:"name"`
	Kind string `json:"kind"` // "wired", "wireless", "bond", "vlan"
	MAC  string `json:"mac"`
	// Selector is what in the configuration it is by; "" when nothing names it.
	Selector string `json:"selector"`
	// Bond is the bond that it belongs to.
	Bond      string       `json:"bond,omitempty"`
	Link      bool         `json:"link"`
	Speed     int          `json:"speed,omitempty"` // Mbit/s, where the driver says
	MTU       int          `json:"mtu"`
	Addresses []Address    `json:"addresses"`
	Gateways  []netip.Addr `json:"gateways"`
	Lease     *Lease       `json:"lease,omitempty"`
	// Problems say what to do about them.
	Problems []string `json:"problems"`
}

// Address is one address of a port.
type Address struct {
	Prefix netip.Prefix `json:"prefix"`
	// Source is "dhcp", "static", "link-local", "router" (a router advertised the
	// network), or "" for one that something else gave.
	Source string `json:"source"`
	// Tentative: the kernel is still finding out whether it is free.
	Tentative bool `json:"tentative,omitempty"`
}

// Lease is what a DHCP server gave, apart from the address.
type Lease struct {
	Address netip.Prefix `json:"address"`
	Server  netip.Addr   `json:"server"`
	// Expires is zero for a lease without an end.
	Expires time.Time `json:"expires,omitzero"`
	// Remembered: the server did not answer; this is from an earlier time.
	Remembered bool `json:"remembered,omitempty"`
}

// Reachable are the addresses at which other machines may find this one, those of
// preferred ports first and link-local ones last.
func (s State) Reachable() []netip.Addr {
	var first, last []netip.Addr
	for _, p := range s.Ports {
		if !p.Link {
			continue
		}
		for _, a := range p.Addresses {
			switch ip := a.Prefix.Addr(); {
			case a.Tentative:
			case ip.Is4() && ip.IsLinkLocalUnicast():
				last = append(last, ip)
			case ip.IsLinkLocalUnicast():
			default:
				first = append(first, ip)
			}
		}
	}
	return append(first, last...)
}
