package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/config"
	"holdfast/image/clock"
	"holdfast/image/disk"
	parts "holdfast/image/machine"
	"holdfast/image/network"
	"holdfast/image/unlock"
	"holdfast/image/update"
	"holdfast/web"
)

// keyFile holds whose updates are taken.
const keyFile = "/etc/holdfast/update.pub"

// networkFile is the network's configuration, on the system partition: the network
// may be needed before the data can be opened.
const networkFile = "network.json"

// leasesFile holds the addresses of the last run, which are asked for again.
const leasesFile = "leases.json"

func (m *machine) findDisk(ctx context.Context) error {
	d, err := disk.Find(ctx, m.log)
	if err != nil {
		return err
	}
	e := &esp{device: d.ESP()}
	if err := e.mount(); err != nil {
		return err
	}
	m.esp = e
	m.slots = &update.Slots{ESP: espDir, Running: appliance.Version, Vars: varsDir, Writable: e.writable}
	m.trial = m.slots.Trial()
	if text, err := os.ReadFile(keyFile); err != nil {
		m.log.Error("no updates can be taken: the image has no key for them", "err", err)
	} else if m.keys, err = update.ParseKeys(text); err != nil {
		m.log.Error("no updates can be taken: the image's key for them cannot be read", "err", err)
	}
	m.versions.Store(&parts.Updates{Slots: m.slots, Keys: m.keys, Disk: d.Name()})
	m.disk.Store(d)
	m.timeServers()
	if m.trial {
		m.log.Info("this version is being tried", "version", appliance.Version)
	}
	return nil
}

// openData brings the data to /data.
func (m *machine) openData(ctx context.Context) error {
	d := m.disk.Load()
	if err := d.Prepare(ctx); err != nil {
		return err
	}
	err := d.Unlock(ctx)
	if errors.Is(err, disk.ErrPassphrase) {
		err = m.askPassphrase(ctx, d, err)
	}
	if err != nil {
		return err
	}
	m.say("Mounting the data...")
	if err := d.Mount(ctx, dataDir); err != nil {
		return err
	}
	if err := m.journal.open(filepath.Join(dataDir, "log")); err != nil {
		m.log.Warn("the log is kept in memory alone", "err", err)
	}
	// Large uploads do not belong in memory.
	tmp := filepath.Join(dataDir, "tmp")
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o700)); err == nil {
		os.Setenv("TMPDIR", tmp)
	}
	if c := m.clock.Load(); c != nil {
		if err := c.SetMark(filepath.Join(dataDir, "clock")); err != nil {
			m.log.Error("how late it is will not be remembered", "err", err)
		}
	}
	return nil
}

// askPassphrase waits until somebody has typed the recovery passphrase, here or in
// a browser.
func (m *machine) askPassphrase(ctx context.Context, d *disk.Disk, why error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opened := make(chan struct{})
	m.mu.Lock()
	m.passphrase, m.unlocked = true, opened
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.passphrase, m.unlocked, m.openPrint = false, nil, ""
		m.mu.Unlock()
	}()
	m.log.Info("waiting for the recovery passphrase", "why", why)
	m.say("The data on this machine is encrypted. Type the recovery passphrase here, or in a browser.")
	m.screens.Say("HOLDFAST LOCKED waiting for the recovery passphrase")
	served := make(chan struct{})
	defer func() {
		cancel()
		<-served // the appliance needs the port
	}()
	go func() {
		defer close(served)
		for ctx.Err() == nil {
			err := unlock.Serve(ctx, unlock.Options{Addr: ":443", Redirect: ":80", Try: m.unlock, Fingerprint: func(print string) {
				m.mu.Lock()
				m.openPrint = print
				m.mu.Unlock()
			}, Log: m.log})
			if err == nil || ctx.Err() != nil {
				return
			}
			m.log.Error("the page for the passphrase cannot be served", "err", err)
			select {
			case <-time.After(retryPause):
			case <-ctx.Done():
			}
		}
	}()
	select {
	case <-opened:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := d.Reseal(ctx); err != nil {
		m.log.Info("the TPM chip will not open the data at the next start", "why", err)
	}
	return nil
}

// unlock tries a passphrase.
func (m *machine) unlock(ctx context.Context, passphrase string) error {
	d := m.disk.Load()
	if d == nil {
		return errStopped
	}
	if err := d.UnlockWith(ctx, passphrase); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.unlocked != nil {
		close(m.unlocked)
		m.unlocked = nil
	}
	return nil
}

