package clients

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/appservice"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// bridge is what the bridges of the mautrix family are made of: an application service
// with its event processor, without a network behind it.
type bridge struct {
	as *appservice.AppService
	ep *appservice.EventProcessor

	gate    chan struct{} // nil: open; else transactions wait for it to be closed
	mu      sync.Mutex
	record  io.Writer // a line for each transaction, before it is handled
	slow    time.Duration
	aliases func(id.RoomAlias) bool
	users   func(id.UserID) bool
}

// txnLine is a transaction as it came.
type txnLine struct {
	ID     string
	Sum    string // of its body
	Events []id.EventID
}

// newBridge listens on an address with the registration of a file.
func newBridge(file, homeserver, listen string) (*bridge, *http.Server, error) {
	reg, err := appservice.LoadRegistration(file)
	if err != nil {
		return nil, nil, err
	}
	as, err := appservice.CreateFull(appservice.CreateOpts{Registration: reg, HomeserverDomain: "hs.test", HomeserverURL: homeserver})
	if err != nil {
		return nil, nil, err
	}
	as.DefaultHTTPRetries = 0
	b := &bridge{as: as, ep: appservice.NewEventProcessor(as)}
	as.QueryHandler = b
	b.ep.ExecMode = appservice.Sync // in order
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, nil, err
	}
	srv := &http.Server{Handler: b}
	go srv.Serve(ln)
	b.ep.Start(context.Background())
	as.Ready = true
	return b, srv, nil
}

func (b *bridge) QueryAlias(a id.RoomAlias) bool { return b.aliases != nil && b.aliases(a) }
func (b *bridge) QueryUser(u id.UserID) bool     { return b.users != nil && b.users(u) }

// ServeHTTP notes transactions before the library has them.
func (b *bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	txn, ok := strings.CutPrefix(r.URL.Path, "/_matrix/app/v1/transactions/")
	if !ok {
		b.as.Router.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the server was killed in the midst of it
	}
	var t struct {
		Events []struct {
			ID id.EventID `json:"event_id"`
		}
	}
	if err := json.Unmarshal(body, &t); err != nil {
		return
	}
	sum := sha256.Sum256(body)
	line := txnLine{ID: txn, Sum: hex.EncodeToString(sum[:])}
	for _, e := range t.Events {
		line.Events = append(line.Events, e.ID)
	}
	b.mu.Lock()
	gate, record := b.gate, b.record
	if record != nil {
		out, _ := json.Marshal(line)
		record.Write(append(out, '\n'))
	}
	b.mu.Unlock()
	if gate != nil {
		<-gate
	}
	time.Sleep(b.slow)
	r.Body = io.NopCloser(bytes.NewReader(body))
	b.as.Router.ServeHTTP(w, r)
}

