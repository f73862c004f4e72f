package web

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Machine is the computer under the appliance where it has one to itself, as the
// disk image gives it. Elsewhere somebody else looks after the computer, and the
// console has no such page.
type Machine struct {
	Disk    Disk
	Updates Updates
	Sticks  Sticks
	Network Network
	Clock   Clock
	Power   Power
}

// Disk is the data partition's protection.
type Disk interface {
	DiskState(ctx context.Context) (DiskState, error)
	// NewRecovery makes a recovery passphrase that counts once it was confirmed.
	NewRecovery(ctx context.Context) (string, error)
	// ConfirmRecovery takes what somebody typed from paper. Errors: *Error.
	ConfirmRecovery(ctx context.Context, typed string) error
}

// DiskState is how the data partition is protected.
type DiskState struct {
	Encrypted  bool   `json:"encrypted"`  // nobody reads it without a key
	TPM        bool   `json:"tpm"`        // the machine's own chip opens it
	Passphrase bool   `json:"passphrase"` // the recovery passphrase opens it
	Device     string `json:"device"`     // "nvme0n1p2"
	Bytes      int64  `json:"bytes"`
	Warning    string `json:"warning,omitempty"` // what is not well, and what to do
}

// Updates are the versions on this machine.
type Updates interface {
	Versions(ctx context.Context) (Versions, error)
	// StageUpdate reads a bundle and makes it start next time. An older version than
	// the running one is taken only with downgrade. Errors: *Error, of code
	// "downgrade" where it is asked for.
	StageUpdate(ctx context.Context, bundle io.Reader, downgrade bool) (Update, error)
	// OpenBundle gives the running version as a bundle of size bytes.
	OpenBundle(ctx context.Context) (bundle io.ReadCloser, size int64, version string, err error)
}

// Versions are what is on the system partition.
type Versions struct {
	Running string   `json:"running"`
	Arch    string   `json:"arch"`
	Signed  string   `json:"signed"` // whose updates are taken: the keys' fingerprints
	Others  []Update `json:"others"`
}

// Update is one version besides the running one.
type Update struct {
	Version string    `json:"version"`
	Created time.Time `json:"created,omitzero"`
	Notes   string    `json:"notes,omitempty"`
	State   string    `json:"state"` // "waiting" for the next start, "failed" when it was tried, "kept" as the way back
	Bytes   int64     `json:"bytes"`
}

// Sticks are updates on USB sticks.
type Sticks interface {
	StickUpdates(ctx context.Context) ([]StickUpdate, error)
	StageStick(ctx context.Context, device, file string, downgrade bool) (Update, error)
}

// StickUpdate is a bundle on a USB stick.
type StickUpdate struct {
	Device  string    `json:"device"`
	File    string    `json:"file"`
	Version string    `json:"version"`
	Created time.Time `json:"created"`
	Notes   string    `json:"notes,omitempty"`
}

// Network is how the machine is joined to networks. Configuration and state are
// the image's own JSON (docs/admin.md, "Network of the disk image").
type Network interface {
	NetworkState(ctx context.Context) (config, state json.RawMessage, err error)
	// ApplyNetwork tries a configuration; it is taken back unless ConfirmNetwork
	// follows in time. Errors: *Error.
	ApplyNetwork(ctx context.Context, config json.RawMessage) (confirmWithin time.Duration, err error)
	ConfirmNetwork(ctx context.Context) error
}

// Clock is the machine's clock.
type Clock interface {
	ClockState(ctx context.Context) (ClockState, error)
	// SetClock takes the time of an administrator's browser. Errors: *Error.
	SetClock(ctx context.Context, now time.Time) error
	// SetTimeServers changes which NTP servers are asked. Errors: *Error.
	SetTimeServers(ctx context.Context, servers []string) error
}

// ClockState is where the time comes from.
type ClockState struct {
	Now     time.Time `json:"now"`
	Source  string    `json:"source"` // "rtc", "kernel", "mark", "build", "ntp" or "administrator": what it was set by last
	Synced  time.Time `json:"synced,omitzero"`
	Servers []string  `json:"servers"`
	Alarm   string    `json:"alarm,omitempty"` // what is not well, and what to do
}

