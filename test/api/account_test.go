package api

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"net/url"
	"strings"
	"testing"
)

var dummy = obj{"type": "m.login.dummy"}

func TestRegister(t *testing.T) {
	t.Parallel()
	n := nobody(t)
	name := unique("reg")

	// Without auth: how to authenticate.
	a := n.do("POST", "/register", obj{"username": name, "password": password})
	if a.status != 401 || a.At("session").String() == "" || len(a.At("flows").List()) == 0 || !a.Exists("params") || a.Exists("errcode") {
		t.Errorf("register without auth: %d %s", a.status, a.body)
	}
	n.ok("GET", "/register/available?username="+name, nil)
	// With the session of it.
	v := n.ok("POST", "/register", obj{"username": name, "password": password, "device_id": "MINE", "initial_device_display_name": "A device",
		"auth": obj{"type": "m.login.dummy", "session": a.At("session").String()}})
	same(t, "user_id", v.At("user_id"), "@"+name+":"+serverName)
	same(t, "device_id", v.At("device_id"), "MINE")
	u := &user{t: t, id: v.At("user_id").String(), token: v.At("access_token").String()}
	same(t, "name of the device", u.ok("GET", "/devices/MINE", nil).At("display_name"), "A device")
	same(t, "own name", u.ok("GET", "/profile/"+u.id+"/displayname", nil).At("displayname"), name)

	n.fails(400, "M_USER_IN_USE", "POST", "/register", obj{"username": name, "password": password, "auth": dummy})
	n.fails(400, "M_USER_IN_USE", "POST", "/register", obj{"username": name, "password": password})
	n.fails(400, "M_USER_IN_USE", "GET", "/register/available?username="+name, nil)
	n.fails(400, "M_INVALID_USERNAME", "GET", "/register/available?username=Not%20valid", nil)
	n.fails(400, "M_MISSING_PARAM|M_INVALID_USERNAME|M_INVALID_PARAM", "GET", "/register/available", nil)
	for _, bad := range []string{"has space", "ümlaut", "quest?ion", "at@sign", "colon:", "[bracket]", `quote"`, "Ω", strings.Repeat("x", 260)} {
		n.fails(400, "M_INVALID_USERNAME", "POST", "/register", obj{"username": bad, "password": password, "auth": dummy})
	}
	for _, good := range []string{unique("q.dot"), unique("q-dash"), unique("q_under"), unique("q=eq"), unique("q/slash"), unique("3")} {
		v := n.ok("POST", "/register", obj{"username": good, "password": password, "auth": dummy})
		same(t, "user_id", v.At("user_id"), "@"+good+":"+serverName)
	}
	upper := unique("UPPER")
	v = n.ok("POST", "/register", obj{"username": upper, "password": password, "auth": dummy})
	same(t, "lower case", v.At("user_id"), "@"+strings.ToLower(upper)+":"+serverName)

	// Without a name one is made; with inhibit_login there is no device.
	v = n.ok("POST", "/register", obj{"password": password, "inhibit_login": true, "auth": dummy})
	if v.At("user_id").String() == "" || v.Exists("access_token") || v.Exists("device_id") {
		t.Errorf("inhibit_login: %s", v.Text())
	}
	// A refresh token only on request.
	v = n.ok("POST", "/register", obj{"username": unique("r"), "password": password, "refresh_token": true, "auth": dummy})
	if !v.Exists("refresh_token") || v.At("expires_in_ms").Int() <= 0 {
		t.Errorf("refresh_token: %s", v.Text())
	}
	n.fails(403, "M_GUEST_ACCESS_FORBIDDEN|M_FORBIDDEN", "POST", "/register?kind=guest", obj{})
	n.fails(400, "M_UNRECOGNIZED|M_INVALID_PARAM", "POST", "/register?kind=other", obj{"password": password, "auth": dummy})
	for name, body := range map[string]any{
		"username":  obj{"username": 1, "auth": dummy},
		"password":  obj{"username": "x", "password": list{}, "auth": dummy},
		"auth":      obj{"username": "x", "password": password, "auth": "x"},
		"device_id": obj{"username": "x", "password": password, "auth": dummy, "device_id": 3},
	} {
		t.Run(name, func(t *testing.T) { nobody(t).fails(400, "M_BAD_JSON", "POST", "/register", body) })
	}
	n.fails(400, "M_NOT_JSON", "POST", "/register", `{"username`)
}

