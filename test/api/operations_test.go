package api

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/route"
)

// operation is one of the specification's, with our route.
type operation struct {
	method, path, id string
	route            route.Route
}

var pathParam = regexp.MustCompile(`\{[^}]*\}`)

// operations are those of docs/dev/operations.tsv that have a route.
func operations(t *testing.T) []operation {
	t.Helper()
	b, err := os.ReadFile("../../docs/dev/operations.tsv")
	if err != nil {
		t.Fatal(err)
	}
	routes := map[string]route.Route{}
	for _, rt := range hstest.New(t, nil).Routes() {
		method, _, _ := strings.Cut(rt.Pattern, " ")
		for _, p := range append([]string{rt.Pattern}, rt.Aliases...) {
			if !strings.Contains(p, " ") {
				p = method + " " + p
			}
			routes[pathParam.ReplaceAllString(p, "{}")] = rt
		}
	}
	var out []operation
	total := 0
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if len(f) < 4 {
			continue
		}
		total++
		if rt, ok := routes[pathParam.ReplaceAllString(f[0]+" "+f[1], "{}")]; ok {
			out = append(out, operation{f[0], f[1], f[2], rt})
		}
	}
	if total != 166 || len(out) < 129 {
		t.Errorf("%d operations, %d with a route", total, len(out))
	}
	return out
}

// plain is the least that an operation takes, where that is more than {}. What is
// named there is required.
var plain = map[string]obj{
	"setAdminSuspendUser": {"suspended": false}, "setAdminLockUser": {"locked": false},
	"add3PID": {"client_secret": "s", "sid": "1"}, "bind3PID": {"client_secret": "s", "sid": "1", "id_server": "x.example", "id_access_token": "t"},
	"delete3pidFromAccount": {"medium": "email", "address": "a@x.example"}, "unbind3pidFromAccount": {"medium": "email", "address": "a@x.example"},
	"requestTokenTo3PIDEmail":                 {"client_secret": "s", "email": "a@x.example", "send_attempt": 1},
	"requestTokenToRegisterEmail":             {"client_secret": "s", "email": "a@x.example", "send_attempt": 1},
	"requestTokenToResetPasswordEmail":        {"client_secret": "s", "email": "a@x.example", "send_attempt": 1},
	"updateAppserviceRoomDirectoryVisibility": {"visibility": "public"},
	"ban": {"user_id": "@x:hs1"}, "unban": {"user_id": "@x:hs1"}, "kick": {"user_id": "@x:hs1"}, "inviteUser": {"user_id": "@x:hs1"},
	"deleteDevices": {"devices": list{"X"}}, "setRoomAlias": {"room_id": "!x:hs1"},
	"postRoomKeysVersion": {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": obj{}}, "putRoomKeysVersion": {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": obj{}},
	"putRoomKeyBySessionId": {"first_message_index": 0, "forwarded_count": 0, "is_verified": false, "session_data": obj{}}, "putRoomKeysByRoomId": {"sessions": obj{}}, "putRoomKeys": {"rooms": obj{}},
	"queryKeys": {"device_keys": obj{}}, "claimKeys": {"one_time_keys": obj{}}, "login": {"type": "m.login.password"}, "changePassword": {"new_password": password + "x"},
	"setPresence": {"presence": "online"}, "postPusher": {"kind": "http", "app_id": "a", "pushkey": "k", "app_display_name": "A", "device_display_name": "D", "lang": "en", "data": obj{"url": "https://x.example/_matrix/push/v1/notify"}},
	"setPushRule": {"actions": list{}}, "setPushRuleEnabled": {"enabled": true}, "setPushRuleActions": {"actions": list{}}, "refresh": {"refresh_token": "x"},
	"reportRoom": {"reason": "r"}, "reportUser": {"reason": "r"}, "upgradeRoom": {"new_version": "11"}, "search": {"search_categories": obj{}},
	"sendToDevice": {"messages": obj{}}, "setTyping": {"typing": false}, "searchUserDirectory": {"search_term": "x"},
}

