package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/livekit/protocol/logger"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"

	dto "github.com/prometheus/client_model/go"

	"holdfast/sfu"
)

func TestMain(m *testing.M) {
	lksdk.SetLogger(logger.GetDiscardLogger())
	os.Exit(m.Run())
}

// The relay's process of a test has this method more: it panics as pion would.
var crash = register("crash", func(context.Context, *sfu.SFU, none) (none, error) {
	go func() { panic("injected") }()
	select {}
})

// logged keeps what was logged.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func begin(t *testing.T, change ...func(*Options)) (*Relay, string, *logged) {
	t.Helper()
	log := &logged{}
	o := Options{Options: sfu.Options{UDPPort: sfu.AnyPort, TCPPort: sfu.AnyPort, TURNPort: sfu.AnyPort, Log: slog.New(slog.NewTextHandler(log, nil))}}
	for _, f := range change {
		f(&o)
	}
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/livekit/sfu/", http.StripPrefix("/livekit/sfu", r.Handler()))
	srv := httptest.NewServer(mux)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		r.Close(ctx)
		srv.CloseClientConnections()
		srv.Close()
		if t.Failed() {
			t.Log(log)
		}
	})
	return r, "ws" + strings.TrimPrefix(srv.URL, "http") + "/livekit/sfu", log
}

func eventually(t *testing.T, what string, within time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// caller is LiveKit's own Go client, which sends sound and counts what it hears.
type caller struct {
	*lksdk.Room
	heard atomic.Int64
}

func call(t *testing.T, r *Relay, base, room, identity string) *caller {
	t.Helper()
	jwt, err := r.Mint(t.Context(), room, identity, "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c := &caller{}
	cb := lksdk.NewRoomCallback()
	cb.OnTrackSubscribed = func(track *webrtc.TrackRemote, _ *lksdk.RemoteTrackPublication, _ *lksdk.RemoteParticipant) {
		for {
			if _, _, err := track.ReadRTP(); err != nil {
				return
			}
			c.heard.Add(1)
		}
	}
	if c.Room, err = lksdk.ConnectToRoomWithToken(base, jwt, cb, lksdk.WithLogger(logger.GetDiscardLogger()), lksdk.WithDisableRegionDiscovery(), lksdk.WithConnectTimeout(30*time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Disconnect)
	track, err := webrtc.NewTrackLocalStaticSample(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2}, "audio", "mic")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.LocalParticipant.PublishTrack(track, &lksdk.TrackPublicationOptions{Name: "mic"}); err != nil {
		t.Fatal(err)
	}
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				track.WriteSample(media.Sample{Data: []byte{0xf8, 0xff, 0xfe}, Duration: 20 * time.Millisecond})
			case <-t.Context().Done():
				return
			}
		}
	}()
	return c
}

