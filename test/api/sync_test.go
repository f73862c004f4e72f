package api

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSyncInitial(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.create(obj{"preset": "public_chat", "name": "N"})
	alice.say(id, "hello")
	v := alice.sync()
	j := v.At("rooms", "join", id)
	all := append(types(j.At("state", "events")), types(j.At("timeline", "events"))...)
	same(t, "limited", j.At("timeline", "limited").Bool(), false)
	if len(all) != 8 || j.At("timeline", "prev_batch").String() == "" {
		t.Errorf("initial: %v %s", all, j.At("timeline").Text())
	}
	same(t, "summary", j.At("summary", "m.joined_member_count").Int(), 1)
	if find(v.At("account_data", "events"), "m.push_rules", "*").V == nil {
		t.Error("no push rules in account_data")
	}
	// With a small limit, the rest of the state comes in state.
	alice.since = ""
	j = alice.sync(`filter={"room":{"timeline":{"limit":1}}}`).At("rooms", "join", id)
	same(t, "timeline", bodies(j.At("timeline", "events")), list{"hello"})
	same(t, "limited", j.At("timeline", "limited").Bool(), true)
	if find(j.At("state", "events"), "m.room.create", "").V == nil || find(j.At("state", "events"), "m.room.name", "").V == nil {
		t.Errorf("state: %v", types(j.At("state", "events")))
	}
	prev := j.At("timeline", "prev_batch").String()
	m := alice.ok("GET", room(id)+"/messages?dir=b&limit=1&from="+prev, nil)
	same(t, "messages before prev_batch", types(m.At("chunk")), list{"m.room.name"})

	// Incremental: nothing, then what is new, once.
	bob.join(id)
	alice.since = ""
	alice.sync()
	same(t, "nothing new", alice.sync().At("rooms", "join").Keys(), list{})
	alice.say(id, "one")
	bob.say(id, "two")
	v = alice.sync()
	same(t, "new", bodies(v.At("rooms", "join", id, "timeline", "events")), list{"one", "two"})
	same(t, "transaction_id", v.At("rooms", "join", id, "timeline", "events", "0", "unsigned").Exists("transaction_id"), true)
	same(t, "nothing new", alice.sync().At("rooms", "join").Keys(), list{})
	// A long poll wakes.
	done := make(chan Value, 1)
	go func() { done <- alice.sync("timeout=10000") }()
	time.Sleep(50 * time.Millisecond)
	begun := time.Now()
	bob.say(id, "three")
	same(t, "woken", bodies((<-done).At("rooms", "join", id, "timeline", "events")), list{"three"})
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("woken after %v", d)
	}
	// State in full on request.
	v = alice.sync("full_state=true")
	if find(v.At("rooms", "join", id, "state", "events"), "m.room.create", "").V == nil {
		t.Errorf("full_state: %s", v.At("rooms").Text())
	}
	alice.fails(400, "M_INVALID_PARAM|M_UNKNOWN", "GET", "/sync?since=nonsense", nil)
	alice.fails(400, "M_INVALID_PARAM|M_UNKNOWN|M_NOT_FOUND", "GET", "/sync?filter=nonsense", nil)
	alice.fails(400, "M_NOT_JSON|M_BAD_JSON|M_INVALID_PARAM", "GET", "/sync?filter=%7B", nil)
	alice.fails(400, "M_INVALID_PARAM", "GET", "/sync?timeout=nonsense", nil)
	alice.fails(400, "M_INVALID_PARAM|M_BAD_JSON", "GET", "/sync?set_presence=nonsense", nil)
	nobody(t).fails(401, "M_MISSING_TOKEN", "GET", "/sync", nil)
}

