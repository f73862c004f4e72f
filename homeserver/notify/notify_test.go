package notify

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/store"
)

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New()
		s := h.Subscribe()
		s.Set([]Key{{Room, "!a"}, {User, "@u"}})
		ctx := context.Background()

		start := time.Now()
		if s.Wait(ctx, 0, time.Minute) || time.Since(start) != time.Minute {
			t.Fatalf("woken by nothing after %v", time.Since(start))
		}
		got := make(chan bool)
		go func() { got <- s.Wait(ctx, 5, time.Hour) }()
		synctest.Wait()
		h.Touched(6, []store.Touch{{Kind: Room, Key: "!other", Pos: 6}, {Kind: Typing, Key: "!a", Pos: 6}})
		synctest.Wait()
		select {
		case <-got:
			t.Fatal("woken by keys of others")
		default:
		}
		h.Touched(7, []store.Touch{{Kind: Room, Key: "!a", Pos: 7}})
		if !<-got || s.Pos() != 7 {
			t.Fatalf("position %d", s.Pos())
		}
		// What came before the wait began counts, if it was not seen.
		if !s.Wait(ctx, 6, 0) || s.Wait(ctx, 7, 0) {
			t.Fatal("a change before the wait")
		}
		// Two waiters are both woken; a key that was taken out wakes nobody.
		for range 2 {
			go func() { got <- s.Wait(ctx, 7, time.Hour) }()
		}
		synctest.Wait()
		s.Set([]Key{{User, "@u"}})
		h.Publish(Key{Room, "!a"}, 8)
		synctest.Wait()
		if len(h.subs) != 1 || s.Pos() != 7 {
			t.Fatalf("%d keys, position %d", len(h.subs), s.Pos())
		}
		h.Publish(Key{User, "@u"}, 9)
		for range 2 {
			if !<-got {
				t.Fatal("not woken")
			}
		}
		ctx, cancel := context.WithCancel(ctx)
		go func() { got <- s.Wait(ctx, 9, time.Hour) }()
		synctest.Wait()
		cancel()
		if <-got {
			t.Fatal("an ended wait says that something changed")
		}
		s.Close()
		if len(h.subs) != 0 {
			t.Fatal("a closed subscription is still there")
		}
	})
}
