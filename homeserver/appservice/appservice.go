package appservice

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// Event is an event as it is pushed.
type Event struct {
	Pos      int64
	RoomID   string
	Sender   string
	Type     string
	StateKey *string
	JSON     mx.Raw // the format of the client-server API
}

// Rooms is what the service reads of the rooms.
type Rooms interface {
	// EventsAfter lists the events after a position, in order, at most limit.
	EventsAfter(q store.Querier, pos int64, limit int) ([]Event, error)
	// Members lists the users with a membership in a room.
	Members(q store.Querier, roomID, membership string) ([]string, error)
	// Aliases lists a room's local aliases.
	Aliases(q store.Querier, roomID string) ([]string, error)
}

// Options of New.
type Options struct {
	ServerName    string
	DB            *store.DB
	Rooms         Rooms
	Log           *slog.Logger
	Registrations []Registration
	Client        *http.Client // nil: one with a time-out of 30 s
}

// Service knows the registered application services.
type Service struct {
	o    Options
	apps []*app
	stop context.CancelFunc
	wg   sync.WaitGroup
}

type app struct {
	Registration
	sender string
	token  [sha256.Size]byte // of the as_token
	wake   chan struct{}

	// Owned by the goroutine that pushes.
	loaded bool
	cursor cursor
	saved  int64 // cursor.pos on disk
}

// New prepares the service; Start begins to push.
func New(o Options) *Service {
	if o.Client == nil {
		o.Client = &http.Client{Timeout: 30 * time.Second}
	}
	s := &Service{o: o}
	for _, r := range o.Registrations {
		s.apps = append(s.apps, &app{
			Registration: r,
			sender:       mx.UserID(r.SenderLocalpart, o.ServerName),
			token:        sha256.Sum256([]byte(r.ASToken)),
			wake:         make(chan struct{}, 1),
		})
	}
	return s
}

// Authenticate implements route.Appservices. Spec: as#identity-assertion
func (s *Service) Authenticate(token, asUserID, asDeviceID string) (route.Principal, bool, error) {
	sum := sha256.Sum256([]byte(token))
	for _, a := range s.apps {
		if a.token != sum {
			continue
		}
		p := route.Principal{UserID: a.sender, DeviceID: asDeviceID, Appservice: a.ID}
		if asUserID != "" {
			if !s.owns(a, asUserID) {
				return p, true, mx.Errorf(mx.Forbidden, "The application service %s may not act as %s: it is in none of its user namespaces.", a.ID, asUserID)
			}
			p.UserID = asUserID
		}
		return p, true, nil
	}
	return route.Principal{}, false, nil
}

func (s *Service) owns(a *app, userID string) bool {
	if !strings.HasSuffix(userID, ":"+s.o.ServerName) {
		return false
	}
	return userID == a.sender || matchesAny(a.Namespaces.Users, userID)
}

// Owns reports whether a service may act as a user.
func (s *Service) Owns(id, userID string) bool {
	for _, a := range s.apps {
		if a.ID == id {
			return s.owns(a, userID)
		}
	}
	return false
}

// Reserved reports whether a localpart belongs to a service alone: its sender or
// a name in an exclusive namespace. Spec: as#registration
func (s *Service) Reserved(localpart string) bool {
	id := mx.UserID(localpart, s.o.ServerName)
	for _, a := range s.apps {
		if id == a.sender {
			return true
		}
		for _, n := range a.Namespaces.Users {
			if n.Exclusive && n.matches(id) {
				return true
			}
		}
	}
	return false
}

// AliasReserved reports whether an alias belongs to another service than by.
func (s *Service) AliasReserved(alias, by string) bool {
	for _, a := range s.apps {
		if a.ID == by {
			continue
		}
		for _, n := range a.Namespaces.Aliases {
			if n.Exclusive && n.matches(alias) {
				return true
			}
		}
	}
	return false
}

func matchesAny(list []Namespace, s string) bool {
	for _, n := range list {
		if n.matches(s) {
			return true
		}
	}
	return false
}

// Routes are the operations that only application services use.
func (s *Service) Routes() []route.Route {
	return []route.Route{{
		Op: "pingAppservice", Auth: route.User, Limit: route.Unlimited,
		Pattern: "POST /_matrix/client/v1/appservice/{appserviceID}/ping",
		Aliases: []string{"/_matrix/client/unstable/fi.mau.msc2659/appservice/{appserviceID}/ping"},
		Handle:  route.JSON(s.ping),
	}}
}