func TestSharedSecretRegister(t *testing.T) {
	t.Parallel()
	n := nobody(t)
	const path = "/_synapse/admin/v1/register"
	mac := func(nonce, user, admin string) string {
		h := hmac.New(sha1.New, []byte(sharedSecret))
		h.Write([]byte(strings.Join([]string{nonce, user, password, admin}, "\x00")))
		return hex.EncodeToString(h.Sum(nil))
	}
	name := unique("shared")
	nonce := n.ok("GET", path, nil).At("nonce").String()
	body := obj{"nonce": nonce, "username": name, "password": password, "admin": false, "mac": mac(nonce, name, "notadmin")}
	v := n.ok("POST", path, body)
	for k, want := range map[string]string{"user_id": "@" + name + ":" + serverName, "home_server": serverName} {
		same(t, k, v.At(k), want)
	}
	if v.At("access_token").String() == "" || v.At("device_id").String() == "" {
		t.Errorf("shared secret: %s", v.Text())
	}
	if a := n.do("POST", path, body); a.status != 400 {
		t.Errorf("a nonce worked twice: %d %s", a.status, a.body)
	}
	nonce = n.ok("GET", path, nil).At("nonce").String()
	name = unique("root")
	body = obj{"nonce": nonce, "username": name, "password": password, "admin": true, "mac": mac(nonce, name, "notadmin")}
	if a := n.do("POST", path, body); a.status != 403 {
		t.Errorf("a wrong mac: %d %s", a.status, a.body)
	}
	nonce = n.ok("GET", path, nil).At("nonce").String()
	n.ok("POST", path, obj{"nonce": nonce, "username": name, "password": password, "admin": true, "mac": mac(nonce, name, "admin"), "displayname": "Root", "user_type": nil})
}