func TestSyncGap(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public(bob)
	bob.filter = `{"room":{"timeline":{"limit":3}}}`
	bob.sync()
	alice.state(id, "m.room.name", "", obj{"name": "in the gap"})
	for i := range 5 {
		alice.say(id, fmt.Sprint(i))
	}
	j := bob.sync().At("rooms", "join", id)
	same(t, "timeline", bodies(j.At("timeline", "events")), list{"2", "3", "4"})
	same(t, "limited", j.At("timeline", "limited").Bool(), true)
	same(t, "state of the gap", types(j.At("state", "events")), list{"m.room.name"})
	back := bob.ok("GET", room(id)+"/messages?dir=b&limit=10&from="+j.At("timeline", "prev_batch").String(), nil)
	same(t, "the gap", bodies(back.At("chunk"))[:2], list{"1", "0"})

	// State is told, also where the timeline's filter leaves it out.
	bob.filter = `{"room":{"timeline":{"types":[]},"state":{"types":["com.example.state"]}}}`
	alice.state(id, "com.example.state", "", obj{"n": 1})
	alice.state(id, "com.example.other", "", obj{"n": 1})
	j = bob.sync().At("rooms", "join", id)
	same(t, "state", types(j.At("state", "events")), list{"com.example.state"})
	same(t, "timeline", types(j.At("timeline", "events")), list{})
	bob.filter = `{"room":{"timeline":{"types":["m.room.message"]}}}`
	alice.say(id, "before")
	alice.state(id, "com.example.state", "", obj{"n": 2})
	alice.say(id, "after")
	j = bob.sync().At("rooms", "join", id)
	same(t, "timeline", bodies(j.At("timeline", "events")), list{"before", "after"})
	same(t, "state", types(j.At("state", "events")), list{"com.example.state"})
}

func TestSyncMembership(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	bob.sync()
	id := alice.create(obj{"name": "Secret", "topic": "T"})
	alice.say(id, "before")
	bob.say2(t)
	alice.invite(id, bob)
	v := bob.sync()
	stripped := v.At("rooms", "invite", id, "invite_state", "events")
	for _, typ := range []string{"m.room.create", "m.room.name", "m.room.join_rules", "m.room.topic"} {
		e := find(stripped, typ, "")
		if e.V == nil {
			t.Errorf("%s is missing in %v", typ, types(stripped))
		}
	}
	same(t, "own invite", find(stripped, "m.room.member", bob.id).At("content", "membership"), "invite")
	same(t, "once", bob.sync().At("rooms", "invite").Keys(), list{})
	bob.since = ""
	same(t, "in an initial sync", bob.sync().At("rooms", "invite").Keys(), list{id})
	bob.join(id)
	v = bob.sync()
	j := v.At("rooms", "join", id)
	all := append(types(j.At("state", "events")), types(j.At("timeline", "events"))...)
	if len(all) < 8 {
		t.Errorf("after joining: %v", all)
	}
	same(t, "no longer invited", v.At("rooms", "invite").Keys(), list{})
	same(t, "history is shared", bodies(j.At("timeline", "events")), list{"before"})

	// Left: the last events, once.
	alice.say(id, "last")
	bob.leave(id)
	alice.say(id, "too late")
	v = bob.sync()
	l := v.At("rooms", "leave", id)
	same(t, "timeline of a left room", types(l.At("timeline", "events")), list{"m.room.message", "m.room.member"})
	same(t, "what was said", bodies(l.At("timeline", "events")), list{"last"})
	same(t, "not joined", v.At("rooms", "join").Keys(), list{})
	same(t, "once", bob.sync().At("rooms", "leave").Keys(), list{})
	bob.since = ""
	same(t, "left rooms are not in an initial sync", bob.sync().At("rooms", "leave").Keys(), list{})
	bob.since = ""
	l = bob.sync(`filter={"room":{"include_leave":true}}`).At("rooms", "leave", id)
	if got := bodies(l.At("timeline", "events")); len(got) == 0 || got[len(got)-1] != "last" {
		t.Errorf("include_leave: %v", got)
	}
	bob.since = ""
	l = bob.sync(`filter={"room":{"include_leave":true,"timeline":{"limit":1}}}`).At("rooms", "leave", id)
	if find(l.At("state", "events"), "m.room.name", "").V == nil {
		t.Errorf("include_leave: %s", l.Text())
	}
	bob.ok("POST", room(id)+"/forget", nil)
	bob.since = ""
	same(t, "forgotten", bob.sync(`filter={"room":{"include_leave":true}}`).At("rooms", "leave").Keys(), list{})

	// Refused invitations, kicks and bans.
	carol := newUser(t, "carol")
	carol.sync()
	id = alice.create(obj{"invite": list{carol.id}})
	carol.sync()
	carol.leave(id)
	l = carol.sync().At("rooms", "leave", id)
	same(t, "own leave", find(l.At("timeline", "events"), "m.room.member", carol.id).At("content", "membership"), "leave")
	id = alice.create(obj{"initial_state": list{obj{"type": "m.room.history_visibility", "content": obj{"history_visibility": "joined"}}}, "invite": list{carol.id}})
	carol.join(id)
	carol.sync()
	alice.ok("POST", room(id)+"/ban", obj{"user_id": carol.id})
	l = carol.sync().At("rooms", "leave", id)
	same(t, "own ban", find(l.At("timeline", "events"), "m.room.member", carol.id).At("content", "membership"), "ban")
	// Invite withdrawn.
	id = alice.create(obj{"invite": list{carol.id}})
	carol.sync()
	alice.ok("POST", room(id)+"/kick", obj{"user_id": carol.id})
	v = carol.sync()
	same(t, "withdrawn", v.At("rooms", "leave").Keys(), list{id})
}

