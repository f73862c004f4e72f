package appliance_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/certs"
	"holdfast/appliance/config"
)

func get(t *testing.T, url string, host string, headers ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer c.CloseIdleConnections()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func TestEmptyFolderServesAtOnce(t *testing.T) {
	s := appliancetest.Start(t)
	for path, want := range map[string]string{"/_matrix/client/versions": "v1.", "/.well-known/openid-configuration": "issuer"} {
		if code, body := get(t, s.URL+path, ""); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ready", "/metrics": `holdfast_http_request_seconds_count{route="GET /_matrix/client/versions",status="2xx"} 1`} {
		if code, body := get(t, s.Metrics+path, ""); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %.300s", path, code, body)
		}
	}
	if code, _ := get(t, s.URL+"/metrics", ""); code == 200 {
		// The web client answers unknown paths with its page, never with metrics.
		if _, body := get(t, s.URL+"/metrics", ""); strings.Contains(body, "holdfast_") {
			t.Error("metrics are on the public listener")
		}
	}
}

// The issuer shows which origin a request is given.
func issuer(t *testing.T, url, host string, headers ...string) string {
	t.Helper()
	code, body := get(t, url+"/.well-known/openid-configuration", host, headers...)
	var m struct{ Issuer string }
	if err := json.Unmarshal([]byte(body), &m); err != nil || code != 200 {
		t.Fatalf("%d %v %s", code, err, body)
	}
	return strings.TrimSuffix(m.Issuer, "/")
}

func TestOrigin(t *testing.T) {
	s := appliancetest.Start(t, "tls.mode=own-ca", "listen.https=127.0.0.1:0")
	plain := s.Addr("http").String()
	_, port, _ := net.SplitHostPort(plain)
	_, tlsPort, _ := net.SplitHostPort(s.Addr("https").String())
	secure := "https://127.0.0.1:" + tlsPort
	for _, c := range []struct{ url, host, want string }{
		{s.URL, "localhost:" + port, "http://localhost:" + port},
		{s.URL, plain, "http://" + plain},
		{s.URL, "localhost:1", "https://hs.test"},
		{s.URL, "evil.test", "https://hs.test"},
		{s.URL, "evil.test:" + port, "https://hs.test"},
		{secure, "", secure},
		{secure, "localhost:" + tlsPort, "https://localhost:" + tlsPort},
		{secure, "evil.test:" + tlsPort, "https://hs.test"},
		{secure, "hs.test:" + tlsPort, "https://hs.test:" + tlsPort},
	} {
		if got := issuer(t, c.url, c.host); got != c.want {
			t.Errorf("%s as %q: %s, want %s", c.url, c.host, got, c.want)
		}
	}
	for _, h := range []string{"X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via"} {
		if got := issuer(t, s.URL, "localhost:"+port, h, "1.2.3.4"); got != "https://hs.test" {
			t.Errorf("behind a proxy (%s): %s", h, got)
		}
	}

	fixed := appliancetest.Start(t, "public_url=https://chat.hs.test:8443")
	_, port, _ = net.SplitHostPort(fixed.Addr("http").String())
	for host, want := range map[string]string{"": "https://chat.hs.test:8443", "localhost:" + port: "http://localhost:" + port, "x": "https://chat.hs.test:8443"} {
		if got := issuer(t, fixed.URL, host); got != want {
			t.Errorf("as %q: %s, want %s", host, got, want)
		}
	}
}

func TestOwnAuthorityAndHTTP2(t *testing.T) {
	s := appliancetest.Start(t, "tls.mode=own-ca", "listen.https=127.0.0.1:0")
	_, ca := get(t, s.URL+"/ca.crt", "")
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(ca)) {
		t.Fatalf("/ca.crt is %s", ca)
	}
	_, port, _ := net.SplitHostPort(s.Addr("https").String())
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	for _, host := range []string{"localhost", "127.0.0.1"} {
		resp, err := (&http.Client{Transport: tr}).Get("https://" + host + ":" + port + "/_matrix/client/versions")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.ProtoMajor != 2 || resp.StatusCode != 200 {
			t.Errorf("%s: %s %s", host, resp.Proto, resp.Status)
		}
	}
	if !strings.Contains(s.Console.String(), "fingerprint") {
		t.Error("the fingerprint was not printed")
	}
}

