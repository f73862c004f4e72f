package identity_test

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/identity"
)

const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// deviceClient registers an application that may sign devices in.
func (r *rig) deviceClient() string {
	return r.client(func(m map[string]any) {
		m["grant_types"] = []string{"authorization_code", "refresh_token", deviceGrant}
	})
}

// waitingDevice is a device that shows a code.
type waitingDevice struct {
	r                      *rig
	client, code, userCode string
	link                   string // with the code
}

func (r *rig) ask(client, scope string) answer {
	return r.browser().api("/oauth2/device", url.Values{"client_id": {client}, "scope": {scope}})
}

func (r *rig) waitingDevice(client string) *waitingDevice {
	r.t.Helper()
	a := r.ask(client, matrixScope)
	m := a.json(r.t)
	if a.StatusCode != 200 || m["verification_uri"] != origin+"/link" || m["expires_in"] != 900.0 || m["interval"] != 5.0 || a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("Access-Control-Allow-Origin") != "*" {
		r.t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	d := &waitingDevice{r: r, client: client, code: m["device_code"].(string), userCode: m["user_code"].(string)}
	d.link = strings.TrimPrefix(m["verification_uri_complete"].(string), origin)
	if d.link != "/link?user_code="+d.userCode || len(d.userCode) != 9 || len(d.code) < 40 {
		r.t.Fatalf("%s", a.body)
	}
	return d
}

func (d *waitingDevice) poll(kv ...string) answer {
	v := url.Values{"grant_type": {deviceGrant}, "client_id": {d.client}, "device_code": {d.code}}
	for i := 0; i < len(kv); i += 2 {
		v.Set(kv[i], kv[i+1])
	}
	return d.r.browser().api("/oauth2/token", v)
}

// enter signs somebody in at the pages, with their next page.
func (b *browser) enter(user, next string) string {
	b.r.t.Helper()
	return b.post("/login?"+url.Values{"next": {next}}.Encode(), url.Values{"username": {user}, "password": {"correct horse " + user}}).to(b.r.t).String()
}

// answer says something to what waits under the link.
func (d *waitingDevice) answer(b *browser, said string) answer {
	return b.post("/link", url.Values{"user_code": {d.userCode}, "answer": {said}})
}

func TestDeviceGrant(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c := r.deviceClient()
	d := r.waitingDevice(c)
	r.wantError(d.poll(), 400, "authorization_pending")
	b := r.browser()
	// The link leads through the sign-in and back.
	at := b.get(d.link).to(t)
	if at.Path != "/login" {
		t.Fatal(at)
	}
	if at = b.post(at.String(), url.Values{"username": {"alice"}, "password": {"correct horse alice"}}).to(t); at.String() != d.link {
		t.Fatalf("after the sign-in: %s", at)
	}
	page := b.get(at.String())
	for _, want := range []string{"Test App", "client.test", "@alice:example.org", d.userCode, "192.0.2.1", "ABCDEFGHIJ"} {
		if page.StatusCode != 200 || !strings.Contains(page.body, want) {
			t.Errorf("%d, the page does not show %s", page.StatusCode, want)
		}
	}
	r.wait(5 * time.Second)
	r.wantError(d.poll(), 400, "authorization_pending") // looking decides nothing
	if a := d.answer(b, "yes"); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	a := d.poll() // who has an answer gets it, also early
	tk := r.tokens(a)
	if m := a.json(t); m["scope"] != matrixScope || m["expires_in"] != 300.0 || m["token_type"] != "Bearer" || m["id_token"] != nil || a.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s", a.body)
	}
	p, err := r.svc.Lookup(t.Context(), tk.access)
	if err != nil || p.UserID != "@alice:example.org" || p.DeviceID != "ABCDEFGHIJ" || p.ClientID != c || !r.devices.has(p.UserID, p.DeviceID) {
		t.Fatalf("%+v %v", p, err)
	}
	// It is a session like any other.
	tk = r.tokens(r.refresh(c, tk.refresh))
	if a := b.get("/account"); !strings.Contains(a.body, "ABCDEFGHIJ") {
		t.Error("the account page does not list it")
	}
	if a := d.answer(b, "no"); a.StatusCode != 404 {
		t.Errorf("decided twice: %d", a.StatusCode)
	}
	// 22: the code again is refused, and ends what it made.
	r.wantError(d.poll(), 400, "access_denied")
	if r.alive(tk.access) || r.devices.has(p.UserID, p.DeviceID) {
		t.Error("a device code was used twice and its session goes on")
	}
	r.wantError(d.poll(), 400, "access_denied")
}

