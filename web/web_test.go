package web

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// fake is an appliance that remembers what it was asked for.
type fake struct {
	grants    []string
	claimed   bool
	choices   Choices
	visitor   Visitor
	invites   []NewInvite
	disabled  map[string]bool
	mail      MailServer
	tested    []string
	rules     FileRules
	signIn    SignIn
	previews  LinkPreviews
	bridges   []string
	ended     []string // calls, and who was taken out of one
	printed   []NewBatch
	reprinted []Reprint
	revoked   []string
	linked    []NewLink
	lists     []string
}

func (f *fake) State(context.Context) (State, error) {
	st := State{State: "unclaimed", TLS: TLS{Mode: "own-ca", CAFingerprint: "AB:CD"}}
	if f.claimed {
		st.State, st.ServerName = "claimed", f.choices.ServerName
	}
	return st, nil
}

func (f *fake) Claim(_ context.Context, code string) error {
	if f.claimed {
		return &Error{Status: 410, Code: "claimed", Message: "Somebody has finished the setup. Sign in."}
	}
	if code != "RIGHT-CODE" {
		return &Error{Status: 403, Code: "wrong_code", Field: "code", Message: "This is not the claim code."}
	}
	return nil
}

func (f *fake) Finish(_ context.Context, c Choices) (Finished, error) {
	if f.claimed {
		return Finished{}, &Error{Status: 410, Code: "claimed", Message: "Somebody has finished the setup."}
	}
	f.claimed, f.choices = true, c
	return Finished{URL: "https://x.test", UserID: "@" + c.Admin.Localpart + ":" + c.ServerName}, nil
}
func (f *fake) Visitor(*http.Request) (Visitor, error) { return f.visitor, nil }
func (f *fake) CreateInvite(_ context.Context, n NewInvite) (Invite, error) {
	f.invites = append(f.invites, n)
	return Invite{ID: "1", URL: n.Origin + "/e/abcdef", Uses: n.Uses, Expires: time.Now().Add(n.ExpiresIn)}, nil
}
func (f *fake) Invites(context.Context) ([]Invite, error)  { return nil, nil }
func (f *fake) RevokeInvite(context.Context, string) error { return nil }
func (f *fake) PrintCards(_ context.Context, n NewBatch) (Printed, error) {
	f.printed = append(f.printed, n)
	return Printed{Batch: Batch{ID: "b"}, Cards: []byte("%PDF-1")}, nil
}
func (f *fake) Reprint(_ context.Context, n Reprint) (Printed, error) {
	f.reprinted = append(f.reprinted, n)
	return Printed{Batch: Batch{ID: "b"}, Cards: []byte("%PDF-1")}, nil
}
func (f *fake) Languages() []Language                             { return []Language{{"de", "Deutsch"}} }
func (f *fake) Batches(context.Context) ([]Batch, error)          { return []Batch{}, nil }
func (f *fake) Batch(_ context.Context, id string) (Batch, error) { return Batch{ID: id}, nil }
func (f *fake) RevokeCards(_ context.Context, id string) (int, error) {
	f.revoked = append(f.revoked, id)
	return 1, nil
}
func (f *fake) Link(_ context.Context, n NewLink) (Invite, error) {
	f.linked = append(f.linked, n)
	return Invite{ID: "1", URL: n.Origin + "/e/abcdef"}, nil
}
func (f *fake) PlanList(_ context.Context, list []byte, q url.Values) (any, error) {
	f.lists = append(f.lists, "plan "+q.Get("list")+" "+string(list[:min(len(list), 20)]))
	return struct{}{}, nil
}
func (f *fake) ApplyList(_ context.Context, list []byte, q url.Values, origin string) (any, error) {
	f.lists = append(f.lists, "apply "+q.Get("apply")+" "+string(list)+" "+origin)
	return struct{}{}, nil
}
func (f *fake) Users(context.Context) ([]User, error) {
	return []User{{UserID: "@a:x.test", Admin: true}}, nil
}
func (f *fake) SetDisabled(_ context.Context, id string, d bool) error {
	f.disabled[id] = d
	return nil
}
func (f *fake) Calls(_ context.Context, from, limit int) (CallReport, error) {
	return CallReport{Enabled: true, Total: from + limit}, nil
}
func (f *fake) Call(_ context.Context, id string) (CallDetails, error) {
	if id != "a/+b" {
		return CallDetails{}, &Error{Status: 404, Code: "not_found", Message: "This call is over."}
	}
	return CallDetails{Call: Call{ID: id}}, nil
}
func (f *fake) BrowserTest(context.Context) (BrowserTest, error) {
	return BrowserTest{Tokens: map[string]string{"udp": "token"}}, nil
}

