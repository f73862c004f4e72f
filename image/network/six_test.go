package network

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func (o *outside) radvd(dns string) {
	o.t.Helper()
	o.do(func() {
		must(o.t, os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	})
	dir := o.t.TempDir()
	must(o.t, os.Chmod(dir, 0o755))
	conf := filepath.Join(dir, "radvd.conf")
	must(o.t, os.WriteFile(conf, fmt.Appendf(nil, `interface switch {
		AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 60;
		prefix 2001:db8::/64 { AdvOnLink on; AdvAutonomous on; AdvValidLifetime 600; AdvPreferredLifetime 300; };
		RDNSS %s { AdvRDNSSLifetime 60; };
		DNSSL Office.example.org { AdvDNSSLLifetime 60; };
	};`, dns), 0o644))
	o.run("radvd", "-n", "-d", "1", "-m", "stderr", "-C", conf, "-p", filepath.Join(dir, "pid"))
}

func TestRouterAdvertisement(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.port("eth1", mac1)
	o.address("2001:db8::1/64")
	o.address("2001:db8:99::1/128")
	o.greet("[2001:db8:99::1]:80")
	o.plug("eth0", true)
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	m := machine(t, parse(t, `{"ports": [{"port": "any wired", "ipv4": {"method": "none"}}]}`), ResolvConf(resolv))
	o.radvd("2001:db8::53")
	a := gets(t, m, "eth0", "router")
	// The address is by the hardware address, and there is no temporary one.
	if a != netip.MustParsePrefix("2001:db8::5054:ff:fe00:10/64") {
		t.Errorf("address %s", a)
	}
	until(t, "the outside is reached", func() bool { return greeted("[2001:db8:99::1]:80") == nil })
	until(t, "the router's DNS is used", func() bool {
		text, _ := os.ReadFile(resolv)
		return strings.Contains(string(text), "nameserver 2001:db8::53\n") && strings.Contains(string(text), "search office.example.org\n")
	})
	p := portOf(m.State(), "eth0")
	if len(p.Gateways) != 1 || !p.Gateways[0].IsLinkLocalUnicast() {
		t.Errorf("gateways %v", p.Gateways)
	}
	// The cable moves: what the router said on the first port is forgotten.
	o.plug("eth0", false)
	o.plug("eth1", true)
	gets(t, m, "eth1", "router")
	until(t, "the outside is reached", func() bool { return greeted("[2001:db8:99::1]:80") == nil })
	until(t, "the first port has nothing left", func() bool {
		_, ok := has(m, "eth0", "router")
		return !ok && len(portOf(m.State(), "eth0").Gateways) == 0
	})
}

func TestDHCPv6(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.address("2001:db8::1/64")
	o.greet("[2001:db8::1]:80")
	o.plug("eth0", true)
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	server, _ := o.dnsmasq("--dhcp-range=2001:db8::100,2001:db8::1ff,64,120", "--enable-ra", "--dhcp-option=option6:dns-server,[2001:db8::53]",
		"--dhcp-option=option6:domain-search,example.org")
	m := machine(t, parse(t, `{"ports": [{"port": "eth0", "ipv4": {"method": "none"}, "ipv6": {"method": "dhcp", "addresses": ["2001:db8::10/64"]}}]}`), ResolvConf(resolv))
	a := gets(t, m, "eth0", "dhcp")
	if !netip.MustParsePrefix("2001:db8::100/120").Contains(a.Addr()) {
		t.Errorf("address %s", a)
	}
	if s := gets(t, m, "eth0", "static"); s != netip.MustParsePrefix("2001:db8::10/64") {
		t.Errorf("address %s", s)
	}
	until(t, "the outside is reached", func() bool { return greeted("[2001:db8::1]:80") == nil })
	until(t, "the server's DNS is used", func() bool {
		text, _ := os.ReadFile(resolv)
		return strings.Contains(string(text), "nameserver 2001:db8::53\n") && strings.Contains(string(text), "search example.org\n")
	})
	m.Close()
	_ = server.Process.Kill()

	// Without a server, State says so.
	m = machine(t, parse(t, `{"ports": [{"port": "eth0", "ipv4": {"method": "none"}, "ipv6": {"method": "dhcp"}}]}`))
	until(t, "State says that no server answers", func() bool { return problem(m, "eth0", "no DHCPv6 server answers") })
}

// The kernel finds that another machine has an address.
func TestIPv6Conflict(t *testing.T) {
	if !isolated(t) {
		return
	}
	o := newOutside(t)
	o.port("eth0", mac0)
	o.plug("eth0", true)
	o.address("2001:db8::10/64")
	m := machine(t, parse(t, `{"ports": [{"port": "eth0", "ipv4": {"method": "none"}, "ipv6": {"method": "static", "addresses": ["2001:db8::10/64"]}}]}`))
	until(t, "State names the conflict", func() bool { return problem(m, "eth0", "another machine has the address 2001:db8::10") })
}
