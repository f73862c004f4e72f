package syncv3_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

type obj = hstest.Obj

func TestMessageArrives(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "private_chat", "name": "Kitchen", "invite": []string{bob.UserID}})

	v := bob.Sync()
	stripped := v.At("rooms", "invite", room, "invite_state", "events").List()
	if !hstest.Find(stripped, mx.RoomCreate, "").Exists("content") || hstest.Find(stripped, mx.RoomName, "").At("content", "name").String() != "Kitchen" {
		t.Fatalf("the invitation lacks the create event or the name: %s", v.Text())
	}
	bob.Join(room)
	v = bob.Sync()
	if v.Joined(room).At("timeline", "limited").V == nil {
		t.Fatalf("the room did not come: %s", v.Text())
	}
	if hstest.Find(v.Joined(room).At("state", "events").List(), mx.RoomName, "").V == nil &&
		hstest.Find(v.Timeline(room), mx.RoomName, "").V == nil {
		t.Fatalf("a room just joined comes without its state: %s", v.Text())
	}
	var id string
	v = bob.Woken(func() { id = alice.Send(room, "hello") })
	events := v.Timeline(room)
	if len(events) != 1 || events[0].At("event_id").String() != id || events[0].At("content", "body").String() != "hello" {
		t.Fatalf("got %s", v.Text())
	}
	if events[0].At("unsigned", "membership").String() != "join" || events[0].At("unsigned", "age").Int() < 0 {
		t.Errorf("unsigned: %s", events[0].Text())
	}
	if v.Joined(room).At("timeline", "limited").Bool() {
		t.Error("limited, though nothing was left out")
	}
}

func TestTransactionIDOnlyToSendingDevice(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	other := hs.Login(t, "alice")
	room := alice.CreateRoom(nil)
	alice.Sync()
	other.Sync()
	path := hstest.Room(room) + "/send/m.room.message/same"
	first := alice.Must("PUT", path, obj{"body": "x", "msgtype": "m.text"}).At("event_id").String()
	if again := alice.Must("PUT", path, obj{"body": "x", "msgtype": "m.text"}).At("event_id").String(); again != first {
		t.Fatal("a repeated request made another event")
	}
	if another := other.Must("PUT", path, obj{"body": "x", "msgtype": "m.text"}).At("event_id").String(); another == first {
		t.Fatal("transaction IDs of two devices are one")
	}
	if e := alice.Sync().Timeline(room); len(e) != 2 || e[0].At("unsigned", "transaction_id").String() != "same" || e[1].At("unsigned").Exists("transaction_id") {
		t.Fatalf("to the sender: %v", e)
	}
	if e := other.Sync().Timeline(room); len(e) != 2 || e[0].At("unsigned").Exists("transaction_id") || e[1].At("unsigned", "transaction_id").String() != "same" {
		t.Fatalf("to the other device: %v", e)
	}
	hs.Restart()
	if again := alice.Must("PUT", path, obj{"body": "x", "msgtype": "m.text"}).At("event_id").String(); again != first {
		t.Fatal("after a restart a repeated request made another event")
	}
}

func TestStateAfter(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	for _, name := range []string{"use_state_after", "org.matrix.msc4222.use_state_after"} {
		key := map[string]string{"use_state_after": "state_after", "org.matrix.msc4222.use_state_after": "org.matrix.msc4222.state_after"}[name]
		alice.Since = ""
		v := alice.Sync(name + "=true")
		j := v.Joined(room)
		if j.Exists("state") || !j.Exists(key) {
			t.Fatalf("%s: state %v, %s %v", name, j.Exists("state"), key, j.Exists(key))
		}
		state := j.At(key, "events").List()
		if hstest.Find(state, mx.RoomMember, alice.UserID).V == nil || hstest.Find(state, mx.RoomCreate, "").V == nil {
			t.Fatalf("%s: state after lacks events: %s", name, j.Text())
		}
		alice.Send(room, "no state")
		if j = alice.Sync(name + "=true").Joined(room); !j.Exists(key) || len(j.At(key, "events").List()) != 0 {
			t.Fatalf("%s: with nothing changed it must be there and empty: %s", name, j.Text())
		}
		alice.SendState(room, mx.RoomTopic, "", obj{"topic": name})
		j = alice.Sync(name + "=true").Joined(room)
		if got := hstest.Find(j.At(key, "events").List(), mx.RoomTopic, "").At("content", "topic").String(); got != name {
			t.Fatalf("%s: a change in the timeline must be in %s: %s", name, key, j.Text())
		}
	}
	bob.Join(room)
	j := alice.Sync("org.matrix.msc4222.use_state_after=true").Joined(room)
	if hstest.Find(j.At("org.matrix.msc4222.state_after", "events").List(), mx.RoomMember, bob.UserID).V == nil {
		t.Fatalf("a member event must be in state_after: %s", j.Text())
	}
}

