//go:build linux

package calls

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	lksdk "github.com/livekit/server-sdk-go/v2"

	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"github.com/livekit/protocol/logger"
	"github.com/pion/webrtc/v4"

	"holdfast/appliance/appliancetest"
)

// capacity is the part of docs/dev/calls.md that `make bench-calls` measured.
const capacity = `
## What the relay carries

` + "`" + `make bench-calls` + "`" + ` has the program's relay and LiveKit's own program of the same version (built with its
own pins, in ` + "`" + `test/calls/plain` + "`" + `) carry the same room side by side, at the same time and on the same cores;
participants are LiveKit's Go client in processes of their own. By turns, one and the same server differed
by a fifth from one time to the next; side by side, five ratios are within a few per cent. Processor time is
that of the relay's process, memory what came on top of a first small call. Packets are those sent to
listeners; pictures are VP8 frames in three sizes (simulcast), of 120, 400 and 1700 kbit/s. Medians of five
times 20 s, on two quiet cores; no packet was lost.

| room | server | tracks | packets/s | µs a packet | packets/s a core | MB a participant |
|---|---|---|---|---|---|---|
| sound, 10 to 50 | ours | 500 | 25 000 | 12.6 | 79 600 | 3.0 |
| sound, 10 to 50 | LiveKit as it comes | 500 | 25 000 | 13.6 | 73 700 | 3.2 |
| pictures, 4 to 16 | ours | 64 | 11 518 | 13.9 | 71 900 | 3.3 |
| pictures, 4 to 16 | LiveKit as it comes | 64 | 11 524 | 13.7 | 73 200 | 3.6 |

Of LiveKit's processor time ours takes 93 % (sound) and 102 % (pictures), of its memory 90 % and 92 %. The
bench fails where it is more than 105 %. LiveKit as it comes does not estimate what a listener's line
carries unless the client does, and this client does not; the estimate (see above) costs pictures 10 %.
What makes up for it is that the relay's timers may be late by half a millisecond (` + "`" + `sfu/process` + "`" + `): Go's runtime
looks after its threads every 20 µs, which took an eighth of the time before.
`

// load is a room that is filled by a process of its own.
type load struct {
	Name        string
	Publishers  int
	Subscribers int
	Video       bool
}

// loads are what is measured.
var loads = []load{{"sound, 10 to 50", 10, 50, false}, {"pictures, 4 to 16", 4, 16, true}}

func (l load) tracks() int { return l.Publishers * l.Subscribers }

// crew is where the load's participants go: publishers first.
type crew struct {
	Load load
	URL  string
	JWTs []string
}

// received is what came in a while.
type received struct {
	Packets, Lost, Bytes int64
	Seconds              float64
	Widths               map[int]int // how many tracks show a picture of that width
}

// flow counts the packets of one track.
type flow struct {
	mu                    sync.Mutex
	packets, bytes, width int64
	first, last           uint16
	turns                 int64 // of the sequence number
	began                 bool
}

func (f *flow) add(seq uint16, payload []byte, video bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !f.began:
		f.began, f.first, f.last = true, seq, seq
	case seq-f.last < 1<<15: // not an old one
		if seq < f.last {
			f.turns++
		}
		f.last = seq
	}
	f.packets++
	f.bytes += int64(len(payload))
	if video {
		if w, begins := keyWidth(payload); begins && w > 0 {
			f.width = int64(w)
		}
	}
}

// take returns what came since the last time.
func (f *flow) take() (packets, bytes, lost int64, width int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.began {
		lost = f.turns<<16 + int64(f.last) - int64(f.first) + 1 - f.packets
	}
	packets, bytes = f.packets, f.bytes
	f.packets, f.bytes, f.turns, f.began = 0, 0, 0, false
	return packets, bytes, max(lost, 0), int(f.width)
}