type pingRequest struct {
	TransactionID string `json:"transaction_id,omitempty"`
}

type pingResponse struct {
	DurationMS int64 `json:"duration_ms"`
}

// ping asks the service whether it hears us. Spec: cs#post_matrixclientv1appserviceappserviceidping
func (s *Service) ping(ctx context.Context, r *route.Request, in pingRequest) (pingResponse, error) {
	if r.Appservice == "" || r.Appservice != r.Param("appserviceID") {
		return pingResponse{}, mx.Errorf(mx.Forbidden, "Only the application service %q itself may ask for its ping.", r.Param("appserviceID"))
	}
	var a *app
	for _, c := range s.apps {
		if c.ID == r.Appservice {
			a = c
		}
	}
	if a.URL == "" {
		return pingResponse{}, &mx.Error{Code: "M_URL_NOT_SET", Msg: "The registration of this application service has no url."}
	}
	start := time.Now()
	status, body, err := s.call(ctx, a, http.MethodPost, "/_matrix/app/v1/ping", in)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return pingResponse{}, &mx.Error{Code: "M_CONNECTION_TIMEOUT", Msg: "The application service did not answer in time.", Status: http.StatusGatewayTimeout, Err: err}
	case err != nil:
		return pingResponse{}, &mx.Error{Code: "M_CONNECTION_FAILED", Msg: "The application service could not be reached at its url.", Status: http.StatusBadGateway, Err: err}
	case status/100 != 2:
		return pingResponse{}, &mx.Error{Code: "M_BAD_STATUS", Msg: fmt.Sprintf("The application service answered %d.", status), Status: http.StatusBadGateway,
			Fields: map[string]any{"status": status, "body": string(body)}}
	}
	return pingResponse{time.Since(start).Milliseconds()}, nil
}

// maxAnswer bounds what is read of a service's answer, in bytes.
const maxAnswer = 64 << 10

func (s *Service) call(ctx context.Context, a *app, method, path string, body any) (status int, answer []byte, err error) {
	b, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, a.URL+path, bytes.NewReader(b))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+a.HSToken)
	resp, err := s.o.Client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp.StatusCode, answer, err
}

// Start begins to push. A service that is seen for the first time gets what
// happens from now on.
func (s *Service) Start(ctx context.Context) {
	ctx, s.stop = context.WithCancel(ctx)
	pushed := false
	for _, a := range s.apps {
		if a.URL == "" {
			continue
		}
		pushed = true
		s.wg.Go(func() { s.push(ctx, a) })
	}
	if pushed {
		s.o.DB.OnVisible(func(int64, []store.Touch) {
			for _, a := range s.apps {
				select {
				case a.wake <- struct{}{}:
				default:
				}
			}
		})
	}
}

// Close ends the pushing. What was not acknowledged is sent again at the next Start.
func (s *Service) Close() {
	if s.stop != nil {
		s.stop()
		s.wg.Wait()
	}
}

// Waits between tries of a transaction that a service did not take.
const (
	firstWait = time.Second
	maxWait   = 5 * time.Minute
)

