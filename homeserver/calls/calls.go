// Package calls is MatrixRTC's side of the homeserver: it tells clients where the
// call relay is, proves users to it by OpenID tokens, hands out its tokens to
// members of a room only, and ends a membership when its participant is gone.
//
// Invariants: a relay token is for one room of the relay and one identity, and is
// given only for the caller's own user and device and a room the user is joined
// to; who leaves the room, is removed from it, is locked or suspended, or signs the
// device out, leaves its calls; OpenID tokens are stored as hashes and expire; a delegated leave
// is restarted only while its participant is in the call, and is sent soon after it
// left; the server's restart is no leave of those who come back. Tokens outlive the
// server's process: who may not be in a call any more is known again before anybody
// is answered.
package calls

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/route"
	"holdfast/store"
	"holdfast/store/sealed"
)

// MediaTokens is the call relay. *sfu.SFU is one.
type MediaTokens interface {
	// Mint returns a token that lets identity join room, and only room, within ttl.
	Mint(ctx context.Context, room, identity, name string, ttl time.Duration) (string, error)
	// EnsureRoom creates the relay's room unless it exists.
	EnsureRoom(ctx context.Context, room string) error
	// Participants lists the identities that are in the relay's room.
	Participants(room string) []string
	// Remove ends a participant's call; its token is of no use any more.
	Remove(room, identity string)
	// Subscribe has f called when a participant came or went.
	Subscribe(f func(room, identity string, joined bool)) (cancel func())
}

// Delayed are the delayed events of package delayed.
type Delayed interface {
	// Waiting tells whose event it is that waits, for which room, and its delay.
	Waiting(ctx context.Context, delayID string) (userID, roomID string, delay time.Duration, err error)
	Restart(ctx context.Context, delayID string) error
	Send(ctx context.Context, delayID string) error
}

// Options of New.
type Options struct {
	ServerName string
	DB         *store.DB
	Secrets    *sealed.Box // seals delay IDs that were delegated
	Log        *slog.Logger
	Media      MediaTokens // nil: the server has no call relay
	TURN       TURN        // nil: the server has no TURN server
	// PublicURL is how clients reach the server, "https://host", without a slash at the end.
	PublicURL func(*http.Request) string
	// IsJoined tells whether a user is joined to a room: rooms.IsJoined.
	IsJoined func(q store.Querier, roomID, userID string) (bool, error)
	// DeviceExists tells whether a user has a device: devices.
	DeviceExists func(q store.Querier, userID, deviceID string) (bool, error)
	Delayed      Delayed
	// Standing refuses a user whose account is locked, suspended or closed. Errors:
	// *mx.Error. nil: nobody is refused.
	Standing func(ctx context.Context, userID string) error
	// Remote asks the servers whose users may be in calls, too. nil: there are none.
	Remote Remote
}

// Remote asks other servers about their users: federation.Client.
type Remote interface {
	// Listed reports whether a server's users may be in calls.
	Listed(server string) bool
	// Userinfo is whose OpenID token it is; always a user of that server. Errors:
	// ErrUnknownThere where the server says that it is nobody's.
	Userinfo(ctx context.Context, server, token string) (userID string, err error)
}

// ErrUnknownThere means that another server does not know a token.
var ErrUnknownThere = errors.New("calls: the other server does not know the token")

// Where things stand under the public URL.
const (
	mediaPath   = "/livekit/sfu"
	servicePath = "/livekit/jwt"
)

const (
	// tokenTTL is short: the relay renews the tokens of those who are in a call.
	tokenTTL = 10 * time.Minute
	maxBody  = 16 << 10 // bytes
)

// Service is MatrixRTC's side of the homeserver.
type Service struct {
	o      Options
	ctx    context.Context
	end    context.CancelFunc
	unsub  func()
	wg     sync.WaitGroup
	timing timing

	mu        sync.Mutex
	watches   map[seat]*watch
	admitted  map[string]map[seat]ticket // by Matrix room and user
	nextSweep time.Time
}

