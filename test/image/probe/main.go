//go:build linux

// Command probe tries what a service must not be able to do, and prints for each try
// whether it was let: "yes NAME" or "no NAME REASON". test/image runs it below the
// service's own sandbox and, to show that it can tell the difference, without one.
// "probe stun ADDRESS" asks a TURN server.
//
// Invariants: a try changes nothing that outlasts it: files are removed again, and the
// clock, the name and the limits are set to what they are.
package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "stun":
		if err := stun(os.Args[2]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("it answered")
		return
	case len(os.Args) > 1: // the child in a namespace
		return
	}
	runtime.LockOSThread()
	for _, dir := range []string{"/", "/etc", "/etc/holdfast", "/usr", "/usr/bin", "/boot", "/opt", "/srv", "/root", "/home", "/var/lib", "/var/log", "/var/cache", "/run", "/dev/shm", "/sys/fs/cgroup"} {
		try("write "+dir, func() error { return touch(dir) })
	}
	try("write /var/lib/holdfast", func() error { return touch("/var/lib/holdfast") })
	try("see /tmp", func() error { _, err := os.Stat("/tmp/of-others"); return err })
	try("read /root", func() error { _, err := os.ReadDir("/root"); return err })
	try("read /etc/shadow", func() error { _, err := os.ReadFile("/etc/shadow"); return err })
	try("open the disk", func() error { return open("/dev/vda", unix.O_RDONLY) })
	try("open /dev/kmsg", func() error { return open("/dev/kmsg", unix.O_RDONLY) })
	try("write /proc/sys", func() error { return open("/proc/sys/kernel/hostname", unix.O_WRONLY) })
	try("see process 1", func() error { _, err := os.Stat("/proc/1"); return err })
	try("a raw socket", func() error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) })
	try("a packet socket", func() error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) })
	try("a socket of an odd family", func() error { return socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0) })
	try("a TCP socket", func() error { return socket(unix.AF_INET6, unix.SOCK_STREAM, 0) })
	try("port 90", func() error { return bind(90) })
	try("memory to write and run", func() error {
		m, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err == nil {
			unix.Munmap(m)
		}
		return err
	})
	try("mount", func() error {
		err := unix.Mount("probe", "/mnt", "tmpfs", 0, "")
		if err == nil {
			unix.Unmount("/mnt", 0)
		}
		return err
	})
	try("a new user namespace", func() error { return child(unix.CLONE_NEWUSER) })
	try("a new network namespace", func() error { return child(unix.CLONE_NEWNET) })
	try("set the clock", func() error {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
			return err
		}
		return unix.ClockSettime(unix.CLOCK_REALTIME, &now)
	})
	try("set the name", func() error {
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		return unix.Sethostname([]byte(name))
	})
	try("real-time priority", func() error {
		param := struct{ priority int32 }{1}
		_, _, e := unix.Syscall(unix.SYS_SCHED_SETSCHEDULER, 0, 1 /* SCHED_FIFO */, uintptr(unsafe.Pointer(&param)))
		if e != 0 {
			return e
		}
		param.priority = 0
		unix.Syscall(unix.SYS_SCHED_SETSCHEDULER, 0, 0, uintptr(unsafe.Pointer(&param)))
		return nil
	})
	try("a set-user-ID file", func() error {
		name := filepath.Join(os.TempDir(), fmt.Sprint("probe-suid-", os.Getpid()))
		if err := os.WriteFile(name, nil, 0o755); err != nil {
			return err
		}
		defer os.Remove(name)
		return unix.Chmod(name, unix.S_ISUID|0o755)
	})
	try("a kernel module", func() error {
		// The file is none, so who may load modules is told so.
		err := unix.FinitModule(int(must(os.Open("/proc/self/exe")).Fd()), "", 0)
		if errors.Is(err, unix.ENOEXEC) {
			return nil
		}
		return err
	})
	try("the kernel's log", func() error { _, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil); return err })
	try("become root", func() error { return unix.Setresuid(0, 0, 0) })
	fmt.Println("end at", time.Now().Unix())
}

// stun asks a call relay's TURN server for the address that it sees (RFC 8489).
func stun(server string) error {
	c, err := net.Dial("udp", server)
	if err != nil {
		return err
	}
	defer c.Close()
	ask := make([]byte, 20)
	copy(ask, []byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}) // a Binding request without attributes
	rand.Read(ask[8:])
	answer := make([]byte, 1500)
	for range 20 { // packets may be lost
		if _, err = c.Write(ask); err != nil {
			return err
		}
		c.SetReadDeadline(time.Now().Add(3 * time.Second))
		var n int
		if n, err = c.Read(answer); err != nil {
			continue
		}
		if n < 20 || answer[0] != 1 || answer[1] != 1 || !bytes.Equal(answer[4:20], ask[4:20]) {
			return fmt.Errorf("the answer is % x", answer[:n])
		}
		return nil
	}
	return err
}

func try(name string, f func() error) {
	if err := f(); err != nil {
		fmt.Printf("no %s: %v\n", name, err)
	} else {
		fmt.Printf("yes %s\n", name)
	}
}

func touch(dir string) error {
	name := filepath.Join(dir, fmt.Sprint("probe-", os.Getpid()))
	var err error
	if dir == "/sys/fs/cgroup" { // no files there, but groups
		err = os.Mkdir(name, 0o755)
	} else {
		err = os.WriteFile(name, nil, 0o600)
	}
	if err == nil {
		os.Remove(name)
	}
	return err
}

func open(name string, mode int) error {
	fd, err := unix.Open(name, mode|unix.O_NONBLOCK, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func socket(family, kind, protocol int) error {
	fd, err := unix.Socket(family, kind, protocol)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func bind(port int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
}

// child asks for a namespace by a process that ends at once.
func child(flags uintptr) error {
	p, err := os.StartProcess("/proc/self/exe", []string{"probe", "end"}, &os.ProcAttr{Sys: &unix.SysProcAttr{Cloneflags: flags}})
	if err != nil {
		return err
	}
	_, err = p.Wait()
	return err
}

func must(f *os.File, err error) *os.File {
	if err != nil {
		panic(err)
	}
	return f
}
