package todevice_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/homeserver/apitest"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/todevice"
	"holdfast/store"
)

type object = map[string]any

// deviceList is user ID → device IDs.
type deviceList map[string][]string

func (d deviceList) IDs(_ store.Querier, userID string) ([]string, error) { return d[userID], nil }

type world struct {
	*apitest.API
	t     testing.TB
	db    *store.DB
	s     *todevice.Service
	now   time.Time
	touch []string
}

func setup(t testing.TB) *world {
	w := &world{t: t, db: apitest.DB(t), now: time.Now()}
	w.s = todevice.New(todevice.Options{DB: w.db, Now: func() time.Time { return w.now }, Devices: deviceList{
		"@alice:example.org": {"A1", "A2"}, "@bob:example.org": {"B"},
	}})
	w.API = apitest.New(t, w.s.Routes())
	w.db.OnCommit(func(_ int64, touched []store.Touch) {
		for _, x := range touched {
			if x.Kind == notify.Device {
				w.touch = append(w.touch, x.Key)
			}
		}
	})
	return w
}

func path(typ, txn string) string { return "/_matrix/client/v3/sendToDevice/" + typ + "/" + txn }

// since gives the contents' "n" of what waits for a device.
func (w *world) since(user, device string, from, to int64, limit int) (ns []int, last int64) {
	w.t.Helper()
	err := w.db.Read(context.Background(), func(q store.Querier) error {
		msgs, l, err := todevice.Since(q, mx.UserID(user, apitest.Server), device, from, to, limit)
		for _, m := range msgs {
			var e struct {
				Type, Sender string
				Content      struct{ N int }
			}
			if err := json.Unmarshal(m, &e); err != nil || e.Type != "m.test" || e.Sender != "@bob:example.org" {
				w.t.Fatalf("%v %s", err, m)
			}
			ns = append(ns, e.Content.N)
		}
		last = l
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return ns, last
}

func (w *world) ack(user, device string, upTo int64) {
	w.t.Helper()
	err := w.db.Write(context.Background(), func(tx *store.Tx) error {
		return todevice.Ack(tx, mx.UserID(user, apitest.Server), device, upTo)
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func send(n int, to object) object {
	for user, devices := range to {
		out := object{}
		for _, d := range devices.([]string) {
			out[d] = object{"n": n}
		}
		to[user] = out
	}
	return object{"messages": to}
}

func TestMessagesWaitUntilAcknowledged(t *testing.T) {
	w := setup(t)
	bob := w.As("bob", "B")
	const alice = "@alice:example.org"
	bob.OK("PUT", path("m.test", "1"), send(1, object{alice: []string{"A1"}}), nil)
	bob.OK("PUT", path("m.test", "2"), send(2, object{alice: []string{"A1"}}), nil)
	pos := w.db.Pos()
	got, last := w.since("alice", "A1", 0, pos, 0)
	if !slices.Equal(got, []int{1, 2}) || last != pos {
		t.Fatal(got, last, pos)
	}
	if got, _ := w.since("alice", "A1", 0, pos, 0); len(got) != 2 {
		t.Fatal("an answer that was lost must be repeated")
	}
	bob.OK("PUT", path("m.test", "3"), send(3, object{alice: []string{"A1"}}), nil)
	w.ack("alice", "A1", last)
	if got, _ := w.since("alice", "A1", last, w.db.Pos(), 0); !slices.Equal(got, []int{3}) {
		t.Fatal(got)
	}
	if got, _ := w.since("alice", "A1", 0, w.db.Pos(), 0); !slices.Equal(got, []int{3}) {
		t.Fatal("acknowledged messages are still there:", got)
	}
	w.db.Read(t.Context(), func(q store.Querier) error {
		if p, _ := todevice.Pending(q, alice, "A1", last); p {
			t.Error("nothing is left to acknowledge")
		}
		return nil
	})
}

func TestWildcardAndUnknownDevices(t *testing.T) {
	w := setup(t)
	bob := w.As("bob", "B")
	bob.OK("PUT", path("m.test", "1"), send(1, object{"@alice:example.org": []string{"*"}, "@nobody:example.org": []string{"*"}}), nil)
	for _, d := range []string{"A1", "A2"} {
		if got, _ := w.since("alice", d, 0, w.db.Pos(), 0); !slices.Equal(got, []int{1}) {
			t.Fatal(d, got)
		}
	}
	slices.Sort(w.touch)
	if !slices.Equal(w.touch, []string{"@alice:example.org|A1", "@alice:example.org|A2"}) {
		t.Fatal("woken:", w.touch)
	}
	bob.OK("PUT", path("m.test", "2"), send(2, object{"@alice:example.org": []string{"NONE"}}), nil)
	if got, _ := w.since("alice", "NONE", 0, w.db.Pos(), 0); got != nil {
		t.Fatal("a message waits for a device that is not there")
	}
}

func TestTransactionIDsDeliverOnce(t *testing.T) {
	w := setup(t)
	to := func() object { return send(1, object{"@alice:example.org": []string{"A1"}}) }
	w.As("bob", "B").OK("PUT", path("m.test", "1"), to(), nil)
	w.As("bob", "B").OK("PUT", path("m.test", "1"), to(), nil)
	if got, _ := w.since("alice", "A1", 0, w.db.Pos(), 0); len(got) != 1 {
		t.Fatal("delivered", len(got), "times")
	}
	w.As("bob", "OTHER").OK("PUT", path("m.test", "1"), to(), nil)
	if got, _ := w.since("alice", "A1", 0, w.db.Pos(), 0); len(got) != 2 {
		t.Fatal("transaction IDs belong to a device")
	}
	w.now = w.now.Add(25 * time.Hour)
	w.As("bob", "B").OK("PUT", path("m.test", "9"), to(), nil)
	w.As("bob", "B").OK("PUT", path("m.test", "1"), to(), nil)
	if got, _ := w.since("alice", "A1", 0, w.db.Pos(), 0); len(got) != 4 {
		t.Fatal("old transaction IDs are kept for ever")
	}
}

func TestASyncGetsAHundred(t *testing.T) {
	w := setup(t)
	bob := w.As("bob", "B")
	for i := range 150 {
		bob.OK("PUT", path("m.test", fmt.Sprint(i)), send(i, object{"@alice:example.org": []string{"A1"}}), nil)
	}
	to := w.db.Pos()
	first, last := w.since("alice", "A1", 0, to, 0)
	if len(first) != todevice.MaxPerSync || last >= to {
		t.Fatal(len(first), last, to)
	}
	w.ack("alice", "A1", last)
	rest, end := w.since("alice", "A1", last, to, 0)
	if len(rest) != 50 || rest[0] != 100 || end != to {
		t.Fatal("messages were lost between two syncs:", len(rest), end, to)
	}
}

func TestDeletedDeviceLeavesNothing(t *testing.T) {
	w := setup(t)
	w.As("bob", "B").OK("PUT", path("m.test", "1"), send(1, object{"@alice:example.org": []string{"*"}}), nil)
	if err := w.db.Write(t.Context(), func(tx *store.Tx) error { return w.s.DeviceDeleted(tx, "@alice:example.org", "A1") }); err != nil {
		t.Fatal(err)
	}
	if got, _ := w.since("alice", "A1", 0, w.db.Pos(), 0); got != nil {
		t.Fatal(got)
	}
	if got, _ := w.since("alice", "A2", 0, w.db.Pos(), 0); len(got) != 1 {
		t.Fatal("the other device's messages went too")
	}
}

func TestWhatIsRefused(t *testing.T) {
	w := setup(t)
	bob := w.As("bob", "B")
	bob.Fails("PUT", path("m.test", "1"), `{}`, 400, mx.MissingParam)
	bob.Fails("PUT", path("m.test", "1"), `{"messages": {"@a:b": {"D": "x"}}}`, 400, mx.BadJSON)
	bob.Fails("PUT", path("m.test", "1"), `{"messages": {"@a:b": []}}`, 400, mx.BadJSON)
	bob.Fails("PUT", path("m.test", "1"), `{"messages": {"@a:b": {"D": {"x": "`+strings.Repeat("x", 70<<10)+`"}}}}`, 413, mx.TooLarge)
	bob.Fails("PUT", path(strings.Repeat("t", 256), "1"), `{"messages": {}}`, 400, mx.InvalidParam)
	w.Nobody().Fails("PUT", path("m.test", "1"), `{"messages": {}}`, 401, mx.MissingToken)
}