// Power stops and starts the machine.
type Power interface {
	Restart(ctx context.Context) error
	ShutDown(ctx context.Context) error
}

// Console is the machine's own screen and keyboard.
type Console interface {
	// SetConsolePassword sets the password of the screen's menu. Errors: *Error.
	SetConsolePassword(ctx context.Context, password string) error
	ConsolePasswordSet(ctx context.Context) bool
	// SetShareUpdates lets other appliances fetch the running version from here.
	SetShareUpdates(ctx context.Context, on bool) error
	ShareUpdates(ctx context.Context) bool
	// FetchUpdate has another appliance's version fetched and staged.
	FetchUpdate(ctx context.Context, from string, downgrade bool) (Update, error)
}

const (
	updatePath = "/api/console/machine/update"
	maxBundle  = 500 << 20 // an uploaded bundle, in bytes
)

var errNoMachine = &Error{Status: http.StatusNotFound, Code: "no_machine", Message: "This appliance runs as a program on somebody's machine; only the disk image looks after a machine of its own."}

// machineOverview is everything that the console's page shows.
type machineOverview struct {
	Disk            DiskState       `json:"disk"`
	Versions        Versions        `json:"versions"`
	ShareUpdates    bool            `json:"share_updates"`
	Network         json.RawMessage `json:"network"`
	NetworkState    json.RawMessage `json:"network_state"`
	Clock           ClockState      `json:"clock"`
	ConsolePassword bool            `json:"console_password"`
}

func (s *Server) machineRoutes(mux *http.ServeMux, admin func(pattern string, f func(r *http.Request, admin string) (any, error))) {
	handle := func(pattern string, f func(r *http.Request) (any, error)) {
		admin(pattern, func(r *http.Request, _ string) (any, error) {
			if s.Machine == nil {
				return nil, errNoMachine
			}
			return f(r)
		})
	}
	handle("GET /api/console/machine", s.machine)
	handle("POST /api/console/machine/recovery", s.newRecovery)
	handle("POST /api/console/machine/recovery/confirm", s.confirmRecovery)
	handle("POST "+updatePath, func(r *http.Request) (any, error) {
		return s.Machine.Updates.StageUpdate(r.Context(), r.Body, r.URL.Query().Get("downgrade") == "yes")
	})
	handle("POST /api/console/machine/update/fetch", func(r *http.Request) (any, error) {
		var in struct {
			From      string `json:"from"`
			Downgrade bool   `json:"downgrade"`
		}
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return s.Console.FetchUpdate(r.Context(), strings.TrimSpace(in.From), in.Downgrade)
	})
	handle("PUT /api/console/machine/update/share", func(r *http.Request) (any, error) {
		var in struct {
			Share bool `json:"share"`
		}
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, s.Console.SetShareUpdates(r.Context(), in.Share)
	})
	handle("GET /api/console/machine/sticks", func(r *http.Request) (any, error) {
		list, err := s.Machine.Sticks.StickUpdates(r.Context())
		if list == nil {
			list = []StickUpdate{}
		}
		return list, err
	})
	handle("POST /api/console/machine/sticks", func(r *http.Request) (any, error) {
		var in struct {
			Device    string `json:"device"`
			File      string `json:"file"`
			Downgrade bool   `json:"downgrade"`
		}
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return s.Machine.Sticks.StageStick(r.Context(), in.Device, in.File, in.Downgrade)
	})
	handle("PUT /api/console/machine/network", func(r *http.Request) (any, error) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, &Error{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Message: "This is too long for a network configuration."}
		}
		within, err := s.Machine.Network.ApplyNetwork(r.Context(), body)
		return map[string]int64{"confirm_within_s": int64(within / time.Second)}, err
	})
	handle("POST /api/console/machine/network/confirm", func(r *http.Request) (any, error) {
		return struct{}{}, s.Machine.Network.ConfirmNetwork(r.Context())
	})
	handle("POST /api/console/machine/clock", s.setClock)
	handle("PUT /api/console/machine/clock/servers", func(r *http.Request) (any, error) {
		var in struct {
			Servers []string `json:"servers"`
		}
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, s.Machine.Clock.SetTimeServers(r.Context(), in.Servers)
	})
	handle("PUT /api/console/machine/password", func(r *http.Request) (any, error) {
		var in struct {
			Password string `json:"password"`
		}
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, s.Console.SetConsolePassword(r.Context(), in.Password)
	})
	handle("POST /api/console/machine/restart", func(r *http.Request) (any, error) {
		return struct{}{}, s.Machine.Power.Restart(r.Context())
	})
	handle("POST /api/console/machine/shutdown", func(r *http.Request) (any, error) {
		return struct{}{}, s.Machine.Power.ShutDown(r.Context())
	})
	mux.HandleFunc("GET /api/updates/current", s.sharedUpdate)
}

