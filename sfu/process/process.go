// Package process runs the call relay as a process of its own: the same program once
// more, which the house starts, watches and starts anew. LiveKit ends its process when
// a session panics, and so does a panic in any goroutine of pion's; chat and sign-on
// then do not notice, and calls come back.
//
// Invariants: the relay's process ends with the house; it gets its keys over an
// inherited socket, never by its arguments or environment, and no socket of it has a
// name; it knows nothing of the house but what the line tells; what has to outlive it
// (the key, the rooms, whose tokens are void, the ports) is kept here; nobody counts
// as having left a call because the process ended, until the grace has passed.
package process

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"

	"holdfast/sfu"
)

const (
	startTime = 30 * time.Second // the process may take to be ready
	patience  = 5 * time.Second  // a request may wait for a process that is being started
	// Who was in a call has returnTime to come back once the relay runs again, and
	// awayTime in all where it does not.
	returnTime = 20 * time.Second
	awayTime   = time.Minute
	// One that gives no answer for hangTime is ended.
	pingEvery = 10 * time.Second
	hangTime  = 30 * time.Second
	// The pause before another start grows from the first to the second while the
	// process does not live for steadyTime.
	firstPause, longestPause = 100 * time.Millisecond, 10 * time.Second
	steadyTime               = time.Minute
	// removedFor is longer than any token lasts.
	removedFor = 2 * time.Hour
)

// The kinds of connections that are handed over.
const (
	kindSignal = "signal"
	kindTURN   = "turn"
)

// Options of New.
type Options struct {
	sfu.Options
	Level slog.Level // of what the relay's process logs
}

// place is a participant's: what a token is for.
type place struct{ Room, Identity string }

// Relay is the call relay as the house sees it. Its methods are safe for concurrent
// use; those that ask the relay's process wait a while for one that is being started.
type Relay struct {
	o       Options
	log     *slog.Logger
	mirror  *mirror
	proxy   *httputil.ReverseProxy
	serving sync.WaitGroup // connections of signalling
	done    chan struct{}  // closed by Close
	ended   chan struct{}  // closed when nothing runs any more

	mu       sync.Mutex
	started  bool
	closing  bool
	draining bool
	child    *child        // nil: none is ready
	up       chan struct{} // closed when one is
	standing standing      // of the last that was ready
	removed  map[place]time.Time
	restarts int
	reason   string // why the last one ended
	since    time.Time
}

// Status says how the relay's process is.
type Status struct {
	Running     bool      `json:"running"`
	Draining    bool      `json:"draining,omitempty"` // nobody new is let in: it is about to stop
	PID         int       `json:"pid,omitempty"`
	Since       time.Time `json:"since,omitzero"` // the present process
	Restarts    int       `json:"restarts"`       // since the house was started
	Reason      string    `json:"reason,omitempty"`
	MemoryBytes int64     `json:"memory_bytes"`
}

// New prepares a relay. Start starts its process.
func New(o Options) (*Relay, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Key == "" || o.Secret == "" {
		o.Key, o.Secret = sfu.NewKey()
	}
	if err := sfu.Check(o.Options); err != nil {
		return nil, err
	}
	r := &Relay{o: o, log: o.Log, mirror: newMirror(), done: make(chan struct{}), ended: make(chan struct{}),
		up: make(chan struct{}), removed: map[place]time.Time{}}
	to := &url.URL{Scheme: "http", Host: "relay"}
	r.proxy = &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(to)
			p.Out.Host = p.In.Host
			for _, h := range sfu.Spoofable {
				p.Out.Header.Del(h)
			}
		},
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: r.dial, ResponseHeaderTimeout: startTime},
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			w.Header().Set("Access-Control-Allow-Origin", "*")
			http.Error(w, "The call relay is not running", http.StatusServiceUnavailable)
		},
	}
	return r, nil
}

