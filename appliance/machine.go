package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"holdfast/appliance/settings"
	"holdfast/identity"
	"holdfast/web"
)

// Machine is the computer that the appliance has to itself, as the disk image
// gives it. On it a new version is tried before anybody is answered: what a
// version that fails wrote is thrown away together with its database, so it must
// not have acknowledged anything.
type Machine struct {
	web.Machine
	// Trial says that this version was not blessed yet.
	Trial bool
	// Bless makes the version stay. It is called at each start, once all works.
	Bless func() error
}

// parts is what the console shows; nil without a machine.
func (m *Machine) parts() *web.Machine {
	if m == nil {
		return nil
	}
	return &m.Machine
}

// trialTime is how long a new version may take to pass its self-check.
const trialTime = 3 * time.Minute

// settle ends the start on a machine: a new version checks itself and is blessed,
// the copy of the database from before it goes, and the doors open.
func (a *Appliance) settle(ctx context.Context) error {
	if a.machine == nil {
		return nil
	}
	if a.trial.Load() {
		if err := a.selfCheck(ctx); err != nil {
			return fmt.Errorf("version %s does not pass its own check: %w", Version, err)
		}
	}
	// First the version, then the copy, then the doors: wherever the power goes, no
	// copy is left that is older than something acknowledged.
	if a.machine.Bless != nil {
		if err := a.machine.Bless(); err != nil {
			if a.trial.Load() {
				return fmt.Errorf("version %s cannot be kept: %w", Version, err)
			}
			a.log.Error("the system partition does not take that this version works", "err", err)
		}
	}
	if err := a.db.Healthy(); err != nil {
		return err
	}
	a.trial.Store(false)
	return nil
}

// selfCheck runs what the self-test does. Before there is anybody it leaves out
// what needs an account, which would fix the server name.
func (a *Appliance) selfCheck(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, trialTime)
	defer cancel()
	claimed, err := a.claimed(ctx)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		if claimed {
			err = a.everyCheck(ctx)
		} else {
			err = a.firstChecks(ctx)
		}
		if err == nil || try == 3 || ctx.Err() != nil {
			return err
		}
		a.log.Warn("the check of the new version failed and is tried again", "err", err)
		select {
		case <-time.After(5 * time.Second):
		case <-ctx.Done():
		}
	}
}

func (a *Appliance) everyCheck(ctx context.Context) error {
	checks, err := selfTest{a}.SelfTest(ctx)
	if err != nil {
		return err
	}
	for _, c := range checks {
		if !c.OK {
			err = errors.Join(err, fmt.Errorf("%s: %s", c.Name, c.Detail))
		}
	}
	return err
}

func (a *Appliance) firstChecks(ctx context.Context) error {
	c, err := a.selfTestClient()
	if err != nil {
		return err
	}
	defer c.http.CloseIdleConnections()
	for _, path := range []string{"/_matrix/client/versions", "/api/setup", "/setup"} {
		if _, err := c.raw(ctx, "GET", path, "", nil); err != nil {
			return err
		}
	}
	return nil
}

// notYet answers those who come while a new version is being checked.
func notYet(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Retry-After", "5")
	w.WriteHeader(http.StatusServiceUnavailable)
	io.WriteString(w, `{"errcode":"M_UNKNOWN","error":"The appliance was updated and checks itself. Try again in some seconds."}`)
}

// Facts are what the machine's screen shows.
type Facts struct {
	Organisation string // or the server's name
	Version      string
	URL          string   // where others reach it
	MoreURLs     []string // by its other addresses
	Claimed      bool
	Code         string   // the claim code, while nobody has claimed it
	Fingerprint  string   // of the own certificate authority, SHA-256; "" with other certificates
	Problems     []string // what is not well, in a sentence each
}

// Facts tells how the appliance is.
func (a *Appliance) Facts(ctx context.Context) (Facts, error) {
	claimed, err := a.claimed(ctx)
	f := Facts{Organisation: a.organisation(), Version: Version, URL: a.sharedURL(), Claimed: claimed, Problems: a.problems(ctx)}
	f.MoreURLs = a.moreURLs(f.URL)
	if own := a.ownCA(); own != nil && a.hasTLS() {
		f.Fingerprint = own.Fingerprint()
	}
	if !claimed {
		a.claim.mu.Lock()
		f.Code = a.claim.shown
		a.claim.mu.Unlock()
	}
	return f, err
}

