package api

import (
	"fmt"
	"net/url"
	"slices"
	"testing"
)

func TestMessages(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public(bob)
	alice.sync()
	for i := range 25 {
		alice.say(id, fmt.Sprint(i))
	}
	path := room(id) + "/messages?"
	v := alice.ok("GET", path+"dir=b", nil)
	same(t, "default limit", len(v.At("chunk").List()), 10)
	same(t, "newest first", bodies(v.At("chunk"))[:2], list{"24", "23"})
	if v.At("start").String() == "" || v.At("end").String() == "" {
		t.Errorf("tokens: %s", v.At("start").Text())
	}
	// To the beginning and back, in pages: everything once, in order.
	var all, forth []string
	from := ""
	for range 20 {
		v := alice.ok("GET", path+"dir=b&limit=7&from="+from, nil)
		all = append(all, bodies(v.At("chunk"))...)
		if from = v.At("end").String(); from == "" {
			break
		}
	}
	if len(all) != 25 || all[0] != "24" || all[24] != "0" || from != "" {
		t.Errorf("back: %v, end %q", all, from)
	}
	for range 20 {
		v := alice.ok("GET", path+"dir=f&limit=7&from="+from, nil)
		forth = append(forth, bodies(v.At("chunk"))...)
		if from = v.At("end").String(); from == "" {
			break
		}
	}
	slices.Reverse(all)
	if !slices.Equal(all, forth) {
		t.Errorf("forth: %v", forth)
	}
	// A token of a sync is a place: what came after it is ahead.
	v = alice.ok("GET", path+"dir=f&limit=100&from="+alice.since, nil)
	same(t, "since a sync", len(bodies(v.At("chunk"))), 25)
	same(t, "before a sync", bodies(alice.ok("GET", path+"dir=b&limit=100&from="+alice.since, nil).At("chunk")), list{})
	same(t, "to", len(bodies(alice.ok("GET", path+"dir=b&limit=100&to="+alice.since, nil).At("chunk"))), 25)
	f := func(s string) Value {
		return alice.ok("GET", path+"dir=b&limit=100&filter="+url.QueryEscape(s), nil).At("chunk")
	}
	same(t, "types", types(f(`{"types":["m.room.create"]}`)), list{"m.room.create"})
	same(t, "not_types", slices.Contains(types(f(`{"not_types":["m.room.message"]}`)), "m.room.message"), false)
	same(t, "senders", len(f(fmt.Sprintf(`{"senders":[%q]}`, bob.id)).List()), 1)
	same(t, "contains_url", len(f(`{"contains_url":true}`).List()), 0)
	for _, bad := range []string{"dir=x", "dir=b&limit=x", "dir=b&limit=-1", "dir=b&from=x", "dir=b&to=x"} {
		alice.fails(400, "M_INVALID_PARAM", "GET", path+bad, nil)
	}
	alice.fails(400, "M_NOT_JSON|M_BAD_JSON|M_INVALID_PARAM", "GET", path+"dir=b&filter=x", nil)
	alice.ok("GET", path+"dir=b&limit=100000", nil)
}

func TestContext(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public(bob)
	var ids []string
	for i := range 7 {
		ids = append(ids, alice.say(id, fmt.Sprint(i)))
	}
	v := bob.ok("GET", room(id)+"/context/"+esc(ids[3])+"?limit=4", nil)
	same(t, "before", bodies(v.At("events_before")), list{"2", "1"})
	same(t, "event", v.At("event", "content", "body"), "3")
	same(t, "after", bodies(v.At("events_after")), list{"4", "5"})
	same(t, "from start", bodies(bob.ok("GET", room(id)+"/messages?dir=b&limit=1&from="+v.At("start").String(), nil).At("chunk")), list{"0"})
	same(t, "from end", bodies(bob.ok("GET", room(id)+"/messages?dir=f&limit=1&from="+v.At("end").String(), nil).At("chunk")), list{"6"})
	if find(v.At("state"), "m.room.create", "").V == nil {
		t.Error("no state")
	}
	v = bob.ok("GET", room(id)+"/context/"+esc(ids[3])+"?limit=0", nil)
	same(t, "limit 0", len(v.At("events_before").List())+len(v.At("events_after").List()), 0)
	bob.fails(404, "M_NOT_FOUND", "GET", room(id)+"/context/"+esc("$nothing"), nil)
	bob.fails(400, "M_INVALID_PARAM", "GET", room(id)+"/context/"+esc(ids[3])+"?limit=x", nil)
	const v1 = "/_matrix/client/v1"
	ts := bob.ok("GET", room(id)+"/event/"+esc(ids[0]), nil).At("origin_server_ts").Int()
	same(t, "timestamp", bob.ok("GET", fmt.Sprintf("%s%s/timestamp_to_event?dir=b&ts=%d", v1, room(id), ts+100000), nil).At("event_id"), ids[6])
	bob.fails(404, "M_NOT_FOUND", "GET", v1+room(id)+"/timestamp_to_event?dir=b&ts=1", nil)
	bob.fails(400, "M_INVALID_PARAM|M_MISSING_PARAM", "GET", v1+room(id)+"/timestamp_to_event?dir=b", nil)
}

