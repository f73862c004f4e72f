package calls

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/homeserver/apitest"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

const (
	alice = "@alice:example.org"
	bob   = "@bob:example.org"
	room  = "!room:example.org"
)

// relay stands in for the SFU.
type relay struct {
	mu    sync.Mutex
	rooms map[string]bool
	in    map[seat]bool
	gone  []seat
	tell  func(room, identity string, joined bool)
	fail  error
	full  string // the limit that keeps people out
}

// Full is a limit's name, or "".
func (m *relay) Full(string, string) string { return m.full }

func (m *relay) Mint(_ context.Context, room, identity, _ string, ttl time.Duration) (string, error) {
	return fmt.Sprintf("%s|%s|%s", room, identity, ttl), m.fail
}

func (m *relay) EnsureRoom(_ context.Context, room string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rooms == nil {
		m.rooms = map[string]bool{}
	}
	m.rooms[room] = true
	return m.fail
}

func (m *relay) Participants(room string) (out []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.in {
		if s.room == room {
			out = append(out, s.identity)
		}
	}
	return out
}

func (m *relay) Remove(room, identity string) {
	m.mu.Lock()
	m.gone = append(m.gone, seat{room, identity})
	m.mu.Unlock()
}

func (m *relay) Subscribe(f func(string, string, bool)) func() {
	m.tell = f
	return func() {}
}

func (m *relay) set(at seat, here bool) {
	m.mu.Lock()
	if m.in == nil {
		m.in = map[seat]bool{}
	}
	if here {
		m.in[at] = true
	} else {
		delete(m.in, at)
	}
	m.mu.Unlock()
	m.tell(at.room, at.identity, here)
}

// lastWords stands in for delayed events.
type lastWords struct {
	mu        sync.Mutex
	waiting   map[string]time.Duration // of alice, in room
	restarted map[string][]time.Time
	sent      map[string]time.Time
	fail      error
}

func (d *lastWords) Waiting(_ context.Context, id string) (string, string, time.Duration, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if delay, ok := d.waiting[id]; ok {
		return alice, room, delay, nil
	}
	return "", "", 0, mx.Errorf(mx.NotFound, "None.")
}

func (d *lastWords) Restart(_ context.Context, id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return d.fail
	}
	if _, ok := d.waiting[id]; !ok {
		return mx.Errorf(mx.NotFound, "None.")
	}
	if d.restarted == nil {
		d.restarted = map[string][]time.Time{}
	}
	d.restarted[id] = append(d.restarted[id], time.Now())
	return nil
}

func (d *lastWords) Send(_ context.Context, id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return d.fail
	}
	if _, ok := d.waiting[id]; !ok {
		return mx.Errorf(mx.NotFound, "None.")
	}
	delete(d.waiting, id)
	if d.sent == nil {
		d.sent = map[string]time.Time{}
	}
	d.sent[id] = time.Now()
	return nil
}

func (d *lastWords) restarts(id string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.restarted[id])
}

func (d *lastWords) wasSent(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.sent[id]
	return ok
}

