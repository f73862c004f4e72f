// Package clock keeps the time of a machine that may have an empty battery and no
// Internet.
//
// Invariants: the clock starts no earlier than the program was built and no earlier
// than the high-water mark, the latest time that was seen before; by itself it is
// only ever set forward, and by more than a day only when nothing plausible is known,
// so that a false time server cannot do lasting harm; backward it goes slowly, or when
// an administrator said what time it is, who alone lowers the mark; time servers count
// only when they are in order and a majority of them agrees; whatever is wrong is an
// alarm that says what to do.
package clock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// Errors, for errors.Is.
var (
	ErrPermission  = errors.New("the kernel does not let this program set the clock: it must run as root, with the right to set the time")
	ErrNoRTC       = errors.New("this machine has no battery-backed clock")
	ErrTooEarly    = errors.New("this time is before the program was built, so it cannot be right: check the clock of your computer")
	ErrTooLate     = errors.New("this time is decades after the program was built, so it is hardly right: check the clock of your computer")
	ErrNothingToDo = errors.New("no time server waits to be confirmed")
)

// Kernel is what sets and tells the machine's time.
type Kernel interface {
	Now() time.Time
	// Step sets the clock at once.
	Step(t time.Time) error
	// Slew lets it run a little faster or slower until the offset is made up for.
	Slew(offset time.Duration) error
	// RTC reads the battery-backed clock, which has whole seconds. ErrNoRTC.
	RTC() (time.Time, error)
	SetRTC(t time.Time) error
}

// Options of Start.
type Options struct {
	RTC  string // the device, "/dev/rtc0"; "" when there is none
	Mark string // the high-water mark's file, where it is known already; see SetMark
	// Floor is when the program was built.
	Floor time.Time
	// Servers are NTP servers, names or addresses, with a port where it is not 123.
	Servers []string
	Log     *slog.Logger
	// Kernel is the real one when nil.
	Kernel Kernel

	every   time.Duration // between questions to servers
	retry   time.Duration // after a failed one, at first
	timeout time.Duration
}

const (
	// slewMost is what is made up for slowly. The kernel does it with 500 parts in a
	// million, so this takes some seventeen minutes.
	slewMost = 500 * time.Millisecond
	// plausibleStep is how far servers may set the clock forward when it was set by
	// something plausible.
	plausibleStep = 24 * time.Hour
	// farthest after the floor a time is taken for one.
	farthest  = 30 * 365 * 24 * time.Hour
	markEvery = 3 * time.Minute
	rtcEvery  = time.Hour
	// rtcBehind is how much earlier than the mark the battery clock may be without an
	// alarm: it is written as often as the mark, and drifts.
	rtcBehind = 2 * time.Minute
	// skewAlarm is the difference to a browser that is worth a word.
	skewAlarm = 30 * time.Second
	// silence of all servers before an alarm.
	silence    = 24 * time.Hour
	maxServers = 8
)

// Sources of the time.
const (
	FromRTC           = "rtc"
	FromKernel        = "kernel" // without a battery clock: a hypervisor, perhaps
	FromMark          = "mark"
	FromBuild         = "build"
	FromNTP           = "ntp"
	FromAdministrator = "administrator"
)

// State is what is known of the time.
type State struct {
	Now    time.Time `json:"now"`
	Source string    `json:"source"` // what the clock was set by last
	// Synced is when servers last agreed on a time that the clock was brought to.
	Synced time.Time `json:"synced,omitzero"`
	// Offset is what was missing then.
	Offset  time.Duration `json:"offset"`
	Servers []Server      `json:"servers"`
	// Waiting is how far the servers say that the clock is off, where that needs to be
	// confirmed: ConfirmServers.
	Waiting time.Duration `json:"waiting,omitempty"`
	// Browser is how far an administrator's computer was ahead when last seen.
	Browser time.Duration `json:"browser,omitempty"`
	Mark    time.Time     `json:"mark,omitzero"`
	Floor   time.Time     `json:"floor"`
	Alarms  []Alarm       `json:"alarms"`
}

// Alarm is something that is wrong.
type Alarm struct {
	Code string `json:"code"`
	Text string `json:"text"` // what, and what to do
}

