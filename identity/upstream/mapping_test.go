package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"holdfast/identity/account"
	"holdfast/store"
)

// site is a place with the provider h, where people sign in.
type site struct {
	t        *testing.T
	db       *store.DB
	accounts *account.Accounts
	u        *Upstreams
	h        *hostile
	shown    map[string]string // displayed names that were set
	changed  []string          // whose groups changed
}

func newSite(t *testing.T) *site {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "x.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s := &site{t: t, db: db, h: newHostile(t), shown: map[string]string{}}
	s.accounts = account.New(account.Options{DB: db, ServerName: "hs.test", Now: time.Now})
	same := func(s string) (string, error) { return s, nil }
	s.u, err = New(t.Context(), Options{DB: db, Log: quiet(), Accounts: s.accounts, Seal: same, Unseal: same, Now: time.Now,
		DisplayName: func(_ context.Context, id string) (string, error) { return s.shown[id], nil },
		Rename:      func(_ context.Context, id, name string) error { s.shown[id] = name; return nil },
		Changed:     func(_ *store.Tx, id string) error { s.changed = append(s.changed, id); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) group(name string) account.Group {
	s.t.Helper()
	var g account.Group
	err := s.db.Write(s.t.Context(), func(tx *store.Tx) (err error) {
		g, err = s.accounts.CreateGroupTx(tx, name, account.LocalGroup)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return g
}

func (s *site) set(id string, c Config) {
	s.t.Helper()
	c.Name, c.Issuer, c.ClientID = "H", s.h.URL, "me"
	if err := s.u.Set(s.t.Context(), id, c); err != nil {
		s.t.Fatal(err)
	}
}

// come has somebody come with what the provider says of them.
func (s *site) come(id string, said map[string]any) (Person, error) {
	s.t.Helper()
	_, asked, err := s.u.Ask(s.t.Context(), id, "https://hs.test/upstream/"+id+"/callback", "")
	if err != nil {
		s.t.Fatal(err)
	}
	all := map[string]any{"iss": s.h.URL, "sub": "s1", "aud": "me", "nonce": asked.Nonce, "exp": time.Now().Add(time.Minute).Unix(), "iat": time.Now().Unix(), "preferred_username": "dora", "name": "Dora"}
	maps.Copy(all, said)
	s.h.token = s.h.sign(s.t, jose.RS256, jose.JSONWebKey{Key: s.h.key, KeyID: "k"}, all)
	return s.u.Answered(s.t.Context(), asked, url.Values{"state": {asked.State}, "code": {"c"}})
}

// signIn has somebody come in, and returns the names of their groups.
func (s *site) signIn(id string, said map[string]any) (account.User, []string) {
	s.t.Helper()
	who, err := s.come(id, said)
	if err != nil {
		s.t.Fatal(err)
	}
	x, err := s.u.Account(s.t.Context(), who)
	if err != nil {
		s.t.Fatal(err)
	}
	return x, s.groupsOf(x)
}

func (s *site) groupsOf(x account.User) []string {
	s.t.Helper()
	list, err := s.accounts.Groups(s.t.Context(), x.ID)
	if err != nil {
		s.t.Fatal(err)
	}
	names := []string{}
	for _, g := range list {
		names = append(names, g.Name)
	}
	return names
}

func (s *site) member(g account.Group, x account.User, in bool) {
	s.t.Helper()
	err := s.db.Write(s.t.Context(), func(tx *store.Tx) error {
		if in {
			return s.accounts.AddMemberTx(tx, g, x)
		}
		return s.accounts.RemoveMemberTx(tx, g, x)
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) want(have []string, want ...string) {
	s.t.Helper()
	if !slices.Equal(have, want) && len(have)+len(want) > 0 {
		s.t.Fatalf("the groups are %q, want %q", have, want)
	}
}

// Only mapped groups are given, at each sign-in; what was given by hand stays, and what a
// provider gave goes when its word does.
func TestGroupsFollow(t *testing.T) {
	s := newSite(t)
	crew, watch, _ := s.group("Crew"), s.group("Watch"), s.group("Admins")
	s.set("h", Config{Mapping: Mapping{Groups: map[string]string{"sailors": "Crew", "guards": "watch"}}})
	x, in := s.signIn("h", map[string]any{"groups": []string{"sailors", "Admins", "guards", "sailors"}})
	s.want(in, "Crew", "Watch")
	if len(s.changed) == 0 || s.changed[0] != x.ID {
		t.Fatalf("nobody was told: %q", s.changed)
	}
	_, in = s.signIn("h", map[string]any{"groups": "sailors"})
	s.want(in, "Crew")
	// By hand: it stays, whatever the provider says.
	s.member(watch, x, true)
	_, in = s.signIn("h", map[string]any{"groups": []string{"guards"}})
	s.want(in, "Watch")
	_, in = s.signIn("h", nil)
	s.want(in, "Watch")
	// Given there first, and then by hand as well.
	_, in = s.signIn("h", map[string]any{"groups": []string{"sailors"}})
	s.want(in, "Crew", "Watch")
	s.member(crew, x, true)
	_, in = s.signIn("h", nil)
	s.want(in, "Crew", "Watch")
	// Taken by hand: the provider's word gives it again.
	s.member(crew, x, false)
	s.member(watch, x, false)
	_, in = s.signIn("h", map[string]any{"groups": []string{"sailors"}})
	s.want(in, "Crew")
	// A provider that leaves groups out and says so takes none away.
	_, in = s.signIn("h", map[string]any{"_claim_names": map[string]string{"groups": "src1"}, "_claim_sources": map[string]any{"src1": map[string]string{"endpoint": "https://many.test"}}})
	s.want(in, "Crew")
	// Another one that gives the same: it stays until the last takes it back.
	second := newHostile(t)
	first := s.h
	s.h = second
	s.set("h2", Config{Mapping: Mapping{GroupsClaim: "realm_access.roles", Groups: map[string]string{"sailors": "Crew"}}})
	who, err := s.come("h2", map[string]any{"realm_access": map[string]any{"roles": []string{"sailors"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.u.Join(t.Context(), who, x); err != nil {
		t.Fatal(err)
	}
	s.h = first
	_, in = s.signIn("h", nil)
	s.want(in, "Crew")
	s.h = second
	_, in = s.signIn("h2", nil)
	s.want(in)
	s.h = first
	// Not mapped any more, or the provider is gone: taken back.
	s.signIn("h", map[string]any{"groups": []string{"sailors", "guards"}})
	s.set("h", Config{Mapping: Mapping{Groups: map[string]string{"guards": "Watch"}}})
	_, in = s.signIn("h", map[string]any{"groups": []string{"sailors", "guards"}})
	s.want(in, "Watch")
	if _, err := s.u.Remove(t.Context(), "h", Keep); err != nil {
		t.Fatal(err)
	}
	s.want(s.groupsOf(x))
	if _, err := s.u.List(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A mapping is to groups that there are, and follows their names.
func TestGroupsAreKnown(t *testing.T) {
	s := newSite(t)
	g := s.group("Crew")
	c := Config{Name: "H", Issuer: s.h.URL, ClientID: "me", Mapping: Mapping{Groups: map[string]string{"sailors": "Pirates"}}}
	if err := s.u.Set(t.Context(), "h", c); err == nil || !strings.Contains(err.Error(), "Pirates") {
		t.Fatalf("a group that there is not: %v", err)
	}
	s.set("h", Config{Mapping: Mapping{Groups: map[string]string{"sailors": "CREW"}}})
	if err := s.db.Write(t.Context(), func(tx *store.Tx) error { return s.accounts.RenameGroupTx(tx, g, "Ship") }); err != nil {
		t.Fatal(err)
	}
	list, err := s.u.List(t.Context())
	if err != nil || list[0].Config.Groups["sailors"] != "Ship" {
		t.Fatalf("%+v %v", list, err)
	}
	_, in := s.signIn("h", map[string]any{"groups": []string{"sailors"}})
	s.want(in, "Ship")
	// The group is gone: nobody is put into one of its name.
	if err := s.db.Write(t.Context(), func(tx *store.Tx) error { return s.accounts.DeleteGroupTx(tx, g) }); err != nil {
		t.Fatal(err)
	}
	s.group("Ship")
	_, in = s.signIn("h", map[string]any{"groups": []string{"sailors"}})
	s.want(in)
	// The next start reads what was kept.
	again, err := New(t.Context(), s.u.o)
	if err != nil {
		t.Fatal(err)
	}
	s.u = again
	_, in = s.signIn("h", map[string]any{"groups": []string{"sailors"}})
	s.want(in)
}

// Who may come in: a claim, one of its values, a domain of verified addresses, ways of
// proving who one is.
func TestWhoMayComeIn(t *testing.T) {
	s := newSite(t)
	for i, x := range []struct {
		c    Config
		said map[string]any
		err  error
	}{
		{Config{Mapping: Mapping{RequireClaim: "groups", RequireValues: []string{"staff", "boss"}}}, map[string]any{"groups": []string{"boss"}}, nil},
		{Config{Mapping: Mapping{RequireClaim: "groups", RequireValues: []string{"staff"}}}, map[string]any{"groups": []string{"Staff", "guest"}}, ErrNotAdmitted},
		{Config{Mapping: Mapping{RequireClaim: "groups", RequireValues: []string{"staff"}}}, nil, ErrNotAdmitted},
		{Config{Mapping: Mapping{RequireClaim: "active"}}, map[string]any{"active": true}, nil},
		{Config{Mapping: Mapping{RequireClaim: "active"}}, map[string]any{"active": false}, ErrNotAdmitted},
		{Config{Mapping: Mapping{RequireClaim: "a.b", RequireValues: []string{"7"}}}, map[string]any{"a": map[string]any{"b": 7}}, nil},
		{Config{Mapping: Mapping{RequireClaim: "https://x.test/y", RequireValues: []string{"z"}}}, map[string]any{"https://x.test/y": "z"}, nil},
		{Config{Mapping: Mapping{Domains: []string{" @Town.Example "}}}, map[string]any{"email": "d@TOWN.example", "email_verified": true}, nil},
		{Config{Mapping: Mapping{Domains: []string{"town.example"}}}, map[string]any{"email": "d@town.example", "email_verified": "true"}, nil},
		{Config{Mapping: Mapping{Domains: []string{"town.example"}}}, map[string]any{"email": "d@town.example"}, ErrNotAdmitted},
		{Config{Mapping: Mapping{Domains: []string{"town.example"}}}, map[string]any{"email": "d@town.example", "email_verified": false}, ErrNotAdmitted},
		{Config{Mapping: Mapping{Domains: []string{"town.example"}, MailTrusted: true}}, map[string]any{"email": "d@town.example"}, nil},
		{Config{Mapping: Mapping{Domains: []string{"town.example"}}}, map[string]any{"email": "d@town.example.evil.test", "email_verified": true}, ErrNotAdmitted},
		{Config{Mapping: Mapping{Domains: []string{"town.example"}}}, map[string]any{"email": "d@evil.test@town.example", "email_verified": true}, ErrNotAdmitted},
		{Config{Mapping: Mapping{Domains: []string{"town.example"}}}, map[string]any{"email": "d@sub.town.example", "email_verified": true}, ErrNotAdmitted},
		{Config{RequireMFA: true}, map[string]any{"amr": []string{"pwd", "mfa"}}, nil},
		{Config{RequireMFA: true}, map[string]any{"amr": []string{"pwd"}}, ErrRefused},
		{Config{RequireMFA: true}, nil, ErrRefused},
		{Config{ACRs: []string{"gold", "silver"}, RequireACR: true}, map[string]any{"acr": "silver"}, nil},
		{Config{ACRs: []string{"gold", "silver"}, RequireACR: true}, map[string]any{"acr": "tin"}, ErrRefused},
		{Config{ACRs: []string{"gold"}, RequireACR: true}, nil, ErrRefused},
		{Config{ACRs: []string{"gold"}}, nil, nil},
	} {
		s.set("h", x.c)
		if who, err := s.come("h", x.said); !errors.Is(err, x.err) || x.err == nil && (err != nil || who.MFA) {
			t.Errorf("%d: %+v %v, want %v", i, who, err, x.err)
		}
	}
	// What is asked of the provider, and what counts here.
	s.set("h", Config{Prompt: "login", ACRs: []string{"gold", "silver"}, TrustMFA: true})
	to, _, err := s.u.Ask(t.Context(), "h", "https://hs.test/cb", "")
	if q := must(url.Parse(to)).Query(); err != nil || q.Get("prompt") != "login" || q.Get("acr_values") != "gold silver" {
		t.Fatal(to, err)
	}
	for amr, counts := range map[string]bool{"mfa": true, "pwd": false} {
		if who, err := s.come("h", map[string]any{"amr": []string{amr}}); err != nil || who.MFA != counts {
			t.Errorf("%s: %+v %v", amr, who, err)
		}
	}
	for i, c := range []Config{
		{Prompt: "none"}, {RequireACR: true}, {ACRs: []string{"a b"}}, {Scopes: []string{"a b"}}, {Mapping: Mapping{Domains: []string{"*.example"}}},
		{Mapping: Mapping{Domains: []string{"a@b.example"}}}, {Mapping: Mapping{RequireValues: []string{"x"}}}, {Mapping: Mapping{UserClaim: strings.Repeat("x", 300)}},
		{Mapping: Mapping{Groups: map[string]string{"": "Crew"}}}, {Mapping: Mapping{Domains: slices.Repeat([]string{"x.example"}, 51)}},
	} {
		c.Name, c.Issuer, c.ClientID = "H", s.h.URL, "me"
		if err := s.u.Set(t.Context(), "h", c); err == nil {
			t.Errorf("%d is taken: %+v", i, c)
		}
	}
}

// What the ID token leaves out is asked at userinfo, which must be about the same person.
func TestUserinfo(t *testing.T) {
	s := newSite(t)
	s.group("Crew")
	s.set("h", Config{Mapping: Mapping{Groups: map[string]string{"sailors": "Crew"}}})
	s.h.asked = true
	s.h.info = `{"sub":"s1","groups":["sailors"],"preferred_username":"other"}`
	x, in := s.signIn("h", nil)
	s.want(in, "Crew")
	if x.Localpart != "dora" {
		t.Fatalf("userinfo is believed before what was signed: %s", x.Localpart)
	}
	for what, info := range map[string]string{"somebody else": `{"sub":"s2","groups":[]}`, "nobody": `{"groups":[]}`} {
		s.h.info = info
		if _, err := s.come("h", nil); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Without an answer nobody comes in, and nothing is taken away.
	for _, info := range []string{"", "no", strings.Repeat(" ", 2<<20) + "{}"} {
		s.h.info = info
		if _, err := s.come("h", nil); !errors.Is(err, ErrDown) {
			t.Errorf("%.9q: %v", info, err)
		}
	}
	s.want(s.groupsOf(x), "Crew")
	// Where nothing but a name depends on it, it may fail.
	s.set("h2", Config{Mapping: Mapping{NameClaim: "nick"}})
	if who, err := s.come("h2", nil); err != nil || who.Full != "" {
		t.Errorf("%+v %v", who, err)
	}
	// All is there: nobody is asked.
	if _, in = s.signIn("h", map[string]any{"groups": []string{}}); len(in) > 0 {
		t.Fatal(in)
	}
}

// The displayed name is taken once, or follows; an address is taken where it is free and
// verified, and finds nobody.
func TestNamesAndMail(t *testing.T) {
	s := newSite(t)
	s.set("h", Config{Mapping: Mapping{MailTaken: true}})
	x, _ := s.signIn("h", map[string]any{"email": "Dora@town.example", "email_verified": true})
	y, err := s.accounts.EmailOwner(t.Context(), "dora@town.example")
	if err != nil || y.ID != x.ID {
		t.Fatalf("%+v %v", y, err)
	}
	s.signIn("h", map[string]any{"name": "Theodora"})
	if s.shown[x.UserID] != "" {
		t.Fatal("the name follows unasked")
	}
	// 40: the same verified address, another subject: another person.
	z, _ := s.signIn("h", map[string]any{"sub": "s2", "preferred_username": "emil", "email": "dora@town.example", "email_verified": true})
	if z.ID == x.ID {
		t.Fatal("somebody is found by an e-mail address")
	}
	if mails, err := s.accounts.Emails(t.Context(), z.ID); err != nil || len(mails) != 0 {
		t.Fatalf("%v %v", mails, err)
	}
	s.signIn("h", map[string]any{"sub": "s2", "email": "emil@town.example"})
	if mails, err := s.accounts.Emails(t.Context(), z.ID); err != nil || len(mails) != 0 {
		t.Fatalf("an address that nobody verified is taken: %v %v", mails, err)
	}
	s.set("h", Config{Mapping: Mapping{NameFollows: true}})
	s.signIn("h", map[string]any{"name": "Theodora"})
	if s.shown[x.UserID] != "Theodora" {
		t.Fatalf("the name does not follow: %q", s.shown)
	}
}

// FuzzSaid reads what a provider says of somebody.
func FuzzSaid(f *testing.F) {
	f.Add(`{"groups":["a",{"b":[1]}],"a":{"b":"c"},"email":"x@y.example","email_verified":true}`)
	f.Add(`{"groups":"x","_claim_names":{"groups":"s"},"a.b":1}`)
	c := Config{Mapping: Mapping{Groups: map[string]string{"a": "1", "x": "2"}, RequireClaim: "a.b.c", Domains: []string{"y.example"}}}
	if err := c.Mapping.check(); err != nil {
		f.Fatal(err)
	}
	c.GroupsClaim, c.MailClaim = "groups", "email"
	f.Fuzz(func(t *testing.T, raw string) {
		var said map[string]any
		if json.Unmarshal([]byte(raw), &said) != nil {
			return
		}
		var who Person
		get := func(name string) []string { return texts(find(said, name)) }
		err := c.admit(&who, get, slices.Contains(get("email_verified"), "true"), false)
		if err == nil && !strings.HasSuffix(who.Mail, "@y.example") {
			t.Fatalf("%q lets in %+v", raw, who)
		}
		for _, g := range who.Groups {
			if g != "1" && g != "2" {
				t.Fatalf("%q gives %q", raw, g)
			}
		}
		if len(fmt.Sprint(who)) > 10*maxText {
			t.Fatal("too much is kept")
		}
	})
}
