package timeline_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

type obj = hstest.Obj

func bodies(c *hstest.Client, room, query string) []string {
	return hstest.Bodies(c.Must("GET", hstest.Room(room)+"/messages?"+query, nil).At("chunk").List())
}

func TestMessages(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(nil)
	other := alice.CreateRoom(nil)
	for i := range 7 {
		alice.Send(room, fmt.Sprint(i))
		alice.Send(other, "elsewhere")
	}
	p := hstest.Room(room) + "/messages?"
	if got := bodies(alice, room, "dir=b&limit=3"); !slices.Equal(got, []string{"6", "5", "4"}) {
		t.Errorf("back: %v", got)
	}
	// All pages back give everything once.
	var all []string
	from := ""
	for range 100 {
		v := alice.Must("GET", p+"dir=b&limit=2"+from, nil)
		all = append(all, hstest.Types(v.At("chunk").List())...)
		if !v.Exists("end") {
			break
		}
		from = "&from=" + v.At("end").String()
	}
	if len(all) != 7+6 || all[len(all)-1] != "create" {
		t.Errorf("pages back: %v", all)
	}
	var texts []string
	from = ""
	for range 100 {
		v := alice.Must("GET", p+"dir=f&limit=3"+from, nil)
		texts = append(texts, hstest.Bodies(v.At("chunk").List())...)
		if !v.Exists("end") {
			break
		}
		from = "&from=" + v.At("end").String()
	}
	if !slices.Equal(texts, []string{"0", "1", "2", "3", "4", "5", "6"}) {
		t.Errorf("pages forward: %v", texts)
	}
	token := alice.Sync().At("next_batch").String()
	alice.Send(room, "new")
	if got := bodies(alice, room, "dir=f&from="+token); !slices.Equal(got, []string{"new"}) {
		t.Errorf("forward from a sync token: %v", got)
	}
	if got := bodies(alice, room, "dir=b&limit=1&from="+token); !slices.Equal(got, []string{"6"}) {
		t.Errorf("back from a sync token: %v", got)
	}
	if got := bodies(alice, room, "dir=b&limit=50&to="+token); !slices.Equal(got, []string{"new"}) {
		t.Errorf("back to a token: %v", got)
	}
	filter := url.QueryEscape(`{"types":["m.room.create"]}`)
	if v := alice.Must("GET", p+"dir=b&limit=5&filter="+filter, nil); len(v.At("chunk").List()) != 1 {
		t.Errorf("filter: %s", v.Text())
	}
	lazy := alice.Must("GET", p+"dir=b&limit=1&filter="+url.QueryEscape(`{"lazy_load_members":true}`), nil)
	if hstest.Find(lazy.At("state").List(), mx.RoomMember, alice.UserID).V == nil {
		t.Errorf("lazy: %s", lazy.Text())
	}
	alice.Fails(400, mx.InvalidParam, "GET", p+"dir=x", nil)
	alice.Fails(400, mx.InvalidParam, "GET", p+"dir=b&from=nonsense", nil)
	alice.Fails(400, mx.NotJSON, "GET", p+"dir=b&filter=%7B", nil)
}

