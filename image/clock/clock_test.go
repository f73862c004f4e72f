package clock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var floor = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// machineClock stands for the kernel: setting the test machine's own clock would
// reach beyond the test. It runs as fast as the real one.
type machineClock struct {
	mu      sync.Mutex
	ahead   time.Duration // of the real clock
	rtc     time.Duration // ahead of the real clock
	noRTC   bool
	rtcErr  error
	stepErr error
	steps   []time.Duration
	slews   []time.Duration
	setRTCs int
}

func at(t time.Time) time.Duration { return time.Until(t) }

func (k *machineClock) Now() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Now().Round(0).Add(k.ahead)
}

func (k *machineClock) Step(t time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stepErr != nil {
		return k.stepErr
	}
	d := t.Sub(time.Now().Round(0).Add(k.ahead))
	k.steps = append(k.steps, d)
	k.ahead += d
	return nil
}

func (k *machineClock) Slew(d time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stepErr != nil {
		return k.stepErr
	}
	k.slews = append(k.slews, d)
	k.ahead += d
	return nil
}

func (k *machineClock) RTC() (time.Time, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.noRTC {
		return time.Time{}, ErrNoRTC
	}
	return time.Now().Round(0).Add(k.rtc).Truncate(time.Second), k.rtcErr
}

func (k *machineClock) SetRTC(t time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.noRTC {
		return ErrNoRTC
	}
	if k.rtcErr != nil {
		return k.rtcErr
	}
	k.setRTCs++
	k.rtc = t.Sub(time.Now().Round(0))
	return nil
}

// near tells whether a time is about another: tests run on busy machines.
func near(t, want time.Time) bool { return t.Sub(want).Abs() < 30*time.Second }

func start(t *testing.T, o Options) *Clock {
	t.Helper()
	if o.Floor.IsZero() {
		o.Floor = floor
	}
	o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	if o.every == 0 {
		o.every, o.retry, o.timeout = time.Hour, 20*time.Millisecond, 2*time.Second
	}
	c, err := Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}

func alarms(c *Clock) string {
	var list []string
	for _, a := range c.State().Alarms {
		list = append(list, a.Code)
	}
	return strings.Join(list, " ")
}

func until(t *testing.T, c *Clock, what string, f func(State) bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if f(c.State()) {
			return
		}
	}
	t.Fatalf("it did not happen: %s: %+v", what, c.State())
}

