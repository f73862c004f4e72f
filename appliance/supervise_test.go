package appliance

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/config"
)

// notified is a supervisor's socket; next reads one message.
func notified(t *testing.T) (next func() string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		t.Helper()
		var b [100]byte
		l.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := l.Read(b[:])
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

func TestTellSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := tellSystemd("READY=1"); err != nil {
		t.Errorf("without a service manager: %v", err)
	}
	next := notified(t)
	if err := tellSystemd("READY=1"); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "READY=1" {
		t.Errorf("%q", got)
	}
}

func TestPatienceOfSystemd(t *testing.T) {
	me := strconv.Itoa(os.Getpid())
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"", "", 0}, {"120000000", "", 2 * time.Minute}, {"30000000", me, 30 * time.Second}, {"30000000", "1", 0},
		{"0", me, 0}, {"-5", me, 0}, {"much", me, 0}, {"9223372036854775807", me, 0},
	} {
		t.Setenv("WATCHDOG_USEC", c.usec)
		t.Setenv("WATCHDOG_PID", c.pid)
		if got := patienceOfSystemd(); got != c.want {
			t.Errorf("%q for process %q: %v, want %v", c.usec, c.pid, got, c.want)
		}
	}
}

// TestSupervised is a whole run below a supervisor that watches.
func TestSupervised(t *testing.T) {
	next := notified(t)
	t.Setenv("WATCHDOG_USEC", "200000")
	t.Setenv("WATCHDOG_PID", "")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var log bytes.Buffer
	done := make(chan int)
	go func() {
		done <- Main(ctx, []string{"serve", "--data", t.TempDir(), "--set", "listen.https=", "--set", "tls.mode=off", "--set", "listen.http=127.0.0.1:0",
			"--set", "listen.metrics=", "--set", "sfu.enabled=false"}, io.Discard, &log)
	}()
	for i, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"} {
		if got := next(); got != want {
			t.Fatalf("word %d is %q, want %q", i, got, want)
		}
	}
	stop()
	got := next()
	for got == "WATCHDOG=1" {
		got = next()
	}
	if got != "STOPPING=1" {
		t.Errorf("at the stop it says %q", got)
	}
	if code := <-done; code != exitOK {
		t.Errorf("it ended with %d\n%s", code, &log)
	}
}

func TestAnswers(t *testing.T) {
	open := func(set ...string) *Appliance {
		t.Helper()
		cfg, err := config.Load(config.Input{Data: t.TempDir(), Set: append([]string{"listen.metrics=", "sfu.enabled=false"}, set...)})
		if err != nil {
			t.Fatal(err)
		}
		a, err := Start(t.Context(), cfg, io.Discard, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(a.Close)
		return a
	}
	// On every address it is asked by localhost, whatever that name leads to.
	for _, addr := range []string{"127.0.0.1:0", ":0", "0.0.0.0:0"} {
		a := open("listen.https=" + addr)
		if err := a.Answers(t.Context()); err != nil {
			t.Error(addr, err)
		}
		c, err := a.selfTestClient()
		if err != nil {
			t.Fatal(err)
		}
		c.base = strings.Replace(c.base, "localhost", "name.invalid", 1)
		if _, err := c.raw(t.Context(), "GET", "/_matrix/client/versions", "", nil); err != nil {
			t.Errorf("%s: it looks a name up: %v", addr, err)
		}
		c.http.CloseIdleConnections()
	}
	// The certificate may never come.
	waits := open("listen.https=127.0.0.1:0", "tls.mode=acme", "public_url=https://chat.example.org", "tls.acme_directory=https://127.0.0.1:1/dir")
	if err := waits.Answers(t.Context()); err != nil {
		t.Errorf("while there is no certificate: %v", err)
	}
	// One that takes connections and says nothing does not answer.
	hung := open("listen.https=", "tls.mode=off", "listen.http=127.0.0.1:0")
	if err := hung.Answers(t.Context()); err != nil { // so that nobody starts to serve the mute one
		t.Fatal(err)
	}
	for _, l := range hung.listens {
		mute, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer mute.Close()
		l.ln, mute = mute, l.ln
		defer mute.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if hung.Answers(ctx) == nil {
		t.Error("silence is taken for an answer")
	}
}
