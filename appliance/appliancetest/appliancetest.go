// Package appliancetest starts a whole appliance inside a test, on a temporary
// folder and free ports of 127.0.0.1, for scenarios that need all its parts.
package appliancetest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/config"
)

// ServerName is the server's name unless a test sets another.
const ServerName = "hs.test"

// Password is everybody's.
const Password = "correct horse battery staple"

// Server is a running appliance.
type Server struct {
	*appliance.Appliance
	URL     string // "http://127.0.0.1:PORT"
	Metrics string // the same of the metrics listener
	Data    string // its folder
	Console *Buffer
	Log     *Buffer

	set       []string
	configure func(*config.Config)
}

// Buffer collects output of several goroutines.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Start starts an appliance without calls and limits. set changes its
// configuration ("key=value"); it stops with the test.
func Start(t testing.TB, set ...string) *Server {
	t.Helper()
	return StartBare(t, append([]string{"server_name=" + ServerName, "tls.mode=off", "listen.http=127.0.0.1:0", "listen.metrics=127.0.0.1:0",
		"limits.enabled=false", "sfu.enabled=false"}, set...)...)
}

// StartBare starts an appliance with nothing configured but set.
func StartBare(t testing.TB, set ...string) *Server {
	t.Helper()
	return StartConfigured(t, func(*config.Config) {}, set...)
}

// StartConfigured is StartBare with what is no setting.
func StartConfigured(t testing.TB, configure func(*config.Config), set ...string) *Server {
	t.Helper()
	s := &Server{Data: t.TempDir(), set: set, configure: configure}
	s.start(t)
	t.Cleanup(func() {
		s.Close()
		if t.Failed() {
			t.Logf("log of the appliance:\n%s", s.Log)
		}
	})
	return s
}

func (s *Server) start(t testing.TB) {
	t.Helper()
	cfg, err := config.Load(config.Input{Data: s.Data, Set: s.set})
	if err != nil {
		t.Fatal(err)
	}
	s.configure(cfg)
	s.Console, s.Log = &Buffer{}, &Buffer{}
	if s.Appliance, err = appliance.Start(context.Background(), cfg, s.Console, s.Log); err != nil {
		t.Fatalf("%v\n%s", err, s.Log)
	}
	if a := s.Addr("http"); a != nil {
		s.URL = "http://" + a.String()
	}
	if a := s.Addr("metrics"); a != nil {
		s.Metrics = "http://" + a.String()
	}
}

// Restart stops the appliance and starts it again on the same folder.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Close()
	s.start(t)
}

var claimCode = regexp.MustCompile(`\b[0-9A-Z]{4}-[0-9A-Z]{4}-[0-9A-Z]{4}\b`)

// ClaimCode is the code that was printed, or "".
func (s *Server) ClaimCode() string { return claimCode.FindString(s.Console.String()) }

// CLI runs a command of the command line on the appliance.
func (s *Server) CLI(t testing.TB, args ...string) (out, errOut string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	code = appliance.Main(context.Background(), append(args, "--data", s.Data), &o, &e)
	return o.String(), e.String(), code
}

// User is somebody who is logged in.
type User struct {
	ID, Device, Token string
	s                 *Server
}

// NewUser is somebody without a token.
func NewUser(s *Server) *User { return &User{s: s} }

// Login makes an account and logs it in with a new device.
func (s *Server) Login(t testing.TB, name string, flags ...string) *User {
	t.Helper()
	if _, e, code := s.CLI(t, append([]string{"user", "add", name, "--password", Password}, flags...)...); code != 0 && !strings.Contains(e, "taken") {
		t.Fatal(e)
	}
	u := &User{s: s}
	var in struct {
		UserID      string `json:"user_id"`
		DeviceID    string `json:"device_id"`
		AccessToken string `json:"access_token"`
	}
	code := u.Do(t, "POST", "/_matrix/client/v3/login", map[string]any{
		"type": "m.login.password", "identifier": map[string]string{"type": "m.id.user", "user": name}, "password": Password}, &in)
	if code != 200 {
		t.Fatalf("login of %s: %d", name, code)
	}
	u.ID, u.Device, u.Token = in.UserID, in.DeviceID, in.AccessToken
	return u
}

// Do makes a request as the user and returns the status. in and out may be nil.
func (u *User) Do(t testing.TB, method, path string, in, out any) int {
	t.Helper()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, u.s.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if u.Token != "" {
		req.Header.Set("Authorization", "Bearer "+u.Token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if out != nil {
		if err := json.Unmarshal(raw, out); err != nil {
			t.Fatalf("%s %s: %d %v in %.200s", method, path, resp.StatusCode, err, raw)
		}
	}
	return resp.StatusCode
}