// Start starts the process and returns when calls can be made. A relay is started
// once. When its process ends it is started anew until Close.
func (r *Relay) Start(context.Context) error {
	r.mu.Lock()
	if r.started || r.closing {
		r.mu.Unlock()
		return errors.New("the call relay was started before")
	}
	r.started = true
	r.mu.Unlock()
	first := make(chan error, 1)
	go r.supervise(first)
	return <-first
}

// Drain has the relay take nobody new, and returns when all calls are over or ctx ends.
// Who is in a call may come back into it meanwhile.
func (r *Relay) Drain(ctx context.Context) {
	r.mu.Lock()
	c := r.child
	if !r.closing {
		r.draining = true
	}
	r.mu.Unlock()
	if c == nil {
		return
	}
	if _, err := drain.call(ctx, r, none{}); err != nil && ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
		r.log.Warn("the call relay could not be drained", "err", err)
	}
}

// Close ends the process. New calls are refused at once; people in calls are given
// until ctx ends to leave by themselves, and are then told to connect anew. It is
// nobody's leave.
func (r *Relay) Close(ctx context.Context) error {
	r.mu.Lock()
	if r.closing {
		r.mu.Unlock()
		return nil
	}
	r.closing = true
	c, started := r.child, r.started
	r.mu.Unlock()
	r.mirror.close()
	var err error
	if c != nil {
		within := time.Duration(0)
		if end, ok := ctx.Deadline(); ok {
			within = max(time.Until(end), 0)
		}
		var body json.RawMessage
		if body, err = json.Marshal(within); err == nil {
			// It takes a moment more to tell everybody.
			asked, cancel := context.WithTimeout(context.Background(), within+5*time.Second)
			_, err = c.line.call(asked, closing.name, body)
			cancel()
		}
	}
	close(r.done)
	if c != nil {
		c.line.end() // it ends by this
		time.AfterFunc(2*time.Second, func() { c.cmd.Process.Kill() })
	}
	if started {
		<-r.ended
	}
	// What the process said last is still on its way to the clients.
	said := make(chan struct{})
	go func() { r.serving.Wait(); close(said) }()
	select {
	case <-said:
	case <-time.After(time.Second):
	}
	return err
}

// child is a process of the relay.
type child struct {
	cmd   *exec.Cmd
	line  *line
	conns *net.UnixConn
	begun time.Time
	words words         // its last ones
	read  chan struct{} // closed when they are
	over  chan struct{} // closed when it is gone and known to be
}

// supervise starts the process, waits for its end, and does so again.
func (r *Relay) supervise(first chan<- error) {
	// The kernel ends the process when the thread that started it ends, which is
	// otherwise not when the program does. The thread itself goes on afterwards: it may
	// have started other programs before.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(r.ended)
	pause := firstPause
	for {
		c, err := r.launch()
		if err == nil {
			r.took(c)
		}
		if first != nil {
			if err != nil {
				first <- err
				return
			}
			first <- nil
			first = nil
		}
		if err != nil {
			r.log.Error("the call relay cannot be started; trying again", "err", err, "in", pause)
		} else {
			why := r.wait(c)
			if r.stopping() {
				return
			}
			if time.Since(c.begun) > steadyTime {
				pause = firstPause
			}
			r.log.Error("the call relay's process ended; it is started anew, and calls come back", "reason", why, "in", pause, "last_words", c.words.String())
		}
		select {
		case <-time.After(pause):
		case <-r.done:
			return
		}
		pause = min(2*pause, longestPause)
	}
}

func (r *Relay) stopping() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closing
}

// passed are the variables of the environment that the process gets.
var passed = []string{"GODEBUG", "GOGC", "GOTRACEBACK", "GOMAXPROCS", "GOCOVERDIR", "TZ"}

