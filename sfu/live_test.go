package sfu

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
)

// value is a figure of Metrics, of a histogram how often it was observed.
func value(t *testing.T, name string, labels map[string]string) float64 {
	t.Helper()
	all, err := Metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			got := map[string]string{}
			for _, l := range m.GetLabel() {
				got[l.GetName()] = l.GetValue()
			}
			if !maps.Equal(got, labels) {
				continue
			}
			switch {
			case m.Counter != nil:
				return m.GetCounter().GetValue()
			case m.Histogram != nil:
				return float64(m.GetHistogram().GetSampleCount())
			}
			return m.GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no figure %s%v", name, labels)
	return 0
}

// The live view shows who is in a call, by which way, with the bit rates and losses that
// the relay counted; the figures say the same; a call can be ended from outside.
func TestLive(t *testing.T) {
	s, base := begin(t, Options{Kept: time.Second})
	if got, err := s.Calls(t.Context(), ""); err != nil || len(got) != 0 {
		t.Fatalf("calls before the first: %v %v", got, err)
	}
	type figure struct {
		name   string
		labels map[string]string
	}
	figures := []figure{
		{"holdfast_calls_joins_total", nil},
		{"holdfast_calls_leaves_total", map[string]string{"reason": leftSelf}},
		{"holdfast_calls_leaves_total", map[string]string{"reason": leftEnded}},
		{"holdfast_calls_failed_joins_total", map[string]string{"reason": failedToken}},
		{"holdfast_calls_packets_total", map[string]string{"direction": "in"}},
		{"holdfast_calls_packets_total", map[string]string{"direction": "out"}},
		{"holdfast_calls_bytes_total", map[string]string{"direction": "in"}},
		{"holdfast_calls_packets_lost_total", map[string]string{"direction": "in"}},
		{"holdfast_calls_rtt_seconds", nil},
		{"holdfast_calls_loss_ratio", map[string]string{"direction": "in"}},
	}
	var before []float64
	for _, f := range figures {
		before = append(before, value(t, f.name, f.labels))
	}

	ensure(t, s, "call")
	begun := time.Now()
	alice, err := call(t, base, token(t, s, "call", "alice"))
	if err != nil {
		t.Fatal(err)
	}
	bob, err := call(t, base, token(t, s, "call", "bob"), lksdk.WithICETransportPolicy(webrtc.ICETransportPolicyRelay))
	if err != nil {
		t.Fatal(err)
	}
	bob.speak(t)
	// One packet in ten of alice's sound does not arrive.
	sound, err := webrtc.NewTrackLocalStaticRTP(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}, "audio", "mic")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alice.LocalParticipant.PublishTrack(sound, &lksdk.TrackPublicationOptions{Name: "mic", Source: livekit.TrackSource_MICROPHONE}); err != nil {
		t.Fatal(err)
	}
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for n := 0; t.Context().Err() == nil; n++ {
			<-tick.C
			if n%10 != 5 {
				sound.WriteRTP(&rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: uint16(n), Timestamp: uint32(n) * 960}, Payload: make([]byte, 100)})
			}
		}
	}()

	see := func() (Call, Participant, Participant) {
		list, err := s.Calls(t.Context(), "call")
		if err != nil || len(list) != 1 || len(list[0].People) != 2 {
			t.Fatalf("%+v %v", list, err)
		}
		a, b := list[0].People[0], list[0].People[1]
		if a.Identity != "alice" {
			a, b = b, a
		}
		return list[0], a, b
	}
	eventually(t, "bit rates, losses and round trips are seen", 60*time.Second, func() bool {
		_, a, b := see()
		return a.Up.Bits > 20_000 && a.Up.Loss > .05 && a.Up.Loss < .15 && b.Down.Bits > 20_000 && b.Up.Bits > 0 && a.RTT > 0 && b.RTT > 0
	})
	c, a, b := see()
	if a.Path != PathUDP || b.Path != PathTURN || a.Family == "" || b.Family == "" {
		t.Errorf("alice by %q %q, bob by %q %q", a.Path, a.Family, b.Path, b.Family)
	}
	if a.Up.Bits > 200_000 || a.Up.Jitter < 0 || a.Quality == "" || b.Up.Loss > .03 {
		t.Errorf("%+v\n%+v", a, b)
	}
	if len(a.Tracks) != 1 || a.Tracks[0].Kind != "audio" || a.Tracks[0].Source != "microphone" || !strings.EqualFold(a.Tracks[0].Codec, "opus") {
		t.Errorf("alice sends %+v", a.Tracks)
	}
	if !strings.HasPrefix(a.Client, "go ") {
		t.Errorf("alice's program is %q", a.Client)
	}
	if c.Began.Before(begun) || a.Since.Before(begun.Add(-time.Second)) || c.Participants != 2 || c.UpBits < a.Up.Bits/2 || c.Loss < .05 {
		t.Errorf("%+v", c)
	}
	if list, err := s.Calls(t.Context(), ""); err != nil || len(list) != 1 || list[0].People != nil || list[0].Participants != 2 {
		t.Errorf("the list: %+v %v", list, err)
	}
	if _, err := s.Calls(t.Context(), "other"); !errors.Is(err, ErrNoCall) {
		t.Errorf("a call that is not: %v", err)
	}
	for way, least := range map[Path]float64{PathUDP: 1, PathTURN: 1} {
		family := map[Path]string{PathUDP: a.Family, PathTURN: b.Family}[way]
		eventually(t, "the connections are counted", 20*time.Second, func() bool {
			return value(t, "holdfast_calls_connections", map[string]string{"transport": string(way), "family": family}) >= least
		})
	}
	eventually(t, "LiveKit's own figures are told", 30*time.Second, func() bool {
		for i, f := range figures {
			if strings.HasPrefix(f.name, "holdfast_calls_packets") && value(t, f.name, f.labels) <= before[i] {
				return false
			}
		}
		return true
	})
	if got := s.StreamStats().Relayed; got == 0 {
		t.Error("no allocation at TURN is seen")
	}

	if resp, err := http.Get("http" + strings.TrimPrefix(base, "ws") + "/rtc?access_token=nonsense"); err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("%v %v", resp, err)
	}
	alice.Disconnect()
	eventually(t, "alice is not seen any more", 20*time.Second, func() bool { l, err := s.Calls(t.Context(), "call"); return err == nil && l[0].Participants == 1 })
	old := token(t, s, "call", "bob")
	if err := s.End(t.Context(), "call"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the call is over", 20*time.Second, func() bool { return len(s.Participants("call")) == 0 })
	ensure(t, s, "call")
	if _, err := call(t, base, old); err == nil {
		t.Error("the token of who was in a call that was ended is still good")
	}
	if err := s.End(t.Context(), "call"); !errors.Is(err, ErrNoCall) {
		t.Errorf("an end of no call: %v", err)
	}
	for i, f := range figures {
		if value(t, f.name, f.labels) <= before[i] {
			t.Errorf("%s%v did not grow", f.name, f.labels)
		}
	}
	// What has no values of ours as labels has LiveKit's name.
	all, err := Metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if strings.HasPrefix(f.GetName(), "holdfast_") {
			if len(f.GetMetric()) > 8 {
				t.Errorf("%s has %d series", f.GetName(), len(f.GetMetric()))
			}
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if !slices.Contains([]string{"reason", "direction", "transport", "family"}, l.GetName()) {
						t.Errorf("%s has the label %s", f.GetName(), l.GetName())
					}
				}
			}
		}
	}
}

