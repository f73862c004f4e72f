package threads_test

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
	"holdfast/store"
)

type obj = hstest.Obj

const (
	unstable = "/_matrix/client/unstable/io.element.msc4306"
	listing  = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions"
)

func at(room, root string) string {
	return unstable + hstest.Room(room) + "/thread/" + url.PathEscape(root) + "/subscription"
}

func reply(c *hstest.Client, room, root, text string, mentions ...string) string {
	return c.SendEvent(room, mx.RoomMessage, obj{"msgtype": "m.text", "body": text, "m.mentions": obj{"user_ids": mentions},
		"m.relates_to": obj{"rel_type": "m.thread", "event_id": root}})
}

// state is "manual", "automatic" or "none", as GET tells it.
func state(t *testing.T, c *hstest.Client, room, root string) string {
	t.Helper()
	a := c.Do("GET", at(room, root), nil)
	switch strings.TrimSpace(string(a.Body)) {
	case `{"automatic":true}`:
		return "automatic"
	case `{"automatic":false}`:
		return "manual"
	}
	if a.Status != 404 || a.JSON.At("errcode").String() != "M_NOT_FOUND" {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	return "none"
}

func want(t *testing.T, c *hstest.Client, room, root, state_ string) {
	t.Helper()
	if got := state(t, c, room, root); got != state_ {
		t.Errorf("the subscription of %s is %q, want %q", c.UserID, got, state_)
	}
}

// count is what is unread in a room: outside threads, and in a thread.
func count(c *hstest.Client, room, thread string) [2]int {
	v := c.SyncFrom("", `filter={"room":{"timeline":{"unread_thread_notifications":true}}}`).Joined(room)
	n := v.At("unread_notifications", "notification_count").Int()
	if !v.At("unread_thread_notifications").Exists(thread) {
		return [2]int{n, 0}
	}
	return [2]int{n, v.At("unread_thread_notifications", thread, "notification_count").Int()}
}

func TestSubscriptions(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	root, other := alice.Send(room, "root"), alice.Send(room, "other")
	first := reply(alice, room, root, "one")
	elsewhere := reply(alice, room, other, "elsewhere")

	want(t, bob, room, root, "none")
	put := func(body obj) { t.Helper(); bob.Must("PUT", at(room, root), body) }
	put(obj{"automatic": first})
	want(t, bob, room, root, "automatic")
	want(t, alice, room, root, "none")
	put(obj{})
	want(t, bob, room, root, "manual")
	put(obj{"automatic": first}) // what the user chose stands
	want(t, bob, room, root, "manual")
	if a := bob.Do("DELETE", at(room, root), nil); a.Status != 200 || string(a.Body) != "{}\n" && string(a.Body) != "{}" {
		t.Errorf("%d %q", a.Status, a.Body)
	}
	want(t, bob, room, root, "none")
	bob.Must("DELETE", at(room, root), nil)

	// What was there when the user unsubscribed does not bring the subscription back.
	second := reply(alice, room, root, "two")
	bob.Must("DELETE", at(room, root), nil)
	third := reply(alice, room, root, "three", bob.UserID)
	for _, old := range []string{first, second} {
		bob.Fails(409, mx.ConflictingUnsubscription, "PUT", at(room, root), obj{"automatic": old})
		want(t, bob, room, root, "none")
	}
	put(obj{"automatic": third})
	want(t, bob, room, root, "automatic")
	bob.Must("DELETE", at(room, root), nil)
	put(obj{})
	want(t, bob, room, root, "manual")
	// Also where they had never been subscribed.
	bob.Must("DELETE", at(room, other), nil)
	bob.Fails(409, mx.ConflictingUnsubscription, "PUT", at(room, other), obj{"automatic": elsewhere})
	// An edit of what is in the thread is in it, too.
	edit := alice.SendEvent(room, mx.RoomMessage, obj{"msgtype": "m.text", "body": "* three", "m.new_content": obj{"msgtype": "m.text", "body": "3"},
		"m.relates_to": obj{"rel_type": "m.replace", "event_id": third}})
	alice.Must("PUT", at(room, root), obj{"automatic": edit})

	for name, id := range map[string]string{"the root": root, "another thread's": elsewhere, "the main timeline's": other, "nobody's": "$x", "empty": "", "long": "$" + strings.Repeat("x", 3000)} {
		a := bob.Do("PUT", at(room, other), obj{"automatic": id})
		if name == "another thread's" {
			continue // refused above for another reason
		}
		if a.Status != 400 || a.JSON.At("errcode").String() != "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD" {
			t.Errorf("%s event: %d %s", name, a.Status, a.Body)
		}
	}
	bob.Fails(400, mx.NotInThread, "PUT", at(room, root), obj{"automatic": elsewhere})
	for _, body := range []string{`{"automatic":true}`, `{"automatic":["$x"]}`, `[]`, `{"automatic":5}`} {
		if a := bob.Do("PUT", at(room, root), []byte(body)); a.Status != 400 || a.JSON.At("errcode").String() != "M_BAD_JSON" {
			t.Errorf("%s: %d %s", body, a.Status, a.Body)
		}
	}
	bob.Fails(400, mx.NotJSON, "PUT", at(room, root), []byte(`{`))
	bob.Fails(413, mx.TooLarge, "PUT", at(room, root), obj{"automatic": strings.Repeat("x", 5000)})
	bob.Must("PUT", at(room, root), []byte(`{"automatic":null}`))
	bob.Fails(405, mx.Unrecognized, "POST", at(room, root), obj{})
}

func TestWhoMay(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	room := alice.CreateRoom(obj{"preset": "private_chat", "invite": []string{bob.UserID, carol.UserID}, "initial_state": []obj{
		{"type": mx.RoomHistoryVisibility, "content": obj{"history_visibility": "joined"}}}})
	hidden := alice.Send(room, "before bob")
	bob.Join(room)
	root := alice.Send(room, "root")
	own := alice.CreateRoom(nil)
	elsewhere := alice.Send(own, "of another room")
	for what, c := range map[string]struct {
		who  *hstest.Client
		path string
	}{
		"a room that is not there":   {bob, at("!nowhere:example.org", root)},
		"an event that is none":      {bob, at(room, "$nothing")},
		"an event of another room":   {alice, at(room, elsewhere)},
		"another's room":             {bob, at(own, elsewhere)},
		"somebody who is invited":    {carol, at(room, root)},
		"what is hidden from them":   {bob, at(room, hidden)},
		"what is no event ID at all": {bob, at(room, "x y")},
	} {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			a := c.who.Do(method, c.path, obj{})
			if method != "PUT" {
				a = c.who.Do(method, c.path, nil)
			}
			if a.Status != 404 || a.JSON.At("errcode").String() != "M_NOT_FOUND" {
				t.Errorf("%s of %s: %d %s", method, what, a.Status, a.Body)
			}
		}
	}
	cause := reply(alice, room, root, "hello")
	bob.Must("PUT", at(room, root), obj{"automatic": cause})

	// The end of a membership ends subscriptions, and nothing brings them back.
	other := alice.Send(room, "other")
	bob.Must("PUT", at(room, other), obj{})
	bob.Leave(room)
	want(t, bob, room, root, "none")
	bob.Fails(404, mx.NotFound, "PUT", at(room, root), obj{})
	changes := bob.Must("GET", listing+"?dir=b", nil)
	if n := len(changes.At("unsubscribed", room).Keys()); n != 2 || changes.Exists("subscribed") {
		t.Errorf("after leaving: %s", changes.Text())
	}
	alice.Invite(room, bob)
	bob.Join(room)
	bob.Fails(409, mx.ConflictingUnsubscription, "PUT", at(room, root), obj{"automatic": cause})
	want(t, bob, room, other, "none")
	bob.Must("PUT", at(room, other), obj{})
	alice.Must("POST", hstest.Room(room)+"/kick", obj{"user_id": bob.UserID})
	alice.Invite(room, bob)
	bob.Join(room)
	want(t, bob, room, other, "none")
	// A new name is no end.
	bob.Must("PUT", at(room, other), obj{})
	bob.Must("PUT", "/profile/"+bob.UserID+"/displayname", obj{"displayname": "Bob"})
	want(t, bob, room, other, "manual")
}

