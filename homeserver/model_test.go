package homeserver_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/rooms"
	"holdfast/store"
)

// Every way to read is compared with a model of the rooms that is as plain as can
// be: a list of events for each room, gone through from the beginning for each question.

var (
	modelSeed  = flag.Int64("model.seed", 0, "seed of the random rooms; 0: any")
	modelRooms = flag.Int("model.rooms", 0, "how many rooms there are; 0: 40, or 8 with -short")
)

type obj = hstest.Obj

// mEvent is an event as it was sent.
type mEvent struct {
	id, typ, sender string
	key             *string
	content         obj
	pos, ts         int64
	redacts         string
}

func (e *mEvent) str(k string) string { s, _ := e.content[k].(string); return s }

// rel is what the event relates to.
func (e *mEvent) rel() (typ, id string) {
	m, _ := e.content["m.relates_to"].(obj)
	typ, _ = m["rel_type"].(string)
	id, _ = m["event_id"].(string)
	return typ, id
}

// mRoom is a room as the model knows it.
type mRoom struct {
	id        string
	events    []*mEvent
	forgotten map[string]bool
}

// state is the state after the first n events.
func (r *mRoom) state(n int) map[string]*mEvent {
	s := map[string]*mEvent{}
	for _, e := range r.events[:n] {
		if e.key != nil {
			s[e.typ+"\x00"+*e.key] = e
		}
	}
	return s
}

func (r *mRoom) membership(user string, n int) string {
	if e := r.state(n)[mx.RoomMember+"\x00"+user]; e != nil {
		return e.str("membership")
	}
	return ""
}

func (r *mRoom) visibility(n int) string {
	if e := r.state(n)[mx.RoomHistoryVisibility+"\x00"]; e != nil {
		switch v := e.str("history_visibility"); v {
		case "world_readable", "invited", "joined":
			return v
		}
	}
	return "shared"
}

func (r *mRoom) now(user string) string { return r.membership(user, len(r.events)) }

// sees is the specification's list of rules, for the i-th event.
func (r *mRoom) sees(user string, i int) bool {
	e := r.events[i]
	allowed := func(visibility, membership string) bool {
		if visibility == "world_readable" || membership == "join" {
			return true
		}
		if visibility == "shared" {
			for _, later := range r.events[i+1:] {
				if later.typ == mx.RoomMember && *later.key == user && later.str("membership") == "join" {
					return true
				}
			}
		}
		return visibility == "invited" && membership == "invite"
	}
	before, after := i, i+1
	switch {
	case allowed(r.visibility(before), r.membership(user, before)):
		return true
	case e.typ == mx.RoomHistoryVisibility && e.key != nil:
		return allowed(r.visibility(after), r.membership(user, before))
	case e.typ == mx.RoomMember && *e.key == user:
		// Beyond the text: everybody learns of the end of their own membership.
		after := r.membership(user, after)
		return after == "leave" || after == "ban" || allowed(r.visibility(before), after)
	}
	return false
}

// left is how many events there were when a former member left, -1 for others.
func (r *mRoom) left(user string) int {
	n, joined := -1, false
	for i, e := range r.events {
		if e.typ != mx.RoomMember || *e.key != user {
			continue
		}
		switch e.str("membership") {
		case "join":
			joined = true
		case "leave", "ban":
			if joined {
				n, joined = i+1, false
			}
		}
	}
	if r.now(user) == "join" {
		return -1
	}
	return n
}

// enters reports whether the user may read in the room at all.
func (r *mRoom) enters(user string) bool {
	return r.now(user) == "join" || r.visibility(len(r.events)) == "world_readable" || r.left(user) >= 0 && !r.forgotten[user]
}

// visible are the events that the user sees, oldest first.
func (r *mRoom) visible(user string) []*mEvent {
	var out []*mEvent
	for i := range r.events {
		if r.sees(user, i) {
			out = append(out, r.events[i])
		}
	}
	return out
}

// redacted are the IDs of redacted events.
func (r *mRoom) redacted() map[string]bool {
	m := map[string]bool{}
	for _, e := range r.events {
		if e.typ == mx.RoomRedaction {
			m[e.redacts] = true
		}
	}
	return m
}

// related are the visible events that relate to one, oldest first.
func related(visible []*mEvent, gone map[string]bool, id, relType string) []*mEvent {
	var out []*mEvent
	for _, e := range visible {
		if typ, to := e.rel(); to == id && (relType == "" || typ == relType) && !gone[e.id] {
			out = append(out, e)
		}
	}
	return out
}

// descend are the visible events that relate to one, or to what does, three deep;
// oldest first. It goes on below what is hidden, too.
func (r *mRoom) descend(id string, visible []*mEvent, gone map[string]bool) []string {
	found, level := map[string]bool{id: true}, []string{id}
	for range 3 {
		var next []string
		for _, p := range level {
			for _, e := range related(r.events, gone, p, "") {
				if !found[e.id] {
					found[e.id] = true
					next = append(next, e.id)
				}
			}
		}
		level = next
	}
	out := []string{}
	for _, e := range visible {
		if found[e.id] && e.id != id {
			out = append(out, e.id)
		}
	}
	return out
}

