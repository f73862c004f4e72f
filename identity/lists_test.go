package identity_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"holdfast/identity"
	"holdfast/identity/bulk"
	"holdfast/store"
)

// listRig has profiles beside the accounts.
func listRig(t *testing.T) *rig {
	var mu sync.Mutex
	names := map[string]string{}
	return newRig(t, func(o *identity.Options) {
		o.DisplayName = func(_ context.Context, id string) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			return names[id], nil
		}
		o.Rename = func(_ context.Context, id, name string) error {
			mu.Lock()
			defer mu.Unlock()
			names[id] = name
			return nil
		}
		o.Profiles = profileFunc(func(tx *store.Tx, id, name string) error {
			tx.AfterCommit(func() { mu.Lock(); defer mu.Unlock(); names[id] = name })
			return nil
		})
	})
}

type profileFunc func(tx *store.Tx, userID, name string) error

func (f profileFunc) SetDisplayName(tx *store.Tx, userID, name string) error {
	return f(tx, userID, name)
}

func words(p bulk.Plan) string {
	var out []string
	for _, x := range []struct {
		what string
		in   []bulk.Change
	}{{"make", p.Make}, {"join", p.Join}, {"rename", p.Rename}, {"group", p.Group}, {"lock", p.Lock}, {"unlock", p.Unlock}, {"left", p.Left}} {
		for _, c := range x.in {
			out = append(out, x.what+" "+c.Name)
		}
	}
	return strings.Join(out, ", ")
}

