package identity_test

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/identity"
	"holdfast/store/audit"
)

func twice(password string) url.Values {
	return url.Values{"password": {password}, "password2": {password}}
}

// recoveryLink makes a link as whoever commands the appliance, and returns its path.
func (r *rig) recoveryLink(userID string) string {
	r.t.Helper()
	l, err := r.svc.RecoveryLink(audit.As(r.t.Context(), audit.CommandLine), userID, 24*time.Hour)
	must(r.t, err)
	if !strings.HasPrefix(l.URL, origin+"/e/") {
		r.t.Fatal(l.URL)
	}
	return strings.TrimPrefix(l.URL, origin)
}

// Somebody lost the password, the second factor and all devices, or a thief has them.
func TestRecoveryLink(t *testing.T) {
	var told []string
	r := newRig(t, func(o *identity.Options) {
		o.Tell = func(_ context.Context, u identity.User, text string) { told = append(told, u.UserID+" "+text) }
	})
	u := r.user("alice")
	thief := r.browser()
	thief.password("alice").to(t)
	thief.enrolApp()
	old, err := r.svc.StartSession(t.Context(), identity.SessionRequest{UserID: u.UserID})
	must(t, err)
	stolen := old.Access
	before := r.seq()
	link := r.recoveryLink(u.UserID)

	// Whoever looks at it, such as the preview of a messenger, changes nothing.
	b := r.browser()
	for range 3 {
		p := b.get(link).has(t, 200, "@alice:example.org")
		if p.Header.Get("Cache-Control") != "no-store" || strings.Count(p.body, "<h1") != 1 {
			t.Fatalf("%v %s", p.Header, p.body)
		}
	}
	thief.get("/account").has(t, 200, "")
	b.post(link, url.Values{"password": {"one long password"}, "password2": {"another long one"}}).has(t, 400, "differ")
	b.post(link, twice("short")).has(t, 400, "at least 8")
	b.post(link, twice("alice alice")).has(t, 400, "little more than a name")
	if len(told) != 0 || !r.alive(stolen) {
		t.Fatalf("something was done already: %v", told)
	}

	b.post(link, twice("stapler battery lamp")).has(t, 200, "signed out everywhere else")
	b.get("/account").has(t, 200, "@alice:example.org")
	if to := thief.get("/account").to(t); to.Path != "/login" {
		t.Fatalf("the thief's browser: %s", to)
	}
	if r.alive(stolen) {
		t.Fatal("the thief's session goes on")
	}
	// The second factor is gone: the password alone signs in, also from elsewhere.
	n := r.browser()
	if to := n.post("/login", url.Values{"username": {"alice"}, "password": {"stapler battery lamp"}}).to(t); to.Path != "/account" {
		t.Fatalf("after the recovery: %s", to)
	}
	r.browser().password("alice").has(t, 401, "")
	if len(told) != 1 || !strings.HasPrefix(told[0], "@alice:example.org Your account was recovered") {
		t.Fatalf("told: %q", told)
	}
	noted := r.noted(before)
	for _, want := range []string{"command-line link.create @alice:example.org", "@alice:example.org user.recover @alice:example.org",
		"@alice:example.org password.set @alice:example.org", "@alice:example.org factor.reset @alice:example.org"} {
		if !slices.Contains(noted, want) {
			t.Errorf("the audit log has no %q: %q", want, noted)
		}
	}
	if e := r.last("user.recover"); !strings.Contains(e.Data, `"link_by":"command-line"`) || strings.Contains(e.Data, strings.TrimPrefix(link, "/e/")) {
		t.Errorf("%s", e.Data)
	}

	// Once.
	r.browser().get(link).has(t, 410, "This link no longer works")
	r.browser().post(link, twice("a third password here")).has(t, 410, "This link no longer works")
	r.browser().get("/e/made-up").has(t, 410, "This invite no longer works")
}

