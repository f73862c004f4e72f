package identity_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/identity"
	"holdfast/store"
	"holdfast/store/audit"
)

// ruled is a rig whose rules the test changes.
func ruled(t *testing.T) (*rig, *identity.Policy) {
	p := &identity.Policy{}
	r := newRig(t, func(o *identity.Options) { o.Policy = func() identity.Policy { return *p } })
	return r, p
}

// enrolAtSignIn adds an authenticator app where a sign-in led to its page.
func (b *browser) enrolAtSignIn(at *url.URL) (app string, codes []string, done answer) {
	t := b.r.t
	t.Helper()
	in := b.get("/account").StatusCode // of a session from before
	if at.Path != "/login/enrol" {
		t.Fatalf("the sign-in leads to %s", at)
	}
	if p := b.get(at.String()); p.StatusCode != http.StatusOK || !strings.Contains(p.body, "/login/enrol/app?") {
		t.Fatalf("%d %s", p.StatusCode, p.body)
	}
	at.Path = "/login/enrol/app"
	page := b.get(at.String())
	m, form := secretIn.FindStringSubmatch(page.body), setupIn.FindStringSubmatch(page.body)
	if m == nil || form == nil {
		t.Fatalf("%d %.2000s", page.StatusCode, page.body)
	}
	app = strings.ReplaceAll(m[1], " ", "")
	if p := b.post(at.String(), url.Values{"setup": {form[1]}, "code": {b.r.wrongDigits(app)}}); p.StatusCode != http.StatusBadRequest {
		t.Fatalf("wrong digits: %d", p.StatusCode)
	}
	if now := b.get("/account").StatusCode; now != in {
		t.Fatalf("before there is a second factor: %d", now)
	}
	done = b.post(at.String(), url.Values{"setup": {form[1]}, "code": {b.r.digits(app)}})
	for _, c := range codeIn.FindAllStringSubmatch(done.body, -1) {
		codes = append(codes, c[1])
	}
	if done.StatusCode != http.StatusOK || len(codes) != 10 {
		t.Fatalf("%d %.2000s", done.StatusCode, done.body)
	}
	return app, codes, done
}

// Who must have a second factor and has none adds it before a session starts, and the
// application gets what it asked for.
func TestSecondFactorIsAddedAtSignIn(t *testing.T) {
	r, policy := ruled(t)
	r.user("alice")
	id := r.client(nil)
	policy.Factor = identity.FactorPolicy{Who: identity.FactorEveryone, Since: r.now()}
	b := r.browser()
	loc := b.get("/oauth2/authorize?" + authParams(id).Encode()).to(t)
	to := b.post(loc.String(), url.Values{"username": {"alice"}, "password": {"correct horse alice"}}).to(t)
	if to.Path != "/login/enrol" {
		t.Fatal(to)
	}
	// It cannot be put off, not even by a form that was not shown.
	if p := b.get(to.String()); strings.Contains(p.body, ">Later<") {
		t.Fatal(p.body)
	}
	if p := b.post(to.String(), nil); p.StatusCode != http.StatusForbidden {
		t.Fatal(p.StatusCode)
	}
	app, _, done := b.enrolAtSignIn(to)
	if !strings.Contains(done.body, `href="/login?request=`) {
		t.Fatal(done.body)
	}
	u := b.get(b.signIn("alice", authParams(id))).to(t)
	if u.Query().Get("code") == "" {
		t.Fatal(u)
	}
	// It is enough for what asks for a fresh sign-in, and the next one asks for it.
	if p := b.get("/account/security/app"); p.StatusCode != http.StatusOK {
		t.Fatal(p.StatusCode)
	}
	r.wait(time.Minute)
	n := r.browser()
	if to := n.password("alice").to(t); to.Path != "/login/totp" {
		t.Fatal(to)
	}
	// The password alone adds no other factor beside the one that there is.
	for _, path := range []string{"/login/enrol", "/login/enrol/app", "/login/enrol/passkey"} {
		if to := n.get(path).to(t); to.Path != "/login/totp" {
			t.Fatalf("%s: %s", path, to)
		}
		if to := n.post(path, url.Values{"code": {r.digits(app)}}).to(t); to.Path != "/login/totp" {
			t.Fatalf("%s: %s", path, to)
		}
	}
	if to := n.post("/login/totp", url.Values{"code": {r.digits(app)}}).to(t); to.Path != "/account" {
		t.Fatal(to)
	}
	// Nobody comes to the pages without the first factor.
	if to := r.browser().get("/login/enrol").to(t); to.Path != "/login" {
		t.Fatal(to)
	}
	events, err := r.log.Find(t.Context(), audit.Filter{Target: "@alice:example.org"})
	if err != nil || !slices.ContainsFunc(events, func(e audit.Entry) bool { return e.Event == "factor.app.add" }) {
		t.Fatal(err, events)
	}
}