// edit is the newest valid edit of an event among the visible ones.
func edit(visible []*mEvent, gone map[string]bool, e *mEvent) *mEvent {
	if typ, _ := e.rel(); typ == "m.replace" || gone[e.id] || e.key != nil {
		return nil
	}
	var best *mEvent
	for _, x := range related(visible, gone, e.id, "m.replace") {
		if _, ok := x.content["m.new_content"].(obj); ok && x.sender == e.sender && x.typ == e.typ &&
			(best == nil || x.ts > best.ts || x.ts == best.ts && x.id > best.id) {
			best = x
		}
	}
	return best
}

func ids(list []*mEvent) []string {
	out := []string{}
	for _, e := range list {
		out = append(out, e.id)
	}
	return out
}

func idsOf(list []hstest.Value) []string {
	out := []string{}
	for _, e := range list {
		out = append(out, e.At("event_id").String())
	}
	return out
}

func reversed(list []string) []string {
	out := slices.Clone(list)
	slices.Reverse(out)
	return out
}

func sorted(list []string) []string {
	out := slices.Clone(list)
	slices.Sort(out)
	return out
}

// model is the rooms, the users, and what drives them.
type model struct {
	t       *testing.T
	hs      *hstest.HS
	rnd     *rand.Rand
	users   []*hstest.Client
	rooms   []*mRoom
	byID    map[string]*mRoom
	pos     int64 // events up to here are in the model
	n       int
	at      []int64 // positions of tokens, to ask for members at
	admin   *hstest.Client
	purged  int
	deleted []*mRoom
	leaves  map[string]int                 // user and deleted room: 1: it is to be told; -1: it was
	live    map[string]map[string][]string // user, room: what incremental syncs told
	ignore  map[string]string              // user: whom they ignore
}

