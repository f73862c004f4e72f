// Package calls tests calls from end to end: a homeserver and the call relay, joined
// as the appliance joins them, with LiveKit's own client in the place of people.
//
// Invariants: media is real and goes through the machine's network; nothing is
// stood in for but the identity provider.
package calls

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	lksdk "github.com/livekit/server-sdk-go/v2"

	"github.com/livekit/protocol/logger"

	"holdfast/homeserver"
	"holdfast/homeserver/hstest"
	"holdfast/sfu"
	"holdfast/sfu/process"
)

func TestMain(m *testing.M) {
	lksdk.SetLogger(logger.GetDiscardLogger())
	m.Run()
}

type site struct {
	*hstest.HS
	sfu *process.Relay
	url string
}

func open(t *testing.T) *site {
	t.Helper()
	s := &site{}
	var err error
	if s.sfu, err = process.New(process.Options{Options: sfu.Options{UDPPort: sfu.AnyPort, TCPPort: sfu.AnyPort, TURNPort: sfu.AnyPort}}); err != nil {
		t.Fatal(err)
	}
	if err := s.sfu.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	relay := http.StripPrefix("/livekit/sfu", s.sfu.Handler())
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/livekit/sfu/") {
			relay.ServeHTTP(w, r)
			return
		}
		s.Handler().ServeHTTP(w, r)
	}))
	s.url = web.URL
	s.HS = hstest.New(t, func(o *homeserver.Options) {
		o.Media = s.sfu
		o.PublicURL = func(*http.Request) string { return web.URL }
	})
	t.Cleanup(func() {
		s.sfu.Close(t.Context())
		web.CloseClientConnections()
		web.Close()
	})
	return s
}

func (s *site) post(t *testing.T, path string, body any) (int, map[string]any) {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(s.url+path, "application/json", strings.NewReader(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, out
}

const memberType = "org.matrix.msc3401.call.member"

// person is somebody in a call, as Element Call does it.
type person struct {
	*hstest.Client
	*talker
	key string
}

func (s *site) openID(p *hstest.Client) any {
	return p.Must("POST", "/user/"+p.UserID+"/openid/request_token", hstest.Obj{}).V
}

func (s *site) callIn(t *testing.T, c *hstest.Client, roomID string) *person {
	t.Helper()
	p := &person{Client: c, key: "_" + c.UserID + "_" + c.DeviceID + "_m.call"}
	delay := c.Must("PUT", hstest.Room(roomID)+"/state/"+memberType+"/"+p.key+"?org.matrix.msc4140.delay=3600000", hstest.Obj{})
	c.SendState(roomID, memberType, p.key, hstest.Obj{"application": "m.call", "device_id": c.DeviceID})
	delayID := delay.At("delay_id").String()
	status, out := s.post(t, "/livekit/jwt/sfu/get", map[string]any{
		"room": roomID, "device_id": c.DeviceID, "openid_token": s.openID(c),
		"delay_id": delayID, "delay_timeout": 3600000, "delay_cs_api_url": s.url,
	})
	if status != http.StatusOK {
		t.Fatalf("%d %v", status, out)
	}
	p.talker = talk(t, out["url"].(string), out["jwt"].(string))
	if got, want := p.LocalParticipant.Identity(), c.UserID+":"+c.DeviceID; got != want {
		t.Errorf("identity %q, want %q: other clients could not tell whose picture it is", got, want)
	}
	return p
}

func eventually(t *testing.T, what string, within time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

func TestCall(t *testing.T) {
	s := open(t)
	alice, bob, carol, eve := s.Login(t, "alice"), s.Login(t, "bob"), s.Login(t, "carol"), s.Login(t, "eve")
	roomID := alice.CreateRoom(hstest.Obj{"preset": "public_chat", "power_level_content_override": hstest.Obj{"events": hstest.Obj{memberType: 0}}})
	bob.Join(roomID)
	carol.Join(roomID)
	a, b, c := s.callIn(t, alice, roomID), s.callIn(t, bob, roomID), s.callIn(t, carol, roomID)
	eventually(t, "everybody hears sound", 60*time.Second, func() bool {
		return a.heard.Load() > 100 && b.heard.Load() > 100 && c.heard.Load() > 100
	})
	if got := s.sfu.Stats(); got.Rooms != 1 || got.Participants != 3 {
		t.Errorf("%+v", got)
	}
	member := func(p *person) string {
		v, err := json.Marshal(alice.Must("GET", hstest.Room(roomID)+"/state/"+memberType+"/"+p.key, nil).V)
		if err != nil {
			t.Fatal(err)
		}
		return string(v)
	}

	// Who is not in the room gets no token.
	status, out := s.post(t, "/livekit/jwt/sfu/get", map[string]any{"room": roomID, "device_id": eve.DeviceID, "openid_token": s.openID(eve)})
	if status != http.StatusForbidden {
		t.Errorf("eve: %d %v", status, out)
	}

	// Who is put out of the room is out of the call, and does not come back.
	alice.Must("POST", hstest.Room(roomID)+"/kick", hstest.Obj{"user_id": carol.UserID})
	eventually(t, "carol is out of the call", 20*time.Second, func() bool { return s.sfu.Stats().Participants == 2 })
	status, _ = s.post(t, "/livekit/jwt/sfu/get", map[string]any{"room": roomID, "device_id": carol.DeviceID, "openid_token": s.openID(carol)})
	if status != http.StatusForbidden {
		t.Errorf("carol: %d", status)
	}

	// Bob's program dies: the server says for him that he left.
	if got := member(b); !strings.Contains(got, "m.call") {
		t.Fatal(got)
	}
	b.Disconnect()
	eventually(t, "bob is no member of the call", 40*time.Second, func() bool { return member(b) == "{}" })
	if got := member(a); !strings.Contains(got, "m.call") {
		t.Errorf("alice is still in the call, but %s", got)
	}
	if n := s.sfu.Stats().Participants; n != 1 {
		t.Errorf("%d participants", n)
	}

	// The server restarts in the middle of a call, which goes on.
	s.Restart()
	if got := member(a); !strings.Contains(got, "m.call") {
		t.Errorf("the restart took alice out of the call: %s", got)
	}
	a.Disconnect()
	eventually(t, "alice is no member of the call", 40*time.Second, func() bool { return member(a) == "{}" })
}
