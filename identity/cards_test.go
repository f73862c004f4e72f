package identity_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/identity"
	"holdfast/identity/account"
)

func (r *rig) batch(n identity.NewBatch) identity.Batch {
	r.t.Helper()
	if n.ExpiresIn == 0 {
		n.ExpiresIn = 24 * time.Hour
	}
	b, err := r.svc.CreateBatch(r.t.Context(), n)
	must(r.t, err)
	return b
}

func cardLink(c identity.Card) string { return "/e/" + c.Code }

// typed goes to where a code that is typed by hand leads.
func (r *rig) typed(code string) string {
	r.t.Helper()
	r.browser().get("/e").has(r.t, 200, `name="code"`)
	return r.browser().post("/e", url.Values{"code": {code}}).to(r.t).Path
}

func (r *rig) joinWithPIN(link, name, pin string) answer {
	return r.browser().post(link, url.Values{"username": {name}, "display_name": {name}, "password": {"long enough"}, "password2": {"long enough"}, "pin": {pin}})
}

// notPIN is a PIN that is not this one.
func notPIN(pin string) string {
	if pin == "000000" {
		return "000001"
	}
	return "000000"
}

func (r *rig) states(id string) string {
	r.t.Helper()
	b, err := r.svc.Batch(r.t.Context(), id)
	must(r.t, err)
	var out []string
	count := map[string]int{}
	for _, c := range b.Cards {
		out = append(out, c.State)
		count[c.State]++
	}
	if b.Open != count[account.CardOpen] || b.Used != count[account.CardUsed] || b.Expired != count[account.CardExpired] || b.Withdrawn != count[account.CardWithdrawn] {
		r.t.Errorf("the counts %+v are not those of %q", b, out)
	}
	return strings.Join(out, " ")
}

// Each card makes one account, by its link or by its code, in whatever way it is typed.
func TestCards(t *testing.T) {
	r := newRig(t, nil)
	_, err := r.svc.CreateGroup(t.Context(), "Ward 7")
	must(t, err)
	before := r.seq()
	b := r.batch(identity.NewBatch{Name: " Ward 7 ", Kind: identity.CardInvite, Count: 4, Roles: identity.Moderator, Groups: []string{"ward 7"}})
	if got := r.noted(before); len(got) != 1 || !strings.Contains(got[0], "cards.create "+b.ID) {
		t.Errorf("the audit log has %q", got)
	}
	if b.Name != "Ward 7" || len(b.Cards) != 4 || b.Open != 4 || !slices.Equal(b.Groups, []string{"Ward 7"}) {
		t.Fatalf("%+v", b)
	}
	if list, _ := r.svc.Invites(t.Context()); len(list) != 0 {
		t.Errorf("cards are among the invites: %+v", list)
	}
	r.browser().get(cardLink(b.Cards[0])).has(t, 200, "")
	if a := r.join(cardLink(b.Cards[0]), "anna"); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	shown := account.ShowCode(b.Cards[1].Code)
	worse := strings.NewReplacer("0", "o", "1", "l").Replace(strings.ToLower(strings.ReplaceAll(shown, "-", " ")))
	for _, typed := range []string{shown, worse, b.Cards[1].Code} {
		if got := r.typed(typed); got != cardLink(b.Cards[1]) {
			t.Errorf("%q leads to %s", typed, got)
		}
	}
	if a := r.join(r.typed(worse), "ben"); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	for _, u := range []string{"@anna:example.org", "@ben:example.org"} {
		if r.roles(u) != "moderator" || r.groups(u) != "Ward 7" {
			t.Errorf("%s: %s, %s", u, r.roles(u), r.groups(u))
		}
	}
	for _, c := range b.Cards[:2] {
		if a := r.join(cardLink(c), "second"); a.StatusCode != http.StatusGone {
			t.Errorf("used twice: %d", a.StatusCode)
		}
	}
	for _, typed := range []string{"", "1234", strings.Repeat("U", 16), shown + "7", strings.Repeat("7", 5000)} {
		r.browser().post("/e", url.Values{"code": {typed}}).has(t, 400, "no code of a card")
	}
	if a := r.browser().get(r.typed("0000-0000-0000-0000")); a.StatusCode != http.StatusGone {
		t.Errorf("a code that nobody has: %d", a.StatusCode)
	}
	got, err := r.svc.Batch(t.Context(), b.ID)
	must(t, err)
	if c := got.Cards[0]; c.UserID != "@anna:example.org" || c.Code != "" || c.PIN != "" || got.Roles != identity.Moderator || got.Groups[0] != "Ward 7" {
		t.Errorf("%+v", got)
	}
	if n, err := r.svc.RevokeCards(t.Context(), got.Cards[2].ID); n != 1 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	if a := r.browser().get(cardLink(b.Cards[2])); a.StatusCode != http.StatusGone {
		t.Errorf("withdrawn: %d", a.StatusCode)
	}
	if s := r.states(b.ID); s != "used used withdrawn open" {
		t.Errorf("%s", s)
	}
	r.wait(25 * time.Hour)
	if a := r.join(cardLink(b.Cards[3]), "late"); a.StatusCode != http.StatusGone {
		t.Errorf("expired: %d", a.StatusCode)
	}
	if s := r.states(b.ID); s != "used used withdrawn expired" {
		t.Errorf("%s", s)
	}
	must(t, r.svc.Sweep(t.Context()))
	if list, err := r.svc.Batches(t.Context()); len(list) != 1 || err != nil || list[0].Used != 2 {
		t.Errorf("%+v %v", list, err)
	}
	r.wait(31 * 24 * time.Hour)
	must(t, r.svc.Sweep(t.Context()))
	if list, err := r.svc.Batches(t.Context()); len(list) != 0 || err != nil {
		t.Errorf("%+v %v", list, err)
	}
	if a := r.browser().get(cardLink(b.Cards[3])); a.StatusCode != http.StatusGone {
		t.Errorf("forgotten: %d", a.StatusCode)
	}
}

