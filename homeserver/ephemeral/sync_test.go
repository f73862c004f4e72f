package ephemeral_test

import (
	"testing"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

// ephemeralOf is the content of the room's ephemeral event of a type.
func ephemeralOf(v hstest.Value, room, typ string) hstest.Value {
	for _, e := range v.Joined(room).At("ephemeral", "events").List() {
		if e.At("type").String() == typ {
			return e.At("content")
		}
	}
	return hstest.Value{}
}

func TestTypingThroughSync(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(object{"preset": "public_chat"})
	bob.Join(room)
	alice.Sync()
	typing := func(on bool, ms int) {
		bob.Must("PUT", hstest.Room(room)+"/typing/"+bob.UserID, object{"typing": on, "timeout": ms})
	}
	v := alice.Woken(func() { typing(true, 30000) })
	if ids := ephemeralOf(v, room, mx.Typing).At("user_ids").List(); len(ids) != 1 || ids[0].String() != bob.UserID {
		t.Fatal(v.Text())
	}
	v = alice.Woken(func() { typing(false, 0) })
	if c := ephemeralOf(v, room, mx.Typing); !c.Exists("user_ids") || len(c.At("user_ids").List()) != 0 {
		t.Fatal("the stop did not come:", v.Text())
	}
	alice.Woken(func() { typing(true, 300) })
	v = alice.Woken(func() {}) // by itself
	if c := ephemeralOf(v, room, mx.Typing); !c.Exists("user_ids") || len(c.At("user_ids").List()) != 0 {
		t.Fatal("the end by time did not come:", v.Text())
	}
	typing(true, 30000)
	alice.Sync()
	bob.Leave(room)
	if c := ephemeralOf(alice.Sync(), room, mx.Typing); !c.Exists("user_ids") || len(c.At("user_ids").List()) != 0 {
		t.Fatal("who left goes on typing")
	}
	bob.Join(room)
	typing(true, 30000)
	if c := ephemeralOf(alice.Sync(), room, mx.Typing); len(c.At("user_ids").List()) != 1 {
		t.Fatal("bob types again")
	}
	hs.Restart()
	if c := ephemeralOf(alice.Sync(), room, mx.Typing); !c.Exists("user_ids") || len(c.At("user_ids").List()) != 0 {
		t.Fatal("after a restart bob types for ever")
	}
	if c := ephemeralOf(alice.Sync(), room, mx.Typing); c.V != nil {
		t.Fatal("told twice")
	}
}

func TestReceiptsThroughSync(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	phone := hs.Login(t, "bob")
	room := alice.CreateRoom(object{"preset": "public_chat"})
	bob.Join(room)
	id := alice.Send(room, "one")
	alice.Sync()
	phone.Sync()
	v := bob.Sync()
	if n := v.Joined(room).At("unread_notifications", "notification_count").Int(); n != 1 {
		t.Fatalf("%d unread: %s", n, v.Joined(room).Text())
	}
	alice.Sync() // bob came online
	v = alice.Woken(func() { bob.Must("POST", hstest.Room(room)+"/receipt/m.read/"+id, object{}) })
	if ephemeralOf(v, room, mx.Receipt).At(id, "m.read", bob.UserID, "ts").Int() <= 0 {
		t.Fatal(v.Text())
	}
	v = phone.Sync()
	if n := v.Joined(room).At("unread_notifications", "notification_count").Int(); n != 0 {
		t.Fatalf("bob's other device still shows %d unread: %s", n, v.Text())
	}

	second := alice.Send(room, "two")
	alice.Sync()
	phone.Sync()
	v = phone.Woken(func() { bob.Must("POST", hstest.Room(room)+"/receipt/m.read.private/"+second, object{}) })
	if ephemeralOf(v, room, mx.Receipt).At(second, "m.read.private", bob.UserID, "ts").Int() <= 0 {
		t.Fatal("bob's other device does not hear of the private receipt:", v.Text())
	}
	if n := v.Joined(room).At("unread_notifications", "notification_count").Int(); n != 0 {
		t.Fatalf("%d unread after the private receipt", n)
	}
	if c := ephemeralOf(alice.Sync(), room, mx.Receipt); c.V != nil {
		t.Fatal("alice sees the private receipt:", c.Text())
	}
	if c := ephemeralOf(alice.SyncFrom(""), room, mx.Receipt); c.At(second).V != nil || c.At(id).V == nil {
		t.Fatal("a first sync:", c.Text())
	}
	// One's own message counts as read.
	alice.Send(room, "three")
	bob.Sync()
	bob.Send(room, "mine")
	if n := bob.Sync().Joined(room).At("unread_notifications", "notification_count").Int(); n != 0 {
		t.Fatalf("%d unread after one's own message", n)
	}

	phone.Woken(func() {
		bob.Must("POST", hstest.Room(room)+"/read_markers", object{"m.fully_read": second})
		phone.Sync() // whatever came before
	})
	marker := phone.Must("GET", "/user/"+bob.UserID+hstest.Room(room)+"/account_data/m.fully_read", nil)
	if marker.At("event_id").String() != second {
		t.Fatal(marker.Text())
	}
	hs.Restart()
	if c := ephemeralOf(alice.SyncFrom(""), room, mx.Receipt); c.At(id).V == nil {
		t.Fatal("receipts are gone after a restart")
	}
}

func TestPresenceThroughSync(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob, eve := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "eve")
	room := alice.CreateRoom(object{"preset": "public_chat"})
	bob.Join(room)
	eve.Sync()
	alice.Sync()
	of := func(v hstest.Value, user string) string {
		for _, e := range v.At("presence", "events").List() {
			if e.At("sender").String() == user {
				return e.At("content", "presence").String()
			}
		}
		return ""
	}
	v := alice.Woken(func() { bob.Sync() })
	if got := of(v, bob.UserID); got != "online" {
		t.Fatalf("%q: %s", got, v.Text())
	}
	v = alice.Woken(func() {
		bob.Must("PUT", "/presence/"+bob.UserID+"/status", object{"presence": "unavailable", "status_msg": "away"})
	})
	if got := of(v, bob.UserID); got != "unavailable" {
		t.Fatalf("%q: %s", got, v.Text())
	}
	// A new name or avatar comes with it.
	bob.Must("PUT", "/profile/"+bob.UserID+"/displayname", object{"displayname": "Robert"})
	bob.Must("PUT", "/profile/"+bob.UserID+"/avatar_url", object{"avatar_url": "mxc://example.org/bob"})
	list := alice.Sync().At("presence", "events").List()
	if len(list) == 0 {
		t.Error("no presence after a change of the profile")
	}
	for _, e := range list {
		if c := e.At("content"); e.At("sender").String() != bob.UserID || c.At("displayname").String() != "Robert" || c.At("avatar_url").String() != "mxc://example.org/bob" || c.At("presence").String() != "unavailable" {
			t.Error(e.Text())
		}
	}
	if got := of(eve.Sync(), bob.UserID); got != "" {
		t.Fatal("eve shares no room with bob and sees", got)
	}
	alice.Fails(400, mx.InvalidParam, "GET", "/sync?set_presence=away", nil)
}

