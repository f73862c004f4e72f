// Package calls is MatrixRTC's side of the homeserver: it tells clients where the
// call relay is, proves users to it by OpenID tokens, hands out its tokens to
// members of a room only, and ends a membership when its participant is gone.
//
// Invariants: a relay token is for one room of the relay and one identity, and is
// given only for the caller's own user and device and a room the user is joined
// to; OpenID tokens are stored as hashes and expire.
package calls

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"holdfast/homeserver/route"
	"holdfast/store"
)

// MediaTokens is the call relay. *sfu.SFU is one.
type MediaTokens interface {
	// Mint returns a token that lets identity join room, and only room, for ttl.
	Mint(ctx context.Context, room, identity, name string, ttl time.Duration) (string, error)
	// EnsureRoom creates the relay's room unless it exists.
	EnsureRoom(ctx context.Context, room string) error
	// Participants lists the identities that are in the relay's room.
	Participants(room string) []string
	// Subscribe has f called when a participant came or went.
	Subscribe(f func(room, identity string, joined bool)) (cancel func())
}

// Delayed are the delayed events of package delayed.
type Delayed interface {
	Restart(ctx context.Context, delayID string) error
	Send(ctx context.Context, delayID string) error
}

// Options of New.
type Options struct {
	ServerName string
	DB         *store.DB
	Log        *slog.Logger
	Media      MediaTokens // nil: the server has no call relay
	// PublicURL is how clients reach the server, "https://host", without a slash at the end.
	PublicURL func(*http.Request) string
	// IsJoined tells whether a user is joined to a room: rooms.IsJoined.
	IsJoined func(q store.Querier, roomID, userID string) (bool, error)
	// DeviceExists tells whether a user has a device: devices.
	DeviceExists func(q store.Querier, userID, deviceID string) (bool, error)
	Delayed      Delayed
}

// Service is MatrixRTC's side of the homeserver.
type Service struct{ o Options }

// New makes the service. Close ends it.
func New(ctx context.Context, o Options) (*Service, error) { return &Service{o: o}, nil }

// Close ends the delegations that run; they go on after the next start.
func (s *Service) Close() {}

// Routes are the operations, those under /livekit/jwt too.
func (s *Service) Routes() []route.Route { return nil }

// WellKnown is what calls add to /.well-known/matrix/client; nil without a relay.
func (s *Service) WellKnown(r *http.Request) map[string]any { return nil }

// Userinfo returns whose OpenID token it is. Errors: *mx.Error UnknownToken.
// Spec: s2s#get_matrixfederationv1openiduserinfo
func (s *Service) Userinfo(ctx context.Context, token string) (sub string, err error) {
	return "", nil
}
