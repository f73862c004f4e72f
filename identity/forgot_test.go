package identity_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/identity"
	"holdfast/identity/account"
)

// post office of a test: it keeps what is sent.
type postOffice struct {
	mu     sync.Mutex
	closed bool
	fail   error
	sent   []letter
}

type letter struct{ to, subject, text string }

func (p *postOffice) Ready() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.closed
}

func (p *postOffice) Send(_ context.Context, to, subject, text string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail != nil {
		return p.fail
	}
	p.sent = append(p.sent, letter{to, subject, text})
	return nil
}

func (p *postOffice) set(closed bool, fail error) {
	p.mu.Lock()
	p.closed, p.fail = closed, fail
	p.mu.Unlock()
}

var pageLink = regexp.MustCompile(`https://\S+\?\S+`)

// last is the newest letter, and the link in it without its origin.
func (p *postOffice) last(t *testing.T, n int) (letter, string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.sent) != n {
		t.Fatalf("%d letters, want %d: %v", len(p.sent), n, p.sent)
	}
	l := p.sent[n-1]
	if strings.Contains(l.subject+l.text, "{") {
		t.Errorf("a text is not filled in: %+v", l)
	}
	return l, strings.TrimPrefix(pageLink.FindString(l.text), origin)
}

// addEmail gives a user an address.
func (r *rig) addEmail(userID, address string) {
	r.t.Helper()
	ctx := r.t.Context()
	t, err := r.svc.BeginEmail(ctx, identity.EmailRequest{Purpose: account.ProofAdd, Address: address, Secret: "s", Attempt: 1})
	if err == nil {
		_, err = r.svc.SubmitEmail(ctx, t.SID, nil, t.Token)
	}
	if err == nil {
		err = r.svc.AddEmail(ctx, userID, t.SID, "s")
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (a answer) has(t *testing.T, status int, text string) answer {
	t.Helper()
	if a.StatusCode != status || !strings.Contains(a.body, text) {
		t.Fatalf("%s %s: %d %.1500s, want %d and %q", a.Request.Method, a.Request.URL.Path, a.StatusCode, a.body, status, text)
	}
	return a
}

func linkForm(link string, more ...string) url.Values {
	u, _ := url.Parse(link)
	v := url.Values{"sid": u.Query()["sid"], "token": u.Query()["token"]}
	for i := 0; i+1 < len(more); i += 2 {
		v.Set(more[i], more[i+1])
	}
	return v
}

func TestForgottenPassword(t *testing.T) {
	post := &postOffice{}
	r := newRig(t, func(o *identity.Options) { o.Mail = post })
	u := r.user("alice")
	r.user("bob")
	r.addEmail(u.UserID, "alice@example.net")
	session, err := r.svc.StartSession(t.Context(), identity.SessionRequest{UserID: u.UserID})
	if err != nil {
		t.Fatal(err)
	}
	b := r.browser()

	// The link is there only where mail is.
	const ask = "/login/forgot"
	if !strings.Contains(b.get("/login").body, `href="/login/forgot"`) {
		t.Error("the login page has no link")
	}
	post.set(true, nil)
	if strings.Contains(b.get("/login").body, ask) {
		t.Error("the login page promises mail that nobody sends")
	}
	b.get(ask).has(t, 404, "cannot send e-mail")
	b.post(ask, url.Values{"email": {"alice@example.net"}}).has(t, 404, "cannot send e-mail")
	post.set(false, nil)

	b.get(ask).has(t, 200, `name="email"`)
	b.post(ask, url.Values{"email": {"no address"}}).has(t, 400, "This is not an e-mail address")
	req, _ := http.NewRequest("POST", origin+ask, strings.NewReader("email=alice%40example.net"))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	b.do(req).has(t, 403, "")

	known := b.post(ask, url.Values{"email": {" Alice@Example.net "}}).has(t, 200, "alice@example.net")
	l, link := post.last(t, 1)
	if l.to != "alice@example.net" || !strings.Contains(l.text, "@alice:example.org") || !strings.HasPrefix(link, "/login/forgot/new?") {
		t.Errorf("%+v", l)
	}
	// Nobody learns from the page whether an address is known; its owner does from the mail.
	unknown := b.post(ask, url.Values{"email": {"nobody@example.net"}}).has(t, 200, "nobody@example.net")
	if strings.ReplaceAll(unknown.body, "nobody@", "alice@") != known.body {
		t.Error("the answers differ")
	}
	if l, link := post.last(t, 2); link != "" || !strings.Contains(l.subject, "No account") {
		t.Errorf("%+v", l)
	}

	// The page of the link, opened in another browser, changes nothing by itself.
	other := r.browser()
	other.get(link).has(t, 200, "@alice:example.org")
	other.get(link).has(t, 200, "@alice:example.org")
	if a := other.get(link); strings.Contains(a.Header.Get("Referrer-Policy"), "unsafe") || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", a.Header)
	}
	const put = "/login/forgot/new"
	other.post(put, linkForm(link, "password", "another password", "password2", "yet another")).has(t, 400, "differ")
	other.post(put, linkForm(link, "password", "short", "password2", "short")).has(t, 400, "at least 8")
	other.post(put, linkForm(link+"x", "password", "another password", "password2", "another password")).has(t, 410, "not valid any more")
	other.post(put, linkForm(link, "password", "another password", "password2", "another password", "end_others", "1")).has(t, 200, "Sign in as @alice:example.org")
	other.get(link).has(t, 410, "not valid any more")
	other.post(put, linkForm(link, "password", "a third password", "password2", "a third password")).has(t, 410, "not valid any more")
	if _, err := r.svc.VerifyPassword(t.Context(), u.UserID, "another password", "x"); err != nil {
		t.Error(err)
	}
	if _, err := r.svc.VerifyPassword(t.Context(), u.UserID, "correct horse alice", "x"); !errors.Is(err, identity.ErrWrongPassword) {
		t.Errorf("the old password: %v", err)
	}
	if _, err := r.svc.Lookup(t.Context(), session.Access); !errors.Is(err, identity.ErrUnknownToken) {
		t.Errorf("the sessions of before: %v", err)
	}

	// A link of this kind is of no use at the API, nor one of the API here.
	b.post(ask, url.Values{"email": {"alice@example.net"}}).has(t, 200, "")
	_, link = post.last(t, 3)
	v := linkForm(link)
	if p, err := r.svc.SubmitEmail(t.Context(), v.Get("sid"), nil, v.Get("token")); err == nil {
		if _, err := r.svc.UseEmail(t.Context(), account.ProofPassword, p.SID, ""); !errors.Is(err, identity.ErrEmailProof) {
			t.Errorf("used for another purpose: %v", err)
		}
	}
	api, err := r.svc.BeginEmail(t.Context(), identity.EmailRequest{Purpose: account.ProofPassword, Address: "alice@example.net", Secret: "s", Attempt: 1})
	if err != nil {
		t.Fatal(err)
	}
	b.get(put+"?"+url.Values{"sid": {api.SID}, "token": {api.Token}}.Encode()).has(t, 410, "")
	b.post(put, url.Values{"sid": {api.SID}, "token": {api.Token}, "password": {"another password"}, "password2": {"another password"}}).has(t, 410, "")

	// The address changes hands, the account is locked, time passes: the link is worth nothing.
	if err := r.svc.RemoveEmail(t.Context(), u.UserID, "alice@example.net"); err != nil {
		t.Fatal(err)
	}
	b.get(link).has(t, 410, "")
	r.addEmail("@bob:example.org", "alice@example.net")
	b.get(link).has(t, 410, "")
	r.wait(2 * time.Hour)
	b.post(ask, url.Values{"email": {"alice@example.net"}}).has(t, 200, "")
	_, link = post.last(t, 4)
	b.get(link).has(t, 200, "@bob:example.org")
	if err := r.svc.SetDisabled(t.Context(), "@bob:example.org", true); err != nil {
		t.Fatal(err)
	}
	b.get(link).has(t, 410, "")
	b.post(ask, url.Values{"email": {"alice@example.net"}}).has(t, 200, "")
	if l, link := post.last(t, 5); link != "" || !strings.Contains(l.subject, "No account") {
		t.Errorf("of a locked account: %+v", l)
	}
	if err := r.svc.SetDisabled(t.Context(), "@bob:example.org", false); err != nil {
		t.Fatal(err)
	}
	b.get(link).has(t, 200, "@bob:example.org")
	r.wait(4*time.Hour + time.Minute)
	b.get(link).has(t, 410, "")
}

func TestForgottenPasswordIsSlowedDown(t *testing.T) {
	post := &postOffice{}
	r := newRig(t, func(o *identity.Options) { o.Mail = post })
	r.addEmail(r.user("alice").UserID, "alice@example.net")
	b := r.browser()
	for range 5 {
		b.post("/login/forgot", url.Values{"email": {"alice@example.net"}}).has(t, 200, "")
	}
	b.post("/login/forgot", url.Values{"email": {"alice@example.net"}}).has(t, 429, "Too many messages")
	post.last(t, 5)
	post.set(false, errors.New("the post office burns"))
	b.post("/login/forgot", url.Values{"email": {"carol@example.net"}}).has(t, 502, "could not be sent")
	post.set(false, nil)
	b.post("/login/forgot", url.Values{"email": {"carol@example.net"}}).has(t, 200, "")
	// Many addresses from one place.
	for i := 0; ; i++ {
		a := b.post("/login/forgot", url.Values{"email": {strings.Repeat("x", i+1) + "@example.net"}})
		if a.StatusCode == 429 {
			break
		}
		if a.has(t, 200, ""); i > 60 {
			t.Fatal("one place sends as many mails as it likes")
		}
	}
	elsewhere := r.browser()
	elsewhere.addr = "192.0.2.9:1"
	elsewhere.post("/login/forgot", url.Values{"email": {"carol@example.net"}}).has(t, 200, "")
}

func TestAccountPageEmails(t *testing.T) {
	post := &postOffice{}
	r := newRig(t, func(o *identity.Options) { o.Mail = post })
	u, mallory := r.user("alice"), r.user("mallory")
	b, m := r.browser(), r.browser()
	b.post("/login", url.Values{"username": {"alice"}, "password": {"correct horse alice"}}).to(t)
	m.post("/login", url.Values{"username": {"mallory"}, "password": {"correct horse mallory"}}).to(t)
	b.get("/account").has(t, 200, "With an address you can set a new password")
	b.post("/account/email", url.Values{"email": {"x"}}).has(t, 400, "This is not an e-mail address")
	b.post("/account/email", url.Values{"email": {"alice@example.net"}}).has(t, 200, "on its way to alice@example.net")
	_, link := post.last(t, 1)
	if !strings.HasPrefix(link, "/account/email?") {
		t.Fatal(link)
	}
	// Somebody else who gets hold of the link, or is talked into opening it, cannot use it.
	m.get(link).has(t, 200, "@mallory:example.org")
	m.post("/account/email/confirm", linkForm(link)).has(t, 410, "belongs to another account")
	r.browser().get(link).has(t, 303, "/login?next=")
	b.get(link).has(t, 200, "alice@example.net")
	b.post("/account/email/confirm", linkForm(link)).has(t, 200, "The address was added")
	b.post("/account/email/confirm", linkForm(link)).has(t, 410, "")
	// With the address one signs in like with the name.
	third := r.browser()
	third.get("/login").has(t, 200, "User name or e-mail address")
	if to := third.post("/login", url.Values{"username": {" ALICE@example.net"}, "password": {"correct horse alice"}}).to(t); to.Path != "/account" {
		t.Errorf("%s", to)
	}
	third.get("/account").has(t, 200, "@alice:example.org")
	r.browser().post("/login", url.Values{"username": {"alice@example.net"}, "password": {"wrong"}}).has(t, 401, "is wrong")
	r.browser().post("/login", url.Values{"username": {"nobody@example.net"}, "password": {"wrong"}}).has(t, 401, "is wrong")
	if list, err := r.svc.Emails(t.Context(), u.UserID); err != nil || len(list) != 1 || list[0].Address != "alice@example.net" {
		t.Errorf("%v %v", list, err)
	}
	m.post("/account/email", url.Values{"email": {"alice@example.net"}}).has(t, 409, "belongs to an account already")
	m.post("/account/email/remove", url.Values{"email": {"alice@example.net"}}).has(t, 200, "")
	if list, _ := r.svc.Emails(t.Context(), u.UserID); len(list) != 1 {
		t.Error("somebody else removed it")
	}
	if list, _ := r.svc.Emails(t.Context(), mallory.UserID); len(list) != 0 {
		t.Error(list)
	}
	// Who is suspended may add addresses and remove none.
	if err := r.svc.SetSuspended(t.Context(), u.UserID, true); err != nil {
		t.Fatal(err)
	}
	b.post("/account/email/remove", url.Values{"email": {"alice@example.net"}}).has(t, 403, "suspended")
	b.post("/account/email", url.Values{"email": {"more@example.net"}}).has(t, 200, "on its way")
	if err := r.svc.SetSuspended(t.Context(), u.UserID, false); err != nil {
		t.Fatal(err)
	}
	// A sign-in of some time ago does not do for what can set the password.
	r.wait(6 * time.Minute)
	if to := b.post("/account/email/remove", url.Values{"email": {"alice@example.net"}}).to(t); to.Path != "/reauth" {
		t.Error(to)
	}
	if to := b.post("/account/email", url.Values{"email": {"more@example.net"}}).to(t); to.Path != "/reauth" {
		t.Error(to)
	}
	b.post("/login", url.Values{"username": {"alice"}, "password": {"correct horse alice"}}).to(t)
	b.post("/account/email/remove", url.Values{"email": {"alice@example.net"}}).has(t, 200, "was removed")
	if list, _ := r.svc.Emails(t.Context(), u.UserID); len(list) != 0 {
		t.Error(list)
	}
	post.set(true, nil)
	if strings.Contains(b.get("/account").body, `action="/account/email"`) {
		t.Error("addresses can be added without mail")
	}
}
