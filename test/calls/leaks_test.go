//go:build linux

package calls

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	lksdk "github.com/livekit/server-sdk-go/v2"

	"github.com/livekit/protocol/livekit"
	"github.com/livekit/protocol/logger"
	"github.com/pion/webrtc/v4"

	"holdfast/appliance/appliancetest"
	"holdfast/appliance/config"
	"holdfast/sfu/process"
)

// shortCall is a call that is made by a crowd, a process of its own.
type shortCall struct {
	N    int
	URL  string
	JWTs []string // of those who take part
	// TURN has the first one's media relayed, Video has it show a picture.
	TURN, Video bool
	// Vanish is the token of somebody who comes, says nothing and is cut off.
	Vanish string
}

// crowd makes calls, some at a time.
type crowd struct {
	in    io.WriteCloser
	lines *bufio.Scanner
}

func startCrowd(t *testing.T) *crowd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrowd$", "-test.timeout=30m")
	cmd.Env = append(os.Environ(), "CALL_CROWD=4")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(t, cmd)
	return &crowd{in, bufio.NewScanner(out)}
}

// call has the crowd make calls, and waits until it has.
func (c *crowd) call(t *testing.T, calls []shortCall) {
	t.Helper()
	go func() {
		for _, x := range calls {
			if json.NewEncoder(c.in).Encode(x) != nil {
				return // the test sees that the process ended
			}
		}
	}()
	for n := 0; n < len(calls); {
		if !c.lines.Scan() {
			t.Fatal("the callers' process ended")
		}
		if rest, ok := strings.CutPrefix(c.lines.Text(), "call "); ok {
			n++
			if !strings.HasSuffix(rest, ": made") {
				t.Errorf("call %s", rest)
			}
		}
	}
}

// TestCrowd is a crowd.
func TestCrowd(t *testing.T) {
	at, err := strconv.Atoi(os.Getenv("CALL_CROWD"))
	if err != nil {
		t.Skip("runs in a process of its own only")
	}
	todo := make(chan shortCall)
	var wg sync.WaitGroup
	for range at {
		wg.Go(func() {
			for c := range todo {
				what := "made"
				if err := c.hold(t.Context()); err != nil {
					what = err.Error()
				}
				fmt.Printf("call %d: %s\n", c.N, what)
			}
		})
	}
	for in := json.NewDecoder(os.Stdin); ; {
		var c shortCall
		if err := in.Decode(&c); err != nil {
			break
		}
		todo <- c
	}
	close(todo)
	wg.Wait()
}

// enough is how many packets each must get of each track.
const enough = 15

// hold has everybody join, waits until each gets what all others send, and ends it.
func (c *shortCall) hold(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if c.Vanish != "" {
		ws, _, err := websocket.DefaultDialer.DialContext(ctx, c.URL+"/rtc?protocol=15&auto_subscribe=1&access_token="+c.Vanish, nil)
		if err != nil {
			return err
		}
		_, _, err = ws.ReadMessage()
		ws.NetConn().Close() // without a good-bye
		if err != nil {
			return err
		}
	}
	rooms := make([]*lksdk.Room, len(c.JWTs))
	tracks := len(c.JWTs) - 1
	full := make([]atomic.Int32, len(c.JWTs)) // tracks of which enough came
	errs := make(chan error, len(c.JWTs))
	for i, jwt := range c.JWTs {
		go func() {
			cb := lksdk.NewRoomCallback()
			cb.OnTrackSubscribed = func(track *webrtc.TrackRemote, _ *lksdk.RemoteTrackPublication, _ *lksdk.RemoteParticipant) {
				for n := 1; ; n++ {
					if _, _, err := track.ReadRTP(); err != nil {
						return
					}
					if n == enough {
						full[i].Add(1)
					}
				}
			}
			opts := []lksdk.ConnectOption{lksdk.WithLogger(logger.GetDiscardLogger()), lksdk.WithDisableRegionDiscovery(), lksdk.WithConnectTimeout(30 * time.Second)}
			if c.TURN && i == 0 {
				opts = append(opts, lksdk.WithICETransportPolicy(webrtc.ICETransportPolicyRelay))
			}
			var err error
			if rooms[i], err = lksdk.ConnectToRoomWithToken(c.URL, jwt, cb, opts...); err != nil {
				errs <- err
				return
			}
			errs <- c.send(rooms[i], i)
		}()
	}
	var all error
	for range c.JWTs {
		all = errors.Join(all, <-errs)
	}
	defer func() {
		for _, r := range rooms {
			if r != nil {
				r.Disconnect()
			}
		}
	}()
	for all == nil {
		done := true
		for i := range full {
			want := tracks
			if c.Video && i != 0 {
				want++
			}
			done = done && int(full[i].Load()) >= want
		}
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("not everybody got everybody's media")
		case <-time.After(20 * time.Millisecond):
		}
	}
	return all
}