func TestMembers(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	carol := newUser(t, "carol")
	id := alice.public(bob)
	alice.sync()
	carol.join(id)
	bob.leave(id)
	who := func(query string) []string {
		out := []string{}
		for _, e := range alice.ok("GET", room(id)+"/members?"+query, nil).At("chunk").List() {
			out = append(out, e.At("state_key").String())
			if e.At("room_id").String() != id || e.At("event_id").String() == "" {
				t.Errorf("member event: %s", e.Text())
			}
		}
		slices.Sort(out)
		return out
	}
	sorted := func(l ...string) []string { slices.Sort(l); return l }
	same(t, "all", who(""), sorted(alice.id, bob.id, carol.id))
	same(t, "joined", who("membership=join"), sorted(alice.id, carol.id))
	same(t, "left", who("membership=leave"), list{bob.id})
	same(t, "not left", who("not_membership=leave"), sorted(alice.id, carol.id))
	same(t, "at", who("at="+alice.since), sorted(alice.id, bob.id))
	alice.fails(400, "M_INVALID_PARAM", "GET", room(id)+"/members?at=x", nil)
	j := alice.ok("GET", room(id)+"/joined_members", nil).At("joined")
	same(t, "display_name", j.At(carol.id, "display_name"), carol.localpart())
	// Who left sees the members as of then.
	newUser(t, "dave").join(id)
	same(t, "after leaving", len(bob.ok("GET", room(id)+"/members", nil).At("chunk").List()), 3)
	bob.fails(403, "M_FORBIDDEN", "GET", room(id)+"/joined_members", nil)
}

// TestVisibility: what bob sees of the time before he was invited, while he was
// invited, while he was joined and after, by every way there is.
func TestVisibility(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value                         string
		before, invited, after, never bool
	}{
		{"world_readable", true, true, true, true}, {"shared", true, true, false, false},
		{"invited", false, true, false, false}, {"joined", false, false, false, false},
	} {
		t.Run(c.value, func(t *testing.T) {
			t.Parallel()
			alice, bob := newUsers(t)
			out := newUser(t, "out")
			id := alice.create(obj{"initial_state": list{obj{"type": "m.room.history_visibility", "content": obj{"history_visibility": c.value}}}})
			ids := map[string]string{"before": alice.say(id, "before")}
			alice.invite(id, bob)
			ids["invited"] = alice.say(id, "invited")
			bob.join(id)
			ids["joined"] = alice.say(id, "joined")
			bob.leave(id)
			ids["after"] = alice.say(id, "after")
			sees := map[string]bool{"before": c.before, "invited": c.invited, "joined": true, "after": c.after}
			got := bodies(bob.ok("GET", room(id)+"/messages?dir=b&limit=100", nil).At("chunk"))
			for k, want := range sees {
				same(t, k+" in /messages", slices.Contains(got, k), want)
				for _, way := range []string{"/event/", "/context/"} {
					a := bob.do("GET", room(id)+way+esc(ids[k]), nil)
					same(t, fmt.Sprintf("%s%s: %d %.80s", k, way, a.status, a.body), a.status == 200, want)
				}
				same(t, k+" for a stranger", out.do("GET", room(id)+"/event/"+esc(ids[k]), nil).status == 200, c.never)
			}
			for _, p := range []string{"/messages?dir=b", "/state", "/members", "/state/m.room.create"} {
				same(t, p+" for a stranger", out.do("GET", room(id)+p, nil).status == 200, c.never)
			}
			out.fails(403, "M_FORBIDDEN", "PUT", room(id)+"/send/m.room.message/x", obj{})
			if !c.never {
				out.fails(404, "M_NOT_FOUND", "GET", room(id)+"/event/"+esc(ids["joined"]), nil)
			}
			bob.since = ""
			l := bob.sync(`filter={"room":{"include_leave":true,"timeline":{"limit":50}}}`).At("rooms", "leave", id, "timeline", "events")
			if slices.Contains(bodies(l), "after") || !slices.Contains(bodies(l), "joined") {
				t.Errorf("in /sync: %v", bodies(l))
			}
			for _, k := range []string{"before", "invited"} {
				if slices.Contains(bodies(l), k) && !sees[k] {
					t.Errorf("%s in /sync", k)
				}
			}
			same(t, "redacted name", bob.do("GET", room(id)+"/state/m.room.history_visibility", nil).status, 200)
		})
	}
}

