package oidc

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/appliance/tpm/tpmtest"
)

// terminal is a program at a terminal, and what it showed there.
type terminal struct {
	t    *testing.T
	ours *os.File
	cmd  *exec.Cmd

	mu    sync.Mutex
	shown bytes.Buffer
	seen  int // of that, up to here
}

// at runs a command of the program at a terminal.
func (k *keeper) at(args ...string) *terminal {
	k.t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		k.t.Fatal(err)
	}
	var n int
	if err = unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err == nil {
		n, err = unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	theirs, err := os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		k.t.Fatal(err)
	}
	tm := &terminal{t: k.t, ours: ours, cmd: exec.Command(theBinary, append(args, "--data", k.data)...)}
	tm.cmd.Stdin, tm.cmd.Stdout, tm.cmd.Stderr = theirs, theirs, theirs
	tm.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := tm.cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { tm.cmd.Process.Kill(); theirs.Close(); ours.Close() })
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := ours.Read(b)
			tm.mu.Lock()
			tm.shown.Write(b[:n])
			tm.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return tm
}

// until waits for a text after those that were waited for before.
func (tm *terminal) until(text string) *terminal {
	tm.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		tm.mu.Lock()
		i := bytes.Index(tm.shown.Bytes()[tm.seen:], []byte(text))
		if i >= 0 {
			tm.seen += i + len(text)
		}
		all := tm.shown.String()
		tm.mu.Unlock()
		if i >= 0 {
			return tm
		}
		if time.Now().After(end) {
			tm.t.Fatalf("%q is not shown, but %s", text, all)
		}
	}
}

func (tm *terminal) write(text string) *terminal {
	tm.t.Helper()
	if _, err := tm.ours.WriteString(text); err != nil {
		tm.t.Fatal(err)
	}
	return tm
}

// ends waits for the program, which shows what is typed again and showed no secret.
func (tm *terminal) ends(code int, secrets ...string) {
	tm.t.Helper()
	tm.cmd.Wait()
	if got := tm.cmd.ProcessState.ExitCode(); got != code {
		tm.t.Errorf("exit code %d, want %d: %s", got, code, tm.shown.String())
	}
	if now, err := unix.IoctlGetTermios(int(tm.ours.Fd()), unix.TCGETS); err != nil || now.Lflag&unix.ECHO == 0 {
		tm.t.Errorf("the terminal does not show what is typed any more: %v", err)
	}
	tm.mu.Lock()
	defer tm.mu.Unlock()
	for _, s := range secrets {
		if bytes.Contains(tm.shown.Bytes(), []byte(s)) {
			tm.t.Errorf("%q was shown", s)
		}
	}
}