// say2 makes a room of one's own, which is no news for others.
func (u *user) say2(t *testing.T) { u.say(u.create(obj{}), "to myself"); u.sync() }

func TestSyncRejoin(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public(bob)
	bob.sync()
	bob.leave(id)
	bob.sync()
	alice.state(id, "m.room.name", "", obj{"name": "new"})
	for i := range 12 {
		alice.say(id, fmt.Sprint(i))
	}
	bob.join(id)
	j := bob.sync(`filter={"room":{"timeline":{"limit":2}}}`).At("rooms", "join", id)
	same(t, "limited", j.At("timeline", "limited").Bool(), true)
	if find(j.At("state", "events"), "m.room.name", "").V == nil || find(j.At("state", "events"), "m.room.create", "").V == nil {
		t.Errorf("state after joining again: %v", types(j.At("state", "events")))
	}
	// A new name is no new join.
	bob.ok("PUT", "/profile/"+bob.id+"/displayname", obj{"displayname": "Robert"})
	j = bob.sync().At("rooms", "join", id)
	same(t, "state after a new name", types(j.At("state", "events")), list{})
	m := find(j.At("timeline", "events"), "m.room.member", bob.id)
	same(t, "new name", m.At("content", "displayname"), "Robert")
	same(t, "prev_content", m.At("unsigned", "prev_content", "membership"), "join")
}

func TestSyncLazy(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	carol := newUser(t, "carol")
	id := alice.public(bob, carol)
	alice.say(id, "a")
	members := func(v Value, section string) []string {
		out := []string{}
		for _, e := range v.At("rooms", "join", id, section, "events").List() {
			if e.At("type").String() == "m.room.member" {
				out = append(out, e.At("state_key").String())
			}
		}
		return out
	}
	bob.filter = `{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":1}}}`
	v := bob.sync()
	got := map[string]bool{}
	for _, m := range members(v, "state") {
		got[m] = true
	}
	if !got[alice.id] || !got[bob.id] {
		t.Errorf("lazy: %v", got)
	}
	same(t, "heroes", len(v.At("rooms", "join", id, "summary", "m.heroes").List()), 2)
	same(t, "joined", v.At("rooms", "join", id, "summary", "m.joined_member_count").Int(), 3)
	carol.say(id, "c")
	same(t, "carol is new, or a hero", bodies(bob.sync().At("rooms", "join", id, "timeline", "events")), list{"c"})
	alice.say(id, "a2")
	same(t, "known already", members(bob.sync(), "state"), list{})
	bob.filter = `{"room":{"state":{"lazy_load_members":true,"include_redundant_members":true},"timeline":{"limit":1}}}`
	alice.say(id, "a3")
	same(t, "redundant", members(bob.sync(), "state"), list{alice.id})
	m := bob.ok("GET", room(id)+"/messages?dir=b&limit=1&filter="+url.QueryEscape(`{"lazy_load_members":true}`), nil)
	same(t, "members with messages", m.At("state", "0", "state_key"), alice.id)
	c := bob.ok("GET", room(id)+"/context/"+esc(alice.say(id, "x"))+"?limit=0&filter="+url.QueryEscape(`{"lazy_load_members":true}`), nil)
	n := 0
	for _, e := range c.At("state").List() {
		if e.At("type").String() == "m.room.member" {
			n++
		}
	}
	same(t, "members with context", n, 1)
}

