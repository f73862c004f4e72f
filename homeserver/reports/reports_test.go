package reports_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"holdfast/homeserver"
	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/reports"
	"holdfast/store"
)

type obj = hstest.Obj

func list(t *testing.T, hs *hstest.HS, f reports.Filter) (out []reports.Report, total int) {
	t.Helper()
	if f.Limit == 0 {
		f.Limit = 100
	}
	err := hs.DB.Read(context.Background(), func(q store.Querier) (err error) {
		out, total, err = reports.List(q, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out, total
}

func TestReportAnEvent(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	room := alice.CreateRoom(obj{"preset": "public_chat", "initial_state": []obj{{"type": mx.RoomHistoryVisibility, "content": obj{"history_visibility": "joined"}}}})
	unseen := alice.Send(room, "before bob came")
	bob.Join(room)
	bad := alice.Send(room, "bad")
	p := hstest.Room(room) + "/report/"
	bob.Must("POST", p+bad, obj{"reason": "rude", "score": -40})
	bob.Must("POST", p+bad, obj{})
	bob.Fails(404, mx.NotFound, "POST", p+unseen, obj{"reason": "x"})
	bob.Fails(404, mx.NotFound, "POST", p+"$none", obj{})
	bob.Fails(404, mx.NotFound, "POST", hstest.Room(bob.CreateRoom(nil))+"/report/"+bad, obj{})
	carol.Fails(404, mx.NotFound, "POST", p+bad, obj{})
	carol.Fails(404, mx.NotFound, "POST", "/rooms/!none/report/"+bad, obj{})
	bob.Fails(400, mx.BadJSON, "POST", p+bad, obj{"reason": 1})
	bob.Fails(400, mx.BadJSON, "POST", p+bad, obj{"score": "much"})
	bob.Fails(413, mx.TooLarge, "POST", p+bad, obj{"reason": strings.Repeat("x", 10_001)})
	// Who left may report no more.
	bob.Leave(room)
	bob.Fails(404, mx.NotFound, "POST", p+bad, obj{})

	hs.Restart()
	got, total := list(t, hs, reports.Filter{})
	if total != 2 || len(got) != 2 {
		t.Fatalf("%d reports: %+v", total, got)
	}
	r := got[1] // the first one made
	if r.Kind != reports.Event || r.RoomID != room || r.EventID != bad || r.UserID != alice.UserID || r.Reporter != bob.UserID ||
		r.Reason != "rude" || r.Score == nil || *r.Score != -40 || r.Received == 0 {
		t.Errorf("%+v", r)
	}
	if got[0].Score != nil || got[0].Reason != "" || got[0].ID <= r.ID {
		t.Errorf("%+v", got[0])
	}
}

func TestReportRoomsAndUsers(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(nil)
	// Neither needs to be in the room, nor to share one.
	bob.Must("POST", hstest.Room(room)+"/report", obj{"reason": ""})
	bob.Must("POST", "/users/"+alice.UserID+"/report", obj{"reason": "spam"})
	bob.Fails(404, mx.NotFound, "POST", "/rooms/!none/report", obj{"reason": ""})
	bob.Fails(404, mx.NotFound, "POST", "/users/@nobody:example.org/report", obj{"reason": ""})
	bob.Fails(400, mx.MissingParam, "POST", hstest.Room(room)+"/report", obj{})
	bob.Fails(400, mx.MissingParam, "POST", "/users/"+alice.UserID+"/report", obj{})
	bob.Must("POST", "/_matrix/client/unstable/org.matrix.msc4151/rooms/"+url.PathEscape(room)+"/report", obj{"reason": "again"})

	for _, c := range []struct {
		f    reports.Filter
		want []string // reasons
		all  int
	}{
		{reports.Filter{}, []string{"again", "spam", ""}, 3},
		{reports.Filter{OldestFirst: true}, []string{"", "spam", "again"}, 3},
		{reports.Filter{Kind: reports.Room}, []string{"again", ""}, 2},
		{reports.Filter{Kind: reports.Event}, nil, 0},
		{reports.Filter{RoomID: room}, []string{"again", ""}, 2},
		{reports.Filter{UserID: alice.UserID}, []string{"spam"}, 1},
		{reports.Filter{Reporter: bob.UserID, Kind: reports.User}, []string{"spam"}, 1},
		{reports.Filter{Reporter: alice.UserID}, nil, 0},
		{reports.Filter{From: 1, Limit: 1}, []string{"spam"}, 3},
		{reports.Filter{From: 3, Limit: 1}, nil, 3},
	} {
		got, total := list(t, hs, c.f)
		var reasons []string
		for _, r := range got {
			reasons = append(reasons, r.Reason)
		}
		if total != c.all || strings.Join(reasons, "|") != strings.Join(c.want, "|") || len(got) != len(c.want) {
			t.Errorf("%+v: %q of %d, want %q of %d", c.f, reasons, total, c.want, c.all)
		}
	}

	all, _ := list(t, hs, reports.Filter{})
	newest := all[0].ID
	remove := func() error {
		return hs.DB.Write(context.Background(), func(tx *store.Tx) error { return reports.Delete(tx, newest) })
	}
	get := func() error {
		return hs.DB.Read(context.Background(), func(q store.Querier) error {
			r, err := reports.Get(q, newest)
			if err == nil && r.Reason != "again" {
				t.Errorf("%+v", r)
			}
			return err
		})
	}
	if err := errors.Join(get(), remove()); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(get(), store.ErrNotFound) || !errors.Is(remove(), store.ErrNotFound) {
		t.Error("it is still there")
	}
	// Its number does not come back.
	bob.Must("POST", "/users/"+alice.UserID+"/report", obj{"reason": "new"})
	if all, _ = list(t, hs, reports.Filter{}); all[0].Reason != "new" || all[0].ID <= newest {
		t.Errorf("%+v after %d", all[0], newest)
	}
}

func TestReportsAreLimitedInRate(t *testing.T) {
	hs := hstest.New(t, func(o *homeserver.Options) { o.Limits = true })
	bob := hs.Login(t, "bob")
	for range 100 {
		if a := bob.Do("POST", "/users/"+bob.UserID+"/report", obj{"reason": ""}); a.Status == 429 {
			if a.JSON.At("errcode").String() != string(mx.LimitExceeded) || a.JSON.At("retry_after_ms").Int() <= 0 {
				t.Errorf("%s", a.Body)
			}
			return
		}
	}
	t.Error("a hundred reports in a row were taken")
}