func writeTestMark(t *testing.T, m time.Time) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mark")
	if err := writeMark(path, m); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestStartTime(t *testing.T) {
	mark := floor.Add(40 * 24 * time.Hour)
	for _, x := range []struct {
		name   string
		kernel *machineClock
		mark   time.Time
		want   time.Time
		source string
		alarms string
	}{
		{"a right battery clock", &machineClock{rtc: at(mark.Add(time.Hour))}, mark, mark.Add(time.Hour), FromRTC, ""},
		{"no mark yet", &machineClock{rtc: at(mark)}, time.Time{}, mark, FromRTC, ""},
		{"an empty battery", &machineClock{rtc: at(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))}, mark, mark, FromMark, "rtc_behind"},
		{"an empty battery, the first start", &machineClock{rtc: at(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))}, time.Time{}, floor, FromBuild, "rtc_behind"},
		{"a battery clock that drifts", &machineClock{rtc: at(mark.Add(-time.Minute))}, mark, mark, FromRTC, ""},
		{"a newer program than the mark", &machineClock{rtc: at(floor.Add(-time.Hour))}, floor.Add(-2 * time.Hour), floor, FromBuild, "rtc_behind"},
		{"no battery clock", &machineClock{noRTC: true, ahead: at(time.Unix(0, 0))}, mark, mark, FromMark, "no_rtc"},
		{"no battery clock, but a hypervisor's time", &machineClock{noRTC: true, ahead: at(mark.Add(time.Hour))}, mark, mark.Add(time.Hour), FromKernel, "no_rtc"},
		{"a broken battery clock", &machineClock{rtcErr: errors.New("input/output error"), ahead: at(time.Unix(0, 0))}, mark, mark, FromMark, "rtc_unreadable"},
		{"a battery clock far ahead", &machineClock{rtc: at(floor.Add(farthest + time.Hour))}, mark, mark, FromMark, "rtc_ahead"},
		{"a mark far ahead", &machineClock{rtc: at(mark)}, floor.Add(farthest + time.Hour), mark, FromRTC, "mark_ahead"},
	} {
		t.Run(x.name, func(t *testing.T) {
			for _, early := range []bool{true, false} {
				// The mark is known at the start, or once the disk is there.
				k := &machineClock{ahead: x.kernel.ahead, rtc: x.kernel.rtc, noRTC: x.kernel.noRTC, rtcErr: x.kernel.rtcErr}
				o := Options{Kernel: k}
				path := filepath.Join(t.TempDir(), "mark")
				if !x.mark.IsZero() {
					path = writeTestMark(t, x.mark)
				}
				if early {
					o.Mark = path
				}
				c := start(t, o)
				if !early {
					if err := c.SetMark(path); err != nil {
						t.Error(err)
					}
				}
				s := c.State()
				if !near(s.Now, x.want) || s.Source != x.source && early || alarms(c) != x.alarms {
					t.Errorf("mark at the start %v: %s from %s with alarms %q; want %s from %s with %q", early, s.Now, s.Source, alarms(c), x.want, x.source, x.alarms)
				}
				c.Stop()
				// The mark never goes back.
				m, err := readMark(path)
				if err != nil || m.Before(x.want.Add(-time.Second)) {
					t.Errorf("the mark is %s after that, %v; want %s or later", m, err, x.want)
				}
			}
		})
	}
}

