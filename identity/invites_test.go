package identity_test

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"holdfast/identity"
)

func (r *rig) join(link, name string) answer {
	return r.browser().post(link, url.Values{"username": {name}, "display_name": {name}, "password": {"long enough"}, "password2": {"long enough"}})
}

func (r *rig) groups(userID string) string {
	r.t.Helper()
	list, err := r.svc.GroupsOf(r.t.Context(), userID)
	must(r.t, err)
	var names []string
	for _, g := range list {
		names = append(names, g.Name)
	}
	return strings.Join(names, " ")
}

// What an invite carries, the account has when it is made, and nothing more.
func TestInvitesGiveRolesAndGroups(t *testing.T) {
	r := newRig(t, nil)
	olga := r.owner("olga")
	for _, g := range []string{"Ward 7", "Night", "Old"} {
		_, err := r.svc.CreateGroup(t.Context(), g)
		must(t, err)
	}
	must(t, r.svc.GrantGroup(t.Context(), "Night", identity.Auditor))
	by := identity.WithActor(t.Context(), olga.UserID)
	inv, err := r.svc.CreateInvite(by, identity.NewInvite{Uses: 2, Roles: identity.Moderator, Groups: []string{"ward 7", "Night", "Old", "NIGHT"}})
	must(t, err)
	if inv.CreatedBy != olga.UserID || !slices.Equal(inv.Groups, []string{"Ward 7", "Night", "Old"}) {
		t.Fatalf("%+v", inv)
	}
	must(t, r.svc.RenameGroup(t.Context(), "Ward 7", "Station 7"))
	must(t, r.svc.DeleteGroup(t.Context(), "Old")) // of which nobody is told any more
	before := r.seq()
	if a := r.join("/e/"+inv.Token, "anna"); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if got := r.noted(before); !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "user.create @anna:example.org") }) ||
		!slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "group.join Station 7") }) {
		t.Errorf("the audit log has %q", got)
	}
	if got := r.roles("@anna:example.org"); got != "moderator, auditor" {
		t.Errorf("roles %q", got)
	}
	if got := r.groups("@anna:example.org"); got != "Night Station 7" {
		t.Errorf("groups %q", got)
	}
	list, err := r.svc.Invites(t.Context())
	must(t, err)
	if len(list) != 1 || list[0].Roles != identity.Moderator || len(list[0].Groups) != 2 || list[0].UsesLeft != 1 {
		t.Errorf("%+v", list)
	}
	// The API of applications gives the same.
	u, err := r.svc.CreateUser(t.Context(), identity.NewUser{Localpart: "ben", Password: "long enough", Invite: inv.Token, Admin: true, Source: "register"})
	must(t, err)
	if u.Admin || u.Roles != identity.Moderator|identity.Auditor || r.groups(u.UserID) != "Night Station 7" {
		t.Errorf("%+v %q", u, r.groups(u.UserID))
	}
	_, err = r.svc.CreateInvite(by, identity.NewInvite{Groups: []string{"nobody's"}})
	wantErr(t, err, identity.ErrNoGroup)
}

// Who could not give a role gives none by an invite either: not when it is made, and not
// when it is used.
func TestInvitesGiveWhatTheirMakerMay(t *testing.T) {
	r := newRig(t, nil)
	olga := r.owner("olga")
	adam, mona, ida := r.user("adam"), r.user("mona"), r.user("ida")
	must(t, r.svc.Grant(t.Context(), adam.UserID, identity.Admin))
	must(t, r.svc.Grant(t.Context(), mona.UserID, identity.Moderator))
	_, err := r.svc.CreateGroup(t.Context(), "Ward 7")
	must(t, err)
	make := func(ctx context.Context, n identity.NewInvite) string {
		t.Helper()
		inv, err := r.svc.CreateInvite(ctx, n)
		must(t, err)
		return "/e/" + inv.Token
	}
	as := func(u identity.User) context.Context { return identity.WithActor(t.Context(), u.UserID) }
	for _, x := range []struct {
		who  context.Context
		n    identity.NewInvite
		want error
	}{
		{as(mona), identity.NewInvite{Roles: identity.Admin}, identity.ErrMayNotInvite},
		{as(mona), identity.NewInvite{Roles: identity.Moderator}, identity.ErrMayNotInvite},
		{as(mona), identity.NewInvite{Groups: []string{"Ward 7"}}, identity.ErrMayNotInvite},
		{as(ida), identity.NewInvite{}, identity.ErrMayNotInvite},
		{identity.WithActor(t.Context(), "@nobody:example.org"), identity.NewInvite{}, identity.ErrMayNotInvite},
		{identity.WithActor(t.Context(), "@olga:elsewhere.example"), identity.NewInvite{}, identity.ErrMayNotInvite},
		{as(adam), identity.NewInvite{Roles: identity.Owner}, identity.ErrOwner},
	} {
		_, err := r.svc.CreateInvite(x.who, x.n)
		wantErr(t, err, x.want)
	}
	if list, _ := r.svc.Invites(t.Context()); len(list) != 0 {
		t.Fatalf("%d invites were made", len(list))
	}
	if a := r.join(make(t.Context(), identity.NewInvite{Roles: identity.Owner}), "first"); a.StatusCode != 200 || r.roles("@first:example.org") != "owner" {
		t.Errorf("by the command line: %d", a.StatusCode)
	}
	ownerLink := make(as(olga), identity.NewInvite{Roles: identity.Owner})
	adminLink := make(as(adam), identity.NewInvite{Roles: identity.Admin})
	groupLink := make(as(adam), identity.NewInvite{Groups: []string{"Ward 7"}})
	plain := make(as(adam), identity.NewInvite{})
	must(t, r.svc.Revoke(t.Context(), adam.UserID, identity.Admin))
	must(t, r.svc.Revoke(t.Context(), olga.UserID, identity.Owner))
	must(t, r.svc.Grant(t.Context(), olga.UserID, identity.Admin))
	for name, link := range map[string]string{"owner": ownerLink, "admin": adminLink, "group": groupLink} {
		if a := r.browser().get(link); a.StatusCode != http.StatusGone {
			t.Errorf("%s: GET %d", name, a.StatusCode)
		}
		if a := r.join(link, "late-"+name); a.StatusCode != http.StatusGone {
			t.Errorf("%s: POST %d", name, a.StatusCode)
		}
		_, err := r.svc.CreateUser(t.Context(), identity.NewUser{Localpart: "api-" + name, Password: "long enough", Invite: strings.TrimPrefix(link, "/e/"), Source: "register"})
		wantErr(t, err, identity.ErrInvite)
	}
	if a := r.join(plain, "plain"); a.StatusCode != 200 || r.roles("@plain:example.org") != "" {
		t.Errorf("an invite that gives nothing: %d", a.StatusCode)
	}
	// An administrator again, and locked: neither may anything.
	must(t, r.svc.Grant(t.Context(), adam.UserID, identity.Admin))
	if a := r.browser().get(adminLink); a.StatusCode != 200 {
		t.Errorf("an administrator again: %d", a.StatusCode)
	}
	must(t, r.svc.SetDisabled(t.Context(), adam.UserID, true))
	if a := r.join(adminLink, "locked"); a.StatusCode != http.StatusGone {
		t.Errorf("its maker is locked: %d", a.StatusCode)
	}
}
