package syncv3_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

// dataTypes are the types of account data of a room in a sync.
func dataTypes(room hstest.Value) []string {
	out := []string{}
	for _, e := range room.At("account_data", "events").List() {
		out = append(out, e.At("type").String())
	}
	slices.Sort(out)
	return out
}

func setRoomData(c *hstest.Client, room, typ string, content obj) {
	c.Must("PUT", "/user/"+c.UserID+"/rooms/"+url.PathEscape(room)+"/account_data/"+typ, content)
}

func TestAccountDataOfLeftRooms(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	setRoomData(bob, room, "m.test", obj{"a": 1})
	bob.Sync()
	setRoomData(bob, room, "m.other", obj{})
	bob.Leave(room)
	if got := dataTypes(bob.Sync().At("rooms", "leave", room)); !slices.Equal(got, []string{"m.other"}) {
		t.Errorf("changed before leaving: %v", got)
	}
	const archived = `{"room":{"include_leave":true}}`
	if got := dataTypes(bob.SyncFrom("", "filter="+archived).At("rooms", "leave", room)); !slices.Equal(got, []string{"m.other", "m.test"}) {
		t.Errorf("of an archived room: %v", got)
	}
	if got := dataTypes(bob.SyncFrom("", `filter={"room":{"include_leave":true,"account_data":{"types":["m.o*"]}}}`).At("rooms", "leave", room)); !slices.Equal(got, []string{"m.other"}) {
		t.Errorf("of an archived room, filtered: %v", got)
	}
	// A tag on a room that was left long ago.
	bob.Must("PUT", "/user/"+bob.UserID+"/rooms/"+url.PathEscape(room)+"/tags/m.favourite", obj{})
	since := bob.Since
	left := bob.SyncFrom(since, "filter="+archived).At("rooms", "leave", room)
	if got := dataTypes(left); !slices.Equal(got, []string{"m.tag"}) || len(left.At("timeline", "events").List())+len(left.At("state", "events").List()) > 0 {
		t.Errorf("a change of an archived room: %s", left.Text())
	}
	if v := bob.SyncFrom(since); v.Exists("rooms") {
		t.Errorf("without include_leave: %s", v.Text())
	}
}

func TestTimelineLimitZero(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	alice.Filter = `{"room":{"timeline":{"limit":0}}}`
	j := alice.Sync().Joined(room)
	if len(j.At("timeline", "events").List()) != 0 || !j.At("timeline", "limited").Bool() {
		t.Errorf("at first: %s", j.Text())
	}
	if hstest.Find(j.At("state", "events").List(), mx.RoomMember, alice.UserID).V == nil {
		t.Errorf("the state is that of the end: %s", j.Text())
	}
	bob.Join(room)
	alice.Send(room, "one")
	j = alice.Sync().Joined(room)
	if len(j.At("timeline", "events").List()) != 0 || !j.At("timeline", "limited").Bool() || hstest.Find(j.At("state", "events").List(), mx.RoomMember, bob.UserID).V == nil {
		t.Errorf("then: %s", j.Text())
	}
	m := alice.Must("GET", hstest.Room(room)+"/messages?dir=b&limit=1&from="+j.At("timeline", "prev_batch").String(), nil)
	if got := hstest.Bodies(m.At("chunk").List()); !slices.Equal(got, []string{"one"}) {
		t.Errorf("from prev_batch: %v", got)
	}
	if v := alice.Sync(); v.Exists("rooms") {
		t.Errorf("nothing new: %s", v.Text())
	}
	alice.Must("PUT", "/user/"+alice.UserID+"/rooms/"+url.PathEscape(room)+"/tags/a", obj{})
	if j := alice.Sync().Joined(room); j.At("timeline", "limited").Bool() {
		t.Errorf("limited without an event: %s", j.Text())
	}
}

// Who joins gets what they noted of the room before, whatever changed of it since.
func TestRoomDataOnJoin(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	setRoomData(bob, room, "m.old", obj{})
	setRoomData(bob, room, "m.hidden", obj{})
	bob.Filter = `{"room":{"account_data":{"not_types":["m.hid*"]}}}`
	bob.Sync()
	setRoomData(bob, room, "m.new", obj{})
	bob.Join(room)
	if got := dataTypes(bob.Sync().Joined(room)); !slices.Equal(got, []string{"m.new", "m.old"}) {
		t.Errorf("on joining: %v", got)
	}
	v := bob.Sync("full_state=true")
	if got := dataTypes(v.Joined(room)); !slices.Equal(got, []string{"m.new", "m.old"}) {
		t.Errorf("full_state: %v", got)
	}
	if got := dataTypes(v); !slices.Equal(got, []string{mx.PushRules}) {
		t.Errorf("full_state, global: %v", got)
	}
}

