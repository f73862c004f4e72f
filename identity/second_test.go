package identity_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/identity"
)

// digitsAt is what an authenticator app shows: RFC 6238, worked out here a second time.
func digitsAt(t *testing.T, secret string, at time.Time) string {
	t.Helper()
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
	if err != nil {
		t.Fatal(err)
	}
	h := hmac.New(sha1.New, key)
	binary.Write(h, binary.BigEndian, uint64(at.Unix()/30))
	sum := h.Sum(nil)
	o := sum[19] & 15
	return fmt.Sprintf("%06d", (binary.BigEndian.Uint32(sum[o:])&0x7fffffff)%1000000)
}

// digits are those of now.
func (r *rig) digits(secret string) string { return digitsAt(r.t, secret, r.now()) }

// wrongDigits are none of those around now.
func (r *rig) wrongDigits(secret string) string {
	for i := range 1_000_000 {
		d := fmt.Sprintf("%06d", i)
		if !slices.ContainsFunc([]time.Duration{-60, -30, 0, 30, 60}, func(off time.Duration) bool { return digitsAt(r.t, secret, r.now().Add(off*time.Second)) == d }) {
			return d
		}
	}
	panic("all are right")
}

var (
	secretIn = regexp.MustCompile(`<code id="secret">([A-Z2-7 ]+)</code>`)
	setupIn  = regexp.MustCompile(`name="setup" value="([^"]+)"`)
	codeIn   = regexp.MustCompile(`<li><code>([0-9A-Z-]+)</code></li>`)
)

// enrolApp adds an authenticator app to the account that is signed in.
func (b *browser) enrolApp() (secret string, codes []string) {
	t := b.r.t
	t.Helper()
	page := b.get("/account/security/app")
	m, form := secretIn.FindStringSubmatch(page.body), setupIn.FindStringSubmatch(page.body)
	if m == nil || form == nil {
		t.Fatalf("%d %.2000s", page.StatusCode, page.body)
	}
	secret = strings.ReplaceAll(m[1], " ", "")
	done := b.post("/account/security/app", url.Values{"setup": {form[1]}, "code": {b.r.digits(secret)}})
	for _, c := range codeIn.FindAllStringSubmatch(done.body, -1) {
		codes = append(codes, c[1])
	}
	if done.StatusCode != http.StatusOK || len(codes) != 10 {
		t.Fatalf("%d %.2000s", done.StatusCode, done.body)
	}
	return secret, codes
}

func (b *browser) password(user string) answer {
	return b.post("/login", url.Values{"username": {user}, "password": {"correct horse " + user}})
}

// The whole way: an application's sign-in asks for the second factor, and the ID token
// says truthfully how somebody signed in (RFC 8176, OpenID Connect Core 2).
func TestSecondFactor(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	a, secret := r.app(nil)
	b := r.browser()
	first := claimsOf(t, b.withSecret("/oauth2/token", a.ID, secret, tradeForm(b.code("alice", appParams(a.ID)))).json(t)["id_token"])
	if fmt.Sprint(first["amr"]) != "[pwd]" || first["acr"] != "urn:holdfast:acr:1fa" {
		t.Fatalf("by password: %v %v", first["amr"], first["acr"])
	}
	app, codes := b.enrolApp()
	// Who added the app is as signed in as who used it.
	r.wait(time.Minute)
	if s := b.get("/account/security/app"); s.StatusCode != http.StatusOK {
		t.Fatalf("after adding: %d", s.StatusCode)
	}

	n := r.browser()
	loc := n.get("/oauth2/authorize?" + appParams(a.ID).Encode()).to(t)
	loc = n.post(loc.String(), url.Values{"username": {"alice"}, "password": {"correct horse alice"}}).to(t)
	if loc.Path != "/login/totp" {
		t.Fatalf("after the password: %s", loc)
	}
	// The password alone opens nothing.
	if to := n.get("/account").to(t); to.Path != "/login" {
		t.Fatalf("the account page without the second factor: %s", to)
	}
	if p := n.get(loc.String()); p.StatusCode != http.StatusOK || strings.Count(p.body, "<h1") != 1 {
		t.Fatalf("%d %s", p.StatusCode, p.body)
	}
	if p := n.post(loc.String(), url.Values{"code": {r.wrongDigits(app)}}); p.StatusCode != http.StatusUnauthorized {
		t.Fatalf("wrong digits: %d", p.StatusCode)
	}
	at := r.now()
	loc = n.post(loc.String(), url.Values{"code": {r.digits(app)}}).to(t)
	loc = n.get(loc.String()).to(t) // on with the application's sign-in; what it may know was allowed
	code := n.get(loc.String()).to(t).Query().Get("code")
	second := claimsOf(t, n.withSecret("/oauth2/token", a.ID, secret, tradeForm(code)).json(t)["id_token"])
	if fmt.Sprint(second["amr"]) != "[pwd otp mfa]" || second["acr"] != "urn:holdfast:acr:2fa" {
		t.Fatalf("with the app: %v %v", second["amr"], second["acr"])
	}
	if sec := int64(second["auth_time"].(float64)); sec < at.Unix()-1 || sec > r.now().Unix()+1 {
		t.Fatalf("auth_time %d, signed in at %d", sec, at.Unix())
	}
	// An application can insist, and gets no less (OpenID Connect Core 5.5.1.1).
	must := `{"id_token":{"acr":{"essential":true,"values":["urn:holdfast:acr:2fa"]}}}`
	if to := n.get("/oauth2/authorize?" + appParams(a.ID, "claims", must, "prompt", "none").Encode()).to(t); to.Path != "/oauth2/authorize/callback" {
		t.Fatalf("it insists on what there is: %s", to)
	}

	// A recovery code stands in for the app, once.
	for i, want := range []int{http.StatusSeeOther, http.StatusUnauthorized} {
		x := r.browser()
		if to := x.password("alice").to(t); to.Path != "/login/totp" {
			t.Fatal(to)
		}
		if p := x.post("/login/code", url.Values{"code": {strings.ToLower(codes[0])}}); p.StatusCode != want {
			t.Fatalf("use %d of a code: %d %s", i+1, p.StatusCode, p.body)
		}
	}
}