// needs are the parameters in the query that an operation does not go without.
var needs = map[string]string{
	"getKeysChanges": "from=s0&to=s0", "getRoomEvents": "dir=b", "getMutualRooms": "user_id=@x:hs1", "checkUsernameAvailability": "username=free", "registrationTokenValidity": "token=x",
	"getEventByTimestamp": "ts=0&dir=f", "redirectToSSO": "redirectUrl=https://x.example/", "redirectToIdP": "redirectUrl=https://x.example/", "queryLocationByAlias": "alias=%23a:hs1", "queryUserByID": "userid=@x:hs1",
	"getContentThumbnail": "width=32&height=32", "getContentThumbnailAuthed": "width=32&height=32", "getUrlPreview": "url=https://x.example/", "getUrlPreviewAuthed": "url=https://x.example/", "peekEvents": "room_id=!x:hs1",
	"putRoomKeyBySessionId": "version=1", "getRoomKeyBySessionId": "version=1", "deleteRoomKeyBySessionId": "version=1", "putRoomKeysByRoomId": "version=1", "getRoomKeysByRoomId": "version=1",
	"deleteRoomKeysByRoomId": "version=1", "putRoomKeys": "version=1", "getRoomKeys": "version=1", "deleteRoomKeys": "version=1",
}

// withBody are the operations that take JSON.
const withBody = ` setAccountData setAccountDataPerRoom deactivateAccount setAdminSuspendUser setAdminLockUser post3PIDs add3PID bind3PID delete3pidFromAccount unbind3pidFromAccount
	requestTokenTo3PIDEmail updateAppserviceRoomDirectoryVisibility ban unban createRoom uploadCrossSigningKeys uploadCrossSigningSignatures updateDevice deleteDevice deleteDevices setRoomAlias
	inviteUser joinRoomById joinRoom postRoomKeysVersion putRoomKeysVersion putRoomKeyBySessionId putRoomKeysByRoomId putRoomKeys uploadKeys queryKeys claimKeys kick knockRoom leaveRoom
	setRoomVisibilityOnDirectory queryPublicRooms login generateLoginToken requestOpenIdToken changePassword requestTokenToResetPasswordEmail setPresence setProfileField postPusher setPushRule setPushRuleEnabled
	setPushRuleActions setReadMarker postReceipt redactEvent refresh register requestTokenToRegisterEmail reportEvent reportRoom reportUser sendMessage setRoomStateWithKey upgradeRoom search setRoomTag
	sendToDevice setTyping searchUserDirectory defineFilter pingAppservice `

// ends are the operations that take away the token that calls them.
const ends = " logout logout_all deactivateAccount "

