//go:build linux

// Command machine runs the appliance on a computer that is not there: versions
// are real ones on a folder, the network's configuration is really read, and the
// disk, the ports, the clock and the power switch are figures in memory. The
// browser tests look at the console's page of the machine with it.
//
// It is called as the program is (machine serve --data DIR --set KEY=VALUE ...),
// writes the bundles that the tests need into DIR/machine/bundles, and starts the
// appliance again when somebody restarts the machine.
package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/config"
	"holdfast/image/machine"
	"holdfast/image/network"
	"holdfast/image/update"
	"holdfast/store/schema"
	"holdfast/web"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "machine:", err)
		os.Exit(1)
	}
}

func run() error {
	var set []string
	f := flag.NewFlagSet("machine", flag.ExitOnError)
	data := f.String("data", "", "the appliance's folder")
	f.Func("set", "a setting, KEY=VALUE", func(s string) error { set = append(set, s); return nil })
	if len(os.Args) < 2 || os.Args[1] != "serve" {
		return errors.New("usage: machine serve --data DIR [--set KEY=VALUE]")
	}
	if err := f.Parse(os.Args[2:]); err != nil {
		return err
	}
	cfg, err := config.Load(config.Input{Data: *data, Set: set})
	if err != nil {
		return err
	}
	m, err := newComputer(filepath.Join(*data, "machine"))
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	for {
		a, err := appliance.StartOn(ctx, cfg, &appliance.Machine{Machine: m.parts()}, os.Stdout, os.Stderr)
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			a.Close()
			return nil
		case again := <-m.power:
			a.Close()
			if !again {
				return nil
			}
		}
		// The machine is off for as long as a browser takes to notice.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(5 * time.Second):
		}
	}
}

// computer is what stands for the hardware.
type computer struct {
	bundles string
	updates *machine.Updates
	power   chan bool // true: starts again

	mu          sync.Mutex
	pending     string // a recovery passphrase that was not confirmed yet
	recovery    string
	config      network.Config
	before      network.Config
	unconfirmed *time.Timer
	until       time.Time
	takenBack   string
	ahead       time.Duration // how far the clock is from the right time
	source      string
	servers     []string
}

// newComputer makes a computer with three versions on it, and bundles beside it.
func newComputer(dir string) (*computer, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	steps, err := schema.Migrations()
	if err != nil {
		return nil, err
	}
	esp := filepath.Join(dir, "esp")
	m := &computer{bundles: filepath.Join(dir, "bundles"), power: make(chan bool, 1), config: network.Default(), ahead: -3 * time.Hour, source: "build"}
	for _, d := range []string{filepath.Join(esp, "EFI/Linux"), m.bundles, filepath.Join(dir, "vars")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	for name, size := range map[string]int{"holdfast_1.4.0.efi": 3 << 20, "holdfast_1.3.2.efi": 2 << 20, "holdfast_1.4.1+0-3.efi": 3 << 20} {
		if err := os.WriteFile(filepath.Join(esp, "EFI/Linux", name), make([]byte, size), 0o600); err != nil {
			return nil, err
		}
	}
	m.updates = &machine.Updates{
		Slots: &update.Slots{ESP: esp, Running: "1.4.0", Vars: filepath.Join(dir, "vars")},
		Keys:  []ed25519.PublicKey{pub},
	}
	for _, b := range []struct {
		file, version, notes string
		key                  ed25519.PrivateKey
	}{
		{"newer.hfu", "1.5.0", "Calls go on when a phone changes its network.\nThe disk can be protected later.", key},
		{"older.hfu", "1.2.0", "", key},
		{"stranger.hfu", "1.6.0", "", stranger},
	} {
		var out bytes.Buffer
		manifest := update.Manifest{Version: b.version, Arch: runtime.GOARCH, Created: time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC), Schema: len(steps), Notes: b.notes}
		if err := update.Write(&out, manifest, bytes.NewReader(bytes.Repeat([]byte(b.version), 1<<20)), b.key); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(m.bundles, b.file), out.Bytes(), 0o600); err != nil {
			return nil, err
		}
	}
	return m, os.WriteFile(filepath.Join(m.bundles, "letter.hfu"), []byte("Dear all"), 0o600)
}

func (m *computer) parts() web.Machine {
	return web.Machine{Disk: m, Updates: m.updates, Sticks: m, Network: m, Clock: m, Power: m}
}

// DiskState implements web.Disk.
func (m *computer) DiskState(context.Context) (web.DiskState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := web.DiskState{Device: "nvme0n1p2", Bytes: 512 << 30, Encrypted: m.recovery != "", Passphrase: m.recovery != ""}
	if !s.Encrypted {
		s.Warning = "The data is not protected: whoever takes the disk reads it. Make a recovery passphrase in the console, under Machine."
	}
	return s, nil
}

// NewRecovery implements web.Disk.
func (m *computer) NewRecovery(context.Context) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	text := rand.Text() + rand.Text()
	var groups []string
	for i := range 6 {
		groups = append(groups, text[5*i:5*i+5])
	}
	m.pending = strings.Join(groups, "-")
	return m.pending, nil
}

// ConfirmRecovery implements web.Disk.
func (m *computer) ConfirmRecovery(_ context.Context, typed string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	plain := func(s string) string { return strings.NewReplacer("-", "", " ", "").Replace(strings.ToUpper(s)) }
	if plain(typed) != plain(m.pending) {
		return &web.Error{Code: "wrong_passphrase", Field: "passphrase", Message: "This is not the passphrase that was printed."}
	}
	m.recovery, m.pending = m.pending, ""
	return nil
}

