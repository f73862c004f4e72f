package netem

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/test/need"
)

// inside runs f on a thread that is in a namespace. Sockets that it opens stay there.
func inside(t *testing.T, ns string, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never back: the thread ends with the goroutine
		fd, err := unix.Open("/run/netns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// What the kernel sends through a line arrives as the rules say.
func TestLine(t *testing.T) {
	need.Root(t)
	ip := need.Program(t, "ip", "iproute2")
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		need.Missing(t, "the kernel has no TUN devices: %v", err)
	}
	var ns [2]string
	for i := range ns {
		ns[i] = fmt.Sprintf("hfnetem-%d-%d", os.Getpid(), i)
		if out, err := exec.Command(ip, "netns", "add", ns[i]).CombinedOutput(); err != nil {
			need.Missing(t, "this machine allows no network namespaces: %v %s", err, out)
		}
		t.Cleanup(func() { exec.Command(ip, "netns", "del", ns[i]).Run() })
	}
	const seed, n = 7, 400
	l, err := Join(seed, End{Namespace: ns[0], Interface: "hfn0", Address: "10.79.0.1/30"}, End{Namespace: ns[1], Interface: "hfn1", Address: "10.79.0.2/30"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	rules := Rules{Loss: 0.2, Delay: 150 * time.Millisecond}
	l.Set(rules)

	var in, out *net.UDPConn
	inside(t, ns[1], func() (err error) {
		in, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 79, 0, 2), Port: 4000})
		return err
	})
	defer in.Close()
	inside(t, ns[0], func() (err error) {
		out, err = net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(10, 79, 0, 2), Port: 4000})
		return err
	})
	defer out.Close()
	begun := time.Now()
	go func() {
		for i := range n {
			x := binary.BigEndian.AppendUint32(make([]byte, 0, 12), uint32(i))
			out.Write(binary.BigEndian.AppendUint64(x, uint64(time.Since(begun))))
			time.Sleep(time.Millisecond)
		}
	}()
	expected := fate(newShaper(seed, rules), n, 32, time.Millisecond)
	b := make([]byte, 100)
	before := -1
	for got := range len(expected) {
		in.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := in.Read(b); err != nil {
			t.Fatalf("packet %d of %d: %v", got, len(expected), err)
		}
		i := int(binary.BigEndian.Uint32(b))
		if _, ok := expected[i]; !ok {
			t.Errorf("packet %d should be lost", i)
		}
		if i <= before {
			t.Errorf("packet %d comes after %d", i, before)
		}
		if took := time.Since(begun) - time.Duration(binary.BigEndian.Uint64(b[4:])); took < rules.Delay {
			t.Errorf("packet %d took %v", i, took)
		}
		before = i
	}
	if c := l.CountsTo(1); c.Came != n || c.Lost != n-len(expected) {
		t.Errorf("%+v, %d expected", c, len(expected))
	}
}
