package sfu

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/logger"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/ice/v4"
	"github.com/pion/logging"
	"github.com/pion/turn/v5"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"
)

func TestMain(m *testing.M) {
	lksdk.SetLogger(logger.GetDiscardLogger())
	os.Exit(m.Run())
}

// begin starts a relay on free ports and serves it as the appliance does.
func begin(t *testing.T, o Options) (*SFU, string) {
	t.Helper()
	if o.UDPPort == 0 {
		o.UDPPort, o.TCPPort, o.TURNPort = AnyPort, AnyPort, AnyPort
	}
	if os.Getenv("SFU_LOG") != "" {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, serveSFU(t, s)
}

// serveSFU gives a relay an address for signalling, and ends both with the test.
func serveSFU(t *testing.T, s *SFU) (base string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/livekit/sfu/", http.StripPrefix("/livekit/sfu", s.Handler()))
	srv := httptest.NewServer(mux)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.Close(ctx)
		srv.CloseClientConnections()
		srv.Close()
	})
	return "ws" + strings.TrimPrefix(srv.URL, "http") + "/livekit/sfu"
}

func token(t *testing.T, s *SFU, room, identity string) string {
	t.Helper()
	jwt, err := s.Mint(t.Context(), room, identity, "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return jwt
}

func ensure(t *testing.T, s *SFU, room string) {
	t.Helper()
	if err := s.EnsureRoom(t.Context(), room); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, within time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// caller is LiveKit's own Go client: it sends numbered packets of sound and notes
// the numbers that it receives, by sender.
type caller struct {
	*lksdk.Room
	mu    sync.Mutex
	heard map[string]map[uint64]bool
}

func call(t *testing.T, base, jwt string, opts ...lksdk.ConnectOption) (*caller, error) {
	t.Helper()
	c := &caller{heard: map[string]map[uint64]bool{}}
	cb := lksdk.NewRoomCallback()
	cb.OnTrackSubscribed = func(track *webrtc.TrackRemote, _ *lksdk.RemoteTrackPublication, from *lksdk.RemoteParticipant) {
		for {
			p, _, err := track.ReadRTP()
			if err != nil {
				return
			}
			if len(p.Payload) == 16 {
				c.mu.Lock()
				if c.heard[from.Identity()] == nil {
					c.heard[from.Identity()] = map[uint64]bool{}
				}
				c.heard[from.Identity()][binary.BigEndian.Uint64(p.Payload[8:])] = true
				c.mu.Unlock()
			}
		}
	}
	var err error
	opts = append([]lksdk.ConnectOption{lksdk.WithLogger(logger.GetDiscardLogger()), lksdk.WithDisableRegionDiscovery(), lksdk.WithConnectTimeout(30 * time.Second)}, opts...)
	if c.Room, err = lksdk.ConnectToRoomWithToken(base, jwt, cb, opts...); err != nil {
		return nil, err
	}
	t.Cleanup(c.Disconnect)
	return c, nil
}

func (c *caller) speak(t *testing.T) {
	t.Helper()
	c.speakUntil(t, t.Context())
}

func (c *caller) speakUntil(t *testing.T, ctx context.Context) {
	t.Helper()
	track, err := webrtc.NewTrackLocalStaticSample(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}, "audio", "mic")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.LocalParticipant.PublishTrack(track, &lksdk.TrackPublicationOptions{Name: "mic"}); err != nil {
		t.Fatal(err)
	}
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for n := uint64(0); ; n++ {
			select {
			case <-tick.C:
				b := make([]byte, 16)
				b[0] = 0xf8 // an Opus frame of 20 ms
				binary.BigEndian.PutUint64(b[8:], n)
				track.WriteSample(media.Sample{Data: b, Duration: 20 * time.Millisecond})
			case <-ctx.Done():
				return
			}
		}
	}()
}

func (c *caller) count(from string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.heard[from])
}

