// Package sfu runs the call relay: LiveKit, assembled inside this process behind
// a small interface.
//
// Invariants: the package opens no HTTP listener (signalling comes in through
// Handler); media uses one UDP port, one TCP port as fall-back, and one TURN port;
// clients are never told of a STUN or TURN server other than this one; rooms exist
// only after EnsureRoom; keys are random for each start and stay in memory.
package sfu

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"
)

// Options of New.
type Options struct {
	Log *slog.Logger // nil: discarded

	UDPPort  int // media, one port for everybody. 0: a free one
	TCPPort  int // media when UDP is blocked. 0: a free one
	TURNPort int // embedded TURN, UDP. 0: a free one

	// NodeIP is the address that clients send media to. Empty: chosen from the
	// machine's interfaces.
	NodeIP string
}

// Event says that a participant came or went.
type Event struct {
	Room, Identity string
	Joined         bool // false: left
}

// Stats are the relay's present figures.
type Stats struct {
	Rooms, Participants, Tracks int
}

// ErrNotRunning means that Start was not called, or Close was.
var ErrNotRunning = errors.New("sfu: the call relay is not running")

// SFU is the call relay. Its methods are safe for concurrent use.
type SFU struct{ o Options }

// New prepares a relay.
func New(o Options) (*SFU, error) { return &SFU{o: o}, nil }

// Start opens the media ports. It returns when calls can be made.
func (s *SFU) Start(ctx context.Context) error { return ErrNotRunning }

// Close ends all calls and closes the media ports. ctx bounds how long
// participants are given to leave.
func (s *SFU) Close(ctx context.Context) error { return nil }

// Handler answers signalling: mount it with http.StripPrefix("/livekit/sfu", ...).
func (s *SFU) Handler() http.Handler { return http.NotFoundHandler() }

// Mint returns a token that lets identity join room, and only room, for ttl.
func (s *SFU) Mint(ctx context.Context, room, identity, name string, ttl time.Duration) (string, error) {
	return "", ErrNotRunning
}

// EnsureRoom creates the room unless it exists.
func (s *SFU) EnsureRoom(ctx context.Context, room string) error { return ErrNotRunning }

// Participants lists the identities in a room.
func (s *SFU) Participants(room string) []string { return nil }

// Stats returns the present figures.
func (s *SFU) Stats() Stats { return Stats{} }

// Subscribe has f called whenever a participant comes (media connected) or goes.
// f must be quick. The returned function ends it.
func (s *SFU) Subscribe(f func(room, identity string, joined bool)) (cancel func()) {
	return func() {}
}

// SelfTest makes two clients join a room of their own through the relay's ports
// and passes media between them. base is the URL under which Handler is mounted,
// as a client reaches it, or empty to stay inside the process.
func (s *SFU) SelfTest(ctx context.Context) (time.Duration, error) { return 0, ErrNotRunning }