// seat is a participant's place in a call, in the relay's words.
type seat struct{ room, identity string }

// ticket is what was given out for a seat.
type ticket struct {
	device       string // "": not known
	until        time.Time
	roomID, user string
}

// New makes the service. It goes on watching the participants of a previous run, and
// has the relay refuse those who lost their right to be in a call. Close ends it.
func New(ctx context.Context, o Options) (*Service, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := sealDelegations(ctx, o); err != nil {
		return nil, err
	}
	s := &Service{o: o, timing: defaultTiming, watches: map[seat]*watch{}, admitted: map[string]map[seat]ticket{}}
	s.ctx, s.end = context.WithCancel(context.WithoutCancel(ctx))
	if o.Media == nil {
		return s, nil
	}
	var left []delegation
	var seats []place
	err := o.DB.Read(ctx, func(q store.Querier) (err error) {
		if left, err = listDelegations(q, o.Secrets); err == nil {
			seats, err = listSeats(q)
		}
		return err
	})
	if err == nil {
		err = s.seatAgain(ctx, seats)
	}
	if err != nil {
		return nil, fmt.Errorf("calls: %w", err)
	}
	s.unsub = o.Media.Subscribe(s.changed)
	if o.Delayed != nil {
		s.mu.Lock()
		for _, d := range left {
			s.watch(d, s.timing.back)
		}
		s.mu.Unlock()
	}
	return s, nil
}

// seatAgain takes over who was given tokens by a previous run: they are good still.
// Those who may not use them any more are refused by the relay.
func (s *Service) seatAgain(ctx context.Context, seats []place) error {
	for _, p := range seats {
		switch err := s.member(ctx, p.userID, p.deviceID, p.roomID); {
		case err == nil:
			s.mu.Lock()
			s.hold(p)
			s.mu.Unlock()
		case ctx.Err() != nil:
			return err
		default:
			s.o.Media.Remove(p.at.room, p.at.identity)
			if err := s.void(ctx, p.at); err != nil {
				return err
			}
		}
	}
	return nil
}

// void notes that a seat was taken away, for as long as there may be tokens for it.
func (s *Service) void(ctx context.Context, seats ...seat) error {
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		for _, at := range seats {
			if err := voidSeat(tx, at, time.Now().Add(tokenTTL).UnixMilli()); err != nil {
				return err
			}
		}
		return nil
	})
}

// Close stops watching participants. The next start goes on with it.
func (s *Service) Close() {
	if s.unsub != nil {
		s.unsub()
	}
	s.mu.Lock()
	s.end()
	s.mu.Unlock()
	s.wg.Wait()
}

