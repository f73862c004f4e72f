package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Where the parts of the machine are.
const (
	espDir  = "/efi"
	dataDir = "/data"
	varsDir = "/sys/firmware/efi/efivars"
	// release is the system partition's folder for what is set before the data is open.
	settingsDir = espDir + "/holdfast"
)

const noPrograms = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mounts are made in this order before anything else.
var mounts = []struct {
	fstype, target, options string
	flags                   uintptr
}{
	{"proc", "/proc", "", noPrograms},
	{"sysfs", "/sys", "", noPrograms},
	{"devtmpfs", "/dev", "mode=0755", unix.MS_NOSUID | unix.MS_NOEXEC},
	{"tmpfs", "/run", "mode=0755,size=16m", noPrograms},
	{"tmpfs", "/tmp", "mode=1777,size=64m", noPrograms},
}

// mountSystem mounts what the kernel gives.
func mountSystem() error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fstype, m.target, m.fstype, m.flags, m.options); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("%s: %w", m.target, err)
		}
	}
	for _, d := range []string{espDir, dataDir, "/etc"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	// The network writes it; the system itself cannot be written.
	if err := os.Symlink("/run/resolv.conf", "/etc/resolv.conf"); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// sealRoot makes the system's own folder read-only. All of it is in memory.
func sealRoot() error {
	return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "")
}

// openConsole makes standard output and error the kernel's console, so that the
// last words of a crash are seen on the serial line, and on the screen too.
func openConsole() {
	if fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err == nil {
		for _, std := range []int{0, 1, 2} {
			unix.Dup3(fd, std, 0)
		}
		unix.Close(fd)
	}
	if f, err := os.OpenFile("/dev/tty1", os.O_WRONLY|unix.O_NOCTTY, 0); err == nil {
		debug.SetCrashOutput(f, debug.CrashOptions{})
		f.Close() // the runtime has a copy
	}
}

// kernelSettings are what is set in /proc/sys.
var kernelSettings = [][2]string{
	// What the console of a machine needs to show is shown by its screen; the
	// kernel's own words come between only when it dies.
	{"kernel/printk", "3 4 1 3"},
	{"kernel/panic", "5"},
	{"kernel/panic_on_oops", "1"},
	{"kernel/sysrq", "0"},
	{"kernel/dmesg_restrict", "1"},
	{"kernel/kptr_restrict", "2"},
	{"kernel/yama/ptrace_scope", "3"},
	{"kernel/perf_event_paranoid", "3"},
	{"kernel/unprivileged_bpf_disabled", "1"},
	{"kernel/kexec_load_disabled", "1"},
	{"kernel/io_uring_disabled", "2"},
	{"net/core/bpf_jit_harden", "2"},
	{"fs/protected_symlinks", "1"},
	{"fs/protected_hardlinks", "1"},
	{"fs/protected_fifos", "2"},
	{"fs/protected_regular", "2"},
	{"fs/suid_dumpable", "0"},
	{"kernel/core_pattern", "|/bin/false"}, // what is in memory goes to no disk
	{"user/max_user_namespaces", "0"},
	{"vm/unprivileged_userfaultfd", "0"},
	{"net/ipv4/tcp_syncookies", "1"},
	{"net/ipv4/conf/all/rp_filter", "2"},
	{"net/ipv4/conf/all/accept_redirects", "0"},
	{"net/ipv4/conf/default/accept_redirects", "0"},
	{"net/ipv4/conf/all/send_redirects", "0"},
	{"net/ipv4/conf/default/send_redirects", "0"},
	{"net/ipv4/conf/all/accept_source_route", "0"},
	{"net/ipv4/conf/default/accept_source_route", "0"},
	{"net/ipv6/conf/all/accept_redirects", "0"},
	{"net/ipv6/conf/default/accept_redirects", "0"},
	// Calls move much over UDP; the defaults are from when networks were slower.
	{"net/core/rmem_max", "5000000"},
	{"net/core/wmem_max", "5000000"},
	{"net/core/somaxconn", "4096"},
	// Appliances have little memory: write often, so that no burst stalls a commit.
	{"vm/dirty_background_bytes", "16777216"},
	{"vm/dirty_bytes", "67108864"},
}

// setKernel sets what the running kernel knows of kernelSettings.
func setKernel(log *slog.Logger) {
	for _, s := range kernelSettings {
		err := os.WriteFile(filepath.Join("/proc/sys", s[0]), []byte(s[1]), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.Warn("the kernel does not take a setting", "setting", s[0], "err", err)
		}
	}
}

// limits lets the program have many connections, and its collector know how much
// memory there is: there is nothing else on the machine.
func limits(log *slog.Logger) {
	const files = 1 << 17
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files}); err != nil {
		log.Warn("the number of open files cannot be raised", "err", err)
	}
	var i unix.Sysinfo_t
	if err := unix.Sysinfo(&i); err == nil {
		debug.SetMemoryLimit(int64(i.Totalram) * int64(i.Unit) / 100 * 70)
	}
	debug.SetGCPercent(75)
}

// uptime is the time since the kernel was started.
func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// reap waits for processes whose parent has gone. The call relay's is waited for by
// who started it, which is content where it comes too late.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if pid <= 0 && !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}

// openBelow are the files below a folder that this process has open.
func openBelow(dir string) (list []string) {
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if name, err := os.Readlink(fd); err == nil && strings.HasPrefix(name, dir+"/") {
			list = append(list, name)
		}
	}
	maps, _ := os.ReadFile("/proc/self/maps")
	for line := range strings.Lines(string(maps)) {
		if i := strings.Index(line, dir+"/"); i >= 0 {
			list = append(list, strings.TrimSpace(line[i:]))
		}
	}
	return list
}

// secureBoot reports whether the firmware checked what it started.
func secureBoot() bool {
	b, err := os.ReadFile(filepath.Join(varsDir, "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"))
	return err == nil && len(b) == 5 && b[4] == 1 // after four bytes of attributes
}

// lockdown is what the kernel forbids to everybody: "none", "integrity" or
// "confidentiality"; "unknown" where it does not say.
func lockdown() string {
	const dir = "/sys/kernel/security"
	if err := unix.Mount("securityfs", dir, "securityfs", noPrograms, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return "unknown"
	}
	defer unix.Unmount(dir, 0)
	b, err := os.ReadFile(filepath.Join(dir, "lockdown"))
	if err != nil {
		return "unknown"
	}
	return inForce(string(b))
}

// inForce picks the one of several words that is in brackets.
func inForce(text string) string {
	_, rest, _ := strings.Cut(text, "[")
	word, _, ok := strings.Cut(rest, "]")
	if !ok || word == "" {
		return "unknown"
	}
	return word
}
