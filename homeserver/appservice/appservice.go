// Package appservice lets application services (bridges, bots) take part: they
// are registered by files or by the command line, authenticate with their own
// token, act as the users of their namespaces, and get what interests them pushed.
//
// Invariants:
//   - A service only acts as users of its own namespaces, and as none that is in
//     another's exclusive one when an account or alias is made.
//   - Whether an event interests a service is decided in the transaction that stores
//     the event, by who is in the room then, and noted in a queue on disk: neither a
//     long outage nor a kill loses or repeats one.
//   - A transaction is stored, byte by byte, before it is sent the first time, in
//     the write that takes its contents from the queue; until it was answered 200 it
//     is sent again under its ID, and none after it.
//   - A service that is down costs the sending of messages no more than a row each.
package appservice

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
	"holdfast/store/audit"
	"holdfast/store/sealed"
)

// Rooms is what the service reads of the rooms.
type Rooms interface {
	// Event gives an event as it is pushed. Errors: store.ErrNotFound.
	Event(q store.Querier, pos int64) (mx.Raw, error)
	// Members lists the users with a membership in a room.
	Members(q store.Querier, roomID, membership string) ([]string, error)
	// Aliases lists a room's local aliases.
	Aliases(q store.Querier, roomID string) ([]string, error)
	// JoinedRooms lists the rooms that a user is joined to.
	JoinedRooms(q store.Querier, userID string) ([]string, error)
	// SharedUsers lists who is joined to a room that userID is joined to.
	SharedUsers(q store.Querier, userID string) ([]string, error)
	// Known reports whether there is such a room.
	Known(q store.Querier, roomID string) (bool, error)
}

// Receipt is how far a user has read.
type Receipt struct {
	RoomID, UserID, Type, Thread, EventID string
	TS, Pos                               int64
}

// Ephemeral is what passes.
type Ephemeral interface {
	// Receipts lists the read receipts, private ones too, that changed in (from, to],
	// oldest change first, at most limit.
	ReceiptsAfter(q store.Querier, from, to int64, limit int) ([]Receipt, error)
	// TypingRooms gives who types in the rooms where that changed in (from, to].
	TypingRooms(from, to int64) map[string][]string
	// Presence gives the m.presence events that changed in (from, to].
	Presence(from, to int64, visible func(userID string) bool) []mx.Raw
}

// Keys is what is known of devices' keys.
type Keys interface {
	// Counts are those of a device's one-time keys, and its unused fallback keys.
	Counts(q store.Querier, userID, deviceID string) (otk map[string]int, unusedFallback []string, err error)
	// ChangedLists lists whose device lists changed in (from, to].
	ChangedLists(q store.Querier, from, to int64) ([]string, error)
	// Sharing gives, by room, who joined or left it in (from, to].
	Sharing(q store.Querier, from, to int64) (map[string]map[string]bool, error)
}

// Options of New.
type Options struct {
	ServerName    string
	DB            *store.DB
	Secrets       *sealed.Box // seals registrations
	Audit         *audit.Log  // nil: nothing is noted
	Rooms         Rooms
	Ephemeral     Ephemeral
	Keys          Keys
	Log           *slog.Logger
	Registrations []Registration // those of files
	Client        *http.Client   // nil: one without restrictions

	// UserExists reports whether a local user has an account. nil: everybody has.
	UserExists func(q store.Querier, userID string) (bool, error)
	// DeviceExists reports whether a user has a device. nil: all there are.
	DeviceExists func(q store.Querier, userID, deviceID string) (bool, error)
	// Took removes the to-device messages up to a position that a service has taken
	// for a device.
	Took func(tx *store.Tx, userID, deviceID string, upTo int64) error
}

// Service knows the registered application services.
type Service struct {
	o     Options
	apps  atomic.Pointer[[]*app] // never changed in place
	rooms interestCache
	asked answers // what services said of third-party networks and of names

	mu    sync.Mutex // of those who register and remove
	run   context.Context
	stop  context.CancelFunc
	wg    sync.WaitGroup
	began bool
}

type app struct {
	Registration
	sender string
	token  [sha256.Size]byte // of the as_token
	wake   chan struct{}     // something may have to be pushed
	kick   chan struct{}     // it is there again: do not wait for the next try
	queued atomic.Bool       // the queue has grown
	legacy atomic.Int64      // when it turned out to know the older paths only, Unix seconds; 0: it knows the new ones
	stop   context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	state state
	dirty map[[2]string]bool // devices (user, device) whose key counts have changed

	// Owned by the goroutine that pushes.
	loaded bool
	cursor cursor
	saved  int64 // cursor.pos on disk
}

