package web

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// fakeMachine is a machine that remembers what it was asked for.
type fakeMachine struct {
	asked []string
	share bool
}

func (f *fakeMachine) note(what string) { f.asked = append(f.asked, what) }

func (f *fakeMachine) DiskState(context.Context) (DiskState, error) {
	return DiskState{Device: "vda2", Warning: "The disk is not encrypted."}, nil
}
func (f *fakeMachine) NewRecovery(context.Context) (string, error) { return "AAAAA-BBBBB", nil }
func (f *fakeMachine) ConfirmRecovery(_ context.Context, typed string) error {
	f.note("confirm " + typed)
	return nil
}
func (f *fakeMachine) Versions(context.Context) (Versions, error) {
	return Versions{Running: "1.0.0", Arch: "amd64"}, nil
}
func (f *fakeMachine) StageUpdate(_ context.Context, r io.Reader, downgrade bool) (Update, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return Update{}, err
	}
	if !downgrade {
		return Update{}, &Error{Status: http.StatusConflict, Code: "downgrade", Message: "This is older."}
	}
	f.note("stage " + string(b[:5]))
	return Update{Version: "0.9.0"}, nil
}
func (f *fakeMachine) OpenBundle(context.Context) (io.ReadCloser, int64, string, error) {
	return io.NopCloser(strings.NewReader("bundle")), 6, "1.0.0", nil
}
func (f *fakeMachine) StickUpdates(context.Context) ([]StickUpdate, error) { return nil, nil }
func (f *fakeMachine) StageStick(_ context.Context, device, file string, _ bool) (Update, error) {
	f.note("stick " + device + " " + file)
	return Update{}, nil
}
func (f *fakeMachine) NetworkState(context.Context) (json.RawMessage, json.RawMessage, error) {
	return json.RawMessage(`{}`), json.RawMessage(`{"ports":[]}`), nil
}
func (f *fakeMachine) ApplyNetwork(_ context.Context, c json.RawMessage) (time.Duration, error) {
	f.note("network " + string(c))
	return time.Minute, nil
}
func (f *fakeMachine) ConfirmNetwork(context.Context) error { f.note("network confirmed"); return nil }
func (f *fakeMachine) ClockState(context.Context) (ClockState, error) {
	return ClockState{Source: "rtc"}, nil
}
func (f *fakeMachine) SetClock(_ context.Context, now time.Time) error {
	f.note("clock " + now.Format(time.RFC3339))
	return nil
}
func (f *fakeMachine) SetTimeServers(_ context.Context, s []string) error {
	f.note("servers " + strings.Join(s, ","))
	return nil
}
func (f *fakeMachine) Restart(context.Context) error  { f.note("restart"); return nil }
func (f *fakeMachine) ShutDown(context.Context) error { f.note("shut down"); return nil }
func (f *fakeMachine) SetConsolePassword(_ context.Context, p string) error {
	f.note("password " + p)
	return nil
}
func (f *fakeMachine) ConsolePasswordSet(context.Context) bool { return false }
func (f *fakeMachine) SetShareUpdates(_ context.Context, on bool) error {
	f.share = on
	return nil
}
func (f *fakeMachine) ShareUpdates(context.Context) bool { return f.share }
func (f *fakeMachine) FetchUpdate(_ context.Context, from string, _ bool) (Update, error) {
	f.note("fetch " + from)
	return Update{}, nil
}

func machineServer(t *testing.T) (*Server, *fake, *fakeMachine) {
	s, f := newServer(t)
	m := &fakeMachine{}
	s.Machine = &Machine{Disk: m, Updates: m, Sticks: m, Network: m, Clock: m, Power: m}
	s.Console = m
	return s, f, m
}

