package appliance_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/appliancetest"
)

func decodeInto(t *testing.T, body string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), into); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
}

// shown is what the page shows between tags after a text.
func shown(t *testing.T, body, after string) string {
	t.Helper()
	_, rest, ok := strings.Cut(body, after+"<br><code>")
	value, _, _ := strings.Cut(rest, "</code>")
	if !ok || value == "" {
		t.Fatalf("the page does not show %q: %s", after, body)
	}
	return html.UnescapeString(value)
}

// A person adds a phone on the account's page. Its app subscribes with what the page
// says, a message of a room arrives, and it ends when it is removed there.
func TestPhoneOfAPerson(t *testing.T) {
	s := appliancetest.Start(t)
	alice, bob := s.Login(t, "alice"), s.Login(t, "bob", "--admin")
	p := newPeer(t, s)
	if to := p.send("GET", "/account/phones", "", nil); to.StatusCode != http.StatusSeeOther || !strings.HasPrefix(to.Header.Get("Location"), "/login") {
		t.Fatalf("without signing in: %d", to.StatusCode)
	}
	p.form("/login", url.Values{"username": {"bob"}, "password": {appliancetest.Password}})
	page := p.send("GET", "/account/phones", "", nil)
	if page.StatusCode != 200 || !strings.Contains(page.body, "iPhones cannot do this") || !strings.Contains(page.body, bob.Device) {
		t.Fatalf("%d %s", page.StatusCode, page.body)
	}
	for name, form := range map[string]url.Values{"no name": {"name": {" "}}, "a device that is not there": {"name": {"x"}, "device": {"NOPE"}}, "another's device": {"name": {"x"}, "device": {alice.Device}}} {
		if bad := p.form("/account/phones/add", form); bad.StatusCode != 400 || !strings.Contains(bad.body, `role="alert"`) {
			t.Errorf("%s: %d %s", name, bad.StatusCode, bad.body)
		}
	}
	made := p.form("/account/phones/add", url.Values{"name": {"<b>Handset</b>"}, "device": {bob.Device}})
	if made.StatusCode != 200 || !strings.Contains(made.body, "<svg") || strings.Contains(made.body, "<b>Handset") {
		t.Fatalf("%d %s", made.StatusCode, made.body)
	}
	user, secret := shown(t, made.body, "User"), shown(t, made.body, "Password")
	if again := p.send("GET", "/account/phones", "", nil); strings.Contains(again.body, secret) {
		t.Error("the password is shown again")
	}

	const topic = "upFromThePage1"
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/"+topic+"/json", nil)
	req.SetBasicAuth(user, secret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(err, resp)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() || !strings.Contains(lines.Text(), `"open"`) {
		t.Fatalf("the stream begins with %q", lines.Text())
	}
	// The listener's address is this machine's alone; public_url is what people use.
	status := bob.Do(t, "POST", "/_matrix/client/v3/pushers/set", obj{"kind": "http", "app_id": "im.example", "pushkey": "https://" + appliancetest.ServerName + "/" + topic + "?up=1",
		"app_display_name": "A", "device_display_name": "B", "lang": "en", "data": obj{"url": "https://" + appliancetest.ServerName + "/_matrix/push/v1/notify", "format": "event_id_only"}}, nil)
	if status != 200 {
		t.Fatalf("the pusher: %d", status)
	}
	var room struct {
		RoomID string `json:"room_id"`
	}
	alice.Do(t, "POST", "/_matrix/client/v3/createRoom", obj{"invite": []string{bob.ID}}, &room)
	if !lines.Scan() || !strings.Contains(lines.Text(), room.RoomID) {
		t.Fatalf("of the invitation comes %q", lines.Text())
	}

	// The console tells of it, and what cannot work is on the page.
	var report struct {
		Phones, Connections, Topics, Waiting, Keep int
		Troubles                                   []struct{ Gateway, Error string }
	}
	get := func() string {
		a := p.send("GET", "/api/console/push", "", nil)
		if a.StatusCode != 200 {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		decodeInto(t, a.body, &report)
		return a.body
	}
	if get(); report.Phones != 1 || report.Connections != 1 || report.Topics != 1 || report.Waiting != 1 || report.Keep != 12*3600 || len(report.Troubles) != 0 {
		t.Errorf("the console says %+v", report)
	}
	// A gateway in one's own network that may not be reached is told of, with the reason.
	bob.Do(t, "POST", "/_matrix/client/v3/pushers/set", obj{"kind": "http", "app_id": "im.example", "pushkey": "k", "app_display_name": "A", "device_display_name": "B", "lang": "en",
		"data": obj{"url": "https://127.0.0.9:1/_matrix/push/v1/notify"}}, nil)
	alice.Do(t, "POST", "/_matrix/client/v3/createRoom", obj{"invite": []string{bob.ID}}, nil)
	for end := time.Now().Add(time.Minute); len(report.Troubles) == 0; time.Sleep(10 * time.Millisecond) {
		if get(); time.Now().After(end) {
			t.Fatal("an unreachable gateway is not told of")
		}
	}
	if x := report.Troubles[0]; x.Gateway != "127.0.0.9:1" || !strings.Contains(x.Error, "network.allow_private") || !strings.Contains(s.Log.String(), "gateway=127.0.0.9:1") {
		t.Errorf("the console says %+v", x)
	}

	id := regexp.MustCompile(`name="phone" value="(\d+)"`).FindStringSubmatch(made.body)
	alicesPeer := newPeer(t, s)
	alicesPeer.form("/login", url.Values{"username": {"alice"}, "password": {appliancetest.Password}})
	alicesPeer.form("/account/phones/end", url.Values{"phone": {id[1]}})
	if get(); report.Phones != 1 {
		t.Error("somebody else removed the phone")
	}
	if a := p.form("/account/phones/end", url.Values{"phone": {id[1]}}); a.StatusCode != 200 || strings.Contains(a.body, "Handset") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	for lines.Scan() { // it ends
	}
	if a := p.form("/account/phones/end", url.Values{"phone": {"x"}}); a.StatusCode != 400 {
		t.Errorf("a phone that is none: %d", a.StatusCode)
	}
}

// With the session goes the phone, and a stop of the appliance ends what waits at once.
func TestPhoneEndsWithSession(t *testing.T) {
	s := appliancetest.Start(t)
	bob := s.Login(t, "bob")
	out, e, code := s.CLI(t, "push", "add", "bob", "--device", bob.Device, "--json")
	var phone struct{ Password string }
	if decodeInto(t, out, &phone); code != 0 || phone.Password == "" {
		t.Fatal(e)
	}
	open := func() (*http.Response, error) {
		req, _ := http.NewRequest("GET", s.URL+"/upOfTheSession/json?auth="+base64.RawURLEncoding.EncodeToString([]byte("Bearer "+phone.Password)), nil)
		return http.DefaultClient.Do(req)
	}
	resp, err := open()
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(err, resp)
	}
	s.Restart(t)
	if _, err := io.ReadAll(resp.Body); err != nil { // it was not cut off after a wait, but ended
		t.Errorf("the stop ended a subscription with %v", err)
	}
	resp.Body.Close()
	if resp, err = open(); err != nil || resp.StatusCode != 200 {
		t.Fatal(err, resp)
	}
	defer resp.Body.Close()
	if bob.Do(t, "POST", "/_matrix/client/v3/logout", obj{}, nil) != 200 {
		t.Fatal("no logout")
	}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
	}
	if resp, err = open(); err != nil || resp.StatusCode != 401 {
		t.Fatal(err, resp)
	}
	resp.Body.Close()
	if out, _, code := s.CLI(t, "push", "list"); code != 0 || !strings.Contains(out, "No phone") {
		t.Errorf("%s", out)
	}
}