// A passkey satisfies the rules, at the sign-in page and alone.
func TestPasskeyIsAddedAtSignIn(t *testing.T) {
	r, policy := ruled(t)
	u := r.user("alice")
	policy.Factor = identity.FactorPolicy{Who: identity.FactorEveryone}
	b := r.browser()
	to := b.password("alice").to(t)
	to.Path = "/login/enrol/passkey"
	d := newDevice(t, u)
	done := b.post(to.String(), url.Values{"response": {d.create(options(t, b.get(to.String())))}, "name": {"key"}})
	if done.StatusCode != http.StatusOK || len(codeIn.FindAllString(done.body, -1)) != 10 {
		t.Fatalf("%d %s", done.StatusCode, done.body)
	}
	if p := b.get("/account/security"); p.StatusCode != http.StatusOK || !strings.Contains(p.body, "cannot be removed") || strings.Contains(p.body, "/passkey/remove") {
		t.Fatal(p.StatusCode, p.body)
	}
	d.auth.AddCredential(d.cred)
	n := r.browser()
	if to := n.post("/login/passkey/alone", url.Values{"response": {d.get(options(t, n.get("/login")))}}).to(t); to.Path != "/account" {
		t.Fatal(to)
	}
}

// Whom the rules are for, from when on, and what they do to sessions that exist.
func TestWhoMustHaveASecondFactor(t *testing.T) {
	r, policy := ruled(t)
	for _, name := range []string{"olga", "mona", "gert", "paul"} {
		r.user(name)
	}
	for name, role := range map[string]identity.Roles{"olga": identity.Owner, "mona": identity.Moderator} {
		if err := r.svc.Grant(t.Context(), name, role); err != nil {
			t.Fatal(err)
		}
	}
	g, err := r.svc.CreateGroup(t.Context(), "Finance")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.svc.SetMember(t.Context(), "Finance", "gert", true); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		p    identity.FactorPolicy
		must string
	}{
		{identity.FactorPolicy{}, ""},
		{identity.FactorPolicy{Who: identity.FactorNobody}, ""},
		{identity.FactorPolicy{Who: identity.FactorRoles}, "olga mona"},
		{identity.FactorPolicy{Groups: []string{g.ID, "gone"}}, "gert"},
		{identity.FactorPolicy{Who: identity.FactorRoles, Groups: []string{g.ID}}, "olga mona gert"},
		{identity.FactorPolicy{Who: identity.FactorEveryone}, "olga mona gert paul"},
	} {
		policy.Factor = c.p
		must := strings.Fields(c.must)
		for _, name := range []string{"olga", "mona", "gert", "paul"} {
			want := "/account"
			if slices.Contains(must, name) {
				want = "/login/enrol"
			}
			if to := r.browser().password(name).to(t); to.Path != want {
				t.Errorf("%+v: %s comes to %s", c.p, name, to)
			}
			_, err := r.svc.VerifyPassword(t.Context(), name, "correct horse "+name, "192.0.2.7")
			if slices.Contains(must, name) != errors.Is(err, identity.ErrFactorMissing) {
				t.Errorf("%+v: %s by password alone: %v", c.p, name, err)
			}
		}
		if n, err := r.svc.CountFactors(t.Context()); err != nil || n.Wanted != len(must) || n.Missing != len(must) {
			t.Errorf("%+v: %+v %v", c.p, n, err)
		}
	}
	// The name of a group may change.
	policy.Factor = identity.FactorPolicy{Groups: []string{g.ID}}
	if err := r.svc.RenameGroup(t.Context(), "Finance", "Money"); err != nil {
		t.Fatal(err)
	}
	if to := r.browser().password("gert").to(t); to.Path != "/login/enrol" {
		t.Error(to)
	}
	policy.PasswordAlone = true
	if _, err := r.svc.VerifyPassword(t.Context(), "gert", "correct horse gert", "192.0.2.7"); err != nil {
		t.Error(err)
	}
}

