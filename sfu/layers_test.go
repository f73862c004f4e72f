package sfu

import (
	"testing"
	"time"

	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"
)

// Pictures are looked at whenever it is, also while somebody comes into the call and
// LiveKit has not settled yet how they get them.
func TestPicturesOfNewcomers(t *testing.T) {
	s, base := begin(t, Options{NodeIP: "127.0.0.1"})
	ensure(t, s, "room")
	e, err := s.running()
	if err != nil {
		t.Fatal(err)
	}
	alice, err := call(t, base, token(t, s, "room", "alice"))
	if err != nil {
		t.Fatal(err)
	}
	track, err := webrtc.NewTrackLocalStaticSample(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}, "video", "camera")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alice.LocalParticipant.PublishTrack(track, &lksdk.TrackPublicationOptions{Name: "camera", VideoWidth: 320, VideoHeight: 240}); err != nil {
		t.Fatal(err)
	}
	go func() {
		// A key frame of VP8 (RFC 6386, 9.1) with nothing in it.
		frame := append([]byte{0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00}, make([]byte, 500)...)
		for t.Context().Err() == nil {
			track.WriteSample(media.Sample{Data: frame, Duration: 50 * time.Millisecond})
			time.Sleep(50 * time.Millisecond)
		}
	}()
	bound := make(chan struct{})
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		for {
			select {
			case <-bound:
				return
			default:
				e.widen([]string{"room"}, nil)
			}
		}
	}()
	bob := lksdk.NewRoomCallback()
	seen := make(chan struct{}, 1)
	bob.OnTrackSubscribed = func(*webrtc.TrackRemote, *lksdk.RemoteTrackPublication, *lksdk.RemoteParticipant) {
		seen <- struct{}{}
	}
	room, err := lksdk.ConnectToRoomWithToken(base, token(t, s, "room", "bob"), bob, lksdk.WithDisableRegionDiscovery())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(room.Disconnect)
	select {
	case <-seen:
	case <-time.After(30 * time.Second):
		t.Error("bob does not see alice")
	}
	close(bound)
	<-looked
}