func (f *fake) TestCalls(context.Context) ([]Check, error) {
	return []Check{{Name: "token", OK: true}}, nil
}
func (f *fake) EndCall(_ context.Context, id string) error {
	f.ended = append(f.ended, id)
	return nil
}
func (f *fake) RemoveFromCall(_ context.Context, id, who string) error {
	f.ended = append(f.ended, id+" "+who)
	return nil
}
func (f *fake) AuditLog(context.Context, AuditFilter) ([]AuditEntry, error) {
	return []AuditEntry{}, nil
}
func (f *fake) VerifyAudit(context.Context) (AuditReport, error) { return AuditReport{OK: true}, nil }
func (f *fake) ExportAudit(_ context.Context, w io.Writer, _ AuditFilter, asCSV bool) error {
	_, err := fmt.Fprint(w, asCSV)
	return err
}
func (f *fake) Apps(context.Context) ([]App, error) { return []App{}, nil }
func (f *fake) CreateApp(_ context.Context, n NewApp) (App, error) {
	f.grants = append(f.grants, "app "+n.Name)
	return App{ID: "1", Secret: "hcs_x"}, nil
}
func (f *fake) AddAppSecret(_ context.Context, id string) (App, error) {
	f.grants = append(f.grants, "secret "+id)
	return App{ID: id, Secret: "hcs_y"}, nil
}
func (f *fake) did(what ...any) error {
	f.grants = append(f.grants, strings.TrimSpace(fmt.Sprintln(what...)))
	return nil
}
func (f *fake) RemoveAppSecret(_ context.Context, id, s string) error { return f.did("remove", id, s) }
func (f *fake) SetAppDisabled(_ context.Context, id string, off bool) error {
	return f.did("off", id, off)
}
func (f *fake) SetAppLogout(_ context.Context, id string, l AppLogout) error {
	return f.did("logout", id, l.URL, l.CA)
}
func (f *fake) SetAppGroups(_ context.Context, id string, g []string) error {
	return f.did("groups", id, g)
}
func (f *fake) RemoveApp(_ context.Context, id string) error  { return f.did("remove", id) }
func (f *fake) Keys(context.Context) ([]Key, error)           { return []Key{}, nil }
func (f *fake) RotateKey(_ context.Context, now bool) error   { return f.did("rotate", now) }
func (f *fake) Providers(context.Context) ([]Provider, error) { return []Provider{}, nil }
func (f *fake) SetProvider(_ context.Context, id string, p ProviderForm) error {
	return f.did("set", id, p.Kind, p.Issuer, p.Groups["a"], strconv.Itoa(len(p.Metadata)))
}
func (f *fake) TestProvider(_ context.Context, id string) (string, error) {
	return "no route", f.did("ask", id)
}
func (f *fake) ProviderPeople(_ context.Context, id string) (int, int, error) {
	return 5, 2, f.did("people", id)
}
func (f *fake) RemoveProvider(_ context.Context, id, people string) (int, error) {
	return 2, f.did("remove", id, people)
}
func (f *fake) Directories(context.Context) ([]Directory, error) { return []Directory{}, nil }
func (f *fake) SyncDirectory(_ context.Context, id string, any bool) error {
	return f.did("sync", id, any)
}
func (f *fake) RemoveDirectory(_ context.Context, id string) error { return f.did("remove", id) }
func (f *fake) SetDirectory(_ context.Context, id string, d DirectorySettings) error {
	return f.did("set", id, d.Kind)
}
func (f *fake) TestDirectory(context.Context, string) (DirectoryTest, error) {
	return DirectoryTest{People: 2}, f.did("test")
}
func (f *fake) SetRole(_ context.Context, id, role string, on bool) error {
	f.grants = append(f.grants, fmt.Sprint(id, " ", role, " ", on))
	return nil
}
func (f *fake) Groups(context.Context) ([]Group, error) { return []Group{}, nil }
func (f *fake) CreateGroup(_ context.Context, name string) error {
	f.grants = append(f.grants, "create "+name)
	return nil
}
func (f *fake) RenameGroup(_ context.Context, name, to string) error {
	f.grants = append(f.grants, "rename "+name+" "+to)
	return nil
}
func (f *fake) DeleteGroup(_ context.Context, name string) error {
	f.grants = append(f.grants, "delete "+name)
	return nil
}
func (f *fake) SetGroupRole(_ context.Context, name, role string, on bool) error {
	f.grants = append(f.grants, fmt.Sprint("group ", name, " ", role, " ", on))
	return nil
}
func (f *fake) Members(_ context.Context, name string) ([]string, error) { return []string{name}, nil }
func (f *fake) SetMember(ctx context.Context, name, id string, in bool) error {
	f.grants = append(f.grants, fmt.Sprint(Caller(ctx), ": ", name, " ", id, " ", in))
	return nil
}
func (f *fake) GroupRooms(_ context.Context, name string) (GroupRooms, error) {
	return GroupRooms{Rooms: []Room{{Name: name}}}, nil
}
func (f *fake) SetGroupRoom(_ context.Context, name string, r GroupRoom) error {
	return f.did("room set", name, r.RoomID, r.Level, r.TakeOut, r.Rooms)
}
func (f *fake) RemoveGroupRoom(_ context.Context, name, room string, out bool) error {
	return f.did("room remove", name, room, out)
}
func (f *fake) ApplyGroupRoom(_ context.Context, name, room string) error {
	return f.did("room apply", name, room)
}
func (f *fake) MailServer(context.Context) (MailServer, error) {
	m := f.mail
	m.HasPassword, m.Password = m.Password != "", ""
	return m, nil
}
func (f *fake) SetMailServer(_ context.Context, m MailServer) error {
	if m.From == "wrong" {
		return &Error{Code: "bad_mail_server", Message: "This cannot be a sender."}
	}
	f.mail = m
	return nil
}
func (f *fake) TestMail(_ context.Context, to string) error {
	f.tested = append(f.tested, to)
	return nil
}
func (f *fake) SignIn(context.Context) (SignIn, error) { return f.signIn, nil }
func (f *fake) SetSignIn(_ context.Context, s SignIn) error {
	if s.GraceDays < 0 {
		return &Error{Code: "bad_rule", Field: "grace_days", Message: "This is no number of days."}
	}
	f.signIn = s
	return nil
}
func (f *fake) FileRules(context.Context) (FileRules, error) { return f.rules, nil }
func (f *fake) SetFileRules(_ context.Context, r FileRules) error {
	f.rules = r
	return nil
}
func (f *fake) LinkPreviews(context.Context) (LinkPreviews, error) { return f.previews, nil }
func (f *fake) SetLinkPreviews(_ context.Context, p LinkPreviews) error {
	f.previews = p
	return nil
}
func (f *fake) Bridges(context.Context) ([]Bridge, error) { return nil, nil }
func (f *fake) RemoveBridge(_ context.Context, id string) error {
	f.bridges = append(f.bridges, "remove "+id)
	return nil
}
func (f *fake) RetryBridge(_ context.Context, id string) error {
	f.bridges = append(f.bridges, "retry "+id)
	return nil
}
func (f *fake) Status(context.Context) (Report, error) { return Report{Version: "v"}, nil }
func (f *fake) SelfTest(context.Context) ([]Check, error) {
	return []Check{{Name: "login", OK: true}}, nil
}

func newServer(t testing.TB) (*Server, *fake) {
	f := &fake{disabled: map[string]bool{}}
	s, err := New(Options{Origin: func(*http.Request) string { return "https://x.test" }, Setup: f, Admins: f, Invites: f, Cards: f, Lists: f, People: f, Status: f, SelfTest: f, Bridges: f, Settings: f, CallDesk: f, Previews: f, Audit: f, Apps: f, Directories: f, Providers: f})
	if err != nil {
		t.Fatal(err)
	}
	return s, f
}

