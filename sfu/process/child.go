package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"holdfast/sfu"
)

// name is what the relay's process is called in lists of processes, and how a
// program knows that it is one.
const name = "holdfast-relay"

// The files that the relay's process inherits.
const (
	controlFD = 3 // line
	connsFD   = 4 // clients' connections
)

// setup is the first message to the relay's process.
type setup struct {
	Options sfu.Options
	Level   slog.Level
	// MemoryLimit is the soft limit of the Go runtime.
	MemoryLimit int64
	// Rooms and Removed are from before the process that ended.
	Rooms   []string
	Removed []place
}

// standing is the relay's answer once it runs.
type standing struct {
	Ports     sfu.Ports
	Addresses []string
}

// A program that links this package is the relay where it is called by its name, so
// that a test's program is one too. Nothing of the program itself has run by then.
func init() {
	if len(os.Args) == 1 && os.Args[0] == name {
		os.Exit(serve())
	}
}

// serve is the relay's process.
func serve() int {
	// A terminal and a service manager send these to all processes. The house says
	// when to stop; and it ends with the house.
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	os.WriteFile("/proc/self/comm", []byte(name), 0) // else it is called "exe", as it was started by
	// Where memory runs out, calls end before chat does.
	os.WriteFile("/proc/self/oom_score_adj", []byte("300"), 0)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(60) // memory of participants is what it has most of
	}
	control, err := fileConn(os.NewFile(controlFD, "control"))
	if err == nil {
		var conns *net.UnixConn
		if conns, err = fileConn(os.NewFile(connsFD, "connections")); err == nil {
			err = relay(newLine(control), conns)
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// relay runs the relay until the house closes the line.
func relay(l *line, conns *net.UnixConn) error {
	m, err := l.read()
	if err != nil {
		return err
	}
	var in setup
	if err := json.Unmarshal(m.Body, &in); err != nil {
		return err
	}
	if in.MemoryLimit > 0 {
		debug.SetMemoryLimit(in.MemoryLimit)
	}
	in.Options.Log = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: in.Level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration { // JSON's is a number, of which the house does not know the unit
			a.Value = slog.StringValue(a.Value.Duration().String())
		}
		return a
	}}))
	s, err := sfu.New(in.Options)
	if err == nil {
		s.Follow(func(c sfu.Change) {
			if l.write(&message{Change: &c}) != nil {
				os.Exit(1) // the house is gone, or would not know any more who is where
			}
		})
		err = s.Start(context.Background())
	}
	if err != nil {
		l.write(&message{Err: toFailure(err)})
		return nil
	}
	for _, at := range in.Removed {
		s.Remove(at.Room, at.Identity)
	}
	for _, room := range in.Rooms {
		if err := s.EnsureRoom(context.Background(), room); err != nil {
			in.Options.Log.Warn("a call could not be made again", "err", err)
		}
	}
	body, err := json.Marshal(standing{s.Ports(), s.Addresses()})
	if err != nil {
		return err
	}
	if err := l.write(&message{Body: body}); err != nil {
		return err
	}
	go accept(s, conns)
	return answer(s, l)
}

// accept takes clients' connections.
func accept(s *sfu.SFU, conns *net.UnixConn) {
	signalling := newQueue()
	srv := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 30 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if h, ok := c.(*handed); ok {
				ctx = sfu.WithReach(ctx, h.reach)
			}
			return ctx
		}}
	go srv.Serve(signalling)
	for {
		p, c, err := take(conns)
		switch {
		case errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF):
			return
		case err != nil:
			fmt.Fprintln(os.Stderr, "the call relay cannot take a client's connection:", err)
			os.Exit(1)
		case p.Kind == kindSignal:
			signalling.put(c)
		case p.Kind == kindTURN:
			s.ServeTURN(c)
		default:
			c.Close()
		}
	}
}

// answer does what the house asks for, until it closes the line.
func answer(s *sfu.SFU, l *line) error {
	var mu sync.Mutex
	running := map[uint64]context.CancelFunc{}
	for {
		m, err := l.read()
		if err != nil {
			return err
		}
		if m.Cancel {
			mu.Lock()
			if cancel := running[m.ID]; cancel != nil {
				cancel()
			}
			mu.Unlock()
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		if m.Within > 0 {
			ctx, cancel = context.WithTimeout(context.Background(), m.Within)
		}
		mu.Lock()
		running[m.ID] = cancel
		mu.Unlock()
		go func() {
			defer cancel()
			a := &message{ID: m.ID}
			var out any
			err := fmt.Errorf("the call relay has no method %q", m.Call)
			if f := methods[m.Call]; f != nil {
				out, err = f(ctx, s, m.Body)
			}
			if err == nil {
				a.Body, err = json.Marshal(out)
			}
			if err != nil {
				a.Body, a.Err = nil, toFailure(err)
			}
			mu.Lock()
			delete(running, m.ID)
			mu.Unlock()
			if err := l.write(a); err != nil && a.Err == nil {
				l.write(&message{ID: m.ID, Err: toFailure(err)}) // it was too long
			}
		}()
	}
}

var ownGatherer = sync.OnceValue(ownMetrics)

// gather is the relay's metrics in Prometheus' text format.
func gather() (string, error) {
	families, err := prometheus.Gatherers{sfu.Metrics(), ownGatherer()}.Gather()
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}
