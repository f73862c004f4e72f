package appliance

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/appliance/config"
)

// The service that `holdfast install` writes, and the Debian package brings.
//
//go:embed holdfast.service
var serviceUnit []byte

// sysusers is the account that the service runs as, for systemd-sysusers.
const sysusers = "u holdfast - \"Holdfast\" /var/lib/holdfast -\n"

// Where an installation puts things, below its root.
const (
	installedBinary  = "/usr/local/bin/holdfast"
	installedUnit    = "/etc/systemd/system/holdfast.service"
	installedUsers   = "/etc/sysusers.d/holdfast.conf"
	installedConfig  = "/etc/holdfast/appliance.toml"
	installedData    = "/var/lib/holdfast"
	installedAccount = "holdfast"
)

// packagedUnits is where the Debian package has its unit: one place under two names.
var packagedUnits = []string{"/usr/lib/systemd/system/holdfast.service", "/lib/systemd/system/holdfast.service"}

// installer makes this program a service of a Linux system with systemd.
type installer struct {
	out  io.Writer
	dry  bool   // only tell what would be done
	root string // "" or, in tests, a folder instead of /
	run  func(ctx context.Context, name string, args ...string) error
	self string // this program's file
}

func newInstaller(c *cli) (*installer, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return nil, fmt.Errorf("the program's own file cannot be found: %w", err)
	}
	return &installer{out: c.out, dry: c.dryRun, self: self, run: runProgram}, nil
}

