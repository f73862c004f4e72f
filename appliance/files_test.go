package appliance_test

import (
	"encoding/json"
	"strings"
	"testing"

	"holdfast/appliance/appliancetest"
)

func TestRulesForFiles(t *testing.T) {
	s := appliancetest.Start(t)
	show := func() (f map[string]string) {
		t.Helper()
		out, e, code := s.CLI(t, "files", "show", "--json")
		if err := json.Unmarshal([]byte(out), &f); err != nil || code != 0 {
			t.Fatal(out, e, err)
		}
		return f
	}
	if f := show(); f["max_upload"] != "100M" || f["quota"] != "none" || f["keep"] != "forever" || f["open"] != "never" {
		t.Error(f)
	}
	for _, c := range []struct{ args, want string }{
		{"", "say what to change"},
		{"--quota 5", ""},
		{"--quota 0", "no size"},
		{"--quota x5", "no size"},
		{"--max-upload 9GG", "no size"},
		{"--max-upload none", "no size"},
		{"--total 9999999T", "no size"},
		{"--keep 1h", "a day or more"},
		{"--keep soon", "a day or more"},
		{"--open tomorrow", "is no day"},
		{"--quota 5G --open 2027-13-01", "is no day"},
		{"--max-upload 2k --total 20G --keep 365d --open 2027-01-31", ""},
	} {
		out, e, code := s.CLI(t, append([]string{"files", "set"}, strings.Fields(c.args)...)...)
		if (code == 0) != (c.want == "") || !strings.Contains(e, c.want) {
			t.Errorf("%s: %d %s %s", c.args, code, out, e)
		}
	}
	if f := show(); f["max_upload"] != "2k" || f["quota"] != "5" || f["total"] != "20G" || f["keep"] != "365d" || f["open"] != "2027-01-31" {
		t.Error(f)
	}
	// They hold at once, and after a restart.
	for range 2 {
		alice := s.Login(t, "alice")
		var config struct {
			Size int `json:"m.upload.size"`
		}
		if alice.Do(t, "GET", "/_matrix/client/v1/media/config", nil, &config); config.Size != 2048 {
			t.Errorf("%+v", config)
		}
		var e struct{ Errcode string }
		if status := alice.Do(t, "POST", "/_matrix/media/v3/upload", "more than five bytes", &e); status != 403 || e.Errcode != "M_FORBIDDEN" {
			t.Error(status, e)
		}
		s.Restart(t)
	}
	if out, e, code := s.CLI(t, "files", "set", "--quota", "none", "--max-upload", "100M"); code != 0 || !strings.Contains(out, "100M") {
		t.Error(out, e)
	}
	if f := show(); f["quota"] != "none" || f["max_upload"] != "100M" {
		t.Error(f)
	}
}
