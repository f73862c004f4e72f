//go:build linux

package calls

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"

	"holdfast/appliance/appliancetest"
)

// TestDirectPerson is somebody in a call of TestNetworks that two clients set up by
// themselves (m.call.invite). Both may use nothing but the embedded TURN server, with the
// credentials that the server gives them.
func TestDirectPerson(t *testing.T) {
	name, server, kind := os.Getenv("CALL_PERSON"), os.Getenv("CALL_SERVER"), os.Getenv("CALL_TURN")
	if name == "" || kind == "" {
		t.Skip("runs in a network of its own only")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	a := signIn(t, ctx, name, server)
	s := seen{Token: true, Preferred: map[string]int{}}
	ice := a.turn(kind)
	if name == "alice" {
		refusals(t, ice)
	}
	pc, err := webrtc.NewPeerConnection(webrtc.Configuration{ICEServers: []webrtc.ICEServer{ice}, ICETransportPolicy: webrtc.ICETransportPolicyRelay})
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	var audio, frames atomic.Int64
	pc.OnTrack(func(track *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
		for {
			p, _, err := track.ReadRTP()
			if err != nil {
				return
			}
			if track.Kind() == webrtc.RTPCodecTypeAudio {
				audio.Add(1)
			} else if p.Marker {
				frames.Add(1)
			}
		}
	})
	speak := direct(t, pc)
	const call = "call1"
	content := func(more map[string]any) map[string]any {
		out := map[string]any{"call_id": call, "version": "1", "party_id": a.device}
		for k, v := range more {
			out[k] = v
		}
		return out
	}
	// described waits for all candidates, so that one message has them.
	described := func(sd webrtc.SessionDescription) map[string]any {
		t.Helper()
		all := webrtc.GatheringCompletePromise(pc)
		if err := pc.SetLocalDescription(sd); err != nil {
			t.Fatal(err)
		}
		select {
		case <-all:
		case <-ctx.Done():
			t.Fatal("candidates are not gathered")
		}
		return map[string]any{"type": sd.Type.String(), "sdp": pc.LocalDescription().SDP}
	}
	remote := func(content map[string]any, key string, kind webrtc.SDPType) {
		t.Helper()
		sd, _ := content[key].(map[string]any)
		sdp, _ := sd["sdp"].(string)
		if err := pc.SetRemoteDescription(webrtc.SessionDescription{Type: kind, SDP: sdp}); err != nil {
			t.Fatal(err)
		}
	}
	if name == "alice" {
		eventually(t, "bob is in the room", 90*time.Second, func() bool {
			_, out := a.do("GET", "/_matrix/client/v3/rooms/"+url.PathEscape(a.room)+"/joined_members", nil)
			joined, _ := out["joined"].(map[string]any)
			return len(joined) == 2
		})
		offer, err := pc.CreateOffer(nil)
		if err != nil {
			t.Fatal(err)
		}
		a.send("m.call.invite", content(map[string]any{"lifetime": 60000, "offer": described(offer)}))
		remote(a.receive("m.call.answer"), "answer", webrtc.SDPTypeAnswer)
	} else {
		remote(a.receive("m.call.invite"), "offer", webrtc.SDPTypeOffer)
		answer, err := pc.CreateAnswer(nil)
		if err != nil {
			t.Fatal(err)
		}
		a.send("m.call.answer", content(map[string]any{"answer": described(answer)}))
	}
	speak()
	for end := time.Now().Add(90 * time.Second); audio.Load() < audioPackets || frames.Load() < videoFrames; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			break // the test says what is missing
		}
	}
	s.Audio, s.Frames = audio.Load(), frames.Load()
	s.look(t, pc)
	for _, tr := range pc.GetSenders() {
		s.pair(pc, tr.Transport().ICETransport())
	}
	say(t, s)
	io.Copy(io.Discard, os.Stdin) // until the other one has seen enough, too
}

// turn asks for credentials, and takes the URIs of a scheme and transport.
func (a *account) turn(kind string) webrtc.ICEServer {
	a.t.Helper()
	scheme, transport, _ := strings.Cut(kind, " ")
	status, out := a.do("GET", "/_matrix/client/v3/voip/turnServer", nil)
	if status != http.StatusOK {
		a.t.Fatal(status, out)
	}
	ice := webrtc.ICEServer{Username: out["username"].(string), Credential: out["password"].(string)}
	all, _ := out["uris"].([]any)
	for _, u := range all {
		if u := u.(string); strings.HasPrefix(u, scheme+":") && strings.HasSuffix(u, "transport="+transport) {
			ice.URLs = append(ice.URLs, u)
		}
	}
	if len(ice.URLs) == 0 {
		a.t.Fatalf("%v has no %s", all, kind)
	}
	return ice
}