func (c *shortCall) send(room *lksdk.Room, i int) error {
	publish := func(kind webrtc.RTPCodecCapability, from lksdk.SampleProvider, o lksdk.TrackPublicationOptions) error {
		track, err := lksdk.NewLocalTrack(kind)
		if err != nil {
			return err
		}
		if err := track.StartWrite(from, nil); err != nil {
			return err
		}
		_, err = room.LocalParticipant.PublishTrack(track, &o)
		return err
	}
	err := publish(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}, &voice{},
		lksdk.TrackPublicationOptions{Name: "mic", Source: livekit.TrackSource_MICROPHONE})
	if err == nil && c.Video && i == 0 {
		l := cameraLayers[0]
		err = publish(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8, ClockRate: 90000}, &picture{layer: l},
			lksdk.TrackPublicationOptions{Name: "camera", Source: livekit.TrackSource_CAMERA, VideoWidth: l.width, VideoHeight: l.height})
	}
	return err
}

// plan is n calls of people who are in the room, from number first on.
func (h house) plan(t *testing.T, roomID string, people []*appliancetest.User, first, n int) (out []shortCall) {
	t.Helper()
	proofs := map[string]any{}
	for _, u := range people {
		proofs[u.ID] = openID(t, u)
	}
	for i := first; i < first+n; i++ {
		c := shortCall{N: i, Video: i%4 == 1, TURN: i%8 == 3}
		ask := func(u *appliancetest.User) string {
			b, err := json.Marshal(map[string]any{"room_id": roomID, "slot_id": fmt.Sprint("m.call#", i), "openid_token": proofs[u.ID],
				"member": map[string]string{"id": "1", "claimed_user_id": u.ID, "claimed_device_id": u.Device}})
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.Post(h.URL+"/livekit/jwt/get_token", "application/json", strings.NewReader(string(b)))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var out map[string]string
			if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || resp.StatusCode != http.StatusOK {
				t.Fatal(resp.Status, out, err)
			}
			c.URL = out["url"]
			return out["jwt"]
		}
		in := people[:2+i%2]
		for _, u := range in {
			c.JWTs = append(c.JWTs, ask(u))
		}
		if i%20 == 10 && i < first+n*3/4 { // it takes a while until the last are missed
			c.Vanish = ask(people[3])
		}
		out = append(out, c)
	}
	return out
}

