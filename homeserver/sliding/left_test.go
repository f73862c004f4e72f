package sliding_test

import (
	"net/url"
	"strings"
	"testing"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

// What became of a room after somebody left is not theirs, though another invitation
// ended later; and receipts of whom they ignore do not come.
func TestLeftLongAgoAndIgnored(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat", "name": "open"})
	bob.Join(room)
	body := obj{"lists": obj{"l": obj{"ranges": [][]int{{0, 9}}, "timeline_limit": 5, "required_state": [][]string{{"*", "*"}}}},
		"extensions": obj{"receipts": obj{"enabled": true}}}
	pos := ""
	ask := func() hstest.Value {
		t.Helper()
		params := []string{"timeout=0"}
		if pos != "" {
			params = append(params, "pos="+pos)
		}
		a := slide(bob, body, params...)
		if a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		pos = a.JSON.At("pos").String()
		return a.JSON
	}
	ask()
	id := bob.Send(room, "read me")
	read := func() {
		alice.Must("POST", hstest.Room(room)+"/receipt/m.read/"+url.PathEscape(id), obj{})
	}
	read()
	if v := ask(); !strings.Contains(v.At("extensions", "receipts").Text(), alice.UserID) {
		t.Fatalf("a receipt: %s", v.Text())
	}
	bob.Must("PUT", "/user/"+bob.UserID+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{alice.UserID: obj{}}})
	id = bob.Send(room, "and me")
	read()
	if v := ask(); strings.Contains(v.At("extensions", "receipts").Text(), alice.UserID) {
		t.Fatalf("a receipt of whom bob ignores: %s", v.Text())
	}
	bob.Leave(room)
	ask()
	alice.SendState(room, mx.RoomName, "", obj{"name": "secret"})
	bob.Must("PUT", "/user/"+bob.UserID+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{}})
	alice.Invite(room, bob)
	bob.Leave(room)
	if r := ask().At("rooms", room); r.At("membership").String() != "leave" || strings.Contains(r.Text(), "secret") {
		t.Fatalf("after another invitation: %s", r.Text())
	}
}
