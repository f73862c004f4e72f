package sfu

import (
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/livekit/livekit-server/pkg/rtc/types"
	"github.com/livekit/livekit-server/pkg/sfu/bwe/sendsidebwe"
	"github.com/livekit/livekit-server/pkg/sfu/ccutils"
	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"
)

// A line on which a picture of two hundred packets a second loses too much unless it is the
// smallest.
func TestPicturesThatLoseMuchGetSmaller(t *testing.T) {
	var n narrow
	size, widest := allSizes, allSizes // that is sent, that fits
	watch := func(from, seconds int, lost func(second int) uint64) (out []int32) {
		for i := from; i < from+seconds; i++ {
			l := lost(i)
			if size <= widest {
				l = 0
			}
			size = n.largest(time.Unix(int64(i), 0), 200, l, func() int32 { return size })
			out = append(out, size)
		}
		return out
	}
	// One in seven is what a bad line loses: the estimate is left to deal with it.
	widest = -1
	if got := watch(0, 600, always(28)); slices.ContainsFunc(got, func(x int32) bool { return x != allSizes }) {
		t.Fatalf("held back for %v", runs(got, allSizes))
	}
	widest = 0
	got := watch(600, 60, always(80))
	if i := slices.Index(got, 1); i < 2 || i > 6 {
		t.Errorf("smaller after %d seconds: %v", i, got)
	}
	if i := slices.Index(got, 0); i < 6 || i > 12 {
		t.Errorf("as small as can be after %d seconds: %v", i, got)
	}
	if r := runs(got, 0); len(r) < 2 || r[0] != 5 || r[1] != 10 {
		t.Errorf("small for %v seconds: %v", r, got)
	}
	// The line is wide again, and it is forgotten after a minute.
	widest = allSizes
	watch(660, 120, always(80))
	if size != allSizes || n.pause != 0 {
		t.Errorf("%d after two good minutes: %+v", size, n)
	}
	// A cut: no reports for eight seconds, then one of all that was lost.
	widest, n = -1, narrow{}
	for i := range 60 {
		expected, lost := uint64(200), uint64(0)
		switch {
		case i >= 20 && i < 28:
			expected = 0
		case i == 28:
			expected, lost = 1800, 1600
		}
		if got := n.largest(time.Unix(int64(i), 0), expected, lost, func() int32 { return allSizes }); got != allSizes {
			t.Fatalf("held back after a cut, at %d s", i)
		}
	}
}

func TestLinesThatStayFullAreTriedAnew(t *testing.T) {
	var s stuck
	tried := func(from, seconds int, full bool, lost uint64) (out []int) {
		for i := from; i < from+seconds; i++ {
			if s.anew(time.Unix(int64(i), 0), full, 100, lost) {
				out = append(out, i-from)
			}
		}
		return out
	}
	if got := tried(0, 600, false, 0); got != nil {
		t.Errorf("a line that is not full was tried after %v", got)
	}
	if got := tried(600, 600, true, 5); got != nil {
		t.Errorf("a line that loses one in twenty was tried after %v", got)
	}
	tried(1200, 1, false, 0)
	if got := tried(1201, 2400, true, 1); !slices.Equal(got, []int{10, 30, 70, 150, 310, 630, 1230, 1830}) {
		t.Errorf("tried after %v", got)
	}
	tried(3601, 90, false, 0) // it helped
	if got := tried(3691, 20, true, 1); !slices.Equal(got, []int{10}) {
		t.Errorf("tried after %v", got)
	}
}