func (a *account) send(kind string, content map[string]any) {
	a.t.Helper()
	if status, out := a.do("PUT", "/_matrix/client/v3/rooms/"+url.PathEscape(a.room)+"/send/"+kind+"/1", content); status != http.StatusOK {
		a.t.Fatal(status, out)
	}
}

// receive waits for an event of somebody else's in the room.
func (a *account) receive(kind string) (content map[string]any) {
	a.t.Helper()
	eventually(a.t, kind, 90*time.Second, func() bool {
		_, out := a.do("GET", "/_matrix/client/v3/rooms/"+url.PathEscape(a.room)+"/messages?dir=b&limit=50", nil)
		events, _ := out["chunk"].([]any)
		for _, e := range events {
			e, _ := e.(map[string]any)
			if e["type"] == kind && e["sender"] != a.id {
				content, _ = e["content"].(map[string]any)
				return true
			}
		}
		return false
	})
	return content
}

// refusals checks that the TURN server takes the credentials, and no others.
func refusals(t *testing.T, ice webrtc.ICEServer) {
	t.Helper()
	good := ice.Credential.(string)
	until, user, _ := strings.Cut(ice.Username, ":")
	for _, u := range ice.URLs {
		if err := allocate(t, u, ice.Username, good); err != nil {
			t.Errorf("%s refuses the credentials that it is given for: %v", u, err)
		}
		for what, c := range map[string][2]string{
			"a wrong password":                        {ice.Username, good + "x"},
			"no password":                             {ice.Username, ""},
			"another user's name":                     {until + ":@mallory:" + appliancetest.ServerName, good},
			"a name that expired":                     {"1:" + user, good},
			"a name that lasts longer than was given": {until + "0:" + user, good},
		} {
			if err := allocate(t, u, c[0], c[1]); err == nil {
				t.Errorf("%s makes an allocation with %s", u, what)
			} else if !strings.Contains(err.Error(), "401") && !strings.Contains(err.Error(), "400") {
				t.Errorf("%s, with %s: %v; want a refusal", u, what, err)
			}
		}
	}
}

// allocate makes a relayed address at a URI of TURN, and ends it.
func allocate(t *testing.T, uri, username, password string) error {
	t.Helper()
	scheme, rest, _ := strings.Cut(uri, ":")
	at, _, _ := strings.Cut(rest, "?")
	var conn net.PacketConn
	if scheme == "turns" {
		c, err := tls.Dial("tcp", at, nil)
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		conn = turn.NewSTUNConn(c)
	} else {
		var err error
		if conn, err = net.ListenPacket("udp", ":0"); err != nil {
			t.Fatal(err)
		}
	}
	defer conn.Close()
	c, err := turn.NewClient(&turn.ClientConfig{STUNServerAddr: at, TURNServerAddr: at, Conn: conn, Username: username, Password: password,
		LoggerFactory: logging.NewDefaultLoggerFactory()})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	relay, err := c.Allocate()
	if err != nil {
		return err
	}
	return relay.Close()
}

// direct adds sound and pictures to a connection, which are sent once the returned
// function was called, until the test ends.
func direct(t *testing.T, pc *webrtc.PeerConnection) (speak func()) {
	t.Helper()
	var begin []func()
	for _, p := range []struct {
		kind   webrtc.RTPCodecCapability
		name   string
		sample media.Sample
	}{
		{webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}, "mic", media.Sample{Data: []byte{0xf8, 0xff, 0xfe}, Duration: 20 * time.Millisecond}},
		{webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}, "camera", media.Sample{Data: make([]byte, 3000), Duration: 50 * time.Millisecond}},
	} {
		track, err := webrtc.NewTrackLocalStaticSample(p.kind, p.name, "person")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pc.AddTrack(track); err != nil {
			t.Fatal(err)
		}
		begin = append(begin, func() {
			tick := time.NewTicker(p.sample.Duration)
			defer tick.Stop()
			for t.Context().Err() == nil {
				<-tick.C
				track.WriteSample(p.sample)
			}
		})
	}
	return func() {
		for _, f := range begin {
			go f()
		}
	}
}
