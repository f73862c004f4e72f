// Package sfu is the call relay: LiveKit, assembled inside a process behind a small
// interface.
//
// Invariants: the package opens no HTTP listener (signalling comes in through
// Handler, TURN over TCP through ServeTURN); media uses one UDP port, one TCP port as
// fall-back, and one TURN port;
// clients are never told of a STUN or TURN server other than this one, or that of the
// relay in the same cluster which holds their call; TURN relays
// to this relay's media port, or between two users of TURN, and nowhere else; rooms
// exist only after EnsureRoom, or when somebody comes with a token, which was made for
// one; keys stay in memory; who is in a call when the relay stops is told to come back,
// never that the call is over. A panic in LiveKit or pion ends
// the process it runs in: package sfu/process gives it one of its own.
package sfu

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/livekit/livekit-server/pkg/rtc/types"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
)

// The ports that are used unless others are configured.
const (
	DefaultUDPPort  = 7882
	DefaultTCPPort  = 7881
	DefaultTURNPort = 3478
)

// AnyPort as a port means: whichever is free.
const AnyPort = -1

// Options of New. A port of 0 is the default one, or a free one where that is
// taken; AnyPort is a free one; any other must be free.
type Options struct {
	Log *slog.Logger `json:"-"` // nil: discarded

	UDPPort  int // media, one port for everybody
	TCPPort  int // media where UDP is blocked
	TURNPort int // embedded TURN, UDP

	// NodeIP is the address that clients send media to ("203.0.113.7", or several
	// with commas). Empty: those of the machine's interfaces. Set it where the
	// machine's own addresses cannot be reached, as behind NAT. One of the machine's
	// own is tried first by those who came to it.
	NodeIP string

	MaxCalls        int // that run at once; 0: as many as the machine carries
	MaxParticipants int // in one call; 0: as many as the machine carries

	// Kept is how long a call that everybody left may be come back to. 0: a minute.
	Kept time.Duration

	// Bitrates in kbit/s; 0: no limit. They hold for each camera's picture, for each
	// shared screen, and for all that one participant receives, of which sound is never
	// held back.
	MaxVideoKbps, MaxScreenKbps, MaxReceivedKbps int

	// AudioFirst stops the pictures of a listener whose line is too narrow for the sound
	// beside them.
	AudioFirst bool

	// Key and Secret sign the tokens. Empty: random ones, so that a restart voids
	// all tokens. Whoever keeps them lets people come back into their calls after it.
	Key, Secret string

	// Cluster joins this relay with others; nil: it is alone. Key and Secret are the
	// cluster's then.
	Cluster *Cluster

	// For tests.
	tcpOnly bool          // as if UDP were blocked
	look    time.Duration // instead of lookInterval
	silent  time.Duration // instead of silentFor
	deaf    time.Duration // instead of deafFor
}

// Stats are the relay's present figures.
type Stats struct {
	Rooms        int `json:"rooms"` // also those that nobody has entered yet
	Calls        int `json:"calls"` // rooms with somebody in them
	Participants int `json:"participants"`
}

// Ports are the ports in use.
type Ports struct {
	UDP, TCP, TURN int
}

var (
	// ErrNotRunning means that Start was not called, or Close was.
	ErrNotRunning = errors.New("sfu: the call relay is not running")
	// ErrDraining means that the relay is about to stop and takes nobody new.
	ErrDraining = errors.New("sfu: the call relay is about to stop")
	// ErrTooManyRooms means that no further call can be held now.
	ErrTooManyRooms = errors.New("sfu: too many calls at once")
)

const (
	// departureTimeout is how long a room is kept that nobody came to, that everybody has
	// left, or to which nobody has come back after a crash. Whoever comes later with a
	// token has it made again.
	departureTimeout = 60 * time.Second
	maxRooms         = 10_000
)

func (o *Options) kept() time.Duration {
	if o.Kept > 0 {
		return o.Kept
	}
	return departureTimeout
}