// Two people in a call hear each other; the relay knows who is there, tells of
// their coming and going, and closes the room after them.
func TestCall(t *testing.T) {
	for _, c := range []struct {
		name string
		opts []lksdk.ConnectOption
	}{
		{name: "udp"},
		{name: "one connection for both directions", opts: []lksdk.ConnectOption{lksdk.WithSinglePeerConnection()}},
		// LiveKit's Go client has no TCP; TestSelfTest goes that way.
		{name: "through TURN", opts: []lksdk.ConnectOption{lksdk.WithICETransportPolicy(webrtc.ICETransportPolicyRelay)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, base := begin(t, Options{Kept: time.Second})
			var mu sync.Mutex
			var events []string
			cancel := s.Subscribe(func(room, identity string, joined bool) {
				mu.Lock()
				events = append(events, fmt.Sprint(room, " ", identity, " ", joined))
				mu.Unlock()
			})
			defer cancel()
			ensure(t, s, "call")
			alice, err := call(t, base, token(t, s, "call", "alice"), c.opts...)
			if err != nil {
				t.Fatal(err)
			}
			bob, err := call(t, base, token(t, s, "call", "bob"), c.opts...)
			if err != nil {
				t.Fatal(err)
			}
			alice.speak(t)
			bob.speak(t)
			eventually(t, "50 packets each way", 45*time.Second, func() bool { return alice.count("bob") >= 50 && bob.count("alice") >= 50 })
			if got := s.Participants("call"); !slices.Equal(got, []string{"alice", "bob"}) {
				t.Errorf("participants %v", got)
			}
			if got := s.Stats(); got != (Stats{Rooms: 1, Calls: 1, Participants: 2}) {
				t.Errorf("stats %+v", got)
			}
			bob.Disconnect()
			eventually(t, "bob is gone", 20*time.Second, func() bool { return len(s.Participants("call")) == 1 })
			alice.Disconnect()
			e, err := s.running()
			if err != nil {
				t.Fatal(err)
			}
			e.rooms.GetRoom(t.Context(), "call").Release() // EnsureRoom's hold, which lasts for a minute
			eventually(t, "the room is closed", 30*time.Second, func() bool { return s.Stats() == Stats{} })
			mu.Lock()
			defer mu.Unlock()
			if want := []string{"call alice true", "call bob true", "call bob false", "call alice false"}; !slices.Equal(events, want) {
				t.Errorf("events %v, want %v", events, want)
			}
		})
	}
}

func TestAdmission(t *testing.T) {
	s, base := begin(t, Options{})
	ensure(t, s, "a")
	ensure(t, s, "b")
	inB, err := call(t, base, token(t, s, "b", "bob"))
	if err != nil {
		t.Fatal(err)
	}
	inB.speak(t)
	forA := token(t, s, "a", "mallory")
	// Asked for another room, the relay goes by the token.
	for _, path := range []string{"/rtc?room=b", "/rtc?room_name=b&room=b&participant=bob&identity=bob"} {
		c, err := dial(t.Context(), base+path, forA, PathUDP, nil)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if got := c.join.GetRoom().GetName(); got != "a" || c.join.GetParticipant().GetIdentity() != "mallory" || len(c.join.GetOtherParticipants()) != 0 {
			t.Errorf("%s: %s in room %q with %v", path, c.join.GetParticipant().GetIdentity(), got, c.join.GetOtherParticipants())
		}
		c.close()
	}
	yes := true
	sign := func(key, secret, room string, ttl time.Duration, g *auth.VideoGrant) string {
		if g == nil {
			g = &auth.VideoGrant{RoomJoin: true, Room: room, CanPublish: &yes}
		}
		jwt, err := auth.NewAccessToken(key, secret).SetVideoGrant(g).SetIdentity("mallory").SetValidFor(ttl).ToJWT()
		if err != nil {
			t.Fatal(err)
		}
		return jwt
	}
	parts := strings.Split(forA, ".")
	claims, _ := json.Marshal(map[string]any{"iss": s.key, "sub": "mallory", "exp": time.Now().Add(-2 * time.Minute).Unix(), "video": map[string]any{"roomJoin": true, "room": "a"}})
	expired := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims)
	mac := hmac.New(sha256.New, []byte(s.secret))
	mac.Write([]byte(expired))
	expired += "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	none := "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + parts[1] + "."
	for _, c := range []struct{ name, jwt string }{
		{"no token", ""},
		{"nonsense", "x"},
		{"another key", sign("devkey", s.secret, "a", time.Hour, nil)},
		{"another secret", sign(s.key, "secretsecretsecretsecretsecretsecret", "a", time.Hour, nil)},
		{"expired", expired},
		{"unsigned", none},
		{"no right to join", sign(s.key, s.secret, "a", time.Hour, &auth.VideoGrant{Room: "a"})},
		{"no room", sign(s.key, s.secret, "", time.Hour, nil)},
	} {
		if x, err := dial(t.Context(), base+"/rtc?room=b", c.jwt, PathUDP, nil); err == nil {
			t.Errorf("%s: admitted to %q", c.name, x.join.GetRoom().GetName())
			x.close()
		}
	}
	// A token makes its own room again, which may be gone after a restart, and no other.
	c, err := dial(t.Context(), base+"/rtc", token(t, s, "c", "mallory"), PathUDP, nil)
	if err != nil {
		t.Fatalf("the room of a token is not made again: %v", err)
	}
	if got := c.join.GetRoom().GetName(); got != "c" {
		t.Errorf("in room %q", got)
	}
	c.close()
	if s.presence.knows("d") {
		t.Error("a token makes another room than its own")
	}
	// There is no management API.
	for _, path := range []string{"/twirp/livekit.RoomService/ListRooms", "/agent", "/whip/v1", "/debug/rooms"} {
		req, _ := http.NewRequest("GET", "http"+strings.TrimPrefix(base, "ws")+path, nil)
		req.Header.Set("Authorization", "Bearer "+forA)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, resp.Status)
		}
		resp, err = http.Post(req.URL.String(), "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %s", path, resp.Status)
		}
	}
	// Who is removed is gone, and does not come back with the old token.
	bobs := token(t, s, "b", "bob")
	s.Remove("b", "bob")
	eventually(t, "bob is out", 20*time.Second, func() bool { return len(s.Participants("b")) == 0 })
	if _, err := call(t, base, bobs); err == nil {
		t.Error("the removed participant came back")
	}
	if c, err := call(t, base, token(t, s, "b", "bob")); err != nil {
		t.Error("a new token is refused:", err)
	} else {
		c.Disconnect()
	}
}

