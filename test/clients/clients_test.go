// Package clients runs the real program with the client libraries that people
// use: matrix-js-sdk in Node and mautrix-go, in one conversation.
package clients

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/crypto/cryptohelper"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

const password = "correct horse battery staple"

// server is a running bin/holdfast.
type server struct {
	bin, data, url string
	cmd            *exec.Cmd
	log            *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
func (s *syncBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

func start(t *testing.T) *server {
	t.Helper()
	s := &server{bin: os.Getenv("HOLDFAST_BIN"), data: filepath.Join(t.TempDir(), "data"), log: &syncBuffer{}}
	if s.bin == "" {
		s.bin = "../../bin/holdfast"
	}
	if _, err := os.Stat(s.bin); err != nil {
		t.Fatalf("%v; run: make build", err)
	}
	s.run(t)
	t.Cleanup(func() {
		begun := time.Now()
		s.cmd.Process.Signal(syscall.SIGTERM)
		done := make(chan error, 1)
		go func() { done <- s.cmd.Wait() }()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the program did not stop cleanly: %v", err)
			}
			t.Logf("stopped after %v", time.Since(begun).Round(time.Millisecond))
		case <-time.After(15 * time.Second):
			s.cmd.Process.Kill()
			t.Error("the program did not stop within 15 s")
		}
		if t.Failed() {
			t.Logf("log of the program:\n%s", s.log)
		}
	})
	return s
}

// run starts the program on the server's folder and waits until it says where it is.
func (s *server) run(t *testing.T) {
	t.Helper()
	begun := time.Now()
	s.cmd = exec.Command(s.bin, "serve", "--data", s.data, "--set", "server_name=hs.test", "--set", "tls.mode=off",
		"--set", "listen.http=127.0.0.1:0", "--set", "listen.metrics=", "--set", "sfu.enabled=false", "--set", "limits.enabled=false")
	s.cmd.Stderr = s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found := make(chan string, 1)
	go func() {
		at := regexp.MustCompile(`http://localhost:\d+`)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if u := at.FindString(sc.Text()); u != "" {
				select {
				case found <- u:
				default:
				}
			}
		}
	}()
	select {
	case s.url = <-found:
		t.Logf("ready after %v", time.Since(begun).Round(time.Millisecond))
	case <-time.After(20 * time.Second):
		t.Fatalf("no address was printed:\n%s", s.log)
	}
}

func (s *server) addUser(t *testing.T, name string) id.UserID {
	t.Helper()
	cmd := exec.Command(s.bin, "user", "add", name, "--data", s.data, "--password-stdin", "--json")
	cmd.Stdin = strings.NewReader(password + "\n")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("user add %s: %v %s", name, err, stderr.String())
	}
	var u struct {
		UserID id.UserID `json:"user_id"`
	}
	if err := json.Unmarshal(out, &u); err != nil || u.UserID == "" {
		t.Fatalf("user add: %v in %s", err, out)
	}
	return u.UserID
}

// person is a mautrix client with encryption.
type person struct {
	*mautrix.Client
	undecrypted chan error
	answering   sync.WaitGroup
}

func (s *server) login(t *testing.T, ctx context.Context, name string) *person {
	t.Helper()
	cli, err := mautrix.NewClient(s.url, "", "")
	if err != nil {
		t.Fatal(err)
	}
	cli.Log = zerolog.Nop()
	cli.StateStore = mautrix.NewMemoryStateStore()
	if _, err := cli.Login(ctx, &mautrix.ReqLogin{
		Type: mautrix.AuthTypePassword, Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: name},
		Password: password, StoreCredentials: true,
	}); err != nil {
		t.Fatal(err)
	}
	p := &person{Client: cli, undecrypted: make(chan error, 16)}
	helper, err := cryptohelper.NewCryptoHelper(cli, []byte("pickle"), crypto.NewMemoryStore(nil))
	if err != nil {
		t.Fatal(err)
	}
	helper.DecryptErrorCallback = func(_ *event.Event, err error) { p.undecrypted <- err }
	if err := helper.Init(ctx); err != nil {
		t.Fatal(err)
	}
	cli.Crypto = helper
	cli.Syncer.(mautrix.ExtensibleSyncer).OnEvent(cli.StateStoreSyncHandler)
	return p
}

func (p *person) run(t *testing.T, ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.SyncWithContext(ctx); err != nil && ctx.Err() == nil {
			t.Errorf("sync of %s: %v", p.UserID, err)
		}
	}()
	t.Cleanup(func() { stop(); <-done })
}