// Who may see what, for each value of history visibility: before an invitation,
// between invitation and join, as a member, after leaving, after coming back.
func TestHistoryVisibility(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	for _, c := range []struct {
		value                string
		during, former, back []string
	}{
		{"joined", []string{"member"}, []string{"member"}, []string{"member", "back"}},
		{"invited", []string{"invited", "member"}, []string{"invited", "member"}, []string{"invited", "member", "back"}},
		{"shared", []string{"before", "invited", "member"}, []string{"before", "invited", "member"}, []string{"before", "invited", "member", "gone", "back"}},
		{"world_readable", []string{"before", "invited", "member"}, []string{"before", "invited", "member", "gone"}, []string{"before", "invited", "member", "gone", "back"}},
	} {
		t.Run(c.value, func(t *testing.T) {
			room := alice.CreateRoom(obj{"initial_state": []obj{{"type": mx.RoomHistoryVisibility, "content": obj{"history_visibility": c.value}}}})
			p := hstest.Room(room)
			check := func(when string, want []string) {
				t.Helper()
				got := bodies(bob, room, "dir=f&limit=100")
				if !slices.Equal(got, want) {
					t.Errorf("%s, by messages: %v, want %v", when, got, want)
				}
				back := bodies(bob, room, "dir=b&limit=100")
				slices.Reverse(back)
				if !slices.Equal(back, want) {
					t.Errorf("%s, backwards: %v, want %v", when, back, want)
				}
			}
			ids := map[string]string{}
			say := func(s string) { ids[s] = alice.Send(room, s) }
			see := func(when string, want []string) {
				t.Helper()
				for s, id := range ids {
					for _, path := range []string{"/event/", "/context/"} {
						a := bob.Do("GET", p+path+id, nil)
						if (a.Status == 200) != slices.Contains(want, s) {
							t.Errorf("%s: %s of %q: %d", when, path, s, a.Status)
						}
					}
				}
			}
			say("before")
			alice.Invite(room, bob)
			say("invited")
			bob.Join(room)
			say("member")
			check("as a member", c.during)
			see("as a member", c.during)
			alice.SendState(room, mx.RoomTopic, "", obj{"topic": "while bob is in"})
			bob.Leave(room)
			say("gone")
			alice.SendState(room, mx.RoomTopic, "", obj{"topic": "after bob left"})
			check("after leaving", c.former)
			see("after leaving", c.former)
			want := "while bob is in"
			if c.value == "world_readable" {
				want = "after bob left"
			}
			if got := bob.Must("GET", p+"/state/m.room.topic", nil).At("topic").String(); got != want {
				t.Errorf("state after leaving: %q", got)
			}
			if got := hstest.Find(bob.Must("GET", p+"/state", nil).List(), mx.RoomTopic, "").At("content", "topic").String(); got != want {
				t.Errorf("all state after leaving: %q", got)
			}
			alice.Invite(room, bob)
			bob.Join(room)
			say("back")
			// Who comes back sees what the value shows of the time between, too.
			if c.value == "invited" || c.value == "joined" || c.value == "shared" || c.value == "world_readable" {
				check("back again", c.back)
			}
			if c.value == "world_readable" {
				if got := bodies(carol, room, "dir=b&limit=1"); !slices.Equal(got, []string{"back"}) {
					t.Errorf("anybody: %v", got)
				}
			} else {
				carol.Fails(403, mx.Forbidden, "GET", p+"/messages?dir=b", nil)
				carol.Fails(404, mx.NotFound, "GET", p+"/event/"+ids["member"], nil)
				carol.Fails(403, mx.Forbidden, "GET", p+"/state", nil)
				carol.Fails(403, mx.Forbidden, "GET", p+"/members", nil)
			}
		})
	}
}

func TestVisibilityChanges(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	set := func(v string) { alice.SendState(room, mx.RoomHistoryVisibility, "", obj{"history_visibility": v}) }
	alice.Send(room, "shared")
	set("joined")
	alice.Send(room, "hidden")
	set("shared")
	alice.Send(room, "shared again")
	bob.Join(room)
	if got := bodies(bob, room, "dir=f&limit=100"); !slices.Equal(got, []string{"shared", "shared again"}) {
		t.Errorf("got %v", got)
	}
	bob.Filter = `{"room":{"timeline":{"limit":100}}}`
	// A sync's timeline has no holes: it goes back to what is hidden.
	if got := hstest.Bodies(bob.Sync().Timeline(room)); !slices.Equal(got, []string{"shared again"}) {
		t.Errorf("first sync: %v", got)
	}
}

