package appliance

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"holdfast/appliance/config"
	"holdfast/appliance/settings"
)

// serverName decides the server's name: the one that accounts carry, else the
// configured one, else a provisional one.
func (a *Appliance) serverName() (string, error) {
	fixed, asked := a.settings.Get(settings.ServerName), a.cfg.ServerName
	switch {
	case fixed != "" && asked != "" && fixed != asked:
		return "", fmt.Errorf("%s: server_name: the configuration says %q, but this data folder belongs to %q; the name is part of every account and cannot change. Set server_name to %q or remove it, or start an empty data folder for %q",
			a.cfg.Source("server_name"), asked, fixed, fixed, asked)
	case fixed != "":
		return fixed, nil
	case asked != "":
		return asked, nil
	}
	return provisionalName(), nil
}

// nameFixed reports whether the server name can no longer be chosen.
func (a *Appliance) nameFixed() bool {
	return a.settings.Get(settings.ServerName) != "" || a.cfg.ServerName != ""
}

// provisionalName is the server name until the wizard or the first account fixes
// one: the host name where it is a valid server name, else "localhost".
func provisionalName() string {
	host, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	name := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '.':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, host), "-.")
	if config.ValidServerName(name) != "" {
		return "localhost"
	}
	return name
}

// publicURL is where clients reach the appliance, as far as it was told.
func (a *Appliance) publicURL() string {
	if a.cfg.PublicURL != "" {
		return a.cfg.PublicURL
	}
	name := a.cfg.ServerName
	if c := a.core.Load(); c != nil {
		name = c.name
	}
	return "https://" + name
}

// origin is the origin under which the sender of a request reaches the appliance:
// public_url, unless the listener shows that it was reached otherwise:
//
//   - on this machine, at http://localhost:PORT of the plain listener;
//   - where public_url is not configured, also at the IP address of that
//     listener, and at a name or address that our own certificate is valid for.
//
// A request that passed a proxy is always told public_url: the Host header may be
// the proxy's.
func (a *Appliance) origin(r *http.Request) string {
	canonical := a.publicURL()
	l, ok := r.Context().Value(listenerKey{}).(*listener)
	if !ok || proxied(r) {
		return canonical
	}
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		host, port = r.Host, l.defaultPort()
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if port != l.port() {
		return canonical
	}
	switch l.name {
	case "http":
		addr, isAddr := netip.ParseAddr(host)
		switch {
		case host == "localhost" && loopback(r):
		case a.cfg.PublicURL == "" && isAddr == nil && addr.IsLoopback() && loopback(r):
		default:
			return canonical
		}
		return "http://" + hostPort(host, port, "80")
	case "https":
		if host == "localhost" && loopback(r) {
			return "https://" + hostPort(host, port, "443")
		}
		if a.cfg.PublicURL == "" && a.ownName(host) {
			return "https://" + hostPort(host, port, "443")
		}
	}
	return canonical
}

// proxied reports whether a proxy says that it passed the request on.
func proxied(r *http.Request) bool {
	for _, h := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "Via", "X-Real-Ip"} {
		if r.Header.Get(h) != "" {
			return true
		}
	}
	return false
}

// loopback reports whether both ends of the connection are on this machine.
func loopback(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local == nil {
		return false
	}
	l, err1 := netip.ParseAddrPort(local.String())
	c, err2 := netip.ParseAddrPort(r.RemoteAddr)
	return err1 == nil && err2 == nil && l.Addr().Unmap().IsLoopback() && c.Addr().Unmap().IsLoopback()
}

func hostPort(host, port, usual string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port == usual || port == "" {
		return host
	}
	return host + ":" + port
}

// names are what the own certificate is valid for.
func (a *Appliance) names() []string {
	names := []string{}
	if h := a.cfg.PublicHost(); h != "" {
		names = append(names, h)
	}
	if c := a.core.Load(); c != nil {
		names = append(names, config.Host(c.name))
	} else if n, err := a.serverName(); err == nil {
		names = append(names, config.Host(n))
	}
	if h, err := os.Hostname(); err == nil {
		names = append(names, h)
	}
	names = append(names, "localhost", "127.0.0.1", "::1")
	for _, ip := range lanAddrs() {
		names = append(names, ip.String())
	}
	out := names[:0]
	for _, n := range names {
		if n = strings.ToLower(strings.Trim(n, "[]")); config.ValidServerName(n) == "" || isIPv6(n) {
			out = append(out, n)
		}
	}
	return out
}

func isIPv6(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is6()
}

func (a *Appliance) ownName(host string) bool {
	for _, n := range a.names() {
		if n == host {
			return true
		}
	}
	return false
}

// lanAddrs are the addresses under which other machines may reach this one.
func lanAddrs() []netip.Addr {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var v4, v6 []netip.Addr
	for _, i := range ifs {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, _ := i.Addrs()
		for _, ad := range addrs {
			p, err := netip.ParsePrefix(ad.String())
			if err != nil {
				continue
			}
			ip := p.Addr().Unmap()
			switch {
			case ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsLoopback():
			case ip.Is4():
				v4 = append(v4, ip)
			default:
				v6 = append(v6, ip)
			}
		}
	}
	return append(v4, v6...)
}

// localURL is the address for a browser on this machine, "" without a listener
// that it would accept.
func (a *Appliance) localURL() string {
	for _, l := range a.listens {
		if l.name == "http" && l.reaches(netip.MustParseAddr("127.0.0.1")) {
			return "http://" + hostPort("localhost", l.port(), "80")
		}
	}
	return ""
}

// sharedURL is an address to hand to other people: public_url where it is
// configured; else the address in the network, when the server's name alone does
// not lead here.
func (a *Appliance) sharedURL() string {
	if a.cfg.PublicURL != "" {
		return a.cfg.PublicURL
	}
	for _, l := range a.listens {
		if l.name != "https" {
			continue
		}
		name := a.core.Load().name
		if l.port() == "443" && strings.Contains(config.Host(name), ".") && a.nameFixed() && config.Host(name) == name {
			return "https://" + name
		}
		for _, ip := range lanAddrs() {
			if l.reaches(ip) {
				return "https://" + hostPort(ip.String(), l.port(), "443")
			}
		}
		return "https://" + hostPort("localhost", l.port(), "443")
	}
	if u := a.localURL(); u != "" && a.cfg.ServerName == "" {
		return u
	}
	return a.publicURL()
}

// reaches reports whether a listener accepts connections to an address.
func (l *listener) reaches(ip netip.Addr) bool {
	ap, err := netip.ParseAddrPort(l.ln.Addr().String())
	return err == nil && (ap.Addr().IsUnspecified() || ap.Addr().Unmap() == ip)
}

func (l *listener) port() string {
	if a, ok := l.ln.Addr().(*net.TCPAddr); ok {
		return strconv.Itoa(a.Port)
	}
	return ""
}

func (l *listener) defaultPort() string {
	if l.tls {
		return "443"
	}
	return "80"
}