// A listener's clock that runs fast makes LiveKit take the line for full. If this fails
// because it does not any more, estimateAnew and what is about it can go.
func TestClocksThatRunFastFillLines(t *testing.T) {
	const id = livekit.ParticipantID("PA_fast")
	defer congestion.forget(id)
	log := newLogger(slog.New(slog.DiscardHandler)).WithValues("participantID", id)
	b := sendsidebwe.NewSendSideBWE(sendsidebwe.SendSideBWEParams{Config: sendsidebwe.DefaultSendSideBWEConfig, Logger: log})
	draw := rand.New(rand.NewPCG(1, 2))
	const tick, reference = 250, 64_000 // microseconds
	type packet struct {
		number uint16
		came   int64 // microseconds
	}
	var came []packet
	last, n := int64(0), uint8(0)
	for now := int64(0); now < 120_000_000 && !congestion.has(id); now += 5000 {
		number := b.RecordPacketSendAndGetSequenceNumber(time.Now().UnixMicro()+now, 1000, false, ccutils.ProbeClusterIdInvalid, false)
		// A thousandth: what takes a clock of common quality an hour takes a minute.
		last = max(last+tick, now+now/1000+1_000_000_000+int64(draw.IntN(200)))
		if came = append(came, packet{number, last / tick * tick}); len(came) < 20 {
			continue
		}
		at := came[0].came / reference
		report := &rtcp.TransportLayerCC{BaseSequenceNumber: came[0].number, PacketStatusCount: uint16(len(came)), ReferenceTime: uint32(at), FbPktCount: n,
			PacketChunks: []rtcp.PacketStatusChunk{&rtcp.RunLengthChunk{PacketStatusSymbol: rtcp.TypeTCCPacketReceivedSmallDelta, RunLength: uint16(len(came))}}}
		before := at * reference
		for _, p := range came {
			report.RecvDeltas = append(report.RecvDeltas, &rtcp.RecvDelta{Type: rtcp.TypeTCCPacketReceivedSmallDelta, Delta: p.came - before})
			before = p.came
		}
		b.HandleTWCCFeedback(report)
		came, n = came[:0], n+1
	}
	if !congestion.has(id) {
		t.Error("the line does not count as full")
	}
}

func TestPicturesGrowWhenLinesAreTriedAnew(t *testing.T) {
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
	var tracks []*lksdk.LocalTrack
	for i, l := range []*livekit.VideoLayer{{Quality: livekit.VideoQuality_LOW, Width: 320, Height: 180}, {Quality: livekit.VideoQuality_MEDIUM, Width: 640, Height: 360},
		{Quality: livekit.VideoQuality_HIGH, Width: 1280, Height: 720}} {
		track, err := lksdk.NewLocalTrack(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}, lksdk.WithSimulcast("camera", l))
		if err != nil {
			t.Fatal(err)
		}
		tracks = append(tracks, track)
		go func() {
			// Key frames of VP8 (RFC 6386, 9.1), with nothing in them.
			frame := append([]byte{0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, byte(l.Width), byte(l.Width >> 8), byte(l.Height), byte(l.Height >> 8)}, make([]byte, 500<<i)...)
			for t.Context().Err() == nil {
				track.WriteSample(media.Sample{Data: frame, Duration: 50 * time.Millisecond}, nil)
				time.Sleep(50 * time.Millisecond)
			}
		}()
	}
	if _, err := alice.LocalParticipant.PublishSimulcastTrack(tracks, &lksdk.TrackPublicationOptions{Name: "camera", VideoWidth: 1280, VideoHeight: 720}); err != nil {
		t.Fatal(err)
	}
	if _, err := call(t, base, token(t, s, "room", "bob")); err != nil {
		t.Fatal(err)
	}
	var bob types.LocalParticipant
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not %s", what)
			}
		}
	}
	sent := func() int32 {
		for _, x := range bob.GetSubscribedTracks() {
			if x.IsBound() {
				return forwarded(x.DownTrack())
			}
		}
		return -1
	}
	until("there", func() bool {
		bob = e.rooms.GetRoom(t.Context(), "room").GetParticipant("bob")
		return bob != nil
	})
	until("large", func() bool { return sent() == 2 })
	until("small", func() bool {
		bob.SetSubscriberChannelCapacity(60_000) // it counts from when the sizes' bitrates are known
		time.Sleep(200 * time.Millisecond)
		return sent() == 0
	})
	congestion.hear("participantID", bob.ID(), "to", "CONGESTED")
	until("large again", func() bool { return sent() == 2 })
	until("found to be free", func() bool { return !congestion.has(bob.ID()) })
}