// SFU is the call relay. Its methods are safe for concurrent use.
type SFU struct {
	o           Options
	log         *slog.Logger
	key, secret string
	presence    *presence
	signals     signalling
	live        *live

	mu       sync.RWMutex
	engine   *engine // nil: not running
	started  bool
	draining bool
	closing  bool
	done     chan struct{} // closed by Close

	removedMu sync.Mutex
	removed   map[[2]string]time.Time // room and identity whose tokens are void, and until when
}

// Check looks for values of Options that are impossible.
func Check(o Options) error {
	for _, p := range []int{o.UDPPort, o.TCPPort, o.TURNPort} {
		if p < AnyPort || p > 65535 {
			return fmt.Errorf("sfu: %d is not a port", p)
		}
	}
	if o.NodeIP != "" {
		if _, err := ParseNodeIP(o.NodeIP); err != nil {
			return err
		}
	}
	if o.Kept < 0 || o.Kept > 0 && o.Kept < time.Second {
		return errors.New("sfu: calls are kept for a second at least")
	}
	if o.Cluster != nil {
		if err := o.Cluster.check(); err != nil {
			return err
		}
	}
	if o.MaxCalls < 0 || o.MaxParticipants < 0 {
		return errors.New("sfu: a limit of calls or participants is negative")
	}
	if o.MaxVideoKbps < 0 || o.MaxScreenKbps < 0 || o.MaxReceivedKbps < 0 {
		return errors.New("sfu: a limit of a bitrate is negative")
	}
	return nil
}

// New prepares a relay. Start opens its ports.
func New(o Options) (*SFU, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := Check(o); err != nil {
		return nil, err
	}
	if o.Cluster != nil {
		o.Key, o.Secret = "HC"+o.Cluster.derive("name of the tokens' key")[:12], o.Cluster.derive("tokens")
	}
	if o.Key == "" || o.Secret == "" {
		o.Key, o.Secret = NewKey()
	}
	return &SFU{
		o: o, log: o.Log, key: o.Key, secret: o.Secret,
		done: make(chan struct{}), presence: newPresence(), removed: map[[2]string]time.Time{},
		signals: signalling{open: map[seat]int{}}, live: newLive(),
	}, nil
}

// NewKey makes a key for tokens and its name.
func NewKey() (key, secret string) { return "HF" + rand.Text()[:12], rand.Text() + rand.Text() }

// Start opens the media ports. It returns when calls can be made. A relay is
// started once: LiveKit leaves goroutines behind when it stops. When the machine's
// addresses change, the relay takes up the new ones, once nobody is in a call.
func (s *SFU) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.closing {
		return errors.New("sfu: the call relay was started before")
	}
	begun := time.Now()
	e, err := start(s, s.o)
	if err != nil {
		return fmt.Errorf("sfu: %w", err)
	}
	s.engine, s.started = e, true
	go s.observe(e)
	if s.o.NodeIP == "" {
		go s.follow(e.seen)
	}
	s.log.Info("the call relay is ready", "udp", e.ports.UDP, "tcp", e.ports.TCP, "turn", e.ports.TURN,
		"address", strings.Join(e.conf.RTC.NodeIP.ToStringSlice(), ","), "took", time.Since(begun).Round(time.Millisecond))
	return nil
}

// Drain has the relay take nobody new, and waits until all calls are over or ctx ends.
// Who is in a call may come back into it meanwhile.
func (s *SFU) Drain(ctx context.Context) {
	s.mu.Lock()
	e, first := s.engine, !s.draining
	s.draining = true
	s.mu.Unlock()
	if e == nil {
		return
	}
	if first {
		e.router.Drain()
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for e.rooms.HasParticipants() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		case <-s.done:
			return
		}
	}
}

// toldTime is how long those in calls may take to hear that the relay stops.
const toldTime = 2 * time.Second

