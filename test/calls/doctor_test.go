//go:build linux

package calls

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/test/need"
)

// finding is what the doctor says.
type finding struct {
	Name, Detail string
	OK           bool
}

// cli runs a command of the program.
func cli(bin string, args ...string) (out, errOut string, code int) {
	var o, e bytes.Buffer
	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return "", err.Error(), -1
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// TestDoctor breaks each hop of a call on a machine of its own, with its firewall, and
// the doctor, who asks the running program, names that hop and no other.
func TestDoctor(t *testing.T) {
	need.Root(t)
	t.Parallel()
	ip, iptables := need.Program(t, "ip", "iproute2"), need.Program(t, "iptables", "iptables")
	bin := theProgram(t)
	ns := fmt.Sprintf("%s%d-doctor", nsPrefix, os.Getpid())
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	run(ip, "netns", "add", ns)
	t.Cleanup(func() { exec.Command(ip, "netns", "del", ns).Run() })
	run(ip, "-n", ns, "link", "set", "lo", "up")
	run(ip, "-n", ns, "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
	run(ip, "-n", ns, "link", "set", "lan1", "up") // a network with nobody else in it
	run(ip, "-n", ns, "addr", "add", "10.77.0.1/24", "dev", "lan0")
	run(ip, "-n", ns, "link", "set", "lan0", "up")

	data := t.TempDir()
	if err := os.Chmod(data, 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	server := exec.Command(ip, "netns", "exec", ns, bin, "serve", "--data", data, "--set", "listen.https=:8443", "--set", "listen.http=127.0.0.1:8080",
		"--set", "listen.metrics=", "--set", "server_name=demo.example")
	server.Stdout, server.Stderr = log, log
	if err := begin(server); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Signal(syscall.SIGTERM)
		server.Wait()
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("%s", b)
		}
	})
	eventually(t, "the program serves", 60*time.Second, func() bool {
		_, _, code := cli(bin, "user", "add", "ada", "--admin", "--password", "lantern orbit maple 4", "--data", data)
		return code == 0
	})

	doctor := func() (found []finding, code int) {
		t.Helper()
		out, errOut, code := cli(bin, "doctor", "--json", "--data", data)
		if err := json.Unmarshal([]byte(out), &found); err != nil {
			t.Fatalf("%v\n%s%s", err, out, errOut)
		}
		return found, code
	}
	rules := func(do string, list ...string) {
		t.Helper()
		for _, r := range list {
			run(append([]string{ip, "netns", "exec", ns, iptables, "-w", do, "INPUT"}, strings.Fields(r)...)...)
		}
	}
	account := func(undo ...string) {
		t.Helper()
		if _, e, code := cli(bin, append([]string{"user", "disable", "_selftest", "--data", data}, undo...)...); code != 0 {
			t.Fatal(e)
		}
	}
	names := []string{"call token", "call signalling", "call udp", "call tcp", "call turn", "call https"}
	for _, c := range []struct {
		name    string
		rules   []string
		locked  bool
		crowded bool              // many half-open connections, for TURN and for signalling, came from one address
		wrong   map[string]string // what is wrong, and a word of what is said
		skipped []string
	}{
		{name: "all is well"},
		{name: "the UDP port is closed, and nobody may join", rules: []string{"-p udp --dport 7882 -j DROP"}, locked: true,
			wrong:   map[string]string{"call udp": "UDP port 7882 at 10.77.0.1. Open it in the firewall", "call token": "locked"},
			skipped: []string{"call turn", "call https"}},
		{name: "the TCP port and TURN are closed", rules: []string{"-p tcp --dport 7881 -j REJECT --reject-with tcp-reset", "-p udp --dport 3478 -j DROP"},
			wrong: map[string]string{"call tcp": "TCP port 7881", "call turn": "UDP port 3478 of 10.77.0.1"}},
		{name: "the HTTPS port is closed", rules: []string{"-d 10.77.0.1 -p tcp --dport 8443 -j DROP"},
			wrong: map[string]string{"call signalling": "No answer from 10.77.0.1:8443. Open TCP port 8443"}, skipped: []string{"call https"}},
		{name: "the HTTPS port takes one connection at a time", rules: []string{"-d 10.77.0.1 -p tcp --dport 8443 --syn -m connlimit --connlimit-above 1 -j REJECT --reject-with tcp-reset"},
			wrong: map[string]string{"call https": "TURN over TLS cannot be reached"}},
		{name: "the HTTPS port is full of half-open connections", crowded: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			rules("-A", c.rules...)
			defer rules("-D", c.rules...)
			if c.locked {
				account()
				defer account("--undo")
			}
			if c.crowded {
				defer halfOpen(t, ns, "10.77.0.1:8443")()
			}
			found, code := doctor()
			if (code != 0) != (len(c.wrong) > 0) {
				t.Errorf("it ends with %d", code)
			}
			var seen []string
			for _, f := range found {
				if !slices.Contains(names, f.Name) {
					if !f.OK {
						t.Errorf("%s: %s", f.Name, f.Detail)
					}
					continue
				}
				seen = append(seen, f.Name)
				word, bad := c.wrong[f.Name]
				if f.OK == bad || !strings.Contains(f.Detail, word) {
					t.Errorf("%s is well: %v: %s", f.Name, f.OK, f.Detail)
				}
				if skipped := strings.HasPrefix(f.Detail, "Not "); skipped != slices.Contains(c.skipped, f.Name) {
					t.Errorf("%s: %s", f.Name, f.Detail)
				}
			}
			if !slices.Equal(seen, names) {
				t.Errorf("the doctor looked at %v", seen)
			}
		})
	}
}

// halfOpen opens connections to TURN that make no allocation, and others on which half of a
// request for signalling comes: more of both than one address may have.
func halfOpen(t *testing.T, ns, addr string) (end func()) {
	t.Helper()
	var conns []net.Conn
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never back: the thread ends with the goroutine
		fd, err := unix.Open("/run/netns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = dialMany(&conns, addr)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return func() {
		for _, c := range conns {
			c.Close()
		}
	}
}

func dialMany(conns *[]net.Conn, addr string) error {
	for i := range 400 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		*conns = append(*conns, c)
		send := "\x00" // as a STUN message begins
		if i%4 > 0 {
			c, send = tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}), "GET /livekit/sfu/rtc HTTP/1.1\r\nHost: x\r\nX-A: "
		}
		if _, err := io.WriteString(c, send); err != nil {
			return err
		}
	}
	return nil
}