// ask sends one request and decodes the answer.
func ask(t testing.TB, s *Server, cookies []*http.Cookie, method, path, body string) (*http.Response, map[string]any) {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = "x.test"
	r.Header.Set("Origin", "https://x.test")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, c := range cookies {
		r.AddCookie(c)
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	res := w.Result()
	var out map[string]any
	json.Unmarshal(w.Body.Bytes(), &out)
	return res, out
}

func errCode(out map[string]any) string {
	e, _ := out["error"].(map[string]any)
	c, _ := e["code"].(string)
	return c
}

func TestSetupFromClaimToInvite(t *testing.T) {
	s, f := newServer(t)
	good := `{"organisation":"Stadt Demo","server_name":" Demo.Example ","tls":{"mode":"own-ca"},"admin":{"localpart":"ada","display_name":"Ada","password":"a long enough password"}}`

	if res, out := ask(t, s, nil, "POST", "/api/setup/finish", good); res.StatusCode != 401 || errCode(out) != "not_proved" || f.claimed {
		t.Fatalf("finish without the claim code: %d %v", res.StatusCode, out)
	}
	if res, out := ask(t, s, nil, "POST", "/api/setup/claim", `{"code":"wrong"}`); res.StatusCode != 403 || len(res.Cookies()) != 0 {
		t.Fatalf("wrong code: %d %v", res.StatusCode, out)
	}
	res, out := ask(t, s, nil, "POST", "/api/setup/claim", `{"code":" RIGHT-CODE "}`)
	if res.StatusCode != 200 || len(res.Cookies()) != 1 {
		t.Fatalf("right code: %d %v", res.StatusCode, out)
	}
	c := res.Cookies()
	if c[0].Name != "__Host-hf_setup" || !c[0].HttpOnly || !c[0].Secure || c[0].SameSite != http.SameSiteStrictMode {
		t.Errorf("the setup cookie is too open: %v", c[0])
	}
	if _, out := ask(t, s, c, "GET", "/api/setup", ""); out["proved"] != true || out["state"] != "unclaimed" {
		t.Errorf("state after the claim: %v", out)
	}
	if res, _ := ask(t, s, c, "POST", "/api/setup/invite", ""); res.StatusCode != 409 {
		t.Errorf("an invite before there is an account: %d", res.StatusCode)
	}
	for body, field := range map[string]string{
		strings.Replace(good, "Stadt Demo", " ", 1):                                        "organisation",
		strings.Replace(good, " Demo.Example ", "https://demo", 1):                         "server_name",
		strings.Replace(good, "own-ca", "none", 1):                                         "tls.mode",
		strings.Replace(good, `"mode":"own-ca"`, `"mode":"files","cert":"x","key":"y"`, 1): "tls.cert",
		strings.Replace(good, "a long enough password", strings.Repeat("x", 1001), 1):      "admin.password",
	} {
		res, out := ask(t, s, c, "POST", "/api/setup/finish", body)
		if e, _ := out["error"].(map[string]any); res.StatusCode != 400 || e["field"] != field || e["message"] == "" {
			t.Errorf("%s: %d %v, want an error about %s", body, res.StatusCode, out, field)
		}
	}
	if res, out = ask(t, s, c, "POST", "/api/setup/finish", good); res.StatusCode != 200 || out["user_id"] != "@ada:demo.example" {
		t.Fatalf("finish: %d %v", res.StatusCode, out)
	}
	if f.choices.ServerName != "demo.example" {
		t.Errorf("the server name was not brought into its canonical form: %q", f.choices.ServerName)
	}
	res, out = ask(t, s, c, "POST", "/api/setup/invite", "")
	if res.StatusCode != 200 || out["url"] != "https://x.test/e/abcdef" || f.invites[0].By != "@ada:demo.example" || f.invites[0].Uses != 1 {
		t.Errorf("invite: %d %v %+v", res.StatusCode, out, f.invites)
	}
	if err := xml.Unmarshal([]byte(out["qr_svg"].(string)), new(struct{})); err != nil {
		t.Errorf("the QR code is no SVG: %v", err)
	}
	if res, _ = ask(t, s, c, "POST", "/api/setup/selftest", ""); res.StatusCode != 200 {
		t.Errorf("self-test: %d", res.StatusCode)
	}
	if res, out = ask(t, s, nil, "POST", "/api/setup/claim", `{"code":"RIGHT-CODE"}`); res.StatusCode != 410 || errCode(out) != "claimed" {
		t.Errorf("a second claim: %d %v", res.StatusCode, out)
	}
	s.now = func() time.Time { return time.Now().Add(setupLifetime + time.Minute) }
	if res, _ = ask(t, s, c, "POST", "/api/setup/invite", ""); res.StatusCode != 401 {
		t.Errorf("the setup cookie outlives its time: %d", res.StatusCode)
	}
}

func TestClaimAttemptsAreSlowed(t *testing.T) {
	s, _ := newServer(t)
	for range triesPerAddress {
		if res, _ := ask(t, s, nil, "POST", "/api/setup/claim", `{"code":"no"}`); res.StatusCode != 403 {
			t.Fatal(res.StatusCode)
		}
	}
	res, out := ask(t, s, nil, "POST", "/api/setup/claim", `{"code":"RIGHT-CODE"}`)
	if res.StatusCode != 429 || errCode(out) != "slow_down" || res.Header.Get("Retry-After") == "" {
		t.Fatalf("the guess after %d wrong ones: %d %v", triesPerAddress, res.StatusCode, out)
	}
	s.now = func() time.Time { return time.Now().Add(throttleWindow + time.Second) }
	if res, out = ask(t, s, nil, "POST", "/api/setup/claim", `{"code":"RIGHT-CODE"}`); res.StatusCode != 200 {
		t.Fatalf("after the wait: %d %v", res.StatusCode, out)
	}
}

func TestConsoleIsForAdministrators(t *testing.T) {
	s, f := newServer(t)
	for path, method := range map[string]string{"/api/console/me": "GET", "/api/console/status": "GET", "/api/console/users": "GET", "/api/console/invites": "POST", "/api/console/invites/1": "DELETE", "/api/console/selftest": "POST", "/api/console/users/@a:x.test/disabled": "POST",
		"/api/console/mail": "PUT", "/api/console/mail/test": "POST", "/api/console/files": "PUT", "/api/console/previews": "PUT",
		"/api/console/bridges": "GET", "/api/console/bridges/remove": "POST", "/api/console/bridges/retry": "POST"} {
		f.visitor = Visitor{}
		if res, out := ask(t, s, nil, method, path, "{}"); res.StatusCode != 401 || errCode(out) != "signed_out" {
			t.Errorf("%s %s signed out: %d %v", method, path, res.StatusCode, out)
		}
		f.visitor = Visitor{UserID: "@bob:x.test"}
		if res, out := ask(t, s, nil, method, path, "{}"); res.StatusCode != 403 || errCode(out) != "not_admin" {
			t.Errorf("%s %s as a user: %d %v", method, path, res.StatusCode, out)
		}
	}
	if len(f.invites) != 0 || len(f.disabled) != 0 || len(f.tested) != 0 || len(f.bridges) != 0 || f.mail != (MailServer{}) || f.rules != (FileRules{}) || f.previews.Enabled {
		t.Fatal("something was done for somebody without the right")
	}
	f.visitor = Visitor{UserID: "@ada:x.test", Admin: true, Fresh: true}
	if res, out := ask(t, s, nil, "POST", "/api/console/invites", `{"uses":3,"expires_in":3600}`); res.StatusCode != 200 || f.invites[0].ExpiresIn != time.Hour || f.invites[0].Uses != 3 {
		t.Errorf("invite: %d %v", res.StatusCode, out)
	}
	for _, body := range []string{`{"uses":-1}`, `{"uses":10001}`, `{"expires_in":-5}`, `{"expires_in":99999999999}`, `{"expires_in":9223372036854775807}`, `{"uses":2,"localpart":"bob"}`, `{"other":1}`, `[]`, `{"uses":1} {}`} {
		if res, out := ask(t, s, nil, "POST", "/api/console/invites", body); res.StatusCode != 400 || errCode(out) == "" {
			t.Errorf("%s: %d %v", body, res.StatusCode, out)
		}
	}
	if res, out := ask(t, s, nil, "POST", "/api/console/users/@ada:x.test/disabled", `{"disabled":true}`); res.StatusCode != 409 {
		t.Errorf("locking oneself out: %d %v", res.StatusCode, out)
	}
	if res, _ := ask(t, s, nil, "POST", "/api/console/users/@bob:x.test/disabled", `{"disabled":true}`); res.StatusCode != 200 || !f.disabled["@bob:x.test"] {
		t.Errorf("locking somebody out: %d", res.StatusCode)
	}
	for _, what := range []string{"remove", "retry"} {
		if res, out := ask(t, s, nil, "POST", "/api/console/bridges/"+what, `{"id":"a/../b"}`); res.StatusCode != 200 || f.bridges[len(f.bridges)-1] != what+" a/../b" {
			t.Errorf("%s: %d %v %q", what, res.StatusCode, out, f.bridges)
		}
	}
}

// TestConsoleStepUp: what a stolen session could use needs a new proof of who asks, and
// nothing is done before.
func TestConsoleStepUp(t *testing.T) {
	s, f, m := machineServer(t)
	f.visitor = Visitor{UserID: "@ada:x.test", Admin: true}
	for path, body := range map[string]string{
		"POST /api/console/users/@b:x.test/disabled": `{"disabled":true}`, "POST /api/console/users/role": `{"user_id":"@b:x.test","role":"admin","on":true}`,
		"POST /api/console/groups/member": `{"name":"c","user_id":"@b:x.test","on":true}`, "POST /api/console/groups/delete": `{"name":"c"}`,
		"POST /api/console/groups/rooms/set": `{"name":"c","room":"#r:x.test","take_out":"yes"}`,
		"PUT /api/console/mail":              `{"host":"mail.x.test","port":25,"security":"none","from":"a@x.test"}`, "PUT /api/console/files": `{"quota":"none"}`,
		"PUT /api/console/signin":   `{"second_factor":"nobody"}`,
		"PUT /api/console/previews": `{"enabled":true}`, "POST /api/console/bridges/remove": `{"id":"b"}`,
		"POST /api/console/machine/update": "x", "POST /api/console/machine/shutdown": "{}", "PUT /api/console/machine/password": `{"password":"open sesame"}`,
	} {
		method, at, _ := strings.Cut(path, " ")
		if res, out := ask(t, s, nil, method, at, body); res.StatusCode != 403 || errCode(out) != "reauth" {
			t.Errorf("%s: %d %v", path, res.StatusCode, out)
		}
	}
	if len(f.grants)+len(f.disabled)+len(f.bridges)+len(m.asked) != 0 || f.mail != (MailServer{}) || f.rules != (FileRules{}) || f.previews.Enabled || f.signIn.SecondFactor != "" {
		t.Fatalf("done without a proof: %v %v %v %v", f.grants, f.disabled, f.bridges, m.asked)
	}
	for _, path := range []string{"GET /api/console/users", "GET /api/console/mail", "POST /api/console/selftest", "POST /api/console/invites"} {
		method, at, _ := strings.Cut(path, " ")
		if res, out := ask(t, s, nil, method, at, "{}"); res.StatusCode != 200 {
			t.Errorf("%s: %d %v", path, res.StatusCode, out)
		}
	}
}

// TestRoles: auditors read, moderators see who there is, and neither changes anything.
func TestRoles(t *testing.T) {
	s, f := newServer(t)
	posts := map[string]string{
		"/api/console/users/role": `{"user_id":"@b:x.test","role":"auditor","on":true}`, "/api/console/groups/create": `{"name":"a/b"}`,
		"/api/console/groups/rename": `{"name":"a/b","to":"c"}`, "/api/console/groups/delete": `{"name":"c"}`,
		"/api/console/groups/role": `{"name":"c","role":"moderator","on":false}`, "/api/console/groups/member": `{"name":"c","user_id":"@b:x.test","on":true}`,
		"/api/console/users/@b:x.test/disabled": `{"disabled":true}`, "/api/console/invites": `{"uses":1}`,
		"/api/console/groups/rooms/set":    `{"name":"a/b","room":"#r:x.test","level":50,"take_out":"all","rooms":true}`,
		"/api/console/groups/rooms/remove": `{"name":"a/b","room":"!r","out":true}`, "/api/console/groups/rooms/apply": `{"name":"a/b","room":"!r"}`,
	}
	reads := map[string]bool{ // whether moderators may
		"me": true, "status": true, "users": true, "groups": true, "groups/members?name=x": false, "groups/rooms?name=x": false, "mail": false, "invites": false, "files": false, "previews": false, "bridges": false,
	}
	for _, v := range []Visitor{{UserID: "@a:x.test", Auditor: true}, {UserID: "@m:x.test", Moderator: true}, {UserID: "@m:x.test", Moderator: true, Auditor: true}} {
		f.visitor = v
		for path, body := range posts {
			if res, out := ask(t, s, nil, "POST", path, body); res.StatusCode != 403 || errCode(out) != "role" {
				t.Errorf("%s as %+v: %d %v", path, v, res.StatusCode, out)
			}
		}
		for path, moderators := range reads {
			want := 403
			if v.Auditor || moderators {
				want = 200
			}
			if res, _ := ask(t, s, nil, "GET", "/api/console/"+path, ""); res.StatusCode != want {
				t.Errorf("%s as %+v: %d, want %d", path, v, res.StatusCode, want)
			}
		}
	}
	if len(f.grants) != 0 || len(f.disabled) != 0 || len(f.invites) != 0 {
		t.Fatalf("something was done: %v", f.grants)
	}
	f.visitor = Visitor{UserID: "@ada:x.test", Admin: true, Fresh: true}
	for path, body := range posts {
		if res, out := ask(t, s, nil, "POST", path, body); res.StatusCode != 200 {
			t.Errorf("%s: %d %v", path, res.StatusCode, out)
		}
	}
	for _, want := range []string{"@b:x.test auditor true", "create a/b", "rename a/b c", "delete c", "group c moderator false", "@ada:x.test: c @b:x.test true",
		"room set a/b #r:x.test 50 all true", "room remove a/b !r true", "room apply a/b !r"} {
		if !slices.Contains(f.grants, want) {
			t.Errorf("no %q in %q", want, f.grants)
		}
	}
	if res, out := ask(t, s, nil, "POST", "/api/console/users/role", `{"user_id":"@ada:x.test","role":"admin","on":false}`); res.StatusCode != 409 {
		t.Errorf("a role taken from oneself: %d %v", res.StatusCode, out)
	}
}

// Where the rules want a second factor, no role opens the console without.
func TestConsoleWantsTheSecondFactor(t *testing.T) {
	s, f := newServer(t)
	for _, v := range []Visitor{{UserID: "@ada:x.test", Admin: true, Fresh: true}, {UserID: "@m:x.test", Moderator: true, Fresh: true}, {UserID: "@a:x.test", Auditor: true, Fresh: true}} {
		for why, weak := range map[string]Visitor{"reauth": {Weak: true}, "second_factor": {Weak: true, Enrol: true}} {
			weak.UserID, weak.Admin, weak.Moderator, weak.Auditor, weak.Fresh = v.UserID, v.Admin, v.Moderator, v.Auditor, v.Fresh
			f.visitor = weak
			for _, pattern := range s.patterns {
				method, path, _ := strings.Cut(pattern, " ")
				path = strings.NewReplacer("{userID}", "@b:x.test", "{id}", "1", "{secret}", "2").Replace(path)
				res, out := ask(t, s, nil, method, path, map[bool]string{true: "", false: "{}"}[method == "GET"])
				if code := errCode(out); res.StatusCode != 403 || code != why && code != "role" {
					t.Errorf("%s as %+v: %d %s", pattern, weak, res.StatusCode, code)
				}
			}
		}
		f.visitor = v
		if res, _ := ask(t, s, nil, "GET", "/api/console/users", ""); res.StatusCode != 200 {
			t.Errorf("%+v: %d", v, res.StatusCode)
		}
	}
}

func TestSignInRules(t *testing.T) {
	s, f := newServer(t)
	f.visitor = Visitor{UserID: "@ada:x.test", Admin: true, Fresh: true}
	res, out := ask(t, s, nil, "PUT", "/api/console/signin", `{"password":true,"sso":true,"password_alone":false,"second_factor":"roles","groups":["Finance"],"grace_days":14}`)
	if res.StatusCode != 200 || out["second_factor"] != "roles" || f.signIn.GraceDays != 14 || len(f.signIn.Groups) != 1 {
		t.Fatalf("%d %v %+v", res.StatusCode, out, f.signIn)
	}
	if res, out := ask(t, s, nil, "PUT", "/api/console/signin", `{"grace_days":-1}`); res.StatusCode != 400 || errCode(out) != "bad_rule" {
		t.Errorf("%d %v", res.StatusCode, out)
	}
}

// TestEveryOperationHasItsRoles asks each operation of the console as each role. What is
// not named for a role is refused.
func TestEveryOperationHasItsRoles(t *testing.T) {
	s, f := newServer(t)
	if len(s.patterns) < 45 {
		t.Fatalf("only %d operations", len(s.patterns))
	}
	// status is -1 where the operation was reached, and failed on what this test has not.
	status := func(v Visitor, method, path string) (code int, why string) {
		f.visitor = v
		defer func() {
			if recover() != nil {
				code = -1
			}
		}()
		res, out := ask(t, s, nil, method, path, map[bool]string{true: "", false: "{}"}[method == "GET"])
		return res.StatusCode, errCode(out)
	}
	moderators := map[string]bool{"GET /api/console/me": true, "GET /api/console/status": true, "GET /api/console/users": true, "GET /api/console/groups": true,
		"GET /api/console/calls": true, "GET /api/console/calls/one": true, "POST /api/console/calls/end": true, "POST /api/console/calls/remove": true}
	for _, pattern := range s.patterns {
		method, path, _ := strings.Cut(pattern, " ")
		path = strings.NewReplacer("{userID}", "@b:x.test", "{id}", "1", "{secret}", "2").Replace(path)
		if strings.Contains(path, "{") {
			t.Errorf("%s: this test does not know its parameter", pattern)
		}
		if code, why := status(Visitor{}, method, path); code != 401 || why != "signed_out" {
			t.Errorf("%s signed out: %d %s", pattern, code, why)
		}
		if code, why := status(Visitor{UserID: "@x:x.test"}, method, path); code != 403 || why != "not_admin" {
			t.Errorf("%s as a member: %d %s", pattern, code, why)
		}
		for _, c := range []struct {
			v   Visitor
			may bool
		}{
			{Visitor{UserID: "@a:x.test", Auditor: true}, method == "GET"},
			{Visitor{UserID: "@m:x.test", Moderator: true}, moderators[pattern]},
			{Visitor{UserID: "@m:x.test", Moderator: true, Auditor: true}, method == "GET" || moderators[pattern]},
			{Visitor{UserID: "@ada:x.test", Admin: true, Fresh: true}, true},
		} {
			if code, why := status(c.v, method, path); (code != 403 || why != "role") != c.may || code == 401 {
				t.Errorf("%s as %+v: %d %s, allowed: %t", pattern, c.v, code, why, c.may)
			}
		}
		delete(moderators, pattern)
	}
	if len(moderators) != 0 {
		t.Errorf("there is no %v", moderators)
	}
}

// TestAccess: the audit log, applications and directories by HTTP.
func TestAccess(t *testing.T) {
	s, f := newServer(t)
	f.visitor = Visitor{UserID: "@ada:x.test", Admin: true, Fresh: true}
	res, out := ask(t, s, nil, "POST", "/api/console/apps", `{"name":"Wiki","template":"generic","redirects":["https://w.test/cb"]}`)
	if res.StatusCode != 200 || out["secret"] != "hcs_x" || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", res.StatusCode, out)
	}
	for _, c := range []struct{ method, path, body, want string }{
		{"POST", "apps/7/secrets", "{}", "secret 7"}, {"DELETE", "apps/7/secrets/8", "", "remove 7 8"}, {"POST", "apps/7/disabled", `{"disabled":true}`, "off 7 true"},
		{"PUT", "apps/7/groups", `{"groups":["a","b"]}`, "groups 7 [a b]"}, {"DELETE", "apps/7", "", "remove 7"},
		{"PUT", "apps/7/logout", `{"url":"https://w.test/out","ca":"pem"}`, "logout 7 https://w.test/out pem"}, {"POST", "keys/rotate", `{"at_once":true}`, "rotate true"},
		{"PUT", "directories/town", `{"kind":"ad","urls":["ldaps://x"]}`, "set town ad"}, {"POST", "directories/town/sync", `{"anyway":true}`, "sync town true"},
		{"POST", "directories/town/test", "{}", "test"}, {"DELETE", "directories/town", "", "remove town"},
		{"PUT", "upstreams/town", `{"kind":"openid","issuer":"https://x","groups":{"a":"b"}}`, "set town openid https://x b 0"},
		{"PUT", "upstreams/hall", `{"kind":"saml","metadata":"` + strings.Repeat("x", 1<<20) + `"}`, "set hall saml   1048576"}, {"POST", "upstreams/town/test", "{}", "ask town"},
		{"GET", "upstreams/town/people", "", "people town"}, {"POST", "upstreams/town/remove", `{"people":"lock"}`, "remove town lock"},
	} {
		if res, out := ask(t, s, nil, c.method, "/api/console/"+c.path, c.body); res.StatusCode != 200 || f.grants[len(f.grants)-1] != c.want {
			t.Errorf("%s %s: %d %v %q", c.method, c.path, res.StatusCode, out, f.grants[len(f.grants)-1])
		}
	}
	for _, q := range []string{"since=yesterday", "until=1", "before=0", "before=x"} {
		for _, path := range []string{"audit", "audit/export"} {
			if res, out := ask(t, s, nil, "GET", "/api/console/"+path+"?"+q, ""); res.StatusCode != 400 || errCode(out) != "bad_filter" {
				t.Errorf("%s?%s: %d %v", path, q, res.StatusCode, out)
			}
		}
	}
	res, _ = ask(t, s, nil, "GET", "/api/console/audit/export?format=csv&since=2026-01-01T00:00:00Z", "")
	if res.StatusCode != 200 || !strings.Contains(res.Header.Get("Content-Disposition"), "audit.csv") || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/csv") {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	for _, body := range []string{`{"names":"Wiki"}`, `[]`, ``} {
		if res, _ := ask(t, s, nil, "POST", "/api/console/apps", body); res.StatusCode != 400 && res.StatusCode != 415 {
			t.Errorf("%s: %d", body, res.StatusCode)
		}
	}
}