func TestLogin(t *testing.T) {
	t.Parallel()
	u, n := newUser(t, "login"), nobody(t)
	flows := n.ok("GET", "/login", nil).At("flows")
	if find(flows, "m.login.password", "*").V == nil {
		t.Errorf("flows: %s", flows.Text())
	}
	with := func(o obj) obj {
		out := obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": u.localpart()}, "password": password}
		for k, v := range o {
			if out[k] = v; v == nil {
				delete(out, k)
			}
		}
		return out
	}
	v := n.ok("POST", "/login", with(nil))
	same(t, "user_id", v.At("user_id"), u.id)
	if v.Exists("refresh_token") {
		t.Error("a refresh token was not asked for")
	}
	n.ok("POST", "/login", with(obj{"identifier": obj{"type": "m.id.user", "user": u.id}}))
	n.ok("POST", "/login", with(obj{"identifier": obj{"type": "m.id.user", "user": strings.ToUpper(u.localpart())}}))
	n.ok("POST", "/login", with(obj{"identifier": nil, "user": u.localpart()}))
	n.ok("POST", "/_matrix/client/r0/login", with(nil))
	v = n.ok("POST", "/login", with(obj{"device_id": "DEV", "initial_device_display_name": "first"}))
	same(t, "device_id", v.At("device_id"), "DEV")
	first := &user{t: t, id: u.id, token: v.At("access_token").String()}
	v = n.ok("POST", "/login", with(obj{"device_id": "DEV", "initial_device_display_name": "second"}))
	second := &user{t: t, id: u.id, token: v.At("access_token").String()}
	same(t, "the name of a known device stays", second.ok("GET", "/devices/DEV", nil).At("display_name"), "first")
	first.fails(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami", nil)

	n.fails(403, "M_FORBIDDEN", "POST", "/login", with(obj{"password": "wrong"}))
	n.fails(403, "M_FORBIDDEN", "POST", "/login", with(obj{"identifier": obj{"type": "m.id.user", "user": "nobody-at-all"}}))
	n.fails(403, "M_FORBIDDEN", "POST", "/login", with(obj{"identifier": obj{"type": "m.id.user", "user": "@" + u.localpart() + ":elsewhere"}}))
	n.fails(400, "M_UNKNOWN|M_UNRECOGNIZED|M_INVALID_PARAM", "POST", "/login", with(obj{"type": "m.login.unknown"}))
	n.fails(400, "M_MISSING_PARAM|M_BAD_JSON|M_UNKNOWN", "POST", "/login", with(obj{"type": nil}))
	n.fails(400, "M_MISSING_PARAM|M_BAD_JSON|M_INVALID_PARAM", "POST", "/login", with(obj{"identifier": nil}))
	n.fails(400, "M_MISSING_PARAM|M_BAD_JSON", "POST", "/login", with(obj{"password": nil}))
	n.fails(400, "M_BAD_JSON", "POST", "/login", with(obj{"password": 3}))
	n.fails(400, "M_BAD_JSON", "POST", "/login", with(obj{"identifier": "x"}))
	n.fails(400, "M_NOT_JSON", "POST", "/login", "{")
	n.fails(400, "M_NOT_JSON|M_BAD_JSON", "POST", "/login", "[]")
	n.fails(400, "M_NOT_JSON", "POST", "/login", "{\"type\":\"m.login.password\",\"password\":\"\xff\xfe\"}")

	// Refresh tokens.
	v = n.ok("POST", "/login", with(obj{"refresh_token": true}))
	if v.At("expires_in_ms").Int() <= 0 {
		t.Errorf("expires_in_ms: %s", v.Text())
	}
	old := &user{t: t, id: u.id, token: v.At("access_token").String()}
	v2 := n.ok("POST", "/refresh", obj{"refresh_token": v.At("refresh_token").String()})
	fresh := &user{t: t, id: u.id, token: v2.At("access_token").String()}
	same(t, "device after a refresh", fresh.ok("GET", "/account/whoami", nil).At("device_id"), v.At("device_id").String())
	if old.token == fresh.token || v2.At("refresh_token").String() == "" {
		t.Errorf("refresh: %s", v2.Text())
	}
	a := n.fails(401, "M_UNKNOWN_TOKEN", "POST", "/refresh", obj{"refresh_token": "nonsense"})
	_ = a
	n.fails(401, "M_UNKNOWN_TOKEN", "POST", "/refresh", obj{"refresh_token": v.At("refresh_token").String()})
	n.fails(400, "M_MISSING_PARAM|M_BAD_JSON", "POST", "/refresh", obj{})

	// A login token of one device logs another in, once.
	a = second.do("POST", "/_matrix/client/v1/login/get_token", obj{})
	if a.status != 401 {
		t.Fatalf("get_token without auth: %d %s", a.status, a.body)
	}
	v = second.ok("POST", "/_matrix/client/v1/login/get_token", obj{"auth": obj{"type": "m.login.password", "session": a.At("session").String(),
		"identifier": obj{"type": "m.id.user", "user": u.id}, "password": password}})
	byToken := obj{"type": "m.login.token", "token": v.At("login_token").String()}
	same(t, "user of a login token", n.ok("POST", "/login", byToken).At("user_id"), u.id)
	n.fails(403, "M_FORBIDDEN", "POST", "/login", byToken)
	n.fails(400, "M_MISSING_PARAM", "POST", "/login", obj{"type": "m.login.token"})
}

func TestLogout(t *testing.T) {
	t.Parallel()
	u := newUser(t, "logout")
	a, b := u.login(), u.login()
	same(t, "devices", len(u.ok("GET", "/devices", nil).At("devices").List()), 3)
	a.ok("POST", "/logout", nil)
	ans := a.fails(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami", nil)
	same(t, "soft_logout", ans.At("soft_logout").Bool(), false)
	same(t, "devices", len(u.ok("GET", "/devices", nil).At("devices").List()), 2)
	b.ok("POST", "/logout/all", obj{})
	u.fails(401, "M_UNKNOWN_TOKEN", "GET", "/devices", nil)
	b.fails(401, "M_UNKNOWN_TOKEN", "GET", "/devices", nil)
	b.fails(401, "M_UNKNOWN_TOKEN", "POST", "/logout", nil)
	nobody(t).fails(401, "M_MISSING_TOKEN", "POST", "/logout", nil)
}

func TestTokens(t *testing.T) {
	t.Parallel()
	u := newUser(t, "token")
	v := u.ok("GET", "/account/whoami", nil)
	same(t, "whoami", v, obj{"user_id": u.id, "device_id": u.device, "is_guest": false})
	same(t, "token in the query", nobody(t).ok("GET", "/account/whoami?access_token="+url.QueryEscape(u.token), nil).At("user_id"), u.id)
	nobody(t).fails(401, "M_MISSING_TOKEN", "GET", "/account/whoami", nil)
	nobody(t).fails(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami?access_token=x", nil)
	u.ok("GET", "/_matrix/client/r0/account/whoami", nil)
}

func TestDevices(t *testing.T) {
	t.Parallel()
	u, other := newUsers(t)
	b, c, d := u.login(), u.login(), u.login()
	u.ok("PUT", "/devices/"+b.device, obj{"display_name": "Phone"})
	v := u.ok("GET", "/devices/"+b.device, nil)
	same(t, "display_name", v.At("display_name"), "Phone")
	same(t, "device_id", v.At("device_id"), b.device)
	u.ok("PUT", "/devices/"+b.device, obj{})
	same(t, "name kept", u.ok("GET", "/devices/"+b.device, nil).At("display_name"), "Phone")
	u.fails(404, "M_NOT_FOUND", "GET", "/devices/unknown", nil)
	u.fails(404, "M_NOT_FOUND", "PUT", "/devices/unknown", obj{"display_name": "x"})
	other.fails(404, "M_NOT_FOUND", "GET", "/devices/"+b.device, nil)
	u.fails(400, "M_BAD_JSON", "PUT", "/devices/"+b.device, obj{"display_name": 3})

	auth := func(session string, u *user) obj {
		return obj{"type": "m.login.password", "session": session, "identifier": obj{"type": "m.id.user", "user": u.id}, "password": password}
	}
	a := u.do("DELETE", "/devices/"+b.device, obj{})
	if a.status != 401 || a.At("session").String() == "" || len(a.At("flows").List()) == 0 {
		t.Fatalf("delete without auth: %d %s", a.status, a.body)
	}
	session := a.At("session").String()
	// The wrong password: again 401, with the reason.
	wrong := auth(session, u)
	wrong["password"] = "wrong"
	a = u.fails(401, "M_FORBIDDEN", "DELETE", "/devices/"+b.device, obj{"auth": wrong})
	same(t, "session after a failure", a.At("session"), session)
	if len(a.At("flows").List()) == 0 {
		t.Errorf("no flows after a failure: %s", a.body)
	}
	// Somebody else's password is no proof.
	if a := u.do("DELETE", "/devices/"+b.device, obj{"auth": auth(session, other)}); a.status == 200 {
		t.Fatal("a device was deleted with another user's password")
	}
	// A session is bound to what it was begun for.
	if a := u.do("DELETE", "/devices/"+c.device, obj{"auth": obj{"session": session}}); a.status != 401 && a.status != 403 {
		t.Errorf("a session used for another device: %d %s", a.status, a.body)
	}
	u.ok("DELETE", "/devices/"+b.device, obj{"auth": auth(session, u)})
	b.fails(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami", nil)
	u.fails(404, "M_NOT_FOUND", "GET", "/devices/"+b.device, nil)

	a = u.do("POST", "/delete_devices", obj{"devices": list{c.device, d.device}})
	same(t, "status", a.status, 401)
	u.ok("POST", "/delete_devices", obj{"devices": list{c.device, d.device}, "auth": auth(a.At("session").String(), u)})
	c.fails(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami", nil)
	same(t, "devices left", len(u.ok("GET", "/devices", nil).At("devices").List()), 1)
	u.fails(400, "M_BAD_JSON", "POST", "/delete_devices", obj{"devices": "x"})
	u.fails(400, "M_MISSING_PARAM|M_BAD_JSON", "POST", "/delete_devices", obj{})
}

func TestPassword(t *testing.T) {
	t.Parallel()
	u := newUser(t, "pass")
	b := u.login()
	const next = "a different horse battery"
	a := u.do("POST", "/account/password", obj{"new_password": next})
	same(t, "status", a.status, 401)
	auth := obj{"type": "m.login.password", "session": a.At("session").String(), "identifier": obj{"type": "m.id.user", "user": u.id}, "password": password}
	u.ok("POST", "/account/password", obj{"new_password": next, "logout_devices": false, "auth": auth})
	b.ok("GET", "/account/whoami", nil)
	login := func(p string) answer {
		return nobody(t).do("POST", "/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": u.id}, "password": p})
	}
	login(password).want(403, "M_FORBIDDEN")
	same(t, "login with the new password", login(next).status, 200)
	a = u.do("POST", "/account/password", obj{"new_password": password})
	auth["session"], auth["password"] = a.At("session").String(), next
	u.ok("POST", "/account/password", obj{"new_password": password, "auth": auth})
	u.ok("GET", "/account/whoami", nil)
	b.fails(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami", nil)
	u.fails(400, "M_BAD_JSON", "POST", "/account/password", obj{"new_password": 3})
}

func TestDeactivate(t *testing.T) {
	t.Parallel()
	u, other := newUsers(t)
	id := other.public(u)
	b := u.login()
	a := u.do("POST", "/account/deactivate", obj{})
	same(t, "status", a.status, 401)
	auth := obj{"type": "m.login.password", "session": a.At("session").String(), "identifier": obj{"type": "m.id.user", "user": u.id}, "password": "wrong"}
	u.fails(401, "M_FORBIDDEN", "POST", "/account/deactivate", obj{"auth": auth})
	auth["password"] = password
	v := u.ok("POST", "/account/deactivate", obj{"auth": auth})
	if s := v.At("id_server_unbind_result").String(); s != "success" && s != "no-support" {
		t.Errorf("deactivate: %s", v.Text())
	}
	b.fails(401, "M_UNKNOWN_TOKEN|M_USER_DEACTIVATED", "GET", "/account/whoami", nil)
	nobody(t).fails(403, "M_FORBIDDEN|M_USER_DEACTIVATED", "POST", "/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": u.id}, "password": password})
	nobody(t).fails(400, "M_USER_IN_USE|M_EXCLUSIVE", "POST", "/register", obj{"username": u.localpart(), "password": password, "auth": dummy})
	same(t, "membership afterwards", other.member(id, u.id), "leave")
}

func TestServerFacts(t *testing.T) {
	t.Parallel()
	u, n := newUser(t, "facts"), nobody(t)
	if v := n.ok("GET", "/_matrix/client/versions", nil); len(v.At("versions").List()) == 0 {
		t.Errorf("versions: %s", v.Text())
	}
	caps := u.ok("GET", "/capabilities", nil).At("capabilities")
	rv := caps.At("m.room_versions")
	if d := rv.At("default").String(); rv.At("available", d).String() != "stable" {
		t.Errorf("room versions: %s", rv.Text())
	}
	same(t, "m.change_password", caps.At("m.change_password", "enabled"), true)
	n.fails(401, "M_MISSING_TOKEN", "GET", "/capabilities", nil)
	v := n.ok("GET", "/.well-known/matrix/client", nil)
	if v.At("m.homeserver", "base_url").String() == "" {
		t.Errorf("well-known: %s", v.Text())
	}
	if v := u.ok("GET", "/account/3pid", nil); v.At("threepids").V == nil {
		t.Errorf("3pid: %s", v.Text())
	}
	u.ok("GET", "/voip/turnServer", nil) // {} where there is none
	n.fails(401, "M_MISSING_TOKEN", "GET", "/voip/turnServer", nil)
	n.fails(404, "M_NOT_FOUND", "GET", "/.well-known/matrix/policy_server", nil)
	v = u.ok("POST", "/user/"+u.id+"/openid/request_token", obj{})
	same(t, "token_type", v.At("token_type"), "Bearer")
	same(t, "matrix_server_name", v.At("matrix_server_name"), serverName)
	same(t, "sub", n.ok("GET", "/_matrix/federation/v1/openid/userinfo?access_token="+v.At("access_token").String(), nil).At("sub"), u.id)
	n.fails(401, "M_UNKNOWN_TOKEN", "GET", "/_matrix/federation/v1/openid/userinfo?access_token=x", nil)
	u.fails(403, "M_FORBIDDEN", "POST", "/user/@other:hs1/openid/request_token", obj{})
}

func TestAppservice(t *testing.T) {
	t.Parallel()
	sender := &user{t: t, token: asToken}
	same(t, "sender", sender.ok("GET", "/account/whoami", nil).At("user_id"), "@bridge:"+serverName)
	name := unique("bridge_u")
	v := sender.ok("POST", "/register", obj{"type": "m.login.application_service", "username": name, "inhibit_login": true})
	ghost := bridge(t, v.At("user_id").String())
	same(t, "as the ghost", ghost.ok("GET", "/account/whoami", nil).At("user_id"), ghost.id)
	sender.fails(400, "M_EXCLUSIVE", "POST", "/register", obj{"type": "m.login.application_service", "username": unique("other")})
	nobody(t).fails(400, "M_EXCLUSIVE", "POST", "/register", obj{"username": unique("bridge_x"), "password": password, "auth": dummy})
	nobody(t).fails(401, "M_MISSING_TOKEN|M_UNKNOWN_TOKEN", "POST", "/register", obj{"type": "m.login.application_service", "username": unique("bridge_x")})
	bridge(t, "@somebody:"+serverName).fails(403, "M_FORBIDDEN", "GET", "/account/whoami", nil)

	alice := newUser(t, "alice")
	id := alice.public()
	ghost.join(id)
	e := ghost.say(id, "over the bridge")
	same(t, "sender", alice.ok("GET", room(id)+"/event/"+esc(e), nil).At("sender"), ghost.id)
	v = ghost.ok("PUT", room(id)+"/send/m.room.message/"+unique("t")+"?ts=1000000000000", obj{"msgtype": "m.text", "body": "old"})
	same(t, "ts", alice.ok("GET", room(id)+"/event/"+esc(v.At("event_id").String()), nil).At("origin_server_ts").Int(), 1000000000000)
	alice.fails(400, "M_EXCLUSIVE", "PUT", "/directory/room/"+esc("#bridge_x:"+serverName), obj{"room_id": id})
	alias := "#" + unique("bridge_") + ":" + serverName
	ghost.ok("PUT", "/directory/room/"+esc(alias), obj{"room_id": id})
	// It may log a ghost in.
	v = sender.ok("POST", "/login", obj{"type": "m.login.application_service", "identifier": obj{"type": "m.id.user", "user": name}})
	same(t, "logged in", (&user{t: t, token: v.At("access_token").String()}).ok("GET", "/account/whoami", nil).At("user_id"), ghost.id)
	nobody(t).fails(401, "M_MISSING_TOKEN", "POST", "/login", obj{"type": "m.login.application_service", "identifier": obj{"type": "m.id.user", "user": name}})
	alice.fails(403, "M_FORBIDDEN", "POST", "/login", obj{"type": "m.login.application_service", "identifier": obj{"type": "m.id.user", "user": name}})
}
