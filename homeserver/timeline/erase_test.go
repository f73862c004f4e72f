package timeline_test

import (
	"net/url"
	"strings"
	"testing"

	"holdfast/homeserver/hstest"
)

// What somebody wrote who wants to be forgotten: those who were there keep it, on
// every path; those who come later get it redacted; the room keeps its name.
func TestErase(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat", "name": "Eagle's nest"})
	bob.Join(room)
	alice.Must("PUT", "/profile/"+alice.UserID+"/displayname", obj{"displayname": "Alice Secretname"})
	root := alice.Send(room, "the eagle has landed")
	alice.SendEvent(room, "m.room.message", obj{"msgtype": "m.text", "body": "* x", "m.new_content": obj{"msgtype": "m.text", "body": "an eaglet"},
		"m.relates_to": obj{"rel_type": "m.replace", "event_id": root}})
	thread := bob.Send(room, "a thread of mine")
	alice.SendEvent(room, "m.room.message", obj{"msgtype": "m.text", "body": "eagles in a thread", "m.relates_to": obj{"rel_type": "m.thread", "event_id": thread}})
	gone := alice.Send(room, "gone")
	alice.Must("PUT", hstest.Room(room)+"/redact/"+url.PathEscape(gone)+"/"+hstest.Txn(), obj{"reason": "eagle in a reason"})
	alice.Leave(room)
	if err := hs.Timeline.Erase(t.Context(), alice.UserID); err != nil {
		t.Fatal(err)
	}
	carol := hs.Login(t, "carol")
	carol.Join(room)
	// Bob leaves and comes again: he saw it all.
	bob.Leave(room)
	bob.Join(room)

	paths := []string{
		"/messages?dir=b&limit=100", "/event/" + url.PathEscape(root), "/context/" + url.PathEscape(root) + "?limit=50", "/state", "/members",
	}
	check := func(when string) {
		t.Helper()
		read := func(c *hstest.Client) string {
			var all strings.Builder
			for _, p := range paths {
				all.Write(c.Do("GET", hstest.Room(room)+p, nil).Body)
			}
			for _, p := range []string{"/relations/" + url.PathEscape(root), "/relations/" + url.PathEscape(thread), "/threads"} {
				all.Write(c.Do("GET", "/_matrix/client/v1"+hstest.Room(room)+p, nil).Body)
			}
			all.Write(c.Do("GET", "/sync?filter="+url.QueryEscape(`{"room":{"timeline":{"limit":100}}}`), nil).Body)
			return all.String()
		}
		old, late := read(bob), read(carol)
		for _, text := range []string{"the eagle has landed", "an eaglet", "eagles in a thread", "eagle in a reason", "Alice Secretname"} {
			if !strings.Contains(old, text) {
				t.Errorf("%s: who was there misses %q", when, text)
			}
			if strings.Contains(late, text) {
				t.Errorf("%s: who came later sees %q", when, text)
			}
		}
		if !strings.Contains(late, "Eagle's nest") || !strings.Contains(late, "a thread of mine") || !strings.Contains(late, root) {
			t.Errorf("%s: who came later misses what is not alice's", when)
		}
	}
	check("at once")
	hs.Restart()
	check("after a restart")
}
