package feed_test

import (
	"math/rand"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

type obj = hstest.Obj

// follower is a client that knows of rooms what its syncs told, and nothing else.
type follower struct {
	*hstest.Client
	name   string
	params []string
	after  string // name of state_after, "" for state
	lazy   bool
	rooms  map[string]*known
}

type known struct {
	membership string
	state      map[string]string // type, key → event ID
	events     []string          // IDs of the timeline, in order
	members    map[string]bool   // whose member events it has
}

func stateKey(e hstest.Value) string {
	return e.At("type").String() + "\x00" + e.At("state_key").String()
}

func (f *follower) room(id string) *known {
	k := f.rooms[id]
	if k == nil {
		k = &known{state: map[string]string{}, members: map[string]bool{}}
		f.rooms[id] = k
	}
	return k
}

func (k *known) apply(events []hstest.Value) {
	for _, e := range events {
		if e.Exists("state_key") {
			k.state[stateKey(e)] = e.At("event_id").String()
			if e.At("type").String() == mx.RoomMember {
				k.members[e.At("state_key").String()] = true
			}
		}
	}
}

// follow takes in one sync.
func (f *follower) follow(t *testing.T) {
	t.Helper()
	v := f.Sync(append([]string{"timeout=0"}, f.params...)...)
	for id, kind := range map[string]string{"join": mx.Join, "leave": mx.Leave} {
		for _, room := range v.At("rooms", id).Keys() {
			r := v.At("rooms", id, room)
			k := f.room(room)
			if kind == mx.Join && k.membership != mx.Join { // what was known before may be old
				k.state, k.members, k.events = map[string]string{}, map[string]bool{}, nil
			}
			k.membership = kind
			timeline := r.At("timeline", "events").List()
			if f.after == "" {
				k.apply(r.At("state", "events").List())
			} else if !r.Exists(f.after) || r.Exists("state") {
				t.Fatalf("%s: a room has state %v, %s %v", f.name, r.Exists("state"), f.after, r.Exists(f.after))
			}
			if f.lazy && kind == mx.Join {
				have := map[string]bool{}
				for u := range k.members {
					have[u] = true
				}
				for _, e := range append(r.At(f.after, "events").List(), timeline...) {
					if e.At("type").String() == mx.RoomMember {
						have[e.At("state_key").String()] = true
					}
				}
				for _, e := range timeline {
					if !have[e.At("sender").String()] {
						t.Fatalf("%s: lazy: the member event of %s is missing: %s", f.name, e.At("sender").String(), r.Text())
					}
				}
			}
			// A gap is filled from prev_batch down to what is known.
			var gap []string
			if r.At("timeline", "limited").Bool() && kind == mx.Join {
				gap = f.fill(t, room, r.At("timeline", "prev_batch").String(), k.events)
			}
			k.events = append(k.events, gap...)
			for _, e := range timeline {
				id := e.At("event_id").String()
				if slices.Contains(k.events, id) {
					t.Fatalf("%s: an event came twice: %s", f.name, e.Text())
				}
				k.events = append(k.events, id)
			}
			if f.after == "" {
				k.apply(timeline)
			} else {
				k.apply(r.At(f.after, "events").List())
			}
		}
	}
	for _, room := range v.At("rooms", "invite").Keys() {
		f.room(room).membership = mx.Invite
	}
}

func (f *follower) fill(t *testing.T, room, from string, known []string) []string {
	var gap []string
	for range 1000 {
		m := f.Do("GET", hstest.Room(room)+"/messages?dir=b&limit=20&from="+from, nil)
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
		if !m.JSON.Exists("end") {
			break
		}
		from = m.JSON.At("end").String()
	}
	slices.Reverse(gap)
	return gap
}

// check compares what is known with what the server says now.
func (f *follower) check(t *testing.T) {
	t.Helper()
	joined := map[string]bool{}
	for _, r := range f.Must("GET", "/joined_rooms", nil).At("joined_rooms").List() {
		joined[r.String()] = true
	}
	for id, k := range f.rooms {
		if (k.membership == mx.Join) != joined[id] {
			t.Errorf("%s: thinks of room %s as %s", f.name, id, k.membership)
		}
	}
	for id := range joined {
		k := f.rooms[id]
		if k == nil {
			t.Errorf("%s: does not know room %s", f.name, id)
			continue
		}
		want := map[string]string{}
		for _, e := range f.Must("GET", hstest.Room(id)+"/state", nil).List() {
			want[stateKey(e)] = e.At("event_id").String()
		}
		for key, event := range want {
			got := k.state[key]
			if f.lazy && len(key) > 13 && key[:13] == "m.room.member" && got == "" {
				continue
			}
			if got != event {
				t.Errorf("%s: state %q is %s, want %s", f.name, key, got, event)
			}
		}
		for key := range k.state {
			if want[key] == "" {
				t.Errorf("%s: state %q is not in the room", f.name, key)
			}
		}
		var all []string
		from := ""
		for range 1000 {
			m := f.Must("GET", hstest.Room(id)+"/messages?dir=f&limit=50"+from, nil)
			for _, e := range m.At("chunk").List() {
				all = append(all, e.At("event_id").String())
			}
			if !m.Exists("end") {
				break
			}
			from = "&from=" + m.At("end").String()
		}
		if !slices.Equal(k.events, all) {
			t.Errorf("%s: has %d events of room %s, the room has %d to see", f.name, len(k.events), id, len(all))
		}
	}
}

func followers(t *testing.T, hs *hstest.HS, users []string) []*follower {
	var list []*follower
	for _, u := range users {
		for _, v := range []struct {
			name, filter, after string
			lazy                bool
		}{
			{"plain", `{"room":{"timeline":{"limit":50}}}`, "", false},
			{"short", `{"room":{"timeline":{"limit":2}}}`, "", false},
			{"lazy", `{"room":{"timeline":{"limit":3},"state":{"lazy_load_members":true}}}`, "", true},
			{"after", `{"room":{"timeline":{"limit":2}}}`, "org.matrix.msc4222.state_after", false},
			{"lazy after", `{"room":{"timeline":{"limit":2},"state":{"lazy_load_members":true}}}`, "state_after", true},
		} {
			f := &follower{Client: hs.Login(t, u), name: u + " " + v.name, after: v.after, lazy: v.lazy, rooms: map[string]*known{}}
			f.Filter = v.filter
			switch v.after {
			case "state_after":
				f.params = []string{"use_state_after=true"}
			case "":
			default:
				f.params = []string{"org.matrix.msc4222.use_state_after=true"}
			}
			list = append(list, f)
		}
	}
	return list
}

func setUp(t *testing.T) (*hstest.HS, *hstest.Workload, []*follower) {
	hs := hstest.New(t, nil)
	users := []string{"alice", "bob", "carol"}
	return hs, hstest.NewWorkload(t, hs, users...), followers(t, hs, users)
}

// What syncs tell, folded from nothing, is what the server says the rooms are: for
// every kind of client, however seldom it syncs, across a restart and a ring that
// is too short.
func TestFoldedSyncsEqualState(t *testing.T) {
	hs, work, list := setUp(t)
	seed := rand.Int63()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewSource(seed))
	steps := 250
	if testing.Short() {
		steps = 80
	}
	for n := range steps {
		work.Act(rnd, n)
		for _, f := range list {
			if rnd.Intn(6) == 0 {
				f.follow(t)
			}
		}
		if n == steps/2 {
			hs.Restart()
		}
	}
	for _, f := range list {
		f.follow(t)
		f.check(t)
	}
}

