package identity_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/go-webauthn/webauthn/protocol"

	"holdfast/identity"
	"holdfast/identity/directory/directorytest"
)

// program is the real one, running: what tests that know only HTTP try here, they try
// there, too.
type program struct {
	bin, data, base string
	claim           string // the code that was printed
	rigs            int
	admin           string // an administrator's access token
	serve           *exec.Cmd
	log             bytes.Buffer
}

// running is what newRig gives TestAttacksOnTheProgram's tests.
var running *program

const onTheProgram = "TestAttacksOnTheProgram/"

func (p *program) rig(t *testing.T) *rig {
	p.rigs++ // each at an address of its own, for limits
	r := &rig{t: t, program: p, devices: &deviceList{}, addr: fmt.Sprintf("192.0.2.%d:40000", p.rigs)}
	r.devices.ask = func(userID, deviceID string) bool {
		return p.matrix(t, "GET", "/_synapse/admin/v2/users/"+url.PathEscape(userID)+"/devices/"+deviceID, p.admin, nil, nil) == http.StatusOK
	}
	r.h = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		out, err := http.NewRequestWithContext(q.Context(), q.Method, p.base+q.RequestURI, q.Body)
		if err != nil {
			t.Error(err)
			return
		}
		out.Host, out.Header = q.Host, q.Header.Clone()
		from, _, _ := net.SplitHostPort(q.RemoteAddr)
		out.Header.Set("X-Forwarded-For", from) // as from a proxy on the same machine
		resp, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
	})
	return r
}

// matrix asks the Matrix API and returns the status.
func (p *program) matrix(t *testing.T, method, path, token string, in, out any) int {
	t.Helper()
	body, _ := json.Marshal(in)
	req, err := http.NewRequestWithContext(t.Context(), method, p.base+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if in == nil {
		req.Body, req.ContentLength = http.NoBody, 0
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if out != nil {
		if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
			t.Fatal(err)
		}
	}
	return resp.StatusCode
}

func (p *program) cli(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), p.bin, append(args, "--data", p.data)...).CombinedOutput()
	return string(out), err
}

// user makes an account, if there is none of that name.
func (p *program) user(t *testing.T, name string, flags ...string) identity.User {
	t.Helper()
	if out, err := p.cli(t, append([]string{"user", "add", name, "--password", "correct horse " + name}, flags...)...); err != nil && !strings.Contains(out, "taken") {
		t.Fatal(out)
	}
	u := identity.User{Localpart: name, UserID: "@" + name + ":example.org"}
	b := p.rig(t).browser()
	if a := b.password(name); a.StatusCode != http.StatusSeeOther {
		return u // it has a second factor, or is locked
	}
	var o struct {
		User struct {
			ID protocol.URLEncodedBase64 `json:"id"`
		} `json:"user"`
	}
	if err := json.Unmarshal([]byte(options(t, b.get("/account/security/passkey"))), &o); err != nil {
		t.Fatal(err)
	}
	u.ID = string(o.User.ID)
	return u
}