func TestMarkStays(t *testing.T) {
	k := &machineClock{rtc: at(floor.Add(time.Hour)), ahead: at(floor.Add(time.Hour))}
	path := writeTestMark(t, floor)
	c := start(t, Options{Kernel: k, Mark: path})
	// Whatever sets the clock back beside this program.
	k.mu.Lock()
	k.ahead = at(floor.Add(time.Minute))
	k.mu.Unlock()
	c.Stop()
	if m, err := readMark(path); err != nil || m.Before(floor.Add(50*time.Minute)) {
		t.Errorf("mark %s, %v", m, err)
	}
	if list, _ := os.ReadDir(filepath.Dir(path)); len(list) != 1 {
		t.Errorf("files left: %v", list)
	}
	// A file that is none is replaced, and said.
	if err := os.WriteFile(path, []byte("\x00\x00\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	c = start(t, Options{Kernel: k, Mark: path})
	if alarms(c) != "mark_unreadable" {
		t.Errorf("alarms %q", alarms(c))
	}
	if err := c.SetMark(filepath.Join(t.TempDir(), "no", "mark")); err == nil || !strings.Contains(alarms(c), "mark_unwritable") {
		t.Errorf("%v, alarms %q", err, alarms(c))
	}
}

func TestConfirm(t *testing.T) {
	k := &machineClock{rtc: at(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))}
	path := writeTestMark(t, floor.Add(24*time.Hour))
	c := start(t, Options{Kernel: k, Mark: path})
	truth := floor.Add(100 * 24 * time.Hour)
	if d := c.Saw(truth); (d-99*24*time.Hour).Abs() > time.Minute || alarms(c) != "rtc_behind skew" {
		t.Errorf("difference %s, alarms %q", d, alarms(c))
	}
	if !strings.Contains(c.State().Alarms[1].Text, "behind that of the administrator's computer") {
		t.Errorf("%s", c.State().Alarms[1].Text)
	}
	if err := c.Confirm(floor.Add(-time.Hour)); !errors.Is(err, ErrTooEarly) {
		t.Errorf("%v", err)
	}
	if err := c.Confirm(floor.Add(40 * 365 * 24 * time.Hour)); !errors.Is(err, ErrTooLate) {
		t.Errorf("%v", err)
	}
	if err := c.Confirm(truth); err != nil {
		t.Fatal(err)
	}
	s := c.State()
	rtc, _ := k.RTC()
	if !near(s.Now, truth) || !near(rtc, truth) || s.Source != FromAdministrator || alarms(c) != "" {
		t.Errorf("%+v, battery clock %s", s, rtc)
	}
	if m, err := readMark(path); err != nil || !near(m, truth) {
		t.Errorf("mark %s, %v", m, err)
	}
	// Only an administrator gets a time back that was far ahead.
	past := floor.Add(50 * 24 * time.Hour)
	if err := c.Confirm(past); err != nil {
		t.Fatal(err)
	}
	if m, err := readMark(path); err != nil || !near(m, past) || !near(c.State().Now, past) {
		t.Errorf("mark %s, %v, time %s", m, err, c.State().Now)
	}
	if d := c.Saw(past); d.Abs() > 30*time.Second || alarms(c) != "" {
		t.Errorf("difference %s, alarms %q", d, alarms(c))
	}
	k.mu.Lock()
	k.stepErr = ErrPermission
	k.mu.Unlock()
	if err := c.Confirm(truth); !errors.Is(err, ErrPermission) {
		t.Errorf("%v", err)
	}
}

// ntpServer answers over loopback. What it says can be changed.
type ntpServer struct {
	addr string

	mu     sync.Mutex
	clock  func() time.Time
	change func(b []byte)
	asked  int
}

func newNTP(t *testing.T, clock func() time.Time) *ntpServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s := &ntpServer{addr: conn.LocalAddr().String(), clock: clock}
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if n < 48 {
				continue
			}
			s.mu.Lock()
			s.asked++
			b := make([]byte, 48)
			b[0], b[1], b[2], b[3] = 4<<3|4, 2, 6, 0xec
			copy(b[12:], "\x7f\x00\x00\x01")
			now := s.clock()
			ntpTime(b[16:], now.Add(-10*time.Second))
			copy(b[24:32], buf[40:48])
			ntpTime(b[32:], now)
			ntpTime(b[40:], now)
			if s.change != nil {
				s.change(b)
			}
			s.mu.Unlock()
			conn.WriteTo(b, from)
		}
	}()
	return s
}

func ntpTime(b []byte, t time.Time) {
	binary.BigEndian.PutUint32(b, uint32(t.Unix()+2208988800))
	binary.BigEndian.PutUint32(b[4:], uint32(float64(t.Nanosecond())/1e9*math.MaxUint32))
}

