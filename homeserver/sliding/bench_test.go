package sliding_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/rooms"
)

func envInt(name string, def int) int {
	fmt.Sscan(os.Getenv(name), &def)
	return def
}

// BenchmarkLargeAccount is the first answer to the room list of somebody in many
// rooms, with nothing in memory of the rooms and with all of it, and what a new
// message costs until the answer is there.
func BenchmarkLargeAccount(b *testing.B) {
	n, members := envInt("ROOMS", 2000), envInt("MEMBERS", 50)
	hs := hstest.New(b, nil)
	alice := hs.Login(b, "alice")
	ctx := context.Background()
	ids := make([]string, n)
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := w; i < n; i += 16 {
				id, err := hs.Rooms.Create(ctx, fmt.Sprintf("@u%d:example.org", i%members), rooms.Create{Preset: "public_chat", Name: fmt.Sprint("room ", i)})
				if err != nil {
					b.Error(err)
					return
				}
				ids[i] = id
				for m := range members - 1 {
					if m != i%members {
						if err := hs.Rooms.Join(ctx, id, fmt.Sprintf("@u%d:example.org", m), "", nil); err != nil {
							b.Error(err)
							return
						}
					}
				}
				if err := hs.Rooms.Join(ctx, id, alice.UserID, "", nil); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	first := func() (time.Duration, int) {
		body := roomList(19)
		start := time.Now()
		a := slide(alice, body)
		if a.Status != 200 || len(a.JSON.At("rooms").Keys()) != 20 {
			b.Fatalf("%d %.300s", a.Status, a.Body)
		}
		return time.Since(start), len(a.Body)
	}
	hs.Restart()
	cold, size := first()
	b.Logf("the first answer after a restart: %v, %d bytes", cold, size)
	b.Run("first", func(b *testing.B) {
		var all []time.Duration
		for range b.N {
			d, _ := first()
			all = append(all, d)
		}
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)*95/100].Microseconds())/1000, "p95-ms")
	})
	b.Run("message", func(b *testing.B) {
		l := &loop{c: alice, body: roomList(n)}
		a := slide(alice, l.body)
		pos := a.JSON.At("pos").String()
		content := json.RawMessage(`{"body":"hello","msgtype":"m.text"}`)
		for i := range b.N {
			if _, err := hs.Rooms.Send(ctx, rooms.NewEvent{RoomID: ids[i%n], Sender: fmt.Sprintf("@u%d:example.org", i%n%members), Type: "m.room.message", Content: content}); err != nil {
				b.Fatal(err)
			}
			a = slide(alice, l.body, "pos="+pos, "timeout=5000")
			if len(a.JSON.At("rooms").Keys()) != 1 {
				b.Fatalf("%.300s", a.Body)
			}
			pos = a.JSON.At("pos").String()
		}
	})
}

var posOf, sentAt = regexp.MustCompile(`"pos":"([^"]+)"`), regexp.MustCompile(`"body":"([0-9]{19})"`)

// BenchmarkConnections is how long a message takes from its PUT until it has reached
// each of the connections that wait for it: 200 people in 40 rooms of 50, 50 messages a
// second.
func BenchmarkConnections(b *testing.B) {
	people, n, each := envInt("PEOPLE", 200), envInt("ROOMS", 40), 50
	hs := hstest.New(b, nil)
	ctx := context.Background()
	clients := make([]*hstest.Client, people)
	for i := range clients {
		clients[i] = hs.Login(b, fmt.Sprint("p", i))
	}
	rooms := make([]string, n)
	for i := range rooms {
		rooms[i] = clients[i].CreateRoom(obj{"preset": "public_chat"})
		for m := range each {
			if c := clients[(i*7+m)%people]; c != clients[i] {
				if err := hs.Rooms.Join(ctx, rooms[i], c.UserID, "", nil); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	var (
		mu   sync.Mutex
		took []time.Duration
		wg   sync.WaitGroup
		over = make(chan struct{})
	)
	// The clients read as little as they can: it is the server that is measured.
	web := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: people}}
	ask, err := json.Marshal(roomList(n))
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range clients {
		wg.Go(func() {
			pos, in := "", bytes.Buffer{}
			for {
				select {
				case <-over:
					return
				default:
				}
				req, _ := http.NewRequest("POST", hs.URL+unstable+"?timeout=500&pos="+pos, bytes.NewReader(ask))
				if pos == "" {
					req.URL.RawQuery = "timeout=0"
				}
				req.Header.Set("Authorization", "Bearer "+c.Token)
				res, err := web.Do(req)
				if err != nil {
					b.Error(err)
					return
				}
				in.Reset()
				in.ReadFrom(res.Body)
				res.Body.Close()
				now := time.Now()
				m := posOf.FindSubmatch(in.Bytes())
				if res.StatusCode != 200 || m == nil {
					b.Errorf("%d %s", res.StatusCode, in.Bytes())
					return
				}
				pos = string(m[1])
				for _, m := range sentAt.FindAllSubmatch(in.Bytes(), -1) {
					sent, _ := strconv.ParseInt(string(m[1]), 10, 64)
					mu.Lock()
					took = append(took, now.Sub(time.Unix(0, sent)))
					mu.Unlock()
				}
			}
		})
	}
	time.Sleep(2 * time.Second) // all wait
	tick := time.NewTicker(20 * time.Millisecond)
	for i := range max(b.N, 500) {
		<-tick.C
		wg.Go(func() {
			c := clients[i%n]
			c.Do("PUT", hstest.Room(rooms[i%n])+"/send/m.room.message/"+hstest.Txn(), obj{"msgtype": "m.text", "body": fmt.Sprint(time.Now().UnixNano())})
		})
	}
	time.Sleep(time.Second)
	close(over)
	wg.Wait()
	slices.Sort(took)
	if len(took) == 0 {
		b.Fatal("nothing arrived")
	}
	at := func(p int) float64 { return float64(took[len(took)*p/100].Microseconds()) / 1000 }
	b.ReportMetric(at(50), "p50-ms")
	b.ReportMetric(at(99), "p99-ms")
	b.ReportMetric(float64(len(took)), "deliveries")
}
