// Package api asks the real program over HTTP what the specification asks of a
// homeserver: each test is a scenario of one subject, told from outside.
//
// Invariants: nothing is known of the program but its command line and the
// specification; tests share one server and run beside each other, so that each
// makes its own users and rooms. HOLDFAST_URL names a server that already runs.
package api

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast/homeserver/hstest"
)

const (
	serverName   = "hs1"
	sharedSecret = "a shared secret"
	password     = "correct horse battery staple"
	asToken      = "token-of-the-bridge"
)

// registration is of an application service that is not pushed to.
const registration = `id: bridge
url: ""
as_token: ` + asToken + `
hs_token: token-of-the-server
sender_localpart: bridge
namespaces:
  users: [{regex: "@bridge_.*", exclusive: true}]
  aliases: [{regex: "#bridge_.*", exclusive: true}]
`

var base string // "http://127.0.0.1:PORT"

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// run starts the program, HOLDFAST_BIN or one built for the purpose, on an empty folder.
func run(m *testing.M) (code int, err error) {
	if base = os.Getenv("HOLDFAST_URL"); base != "" {
		return m.Run(), nil
	}
	dir, err := os.MkdirTemp("", "holdfast-api-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	bin := os.Getenv("HOLDFAST_BIN")
	if bin == "" {
		bin = filepath.Join(dir, "holdfast")
		build := exec.Command("go", "build", "-o", bin, "../../cmd/holdfast")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	apps := filepath.Join(dir, "appservices")
	if err := os.Mkdir(apps, 0o700); err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(apps, "bridge.yaml"), []byte(registration), 0o600); err != nil {
		return 0, err
	}
	args := []string{"serve", "--data", filepath.Join(dir, "data")}
	for _, set := range []string{"server_name=" + serverName, "tls.mode=off", "listen.http=127.0.0.1:0", "listen.metrics=", "sfu.enabled=false",
		"limits.enabled=false", "registration.open=true", "registration.shared_secret=" + sharedSecret, "appservice.dir=" + apps} {
		args = append(args, "--set", set)
	}
	cmd := exec.Command(bin, args...)
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	found := make(chan string, 1)
	go func() {
		at := regexp.MustCompile(`http://localhost:\d+`)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if u := at.FindString(sc.Text()); u != "" && len(found) == 0 {
				found <- strings.Replace(u, "localhost", "127.0.0.1", 1)
			}
		}
	}()
	select {
	case base = <-found:
		code = m.Run()
	case <-time.After(20 * time.Second):
		err = fmt.Errorf("no address was printed")
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if e := cmd.Wait(); e != nil && err == nil {
		err = fmt.Errorf("the program did not stop cleanly: %w", e)
	}
	if code != 0 || err != nil {
		fmt.Fprintf(os.Stderr, "log of the program:\n%s", log.Bytes())
	}
	return code, err
}

type (
	// Value is a piece of decoded JSON.
	Value = hstest.Value
	obj   = map[string]any
	list  = []any
)

// user is somebody's device, or nobody with an empty token.
type user struct {
	t                 *testing.T
	id, device, token string
	query             string // added to each request: user_id=... of an application service
	since             string // token of the last sync
	filter            string // of sync
}

var count atomic.Int64

// started tells the names of one run from those of another on the same server.
var started = time.Now().UnixMilli() % 1e6

// unique makes a name that no other test has.
func unique(name string) string { return fmt.Sprintf("%s-%d-%d", name, started, count.Add(1)) }

// newUser registers an account, whose localpart begins with name.
func newUser(t *testing.T, name string) *user {
	t.Helper()
	u := &user{t: t}
	v := u.ok("POST", "/register", obj{"username": unique(name), "password": password, "auth": obj{"type": "m.login.dummy"}})
	u.id, u.device, u.token = v.At("user_id").String(), v.At("device_id").String(), v.At("access_token").String()
	return u
}

func newUsers(t *testing.T) (alice, bob *user) {
	t.Helper()
	return newUser(t, "alice"), newUser(t, "bob")
}

func (u *user) localpart() string {
	name, _, _ := strings.Cut(u.id[1:], ":")
	return name
}

// login is another device of the same user.
func (u *user) login() *user {
	u.t.Helper()
	v := nobody(u.t).ok("POST", "/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": u.id}, "password": password})
	return &user{t: u.t, id: u.id, device: v.At("device_id").String(), token: v.At("access_token").String()}
}

func nobody(t *testing.T) *user { return &user{t: t} }

// bridge acts as a user of the application service.
func bridge(t *testing.T, as string) *user {
	return &user{t: t, id: as, token: asToken, query: "user_id=" + url.QueryEscape(as)}
}

// answer is what the server said.
type answer struct {
	t      *testing.T
	what   string
	status int
	header http.Header
	body   []byte
	Value
}

// do sends a request. Paths begin after /_matrix/client/v3 unless with "/_" or
// "/.". A body may be nil, a string that is sent as it is, or anything for JSON.
func (u *user) do(method, path string, body any) answer {
	u.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	default:
		j, err := json.Marshal(b)
		if err != nil {
			u.t.Fatal(err)
		}
		r = bytes.NewReader(j)
	}
	return u.send(method, path, "application/json", r)
}

