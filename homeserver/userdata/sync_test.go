package userdata_test

import (
	"testing"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

func content(events []hstest.Value, typ string) hstest.Value {
	for _, e := range events {
		if e.At("type").String() == typ {
			return e.At("content")
		}
	}
	return hstest.Value{}
}

// TestSecretsEcho: clients store their keys' secrets as account data and wait for
// the echo before they go on.
func TestSecretsEcho(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, other := hs.Login(t, "alice"), hs.Login(t, "alice")
	if c := content(alice.Sync().At("account_data", "events").List(), mx.PushRules); !c.Exists("global") {
		t.Fatal("a first sync brings the push rules: ", alice.SyncFrom("").Text())
	}
	other.Sync()
	base := "/user/" + alice.UserID + "/account_data/"
	for _, typ := range []string{"m.secret_storage.key.abc", "m.secret_storage.default_key", "m.cross_signing.master", "m.megolm_backup.v1", "m.secret_storage.default_key"} {
		v := alice.Woken(func() { alice.Must("PUT", base+typ, object{"encrypted": object{"k": object{"iv": "x"}}}) })
		if c := content(v.At("account_data", "events").List(), typ); c.At("encrypted", "k", "iv").String() != "x" {
			t.Fatalf("%s: %s", typ, v.Text())
		}
	}
	if got := other.Sync().At("account_data", "events").List(); len(got) != 4 {
		t.Fatal("the other device gets each once, as it is now:", len(got))
	}
	hs.Restart()
	if c := content(alice.SyncFrom("").At("account_data", "events").List(), "m.cross_signing.master"); c.V == nil {
		t.Fatal("gone after a restart")
	}
}

func TestRoomDataThroughSync(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(object{"preset": "public_chat"})
	bob.Join(room)
	bob.Sync()
	alice.Sync()
	v := alice.Woken(func() {
		alice.Must("PUT", "/user/"+alice.UserID+hstest.Room(room)+"/tags/m.favourite", object{"order": 0.5})
	})
	if c := content(v.Joined(room).At("account_data", "events").List(), mx.Tag); !c.At("tags").Exists("m.favourite") {
		t.Fatal(v.Text())
	}
	if got := bob.Sync(); got.Joined(room).V != nil {
		t.Fatal("bob hears of alice's tags:", got.Text())
	}
	v = alice.Woken(func() {
		alice.Must("PUT", "/pushrules/global/room/"+room, object{"actions": []any{}})
	})
	if c := content(v.At("account_data", "events").List(), mx.PushRules); c.At("global", "room", "0", "rule_id").String() != room {
		t.Fatal(v.Text())
	}
	if c := content(alice.SyncFrom("").Joined(room).At("account_data", "events").List(), mx.Tag); !c.At("tags").Exists("m.favourite") {
		t.Fatal("a first sync lacks the tags")
	}
}

func TestProfileFansOut(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	one, two := alice.CreateRoom(object{"preset": "public_chat"}), alice.CreateRoom(object{"preset": "public_chat"})
	bob.Join(one)
	bob.Join(two)
	bob.Leave(two)
	alice.Sync()
	v := alice.Woken(func() { bob.Must("PUT", "/profile/"+bob.UserID+"/displayname", object{"displayname": "Robert"}) })
	e := hstest.Find(v.Timeline(one), mx.RoomMember, bob.UserID)
	if e.At("content", "displayname").String() != "Robert" || e.At("content", "membership").String() != "join" {
		t.Fatal(v.Text())
	}
	if v.Joined(two).V != nil {
		t.Fatal("a room that bob left got an event")
	}
	three := alice.CreateRoom(object{"preset": "public_chat"})
	alice.Sync()
	v = alice.Woken(func() { bob.Join(three) })
	if e := hstest.Find(v.Timeline(three), mx.RoomMember, bob.UserID); e.At("content", "displayname").String() != "Robert" {
		t.Fatal("a new member event has the old name:", v.Text())
	}
	if got := alice.Must("POST", "/user_directory/search", object{"search_term": "robert"}); got.At("results", "0", "user_id").String() != bob.UserID {
		t.Fatal(got.Text())
	}
}

func TestClosedAccountLeavesNothing(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(object{"preset": "public_chat"})
	bob.Join(room)
	id := alice.Send(room, "hello")
	bob.Must("POST", hstest.Room(room)+"/receipt/m.read/"+id, object{})
	bob.Must("PUT", "/user/"+bob.UserID+"/account_data/a.b", object{"x": 1})
	bob.Must("POST", "/room_keys/version", object{"algorithm": "x", "auth_data": object{}})
	if err := hs.LeaveAll(t.Context(), bob.UserID); err != nil {
		t.Fatal(err)
	}
	if got := alice.Must("GET", hstest.Room(room)+"/joined_members", nil); got.At("joined").Exists(bob.UserID) {
		t.Fatal("still in the room")
	}
	alice.Fails(404, mx.NotFound, "GET", "/profile/"+bob.UserID, nil)
	bob.Fails(404, mx.NotFound, "GET", "/user/"+bob.UserID+"/account_data/a.b", nil)
	bob.Fails(404, mx.NotFound, "GET", "/room_keys/version", nil)
	bob.Fails(404, mx.NotFound, "GET", "/devices/"+bob.DeviceID, nil)
	if got := alice.Must("POST", "/user_directory/search", object{"search_term": "bob"}); len(got.At("results").List()) != 0 {
		t.Fatal(got.Text())
	}
	hs.Login(t, "bob") // opened again
	if got := alice.Must("GET", "/profile/"+bob.UserID, nil); got.At("displayname").String() != "bob" {
		t.Fatal(got.Text())
	}
}