// Cards that are lost are printed again: the old codes end, who used one keeps the account,
// numbers and what the cards give stay.
func TestReprint(t *testing.T) {
	r := newRig(t, nil)
	_, err := r.svc.CreateGroup(t.Context(), "Ward 7")
	must(t, err)
	b := r.batch(identity.NewBatch{Name: "Ward 7", Kind: identity.CardInvite, Count: 5, Roles: identity.Moderator, Groups: []string{"Ward 7"}, PINs: true})
	if a := r.joinWithPIN(cardLink(b.Cards[0]), "anna", b.Cards[0].PIN); a.StatusCode != 200 {
		t.Fatal(a.StatusCode)
	}
	_, err = r.svc.RevokeCards(t.Context(), b.Cards[1].ID)
	must(t, err)
	before := r.seq()
	ctx := identity.WithActor(t.Context(), "@anna:example.org") // a moderator gives nobody a role
	for _, x := range []struct {
		ctx  context.Context
		n    identity.Reprint
		want error
	}{
		{t.Context(), identity.Reprint{ID: "nothing", PINs: true}, identity.ErrNoCard},
		{t.Context(), identity.Reprint{ID: b.Cards[0].ID, PINs: true}, identity.ErrReprint},
		{t.Context(), identity.Reprint{ID: b.ID}, identity.ErrReprintPINs},
		{t.Context(), identity.Reprint{ID: b.ID, PINs: true, ExpiresIn: 400 * 24 * time.Hour}, identity.ErrCardTime},
		{ctx, identity.Reprint{ID: b.ID, PINs: true}, identity.ErrMayNotInvite},
	} {
		_, err := r.svc.Reprint(x.ctx, x.n)
		wantErr(t, err, x.want)
	}
	if got := r.noted(before); len(got) != 0 {
		t.Errorf("what was refused is noted: %q", got)
	}
	r.browser().get(cardLink(b.Cards[2])).has(t, 200, "")

	again, err := r.svc.Reprint(t.Context(), identity.Reprint{ID: b.ID, PINs: true})
	must(t, err)
	if len(again.Cards) != 3 || again.ID != b.ID || again.Cards[0].Number != 3 || again.Cards[2].Number != 5 || again.Expires.Sub(b.Expires).Abs() > time.Millisecond || len(again.Cards[0].PIN) != 6 {
		t.Fatalf("%+v", again)
	}
	if got := r.noted(before); len(got) != 1 || !strings.Contains(got[0], "cards.reprint "+b.ID) {
		t.Errorf("the audit log has %q", got)
	}
	if s := r.states(b.ID); s != "used withdrawn open open open" {
		t.Errorf("%s", s)
	}
	if list, _ := r.svc.Invites(t.Context()); len(list) != 0 {
		t.Errorf("the old ones are among the invites: %+v", list)
	}
	for _, old := range b.Cards[1:] {
		if a := r.joinWithPIN(cardLink(old), "thief", old.PIN); a.StatusCode != http.StatusGone {
			t.Errorf("the old card %d: %d", old.Number, a.StatusCode)
		}
	}
	if a := r.joinWithPIN(cardLink(again.Cards[0]), "ben", b.Cards[2].PIN); a.StatusCode != http.StatusForbidden && b.Cards[2].PIN != again.Cards[0].PIN {
		t.Errorf("the old PIN: %d", a.StatusCode)
	}
	if a := r.joinWithPIN(cardLink(again.Cards[0]), "ben", again.Cards[0].PIN); a.StatusCode != 200 {
		t.Errorf("the new card: %d", a.StatusCode)
	}
	if r.roles("@ben:example.org") != "moderator" || r.groups("@ben:example.org") != "Ward 7" {
		t.Errorf("%s, %s", r.roles("@ben:example.org"), r.groups("@ben:example.org"))
	}

	// One alone, also one that was withdrawn; it may last longer than the others.
	one, err := r.svc.Reprint(t.Context(), identity.Reprint{ID: b.Cards[1].ID, PINs: true, ExpiresIn: 48 * time.Hour})
	must(t, err)
	if len(one.Cards) != 1 || one.Cards[0].Number != 2 {
		t.Fatalf("%+v", one)
	}
	if s := r.states(b.ID); s != "used open used open open" {
		t.Errorf("%s", s)
	}
	r.wait(25 * time.Hour)
	if s := r.states(b.ID); s != "used open used expired expired" {
		t.Errorf("%s", s)
	}
	r.wait(25 * time.Hour)
	_, err = r.svc.Reprint(t.Context(), identity.Reprint{ID: b.ID, PINs: true})
	wantErr(t, err, identity.ErrReprintTime)
	last, err := r.svc.Reprint(t.Context(), identity.Reprint{ID: b.ID, PINs: true, ExpiresIn: time.Hour})
	must(t, err)
	if len(last.Cards) != 3 || r.states(b.ID) != "used open used open open" {
		t.Errorf("%+v, %s", last, r.states(b.ID))
	}

	// A link to an account: its person has one card at a time, and the state of one that
	// was used stays known for as long as its batch does.
	var users []string
	for _, name := range []string{"listed", "listed2"} {
		u, err := r.svc.CreateUser(t.Context(), identity.NewUser{Localpart: name, Source: "cli"})
		must(t, err)
		users = append(users, u.UserID)
	}
	enrol := r.batch(identity.NewBatch{Name: "b", Kind: identity.CardEnrol, Users: users})
	if a := r.joinWithPIN(cardLink(enrol.Cards[1]), "", ""); a.StatusCode != 200 {
		t.Fatal(a.StatusCode)
	}
	anew, err := r.svc.Reprint(t.Context(), identity.Reprint{ID: enrol.Cards[0].ID, ExpiresIn: 30 * 24 * time.Hour})
	must(t, err)
	if c := anew.Cards[0]; c.UserID != users[0] || c.PIN != "" || r.browser().get(cardLink(enrol.Cards[0])).StatusCode != http.StatusGone || r.browser().get(cardLink(c)).StatusCode != 200 {
		t.Errorf("%+v", c)
	}
	must(t, r.svc.SetDisabled(t.Context(), users[0], true))
	_, err = r.svc.Reprint(t.Context(), identity.Reprint{ID: enrol.ID, ExpiresIn: time.Hour})
	if e := new(identity.CardError); !errors.As(err, &e) || e.User != users[0] {
		t.Errorf("of a locked account: %v", err)
	}
	r.wait(32 * 24 * time.Hour)
	must(t, r.svc.Sweep(t.Context()))
	if s := r.states(enrol.ID); s != "expired used" {
		t.Errorf("%s", s)
	}
}

