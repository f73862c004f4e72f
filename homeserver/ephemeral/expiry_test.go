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
		if err := s.Synced(t.Context(), u, ""); err != nil {
			t.Fatal(err)
		}
	}
	from := db.Pos()
	now = now.Add(offlineAfter - time.Second)
	if err := s.Synced(t.Context(), "@bob:example.org", ""); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Second)
	s.sweepPresence()
	got := s.Presence(from, db.Pos(), func(string) bool { return true })
	if len(got) != 1 || s.presence["@alice:example.org"].state != offline || s.presence["@bob:example.org"].state != online {
		t.Fatalf("%s", got)
	}
}
