package network

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Config is how the machine is connected: what stands in network.json. Make one by
// Default or Parse, which fill in the methods and check the whole.
type Config struct {
	// Hostname is set as the machine's name and told to DHCP servers.
	Hostname string `json:"hostname,omitempty"`
	Ports    []Port `json:"ports,omitempty"`
	Bonds    []Bond `json:"bonds,omitempty"`
	VLANs    []VLAN `json:"vlans,omitempty"`
	DNS      DNS    `json:"dns,omitzero"`
}

// AnyWired selects every Ethernet port that nothing else in the configuration names.
const AnyWired = "any wired"

// Port is one network port, or all of them.
type Port struct {
	// Port is AnyWired, a hardware address, or the kernel's name of the port.
	Port string `json:"port"`
	MTU  int    `json:"mtu,omitempty"`
	IPv4 IPv4   `json:"ipv4,omitzero"`
	IPv6 IPv6   `json:"ipv6,omitzero"`
}

// Bond joins ports into one.
type Bond struct {
	Name  string   `json:"name"`
	Ports []string `json:"ports"` // as in Port.Port
	Mode  string   `json:"mode"`
	// Primary is the member that is used while it has link (active-backup,
	// balance-tlb, balance-alb).
	Primary string `json:"primary,omitempty"`
	// LACPRate is "slow" or "fast" (802.3ad).
	LACPRate string `json:"lacp_rate,omitempty"`
	// Hash is how connections are spread (balance-xor, 802.3ad, balance-tlb).
	Hash string `json:"hash,omitempty"`
	MTU  int    `json:"mtu,omitempty"`
	IPv4 IPv4   `json:"ipv4,omitzero"`
	IPv6 IPv6   `json:"ipv6,omitzero"`
}

// VLAN is one tagged network on a port or bond.
type VLAN struct {
	Name string `json:"name"`
	On   string `json:"on"` // a bond's name, or as in Port.Port
	ID   int    `json:"id"`
	MTU  int    `json:"mtu,omitempty"`
	IPv4 IPv4   `json:"ipv4,omitzero"`
	IPv6 IPv6   `json:"ipv6,omitzero"`
}

// Methods of getting addresses.
const (
	DHCP   = "dhcp"   // ask a DHCP server; IPv6: router advertisements as well
	Static = "static" // the given addresses and no others
	Auto   = "auto"   // IPv6 alone: router advertisements
	None   = "none"   // no address
)

// IPv4 says which IPv4 addresses a port has.
type IPv4 struct {
	Method    string         `json:"method,omitempty"` // DHCP (when nothing is said), Static, None
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Gateway   netip.Addr     `json:"gateway,omitzero"`
	// NoLinkLocal: no 169.254.x.y when no DHCP server answers.
	NoLinkLocal bool `json:"no_link_local,omitempty"`
}

// IPv6 says which IPv6 addresses a port has. Addresses may be given with Auto and
// DHCP too; they are then had besides the others.
type IPv6 struct {
	Method    string         `json:"method,omitempty"` // Auto (when nothing is said), DHCP, Static, None
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Gateway   netip.Addr     `json:"gateway,omitzero"`
}

// DNS is used in place of what DHCP and routers say.
type DNS struct {
	Servers []netip.Addr `json:"servers,omitempty"`
	Search  []string     `json:"search,omitempty"`
}

// MaxConfig is the most bytes that a configuration may have.
const MaxConfig = 64 << 10

// Limits that the kernel, the resolver or good sense give.
const (
	maxEntries   = 64
	maxAddresses = 16
	maxServers   = 3
	maxSearch    = 6
)

// BondModes are the modes by their kernel names.
var BondModes = []string{"active-backup", "802.3ad", "balance-alb", "balance-tlb", "balance-rr", "balance-xor", "broadcast"}

var bondHashes = []string{"layer2", "layer2+3", "layer3+4"}

// ConfigError is what is wrong with a configuration, and what to do about it.
type ConfigError struct {
	Path string // such as "ports[0].ipv4.gateway"; "" for the whole
	Text string
}

