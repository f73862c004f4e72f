package oldsync_test

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"testing"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

type obj = hstest.Obj

func room(v hstest.Value, id string) hstest.Value {
	for _, r := range v.At("rooms").List() {
		if r.At("room_id").String() == id {
			return r
		}
	}
	return hstest.Value{}
}

func TestInitialSync(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	mine := alice.CreateRoom(obj{"visibility": "public", "preset": "public_chat"})
	left := bob.CreateRoom(obj{"preset": "public_chat"})
	invited := bob.CreateRoom(obj{"name": "come in"})
	for i := range 5 {
		alice.Send(mine, fmt.Sprint(i))
	}
	alice.Join(left)
	bob.Send(left, "while alice was there")
	alice.Leave(left)
	bob.Send(left, "after alice")
	bob.SendState(left, mx.RoomTopic, "", obj{"topic": "after alice"})
	bob.Invite(invited, alice)
	alice.Must("PUT", "/user/"+alice.UserID+"/account_data/org.example.x", obj{"a": 1})
	alice.Must("PUT", "/user/"+alice.UserID+hstest.Room(mine)+"/account_data/org.example.y", obj{"b": 2})
	alice.Must("PUT", "/presence/"+alice.UserID+"/status", obj{"presence": "online", "status_msg": "here"})

	v := alice.Must("GET", "/initialSync?limit=2", nil)
	r := room(v, mine)
	if r.At("membership").String() != "join" || r.At("visibility").String() != "public" || r.At("account_data", "0", "content", "b").Int() != 2 ||
		!slices.Equal(hstest.Bodies(r.At("messages", "chunk").List()), []string{"3", "4"}) || hstest.Find(r.At("state").List(), mx.RoomCreate, "").V == nil {
		t.Errorf("%s", r.Text())
	}
	page := alice.Must("GET", hstest.Room(mine)+"/messages?dir=b&limit=1&from="+r.At("messages", "start").String(), nil)
	if got := hstest.Bodies(page.At("chunk").List()); !slices.Equal(got, []string{"2"}) {
		t.Errorf("back from start: %v", got)
	}
	r = room(v, invited)
	if r.At("membership").String() != "invite" || r.At("invite", "content", "membership").String() != "invite" || r.At("invite", "state_key").String() != alice.UserID || r.Exists("state") {
		t.Errorf("%s", r.Text())
	}
	if room(v, left).V != nil {
		t.Error("a room that was left came without being asked for")
	}
	found := false
	for _, d := range v.At("account_data").List() {
		found = found || d.At("type").String() == "org.example.x" && d.At("content", "a").Int() == 1
	}
	if !found || v.At("presence", "0", "content", "status_msg").String() != "here" {
		t.Errorf("account data %s, presence %s", v.At("account_data").Text(), v.At("presence").Text())
	}
	r = room(alice.Must("GET", "/initialSync?archived=true", nil), left)
	if r.At("membership").String() != "leave" || !slices.Equal(hstest.Bodies(r.At("messages", "chunk").List()), []string{"while alice was there"}) ||
		hstest.Find(r.At("state").List(), mx.RoomTopic, "").V != nil {
		t.Errorf("%s", r.Text())
	}
	alice.Fails(400, mx.InvalidParam, "GET", "/initialSync?limit=many", nil)
	// The token is good for /events and /sync.
	bob.Join(mine)
	bob.Send(mine, "new")
	e := alice.Must("GET", "/events?from="+v.At("end").String(), nil)
	if got := hstest.Bodies(e.At("chunk").List()); !slices.Equal(got, []string{"new"}) {
		t.Errorf("events: %s", e.Text())
	}
	if got := hstest.Bodies(alice.SyncFrom(v.At("end").String()).Timeline(mine)); !slices.Equal(got, []string{"new"}) {
		t.Errorf("sync: %v", got)
	}
}

