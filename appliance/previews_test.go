package appliance_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"holdfast/appliance/appliancetest"
)

func TestRulesForPreviews(t *testing.T) {
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<title>Intranet</title>")
	}))
	defer page.Close()
	u, _ := url.Parse(page.URL)
	s := appliancetest.Start(t)
	show := func() (f map[string]string) {
		t.Helper()
		out, e, code := s.CLI(t, "previews", "show", "--json")
		if err := json.Unmarshal([]byte(out), &f); err != nil || code != 0 {
			t.Fatal(out, e, err)
		}
		return f
	}
	if f := show(); f["enabled"] != "off" || f["allow"] != "all" || f["deny"] != "none" || f["private"] != "none" || f["ports"] != "none" || f["space"] != "1G" {
		t.Error(f)
	}
	// It holds at once for clients, and they are told.
	alice := s.Login(t, "alice")
	check := func(on bool, status int, code string) {
		t.Helper()
		var caps struct {
			Capabilities map[string]struct{ Enabled bool }
		}
		alice.Do(t, "GET", "/_matrix/client/v3/capabilities", nil, &caps)
		if caps.Capabilities["io.element.msc4452.preview_url"].Enabled != on {
			t.Errorf("capability: not %v", on)
		}
		var p struct {
			Errcode string
			Title   string `json:"og:title"`
		}
		got := alice.Do(t, "GET", "/_matrix/client/v1/media/preview_url?url="+url.QueryEscape(page.URL), nil, &p)
		if got != status || p.Errcode != code || (status == 200) != (p.Title == "Intranet") {
			t.Errorf("%d %+v, want %d %s", got, p, status, code)
		}
	}
	check(false, 403, "M_FORBIDDEN")
	for _, c := range []struct{ args, want string }{
		{"", "say what to change"},
		{"--enabled yes", "neither on nor off"},
		{"--allow http://x.example", "is no host"},
		{"--deny a,,b,*", "is no host"},
		{"--private ,", "0 hosts"},
		{"--ports 0", "no port"},
		{"--ports x", "no port"},
		{"--ports ,", "0 ports"},
		{"--space none", "no size"},
		{"--enabled on --ports " + u.Port(), ""},
	} {
		out, e, code := s.CLI(t, append([]string{"previews", "set"}, strings.Fields(c.args)...)...)
		if (code == 0) != (c.want == "") || !strings.Contains(e, c.want) {
			t.Errorf("%s: %d %s %s", c.args, code, out, e)
		}
	}
	check(true, 403, "M_FORBIDDEN") // of this machine nothing is shown
	if out, e, code := s.CLI(t, "previews", "test", page.URL); code == 0 || !strings.Contains(e, "private network") {
		t.Error(out, e)
	}
	if out, e, code := s.CLI(t, "previews", "set", "--private", "127.0.0.1, *.corp.example", "--space", "5M"); code != 0 || !strings.Contains(out, "127.0.0.1, *.corp.example") || !strings.Contains(out, "80, 443, "+u.Port()) {
		t.Error(out, e)
	}
	if out, e, code := s.CLI(t, "previews", "test", page.URL); code != 0 || !strings.Contains(out, "Intranet") {
		t.Error(out, e)
	}
	check(true, 200, "")
	s.Restart(t)
	alice = s.Login(t, "alice")
	check(true, 200, "")
	if out, e, code := s.CLI(t, "previews", "set", "--deny", "127.0.0.0/8"); code != 0 {
		t.Error(out, e)
	}
	check(true, 403, "M_FORBIDDEN")
	if out, e, code := s.CLI(t, "previews", "set", "--enabled", "off", "--deny", "none", "--private", "none", "--ports", "none", "--space", "1G"); code != 0 {
		t.Error(out, e)
	}
	check(false, 403, "M_FORBIDDEN")
	if f := show(); f["deny"] != "none" || f["private"] != "none" || f["ports"] != "none" {
		t.Error(f)
	}
}
