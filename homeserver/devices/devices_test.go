package devices_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/homeserver/apitest"
	"holdfast/homeserver/devices"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

type object = map[string]any

type world struct {
	*apitest.API
	t       testing.TB
	db      *store.DB
	s       *devices.Service
	now     time.Time
	refuse  bool
	asked   int
	deleted []string
	renamed []string
	fail    error // of the delete hook
}

func setup(t testing.TB) *world {
	w := &world{t: t, db: apitest.DB(t), now: time.UnixMilli(1_700_000_000_000)}
	w.s = devices.New(devices.Options{DB: w.db, Now: func() time.Time { return w.now },
		Confirm: func(_ context.Context, r *route.Request) error {
			w.asked++
			if w.refuse {
				return &mx.Error{Status: http.StatusUnauthorized, Fields: object{"flows": []any{}, "session": "s"}}
			}
			return nil
		}})
	w.s.OnDelete(func(tx *store.Tx, userID, deviceID string) error {
		if w.fail != nil {
			return w.fail
		}
		w.deleted = append(w.deleted, userID+"|"+deviceID)
		return nil
	})
	w.s.OnRename(func(tx *store.Tx, userID string) error {
		w.renamed = append(w.renamed, userID)
		return nil
	})
	w.API = apitest.New(t, w.s.Routes())
	for _, d := range []string{"A", "B", "C"} {
		w.write(func(tx *store.Tx) error { return w.s.Upsert(tx, "@alice:example.org", d, "phone "+d) })
	}
	w.write(func(tx *store.Tx) error { return w.s.Upsert(tx, "@bob:example.org", "A", "") })
	return w
}

func (w *world) write(f func(tx *store.Tx) error) {
	w.t.Helper()
	if err := w.db.Write(context.Background(), f); err != nil {
		w.t.Fatal(err)
	}
}

const path = "/_matrix/client/v3/devices"

func ids(t *testing.T, c *apitest.Client) (out []string) {
	t.Helper()
	var got struct {
		Devices []struct {
			ID string `json:"device_id"`
		}
	}
	c.OK("GET", path, nil, &got)
	for _, d := range got.Devices {
		out = append(out, d.ID)
	}
	slices.Sort(out)
	return out
}

func TestListAndRename(t *testing.T) {
	w := setup(t)
	alice, bob := w.As("alice", "A"), w.As("bob", "A")
	if got := ids(t, alice); !slices.Equal(got, []string{"A", "B", "C"}) {
		t.Fatal(got)
	}
	alice.OK("PUT", path+"/B", object{"display_name": "tablet"}, nil)
	if got := alice.OK("GET", path+"/B", nil, nil).JSON(t); got["display_name"] != "tablet" || got["user_id"] != alice.UserID || got["last_seen_ts"] != nil {
		t.Fatal(got)
	}
	if !slices.Equal(w.renamed, []string{alice.UserID}) {
		t.Fatal("others see the name with the keys:", w.renamed)
	}
	alice.OK("PUT", path+"/B", object{"display_name": "tablet"}, nil)
	alice.OK("PUT", path+"/B", object{}, nil)
	if len(w.renamed) != 1 {
		t.Fatal("no change was told as one")
	}
	bob.Fails("GET", path+"/B", nil, 404, mx.NotFound)
	bob.Fails("PUT", path+"/B", object{"display_name": "mine"}, 404, mx.NotFound)
	alice.Fails("PUT", path+"/B", object{"display_name": strings.Repeat("x", 256)}, 400, mx.InvalidParam)
	// A login again keeps the name that the user gave.
	w.write(func(tx *store.Tx) error { return w.s.Upsert(tx, alice.UserID, "B", "") })
	w.write(func(tx *store.Tx) error { return w.s.Upsert(tx, alice.UserID, "B", "what the client says") })
	if got := alice.OK("GET", path+"/B", nil, nil).JSON(t); got["display_name"] != "tablet" {
		t.Fatal(got)
	}
}