// A step of the clock is good once: who looks over a shoulder comes too late.
func TestAttack33StepTwice(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	b := r.browser()
	b.password("alice").to(t)
	app, _ := b.enrolApp()
	r.wait(2 * time.Minute)
	seen := r.digits(app)
	owner, thief := r.browser(), r.browser()
	owner.password("alice").to(t)
	thief.password("alice").to(t)
	if to := owner.post("/login/totp", url.Values{"code": {seen}}).to(t); to.Path != "/account" {
		t.Fatal(to)
	}
	if p := thief.post("/login/totp", url.Values{"code": {seen}}); p.StatusCode != http.StatusUnauthorized {
		t.Fatalf("the same digits again: %d", p.StatusCode)
	}
	// Nor are the digits of a step before, although they were not used.
	if p := thief.post("/login/totp", url.Values{"code": {digitsAt(t, app, r.now().Add(-30*time.Second))}}); p.StatusCode != http.StatusUnauthorized {
		t.Fatalf("older digits after newer: %d", p.StatusCode)
	}
	// Passing the first factor is bound to the browser, and is over after a while.
	if to := r.browser().post("/login/totp", url.Values{"code": {digitsAt(t, app, r.now().Add(30*time.Second))}}).to(t); to.Path != "/login" {
		t.Fatalf("without the first factor: %s", to)
	}
	r.wait(11 * time.Minute)
	if to := thief.post("/login/totp", url.Values{"code": {r.digits(app)}}).to(t); to.Path != "/login" {
		t.Fatalf("long after the first factor: %s", to)
	}
}

// Whoever has the password and guesses digits waits longer and longer, from wherever
// they come; the owner, in a browser that knows them, does not.
func TestGuessedDigits(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	b := r.browser()
	b.password("alice").to(t)
	app, _ := b.enrolApp()
	status := 0
	for i := range 8 {
		thief := r.browser()
		thief.addr = fmt.Sprintf("198.51.100.%d:1", i)
		thief.password("alice").to(t)
		status = thief.post("/login/totp", url.Values{"code": {r.wrongDigits(app)}}).StatusCode
		if want := map[bool]int{true: http.StatusUnauthorized, false: http.StatusTooManyRequests}[i < 5]; status != want {
			t.Fatalf("guess %d: %d, want %d", i+1, status, want)
		}
	}
	r.wait(31 * time.Second) // the digits that added the app are used up
	for range 9 {
		thief := r.browser()
		thief.password("alice").to(t)
		thief.post("/login/totp", url.Values{"code": {r.wrongDigits(app)}})
	}
	b.post("/logout", nil)
	b.password("alice").to(t)
	if to := b.post("/login/totp", url.Values{"code": {r.digits(app)}}).to(t); to.Path != "/account" {
		t.Fatalf("the owner: %s", to)
	}
}

