package sliding_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

type obj = hstest.Obj

const (
	unstable = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
	stable   = "/_matrix/client/v4/sync"
)

// slide asks over the unstable form. params are of the query.
func slide(c *hstest.Client, body obj, params ...string) hstest.Answer {
	q := url.Values{}
	for _, p := range params {
		k, v, _ := strings.Cut(p, "=")
		q.Set(k, v)
	}
	return c.Do("POST", unstable+"?"+q.Encode(), body)
}

// loop is one connection.
type loop struct {
	t    *testing.T
	c    *hstest.Client
	pos  string
	body obj
}

func (l *loop) next(params ...string) hstest.Value {
	l.t.Helper()
	if l.pos != "" {
		params = append(params, "pos="+l.pos)
	}
	a := slide(l.c, l.body, params...)
	if a.Status != 200 {
		l.t.Fatalf("%d %s", a.Status, a.Body)
	}
	l.pos = a.JSON.At("pos").String()
	return a.JSON
}

// roomList is what the room list of shipped clients asks for.
func roomList(to int) obj {
	state := [][]string{{"m.room.name", ""}, {"m.room.encryption", ""}, {"m.room.member", "$LAZY"}, {"m.room.member", "$ME"}, {"m.room.topic", ""},
		{"m.room.avatar", ""}, {"m.room.canonical_alias", ""}, {"m.room.power_levels", ""}, {"org.matrix.msc3401.call.member", "*"}, {"m.room.join_rules", ""},
		{"m.room.tombstone", ""}, {"m.room.create", ""}, {"m.room.history_visibility", ""}, {"m.space.parent", "*"}, {"m.space.child", "*"}}
	return obj{"conn_id": "room-list", "lists": obj{"all_rooms": obj{"ranges": [][]int{{0, to}}, "timeline_limit": 1, "required_state": state,
		"filters": obj{"not_room_types": []string{"m.space"}}}},
		"extensions": obj{"account_data": obj{"enabled": true}, "receipts": obj{"enabled": true, "rooms": []string{"*"}}, "typing": obj{"enabled": true}}}
}

func types(events hstest.Value) []string {
	t := hstest.Types(events.List())
	slices.Sort(t)
	return t
}

