package sfu

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livekit/livekit-server/pkg/rtc/types"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/pion/stun/v3"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"
	"google.golang.org/protobuf/proto"
)

// signed makes a token of claims, as anybody could who had the secret.
func signed(t *testing.T, secret string, header, claims map[string]any) string {
	t.Helper()
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(header) + "." + part(claims)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// Who has no token, or none of this relay's that holds now, gets nothing by any path and
// method: no connection, no word of whether a room or a path is there, and no echo.
func TestNothingWithoutAToken(t *testing.T) {
	s, base := begin(t, Options{})
	ensure(t, s, "a")
	now := time.Now().Unix()
	hs := map[string]any{"alg": "HS256", "typ": "JWT"}
	claims := func(change map[string]any) map[string]any {
		c := map[string]any{"iss": s.key, "sub": "mallory", "nbf": now - 10, "exp": now + 600, "video": map[string]any{"roomJoin": true, "room": "a"}}
		for k, v := range change {
			c[k] = v
		}
		return c
	}
	good := signed(t, s.secret, hs, claims(nil))
	parts := strings.Split(good, ".")
	tokens := map[string]string{
		"none":             "",
		"nonsense":         "x.y.z",
		"two parts":        parts[0] + "." + parts[1],
		"no signature":     parts[0] + "." + parts[1] + ".",
		"another secret":   signed(t, "secretsecretsecretsecretsecretsecret", hs, claims(nil)),
		"another key":      signed(t, s.secret, hs, claims(map[string]any{"iss": "devkey"})),
		"expired":          signed(t, s.secret, hs, claims(map[string]any{"exp": now - 120})),
		"not yet":          signed(t, s.secret, hs, claims(map[string]any{"nbf": now + 600})),
		"alg none":         signed(t, s.secret, map[string]any{"alg": "none"}, claims(nil)),
		"alg none, signed": signed(t, "", map[string]any{"alg": "none"}, claims(nil)),
		"alg RS256":        signed(t, s.secret, map[string]any{"alg": "RS256"}, claims(nil)),
		"no grants":        signed(t, s.secret, hs, map[string]any{"iss": s.key, "sub": "mallory", "exp": now + 600}),
	}
	web := "http" + strings.TrimPrefix(base, "ws")
	do := func(method, path, token string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, web+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(req)
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
	if code, text := do("GET", "/rtc/validate", good); code != http.StatusOK {
		t.Fatalf("the test's own token: %d %s", code, text)
	}
	paths := []string{"/rtc", "/rtc/", "/rtc/validate", "/rtc/v1", "/rtc/v1/validate", "/rtc/../rtc/validate", "/whip/v1", "/agent", "/debug/pprof/", "/metrics",
		"/twirp/livekit.RoomService/ListRooms", "/twirp/livekit.RoomService/CreateRoom", "/twirp/livekit.Egress/ListEgress", "/rtc?room=a&join=mallory"}
	for name, token := range tokens {
		for _, path := range paths {
			code, text := do("GET", path, token)
			if code != http.StatusUnauthorized || token != "" && strings.Contains(text, token) {
				t.Errorf("GET %s with a token that is %s: %d %q", path, name, code, text)
			}
			for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
				if code, _ := do(method, path, token); code != http.StatusMethodNotAllowed {
					t.Errorf("%s %s with a token that is %s: %d", method, path, name, code)
				}
			}
		}
		for _, path := range []string{"/rtc", "/rtc/v1", "/agent"} {
			c, resp, err := websocket.DefaultDialer.Dial(base+path+"?protocol=15&access_token="+token, nil)
			if err == nil {
				c.Close()
				t.Errorf("a websocket to %s with a token that is %s", path, name)
			} else if resp == nil || resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("a websocket to %s with a token that is %s: %v", path, name, err)
			}
		}
	}
	if n := len(s.Participants("a")); n != 0 {
		t.Errorf("%d participants", n)
	}
}