// Somebody else's session with the same identity takes the place of the first, and
// that is no leave.
func TestSameIdentity(t *testing.T) {
	s, base := begin(t, Options{})
	ensure(t, s, "call")
	var left atomic.Int32
	defer s.Subscribe(func(_, _ string, joined bool) {
		if !joined {
			left.Add(1)
		}
	})()
	var clients []*client
	for range 3 {
		c, err := dial(t.Context(), base+"/rtc", token(t, s, "call", "alice"), PathUDP, nil)
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	time.Sleep(500 * time.Millisecond)
	if got := s.Participants("call"); len(got) != 1 {
		t.Errorf("%v, want alice", got)
	}
	for _, c := range clients {
		c.close()
	}
	eventually(t, "alice left", 20*time.Second, func() bool { return len(s.Participants("call")) == 0 })
	time.Sleep(200 * time.Millisecond)
	if n := left.Load(); n < 1 || n > 3 {
		t.Errorf("%d leaves", n)
	}
}

// What a joining client is told of names no other host.
func TestNoForeignHosts(t *testing.T) {
	for _, o := range []Options{{}, {NodeIP: "127.0.0.1"}, {tcpOnly: true}} {
		t.Run(fmt.Sprintf("%q %v", o.NodeIP, o.tcpOnly), func(t *testing.T) {
			s, base := begin(t, o)
			own := s.engine.ownAddresses()
			if c := s.engine.conf; own["127.0.0.1"] != (o.NodeIP != "" || c.RTC.EnableLoopbackCandidate) {
				t.Errorf("TURN reaches %v", own)
			}
			ensure(t, s, "call")
			join := func(who, extra string) *client {
				c, err := dial(t.Context(), base+"/rtc", token(t, s, "call", who)+extra, PathUDP, nil)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(c.close)
				return c
			}
			alice, bob := join("alice", ""), join("bob", "")
			go alice.run()
			go bob.run()
			if _, err := alice.publish(); err != nil {
				t.Fatal(err)
			}
			offered := func(c *client) int {
				c.mu.Lock()
				defer c.mu.Unlock()
				return len(c.offered)
			}
			eventually(t, "both have candidates", 30*time.Second, func() bool { return offered(alice) > 0 && offered(bob) > 0 })
			time.Sleep(300 * time.Millisecond)
			for _, c := range []*client{alice, bob} {
				servers := c.join.GetIceServers()
				if len(servers) != 1 {
					t.Errorf("ICE servers: %v, want the relay's own", servers)
				}
				for _, is := range servers {
					if is.Username == "" || is.Credential == "" || len(is.Urls) == 0 {
						t.Errorf("a server without credentials or URL: %v", is)
					}
					for _, u := range is.Urls {
						p, err := url.Parse(u)
						if err != nil || p.Scheme != "turn" {
							t.Fatalf("%q %v", u, err)
						}
						host, port, _ := net.SplitHostPort(strings.TrimSuffix(p.Opaque, "?transport=udp"))
						if !own[host] || port != strconv.Itoa(s.Ports().TURN) {
							t.Errorf("ICE server %s is not this relay's", u)
						}
					}
				}
				c.mu.Lock()
				for _, cand := range c.offered {
					x, err := ice.UnmarshalCandidate(strings.TrimPrefix(cand.Candidate, "candidate:"))
					if err != nil {
						t.Fatalf("%q: %v", cand.Candidate, err)
					}
					want := s.Ports().UDP
					if x.NetworkType().IsTCP() {
						want = s.Ports().TCP
					}
					if !own[x.Address()] || x.Port() != want || x.Type() != ice.CandidateTypeHost {
						t.Errorf("candidate %s: its address is not this machine's or its port none of ours", cand.Candidate)
					}
				}
				c.mu.Unlock()
				if alt := c.join.GetAlternativeUrl(); alt != "" {
					t.Errorf("another URL: %q", alt)
				}
			}
			if n := len(s.engine.conf.RTC.STUNServers); n != 0 {
				t.Errorf("%d STUN servers configured", n)
			}
		})
	}
}

// TURN takes nobody anywhere but to the media port.
func TestTURNReach(t *testing.T) {
	s, base := begin(t, Options{NodeIP: "127.0.0.1"})
	ensure(t, s, "call")
	c, err := dial(t.Context(), base+"/rtc", token(t, s, "call", "mallory"), PathUDP, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	is := c.join.GetIceServers()[0]
	other, err := net.ListenPacket("udp4", "127.0.0.1:0") // a service of the machine
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Ports().TURN))
	client := func(user, password string) (*turn.Client, net.PacketConn, error) {
		pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pc.Close() })
		tc, err := turn.NewClient(&turn.ClientConfig{STUNServerAddr: addr, TURNServerAddr: addr, Conn: pc, Username: user, Password: password, Realm: "livekit",
			LoggerFactory: logging.NewDefaultLoggerFactory()})
		if err != nil {
			t.Fatal(err)
		}
		if err := tc.Listen(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(tc.Close)
		relay, err := tc.Allocate()
		return tc, relay, err
	}
	if _, _, err := client(is.Username, "wrong"); err == nil {
		t.Error("a wrong password is good enough")
	}
	tc, relay, err := client(is.Username, is.Credential)
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	for _, ip := range []string{"192.168.0.1", "8.8.8.8", "10.0.0.1"} {
		if err := tc.CreatePermission(&net.UDPAddr{IP: net.ParseIP(ip), Port: 53}); err == nil {
			t.Errorf("permission to reach %s", ip)
		}
	}
	if err := tc.CreatePermission(&net.UDPAddr{IP: net.ParseIP("127.0.0.1"), Port: 1}); err != nil {
		t.Errorf("no permission to reach the relay itself: %v", err)
	}
	// Neither in indications nor, once one is bound, in a channel.
	for range 40 {
		if _, err := relay.WriteTo([]byte("hello"), other.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	other.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if n, from, err := other.ReadFrom(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes reached another service from %v", n, from)
	}
	// It listens for nobody, and connects to nobody.
	if _, err := tc.AllocateTCP(); err == nil {
		t.Error("an allocation of TCP")
	}
	// Nobody takes more sockets than calls need.
	got := 1
	var relays []net.PacketConn
	for range 2 * maxAllocationsEach {
		if _, r, err := client(is.Username, is.Credential); err == nil {
			relays = append(relays, r)
			got++
		}
	}
	if got != maxAllocationsEach {
		t.Errorf("%d allocations, want %d", got, maxAllocationsEach)
	}
	for _, r := range relays {
		r.Close()
	}
	eventually(t, "allocations that ended make room", 10*time.Second, func() bool {
		_, r, err := client(is.Username, is.Credential)
		if err == nil {
			r.Close()
		}
		return err == nil
	})
}

// Headers do not tell the relay another address than the connection's.
func TestForwardedHeaders(t *testing.T) {
	s, base := begin(t, Options{})
	e, err := s.running()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan http.Header, 1)
	e.mux = http.NewServeMux()
	e.mux.HandleFunc("/rtc", func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header })
	ensure(t, s, "a")
	req, _ := http.NewRequest("GET", "http"+strings.TrimPrefix(base, "ws")+"/rtc?access_token="+token(t, s, "a", "x"), nil)
	for _, h := range Spoofable {
		req.Header.Set(h, "198.51.100.1")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	got := <-seen
	for _, h := range Spoofable {
		if got.Get(h) != "" {
			t.Errorf("%s reached LiveKit", h)
		}
	}
}

