package appliance_test

import (
	"net/url"
	"strings"
	"testing"

	"holdfast/appliance/appliancetest"
)

// A device is signed in on another's page, as the QR code of Matrix clients has it,
// and signed out there again: what it waits for ends, and whoever shares an encrypted
// room hears of it.
func TestDeviceSignedInAndOutElsewhere(t *testing.T) {
	s := appliancetest.Start(t)
	bob := newPeer(t, s).with(s.Login(t, "bob").Token)
	if _, e, code := s.CLI(t, "user", "add", "alice", "--password", "long enough"); code != 0 {
		t.Fatal(e)
	}
	nobody, web := newPeer(t, s), newPeer(t, s)
	v := nobody.send("GET", "/_matrix/client/versions", "", nil).want(t, 200, "")
	if flags := v.m["unstable_features"].(obj); flags["org.matrix.msc4108"] != true || flags["io.element.msc4388"] != nil {
		t.Errorf("flags: %v", flags)
	}
	nobody.send("GET", "/_matrix/client/unstable/io.element.msc4388/rendezvous", "", nil).want(t, 404, "M_UNRECOGNIZED")
	// The rendezvous has the address of the appliance, and web pages may see the ETag.
	r := nobody.send("POST", "/_matrix/client/unstable/org.matrix.msc4108/rendezvous", "text/plain", strings.NewReader("x")).want(t, 201, "")
	meta := nobody.send("GET", "/_matrix/client/v1/auth_metadata", "", nil).want(t, 200, "")
	origin := meta.str("issuer")
	at := func(u string) string { return s.URL + strings.TrimPrefix(u, origin) }
	if !strings.HasPrefix(r.str("url"), origin+"/_matrix/") || !strings.Contains(r.Header.Get("Access-Control-Expose-Headers"), "ETag") {
		t.Errorf("%s %v", r.body, r.Header)
	}
	nobody.send("DELETE", at(r.str("url")), "", nil).want(t, 204, "")

	c := nobody.send("POST", "/oauth2/registration", "application/json", strings.NewReader(`{"client_name":"Phone app","client_uri":"https://client.test/","application_type":"native",
		"redirect_uris":["test.client:/cb"],"grant_types":["authorization_code","refresh_token","urn:ietf:params:oauth:grant-type:device_code"],"token_endpoint_auth_method":"none"}`)).want(t, 201, "")
	signIn := func(device string) *peer {
		t.Helper()
		d := nobody.form(at(meta.str("device_authorization_endpoint")), url.Values{"client_id": {c.str("client_id")},
			"scope": {"urn:matrix:client:api:* urn:matrix:client:device:" + device}}).want(t, 200, "")
		link := at(d.str("verification_uri_complete"))
		page := web.send("GET", link, "", nil)
		if to := page.Header.Get("Location"); to != "" { // the first time
			page = web.form(to, url.Values{"username": {"alice"}, "password": {"long enough"}})
			page = web.send("GET", page.Header.Get("Location"), "", nil)
		}
		if page.StatusCode != 200 || !strings.Contains(page.body, "Phone app") {
			t.Fatal(page.StatusCode, page.body)
		}
		web.form("/link", url.Values{"user_code": {d.str("user_code")}, "answer": {"yes"}}).want(t, 200, "")
		r := nobody.form(at(meta.str("token_endpoint")), url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "client_id": {c.str("client_id")}, "device_code": {d.str("device_code")}}).want(t, 200, "")
		p := nobody.with(r.str("access_token"))
		if who := p.call("GET", "/account/whoami", nil).want(t, 200, ""); who.str("device_id") != device || who.str("user_id") != "@alice:hs.test" {
			t.Fatal(who.body)
		}
		return p
	}
	alice := signIn("FIRST")
	room := alice.call("POST", "/createRoom", obj{"invite": []string{"@bob:hs.test"}, "initial_state": []obj{
		{"type": "m.room.encryption", "state_key": "", "content": obj{"algorithm": "m.megolm.v1.aes-sha2"}}}}).want(t, 200, "").str("room_id")
	bob.call("POST", "/join/"+url.PathEscape(room), obj{}).want(t, 200, "")
	// The profile's page changes the name that others see, in the room as well.
	if p := web.form("/account/profile", url.Values{"display_name": {"Alice at work"}}); p.StatusCode != 200 || !strings.Contains(p.body, "Alice at work") {
		t.Fatal(p.StatusCode, p.body)
	}
	bob.call("GET", "/profile/@alice:hs.test/displayname", nil).want(t, 200, "")
	if m := bob.call("GET", "/rooms/"+url.PathEscape(room)+"/state/m.room.member/@alice:hs.test", nil).want(t, 200, ""); m.str("displayname") != "Alice at work" {
		t.Errorf("in the room she is %s", m.body)
	}
	phone := signIn("PHONE")
	phone.call("POST", "/keys/upload", obj{"device_keys": obj{"user_id": "@alice:hs.test", "device_id": "PHONE", "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys": obj{"ed25519:PHONE": "nqOvzeuGWT/sRx3h7+MHoInYj3Uk2LD/unI9kDYcHwk", "curve25519:PHONE": "kt9fgJvfFZCjFnSKBhJaVGRSvbQN5BZfwnSXrwJjSnU"}, "signatures": obj{}}}).want(t, 200, "")
	mine := phone.call("GET", "/sync", nil).want(t, 200, "").str("next_batch")
	theirs := bob.call("GET", "/sync", nil).want(t, 200, "").str("next_batch")
	// The phone waits for something to happen while its session is ended, by the deep link.
	ended := make(chan reply, 1)
	go func() {
		since := mine
		for {
			r := phone.send("GET", "/_matrix/client/v3/sync?timeout=60000&since="+since, "", nil)
			if r.StatusCode != 200 {
				ended <- r
				return
			}
			since = r.str("next_batch")
		}
	}()
	page := web.send("GET", "/account?action=org.matrix.device_delete&device_id=PHONE", "", nil).want(t, 200, "")
	_, after, _ := strings.Cut(page.body, `name="session" value="`)
	session, _, ok := strings.Cut(after, `"`)
	if !ok || !strings.Contains(page.body, "PHONE") {
		t.Fatal(page.body)
	}
	web.form("/account/end", url.Values{"session": {session}}).want(t, 200, "")
	if r := <-ended; r.StatusCode != 401 || r.str("errcode") != "M_UNKNOWN_TOKEN" || r.m["soft_logout"] != false {
		t.Errorf("the waiting sync: %d %s", r.StatusCode, r.body)
	}
	phone.call("GET", "/account/whoami", nil).want(t, 401, "M_UNKNOWN_TOKEN")
	alice.call("GET", "/devices/PHONE", nil).want(t, 404, "M_NOT_FOUND")
	alice.call("GET", "/devices/FIRST", nil).want(t, 200, "")
	if r := bob.call("GET", "/sync?since="+theirs, nil).want(t, 200, ""); !strings.Contains(r.body, `"changed":["@alice:hs.test"]`) {
		t.Errorf("bob is not told: %s", r.body)
	}
}
