package notices_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"

	"holdfast/homeserver"
	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/notices"
	"holdfast/store"
)

type obj = hstest.Obj

func send(t *testing.T, hs *hstest.HS, to, body string) string {
	t.Helper()
	content, _ := json.Marshal(obj{"msgtype": "m.text", "body": body})
	id, err := hs.Notices.Send(context.Background(), notices.Notice{UserID: to, Content: content})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// tagged is the only room of an answer that is marked as that of notices.
func tagged(t *testing.T, v hstest.Value) (roomID string, r hstest.Value) {
	t.Helper()
	joined, _ := v.At("rooms", "join").V.(map[string]any)
	for id := range joined {
		for _, e := range v.At("rooms", "join", id, "account_data", "events").List() {
			if e.At("type").String() == "m.tag" && e.At("content", "tags").Exists(notices.Tag) {
				if roomID != "" {
					t.Fatalf("two rooms: %s", v.Text())
				}
				roomID, r = id, v.At("rooms", "join", id)
			}
		}
	}
	if roomID == "" {
		t.Fatalf("no room of notices: %s", v.Text())
	}
	return roomID, r
}

func TestAskedFirst(t *testing.T) {
	hs := hstest.New(t, func(o *homeserver.Options) {
		o.Notices = func() notices.Settings { return notices.Settings{Name: "City", RoomName: "News", Ask: true} }
	})
	alice := hs.Login(t, "alice")
	// Who takes no invitations takes this one.
	alice.Must("PUT", "/user/"+alice.UserID+"/account_data/m.invite_permission_config", obj{"default_action": "block"})
	alice.Sync()
	send(t, hs, alice.UserID, "one")
	v := alice.SyncUntil(func(v hstest.Value) bool { return v.At("rooms", "invite").V != nil })
	invited, _ := v.At("rooms", "invite").V.(map[string]any)
	if len(invited) != 1 {
		t.Fatalf("%s", v.Text())
	}
	var roomID string
	for roomID = range invited {
	}
	room := hstest.Room(roomID)
	alice.Fails(403, mx.CannotLeaveNotices, "POST", room+"/leave", obj{})
	alice.Fails(403, mx.CannotLeaveNotices, "PUT", room+"/state/m.room.member/"+alice.UserID, obj{"membership": "leave"})
	send(t, hs, alice.UserID, "two") // she is not invited twice
	alice.Join(roomID)
	id, _ := tagged(t, alice.Sync())
	if id != roomID {
		t.Error("another room")
	}
	var texts []string
	for _, e := range alice.Must("GET", room+"/messages?dir=f", nil).At("chunk").List() {
		if b := e.At("content", "body").String(); b != "" {
			texts = append(texts, b)
		}
	}
	if len(texts) != 2 || texts[0] != "one" || texts[1] != "two" {
		t.Error(texts)
	}
	alice.Fails(403, mx.CannotLeaveNotices, "POST", room+"/leave", obj{})
}

// The rules of the administrators reach rooms that there are, with the next notice.
func TestRoomFollowsTheRules(t *testing.T) {
	var mu sync.Mutex
	set := notices.Settings{Name: "City", RoomName: "News", Topic: "Told by us", Ask: true}
	rules := func(change func(s *notices.Settings)) {
		mu.Lock()
		defer mu.Unlock()
		change(&set)
	}
	hs := hstest.New(t, func(o *homeserver.Options) {
		o.Notices = func() notices.Settings { mu.Lock(); defer mu.Unlock(); return set }
	})
	alice := hs.Login(t, "alice")
	me := mx.UserID(notices.Localpart, hstest.Server)
	send(t, hs, alice.UserID, "one")
	rules(func(s *notices.Settings) { s.Ask = false })
	send(t, hs, alice.UserID, "two")
	roomID, _ := tagged(t, alice.Sync()) // not asked any more
	room := hstest.Room(roomID)
	state := func(typ, key, field, want string) {
		t.Helper()
		if got := alice.Must("GET", room+"/state/"+typ+"/"+key, nil).At(field).String(); got != want {
			t.Errorf("%s: %q, want %q", typ, got, want)
		}
	}
	state("m.room.member", me, "displayname", "City")
	state("m.room.name", "", "name", "News")
	state("m.room.topic", "", "topic", "Told by us")
	events := func() int { return len(alice.Must("GET", room+"/messages?dir=f&limit=1000", nil).At("chunk").List()) }
	before := events()
	send(t, hs, alice.UserID, "three")
	if n := events(); n != before+1 {
		t.Errorf("%d events for one notice", n-before)
	}
	rules(func(s *notices.Settings) {
		*s = notices.Settings{Name: "Town", Avatar: "mxc://example.org/a", RoomName: "Board", RoomAvatar: "mxc://example.org/b", Topic: "Else", Reply: true}
	})
	if p := alice.Must("GET", "/profile/"+me, nil); p.At("displayname").String() != "Town" || p.At("avatar_url").String() != "mxc://example.org/a" {
		t.Errorf("profile: %s", p.Text())
	}
	alice.Fails(403, mx.Forbidden, "PUT", room+"/send/m.room.message/1", obj{"msgtype": "m.text", "body": "hello?"})
	send(t, hs, alice.UserID, "four")
	state("m.room.member", me, "displayname", "Town")
	state("m.room.member", me, "avatar_url", "mxc://example.org/a")
	state("m.room.name", "", "name", "Board")
	state("m.room.avatar", "", "url", "mxc://example.org/b")
	state("m.room.topic", "", "topic", "Else")
	alice.Send(roomID, "hello?") // may reply
	bob := hs.Login(t, "bob")
	alice.Fails(403, mx.Forbidden, "POST", room+"/invite", obj{"user_id": bob.UserID})
	alice.Fails(403, mx.Forbidden, "PUT", room+"/state/org.matrix.msc3401.call.member/x", obj{})
	rules(func(s *notices.Settings) { s.Reply, s.RoomAvatar, s.Topic = false, "", "" })
	send(t, hs, alice.UserID, "five")
	alice.Fails(403, mx.Forbidden, "PUT", room+"/send/m.room.message/2", obj{"msgtype": "m.text", "body": "hello?"})
	state("m.room.avatar", "", "url", "")
	state("m.room.topic", "", "topic", "")

	// A tag that was taken away comes back, and the room is the same after a restart.
	alice.Must("DELETE", "/user/"+alice.UserID+room+"/tags/"+notices.Tag, nil)
	hs.Restart()
	send(t, hs, alice.UserID, "six")
	if id, _ := tagged(t, alice.SyncFrom("")); id != roomID {
		t.Error("another room after the restart")
	}
}

// Notices to one person from everywhere at once make one room, and what has the same
// transaction ID is sent once.
func TestAtOnce(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	var wait sync.WaitGroup
	for i := range 20 {
		txn := ""
		if i%2 == 0 {
			txn = "same"
		}
		wait.Go(func() {
			if _, err := hs.Notices.Send(context.Background(), notices.Notice{UserID: alice.UserID, Content: []byte(`{"body":"x","msgtype":"m.text"}`), By: "root", Txn: txn}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	roomID, _ := tagged(t, alice.Sync())
	n := 0
	for _, e := range alice.Must("GET", hstest.Room(roomID)+"/messages?dir=b&limit=100", nil).At("chunk").List() {
		if e.At("type").String() == "m.room.message" {
			n++
		}
	}
	if n != 11 {
		t.Errorf("%d messages, want 11", n)
	}
}

// A name that is somebody's account already speaks for nobody else.
func TestNameIsTaken(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	hs.Login(t, notices.Localpart)
	_, err := hs.Notices.Send(context.Background(), notices.Notice{UserID: alice.UserID, Content: []byte(`{"body":"x"}`)})
	var e *mx.Error
	if !errors.As(err, &e) || e.Code != mx.Forbidden {
		t.Fatal(err)
	}
}

// Nobody else's room becomes one of notices by what its create event claims.
func TestClaimedRoom(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	roomID := bob.CreateRoom(obj{"preset": "public_chat", "creation_content": obj{"holdfast.notices_for": alice.UserID}})
	alice.Join(roomID)
	send(t, hs, alice.UserID, "told")
	if id, _ := tagged(t, alice.Sync()); id == roomID {
		t.Error("a foreign room was taken for the room of notices")
	}
	alice.Leave(roomID)
	err := hs.DB.Read(context.Background(), func(q store.Querier) error {
		if whose, err := hs.Rooms.NoticesOf(q, roomID); whose != "" || err != nil {
			t.Errorf("%q, %v", whose, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Rooms of notices are of the version that new rooms have, whichever that is.
func TestVersions(t *testing.T) {
	for _, version := range []string{"1", "3", "6", "10", "12"} {
		t.Run(version, func(t *testing.T) {
			var mu sync.Mutex
			set := notices.Settings{Name: "City", RoomName: "News"}
			hs := hstest.New(t, func(o *homeserver.Options) {
				o.RoomVersion = version
				o.Notices = func() notices.Settings { mu.Lock(); defer mu.Unlock(); return set }
			})
			alice := hs.Login(t, "alice")
			send(t, hs, alice.UserID, "one")
			roomID, _ := tagged(t, alice.Sync())
			room := hstest.Room(roomID)
			if got := alice.Must("GET", room+"/state/m.room.create/", nil).At("room_version").String(); got != version {
				t.Errorf("version %q", got)
			}
			alice.Fails(403, mx.CannotLeaveNotices, "POST", room+"/leave", obj{})
			alice.Fails(403, mx.Forbidden, "PUT", room+"/send/m.room.message/1", obj{"msgtype": "m.text", "body": "hello?"})
			mu.Lock()
			set.Reply, set.RoomName = true, "Board"
			mu.Unlock()
			send(t, hs, alice.UserID, "two")
			alice.Send(roomID, "hello?")
			if got := alice.Must("GET", room+"/state/m.room.name/", nil).At("name").String(); got != "Board" {
				t.Errorf("name %q", got)
			}
		})
	}
}
