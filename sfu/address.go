package sfu

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// address is where clients reach the relay.
type address struct {
	v4, v6   string   // the first ones
	all      []string // in the order in which they are tried
	fixed    bool     // configured: offered instead of the interfaces' addresses
	mapped   bool     // configured are more than LiveKit knows of: reach.go offers them
	machine  []string // the interfaces', where others are configured
	loopback bool     // the machine has no other
	skip     []string // interfaces that lead to no client
}

// maxNodeIPs bounds the configured addresses: each is a candidate of every client.
const maxNodeIPs = 8

// ParseNodeIP reads addresses as in Options.NodeIP.
func ParseNodeIP(s string) ([]string, error) {
	var out []string
	for part := range strings.SplitSeq(s, ",") {
		ip, err := netip.ParseAddr(strings.TrimSpace(part))
		if err != nil || ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast() {
			return nil, fmt.Errorf("sfu: the relay's address %q must be an IP address, or several with commas between", s)
		}
		if x := ip.Unmap().String(); !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	if len(out) > maxNodeIPs {
		return nil, fmt.Errorf("sfu: %d addresses are configured for the relay; at most %d can be", len(out), maxNodeIPs)
	}
	return out, nil
}

// bridges are the prefixes of interfaces between the machine and its own
// containers and virtual machines.
var bridges = []string{"docker", "br-", "veth", "virbr", "cni", "flannel", "cali", "podman", "lxc", "lxdbr", "vnet"}

// chooseAddress takes the configured address, or those of the interface that has
// the default route, or else the first interface's; loopback where there is no
// other. It reads interfaces and routes and sends nothing.
func chooseAddress(configured string) (address, error) {
	if configured != "" {
		all, err := ParseNodeIP(configured)
		if err != nil {
			return address{}, err
		}
		a := address{all: all, fixed: true}
		for _, x := range all {
			ip := net.ParseIP(x)
			a.loopback = a.loopback || ip.IsLoopback()
			first := &a.v4
			if ip.To4() == nil {
				first = &a.v6
			}
			if *first != "" {
				a.mapped = true
			} else {
				*first = x
			}
		}
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			return address{}, err
		}
		for _, x := range addrs {
			if n, ok := x.(*net.IPNet); ok {
				a.machine = append(a.machine, n.IP.String())
			}
		}
		return a, nil
	}
	ifaces, err := net.Interfaces()
	if err != nil {
		return address{}, err
	}
	routes, _ := os.ReadFile("/proc/net/route") // IPv4 and Linux only; elsewhere the first interface wins
	return fromInterfaces(ifaces, (*net.Interface).Addrs, defaultRoute(routes))
}

func fromInterfaces(ifaces []net.Interface, addrs func(*net.Interface) ([]net.Addr, error), preferred string) (address, error) {
	var a address
	var hasLo4, hasLo6 bool
	slices.SortStableFunc(ifaces, func(x, y net.Interface) int {
		if (x.Name == preferred) == (y.Name == preferred) {
			return 0
		} else if x.Name == preferred {
			return -1
		}
		return 1
	})
	for i := range ifaces {
		f := &ifaces[i]
		if f.Name != preferred && slices.ContainsFunc(bridges, func(p string) bool { return strings.HasPrefix(f.Name, p) }) {
			a.skip = append(a.skip, f.Name)
			continue
		}
		if f.Flags&net.FlagUp == 0 {
			continue
		}
		list, err := addrs(f)
		if err != nil {
			continue
		}
		for _, x := range list {
			n, ok := x.(*net.IPNet)
			if !ok || n.IP.IsLinkLocalUnicast() || n.IP.IsMulticast() || n.IP.IsUnspecified() {
				continue
			}
			switch is4 := n.IP.To4() != nil; {
			case n.IP.IsLoopback():
				hasLo4, hasLo6 = hasLo4 || is4, hasLo6 || !is4
			case is4:
				a.v4 = cmp.Or(a.v4, n.IP.String())
				a.all = append(a.all, n.IP.String())
			default:
				a.v6 = cmp.Or(a.v6, n.IP.String())
				a.all = append(a.all, n.IP.String())
			}
		}
	}
	if a.v4 == "" && a.v6 == "" {
		a.loopback = true
		switch {
		case hasLo4:
			a.v4 = "127.0.0.1"
		case hasLo6:
			a.v6 = "::1"
		default:
			return a, errors.New("no network interface has an address; not even loopback")
		}
		a.all = []string{cmp.Or(a.v4, a.v6)}
	}
	return a, nil
}

