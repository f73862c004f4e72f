package appliance_test

import (
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/appliancetest"
	"holdfast/appliance/mail/mailtest"
)

const mailPassword = "geheimnis des Postamts"

// withMail is an appliance that sends its mail to a server of the test's.
func withMail(t *testing.T, set ...string) (*appliancetest.Server, *mailtest.Server) {
	t.Helper()
	m := mailtest.Start(t, mailtest.Options{StartTLS: true, User: "holdfast", Password: mailPassword})
	s := appliancetest.Start(t, set...)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte(m.CA), 0o600); err != nil {
		t.Fatal(err)
	}
	stdin(t, mailPassword+"\n")
	out, e, code := s.CLI(t, "mail", "set", "--host", mailtest.Name, "--port", strconv.Itoa(m.Port), "--user", "holdfast", "--password-stdin",
		"--from", "Chat <chat@hs.test>", "--ca", ca)
	if code != 0 || strings.Contains(out, mailPassword) {
		t.Fatal(out, e)
	}
	return s, m
}

// stdin lets the command line read a text.
func stdin(t *testing.T, text string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString(text); err != nil {
		t.Fatal(err)
	}
	w.Close()
	old := os.Stdin
	os.Stdin = r
	t.Cleanup(func() { os.Stdin = old; r.Close() })
}

var (
	mailLink = regexp.MustCompile(`http://\S+/submit_token\?\S+`)
	mailCode = regexp.MustCompile(`(?m)^[A-Z2-7]{26}$`)
)

// askMail asks for a mail and returns the session's ID and the address to submit to.
func (p *peer) askMail(path, address, secret string, attempt int, more obj) (sid, submit string) {
	p.t.Helper()
	body := obj{"client_secret": secret, "email": address, "send_attempt": attempt}
	for k, v := range more {
		body[k] = v
	}
	r := p.call("POST", path, body).want(p.t, 200, "")
	if r.str("sid") == "" || !strings.HasPrefix(r.str("submit_url"), p.s.URL+"/_matrix/") {
		p.t.Fatal(r.body)
	}
	return r.str("sid"), strings.TrimPrefix(r.str("submit_url"), p.s.URL)
}

// submit gives a mail's code as a client does.
func (p *peer) submit(to, sid, secret, token string) reply {
	p.t.Helper()
	return p.send("POST", to, "application/json", strings.NewReader(`{"sid":"`+sid+`","client_secret":"`+secret+`","token":"`+token+`"}`))
}

func creds(sid, secret string) obj { return obj{"sid": sid, "client_secret": secret} }

const (
	registerMail = "/register/email/requestToken"
	addMail      = "/account/3pid/email/requestToken"
	passwordMail = "/account/password/email/requestToken"
)

func TestMailCommands(t *testing.T) {
	s := appliancetest.Start(t)
	if out, _, code := s.CLI(t, "mail", "show"); code != 0 || !strings.Contains(out, "No mail server is set") {
		t.Error(code, out)
	}
	if _, e, code := s.CLI(t, "mail", "test", "anna@example.org"); code != 1 || !strings.Contains(e, "no mail server is set") {
		t.Error(code, e)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--from", "a@b"}, "needs --host and --from"},
		{[]string{"--host", "mail.test", "--from", "nobody"}, "cannot be a sender"},
		{[]string{"--host", "mail.test", "--from", "a@b", "--user", "u"}, "needs a password"},
		{[]string{"--host", "mail.test", "--from", "a@b", "--security", "ssl"}, "starttls, tls or none"},
		{[]string{"--host", "mail.test", "--from", "a@b", "--ca", "/does/not/exist"}, "cannot be read"},
	} {
		if _, e, code := s.CLI(t, append([]string{"mail", "set"}, c.args...)...); code == 0 || !strings.Contains(e, c.want) {
			t.Errorf("%v: %d %s", c.args, code, e)
		}
	}

	s, m := withMail(t, "log.level=debug")
	if out, e, code := s.CLI(t, "mail", "test", "anna@example.org"); code != 0 || !strings.Contains(out, "anna@example.org") {
		t.Fatal(code, e)
	}
	got := m.Next(t)
	if got.To != "anna@example.org" || got.From != "chat@hs.test" || !got.TLS || !got.LoggedIn || !strings.Contains(got.Text, "can send e-mail") || strings.Contains(got.Text, "{") {
		t.Errorf("%+v", got)
	}
	if out, _, _ := s.CLI(t, "mail", "show"); !strings.Contains(out, "localhost") || !strings.Contains(out, "logs in as holdfast") || strings.Contains(out, mailPassword) {
		t.Error(out)
	}
	if out, _, _ := s.CLI(t, "mail", "show", "--json"); !strings.Contains(out, `"has_password": true`) || strings.Contains(out, mailPassword) {
		t.Error(out)
	}
	if _, e, code := s.CLI(t, "mail", "test", "not an address"); code != 1 || !strings.Contains(e, "is not an address") {
		t.Error(code, e)
	}
	m.Refuse(map[string]string{"RCPT": "550 no such box"})
	if _, e, code := s.CLI(t, "mail", "test", "anna@example.org"); code != 1 || !strings.Contains(e, "does not take a message to this address") {
		t.Error(code, e)
	}
	m.Refuse(nil)
	// The sender changes, the password stays; it outlives a restart.
	ca := filepath.Join(t.TempDir(), "ca.pem")
	os.WriteFile(ca, []byte(m.CA), 0o600)
	if _, e, code := s.CLI(t, "mail", "set", "--host", mailtest.Name, "--port", strconv.Itoa(m.Port), "--user", "holdfast", "--from", "other@hs.test", "--ca", ca); code != 0 {
		t.Fatal(e)
	}
	log := s.Log.String()
	s.Restart(t)
	if _, e, code := s.CLI(t, "mail", "test", "anna@example.org"); code != 0 || m.Next(t).From != "other@hs.test" {
		t.Error(code, e)
	}
	if _, e, code := s.CLI(t, "mail", "off"); code != 0 {
		t.Error(e)
	}
	if _, _, code := s.CLI(t, "mail", "test", "anna@example.org"); code != 1 || m.Waiting() != 0 {
		t.Error("mail is sent although it is off")
	}
	s.Close()
	if log += s.Log.String(); strings.Contains(log, mailPassword) {
		t.Error("the password is in the log")
	}
	for _, f := range []string{"holdfast.db", "holdfast.db-wal"} {
		if b, err := os.ReadFile(filepath.Join(s.Data, f)); err == nil && strings.Contains(string(b), mailPassword) {
			t.Errorf("the password is in %s", f)
		}
	}
}

