package sfu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livekit/protocol/livekit"
	"github.com/pion/stun/v3"
	"google.golang.org/protobuf/proto"
)

// A call that is full takes nobody else, a server that carries its calls no other
// call; who is in a call may come back, and who leaves makes room.
func TestLimits(t *testing.T) {
	s, base := begin(t, Options{MaxCalls: 1, MaxParticipants: 2})
	join := func(room, who string) (*client, error) {
		return dial(t.Context(), base+"/rtc", token(t, s, room, who), PathUDP, nil)
	}
	validate := func(room, who string) (int, string) {
		resp, err := http.Get("http" + strings.TrimPrefix(base, "ws") + "/rtc/validate?access_token=" + token(t, s, room, who))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	ensure(t, s, "a")
	ensure(t, s, "b")
	alice, err := join("a", "alice")
	if err != nil {
		t.Fatal(err)
	}
	defer alice.close()
	bob, err := join("a", "bob")
	if err != nil {
		t.Fatal(err)
	}
	if c, err := join("a", "carol"); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("a third in a call for two: %v %v", c, err)
	}
	if code, text := validate("a", "carol"); code != http.StatusNotFound || !strings.Contains(text, "requested room does not exist") || !strings.Contains(text, "may have 2") {
		t.Errorf("%d %q", code, text)
	}
	if c, err := join("b", "carol"); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("a second call where there may be one: %v %v", c, err)
	}
	if code, text := validate("b", "carol"); code != http.StatusNotFound || !strings.Contains(text, "as many calls") {
		t.Errorf("%d %q", code, text)
	}
	for _, c := range []struct{ room, who, want string }{{"a", "carol", FullParticipants}, {"a", "bob", ""}, {"b", "carol", FullCalls}} {
		if got := s.Full(c.room, c.who); got != c.want {
			t.Errorf("%s in %s: %q, want %q", c.who, c.room, got, c.want)
		}
	}
	again, err := join("a", "bob") // the same person once more, as after a change of network
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.SelfTest(t.Context()); err != nil {
		t.Errorf("the self-test while there is no place: %v", err)
	}
	bob.close()
	again.close()
	eventually(t, "bob's place is free", 30*time.Second, func() bool { return s.Full("a", "carol") == "" })
	carol, err := join("a", "carol")
	if err != nil {
		t.Fatal(err)
	}
	carol.close()
	alice.close()
	eventually(t, "another call may begin", 30*time.Second, func() bool { return s.Full("b", "carol") == "" })
	if _, err := New(Options{MaxCalls: -1}); err == nil {
		t.Error("a negative limit")
	}
}

// Of those who come at the same moment no more get in than may.
func TestLastSeat(t *testing.T) {
	p := newPresence()
	defer p.close()
	var in atomic.Int32
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if _, err := p.admit("a", string(rune('a'+i)), 1, 7, true); err == nil {
				in.Add(1)
			} else if !errors.Is(err, ErrCallFull) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := in.Load(); n != 7 {
		t.Errorf("%d got in, want 7", n)
	}
	if _, err := p.admit("b", "x", 1, 0, false); !errors.Is(err, ErrTooManyRooms) {
		t.Errorf("a second call: %v", err)
	}
}

// A message that is too long ends the connection before it is read, in one frame or
// in many, and compression is not offered.
func TestLongMessage(t *testing.T) {
	s, base := begin(t, Options{})
	ensure(t, s, "a")
	for name, send := range map[string]func(*websocket.Conn) error{
		"one frame": func(c *websocket.Conn) error {
			return c.WriteMessage(websocket.BinaryMessage, make([]byte, maxMessage+1))
		},
		"many frames": func(c *websocket.Conn) error {
			w, err := c.NextWriter(websocket.BinaryMessage)
			for range maxMessage/1000 + 1000 {
				if err == nil {
					_, err = w.Write(make([]byte, 1000))
				}
			}
			return err
		},
	} {
		d := websocket.Dialer{EnableCompression: true, WriteBufferSize: 512}
		c, resp, err := d.Dial(base+"/rtc?protocol=15&access_token="+token(t, s, "a", "alice"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := resp.Header.Get("Sec-WebSocket-Extensions"); got != "" {
			t.Errorf("%s: extensions %q", name, got)
		}
		send(c) // the other side may close in the middle
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		for err == nil {
			_, _, err = c.ReadMessage()
		}
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			t.Errorf("%s: the connection stands", name)
		}
		c.Close()
	}
}

// FuzzFrames compares with what gorilla's writer makes of messages, in any pieces.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{0x82, 0x85, 1, 2, 3, 4, 'h', 'e', 'l', 'l', 'o'}, uint8(1))
	f.Add([]byte{0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 1}, uint8(3))
	f.Add([]byte{0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4}, uint8(200))
	f.Fuzz(func(t *testing.T, b []byte, piece uint8) {
		var whole, parts frames
		want := whole.take(b, maxMessage)
		got := true
		for rest := b; len(rest) > 0 && got; {
			n := min(int(piece)+1, len(rest))
			got = parts.take(rest[:n], maxMessage)
			rest = rest[n:]
		}
		if got != want || want && whole != parts {
			t.Fatalf("whole %v %+v, in pieces %v %+v", want, whole, got, parts)
		}
		if want && (whole.skip > maxMessage || whole.length > maxMessage) {
			t.Fatalf("%+v", whole)
		}
	})
}

