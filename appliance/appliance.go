// Package appliance is the composition root: it reads the configuration, opens
// the store, joins the peers (homeserver, identity, sfu, web), listens, and stops
// it all again. It is also the command line.
//
// Invariants: only this package knows every peer; a request's origin is decided
// by the listener it came in by, never by a forwarded header; the address of a
// person behind a reverse proxy is believed only from a proxy on this machine;
// what was started is stopped in the opposite order, requests that run are
// finished, and long polls are answered at once; secrets are not logged.
package appliance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/appliance/certs"
	"holdfast/appliance/config"
	"holdfast/appliance/masterkey"
	"holdfast/appliance/settings"
	"holdfast/sfu"
	"holdfast/sfu/process"
	"holdfast/store"
	"holdfast/store/audit"
	"holdfast/store/blob"
	"holdfast/store/sealed"
	"holdfast/web"
)

// Version is set by the linker from git.
var Version = "0.0.0-dev"

// stopTime is how long requests that run are given at a stop.
const stopTime = 8 * time.Second

// Appliance is a running appliance.
type Appliance struct {
	cfg     *config.Config
	logs    *logs
	log     *slog.Logger
	out     io.Writer
	started time.Time

	db        *store.DB
	blobs     *blob.Store
	audit     *audit.Log
	secrets   *sealed.Box // of the homeserver
	master    *masterkey.Key
	settings  *settings.Settings
	certs     certs.Switch
	sfu       *process.Relay // nil: no calls
	web       *web.Server
	core      atomic.Pointer[core] // homeserver and identity; replaced when the server name is chosen
	coreMu    sync.Mutex           // one rebuild at a time
	metrics   *metrics
	claim     claim
	listens   []*listener
	control   *control
	pushKeyMu sync.Mutex // one maker of the key for Web Push at a time
	netErrs   chan error

	stopping context.Context // done when the stop begins: long polls end
	stop     context.CancelFunc
	ready    atomic.Bool
	once     sync.Once
	closers  []func()

	machine *Machine    // nil: the appliance is a program among others
	trial   atomic.Bool // nobody but this machine is answered

	previewsParsed atomic.Pointer[parsedPreviews]
}

// Start opens the data folder and serves it. out receives what a person at the
// console should read; logs go to logTo.
func Start(ctx context.Context, cfg *config.Config, out, logTo io.Writer) (*Appliance, error) {
	return StartOn(ctx, cfg, nil, out, logTo)
}

