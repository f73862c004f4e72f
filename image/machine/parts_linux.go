package machine

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"holdfast/image/clock"
	"holdfast/image/disk"
	"holdfast/image/network"
	"holdfast/web"
)

// Disk is the data partition, for the console.
type Disk struct{ Disk *disk.Disk }

// DiskState implements web.Disk.
func (d Disk) DiskState(context.Context) (web.DiskState, error) {
	p := d.Disk.Protection()
	return web.DiskState{Encrypted: p.Encrypted, TPM: p.TPM, Passphrase: p.Passphrase, Device: p.Device, Bytes: p.Bytes, Warning: p.Warning}, nil
}

// NewRecovery implements web.Disk.
func (d Disk) NewRecovery(context.Context) (string, error) { return d.Disk.NewRecovery() }

// ConfirmRecovery implements web.Disk.
func (d Disk) ConfirmRecovery(ctx context.Context, typed string) error {
	err := d.Disk.ConfirmRecovery(ctx, typed)
	switch {
	case errors.Is(err, disk.ErrNotTheSame):
		return &web.Error{Code: "wrong_passphrase", Field: "passphrase", Message: sentence(err)}
	case errors.Is(err, disk.ErrNoRecovery):
		return &web.Error{Status: http.StatusConflict, Code: "no_passphrase", Message: sentence(err)}
	}
	return err
}

// Network is how the machine is connected, for the console.
type Network struct{ Manager *network.Manager }

// confirmTime is how long a change waits for whoever made it to come back.
const confirmTime = 2 * time.Minute

// errNoNetwork: the kernel gave no network at all.
var errNoNetwork = &web.Error{Status: http.StatusConflict, Code: "no_network", Message: "The network could not be started. The log on the machine's screen says why."}

// NetworkState implements web.Network.
func (n Network) NetworkState(context.Context) (config, state json.RawMessage, err error) {
	if n.Manager == nil {
		return json.RawMessage("{}"), json.RawMessage("{}"), nil
	}
	if config, err = json.Marshal(n.Manager.Config()); err != nil {
		return nil, nil, err
	}
	state, err = json.Marshal(n.Manager.State())
	return config, state, err
}

// ApplyNetwork implements web.Network.
func (n Network) ApplyNetwork(_ context.Context, config json.RawMessage) (time.Duration, error) {
	if n.Manager == nil {
		return 0, errNoNetwork
	}
	c, err := network.Parse(config)
	if err != nil {
		return 0, &web.Error{Code: "bad_network", Field: "network", Message: sentence(err)}
	}
	if err := n.Manager.Try(c, confirmTime); err != nil {
		return 0, &web.Error{Status: http.StatusConflict, Code: "network_refused", Message: sentence(err)}
	}
	return confirmTime, nil
}

// ConfirmNetwork implements web.Network.
func (n Network) ConfirmNetwork(context.Context) error {
	if n.Manager == nil {
		return errNoNetwork
	}
	if err := n.Manager.Confirm(); err != nil {
		return &web.Error{Status: http.StatusConflict, Code: "not_confirmed", Message: sentence(err)}
	}
	return nil
}

// Clock is the machine's clock, for the console.
type Clock struct {
	Clock *clock.Clock
	// Save keeps which servers are asked.
	Save func(servers []string) error
}

var errNoClock = &web.Error{Status: http.StatusConflict, Code: "no_clock", Message: "The clock is not looked after. The log on the machine's screen says why."}

// ClockState implements web.Clock.
func (c Clock) ClockState(context.Context) (web.ClockState, error) {
	if c.Clock == nil {
		return web.ClockState{Now: time.Now(), Source: clock.FromKernel, Alarm: errNoClock.Message}, nil
	}
	s := c.Clock.State()
	out := web.ClockState{Now: s.Now, Source: s.Source, Synced: s.Synced}
	for _, v := range s.Servers {
		out.Servers = append(out.Servers, v.Address)
	}
	var alarms []string
	for _, a := range s.Alarms {
		alarms = append(alarms, a.Text)
	}
	out.Alarm = strings.Join(alarms, " ")
	return out, nil
}

// SetClock implements web.Clock.
func (c Clock) SetClock(_ context.Context, now time.Time) error {
	if c.Clock == nil {
		return errNoClock
	}
	if err := c.Clock.Confirm(now); err != nil {
		return &web.Error{Status: http.StatusConflict, Code: "clock_refused", Message: sentence(err)}
	}
	return nil
}

// SetTimeServers implements web.Clock.
func (c Clock) SetTimeServers(_ context.Context, servers []string) error {
	if c.Clock == nil {
		return errNoClock
	}
	if err := c.Clock.SetServers(servers); err != nil {
		return &web.Error{Code: "bad_servers", Field: "servers", Message: sentence(err)}
	}
	return c.Save(servers)
}

// Power stops and starts the machine, for the console.
type Power struct {
	RestartNow, ShutDownNow func()
}

// answerTime lets the answer to who asked get out.
const answerTime = time.Second

// Restart implements web.Power.
func (p Power) Restart(context.Context) error {
	time.AfterFunc(answerTime, p.RestartNow)
	return nil
}

// ShutDown implements web.Power.
func (p Power) ShutDown(context.Context) error {
	time.AfterFunc(answerTime, p.ShutDownNow)
	return nil
}
