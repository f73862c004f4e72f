package appliance

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/appliance/config"
	"holdfast/appliance/masterkey"
	"holdfast/appliance/tpm"
	"holdfast/store/audit"
)

// This file has the master key: opened before the database, changed by the command line.

func keyFile(cfg *config.Config) string { return filepath.Join(cfg.Data, "identity.key") }

// Purposes of keys that come from the master key. They never change: what was sealed or
// signed would not be opened any more.
const (
	auditPurpose   = "holdfast audit log"
	callPurpose    = "holdfast call tokens"
	secretsPurpose = "holdfast homeserver secrets"
)

// credential is what systemd calls the passphrase (LoadCredential=, LoadCredentialEncrypted=).
const credential = "holdfast.passphrase"

// openMaster opens the master key. say is where somebody is asked, if there is a terminal.
func openMaster(cfg *config.Config) (*masterkey.Key, error) {
	k, err := masterkey.Open(keyFile(cfg), masterkey.Options{Ask: askPassphrase(cfg), Chip: func() (*tpm.TPM, error) { return openChip(cfg) }})
	switch {
	case errors.Is(err, masterkey.ErrNeeded), errors.Is(err, masterkey.ErrWrong):
		return nil, fmt.Errorf("%w; nothing was changed", err)
	case err != nil:
		return nil, fmt.Errorf("the master key in %s cannot be opened: %w", keyFile(cfg), err)
	}
	return k, nil
}

// openChip opens the TPM chip: a device, or the socket of one in software.
func openChip(cfg *config.Config) (*tpm.TPM, error) {
	path := cfg.Key.TPM
	if path == "" {
		path = tpm.Device
	}
	if st, err := os.Stat(path); err == nil && st.Mode().Type() == os.ModeSocket {
		c, err := net.Dial("unix", path)
		if err != nil {
			return nil, fmt.Errorf("%w (%w)", tpm.ErrNone, err)
		}
		return tpm.New(c), nil
	}
	return tpm.OpenAt(path)
}

// askPassphrase gives the passphrase of the file that the configuration names, else of
// systemd's credential, else of whoever sits at the terminal.
func askPassphrase(cfg *config.Config) func(last error) (string, error) {
	times := 0
	return func(last error) (string, error) {
		times++
		from, name := cfg.Key.PassphraseFile, cfg.Source("key.passphrase_file").String()
		if dir := os.Getenv("CREDENTIALS_DIRECTORY"); from == "" && dir != "" {
			if p := filepath.Join(dir, credential); fileSize(p) > 0 {
				from, name = p, "the credential "+credential
			}
		}
		if from != "" {
			if times > 1 {
				return "", fmt.Errorf("%w: it is not what is in %s (%s)", masterkey.ErrWrong, from, name)
			}
			b, err := readPassphrase(from)
			if err != nil {
				return "", fmt.Errorf("the passphrase of the master key cannot be read (%s): %w", name, err)
			}
			return b, nil
		}
		if !isTerminal(os.Stdin) {
			return "", fmt.Errorf("%w: name a file with it by key.passphrase_file or HOLDFAST_KEY_PASSPHRASE_FILE, give systemd's service the credential %s, or start it at a terminal", masterkey.ErrNeeded, credential)
		}
		if times > 3 {
			return "", masterkey.ErrWrong
		}
		if last != nil {
			fmt.Fprintf(os.Stderr, "%v.\n", last)
		}
		return typed(os.Stdin, os.Stderr, "Passphrase of the master key: ")
	}
}

// maxPassphraseFile bounds what is read of a file that should have one line.
const maxPassphraseFile = 64 << 10

