package appliance_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance/appliancetest"
)

// An administrator makes a registration, adds it to the running appliance, looks how it
// goes, and takes it away again: at the command line and in the console.
func TestApplicationServices(t *testing.T) {
	var hsToken atomic.Value
	var away atomic.Bool
	got := make(chan string, 100) // transactions taken
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+hsToken.Load().(string) {
			t.Errorf("%s %s has another token", r.Method, r.URL)
		}
		if away.Load() {
			// What it answers leads nowhere else.
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
			return
		}
		b, _ := io.ReadAll(r.Body)
		got <- r.URL.Path + " " + string(b)
		io.WriteString(w, "{}")
	}))
	defer service.Close()
	s := appliancetest.Start(t) // with network.allow_private off: the address is the administrator's word
	dir := t.TempDir()
	t.Chdir(dir)
	cli := func(want int, args ...string) (out, errOut string) {
		t.Helper()
		out, errOut, code := s.CLI(t, args...)
		if code != want {
			t.Fatalf("%q: exit code %d, %s %s", args, code, out, errOut)
		}
		return out, errOut
	}

	if out, _ := cli(0, "appservice", "list"); !strings.Contains(out, "no application services") {
		t.Error(out)
	}
	out, _ := cli(0, "appservice", "generate", "irc", "--url", service.URL, "--aliases", "#irc_.*", "--protocol", "irc", "--ephemeral")
	text, err := os.ReadFile("irc.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat("irc.yaml"); err != nil || fi.Mode().Perm() != 0o600 {
		t.Error(fi.Mode(), err)
	}
	token := func(text []byte, key string) string {
		m := regexp.MustCompile(`(?m)^` + key + `: (\S{40,})$`).FindSubmatch(text)
		if m == nil {
			t.Fatalf("no %s in %s", key, text)
		}
		return string(m[1])
	}
	asToken := token(text, "as_token")
	hsToken.Store(token(text, "hs_token"))
	if !strings.Contains(string(text), `^@irc_.*:hs\.test$`) || !strings.Contains(out, "appservice add irc.yaml") {
		t.Error(string(text), out)
	}
	for want, args := range map[string][]string{
		"is there already":             {"irc", "--url", service.URL},
		"say with --url":               {"other"},
		"gives no user names":          {"Some Thing", "--url", "none"},
		"url: \"x\" is not an address": {"other", "--url", "x"},
		"cannot be used":               {"other", "--url", "none", "--users", "("},
		"nothing can be sent":          {"other", "--url", "none", "--ephemeral"},
		"is no file name":              {"a/b", "--url", "none", "--users", "@x", "--sender", "x"},
		"cannot be written":            {"other", "--url", "none", "--out", "no/such/folder.yaml"},
		"--add needs a file":           {"other", "--url", "none", "--out", "-", "--add"},
	} {
		if _, e, code := s.CLI(t, append([]string{"appservice", "generate"}, args...)...); code == 0 || !strings.Contains(e, want) {
			t.Errorf("%q: %d %s", args, code, e)
		}
	}
	if out, _ := cli(0, "appservice", "generate", "other", "--url", "none", "--out", "-"); !strings.Contains(out, "url: null") {
		t.Error(out)
	}
	if _, err := os.Stat("other.yaml"); err == nil {
		t.Error("a file was left")
	}

	wrong := filepath.Join(dir, "wrong.yaml")
	os.WriteFile(wrong, []byte("id: x\nulr: http://x\n"), 0o600)
	if _, e := cli(1, "appservice", "add", wrong); !strings.Contains(e, wrong) || !strings.Contains(e, "line 2") || !strings.Contains(e, "did you mean url?") {
		t.Error(e)
	}
	cli(1, "appservice", "add", "gone.yaml")
	cli(1, "appservice", "remove", "irc")
	cli(1, "appservice", "retry", "irc")
	var info struct {
		ID, Sender, URL, Error string
		Waiting                int
	}
	out, _ = cli(0, "appservice", "add", "irc.yaml", "--json")
	if json.Unmarshal([]byte(out), &info) != nil || info.ID != "irc" || info.Sender != "@ircbot:hs.test" || info.URL != service.URL {
		t.Fatal(out)
	}
	if _, e := cli(1, "appservice", "add", "irc.yaml"); !strings.Contains(e, "give each its own") {
		t.Error(e)
	}
	if _, e := cli(1, "appservice", "generate", "irc2", "--url", "none", "--sender", "ircbot", "--add", "--out", "second.yaml"); !strings.Contains(e, "sender_localpart") {
		t.Error(e)
	}
	if _, err := os.Stat("second.yaml"); err == nil {
		t.Error("what was not registered is left")
	}

	// It acts at once, and gets what interests it.
	alice := s.Login(t, "alice", "--admin")
	bot := *alice
	bot.Token = asToken
	if code := bot.Do(t, "POST", "/_matrix/client/v3/register", obj{"type": "m.login.application_service", "username": "irc_ghost", "inhibit_login": true}, nil); code != 200 {
		t.Fatal(code)
	}
	var room struct {
		ID string `json:"room_id"`
	}
	alice.Do(t, "POST", "/_matrix/client/v3/createRoom", obj{"preset": "public_chat"}, &room)
	ghost := "?user_id=" + url.QueryEscape("@irc_ghost:hs.test")
	if code := bot.Do(t, "POST", "/_matrix/client/v3/join/"+url.PathEscape(room.ID)+ghost, obj{}, nil); code != 200 {
		t.Fatal(code)
	}
	say := func(text string) {
		t.Helper()
		if code := alice.Do(t, "PUT", "/_matrix/client/v3/rooms/"+url.PathEscape(room.ID)+"/send/m.room.message/"+text, obj{"msgtype": "m.text", "body": text}, nil); code != 200 {
			t.Fatal(code)
		}
	}
	arrives := func(text string) {
		t.Helper()
		stuck := time.After(time.Minute)
		for {
			select {
			case x := <-got:
				if strings.HasPrefix(x, "/_matrix/app/v1/transactions/") && strings.Contains(x, text) {
					return
				}
			case <-stuck:
				t.Fatal("never came: ", text)
			}
		}
	}
	say("first")
	arrives("first")
	s.Restart(t)
	say("second")
	arrives("second")

	// The console shows it, and when it is away.
	anna, base := signIn(t, s, "alice")
	console := func(method, path, body string) (status int, answer string) {
		t.Helper()
		req, _ := http.NewRequest(method, base+path, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Origin", base)
		req.Header.Set("Sec-Fetch-Site", "same-origin")
		resp, err := anna.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	away.Store(true)
	say("third")
	var bridges []struct {
		ID, URL, File, Trouble string
		UserID                 string    `json:"user_id"`
		Failing                time.Time `json:"failing_since"`
		LastTaken              time.Time `json:"last_taken"`
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		code, body := console("GET", "/api/console/bridges", "")
		if err := json.Unmarshal([]byte(body), &bridges); code != 200 || err != nil || len(bridges) != 1 || strings.Contains(body, asToken) || strings.Contains(body, hsToken.Load().(string)) {
			t.Fatal(code, body, err)
		}
		if bridges[0].Trouble != "" {
			break
		}
		if time.Now().After(end) {
			t.Fatal("nobody notices that it is away")
		}
	}
	if b := bridges[0]; b.ID != "irc" || b.URL != service.URL || b.UserID != "@ircbot:hs.test" || b.File != "" || b.Failing.IsZero() || !strings.Contains(b.Trouble, "307") {
		t.Errorf("%+v", b)
	}
	if out, _ := cli(0, "appservice", "list"); !strings.Contains(out, "away since") || strings.Contains(out, asToken) {
		t.Error(out)
	}
	away.Store(false)
	if code, body := console("POST", "/api/console/bridges/retry", `{"id":"irc"}`); code != 200 {
		t.Error(code, body)
	}
	arrives("third")
	cli(0, "appservice", "retry", "irc")
	for _, what := range []string{"remove", "retry"} {
		if code, body := console("POST", "/api/console/bridges/"+what, `{"id":"none"}`); code != 404 {
			t.Error(what, code, body)
		}
	}
	if code, body := console("POST", "/api/console/bridges/remove", `{"id":"irc"}`); code != 200 {
		t.Error(code, body)
	}
	if code := bot.Do(t, "GET", "/_matrix/client/v3/account/whoami"+ghost, nil, nil); code != 401 {
		t.Error("it still acts:", code)
	}
	// Added again and removed at the command line.
	cli(0, "appservice", "add", "irc.yaml")
	cli(0, "appservice", "remove", "irc")
	if out, _ := cli(0, "appservice", "list", "--json"); strings.TrimSpace(out) != "[]" {
		t.Error(out)
	}
	if log := s.Log.String(); strings.Contains(log, asToken) || strings.Contains(log, hsToken.Load().(string)) {
		t.Error("a token is in the log")
	}

	// Without an appliance that runs.
	s.Close()
	cli(3, "appservice", "list")
	cli(3, "appservice", "add", "irc.yaml")
	cli(3, "appservice", "generate", "late", "--url", "none")
	cli(0, "appservice", "generate", "late", "--url", "none", "--set", "server_name=hs.test")
}

// One that a file of appservice.dir registers is removed with its file only.
func TestApplicationServiceOfAFile(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("id: a\nurl: null\nas_token: A\nhs_token: H\nsender_localpart: a\nnamespaces: {}\n"), 0o600)
	s := appliancetest.Start(t, "appservice.dir="+dir)
	if out, _, _ := s.CLI(t, "appservice", "list"); !strings.Contains(out, "a.yaml") || !strings.Contains(out, "nothing is sent to it") {
		t.Error(out)
	}
	if _, e, code := s.CLI(t, "appservice", "remove", "a"); code != 1 || !strings.Contains(e, "remove the file") {
		t.Error(code, e)
	}
}
