package boot

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"holdfast/appliance"
	"holdfast/image/clock"
	"holdfast/image/network"
	"holdfast/image/screen"
	"holdfast/image/update"
	"holdfast/web"
)

// follow puts together what the screens show, once for all of them.
func (m *machine) follow(ctx context.Context) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		in := m.gather(ctx)
		m.mu.Lock()
		m.info = in
		m.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// status is what the screens show now. What changes at once is asked for anew.
func (m *machine) status() screen.Info {
	m.mu.Lock()
	defer m.mu.Unlock()
	in := m.info
	in.Version = appliance.Version
	in.Stage, in.Trouble, in.Passphrase = m.stage, m.trouble, m.passphrase
	if m.passphrase {
		in.Fingerprint = m.openPrint
	}
	return in
}

// gather asks all parts how they are.
func (m *machine) gather(ctx context.Context) (in screen.Info) {
	if n := m.net.Load(); n != nil {
		state, config := n.State(), n.Config()
		in.Ports = ports(state, config)
		for _, t := range state.Problems {
			in.Alarms = append(in.Alarms, sentence(t))
		}
		for _, p := range state.Ports {
			for _, t := range p.Problems {
				in.Alarms = append(in.Alarms, p.Name+": "+t+".")
			}
		}
		m.mu.Lock()
		locked := m.passphrase
		m.mu.Unlock()
		if addrs := state.Reachable(); locked && len(addrs) > 0 {
			in.URL = "https://" + host(addrs[0])
			in.QR = in.URL
		}
	}
	if d := m.disk.Load(); d != nil {
		p := d.Protection()
		switch {
		case p.Clear:
			in.Disk = "NOT ENCRYPTED: the key stands on the disk"
		case p.TPM && p.Passphrase:
			in.Disk = "encrypted; opened by the TPM chip"
		case p.TPM:
			in.Disk = "encrypted; opened by the TPM chip alone"
		case p.Encrypted:
			in.Disk = "encrypted; opened by the passphrase"
		}
		if p.Warning != "" {
			in.Alarms = append(in.Alarms, p.Warning)
		}
	}
	in.Clock = time.Now().UTC().Format("2006-01-02 15:04") + " UTC"
	if c := m.clock.Load(); c != nil {
		s := c.State()
		in.Clock += ", " + timeFrom[s.Source]
		for _, a := range s.Alarms {
			in.Alarms = append(in.Alarms, a.Text)
		}
	}
	if a := m.app.Load(); a != nil {
		f, err := a.Facts(ctx)
		if err != nil {
			in.Alarms = append(in.Alarms, "The database does not answer: "+err.Error()+".")
		}
		in.Name, in.URL, in.MoreURLs, in.Claim, in.Fingerprint = f.Organisation, f.URL, f.MoreURLs, f.Code, f.Fingerprint
		in.QR = f.URL
		if f.Code != "" {
			in.QR = f.URL + "/setup#code=" + f.Code
		}
		if strings.Contains(f.URL, "//localhost") {
			// Nobody else's browser finds that.
			in.URL, in.QR = "", ""
			if len(in.Ports) > 0 { // else that is said already
				in.Alarms = append(in.Alarms, "No other machine reaches this one: it has no address in a network. Check the cable, or set an address in the menu under Network.")
			}
		}
		for _, t := range f.Problems {
			in.Alarms = append(in.Alarms, sentence(t))
		}
		in.Locked = a.HasConsolePassword()
	}
	return in
}

// host is an address as it stands in a URL.
func host(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.WithZone("").String() + "]"
	}
	return a.String()
}

// ports are the network's ports for the screen: no bonds' members.
func ports(s network.State, c network.Config) (list []screen.Port) {
	for _, p := range s.Ports {
		if p.Bond != "" || p.Kind == "wireless" {
			continue
		}
		out := screen.Port{Name: p.Name, MAC: p.MAC, Link: p.Link, Problems: p.Problems}
		for _, a := range p.Addresses {
			if a.Prefix.Addr().Is4() || !a.Prefix.Addr().IsLinkLocalUnicast() {
				out.Addresses = append(out.Addresses, a.Prefix.String())
			}
			out.Static = out.Static || a.Source == "static"
		}
		for _, g := range p.Gateways {
			if g.Is4() {
				out.Gateway = g.String()
				break
			}
		}
		for _, d := range s.DNS {
			out.DNS = append(out.DNS, d.String())
		}
		list = append(list, out)
	}
	// Those with a cable first: they are what people look for.
	slices.SortStableFunc(list, func(a, b screen.Port) int {
		switch {
		case a.Link == b.Link:
			return 0
		case a.Link:
			return -1
		}
		return 1
	})
	return list
}

// errBusy: the part that is needed does not run.
var errBusy = errors.New("the appliance does not run yet")

