package image_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
)

// image is the raw disk image that is tested, or the test is skipped.
func image(t testing.TB) string {
	t.Helper()
	path := os.Getenv("HOLDFAST_IMAGE")
	if path == "" {
		t.Skip("HOLDFAST_IMAGE is not set: make test-image builds the image and sets it")
	}
	return path
}

// disk is a fresh copy of the image on a disk of size GiB; 0 is the image's own.
func disk(t testing.TB, gib int64) string {
	t.Helper()
	return diskOf(t, image(t), gib)
}

func diskOf(t testing.TB, image string, gib int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	copyFile(t, image, path)
	if gib > 0 {
		if err := os.Truncate(path, gib<<30); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// armDisk is a fresh copy of the image for arm64.
func armDisk(t testing.TB) string {
	t.Helper()
	path := os.Getenv("HOLDFAST_IMAGE_ARM64")
	if path == "" {
		t.Skip("HOLDFAST_IMAGE_ARM64 is not set: make test-image builds the image and sets it")
	}
	return diskOf(t, path, 2)
}

// site is an appliance that somebody has claimed.
type site struct {
	*vm
	admin *client // the browser of its administrator, and her Matrix client
	room  string
	sent  int
}

const password = "correct horse battery"

// claim sets a machine up that has just booted for the first time.
func claim(t testing.TB, m *vm) *site {
	t.Helper()
	return claimBy(t, m, m.await(0, `\b([0-9A-Z]{4}-[0-9A-Z]{4}-[0-9A-Z]{4})\b`, bootTime)[1])
}

func claimBy(t testing.TB, m *vm, code string) *site {
	t.Helper()
	c := m.client()
	c.ask("POST", "/api/setup/claim", map[string]string{"code": code}, 200)
	c.ask("POST", "/api/setup/finish", map[string]any{
		"organisation": "Test site", "server_name": "site.test", "tls": map[string]string{"mode": "own-ca"},
		"admin": map[string]string{"localpart": "anna", "display_name": "Anna", "password": password},
	}, 200)
	s := &site{vm: m, admin: c}
	s.login()
	made := c.ask("POST", "/_matrix/client/v3/createRoom", map[string]string{"preset": "private_chat", "name": "Log"}, 200)
	s.room = made["room_id"].(string)
	return s
}

func (s *site) login() {
	s.t.Helper()
	s.admin.token = ""
	got := s.admin.ask("POST", "/_matrix/client/v3/login", map[string]any{"type": "m.login.password", "identifier": map[string]string{"type": "m.id.user", "user": "anna"}, "password": password}, 200)
	s.admin.token = got["access_token"].(string)
}

// send sends the next message; it returns an error where the machine does not
// acknowledge it.
func (s *site) send() error {
	n := s.sent + 1
	path := fmt.Sprintf("/_matrix/client/v3/rooms/%s/send/m.room.message/t%d", url.PathEscape(s.room), n)
	status, out, err := s.admin.try("PUT", path, map[string]string{"msgtype": "m.text", "body": fmt.Sprint("message ", n)})
	if err != nil {
		return err
	}
	if status != 200 {
		return fmt.Errorf("%d %v", status, out)
	}
	s.sent = n
	return nil
}

func (s *site) mustSend() {
	s.t.Helper()
	if err := s.send(); err != nil {
		s.t.Fatal(err)
	}
}

// check reads all messages back: every one that was acknowledged is there.
func (s *site) check() {
	s.t.Helper()
	there := map[string]bool{}
	from := ""
	for {
		got := s.admin.ask("GET", "/_matrix/client/v3/rooms/"+url.PathEscape(s.room)+"/messages?dir=b&limit=500"+from, nil, 200)
		for _, e := range got["chunk"].([]any) {
			if body, ok := e.(map[string]any)["content"].(map[string]any)["body"].(string); ok {
				there[body] = true
			}
		}
		end, ok := got["end"].(string)
		if !ok || "&from="+url.QueryEscape(end) == from {
			break
		}
		from = "&from=" + url.QueryEscape(end)
	}
	for n := range s.sent {
		if body := fmt.Sprint("message ", n+1); !there[body] {
			s.t.Errorf("%q was acknowledged and is gone", body)
		}
	}
}

// TestBoot is the first day: a blank disk boots, is claimed by the code on its
// screen, and carries a message; after an orderly restart it is still there.
func TestBoot(t *testing.T) {
	m := start(t, options{disk: disk(t, 2)})
	m.ready(0)
	s := claim(t, m)
	s.mustSend()
	s.check()
	m.powerButton()
	m.ready(m.again())
	s.check()
	s.mustSend()
	m.pullPlug()
	m.ready(m.again())
	s.check()
}
