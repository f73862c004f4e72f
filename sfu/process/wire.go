package process

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"holdfast/sfu"
)

// The two processes talk over a socket pair, one JSON object a line. The house calls
// methods of the relay, each of which is answered; the relay tells of changes, in
// their order.

// message is a line, either way.
type message struct {
	ID     uint64          `json:"id,omitempty"`     // of a call and its answer
	Call   string          `json:"call,omitempty"`   // name of a method
	Cancel bool            `json:"cancel,omitempty"` // the call with this ID is not waited for any more
	Within time.Duration   `json:"within,omitempty"` // what is left of the call's time, in ns; 0: no limit
	Body   json.RawMessage `json:"body,omitempty"`   // argument or result
	Err    *failure        `json:"error,omitempty"`
	Change *sfu.Change     `json:"change,omitempty"`
}

// maxLine bounds a message, in bytes: a full server's list of who is where fits.
const maxLine = 16 << 20

// writeTime is how long the other side may take to make room for a message.
const writeTime = 10 * time.Second

// failure is an error on its way between the processes.
type failure struct {
	Kind    string `json:"kind,omitempty"` // a key of known
	Hop     string `json:"hop,omitempty"`  // of a *sfu.HopError
	Message string `json:"message"`
}

// known are the errors that callers tell apart.
var known = map[string]error{
	"not_running":    sfu.ErrNotRunning,
	"draining":       sfu.ErrDraining,
	"too_many_rooms": sfu.ErrTooManyRooms,
	"call_full":      sfu.ErrCallFull,
	"no_call":        sfu.ErrNoCall,
	"cancelled":      context.Canceled,
	"deadline":       context.DeadlineExceeded,
}

func toFailure(err error) *failure {
	f := &failure{Message: err.Error()}
	var h *sfu.HopError
	if errors.As(err, &h) {
		f.Hop, f.Message = h.Hop, h.Err.Error()
	}
	for kind, k := range known {
		if errors.Is(err, k) {
			f.Kind = kind
		}
	}
	return f
}

// remoteError is an error of the other process.
type remoteError struct {
	msg  string
	kind error
}

func (e *remoteError) Error() string { return e.msg }
func (e *remoteError) Unwrap() error { return e.kind }

func (f *failure) err() error {
	var err error = &remoteError{f.Message, known[f.Kind]}
	if f.Hop != "" {
		err = &sfu.HopError{Hop: f.Hop, Err: err}
	}
	return err
}

// method is one method of the relay that the house can call. Package variables made
// by register are the list of them, for both sides.
type method[In, Out any] struct{ name string }

// none is no argument, or no result.
type none struct{}

// methods are what the relay's process answers.
var methods = map[string]func(ctx context.Context, s *sfu.SFU, body json.RawMessage) (any, error){}

func register[In, Out any](name string, f func(ctx context.Context, s *sfu.SFU, in In) (Out, error)) method[In, Out] {
	methods[name] = func(ctx context.Context, s *sfu.SFU, body json.RawMessage) (any, error) {
		var in In
		if err := json.Unmarshal(body, &in); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return f(ctx, s, in)
	}
	return method[In, Out]{name}
}

// call has the relay's process do it. It waits for one that is being started, and
// asks again where the process ends meanwhile. Errors: sfu.ErrNotRunning.
func (m method[In, Out]) call(ctx context.Context, r *Relay, in In) (out Out, err error) {
	for range 2 {
		var c *child
		if c, err = r.running(ctx); err != nil {
			return out, err
		}
		var body json.RawMessage
		if body, err = json.Marshal(in); err != nil {
			return out, err
		}
		if body, err = c.line.call(ctx, m.name, body); err == nil {
			return out, json.Unmarshal(body, &out)
		}
		if !errors.Is(err, errGone) {
			return out, err
		}
		if err := c.await(ctx); err != nil {
			return out, err
		}
	}
	return out, sfu.ErrNotRunning
}

var errGone = errors.New("the call relay's process ended")

// line is an end of the socket pair.
type line struct {
	conn net.Conn
	in   *bufio.Reader

	writing sync.Mutex

	mu      sync.Mutex
	last    uint64
	pending map[uint64]chan *message // the house's calls; nil: the other side is gone
}

func newLine(c net.Conn) *line {
	return &line{conn: c, in: bufio.NewReaderSize(c, 16<<10), pending: map[uint64]chan *message{}}
}

func (l *line) write(m *message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(b) >= maxLine {
		return fmt.Errorf("a message of %d bytes between the processes is too long", len(b))
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	l.conn.SetWriteDeadline(time.Now().Add(writeTime))
	_, err = l.conn.Write(append(b, '\n'))
	return err
}

// read returns the next message.
func (l *line) read() (*message, error) {
	var b []byte
	for {
		part, err := l.in.ReadSlice('\n')
		b = append(b, part...)
		if len(b) > maxLine {
			return nil, fmt.Errorf("a message between the processes is longer than %d bytes", maxLine)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
	m := &message{}
	return m, json.Unmarshal(b, m)
}

// call asks the other side and waits for the answer. Errors: errGone, those of ctx,
// and the other side's.
func (l *line) call(ctx context.Context, name string, body json.RawMessage) (json.RawMessage, error) {
	m := &message{Call: name, Body: body}
	if end, ok := ctx.Deadline(); ok {
		if m.Within = time.Until(end); m.Within <= 0 {
			return nil, context.DeadlineExceeded
		}
	}
	answer := make(chan *message, 1)
	l.mu.Lock()
	if l.pending == nil {
		l.mu.Unlock()
		return nil, errGone
	}
	l.last++
	m.ID = l.last
	l.pending[m.ID] = answer
	l.mu.Unlock()
	defer l.forget(m.ID)
	if err := l.write(m); err != nil {
		return nil, fmt.Errorf("%w: %w", errGone, err)
	}
	select {
	case a := <-answer:
		switch {
		case a == nil:
			return nil, errGone
		case a.Err != nil:
			return nil, a.Err.err()
		}
		return a.Body, nil
	case <-ctx.Done():
		l.write(&message{ID: m.ID, Cancel: true})
		return nil, ctx.Err()
	}
}

func (l *line) forget(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pending, id) // also of a nil map
}

// answered hands an answer to who waits for it.
func (l *line) answered(m *message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.pending[m.ID]; c != nil {
		delete(l.pending, m.ID)
		c <- m
	}
}

// end closes the line; who waits for an answer learns of it.
func (l *line) end() {
	l.conn.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.pending {
		close(c)
	}
	l.pending = nil
}
