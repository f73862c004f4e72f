package api

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

// The admin API that tools for Synapse use: each request as they send it.

const (
	adminV1 = "/_synapse/admin/v1"
	adminV2 = "/_synapse/admin/v2"
	adminV3 = "/_synapse/admin/v3"
)

func userPath(version string, u *user, rest string) string {
	return version + "/users/" + esc(u.id) + rest
}

// names lists the accounts of an answer.
func names(v Value) (out []string) {
	out = []string{}
	for _, u := range v.At("users").List() {
		out = append(out, u.At("name").String())
	}
	return out
}

func TestSynapseIsForAdministrators(t *testing.T) {
	t.Parallel()
	alice := newUser(t, "alice")
	for _, ask := range [][2]string{
		{"GET", adminV2 + "/users?from=0&limit=10"}, {"GET", adminV3 + "/users"}, {"GET", userPath(adminV2, alice, "")}, {"PUT", userPath(adminV2, alice, "")},
		{"POST", adminV1 + "/deactivate/" + esc(alice.id)}, {"POST", adminV1 + "/reset_password/" + esc(alice.id)}, {"POST", userPath(adminV1, alice, "/login")},
		{"GET", userPath(adminV1, alice, "/accountdata")}, {"GET", userPath(adminV1, alice, "/media")}, {"GET", adminV1 + "/registration_tokens"},
		{"POST", adminV1 + "/registration_tokens/new"}, {"GET", adminV1 + "/server_version"}, {"GET", adminV1 + "/statistics/users/media"},
		{"POST", adminV1 + "/media/quarantine/" + serverName + "/x"}, {"POST", userPath(adminV1, alice, "/override_ratelimit")}, {"POST", userPath(adminV1, alice, "/shadow_ban")},
	} {
		var body any
		if ask[0] != "GET" {
			body = obj{}
		}
		alice.fails(403, "M_FORBIDDEN", ask[0], ask[1], body)
		nobody(t).fails(401, "M_MISSING_TOKEN", ask[0], ask[1], body)
	}
	same(t, "not an administrator by that", alice.ok("GET", "/account/whoami", nil).At("user_id"), alice.id)
}