func TestSelfTest(t *testing.T) {
	s, _ := begin(t, Options{})
	for _, p := range []Path{PathUDP, PathTURN, PathTCP} {
		took, err := s.Probe(t.Context(), p)
		if err != nil {
			t.Errorf("%s: %v", p, err)
		}
		t.Log(p, took.Round(time.Millisecond))
	}
	if got := s.Stats(); got.Participants != 0 {
		t.Errorf("the self-test left %+v", got)
	}
	// A hop that is broken is named.
	blocked, _ := begin(t, Options{tcpOnly: true})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := blocked.Probe(ctx, PathUDP)
	var h *HopError
	if !errors.As(err, &h) || h.Hop != "publish" {
		t.Errorf("without UDP: %v", err)
	}
	if _, err := blocked.Probe(t.Context(), PathTCP); err != nil {
		t.Error(err)
	}
	stopped, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stopped.SelfTest(t.Context()); !errors.As(err, &h) || h.Hop != "start" || !errors.Is(err, ErrNotRunning) {
		t.Errorf("stopped: %v", err)
	}
}

func TestPorts(t *testing.T) {
	udp, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	taken := udp.LocalAddr().(*net.UDPAddr).Port
	s, err := New(Options{UDPPort: taken, TCPPort: AnyPort, TURNPort: AnyPort})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err == nil || !strings.Contains(err.Error(), strconv.Itoa(taken)) {
		t.Errorf("a taken port: %v", err)
	}
	if got, err := choosePort(0, taken, "x", udpFree, nil); err != nil || got == taken || got == 0 {
		t.Errorf("instead of a taken default: %d %v", got, err)
	}
	if _, err := choosePort(4000, 0, "x", udpFree, []int{4000}); err == nil {
		t.Error("one port for two purposes")
	}
	for _, o := range []Options{{UDPPort: 70000}, {TCPPort: -2}, {NodeIP: "localhost"}, {NodeIP: "10.0.0.1,"}, {NodeIP: "0.0.0.0"}, {NodeIP: "10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4,10.0.0.5,10.0.0.6,10.0.0.7,10.0.0.8,10.0.0.9"}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

func TestAddress(t *testing.T) {
	cidr := func(s string) net.Addr {
		ip, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		return &net.IPNet{IP: ip, Mask: n.Mask}
	}
	have := map[string][]net.Addr{
		"lo":      {cidr("127.0.0.1/8"), cidr("::1/128")},
		"docker0": {cidr("172.17.0.1/16")},
		"eth0":    {cidr("192.168.1.5/24"), cidr("fe80::1/64"), cidr("2001:db8::5/64")},
		"wlan0":   {cidr("10.1.1.1/24")},
		"ppp0":    {cidr("203.0.113.5/32")},
		"down0":   {cidr("198.51.100.1/24")},
	}
	for _, c := range []struct {
		names     string
		preferred string
		v4, v6    string
		loopback  bool
	}{
		{"lo docker0 eth0 wlan0", "", "192.168.1.5", "2001:db8::5", false},
		{"lo docker0 eth0 wlan0", "wlan0", "10.1.1.1", "2001:db8::5", false},
		{"lo down0 ppp0", "", "203.0.113.5", "", false},
		{"lo docker0", "", "127.0.0.1", "", true},
		{"docker0 lo", "docker0", "172.17.0.1", "", false}, // inside a container network it is the way out
		{"lo", "", "127.0.0.1", "", true},
	} {
		var ifs []net.Interface
		for _, n := range strings.Fields(c.names) {
			f := net.Interface{Name: n}
			if n != "down0" {
				f.Flags = net.FlagUp
			}
			ifs = append(ifs, f)
		}
		a, err := fromInterfaces(ifs, func(f *net.Interface) ([]net.Addr, error) { return have[f.Name], nil }, c.preferred)
		if err != nil || a.v4 != c.v4 || a.v6 != c.v6 || a.loopback != c.loopback {
			t.Errorf("%s (%s): %+v %v", c.names, c.preferred, a, err)
		}
	}
	if _, err := fromInterfaces(nil, nil, ""); err == nil {
		t.Error("an address without interfaces")
	}
	table := "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n" +
		"eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n" +
		"wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n" +
		"eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
	if got := defaultRoute([]byte(table)); got != "eth0" {
		t.Errorf("default route by %q", got)
	}
	if got := defaultRoute([]byte("x\n\n1 2 3")); got != "" {
		t.Errorf("%q", got)
	}
}

// On a machine that has no network but itself, calls work, and nothing is sent
// anywhere else: there is no route.
func TestLoopbackOnly(t *testing.T) {
	if os.Getenv("SFU_NETNS") == "1" {
		loopbackUp(t)
		s, base := begin(t, Options{})
		if got := s.Addresses(); !slices.Equal(got, []string{"127.0.0.1"}) {
			t.Errorf("addresses %v", got)
		}
		for _, p := range []Path{PathUDP, PathTCP, PathTURN} {
			if _, err := s.Probe(t.Context(), p); err != nil {
				t.Errorf("%s: %v", p, err)
			}
		}
		ensure(t, s, "call")
		c, err := dial(t.Context(), base+"/rtc", token(t, s, "call", "alice"), PathUDP, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.close()
		return
	}
	inNamespace(t)
}

// A machine that gets its address after the relay was started, as after booting,
// is reached at it.
func TestNewAddress(t *testing.T) {
	if os.Getenv("SFU_NETNS") == "1" {
		loopbackUp(t)
		s, _ := begin(t, Options{look: 100 * time.Millisecond})
		ports := s.Ports()
		if got := s.Addresses(); !slices.Equal(got, []string{"127.0.0.1"}) {
			t.Fatalf("addresses %v", got)
		}
		for _, args := range []string{"link add v0 type veth peer name v1", "link set v1 up", "addr add 10.77.0.1/24 dev v0", "link set v0 up"} {
			if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
				t.Skipf("ip %s: %v %s", args, err, out)
			}
		}
		eventually(t, "the new address is used", 30*time.Second, func() bool { return slices.Equal(s.Addresses(), []string{"10.77.0.1"}) })
		if got := s.Ports(); got != ports {
			t.Errorf("ports %+v, before %+v", got, ports)
		}
		for _, p := range []Path{PathUDP, PathTCP, PathTURN} {
			if _, err := s.Probe(t.Context(), p); err != nil {
				t.Errorf("%s: %v", p, err)
			}
		}
		return
	}
	inNamespace(t)
}

// inNamespace runs the test in a process with a network of its own.
func inNamespace(t *testing.T) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "SFU_NETNS=1")
	uid, gid := os.Getuid(), os.Getgid()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSPC) {
		t.Skip("this machine allows no network namespaces:", err)
	}
	if err == nil && strings.Contains(string(out), "--- SKIP: "+t.Name()) {
		t.Skipf("%s", out)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("%v\n%s", err, out)
	}
}

