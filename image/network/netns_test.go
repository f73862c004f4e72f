package network

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"holdfast/image/vmtest"
)

// The tests of this file's users run in a network of their own: the test starts
// itself again in new namespaces. There the ports of the machine are one end of
// virtual cables; the others are in a further namespace, the outside, where they
// are plugged into a switch and where the servers run.
const inside = "HOLDFAST_TEST_INSIDE"

func TestMain(m *testing.M) {
	vmtest.Main()
	if os.Getenv(inside) != "" {
		// /sys shows the ports of the namespace in which it was mounted.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			panic(err)
		}
		if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// isolated runs the calling test in new namespaces, and tells whether this is there.
func isolated(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can make network namespaces: run the tests as root")
	}
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1", "-test.timeout=4m")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Fatalf("%v\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP: "+t.Name())):
		t.Skipf("%s", out)
	case !bytes.Contains(out, []byte("--- PASS: "+t.Name())):
		t.Fatalf("it did not run:\n%s", out)
	}
	t.Logf("%s", out)
	return false
}

// outside is the network beyond the machine's ports.
type outside struct {
	t    *testing.T
	work chan func()
	ns   *os.File
}

func newOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{t: t, work: make(chan func())}
	ready := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and so does its network.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			o.ns, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
		ready <- err
		for f := range o.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(o.work); o.ns.Close() })
	o.do(func() {
		br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
		br.Name = "switch"
		must(t, netlink.LinkAdd(br))
		must(t, netlink.LinkSetUp(br))
		up(t, "lo")
	})
	return o
}

// do runs f in the outside network.
func (o *outside) do(f func()) {
	done := make(chan struct{})
	o.work <- func() { defer close(done); f() }
	<-done
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
		panic(err)
	}
}

func byName(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Error(err)
		panic(err)
	}
	return l
}

func up(t *testing.T, name string) { t.Helper(); must(t, netlink.LinkSetUp(byName(t, name))) }

// port gives the machine a port. Its cable is not plugged in yet.
func (o *outside) port(name, mac string) {
	o.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	attrs.HardwareAddr, _ = net.ParseMAC(mac)
	v := &netlink.Veth{LinkAttrs: attrs, PeerName: "to-" + name, PeerNamespace: netlink.NsFd(o.ns.Fd())}
	must(o.t, netlink.LinkAdd(v))
	o.do(func() {
		l := byName(o.t, "to-"+name)
		must(o.t, netlink.LinkSetMaster(l, byName(o.t, "switch")))
	})
}

// plug plugs a port's cable in, or pulls it.
func (o *outside) plug(name string, in bool) {
	o.t.Helper()
	o.do(func() {
		l := byName(o.t, "to-"+name)
		if in {
			must(o.t, netlink.LinkSetUp(l))
		} else {
			must(o.t, netlink.LinkSetDown(l))
		}
	})
}

// address gives the switch an address, at which the outside can be reached.
func (o *outside) address(cidr string) {
	o.t.Helper()
	o.on("switch", cidr, true)
}

func (o *outside) on(name, cidr string, add bool) {
	o.t.Helper()
	o.do(func() {
		a, err := netlink.ParseAddr(cidr)
		must(o.t, err)
		a.Flags |= unix.IFA_F_NODAD
		if add {
			must(o.t, netlink.AddrAdd(byName(o.t, name), a))
		} else {
			must(o.t, netlink.AddrDel(byName(o.t, name), a))
		}
	})
}

// run starts a program in the outside network.
func (o *outside) run(name string, args ...string) *exec.Cmd {
	o.t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			o.t.Fatalf("%s is missing: apt-get install dnsmasq-base radvd", name)
		}
		o.t.Skipf("%s is missing: apt-get install dnsmasq-base radvd", name)
	}
	cmd := exec.Command(path, args...)
	out := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var e error
	o.do(func() { e = cmd.Start() })
	if e != nil {
		o.t.Fatal(e)
	}
	o.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if o.t.Failed() {
			o.t.Logf("%s:\n%s", name, out)
		}
	})
	return cmd
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// dnsmasq gives addresses on an interface of the outside.
func (o *outside) dnsmasq(args ...string) (cmd *exec.Cmd, leases string) {
	o.t.Helper()
	leases = filepath.Join(o.t.TempDir(), "leases")
	return o.run("dnsmasq", append([]string{"-d", "-C", "/dev/null", "-p", "0", "-u", "root", "--log-dhcp", "-i", "switch", "--bind-interfaces",
		"--dhcp-authoritative", "--dhcp-leasefile=" + leases}, args...)...), leases
}

// greet serves one word over TCP in the outside, at the address.
func (o *outside) greet(address string) {
	o.t.Helper()
	var l net.Listener
	var err error
	o.do(func() { l, err = net.Listen("tcp", address) })
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "hello")
			c.Close()
		}
	}()
}

// greeted connects from the machine.
func greeted(address string) error {
	c, err := net.DialTimeout("tcp", address, 2*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	b := make([]byte, 5)
	if _, err := c.Read(b); err != nil {
		return err
	}
	if string(b) != "hello" {
		return fmt.Errorf("read %q", b)
	}
	return nil
}

// machine starts the network of the machine.
func machine(t *testing.T, c Config, opts ...Option) *Manager {
	t.Helper()
	log := slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	base := []Option{ResolvConf(filepath.Join(t.TempDir(), "resolv.conf")), func(o *options) { o.settle = 20 * time.Second }}
	m, err := Start(context.Background(), c, log, append(base, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%+v", m.State())
		}
		m.Close()
	})
	return m
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) { os.Stderr.Write(p); return len(p), nil }

// until waits for something to become true.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("it did not happen: %s", what)
}

func portOf(s State, name string) PortState {
	i := slices.IndexFunc(s.Ports, func(p PortState) bool { return p.Name == name })
	if i < 0 {
		return PortState{}
	}
	return s.Ports[i]
}

// has returns a port's first address of a source.
func has(m *Manager, port, source string) (netip.Prefix, bool) {
	for _, a := range portOf(m.State(), port).Addresses {
		if a.Source == source && !a.Tentative {
			return a.Prefix, true
		}
	}
	return netip.Prefix{}, false
}

// gets waits for it.
func gets(t *testing.T, m *Manager, port, source string) netip.Prefix {
	t.Helper()
	var p netip.Prefix
	until(t, port+" gets an address by "+source, func() bool {
		var ok bool
		p, ok = has(m, port, source)
		return ok
	})
	return p
}

func parse(t *testing.T, text string) Config {
	t.Helper()
	c, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func problem(m *Manager, port, words string) bool {
	s := m.State()
	return slices.ContainsFunc(append(portOf(s, port).Problems, s.Problems...), func(p string) bool { return strings.Contains(p, words) })
}