// FuzzSignalSocket sends anything to the signalling socket of somebody who is in a
// call, as protobuf and as JSON. The relay must go on serving others.
func FuzzSignalSocket(f *testing.F) {
	s, err := New(Options{UDPPort: AnyPort, TCPPort: AnyPort, TURNPort: AnyPort})
	if err != nil {
		f.Fatal(err)
	}
	if err := s.Start(context.Background()); err != nil {
		f.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	f.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Close(ctx)
		srv.CloseClientConnections()
		srv.Close()
	})
	if err := s.EnsureRoom(context.Background(), "a"); err != nil {
		f.Fatal(err)
	}
	url := "ws" + strings.TrimPrefix(srv.URL, "http") + "/rtc?protocol=15&access_token="
	for _, m := range []*livekit.SignalRequest{
		{Message: &livekit.SignalRequest_Offer{Offer: &livekit.SessionDescription{Type: "offer", Sdp: "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n"}}},
		{Message: &livekit.SignalRequest_Answer{Answer: &livekit.SessionDescription{Type: "answer", Sdp: "v=0\r\n", Id: 7}}},
		{Message: &livekit.SignalRequest_Trickle{Trickle: &livekit.TrickleRequest{CandidateInit: `{"candidate":"candidate:1 1 udp 1 127.0.0.1 9 typ host"}`, Target: 9}}},
		{Message: &livekit.SignalRequest_AddTrack{AddTrack: &livekit.AddTrackRequest{Cid: "x", Type: livekit.TrackType_VIDEO, Layers: []*livekit.VideoLayer{{Quality: 7, Width: 1 << 31}}, SimulcastCodecs: []*livekit.SimulcastCodec{{Codec: "?", Cid: "y"}}}}},
		{Message: &livekit.SignalRequest_Mute{Mute: &livekit.MuteTrackRequest{Sid: "x", Muted: true}}},
		{Message: &livekit.SignalRequest_Subscription{Subscription: &livekit.UpdateSubscription{TrackSids: []string{"", "x"}, ParticipantTracks: []*livekit.ParticipantTracks{{ParticipantSid: "x"}}, Subscribe: true}}},
		{Message: &livekit.SignalRequest_TrackSetting{TrackSetting: &livekit.UpdateTrackSettings{TrackSids: []string{"x"}, Quality: 9, Fps: 1 << 31}}},
		{Message: &livekit.SignalRequest_SyncState{SyncState: &livekit.SyncState{Answer: &livekit.SessionDescription{}, Subscription: &livekit.UpdateSubscription{}, PublishTracks: []*livekit.TrackPublishedResponse{{}}}}},
		{Message: &livekit.SignalRequest_SubscriptionPermission{SubscriptionPermission: &livekit.SubscriptionPermission{TrackPermissions: []*livekit.TrackPermission{{ParticipantIdentity: "x"}}}}},
		{Message: &livekit.SignalRequest_UpdateMetadata{UpdateMetadata: &livekit.UpdateParticipantMetadata{Metadata: "x", Attributes: map[string]string{"a": "b"}}}},
		{Message: &livekit.SignalRequest_Simulate{Simulate: &livekit.SimulateScenario{Scenario: &livekit.SimulateScenario_NodeFailure{NodeFailure: true}}}},
		{Message: &livekit.SignalRequest_UpdateLayers{UpdateLayers: &livekit.UpdateVideoLayers{TrackSid: "x"}}},
		{Message: &livekit.SignalRequest_UpdateAudioTrack{UpdateAudioTrack: &livekit.UpdateLocalAudioTrack{TrackSid: "x"}}},
		{Message: &livekit.SignalRequest_PingReq{PingReq: &livekit.Ping{Timestamp: -1}}},
		{Message: &livekit.SignalRequest_Leave{Leave: &livekit.LeaveRequest{}}},
		{},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
		f.Add(b[:len(b)/2], false)
	}
	f.Add([]byte(`{"offer":{"type":"offer","sdp":"x"}}`), true)
	f.Add([]byte(`{"leave":{}}`), true)
	f.Add([]byte(`{"addTrack":null,"offer":{}`), true)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, false)
	join := func(t *testing.T, who string) *websocket.Conn {
		jwt, err := s.Mint(context.Background(), "a", who, "", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.EnsureRoom(context.Background(), "a"); err != nil {
			t.Fatal(err)
		}
		c, _, err := websocket.DefaultDialer.Dial(url+jwt, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, _, err := c.ReadMessage(); err != nil { // the join's answer
			t.Fatal(err)
		}
		return c
	}
	f.Fuzz(func(t *testing.T, b []byte, text bool) {
		c := join(t, "mallory")
		defer c.Close()
		kind := websocket.BinaryMessage
		if text {
			kind = websocket.TextMessage
		}
		c.WriteMessage(kind, b)
		// What follows is answered after it, or the connection ends.
		ping, err := proto.Marshal(&livekit.SignalRequest{Message: &livekit.SignalRequest_PingReq{PingReq: &livekit.Ping{Timestamp: 77}}})
		if err != nil {
			t.Fatal(err)
		}
		c.WriteMessage(websocket.BinaryMessage, ping)
		for {
			_, b, err := c.ReadMessage()
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				t.Fatal("neither an answer nor an end")
			}
			m := &livekit.SignalResponse{}
			if err != nil || proto.Unmarshal(b, m) == nil && m.GetPongResp().GetLastPingTimestamp() == 77 {
				break
			}
		}
		join(t, "alice").Close()
	})
}