// TestCalls: moderators look after calls like administrators, auditors look only.
func TestCalls(t *testing.T) {
	s, f := newServer(t)
	for _, v := range []Visitor{{UserID: "@ada:x.test", Admin: true, Fresh: true}, {UserID: "@m:x.test", Moderator: true}, {UserID: "@a:x.test", Auditor: true}, {UserID: "@x:x.test"}} {
		f.visitor, f.ended = v, nil
		reads, acts := 200, 200
		if v.Auditor {
			acts = 403
		}
		if v.UserID == "@x:x.test" {
			reads, acts = 403, 403
		}
		res, out := ask(t, s, nil, "GET", "/api/console/calls?from=50", "")
		if res.StatusCode != reads || reads == 200 && (out["total"] != 75.0 || fmt.Sprint(out["calls"]) != "[]") {
			t.Errorf("%+v: %d %v", v, res.StatusCode, out)
		}
		if res, out := ask(t, s, nil, "GET", "/api/console/calls/one?id=a%2F%2Bb", ""); res.StatusCode != reads || reads == 200 && (out["id"] != "a/+b" || fmt.Sprint(out["people"]) != "[]") {
			t.Errorf("%+v: %d %v", v, res.StatusCode, out)
		}
		if res, _ := ask(t, s, nil, "POST", "/api/console/calls/end", `{"id":"a/+b"}`); res.StatusCode != acts {
			t.Errorf("an end by %+v: %d", v, res.StatusCode)
		}
		if res, _ := ask(t, s, nil, "POST", "/api/console/calls/remove", `{"id":"a/+b","participant":"@p:x:D"}`); res.StatusCode != acts {
			t.Errorf("a removal by %+v: %d", v, res.StatusCode)
		}
		tests := 403
		if v.Admin {
			tests = 200
		}
		if res, _ := ask(t, s, nil, "POST", "/api/console/calls/test", `{}`); res.StatusCode != tests {
			t.Errorf("a test by %+v: %d", v, res.StatusCode)
		}
		if res, out := ask(t, s, nil, "POST", "/api/console/calls/test/browser", `{}`); res.StatusCode != tests || (out["tokens"] != nil) != (tests == 200) {
			t.Errorf("a test from the browser by %+v: %d %v", v, res.StatusCode, out)
		}
		if done := acts == 200 && slices.Equal(f.ended, []string{"a/+b", "a/+b @p:x:D"}); done != (acts == 200) || acts != 200 && len(f.ended) != 0 {
			t.Errorf("%+v did %q", v, f.ended)
		}
	}
	f.visitor = Visitor{UserID: "@ada:x.test", Admin: true, Fresh: true}
	for _, from := range []string{"-1", "x", "99999999999999999999"} {
		if res, out := ask(t, s, nil, "GET", "/api/console/calls?from="+from, ""); res.StatusCode != 400 || errCode(out) != "bad_from" {
			t.Errorf("from=%s: %d %v", from, res.StatusCode, out)
		}
	}
	if res, out := ask(t, s, nil, "GET", "/api/console/calls/one?id=none", ""); res.StatusCode != 404 || errCode(out) != "not_found" {
		t.Errorf("%d %v", res.StatusCode, out)
	}
}