// TestSyncHeroes: a client that loads members lazily knows the heroes of every list
// that it gets, also when they change because somebody leaves or a name goes.
func TestSyncHeroes(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public(bob)
	others := []*user{}
	for range 6 {
		o := newUser(t, "hero")
		o.join(id)
		others = append(others, o)
	}
	bob.filter = `{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":1}}}`
	known := map[string]bool{}
	sync := func() []string {
		t.Helper()
		j := bob.sync().At("rooms", "join", id)
		for _, section := range []string{"state", "timeline"} {
			for _, e := range j.At(section, "events").List() {
				if e.At("type").String() == "m.room.member" {
					known[e.At("state_key").String()] = true
				}
			}
		}
		out := []string{}
		for _, h := range j.At("summary", "m.heroes").List() {
			out = append(out, h.String())
			if !known[h.String()] {
				t.Errorf("%s is a hero, but no member event came", h.String())
			}
		}
		return out
	}
	heroes := sync()
	same(t, "heroes", len(heroes), 5)
	for _, o := range append([]*user{alice}, others...) {
		if o.id == heroes[1] {
			o.leave(id)
		}
	}
	alice.say(id, "the last event")
	next := sync()
	same(t, "heroes after one left", len(next), 5)
	same(t, "one is new", slices.Contains(heroes, next[4]), false)
	// With a name there are no heroes, until it is taken away.
	alice.state(id, "m.room.name", "", obj{"name": "Named"})
	same(t, "heroes of a room with a name", sync(), list{})
	newUser(t, "unseen").join(id)
	alice.say(id, "the last event")
	sync()
	alice.state(id, "m.room.name", "", obj{})
	same(t, "heroes without the name", len(sync()), 5)
}

func TestSyncStateAfter(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public(bob)
	for _, p := range []struct{ param, key string }{{"use_state_after", "state_after"}, {"org.matrix.msc4222.use_state_after", "org.matrix.msc4222.state_after"}} {
		u := bob.login()
		j := u.sync(p.param+"=true").At("rooms", "join", id)
		if j.Exists("state") || !j.Exists(p.key) || find(j.At(p.key, "events"), "m.room.create", "").V == nil {
			t.Errorf("%s: %v", p.param, j.Keys())
		}
		alice.state(id, "m.room.topic", "", obj{"topic": p.param})
		j = u.sync(p.param+"=true").At("rooms", "join", id)
		same(t, "state after", find(j.At(p.key, "events"), "m.room.topic", "").At("content", "topic"), p.param)
		same(t, "timeline", types(j.At("timeline", "events")), list{"m.room.topic"})
		alice.say(id, "x")
		j = u.sync(p.param+"=true").At("rooms", "join", id)
		same(t, "nothing changed", j.At(p.key), obj{"events": list{}})
	}
}