// Close stops the relay: it is Drain, after which those who are still in a call are
// told to connect anew, which brings them to whoever runs then.
func (s *SFU) Close(ctx context.Context) error {
	s.Drain(ctx)
	s.mu.Lock()
	e := s.engine
	if s.closing {
		s.mu.Unlock()
		return nil
	}
	s.closing = true
	close(s.done)
	s.mu.Unlock()
	if e == nil {
		s.presence.close()
		return nil
	}
	switch {
	case e.cluster == nil:
	case s.o.Cluster.Node:
		e.cluster.leave()
	default:
		e.cluster.sendAway()
	}
	e.sendAway(s.presence.list())
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(toldTime); s.signals.any() && time.Now().Before(end); {
		<-tick.C
	}
	s.mu.Lock()
	s.engine = nil
	s.mu.Unlock()
	e.stop()
	s.presence.close()
	return nil
}

// sendAway tells all in these rooms to resume their sessions, which whoever answers
// them then makes them do from the beginning. LiveKit's own way to stop tells them that
// the call is over. Told at once to begin anew, its Go client forgets what it published.
func (e *engine) sendAway(rooms []string) {
	for _, name := range rooms {
		if r := e.rooms.GetRoom(context.Background(), livekit.RoomName(name)); r != nil {
			for _, p := range r.GetParticipants() {
				if p, ok := p.(types.LocalParticipant); ok {
					p.Close(true, types.ParticipantCloseReasonRoomManagerStop, true)
				}
			}
		}
	}
}

// lookInterval is how often the machine's addresses are looked at.
const lookInterval = 5 * time.Second

// follow watches the machine's addresses, of which seen are those in use.
func (s *SFU) follow(seen string) {
	every := lookInterval
	if s.o.look > 0 {
		every = s.o.look
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := seen
	for {
		select {
		case <-tick.C:
		case <-s.done:
			return
		}
		now := interfaceAddresses()
		if now != last { // wait until they have settled
			last = now
			continue
		}
		if now != seen && s.move() {
			seen = now
		}
	}
}

// move starts the relay anew on the machine's present addresses, on the same
// ports. It reports false where it should be tried later.
func (s *SFU) move() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return true
	}
	if e := s.engine; e != nil {
		if s.presence.stats().Rooms > 0 { // or somebody may be about to join
			return false
		}
		s.o.UDPPort, s.o.TCPPort, s.o.TURNPort = e.ports.UDP, e.ports.TCP, e.ports.TURN
		s.engine = nil
		e.stop()
	}
	e, err := start(s, s.o)
	if err != nil {
		s.log.Error("the call relay cannot take up the machine's new addresses; trying again", "err", err)
		return false
	}
	s.engine = e
	go s.observe(e)
	s.log.Info("the machine's addresses changed; the call relay uses the new ones", "address", strings.Join(e.conf.RTC.NodeIP.ToStringSlice(), ","))
	return true
}

func (s *SFU) running() (*engine, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.engine == nil || s.closing {
		return nil, ErrNotRunning
	}
	return s.engine, nil
}

// leaving reports whether the relay takes nobody new.
func (s *SFU) leaving() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.draining
}

// Ports are the ports in use; zero while the relay is not running.
func (s *SFU) Ports() Ports {
	e, err := s.running()
	if err != nil {
		return Ports{}
	}
	return e.ports
}

// Addresses are where clients send media to; none while the relay is not running.
func (s *SFU) Addresses() []string {
	e, err := s.running()
	if err != nil {
		return nil
	}
	return e.conf.RTC.NodeIP.ToStringSlice()
}

// Handler answers signalling: mount it with http.StripPrefix("/livekit/sfu", ...).
// The ResponseWriter it is given must allow hijacking.
func (s *SFU) Handler() http.Handler { return http.HandlerFunc(s.serve) }

// Spoofable are headers from which LiveKit would take the client's address.
var Spoofable = []string{"CF-Connecting-IP", "X-Forwarded-For", "X-Real-IP"}

const maxSignalURL = 64 << 10 // bytes; the join request is in the query

