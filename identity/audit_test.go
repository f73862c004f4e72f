package identity_test

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/identity"
	"holdfast/store/audit"
)

// noted are the entries since one, oldest first, as "actor event target".
func (r *rig) noted(after int64) (out []string) {
	r.t.Helper()
	list, err := r.log.Find(r.t.Context(), audit.Filter{Limit: audit.MaxPage})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range slices.Backward(list) {
		if e.Seq > after && !strings.HasPrefix(e.Event, "key.") { // the upkeep makes the first at any time
			out = append(out, e.Actor+" "+e.Event+" "+e.Target)
		}
	}
	return out
}

// last is the newest entry of an event.
func (r *rig) last(event string) audit.Entry {
	r.t.Helper()
	list, err := r.log.Find(r.t.Context(), audit.Filter{Event: event, Limit: 1})
	if err != nil || len(list) == 0 {
		r.t.Fatalf("the audit log has no %s: %v", event, err)
	}
	return list[0]
}

func (r *rig) seq() int64 { n, _ := r.log.Head(); return n }

// Everything that changes who may do what is in the audit log, with who did it.
func TestChangesAreAudited(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	olga := "@olga:example.org"
	r.user("olga")
	must(t, r.svc.Grant(t.Context(), olga, identity.Owner))
	ctx := identity.WithActor(audit.From(t.Context(), "192.0.2.9"), olga)
	alice := "@alice:example.org"
	var invite identity.Invite
	var app *identity.App
	for _, c := range []struct {
		name string
		do   func() error
		want []string
	}{
		{"role", func() error { return r.svc.Grant(ctx, alice, identity.Auditor) }, []string{"role.grant " + alice}},
		{"role back", func() error { return r.svc.Revoke(ctx, alice, identity.Auditor) }, []string{"role.revoke " + alice}},
		{"lock", func() error { return r.svc.SetDisabled(ctx, alice, true) }, []string{"user.lock " + alice}},
		{"unlock", func() error { return r.svc.SetDisabled(ctx, alice, false) }, []string{"user.unlock " + alice}},
		{"suspend", func() error { return r.svc.SetSuspended(ctx, alice, true) }, []string{"user.suspend " + alice}},
		{"restore", func() error { return r.svc.SetSuspended(ctx, alice, false) }, []string{"user.restore " + alice}},
		{"group", func() error { _, err := r.svc.CreateGroup(ctx, "Staff"); return err }, []string{"group.create Staff"}},
		{"join", func() error { return r.svc.SetMember(ctx, "staff", alice, true) }, []string{"group.join Staff"}},
		{"join again", func() error { return r.svc.SetMember(ctx, "staff", alice, true) }, nil},
		{"group's role", func() error { return r.svc.GrantGroup(ctx, "Staff", identity.Moderator) }, []string{"group.grant Staff"}},
		{"group's role back", func() error { return r.svc.RevokeGroup(ctx, "Staff", identity.Moderator) }, []string{"group.revoke Staff"}},
		{"leave", func() error { return r.svc.SetMember(ctx, "staff", alice, false) }, []string{"group.leave Staff"}},
		{"rename", func() error { return r.svc.RenameGroup(ctx, "staff", "Crew") }, []string{"group.rename Staff"}},
		{"delete group", func() error { return r.svc.DeleteGroup(ctx, "crew") }, []string{"group.delete Crew"}},
		{"invite", func() (err error) { invite, err = r.svc.CreateInvite(ctx, identity.NewInvite{Uses: 3}); return err }, []string{"invite.create *"}},
		{"revoke invite", func() error { return r.svc.RevokeInvite(ctx, invite.ID) }, []string{"invite.revoke *"}},
		{"token", func() error {
			return r.svc.CreateRegistrationToken(ctx, identity.RegistrationToken{Token: "let-me-in-word"})
		}, []string{"token.create "}},
		{"app", func() (err error) {
			app, _, err = r.svc.CreateApp(ctx, identity.AppConfig{Template: "generic", Name: "Wiki", RedirectURIs: []string{"https://wiki.example.org/cb"}, Auth: "client_secret"}, olga)
			return err
		}, []string{"app.create *"}},
		{"second secret", func() error { _, err := r.svc.AddAppSecret(ctx, app.ID); return err }, []string{"app.secret.add *"}},
		{"remove secret", func() error { return r.svc.DeleteAppSecret(ctx, app.ID, app.Secrets[0].ID) }, []string{"app.secret.remove *"}},
		{"switch app off", func() error {
			_, err := r.svc.ChangeApp(ctx, app.ID, func(x *identity.App) error { x.Disabled = true; return nil })
			return err
		}, []string{"app.change *"}},
		{"remove app", func() error { return r.svc.DeleteApp(ctx, app.ID) }, []string{"app.delete *"}},
		{"session", func() error {
			_, err := r.svc.StartSession(ctx, identity.SessionRequest{UserID: alice, DeviceID: "DEV1"})
			return err
		}, []string{"session.start " + alice}},
		{"acting as", func() error { _, err := r.svc.SignInAs(ctx, alice, time.Time{}); return err }, []string{"session.start " + alice}},
		{"password", func() error { return r.svc.SetPassword(ctx, alice, "another password", "", false) },
			[]string{"password.set " + alice, "session.end " + alice, "session.end " + alice}},
		{"close", func() error { return r.svc.Deactivate(ctx, alice) }, []string{"user.close " + alice}},
	} {
		before := r.seq()
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		got := r.noted(before)
		if len(got) != len(c.want) {
			t.Errorf("%s: %q", c.name, got)
			continue
		}
		for i, w := range c.want {
			w = olga + " " + w
			if g := got[i]; g != w && !(strings.HasSuffix(w, "*") && strings.HasPrefix(g, w[:len(w)-1]) && len(g) > len(w)) {
				t.Errorf("%s: %q, not %q", c.name, g, w)
			}
		}
	}
	if e := r.last("user.close"); e.IP != "192.0.2.9" {
		t.Errorf("%+v", e)
	}
	// What was refused is no change.
	before := r.seq()
	if err := r.svc.Revoke(ctx, olga, identity.Owner); err == nil {
		t.Fatal("the last owner is gone")
	}
	if got := r.noted(before); got != nil {
		t.Errorf("%q", got)
	}
	if rep, err := r.log.Verify(t.Context()); err != nil || !rep.OK() {
		t.Errorf("%+v %v", rep, err)
	}
}