func TestSyncEphemeral(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public(bob)
	e := alice.say(id, "read me")
	alice.sync()
	bob.sync()
	eph := func(v Value, typ string) Value {
		return find(v.At("rooms", "join", id, "ephemeral", "events"), typ, "*").At("content")
	}

	path := room(id) + "/typing/"
	bob.ok("PUT", path+bob.id, obj{"typing": true, "timeout": 30000})
	v := alice.until("typing", func(v Value) bool { return eph(v, "m.typing").V != nil })
	same(t, "typing", eph(v, "m.typing").At("user_ids"), list{bob.id})
	bob.ok("PUT", path+bob.id, obj{"typing": false})
	v = alice.until("no typing", func(v Value) bool { return eph(v, "m.typing").V != nil })
	same(t, "stopped", eph(v, "m.typing").At("user_ids"), list{})
	bob.ok("PUT", path+bob.id, obj{"typing": true, "timeout": 2000})
	alice.until("typing", func(v Value) bool { return len(eph(v, "m.typing").At("user_ids").List()) == 1 })
	alice.until("the end of it", func(v Value) bool { c := eph(v, "m.typing"); return c.V != nil && len(c.At("user_ids").List()) == 0 })
	bob.fails(403, "M_FORBIDDEN", "PUT", path+alice.id, obj{"typing": true})
	newUser(t, "out").fails(403, "M_FORBIDDEN", "PUT", path+"@out:hs1", obj{"typing": true})
	bob.fails(400, "M_BAD_JSON", "PUT", path+bob.id, obj{"typing": "yes"})
	bob.fails(400, "M_BAD_JSON|M_MISSING_PARAM", "PUT", path+bob.id, obj{})

	// Receipts.
	bob.ok("POST", room(id)+"/receipt/m.read/"+esc(e), nil)
	v = alice.until("a receipt", func(v Value) bool { return eph(v, "m.receipt").V != nil })
	r := eph(v, "m.receipt").At(e, "m.read", bob.id)
	if r.At("ts").Int() <= 0 || r.Exists("thread_id") {
		t.Errorf("receipt: %s", r.Text())
	}
	bob.ok("POST", room(id)+"/receipt/m.read.private/"+esc(alice.say(id, "private")), obj{})
	bob.until("a private receipt", func(v Value) bool {
		return eph(v, "m.receipt").V != nil && strings.Contains(eph(v, "m.receipt").Text(), "m.read.private")
	})
	if s := alice.sync().Text(); strings.Contains(s, "m.read.private") {
		t.Errorf("a private receipt was shown: %s", s)
	}
	bob.fails(400, "M_INVALID_PARAM|M_UNRECOGNIZED|M_UNKNOWN", "POST", room(id)+"/receipt/m.nonsense/"+esc(e), obj{})
	bob.fails(400, "M_INVALID_PARAM|M_BAD_JSON", "POST", room(id)+"/receipt/m.read/"+esc(e), obj{"thread_id": 3})
	bob.fails(400, "M_INVALID_PARAM", "POST", room(id)+"/receipt/m.read/"+esc(e), obj{"thread_id": ""})

	// Read markers.
	e = alice.say(id, "marker")
	bob.sync()
	bob.ok("POST", room(id)+"/read_markers", obj{"m.fully_read": e, "m.read": e})
	v = bob.until("a marker", func(v Value) bool { return v.At("rooms", "join", id, "account_data").V != nil })
	same(t, "m.fully_read", find(v.At("rooms", "join", id, "account_data", "events"), "m.fully_read", "*").At("content", "event_id"), e)
	bob.ok("POST", room(id)+"/read_markers", obj{})
	bob.ok("POST", room(id)+"/receipt/m.fully_read/"+esc(e), nil)
	bob.fails(400, "M_BAD_JSON", "POST", room(id)+"/read_markers", obj{"m.fully_read": 1})
	if a := newUser(t, "out").do("POST", room(id)+"/receipt/m.read/"+esc(e), nil); a.status != 403 && a.status != 404 {
		t.Errorf("a receipt from outside: %d", a.status)
	}
}