func TestLimitedGap(t *testing.T) {
	for _, lazy := range []bool{false, true} {
		t.Run(fmt.Sprint("lazy ", lazy), func(t *testing.T) {
			hs := hstest.New(t, nil)
			alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
			room := alice.CreateRoom(obj{"preset": "public_chat"})
			alice.Filter = fmt.Sprintf(`{"room":{"timeline":{"limit":3},"state":{"lazy_load_members":%v}}}`, lazy)
			alice.Sync()
			bob.Join(room)
			carol.Join(room)
			alice.SendState(room, mx.RoomTopic, "", obj{"topic": "one"})
			alice.SendState(room, mx.RoomTopic, "", obj{"topic": "two"})
			carol.Leave(room)
			for i := range 5 {
				alice.Send(room, fmt.Sprint(i))
			}
			v := alice.Sync()
			j := v.Joined(room)
			if !j.At("timeline", "limited").Bool() {
				t.Fatal("not limited")
			}
			if got := hstest.Bodies(v.Timeline(room)); !slices.Equal(got, []string{"2", "3", "4"}) {
				t.Fatalf("timeline %v", got)
			}
			state := j.At("state", "events").List()
			if got := hstest.Find(state, mx.RoomTopic, "").At("content", "topic").String(); got != "two" {
				t.Errorf("topic %q", got)
			}
			if hstest.Find(state, mx.RoomMember, bob.UserID).At("content", "membership").String() != "join" ||
				hstest.Find(state, mx.RoomMember, carol.UserID).At("content", "membership").String() != "leave" {
				t.Errorf("all changes of memberships in the gap must be told: %s", j.Text())
			}
			// The gap is filled from prev_batch.
			m := alice.Must("GET", hstest.Room(room)+"/messages?dir=b&limit=2&from="+j.At("timeline", "prev_batch").String(), nil)
			if got := hstest.Bodies(m.At("chunk").List()); !slices.Equal(got, []string{"1", "0"}) {
				t.Errorf("back from prev_batch: %v", got)
			}
		})
	}
}

func TestLazyLoading(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	room := alice.CreateRoom(obj{"preset": "public_chat", "name": "named"})
	bob.Join(room)
	carol.Join(room)
	for i := range 12 {
		bob.Send(room, fmt.Sprint(i))
	}
	members := func(v hstest.Value) []string {
		out := []string{}
		for _, e := range v.Joined(room).At("state", "events").List() {
			if e.At("type").String() == mx.RoomMember {
				out = append(out, e.At("state_key").String())
			}
		}
		slices.Sort(out)
		return out
	}
	alice.Filter = `{"room":{"timeline":{"limit":5},"state":{"lazy_load_members":true}}}`
	if got := members(alice.Sync()); !slices.Equal(got, []string{alice.UserID, bob.UserID}) {
		t.Fatalf("at first: %v, want oneself and the sender", got)
	}
	alice.Sync("timeout=0")
	bob.Send(room, "again")
	if got := members(alice.Sync()); len(got) != 0 {
		t.Fatalf("a member the device has came again: %v", got)
	}
	carol.Send(room, "first word")
	before := alice.Since
	if got := members(alice.Sync()); !slices.Equal(got, []string{carol.UserID}) {
		t.Fatalf("who speaks for the first time: %v", got)
	}
	if got := members(alice.SyncFrom(before)); !slices.Equal(got, []string{carol.UserID}) {
		t.Fatalf("an answer that was lost must be given again whole: %v", got)
	}
	carol.Send(room, "second word")
	if got := members(alice.Sync()); len(got) != 0 {
		t.Fatalf("came again: %v", got)
	}
	alice.Filter = `{"room":{"timeline":{"limit":5},"state":{"lazy_load_members":true,"include_redundant_members":true}}}`
	carol.Send(room, "third word")
	if got := members(alice.Sync()); !slices.Equal(got, []string{carol.UserID}) {
		t.Fatalf("with include_redundant_members: %v", got)
	}
	// Another device has none of these.
	phone := hs.Login(t, "alice")
	phone.Filter = `{"room":{"timeline":{"limit":1},"state":{"lazy_load_members":true}}}`
	if got := members(phone.Sync()); !slices.Equal(got, []string{alice.UserID, carol.UserID}) {
		t.Fatalf("another device: %v", got)
	}
}