func (s *SFU) serve(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			s.log.Error("signalling failed", "panic", p, "stack", string(debug.Stack()))
			// Harmless where the connection was taken over already.
			w.WriteHeader(http.StatusInternalServerError)
		}
	}()
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	switch r.Method {
	case http.MethodOptions:
		h.Set("Access-Control-Allow-Methods", "GET, OPTIONS")
		h.Set("Access-Control-Allow-Headers", "*, Authorization")
		h.Set("Access-Control-Max-Age", "86400")
		w.WriteHeader(http.StatusNoContent)
		return
	case http.MethodGet:
	default:
		http.Error(w, "Method not allowed", http.StatusMethodNotAllowed)
		return
	}
	if len(r.RequestURI) > maxSignalURL {
		http.Error(w, "The request is too long", http.StatusRequestURITooLong)
		return
	}
	// Clients that were refused ask once more, for the reason.
	failed := func(reason string) {
		if !strings.HasSuffix(r.URL.Path, "/validate") {
			failedJoins.WithLabelValues(reason).Inc()
		}
	}
	e, err := s.running()
	if err != nil {
		failed(failedNotRunning)
		http.Error(w, "The call relay is not running", http.StatusServiceUnavailable)
		return
	}
	if r.URL.Path == "/" || r.URL.Path == "" {
		fmt.Fprintln(w, "OK")
		return
	}
	// LiveKit writes a token that it refuses into its log and its answer.
	at, ok := s.admits(bearer(r))
	if !ok {
		failed(failedToken)
		http.Error(w, "The token is missing, wrong or expired", http.StatusUnauthorized)
		return
	}
	if s.leaving() && !s.presence.has(at.room, at.identity) {
		http.Error(w, "The call relay is about to stop; try again in a moment", http.StatusServiceUnavailable)
		return
	}
	// LiveKit would let its holder in a second time, as a participant of another name, of
	// whom neither the limits nor Remove know.
	if r.URL.Query().Has("publish") {
		http.Error(w, "A token is for one participant; the parameter publish is not supported", http.StatusBadRequest)
		return
	}
	leave, err := s.presence.admit(at.room, at.identity, s.o.MaxCalls, s.o.MaxParticipants, true)
	if err != nil {
		if errors.Is(err, ErrCallFull) {
			failed(failedParticipants)
		} else {
			failed(failedCalls)
		}
		s.refuse(w, r, err)
		return
	}
	// A token is for a room that was made for it. It is gone where the relay was started
	// anew since then, or the one that held it is gone, and whoever was in it comes back
	// by the same token.
	if !s.presence.knows(at.room) || e.cluster != nil && e.cluster.orphan(at.room) {
		if err := s.EnsureRoom(r.Context(), at.room); err != nil {
			leave()
			s.log.Warn("a call could not be made again", "err", err)
			http.Error(w, "The call cannot be held now; try again in a moment", http.StatusServiceUnavailable)
			return
		}
	}
	r = r.Clone(r.Context())
	for _, name := range Spoofable {
		r.Header.Del(name)
	}
	r.Header.Del("Sec-WebSocket-Extensions") // no compression: a short message could become a very long one
	s.signalled(e, at, func(watch func(*messages)) {
		defer leave()
		r = r.WithContext(context.WithValue(r.Context(), seatKey{}, at))
		e.auth.ServeHTTP(bounded{w, watch}, r, e.mux.ServeHTTP)
	})
}

func bearer(r *http.Request) string {
	if t, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return t
	}
	return r.URL.Query().Get("access_token")
}

// admits reads a token, and reports whether it lets its holder in.
func (s *SFU) admits(token string) (seat, bool) {
	v, err := auth.ParseAPIToken(token)
	if err != nil || v.APIKey() != s.key {
		return seat{}, false
	}
	_, grants, err := v.Verify(s.secret)
	if err != nil || grants.Video == nil {
		return seat{}, false
	}
	at := seat{grants.Video.Room, grants.Identity}
	// Where a token names no room, LiveKit goes by what the client asks for.
	return at, at.room != "" && at.identity != "" && !s.isRemoved(at)
}

// isRemoved reports whether a participant's tokens are void.
func (s *SFU) isRemoved(at seat) bool {
	s.removedMu.Lock()
	defer s.removedMu.Unlock()
	until, ok := s.removed[[2]string{at.room, at.identity}]
	return ok && time.Now().Before(until)
}