// launch starts a process and waits until it is ready.
func (r *Relay) launch() (c *child, err error) {
	control, controlThere, err := pair("unix")
	if err != nil {
		return nil, err
	}
	defer controlThere.Close()
	conns, connsThere, err := pair("unixpacket")
	if err != nil {
		control.Close()
		return nil, err
	}
	defer connsThere.Close()
	out, outThere, err := os.Pipe()
	if err != nil {
		control.Close()
		conns.Close()
		return nil, err
	}
	defer outThere.Close()
	// An input that has ended: a container may have no /dev/null.
	in, inThere, err := os.Pipe()
	if err != nil {
		control.Close()
		conns.Close()
		out.Close()
		return nil, err
	}
	defer in.Close()
	inThere.Close()
	c = &child{line: newLine(control), conns: conns, begun: time.Now(), read: make(chan struct{}), over: make(chan struct{})}
	c.cmd = &exec.Cmd{Path: "/proc/self/exe", Args: []string{name}, Env: []string{}, Dir: "/", Stdin: in, Stdout: outThere, Stderr: outThere,
		ExtraFiles: []*os.File{controlThere, connsThere}, SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}}
	for _, k := range passed {
		if v, ok := os.LookupEnv(k); ok {
			c.cmd.Env = append(c.cmd.Env, k+"="+v)
		}
	}
	if err := startCalmly(c.cmd); err != nil {
		control.Close()
		conns.Close()
		out.Close()
		return nil, fmt.Errorf("its process cannot be started: %w", err)
	}
	// These are the process's now; its end is seen by their end.
	for _, f := range []*os.File{controlThere, connsThere, outThere} {
		f.Close()
	}
	go r.listen(c, out)
	fail := func(err error) (*child, error) {
		c.cmd.Process.Kill()
		r.wait(c)
		if w := c.words.String(); w != "" {
			err = fmt.Errorf("%w: %s", err, w)
		}
		return nil, err
	}
	body, err := json.Marshal(r.setup())
	if err != nil {
		return fail(err)
	}
	if err := c.line.write(&message{Body: body}); err != nil {
		return fail(err)
	}
	control.SetReadDeadline(time.Now().Add(startTime))
	for {
		m, err := c.line.read()
		switch {
		case err != nil:
			return fail(fmt.Errorf("its process did not become ready: %w", err))
		case m.Err != nil:
			return fail(m.Err.err())
		case m.Change != nil:
			r.mirror.apply(*m.Change)
			continue
		}
		var st standing
		if err := json.Unmarshal(m.Body, &st); err != nil {
			return fail(err)
		}
		control.SetReadDeadline(time.Time{})
		r.mu.Lock()
		r.standing = st
		r.mu.Unlock()
		return c, nil
	}
}

// slack is by how many nanoseconds the relay's timers may be late. Go's runtime looks after
// its threads every 20 µs while one of them runs, and a relay hardly ever rests: with the
// kernel's slack of 50 µs that took an eighth of its processor time. Nothing in a call is
// timed by less than a millisecond.
const slack = 500_000

// startCalmly starts a process that has the slack from its first thread on, which Go's
// looking after is bound to before the program can say anything.
func startCalmly(cmd *exec.Cmd) error {
	runtime.LockOSThread() // the slack is a thread's, and inherited
	defer runtime.UnlockOSThread()
	// Where the kernel does not do it, calls only take more of the processor.
	unix.Prctl(unix.PR_SET_TIMERSLACK, slack, 0, 0, 0)
	defer unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) // as it was
	return cmd.Start()
}

// setup is what a new process has to know.
func (r *Relay) setup() setup {
	r.mu.Lock()
	defer r.mu.Unlock()
	in := setup{Options: r.o.Options, Level: r.o.Level, MemoryLimit: debug.SetMemoryLimit(-1), Rooms: r.mirror.list()}
	if p := r.standing.Ports; p.UDP != 0 {
		in.Options.UDPPort, in.Options.TCPPort, in.Options.TURNPort = p.UDP, p.TCP, p.TURN
	}
	now := time.Now()
	for at, until := range r.removed {
		if now.Before(until) {
			in.Removed = append(in.Removed, at)
		}
	}
	return in
}

