package sliding_test

import (
	"fmt"
	"maps"
	"math/rand"
	"net/url"
	"slices"
	"strings"
	"testing"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

// follower is a client that knows of rooms what one connection told, and nothing else.
type follower struct {
	*hstest.Client
	name  string
	limit int
	lazy  bool
	wide  bool // now and then it subscribes to a room, for more of its timeline
	rnd   *rand.Rand
	pos   string
	rooms map[string]*known
}

type known struct {
	membership string
	state      map[string]string // type, key → event ID
	events     []string
	unread     int
	joined     int
	name       string
}

func stateKey(e hstest.Value) string {
	return e.At("type").String() + "\x00" + e.At("state_key").String()
}

func (f *follower) request(all bool, rooms []string) obj {
	to := 50
	if !all {
		to = f.rnd.Intn(4)
	}
	state := [][]string{{"*", "*"}}
	if f.lazy {
		state = append(state, []string{"m.room.member", "$LAZY"})
	}
	body := obj{"conn_id": f.name, "lists": obj{"l": obj{"ranges": [][]int{{0, to}}, "timeline_limit": f.limit, "required_state": state}}}
	if f.wide && !all && f.rnd.Intn(2) == 0 {
		body["room_subscriptions"] = obj{rooms[f.rnd.Intn(len(rooms))]: obj{"timeline_limit": 6, "required_state": state}}
	}
	return body
}

// follow takes in one answer. Answers are lost, and then asked for again.
func (f *follower) follow(t *testing.T, all bool, rooms []string) {
	t.Helper()
	ask := func(body obj) hstest.Answer {
		params := []string{"timeout=0"}
		if f.pos != "" {
			params = append(params, "pos="+f.pos)
		}
		return slide(f.Client, body, params...)
	}
	body := f.request(all, rooms)
	if f.rnd.Intn(4) == 0 {
		ask(body)
		if f.rnd.Intn(2) == 0 {
			body = f.request(all, rooms)
		}
	}
	a := ask(body)
	if a.Status != 200 {
		t.Fatalf("%s: %d %s", f.name, a.Status, a.Body)
	}
	f.pos = a.JSON.At("pos").String()
	for _, id := range a.JSON.At("rooms").Keys() {
		r := a.JSON.At("rooms", id)
		k := f.rooms[id]
		if k == nil || r.At("initial").Bool() {
			if !r.At("initial").Bool() {
				t.Fatalf("%s: the first of a room is not initial: %s", f.name, r.Text())
			}
			k = &known{state: map[string]string{}}
			f.rooms[id] = k
		}
		k.membership = r.At("membership").String()
		if r.Exists("invite_state") {
			continue
		}
		if f.lazy && r.At("limited").Bool() && !r.At("unstable_expanded_timeline").Bool() {
			// Members of before the gap may have changed in it. Source: MSC4186, Lazy loaded memberships
			maps.DeleteFunc(k.state, func(key, _ string) bool { return strings.HasPrefix(key, mx.RoomMember) })
		}
		for _, e := range r.At("required_state").List() {
			k.state[stateKey(e)] = e.At("event_id").String()
		}
		if r.Exists("name") {
			k.name = r.At("name").String()
		}
		if r.Exists("joined_count") {
			k.joined = r.At("joined_count").Int()
		}
		k.unread = r.At("notification_count").Int()
		f.timeline(t, id, k, r)
	}
}

func (f *follower) timeline(t *testing.T, room string, k *known, r hstest.Value) {
	t.Helper()
	var events []string
	for _, e := range r.At("timeline").List() {
		id := e.At("event_id").String()
		if slices.Contains(k.events, id) && !r.At("unstable_expanded_timeline").Bool() {
			t.Fatalf("%s: an event came twice: %s", f.name, r.Text())
		}
		if f.lazy && k.membership == mx.Join && k.state[mx.RoomMember+"\x00"+e.At("sender").String()] == "" {
			t.Fatalf("%s: lazy: the member event of %s is missing: %s", f.name, e.At("sender").String(), r.Text())
		}
		events = append(events, id)
	}
	older := slices.DeleteFunc(k.events, func(id string) bool { return slices.Contains(events, id) })
	if r.At("limited").Bool() && k.membership == mx.Join {
		older = append(older, f.fill(t, room, r.At("prev_batch").String(), older)...)
	}
	k.events = append(older, events...)
}

// fill reads backwards to what is known.
func (f *follower) fill(t *testing.T, room, from string, known []string) []string {
	var gap []string
	for from != "" {
		m := f.Do("GET", hstest.Room(room)+"/messages?dir=b&limit=20&from="+url.QueryEscape(from), nil)
		if m.Status != 200 {
			t.Fatalf("%s: %s", f.name, m.Body)
		}
		for _, e := range m.JSON.At("chunk").List() {
			id := e.At("event_id").String()
			if slices.Contains(known, id) {
				slices.Reverse(gap)
				return gap
			}
			gap = append(gap, id)
		}
		from = m.JSON.At("end").String()
	}
	slices.Reverse(gap)
	return gap
}

// check compares what is known with what the plain reads and a first sync say.
func (f *follower) check(t *testing.T) {
	t.Helper()
	plain := f.SyncFrom("", "filter="+`{"room":{"timeline":{"limit":1}}}`)
	for _, r := range f.Must("GET", "/joined_rooms", nil).At("joined_rooms").List() {
		id := r.String()
		k := f.rooms[id]
		if k == nil || k.membership != mx.Join {
			t.Errorf("%s: does not know that it is in %s: %+v", f.name, id, k)
			continue
		}
		want := map[string]string{}
		name, joined := "", 0
		for _, e := range f.Must("GET", hstest.Room(id)+"/state", nil).List() {
			want[stateKey(e)] = e.At("event_id").String()
			if e.At("type").String() == mx.RoomName {
				name = e.At("content", "name").String()
			}
			if e.At("content", "membership").String() == mx.Join {
				joined++
			}
		}
		for key, event := range want {
			got := k.state[key]
			if got != event && !(f.lazy && got == "" && strings.HasPrefix(key, mx.RoomMember)) {
				t.Errorf("%s: %s: state %q is %q, want %q", f.name, id, key, got, event)
			}
		}
		if k.name != name || k.joined != joined {
			t.Errorf("%s: %s: named %q with %d, want %q with %d", f.name, id, k.name, k.joined, name, joined)
		}
		if n := plain.Joined(id).At("unread_notifications", "notification_count").Int(); k.unread != n {
			t.Errorf("%s: %s: %d unread, want %d", f.name, id, k.unread, n)
		}
		var all []string
		for from := ""; ; {
			m := f.Must("GET", hstest.Room(id)+"/messages?dir=f&limit=50"+from, nil)
			for _, e := range m.At("chunk").List() {
				all = append(all, e.At("event_id").String())
			}
			if !m.Exists("end") || len(m.At("chunk").List()) == 0 {
				break
			}
			from = "&from=" + m.At("end").String()
		}
		if !slices.Equal(k.events, all) {
			t.Errorf("%s: %s: has %d events, there are %d to see", f.name, id, len(k.events), len(all))
		}
	}
	for id, k := range f.rooms {
		now := "none"
		for kind, membership := range map[string]string{"join": mx.Join, "invite": mx.Invite, "knock": mx.Knock} {
			if plain.At("rooms", kind).Exists(id) {
				now = membership
			}
		}
		if thinks := k.membership; thinks != now && !(now == "none" && (thinks == mx.Leave || thinks == mx.Ban)) {
			t.Errorf("%s: thinks of %s as %q, it is %q", f.name, id, thinks, now)
		}
	}
}

// What connections tell, folded from nothing, is what the server says the rooms are,
// whatever windows they look through, however many answers are lost, and across a
// restart.
func TestFoldedAnswersEqualState(t *testing.T) {
	hs := hstest.New(t, nil)
	users := []string{"alice", "bob", "carol"}
	work := hstest.NewWorkload(t, hs, users...)
	rooms := work.Rooms
	seed := rand.Int63()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewSource(seed))
	var list []*follower
	for _, u := range users {
		for i, f := range []follower{{limit: 50}, {limit: 2}, {limit: 3, lazy: true}, {limit: 1, wide: true}, {limit: 2, wide: true, lazy: true}} {
			f.Client, f.name, f.rnd, f.rooms = hs.Login(t, u), fmt.Sprint(u, i), rnd, map[string]*known{}
			list = append(list, &f)
		}
	}
	steps := 250
	if testing.Short() {
		steps = 80
	}
	for n := range steps {
		work.Act(rnd, n)
		for _, f := range list {
			if rnd.Intn(6) == 0 {
				f.follow(t, false, rooms)
			}
		}
		if n == steps/2 {
			hs.Restart()
		}
	}
	for _, f := range list {
		f.follow(t, true, rooms)
		f.follow(t, true, rooms)
		f.check(t)
	}
}