// A panic in the relay ends its process and nothing else: the call comes back by
// itself within ten seconds, on the same ports, nobody counts as having left, and who
// was removed stays out.
func TestCrash(t *testing.T) {
	r, base, log := begin(t)
	var mu sync.Mutex
	var events []string
	defer r.Subscribe(func(room, identity string, joined bool) {
		mu.Lock()
		defer mu.Unlock()
		what := " left"
		if joined {
			what = " joined"
		}
		events = append(events, identity+what)
	})()
	if err := r.EnsureRoom(t.Context(), "call"); err != nil {
		t.Fatal(err)
	}
	alice, bob := call(t, r, base, "call", "alice"), call(t, r, base, "call", "bob")
	eventually(t, "both hear each other", 60*time.Second, func() bool { return alice.heard.Load() > 50 && bob.heard.Load() > 50 })
	eves, err := r.Mint(t.Context(), "call", "eve", "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	r.Remove("call", "eve")
	before, ports := r.Status(), r.Ports()
	if !before.Running || before.Restarts != 0 || before.MemoryBytes == 0 {
		t.Errorf("%+v", before)
	}

	begun := time.Now()
	if _, err := crash.call(t.Context(), r, none{}); !errors.Is(err, sfu.ErrNotRunning) { // also the second process
		t.Errorf("a crash gives %v", err)
	}
	eventually(t, "another process runs", 30*time.Second, func() bool { s := r.Status(); return s.Running && s.PID != before.PID && s.Restarts == 2 })
	if got := r.Participants("call"); !slices.Equal(got, []string{"alice", "bob"}) {
		t.Errorf("after the crash there are %v", got)
	}
	eventually(t, "both are back", 60*time.Second, func() bool { return r.Stats().Participants == 2 })
	a, b := alice.heard.Load(), bob.heard.Load()
	eventually(t, "both hear each other again", 60*time.Second, func() bool { return alice.heard.Load() > a+10 && bob.heard.Load() > b+10 })
	took := time.Since(begun)
	t.Log("the call was back after", took.Round(time.Millisecond), "and two crashes")
	if took > 10*time.Second {
		t.Errorf("the call took %v to come back", took)
	}
	if got := r.Ports(); got != ports {
		t.Errorf("ports %+v, before %+v", got, ports)
	}
	mu.Lock()
	if want := []string{"alice joined", "bob joined"}; !slices.Equal(events, want) {
		t.Errorf("events %v, want %v", events, want)
	}
	mu.Unlock()
	if !strings.Contains(log.String(), "panic: injected") {
		t.Error("the log does not say what it panicked about")
	}
	req, err := http.NewRequest("GET", "http"+strings.TrimPrefix(base, "ws")+"/rtc/validate", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+eves)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("who was removed before the crash is answered %s", resp.Status)
	}
}

// What the house asks for is done by the process, with the errors that callers know.
func TestMethods(t *testing.T) {
	r, _, log := begin(t)
	if _, err := r.SelfTest(t.Context()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var h *sfu.HopError
	if _, err := r.SelfTest(ctx); !errors.As(err, &h) || !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if c, err := r.TURN("@alice:example.org", sfu.Reach{Name: "chat.example.org"}); err != nil || len(c.URIs) < 2 || c.Password == "" {
		t.Errorf("%v %v", c.URIs, err)
	}
	families, err := r.Metrics().Gather()
	of := map[string]int{}
	for _, f := range families {
		prefix, _, _ := strings.Cut(f.GetName(), "_")
		of[prefix]++
	}
	if err != nil || of["livekit"] == 0 || of["holdfast"] < 8 || of["livekit"]+of["psrpc"]+of["holdfast"] != len(families) {
		t.Errorf("%d families: %v, %v", len(families), of, err)
	}
	if list, err := r.Calls(t.Context(), ""); err != nil || len(list) != 0 {
		t.Errorf("calls: %v %v", list, err)
	}
	if _, err := r.Calls(t.Context(), "none"); !errors.Is(err, sfu.ErrNoCall) {
		t.Errorf("no such call: %v", err)
	}
	if err := r.End(t.Context(), "none"); !errors.Is(err, sfu.ErrNoCall) {
		t.Errorf("an end of no call: %v", err)
	}
	for _, name := range []string{"holdfast_relay_go_goroutines", "holdfast_relay_process_open_fds"} {
		if !slices.ContainsFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == name }) {
			t.Errorf("there is no %s", name)
		}
	}
	if u, err := r.Usage(t.Context()); err != nil || u.Goroutines == 0 || u.OpenFiles < 5 || u.HeapBytes == 0 {
		t.Errorf("%+v %v", u, err)
	}
	if b, err := r.Profile(t.Context(), "goroutine", 1, 0); err != nil || !strings.Contains(string(b), "sfu/process.serve") {
		t.Errorf("%.200s %v", b, err)
	}
	if _, err := r.Profile(t.Context(), "none", 0, 0); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("a profile that there is not: %v", err)
	}
	// Who may not ask for other processes' is not told.
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", r.Status().PID)); !errors.Is(err, syscall.EPERM) && (err != nil || strings.TrimSpace(string(b)) != "500000") {
		t.Errorf("the slack of its timers: %q %v", b, err)
	}
	if own, err := os.ReadFile("/proc/self/timerslack_ns"); err != nil || strings.TrimSpace(string(own)) == "500000" {
		t.Errorf("the slack of our own timers: %q %v", own, err)
	}
	secret := r.o.Secret
	for _, file := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(r.Status().PID) + "/" + file)
		if err != nil || strings.Contains(string(b), secret) || strings.Contains(string(b), "HOME=") {
			t.Errorf("%s: %q %v", file, b, err)
		}
	}
	if strings.Contains(log.String(), secret) {
		t.Error("the log has the secret")
	}
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := r.EnsureRoom(t.Context(), "x"); !errors.Is(err, sfu.ErrNotRunning) {
		t.Errorf("closed: %v", err)
	}
	if r.Status().Running || r.Ports() != (sfu.Ports{}) {
		t.Errorf("closed: %+v", r.Status())
	}
}

