// Package boot is the disk image's first program: it makes a running machine out of
// what the kernel gives, starts the appliance on it, and stops it again.
//
// Invariants: the system is in memory and read-only; nothing is written to the
// system partition but while something of it changes; the data is mounted before
// the appliance starts and unmounted after it has stopped; a version that is tried
// either is blessed or makes the machine restart, so that the one before returns;
// whatever fails is told on the machine's screen, with what to do; what hangs is
// reset, what crashes restarts; there is no shell, and the only program that is
// started is this one once more, as the call relay.
package boot

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/appliance"
	"holdfast/image/clock"
	"holdfast/image/disk"
	"holdfast/image/hardware"
	parts "holdfast/image/machine"
	"holdfast/image/network"
	"holdfast/image/screen"
	"holdfast/image/update"
)

// IsBoot reports whether this process is the machine's first program, or the one
// that loads modules for the kernel.
func IsBoot() bool { return os.Getpid() == 1 || filepath.Base(os.Args[0]) == "modprobe" }

// Main runs it. As the first program it does not return.
func Main() int {
	if os.Getpid() != 1 {
		return hardware.Modprobe(os.Args[1:])
	}
	m := &machine{ends: make(chan ending, 1)}
	if err := m.early(); err != nil {
		fmt.Fprintln(os.Stderr, "holdfast:", err)
	} else {
		m.run()
	}
	m.end(restart)
	return 1
}

// machine is the computer while it runs.
type machine struct {
	log     *slog.Logger
	journal journal
	loader  *hardware.Loader
	screens *screen.Screens
	// recorded are the same, for logs that are written before there are any.
	recorded atomic.Pointer[screen.Screens]
	dog      *watchdog
	ends     chan ending

	ctx    context.Context
	cancel context.CancelFunc

	esp   *esp
	slots *update.Slots
	keys  []ed25519.PublicKey
	trial bool
	// versions is what the menu needs of slots and keys.
	versions atomic.Pointer[parts.Updates]

	disk  atomic.Pointer[disk.Disk]
	net   atomic.Pointer[network.Manager]
	clock atomic.Pointer[clock.Clock]
	app   atomic.Pointer[appliance.Appliance]
	// chosenServers says that an administrator chose the time servers.
	chosenServers atomic.Bool

	mu         sync.Mutex
	stage      string
	trouble    []string
	passphrase bool
	unlocked   chan struct{} // closed once the data is open
	openPrint  string        // the fingerprint of the page for the passphrase
	info       screen.Info   // as it was put together last
}

// early does what the rest stands on.
func (m *machine) early() error {
	unix.Umask(0o077)
	if err := mountSystem(); err != nil {
		return fmt.Errorf("the kernel's file systems cannot be mounted: %w", err)
	}
	openConsole()
	os.Setenv("PATH", "/")
	os.Setenv("HOME", "/tmp")
	os.Setenv("TMPDIR", "/tmp")
	m.log = slog.New(slog.NewTextHandler(m.logTo(), nil))
	m.ctx, m.cancel = context.WithCancel(context.Background())
	fmt.Printf("\r\nHoldfast %s starts.\r\n", appliance.Version)
	setKernel(m.log)
	limits(m.log)
	unix.Sethostname([]byte("holdfast"))
	m.signals()
	return nil
}

// logTo is where all logs go.
func (m *machine) logTo() io.Writer { return io.MultiWriter(&m.journal, &important{m}) }

// important passes on what whoever records the serial line should see.
type important struct{ m *machine }

func (w *important) Write(p []byte) (int, error) {
	if s := w.m.recorded.Load(); s != nil && (strings.Contains(string(p), "level=WARN") || strings.Contains(string(p), "level=ERROR")) {
		s.Say(strings.TrimRight(string(p), "\n"))
	}
	return len(p), nil
}

// signals handles Ctrl-Alt-Del (SIGINT), the order to stop, and processes that end.
func (m *machine) signals() {
	unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	c := make(chan os.Signal, 8)
	signal.Notify(c, unix.SIGINT, unix.SIGTERM, unix.SIGPWR, unix.SIGCHLD, unix.SIGHUP)
	go func() {
		for s := range c {
			switch s {
			case unix.SIGCHLD:
				reap()
			case unix.SIGINT:
				m.stop(restart)
			case unix.SIGTERM, unix.SIGPWR:
				m.stop(shutDown)
			}
		}
	}()
}

