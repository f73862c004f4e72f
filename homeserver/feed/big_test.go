package feed_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/rooms"
)

// BenchmarkLargeRoom times what is done in a room of thousands of members.
func BenchmarkLargeRoom(b *testing.B) {
	members := 2000
	if s := os.Getenv("MEMBERS"); s != "" {
		fmt.Sscan(s, &members)
	}
	hs := hstest.New(b, nil)
	alice := hs.Login(b, "alice")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	ctx := context.Background()
	start := time.Now()
	for i := range members {
		if err := hs.Rooms.Join(ctx, room, fmt.Sprintf("@u%d:example.org", i), "", nil); err != nil {
			b.Fatal(err)
		}
	}
	b.Logf("%d joins, one after the other, %v each", members, time.Since(start)/time.Duration(members))
	content := json.RawMessage(`{"body":"hello","msgtype":"m.text"}`)
	send := func(i int) {
		n := rooms.NewEvent{RoomID: room, Sender: fmt.Sprintf("@u%d:example.org", i%members), Type: "m.room.message", Content: content}
		if _, err := hs.Rooms.Send(ctx, n); err != nil {
			b.Fatal(err)
		}
	}
	for i := range 50 {
		send(i)
	}
	b.Run("send", func(b *testing.B) {
		for i := range b.N {
			send(i)
		}
	})
	alice.Filter = `{"room":{"timeline":{"limit":20},"state":{"lazy_load_members":true}}}`
	b.Run("first sync, lazy", func(b *testing.B) {
		for range b.N {
			alice.SyncFrom("")
		}
	})
	b.Run("next sync, lazy", func(b *testing.B) {
		alice.Sync()
		for i := range b.N {
			send(i)
			alice.Sync()
		}
	})
	b.Run("messages, lazy", func(b *testing.B) {
		for range b.N {
			alice.Must("GET", hstest.Room(room)+"/messages?dir=b&limit=20&filter=%7B%22lazy_load_members%22%3Atrue%7D", nil)
		}
	})
	b.Run("members", func(b *testing.B) {
		for range b.N {
			alice.Must("GET", hstest.Room(room)+"/members", nil)
		}
	})
	hs.Restart()
	start = time.Now()
	send(1)
	b.Logf("the first message after a restart: %v", time.Since(start))
}