// Routes are the operations, those under /livekit/jwt too. Without a relay there
// are only OpenID's and the empty list of transports: what clients probe for must
// be missing then.
func (s *Service) Routes() []route.Route {
	const msc4195 = "/_matrix/client/unstable/io.element.msc4195/rtc/livekit/"
	routes := []route.Route{
		{Op: "requestOpenIdToken", Auth: route.User, Limit: route.Membership, MaxBody: maxBody,
			Pattern: "POST /_matrix/client/v3/user/{userID}/openid/request_token",
			Aliases: []string{"/_matrix/client/r0/user/{userID}/openid/request_token"},
			Handle:  route.JSON(s.requestToken)},
		{Op: "exchangeOpenIdToken", Auth: route.None, Limit: route.Reads,
			Pattern: "GET /_matrix/federation/v1/openid/userinfo",
			Handle:  route.Get(s.userinfo)},
		{Op: "getRTCTransports", Auth: route.User, Limit: route.Reads,
			Pattern: "GET /_matrix/client/v1/rtc/transports",
			Aliases: []string{"/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"},
			Handle:  route.Get(s.transports)},
		{Op: "getTurnServer", Auth: route.User, Limit: route.Reads,
			Pattern: "GET /_matrix/client/v3/voip/turnServer",
			Aliases: []string{"/_matrix/client/r0/voip/turnServer"},
			Handle:  route.Get(s.turnServer)},
	}
	if s.o.Media == nil {
		return routes
	}
	routes = append(routes,
		route.Route{Op: "getLivekitToken", Auth: route.User, Limit: route.Membership, MaxBody: maxBody,
			Pattern: "POST /_matrix/client/v1/rtc/livekit/get_token", Aliases: []string{msc4195 + "get_token"},
			Handle: route.JSON(s.clientToken)},
		route.Route{Op: "livekitServiceToken", Auth: route.None, Limit: route.Membership, MaxBody: maxBody,
			Pattern: "POST " + servicePath + "/get_token",
			Handle:  route.JSON(s.serviceToken)},
		route.Route{Op: "livekitServiceTokenLegacy", Auth: route.None, Limit: route.Membership, MaxBody: maxBody,
			Pattern: "POST " + servicePath + "/sfu/get",
			Handle:  route.JSON(s.serviceTokenLegacy)},
		route.Route{Op: "livekitServiceHealth", Auth: route.None,
			Pattern: "GET " + servicePath + "/healthz",
			Handle:  route.Get(func(context.Context, *route.Request) (route.Empty, error) { return route.Empty{}, nil })},
	)
	if s.o.Delayed != nil {
		routes = append(routes,
			route.Route{Op: "delegateDelayedLeave", Auth: route.User, Limit: route.Membership, MaxBody: maxBody,
				Pattern: "POST /_matrix/client/v1/rtc/livekit/delegate_delayed_leave", Aliases: []string{msc4195 + "delegate_delayed_leave"},
				Handle: route.JSON(s.clientDelegate)},
			route.Route{Op: "livekitServiceDelegate", Auth: route.None, Limit: route.Membership, MaxBody: maxBody,
				Pattern: "POST " + servicePath + "/delegate_delayed_leave",
				Handle:  route.JSON(s.serviceDelegate)},
		)
	}
	return routes
}

func (s *Service) serviceURL(r *http.Request) string { return s.o.PublicURL(r) + servicePath }

// mediaURL is where clients connect to the relay.
func (s *Service) mediaURL(r *http.Request) string {
	u := s.o.PublicURL(r)
	if rest, ok := strings.CutPrefix(u, "http"); ok {
		u = "ws" + rest // and https: wss
	}
	return u + mediaPath
}

type transport struct {
	Type       string `json:"type"`
	ServiceURL string `json:"livekit_service_url,omitempty"`
	URL        string `json:"url,omitempty"`
}

// transports answers in the words of the proposal's earlier form, which today's
// clients read, and of its latest. Spec: MSC4143, MSC4519
func (s *Service) transports(_ context.Context, r *route.Request) (map[string][]transport, error) {
	old, latest := []transport{}, []transport{}
	if s.o.Media != nil {
		old = append(old, transport{Type: "livekit", ServiceURL: s.serviceURL(r.Request)})
		latest = append(latest, transport{Type: "m.livekit", URL: s.mediaURL(r.Request)})
	}
	return map[string][]transport{"rtc_transports": old, "transports": latest}, nil
}

// WellKnown is what calls add to /.well-known/matrix/client; nil without a relay.
func (s *Service) WellKnown(r *http.Request) map[string]any {
	if s.o.Media == nil {
		return nil
	}
	return map[string]any{"org.matrix.msc4143.rtc_foci": []transport{{Type: "livekit", ServiceURL: s.serviceURL(r)}}}
}

// hash is the relay's pseudonym of its parts: unpadded base64 of the SHA-256 of
// their canonical JSON. Spec: MSC4195
func hash(parts ...string) (string, error) {
	b, err := json.Marshal(parts)
	if err == nil {
		b, err = pdu.Canonical(b) // without Go's escapes of <, > and &
	}
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return base64.RawStdEncoding.EncodeToString(sum[:]), nil
}

