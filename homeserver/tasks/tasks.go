// Package tasks runs long work beside the requests: in small writes, over restarts,
// with a record of how it went.
//
// Invariants:
//   - A task that was scheduled runs until it ends: after a crash it goes on from the
//     cursor that its last write stored in the same transaction as what it changed.
//   - Tasks of one resource run one after the other, in the order they came.
//   - Between two writes of a task others have their turn: it pauses for as long as
//     the write took.
//   - What is remembered is bounded: tasks that wait or run, and ended ones by age and
//     number.
package tasks

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/store"
)

// Status says how far a task is.
type Status string

// The statuses.
const (
	Scheduled Status = "scheduled" // it waits for its turn
	Active    Status = "active"
	Complete  Status = "complete"
	Cancelled Status = "cancelled" // what it was to work on is gone
	Failed    Status = "failed"
)

// Statuses lists all.
var Statuses = []Status{Scheduled, Active, Complete, Cancelled, Failed}

// Ended reports whether a task of this status does nothing any more.
func (s Status) Ended() bool { return s != Scheduled && s != Active }

// Task is the record of a task.
type Task struct {
	ID       string
	Action   string
	Resource string // what it works on, such as a room ID; "": nothing in particular
	Status   Status
	Changed  int64           // ms, when it came to its status
	Params   json.RawMessage // as they were given
	Cursor   json.RawMessage // how far it has come; nil: nowhere yet
	Result   json.RawMessage // nil: none yet
	Error    string          // why it failed
}

// Bounds of what is remembered.
const (
	maxOpen  = 1000
	maxEnded = 10_000
	keepFor  = 7 * 24 * time.Hour
)

// Bounds of running.
const (
	atOnce    = 2 // tasks that run at the same time
	maxPause  = 200 * time.Millisecond
	firstWait = time.Second // after a failure that may pass
	longest   = 10 * time.Minute
	sweep     = time.Hour // between removals of ended tasks
)

// Options of New.
type Options struct {
	DB  *store.DB
	Log *slog.Logger     // nil: discarded
	Now func() time.Time // nil: time.Now
}

// Func does the work of a task. It is called again, with the cursor where it was, after
// a restart and after an error that is no *mx.Error; such a one makes the task fail,
// ErrGone cancels it.
type Func func(ctx context.Context, r *Run) error

// ErrGone is what a Func returns when what it was to work on is not there any more.
var ErrGone = errors.New("tasks: there is nothing to work on any more")

// Service runs tasks. Its methods are safe for concurrent use.
type Service struct {
	o     Options
	funcs map[string]Func
	wake  chan struct{}
	stop  context.CancelFunc
	done  chan struct{}

	mu      sync.Mutex
	ended   chan struct{} // closed and replaced when a task ends
	running map[string]bool
	busy    map[string]bool // resources
	retry   map[string]retry
}

// retry says when a task that met an error is tried again.
type retry struct {
	at   time.Time
	wait time.Duration
}

// New makes a Service. Actions are to be added before Start.
func New(o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{o: o, funcs: map[string]Func{}, wake: make(chan struct{}, 1), ended: make(chan struct{}),
		running: map[string]bool{}, busy: map[string]bool{}, retry: map[string]retry{}}
}

// Handle says what does the work of an action.
func (s *Service) Handle(action string, f Func) { s.funcs[action] = f }

// Start goes on with what was begun, until Close.
func (s *Service) Start(ctx context.Context) {
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.done = make(chan struct{})
	go s.run(ctx)
}

// Close ends what runs, where it is.
func (s *Service) Close() {
	if s.stop != nil {
		s.stop()
		<-s.done
	}
}

// Schedule has an action done. params are for it to read. Errors: LimitExceeded when
// very many wait; *mx.Error InvalidParam with already as its message if such a task of
// the same resource waits or runs, unless already is "".
func (s *Service) Schedule(ctx context.Context, action, resource string, params any, already string) (id string, err error) {
	if s.funcs[action] == nil {
		return "", errors.New("tasks: nothing does " + action)
	}
	raw, err := json.Marshal(params)
	if err != nil {
		return "", err
	}
	t := Task{ID: rand.Text()[:16], Action: action, Resource: resource, Status: Scheduled, Params: raw}
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		n, err := countOpen(tx)
		if err != nil {
			return err
		}
		if n >= maxOpen {
			return &mx.Error{Code: mx.LimitExceeded, Msg: "Too much work waits already. Try again when some of it is done.", RetryAfter: time.Minute}
		}
		if already != "" {
			yes, err := hasOpen(tx, action, resource)
			if err != nil {
				return err
			}
			if yes {
				return mx.Errorf(mx.InvalidParam, "%s", already)
			}
		}
		t.Changed = s.o.Now().UnixMilli()
		return insert(tx, tx.NextPos(), t)
	})
	if err != nil {
		return "", err
	}
	s.poke()
	return t.ID, nil
}

// Get is a task. Errors: store.ErrNotFound.
func (s *Service) Get(q store.Querier, id string) (Task, error) { return load(q, id) }

// Filter selects tasks. Empty fields select all.
type Filter struct {
	Action, Resource string
	Status           Status
	Before           int64 // ms; 0: any time
}

// List lists tasks, the newest first.
func (s *Service) List(q store.Querier, f Filter) ([]Task, error) { return list(q, f) }

// Wait returns a task once it has ended. Errors: store.ErrNotFound, and those of ctx.
func (s *Service) Wait(ctx context.Context, id string) (t Task, err error) {
	for {
		s.mu.Lock()
		ended := s.ended
		s.mu.Unlock()
		err := s.o.DB.Read(ctx, func(q store.Querier) (err error) {
			t, err = load(q, id)
			return err
		})
		if err != nil || t.Status.Ended() {
			return t, err
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return t, ctx.Err()
		case <-s.done:
			return t, store.ErrClosed
		}
	}
}