func rows(t *testing.T, hs *hstest.HS) (n int) {
	t.Helper()
	err := hs.DB.Read(context.Background(), func(q store.Querier) error {
		return q.QueryRow(`SELECT (SELECT count(*) FROM thread_subscriptions) + (SELECT count(*) FROM thread_subscribers)`).Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Nothing is left of a user whose account is closed, and of a room that is deleted.
func TestErasure(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	root := alice.Send(room, "root")
	alice.Must("PUT", at(room, root), obj{})
	bob.Must("PUT", at(room, root), obj{})
	if err := hs.LeaveAll(context.Background(), bob.UserID); err != nil {
		t.Fatal(err)
	}
	if n := rows(t, hs); n != 2 {
		t.Errorf("%d rows, want alice's two", n)
	}
	if hs.Threads.Uses(bob.UserID) {
		t.Error("bob is remembered")
	}
	admin := hs.Admin(t, "root")
	task := admin.Must("DELETE", "/_synapse/admin/v2/rooms/"+url.PathEscape(room), obj{"purge": true}).At("delete_id").String()
	for admin.Must("GET", "/_synapse/admin/v2/rooms/delete_status/"+task, nil).At("status").String() != "complete" {
	}
	if n := rows(t, hs); n != 1 { // that alice uses subscriptions
		t.Errorf("%d rows are left of the room", n)
	}
}

// Whom a message in a thread notifies, as it is counted, listed and told to clients.
func TestCounts(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	carol := hs.Login(t, "carol")
	carol.Join(room)
	root, other := alice.Send(room, "root"), alice.Send(room, "other")
	last := reply(alice, room, root, "one")
	counts := func(want [2]int) {
		t.Helper()
		if got := count(bob, room, root); got != want {
			t.Errorf("%v unread, want %v", got, want)
		}
	}
	counts([2]int{2, 1}) // no client of bob's knows subscriptions
	bob.Since = bob.SyncFrom("").At("next_batch").String()

	// The first use of them: threads that are not subscribed to are quiet.
	bob.Must("PUT", at(room, other), obj{})
	counts([2]int{2, 0})
	if v := bob.Sync().Joined(room); v.At("unread_notifications", "notification_count").Int() != 2 {
		t.Errorf("the next sync does not tell: %s", v.Text())
	}
	reply(alice, room, root, "two")
	counts([2]int{2, 0})
	mention := reply(alice, room, root, "three", bob.UserID)
	counts([2]int{2, 1})
	encrypted := alice.SendEvent(room, "m.room.encrypted", obj{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x", "m.relates_to": obj{"rel_type": "m.thread", "event_id": root}})
	alice.SendEvent(room, "org.example.other", obj{"m.relates_to": obj{"rel_type": "m.thread", "event_id": other}}) // of no type that notifies elsewhere
	counts([2]int{2, 1})

	// Subscribed: everything in the thread counts, whatever the room's settings are.
	rule := "/pushrules/global/room/" + url.PathEscape(room)
	bob.Must("PUT", rule, obj{"actions": []any{}})
	bob.Must("PUT", at(room, root), obj{"automatic": mention})
	counts([2]int{0, 4}) // all anew, by the rules as they are now
	if got := count(bob, room, other); got[1] != 1 {
		t.Errorf("%v in the other thread", got)
	}
	listed := []string{}
	for _, n := range bob.Must("GET", "/notifications", nil).At("notifications").List() {
		listed = append(listed, n.At("event", "event_id").String())
	}
	if !slices.Contains(listed, last) || !slices.Contains(listed, encrypted) {
		t.Errorf("the list of notifications has %q", listed)
	}
	if got := count(carol, room, root); got != [2]int{2, 4} { // as ever; messages and encrypted ones
		t.Errorf("carol has %v unread", got)
	}

	// The rules can be changed, but none can be added.
	kind := "/pushrules/global/postcontent/"
	sub := kind + ".io.element.msc4306.rule.subscribed_thread"
	bob.Must("PUT", sub+"/actions", obj{"actions": []any{"notify", obj{"set_tweak": "highlight"}}})
	bob.Must("PUT", sub+"/enabled", obj{"enabled": false})
	if v := bob.Must("GET", sub, nil); v.At("enabled").Bool() || len(v.At("actions").List()) != 2 {
		t.Errorf("%s", v.Text())
	}
	reply(alice, room, root, "muted with the room")
	counts([2]int{0, 4})
	bob.Must("PUT", sub+"/enabled", obj{"enabled": true})
	reply(alice, room, root, "loud")
	if v := bob.SyncFrom("", `filter={"room":{"timeline":{"unread_thread_notifications":true}}}`).Joined(room); v.At("unread_thread_notifications", root, "highlight_count").Int() != 2 {
		t.Errorf("%s", v.Text())
	}
	for _, id := range []string{"mine", ".mine", ".io.element.msc4306.rule.subscribed_thread"} {
		bob.Fails(400, mx.InvalidParam, "PUT", kind+id, obj{"actions": []any{"notify"}, "conditions": []any{}})
	}
	bob.Fails(400, mx.InvalidParam, "DELETE", sub, nil)
	bob.Fails(404, mx.NotFound, "GET", kind+"mine", nil)
	// The condition is for everybody's own rules, too.
	bob.Must("PUT", "/pushrules/global/override/quiet", obj{"actions": []any{}, "conditions": []any{obj{"kind": "io.element.msc4306.thread_subscription", "subscribed": true}}})
	before := count(bob, room, root)
	reply(alice, room, root, "quiet")
	counts(before)
	bob.Must("DELETE", "/pushrules/global/override/quiet", nil)

	// Unsubscribed, what was counted for the subscription is taken back, also after a restart.
	bob.Must("DELETE", at(room, root), nil)
	counts([2]int{0, 1}) // the mention; the room is muted
	hs.Restart()
	counts([2]int{0, 1})
	reply(alice, room, root, "after the restart")
	counts([2]int{0, 1})
}

// All pages together are all changes, the last state of each.
func TestPages(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	var rooms []string
	want := map[string]string{}
	for range 3 {
		rooms = append(rooms, alice.CreateRoom(nil))
	}
	if v := alice.Must("GET", listing+"?dir=b", nil); v.Text() != "{}" {
		t.Errorf("of nobody's threads: %s", v.Text())
	}
	for i := range 130 {
		room := rooms[i%3]
		root := alice.Send(room, fmt.Sprint(i))
		alice.Must("PUT", at(room, root), obj{})
		want[room+root] = "subscribed"
		if i%4 == 0 {
			alice.Must("DELETE", at(room, root), nil)
			want[room+root] = "unsubscribed"
		}
		if i%10 == 0 {
			alice.Must("PUT", at(room, root), obj{})
			want[room+root] = "subscribed"
		}
	}
	for _, limit := range []int{0, 1, 7, 130, 1000} {
		got, stamps := map[string]string{}, map[int]bool{}
		query, pages := "?dir=b", 0
		if limit > 0 {
			query += fmt.Sprint("&limit=", limit)
		}
		for from := ""; ; pages++ {
			v := alice.Must("GET", listing+query+from, nil)
			n := 0
			for _, kind := range []string{"subscribed", "unsubscribed"} {
				for _, room := range v.At(kind).Keys() {
					for _, root := range v.At(kind, room).Keys() {
						x := v.At(kind, room, root)
						if got[room+root] != "" || stamps[x.At("bump_stamp").Int()] || x.Exists("automatic") != (kind == "subscribed") {
							t.Fatalf("%s %s: %s", kind, root, x.Text())
						}
						got[room+root], stamps[x.At("bump_stamp").Int()] = kind, true
						n++
					}
				}
			}
			if bound := min(limit, 100); bound > 0 && n > bound || n > 100 {
				t.Errorf("%d in a page of %d", n, limit)
			}
			if !v.Exists("end") {
				break
			}
			from = "&from=" + v.At("end").String()
		}
		if len(got) != len(want) {
			t.Errorf("limit %d: %d changes in %d pages, want %d", limit, len(got), pages, len(want))
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("limit %d: %s is %q, want %q", limit, k, got[k], v)
			}
		}
	}
	// to bounds them.
	token := alice.SyncFrom("").At("next_batch").String()
	root := alice.Send(rooms[0], "newest")
	alice.Must("PUT", at(rooms[0], root), obj{})
	if v := alice.Must("GET", listing+"?dir=b&to="+token, nil); len(v.At("subscribed").Keys()) != 1 || !v.At("subscribed", rooms[0]).Exists(root) || len(v.At("subscribed", rooms[0]).Keys()) != 1 || v.Exists("end") {
		t.Errorf("after a token: %s", v.Text())
	}
	for query, code := range map[string]mx.Code{"": mx.MissingParam, "?dir=f": mx.InvalidParam, "?dir=b&limit=0": mx.InvalidParam, "?dir=b&limit=-1": mx.InvalidParam, "?dir=b&limit=x": mx.InvalidParam,
		"?dir=b&from=x": mx.InvalidParam, "?dir=b&from=t1": mx.InvalidParam, "?dir=b&from=t-1_0": mx.InvalidParam, "?dir=b&to=x": mx.InvalidParam, "?dir=b&from=" + token: mx.InvalidParam} {
		alice.Fails(400, code, "GET", listing+query, nil)
	}
	alice.Must("GET", listing+"?dir=b&from=t9000000000000000000_0", nil) // of another life of the database
}