func TestPresence(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	alice.public(bob)
	alice.sync()
	path := "/presence/" + bob.id + "/status"
	bob.ok("PUT", path, obj{"presence": "unavailable", "status_msg": "Lunch"})
	v := alice.ok("GET", path, nil)
	same(t, "presence", v.At("presence"), "unavailable")
	same(t, "status_msg", v.At("status_msg"), "Lunch")
	alice.until("presence", func(v Value) bool {
		for _, e := range v.At("presence", "events").List() {
			if e.At("sender").String() == bob.id && e.At("content", "presence").String() == "unavailable" {
				return true
			}
		}
		return false
	})
	// A filter holds for one's own presence too.
	for filter, want := range map[string][]string{`{"senders":["` + bob.id + `"]}`: {bob.id}, `{"not_senders":["` + alice.id + `"]}`: {bob.id},
		`{"not_senders":["` + bob.id + `"]}`: {alice.id}, `{"types":["m.nothing"]}`: {}, `{"senders":[]}`: {}} {
		alice.since, alice.filter = "", `{"presence":`+filter+`}`
		got := []string{}
		for _, e := range alice.sync().At("presence", "events").List() {
			got = append(got, e.At("sender").String())
		}
		same(t, filter, got, want)
	}
	alice.since, alice.filter = "", ""
	bob.fails(403, "M_FORBIDDEN", "PUT", "/presence/"+alice.id+"/status", obj{"presence": "online"})
	bob.fails(400, "M_INVALID_PARAM|M_BAD_JSON|M_UNKNOWN", "PUT", path, obj{"presence": "nonsense"})
	bob.fails(400, "M_BAD_JSON|M_INVALID_PARAM", "PUT", path, obj{"presence": 3})
	bob.fails(400, "M_MISSING_PARAM|M_BAD_JSON|M_INVALID_PARAM", "PUT", path, obj{})
	if a := newUser(t, "out").do("GET", path, nil); a.status != 403 && a.status != 404 {
		t.Errorf("presence for a stranger: %d", a.status)
	}
	bob.ok("GET", path, nil)
}

func TestUnread(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public(bob)
	bob.sync()
	n := func(v Value) [2]int {
		u := v.At("rooms", "join", id, "unread_notifications")
		return [2]int{u.At("notification_count").Int(), u.At("highlight_count").Int()}
	}
	// A room of two is a direct chat for the push rules: every message counts.
	first := alice.say(id, "one")
	same(t, "one", n(bob.sync()), list{1, 0})
	e := alice.event(id, "m.room.message", obj{"msgtype": "m.text", "body": "x", "m.mentions": obj{"user_ids": list{bob.id}}})
	same(t, "a mention", n(bob.sync()), list{2, 1})
	alice.event(id, "m.room.message", obj{"msgtype": "m.notice", "body": "x"})
	same(t, "a notice", n(bob.sync()), list{2, 1})
	bob.ok("POST", room(id)+"/receipt/m.read/"+esc(first), obj{})
	same(t, "read one", n(bob.until("a receipt", func(v Value) bool { return v.At("rooms", "join", id).V != nil })), list{1, 1})
	bob.ok("POST", room(id)+"/receipt/m.read/"+esc(e), obj{})
	same(t, "read all", n(bob.sync()), list{0, 0})
	// Threads.
	root := alice.say(id, "root")
	alice.event(id, "m.room.message", obj{"msgtype": "m.text", "body": "in the thread", "m.relates_to": obj{"rel_type": "m.thread", "event_id": root}})
	bob.since = ""
	bob.filter = `{"room":{"timeline":{"unread_thread_notifications":true}}}`
	j := bob.sync()
	same(t, "main", n(j), list{1, 0})
	same(t, "thread", j.At("rooms", "join", id, "unread_thread_notifications", root), obj{"highlight_count": 0, "notification_count": 1})
	bob.since, bob.filter = "", ""
	same(t, "together", n(bob.sync()), list{2, 0})
	bob.ok("POST", room(id)+"/receipt/m.read/"+esc(root), obj{"thread_id": "main"})
	same(t, "the thread is left", n(bob.sync()), list{1, 0})
	// A rule of one's own.
	bob.ok("PUT", "/pushrules/global/room/"+esc(id), obj{"actions": list{}})
	alice.say(id, "muted")
	same(t, "muted", n(bob.until("it", func(v Value) bool { return v.At("rooms", "join", id).V != nil })), list{1, 0})
	bob.say(id, "own words count as read")
	bob.since = ""
	if got := n(bob.sync()); got[0] > 1 {
		t.Errorf("after one's own message: %v", got)
	}
}