// took puts a process that is ready to use.
func (r *Relay) took(c *child) {
	go func() {
		for {
			m, err := c.line.read()
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
					r.log.Error("the call relay's process is not understood and ended", "err", err)
				}
				c.cmd.Process.Kill()
				c.line.end()
				return
			}
			if m.Change != nil {
				r.mirror.apply(*m.Change)
			} else {
				c.line.answered(m)
			}
		}
	}()
	go r.ping(c)
	r.mu.Lock()
	r.child, r.since = c, c.begun
	close(r.up)
	again := r.restarts > 0
	r.mu.Unlock()
	r.mirror.back(returnTime)
	r.log.Info("the call relay's process is up", "pid", c.cmd.Process.Pid, "again", again, "took", time.Since(c.begun).Round(time.Millisecond))
}

// ping ends a process that hangs.
func (r *Relay) ping(c *child) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for range tick.C {
		ctx, cancel := context.WithTimeout(context.Background(), hangTime)
		_, err := c.line.call(ctx, ping.name, json.RawMessage("{}"))
		cancel()
		switch {
		case errors.Is(err, errGone):
			return
		case err != nil:
			r.log.Error("the call relay's process hangs and is ended", "err", err)
			c.cmd.Process.Kill()
			return
		}
	}
}

// wait waits for the end of a process and says why it ended.
func (r *Relay) wait(c *child) string {
	err := c.cmd.Wait()
	why := "it stopped by itself"
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		why = exit.Error()
	case err != nil: // somebody else waited for it
		why = "it ended"
	}
	c.line.end()
	c.conns.Close()
	<-c.read
	r.mu.Lock()
	if r.child == c {
		r.child, r.up = nil, make(chan struct{})
		if !r.closing {
			r.restarts++
			r.reason = why
			r.mirror.lost(awayTime)
		}
	}
	r.mu.Unlock()
	close(c.over)
	return why
}

// words are the last that a process wrote outside of its log: what it panicked about.
type words struct {
	mu sync.Mutex
	b  []byte
}

const maxWords = 8 << 10 // the beginning of a trace says where it was

func (w *words) add(line []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := maxWords - len(w.b); n > 0 {
		w.b = append(append(w.b, line[:min(n, len(line))]...), '\n')
	}
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(bytes.TrimSpace(w.b))
}

// listen passes on what the process logs.
func (r *Relay) listen(c *child, out *os.File) {
	defer close(c.read)
	defer out.Close()
	for in := bufio.NewReaderSize(out, 64<<10); ; {
		b, err := in.ReadSlice('\n')
		if b = bytes.TrimSpace(b); len(b) > 0 && !r.relog(b) {
			c.words.add(b)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// relog writes a line of the relay's log into the house's.
func (r *Relay) relog(b []byte) bool {
	var rec map[string]any
	if b[0] != '{' || json.Unmarshal(b, &rec) != nil {
		return false
	}
	msg, ok := rec[slog.MessageKey].(string)
	text, _ := rec[slog.LevelKey].(string)
	var level slog.Level
	if !ok || level.UnmarshalText([]byte(text)) != nil {
		return false
	}
	keys := make([]string, 0, len(rec))
	for k := range rec {
		if k != slog.MessageKey && k != slog.LevelKey && k != slog.TimeKey {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	var args []any
	for _, k := range keys {
		args = append(args, k, rec[k])
	}
	r.log.Log(context.Background(), level, msg, args...)
	return true
}

// running is the process that can be asked; it waits a while for one that is being
// started. Errors: sfu.ErrNotRunning.
func (r *Relay) running(ctx context.Context) (*child, error) {
	end := time.NewTimer(patience)
	defer end.Stop()
	for {
		r.mu.Lock()
		c, up, ok := r.child, r.up, r.started && !r.closing
		r.mu.Unlock()
		if !ok {
			return nil, sfu.ErrNotRunning
		}
		if c != nil {
			return c, nil
		}
		select {
		case <-up:
		case <-r.done:
		case <-end.C:
			return nil, sfu.ErrNotRunning
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// parcelKey is where a request's context has what goes with its connection.
type parcelKey struct{}

// dial connects a request with the relay's process.
func (r *Relay) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	p, _ := ctx.Value(parcelKey{}).(parcel)
	return r.hand(ctx, p)
}

// hand makes a connection to the relay's process.
func (r *Relay) hand(ctx context.Context, p parcel) (net.Conn, error) {
	for range 2 {
		c, err := r.running(ctx)
		if err != nil {
			return nil, err
		}
		conn, err := hand(c.conns, p)
		if !errors.Is(err, errGone) {
			return conn, err
		}
		if err := c.await(ctx); err != nil {
			return nil, err
		}
	}
	return nil, sfu.ErrNotRunning
}

// await waits until it is known that the process is gone.
func (c *child) await(ctx context.Context) error {
	select {
	case <-c.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Handler answers signalling: mount it with http.StripPrefix("/livekit/sfu", ...).
// The ResponseWriter it is given must allow hijacking. It is the relay's process that
// looks at the token.
func (r *Relay) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		p := parcel{Kind: kindSignal, Reach: sfu.ReachOf(req.Context())}
		p.From, _ = netip.ParseAddrPort(req.RemoteAddr)
		if !r.serve() {
			r.proxy.ErrorHandler(w, req, sfu.ErrNotRunning)
			return
		}
		defer r.serving.Done()
		r.proxy.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), parcelKey{}, p)))
	})
}

// serve counts a connection, unless the relay stops.
func (r *Relay) serve() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return false
	}
	r.serving.Add(1)
	return true
}

