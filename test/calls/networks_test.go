//go:build linux

package calls

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	lksdk "github.com/livekit/server-sdk-go/v2"

	"github.com/livekit/protocol/logger"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"

	"holdfast/appliance/appliancetest"
	"holdfast/test/calls/netem"
	"holdfast/test/need"
)

var update = flag.Bool("update", false, "write docs/dev/calls.md")

// network is a case of TestNetworks: who is connected to whom, and what may pass.
type network struct {
	name, title string
	// links are "node interface addresses...": the interfaces of one bridge share its name,
	// as in "lan: server eth0 10.77.0.1/24".
	links []string
	// tunnels are TUN interfaces with an MTU of 1280, "node interface address", each with
	// its other end in the router.
	tunnels  []string
	routes   []string // "node destination via address", or "dev interface"
	rules    []string // of iptables, in the router
	settings []string // of the program
	server   []string // the server's addresses: nothing else may be named to a client
	// reach is the address by which each of the two knows the server, and where their
	// media goes.
	reach [2]string
	// seen is the address that the server sees each come to: reach, unless a router
	// changes it. It is the first ICE server that they are told of.
	seen   [2]string
	anyway bool // media may go to another of the server's addresses
	// transport is what media leaves the client over.
	transport string
	relayed   bool // by TURN
	// browsers has Chromium show Element Call in our own client, instead of LiveKit's Go
	// client. The networks of browsers are one, of which the rules change, and the people
	// in it stay.
	browsers bool
	mute     bool // bob has no camera, and his browser hides his addresses
	// direct has two clients call each other without the relay, by TURN alone, of whose
	// URIs they use those of a scheme and a transport, as "turns tcp".
	direct string
}

