package feed_test

import (
	"sync"
	"testing"

	"holdfast/homeserver/hstest"
)

// A message to a device that is stored while the device's sync is being answered comes
// with that answer or with the next one: also where the sync acknowledges others in
// the same commit.
func TestToDeviceWhileSyncing(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	const senders, each = 4, 300
	bob.Sync("timeout=0")
	var sending sync.WaitGroup
	for s := range senders {
		sending.Go(func() {
			for n := range each {
				path := "/sendToDevice/m.test/" + hstest.Txn()
				if a := alice.Do("PUT", path, obj{"messages": obj{bob.UserID: obj{bob.DeviceID: obj{"from": s, "n": n}}}}); a.Status != 200 {
					t.Errorf("%d %s", a.Status, a.Body)
				}
			}
		})
	}
	sent := make(chan struct{})
	go func() { sending.Wait(); close(sent) }()
	defer func() { <-sent }()
	var got [senders]int
	for total := 0; total < senders*each; {
		wait, all := "timeout=200", false
		select {
		case <-sent: // what is there now is all that comes
			wait, all = "timeout=0", true
		default:
		}
		events := bob.Sync(wait).At("to_device", "events").List()
		for _, e := range events {
			s := e.At("content", "from").Int()
			if n := e.At("content", "n").Int(); n != got[s] {
				t.Fatalf("sender %d: message %d came where %d was due", s, n, got[s])
			}
			got[s]++
			total++
		}
		if all && len(events) == 0 {
			t.Fatalf("the device got %d of %d messages", total, senders*each)
		}
	}
}