// ServeTURN is sfu.SFU.ServeTURN. Bytes are passed on; it is the relay's process that
// limits how many connections there are, and ends those that nobody uses.
func (r *Relay) ServeTURN(conn net.Conn) {
	p := parcel{Kind: kindTURN}
	var err error
	if p.From, err = netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		p.To, err = netip.ParseAddrPort(conn.LocalAddr().String())
	}
	if err != nil {
		conn.Close()
		return
	}
	go func() {
		there, err := r.hand(context.Background(), p)
		if err != nil {
			conn.Close()
			return
		}
		go pass(there, conn)
		pass(conn, there)
	}()
}

// passBytes holds the packets of a moment: there are two buffers for each connection.
const passBytes = 8 << 10

// pass copies until one side ends, or takes nothing for writeTime; then it ends both.
func pass(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, passBytes)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			to.SetWriteDeadline(time.Now().Add(writeTime))
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// The methods of the relay's process.
var (
	ping       = register("ping", func(context.Context, *sfu.SFU, none) (none, error) { return none{}, nil })
	ensureRoom = register("ensure_room", func(ctx context.Context, s *sfu.SFU, room string) (none, error) {
		return none{}, s.EnsureRoom(ctx, room)
	})
	mint = register("mint", func(ctx context.Context, s *sfu.SFU, in minting) (string, error) {
		return s.Mint(ctx, in.Room, in.Identity, in.Name, in.TTL)
	})
	remove = register("remove", func(_ context.Context, s *sfu.SFU, at place) (none, error) {
		s.Remove(at.Room, at.Identity)
		return none{}, nil
	})
	turn = register("turn", func(_ context.Context, s *sfu.SFU, in turnUser) (sfu.Credentials, error) {
		return s.TURN(in.User, in.Reach)
	})
	full = register("full", func(_ context.Context, s *sfu.SFU, at place) (string, error) {
		return s.Full(at.Room, at.Identity), nil
	})
	streams   = register("stream_stats", func(_ context.Context, s *sfu.SFU, _ none) (sfu.StreamStats, error) { return s.StreamStats(), nil })
	listCalls = register("calls", func(ctx context.Context, s *sfu.SFU, room string) ([]sfu.Call, error) { return s.Calls(ctx, room) })
	endCall   = register("end_call", func(ctx context.Context, s *sfu.SFU, room string) (none, error) { return none{}, s.End(ctx, room) })
	hops      = register("hops", func(ctx context.Context, s *sfu.SFU, t sfu.Trial) ([]sfu.Hop, error) { return s.Hops(ctx, t), nil })
	probe     = register("probe", func(ctx context.Context, s *sfu.SFU, path sfu.Path) (time.Duration, error) {
		return s.Probe(ctx, path)
	})
	stands = register("standing", func(_ context.Context, s *sfu.SFU, _ none) (standing, error) {
		return standing{s.Ports(), s.Addresses()}, nil
	})
	metrics = register("metrics", func(context.Context, *sfu.SFU, none) (string, error) { return gather() })
	cluster = register("cluster", func(_ context.Context, s *sfu.SFU, _ none) (sfu.ClusterStatus, error) { return s.Cluster(), nil })
	drain   = register("drain", func(ctx context.Context, s *sfu.SFU, _ none) (none, error) {
		s.Drain(ctx)
		return none{}, nil
	})
	closing = register("close", func(_ context.Context, s *sfu.SFU, within time.Duration) (none, error) {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		return none{}, s.Close(ctx)
	})
)