func TestSynapseUsers(t *testing.T) {
	t.Parallel()
	root := newAdmin(t)
	word := strings.ReplaceAll(unique("needle"), "-", "")
	make := func(name, shown string, more obj) *user {
		id := "@" + name + ":" + serverName
		body := obj{"password": password, "displayname": shown, "avatar_url": nil, "threepids": list{}, "external_ids": list{}, "admin": false, "deactivated": false}
		for k, v := range more {
			body[k] = v
		}
		a := root.do("PUT", adminV2+"/users/"+esc(id), body)
		if a.status != 201 {
			t.Fatalf("create: %d %s", a.status, a.body)
		}
		same(t, "name", a.At("name"), id)
		return &user{t: t, id: id}
	}
	a := make("a-"+word, "Charlie "+word, nil)
	b := make("b-"+word, "bravo", obj{"user_type": "bot"})
	c := make("c-"+unique("x"), "Alpha "+word, obj{"admin": true})
	d := make("d-"+word, "", obj{"locked": true})
	find := "?name=" + word

	v := root.ok("GET", adminV2+"/users"+find, nil)
	same(t, "found", names(v), list{a.id, b.id, c.id})
	same(t, "total", v.At("total"), 3)
	same(t, "with the locked", names(root.ok("GET", adminV2+"/users"+find+"&locked=true", nil)), list{a.id, b.id, c.id, d.id})
	same(t, "backwards", names(root.ok("GET", adminV2+"/users"+find+"&dir=b&guests=false&deactivated=false", nil)), list{c.id, b.id, a.id})
	same(t, "by name shown", names(root.ok("GET", adminV2+"/users"+find+"&order_by=displayname", nil)), list{c.id, b.id, a.id})
	same(t, "by age", names(root.ok("GET", adminV2+"/users"+find+"&order_by=creation_ts&dir=b", nil)), list{c.id, b.id, a.id})
	same(t, "administrators", names(root.ok("GET", adminV3+"/users"+find+"&admins=true", nil)), list{c.id})
	root.ok("PUT", suspendPath+esc(b.id), obj{"suspended": true})
	same(t, "suspended", names(root.ok("GET", adminV3+"/users"+find+"&suspended=true", nil)), list{b.id})
	same(t, "not suspended", names(root.ok("GET", adminV3+"/users"+find+"&suspended=false", nil)), list{a.id, c.id})
	root.ok("PUT", suspendPath+esc(b.id), obj{"suspended": false})
	same(t, "nobody is banned like that", names(root.ok("GET", adminV3+"/users"+find+"&shadow_banned=true", nil)), list{})
	same(t, "others", names(root.ok("GET", adminV3+"/users"+find+"&admins=false", nil)), list{a.id, b.id})
	same(t, "without bots", names(root.ok("GET", adminV3+"/users"+find+"&not_user_type=bot", nil)), list{a.id, c.id})
	same(t, "without people", names(root.ok("GET", adminV3+"/users"+find+"&not_user_type=", nil)), list{b.id})
	same(t, "by ID", names(root.ok("GET", adminV2+"/users?user_id="+url.QueryEscape(b.id), nil)), list{b.id})
	same(t, "nobody", names(root.ok("GET", adminV2+"/users?name=nobody-has-this-name", nil)), list{})

	// Pages: the token of the next one is a number, in a string.
	page := root.ok("GET", adminV2+"/users"+find+"&limit=2&from=0", nil)
	same(t, "first page", names(page), list{a.id, b.id})
	same(t, "its total", page.At("total"), 3)
	same(t, "next_token", page.At("next_token"), "2")
	page = root.ok("GET", adminV2+"/users"+find+"&limit=2&from="+page.At("next_token").String(), nil)
	same(t, "last page", names(page), list{c.id})
	if page.Exists("next_token") {
		t.Errorf("a page after the last: %s", page.Text())
	}
	for _, bad := range []string{"limit=-1", "limit=x", "from=-5", "from=1.5", "order_by=nothing", "dir=x", "deactivated=perhaps", "admins=1", "locked=x", "guests=x"} {
		root.fails(400, "M_INVALID_PARAM", "GET", adminV2+"/users?"+bad, nil)
	}

	one := find1(v.At("users"), b.id)
	for k, want := range (obj{"is_guest": false, "admin": false, "user_type": "bot", "deactivated": false, "erased": false, "shadow_banned": false, "displayname": "bravo", "avatar_url": nil, "locked": false, "suspended": false}) {
		same(t, k, one.At(k), want)
	}
	if ts := int64(one.At("creation_ts").Int()); time.Since(time.UnixMilli(ts)).Abs() > time.Hour {
		t.Errorf("creation_ts: %d", ts)
	}
	one = root.ok("GET", userPath(adminV2, b, ""), nil)
	for k, want := range (obj{"name": b.id, "threepids": list{}, "external_ids": list{}, "appservice_id": nil, "consent_version": nil, "displayname": "bravo", "last_seen_ts": nil}) {
		same(t, k, one.At(k), want)
	}
	root.fails(404, "M_NOT_FOUND", "GET", adminV2+"/users/"+esc("@nobody-at-all:"+serverName), nil)
	root.fails(400, "M_INVALID_PARAM", "GET", adminV2+"/users/"+esc("@x:elsewhere.example"), nil)

	// The password that was set signs in; what an account may not be is refused.
	b.login()
	nobody(t).fails(401, "M_USER_LOCKED", "POST", "/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": d.id}, "password": password})
	for _, bad := range []string{"@Upper:" + serverName, "@with space:" + serverName, "@bridge_x:" + serverName} {
		if e := root.do("PUT", adminV2+"/users/"+esc(bad), obj{"password": password}); e.status != 400 || e.At("errcode").String() == "M_UNRECOGNIZED" {
			t.Errorf("%s: %d %s", bad, e.status, e.body)
		}
	}
	for k, bad := range map[string]any{"password": "", "user_type": "king", "avatar_url": "https://x", "external_ids": list{obj{"auth_provider": "x", "external_id": "y"}}, "threepids": list{obj{"medium": "msisdn", "address": "1"}}} {
		root.fails(400, "M_INVALID_PARAM", "PUT", userPath(adminV2, a, ""), obj{k: bad})
	}
	for k, bad := range map[string]any{"password": 1, "displayname": list{}, "admin": "yes", "deactivated": 1, "threepids": "x", "locked": "no"} {
		root.fails(400, "M_BAD_JSON", "PUT", userPath(adminV2, a, ""), obj{k: bad})
	}
	root.fails(400, "M_NOT_JSON", "PUT", userPath(adminV2, a, ""), "{")
}

func find1(v Value, id string) Value {
	for _, u := range v.List() {
		if u.At("name").String() == id {
			return u
		}
	}
	return Value{}
}