// Without a mail server e-mail addresses are denied with what to do, and nothing is offered.
func TestWithoutMail(t *testing.T) {
	s := appliancetest.Start(t, "registration.open=true")
	p := newPeer(t, s)
	for _, path := range []string{registerMail, addMail, passwordMail} {
		r := p.call("POST", path, obj{"client_secret": "x", "email": "anna@example.org", "send_attempt": 1}).want(t, 403, "M_THREEPID_DENIED")
		if !strings.Contains(r.str("error"), "holdfast mail set") {
			t.Error(r.body)
		}
	}
	for path, want := range map[string]struct {
		status int
		code   string
	}{
		"/account/3pid/msisdn/requestToken":     {400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"},
		"/register/msisdn/requestToken":         {403, "M_THREEPID_DENIED"},
		"/account/password/msisdn/requestToken": {403, "M_THREEPID_DENIED"},
	} {
		p.call("POST", path, obj{"client_secret": "x", "country": "GB", "phone_number": "07700900001", "send_attempt": 1}).want(t, want.status, want.code)
	}
	if r := p.call("POST", "/register", obj{"username": "anna", "password": "long enough"}); r.StatusCode != 401 || strings.Contains(r.body, "email") {
		t.Error(r.body)
	}
	p.call("POST", "/account/password", obj{"new_password": "long enough"}).want(t, 401, "M_MISSING_TOKEN")
	anna := s.Login(t, "anna")
	a := p.with(anna.Token)
	if r := a.call("GET", "/capabilities", nil).want(t, 200, ""); !strings.Contains(r.body, `"m.3pid_changes":{"enabled":false}`) {
		t.Error(r.body)
	}
	if r := a.call("GET", "/account/3pid", nil).want(t, 200, ""); r.body != "{\"threepids\":[]}\n" {
		t.Error(r.body)
	}
	a.call("POST", "/account/3pid/bind", obj{"sid": "x", "client_secret": "x", "id_server": "id.test", "id_access_token": "x"}).want(t, 400, "M_SERVER_NOT_TRUSTED")
	for _, path := range []string{"/account/3pid/unbind", "/account/3pid/delete"} {
		for _, medium := range []string{"email", "msisdn"} {
			r := a.call("POST", path, obj{"medium": medium, "address": "anna@example.org"}).want(t, 200, "")
			if r.str("id_server_unbind_result") != "no-support" {
				t.Error(r.body)
			}
		}
		a.call("POST", path, obj{"medium": "pigeon", "address": "x"}).want(t, 400, "M_INVALID_PARAM")
		a.call("POST", path, obj{"medium": "email"}).want(t, 400, "M_MISSING_PARAM")
		p.call("POST", path, obj{"medium": "email", "address": "x@y"}).want(t, 401, "M_MISSING_TOKEN")
	}
	a.call("POST", "/account/3pid/add", creds("nothing", "secret")).want(t, 400, "M_THREEPID_AUTH_FAILED")
	a.call("POST", "/account/3pid", obj{"three_pid_creds": creds("nothing", "secret")}).want(t, 403, "M_THREEPID_AUTH_FAILED")
	a.call("POST", "/account/3pid", obj{}).want(t, 400, "M_MISSING_PARAM")
	// Whoever has no address has nothing to unbind.
	r := a.call("POST", "/account/deactivate", obj{"auth": password("anna", appliancetest.Password)}).want(t, 200, "")
	if r.str("id_server_unbind_result") != "success" {
		t.Error(r.body)
	}
}

func TestEmailRequests(t *testing.T) {
	s, m := withMail(t)
	p := newPeer(t, s)
	good := func(change obj) obj {
		o := obj{"client_secret": "monkeys_are.GREAT=-1", "email": "anna@example.org", "send_attempt": 1}
		for k, v := range change {
			if o[k] = v; v == nil {
				delete(o, k)
			}
		}
		return o
	}
	for _, path := range []string{registerMail, addMail, passwordMail} {
		for what, c := range map[string]struct {
			change obj
			code   string
		}{
			"no secret":             {obj{"client_secret": nil}, "M_MISSING_PARAM"},
			"secret with a space":   {obj{"client_secret": "a b"}, "M_INVALID_PARAM"},
			"long secret":           {obj{"client_secret": strings.Repeat("x", 256)}, "M_INVALID_PARAM"},
			"no address":            {obj{"email": nil}, "M_MISSING_PARAM"},
			"no @":                  {obj{"email": "anna"}, "M_INVALID_PARAM"},
			"two":                   {obj{"email": "a@example.org, b@example.org"}, "M_INVALID_PARAM"},
			"with a name":           {obj{"email": "Anna <anna@example.org>"}, "M_INVALID_PARAM"},
			"a header":              {obj{"email": "anna@example.org\r\nBcc: eve@example.org"}, "M_INVALID_PARAM"},
			"long address":          {obj{"email": strings.Repeat("a", 250) + "@example.org"}, "M_INVALID_PARAM"},
			"no attempt":            {obj{"send_attempt": nil}, "M_MISSING_PARAM"},
			"attempt of text":       {obj{"send_attempt": "1"}, "M_BAD_JSON"},
			"attempt with fraction": {obj{"send_attempt": 1.5}, "M_BAD_JSON"},
			"next_link to a script": {obj{"next_link": "javascript:alert(1)"}, "M_INVALID_PARAM"},
			"next_link to an app":   {obj{"next_link": "app://x/y"}, "M_INVALID_PARAM"},
			"next_link to nowhere":  {obj{"next_link": "https:///x"}, "M_INVALID_PARAM"},
			"next_link, user":       {obj{"next_link": "https://a:b@example.org/"}, "M_INVALID_PARAM"},
			"next_link, header":     {obj{"next_link": "https://example.org/\r\nX: y"}, "M_INVALID_PARAM"},
			"next_link, policy":     {obj{"next_link": "https://example.org;script-src *"}, "M_INVALID_PARAM"},
			"next_link, long":       {obj{"next_link": "https://example.org/" + strings.Repeat("x", 2048)}, "M_INVALID_PARAM"},
		} {
			if r := p.call("POST", path, good(c.change)); r.StatusCode != 400 || r.str("errcode") != c.code {
				t.Errorf("%s, %s: %d %s, want %s", path, what, r.StatusCode, r.body, c.code)
			}
		}
	}
	if m.Waiting() != 0 {
		t.Fatal("bad requests sent mail")
	}

	// The same attempt is answered again and mailed once; a higher one is mailed.
	sid, _ := p.askMail(registerMail, "anna@example.org", "s1", 1, obj{"id_server": "ignored.test", "id_access_token": "x"})
	first := m.Next(t)
	again, _ := p.askMail(registerMail, "Anna@Example.ORG", "s1", 1, nil)
	if again != sid || m.Waiting() != 0 {
		t.Errorf("the attempt was made twice: %s %s, %d mails", sid, again, m.Waiting())
	}
	again, _ = p.askMail(registerMail, "anna@example.org", "s1", 2, nil)
	second := m.Next(t)
	if again != sid || mailCode.FindString(second.Text) == mailCode.FindString(first.Text) {
		t.Errorf("the second attempt: %s %s", sid, again)
	}
	p.askMail(registerMail, "anna@example.org", "s1", 1, nil)
	if other, _ := p.askMail(registerMail, "anna@example.org", "s2", 1, nil); other == sid || m.Waiting() != 1 {
		t.Error("another secret has the same session, or no mail of its own")
	}
	m.Next(t)
	if first.To != "anna@example.org" || !strings.Contains(first.Text, "anna@example.org") || strings.Contains(first.Text+first.Subject, "{") {
		t.Errorf("%+v", first)
	}

	// When the mail server refuses, that is said, and the same attempt may come again.
	m.Refuse(map[string]string{"RCPT": "550 no such box"})
	bea := obj{"client_secret": "s3", "email": "bea@example.org", "send_attempt": 1}
	p.call("POST", registerMail, bea).want(t, 400, "M_EMAIL_SEND_ERROR")
	m.Refuse(nil)
	p.call("POST", registerMail, bea).want(t, 200, "")
	if m.Next(t).To != "bea@example.org" {
		t.Error("the mail went elsewhere")
	}

	// Tokens of both mails work; wrong ones do not.
	submit := "/_matrix/client/unstable/holdfast/email/submit_token"
	code := mailCode.FindString(first.Text)
	p.submit(submit, sid, "s1", "WRONG").want(t, 400, "M_TOKEN_INCORRECT")
	p.submit(submit, sid, "s2", code).want(t, 400, "M_TOKEN_INCORRECT")
	p.submit(submit, "other", "s1", code).want(t, 400, "M_TOKEN_INCORRECT")
	p.submit(submit, "not valid", "s1", code).want(t, 400, "M_INVALID_PARAM")
	p.submit(submit, "", "s1", code).want(t, 400, "M_MISSING_PARAM")
	p.send("POST", submit, "application/json", strings.NewReader("{")).want(t, 400, "M_NOT_JSON")
	if r := p.submit(submit, sid, "s1", strings.ToLower(code)).want(t, 200, ""); r.m["success"] != true {
		t.Error(r.body)
	}
	p.submit(submit, sid, "s1", code).want(t, 200, "")
	if r := p.form(submit, url.Values{"sid": {sid}, "client_secret": {"s1"}, "token": {mailCode.FindString(second.Text)}}); r.StatusCode != 200 {
		t.Error(r.body)
	}
}

// From an address to an account, a login and a new password, with nothing told to strangers.
func TestEmailAccount(t *testing.T) {
	s, m := withMail(t, "registration.open=true")
	p := newPeer(t, s)
	const address = "anna@example.org"

	// Register with the address: the stage waits for the person, who confirms on the page.
	ask := p.call("POST", "/register", obj{"username": "anna", "password": "long enough"})
	if ask.StatusCode != 401 || !strings.Contains(ask.body, `{"stages":["m.login.dummy"]},{"stages":["m.login.email.identity","m.login.dummy"]}`) {
		t.Fatal(ask.body)
	}
	sid, submit := p.askMail(registerMail, address, "s1", 1, obj{"next_link": "https://app.example.org/next?a=b"})
	stage := obj{"type": "m.login.email.identity", "session": ask.str("session"), "threepid_creds": creds(sid, "s1")}
	register := obj{"username": "anna", "password": "long enough", "auth": stage}
	if r := p.call("POST", "/register", register).want(t, 401, "M_UNAUTHORIZED"); r.str("session") != ask.str("session") || !strings.Contains(r.body, `"completed":[]`) {
		t.Error(r.body)
	}
	link := mailLink.FindString(m.Next(t).Text)
	browser := newPeer(t, s)
	r := browser.send("GET", link, "", nil)
	policy := r.Header.Get("Content-Security-Policy")
	if r.StatusCode != 200 || !strings.Contains(r.body, address) || !strings.Contains(r.body, "app.example.org") || !strings.Contains(policy, "form-action 'self' https://app.example.org;") || strings.Contains(r.body, "s1\"") {
		t.Fatal(r.StatusCode, policy, r.body)
	}
	p.call("POST", "/register", register).want(t, 401, "M_UNAUTHORIZED") // looking confirms nothing
	at, _ := url.Parse(link)
	form := url.Values{"sid": {at.Query().Get("sid")}, "token": {at.Query().Get("token")}, "page": {"1"}}
	req, _ := http.NewRequest("POST", link, strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	if res, err := browser.c.Do(req); err != nil || res.StatusCode != 403 {
		t.Fatal(res.StatusCode, err)
	}
	if r = browser.form(submit, form); r.StatusCode != 303 || r.Header.Get("Location") != "https://app.example.org/next?a=b" {
		t.Fatal(r.StatusCode, r.Header, r.body)
	}
	// The other stage comes after this one.
	if r := p.call("POST", "/register", register); r.StatusCode != 401 || r.m["errcode"] != nil || !strings.Contains(r.body, `"completed":["m.login.email.identity"]`) {
		t.Fatal(r.body)
	}
	// A completed stage is not tried again.
	if r := p.call("POST", "/register", obj{"auth": obj{"type": "m.login.email.identity", "session": ask.str("session")}}); r.StatusCode != 401 || r.m["errcode"] != nil {
		t.Fatal(r.body)
	}
	in := p.call("POST", "/register", obj{"auth": obj{"type": "m.login.dummy", "session": ask.str("session")}}).want(t, 200, "")
	anna := newPeer(t, s).with(in.str("access_token"))
	list := anna.call("GET", "/account/3pid", nil).want(t, 200, "").m["threepids"].([]any)
	if len(list) != 1 || list[0].(obj)["address"] != address || list[0].(obj)["medium"] != "email" || list[0].(obj)["validated_at"].(float64) < 1e12 || list[0].(obj)["added_at"].(float64) < 1e12 {
		t.Fatal(list)
	}
	// The proof is used up.
	p.call("POST", "/register", obj{"username": "eve", "password": "long enough", "auth": obj{"type": "m.login.email.identity", "threepid_creds": creds(sid, "s1")}}).want(t, 401, "M_UNAUTHORIZED")

	// Sign in by the address, in each of its forms.
	for _, id := range []obj{
		{"identifier": obj{"type": "m.id.thirdparty", "medium": "email", "address": address}},
		{"identifier": obj{"medium": "email", "address": "ANNA@example.org"}},
		{"medium": "email", "address": address},
	} {
		id["type"], id["password"] = "m.login.password", "long enough"
		if r := p.call("POST", "/login", id).want(t, 200, ""); r.str("user_id") != "@anna:hs.test" {
			t.Error(r.body)
		}
		id["password"] = "wrong"
		p.call("POST", "/login", id).want(t, 403, "M_FORBIDDEN")
	}
	for _, id := range []obj{
		{"type": "m.id.thirdparty", "medium": "email", "address": "nobody@example.org"},
		{"type": "m.id.thirdparty", "medium": "email", "address": "nonsense"},
		{"type": "m.id.thirdparty", "medium": "msisdn", "address": "447700900001"},
		{"type": "m.id.phone", "country": "GB", "phone": "07700900001"},
	} {
		p.call("POST", "/login", obj{"type": "m.login.password", "identifier": id, "password": "long enough"}).want(t, 403, "M_FORBIDDEN")
	}

	// Who asks for a taken or an unknown address learns nothing; the person does.
	for path, to := range map[string]struct{ address, says, user string }{
		registerMail: {address, "already", "@anna:hs.test"},
		passwordMail: {"nobody@example.org", "No account", ""},
		addMail:      {address, "already", "@anna:hs.test"},
	} {
		p.askMail(path, to.address, "s2", 1, nil)
		got := m.Next(t)
		if got.To != to.address || !strings.Contains(got.Subject, to.says) || mailLink.MatchString(got.Text) || mailCode.MatchString(got.Text) || !strings.Contains(got.Text, to.user) {
			t.Errorf("%s: %+v", path, got)
		}
	}

	// A forgotten password. The proof for one thing is of no use for another.
	old := anna
	sid, submit = p.askMail(passwordMail, address, "s3", 1, nil)
	got := m.Next(t)
	if !strings.Contains(got.Subject, "@anna:hs.test") {
		t.Error(got.Subject)
	}
	reset := obj{"new_password": "brand new one", "auth": obj{"type": "m.login.email.identity", "threepidCreds": creds(sid, "s3")}}
	r = p.call("POST", "/account/password", reset).want(t, 401, "M_UNAUTHORIZED")
	if !strings.Contains(r.body, `"flows":[{"stages":["m.login.email.identity"]}]`) {
		t.Error(r.body)
	}
	p.submit(submit, sid, "s3", mailCode.FindString(got.Text)).want(t, 200, "")
	p.call("POST", "/register", obj{"username": "eve", "password": "long enough", "auth": obj{"type": "m.login.email.identity", "threepid_creds": creds(sid, "s3")}}).want(t, 401, "M_UNAUTHORIZED")
	anna.call("POST", "/account/3pid/add", creds(sid, "s3")).want(t, 400, "M_THREEPID_AUTH_FAILED")
	wrong := obj{"new_password": "brand new one", "auth": obj{"type": "m.login.email.identity", "threepid_creds": creds(sid, "other")}}
	p.call("POST", "/account/password", wrong).want(t, 401, "M_UNAUTHORIZED")
	p.call("POST", "/account/password", obj{"new_password": "short", "auth": reset["auth"]}).want(t, 400, "M_WEAK_PASSWORD")
	p.call("POST", "/account/password", reset).want(t, 200, "")
	p.call("POST", "/account/password", reset).want(t, 401, "M_UNAUTHORIZED") // once
	old.call("GET", "/account/whoami", nil).want(t, 401, "M_UNKNOWN_TOKEN")
	p.call("POST", "/login", password("anna", "long enough")).want(t, 403, "M_FORBIDDEN")
	anna = newPeer(t, s).with(p.call("POST", "/login", password("anna", "brand new one")).want(t, 200, "").str("access_token"))

	// With logout_devices false the sessions stay.
	sid, submit = p.askMail(passwordMail, address, "s4", 1, nil)
	p.submit(submit, sid, "s4", mailCode.FindString(m.Next(t).Text)).want(t, 200, "")
	p.call("POST", "/account/password", obj{"new_password": "long enough", "logout_devices": false, "auth": obj{"type": "m.login.email.identity", "threepid_creds": creds(sid, "s4")}}).want(t, 200, "")
	anna.call("GET", "/account/whoami", nil).want(t, 200, "")

	// Closing the account lets the address go.
	if r := anna.call("POST", "/account/deactivate", obj{"auth": password("anna", "long enough")}).want(t, 200, ""); r.str("id_server_unbind_result") != "no-support" {
		t.Error(r.body)
	}
	p.askMail(registerMail, address, "s5", 1, nil)
	if !mailLink.MatchString(m.Next(t).Text) {
		t.Error("the address of a closed account is not free")
	}
}

func TestAddEmail(t *testing.T) {
	s, m := withMail(t)
	p := newPeer(t, s)
	anna, bea := p.with(s.Login(t, "anna").Token), p.with(s.Login(t, "bea").Token)
	if r := anna.call("GET", "/capabilities", nil).want(t, 200, ""); !strings.Contains(r.body, `"m.3pid_changes":{"enabled":true}`) {
		t.Error(r.body)
	}
	sid, submit := anna.askMail(addMail, "anna@example.org", "s1", 1, nil)
	link := mailLink.FindString(m.Next(t).Text)
	add := creds(sid, "s1")
	anna.call("POST", "/account/3pid/add", add).want(t, 400, "M_THREEPID_AUTH_FAILED") // not confirmed yet
	at, _ := url.Parse(link)
	if r := newPeer(t, s).form(submit, url.Values{"sid": {at.Query().Get("sid")}, "token": {at.Query().Get("token")}, "page": {"1"}}); r.StatusCode != 200 || !strings.Contains(r.body, "confirmed") {
		t.Fatal(r.StatusCode, r.body)
	}
	ask := anna.call("POST", "/account/3pid/add", add)
	if ask.StatusCode != 401 || ask.str("session") == "" {
		t.Fatal(ask.body)
	}
	proof := password("anna", appliancetest.Password)
	proof["session"] = ask.str("session")
	add["auth"] = proof
	anna.call("POST", "/account/3pid/add", add).want(t, 200, "")
	anna.call("POST", "/account/3pid/add", add).want(t, 400, "M_THREEPID_AUTH_FAILED") // used up

	// Two who proved the same address: the first has it.
	both := func(u *peer, secret string) obj {
		sid, submit := u.askMail(addMail, "office@example.org", secret, 1, nil)
		u.submit(submit, sid, secret, mailCode.FindString(m.Next(t).Text)).want(t, 200, "")
		return creds(sid, secret)
	}
	one, two := both(anna, "a1"), both(bea, "b1")
	one["auth"], two["auth"] = password("anna", appliancetest.Password), password("bea", appliancetest.Password)
	bea.call("POST", "/account/3pid", obj{"three_pid_creds": creds(two["sid"].(string), "b1"), "auth": two["auth"]}).want(t, 200, "")
	anna.call("POST", "/account/3pid/add", one).want(t, 400, "M_THREEPID_IN_USE")
	anna.call("POST", addMail, obj{"client_secret": "x", "email": "office@example.org", "send_attempt": 1}).want(t, 400, "M_THREEPID_IN_USE")
	anna.call("POST", addMail, obj{"client_secret": "x", "email": "anna@example.org", "send_attempt": 1}).want(t, 400, "M_THREEPID_IN_USE")
	if m.Waiting() != 0 {
		t.Error("mail for an address in use")
	}

	// An address of one's own confirms a new password; somebody else's does not.
	sid, submit = anna.askMail(passwordMail, "office@example.org", "s2", 1, nil)
	anna.submit(submit, sid, "s2", mailCode.FindString(m.Next(t).Text)).want(t, 200, "")
	change := obj{"new_password": "brand new one", "auth": obj{"type": "m.login.email.identity", "threepid_creds": creds(sid, "s2")}}
	anna.call("POST", "/account/password", change).want(t, 401, "M_FORBIDDEN")
	bea.call("POST", "/account/password", change).want(t, 200, "")
	p.call("POST", "/login", password("bea", "brand new one")).want(t, 200, "")
	// It confirms nothing else.
	if r := bea.call("DELETE", "/devices/X", obj{"auth": obj{"type": "m.login.email.identity", "threepid_creds": creds(sid, "s2")}}).want(t, 401, "M_FORBIDDEN"); strings.Contains(r.body, "email") {
		t.Error(r.body)
	}

	// Removed, it is anybody's again; nobody removes another's.
	anna.call("POST", "/account/3pid/delete", obj{"medium": "email", "address": "office@example.org"}).want(t, 200, "")
	if r := bea.call("GET", "/account/3pid", nil); !strings.Contains(r.body, "office@example.org") {
		t.Error(r.body)
	}
	bea.call("POST", "/account/3pid/delete", obj{"medium": "email", "address": "Office@example.org"}).want(t, 200, "")
	if r := bea.call("GET", "/account/3pid", nil); strings.Contains(r.body, "office@example.org") {
		t.Error(r.body)
	}
	p.askMail(passwordMail, "office@example.org", "s9", 1, nil)
	if got := m.Next(t); mailCode.MatchString(got.Text) {
		t.Error("a removed address sets a password")
	}
}

// Mail to one address is limited, whoever asks.
func TestMailLimit(t *testing.T) {
	s, m := withMail(t, "limits.enabled=true")
	p := newPeer(t, s)
	for i := range 5 {
		p.askMail(registerMail, "anna@example.org", "s"+strconv.Itoa(i%2), i+1, nil)
		m.Next(t)
	}
	r := p.call("POST", registerMail, obj{"client_secret": "s9", "email": "anna@example.org", "send_attempt": 1}).want(t, 429, "M_LIMIT_EXCEEDED")
	if r.Header.Get("Retry-After") == "" || m.Waiting() != 0 {
		t.Error(r.Header, m.Waiting())
	}
	p.askMail(registerMail, "bea@example.org", "s1", 1, nil)
}

// Each stage has a page, which tells the application when it is done.
func TestStagePages(t *testing.T) {
	s := appliancetest.Start(t, "registration.open=true")
	p := newPeer(t, s)
	ask := p.call("POST", "/register", obj{"username": "anna", "password": "long enough"})
	at := func(stage, session string) string {
		return "/_matrix/client/v3/auth/" + stage + "/fallback/web?session=" + session
	}
	if r := p.send("GET", at("m.login.password", ask.str("session")), "", nil); r.StatusCode != 400 {
		t.Errorf("the page of a stage that is not offered: %d", r.StatusCode)
	}
	if r := p.send("GET", at("m.login.dummy", "unknown"), "", nil); r.StatusCode != 400 {
		t.Errorf("the page of an unknown session: %d", r.StatusCode)
	}
	page := at("m.login.dummy", ask.str("session"))
	if r := p.send("GET", page, "", nil); r.StatusCode != 200 || !strings.Contains(r.body, "<form") || strings.Contains(r.body, "<script") {
		t.Fatal(r.StatusCode, r.body)
	}
	if r := p.call("POST", "/register", obj{"auth": obj{"session": ask.str("session")}}); r.StatusCode != 401 {
		t.Fatal("looking at the page completed the stage")
	}
	r := p.form(page, nil)
	_, script, _ := strings.Cut(r.body, "<script>")
	script, _, found := strings.Cut(script, "</script>")
	sum := sha256.Sum256([]byte(script))
	if r.StatusCode != 200 || !found || !strings.Contains(script, `window.onAuthDone()`) || !strings.Contains(script, `window.opener.postMessage("authDone", "*")`) ||
		!strings.Contains(r.Header.Get("Content-Security-Policy"), "script-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") {
		t.Fatal(r.StatusCode, r.Header, r.body)
	}
	in := p.call("POST", "/register", obj{"auth": obj{"session": ask.str("session")}}).want(t, 200, "")

	anna := p.with(in.str("access_token"))
	ask = anna.call("POST", "/account/deactivate", obj{})
	page = at("m.login.password", ask.str("session"))
	if r := p.form(page, url.Values{"password": {"wrong"}}); r.StatusCode != 403 || !strings.Contains(r.body, `role="alert"`) {
		t.Error(r.StatusCode, r.body)
	}
	anna.call("POST", "/account/deactivate", obj{"auth": obj{"session": ask.str("session")}}).want(t, 401, "")
	if r := p.form(page, url.Values{"password": {"long enough"}}); r.StatusCode != 200 || !strings.Contains(r.body, "onAuthDone") {
		t.Fatal(r.StatusCode, r.body)
	}
	anna.call("POST", "/account/deactivate", obj{"auth": obj{"session": ask.str("session")}}).want(t, 200, "")

	// With invites alone: the token goes into the page.
	s = appliancetest.Start(t)
	p = newPeer(t, s)
	out, _, _ := s.CLI(t, "invite", "--json")
	_, token, _ := strings.Cut(regexp.MustCompile(`/e/[a-z0-9]+`).FindString(out), "/e/")
	ask = p.call("POST", "/register", obj{"username": "bea", "password": "long enough"})
	page = at("m.login.registration_token", ask.str("session"))
	if r := p.form(page, url.Values{"token": {"wrong"}}); r.StatusCode != 401 || !strings.Contains(r.body, `role="alert"`) {
		t.Error(r.StatusCode, r.body)
	}
	if r := p.form(page, url.Values{"token": {" " + token + " "}}); r.StatusCode != 200 {
		t.Fatal(r.StatusCode, r.body)
	}
	p.call("POST", "/register", obj{"auth": obj{"session": ask.str("session")}}).want(t, 200, "")
	if r := p.call("POST", "/register", obj{"username": "eve", "password": "long enough", "auth": obj{"type": "m.login.registration_token", "token": token}}).want(t, 401, "M_UNAUTHORIZED"); !strings.Contains(r.body, `"completed":[]`) {
		t.Error(r.body)
	}
}

// The page of the e-mail stage sends the mail itself and waits for the person.
func TestEmailStagePage(t *testing.T) {
	s, m := withMail(t, "registration.open=true")
	p := newPeer(t, s)
	ask := p.call("POST", "/register", obj{"username": "anna", "password": "long enough"})
	session := ask.str("session")
	page := "/_matrix/client/v3/auth/m.login.email.identity/fallback/web?session=" + session
	if r := p.send("GET", page, "", nil); r.StatusCode != 200 || !strings.Contains(r.body, `type="email"`) {
		t.Fatal(r.StatusCode, r.body)
	}
	if r := p.form(page, url.Values{"email": {"nonsense"}}); r.StatusCode != 400 || !strings.Contains(r.body, `role="alert"`) {
		t.Error(r.StatusCode, r.body)
	}
	if r := p.form(page, url.Values{"email": {"anna@example.org "}}); r.StatusCode != 200 || !strings.Contains(r.body, `name="mailed"`) {
		t.Fatal(r.StatusCode, r.body)
	}
	goOn := url.Values{"mailed": {"1"}}
	if r := p.form(page, goOn); r.StatusCode != 401 || !strings.Contains(r.body, "not confirmed yet") {
		t.Error(r.StatusCode, r.body)
	}
	at, _ := url.Parse(mailLink.FindString(m.Next(t).Text))
	if r := p.form(at.Path, url.Values{"sid": {at.Query().Get("sid")}, "token": {at.Query().Get("token")}, "page": {"1"}}); r.StatusCode != 200 {
		t.Fatal(r.StatusCode, r.body)
	}
	if r := p.form(page, goOn); r.StatusCode != 200 || !strings.Contains(r.body, "onAuthDone") {
		t.Fatal(r.StatusCode, r.body)
	}
	in := p.call("POST", "/register", obj{"auth": obj{"type": "m.login.dummy", "session": session}}).want(t, 200, "")
	anna := p.with(in.str("access_token"))
	if r := anna.call("GET", "/account/3pid", nil); !strings.Contains(r.body, "anna@example.org") {
		t.Error(r.body)
	}

	// Somebody else's address confirms nothing, one's own does.
	bea := p.with(p.call("POST", "/register", obj{"username": "bea", "password": "long enough", "auth": obj{"type": "m.login.dummy"}}).want(t, 200, "").str("access_token"))
	for u, status := range map[*peer]int{bea: 403, anna: 200} {
		ask := u.call("POST", "/account/password", obj{"new_password": "brand new one"})
		page := "/_matrix/client/v3/auth/m.login.email.identity/fallback/web?session=" + ask.str("session")
		p.form(page, url.Values{"email": {"anna@example.org"}})
		at, _ := url.Parse(mailLink.FindString(m.Next(t).Text))
		p.form(at.Path, url.Values{"sid": {at.Query().Get("sid")}, "token": {at.Query().Get("token")}, "page": {"1"}})
		if r := p.form(page, goOn); r.StatusCode != status {
			t.Errorf("the page: %d, want %d: %s", r.StatusCode, status, r.body)
		}
		if r := u.call("POST", "/account/password", obj{"new_password": "brand new one", "auth": obj{"session": ask.str("session")}}); (r.StatusCode == 200) != (status == 200) {
			t.Errorf("the password: %d %s", r.StatusCode, r.body)
		}
	}
	p.call("POST", "/login", password("anna", "brand new one")).want(t, 200, "")
}

// Clients that know no way to sign in show our page, which may talk to us alone.
func TestLoginFallback(t *testing.T) {
	s := appliancetest.Start(t)
	r := newPeer(t, s).send("GET", "/_matrix/static/client/login/?device_id=X", "", nil)
	_, script, _ := strings.Cut(r.body, "<script>")
	script, _, _ = strings.Cut(script, "</script>")
	sum := sha256.Sum256([]byte(script))
	policy := r.Header.Get("Content-Security-Policy")
	if r.StatusCode != 200 || !strings.Contains(script, "window.matrixLogin.onLogin(answer)") || !strings.Contains(policy, "script-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") ||
		!strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "connect-src 'self';") || !strings.Contains(policy, "frame-ancestors 'none'") {
		t.Fatal(r.StatusCode, policy, r.body)
	}
}

// Closing an account with erase keeps what was written from those who come later,
// and lets go of invites.
func TestDeactivateErases(t *testing.T) {
	s := appliancetest.Start(t)
	p := newPeer(t, s)
	anna, bea := p.with(s.Login(t, "anna").Token), p.with(s.Login(t, "bea").Token)
	room := func(u *peer, o obj) string {
		return "/rooms/" + url.PathEscape(u.call("POST", "/createRoom", o).want(t, 200, "").str("room_id"))
	}
	open, closed := room(bea, obj{"preset": "public_chat"}), room(bea, obj{"invite": []string{"@anna:hs.test"}})
	anna.call("POST", open+"/join", obj{}).want(t, 200, "")
	event := anna.call("PUT", open+"/send/m.room.message/1", obj{"msgtype": "m.text", "body": "a confession"}).want(t, 200, "").str("event_id")
	anna.call("POST", "/account/deactivate", obj{"erase": "yes", "auth": password("anna", appliancetest.Password)}).want(t, 400, "M_BAD_JSON")
	anna.call("POST", "/account/deactivate", obj{"erase": true, "auth": password("anna", appliancetest.Password)}).want(t, 200, "")
	for _, r := range []string{open, closed} {
		if got := bea.call("GET", r+"/state/m.room.member/@anna:hs.test", nil).want(t, 200, "").str("membership"); got != "leave" {
			t.Errorf("%s: membership %q", r, got)
		}
	}
	cleo := p.with(s.Login(t, "cleo").Token)
	cleo.call("POST", open+"/join", obj{}).want(t, 200, "")
	if r := bea.call("GET", open+"/event/"+url.PathEscape(event), nil).want(t, 200, ""); !strings.Contains(r.body, "a confession") {
		t.Error(r.body)
	}
	if r := cleo.call("GET", open+"/event/"+url.PathEscape(event), nil).want(t, 200, ""); strings.Contains(r.body, "a confession") || r.str("event_id") != event {
		t.Error(r.body)
	}
	if r := bea.call("POST", "/user_directory/search", obj{"search_term": "anna"}).want(t, 200, ""); strings.Contains(r.body, "@anna") {
		t.Error(r.body)
	}
	p.call("GET", "/profile/@anna:hs.test", nil).want(t, 404, "M_NOT_FOUND")
}

// TestForgottenPasswordOnThePages goes the whole way: the sign-in page, the mail that a
// mail server gets, the link in it, and the new password at the API.
func TestForgottenPasswordOnThePages(t *testing.T) {
	s, m := withMail(t)
	anna := s.Login(t, "anna")
	p := newPeer(t, s)
	p.token = anna.Token
	sid, submit := p.askMail(addMail, "anna@example.org", "sekret", 1, nil)
	p.submit(submit, sid, "sekret", mailCode.FindString(m.Next(t).Text)).want(t, 200, "")
	p.call("POST", "/account/3pid/add", obj{"sid": sid, "client_secret": "sekret", "auth": obj{"type": "m.login.password",
		"identifier": obj{"type": "m.id.user", "user": "anna"}, "password": appliancetest.Password}}).want(t, 200, "")

	get := func(path string) string {
		t.Helper()
		res, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("%s: %d %v %s", path, res.StatusCode, err, b)
		}
		return string(b)
	}
	post := func(path string, form url.Values) string {
		t.Helper()
		res, err := http.PostForm(s.URL+path, form)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("%s: %d %v %s", path, res.StatusCode, err, b)
		}
		return string(b)
	}
	if !strings.Contains(get("/login"), `href="/login/forgot"`) {
		t.Error("the sign-in page has no link")
	}
	post("/login/forgot", url.Values{"email": {"anna@example.org"}})
	got := m.Next(t)
	link := regexp.MustCompile(`http://\S+/login/forgot/new\?\S+`).FindString(got.Text)
	if got.To != "anna@example.org" || link == "" {
		t.Fatalf("%+v", got)
	}
	get(strings.TrimPrefix(link, s.URL))
	u, _ := url.Parse(link)
	post("/login/forgot/new", url.Values{"sid": u.Query()["sid"], "token": u.Query()["token"], "password": {"a password by mail"}, "password2": {"a password by mail"}})
	login := func(password string) int {
		return anna.Do(t, "POST", "/_matrix/client/v3/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "anna"}, "password": password}, nil)
	}
	if code := login("a password by mail"); code != 200 {
		t.Errorf("the new password: %d", code)
	}
	if code := login(appliancetest.Password); code != 403 {
		t.Errorf("the old password: %d", code)
	}
	if out, e, code := s.CLI(t, "mail", "off"); code != 0 {
		t.Fatal(out, e)
	}
	if strings.Contains(get("/login"), "/login/forgot") {
		t.Error("without mail the link is still there")
	}
}