// startNetwork connects the machine, once.
func (m *machine) startNetwork() {
	if m.net.Load() != nil || m.ctx.Err() != nil {
		return
	}
	c := network.Default()
	text, err := os.ReadFile(filepath.Join(settingsDir, networkFile))
	if err == nil {
		if c, err = network.Parse(text); err != nil {
			m.log.Error("the network's configuration is not understood; every port asks the network for addresses instead", "err", err)
			c = network.Default()
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		m.log.Error("the network's configuration cannot be read", "err", err)
	}
	opts := []network.Option{network.ResolvConf("/run/resolv.conf"), network.Save(m.saveNetwork)}
	if m.esp != nil {
		leases, _ := os.ReadFile(filepath.Join(settingsDir, leasesFile)) // none yet, or the server is asked anew
		opts = append(opts, network.Leases(leases, func(text []byte) error { return m.esp.write(leasesFile, text) }))
	}
	n, err := network.Start(m.ctx, c, m.log, opts...)
	if err != nil {
		m.log.Error("there is no network", "err", err)
		return
	}
	m.net.Store(n)
	go func() {
		for {
			select {
			case <-n.Changed():
				m.offeredTimeServers(n.State().NTP)
				if a := m.app.Load(); a != nil {
					a.AddressesChanged()
				}
				m.screens.Changed()
			case <-m.ctx.Done():
				return
			}
		}
	}()
}

func (m *machine) saveNetwork(c network.Config) error {
	if m.esp == nil {
		return errors.New("there is no system partition to keep it on")
	}
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return m.esp.write(networkFile, append(text, '\n'))
}

// clockFile holds which time servers are asked, beside the network's file.
const clockFile = "time.json"

type clockConfig struct {
	Servers []string `json:"servers"`
}

// builtFile has the time at which the image was built.
const builtFile = "/etc/holdfast/built"

// startClock sets the time. Where the machine's own clock knows nothing better it
// is not before the image was built.
func (m *machine) startClock() {
	text, err := os.ReadFile(builtFile)
	floor, parseErr := time.Parse(time.RFC3339, strings.TrimSpace(string(text)))
	if err := errors.Join(err, parseErr); err != nil {
		m.log.Error("when the image was built is not known", "err", err)
	}
	rtc := "/dev/rtc0"
	if _, err := os.Stat(rtc); err != nil {
		rtc = ""
	}
	c, err := clock.Start(m.ctx, clock.Options{RTC: rtc, Floor: floor, Log: m.log})
	if err != nil {
		m.log.Error("the clock is not looked after", "err", err)
		return
	}
	m.clock.Store(c)
}

// timeServers has the clock ask the servers that an administrator chose.
func (m *machine) timeServers() {
	c := m.clock.Load()
	text, err := os.ReadFile(filepath.Join(settingsDir, clockFile))
	if c == nil || errors.Is(err, fs.ErrNotExist) {
		return
	}
	var in clockConfig
	if err == nil && len(text) <= network.MaxConfig {
		err = json.Unmarshal(text, &in)
	}
	if err == nil && len(in.Servers) > 0 {
		m.chosenServers.Store(true)
		err = c.SetServers(in.Servers)
	}
	if err != nil {
		m.log.Error("the list of time servers is not understood", "err", err)
	}
}

// offeredTimeServers has the clock ask the servers that the network names, where no
// administrator chose others.
func (m *machine) offeredTimeServers(list []netip.Addr) {
	c := m.clock.Load()
	if c == nil || m.chosenServers.Load() {
		return
	}
	var names, now []string
	for _, a := range list {
		names = append(names, a.String())
	}
	for _, s := range c.State().Servers {
		now = append(now, s.Address)
	}
	if slices.Equal(names, now) {
		return
	}
	if err := c.SetServers(names); err != nil {
		m.log.Warn("the time servers that the network names cannot be asked", "servers", names, "err", err)
	}
}

func (m *machine) saveTimeServers(servers []string) error {
	text, err := json.MarshalIndent(clockConfig{servers}, "", "  ")
	if err != nil {
		return err
	}
	m.chosenServers.Store(len(servers) > 0)
	return m.esp.write(clockFile, append(text, '\n'))
}

// updates are the versions; nil until the disk was found.
func (m *machine) updates() *parts.Updates { return m.versions.Load() }

// trialLimit is how long a new version may take to migrate the data and to check
// itself. Large databases take minutes.
const trialLimit = 20 * time.Minute

// startAppliance starts what all of this is for.
func (m *machine) startAppliance(ctx context.Context) error {
	cfg, err := config.Load(config.Input{Data: filepath.Join(dataDir, "holdfast"), Set: []string{
		"listen.https=:443", "listen.redirect=:80", "listen.metrics=127.0.0.1:9464",
	}})
	if err != nil {
		return err
	}
	own := &appliance.Machine{Trial: m.trial, Bless: m.slots.Bless, Machine: web.Machine{
		Disk: parts.Disk{Disk: m.disk.Load()}, Updates: m.updates(), Sticks: m.updates(),
		Network: parts.Network{Manager: m.net.Load()}, Clock: parts.Clock{Clock: m.clock.Load(), Save: m.saveTimeServers},
		Power: parts.Power{RestartNow: func() { m.stop(restart) }, ShutDownNow: func() { m.stop(shutDown) }},
	}}
	if m.trial {
		// A version that hangs here must not keep the one before from returning.
		limit := time.AfterFunc(trialLimit, func() { m.hung(fmt.Errorf("version %s did not start within %v", appliance.Version, trialLimit)) })
		defer limit.Stop()
	}
	a, err := appliance.StartOn(ctx, cfg, own, nil, m.logTo())
	if err != nil {
		return err
	}
	m.app.Store(a)
	m.trial = false // it was blessed
	return nil
}