// TestMasterKeyAtTerminal has the passphrase typed: a new one, a wrong one, the right one,
// and none, by who stops the program instead. Then the key is lost, or another's.
func TestMasterKeyAtTerminal(t *testing.T) {
	k := newKeeper(t)
	const ask, first, second = "Passphrase of the master key: ", "five words that nobody guesses", "other words that nobody guesses"
	k.at("masterkey", "passphrase").until("New passphrase: ").write(first+"\n").until("Once more: ").write(second+"\n").until("not the same").ends(1, first, second)
	stopped := k.at("masterkey", "passphrase").until("New passphrase: ")
	stopped.write("\x03").until("nothing was changed").ends(1)
	k.at("masterkey", "passphrase").until("New passphrase: ").write(first+"\n").until("Once more: ").write(first+"\n").until("sealed under the passphrase").ends(0, first)
	k.stop()
	serve := []string{"serve", "--set", "tls.mode=off", "--set", "listen.http=127.0.0.1:0", "--set", "listen.metrics=", "--set", "sfu.enabled=false"}
	k.at(serve...).until(ask).write("a wrong one\n").until("not the passphrase").until(ask).write("\x03").until("nothing was changed").ends(1)
	terminated := k.at(serve...).until(ask)
	terminated.cmd.Process.Signal(syscall.SIGTERM)
	terminated.until("nothing was changed").ends(1)
	file := filepath.Join(k.data, "identity.key")
	k.at("audit", "verify", "--file", filepath.Join(k.data, "holdfast.db")).until(ask).write("a wrong one\n").until(ask).write(first+"\n").until("as the appliance wrote it").ends(0, first)

	// Who changes it is told where the next start would find the old one.
	credentials := t.TempDir()
	if err := os.WriteFile(filepath.Join(credentials, "holdfast.passphrase"), []byte(first), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	k.start()
	k.at("masterkey", "passphrase").until("New passphrase: ").write(second+"\n").until("Once more: ").write(second+"\n").until("another passphrase, from "+credentials).ends(0, first, second)
	if out := k.cli(first+"\n", "masterkey", "passphrase", "--passphrase-stdin"); bytes.Contains(out, []byte("another passphrase")) {
		t.Errorf("%s", out)
	}
	k.cli("", "masterkey", "plain")
	k.stop()

	// A key that is lost is missed, and another one is not taken, before anything is written.
	key, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{serve, {"masterkey", "show"}, {"doctor"}} {
		out, e, err := k.try("", args...)
		if err == nil || !bytes.Contains(append(out, e...), []byte("master key is gone")) {
			t.Errorf("%s: %v %s %s", args[0], err, out, e)
		}
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("there is a new key, which opens nothing: %v", err)
	}
	if err := os.WriteFile(file, bytes.Repeat([]byte("x"), 32), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, e, err := k.try("", serve...); err == nil || !bytes.Contains(e, []byte("not the key of the database")) {
		t.Errorf("another key: %v %s", err, e)
	}
	if err := os.WriteFile(file, key, 0o600); err != nil {
		t.Fatal(err)
	}
	k.start()
	if out := k.cli("", "audit", "verify"); !bytes.Contains(out, []byte("as the appliance wrote it")) {
		t.Errorf("%s", out)
	}
}

// chip gives the program a TPM chip in software, which stays switched on for as long as
// the test: at a socket, for one program after the other. unplug takes it away.
func chip(t *testing.T) (socket string, unplug func()) {
	t.Helper()
	c := tpmtest.Start(t, t.TempDir(), "secure boot is on")
	dir, err := os.MkdirTemp("", "chip") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		b := make([]byte, 8192)
		for {
			program, err := l.Accept()
			if err != nil {
				return
			}
			for { // a command, and its answer
				n, err := program.Read(b)
				if err == nil {
					_, err = c.Write(b[:n])
				}
				if err == nil {
					n, err = c.Read(b)
				}
				if err == nil {
					_, err = program.Write(b[:n])
				}
				if err != nil {
					break
				}
			}
			program.Close()
		}
	}()
	return socket, func() { l.Close() }
}

// TestMasterKeyByChip has the TPM chip keep the key. Without the chip the recovery
// passphrase opens it, as it was typed off paper.
func TestMasterKeyByChip(t *testing.T) {
	socket, unplug := chip(t)
	k := newKeeper(t)
	set := "key.tpm=" + socket
	k.stop()
	k.start(set)
	out := string(k.cli("", "masterkey", "tpm"))
	recovery := regexp.MustCompile(`[0-9A-Z]{5}(-[0-9A-Z]{5}){5}`).FindString(out)
	if recovery == "" {
		t.Fatal(out)
	}
	k.stop()
	if bytes.Contains(k.logs, []byte(recovery)) {
		t.Error("the recovery passphrase is in the log")
	}
	k.start(set)
	if out := k.cli("", "masterkey", "show"); !bytes.Contains(out, []byte("sealed by the TPM chip of this machine")) {
		t.Errorf("%s", out)
	}
	k.stop()
	unplug()
	serve := []string{"serve", "--set", "tls.mode=off", "--set", "listen.http=127.0.0.1:0", "--set", "listen.metrics=", "--set", "sfu.enabled=false", "--set", set}
	if _, e, err := k.try("", serve...); err == nil || !bytes.Contains(e, []byte("did not give it back; the recovery passphrase")) {
		t.Errorf("without the chip: %v %s", err, e)
	}
	off := strings.ToLower(strings.ReplaceAll(recovery, "-", " "))
	k.at("audit", "verify", "--file", filepath.Join(k.data, "holdfast.db"), "--set", set).until("did not give it back").until("Passphrase").write(off+"\n").until("as the appliance wrote it").ends(0, off)
	file := filepath.Join(t.TempDir(), "recovery")
	if err := os.WriteFile(file, []byte(recovery), 0o600); err != nil {
		t.Fatal(err)
	}
	k.start(set, "key.passphrase_file="+file)
	if out := k.cli("", "masterkey", "show"); !bytes.Contains(out, []byte("did not give it at this start")) {
		t.Errorf("%s", out)
	}
	k.cli("", "masterkey", "plain")
	k.stop()
	k.start()
}