func TestRoomList(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	var rooms []string
	for i := range 5 {
		rooms = append(rooms, alice.CreateRoom(obj{"preset": "public_chat", "name": fmt.Sprint("room ", i)}))
		bob.Join(rooms[i])
	}
	alice.CreateRoom(obj{"creation_content": obj{"type": "m.space"}})
	bob.Send(rooms[1], "newest")

	l := &loop{t: t, c: alice, body: roomList(1)}
	v := l.next()
	if n := v.At("lists", "all_rooms", "count").Int(); n != 5 {
		t.Errorf("%d rooms, want 5 without the space", n)
	}
	if got := v.At("rooms").Keys(); len(got) != 2 || !slices.Contains(got, rooms[1]) || !slices.Contains(got, rooms[4]) {
		t.Fatalf("the window shows %v", got)
	}
	r := v.At("rooms", rooms[1])
	if r.At("name").String() != "room 1" || !r.At("initial").Bool() || !r.At("limited").Bool() || r.At("joined_count").Int() != 2 || r.At("num_live").Int() != 0 ||
		r.At("notification_count").Int() != 1 || r.At("membership").String() != "join" || r.Exists("heroes") {
		t.Errorf("%s", r.Text())
	}
	if got := hstest.Bodies(r.At("timeline").List()); !slices.Equal(got, []string{"newest"}) {
		t.Errorf("timeline %v", got)
	}
	// $LAZY is the sender, $ME is alice.
	if got := types(r.At("required_state")); !slices.Equal(got, []string{"create", "history_visibility", "join_rules", "member", "member", "name", "power_levels"}) {
		t.Errorf("state %v", got)
	}

	// The window grows: only what is new to it comes.
	l.body = roomList(99)
	if got := l.next().At("rooms").Keys(); len(got) != 3 || slices.Contains(got, rooms[1]) {
		t.Errorf("after growing: %v", got)
	}
	// Nothing new: the answer waits, and then is empty.
	if v := l.next("timeout=50"); len(v.At("rooms").Keys()) != 0 || v.At("lists", "all_rooms", "count").Int() != 5 {
		t.Errorf("nothing is new, but: %s", v.Text())
	}
	// A message comes while it waits; bob's member event is not sent again.
	done := make(chan hstest.Value)
	go func() { done <- l.next("timeout=20000") }()
	time.Sleep(50 * time.Millisecond)
	bob.Send(rooms[2], "live")
	v = <-done
	r = v.At("rooms", rooms[2])
	if len(v.At("rooms").Keys()) != 1 || r.At("num_live").Int() != 1 || r.Exists("initial") || r.Exists("name") || r.At("limited").Bool() ||
		!slices.Equal(hstest.Bodies(r.At("timeline").List()), []string{"live"}) {
		t.Errorf("%s", v.Text())
	}
	if r.Exists("required_state") { // bob's join was in the timeline
		t.Errorf("the member event came again: %s", r.Text())
	}
	carol := hs.Login(t, "carol")
	carol.Join(rooms[2])
	carol.Send(rooms[2], "hi")
	r = l.next("timeout=5000").At("rooms", rooms[2])
	if got := types(r.At("required_state")); !slices.Equal(got, []string{"member"}) || r.At("joined_count").Int() != 3 {
		t.Errorf("the new member's event: %s", r.Text())
	}
	carol.Send(rooms[2], "again")
	if r = l.next("timeout=5000").At("rooms", rooms[2]); r.Exists("required_state") || r.Exists("joined_count") {
		t.Errorf("the member event came again: %s", r.Text())
	}
	stamp := r.At("bump_stamp").Int()
	// A topic is no activity, a name is told at once, and its end too.
	alice.SendState(rooms[2], "m.room.name", "", obj{"name": "new name"})
	if r = l.next("timeout=5000").At("rooms", rooms[2]); r.At("name").String() != "new name" || r.At("bump_stamp").Int() != stamp {
		t.Errorf("%s", r.Text())
	}
	alice.SendState(rooms[2], "m.room.name", "", obj{})
	r = l.next("timeout=5000").At("rooms", rooms[2])
	if !r.Exists("name") || r.At("name").V != nil || r.At("heroes", "0", "user_id").String() != bob.UserID || r.At("heroes", "0", "displayname").String() != "bob" {
		t.Errorf("%s", r.Text())
	}
	// The pos is a token for /messages.
	alice.Must("GET", hstest.Room(rooms[2])+"/messages?dir=b&from="+url.QueryEscape(l.pos), nil)
	// What alice reads on another device is told.
	alice.Must("POST", hstest.Room(rooms[1])+"/receipt/m.read/"+url.PathEscape(bob.Send(rooms[1], "read this")), obj{})
	l.next("timeout=0")
	if r = l.next("timeout=0").At("rooms", rooms[1]); r.At("notification_count").Int() > 0 {
		t.Errorf("%s", r.Text())
	}
}

func TestLostAnswers(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	body := roomList(19)
	a := slide(alice, body)
	first := a.JSON.At("pos").String()
	bob.Send(room, "one")
	lost := slide(alice, body, "pos="+first)
	again := slide(alice, body, "pos="+first)
	if string(lost.Body) != string(again.Body) {
		t.Errorf("the same pos gave\n%s\nand then\n%s", lost.Body, again.Body)
	}
	// With another body the answer is made anew, with all that came meanwhile.
	bob.Send(room, "two")
	wide := roomList(50)
	got := slide(alice, wide, "pos="+first)
	if b := hstest.Bodies(got.JSON.At("rooms", room, "timeline").List()); !slices.Equal(b, []string{"two"}) || !got.JSON.At("rooms", room, "limited").Bool() {
		t.Errorf("%s", got.Body)
	}
	// A restart keeps the connection.
	pos := got.JSON.At("pos").String()
	bob.Send(room, "three")
	hs.Restart()
	got = slide(alice, wide, "pos="+pos)
	if got.Status != 200 || got.JSON.At("rooms", room, "initial").Bool() || !slices.Equal(hstest.Bodies(got.JSON.At("rooms", room, "timeline").List()), []string{"three"}) {
		t.Errorf("after a restart: %d %s", got.Status, got.Body)
	}
	// What is no pos of this device and connection is refused.
	fresh := got.JSON.At("pos").String()
	for _, pos := range []string{first, "s1", "x", "s1~1.1", fresh + "0", strings.Repeat("9", 200)} {
		if a := slide(alice, wide, "pos="+url.QueryEscape(pos)); a.Status != 400 || a.JSON.At("errcode").String() != string(mx.UnknownPos) {
			t.Errorf("pos %s: %d %s", pos, a.Status, a.Body)
		}
	}
	for _, other := range []*hstest.Client{bob, hs.Login(t, "alice")} {
		if a := slide(other, wide, "pos="+fresh); a.JSON.At("errcode").String() != string(mx.UnknownPos) {
			t.Errorf("%s took the pos of another: %s", other.DeviceID, a.Body)
		}
	}
	if a := slide(alice, obj{"conn_id": "other"}, "pos="+fresh); a.JSON.At("errcode").String() != string(mx.UnknownPos) {
		t.Errorf("another connection: %s", a.Body)
	}
	if a := slide(alice, wide, "pos="+fresh); a.Status != 200 {
		t.Errorf("the connection did not survive that: %s", a.Body)
	}
}

