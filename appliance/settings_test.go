package appliance_test

import (
	"net/url"
	"strconv"
	"strings"
	"testing"

	"holdfast/appliance/appliancetest"
	"holdfast/appliance/mail/mailtest"
)

// TestConsoleSettings sets a mail server and rules for files in the console, by the same
// checks as on the command line.
func TestConsoleSettings(t *testing.T) {
	s := appliancetest.Start(t)
	s.Login(t, "anna", "--admin")
	m := mailtest.Start(t, mailtest.Options{StartTLS: true, User: "holdfast", Password: mailPassword})
	p := newPeer(t, s)
	p.form("/login", url.Values{"username": {"anna"}, "password": {appliancetest.Password}})
	ask := func(method, path string, body string) reply {
		t.Helper()
		return p.send(method, "/api/console/"+path, "application/json", strings.NewReader(body))
	}
	told := func(a reply, status int, words ...string) {
		t.Helper()
		for _, w := range words {
			if a.StatusCode != status || !strings.Contains(a.body, w) {
				t.Errorf("%d %s, want %d with %s", a.StatusCode, a.body, status, w)
			}
		}
	}
	told(ask("GET", "mail", ""), 200, `"host":""`)
	told(ask("POST", "mail/test", `{"to":"anna@example.org"}`), 409, "no_mail_server")
	told(ask("PUT", "mail", `{"host":"mail.test","from":"nobody"}`), 400, "bad_mail_server", "cannot be a sender")
	told(ask("PUT", "mail", `{"host":"mail.test","from":"a@b","user":"u"}`), 400, "no_password", `"field":"password"`)
	told(ask("PUT", "mail", `{"host":"mail.test","from":"a@b","ca":"x"}`), 400, "not in PEM form")
	told(ask("GET", "mail", ""), 200, `"host":""`)
	ca := strings.ReplaceAll(m.CA, "\n", `\n`)
	good := `{"host":"` + mailtest.Name + `","port":` + strconv.Itoa(m.Port) + `,"security":"starttls","user":"holdfast","password":"` + mailPassword + `","from":"Chat <chat@hs.test>","ca":"` + ca + `"}`
	a := ask("PUT", "mail", good)
	told(a, 200, `"has_password":true`)
	if strings.Contains(a.body, mailPassword) {
		t.Error("the password comes back")
	}
	told(ask("POST", "mail/test", `{"to":"anna@example.org"}`), 200, "{}")
	if got := m.Next(t); got.To != "anna@example.org" || !got.LoggedIn {
		t.Errorf("%+v", got)
	}
	told(ask("POST", "mail/test", `{"to":"no address"}`), 502, "not_sent", "is not an address")
	// Without a password the one that there is stays.
	told(ask("PUT", "mail", strings.Replace(good, `"password":"`+mailPassword+`",`, "", 1)), 200, `"has_password":true`)
	told(ask("POST", "mail/test", `{"to":"bert@example.org"}`), 200, "{}")
	m.Next(t)
	if out, _, _ := s.CLI(t, "mail", "show"); !strings.Contains(out, "logs in as holdfast") {
		t.Error(out)
	}
	told(ask("PUT", "mail", `{"host":""}`), 200, `"host":""`, `"has_password":false`)
	if out, _, _ := s.CLI(t, "mail", "show"); !strings.Contains(out, "No mail server is set") {
		t.Error(out)
	}

	told(ask("GET", "files", ""), 200, `"max_upload":"100M"`, `"keep":"forever"`)
	told(ask("PUT", "files", `{"max_upload":"1G","quota":"lots","keep":"365d"}`), 400, `"field":"quota"`, "is no size")
	told(ask("PUT", "files", `{"keep":"1h"}`), 400, `"field":"keep"`)
	told(ask("PUT", "files", `{"open":"soon"}`), 400, `"field":"open"`)
	told(ask("GET", "files", ""), 200, `"max_upload":"100M"`)
	told(ask("PUT", "files", `{"max_upload":"1G","quota":"5G","total":"none","keep":"365d","open":"never"}`), 200, `"quota":"5G"`)
	if out, _, _ := s.CLI(t, "files", "show"); !strings.Contains(out, "5G") || !strings.Contains(out, "365d") {
		t.Error(out)
	}

	told(ask("GET", "previews", ""), 200, `"enabled":false`, `"allow":[]`, `"deny":[]`, `"private":[]`)
	told(ask("PUT", "previews", `{"enabled":true,"deny":["http://x.test/"]}`), 400, "bad_host", `"field":"deny"`)
	told(ask("GET", "previews", ""), 200, `"enabled":false`)
	told(ask("PUT", "previews", `{"enabled":true,"allow":["*.corp.test","10.1.0.0/16"],"private":["*.corp.test"]}`), 200, `"enabled":true`, `"allow":["*.corp.test","10.1.0.0/16"]`)
	if out, _, _ := s.CLI(t, "previews", "show"); !strings.Contains(out, "on\n") || !strings.Contains(out, "*.corp.test, 10.1.0.0/16") {
		t.Error(out)
	}
	told(ask("PUT", "previews", `{"enabled":false}`), 200, `"enabled":false`, `"allow":[]`, `"private":[]`)
}