// Who found an open console invites nobody who may more than a member.
func TestInvitesThatGiveSomethingAskAnew(t *testing.T) {
	s, f := newServer(t)
	f.visitor = Visitor{UserID: "@ada:x.test", Admin: true}
	for _, body := range []string{`{"roles":["admin"]}`, `{"groups":["Ward 7"]}`} {
		if res, out := ask(t, s, nil, "POST", "/api/console/invites", body); res.StatusCode != 403 || errCode(out) != "reauth" {
			t.Errorf("%s: %d %v", body, res.StatusCode, out)
		}
	}
	if res, out := ask(t, s, nil, "POST", "/api/console/invites", `{"roles":[],"groups":[]}`); res.StatusCode != 200 {
		t.Errorf("%d %v", res.StatusCode, out)
	}
	f.visitor.Fresh = true
	if res, out := ask(t, s, nil, "POST", "/api/console/invites", `{"roles":["admin"],"groups":["Ward 7"]}`); res.StatusCode != 200 {
		t.Errorf("%d %v", res.StatusCode, out)
	}
	if len(f.invites) != 2 || f.invites[1].By != "@ada:x.test" || !slices.Equal(f.invites[1].Roles, []string{"admin"}) || !slices.Equal(f.invites[1].Groups, []string{"Ward 7"}) {
		t.Errorf("%+v", f.invites)
	}
}

