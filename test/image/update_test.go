package image_test

import (
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bundle opens an update that `make test-image` built, or skips the test.
func bundle(t testing.TB, env string) *os.File {
	t.Helper()
	path := os.Getenv(env)
	if path == "" {
		t.Skipf("%s is not set: make test-image builds the updates and sets it", env)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// signIn opens the administrator's browser session, which the console asks for; and again
// after five minutes, before what can do harm.
func (s *site) signIn() {
	s.t.Helper()
	form := url.Values{"username": {"anna"}, "password": {password}}
	req, err := http.NewRequest("POST", s.admin.base+"/login?next=/console", strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	browser := *s.admin.http
	browser.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := browser.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	resp.Body.Close()
	if got := s.admin.ask("GET", "/api/console/me", nil, 200); got["machine"] != true {
		s.t.Fatalf("the console does not know its machine: %v", got)
	}
}

const machineAPI = "/api/console/machine"

// versions asks the console what runs and what else there is.
func (s *site) versions() (running string, others map[string]string) {
	s.t.Helper()
	v := s.admin.ask("GET", machineAPI, nil, 200)["versions"].(map[string]any)
	others = map[string]string{}
	for _, o := range v["others"].([]any) {
		u := o.(map[string]any)
		others[u["version"].(string)] = u["state"].(string)
	}
	return v["running"].(string), others
}

// update hands the console an update, and restarts the machine.
func (s *site) update(f *os.File) (version string) {
	s.t.Helper()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		s.t.Fatal(err)
	}
	s.signIn()
	version = s.admin.ask("POST", machineAPI+"/update", io.Reader(f), 200)["version"].(string)
	s.restart()
	return version
}

// restart is asked for in the console.
func (s *site) restart() {
	s.t.Helper()
	s.admin.ask("POST", machineAPI+"/restart", map[string]any{}, 200)
	s.off(2 * time.Minute)
}

// TestUpdate brings a good version on, then two that do not work: the machine comes
// back with the good one by itself, and with all data. Then the way back.
func TestUpdate(t *testing.T) {
	good, broken, sick := bundle(t, "HOLDFAST_UPDATE"), bundle(t, "HOLDFAST_BROKEN"), bundle(t, "HOLDFAST_SICK")
	m := start(t, options{disk: disk(t, 2)})
	first := m.ready(0)
	s := claim(t, m)
	s.mustSend()
	s.signIn()

	// What is no update changes nothing.
	if status, out, err := s.admin.try("POST", machineAPI+"/update", io.Reader(strings.NewReader(strings.Repeat("no update ", 1000)))); err != nil || status != 400 {
		t.Errorf("a file that is no update: %d %v %v", status, out, err)
	}

	begun := time.Now()
	version := s.update(good)
	if got := m.ready(m.again()); got != version {
		t.Fatalf("%s runs after the update to %s", got, version)
	}
	t.Logf("update from %s to %s: %s until it answers", first, version, time.Since(begun).Round(time.Second))
	s.check()
	s.mustSend()
	if running, others := s.versions(); running != version || others[first] != "kept" {
		t.Errorf("%s runs, beside it %v", running, others)
	}

	for _, bad := range []struct {
		name string
		f    *os.File
	}{{"a kernel without a working program", broken}, {"a program that does not pass its own check and has migrated the database", sick}} {
		t.Log(bad.name)
		tried := s.update(bad.f)
		begun := time.Now()
		// Each attempt ends by itself; the machine in QEMU is switched off by it.
		for attempt := 0; ; attempt++ {
			if attempt > 3 {
				t.Fatalf("%s: still not back after %d attempts", bad.name, attempt)
			}
			n := m.again()
			got := m.await(n, `HOLDFAST READY version=(\S+) |(Kernel panic|does not work here)`, bootTime)
			if got[1] == version {
				break
			}
			if got[1] != "" {
				t.Fatalf("%s: %s runs", bad.name, got[1])
			}
			m.off(2 * time.Minute)
		}
		t.Logf("back after %s", time.Since(begun).Round(time.Second))
		s.check()
		s.mustSend()
		if running, others := s.versions(); running != version || others[tried] != "failed" {
			t.Errorf("%s runs, beside it %v", running, others)
		}
	}

	// Back to the version before, which asks first.
	s.signIn()
	older := bundle(t, "HOLDFAST_BUNDLE")
	status, out, err := s.admin.try("POST", machineAPI+"/update", io.Reader(older))
	if e, _ := out["error"].(map[string]any); err != nil || status != 409 || e["code"] != "downgrade" {
		t.Fatalf("an older version: %d %v %v", status, out, err)
	}
	older.Seek(0, io.SeekStart)
	s.admin.ask("POST", machineAPI+"/update?downgrade=yes", io.Reader(older), 200)
	s.restart()
	if got := m.ready(m.again()); got != first {
		t.Errorf("%s runs after the way back to %s", got, first)
	}
	s.check()
	// It stays.
	m.powerButton()
	if got := m.ready(m.again()); got != first {
		t.Errorf("%s runs at the next start", got)
	}
	s.check()
}

// TestUpdateFromStick finds the update on a USB stick that is plugged in while the
// machine runs.
func TestUpdateFromStick(t *testing.T) {
	good := bundle(t, "HOLDFAST_UPDATE")
	need(t, "mkfs.vfat", "mcopy")
	stick := filepath.Join(t.TempDir(), "stick.img")
	if err := os.WriteFile(stick, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(stick, 256<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.vfat", "-F", "32", stick)
	run(t, "mcopy", "-i", stick, good.Name(), "::holdfast-update.hfu")
	m := start(t, options{disk: disk(t, 2), extra: []string{"-device", "qemu-xhci,id=xhci"}})
	m.ready(0)
	s := claim(t, m)
	s.signIn()
	if status, out, err := s.admin.try("GET", machineAPI+"/sticks", nil); err != nil || status != 404 {
		t.Errorf("without a stick: %d %v %v", status, out, err)
	}
	m.qmp.must(t, "blockdev-add", map[string]any{"driver": "raw", "node-name": "stick", "file": map[string]string{"driver": "file", "filename": stick}})
	m.qmp.must(t, "device_add", map[string]any{"driver": "usb-storage", "id": "usbstick", "drive": "stick", "bus": "xhci.0", "removable": true})
	var found map[string]any
	for range 60 {
		status, list, err := s.admin.list("GET", machineAPI+"/sticks")
		if err == nil && status == 200 && len(list) == 1 {
			found = list[0].(map[string]any)
			break
		}
		time.Sleep(time.Second)
	}
	if found == nil {
		t.Fatal("the stick was not found")
	}
	s.signIn()
	s.admin.ask("POST", machineAPI+"/sticks", map[string]any{"device": found["device"], "file": found["file"]}, 200)
	s.restart()
	if got := m.ready(m.again()); got != found["version"] {
		t.Errorf("%s runs, want %v", got, found["version"])
	}
}