func TestPushCommands(t *testing.T) {
	s := appliancetest.Start(t)
	s.Login(t, "bob")
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"push", "set"}, 2, "say what to change"},
		{[]string{"push", "set", "--keep", "1s"}, 1, "between a minute and 30 days"},
		{[]string{"push", "set", "--foreign", "maybe"}, 1, "on or off"},
		{[]string{"push", "set", "--keep", "3d", "--foreign", "on"}, 0, "3d"},
		{[]string{"push", "show"}, 0, "on"},
		{[]string{"push", "add", "nobody"}, 1, "no such user"},
		{[]string{"push", "add", "bob", "--device", "NOPE"}, 1, "no such device"},
		{[]string{"push", "add", "bob", "--name", "Pixel"}, 0, "Password:"},
		{[]string{"push", "list", "bob"}, 0, "Pixel"},
		{[]string{"push", "end", "bob", "x"}, 2, "no ID"},
		{[]string{"push", "end", "bob", "99"}, 1, "no such phone"},
		{[]string{"push", "end", "bob", "1"}, 0, "no notifications any more"},
		{[]string{"push", "list"}, 0, "No phone"},
		{[]string{"user", "disable", "bob"}, 0, ""},
		{[]string{"push", "add", "bob"}, 1, "locked"},
	} {
		out, e, code := s.CLI(t, c.args...)
		if code != c.code || !strings.Contains(out+e, c.says) {
			t.Errorf("%v: %d %s%s", c.args, code, out, e)
		}
	}
}

