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

	window  int                  // of thread subscriptions; 0: they are not asked for
	threads map[[2]string]thread // by room and root
}

// thread is what is known of a thread.
type thread struct {
	subscribed, automatic bool
	stamp                 int
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
	if f.window > 0 {
		body["extensions"] = obj{subscriptions: obj{"enabled": true, "limit": f.window}}
	}
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
	if told := a.JSON.At("extensions", subscriptions); told.V != nil {
		f.takeThreads(t, told)
		for from := told.At("prev_batch").String(); from != ""; {
			page := f.Must("GET", "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions?dir=b&limit=2&from="+from+"&to="+url.QueryEscape(f.pos), nil)
			f.takeThreads(t, page)
			from = page.At("end").String()
		}
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

const subscriptions = "io.element.msc4308.thread_subscriptions"

// takeThreads takes in thread subscriptions: of two of one thread the later counts.
func (f *follower) takeThreads(t *testing.T, v hstest.Value) {
	t.Helper()
	n := 0
	for _, kind := range []string{"subscribed", "unsubscribed"} {
		for _, room := range v.At(kind).Keys() {
			for _, root := range v.At(kind, room).Keys() {
				x := v.At(kind, room, root)
				now := thread{kind == "subscribed", x.At("automatic").Bool(), x.At("bump_stamp").Int()}
				if k := [2]string{room, root}; now.stamp > f.threads[k].stamp {
					f.threads[k] = now
				}
				n++
			}
		}
	}
	if n == 0 || n > max(2, f.window) {
		t.Fatalf("%s: %d changes: %s", f.name, n, v.Text())
	}
}

// checkThreads compares with what is read thread by thread.
func (f *follower) checkThreads(t *testing.T) (subscribed int) {
	t.Helper()
	for k, x := range f.threads {
		a := f.Do("GET", "/_matrix/client/unstable/io.element.msc4306"+hstest.Room(k[0])+"/thread/"+url.PathEscape(k[1])+"/subscription", nil)
		if x.subscribed != (a.Status == 200) || x.subscribed && a.JSON.At("automatic").Bool() != x.automatic {
			t.Errorf("%s: %v is known as %+v, the server says %d %s", f.name, k, x, a.Status, a.Body)
		}
		if x.subscribed {
			subscribed++
		}
	}
	all := f.Must("GET", "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions?dir=b", nil)
	for _, kind := range []string{"subscribed", "unsubscribed"} {
		for _, room := range all.At(kind).Keys() {
			for _, root := range all.At(kind, room).Keys() {
				if f.threads[[2]string{room, root}].stamp != all.At(kind, room, root, "bump_stamp").Int() {
					t.Errorf("%s: of the thread %s not the last change is known", f.name, root)
				}
			}
		}
	}
	if all.Exists("end") {
		t.Fatal("the workload has more threads than this looks at")
	}
	return subscribed
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
	for n, u := range users {
		for i, f := range []follower{{limit: 50}, {limit: 2, window: 1}, {limit: 3, lazy: true, window: 100}, {limit: 1, wide: true, window: 2}, {limit: 2, wide: true, lazy: true}} {
			f.Client, f.name, f.rnd, f.rooms, f.threads = hs.Login(t, u), fmt.Sprint(u, i), rnd, map[string]*known{}, map[[2]string]thread{}
			if n == 2 { // one of whom no client asks for subscriptions
				f.window = 0
			}
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
	subscribed := 0
	for _, f := range list {
		f.follow(t, true, rooms)
		f.follow(t, true, rooms)
		f.check(t)
		if f.window > 0 {
			subscribed += f.checkThreads(t)
		}
	}
	t.Logf("%d subscriptions", subscribed)
}