// Clock keeps the time until Stop.
type Clock struct {
	o      Options
	log    *slog.Logger
	kernel Kernel
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	now    chan struct{} // ask the servers now

	mu       sync.Mutex
	source   string
	trusted  bool // the time came from something plausible
	mark     time.Time
	markFile string
	servers  []*Server
	started  time.Time // by the monotonic clock
	synced   time.Time
	syncedAt time.Time // monotonic
	offset   time.Duration
	waiting  time.Duration
	browser  time.Duration
	wroteRTC time.Time // monotonic
	alarms   map[string]string
	poll     time.Duration
}

// Start sets the clock to the latest of battery clock, mark and floor, and keeps it.
// A clock that cannot be set is an alarm and not an error: the machine has to start.
func Start(ctx context.Context, o Options) (*Clock, error) {
	if o.Floor.IsZero() {
		return nil, errors.New("clock: a floor is needed: the time at which the program was built")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Kernel == nil {
		o.Kernel = system(o.RTC)
	}
	if o.every == 0 {
		o.every, o.retry, o.timeout = 1024*time.Second, 15*time.Second, 5*time.Second
	}
	c := &Clock{o: o, log: o.Log, kernel: o.Kernel, now: make(chan struct{}, 1), alarms: map[string]string{}, started: time.Now(), syncedAt: time.Now()}
	c.ctx, c.cancel = context.WithCancel(ctx)
	if err := c.setServers(o.Servers); err != nil {
		c.cancel()
		return nil, err
	}
	c.begin()
	c.wg.Go(c.keep)
	c.wg.Go(c.ask)
	return c, nil
}

// begin sets the clock at the start.
func (c *Clock) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, err := c.kernel.RTC()
	c.source, c.trusted = FromRTC, true
	switch {
	case errors.Is(err, ErrNoRTC):
		t, c.source, c.trusted = c.kernel.Now(), FromKernel, false
		c.alarm("no_rtc", "This machine has no battery-backed clock: after a power cut its time stands still until a time server or an administrator tells it. Name a time server in the console.")
	case err != nil:
		t, c.source, c.trusted = c.kernel.Now(), FromKernel, false
		c.alarm("rtc_unreadable", fmt.Sprintf("The battery-backed clock cannot be read (%v). Its battery may be empty: replace it, and confirm the time in the console.", err))
	}
	if t.After(c.o.Floor.Add(farthest)) {
		c.alarm("rtc_ahead", fmt.Sprintf("The battery-backed clock is at %s, which cannot be right. Confirm the time in the console.", when(t)))
		t, c.source, c.trusted = c.o.Floor, FromBuild, false
	}
	if c.o.Mark != "" {
		c.markFile = c.o.Mark
		c.readMark()
	}
	switch {
	case t.Before(c.mark.Add(-rtcBehind)) && c.mark.After(c.o.Floor):
		if c.source == FromRTC {
			c.behind(t, c.mark)
		}
		t = c.mark
		c.source, c.trusted = FromMark, false
	case t.Before(c.o.Floor):
		if c.source == FromRTC {
			c.behind(t, c.o.Floor)
		}
		t = c.o.Floor
		c.source, c.trusted = FromBuild, false
	case t.Before(c.mark):
		t = c.mark
	}
	// The kernel may have read the battery clock itself, more precisely.
	if d := t.Sub(c.kernel.Now()); d > 2*time.Second || d < -2*time.Second {
		c.step(t)
	}
	c.raise()
	c.log.Info("clock: the time at the start", "time", c.kernel.Now().UTC(), "source", c.source)
}

func (c *Clock) behind(t, least time.Time) {
	c.alarm("rtc_behind", fmt.Sprintf("The battery-backed clock was at %s, which is before %s, so the time is wrong now. Its battery may be empty: replace it. Confirm the time in the console, or name a time server there.", when(t), when(least)))
}

func when(t time.Time) string { return t.UTC().Format("2 January 2006 15:04 UTC") }

// SetMark says where the high-water mark is, once that can be read, and brings the
// clock to it when it is behind.
func (c *Clock) SetMark(path string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.markFile = path
	c.readMark()
	now := c.kernel.Now()
	if c.mark.After(now) {
		if c.mark.Sub(now) > rtcBehind {
			if c.source == FromRTC {
				c.behind(now, c.mark)
			}
			c.trusted = false
		}
		c.step(c.mark)
		c.source = FromMark
	}
	c.raise()
	return c.saveMark()
}