// TestOperations makes the plain call of every operation that has a route, the same
// without a token, the same with another method, and those with broken bodies.
func TestOperations(t *testing.T) {
	t.Parallel()
	alice := newUser(t, "ops")
	id := alice.public()
	event := alice.say(id, "x")
	alice.sync()
	values := map[string]string{"roomId": id, "roomIdOrAlias": id, "userId": alice.id, "eventId": event, "eventType": "com.example.ops", "kind": "override", "deviceId": alice.device,
		"receiptType": "m.read", "roomAlias": "#ops:hs1", "stateKey": "k", "keyName": "displayname", "serverName": serverName, "type": "com.example.ops", "tag": "u.ops", "scope": "global",
		"ruleId": "ops", "relType": "m.annotation", "networkId": "net", "attr": "enabled", "txnId": "t", "mediaId": "none", "fileName": "f", "filterId": "f", "sessionId": "s", "version": "1", "protocol": "p",
		"appserviceId": "bridge", "idpId": "i", "status": "online"}
	ops := operations(t)
	path := func(o operation) string {
		p := pathParam.ReplaceAllStringFunc(o.path, func(name string) string {
			if name == "{txnId}" {
				return unique("t")
			}
			v, ok := values[strings.Trim(name, "{}")]
			if !ok {
				v = "x"
			}
			return esc(v)
		})
		if q := needs[o.id]; q != "" {
			p += "?" + q
		}
		return p
	}
	sane := func(t *testing.T, o operation, a answer) {
		t.Helper()
		code := a.At("errcode").String()
		if refused := o.route.Refuse != nil; a.status >= 500 && code != "M_NOT_YET_UPLOADED" || code == "M_UNRECOGNIZED" && !refused {
			t.Errorf("%s: %d %.200s", a.what, a.status, a.body)
		}
		if a.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: no CORS headers in a %d", a.what, a.status)
		}
	}

	for _, o := range ops {
		if !strings.Contains(withBody, " "+o.id+" ") && !strings.Contains(withBody, "\t"+o.id+" ") && !strings.Contains(withBody, " "+o.id+"\n") || o.route.Refuse != nil {
			continue
		}
		t.Run("broken body/"+o.id, func(t *testing.T) {
			u := &user{t: t, id: alice.id, token: alice.token}
			for _, b := range []struct{ name, body, code string }{
				{"cut off", `{"x":`, "M_NOT_JSON"}, {"trailing", `{} x`, "M_NOT_JSON"}, {"two", `{}{}`, "M_NOT_JSON"}, {"text", `x`, "M_NOT_JSON"}, {"not UTF-8", "{\"x\":\"\xff\"}", "M_NOT_JSON"},
				{"list", `[]`, "M_BAD_JSON|M_NOT_JSON"}, {"string", `"x"`, "M_BAD_JSON|M_NOT_JSON"}, {"number", `1`, "M_BAD_JSON|M_NOT_JSON"}, {"null", `null`, "M_BAD_JSON|M_NOT_JSON"}, {"true", `true`, "M_BAD_JSON|M_NOT_JSON"},
				{"deep", strings.Repeat(`{"a":`, 12000) + "1" + strings.Repeat("}", 12000), "M_BAD_JSON|M_NOT_JSON|M_TOO_LARGE"},
				{"deep lists", `{"a":` + strings.Repeat(`[`, 12000) + strings.Repeat("]", 12000) + `}`, "M_BAD_JSON|M_NOT_JSON|M_TOO_LARGE"},
			} {
				a := u.do(o.method, path(o), b.body)
				sane(t, o, a)
				want := a.status == 400 || a.status == 413
				if o.id == "setAdminSuspendUser" || o.id == "setAdminLockUser" || o.id == "pingAppservice" || o.id == "updateAppserviceRoomDirectoryVisibility" {
					want = want || a.status == 403 // who it is comes first
				}
				if !want || a.status == 400 && !strings.Contains("|"+b.code+"|", "|"+a.At("errcode").String()+"|") {
					t.Errorf("%s: %s: %d %.200s", b.name, a.what, a.status, a.body)
				}
			}
			full := plain[o.id]
			for k := range full {
				if o.id == "login" || o.id == "changePassword" || o.id == "deleteDevices" { // who has to prove it first
					continue
				}
				less := maps.Clone(full)
				delete(less, k)
				a := u.do(o.method, path(o), less)
				sane(t, o, a)
				if a.status == 403 && (strings.Contains(o.path, "/admin/") || o.id == "updateAppserviceRoomDirectoryVisibility") {
					continue
				}
				if code := a.At("errcode").String(); a.status != 400 || code != "M_MISSING_PARAM" && code != "M_BAD_JSON" && code != "M_INVALID_PARAM" {
					t.Errorf("without %s: %s: %d %.200s", k, a.what, a.status, a.body)
				}
				less[k] = json.RawMessage(`null`)
				sane(t, o, u.do(o.method, path(o), less))
			}
		})
	}
	if v := alice.sync(); v.Exists("rooms") || v.Exists("account_data") || v.Exists("to_device") {
		t.Errorf("broken requests changed something: %s", v.Text())
	}

	for _, o := range ops {
		t.Run(o.id, func(t *testing.T) {
			nobody := nobody(t)
			var body any
			if o.method != "GET" && o.route.MaxBody >= 0 {
				body = obj{}
				if b := plain[o.id]; b != nil {
					body = b
				}
			}
			a := nobody.do(o.method, path(o), body)
			sane(t, o, a)
			if o.route.Refuse == nil {
				missing := a.status == 401 && a.At("errcode").String() == "M_MISSING_TOKEN"
				// Where a token is optional, another proof may be needed instead.
				if needed := o.route.Auth == route.User || o.route.Auth == route.Admin; needed != missing && o.route.Auth != route.Optional {
					t.Errorf("without a token: %s: %d %.200s", a.what, a.status, a.body)
				}
				bad := user{t: t, token: "nonsense"}
				if a := bad.do(o.method, path(o), body); o.route.Auth != route.None && (a.status != 401 || a.At("errcode").String() != "M_UNKNOWN_TOKEN") {
					t.Errorf("with a wrong token: %s: %d %.200s", a.what, a.status, a.body)
				}
			}
			u := &user{t: t, id: alice.id, token: alice.token}
			if strings.Contains(ends, " "+o.id+" ") {
				u = newUser(t, "ends")
			}
			sane(t, o, u.do(o.method, path(o), body))
			if q := needs[o.id]; q != "" && o.route.Refuse == nil {
				for _, p := range strings.Split(q, "&") {
					rest := strings.Trim(strings.Replace("&"+q+"&", "&"+p+"&", "&", 1), "&")
					bare, _, _ := strings.Cut(path(o), "?")
					a := u.do(o.method, bare+"?"+rest, body)
					sane(t, o, a)
					if code := a.At("errcode").String(); a.status != 400 && !(a.status == 403 && code == "M_FORBIDDEN") {
						t.Errorf("without %s: %s: %d %.200s", p, a.what, a.status, a.body)
					}
				}
			}
			if a := nobody.do("PATCH", path(o), nil); a.status != 405 || a.At("errcode").String() != "M_UNRECOGNIZED" || a.header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("PATCH %s: %d %.200s", path(o), a.status, a.body)
			}
			if a := nobody.do("OPTIONS", path(o), nil); a.status/100 != 2 || !strings.Contains(a.header.Get("Access-Control-Allow-Methods"), o.method) || !strings.Contains(a.header.Get("Access-Control-Allow-Headers"), "Authorization") {
				t.Errorf("OPTIONS %s: %d %v", path(o), a.status, a.header)
			}
		})
	}
}