// TestMain is also the bridge, in a process of its own that can be killed.
func TestMain(m *testing.M) {
	if args := os.Getenv("TEST_BRIDGE"); args != "" {
		a := strings.Split(args, "|")
		f, err := os.OpenFile(a[3], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			panic(err)
		}
		b, _, err := newBridge(a[0], a[1], a[2])
		if err != nil {
			panic(err)
		}
		b.mu.Lock()
		b.record, b.slow = f, 10*time.Millisecond // so that a kill falls into it
		b.mu.Unlock()
		fmt.Println("ready")
		io.Copy(io.Discard, os.Stdin) // until the test is gone
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// holdfast runs the command line on the server's folder.
func (s *server) holdfast(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(s.bin, append(args, "--data", s.data)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("holdfast %s: %v %s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// freeAddress is one that a bridge can listen on.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// register makes a registration and adds it while the server runs.
func (s *server) register(t *testing.T, name, listen string, more ...string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), name+".yaml")
	url := "none"
	if listen != "" {
		url = "http://" + listen
	}
	s.holdfast(t, append([]string{"appservice", "generate", name, "--url", url, "--out", file, "--add"}, more...)...)
	return file
}

// A bridge as mautrix makes them: everything that one asks of a homeserver.
func TestBridge(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	s := start(t)
	aliceID := s.addUser(t, "alice")
	listen := freeAddress(t)
	file := s.register(t, "net", listen, "--aliases", "^#net_", "--protocol", "net", "--ephemeral", "--encryption")
	b, web, err := newBridge(file, s.url, listen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { web.Close(); b.ep.Stop() })
	as := b.as
	alice := s.login(t, ctx, "alice")

	t.Run("ping", func(t *testing.T) {
		if !as.BotIntent().EnsureAppserviceConnection(ctx) {
			t.Fatal("no connection")
		}
	})

	var ghostRoom id.RoomID
	ghost := as.Intent("@net_ghost:hs.test")
	invites := make(chan *event.Event, 10)
	b.ep.On(event.StateMember, func(_ context.Context, ev *event.Event) {
		if ev.Content.AsMember().Membership == event.MembershipInvite {
			invites <- ev
		}
	})
	messages := make(chan *event.Event, 1000)
	b.ep.On(event.EventMessage, func(_ context.Context, ev *event.Event) { messages <- ev })

	t.Run("ghosts", func(t *testing.T) {
		if err := ghost.EnsureRegistered(ctx); err != nil {
			t.Fatal(err)
		}
		if err := ghost.Register(ctx); !errors.Is(err, mautrix.MUserInUse) { // a bridge that lost its database
			t.Error(err)
		}
		if err := ghost.SetDisplayName(ctx, "Ghost (net)"); err != nil {
			t.Fatal(err)
		}
		if p, err := alice.GetProfile(ctx, ghost.UserID); err != nil || p.DisplayName != "Ghost (net)" {
			t.Error(p, err)
		}
		room, err := alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "private_chat", Name: "With a ghost", Topic: "net", IsDirect: true, Invite: []id.UserID{ghost.UserID}})
		if err != nil {
			t.Fatal(err)
		}
		ghostRoom = room.RoomID
		ev := wait(t, ctx, invites, "the invitation")
		name := ""
		for _, st := range ev.Unsigned.InviteRoomState {
			if st.Type.Type == "m.room.name" {
				name, _ = st.Content.Raw["name"].(string)
				if name == "" {
					json.Unmarshal(st.Content.VeryRaw, &struct{ Name *string }{&name})
				}
			}
		}
		if ev.RoomID != ghostRoom || ev.GetStateKey() != ghost.UserID.String() || !ev.Content.AsMember().IsDirect || name != "With a ghost" {
			t.Errorf("%q %+v", name, ev)
		}
		if err := ghost.EnsureJoined(ctx, ghostRoom); err != nil {
			t.Fatal(err)
		}
		// The bot gets in by the ghost, as in a portal.
		if _, err := alice.InviteUser(ctx, ghostRoom, &mautrix.ReqInviteUser{UserID: as.BotMXID()}); err != nil {
			t.Fatal(err)
		}
		if err := as.BotIntent().EnsureJoined(ctx, ghostRoom); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("a time of its own", func(t *testing.T) {
		at := time.Date(2015, 3, 14, 9, 26, 53, 0, time.UTC).UnixMilli()
		r, err := ghost.SendMessageEvent(ctx, ghostRoom, event.EventMessage, &event.MessageEventContent{MsgType: event.MsgText, Body: "from the past"}, mautrix.ReqSendEvent{Timestamp: at})
		if err != nil {
			t.Fatal(err)
		}
		if ev, err := alice.GetEvent(ctx, ghostRoom, r.EventID); err != nil || ev.Timestamp != at || ev.Sender != ghost.UserID {
			t.Error(ev, err)
		}
		if ev := wait(t, ctx, messages, "its own message"); ev.ID != r.EventID {
			t.Errorf("%+v", ev)
		}
	})

	t.Run("double puppeting", func(t *testing.T) {
		// By a registration of everybody, which has nothing pushed.
		everybody, err := appservice.LoadRegistration(s.register(t, "doublepuppet", "", "--shared", "--users", `^@.*:hs\.test$`))
		if err != nil {
			t.Fatal(err)
		}
		puppet, err := as.NewExternalMautrixClient(aliceID, everybody.AppToken, "")
		if err != nil {
			t.Fatal(err)
		}
		puppet.SetAppServiceUserID = true
		if who, err := puppet.Whoami(ctx); err != nil || who.UserID != aliceID {
			t.Fatal(who, err)
		}
		at := time.Now().Add(-time.Hour).UnixMilli()
		r, err := puppet.SendMessageEvent(ctx, ghostRoom, event.EventMessage, map[string]any{"msgtype": "m.text", "body": "from my other phone", "fi.mau.double_puppet_source": "net"}, mautrix.ReqSendEvent{Timestamp: at})
		if err != nil {
			t.Fatal(err)
		}
		ev := wait(t, ctx, messages, "the puppet's message")
		if ev.ID != r.EventID || ev.Sender != aliceID || ev.Timestamp != at || ev.Content.Raw["fi.mau.double_puppet_source"] != "net" {
			t.Errorf("%+v", ev)
		}
		if err := puppet.MarkRead(ctx, ghostRoom, r.EventID); err != nil {
			t.Error(err)
		}
		// It closes no names to people.
		s.addUser(t, "dora")
		s.holdfast(t, "appservice", "remove", "doublepuppet")
		if _, err := puppet.Whoami(ctx); !errors.Is(err, mautrix.MUnknownToken) {
			t.Error(err)
		}
	})

	t.Run("login without a password", func(t *testing.T) {
		flows, err := as.NewMautrixClient(ghost.UserID).GetLoginFlows(ctx)
		if err != nil || !flows.HasFlow(mautrix.AuthTypeAppservice) {
			t.Fatal(flows, err)
		}
		c := as.NewMautrixClient(ghost.UserID)
		r, err := c.Login(ctx, &mautrix.ReqLogin{Type: mautrix.AuthTypeAppservice, Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: ghost.UserID.String()}, DeviceID: "GHOSTLOGIN", StoreCredentials: true})
		if err != nil || r.DeviceID != "GHOSTLOGIN" || r.AccessToken == as.Registration.AppToken {
			t.Fatal(r, err)
		}
		// The library goes on to name the user, with a token that is not the service's.
		if who, err := c.Whoami(ctx); err != nil || who.UserID != ghost.UserID || who.DeviceID != "GHOSTLOGIN" {
			t.Error(who, err)
		}
		if _, err := c.Logout(ctx); err != nil {
			t.Error(err)
		}
	})

	t.Run("typing and receipts", func(t *testing.T) {
		typing, receipts := make(chan *event.Event, 1000), make(chan *event.Event, 1000)
		b.ep.On(event.EphemeralEventTyping, func(_ context.Context, ev *event.Event) { typing <- ev })
		b.ep.On(event.EphemeralEventReceipt, func(_ context.Context, ev *event.Event) { receipts <- ev })
		if _, err := alice.UserTyping(ctx, ghostRoom, true, 20*time.Second); err != nil {
			t.Fatal(err)
		}
		for {
			ev := wait(t, ctx, typing, "typing")
			if ev.RoomID == ghostRoom && slices.Contains(ev.Content.AsTyping().UserIDs, aliceID) {
				break
			}
		}
		if _, err := ghost.UserTyping(ctx, ghostRoom, true, 20*time.Second); err != nil {
			t.Error(err)
		}
		// While it is busy with one transaction, much happens: receipts and typing are not
		// piled up, messages are.
		gate := make(chan struct{})
		b.mu.Lock()
		var log bytes.Buffer
		b.gate, b.record = gate, &log
		b.mu.Unlock()
		var last id.EventID
		var sent []id.EventID
		for i := range 250 {
			r, err := alice.SendMessageEvent(ctx, ghostRoom, event.EventMessage, map[string]any{"msgtype": "m.text", "body": fmt.Sprint(i)}, mautrix.ReqSendEvent{DontEncrypt: true})
			if err != nil {
				t.Fatal(err)
			}
			last = r.EventID
			sent = append(sent, last)
			if err := alice.MarkRead(ctx, ghostRoom, last); err != nil {
				t.Fatal(err)
			}
			if _, err := alice.UserTyping(ctx, ghostRoom, i%2 == 0, 20*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		close(gate)
		for i, want := range sent {
			if ev := wait(t, ctx, messages, "a message that waited"); ev.ID != want {
				t.Fatalf("message %d is %s, want %s", i, ev.ID, want)
			}
		}
		n := 0
		for {
			ev := wait(t, ctx, receipts, "the last receipt")
			n++
			if c := ev.Content.AsReceipt(); (*c)[last] != nil {
				if _, ok := (*c)[last][event.ReceiptTypeRead][aliceID]; ok {
					break
				}
			}
		}
		b.mu.Lock()
		b.gate, b.record = nil, nil
		txns := strings.Count(log.String(), "\n")
		b.mu.Unlock()
		if n > 20 || txns > 20 {
			t.Errorf("250 receipts came as %d, in %d transactions", n, txns)
		}
	})

	t.Run("what others ask it", func(t *testing.T) {
		say := func(w http.ResponseWriter, v any) { json.NewEncoder(w).Encode(v) }
		as.Router.HandleFunc("GET /_matrix/app/v1/thirdparty/protocol/{protocol}", func(w http.ResponseWriter, r *http.Request) {
			if as.CheckServerToken(w, r) {
				say(w, map[string]any{"user_fields": []string{"nick"}, "location_fields": []string{"channel"}, "icon": "mxc://hs.test/net", "field_types": map[string]any{
					"nick": map[string]string{"regexp": ".*", "placeholder": "nick"}, "channel": map[string]string{"regexp": "#.*", "placeholder": "#channel"}},
					"instances": []any{map[string]any{"network_id": "one", "desc": "Net One", "fields": map[string]string{}}}})
			}
		})
		as.Router.HandleFunc("GET /_matrix/app/v1/thirdparty/user/{protocol}", func(w http.ResponseWriter, r *http.Request) {
			if as.CheckServerToken(w, r) {
				nick := r.URL.Query().Get("nick")
				say(w, []any{map[string]any{"userid": "@net_" + nick + ":hs.test", "protocol": "net", "fields": map[string]string{"nick": nick}}})
			}
		})
		as.Router.HandleFunc("GET /_matrix/app/v1/thirdparty/location/{protocol}", func(w http.ResponseWriter, r *http.Request) {
			if as.CheckServerToken(w, r) {
				say(w, []any{map[string]any{"alias": "#net_talk:hs.test", "protocol": "net", "fields": map[string]string{"channel": r.URL.Query().Get("channel")}}})
			}
		})
		var protocols map[string]struct {
			Instances []struct {
				Desc string `json:"desc"`
			} `json:"instances"`
		}
		if _, err := alice.MakeRequest(ctx, "GET", alice.BuildClientURL("v3", "thirdparty", "protocols"), nil, &protocols); err != nil || len(protocols["net"].Instances) != 1 || protocols["net"].Instances[0].Desc != "Net One" {
			t.Error(protocols, err)
		}
		var users []struct {
			UserID id.UserID `json:"userid"`
		}
		if _, err := alice.MakeRequest(ctx, "GET", alice.BuildURLWithQuery(mautrix.ClientURLPath{"v3", "thirdparty", "user", "net"}, map[string]string{"nick": "eve"}), nil, &users); err != nil || len(users) != 1 || users[0].UserID != "@net_eve:hs.test" {
			t.Error(users, err)
		}
		// The one that was found is made when she is invited, the room when it is joined.
		b.users = func(u id.UserID) bool {
			return u == "@net_eve:hs.test" && as.Intent(u).EnsureRegistered(ctx) == nil
		}
		b.aliases = func(a id.RoomAlias) bool {
			_, err := as.BotIntent().CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "public_chat", RoomAliasName: "net_talk", Name: "#talk"})
			return err == nil && a == "#net_talk:hs.test"
		}
		if _, err := alice.InviteUser(ctx, ghostRoom, &mautrix.ReqInviteUser{UserID: "@net_eve:hs.test"}); err != nil {
			t.Error(err)
		}
		if _, err := as.Intent("@net_eve:hs.test").Whoami(ctx); err != nil {
			t.Error(err)
		}
		if _, err := alice.JoinRoom(ctx, "#net_talk:hs.test", nil); err != nil {
			t.Error(err)
		}
		if _, err := alice.JoinRoom(ctx, "#net_none:hs.test", nil); !errors.Is(err, mautrix.MNotFound) {
			t.Error(err)
		}
	})

	t.Run("encryption", func(t *testing.T) {
		// The bot has a device by a login, a ghost one by MSC4190: both ways are in use.
		botClient := as.NewMautrixClient(as.BotMXID())
		if _, err := botClient.Login(ctx, &mautrix.ReqLogin{Type: mautrix.AuthTypeAppservice, StoreCredentials: true, InitialDeviceDisplayName: "net bridge",
			Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: as.BotMXID().String()}}); err != nil {
			t.Fatal(err)
		}
		ghostClient := as.NewMautrixClient(ghost.UserID)
		if err := ghostClient.CreateDeviceMSC4190(ctx, "", "net bridge"); err != nil {
			t.Fatal(err)
		}
		bot, own := b.machine(t, ctx, botClient), b.machine(t, ctx, ghostClient)
		read := map[*crypto.OlmMachine]chan *event.Event{bot: make(chan *event.Event, 10), own: make(chan *event.Event, 10)}
		b.ep.On(event.EventEncrypted, func(ctx context.Context, ev *event.Event) {
			for m, c := range read {
				if ev.Sender == aliceID {
					go func() {
						dec, err := m.DecryptMegolmEvent(ctx, ev)
						if errors.Is(err, crypto.ErrNoSessionFound) {
							e := ev.Content.AsEncrypted()
							m.WaitForSession(ctx, ev.RoomID, e.SenderKey, e.SessionID, 20*time.Second)
							dec, err = m.DecryptMegolmEvent(ctx, ev)
						}
						if err != nil {
							t.Errorf("%s cannot decrypt: %v", m.Client.UserID, err)
							return
						}
						c <- dec
					}()
				}
			}
		})
		joined := make(chan id.UserID, 10)
		answers := make(chan *event.Event, 10)
		sync := alice.Syncer.(*mautrix.DefaultSyncer)
		sync.OnEventType(event.StateMember, func(_ context.Context, ev *event.Event) {
			if ev.Content.AsMember().Membership == event.MembershipJoin && ev.Sender != aliceID {
				joined <- ev.Sender
			}
		})
		sync.OnEventType(event.EventMessage, func(_ context.Context, ev *event.Event) {
			if ev.Mautrix.WasEncrypted && ev.Sender != aliceID {
				answers <- ev
			}
		})
		alice.run(t, ctx)
		room, err := alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "private_chat", Name: "Secret", Invite: []id.UserID{as.BotMXID(), ghost.UserID}, InitialState: []*event.Event{{
			Type: event.StateEncryption, Content: event.Content{Parsed: &event.EncryptionEventContent{Algorithm: id.AlgorithmMegolmV1}}}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range []*appservice.IntentAPI{as.BotIntent(), ghost} {
			if _, err := i.JoinRoomByID(ctx, room.RoomID); err != nil {
				t.Fatal(err)
			}
		}
		// As bridges do in a room that is new to them: its encryption is from before they
		// were there.
		if _, err := as.BotIntent().State(ctx, room.RoomID); err != nil {
			t.Fatal(err)
		}
		for seen := map[id.UserID]bool{}; !seen[as.BotMXID()] || !seen[ghost.UserID]; {
			seen[wait(t, ctx, joined, "the joins")] = true
		}
		for i := range 3 {
			text := fmt.Sprint("ping ", i)
			if _, err := alice.SendText(ctx, room.RoomID, text); err != nil {
				t.Fatal(err)
			}
			for m, c := range read {
				if ev := wait(t, ctx, c, "the decrypted message"); ev.Content.AsMessage().Body != text {
					t.Errorf("%s reads %q", m.Client.UserID, ev.Content.AsMessage().Body)
				}
			}
			// The ghost's words by its own device, and as most bridges do it, by the bot's.
			for m, how := range map[*crypto.OlmMachine]string{own: "own", bot: "bot"} {
				text := fmt.Sprint("pong ", how, i)
				enc := encrypt(t, ctx, m, room.RoomID, []id.UserID{aliceID, as.BotMXID(), ghost.UserID}, text)
				sender := ghostClient
				if m == bot {
					sender = ghost.Client // without a device
				}
				if _, err := sender.SendMessageEvent(ctx, room.RoomID, event.EventEncrypted, enc, mautrix.ReqSendEvent{DontEncrypt: true}); err != nil {
					t.Fatal(err)
				}
				ev := wait(t, ctx, answers, "the answer")
				if ev.Content.AsMessage().Body != text || ev.Sender != ghost.UserID {
					t.Errorf("%q of %s, want %q", ev.Content.AsMessage().Body, ev.Sender, text)
				}
			}
		}
		s.onlyCiphertext(t, alice.Client, room.RoomID, 9)

		// A second session of alice's: the device list reaches the bridge, and its next
		// message the session.
		second := s.login(t, ctx, "alice")
		got := make(chan *event.Event, 10)
		second.Syncer.(*mautrix.DefaultSyncer).OnEventType(event.EventMessage, func(_ context.Context, ev *event.Event) {
			if ev.Content.AsMessage().Body == "for both" {
				got <- ev
			}
		})
		second.run(t, ctx)
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if d, err := bot.CryptoStore.GetDevice(ctx, aliceID, second.DeviceID); err == nil && d != nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the bridge did not hear of the new device")
			}
		}
		enc := encrypt(t, ctx, bot, room.RoomID, []id.UserID{aliceID, as.BotMXID(), ghost.UserID}, "for both")
		if _, err := ghost.Client.SendMessageEvent(ctx, room.RoomID, event.EventEncrypted, enc, mautrix.ReqSendEvent{DontEncrypt: true}); err != nil {
			t.Fatal(err)
		}
		if ev := wait(t, ctx, got, "the message at the second session"); !ev.Mautrix.WasEncrypted {
			t.Error("it came in the clear")
		}
		select {
		case err := <-alice.undecrypted:
			t.Errorf("alice could not decrypt: %v", err)
		default:
		}
	})
	if log := s.log.String(); strings.Contains(log, as.Registration.AppToken) || strings.Contains(log, as.Registration.ServerToken) {
		t.Error("a token is in the log")
	}
}