// StickUpdates implements web.Sticks. The first look finds none.
func (m *computer) StickUpdates(context.Context) ([]web.StickUpdate, error) {
	plugged := filepath.Join(m.bundles, "plugged")
	if _, err := os.Stat(plugged); err != nil {
		if err := os.WriteFile(plugged, nil, 0o600); err != nil {
			return nil, err
		}
		return nil, &web.Error{Status: http.StatusNotFound, Code: "no_stick", Message: "No USB stick with an update was found: copy the file whose name ends in .hfu into the root folder of a stick that is formatted as FAT, and plug it in."}
	}
	f, err := os.Open(filepath.Join(m.bundles, "newer.hfu"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := update.Open(f, m.updates.Keys)
	if err != nil {
		return nil, err
	}
	return []web.StickUpdate{{Device: "sdb1", File: "newer.hfu", Version: b.Version, Created: b.Created, Notes: b.Notes}}, nil
}

// StageStick implements web.Sticks.
func (m *computer) StageStick(ctx context.Context, _, file string, downgrade bool) (web.Update, error) {
	f, err := os.Open(filepath.Join(m.bundles, filepath.Base(file)))
	if err != nil {
		return web.Update{}, err
	}
	defer f.Close()
	return m.updates.StageUpdate(ctx, io.Reader(f), downgrade)
}

// NetworkState implements web.Network.
func (m *computer) NetworkState(context.Context) (cfg, state json.RawMessage, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	addr := netip.MustParsePrefix("192.168.17.23/24")
	source := "dhcp"
	for _, p := range m.config.Ports {
		if len(p.IPv4.Addresses) > 0 {
			addr, source = p.IPv4.Addresses[0], "static"
		}
	}
	s := network.State{
		Hostname:  "holdfast",
		DNS:       []netip.Addr{netip.MustParseAddr("192.168.17.1")},
		TakenBack: m.takenBack,
		Problems:  []string{},
		Ports: []network.PortState{
			{Name: "enp1s0", Kind: "wired", MAC: "52:54:00:12:34:56", Selector: network.AnyWired, Link: true, Speed: 1000, MTU: 1500, Addresses: []network.Address{{Prefix: addr, Source: source}, {Prefix: netip.MustParsePrefix("fe80::5054:ff:fe12:3456/64"), Source: "link-local"}}, Problems: []string{}},
			{Name: "enp2s0", Kind: "wired", MAC: "52:54:00:12:34:57", Selector: network.AnyWired, MTU: 1500, Problems: []string{}},
			{Name: "enp3s0", Kind: "wired", MAC: "52:54:00:12:34:58", Selector: network.AnyWired, Link: true, Speed: 100, MTU: 1500, Problems: []string{"No DHCP server answers on this port. Check the cable and the switch, or set a fixed address."}},
		},
	}
	if m.unconfirmed != nil {
		s.Unconfirmed = &m.until
	}
	if cfg, err = json.Marshal(m.config); err != nil {
		return nil, nil, err
	}
	state, err = json.Marshal(s)
	return cfg, state, err
}

// confirmTime is short, so that a test sees a change taken back.
const confirmTime = 20 * time.Second

// ApplyNetwork implements web.Network.
func (m *computer) ApplyNetwork(_ context.Context, text json.RawMessage) (time.Duration, error) {
	c, err := network.Parse(text)
	if err != nil {
		s := err.Error()
		return 0, &web.Error{Code: "bad_network", Field: "network", Message: strings.ToUpper(s[:1]) + s[1:] + "."}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.unconfirmed == nil {
		m.before = m.config
	} else {
		m.unconfirmed.Stop()
	}
	m.config, m.takenBack, m.until = c, "", time.Now().Add(confirmTime)
	m.unconfirmed = time.AfterFunc(confirmTime, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.config, m.unconfirmed, m.takenBack = m.before, nil, "nobody confirmed it in time"
	})
	return confirmTime, nil
}

// ConfirmNetwork implements web.Network.
func (m *computer) ConfirmNetwork(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.unconfirmed == nil || !m.unconfirmed.Stop() {
		return &web.Error{Status: http.StatusConflict, Code: "not_confirmed", Message: "There is no change to confirm."}
	}
	m.unconfirmed = nil
	return nil
}

// ClockState implements web.Clock.
func (m *computer) ClockState(context.Context) (web.ClockState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := web.ClockState{Now: time.Now().Add(m.ahead), Source: m.source, Servers: m.servers}
	if m.ahead != 0 {
		s.Alarm = "The machine's own clock was wrong at this start, and no time server answers. Set the time, and have the battery of the mainboard changed."
	}
	return s, nil
}

// SetClock implements web.Clock.
func (m *computer) SetClock(context.Context, time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ahead, m.source = 0, "administrator"
	return nil
}

// SetTimeServers implements web.Clock.
func (m *computer) SetTimeServers(_ context.Context, servers []string) error {
	for _, s := range servers {
		if strings.ContainsAny(s, "/@?") {
			return &web.Error{Code: "bad_servers", Field: "servers", Message: fmt.Sprintf("%q is no name or address of a time server.", s)}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.servers = servers
	return nil
}

// Restart implements web.Power.
func (m *computer) Restart(context.Context) error {
	time.AfterFunc(time.Second, func() { m.power <- true })
	return nil
}

// ShutDown implements web.Power.
func (m *computer) ShutDown(context.Context) error {
	time.AfterFunc(time.Second, func() { m.power <- false })
	return nil
}
