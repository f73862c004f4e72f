package identity_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/identity"
	"holdfast/identity/bulk"
	"holdfast/identity/directory"
	"holdfast/identity/directory/directorytest"
	"holdfast/identity/roster"
	"holdfast/store"
)

// office is an identity provider with a directory.
type office struct {
	*rig
	s *directorytest.Server

	mu      sync.Mutex
	alarms  []string
	names   map[string]string // that were set
	avatars map[string]string
	set     int // how often a profile was
	uploads [][]byte
	known   map[string]string // of groups, by ULID
}

func (o *office) groups() []identity.Group {
	o.t.Helper()
	list, err := o.svc.Groups(o.t.Context())
	if err != nil {
		o.t.Fatal(err)
	}
	return list
}

func newOffice(t *testing.T, change func(c *roster.Config)) *office {
	o := &office{s: directorytest.Start(t), names: map[string]string{}, avatars: map[string]string{}, known: map[string]string{}}
	o.rig = newRig(t, func(opts *identity.Options) {
		opts.Alarm = func(_ context.Context, text string) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.alarms = append(o.alarms, text)
		}
		opts.DisplayName = func(ctx context.Context, userID string) (string, error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			if name, ok := o.names[userID]; ok {
				return name, nil
			}
			u, err := o.svc.User(ctx, userID)
			return u.DisplayName, err
		}
		opts.Avatar = func(_ context.Context, userID string) (string, error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			return o.avatars[userID], nil
		}
		opts.Rename = func(ctx context.Context, userID, name string) error { return opts.SetProfile(ctx, userID, &name, nil) }
		opts.SetProfile = func(_ context.Context, userID string, name, avatar *string) error {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.set++
			if name != nil {
				o.names[userID] = *name
			}
			if avatar != nil {
				o.avatars[userID] = *avatar
			}
			return nil
		}
		opts.Upload = func(_ context.Context, _, mediaType string, content []byte) (string, error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.uploads = append(o.uploads, content)
			return fmt.Sprintf("mxc://example.org/%s/%d", mediaType, len(o.uploads)), nil
		}
	})
	c := roster.Config{Config: directory.Config{URLs: []string{o.s.TLSURL}, CA: o.s.CA, BindDN: directorytest.AdminDN, Password: directorytest.Password, BaseDN: directorytest.Base}}
	if change != nil {
		change(&c)
	}
	if err := o.svc.Directories().Set(t.Context(), "town", c); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *office) alarmed() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.alarms)
}

func (o *office) verify(name, password string) (identity.User, error) {
	return o.svc.VerifyPassword(o.t.Context(), name, password, "192.0.2.7")
}

func (o *office) wants(name, password string, want error) {
	o.t.Helper()
	if u, err := o.verify(name, password); !errors.Is(err, want) {
		o.t.Errorf("%s with %q: %v %v, want %v", name, password, u.UserID, err, want)
	}
}

func (o *office) sync(anyway bool) roster.Report {
	o.t.Helper()
	r, err := o.svc.Directories().Sync(o.t.Context(), "town", anyway)
	if err != nil {
		o.t.Fatal(err)
	}
	return r
}

func (o *office) state(name string) string {
	o.t.Helper()
	u, err := o.svc.User(o.t.Context(), name)
	if err != nil {
		o.t.Fatal(err)
	}
	return u.State
}