type minting struct {
	Room, Identity, Name string
	TTL                  time.Duration
}

type turnUser struct {
	User  string
	Reach sfu.Reach
}

// EnsureRoom creates the room unless it exists. Errors: sfu.ErrNotRunning, sfu.ErrTooManyRooms.
func (r *Relay) EnsureRoom(ctx context.Context, room string) error {
	_, err := ensureRoom.call(ctx, r, room)
	if err == nil {
		r.mirror.ensure(room)
	}
	return err
}

// Mint is sfu.SFU.Mint. Errors: sfu.ErrNotRunning.
func (r *Relay) Mint(ctx context.Context, room, identity, name string, ttl time.Duration) (string, error) {
	r.mu.Lock()
	delete(r.removed, place{room, identity})
	r.mu.Unlock()
	return mint.call(ctx, r, minting{room, identity, name, ttl})
}

// Remove is sfu.SFU.Remove. What it says holds for the processes to come, too.
func (r *Relay) Remove(room, identity string) {
	at, now := place{room, identity}, time.Now()
	r.mu.Lock()
	for k, until := range r.removed {
		if now.After(until) {
			delete(r.removed, k)
		}
	}
	r.removed[at] = now.Add(removedFor)
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	if _, err := remove.call(ctx, r, at); err != nil && !errors.Is(err, sfu.ErrNotRunning) {
		r.log.Warn("a participant could not be removed from a call", "err", err)
	}
	// Where the process ended meanwhile, who was away does not come back.
	if r.Status().PID == 0 {
		r.mirror.apply(sfu.Change{Kind: sfu.Left, Room: room, Identity: identity})
	}
}

// TURN is sfu.SFU.TURN. Errors: sfu.ErrNotRunning.
func (r *Relay) TURN(user string, reach sfu.Reach) (sfu.Credentials, error) {
	return turn.call(context.Background(), r, turnUser{user, reach})
}

// Full is sfu.SFU.Full. Where the process does not answer, joining tells what is wrong.
func (r *Relay) Full(room, identity string) string {
	why, err := full.call(context.Background(), r, place{room, identity})
	if err != nil && !errors.Is(err, sfu.ErrNotRunning) {
		r.log.Warn("the call relay's process does not say whether there is room", "err", err)
	}
	return why
}

// Cluster is sfu.SFU.Cluster; the zero value while there is no process.
func (r *Relay) Cluster() sfu.ClusterStatus {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	st, err := cluster.call(ctx, r, none{})
	if err != nil && !errors.Is(err, sfu.ErrNotRunning) {
		r.log.Debug("the call relay's process does not say how its cluster is", "err", err)
	}
	return st
}

// StreamStats is sfu.SFU.StreamStats of the present process; zero while there is none.
func (r *Relay) StreamStats() sfu.StreamStats {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	st, err := streams.call(ctx, r, none{})
	if err != nil && !errors.Is(err, sfu.ErrNotRunning) {
		r.log.Debug("the call relay's process gives no figures", "err", err)
	}
	return st
}