// actions are what the screens' menu does.
func (m *machine) actions() screen.Actions {
	app := func(f func(a *appliance.Appliance) error) error {
		a := m.app.Load()
		if a == nil {
			return errBusy
		}
		return f(a)
	}
	return screen.Actions{
		CheckPassword: func(ctx context.Context, password string) error {
			return app(func(a *appliance.Appliance) error { return a.CheckConsolePassword(ctx, password) })
		},
		Unlock:    m.unlock,
		Automatic: m.automatic,
		Fixed:     m.fixed,
		NewClaim: func(ctx context.Context) error {
			return app(func(a *appliance.Appliance) error { return a.NewClaim(ctx) })
		},
		AdminInvite: func(ctx context.Context) (url string, err error) {
			err = app(func(a *appliance.Appliance) error {
				url, err = a.AdminInvite(ctx)
				return err
			})
			return url, err
		},
		NewRecovery: func(context.Context) (string, error) {
			d := m.disk.Load()
			if d == nil {
				return "", errBusy
			}
			return d.NewRecovery()
		},
		ConfirmRecovery: func(ctx context.Context, typed string) error {
			d := m.disk.Load()
			if d == nil {
				return errBusy
			}
			return d.ConfirmRecovery(ctx, typed)
		},
		Sticks: m.sticks,
		Stage:  m.stageStick,
		Log: func(n int) (lines []string) {
			for _, l := range m.journal.last(n) {
				lines = append(lines, short(l))
			}
			return lines
		},
		KernelLog: kernelLog,
		Restart:   func() { m.stop(restart) },
		ShutDown:  func() { m.stop(shutDown) },
	}
}

func (m *machine) sticks(ctx context.Context) ([]screen.Stick, error) {
	u := m.updates()
	if u == nil {
		return nil, errBusy
	}
	found, err := u.StickUpdates(ctx)
	if err != nil {
		return nil, err
	}
	var list []screen.Stick
	for _, f := range found {
		list = append(list, screen.Stick{Device: f.Device, File: f.File, Version: f.Version, Notes: f.Notes,
			Older: update.Compare(f.Version, appliance.Version) < 0})
	}
	return list, nil
}

func (m *machine) stageStick(ctx context.Context, s screen.Stick) error {
	u := m.updates()
	if u == nil {
		return errBusy
	}
	_, err := u.StageStick(ctx, s.Device, s.File, s.Older)
	var we *web.Error
	if errors.As(err, &we) {
		return errors.New(strings.TrimSuffix(we.Message, "."))
	}
	return err
}

// change puts another configuration of one port in force, for good.
func (m *machine) change(port string, f func(c *network.Config, p *network.Port) error) error {
	n := m.net.Load()
	if n == nil {
		return errors.New("the network does not run: the log says why")
	}
	c := n.Config()
	selector := ""
	for _, p := range n.State().Ports {
		if p.Name == port {
			if p.Kind != "wired" {
				return fmt.Errorf("%s is a %s: it is set in the web console", port, p.Kind)
			}
			if selector = p.Selector; selector == "" || selector == network.AnyWired {
				// From here on it has a line of its own, by what does not change when
				// another card is plugged in.
				selector = p.MAC
			}
		}
	}
	if selector == "" {
		return fmt.Errorf("the port %s is not there any more", port)
	}
	i := slices.IndexFunc(c.Ports, func(p network.Port) bool { return p.Port == selector })
	if i < 0 {
		c.Ports = append(c.Ports, network.Port{Port: selector})
		i = len(c.Ports) - 1
	}
	if err := f(&c, &c.Ports[i]); err != nil {
		return err
	}
	return n.Apply(c)
}

func (m *machine) automatic(_ context.Context, port string) error {
	return m.change(port, func(c *network.Config, p *network.Port) error {
		p.IPv4 = network.IPv4{Method: network.DHCP}
		p.IPv6 = network.IPv6{Method: network.Auto}
		// Without a fixed port nobody needs fixed name servers.
		if !slices.ContainsFunc(c.Ports, func(p network.Port) bool { return p.IPv4.Method == network.Static }) {
			c.DNS.Servers = nil
		}
		return nil
	})
}

func (m *machine) fixed(_ context.Context, port string, f screen.Fixed) error {
	address, err := netip.ParsePrefix(f.Address)
	if err != nil || !address.Addr().Is4() {
		return fmt.Errorf("%q is not an IPv4 address with its network; write it like 192.168.1.20/24", f.Address)
	}
	var gateway netip.Addr
	if f.Gateway != "" {
		if gateway, err = netip.ParseAddr(f.Gateway); err != nil || !gateway.Is4() {
			return fmt.Errorf("the gateway %q is not an IPv4 address; write it like 192.168.1.1", f.Gateway)
		}
	}
	var dns []netip.Addr
	for _, s := range strings.FieldsFunc(f.DNS, func(r rune) bool { return r == ' ' || r == ',' || r == ';' }) {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("the name server %q is not an address; write it like 192.168.1.1", s)
		}
		dns = append(dns, a)
	}
	return m.change(port, func(c *network.Config, p *network.Port) error {
		p.IPv4 = network.IPv4{Method: network.Static, Addresses: []netip.Prefix{address}, Gateway: gateway}
		c.DNS.Servers = dns
		return nil
	})
}

// short is a line of the log for a narrow screen: the time of day, the level unless
// it is the usual one, the rest.
func short(line string) string {
	m := logHead.FindStringSubmatch(line)
	if m == nil {
		return line
	}
	level := m[2] + " "
	if level == "INFO " {
		level = ""
	}
	return m[1] + " " + level + m[3]
}

var logHead = regexp.MustCompile(`^time=\S*T([0-9:]{8})\S* level=(\S+) msg=(.*)$`)

// timeFrom says in words where the time comes from.
var timeFrom = map[string]string{clock.FromNTP: "from time servers", clock.FromRTC: "from the machine's own clock",
	clock.FromKernel: "from the kernel", clock.FromMark: "not sure: the machine's own clock is wrong",
	clock.FromBuild: "not sure: the machine's own clock is wrong", clock.FromAdministrator: "set by an administrator"}
