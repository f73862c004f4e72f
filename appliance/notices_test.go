package appliance_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"holdfast/appliance/appliancetest"
)

func TestNotices(t *testing.T) {
	s := appliancetest.Start(t)
	cli := func(want string, args ...string) string {
		t.Helper()
		out, e, code := s.CLI(t, args...)
		if (code == 0) != (want == "") || !strings.Contains(e, want) {
			t.Errorf("%q: %d %s %s", args, code, out, e)
		}
		return out
	}
	show := func() (n map[string]string) {
		t.Helper()
		if err := json.Unmarshal([]byte(cli("", "notices", "show", "--json")), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := show(); n["name"] == "" || n["room_name"] != "Server notices" || n["topic"] == "" || n["join"] != "auto" || n["reply"] != "no" || n["avatar"] != "none" {
		t.Error(n)
	}
	alice := s.Login(t, "alice")
	// texts are what somebody was told.
	texts := func(c *appliancetest.User) (out []string) {
		t.Helper()
		var v struct {
			Rooms struct {
				Join map[string]struct {
					Timeline struct {
						Events []struct {
							Sender  string
							Content struct{ Body string }
						}
					}
				}
			}
		}
		c.Do(t, "GET", "/_matrix/client/v3/sync?filter="+url.QueryEscape(`{"room":{"timeline":{"limit":100,"types":["m.room.message"]}}}`), nil, &v)
		for _, r := range v.Rooms.Join {
			for _, e := range r.Timeline.Events {
				if strings.HasPrefix(e.Sender, "@_server:") {
					out = append(out, e.Content.Body)
				}
			}
		}
		return out
	}
	cli("", "notice", "alice", "Hello Alice")
	if got := fmt.Sprint(texts(alice)); got != "[Hello Alice]" {
		t.Error(got)
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"say which USER and TEXT", []string{"notice"}},
		{"say which USER and TEXT", []string{"notice", "alice"}},
		{"say which TEXT", []string{"notice", "--all"}},
		{"quotation marks", []string{"notice", "alice", "two", "words"}},
		{"quotation marks", []string{"notice", "--all", "two", "words"}},
		{"no such user", []string{"notice", "nobody", "x"}},
		{"has no text", []string{"notice", "alice", " "}},
		{"at most", []string{"notice", "alice", strings.Repeat("x", 40000)}},
		{"say what to change", []string{"notices", "set"}},
		{"at most 256 bytes", []string{"notices", "set", "--name", strings.Repeat("x", 300)}},
		{"mxc:// address", []string{"notices", "set", "--avatar", "https://example.org/x.png"}},
		{"auto", []string{"notices", "set", "--join", "perhaps"}},
		{"yes or no", []string{"notices", "set", "--reply", "perhaps"}},
	} {
		cli(c.want, c.args...)
	}
	if got := fmt.Sprint(texts(alice)); got != "[Hello Alice]" {
		t.Error(got)
	}

	// To everybody, by more than one request, and nobody twice.
	for i := range 105 {
		cli("", "user", "add", fmt.Sprintf("p%03d", i), "--password", appliancetest.Password)
	}
	cli("", "user", "disable", "p000") // reads it when unlocked
	var sum struct {
		ID     string
		Sent   int
		Failed map[string]string
	}
	for range 2 {
		if err := json.Unmarshal([]byte(cli("", "notice", "--all", "--json", "--id", "maintenance", "Rest on Sunday")), &sum); err != nil || sum.Sent < 106 || len(sum.Failed) > 0 || sum.ID != "maintenance" {
			t.Fatal(sum, err)
		}
	}
	if got := fmt.Sprint(texts(alice)); got != "[Hello Alice Rest on Sunday]" {
		t.Error(got)
	}
	last := s.Login(t, "p104")
	if got := fmt.Sprint(texts(last)); got != "[Rest on Sunday]" {
		t.Error(got)
	}

	cli("", "notices", "set", "--name", "Town hall", "--room-name", "News", "--topic", "none", "--reply", "yes")
	for range 2 {
		if n := show(); n["name"] != "Town hall" || n["room_name"] != "News" || n["topic"] != "none" || n["reply"] != "yes" {
			t.Error(n)
		}
		var p struct{ Displayname string }
		if s.Login(t, "alice").Do(t, "GET", "/_matrix/client/v3/profile/@_server:"+strings.SplitN(alice.ID, ":", 2)[1], nil, &p); p.Displayname != "Town hall" {
			t.Error(p)
		}
		s.Restart(t)
	}
	if out := cli("", "notices", "show"); !strings.Contains(out, "Town hall") || !strings.Contains(out, "everybody in their own room") {
		t.Error(out)
	}
}
