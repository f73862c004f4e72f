package ephemeral

import (
	"testing"
	"time"

	"holdfast/homeserver/apitest"
)

// The sweep itself is a timer; here it is called, with the clock moved on.
func TestPresenceExpires(t *testing.T) {
	db, now := apitest.DB(t), time.UnixMilli(1_700_000_000_000)
	s := New(Options{DB: db, Now: func() time.Time { return now }})
	defer s.Close()
	for _, u := range []string{"@alice:example.org", "@bob:example.org"} {
		if err := s.Synced(t.Context(), u, "D", ""); err != nil {
			t.Fatal(err)
		}
	}
	from := db.Pos()
	now = now.Add(offlineAfter - time.Second)
	if err := s.Synced(t.Context(), "@bob:example.org", "D", ""); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Second)
	s.sweepPresence()
	got := s.Presence(from, db.Pos(), func(string) bool { return true })
	if len(got) != 1 || s.presence["@alice:example.org"].state != offline || s.presence["@bob:example.org"].state != online {
		t.Fatalf("%s", got)
	}
}

// A user's devices count together; who does nothing for long is unavailable, whatever
// the devices say, until something is done.
func TestPresenceOfDevices(t *testing.T) {
	db, now := apitest.DB(t), time.UnixMilli(1_700_000_000_000)
	s := New(Options{DB: db, Now: func() time.Time { return now }})
	defer s.Close()
	const alice = "@alice:example.org"
	sync := func(device, state string) {
		t.Helper()
		if err := s.Synced(t.Context(), alice, device, state); err != nil {
			t.Fatal(err)
		}
	}
	is := func(want string) {
		t.Helper()
		s.mu.Lock()
		defer s.mu.Unlock()
		if got := s.presence[alice].state; got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	sync("PHONE", unavailable)
	is(unavailable)
	sync("DESK", online)
	is(online)
	at := db.Pos()
	sync("PHONE", unavailable)
	if is(online); db.Pos() != at {
		t.Fatal("an idle device beside one that is online is a change")
	}
	for range 4 { // the desk is closed
		now = now.Add(offlineAfter / 3)
		sync("PHONE", unavailable)
		s.sweepPresence()
	}
	is(unavailable)
	sync("DESK", online)
	for now = now.Add(time.Minute); now.Sub(s.presence[alice].active) < idleAfter; now = now.Add(time.Minute) {
		sync("DESK", online)
		s.sweepPresence()
	}
	sync("DESK", online)
	s.sweepPresence()
	is(unavailable)
	s.Active(alice)
	is(online)
	// After a restart it is known who was there, and for how long not.
	again := New(Options{DB: db, Now: func() time.Time { return now }})
	s.Close()
	now = now.Add(10 * time.Second)
	if err := again.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	c := again.presence[alice].content(now)
	if c.Presence != online || c.LastActiveAgo == nil || *c.LastActiveAgo != 10_000 || *c.CurrentlyActive {
		t.Fatalf("after a restart: %+v", c)
	}
	now = now.Add(offlineAfter)
	again.sweepPresence()
	if c := again.presence[alice].content(now); c.Presence != offline || *c.LastActiveAgo != 100_000 {
		t.Fatalf("nobody came back: %+v", c)
	}
}