func TestSynapseChangeUser(t *testing.T) {
	t.Parallel()
	root, alice, bob := newAdmin(t), newUser(t, "alice"), newUser(t, "bob")
	roomID := alice.public(bob)
	// A tool sends back all that it was given.
	full, _ := root.ok("GET", userPath(adminV2, alice, ""), nil).V.(map[string]any)
	full["displayname"], full["avatar_url"] = "Alice the Great", "mxc://"+serverName+"/abc"
	v := root.ok("PUT", userPath(adminV2, alice, ""), full)
	same(t, "displayname", v.At("displayname"), "Alice the Great")
	bob.until("the new name", func(v Value) bool { return strings.Contains(v.Joined(roomID).Text(), "Alice the Great") })
	same(t, "profile", bob.ok("GET", "/profile/"+esc(alice.id), nil), obj{"displayname": "Alice the Great", "avatar_url": "mxc://" + serverName + "/abc"})
	alice.ok("GET", "/account/whoami", nil) // nothing else changed

	root.ok("PUT", userPath(adminV2, alice, ""), obj{"displayname": "", "user_type": "support", "suspended": true})
	v = root.ok("GET", userPath(adminV2, alice, ""), nil)
	same(t, "no name", v.At("displayname"), nil)
	same(t, "type", v.At("user_type"), "support")
	same(t, "suspended", v.At("suspended"), true)
	root.ok("PUT", userPath(adminV2, alice, ""), obj{"user_type": nil, "suspended": false})
	same(t, "type", root.ok("GET", userPath(adminV2, alice, ""), nil).At("user_type"), nil)
	same(t, "answer", root.ok("PUT", adminV1+"/suspend/"+esc(alice.id), obj{"suspend": true}), obj{"user_" + alice.id + "_suspended": true})
	alice.fails(403, "M_USER_SUSPENDED", "PUT", room(roomID)+"/send/m.room.message/x", obj{"body": "x"})
	root.ok("PUT", adminV1+"/suspend/"+esc(alice.id), obj{"suspend": false})
	root.fails(400, "M_MISSING_PARAM", "PUT", adminV1+"/suspend/"+esc(alice.id), obj{})
	root.fails(403, "M_FORBIDDEN", "PUT", adminV1+"/suspend/"+esc(root.id), obj{"suspend": true})

	root.ok("PUT", userPath(adminV2, alice, ""), obj{"locked": true})
	alice.fails(401, "M_USER_LOCKED", "GET", "/sync", nil)
	root.ok("PUT", userPath(adminV2, alice, ""), obj{"locked": false})
	alice.ok("GET", "/account/whoami", nil)

	// Passwords, with and without signing out.
	root.ok("PUT", userPath(adminV2, alice, ""), obj{"password": "second password", "logout_devices": false})
	alice.ok("GET", "/account/whoami", nil)
	login := func(p string) answer {
		return nobody(t).do("POST", "/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": alice.id}, "password": p})
	}
	if login("second password").status != 200 || login(password).status != 403 {
		t.Error("the password did not change")
	}
	root.ok("POST", adminV1+"/reset_password/"+esc(alice.id), obj{"new_password": "third password", "logout_devices": true})
	alice.fails(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami", nil)
	if login("third password").status != 200 {
		t.Error("the password was not reset")
	}
	root.fails(400, "M_MISSING_PARAM", "POST", adminV1+"/reset_password/"+esc(alice.id), obj{})
	root.fails(404, "M_NOT_FOUND", "POST", adminV1+"/reset_password/"+esc("@nobody-at-all:"+serverName), obj{"new_password": "third password"})

	// Administration is given and taken; not from oneself.
	same(t, "admin", root.ok("GET", userPath(adminV1, bob, "/admin"), nil), obj{"admin": false})
	root.ok("PUT", userPath(adminV1, bob, "/admin"), obj{"admin": true})
	same(t, "admin", bob.ok("GET", userPath(adminV1, bob, "/admin"), nil), obj{"admin": true})
	root.fails(403, "M_FORBIDDEN", "PUT", userPath(adminV1, root, "/admin"), obj{"admin": false})
	root.fails(403, "M_FORBIDDEN", "PUT", userPath(adminV2, root, ""), obj{"admin": false})
	root.fails(400, "M_MISSING_PARAM", "PUT", userPath(adminV1, bob, "/admin"), obj{})
	root.ok("PUT", userPath(adminV2, bob, ""), obj{"admin": false})
	bob.fails(403, "M_FORBIDDEN", "GET", adminV2+"/users", nil)

	// Closed: gone from the list but for those who ask, and for good.
	root.fails(403, "M_FORBIDDEN", "POST", adminV1+"/deactivate/"+esc(root.id), obj{})
	same(t, "deactivate", root.ok("POST", adminV1+"/deactivate/"+esc(bob.id), obj{"erase": true}), obj{"id_server_unbind_result": "no-support"})
	root.ok("POST", adminV1+"/deactivate/"+esc(bob.id), nil)
	bob.fails(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami", nil)
	search := "?name=" + bob.localpart()
	same(t, "not listed", names(root.ok("GET", adminV2+"/users"+search, nil)), list{})
	same(t, "listed", names(root.ok("GET", adminV2+"/users"+search+"&deactivated=true", nil)), list{bob.id})
	same(t, "v3: all", names(root.ok("GET", adminV3+"/users"+search, nil)), list{bob.id})
	same(t, "v3: open", names(root.ok("GET", adminV3+"/users"+search+"&deactivated=false", nil)), list{})
	same(t, "v3: closed", names(root.ok("GET", adminV3+"/users"+search+"&deactivated=true", nil)), list{bob.id})
	same(t, "deactivated", root.ok("GET", userPath(adminV2, bob, ""), nil).At("deactivated"), true)
	same(t, "erased", root.ok("GET", userPath(adminV2, bob, ""), nil).At("erased"), true)
	root.fails(400, "M_INVALID_PARAM", "PUT", userPath(adminV2, bob, ""), obj{"deactivated": false, "password": password})
	root.ok("PUT", userPath(adminV2, alice, ""), obj{"deactivated": true})
	if login("third password").status == 200 {
		t.Error("a closed account signs in")
	}
}

func TestSynapseDevices(t *testing.T) {
	t.Parallel()
	root, alice := newAdmin(t), newUser(t, "alice")
	phone := alice.login()
	v := root.ok("GET", userPath(adminV2, alice, "/devices"), nil)
	same(t, "total", v.At("total"), 2)
	same(t, "user", v.At("devices").List()[0].At("user_id"), alice.id)
	same(t, "dehydrated", v.At("devices").List()[0].At("dehydrated"), false)
	root.ok("PUT", userPath(adminV2, alice, "/devices/"+esc(phone.device)), obj{"display_name": "A phone"})
	same(t, "name", root.ok("GET", userPath(adminV2, alice, "/devices/"+esc(phone.device)), nil).At("display_name"), "A phone")
	same(t, "the user sees it", alice.ok("GET", "/devices/"+phone.device, nil).At("display_name"), "A phone")
	root.ok("PUT", userPath(adminV2, alice, "/devices/"+esc(phone.device)), obj{})
	same(t, "kept", alice.ok("GET", "/devices/"+phone.device, nil).At("display_name"), "A phone")
	root.fails(400, "M_INVALID_PARAM", "PUT", userPath(adminV2, alice, "/devices/"+phone.device), obj{"display_name": strings.Repeat("x", 300)})
	root.fails(404, "M_NOT_FOUND", "PUT", userPath(adminV2, alice, "/devices/NONE"), obj{"display_name": "x"})
	root.fails(404, "M_NOT_FOUND", "GET", userPath(adminV2, alice, "/devices/NONE"), nil)
	if a := root.do("POST", userPath(adminV2, alice, "/devices"), obj{"device_id": "MADE"}); a.status != 201 {
		t.Errorf("create: %d %s", a.status, a.body)
	}
	root.fails(400, "M_MISSING_PARAM", "POST", userPath(adminV2, alice, "/devices"), obj{})
	same(t, "total", root.ok("GET", userPath(adminV2, alice, "/devices"), nil).At("total"), 3)
	root.ok("DELETE", userPath(adminV2, alice, "/devices/"+phone.device), obj{})
	phone.fails(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami", nil)
	root.ok("POST", userPath(adminV2, alice, "/delete_devices"), obj{"devices": list{alice.device, "MADE", "NONE"}})
	alice.fails(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami", nil)
	root.fails(400, "M_MISSING_PARAM", "POST", userPath(adminV2, alice, "/delete_devices"), obj{})
	same(t, "none", root.ok("GET", userPath(adminV2, alice, "/devices"), nil), obj{"devices": list{}, "total": 0})
}

func TestSynapseLoginAs(t *testing.T) {
	t.Parallel()
	root, alice := newAdmin(t), newUser(t, "alice")
	roomID := alice.public()
	token := root.ok("POST", userPath(adminV1, alice, "/login"), obj{}).At("access_token").String()
	as := &user{t: t, id: alice.id, token: token}
	v := as.ok("GET", "/account/whoami", nil)
	same(t, "user", v.At("user_id"), alice.id)
	if v.Exists("device_id") {
		t.Errorf("it has a device: %s", v.Text())
	}
	as.sync()
	as.say(roomID, "on behalf")
	same(t, "the user's devices", len(alice.ok("GET", "/devices", nil).At("devices").List()), 1)
	second := &user{t: t, token: root.ok("POST", userPath(adminV1, alice, "/login"), obj{}).At("access_token").String()}
	as.ok("POST", "/logout", nil)
	as.fails(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami", nil)
	second.ok("GET", "/account/whoami", nil) // only that token
	alice.ok("GET", "/account/whoami", nil)

	soon := &user{t: t, token: root.ok("POST", userPath(adminV1, alice, "/login"), obj{"valid_until_ms": time.Now().Add(300 * time.Millisecond).UnixMilli()}).At("access_token").String()}
	for end := time.Now().Add(10 * time.Second); soon.do("GET", "/account/whoami", nil).status == 200; {
		if time.Now().After(end) {
			t.Fatal("the token does not expire")
		}
	}
	root.fails(400, "M_INVALID_PARAM", "POST", userPath(adminV1, alice, "/login"), obj{"valid_until_ms": 1})
	root.fails(400, "M_BAD_JSON", "POST", userPath(adminV1, alice, "/login"), obj{"valid_until_ms": "x"})
	root.fails(400, "M_INVALID_PARAM", "POST", userPath(adminV1, root, "/login"), obj{})
	root.fails(404, "M_NOT_FOUND", "POST", adminV1+"/users/"+esc("@nobody-at-all:"+serverName)+"/login", obj{})
}

func TestSynapseUserLists(t *testing.T) {
	t.Parallel()
	root, alice, bob := newAdmin(t), newUser(t, "alice"), newUser(t, "bob")
	start := time.Now().Add(-time.Minute).UnixMilli()
	one, two := alice.public(), bob.public(alice)
	three := bob.create(obj{"invite": list{alice.id}})
	alice.leave(two)
	same(t, "joined", root.ok("GET", userPath(adminV1, alice, "/joined_rooms"), nil), obj{"joined_rooms": list{one}, "total": 1})
	same(t, "memberships", root.ok("GET", userPath(adminV1, alice, "/memberships"), nil), obj{"memberships": obj{one: "join", two: "leave", three: "invite"}})
	same(t, "nobody", root.ok("GET", adminV1+"/users/"+esc("@x:elsewhere.example")+"/memberships", nil), obj{"memberships": obj{}})
	from := "?from_ts=" + time.UnixMilli(start).Format("20060102") // not a time in ms: years ago
	same(t, "invites", root.ok("GET", userPath(adminV1, bob, "/sent_invite_count")+from, nil), obj{"invite_count": 1})
	same(t, "no invites", root.ok("GET", userPath(adminV1, bob, "/sent_invite_count")+"?from_ts=99999999999999", nil), obj{"invite_count": 0})
	same(t, "joins", root.ok("GET", userPath(adminV1, alice, "/cumulative_joined_room_count")+from, nil), obj{"cumulative_joined_room_count": 2})
	root.fails(400, "M_MISSING_PARAM", "GET", userPath(adminV1, bob, "/sent_invite_count"), nil)
	root.fails(400, "M_INVALID_PARAM", "GET", userPath(adminV1, bob, "/sent_invite_count")+"?from_ts=x", nil)

	alice.ok("PUT", "/user/"+esc(alice.id)+"/account_data/org.example.x", obj{"a": 1})
	alice.ok("PUT", "/user/"+esc(alice.id)+"/rooms/"+esc(one)+"/account_data/org.example.y", obj{"b": 2})
	v := root.ok("GET", userPath(adminV1, alice, "/accountdata"), nil).At("account_data")
	same(t, "global", v.At("global", "org.example.x"), obj{"a": 1})
	same(t, "of a room", v.At("rooms", one, "org.example.y"), obj{"b": 2})

	same(t, "no pushers", root.ok("GET", userPath(adminV1, alice, "/pushers"), nil), obj{"pushers": list{}, "total": 0})
	alice.ok("POST", "/pushers/set", obj{"kind": "http", "pushkey": "key", "app_id": "org.example.app", "app_display_name": "App", "device_display_name": "Phone", "lang": "en",
		"data": obj{"url": "https://push.example.org/_matrix/push/v1/notify"}})
	p := root.ok("GET", userPath(adminV1, alice, "/pushers"), nil)
	same(t, "pushers", p.At("total"), 1)
	same(t, "its key", p.At("pushers").List()[0].At("pushkey"), "key")
	same(t, "available", root.ok("GET", adminV1+"/username_available?username="+unique("free"), nil), obj{"available": true})
	root.fails(400, "M_USER_IN_USE", "GET", adminV1+"/username_available?username="+alice.localpart(), nil)
	root.fails(400, "M_INVALID_USERNAME", "GET", adminV1+"/username_available?username=%C3%A4", nil)
	root.fails(400, "M_MISSING_PARAM", "GET", adminV1+"/username_available", nil)
	root.fails(404, "M_NOT_FOUND", "GET", adminV1+"/threepid/email/users/x%40example.org", nil)
	root.fails(404, "M_NOT_FOUND", "GET", adminV1+"/threepid/msisdn/users/123", nil)
	root.fails(404, "M_NOT_FOUND", "GET", adminV1+"/auth_providers/oidc/users/x", nil)
	for _, method := range []string{"POST", "DELETE"} {
		root.fails(403, "M_FORBIDDEN", method, userPath(adminV1, alice, "/shadow_ban"), obj{})
	}

	rate := userPath(adminV1, alice, "/override_ratelimit")
	same(t, "no limit of its own", root.ok("GET", rate, nil), obj{})
	same(t, "set", root.ok("POST", rate, obj{"messages_per_second": 3, "burst_count": 5}), obj{"messages_per_second": 3, "burst_count": 5})
	same(t, "kept", root.ok("GET", rate, nil), obj{"messages_per_second": 3, "burst_count": 5})
	root.fails(400, "M_INVALID_PARAM", "POST", rate, obj{"messages_per_second": -1})
	root.fails(400, "M_BAD_JSON", "POST", rate, obj{"messages_per_second": "x"})
	root.ok("POST", rate, obj{})
	same(t, "none at all", root.ok("GET", rate, nil), obj{"messages_per_second": 0, "burst_count": 0})
	root.ok("DELETE", rate, nil)
	same(t, "gone", root.ok("GET", rate, nil), obj{})
	same(t, "features", root.ok("GET", adminV1+"/experimental_features/"+esc(alice.id), nil), obj{"features": obj{}})
	if v := root.ok("GET", adminV1+"/server_version", nil); !strings.HasPrefix(v.At("server_version").String(), "Holdfast") {
		t.Errorf("version: %s", v.Text())
	}
	same(t, "updates", root.ok("GET", adminV1+"/background_updates/status", nil), obj{"enabled": true, "current_updates": obj{}})
}

func TestSynapseRegistrationTokens(t *testing.T) {
	t.Parallel()
	root := newAdmin(t)
	tokens := adminV1 + "/registration_tokens"
	valid := func(token string) bool {
		return nobody(t).ok("GET", "/_matrix/client/v1/register/m.login.registration_token/validity?token="+token, nil).At("valid").Bool()
	}
	v := root.ok("POST", tokens+"/new", obj{})
	token := v.At("token").String()
	same(t, "made", v, obj{"token": token, "uses_allowed": nil, "pending": 0, "completed": 0, "expiry_time": nil})
	if len(token) != 16 || !valid(token) {
		t.Errorf("%q is not valid", token)
	}
	same(t, "length", len(root.ok("POST", tokens+"/new", obj{"length": 40}).At("token").String()), 40)
	mine := strings.ReplaceAll(unique("word"), "-", "~") + "._-"
	later := time.Now().Add(time.Hour).UnixMilli()
	root.ok("POST", tokens+"/new", obj{"token": mine, "uses_allowed": 2, "expiry_time": later})
	want := obj{"token": mine, "uses_allowed": 2, "pending": 0, "completed": 0, "expiry_time": later}
	same(t, "one", root.ok("GET", tokens+"/"+mine, nil), want)
	root.fails(400, "M_INVALID_PARAM", "POST", tokens+"/new", obj{"token": mine})
	for _, bad := range []obj{{"token": ""}, {"token": "a b"}, {"token": strings.Repeat("x", 65)}, {"length": 0}, {"length": 65}, {"uses_allowed": -1}, {"uses_allowed": "x"}, {"expiry_time": 1}, {"expiry_time": 1.5}} {
		root.fails(400, "M_INVALID_PARAM", "POST", tokens+"/new", bad)
	}
	root.fails(400, "M_BAD_JSON", "POST", tokens+"/new", obj{"token": 1})
	listed := func(query string) bool {
		for _, x := range root.ok("GET", tokens+query, nil).At("registration_tokens").List() {
			if x.At("token").String() == mine {
				return true
			}
		}
		return false
	}
	if !listed("") || !listed("?valid=true") || listed("?valid=false") {
		t.Error("the lists are wrong")
	}
	root.fails(400, "M_INVALID_PARAM", "GET", tokens+"?valid=x", nil)
	// Only what is given changes; none left is not valid.
	v = root.ok("PUT", tokens+"/"+mine, obj{"uses_allowed": 0})
	same(t, "uses", v.At("uses_allowed"), 0)
	same(t, "expiry", v.At("expiry_time"), later)
	if valid(mine) || !listed("?valid=false") {
		t.Error("a token without uses is valid")
	}
	v = root.ok("PUT", tokens+"/"+mine, obj{"uses_allowed": nil, "expiry_time": nil})
	same(t, "no bounds", v, obj{"token": mine, "uses_allowed": nil, "pending": 0, "completed": 0, "expiry_time": nil})
	if !valid(mine) {
		t.Error("a token without bounds is not valid")
	}
	root.fails(404, "M_NOT_FOUND", "GET", tokens+"/nothing", nil)
	root.fails(404, "M_NOT_FOUND", "PUT", tokens+"/nothing", obj{})
	root.fails(404, "M_NOT_FOUND", "DELETE", tokens+"/nothing", nil)
	root.ok("DELETE", tokens+"/"+mine, nil)
	if valid(mine) {
		t.Error("a deleted token is valid")
	}
}

// upload sends a text file and returns its media ID.
func (u *user) upload(content string) string {
	u.t.Helper()
	a := u.send("POST", "/_matrix/media/v3/upload?filename=note.txt", "text/plain", strings.NewReader(content))
	if a.status != 200 {
		u.t.Fatalf("upload: %d %s", a.status, a.body)
	}
	uri := a.At("content_uri").String()
	return uri[strings.LastIndex(uri, "/")+1:]
}

func TestSynapseMedia(t *testing.T) {
	t.Parallel()
	root, alice := newAdmin(t), newUser(t, "alice")
	one, two, three := alice.upload(unique("one")), alice.upload(unique("number two")), alice.upload(unique("3"))
	get := func(id string) int {
		return alice.do("GET", "/_matrix/client/v1/media/download/"+serverName+"/"+id, nil).status
	}
	ids := func(v Value) (out list) {
		out = list{}
		for _, f := range v.At("media").List() {
			out = append(out, f.At("media_id").String())
		}
		return out
	}
	v := root.ok("GET", userPath(adminV1, alice, "/media"), nil)
	same(t, "newest first", ids(v), list{three, two, one})
	same(t, "total", v.At("total"), 3)
	f := v.At("media").List()[0]
	for k, want := range (obj{"media_type": "text/plain", "upload_name": "note.txt", "quarantined_by": nil, "safe_from_quarantine": false}) {
		same(t, k, f.At(k), want)
	}
	v = root.ok("GET", userPath(adminV1, alice, "/media?limit=2&order_by=media_length&dir=b"), nil)
	same(t, "by size", ids(v)[0], two)
	same(t, "next", v.At("next_token"), 2)
	if v = root.ok("GET", userPath(adminV1, alice, "/media?limit=2&from=2&order_by=media_length&dir=b"), nil); v.Exists("next_token") || len(ids(v)) != 1 {
		t.Errorf("last page: %s", v.Text())
	}
	root.fails(400, "M_INVALID_PARAM", "GET", userPath(adminV1, alice, "/media?order_by=x"), nil)
	root.fails(400, "M_INVALID_PARAM", "GET", userPath(adminV1, alice, "/media?limit=-1"), nil)

	v = root.ok("GET", adminV1+"/media/"+serverName+"/"+one, nil).At("media_info")
	same(t, "info", v.At("user_id"), alice.id)
	root.fails(404, "M_NOT_FOUND", "GET", adminV1+"/media/"+serverName+"/nothing", nil)

	path := serverName + "/" + one
	root.ok("POST", adminV1+"/media/quarantine/"+path, obj{})
	if get(one) != 404 {
		t.Error("quarantined media is served")
	}
	same(t, "by", root.ok("GET", adminV1+"/media/"+path, nil).At("media_info", "quarantined_by"), root.id)
	root.ok("POST", adminV1+"/media/unquarantine/"+path, obj{})
	if get(one) != 200 {
		t.Error("released media is not served")
	}
	root.fails(404, "M_NOT_FOUND", "POST", adminV1+"/media/quarantine/"+serverName+"/nothing", obj{})
	root.fails(400, "M_INVALID_PARAM", "POST", adminV1+"/media/quarantine/elsewhere.example/x", obj{})
	root.ok("POST", adminV1+"/media/protect/"+one, obj{})
	same(t, "all but the protected", root.ok("POST", adminV1+"/user/"+esc(alice.id)+"/media/quarantine", obj{}), obj{"num_quarantined": 2})
	if get(one) != 200 || get(two) != 404 {
		t.Error("the wrong media is in quarantine")
	}
	root.ok("POST", adminV1+"/media/unprotect/"+one, obj{})
	root.fails(404, "M_NOT_FOUND", "POST", adminV1+"/media/protect/nothing", obj{})

	bob := newUser(t, "bob")
	roomID, in := bob.public(), bob.upload(unique("in a room"))
	bob.event(roomID, "m.room.message", obj{"msgtype": "m.file", "body": "f", "url": "mxc://" + serverName + "/" + in})
	same(t, "of a room", root.ok("GET", adminV1+"/room/"+esc(roomID)+"/media", nil), obj{"local": list{"mxc://" + serverName + "/" + in}, "remote": list{}})
	same(t, "a room", root.ok("POST", adminV1+"/room/"+esc(roomID)+"/media/quarantine", obj{}), obj{"num_quarantined": 1})
	root.fails(404, "M_NOT_FOUND", "GET", adminV1+"/room/"+esc("!nothing:"+serverName)+"/media", nil)

	v = root.ok("GET", adminV1+"/statistics/users/media?search_term="+alice.localpart(), nil)
	same(t, "usage", v.At("total"), 1)
	same(t, "count", v.At("users").List()[0].At("media_count"), 3)
	for _, by := range []string{"user_id", "displayname", "media_length", "media_count"} {
		for _, dir := range []string{"f", "b"} {
			v := root.ok("GET", adminV1+"/statistics/users/media?limit=1&order_by="+by+"&dir="+dir, nil)
			same(t, by, v.At("next_token"), 1)
		}
	}
	root.fails(400, "M_INVALID_PARAM", "GET", adminV1+"/statistics/users/media?order_by=x", nil)
	root.fails(400, "M_INVALID_PARAM", "GET", adminV1+"/statistics/users/media?from_ts=9&until_ts=3", nil)

	same(t, "delete one", root.ok("DELETE", adminV1+"/media/"+path, nil), obj{"deleted_media": list{one}, "total": 1})
	root.fails(404, "M_NOT_FOUND", "DELETE", adminV1+"/media/"+path, nil)
	same(t, "delete a user's", root.ok("DELETE", userPath(adminV1, alice, "/media"), nil), obj{"deleted_media": list{three, two}, "total": 2})
	for _, bad := range []string{"", "?before_ts=x", "?before_ts=1700000000", "?before_ts=1700000000000&keep_profiles=x"} {
		if a := root.do("POST", adminV1+"/media/delete"+bad, obj{}); a.status != 400 {
			t.Errorf("%s: %d %s", bad, a.status, a.body)
		}
	}
	same(t, "nothing is that old", root.ok("POST", adminV1+"/media/delete?before_ts=1000000000000&size_gt=0&keep_profiles=true", obj{}), obj{"deleted_media": list{}, "total": 0})
	root.ok("POST", adminV1+"/media/"+serverName+"/delete?before_ts=1000000000000", obj{})
	same(t, "copies", root.ok("POST", adminV1+"/purge_media_cache?before_ts=1000000000000", obj{}), obj{"deleted": 0})
}

func TestSynapseRooms(t *testing.T) {
	t.Parallel()
	root, alice, bob := newAdmin(t), newUser(t, "alice"), newUser(t, "bob")
	word := strings.ReplaceAll(unique("hall"), "-", "")
	big := alice.create(obj{"preset": "public_chat", "visibility": "public", "name": "B " + word, "topic": "About", "room_alias_name": "x-" + word})
	bob.join(big)
	small := alice.create(obj{"name": "a " + word, "initial_state": list{obj{"type": "m.room.encryption", "content": obj{"algorithm": "m.megolm.v1.aes-sha2"}}}})
	space := alice.create(obj{"name": "c " + word, "creation_content": obj{"type": "m.space", "m.federate": false}})
	alice.leave(space)
	ids := func(query string) (out list) {
		out = list{}
		for _, r := range root.ok("GET", adminV1+"/rooms?search_term="+word+query, nil).At("rooms").List() {
			out = append(out, r.At("room_id").String())
		}
		return out
	}
	same(t, "by name", ids(""), list{small, big, space})
	same(t, "backwards", ids("&dir=b&order_by=name"), list{space, big, small})
	same(t, "by size", ids("&order_by=joined_members"), list{big, small, space})
	same(t, "by size, smallest first", ids("&order_by=size&dir=b"), list{space, small, big})
	same(t, "public", ids("&public_rooms=true"), list{big})
	same(t, "empty", ids("&empty_rooms=true"), list{space})
	same(t, "not empty", ids("&empty_rooms=false"), list{small, big})
	v := root.ok("GET", adminV1+"/rooms?limit=2&from=1&search_term="+word, nil)
	for k, want := range (obj{"offset": 1, "total_rooms": 3, "prev_batch": 0}) {
		same(t, k, v.At(k), want)
	}
	if v.Exists("next_batch") {
		t.Errorf("a page after the last: %s", v.Text())
	}
	same(t, "next", root.ok("GET", adminV1+"/rooms?limit=2&search_term="+word, nil).At("next_batch"), 2)
	for _, bad := range []string{"order_by=x", "dir=x", "limit=-1", "from=x", "public_rooms=x", "empty_rooms=1", "search_term="} {
		root.fails(400, "M_INVALID_PARAM", "GET", adminV1+"/rooms?"+bad, nil)
	}
	path := adminV1 + "/rooms/"
	for id, want := range map[string]obj{
		big: {"name": "B " + word, "topic": "About", "canonical_alias": "#x-" + word + ":" + serverName, "joined_members": 2, "joined_local_members": 2, "joined_local_devices": 2,
			"creator": alice.id, "encryption": nil, "federatable": true, "public": true, "join_rules": "public", "room_type": nil, "forgotten": false, "tombstoned": false, "replacement_room": nil},
		small: {"encryption": "m.megolm.v1.aes-sha2", "public": false, "join_rules": "invite", "history_visibility": "shared", "guest_access": "can_join"},
		space: {"room_type": "m.space", "federatable": false, "joined_members": 0},
	} {
		v := root.ok("GET", path+esc(id), nil)
		for k, w := range want {
			same(t, k, v.At(k), w)
		}
	}
	same(t, "members", root.ok("GET", path+esc(big)+"/members", nil), obj{"members": list{alice.id, bob.id}, "total": 2})
	state := root.ok("GET", path+esc(small)+"/state", nil).At("state")
	if find(state, "m.room.encryption", "").V == nil || find(state, "m.room.member", alice.id).V == nil {
		t.Errorf("state: %s", state.Text())
	}
	same(t, "of a type", types(root.ok("GET", path+esc(small)+"/state?type=m.room.name", nil).At("state")), list{"m.room.name"})
	for _, rest := range []string{"", "/members", "/state"} {
		root.fails(404, "M_NOT_FOUND", "GET", path+esc("!nothing:"+serverName)+rest, nil)
	}
	alice.fails(403, "M_FORBIDDEN", "GET", adminV1+"/rooms", nil)

	// Blocked: nobody joins, by no way; who is in stays.
	carol := newUser(t, "carol")
	block := path + esc(big) + "/block"
	same(t, "not blocked", root.ok("GET", block, nil), obj{"block": false})
	same(t, "block", root.ok("PUT", block, obj{"block": true}), obj{"block": true})
	same(t, "blocked", root.ok("GET", block, nil), obj{"block": true, "user_id": root.id})
	carol.fails(403, "M_FORBIDDEN", "POST", room(big)+"/join", obj{})
	alice.invite(big, carol)
	carol.fails(403, "M_FORBIDDEN", "POST", room(big)+"/join", obj{})
	carol.fails(403, "M_FORBIDDEN", "PUT", room(big)+"/state/m.room.member/"+esc(carol.id), obj{"membership": "join"})
	bob.say(big, "still here")
	bob.ok("PUT", "/profile/"+esc(bob.id)+"/displayname", obj{"displayname": "Another"})
	same(t, "unblock", root.ok("PUT", block, obj{"block": false}), obj{"block": false})
	carol.join(big)
	unknown := path + esc("!never-seen:elsewhere.example") + "/block"
	root.ok("PUT", unknown, obj{"block": true})
	same(t, "a room that is not known", root.ok("GET", unknown, nil), obj{"block": true, "user_id": root.id})
	root.fails(400, "M_MISSING_PARAM", "PUT", block, obj{})
	root.fails(400, "M_BAD_JSON", "PUT", block, obj{"block": "x"})
	alice.fails(403, "M_FORBIDDEN", "PUT", block, obj{"block": true})
}

func TestSynapseReports(t *testing.T) {
	t.Parallel()
	root, alice, bob := newAdmin(t), newUser(t, "alice"), newUser(t, "bob")
	roomID := alice.public(bob)
	alice.state(roomID, "m.room.name", "", obj{"name": "Hall"})
	bad := alice.say(roomID, "bad words")
	bob.ok("POST", room(roomID)+"/report/"+esc(bad), obj{"reason": "rude", "score": -50})
	bob.ok("POST", "/users/"+esc(alice.id)+"/report", obj{"reason": "rude person"})
	v := root.ok("GET", adminV1+"/event_reports?from=0&limit=10&dir=b&room_id="+url.QueryEscape(roomID)+"&user_id="+url.QueryEscape(bob.id)+"&event_sender_user_id="+url.QueryEscape(alice.id), nil)
	same(t, "total", v.At("total"), 1)
	r := v.At("event_reports").List()[0]
	for k, want := range (obj{"event_id": bad, "room_id": roomID, "name": "Hall", "canonical_alias": nil, "user_id": bob.id, "sender": alice.id, "reason": "rude", "score": -50}) {
		same(t, k, r.At(k), want)
	}
	one := adminV1 + "/event_reports/" + r.At("id").Text()
	same(t, "the event", root.ok("GET", one, nil).At("event_json", "content", "body"), "bad words")
	v = root.ok("GET", adminV1+"/user_reports?target_user_id="+url.QueryEscape(alice.id), nil)
	same(t, "total", v.At("total"), 1)
	u := v.At("user_reports").List()[0]
	for k, want := range (obj{"target_user_id": alice.id, "user_id": bob.id, "reason": "rude person"}) {
		same(t, k, u.At(k), want)
	}
	other := adminV1 + "/user_reports/" + u.At("id").Text()
	same(t, "one", root.ok("GET", other, nil), u.V)
	// A report of one kind is none of the other.
	root.fails(404, "M_NOT_FOUND", "GET", adminV1+"/event_reports/"+u.At("id").Text(), nil)
	root.fails(404, "M_NOT_FOUND", "DELETE", adminV1+"/user_reports/"+r.At("id").Text(), nil)
	for _, path := range []string{one, other} {
		bob.fails(403, "M_FORBIDDEN", "GET", path, nil)
		bob.fails(403, "M_FORBIDDEN", "DELETE", path, nil)
		root.ok("DELETE", path, nil)
		root.fails(404, "M_NOT_FOUND", "GET", path, nil)
	}
	root.fails(400, "M_INVALID_PARAM", "GET", adminV1+"/event_reports/x", nil)
	root.fails(400, "M_INVALID_PARAM", "GET", adminV1+"/event_reports?dir=x", nil)
	root.fails(400, "M_INVALID_PARAM", "GET", adminV1+"/user_reports?limit=-1", nil)
}