// A token is for one room and one identity, lasts for as long as was asked for, and an
// hour at most; it gives no right over the room.
func TestTokenIsSmall(t *testing.T) {
	s, _ := begin(t, Options{})
	for _, c := range []struct{ ask, want time.Duration }{{10 * time.Minute, 10 * time.Minute}, {48 * time.Hour, time.Hour}} {
		jwt, err := s.Mint(t.Context(), "a", "alice", "", c.ask)
		if err != nil {
			t.Fatal(err)
		}
		v, err := auth.ParseAPIToken(jwt)
		if err != nil {
			t.Fatal(err)
		}
		claims, g, err := v.Verify(s.secret)
		if err != nil {
			t.Fatal(err)
		}
		if ttl := time.Until(claims.ExpiresAt.Time); ttl > c.want || ttl < c.want-time.Minute {
			t.Errorf("asked for %v, it lasts for %v", c.ask, ttl)
		}
		if p := g.Video; g.Identity != "alice" || p.Room != "a" || !p.RoomJoin || p.RoomAdmin || p.RoomCreate || p.RoomList || p.RoomRecord || p.IngressAdmin || p.Hidden || p.Agent || p.CanUpdateOwnMetadata == nil {
			t.Errorf("%+v %+v", g, p)
		}
	}
}