// Clients of matrix-rust-sdk ask in the unstable spelling, others for an ID token.
func TestDeviceGrantScopes(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("alice")
	c := r.deviceClient()
	b := r.browser()
	b.enter("alice", "/account")
	const scope = "openid urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:org.matrix.msc2967.client:device:ZYX"
	m := r.ask(c, scope).json(t)
	d := &waitingDevice{r: r, client: c, code: m["device_code"].(string), userCode: m["user_code"].(string)}
	d.answer(b, "yes")
	a := d.poll()
	m = a.json(t)
	id, _ := m["id_token"].(string)
	if m["scope"] != scope || strings.Count(id, ".") != 2 {
		t.Fatalf("%s", a.body)
	}
	if p, err := r.svc.Lookup(t.Context(), r.tokens(a).access); err != nil || p.DeviceID != "ZYX" || p.ID != u.ID {
		t.Errorf("%+v %v", p, err)
	}
	// Without the Matrix API there is no device and no refresh token.
	m = r.ask(c, "openid profile").json(t)
	d = &waitingDevice{r: r, client: c, code: m["device_code"].(string), userCode: m["user_code"].(string)}
	d.answer(b, "yes")
	if m = d.poll().json(t); m["refresh_token"] != nil || m["access_token"] == nil {
		t.Errorf("%v", m)
	}
}

// 23: a device that asks too often has to wait longer each time.
func TestDevicePolling(t *testing.T) {
	r := newRig(t, nil)
	d := r.waitingDevice(r.deviceClient())
	r.wantError(d.poll(), 400, "authorization_pending")
	r.wait(time.Second)
	r.wantError(d.poll(), 400, "slow_down") // 10 s from now on
	r.wait(5 * time.Second)
	r.wantError(d.poll(), 400, "slow_down") // 15 s
	r.wait(15 * time.Second)
	r.wantError(d.poll(), 400, "authorization_pending")
	r.wait(15 * time.Second)
	r.wantError(d.poll(), 400, "authorization_pending")
	r.wait(15 * time.Minute)
	r.wantError(d.poll(), 400, "expired_token")
	r.wait(2 * time.Hour)
	if err := r.svc.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.wantError(d.poll(), 400, "invalid_grant")
}

func TestDeviceDeclined(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	d := r.waitingDevice(r.deviceClient())
	b := r.browser()
	b.enter("alice", "/account")
	if a := d.answer(b, "no"); a.StatusCode != 200 {
		t.Fatal(a.StatusCode)
	}
	for range 2 {
		r.wantError(d.poll(), 400, "access_denied")
	}
	if a := d.answer(b, "yes"); a.StatusCode != 404 {
		t.Errorf("agreed after declining: %d", a.StatusCode)
	}
	r.wantError(d.poll(), 400, "access_denied")
}

// Of questions that come together when the person has agreed, one gets a session; the
// others end it: the device has to begin again, and nobody has a session unseen.
func TestDeviceParallel(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	d := r.waitingDevice(r.deviceClient())
	b := r.browser()
	b.enter("alice", "/account")
	d.answer(b, "yes")
	answers := make([]answer, 8)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() { answers[i] = d.poll() })
	}
	all.Wait()
	won := slices.DeleteFunc(answers, func(a answer) bool { return a.StatusCode != 200 })
	if len(won) != 1 {
		t.Fatalf("%d answers have tokens", len(won))
	}
	if r.alive(r.tokens(won[0]).access) {
		t.Error("a code that was used twice left a session")
	}
}