// TestCards: who may print what opens accounts, and take it back.
func TestCards(t *testing.T) {
	s, f := newServer(t)
	body := `{"name":"Ward 7","kind":"invite","count":40,"roles":["moderator"],"groups":["Ward 7"],"expires_in":86400,"pins":true,"per_page":10}`
	for _, x := range []struct {
		v    Visitor
		want int
		code string
	}{
		{Visitor{}, 401, "signed_out"},
		{Visitor{UserID: "@x:x.test"}, 403, "not_admin"},
		{Visitor{UserID: "@m:x.test", Moderator: true, Fresh: true}, 403, "role"},
		{Visitor{UserID: "@a:x.test", Auditor: true, Fresh: true}, 403, "role"},
		{Visitor{UserID: "@ada:x.test", Admin: true}, 403, "reauth"},
	} {
		f.visitor = x.v
		for _, path := range []string{"cards", "cards/c1/reprint", "lists/apply", "links"} {
			if res, out := ask(t, s, nil, "POST", "/api/console/"+path, body); res.StatusCode != x.want || errCode(out) != x.code {
				t.Errorf("%s by %+v: %d %v", path, x.v, res.StatusCode, out)
			}
		}
		// What withdraws, and what only looks, needs no new proof.
		want := x.want
		if x.v.Admin {
			want = 200
		}
		for _, path := range []string{"cards/c1/revoke", "lists/plan?list=p"} {
			if res, out := ask(t, s, nil, "POST", "/api/console/"+path, "{}"); res.StatusCode != want {
				t.Errorf("%s by %+v: %d %v", path, x.v, res.StatusCode, out)
			}
		}
		if x.v.Auditor {
			want = 200
		}
		for _, path := range []string{"cards", "cards/b", "cards/languages"} {
			if res, out := ask(t, s, nil, "GET", "/api/console/"+path, ""); res.StatusCode != want {
				t.Errorf("%s by %+v: %d %v", path, x.v, res.StatusCode, out)
			}
		}
	}
	if len(f.printed) != 0 || len(f.linked) != 0 || !slices.Equal(f.revoked, []string{"c1"}) || !slices.Equal(f.lists, []string{"plan p {}"}) {
		t.Fatalf("%v %v %v", f.printed, f.revoked, f.lists)
	}
	f.visitor = Visitor{UserID: "@ada:x.test", Admin: true, Fresh: true}
	res, out := ask(t, s, nil, "POST", "/api/console/cards", body)
	if res.StatusCode != 200 || out["cards_pdf"] != "JVBERi0x" || out["pins_pdf"] != nil || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", res.StatusCode, out)
	}
	if res, out := ask(t, s, nil, "POST", "/api/console/cards/c1/reprint", `{"per_page":1,"language":"de","pins":true}`); res.StatusCode != 200 || out["cards_pdf"] != "JVBERi0x" {
		t.Errorf("%d %v", res.StatusCode, out)
	}
	if n := f.reprinted[0]; len(f.reprinted) != 1 || n.ID != "c1" || n.PerPage != 1 || n.Language != "de" || !n.PINs || n.ExpiresIn != 0 || n.Origin == "" {
		t.Errorf("%+v", n)
	}
	for _, body := range []string{`{"expires_in":-1}`, `{"expires_in":99999999999}`, `{"ID":"c2"}`, `[]`} {
		if res, out := ask(t, s, nil, "POST", "/api/console/cards/c1/reprint", body); res.StatusCode != 400 || errCode(out) == "" {
			t.Errorf("%s: %d %v", body, res.StatusCode, out)
		}
	}
	if n := f.printed[0]; n.Count != 40 || !n.PINs || n.PerPage != 10 || n.ExpiresIn != 86400 || !slices.Equal(n.Groups, []string{"Ward 7"}) || n.Origin == "" {
		t.Errorf("%+v", n)
	}
	for _, body := range []string{`{}`, `{"name":"x","kind":"owner","expires_in":60}`, `{"name":"x","kind":"invite"}`, `{"name":"x","kind":"invite","expires_in":-1}`,
		`{"name":"x","kind":"invite","expires_in":99999999999}`, `{"name":"x","kind":"invite","expires_in":60,"Origin":"https://evil.test"}`, `[]`} {
		if res, out := ask(t, s, nil, "POST", "/api/console/cards", body); res.StatusCode != 400 || errCode(out) == "" {
			t.Errorf("%s: %d %v", body, res.StatusCode, out)
		}
	}
	if res, out := ask(t, s, nil, "POST", "/api/console/links", `{"user_id":"@b:x.test","kind":"recovery","expires_in":60}`); res.StatusCode != 200 || out["url"] != "https://x.test/e/abcdef" || !strings.HasPrefix(out["qr_svg"].(string), "<svg") {
		t.Errorf("%d %v", res.StatusCode, out)
	}
	for _, body := range []string{`{}`, `{"user_id":"@b:x.test","kind":"invite","expires_in":60}`, `{"user_id":"@b:x.test","kind":"enrol","expires_in":0}`} {
		if res, out := ask(t, s, nil, "POST", "/api/console/links", body); res.StatusCode != 400 || errCode(out) == "" {
			t.Errorf("%s: %d %v", body, res.StatusCode, out)
		}
	}
	// A list is larger than any other request.
	if res, out := ask(t, s, nil, "POST", "/api/console/lists/plan?list=p", strings.Repeat("x", maxBody+1)); res.StatusCode != 200 {
		t.Errorf("%d %v", res.StatusCode, out)
	}
	if res, out := ask(t, s, nil, "POST", "/api/console/lists/plan?list=p", strings.Repeat("x", maxList+1)); res.StatusCode != 413 {
		t.Errorf("%d %v", res.StatusCode, out)
	}
	if res, _ := ask(t, s, nil, "POST", "/api/console/lists/apply?apply=n1", "u"); res.StatusCode != 200 || !strings.HasPrefix(f.lists[len(f.lists)-1], "apply n1 u http") {
		t.Errorf("%d %v", res.StatusCode, f.lists)
	}
}