// TestMailPusher is a pusher by e-mail with the real mailer: what mail programs need to
// end the messages is in their head, and the link works.
func TestMailPusher(t *testing.T) {
	apps := t.TempDir()
	err := os.WriteFile(filepath.Join(apps, "bridge.yaml"), []byte(`id: bridge
url: ""
as_token: token-of-the-bridge
hs_token: token-of-the-server
sender_localpart: bridge
namespaces: {}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s, m := withMail(t, "appservice.dir="+apps)
	anna, bert := s.Login(t, "anna"), s.Login(t, "bert")
	p := newPeer(t, s)
	p.token = anna.Token
	sid, submit := p.askMail(addMail, "anna@example.org", "sekret", 1, nil)
	p.submit(submit, sid, "sekret", mailCode.FindString(m.Next(t).Text)).want(t, 200, "")
	p.call("POST", "/account/3pid/add", obj{"sid": sid, "client_secret": "sekret", "auth": obj{"type": "m.login.password",
		"identifier": obj{"type": "m.id.user", "user": "anna"}, "password": appliancetest.Password}}).want(t, 200, "")
	var room struct {
		RoomID string `json:"room_id"`
	}
	bert.Do(t, "POST", "/_matrix/client/v3/createRoom", obj{"preset": "public_chat", "name": "Attic"}, &room)
	bridge := newPeer(t, s)
	bridge.token = "token-of-the-bridge"
	for _, who := range []*peer{p, bridge} {
		who.call("POST", "/rooms/"+url.PathEscape(room.RoomID)+"/join", obj{}).want(t, 200, "")
	}
	p.call("POST", "/pushers/set", obj{"kind": "email", "app_id": "m.email", "pushkey": "anna@example.org", "app_display_name": "Email Notifications",
		"device_display_name": "anna@example.org", "lang": "en", "data": obj{}, "append": true}).want(t, 200, "")
	// Of an hour ago, so that nobody has to wait for ten minutes.
	bridge.call("PUT", "/rooms/"+url.PathEscape(room.RoomID)+"/send/m.room.message/1?ts="+strconv.FormatInt(time.Now().Add(-time.Hour).UnixMilli(), 10),
		obj{"msgtype": "m.text", "body": "plans"}).want(t, 200, "")
	for end := time.Now().Add(time.Minute); m.Waiting() == 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	got := m.Next(t)
	link := strings.Trim(got.Header.Get("List-Unsubscribe"), "<>")
	if got.To != "anna@example.org" || !strings.Contains(got.Text, "Attic: 1 message from ") || strings.Contains(got.Text, "plans") || strings.Contains(got.Text, "{") ||
		link == "" || !strings.Contains(got.Text, link) || got.Header.Get("List-Unsubscribe-Post") != "List-Unsubscribe=One-Click" || got.Header.Get("Auto-Submitted") != "auto-generated" {
		t.Fatalf("%+v", got)
	}
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"anna@example.org", "are stopped", "ends nothing"} {
		var res *http.Response
		if want == "anna@example.org" {
			res, err = http.Get(s.URL + u.RequestURI())
		} else {
			res, err = http.PostForm(s.URL+u.RequestURI(), url.Values{"List-Unsubscribe": {"One-Click"}})
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%d %s %v, want %q", res.StatusCode, b, err, want)
		}
	}
	if got := p.call("GET", "/pushers", nil).want(t, 200, ""); strings.Contains(got.body, "m.email") {
		t.Error(got.body)
	}
}