func TestDeviceRefusals(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	c, plain := r.deviceClient(), r.client(nil)
	r.wantError(r.ask("nobody", matrixScope), 401, "invalid_client")
	r.wantError(r.ask(plain, matrixScope), 400, "unauthorized_client")
	for _, scope := range []string{"", "urn:synapse:admin:*", matrixScope + " urn:matrix:client:device:TWO", "urn:matrix:client:api:*",
		"urn:matrix:client:api:* urn:matrix:org.matrix.msc2967.client:device:AB"} {
		r.wantError(r.ask(c, scope), 400, "invalid_scope")
	}
	r.wantError(r.browser().api("/oauth2/device?client_id="+c, url.Values{"scope": {matrixScope}}), 400, "invalid_request")
	r.wantError(r.browser().get("/oauth2/device"), 405, "invalid_request")
	r.wantError(r.browser().postJSON("/oauth2/device", map[string]string{"client_id": c}), 400, "invalid_request")
	r.wantError(r.ask(c, strings.Repeat("x", 20<<10)), 400, "invalid_request")
	d := r.waitingDevice(c)
	r.wantError(d.poll("device_code", ""), 400, "invalid_request")
	r.wantError(d.poll("device_code", "hdc_other"), 400, "invalid_grant")
	r.wantError(d.poll("device_code", d.userCode), 400, "invalid_grant")
	r.wantError(d.poll("client_id", plain), 400, "unauthorized_client")
	r.wantError(d.poll("client_id", r.client(func(m map[string]any) {
		m["client_name"], m["grant_types"] = "Other", []string{deviceGrant}
		delete(m, "redirect_uris")
	})), 400, "invalid_grant")
	// The pages belong to us: no other site can have somebody agree.
	b := r.browser()
	b.enter("alice", "/account")
	req, _ := http.NewRequest("POST", origin+"/link", strings.NewReader(url.Values{"user_code": {d.userCode}, "answer": {"yes"}}.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	if a := b.do(req); a.StatusCode != 403 {
		t.Errorf("cross-site: %d", a.StatusCode)
	}
	if a := b.get(d.link); a.Header.Get("X-Frame-Options") != "DENY" {
		t.Error("the page may be framed")
	}
	r.wantError(d.poll(), 400, "authorization_pending")
	// Nobody signed in cannot agree, nor somebody who signed in a while ago.
	if to := d.answer(r.browser(), "yes").to(t); to.Path != "/login" {
		t.Error(to)
	}
	r.wait(6 * time.Minute)
	if to := d.answer(b, "yes").to(t); to.Path != "/reauth" || to.Query().Get("next") != d.link {
		t.Error(to)
	}
	if to := b.get(d.link).to(t); to.Path != "/reauth" {
		t.Error(to)
	}
	r.wantError(d.poll(), 400, "authorization_pending")
	// An application for devices only gets no browser sent to it.
	only := r.client(func(m map[string]any) { m["grant_types"] = []string{deviceGrant}; m["redirect_uris"] = []string{} })
	if a := b.get("/oauth2/authorize?" + authParams(only).Encode()); a.StatusCode != 400 {
		t.Errorf("authorize: %d", a.StatusCode)
	}
}

// What people type is read kindly, and guessing is slow.
func TestUserCode(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	r.user("bob")
	c := r.deviceClient()
	d := r.waitingDevice(c)
	b := r.browser()
	b.enter("alice", "/account")
	typed := strings.ToLower(strings.ReplaceAll(d.userCode, "-", " "))
	if to := b.post("/link", url.Values{"user_code": {typed}}).to(t); b.get(to.String()).StatusCode != 200 {
		t.Fatal("the code in small letters is not known")
	}
	for i, wrong := range []string{"BCDF-GHJK", "", "AEIO-UYYY", strings.Repeat("B", 65), "B", "BBBB-BBBB-B", "ΒΒΒΒ-ΒΒΒΒ", "BBBBBBBB", "CCCCCCCC", "DDDDDDDD"} {
		if a := b.post("/link", url.Values{"user_code": {wrong}, "answer": {"yes"}}); a.StatusCode != 404 {
			t.Fatalf("wrong code %d: %d", i, a.StatusCode)
		}
	}
	for range 2 { // the right one as well: who is slowed down learns nothing
		if a := b.get(d.link); a.StatusCode != http.StatusTooManyRequests {
			t.Fatalf("after ten wrong codes: %d", a.StatusCode)
		}
	}
	r.wantError(d.poll(), 400, "authorization_pending")
	// From another address it is the same account; another account is another matter.
	away := r.browser()
	away.addr = "203.0.113.9:1"
	away.enter("alice", "/account")
	if a := away.get(d.link); a.StatusCode != http.StatusTooManyRequests {
		t.Errorf("from elsewhere: %d", a.StatusCode)
	}
	other := r.browser()
	other.enter("bob", "/account")
	if a := other.get(d.link); a.StatusCode != 200 {
		t.Errorf("another account: %d", a.StatusCode)
	}
	r.wait(3 * time.Second)
	if a := b.get(d.link); a.StatusCode != 200 {
		t.Errorf("after the wait: %d", a.StatusCode)
	}
	seen := map[byte]int{}
	for range 15 { // within what an address may ask for
		code := r.waitingDevice(c).userCode
		for _, x := range []byte(code) {
			seen[x]++
		}
	}
	if len(seen) < 15 || seen['-'] != 15 {
		t.Errorf("the codes are made of %v", seen)
	}
}

// What was agreed to makes no session once the person ended their sessions, nor for
// somebody who may not sign in any more.
func TestAgreedBeforeTheEnd(t *testing.T) {
	r := newRig(t, nil)
	u := r.user("alice")
	c := r.deviceClient()
	agreed := func() (*waitingDevice, string) {
		d := r.waitingDevice(c)
		b := r.browser()
		at := b.signIn("alice", authParams(c))
		if a := d.answer(b, "yes"); a.StatusCode != 200 {
			t.Fatal(a.StatusCode)
		}
		code := b.get(at).to(t).Query().Get("code")
		if code == "" {
			t.Fatal("no code")
		}
		return d, code
	}
	d, code := agreed()
	waiting := r.browser()
	later := waiting.signIn("alice", authParams(c)) // agreed, and the code not fetched
	if err := r.svc.SetPassword(t.Context(), u.UserID, "another correct horse", "", false); err != nil {
		t.Fatal(err)
	}
	r.wantError(d.poll(), 400, "invalid_grant")
	r.wantError(r.browser().api("/oauth2/token", exchangeForm(c, code)), 400, "invalid_grant")
	if a := waiting.get(later); a.StatusCode != 400 {
		t.Errorf("the sign-in that was agreed to before goes on: %d", a.StatusCode)
	}
	if err := r.svc.SetPassword(t.Context(), u.UserID, "correct horse alice", "", false); err != nil {
		t.Fatal(err)
	}
	d, _ = agreed()
	if err := r.svc.SetDisabled(t.Context(), u.UserID, true); err != nil {
		t.Fatal(err)
	}
	r.wantError(d.poll(), 400, "access_denied")
}

// A device that is confirmed at the last moment gets its tokens.
func TestDeviceLastMoment(t *testing.T) {
	r := newRig(t, nil)
	r.user("alice")
	d := r.waitingDevice(r.deviceClient())
	r.wait(15*time.Minute - time.Second)
	b := r.browser()
	b.enter("alice", "/account")
	if a := d.answer(b, "yes"); a.StatusCode != 200 {
		t.Fatal(a.StatusCode)
	}
	r.wait(10 * time.Second)
	r.tokens(d.poll())
	d = r.waitingDevice(d.client)
	r.wait(15 * time.Minute)
	b.enter("alice", "/account")
	if a := b.get(d.link); a.StatusCode != 404 {
		t.Errorf("a code that is too old: %d", a.StatusCode)
	}
}

// Trouble of ours is no refusal: the device asks again.
func TestDeviceTrouble(t *testing.T) {
	r := newRig(t, nil)
	d := r.waitingDevice(r.deviceClient())
	r.db.Close()
	r.wantError(d.poll(), 503, "temporarily_unavailable")
	r.start()
	r.wantError(d.poll(), 400, "authorization_pending") // it waits on, after a restart
}

// An address cannot make all the devices wait that may.
func TestDeviceFlood(t *testing.T) {
	r := newRig(t, nil)
	c := r.deviceClient()
	var status int
	for range 80 {
		if status = r.ask(c, matrixScope).StatusCode; status != 200 {
			break
		}
	}
	if status != http.StatusTooManyRequests {
		t.Fatalf("80 devices wait from one address; the last answer was %d", status)
	}
	open := newRig(t, func(o *identity.Options) { o.Limits = false })
	c = open.deviceClient()
	for range 1000 {
		if a := open.ask(c, matrixScope); a.StatusCode != 200 {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
	}
	open.wantError(open.ask(c, matrixScope), 429, "temporarily_unavailable")
	open.wait(16 * time.Minute)
	open.waitingDevice(c)
}

func TestPromptCreate(t *testing.T) {
	for _, open := range []bool{true, false} {
		r := newRig(t, func(o *identity.Options) { o.RegistrationOpen = open })
		prompts := r.browser().get("/.well-known/openid-configuration").json(t)["prompt_values_supported"].([]any)
		if slices.Contains(prompts, any("create")) != open {
			t.Errorf("open %v: %v", open, prompts)
		}
		c := r.client(nil)
		b := r.browser()
		at := b.get("/oauth2/authorize?" + authParams(c, "prompt", "create").Encode()).to(t)
		page := b.get(at.String())
		if !open {
			// A page that says who makes accounts, and the way on for those who have one.
			if page.StatusCode != 403 || !strings.Contains(page.body, `href="/login?request=`) {
				t.Errorf("closed: %d %s", page.StatusCode, page.body)
			}
			if a := b.post(at.String(), url.Values{"username": {"carol"}, "password": {"correct horse carol"}, "password2": {"correct horse carol"}}); a.StatusCode != 403 {
				t.Errorf("closed, and the form was taken: %d", a.StatusCode)
			}
			if _, err := r.svc.User(t.Context(), "@carol:example.org"); !errors.Is(err, identity.ErrNoUser) {
				t.Error(err)
			}
			continue
		}
		if page.StatusCode != 200 {
			t.Fatal(page.StatusCode)
		}
		at = b.post(at.String(), url.Values{"username": {"carol"}, "password": {"correct horse carol"}, "password2": {"correct horse carol"}}).to(t)
		at = b.get(at.String()).to(t)
		if at.Path != "/consent" {
			t.Fatalf("after the registration: %s", at)
		}
		at = b.post(at.String(), url.Values{"answer": {"yes"}}).to(t)
		code := b.get(at.String()).to(t).Query().Get("code")
		tk := r.tokens(b.api("/oauth2/token", exchangeForm(c, code)))
		if p, err := r.svc.Lookup(t.Context(), tk.access); err != nil || p.UserID != "@carol:example.org" {
			t.Errorf("%+v %v", p, err)
		}
	}
}