// What a client says of itself is shown as text of a bounded length.
func TestClientName(t *testing.T) {
	for want, c := range map[string]*livekit.ClientInfo{
		"":                         nil,
		"Firefox 150.0, Linux":     {Browser: "Firefox", BrowserVersion: "150.0", Os: "Linux"},
		"swift 2.1, iOS, iPhone15": {Sdk: livekit.ClientInfo_SWIFT, Version: "2.1", Os: "iOS", DeviceModel: "iPhone15"},
		"ab":                       {Browser: "a\x00\nb"},
		strings.Repeat("x", 64):    {Browser: strings.Repeat("x", 100_000)},
	} {
		if got := clientName(c); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Losses and rates are of the last seconds, and a counter that goes back makes none.
func TestLinks(t *testing.T) {
	t0 := time.Unix(1000, 0)
	p := &person{looks: []look{
		{at: t0, up: counts{1000, 100, 10}, down: counts{0, 0, 5}},
		{at: t0.Add(10 * time.Second), up: counts{11_000, 190, 20}, down: counts{125_000, 100, 4}},
	}}
	up, down := p.links()
	if up.Bits != 8000 || up.Loss != .1 || down.Bits != 100_000 || down.Loss != 0 {
		t.Errorf("%+v %+v", up, down)
	}
	if up, down := (&person{looks: p.looks[:1]}).links(); up.Bits != 0 || down.Loss != 0 {
		t.Errorf("after one look: %+v %+v", up, down)
	}
}