// TestLoad is the process that fills a room.
func TestLoad(t *testing.T) {
	if os.Getenv("CALL_LOAD") == "" {
		t.Skip("runs in a process of its own only")
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	var c crew
	if !in.Scan() {
		t.Fatal("nothing to do")
	}
	if err := json.Unmarshal(in.Bytes(), &c); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var flows []*flow
	join := func(jwt string, receives bool) *lksdk.Room {
		cb := lksdk.NewRoomCallback()
		cb.OnTrackSubscribed = func(track *webrtc.TrackRemote, _ *lksdk.RemoteTrackPublication, _ *lksdk.RemoteParticipant) {
			f := &flow{}
			mu.Lock()
			flows = append(flows, f)
			mu.Unlock()
			for {
				p, _, err := track.ReadRTP()
				if err != nil {
					return
				}
				f.add(p.SequenceNumber, p.Payload, c.Load.Video)
			}
		}
		room, err := lksdk.ConnectToRoomWithToken(c.URL, jwt, cb, lksdk.WithLogger(logger.GetDiscardLogger()), lksdk.WithAutoSubscribe(receives),
			lksdk.WithDisableRegionDiscovery(), lksdk.WithConnectTimeout(60*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		return room
	}
	for i, jwt := range c.JWTs {
		room := join(jwt, i >= c.Load.Publishers)
		defer room.Disconnect()
		switch {
		case i >= c.Load.Publishers:
		case c.Load.Video:
			show(t, room, "camera", livekit.TrackSource_CAMERA, cameraLayers)
		default:
			track, err := lksdk.NewLocalTrack(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2})
			if err == nil {
				err = track.StartWrite(&voice{}, nil)
			}
			if err == nil {
				_, err = room.LocalParticipant.PublishTrack(track, &lksdk.TrackPublicationOptions{Name: "mic", Source: livekit.TrackSource_MICROPHONE})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		mu.Lock()
		n := len(flows)
		mu.Unlock()
		if n == c.Load.tracks() {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d tracks come, want %d", n, c.Load.tracks())
		}
	}
	fmt.Println("load ready")
	begun := time.Now()
	for in.Scan() { // each line ends a while
		out := received{Seconds: time.Since(begun).Seconds(), Widths: map[int]int{}}
		begun = time.Now()
		mu.Lock()
		for _, f := range flows {
			packets, bytes, lost, width := f.take()
			out.Packets += packets
			out.Bytes += bytes
			out.Lost += lost
			if c.Load.Video {
				out.Widths[width]++
			}
		}
		mu.Unlock()
		b, err := json.Marshal(out)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("load %s\n", b)
	}
}

// relay is a server whose room is filled.
type relay struct {
	pid  int
	crew func(l load) crew
}

// figures are what was measured of a server.
type figures struct {
	received
	CPU    float64 // seconds
	Idle   int64   // memory before, bytes
	Memory int64   // at the end
	tracks int
	people int
}

// Packets that did not come were sent, too: on one machine only the receiver loses any.
func (f figures) perPacket() float64 { return f.CPU / float64(f.Packets+f.Lost) * 1e6 } // microseconds
func (f figures) perCore() float64   { return float64(f.Packets+f.Lost) / f.CPU }
func (f figures) perPerson() float64 { return float64(f.Memory-f.Idle) / float64(f.people) / 1e6 }

// used is a process's processor time and memory.
func used(t *testing.T, pid int) (cpu float64, memory int64) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from the state on
	const user, system, hundredths = 11, 12, 100
	for _, s := range f[user : system+1] {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		cpu += float64(n) / hundredths
	}
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return cpu, pages * int64(os.Getpagesize())
}

// measure fills a room of a server and looks at it for a while, which begins when
// together returns.
func (r relay) measure(t *testing.T, l load, while time.Duration, together func()) (out figures) {
	t.Helper()
	c := r.crew(l)
	_, out.Idle = used(t, r.pid)
	cmd := exec.Command(os.Args[0], "-test.run=^TestLoad$", "-test.timeout=15m")
	cmd.Env = append(os.Environ(), "CALL_LOAD=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(t, cmd)
	lines := bufio.NewScanner(stdout)
	expect := func(v any) {
		t.Helper()
		for lines.Scan() {
			rest, ok := strings.CutPrefix(lines.Text(), "load ")
			if ok && (rest == "ready" || json.Unmarshal([]byte(rest), v) == nil) {
				return
			}
			t.Log(lines.Text())
		}
		t.Fatal("the load's process ended")
	}
	if err := json.NewEncoder(in).Encode(c); err != nil {
		t.Fatal(err)
	}
	expect(nil)
	together()
	time.Sleep(while / 4) // pictures grow to their size, and estimates settle
	fmt.Fprintln(in)
	expect(&received{})
	before, _ := used(t, r.pid)
	time.Sleep(while)
	fmt.Fprintln(in)
	after, memory := used(t, r.pid)
	expect(&out.received)
	out.CPU, out.Memory, out.tracks, out.people = after-before, memory, l.tracks(), l.Publishers+l.Subscribers
	in.Close()
	io.Copy(io.Discard, stdout)
	return out
}

// ours is the relay of the whole program.
func ours(t *testing.T) relay {
	t.Helper()
	const port = "9570"
	data, log := t.TempDir(), &appliancetest.Buffer{}
	bin := theProgram(t)
	args := []string{"serve", "--data", data}
	for _, s := range []string{"server_name=" + appliancetest.ServerName, "listen.http=127.0.0.1:" + port, "listen.https=", "listen.redirect=", "listen.metrics=",
		"limits.enabled=false", "sfu.enabled=true", "sfu.node_ip=127.0.0.1", "log.level=warn"} {
		args = append(args, "--set", s)
	}
	serve := exec.Command(bin, args...)
	serve.Stdout, serve.Stderr = log, log
	start(t, serve)
	eventually(t, "alice has an account", 90*time.Second, func() bool {
		if serve.ProcessState != nil {
			t.Fatalf("the program ended\n%s", log)
		}
		out, err := exec.Command(bin, "user", "add", "alice", "--password", appliancetest.Password, "--data", data).CombinedOutput()
		return err == nil || strings.Contains(string(out), "taken")
	})
	return relay{relayOf(t, serve.Process.Pid), crews(t, "http://127.0.0.1:"+port)}
}

// crews fills rooms of an appliance, in the name of its alice.
func crews(t *testing.T, appliance string) func(load) crew {
	t.Helper()
	alice := signIn(t, t.Context(), "alice", appliance)
	_, proof := alice.do("POST", "/_matrix/client/v3/user/"+alice.id+"/openid/request_token", map[string]any{})
	n := 0
	return func(l load) (c crew) {
		n++
		c.Load = l
		for i := range l.Publishers + l.Subscribers {
			status, out := alice.do("POST", "/livekit/jwt/get_token", map[string]any{"room_id": alice.room, "slot_id": fmt.Sprint("m.call#", n), "openid_token": proof,
				"member": map[string]string{"id": strconv.Itoa(i), "claimed_user_id": alice.id, "claimed_device_id": alice.device}})
			if status != http.StatusOK {
				t.Fatal(status, out)
			}
			c.URL, c.JWTs = out["url"].(string), append(c.JWTs, out["jwt"].(string))
		}
		return c
	}
}

// plain is LiveKit's own program, with one port for all media as ours has.
// estimate has it estimate each listener's bandwidth by itself, as ours does.
func plain(t *testing.T, bin string, estimate bool) relay {
	t.Helper()
	const key, port = "plainkey", 9580
	secret := strings.Repeat("plainsecret", 4)
	conf := filepath.Join(t.TempDir(), "livekit.yaml")
	if err := os.WriteFile(conf, fmt.Appendf(nil, `port: %d
bind_addresses: ["127.0.0.1"]
rtc: {udp_port: %d, tcp_port: %d, use_external_ip: false, node_ip: 127.0.0.1, enable_loopback_candidate: true, congestion_control: {use_send_side_bwe: %v}}
keys: {%s: %s}
logging: {level: error}
`, port, port+1, port+2, estimate, key, secret), 0o600); err != nil {
		t.Fatal(err)
	}
	log := &appliancetest.Buffer{}
	cmd := exec.Command(bin, "--config", conf)
	cmd.Stdout, cmd.Stderr = log, log
	start(t, cmd)
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	eventually(t, "LiveKit's program answers", 60*time.Second, func() bool {
		resp, err := http.Get(url)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	n := 0
	return relay{cmd.Process.Pid, func(l load) (c crew) {
		n++
		c.Load, c.URL = l, url
		for i := range l.Publishers + l.Subscribers {
			jwt, err := auth.NewAccessToken(key, secret).SetVideoGrant(&auth.VideoGrant{RoomJoin: true, Room: strconv.Itoa(n)}).SetIdentity(strconv.Itoa(i)).SetValidFor(time.Hour).ToJWT()
			if err != nil {
				t.Fatal(err)
			}
			c.JWTs = append(c.JWTs, jwt)
		}
		return c
	}}
}

// The load's process fills a room, and what is measured of it is what was sent.
func TestLoadIsMeasured(t *testing.T) {
	r := ours(t)
	for _, l := range []load{{"sound", 2, 2, false}, {"pictures", 1, 2, true}} {
		got := r.measure(t, l, 2*time.Second, func() {})
		t.Logf("%s: %+v", l.Name, got)
		if rate := float64(got.Packets) / got.Seconds / float64(l.tracks()); !l.Video && (rate < 35 || rate > 55) || l.Video && rate < 20 {
			t.Errorf("%s: %.1f packets a second of each track", l.Name, rate)
		}
		if got.CPU < 0 || got.Memory < 10<<20 {
			t.Errorf("%s: %+v", l.Name, got)
		}
	}
}

// TestCapacity compares the program's relay with LiveKit's own program: `make bench-calls`.
// Both carry the same room at the same time, on the same cores, so that what slows the
// machine down slows down both: by turns, one and the same server differed by a fifth.
func TestCapacity(t *testing.T) {
	bin := os.Getenv("LIVEKIT_SERVER")
	if bin == "" {
		t.Skip("run it with: make bench-calls")
	}
	rounds, while := 5, 20*time.Second
	if n, err := strconv.Atoi(os.Getenv("HOLDFAST_ROUNDS")); err == nil {
		rounds = n
	}
	type pair struct{ ours, theirs figures }
	var b strings.Builder
	b.WriteString("\n| room | server | tracks | packets/s | lost | µs a packet | packets/s a core | MB a participant |\n|---|---|---|---|---|---|---|---|\n")
	for _, l := range loads {
		for _, estimate := range []bool{false, true} {
			name := "LiveKit as it comes"
			if estimate {
				name = "LiveKit, estimating as ours does"
			}
			var pairs []pair
			for round := range rounds {
				t.Run(fmt.Sprintf("%s beside %s %d", l.Name, name, round), func(t *testing.T) { // servers of their own each time
					ends := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
					var p pair
					side := func(i int, of func(t *testing.T) relay, out *figures) func(t *testing.T) {
						return func(t *testing.T) {
							t.Parallel()
							once := sync.OnceFunc(func() { close(ends[i]) })
							defer once() // the other does not wait for who failed
							r := of(t)
							// What the first call takes, such as the program's own pages, is no participant's.
							r.measure(t, load{l.Name, 2, 2, l.Video}, time.Second, func() {})
							*out = r.measure(t, l, while, func() { once(); <-ends[1-i] })
							t.Logf("%.2f µs a packet, %.1f MB a participant, %+v", out.perPacket(), out.perPerson(), *out)
						}
					}
					if t.Run("both", func(t *testing.T) {
						t.Run("ours", side(0, ours, &p.ours))
						t.Run("LiveKit", side(1, func(t *testing.T) relay { return plain(t, bin, estimate) }, &p.theirs))
					}) {
						pairs = append(pairs, p)
					}
				})
			}
			if t.Failed() {
				return
			}
			if len(pairs) == 0 {
				continue // -run chose others
			}
			middle := func(f func(pair) float64) float64 {
				var all []float64
				for _, p := range pairs {
					all = append(all, f(p))
				}
				slices.Sort(all)
				return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
			}
			for _, s := range []struct {
				name string
				of   func(pair) figures
			}{{"ours", func(p pair) figures { return p.ours }}, {name, func(p pair) figures { return p.theirs }}} {
				m := func(f func(figures) float64) float64 { return middle(func(p pair) float64 { return f(s.of(p)) }) }
				fmt.Fprintf(&b, "| %s | %s | %d | %.0f | %.3f %% | %.1f | %.0f | %.1f |\n", l.Name, s.name, l.tracks(),
					m(func(f figures) float64 { return float64(f.Packets) / f.Seconds }),
					m(func(f figures) float64 { return 100 * float64(f.Lost) / float64(f.Packets+f.Lost) }),
					m(figures.perPacket), m(figures.perCore), m(figures.perPerson))
			}
			for _, c := range []struct {
				name string
				f    func(figures) float64
			}{{"processor time a packet", figures.perPacket}, {"memory a participant", figures.perPerson}} {
				var each []string
				for _, p := range pairs {
					each = append(each, fmt.Sprintf("%+.1f", 100*(c.f(p.ours)/c.f(p.theirs)-1)))
				}
				more := middle(func(p pair) float64 { return c.f(p.ours)/c.f(p.theirs) - 1 })
				t.Logf("%s: %s is %+.1f %% of %s's (%s)", l.Name, c.name, 100*more, name, strings.Join(each, " "))
				if !estimate && more > 0.05 {
					t.Errorf("%s: %s is %.1f %% above LiveKit's: more than 5", l.Name, c.name, 100*more)
				}
			}
		}
	}
	t.Log(b.String())
}
