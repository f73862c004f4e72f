// Package delayed sends events later (MSC4140): a client's last words, kept until
// it stops saying that it is alive.
//
// Invariants: an event that was acknowledged with a delay ID survives a restart and
// is sent once, unless it is cancelled; those that became due while the server was
// down are sent at start, in the order they were due; what may be sent is judged
// when it is sent; under the unstable paths, knowing a delay ID is enough to
// restart, send or cancel, so delay IDs are secrets of 128 bits and not logged.
package delayed

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"hash/maphash"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/store"
	"holdfast/store/sealed"
)

// Event is what is to be sent.
type Event struct {
	UserID    string
	DeviceID  string // "" for an application service
	RoomID    string
	Type      string
	StateKey  *string // nil: a message
	Content   json.RawMessage
	Timestamp int64 // ms, of an application service that sets it; 0: the time of sending
	Delay     time.Duration

	// Set by this package, for Options.Send.
	DelayID string // for unsigned, "org.matrix.msc4140.delay_id", to the sender only
	TxnID   string // makes a repeated Send find the event it made before
}

const txnPrefix = "org.matrix.msc4140:"

// Limits that have no option.
const (
	maxContent     = 64 << 10 // bytes
	keepFinalised  = 7 * 24 * time.Hour
	keepPerUser    = 1000
	retryDelay     = 5 * time.Second // after the store could not be written
	pruneInterval  = time.Hour
	dueAtATime     = 50
	defaultMax     = 7 * 24 * time.Hour
	defaultPerUser = 100
)

// Options of New.
type Options struct {
	DB      *store.DB
	Secrets *sealed.Box // seals delay IDs: who has one may act on its event
	Log     *slog.Logger
	// Send sends the event as its user would, and only once for a TxnID: rooms.Send.
	Send func(ctx context.Context, e Event) (eventID string, err error)
	// IsJoined tells whether a user is joined to a room: rooms.IsJoined. Events are
	// scheduled by members only. nil: anybody may.
	IsJoined func(q store.Querier, roomID, userID string) (bool, error)
	// MaxDelay bounds the delay. 0: 7 days.
	MaxDelay time.Duration
	// MaxPerUser bounds how many events of one user may wait. 0: 100.
	MaxPerUser int
}

// Service keeps and sends delayed events.
type Service struct {
	o    Options
	wake chan struct{} // a sooner event was scheduled
	stop context.CancelFunc
	done chan struct{}

	// An event is restarted, sent or cancelled by one at a time.
	locks [64]sync.Mutex
	seed  maphash.Seed
}