func TestMembershipInUnsigned(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(nil)
	alice.Send(room, "a")
	alice.Invite(room, bob)
	alice.Send(room, "b")
	bob.Join(room)
	alice.Send(room, "c")
	got := []string{}
	for _, e := range bob.Must("GET", hstest.Room(room)+"/messages?dir=f&limit=100", nil).At("chunk").List() {
		if e.At("content", "body").String() != "" {
			got = append(got, e.At("unsigned", "membership").String())
		}
	}
	if !slices.Equal(got, []string{"leave", "invite", "join"}) {
		t.Errorf("memberships %v", got)
	}
}

func TestContext(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(nil)
	var ids []string
	for i := range 9 {
		ids = append(ids, alice.Send(room, fmt.Sprint(i)))
	}
	alice.SendState(room, mx.RoomTopic, "", obj{"topic": "later"})
	v := alice.Must("GET", hstest.Room(room)+"/context/"+ids[4]+"?limit=4", nil)
	if !slices.Equal(hstest.Bodies(v.At("events_before").List()), []string{"3", "2"}) || !slices.Equal(hstest.Bodies(v.At("events_after").List()), []string{"5", "6"}) ||
		v.At("event", "content", "body").String() != "4" {
		t.Errorf("context %s", v.Text())
	}
	if hstest.Find(v.At("state").List(), mx.RoomTopic, "").V != nil || hstest.Find(v.At("state").List(), mx.RoomCreate, "").V == nil {
		t.Error("the state is that at the last event given")
	}
	if got := bodies(alice, room, "dir=b&limit=2&from="+v.At("start").String()); !slices.Equal(got, []string{"1", "0"}) {
		t.Errorf("on from start: %v", got)
	}
	if got := bodies(alice, room, "dir=f&limit=2&from="+v.At("end").String()); !slices.Equal(got, []string{"7", "8"}) {
		t.Errorf("on from end: %v", got)
	}
	alice.Fails(404, mx.NotFound, "GET", hstest.Room(room)+"/context/$nothing", nil)
}

func TestMembers(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	p := hstest.Room(room)
	bob.Join(room)
	at := alice.Sync().At("next_batch").String()
	bob.Leave(room)
	carol.Join(room)
	members := func(query string) []string {
		out := []string{}
		for _, e := range alice.Must("GET", p+"/members?"+query, nil).At("chunk").List() {
			out = append(out, mx.Localpart(e.At("state_key").String())+":"+e.At("content", "membership").String())
		}
		slices.Sort(out)
		return out
	}
	for query, want := range map[string][]string{
		"":                     {"alice:join", "bob:leave", "carol:join"},
		"membership=join":      {"alice:join", "carol:join"},
		"not_membership=join":  {"bob:leave"},
		"at=" + at:             {"alice:join", "bob:join"},
		"not_membership=leave": {"alice:join", "carol:join"},
	} {
		if got := members(query); !slices.Equal(got, want) {
			t.Errorf("members?%s: %v, want %v", query, got, want)
		}
	}
	j := alice.Must("GET", p+"/joined_members", nil).At("joined")
	if len(j.Keys()) != 2 || j.At(carol.UserID, "display_name").String() != "carol" {
		t.Errorf("joined_members %s", j.Text())
	}
	bob.Fails(403, mx.Forbidden, "GET", p+"/joined_members", nil)
}

func relate(typ, id string) obj { return obj{"rel_type": typ, "event_id": id} }