// FuzzTURN sends anything to the TURN port. It must go on answering, and nothing that
// comes without credentials makes an allocation.
func FuzzTURN(f *testing.F) {
	s, err := New(Options{UDPPort: AnyPort, TCPPort: AnyPort, TURNPort: AnyPort, NodeIP: "127.0.0.1"})
	if err != nil {
		f.Fatal(err)
	}
	if err := s.Start(context.Background()); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close(context.Background()) })
	e, err := s.running()
	if err != nil {
		f.Fatal(err)
	}
	c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: s.Ports().TURN})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { c.Close() })
	binding := stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw
	for _, m := range []stun.Method{stun.MethodAllocate, stun.MethodRefresh, stun.MethodSend, stun.MethodChannelBind, stun.MethodCreatePermission, stun.MethodConnect} {
		b := stun.MustBuild(stun.TransactionID, stun.NewType(m, stun.ClassRequest), stun.NewUsername("x"), stun.NewRealm("livekit"), stun.NewNonce("x"), stun.NewShortTermIntegrity("x")).Raw
		f.Add(b)
		f.Add(b[:len(b)-7])
		b = bytes.Clone(b)
		binary.BigEndian.PutUint16(b[2:], 0xfffc)
		f.Add(b)
	}
	f.Add(binding[:19])
	f.Add([]byte{0x40, 0x00, 0xff, 0xff, 1, 2, 3})
	f.Add([]byte{0x40})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for range 3 {
			c.Write(b) // too long for a datagram: not sent
		}
		buf := make([]byte, 2000)
		ask := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
		for tries := 0; ; tries++ {
			if tries == 20 {
				t.Fatal("the TURN port does not answer any more")
			}
			if _, err := c.Write(ask.Raw); err != nil {
				t.Fatal(err)
			}
			c.SetReadDeadline(time.Now().Add(time.Second))
			got := &stun.Message{}
			for {
				n, err := c.Read(buf)
				if err != nil {
					break
				}
				got.Raw = append(got.Raw[:0], buf[:n]...)
				if got.Decode() == nil && got.TransactionID == ask.TransactionID {
					break
				}
				got = &stun.Message{}
			}
			if got.TransactionID == ask.TransactionID {
				break
			}
		}
		if n := e.turn.AllocationCount(); n != 0 {
			t.Fatalf("%d allocations without credentials", n)
		}
	})
}