// Cluster says how the cluster is.
func (s *SFU) Cluster() ClusterStatus {
	e, err := s.running()
	if err != nil || e.cluster == nil {
		return ClusterStatus{}
	}
	return e.cluster.status()
}

// removedFor is how long a removed participant's tokens are refused: longer than
// any token lasts.
const removedFor = 2 * time.Hour

// Remove ends a participant's call and refuses its tokens until Mint makes a new
// one. It does nothing where there is no such participant but refuse the tokens.
func (s *SFU) Remove(room, identity string) {
	s.void(room, identity)
	if e, err := s.running(); err == nil && s.presence.has(room, identity) {
		if e.cluster != nil && e.cluster.remove(seat{room, identity}) {
			return
		}
		_, err := e.rooms.RemoveParticipant(context.Background(), &livekit.RoomParticipantIdentity{Room: room, Identity: identity})
		if err != nil {
			s.log.Warn("a participant could not be removed from a call", "err", err)
		}
	}
}

// void refuses the tokens that were made for a participant.
func (s *SFU) void(room, identity string) {
	now := time.Now()
	s.removedMu.Lock()
	defer s.removedMu.Unlock()
	for k, until := range s.removed {
		if now.After(until) {
			delete(s.removed, k)
		}
	}
	s.removed[[2]string{room, identity}] = now.Add(removedFor)
}

// Mint returns a token that lets identity join room, and only room, within ttl,
// which is at most an hour.
func (s *SFU) Mint(_ context.Context, room, identity, name string, ttl time.Duration) (string, error) {
	if _, err := s.running(); err != nil {
		return "", err
	}
	ttl = min(ttl, time.Hour)
	s.removedMu.Lock()
	delete(s.removed, [2]string{room, identity})
	s.removedMu.Unlock()
	yes := true
	return auth.NewAccessToken(s.key, s.secret).
		SetVideoGrant(&auth.VideoGrant{
			RoomJoin: true, Room: room,
			CanPublish: &yes, CanSubscribe: &yes, CanUpdateOwnMetadata: &yes,
		}).
		SetIdentity(identity).SetName(name).SetValidFor(ttl).ToJWT()
}

// EnsureRoom creates the room unless it exists. An existing room that is empty is
// kept for another while. Errors: ErrNotRunning, ErrDraining, ErrTooManyRooms.
func (s *SFU) EnsureRoom(ctx context.Context, room string) error {
	e, err := s.running()
	if err != nil {
		return err
	}
	if s.leaving() && len(s.presence.in(room)) == 0 {
		return ErrDraining
	}
	if s.presence.stats().Rooms >= maxRooms {
		return ErrTooManyRooms
	}
	// The room outlives the request: LiveKit keeps the context.
	ctx = context.WithoutCancel(ctx)
	if e.cluster != nil && e.cluster.ensure(ctx, room) {
		return nil
	}
	if _, err := e.rooms.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: room}); err != nil {
		return fmt.Errorf("sfu: create a room: %w", err)
	}
	if r := e.rooms.GetRoom(ctx, livekit.RoomName(room)); r != nil && r.Hold() {
		time.AfterFunc(s.o.kept(), r.Release)
	}
	return nil
}

// Participants lists the identities in a room.
func (s *SFU) Participants(room string) []string { return s.presence.in(room) }

// Stats returns the present figures.
func (s *SFU) Stats() Stats { return s.presence.stats() }

// Subscribe has f called, one event after the other, when a participant came into
// a room or left it. A participant who reconnects counts as having stayed. The
// returned function ends it.
func (s *SFU) Subscribe(f func(room, identity string, joined bool)) (cancel func()) {
	return s.presence.subscribe(func(c Change) {
		if c.Kind == Joined || c.Kind == Left {
			f(c.Room, c.Identity, c.Kind == Joined)
		}
	})
}

// Follow is Subscribe with the beginning and the end of rooms.
func (s *SFU) Follow(f func(Change)) (cancel func()) { return s.presence.subscribe(f) }