func TestHeroes(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	room := alice.CreateRoom(obj{"preset": "private_chat", "invite": []string{bob.UserID, carol.UserID}})
	alice.Filter = `{"room":{"timeline":{"limit":1},"state":{"lazy_load_members":true}}}`
	bob.Join(room)
	v := alice.Sync()
	s := v.Joined(room).At("summary")
	if s.At("m.joined_member_count").Int() != 2 || s.At("m.invited_member_count").Int() != 1 || len(s.At("m.heroes").List()) != 2 {
		t.Fatalf("summary %s", s.Text())
	}
	state := v.Joined(room).At("state", "events").List()
	if hstest.Find(state, mx.RoomMember, carol.UserID).V == nil {
		t.Fatalf("the member event of a hero is missing: %s", v.Text())
	}
	carol.Join(room)
	if s := alice.Sync().Joined(room).At("summary"); s.At("m.joined_member_count").Int() != 3 {
		t.Fatalf("summary after a join: %s", s.Text())
	}
}

func TestTokens(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(nil)
	alice.Sync()
	alice.Send(room, "before the restart")
	hs.Restart()
	if got := hstest.Bodies(alice.Sync().Timeline(room)); !slices.Equal(got, []string{"before the restart"}) {
		t.Fatalf("a token of before the restart gives %v", got)
	}
	v := alice.SyncFrom("s999999999999", "timeout=200")
	alice.Since = v.At("next_batch").String()
	alice.Send(room, "after")
	if got := hstest.Bodies(alice.Sync().Timeline(room)); !slices.Equal(got, []string{"after"}) {
		t.Fatalf("after a token of the future: %v", got)
	}
	for _, bad := range []string{"x", "s", "s-1", "s01", "s1_", "s1_1", "s99999999999999999999", "42"} {
		alice.Fails(400, mx.InvalidParam, "GET", "/sync?since="+bad, nil)
	}
}

func TestPollEndsWithClient(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	alice.Sync()
	ctx, cancel := context.WithCancel(context.Background())
	wait := alice.SyncAsync(ctx, "timeout=60000")
	time.Sleep(50 * time.Millisecond)
	cancel()
	<-wait
	done := make(chan struct{})
	go func() { hs.Stop(); close(done) }() // waits for the handlers
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("the request of a client that is gone still waits")
	}
}

func TestEmptyPoll(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	private := bob.CreateRoom(nil)
	v := alice.Sync()
	for _, k := range []string{"device_one_time_keys_count", "device_unused_fallback_key_types", "org.matrix.msc2732.device_unused_fallback_key_types"} {
		if !v.Exists(k) {
			t.Errorf("the answer lacks %s: %s", k, v.Text())
		}
	}
	if v.At("device_one_time_keys_count", "signed_curve25519").Int() != 0 {
		t.Errorf("the count of none must be 0: %s", v.Text())
	}
	wait := alice.SyncAsync(context.Background(), "timeout=300")
	bob.Send(private, "not for alice")
	a := <-wait
	if a.Status != 200 || a.JSON.Exists("rooms") {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if a.JSON.At("device_one_time_keys_count", "signed_curve25519").Int() != 0 || !a.JSON.Exists("device_unused_fallback_key_types") {
		t.Errorf("an empty answer has the counts too: %s", a.Body)
	}
}

func TestFilters(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	one := alice.CreateRoom(obj{"preset": "public_chat"})
	two := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(one)
	alice.Send(one, "text")
	alice.SendEvent(one, "m.other", obj{"url": "mxc://a/b"})
	bob.Send(one, "from bob")
	for _, c := range []struct {
		filter string
		room   string
		want   []string
	}{
		{`{"room":{"timeline":{"types":["m.room.message"]}}}`, one, []string{"m.room.message", "m.room.message"}},
		{`{"room":{"timeline":{"types":["m.ro*ge"],"limit":1}}}`, one, []string{"m.room.message"}},
		{`{"room":{"timeline":{"types":[]}}}`, one, []string{}},
		{`{"room":{"timeline":{"not_types":["m.room.*"]}}}`, one, []string{"m.other"}},
		{`{"room":{"timeline":{"senders":["@bob:example.org"],"not_types":["m.room.member"]}}}`, one, []string{"m.room.message"}},
		{`{"room":{"timeline":{"contains_url":true}}}`, one, []string{"m.other"}},
		{`{"room":{"timeline":{"not_rooms":["` + one + `"]}}}`, one, []string{}},
	} {
		alice.Filter, alice.Since = c.filter, ""
		got := []string{}
		for _, e := range alice.Sync().Timeline(c.room) {
			got = append(got, e.At("type").String())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.filter, got, c.want)
		}
	}
	rooms := func(filter string) []string {
		alice.Filter, alice.Since = filter, ""
		k := alice.Sync().At("rooms", "join").Keys()
		slices.Sort(k)
		return k
	}
	if got := rooms(`{"room":{"rooms":[]}}`); len(got) != 0 {
		t.Errorf("an empty list of rooms means none: %v", got)
	}
	if got := rooms(`{"room":{"rooms":["` + two + `"]}}`); !slices.Equal(got, []string{two}) {
		t.Errorf("rooms: %v", got)
	}
	if got := rooms(`{"room":{"not_rooms":["` + two + `"]}}`); !slices.Equal(got, []string{one}) {
		t.Errorf("not_rooms: %v", got)
	}
	alice.Filter, alice.Since = `{"event_fields":["type","content.body"],"room":{"timeline":{"limit":1}}}`, ""
	if e := alice.Sync().Timeline(one); len(e) != 1 || e[0].Text() != `{"content":{"body":"from bob"},"type":"m.room.message"}` {
		t.Errorf("event_fields: %v", e)
	}
	alice.Filter = ""
	alice.Fails(400, mx.NotJSON, "GET", "/sync?filter=%7Bx", nil)
	alice.Fails(400, mx.BadJSON, "GET", `/sync?filter=%7B%22room%22:3%7D`, nil)
}