// readPassphrase reads the first line of a file. It may be a pipe (/dev/fd/3).
func readPassphrase(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPassphraseFile))
	if err != nil {
		return "", err
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	if line = bytes.TrimRight(line, "\r"); len(line) == 0 {
		return "", fmt.Errorf("the first line of %s is empty", path)
	}
	return string(line), nil
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// typed reads a line from a terminal without showing it.
func typed(in, out *os.File, prompt string) (string, error) {
	old, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS)
	if err != nil {
		return "", err
	}
	quiet := *old
	quiet.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(int(in.Fd()), unix.TCSETSF, &quiet); err != nil {
		return "", err
	}
	defer unix.IoctlSetTermios(int(in.Fd()), unix.TCSETS, old)
	fmt.Fprint(out, prompt)
	line, err := bufio.NewReader(io.LimitReader(in, maxPassphraseFile)).ReadString('\n')
	fmt.Fprintln(out)
	if err != nil && line == "" {
		return "", fmt.Errorf("%w: nothing was typed", masterkey.ErrNeeded)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// keptText says how the master key is kept.
func keptText(s masterkey.Status) string {
	switch s.Kept {
	case masterkey.Passphrase:
		return "sealed under a passphrase, which each start needs"
	case masterkey.TPM:
		if s.Chip != "" {
			return "sealed by the TPM chip, which did not give it at this start (" + s.Chip + "): it was opened by the recovery passphrase; holdfast masterkey tpm seals it anew"
		}
		return "sealed by the TPM chip of this machine"
	}
	return "in the file identity.key as it is: whoever can copy the data folder has it"
}

// masterChange is what the command line asks for.
type masterChange struct {
	To         string `json:"to"` // masterkey.Plain, Passphrase or TPM
	Passphrase string `json:"passphrase,omitempty"`
}

// masterAnswer is what it is told.
type masterAnswer struct {
	masterkey.Status
	Recovery string `json:"recovery,omitempty"` // shown once
}

func (a *Appliance) masterControl(handle func(pattern string, f func(r *http.Request) (any, error))) {
	handle("GET /v1/masterkey", func(*http.Request) (any, error) { return masterAnswer{Status: a.master.Status()}, nil })
	handle("POST /v1/masterkey", func(r *http.Request) (any, error) {
		var in masterChange
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		return a.changeMaster(r.Context(), in)
	})
}

// changeMaster keeps the master key in another way. It is noted before, since the file is
// no part of the database's write; what then failed is noted, too.
func (a *Appliance) changeMaster(ctx context.Context, in masterChange) (out masterAnswer, err error) {
	note := func(event string, d audit.Data) error {
		return a.audit.Append(ctx, audit.Event{Name: event, Data: d})
	}
	from := a.master.Status().Kept
	if err := note("masterkey.change", audit.Data{"from": from, "to": in.To}); err != nil {
		return out, err
	}
	switch in.To {
	case masterkey.Passphrase:
		err = a.master.SetPassphrase(in.Passphrase)
	case masterkey.TPM:
		out.Recovery, err = a.master.SealByChip()
	case masterkey.Plain:
		err = a.master.SetPlain()
	default:
		err = errors.New("the master key is kept as file, passphrase or tpm")
	}
	if err != nil {
		return masterAnswer{}, errors.Join(err, note("masterkey.failed", audit.Data{"to": in.To, "why": err.Error()}))
	}
	out.Status = a.master.Status()
	return out, nil
}

func runMasterShow(ctx context.Context, c *cli, _ []string) error {
	cfg, err := config.Load(c.in)
	if err != nil {
		return err
	}
	var out masterAnswer
	err = newControlClient(cfg.Data).call(ctx, "GET", "/v1/masterkey", nil, &out)
	if errors.Is(err, errNotRunning) {
		if out.Kept, err = masterkey.Look(keyFile(cfg)); err == nil && out.Kept == "" {
			return fmt.Errorf("there is no master key in %s yet; the first start makes it", cfg.Data)
		}
	}
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(out)
	}
	fmt.Fprintf(c.out, "The master key is %s.\n", keptText(out.Status))
	return nil
}

func (c *cli) changeMaster(ctx context.Context, in masterChange) (out masterAnswer, err error) {
	cl, err := c.client()
	if err != nil {
		return out, err
	}
	err = cl.call(ctx, "POST", "/v1/masterkey", in, &out)
	return out, err
}

func runMasterPassphrase(ctx context.Context, c *cli, _ []string) error {
	var pass string
	var err error
	switch {
	case c.passwordStdin:
		if pass, err = readPassphrase("/dev/stdin"); err != nil {
			return err
		}
	case isTerminal(os.Stdin):
		if pass, err = typed(os.Stdin, os.Stderr, "New passphrase: "); err != nil {
			return err
		}
		again, err := typed(os.Stdin, os.Stderr, "Once more: ")
		if err != nil {
			return err
		}
		if again != pass {
			return errors.New("the two are not the same; nothing was changed")
		}
	default:
		return &usageError{"there is no terminal to type the passphrase at; give --passphrase-stdin"}
	}
	if _, err := c.changeMaster(ctx, masterChange{To: masterkey.Passphrase, Passphrase: pass}); err != nil {
		return err
	}
	fmt.Fprintln(c.out, `The master key is sealed under the passphrase. From the next start on it is needed:
by key.passphrase_file, as systemd's credential holdfast.passphrase, or typed at a terminal.
Without it nobody opens the secrets in the database again. Keep it where this machine is not.`)
	return nil
}

func runMasterTPM(ctx context.Context, c *cli, _ []string) error {
	out, err := c.changeMaster(ctx, masterChange{To: masterkey.TPM})
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(out)
	}
	fmt.Fprintf(c.out, `The master key is sealed by this machine's TPM chip, which gives it back at each start.
For the day when it does not - another board, the chip cleared, Secure Boot changed, a backup
on another machine - this recovery passphrase opens it. It is not shown again:

    %s

`, out.Recovery)
	return nil
}

func runMasterPlain(ctx context.Context, c *cli, _ []string) error {
	if _, err := c.changeMaster(ctx, masterChange{To: masterkey.Plain}); err != nil {
		return err
	}
	fmt.Fprintln(c.out, "The master key is in the file identity.key as it is. Whoever can copy the data folder has it.")
	return nil
}

// masterOffline opens the master key for a command that needs no running appliance; nil
// where there is none.
func (c *cli) masterOffline(cfg *config.Config) (*masterkey.Key, error) {
	if fileSize(keyFile(cfg)) == 0 {
		return nil, nil
	}
	return openMaster(cfg)
}