// StartOn is Start on a machine that the appliance has to itself.
func StartOn(ctx context.Context, cfg *config.Config, m *Machine, out, logTo io.Writer) (*Appliance, error) {
	a := &Appliance{cfg: cfg, machine: m, out: out, started: time.Now(), netErrs: make(chan error, 8)}
	a.trial.Store(m != nil && m.Trial)
	a.logs = newLogs(cfg, logTo)
	a.log = a.logs.component("appliance")
	slog.SetDefault(a.logs.component("identity")) // the only logger that zitadel/oidc knows
	a.stopping, a.stop = context.WithCancel(context.Background())
	if err := a.start(ctx); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

func (a *Appliance) start(ctx context.Context) (err error) {
	cfg := a.cfg
	if len(cfg.Ignored) > 0 {
		a.log.Warn("these variables of the environment are no settings and do nothing", "names", cfg.Ignored)
	}
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return fmt.Errorf("the data folder cannot be made: %w; name another with --data, or make it and give it to this user", err)
	}
	if cfg.Data, err = filepath.Abs(cfg.Data); err != nil {
		return err
	}
	if dir := cfg.Appservice.Dir; dir != "" {
		if _, err := os.ReadDir(dir); err != nil {
			return fmt.Errorf("%s: appservice.dir: %w; name a folder that this user may read", cfg.Source("appservice.dir"), err)
		}
	}
	// Listen first: a port that is taken is the most common mistake, and nothing
	// has to be undone then. Connections wait in the kernel until all is up.
	if err := a.listen(); err != nil {
		return err
	}
	if a.master, err = openMaster(cfg); err != nil {
		return err
	}
	a.db, err = store.Open(ctx, filepath.Join(cfg.Data, "holdfast.db"), store.Options{Log: a.logs.component("store"), TakeBack: a.machine != nil, BeforeTakeBack: a.keepUndone})
	if err != nil {
		return openError(cfg.Data, err)
	}
	a.onClose(func() {
		if err := a.db.Close(); err != nil {
			a.log.Error("the database was not closed well; nothing is lost", "err", err)
		}
	})
	if err := a.openSecrets(ctx); err != nil {
		return err
	}
	if err := a.openAudit(ctx); err != nil {
		return err
	}
	if a.blobs, err = blob.Open(filepath.Join(cfg.Data, "media")); err != nil {
		return fmt.Errorf("the media folder cannot be opened: %w", err)
	}
	if a.settings, err = settings.Load(ctx, a.db, a.audit); err != nil {
		return err
	}
	name, err := a.serverName()
	if err != nil {
		return err
	}
	if err := a.openCerts(); err != nil {
		return err
	}
	a.onClose(a.certs.Close)
	if err := a.startSFU(ctx); err != nil {
		return err
	}
	c, err := a.newCore(ctx, name)
	if err != nil {
		return err
	}
	a.core.Store(c)
	a.onClose(func() { a.core.Load().close() })
	if err := a.secrets.Note(ctx, a.db); err != nil {
		return err
	}
	if err := a.openWeb(); err != nil {
		return err
	}
	if err := a.openControl(); err != nil {
		return err
	}
	a.metrics = newMetrics(a)
	a.serve()
	code, err := a.openClaim(ctx)
	if err != nil {
		return err
	}
	if err := a.settle(ctx); err != nil {
		return err
	}
	a.ready.Store(true)
	a.log.Info("ready", "version", Version, "server_name", name, "ms", time.Since(a.started).Milliseconds())
	a.banner(code)
	a.alarmAudit(ctx)
	if a.machine == nil {
		go a.healthy()
	}
	return nil
}

// healthy drops the copy that a migration kept, once this version has run for a while.
func (a *Appliance) healthy() {
	select {
	case <-time.After(10 * time.Minute):
		if err := a.db.Healthy(); err != nil {
			a.log.Warn("the copy of the database from before the update could not be removed", "err", err)
		}
	case <-a.stopping.Done():
	}
}

func openError(dir string, err error) error {
	switch {
	case errors.Is(err, store.ErrLocked):
		return fmt.Errorf("another Holdfast uses the folder %s; stop it first, or name another folder with --data", dir)
	case errors.Is(err, store.ErrDamaged):
		return fmt.Errorf("the database %s is damaged: %w; keep a copy of the folder as it is, and put back a backup", filepath.Join(dir, "holdfast.db"), err)
	case errors.Is(err, store.ErrUnavailable):
		return fmt.Errorf("the database in %s cannot be opened: %w; check that the disk is not full and that this user may write there", dir, err)
	}
	return err
}

// onClose adds what Close does; the last added is done first.
func (a *Appliance) onClose(f func()) { a.closers = append(a.closers, f) }

// Wait returns when a listener failed or ctx is done. It does not stop anything.
func (a *Appliance) Wait(ctx context.Context) error {
	select {
	case err := <-a.netErrs:
		return err
	case <-ctx.Done():
		return nil
	}
}

// Close stops the appliance: running requests are finished, long polls end at once.
func (a *Appliance) Close() {
	a.once.Do(func() {
		a.drainCalls()
		a.ready.Store(false)
		a.stop()
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		var wg sync.WaitGroup
		for _, l := range a.listens {
			wg.Go(func() { l.shutdown(ctx) })
		}
		wg.Wait()
		for i := len(a.closers) - 1; i >= 0; i-- {
			a.closers[i]()
		}
		a.log.Info("stopped")
	})
}

// ServerName is the name that user IDs carry at this moment.
func (a *Appliance) ServerName() string { return a.core.Load().name }

