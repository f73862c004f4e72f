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

// BenchmarkDeliveryBesideLogins measures how long messages take to ten readers, 20 a
// second, for a while by themselves and for a while beside 20 logins a second with a
// password. Clients and server share the process and its processors. It runs once.
func BenchmarkDeliveryBesideLogins(b *testing.B) {
	const (
		readers   = 10
		perSecond = 20
		people    = 24
		while     = 10 * time.Second
	)
	s := appliancetest.Start(b, "log.level=error")
	sender := s.Login(b, "sender")
	var room struct {
		ID string `json:"room_id"`
	}
	if code := sender.Do(b, "POST", "/_matrix/client/v3/createRoom", map[string]any{"preset": "public_chat"}, &room); code != 200 {
		b.Fatal(code)
	}
	var mu sync.Mutex
	var delays []time.Duration
	stop := make(chan struct{})
	var reading sync.WaitGroup
	for i := range readers {
		u := s.Login(b, fmt.Sprint("reader", i))
		if code := u.Do(b, "POST", "/_matrix/client/v3/join/"+url.PathEscape(room.ID), map[string]any{}, nil); code != 200 {
			b.Fatal(code)
		}
		reading.Go(func() {
			since := ""
			for {
				select {
				case <-stop:
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
					mu.Lock()
					for _, e := range out.Rooms.Join[room.ID].Timeline.Events {
						if e.Content.Sent > 0 {
							delays = append(delays, time.Duration(now-e.Content.Sent)*time.Microsecond)
						}
					}
					mu.Unlock()
				}
				since = out.Next
			}
		})
	}
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
	// phase sends for a while, with logins beside, and returns how long messages took.
	phase := func(logins bool) (took []time.Duration, signedIn, refused int, waits []time.Duration) {
		mu.Lock()
		delays = nil
		mu.Unlock()
		var entering sync.WaitGroup
		tick := time.NewTicker(time.Second / perSecond)
		defer tick.Stop()
		n := 0
		for end := time.Now().Add(while); time.Now().Before(end); n++ {
			<-tick.C
			if logins {
				name := fmt.Sprint("person", n%people)
				entering.Go(func() {
					begun := time.Now()
					code := login(name)
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
			}
			if code := sender.Do(b, "PUT", fmt.Sprintf("/_matrix/client/v3/rooms/%s/send/m.room.message/%d", url.PathEscape(room.ID), time.Now().UnixNano()),
				map[string]any{"msgtype": "m.text", "body": "x", "sent": time.Now().UnixMicro()}, nil); code != 200 {
				b.Fatalf("send: %d", code)
			}
		}
		mu.Lock()
		took = slices.Clone(delays)
		mu.Unlock()
		entering.Wait()
		return took, signedIn, refused, waits
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	for b.Loop() {
		alone, _, _, _ := phase(false)
		before := resident()
		beside, in, refused, waits := phase(true)
		b.ReportMetric(ms(quantile(alone, 0.5)), "alone-p50-ms")
		b.ReportMetric(ms(quantile(alone, 0.99)), "alone-p99-ms")
		b.ReportMetric(ms(quantile(beside, 0.5)), "p50-ms")
		b.ReportMetric(ms(quantile(beside, 0.99)), "p99-ms")
		b.ReportMetric(float64(in), "logins")
		b.ReportMetric(float64(refused), "refused")
		b.ReportMetric(ms(quantile(waits, 0.5)), "login-p50-ms")
		b.ReportMetric(ms(quantile(waits, 0.99)), "login-p99-ms")
		b.ReportMetric((resident()-before)/1e6, "more-MB")
	}
	close(stop)
	reading.Wait()
}