func loopbackUp(t *testing.T) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	var req struct {
		name  [16]byte
		flags uint16
		_     [22]byte
	}
	copy(req.name[:], "lo")
	req.flags = syscall.IFF_UP | syscall.IFF_RUNNING
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&req))); errno != 0 {
		t.Fatal(errno)
	}
}

// A drain lets nobody new in, and who is in a call back in; it ends with the calls.
func TestCloseDrains(t *testing.T) {
	s, base := begin(t, Options{})
	ensure(t, s, "call")
	aliceToken, bobs := token(t, s, "call", "alice"), token(t, s, "call", "bob")
	alice, err := call(t, base, aliceToken)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		s.Close(ctx)
		close(done)
	}()
	eventually(t, "new calls are refused", 10*time.Second, func() bool { return errors.Is(s.EnsureRoom(t.Context(), "x"), ErrDraining) })
	if _, err := call(t, base, bobs); err == nil {
		t.Error("somebody new came in")
	}
	again, err := call(t, base, aliceToken)
	if err != nil {
		t.Fatalf("who is in the call does not get back in: %v", err)
	}
	select {
	case <-done:
		t.Fatal("closed while somebody was in a call")
	case <-time.After(300 * time.Millisecond):
	}
	alice.Disconnect()
	again.Disconnect()
	select {
	case <-done: // because the call ended: the drain itself would go on for ten minutes
	case <-time.After(time.Minute):
		t.Fatal("the end of the call did not end the drain")
	}
	if err := s.Start(t.Context()); err == nil {
		t.Error("started again")
	}
}

