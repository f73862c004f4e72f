package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	c, err := Parse([]byte(`{"hostname": "chat", "ports": [{"port": "52-54-00-12-34-56", "mtu": 9000,
		"ipv4": {"addresses": ["192.0.2.10/24"], "gateway": "192.0.2.1"}, "ipv6": {"method": "static", "addresses": ["2001:db8::10/64"], "gateway": "fe80::1"}},
		{"port": "any wired"}],
		"bonds": [{"name": "bond0", "ports": ["eth1", "eth2"], "mode": "active-backup", "primary": "eth2", "ipv4": {"method": "none"}}],
		"vlans": [{"on": "bond0", "id": 10}, {"name": "guests", "on": "52:54:00:12:34:56", "id": 10, "mtu": 1500, "ipv6": {"addresses": ["2001:db8:1::10/64"]}}],
		"dns": {"servers": ["192.0.2.53", "2001:db8::53"], "search": ["example.org"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Ports[0].Port != "52:54:00:12:34:56" || c.Ports[0].IPv4.Method != Static || c.Ports[1].IPv4.Method != DHCP || c.Ports[1].IPv6.Method != Auto ||
		c.VLANs[0].Name != "vlan10" || c.VLANs[1].IPv6.Method != Auto {
		t.Errorf("%s", c.JSON())
	}
	again, err := Parse(c.JSON())
	if err != nil || !again.equal(c) {
		t.Errorf("written and read again: %v\n%s\n%s", err, c.JSON(), again.JSON())
	}
	if d := Default(); d.check() != nil {
		t.Error("the default is not valid")
	}
}

func TestParseErrors(t *testing.T) {
	port := func(s string) string { return `{"ports": [{"port": "eth0", ` + s + `}]}` }
	bond := func(s string) string {
		return `{"bonds": [{"name": "b", "ports": ["eth0", "eth1"], ` + s + `}], "ports": []}`
	}
	for _, x := range []struct{ text, path, words string }{
		{``, "", "not JSON"},
		{`{"ports": [`, "", "line 1"},
		{"{\n\"ports\": [}", "", "line 2"},
		{`[]`, "", "an object was expected"},
		{`{"ports": []} {}`, "", "more after the end"},
		{`{}`, "ports", "nothing could reach the appliance"},
		{`{"port": []}`, "port", `do you mean "ports"?`},
		{`{"PORTS": []}`, "PORTS", `do you mean "ports"?`},
		{`{"ports": [], "ports": []}`, "ports", "twice"},
		{`{"ports": [{"port": "eth0", "ipv4": {"adresses": []}}]}`, "ports[0].ipv4.adresses", `do you mean "addresses"?`},
		{`{"ports": [{"port": "eth0", "zzzzzzzzzzz": 1}]}`, "ports[0].zzzzzzzzzzz", "those there are: port, mtu, ipv4, ipv6"},
		{`{"ports": {"port": "eth0"}}`, "ports", "put it in [ ]"},
		{`{"ports": [{"port": 5}]}`, "ports[0].port", "put it in quotation marks"},
		{`{"ports": [{}]}`, "ports[0].port", "missing"},
		{`{"ports": [{"port": "any  wired"}]}`, "ports[0].port", "is neither"},
		{`{"ports": [{"port": "lo"}]}`, "ports[0].port", "is neither"},
		{`{"ports": [{"port": "01:00:5e:00:00:01"}]}`, "ports[0].port", "not the hardware address of a network port"},
		{`{"ports": [{"port": "eth0"}, {"port": "eth0"}]}`, "ports[1].port", "already stands at ports[0].port"},
		{`{"ports": [{"port": "52:54:00:00:00:01"}, {"port": "52-54-00-00-00-01"}]}`, "ports[1].port", "already stands"},
		{port(`"mtu": "1500"`), "ports[0].mtu", "whole number"},
		{port(`"mtu": 1.5`), "ports[0].mtu", "whole number"},
		{port(`"mtu": 1000`), "ports[0].mtu", "IPv6 needs 1280"},
		{port(`"mtu": 70000`), "ports[0].mtu", "not possible"},
		{port(`"ipv4": {"method": "dhpc"}`), "ports[0].ipv4.method", `do you mean "dhcp"?`},
		{port(`"ipv4": {"method": "static"}`), "ports[0].ipv4.addresses", "missing"},
		{port(`"ipv4": {"method": "dhcp", "addresses": ["192.0.2.1/24"]}`), "ports[0].ipv4.addresses", `set "method" to "static"`},
		{port(`"ipv4": {"gateway": "192.0.2.1"}`), "ports[0].ipv4.gateway", `set "method" to "static"`},
		{port(`"ipv4": {"no_link_local": 1}`), "ports[0].ipv4.no_link_local", "true or false"},
		{port(`"ipv4": {"addresses": ["192.0.2.10"]}`), "ports[0].ipv4.addresses[0]", "192.168.1.10/24"},
		{port(`"ipv4": {"addresses": ["192.0.2.10/33"]}`), "ports[0].ipv4.addresses[0]", "192.168.1.10/24"},
		{port(`"ipv4": {"addresses": ["192.0.2.10/0"]}`), "ports[0].ipv4.addresses[0]", "all addresses"},
		{port(`"ipv4": {"addresses": [""]}`), "ports[0].ipv4.addresses[0]", "192.168.1.10/24"},
		{port(`"ipv4": {"addresses": ["192.0.2.0/24"]}`), "ports[0].ipv4.addresses[0]", "192.0.2.1/24"},
		{port(`"ipv4": {"addresses": ["192.0.2.255/24"]}`), "ports[0].ipv4.addresses[0]", "broadcast"},
		{port(`"ipv4": {"addresses": ["224.0.0.5/24"]}`), "ports[0].ipv4.addresses[0]", "cannot be"},
		{port(`"ipv4": {"addresses": ["127.0.0.5/8"]}`), "ports[0].ipv4.addresses[0]", "cannot be"},
		{port(`"ipv4": {"addresses": ["2001:db8::1/64"]}`), "ports[0].ipv4.addresses[0]", "is not an IPv4 address"},
		{port(`"ipv4": {"addresses": ["::ffff:192.0.2.1/120"]}`), "ports[0].ipv4.addresses[0]", "is not an IPv4 address"},
		{port(`"ipv4": {"addresses": ["192.0.2.10/24", "192.0.2.10/24"]}`), "ports[0].ipv4.addresses[1]", "already stands"},
		{port(`"ipv4": {"addresses": ["192.0.2.10/24"], "gateway": "192.0.3.1"}`), "ports[0].ipv4.gateway", "not in the network"},
		{port(`"ipv4": {"addresses": ["192.0.2.10/24"], "gateway": "192.0.2.10"}`), "ports[0].ipv4.gateway", "own address"},
		{port(`"ipv4": {"addresses": ["192.0.2.10/24"], "gateway": "router"}`), "ports[0].ipv4.gateway", "192.168.1.1"},
		{port(`"ipv6": {"gateway": "fe80::1"}`), "ports[0].ipv6.gateway", "the router tells it"},
		{port(`"ipv6": {"method": "none", "addresses": ["2001:db8::1/64"]}`), "ports[0].ipv6.addresses", "remove them"},
		{port(`"ipv6": {"method": "static", "addresses": ["192.0.2.1/24"]}`), "ports[0].ipv6.addresses[0]", "is not an IPv6 address"},
		{port(`"ipv6": {"addresses": ["fe80::1/64"]}`), "ports[0].ipv6.addresses[0]", "cannot be"},
		{port(`"ipv4": {"method": "none"}, "ipv6": {"method": "none"}`), "ports", "nothing could reach"},
		{`{"ports": [{"port": "eth0", "ipv4": {"addresses": ["192.0.2.10/24"]}}, {"port": "eth1", "ipv4": {"addresses": ["192.0.2.11/25"]}}]}`,
			"ports[1].ipv4.addresses[0]", "join them in a bond"},
		{bond(`"mode": "active-bakcup"`), "bonds[0].mode", `do you mean "active-backup"?`},
		{bond(`"mtu": 1500`), "bonds[0].mode", "missing: one of"},
		{bond(`"mode": "802.3ad", "primary": "eth0"`), "bonds[0].primary", "has no primary"},
		{bond(`"mode": "active-backup", "primary": "eth9"`), "bonds[0].primary", "not among"},
		{bond(`"mode": "active-backup", "lacp_rate": "fast"`), "bonds[0].lacp_rate", "only the mode 802.3ad"},
		{bond(`"mode": "802.3ad", "lacp_rate": "quick"`), "bonds[0].lacp_rate", "slow, fast"},
		{bond(`"mode": "active-backup", "hash": "layer2"`), "bonds[0].hash", "no such choice"},
		{bond(`"mode": "802.3ad", "hash": "layer4"`), "bonds[0].hash", "do you mean"},
		{`{"ports": [], "bonds": [{"name": "b", "ports": ["any wired"], "mode": "802.3ad"}]}`, "bonds[0].ports[0]", "name each port"},
		{`{"ports": [], "bonds": [{"name": "b", "ports": [], "mode": "802.3ad"}]}`, "bonds[0].ports", "missing"},
		{`{"ports": [{"port": "eth0"}], "bonds": [{"name": "b", "ports": ["eth0"], "mode": "802.3ad"}]}`, "ports[0].port", "already stands at bonds[0].ports[0]"},
		{`{"ports": [{"port": "b"}], "bonds": [{"name": "b", "ports": ["eth0"], "mode": "802.3ad"}]}`, "ports[0].port", "is a bond"},
		{`{"ports": [], "bonds": [{"name": "eth0", "ports": ["eth0"], "mode": "802.3ad"}]}`, "bonds[0].name", "is also a port"},
		{`{"ports": [], "bonds": [{"name": "a-name-that-is-too-long", "ports": ["eth0"], "mode": "802.3ad"}]}`, "bonds[0].name", "cannot be a name"},
		{`{"ports": [], "vlans": [{"on": "eth0", "id": 0, "name": "x"}]}`, "vlans[0].id", "1 to 4094"},
		{`{"ports": [], "vlans": [{"on": "eth0", "id": 4095}]}`, "vlans[0].id", "1 to 4094"},
		{`{"ports": [], "vlans": [{"id": 5}]}`, "vlans[0].on", "missing"},
		{`{"ports": [], "vlans": [{"on": "any wired", "id": 5}]}`, "vlans[0].on", "needs one port"},
		{`{"ports": [], "vlans": [{"on": "eth 0", "id": 5}]}`, "vlans[0].on", "is neither"},
		{`{"ports": [], "vlans": [{"on": "eth0", "id": 5}, {"on": "eth0", "id": 5, "name": "other"}]}`, "vlans[1]", "is already vlans[0]"},
		{`{"ports": [], "vlans": [{"on": "eth0", "id": 5}, {"on": "eth1", "id": 5}]}`, "vlans[1].name", "already the name"},
		{`{"ports": [{"port": "eth0", "mtu": 1400}], "vlans": [{"on": "eth0", "id": 5, "mtu": 1500}]}`, "vlans[0].mtu", "more than the 1400"},
		{`{"ports": [], "bonds": [{"name": "b", "ports": ["eth0"], "mode": "802.3ad"}], "vlans": [{"on": "eth0", "id": 5}]}`, "vlans[0].on", "name the bond"},
		{`{"hostname": "chat.example.org", "ports": [{"port": "any wired"}]}`, "hostname", "not a host name"},
		{`{"ports": [{"port": "any wired"}], "dns": {"servers": ["dns"]}}`, "dns.servers[0]", "not an address"},
		{`{"ports": [{"port": "any wired"}], "dns": {"servers": ["0.0.0.0"]}}`, "dns.servers[0]", "cannot be"},
		{`{"ports": [{"port": "any wired"}], "dns": {"servers": ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]}}`, "dns.servers", "3 at most"},
		{`{"ports": [{"port": "any wired"}], "dns": {"search": ["a b"]}}`, "dns.search[0]", "not a domain"},
		{`{"ports": [{"port": "any wired"}], "dns": {"search": ["a\nnameserver 192.0.2.66"]}}`, "dns.search[0]", "not a domain"},
		{strings.Repeat(" ", MaxConfig+1), "", "more than 65536"},
		{strings.Repeat("[", 100), strings.Repeat("[0]", maxDepth+1), "too deep"},
	} {
		_, err := Parse([]byte(x.text))
		var list ConfigErrors
		if !errors.As(err, &list) {
			t.Errorf("%.200s: %v", x.text, err)
			continue
		}
		if !slices.ContainsFunc(list, func(e *ConfigError) bool { return e.Path == x.path && strings.Contains(e.Text, x.words) }) {
			t.Errorf("%.200s: at %q with %q was expected, it is\n%v", x.text, x.path, x.words, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(Default().JSON()))
	f.Add([]byte(`{"ports": [{"port": "eth0", "ipv4": {"addresses": ["192.0.2.10/24"], "gateway": "192.0.2.1"}}], "vlans": [{"on": "eth0", "id": 5}]}`))
	f.Add([]byte(`{"ports": [], "bonds": [{"name": "b", "ports": ["eth0"], "mode": "802.3ad", "ipv6": {"addresses": ["2001:db8::1/64"]}}], "dns": {"search": ["x"]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse(text)
		if err != nil {
			var list ConfigErrors
			if !errors.As(err, &list) || len(list) == 0 {
				t.Fatalf("an error that says nothing: %v", err)
			}
			return
		}
		// What is taken is taken again as it is written.
		again, err := Parse(c.JSON())
		if err != nil || !again.equal(c) {
			t.Fatalf("%v\n%s\n%s", err, c.JSON(), again.JSON())
		}
		makePlan(c, []link{{index: 2, name: "eth0", mac: net.HardwareAddr{2, 0, 0, 0, 0, 1}, wired: true}})
		r := resolver{}
		r.merge(resolver{c.DNS.Servers, c.DNS.Search})
		if n := strings.Count(string(r.file()), "\n"); n > maxServers+3 {
			t.Fatalf("resolv.conf has %d lines", n)
		}
	})
}

func TestPlan(t *testing.T) {
	mac := func(n byte) net.HardwareAddr { return net.HardwareAddr{0x52, 0x54, 0, 0, 0, n} }
	var links []link
	for i := range 11 {
		links = append(links, link{index: 10 + i, name: fmt.Sprintf("eth%d", i), mac: mac(byte(i)), wired: true})
	}
	links = append(links,
		link{index: 2, name: "wlan0", mac: mac(90), wireless: true},
		link{index: 3, name: "bond0", mac: mac(1), kind: "bond"},
		link{index: 4, name: "vlan7", mac: mac(5), kind: "vlan"})
	c, err := Parse([]byte(`{"ports": [{"port": "any wired", "mtu": 1400}, {"port": "52:54:00:00:00:04"}, {"port": "eth77"}],
		"bonds": [{"name": "bond0", "ports": ["eth1", "52:54:00:00:00:02"], "mode": "802.3ad"}],
		"vlans": [{"on": "eth5", "id": 7}, {"on": "bond0", "id": 8}]}`))
	if err != nil {
		t.Fatal(err)
	}
	p := makePlan(c, links)
	var got []string
	for _, u := range p.units {
		got = append(got, fmt.Sprintf("%s=%s/%s/%d", u.name, u.kind, u.v4.Method, u.mtu))
	}
	want := []string{"eth4=wired/dhcp/0", "bond0=bond/dhcp/0", "eth5=wired/none/0", "vlan7=vlan/dhcp/0"}
	for _, n := range []string{"eth0", "eth3", "eth6", "eth7", "eth8", "eth9", "eth10"} {
		want = append(want, n+"=wired/dhcp/1400")
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if len(p.members) != 2 || p.members["eth1"] != "bond0" || p.members["eth2"] != "bond0" || !slices.Equal(p.missing, []string{"eth77"}) {
		t.Errorf("members %v, missing %v", p.members, p.missing)
	}
	// The order of preference of a port does not depend on which others there are.
	fewer := makePlan(c, slices.DeleteFunc(slices.Clone(links), func(l link) bool { return l.name == "eth4" || l.name == "eth3" }))
	for _, u := range fewer.units {
		i := slices.IndexFunc(p.units, func(v unit) bool { return v.name == u.name })
		if p.units[i].order != u.order {
			t.Errorf("%s: order %d with all ports and %d with fewer", u.name, p.units[i].order, u.order)
		}
	}
}

func TestResolver(t *testing.T) {
	var r resolver
	r.merge(resolver{[]netip.Addr{netip.MustParseAddr("192.0.2.1")}, []string{"Example.org.", "bad\nnameserver 192.0.2.66", "x y"}})
	r.merge(resolver{[]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")}, nil})
	want := "# Written by Holdfast from the network's configuration.\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver 192.0.2.2\nsearch example.org\noptions timeout:2 attempts:2\n"
	if got := string(r.file()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