func TestSignInsAreAudited(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	alice := "@alice:example.org"
	c := r.client(nil)
	before := r.seq()
	b := r.browser()
	b.post("/login", url.Values{"username": {"alice"}, "password": {"wrong"}})
	b.post("/login", url.Values{"username": {"hunter2-typed-in-the-wrong-field"}, "password": {"wrong"}})
	tk := r.tokens(b.api("/oauth2/token", exchangeForm(c, b.code("alice", authParams(c)))))
	r.refresh(c, tk.refresh)
	b.post("/logout", nil)
	want := []string{"nobody signin.failed " + alice, "nobody signin.failed ", alice + " signin " + alice, alice + " session.start " + alice, alice + " signout " + alice}
	if got := r.noted(before); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if e := r.last("signin.failed"); e.IP != "192.0.2.1" || strings.Contains(e.Data+e.Target, "hunter2") {
		t.Errorf("%+v", e)
	}
	// A locked account's right password is no sign-in.
	must(t, r.svc.SetDisabled(t.Context(), alice, true))
	if a := r.browser().post("/login", url.Values{"username": {"alice"}, "password": {"correct horse alice"}}); a.StatusCode != http.StatusForbidden {
		t.Fatalf("%d", a.StatusCode)
	}
	if e := r.last("signin.refused"); e.Target != alice || e.Data != `{"reason":"locked"}` {
		t.Errorf("%+v", e)
	}
}

// An attacker's failures do not fill the disk.
func TestFailuresAreAuditedAtABoundedRate(t *testing.T) {
	r := newRig(t, func(o *identity.Options) { o.Limits = false })
	r.user("alice")
	before := r.seq()
	for range 70 {
		r.svc.VerifyPassword(audit.From(t.Context(), "192.0.2.1"), "alice", "wrong", "192.0.2.1")
	}
	if n := len(r.noted(before)); n != 7 {
		t.Errorf("70 failures are %d entries", n)
	}
	if e := r.last("signin.failed"); !strings.Contains(e.Data, `"times":64`) {
		t.Errorf("%s", e.Data)
	}
}

// A database that was stolen has nothing in its audit log that opens anything.
func TestAttack46AuditLog(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	ctx := audit.From(context.Background(), "192.0.2.1")
	app, secret, err := r.svc.CreateApp(ctx, identity.AppConfig{Template: "generic", Name: "Wiki", RedirectURIs: []string{"https://wiki.example.org/cb"}, Auth: "client_secret"}, "")
	must(t, err)
	second, err := r.svc.AddAppSecret(ctx, app.ID)
	must(t, err)
	inv, err := r.svc.CreateInvite(ctx, identity.NewInvite{})
	must(t, err)
	must(t, r.svc.SetPassword(ctx, "alice", "a new pass phrase", "", true))
	legacy, err := r.svc.StartSession(ctx, identity.SessionRequest{UserID: "@alice:example.org", Refresh: true})
	must(t, err)
	as, err := r.svc.SignInAs(ctx, "alice", time.Time{})
	must(t, err)
	r.browser().post("/login", url.Values{"username": {"alice"}, "password": {"a wrong pass phrase"}})
	r.browser().post("/e/"+inv.Token, url.Values{"username": {"bob"}, "password": {"bobs pass phrase"}, "password2": {"bobs pass phrase"}})
	var text bytes.Buffer
	must(t, r.log.Export(ctx, &text, time.Time{}, time.Time{}, false))
	if !strings.Contains(text.String(), `"event":"user.create"`) || !strings.Contains(text.String(), "@bob:example.org") {
		t.Fatal("the log does not have what happened")
	}
	for _, p := range []string{r.path, r.path + "-wal"} {
		b, err := os.ReadFile(p)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		text.Write(b)
	}
	for what, s := range map[string]string{"secret": secret, "second secret": second, "invite": inv.Token, "password": "a new pass phrase", "token": legacy.Access,
		"refresh token": legacy.Refresh, "token of an administrator": as, "wrong password": "a wrong pass phrase", "new password": "bobs pass phrase"} {
		if s == "" || bytes.Contains(text.Bytes(), []byte(s)) {
			t.Errorf("the %s is in the log or the database", what)
		}
	}
	key, err := identity.AuditKey(r.db)
	must(t, err)
	if bytes.Contains(text.Bytes(), key) {
		t.Error("the key of the MACs is in the database")
	}
}