func TestLazyLoadingOfLeftRooms(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	carol.Join(room)
	alice.Send(room, "hello")
	bob.Leave(room)
	members := func(v hstest.Value) []string {
		out := []string{}
		for _, e := range v.At("rooms", "leave", room, "state", "events").List() {
			if e.At("type").String() == mx.RoomMember {
				out = append(out, e.At("state_key").String())
			}
		}
		slices.Sort(out)
		return out
	}
	const filter = `filter={"room":{"include_leave":true,"timeline":{"limit":2},"state":{"lazy_load_members":%v}}}`
	if got := members(bob.SyncFrom("", fmt.Sprintf(filter, false))); len(got) != 3 {
		t.Errorf("not lazy: %v", got)
	}
	if got := members(bob.SyncFrom("", fmt.Sprintf(filter, true))); !slices.Equal(got, []string{alice.UserID, bob.UserID}) {
		t.Errorf("lazy: %v, want who sent something and oneself", got)
	}
}

// What became of a room after somebody left is not theirs, though another
// invitation, or a ban, ended later.
func TestLeftLongAgo(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	for _, ban := range []bool{false, true} {
		t.Run(fmt.Sprint("ban ", ban), func(t *testing.T) {
			room := alice.CreateRoom(obj{"preset": "public_chat", "topic": "open"})
			bob.Join(room)
			joined := bob.Sync().At("next_batch").String()
			bob.Leave(room)
			away := bob.Sync().At("next_batch").String()
			alice.SendState(room, mx.RoomTopic, "", obj{"topic": "secret"})
			alice.SendState(room, mx.RoomName, "", obj{"name": "secret"})
			if ban {
				alice.Must("POST", hstest.Room(room)+"/ban", obj{"user_id": bob.UserID})
			} else {
				alice.Invite(room, bob)
				bob.Leave(room)
			}
			for name, v := range map[string]hstest.Value{
				"from joined":       bob.SyncFrom(joined),
				"from away":         bob.SyncFrom(away),
				"state_after":       bob.SyncFrom(joined, "use_state_after=true"),
				"full state":        bob.SyncFrom(away, "full_state=true"),
				"archived":          bob.SyncFrom("", `filter={"room":{"include_leave":true}}`),
				"archived filtered": bob.SyncFrom("", `filter={"room":{"include_leave":true,"timeline":{"types":["m.room.member"]}}}`),
				"archived, limit 1": bob.SyncFrom("", `filter={"room":{"include_leave":true,"timeline":{"limit":1}}}`),
			} {
				left := v.At("rooms", "leave", room)
				if left.V == nil || strings.Contains(left.Text(), "secret") {
					t.Errorf("%s: %s", name, v.Text())
				}
				events := left.At("timeline", "events").List()
				if len(events) == 0 || events[len(events)-1].At("state_key").String() != bob.UserID {
					t.Errorf("%s: the end of the membership is missing: %s", name, left.Text())
				}
				if name == "archived" && hstest.Find(left.At("state", "events").List(), mx.RoomTopic, "").At("content", "topic").String() != "open" {
					t.Errorf("%s: the state of when they left: %s", name, left.Text())
				}
			}
			own := bob.SyncFrom(away).At("rooms", "leave", room, "timeline", "events", "-1", "event_id").String()
			if c := bob.Must("GET", hstest.Room(room)+"/context/"+url.PathEscape(own), nil); strings.Contains(c.Text(), "secret") {
				t.Errorf("context of the last member event: %s", c.Text())
			}
		})
	}
}

// A room that was forgotten still ends, and tells no more than that.
func TestForgottenInTheGap(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	bob.Sync()
	alice.Send(room, "said before")
	bob.Leave(room)
	bob.Must("POST", hstest.Room(room)+"/forget", obj{})
	left := bob.Sync().At("rooms", "leave", room)
	if e := left.At("timeline", "events").List(); len(e) != 1 || e[0].At("content", "membership").String() != "leave" {
		t.Errorf("forgotten: %s", left.Text())
	}
	if v := bob.SyncFrom("", `filter={"room":{"include_leave":true}}`); v.Exists("rooms") {
		t.Errorf("a forgotten room is not archived: %s", v.Text())
	}
	bob.Join(room)
	if got := hstest.Bodies(bob.Sync().Timeline(room)); !slices.Contains(got, "said before") {
		t.Errorf("joined again: %v", got)
	}
}