// Applications that only know a password do not get past the second factor.
func TestPasswordAlone(t *testing.T) {
	alone := false
	r := newRig(t, func(o *identity.Options) {
		o.Policy = func() identity.Policy { return identity.Policy{PasswordAlone: alone} }
	})
	r.user("alice")
	verify := func(password string) error {
		_, err := r.svc.VerifyPassword(t.Context(), "@alice:example.org", password, "192.0.2.9")
		return err
	}
	if err := verify("correct horse alice"); err != nil {
		t.Fatal(err)
	}
	b := r.browser()
	b.password("alice").to(t)
	b.enrolApp()
	if err := verify("correct horse alice"); !errors.Is(err, identity.ErrSecondFactor) {
		t.Fatalf("with a second factor: %v", err)
	}
	if err := verify("wrong"); !errors.Is(err, identity.ErrWrongPassword) {
		t.Fatalf("a wrong password tells of the second factor: %v", err)
	}
	alone = true
	if err := verify("correct horse alice"); err != nil {
		t.Fatalf("allowed by policy: %v", err)
	}
}

// A session that began before there was a second factor is not enough for what cannot
// be undone, and neither is an old one.
func TestStepUpAsksForTheSecondFactor(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	b, other := r.browser(), r.browser()
	b.password("alice").to(t)
	other.password("alice").to(t)
	app, _ := b.enrolApp()
	dangerous := []string{"/account/security/app/remove", "/account/security/codes", "/account/password", "/account/reset", "/account/deactivate", "/account/email"}
	for _, p := range dangerous {
		if to := other.post(p, url.Values{"password": {"a"}, "password2": {"a"}}).to(t); to.Path != "/reauth" {
			t.Fatalf("%s without the second factor: %s", p, to)
		}
	}
	to := other.post("/reauth?next=%2Faccount%2Fsecurity", url.Values{"password": {"correct horse alice"}}).to(t)
	if to.Path != "/login/totp" {
		t.Fatalf("the password once more: %s", to)
	}
	if to := other.post("/account/reset", nil).to(t); to.Path != "/reauth" {
		t.Fatalf("between the factors: %s", to)
	}
	r.wait(time.Minute)
	if to := other.post(to.String(), url.Values{"code": {r.digits(app)}}).to(t); to.String() != "/account/security" {
		t.Fatalf("after both: %s", to)
	}
	if p := other.post("/account/security/codes", nil); p.StatusCode != http.StatusOK || len(codeIn.FindAllString(p.body, -1)) != 10 {
		t.Fatalf("new codes: %d %s", p.StatusCode, p.body)
	}
	r.wait(6 * time.Minute)
	for _, p := range dangerous {
		if to := other.post(p, url.Values{"password": {"a"}, "password2": {"a"}}).to(t); to.Path != "/reauth" {
			t.Fatalf("%s later: %s", p, to)
		}
	}
}

func TestSecurityPage(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	b := r.browser()
	b.password("alice").to(t)
	if p := b.get("/account/security"); !strings.Contains(p.body, "password alone") {
		t.Fatalf("%s", p.body)
	}
	if p := b.post("/account/security/codes", nil); p.StatusCode != http.StatusConflict {
		t.Fatalf("codes without a factor: %d", p.StatusCode)
	}
	// Somebody else's form adds no app here, nor does one that was made up.
	eve := r.browser()
	r.user("eve")
	eve.password("eve").to(t)
	form := setupIn.FindStringSubmatch(eve.get("/account/security/app").body)[1]
	for _, f := range []string{form, "x", ""} {
		if p := b.post("/account/security/app", url.Values{"setup": {f}, "code": {"123456"}}); p.StatusCode != http.StatusBadRequest {
			t.Fatalf("%q: %d", f, p.StatusCode)
		}
	}
	app, codes := b.enrolApp()
	file := b.post("/account/security/codes/file", url.Values{"codes": {strings.Join(codes, " ")}})
	if file.StatusCode != http.StatusOK || !strings.HasPrefix(file.Header.Get("Content-Disposition"), "attachment") || !strings.Contains(file.body, codes[9]+"\r\n") || !strings.Contains(file.body, "@alice:example.org") {
		t.Fatalf("%d %s", file.StatusCode, file.body)
	}
	if p := b.post("/account/security/codes/file", url.Values{"codes": {"<script> x"}}); p.StatusCode != http.StatusBadRequest {
		t.Fatalf("%d", p.StatusCode)
	}
	for _, c := range codes[:7] {
		n := r.browser()
		n.password("alice").to(t)
		n.post("/login/code", url.Values{"code": {c}}).to(t)
	}
	if p := b.get("/account/security"); !strings.Contains(p.body, "used: 3") || !strings.Contains(p.body, "before they run out") {
		t.Fatalf("no warning that few are left: %s", p.body)
	}
	if p := b.post("/account/security/app/remove", nil); p.StatusCode != http.StatusOK {
		t.Fatalf("%d", p.StatusCode)
	}
	n := r.browser()
	if to := n.password("alice").to(t); to.Path != "/account" {
		t.Fatalf("after the app was removed: %s", to)
	}
	if p := n.post("/login/totp", url.Values{"code": {r.digits(app)}}).to(t); p.Path != "/login" {
		t.Fatal(p)
	}
}