// machine is the encryption of one of the bridge's users, fed by transactions.
func (b *bridge) machine(t *testing.T, ctx context.Context, c *mautrix.Client) *crypto.OlmMachine {
	t.Helper()
	log := zerolog.Nop()
	m := crypto.NewOlmMachine(c, &log, crypto.NewMemoryStore(nil), b.as.StateStore.(crypto.StateStore))
	if err := m.Load(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.ShareKeys(ctx, -1); err != nil {
		t.Fatal(err)
	}
	m.AddAppserviceListener(b.ep)
	return m
}

func encrypt(t *testing.T, ctx context.Context, m *crypto.OlmMachine, room id.RoomID, users []id.UserID, text string) *event.EncryptedEventContent {
	t.Helper()
	content := &event.MessageEventContent{MsgType: event.MsgText, Body: text}
	enc, err := m.EncryptMegolmEvent(ctx, room, event.EventMessage, content)
	if errors.Is(err, crypto.ErrNoGroupSession) || errors.Is(err, crypto.ErrSessionExpired) || errors.Is(err, crypto.ErrSessionNotShared) {
		if err = m.ShareGroupSession(ctx, room, users); err == nil {
			enc, err = m.EncryptMegolmEvent(ctx, room, event.EventMessage, content)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return enc
}

// Server and bridge are killed in the midst of a stream of transactions, again and
// again: every event arrives, in order, and what comes twice is the same transaction.
func TestBridgeKilled(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	s := start(t)
	s.addUser(t, "alice")
	alice := s.login(t, ctx, "alice")
	listen := freeAddress(t)
	file := s.register(t, "net", listen)
	record := filepath.Join(t.TempDir(), "transactions")
	var child *exec.Cmd
	startBridge := func() {
		t.Helper()
		child = exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "TEST_BRIDGE="+strings.Join([]string{file, s.url, listen, record}, "|"))
		stdin, err := child.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stdin.Close() })
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
			t.Fatal(line, err)
		}
	}
	startBridge()
	defer func() { child.Process.Kill(); child.Wait() }()

	reg, err := appservice.LoadRegistration(file)
	if err != nil {
		t.Fatal(err)
	}
	as, err := appservice.CreateFull(appservice.CreateOpts{Registration: reg, HomeserverDomain: "hs.test", HomeserverURL: s.url})
	if err != nil {
		t.Fatal(err)
	}
	room, err := alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "public_chat"})
	if err != nil {
		t.Fatal(err)
	}
	if err := as.Intent("@net_ghost:hs.test").EnsureJoined(ctx, room.RoomID); err != nil {
		t.Fatal(err)
	}

	// Senders that go on over everything; each repeats under its ID what was not answered.
	var mu sync.Mutex
	acknowledged := map[id.EventID]bool{}
	base := s.url
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				body := fmt.Sprintf(`{"msgtype":"m.text","body":"%d %d"}`, w, i)
				for ctx.Err() == nil {
					mu.Lock()
					url := base
					mu.Unlock()
					req, _ := http.NewRequestWithContext(ctx, "PUT", fmt.Sprintf("%s/_matrix/client/v3/rooms/%s/send/m.room.message/k%d-%d", url, room.RoomID, w, i), strings.NewReader(body))
					req.Header.Set("Authorization", "Bearer "+alice.AccessToken)
					var ok struct {
						ID id.EventID `json:"event_id"`
					}
					resp, err := http.DefaultClient.Do(req)
					if err == nil {
						err = json.NewDecoder(resp.Body).Decode(&ok)
						resp.Body.Close()
					}
					if err == nil && resp.StatusCode == 200 {
						mu.Lock()
						acknowledged[ok.ID] = true
						mu.Unlock()
						break
					}
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	lines := func() (out []txnLine) {
		raw, err := os.ReadFile(record)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(raw)) {
			var x txnLine
			if err := json.Unmarshal([]byte(l), &x); err != nil {
				t.Fatalf("%v in %q", err, l)
			}
			out = append(out, x)
		}
		return out
	}
	more := func(n int) { // transactions from now on
		t.Helper()
		from := len(lines())
		for deadline := time.Now().Add(time.Minute); len(lines()) < from+n; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("only %d transactions came, of %d", len(lines())-from, n)
			}
		}
	}
	for range 3 {
		more(5)
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.run(t)
		mu.Lock()
		base = s.url
		mu.Unlock()
		more(5)
		child.Process.Kill()
		child.Wait()
		time.Sleep(100 * time.Millisecond) // something piles up
		startBridge()
		s.holdfast(t, "appservice", "retry", "net")
	}
	close(stop)
	wg.Wait()
	alice.HomeserverURL.Host = strings.TrimPrefix(s.url, "http://")

	// What the room has since the ghost joined.
	var want []id.EventID
	for from := ""; ; {
		page, err := alice.Messages(ctx, room.RoomID, from, "", mautrix.DirectionForward, nil, 500)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Chunk {
			if len(want) > 0 || e.Type == event.StateMember && e.GetStateKey() == "@net_ghost:hs.test" {
				want = append(want, e.ID)
			}
		}
		if page.End == "" || len(page.Chunk) == 0 {
			break
		}
		from = page.End
	}
	var got []id.EventID
	again := 0
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		got, again = nil, 0
		seen := map[string]bool{}
		var last txnLine
		for _, x := range lines() {
			if x.ID == last.ID {
				again++
				if x.Sum != last.Sum {
					t.Fatalf("the transaction %s came again with other contents", x.ID)
				}
				continue
			}
			if seen[x.ID] {
				t.Fatalf("the transaction %s came again after another", x.ID)
			}
			seen[x.ID], last = true, x
			got = append(got, x.Events...)
		}
		if len(got) >= len(want) || time.Now().After(deadline) {
			break
		}
	}
	if !slices.Equal(got, want) {
		n := 0
		for n < len(got) && n < len(want) && got[n] == want[n] {
			n++
		}
		t.Errorf("the bridge got %d events, the room has %d; they differ from number %d on", len(got), len(want), n)
	}
	if len(acknowledged) < 100 {
		t.Errorf("only %d messages were sent", len(acknowledged))
	}
	in := map[id.EventID]bool{}
	for _, e := range got {
		in[e] = true
	}
	for e := range acknowledged {
		if !in[e] {
			t.Errorf("%s was acknowledged and did not reach the bridge", e)
		}
	}
	t.Logf("%d messages, %d events in order, %d transactions came twice", len(acknowledged), len(got), again)
}
