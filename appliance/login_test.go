package appliance_test

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

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