// Passwords that are tried first are not taken, wherever people choose one, and the page
// says why; what an administrator sets is theirs to decide.
func TestCommonPasswords(t *testing.T) {
	r := newRig(t, func(o *identity.Options) { o.Organisation = func() string { return "Stadtwerke Nord" } })
	r.user("alice")
	b := r.browser()
	b.password("alice").to(t)
	inv, err := r.svc.CreateInvite(t.Context(), identity.NewInvite{Uses: 9})
	if err != nil {
		t.Fatal(err)
	}
	for bad, says := range map[string]string{"Password1!": "tried first", "xyzxyzxyzxyz": "row of keys", "stadtwerkenord1": "name that others know", "short": "at least 8"} {
		if p := b.post("/account/password", url.Values{"current": {"correct horse alice"}, "password": {bad}, "password2": {bad}}); p.StatusCode != http.StatusBadRequest || !strings.Contains(p.body, says) {
			t.Errorf("%q on the account page: %d", bad, p.StatusCode)
		}
		if p := r.browser().post("/e/"+inv.Token, url.Values{"username": {"carol"}, "password": {bad}, "password2": {bad}}); p.StatusCode != http.StatusBadRequest || !strings.Contains(p.body, says) {
			t.Errorf("%q with an invite: %d", bad, p.StatusCode)
		}
		var weak *identity.WeakPassword
		if err := r.svc.ChangePassword(t.Context(), "@alice:example.org", bad, "", true); !errors.As(err, &weak) || !errors.Is(err, identity.ErrWeakPassword) {
			t.Errorf("%q at the API: %v", bad, err)
		}
	}
	if p := r.browser().post("/e/"+inv.Token, url.Values{"username": {"carol"}, "display_name": {"Carol Winterstein"}, "password": {"winterstein77"}, "password2": {"winterstein77"}}); p.StatusCode != http.StatusBadRequest || !strings.Contains(p.body, "name that others know") {
		t.Errorf("one's own name: %d", p.StatusCode)
	}
	if err := r.svc.SetPassword(t.Context(), "@alice:example.org", "password", "", true); err != nil {
		t.Errorf("an administrator's choice: %v", err)
	}
}

// From however many addresses somebody tries an account, its owner gets in with a browser
// that they used before (attack 32).
func TestOwnerSignsInDuringAnAttack(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	owner := r.browser()
	owner.password("alice").to(t)
	owner.post("/logout", nil)
	status := 0
	for i := range 110 {
		thief := r.browser()
		thief.addr = fmt.Sprintf("198.51.%d.%d:1", i/200, i%200+1)
		status = thief.post("/login", url.Values{"username": {"alice"}, "password": {"wrong"}}).StatusCode
	}
	if status != http.StatusTooManyRequests {
		t.Fatalf("a guess from a hundredth address: %d", status)
	}
	// Also from the owner's own network.
	for range 9 {
		r.browser().post("/login", url.Values{"username": {"alice"}, "password": {"wrong"}})
	}
	if p := r.browser().password("alice"); p.StatusCode != http.StatusTooManyRequests {
		t.Fatalf("a browser that nobody knows: %d", p.StatusCode)
	}
	if to := owner.password("alice").to(t); to.Path != "/account" {
		t.Fatal(to)
	}
	// The cookie opens nothing, and is of no use for another account.
	r.user("bob")
	for range 6 {
		status = owner.post("/login", url.Values{"username": {"bob"}, "password": {"wrong"}}).StatusCode
	}
	if status != http.StatusTooManyRequests {
		t.Fatalf("guesses at another account: %d", status)
	}
	// It has guesses of its own, too.
	owner.post("/logout", nil)
	for range 6 {
		status = owner.post("/login", url.Values{"username": {"alice"}, "password": {"wrong"}}).StatusCode
	}
	if status != http.StatusTooManyRequests {
		t.Fatalf("guesses in the owner's browser: %d", status)
	}
	// It never lasts: everywhere together a minute, an address a quarter of an hour.
	r.wait(16 * time.Minute)
	if to := r.browser().password("alice").to(t); to.Path != "/account" {
		t.Fatal(to)
	}
}