func openStore(t testing.TB, path string) *store.DB {
	t.Helper()
	db, err := store.Open(context.Background(), path, store.Options{Readers: 2})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func start(t testing.TB, db *store.DB, m MediaTokens, d Delayed, change ...func(*Options)) *Service {
	t.Helper()
	joined := map[string]bool{room + alice: true, room + bob: true}
	o := Options{
		ServerName: "example.org", DB: db, Secrets: apitest.Secrets(), Media: m, Delayed: d,
		PublicURL: func(*http.Request) string { return "https://chat.example.org" },
		IsJoined: func(_ store.Querier, r, u string) (bool, error) {
			if r == "!unknown:example.org" {
				return false, mx.Errorf(mx.NotFound, "This server does not know the room.")
			}
			return joined[r+u], nil
		},
		DeviceExists: func(_ store.Querier, u, d string) (bool, error) { return d == strings.ToUpper(u[1:2]), nil },
	}
	for _, f := range change {
		f(&o)
	}
	s, err := New(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type tokens struct{}

func (tokens) Authenticate(_ context.Context, token string) (route.Principal, error) {
	switch token {
	case "alice":
		return route.Principal{UserID: alice, DeviceID: "A"}, nil
	case "bob":
		return route.Principal{UserID: bob, DeviceID: "B"}, nil
	case "suspended":
		return route.Principal{UserID: bob, DeviceID: "B", Suspended: true}, nil
	case "eve":
		return route.Principal{UserID: "@eve:example.org", DeviceID: "E"}, nil
	}
	return route.Principal{}, mx.Errorf(mx.UnknownToken, "No.")
}

type web struct {
	t testing.TB
	h http.Handler
}

func serve(t testing.TB, s *Service) web {
	return web{t, route.NewServer(tokens{}, slog.New(slog.NewTextHandler(io.Discard, nil)), false, s.Routes())}
}

func (w web) do(token, method, path, body string) (int, map[string]any) {
	w.t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	rec := httptest.NewRecorder()
	w.h.ServeHTTP(rec, req)
	if rec.Header().Get("Access-Control-Allow-Origin") != "*" {
		w.t.Fatalf("%s %s: no CORS header", method, path)
	}
	var out map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil {
		w.t.Fatalf("%s %s: %d %q", method, path, rec.Code, rec.Body)
	}
	return rec.Code, out
}

func (w web) openID(token string) string {
	w.t.Helper()
	user := map[string]string{"alice": alice, "bob": bob, "eve": "@eve:example.org"}[token]
	status, m := w.do(token, "POST", "/_matrix/client/v3/user/"+user+"/openid/request_token", "{}")
	if status != 200 || m["matrix_server_name"] != "example.org" || m["token_type"] != "Bearer" || m["expires_in"] != 3600.0 {
		w.t.Fatalf("%d %v", status, m)
	}
	return m["access_token"].(string)
}

func TestHash(t *testing.T) {
	// The vectors of MSC4195.
	for _, c := range []struct {
		parts []string
		want  string
	}{
		{[]string{"!roomid:example.com", "slot1234"}, "O8437W3+jmzMVjoIP3tNwbm+XxHQk2iKpOA7aqw3qSc"},
		{[]string{"!roomid:example.com", "slot123", "random123"}, "IMeDd+K3MIqJTI20EXBIrepKkhhORvf3q8fx3rlrhTk"},
		{[]string{"@alice:example.com", "DEVICE123", "memberABC"}, "J+T45tGruxc+HrUOqJJlyQSV33m728Cme4+vt8/SWrU"},
	} {
		if got, err := hash(c.parts...); err != nil || got != c.want {
			t.Errorf("%v: %s %v, want %s", c.parts, got, err, c.want)
		}
	}
	// As JSON.stringify writes it: no escapes of <, >, & and line separators.
	a, _ := hash("<&>\u2028")
	if want := "szRZGOSfSSVryjUoeWdidAtXqPET1XpzB4bd1bm7Qzw"; a != want {
		t.Errorf("%s, want %s", a, want)
	}
}

func TestTokens(t *testing.T) {
	db := openStore(t, filepath.Join(t.TempDir(), "db"))
	defer db.Close()
	m := &relay{}
	d := &lastWords{waiting: map[string]time.Duration{"leave": time.Hour, "leave2": time.Hour, "leave3": time.Hour}}
	s := start(t, db, m, d)
	defer s.Close()
	w := serve(t, s)

	if _, out := w.do("alice", "GET", "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", ""); fmt.Sprint(out["rtc_transports"]) != "[map[livekit_service_url:https://chat.example.org/livekit/jwt type:livekit]]" {
		t.Errorf("transports: %v", out)
	}
	if _, out := w.do("alice", "GET", "/_matrix/client/v1/rtc/transports", ""); fmt.Sprint(out["transports"]) != "[map[type:m.livekit url:wss://chat.example.org/livekit/sfu]]" {
		t.Errorf("transports: %v", out)
	}
	if got := fmt.Sprint(s.WellKnown(httptest.NewRequest("GET", "/", nil))); !strings.Contains(got, "https://chat.example.org/livekit/jwt") {
		t.Error(got)
	}
	alices, bobs, eves := w.openID("alice"), w.openID("bob"), w.openID("eve")
	if status, _ := w.do("alice", "POST", "/_matrix/client/v3/user/"+bob+"/openid/request_token", "{}"); status != 403 {
		t.Errorf("a token for another user: %d", status)
	}
	if _, out := w.do("", "GET", "/_matrix/federation/v1/openid/userinfo?access_token="+alices, ""); out["sub"] != alice {
		t.Errorf("userinfo: %v", out)
	}
	if status, out := w.do("", "GET", "/_matrix/federation/v1/openid/userinfo?access_token=x", ""); status != 401 || out["errcode"] != "M_UNKNOWN_TOKEN" {
		t.Errorf("userinfo: %d %v", status, out)
	}

	lkRoom, _ := hash(room, legacySlot)
	bobsHash, _ := hash(bob, "B", "m1")
	flat, _ := hash(alice, "m1")
	oid := func(tok, server string) string {
		return `"openid_token":{"access_token":"` + tok + `","token_type":"Bearer","matrix_server_name":"` + server + `","expires_in":3600}`
	}
	const hs = "/_matrix/client/unstable/io.element.msc4195/rtc/livekit/"
	for _, c := range []struct {
		name, token, path, body string
		status                  int
		want                    string // the minted token, or the error code
	}{
		{"legacy", "", "/livekit/jwt/sfu/get", `{"room":"` + room + `","device_id":"A",` + oid(alices, "example.org") + `}`, 200, lkRoom + "|" + alice + ":A|10m0s"},
		{"service", "", "/livekit/jwt/get_token", `{"room_id":"` + room + `","slot_id":"m.call#ROOM",` + oid(bobs, "example.org") + `,"member":{"id":"m1","claimed_user_id":"` + bob + `","claimed_device_id":"B"}}`, 200, lkRoom + "|" + bobsHash + "|10m0s"},
		{"client", "bob", hs + "get_token", `{"url":"wss://chat.example.org/livekit/sfu","room_id":"` + room + `","slot_id":"m.call#ROOM","member":{"id":"m1","claimed_device_id":"B"}}`, 200, lkRoom + "|" + bobsHash + "|10m0s"},
		{"client, latest form", "alice", "/_matrix/client/v1/rtc/livekit/get_token", `{"server_name":"example.org","url":"wss://chat.example.org/livekit/sfu/","room_id":"` + room + `","slot_id":"m.call#ROOM","member_id":"m1"}`, 200, lkRoom + "|" + flat + "|10m0s"},
		{"legacy with handover", "", "/livekit/jwt/sfu/get", `{"room":"` + room + `","device_id":"A","delay_id":"leave","delay_timeout":3600000,"delay_cs_api_url":"https://x",` + oid(alices, "example.org") + `}`, 200, lkRoom + "|" + alice + ":A|10m0s"},

		{"empty body", "", "/livekit/jwt/sfu/get", ``, 400, "M_BAD_JSON"},
		{"no JSON", "", "/livekit/jwt/get_token", `x`, 400, "M_NOT_JSON"},
		{"wrong types", "", "/livekit/jwt/get_token", `{"room_id":1}`, 400, "M_BAD_JSON"},
		{"too large", "", "/livekit/jwt/get_token", `{"room_id":"` + strings.Repeat("x", maxBody) + `"}`, 413, "M_TOO_LARGE"},
		{"long ID", "", "/livekit/jwt/sfu/get", `{"room":"` + room + `","device_id":"` + strings.Repeat("x", 256) + `",` + oid(alices, "example.org") + `}`, 400, "M_BAD_JSON"},
		{"unknown OpenID token", "", "/livekit/jwt/sfu/get", `{"room":"` + room + `","device_id":"A",` + oid("nope", "example.org") + `}`, 401, "M_UNAUTHORIZED"},
		{"another server's", "", "/livekit/jwt/sfu/get", `{"room":"` + room + `","device_id":"A",` + oid(alices, "evil.example") + `}`, 401, "M_UNAUTHORIZED"},
		{"claims another user", "", "/livekit/jwt/get_token", `{"room_id":"` + room + `","slot_id":"s",` + oid(alices, "example.org") + `,"member":{"id":"m1","claimed_user_id":"` + bob + `","claimed_device_id":"B"}}`, 401, "M_UNAUTHORIZED"},
		{"not in the room", "", "/livekit/jwt/sfu/get", `{"room":"` + room + `","device_id":"E",` + oid(eves, "example.org") + `}`, 403, "M_FORBIDDEN"},
		{"unknown room looks the same", "", "/livekit/jwt/sfu/get", `{"room":"!unknown:example.org","device_id":"E",` + oid(eves, "example.org") + `}`, 403, "M_FORBIDDEN"},
		{"another's device", "", "/livekit/jwt/sfu/get", `{"room":"` + room + `","device_id":"B",` + oid(alices, "example.org") + `}`, 403, "M_FORBIDDEN"},
		{"client, no token", "", hs + "get_token", `{}`, 401, "M_MISSING_TOKEN"},
		{"client, other relay", "bob", hs + "get_token", `{"url":"wss://evil.example/livekit/sfu","room_id":"` + room + `","slot_id":"s","member":{"id":"m1"}}`, 400, "M_INVALID_PARAM"},
		{"client, other server", "bob", hs + "get_token", `{"server_name":"evil.example","url":"wss://chat.example.org/livekit/sfu","room_id":"` + room + `","slot_id":"s","member":{"id":"m1"}}`, 400, "M_INVALID_PARAM"},
		{"client, not in the room", "eve", hs + "get_token", `{"url":"wss://chat.example.org/livekit/sfu","room_id":"` + room + `","slot_id":"s","member":{"id":"m1"}}`, 403, "M_FORBIDDEN"},

		{"delegation probe, service", "", "/livekit/jwt/delegate_delayed_leave", ``, 400, "M_BAD_JSON"},
		{"delegation probe, client", "", hs + "delegate_delayed_leave", ``, 401, "M_MISSING_TOKEN"},
		{"delegate", "alice", hs + "delegate_delayed_leave", `{"url":"wss://chat.example.org/livekit/sfu","room_id":"` + room + `","slot_id":"s","member":{"id":"m1","claimed_device_id":"A"},"delay_id":"leave2"}`, 200, ""},
		{"delegate, service", "", "/livekit/jwt/delegate_delayed_leave", `{"room_id":"` + room + `","slot_id":"s",` + oid(alices, "example.org") + `,"member":{"id":"m2","claimed_user_id":"` + alice + `","claimed_device_id":"A"},"delay_id":"leave3","delay_timeout":1}`, 200, ""},
		{"delegate without event", "alice", hs + "delegate_delayed_leave", `{"url":"wss://chat.example.org/livekit/sfu","room_id":"` + room + `","slot_id":"s","member":{"id":"m1"}}`, 400, "M_BAD_JSON"},
		{"delegate another's event", "bob", hs + "delegate_delayed_leave", `{"url":"wss://chat.example.org/livekit/sfu","room_id":"` + room + `","slot_id":"s","member":{"id":"m1"},"delay_id":"leave3"}`, 400, "M_BAD_JSON"},
		{"delegate an unknown event", "alice", hs + "delegate_delayed_leave", `{"room_id":"` + room + `","slot_id":"s","member_id":"m1","delay_id":"none"}`, 400, "M_BAD_JSON"},
	} {
		status, out := w.do(c.token, "POST", c.path, c.body)
		got, _ := out["errcode"].(string)
		if jwt, ok := out["jwt"].(string); ok {
			got = jwt
			if u, ok := out["url"]; ok && u != "wss://chat.example.org/livekit/sfu" {
				t.Errorf("%s: url %v", c.name, u)
			}
		}
		if status != c.status || got != c.want {
			t.Errorf("%s: %d %v, want %d %s", c.name, status, out, c.status, c.want)
		}
	}
	if got := slices.Collect(maps.Keys(m.rooms)); len(got) != 1 || got[0] != lkRoom {
		t.Errorf("rooms made: %v; those who were refused must not make any", got)
	}
	if status, _ := w.do("", "GET", "/livekit/jwt/healthz", ""); status != 200 {
		t.Error("healthz", status)
	}
	// A limit that keeps people out is told by the client-server API to members; Element
	// Call's token gets its answer from the relay, which is asked for no room.
	clear(m.rooms)
	for limit, words := range map[string]string{"calls": "as many calls", "participants": "is full"} {
		m.full = limit
		body := `{"url":"wss://chat.example.org/livekit/sfu","room_id":"` + room + `","slot_id":"m.call#ROOM","member":{"id":"m1"}}`
		if status, out := w.do("bob", "POST", hs+"get_token", body); status != 403 || out["errcode"] != "M_RESOURCE_LIMIT_EXCEEDED" || out["limit_type"] != limit || !strings.Contains(fmt.Sprint(out["error"]), words) {
			t.Errorf("%s: %d %v", limit, status, out)
		}
		if status, out := w.do("eve", "POST", hs+"get_token", body); status != 403 || out["errcode"] != "M_FORBIDDEN" {
			t.Errorf("%s, not in the room: %d %v", limit, status, out)
		}
		if status, out := w.do("", "POST", "/livekit/jwt/sfu/get", `{"room":"`+room+`",`+oid(bobs, "example.org")+`,"device_id":"B"}`); status != 200 || out["jwt"] != lkRoom+"|"+bob+":B|10m0s" {
			t.Errorf("%s, Element Call: %d %v", limit, status, out)
		}
	}
	m.full = ""
	if len(m.rooms) != 0 {
		t.Errorf("rooms made although a limit was reached: %v", m.rooms)
	}
	// The relay's names lead back to Matrix'.
	if got := s.Rooms(); got[lkRoom] != room {
		t.Errorf("rooms: %v", got)
	}
	people := s.People(lkRoom)
	for identity, want := range map[string]Person{alice + ":A": {room, alice, "A"}, bobsHash: {room, bob, "B"}} {
		if people[identity] != want {
			t.Errorf("%s is %+v, want %+v", identity, people[identity], want)
		}
	}
	if got := s.People("another"); len(got) != 0 {
		t.Errorf("people of another call: %v", got)
	}
	// Who leaves the room leaves the call.
	s.Left(room, bob)
	s.Left(room, "@eve:example.org")
	s.Close()
	if len(m.gone) != 2 || !slices.Contains(m.gone, seat{lkRoom, bobsHash}) || !slices.Contains(m.gone, seat{lkRoom, bob + ":B"}) {
		t.Errorf("removed: %v", m.gone)
	}
	m.fail = errors.New("down")
	if status, out := w.do("alice", "POST", hs+"get_token", `{"url":"wss://chat.example.org/livekit/sfu","room_id":"`+room+`","slot_id":"s","member":{"id":"m1"}}`); status != 503 || strings.Contains(fmt.Sprint(out), "down") {
		t.Errorf("%d %v", status, out)
	}
}

// TestStanding: whose account is locked or suspended gets no token of the relay, by
// none of the ways, and is taken out of the calls that run.
func TestStanding(t *testing.T) {
	db := openStore(t, filepath.Join(t.TempDir(), "db"))
	defer db.Close()
	m := &relay{}
	var mu sync.Mutex
	var standing error
	set := func(err error) { mu.Lock(); standing = err; mu.Unlock() }
	s := start(t, db, m, &lastWords{})
	defer s.Close()
	s.o.Standing = func(_ context.Context, userID string) error {
		mu.Lock()
		defer mu.Unlock()
		if userID == alice {
			return standing
		}
		return nil
	}
	s.o.TURN = func(string, *http.Request) (Credentials, bool, error) {
		return Credentials{Username: "u", Password: "p", URIs: []string{"turn:x"}, TTL: time.Hour}, true, nil
	}
	w := serve(t, s)
	oid := `"openid_token":{"access_token":"` + w.openID("alice") + `","token_type":"Bearer","matrix_server_name":"example.org","expires_in":3600}`
	ways := []struct{ token, path, body string }{
		{"", "/livekit/jwt/sfu/get", `{"room":"` + room + `","device_id":"A",` + oid + `}`},
		{"", "/livekit/jwt/get_token", `{"room_id":"` + room + `","slot_id":"s",` + oid + `,"member":{"id":"m1","claimed_user_id":"` + alice + `","claimed_device_id":"A"}}`},
		{"alice", "/_matrix/client/v1/rtc/livekit/get_token", `{"url":"wss://chat.example.org/livekit/sfu","room_id":"` + room + `","slot_id":"s","member_id":"m1"}`},
	}
	ask := func(status int, code string) {
		t.Helper()
		for _, a := range ways {
			got, out := w.do(a.token, "POST", a.path, a.body)
			if got != status || (code != "" && out["errcode"] != code) || (out["jwt"] != nil) != (code == "") {
				t.Errorf("%s: %d %v, want %d %s", a.path, got, out, status, code)
			}
		}
	}
	ask(200, "")
	set(mx.Errorf(mx.UserSuspended, "No."))
	s.Suspended(alice)
	s.wg.Wait()
	m.mu.Lock()
	if len(m.gone) != 3 {
		t.Errorf("taken out of calls: %v", m.gone)
	}
	m.mu.Unlock()
	ask(403, "M_USER_SUSPENDED")
	set(&mx.Error{Code: mx.UserLocked, Msg: "No."})
	ask(401, "M_USER_LOCKED")
	set(nil)
	ask(200, "")
	// Locking withdraws the OpenID tokens, too.
	if err := s.Locked(t.Context(), alice); err != nil {
		t.Fatal(err)
	}
	for _, a := range ways[:2] {
		if got, out := w.do(a.token, "POST", a.path, a.body); got != 401 || out["errcode"] != "M_UNAUTHORIZED" {
			t.Errorf("%s: %d %v", a.path, got, out)
		}
	}
	// By an access token the principal says it.
	for path, method := range map[string]string{"/_matrix/client/v1/rtc/livekit/get_token": "POST", "/_matrix/client/v3/voip/turnServer": "GET"} {
		if got, out := w.do("suspended", method, path, ways[2].body); got != 403 || out["errcode"] != "M_USER_SUSPENDED" {
			t.Errorf("%s: %d %v", path, got, out)
		}
	}
	if got, out := w.do("alice", "GET", "/_matrix/client/v3/voip/turnServer", ""); got != 200 || out["username"] != "u" {
		t.Errorf("TURN: %d %v", got, out)
	}
}

func TestNoRelay(t *testing.T) {
	db := openStore(t, filepath.Join(t.TempDir(), "db"))
	defer db.Close()
	s := start(t, db, nil, &lastWords{})
	defer s.Close()
	w := serve(t, s)
	if _, out := w.do("alice", "GET", "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", ""); out["rtc_transports"] == nil || len(out["rtc_transports"].([]any)) != 0 {
		t.Errorf("%v, want an empty array", out)
	}
	for _, p := range []string{"/livekit/jwt/delegate_delayed_leave", "/_matrix/client/unstable/io.element.msc4195/rtc/livekit/delegate_delayed_leave", "/livekit/jwt/sfu/get"} {
		if status, _ := w.do("", "POST", p, ""); status != 404 {
			t.Errorf("%s: %d, want 404", p, status)
		}
	}
	if s.WellKnown(nil) != nil {
		t.Error("well-known names a relay")
	}
}

func TestOpenIDExpires(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		db := openStore(t, path)
		defer db.Close()
		s := start(t, db, nil, nil)
		defer s.Close()
		w := serve(t, s)
		first := w.openID("alice")
		time.Sleep(openIDTTL - time.Second)
		if _, err := s.Userinfo(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if _, err := s.Userinfo(t.Context(), first); err == nil {
			t.Fatal("the token did not expire")
		}
		var last string
		for range openIDPerUser + 5 {
			time.Sleep(time.Millisecond)
			last = w.openID("alice")
		}
		var n int
		if err := db.Read(t.Context(), func(q store.Querier) error {
			return q.QueryRow("SELECT count(*) FROM openid_tokens").Scan(&n)
		}); err != nil || n != openIDPerUser {
			t.Fatal(n, err)
		}
		if _, err := s.Userinfo(t.Context(), last); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDelegation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		db := openStore(t, path)
		defer db.Close()
		m := &relay{}
		d := &lastWords{waiting: map[string]time.Duration{}}
		s := start(t, db, m, d)
		defer s.Close()
		lk, _ := relayRoom(room, "slot")
		hand := func(identity, delayID string, delay time.Duration) seat {
			t.Helper()
			d.mu.Lock()
			d.waiting[delayID] = delay
			d.mu.Unlock()
			if err := s.delegate(t.Context(), alice, room, "slot", identity, delayID); err != nil {
				t.Fatal(err)
			}
			return seat{lk, identity}
		}
		stored := func() (n int) {
			db.Read(t.Context(), func(q store.Querier) error {
				l, err := listDelegations(q, apitest.Secrets())
				n = len(l)
				return err
			})
			return n
		}

		// Connects, stays for long, drops and comes back, and goes.
		at := hand("a", "one", time.Hour)
		time.Sleep(10 * time.Second)
		m.set(at, true)
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		if n := d.restarts("one"); n < 12 || n > 14 {
			t.Errorf("restarted %d times in 10 h, want every 48 min", n)
		}
		m.set(at, false)
		time.Sleep(2 * time.Second)
		m.set(at, true)
		time.Sleep(time.Minute)
		if d.wasSent("one") {
			t.Fatal("a short break ended the membership")
		}
		m.set(at, false)
		time.Sleep(2 * time.Second)
		if d.wasSent("one") {
			t.Fatal("sent before the time to come back was over")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !d.wasSent("one") || stored() != 0 {
			t.Fatal("not sent after the participant had gone", stored())
		}

		// Never comes.
		hand("b", "two", time.Hour)
		time.Sleep(defaultTiming.join + time.Second)
		synctest.Wait()
		if !d.wasSent("two") {
			t.Fatal("one who never came stays a member")
		}

		// Is in the call when the event is handed over; the client cancels it itself.
		m.set(seat{lk, "c"}, true)
		hand("c", "three", time.Minute)
		time.Sleep(30 * time.Minute)
		d.mu.Lock()
		delete(d.waiting, "three")
		d.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if stored() != 0 || d.wasSent("three") {
			t.Fatal("a cancelled event is still watched")
		}

		// A second delegation for the same participant takes the place of the first.
		hand("c", "four", time.Hour)
		hand("c", "five", time.Hour)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if n := d.restarts("four"); n > 1 {
			t.Errorf("the replaced event was restarted %d times", n)
		}
		m.set(seat{lk, "c"}, false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if d.wasSent("four") || !d.wasSent("five") {
			t.Error("sent", d.sent)
		}

		// The disk fails for a while.
		m.set(seat{lk, "d"}, true)
		hand("d", "six", time.Minute)
		synctest.Wait()
		d.mu.Lock()
		d.fail = store.ErrUnavailable
		d.mu.Unlock()
		m.set(seat{lk, "d"}, false)
		time.Sleep(20 * time.Second)
		d.mu.Lock()
		d.fail = nil
		d.mu.Unlock()
		time.Sleep(defaultTiming.retry + time.Second)
		synctest.Wait()
		if !d.wasSent("six") {
			t.Error("not sent after the disk worked again")
		}
		if len(s.watches) != 0 {
			t.Errorf("%d watches left", len(s.watches))
		}
	})
}

// A restart is no leave of who comes back; who does not come back has left.
func TestDelegationAfterRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		db := openStore(t, path)
		m := &relay{}
		d := &lastWords{waiting: map[string]time.Duration{"back": time.Hour, "lost": time.Hour, "gone": time.Hour}}
		s := start(t, db, m, d)
		lk, _ := relayRoom(room, "slot")
		for id, delay := range map[string]string{"a": "back", "b": "gone", "c": "lost"} {
			m.set(seat{lk, id}, true)
			if err := s.delegate(t.Context(), alice, room, "slot", id, delay); err != nil {
				t.Fatal(err)
			}
		}
		s.Close()
		db.Close()
		if d.wasSent("back") || d.wasSent("lost") {
			t.Fatal("stopping the server sent it")
		}
		d.mu.Lock()
		delete(d.waiting, "gone")
		d.mu.Unlock()
		db = openStore(t, path)
		defer db.Close()
		m = &relay{}
		s = start(t, db, m, d)
		defer s.Close()
		time.Sleep(10 * time.Second)
		m.set(seat{lk, "a"}, true)
		time.Sleep(s.timing.back - 11*time.Second)
		synctest.Wait()
		if d.wasSent("back") || d.wasSent("lost") {
			t.Fatal("whoever may still come back is no member any more")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if d.wasSent("back") || !d.wasSent("lost") {
			t.Fatalf("who came back left: %t; who did not: %t", d.wasSent("back"), d.wasSent("lost"))
		}
		db.Read(t.Context(), func(q store.Querier) error {
			if l, err := listDelegations(q, apitest.Secrets()); err != nil || len(l) != 1 || l[0].delayID != "back" {
				t.Error(l, err)
			}
			return nil
		})
		m.set(seat{lk, "a"}, false)
		time.Sleep(2 * s.timing.grace)
		synctest.Wait()
		if !d.wasSent("back") {
			t.Error("who left after the restart is still a member")
		}
	})
}

// Tokens outlive the server's process. Who lost the right to be in a call is refused
// by the next one, and who loses it then is found.
func TestSeatsAfterRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		db := openStore(t, path)
		defer func() { db.Close() }()
		m := &relay{}
		s := start(t, db, m, &lastWords{})
		admit := func(user, device string) seat {
			t.Helper()
			lk, err := relayRoom(room, "slot")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.admit(t.Context(), user, device, room, "slot", user+device); err != nil {
				t.Fatal(err)
			}
			return seat{lk, user + device}
		}
		a, b := admit(alice, "A"), admit(bob, "B")
		again := func(f func(*Options)) {
			t.Helper()
			s.Close()
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db, m = openStore(t, path), &relay{}
			s = start(t, db, m, &lastWords{}, f)
		}
		gone := func() []seat {
			s.wg.Wait()
			m.mu.Lock()
			defer m.mu.Unlock()
			return slices.Clone(m.gone)
		}
		// Alice left the room while the server was down, or right before.
		left := func(o *Options) {
			o.IsJoined = func(_ store.Querier, _, u string) (bool, error) { return u == bob, nil }
		}
		for range 2 {
			again(left)
			if got := gone(); !slices.Equal(got, []seat{a}) {
				t.Errorf("refused: %v", got)
			}
		}
		s.Left(room, bob)
		if got := gone(); !slices.Equal(got, []seat{a, b}) {
			t.Errorf("bob left: %v", got)
		}
		// What is known of seats ends with the last token.
		time.Sleep(tokenTTL + time.Second)
		c := admit(bob, "B")
		db.Read(t.Context(), func(q store.Querier) error {
			if l, err := listSeats(q); err != nil || len(l) != 1 || l[0].at != c {
				t.Error(l, err)
			}
			return nil
		})
		s.Close()
	})
}

