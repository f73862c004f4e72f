package clients

import (
	"context"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// holdfast group room puts somebody into an encrypted room with a power level: a client
// library sees the join and the level in its sync, shares its keys with the devices of
// who came, and they read what is written. Out of the group is out of the room.
func TestGroupRoom(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s := start(t)
	alice := s.login(t, ctx, string(s.addUser(t, "alice")))
	bobID := s.addUser(t, "bob")
	bob := s.login(t, ctx, "bob")
	members, levels, texts, left := make(chan *event.Event, 16), make(chan int, 16), make(chan string, 16), make(chan string, 16)
	syncer := alice.Syncer.(*mautrix.DefaultSyncer)
	syncer.OnEventType(event.StateMember, func(_ context.Context, ev *event.Event) {
		if ev.GetStateKey() == bobID.String() && ev.Content.AsMember().Membership == event.MembershipJoin {
			members <- ev
		}
	})
	syncer.OnEventType(event.StatePowerLevels, func(_ context.Context, ev *event.Event) {
		levels <- ev.Content.AsPowerLevels().GetUserLevel(bobID)
	})
	syncer = bob.Syncer.(*mautrix.DefaultSyncer)
	syncer.OnEventType(event.EventMessage, func(_ context.Context, ev *event.Event) {
		if !ev.Mautrix.WasEncrypted {
			t.Error("the message came in the clear")
		}
		texts <- ev.Content.AsMessage().Body
	})
	syncer.OnEventType(event.StateMember, func(_ context.Context, ev *event.Event) {
		if ev.GetStateKey() == bobID.String() && ev.Content.AsMember().Membership == event.MembershipLeave {
			left <- ev.Content.AsMember().Reason
		}
	})
	alice.run(t, ctx)
	bob.run(t, ctx)
	room, err := alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "private_chat", InitialState: []*event.Event{{
		Type: event.StateEncryption, Content: event.Content{Parsed: &event.EncryptionEventContent{Algorithm: id.AlgorithmMegolmV1}}}}})
	if err != nil {
		t.Fatal(err)
	}
	// Who is there without a device that can read gets no keys.
	for {
		keys, err := alice.QueryKeys(ctx, &mautrix.ReqQueryKeys{DeviceKeys: mautrix.DeviceKeysRequest{bobID: {}}})
		if err != nil {
			t.Fatal(err)
		}
		if len(keys.DeviceKeys[bobID]) > 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.command(t, 0, "group", "add", "Watch")
	contains(t, s.command(t, 0, "group", "room", "add", "Watch", room.RoomID.String(), "--level", "50"), "group room list")
	s.command(t, 0, "group", "join", "Watch", "bob")
	wait(t, ctx, members, "bob's join")
	for wait(t, ctx, levels, "bob's power level") != 50 {
	}
	if _, err := alice.SendText(ctx, room.RoomID, "to the watch"); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, ctx, texts, "the message"); got != "to the watch" {
		t.Errorf("bob reads %q", got)
	}
	s.command(t, 0, "group", "leave", "Watch", "bob")
	contains(t, wait(t, ctx, left, "bob's end in the room"), "not any more in a group")
	for wait(t, ctx, levels, "the end of bob's power level") != 0 {
	}
	select {
	case err := <-bob.undecrypted:
		t.Errorf("bob could not decrypt: %v", err)
	default:
	}
}
