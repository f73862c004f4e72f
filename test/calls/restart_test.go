package calls

import (
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	lksdk "github.com/livekit/server-sdk-go/v2"

	"github.com/livekit/protocol/logger"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"

	"holdfast/appliance/appliancetest"
)

// talker is somebody in a call who speaks all the time.
type talker struct {
	*lksdk.Room
	heard atomic.Int64 // packets of others
	ended atomic.Bool  // the client gave up: a person would have to click
}

func talk(t *testing.T, url, jwt string) *talker {
	t.Helper()
	p := &talker{}
	cb := lksdk.NewRoomCallback()
	cb.OnTrackSubscribed = func(track *webrtc.TrackRemote, _ *lksdk.RemoteTrackPublication, _ *lksdk.RemoteParticipant) {
		for {
			if _, _, err := track.ReadRTP(); err != nil {
				return
			}
			p.heard.Add(1)
		}
	}
	cb.OnDisconnected = func() { p.ended.Store(true) }
	var err error
	p.Room, err = lksdk.ConnectToRoomWithToken(url, jwt, cb, lksdk.WithLogger(logger.GetDiscardLogger()), lksdk.WithDisableRegionDiscovery(), lksdk.WithConnectTimeout(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Disconnect)
	track, err := webrtc.NewTrackLocalStaticSample(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}, "audio", "mic")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.LocalParticipant.PublishTrack(track, &lksdk.TrackPublicationOptions{Name: "mic"}); err != nil {
		t.Fatal(err)
	}
	go func() {
		for t.Context().Err() == nil {
			track.WriteSample(media.Sample{Data: []byte{0xf8, 0xff, 0xfe}, Duration: 20 * time.Millisecond})
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return p
}

// hearEachOther waits until all hear more than they do now.
func hearEachOther(t *testing.T, within time.Duration, all ...*talker) {
	t.Helper()
	var before []int64
	for _, p := range all {
		before = append(before, p.heard.Load())
	}
	eventually(t, "everybody hears somebody", within, func() bool {
		for i, p := range all {
			if p.heard.Load() < before[i]+25 {
				return false
			}
		}
		return true
	})
}

// freePort is a port that can be had again after a restart.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func membership(roomID string, u *appliancetest.User) string {
	return "/_matrix/client/v3/rooms/" + url.PathEscape(roomID) + "/state/" + memberType + "/_" + u.ID + "_" + u.Device + "_m.call"
}

// enter brings somebody into a room's call, with a leave that the server keeps for them.
func (h house) enter(t *testing.T, roomID string, u *appliancetest.User) *talker {
	t.Helper()
	var delayed map[string]any
	if code := u.Do(t, "PUT", membership(roomID, u)+"?org.matrix.msc4140.delay=3600000", map[string]any{}, &delayed); code != 200 {
		t.Fatal(code, delayed)
	}
	if code := u.Do(t, "PUT", membership(roomID, u), map[string]any{"application": "m.call", "device_id": u.Device}, nil); code != 200 {
		t.Fatal(code)
	}
	code, out := h.ask(t, roomID, u.Device, openID(t, u), map[string]any{"delay_id": delayed["delay_id"], "delay_timeout": 3600000})
	if code != 200 {
		t.Fatal(code, out)
	}
	return talk(t, out["url"].(string), out["jwt"].(string))
}

// member reports whether by sees u in a room's call.
func (h house) member(t *testing.T, roomID string, by, u *appliancetest.User) bool {
	t.Helper()
	var out map[string]any
	if code := by.Do(t, "GET", membership(roomID, u), nil, &out); code != 200 {
		t.Fatal(code)
	}
	return len(out) > 0
}

// comesBack is how soon a call has to be back after a restart.
const comesBack = 15 * time.Second

// The whole appliance restarts in the middle of a call, which nobody has to join anew:
// the clients come back by themselves, nobody counts as having left meanwhile, and
// whoever lost the right to be there stays out.
func TestRestart(t *testing.T) {
	t.Parallel() // it waits most of the time
	h := house{appliancetest.Start(t, "sfu.enabled=true", "sfu.drain=3", "listen.http="+freePort(t))}
	alice, bob, carol := h.Login(t, "alice"), h.Login(t, "bob"), h.Login(t, "carol")
	roomID := h.makeRoom(t, alice, bob, carol)
	enter := func(u *appliancetest.User) *talker { t.Helper(); return h.enter(t, roomID, u) }
	member := func(u *appliancetest.User) bool { t.Helper(); return h.member(t, roomID, alice, u) }
	_, c := h.ask(t, roomID, carol.Device, openID(t, carol), nil)
	if code := alice.Do(t, "POST", "/_matrix/client/v3/rooms/"+url.PathEscape(roomID)+"/kick", map[string]any{"user_id": carol.ID}, nil); code != 200 {
		t.Fatal(code)
	}
	a, b := enter(alice), enter(bob)
	hearEachOther(t, 30*time.Second, a, b)

	stopped := make(chan struct{})
	go func() { h.Close(); close(stopped) }()
	eventually(t, "doctor says that the relay drains", 3*time.Second, func() bool {
		out, _, _ := h.CLI(t, "doctor")
		return strings.Contains(out, "is about to stop")
	})
	hearEachOther(t, 3*time.Second, a, b)
	if status, out := h.ask(t, roomID, bob.Device, openID(t, bob), nil); status != http.StatusOK {
		t.Errorf("who is in the call gets no token during the drain: %d %v", status, out)
	}
	<-stopped
	begun := time.Now()
	h.Restart(t)
	hearEachOther(t, comesBack, a, b)
	t.Log("the call was back after", time.Since(begun).Round(time.Millisecond))
	if a.ended.Load() || b.ended.Load() {
		t.Error("a client took the restart for the end of the call")
	}
	if !member(alice) || !member(bob) {
		t.Errorf("in the room alice is shown in the call: %t, bob: %t", member(alice), member(bob))
	}
	if again, err := connect(t, c["url"].(string), c["jwt"].(string)); err == nil {
		again.Disconnect()
		t.Error("who was put out of the room before the restart comes into the call after it")
	}
	// The delegated leave outlived the restart.
	b.Disconnect()
	eventually(t, "bob is no member of the call", noGhost, func() bool { return !member(bob) })
	if !member(alice) {
		t.Error("alice is no member of the call")
	}
	// What signs the tokens is not told to anybody.
	if out, err := json.Marshal(h.Log.String()); err != nil || strings.Contains(string(out), c["jwt"].(string)) {
		t.Error("the log has a token", err)
	}
}