func runProgram(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

var errNoSystemd = errors.New("this system does not run systemd; start `holdfast serve --data FOLDER` with what it has instead")

// runInstall implements `holdfast install`.
func runInstall(ctx context.Context, c *cli, _ []string) error {
	in, err := newInstaller(c)
	if err != nil {
		return err
	}
	if !in.dry {
		if os.Getuid() != 0 {
			return errors.New("only root can install a service; write sudo before the command, or look with --dry-run")
		}
		if _, err := os.Stat("/run/systemd/system"); err != nil {
			return errNoSystemd
		}
	}
	if err := in.install(ctx); err != nil {
		return err
	}
	if in.dry {
		return nil
	}
	return in.welcome(ctx, c)
}

// runUninstall implements `holdfast uninstall`.
func runUninstall(ctx context.Context, c *cli, _ []string) error {
	in, err := newInstaller(c)
	if err != nil {
		return err
	}
	if !in.dry && os.Getuid() != 0 {
		return errors.New("only root can remove a service; write sudo before the command, or look with --dry-run")
	}
	return in.uninstall(ctx)
}

// step tells what is done and does it.
func (in *installer) step(what string, do func() error) error {
	if in.dry {
		fmt.Fprintf(in.out, "would %s\n", what)
		return nil
	}
	fmt.Fprintf(in.out, "%s%s\n", strings.ToUpper(what[:1]), what[1:])
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (in *installer) path(p string) string { return filepath.Join(in.root, p) }

func (in *installer) exists(p string) bool {
	_, err := os.Stat(in.path(p))
	return err == nil
}

func (in *installer) install(ctx context.Context) error {
	if slices.ContainsFunc(packagedUnits, in.exists) {
		return errors.New("a package of Holdfast is installed here; update that: sudo apt install ./holdfast_VERSION_ARCH.deb")
	}
	again := in.exists(installedUnit)
	type step struct {
		what string
		do   func() error
	}
	steps := []step{
		{"put the program at " + installedBinary, func() error { return in.copyProgram() }},
		{"write " + installedUnit, func() error { return replaceFile(in.path(installedUnit), serviceUnit, 0o644) }},
		{"make the account " + installedAccount, func() error {
			if err := replaceFile(in.path(installedUsers), []byte(sysusers), 0o644); err != nil {
				return err
			}
			return in.run(ctx, "systemd-sysusers", in.path(installedUsers))
		}},
	}
	if !in.exists(installedConfig) {
		steps = append(steps, step{"write " + installedConfig, func() error { return in.writeConfig() }})
	}
	steps = append(steps, step{"start the service, now and at every start of the machine", func() error {
		if err := in.run(ctx, "systemctl", "daemon-reload"); err != nil {
			return err
		}
		if err := in.run(ctx, "systemctl", "enable", "holdfast.service"); err != nil {
			return err
		}
		verb := "start"
		if again {
			verb = "restart" // it is an update
		}
		if err := in.run(ctx, "systemctl", verb, "holdfast.service"); err != nil {
			return fmt.Errorf("%w; `journalctl -u holdfast` has the reason", err)
		}
		return nil
	}})
	for _, s := range steps {
		if err := in.step(s.what, s.do); err != nil {
			return err
		}
	}
	return nil
}

// copyProgram replaces the installed program in one step, so that a running one
// goes on and a power cut leaves one of the two.
func (in *installer) copyProgram() error {
	to := in.path(installedBinary)
	if same, _ := filepath.EvalSymlinks(to); same == in.self {
		return nil
	}
	b, err := os.ReadFile(in.self)
	if err != nil {
		return err
	}
	return replaceFile(to, b, 0o755)
}

// writeConfig writes the annotated defaults, readable by the service only: secrets
// will be written into it.
func (in *installer) writeConfig() error {
	path := in.path(installedConfig)
	var text bytes.Buffer
	if err := config.Template(&text); err != nil {
		return err
	}
	if err := replaceFile(path, text.Bytes(), 0o640); err != nil {
		return err
	}
	account, err := user.Lookup(installedAccount)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(account.Gid)
	if err != nil {
		return err
	}
	return os.Chown(path, 0, gid)
}

// replaceFile writes a file beside its place and renames it.
func replaceFile(path string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".holdfast-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func (in *installer) uninstall(ctx context.Context) error {
	if !in.exists(installedUnit) && !in.exists(installedBinary) {
		if slices.ContainsFunc(packagedUnits, in.exists) {
			return errors.New("a package of Holdfast is installed here; remove that: sudo apt remove holdfast")
		}
		return errors.New("it is not installed as a service here, so there is nothing to remove")
	}
	for _, s := range []struct {
		what string
		do   func() error
	}{
		{"stop the service", func() error {
			if !in.exists(installedUnit) {
				return nil // an earlier removal was cut off
			}
			return in.run(ctx, "systemctl", "disable", "--now", "holdfast.service")
		}},
		{"remove " + installedUnit, func() error { return os.Remove(in.path(installedUnit)) }},
		{"remove " + installedUsers, func() error { return os.Remove(in.path(installedUsers)) }},
		{"remove " + installedBinary, func() error { return os.Remove(in.path(installedBinary)) }},
		{"tell systemd", func() error { return in.run(ctx, "systemctl", "daemon-reload") }},
	} {
		if err := in.step(s.what, s.do); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	fmt.Fprintf(in.out, "The data in %s, the configuration in %s and the account %s stay. Remove them by hand when nobody needs them any more.\n", installedData, filepath.Dir(installedConfig), installedAccount)
	return nil
}

// welcome says where the started service is, and how to claim it. The claim code is
// not in the service's log, which more people read than may have it.
func (in *installer) welcome(ctx context.Context, c *cli) error {
	client := newControlClient(installedData)
	var h health
	var err error
	for range 100 {
		if err = client.call(ctx, "GET", "/v1/health", nil, &h); err == nil {
			break
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err != nil {
		return fmt.Errorf("the service was started but does not answer: %w; `journalctl -u holdfast` has the reason", err)
	}
	if h.Claimed {
		fmt.Fprintf(c.out, "\nHoldfast %s runs at %s\n", h.Version, h.URL)
		return nil
	}
	var claim struct{ Code, URL string }
	if err := client.call(ctx, "POST", "/v1/claim-code", nil, &claim); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "\nHoldfast %s runs. Open %s and type this code:\n\n    %s\n\n`holdfast claim` makes another one.\n", h.Version, claim.URL, claim.Code)
	return nil
}
