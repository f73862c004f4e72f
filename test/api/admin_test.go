package api

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"strings"
	"testing"
)

// newAdmin makes an administrator by the shared secret.
func newAdmin(t *testing.T) *user {
	t.Helper()
	const path = "/_synapse/admin/v1/register"
	n, name := nobody(t), unique("root")
	nonce := n.ok("GET", path, nil).At("nonce").String()
	h := hmac.New(sha1.New, []byte(sharedSecret))
	h.Write([]byte(strings.Join([]string{nonce, name, password, "admin"}, "\x00")))
	v := n.ok("POST", path, obj{"nonce": nonce, "username": name, "password": password, "admin": true, "mac": hex.EncodeToString(h.Sum(nil))})
	return &user{t: t, id: v.At("user_id").String(), device: v.At("device_id").String(), token: v.At("access_token").String()}
}

const (
	lockPath    = "/_matrix/client/v1/admin/lock/"
	suspendPath = "/_matrix/client/v1/admin/suspend/"
)

func TestModerationIsForAdministrators(t *testing.T) {
	t.Parallel()
	root, other := newAdmin(t), newAdmin(t)
	alice, bob := newUsers(t)
	for path, key := range map[string]string{lockPath: "locked", suspendPath: "suspended"} {
		same(t, path, root.ok("GET", path+esc(alice.id), nil), obj{key: false})
		for _, who := range []*user{alice, bob} {
			// Nobody else learns whether there is such an account.
			for _, whom := range []string{alice.id, "@nobody-at-all:" + serverName, "@x:elsewhere.example"} {
				who.fails(403, "M_FORBIDDEN", "GET", path+esc(whom), nil)
				who.fails(403, "M_FORBIDDEN", "PUT", path+esc(whom), obj{key: true})
			}
		}
		nobody(t).fails(401, "M_MISSING_TOKEN", "GET", path+esc(alice.id), nil)
		bridge(t, "@bridge_x:"+serverName).fails(403, "M_FORBIDDEN", "GET", path+esc(alice.id), nil)
		for _, method := range []string{"GET", "PUT"} {
			var body any
			if method == "PUT" {
				body = obj{key: true}
			}
			root.fails(400, "M_INVALID_PARAM", method, path+esc("@x:elsewhere.example"), body)
			root.fails(400, "M_INVALID_PARAM", method, path+"nonsense", body)
			root.fails(404, "M_NOT_FOUND", method, path+esc("@nobody-at-all:"+serverName), body)
			root.fails(403, "M_FORBIDDEN", method, path+esc(other.id), body)
		}
		root.fails(403, "M_FORBIDDEN", "PUT", path+esc(root.id), obj{key: true})
		same(t, "oneself", root.ok("GET", path+esc(root.id), nil), obj{key: false})
		root.fails(400, "M_MISSING_PARAM", "PUT", path+esc(alice.id), obj{})
		root.fails(400, "M_BAD_JSON", "PUT", path+esc(alice.id), obj{key: "yes"})
		same(t, "still", root.ok("GET", path+esc(alice.id), nil), obj{key: false})
	}
	same(t, "capability", root.ok("GET", "/capabilities", nil).At("capabilities", "m.account_moderation"), obj{"suspend": true, "lock": true})
	if alice.ok("GET", "/capabilities", nil).At("capabilities").Exists("m.account_moderation") {
		t.Error("everybody is told that they may moderate")
	}
	if !nobody(t).ok("GET", "/_matrix/client/versions", nil).At("unstable_features", "uk.timedout.msc4323.stable").Bool() {
		t.Error("the feature is not announced")
	}
	gone := newUser(t, "gone")
	gone.ok("POST", "/account/deactivate", obj{"auth": obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": gone.id}, "password": password}})
	root.fails(404, "M_NOT_FOUND", "GET", lockPath+esc(gone.id), nil)
	root.fails(404, "M_NOT_FOUND", "PUT", suspendPath+esc(gone.id), obj{"suspended": true})
}

// TestLock is of cs#account-locking: all but signing out is refused, softly, and
// what was signed in goes on afterwards.
func TestLock(t *testing.T) {
	t.Parallel()
	root, alice := newAdmin(t), newUser(t, "alice")
	phone, tablet := alice.login(), alice.login()
	v := nobody(t).ok("POST", "/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": alice.id}, "password": password, "refresh_token": true})
	short := &user{t: t, id: alice.id, token: v.At("access_token").String()}
	roomID := alice.public()

	same(t, "lock", root.ok("PUT", lockPath+esc(alice.id), obj{"locked": true}), obj{"locked": true})
	same(t, "is locked", root.ok("GET", lockPath+esc(alice.id), nil), obj{"locked": true})
	same(t, "is not suspended", root.ok("GET", suspendPath+esc(alice.id), nil), obj{"suspended": false})
	for _, who := range []*user{alice, phone, short} {
		for _, ask := range [][2]string{{"GET", "/sync"}, {"GET", "/account/whoami"}, {"GET", "/capabilities"}, {"POST", room(roomID) + "/leave"}, {"GET", "/devices"}, {"GET", "/publicRooms"}} {
			var body any
			if ask[0] == "POST" {
				body = obj{}
			}
			a := who.fails(401, "M_USER_LOCKED", ask[0], ask[1], body)
			if !a.At("soft_logout").Bool() {
				t.Errorf("%s: a hard logout: %s", a.what, a.body)
			}
		}
	}
	// A refused refresh would end the session.
	a := nobody(t).fails(401, "M_USER_LOCKED", "POST", "/refresh", obj{"refresh_token": v.At("refresh_token").String()})
	if !a.At("soft_logout").Bool() {
		t.Errorf("refresh: %s", a.body)
	}
	a = nobody(t).fails(401, "M_USER_LOCKED", "POST", "/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": alice.id}, "password": password})
	if !a.At("soft_logout").Bool() {
		t.Errorf("login: %s", a.body)
	}
	nobody(t).fails(403, "M_FORBIDDEN", "POST", "/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": alice.id}, "password": "wrong"})
	tablet.ok("POST", "/logout", nil)

	root.ok("PUT", lockPath+esc(alice.id), obj{"locked": false})
	same(t, "unlocked", root.ok("GET", lockPath+esc(alice.id), nil), obj{"locked": false})
	for _, who := range []*user{alice, phone, short} {
		same(t, "the session goes on", who.ok("GET", "/account/whoami", nil).At("user_id"), alice.id)
	}
	tablet.fails(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami", nil)
	w := nobody(t).ok("POST", "/refresh", obj{"refresh_token": v.At("refresh_token").String()})
	(&user{t: t, token: w.At("access_token").String()}).ok("GET", "/account/whoami", nil)

	// Signing out everywhere works too.
	root.ok("PUT", lockPath+esc(alice.id), obj{"locked": true})
	phone.ok("POST", "/logout/all", nil)
	root.ok("PUT", lockPath+esc(alice.id), obj{"locked": false})
	alice.fails(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami", nil)
}

// TestSuspension is of cs#account-suspension.
func TestSuspension(t *testing.T) {
	t.Parallel()
	root := newAdmin(t)
	alice, bob := newUsers(t)
	roomID := alice.public(bob)
	other, invited, left, direct := bob.public(), bob.create(obj{"invite": list{alice.id}}), bob.public(alice), bob.public(alice)
	knocking := bob.create(obj{"initial_state": list{obj{"type": "m.room.join_rules", "content": obj{"join_rule": "knock"}}}})
	mine, second, theirs := alice.say(roomID, "mine"), alice.say(roomID, "mine too"), bob.say(roomID, "theirs")
	alias := "#" + unique("alias") + ":" + serverName
	alice.ok("PUT", "/directory/room/"+esc(alias), obj{"room_id": roomID})

	root.ok("PUT", suspendPath+esc(alice.id), obj{"suspended": true})
	same(t, "is suspended", root.ok("GET", suspendPath+esc(alice.id), nil), obj{"suspended": true})
	session := alice.login()

	text := obj{"msgtype": "m.text", "body": "x"}
	for _, who := range []*user{alice, session} {
		for _, ask := range []struct {
			method, path string
			body         any
		}{
			{"POST", room(other) + "/join", obj{}},
			{"POST", "/join/" + esc(other), obj{}},
			{"POST", room(invited) + "/join", obj{}},
			{"POST", "/knock/" + esc(knocking), obj{}},
			{"POST", "/createRoom", obj{}},
			{"POST", room(roomID) + "/invite", obj{"user_id": root.id}},
			{"POST", room(roomID) + "/kick", obj{"user_id": bob.id}},
			{"POST", room(roomID) + "/ban", obj{"user_id": bob.id}},
			{"POST", room(roomID) + "/unban", obj{"user_id": bob.id}},
			{"POST", room(roomID) + "/upgrade", obj{"new_version": "11"}},
			{"PUT", room(roomID) + "/send/m.room.message/" + unique("txn"), text},
			{"PUT", room(roomID) + "/send/m.reaction/" + unique("txn"), obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": theirs, "key": "x"}}},
			{"PUT", room(roomID) + "/send/m.room.message/" + unique("txn") + "?org.matrix.msc4140.delay=1000", text},
			{"PUT", "/_matrix/client/unstable/org.matrix.msc4140" + room(roomID) + "/delayed_event/m.room.message/" + unique("txn"), obj{"delay": 1000, "content": text}},
			{"PUT", room(roomID) + "/state/m.room.topic", obj{"topic": "x"}},
			{"PUT", room(other) + "/state/m.room.member/" + esc(alice.id), obj{"membership": "join"}},
			{"PUT", room(roomID) + "/redact/" + esc(theirs) + "/" + unique("txn"), obj{}},
			{"PUT", room(roomID) + "/send/m.room.redaction/" + unique("txn"), obj{"redacts": theirs}},
			{"PUT", "/profile/" + esc(alice.id) + "/displayname", obj{"displayname": "x"}},
			{"PUT", "/profile/" + esc(alice.id) + "/avatar_url", obj{"avatar_url": "mxc://a/b"}},
			{"PUT", "/profile/" + esc(alice.id) + "/m.tz", obj{"m.tz": "Europe/Berlin"}},
			{"DELETE", "/profile/" + esc(alice.id) + "/displayname", nil},
			{"PUT", "/directory/room/" + esc("#"+unique("x")+":"+serverName), obj{"room_id": roomID}},
			{"DELETE", "/directory/room/" + esc(alias), nil},
			{"PUT", "/directory/list/room/" + esc(roomID), obj{"visibility": "public"}},
			{"POST", "/account/3pid/delete", obj{"medium": "email", "address": "a@example.org"}},
			{"POST", "/_matrix/media/v3/upload", obj{}},
			{"POST", "/_matrix/media/v1/create", nil},
		} {
			who.fails(403, "M_USER_SUSPENDED", ask.method, ask.path, ask.body)
		}
	}
	// What stays: reading, signing out, leaving, taking back one's own.
	for _, path := range []string{"/sync", "/account/whoami", room(roomID) + "/messages?dir=b", room(roomID) + "/state", "/devices", "/profile/" + esc(bob.id)} {
		session.ok("GET", path, nil)
	}
	bob.say(roomID, "after")
	alice.until("the message", func(v Value) bool {
		return strings.Contains(v.Joined(roomID).Text(), "after")
	})
	alice.ok("PUT", room(roomID)+"/redact/"+esc(mine)+"/"+unique("txn"), obj{})
	alice.ok("PUT", room(roomID)+"/send/m.room.redaction/"+unique("txn"), obj{"redacts": second})
	for _, id := range []string{mine, second} {
		if alice.ok("GET", room(roomID)+"/event/"+esc(id), nil).At("content").Exists("body") {
			t.Error("an own event was not redacted")
		}
	}
	alice.fails(404, "M_NOT_FOUND", "PUT", room(roomID)+"/redact/"+esc("$nothing")+"/"+unique("txn"), obj{})
	alice.leave(left)
	alice.leave(invited)
	alice.ok("POST", room(left)+"/forget", obj{})
	alice.state(direct, "m.room.member", alice.id, obj{"membership": "leave"})
	alice.ok("POST", room(roomID)+"/read_markers", obj{"m.fully_read": theirs})
	alice.ok("POST", room(roomID)+"/receipt/m.read/"+esc(theirs), obj{})
	alice.ok("POST", "/keys/query", obj{"device_keys": obj{alice.id: list{}}})
	alice.ok("POST", "/room_keys/version", obj{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": obj{"public_key": "x"}})
	alice.ok("PUT", "/sendToDevice/m.key.verification.request/"+unique("txn"), obj{"messages": obj{alice.id: obj{session.device: obj{"x": 1}}}})
	// Verifying other devices, cross-signing, backups; deleting devices.
	alice.ok("POST", "/keys/upload", obj{"one_time_keys": obj{"signed_curve25519:a": obj{"key": "a"}}})
	if a := alice.do("POST", "/keys/device_signing/upload", obj{}); a.status != 400 {
		t.Errorf("cross-signing keys: %d %s", a.status, a.body)
	}
	alice.ok("POST", "/keys/signatures/upload", obj{})
	alice.ok("PUT", "/room_keys/keys/"+esc(roomID)+"/s?version=1", obj{"first_message_index": 0, "forwarded_count": 0, "is_verified": true, "session_data": obj{}})
	another := alice.login()
	alice.ok("DELETE", "/devices/"+esc(another.device), obj{"auth": obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": alice.id}, "password": password}})
	another.fails(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami", nil)
	alice.fails(400, "M_THREEPID_AUTH_FAILED|M_INVALID_PARAM|M_UNAUTHORIZED", "POST", "/account/3pid/add", obj{"sid": "x", "client_secret": "y"})
	session.ok("POST", "/logout", nil)

	// Locked and suspended are two things: the one ends without the other.
	root.ok("PUT", lockPath+esc(alice.id), obj{"locked": true})
	same(t, "suspended while locked", root.ok("GET", suspendPath+esc(alice.id), nil), obj{"suspended": true})
	root.ok("PUT", lockPath+esc(alice.id), obj{"locked": false})
	alice.fails(403, "M_USER_SUSPENDED", "PUT", room(roomID)+"/send/m.room.message/"+unique("txn"), text)
	root.ok("PUT", suspendPath+esc(alice.id), obj{"suspended": false})
	alice.say(roomID, "again")
	// A suspended account can still be closed.
	root.ok("PUT", suspendPath+esc(alice.id), obj{"suspended": true})
	alice.ok("POST", "/account/deactivate", obj{"auth": obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": alice.id}, "password": password}})
}

func TestWhois(t *testing.T) {
	t.Parallel()
	root := newAdmin(t)
	alice, bob := newUsers(t)
	alice.ok("GET", "/account/whoami", nil)
	for _, path := range []string{"/admin/whois/", "/_synapse/admin/v1/whois/"} {
		for _, who := range []*user{alice, root} {
			v := who.ok("GET", path+esc(alice.id), nil)
			same(t, "user_id", v.At("user_id"), alice.id)
			c := v.At("devices", alice.device, "sessions").List()[0].At("connections").List()[0]
			if c.At("ip").String() != "127.0.0.1" || c.At("last_seen").Int() <= 0 || !strings.Contains(c.At("user_agent").String(), "Go-http-client") {
				t.Errorf("%s", v.Text())
			}
		}
		bob.fails(403, "M_FORBIDDEN", "GET", path+esc(alice.id), nil)
		root.fails(404, "M_NOT_FOUND", "GET", path+esc("@nobody-at-all:"+serverName), nil)
		root.fails(400, "M_INVALID_PARAM", "GET", path+esc("@x:elsewhere.example"), nil)
	}
}
