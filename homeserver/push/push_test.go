package push_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"reflect"
	"testing"
	"time"

	"holdfast/homeserver/apitest"
	"holdfast/homeserver/ephemeral"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/push"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/threads"
	"holdfast/homeserver/userdata"
	"holdfast/store"
)

const alice, bob, carol = "@alice:example.org", "@bob:example.org", "@carol:example.org"

// world is rooms, receipts and rules on a real store.
type world struct {
	*apitest.API
	t     testing.TB
	db    *store.DB
	rooms *rooms.Rooms
	eph   *ephemeral.Service
	data  *userdata.Service
	c     *push.Counter
	room  string
	subs  *threads.Service
}

func setup(t testing.TB) *world {
	w := &world{t: t, db: apitest.DB(t)}
	var err error
	if w.rooms, err = rooms.New(context.Background(), rooms.Options{DB: w.db, Secrets: apitest.Secrets(), ServerName: apitest.Server}); err != nil {
		t.Fatal(err)
	}
	w.data = userdata.New(userdata.Options{DB: w.db, ServerName: apitest.Server, Rooms: w.rooms})
	w.eph = ephemeral.New(ephemeral.Options{DB: w.db, Rooms: w.rooms, SetRoomData: w.data.SetRoomData, SharedUsers: w.rooms.SharedUsers})
	t.Cleanup(w.eph.Close)
	w.subs = threads.New(threads.Options{DB: w.db, Rooms: w.rooms,
		Event: func(q store.Querier, _, eventID, _ string) (*rooms.Event, error) {
			return w.rooms.EventByID(q, eventID)
		},
		Thread:  func(q store.Querier, e *rooms.Event) (string, error) { return w.c.Thread(q, e) },
		Recount: func(tx *store.Tx, userID, roomID string) error { return w.c.Recount(tx, userID, roomID) }})
	w.rooms.Hook(w.subs.Stored)
	w.API = apitest.New(t, w.eph.Routes(), w.data.Routes(), w.subs.Routes())
	w.c = w.counter()
	t.Cleanup(func() { w.c.Close() })
	w.room, err = w.rooms.Create(context.Background(), alice, rooms.Create{Preset: "public_chat"})
	if err != nil {
		t.Fatal(err)
	}
	w.join(bob)
	w.join(carol)
	return w
}

func (w *world) counter() *push.Counter {
	return push.New(push.Options{DB: w.db, Rooms: w.rooms, ReadUpTo: w.eph.ReadUpTo, Rules: w.data.CompiledRules, Ignored: w.data.Ignored, Threads: w.subs})
}