func TestSubscriptionsAndExpansion(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob, eve := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "eve")
	room := alice.CreateRoom(obj{"preset": "public_chat", "topic": "talk"})
	private := bob.CreateRoom(nil)
	for _, s := range []string{"a", "b", "c", "d"} {
		alice.Send(room, s)
	}
	l := &loop{t: t, c: alice, body: obj{"lists": obj{"l": obj{"ranges": [][]int{{0, 10}}, "timeline_limit": 1, "required_state": [][]string{}}}}}
	v := l.next()
	if got := hstest.Bodies(v.At("rooms", room, "timeline").List()); !slices.Equal(got, []string{"d"}) || len(v.At("rooms", room, "required_state").List()) != 0 {
		t.Errorf("%s", v.Text())
	}
	// A subscription asks for more: it comes at once, however long the timeout.
	l.body["room_subscriptions"] = obj{room: obj{"timeline_limit": 3, "required_state": [][]string{{"m.room.topic", ""}}},
		private: obj{"timeline_limit": 3, "required_state": [][]string{{"*", "*"}}}, "!none": obj{"timeline_limit": 1}}
	v = l.next("timeout=60000")
	r := v.At("rooms", room)
	if got := hstest.Bodies(r.At("timeline").List()); !slices.Equal(got, []string{"b", "c", "d"}) || !r.At("unstable_expanded_timeline").Bool() || r.At("num_live").Int() != 0 ||
		!slices.Equal(types(r.At("required_state")), []string{"topic"}) {
		t.Errorf("%s", r.Text())
	}
	if len(v.At("rooms").Keys()) != 1 {
		t.Errorf("a room that alice is not in: %s", v.Text())
	}
	if v = l.next("timeout=0"); len(v.At("rooms").Keys()) != 0 {
		t.Errorf("again: %s", v.Text())
	}
	// Knowing the pos of somebody who was in a room gives nothing of it.
	eve.Join(room)
	other := &loop{t: t, c: eve, body: obj{"room_subscriptions": obj{room: obj{"timeline_limit": 10}}}}
	other.next()
	alice.Must("POST", hstest.Room(room)+"/kick", obj{"user_id": eve.UserID})
	secret := alice.Send(room, "not for eve")
	v = other.next("timeout=0")
	if r = v.At("rooms", room); r.At("membership").String() != "leave" || strings.Contains(v.Text(), secret) {
		t.Errorf("%s", v.Text())
	}
	alice.Send(room, "nor this")
	if v = other.next("timeout=0"); len(v.At("rooms").Keys()) != 0 {
		t.Errorf("%s", v.Text())
	}
}

func TestInvites(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	l := &loop{t: t, c: bob, body: obj{"conn_id": "notifications", "lists": obj{"invites": obj{"ranges": [][]int{{0, 16}}, "timeline_limit": 8,
		"required_state": [][]string{{"m.room.member", "$ME"}}, "filters": obj{"is_invite": true}},
		"joined": obj{"ranges": [][]int{{0, 16}}, "timeline_limit": 8, "required_state": [][]string{{"m.room.member", "$ME"}}, "filters": obj{"is_invite": false}}}}}
	l.next()
	room := alice.CreateRoom(obj{"name": "secret plans"})
	alice.Send(room, "before")
	alice.Invite(room, bob)
	v := l.next("timeout=5000")
	r := v.At("rooms", room)
	if r.At("membership").String() != "invite" || v.At("lists", "invites", "count").Int() != 1 || v.At("lists", "joined", "count").Int() != 0 ||
		r.Exists("timeline") || r.Exists("required_state") || hstest.Find(r.At("invite_state").List(), "m.room.member", bob.UserID).At("content", "membership").String() != "invite" {
		t.Errorf("%s", v.Text())
	}
	if v = l.next("timeout=0"); len(v.At("rooms").Keys()) != 0 {
		t.Errorf("twice: %s", v.Text())
	}
	bob.Join(room)
	v = l.next("timeout=5000")
	if r = v.At("rooms", room); !r.At("initial").Bool() || r.At("name").String() != "secret plans" || r.Exists("invite_state") || v.At("lists", "joined", "count").Int() != 1 {
		t.Errorf("%s", v.Text())
	}
	// An invitation declined: only that is told.
	other := alice.CreateRoom(obj{"name": "other", "invite": []string{bob.UserID}})
	l.next("timeout=5000")
	bob.Leave(other)
	v = l.next("timeout=5000")
	if r = v.At("rooms", other); r.At("membership").String() != "leave" || r.Exists("name") || len(r.At("required_state").List()) != 1 {
		t.Errorf("%s", v.Text())
	}
}