// Addr is the address a listener ("https", "http", "redirect", "federation",
// "metrics") has, or nil.
func (a *Appliance) Addr(name string) net.Addr {
	for _, l := range a.listens {
		if l.name == name {
			return l.ln.Addr()
		}
	}
	return nil
}

// Handler answers the requests of browsers and clients, as the listeners do.
func (a *Appliance) Handler() http.Handler { return a.clientHandler() }

// Relay is the call relay; nil: calls are switched off.
func (a *Appliance) Relay() *process.Relay { return a.sfu }

func (a *Appliance) startSFU(ctx context.Context) error {
	if !a.cfg.SFU.Enabled {
		return nil
	}
	key, secret, err := a.callKey()
	if err != nil {
		return err
	}
	cluster, err := clusterOf(a.cfg)
	if err != nil {
		return err
	}
	s, err := process.New(process.Options{Level: a.cfg.Level("sfu"), Options: sfu.Options{
		Log:      a.logs.component("sfu"),
		UDPPort:  a.cfg.SFU.UDPPort,
		TCPPort:  a.cfg.SFU.TCPPort,
		TURNPort: a.cfg.SFU.TURNPort,
		NodeIP:   a.cfg.SFU.NodeIP,
		Key:      key,
		Secret:   secret,
		Kept:     a.cfg.CallsKept,
		Cluster:  cluster,

		MaxCalls:        a.cfg.SFU.MaxCalls,
		MaxParticipants: a.cfg.SFU.MaxParticipants,
		MaxVideoKbps:    a.cfg.SFU.MaxVideo,
		MaxScreenKbps:   a.cfg.SFU.MaxScreen,
		MaxReceivedKbps: a.cfg.SFU.MaxReceived,
		AudioFirst:      a.cfg.SFU.AudioFirst,
	}})
	if err == nil {
		err = s.Start(ctx)
	}
	if err != nil {
		return fmt.Errorf("the call relay cannot start: %w; if a port is taken, choose others with sfu.udp_port and sfu.tcp_port, or switch calls off with sfu.enabled = false", err)
	}
	a.sfu = s
	a.onClose(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // who is still in a call had the time for it: see drainCalls
		if err := s.Close(ctx); err != nil {
			a.log.Warn("the call relay did not stop well", "err", err)
		}
	})
	return nil
}

// openSecrets makes ready what the homeserver's secrets in the database are sealed by.
func (a *Appliance) openSecrets(ctx context.Context) error {
	key, err := a.master.Derive(secretsPurpose)
	if err != nil {
		return err
	}
	if a.secrets, err = sealed.New(key); err != nil {
		return err
	}
	// Before anything is written: the audit log would not be whole any more.
	if err := a.secrets.Check(ctx, a.db); err != nil {
		if errors.Is(err, sealed.ErrKey) {
			return fmt.Errorf("%s is not the key of the database beside it; put back the one of this database, from the same backup; nothing was changed", keyFile(a.cfg))
		}
		return err
	}
	return nil
}

// callKey is what signs the tokens for calls. It is the same after a restart, so that
// people come back into their calls, and is in no database.
func (a *Appliance) callKey() (name, secret string, err error) {
	key, err := a.master.Derive(callPurpose)
	if err != nil {
		return "", "", err
	}
	sum := sha256.Sum256(key) // the name is in each token
	return "HF" + hex.EncodeToString(sum[:6]), hex.EncodeToString(key), nil
}

// drainCalls gives the calls that run the time that sfu.drain allows. All else goes on
// meanwhile.
func (a *Appliance) drainCalls() {
	wait := time.Duration(a.cfg.SFU.Drain) * time.Second
	if a.sfu == nil || wait == 0 || a.sfu.Stats().Participants == 0 {
		return
	}
	// The service manager's patience is shorter. Source: sd_notify(3)
	tellSystemd(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", (wait + 30*time.Second).Microseconds()))
	a.log.Info("calls may go on for a while before the stop", "participants", a.sfu.Stats().Participants, "at_most", wait)
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	a.sfu.Drain(ctx)
}