func (s *ntpServer) set(f func(b []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change = f
}

func (s *ntpServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// shifted is the time that the test takes for true, and an error.
func shifted(k *machineClock, base time.Duration, d time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Round(0).Add(base + d) }
}

func TestNTP(t *testing.T) {
	base := at(floor.Add(10 * 24 * time.Hour))
	t.Run("a small difference is slewed", func(t *testing.T) {
		k := &machineClock{rtc: base, ahead: base}
		s := newNTP(t, shifted(k, base, 300*time.Millisecond))
		c := start(t, Options{Kernel: k, Servers: []string{s.addr}})
		until(t, c, "it is in time", func(s State) bool { return s.Source == FromNTP })
		if len(k.slews) == 0 || len(k.steps) != 0 || (k.slews[0]-300*time.Millisecond).Abs() > 200*time.Millisecond {
			t.Errorf("slews %v, steps %v", k.slews, k.steps)
		}
		x := c.State()
		if len(x.Servers) != 1 || x.Servers[0].Stratum != 2 || x.Servers[0].Error != "" || x.Synced.IsZero() || alarms(c) != "" {
			t.Errorf("%+v", x)
		}
	})
	t.Run("forward at once", func(t *testing.T) {
		k := &machineClock{rtc: base, ahead: base}
		s := newNTP(t, shifted(k, base, time.Hour))
		c := start(t, Options{Kernel: k, Servers: []string{s.addr}})
		until(t, c, "it is in time", func(s State) bool { return s.Source == FromNTP })
		rtc, _ := k.RTC()
		if !near(c.State().Now, floor.Add(10*24*time.Hour+time.Hour)) || !near(rtc, c.State().Now) || alarms(c) != "" {
			t.Errorf("%s, battery clock %s, alarms %q", c.State().Now, rtc, alarms(c))
		}
	})
	t.Run("far forward when nothing is known", func(t *testing.T) {
		k := &machineClock{rtc: at(time.Unix(0, 0)), ahead: at(time.Unix(0, 0))}
		s := newNTP(t, shifted(k, base, 3*365*24*time.Hour))
		c := start(t, Options{Kernel: k, Servers: []string{s.addr}})
		until(t, c, "it is in time", func(s State) bool { return s.Source == FromNTP })
		if !near(c.State().Now, floor.Add((10+3*365)*24*time.Hour)) || alarms(c) != "rtc_behind" || !strings.Contains(c.State().Alarms[0].Text, "a time server has set it") {
			t.Errorf("%+v", c.State())
		}
	})
	t.Run("far forward needs a word when the clock seemed right", func(t *testing.T) {
		k := &machineClock{rtc: base, ahead: base}
		s := newNTP(t, shifted(k, base, 48*time.Hour))
		c := start(t, Options{Kernel: k, Servers: []string{s.addr}})
		until(t, c, "it is said", func(State) bool { return alarms(c) == "servers_far" })
		if len(k.steps) != 0 || c.State().Waiting.Round(time.Hour) != 48*time.Hour {
			t.Errorf("steps %v, waiting %s", k.steps, c.State().Waiting)
		}
		if err := c.ConfirmServers(); err != nil {
			t.Fatal(err)
		}
		if !near(c.State().Now, floor.Add(12*24*time.Hour)) || alarms(c) != "" {
			t.Errorf("%+v", c.State())
		}
		if err := c.ConfirmServers(); !errors.Is(err, ErrNothingToDo) {
			t.Errorf("%v", err)
		}
	})
	t.Run("backward needs a word", func(t *testing.T) {
		k := &machineClock{rtc: base, ahead: base}
		s := newNTP(t, shifted(k, base, -time.Hour))
		path := filepath.Join(t.TempDir(), "mark")
		c := start(t, Options{Kernel: k, Servers: []string{s.addr}, Mark: path})
		until(t, c, "it is said", func(State) bool { return alarms(c) == "servers_far" })
		if len(k.steps) != 0 || len(k.slews) != 0 {
			t.Errorf("steps %v, slews %v", k.steps, k.slews)
		}
		if err := c.ConfirmServers(); err != nil {
			t.Fatal(err)
		}
		if m, err := readMark(path); err != nil || !near(m, floor.Add(10*24*time.Hour-time.Hour)) || !near(c.State().Now, m) {
			t.Errorf("%s, mark %s, %v", c.State().Now, m, err)
		}
	})
	t.Run("before the program was built", func(t *testing.T) {
		k := &machineClock{rtc: base, ahead: base}
		s := newNTP(t, shifted(k, base, -30*24*time.Hour))
		c := start(t, Options{Kernel: k, Servers: []string{s.addr}})
		until(t, c, "it is said", func(State) bool { return alarms(c) == "servers_far" })
		if err := c.ConfirmServers(); !errors.Is(err, ErrNothingToDo) {
			t.Errorf("%v", err)
		}
	})
	t.Run("one of three is wrong", func(t *testing.T) {
		k := &machineClock{rtc: base, ahead: base}
		a, b, wrong := newNTP(t, shifted(k, base, time.Minute)), newNTP(t, shifted(k, base, time.Minute)), newNTP(t, shifted(k, base, 5*time.Hour))
		c := start(t, Options{Kernel: k, Servers: []string{wrong.addr, a.addr, b.addr}})
		until(t, c, "it is in time", func(s State) bool { return s.Source == FromNTP })
		if !near(c.State().Now, floor.Add(10*24*time.Hour+time.Minute)) {
			t.Errorf("%s", c.State().Now)
		}
	})
	t.Run("two that do not agree", func(t *testing.T) {
		k := &machineClock{rtc: base, ahead: base}
		a, wrong := newNTP(t, shifted(k, base, time.Minute)), newNTP(t, shifted(k, base, 5*time.Hour))
		c := start(t, Options{Kernel: k, Servers: []string{a.addr, wrong.addr}})
		until(t, c, "it is said", func(State) bool { return alarms(c) == "disagree" })
		if len(k.steps) != 0 || c.State().Source != FromRTC {
			t.Errorf("steps %v", k.steps)
		}
		// The wrong one is taken out.
		if err := c.SetServers([]string{a.addr}); err != nil {
			t.Fatal(err)
		}
		until(t, c, "it is in time", func(s State) bool { return s.Source == FromNTP && alarms(c) == "" })
	})
}

func TestNTPNotInOrder(t *testing.T) {
	base := at(floor.Add(10 * 24 * time.Hour))
	for _, x := range []struct {
		name   string
		change func(b []byte)
		words  string
	}{
		{"not in time itself", func(b []byte) { b[0] = 3<<6 | 4<<3 | 4 }, "not in order"},
		{"stratum 16", func(b []byte) { b[1] = 16 }, "not in order"},
		{"from another question", func(b []byte) { b[24]++ }, "no answer"},
		{"a question as an answer", func(b []byte) { b[0] = 4<<3 | 3 }, "no answer"},
		{"no time", func(b []byte) { clear(b[40:48]) }, ""},
		{"an old reference", func(b []byte) { ntpTime(b[16:], floor.Add(-24*time.Hour)) }, "not in order"},
		{"far from its own source", func(b []byte) { binary.BigEndian.PutUint32(b[8:], 20<<16) }, "not in order"},
		{"refused", func(b []byte) { b[1] = 0; copy(b[12:], "DENY") }, "name another server"},
		{"too often", func(b []byte) { b[1] = 0; copy(b[12:], "RATE") }, "asked less often"},
		{"starting", func(b []byte) { b[1] = 0; copy(b[12:], "INIT") }, "not ready"},
	} {
		t.Run(x.name, func(t *testing.T) {
			k := &machineClock{rtc: base, ahead: base}
			s := newNTP(t, shifted(k, base, time.Hour))
			s.set(x.change)
			c := start(t, Options{Kernel: k, Servers: []string{s.addr}})
			until(t, c, "it is said", func(s State) bool { return s.Servers[0].Error != "" && strings.Contains(s.Servers[0].Error, x.words) })
			if len(k.steps)+len(k.slews) != 0 {
				t.Errorf("it was followed: %v %v", k.steps, k.slews)
			}
			s.set(nil)
			if x.name == "refused" {
				n := s.count()
				for range 3 {
					c.round()
				}
				if s.count() != n || !c.State().Servers[0].Left {
					t.Errorf("it was asked again")
				}
				return
			}
			until(t, c, "it counts again", func(s State) bool { return s.Source == FromNTP })
		})
	}
	// No server at all: the port is closed.
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := conn.LocalAddr().String()
	conn.Close()
	k := &machineClock{rtc: base, ahead: base}
	c := start(t, Options{Kernel: k, Servers: []string{addr}})
	until(t, c, "it is said", func(s State) bool { return strings.Contains(s.Servers[0].Error, "no answer") })
	c.mu.Lock()
	c.syncedAt = c.syncedAt.Add(-silence - time.Hour)
	c.mu.Unlock()
	if alarms(c) != "silent" {
		t.Errorf("alarms %q", alarms(c))
	}
}

func TestAgree(t *testing.T) {
	s := time.Second
	for _, x := range []struct {
		list []sample
		want time.Duration
		ok   bool
	}{
		{nil, 0, false},
		{[]sample{{3 * s, s}}, 3 * s, true},
		{[]sample{{3 * s, s}, {4 * s, s / 2}}, 4 * s, true},
		{[]sample{{3 * s, s}, {10 * s, s}}, 0, false},
		{[]sample{{10 * s, s}, {3 * s, s}, {3*s + s/4, s / 4}}, 3*s + s/4, true},
		{[]sample{{1 * s, s / 4}, {3 * s, s / 4}, {5 * s, s / 4}, {7 * s, s / 4}}, 0, false},
		{[]sample{{1 * s, s}, {1 * s, s}, {7 * s, s}, {7 * s, s}}, 0, false},
		// One that knows nothing well does not join two that disagree.
		{[]sample{{0, s}, {100 * s, s}, {50 * s, 200 * s}}, 0, false},
	} {
		got, ok := agree(x.list)
		if ok != x.ok || ok && got != x.want {
			t.Errorf("%v: %s, %v; want %s, %v", x.list, got, ok, x.want, x.ok)
		}
	}
}

func TestServerNames(t *testing.T) {
	k := &machineClock{rtc: at(floor)}
	c := start(t, Options{Kernel: k})
	for _, s := range []string{"", "ntp server", "http://ntp.example.org", "ntp.example.org:nothing", "a..b", strings.Repeat("a", 64) + ".org", "x\ny"} {
		if err := c.SetServers([]string{s}); err == nil || !strings.Contains(err.Error(), "is not a time server") {
			t.Errorf("%q: %v", s, err)
		}
	}
	var many []string
	for i := range maxServers + 1 {
		many = append(many, fmt.Sprintf("127.0.0.%d:9", i+1))
	}
	if err := c.SetServers(many); err == nil {
		t.Error("too many were taken")
	}
	if err := c.SetServers([]string{"127.0.0.1:9", " 127.0.0.1:9", "[::1]:9", "localhost"}); err != nil || len(c.State().Servers) != 3 {
		t.Errorf("%v: %+v", err, c.State().Servers)
	}
	if _, err := Start(context.Background(), Options{Kernel: k}); err == nil {
		t.Error("no floor is needed")
	}
}

// The real kernel refuses who is not root, in an error that says so.
func TestNotRoot(t *testing.T) {
	if os.Getenv("HOLDFAST_TEST_NOBODY") != "" {
		k := system("/dev/null")
		if err := k.Step(time.Now().Add(time.Hour)); !errors.Is(err, ErrPermission) {
			t.Errorf("%v", err)
		}
		if err := k.Slew(time.Millisecond); !errors.Is(err, ErrPermission) {
			t.Errorf("%v", err)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Setenv("HOLDFAST_TEST_NOBODY", "1")
		TestNotRoot(t)
		return
	}
	text, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join("/tmp", fmt.Sprintf("holdfast-clock-%d.test", os.Getpid()))
	if err := os.WriteFile(exe, text, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(exe) })
	cmd := exec.Command(exe, "-test.run=^TestNotRoot$", "-test.v")
	cmd.Dir, cmd.Env = "/", []string{"HOLDFAST_TEST_NOBODY=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestNotRoot") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestNoRTC(t *testing.T) {
	for _, dev := range []string{"", filepath.Join(t.TempDir(), "rtc0")} {
		if _, err := system(dev).RTC(); !errors.Is(err, ErrNoRTC) {
			t.Errorf("%q: %v", dev, err)
		}
	}
	if _, err := system("/dev/null").RTC(); err == nil || errors.Is(err, ErrNoRTC) {
		t.Errorf("/dev/null is taken for a clock: %v", err)
	}
}

func FuzzMark(f *testing.F) {
	f.Add("2026-03-01T12:00:00Z\n")
	f.Add("9999-12-31T23:59:59+23:59\n")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseMark(text)
		if err != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "mark")
		if err := writeMark(path, m); err != nil {
			t.Fatal(err)
		}
		again, err := readMark(path)
		if err != nil || !again.Equal(m.Truncate(time.Second)) {
			t.Fatalf("%s became %s, %v", m, again, err)
		}
	})
}