func TestServerNameIsFixedByTheFirstAccount(t *testing.T) {
	s := appliancetest.Start(t, "server_name=")
	provisional := s.ServerName()
	if provisional == "" || config.ValidServerName(provisional) != "" {
		t.Fatalf("%q", provisional)
	}
	s.Login(t, "anna")
	s.Close()
	cfg, err := config.Load(config.Input{Data: s.Data, Set: []string{"server_name=other.test", "tls.mode=off", "listen.http=127.0.0.1:0", "listen.metrics=", "sfu.enabled=false"}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := appliance.Start(context.Background(), cfg, io.Discard, io.Discard)
	if err == nil {
		a.Close()
		t.Fatal("another server name was accepted")
	}
	for _, want := range []string{"--set: server_name", provisional, "cannot change"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestConfiguredNameMayBeCorrectedBeforeTheFirstAccount(t *testing.T) {
	s := appliancetest.Start(t, "server_name=typo.test")
	s.Close()
	cfg, err := config.Load(config.Input{Data: s.Data, Set: []string{"server_name=right.test", "tls.mode=off", "listen.http=127.0.0.1:0", "listen.metrics=", "sfu.enabled=false"}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := appliance.Start(context.Background(), cfg, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if a.ServerName() != "right.test" {
		t.Error(a.ServerName())
	}
}

// post sends JSON as the page of the same origin does.
func post(t *testing.T, c *http.Client, url string, in any) (int, map[string]any) {
	t.Helper()
	b, _ := json.Marshal(in)
	req, _ := http.NewRequest("POST", url, bytes.NewReader(b))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out map[string]any
	json.NewDecoder(resp.Body).Decode(&out)
	return resp.StatusCode, out
}

type oneCookie struct{ cookies []*http.Cookie }

func (j *oneCookie) RoundTrip(r *http.Request) (*http.Response, error) {
	for _, c := range j.cookies {
		r.AddCookie(c)
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err == nil {
		j.cookies = append(j.cookies, resp.Cookies()...)
	}
	return resp, err
}

func TestSetup(t *testing.T) {
	s := appliancetest.Start(t, "server_name=")
	code := s.ClaimCode()
	if code == "" {
		t.Fatalf("no claim code was printed:\n%s", s.Console)
	}
	raw, err := os.ReadFile(filepath.Join(s.Data, "holdfast.db-wal"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte(code)) || strings.Contains(s.Log.String(), code) {
		t.Error("the claim code is kept in the clear")
	}
	c := &http.Client{Transport: &oneCookie{}}
	choices := map[string]any{"organisation": "Ward 7", "server_name": "ward7", "tls": map[string]string{"mode": "off"},
		"admin": map[string]string{"localpart": "Anna", "display_name": "Anna", "password": appliancetest.Password}}
	if st, _ := post(t, c, s.URL+"/api/setup/finish", choices); st != 401 {
		t.Fatalf("finished without the code: %d", st)
	}
	if st, _ := post(t, c, s.URL+"/api/setup/claim", map[string]string{"code": "0000-0000-0000"}); st != 403 {
		t.Fatalf("a wrong code answers %d", st)
	}
	time.Sleep(300 * time.Millisecond) // the pause after a wrong one
	if st, out := post(t, c, s.URL+"/api/setup/claim", map[string]string{"code": strings.ToLower(strings.ReplaceAll(code, "-", " "))}); st != 200 {
		t.Fatalf("the code answers %d %v", st, out)
	}
	weak := map[string]any{"organisation": "Ward 7", "server_name": "ward7", "tls": map[string]string{"mode": "off"}, "admin": map[string]string{"localpart": "anna", "password": "x"}}
	if st, out := post(t, c, s.URL+"/api/setup/finish", weak); st != 400 || !strings.Contains(fmt.Sprint(out), "admin.password") {
		t.Fatalf("a weak password answers %d %v", st, out)
	}
	st, out := post(t, c, s.URL+"/api/setup/finish", choices)
	if st != 200 || out["user_id"] != "@anna:ward7" || out["restart"] == true {
		t.Fatalf("%d %v", st, out)
	}
	if s.ServerName() != "ward7" {
		t.Error(s.ServerName())
	}
	u := s.Login(t, "anna")
	if u.ID != "@anna:ward7" {
		t.Error(u.ID)
	}
	if st, _ := post(t, c, s.URL+"/api/setup/claim", map[string]string{"code": code}); st != 410 {
		t.Errorf("the code works twice: %d", st)
	}
	if st, out := post(t, c, s.URL+"/api/setup/finish", choices); st != 410 {
		t.Errorf("a second finish answers %d %v", st, out)
	}
	s.Restart(t)
	if s.ServerName() != "ward7" || s.ClaimCode() != "" {
		t.Errorf("after a restart: %s, code %q", s.ServerName(), s.ClaimCode())
	}
	if _, body := get(t, s.URL+"/api/setup", ""); !strings.Contains(body, `"claimed"`) || !strings.Contains(body, "Ward 7") {
		t.Error(body)
	}
}

func TestCommandLine(t *testing.T) {
	s := appliancetest.Start(t)
	out, e, code := s.CLI(t, "user", "add", "anna", "--json", "--admin")
	var made struct {
		UserID   string `json:"user_id"`
		Password string
	}
	if code != 0 || json.Unmarshal([]byte(out), &made) != nil || made.UserID != "@anna:hs.test" || made.Password == "" {
		t.Fatalf("%d %s %s", code, out, e)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"user", "add", "anna"}, 1, "taken"},
		{[]string{"user", "add", "Än na"}, 1, "not allowed"},
		{[]string{"user", "add"}, 2, "say which NAME"},
		{[]string{"user", "add", "a", "b"}, 2, "too much"},
		{[]string{"user", "add", "@eva:elsewhere.test"}, 1, "end in :hs.test"},
		{[]string{"invite", "--for", "@eva:elsewhere.test"}, 1, "end in :hs.test"},
		{[]string{"user", "ad"}, 2, "Did you mean user add?"},
		{[]string{"user", "list", "--jsn"}, 2, "did you mean --json?"},
		{[]string{"serve", "--json"}, 2, "no option --json"},
		{[]string{"user", "list", "--config", ""}, 2, "names no file"},
		{[]string{"user", "password", "nobody"}, 1, "no such user"},
		{[]string{"user", "disable", "nobody"}, 1, "no such user"},
		{[]string{"invite", "--expires", "soon"}, 2, "7d"},
		{[]string{"invite", "--role", "king"}, 1, "no such role"},
		{[]string{"invite", "--group", "nobody's"}, 1, "no such group"},
		{[]string{"claim"}, 1, "set up already"},
		{[]string{"user", "list", "--set", "lsten.http=:1"}, 2, "listen.http"},
	} {
		_, e, code := s.CLI(t, c.args...)
		if code != c.code || !strings.Contains(e, c.want) {
			t.Errorf("%q: %d %s", c.args, code, e)
		}
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"user", "list"}, "@anna:hs.test"},
		{[]string{"user", "list", "--json"}, `"admin": true`},
		{[]string{"user", "password", "anna", "--password", appliancetest.Password}, "new password"},
		{[]string{"user", "password", "anna", "--json"}, `"@anna:hs.test"`},
		{[]string{"user", "disable", "anna"}, "@anna:hs.test is locked"},
		{[]string{"user", "disable", "@anna:hs.test", "--json"}, `"user_id": "@anna:hs.test"`},
		{[]string{"user", "list", "--json"}, `"locked"`},
		{[]string{"user", "disable", "anna", "--undo"}, "may log in"},
		{[]string{"invite", "--json", "--uses", "3"}, "/e/"},
		{[]string{"invite", "--json", "--role", "moderator"}, "/e/"},
		{[]string{"config", "print"}, "listen"},
		{[]string{"config", "print", "--template"}, "#server_name"},
		{[]string{"version", "--json"}, `"version"`},
		{[]string{"user", "add", "--help"}, "--password-stdin"},
	} {
		out, e, code := s.CLI(t, c.args...)
		if code != 0 || !strings.Contains(out, c.want) {
			t.Errorf("%q: %d %s %s", c.args, code, out, e)
		}
	}
	if fi, err := os.Stat(filepath.Join(s.Data, "holdfast.sock")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Error("the socket", fi, err)
	}
	out, _, _ = s.CLI(t, "doctor")
	for _, want := range []string{"ok     configuration", "ok     disk", "running as hs.test"} {
		if !strings.Contains(out, want) {
			t.Errorf("doctor does not say %q:\n%s", want, out)
		}
	}
	if out, _, code := s.CLI(t, "doctor", "--json", "--set", "tls.mode=files", "--set", "tls.cert=/nowhere", "--set", "tls.key=/nowhere"); code != 1 || !strings.Contains(out, `"certificate"`) {
		t.Errorf("doctor finds no fault in a missing certificate: %d %s", code, out)
	}
	s.Close()
	if _, e, code := s.CLI(t, "user", "list"); code != 3 || !strings.Contains(e, "holdfast serve") {
		t.Errorf("%d %s", code, e)
	}
}

// The wizard's last page: all of it is green on a fresh appliance, and broken parts are not.
func TestSelfTest(t *testing.T) {
	s := appliancetest.Start(t, "server_name=", "sfu.enabled=true", "limits.enabled=true")
	c := &http.Client{Transport: &oneCookie{}}
	if st, out := post(t, c, s.URL+"/api/setup/claim", map[string]string{"code": s.ClaimCode()}); st != 200 {
		t.Fatal(st, out)
	}
	if st, out := post(t, c, s.URL+"/api/setup/finish", map[string]any{"organisation": "Ward 7", "server_name": "ward7", "tls": map[string]string{"mode": "off"},
		"admin": map[string]string{"localpart": "anna", "display_name": "Anna", "password": appliancetest.Password}}); st != 200 {
		t.Fatal(st, out)
	}
	for range 2 {
		req, _ := http.NewRequest("POST", s.URL+"/api/setup/selftest", strings.NewReader("{}"))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Sec-Fetch-Site", "same-origin")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var checks []struct {
			Name, Detail string
			OK           bool
		}
		json.NewDecoder(resp.Body).Decode(&checks)
		resp.Body.Close()
		var names []string
		for _, c := range checks {
			names = append(names, c.Name)
			if !c.OK {
				t.Errorf("%s: %s", c.Name, c.Detail)
			}
		}
		if strings.Join(names, " ") != "login message media call" {
			t.Fatal(resp.Status, names)
		}
	}
	if out, _, _ := s.CLI(t, "user", "list"); strings.Contains(out, "selftest") {
		t.Errorf("the self-test is among the people:\n%s", out)
	}
	if _, e, code := s.CLI(t, "user", "add", "_selftest"); code == 0 {
		t.Error("its name can be taken", e)
	}
}

// The doctor names what is broken on a machine that does not run the appliance,
// each fault once, and changes nothing.
func TestDoctor(t *testing.T) {
	s := appliancetest.Start(t)
	s.Login(t, "anna")
	s.Close()
	db := filepath.Join(s.Data, "holdfast.db")
	whole, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	udp, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	_, udpPort, _ := net.SplitHostPort(udp.LocalAddr().String())
	quiet := []string{"listen.https=", "listen.http=127.0.0.1:0", "listen.metrics="}
	for name, c := range map[string]struct {
		damage func()
		set    []string
		wrong  string // the finding's name; "": all is well
		want   string
	}{
		"nothing": {},
		"damaged": {damage: func() {
			os.WriteFile(db, append(append([]byte{}, whole[:4096]...), make([]byte, len(whole)-4096)...), 0o600)
		}, wrong: "database", want: "put back a backup"},
		"no database":  {damage: func() { os.WriteFile(db, []byte(strings.Repeat("x", 9000)), 0o600) }, wrong: "database", want: "damaged"},
		"clock":        {damage: func() { os.Chtimes(db, time.Time{}, time.Now().Add(48*time.Hour)) }, wrong: "clock", want: "set the clock"},
		"open folder":  {damage: func() { os.Chmod(s.Data, 0o755) }, wrong: "data folder", want: "chmod 700"},
		"port":         {set: []string{"listen.http=" + taken.Addr().String()}, wrong: "port", want: "used by another program"},
		"UDP port":     {set: []string{"sfu.udp_port=" + udpPort}, wrong: "port", want: "sfu.udp_port"},
		"no such host": {set: []string{"listen.http=203.0.113.7:8008"}, wrong: "port", want: "one of this machine"},
		"appservices":  {set: []string{"appservice.dir=/nowhere"}, wrong: "appservice.dir", want: "name a folder"},
		"TLS files":    {set: []string{"tls.mode=files", "tls.cert=/nowhere", "tls.key=/nowhere"}, wrong: "certificate", want: "no such file"},
		"key":          {set: []string{"lsten.http=:1"}, wrong: "configuration", want: "listen.http"},
	} {
		t.Run(name, func(t *testing.T) {
			os.WriteFile(db, whole, 0o600)
			os.Chtimes(db, time.Time{}, time.Now())
			os.Chmod(s.Data, 0o700)
			if c.damage != nil {
				c.damage()
			}
			before, _ := os.ReadFile(db)
			args := []string{"doctor", "--json"}
			for _, set := range append(quiet, c.set...) {
				args = append(args, "--set", set)
			}
			out, e, code := s.CLI(t, args...)
			var found []struct {
				Name, Detail string
				OK           bool
			}
			if err := json.Unmarshal([]byte(out), &found); err != nil {
				t.Fatal(err, out, e)
			}
			wrong := 0
			for _, f := range found {
				if f.OK || f.Name == "network" || f.Name == "disk" { // those are of this machine
					continue
				}
				wrong++
				if f.Name != c.wrong || !strings.Contains(f.Detail, c.want) {
					t.Errorf("%s: %s", f.Name, f.Detail)
				}
			}
			if c.wrong != "" && (wrong != 1 || code != 1) {
				t.Errorf("%d found, code %d: %s", wrong, code, out)
			}
			if after, _ := os.ReadFile(db); !bytes.Equal(before, after) {
				t.Error("the doctor changed the database")
			}
		})
	}
}

// A start that cannot succeed ends with what is wrong and what to do, and leaves
// nothing that runs.
func TestStartFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, nil, 0o600)
	damaged := t.TempDir()
	os.WriteFile(filepath.Join(damaged, "holdfast.db"), []byte(strings.Repeat("x", 9000)), 0o600)
	badService := t.TempDir()
	os.WriteFile(filepath.Join(badService, "a.yaml"), []byte("id: 5: x"), 0o600)
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"data is a file":      {[]string{"--data", file}, 1, "name another with --data"},
		"no data folder":      {[]string{"--data", ""}, 2, "--data names no folder"},
		"damaged":             {[]string{"--data", damaged}, 1, "put back a backup"},
		"appservices":         {[]string{"--data", t.TempDir(), "--set", "appservice.dir=/nowhere"}, 1, "--set: appservice.dir"},
		"appservice file":     {[]string{"--data", t.TempDir(), "--set", "appservice.dir=" + badService}, 1, "a.yaml"},
		"certificate":         {[]string{"--data", t.TempDir(), "--set", "tls.mode=files", "--set", "tls.cert=/nowhere", "--set", "tls.key=/nowhere"}, 1, "--set: tls.cert"},
		"federation and http": {[]string{"--data", t.TempDir(), "--set", "listen.http=127.0.0.1:7001", "--set", "listen.federation=:7001"}, 2, "--set: listen.federation"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, e bytes.Buffer
			code := appliance.Main(context.Background(), append([]string{"serve", "--set", "listen.https=127.0.0.1:0", "--set", "listen.metrics=", "--set", "sfu.enabled=false"}, c.args...), &out, &e)
			if code != c.code || !strings.Contains(e.String(), c.want) {
				t.Errorf("%d %s", code, e.String())
			}
		})
	}
}

