package admin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/notices"
	"holdfast/store"
)

type obj = hstest.Obj

const (
	v1 = "/_synapse/admin/v1"
	v2 = "/_synapse/admin/v2"
)

// ended asks for a status until it is one of an end. A test hangs rather than fails on
// a busy machine.
func ended(t *testing.T, c *hstest.Client, path string) hstest.Value {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		v := c.Must("GET", path, nil)
		if st := v.At("status").String(); st != "active" && st != "scheduled" {
			return v
		}
	}
	t.Fatalf("%s does not end", path)
	return hstest.Value{}
}

func deleted(t *testing.T, admin *hstest.Client, room string, body obj) hstest.Value {
	t.Helper()
	id := admin.Must("DELETE", v2+hstest.Room(room), body).At("delete_id").String()
	v := ended(t, admin, v2+"/rooms/delete_status/"+id)
	if v.At("status").String() != "complete" || v.At("delete_id").String() != id || v.At("room_id").String() != room {
		t.Fatalf("deletion: %s", v.Text())
	}
	return v
}

func purged(t *testing.T, admin *hstest.Client, path string, body obj) {
	t.Helper()
	id := admin.Must("POST", v1+"/purge_history/"+path, body).At("purge_id").String()
	if v := ended(t, admin, v1+"/purge_history_status/"+id); v.Text() != `{"status":"complete"}` {
		t.Fatalf("purge: %s", v.Text())
	}
}