func FuzzToken(f *testing.F) {
	f.Add("get_token", `{"room_id":"!room:example.org","slot_id":"m.call#ROOM","openid_token":{"access_token":"x","matrix_server_name":"example.org"},"member":{"id":"1","claimed_user_id":"@alice:example.org","claimed_device_id":"A"},"delay_id":"1","delay_timeout":1}`)
	f.Add("sfu/get", `{"room":"!room:example.org","device_id":"A","openid_token":{"access_token":"x","matrix_server_name":"example.org"}}`)
	f.Add("delegate_delayed_leave", `{"member":null,"openid_token":[]}`)
	db := openStore(f, filepath.Join(f.TempDir(), "db"))
	f.Cleanup(func() { db.Close() })
	s := start(f, db, &relay{}, &lastWords{})
	f.Fuzz(func(t *testing.T, path, body string) {
		w := serve(t, s)
		for _, p := range []string{"get_token", "sfu/get", "delegate_delayed_leave"} {
			if status, out := w.do("", "POST", servicePath+"/"+p, body); status == 200 || status >= 500 {
				t.Fatalf("%s %q: %d %v", p, body, status, out)
			}
		}
		for _, p := range []string{"get_token", "delegate_delayed_leave"} {
			if status, out := w.do("alice", "POST", "/_matrix/client/v1/rtc/livekit/"+p, body); status >= 500 {
				t.Fatalf("%s %q: %d %v", p, body, status, out)
			}
		}
	})
}