func TestRelations(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	alice.Sync()
	root := alice.Send(room, "root")
	one := bob.SendEvent(room, mx.RoomMessage, obj{"body": "in the thread", "msgtype": "m.text", "m.relates_to": relate("m.thread", root)})
	two := bob.SendEvent(room, mx.RoomMessage, obj{"body": "latest", "msgtype": "m.text", "m.relates_to": relate("m.thread", root)})
	edit := func(c *hstest.Client, text string) string {
		return c.SendEvent(room, mx.RoomMessage, obj{"body": "* " + text, "msgtype": "m.text", "m.new_content": obj{"body": text, "msgtype": "m.text"}, "m.relates_to": relate("m.replace", root)})
	}
	edit(alice, "first edit")
	time.Sleep(2 * time.Millisecond) // of two edits in one millisecond the one with the greater ID counts
	good := edit(alice, "second edit")
	edit(bob, "forged edit")
	like := bob.SendEvent(room, "m.reaction", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": root, "key": "👍"}})
	ref := bob.SendEvent(room, "m.poll.response", obj{"m.relates_to": relate("m.reference", root)})

	check := func(where string, e hstest.Value) {
		t.Helper()
		rel := e.At("unsigned", "m.relations")
		if th := rel.At("m.thread"); th.At("count").Int() != 2 || th.At("latest_event", "event_id").String() != two || !th.At("current_user_participated").Bool() {
			t.Errorf("%s: thread %s", where, th.Text())
		}
		if rel.At("m.replace", "event_id").String() != good {
			t.Errorf("%s: replaced by %s", where, rel.At("m.replace").Text())
		}
		if rel.At("m.reference", "chunk", "0", "event_id").String() != ref {
			t.Errorf("%s: reference %s", where, rel.At("m.reference").Text())
		}
		if e.At("content", "body").String() != "root" {
			t.Errorf("%s: the content must stay the original", where)
		}
	}
	for _, e := range alice.Sync().Timeline(room) {
		if e.At("event_id").String() == root {
			check("sync", e)
		}
	}
	check("event", alice.Must("GET", hstest.Room(room)+"/event/"+root, nil))
	hs.Restart()
	check("event after a restart", alice.Must("GET", hstest.Room(room)+"/event/"+root, nil))

	base := "/_matrix/client/v1/rooms/" + url.PathEscape(room)
	ids := func(path string) []string {
		out := []string{}
		for _, e := range alice.Must("GET", base+path, nil).At("chunk").List() {
			out = append(out, e.At("event_id").String())
		}
		return out
	}
	if got := ids("/relations/" + root); len(got) != 7 || got[0] != ref {
		t.Errorf("relations %v", got)
	}
	if got := ids("/relations/" + root + "/m.thread"); !slices.Equal(got, []string{two, one}) {
		t.Errorf("thread, newest first: %v", got)
	}
	if got := ids("/relations/" + root + "/m.thread?dir=f"); !slices.Equal(got, []string{one, two}) {
		t.Errorf("thread, oldest first: %v", got)
	}
	if got := ids("/relations/" + root + "/m.annotation/m.reaction"); !slices.Equal(got, []string{like}) {
		t.Errorf("reactions %v", got)
	}
	page := alice.Must("GET", base+"/relations/"+root+"?limit=3", nil)
	rest := alice.Must("GET", base+"/relations/"+root+"?limit=10&from="+page.At("next_batch").String(), nil)
	if len(page.At("chunk").List()) != 3 || len(rest.At("chunk").List()) != 4 || rest.Exists("next_batch") {
		t.Errorf("pages of %d and %d", len(page.At("chunk").List()), len(rest.At("chunk").List()))
	}
	deep := bob.SendEvent(room, "m.reaction", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": two, "key": "x"}})
	if got := ids("/relations/" + root + "?recurse=true&limit=50"); len(got) != 8 || got[0] != deep {
		t.Errorf("recurse: %v", got)
	}
	if got := ids("/threads"); !slices.Equal(got, []string{root}) {
		t.Errorf("threads %v", got)
	}
	// Taking back what relates takes it out of the sums.
	bob.Redact(room, two)
	bob.Redact(room, like)
	e := alice.Must("GET", hstest.Room(room)+"/event/"+root, nil)
	if th := e.At("unsigned", "m.relations", "m.thread"); th.At("count").Int() != 1 || th.At("latest_event", "event_id").String() != one {
		t.Errorf("thread after a redaction: %s", th.Text())
	}
	if got := ids("/relations/" + root + "/m.annotation"); len(got) != 0 {
		t.Errorf("a redacted reaction is still there: %v", got)
	}
}

func TestThreadsList(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	var roots []string
	for i := range 5 {
		roots = append(roots, alice.Send(room, fmt.Sprint(i)))
	}
	for i, r := range roots {
		c := alice
		if i%2 == 0 {
			c = bob
		}
		c.SendEvent(room, mx.RoomMessage, obj{"body": "x", "msgtype": "m.text", "m.relates_to": relate("m.thread", r)})
	}
	base := "/_matrix/client/v1/rooms/" + url.PathEscape(room) + "/threads"
	page := bob.Must("GET", base+"?limit=3", nil)
	next := bob.Must("GET", base+"?limit=3&from="+page.At("next_batch").String(), nil)
	got := append(page.At("chunk").List(), next.At("chunk").List()...)
	want := slices.Clone(roots)
	slices.Reverse(want)
	if len(got) != 5 || next.Exists("next_batch") {
		t.Fatalf("%d threads", len(got))
	}
	for i := range got {
		if got[i].At("event_id").String() != want[i] {
			t.Errorf("thread %d is %s", i, got[i].Text())
		}
	}
	if mine := bob.Must("GET", base+"?include=participated", nil).At("chunk").List(); len(mine) != 3 {
		t.Errorf("%d threads of bob's own", len(mine))
	}
}

func TestTimestamp(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(nil)
	id := alice.Send(room, "x")
	ts := alice.Must("GET", hstest.Room(room)+"/event/"+id, nil).At("origin_server_ts").Int()
	base := "/_matrix/client/v1/rooms/" + url.PathEscape(room) + "/timestamp_to_event?"
	if got := alice.Must("GET", fmt.Sprintf("%sdir=b&ts=%d", base, ts+1000), nil).At("event_id").String(); got != id {
		t.Errorf("back: %s", got)
	}
	alice.Fails(404, mx.NotFound, "GET", fmt.Sprintf("%sdir=f&ts=%d", base, ts+1000), nil)
	alice.Fails(400, mx.InvalidParam, "GET", base+"dir=f&ts=soon", nil)
}

func TestIgnoredUsers(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	alice.Must("PUT", "/user/"+alice.UserID+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{bob.UserID: obj{}}})
	alice.Sync()
	bob.Send(room, "unheard")
	alice.Send(room, "heard")
	if got := hstest.Bodies(alice.Sync().Timeline(room)); !slices.Equal(got, []string{"heard"}) {
		t.Errorf("sync: %v", got)
	}
	if got := bodies(alice, room, "dir=b&limit=2"); slices.Contains(got, "unheard") {
		t.Errorf("messages: %v", got)
	}
	invited := bob.CreateRoom(obj{"invite": []string{alice.UserID}})
	if v := alice.Sync(); strings.Contains(v.Text(), invited) {
		t.Errorf("an invitation of somebody ignored: %s", v.Text())
	}
}

// What is bundled with an event is what its reader may see of it.
func TestBundlesShowOnlyWhatIsSeen(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat", "initial_state": []obj{{"type": mx.RoomHistoryVisibility, "content": obj{"history_visibility": "joined"}}}})
	alice.SendState(room, mx.RoomTopic, "", obj{"topic": "before bob"})
	alice.SendState(room, "m.test", "", obj{"n": 1})
	bob.Join(room)
	root := alice.Send(room, "root")
	edit := func(text string) string {
		return alice.SendEvent(room, mx.RoomMessage, obj{"body": "*", "msgtype": "m.text", "m.new_content": obj{"body": text, "msgtype": "m.text"}, "m.relates_to": relate("m.replace", root)})
	}
	seen := edit("seen")
	reply := alice.SendEvent(room, mx.RoomMessage, obj{"body": "seen", "msgtype": "m.text", "m.relates_to": relate("m.thread", root)})
	ref := alice.SendEvent(room, "m.test.ref", obj{"m.relates_to": relate("m.reference", root)})
	topic := alice.SendState(room, mx.RoomTopic, "", obj{"topic": "while bob"})
	bob.Leave(room)
	edit("unseen")
	alice.SendEvent(room, mx.RoomMessage, obj{"body": "unseen", "msgtype": "m.text", "m.relates_to": relate("m.thread", root)})
	alice.SendEvent(room, "m.test.ref", obj{"m.relates_to": relate("m.reference", root)})
	check := func(e hstest.Value) {
		t.Helper()
		rel := e.At("unsigned", "m.relations")
		if rel.At("m.replace", "event_id").String() != seen || rel.At("m.thread", "count").Int() != 1 || rel.At("m.thread", "latest_event", "event_id").String() != reply ||
			len(rel.At("m.reference", "chunk").List()) != 1 || rel.At("m.reference", "chunk", "0", "event_id").String() != ref || strings.Contains(e.Text(), "unseen") {
			t.Errorf("%s", e.Text())
		}
	}
	get := func() hstest.Value { return bob.Must("GET", hstest.Room(room)+"/event/"+root, nil) }
	check(get())
	bob.Join(room)
	check(get())
	// A full state of a sync holds old state, but not what that replaced.
	bob.Sync()
	for _, e := range bob.Sync("full_state=true").Joined(room).At("state", "events").List() {
		if e.At("event_id").String() == topic && e.At("unsigned", "prev_content", "topic").String() != "before bob" {
			t.Errorf("bob was joined when the topic changed: %s", e.Text())
		}
	}
	if e := bob.Must("GET", hstest.Room(room)+"/event/"+topic, nil); e.At("unsigned", "prev_content", "topic").String() != "before bob" {
		t.Errorf("bob was joined when the topic changed: %s", e.Text())
	}
	bob.Leave(room)
	alice.SendState(room, "m.test", "", obj{"n": 2})
	alice.SendState(room, "m.test", "", obj{"n": 3})
	bob.Join(room)
	if e := hstest.Find(bob.Must("GET", hstest.Room(room)+"/state", nil).List(), "m.test", ""); e.At("content", "n").Int() != 3 || e.At("unsigned").Exists("prev_content") {
		t.Errorf("what bob never had: %s", e.Text())
	}
	bob.Sync()
	if e := hstest.Find(bob.Sync("full_state=true").Joined(room).At("state", "events").List(), "m.test", ""); e.At("content", "n").Int() != 3 || e.At("unsigned").Exists("prev_content") {
		t.Errorf("what bob never had, in a sync: %s", e.Text())
	}
}

// The last page says that it is the last, also where older events are hidden.
func TestEndOfMessages(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat", "initial_state": []obj{{"type": mx.RoomHistoryVisibility, "content": obj{"history_visibility": "joined"}}}})
	p := hstest.Room(room) + "/messages?"
	alice.SendState(room, mx.RoomHistoryVisibility, "", obj{"history_visibility": "invited"})
	for i := range 5 {
		alice.Send(room, fmt.Sprint(i))
	}
	bob.Join(room)
	for i := 5; i < 8; i++ {
		alice.Send(room, fmt.Sprint(i))
	}
	alice.Fails(400, mx.MissingParam, "GET", p, nil)
	alice.Fails(400, mx.InvalidParam, "GET", p+"dir=x", nil)
	all := alice.Must("GET", p+"dir=f&limit=100", nil)
	n := len(all.At("chunk").List())
	for _, c := range []struct {
		who   *hstest.Client
		query string
		n     int
		more  bool
	}{
		{alice, "dir=b&limit=100", n, false}, {alice, fmt.Sprint("dir=b&limit=", n), n, false}, {alice, fmt.Sprint("dir=b&limit=", n-1), n - 1, true},
		{alice, "dir=f&limit=100", n, false}, {alice, "dir=f&limit=3", 3, true}, {alice, "dir=f&limit=0", 0, true},
		{bob, "dir=b&limit=3", 3, true}, {bob, "dir=b&limit=100", -1, false},
		{alice, `dir=b&limit=2&filter={"types":["m.none"]}`, 0, false},
	} {
		v := c.who.Must("GET", p+c.query, nil)
		if got := len(v.At("chunk").List()); got != c.n && c.n >= 0 || v.Exists("end") != c.more {
			t.Errorf("%s: %s: %d events, end %s", c.who.UserID, c.query, got, v.At("end").Text())
		}
	}
	// A page that ends just where what is hidden begins has no end.
	seen := len(bob.Must("GET", p+"dir=b&limit=100", nil).At("chunk").List())
	if v := bob.Must("GET", fmt.Sprint(p, "dir=b&limit=", seen), nil); v.Exists("end") {
		t.Errorf("%d events, and an end: %s", seen, v.At("end").Text())
	}
	if tok := alice.Sync().At("next_batch").String(); alice.Must("GET", p+"dir=b&from="+tok, nil).At("start").String() != tok {
		t.Error("start is not from")
	}
}

// Jumping to a date finds the nearest event that the reader sees.
func TestTimestampBeyondWhatIsHidden(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat", "initial_state": []obj{{"type": mx.RoomHistoryVisibility, "content": obj{"history_visibility": "joined"}}}})
	for range 150 {
		alice.Send(room, "hidden")
	}
	bob.Join(room)
	first := bob.Must("GET", hstest.Room(room)+"/state/m.room.member/"+bob.UserID+"?format=event", nil).At("event_id").String()
	bob.Leave(room)
	alice.Send(room, "hidden again")
	base := "/_matrix/client/v1/rooms/" + url.PathEscape(room) + "/timestamp_to_event?"
	early := bob.Must("GET", base+"dir=f&ts=0", nil)
	late := bob.Must("GET", base+"dir=b&ts=9000000000000", nil)
	if early.At("event_id").V == nil || late.At("event_id").V == nil {
		t.Fatalf("%s %s", early.Text(), late.Text())
	}
	for _, id := range []string{early.At("event_id").String(), late.At("event_id").String()} {
		bob.Must("GET", hstest.Room(room)+"/event/"+id, nil)
	}
	at := bob.Must("GET", hstest.Room(room)+"/event/"+first, nil).At("origin_server_ts").Int()
	if v := bob.Must("GET", fmt.Sprint(base, "dir=f&ts=", at), nil); v.At("event_id").V == nil {
		t.Errorf("%s", v.Text())
	}
}

// A thread begun by somebody ignored is listed, in redacted form; one that holds
// nothing for the reader is not.
func TestThreadsOfTheIgnored(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	carol.Join(room)
	reply := func(c *hstest.Client, root, text string) string {
		return c.SendEvent(room, mx.RoomMessage, obj{"body": text, "msgtype": "m.text", "m.relates_to": relate("m.thread", root)})
	}
	of := bob.Send(room, "begun by bob")
	last := reply(carol, of, "carol's answer")
	reply(bob, of, "bob's answer")
	only := carol.Send(room, "begun by carol")
	reply(bob, only, "bob alone")
	alice.Must("PUT", "/user/"+alice.UserID+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{bob.UserID: obj{}}})
	v := alice.Must("GET", "/_matrix/client/v1/rooms/"+url.PathEscape(room)+"/threads", nil)
	list := v.At("chunk").List()
	if len(list) != 1 || list[0].At("event_id").String() != of || len(list[0].At("content").Keys()) != 0 || strings.Contains(v.Text(), "bob's answer") {
		t.Fatalf("%s", v.Text())
	}
	if th := list[0].At("unsigned", "m.relations", "m.thread"); th.At("count").Int() != 1 || th.At("latest_event", "event_id").String() != last || th.At("latest_event", "content", "body").String() != "carol's answer" {
		t.Errorf("%s", th.Text())
	}
}
