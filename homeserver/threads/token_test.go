package threads

import (
	"context"
	"fmt"
	"testing"

	"holdfast/homeserver/apitest"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/rooms"
	"holdfast/store"
)

func FuzzPageToken(f *testing.F) {
	for _, s := range []string{"t1_0", "t9223372036854775807_9223372036854775807", "t01_0", "t1_-1", "t_", "s1_2", "t1_0_0", "t1_+0", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := parsePageToken(s)
		if err == nil && (tok.String() != s || tok.upTo < 0 || tok.after < 0) {
			t.Fatalf("%q is %+v", s, tok)
		}
		if err != nil && tok != (pageToken{}) {
			t.Fatalf("%q fails with %+v", s, tok)
		}
	})
}

// A user's threads are bounded: the oldest of those that they unsubscribed from make
// room, and no subscription does.
func TestBound(t *testing.T) {
	db := apitest.DB(t)
	s := New(Options{DB: db, Recount: func(*store.Tx, string, string) error { return nil },
		Thread: func(store.Querier, *rooms.Event) (string, error) { return "", nil }})
	const me, room = "@me:example.org", "!r:example.org"
	write := func(f func(tx *store.Tx) error) error { return db.Write(context.Background(), f) }
	err := write(func(tx *store.Tx) error {
		for i := range maxRows {
			st := manual
			if i == 5 || i == 7 {
				st = none
			}
			if err := upsert(tx, me, room, fmt.Sprint("$", i), st, 0, tx.NextPos()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	subscribe := func(root string) error {
		return write(func(tx *store.Tx) error { return s.subscribe(tx, me, room, root, 0) })
	}
	left := func(root string) (there bool) {
		if err := db.Read(context.Background(), func(q store.Querier) error {
			r, err := load(q, me, room, root)
			there = r.there
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return there
	}
	if err := subscribe("$new"); err != nil || left("$5") || !left("$7") || !left("$new") {
		t.Errorf("the first past the bound: %v %v %v", err, left("$5"), left("$7"))
	}
	if err := subscribe("$8"); err != nil || !left("$7") { // it is there
		t.Errorf("one that is there: %v", err)
	}
	if err := subscribe("$newer"); err != nil || left("$7") {
		t.Errorf("the second: %v", err)
	}
	refused, _ := subscribe("$one more").(*mx.Error)
	if refused == nil || refused.Code != mx.TooLarge || left("$one more") || !left("$0") {
		t.Errorf("the third: %v", refused)
	}
}