// readMark takes a mark that cannot be read as none: the clock has its floor.
func (c *Clock) readMark() {
	t, err := readMark(c.markFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		c.alarm("mark_unreadable", fmt.Sprintf("The latest time of the last run is not known (%v). Check the time in the console.", err))
	case t.After(c.o.Floor.Add(farthest)):
		c.alarm("mark_ahead", fmt.Sprintf("The latest time of the last run was %s, which cannot be right. Confirm the time in the console.", when(t)))
	case t.After(c.mark):
		c.mark = t
	}
}

// raise brings the mark to the present.
func (c *Clock) raise() {
	if now := c.kernel.Now().Truncate(time.Second); now.After(c.mark) && !now.After(c.o.Floor.Add(farthest)) {
		c.mark = now
	}
}

func (c *Clock) saveMark() error {
	if c.markFile == "" {
		return nil
	}
	if err := writeMark(c.markFile, c.mark); err != nil {
		c.alarm("mark_unwritable", fmt.Sprintf("The time cannot be kept for the next start (%v). Check the disk.", err))
		return err
	}
	delete(c.alarms, "mark_unwritable")
	return nil
}

// step sets the clock at once.
func (c *Clock) step(t time.Time) bool {
	was := c.kernel.Now()
	if err := c.kernel.Step(t); err != nil {
		c.alarm("not_set", fmt.Sprintf("The clock cannot be set: %v.", err))
		return false
	}
	delete(c.alarms, "not_set")
	c.log.Info("clock: set", "from", was.UTC(), "to", t.UTC())
	return true
}

// setRTC writes the battery clock; a machine without one is no new alarm.
func (c *Clock) setRTC() {
	c.wroteRTC = time.Now()
	err := c.kernel.SetRTC(c.kernel.Now())
	switch {
	case err == nil:
		delete(c.alarms, "rtc_unreadable")
		delete(c.alarms, "rtc_unwritable")
	case errors.Is(err, ErrNoRTC):
	default:
		c.alarm("rtc_unwritable", fmt.Sprintf("The battery-backed clock cannot be set (%v), so the time may be wrong after a restart. Replace its battery, or name a time server in the console.", err))
	}
}

// alarm is set with c.mu held.
func (c *Clock) alarm(code, text string) {
	if c.alarms[code] != text {
		c.log.Warn("clock: "+text, "alarm", code)
	}
	c.alarms[code] = text
}

// keep raises the mark, and keeps the battery clock right.
func (c *Clock) keep() {
	t := time.NewTicker(markEvery)
	defer t.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-t.C:
		}
		c.mu.Lock()
		c.raise()
		_ = c.saveMark() // it is an alarm
		if c.trusted && time.Since(c.wroteRTC) >= rtcEvery && (c.source == FromNTP || c.source == FromAdministrator) {
			c.setRTC()
		}
		c.mu.Unlock()
	}
}

// Stop writes the mark and ends.
func (c *Clock) Stop() {
	c.cancel()
	c.wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raise()
	_ = c.saveMark() // nobody is left to tell
	if c.trusted && (c.source == FromNTP || c.source == FromAdministrator) {
		c.setRTC()
	}
}

// State tells what is known.
func (c *Clock) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := State{
		Now: c.kernel.Now(), Source: c.source, Synced: c.synced, Offset: c.offset, Waiting: c.waiting, Browser: c.browser,
		Mark: c.mark, Floor: c.o.Floor, Alarms: []Alarm{}, Servers: []Server{},
	}
	for _, x := range c.servers {
		s.Servers = append(s.Servers, *x)
	}
	for code, text := range c.alarms {
		s.Alarms = append(s.Alarms, Alarm{code, text})
	}
	if len(c.servers) > 0 && time.Since(c.syncedAt) > silence {
		s.Alarms = append(s.Alarms, Alarm{"silent", fmt.Sprintf("No time server has answered since %s. Check the network and the servers' names in the console.", when(s.Now.Add(-time.Since(c.syncedAt))))})
	}
	slices.SortFunc(s.Alarms, func(a, b Alarm) int { return strings.Compare(a.Code, b.Code) })
	return s
}