// TestQueries gives each parameter of a query values that it cannot have.
func TestQueries(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public(bob)
	event := alice.say(id, "x")
	const v1 = "/_matrix/client/v1"
	number := []string{"abc", "-1", "1.5", "100000000000000000000", "0x10", "%20"}
	boolean := []string{"maybe", "2"}
	word := []string{"x", "B"}
	token := []string{"x", "-1", "s", "sx", "%00"}
	for _, c := range []struct {
		path  string
		param map[string][]string
	}{
		{room(id) + "/messages?dir=b", map[string][]string{"limit": number, "from": token, "to": token, "dir": word, "filter": {"x", "%7B%22limit%22:%22x%22%7D", "%7B%22limit%22:-1%7D", "[]"}}},
		{room(id) + "/context/" + esc(event), map[string][]string{"limit": number, "filter": {"x"}}},
		{v1 + room(id) + "/relations/" + esc(event), map[string][]string{"limit": number, "from": token, "to": token, "dir": word, "recurse": boolean}},
		{v1 + room(id) + "/threads", map[string][]string{"limit": number, "include": word, "from": token}},
		{v1 + room(id) + "/timestamp_to_event?ts=1&dir=f", map[string][]string{"ts": number, "dir": word}},
		{v1 + room(id) + "/hierarchy", map[string][]string{"limit": number, "max_depth": number, "from": {"x", "-1", "1.5"}, "suggested_only": boolean}},
		{room(id) + "/members", map[string][]string{"membership": word, "not_membership": word, "at": {"x", "-1"}}},
		{room(id) + "/state/m.room.create", map[string][]string{"format": word}},
		{"/publicRooms", map[string][]string{"limit": number, "since": {"x", "-1"}}},
		{v1 + "/mutual_rooms?user_id=" + bob.id, map[string][]string{"user_id": {"x", "@", "@x", alice.id}, "from": {"x"}}},
		{"/sync", map[string][]string{"timeout": number, "since": token, "full_state": boolean, "set_presence": word, "filter": {"x", "%7B", "[]", "%7B%22room%22:1%7D", "%7B%22event_format%22:%22x%22%7D"}, "use_state_after": boolean}},
		{"/keys/changes?from=s0&to=s0", map[string][]string{"from": token, "to": token}},
		{"/user_directory/search", nil},
	} {
		base, rest, _ := strings.Cut(c.path, "?")
		for name, bad := range c.param {
			kept := ""
			for _, p := range strings.Split(rest, "&") {
				if p != "" && !strings.HasPrefix(p, name+"=") {
					kept += "&" + p
				}
			}
			for _, b := range bad {
				alice.fails(400, "M_INVALID_PARAM|M_BAD_JSON|M_NOT_JSON", "GET", base+"?"+name+"="+b+kept, nil)
			}
		}
		if c.param != nil {
			alice.ok("GET", c.path, nil)
		}
	}
	for _, b := range []string{`"x"`, `-1`, `1.5`, `1e20`} {
		alice.fails(400, "M_INVALID_PARAM|M_BAD_JSON", "POST", "/publicRooms", `{"limit":`+b+`}`)
		alice.fails(400, "M_INVALID_PARAM|M_BAD_JSON", "POST", "/user_directory/search", `{"search_term":"x","limit":`+b+`}`)
	}
}
