package sfu

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"
)

// lockedBuffer is a log that several write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A browser that hides its addresses offers names that nobody else can resolve (mDNS,
// RFC 8828). The relay answers to where it sends from, does not wait for the names, and
// does not complain of them.
func TestHiddenAddresses(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var log lockedBuffer
	s, err := New(Options{NodeIP: "127.0.0.1", UDPPort: AnyPort, TCPPort: AnyPort, TURNPort: AnyPort,
		Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	base := serveSFU(t, s)
	ensure(t, s, "room")
	hidden := func(identity string) *client {
		t.Helper()
		c, err := dial(ctx, base+"/rtc", token(t, s, "room", identity), PathUDP, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.close)
		for target, pc := range map[livekit.SignalTarget]*webrtc.PeerConnection{livekit.SignalTarget_PUBLISHER: c.pub, livekit.SignalTarget_SUBSCRIBER: c.sub} {
			pc.OnICECandidate(func(cand *webrtc.ICECandidate) {
				if cand == nil {
					return
				}
				init := cand.ToJSON()
				init.Candidate = strings.Replace(init.Candidate, " "+cand.Address+" ", " 1f4712db-ea17-4bcf-a596-105139dfd8bf.local ", 1)
				if !strings.Contains(init.Candidate, ".local ") {
					t.Errorf("%s is no candidate with a name", init.Candidate)
				}
				b, err := json.Marshal(init)
				if err != nil {
					t.Error(err)
				}
				c.send(&livekit.SignalRequest{Message: &livekit.SignalRequest_Trickle{Trickle: &livekit.TrickleRequest{CandidateInit: string(b), Target: target}}})
			})
		}
		return c
	}
	bob, alice := hidden("bob"), hidden("alice")
	heard := make(chan struct{})
	var once sync.Once
	bob.onTrack = func(track *webrtc.TrackRemote) {
		for {
			if _, _, err := track.ReadRTP(); err != nil {
				return
			}
			once.Do(func() { close(heard) })
		}
	}
	go bob.run()
	track, err := alice.publish()
	if err != nil {
		t.Fatal(err)
	}
	go alice.run()
	if err := alice.await(ctx, alice.pubUp); err != nil {
		t.Fatal(err)
	}
	for tick := time.Tick(20 * time.Millisecond); ; {
		select {
		case <-tick:
			if err := track.WriteSample(media.Sample{Data: []byte{0xf8, 0xff, 0xfe}, Duration: 20 * time.Millisecond}); err != nil {
				t.Fatal(err)
			}
			continue
		case <-heard:
		case <-ctx.Done():
			t.Fatalf("bob hears nothing\n%s", &log)
		}
		break
	}
	if said := log.String(); strings.Contains(said, ".local") || strings.Contains(said, "mDNS") || strings.Contains(said, "level=WARN") || strings.Contains(said, "level=ERROR") {
		t.Errorf("the relay complains:\n%s", said)
	}
}