// bot answers each "ping..." with "pong..." in any room it is invited to.
func (p *person) bot(t *testing.T) {
	syncer := p.Syncer.(mautrix.ExtensibleSyncer)
	syncer.OnEventType(event.StateMember, func(ctx context.Context, ev *event.Event) {
		if ev.GetStateKey() == p.UserID.String() && ev.Content.AsMember().Membership == event.MembershipInvite {
			if _, err := p.JoinRoomByID(ctx, ev.RoomID); err != nil {
				t.Errorf("join: %v", err)
			}
		}
	})
	syncer.OnEventType(event.EventMessage, func(ctx context.Context, ev *event.Event) {
		body := ev.Content.AsMessage().Body
		if ev.Sender == p.UserID || !strings.HasPrefix(body, "ping") {
			return
		}
		if !ev.Mautrix.WasEncrypted {
			t.Errorf("%q came in the clear", body)
		}
		p.answering.Go(func() { // not in the sync loop: sending may need a sync
			if _, err := p.SendText(ctx, ev.RoomID, "pong"+strings.TrimPrefix(body, "ping")); err != nil {
				t.Errorf("answer: %v", err)
			}
		})
	})
}

func TestEncryptedConversations(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s := start(t)
	s.addUser(t, "alice")
	botID := s.addUser(t, "bot")
	s.addUser(t, "carol")

	bot := s.login(t, ctx, "bot")
	bot.bot(t)
	bot.run(t, ctx)

	t.Run("mautrix", func(t *testing.T) {
		carol := s.login(t, ctx, "carol")
		answers := make(chan *event.Event, 4)
		carol.Syncer.(*mautrix.DefaultSyncer).OnEventType(event.EventMessage, func(_ context.Context, ev *event.Event) {
			if ev.Sender == botID {
				answers <- ev
			}
		})
		joined := make(chan struct{}, 4)
		carol.Syncer.(*mautrix.DefaultSyncer).OnEventType(event.StateMember, func(_ context.Context, ev *event.Event) {
			if ev.GetStateKey() == botID.String() && ev.Content.AsMember().Membership == event.MembershipJoin {
				joined <- struct{}{}
			}
		})
		carol.run(t, ctx)
		room, err := carol.CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "private_chat", Invite: []id.UserID{botID}, InitialState: []*event.Event{{
			Type: event.StateEncryption, Content: event.Content{Parsed: &event.EncryptionEventContent{Algorithm: id.AlgorithmMegolmV1}}}}})
		if err != nil {
			t.Fatal(err)
		}
		wait(t, ctx, joined, "the bot's join")
		for i := range 3 {
			if _, err := carol.SendText(ctx, room.RoomID, fmt.Sprintf("ping %d", i)); err != nil {
				t.Fatal(err)
			}
			ev := wait(t, ctx, answers, "the bot's answer")
			if got, want := ev.Content.AsMessage().Body, fmt.Sprintf("pong %d", i); got != want || !ev.Mautrix.WasEncrypted {
				t.Fatalf("got %q, encrypted %v; want %q, encrypted", got, ev.Mautrix.WasEncrypted, want)
			}
		}
		s.onlyCiphertext(t, carol.Client, room.RoomID, 6)
	})

	for name, way := range map[string]string{"matrix-js-sdk": "", "matrix-js-sdk by sliding sync": "sliding"} {
		t.Run(name, func(t *testing.T) {
			node := nodeBin(t)
			cmd := exec.CommandContext(ctx, node, "client.mjs", s.url, "alice", password, botID.String(), way)
			cmd.Dir = "js"
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v\n%s", err, stderr.String())
			}
			var r struct {
				Room      id.RoomID
				Answer    string
				Encrypted bool
				Media     bool
				Sliding   int
			}
			if err := json.Unmarshal(out, &r); err != nil {
				t.Fatalf("%v in %s", err, out)
			}
			if r.Answer != "pong from js ✓" || !r.Encrypted || !r.Media || way != "" && r.Sliding == 0 {
				t.Fatalf("%s", out)
			}
			s.onlyCiphertext(t, bot.Client, r.Room, 2)
		})
	}
	select {
	case err := <-bot.undecrypted:
		t.Errorf("the bot could not decrypt: %v", err)
	default:
	}
}

