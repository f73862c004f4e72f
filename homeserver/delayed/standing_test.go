package delayed_test

import (
	"testing"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

// TestSuspended: what somebody wanted to say later is not said once the account is
// suspended or locked, by whoever has it sent; the leave of a call is sent all the same.
func TestSuspended(t *testing.T) {
	type obj = map[string]any
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat", "power_level_content_override": obj{"events": obj{"org.matrix.msc3401.call.member": 0}}})
	bob.Join(room)
	const call = "/state/org.matrix.msc3401.call.member/_bob"
	bob.Must("PUT", hstest.Room(room)+call, obj{"application": "m.call"})
	later := func(path string, content obj) string {
		t.Helper()
		return bob.Must("PUT", hstest.Room(room)+path+"?org.matrix.msc4140.delay=3600000", content).At("delay_id").String()
	}
	said, ended := later("/send/m.room.message/"+hstest.Txn(), obj{"msgtype": "m.text", "body": "x"}), later(call, obj{})
	send := func(id string) hstest.Answer {
		return alice.Do("POST", "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/"+id+"/send", obj{})
	}
	hs.Suspend(bob.UserID, true)
	if a := send(said); a.Status != 403 || a.JSON.At("errcode").String() != string(mx.UserSuspended) {
		t.Errorf("a message of a suspended user: %d %s", a.Status, a.Body)
	}
	hs.Lock(bob.UserID, true)
	if a := send(said); a.Status != 401 || a.JSON.At("errcode").String() != string(mx.UserLocked) {
		t.Errorf("a message of a locked user: %d %s", a.Status, a.Body)
	}
	if a := send(ended); a.Status != 200 {
		t.Errorf("the leave of a call: %d %s", a.Status, a.Body)
	}
	if got := alice.Must("GET", hstest.Room(room)+call, nil); len(got.Keys()) != 0 {
		t.Errorf("the locked user is still in the call: %s", got.Text())
	}
	hs.Lock(bob.UserID, false)
	if a := send(said); a.Status != 200 {
		t.Errorf("after it was unlocked: %d %s", a.Status, a.Body)
	}
}