// Within the time that there is, people are told and may put it off.
func TestSecondFactorCanBePutOff(t *testing.T) {
	r, policy := ruled(t)
	r.user("alice")
	id := r.client(nil)
	old := r.browser() // signed in before there were rules
	old.password("alice").to(t)
	policy.Factor = identity.FactorPolicy{Who: identity.FactorEveryone, Since: r.now(), Grace: 7 * 24 * time.Hour}
	r.wait(24 * time.Hour)
	b := r.browser()
	to := b.password("alice").to(t)
	day := policy.Factor.Since.Add(policy.Factor.Grace).UTC().Format("2006-01-02")
	if p := b.get(to.String()); to.Path != "/login/enrol" || !strings.Contains(p.body, day) {
		t.Fatal(to, p.body)
	}
	if to := b.post(to.String(), nil).to(t); to.Path != "/account" {
		t.Fatal(to)
	}
	for _, path := range []string{"/account", "/account/security"} {
		if p := b.get(path); p.StatusCode != http.StatusOK || !strings.Contains(p.body, day) {
			t.Fatal(path, p.StatusCode, p.body)
		}
	}
	if _, err := r.svc.VerifyPassword(t.Context(), "alice", "correct horse alice", "192.0.2.7"); err != nil {
		t.Fatal(err)
	}
	// Proving once more who one is does not ask again, but what was added must stay.
	r.wait(6 * time.Minute)
	if to := b.post("/reauth?next=%2Faccount%2Fsecurity", url.Values{"password": {"correct horse alice"}}).to(t); to.Path != "/account/security" {
		t.Fatal(to)
	}
	code := b.signIn("alice", authParams(id))
	if u := b.get(code).to(t); u.Query().Get("code") == "" {
		t.Fatal(u)
	}
	r.wait(7 * 24 * time.Hour)
	// The sessions that exist go on, and open nothing new.
	for _, x := range []*browser{old, b} {
		if p := x.get("/account"); p.StatusCode != http.StatusOK || !strings.Contains(p.body, "/account/security") {
			t.Fatal(p.StatusCode)
		}
		loc := x.get("/oauth2/authorize?" + authParams(id).Encode()).to(t)
		if p := x.get(loc.String()); p.StatusCode != http.StatusOK || !strings.Contains(p.body, `name="password"`) {
			t.Fatal(p.StatusCode)
		}
		if u := x.get("/oauth2/authorize?" + authParams(id, "prompt", "none").Encode()).to(t); u.Query().Get("error") != "login_required" {
			t.Fatal(u)
		}
		if to := x.get("/login/sso?redirectUrl=https%3A%2F%2Fclient.test%2F").to(t); to.Path != "/login" {
			t.Fatal(to)
		}
		if p := x.get("/login?next=%2Flink"); p.StatusCode != http.StatusOK {
			t.Fatal(p.StatusCode)
		}
	}
	to = old.password("alice").to(t)
	app, _, _ := old.enrolAtSignIn(to)
	if p := old.post("/account/security/app/remove", nil); p.StatusCode != http.StatusConflict || !strings.Contains(p.body, "last second factor") {
		t.Fatal(p.StatusCode, p.body)
	}
	r.wait(time.Minute)
	n := r.browser()
	n.password("alice").to(t)
	if to := n.post("/login/totp", url.Values{"code": {r.digits(app)}}).to(t); to.Path != "/account" {
		t.Fatal(to)
	}
	policy.Factor = identity.FactorPolicy{}
	if p := n.post("/account/security/app/remove", nil); p.StatusCode != http.StatusOK {
		t.Fatal(p.StatusCode)
	}
}