func (s *Server) machine(r *http.Request) (any, error) {
	ctx := r.Context()
	var (
		o   machineOverview
		err error
	)
	if o.Disk, err = s.Machine.Disk.DiskState(ctx); err != nil {
		return nil, err
	}
	if o.Versions, err = s.Machine.Updates.Versions(ctx); err != nil {
		return nil, err
	}
	if o.Versions.Others == nil {
		o.Versions.Others = []Update{}
	}
	if o.Network, o.NetworkState, err = s.Machine.Network.NetworkState(ctx); err != nil {
		return nil, err
	}
	if o.Clock, err = s.Machine.Clock.ClockState(ctx); err != nil {
		return nil, err
	}
	if o.Clock.Servers == nil {
		o.Clock.Servers = []string{}
	}
	o.ShareUpdates, o.ConsolePassword = s.Console.ShareUpdates(ctx), s.Console.ConsolePasswordSet(ctx)
	return o, nil
}

func (s *Server) setClock(r *http.Request) (any, error) {
	var in struct {
		Now time.Time `json:"now"`
	}
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	return struct{}{}, s.Machine.Clock.SetClock(r.Context(), in.Now)
}

func (s *Server) newRecovery(r *http.Request) (any, error) {
	p, err := s.Machine.Disk.NewRecovery(r.Context())
	return map[string]string{"passphrase": p}, err
}

func (s *Server) confirmRecovery(r *http.Request) (any, error) {
	var in struct {
		Passphrase string `json:"passphrase"`
	}
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if len(in.Passphrase) > 200 {
		return nil, &Error{Code: "wrong_passphrase", Field: "passphrase", Message: "This is not the passphrase that was printed."}
	}
	return struct{}{}, s.Machine.Disk.ConfirmRecovery(r.Context(), in.Passphrase)
}

// handTime is how long one appliance may fetch an update: 80 MB at 70 kB/s.
const handTime = 20 * time.Minute

// sharedUpdate gives other appliances the running version, if an administrator
// allowed it. A bundle is signed and no secret; the bound is for the disk's sake.
func (s *Server) sharedUpdate(w http.ResponseWriter, r *http.Request) {
	if s.Machine == nil || !s.Console.ShareUpdates(r.Context()) {
		s.writeError(w, r, &Error{Status: http.StatusForbidden, Code: "not_shared", Message: "This appliance does not hand out updates. Its administrator can allow it in the console, under Machine."})
		return
	}
	select {
	case s.handing <- struct{}{}:
		defer func() { <-s.handing }()
	default:
		w.Header().Set("Retry-After", "30")
		s.writeError(w, r, &Error{Status: http.StatusServiceUnavailable, Code: "busy", Message: "Others are fetching the update now. Try again in half a minute."})
		return
	}
	bundle, size, version, err := s.Machine.Updates.OpenBundle(r.Context())
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	defer bundle.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", `attachment; filename="holdfast-`+version+`.hfu"`)
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	if r.Method != http.MethodHead {
		// Whoever takes longer would keep the place of others.
		c := http.NewResponseController(w)
		c.SetWriteDeadline(time.Now().Add(handTime))
		defer c.SetWriteDeadline(time.Time{})
		io.Copy(w, bundle)
	}
}
