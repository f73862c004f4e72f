package appservice_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/homeserver"
	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
)

type obj = hstest.Obj

// service is an application service that listens over HTTP and remembers what came.
type service struct {
	t     testing.TB
	id    string
	token string
	web   *httptest.Server

	mu      sync.Mutex
	status  int             // of transactions; 0: 200
	old     bool            // it knows only the paths of earlier drafts
	txns    []txn           // that it took
	tried   []string        // IDs of all transactions, also those refused
	asked   []*http.Request // other requests
	refused int             // transactions
	answer  func(r *http.Request) (int, any)
	came    chan struct{}
}

type txn struct {
	id   string
	body hstest.Value
	raw  string
}

// newService starts one.
func newService(t testing.TB, id string) *service {
	s := &service{t: t, id: id, token: "as-" + id, came: make(chan struct{}, 1)}
	s.web = httptest.NewServer(s)
	t.Cleanup(s.web.Close)
	return s
}

// registration is its file; extra are further lines, of the namespaces first.
func (s *service) registration(extra string) string {
	return fmt.Sprintf("id: %s\nurl: %s/base/\nas_token: %s\nhs_token: hs-%s\nsender_localpart: %sbot\nrate_limited: false\nnamespaces:\n"+
		"  users: [{exclusive: true, regex: '@%s_.*'}]\n  aliases: [{exclusive: true, regex: '#%s_.*'}]\n%s", s.id, s.web.URL, s.token, s.id, s.id, s.id, s.id, extra)
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		select {
		case s.came <- struct{}{}:
		default:
		}
	}()
	say := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v)
	}
	if r.Header.Get("Authorization") != "Bearer hs-"+s.id {
		s.t.Errorf("token: %s %s", r.URL, r.Header.Get("Authorization"))
	}
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), "/base")
	if !ok {
		s.t.Errorf("the path of the url is lost: %s", r.URL)
	}
	newer := strings.HasPrefix(path, "/_matrix/app/v1/")
	if got := r.URL.Query().Get("access_token"); newer && got != "" || !newer && got != "hs-"+s.id {
		s.t.Errorf("token in the address: %s", r.URL)
	}
	if s.old && newer {
		say(404, obj{"errcode": "M_UNRECOGNIZED"})
		return
	}
	id, ok := strings.CutPrefix(strings.TrimPrefix(path, "/_matrix/app/v1"), "/transactions/")
	if !ok {
		s.asked = append(s.asked, r)
		if s.answer == nil {
			say(404, obj{"errcode": "M_NOT_FOUND"})
			return
		}
		say(s.answer(r))
		return
	}
	raw, err := io.ReadAll(r.Body)
	v := hstest.Value{}
	if err == nil {
		err = json.Unmarshal(raw, &v.V)
	}
	if err != nil || r.Method != "PUT" || !v.Exists("events") {
		s.t.Errorf("%s %s: %v %s", r.Method, r.URL, err, raw)
	}
	s.tried = append(s.tried, id)
	if s.status != 0 {
		s.refused++
		say(s.status, obj{})
		return
	}
	// The answer to one that was taken may have been lost: it comes again as it was.
	for _, x := range s.txns {
		if x.id == id {
			if x.raw != string(raw) {
				s.t.Errorf("the transaction %s came again with other contents: %s, %s", id, x.raw, raw)
			}
			say(200, obj{})
			return
		}
	}
	s.txns = append(s.txns, txn{id, v, string(raw)})
	say(200, obj{})
}

func (s *service) set(f func()) { s.mu.Lock(); f(); s.mu.Unlock() }

// until waits for the service to be in a state.
func (s *service) until(what string, ok func() bool) {
	s.t.Helper()
	stuck := time.After(time.Minute)
	for {
		s.mu.Lock()
		done := ok()
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-s.came:
		case <-stuck:
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, x := range s.txns {
				s.t.Log(x.id, x.raw)
			}
			s.t.Fatal("never: ", what)
		}
	}
}

// list is what came under a key, in order. It needs s.mu.
func (s *service) list(key string) (out []hstest.Value) {
	for _, x := range s.txns {
		out = append(out, x.body.At(key).List()...)
	}
	return out
}