// learn takes over what was stored since.
func (m *model) learn() {
	var list []*rooms.Event
	err := m.hs.DB.Read(context.Background(), func(q store.Querier) (err error) {
		list, err = m.hs.Rooms.After(q, m.pos, 1000)
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	for _, e := range list {
		r := m.byID[e.RoomID]
		if r == nil {
			r = &mRoom{id: e.RoomID, forgotten: map[string]bool{}}
			m.byID[e.RoomID] = r
			m.rooms = append(m.rooms, r)
		}
		x := &mEvent{id: e.ID, typ: e.Type, sender: e.Sender, key: e.StateKey, pos: e.Pos, ts: e.OriginServerTS, redacts: e.Redacts}
		if err := json.Unmarshal(e.Content, &x.content); err != nil {
			m.t.Fatal(err)
		}
		if e.Type == mx.RoomMember {
			delete(r.forgotten, *e.StateKey)
		}
		r.events = append(r.events, x)
		m.pos = e.Pos
	}
}

func (m *model) user() *hstest.Client { return m.users[m.rnd.Intn(len(m.users))] }

func (m *model) create() {
	preset := []string{"public_chat", "private_chat"}[m.rnd.Intn(2)]
	state := []obj{}
	if v := m.rnd.Intn(5); v < 4 {
		state = append(state, obj{"type": mx.RoomHistoryVisibility, "content": obj{"history_visibility": visibilities[v]}})
	}
	if m.rnd.Intn(3) == 0 {
		state = append(state, obj{"type": mx.RoomJoinRules, "content": obj{"join_rule": "knock"}})
	}
	m.user().CreateRoom(obj{"preset": preset, "room_version": []string{"8", "10", "11", "12"}[m.rnd.Intn(4)], "initial_state": state,
		// Everybody may do nearly everything: fewer refusals.
		"power_level_content_override": obj{"users_default": 50, "events": obj{"m.room.history_visibility": 50}}})
}

var visibilities = []string{"joined", "invited", "shared", "world_readable"}

// act does something at random. Much of it is refused: that is part of it.
func (m *model) act() {
	m.n++
	c, other := m.user(), m.user()
	r := m.rooms[m.rnd.Intn(len(m.rooms))]
	p, what := hstest.Room(r.id), m.rnd.Intn(30)
	// Mostly somebody who can: a member, but to join and the like.
	for try := 0; try < 10 && (r.now(c.UserID) == "join") != (what < 20 || what >= 23 && what < 28); try++ {
		c = m.user()
	}
	any := r.events[m.rnd.Intn(len(r.events))]
	send := func(typ string, content obj) { c.Do("PUT", fmt.Sprintf("%s/send/%s/m%d", p, typ, m.n), content) }
	if what >= 8 && what < 16 && m.rnd.Intn(8) == 0 { // of another room, to which it must make no difference
		other := m.rooms[m.rnd.Intn(len(m.rooms))]
		any = other.events[m.rnd.Intn(len(other.events))]
	}
	text := fmt.Sprintf("common v%dv", m.n)
	switch k := what; {
	case k < 8:
		send(mx.RoomMessage, obj{"msgtype": "m.text", "body": text})
	case k < 10:
		send(mx.RoomMessage, obj{"msgtype": "m.text", "body": text, "m.relates_to": obj{"rel_type": "m.thread", "event_id": any.id}})
	case k < 12: // now and then of what is not the sender's
		for range 20 {
			if any.typ == mx.RoomMessage && (any.sender == c.UserID || m.rnd.Intn(10) == 0) {
				break
			}
			any = r.events[m.rnd.Intn(len(r.events))]
		}
		send(mx.RoomMessage, obj{"msgtype": "m.text", "body": "* " + text, "m.new_content": obj{"msgtype": "m.text", "body": text}, "m.relates_to": obj{"rel_type": "m.replace", "event_id": any.id}})
	case k < 13:
		send("m.test.ref", obj{"m.relates_to": obj{"rel_type": "m.reference", "event_id": any.id}})
	case k < 14:
		send("m.reaction", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": any.id, "key": fmt.Sprint(m.n)}})
	case k < 16:
		if any.typ != mx.RoomCreate && any.typ != mx.RoomMember && any.typ != mx.RoomPowerLevels && any.typ != mx.RoomHistoryVisibility && any.typ != mx.RoomJoinRules {
			c.Do("PUT", fmt.Sprintf("%s/redact/%s/m%d", p, any.id, m.n), obj{})
		}
	case k < 17:
		c.Do("PUT", p+"/state/m.room.topic", obj{"topic": text})
	case k < 18:
		c.Do("PUT", fmt.Sprintf("%s/state/m.test/%d", p, m.rnd.Intn(3)), obj{"n": m.n})
	case k < 20:
		c.Do("PUT", p+"/state/m.room.history_visibility", obj{"history_visibility": append(visibilities, "nonsense")[m.rnd.Intn(5)]})
	case k < 23:
		c.Do("POST", p+"/join", obj{})
	case k < 24:
		c.Do("POST", p+"/leave", obj{})
	case k < 26:
		c.Do("POST", p+"/invite", obj{"user_id": other.UserID})
	case k < 27:
		c.Do("POST", p+"/kick", obj{"user_id": other.UserID})
	case k < 28:
		c.Do("POST", p+[]string{"/ban", "/unban"}[m.rnd.Intn(2)], obj{"user_id": other.UserID})
	case k < 29:
		c.Do("POST", "/knock/"+url.PathEscape(r.id), obj{})
	default:
		if m.rnd.Intn(3) == 0 && c.Do("POST", p+"/forget", obj{}).Status == 200 {
			r.forgotten[c.UserID] = true
		}
	}
	m.learn()
	if m.rnd.Intn(8) == 0 {
		m.follow(m.user())
	}
	if m.rnd.Intn(20) == 0 {
		m.at = append(m.at, m.pos)
	}
	if m.rnd.Intn(60) == 0 {
		m.purge(m.rooms[m.rnd.Intn(len(m.rooms))])
	}
	if m.rnd.Intn(300) == 0 && len(m.rooms) > 4 {
		m.delete(m.rnd.Intn(len(m.rooms)))
	}
}

// ended waits for long work, asked for by path, to be done.
func (m *model) ended(path string) {
	for {
		switch st := m.admin.Must("GET", "/_synapse/admin/"+path, nil).At("status").String(); st {
		case "complete":
			return
		case "scheduled", "active":
			time.Sleep(time.Millisecond)
		default:
			m.t.Fatalf("%s: %s", path, st)
		}
	}
}

// purge deletes the messages of a room before one of its events: state stays, and so does
// the redaction of something that does.
func (m *model) purge(r *mRoom) {
	i := m.rnd.Intn(len(r.events))
	v := m.admin.Must("POST", "/_synapse/admin/v1/purge_history/"+url.PathEscape(r.id)+"/"+r.events[i].id, obj{"delete_local_events": true})
	m.ended("v1/purge_history_status/" + v.At("purge_id").String())
	there := map[string]bool{}
	by := map[string]string{} // event → the redaction that redacted it: the first
	for _, e := range r.events {
		if e.typ == mx.RoomRedaction && e.redacts != "" && by[e.redacts] == "" {
			by[e.redacts] = e.id
		}
	}
	var left []*mEvent
	for k, e := range r.events {
		if k >= i || e.key != nil || e.typ == mx.RoomRedaction && there[e.redacts] && by[e.redacts] == e.id {
			there[e.id], left = true, append(left, e)
		}
	}
	m.purged += len(r.events) - len(left)
	r.events = left
}

// delete deletes a room. Whoever was in it learns that, once.
func (m *model) delete(i int) {
	r := m.rooms[i]
	for _, c := range m.users {
		if now := r.now(c.UserID); c.Since != "" && (now == "join" || now == "invite" || now == "knock") {
			m.leaves[c.UserID+r.id] = 1
		}
	}
	v := m.admin.Must("DELETE", "/_synapse/admin/v2"+hstest.Room(r.id), obj{})
	m.ended("v2/rooms/delete_status/" + v.At("delete_id").String())
	m.rooms = slices.Delete(m.rooms, i, i+1)
	delete(m.byID, r.id)
	m.deleted = append(m.deleted, r)
}

// checkDeleted sees that of rooms that were deleted nothing can be read.
func (m *model) checkDeleted(c *hstest.Client) {
	for _, r := range m.deleted {
		p, v1 := hstest.Room(r.id), "/_matrix/client/v1/rooms/"+url.PathEscape(r.id)
		for _, path := range []string{p + "/messages?dir=b", p + "/state", p + "/state/m.room.create", p + "/members", p + "/initialSync", v1 + "/threads", v1 + "/hierarchy",
			"/_matrix/client/v1/room_summary/" + url.PathEscape(r.id)} {
			if a := c.Do("GET", path, nil); a.Status != 403 && a.Status != 404 {
				m.t.Errorf("%s was deleted: GET %s: %d %s", r.id, path, a.Status, a.Body)
			}
		}
		for _, e := range r.events {
			for _, path := range []string{p + "/event/" + e.id, p + "/context/" + e.id, v1 + "/relations/" + e.id, "/events/" + e.id} {
				if a := c.Do("GET", path, nil); a.Status != 403 && a.Status != 404 {
					m.t.Errorf("%s was deleted: GET %s: %d", r.id, path, a.Status)
				}
			}
		}
		if n := m.leaves[c.UserID+r.id]; n > 0 {
			m.t.Errorf("%s was not told that %s was deleted", c.UserID, r.id)
		}
	}
}

// follow syncs from where the user was, and sees that nothing comes that the user
// does not see.
func (m *model) follow(c *hstest.Client) {
	v := c.Sync("timeout=0")
	for _, kind := range []string{"join", "leave"} {
		for _, id := range v.At("rooms", kind).Keys() {
			r := m.byID[id]
			if r == nil { // it was deleted since: all that comes is the end
				list := v.At("rooms", kind, id, "timeline", "events").List()
				n := len(list) - 1
				if kind != "leave" || n != 0 || list[n].At("state_key").String() != c.UserID || list[n].At("content", "membership").String() == "join" || m.leaves[c.UserID+id] < 0 {
					m.t.Errorf("%s: of a room that was deleted comes %s", c.UserID, v.At("rooms", kind, id).Text())
				}
				m.leaves[c.UserID+id] = -1
				continue
			}
			visible := ids(r.visible(c.UserID))
			for _, e := range v.At("rooms", kind, id, "timeline", "events").List() {
				eid := e.At("event_id").String()
				if !slices.Contains(visible, eid) {
					m.t.Errorf("%s: a sync leaks %s", c.UserID, e.Text())
				}
				if m.live[c.UserID] == nil {
					m.live[c.UserID] = map[string][]string{}
				}
				m.live[c.UserID][id] = append(m.live[c.UserID][id], eid)
			}
		}
	}
}

// wants reports whether a user is told of an event that they see: not of what somebody
// ignored says, but of state.
func (m *model) wants(user string, e *mEvent) bool { return e.key != nil || m.ignore[user] != e.sender }

func (m *model) wanted(user string, list []*mEvent) (out []*mEvent) {
	for _, e := range list {
		if m.wants(user, e) {
			out = append(out, e)
		}
	}
	return out
}

// same fails the test where two lists differ, and says what is too much or missing.
func (m *model) same(what string, c *hstest.Client, r *mRoom, got, want []string) {
	m.t.Helper()
	if slices.Equal(got, want) {
		return
	}
	name := func(list, without []string) (out []string) {
		for _, id := range list {
			if slices.Contains(without, id) {
				continue
			}
			for i, e := range r.events {
				if e.id == id {
					id = fmt.Sprintf("#%d %s by %s", i, e.typ, e.sender)
				}
			}
			out = append(out, id)
		}
		return out
	}
	m.t.Errorf("%s: %s in %s (now %s, %s): %d events, want %d; too much %q, missing %q", what, c.UserID, r.id, r.now(c.UserID), r.visibility(len(r.events)),
		len(got), len(want), name(got, want), name(want, got))
}

// pages gathers the event IDs of all pages of /messages.
func (m *model) pages(c *hstest.Client, p, dir string) (out []string) {
	from, limit := "", 1+m.rnd.Intn(30)
	for range 1000 {
		v := c.Must("GET", fmt.Sprintf("%s/messages?dir=%s&limit=%d%s", p, dir, limit, from), nil)
		out = append(out, idsOf(v.At("chunk").List())...)
		if !v.Exists("end") {
			return out
		}
		if len(v.At("chunk").List()) == 0 {
			m.t.Errorf("%s: an empty page with an end", c.UserID)
		}
		from = "&from=" + v.At("end").String()
	}
	m.t.Errorf("%s: pages without end", c.UserID)
	return out
}

// check reads all that a user can read of a room.
func (m *model) check(c *hstest.Client, r *mRoom) {
	t, p, u := m.t, hstest.Room(r.id), c.UserID
	v1 := "/_matrix/client/v1/rooms/" + url.PathEscape(r.id)
	visible, gone := r.visible(u), r.redacted()
	listed := m.wanted(u, visible)
	member := r.now(u)
	rule := r.state(len(r.events))[mx.RoomJoinRules+"\x00"].str("join_rule")
	world := r.visibility(len(r.events)) == "world_readable"

	// Looking at the room from outside.
	previews := world || rule == "public" || rule == "knock" || member == "join" || member == "invite" || member == "knock"
	if a := c.Do("GET", "/_matrix/client/v1/room_summary/"+url.PathEscape(r.id), nil); (a.Status == 200) != previews || !previews && a.Status != 404 {
		t.Errorf("summary: %s in %s: %d, previews %v", u, r.id, a.Status, previews)
	} else if previews {
		want := member
		if want == "" {
			want = "leave"
		}
		if a.JSON.At("membership").String() != want || a.JSON.At("world_readable").Bool() != world {
			t.Errorf("summary: %s in %s (%s): %s", u, r.id, want, a.Body)
		}
	}
	if a := c.Do("GET", v1+"/hierarchy", nil); (a.Status == 200) != previews || !previews && a.Status != 403 {
		t.Errorf("hierarchy: %s in %s: %d, previews %v", u, r.id, a.Status, previews)
	}

	if !r.enters(u) {
		for _, path := range []string{p + "/messages?dir=b", p + "/state", p + "/state/m.room.create", p + "/members", p + "/initialSync", v1 + "/threads", p + "/context/" + r.events[0].id, v1 + "/timestamp_to_event?dir=f&ts=0"} {
			if a := c.Do("GET", path, nil); a.Status != 403 && a.Status != 404 {
				t.Errorf("%s may not read in %s (%s): GET %s: %d", u, r.id, member, path, a.Status)
			}
		}
		for _, e := range r.events {
			for _, path := range []string{p + "/event/" + e.id, v1 + "/relations/" + e.id, "/events/" + e.id} {
				if a := c.Do("GET", path, nil); a.Status != 404 {
					t.Errorf("%s may not read in %s (%s): GET %s: %d", u, r.id, member, path, a.Status)
				}
			}
		}
		return
	}

	m.same("messages back", c, r, m.pages(c, p, "b"), reversed(ids(listed)))
	m.same("messages forward", c, r, m.pages(c, p, "f"), ids(listed))

	// Single events with what is bundled.
	at := map[string]int{}
	for i, e := range visible {
		at[e.id] = i
	}
	for i, e := range r.events {
		if i > 0 && m.rnd.Intn(3) > 0 && len(r.events) > 20 {
			continue
		}
		a := c.Do("GET", p+"/event/"+e.id, nil)
		if _, ok := at[e.id]; (a.Status == 200) != ok || !ok && a.Status != 404 {
			t.Errorf("event #%d %s: %s in %s: %d, sees %v", i, e.typ, u, r.id, a.Status, ok)
			continue
		} else if !ok {
			continue
		}
		if got := a.JSON.At("unsigned", "membership").String(); got != cmpOr(r.membership(u, i+1), "leave") {
			t.Errorf("event #%d: %s in %s: membership %s, want %s", i, u, r.id, got, r.membership(u, i+1))
		}
		if gone[e.id] != a.JSON.At("unsigned").Exists("redacted_because") || gone[e.id] && e.typ == mx.RoomMessage && len(a.JSON.At("content").Keys()) > 0 {
			t.Errorf("event #%d: %s in %s: redacted %v: %s", i, u, r.id, gone[e.id], a.Body)
		}
		rel := a.JSON.At("unsigned", "m.relations")
		want := ""
		if x := edit(visible, gone, e); x != nil {
			want = x.id
		}
		if got := rel.At("m.replace", "event_id").String(); got != want {
			t.Errorf("event #%d: %s in %s: replaced by %q, want %q", i, u, r.id, got, want)
		}
		thread := related(listed, gone, e.id, "m.thread")
		if got := max(rel.At("m.thread", "count").Int(), 0); got != len(thread) {
			t.Errorf("event #%d: %s in %s: a thread of %d, want %d", i, u, r.id, got, len(thread))
		} else if got > 0 && rel.At("m.thread", "latest_event", "event_id").String() != thread[got-1].id {
			t.Errorf("event #%d: %s in %s: the thread's latest event %s", i, u, r.id, rel.At("m.thread").Text())
		} else if got > 0 {
			part := e.sender == u
			for _, x := range related(visible, gone, e.id, "m.thread") {
				part = part || x.sender == u
			}
			if rel.At("m.thread", "current_user_participated").Bool() != part {
				t.Errorf("event #%d: %s in %s: participated %v", i, u, r.id, !part)
			}
		}
		m.same("references", c, r, idsOf(rel.At("m.reference", "chunk").List()), ids(related(listed, gone, e.id, "m.reference")))
		// The lists of what relates, in pages.
		var got []string
		for from := ""; ; {
			v := c.Must("GET", v1+"/relations/"+e.id+"?limit=2"+from, nil)
			got = append(got, idsOf(v.At("chunk").List())...)
			if !v.Exists("next_batch") {
				break
			}
			from = "&from=" + v.At("next_batch").String()
		}
		m.same("relations", c, r, got, reversed(ids(related(listed, gone, e.id, ""))))
		m.same("relations of relations", c, r, idsOf(c.Must("GET", v1+"/relations/"+e.id+"?recurse=true&limit=100", nil).At("chunk").List()), reversed(r.descend(e.id, listed, gone)))
		m.same("relations forward", c, r, idsOf(c.Must("GET", v1+"/relations/"+e.id+"/m.thread?dir=f&limit=100", nil).At("chunk").List()), ids(thread))
	}

	// Context.
	if len(visible) > 0 {
		i, limit := m.rnd.Intn(len(visible)), m.rnd.Intn(8)
		e := visible[i]
		v := c.Must("GET", fmt.Sprintf("%s/context/%s?limit=%d", p, e.id, limit), nil)
		before, after := m.wanted(u, visible[:i]), m.wanted(u, visible[i+1:])
		before, after = before[max(0, len(before)-limit/2):], after[:min(len(after), limit-limit/2)]
		m.same("context before", c, r, idsOf(v.At("events_before").List()), reversed(ids(before)))
		m.same("context after", c, r, idsOf(v.At("events_after").List()), ids(after))
		last := append([]*mEvent{e}, after...)[len(after)]
		n := slices.Index(r.events, last) + 1
		// Who left and declined another invitation sees that, but not what became of the room.
		if l := r.left(u); l > 0 && n > l && r.now(u) != "join" && r.visibility(n) != "world_readable" {
			n = l
		}
		m.same("state of a context", c, r, sorted(idsOf(v.At("state").List())), m.stateIDs(r, n))

		// Jumping to a date, both ways.
		ts := e.ts + int64(m.rnd.Intn(3)) - 1
		for _, dir := range []string{"f", "b"} {
			want := ""
			for _, x := range visible {
				if dir == "f" && x.ts >= ts && want == "" || dir == "b" && x.ts <= ts {
					want = x.id
				}
			}
			a := c.Do("GET", fmt.Sprintf("%s/timestamp_to_event?dir=%s&ts=%d", v1, dir, ts), nil)
			if got := a.JSON.At("event_id").String(); got != want || (a.Status == 200) != (want != "") {
				t.Errorf("timestamp %s: %s in %s: %q, want %q", dir, u, r.id, got, want)
			}
		}
	}

	// State and members, of now or of when they left.
	n := len(r.events)
	if l := r.left(u); l >= 0 && !world {
		n = l
	}
	m.same("state", c, r, sorted(idsOf(c.Must("GET", p+"/state", nil).List())), m.stateIDs(r, n))
	for _, k := range []string{mx.RoomTopic + "\x00", mx.RoomHistoryVisibility + "\x00", "m.test\x001", mx.RoomMember + "\x00" + u} {
		typ, key, _ := strings.Cut(k, "\x00")
		a := c.Do("GET", p+"/state/"+typ+"/"+url.PathEscape(key)+"?format=event", nil)
		want := ""
		if e := r.state(n)[k]; e != nil {
			want = e.id
		}
		if got := a.JSON.At("event_id").String(); got != want || (a.Status == 200) != (want != "") {
			t.Errorf("state %s %s: %s in %s: %d %s, want %s", typ, key, u, r.id, a.Status, got, want)
		}
	}
	// The old snapshot of the room: the newest ten of what they see, until they left.
	seen := []*mEvent{}
	for i, e := range r.events[:n] {
		if r.sees(u, i) && m.wants(u, e) {
			seen = append(seen, e)
		}
	}
	old := c.Must("GET", p+"/initialSync", nil)
	m.same("initialSync", c, r, idsOf(old.At("messages", "chunk").List()), ids(seen[max(0, len(seen)-10):]))
	m.same("state of initialSync", c, r, sorted(idsOf(old.At("state").List())), m.stateIDs(r, n))
	membersAt := func(query string, n int) {
		var want []string
		for _, e := range r.state(n) {
			if e.typ == mx.RoomMember {
				want = append(want, e.id)
			}
		}
		m.same("members"+query, c, r, sorted(idsOf(c.Must("GET", p+"/members"+query, nil).At("chunk").List())), sorted(append([]string{}, want...)))
	}
	membersAt("", n)
	if len(m.at) > 0 {
		pos := m.at[m.rnd.Intn(len(m.at))]
		k := 0
		for k < n && r.events[k].pos <= pos {
			k++
		}
		membersAt(fmt.Sprintf("?at=s%d", pos), k)
	}
	if a := c.Do("GET", p+"/joined_members", nil); (a.Status == 200) != (member == "join") {
		t.Errorf("joined_members: %s in %s (%s): %d", u, r.id, member, a.Status)
	}

	// Threads.
	latest := map[string]int64{}
	roots := []string{}
	for _, e := range visible {
		if list := related(listed, gone, e.id, "m.thread"); len(list) > 0 {
			roots = append(roots, e.id)
			latest[e.id] = list[len(list)-1].pos
		}
	}
	slices.SortFunc(roots, func(a, b string) int { return int(latest[b] - latest[a]) })
	var got []string
	for from, limit := "", 1+m.rnd.Intn(4); ; {
		v := c.Must("GET", fmt.Sprintf("%s/threads?limit=%d%s", v1, limit, from), nil)
		got = append(got, idsOf(v.At("chunk").List())...)
		if !v.Exists("next_batch") {
			break
		}
		from = "&from=" + v.At("next_batch").String()
	}
	m.same("threads", c, r, got, roots)
}

func cmpOr(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

func (m *model) stateIDs(r *mRoom, n int) []string {
	var out []string
	for _, e := range r.state(n) {
		out = append(out, e.id)
	}
	return sorted(append([]string{}, out...))
}

// search compares what a user finds with what the user sees: all that says a common
// word, and one text that only one event has.
func (m *model) search(c *hstest.Client) {
	u := c.UserID
	find := func(term string) (out []string) {
		next := ""
		for range 1000 {
			path := "/search"
			if next != "" {
				path += "?next_batch=" + url.QueryEscape(next)
			}
			v := c.Must("POST", path, obj{"search_categories": obj{"room_events": obj{"search_term": term, "order_by": "recent", "keys": []string{"content.body", "content.topic"},
				"filter": obj{"limit": 50}, "groupings": obj{"group_by": []obj{{"key": "room_id"}}}}}}).At("search_categories", "room_events")
			for _, r := range v.At("results").List() {
				out = append(out, r.At("result", "event_id").String())
			}
			if next = v.At("next_batch").String(); next == "" {
				break
			}
		}
		return out
	}
	var all []*mEvent
	said := map[string]string{} // event → the text that the user sees last
	everybody := &mRoom{id: "all rooms"}
	for _, r := range m.rooms {
		everybody.events = append(everybody.events, r.events...)
		if !r.enters(u) || r.now(u) == "" || r.forgotten[u] {
			continue
		}
		visible, gone := r.visible(u), r.redacted()
		for _, e := range visible {
			typ, _ := e.rel()
			if gone[e.id] || typ == "m.replace" || !m.wants(u, e) {
				continue
			}
			switch {
			case e.typ == mx.RoomMessage:
				said[e.id] = e.str("body")
				if x := edit(visible, gone, e); x != nil {
					said[e.id], _ = x.content["m.new_content"].(obj)["body"].(string)
				}
			case e.typ == mx.RoomTopic:
				said[e.id] = e.str("topic")
			}
			if strings.HasPrefix(said[e.id], "common") {
				all = append(all, e)
			}
		}
	}
	slices.SortFunc(all, func(a, b *mEvent) int { return int(b.pos - a.pos) })
	m.same("search", c, everybody, find("common"), ids(all))
	if len(all) > 0 {
		e := all[m.rnd.Intn(len(all))]
		m.same("search of "+said[e.id], c, everybody, find(said[e.id]), []string{e.id})
	}
	// A text that the user does not see now: of another version, redacted, or hidden.
	shown := map[string]bool{}
	for _, s := range said {
		shown[s] = true
	}
	for range 5 {
		r := m.rooms[m.rnd.Intn(len(m.rooms))]
		e := r.events[m.rnd.Intn(len(r.events))]
		text := e.str("body")
		if n, ok := e.content["m.new_content"].(obj); ok {
			text, _ = n["body"].(string)
		}
		if strings.HasPrefix(text, "common") && !shown[text] {
			m.same("search of what is not seen, "+text, c, everybody, find(text), []string{})
		}
	}
}

// sync compares a first sync, with the rooms that were left, with the model.
func (m *model) sync(c *hstest.Client) {
	u, limit := c.UserID, 1+m.rnd.Intn(100)
	filter := fmt.Sprintf(`{"room":{"include_leave":true,"timeline":{"limit":%d}}}`, limit)
	v := c.Must("GET", "/sync?filter="+url.QueryEscape(filter), nil)
	for _, r := range m.rooms {
		kind, n := "join", len(r.events)
		switch r.now(u) {
		case "join":
		case "leave", "ban":
			if kind = "leave"; r.forgotten[u] {
				if v.At("rooms", "leave").Exists(r.id) {
					m.t.Errorf("sync: %s has forgotten %s", u, r.id)
				}
				continue
			}
			for n > 0 && !(r.events[n-1].typ == mx.RoomMember && *r.events[n-1].key == u) {
				n--
			}
		case "invite":
			by := r.state(n)[mx.RoomMember+"\x00"+u].sender
			if v.At("rooms", "invite").Exists(r.id) == (by == m.ignore[u]) {
				m.t.Errorf("sync: %s is invited to %s by %s, ignoring %s", u, r.id, by, m.ignore[u])
			}
			continue
		case "knock":
			if !v.At("rooms", "knock").Exists(r.id) {
				m.t.Errorf("sync: %s knocks at %s", u, r.id)
			}
			continue
		default:
			if strings.Contains(v.Text(), r.id) {
				m.t.Errorf("sync: %s has nothing to do with %s", u, r.id)
			}
			continue
		}
		room := v.At("rooms", kind, r.id)
		if room.V == nil {
			m.t.Errorf("sync: %s is %s in %s, and it is not there", u, r.now(u), r.id)
			continue
		}
		// The newest events, down to the first that is hidden.
		k, list, limited := n, []string{}, false
		for i := n - 1; i >= 0 && !limited; i-- {
			switch {
			case !r.sees(u, i):
				limited = true
			case !m.wants(u, r.events[i]):
			case len(list) == limit:
				limited = true
			default:
				k, list = i, append(list, r.events[i].id)
			}
		}
		m.same("sync", c, r, idsOf(room.At("timeline", "events").List()), reversed(list))
		if got := room.At("timeline", "limited").Bool(); got != limited && kind == "join" {
			m.t.Errorf("sync: %s in %s: limited %v, %d events before", u, r.id, got, k)
		}
		if kind == "join" || r.left(u) >= 0 {
			// What became of the room after they left is theirs only if anybody may read it.
			if left := r.left(u); left >= 0 && k > left && r.visibility(k) != "world_readable" {
				k = left
			}
			m.same("state of a sync", c, r, sorted(idsOf(room.At("state", "events").List())), m.stateIDs(r, k))
		} else if len(room.At("state", "events").List()) > 0 {
			m.t.Errorf("sync: %s was never in %s, and gets its state", u, r.id)
		}
	}
	// What came by and by is complete since the last join.
	m.follow(c)
	for _, r := range m.rooms {
		if r.now(u) != "join" {
			continue
		}
		since := len(r.events)
		for since > 0 && r.membership(u, since-1) == "join" {
			since--
		}
		got := map[string]int{}
		for _, id := range m.live[u][r.id] {
			got[id]++
		}
		for _, e := range r.events[since:] {
			if got[e.id] != 1 && m.wants(u, e) {
				m.t.Errorf("sync by and by: %s in %s: %s came %d times", u, r.id, e.id, got[e.id])
			}
		}
	}
}

// events follows the stream of events from its beginning.
func (m *model) events(c *hstest.Client) {
	u, all, everybody := c.UserID, []*mEvent{}, &mRoom{id: "all rooms"}
	for _, r := range m.rooms {
		everybody.events = append(everybody.events, r.events...)
		n := len(r.events)
		for r.now(u) != "join" && n > 0 && !(r.events[n-1].typ == mx.RoomMember && *r.events[n-1].key == u) {
			n--
		}
		if r.forgotten[u] {
			continue
		}
		for i, e := range r.events[:n] {
			mine := e.typ == mx.RoomMember && *e.key == u && e.str("membership") == "invite" && e.sender != m.ignore[u]
			if mine || r.sees(u, i) && m.wants(u, e) {
				all = append(all, e)
			}
		}
	}
	slices.SortFunc(all, func(a, b *mEvent) int { return int(a.pos - b.pos) })
	got := []string{}
	for from := "s0"; ; {
		v := c.Must("GET", "/events?from="+from, nil)
		list := idsOf(v.At("chunk").List())
		if len(list) == 0 {
			break
		}
		got = append(got, list...)
		from = v.At("end").String()
	}
	m.same("events", c, everybody, got, ids(all))
}

func TestModel(t *testing.T) {
	seed := *modelSeed
	if seed == 0 {
		seed = rand.Int63()
	}
	t.Logf("go test ./homeserver -run TestModel -model.seed=%d -model.rooms=%d", seed, *modelRooms)
	n := *modelRooms
	if n == 0 {
		if n = 40; testing.Short() {
			n = 8
		}
	}
	m := &model{t: t, hs: hstest.New(t, nil), rnd: rand.New(rand.NewSource(seed)), byID: map[string]*mRoom{}, live: map[string]map[string][]string{}, leaves: map[string]int{}, ignore: map[string]string{}}
	for _, name := range []string{"alice", "bob", "carol", "dave"} {
		c := m.hs.Login(t, name)
		c.Filter = `{"room":{"timeline":{"limit":200}}}`
		m.users = append(m.users, c)
	}
	m.admin = m.hs.Admin(t, "admin")
	for range n {
		m.create()
	}
	m.learn()
	for half := range 2 {
		for range n * 40 {
			m.act()
			if t.Failed() {
				return
			}
		}
		for _, c := range m.users {
			m.search(c)
			m.sync(c)
			m.events(c)
			for _, r := range m.rooms {
				m.check(c, r)
			}
			m.checkDeleted(c)
			if t.Failed() {
				return
			}
		}
		if half == 0 {
			m.hs.Restart()
			c, other := m.users[3], m.users[m.rnd.Intn(3)]
			m.ignore[c.UserID] = other.UserID
			c.Must("PUT", "/user/"+c.UserID+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{other.UserID: obj{}}})
		}
	}
	m.enough()
}

// enough sees that there was something to compare: what is hidden and what is not,
// and every kind of event.
func (m *model) enough() {
	kinds := map[string]int{}
	hidden, shown, out := 0, 0, 0
	for _, r := range m.rooms {
		for _, e := range r.events {
			kinds[e.typ]++
			if typ, _ := e.rel(); typ != "" {
				kinds[typ]++
			}
		}
		for _, c := range m.users {
			if !r.enters(c.UserID) {
				out++
				continue
			}
			v := len(r.visible(c.UserID))
			shown, hidden = shown+v, hidden+len(r.events)-v
		}
	}
	if m.purged == 0 || len(m.deleted) == 0 {
		m.t.Error("nothing was purged or deleted")
	}
	m.t.Log(kinds, "purged", m.purged, "rooms deleted", len(m.deleted), "hidden", hidden, "shown", shown, "no entry", out)
	for _, k := range []string{mx.RoomMessage, mx.RoomRedaction, mx.RoomTopic, mx.RoomHistoryVisibility, "m.thread", "m.replace", "m.reference"} {
		if kinds[k] == 0 {
			m.t.Errorf("there was no %s", k)
		}
	}
	if hidden == 0 || shown == 0 || out == 0 {
		m.t.Error("everybody saw the same")
	}
}
