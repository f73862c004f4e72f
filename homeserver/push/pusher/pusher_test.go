package pusher_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/homeserver"
	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/rooms"
	"holdfast/store"
)

type obj = map[string]any

// gateway is a push gateway that keeps what it gets.
type gateway struct {
	t   testing.TB
	url string
	got chan hstest.Value

	mu     sync.Mutex
	status int    // of its answers; 0: 200
	answer string // "": rejects nothing
	after  string // Retry-After of an answer with a status
	asked  int
}

func newGateway(t testing.TB) *gateway {
	g := &gateway{t: t, got: make(chan hstest.Value, 1000)}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.asked++
		if r.Method != "POST" || r.URL.Path != "/_matrix/push/v1/notify" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("a request of another kind: %s %s %v", r.Method, r.URL, r.Header)
		}
		if g.status != 0 {
			if g.after != "" {
				w.Header().Set("Retry-After", g.after)
			}
			w.WriteHeader(g.status)
			return
		}
		var v hstest.Value
		if err := json.Unmarshal(b, &v.V); err != nil {
			t.Errorf("%q: %v", b, err)
		}
		g.got <- v.At("notification")
		if g.answer != "" {
			io.WriteString(w, g.answer)
			return
		}
		io.WriteString(w, `{"rejected":[]}`)
	}))
	t.Cleanup(srv.Close)
	g.url = srv.URL + "/_matrix/push/v1/notify"
	return g
}

func (g *gateway) set(status int, answer string) {
	g.mu.Lock()
	g.status, g.answer = status, answer
	g.mu.Unlock()
}

func (g *gateway) requests() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked
}

// next is the next notification.
func (g *gateway) next() hstest.Value {
	g.t.Helper()
	select {
	case v := <-g.got:
		return v
	case <-time.After(time.Minute):
		g.t.Fatal("no notification came")
		panic("unreachable")
	}
}

// event is the next notification, which has to be of an event.
func (g *gateway) event(id string) hstest.Value {
	g.t.Helper()
	v := g.next()
	if v.At("event_id").String() != id {
		g.t.Fatalf("the notification is %s, want one of %s", v.Text(), id)
	}
	return v
}

func (g *gateway) badge(n float64) {
	g.t.Helper()
	v := g.next()
	if v.At("event_id").V != nil || v.At("counts", "unread").V != n {
		g.t.Fatalf("the notification is %s, want one of %v unread alone", v.Text(), n)
	}
}

func (g *gateway) pusher(key string, data obj) obj {
	d := obj{"url": g.url}
	for k, v := range data {
		d[k] = v
	}
	return obj{"kind": "http", "app_id": "org.example.app", "pushkey": key, "app_display_name": "App", "device_display_name": "Phone",
		"lang": "en", "data": d}
}

func plain(o *homeserver.Options) { o.PlainPush, o.PushWait = true, time.Millisecond }

const set = "/pushers/set"

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("it never came to this: %s", what)
}

func keys(c *hstest.Client) (out []string) {
	for _, p := range c.Must("GET", "/pushers", nil).At("pushers").List() {
		out = append(out, p.At("pushkey").String())
	}
	return out
}