// New makes the service. Nothing is sent before Start.
func New(o Options) (*Service, error) {
	if o.DB == nil || o.Secrets == nil || o.Send == nil {
		return nil, errors.New("delayed: DB, Secrets and Send are needed")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxDelay == 0 {
		o.MaxDelay = defaultMax
	}
	if o.MaxPerUser == 0 {
		o.MaxPerUser = defaultPerUser
	}
	return &Service{o: o, wake: make(chan struct{}, 1), seed: maphash.MakeSeed()}, nil
}

// Start sends what is overdue, and from then on what becomes due, until Close.
func (s *Service) Start(ctx context.Context) error {
	if s.stop != nil {
		return errors.New("delayed: started before")
	}
	if err := s.sealIDs(ctx); err != nil {
		return err
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.done = make(chan struct{})
	go s.run(ctx)
	return nil
}

// Close stops sending and waits for what is being sent. What waits is kept.
func (s *Service) Close() {
	if s.stop != nil {
		s.stop()
		<-s.done
	}
}

// Limits are the bounds that clients are told in the capability
// m.delayed_events.
func (s *Service) Limits() (maxDelay time.Duration, maxScheduled int) {
	return s.o.MaxDelay, s.o.MaxPerUser
}

func (s *Service) run(ctx context.Context) {
	defer close(s.done)
	var pruned time.Time
	for ctx.Err() == nil {
		if time.Since(pruned) >= pruneInterval {
			pruned = time.Now()
			if err := s.o.DB.Write(ctx, func(tx *store.Tx) error { return prune(tx, ms(pruned.Add(-keepFinalised))) }); err != nil {
				s.o.Log.Warn("old delayed events could not be removed", "err", err)
			}
		}
		wait, err := s.sendDue(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			s.o.Log.Error("delayed events are late; trying again", "err", err)
			wait = retryDelay
		}
		t := time.NewTimer(min(wait, pruneInterval))
		select {
		case <-t.C:
		case <-s.wake:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// sendDue sends what is due and returns the time until the next one.
func (s *Service) sendDue(ctx context.Context) (time.Duration, error) {
	for {
		var due []dueEvent
		err := s.o.DB.Read(ctx, func(q store.Querier) (err error) {
			due, err = s.listDue(q, dueAtATime)
			return err
		})
		if err != nil {
			return 0, err
		}
		for _, d := range due {
			if wait := time.Until(time.UnixMilli(d.ts)); wait > 0 {
				return wait, nil
			}
			if err := s.fire(ctx, d.id); err != nil {
				return 0, err
			}
		}
		if len(due) < dueAtATime {
			return pruneInterval, nil
		}
	}
}

// fire sends an event whose time has come, unless that has changed meanwhile. An
// event that is refused is done with; other errors are returned, and it stays.
func (s *Service) fire(ctx context.Context, id string) error {
	defer s.lock(id)()
	r, err := s.load(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if r.dueTS == 0 || r.dueTS > ms(time.Now()) {
		return nil
	}
	eventID, err := s.o.Send(ctx, r.Event)
	var refused *mx.Error
	switch {
	case err == nil:
		return s.finalise(ctx, r, eventID, nil)
	case errors.As(err, &refused):
		s.o.Log.Info("a delayed event was refused when it was due", "room", r.RoomID, "type", r.Type, "err", err)
		return s.finalise(ctx, r, "", refused)
	}
	return err
}

func (s *Service) finalise(ctx context.Context, r row, eventID string, refused *mx.Error) error {
	failure := ""
	if refused != nil {
		b, err := json.Marshal(map[string]any{"errcode": refused.Code, "error": refused.Msg})
		if err != nil {
			return err
		}
		failure = string(b)
	}
	// The event is sent: that is noted even if the caller has gone.
	return s.o.DB.Write(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		if err := s.noteFinal(tx, r.DelayID, ms(time.Now()), eventID, failure); err != nil {
			return err
		}
		return pruneUser(tx, r.UserID, keepPerUser)
	})
}

// Schedule keeps an event for later and returns its delay ID. request names the
// client's request, so that its retry gets the same delay ID; "" for none. What is
// checked now is the content's form, the limits, and that the user is in the room.
// Errors: *mx.Error.
func (s *Service) Schedule(ctx context.Context, e Event, request string) (delayID string, err error) {
	if e.Delay <= 0 {
		return "", mx.Errorf(mx.InvalidParam, "The delay must be a positive number of milliseconds.")
	}
	if e.Delay > s.o.MaxDelay {
		return "", &mx.Error{Code: mx.MaxDelayExceeded, Status: http.StatusBadRequest, Msg: "The delay is longer than this server allows."}
	}
	if len(e.Content) > maxContent {
		return "", mx.Errorf(mx.TooLarge, "The event's content is larger than %d bytes.", maxContent)
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(e.Content, &object); err != nil || object == nil {
		return "", mx.Errorf(mx.BadJSON, "The event's content must be a JSON object.")
	}
	e.DelayID = rand.Text()
	now := time.Now()
	delayID = e.DelayID
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if request != "" {
			switch id, err := s.byRequest(tx, e.UserID, e.DeviceID, request); {
			case err == nil:
				delayID = id
				return nil
			case !errors.Is(err, store.ErrNotFound):
				return err
			}
		}
		if s.o.IsJoined != nil {
			if in, err := s.o.IsJoined(tx, e.RoomID, e.UserID); err != nil {
				return err
			} else if !in {
				return mx.Errorf(mx.Forbidden, "You are not in this room.")
			}
		}
		n, next, err := waiting(tx, e.UserID)
		if err != nil {
			return err
		}
		if n >= s.o.MaxPerUser {
			return &mx.Error{Code: mx.LimitExceeded, Status: http.StatusTooManyRequests,
				Msg:        "Too many of your events wait to be sent. Cancel one, or wait until one is sent.",
				RetryAfter: max(time.UnixMilli(next).Sub(now), time.Second)}
		}
		return s.insert(tx, e, request, ms(now))
	})
	if err != nil {
		return "", err
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return delayID, nil
}

// outcome of an event that is finalised.
func (r row) outcome() string {
	switch {
	case r.dueTS != 0:
		return ""
	case r.eventID != "":
		return "send"
	}
	return "cancel"
}

// errDone means that an event was sent or cancelled before.
var errDone = errors.New("delayed: the event was sent or cancelled before")

func notFound() error {
	return mx.Errorf(mx.NotFound, "There is no such delayed event, or it was sent or cancelled before.")
}

// Restart begins the delay anew. Errors: *mx.Error NotFound, also when the event
// was sent or cancelled.
func (s *Service) Restart(ctx context.Context, delayID string) error {
	return lost(s.act(ctx, delayID, "", "restart"))
}

// Send sends the event now. An event that was sent before stays sent once.
// Errors: *mx.Error NotFound, also when the event was cancelled; or the one that
// the event is refused with: then it still waits.
func (s *Service) Send(ctx context.Context, delayID string) error {
	return lost(s.act(ctx, delayID, "", "send"))
}

// Cancel drops the event. Errors: *mx.Error NotFound, also when the event was sent.
func (s *Service) Cancel(ctx context.Context, delayID string) error {
	return lost(s.act(ctx, delayID, "", "cancel"))
}

// Waiting tells whose event it is that waits, for which room, and its delay.
// Errors: *mx.Error NotFound, also when it was sent or cancelled.
func (s *Service) Waiting(ctx context.Context, delayID string) (userID, roomID string, delay time.Duration, err error) {
	r, err := s.load(ctx, delayID)
	if errors.Is(err, store.ErrNotFound) || (err == nil && r.dueTS == 0) {
		return "", "", 0, notFound()
	}
	return r.UserID, r.RoomID, r.Delay, err
}

func lost(err error) error {
	if errors.Is(err, errDone) {
		return notFound()
	}
	return err
}

// act does what a client asks. owner "" asks nobody's leave. Errors: errDone where
// the event was finalised otherwise, *mx.Error.
func (s *Service) act(ctx context.Context, id, owner, action string) error {
	defer s.lock(id)()
	r, err := s.load(ctx, id)
	if errors.Is(err, store.ErrNotFound) || (err == nil && owner != "" && r.UserID != owner) {
		return notFound()
	}
	if err != nil {
		return err
	}
	if got := r.outcome(); got == action {
		return nil // the same was asked before
	} else if got != "" {
		return errDone
	}
	switch action {
	case "restart":
		return s.o.DB.Write(ctx, func(tx *store.Tx) error { return s.updateRestarted(tx, id, ms(time.Now())) })
	case "cancel":
		return s.finalise(ctx, r, "", nil)
	case "send":
		eventID, err := s.o.Send(ctx, r.Event)
		if err != nil {
			return err
		}
		return s.finalise(ctx, r, eventID, nil)
	}
	return mx.Errorf(mx.InvalidParam, "The action must be send, cancel or restart.")
}

// Drop forgets a user's delayed events, as when the account is closed.
func (s *Service) Drop(tx *store.Tx, userID string) error {
	_, err := tx.Exec(deleteUserSQL, userID)
	return err
}

// DeleteRoom drops the events that wait for a room that is gone, and those that were
// sent, at most limit at once, and tells how many.
func (s *Service) DeleteRoom(tx *store.Tx, roomID string, limit int) (int64, error) {
	return tx.Exec(deleteRoomSQL, roomID, limit)
}

func (s *Service) load(ctx context.Context, id string) (r row, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		r, err = s.loadRow(q, id)
		return err
	})
	return r, err
}

func (s *Service) lock(id string) (unlock func()) {
	m := &s.locks[maphash.String(s.seed, id)%uint64(len(s.locks))]
	m.Lock()
	return m.Unlock
}

func ms(t time.Time) int64         { return t.UnixMilli() }
func fromMS(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