// networks has two people in each network, "alice" and "bob". All blocking is done by
// iptables in a router between them and the server.
var networks = []network{
	{
		name: "lan", title: "one local network",
		links:  []string{"lan: server eth0 10.77.0.1/24", "lan: alice eth0 10.77.0.2/24", "lan: bob eth0 10.77.0.3/24"},
		server: []string{"10.77.0.1"}, reach: [2]string{"10.77.0.1", "10.77.0.1"}, transport: "udp",
	},
	{
		name: "subnets", title: "each in a subnet of their own, a router between",
		links: routed, routes: throughRouter,
		server: []string{"10.77.1.2"}, reach: [2]string{"10.77.1.2", "10.77.1.2"}, transport: "udp",
	},
	{
		// The server has no route to them: what is not sent back through the NAT is lost.
		name: "nat", title: "both people behind NAT",
		links: routed, routes: throughRouter[1:],
		rules:  []string{"-t nat -A POSTROUTING -o eth0 -j MASQUERADE"},
		server: []string{"10.77.1.2"}, reach: [2]string{"10.77.1.2", "10.77.1.2"}, transport: "udp",
	},
	{
		name: "only443", title: "only TCP port 443 open",
		links: routed, routes: throughRouter, rules: only443,
		server: []string{"10.77.1.2"}, reach: [2]string{"10.77.1.2", "10.77.1.2"}, transport: "tcp", relayed: true,
	},
	{
		// As where a firewall looks into what goes to port 443.
		name: "onlytls", title: "only TCP port 443 open, and only for TLS",
		links: routed, routes: throughRouter, rules: append(slices.Clone(noPlainSTUN), only443...),
		server: []string{"10.77.1.2"}, reach: [2]string{"10.77.1.2", "10.77.1.2"}, transport: "tls", relayed: true,
	},
	{
		name: "twohomes", title: "server with two interfaces and no default route, a person at each",
		links: []string{"one: server eth0 10.77.4.1/24", "one: alice eth0 10.77.4.2/24",
			"two: server eth1 10.77.5.1/24", "two: bob eth0 10.77.5.2/24"},
		server: []string{"10.77.4.1", "10.77.5.1"}, reach: [2]string{"10.77.4.1", "10.77.5.1"}, transport: "udp",
	},
	{
		// The relay prefers the interface that signalling came to. Which of them is taken is
		// the client's choice: LiveKit's Go client takes the first that answers.
		name: "bothhomes", title: "server with two interfaces, both people at both",
		links: []string{"one: server eth0 10.77.4.1/24", "one: alice eth0 10.77.4.2/24", "one: bob eth0 10.77.4.3/24",
			"two: server eth1 10.77.5.1/24", "two: alice eth1 10.77.5.2/24", "two: bob eth1 10.77.5.3/24"},
		server: []string{"10.77.4.1", "10.77.5.1"}, reach: [2]string{"10.77.4.1", "10.77.5.1"}, transport: "udp", anyway: true,
	},
	{
		// Several addresses are configured: alice is outside and bob inside.
		name: "forwarded", title: "server behind a router that forwards its ports, a person outside and one inside",
		links: []string{"out: router eth0 203.0.113.7/24", "out: alice eth0 203.0.113.9/24",
			"in: router eth1 10.77.1.1/24", "in: server eth0 10.77.1.2/24", "in: bob eth0 10.77.1.3/24"},
		routes: []string{"server default via 10.77.1.1", "bob default via 10.77.1.1"},
		rules: []string{"-t nat -A PREROUTING -i eth0 -p tcp -m multiport --dports 443,7881 -j DNAT --to-destination 10.77.1.2",
			"-t nat -A PREROUTING -i eth0 -p udp -m multiport --dports 3478,7882 -j DNAT --to-destination 10.77.1.2"},
		settings: []string{"sfu.node_ip=203.0.113.7, 10.77.1.2"},
		server:   []string{"203.0.113.7", "10.77.1.2"}, reach: [2]string{"203.0.113.7", "10.77.1.2"},
		seen: [2]string{"10.77.1.2", "10.77.1.2"}, transport: "udp",
	},
	{
		// No packet may be larger than the tunnel's, nor come in pieces.
		name: "tailnet", title: "a tailnet as the only way (TUN, 100.64.0.0/10, MTU 1280)",
		tunnels: []string{"server tailscale0 100.64.0.1", "alice tailscale0 100.64.0.2", "bob tailscale0 100.64.0.3"},
		routes:  []string{"server 100.64.0.0/10 dev tailscale0", "alice 100.64.0.0/10 dev tailscale0", "bob 100.64.0.0/10 dev tailscale0"},
		rules:   []string{"-A FORWARD -f -j DROP"},
		server:  []string{"100.64.0.1"}, reach: [2]string{"100.64.0.1", "100.64.0.1"}, transport: "udp",
	},
	{
		name: "ipv6", title: "IPv6 only",
		links:  []string{"lan: server eth0 fd77::1/64", "lan: alice eth0 fd77::2/64", "lan: bob eth0 fd77::3/64"},
		server: []string{"fd77::1"}, reach: [2]string{"fd77::1", "fd77::1"}, transport: "udp",
	},
	{
		name: "dnat", title: "both people behind NAT, a call without the relay",
		links: routed, routes: throughRouter[1:],
		rules:  []string{"-t nat -A POSTROUTING -o eth0 -j MASQUERADE"},
		server: []string{"10.77.1.2"}, reach: [2]string{"10.77.1.2", "10.77.1.2"}, transport: "udp", relayed: true, direct: "turn udp",
	},
	{
		// A certificate is for a name.
		name: "donlytls", title: "only TCP port 443 open, and only for TLS, a call without the relay",
		links: routed, routes: throughRouter, rules: append(slices.Clone(noPlainSTUN), only443...),
		server: []string{"10.77.1.2"}, reach: [2]string{"10.77.1.2", "10.77.1.2"},
		seen: [2]string{appliancetest.ServerName, appliancetest.ServerName}, transport: "tls", relayed: true, direct: "turns tcp",
	},
	{
		// Without a camera a page is not told the machine's addresses: what the browser
		// offers has names that only it can resolve (mDNS), and TURN does not tell it others.
		name: "mdns", title: "one person without a camera, whose browser hides their addresses (mDNS)",
		links: routed, routes: throughRouter, rules: []string{"-A FORWARD -p udp --dport 3478 -j DROP"},
		server: []string{"10.77.1.2"}, reach: [2]string{"10.77.1.2", "10.77.1.2"}, transport: "udp", browsers: true, mute: true,
	},
	{
		name: "noudp", title: "UDP blocked",
		links: routed, routes: throughRouter, rules: []string{"-A FORWARD -p udp -j DROP"},
		server: []string{"10.77.1.2"}, reach: [2]string{"10.77.1.2", "10.77.1.2"}, transport: "tcp", browsers: true,
	},
	{
		name: "browsertls", title: "only TCP port 443 open, and only for TLS",
		links: routed, routes: throughRouter, rules: append(slices.Clone(noPlainSTUN), only443...),
		server: []string{"10.77.1.2"}, reach: [2]string{"10.77.1.2", "10.77.1.2"}, transport: "tls", relayed: true, browsers: true,
	},
}

var (
	routed = []string{"srv: router eth0 10.77.1.1/24", "srv: server eth0 10.77.1.2/24",
		"one: router eth1 10.77.2.1/24", "one: alice eth0 10.77.2.2/24",
		"two: router eth2 10.77.3.1/24", "two: bob eth0 10.77.3.2/24"}
	throughRouter = []string{"server default via 10.77.1.1", "alice default via 10.77.2.1", "bob default via 10.77.3.1"}
	only443       = []string{"-A FORWARD -p tcp --dport 443 -j ACCEPT", "-A FORWARD -p tcp --sport 443 -j ACCEPT", "-A FORWARD -j DROP"}
	// A message of STUN has the magic cookie of RFC 8489 in it, which TLS hides.
	noPlainSTUN = []string{"-A FORWARD -p tcp --dport 443 -m string --algo bm --hex-string |2112a442| --to 100 -j DROP"}
)