// Who has a token for a call is in it once and as themselves. Whatever they ask for,
// nobody else's session, tracks or name are touched.
func TestNobodyElse(t *testing.T) {
	s, base := begin(t, Options{NodeIP: "127.0.0.1"})
	ensure(t, s, "a")
	e, err := s.running()
	if err != nil {
		t.Fatal(err)
	}
	join := func(who string) *client {
		t.Helper()
		c, err := dial(t.Context(), base+"/rtc", token(t, s, "a", who), PathUDP, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.close)
		return c
	}
	data := func(c *client) *webrtc.DataChannel {
		t.Helper()
		d, err := c.pub.CreateDataChannel("_reliable", nil)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	alice, bob := join("alice"), join("bob")
	packets := make(chan *livekit.DataPacket, 10)
	alice.sub.OnDataChannel(func(d *webrtc.DataChannel) {
		d.OnMessage(func(m webrtc.DataChannelMessage) {
			p := &livekit.DataPacket{}
			if proto.Unmarshal(m.Data, p) == nil && p.GetUser() != nil {
				packets <- p
			}
		})
	})
	go alice.run()
	data(alice)
	if _, err := alice.publish(); err != nil {
		t.Fatal(err)
	}
	track, err := bob.publish()
	if err != nil {
		t.Fatal(err)
	}
	go bob.run()
	if err := bob.await(t.Context(), bob.pubUp); err != nil {
		t.Fatal(err)
	}
	at := seat{"a", "bob"}
	published := func(who string) []types.MediaTrack {
		if p := e.participant(seat{"a", who}); p != nil {
			return p.GetPublishedTracks()
		}
		return nil
	}
	eventually(t, "bob is heard", 30*time.Second, func() bool {
		track.WriteSample(media.Sample{Data: []byte{0xf8, 1, 2}, Duration: 20 * time.Millisecond})
		return len(published("bob")) == 1
	})
	bobs := published("bob")[0]
	session := e.participant(at).ID()

	// By the address: another name, a second one, the session of somebody else.
	forMallory := token(t, s, "a", "mallory")
	if c, err := dial(t.Context(), base+"/rtc?publish=bob", forMallory, PathUDP, nil); err == nil {
		c.close()
		t.Errorf("%s is in the call by mallory's token", c.join.GetParticipant().GetIdentity())
	} else if r, ok := errors.AsType[*refusal](err); !ok || r.status != http.StatusBadRequest {
		t.Errorf("a second participant: %v", err)
	}
	again, _, err := websocket.DefaultDialer.Dial(base+"/rtc?protocol=15&reconnect=1&sid="+string(session)+"&access_token="+forMallory, nil)
	if err == nil { // the answer is that she has no session
		again.Close()
	}
	mallory := join("mallory")
	if who := mallory.join.GetParticipant(); who.GetIdentity() != "mallory" || who.GetSid() == string(session) {
		t.Errorf("mallory is %v", who)
	}

	// By messages: bob's track and name, and a track under bob's.
	lies := data(mallory)
	go mallory.run()
	for _, m := range []*livekit.SignalRequest{
		{Message: &livekit.SignalRequest_Mute{Mute: &livekit.MuteTrackRequest{Sid: string(bobs.ID()), Muted: true}}},
		{Message: &livekit.SignalRequest_AddTrack{AddTrack: &livekit.AddTrackRequest{Cid: "x", Sid: string(bobs.ID()), Type: livekit.TrackType_AUDIO, Muted: true}}},
		{Message: &livekit.SignalRequest_UpdateAudioTrack{UpdateAudioTrack: &livekit.UpdateLocalAudioTrack{TrackSid: string(bobs.ID()), Features: []livekit.AudioTrackFeature{livekit.AudioTrackFeature_TF_STEREO}}}},
		{Message: &livekit.SignalRequest_SubscriptionPermission{SubscriptionPermission: &livekit.SubscriptionPermission{TrackPermissions: []*livekit.TrackPermission{{ParticipantSid: string(session), ParticipantIdentity: "bob", TrackSids: []string{string(bobs.ID())}}}}}},
		{Message: &livekit.SignalRequest_UpdateMetadata{UpdateMetadata: &livekit.UpdateParticipantMetadata{Name: "Bob", Metadata: "mine", Attributes: map[string]string{"identity": "bob"}}}},
	} {
		if err := mallory.send(m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := mallory.publish(); err != nil {
		t.Fatal(err)
	}
	if err := mallory.await(t.Context(), mallory.pubUp); err != nil {
		t.Fatal(err)
	}
	// What she says in another's name comes in hers.
	lie, err := proto.Marshal(&livekit.DataPacket{ParticipantIdentity: "bob", Value: &livekit.DataPacket_User{
		User: &livekit.UserPacket{ParticipantIdentity: "bob", ParticipantSid: string(session), Payload: []byte("hello")}}})
	if err != nil {
		t.Fatal(err)
	}
	var got *livekit.DataPacket
	eventually(t, "alice gets mallory's packet", 30*time.Second, func() bool {
		if lies.ReadyState() == webrtc.DataChannelStateOpen {
			lies.Send(lie)
		}
		select {
		case got = <-packets:
			return true
		case <-time.After(50 * time.Millisecond):
			return false
		}
	})
	if u := got.GetUser(); got.GetParticipantIdentity() != "mallory" || u.GetParticipantIdentity() != "mallory" || u.GetParticipantSid() == string(session) { //nolint:staticcheck // clients of before read the fields of the payload
		t.Errorf("the packet is from %v", got)
	}
	p := e.participant(at)
	if p == nil || p.ID() != session || !s.signals.stands(at) {
		t.Fatal("bob's session is not what it was")
	}
	if info := p.ToProto(); info.GetName() != "" || info.GetMetadata() != "" || len(info.GetAttributes()) != 0 {
		t.Errorf("bob is %v", info)
	}
	if now := published("bob"); len(now) != 1 || now[0].ID() != bobs.ID() || now[0].IsMuted() || len(now[0].ToProto().GetAudioFeatures()) != 0 {
		t.Errorf("bob's tracks are %v", now)
	}
	eventually(t, "alice is still given bob's track", 30*time.Second, func() bool {
		track.WriteSample(media.Sample{Data: []byte{0xf8, 1, 2}, Duration: 20 * time.Millisecond})
		return slices.ContainsFunc(e.participant(seat{"a", "alice"}).GetSubscribedTracks(), func(t types.SubscribedTrack) bool { return t.ID() == bobs.ID() })
	})
	if in := s.Participants("a"); !slices.Equal(in, []string{"alice", "bob", "mallory"}) {
		t.Errorf("in the call are %v", in)
	}
}

// A client that asks for full ICE does not have the relay send checks to wherever the
// client's candidates say.
func TestRelayOnlyAnswers(t *testing.T) {
	s, base := begin(t, Options{NodeIP: "127.0.0.1"})
	ensure(t, s, "a")
	c, err := dial(t.Context(), base+"/rtc?disable_ice_lite=1", token(t, s, "a", "mallory"), PathUDP, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	victim, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	b, err := json.Marshal(webrtc.ICECandidateInit{Candidate: "candidate:1 1 udp 2130706431 127.0.0.1 " + strconv.Itoa(victim.LocalAddr().(*net.UDPAddr).Port) + " typ host"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.send(&livekit.SignalRequest{Message: &livekit.SignalRequest_Trickle{Trickle: &livekit.TrickleRequest{CandidateInit: string(b), Target: livekit.SignalTarget_PUBLISHER}}}); err != nil {
		t.Fatal(err)
	}
	go c.run()
	if _, err := c.publish(); err != nil {
		t.Fatal(err)
	}
	// Its own candidate is answered, and by then the other one would have been tried.
	if err := c.await(t.Context(), c.pubUp); err != nil {
		t.Fatal(err)
	}
	victim.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if n, from, err := victim.ReadFrom(make([]byte, 1500)); err == nil {
		t.Errorf("%d bytes from %v", n, from)
	}
}

// Who has no credentials, or has had some, gets no allocation, and what it sends goes
// nowhere.
func TestTURNWithoutCredentials(t *testing.T) {
	s, _ := begin(t, Options{NodeIP: "127.0.0.1"})
	e, err := s.running()
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("udp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Ports().TURN)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask := func(m *stun.Message) *stun.Message {
		t.Helper()
		if _, err := c.Write(m.Raw); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		b := make([]byte, 1500)
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		got := &stun.Message{Raw: b[:n]}
		if err := got.Decode(); err != nil {
			t.Fatal(err)
		}
		return got
	}
	udp := stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: []byte{17, 0, 0, 0}}
	allocate := stun.NewType(stun.MethodAllocate, stun.ClassRequest)
	first := ask(stun.MustBuild(stun.TransactionID, allocate, udp))
	var nonce stun.Nonce
	var realm stun.Realm
	if first.Type.Class != stun.ClassErrorResponse || nonce.GetFrom(first) != nil || realm.GetFrom(first) != nil {
		t.Fatalf("without credentials: %v", first)
	}
	past := strconv.FormatInt(time.Now().Add(-time.Minute).Unix(), 10) + ":@alice:example.org"
	for name, user := range map[string]string{"none of ours": "mallory", "expired": past, "without a user": "99999999999:", "without a time": "x:@alice:example.org"} {
		got := ask(stun.MustBuild(stun.TransactionID, allocate, udp, stun.NewUsername(user), realm, nonce, stun.NewLongTermIntegrity(user, realm.String(), turnPassword(s.secret, user))))
		if got.Type.Class != stun.ClassErrorResponse {
			t.Errorf("credentials that are %s: %v", name, got)
		}
	}
	user := strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10) + ":@alice:example.org"
	if got := ask(stun.MustBuild(stun.TransactionID, allocate, udp, stun.NewUsername(user), realm, nonce, stun.NewLongTermIntegrity(user, realm.String(), "guess"))); got.Type.Class != stun.ClassErrorResponse {
		t.Errorf("a wrong password: %v", got)
	}
	// A channel that nobody bound, an indication of nobody's.
	c.Write([]byte{0x40, 0x01, 0, 4, 'a', 'b', 'c', 'd'})
	c.Write(stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodSend, stun.ClassIndication), stun.RawAttribute{Type: stun.AttrData, Value: []byte("x")}).Raw)
	if got := ask(stun.MustBuild(stun.TransactionID, stun.BindingRequest)); got.Type != stun.BindingSuccess {
		t.Errorf("afterwards: %v", got)
	}
	if n := e.turn.AllocationCount(); n != 0 {
		t.Errorf("%d allocations", n)
	}
	creds, err := s.TURN("@alice:example.org", Reach{})
	if err != nil || creds.TTL < time.Minute || creds.TTL > time.Hour {
		t.Errorf("credentials for %v, %v", creds.TTL, err)
	}
}

// turnAtPort is a port whose connections are TURN's, as they come from the HTTPS port.
func turnAtPort(t testing.TB, s *SFU) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.ServeTURN(c)
		}
	}()
	return ln
}