func TestMetrics(t *testing.T) {
	begin(t, Options{})
	families, err := Metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	livekits := 0
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "go_") || strings.HasPrefix(f.GetName(), "process_") {
			t.Errorf("%s is not LiveKit's", f.GetName())
		}
		if strings.HasPrefix(f.GetName(), "livekit_") {
			livekits++
		}
	}
	if livekits == 0 {
		t.Errorf("none of %d families is LiveKit's", len(families))
	}
}

func FuzzSignal(f *testing.F) {
	s, err := New(Options{UDPPort: AnyPort, TCPPort: AnyPort, TURNPort: AnyPort})
	if err != nil {
		f.Fatal(err)
	}
	if err := s.Start(context.Background()); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close(context.Background()) })
	if err := s.EnsureRoom(context.Background(), "a"); err != nil {
		f.Fatal(err)
	}
	jwt, err := s.Mint(context.Background(), "a", "x", "", time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("/rtc/validate", "join_request=AAAA")
	f.Add("/rtc/v1/validate", "join_request=CgA&attributes=e30")
	f.Add("/rtc", "access_token=x")
	f.Fuzz(func(t *testing.T, path, query string) {
		u := url.URL{Path: path, RawQuery: query}
		for _, h := range []string{"", "Bearer " + jwt} {
			r := httptest.NewRequest("GET", "/", nil)
			r.URL = &u
			r.Header.Set("Authorization", h)
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, r)
			if w.Code == http.StatusInternalServerError {
				t.Fatalf("%s?%s: %d %s", path, query, w.Code, w.Body)
			}
		}
	})
}