func (e *ConfigError) Error() string {
	if e.Path == "" {
		return "network configuration: " + e.Text
	}
	return "network configuration: " + e.Path + ": " + e.Text
}

// Default is DHCP and router advertisements on every wired port.
func Default() Config {
	return Config{Ports: []Port{{Port: AnyWired, IPv4: IPv4{Method: DHCP}, IPv6: IPv6{Method: Auto}}}}
}

// Parse reads and checks a configuration. Its error is of ConfigErrors, sorted as
// the values stand.
func Parse(text []byte) (Config, error) {
	var c Config
	if len(text) > MaxConfig {
		return c, ConfigErrors{{Text: fmt.Sprintf("it has %d bytes, more than %d: this is not a network configuration", len(text), MaxConfig)}}
	}
	if err := decodeStrict(text, &c); err != nil {
		return Config{}, err
	}
	if err := c.check(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// JSON is the configuration as network.json has it.
func (c Config) JSON() []byte {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		panic(err) // every field has an encoding
	}
	return append(text, '\n')
}

// ConfigErrors are all that is wrong with a configuration.
type ConfigErrors []*ConfigError

func (e ConfigErrors) Error() string {
	lines := make([]string, len(e))
	for i, x := range e {
		lines[i] = x.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find each.
func (e ConfigErrors) Unwrap() []error {
	list := make([]error, len(e))
	for i, x := range e {
		list[i] = x
	}
	return list
}

// clone is a copy that shares nothing.
func (c Config) clone() Config {
	var d Config
	if err := json.Unmarshal(c.JSON(), &d); err != nil {
		panic(err)
	}
	return d
}

func (c Config) equal(d Config) bool { return bytes.Equal(c.JSON(), d.JSON()) }

type checker struct {
	errs ConfigErrors
	// selectors and names are taken where their value says.
	selectors map[string]string
	names     map[string]string
	addresses map[netip.Addr]string
	networks  []usedNetwork
	reachable bool
}

type usedNetwork struct {
	prefix netip.Prefix
	port   string
}

func (k *checker) bad(path, format string, args ...any) {
	k.errs = append(k.errs, &ConfigError{path, fmt.Sprintf(format, args...)})
}

// check fills in what is left out, brings names into one form, and returns
// ConfigErrors or nil.
func (c *Config) check() error {
	k := &checker{selectors: map[string]string{}, names: map[string]string{}, addresses: map[netip.Addr]string{}}
	if c.Hostname != "" && !validHost(c.Hostname) {
		k.bad("hostname", "%q is not a host name: use letters, digits and hyphens, 63 at most, such as \"chat\"", c.Hostname)
	}
	if len(c.Ports) > maxEntries || len(c.Bonds) > maxEntries || len(c.VLANs) > maxEntries {
		k.bad("", "there are more than %d ports, bonds or VLANs", maxEntries)
		return k.errs
	}
	bonds := map[string]int{} // name to MTU
	for i := range c.Bonds {
		b, path := &c.Bonds[i], fmt.Sprintf("bonds[%d]", i)
		k.name(path+".name", b.Name)
		bonds[b.Name] = b.MTU
		k.bond(path, b)
		k.addressing(path, b.Name, b.MTU, &b.IPv4, &b.IPv6)
	}
	mtus := map[string]int{}
	for i := range c.Ports {
		p, path := &c.Ports[i], fmt.Sprintf("ports[%d]", i)
		if p.Port == "" {
			k.bad(path+".port", "missing: give %q, a hardware address such as \"52:54:00:12:34:56\", or a name such as \"eth0\"", AnyWired)
			continue
		}
		if _, ok := bonds[p.Port]; ok {
			k.bad(path+".port", "%q is a bond: give its addresses in \"bonds\"", p.Port)
			continue
		}
		k.selector(path+".port", &p.Port, true)
		mtus[p.Port] = p.MTU
		k.addressing(path, p.Port, p.MTU, &p.IPv4, &p.IPv6)
	}
	tags := map[string]string{}
	for i := range c.VLANs {
		v, path := &c.VLANs[i], fmt.Sprintf("vlans[%d]", i)
		if v.Name == "" && v.ID > 0 {
			v.Name = fmt.Sprintf("vlan%d", v.ID)
		}
		k.name(path+".name", v.Name)
		if v.ID < 1 || v.ID > 4094 {
			k.bad(path+".id", "%d is not a VLAN's number: use 1 to 4094", v.ID)
		}
		base, isBond := bonds[v.On]
		switch {
		case v.On == "":
			k.bad(path+".on", "missing: name the port or bond that carries this VLAN")
		case isBond:
		case v.On == AnyWired:
			k.bad(path+".on", "a VLAN needs one port: give a hardware address, a name such as \"eth0\", or a bond's name")
		default:
			on, err := normalise(v.On)
			if err != nil {
				k.bad(path+".on", "%v", err)
				break
			}
			v.On = on
			if where, taken := k.selectors[on]; taken && strings.HasPrefix(where, "bonds") {
				k.bad(path+".on", "%q belongs to a bond (%s): name the bond", on, where)
			}
			base = mtus[on]
		}
		if v.MTU > 0 && base > 0 && v.MTU > base {
			k.bad(path+".mtu", "%d is more than the %d of %q, which carries it", v.MTU, base, v.On)
		}
		tag := fmt.Sprintf("%s/%d", v.On, v.ID)
		if where, ok := tags[tag]; ok {
			k.bad(path, "VLAN %d on %q is already %s", v.ID, v.On, where)
		}
		tags[tag] = path
		k.addressing(path, v.Name, v.MTU, &v.IPv4, &v.IPv6)
	}
	for name, where := range k.names {
		if at, ok := k.selectors[name]; ok {
			k.bad(where, "%q is also a port (%s): give another name", name, at)
		}
	}
	if len(c.DNS.Servers) > maxServers {
		k.bad("dns.servers", "there are %d: give %d at most", len(c.DNS.Servers), maxServers)
	}
	for i, a := range c.DNS.Servers {
		if !usable(a) || a.Zone() != "" {
			k.bad(fmt.Sprintf("dns.servers[%d]", i), "%s cannot be a DNS server's address", a)
		}
	}
	if len(c.DNS.Search) > maxSearch {
		k.bad("dns.search", "there are %d: give %d at most", len(c.DNS.Search), maxSearch)
	}
	for i, d := range c.DNS.Search {
		if !validDomain(d) {
			k.bad(fmt.Sprintf("dns.search[%d]", i), "%q is not a domain, such as \"example.org\"", d)
		}
	}
	if len(k.errs) == 0 && !k.reachable {
		k.bad("ports", "with this nothing could reach the appliance: add {\"port\": %q}, or give a port an address", AnyWired)
	}
	if len(k.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(k.errs, func(a, b *ConfigError) int { return strings.Compare(a.Path, b.Path) })
	return k.errs
}

// selector checks and normalises what selects a port, and that nothing else does.
func (k *checker) selector(path string, s *string, any bool) {
	if *s == AnyWired && !any {
		k.bad(path, "name each port: a hardware address, or a name such as \"eth0\"")
		return
	}
	n, err := normalise(*s)
	if err != nil {
		k.bad(path, "%v", err)
		return
	}
	*s = n
	if where, ok := k.selectors[n]; ok {
		k.bad(path, "%q already stands at %s: say all about a port in one place", n, where)
		return
	}
	k.selectors[n] = path
}

// normalise brings a port's selector into the form that the plan compares.
func normalise(s string) (string, error) {
	if s == AnyWired {
		return s, nil
	}
	if mac, err := net.ParseMAC(s); err == nil {
		if len(mac) != 6 || mac[0]&1 != 0 || bytes.Equal(mac, make([]byte, 6)) {
			return "", fmt.Errorf("%q is not the hardware address of a network port", s)
		}
		return mac.String(), nil
	}
	if !validInterface(s) {
		return "", fmt.Errorf("%q is neither %q, nor a hardware address such as \"52:54:00:12:34:56\", nor a name such as \"eth0\"", s, AnyWired)
	}
	return s, nil
}

func (k *checker) name(path, name string) {
	if !validInterface(name) {
		k.bad(path, "%q cannot be a name: use 1 to 15 letters, digits, hyphens and dots, such as \"office\"", name)
		return
	}
	if where, ok := k.names[name]; ok {
		k.bad(path, "%q is already the name at %s", name, where)
		return
	}
	k.names[name] = path
}

func (k *checker) bond(path string, b *Bond) {
	if len(b.Ports) == 0 {
		k.bad(path+".ports", "missing: name the ports that the bond joins")
	}
	if len(b.Ports) > maxEntries {
		k.bad(path+".ports", "there are more than %d", maxEntries)
		return
	}
	for i := range b.Ports {
		k.selector(fmt.Sprintf("%s.ports[%d]", path, i), &b.Ports[i], false)
	}
	if !slices.Contains(BondModes, b.Mode) {
		k.bad(path+".mode", "%s", oneOf(b.Mode, BondModes))
	}
	if b.Primary != "" {
		if n, err := normalise(b.Primary); err == nil {
			b.Primary = n
		}
		switch {
		case !slices.Contains([]string{"active-backup", "balance-tlb", "balance-alb"}, b.Mode):
			k.bad(path+".primary", "the mode %s has no primary port: remove it", b.Mode)
		case !slices.Contains(b.Ports, b.Primary):
			k.bad(path+".primary", "%q is not among the bond's ports as they are written there", b.Primary)
		}
	}
	if b.LACPRate != "" {
		switch {
		case b.Mode != "802.3ad":
			k.bad(path+".lacp_rate", "only the mode 802.3ad has it: remove it")
		case b.LACPRate != "slow" && b.LACPRate != "fast":
			k.bad(path+".lacp_rate", "%s", oneOf(b.LACPRate, []string{"slow", "fast"}))
		}
	}
	if b.Hash != "" {
		switch {
		case !slices.Contains([]string{"balance-xor", "802.3ad", "balance-tlb"}, b.Mode):
			k.bad(path+".hash", "the mode %s has no such choice: remove it", b.Mode)
		case !slices.Contains(bondHashes, b.Hash):
			k.bad(path+".hash", "%s", oneOf(b.Hash, bondHashes))
		}
	}
}

func oneOf(got string, want []string) string {
	near := nearest(got, want)
	text := fmt.Sprintf("%q is none of %s", got, strings.Join(want, ", "))
	if got == "" {
		text = "missing: one of " + strings.Join(want, ", ")
	}
	if near != "" {
		text += fmt.Sprintf("; do you mean %q?", near)
	}
	return text
}

func (k *checker) addressing(path, port string, mtu int, v4 *IPv4, v6 *IPv6) {
	if v4.Method == "" {
		v4.Method = DHCP
		if len(v4.Addresses) > 0 {
			v4.Method = Static
		}
	}
	if v6.Method == "" {
		v6.Method = Auto
	}
	least, why := 1280, " (IPv6 needs 1280)"
	if v6.Method == None {
		least, why = 576, ""
	}
	if mtu != 0 && (mtu < least || mtu > 65535) {
		k.bad(path+".mtu", "%d is not possible: use %d to 65535%s; 1500 is usual", mtu, least, why)
	}
	k.reachable = k.reachable || v4.Method != None || v6.Method != None

	p := path + ".ipv4"
	switch v4.Method {
	case DHCP, None:
		if len(v4.Addresses) > 0 {
			k.bad(p+".addresses", "with the method %q there are none of one's own: set \"method\" to \"static\", or remove them", v4.Method)
		}
		if v4.Gateway.IsValid() {
			k.bad(p+".gateway", "with the method %q there is none of one's own: set \"method\" to \"static\", or remove it", v4.Method)
		}
	case Static:
		if len(v4.Addresses) == 0 {
			k.bad(p+".addresses", "missing: give one such as \"192.168.1.10/24\"")
		}
	default:
		k.bad(p+".method", "%s", oneOf(v4.Method, []string{DHCP, Static, None}))
	}
	k.addrs(p, port, v4.Addresses, v4.Gateway, false)

	p = path + ".ipv6"
	switch v6.Method {
	case Auto, DHCP:
	case None:
		if len(v6.Addresses) > 0 {
			k.bad(p+".addresses", "with the method \"none\" there are none: set \"method\" to \"static\" or \"auto\", or remove them")
		}
	case Static:
		if len(v6.Addresses) == 0 {
			k.bad(p+".addresses", "missing: give one such as \"2001:db8::10/64\"")
		}
	default:
		k.bad(p+".method", "%s", oneOf(v6.Method, []string{Auto, DHCP, Static, None}))
	}
	if v6.Gateway.IsValid() && v6.Method != Static {
		k.bad(p+".gateway", "with the method %q the router tells it: set \"method\" to \"static\", or remove it", v6.Method)
	}
	k.addrs(p, port, v6.Addresses, v6.Gateway, true)
}

// addrs checks static addresses and their gateway.
func (k *checker) addrs(path, port string, list []netip.Prefix, gw netip.Addr, six bool) {
	family, example := "an IPv4", "192.168.1.10/24"
	if six {
		family, example = "an IPv6", "2001:db8::10/64"
	}
	if len(list) > maxAddresses {
		k.bad(path+".addresses", "there are %d: give %d at most", len(list), maxAddresses)
		return
	}
	reached := false
	for i, p := range list {
		at := fmt.Sprintf("%s.addresses[%d]", path, i)
		a := p.Addr()
		switch {
		case !p.IsValid() || a.Is4() == six || a.Is4In6():
			k.bad(at, "%q is not %s address with the length of its network, such as %q", p, family, example)
			continue
		case !usable(a), a.IsLinkLocalUnicast() && six:
			k.bad(at, "%s cannot be a port's address", a)
			continue
		case p.Bits() == 0:
			k.bad(at, "%q says that all addresses are in this network: give its length, such as %q", p, example)
			continue
		case !six && p.Bits() < 31 && a == p.Masked().Addr():
			k.bad(at, "%s is the network itself: give the port's own address in it, such as %s", a, netip.PrefixFrom(a.Next(), p.Bits()))
			continue
		case !six && p.Bits() < 31 && a == broadcast(p):
			k.bad(at, "%s is the network's broadcast address: give another", a)
			continue
		}
		if where, ok := k.addresses[a]; ok {
			k.bad(at, "%s already stands at %s", a, where)
		}
		k.addresses[a] = at
		for _, n := range k.networks {
			if n.port != port && n.prefix.Overlaps(p) {
				k.bad(at, "%s is the network of %q as well: two ports in one network do not work; join them in a bond, or use one", p.Masked(), n.port)
			}
		}
		k.networks = append(k.networks, usedNetwork{p, port})
		reached = reached || p.Masked().Contains(gw)
		if gw == a {
			k.bad(path+".gateway", "%s is the port's own address: give the router's", gw)
		}
	}
	if !gw.IsValid() {
		return
	}
	switch {
	case gw.Is4() == six || gw.Is4In6() || !usable(gw) || gw.Zone() != "":
		k.bad(path+".gateway", "%s is not %s address of a router", gw, family)
	case len(list) > 0 && !reached && !(six && gw.IsLinkLocalUnicast()):
		k.bad(path+".gateway", "%s is not in the network of any of the addresses: check the address, or the length after the \"/\"", gw)
	}
}

func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255}) &&
		!(a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240))
}

// broadcast is the last address of an IPv4 network.
func broadcast(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(a)
}

func validInterface(s string) bool {
	if s == "" || len(s) > 15 || s == "lo" || s == "." || s == ".." || s == "all" || s == "default" {
		return false
	}
	for _, r := range s {
		if !alnum(r) && r != '-' && r != '.' && r != '_' {
			return false
		}
	}
	return true
}

func alnum(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

func validHost(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, r := range s {
		if !alnum(r) && r != '-' {
			return false
		}
	}
	return true
}

func validDomain(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	for l := range strings.SplitSeq(s, ".") {
		if !validHost(strings.ReplaceAll(l, "_", "x")) {
			return false
		}
	}
	return true
}