func (u *user) send(method, path, contentType string, body io.Reader) answer {
	u.t.Helper()
	if !strings.HasPrefix(path, "/_") && !strings.HasPrefix(path, "/.") {
		path = "/_matrix/client/v3" + path
	}
	if u.query != "" {
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		path += sep + u.query
	}
	req, err := http.NewRequest(method, base+path, body)
	if err != nil {
		u.t.Fatal(err)
	}
	if u.token != "" {
		req.Header.Set("Authorization", "Bearer "+u.token)
	}
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := client.Do(req)
	if err != nil {
		u.t.Fatal(err)
	}
	defer resp.Body.Close()
	a := answer{t: u.t, what: method + " " + path, status: resp.StatusCode, header: resp.Header}
	if a.body, err = io.ReadAll(resp.Body); err != nil {
		u.t.Fatal(err)
	}
	json.Unmarshal(a.body, &a.Value.V)
	return a
}

var client = &http.Client{Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Transport: &http.Transport{MaxIdleConnsPerHost: 32}}

// ok sends a request that has to succeed.
func (u *user) ok(method, path string, body any) Value {
	u.t.Helper()
	a := u.do(method, path, body)
	if a.status != 200 {
		u.t.Fatalf("%s: %d %.300s", a.what, a.status, a.body)
	}
	return a.Value
}

// fails sends a request that has to fail with a status and a code, or one of
// several codes with | between them. The test goes on.
func (u *user) fails(status int, code, method, path string, body any) answer {
	u.t.Helper()
	a := u.do(method, path, body)
	a.want(status, code)
	return a
}

func (a answer) want(status int, code string) {
	a.t.Helper()
	got := a.At("errcode").String()
	for _, c := range strings.Split(code, "|") {
		if a.status == status && got == c && (c == "" || a.At("error").String() != "") {
			return
		}
	}
	a.t.Errorf("%s: %d %.300s, want %d %s", a.what, a.status, a.body, status, code)
}

func esc(s string) string { return url.PathEscape(s) }

func room(roomID string) string { return "/rooms/" + esc(roomID) }

// create makes a room.
func (u *user) create(o obj) string {
	u.t.Helper()
	return u.ok("POST", "/createRoom", o).At("room_id").String()
}

// public makes a room that everybody may join, and has them join it.
func (u *user) public(others ...*user) string {
	u.t.Helper()
	id := u.create(obj{"preset": "public_chat"})
	for _, o := range others {
		o.join(id)
	}
	return id
}

func (u *user) join(roomID string) { u.t.Helper(); u.ok("POST", room(roomID)+"/join", obj{}) }

func (u *user) leave(roomID string) { u.t.Helper(); u.ok("POST", room(roomID)+"/leave", obj{}) }

func (u *user) invite(roomID string, who *user) {
	u.t.Helper()
	u.ok("POST", room(roomID)+"/invite", obj{"user_id": who.id})
}

// event sends an event and returns its ID.
func (u *user) event(roomID, typ string, content obj) string {
	u.t.Helper()
	return u.ok("PUT", room(roomID)+"/send/"+typ+"/"+unique("txn"), content).At("event_id").String()
}

// say sends a text.
func (u *user) say(roomID, text string) string {
	u.t.Helper()
	return u.event(roomID, "m.room.message", obj{"msgtype": "m.text", "body": text})
}

// state sends a state event.
func (u *user) state(roomID, typ, key string, content obj) string {
	u.t.Helper()
	return u.ok("PUT", room(roomID)+"/state/"+typ+"/"+esc(key), content).At("event_id").String()
}

// member is somebody's membership, or "".
func (u *user) member(roomID, userID string) string {
	u.t.Helper()
	return u.do("GET", room(roomID)+"/state/m.room.member/"+esc(userID), nil).At("membership").String()
}

// sync asks for what is new.
func (u *user) sync(params ...string) Value {
	u.t.Helper()
	q := url.Values{}
	if u.since != "" {
		q.Set("since", u.since)
	}
	if u.filter != "" {
		q.Set("filter", u.filter)
	}
	for _, p := range params {
		k, v, _ := strings.Cut(p, "=")
		q.Set(k, v)
	}
	v := u.ok("GET", "/sync?"+q.Encode(), nil)
	u.since = v.At("next_batch").String()
	return v
}

// until syncs until an answer satisfies ok, for at most 15 seconds.
func (u *user) until(what string, ok func(Value) bool) Value {
	u.t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); {
		if v := u.sync("timeout=500"); ok(v) {
			return v
		}
	}
	u.t.Fatalf("%s: no sync came with %s", u.id, what)
	return Value{}
}

// same compares two values as JSON.
func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if v, ok := got.(Value); ok {
		got = v.V
	}
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	if !bytes.Equal(g, w) {
		t.Errorf("%s: got %s, want %s", what, g, w)
	}
}

// types lists the types of events.
func types(v Value) []string {
	out := []string{}
	for _, e := range v.List() {
		out = append(out, e.At("type").String())
	}
	return out
}

// bodies lists the texts of events.
func bodies(v Value) []string { return hstest.Bodies(v.List()) }

// find is the first event that has a type, and a state key unless that is "*".
func find(v Value, typ, key string) Value {
	for _, e := range v.List() {
		if e.At("type").String() == typ && (key == "*" || e.Exists("state_key") && e.At("state_key").String() == key) {
			return e
		}
	}
	return Value{}
}