// seen is what a person in a call got to know. It goes from the person's process to
// the test as a line of JSON.
type seen struct {
	Token         bool   // the token service gave one
	Failed        string // why there is no call
	Audio, Frames int64  // packets of sound and pictures of the other one's
	Local, Over   string // of the pair in use: type of the own candidate, transport to the server
	Remote        string // of the pair in use: type of the relay's
	RemoteAddress string
	Servers       []string
	Offered       []string       // addresses of the relay's candidates
	Preferred     map[string]int // their priorities over UDP
	Took          float64        // seconds until media flowed; of browsers only
	Own           []string       // "protocol address" of the own candidates; of browsers only
}

// Enough that twenty seconds of a call have passed.
const (
	audioPackets = 1000
	videoFrames  = 400
)

// TestNetworks has two people call each other through the real program in networks of
// the kinds that are met in houses, and looks at what they are told of and what their
// media goes over. docs/dev/calls.md has the table; -update writes it.
func TestNetworks(t *testing.T) {
	t.Parallel() // it waits most of the time
	tools := findTools(t)
	bin := theProgram(t)

	var mu sync.Mutex
	got := map[string][2]seen{}
	var all sync.WaitGroup         // not t.Parallel, which lets only as many run as there are processors
	some := make(chan struct{}, 4) // of those without browsers; more have too little of a processor each
	keep := func(n network, both [2]seen) {
		mu.Lock()
		got[n.name] = both
		mu.Unlock()
	}
	var browsers []network
	for _, n := range networks {
		if n.browsers {
			browsers = append(browsers, n)
			continue
		}
		all.Go(func() {
			some <- struct{}{}
			defer func() { <-some }()
			t.Run(n.name, func(t *testing.T) {
				both := n.call(t, tools, bin)
				n.judge(t, both)
				keep(n, both)
			})
		})
	}
	all.Go(func() { t.Run("browsers", func(t *testing.T) { callInBrowsers(t, tools, bin, browsers, keep) }) })
	all.Wait()
	if *update && !t.Failed() && len(got) == len(networks) {
		if err := os.WriteFile("../../docs/dev/calls.md", table(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// tools are the programs that make networks.
type tools struct{ ip, iptables, ip6tables string }

func findTools(t *testing.T) tools {
	t.Helper()
	need.Root(t)
	x := tools{need.Program(t, "ip", "iproute2"), need.Program(t, "iptables", "iptables"), need.Program(t, "ip6tables", "iptables")}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		need.Missing(t, "the kernel has no TUN devices: %v", err)
	}
	sweep(t, x.ip)
	probe := fmt.Sprintf("%s%d-probe-%s", nsPrefix, os.Getpid(), t.Name())
	if out, err := exec.Command(x.ip, "netns", "add", probe).CombinedOutput(); err != nil {
		need.Missing(t, "this machine allows no network namespaces: %v %s", err, out)
	}
	exec.Command(x.ip, "netns", "del", probe).Run()
	return x
}

func (n network) judge(t *testing.T, both [2]seen) {
	t.Helper()
	for i, who := range []string{"alice", "bob"} {
		s := both[i]
		if !s.Token {
			t.Errorf("%s got no token", who)
			continue
		}
		for _, a := range append(slices.Clone(s.Offered), s.Servers...) {
			if !slices.Contains(n.server, a) && a != appliancetest.ServerName {
				t.Errorf("%s is told of %s, which is no address of the server", who, a)
			}
		}
		if s.Failed != "" {
			t.Errorf("%s: %s", who, s.Failed)
			continue
		}
		wantAudio, wantFrames := int64(audioPackets), int64(videoFrames)
		switch {
		case n.mute && who == "alice":
			wantAudio, wantFrames = 0, 0
		case n.mute: // it lasts a quarter of the time
			wantAudio, wantFrames = audioPackets/20, videoFrames/20
		case n.browsers: // Opus has pauses, and pictures come as they can be made
			wantAudio, wantFrames = audioPackets/5, videoFrames/5
		}
		if s.Audio < wantAudio || s.Frames < wantFrames {
			t.Errorf("%s got %d packets of sound and %d pictures", who, s.Audio, s.Frames)
		}
		if s.Over != n.transport {
			t.Errorf("%s: media goes over %s, want %s", who, s.Over, n.transport)
		}
		if (s.Local == "relay") != n.relayed {
			t.Errorf("%s: the own candidate is %s", who, s.Local)
		}
		if want := map[bool]string{true: "relay", false: "host"}[n.direct != ""]; s.Remote != want {
			t.Errorf("%s: the other candidate is %s, want %s", who, s.Remote, want)
		}
		if s.RemoteAddress != n.reach[i] && !n.anyway {
			t.Errorf("%s came to %s, and media goes to %s", who, n.reach[i], s.RemoteAddress)
		}
		first := cmp.Or(n.seen[i], n.reach[i])
		if len(s.Servers) == 0 || s.Servers[0] != first {
			t.Errorf("%s came to %s and is told of the ICE servers %v", who, first, s.Servers)
		}
		for _, a := range s.Offered {
			if a != first && slices.Contains(s.Offered, first) && s.Preferred[a] >= s.Preferred[first] {
				t.Errorf("%s came to %s, and the candidates' priorities are %v", who, first, s.Preferred)
			}
		}
		if len(s.Servers) == 0 || len(s.Offered) == 0 {
			t.Errorf("%s was told of the ICE servers %v and the candidates %v", who, s.Servers, s.Offered)
		}
	}
}

func table(got map[string][2]seen) []byte {
	var b bytes.Buffer
	b.WriteString(`# Calls from one network to another

Written by ` + "`go test ./test/calls -run TestNetworks -update`" + ` (Linux, as root): the real program in a
network namespace, two clients in others, joined by veth pairs or TUN devices; routing, NAT and blocking
are the kernel's. The clients are LiveKit's for Go, or Chromium with Element Call in our own client, which
trusts the server's certificate authority by policy. Each sees twenty seconds of the other's sound and
pictures. Nobody is told of an address that is not the server's, as ICE server or as candidate, and the
server sends nothing to another network and asks nobody for names.

| network | clients | works | media over | client's candidate | other candidate | ICE servers that each was told of |
|---|---|---|---|---|---|---|
`)
	for _, n := range networks {
		both := got[n.name]
		var local, remote, servers []string
		for _, s := range both {
			local, remote, servers = append(local, s.Local), append(remote, s.Remote), append(servers, strings.Join(s.Servers, " "))
		}
		clients := "Go"
		if n.browsers {
			clients = "Chromium"
		} else if n.direct != "" {
			clients = "pion, by m.call.invite"
		}
		fmt.Fprintf(&b, "| %s | %s | yes | %s | %s | %s | %s |\n", n.title, clients, n.transport,
			strings.Join(slices.Compact(local), ", "), strings.Join(slices.Compact(remote), ", "), strings.Join(servers, "; "))
	}
	b.WriteString(`
Where only port 443 is open, media goes through TURN at the HTTPS port, with TLS or, where a firewall
does not look into it, without: the client's candidate is a relayed one, and UDP is between TURN and
the relay, in the server. Where UDP is blocked, media goes to the TCP port (ICE over TCP), which
LiveKit's Go client does not know.

A browser without a camera's permission tells no address of its own, but a name in ` + "`.local`" + ` that its own
network only can resolve. The relay does not try to: it answers to where packets come from (a
candidate of the kind prflx). ` + "`TestHiddenAddresses` in `sfu`" + ` is a client that tells nothing else.

Of several addresses of its own the relay prefers the one that the client's signalling came to: its
candidate has the higher priority. LiveKit's Go client takes the first that answers all the same.

The other candidate is the relay's or, in a call without it, the other client's. Such calls two clients set up by
themselves (` + "`m.call.invite`" + `): both may use nothing but the TURN server, with the credentials of
` + "`GET /voip/turnServer`" + `. Credentials that are wrong, changed or expired are refused, over UDP as over TLS.
`)
	b.WriteString(quality)
	b.WriteString(capacity)
	return b.Bytes()
}

const nsPrefix = "hfcall-"

// sweep deletes the namespaces of test runs that were cut off.
func sweep(t *testing.T, ip string) {
	t.Helper()
	out, err := exec.Command(ip, "netns", "list").Output()
	if err != nil {
		return
	}
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest, ok := strings.CutPrefix(name, nsPrefix)
		if !ok {
			continue
		}
		pid, _, _ := strings.Cut(rest, "-")
		if n, err := strconv.Atoi(pid); err == nil && errors.Is(syscall.Kill(n, 0), syscall.ESRCH) {
			exec.Command(ip, "netns", "del", name).Run()
			os.RemoveAll(filepath.Join(hosts, name))
		}
	}
}

// theProgram is the program: HOLDFAST_BIN, or one built for the purpose.
func theProgram(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("HOLDFAST_BIN"); bin != "" {
		return bin
	}
	bin := filepath.Join(t.TempDir(), "holdfast")
	if out, err := exec.Command("go", "build", "-o", bin, "holdfast/cmd/holdfast").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// built is a network that exists.
type built struct {
	network
	t  *testing.T
	x  tools
	id string
}

func (b *built) ns(node string) string {
	return fmt.Sprintf("%s%d-%s-%s", nsPrefix, os.Getpid(), b.id, node)
}

func (b *built) run(program string, args ...string) string {
	b.t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		b.t.Fatalf("%s %s: %v %s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// in runs a program in a namespace.
func (b *built) in(node string, args ...string) string {
	b.t.Helper()
	return b.run(b.x.ip, append([]string{"netns", "exec", b.ns(node)}, args...)...)
}

// filter adds rules to the router's.
func (b *built) filter(rules ...string) {
	b.t.Helper()
	for _, r := range rules {
		b.in("router", append([]string{b.x.iptables, "-w"}, strings.Fields(r)...)...)
	}
}

// build makes the namespaces and what joins them.
func (n network) build(t *testing.T, x tools) *built {
	t.Helper()
	b := &built{network: n, t: t, x: x, id: n.name}
	made := map[string]bool{}
	have := func(node string) {
		t.Helper()
		if made[node] {
			return
		}
		made[node] = true
		b.run(x.ip, "netns", "add", b.ns(node))
		t.Cleanup(func() { exec.Command(x.ip, "netns", "del", b.ns(node)).Run() })
		b.in(node, x.ip, "link", "set", "lo", "up")
	}
	have("switch")
	bridges := map[string]bool{}
	for i, l := range n.links {
		bridge, rest, _ := strings.Cut(l, ": ")
		f := strings.Fields(rest)
		node, name := f[0], f[1]
		have(node)
		if !bridges[bridge] {
			bridges[bridge] = true
			b.in("switch", x.ip, "link", "add", "br-"+bridge, "type", "bridge")
			b.in("switch", x.ip, "link", "set", "br-"+bridge, "up")
		}
		port := "p" + strconv.Itoa(i)
		b.in("switch", x.ip, "link", "add", port, "type", "veth", "peer", "name", name, "netns", b.ns(node))
		b.in("switch", x.ip, "link", "set", port, "master", "br-"+bridge, "up")
		for _, addr := range f[2:] {
			args := []string{x.ip, "addr", "add", addr, "dev", name}
			if strings.Contains(addr, ":") {
				args = append(args, "nodad") // nobody else has it
			}
			b.in(node, args...)
		}
		b.in(node, x.ip, "link", "set", name, "up")
	}
	for i, l := range n.tunnels {
		f := strings.Fields(l)
		have(f[0])
		have("router")
		far := "tun" + strconv.Itoa(i)
		line, err := netem.Join(uint64(i), netem.End{Namespace: b.ns(f[0]), Interface: f[1], Address: f[2] + "/32", MTU: tunnelMTU},
			netem.End{Namespace: b.ns("router"), Interface: far, Address: "100.100.100.100/32", MTU: tunnelMTU})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(line.Close)
		b.in("router", x.ip, "route", "add", f[2], "dev", far)
	}
	for _, r := range n.routes {
		f := strings.Fields(r)
		b.in(f[0], append([]string{x.ip, "route", "add"}, f[1:]...)...)
	}
	if made["router"] {
		b.in("router", "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	}
	b.filter(n.rules...)
	b.guard()
	return b
}

const tunnelMTU = 1280 // tailscale's, and the least that IPv6 allows

// guard refuses and counts what the server sends to addresses that are not in its
// networks, and its questions for names.
func (b *built) guard() {
	b.t.Helper()
	inside := map[string][]string{b.x.iptables: {"127.0.0.0/8"}, b.x.ip6tables: {"::1/128", "fe80::/10", "ff02::/16"}}
	for _, l := range b.links {
		for _, f := range strings.Fields(l)[3:] {
			p, err := netip.ParsePrefix(f)
			if err != nil {
				b.t.Fatal(err)
			}
			program := b.x.iptables
			if p.Addr().Is6() {
				program = b.x.ip6tables
			}
			inside[program] = append(inside[program], p.Masked().String())
		}
	}
	if len(b.tunnels) > 0 {
		inside[b.x.iptables] = append(inside[b.x.iptables], "100.64.0.0/10")
	}
	for program, list := range inside {
		add := func(rule string) {
			b.t.Helper()
			b.in("server", append([]string{program, "-w", "-A", "OUTPUT"}, strings.Fields(rule)...)...)
		}
		for _, names := range []string{"udp -m multiport --dports 53,5353,5355", "tcp -m multiport --dports 53,853"} {
			add("-p " + names + " -j REJECT")
		}
		for _, p := range list {
			add("-d " + p + " -j ACCEPT")
		}
		add("-j REJECT")
	}
}

// strays are the server's packets that guard refused.
func (b *built) strays() (out []string) {
	b.t.Helper()
	for _, program := range []string{b.x.iptables, b.x.ip6tables} {
		for line := range strings.Lines(b.in("server", program, "-w", "-nvxL", "OUTPUT")) {
			if f := strings.Fields(line); len(f) > 3 && f[2] == "REJECT" && f[0] != "0" {
				out = append(out, strings.TrimSpace(line))
			}
		}
	}
	return out
}

// callInBrowsers has two people call each other in the browsers' networks, one after
// the other. test/browser/networks.mjs is their part.
func callInBrowsers(t *testing.T, x tools, bin string, all []network, keep func(network, [2]seen)) {
	need.Program(t, "chromium", "chromium")
	node := need.Program(t, "node", "nodejs")
	if _, err := os.Stat("../../web/ui/node_modules/playwright-core"); err != nil {
		need.Missing(t, "playwright-core is missing: run npm ci in web/ui")
	}
	b := all[0].build(t, x)
	data, log := serveLogged(t, x.ip, b.ns("server"), bin)
	code := regexp.MustCompile(`(?m)^\s+([0-9A-Z]{4}-[0-9A-Z]{4}-[0-9A-Z]{4})\s*$`).FindStringSubmatch(log.String())
	if code == nil {
		t.Fatalf("the program shows no claim code\n%s", log)
	}
	authority, err := os.ReadFile(filepath.Join(data, "tls", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(authority)
	for i, name := range []string{"alice", "bob"} {
		names(t, b.ns(name), all[0].reach[i]+" "+appliancetest.ServerName+"\n")
		trust(t, b.ns(name), block.Bytes)
	}
	p := exec.Command(node, "../browser/networks.mjs", "https://"+appliancetest.ServerName, code[1], appliancetest.Password, b.ns("alice"), b.ns("bob"))
	// Playwright's programs are children of this one, so they end with it.
	p.Stderr = os.Stderr
	stdin, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // it closes the browsers when its input ends
		stdin.Close()
		ended := time.AfterFunc(30*time.Second, func() { p.Process.Kill() })
		p.Wait()
		ended.Stop()
	})
	lines := bufio.NewScanner(stdout)
	hear := func(want string) string {
		t.Helper()
		if !lines.Scan() {
			t.Fatal("the browsers' program ended")
		}
		rest, ok := strings.CutPrefix(lines.Text(), want)
		if !ok {
			t.Fatalf("the browsers' program said: %s", lines.Text())
		}
		return rest
	}
	hear("ready")
	for _, n := range all {
		b.filter("-F FORWARD")
		b.filter(n.rules...)
		what := "camera 20"
		if n.mute {
			what = "call 5"
		}
		if _, err := fmt.Fprintln(stdin, what); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		var both [2]seen
		if err := json.Unmarshal([]byte(hear("seen ")), &both); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s, media after %.1f s, until hung up %.1f s: alice %+v", n.name, both[0].Took, time.Since(begun).Seconds(), both[0])
		t.Logf("%s: bob %+v", n.name, both[1])
		t.Run(n.name, func(t *testing.T) { n.judge(t, both) })
		// Where media flows before the name is made known, there may be no candidate at all.
		if n.mute && slices.ContainsFunc(both[1].Own, func(c string) bool { return !strings.HasSuffix(c, ".local") }) {
			t.Errorf("bob's browser should hide his addresses, and offers %v", both[1].Own)
		}
		keep(n, both)
	}
	if s := b.strays(); len(s) > 0 {
		t.Errorf("the server sent to somewhere else, or asked for names:\n%s", strings.Join(s, "\n"))
	}
}

// trust has Chromium in a namespace trust an authority, as an administrator would.
func trust(t *testing.T, ns string, authority []byte) {
	t.Helper()
	dir := filepath.Join(hosts, ns, "chromium", "policies", "managed")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	policy, err := json.Marshal(map[string]any{"CACertificates": []string{base64.StdEncoding.EncodeToString(authority)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "holdfast.json"), policy, 0o644); err != nil {
		t.Fatal(err)
	}
}

// call has two people call each other in the network.
func (n network) call(t *testing.T, x tools, bin string) (both [2]seen) {
	t.Helper()
	person := "TestPerson"
	if n.direct != "" {
		person = "TestDirectPerson"
	}
	b := n.build(t, x)
	ip, ns := x.ip, b.ns
	defer func() {
		if s := b.strays(); len(s) > 0 {
			t.Errorf("the server sent to somewhere else, or asked for names:\n%s", strings.Join(s, "\n"))
		}
	}()
	data := serveIn(t, ip, ns("server"), bin, n.settings...)
	authority := filepath.Join(data, "tls", "ca.crt")
	if _, err := os.Stat(authority); err != nil {
		t.Fatal(err)
	}
	var ends [2]io.Closer
	var lines [2]*bufio.Scanner
	for i, name := range []string{"alice", "bob"} {
		names(t, ns(name), n.reach[i]+" "+appliancetest.ServerName+"\n")
		p := exec.Command(ip, "netns", "exec", ns(name), os.Args[0], "-test.run=^"+person+"$", "-test.timeout=5m")
		p.Env = append(os.Environ(), "CALL_PERSON="+name, "CALL_SERVER=https://"+appliancetest.ServerName, "SSL_CERT_FILE="+authority, "CALL_TURN="+n.direct)
		p.Stderr = os.Stderr
		stdin, err := p.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := p.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		ends[i], lines[i] = stdin, bufio.NewScanner(out)
		start(t, p)
	}
	for i, name := range []string{"alice", "bob"} {
		var said []string
		for lines[i].Scan() {
			if rest, ok := strings.CutPrefix(lines[i].Text(), "seen "); ok {
				if err := json.Unmarshal([]byte(rest), &both[i]); err != nil {
					t.Fatal(err)
				}
				said = nil
				break
			}
			said = append(said, lines[i].Text())
		}
		if len(said) > 0 {
			t.Errorf("%s: %s", name, strings.Join(said, "\n"))
		}
	}
	for _, e := range ends { // both have seen what they came for
		e.Close()
	}
	t.Logf("alice %+v", both[0])
	t.Logf("bob %+v", both[1])
	return both
}

// serveIn runs the program in a namespace, with accounts for alice and bob, and returns
// its data folder.
func serveIn(t *testing.T, ip, ns, bin string, settings ...string) (data string) {
	t.Helper()
	data, _ = serveLogged(t, ip, ns, bin, settings...)
	return data
}

// serveLogged is serveIn, and returns what the program says, too.
func serveLogged(t *testing.T, ip, ns, bin string, settings ...string) (data string, log *appliancetest.Buffer) {
	t.Helper()
	data, log = t.TempDir(), &appliancetest.Buffer{}
	args := []string{"netns", "exec", ns, bin, "serve", "--data", data}
	for _, s := range append([]string{"server_name=" + appliancetest.ServerName, "listen.https=:443", "listen.http=127.0.0.1:0",
		"listen.redirect=", "listen.metrics=", "limits.enabled=false", "sfu.enabled=true"}, settings...) {
		args = append(args, "--set", s)
	}
	serve := exec.Command(ip, args...)
	serve.Stdout, serve.Stderr = log, log
	start(t, serve)
	t.Cleanup(func() {
		if t.Failed() && !slices.Contains(settings, "log.level=debug") { // else the test picks out what counts
			t.Logf("the server's log:\n%s", log)
		}
	})
	for _, name := range []string{"alice", "bob"} {
		eventually(t, name+" has an account", 90*time.Second, func() bool {
			if serve.ProcessState != nil {
				t.Fatalf("the server ended\n%s", log)
			}
			out, err := exec.Command(bin, "user", "add", name, "--password", appliancetest.Password, "--data", data).CombinedOutput()
			return err == nil || strings.Contains(string(out), "taken")
		})
	}
	return data, log
}

// hosts has the files that `ip netns exec` puts in the place of those in /etc.
const hosts = "/etc/netns"

// names says what names mean in a namespace, in the format of /etc/hosts.
func names(t *testing.T, ns, table string) {
	t.Helper()
	dir := filepath.Join(hosts, ns)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(dir, "hosts"), []byte(table), 0o644); err != nil {
		t.Fatal(err)
	}
}

// starter starts processes that are to end with this one, all from one thread: the kernel
// ends them when the thread that started them ends, and threads of others come and go.
var starter = sync.OnceValue(func() chan<- func() {
	todo := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range todo {
			f()
		}
	}()
	return todo
})

// begin starts a process that ends with the process of the test.
func begin(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	done := make(chan error)
	starter() <- func() { done <- cmd.Start() }
	return <-done
}

// start starts a process that ends with the test, or with the process of the test.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := begin(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
}

// account is somebody who is signed in, and in the room #call.
type account struct {
	t      *testing.T
	ctx    context.Context
	server string
	token  string
	id     string
	device string
	room   string
}

func (a *account) do(method, path string, in any) (status int, out map[string]any) {
	a.t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		a.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(a.ctx, method, a.server+path, bytes.NewReader(b))
	if err != nil {
		a.t.Fatal(err)
	}
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		a.t.Fatal(err)
	}
	return resp.StatusCode, out
}

// signIn signs somebody in, and brings them into the room #call, which alice makes.
func signIn(t *testing.T, ctx context.Context, name, server string) *account {
	t.Helper()
	a := &account{t: t, ctx: ctx, server: server}
	status, me := a.do("POST", "/_matrix/client/v3/login", map[string]any{"type": "m.login.password",
		"identifier": map[string]string{"type": "m.id.user", "user": name}, "password": appliancetest.Password})
	if status != 200 {
		t.Fatal(status, me)
	}
	a.token, a.id, a.device = me["access_token"].(string), me["user_id"].(string), me["device_id"].(string)
	if name == "alice" {
		status, room := a.do("POST", "/_matrix/client/v3/createRoom", map[string]any{"preset": "public_chat", "room_alias_name": "call",
			"power_level_content_override": map[string]any{"events": map[string]int{memberType: 0}}})
		if status != 200 {
			t.Fatal(status, room)
		}
		a.room = room["room_id"].(string)
	} else {
		eventually(t, "the room is there", 90*time.Second, func() bool {
			status, room := a.do("POST", "/_matrix/client/v3/join/"+url.PathEscape("#call:"+appliancetest.ServerName), map[string]any{})
			a.room, _ = room["room_id"].(string)
			return status == 200
		})
	}
	return a
}

// enter is signIn, and asks for a relay token.
func enter(t *testing.T, ctx context.Context, name, server string) (relay map[string]any) {
	t.Helper()
	a := signIn(t, ctx, name, server)
	_, proof := a.do("POST", "/_matrix/client/v3/user/"+a.id+"/openid/request_token", map[string]any{})
	status, relay := a.do("POST", "/livekit/jwt/sfu/get", map[string]any{"room": a.room, "device_id": a.device, "openid_token": proof})
	if status != 200 {
		t.Fatal(status, relay)
	}
	return relay
}

// TestPerson is somebody in a call of TestNetworks.
func TestPerson(t *testing.T) {
	name, server := os.Getenv("CALL_PERSON"), os.Getenv("CALL_SERVER")
	if name == "" || os.Getenv("CALL_TURN") != "" {
		t.Skip("runs in a network of its own only")
	}
	s := seen{Preferred: map[string]int{}}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	relay := enter(t, ctx, name, server)
	s.Token = true

	var audio, frames atomic.Int64
	cb := lksdk.NewRoomCallback()
	cb.OnTrackSubscribed = func(track *webrtc.TrackRemote, _ *lksdk.RemoteTrackPublication, _ *lksdk.RemoteParticipant) {
		for {
			p, _, err := track.ReadRTP()
			if err != nil {
				return
			}
			if track.Kind() == webrtc.RTPCodecTypeAudio {
				audio.Add(1)
			} else if p.Marker { // the end of a frame
				frames.Add(1)
			}
		}
	}
	room, err := lksdk.ConnectToRoomWithToken(relay["url"].(string), relay["jwt"].(string), cb, lksdk.WithLogger(logger.GetDiscardLogger()),
		lksdk.WithDisableRegionDiscovery(), lksdk.WithConnectTimeout(30*time.Second))
	if err != nil {
		s.Failed = err.Error()
		say(t, s)
		return
	}
	defer room.Disconnect()
	publish(t, room)
	for end := time.Now().Add(90 * time.Second); audio.Load() < audioPackets || frames.Load() < videoFrames; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			break // the test says what is missing
		}
	}
	s.Audio, s.Frames = audio.Load(), frames.Load()
	for _, pc := range []*webrtc.PeerConnection{room.LocalParticipant.GetPublisherPeerConnection(), room.LocalParticipant.GetSubscriberPeerConnection()} {
		if pc != nil {
			s.look(t, pc)
		}
	}
	say(t, s)
	io.Copy(io.Discard, os.Stdin) // until the other one has seen enough, too
}

// look adds what a connection was told of, and goes over.
func (s *seen) look(t *testing.T, pc *webrtc.PeerConnection) {
	t.Helper()
	add := func(to *[]string, addr string) {
		if a, err := netip.ParseAddr(addr); err == nil {
			addr = a.String()
		}
		if !slices.Contains(*to, addr) {
			*to = append(*to, addr)
		}
	}
	for _, srv := range pc.GetConfiguration().ICEServers {
		for _, u := range srv.URLs {
			_, at, _ := strings.Cut(u, ":")
			at, _, _ = strings.Cut(at, "?")
			if host := (&url.URL{Host: at}).Hostname(); host != "" {
				add(&s.Servers, host)
			}
		}
	}
	for _, st := range pc.GetStats() {
		if c, ok := st.(webrtc.ICECandidateStats); ok && c.Type == webrtc.StatsTypeRemoteCandidate {
			add(&s.Offered, c.IP)
			if c.Protocol == "udp" {
				s.Preferred[c.IP] = max(s.Preferred[c.IP], int(c.Priority))
			}
		}
	}
	if pc.SCTP() == nil || pc.SCTP().Transport() == nil {
		return
	}
	s.pair(pc, pc.SCTP().Transport().ICETransport())
}

// pair adds the pair of candidates that a connection goes over.
func (s *seen) pair(pc *webrtc.PeerConnection, transport *webrtc.ICETransport) {
	pair, err := transport.GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return
	}
	s.Local, s.Remote, s.Over = pair.Local.Typ.String(), pair.Remote.Typ.String(), pair.Local.Protocol.String()
	s.RemoteAddress = pair.Remote.Address
	for _, st := range pc.GetStats() {
		c, ok := st.(webrtc.ICECandidateStats)
		if ok && c.Type == webrtc.StatsTypeLocalCandidate && s.Local == "relay" && c.RelayProtocol != "" && c.IP == pair.Local.Address && c.Port == int32(pair.Local.Port) {
			s.Over = c.RelayProtocol
		}
	}
}

func say(t *testing.T, s seen) {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("seen %s\n", b)
}

// publish sends sound and pictures until the test ends.
func publish(t *testing.T, room *lksdk.Room) {
	t.Helper()
	// A key frame of VP8 (RFC 6386, 9.1) with nothing in it: the relay looks at its head only.
	frame := append([]byte{0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00}, make([]byte, 3000)...) // in packets as large as they get
	for _, p := range []struct {
		codec  webrtc.RTPCodecCapability
		opts   lksdk.TrackPublicationOptions
		sample media.Sample
	}{
		{webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2},
			lksdk.TrackPublicationOptions{Name: "mic"}, media.Sample{Data: []byte{0xf8, 0xff, 0xfe}, Duration: 20 * time.Millisecond}},
		{webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000},
			lksdk.TrackPublicationOptions{Name: "camera", VideoWidth: 320, VideoHeight: 240}, media.Sample{Data: frame, Duration: 50 * time.Millisecond}},
	} {
		track, err := webrtc.NewTrackLocalStaticSample(p.codec, p.opts.Name, "person")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := room.LocalParticipant.PublishTrack(track, &p.opts); err != nil {
			t.Fatal(err)
		}
		go func() {
			tick := time.NewTicker(p.sample.Duration)
			defer tick.Stop()
			for t.Context().Err() == nil {
				<-tick.C
				track.WriteSample(p.sample)
			}
		}()
	}
}