func TestTentative(t *testing.T) {
	const ready = "fe80000000000000505400fffe123456 02 40 20 80     eth0\n"
	for table, want := range map[string]bool{
		"": false,
		"00000000000000000000000000000001 01 80 10 80       lo\n" + ready:              false,
		ready + "fec0000000000000505400fffe123456 02 40 40 c0     eth0\n":              true,
		ready + "fec0000000000000505400fffe123456 02 40 40 48     eth0\n":              false, // somebody else has it
		"fec0000000000000505400fffe123456 02 40 40 zz     eth0\nnothing of the kind\n": false,
	} {
		if got := tentative([]byte(table)); got != want {
			t.Errorf("%q: %v, want %v", table, got, want)
		}
	}
}

// Two users who call each other without the relay reach each other through TURN,
// and nobody else.
func TestTURNBetweenUsers(t *testing.T) {
	s, _ := begin(t, Options{NodeIP: "127.0.0.1"})
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Ports().TURN))
	client := func(user, password string) (*turn.Client, net.PacketConn, error) {
		pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pc.Close() })
		tc, err := turn.NewClient(&turn.ClientConfig{STUNServerAddr: addr, TURNServerAddr: addr, Conn: pc, Username: user, Password: password,
			LoggerFactory: logging.NewDefaultLoggerFactory()})
		if err != nil {
			t.Fatal(err)
		}
		if err := tc.Listen(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(tc.Close)
		relay, err := tc.Allocate()
		return tc, relay, err
	}
	a, err := s.TURN("@alice:example.org", Reach{Name: "chat.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(s.Ports().TURN)
	if want := []string{"turn:chat.example.org:" + port + "?transport=udp", "turn:127.0.0.1:" + port + "?transport=udp"}; !slices.Equal(a.URIs, want) {
		t.Errorf("%v, want %v", a.URIs, want)
	}
	if six, err := s.TURN("@alice:example.org", Reach{Name: "2001:db8::1"}); err != nil || six.URIs[0] != "turn:[2001:db8::1]:"+port+"?transport=udp" {
		t.Errorf("%v %v", six.URIs, err)
	}
	b, err := s.TURN("@bob:example.org", Reach{Name: "127.0.0.1"})
	if err != nil || len(b.URIs) != 1 {
		t.Fatalf("%v %v", b.URIs, err)
	}
	if _, _, err := client(a.Username, b.Password); err == nil {
		t.Error("another's password is good enough")
	}
	for _, name := range []string{"1:@alice:example.org", "x:@alice:example.org", ":", "9999999999:"} {
		if _, _, err := client(name, turnPassword(s.secret, name)); err == nil {
			t.Errorf("%q made an allocation", name)
		}
	}

	alice, from, err := client(a.Username, a.Password)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	bob, to, err := client(b.Username, b.Password)
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.CreatePermission(to.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if err := bob.CreatePermission(from.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if err := alice.CreatePermission(&net.UDPAddr{IP: net.IPv4(8, 8, 8, 8), Port: 53}); err == nil {
		t.Error("permission to reach another address")
	}
	got := make(chan string, 100)
	go func() {
		buf := make([]byte, 2000)
		for {
			n, who, err := to.ReadFrom(buf)
			if err != nil {
				return
			}
			got <- string(buf[:n]) + " from " + who.String()
		}
	}()
	want := "hello from " + from.LocalAddr().String()
	eventually(t, "bob hears alice", 20*time.Second, func() bool {
		if _, err := from.WriteTo([]byte("hello"), to.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		select {
		case s := <-got:
			if s != want {
				t.Fatalf("%q, want %q", s, want)
			}
			return true
		case <-time.After(50 * time.Millisecond):
			return false
		}
	})

	// Neither the media port nor any other service of the machine gets a packet.
	other, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for range 40 {
		if _, err := from.WriteTo([]byte("hello"), other.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	// What alice sends after these arrives after them, so nothing is waited for.
	eventually(t, "bob hears alice again", 20*time.Second, func() bool {
		from.WriteTo([]byte("hello"), to.LocalAddr())
		select {
		case <-got:
			return true
		case <-time.After(50 * time.Millisecond):
			return false
		}
	})
	other.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, who, err := other.ReadFrom(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes reached another service from %v", n, who)
	}
	to.Close()
	eventually(t, "the relayed address ends with the allocation", 20*time.Second, func() bool {
		_, again, err := client(b.Username, b.Password)
		if err != nil {
			return false
		}
		again.Close()
		return true
	})
}

func TestExchange(t *testing.T) {
	var x exchange
	four, six := net.IPv4(127, 0, 0, 1), net.IPv6loopback
	a, err := x.open(four)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x.open(four)
	if err != nil {
		t.Fatal(err)
	}
	// A port alone is no address; too much is dropped, as a network would.
	a.WriteTo([]byte("no"), &net.UDPAddr{IP: six, Port: b.addr.Port})
	a.WriteTo(make([]byte, maxPacket+1), b.addr)
	for i := range 2 * maxQueue {
		a.WriteTo([]byte{byte(i)}, b.addr)
	}
	buf := make([]byte, 10)
	for i := range maxQueue {
		if n, from, err := b.ReadFrom(buf); n != 1 || buf[0] != byte(i) || from.String() != a.addr.String() || err != nil {
			t.Fatalf("packet %d: %v from %v, %v", i, buf[:n], from, err)
		}
	}
	b.Close()
	if _, _, err := b.ReadFrom(buf); !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading from a closed line: %v", err)
	}
	a.WriteTo([]byte("gone"), b.addr)
	if len(x.lines) != 1 {
		t.Errorf("%d lines are open, want 1", len(x.lines))
	}
	for range lastPort - firstPort {
		if _, err := x.open(four); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := x.open(four); !errors.Is(err, errNoPort) {
		t.Errorf("one port too many: %v", err)
	}
}

// TestListenSettled waits for an address that is not the machine's, and gives up.
func TestListenSettled(t *testing.T) {
	if _, err := listenSettled("udp4", "192.0.2.1:0"); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("an address of nobody's: %v", err)
	}
	pc, err := listenSettled("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	if _, err := listenSettled("udp4", pc.LocalAddr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a port that is taken: %v", err)
	}
}