// gap runs what happens between two syncs of bob, who is joined before it or not,
// and gives the second sync.
func gap(t *testing.T, joined bool, do func(alice, bob *hstest.Client, room string)) (v hstest.Value, room string, bob *hstest.Client) {
	t.Helper()
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room = alice.CreateRoom(obj{"preset": "public_chat", "topic": "first",
		"initial_state": []obj{{"type": mx.RoomHistoryVisibility, "content": obj{"history_visibility": "joined"}}, {"type": mx.RoomJoinRules, "content": obj{"join_rule": "knock"}}}})
	if joined {
		alice.Invite(room, bob)
		bob.Join(room)
	}
	bob.Sync()
	do(alice, bob, room)
	return bob.Sync(), room, bob
}

func sections(v hstest.Value, room string) []string {
	out := []string{}
	for _, s := range []string{"join", "invite", "knock", "leave"} {
		if v.At("rooms", s).Exists(room) {
			out = append(out, s)
		}
	}
	return out
}

func TestMembershipsInTheGap(t *testing.T) {
	post := func(c *hstest.Client, room, what string, other *hstest.Client) {
		body := obj{}
		if other != nil {
			body["user_id"] = other.UserID
		}
		c.Must("POST", hstest.Room(room)+"/"+what, body)
	}
	knock := func(c *hstest.Client, room string) { c.Must("POST", "/knock/"+url.PathEscape(room), obj{}) }
	for _, c := range []struct {
		name   string
		joined bool
		do     func(alice, bob *hstest.Client, room string)
		want   string
	}{
		{"left and joined again", true, func(a, b *hstest.Client, r string) { b.Leave(r); a.Invite(r, b); b.Join(r) }, "join"},
		{"kicked", true, func(a, b *hstest.Client, r string) { post(a, r, "kick", b) }, "leave"},
		{"banned", true, func(a, b *hstest.Client, r string) { post(a, r, "ban", b) }, "leave"},
		{"banned and unbanned", true, func(a, b *hstest.Client, r string) { post(a, r, "ban", b); post(a, r, "unban", b) }, "leave"},
		{"kicked and invited again", true, func(a, b *hstest.Client, r string) { post(a, r, "kick", b); a.Invite(r, b) }, "invite"},
		{"left and knocking", true, func(a, b *hstest.Client, r string) { b.Leave(r); knock(b, r) }, "knock"},
		{"invited", false, func(a, b *hstest.Client, r string) { a.Invite(r, b) }, "invite"},
		{"invited and taken back", false, func(a, b *hstest.Client, r string) { a.Invite(r, b); post(a, r, "kick", b) }, "leave"},
		{"knock, invitation, join", false, func(a, b *hstest.Client, r string) { knock(b, r); a.Invite(r, b); b.Join(r) }, "join"},
		{"knock", false, func(a, b *hstest.Client, r string) { knock(b, r) }, "knock"},
		{"knock, retracted", false, func(a, b *hstest.Client, r string) { knock(b, r); b.Leave(r) }, "leave"},
		{"knock, refused", false, func(a, b *hstest.Client, r string) { knock(b, r); post(a, r, "kick", b) }, "leave"},
		{"joined and left", false, func(a, b *hstest.Client, r string) { a.Invite(r, b); b.Join(r); b.Leave(r) }, "leave"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, room, bob := gap(t, c.joined, func(a, b *hstest.Client, r string) {
				a.Send(r, "before")
				a.SendState(r, mx.RoomTopic, "", obj{"topic": "second"})
				c.do(a, b, r)
				a.SendState(r, "m.test", "later", obj{"n": 1})
			})
			if got := sections(v, room); !slices.Equal(got, []string{c.want}) {
				t.Fatalf("in %v, want %s: %s", got, c.want, v.Text())
			}
			r := v.At("rooms", c.want, room)
			switch c.want {
			case "invite", "knock":
				if hstest.Find(r.At(c.want+"_state", "events").List(), mx.RoomMember, bob.UserID).At("content", "membership").String() != c.want {
					t.Errorf("stripped state: %s", r.Text())
				}
			case "leave":
				e := r.At("timeline", "events").List()
				if len(e) == 0 || e[len(e)-1].At("state_key").String() != bob.UserID {
					t.Errorf("the timeline does not end with the leaving: %s", r.Text())
				}
				if strings.Contains(r.Text(), `"later"`) {
					t.Errorf("what came after: %s", r.Text())
				}
				if c.joined != slices.Contains(hstest.Bodies(e), "before") {
					t.Errorf("what was said before: %s", r.Text())
				}
			case "join":
				state := map[string]string{}
				for _, e := range append(r.At("state", "events").List(), r.At("timeline", "events").List()...) {
					if e.Exists("state_key") {
						state[e.At("type").String()+"|"+e.At("state_key").String()] = e.At("event_id").String()
					}
				}
				for _, e := range bob.Must("GET", hstest.Room(room)+"/state", nil).List() {
					k := e.At("type").String() + "|" + e.At("state_key").String()
					if got := state[k]; got != e.At("event_id").String() && !(c.joined && got == "") {
						t.Errorf("state %s is %q: %s", k, got, r.Text())
					}
				}
			}
			if v := bob.Sync(); v.Exists("rooms") {
				t.Errorf("again: %s", v.Text())
			}
		})
	}
}