// Of many who use the same card at once, one has the account.
func TestCardRace(t *testing.T) {
	r := newRig(t, nil)
	u, err := r.svc.CreateUser(t.Context(), identity.NewUser{Localpart: "listed", Source: "cli"})
	must(t, err)
	invite := r.batch(identity.NewBatch{Name: "a", Kind: identity.CardInvite, Count: 1, PINs: true})
	enrol := r.batch(identity.NewBatch{Name: "b", Kind: identity.CardEnrol, Users: []string{u.UserID}, PINs: true})
	for _, b := range []identity.Batch{invite, enrol} {
		var mu sync.Mutex
		var wg sync.WaitGroup
		count := map[int]int{}
		for i := range 6 {
			wg.Go(func() {
				a := r.joinWithPIN(cardLink(b.Cards[0]), fmt.Sprintf("racer%d", i), b.Cards[0].PIN)
				mu.Lock()
				defer mu.Unlock()
				count[a.StatusCode]++
			})
		}
		wg.Wait()
		if count[200] != 1 || count[http.StatusGone] != 5 {
			t.Errorf("%s: %v", b.Kind, count)
		}
	}
	if users, _ := r.svc.Users(t.Context()); len(users) != 2 {
		t.Errorf("%d accounts", len(users))
	}
}

