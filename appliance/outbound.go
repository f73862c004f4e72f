package appliance

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	// The disk image and the container image have no authorities of their own. Where
	// the system has some, these are not used.
	_ "golang.org/x/crypto/x509roots/fallback"
)

// errPrivate is why a request of the server itself was not made.
var errPrivate = errors.New("this is an address of this machine or of a private network, and network.allow_private is off; set it to true if the server may go there")

// outbound is the client for requests that the server itself makes. The address
// is looked at when the connection is made, after the name was resolved, so a name
// that leads to a private address does not get around it.
func outbound(allowPrivate bool) *http.Client {
	d := &net.Dialer{Timeout: 10 * time.Second}
	if !allowPrivate {
		d.Control = func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			if !public(ap.Addr()) {
				return fmt.Errorf("%s: %w", ap.Addr(), errPrivate)
			}
			return nil
		}
	}
	return &http.Client{
		Timeout: 60 * time.Second,
		Transport: &http.Transport{
			DialContext:           d.DialContext, // no proxy: it would be asked for private addresses
			ForceAttemptHTTP2:     true,
			MaxIdleConnsPerHost:   4,
			IdleConnTimeout:       90 * time.Second,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: 60 * time.Second,
		},
	}
}

// named is the client for addresses that administrators named: applications are on the
// site's network, so private addresses are allowed. Those that only a machine has for
// itself, as the metadata service of a cloud, are not; nor is this machine's loopback,
// unless network.allow_private says so.
func named(allowPrivate bool) *http.Client {
	c := outbound(true)
	t := c.Transport.(*http.Transport)
	d := &net.Dialer{Timeout: 10 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if a := ap.Addr().Unmap(); !a.IsGlobalUnicast() && !(a.IsLoopback() && allowPrivate) {
			return fmt.Errorf("%s: %w", a, errOwn)
		}
		return nil
	}}
	t.DialContext = d.DialContext
	return c
}

// errOwn is why a request to an application was not made.
var errOwn = errors.New("this address is not of another machine on a network; set network.allow_private if the application runs on this one")

// notPublic are ranges that the standard library has no word for.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // carrier-grade NAT, tailnets
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("192.88.99.0/24"), // relays of 6to4
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("::/96"),     // IPv4 addresses inside
	netip.MustParsePrefix("2001::/23"), // tunnels, benchmarks and the like
	netip.MustParsePrefix("3fff::/20"),
	netip.MustParsePrefix("5f00::/16"),
	netip.MustParsePrefix("100::/64"),
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("fec0::/10"),
}

var (
	nat64   = netip.MustParsePrefix("64:ff9b::/96")
	sixToV4 = netip.MustParsePrefix("2002::/16")
)

// public reports whether an address is one of the Internet.
func public(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	b := a.As16()
	switch { // an IPv4 address may be inside
	case a.Is6() && nat64.Contains(a):
		return public(netip.AddrFrom4([4]byte(b[12:16])))
	case a.Is6() && sixToV4.Contains(a):
		return public(netip.AddrFrom4([4]byte(b[2:6])))
	}
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// elsewhere reports whether an address is one of the Internet and of none of the
// networks that this machine is in: behind a firewall, addresses of the Internet may
// be as private as others. It judges addresses that any user can name.
func elsewhere(a netip.Addr) bool {
	if a = a.Unmap().WithZone(""); !public(a) {
		return false
	}
	near, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, n := range near {
		if p, ok := n.(*net.IPNet); ok && p.Contains(a.AsSlice()) {
			return false
		}
	}
	return true
}