// texts are the messages that came, in order. It needs s.mu.
func (s *service) texts() (out []string) {
	for _, e := range s.list("events") {
		if e.At("type").String() == mx.RoomMessage {
			out = append(out, e.At("content", "body").String())
		}
	}
	return out
}

func (s *service) wantTexts(want ...string) {
	s.t.Helper()
	s.until(strings.Join(want, ","), func() bool { return len(s.texts()) >= len(want) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := s.texts(); !slices.Equal(got, want) {
		s.t.Fatalf("messages %q, want %q", got, want)
	}
}

// withServices starts a homeserver with services registered by files.
func withServices(t testing.TB, texts ...string) *hstest.HS {
	dir := t.TempDir()
	for i, text := range texts {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return hstest.New(t, func(o *homeserver.Options) { o.AppserviceDir = dir })
}

// as is a client of a service that acts as a user. The account is made unless it
// is that of the sender.
type as struct {
	*hstest.Client
	query string
}

func (s *service) as(hs *hstest.HS, name, device string) as {
	c := *hs.Login(s.t, name)
	c.Token = s.token
	q := url.Values{"user_id": {c.UserID}}
	if device != "" {
		q.Set("device_id", device)
	}
	return as{&c, q.Encode()}
}

func (a as) path(p string) string {
	if strings.Contains(p, "?") {
		return p + "&" + a.query
	}
	return p + "?" + a.query
}
func (a as) must(method, path string, body any) hstest.Value {
	return a.Must(method, a.path(path), body)
}
func (a as) fails(status int, code mx.Code, method, path string, body any) {
	a.Fails(status, code, method, a.path(path), body)
}
func (a as) join(room string)  { a.must("POST", hstest.Room(room)+"/join", obj{}) }
func (a as) leave(room string) { a.must("POST", hstest.Room(room)+"/leave", obj{}) }

// Interest is that of the moment of the event: who joins later does not get what
// was before, who left meanwhile gets what was while they were there, however long
// the service is away.
func TestInterestIsThatOfTheMoment(t *testing.T) {
	s := newService(t, "irc")
	hs := withServices(t, s.registration("  rooms: []\n"))
	alice := hs.Login(t, "alice")
	ghost := s.as(hs, "irc_ghost", "")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	s.set(func() { s.status = 503 })
	alice.Send(room, "before")
	ghost.join(room)
	alice.Send(room, "one")
	s.until("a try", func() bool { return s.refused > 0 })
	hs.Restart()
	alice.Send(room, "two")
	ghost.leave(room)
	alice.Send(room, "after it left")
	if _, err := hs.Homeserver.Appservice.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	alice.Must("POST", hstest.Room(room)+"/invite", obj{"user_id": ghost.UserID})
	ghost.join(room)
	last := alice.Send(room, "three")
	alice.Redact(room, last)
	hs.Restart()
	s.set(func() { s.status = 0 })
	// The redacted one comes as what is left of it.
	s.until("all", func() bool {
		for _, e := range s.list("events") {
			if e.At("type").String() == mx.RoomRedaction {
				return true
			}
		}
		return false
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := s.texts(); !slices.Equal(got, []string{"one", "two", ""}) {
		t.Errorf("messages: %q", got)
	}
	var members []string
	for _, e := range s.list("events") {
		if e.At("type").String() == mx.RoomMember && e.At("state_key").String() == ghost.UserID {
			members = append(members, e.At("content", "membership").String())
		}
		if e.At("room_id").String() != room || e.At("event_id").String() == "" {
			t.Error(e.Text())
		}
	}
	if !slices.Equal(members, []string{"join", "leave", "invite", "join"}) {
		t.Errorf("memberships: %q", members)
	}
	// Before one was taken, none but it was tried.
	tried := slices.Compact(slices.Clone(s.tried))
	for i, x := range s.txns {
		if tried[i] != x.id {
			t.Errorf("tried %q, taken as %d: %s", tried, i, x.id)
		}
	}
}

// A transaction that was not taken is sent again as it was, though its event was
// redacted meanwhile and the homeserver started anew.
func TestARepetitionIsTheSame(t *testing.T) {
	s := newService(t, "irc")
	hs := withServices(t, s.registration(""))
	alice, ghost := hs.Login(t, "alice"), s.as(hs, "irc_ghost", "")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	ghost.join(room)
	s.until("the join", func() bool { return len(s.list("events")) > 0 })
	s.set(func() { s.status = 500 })
	id := alice.Send(room, "secret")
	s.until("a try", func() bool { return s.refused > 0 })
	alice.Redact(room, id)
	for n := range 150 { // more than one transaction holds
		alice.Send(room, fmt.Sprint(n))
	}
	hs.Restart()
	s.set(func() { s.status = 0 })
	want := []string{"secret"}
	for n := range 150 {
		want = append(want, fmt.Sprint(n))
	}
	s.wantTexts(want...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.txns {
		if n := len(x.body.At("events").List()); n > 100 {
			t.Errorf("%d events in one transaction", n)
		}
	}
}

func TestWhatInterests(t *testing.T) {
	s := newService(t, "irc")
	hs := withServices(t, s.registration("  rooms: []\n"))
	alice := hs.Login(t, "alice")
	alias := alice.CreateRoom(obj{"preset": "public_chat"})
	byRoom := alice.CreateRoom(nil)
	none := alice.CreateRoom(nil)
	invited := alice.CreateRoom(nil)
	watch := newService(t, "watch")
	text := strings.Replace(watch.registration(fmt.Sprintf("  rooms: [{exclusive: false, regex: '%s'}]\n", byRoom)), "@watch_.*", "@alice:elsewhere.org", 1)
	if _, err := hs.Appservice.Add(t.Context(), []byte(text)); err != nil {
		t.Fatal(err)
	}
	bot := s.as(hs, "ircbot", "")
	bot.join(alias)
	bot.must("PUT", "/directory/room/"+url.PathEscape("#irc_x:"+hstest.Server), obj{"room_id": alias})
	bot.leave(alias)
	alice.Send(alias, "by alias")
	alice.Send(byRoom, "by room")
	alice.Send(none, "none")
	alice.Must("POST", hstest.Room(invited)+"/invite", obj{"user_id": "@irc_new:" + hstest.Server})
	alice.Send(invited, "not in it")
	alice.Send(alias, "end")
	alice.Send(byRoom, "end")
	s.wantTexts("by alias", "end")
	watch.wantTexts("by room", "end")
	s.mu.Lock()
	defer s.mu.Unlock()
	found := false
	for _, e := range s.list("events") {
		found = found || e.At("room_id").String() == invited && e.At("state_key").String() == "@irc_new:"+hstest.Server
		if e.At("room_id").String() == invited && e.At("type").String() != mx.RoomMember {
			t.Error("it gets a room it is only invited to:", e.Text())
		}
	}
	if !found {
		t.Error("the invitation did not come")
	}
}

// With the invitation of a ghost comes what the room was at that moment, and nothing
// that only members may know: the service is told of the room nowhere else.
func TestInvitationsSayWhatTheRoomIs(t *testing.T) {
	s := newService(t, "irc")
	hs := withServices(t, s.registration(""))
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	s.set(func() { s.status = 503 })
	room := alice.CreateRoom(obj{"preset": "private_chat", "name": "The name", "topic": "The topic", "invite": []string{bob.UserID}, "initial_state": []obj{
		{"type": "m.room.encryption", "content": obj{"algorithm": "m.megolm.v1.aes-sha2"}}, {"type": "m.room.avatar", "content": obj{"url": "mxc://x/y"}}, {"type": "m.x", "content": obj{"secret": 1}}}})
	bob.Join(room)
	alice.Must("PUT", hstest.Room(room)+"/state/m.room.power_levels", obj{"users": obj{alice.UserID: 100, bob.UserID: 100}})
	bob.Must("PUT", hstest.Room(room)+"/state/m.room.name", obj{"name": "Another name"})
	bob.Must("POST", hstest.Room(room)+"/invite", obj{"user_id": "@irc_new:" + hstest.Server})
	bob.Must("PUT", hstest.Room(room)+"/state/m.room.name", obj{"name": "Too late"})
	direct := alice.CreateRoom(obj{"preset": "trusted_private_chat", "is_direct": true, "invite": []string{"@irc_direct:" + hstest.Server}})
	s.set(func() { s.status = 0 })
	of := func(user, key string) (out map[string]hstest.Value) {
		for _, e := range s.list("events") {
			if e.At("state_key").String() != user {
				continue
			}
			out = map[string]hstest.Value{}
			for _, st := range e.At("unsigned", key).List() {
				out[st.At("type").String()+"|"+st.At("state_key").String()] = st
				if st.Exists("event_id") || st.Exists("origin_server_ts") || !st.Exists("content") || !st.Exists("sender") {
					t.Error("not the stripped form:", st.Text())
				}
			}
		}
		return out
	}
	s.until("both invitations", func() bool { return len(of("@irc_direct:"+hstest.Server, "invite_room_state")) > 0 })
	s.mu.Lock()
	got := of("@irc_new:"+hstest.Server, "invite_room_state")
	two := of("@irc_direct:"+hstest.Server, "invite_room_state")
	s.mu.Unlock()
	want := []string{"m.room.avatar|", "m.room.create|", "m.room.encryption|", "m.room.join_rules|", "m.room.member|" + bob.UserID, "m.room.member|@irc_new:" + hstest.Server, "m.room.name|", "m.room.topic|"}
	if keys := slices.Sorted(maps.Keys(got)); !slices.Equal(keys, want) {
		t.Errorf("%q", keys)
	}
	if got["m.room.name|"].At("content", "name").String() != "Another name" {
		t.Error(got["m.room.name|"].Text())
	}
	if e := two["m.room.member|@irc_direct:"+hstest.Server]; !e.At("content", "is_direct").Bool() || two["m.room.member|"+alice.UserID].At("content", "membership").String() != "join" {
		t.Error(e.Text(), direct)
	}

	// A knock carries it, too, and a join does not.
	knockable := alice.CreateRoom(obj{"preset": "private_chat", "name": "Knock", "initial_state": []obj{{"type": "m.room.join_rules", "content": obj{"join_rule": "knock"}}}})
	ghost := s.as(hs, "irc_ghost", "")
	ghost.must("POST", "/knock/"+url.PathEscape(knockable), obj{})
	s.until("the knock", func() bool { return len(of(ghost.UserID, "knock_room_state")) > 0 })
	s.mu.Lock()
	got = of(ghost.UserID, "knock_room_state")
	s.mu.Unlock()
	if got["m.room.name|"].At("content", "name").String() != "Knock" || got["m.room.member|"+ghost.UserID].At("content", "membership").String() != "knock" {
		t.Errorf("%v", got)
	}
	alice.Must("POST", hstest.Room(knockable)+"/invite", obj{"user_id": ghost.UserID})
	ghost.join(knockable)
	s.until("the join", func() bool {
		for _, e := range s.list("events") {
			if e.At("state_key").String() == ghost.UserID && e.At("content", "membership").String() == "join" {
				return !e.At("unsigned").Exists("invite_room_state") && !e.At("unsigned").Exists("knock_room_state")
			}
		}
		return false
	})
}

func TestActingAsUsersAndDevices(t *testing.T) {
	s := newService(t, "irc")
	hs := withServices(t, s.registration(""), strings.Replace(newService(t, "other").registration(""), "@other_.*", "@(other|both)_.*", 1))
	alice := hs.Login(t, "alice")
	ghost := s.as(hs, "irc_ghost", "")
	sender := *alice
	sender.Token = s.token
	if v := sender.Must("GET", "/account/whoami", nil); v.At("user_id").String() != "@ircbot:"+hstest.Server || v.Exists("device_id") {
		t.Error(v.Text())
	}
	for user, code := range map[string]mx.Code{"@alice:" + hstest.Server: mx.Forbidden, "@irc_ghost:elsewhere.org": mx.Forbidden,
		"@other_x:" + hstest.Server: mx.Forbidden, "@irc_unknown:" + hstest.Server: mx.Forbidden} {
		sender.Fails(403, code, "GET", "/account/whoami?user_id="+url.QueryEscape(user), nil)
	}

	for _, param := range []string{"device_id", "org.matrix.msc3202.device_id"} {
		ghost.fails(400, mx.UnknownDevice, "GET", "/account/whoami?"+param+"=NONE", nil)
		ghost.fails(400, mx.UnknownDevice, "GET", "/account/whoami?"+param+"="+alice.DeviceID, nil)
		id := "D" + strings.ReplaceAll(param, ".", "")
		if a := ghost.Do("PUT", ghost.path("/devices/"+id), obj{"display_name": "Bridge"}); a.Status != 201 {
			t.Fatal(a.Status, string(a.Body))
		}
		if v := ghost.must("GET", "/account/whoami?"+param+"="+id, nil); v.At("device_id").String() != id {
			t.Error(v.Text())
		}
	}
	ghost.must("PUT", "/devices/Ddevice_id", obj{"display_name": "Renamed"})
	// Deleting asks nobody.
	ghost.must("POST", "/delete_devices", obj{"devices": []string{"Ddevice_id"}})
	ghost.must("DELETE", "/devices/Dorgmatrixmsc3202device_id", nil)
	ghost.fails(400, mx.UnknownDevice, "GET", "/account/whoami?device_id=Ddevice_id", nil)
	alice.Fails(404, mx.NotFound, "PUT", "/devices/NEW", obj{})

	// Aliases: within its namespace all, outside nothing.
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	ghost.join(room)
	for alias, ok := range map[string]bool{"#irc_a:" + hstest.Server: true, "#other_a:" + hstest.Server: false, "#free:" + hstest.Server: false} {
		path := "/directory/room/" + url.PathEscape(alias)
		if ok {
			ghost.must("PUT", path, obj{"room_id": room})
			alice.Fails(400, mx.Exclusive, "DELETE", path, nil)
			other := s.as(hs, "irc_other", "")
			other.must("DELETE", path, nil)
		} else {
			ghost.fails(400, mx.Exclusive, "PUT", path, obj{"room_id": room})
		}
	}
	alice.Must("PUT", "/directory/room/"+url.PathEscape("#free:"+hstest.Server), obj{"room_id": room})
	ghost.fails(400, mx.Exclusive, "DELETE", "/directory/room/"+url.PathEscape("#free:"+hstest.Server), nil)
	alice.Fails(400, mx.Exclusive, "POST", "/createRoom", obj{"room_alias_name": "irc_z"})

	// Times of its own.
	v := ghost.must("PUT", hstest.Room(room)+"/send/m.room.message/t1?ts=1234567890123", obj{"msgtype": "m.text", "body": "old"})
	if e := alice.Must("GET", hstest.Room(room)+"/event/"+url.PathEscape(v.At("event_id").String()), nil); e.At("origin_server_ts").Int() != 1234567890123 {
		t.Error(e.Text())
	}
	v = ghost.must("PUT", hstest.Room(room)+"/state/m.room.member/"+url.PathEscape(ghost.UserID)+"?ts=1234567890124", obj{"membership": "leave"})
	if e := alice.Must("GET", hstest.Room(room)+"/event/"+url.PathEscape(v.At("event_id").String()), nil); e.At("origin_server_ts").Int() != 1234567890124 || e.At("content", "membership").String() != "leave" {
		t.Error(e.Text())
	}
	ghost.join(room)
	for _, ts := range []string{"x", "-1", "0", "1.5", "9007199254740992", "99999999999999999999"} {
		ghost.fails(400, mx.InvalidParam, "PUT", hstest.Room(room)+"/send/m.room.message/t2?ts="+ts, obj{"msgtype": "m.text", "body": "x"})
	}
	// People have no say in it.
	v = alice.Must("PUT", hstest.Room(room)+"/send/m.room.message/t3?ts=1234567890123", obj{"msgtype": "m.text", "body": "now"})
	if e := alice.Must("GET", hstest.Room(room)+"/event/"+url.PathEscape(v.At("event_id").String()), nil); e.At("origin_server_ts").Int() == 1234567890123 {
		t.Error(e.Text())
	}
}

// Without a device no operation of the API breaks.
func TestNoDeviceBreaksNothing(t *testing.T) {
	s := newService(t, "irc")
	hs := withServices(t, s.registration(""))
	alice, ghost := hs.Login(t, "alice"), s.as(hs, "irc_ghost", "")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	ghost.join(room)
	id := alice.Send(room, "x")
	values := strings.NewReplacer("{roomID}", url.PathEscape(room), "{eventID}", url.PathEscape(id), "{userID}", url.PathEscape(ghost.UserID), "{txnID}", "t", "{eventType}", "m.x", "{$}", "")
	for _, r := range hs.Routes() {
		// Those are the identity provider's, which is not here.
		if r.Auth != route.User || slices.Contains([]string{"login", "register", "generateLoginToken", "logout", "logout_all", "changePassword", "deactivateAccount", "refresh", "getAuthMetadata"}, r.Op) ||
			strings.Contains(r.Pattern, "/_synapse/") || strings.Contains(r.Pattern, "fallback") || strings.Contains(r.Pattern, "register") || strings.Contains(r.Pattern, "/admin/") || strings.Contains(r.Pattern, "/account/") || strings.Contains(r.Pattern, "/login") {
			continue
		}
		method, path, _ := strings.Cut(values.Replace(r.Pattern), " ")
		for strings.Contains(path, "{") {
			a, rest, _ := strings.Cut(path, "{")
			_, b, _ := strings.Cut(rest, "}")
			path = a + "x" + b
		}
		a := ghost.Do(method, ghost.path(path), obj{})
		if a.Status >= 500 && a.JSON.At("errcode").String() == "M_UNKNOWN" {
			t.Errorf("%s %s: %d %s", method, path, a.Status, a.Body)
		}
	}
}

func TestPing(t *testing.T) {
	s := newService(t, "irc")
	silent := "id: silent\nurl: null\nas_token: as-silent\nhs_token: h\nsender_localpart: silent\nnamespaces: {}\n"
	gone := "id: gone\nurl: http://127.0.0.1:1\nas_token: as-gone\nhs_token: h\nsender_localpart: gone\nnamespaces: {}\n"
	hs := withServices(t, s.registration(""), silent, gone)
	alice := hs.Login(t, "alice")
	c := *alice
	const path = "/_matrix/client/v1/appservice/%s/ping"
	c.Token = s.token
	var sent []string
	s.set(func() {
		s.answer = func(r *http.Request) (int, any) {
			b, _ := io.ReadAll(r.Body)
			sent = append(sent, r.Method+" "+r.URL.Path+" "+string(b))
			return 200, obj{}
		}
	})
	if v := c.Must("POST", fmt.Sprintf(path, "irc"), obj{"transaction_id": "meow"}); !v.Exists("duration_ms") {
		t.Error(v.Text())
	}
	c.Must("POST", fmt.Sprintf(path, "irc"), obj{})
	s.set(func() {
		if want := []string{`POST /base/_matrix/app/v1/ping {"transaction_id":"meow"}`, `POST /base/_matrix/app/v1/ping {}`}; !slices.Equal(sent, want) {
			t.Errorf("%q", sent)
		}
		s.answer = func(*http.Request) (int, any) { return 403, obj{"errcode": "M_FORBIDDEN"} }
	})
	a := c.Do("POST", fmt.Sprintf(path, "irc"), obj{})
	if a.Status != 502 || a.JSON.At("errcode").String() != "M_BAD_STATUS" || a.JSON.At("status").Int() != 403 || !strings.Contains(a.JSON.At("body").String(), `"errcode":"M_FORBIDDEN"`) {
		t.Error(a.Status, string(a.Body))
	}
	c.Fails(403, mx.Forbidden, "POST", fmt.Sprintf(path, "gone"), obj{})
	c.Fails(403, mx.Forbidden, "POST", fmt.Sprintf(path, "nobody"), obj{})
	alice.Fails(403, mx.Forbidden, "POST", fmt.Sprintf(path, "irc"), obj{})
	c.Token = "as-silent"
	c.Fails(400, mx.URLNotSet, "POST", fmt.Sprintf(path, "silent"), obj{})
	c.Token = "as-gone"
	c.Fails(502, mx.ConnectionFailed, "POST", fmt.Sprintf(path, "gone"), obj{})
}

func TestPingTimesOut(t *testing.T) {
	hang := make(chan struct{})
	web := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer web.Close()
	defer close(hang)
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("id: a\nurl: "+web.URL+"\nas_token: as\nhs_token: h\nsender_localpart: a\nnamespaces: {}\n"), 0o600)
	hs := hstest.New(t, func(o *homeserver.Options) {
		o.AppserviceDir, o.Client = dir, &http.Client{Timeout: 100 * time.Millisecond}
	})
	c := *hs.Login(t, "alice")
	c.Token = "as"
	c.Fails(504, mx.ConnectionTimeout, "POST", "/_matrix/client/v1/appservice/a/ping", obj{})
}

func TestOlderPaths(t *testing.T) {
	s := newService(t, "irc")
	s.old = true
	hs := withServices(t, s.registration(""))
	alice, ghost := hs.Login(t, "alice"), s.as(hs, "irc_ghost", "")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	ghost.join(room)
	alice.Send(room, "one")
	alice.Send(room, "two")
	s.wantTexts("one", "two")
}

func TestServicesComeAndGoWhileItRuns(t *testing.T) {
	s, other := newService(t, "irc"), newService(t, "other")
	hs := withServices(t, other.registration(""))
	ctx := context.Background()
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	if _, err := hs.Appservice.Add(ctx, []byte("id: [")); err == nil || !strings.Contains(err.Error(), "not YAML") {
		t.Fatal(err)
	}
	if _, err := hs.Appservice.Add(ctx, []byte(strings.Replace(s.registration(""), "id: irc", "id: other", 1))); err == nil || !strings.Contains(err.Error(), "give each its own") {
		t.Fatal(err)
	}
	if i, err := hs.Appservice.Add(ctx, []byte(s.registration(""))); err != nil || i.ID != "irc" || i.Sender != "@ircbot:"+hstest.Server {
		t.Fatal(i, err)
	}
	ghost := s.as(hs, "irc_ghost", "")
	ghost.join(room)
	alice.Send(room, "one")
	s.wantTexts("one")
	hs.Restart()
	alice.Send(room, "two")
	s.wantTexts("one", "two")
	s.set(func() { s.status = 502 })
	alice.Send(room, "three")
	s.until("a try", func() bool { return s.refused > 0 })
	alice.Send(room, "four")
	list, err := hs.Appservice.List(ctx)
	for end := time.Now().Add(time.Minute); err == nil && list[0].Error == "" && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond) // it has not read the answer yet
		list, err = hs.Appservice.List(ctx)
	}
	if err != nil || len(list) != 2 || list[0].ID != "irc" || list[0].Waiting != 2 || list[0].Error != "it answered 502" || list[1].Source == "" {
		t.Fatalf("%+v %v", list, err)
	}
	if b, _ := json.Marshal(list); strings.Contains(string(b), "as-irc") || strings.Contains(string(b), "hs-irc") {
		t.Error("tokens are shown")
	}
	if err := hs.Appservice.Remove(ctx, "other"); err == nil || !strings.Contains(err.Error(), "remove the file") {
		t.Fatal(err)
	}
	if err := hs.Appservice.Remove(ctx, "irc"); err != nil {
		t.Fatal(err)
	}
	if err := hs.Appservice.Remove(ctx, "irc"); err == nil {
		t.Fatal("removed twice")
	}
	ghost.fails(401, mx.UnknownToken, "GET", "/account/whoami", nil)
	s.set(func() { s.status = 0 })
	alice.Send(room, "five")
	// Registered again it begins anew.
	if _, err := hs.Appservice.Add(ctx, []byte(s.registration(""))); err != nil {
		t.Fatal(err)
	}
	alice.Send(room, "six")
	s.wantTexts("one", "two", "six")
}
