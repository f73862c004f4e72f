package ephemeral_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/homeserver/apitest"
	"holdfast/homeserver/ephemeral"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/userdata"
	"holdfast/store"
)

const room = "!room:example.org"

// rooms adds events to apitest.Rooms: "$1" is at position 1, and so on.
type rooms struct{ apitest.Rooms }

func (rooms) EventPos(_ store.Querier, roomID, eventID string) (n int64, err error) {
	if _, err := fmt.Sscanf(eventID, "$%d", &n); err != nil || roomID != room {
		return 0, store.ErrNotFound
	}
	return n, nil
}

type world struct {
	*apitest.API
	t     testing.TB
	db    *store.DB
	s     *ephemeral.Service
	data  *userdata.Service
	mu    sync.Mutex
	now   time.Time
	touch []store.Touch
}

func setup(t testing.TB) *world {
	w := &world{t: t, db: apitest.DB(t), now: time.UnixMilli(1_700_000_000_000)}
	r := rooms{apitest.Rooms{room: {"@alice:example.org", "@bob:example.org"}}}
	w.data = userdata.New(userdata.Options{DB: w.db, ServerName: apitest.Server, Rooms: r})
	w.s = ephemeral.New(ephemeral.Options{DB: w.db, Rooms: r, SetRoomData: w.data.SetRoomData, SharedUsers: r.SharedUsers, Now: w.clock})
	t.Cleanup(w.s.Close)
	w.db.OnCommit(func(_ int64, touched []store.Touch) {
		w.mu.Lock()
		w.touch = append(w.touch, touched...)
		w.mu.Unlock()
	})
	w.API = apitest.New(t, w.s.Routes(), w.data.Routes())
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	w.now = w.now.Add(d)
	w.mu.Unlock()
}

// touched tells and forgets whether something was touched.
func (w *world) touched(kind, key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := slices.ContainsFunc(w.touch, func(x store.Touch) bool { return x.Kind == kind && x.Key == key })
	w.touch = nil
	return found
}

