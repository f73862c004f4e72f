package identity_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"holdfast/identity"
	"holdfast/store"
	"holdfast/store/schema"
)

func (r *rig) owner(name string) identity.User {
	r.t.Helper()
	u, err := r.svc.CreateUser(r.t.Context(), identity.NewUser{Localpart: name, DisplayName: name, Password: "correct horse " + name, Admin: true, Source: "setup"})
	if err != nil {
		r.t.Fatal(err)
	}
	return u
}

func (r *rig) roles(userID string) string {
	r.t.Helper()
	u, err := r.svc.User(r.t.Context(), userID)
	if err != nil {
		r.t.Fatal(err)
	}
	all, err := r.svc.Users(r.t.Context())
	i := slices.IndexFunc(all, func(x identity.User) bool { return x.UserID == userID })
	if err != nil || i < 0 || all[i].Roles != u.Roles || all[i].Admin != u.Admin || u.Admin != u.Roles.Administers() {
		r.t.Fatalf("the list and the account differ: %v %v %v", all, u, err)
	}
	return u.Roles.String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%v, want %v", err, want)
	}
}

func TestOwners(t *testing.T) {
	r := newRig(t, nil)
	olga, anna, paul := r.owner("olga"), r.user("anna"), r.user("paul")
	local := t.Context()
	must(t, r.svc.Grant(local, anna.UserID, identity.Admin))
	byAnna, byOlga, byPaul := identity.WithActor(local, anna.UserID), identity.WithActor(local, olga.UserID), identity.WithActor(local, paul.UserID)

	// An administrator does nothing to an owner, and makes none.
	for name, f := range map[string]func(context.Context) error{
		"lock":    func(ctx context.Context) error { return r.svc.SetDisabled(ctx, olga.UserID, true) },
		"suspend": func(ctx context.Context) error { return r.svc.SetSuspended(ctx, olga.UserID, true) },
		"password": func(ctx context.Context) error {
			return r.svc.SetPassword(ctx, olga.UserID, "another one here", "", false)
		},
		"close":      func(ctx context.Context) error { return r.svc.Deactivate(ctx, olga.UserID) },
		"admin":      func(ctx context.Context) error { return r.svc.SetAdmin(ctx, olga.UserID, false) },
		"revoke":     func(ctx context.Context) error { return r.svc.Revoke(ctx, olga.UserID, identity.Owner) },
		"act as":     func(ctx context.Context) error { _, err := r.svc.SignInAs(ctx, olga.UserID, r.now()); return err },
		"devices":    func(ctx context.Context) error { return r.svc.EndAll(ctx, olga.UserID, "") },
		"make":       func(ctx context.Context) error { return r.svc.Grant(ctx, paul.UserID, identity.Owner) },
		"make self":  func(ctx context.Context) error { return r.svc.Grant(ctx, anna.UserID, identity.Owner) },
		"may change": func(ctx context.Context) error { return r.svc.MayChange(ctx, olga.UserID) },
	} {
		for _, ctx := range []context.Context{byAnna, byPaul, identity.WithActor(local, "@nobody:example.org"), identity.WithActor(local, "@olga:elsewhere.example")} {
			if err := f(ctx); !errors.Is(err, identity.ErrOwner) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if got := r.roles(olga.UserID); got != "owner" {
		t.Fatal(got)
	}
	if _, err := r.svc.VerifyPassword(local, "olga", "correct horse olga", "192.0.2.9"); err != nil {
		t.Fatal(err)
	}

	// The last owner stays, whoever asks.
	for _, ctx := range []context.Context{local, byOlga} {
		wantErr(t, r.svc.SetDisabled(ctx, olga.UserID, true), identity.ErrLastOwner)
		wantErr(t, r.svc.Deactivate(ctx, olga.UserID), identity.ErrLastOwner)
		wantErr(t, r.svc.Revoke(ctx, olga.UserID, identity.Owner), identity.ErrLastOwner)
		wantErr(t, r.svc.SetAdmin(ctx, olga.UserID, false), identity.ErrLastOwner)
	}
	must(t, r.svc.Grant(byOlga, anna.UserID, identity.Owner))
	if got := r.roles(anna.UserID); got != "owner, admin" {
		t.Fatal(got)
	}
	must(t, r.svc.SetDisabled(byAnna, olga.UserID, true))
	// Who is locked counts for nobody: now Anna is the last, and Olga decides nothing.
	wantErr(t, r.svc.Revoke(local, anna.UserID, identity.Owner), identity.ErrLastOwner)
	wantErr(t, r.svc.SetAdmin(byOlga, anna.UserID, false), identity.ErrOwner)
	must(t, r.svc.SetDisabled(byAnna, olga.UserID, false))
	must(t, r.svc.Deactivate(byOlga, anna.UserID))
	if got := r.roles(anna.UserID); got != "" {
		t.Fatalf("a closed account is %s", got)
	}
	wantErr(t, r.svc.Grant(local, anna.UserID, identity.Admin), identity.ErrDeactivated)

	// The last owner's own page says why the account cannot be closed.
	b := r.browser()
	b.post("/login", url.Values{"username": {"olga"}, "password": {"correct horse olga"}})
	if a := b.post("/account/deactivate", url.Values{"confirm": {"olga"}}); a.StatusCode != 409 || !strings.Contains(a.body, "owns") {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
}

func TestGroups(t *testing.T) {
	r := newRig(t, nil)
	ctx := t.Context()
	anna, paul := r.user("anna"), r.user("paul")
	for _, bad := range []string{"", "  ", "a,b", "a\nb", strings.Repeat("x", 129), "\xff"} {
		_, err := r.svc.CreateGroup(ctx, bad)
		wantErr(t, err, identity.ErrGroupName)
	}
	g, err := r.svc.CreateGroup(ctx, " Ops Team ")
	if err != nil || g.Name != "Ops Team" || g.Source != "local" {
		t.Fatal(g, err)
	}
	_, err = r.svc.CreateGroup(ctx, "ops team")
	wantErr(t, err, identity.ErrGroupExists)
	_, err = r.svc.CreateGroup(ctx, "Other")
	must(t, err)
	wantErr(t, r.svc.RenameGroup(ctx, "other", "OPS TEAM"), identity.ErrGroupExists)
	must(t, r.svc.RenameGroup(ctx, "other", "OTHER"))
	wantErr(t, r.svc.SetMember(ctx, "none", anna.UserID, true), identity.ErrNoGroup)
	wantErr(t, r.svc.SetMember(ctx, "other", "@none:example.org", true), identity.ErrNoUser)
	for range 2 {
		must(t, r.svc.SetMember(ctx, "Ops Team", anna.UserID, true))
	}
	must(t, r.svc.SetMember(ctx, "Ops Team", paul.UserID, true))
	must(t, r.svc.SetMember(ctx, "OTHER", anna.UserID, true))
	names := func(userID string) (out []string) {
		list, err := r.svc.GroupsOf(ctx, userID)
		must(t, err)
		for _, g := range list {
			out = append(out, g.Name)
		}
		return out
	}
	if got := names(anna.UserID); !slices.Equal(got, []string{"Ops Team", "OTHER"}) {
		t.Fatal(got)
	}

	// A role through a group shows at once with who is signed in, and ends with it.
	tk, err := r.svc.StartSession(ctx, identity.SessionRequest{UserID: anna.UserID})
	must(t, err)
	now := func() string {
		p, err := r.svc.Lookup(ctx, tk.Access)
		must(t, err)
		if p.Admin != p.Roles.Administers() {
			t.Fatal(p)
		}
		return p.Roles.String()
	}
	steps := []struct {
		f    func() error
		want string
	}{
		{func() error { return nil }, ""},
		{func() error { return r.svc.GrantGroup(ctx, "ops team", identity.Admin) }, "admin"},
		{func() error { return r.svc.Grant(ctx, anna.UserID, identity.Auditor) }, "admin, auditor"},
		{func() error { return r.svc.Revoke(ctx, anna.UserID, identity.Admin) }, "admin, auditor"}, // it is the group's
		{func() error { return r.svc.SetMember(ctx, "Ops Team", anna.UserID, false) }, "auditor"},
		{func() error { return r.svc.SetMember(ctx, "Ops Team", anna.UserID, true) }, "admin, auditor"},
		{func() error { return r.svc.RevokeGroup(ctx, "Ops Team", identity.Admin) }, "auditor"},
		{func() error { return r.svc.GrantGroup(ctx, "Ops Team", identity.Moderator) }, "moderator, auditor"},
		{func() error { return r.svc.DeleteGroup(ctx, "Ops Team") }, "auditor"},
	}
	for i, s := range steps {
		must(t, s.f())
		if got := now(); got != s.want || r.roles(anna.UserID) != s.want {
			t.Fatalf("step %d: %q, want %q", i, got, s.want)
		}
	}
	wantErr(t, r.svc.GrantGroup(ctx, "OTHER", identity.Owner), identity.ErrGroupRole)
	if own, err := r.svc.OwnRoles(ctx, anna.UserID); err != nil || own != identity.Auditor {
		t.Fatal(own, err)
	}
	// A new group of the old name has neither the members nor the role.
	_, err = r.svc.CreateGroup(ctx, "Ops Team")
	must(t, err)
	if list, err := r.svc.Members(ctx, "ops team"); err != nil || len(list) != 0 {
		t.Fatal(list, err)
	}
	must(t, r.svc.Deactivate(ctx, anna.UserID))
	if got := names(anna.UserID); len(got) != 0 {
		t.Fatalf("a closed account is in %v", got)
	}
	wantErr(t, r.svc.SetMember(ctx, "OTHER", anna.UserID, true), identity.ErrDeactivated)
}

// TestRolesOfOldAdministrators brings a file to the schema with roles.
func TestRolesOfOldAdministrators(t *testing.T) {
	steps, err := schema.Migrations()
	must(t, err)
	for name, c := range map[string]struct {
		rows string
		want map[string]string
	}{
		"setup": {`('1','first',1,'active','cli',1), ('2','olga',1,'active','setup',2), ('3','paul',0,'active','setup',0)`, map[string]string{"first": "admin", "olga": "owner", "paul": ""}},
		"cli":   {`('1','first',1,'locked','cli',1), ('2','second',1,'active','cli',2), ('3','third',1,'active','cli',3)`, map[string]string{"first": "admin", "second": "owner", "third": "admin"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "holdfast.db")
			db, err := sql.Open("sqlite", path)
			must(t, err)
			n := slices.IndexFunc(steps, func(m schema.Migration) bool { return strings.HasSuffix(m.Name, "_groups.sql") })
			for _, s := range steps[:n] {
				if _, err := db.Exec(s.SQL); err != nil {
					t.Fatal(s.Name, err)
				}
			}
			rows := strings.NewReplacer("',1,'", "','',1,'", "',0,'", "','',0,'").Replace(c.rows)
			if _, err := db.Exec(`INSERT INTO id_users (id, localpart, display_name, admin, state, source, created, last_seen)
				SELECT column1, column2, column3, column4, column5, column6, column7, 0 FROM (VALUES ` + rows + `)`); err != nil {
				t.Fatal(err)
			}
			for _, s := range steps[n:] {
				if _, err := db.Exec(s.SQL); err != nil {
					t.Fatal(s.Name, err)
				}
			}
			if _, err := db.Exec(fmt.Sprintf("PRAGMA user_version = %d", len(steps))); err != nil {
				t.Fatal(err)
			}
			must(t, db.Close())
			must(t, os.Chmod(path, 0o600))
			st, err := store.Open(t.Context(), path, store.Options{})
			must(t, err)
			defer st.Close()
			svc, err := identity.New(t.Context(), identity.Options{ServerName: "example.org", PublicURL: origin, DB: st})
			must(t, err)
			defer svc.Close()
			for who, want := range c.want {
				if u, err := svc.User(t.Context(), who); err != nil || u.Roles.String() != want {
					t.Errorf("%s is %q, want %q: %v", who, u.Roles, want, err)
				}
			}
		})
	}
}
