package sfu

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	lksdk "github.com/livekit/server-sdk-go/v2"
)

// proxy stands between a client and the relay's signalling, as a web server in front
// of the program does.
type proxy struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
	down  bool
	stuck sync.RWMutex // held while nothing goes on, and nothing is closed
}

// pass hands on what a client says, except while the proxy is stuck.
func (p *proxy) pass(to io.Writer, from io.Reader) {
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		p.stuck.RLock()
		if err == nil {
			_, err = to.Write(b[:n])
		}
		p.stuck.RUnlock()
		if err != nil {
			return
		}
	}
}

func inFront(t *testing.T, base string) (*proxy, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host, path, _ := strings.Cut(strings.TrimPrefix(base, "ws://"), "/")
	p := &proxy{Listener: l}
	t.Cleanup(func() { l.Close(); p.set(true) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.conns = append(p.conns, c)
			if !p.down {
				if there, err := net.Dial("tcp", host); err != nil {
					c.Close()
				} else {
					p.conns = append(p.conns, there)
					go func() { p.pass(there, c); there.Close() }()
					go func() { io.Copy(c, there); c.Close() }()
				}
			}
			p.mu.Unlock()
		}
	}()
	return p, "ws://" + l.Addr().String() + "/" + path
}

// set ends all connections. While the proxy is down, new ones stay without an answer.
func (p *proxy) set(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

// Whose signalling is cut off stays in the call while something comes from them, be it
// that they speak or that they listen. Who neither speaks nor listens is taken out, and
// may come back.
func TestSilence(t *testing.T) {
	const silent = 1500 * time.Millisecond // receiver reports of LiveKit's Go client are a second apart
	s, base := begin(t, Options{silent: silent})
	ensure(t, s, "call")
	p, through := inFront(t, base)
	alice, err := call(t, base, token(t, s, "call", "alice"))
	if err != nil {
		t.Fatal(err)
	}
	alice.speak(t)
	listener, err := call(t, through, token(t, s, "call", "listener"))
	if err != nil {
		t.Fatal(err)
	}
	speaker, err := call(t, through, token(t, s, "call", "speaker"), lksdk.WithAutoSubscribe(false))
	if err != nil {
		t.Fatal(err)
	}
	speaking, stop := context.WithCancel(t.Context())
	defer stop()
	speaker.speakUntil(t, speaking)
	heard := func(c *caller, from string) func() bool {
		n := c.count(from)
		return func() bool { return c.count(from) >= n+50 }
	}
	eventually(t, "alice is heard", 30*time.Second, heard(listener, "alice"))
	eventually(t, "the speaker is heard", 30*time.Second, heard(alice, "speaker"))

	p.set(true)
	for end := time.Now().Add(3 * silent); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if got := s.Participants("call"); !slices.Equal(got, []string{"alice", "listener", "speaker"}) {
			t.Fatalf("participants %v", got)
		}
	}
	eventually(t, "the listener still hears alice", 30*time.Second, heard(listener, "alice"))
	eventually(t, "alice still hears the speaker", 30*time.Second, heard(alice, "speaker"))
	stop()
	eventually(t, "the speaker is taken out", 15*time.Second, func() bool {
		return slices.Equal(s.Participants("call"), []string{"alice", "listener"})
	})

	// With signalling again, nobody's silence matters.
	p.set(false)
	at := seat{"call", "listener"}
	eventually(t, "the listener signals again", 30*time.Second, func() bool { return s.signals.stands(at) })
	again, err := call(t, base, token(t, s, "call", "mute"), lksdk.WithAutoSubscribe(false))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Disconnect()
	time.Sleep(2 * silent)
	if got := s.Participants("call"); !slices.Contains(got, "mute") || !slices.Contains(got, "listener") {
		t.Errorf("participants %v", got)
	}
}

// Whose connection brings nothing any more, without having ended, is taken out when
// media has ended too, and stays while it comes. Whoever only listens to sound is not
// given up by that.
func TestDeaf(t *testing.T) {
	const deaf = 2 * time.Second // receiver reports of LiveKit's Go client are a second apart
	s, base := begin(t, Options{deaf: deaf})
	ensure(t, s, "call")
	p, through := inFront(t, base)
	alice, err := call(t, base, token(t, s, "call", "alice"))
	if err != nil {
		t.Fatal(err)
	}
	alice.speak(t)
	if _, err = call(t, through, token(t, s, "call", "listener")); err != nil {
		t.Fatal(err)
	}
	var stop context.CancelFunc
	for _, name := range []string{"speaker", "fading"} {
		c, err := call(t, through, token(t, s, "call", name), lksdk.WithAutoSubscribe(false))
		if err != nil {
			t.Fatal(err)
		}
		speaking, end := context.WithCancel(t.Context())
		defer end()
		stop = end
		c.speakUntil(t, speaking)
		n := alice.count(name)
		eventually(t, name+" is heard", 30*time.Second, func() bool { return alice.count(name) > n+100 })
	}
	p.stuck.Lock()
	defer p.stuck.Unlock()
	for end := time.Now().Add(2 * deaf); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if got := s.Participants("call"); len(got) != 4 {
			t.Fatalf("participants %v", got)
		}
	}
	stop()
	eventually(t, "one is taken out", 15*time.Second, func() bool {
		return slices.Equal(s.Participants("call"), []string{"alice", "listener", "speaker"})
	})
}

// recorder is a connection that keeps what is written to it.
type recorder struct {
	net.Conn
	out      []byte
	deadline time.Time
}

func (r *recorder) Write(b []byte) (int, error)        { r.out = append(r.out, b...); return len(b), nil }
func (r *recorder) SetWriteDeadline(t time.Time) error { r.deadline = t; return nil }

// A ping stands between frames, and leaves the connection's deadline as it was.
func TestPing(t *testing.T) {
	var r recorder
	m := &messages{Conn: &r}
	until := time.Now().Add(time.Hour)
	m.SetWriteDeadline(until)
	var want string
	for _, part := range []struct {
		text  string
		whole bool // the connection is between two frames then
	}{
		{"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", true},
		{"\x82\x05he", false}, {"llo", true},
		{"\x82", false}, {"\x7e\x01", false}, {"\x00" + strings.Repeat("x", 256), true},
		{"\x02\x01a", true}, {"\x80\x01b", true}, // a message in two frames
	} {
		m.Write([]byte(part.text))
		m.ping()
		if want += part.text; part.whole {
			want += "\x89\x00"
		}
		if string(r.out) != want {
			t.Fatalf("%q, want %q", r.out, want)
		}
	}
	r.out = nil
	m = &messages{Conn: &r}
	if m.ping(); len(r.out) > 0 {
		t.Errorf("a ping before the handshake: %q", r.out)
	}
	if !r.deadline.Equal(until) {
		t.Errorf("the deadline is %v", r.deadline)
	}
}
