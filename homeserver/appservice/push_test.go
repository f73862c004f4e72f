package appservice_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/homeserver"
	"holdfast/homeserver/hstest"
)

// bridge is an application service that listens over HTTP.
type bridge struct {
	mu     sync.Mutex
	down   bool
	txns   []string
	bodies []string // of the messages, in the order they came
	bad    []string
	got    chan struct{}
}

func (b *bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer func() {
		select {
		case b.got <- struct{}{}:
		default:
		}
	}()
	if r.Header.Get("Authorization") != "Bearer HS" {
		b.bad = append(b.bad, "token: "+r.Header.Get("Authorization"))
	}
	if r.URL.Path == "/_matrix/app/v1/ping" {
		io.WriteString(w, "{}")
		return
	}
	id, ok := strings.CutPrefix(r.URL.Path, "/_matrix/app/v1/transactions/")
	if !ok || r.Method != http.MethodPut {
		b.bad = append(b.bad, r.Method+" "+r.URL.Path)
	}
	b.txns = append(b.txns, id)
	if b.down {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	var body struct {
		Events []struct {
			EventID string `json:"event_id"`
			RoomID  string `json:"room_id"`
			Content struct {
				Body string `json:"body"`
			} `json:"content"`
		} `json:"events"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		b.bad = append(b.bad, err.Error())
	}
	for _, e := range body.Events {
		if e.EventID == "" || e.RoomID == "" {
			b.bad = append(b.bad, fmt.Sprintf("%+v", e))
		}
		if e.Content.Body != "" {
			b.bodies = append(b.bodies, e.Content.Body)
		}
	}
	io.WriteString(w, "{}")
}

// until waits for the bridge to be in a state.
func (b *bridge) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	stuck := time.After(time.Minute)
	for {
		b.mu.Lock()
		done := ok()
		b.mu.Unlock()
		if done {
			return
		}
		select {
		case <-b.got:
		case <-stuck:
			t.Fatalf("never: %s; transactions %v, messages %v", what, b.txns, b.bodies)
		}
	}
}

// TestEventsReachTheService: those that interest it, in order, once each, also
// what was sent while it was down and while the homeserver was restarted; what
// does not interest it stays away.
func TestEventsReachTheService(t *testing.T) {
	b := &bridge{got: make(chan struct{}, 1)}
	web := httptest.NewServer(b)
	defer web.Close()
	dir := t.TempDir()
	registration := "id: irc\nurl: " + web.URL + "\nas_token: AS\nhs_token: HS\nsender_localpart: ircbot\nnamespaces:\n  users: [{exclusive: true, regex: '@irc_.*'}]\n"
	if err := os.WriteFile(filepath.Join(dir, "irc.yaml"), []byte(registration), 0o600); err != nil {
		t.Fatal(err)
	}
	hs := hstest.New(t, func(o *homeserver.Options) { o.AppserviceDir = dir })
	alice := hs.Login(t, "alice")
	hs.Login(t, "irc_ghost") // stands for its registration
	ask := func(method, path string, body string) int {
		r, _ := http.NewRequest(method, hs.URL+"/_matrix/client"+path, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer AS")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	room, elsewhere := alice.CreateRoom(hstest.Obj{"preset": "public_chat"}), alice.CreateRoom(nil)
	alice.Send(room, "before the ghost joined")
	if code := ask("POST", "/v3/join/"+url.PathEscape(room)+"?user_id="+url.QueryEscape("@irc_ghost:"+hstest.Server), "{}"); code != 200 {
		t.Fatalf("the ghost cannot join: %d", code)
	}
	alice.Send(elsewhere, "private")
	alice.Send(room, "one")
	b.until(t, "the first message", func() bool { return len(b.bodies) > 0 })

	b.mu.Lock()
	b.down = true
	failed := len(b.txns)
	b.mu.Unlock()
	alice.Send(room, "two")
	b.until(t, "a transaction while it is down", func() bool { return len(b.txns) > failed })
	hs.Restart() // the transaction under way is sent again, under its number
	alice.Send(room, "three")
	b.mu.Lock()
	b.down = false
	b.mu.Unlock()
	b.until(t, "all messages", func() bool { return len(b.bodies) >= 3 })

	if code := ask("POST", "/v1/appservice/irc/ping", `{"transaction_id":"x"}`); code != 200 {
		t.Errorf("ping: %d", code)
	}
	if code := ask("POST", "/v1/appservice/other/ping", "{}"); code != 403 {
		t.Errorf("ping of another: %d", code)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if got := strings.Join(b.bodies, ","); got != "one,two,three" {
		t.Errorf("messages: %s", got)
	}
	if len(b.bad) > 0 {
		t.Errorf("wrong requests: %q", b.bad)
	}
	if b.txns[failed] != b.txns[failed+1] {
		t.Errorf("the refused transaction was not sent again under its number: %v", b.txns)
	}
}
