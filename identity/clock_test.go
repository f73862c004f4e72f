package identity_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/identity"
	"holdfast/store/audit"
)

// The clock is set back a day: what has expired stays expired, also over a restart, people
// still sign in, and an alarm is raised.
func TestAttack43ClockSetBack(t *testing.T) {
	var mu sync.Mutex
	var alarms []string
	r := newRig(t, func(o *identity.Options) {
		o.Alarm = func(_ context.Context, text string) { mu.Lock(); defer mu.Unlock(); alarms = append(alarms, text) }
	})
	r.user("alice")
	c := r.client(nil)
	tk := r.session("alice", c)
	inv, err := r.svc.CreateInvite(t.Context(), identity.NewInvite{ExpiresIn: time.Hour})
	must(t, err)
	login, err := r.svc.CreateLoginToken(t.Context(), "@alice:example.org", time.Minute)
	must(t, err)
	b := r.browser()
	code := b.code("alice", authParams(c))
	r.wait(24 * time.Hour)
	dead := func(when string) {
		t.Helper()
		if r.alive(tk.access) {
			t.Errorf("%s: the access token works", when)
		}
		if ok, err := r.svc.InviteValid(t.Context(), inv.Token); ok || err != nil {
			t.Errorf("%s: the invite works: %v", when, err)
		}
		if a := b.api("/oauth2/token", exchangeForm(c, code)); a.StatusCode != 400 {
			t.Errorf("%s: the code works: %d %s", when, a.StatusCode, a.body)
		}
	}
	dead("a day later")
	r.wait(-24 * time.Hour)
	dead("set back")
	if d := r.svc.ClockBehind(); d < 23*time.Hour {
		t.Errorf("behind by %s", d)
	}
	r.stop()
	r.start()
	dead("set back and restarted")
	if _, err := r.svc.ConsumeLoginToken(t.Context(), login); !errors.Is(err, identity.ErrUnknownToken) {
		t.Errorf("the login token works: %v", err)
	}
	if tk := r.session("alice", c); !r.alive(tk.access) {
		t.Error("nobody can sign in while the clock is behind")
	}
	// The alarm is raised by the look at the start.
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		mu.Lock()
		raised := slices.ContainsFunc(alarms, func(s string) bool {
			return strings.Contains(s, "clock is 24h0m0s behind") || strings.Contains(s, "clock is 23h59m")
		})
		mu.Unlock()
		list, err := r.log.Find(t.Context(), audit.Filter{Event: "clock.back"})
		must(t, err)
		if raised && len(list) == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no alarm: %q, %d entries", alarms, len(list))
		}
	}
	// Where the clock was ahead by mistake, a person says so.
	must(t, r.svc.AcceptClock(t.Context()))
	if d := r.svc.ClockBehind(); d != 0 {
		t.Errorf("still behind by %s", d)
	}
	if e := r.last("clock.accept"); e.Actor != audit.System {
		t.Errorf("%+v", e)
	}
	r.stop()
	r.start()
	if d := r.svc.ClockBehind(); d != 0 {
		t.Errorf("behind by %s again", d)
	}
	// A small correction is followed.
	r.wait(-30 * time.Second)
	if d := r.svc.ClockBehind(); d != 0 {
		t.Errorf("behind by %s after a small correction", d)
	}
}
