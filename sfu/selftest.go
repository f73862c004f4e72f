package sfu

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"
)

// Path is a way that media can take.
type Path string

// The ways, in the order that clients prefer.
const (
	PathUDP  Path = "udp"  // straight to the UDP port
	PathTURN Path = "turn" // through the embedded TURN server
	PathTCP  Path = "tcp"  // to the TCP port
	// PathHTTPS is TURN at the HTTPS port, which the relay is not told to probe.
	PathHTTPS Path = "https"
)

// HopError names the part of a call that does not work.
type HopError struct {
	Hop string // "start", "signalling", "publish", "subscribe" or "media"
	Err error
}

func (e *HopError) Error() string { return "the call relay fails at " + e.Hop + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *HopError) Unwrap() error { return e.Err }

func hop(name string, err error) error {
	if err == nil {
		return nil
	}
	return &HopError{name, err}
}

// SelfTest makes two clients call each other through the relay's UDP port and
// returns how long it took from nothing to the first sound. Errors: *HopError.
func (s *SFU) SelfTest(ctx context.Context) (time.Duration, error) { return s.Probe(ctx, PathUDP) }

// selfTestTime bounds a probe whose ctx has no deadline.
const selfTestTime = 15 * time.Second

// Probe is SelfTest by a path of choice. Only signalling stays inside the process:
// media goes through the machine's network.
func (s *SFU) Probe(ctx context.Context, path Path) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, selfTestTime)
	defer cancel()
	return s.try(ctx, way{path: path})
}

// NewTestRoom is a name for a room of a test, which no limit holds for and no list shows.
func NewTestRoom() string { return selfTestRoom + rand.Text() }

// testRoom makes a room for a test, which end takes away again.
func (s *SFU) testRoom(ctx context.Context) (room string, end func(), err error) {
	room = NewTestRoom()
	if err := s.EnsureRoom(ctx, room); err != nil {
		return "", nil, err
	}
	return room, func() {
		if e, err := s.running(); err == nil {
			e.rooms.DeleteRoom(context.Background(), &livekit.DeleteRoomRequest{Room: room})
		}
	}, nil
}

// try has two clients call each other by a way.
func (s *SFU) try(ctx context.Context, w way) (time.Duration, error) {
	begun := time.Now()
	room, end, err := s.testRoom(ctx)
	if err != nil {
		return 0, hop("start", err)
	}
	defer end()

	ln := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: selfTestTime, BaseContext: func(net.Listener) context.Context {
		return WithReach(context.Background(), Reach{HTTPS: w.https})
	}}
	go srv.Serve(ln)
	defer srv.Close()

	join := func(identity string) (*client, error) {
		token, err := s.Mint(ctx, room, identity, "", time.Minute)
		if err != nil {
			return nil, hop("start", err)
		}
		c, err := dialBy(ctx, "ws://self-test/rtc", token, w, ln.dial, nil)
		return c, hop("signalling", err)
	}
	heard := make(chan struct{})
	bob, err := join("bob")
	if err != nil {
		return 0, err
	}
	defer bob.close()
	var first sync.Once
	bob.onTrack = func(t *webrtc.TrackRemote) {
		for n := 0; ; n++ {
			if _, _, err := t.ReadRTP(); err != nil {
				return
			}
			if n == 2 {
				first.Do(func() { close(heard) })
			}
		}
	}
	go bob.run()
	alice, err := join("alice")
	if err != nil {
		return 0, err
	}
	defer alice.close()
	track, err := alice.publish()
	if err != nil {
		return 0, hop("publish", err)
	}
	go alice.run()
	if err := alice.await(ctx, alice.pubUp); err != nil {
		return 0, hop("publish", err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := track.WriteSample(media.Sample{Data: []byte{0xf8, 0xff, 0xfe}, Duration: 20 * time.Millisecond}); err != nil {
				return 0, hop("publish", err)
			}
		case <-heard:
			return time.Since(begun), nil
		case err := <-alice.failed:
			return 0, hop("signalling", err)
		case err := <-bob.failed:
			return 0, hop("signalling", err)
		case <-ctx.Done():
			if bob.connected() {
				return 0, hop("media", errors.New("the connection stands, but no sound came through"))
			}
			return 0, hop("subscribe", fmt.Errorf("no %s connection to the relay: %w", w.path, ctx.Err()))
		}
	}
}

// pipeListener carries HTTP inside the process.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "self-test", Net: "pipe"} }

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		return here, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
