package appliance_test

import (
	"database/sql"
	"encoding/json"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/appliancetest"
)

// The legacy login is closed and opened way by way; what GET /login says is what holds.
func TestLegacyLoginSwitches(t *testing.T) {
	s := appliancetest.Start(t)
	alice := newPeer(t, s).with(s.Login(t, "alice").Token)
	p := newPeer(t, s)
	flows := func() (out []string) {
		for _, f := range p.call("GET", "/login", nil).want(t, 200, "").m["flows"].([]any) {
			out = append(out, strings.TrimPrefix(f.(obj)["type"].(string), "m.login."))
		}
		return out
	}
	// Switched off and on while the appliance runs.
	for _, c := range []struct {
		password, sso string
		flows         string
	}{
		{"off", "on", "sso token application_service"},
		{"off", "off", "application_service"},
		{"on", "off", "password application_service"},
		{"on", "on", "password sso token application_service"},
	} {
		out, e, code := s.CLI(t, "login", "set", "--password", c.password, "--sso", c.sso)
		if code != 0 || !strings.Contains(out, c.password) {
			t.Fatal(out, e)
		}
		if got := strings.Join(flows(), " "); got != c.flows {
			t.Errorf("%+v: %s", c, got)
		}
		r := p.call("POST", "/login", password("alice", appliancetest.Password))
		if c.password == "on" {
			r.want(t, 200, "")
		} else {
			r.want(t, 400, "M_UNKNOWN")
		}
		redirect := p.call("GET", "/login/sso/redirect?redirectUrl="+url.QueryEscape("https://client.test/"), nil)
		if want := map[string]int{"on": 302, "off": 403}[c.sso]; redirect.StatusCode != want {
			t.Errorf("%+v: the redirect answers %d", c, redirect.StatusCode)
		}
		r = p.call("POST", "/login", obj{"type": "m.login.token", "token": "hlt_none"})
		token := alice.send("POST", "/_matrix/client/v1/login/get_token", "application/json", strings.NewReader("{}"))
		caps := alice.call("GET", "/capabilities", nil).want(t, 200, "").m["capabilities"].(obj)["m.get_login_token"].(obj)["enabled"]
		if c.sso == "on" {
			r.want(t, 403, "M_FORBIDDEN") // it is nobody's
			if token.StatusCode != 401 || caps != true {
				t.Errorf("%+v: get_token %d, enabled %v", c, token.StatusCode, caps)
			}
		} else {
			r.want(t, 400, "M_UNKNOWN")
			token.want(t, 403, "M_FORBIDDEN")
			if caps != false {
				t.Errorf("%+v: enabled %v", c, caps)
			}
		}
		// Sessions go on, and clients that sign in in the browser find what they look for.
		alice.call("GET", "/account/whoami", nil).want(t, 200, "")
		p.send("GET", "/_matrix/client/v1/auth_metadata", "", nil).want(t, 200, "")
	}
	if _, e, code := s.CLI(t, "login", "set", "--password", "maybe"); code == 0 || !strings.Contains(e, "on or off") {
		t.Error(code, e)
	}
	if _, _, code := s.CLI(t, "login", "set"); code == 0 {
		t.Error("nothing to change was taken")
	}
	// It outlives a restart.
	if _, e, code := s.CLI(t, "login", "set", "--password", "off"); code != 0 {
		t.Fatal(e)
	}
	s.Restart(t)
	p = newPeer(t, s)
	if got := flows(); got[0] != "sso" {
		t.Error(got)
	}
	if out, _, _ := s.CLI(t, "login", "show"); !strings.Contains(out, "application:   off") {
		t.Error(out)
	}
}