// Whoever found a card and not its PIN gets in nowhere, and ends it by trying.
func TestCardPINs(t *testing.T) {
	r := newRig(t, nil)
	b := r.batch(identity.NewBatch{Name: "Ward 7", Kind: identity.CardInvite, Count: 2, PINs: true})
	first, second := b.Cards[0], b.Cards[1]
	r.browser().get(cardLink(first)).has(t, 200, `name="pin"`)
	if a := r.join(cardLink(first), "nobody"); a.StatusCode != http.StatusForbidden {
		t.Errorf("without a PIN: %d", a.StatusCode)
	}
	_, err := r.svc.CreateUser(t.Context(), identity.NewUser{Localpart: "api", Password: "long enough", Invite: first.Code, Source: "register"})
	wantErr(t, err, identity.ErrPIN)
	if a := r.joinWithPIN(cardLink(first), "nobody", notPIN(first.PIN)); a.StatusCode != http.StatusForbidden {
		t.Errorf("another PIN: %d", a.StatusCode)
	}
	// What else is wrong is said, without the PIN being typed again.
	p := r.browser().post(cardLink(first), url.Values{"username": {"anna"}, "password": {"short"}, "password2": {"short"}, "pin": {first.PIN[:3] + " " + first.PIN[3:]}})
	p.has(t, 400, first.PIN[:3]+" "+first.PIN[3:])
	if a := r.joinWithPIN(cardLink(first), "anna", first.PIN); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}

	before := r.seq()
	wrong, slowed := 0, 0
	for tries := 0; wrong < 10; tries++ {
		if tries > 100 {
			t.Fatal("the card is never withdrawn")
		}
		switch a := r.joinWithPIN(cardLink(second), "thief", notPIN(second.PIN)); a.StatusCode {
		case http.StatusForbidden:
			wrong++
		case http.StatusTooManyRequests:
			if slowed++; wrong < 3 {
				t.Errorf("slowed down after %d", wrong)
			}
			r.wait(15 * time.Minute)
		default:
			t.Fatalf("after %d wrong ones: %d", wrong, a.StatusCode)
		}
	}
	if slowed < 7 {
		t.Errorf("of ten wrong ones %d had to wait", slowed)
	}
	r.wait(15 * time.Minute)
	if a := r.joinWithPIN(cardLink(second), "owner-of-it", second.PIN); a.StatusCode != http.StatusGone {
		t.Errorf("after ten wrong PINs the right one: %d", a.StatusCode)
	}
	got := r.noted(before)
	if last := len(got) - 1; last < 1 || !strings.Contains(got[0], "cards.pin "+second.ID) || !strings.Contains(got[last], "cards.revoke "+second.ID) {
		t.Errorf("the audit log has %q", got)
	}
	if s := r.states(b.ID); s != "used withdrawn" {
		t.Errorf("%s", s)
	}
	// Row 46: whoever reads the file has neither the codes nor, by trying them all, the PINs.
	r.stop()
	b1, err := os.ReadFile(r.path)
	must(t, err)
	for _, c := range b.Cards {
		if bytes.Contains(b1, []byte(c.Code)) || bytes.Contains(b1, []byte(account.ShowCode(c.Code))) {
			t.Error("a code is in the file")
		}
		for _, guess := range []string{c.PIN, c.ID + c.PIN, c.Code + c.PIN, c.Code + "\x00" + c.PIN} {
			if h := sha256.Sum256([]byte(guess)); bytes.Contains(b1, h[:]) {
				t.Errorf("a PIN is kept as a hash that can be tried: of %q", guess)
			}
		}
	}
	r.start()
}