// A pusher at any address of the appliance reaches it without the network, which it
// may not use here; one at another port or host is no address of it.
func TestOwnGateway(t *testing.T) {
	s := appliancetest.StartBare(t, "server_name="+appliancetest.ServerName, "listen.https=127.0.0.1:0", "listen.http=127.0.0.1:0", "listen.metrics=127.0.0.1:0",
		"limits.enabled=false", "sfu.enabled=false")
	alice, bob := s.Login(t, "alice"), s.Login(t, "bob")
	out, e, code := s.CLI(t, "push", "add", "bob", "--json")
	var phone struct{ Password string }
	if decodeInto(t, out, &phone); code != 0 {
		t.Fatal(e)
	}
	const topic = "upAtAllAddress"
	_, https, _ := net.SplitHostPort(s.Addr("https").String())
	_, plain, _ := net.SplitHostPort(s.Addr("http").String())
	req, _ := http.NewRequest("GET", s.URL+"/"+topic+"/json", nil)
	req.Header.Set("Authorization", "Bearer "+phone.Password)
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(err, resp)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Scan() // open
	pusher := func(origin string) obj {
		return obj{"kind": "http", "app_id": "im.example", "pushkey": origin + "/" + topic + "?up=1", "app_display_name": "A", "device_display_name": "B", "lang": "en",
			"data": obj{"url": origin + "/_matrix/push/v1/notify", "format": "event_id_only"}}
	}
	for _, origin := range []string{"https://127.0.0.1:" + https, "https://localhost:" + https, "https://" + appliancetest.ServerName, "http://localhost:" + plain} {
		if status := bob.Do(t, "POST", "/_matrix/client/v3/pushers/set", pusher(origin), nil); status != 200 {
			t.Fatalf("%s: %d", origin, status)
		}
		var room struct {
			RoomID string `json:"room_id"`
		}
		alice.Do(t, "POST", "/_matrix/client/v3/createRoom", obj{"invite": []string{bob.ID}}, &room)
		for lines.Scan() && !strings.Contains(lines.Text(), room.RoomID) { // of rooms before, the count alone
		}
		if !strings.Contains(lines.Text(), strings.ReplaceAll(origin, "&", "")+"/"+topic) {
			t.Errorf("%s: the phone got %s", origin, lines.Text())
		}
		p := pusher(origin)
		p["kind"] = nil
		bob.Do(t, "POST", "/_matrix/client/v3/pushers/set", p, nil)
	}
	for _, origin := range []string{"http://127.0.0.9:" + plain, "http://localhost:1", "http://elsewhere.example:" + plain} {
		if status := bob.Do(t, "POST", "/_matrix/client/v3/pushers/set", pusher(origin), nil); status != 400 {
			t.Errorf("%s is taken for the appliance's own: %d", origin, status)
		}
	}
}
