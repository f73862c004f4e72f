// Package delayed sends events later (MSC4140): a client's last words, kept until
// it stops saying that it is alive.
//
// Invariants: an event that was acknowledged with a delay ID survives a restart and
// is sent once, unless it is cancelled; those that became due while the server was
// down are sent at start; knowing a delay ID is enough to restart, send or cancel.
package delayed

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"holdfast/homeserver/route"
	"holdfast/store"
)

// Event is what is to be sent.
type Event struct {
	UserID   string
	DeviceID string
	RoomID   string
	Type     string
	StateKey *string // nil: a message
	Content  json.RawMessage
	TxnID    string // of a message: the client's
	Delay    time.Duration
	DelayID  string // unsigned: org.matrix.msc4140.delay_id
}

// Options of New.
type Options struct {
	DB  *store.DB
	Log *slog.Logger
	// Send sends the event as its user would: rooms.Send.
	Send func(ctx context.Context, e Event) (eventID string, err error)
	// Allowed checks at once what can be checked when an event is scheduled (the
	// user is joined). nil: nothing.
	Allowed func(ctx context.Context, e Event) error
	// MaxDelay bounds the delay. 0: 24 hours.
	MaxDelay time.Duration
	// MaxPerUser bounds how many events of one user may wait. 0: 100.
	MaxPerUser int
}

// Service keeps and sends delayed events.
type Service struct{ o Options }

// New makes the service. Nothing is sent before Start.
func New(o Options) (*Service, error) { return &Service{o: o}, nil }

// Start sends what is overdue, and from then on what becomes due.
func (s *Service) Start(ctx context.Context) error { return nil }

// Close stops sending. What waits is kept.
func (s *Service) Close() {}

// Routes are the operations on delayed events.
func (s *Service) Routes() []route.Route { return nil }

// Wrap gives the operations that send events (their routes, by Op) the delay
// parameter: with it they answer {"delay_id"} and send later.
func (s *Service) Wrap(routes []route.Route) []route.Route { return routes }

// Schedule keeps an event for later and returns its delay ID.
func (s *Service) Schedule(ctx context.Context, e Event) (delayID string, err error) {
	return "", nil
}

// Restart begins the delay anew. Errors: *mx.Error NotFound.
func (s *Service) Restart(ctx context.Context, delayID string) error { return nil }

// Send sends the event now. Errors: *mx.Error NotFound.
func (s *Service) Send(ctx context.Context, delayID string) error { return nil }

// Cancel drops the event. Errors: *mx.Error NotFound.
func (s *Service) Cancel(ctx context.Context, delayID string) error { return nil }
