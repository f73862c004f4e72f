package clients

import (
	"bufio"
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// A bot with matrix-bot-sdk joins by invitation and answers, and after it was away
// answers what was said meanwhile, once.
func TestBotSDK(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s := start(t)
	s.addUser(t, "alice")
	bot := s.addUser(t, "robot")
	alice := s.login(t, ctx, "alice")
	answers, joined := make(chan string, 10), make(chan struct{}, 1)
	sync := alice.Syncer.(*mautrix.DefaultSyncer)
	sync.OnEventType(event.EventMessage, func(_ context.Context, ev *event.Event) {
		if ev.Sender == bot {
			answers <- ev.Content.AsMessage().Body
		}
	})
	sync.OnEventType(event.StateMember, func(_ context.Context, ev *event.Event) {
		if ev.GetStateKey() == bot.String() && ev.Content.AsMember().Membership == event.MembershipJoin {
			joined <- struct{}{}
		}
	})
	alice.run(t, ctx)
	store := filepath.Join(t.TempDir(), "bot.json")
	run := func() (stop func()) {
		cmd := exec.CommandContext(ctx, nodeBin(t), "bot.mjs", s.url, "robot", password, store)
		cmd.Dir = "js"
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); strings.TrimSpace(line) != "ready" {
			t.Fatalf("%q %v\n%s", line, err, stderr.String())
		}
		return func() { cmd.Process.Kill(); cmd.Wait() }
	}
	stop := run()
	room, err := alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "private_chat", Invite: []id.UserID{bot}})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, ctx, joined, "the bot's join")
	say := func() {
		if _, err := alice.SendText(ctx, room.RoomID, "!hello"); err != nil {
			t.Fatal(err)
		}
	}
	expect := func() {
		t.Helper()
		if got := wait(t, ctx, answers, "the bot's answer"); !strings.Contains(got, "hello "+alice.UserID.String()) {
			t.Errorf("the bot says %q", got)
		}
	}
	say()
	expect()
	stop()
	say()
	stop = run()
	defer stop()
	expect()
	say()
	expect()
	select {
	case more := <-answers:
		t.Errorf("the bot answered twice: %q", more)
	default:
	}
}