func TestExtensions(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	event := bob.Send(room, "hello")
	alice.Must("PUT", "/user/"+alice.UserID+"/account_data/x.y", obj{"a": 1})
	alice.Must("PUT", "/user/"+alice.UserID+"/rooms/"+url.PathEscape(room)+"/account_data/x.z", obj{"b": 1})
	alice.Must("POST", hstest.Room(room)+"/receipt/m.read/"+url.PathEscape(event), obj{})

	enc := &loop{t: t, c: alice, body: obj{"conn_id": "encryption", "extensions": obj{"e2ee": obj{"enabled": true}, "to_device": obj{"enabled": true}}}}
	v := enc.next()
	if v.At("extensions", "e2ee", "device_one_time_keys_count", "signed_curve25519").Int() != 0 || v.At("extensions", "to_device", "next_batch").String() == "" {
		t.Errorf("%s", v.Text())
	}
	since := v.At("extensions", "to_device", "next_batch").String()
	send := func(n int) {
		bob.Must("PUT", "/sendToDevice/m.test/"+hstest.Txn(), obj{"messages": obj{alice.UserID: obj{alice.DeviceID: obj{"n": n}}}})
	}
	send(1)
	send(2)
	ask := func(since string) hstest.Value {
		enc.body["extensions"].(obj)["to_device"] = obj{"enabled": true, "since": since, "limit": 1}
		return enc.next("timeout=0").At("extensions", "to_device")
	}
	one := ask(since)
	if again := ask(since); one.At("events", "0", "content", "n").Int() != 1 || again.At("events", "0", "content", "n").Int() != 1 {
		t.Errorf("%s, and again %s", one.Text(), again.Text())
	}
	two := ask(one.At("next_batch").String())
	if two.At("events", "0", "content", "n").Int() != 2 {
		t.Errorf("%s", two.Text())
	}
	if three := ask(two.At("next_batch").String()); len(three.At("events").List()) != 0 {
		t.Errorf("%s", three.Text())
	}

	l := &loop{t: t, c: alice, body: roomList(19)}
	v = l.next()
	ext := v.At("extensions")
	has := func(list hstest.Value, typ string) bool { return slices.Contains(hstest.Types(list.List()), typ) }
	if !has(ext.At("account_data", "global"), "x.y") || !has(ext.At("account_data", "global"), "m.push_rules") || !has(ext.At("account_data", "rooms", room), "x.z") {
		t.Errorf("account data %s", ext.Text())
	}
	if !ext.At("receipts", "rooms", room, "content", event, "m.read").Exists(alice.UserID) {
		t.Errorf("receipts %s", ext.Text())
	}
	// What changed wakes who waits, and only that comes.
	wait := func(do func()) hstest.Value {
		t.Helper()
		done := make(chan hstest.Value)
		go func() { done <- l.next("timeout=20000") }()
		time.Sleep(30 * time.Millisecond)
		do()
		return (<-done).At("extensions")
	}
	ext = wait(func() {
		bob.Must("PUT", hstest.Room(room)+"/typing/"+bob.UserID, obj{"typing": true, "timeout": 30000})
	})
	if ext.At("typing", "rooms", room, "content", "user_ids", "0").String() != bob.UserID {
		t.Errorf("typing %s", ext.Text())
	}
	ext = wait(func() { bob.Must("PUT", hstest.Room(room)+"/typing/"+bob.UserID, obj{"typing": false}) })
	if !ext.At("typing", "rooms").Exists(room) || len(ext.At("typing", "rooms", room, "content", "user_ids").List()) != 0 {
		t.Errorf("the stop of typing: %s", ext.Text())
	}
	ext = wait(func() { bob.Must("POST", hstest.Room(room)+"/receipt/m.read/"+url.PathEscape(event), obj{}) })
	if !ext.At("receipts", "rooms", room, "content", event, "m.read").Exists(bob.UserID) {
		t.Errorf("receipt %s", ext.Text())
	}
	ext = wait(func() {
		alice.Must("PUT", "/user/"+alice.UserID+"/rooms/"+url.PathEscape(room)+"/tags/m.favourite", obj{})
	})
	if !has(ext.At("account_data", "rooms", room), "m.tag") || has(ext.At("account_data", "rooms", room), "x.z") || len(ext.At("account_data", "global").List()) != 0 {
		t.Errorf("tag %s", ext.Text())
	}
	// A room that becomes a direct chat.
	done := make(chan hstest.Value)
	go func() { done <- l.next("timeout=20000") }()
	alice.Must("PUT", "/user/"+alice.UserID+"/account_data/m.direct", obj{bob.UserID: []string{room}})
	if v := <-done; !v.At("rooms", room, "is_dm").Bool() {
		t.Errorf("%s", v.Text())
	}
	// Who leaves all shared rooms is told of on the connection for encryption.
	bob.Leave(room)
	left := enc.next("timeout=0").At("extensions", "e2ee", "device_lists", "left").Text()
	if !strings.Contains(left, bob.UserID) {
		t.Errorf("left %s", left)
	}
}