func TestRelations(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public(bob)
	root := alice.say(id, "root")
	rel := func(u *user, typ, relType, to string, more obj) string {
		c := obj{"msgtype": "m.text", "body": "rel", "m.relates_to": obj{"rel_type": relType, "event_id": to}}
		for k, v := range more {
			c[k] = v
		}
		return u.event(id, typ, c)
	}
	reaction := rel(bob, "m.reaction", "m.annotation", root, obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": root, "key": "👍"}})
	edit := rel(alice, "m.room.message", "m.replace", root, obj{"m.new_content": obj{"msgtype": "m.text", "body": "edited"}})
	rel(bob, "m.room.message", "m.replace", root, obj{"m.new_content": obj{"msgtype": "m.text", "body": "forged"}})
	thread := rel(bob, "m.room.message", "m.thread", root, nil)
	ref := rel(bob, "m.room.message", "m.reference", root, nil)

	path := "/_matrix/client/v1" + room(id) + "/relations/" + esc(root)
	ids := func(v Value) []string {
		out := []string{}
		for _, e := range v.At("chunk").List() {
			out = append(out, e.At("event_id").String())
		}
		return out
	}
	if got := ids(alice.ok("GET", path, nil)); len(got) != 5 || got[0] != ref {
		t.Errorf("relations: %v", got)
	}
	same(t, "by type", ids(alice.ok("GET", path+"/m.annotation", nil)), list{reaction})
	same(t, "by event type", ids(alice.ok("GET", path+"/m.thread/m.room.message", nil)), list{thread})
	same(t, "by another event type", ids(alice.ok("GET", path+"/m.thread/m.other", nil)), list{})
	if got := ids(alice.ok("GET", path+"?dir=f", nil)); got[0] != reaction {
		t.Errorf("forward: %v", got)
	}
	v := alice.ok("GET", path+"?limit=2", nil)
	same(t, "page", len(ids(v)), 2)
	v = alice.ok("GET", path+"?limit=10&from="+v.At("next_batch").String(), nil)
	same(t, "second page", len(ids(v)), 3)
	alice.ok("GET", "/_matrix/client/unstable"+room(id)+"/relations/"+esc(root), nil)
	alice.fails(404, "M_NOT_FOUND", "GET", "/_matrix/client/v1"+room(id)+"/relations/"+esc("$nothing"), nil)
	newUser(t, "out").fails(404, "M_NOT_FOUND|M_FORBIDDEN", "GET", path, nil)

	// Bundled with the event.
	u := alice.ok("GET", room(id)+"/event/"+esc(root), nil)
	same(t, "an edit leaves the content", u.At("content", "body"), "root")
	r := u.At("unsigned", "m.relations")
	same(t, "m.replace", r.At("m.replace", "event_id"), edit)
	same(t, "thread count", r.At("m.thread", "count").Int(), 1)
	same(t, "latest", r.At("m.thread", "latest_event", "event_id"), thread)
	same(t, "m.reference", r.At("m.reference", "chunk", "0", "event_id"), ref)
	alice.since = ""
	for _, e := range alice.sync().At("rooms", "join", id, "timeline", "events").List() {
		if e.At("event_id").String() == root {
			same(t, "bundled in a sync", e.At("unsigned", "m.relations", "m.thread", "count").Int(), 1)
		}
	}
	th := "/_matrix/client/v1" + room(id) + "/threads"
	same(t, "threads", ids(alice.ok("GET", th, nil)), list{root})
	same(t, "participated", ids(bob.ok("GET", th+"?include=participated", nil)), list{root})
	carol := newUser(t, "carol")
	carol.join(id)
	same(t, "not participated", ids(carol.ok("GET", th+"?include=participated", nil)), list{})
	alice.fails(400, "M_INVALID_PARAM", "GET", th+"?include=x", nil)
	// The same reaction twice is refused; an edit that was redacted is gone.
	bob.fails(400, "M_DUPLICATE_ANNOTATION", "PUT", room(id)+"/send/m.reaction/"+unique("t"), obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": root, "key": "👍"}})
	alice.ok("PUT", room(id)+"/redact/"+esc(edit)+"/"+unique("t"), obj{})
	same(t, "redacted edit", alice.ok("GET", room(id)+"/event/"+esc(root), nil).At("unsigned", "m.relations").Exists("m.replace"), false)
	alice.ok("PUT", room(id)+"/redact/"+esc(thread)+"/"+unique("t"), obj{})
	same(t, "redacted reply", alice.ok("GET", room(id)+"/event/"+esc(root), nil).At("unsigned", "m.relations").Exists("m.thread"), false)
	same(t, "redacted relations", len(ids(alice.ok("GET", path, nil))), 3)
}