func (s *Service) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run starts tasks when it is their turn.
func (s *Service) run(ctx context.Context) {
	defer close(s.done)
	var working sync.WaitGroup
	defer working.Wait()
	var swept time.Time
	for {
		if now := s.o.Now(); now.Sub(swept) >= sweep {
			swept = now
			if err := s.o.DB.Write(ctx, func(tx *store.Tx) error { return expire(tx, now.Add(-keepFor).UnixMilli(), maxEnded) }); err != nil && ctx.Err() == nil {
				s.o.Log.Warn("records of old background tasks were not removed", "err", err)
			}
		}
		wait, err := s.begin(ctx, &working)
		if err != nil && ctx.Err() == nil {
			s.o.Log.Error("background tasks could not be started; it is tried again", "err", err)
			wait = firstWait
		}
		timer := time.NewTimer(min(wait, sweep))
		select {
		case <-s.wake:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// begin starts the tasks that can run now, and says after which time to look again.
func (s *Service) begin(ctx context.Context, working *sync.WaitGroup) (wait time.Duration, err error) {
	var open []Task
	if err := s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		open, err = listOpen(q)
		return err
	}); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	wait = sweep
	before := map[string]bool{} // resources with an older task that is not done
	now := time.Now()
	for _, t := range open {
		mine := !s.busy[t.Resource] && !before[t.Resource]
		if t.Resource != "" {
			before[t.Resource] = true
		} else {
			mine = true
		}
		if s.running[t.ID] || !mine || len(s.running) >= atOnce || s.funcs[t.Action] == nil {
			continue
		}
		if at := s.retry[t.ID].at; at.After(now) {
			wait = min(wait, at.Sub(now))
			continue
		}
		s.running[t.ID] = true
		if t.Resource != "" {
			s.busy[t.Resource] = true
		}
		working.Go(func() {
			s.work(ctx, t)
			s.mu.Lock()
			delete(s.running, t.ID)
			delete(s.busy, t.Resource)
			close(s.ended)
			s.ended = make(chan struct{})
			s.mu.Unlock()
			s.poke()
		})
	}
	return wait, nil
}

// work runs a task until it has ended, or an error may pass, or ctx ends.
func (s *Service) work(ctx context.Context, t Task) {
	r := &Run{s: s, Task: t}
	if t.Status == Scheduled {
		if err := s.o.DB.Write(ctx, func(tx *store.Tx) error { return setStatus(tx, t.ID, Active, s.o.Now().UnixMilli(), "") }); err != nil {
			s.again(ctx, t, err)
			return
		}
	}
	err := s.funcs[t.Action](ctx, r)
	status, text := Complete, ""
	var refusal *mx.Error
	switch {
	case err == nil:
	case errors.Is(err, ErrGone):
		status = Cancelled
	case errors.As(err, &refusal) && ctx.Err() == nil:
		status, text = Failed, refusal.Msg
	default:
		s.again(ctx, t, err)
		return
	}
	if err := s.o.DB.Write(ctx, func(tx *store.Tx) error {
		return setStatus(tx, t.ID, status, s.o.Now().UnixMilli(), text)
	}); err != nil {
		s.again(ctx, t, err)
		return
	}
	s.mu.Lock()
	delete(s.retry, t.ID)
	s.mu.Unlock()
	s.o.Log.Info("a background task has ended", "id", t.ID, "action", t.Action, "resource", t.Resource, "status", string(status), "err", text)
}

// again notes that a task is to be tried again, at longer and longer intervals.
func (s *Service) again(ctx context.Context, t Task, err error) {
	if ctx.Err() != nil || errors.Is(err, store.ErrClosed) {
		return
	}
	s.mu.Lock()
	wait := s.retry[t.ID].wait * 2
	wait = min(max(wait, firstWait), longest)
	s.retry[t.ID] = retry{time.Now().Add(wait), wait}
	s.mu.Unlock()
	s.o.Log.Error("a background task met an error; it is tried again", "id", t.ID, "action", t.Action, "resource", t.Resource, "after", wait, "err", err)
}

// Run is a task at work.
type Run struct {
	Task
	s *Service
}

// Read decodes the task's parameters.
func (r *Run) Read(params any) error { return json.Unmarshal(r.Params, params) }

// Resume decodes the cursor. It is left as it is where nothing was stored yet.
func (r *Run) Resume(cursor any) error {
	if len(r.Cursor) == 0 {
		return nil
	}
	return json.Unmarshal(r.Cursor, cursor)
}

// Save stores the cursor, and the result so far unless it is nil, with what tx changes.
func (r *Run) Save(tx *store.Tx, cursor, result any) error {
	c, err := json.Marshal(cursor)
	if err != nil {
		return err
	}
	var res []byte
	if result != nil {
		if res, err = json.Marshal(result); err != nil {
			return err
		}
	}
	return saveProgress(tx, r.ID, c, res)
}

// Write does a part of the work, which should take some milliseconds. change stores the
// cursor with Save. Afterwards others have their turn.
func (r *Run) Write(ctx context.Context, change func(tx *store.Tx) error) error {
	var took time.Duration
	err := r.s.o.DB.Write(ctx, func(tx *store.Tx) error {
		start := time.Now()
		defer func() { took = time.Since(start) }()
		return change(tx)
	})
	if err != nil {
		return err
	}
	return r.Pause(ctx, took)
}

// Pause lets others have their turn after something that took so long. Errors: those of ctx.
func (r *Run) Pause(ctx context.Context, took time.Duration) error {
	timer := time.NewTimer(min(max(took, time.Millisecond), maxPause))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