func TestDirectorySignIn(t *testing.T) {
	o := newOffice(t, nil)
	o.s.AddPerson("anna", "Anna A.", "of the directory")
	o.s.AddPerson("carl", "Carl C.", "of the directory")
	local := o.user("carl") // of the same name, made here before

	u, err := o.verify("Anna", "of the directory")
	if err != nil || u.UserID != "@anna:example.org" || u.DisplayName != "Anna A." || u.Admin || u.HasPassword {
		t.Fatalf("%+v %v", u, err)
	}
	if again, err := o.verify("@anna:example.org", "of the directory"); err != nil || again.ID != u.ID {
		t.Fatalf("%+v %v", again, err)
	}
	o.wants("anna", "wrong", identity.ErrWrongPassword)
	o.wants("anna", "", identity.ErrWrongPassword) // attack 37
	o.wants("*)(uid=*", "of the directory", identity.ErrWrongPassword)
	o.wants("nobody", "of the directory", identity.ErrWrongPassword)

	// A name does not give the account of that name.
	o.wants("carl", "of the directory", identity.ErrWrongPassword)
	o.wants("carl", "correct horse carl", nil)

	// Its password is changed there, on every way.
	if err := o.svc.ChangePassword(t.Context(), u.UserID, "another password", "", false); !errors.Is(err, identity.ErrElsewhere) {
		t.Error(err)
	}
	if err := o.svc.SetPassword(t.Context(), u.UserID, "another password", "", false); !errors.Is(err, identity.ErrElsewhere) {
		t.Error(err)
	}

	// Who is renamed is the same person, who gets the old name is another.
	o.s.Rename(directorytest.Person("anna"), "uid=anna.b")
	o.s.AddPerson("anna", "Another Anna", "of the other")
	o.wants("anna", "of the other", identity.ErrWrongPassword)
	if again, err := o.verify("anna.b", "of the directory"); err != nil || again.ID != u.ID {
		t.Fatalf("%+v %v", again, err)
	}
	// Under the name that the account has here, too, now that the new one is known.
	if again, err := o.verify("anna", "of the directory"); err != nil || again.ID != u.ID {
		t.Fatalf("%+v %v", again, err)
	}

	// The administrator joins the local account.
	if err := o.svc.Directories().Join(t.Context(), "town", "carl", "anna.b"); !errors.Is(err, roster.ErrJoin) {
		t.Error(err)
	}
	if err := o.svc.Directories().Join(t.Context(), "town", "carl", "carl"); err != nil {
		t.Fatal(err)
	}
	if again, err := o.verify("carl", "of the directory"); err != nil || again.ID != local.ID {
		t.Fatalf("%+v %v", again, err)
	}
	o.wants("carl", "correct horse carl", identity.ErrWrongPassword)

	// All of it is there after a restart, the reader's password sealed.
	o.stop()
	for _, f := range []string{o.path, o.path + "-wal"} {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), directorytest.Password) {
			t.Errorf("%s has the reader's password", f)
		}
	}
	o.start()
	o.wants("carl", "of the directory", nil)
	list, err := o.svc.Directories().List(t.Context())
	if err != nil || len(list) != 1 || list[0].Config.Password != "" || list[0].Config.BaseDN != directorytest.Base {
		t.Errorf("%+v %v", list, err)
	}
	if err := o.svc.Directories().Remove(t.Context(), "town"); err != nil {
		t.Fatal(err)
	}
	o.wants("anna", "of the directory", identity.ErrWrongPassword)
	if err := o.svc.SetPassword(t.Context(), "anna", "of this server", "", false); err != nil {
		t.Fatal(err)
	}
	o.wants("anna", "of this server", nil)
}