// Connections to TURN on which no allocation comes about: there are never more than may
// be, of one address and in all, and whoever comes then is answered.
func TestTURNHalfOpen(t *testing.T) {
	s, _ := begin(t, Options{NodeIP: "127.0.0.1"})
	e, err := s.running()
	if err != nil {
		t.Fatal(err)
	}
	ln := turnAtPort(t, s)
	binding := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
	knock := func(from string, send []byte) net.Conn {
		t.Helper()
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp4", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second)) // less than streamOpening
		if _, err := c.Write(send); err != nil {
			t.Fatal(err)
		}
		return c
	}
	gone := func(c net.Conn) {
		t.Helper()
		_, err := io.Copy(io.Discard, c)
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			t.Fatal("a connection that should have given way stands")
		}
	}
	answered := func(from string) {
		t.Helper()
		got := &stun.Message{Raw: make([]byte, 1500)}
		if _, err := got.ReadFrom(knock(from, binding.Raw)); err != nil || got.TransactionID != binding.TransactionID {
			t.Fatalf("%s is not answered: %v", from, err)
		}
	}
	most := func(from string) (each, all int) {
		e.stream.mu.Lock()
		defer e.stream.mu.Unlock()
		return e.stream.each[netip.MustParseAddr(from)], e.stream.new
	}
	half := binding.Raw[:11]
	var conns []net.Conn
	for range 2 * maxStreamsEach {
		conns = append(conns, knock("127.0.0.2", half))
	}
	for _, c := range conns[:maxStreamsEach] {
		gone(c)
	}
	if n, _ := most("127.0.0.2"); n != maxStreamsEach {
		t.Errorf("%d connections, want %d", n, maxStreamsEach)
	}
	answered("127.0.0.3")
	answered("127.0.0.2")
	gone(conns[maxStreamsEach])
	for i := range maxStreamsNew / maxStreamsEach {
		for range maxStreamsEach {
			knock("127.0.0."+strconv.Itoa(10+i), half)
		}
	}
	for _, c := range conns {
		gone(c)
	}
	if _, n := most("127.0.0.2"); n > maxStreamsNew {
		t.Errorf("%d connections in all, want %d", n, maxStreamsNew)
	}
	answered("127.0.0.3")
}

