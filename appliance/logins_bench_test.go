package appliance_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/appliance/appliancetest"
)

// quantile is the value below which a part of the measured ones is.
func quantile(all []time.Duration, part float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(len(all)-1, int(part*float64(len(all))))]
}

// resident is the most memory that this process had, in bytes; 0: unknown.
func resident() float64 {
	b, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	n, _ := strconv.ParseFloat(strings.TrimSpace(strings.Split(rest, "kB")[0]), 64)
	return n * 1024
}

// delivery is a room with readers, and how long messages take to them. Clients and server
// share the process and its processors.
type delivery struct {
	s       *appliancetest.Server
	sender  *appliancetest.User
	room    string
	stop    chan struct{}
	reading sync.WaitGroup

	mu     sync.Mutex
	delays []time.Duration
}

const (
	deliveryReaders   = 10
	deliveryPerSecond = 20
)

// newDelivery has ten readers wait for the messages of a room, until Close.
func newDelivery(b *testing.B, s *appliancetest.Server) *delivery {
	d := &delivery{s: s, sender: s.Login(b, "sender"), stop: make(chan struct{})}
	var room struct {
		ID string `json:"room_id"`
	}
	if code := d.sender.Do(b, "POST", "/_matrix/client/v3/createRoom", map[string]any{"preset": "public_chat"}, &room); code != 200 {
		b.Fatal(code)
	}
	d.room = room.ID
	for i := range deliveryReaders {
		u := s.Login(b, fmt.Sprint("reader", i))
		if code := u.Do(b, "POST", "/_matrix/client/v3/join/"+url.PathEscape(d.room), map[string]any{}, nil); code != 200 {
			b.Fatal(code)
		}
		d.reading.Go(func() { d.read(b, u) })
	}
	return d
}

func (d *delivery) read(b *testing.B, u *appliancetest.User) {
	since := ""
	for {
		select {
		case <-d.stop:
			return
		default:
		}
		var out struct {
			Next  string `json:"next_batch"`
			Rooms struct {
				Join map[string]struct {
					Timeline struct {
						Events []struct {
							Content struct {
								Sent int64 `json:"sent"`
							} `json:"content"`
						} `json:"events"`
					} `json:"timeline"`
				} `json:"join"`
			} `json:"rooms"`
		}
		q := url.Values{"timeout": {"1000"}}
		if since != "" {
			q.Set("since", since)
		}
		if code := u.Do(b, "GET", "/_matrix/client/v3/sync?"+q.Encode(), nil, &out); code != 200 {
			b.Errorf("sync: %d", code)
			return
		}
		now := time.Now().UnixMicro()
		if since != "" {
			d.mu.Lock()
			for _, e := range out.Rooms.Join[d.room].Timeline.Events {
				if e.Content.Sent > 0 {
					d.delays = append(d.delays, time.Duration(now-e.Content.Sent)*time.Microsecond)
				}
			}
			d.mu.Unlock()
		}
		since = out.Next
	}
}

// phase sends 20 messages a second while going says so, calls beside before each, and
// returns how long they took.
func (d *delivery) phase(b *testing.B, going func() bool, beside func(n int)) []time.Duration {
	d.mu.Lock()
	d.delays = nil
	d.mu.Unlock()
	tick := time.NewTicker(time.Second / deliveryPerSecond)
	defer tick.Stop()
	for n := 0; going(); n++ {
		<-tick.C
		if beside != nil {
			beside(n)
		}
		if code := d.sender.Do(b, "PUT", fmt.Sprintf("/_matrix/client/v3/rooms/%s/send/m.room.message/%d", url.PathEscape(d.room), time.Now().UnixNano()),
			map[string]any{"msgtype": "m.text", "body": "x", "sent": time.Now().UnixMicro()}, nil); code != 200 {
			b.Fatalf("send: %d", code)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.delays)
}

// Close ends the reading.
func (d *delivery) Close() {
	close(d.stop)
	d.reading.Wait()
}

// during is a phase of a time.
func during(d time.Duration) func() bool {
	end := time.Now().Add(d)
	return func() bool { return time.Now().Before(end) }
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// BenchmarkDeliveryBesideLogins measures how long messages take to ten readers, 20 a
// second, for a while by themselves and for a while beside 20 logins a second with a
// password. It runs once.
func BenchmarkDeliveryBesideLogins(b *testing.B) {
	const (
		people = 24
		while  = 10 * time.Second
	)
	s := appliancetest.Start(b, "log.level=error")
	d := newDelivery(b, s)
	defer d.Close()
	for i := range people {
		s.Login(b, fmt.Sprint("person", i))
	}
	login := func(name string) int {
		body, _ := json.Marshal(map[string]any{"type": "m.login.password", "identifier": map[string]string{"type": "m.id.user", "user": name}, "password": appliancetest.Password})
		resp, err := http.Post(s.URL+"/_matrix/client/v3/login", "application/json", bytes.NewReader(body))
		if err != nil {
			b.Error(err)
			return 0
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	for b.Loop() {
		alone := d.phase(b, during(while), nil)
		before := resident()
		var (
			mu                sync.Mutex
			entering          sync.WaitGroup
			signedIn, refused int
			waits             []time.Duration
		)
		beside := d.phase(b, during(while), func(n int) {
			entering.Go(func() {
				begun := time.Now()
				code := login(fmt.Sprint("person", n%people))
				mu.Lock()
				defer mu.Unlock()
				switch code {
				case 200:
					signedIn++
					waits = append(waits, time.Since(begun))
				case http.StatusTooManyRequests:
					refused++
				default:
					b.Errorf("login: %d", code)
				}
			})
		})
		entering.Wait()
		b.ReportMetric(ms(quantile(alone, 0.5)), "alone-p50-ms")
		b.ReportMetric(ms(quantile(alone, 0.99)), "alone-p99-ms")
		b.ReportMetric(ms(quantile(beside, 0.5)), "p50-ms")
		b.ReportMetric(ms(quantile(beside, 0.99)), "p99-ms")
		b.ReportMetric(float64(signedIn), "logins")
		b.ReportMetric(float64(refused), "refused")
		b.ReportMetric(ms(quantile(waits, 0.5)), "login-p50-ms")
		b.ReportMetric(ms(quantile(waits, 0.99)), "login-p99-ms")
		b.ReportMetric((resident()-before)/1e6, "more-MB")
	}
}