// After many calls, some of them cut off, neither the appliance nor the relay's process
// holds more than before: no goroutine, no socket, no memory.
func TestNothingStays(t *testing.T) {
	calls := 200
	configure := func(c *config.Config) { c.CallsKept = time.Second }
	if s := os.Getenv("HOLDFAST_CALLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("HOLDFAST_CALLS is %q, which is no number of calls", s)
		}
		calls, configure = n, func(*config.Config) {}
	}
	h := house{appliancetest.StartConfigured(t, configure, "server_name="+appliancetest.ServerName, "tls.mode=off", "listen.http=127.0.0.1:0",
		"listen.metrics=", "limits.enabled=false", "log.level=warn")}
	var people []*appliancetest.User
	for _, name := range []string{"alice", "bob", "carol", "dave"} {
		people = append(people, h.Login(t, name))
	}
	roomID := h.makeRoom(t, people[0], people[1:]...)
	everybody := startCrowd(t)

	begun := time.Now()
	measure := func() (house, relay process.Usage) {
		t.Helper()
		http.DefaultClient.CloseIdleConnections() // this process' own
		var err error
		if house, err = process.MeasureUsage(); err == nil {
			relay, err = h.Relay().Usage(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		return house, relay
	}
	// rest waits until no call is left, and then until nothing gets less any more.
	rest := func() (house, relay process.Usage) {
		t.Helper()
		eventually(t, "all calls have ended", 3*time.Minute, func() bool { return h.Relay().Stats().Rooms == 0 })
		house, relay = measure()
		for still := 0; still < 4; {
			time.Sleep(500 * time.Millisecond)
			a, b := measure()
			still++
			if a.Goroutines < house.Goroutines || a.OpenFiles < house.OpenFiles || b.Goroutines < relay.Goroutines || b.OpenFiles < relay.OpenFiles {
				still = 0
			}
			house, relay = a, b
		}
		t.Logf("%v: the appliance has %+v, the relay %+v", time.Since(begun).Round(time.Second), house, relay)
		return house, relay
	}
	house, relay := rest()
	everybody.call(t, h.plan(t, roomID, people, 0, 8)) // makes what is made once
	house0, relay0 := rest()
	// Some of LiveKit's goroutines see only with their next tick that their call is over.
	house0.Goroutines, relay0.Goroutines = min(house0.Goroutines, house.Goroutines+5), min(relay0.Goroutines, relay.Goroutines+5)
	profiles(t, h, "before")
	for done := 0; done < calls; done += 200 {
		everybody.call(t, h.plan(t, roomID, people, 1000+done, min(200, calls-done)))
		t.Logf("%v: %d calls were made", time.Since(begun).Round(time.Second), min(done+200, calls))
	}
	house1, relay1 := rest()
	if s := h.Relay().Status(); s.Restarts != 0 {
		t.Errorf("the relay's process ended: %s", s.Reason)
	}
	for _, c := range []struct {
		name    string
		was, is process.Usage
	}{{"the appliance", house0, house1}, {"the relay", relay0, relay1}} {
		if c.is.Goroutines > c.was.Goroutines+10 {
			t.Errorf("%s has %d goroutines after %d calls, %d before", c.name, c.is.Goroutines, calls, c.was.Goroutines)
		}
		if c.is.OpenFiles > c.was.OpenFiles+5 {
			t.Errorf("%s has %d open files after %d calls, %d before", c.name, c.is.OpenFiles, calls, c.was.OpenFiles)
		}
	}
	// The tickets of ten minutes are among it.
	if more := (house1.HeapBytes - house0.HeapBytes) / int64(calls); more > 8<<10 {
		t.Errorf("the appliance holds %d bytes more for each of %d calls", more, calls)
	}
	// LiveKit looks at each participant a minute after it came, and holds it until then.
	// Other tests need not wait. The runtime keeps some megabytes for as many goroutines as
	// there were at once.
	t.Parallel()
	relay = relay1
	for end := time.Now().Add(5 * time.Minute); relay.HeapBytes > relay0.HeapBytes+8<<20+int64(calls)*(2<<10); time.Sleep(5 * time.Second) {
		if time.Now().After(end) {
			t.Errorf("the relay holds %d bytes more for each of %d calls", (relay.HeapBytes-relay0.HeapBytes)/int64(calls), calls)
			break
		}
		var err error
		if relay, err = h.Relay().Usage(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%v: the relay %+v", time.Since(begun).Round(time.Second), relay)
	profiles(t, h, "after")
}

// profiles writes what is there into the folder HOLDFAST_PROFILES, for `go tool pprof`.
func profiles(t *testing.T, h house, when string) {
	t.Helper()
	dir := os.Getenv("HOLDFAST_PROFILES")
	if dir == "" {
		return
	}
	for _, name := range []string{"goroutine", "heap"} {
		relay, err := h.Relay().Profile(t.Context(), name, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		house, err := process.TakeProfile(t.Context(), name, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		for who, b := range map[string][]byte{"relay": relay, "appliance": house} {
			if err := os.WriteFile(filepath.Join(dir, who+"-"+when+"."+name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}