// Of those who use a link at the same time one sets the password.
func TestRecoveryLinkRace(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("alice")
	link := r.recoveryLink(u.UserID)
	var (
		all sync.WaitGroup
		mu  sync.Mutex
		won []string
	)
	for i := range 8 {
		password := strings.Repeat("stapler lamp ", 2) + string(rune('a'+i))
		b := r.browser()
		all.Go(func() {
			a := b.post(link, twice(password))
			mu.Lock()
			defer mu.Unlock()
			switch a.StatusCode {
			case 200:
				won = append(won, password)
			case 410:
			default:
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
		})
	}
	all.Wait()
	if len(won) != 1 {
		t.Fatalf("%d set a password", len(won))
	}
	if _, err := r.svc.VerifyPassword(t.Context(), u.UserID, won[0], "x"); err != nil {
		t.Fatalf("the winner's password: %v", err)
	}
}

// What ends a link before it was used.
func TestRecoveryLinkEnds(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("alice")
	gone := func(why, link string) {
		t.Helper()
		b := r.browser()
		if g, p := b.get(link), b.post(link, twice("stapler battery lamp")); g.StatusCode != 410 || p.StatusCode != 410 {
			t.Fatalf("%s: %d %d", why, g.StatusCode, p.StatusCode)
		}
	}
	link := r.recoveryLink(u.UserID)
	second := r.recoveryLink(u.UserID)
	gone("another link took its place", link)
	must(t, r.svc.SetPassword(t.Context(), u.UserID, "set by the administrator", "", false))
	gone("a password was set", second)

	link = r.recoveryLink(u.UserID)
	must(t, r.svc.SetDisabled(t.Context(), u.UserID, true))
	gone("locked", link)
	if _, err := r.svc.RecoveryLink(t.Context(), u.UserID, time.Hour); !errors.Is(err, identity.ErrLocked) {
		t.Fatalf("for a locked account: %v", err)
	}
	must(t, r.svc.SetDisabled(t.Context(), u.UserID, false))
	r.browser().get(link).has(t, 200, "@alice:example.org")
	r.wait(24 * time.Hour)
	gone("expired", link)

	link = r.recoveryLink(u.UserID)
	must(t, r.svc.Deactivate(t.Context(), u.UserID))
	gone("closed", link)
	if _, err := r.svc.RecoveryLink(t.Context(), u.UserID, time.Hour); !errors.Is(err, identity.ErrDeactivated) {
		t.Fatalf("for a closed account: %v", err)
	}
	if _, err := r.svc.RecoveryLink(t.Context(), "@nobody:example.org", time.Hour); !errors.Is(err, identity.ErrNoUser) {
		t.Fatalf("for nobody: %v", err)
	}
	b := r.user("bob")
	for _, d := range []time.Duration{0, -time.Hour, 31 * 24 * time.Hour} {
		if _, err := r.svc.RecoveryLink(t.Context(), b.UserID, d); !errors.Is(err, identity.ErrLinkTime) {
			t.Fatalf("%s: %v", d, err)
		}
	}
}

// An administrator gets no owner's account by a link, not even by one that was made
// before the person owned the appliance.
func TestRecoveryLinkOfAnOwner(t *testing.T) {
	r := newRig(t, nil)
	ctx := t.Context()
	olga, adam, anna := r.user("olga").UserID, r.user("adam").UserID, r.user("anna").UserID
	must(t, r.svc.Grant(ctx, olga, identity.Owner))
	must(t, r.svc.Grant(ctx, adam, identity.Admin))
	asAdam, asOlga := identity.WithActor(ctx, adam), identity.WithActor(ctx, olga)
	if _, err := r.svc.RecoveryLink(asAdam, olga, time.Hour); !errors.Is(err, identity.ErrOwner) {
		t.Fatalf("an administrator for an owner: %v", err)
	}
	l, err := r.svc.RecoveryLink(asAdam, anna, time.Hour)
	must(t, err)
	link := strings.TrimPrefix(l.URL, origin)
	r.browser().get(link).has(t, 200, anna)
	must(t, r.svc.Grant(ctx, anna, identity.Owner))
	r.browser().get(link).has(t, 410, "")
	r.browser().post(link, twice("stapler battery lamp")).has(t, 410, "")
	l, err = r.svc.RecoveryLink(asOlga, anna, time.Hour)
	must(t, err)
	r.browser().post(strings.TrimPrefix(l.URL, origin), twice("stapler battery lamp")).has(t, 200, anna)
	if e := r.last("link.create"); e.Actor != olga || e.Target != anna {
		t.Errorf("%+v", e)
	}
	if e := r.last("user.recover"); !strings.Contains(e.Data, olga) {
		t.Errorf("who made the link: %s", e.Data)
	}
}

// The first password of an account that has none.
func TestEnrolLink(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	if _, err := r.svc.EnrolLink(t.Context(), "@alice:example.org", time.Hour); !errors.Is(err, identity.ErrHasPassword) {
		t.Fatalf("with a password: %v", err)
	}
	_, err := r.svc.CreateUser(t.Context(), identity.NewUser{Localpart: "bea", DisplayName: "Bea", Source: "list"})
	must(t, err)
	l, err := r.svc.EnrolLink(t.Context(), "@bea:example.org", 7*24*time.Hour)
	must(t, err)
	link := strings.TrimPrefix(l.URL, origin)
	b := r.browser()
	b.get(link).has(t, 200, "Choose your password")
	b.post(link, twice("stapler battery lamp")).has(t, 200, "@bea:example.org")
	b.get("/account").has(t, 200, "@bea:example.org")
	b.post(link, twice("another battery lamp")).has(t, 410, "")
	if _, err := r.svc.VerifyPassword(t.Context(), "@bea:example.org", "stapler battery lamp", "x"); err != nil {
		t.Fatal(err)
	}
}