// A new account has the same time, or none; its session starts with the second factor.
func TestNewAccountAddsASecondFactor(t *testing.T) {
	r, policy := ruled(t)
	policy.Factor = identity.FactorPolicy{Who: identity.FactorEveryone, Since: r.now().Add(-365 * 24 * time.Hour), Grace: 24 * time.Hour}
	inv, err := r.svc.CreateInvite(t.Context(), identity.NewInvite{Uses: 2, ExpiresIn: 30 * 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	make := func(name string) (*browser, answer) {
		b := r.browser()
		return b, b.post(strings.TrimPrefix(inv.URL, origin), url.Values{"username": {name}, "password": {"correct horse " + name}, "password2": {"correct horse " + name}})
	}
	b, a := make("nina")
	to := a.to(t)
	if p := b.get(to.String()); to.Path != "/login/enrol" || !strings.Contains(p.body, ">Later<") {
		t.Fatal(to, p.body)
	}
	policy.Factor.Grace = 0
	b, a = make("otto")
	b.enrolAtSignIn(a.to(t))
	if p := b.get("/account"); p.StatusCode != http.StatusOK {
		t.Fatal(p.StatusCode)
	}
	// Who lost everything and comes by a link adds another.
	link, err := r.svc.RecoveryLink(t.Context(), "otto", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	n := r.browser()
	to = n.post(strings.TrimPrefix(link.URL, origin), url.Values{"password": {"correct horse otto!"}, "password2": {"correct horse otto!"}}).to(t)
	n.enrolAtSignIn(to)
}

// Who passed the first factor with a password that was changed since goes no further: else
// whoever knew the old one could add the second factor, or guess on at it.
func TestPasswordChangedBetweenFactors(t *testing.T) {
	r, policy := ruled(t)
	r.user("alice")
	r.user("bob")
	bob := r.browser()
	bob.password("bob").to(t)
	app, _ := bob.enrolApp()
	policy.Factor = identity.FactorPolicy{Who: identity.FactorEveryone}
	change := func(name, password string) {
		t.Helper()
		if err := r.svc.ChangePassword(t.Context(), name, password, "", false); err != nil {
			t.Fatal(err)
		}
	}
	thief := r.browser()
	enrol := thief.password("alice").to(t)
	form := setupIn.FindStringSubmatch(thief.get("/login/enrol/app").body)
	if enrol.Path != "/login/enrol" || form == nil {
		t.Fatal(enrol)
	}
	change("alice", "another long phrase")
	for _, path := range []string{"/login/enrol", "/login/enrol/app", "/login/enrol/passkey"} {
		if to := thief.get(path).to(t); to.Path != "/login" {
			t.Errorf("%s leads to %s", path, to)
		}
		if to := thief.post(path, url.Values{"setup": {form[1]}, "code": {"000000"}}).to(t); to.Path != "/login" {
			t.Errorf("%s leads to %s", path, to)
		}
	}
	second := thief.password("bob").to(t)
	if second.Path != "/login/totp" || thief.get(second.String()).StatusCode != http.StatusOK {
		t.Fatal(second)
	}
	change("bob", "another long phrase")
	r.wait(time.Minute)
	if to := thief.post(second.String(), url.Values{"code": {r.digits(app)}}).to(t); to.Path != "/login" || thief.signedIn() {
		t.Errorf("the second factor leads to %s", to)
	}
}

// A new password has as many characters as was decided, wherever it is set and whoever sets
// it; those that exist stay good, and no setting goes below the floor.
func TestPasswordLength(t *testing.T) {
	r, policy := ruled(t)
	alice := r.user("alice")
	// Characters are counted, not bytes.
	chars := func(n int) string {
		return string([]rune("vé7kqü xoblin gartenzwerg 41 mühle seebrücke lampe 93 fahrradklingel otter")[:n])
	}
	ctx := t.Context()
	inv, err := r.svc.CreateInvite(ctx, identity.NewInvite{Uses: 99})
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	places := map[string]func(pw string) error{
		"command line":     func(pw string) error { return r.svc.SetPassword(ctx, "alice", pw, "", true) },
		"Matrix API":       func(pw string) error { return r.svc.ChangePassword(ctx, "alice", pw, "", true) },
		"check before":     func(pw string) error { return r.svc.CheckPassword(pw) },
		"machine's screen": func(pw string) error { _, err := r.svc.HashPassword(ctx, pw); return err },
	}
	for _, source := range []string{"cli", "admin-api", "register", "setup"} {
		places["new account by "+source] = func(pw string) error {
			made++
			_, err := r.svc.CreateUser(ctx, identity.NewUser{Localpart: fmt.Sprint("new", made), Password: pw, Source: source})
			return err
		}
	}
	pages := map[string]func(pw string) answer{
		"invite": func(pw string) answer {
			made++
			return r.browser().post("/e/"+inv.Token, url.Values{"username": {fmt.Sprint("new", made)}, "password": {pw}, "password2": {pw}})
		},
		"link for a password": func(pw string) answer { return r.browser().post(r.recoveryLink(alice.UserID), twice(pw)) },
		"account page": func(pw string) answer {
			set := policy.MinPassword
			policy.MinPassword = 0 // for the old one
			defer func() { policy.MinPassword = set }()
			if err := r.svc.SetPassword(ctx, "alice", "correct horse alice", "", true); err != nil {
				t.Fatal(err)
			}
			b := r.browser()
			b.password("alice").to(t)
			policy.MinPassword = set
			return b.post("/account/password", url.Values{"current": {"correct horse alice"}, "password": {pw}, "password2": {pw}})
		},
	}
	for _, c := range []struct{ set, least int }{{0, 8}, {3, 8}, {8, 8}, {14, 14}, {999, 64}} {
		policy.MinPassword = c.set
		for where, set := range places {
			var weak *identity.WeakPassword
			if err := set(chars(c.least - 1)); !errors.As(err, &weak) || weak.Least != c.least || !strings.Contains(weak.Text(), fmt.Sprint(c.least, " characters")) {
				t.Errorf("%d, %s: one character less: %v", c.set, where, err)
			}
			if err := set(chars(c.least)); err != nil {
				t.Errorf("%d, %s: %v", c.set, where, err)
			}
			if err := set(strings.Repeat("zu lang ", 65)); !errors.As(err, &weak) || weak.Least != 0 || !strings.Contains(weak.Text(), "too long") {
				t.Errorf("%d, %s: too long: %v", c.set, where, err)
			}
		}
		for where, set := range pages {
			if p := set(chars(c.least - 1)); p.StatusCode != http.StatusBadRequest || !strings.Contains(p.body, fmt.Sprintf("at least %d characters", c.least)) || strings.Count(p.body, fmt.Sprintf(`minlength="%d"`, c.least)) != 2 {
				t.Errorf("%d, %s: one character less: %d", c.set, where, p.StatusCode)
			}
			if p := set(chars(c.least)); p.StatusCode != http.StatusOK {
				t.Errorf("%d, %s: %d %s", c.set, where, p.StatusCode, p.body)
			}
		}
	}
	// Who has a shorter one from before signs in.
	policy.MinPassword = 8
	if err := r.svc.SetPassword(ctx, "alice", chars(8), "", true); err != nil {
		t.Fatal(err)
	}
	policy.MinPassword = 20
	if _, err := r.svc.VerifyPassword(ctx, "alice", chars(8), "192.0.2.9"); err != nil {
		t.Error(err)
	}
}

// A browser stays signed in as long as was decided, and less where nobody uses it; what is
// older when that gets shorter ends at once, with what it signed in to.
func TestSessionLifetimes(t *testing.T) {
	r, policy := ruled(t)
	r.user("alice")
	in := func() *browser {
		b := r.browser()
		b.password("alice").to(t)
		return b
	}
	b := in()
	r.wait(30*24*time.Hour - time.Minute)
	if !b.signedIn() {
		t.Fatal("out before its time")
	}
	if r.wait(2 * time.Minute); b.signedIn() {
		t.Fatal("still in after 30 days")
	}

	policy.Sessions = identity.Lifetimes{Most: 8 * time.Hour, Idle: 30 * time.Minute}
	b = r.browser()
	for _, c := range b.password("alice").Cookies() {
		if c.Name == "__Host-hf_session" && c.MaxAge != 8*60*60 {
			t.Errorf("the cookie lasts %d s", c.MaxAge)
		}
	}
	id := r.client(nil)
	began := r.now()
	poll := func(b *browser) int {
		req, _ := http.NewRequest("GET", origin+"/account", nil)
		req.Header.Set("Holdfast-Background", "1")
		return b.do(req).StatusCode
	}
	for range 4 {
		if r.wait(25 * time.Minute); !b.signedIn() {
			t.Fatal("out although it is used")
		}
	}
	// Use does not make a sign-in younger: applications are told the truth about it.
	v := authParams(id, "scope", "openid", "max_age", "7200")
	claims := claimsOf(t, b.api("/oauth2/token", exchangeForm(id, b.code("alice", v))).json(t)["id_token"])
	if at := int64(claims["auth_time"].(float64)); at < began.Unix()-1 || at > began.Unix()+1 {
		t.Errorf("auth_time is %d s after the sign-in", at-began.Unix())
	}
	v.Set("max_age", "3600")
	if p := b.get(b.get("/oauth2/authorize?" + v.Encode()).to(t).String()); p.StatusCode != http.StatusOK || !strings.Contains(p.body, `name="password"`) {
		t.Errorf("a sign-in older than max_age: %d", p.StatusCode)
	}
	// What a page asks by itself is no use.
	r.wait(20 * time.Minute)
	if st := poll(b); st != http.StatusOK {
		t.Fatal(st)
	}
	if r.wait(11 * time.Minute); poll(b) == http.StatusOK || b.signedIn() {
		t.Fatal("in after half an hour without use")
	}
	v.Set("prompt", "none")
	if u := b.get("/oauth2/authorize?" + v.Encode()).to(t); u.Query().Get("error") != "login_required" {
		t.Errorf("prompt=none leads to %s", u)
	}
	b = in()
	for range 24 {
		r.wait(20*time.Minute - time.Second)
		if !b.signedIn() {
			t.Fatal("out although it is used")
		}
	}
	if r.wait(time.Minute); b.signedIn() {
		t.Fatal("in after eight hours of use")
	}

	// It gets shorter while people are signed in.
	policy.Sessions = identity.Lifetimes{}
	old, young := in(), r.browser()
	r.wait(2 * time.Hour)
	young.password("alice").to(t)
	oldCode := old.code("alice", authParams(id, "scope", "openid"))
	youngCode := young.code("alice", authParams(id, "scope", "openid"))
	policy.Sessions = identity.Lifetimes{Most: time.Hour}
	if old.signedIn() || !young.signedIn() {
		t.Errorf("the old browser is in: %v, the young one: %v", old.signedIn(), young.signedIn())
	}
	if a := old.api("/oauth2/token", exchangeForm(id, oldCode)); a.StatusCode != http.StatusBadRequest {
		t.Errorf("a code of the old browser: %d %s", a.StatusCode, a.body)
	}
	if a := young.api("/oauth2/token", exchangeForm(id, youngCode)); a.StatusCode != http.StatusOK {
		t.Errorf("a code of the young browser: %d %s", a.StatusCode, a.body)
	}
	rows := func() (n int) {
		t.Helper()
		if err := r.db.Read(t.Context(), func(q store.Querier) error {
			return q.QueryRow(`SELECT count(*) FROM id_browser_sessions`).Scan(&n)
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if err := r.svc.EndExpired(t.Context()); err != nil || rows() != 1 {
		t.Errorf("%v, %d rows are left", err, rows())
	}
	// Longer again does not bring it back, and settings out of bounds are brought to them.
	policy.Sessions = identity.Lifetimes{Most: time.Second, Idle: time.Second}
	if r.wait(4 * time.Minute); old.signedIn() || !young.signedIn() {
		t.Error("a lifetime below the bounds holds")
	}
	policy.Sessions = identity.Lifetimes{Most: 9999 * 24 * time.Hour}
	far := in()
	if r.wait(366 * 24 * time.Hour); far.signedIn() {
		t.Error("a lifetime above the bounds holds")
	}
}