func TestMachine(t *testing.T) {
	s, f, m := machineServer(t)
	// Nobody but administrators.
	for _, who := range []Visitor{{}, {UserID: "@b:x.test"}} {
		f.visitor = who
		for _, path := range []string{"recovery", "recovery/confirm", "update", "update/fetch", "sticks", "network/confirm", "clock", "restart", "shutdown"} {
			if resp, _ := ask(t, s, nil, "POST", "/api/console/machine/"+path, "{}"); resp.StatusCode != 401 && resp.StatusCode != 403 {
				t.Errorf("%+v may POST %s: %d", who, path, resp.StatusCode)
			}
		}
	}
	if len(m.asked) > 0 {
		t.Fatalf("done for strangers: %v", m.asked)
	}
	f.visitor = Visitor{UserID: "@a:x.test", Admin: true, Fresh: true}
	resp, got := ask(t, s, nil, "GET", "/api/console/machine", "")
	if resp.StatusCode != 200 || got["versions"].(map[string]any)["running"] != "1.0.0" || got["disk"].(map[string]any)["warning"] == nil {
		t.Fatalf("%d %v", resp.StatusCode, got)
	}
	for _, c := range []struct{ method, path, body, want string }{
		{"POST", "recovery/confirm", `{"passphrase":"x y"}`, "confirm x y"},
		{"POST", "update/fetch", `{"from":" 10.0.0.5 "}`, "fetch 10.0.0.5"},
		{"POST", "sticks", `{"device":"sdb1","file":"a.hfu"}`, "stick sdb1 a.hfu"},
		{"PUT", "network", `{"ports":[]}`, `network {"ports":[]}`},
		{"POST", "network/confirm", `{}`, "network confirmed"},
		{"POST", "clock", `{"now":"2026-11-28T12:00:00Z"}`, "clock 2026-11-28T12:00:00Z"},
		{"PUT", "clock/servers", `{"servers":["10.0.0.1"]}`, "servers 10.0.0.1"},
		{"PUT", "password", `{"password":"open sesame"}`, "password open sesame"},
		{"POST", "restart", `{}`, "restart"},
		{"POST", "shutdown", `{}`, "shut down"},
	} {
		resp, got := ask(t, s, nil, c.method, "/api/console/machine/"+c.path, c.body)
		if resp.StatusCode != 200 || len(m.asked) == 0 || m.asked[len(m.asked)-1] != c.want {
			t.Errorf("%s: %d %v, asked for %v", c.path, resp.StatusCode, got, m.asked)
		}
	}
}

// An update is larger than what the API takes elsewhere.
func TestMachineUpload(t *testing.T) {
	s, f, m := machineServer(t)
	f.visitor = Visitor{UserID: "@a:x.test", Admin: true, Fresh: true}
	bundle := bytes.Repeat([]byte("image"), 1<<17)
	for query, want := range map[string]int{"": 409, "?downgrade=yes": 200} {
		r := httptest.NewRequest("POST", updatePath+query, bytes.NewReader(bundle))
		r.Host = "x.test"
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%q: %d %s", query, w.Code, w.Body)
		}
	}
	if len(m.asked) != 1 || m.asked[0] != "stage image" {
		t.Errorf("%v", m.asked)
	}
}

// The version that runs is handed out only when that was allowed.
func TestSharedUpdate(t *testing.T) {
	s, _, m := machineServer(t)
	get := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/api/updates/current", nil))
		return w
	}
	if w := get(); w.Code != 403 {
		t.Errorf("not allowed: %d", w.Code)
	}
	m.share = true
	if w := get(); w.Code != 200 || w.Body.String() != "bundle" || !strings.Contains(w.Header().Get("Content-Disposition"), "holdfast-1.0.0.hfu") {
		t.Errorf("allowed: %d %s %v", w.Code, w.Body, w.Header())
	}
	s.handing <- struct{}{}
	s.handing <- struct{}{}
	if w := get(); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("the third at a time: %d", w.Code)
	}
}

// The wizard sets the clock and the recovery passphrase, for who has the code.
func TestSetupMachine(t *testing.T) {
	s, _, m := machineServer(t)
	if resp, got := ask(t, s, nil, "GET", "/api/setup", ""); resp.StatusCode != 200 || got["disk"] != nil {
		t.Errorf("a stranger sees %v", got)
	}
	if resp, _ := ask(t, s, nil, "POST", "/api/setup/recovery", "{}"); resp.StatusCode != 401 {
		t.Errorf("a stranger gets a passphrase: %d", resp.StatusCode)
	}
	resp, _ := ask(t, s, nil, "POST", "/api/setup/claim", `{"code":"RIGHT-CODE"}`)
	cookies := resp.Cookies()
	if _, got := ask(t, s, cookies, "GET", "/api/setup", ""); got["disk"] == nil || got["clock"] == nil {
		t.Errorf("%v", got)
	}
	if _, got := ask(t, s, cookies, "POST", "/api/setup/recovery", "{}"); got["passphrase"] != "AAAAA-BBBBB" {
		t.Errorf("%v", got)
	}
	if resp, _ := ask(t, s, cookies, "POST", "/api/setup/recovery/confirm", `{"passphrase":"aaaaa bbbbb"}`); resp.StatusCode != 200 || m.asked[0] != "confirm aaaaa bbbbb" {
		t.Errorf("%d %v", resp.StatusCode, m.asked)
	}
	s.Machine = nil
	if resp, _ := ask(t, s, cookies, "POST", "/api/setup/recovery", "{}"); resp.StatusCode != 404 {
		t.Errorf("without a machine: %d", resp.StatusCode)
	}
}