// matrix-js-sdk signs in by OAuth 2.0 as an application from elsewhere: its validators
// take the metadata, it registers itself, refreshes, and signs out.
func TestOAuth(t *testing.T) {
	node := nodeBin(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s := start(t)
	s.addUser(t, "alice")
	cmd := exec.CommandContext(ctx, node, "oauth.mjs", s.url, "alice", password)
	cmd.Dir = "js"
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	type who struct {
		Status     int
		UserID     string `json:"user_id"`
		DeviceID   string `json:"device_id"`
		ErrCode    string
		SoftLogout bool `json:"soft_logout"`
	}
	type login struct {
		Scope, Device string
		Who           who
		Expires       int
	}
	var r struct {
		Same, Deduplicated                                                               bool
		Stable, Unstable                                                                 login
		CallbackAgain, CallbackElsewhere, Pairs, OldBeforeUse, NewPair, Reuse, CodeAgain int
		OldAfterUse, AfterReuse                                                          who
		AfterCodeAgain, Devices, AfterRevoke, DevicesAfter                               int
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	check := func(what string, ok bool) {
		t.Helper()
		if !ok {
			t.Errorf("%s: %s", what, out)
		}
	}
	check("stable, unstable and the library's metadata are the same", r.Same)
	check("one registration, one client", r.Deduplicated)
	for prefix, l := range map[string]login{"urn:matrix:client:": r.Stable, "urn:matrix:org.matrix.msc2967.client:": r.Unstable} {
		check("scopes of "+prefix, l.Scope == prefix+"api:* "+prefix+"device:"+l.Device)
		check("session of "+prefix, l.Who == who{Status: 200, UserID: "@alice:hs.test", DeviceID: l.Device})
	}
	check("access tokens are short-lived", r.Stable.Expires > 0 && r.Stable.Expires <= 300)
	check("the callback is one-shot", r.CallbackAgain == 400)
	check("the callback is of one browser", r.CallbackElsewhere == 403)
	check("parallel refreshes", r.Pairs == 1 && r.OldBeforeUse == 200 && r.NewPair == 200)
	check("the old token after the new one was used", r.OldAfterUse == who{Status: 401, ErrCode: "M_UNKNOWN_TOKEN", SoftLogout: true})
	check("a refresh token that comes again", r.Reuse == 400 && r.AfterReuse == who{Status: 401, ErrCode: "M_UNKNOWN_TOKEN"})
	check("a code that comes again", r.CodeAgain == 400 && r.AfterCodeAgain == 401)
	check("revocation", r.AfterRevoke == 401 && r.Devices == 1 && r.DevicesAfter == 1)
}

// What was acknowledged is there after a SIGKILL, and logins and keys still work.
func TestKilled(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s := start(t)
	s.addUser(t, "alice")
	alice := s.login(t, ctx, "alice")
	room, err := alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "private_chat"})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var sent []id.EventID
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 1000 {
				// Without encryption: it is the server that is tested.
				r, err := alice.SendMessageEvent(ctx, room.RoomID, event.EventMessage,
					map[string]any{"msgtype": "m.text", "body": fmt.Sprint(w, i)}, mautrix.ReqSendEvent{DontEncrypt: true, TransactionID: fmt.Sprint(w, "-", i)})
				if err != nil {
					return // killed
				}
				mu.Lock()
				sent = append(sent, r.EventID)
				mu.Unlock()
			}
		})
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		mu.Lock()
		n := len(sent)
		mu.Unlock()
		if n >= 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d messages were sent", n)
		}
	}
	s.cmd.Process.Kill()
	s.cmd.Wait()
	wg.Wait()
	s.run(t)
	alice.HomeserverURL.Host = strings.TrimPrefix(s.url, "http://")
	have := map[id.EventID]bool{}
	for from := ""; ; {
		page, err := alice.Messages(ctx, room.RoomID, from, "", mautrix.DirectionBackward, nil, 500)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Chunk {
			have[e.ID] = true
		}
		if page.End == "" || len(page.Chunk) == 0 {
			break
		}
		from = page.End
	}
	for _, id := range sent {
		if !have[id] {
			t.Errorf("%s was acknowledged and is gone", id)
		}
	}
	t.Logf("%d acknowledged before the kill, all there", len(sent))
	if _, err := alice.SendMessageEvent(ctx, room.RoomID, event.EventMessage, map[string]any{"msgtype": "m.text", "body": "again"}, mautrix.ReqSendEvent{DontEncrypt: true}); err != nil {
		t.Error(err)
	}
}

func wait[T any](t *testing.T, ctx context.Context, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(30 * time.Second):
	case <-ctx.Done():
	}
	t.Fatalf("%s did not come", what)
	panic("unreachable")
}

// onlyCiphertext reads the room as the server has it: n encrypted messages, and
// none in the clear.
func (s *server) onlyCiphertext(t *testing.T, c *mautrix.Client, room id.RoomID, n int) {
	t.Helper()
	req, _ := http.NewRequest("GET", s.url+"/_matrix/client/v3/rooms/"+string(room)+"/messages?dir=b&limit=100", nil)
	req.Header.Set("Authorization", "Bearer "+c.AccessToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(resp.Body)
	var page struct {
		Chunk []struct{ Type string }
	}
	if err := json.Unmarshal(raw, &page); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%d %v %s", resp.StatusCode, err, raw)
	}
	got := 0
	for _, e := range page.Chunk {
		if e.Type == "m.room.encrypted" {
			got++
		}
	}
	if got < n || bytes.Contains(raw, []byte("ping")) || bytes.Contains(raw, []byte("pong")) {
		t.Errorf("%d encrypted messages, want at least %d and no clear text", got, n)
	}
}

// nodeBin is a Node.js that matrix-js-sdk runs on (22 or later): the package's own.
func nodeBin(t *testing.T) string {
	t.Helper()
	p, err := filepath.Abs("js/node_modules/.bin/node")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("%v; run: make test-clients", err)
	}
	return p
}