// The same while everybody writes at once.
func TestFoldedSyncsUnderLoad(t *testing.T) {
	_, work, list := setUp(t)
	var wg, readers sync.WaitGroup
	var over atomic.Bool
	for w := range 3 {
		wg.Go(func() {
			rnd := rand.New(rand.NewSource(int64(w) + 7))
			for n := range 80 {
				work.Act(rnd, (w+1)*1000+n)
			}
		})
	}
	for _, f := range list[:10] {
		readers.Go(func() {
			for !over.Load() && !t.Failed() {
				f.follow(t)
			}
		})
	}
	wg.Wait()
	over.Store(true)
	readers.Wait()
	for _, f := range list {
		f.follow(t)
		f.check(t)
	}
}

// Many devices of few users begin at once, with one connection to read by: nobody
// may wait for another while holding it.
func TestFewReaders(t *testing.T) {
	hs, work, _ := setUp(t)
	var wg sync.WaitGroup
	for i := range 24 {
		c := hs.Login(t, []string{"alice", "bob", "carol"}[i%3])
		wg.Go(func() {
			for range 5 {
				c.Sync("timeout=0")
				c.Do("PUT", "/user/"+c.UserID+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{}})
			}
		})
	}
	for i := range 60 {
		work.Act(rand.New(rand.NewSource(int64(i))), i)
	}
	wg.Wait()
}