func (w *world) join(user string) {
	w.t.Helper()
	if err := w.rooms.Join(context.Background(), w.room, user, "", nil); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) send(user, typ string, content any) string {
	w.t.Helper()
	raw, _ := json.Marshal(content)
	id, err := w.rooms.Send(context.Background(), rooms.NewEvent{RoomID: w.room, Sender: user, Type: typ, Content: raw})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

type m = map[string]any

func (w *world) say(user, body string) string { return w.send(user, mx.RoomMessage, text(body)) }

func text(body string) m { return m{"msgtype": "m.text", "body": body} }

func mention(body string, users ...string) m {
	c := text(body)
	c["m.mentions"] = m{"user_ids": users}
	return c
}

func inThread(c m, root string) m {
	c["m.relates_to"] = m{"rel_type": "m.thread", "event_id": root}
	return c
}

// read sends a receipt of a user.
func (w *world) read(localpart, kind, event, thread string) {
	w.t.Helper()
	body := m{}
	if thread != "" {
		body["thread_id"] = thread
	}
	w.As(localpart, "D").OK("POST", "/_matrix/client/v3/rooms/"+url.PathEscape(w.room)+"/receipt/"+kind+"/"+url.PathEscape(event), body, nil)
}

func count(t testing.TB, db *store.DB, c *push.Counter, room, user string) (main push.Counts, threads map[string]push.Counts) {
	t.Helper()
	to := db.Pos()
	err := db.Read(context.Background(), func(q store.Querier) (err error) {
		main, threads, err = c.Room(q, room, user, to)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return main, threads
}

// want checks the counts of a user: main, and threads in pairs of root and count.
func (w *world) want(user string, n, highlights int, threads map[string]push.Counts) {
	w.t.Helper()
	main, got := count(w.t, w.db, w.c, w.room, user)
	if want := (push.Counts{Notifications: n, Highlights: highlights}); main != want || len(got) != len(threads) || len(got) > 0 && !reflect.DeepEqual(got, threads) {
		w.t.Errorf("%s has %+v %+v unread, want %+v %+v", user, main, got, want, threads)
	}
}

func TestCounts(t *testing.T) {
	w := setup(t)
	first := w.say(alice, "one")
	w.say(alice, "two")
	w.want(bob, 2, 0, nil)
	w.want(alice, 0, 0, nil)

	w.send(alice, mx.RoomMessage, mention("hello bob", bob))
	w.send(alice, mx.RoomMessage, m{"msgtype": "m.notice", "body": "quiet"})
	w.send(alice, mx.Reaction, m{"m.relates_to": m{"rel_type": "m.annotation", "event_id": first, "key": "x"}})
	w.want(bob, 3, 1, nil)
	w.want(carol, 3, 0, nil)

	w.read("bob", "m.read", first, "")
	w.want(bob, 2, 1, nil)
	last := w.say(alice, "three")
	w.read("carol", "m.read.private", last, "")
	w.want(carol, 0, 0, nil)
	w.want(bob, 3, 1, nil)

	w.say(bob, "I answer, so I have read")
	w.want(bob, 0, 0, nil)
	w.want(alice, 1, 0, nil)
	w.want(carol, 1, 0, nil)
}

func TestThreads(t *testing.T) {
	w := setup(t)
	root := w.say(alice, "root")
	other := w.say(alice, "another")
	a := w.send(alice, mx.RoomMessage, inThread(text("in"), root))
	b := w.send(alice, mx.RoomMessage, inThread(mention("in", bob), root))
	w.send(alice, mx.RoomMessage, inThread(text("in"), other))
	// What relates to an event of a thread is in the thread.
	w.send(alice, mx.RoomMessage, m{"msgtype": "m.text", "body": "about", "m.relates_to": m{"rel_type": "m.reference", "event_id": b}})
	w.want(bob, 2, 0, map[string]push.Counts{root: {Notifications: 3, Highlights: 1}, other: {Notifications: 1}})

	w.read("bob", "m.read", other, "main")
	w.want(bob, 0, 0, map[string]push.Counts{root: {Notifications: 3, Highlights: 1}, other: {Notifications: 1}})
	w.read("bob", "m.read", a, root)
	w.want(bob, 0, 0, map[string]push.Counts{root: {Notifications: 2, Highlights: 1}, other: {Notifications: 1}})
	w.send(bob, mx.RoomMessage, inThread(text("mine"), root))
	w.want(bob, 0, 0, map[string]push.Counts{other: {Notifications: 1}})
	last := w.say(alice, "main again")
	w.want(bob, 1, 0, map[string]push.Counts{other: {Notifications: 1}})
	w.read("bob", "m.read", last, "") // unthreaded: all
	w.want(bob, 0, 0, nil)
}

func TestRedactionJoinAndRules(t *testing.T) {
	w := setup(t)
	ctx := context.Background()
	id := w.send(alice, mx.RoomMessage, mention("bob!", bob))
	w.say(alice, "two")
	w.want(bob, 2, 1, nil)
	if _, err := w.rooms.Send(ctx, rooms.NewEvent{RoomID: w.room, Sender: alice, Type: mx.RoomRedaction, Redacts: id, Content: []byte(`{"redacts":"` + id + `"}`)}); err != nil {
		t.Fatal(err)
	}
	w.want(bob, 1, 0, nil)
	w.want(carol, 1, 0, nil) // counted for the first time after the redaction

	// A new name is not a join.
	key := bob
	if _, err := w.rooms.Send(ctx, rooms.NewEvent{RoomID: w.room, Sender: bob, Type: mx.RoomMember, StateKey: &key, Content: []byte(`{"membership":"join","displayname":"Bob"}`)}); err != nil {
		t.Fatal(err)
	}
	w.want(bob, 1, 0, nil)
	if err := w.rooms.Leave(ctx, w.room, bob, ""); err != nil {
		t.Fatal(err)
	}
	w.say(alice, "while away")
	w.join(bob)
	w.want(bob, 0, 0, nil)
	w.say(alice, "back")
	w.want(bob, 1, 0, nil)

	// Rules and ignored users apply from the next event on.
	w.As("bob", "D").OK("PUT", "/_matrix/client/v3/pushrules/global/content/tea", m{"pattern": "tea", "actions": []any{"notify", m{"set_tweak": "highlight"}}}, nil)
	w.say(alice, "Tea?")
	w.want(bob, 2, 1, nil)
	w.As("bob", "D").OK("PUT", "/_matrix/client/v3/pushrules/global/override/.m.rule.master/enabled", m{"enabled": true}, nil)
	w.say(alice, "Tea again?")
	w.want(bob, 2, 1, nil)
	w.As("bob", "D").OK("PUT", "/_matrix/client/v3/pushrules/global/override/.m.rule.master/enabled", m{"enabled": false}, nil)
	w.As("bob", "D").OK("PUT", "/_matrix/client/v3/user/"+bob+"/account_data/m.ignored_user_list", m{"ignored_users": m{alice: m{}}}, nil)
	w.say(alice, "unheard")
	w.say(carol, "heard")
	w.want(bob, 3, 1, nil)

	// @room needs power.
	room := text("all")
	room["m.mentions"] = m{"room": true}
	w.send(carol, mx.RoomMessage, room)
	w.want(alice, 2, 0, nil)
	w.send(alice, mx.RoomMessage, room)
	w.want(carol, 1, 1, nil)
}

// TestWarmAndCold plays a random room and compares what is counted bit by bit with
// what is counted at once, and with what is counted after a restart.
func TestWarmAndCold(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	w := setup(t)
	people := map[string]string{alice: "alice", bob: "bob", carol: "carol"}
	names := []string{alice, bob, carol}
	var events, plain, roots []string // a thread begins at an event that relates to no other
	for step := range 400 {
		user := names[r.IntN(3)]
		switch n := r.IntN(12); {
		case n < 6 || len(events) < 3:
			plain = append(plain, w.send(user, mx.RoomMessage, mention("x", names[r.IntN(3)])))
			events = append(events, plain[len(plain)-1])
		case n < 8:
			if len(roots) < 4 {
				roots = append(roots, plain[r.IntN(len(plain))])
			}
			events = append(events, w.send(user, mx.RoomMessage, inThread(text("x"), roots[r.IntN(len(roots))])))
		case n < 11:
			thread := []string{"", "main", "main"}[r.IntN(3)]
			if len(roots) > 0 && r.IntN(3) == 0 {
				thread = roots[r.IntN(len(roots))]
			}
			id := events[max(0, len(events)-1-r.IntN(10))]
			path := "/_matrix/client/v3/rooms/" + url.PathEscape(w.room) + "/receipt/" + []string{"m.read", "m.read.private"}[r.IntN(2)] + "/" + url.PathEscape(id)
			body := m{}
			if thread != "" {
				body["thread_id"] = thread
			}
			w.As(people[user], "D").Do("POST", path, body) // the server refuses receipts for the wrong thread
		case len(roots) > 0 && r.IntN(2) == 0: // the first time, all of the user's messages count in another way
			path := "/_matrix/client/unstable/io.element.msc4306/rooms/" + url.PathEscape(w.room) + "/thread/" + url.PathEscape(roots[r.IntN(len(roots))]) + "/subscription"
			w.As(people[user], "D").OK([]string{"PUT", "DELETE"}[r.IntN(2)], path, m{}, nil)
		default:
			w.want1(r, names)
		}
		if step%40 == 39 {
			cold := w.counter()
			for _, u := range names {
				compareCounts(t, fmt.Sprint("step ", step), w, w.c, cold, u)
			}
			cold.Close()
		}
	}
}

// want1 makes the warm counter evaluate one user's counts at an odd moment.
func (w *world) want1(r *rand.Rand, names []string) {
	count(w.t, w.db, w.c, w.room, names[r.IntN(len(names))])
}

func compareCounts(t *testing.T, when string, w *world, warm, cold *push.Counter, user string) {
	t.Helper()
	m1, t1 := count(t, w.db, warm, w.room, user)
	m2, t2 := count(t, w.db, cold, w.room, user)
	if m1 != m2 || !maps.Equal(t1, t2) {
		t.Fatalf("%s: %s: bit by bit %+v %+v, at once %+v %+v", when, user, m1, t1, m2, t2)
	}
}

// TestMany has more unread than is held one by one, and goes on after a restart.
func TestMany(t *testing.T) {
	w := setup(t)
	var ids []string
	for i := range 1100 {
		c := text("x")
		if i%10 == 0 {
			c = mention("x", bob)
		}
		ids = append(ids, w.send(alice, mx.RoomMessage, c))
		if i%100 == 0 {
			count(t, w.db, w.c, w.room, bob)
		}
	}
	w.want(bob, 1100, 110, nil)
	w.c.Close() // writes the checkpoint
	var stored int
	w.db.Read(context.Background(), func(q store.Querier) error {
		return q.QueryRow(`SELECT count(*) FROM push_counts WHERE user_id = $1`, bob).Scan(&stored)
	})
	if stored != 1 {
		t.Errorf("%d checkpoints were stored, want 1", stored)
	}
	w.c = w.counter()
	w.want(bob, 1100, 110, nil)
	w.say(alice, "more")
	w.want(bob, 1101, 110, nil)
	w.read("bob", "m.read", ids[1050], "")
	w.want(bob, 50, 4, nil)
	w.say(bob, "read")
	w.want(bob, 0, 0, nil)

	// A receipt amidst what was summed up.
	w.want(carol, 1102, 0, nil)
	w.read("carol", "m.read", ids[99], "")
	w.want(carol, 1002, 0, nil)
	w.read("carol", "m.read", ids[1099], "")
	w.want(carol, 2, 0, nil)
}

// BenchmarkUnread is a member's count after each of many new messages: what a
// message costs the sync of a member.
func BenchmarkUnread(b *testing.B) {
	w := setup(b)
	count(b, w.db, w.c, w.room, bob)
	from := w.db.Pos()
	for range 90 { // as many as the rooms hold in memory
		w.say(alice, "a message of a usual length")
	}
	var at []int64
	w.db.Read(context.Background(), func(q store.Querier) error {
		events, _, err := w.rooms.Last(q, w.room, from, w.db.Pos(), 200)
		for _, e := range events {
			at = append(at, e.Pos)
		}
		return err
	})
	b.ReportAllocs()
	w.db.Read(context.Background(), func(q store.Querier) error {
		n, user := 0, bob
		for b.Loop() {
			if n%len(at) == 0 { // all are counted: go on as another user
				b.StopTimer()
				user = fmt.Sprintf("@u%d:example.org", n)
				if _, _, err := w.c.Room(q, w.room, user, from); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			if _, _, err := w.c.Room(q, w.room, user, at[n%len(at)]); err != nil {
				b.Fatal(err)
			}
			n++
		}
		return nil
	})
}