// interfaceAddresses lists the addresses that clients may be offered, as one string.
func interfaceAddresses() string {
	ifaces, err := net.Interfaces()
	if err != nil {
		return ""
	}
	var all []string
	for i := range ifaces {
		f := &ifaces[i]
		if f.Flags&net.FlagUp == 0 || slices.ContainsFunc(bridges, func(p string) bool { return strings.HasPrefix(f.Name, p) }) {
			continue
		}
		addrs, err := f.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() && !n.IP.IsLoopback() {
				all = append(all, f.Name+" "+n.IP.String())
			}
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// defaultRoute is the interface of the default route in the format of Linux'
// /proc/net/route, or "".
func defaultRoute(table []byte) string {
	best, metric := "", -1
	sc := bufio.NewScanner(bytes.NewReader(table))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			continue
		}
		if m, err := strconv.Atoi(f[6]); err == nil && (metric < 0 || m < metric) {
			best, metric = f[0], m
		}
	}
	return best
}

// settleTime is how long start waits for new addresses. The kernel looks for another
// holder of an IPv6 address for a second or two before it may be used (RFC 4862, 5.4).
const settleTime = 4 * time.Second

// settle waits until the interfaces' addresses can be used.
func settle() {
	for end := time.Now().Add(settleTime); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		table, err := os.ReadFile("/proc/net/if_inet6") // Linux only; elsewhere nothing is known
		if err != nil || !tentative(table) {
			return
		}
	}
}

// tentative reports whether the kernel still examines an address, in the format of
// Linux' /proc/net/if_inet6: address, interface, prefix, scope, flags, name.
func tentative(table []byte) bool {
	const isTentative, hasFailed = 0x40, 0x08 // IFA_F_TENTATIVE, IFA_F_DADFAILED
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 6 {
			continue
		}
		if flags, err := strconv.ParseUint(f[4], 16, 32); err == nil && flags&isTentative != 0 && flags&hasFailed == 0 {
			return true
		}
	}
	return false
}

func isLocal(ip string) bool {
	addrs, _ := net.InterfaceAddrs()
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.String() == ip
	})
}

// choosePorts settles the ports. See Options.
func choosePorts(o Options, a address) (Ports, error) {
	var p Ports
	var err error
	if p.UDP, err = choosePort(o.UDPPort, DefaultUDPPort, "UDP", udpFree, nil); err != nil {
		return p, err
	}
	if p.TCP, err = choosePort(o.TCPPort, DefaultTCPPort, "TCP", tcpFree, nil); err != nil {
		return p, err
	}
	p.TURN, err = choosePort(o.TURNPort, DefaultTURNPort, "TURN (UDP)", udpFree, []int{p.UDP})
	if err == nil && o.Log != nil {
		for _, c := range []struct{ asked, def, got int }{{o.UDPPort, DefaultUDPPort, p.UDP}, {o.TCPPort, DefaultTCPPort, p.TCP}, {o.TURNPort, DefaultTURNPort, p.TURN}} {
			if c.asked == 0 && c.got != c.def {
				o.Log.Warn("a port of the call relay is taken by another program; a free one is used", "port", c.def, "instead", c.got)
			}
		}
	}
	return p, err
}

func choosePort(asked, def int, what string, free func(int) (int, error), taken []int) (int, error) {
	switch asked {
	case AnyPort:
	case 0:
		if got, err := free(def); err == nil && !slices.Contains(taken, got) {
			return got, nil
		}
	default:
		if slices.Contains(taken, asked) {
			return 0, fmt.Errorf("port %d is given to two purposes; the %s port needs its own", asked, what)
		}
		if _, err := free(asked); err != nil {
			return 0, fmt.Errorf("the %s port %d of the call relay cannot be opened: %w", what, asked, err)
		}
		return asked, nil
	}
	for range 10 {
		got, err := free(0)
		if err != nil {
			return 0, err
		}
		if !slices.Contains(taken, got) {
			return got, nil
		}
	}
	return 0, fmt.Errorf("no free port for %s", what)
}

func udpFree(port int) (int, error) {
	c, err := net.ListenPacket("udp", ":"+strconv.Itoa(port))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).Port, nil
}

func tcpFree(port int) (int, error) {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