// others are two other servers of which one may be asked.
type others struct{ asked []string }

func (o *others) Listed(server string) bool { return server == "listed.example" }

func (o *others) Userinfo(_ context.Context, server, token string) (string, error) {
	o.asked = append(o.asked, server)
	switch token {
	case "anna":
		return "@anna:listed.example", nil
	case "lie":
		return alice, nil
	case "down":
		return "", errors.New("no route")
	}
	return "", ErrUnknownThere
}

// Users of other servers get a token where their server is in the list, says who they
// are, and they are in the room; this server says nothing about their devices.
func TestUsersOfOtherServers(t *testing.T) {
	const anna = "@anna:listed.example"
	o, joined := &others{}, map[string]bool{}
	m := &relay{}
	s := start(t, openStore(t, filepath.Join(t.TempDir(), "db")), m, &lastWords{}, func(x *Options) {
		x.Remote = o
		x.IsJoined = func(_ store.Querier, r, u string) (bool, error) { return joined[r+u], nil }
		x.Standing = func(_ context.Context, user string) error {
			if user == anna {
				t.Error("a remote user's account is looked for here")
			}
			return nil
		}
	})
	ask := func(server, token string) error {
		t.Helper()
		user, err := s.caller(t.Context(), OpenIDToken{AccessToken: token, ServerName: server})
		if err != nil {
			return err
		}
		_, err = s.admit(t.Context(), user, "PHONE", room, "slot", user+"PHONE")
		return err
	}
	code := func(err error) string {
		var e *mx.Error
		if !errors.As(err, &e) {
			return fmt.Sprint(err)
		}
		return string(e.Code)
	}
	if got := code(ask("elsewhere.example", "anna")); got != "M_UNAUTHORIZED" || len(o.asked) != 0 {
		t.Errorf("a server that is not in the list: %s, asked %v", got, o.asked)
	}
	if got := code(ask("listed.example", "anna")); got != "M_FORBIDDEN" {
		t.Errorf("not in the room: %s", got)
	}
	joined[room+anna], joined[room+alice] = true, true
	for token, want := range map[string]string{"anna": "<nil>", "lie": "M_UNAUTHORIZED", "down": "M_UNKNOWN", "x": "M_UNAUTHORIZED"} {
		if got := code(ask("listed.example", token)); got != want {
			t.Errorf("%s: %s, want %s", token, got, want)
		}
	}
	// Who leaves the room leaves its calls, as everybody.
	delete(joined, room+anna)
	s.Left(room, anna)
	s.wg.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.gone) != 1 || m.gone[0].identity != anna+"PHONE" {
		t.Errorf("removed: %v", m.gone)
	}
}