// A list is shown first and then done as it was shown; the next one of the same name is
// compared with what came by it.
func TestListOfPeople(t *testing.T) {
	r := listRig(t)
	ctx := t.Context()
	lists := r.svc.Lists()
	olga := r.owner("olga")
	local := r.user("local")
	must(t, func() error { _, err := r.svc.CreateGroup(ctx, "Admins"); return err }())
	must(t, r.svc.GrantGroup(ctx, "Admins", identity.Admin))

	c := bulk.Choices{List: "town", Names: true}
	plan := func(list, want string) bulk.Plan {
		t.Helper()
		p, err := lists.Plan(ctx, []byte(list), c)
		must(t, err)
		if got := words(p); got != want {
			t.Fatalf("plan: %s\nwant: %s", got, want)
		}
		return p
	}
	apply := func(list, want string) bulk.Done {
		t.Helper()
		p := plan(list, want)
		d, err := lists.Apply(ctx, []byte(list), c, p.Number)
		must(t, err)
		if p, err := lists.Plan(ctx, []byte(list), c); err != nil || !p.Empty() {
			t.Fatalf("after it there is more: %s %v", words(p), err)
		}
		return d
	}
	locked := func(name string) bool {
		t.Helper()
		u, err := r.svc.User(ctx, name)
		must(t, err)
		return errors.Is(u.Err(), identity.ErrLocked)
	}
	const first = "id,username,displayname,groups,enabled\n1,anna,Anna,Nurses;Admins,yes\n2,bob,Bob,Nurses,yes\n3,carl,Carl,,yes\n4,local,Somebody Else,,yes\n5,gone,Gone,,no\n6,Bad Name,X,,yes\n"
	p := plan(first, "make anna, make bob, make carl, left local, left gone, left bad name")
	if len(p.Notes) != 1 || !strings.Contains(p.Notes[0], "Admins") {
		t.Errorf("that a group with a role takes nobody is not said: %q", p.Notes)
	}
	if _, err := r.svc.User(ctx, "anna"); !errors.Is(err, identity.ErrNoUser) {
		t.Fatal("the plan changed something")
	}
	for name, f := range map[string]func() (bulk.Done, error){
		"no number":    func() (bulk.Done, error) { return lists.Apply(ctx, []byte(first), c, "") },
		"another list": func() (bulk.Done, error) { return lists.Apply(ctx, []byte(first+"7,dora,,,yes\n"), c, p.Number) },
		"other choices": func() (bulk.Done, error) {
			return lists.Apply(ctx, []byte(first), bulk.Choices{List: "town", Names: true, Join: true}, p.Number)
		},
	} {
		if _, err := f(); !errors.Is(err, bulk.ErrVoid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := lists.Plan(ctx, []byte(first), bulk.Choices{List: "No!"}); !errors.Is(err, bulk.ErrListName) {
		t.Error(err)
	}
	if d := apply(first, words(p)); d.Made != 3 {
		t.Errorf("%+v", d)
	}
	if got := r.roles("@anna:example.org"); got != "" && got != "none" {
		t.Errorf("a list gave the role %s", got)
	}
	members, err := r.svc.Members(ctx, "Nurses")
	if err != nil || len(members) != 2 {
		t.Fatal(members, err)
	}
	wantErr(t, r.svc.SetMember(ctx, "Nurses", local.UserID, true), identity.ErrGroupSource)
	if _, err := r.svc.VerifyPassword(ctx, "anna", "", "192.0.2.1"); !errors.Is(err, identity.ErrWrongPassword) {
		t.Errorf("without a password: %v", err)
	}

	// Renamed people keep their accounts, also where the user name is another one there;
	// who has the freed name is somebody else.
	const second = "id,username,displayname,groups,enabled\n1,anna.meyer,Anna Meyer,Ward 3,yes\n2,bob,Bob,Nurses,no\n8,anna,Another Anna,,yes\n3,carl,Carl,,yes\n"
	apply(second, "rename anna, group anna, lock bob, left anna")
	if !locked("bob") || locked("anna") {
		t.Error("who is disabled is not locked, or another is")
	}
	if name, _ := r.opts.DisplayName(ctx, "@anna:example.org"); name != "Anna Meyer" {
		t.Errorf("anna is called %q", name)
	}
	groups, err := r.svc.GroupsOf(ctx, "anna")
	if err != nil || len(groups) != 1 || groups[0].Name != "Ward 3" {
		t.Errorf("%v %v", groups, err)
	}
	apply("id,username,enabled\n1,anna,yes\n2,bob,yes\n3,carl,yes\n", "unlock bob") // without a word on groups they stay
	if locked("bob") {
		t.Error("who is back is locked")
	}

	// Who is gone is left alone until that is asked for; many at once need more.
	const third = "id,username\n1,anna\n"
	plan(third, "left bob, left carl")
	c.Gone = true
	p = plan(third, "lock bob, lock carl")
	if p.Alarm {
		t.Error("two who leave are no accident")
	}
	many := "id,username\n"
	for i := range 10 {
		many += fmt.Sprintf("n%d,n%d\n", i, i)
	}
	c.List = "many"
	apply(many, "make n0, make n1, make n2, make n3, make n4, make n5, make n6, make n7, make n8, make n9")
	p = plan("id,username\nn0,n0\n", "lock n1, lock n2, lock n3, lock n4, lock n5, lock n6, lock n7, lock n8, lock n9")
	if _, err := lists.Apply(ctx, []byte("id,username\nn0,n0\n"), c, p.Number); !p.Alarm || !errors.Is(err, bulk.ErrAlarm) || locked("n1") {
		t.Errorf("nine of ten are locked: %v", err)
	}
	c.Anyway = true
	if d, err := lists.Apply(ctx, []byte("id,username\nn0,n0\n"), c, p.Number); err != nil || d.Locked != 9 || !locked("n1") {
		t.Errorf("%+v %v", d, err)
	}

	// An account that was made otherwise is the list's only where that was asked for, and
	// an owner is never locked by one.
	c = bulk.Choices{List: "staff", Join: true, Gone: true}
	apply("id,username\na,olga\nb,local\nc,anna\n", "join olga, join local, left anna")
	apply("id,username,enabled\na,olga,no\n", "lock local, left olga")
	if locked("olga") || !locked("local") {
		t.Error("the owner is locked, or the other is not")
	}
	if _, err := r.svc.VerifyPassword(ctx, olga.UserID, "correct horse olga", "192.0.2.2"); err != nil {
		t.Errorf("a joined account lost its password: %v", err)
	}
	// A list that gets numbers keeps its accounts.
	c = bulk.Choices{List: "plain"}
	apply("username\nzoe\n", "make zoe")
	apply("id,username\n77,zoe\n", "join zoe")
	apply("id,username\n77,zoe.new\n", "")
}

// Two who take lists over at the same time, and one who makes the account in between.
func TestListRaces(t *testing.T) {
	r := listRig(t)
	ctx, c := t.Context(), bulk.Choices{List: "town"}
	const list = "username\nanna\nbob\n"
	p, err := r.svc.Lists().Plan(ctx, []byte(list), c)
	must(t, err)
	r.user("bob")
	if _, err := r.svc.Lists().Apply(ctx, []byte(list), c, p.Number); !errors.Is(err, bulk.ErrVoid) {
		t.Errorf("an account was made since: %v", err)
	}
	p, err = r.svc.Lists().Plan(ctx, []byte(list), c)
	must(t, err)
	var done sync.WaitGroup
	made := make(chan int, 8)
	for range 8 {
		done.Go(func() {
			d, err := r.svc.Lists().Apply(ctx, []byte(list), c, p.Number)
			if err != nil && !errors.Is(err, bulk.ErrVoid) {
				t.Error(err)
			}
			made <- d.Made
		})
	}
	done.Wait()
	close(made)
	sum := 0
	for n := range made {
		sum += n
	}
	if sum != 1 {
		t.Errorf("anna was made %d times", sum)
	}
}

// A thousand people are taken over in one go.
func TestThousandPeople(t *testing.T) {
	r := listRig(t)
	var b strings.Builder
	b.WriteString("id,username,displayname,groups\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "%d,person%d,Person %d,Everybody;Team %d\n", i, i, i, i%20)
	}
	begun := r.now()
	p, err := r.svc.Lists().Plan(t.Context(), []byte(b.String()), bulk.Choices{List: "all"})
	must(t, err)
	d, err := r.svc.Lists().Apply(t.Context(), []byte(b.String()), bulk.Choices{List: "all"}, p.Number)
	must(t, err)
	groups, err := r.svc.Groups(t.Context())
	must(t, err)
	if d.Made != 1000 || len(groups) != 21 {
		t.Errorf("%d accounts, %d groups", d.Made, len(groups))
	}
	t.Log("taken over in", r.now().Sub(begun))
}