// check tells whether a time can be one.
func (c *Clock) check(t time.Time) error {
	switch {
	case t.Before(c.o.Floor):
		return ErrTooEarly
	case t.After(c.o.Floor.Add(farthest)):
		return ErrTooLate
	}
	return nil
}

// Saw compares the clock with that of an administrator's browser, and returns how far
// the browser is ahead. A large difference is an alarm until it is gone or confirmed.
func (c *Clock) Saw(browser time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := browser.Sub(c.kernel.Now())
	c.browser = d
	if d > skewAlarm || d < -skewAlarm {
		how := "behind"
		if d < 0 {
			how = "ahead of"
		}
		c.alarm("skew", fmt.Sprintf("The appliance's clock is %s %s that of the administrator's computer. If the computer is right, confirm its time in the console.", d.Abs().Round(time.Second), how))
	} else {
		delete(c.alarms, "skew")
	}
	return d
}

// Confirm takes the time of an administrator's browser: the administrator said that it
// is right. Errors: ErrTooEarly, ErrTooLate, ErrPermission.
func (c *Clock) Confirm(browser time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.confirm(browser, FromAdministrator)
}

func (c *Clock) confirm(t time.Time, source string) error {
	if err := c.check(t); err != nil {
		return err
	}
	if err := c.kernel.Step(t); err != nil {
		return err
	}
	c.log.Warn("clock: set by an administrator", "to", t.UTC(), "source", source)
	c.source, c.trusted = source, true
	c.waiting, c.browser = 0, 0
	for _, code := range []string{"skew", "rtc_behind", "rtc_ahead", "mark_ahead", "mark_unreadable", "not_set", "servers_far"} {
		delete(c.alarms, code)
	}
	c.setRTC()
	// The one thing that lowers the mark: else a time that was once far ahead would
	// come back at each start.
	c.mark = t.Truncate(time.Second)
	return c.saveMark()
}

// ConfirmServers takes the time that the servers say, where that was too far off to
// be taken without a word. Errors: ErrNothingToDo, and those of Confirm.
func (c *Clock) ConfirmServers() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == 0 {
		return ErrNothingToDo
	}
	err := c.confirm(c.kernel.Now().Add(c.waiting), FromNTP)
	if err == nil {
		c.synced, c.syncedAt = c.kernel.Now(), time.Now()
	}
	return err
}

// SetServers changes which servers are asked, and asks them.
func (c *Clock) SetServers(list []string) error {
	c.mu.Lock()
	err := c.setServers(list)
	c.mu.Unlock()
	if err == nil {
		c.Ask()
	}
	return err
}

func (c *Clock) setServers(list []string) error {
	if len(list) > maxServers {
		return fmt.Errorf("there are %d time servers: name %d at most", len(list), maxServers)
	}
	var servers []*Server
	for _, s := range list {
		s = strings.TrimSpace(s)
		if err := checkServer(s); err != nil {
			return err
		}
		if slices.ContainsFunc(servers, func(x *Server) bool { return x.Address == s }) {
			continue
		}
		if i := slices.IndexFunc(c.servers, func(x *Server) bool { return x.Address == s }); i >= 0 {
			servers = append(servers, c.servers[i])
		} else {
			servers = append(servers, &Server{Address: s})
		}
	}
	c.servers, c.poll, c.waiting = servers, 0, 0
	delete(c.alarms, "disagree")
	delete(c.alarms, "servers_far")
	if len(c.servers) == 0 {
		c.syncedAt = time.Now()
	}
	return nil
}

func checkServer(s string) error {
	host := s
	if h, port, err := net.SplitHostPort(s); err == nil {
		host = h
		if _, err := net.LookupPort("udp", port); err != nil {
			return fmt.Errorf("%q is not a time server: its port is not one", s)
		}
	}
	host = strings.Trim(host, "[]")
	if net.ParseIP(host) != nil {
		return nil
	}
	ok := host != "" && len(host) <= 253
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		ok = ok && label != "" && len(label) <= 63 && strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
	}
	if !ok {
		return fmt.Errorf("%q is not a time server: give a name such as \"ntp.example.org\", or an address", s)
	}
	return nil
}