// presenceIn are the states of presence in a sync, by user.
func presenceIn(v hstest.Value) map[string]string {
	out := map[string]string{}
	for _, e := range v.At("presence", "events").List() {
		out[e.At("sender").String()] = e.At("content", "presence").String()
	}
	return out
}

// Who comes to share a room learns of the other's presence, without a change of it.
func TestPresenceOfWhoCameToShare(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(object{"preset": "public_chat"})
	bob.Must("PUT", "/presence/"+bob.UserID+"/status", object{"presence": "online", "status_msg": "here"})
	alice.Sync()
	bob.Sync()
	bob.Join(room)
	if got := presenceIn(alice.Sync()); got[bob.UserID] != "online" {
		t.Fatalf("who joined: %v", got)
	}
	if got := presenceIn(bob.Sync()); got[alice.UserID] != "online" {
		t.Fatalf("who was there: %v", got)
	}
	if got := presenceIn(alice.Sync()); len(got) != 0 {
		t.Fatalf("again: %v", got)
	}
	hs.Restart()
	p := alice.Must("GET", "/presence/"+bob.UserID+"/status", nil)
	if p.At("presence").String() != "online" || p.At("status_msg").String() != "here" || !p.Exists("last_active_ago") || p.At("currently_active").Bool() {
		t.Fatalf("after a restart: %s", p.Text())
	}
	bob.Must("PUT", "/user/"+bob.UserID+"/account_data/m.ignored_user_list", object{"ignored_users": object{alice.UserID: object{}}})
	bob.Sync()
	alice.Must("PUT", "/presence/"+alice.UserID+"/status", object{"presence": "unavailable", "status_msg": "away"})
	if got := presenceIn(bob.Sync()); len(got) != 0 {
		t.Fatalf("of whom bob ignores: %v", got)
	}
}