func TestSet(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	good := func(change obj) obj {
		p := obj{"kind": "http", "app_id": "org.example.app", "pushkey": "K", "app_display_name": "App", "device_display_name": "Phone",
			"lang": "en", "data": obj{"url": "https://push.example.net/_matrix/push/v1/notify", "format": "event_id_only", "own": 1}}
		for k, v := range change {
			if v == nil && k != "kind" {
				delete(p, k)
			} else {
				p[k] = v
			}
		}
		return p
	}
	for _, c := range []struct {
		change obj
		code   mx.Code
	}{
		{obj{"app_id": nil}, mx.MissingParam},
		{obj{"pushkey": ""}, mx.MissingParam},
		{obj{"lang": nil}, mx.MissingParam},
		{obj{"data": nil}, mx.MissingParam},
		{obj{"data": obj{}}, mx.MissingParam},
		{obj{"kind": "email"}, mx.InvalidParam}, // there is no mail server
		{obj{"app_id": "m.email"}, mx.InvalidParam},
		{obj{"kind": "pigeon"}, mx.InvalidParam},
		{obj{"kind": 1}, mx.BadJSON},
		{obj{"pushkey": strings.Repeat("k", 513)}, mx.InvalidParam},
		{obj{"app_id": strings.Repeat("a", 65)}, mx.InvalidParam},
		{obj{"lang": strings.Repeat("a", 65)}, mx.InvalidParam},
		{obj{"data": obj{"url": "http://push.example.net/_matrix/push/v1/notify"}}, mx.InvalidParam},
		{obj{"data": obj{"url": "https://push.example.net/other"}}, mx.InvalidParam},
		{obj{"data": obj{"url": "https://u:p@push.example.net/_matrix/push/v1/notify"}}, mx.InvalidParam},
		{obj{"data": obj{"url": "https:///_matrix/push/v1/notify"}}, mx.InvalidParam},
		{obj{"data": obj{"url": "https://push.example.net/_matrix/push/v1/notify", "format": "all"}}, mx.InvalidParam},
	} {
		alice.Fails(400, c.code, "POST", set, good(c.change))
	}
	alice.Fails(413, mx.TooLarge, "POST", set, good(obj{"data": obj{"url": "https://push.example.net/_matrix/push/v1/notify", "x": strings.Repeat("x", 9000)}}))
	noKind := good(nil)
	delete(noKind, "kind")
	alice.Fails(400, mx.MissingParam, "POST", set, noKind)
	if got := keys(alice); got != nil {
		t.Fatalf("refused pushers are there: %v", got)
	}

	alice.Must("POST", set, good(obj{"profile_tag": "tag"}))
	alice.Must("POST", set, good(obj{"profile_tag": "tag", "lang": "de"}))
	list := alice.Must("GET", "/pushers", nil).At("pushers").List()
	if len(list) != 1 || list[0].At("lang").String() != "de" || list[0].At("kind").String() != "http" || list[0].At("data", "own").V != 1.0 ||
		list[0].At("data", "url").V == nil || list[0].At("profile_tag").String() != "tag" ||
		list[0].At("org.matrix.msc3881.enabled").V != true || list[0].At("org.matrix.msc3881.device_id").String() != alice.DeviceID {
		t.Fatalf("%v", list)
	}
	// Another user takes the pushkey over, unless it is to be appended.
	bob.Must("POST", set, good(obj{"append": true}))
	if len(keys(alice)) != 1 || len(keys(bob)) != 1 {
		t.Error("an appended pusher took another's place")
	}
	bob.Must("POST", set, good(nil))
	if len(keys(alice)) != 0 || len(keys(bob)) != 1 {
		t.Error("the pushkey is still another user's too")
	}
	bob.Must("POST", set, obj{"kind": nil, "app_id": "org.example.app", "pushkey": "other"})
	bob.Must("POST", set, obj{"kind": nil, "app_id": "org.example.app", "pushkey": "K"})
	if len(keys(bob)) != 0 {
		t.Error("a deleted pusher is still there")
	}
	// A pusher ends with the device that set it.
	tablet := hs.Login(t, "alice")
	alice.Must("POST", set, good(obj{"pushkey": "phone"}))
	tablet.Must("POST", set, good(obj{"pushkey": "tablet"}))
	if got := keys(alice); !slices.Equal(got, []string{"phone", "tablet"}) {
		t.Errorf("%v", got)
	}
	if err := hs.DB.Write(t.Context(), func(tx *store.Tx) error { return hs.DeleteDevice(tx, alice.UserID, tablet.DeviceID) }); err != nil {
		t.Fatal(err)
	}
	if got := keys(alice); !slices.Equal(got, []string{"phone"}) {
		t.Errorf("%v", got)
	}
	if err := hs.LeaveAll(t.Context(), alice.UserID); err != nil {
		t.Fatal(err)
	}
	if got := keys(alice); got != nil {
		t.Errorf("%v", got)
	}
}