// NewClaim makes a new claim code; the one before becomes useless. Errors: the
// appliance has an administrator already.
func (a *Appliance) NewClaim(ctx context.Context) error {
	code, err := a.openClaim(ctx)
	if err == nil && code == "" {
		err = errClaimed
	}
	return err
}

// AddressesChanged tells the appliance that the machine's addresses are others.
func (a *Appliance) AddressesChanged() {
	if own := a.ownCA(); own != nil {
		if err := own.Refresh(); err != nil {
			a.log.Error("no certificate for the new address", "err", err)
		}
	}
}

// ErrConsolePassword means that the password of the machine's screen is wrong.
var ErrConsolePassword = errors.New("this is not the console password; an administrator can set another one in the console, under Machine")

// CheckConsolePassword lets somebody at the machine's screen use its menu. Without
// a password everybody who stands there may. Errors: ErrConsolePassword.
func (a *Appliance) CheckConsolePassword(ctx context.Context, password string) error {
	hash := a.settings.Get(settings.ConsolePassword)
	if hash == "" {
		return nil
	}
	ok, err := a.core.Load().identity.VerifyHash(ctx, hash, password)
	if err == nil && !ok {
		err = ErrConsolePassword
	}
	return err
}

// HasConsolePassword reports whether the screen's menu asks for a password.
func (a *Appliance) HasConsolePassword() bool { return a.settings.Get(settings.ConsolePassword) != "" }

// SetConsolePassword implements web.Console.
func (a console) SetConsolePassword(ctx context.Context, password string) error {
	if password == "" {
		return a.settings.Put(ctx, map[string]string{settings.ConsolePassword: ""})
	}
	hash, err := a.id().HashPassword(ctx, password)
	var weak *identity.WeakPassword
	if errors.As(err, &weak) {
		return &web.Error{Code: "weak_password", Field: "password", Message: weak.Text()}
	}
	if err != nil {
		return err
	}
	return a.settings.Put(ctx, map[string]string{settings.ConsolePassword: hash})
}

// ConsolePasswordSet implements web.Console.
func (a console) ConsolePasswordSet(context.Context) bool { return a.HasConsolePassword() }

// SetShareUpdates implements web.Console.
func (a console) SetShareUpdates(ctx context.Context, on bool) error {
	value := ""
	if on {
		value = "yes"
	}
	return a.settings.Put(ctx, map[string]string{settings.ShareUpdates: value})
}

// ShareUpdates implements web.Console.
func (a console) ShareUpdates(context.Context) bool {
	return a.settings.Get(settings.ShareUpdates) == "yes"
}

// fetchTime is how long another appliance may take to hand over an update.
const fetchTime = 15 * time.Minute

// FetchUpdate implements web.Console. Who hands the bundle over does not matter,
// for it is signed; so the other's certificate is not checked.
func (a console) FetchUpdate(ctx context.Context, from string, downgrade bool) (web.Update, error) {
	bad := func(msg string, args ...any) error {
		return &web.Error{Code: "bad_address", Field: "from", Message: fmt.Sprintf(msg, args...)}
	}
	if !strings.Contains(from, "://") {
		from = "https://" + from
	}
	u, err := url.Parse(from)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return web.Update{}, bad("Type the other appliance's address, for example https://10.0.0.5.")
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+u.Host+"/api/updates/current", nil)
	if err != nil {
		return web.Update{}, bad("Type the other appliance's address, for example https://10.0.0.5.")
	}
	client := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 20 * time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return web.Update{}, bad("%s does not answer. Check the address and the network.", u.Host)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusForbidden:
		return web.Update{}, bad("%s does not hand out updates. Allow it in its console, under Machine.", u.Host)
	default:
		return web.Update{}, bad("%s answered %d instead of an update. Check the address.", u.Host, resp.StatusCode)
	}
	return a.machine.Updates.StageUpdate(ctx, resp.Body, downgrade)
}