// with runs a command that reads something secret.
func (p *program) with(t *testing.T, secret string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), p.bin, append(args, "--data", p.data)...)
	cmd.Stdin = strings.NewReader(secret)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("holdfast %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (p *program) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := p.cli(t, args...)
	if err != nil {
		t.Fatalf("holdfast %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (p *program) disable(t *testing.T, u identity.User, off bool) {
	t.Helper()
	args := []string{"user", "disable", u.Localpart}
	if !off {
		args = append(args, "--undo")
	}
	p.must(t, args...)
}

func (p *program) deactivate(t *testing.T, u identity.User) {
	t.Helper()
	if code := p.matrix(t, "POST", "/_synapse/admin/v1/deactivate/"+url.PathEscape(u.UserID), p.admin, map[string]any{}, nil); code != http.StatusOK {
		t.Fatal(code)
	}
}

func (p *program) invite(t *testing.T, n identity.NewInvite) (inv identity.Invite) {
	t.Helper()
	args := []string{"invite", "--json"}
	if n.Uses > 0 {
		args = append(args, "--uses", fmt.Sprint(n.Uses))
	}
	if n.ExpiresIn > 0 {
		args = append(args, "--expires", n.ExpiresIn.String())
	}
	if n.Localpart != "" {
		args = append(args, "--for", n.Localpart)
	}
	var out struct{ ID, URL string }
	if err := json.Unmarshal([]byte(p.must(t, args...)), &out); err != nil {
		t.Fatal(err)
	}
	inv.ID, inv.URL, inv.Token = out.ID, out.URL, out.URL[strings.LastIndexByte(out.URL, '/')+1:]
	return inv
}

func (p *program) revoke(t *testing.T, inv identity.Invite) {
	t.Helper()
	b := p.rig(t).browser() // as in the console
	b.password("root").to(t)
	req, err := http.NewRequestWithContext(t.Context(), "DELETE", origin+"/api/console/invites/"+inv.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	if a := b.do(req); a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
}

func (p *program) exists(t *testing.T, name string) bool {
	t.Helper()
	return p.matrix(t, "GET", "/_synapse/admin/v2/users/"+url.PathEscape("@"+name+":example.org"), p.admin, nil, nil) == http.StatusOK
}

// begin starts the program on an empty folder.
func (p *program) begin(t *testing.T) {
	t.Helper()
	p.data = t.TempDir()
	if p.bin = os.Getenv("HOLDFAST_BIN"); p.bin == "" {
		p.bin = filepath.Join(t.TempDir(), "holdfast")
		if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", p.bin, "holdfast/cmd/holdfast").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	p.run(t)
	t.Cleanup(func() {
		p.stop(t)
		if t.Failed() {
			t.Logf("the program's log:\n%s", p.log.Bytes())
		}
	})
	p.user(t, "root", "--admin")
	var in struct {
		AccessToken string `json:"access_token"`
	}
	if code := p.matrix(t, "POST", "/_matrix/client/v3/login", "", map[string]any{"type": "m.login.password",
		"identifier": map[string]string{"type": "m.id.user", "user": "root"}, "password": "correct horse root"}, &in); code != http.StatusOK {
		t.Fatal(code)
	}
	p.admin = in.AccessToken
}

// run starts the program on its folder, and waits until it has printed where it is.
func (p *program) run(t *testing.T) {
	t.Helper()
	args := []string{"serve", "--data", p.data}
	for _, s := range []string{"server_name=example.org", "public_url=" + origin, "tls.mode=off", "listen.http=127.0.0.1:0", "listen.metrics=", "sfu.enabled=false", "network.allow_private=true"} {
		args = append(args, "--set", s)
	}
	p.serve = exec.Command(p.bin, args...)
	p.serve.Stderr = &p.log
	out, err := p.serve.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.serve.Start(); err != nil {
		t.Fatal(err)
	}
	claimed := p.admin != "" // then no code is printed
	found := make(chan [2]string, 1)
	go func() {
		base, code := "", regexp.MustCompile(`\b[0-9A-Z]{4}-[0-9A-Z]{4}-[0-9A-Z]{4}\b`)
		at := regexp.MustCompile(`http://localhost:(\d+)`)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if m := at.FindStringSubmatch(lines.Text()); m != nil && base == "" {
				base = "http://127.0.0.1:" + m[1]
			}
			if m := code.FindString(lines.Text()); m != "" || claimed && base != "" {
				found <- [2]string{base, m}
				io.Copy(io.Discard, out)
			}
		}
	}()
	select {
	case x := <-found:
		p.base, p.claim = x[0], x[1]
	case <-time.After(time.Minute):
		t.Fatal("no address was printed")
	}
}

// stop ends the program.
func (p *program) stop(t *testing.T) {
	t.Helper()
	p.serve.Process.Signal(syscall.SIGTERM)
	if err := p.serve.Wait(); err != nil {
		t.Errorf("the program did not stop cleanly: %v", err)
	}
}

// programAttacks are the rows of the table of bad inputs that are tried on the real
// program here: tests that know only HTTP try the same there, the others have one of
// their own. A test that ends what the others need has a program to itself.
var programAttacks = []struct {
	rows  []int
	try   func(t *testing.T)
	alone bool
}{
	{rows: []int{1}, try: TestAttack01PKCERequired},
	{rows: []int{2}, try: TestAttack02Verifier},
	{rows: []int{3}, try: TestAttack03CodeReplay},
	{rows: []int{4}, try: TestAttack04ParallelExchange},
	{rows: []int{5}, try: TestAttack05OtherClientOrRedirect},
	{rows: []int{6}, try: TestAttack06RedirectExact},
	{rows: []int{7}, try: TestAttack07Loopback},
	{rows: []int{8}, try: TestAttack08RepeatedParameter},
	{rows: []int{9, 10, 11, 12}, try: TestAttack09To12AuthorizeParameters},
	{rows: []int{13}, try: TestAttack13Scopes},
	{rows: []int{14}, try: TestAttack14FragmentState},
	{rows: []int{15}, try: TestAttack15Callback},
	{rows: []int{16}, try: TestAttack16TokenMethod},
	{rows: []int{17}, try: programBusy},
	{rows: []int{18}, try: TestAttack18ParallelRefresh},
	{rows: []int{19}, try: TestAttack19RefreshReuse},
	{rows: []int{20, 21}, try: TestAttack20And21RefreshByOthersOrWider},
	{rows: []int{22, 23}, try: programDevices},
	{rows: []int{24}, try: TestAttack24Registration},
	{rows: []int{25}, try: TestAttack25Revoke},
	{rows: []int{26, 27}, try: TestAttack26And27Logout},
	{rows: []int{28}, try: TestAttack28ForgedHost},
	{rows: []int{29}, try: TestAttack29CrossSite},
	{rows: []int{30}, try: TestAttack30SessionFixation},
	{rows: []int{31}, try: TestAttack31Frames},
	{rows: []int{32}, try: TestAttack32WrongPasswords},
	{rows: []int{35}, try: TestAttack35Invites},
	{rows: []int{36}, try: programClaim},
	{rows: []int{37}, try: programDirectory},
	{rows: []int{39}, try: programUpstream},
	{rows: []int{41}, try: TestAttack41ForeignToken},
	{rows: []int{44}, try: TestAttack44Next},
	{rows: []int{45}, try: programFlood},
	{rows: []int{33}, try: programStepTwice, alone: true},
	{rows: []int{34}, try: TestAttack34Passkeys, alone: true},
	{rows: []int{42}, try: TestAttack42Disabled, alone: true},
	{rows: []int{43}, try: programClock, alone: true},
}

// TestAttacksOnTheProgram tries them.
func TestAttacksOnTheProgram(t *testing.T) {
	t.Cleanup(func() { running = nil })
	for i, a := range programAttacks {
		if i == 0 || a.alone {
			running = &program{}
			running.begin(t)
		}
		t.Run("row "+strings.Trim(fmt.Sprint(a.rows), "[]"), a.try)
	}
}

// programBusy has another process write to the database for longer than anybody waits.
func programBusy(t *testing.T) {
	p := running
	r := p.rig(t)
	r.user("alice")
	c := r.client(nil)
	tk := r.session("alice", c)
	db, err := sql.Open("sqlite", filepath.Join(p.data, "holdfast.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	a := r.refresh(c, tk.refresh)
	if _, err := conn.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	r.wantError(a, http.StatusServiceUnavailable, "temporarily_unavailable")
	if next := r.tokens(r.refresh(c, tk.refresh)); !r.alive(next.access) {
		t.Fatal("the retry gave a dead token")
	}
}

// programClock has the program find that its machine's clock is a day behind what it saw
// when it ran before.
func programClock(t *testing.T) {
	p := running
	r := p.rig(t)
	r.user("alice")
	c := r.client(nil)
	tk := r.session("alice", c)
	inv := r.invite(identity.NewInvite{ExpiresIn: time.Hour})
	b := r.browser()
	code := b.code("alice", authParams(c))
	if a := r.browser().get("/e/" + inv.Token); a.StatusCode != http.StatusOK || !r.alive(tk.access) {
		t.Fatal("dead before")
	}
	p.stop(t)
	db, err := sql.Open("sqlite", filepath.Join(p.data, "holdfast.db"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(t.Context(), `UPDATE id_clock SET high_water = $1`, time.Now().Add(24*time.Hour).UnixMilli())
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	p.run(t)
	if r.alive(tk.access) {
		t.Error("the access token works")
	}
	if a := r.browser().get("/e/" + inv.Token); a.StatusCode != http.StatusGone {
		t.Errorf("the invite: %d", a.StatusCode)
	}
	r.wantError(b.api("/oauth2/token", exchangeForm(c, code)), 400, "invalid_grant")
	if tk := r.session("alice", c); !r.alive(tk.access) {
		t.Error("nobody can sign in while the clock is behind")
	}
	until(t, "an alarm", func() bool {
		return strings.Contains(p.must(t, "audit", "list", "--event", "clock.back"), "clock.back")
	})
	// It was the clock: where a person says that it is right, the invite is good again.
	p.must(t, "clock", "accept")
	if a := r.browser().get("/e/" + inv.Token); a.StatusCode != http.StatusOK {
		t.Errorf("the invite afterwards: %d", a.StatusCode)
	}
}

func programDevices(t *testing.T) {
	p := running
	r := p.rig(t)
	r.user("alice")
	d := r.waitingDevice(r.deviceClient())
	r.wantError(d.poll(), 400, "authorization_pending")
	r.wantError(d.poll(), 400, "slow_down") // 23
	b := r.browser()
	b.enter("alice", "/account")
	if a := d.answer(b, "yes"); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	tk := r.tokens(d.poll())
	if !r.alive(tk.access) {
		t.Fatal("a dead token")
	}
	r.wantError(d.poll(), 400, "access_denied") // 22
	if r.alive(tk.access) || r.devices.has("@alice:example.org", "ABCDEFGHIJ") {
		t.Error("a device code was used twice and its session goes on")
	}
}

func programStepTwice(t *testing.T) {
	p := running
	r := p.rig(t)
	r.user("alice")
	b := r.browser()
	b.password("alice").to(t)
	app, _ := b.enrolApp()
	seen := digitsAt(t, app, time.Now().Add(30*time.Second)) // those of now added the app
	owner, thief := r.browser(), r.browser()
	owner.password("alice").to(t)
	thief.password("alice").to(t)
	if to := owner.post("/login/totp", url.Values{"code": {seen}}).to(t); to.Path != "/account" {
		t.Fatal(to)
	}
	if a := thief.post("/login/totp", url.Values{"code": {seen}}); a.StatusCode != http.StatusUnauthorized {
		t.Fatalf("the same digits again: %d", a.StatusCode)
	}
}

func programClaim(t *testing.T) {
	p := running
	if p.claim == "" {
		t.Fatal("no code was printed")
	}
	// An administrator was made at the command line: the appliance has its owner.
	if a := p.rig(t).browser().postJSON("/api/setup/claim", map[string]string{"code": p.claim}); a.StatusCode != http.StatusGone {
		t.Fatalf("a second claim: %d %s", a.StatusCode, a.body)
	}
}

func programDirectory(t *testing.T) {
	p := running
	s := directorytest.Start(t)
	s.AddPerson("anna", "Anna A.", "of the directory")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte(s.CA), 0o600); err != nil {
		t.Fatal(err)
	}
	p.with(t, directorytest.Password, "directory", "set", "town", "--url", s.URL, "--base-dn", directorytest.Base, "--bind-dn", directorytest.AdminDN, "--ca", ca, "--password-stdin")
	r := p.rig(t)
	in := func(name, password string) int {
		return r.browser().post("/login", url.Values{"username": {name}, "password": {password}}).StatusCode
	}
	for _, x := range [][2]string{{"anna", ""}, {"anna", "wrong"}, {"*)(uid=*", "of the directory"}, {"*", "of the directory"}} {
		if code := in(x[0], x[1]); code != http.StatusUnauthorized {
			t.Errorf("%q with %q: %d", x[0], x[1], code)
		}
	}
	if code := in("anna", "of the directory"); code != http.StatusSeeOther {
		t.Errorf("with the right password: %d", code)
	}
}

// programUpstream has another provider sign people in with bad ID tokens.
func programUpstream(t *testing.T) {
	p := running
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	token := ""
	var there *httptest.Server
	there = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch q.URL.Path {
		case "/.well-known/openid-configuration":
			json.NewEncoder(w).Encode(map[string]any{"issuer": there.URL, "authorization_endpoint": there.URL + "/auth", "token_endpoint": there.URL + "/token", "jwks_uri": there.URL + "/keys",
				"id_token_signing_alg_values_supported": []string{"none", "HS256", "RS256"}})
		case "/keys":
			json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k", Use: "sig"}}})
		case "/token":
			json.NewEncoder(w).Encode(map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": token})
		}
	}))
	defer there.Close()
	secret := strings.Repeat("s", 40)
	p.with(t, secret, "upstream", "add", "hall", "--issuer", there.URL, "--client-id", "me", "--name", "Hall", "--secret-stdin")
	sign := func(alg jose.SignatureAlgorithm, key any, claims map[string]any) string {
		t.Helper()
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, nil)
		if err != nil {
			t.Fatal(err)
		}
		out, err := jwt.Signed(s).Claims(claims).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	good := jose.JSONWebKey{Key: key, KeyID: "k"}
	r := p.rig(t)
	try := func(make func(claims map[string]any) string) (answer, *browser) {
		t.Helper()
		b := r.browser()
		q := b.get("/upstream/hall/start").to(t).Query()
		token = make(map[string]any{"iss": there.URL, "sub": "s1", "aud": "me", "nonce": q.Get("nonce"), "exp": time.Now().Add(time.Minute).Unix(), "iat": time.Now().Unix(), "preferred_username": "hanna"})
		return b.get("/upstream/hall/callback?" + url.Values{"state": {q.Get("state")}, "code": {"c"}}.Encode()), b
	}
	with := func(name string, value any) func(map[string]any) string {
		return func(claims map[string]any) string {
			claims[name] = value
			return sign(jose.RS256, good, claims)
		}
	}
	for what, make := range map[string]func(map[string]any) string{
		"signed by nothing": func(claims map[string]any) string {
			b, _ := json.Marshal(claims)
			e := base64.RawURLEncoding.EncodeToString
			return e([]byte(`{"alg":"none"}`)) + "." + e(b) + "."
		},
		"signed by the secret": func(claims map[string]any) string { return sign(jose.HS256, []byte(secret), claims) },
		"signed by another key": func(claims map[string]any) string {
			return sign(jose.RS256, jose.JSONWebKey{Key: other, KeyID: "k"}, claims)
		},
		"of another issuer":       with("iss", "https://evil.test"),
		"for another application": with("aud", "you"),
		"of another sign-in":      with("nonce", "other"),
	} {
		a, b := try(make)
		if a.StatusCode < 400 || a.StatusCode >= 500 || b.get("/account").to(t).Path != "/login" {
			t.Errorf("%s: %d %s", what, a.StatusCode, a.Header.Get("Location"))
		}
	}
	if a, b := try(func(claims map[string]any) string { return sign(jose.RS256, good, claims) }); a.StatusCode != http.StatusSeeOther || b.get("/account").StatusCode != http.StatusOK {
		t.Errorf("a good one: %d %s", a.StatusCode, a.body)
	}
}

func programFlood(t *testing.T) {
	p := running
	r := p.rig(t)
	r.user("alice")
	live := r.client(nil)
	tk := r.session("alice", live)
	flood := func(n int, from string) (made int) {
		b := r.browser()
		b.addr = from
		for i := range n {
			a := b.postJSON("/oauth2/registration", map[string]any{"client_name": fmt.Sprintf("%s %d", from, i), "client_uri": "https://client.test/", "redirect_uris": []string{webRedirect}})
			switch {
			case a.StatusCode == http.StatusCreated:
				made++
			case a.StatusCode != http.StatusTooManyRequests || a.Header.Get("Retry-After") == "":
				t.Fatalf("%d %v %s", a.StatusCode, a.Header, a.body)
			}
		}
		return made
	}
	if made := flood(1000, "203.0.113.1:1"); made > 100 {
		t.Errorf("one address registered %d clients", made)
	}
	made := 0
	for i := range 150 {
		made += flood(60, fmt.Sprintf("203.0.113.%d:1", i+2))
	}
	if made > 2000 {
		t.Errorf("%d clients were kept", made)
	}
	r.tokens(r.refresh(live, tk.refresh))
}