func TestStoredFilter(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(nil)
	alice.Filter = alice.Must("POST", "/user/"+alice.UserID+"/filter", obj{"room": obj{"timeline": obj{"limit": 1}}}).At("filter_id").String()
	if got := len(alice.Sync().Timeline(room)); got != 1 {
		t.Fatalf("%d events", got)
	}
	alice.Filter = "none"
	alice.Fails(400, mx.InvalidParam, "GET", "/sync?filter=none", nil)
}

func TestLeaving(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	bob.Sync()
	alice.Send(room, "still here")
	bob.Leave(room)
	alice.Send(room, "secret")
	v := bob.Sync()
	left := v.At("rooms", "leave", room)
	if got := hstest.Bodies(left.At("timeline", "events").List()); !slices.Equal(got, []string{"still here"}) {
		t.Fatalf("timeline of the room that was left: %s", left.Text())
	}
	if v.Joined(room).V != nil {
		t.Fatal("a room that was left is in join too")
	}
	alice.Send(room, "more")
	if v := bob.Sync(); v.Exists("rooms") {
		t.Fatalf("after leaving: %s", v.Text())
	}
	if v := bob.SyncFrom(""); v.At("rooms", "leave", room).V != nil {
		t.Fatal("a first sync has rooms that were left without include_leave")
	}
	if v := bob.SyncFrom("", `filter={"room":{"include_leave":true}}`); v.At("rooms", "leave", room).V == nil {
		t.Fatalf("include_leave: %s", v.Text())
	}
	bob.Join(room)
	got := hstest.Bodies(bob.Sync().Timeline(room))
	if !slices.Contains(got, "secret") { // shared history: who joins again sees it
		t.Fatalf("after joining again: %v", got)
	}
}

func TestInviteAndKnock(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	alice.Sync()
	bob.Sync()
	room := alice.CreateRoom(obj{"preset": "private_chat", "initial_state": []obj{{"type": mx.RoomJoinRules, "content": obj{"join_rule": "knock"}}}})
	wait := bob.SyncAsync(context.Background(), "timeout=5000")
	time.Sleep(20 * time.Millisecond)
	alice.Invite(room, bob)
	a := <-wait
	events := a.JSON.At("rooms", "invite", room, "invite_state", "events").List()
	if hstest.Find(events, mx.RoomMember, bob.UserID).At("content", "membership").String() != "invite" || hstest.Find(events, mx.RoomCreate, "").V == nil {
		t.Fatalf("invitation: %s", a.Body)
	}
	bob.Since = a.JSON.At("next_batch").String()
	bob.Leave(room)
	if v := bob.Sync(); v.At("rooms", "leave", room).V == nil {
		t.Fatalf("a declined invitation: %s", v.Text())
	}
	bob.Must("POST", "/knock/"+room, obj{"reason": "please"})
	v := bob.Sync()
	if hstest.Find(v.At("rooms", "knock", room, "knock_state", "events").List(), mx.RoomCreate, "").V == nil {
		t.Fatalf("knock: %s", v.Text())
	}
	alice.Invite(room, bob)
	bob.Join(room)
	if v := bob.Sync(); v.Joined(room).V == nil || v.At("rooms", "invite", room).V != nil {
		t.Fatalf("joined: %s", v.Text())
	}
}

func TestFullState(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(obj{"name": "N"})
	alice.Sync()
	v := alice.Sync("full_state=true", "timeout=10000")
	if hstest.Find(v.Joined(room).At("state", "events").List(), mx.RoomName, "").V == nil {
		t.Fatalf("full_state: %s", v.Text())
	}
}