// New prepares the service, with what the command line registered before; Start
// begins to push.
func New(ctx context.Context, o Options) (*Service, error) {
	if o.Client == nil {
		o.Client = &http.Client{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{o: o}
	s.rooms.init()
	s.asked.init()
	list := o.Registrations
	if err := sealRegistrations(ctx, o); err != nil {
		return nil, err
	}
	err := o.DB.Read(ctx, func(q store.Querier) error {
		texts, err := listRegistrations(q, o.Secrets)
		for _, text := range texts {
			r, err := Parse(text)
			if err == nil {
				err = conflict(list, r)
			}
			if err != nil {
				// The files count. The command line is of no use while the appliance
				// does not start.
				o.Log.Error("a registered application service cannot be used together with those of appservice.dir; remove one of them", "appservice", r.ID, "err", err)
				continue
			}
			list = append(list, r)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	apps := make([]*app, 0, len(list))
	for _, r := range list {
		apps = append(apps, s.newApp(r))
	}
	s.apps.Store(&apps)
	return s, nil
}

func (s *Service) newApp(r Registration) *app {
	return &app{
		Registration: r,
		sender:       mx.UserID(r.SenderLocalpart, s.o.ServerName),
		token:        sha256.Sum256([]byte(r.ASToken)),
		wake:         make(chan struct{}, 1),
		kick:         make(chan struct{}, 1),
		done:         make(chan struct{}),
		dirty:        map[[2]string]bool{},
	}
}

func (s *Service) all() []*app { return *s.apps.Load() }

func (s *Service) byID(id string) *app {
	for _, a := range s.all() {
		if a.ID == id {
			return a
		}
	}
	return nil
}

// Authenticate implements route.Appservices. Spec: as#identity-assertion
func (s *Service) Authenticate(ctx context.Context, token string, as route.As) (route.Principal, bool, error) {
	apps := s.all()
	if len(apps) == 0 {
		return route.Principal{}, false, nil
	}
	sum := sha256.Sum256([]byte(token))
	for _, a := range apps {
		if a.token == sum {
			p, err := s.principal(ctx, a, as)
			return p, true, err
		}
	}
	return route.Principal{}, false, nil
}

func (s *Service) principal(ctx context.Context, a *app, as route.As) (route.Principal, error) {
	p := route.Principal{UserID: a.sender, DeviceID: as.DeviceID, Appservice: a.ID, Unlimited: true}
	other := as.UserID != "" && as.UserID != a.sender
	if other {
		if !s.owns(a, as.UserID) {
			return p, mx.Errorf(mx.Forbidden, "The application service %s may not act as %.255s: it is in none of its user namespaces.", a.ID, as.UserID)
		}
		p.UserID, p.Unlimited = as.UserID, !a.RateLimited
	}
	if !other && as.DeviceID == "" {
		return p, nil
	}
	return p, s.o.DB.Read(ctx, func(q store.Querier) error {
		if other && !as.NewUser && s.o.UserExists != nil {
			if ok, err := s.o.UserExists(q, p.UserID); err != nil || !ok {
				if err == nil {
					err = mx.Errorf(mx.Forbidden, "%.255s has no account yet: register it with the type m.login.application_service.", p.UserID)
				}
				return err
			}
		}
		if as.DeviceID != "" && s.o.DeviceExists != nil {
			if ok, err := s.o.DeviceExists(q, p.UserID, as.DeviceID); err != nil || !ok {
				if err == nil {
					err = mx.Errorf(mx.UnknownDevice, "%.255s has no device %.255q: create it by PUT /devices/{deviceId}.", p.UserID, as.DeviceID)
				}
				return err
			}
		}
		return nil
	})
}

// owns reports whether a user is the service's sender or in one of its namespaces.
func (s *Service) owns(a *app, userID string) bool {
	if userID == a.sender {
		return true
	}
	return strings.HasSuffix(userID, ":"+s.o.ServerName) && matchesAny(a.Namespaces.Users, userID)
}

// alone reports whether a user is the service's and nobody else's.
func (s *Service) alone(a *app, userID string) bool {
	return userID == a.sender || strings.HasSuffix(userID, ":"+s.o.ServerName) && exclusive(a.Namespaces.Users, userID)
}

// Owns reports whether a service may act as a user.
func (s *Service) Owns(id, userID string) bool {
	a := s.byID(id)
	return a != nil && s.owns(a, userID)
}

// Reserved reports whether a localpart belongs to another service than by alone:
// its sender or a name in an exclusive namespace. by is "" for people. Spec: as#registration
func (s *Service) Reserved(localpart, by string) bool {
	id := mx.UserID(localpart, s.o.ServerName)
	reserved := false
	for _, a := range s.all() {
		switch {
		case !s.alone(a, id):
		case a.ID == by:
			return false // two may claim the same; each of them may use it
		default:
			reserved = true
		}
	}
	return reserved
}

// MayTake says why an alias cannot be made or deleted by a service, or by people
// if by is "": nil, or Exclusive. Spec: as#server-admin-style-permissions
func (s *Service) MayTake(alias, by string) error {
	for _, a := range s.all() {
		if a.ID == by {
			if matchesAny(a.Namespaces.Aliases, alias) {
				return nil
			}
			return mx.Errorf(mx.Exclusive, "The alias %.80s is in none of the namespaces of the application service %s.", alias, a.ID)
		}
	}
	for _, a := range s.all() {
		if exclusive(a.Namespaces.Aliases, alias) {
			return mx.Errorf(mx.Exclusive, "The alias %.80s belongs to an application service. Choose another.", alias)
		}
	}
	return nil
}

func matchesAny(list []Namespace, s string) bool {
	for _, n := range list {
		if n.matches(s) {
			return true
		}
	}
	return false
}

func exclusive(list []Namespace, s string) bool {
	for _, n := range list {
		if n.Exclusive && n.matches(s) {
			return true
		}
	}
	return false
}

// Routes are the operations that services use, and those that ask them.
func (s *Service) Routes() []route.Route {
	return append(s.thirdpartyRoutes(), route.Route{
		Op: "pingAppservice", Auth: route.User, Limit: route.Unlimited,
		Pattern: "POST /_matrix/client/v1/appservice/{appserviceID}/ping",
		Aliases: []string{"/_matrix/client/unstable/fi.mau.msc2659/appservice/{appserviceID}/ping"},
		Handle:  route.JSON(s.ping),
	}, route.Route{
		Op: "updateAppserviceRoomDirectoryVisibility", Auth: route.User, Limit: route.Reads,
		Pattern: "PUT /_matrix/client/v3/directory/list/appservice/{networkID}/{roomID}",
		Aliases: []string{"/_matrix/client/r0/directory/list/appservice/{networkID}/{roomID}"},
		Handle:  route.JSON(s.list),
	})
}

type pingRequest struct {
	TransactionID *string `json:"transaction_id,omitempty"`
}

type pingResponse struct {
	DurationMS int64 `json:"duration_ms"`
}

// pingTime is how long a ping may take.
const pingTime = 15 * time.Second

// maxPingBody is how much of a wrong answer is shown, in bytes.
const maxPingBody = 4 << 10

// ping asks the service whether it hears us. Spec: cs#post_matrixclientv1appserviceappserviceidping
func (s *Service) ping(ctx context.Context, r *route.Request, in pingRequest) (pingResponse, error) {
	a := s.byID(r.Appservice)
	if a == nil || a.ID != r.Param("appserviceID") {
		return pingResponse{}, mx.Errorf(mx.Forbidden, "Only the application service %.80q itself may ask for its ping, with its as_token.", r.Param("appserviceID"))
	}
	if a.URL == "" {
		return pingResponse{}, mx.Errorf(mx.URLNotSet, "The registration of this application service has no url.")
	}
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	start := time.Now()
	status, body, err := s.once(ctx, a, call{method: http.MethodPost, path: "/_matrix/app/v1/ping", body: in})
	switch {
	case timedOut(err):
		return pingResponse{}, &mx.Error{Code: mx.ConnectionTimeout, Msg: "The application service did not answer in time.", Status: http.StatusGatewayTimeout, Err: err}
	case err != nil:
		return pingResponse{}, &mx.Error{Code: mx.ConnectionFailed, Msg: "The application service could not be reached at its url.", Status: http.StatusBadGateway, Err: err}
	case status/100 != 2:
		return pingResponse{}, &mx.Error{Code: mx.BadStatus, Msg: "The application service answered with another status than 200.", Status: http.StatusBadGateway,
			Fields: map[string]any{"status": status, "body": string(body[:min(len(body), maxPingBody)])}}
	}
	// It is there: what waits for it need not wait longer.
	a.tryNow()
	return pingResponse{time.Since(start).Milliseconds()}, nil
}

func timedOut(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}