// Who must have a second factor is set at the machine, holds at once and after a restart,
// and is in the audit log.
func TestSecondFactorRules(t *testing.T) {
	s := appliancetest.Start(t)
	s.Login(t, "alice")
	s.Login(t, "bob")
	p := newPeer(t, s)
	set := func(args ...string) {
		t.Helper()
		if _, e, code := s.CLI(t, append([]string{"login", "set"}, args...)...); code != 0 {
			t.Fatal(e)
		}
	}
	for _, args := range [][]string{{"group", "add", "Money Office"}, {"group", "join", "Money Office", "bob"}} {
		if _, e, code := s.CLI(t, args...); code != 0 {
			t.Fatal(e)
		}
	}
	set("--second-factor", "roles", "--second-factor-groups", "money office", "--second-factor-grace", "0")
	may := func(name string, may bool) {
		t.Helper()
		r := p.call("POST", "/login", password(name, appliancetest.Password))
		if may {
			r.want(t, 200, "")
		} else if r.want(t, 403, "M_FORBIDDEN"); !strings.Contains(r.m["error"].(string), "second factor") {
			t.Error(r.m)
		}
	}
	may("alice", true)
	may("bob", false)
	set("--second-factor-grace", "3")
	may("bob", true)
	set("--second-factor", "everyone", "--second-factor-grace", "0")
	may("alice", false)
	set("--password-alone", "on")
	may("alice", true)
	set("--password-alone", "off")
	s.Restart(t)
	p = newPeer(t, s)
	may("alice", false)
	out, _, _ := s.CLI(t, "login", "show", "--json")
	var shown map[string]string
	if err := json.Unmarshal([]byte(out), &shown); err != nil || shown["second_factor"] != "everyone" || shown["second_factor_groups"] != "Money Office" || shown["second_factor_grace"] != "0" || shown["password_alone"] != "off" {
		t.Error(err, out)
	}
	set("--second-factor", "nobody", "--second-factor-groups", "none")
	may("alice", true)
	may("bob", true)
	for _, bad := range [][]string{{"--second-factor", "some"}, {"--second-factor-groups", "Nobody's"}, {"--second-factor-grace", "soon"}, {"--second-factor-grace", "366"}, {"--second-factor-grace", "-1"}, {"--password-alone", "yes"}} {
		if _, e, code := s.CLI(t, append([]string{"login", "set"}, bad...)...); code == 0 || !strings.Contains(e, bad[0]) {
			t.Error(bad, code, e)
		}
	}
	out, _, _ = s.CLI(t, "audit", "list")
	for _, want := range []string{`"login.second_factor":"everyone"`, `"login.password_alone":"on"`} {
		if !strings.Contains(out, want) {
			t.Errorf("%s is not in the audit log: %s", want, out)
		}
	}
}

