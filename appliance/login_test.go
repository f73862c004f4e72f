package appliance_test

import (
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