func TestHeroesOfEmptyRooms(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	heroes := func(v hstest.Value) (out []string) {
		s := v.Joined(room).At("summary")
		if !s.Exists("m.heroes") {
			t.Errorf("no heroes: %s", v.Text())
		}
		for _, u := range s.At("m.heroes").List() {
			out = append(out, u.String())
		}
		return out
	}
	if got := heroes(alice.Sync()); len(got) != 0 {
		t.Errorf("alone: %v", got)
	}
	bob.Join(room)
	alice.Invite(room, carol)
	if got := heroes(alice.Sync()); !slices.Equal(got, []string{bob.UserID, carol.UserID}) {
		t.Errorf("with two: %v", got)
	}
	bob.Leave(room)
	if got := heroes(alice.Sync()); !slices.Equal(got, []string{carol.UserID}) {
		t.Errorf("one left: %v", got)
	}
	carol.Leave(room)
	if got := heroes(alice.Sync()); !slices.Equal(got, []string{bob.UserID, carol.UserID}) {
		t.Errorf("all left: %v", got)
	}
	alice.SendState(room, mx.RoomName, "", obj{"name": "named"})
	if s := alice.Sync().Joined(room).At("summary"); s.Exists("m.heroes") || s.At("m.joined_member_count").Int() != 1 {
		t.Errorf("named: %s", s.Text())
	}
	alice.SendState(room, mx.RoomName, "", obj{"name": ""})
	if got := heroes(alice.Sync()); len(got) != 2 {
		t.Errorf("no name again: %v", got)
	}
}

// What was read counts, whether or not the client wants to see receipts.
func TestCountsWithoutReceipts(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	id := alice.Send(room, "ping")
	bob.Filter = `{"room":{"ephemeral":{"types":[]}}}`
	unread := func(v hstest.Value) int {
		return v.Joined(room).At("unread_notifications", "notification_count").Int()
	}
	if n := unread(bob.Sync()); n != 1 {
		t.Fatalf("%d unread", n)
	}
	alice.Must("POST", hstest.Room(room)+"/receipt/m.read/"+url.PathEscape(id), obj{})
	if v := bob.Sync(); v.Exists("rooms") {
		t.Errorf("a receipt of another: %s", v.Text())
	}
	for _, typ := range []string{"m.read", "m.read.private"} {
		id := alice.Send(room, "pong")
		bob.Sync()
		v := bob.Woken(func() { bob.Must("POST", hstest.Room(room)+"/receipt/"+typ+"/"+url.PathEscape(id), obj{}) })
		if n := unread(v); n != 0 || v.Joined(room).Exists("ephemeral") {
			t.Errorf("%s: after reading: %s", typ, v.Text())
		}
	}
}

// State that the timeline's filter leaves out is in state, wherever it changed.
func TestStateBesideFilteredTimeline(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat", "topic": "first"})
	bob.Join(room)
	topic := func(r hstest.Value) string {
		return hstest.Find(r.At("state", "events").List(), mx.RoomTopic, "").At("content", "topic").String()
	}
	for _, limit := range []string{"1", "2", "50"} {
		filter := `filter={"room":{"include_leave":true,"timeline":{"types":["m.room.message"],"limit":` + limit + `}}}`
		since := bob.SyncFrom("", filter).At("next_batch").String()
		alice.Send(room, "one")
		alice.SendState(room, mx.RoomTopic, "", obj{"topic": "between " + limit})
		alice.Send(room, "two")
		alice.Send(room, "three")
		alice.SendState(room, mx.RoomTopic, "", obj{"topic": "after " + limit})
		for name, v := range map[string]hstest.Value{"later": bob.SyncFrom(since, filter), "first": bob.SyncFrom("", filter), "full": bob.SyncFrom(since, filter, "full_state=true")} {
			if got := topic(v.Joined(room)); got != "after "+limit {
				t.Errorf("limit %s, %s sync: topic %q: %s", limit, name, got, v.Joined(room).Text())
			}
		}
		bob.Leave(room)
		for name, v := range map[string]hstest.Value{"later": bob.SyncFrom(since, filter), "first": bob.SyncFrom("", filter)} {
			if got := topic(v.At("rooms", "leave", room)); got != "after "+limit {
				t.Errorf("limit %s, %s sync, left: topic %q", limit, name, got)
			}
		}
		bob.Join(room)
	}
}