// A port that is taken is said as it is without a process between.
func TestTakenPort(t *testing.T) {
	r, _, _ := begin(t)
	taken := r.Ports()
	other, err := New(Options{Options: sfu.Options{UDPPort: taken.UDP, TCPPort: sfu.AnyPort, TURNPort: sfu.AnyPort}})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(t.Context()); err == nil || !strings.Contains(err.Error(), strconv.Itoa(taken.UDP)) {
		t.Errorf("a taken port: %v", err)
	}
	if err := other.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// A process that stops answering is no reason to wait: one that is killed is replaced.
// Its rooms are there again, and end where nobody comes back to them.
func TestKilled(t *testing.T) {
	r, _, _ := begin(t, func(o *Options) { o.Kept = 5 * time.Second })
	pid := r.Status().PID
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil { // as a service manager sends to all
		t.Fatal(err)
	}
	if err := r.EnsureRoom(t.Context(), "a"); err != nil || r.Status().PID != pid {
		t.Errorf("it ended by itself: %v", err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is replaced", 30*time.Second, func() bool { s := r.Status(); return s.Running && s.PID != pid })
	if s := r.Status(); s.Restarts != 1 || !strings.Contains(s.Reason, "killed") {
		t.Errorf("%+v", s)
	}
	if got := r.Stats(); got.Rooms != 1 {
		t.Errorf("%+v", got)
	}
	eventually(t, "the room ends", 30*time.Second, func() bool { return r.Stats().Rooms == 0 })
}

// What the process logs, the house logs, and how long something took with its unit.
func TestLog(t *testing.T) {
	_, _, log := begin(t)
	eventually(t, "the relay's own line", 10*time.Second, func() bool { return strings.Contains(log.String(), "the call relay is ready") })
	if !regexp.MustCompile(`the call relay is ready.* took="?[0-9.]+(s|ms|µs)`).MatchString(log.String()) {
		t.Error(log)
	}
}

func TestMirror(t *testing.T) {
	m := newMirror()
	defer m.close()
	var mu sync.Mutex
	var got []sfu.Change
	m.subscribe(func(c sfu.Change) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, c)
	})
	m.ensure("a")
	m.apply(sfu.Change{Kind: sfu.Began, Room: "a"})
	m.apply(sfu.Change{Kind: sfu.Joined, Room: "a", Identity: "x"})
	m.apply(sfu.Change{Kind: sfu.Joined, Room: "a", Identity: "y"})
	m.lost(time.Hour)
	if s := m.stats(); s != (sfu.Stats{Rooms: 1}) {
		t.Errorf("away: %+v", s)
	}
	if in := m.in("a"); !slices.Equal(in, []string{"x", "y"}) {
		t.Errorf("away: %v", in)
	}
	m.back(time.Hour)
	m.apply(sfu.Change{Kind: sfu.Joined, Room: "a", Identity: "x"})
	m.back(0)
	eventually(t, "who did not come back is gone", 10*time.Second, func() bool { return slices.Equal(m.in("a"), []string{"x"}) })
	m.apply(sfu.Change{Kind: sfu.Left, Room: "a", Identity: "nobody"})
	m.apply(sfu.Change{Kind: sfu.Ended, Room: "a"})
	m.apply(sfu.Change{Kind: sfu.Ended, Room: "a"})
	want := []sfu.Change{{Kind: sfu.Began, Room: "a"}, {Kind: sfu.Joined, Room: "a", Identity: "x"}, {Kind: sfu.Joined, Room: "a", Identity: "y"},
		{Kind: sfu.Left, Room: "a", Identity: "y"}, {Kind: sfu.Left, Room: "a", Identity: "x"}, {Kind: sfu.Ended, Room: "a"}}
	eventually(t, "all is told", 10*time.Second, func() bool { mu.Lock(); defer mu.Unlock(); return len(got) >= len(want) })
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A connection arrives with the client's address; what is no parcel ends it.
func TestHand(t *testing.T) {
	to, f, err := pair("unixpacket")
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	from, err := fileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	addr, local := netip.MustParseAddrPort("[2001:db8::1]:4711"), netip.MustParseAddrPort("192.0.2.1:443")
	reach := sfu.Reach{Local: local.Addr(), Name: "chat.example.org", HTTPS: "chat.example.org:443"}
	if _, err := hand(to, parcel{Kind: kindSignal, Reach: sfu.Reach{Name: strings.Repeat("x", maxParcel)}}); err == nil {
		t.Error("a name that is too long is handed over")
	}
	here, err := hand(to, parcel{kindSignal, addr, local, reach})
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	p, there, err := take(from)
	if err != nil || p.Kind != "signal" || there.RemoteAddr().String() != addr.String() || there.LocalAddr().String() != local.String() || there.(*handed).reach != reach {
		t.Fatalf("%+v %v", p, err)
	}
	defer there.Close()
	if _, err := here.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2)
	if n, err := there.Read(b); n != 1 || err != nil {
		t.Errorf("%q %v", b[:n], err)
	}
	if _, err := to.Write([]byte("{}")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := take(from); err == nil {
		t.Error("a parcel without a connection is taken")
	}
}

func FuzzMessage(f *testing.F) {
	for _, m := range []message{{ID: 1, Call: "mint"}, {Err: &failure{Kind: "not_running", Hop: "media", Message: "x"}}, {Change: &sfu.Change{Kind: sfu.Joined, Room: "a", Identity: "b"}}} {
		b, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append(b, '\n'))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		to, file, err := pair("unix")
		if err != nil {
			t.Fatal(err)
		}
		from, err := fileConn(file)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			to.Write(b)
			to.Close()
		}()
		m := newMirror()
		defer m.close()
		l := newLine(from)
		defer l.end()
		for {
			in, err := l.read()
			if err != nil {
				return
			}
			if in.Change != nil {
				m.apply(*in.Change)
			}
			if in.Err != nil && in.Err.err() == nil {
				t.Fatal("an error that is none")
			}
			l.answered(in)
		}
	})
}