// legacySlot is the slot of calls that do not name one.
const legacySlot = "m.call#ROOM"

func relayRoom(roomID, slotID string) (string, error) { return hash(roomID, slotID) }

// limited is a relay that has limits. Full says which one keeps identity from joining
// room at this moment: "calls", "participants", or "" for none.
type limited interface {
	Full(room, identity string) string
}

func (s *Service) full(roomID, slotID, identity string) (string, error) {
	l, ok := s.o.Media.(limited)
	if !ok {
		return "", nil
	}
	room, err := relayRoom(roomID, slotID)
	if err != nil {
		return "", err
	}
	return l.Full(room, identity), nil
}

func errFull(limit string) error {
	msg := "This server carries as many calls as it may at once. Try again later."
	if limit == "participants" {
		msg = "The call is full: nobody else can join it now."
	}
	return &mx.Error{Code: mx.ResourceLimitExceeded, Status: http.StatusForbidden, Msg: msg, Fields: map[string]any{"limit_type": limit}}
}

var errForbidden = mx.Errorf(mx.Forbidden, "You are not in this room, or the device is not yours.")

// admit checks that a user may be in a room's calls with a device, and returns the
// relay's token for it. deviceID "" is not checked.
func (s *Service) admit(ctx context.Context, userID, deviceID, roomID, slotID, identity string) (jwt string, err error) {
	room, err := relayRoom(roomID, slotID)
	if err != nil {
		return "", err
	}
	if err := s.member(ctx, userID, deviceID, roomID); err != nil {
		return "", err
	}
	// Without a room the token is of no use until there is a place, which the relay tells
	// the client in a way that people get to see: see serviceToken.
	full, err := s.full(roomID, slotID, identity)
	if err != nil {
		return "", err
	}
	if full == "" {
		if err := s.o.Media.EnsureRoom(ctx, room); err != nil {
			return "", unavailable(err)
		}
	}
	at := seat{room, identity}
	if err := s.note(ctx, place{at, roomID, userID, deviceID}); err != nil {
		return "", err
	}
	if jwt, err = s.o.Media.Mint(ctx, room, identity, "", tokenTTL); err != nil {
		return "", unavailable(err)
	}
	// A removal that ran meanwhile did not find the seat.
	if err := s.member(ctx, userID, deviceID, roomID); err != nil {
		s.o.Media.Remove(room, identity)
		return "", errors.Join(err, s.void(ctx, at))
	}
	return jwt, nil
}

// member checks that a user may be in a room's calls. Of users of other servers this one
// knows whether they are in the room, but neither their standing nor their devices.
func (s *Service) member(ctx context.Context, userID, deviceID, roomID string) error {
	remote := mx.Domain(userID) != s.o.ServerName
	if remote && !s.listed(mx.Domain(userID)) {
		return errForbidden
	}
	// Who proves to be somebody by an OpenID token was never asked for an access token.
	if s.o.Standing != nil && !remote {
		if err := s.o.Standing(ctx, userID); err != nil {
			return err
		}
	}
	return s.o.DB.Read(ctx, func(q store.Querier) error {
		in, err := s.o.IsJoined(q, roomID, userID)
		if err == nil && in && deviceID != "" && !remote && s.o.DeviceExists != nil {
			in, err = s.o.DeviceExists(q, userID, deviceID)
		}
		var unknown *mx.Error // of the room
		if errors.As(err, &unknown) || (err == nil && !in) {
			return errForbidden
		}
		return err
	})
}

func (s *Service) listed(server string) bool { return s.o.Remote != nil && s.o.Remote.Listed(server) }

func unavailable(err error) error {
	return &mx.Error{Code: mx.Unknown, Status: http.StatusServiceUnavailable, Msg: "The call relay cannot take a call now. Try again in a moment.", Err: err}
}

func member(roomID, userID string) string { return roomID + "|" + userID }