func (s *Service) push(ctx context.Context, a *app) {
	wait := firstWait
	for ctx.Err() == nil {
		more, err := s.pushOnce(ctx, a)
		switch {
		case err != nil:
			if ctx.Err() == nil {
				s.o.Log.Warn("an application service did not take its events; they are kept and sent again", "appservice", a.ID, "again_in", wait, "err", err)
			}
			sleep(ctx, wait)
			wait = min(2*wait, maxWait)
		case more:
			wait = firstWait
		default:
			wait = firstWait
			select {
			case <-a.wake:
			case <-ctx.Done():
			}
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Limits of one transaction.
const (
	scanEvents = 500 // events looked at
	sendEvents = 100 // events in one transaction
)

// lazySave is how many positions without an interesting event go by before the
// cursor is saved: a restart looks at no more than these again.
const lazySave = 10_000

// pushOnce delivers the next transaction, if there is one, and reports whether
// there may be more. The cursor is saved with the transaction's end before it is
// sent, so that a second try, also after a restart, has the same number.
func (s *Service) pushOnce(ctx context.Context, a *app) (more bool, err error) {
	if !a.loaded {
		if err := s.load(ctx, a); err != nil {
			return false, err
		}
	}
	c := a.cursor
	to := s.o.DB.Pos()
	if c.sending > 0 {
		to = c.sending
	}
	var (
		events []mx.Raw
		end    int64
	)
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		events, end, more, err = s.collect(q, a, c.pos, to)
		return err
	})
	if err != nil {
		return false, err
	}
	if len(events) == 0 {
		a.cursor = cursor{pos: end, txn: c.txn}
		if c.sending > 0 || end-a.saved > lazySave {
			return more, s.save(ctx, a)
		}
		return more, nil
	}
	if c.sending == 0 {
		a.cursor.sending, a.cursor.txn = end, c.txn+1
		if err := s.save(ctx, a); err != nil {
			a.cursor = c
			return false, err
		}
	}
	status, _, err := s.call(ctx, a, http.MethodPut, "/_matrix/app/v1/transactions/"+strconv.FormatInt(a.cursor.txn, 10), map[string]any{"events": events})
	if err != nil {
		return false, err
	}
	if status/100 != 2 {
		return false, fmt.Errorf("it answered %d", status)
	}
	a.cursor = cursor{pos: end, txn: a.cursor.txn}
	return more, s.save(ctx, a)
}

func (s *Service) load(ctx context.Context, a *app) error {
	to := s.o.DB.Pos()
	var known bool
	err := s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		a.cursor, known, err = loadCursor(q, a.ID)
		return err
	})
	if err != nil {
		return err
	}
	a.saved = a.cursor.pos
	if !known {
		a.cursor.pos = to
		if err := s.save(ctx, a); err != nil {
			return err
		}
	}
	a.loaded = true
	return nil
}

func (s *Service) save(ctx context.Context, a *app) error {
	c := a.cursor
	err := s.o.DB.Write(ctx, func(tx *store.Tx) error { return saveCursor(tx, a.ID, c) })
	if err == nil {
		a.saved = c.pos
	}
	return err
}

// collect gathers the events in (from, to] that interest a service. end is how
// far it looked.
func (s *Service) collect(q store.Querier, a *app, from, to int64) (events []mx.Raw, end int64, more bool, err error) {
	list, err := s.o.Rooms.EventsAfter(q, from, scanEvents)
	if err != nil {
		return nil, from, false, err
	}
	rooms := map[string]bool{}
	end = from
	for _, e := range list {
		if e.Pos > to {
			return events, end, false, nil
		}
		if len(events) == sendEvents {
			return events, end, true, nil
		}
		end = e.Pos
		ok := s.owns(a, e.Sender) || matchesAny(a.Namespaces.Users, e.Sender) ||
			(e.StateKey != nil && e.Type == "m.room.member" && (s.owns(a, *e.StateKey) || matchesAny(a.Namespaces.Users, *e.StateKey)))
		if !ok {
			in, seen := rooms[e.RoomID]
			if !seen {
				if in, err = s.interested(q, a, e.RoomID); err != nil {
					return nil, from, false, err
				}
				rooms[e.RoomID] = in
			}
			ok = in
		}
		if ok {
			events = append(events, e.JSON)
		}
	}
	return events, end, len(list) == scanEvents, nil
}

// interested reports whether a service gets all that happens in a room: by its
// ID, one of its aliases, or a member of its user namespaces.
func (s *Service) interested(q store.Querier, a *app, roomID string) (bool, error) {
	if matchesAny(a.Namespaces.Rooms, roomID) {
		return true, nil
	}
	members, err := s.o.Rooms.Members(q, roomID, "join")
	if err != nil {
		return false, err
	}
	for _, m := range members {
		if m == a.sender || matchesAny(a.Namespaces.Users, m) {
			return true, nil
		}
	}
	if len(a.Namespaces.Aliases) == 0 {
		return false, nil
	}
	aliases, err := s.o.Rooms.Aliases(q, roomID)
	if err != nil {
		return false, err
	}
	for _, al := range aliases {
		if matchesAny(a.Namespaces.Aliases, al) {
			return true, nil
		}
	}
	return false, nil
}