func TestOnlyAppservicesCreateDevices(t *testing.T) {
	w := setup(t)
	as := w.AsAppservice("alice", "", "bridge")
	if a := as.Do("PUT", path+"/NEW", object{"display_name": "bridge"}); a.Status != http.StatusCreated || string(a.Body) != "{}" {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if a := as.Do("PUT", path+"/NEW", object{"display_name": "bridge 2"}); a.Status != http.StatusOK {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	w.refuse = true
	as.OK("DELETE", path+"/NEW", nil, nil)
	if w.asked != 0 {
		t.Fatal("an application service cannot answer a question")
	}
}

func TestDeletionIsConfirmedAndTakesAll(t *testing.T) {
	w := setup(t)
	alice, bob := w.As("alice", "A"), w.As("bob", "A")
	w.refuse = true
	if a := alice.Do("DELETE", path+"/B", nil); a.Status != http.StatusUnauthorized || a.JSON(t)["session"] != "s" {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if len(w.deleted) != 0 || len(ids(t, alice)) != 3 {
		t.Fatal("deleted without confirmation")
	}
	w.refuse = false
	alice.OK("DELETE", path+"/B", object{}, nil)
	alice.OK("DELETE", path+"/B", object{}, nil) // gone already
	bob.OK("DELETE", path+"/C", object{}, nil)   // not bob's
	alice.OK("POST", "/_matrix/client/v3/delete_devices", object{"devices": []string{"C", "NONE"}}, nil)
	if got := ids(t, alice); !slices.Equal(got, []string{"A"}) || !slices.Equal(w.deleted, []string{"@alice:example.org|B", "@alice:example.org|C"}) {
		t.Fatal(got, w.deleted)
	}
	alice.Fails("POST", "/_matrix/client/v3/delete_devices", object{}, 400, mx.MissingParam)
	w.fail = errors.New("the keys cannot be deleted")
	if a := alice.Do("DELETE", path+"/A", object{}); a.Status != 500 {
		t.Fatal(a.Status)
	}
	if got := ids(t, alice); !slices.Equal(got, []string{"A"}) {
		t.Fatal("a device went without what belongs to it")
	}
}

func TestDeleteAllButOne(t *testing.T) {
	w := setup(t)
	w.write(func(tx *store.Tx) error { return w.s.DeleteAll(tx, "@alice:example.org", "B") })
	if got := ids(t, w.As("alice", "B")); !slices.Equal(got, []string{"B"}) {
		t.Fatal(got)
	}
	if got := ids(t, w.As("bob", "A")); len(got) != 1 {
		t.Fatal("bob's devices went too")
	}
}

func TestLastSeenIsWrittenLazily(t *testing.T) {
	w := setup(t)
	alice := w.As("alice", "A")
	before := w.db.Stats().Writes
	for range 100 {
		w.s.Seen(alice.UserID, "A", "192.0.2.1", "Element")
		w.now = w.now.Add(time.Second)
	}
	if n := w.db.Stats().Writes - before; n != 0 {
		t.Fatal(n, "writes for requests")
	}
	want := float64(w.now.Add(-time.Second).UnixMilli())
	check := func(c *apitest.Client) {
		t.Helper()
		if got := c.OK("GET", path+"/A", nil, nil).JSON(t); got["last_seen_ts"] != want || got["last_seen_ip"] != "192.0.2.1" {
			t.Fatal(got)
		}
	}
	check(alice)
	if err := w.s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := w.db.Stats().Writes - before; n != 1 {
		t.Fatal(n, "writes for one flush")
	}
	check(alice)
	other := devices.New(devices.Options{DB: w.db})
	check(apitest.New(t, other.Routes()).As("alice", "A"))
	// Run writes what is left when it ends.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { w.s.Run(ctx); close(done) }()
	w.s.Seen(alice.UserID, "A", "192.0.2.1", "Element")
	want = float64(w.now.UnixMilli())
	cancel()
	<-done
	check(apitest.New(t, other.Routes()).As("alice", "A"))
}