func TestDirectoryPages(t *testing.T) {
	o := newOffice(t, nil)
	o.s.AddPerson("anna", "Anna A.", "of the directory")
	b := o.browser()
	if a := b.post("/login", url.Values{"username": {"anna"}, "password": {"of the directory"}}); a.StatusCode != 303 || a.Header.Get("Location") != "/account" {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if a := b.post("/account/password", url.Values{"current": {"of the directory"}, "password": {"a new password"}, "password2": {"a new password"}}); a.StatusCode != 403 || !strings.Contains(a.body, "directory keeps this password") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := b.get("/account?action=password"); a.StatusCode != 200 || strings.Contains(a.body, `type="password"`) || !strings.Contains(a.body, "directory keeps this password") {
		t.Errorf("a password is changed that is the directory's: %d", a.StatusCode)
	}
	// What is dangerous asks for the directory's password again. A passkey alone does not do:
	// only the directory knows whether they may still come in.
	anna, err := o.svc.User(t.Context(), "anna")
	must(t, err)
	d := newDevice(t, anna)
	b.enrolPasskey(d, "key")
	o.aged()
	page, _ := b.asksAgain()
	if !strings.Contains(page.body, `type="password"`) || strings.Contains(page.body, "/login/passkey/alone") || strings.Contains(page.body, "/login/forgot") {
		t.Errorf("%s", page.body)
	}
	again := "/reauth?next=" + url.QueryEscape(dangerous)
	if a := b.post(again, url.Values{"password": {"wrong"}}); a.StatusCode != 401 || b.mayNow() {
		t.Errorf("a wrong password: %d", a.StatusCode)
	}
	second := b.post(again, url.Values{"password": {"of the directory"}}).to(t)
	if second.Path != "/login/passkey" || b.mayNow() {
		t.Fatalf("it leads to %s", second)
	}
	if to := b.post(second.String(), url.Values{"response": {d.get(options(t, b.get(second.String())))}}).to(t); to.String() != dangerous || !b.mayNow() {
		t.Errorf("it ends at %s", to)
	}
	o.s.Stop()
	if a := o.browser().post("/login", url.Values{"username": {"anna"}, "password": {"of the directory"}}); a.StatusCode != 503 || !strings.Contains(a.body, "cannot be reached") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// TestAttack32WorkElsewhere: a wrong password costs the same work, and is answered by the
// same text, whether the name is a local account's, a directory's, nobody's, or that of
// somebody who has no password. The work is compared, not the time.
func TestAttack32WorkElsewhere(t *testing.T) {
	o := newOffice(t, nil)
	o.s.AddPerson("anna", "Anna A.", "of the directory")
	o.s.AddPerson("ben", "Ben B.", "of the directory") // who was never here
	o.user("carl")
	o.wants("anna", "of the directory", nil)
	list := []byte("id,username,displayname\n1,lisa,Lisa L.\n")
	c := bulk.Choices{List: "staff"}
	p, err := o.svc.Lists().Plan(t.Context(), list, c)
	must(t, err)
	if _, err := o.svc.Lists().Apply(t.Context(), list, c, p.Number); err != nil {
		t.Fatal(err)
	}
	if _, err := o.svc.CreateUser(t.Context(), identity.NewUser{Localpart: "ute", Source: "upstream"}); err != nil {
		t.Fatal(err)
	}
	texts := map[string]bool{}
	var want uint64
	for _, name := range []string{"carl", "anna", "ben", "lisa", "ute", "nobody", "@nobody:elsewhere.test", "anna*"} {
		before := o.svc.PasswordWork()
		a := o.browser().post("/login", url.Values{"username": {name}, "password": {"wrong"}})
		work := o.svc.PasswordWork() - before
		if want == 0 {
			want = work
		}
		if work == 0 || work != want {
			t.Errorf("%s costs %d, %s %d", name, work, "carl", want)
		}
		if a.StatusCode != 401 {
			t.Errorf("%s: %d", name, a.StatusCode)
		}
		texts[optionsIn.ReplaceAllString(strings.ReplaceAll(a.body, name, "NAME"), "")] = true
		before = o.svc.PasswordWork()
		if _, err := o.verify(name, ""); !errors.Is(err, identity.ErrWrongPassword) || o.svc.PasswordWork()-before != want {
			t.Errorf("%s without a password: %v, %d", name, err, o.svc.PasswordWork()-before)
		}
	}
	if len(texts) != 1 {
		t.Errorf("there are %d texts", len(texts))
	}
}

// The directory is down: sessions go on, local accounts sign in, administrators are told.
func TestDirectoryDown(t *testing.T) {
	o := newOffice(t, nil)
	o.s.AddPerson("anna", "Anna A.", "of the directory")
	anna, err := o.verify("anna", "of the directory")
	if err != nil {
		t.Fatal(err)
	}
	tk, err := o.svc.StartSession(t.Context(), identity.SessionRequest{UserID: anna.UserID, Refresh: true})
	if err != nil {
		t.Fatal(err)
	}
	o.user("member")
	glass := o.user("glass")
	if err := o.svc.SetAdmin(t.Context(), glass.UserID, true); err != nil {
		t.Fatal(err)
	}
	o.wants("glass", "correct horse glass", nil)
	o.s.Stop()
	o.wants("anna", "of the directory", identity.ErrDirectory)
	if !o.alive(tk.Access) {
		t.Error("a session ended with the directory")
	}
	if tk, err = o.svc.Refresh(t.Context(), tk.Refresh); err != nil || !o.alive(tk.Access) {
		t.Error(err)
	}
	if _, err := o.svc.Directories().Sync(t.Context(), "town", false); !errors.Is(err, directory.ErrUnavailable) {
		t.Error(err)
	}
	if o.state("anna") != "active" {
		t.Error("a reading that failed locked somebody")
	}
	if got := o.alarmed(); len(got) != 0 {
		t.Errorf("alarms before: %q", got)
	}
	o.wants("member", "correct horse member", nil)
	o.wants("glass", "correct horse glass", nil)
	o.wants("glass", "correct horse glass", nil)
	if got := o.alarmed(); len(got) != 1 || !strings.Contains(got[0], "@glass:example.org") || !strings.Contains(got[0], "town") {
		t.Errorf("alarms: %q", got)
	}
	// What failed was no guess: it does not slow anybody down.
	for range 8 {
		o.wants("anna", "of the directory", identity.ErrDirectory)
	}
	o.s.Run()
	o.wants("anna", "of the directory", nil)
	if d := o.svc.Directories().Down(); len(d) != 0 {
		t.Errorf("still down: %q", d)
	}
}

func TestDirectorySync(t *testing.T) {
	o := newOffice(t, func(c *roster.Config) { c.Everyone, c.Names = true, true })
	for i := range 10 {
		o.s.AddPerson(fmt.Sprintf("p%d", i), fmt.Sprintf("Person %d", i), "secret")
	}
	o.s.AddPerson("carl", "Carl", "secret")
	o.s.Add(directorytest.Person("Größe"), "objectClass: inetOrgPerson", "uid: Größe", "cn: no user name", "sn: G.")
	o.user("carl")
	r := o.sync(false)
	if r.People != 12 || r.Accounts != 10 || len(r.Made) != 10 || !slices.Equal(r.Taken, []string{"carl", "größe"}) || len(r.Locked) != 0 {
		t.Fatalf("%+v", r)
	}
	if r = o.sync(false); len(r.Made)+len(r.Renamed)+len(r.Locked)+len(r.Unlocked) != 0 {
		t.Fatalf("a second reading changed something: %+v", r)
	}

	// Who goes or is disabled is out, with devices; who comes back is let in.
	tk, err := o.svc.StartSession(t.Context(), identity.SessionRequest{UserID: "@p1:example.org", DeviceID: "D1"})
	if err != nil {
		t.Fatal(err)
	}
	if !o.devices.has("@p1:example.org", "D1") {
		t.Fatal("no device")
	}
	o.s.Delete(directorytest.Person("p1"))
	o.s.Set(directorytest.Person("p2"), "objectClass", "inetOrgPerson", "shadowAccount")
	o.s.Set(directorytest.Person("p2"), "shadowExpire", "1")
	o.s.Set(directorytest.Person("p3"), "displayName", "Person Three")
	if r = o.sync(false); !slices.Equal(r.Locked, []string{"p1", "p2"}) || !slices.Equal(r.Renamed, []string{"p3"}) || r.Alarm {
		t.Fatalf("%+v", r)
	}
	if o.alive(tk.Access) || o.devices.has("@p1:example.org", "D1") || o.state("p1") != "locked" || o.state("p2") != "locked" {
		t.Error("who is gone is not out")
	}
	if o.mu.Lock(); o.names["@p3:example.org"] != "Person Three" || len(o.names) != 1 {
		t.Errorf("%v", o.names)
	}
	o.mu.Unlock()
	o.wants("p1", "secret", identity.ErrWrongPassword)
	o.wants("p2", "secret", identity.ErrLocked)
	o.s.Set(directorytest.Person("p2"), "shadowExpire", "99999")
	o.wants("p2", "secret", nil) // at once, before the next reading
	if r = o.sync(false); len(r.Unlocked) != 0 || o.state("p2") != "active" {
		t.Errorf("%+v", r)
	}

	// Whom an administrator locked stays so, whatever the directory says.
	if err := o.svc.SetDisabled(t.Context(), "p4", true); err != nil {
		t.Fatal(err)
	}
	o.sync(false)
	o.wants("p4", "secret", identity.ErrLocked)

	// More than a fifth at once: nothing happens but an alarm, and that once.
	for _, p := range []string{"p5", "p6", "p7"} {
		o.s.Delete(directorytest.Person(p))
	}
	for range 2 {
		r, err := o.svc.Directories().Sync(t.Context(), "town", false)
		if !errors.Is(err, roster.ErrAlarm) || !r.Alarm || len(r.Locked) != 3 {
			t.Fatalf("%+v %v", r, err)
		}
	}
	if o.state("p5") != "active" {
		t.Error("an alarm locked somebody")
	}
	if got := o.alarmed(); len(got) != 1 || !strings.Contains(got[0], "--anyway") {
		t.Errorf("alarms: %q", got)
	}
	list, err := o.svc.Directories().List(t.Context())
	if err != nil || !list[0].Report.Alarm {
		t.Errorf("%+v %v", list, err)
	}
	if r = o.sync(true); !slices.Equal(r.Locked, []string{"p5", "p6", "p7"}) || o.state("p5") != "locked" {
		t.Errorf("%+v", r)
	}
	// An empty directory, as after a mistake in its settings.
	c := list[0].Config
	c.UserFilter = "(objectClass=device)"
	if err := o.svc.Directories().Set(t.Context(), "town", c); err != nil {
		t.Fatal(err)
	}
	if _, err := o.svc.Directories().Sync(t.Context(), "town", false); !errors.Is(err, roster.ErrAlarm) {
		t.Error(err)
	}
}

// A group is the same one by what the directory calls it for good: what was given to it
// stays with it under another name, and goes to no other group that gets its name.
func TestDirectoryGroups(t *testing.T) {
	o := newOffice(t, func(c *roster.Config) { c.Everyone = true })
	for _, p := range []string{"anna", "bert", "carl"} {
		o.s.AddPerson(p, p, "secret")
	}
	ward := o.s.AddGroup("ward 3", directorytest.Person("anna"))
	o.s.AddGroup("desk", directorytest.Person("bert"))
	o.s.AddGroup("local", directorytest.Person("carl"))
	if _, err := o.svc.CreateGroup(t.Context(), "local"); err != nil {
		t.Fatal(err)
	}
	is := func(want ...string) {
		t.Helper()
		var got []string
		for _, g := range o.groups() {
			var in []string
			members, err := o.svc.Members(t.Context(), g.Name)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range members {
				in = append(in, u.Localpart)
			}
			got = append(got, fmt.Sprintf("%s %s %s", o.known[g.ID], g.Name, in))
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("groups %q, want %q", got, want)
		}
	}
	r := o.sync(false)
	if !slices.Equal(r.GroupsTaken, []string{"local"}) || len(r.GroupsRenamed) != 0 {
		t.Errorf("%+v", r)
	}
	for _, g := range o.groups() {
		o.known[g.ID] = g.Name + ":"
	}
	is("desk: desk [bert]", "local: local []", "ward 3: ward 3 [anna]")
	if err := o.svc.GrantGroup(t.Context(), "ward 3", identity.Moderator); err != nil {
		t.Fatal(err)
	}

	// As groups of earlier versions: their identifiers are learnt when they are read.
	if err := o.db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(`UPDATE id_groups SET external = ''`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	o.sync(false)

	// Renamed, while others get the freed name, and two change theirs with each other.
	o.s.Rename(ward, "cn=ward 4")
	o.s.AddGroup("ward 3", directorytest.Person("carl"))
	if r = o.sync(false); !slices.Equal(r.GroupsRenamed, []string{"ward 3 -> ward 4"}) {
		t.Errorf("%+v", r)
	}
	is(" ward 3 [carl]", "desk: desk [bert]", "local: local []", "ward 3: ward 4 [anna]")
	for who, want := range map[string]identity.Roles{"anna": identity.Moderator, "carl": 0} {
		if u, err := o.svc.User(t.Context(), who); err != nil || u.Roles != want {
			t.Errorf("%s has the roles %v, %v", who, u.Roles.Names(), err)
		}
	}
	o.s.Rename("cn=desk,ou=groups,"+directorytest.Base, "cn=x")
	o.s.Rename("cn=ward 4,ou=groups,"+directorytest.Base, "cn=desk")
	o.s.Rename("cn=x,ou=groups,"+directorytest.Base, "cn=ward 4")
	if r = o.sync(false); !slices.Equal(r.GroupsRenamed, []string{"ward 4 -> desk", "desk -> ward 4"}) {
		t.Errorf("%+v", r)
	}
	is(" ward 3 [carl]", "desk: ward 4 [bert]", "local: local []", "ward 3: desk [anna]")

	// Another group of the same name elsewhere in the directory is not this one; one that
	// is gone keeps what it has and makes way, also for somebody who only signs in.
	o.s.Add("ou=b,ou=groups,"+directorytest.Base, "objectClass: organizationalUnit")
	second := "cn=desk,ou=b,ou=groups," + directorytest.Base
	o.s.Add(second, "objectClass: groupOfNames", "member: "+directorytest.Person("carl"))
	if r = o.sync(false); !slices.Equal(r.GroupsTaken, []string{"desk", "local"}) {
		t.Errorf("%+v", r)
	}
	o.s.Delete("cn=desk,ou=groups," + directorytest.Base)
	o.wants("carl", "secret", nil)
	is(" ward 3 [carl]", "desk: ward 4 [bert]", "local: local []", "ward 3: desk [anna]")
	if r = o.sync(false); !slices.Equal(r.GroupsRenamed, []string{"desk -> desk (gone)"}) {
		t.Errorf("%+v", r)
	}
	is(" desk [carl]", " ward 3 [carl]", "desk: ward 4 [bert]", "local: local []", "ward 3: desk (gone) []")
	if u, err := o.svc.User(t.Context(), "carl"); err != nil || u.Roles != 0 {
		t.Errorf("carl has the roles %v, %v", u.Roles.Names(), err)
	}
	// A sign-in renames, too.
	o.s.Rename("cn=ward 4,ou=groups,"+directorytest.Base, "cn=office")
	o.wants("bert", "secret", nil)
	is(" desk [carl]", " ward 3 [carl]", "desk: office [bert]", "local: local []", "ward 3: desk (gone) []")

	// Another attribute that stays: the groups are the same ones.
	list, err := o.svc.Directories().List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := list[0].Config
	c.GroupIDAttr = "entryDN"
	if err := o.svc.Directories().Set(t.Context(), "town", c); err != nil {
		t.Fatal(err)
	}
	o.sync(false)
	is(" desk [carl]", " ward 3 [carl]", "desk: office [bert]", "local: local []", "ward 3: desk (gone) []")
}

// Names, pictures and addresses follow the directory where its policy says so, at
// sign-ins and at readings, and only what differs is touched.
func TestDirectoryProfiles(t *testing.T) {
	o := newOffice(t, func(c *roster.Config) { c.Everyone, c.Names, c.Pictures, c.Mail = true, true, true, true })
	red, blue := directorytest.Picture("jpeg", 60, 1), directorytest.Picture("jpeg", 60, 2)
	anna, bert := directorytest.Person("anna"), directorytest.Person("bert")
	o.s.AddPerson("anna", "Anna A.", "secret")
	o.s.Set(anna, "jpegPhoto", red)
	o.s.AddPerson("bert", "Bert B.", "secret")
	o.s.Set(bert, "mail", "carl@example.org")
	o.user("carl")
	is := func(who, name, avatar string, mails ...string) {
		t.Helper()
		id := "@" + who + ":example.org"
		if got, err := o.opts.DisplayName(t.Context(), id); err != nil || got != name {
			t.Errorf("%s is called %q, not %q; %v", who, got, name, err)
		}
		if got := o.avatars[id]; got != avatar {
			t.Errorf("%s has the picture %q, not %q", who, got, avatar)
		}
		list, err := o.svc.Emails(t.Context(), who)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range list {
			got = append(got, e.Address)
		}
		if !slices.Equal(got, mails) {
			t.Errorf("%s has the addresses %q, not %q", who, got, mails)
		}
	}
	nothing := func(r roster.Report) {
		t.Helper()
		if len(r.Renamed)+len(r.Pictured)+len(r.Mailed)+len(r.MailTaken)+len(r.PicturesLeft) != 0 {
			t.Errorf("%+v", r)
		}
	}
	give := func(who, address string) {
		t.Helper()
		u, err := o.svc.User(t.Context(), who)
		if err == nil {
			err = o.db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(`INSERT INTO id_emails (address, user_id, validated, added) VALUES ($1, $2, 1, 1)`, address, u.ID)
				return err
			})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	give("carl", "carl@example.org")
	if r := o.sync(false); !slices.Equal(r.MailTaken, []string{"bert"}) || len(r.Made) != 2 {
		t.Errorf("%+v", r)
	}
	first := "mxc://example.org/image/jpeg/1"
	is("anna", "Anna A.", first, "anna@example.org")
	is("bert", "Bert B.", "")
	is("carl", "CARL", "", "carl@example.org")
	if len(o.uploads) != 1 || string(o.uploads[0]) != red {
		t.Errorf("%d pictures were stored", len(o.uploads))
	}
	o.s.Set(bert, "mail", "Bert@Example.org")
	if r := o.sync(false); !slices.Equal(r.Mailed, []string{"bert"}) {
		t.Errorf("%+v", r)
	}
	is("bert", "Bert B.", "", "bert@example.org")
	before := o.set
	nothing(o.sync(false))
	if o.set != before || len(o.uploads) != 1 {
		t.Errorf("a reading that found nothing new set %d profiles and stored %d pictures", o.set-before, len(o.uploads)-1)
	}

	// What was changed here is set back, though nothing changed there.
	o.names["@anna:example.org"], o.avatars["@anna:example.org"] = "Nan", "mxc://example.org/own"
	give("anna", "own@example.com")
	if r := o.sync(false); !slices.Equal(r.Renamed, []string{"anna"}) || !slices.Equal(r.Pictured, []string{"anna"}) || !slices.Equal(r.Mailed, []string{"anna"}) {
		t.Errorf("%+v", r)
	}
	is("anna", "Anna A.", first, "anna@example.org")
	if len(o.uploads) != 1 || o.set != before+1 {
		t.Errorf("%d profiles were set, %d pictures stored", o.set-before, len(o.uploads))
	}
	if err := o.svc.RemoveEmail(t.Context(), "anna", "anna@example.org"); !errors.Is(err, identity.ErrEmailKept) {
		t.Error(err)
	}
	if k, err := o.svc.Kept(t.Context(), "anna"); err != nil || k != (identity.Kept{Directory: "town", Name: true, Picture: true, Email: true}) {
		t.Errorf("%+v %v", k, err)
	}
	for _, who := range []string{"carl", "nobody"} {
		if k, err := o.svc.Kept(t.Context(), who); err != nil || k != (identity.Kept{}) {
			t.Errorf("%s: %+v %v", who, k, err)
		}
	}

	// At a sign-in what changed there is taken at once.
	o.s.Set(anna, "displayName", "Anna B.")
	o.s.Set(anna, "jpegPhoto", blue)
	o.s.Set(anna, "mail", "anna.b@example.org")
	o.wants("anna", "secret", nil)
	second := "mxc://example.org/image/jpeg/2"
	is("anna", "Anna B.", second, "anna.b@example.org")
	nothing(o.sync(false))

	// A picture that is none is named at each reading, and the one before stays.
	o.s.Set(anna, "jpegPhoto", red[:len(red)/8])
	for range 2 {
		if r := o.sync(false); len(r.PicturesLeft) != 1 || !strings.Contains(r.PicturesLeft[0], "anna: it is neither JPEG nor PNG") || len(r.Pictured) != 0 {
			t.Errorf("%+v", r)
		}
	}
	is("anna", "Anna B.", second, "anna.b@example.org")
	o.s.Set(anna, "jpegPhoto")
	o.s.Set(anna, "mail")
	if r := o.sync(false); len(r.PicturesLeft) != 0 || !slices.Equal(r.Pictured, []string{"anna"}) {
		t.Errorf("%+v", r)
	}
	is("anna", "Anna B.", "")

	// The account page shows both, and offers neither.
	b := o.browser()
	if a := b.post("/login", url.Values{"username": {"bert"}, "password": {"secret"}}); a.StatusCode != 303 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if a := b.get("/account?action=org.matrix.profile"); !strings.Contains(a.body, "organisation&#39;s directory") || !strings.Contains(a.body, "Bert B.") || strings.Contains(a.body, "display_name") {
		t.Error(a.body)
	}
	if a := b.post("/account/profile", url.Values{"display_name": {"Robert"}}); a.StatusCode != 403 || !strings.Contains(a.body, "organisation&#39;s directory") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := b.get("/account"); !strings.Contains(a.body, "bert@example.org") || strings.Contains(a.body, "/account/email") {
		t.Error(a.body)
	}
	for path, form := range map[string]url.Values{"/account/email": {"email": {"own@example.com"}}, "/account/email/remove": {"email": {"bert@example.org"}}} {
		if a := b.post(path, form); a.StatusCode != 403 || !strings.Contains(a.body, "organisation&#39;s directory") {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
		}
	}
	is("bert", "Bert B.", "", "bert@example.org")

	// Without the policy all of it is the person's own.
	list, err := o.svc.Directories().List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := list[0].Config
	c.Names, c.Pictures, c.Mail = false, false, false
	if err := o.svc.Directories().Set(t.Context(), "town", c); err != nil {
		t.Fatal(err)
	}
	o.names["@bert:example.org"] = "Robert"
	o.s.Set(bert, "jpegPhoto", red)
	o.s.Set(bert, "mail", "b@example.org")
	nothing(o.sync(false))
	is("bert", "Robert", "", "bert@example.org")
	if err := o.svc.RemoveEmail(t.Context(), "bert", "bert@example.org"); err != nil {
		t.Error(err)
	}
}

// The reading runs by itself when it is time.
func TestDirectoryRuns(t *testing.T) {
	o := newOffice(t, func(c *roster.Config) { c.Everyone = true })
	o.s.AddPerson("anna", "Anna A.", "of the directory")
	o.wait(time.Minute)
	o.stop()
	o.start()
	// The clock of the rig jumps; what waits for it sees that when it looks next.
	o.wait(2 * time.Minute)
	o.svc.Directories().Set(t.Context(), "other", roster.Config{Config: directory.Config{URLs: []string{o.s.URL}, CA: o.s.CA, BindDN: directorytest.AdminDN, Password: directorytest.Password, BaseDN: "ou=groups," + directorytest.Base}})
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if _, err := o.svc.User(t.Context(), "anna"); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the directory was not read")
		}
	}
}

func TestDirectorySettings(t *testing.T) {
	o := newOffice(t, nil)
	dirs := o.svc.Directories()
	for _, id := range []string{"", "Town", "a b", strings.Repeat("x", 31)} {
		if err := dirs.Set(t.Context(), id, roster.Config{}); !errors.Is(err, roster.ErrBadID) {
			t.Errorf("%q: %v", id, err)
		}
	}
	// The password goes to no other server without being given again.
	c := roster.Config{Config: directory.Config{URLs: []string{"ldap://evil.example.org"}, BindDN: directorytest.AdminDN, BaseDN: directorytest.Base}}
	if err := dirs.Set(t.Context(), "town", c); !errors.Is(err, directory.ErrConfig) {
		t.Error(err)
	}
	c.URLs, c.CA = []string{o.s.TLSURL}, o.s.CA
	if err := dirs.Set(t.Context(), "town", c); err != nil {
		t.Error(err)
	}
	if all, err := dirs.Test(t.Context(), "town"); err != nil || all.People != 0 {
		t.Error(all, err)
	}
	if err := dirs.Remove(t.Context(), "nowhere"); !errors.Is(err, roster.ErrNoDirectory) {
		t.Error(err)
	}
}