// Calls is sfu.SFU.Calls of the present process. Errors: sfu.ErrNotRunning, sfu.ErrNoCall.
func (r *Relay) Calls(ctx context.Context, room string) ([]sfu.Call, error) {
	return listCalls.call(ctx, r, room)
}

// End is sfu.SFU.End. What it says of tokens holds for the processes to come, too.
// Errors: sfu.ErrNotRunning, sfu.ErrNoCall.
func (r *Relay) End(ctx context.Context, room string) error {
	now := time.Now()
	r.mu.Lock()
	for _, who := range r.mirror.in(room) {
		r.removed[place{room, who}] = now.Add(removedFor)
	}
	r.mu.Unlock()
	_, err := endCall.call(ctx, r, room)
	return err
}

// Hops is sfu.SFU.Hops, in the relay's process. Errors: sfu.ErrNotRunning.
func (r *Relay) Hops(ctx context.Context, t sfu.Trial) ([]sfu.Hop, error) {
	return hops.call(ctx, r, t)
}

// SelfTest is sfu.SFU.SelfTest, in the relay's process. Errors: *sfu.HopError.
func (r *Relay) SelfTest(ctx context.Context) (time.Duration, error) {
	return r.Probe(ctx, sfu.PathUDP)
}

// Probe is SelfTest by a path of choice.
func (r *Relay) Probe(ctx context.Context, path sfu.Path) (time.Duration, error) {
	took, err := probe.call(ctx, r, path)
	var h *sfu.HopError
	if err != nil && !errors.As(err, &h) {
		err = &sfu.HopError{Hop: "start", Err: err}
	}
	return took, err
}

// Participants lists the identities in a room, also those that are away because the
// process ended.
func (r *Relay) Participants(room string) []string { return r.mirror.in(room) }

// Stats returns the present figures.
func (r *Relay) Stats() sfu.Stats { return r.mirror.stats() }

// Subscribe is sfu.SFU.Subscribe. The end of the process is nobody's leave; who does
// not come back after it leaves when the grace has passed.
func (r *Relay) Subscribe(f func(room, identity string, joined bool)) (cancel func()) {
	return r.mirror.subscribe(func(c sfu.Change) {
		if c.Kind == sfu.Joined || c.Kind == sfu.Left {
			f(c.Room, c.Identity, c.Kind == sfu.Joined)
		}
	})
}

// present asks for the ports and addresses; those last known where there is no answer.
func (r *Relay) present() standing {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	st, err := stands.call(ctx, r, none{})
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return standing{}
	}
	if err == nil {
		r.standing = st
	}
	return r.standing
}

// Ports are the ports in use; zero before Start and after Close.
func (r *Relay) Ports() sfu.Ports { return r.present().Ports }

// Addresses are where clients send media to; none before Start and after Close.
func (r *Relay) Addresses() []string { return r.present().Addresses }

// Metrics gathers LiveKit's metrics.
func (r *Relay) Metrics() prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		text, err := metrics.call(ctx, r, none{})
		if err != nil {
			return nil, nil // holdfast_relay_up says it
		}
		p := expfmt.NewTextParser(model.UTF8Validation)
		byName, err := p.TextToMetricFamilies(strings.NewReader(text))
		out := make([]*dto.MetricFamily, 0, len(byName))
		for _, f := range byName {
			out = append(out, f)
		}
		return out, err
	})
}

// Status says how the process is.
func (r *Relay) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Status{Restarts: r.restarts, Reason: r.reason, Draining: r.draining || r.closing}
	if r.child != nil {
		s.Running, s.PID, s.Since = true, r.child.cmd.Process.Pid, r.since
		s.MemoryBytes = resident(s.PID)
	}
	return s
}

// resident is a process's memory as the kernel counts it; 0 if unknown.
func resident(pid int) int64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