// stop asks for an end. The first wins.
func (m *machine) stop(e ending) {
	select {
	case m.ends <- e:
	default:
	}
	m.cancel()
}

// say shows what the machine is doing.
func (m *machine) say(stage string) {
	m.mu.Lock()
	m.stage = stage
	m.mu.Unlock()
	m.screens.Changed()
}

// tell shows what is wrong; nil: nothing.
func (m *machine) tell(trouble ...string) {
	m.mu.Lock()
	news := !slices.Equal(m.trouble, trouble)
	m.trouble = trouble
	m.mu.Unlock()
	if news && len(trouble) > 0 {
		m.log.Error(strings.Join(trouble, " "))
	}
	m.screens.Changed()
}

// wanted are the modules that no device asks for.
var wanted = []string{"efivarfs", "evdev", "button", "nls_cp437", "nls_ascii", "vfat", "dm_mod", "dm_crypt", "xts", "ext4",
	"sd_mod", "8021q", "bonding", "af_packet", "hid_generic", "atkbd", "i8042", "rtc_cmos"}

func (m *machine) run() {
	m.drivers()
	m.dog = newWatchdog(m.log, m.hung)
	m.dog.open()
	go m.dog.run(context.Background()) // until the very end
	if err := unix.Mount("efivarfs", varsDir, "efivarfs", noPrograms, ""); err != nil {
		m.log.Warn("the firmware's variables cannot be read", "err", err)
	}
	if err := sealRoot(); err != nil {
		m.log.Error("the system's folder stays writable", "err", err)
	}
	ctx, leave := context.WithCancel(context.Background())
	m.screens = screen.Run(ctx, screen.Consoles(), m.status, m.actions(), m.log)
	m.recorded.Store(m.screens)
	go m.follow(ctx)
	go powerButtons(ctx, m.log, func() { m.stop(shutDown) })
	m.start()
	<-m.ctx.Done()
	e := restart
	select {
	case e = <-m.ends:
	default:
	}
	m.close(e, leave)
	m.end(e)
}

// drivers loads what the devices want.
func (m *machine) drivers() {
	l, err := hardware.NewLoader("/", m.log)
	if err != nil {
		fmt.Printf("There are no drivers: %v\r\n", err)
		m.log.Error("there are no drivers", "err", err)
		return
	}
	m.loader = l
	begin := time.Now()
	if err := l.Watch(m.ctx); err != nil {
		m.log.Error("devices that are plugged in later are not seen", "err", err)
	}
	for _, name := range wanted {
		if err := l.Load(name); err != nil {
			m.log.Debug("a module was not loaded", "module", name, "err", err)
		}
	}
	if err := l.Coldplug(m.ctx); err != nil {
		m.log.Error("the devices cannot be listed", "err", err)
	}
	if _, err := os.Stat("/dev/watchdog"); err != nil {
		l.Load("softdog")
	}
	m.log.Info("drivers are loaded", "modules", l.Count(), "ms", time.Since(begin).Milliseconds())
}

// start brings the machine up to the running appliance. It returns early only at
// the machine's end.
func (m *machine) start() {
	m.startClock()
	m.say("Looking for the disk...")
	m.again("no disk", m.findDisk)
	// What the network is like stands on the disk's system partition; without that
	// it is the usual one, so that the machine is at least seen.
	m.startNetwork()
	if m.ctx.Err() != nil {
		return
	}
	m.say("Opening the data...")
	m.again("no data", m.openData)
	m.awaitAddress()
	m.say("Starting...")
	m.again("no appliance", m.startAppliance)
	if m.ctx.Err() != nil {
		return
	}
	m.ready()
}

// addressTime is how long a network that has a cable may take to give an address
// before all starts without one.
const addressTime = 10 * time.Second

// awaitAddress waits for an address: what is made at the start, such as the
// certificate, is made for it.
func (m *machine) awaitAddress() {
	n := m.net.Load()
	if n == nil {
		return
	}
	m.say("Waiting for the network...")
	begin := time.Now()
	for m.ctx.Err() == nil && time.Since(begin) < addressTime {
		s := n.State()
		cable := slices.ContainsFunc(s.Ports, func(p network.PortState) bool { return p.Link })
		// A card needs some seconds to see its cable.
		if len(s.Reachable()) > 0 || len(s.Ports) == 0 || !cable && time.Since(begin) > addressTime/2 {
			return
		}
		m.wait(100 * time.Millisecond)
	}
}