func TestTwoOnOneFolder(t *testing.T) {
	s := appliancetest.Start(t)
	cfg, err := config.Load(config.Input{Data: s.Data, Set: []string{"tls.mode=off", "listen.http=127.0.0.1:0", "listen.metrics=", "sfu.enabled=false"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := appliance.Start(context.Background(), cfg, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "another Holdfast") {
		t.Fatal(err)
	}
	if _, _, code := s.CLI(t, "user", "list"); code != 0 {
		t.Error("the first one lost its socket")
	}
}

func TestPortInUse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var out, e bytes.Buffer
	code := appliance.Main(context.Background(), []string{"serve", "--data", t.TempDir(), "--set", "tls.mode=off", "--set", "listen.http=" + ln.Addr().String()}, &out, &e)
	if code != 1 || !strings.Contains(e.String(), "--set listen.http=IP:PORT") {
		t.Fatalf("%d %s", code, e.String())
	}
}

// A stop lets a request that runs finish, and ends a long poll at once.
func TestStop(t *testing.T) {
	s := appliancetest.Start(t)
	u := s.Login(t, "anna")
	var first struct {
		Next string `json:"next_batch"`
	}
	if code := u.Do(t, "GET", "/_matrix/client/v3/sync?timeout=0", nil, &first); code != 200 {
		t.Fatal(code)
	}
	type answer struct {
		code int
		body string
	}
	poll := make(chan answer, 1)
	go func() {
		req, _ := http.NewRequest("GET", s.URL+"/_matrix/client/v3/sync?timeout=30000&since="+first.Next, nil)
		req.Header.Set("Authorization", "Bearer "+u.Token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			poll <- answer{0, err.Error()}
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		poll <- answer{resp.StatusCode, string(b)}
	}()
	// An upload of which half has come.
	conn, err := net.Dial("tcp", s.Addr("http").String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := strings.Repeat("x", 1000)
	io.WriteString(conn, "POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\nAuthorization: Bearer "+u.Token+"\r\n\r\n"+body[:500])
	time.Sleep(300 * time.Millisecond)
	closed := make(chan time.Duration, 1)
	begun := time.Now()
	go func() { s.Close(); closed <- time.Since(begun) }()
	select {
	case a := <-poll:
		if d := time.Since(begun); d > 2*time.Second {
			t.Errorf("the long poll ended after %v", d)
		}
		if a.code != 200 || !strings.Contains(a.body, "next_batch") {
			t.Errorf("the long poll answered %d %s", a.code, a.body)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the long poll goes on")
	}
	io.WriteString(conn, body[500:])
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal("the upload was cut:", err)
	}
	b, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 || !strings.Contains(string(b), "mxc://") {
		t.Errorf("the upload answered %d %s", resp.StatusCode, b)
	}
	if d := <-closed; d > 4*time.Second {
		t.Errorf("stopping took %v", d)
	}
}

func TestFederationListener(t *testing.T) {
	s := appliancetest.Start(t, "listen.federation=127.0.0.1:0")
	base := "http://" + s.Addr("federation").String()
	if code, body := get(t, base+"/_matrix/key/v2/server", ""); code != 200 || !strings.Contains(body, `"hs.test"`) {
		t.Error(code, body)
	}
	for _, url := range []string{base, s.URL} {
		if code, body := get(t, url+"/_matrix/federation/v1/version", ""); code != 200 || !strings.Contains(body, "Holdfast") {
			t.Error(url, code, body)
		}
	}
	// Clients' operations and the pages are not there, keys are not on the clients' listener.
	for _, p := range []string{"/_matrix/client/versions", "/login", "/", "/api/setup"} {
		if code, _ := get(t, base+p, ""); code != 404 {
			t.Errorf("%s answers %d", p, code)
		}
	}
	if code, _ := get(t, s.URL+"/_matrix/key/v2/server", ""); code != 404 {
		t.Error(code)
	}
	u := s.Login(t, "anna")
	var openid struct {
		Token string `json:"access_token"`
	}
	if code := u.Do(t, "POST", "/_matrix/client/v3/user/@anna:hs.test/openid/request_token", map[string]any{}, &openid); code != 200 {
		t.Fatal(code)
	}
	if code, body := get(t, base+"/_matrix/federation/v1/openid/userinfo?access_token="+openid.Token, ""); code != 200 || !strings.Contains(body, "@anna:hs.test") {
		t.Error(code, body)
	}
}

// A server name may have no dot, and public_url may be any origin.
func TestURLsComeFromTheOrigin(t *testing.T) {
	s := appliancetest.Start(t, "server_name=hs1", "public_url=http://chat.internal:8080")
	if _, body := get(t, s.URL+"/.well-known/matrix/client", "whatever"); !strings.Contains(body, `"http://chat.internal:8080"`) {
		t.Error(body)
	}
	if u := s.Login(t, "anna"); u.ID != "@anna:hs1" {
		t.Error(u.ID)
	}
	out, _, _ := s.CLI(t, "invite", "--json")
	if !strings.Contains(out, `"http://chat.internal:8080/e/`) {
		t.Error(out)
	}
}

func TestPathsWithDoubleSlashes(t *testing.T) {
	s := appliancetest.Start(t)
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, p := range []string{"/_matrix/client/v3/rooms/%2F%2F/state", "/_matrix/client/v3/nothing", "/_matrix//client/versions"} {
		resp, err := c.Get(s.URL + p)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if !strings.Contains(string(b), "errcode") || resp.StatusCode/100 != 4 {
			t.Errorf("%s: %d %s", p, resp.StatusCode, b)
		}
	}
}

// The wizard's certificate is in use at once, after a restart too, and is kept
// where others cannot read its key.
func TestWizardCertificate(t *testing.T) {
	s := appliancetest.StartBare(t, "listen.https=127.0.0.1:0", "listen.http=127.0.0.1:0", "listen.metrics=", "sfu.enabled=false", "limits.enabled=false")
	dir := t.TempDir()
	other, err := certs.OpenOwn(dir, func() []string { return []string{"chat.ward7.test"} }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	crt, _ := os.ReadFile(filepath.Join(dir, "leaf.crt"))
	key, _ := os.ReadFile(filepath.Join(dir, "leaf.key"))
	c := &http.Client{Transport: &oneCookie{}}
	if st, out := post(t, c, s.URL+"/api/setup/claim", map[string]string{"code": s.ClaimCode()}); st != 200 {
		t.Fatal(st, out)
	}
	choices := func(cert, key string) map[string]any {
		return map[string]any{"organisation": "Ward 7", "server_name": "ward7.test", "tls": map[string]string{"mode": "files", "cert": cert, "key": key},
			"admin": map[string]string{"localpart": "anna", "display_name": "Anna", "password": appliancetest.Password}}
	}
	if st, out := post(t, c, s.URL+"/api/setup/finish", choices(string(crt), "no key")); st != 400 {
		t.Fatal(st, out)
	}
	if st, out := post(t, c, s.URL+"/api/setup/finish", choices(string(crt), string(key))); st != 200 || out["restart"] == true {
		t.Fatal(st, out)
	}
	served := func() string {
		t.Helper()
		conn, err := tls.Dial("tcp", s.Addr("https").String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return strings.Join(conn.ConnectionState().PeerCertificates[0].DNSNames, " ")
	}
	if got := served(); got != "chat.ward7.test" {
		t.Error(got)
	}
	s.Restart(t)
	if got := served(); got != "chat.ward7.test" {
		t.Error("after a restart:", got)
	}
	if fi, err := os.Stat(filepath.Join(s.Data, "tls", "own.key")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Error(fi, err)
	}
}

// Limits are about people, also behind a proxy on this machine.
func TestProxyAddress(t *testing.T) {
	s := appliancetest.Start(t, "log.http=debug")
	get(t, s.URL+"/_matrix/client/versions", "", "X-Forwarded-For", "9.9.9.9, 203.0.113.5")
	get(t, s.URL+"/_matrix/client/versions", "", "X-Forwarded-For", "rubbish")
	s.Close()
	log := s.Log.String()
	if !strings.Contains(log, "from=203.0.113.5:0") || strings.Contains(log, "rubbish") || strings.Contains(log, "from=9.9.9.9") {
		t.Error(log)
	}
}

// Bodies, tokens and codes never reach the log, even when everything is logged.
func TestLogHasNoSecrets(t *testing.T) {
	s := appliancetest.Start(t, "log.level=debug", "registration.shared_secret=geheimnis")
	u := s.Login(t, "anna")
	var room struct {
		ID string `json:"room_id"`
	}
	u.Do(t, "POST", "/_matrix/client/v3/createRoom", map[string]any{"name": "chamber of whispers"}, &room)
	u.Do(t, "PUT", "/_matrix/client/v3/rooms/"+room.ID+"/send/m.room.message/1", map[string]any{"msgtype": "m.text", "body": "the eagle has landed"}, nil)
	u.Do(t, "GET", "/_matrix/client/v3/sync?access_token="+u.Token, nil, nil)
	code := s.ClaimCode()
	s.Close()
	log := s.Log.String()
	if !strings.Contains(log, "/createRoom") {
		t.Fatal("the log has no requests at level debug")
	}
	for _, secret := range []string{u.Token, appliancetest.Password, "geheimnis", "eagle", "whispers", code} {
		if strings.Contains(log, secret) {
			t.Errorf("%q is in the log", secret)
		}
	}
}

// signIn is a browser in which somebody signed in at the pages, and their origin.
func signIn(t *testing.T, s *appliancetest.Server, name string) (c *http.Client, base string) {
	t.Helper()
	jar, _ := cookiejar.New(nil)
	c = &http.Client{Jar: jar}
	_, port, _ := net.SplitHostPort(s.Addr("http").String())
	base = "http://localhost:" + port
	resp, err := c.Get(base + "/login")
	if err != nil {
		t.Fatal(err)
	}
	page, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	form := url.Values{}
	for _, m := range regexp.MustCompile(`<input[^>]*type="hidden"[^>]*>`).FindAllString(string(page), -1) {
		name := regexp.MustCompile(`name="([^"]*)"`).FindStringSubmatch(m)
		value := regexp.MustCompile(`value="([^"]*)"`).FindStringSubmatch(m)
		if name != nil && value != nil {
			form.Set(name[1], html.UnescapeString(value[1]))
		}
	}
	form.Set("username", name)
	form.Set("password", appliancetest.Password)
	req, _ := http.NewRequest("POST", base+"/login", strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", base)
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	if resp, err = c.Do(req); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return c, base
}

// The console is for administrators who are signed in at the pages, and for nobody else.
func TestConsole(t *testing.T) {
	s := appliancetest.Start(t)
	s.Login(t, "anna", "--admin")
	s.Login(t, "bert")
	if code, _ := get(t, s.URL+"/api/console/status", ""); code != 401 {
		t.Fatal("nobody is answered with", code)
	}
	ask := func(c *http.Client, path string) (int, string) {
		_, port, _ := net.SplitHostPort(s.Addr("http").String())
		resp, err := c.Get("http://localhost:" + port + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	bert, _ := signIn(t, s, "bert")
	if code, body := ask(bert, "/api/console/users"); code != 403 {
		t.Errorf("somebody who is no administrator: %d %s", code, body)
	}
	anna, _ := signIn(t, s, "anna")
	code, body := ask(anna, "/api/console/users")
	var users []struct {
		UserID  string `json:"user_id"`
		Devices int
	}
	if err := json.Unmarshal([]byte(body), &users); code != 200 || err != nil || len(users) != 2 || users[0].Devices != 1 {
		t.Errorf("%d %s", code, body)
	}
	code, body = ask(anna, "/api/console/status")
	var st struct {
		Users       int
		MemoryBytes int64 `json:"memory_bytes"`
		DiskFree    int64 `json:"disk_free_bytes"`
		Database    int64 `json:"database_bytes"`
	}
	if err := json.Unmarshal([]byte(body), &st); code != 200 || err != nil || st.Users != 2 || st.MemoryBytes == 0 || st.DiskFree == 0 || st.Database == 0 {
		t.Errorf("%d %s", code, body)
	}
}

// Every command that help lists explains itself.
func TestHelp(t *testing.T) {
	run := func(args ...string) (string, int) {
		var out, e bytes.Buffer
		code := appliance.Main(context.Background(), args, &out, &e)
		return out.String() + e.String(), code
	}
	list, code := run("help")
	names := regexp.MustCompile(`(?m)^  ([a-z]+(?: [a-z]+)?)( [A-Z]+)?  +\S`).FindAllStringSubmatch(list, -1)
	if code != 0 || len(names) < 10 {
		t.Fatalf("%d %s", code, list)
	}
	for _, n := range names {
		out, code := run(append(strings.Fields(n[1]), "--help")...)
		if code != 0 || !strings.Contains(out, "usage: holdfast "+n[1]) || !strings.Contains(out, "--data") {
			t.Errorf("%s --help: %d %s", n[1], code, out)
		}
	}
	if out, code := run(); code != 2 || !strings.Contains(out, "usage") {
		t.Error(code, out)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"serv"}, 2, "Did you mean serve?"},
		{[]string{"user"}, 2, "user password NAME"},
		{[]string{"user", "--help"}, 0, "user password NAME"},
		{[]string{"help", "user"}, 0, "user password NAME"},
		{[]string{"help", "user", "add"}, 0, "usage: holdfast user add NAME"},
		{[]string{"help", "config"}, 0, "config print"},
		{[]string{"serve", "--nonsense"}, 2, "no option --nonsense"},
		{[]string{"serve", "--set"}, 2, "--set needs a value"},
		{[]string{"serve", "--set", "x"}, 2, "key=value"},
		{[]string{"serve", "--data="}, 2, "names no folder"},
	} {
		if out, code := run(c.args...); code != c.code || !strings.Contains(out, c.want) || strings.Contains(out, "holdfast serve: flag") {
			t.Errorf("%q: %d %s", c.args, code, out)
		}
	}
}