// FuzzParcel hands over anything, with a socket and without.
func FuzzParcel(f *testing.F) {
	b, err := json.Marshal(parcel{kindSignal, netip.MustParseAddrPort("[2001:db8::1]:4711"), netip.MustParseAddrPort("192.0.2.1:443"), sfu.Reach{Name: "chat.example.org"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, uint8(1))
	f.Add(b[:len(b)/2], uint8(1))
	f.Add(b, uint8(0))
	f.Add(b, uint8(2))
	f.Add([]byte(`{"from":"x"}`), uint8(1))
	f.Add([]byte{}, uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, sockets uint8) {
		to, file, err := pair("unixpacket")
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		from, err := fileConn(file)
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		here, there, err := pair("unix")
		if err != nil {
			t.Fatal(err)
		}
		defer here.Close()
		defer there.Close()
		var rights []byte
		if n := int(sockets % 4); n > 0 {
			fds := make([]int, n)
			for i := range fds {
				fds[i] = int(there.Fd())
			}
			rights = syscall.UnixRights(fds...)
		}
		if _, _, err := to.WriteMsgUnix(b, rights, nil); err != nil {
			return // longer than a packet may be
		}
		to.Close()
		p, c, err := take(from)
		if err != nil {
			return
		}
		defer c.Close()
		if sockets%4 != 1 || len(b) > maxParcel {
			t.Fatalf("%d sockets and %d bytes are taken for %+v", sockets%4, len(b), p)
		}
		if c.RemoteAddr() == nil || c.LocalAddr() == nil {
			t.Fatal("a connection without addresses")
		}
	})
}