// How long passwords are and browsers stay signed in is set at the machine, holds at once
// and after a restart, and is in the audit log.
func TestPasswordAndSessionRules(t *testing.T) {
	s := appliancetest.Start(t)
	root, alice := s.Login(t, "root", "--admin"), s.Login(t, "alice")
	set := func(args ...string) {
		t.Helper()
		if _, e, code := s.CLI(t, append([]string{"login", "set"}, args...)...); code != 0 {
			t.Fatal(e)
		}
	}
	shown := func() (m map[string]string) {
		t.Helper()
		out, e, _ := s.CLI(t, "login", "show", "--json")
		if err := json.Unmarshal([]byte(out), &m); err != nil {
			t.Fatal(err, e)
		}
		return m
	}
	if m := shown(); m["password_min"] != "8" || m["session_max"] != "30d" || m["session_idle"] != "none" {
		t.Errorf("the standard is %v", m)
	}
	const short, long = "vé7kqu xo bl", "vé7kqu xo bli" // 12 and 13 characters
	places := map[string]func(pw string) (int, string){
		"admin API, new": func(pw string) (int, string) {
			return said(t, root, "PUT", "/_synapse/admin/v2/users/@bob:hs.test", obj{"password": pw})
		},
		"admin API, password": func(pw string) (int, string) {
			return said(t, root, "POST", "/_synapse/admin/v1/reset_password/@alice:hs.test", obj{"new_password": pw, "logout_devices": false})
		},
		"Matrix API": func(pw string) (int, string) {
			auth := obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": long}
			return said(t, alice, "POST", "/_matrix/client/v3/account/password", obj{"new_password": pw, "logout_devices": false, "auth": auth})
		},
		"command line": func(pw string) (int, string) {
			_, e, code := s.CLI(t, "user", "password", "alice", "--password", pw, "--keep-sessions")
			return map[int]int{0: 200, 1: 400}[code], e
		},
	}
	set("--password-min", "13")
	for _, where := range []string{"admin API, new", "admin API, password", "Matrix API", "command line"} {
		if st, text := places[where](short); st != 400 || !strings.Contains(text, "at least 13 characters") {
			t.Errorf("%s: %d %s", where, st, text)
		}
		if st, text := places[where](long); st != 200 {
			t.Errorf("%s: %d %s", where, st, text)
		}
	}
	p := newPeer(t, s)
	p.call("POST", "/login", password("root", appliancetest.Password)).want(t, 200, "")
	set("--password-min", "64")
	out, e, code := s.CLI(t, "user", "add", "carl", "--json")
	var made struct {
		Password string `json:"password"`
	}
	if err := json.Unmarshal([]byte(out), &made); err != nil || code != 0 || len(made.Password) < 64 {
		t.Errorf("%v %s %s", err, out, e)
	}
	p.call("POST", "/login", password("carl", made.Password)).want(t, 200, "")

	// A browser that is signed in for longer than it may be from now on is signed out.
	jar, _ := cookiejar.New(nil)
	c := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if resp, err := c.PostForm(s.URL+"/login", url.Values{"username": {"root"}, "password": {appliancetest.Password}}); err != nil || resp.StatusCode != 303 {
		t.Fatal(err, resp)
	}
	in := func() bool {
		t.Helper()
		resp, err := c.Get(s.URL + "/account")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	}
	db, err := sql.Open("sqlite", filepath.Join(s.Data, "holdfast.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`UPDATE id_browser_sessions SET created = created - $1`, 3*time.Hour.Milliseconds()); err != nil {
		t.Fatal(err)
	}
	set("--session-max", "4h", "--session-idle", "30m")
	if !in() {
		t.Error("a browser is out before its time")
	}
	set("--session-max", "2h")
	var left int
	if err := db.QueryRow(`SELECT count(*) FROM id_browser_sessions`).Scan(&left); err != nil || left != 0 || in() {
		t.Errorf("%v: %d sessions are left", err, left)
	}
	s.Restart(t)
	if m := shown(); m["password_min"] != "64" || m["session_max"] != "2h" || m["session_idle"] != "30m" {
		t.Errorf("after a restart: %v", m)
	}
	for _, bad := range [][]string{{"--password-min", "7"}, {"--password-min", "65"}, {"--password-min", "many"}, {"--session-max", "59m"}, {"--session-max", "366d"}, {"--session-max", "none"},
		{"--session-max", "90m30s"}, {"--session-idle", "4m"}, {"--session-idle", "3h"}, {"--session-idle", "-1h"}, {"--session-idle", "soon"}} {
		if _, e, code := s.CLI(t, append([]string{"login", "set"}, bad...)...); code == 0 || !strings.Contains(e, bad[0]) {
			t.Error(bad, code, e)
		}
	}
	if set("--session-max", "12h", "--session-idle", "10h"); shown()["session_idle"] != "10h" {
		t.Error(shown())
	}
	if _, e, code := s.CLI(t, "login", "set", "--session-max", "9h"); code == 0 || !strings.Contains(e, "10h") {
		t.Error(code, e)
	}
	if set("--password-min", "8", "--session-max", "30d", "--session-idle", "none"); shown()["session_max"] != "30d" || shown()["session_idle"] != "none" {
		t.Error(shown())
	}
	out, _, _ = s.CLI(t, "audit", "list", "--event", "setting.change")
	for _, want := range []string{`"login.password_min":"13"`, `"login.session_max":"2h"`, `"login.session_idle":"30m"`} {
		if !strings.Contains(out, want) {
			t.Errorf("%s is not in the audit log: %s", want, out)
		}
	}
}

// said makes a request and returns the status with the error's text.
func said(t *testing.T, u *appliancetest.User, method, path string, in any) (int, string) {
	t.Helper()
	var out struct {
		Error string `json:"error"`
	}
	st := u.Do(t, method, path, in, &out)
	if st == 201 {
		st = 200
	}
	return st, out.Error
}
