package appliance

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
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

// errKeyGone means that there is a database and not the key that it was sealed with.
var errKeyGone = errors.New("the master key is gone: there is a database, and no file identity.key beside it. Put back the one of this database, from the same backup. Without it nobody opens the secrets in the database; to begin anew, move holdfast.db away")

// keyGone reports whether a database lies in the data folder without its key.
func keyGone(cfg *config.Config) bool {
	if _, err := os.Lstat(keyFile(cfg)); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	f, err := os.Open(filepath.Join(cfg.Data, "holdfast.db"))
	if err != nil {
		return false
	}
	defer f.Close()
	var first [len(sqliteFile)]byte
	n, _ := f.ReadAt(first[:], 0)
	return string(first[:n]) == sqliteFile
}

// sqliteFile is how a database begins.
const sqliteFile = "SQLite format 3\x00"

// openMaster opens the master key, and asks for its passphrase where it needs one.
func openMaster(cfg *config.Config) (*masterkey.Key, error) {
	if keyGone(cfg) { // a new one would open nothing
		return nil, errKeyGone
	}
	k, err := masterkey.Open(keyFile(cfg), masterkey.Options{Ask: askPassphrase(cfg), Chip: func() (*tpm.TPM, error) { return openChip(cfg) }})
	switch {
	case errors.Is(err, errStopped):
		return nil, errStopped
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
		from, name := passphraseSource(cfg)
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

// passphraseSource is the file that a start takes the passphrase from, and who says so;
// "": there is none.
func passphraseSource(cfg *config.Config) (file, name string) {
	if cfg.Key.PassphraseFile != "" {
		return cfg.Key.PassphraseFile, cfg.Source("key.passphrase_file").String()
	}
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		if p := filepath.Join(dir, credential); fileSize(p) > 0 {
			return p, "the credential " + credential
		}
	}
	return "", ""
}

// oldPassphrase says where the next start would find another passphrase than this; "":
// nowhere.
func oldPassphrase(cfg *config.Config, pass string) string {
	from, name := passphraseSource(cfg)
	if st, err := os.Stat(from); from == "" || err != nil || !st.Mode().IsRegular() {
		return "" // a pipe is read once
	}
	if b, err := readPassphrase(from); err == nil && b == pass {
		return ""
	}
	return fmt.Sprintf("%s (%s)", from, name)
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

// errStopped means that whoever was asked stopped the program instead.
var errStopped = errors.New("stopped while it asked for a passphrase; nothing was changed")

// typed reads a line from a terminal without showing it. Who stops the program meanwhile
// has a terminal that shows again what is typed. Errors: errStopped.
func typed(in, out *os.File, prompt string) (string, error) {
	old, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS)
	if err != nil {
		return "", err
	}
	quiet := *old
	quiet.Lflag &^= unix.ECHO
	ctx, done := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer done()
	if err := unix.IoctlSetTermios(int(in.Fd()), unix.TCSETSF, &quiet); err != nil {
		return "", err
	}
	defer unix.IoctlSetTermios(int(in.Fd()), unix.TCSETS, old)
	fmt.Fprint(out, prompt)
	type answer struct {
		line string
		err  error
	}
	read := make(chan answer, 1)
	go func() { // it may wait for ever: then the program ends
		line, err := bufio.NewReader(io.LimitReader(in, maxPassphraseFile)).ReadString('\n')
		read <- answer{line, err}
	}()
	var a answer
	select {
	case a = <-read:
	case <-ctx.Done():
		fmt.Fprintln(out)
		return "", errStopped
	}
	fmt.Fprintln(out)
	if a.err != nil && a.line == "" {
		return "", fmt.Errorf("%w: nothing was typed", masterkey.ErrNeeded)
	}
	return strings.TrimRight(a.line, "\r\n"), nil
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
	Old      string `json:"old,omitempty"`      // where the next start would find another passphrase
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
	if in.To == masterkey.Passphrase {
		out.Old = oldPassphrase(a.cfg, in.Passphrase)
	}
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
		if keyGone(cfg) {
			return errKeyGone
		}
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
	out, err := c.changeMaster(ctx, masterChange{To: masterkey.Passphrase, Passphrase: pass})
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(out)
	}
	fmt.Fprintln(c.out, `The master key is sealed under the passphrase. From the next start on it is needed:
by key.passphrase_file, as systemd's credential holdfast.passphrase, or typed at a terminal.
Without it nobody opens the secrets in the database again. Keep it where this machine is not.`)
	if out.Old != "" {
		fmt.Fprintf(c.out, "\nThe next start would take another passphrase, from %s:\nput the new one there before.\n", out.Old)
	}
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