// count is the number of rows of a table of which a condition holds.
func count(t *testing.T, hs *hstest.HS, from string, args ...any) (n int) {
	t.Helper()
	err := hs.DB.Read(context.Background(), func(q store.Querier) error {
		return q.QueryRow("SELECT count(*) FROM "+from, args...).Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func texts(list []hstest.Value) []string {
	out := []string{}
	for _, v := range list {
		out = append(out, v.String())
	}
	return out
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s are %q, want %q", what, got, want)
	}
}

// tablesOfRooms are all tables with rows of single rooms, and which those of a room are.
// $1 is the room's ID, $2 its number.
var tablesOfRooms = []string{
	"rooms WHERE room_id = $1 AND $2 = $2", "events WHERE room = $2 AND $1 = $1", "room_state WHERE room = $2 AND $1 = $1",
	"room_members WHERE room = $2 AND $1 = $1", "room_aliases WHERE room = $2 AND $1 = $1", "search_texts WHERE room = $2 AND $1 = $1",
	"room_receipts WHERE room_id = $1 AND $2 = $2", "room_typing WHERE room_id = $1 AND $2 = $2", "user_account_data WHERE room_id = $1 AND $2 = $2",
	"push_counts WHERE room_id = $1 AND $2 = $2", "delayed_events WHERE room_id = $1 AND $2 = $2", "appservice_rooms WHERE room_id = $1 AND $2 = $2",
}

func number(t *testing.T, hs *hstest.HS, room string) (nid int64) {
	t.Helper()
	err := hs.DB.Read(context.Background(), func(q store.Querier) (err error) {
		nid, err = hs.Rooms.Number(q, room)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return nid
}

// nothingLeft sees that of a room nothing is in the database but how people left it.
func nothingLeft(t *testing.T, hs *hstest.HS, room string, nid int64, groups int) {
	t.Helper()
	for _, table := range tablesOfRooms {
		if n := count(t, hs, table, room, nid); n > 0 {
			t.Errorf("%d rows are left: %s", n, table)
		}
	}
	if n := count(t, hs, "state_groups g WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.pos = g.id)"); n > 0 {
		t.Errorf("%d state groups are left", n)
	}
	if n := count(t, hs, "state_snapshots s WHERE NOT EXISTS (SELECT 1 FROM state_groups g WHERE g.id = s.state_group)"); n > 0 {
		t.Errorf("%d rows of snapshots are left", n)
	}
	if groups >= 0 {
		if n := count(t, hs, "state_groups"); n != groups {
			t.Errorf("there are %d state groups, want %d", n, groups)
		}
	}
}

func membership(v hstest.Value, user string) string {
	for _, e := range v.List() {
		if e.At("type").String() == mx.RoomMember && e.At("state_key").String() == user {
			return e.At("content", "membership").String()
		}
	}
	return ""
}

func slide(c *hstest.Client, pos string) hstest.Value {
	path := "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0"
	if pos != "" {
		path += "&pos=" + url.QueryEscape(pos)
	}
	return c.Must("POST", path, obj{"lists": obj{"all": obj{"ranges": [][]int{{0, 20}}, "timeline_limit": 5, "required_state": [][]string{{"m.room.name", ""}}}}})
}

func TestDeleteRoom(t *testing.T) {
	hs := hstest.New(t, nil)
	admin, alice, bob, carol, dave := hs.Admin(t, "admin"), hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol"), hs.Login(t, "dave")
	other := alice.CreateRoom(obj{"name": "other"})
	alice.Send(other, "elsewhere needle")
	groups := count(t, hs, "state_groups")
	room := alice.CreateRoom(obj{"preset": "public_chat", "visibility": "public", "room_alias_name": "bad", "name": "Bad"})
	nid := number(t, hs, room)
	bob.Join(room)
	alice.Invite(room, carol)
	dave.Join(room)
	dave.Leave(room)
	first := alice.Send(room, "needle one")
	bob.SendEvent(room, "m.reaction", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": first, "key": "+"}})
	for i := range 230 { // snapshots, and more than one write of each kind
		alice.SendState(room, "org.example.counter", fmt.Sprint(i%7), obj{"n": i})
	}
	last := bob.Send(room, "needle two")
	alice.Must("POST", hstest.Room(room)+"/receipt/m.read/"+last, obj{})
	alice.Must("PUT", "/user/"+alice.UserID+"/rooms/"+room+"/tags/m.favourite", obj{"order": 0.5})
	alice.Must("PUT", hstest.Room(room)+"/typing/"+alice.UserID, obj{"typing": true, "timeout": 60000})
	alice.Must("PUT", hstest.Room(room)+"/send/m.room.message/later?org.matrix.msc4140.delay=60000", obj{"body": "later", "msgtype": "m.text"})
	report := bob.Do("POST", hstest.Room(room)+"/report/"+first, obj{"reason": "bad"})
	if report.Status != 200 {
		t.Fatalf("report: %s", report.Body)
	}
	if n := len(alice.Must("POST", "/search", obj{"search_categories": obj{"room_events": obj{"search_term": "needle"}}}).At("search_categories", "room_events", "results").List()); n != 3 {
		t.Fatalf("%d are found before", n)
	}
	for _, c := range []*hstest.Client{alice, bob, carol, dave} {
		c.Sync()
	}
	pos := slide(alice, "").At("pos").String()
	offline := bob.Since

	bob.Fails(403, mx.Forbidden, "DELETE", v2+hstest.Room(room), obj{})
	admin.Fails(404, mx.NotFound, "DELETE", v2+"/rooms/"+url.PathEscape("!nothere:example.org"), obj{})
	admin.Fails(400, mx.InvalidParam, "DELETE", v2+"/rooms/nonsense", obj{})
	admin.Fails(400, mx.InvalidParam, "DELETE", v2+hstest.Room(room), obj{"new_room_user_id": "@a:elsewhere.org"})
	admin.Fails(404, mx.NotFound, "GET", v2+hstest.Room(room)+"/delete_status", nil)
	admin.Fails(404, mx.NotFound, "GET", v2+"/rooms/delete_status/nothing", nil)

	woken := bob.Woken(func() {
		v := deleted(t, admin, room, obj{"block": true})
		same(t, "kicked users", texts(v.At("shutdown_room", "kicked_users").List()), alice.UserID, bob.UserID, carol.UserID)
		if s := v.At("shutdown_room"); s.At("new_room_id").V != nil || len(s.At("failed_to_kick_users").List()) > 0 || len(s.At("local_aliases").List()) > 0 {
			t.Errorf("shutdown: %s", s.Text())
		}
	})
	if woken.At("rooms", "leave", room).V == nil {
		bob.Since = woken.At("next_batch").String()
		woken = bob.SyncUntil(func(v hstest.Value) bool { return v.At("rooms", "leave", room).V != nil })
	}
	if m := membership(woken.At("rooms", "leave", room, "timeline", "events"), bob.UserID); m != "leave" {
		t.Errorf("who waited sees %s", woken.Text())
	}
	nothingLeft(t, hs, room, nid, groups)
	if list := admin.Must("GET", v2+hstest.Room(room)+"/delete_status", nil).At("results").List(); len(list) != 1 || list[0].At("status").String() != "complete" {
		t.Errorf("statuses: %v", list)
	}
	// Who comes later learns of it once, also after a restart; dave, who had left, nothing.
	for _, restart := range []bool{false, true} {
		if restart {
			hs.Restart()
		}
		bob.Since = offline
		v := bob.Sync()
		if m := membership(v.At("rooms", "leave", room, "timeline", "events"), bob.UserID); m != "leave" {
			t.Errorf("restart %v: bob sees %s", restart, v.Text())
		}
		if v := bob.Sync(); v.At("rooms").V != nil && v.At("rooms", "leave", room).V != nil {
			t.Errorf("bob is told twice: %s", v.Text())
		}
	}
	if v := carol.Sync(); v.At("rooms", "leave", room).V == nil {
		t.Errorf("the invitation stays: %s", v.Text())
	}
	if v := dave.Sync(); strings.Contains(v.Text(), room) {
		t.Errorf("dave is told of it again: %s", v.Text())
	}
	if v := bob.SyncFrom(""); strings.Contains(v.Text(), room) {
		t.Errorf("a first sync knows it: %s", v.Text())
	}
	v := slide(alice, pos)
	if r := v.At("rooms", room); r.At("membership").String() != "leave" || membership(r.At("timeline"), alice.UserID) != "leave" {
		t.Errorf("sliding sync says %s", v.Text())
	}
	if v := slide(alice, v.At("pos").String()); v.At("rooms", room).V != nil || v.At("lists", "all", "count").Int() != 1 {
		t.Errorf("sliding sync says it twice: %s", v.Text())
	}
	// Nobody reads or writes there, and nothing is an error of the server's.
	p := hstest.Room(room)
	for _, path := range []string{"/messages?dir=b", "/state", "/members", "/context/" + url.PathEscape(first), "/joined_members", "/aliases"} {
		alice.Fails(403, mx.Forbidden, "GET", p+path, nil)
	}
	alice.Fails(404, mx.NotFound, "GET", p+"/event/"+url.PathEscape(first), nil)
	alice.Fails(404, mx.NotFound, "PUT", p+"/send/m.room.message/x", obj{"body": "x", "msgtype": "m.text"})
	alice.Fails(404, mx.NotFound, "POST", p+"/join", obj{})
	alice.Fails(404, mx.NotFound, "GET", "/directory/room/"+url.PathEscape("#bad:example.org"), nil)
	if n := alice.Must("GET", "/publicRooms", nil).At("total_room_count_estimate").Int(); n != 0 {
		t.Errorf("%d rooms are listed", n)
	}
	if n := len(alice.Must("POST", "/search", obj{"search_categories": obj{"room_events": obj{"search_term": "needle"}}}).At("search_categories", "room_events", "results").List()); n != 1 {
		t.Errorf("%d are found", n)
	}
	admin.Fails(404, mx.NotFound, "GET", v1+p, nil)
	if !admin.Must("GET", v1+p+"/block", nil).At("block").Bool() {
		t.Error("it is not blocked")
	}
	if list := admin.Must("GET", v1+"/event_reports", nil).At("event_reports").List(); len(list) != 1 || list[0].At("room_id").String() != room {
		t.Errorf("the report went with the room: %v", list)
	}
	// The alias and all else can be taken anew, and no number is given twice.
	again := alice.CreateRoom(obj{"room_alias_name": "bad"})
	if n := number(t, hs, again); n <= nid {
		t.Errorf("the number of the new room is %d, that of the deleted one was %d", n, nid)
	}
}

func TestDeleteRoomIntoAnother(t *testing.T) {
	hs := hstest.New(t, nil)
	admin, alice, bob := hs.Admin(t, "admin"), hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"room_alias_name": "old", "preset": "public_chat"})
	bob.Join(room)
	notices := "@notices:example.org"
	v := admin.Must("DELETE", v1+hstest.Room(room), obj{"new_room_user_id": notices, "room_name": "Gone", "message": "It had to go."})
	next := v.At("new_room_id").String()
	same(t, "kicked users", texts(v.At("kicked_users").List()), alice.UserID, bob.UserID)
	same(t, "aliases", texts(v.At("local_aliases").List()), "#old:example.org")
	if id := alice.Must("GET", "/directory/room/"+url.PathEscape("#old:example.org"), nil).At("room_id").String(); id != next {
		t.Errorf("the alias leads to %s", id)
	}
	if name := bob.Must("GET", hstest.Room(next)+"/state/m.room.name", nil).At("name").String(); name != "Gone" {
		t.Errorf("the new room is called %q", name)
	}
	said := 0
	for _, e := range bob.Must("GET", hstest.Room(next)+"/messages?dir=b&limit=50", nil).At("chunk").List() {
		if e.At("type").String() == mx.RoomMessage && e.At("sender").String() == notices && e.At("content", "body").String() == "It had to go." {
			said++
		}
	}
	if said != 1 {
		t.Errorf("it is said %d times", said)
	}
	bob.Fails(403, mx.Forbidden, "PUT", hstest.Room(next)+"/send/m.room.message/x", obj{"body": "but", "msgtype": "m.text"})
	admin.Fails(404, mx.NotFound, "DELETE", v1+hstest.Room(room), obj{})
	// The old form blocks rooms that are not known.
	unknown := "!unknown:example.org"
	if v := admin.Must("DELETE", v1+hstest.Room(unknown), obj{"block": true}); v.Text() != `{"failed_to_kick_users":[],"kicked_users":[],"local_aliases":[],"new_room_id":null}` {
		t.Errorf("a room that is not known: %s", v.Text())
	}
	if !admin.Must("GET", v1+hstest.Room(unknown)+"/block", nil).At("block").Bool() {
		t.Error("it is not blocked")
	}
}

func TestShutRoomWithoutPurge(t *testing.T) {
	hs := hstest.New(t, nil)
	admin, alice, bob := hs.Admin(t, "admin"), hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat", "room_alias_name": "kept"})
	bob.Join(room)
	pos := slide(bob, "").At("pos").String()
	bob.Sync()
	deleted(t, admin, room, obj{"purge": false, "block": true})
	if v := bob.Sync(); v.At("rooms", "leave", room).V == nil {
		t.Errorf("bob sees %s", v.Text())
	}
	if v := slide(bob, pos); v.At("rooms", room, "membership").String() != "leave" {
		t.Errorf("sliding sync says %s", v.Text())
	}
	bob.Fails(403, mx.Forbidden, "GET", hstest.Room(room)+"/messages?dir=b", nil)
	bob.Fails(403, mx.Forbidden, "POST", hstest.Room(room)+"/join", obj{})
	if v := admin.Must("GET", v1+hstest.Room(room), nil); v.At("joined_members").Int() != 0 || !v.At("forgotten").Bool() {
		t.Errorf("the room is %s", v.Text())
	}
	if id := bob.Must("GET", "/directory/room/"+url.PathEscape("#kept:example.org"), nil).At("room_id").String(); id != room {
		t.Errorf("the alias leads to %s", id)
	}
	// It can still be purged, and only once.
	deleted(t, admin, room, obj{})
	admin.Fails(404, mx.NotFound, "DELETE", v2+hstest.Room(room), obj{})
}

func TestPurgeHistory(t *testing.T) {
	hs := hstest.New(t, nil)
	admin, alice, bob := hs.Admin(t, "admin"), hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat", "name": "first name"})
	bob.Join(room)
	early := bob.Sync().At("next_batch").String()
	root := alice.Send(room, "root of a thread")
	var old []string
	for i := range 250 {
		old = append(old, alice.Send(room, fmt.Sprintf("old %d", i)))
	}
	gone := alice.Send(room, "redacted long ago")
	alice.Redact(room, gone)
	named := alice.SendState(room, mx.RoomName, "", obj{"name": "regretted"})
	unnamed := alice.Redact(room, named)
	alice.SendState(room, mx.RoomName, "", obj{"name": "second name"})
	alice.Must("POST", hstest.Room(room)+"/receipt/m.read/"+old[100], obj{})
	middle := alice.Sync().At("next_batch").String()
	kept := alice.Send(room, "kept")
	reply := alice.SendEvent(room, mx.RoomMessage, obj{"body": "in the thread", "msgtype": "m.text", "m.relates_to": obj{"rel_type": "m.thread", "event_id": root}})
	edit := alice.SendEvent(room, mx.RoomMessage, obj{"body": "* x", "msgtype": "m.text", "m.new_content": obj{"body": "edited needle", "msgtype": "m.text"}, "m.relates_to": obj{"rel_type": mx.RelReplace, "event_id": old[3]}})
	state := count(t, hs, "events WHERE state_key IS NOT NULL")
	slid := slide(bob, "").At("pos").String()
	if n := bob.Must("GET", "/sync", nil).Joined(room).At("unread_notifications", "notification_count").Int(); n < 250 {
		t.Fatalf("bob has %d unread", n)
	}

	path := url.PathEscape(room)
	admin.Fails(400, mx.BadJSON, "POST", v1+"/purge_history/"+path, obj{})
	admin.Fails(400, mx.BadJSON, "POST", v1+"/purge_history/"+path, obj{"purge_up_to_ts": "soon"})
	admin.Fails(404, mx.NotFound, "POST", v1+"/purge_history/"+path, obj{"purge_up_to_ts": 5})
	admin.Fails(404, mx.NotFound, "POST", v1+"/purge_history/"+path+"/$nothing", obj{})
	admin.Fails(404, mx.NotFound, "POST", v1+"/purge_history/"+url.PathEscape("!no:example.org")+"/"+kept, obj{})
	admin.Fails(404, mx.NotFound, "GET", v1+"/purge_history_status/nothing", nil)
	elsewhere := alice.CreateRoom(nil)
	admin.Fails(400, mx.InvalidParam, "POST", v1+"/purge_history/"+url.PathEscape(elsewhere)+"/"+kept, obj{})
	alice.Fails(403, mx.Forbidden, "POST", v1+"/purge_history/"+path+"/"+kept, obj{})

	// What users of this server sent stays, unless one says so.
	purged(t, admin, path, obj{"purge_up_to_event_id": kept})
	bob.Must("GET", hstest.Room(room)+"/event/"+old[0], nil)

	purged(t, admin, path+"/"+kept, obj{"delete_local_events": true})
	for _, id := range []string{root, old[0], old[249], gone} {
		bob.Fails(404, mx.NotFound, "GET", hstest.Room(room)+"/event/"+url.PathEscape(id), nil)
		bob.Fails(404, mx.NotFound, "GET", hstest.Room(room)+"/context/"+url.PathEscape(id), nil)
		bob.Fails(404, mx.NotFound, "GET", "/_matrix/client/v1"+hstest.Room(room)+"/relations/"+url.PathEscape(id), nil)
	}
	if n := count(t, hs, "events WHERE state_key IS NOT NULL"); n != state+6 { // of the other room
		t.Errorf("there are %d pieces of state, before %d", n, state)
	}
	check := func(when string) {
		t.Helper()
		var ids []string
		for from := ""; ; {
			v := bob.Must("GET", hstest.Room(room)+"/messages?dir=b&limit=7"+from, nil)
			for _, e := range v.At("chunk").List() {
				if e.At("state_key").V == nil {
					ids = append(ids, e.At("event_id").String())
				}
			}
			if v.At("end").V == nil {
				break
			}
			from = "&from=" + v.At("end").String()
		}
		same(t, when+": messages", ids, edit, reply, kept, unnamed)
		// The redaction of a name that stays is told with it.
		if by := bob.Must("GET", hstest.Room(room)+"/event/"+url.PathEscape(named), nil).At("unsigned", "redacted_because", "event_id").String(); by != unnamed {
			t.Errorf("%s: the name was redacted by %q", when, by)
		}
		for _, since := range []string{early, middle} {
			v := bob.SyncFrom(since).Joined(room)
			list := v.At("timeline", "events").List()
			if len(list) == 0 || list[len(list)-1].At("event_id").String() != edit {
				t.Errorf("%s: sync from %s: %s", when, since, v.Text())
			}
		}
		v := bob.Must("GET", hstest.Room(room)+"/context/"+url.PathEscape(kept), nil)
		if v.At("event", "event_id").String() != kept || !strings.Contains(v.At("state").Text(), "second name") {
			t.Errorf("%s: context: %s", when, v.Text())
		}
		if n := bob.SyncFrom("").Joined(room).At("unread_notifications", "notification_count").Int(); n != 2 { // an edit notifies nobody
			t.Errorf("%s: bob has %d unread", when, n)
		}
		if list := bob.Must("GET", "/_matrix/client/v1"+hstest.Room(room)+"/threads", nil).At("chunk").List(); len(list) != 0 {
			t.Errorf("%s: threads: %v", when, list)
		}
		for _, term := range []string{"old", "root", "needle"} {
			if v := bob.Must("POST", "/search", obj{"search_categories": obj{"room_events": obj{"search_term": term}}}).At("search_categories", "room_events"); v.At("count").Int() != 0 {
				t.Errorf("%s: %q is found: %s", when, term, v.Text())
			}
		}
		alice.Must("GET", "/sync", nil)
		alice.Must("GET", "/notifications", nil)
		alice.Must("POST", hstest.Room(room)+"/receipt/m.read/"+edit, obj{})
	}
	check("at once")
	if v := slide(bob, slid); v.At("rooms", room).V != nil && len(v.At("rooms", room, "timeline").List()) > 0 {
		t.Errorf("sliding sync has something new: %s", v.Text())
	}
	hs.Restart()
	check("after a restart")
	bob.Must("GET", hstest.Room(room)+"/messages?dir=f&from="+early, nil)
	last := bob.Send(room, "and on")
	edit = last
	// The room's last event stays, whatever is asked for.
	purged(t, admin, path, obj{"purge_up_to_ts": time.Now().UnixMilli() + 1000, "delete_local_events": true})
	bob.Must("GET", hstest.Room(room)+"/event/"+url.PathEscape(last), nil)
	if n := count(t, hs, "events WHERE state_key IS NULL AND room = $1", number(t, hs, room)); n != 2 { // and the redaction of a name
		t.Errorf("%d messages are left", n)
	}
	alice.Send(room, "and further")
}

// A purge and a deletion that are interrupted anywhere go on after a restart.
func TestTasksGoOn(t *testing.T) {
	hs := hstest.New(t, nil)
	admin, alice := hs.Admin(t, "admin"), hs.Login(t, "alice")
	keep := alice.CreateRoom(nil)
	groups := count(t, hs, "state_groups")
	room := alice.CreateRoom(obj{"preset": "public_chat", "room_alias_name": "going"})
	nid := number(t, hs, room)
	var members []*hstest.Client
	for i := range 60 {
		c := hs.Login(t, fmt.Sprintf("member%02d", i))
		c.Join(room)
		members = append(members, c)
	}
	for i := range 700 {
		alice.Send(room, fmt.Sprint("message ", i))
	}
	last := alice.Send(room, "last")
	id := admin.Must("POST", v1+"/purge_history/"+url.PathEscape(room)+"/"+last, obj{"delete_local_events": true}).At("purge_id").String()
	stops := 0
	for amid := 0; ; stops++ {
		hs.Restart()
		time.Sleep(time.Duration(stops) * 100 * time.Microsecond) // sooner or later it gets on between two restarts
		status := admin.Must("GET", v1+"/purge_history_status/"+id, nil).At("status").String()
		n := count(t, hs, "events WHERE room = $1 AND type = 'm.room.message'", nid)
		if n > 1 && n < 700 {
			amid++
		}
		if status == "complete" {
			if n != 1 || amid == 0 {
				t.Errorf("%d messages are left, it was interrupted %d times amidst", n, amid)
			}
			break
		}
		if status != "active" || stops > 1000 {
			t.Fatalf("the purge is %s", status)
		}
	}
	for _, c := range members {
		c.Sync()
	}
	alice.Sync()
	id = admin.Must("DELETE", v2+hstest.Room(room), obj{"new_room_user_id": admin.UserID}).At("delete_id").String()
	seen := map[string]bool{}
	for amid := 0; ; stops++ {
		hs.Restart()
		time.Sleep(time.Duration(amid) * 100 * time.Microsecond)
		v := admin.Must("GET", v2+"/rooms/delete_status/"+id, nil)
		var cursor struct {
			NewRoom string `json:"new_room"`
			Number  int64  `json:"number"`
			Swept   int    `json:"swept"`
		}
		err := hs.DB.Read(context.Background(), func(q store.Querier) error {
			var raw string
			if err := q.QueryRow(`SELECT coalesce(cursor, '{}') FROM tasks WHERE id = $1`, id).Scan(&raw); err != nil {
				return err
			}
			return json.Unmarshal([]byte(raw), &cursor)
		})
		if err != nil {
			t.Fatal(err)
		}
		seen[fmt.Sprint(cursor.NewRoom != "", len(v.At("shutdown_room", "kicked_users").List()) > 0, cursor.Number > 0, cursor.Swept > 0)] = true
		if v.At("status").String() == "complete" {
			if kicked := texts(v.At("shutdown_room", "kicked_users").List()); len(kicked) != 61 {
				t.Errorf("%d were kicked", len(kicked))
			}
			if next := v.At("shutdown_room", "new_room_id").String(); next != cursor.NewRoom || next == "" {
				t.Errorf("the new room is %q or %q", next, cursor.NewRoom)
			}
			break
		}
		if amid++; amid > 1000 {
			t.Fatalf("the deletion is %s, at %+v", v.Text(), cursor)
		}
	}
	if len(seen) < 3 {
		t.Errorf("it was interrupted in too few places: %v", seen)
	}
	nothingLeft(t, hs, room, nid, -1)
	if n := count(t, hs, "rooms"); n != 2 {
		t.Errorf("there are %d rooms, want the other one and the new one", n)
	}
	for _, c := range append(members, alice) {
		v := c.Sync()
		if membership(v.At("rooms", "leave", room, "timeline", "events"), c.UserID) != "leave" || len(v.At("rooms", "join").Keys()) != 1 {
			t.Fatalf("%s sees %s", c.UserID, v.Text())
		}
	}
	_ = groups
	alice.Send(keep, "all goes on")
}

func TestRedactUser(t *testing.T) {
	hs := hstest.New(t, nil)
	admin, alice, mallory := hs.Admin(t, "admin"), hs.Login(t, "alice"), hs.Login(t, "mallory")
	in, out, muted := alice.CreateRoom(obj{"preset": "public_chat"}), alice.CreateRoom(obj{"preset": "public_chat", "room_version": "12"}), alice.CreateRoom(obj{"preset": "public_chat", "room_version": "6"})
	var bad []struct{ room, id string }
	for _, room := range []string{in, out, muted} {
		mallory.Join(room)
		for range 15 {
			bad = append(bad, struct{ room, id string }{room, mallory.Send(room, "spam")})
			alice.Send(room, "good")
		}
	}
	topic := alice.Send(in, "fine")
	alice.Must("POST", hstest.Room(out)+"/ban", obj{"user_id": mallory.UserID})
	levels := alice.Must("GET", hstest.Room(muted)+"/state/m.room.power_levels", nil).V.(map[string]any)
	levels["users"].(map[string]any)[mallory.UserID] = -1
	alice.SendState(muted, mx.RoomPowerLevels, "", levels)
	path := v1 + "/user/" + mallory.UserID + "/redact"
	admin.Fails(400, mx.MissingParam, "POST", path, obj{})
	admin.Fails(400, mx.InvalidParam, "POST", path, obj{"rooms": []string{}, "limit": 0})
	admin.Fails(404, mx.NotFound, "POST", path, obj{"rooms": []string{"!no:example.org"}})
	admin.Fails(404, mx.NotFound, "GET", v1+"/user/redact_status/nothing", nil)
	alice.Fails(403, mx.Forbidden, "POST", path, obj{"rooms": []string{}})
	redact := func(body obj) hstest.Value {
		t.Helper()
		id := admin.Must("POST", path, body).At("redact_id").String()
		v := ended(t, admin, v1+"/user/redact_status/"+id)
		if v.At("status").String() != "complete" {
			t.Fatalf("redaction: %s", v.Text())
		}
		return v.At("failed_redactions")
	}
	redacted := func() (n int) {
		t.Helper()
		for _, b := range bad {
			e := alice.Must("GET", hstest.Room(b.room)+"/event/"+url.PathEscape(b.id), nil)
			if e.At("content", "body").V == nil {
				n++
				if e.At("unsigned", "redacted_because", "content", "reason").String() != "spam" {
					t.Errorf("redacted by %s", e.Text())
				}
			}
		}
		return n
	}
	// In the administrator's name: who has no power in the room cannot.
	if failed := redact(obj{"rooms": []string{in}, "use_admin": true, "reason": "spam", "limit": 2}); len(failed.Keys()) != 2 {
		t.Errorf("failures: %s", failed.Text())
	}
	if n := redacted(); n != 0 {
		t.Errorf("%d are redacted", n)
	}
	// The newest ones only.
	redact(obj{"rooms": []string{in}, "reason": "spam", "limit": 2})
	if n := redacted(); n != 2 {
		t.Errorf("%d are redacted, want 2", n)
	}
	if failed := redact(obj{"rooms": []string{in}, "reason": "spam", "before_ts": 1000}); len(failed.Keys()) != 0 || redacted() != 2 {
		t.Errorf("what was sent later is redacted, or not: %s", failed.Text())
	}
	// All, also where the user was put out or must not write.
	if failed := redact(obj{"rooms": []string{}, "reason": "spam"}); len(failed.Keys()) != 0 {
		t.Errorf("failures: %s", failed.Text())
	}
	if n := redacted(); n != len(bad) {
		t.Errorf("%d of %d are redacted", n, len(bad))
	}
	if body := alice.Must("GET", hstest.Room(in)+"/event/"+url.PathEscape(topic), nil).At("content", "body").String(); body != "fine" {
		t.Error("what others wrote is redacted")
	}
	if m := alice.Must("GET", hstest.Room(in)+"/state/m.room.member/"+mallory.UserID, nil); m.Text() != `{"membership":"join"}` {
		t.Errorf("the name is still there: %s", m.Text())
	}
	// The same again finds nothing, and the rooms go on, also when they are read anew.
	events := count(t, hs, "events")
	redact(obj{"rooms": []string{}, "reason": "spam"})
	if n := count(t, hs, "events"); n != events {
		t.Errorf("%d more events", n-events)
	}
	hs.Restart()
	for _, room := range []string{in, out, muted} {
		alice.Send(room, "on")
	}
}

func TestScheduledTasks(t *testing.T) {
	hs := hstest.New(t, nil)
	admin, alice := hs.Admin(t, "admin"), hs.Login(t, "alice")
	a, b := alice.CreateRoom(nil), alice.CreateRoom(nil)
	last := alice.Send(a, "x")
	purged(t, admin, url.PathEscape(a)+"/"+last, obj{})
	deleted(t, admin, b, obj{})
	list := func(query string) []hstest.Value {
		return admin.Must("GET", v1+"/scheduled_tasks?"+query, nil).At("scheduled_tasks").List()
	}
	all := list("")
	if len(all) != 2 || all[0].At("action").String() != "shutdown_and_purge_room" || all[0].At("resource_id").String() != b || all[0].At("status").String() != "complete" ||
		all[0].At("timestamp_ms").Int() == 0 || all[0].At("id").String() == "" || all[0].At("error").V != nil || all[0].At("result", "kicked_users", "0").String() != alice.UserID {
		t.Errorf("tasks: %v", all)
	}
	for query, want := range map[string]int{"action_name=purge_history": 1, "action_name=other": 0, "resource_id=" + url.QueryEscape(b): 1, "status=complete": 2, "status=failed": 0,
		"max_timestamp=1": 0, "max_timestamp=99999999999999": 2, "action_name=purge_history&resource_id=" + url.QueryEscape(b): 0} {
		if got := list(query); len(got) != want {
			t.Errorf("%s gives %d, want %d", query, len(got), want)
		}
	}
	admin.Fails(400, mx.InvalidParam, "GET", v1+"/scheduled_tasks?status=lost", nil)
	admin.Fails(400, mx.InvalidParam, "GET", v1+"/scheduled_tasks?max_timestamp=x", nil)
	alice.Fails(403, mx.Forbidden, "GET", v1+"/scheduled_tasks", nil)
}

// The room of a user's notices, which its user cannot leave, can be deleted; the next
// notice makes a new one.
func TestDeleteRoomOfNotices(t *testing.T) {
	hs := hstest.New(t, nil)
	admin, alice := hs.Admin(t, "admin"), hs.Login(t, "alice")
	notice := func(text string) string {
		t.Helper()
		content, err := json.Marshal(obj{"msgtype": "m.text", "body": text})
		if err == nil {
			_, err = hs.Notices.Send(context.Background(), notices.Notice{UserID: alice.UserID, Content: content})
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range alice.Sync().At("rooms", "join").Keys() {
			return id
		}
		t.Fatal("no notice came")
		return ""
	}
	room := notice("one")
	alice.Fails(403, mx.CannotLeaveNotices, "POST", hstest.Room(room)+"/leave", obj{})
	deleted(t, admin, room, obj{})
	if v := alice.Sync(); v.At("rooms", "leave", room).V == nil {
		t.Errorf("alice sees %s", v.Text())
	}
	if next := notice("two"); next == room {
		t.Error("the room is still there")
	}
}