func TestFilters(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	plain := alice.CreateRoom(nil)
	secret := alice.CreateRoom(obj{"initial_state": []obj{{"type": "m.room.encryption", "content": obj{"algorithm": "m.megolm.v1.aes-sha2"}}}})
	space := alice.CreateRoom(obj{"creation_content": obj{"type": "m.space"}})
	odd := alice.CreateRoom(obj{"creation_content": obj{"type": "x.odd"}})
	alice.SendState(space, "m.space.child", secret, obj{"via": []string{hstest.Server}})
	alice.SendState(space, "m.space.child", plain, obj{})
	alice.Must("PUT", "/user/"+alice.UserID+"/rooms/"+url.PathEscape(plain)+"/tags/m.favourite", obj{})
	alice.Must("PUT", "/user/"+alice.UserID+"/account_data/m.direct", obj{"@x:y": []string{secret}})
	for _, c := range []struct {
		filter obj
		want   []string
	}{
		{obj{}, []string{plain, secret, space, odd}},
		{obj{"is_dm": true}, []string{secret}},
		{obj{"is_dm": false}, []string{plain, space, odd}},
		{obj{"is_encrypted": true}, []string{secret}},
		{obj{"is_encrypted": false}, []string{plain, space, odd}},
		{obj{"room_types": []any{"m.space"}}, []string{space}},
		{obj{"room_types": []any{nil, "x.odd"}}, []string{plain, secret, odd}},
		{obj{"not_room_types": []any{nil}}, []string{space, odd}},
		{obj{"room_types": []any{"m.space"}, "not_room_types": []any{"m.space"}}, nil},
		{obj{"room_types": []any{}}, nil},
		{obj{"spaces": []string{space, "!none"}}, []string{secret}},
		{obj{"tags": []string{"m.favourite", "u.x"}}, []string{plain}},
		{obj{"not_tags": []string{"m.favourite"}}, []string{secret, space, odd}},
		{obj{"is_invited": true}, nil},
	} {
		v := alice.Must("POST", stable, obj{"lists": obj{"l": obj{"timeline_limit": 1, "required_state": obj{}, "filters": c.filter}}})
		got := v.At("rooms").Keys()
		slices.Sort(got)
		slices.Sort(c.want)
		if !slices.Equal(got, c.want) || v.At("lists", "l", "count").Int() != len(c.want) {
			t.Errorf("%v: %v, want %v (count %d)", c.filter, got, c.want, v.At("lists", "l", "count").Int())
		}
	}
	// Encryption is switched on while somebody waits.
	body := obj{"lists": obj{"l": obj{"timeline_limit": 1, "required_state": obj{}, "filters": obj{"is_encrypted": true}}}, "timeout": 10_000}
	body["pos"] = alice.Must("POST", stable, body).At("pos").String()
	alice.SendState(plain, "m.room.encryption", "", obj{"algorithm": "m.megolm.v1.aes-sha2"})
	if v := alice.Must("POST", stable, body); v.At("lists", "l", "count").Int() != 2 || !v.At("rooms").Exists(plain) {
		t.Errorf("%s", v.Text())
	}
}

