//go:build linux

package calls

import (
	"context"
	"encoding/binary"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	"github.com/livekit/protocol/logger"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/webrtc/v4"

	"holdfast/sfu"
	"holdfast/sfu/process"
)

// traffic is what a listener has got.
type traffic struct {
	bits   map[livekit.TrackSource]int64
	width  map[livekit.TrackSource]int
	heard  int64 // packets of sound
	latest int64 // number of the latest
	at     time.Time
}

type listener struct {
	mu sync.Mutex
	traffic
}

func (l *listener) look() traffic {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.traffic
	out.at = time.Now()
	out.bits, out.width = map[livekit.TrackSource]int64{}, map[livekit.TrackSource]int{}
	for k, v := range l.bits {
		out.bits[k] = v
	}
	for k, v := range l.width {
		out.width[k] = v
	}
	return out
}

// kbps are the kilobits a second between two looks.
func kbps(from, to traffic, sources ...livekit.TrackSource) float64 {
	var bits int64
	for _, s := range sources {
		bits += to.bits[s] - from.bits[s]
	}
	return float64(bits) / 1000 / to.at.Sub(from.at).Seconds()
}

func (l *listener) read(track *webrtc.TrackRemote, source livekit.TrackSource) {
	for {
		p, _, err := track.ReadRTP()
		if err != nil {
			return
		}
		l.mu.Lock()
		l.bits[source] += int64(8 * p.MarshalSize())
		if source == livekit.TrackSource_MICROPHONE && len(p.Payload) == 80 {
			l.heard++
			l.latest = max(l.latest, int64(binary.BigEndian.Uint64(p.Payload[8:])))
		}
		if width, _ := keyWidth(p.Payload); width > 0 {
			l.width[source] = width
		}
		l.mu.Unlock()
	}
}

// TestBitrates has somebody send a camera's picture and a shared screen without heed of
// any limit, and looks at what a listener gets of it.
func TestBitrates(t *testing.T) {
	t.Parallel() // it waits most of the time
	const camera, screen, sound = livekit.TrackSource_CAMERA, livekit.TrackSource_SCREEN_SHARE, livekit.TrackSource_MICROPHONE
	for _, c := range []struct {
		name           string
		o              sfu.Options
		camera, screen []layer
		cameraWidth    int // 0: nothing of it
		screenWidth    int
		total          float64 // kbit/s at most, of everything
	}{
		{"none", sfu.Options{}, cameraLayers, screenLayers, 1280, 1920, 4000},
		{"each picture", sfu.Options{MaxVideoKbps: 1000, MaxScreenKbps: 800}, cameraLayers, screenLayers, 640, 960, 1000 + 800 + 60},
		{"all that one receives", sfu.Options{MaxReceivedKbps: 700}, cameraLayers, screenLayers, 320, 960, 700},
		{"no size fits", sfu.Options{MaxVideoKbps: 1000, MaxReceivedKbps: 2500}, cameraLayers[2:], screenLayers, 0, 1920, 2500},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.o.UDPPort, c.o.TCPPort, c.o.TURNPort = sfu.AnyPort, sfu.AnyPort, sfu.AnyPort
			relay, err := process.New(process.Options{Options: c.o})
			if err != nil {
				t.Fatal(err)
			}
			if err := relay.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			web := httptest.NewServer(http.StripPrefix("/livekit/sfu", relay.Handler()))
			t.Cleanup(func() {
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				relay.Close(ctx)
				web.CloseClientConnections()
				web.Close()
			})
			if err := relay.EnsureRoom(t.Context(), "call"); err != nil {
				t.Fatal(err)
			}
			join := func(name string, cb *lksdk.RoomCallback) *lksdk.Room {
				token, err := relay.Mint(t.Context(), "call", name, name, time.Hour)
				if err != nil {
					t.Fatal(err)
				}
				room, err := lksdk.ConnectToRoomWithToken("ws"+strings.TrimPrefix(web.URL, "http")+"/livekit/sfu", token, cb,
					lksdk.WithLogger(logger.GetDiscardLogger()), lksdk.WithDisableRegionDiscovery(), lksdk.WithConnectTimeout(30*time.Second))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(room.Disconnect)
				return room
			}
			l := &listener{traffic: traffic{bits: map[livekit.TrackSource]int64{}, width: map[livekit.TrackSource]int{}}}
			cb := lksdk.NewRoomCallback()
			cb.OnTrackSubscribed = func(track *webrtc.TrackRemote, pub *lksdk.RemoteTrackPublication, _ *lksdk.RemoteParticipant) {
				l.read(track, pub.Source())
			}
			join("bob", cb)
			alice := join("alice", lksdk.NewRoomCallback())
			mic, err := lksdk.NewLocalTrack(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2})
			if err != nil {
				t.Fatal(err)
			}
			if err := mic.StartWrite(&voice{}, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := alice.LocalParticipant.PublishTrack(mic, &lksdk.TrackPublicationOptions{Name: "mic", Source: sound}); err != nil {
				t.Fatal(err)
			}
			show(t, alice, "camera", camera, c.camera)
			show(t, alice, "screen", screen, c.screen)

			var from, to traffic
			eventually(t, "what comes is as the limits have it", 40*time.Second, func() bool {
				from = l.look()
				time.Sleep(3 * time.Second)
				to = l.look()
				if kbps(from, to, sound) < 20 || (kbps(from, to, camera) > 0) != (c.cameraWidth > 0) {
					return false
				}
				return (c.cameraWidth == 0 || to.width[camera] == c.cameraWidth) && to.width[screen] == c.screenWidth
			})
			// From here on it stays so.
			from = l.look()
			time.Sleep(4 * time.Second)
			to = l.look()
			t.Logf("kbit/s: camera %.0f, screen %.0f, sound %.0f", kbps(from, to, camera), kbps(from, to, screen), kbps(from, to, sound))
			if got := kbps(from, to, camera, screen, sound); got > c.total {
				t.Errorf("%.0f kbit/s came, %.0f are allowed", got, c.total)
			}
			if limit := float64(c.o.MaxVideoKbps); limit > 0 && kbps(from, to, camera) > limit {
				t.Errorf("the camera's picture takes %.0f kbit/s", kbps(from, to, camera))
			}
			if limit := float64(c.o.MaxScreenKbps); limit > 0 && kbps(from, to, screen) > limit {
				t.Errorf("the screen takes %.0f kbit/s", kbps(from, to, screen))
			}
			if missing := to.latest - from.latest - (to.heard - from.heard); missing > 2 {
				t.Errorf("%d packets of sound are missing", missing)
			}
		})
	}
}