func TestSettings(t *testing.T) {
	s, f := newServer(t)
	f.visitor = Visitor{UserID: "@ada:x.test", Admin: true, Fresh: true}
	res, out := ask(t, s, nil, "PUT", "/api/console/mail", `{"host":"mail.x.test","port":25,"security":"none","user":"u","password":"secret","from":"a@x.test"}`)
	if res.StatusCode != 200 || out["host"] != "mail.x.test" || out["has_password"] != true || out["password"] != nil || f.mail.Password != "secret" {
		t.Errorf("%d %v %+v", res.StatusCode, out, f.mail)
	}
	if res, out := ask(t, s, nil, "GET", "/api/console/mail", ""); res.StatusCode != 200 || out["from"] != "a@x.test" || out["password"] != nil {
		t.Errorf("%d %v", res.StatusCode, out)
	}
	if res, out := ask(t, s, nil, "PUT", "/api/console/mail", `{"host":"x","from":"wrong"}`); res.StatusCode != 400 || errCode(out) != "bad_mail_server" {
		t.Errorf("%d %v", res.StatusCode, out)
	}
	if res, _ := ask(t, s, nil, "POST", "/api/console/mail/test", `{"to":"b@x.test"}`); res.StatusCode != 200 || len(f.tested) != 1 || f.tested[0] != "b@x.test" {
		t.Errorf("%d %v", res.StatusCode, f.tested)
	}
	rules := FileRules{"1G", "none", "none", "365d", "never"}
	if res, out := ask(t, s, nil, "PUT", "/api/console/files", `{"max_upload":"1G","quota":"none","total":"none","keep":"365d","open":"never"}`); res.StatusCode != 200 || out["keep"] != "365d" || f.rules != rules {
		t.Errorf("%d %v", res.StatusCode, out)
	}
	if res, out := ask(t, s, nil, "PUT", "/api/console/previews", `{"enabled":true,"allow":["a.test"],"deny":[],"private":[]}`); res.StatusCode != 200 || out["enabled"] != true || !f.previews.Enabled || len(f.previews.Allow) != 1 {
		t.Errorf("%d %v", res.StatusCode, out)
	}
	for _, path := range []string{"/api/console/mail", "/api/console/files", "/api/console/previews"} {
		if res, out := ask(t, s, nil, "PUT", path, `{"more":1}`); res.StatusCode != 400 {
			t.Errorf("%s: %d %v", path, res.StatusCode, out)
		}
	}
}