func TestSyncAccountData(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public()
	alice.sync()
	alice.ok("PUT", "/user/"+alice.id+"/account_data/com.example", obj{"n": 1})
	alice.ok("PUT", "/user/"+alice.id+"/rooms/"+esc(id)+"/account_data/com.example", obj{"n": 2})
	alice.ok("PUT", "/user/"+alice.id+"/rooms/"+esc(id)+"/tags/u.work", obj{"order": 0.5})
	v := alice.sync()
	same(t, "global", find(v.At("account_data", "events"), "com.example", "*").At("content"), obj{"n": 1})
	same(t, "of a room", find(v.At("rooms", "join", id, "account_data", "events"), "com.example", "*").At("content"), obj{"n": 2})
	same(t, "tags", find(v.At("rooms", "join", id, "account_data", "events"), "m.tag", "*").At("content"), obj{"tags": obj{"u.work": obj{"order": 0.5}}})
	same(t, "once", alice.sync().Exists("account_data"), false)
	// Ignored users are not heard.
	bob.join(id)
	alice.sync()
	alice.ok("PUT", "/user/"+alice.id+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{bob.id: obj{}}})
	bob.say(id, "unheard")
	bob.state(bob.public(), "m.room.name", "", obj{"name": "x"})
	same(t, "ignored", bodies(alice.sync().At("rooms", "join", id, "timeline", "events")), list{})
	bob.create(obj{"invite": list{alice.id}})
	same(t, "ignored invitation", alice.sync().At("rooms", "invite").Keys(), list{})
}

func TestFilters(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	path := "/user/" + alice.id + "/filter"
	f := obj{"room": obj{"timeline": obj{"limit": 1, "types": list{"m.room.message"}}}}
	fid := alice.ok("POST", path, f).At("filter_id").String()
	same(t, "filter", alice.ok("GET", path+"/"+fid, nil), f)
	alice.fails(404, "M_NOT_FOUND", "GET", path+"/nonsense", nil)
	alice.fails(404, "M_NOT_FOUND", "GET", path+"/12345678", nil)
	bob.fails(403, "M_FORBIDDEN", "POST", path, f)
	bob.fails(403, "M_FORBIDDEN", "GET", path+"/"+fid, nil)
	for _, bad := range []any{obj{"room": "x"}, obj{"room": obj{"timeline": list{}}}, obj{"room": obj{"timeline": obj{"limit": "x"}}}, obj{"event_fields": "x"},
		obj{"presence": obj{"senders": "x"}}, obj{"room": obj{"rooms": list{1}}}, obj{"room": obj{"rooms": list{"nonsense"}}},
		obj{"room": obj{"state": obj{"not_rooms": list{"#a:hs1"}}}}, obj{"room": obj{"timeline": obj{"senders": list{"nonsense"}}}},
		obj{"account_data": obj{"not_senders": list{"alice"}}}, obj{"event_format": "nonsense"}} {
		alice.fails(400, "M_BAD_JSON|M_INVALID_PARAM|M_UNKNOWN", "POST", path, bad)
	}
	a, b := alice.public(), alice.public()
	alice.say(a, "in a")
	alice.say(b, "in b")
	sync := func(f obj) Value {
		raw, _ := json.Marshal(f)
		alice.since, alice.filter = "", string(raw)
		return alice.sync()
	}
	same(t, "rooms", sync(obj{"room": obj{"rooms": list{a}}}).At("rooms", "join").Keys(), list{a})
	same(t, "not_rooms", sync(obj{"room": obj{"not_rooms": list{a}}}).At("rooms", "join").Keys(), list{b})
	same(t, "no rooms", sync(obj{"room": obj{"rooms": list{}}}).At("rooms", "join").Keys(), list{})
	same(t, "not_types", types(sync(obj{"room": obj{"rooms": list{a}, "timeline": obj{"not_types": list{"m.room.*"}}}}).At("rooms", "join", a, "timeline", "events")), list{})
	same(t, "senders", types(sync(obj{"room": obj{"rooms": list{a}, "timeline": obj{"senders": list{bob.id}}}}).At("rooms", "join", a, "timeline", "events")), list{})
	v := sync(obj{"room": obj{"rooms": list{a}, "timeline": obj{"limit": 1}}, "event_fields": list{"content.body", "type"}})
	same(t, "event_fields", v.At("rooms", "join", a, "timeline", "events", "0"), obj{"content": obj{"body": "in a"}, "type": "m.room.message"})
	alice.since, alice.filter = "", fid
	same(t, "by ID", bodies(alice.sync().At("rooms", "join", a, "timeline", "events")), list{"in a"})
}