func TestStableForm(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat", "topic": "x"})
	bob.Join(room)
	bob.Send(room, "hello")
	list := obj{"range": []int{0, 9}, "timeline_limit": 1, "required_state": obj{"include": []obj{{}}, "exclude": []obj{{"type": "m.room.create", "state_key": ""}}, "lazy_members": true}}
	v := alice.Must("POST", stable, obj{"lists": obj{"a": list}})
	r := v.At("rooms", room)
	got := types(r.At("required_state"))
	if slices.Contains(got, "create") || !slices.Contains(got, "topic") || len(slices.DeleteFunc(slices.Clone(got), func(s string) bool { return s != "member" })) != 1 ||
		r.Exists("notification_count") || r.At("lists").Text() != `["a"]` || r.At("membership").String() != "join" {
		t.Errorf("%s", r.Text())
	}
	pos := v.At("pos").String()
	// A second list with the same room asks for more of its state.
	v = alice.Must("POST", stable, obj{"pos": pos, "timeout": 60_000, "lists": obj{"a": list,
		"b": obj{"timeline_limit": 2, "required_state": obj{"include": []obj{{"type": "m.room.create"}}}}}})
	r = v.At("rooms", room)
	if !r.At("expanded_timeline").Bool() || !slices.Equal(types(r.At("required_state")), []string{"create"}) || r.At("lists").Text() != `["a","b"]` {
		t.Errorf("%s", r.Text())
	}
	inviting := bob.CreateRoom(obj{"invite": []string{alice.UserID}})
	v = alice.Must("POST", stable, obj{"pos": v.At("pos").String(), "timeout": 5000, "lists": obj{"a": list}})
	if !v.At("rooms", inviting).Exists("stripped_state") {
		t.Errorf("%s", v.Text())
	}
}

func TestBadRequests(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	many := func(n int, v any) obj {
		o := obj{}
		for i := range n {
			o[fmt.Sprintf("!%d:x", i)] = v
		}
		return o
	}
	sub := obj{"timeline_limit": 1, "required_state": obj{}}
	list := func(extra obj) obj {
		o := obj{"timeline_limit": 1, "required_state": obj{}}
		for k, v := range extra {
			o[k] = v
		}
		return obj{"lists": obj{"l": o}}
	}
	for _, c := range []struct {
		body any
		code mx.Code
	}{
		{obj{"conn_id": strings.Repeat("x", 256)}, mx.InvalidParam},
		{obj{"lists": many(101, sub)}, mx.InvalidParam},
		{obj{"lists": obj{"a b": sub}}, mx.InvalidParam},
		{obj{"lists": obj{"": sub}}, mx.InvalidParam},
		{obj{"room_subscriptions": many(101, sub)}, mx.InvalidParam},
		{obj{"room_subscriptions": obj{"!a:b": obj{"timeline_limit": 1}}}, mx.MissingParam},
		{obj{"room_subscriptions": obj{"!a:b": obj{"required_state": obj{}}}}, mx.MissingParam},
		{list(obj{"range": []int{3, 1}}), mx.InvalidParam},
		{list(obj{"range": []int{-1, 1}}), mx.InvalidParam},
		{list(obj{"range": []int{1}}), mx.InvalidParam},
		{list(obj{"range": "all"}), mx.BadJSON},
		{list(obj{"timeline_limit": -1}), mx.InvalidParam},
		{list(obj{"required_state": [][]string{{"a"}}}), mx.BadJSON},
		{list(obj{"required_state": [][]string{{"a", "b"}}}), mx.BadJSON},
		{list(obj{"filters": obj{"tags": slices.Repeat([]string{"x"}, 1001)}}), mx.InvalidParam},
		{obj{"timeout": -1}, mx.InvalidParam},
		{obj{"set_presence": "away"}, mx.InvalidParam},
		{obj{"pos": "never given"}, mx.UnknownPos},
		{obj{"extensions": obj{"to_device": obj{"enabled": true, "since": "x"}}}, mx.InvalidParam},
		{obj{"extensions": obj{"e2ee": 3}}, mx.BadJSON},
		{[]byte(`{"lists":{}`), mx.NotJSON},
		{[]byte(`[]`), mx.BadJSON},
	} {
		a := alice.Do("POST", stable, c.body)
		if a.Status != 400 || a.JSON.At("errcode").String() != string(c.code) {
			b, _ := json.Marshal(c.body)
			t.Errorf("%.200s: %d %s, want %s", b, a.Status, a.Body, c.code)
		}
	}
	// Clients of the unstable form may subscribe to more, but not without end.
	if a := slide(alice, obj{"room_subscriptions": many(900, obj{"timeline_limit": 1})}); a.Status != 200 {
		t.Errorf("900 subscriptions: %s", a.Body)
	}
	if a := slide(alice, obj{"room_subscriptions": many(1001, obj{"timeline_limit": 1})}); a.JSON.At("errcode").String() != string(mx.InvalidParam) {
		t.Errorf("1001 subscriptions: %s", a.Body)
	}
	// Connections without end push each other out, and no more.
	room := alice.CreateRoom(nil)
	kept := alice.Must("POST", stable, obj{"conn_id": "kept", "room_subscriptions": obj{room: sub}}).At("pos").String()
	for i := range 40 {
		alice.Must("POST", stable, obj{"conn_id": fmt.Sprint("c", i)})
		if i%10 == 0 {
			kept = alice.Must("POST", stable, obj{"conn_id": "kept", "pos": kept}).At("pos").String()
		}
	}
	alice.Fails(400, mx.UnknownPos, "POST", stable, obj{"conn_id": "c0", "pos": "s1~1.1"})
	alice.Must("POST", stable, obj{"conn_id": "kept", "pos": kept})
}