// fuzzed is a relay that a fuzzer talks to.
func fuzzed(f *testing.F) *SFU {
	f.Helper()
	s, err := New(Options{UDPPort: AnyPort, TCPPort: AnyPort, TURNPort: AnyPort, NodeIP: "127.0.0.1"})
	if err != nil {
		f.Fatal(err)
	}
	if err := s.Start(context.Background()); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Close(ctx)
	})
	return s
}

// FuzzMedia sends anything to the media ports, over UDP and, framed and not, over TCP.
// Calls go on.
func FuzzMedia(f *testing.F) {
	s := fuzzed(f)
	udp, err := net.Dial("udp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Ports().UDP)))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { udp.Close() })
	binding := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewUsername("here:there"), stun.NewShortTermIntegrity("x"), stun.Fingerprint).Raw
	f.Add(binding)
	f.Add(binding[:21])
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw)
	f.Add([]byte{22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20, 1, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 8, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0}) // a DTLS hello
	f.Add([]byte{0x80, 111, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 'x'})                                                                    // RTP
	f.Add([]byte{0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2})                                                                         // RTCP
	f.Add([]byte{})
	n := 0
	f.Fuzz(func(t *testing.T, b []byte) {
		udp.Write(b) // too long for a datagram: not sent
		tcp, err := net.Dial("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Ports().TCP)))
		if err != nil {
			t.Fatal(err)
		}
		defer tcp.Close()
		tcp.Write(b)
		if len(b) < 1<<16 {
			tcp.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
		}
		if n++; n%100 == 1 {
			if _, err := s.SelfTest(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzTURNStream sends anything over a connection of TURN, as it comes to the HTTPS
// port. It makes no allocation, and others are answered.
func FuzzTURNStream(f *testing.F) {
	s := fuzzed(f)
	e, err := s.running()
	if err != nil {
		f.Fatal(err)
	}
	ln := turnAtPort(f, s)
	for _, m := range []stun.Method{stun.MethodAllocate, stun.MethodRefresh, stun.MethodSend, stun.MethodChannelBind, stun.MethodConnectionBind} {
		b := stun.MustBuild(stun.TransactionID, stun.NewType(m, stun.ClassRequest), stun.NewUsername("x"), stun.NewRealm("livekit"), stun.NewNonce("x"), stun.NewShortTermIntegrity("x")).Raw
		f.Add(b, uint8(200))
		f.Add(append(bytes.Clone(b), b...), uint8(3))
		b = bytes.Clone(b)
		binary.BigEndian.PutUint16(b[2:], 0xfffc)
		f.Add(b, uint8(10))
	}
	f.Add([]byte{0x40, 0x00, 0xff, 0xff, 1, 2, 3}, uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, piece uint8) {
		dial := func() net.Conn {
			c, err := net.Dial("tcp4", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		c := dial()
		for rest := b; len(rest) > 0; {
			n := min(int(piece)+1, len(rest))
			if _, err := c.Write(rest[:n]); err != nil {
				break
			}
			rest = rest[n:]
		}
		c.Close()
		ask := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
		c = dial()
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write(ask.Raw); err != nil {
			t.Fatal(err)
		}
		got := &stun.Message{Raw: make([]byte, 1500)}
		if _, err := got.ReadFrom(c); err != nil || got.TransactionID != ask.TransactionID {
			t.Fatalf("TURN does not answer any more: %v", err)
		}
		if n := e.turn.AllocationCount(); n != 0 {
			t.Fatalf("%d allocations without credentials", n)
		}
	})
}