func TestRefusesOtherSites(t *testing.T) {
	s, f := newServer(t)
	f.visitor = Visitor{UserID: "@ada:x.test", Admin: true, Fresh: true}
	for _, h := range []map[string]string{{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.test"}} {
		r := httptest.NewRequest("POST", "/api/console/invites", strings.NewReader("{}"))
		r.Host = "x.test"
		r.Header.Set("Content-Type", "application/json")
		for k, v := range h {
			r.Header.Set(k, v)
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if w.Code != 403 || len(f.invites) != 0 {
			t.Errorf("%v: %d", h, w.Code)
		}
	}
}

func TestBodiesAreBounded(t *testing.T) {
	s, _ := newServer(t)
	if res, out := ask(t, s, nil, "POST", "/api/setup/claim", `{"code":"`+strings.Repeat("x", maxBody)+`"}`); res.StatusCode != 413 || errCode(out) != "too_large" {
		t.Errorf("%d %v", res.StatusCode, out)
	}
}

// site is a small build: one compressed asset, one plain, Element Call.
func site(t testing.TB) *Server {
	t.Helper()
	s, f := newServer(t)
	f.claimed = true
	zip := func(b string) []byte {
		var buf bytes.Buffer
		w := gzip.NewWriter(&buf)
		w.Write([]byte(b))
		w.Close()
		return buf.Bytes()
	}
	sum := func(b string) string { h := sha256.Sum256([]byte(b)); return hex.EncodeToString(h[:]) }
	index := map[string]file{
		"index.html":               {Type: "text/html; charset=utf-8", SHA256: sum("<app>")},
		"assets/a-12345678.js":     {Type: "text/javascript; charset=utf-8", SHA256: sum("script"), Encodings: []string{"br", "gz"}, Immutable: true},
		"element-call/index.html":  {Type: "text/html; charset=utf-8", SHA256: sum("<script>1</script>")},
		"element-call/LICENSE.txt": {Type: "text/plain; charset=utf-8", SHA256: sum("AGPL")},
	}
	raw, _ := json.Marshal(index)
	var err error
	s.files, err = openFiles(fstest.MapFS{
		"dist/files.json":               {Data: raw},
		"dist/index.html":               {Data: []byte("<app>")},
		"dist/assets/a-12345678.js.br":  {Data: []byte("BROTLI")},
		"dist/assets/a-12345678.js.gz":  {Data: zip("script")},
		"dist/element-call/index.html":  {Data: []byte("<script>1</script>")},
		"dist/element-call/LICENSE.txt": {Data: []byte("AGPL")},
		"dist-missing/index.html":       {Data: []byte("missing")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestServesFiles(t *testing.T) {
	s := site(t)
	get := func(path string, header ...string) *http.Response {
		r := httptest.NewRequest("GET", path, nil)
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		return w.Result()
	}
	body := func(res *http.Response) string { b, _ := io.ReadAll(res.Body); return string(b) }

	for _, c := range []struct{ accept, encoding, body string }{
		{"gzip, deflate, br, zstd", "br", "BROTLI"},
		{"gzip", "gzip", ""},
		{"br;q=0, gzip;q=0.5", "gzip", ""},
		{"*;q=0", "", "script"},
		{"", "", "script"},
	} {
		res := get("/assets/a-12345678.js", "Accept-Encoding", c.accept)
		b := body(res)
		if res.StatusCode != 200 || res.Header.Get("Content-Encoding") != c.encoding || c.body != "" && b != c.body {
			t.Errorf("accept %q: %d %q %q", c.accept, res.StatusCode, res.Header.Get("Content-Encoding"), b)
		}
		if res.Header.Get("Vary") != "Accept-Encoding" || !strings.Contains(res.Header.Get("Cache-Control"), "immutable") || res.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("accept %q: headers %v", c.accept, res.Header)
		}
		again := get("/assets/a-12345678.js", "Accept-Encoding", c.accept, "If-None-Match", res.Header.Get("ETag"))
		if again.StatusCode != 304 {
			t.Errorf("accept %q: revalidation answers %d", c.accept, again.StatusCode)
		}
	}
	for _, p := range []string{"/", "/chat/!room.id:x.test", "/settings/profile", "/console", "/..%2f..%2fetc/passwd"} {
		if res := get(p); res.StatusCode != 200 || res.Header.Get("Cache-Control") != "no-cache" || body(res) != "<app>" {
			t.Errorf("%s: %d %v", p, res.StatusCode, res.Header)
		}
	}
	for _, p := range []string{"/assets/gone.js", "/favicon.ico", "/element-call/gone", "/files.json", "/assets/a-12345678.js.br"} {
		if res := get(p); res.StatusCode != 404 {
			t.Errorf("%s: %d", p, res.StatusCode)
		}
	}
	app, call := get("/").Header.Get("Content-Security-Policy"), get("/element-call/").Header.Get("Content-Security-Policy")
	if !strings.Contains(app, "frame-ancestors 'none'") || strings.Contains(app, "unsafe-inline") || strings.Contains(app, "http") {
		t.Errorf("the application's policy: %s", app)
	}
	if !strings.Contains(call, "frame-ancestors 'self'") || !strings.Contains(call, "'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s='") || strings.Contains(call, "http") {
		t.Errorf("the policy of Element Call: %s", call)
	}
	if res := get("/element-call/LICENSE.txt"); res.StatusCode != 200 || body(res) != "AGPL" {
		t.Error("the licence of Element Call is not served")
	}
	r := httptest.NewRequest("POST", "/anything", nil)
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	if w.Code != 405 {
		t.Errorf("POST to a page: %d", w.Code)
	}
}

func TestFirstVisitorIsSentToTheWizard(t *testing.T) {
	s, f := newServer(t)
	r := httptest.NewRequest("GET", "/", nil)
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	if w.Code != 303 || w.Header().Get("Location") != "/setup" {
		t.Errorf("unclaimed: %d %v", w.Code, w.Header())
	}
	f.claimed = true
	w = httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	if w.Code != 200 {
		t.Errorf("claimed: %d", w.Code)
	}
}

// TestEmbeddedBuild looks at the real build, when there is one.
func TestEmbeddedBuild(t *testing.T) {
	f, err := openFiles(embedded)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := f.index["element-call/index.html"]; !ok {
		t.Skip("the UI is not built: run make build")
	}
	for name, e := range f.index {
		plain, _, err := f.open(name, e, "")
		if err != nil {
			t.Fatal(name, err)
		}
		if sum := sha256.Sum256(plain); hex.EncodeToString(sum[:]) != e.SHA256 {
			t.Errorf("%s is not what was built", name)
		}
		if bytes.HasPrefix([]byte(name), []byte("element-call/")) && strings.HasSuffix(name, ".map") {
			t.Errorf("%s: source maps are not part of the program", name)
		}
	}
	for _, want := range []string{"element-call/LICENSE.txt", "element-call/NOTICE.txt", "assets/holdfast.css"} {
		if _, ok := f.index[want]; !ok {
			t.Errorf("%s is missing in the build", want)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(`{"code":"x"}`)
	f.Add(`{"organisation":"a","server_name":"b","tls":{"mode":"files","cert":"","key":""},"admin":{}}`)
	f.Add(`{"uses":1,"expires_in":1e3,"localpart":"@x"}`)
	s, fk := newServer(f)
	fk.visitor = Visitor{UserID: "@ada:x.test", Admin: true, Fresh: true}
	s.claims.now = func() time.Time { return time.Time{} }
	token := s.session.start(s.now())
	f.Fuzz(func(t *testing.T, body string) {
		for _, path := range []string{"/api/setup/claim", "/api/setup/check-name", "/api/setup/finish", "/api/console/invites"} {
			res, out := ask(t, s, []*http.Cookie{{Name: "__Host-hf_setup", Value: token}}, "POST", path, body)
			if res.StatusCode >= 500 || res.StatusCode >= 400 && errCode(out) == "" {
				t.Fatalf("%s %q: %d %v", path, body, res.StatusCode, out)
			}
		}
	})
}