func TestDelivery(t *testing.T) {
	hs := hstest.New(t, plain)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	g := newGateway(t)
	bob.Must("POST", set, g.pusher("K", obj{"own": "x"}))

	room := alice.CreateRoom(obj{"name": "Mission Control", "invite": []string{bob.UserID}})
	invite := g.next()
	if invite.At("type").String() != mx.RoomMember || invite.At("user_is_target").V != true || invite.At("membership").String() != "invite" ||
		invite.At("room_name").String() != "Mission Control" || invite.At("prio").String() != "high" || invite.At("counts", "unread").V != nil {
		t.Errorf("the invitation is %s", invite.Text())
	}
	bob.Join(room)
	id := alice.Send(room, "hello")
	v := g.event(id)
	dev := v.At("devices").List()[0]
	if v.At("type").String() != mx.RoomMessage || v.At("sender").String() != alice.UserID || v.At("sender_display_name").String() != "alice" ||
		v.At("content", "body").String() != "hello" || v.At("room_id").String() != room || v.At("counts", "unread").V != 1.0 ||
		v.At("prio").String() != "high" || dev.At("tweaks", "sound").String() != "default" || dev.At("app_id").String() != "org.example.app" ||
		dev.At("pushkey").String() != "K" || dev.At("pushkey_ts").V == nil || dev.At("data", "own").String() != "x" || dev.At("data", "url").V != nil {
		t.Errorf("the notification is %s", v.Text())
	}
	call := alice.SendEvent(room, "m.call.invite", obj{"call_id": "c", "lifetime": 1, "version": "1", "offer": obj{}})
	if v := g.event(call); v.At("devices").List()[0].At("tweaks", "sound").String() != "ring" || v.At("counts", "missed_calls").V != 1.0 {
		t.Errorf("the call is %s", v.Text())
	}
	// Who reads has no badge any more; zero is said.
	bob.Must("POST", hstest.Room(room)+"/receipt/m.read/"+call, obj{})
	g.badge(0)
	// Nothing of edits, of notices, of one's own, of those one ignores.
	alice.SendEvent(room, mx.RoomMessage, obj{"msgtype": "m.text", "body": "* hi", "m.new_content": obj{"msgtype": "m.text", "body": "hi"},
		"m.relates_to": obj{"rel_type": "m.replace", "event_id": id}})
	alice.SendEvent(room, mx.RoomMessage, obj{"msgtype": "m.notice", "body": "beep"})
	bob.Send(room, "mine")
	carol := hs.Login(t, "carol")
	alice.Invite(room, carol)
	carol.Join(room)
	bob.Must("PUT", "/user/"+bob.UserID+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{carol.UserID: obj{}}})
	carol.Send(room, "psst")
	mention := alice.SendEvent(room, mx.RoomMessage, obj{"msgtype": "m.text", "body": "bob", "m.mentions": obj{"user_ids": []string{bob.UserID}}})
	if v := g.event(mention); v.At("devices").List()[0].At("tweaks", "highlight").V != true || v.At("counts", "unread").V != 1.0 {
		t.Errorf("the mention is %s", v.Text())
	}
	// A private receipt takes the badge away too.
	bob.Must("POST", hstest.Room(room)+"/receipt/m.read.private/"+mention, obj{})
	g.badge(0)
	// A muted room.
	bob.Must("PUT", "/pushrules/global/override/mute", obj{"actions": []any{}, "conditions": []any{obj{"kind": "event_match", "key": "room_id", "pattern": room}}})
	alice.Send(room, "quiet")
	bob.Must("DELETE", "/pushrules/global/override/mute", nil)

	// Of the short format there is only what the client looks up.
	bob.Must("POST", set, g.pusher("K", obj{"format": "event_id_only"}))
	enc := alice.SendEvent(room, mx.RoomEncrypted, obj{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x"})
	v = g.event(enc)
	for _, k := range []string{"type", "sender", "content", "room_name", "sender_display_name"} {
		if v.At(k).V != nil {
			t.Errorf("%s is told: %s", k, v.Text())
		}
	}
	if v.At("room_id").String() != room || v.At("counts", "unread").V != 1.0 || v.At("devices").List()[0].At("data", "format").String() != "event_id_only" {
		t.Errorf("the notification is %s", v.Text())
	}
	// Switched off, and on again: what came meanwhile only counts.
	off := g.pusher("K", nil)
	off["org.matrix.msc3881.enabled"] = false
	bob.Must("POST", set, off)
	alice.Send(room, "unheard")
	bob.Must("POST", set, g.pusher("K", nil))
	g.badge(2)
	if v := g.event(alice.Send(room, "heard")); v.At("counts", "unread").V != 3.0 {
		t.Errorf("the notification is %s", v.Text())
	}
	// Leaving takes the room's count away.
	bob.Leave(room)
	g.badge(0)
}

// A gateway that was away is told the newest of what is still unread, once, also
// where the server was started anew meanwhile.
func TestOutage(t *testing.T) {
	hs := hstest.New(t, plain)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	g := newGateway(t)
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	other := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	bob.Join(other)
	bob.Must("POST", set, g.pusher("K", nil))
	g.event(alice.Send(room, "before"))

	g.set(502, "")
	read := alice.Send(other, "read elsewhere")
	var sent []string
	for range 30 {
		sent = append(sent, alice.Send(room, "during"))
	}
	bob.Must("POST", hstest.Room(other)+"/receipt/m.read/"+read, obj{})
	eventually(t, "it is tried again", func() bool { return g.requests() > 3 })
	hs.Restart()
	at := g.requests()
	eventually(t, "it is tried after a restart", func() bool { return g.requests() > at })
	g.set(0, "")
	for _, id := range sent[len(sent)-20:] {
		if v := g.event(id); v.At("counts", "unread").V != 31.0 {
			t.Errorf("the notification is %s", v.Text())
		}
	}
	hs.Restart()
	// Nothing comes twice.
	g.event(alice.Send(room, "after"))
}

// TestLocked: nobody is told anything whose account is locked, over a restart too. When
// it is unlocked, what is still unread is told. Who is suspended goes on reading.
func TestLocked(t *testing.T) {
	hs := hstest.New(t, plain)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	g, witness := newGateway(t), newGateway(t)
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	carol.Join(room)
	bob.Must("POST", set, g.pusher("K", nil))
	carol.Must("POST", set, witness.pusher("W", nil))
	say := func(text string) string {
		t.Helper()
		id := alice.Send(room, text)
		witness.event(id)
		return id
	}
	g.event(say("before"))

	hs.Lock(bob.UserID, true)
	bob.Fails(401, mx.UserLocked, "GET", "/pushers", nil)
	// The dispatcher reads who is held in the order of what it is told.
	for range 3 {
		say("unheard")
	}
	hs.Restart()
	last := say("unheard, too")
	if n := g.requests(); n != 1 {
		t.Errorf("a locked account was told of %d things", n-1)
	}
	hs.Lock(bob.UserID, false)
	for range 3 {
		g.next()
	}
	if v := g.event(last); v.At("counts", "unread").V != 5.0 {
		t.Errorf("the notification is %s", v.Text())
	}

	hs.Suspend(bob.UserID, true)
	g.event(say("still read"))
	bob.Must("POST", hstest.Room(room)+"/receipt/m.read/"+last, obj{})
	hs.Suspend(bob.UserID, false)
}

// TestPatience: a gateway that asks for time gets it, until the pusher is set again.
func TestPatience(t *testing.T) {
	hs := hstest.New(t, plain)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	g, witness := newGateway(t), newGateway(t)
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	carol.Join(room)
	bob.Must("POST", set, g.pusher("K", nil))
	carol.Must("POST", set, witness.pusher("W", nil))
	g.mu.Lock()
	g.after = "3600"
	g.mu.Unlock()
	g.set(429, "")
	var last string
	for i := range 5 {
		last = alice.Send(room, "x")
		witness.event(last)
		if i == 0 {
			eventually(t, "the gateway is asked", func() bool { return g.requests() == 1 })
		}
	}
	hs.Restart()
	witness.event(alice.Send(room, "after a restart"))
	if n := g.requests(); n != 1 {
		t.Errorf("the gateway was asked %d times while it wanted to rest", n)
	}
	g.set(0, "")
	bob.Must("POST", set, g.pusher("K", nil))
	if v := g.next(); v.At("counts", "unread").V != 6.0 {
		t.Errorf("the notification is %s", v.Text())
	}
}

// TestOld: what is older than a day is not pushed any more, but counts. Tweaks that
// nobody knows are passed on.
func TestOld(t *testing.T) {
	hs := hstest.New(t, plain)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	g := newGateway(t)
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	bob.Must("POST", set, g.pusher("K", nil))
	bob.Must("PUT", "/pushrules/global/content/tea", obj{"pattern": "tea", "actions": []any{"notify", obj{"set_tweak": "org.example.lamp", "value": obj{"colour": "green"}}, obj{"set_tweak": "highlight"}}})
	_, err := hs.Rooms.Send(t.Context(), rooms.NewEvent{RoomID: room, Sender: alice.UserID, Type: mx.RoomMessage, Content: json.RawMessage(`{"msgtype":"m.text","body":"old"}`),
		Timestamp: time.Now().Add(-25 * time.Hour).UnixMilli()})
	if err != nil {
		t.Fatal(err)
	}
	v := g.next()
	if v.At("event_id").V != nil { // the badge alone
		t.Errorf("what is old is pushed: %s", v.Text())
	}
	v = g.event(alice.Send(room, "Tea?"))
	tweaks := v.At("devices").List()[0].At("tweaks")
	if v.At("counts", "unread").V != 2.0 || tweaks.At("org.example.lamp", "colour").String() != "green" || tweaks.At("highlight").V != true || tweaks.At("sound").V != nil {
		t.Errorf("the notification is %s", v.Text())
	}
}

func TestMostPushers(t *testing.T) {
	hs := hstest.New(t, plain)
	alice, g := hs.Login(t, "alice"), newGateway(t)
	for i := range 50 {
		alice.Must("POST", set, g.pusher(fmt.Sprint("K", i), nil))
	}
	alice.Fails(429, mx.LimitExceeded, "POST", set, g.pusher("more", nil))
	alice.Must("POST", set, g.pusher("K7", obj{"again": 1}))
	if n := len(keys(alice)); n != 50 {
		t.Errorf("%d pushers", n)
	}
}

func TestRejected(t *testing.T) {
	hs := hstest.New(t, plain)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	g, other := newGateway(t), newGateway(t)
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	carol.Join(room)
	bob.Must("POST", set, g.pusher("gone", nil))
	bob.Must("POST", set, other.pusher("stays", nil))
	appended := other.pusher("gone", nil)
	appended["append"] = true
	carol.Must("POST", set, appended)
	g.set(0, `{"rejected":["stays","gone"]}`)
	alice.Send(room, "hello")
	eventually(t, "the rejected pusher is gone", func() bool { return slices.Equal(keys(bob), []string{"stays"}) })
	other.next()
	other.next()
	if got := keys(carol); !slices.Equal(got, []string{"gone"}) {
		t.Errorf("a gateway removed the pusher of another gateway: %v", got)
	}
	alice.Send(room, "again")
	other.next()
	other.next()
	if n := g.requests(); n != 1 {
		t.Errorf("the gateway that rejected was asked %d times", n)
	}
	// A redirect leads nowhere, and what is no JSON rejects nothing.
	other.set(302, "")
	alice.Send(room, "redirected")
	n := other.requests()
	eventually(t, "it is tried again", func() bool { return other.requests() > n })
	other.set(0, `no`)
	other.next()
	other.next()
}