// retryPause is between two tries of something that a person may have to mend.
const retryPause = 10 * time.Second

// again does one step until it works. While a version is tried it must work at
// once: else the version before returns.
func (m *machine) again(what string, step func(ctx context.Context) error) {
	for m.ctx.Err() == nil {
		err := step(m.ctx)
		if err == nil {
			m.tell()
			return
		}
		if m.ctx.Err() != nil {
			return
		}
		if m.trial {
			m.tell(fmt.Sprintf("Version %s does not work here: %v.", appliance.Version, err), "The machine restarts; after a few tries the version before returns by itself.")
			m.wait(5 * time.Second)
			m.stop(restart)
			return
		}
		m.tell(append(explain(err), "This is tried again by itself. Enter opens the menu, for the network and the log.")...)
		// Who is to help may come by the network.
		m.startNetwork()
		m.wait(retryPause)
	}
}

// explain turns an error into what stands on the screen.
func explain(err error) []string {
	var out []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, sentence(line))
		}
	}
	return out
}

// sentence is an error's text as people read it.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + strings.TrimSuffix(s[1:], ".") + "."
}

func (m *machine) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-m.ctx.Done():
	}
}

// hung is what the watchdog calls.
func (m *machine) hung(err error) {
	m.log.Error("the appliance hangs and the machine restarts", "err", err)
	fmt.Printf("\r\nHoldfast hangs: %v. The machine restarts.\r\n", err)
	m.stop(restart)
	go func() {
		// An orderly stop is tried; then, without any of the program's own parts, the
		// kernel is asked; and if that hangs as well, the chip resets the machine.
		time.Sleep(closeTime)
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}()
}

// closeTime is how long an orderly stop may take.
const closeTime = 30 * time.Second

// close stops everything in the opposite order of its start.
func (m *machine) close(e ending, leaveScreens func()) {
	m.dog.watch(nil)
	time.AfterFunc(closeTime, func() {
		fmt.Printf("\r\nThe stop takes too long and is forced.\r\n")
		m.end(e)
	})
	m.tell()
	m.say(fmt.Sprintf("The machine %s...", e))
	m.screens.Say("HOLDFAST STOP the machine " + e.String())
	if a := m.app.Swap(nil); a != nil {
		a.Close()
	}
	if c := m.clock.Swap(nil); c != nil {
		c.Stop()
	}
	if n := m.net.Swap(nil); n != nil {
		n.Close()
	}
	m.journal.close()
	if d := m.disk.Load(); d != nil {
		if err := d.Unmount(); err != nil {
			fmt.Printf("\r\nThe data is not unmounted well: %v. Nothing that was acknowledged is lost. Open: %s\r\n", err, strings.Join(openBelow(dataDir), " "))
		}
	}
	unix.Unmount(espDir, 0)
	leaveScreens()
}

// end stops the machine. It does not return.
func (m *machine) end(e ending) {
	unix.Sync()
	how := unix.LINUX_REBOOT_CMD_RESTART
	if e == shutDown {
		how = unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	err := unix.Reboot(how)
	fmt.Printf("\r\nThe kernel does not stop the machine: %v\r\n", err)
	for {
		time.Sleep(time.Hour) // the watchdog's chip ends this
	}
}

// ready tells the world.
func (m *machine) ready() {
	m.dog.watch(func(ctx context.Context) error {
		if a := m.app.Load(); a != nil {
			return a.Answers(ctx)
		}
		return nil // it is being stopped, which has its own limit
	})
	m.say("")
	url := ""
	if f, err := m.app.Load().Facts(m.ctx); err == nil {
		url = f.URL
	}
	secure := "off"
	if secureBoot() {
		secure = "on"
	}
	line := fmt.Sprintf("HOLDFAST READY version=%s url=%s secureboot=%s lockdown=%s ms=%d", appliance.Version, url, secure, lockdown(), uptime().Milliseconds())
	m.log.Info(line)
	m.screens.Say(line)
	go func() {
		if err := m.app.Load().Wait(m.ctx); err != nil {
			m.tell("The appliance stopped: "+err.Error()+".", "The machine restarts.")
			m.wait(5 * time.Second)
			m.stop(restart)
		}
	}()
}

var errStopped = errors.New("the machine is being stopped")
