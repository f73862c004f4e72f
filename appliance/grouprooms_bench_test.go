package appliance_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/appliancetest"
)

// BenchmarkThousandPeopleIntoRooms measures what a house of 1,000 people costs on its first
// day: their list is imported, and their group put into 15 private rooms, and with a power
// level into a space and its five, while 20 messages a second go to ten readers of another
// room. It runs once.
func BenchmarkThousandPeopleIntoRooms(b *testing.B) {
	const people, alone, inSpace = 1000, 15, 5
	s := appliancetest.Start(b, "log.level=error")
	d := newDelivery(b, s)
	defer d.Close()
	owner := s.Login(b, "owner")
	create := func(req map[string]any) string {
		req["preset"] = "private_chat"
		var room struct {
			ID string `json:"room_id"`
		}
		if code := owner.Do(b, "POST", "/_matrix/client/v3/createRoom", req, &room); code != 200 {
			b.Fatalf("createRoom: %d", code)
		}
		return room.ID
	}
	cli := func(args ...string) string {
		out, e, code := s.CLI(b, args...)
		if code != 0 {
			b.Errorf("%q: %s", args, e)
		}
		return out
	}
	var rooms []string
	for i := range alone {
		rooms = append(rooms, create(map[string]any{"name": fmt.Sprint("Room ", i+1)}))
	}
	space := create(map[string]any{"name": "House", "creation_content": map[string]any{"type": "m.space"}})
	within := []string{space}
	for i := range inSpace {
		via := map[string]any{"via": []string{appliancetest.ServerName}}
		room := create(map[string]any{"name": fmt.Sprint("Ward ", i+1), "initial_state": []any{map[string]any{"type": "m.space.parent", "state_key": space, "content": via}}})
		if code := owner.Do(b, "PUT", "/_matrix/client/v3/rooms/"+url.PathEscape(space)+"/state/m.space.child/"+url.PathEscape(room), via, nil); code != 200 {
			b.Fatalf("m.space.child: %d", code)
		}
		within = append(within, room)
	}
	list := filepath.Join(b.TempDir(), "people.csv")
	var csv strings.Builder
	csv.WriteString("employeeid,username,displayname,groups\n")
	for i := range people {
		fmt.Fprintf(&csv, "%d,person%04d,Person %d,staff\n", 1000+i, i, i)
	}
	if err := os.WriteFile(list, []byte(csv.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	// while measures the other room until f has ended.
	while := func(f func()) (took time.Duration, delays []time.Duration) {
		begun, done := time.Now(), make(chan struct{})
		go func() { defer close(done); f(); took = time.Since(begun) }()
		delays = d.phase(b, func() bool {
			select {
			case <-done:
				return false
			default:
				return true
			}
		}, nil)
		return took, delays
	}
	// live is the memory in use, in bytes, of server and clients.
	live := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	for b.Loop() {
		quiet := d.phase(b, during(10*time.Second), nil)
		before, liveBefore := resident(), live()
		imported, besideImport := while(func() {
			var out struct {
				Plan struct {
					Number string
					Make   []any
				}
			}
			if err := json.Unmarshal([]byte(cli("user", "import", list, "--json")), &out); err != nil || len(out.Plan.Make) != people {
				b.Errorf("%v: %d are made", err, len(out.Plan.Make))
			}
			cli("user", "import", list, "--apply", out.Plan.Number)
		})
		placed, besidePlacing := while(func() {
			for _, room := range rooms {
				cli("group", "room", "add", "staff", room)
			}
			cli("group", "room", "add", "staff", space, "--rooms", "--level", "moderator")
			giveUp := during(10 * time.Minute)
			for _, room := range append(rooms, within...) {
				for in := 0; in != people+1; time.Sleep(100 * time.Millisecond) {
					var m struct{ Joined map[string]any }
					owner.Do(b, "GET", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/joined_members", nil, &m)
					if in = len(m.Joined); !giveUp() {
						b.Errorf("%d are in the room: %s", in, cli("group", "room", "list"))
						return
					}
				}
			}
		})
		for _, room := range within {
			var levels struct{ Users map[string]int }
			owner.Do(b, "GET", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/state/m.room.power_levels", nil, &levels)
			if len(levels.Users) < people {
				b.Errorf("%d people have a power level", len(levels.Users))
			}
		}
		b.ReportMetric(ms(quantile(quiet, 0.99)), "alone-p99-ms")
		b.ReportMetric(imported.Seconds(), "import-s")
		b.ReportMetric(ms(quantile(besideImport, 0.99)), "import-p99-ms")
		b.ReportMetric(placed.Seconds(), "rooms-s")
		b.ReportMetric(ms(quantile(besidePlacing, 0.5)), "rooms-p50-ms")
		b.ReportMetric(ms(quantile(besidePlacing, 0.99)), "rooms-p99-ms")
		b.ReportMetric((resident()-before)/1e6, "more-MB")
		b.ReportMetric((live()-liveBefore)/1e6, "live-MB")
	}
}