// Wrong PINs that come at once are counted one by one.
func TestCardPINsAtOnce(t *testing.T) {
	r := newRig(t, func(o *identity.Options) { o.Limits = false })
	c := r.batch(identity.NewBatch{Name: "x", Kind: identity.CardInvite, Count: 1, PINs: true}).Cards[0]
	pins := []string{}
	for i := range 40 {
		if p := fmt.Sprintf("%06d", i); p != c.PIN {
			pins = append(pins, p)
		}
	}
	var wg sync.WaitGroup
	for _, p := range pins {
		wg.Go(func() { r.joinWithPIN(cardLink(c), "thief", p) })
	}
	wg.Wait()
	if a := r.joinWithPIN(cardLink(c), "anna", c.PIN); a.StatusCode != http.StatusGone {
		t.Errorf("after %d wrong PINs: %d", len(pins), a.StatusCode)
	}
}

// Cards for people whom there is already: their first password, or a new one.
func TestCardsForAccounts(t *testing.T) {
	r := newRig(t, nil)
	olga, alice := r.owner("olga"), r.user("alice")
	adam := r.user("adam")
	must(t, r.svc.Grant(t.Context(), adam.UserID, identity.Admin))
	for _, n := range []string{"ida", "ben"} {
		_, err := r.svc.CreateUser(t.Context(), identity.NewUser{Localpart: n, DisplayName: "Called " + n, Source: "cli"})
		must(t, err)
	}
	by := identity.WithActor(t.Context(), adam.UserID)
	b, err := r.svc.CreateBatch(by, identity.NewBatch{Name: "List", Kind: identity.CardEnrol, Users: []string{"ida", "@ben:example.org"}, ExpiresIn: time.Hour, PINs: true})
	must(t, err)
	if b.Cards[0].DisplayName != "Called ida" || b.Cards[1].UserID != "@ben:example.org" || b.CreatedBy != adam.UserID {
		t.Fatalf("%+v", b)
	}
	link := cardLink(b.Cards[0])
	r.browser().get(link).has(t, 200, `name="pin"`)
	v := twice("one long password")
	r.browser().post(link, v).has(t, http.StatusForbidden, "not the PIN")
	v.Set("pin", b.Cards[0].PIN)
	r.browser().post(link, v).has(t, 200, "")
	r.browser().post(link, v).has(t, http.StatusGone, "")
	if s := r.states(b.ID); s != "used open" {
		t.Error(s)
	}
	rec, err := r.svc.CreateBatch(by, identity.NewBatch{Name: "Alice", Kind: identity.CardRecovery, Users: []string{alice.UserID}, ExpiresIn: time.Hour})
	must(t, err)
	r.browser().post(cardLink(rec.Cards[0]), twice("another long password")).has(t, 200, "")
	for _, x := range []struct {
		who  string
		n    identity.NewBatch
		want error
	}{
		{adam.UserID, identity.NewBatch{Kind: identity.CardRecovery, Users: []string{"olga"}}, identity.ErrOwner},
		{adam.UserID, identity.NewBatch{Kind: identity.CardRecovery, Users: []string{"adam"}}, identity.ErrCardSelf},
		{adam.UserID, identity.NewBatch{Kind: identity.CardRecovery, Users: []string{"alice", "nobody"}}, identity.ErrNoUser},
		{adam.UserID, identity.NewBatch{Kind: identity.CardRecovery, Users: []string{"@alice:elsewhere.example"}}, identity.ErrNoUser},
		{adam.UserID, identity.NewBatch{Kind: identity.CardEnrol, Users: []string{"alice"}}, account.ErrHasPassword},
		{adam.UserID, identity.NewBatch{Kind: identity.CardInvite, Count: 1, Roles: identity.Owner}, identity.ErrOwner},
		{alice.UserID, identity.NewBatch{Kind: identity.CardInvite, Count: 1}, identity.ErrMayNotInvite},
		{alice.UserID, identity.NewBatch{Kind: identity.CardRecovery, Users: []string{"ben"}}, identity.ErrMayNotInvite},
		{olga.UserID, identity.NewBatch{Kind: identity.CardInvite, Count: 1001}, identity.ErrCards},
		{olga.UserID, identity.NewBatch{Kind: identity.CardInvite}, identity.ErrCards},
		{olga.UserID, identity.NewBatch{Kind: identity.CardEnrol}, identity.ErrCards},
		{olga.UserID, identity.NewBatch{Kind: identity.CardRecovery, Users: []string{"alice"}, ExpiresIn: 31 * 24 * time.Hour}, identity.ErrCardTime},
		{olga.UserID, identity.NewBatch{Kind: identity.CardInvite, Count: 1, ExpiresIn: 367 * 24 * time.Hour}, identity.ErrCardTime},
		{olga.UserID, identity.NewBatch{Kind: identity.CardInvite, Count: 1, Groups: []string{"none"}}, identity.ErrNoGroup},
	} {
		x.n.Name = "x"
		if x.n.ExpiresIn == 0 {
			x.n.ExpiresIn = time.Hour
		}
		_, err := r.svc.CreateBatch(identity.WithActor(t.Context(), x.who), x.n)
		wantErr(t, err, x.want)
	}
	for _, name := range []string{"", " ", "a\nb", strings.Repeat("x", 129), "\xff"} {
		_, err := r.svc.CreateBatch(t.Context(), identity.NewBatch{Name: name, Kind: identity.CardInvite, Count: 1, ExpiresIn: time.Hour})
		wantErr(t, err, identity.ErrBatchName)
	}
	if list, err := r.svc.Batches(t.Context()); err != nil || len(list) != 2 || list[0].ID != rec.ID {
		t.Errorf("%d batches: %v", len(list), err)
	}
	_, err = r.svc.RevokeCards(t.Context(), "01J")
	wantErr(t, err, identity.ErrNoCard)
	if n, err := r.svc.RevokeCards(t.Context(), b.ID); n != 1 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	v.Set("pin", b.Cards[1].PIN)
	r.browser().post(cardLink(b.Cards[1]), v).has(t, http.StatusGone, "")
}