// note remembers who is given a token.
func (s *Service) note(ctx context.Context, p place) error {
	now := time.Now()
	var over []seat
	s.mu.Lock()
	if now.After(s.nextSweep) {
		s.nextSweep = now.Add(tokenTTL / 4)
		for k, seats := range s.admitted {
			for at, t := range seats {
				if now.After(t.until) && !s.present(at) {
					delete(seats, at)
					over = append(over, at)
				}
			}
			if len(seats) == 0 {
				delete(s.admitted, k)
			}
		}
	}
	s.hold(p)
	s.mu.Unlock()
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		for _, at := range over {
			if err := deleteSeat(tx, at); err != nil {
				return err
			}
		}
		if err := expireSeats(tx, now.UnixMilli()); err != nil {
			return err
		}
		return upsertSeat(tx, p)
	})
}

// hold keeps a seat in memory. s.mu is held.
func (s *Service) hold(p place) {
	k := member(p.roomID, p.userID)
	if s.admitted[k] == nil {
		s.admitted[k] = map[seat]ticket{}
	}
	s.admitted[k][p.at] = ticket{p.deviceID, time.Now().Add(tokenTTL), p.roomID, p.userID}
}

// Person is a participant in Matrix' words.
type Person struct {
	RoomID, UserID string
	DeviceID       string // "": not known
}

// Rooms tells which rooms the relay's rooms are calls of.
func (s *Service) Rooms() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]string{}
	for _, seats := range s.admitted {
		for at, t := range seats {
			out[at.room] = t.roomID
		}
	}
	return out
}

// People tells who the participants in one of the relay's rooms are.
func (s *Service) People(relayRoom string) map[string]Person {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]Person{}
	for _, seats := range s.admitted {
		for at, t := range seats {
			if at.room == relayRoom {
				out[at.identity] = Person{t.roomID, t.user, t.device}
			}
		}
	}
	return out
}

// Left takes a user who is no longer joined to a room out of its calls. It is
// quick and may run after a commit.
func (s *Service) Left(roomID, userID string) {
	s.expel(func(k string, _ ticket) bool { return k == member(roomID, userID) })
}

// DeviceGone takes a device whose session ended out of all calls: the relay renews
// the tokens of those who are in a call by itself. It is quick and may run after a
// commit.
func (s *Service) DeviceGone(userID, deviceID string) {
	s.expel(func(k string, t ticket) bool {
		return t.device == deviceID && deviceID != "" && strings.HasSuffix(k, member("", userID))
	})
}

// Locked takes a user whose account was locked out of all calls, and forgets the
// OpenID tokens with which new relay tokens could be had.
func (s *Service) Locked(ctx context.Context, userID string) error {
	err := s.o.DB.Write(ctx, func(tx *store.Tx) error { return s.DropTokens(tx, userID) })
	s.Suspended(userID)
	return err
}

// Suspended takes a user whose account was suspended out of all calls. It is quick and
// may run after a commit.
func (s *Service) Suspended(userID string) {
	s.expel(func(k string, _ ticket) bool { return strings.HasSuffix(k, member("", userID)) })
}

// expel takes out of calls whom match names by the key in admitted and the ticket.
func (s *Service) expel(match func(k string, t ticket) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return
	}
	var out []seat
	for k, seats := range s.admitted {
		for at, t := range seats {
			if match(k, t) {
				out = append(out, at)
				delete(seats, at)
			}
		}
		if len(seats) == 0 {
			delete(s.admitted, k)
		}
	}
	if len(out) == 0 {
		return
	}
	s.wg.Go(func() {
		for _, at := range out {
			s.o.Media.Remove(at.room, at.identity)
		}
		if err := s.void(s.ctx, out...); err != nil && s.ctx.Err() == nil {
			// The next start finds it out by itself.
			s.o.Log.Warn("it could not be noted who was taken out of a call", "err", err)
		}
	})
}