func (w *world) read(f func(q store.Querier) error) {
	w.t.Helper()
	if err := w.db.Read(context.Background(), f); err != nil {
		w.t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for range 200 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("never: ", what)
}

func typingPath(user string) string {
	return "/_matrix/client/v3/rooms/" + room + "/typing/" + user
}

func TestTypingBeginsAndStops(t *testing.T) {
	w := setup(t)
	alice, eve := w.As("alice", "A"), w.As("eve", "E")
	from := w.db.Pos()
	if _, changed := w.s.Typing(room, from); changed {
		t.Fatal("nobody typed yet")
	}
	alice.OK("PUT", typingPath(alice.UserID), `{"typing": true, "timeout": 30000}`, nil)
	users, changed := w.s.Typing(room, from)
	if !changed || !slices.Equal(users, []string{alice.UserID}) || !w.touched(notify.Typing, room) {
		t.Fatal(users, changed)
	}
	from = w.db.Pos()
	alice.OK("PUT", typingPath(alice.UserID), `{"typing": true}`, nil)
	if _, changed := w.s.Typing(room, from); changed {
		t.Fatal("to go on typing is no change")
	}
	alice.OK("PUT", typingPath(alice.UserID), `{"typing": false}`, nil)
	users, changed = w.s.Typing(room, from)
	if !changed || users == nil || len(users) != 0 || !w.touched(notify.Typing, room) {
		t.Fatal("the stop must be sent, as an empty list:", users, changed)
	}
	if _, changed := w.s.Typing(room, 0); changed {
		t.Fatal("an initial sync needs no empty list")
	}
	alice.Fails("PUT", typingPath("@bob:example.org"), `{"typing": true}`, 403, mx.Forbidden)
	eve.Fails("PUT", typingPath(eve.UserID), `{"typing": true}`, 403, mx.Forbidden)
	alice.Fails("PUT", typingPath(alice.UserID), `{}`, 400, mx.MissingParam)
}

func TestTypingEndsByItself(t *testing.T) {
	w := setup(t)
	alice, bob := w.As("alice", "A"), w.As("bob", "B")
	alice.OK("PUT", typingPath(alice.UserID), `{"typing": true, "timeout": 50}`, nil)
	bob.OK("PUT", typingPath(bob.UserID), `{"typing": true, "timeout": 60000}`, nil)
	w.touched("", "")
	from := w.db.Pos()
	w.pass(51 * time.Millisecond)
	var users []string
	eventually(t, "the end of alice's typing", func() bool {
		var changed bool
		users, changed = w.s.Typing(room, from)
		return changed
	})
	if !slices.Equal(users, []string{bob.UserID}) || !w.touched(notify.Typing, room) {
		t.Fatal(users)
	}
}

func TestWhoLeavesDoesNotTypeOn(t *testing.T) {
	w := setup(t)
	alice := w.As("alice", "A")
	alice.OK("PUT", typingPath(alice.UserID), `{"typing": true}`, nil)
	w.touched("", "")
	from := w.db.Pos()
	err := w.db.Write(t.Context(), func(tx *store.Tx) error {
		w.s.Left(tx, room, "@bob:example.org") // was not typing
		w.s.Left(tx, room, alice.UserID)
		return nil
	})
	if users, changed := w.s.Typing(room, from); err != nil || !changed || len(users) != 0 || !w.touched(notify.Typing, room) {
		t.Fatal(err, users, changed)
	}
}

func TestTypingCostsNoDiskAccess(t *testing.T) {
	w := setup(t)
	alice := w.As("alice", "A")
	alice.OK("PUT", typingPath(alice.UserID), `{"typing": true}`, nil)
	before := w.db.Stats().Commits // the room's first time is noted, once
	alice.OK("PUT", typingPath(alice.UserID), `{"typing": false}`, nil)
	alice.OK("PUT", typingPath(alice.UserID), `{"typing": true}`, nil)
	alice.OK("PUT", typingPath(alice.UserID), `{"typing": false}`, nil)
	if n := w.db.Stats().Commits - before; n != 0 {
		t.Fatal(n, "commits for typing")
	}
}

type receiptContent map[string]map[string]map[string]struct {
	TS     int64  `json:"ts"`
	Thread string `json:"thread_id"`
}

func (w *world) receipts(forUser string, from int64) (out receiptContent) {
	w.t.Helper()
	w.read(func(q store.Querier) error {
		raw, err := w.s.Receipts(q, room, forUser, from, w.db.Pos(), nil)
		if err == nil && raw != nil {
			err = json.Unmarshal(raw, &out)
		}
		return err
	})
	return out
}

func receiptPath(typ, event string) string {
	return "/_matrix/client/v3/rooms/" + room + "/receipt/" + typ + "/" + event
}

func TestReceiptsOnlyMoveForward(t *testing.T) {
	w := setup(t)
	alice, bob := w.As("alice", "A"), w.As("bob", "B")
	from := w.db.Pos()
	alice.OK("POST", receiptPath("m.read", "$5"), `{}`, nil)
	got := w.receipts(bob.UserID, from)
	if r, ok := got["$5"]["m.read"][alice.UserID]; !ok || r.TS != w.now.UnixMilli() || !w.touched(notify.Receipt, room) {
		t.Fatal(got)
	}
	from = w.db.Pos()
	alice.OK("POST", receiptPath("m.read", "$3"), `{}`, nil)
	alice.OK("POST", receiptPath("m.read", "$5"), `{}`, nil)
	if got := w.receipts(bob.UserID, from); got != nil {
		t.Fatal("a receipt moved back or again:", got)
	}
	alice.OK("POST", receiptPath("m.read", "$6"), nil, nil)
	if got := w.receipts(bob.UserID, 0); len(got) != 1 || got["$6"] == nil {
		t.Fatal(got)
	}
	alice.Fails("POST", receiptPath("m.read", "$x"), `{}`, 404, mx.NotFound)
	alice.Fails("POST", receiptPath("m.delivered", "$5"), `{}`, 400, mx.InvalidParam)
	w.As("eve", "E").Fails("POST", receiptPath("m.read", "$5"), `{}`, 403, mx.Forbidden)
}

func TestThreadsHaveTheirOwnReceipts(t *testing.T) {
	w := setup(t)
	alice := w.As("alice", "A")
	root := "$" + "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	alice.OK("POST", receiptPath("m.read", "$7"), object{"thread_id": root}, nil)
	alice.OK("POST", receiptPath("m.read", "$4"), object{"thread_id": "main"}, nil)
	alice.OK("POST", receiptPath("m.read", "$2"), nil, nil)
	alice.OK("POST", receiptPath("m.read.private", "$6"), object{"thread_id": "main"}, nil)
	got := w.receipts("@bob:example.org", 0)
	if got["$7"]["m.read"][alice.UserID].Thread != root || got["$4"]["m.read"][alice.UserID].Thread != "main" || got["$2"]["m.read"][alice.UserID].Thread != "" {
		t.Fatal(got)
	}
	w.read(func(q store.Querier) error {
		r, err := w.s.ReadUpTo(q, room, alice.UserID)
		if r.Unthreaded != 2 || r.Main != 6 || r.Threads[root] != 7 {
			t.Errorf("read up to %+v", r)
		}
		return err
	})
	for _, bad := range []string{`{"thread_id": ""}`, `{"thread_id": 1}`, `{"thread_id": null}`, `{"thread_id": "x"}`} {
		alice.Fails("POST", receiptPath("m.read", "$7"), bad, 400, mx.InvalidParam)
	}
	alice.Fails("POST", receiptPath("m.fully_read", "$7"), `{"thread_id": "main"}`, 400, mx.InvalidParam)
	// Both on one event: the unthreaded one says more.
	alice.OK("POST", receiptPath("m.read", "$7"), nil, nil)
	if got := w.receipts("@bob:example.org", 0); got["$7"]["m.read"][alice.UserID].Thread != "" {
		t.Fatal(got)
	}
}

func TestPrivateReceiptsAreForTheirUserOnly(t *testing.T) {
	w := setup(t)
	alice := w.As("alice", "A")
	from := w.db.Pos()
	alice.OK("POST", receiptPath("m.read.private", "$5"), `{}`, nil)
	if w.touched(notify.Receipt, room) {
		t.Fatal("others are woken by a private receipt")
	}
	if got := w.receipts("@bob:example.org", from); got != nil {
		t.Fatal("bob sees alice's private receipt:", got)
	}
	if got := w.receipts(alice.UserID, from); got["$5"]["m.read.private"][alice.UserID].TS == 0 {
		t.Fatal("alice does not see her private receipt:", got)
	}
	w.read(func(q store.Querier) error {
		list, err := w.s.PrivateRooms(q, alice.UserID, from, w.db.Pos())
		if !slices.Equal(list, []string{room}) {
			t.Error(list)
		}
		return err
	})
	alice.OK("POST", receiptPath("m.read.private", "$6"), `{}`, nil)
	if !w.touched(notify.User, alice.UserID) {
		t.Fatal("alice's other devices are not woken")
	}
}

type object = map[string]any

func TestReadMarkers(t *testing.T) {
	w := setup(t)
	alice := w.As("alice", "A")
	const path = "/_matrix/client/v3/rooms/" + room + "/read_markers"
	marker := func() string {
		var c struct {
			EventID string `json:"event_id"`
		}
		alice.OK("GET", "/_matrix/client/v3/user/"+alice.UserID+"/rooms/"+room+"/account_data/m.fully_read", nil, &c)
		return c.EventID
	}
	alice.OK("POST", path, object{"m.fully_read": "$4", "m.read": "$5", "m.read.private": "$6"}, nil)
	if marker() != "$4" || w.receipts(alice.UserID, 0)["$5"]["m.read"] == nil || w.receipts(alice.UserID, 0)["$6"]["m.read.private"] == nil {
		t.Fatal(marker(), w.receipts(alice.UserID, 0))
	}
	if len(w.receipts(alice.UserID, 0)) != 2 {
		t.Fatal("m.fully_read is no receipt:", w.receipts(alice.UserID, 0))
	}
	alice.OK("POST", path, object{"m.fully_read": "$3"}, nil)
	if marker() != "$4" {
		t.Fatal("the marker moved back")
	}
	alice.OK("POST", receiptPath("m.fully_read", "$9"), `{}`, nil)
	if marker() != "$9" {
		t.Fatal(marker())
	}
	alice.Fails("POST", path, object{"m.fully_read": "$x"}, 404, mx.NotFound)
	alice.OK("POST", path, object{}, nil)
}

func TestPresence(t *testing.T) {
	w := setup(t)
	alice, bob, eve := w.As("alice", "A"), w.As("bob", "B"), w.As("eve", "E")
	path := "/_matrix/client/v3/presence/" + alice.UserID + "/status"
	all := func(string) bool { return true }
	if got := bob.OK("GET", path, nil, nil).JSON(t); got["presence"] != "offline" {
		t.Fatal(got)
	}
	from := w.db.Pos()
	ctx := context.Background()
	if err := w.s.Synced(ctx, alice.UserID, "A", ""); err != nil {
		t.Fatal(err)
	}
	if got := w.s.Presence(from, w.db.Pos(), all); len(got) != 1 || !w.touched(notify.Presence, alice.UserID) {
		t.Fatalf("%s", got)
	}
	from = w.db.Pos()
	w.pass(30 * time.Second)
	w.s.Synced(ctx, alice.UserID, "A", "online")
	if w.db.Pos() != from {
		t.Fatal("still online is no change")
	}
	alice.OK("PUT", path, object{"presence": "unavailable", "status_msg": "lunch"}, nil)
	got := w.s.Presence(from, w.db.Pos(), all)
	var e struct {
		Type, Sender string
		Content      object
	}
	if len(got) != 1 || json.Unmarshal(got[0], &e) != nil || e.Type != "m.presence" || e.Sender != alice.UserID || e.Content["status_msg"] != "lunch" || e.Content["presence"] != "unavailable" {
		t.Fatalf("%s", got)
	}
	if got := w.s.Presence(from, w.db.Pos(), func(string) bool { return false }); len(got) != 0 {
		t.Fatal("shown to who may not see it")
	}
	if got := bob.OK("GET", path, nil, nil).JSON(t); got["status_msg"] != "lunch" || got["last_active_ago"] != 30000.0 {
		t.Fatal(got)
	}
	w.s.Synced(ctx, alice.UserID, "A", "offline")
	if got := bob.OK("GET", path, nil, nil).JSON(t); got["presence"] != "unavailable" {
		t.Fatal("set_presence=offline leaves the presence as it is:", got)
	}
	eve.Fails("GET", path, nil, 403, mx.Forbidden)
	eve.Fails("PUT", path, object{"presence": "online"}, 403, mx.Forbidden)
	alice.Fails("PUT", path, object{"presence": "away"}, 400, mx.InvalidParam)
	if err := w.s.Synced(ctx, alice.UserID, "A", "away"); err == nil {
		t.Fatal("a wrong set_presence passed")
	}
}