// More different wants than a connection tells apart: nothing that is asked for later is
// missed.
func TestManyWants(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	var rooms []string
	for range 3 {
		rooms = append(rooms, alice.CreateRoom(obj{"topic": "x"}))
	}
	l := &loop{t: t, c: alice, body: obj{}}
	for i := range 120 {
		subs := obj{}
		for r, id := range rooms {
			subs[id] = obj{"timeline_limit": 1, "required_state": [][]string{{fmt.Sprint("m.", i, ".", r), ""}}}
		}
		l.body["room_subscriptions"] = subs
		l.next("timeout=0")
	}
	subs := obj{}
	for _, id := range rooms {
		subs[id] = obj{"timeline_limit": 1, "required_state": [][]string{{"m.room.topic", ""}}}
	}
	l.body["room_subscriptions"] = subs
	v := l.next("timeout=0")
	for _, id := range rooms {
		if got := types(v.At("rooms", id, "required_state")); !slices.Equal(got, []string{"topic"}) {
			t.Errorf("%s: %v", id, got)
		}
	}
}

// What a connection keeps of wants is bounded, however large and many they are, and
// what is too large to keep is still told apart.
func TestMemoryOfWants(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	id := alice.CreateRoom(obj{"topic": "x"})
	l := &loop{t: t, c: alice, body: obj{}}
	ask := func(state [][]string) []string {
		l.body["room_subscriptions"] = obj{id: obj{"timeline_limit": 1, "required_state": state}}
		return types(l.next("timeout=0").At("rooms", id, "required_state"))
	}
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	// large is a want of 900 kB, with the topic in it.
	large := func(n int) [][]string {
		state := [][]string{{"m.room.topic", ""}}
		for i := range 299 {
			state = append(state, []string{"m.x", fmt.Sprint(n, ".", i, strings.Repeat("x", 3000))})
		}
		return state
	}
	if got := ask(large(-1)); !slices.Equal(got, []string{"topic"}) {
		t.Fatalf("%v", got)
	}
	before := heap()
	for n := range 20 {
		ask(large(n))
	}
	same := large(19)
	if got := ask(same); len(got) != 0 {
		t.Errorf("the same want again gives %v", got)
	}
	if got := ask(append(same[:298:298], []string{"m.room.name", ""}, []string{"m.room.join_rules", ""})); !slices.Contains(got, "join_rules") {
		t.Errorf("a want that has more gives %v", got)
	}
	if got := ask([][]string{{"m.room.topic", ""}}); !slices.Equal(got, []string{"topic"}) {
		t.Errorf("a small want after a large one gives %v", got)
	}
	l.body, same = obj{}, nil
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("after 20 wants of 900 kB the connection keeps %d MB", grown>>20)
	}
}