func TestRoomInitialSync(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	id := alice.CreateRoom(obj{"preset": "public_chat"})
	alice.Send(id, "hello")
	path := hstest.Room(id) + "/initialSync"
	if v := alice.Must("GET", path, nil); v.At("membership").String() != "join" || !slices.Contains(hstest.Bodies(v.At("messages", "chunk").List()), "hello") ||
		v.At("visibility").String() != "private" || len(v.At("state").List()) < 5 {
		t.Errorf("%s", v.Text())
	}
	bob.Fails(403, mx.Forbidden, "GET", path, nil)
	bob.Fails(403, mx.Forbidden, "GET", "/rooms/!none/initialSync", nil)
	alice.Invite(id, bob)
	bob.Fails(403, mx.Forbidden, "GET", path, nil)
	alice.SendState(id, mx.RoomHistoryVisibility, "", obj{"history_visibility": "world_readable"})
	alice.Send(id, "for the world")
	if v := bob.Must("GET", path, nil); !slices.Equal(hstest.Bodies(v.At("messages", "chunk").List()), []string{"for the world"}) {
		t.Errorf("%s", v.Text())
	}
}

func TestEvents(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	a, b := alice.CreateRoom(obj{"preset": "public_chat"}), alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(a)
	from := bob.Must("GET", "/initialSync?limit=0", nil).At("end").String()
	for i := range 250 {
		alice.Send([]string{a, b}[i%2], fmt.Sprint(i))
	}
	// All of them once, in order, over several answers.
	var got, want []string
	for i := 0; i < 250; i += 2 {
		want = append(want, fmt.Sprint(i))
	}
	at := from
	for range 10 {
		v := bob.Must("GET", "/events?from="+at, nil)
		if v.At("start").String() != at {
			t.Errorf("start %s, want %s", v.At("start").Text(), at)
		}
		got = append(got, hstest.Bodies(v.At("chunk").List())...)
		at = v.At("end").String()
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d of %d events: %v", len(got), len(want), got)
	}
	// Waiting: for a message, an invitation, a room joined meanwhile.
	wait := func(path string, do func()) hstest.Value {
		t.Helper()
		out := make(chan hstest.Value, 1)
		go func() { out <- bob.Do("GET", path, nil).JSON }()
		do()
		v := <-out
		at = v.At("end").String()
		return v
	}
	if v := wait("/events?timeout=60000&from="+at, func() { alice.Send(a, "wake up") }); !slices.Equal(hstest.Bodies(v.At("chunk").List()), []string{"wake up"}) {
		t.Errorf("%s", v.Text())
	}
	if v := wait("/events?timeout=60000&from="+at, func() { alice.Invite(b, bob) }); v.At("chunk", "0", "content", "membership").String() != "invite" {
		t.Errorf("%s", v.Text())
	}
	if v := bob.Must("GET", "/events?timeout=10&from="+at, nil); len(v.At("chunk").List()) != 0 || !v.Exists("chunk") || v.At("end").String() == "" {
		t.Errorf("%s", v.Text())
	}
	// Of one room.
	bob.Join(b)
	alice.Send(b, "elsewhere")
	alice.Send(a, "here")
	v := bob.Must("GET", "/events?room_id="+url.QueryEscape(a)+"&from="+at, nil)
	if got := hstest.Bodies(v.At("chunk").List()); !slices.Equal(got, []string{"here"}) {
		t.Errorf("%v", got)
	}
	c := alice.CreateRoom(obj{"initial_state": []obj{{"type": mx.RoomHistoryVisibility, "content": obj{"history_visibility": "world_readable"}}}})
	bob.Fails(403, mx.Forbidden, "GET", "/events?room_id="+url.QueryEscape(c), nil)
	bob.Fails(403, mx.Forbidden, "GET", "/events?room_id=", nil)
	bob.Fails(400, mx.InvalidParam, "GET", "/events?from=yesterday", nil)
	bob.Fails(400, mx.InvalidParam, "GET", "/events?timeout=-1", nil)
	// A client that goes away ends the wait.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	<-bob.SyncAsync(ctx)
}

func TestOneEvent(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	id := alice.CreateRoom(obj{"preset": "public_chat", "initial_state": []obj{{"type": mx.RoomHistoryVisibility, "content": obj{"history_visibility": "joined"}}}})
	e := alice.Send(id, "x")
	if v := alice.Must("GET", "/events/"+e, nil); v.At("content", "body").String() != "x" || v.At("room_id").String() != id {
		t.Errorf("%s", v.Text())
	}
	bob.Fails(404, mx.NotFound, "GET", "/events/"+e, nil)
	bob.Join(id)
	bob.Fails(404, mx.NotFound, "GET", "/events/"+e, nil)
	alice.Fails(404, mx.NotFound, "GET", "/events/$none", nil)
}
