package api

import (
	"testing"
)

// Threads that people follow: MSC4306 and MSC4308, as the program answers them.
func TestThreadSubscriptions(t *testing.T) {
	alice, bob := newUsers(t)
	r := alice.public(bob)
	root := alice.say(r, "root")
	reply := func(text string, mentions ...string) string {
		return alice.event(r, "m.room.message", obj{"msgtype": "m.text", "body": text, "m.mentions": obj{"user_ids": mentions},
			"m.relates_to": obj{"rel_type": "m.thread", "event_id": root}})
	}
	if !nobody(t).ok("GET", "/_matrix/client/versions", nil).At("unstable_features", "org.matrix.msc4306").Bool() {
		t.Error("thread subscriptions are not announced")
	}
	const list = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions?dir=b"
	at := "/_matrix/client/unstable/io.element.msc4306" + room(r) + "/thread/" + esc(root) + "/subscription"
	unread := func(want int) {
		t.Helper()
		v := bob.ok("GET", "/sync?filter="+esc(`{"room":{"timeline":{"unread_thread_notifications":true}}}`), nil).At("rooms", "join", r, "unread_thread_notifications", root, "notification_count")
		if n := max(0, v.Int()); n != want {
			t.Errorf("%d unread in the thread, want %d", n, want)
		}
	}
	first := reply("one")
	unread(1) // bob's clients do not know subscriptions yet
	bob.fails(404, "M_NOT_FOUND", "GET", at, nil)
	same(t, "nobody's threads", bob.ok("GET", list, nil).Text(), "{}")
	unread(0)
	mention := reply("two", bob.id)
	unread(1)
	bob.fails(400, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD", "PUT", at, obj{"automatic": root})
	bob.ok("PUT", at, obj{"automatic": mention})
	same(t, "the subscription", bob.ok("GET", at, nil).Text(), `{"automatic":true}`)
	unread(2)
	bob.ok("DELETE", at, nil)
	bob.fails(409, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION", "PUT", at, obj{"automatic": first})
	unread(1)
	bob.ok("PUT", at, obj{})
	same(t, "the subscription", bob.ok("GET", at, nil).Text(), `{"automatic":false}`)

	// Sliding sync in both forms tells another device.
	phone := bob.login()
	ext := obj{"extensions": obj{"io.element.msc4308.thread_subscriptions": obj{"enabled": true}}}
	for _, path := range []string{"/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", "/_matrix/client/v4/sync"} {
		v := phone.ok("POST", path, ext).At("extensions", "io.element.msc4308.thread_subscriptions", "subscribed", r, root)
		if v.At("automatic").Bool() || v.At("bump_stamp").Int() <= 0 {
			t.Errorf("%s: %s", path, v.Text())
		}
	}
	bob.leave(r)
	if v := bob.ok("GET", list, nil); !v.At("unsubscribed", r).Exists(root) || v.Exists("subscribed") {
		t.Errorf("after leaving: %s", v.Text())
	}
	bob.fails(400, "M_INVALID_PARAM", "PUT", "/pushrules/global/postcontent/mine", obj{"actions": []string{"notify"}})
	rule := "/pushrules/global/postcontent/.io.element.msc4306.rule.unsubscribed_thread"
	bob.ok("PUT", rule+"/enabled", obj{"enabled": false})
	if v := bob.ok("GET", rule, nil); v.At("enabled").Bool() || v.At("conditions", "0", "kind").String() != "io.element.msc4306.thread_subscription" {
		t.Errorf("%s", v.Text())
	}
}
