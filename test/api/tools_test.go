package api

import (
	"crypto/ed25519"
	"crypto/rand"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

// toolCalls are the requests that the administration tools for Synapse send, and those
// of Synapse's admin API that scripts know besides, with what is answered where that
// is not 200. In braces stands what the test makes.
const toolCalls = `
GET    /v1/server_version
GET    /_synapse/ess/version
GET    /v3/users?from=0&limit=10&suspended=false&shadow_banned=false
GET    /v3/users?suspended=perhaps 400
GET    /v2/users?from=0&limit=10&order_by=name&dir=f&guests=true&deactivated=false&locked=false
GET    /v3/users?from=0&limit=10&order_by=creation_ts&dir=b&guests=true&deactivated=false&locked=false&admins=false
GET    /v2/users/{user}
PUT    /v2/users/{user} {"displayname":"Alice"}
GET    /v1/users/{user}/admin
PUT    /v1/users/{user}/admin {"admin":false}
GET    /v1/users/{user}/joined_rooms
GET    /v1/users/{user}/memberships
GET    /v1/users/{user}/pushers
GET    /v1/users/{user}/accountdata
GET    /v1/users/{user}/media?from=0&limit=10&order_by=created_ts&dir=b
GET    /v1/users/{user}/sent_invite_count?from_ts=0
GET    /v1/users/{user}/cumulative_joined_room_count?from_ts=0
GET    /v1/users/{user}/override_ratelimit
POST   /v1/users/{user}/override_ratelimit {"messages_per_second":0,"burst_count":0}
DELETE /v1/users/{user}/override_ratelimit
POST   /v1/users/{user}/shadow_ban {} 403
DELETE /v1/users/{user}/shadow_ban 403
POST   /v1/users/{user}/login {}
POST   /v1/users/{user}/_allow_cross_signing_replacement_without_uia {} 404
GET    /v1/whois/{user}
GET    /v1/search_users/{user}?term=alice
GET    /v1/username_available?username={free}
GET    /v1/experimental_features/{user}
PUT    /v1/experimental_features/{user} {"features":{}}
POST   /v1/account_validity/validity {"user_id":"{user}"} 400
GET    /v1/threepid/email/users/nobody@example.org 404
GET    /v1/auth_providers/oidc/users/x 404
PUT    /v1/suspend/{user} {"suspend":false}
POST   /v1/reset_password/{user} {"new_password":"another long password","logout_devices":false}
GET    /v2/users/{user}/devices
POST   /v2/users/{user}/devices {"device_id":"TOOL"} 201
GET    /v2/users/{user}/devices/TOOL
PUT    /v2/users/{user}/devices/TOOL {"display_name":"Tool"}
DELETE /v2/users/{user}/devices/TOOL
POST   /v2/users/{user}/delete_devices {"devices":["TOOL"]}
GET    /v1/registration_tokens?valid=true
POST   /v1/registration_tokens/new {"token":"{token}","uses_allowed":1}
GET    /v1/registration_tokens/{token}
PUT    /v1/registration_tokens/{token} {"uses_allowed":2}
DELETE /v1/registration_tokens/{token}
GET    /v1/media/{server}/{media}
POST   /v1/media/protect/{media} {}
POST   /v1/media/unprotect/{media} {}
POST   /v1/media/quarantine/{server}/{media} {}
POST   /v1/media/unquarantine/{server}/{media} {}
DELETE /v1/media/{server}/{media}
POST   /v1/media/delete?before_ts=1000000000000&size_gt=0&keep_profiles=true {}
POST   /v1/media/{server}/delete?before_ts=1000000000000&size_gt=0&keep_profiles=true
POST   /v1/purge_media_cache?before_ts=1000000000000 {}
POST   /v1/user/{user}/media/quarantine {}
POST   /v1/room/{room}/media/quarantine {}
POST   /v1/quarantine_media/{room} {}
GET    /v1/room/{room}/media
DELETE /v1/users/{user}/media
GET    /v1/statistics/users/media?from=0&limit=10&order_by=media_length&dir=b&search_term=alice
GET    /v1/statistics/database/rooms
GET    /v1/rooms?from=0&limit=10&order_by=name&dir=f&search_term=x&public_rooms=true&empty_rooms=false
GET    /v1/rooms/{room}
GET    /v1/rooms/{room}/members
GET    /v1/rooms/{room}/state
GET    /v1/rooms/{room}/messages?limit=10&dir=b
GET    /v1/rooms/{room}/context/{event}?limit=10
GET    /v1/rooms/{room}/timestamp_to_event?ts=0&dir=f
GET    /v1/rooms/{room}/hierarchy?limit=10&max_depth=1
GET    /v1/rooms/{room}/forward_extremities
DELETE /v1/rooms/{room}/forward_extremities
GET    /v1/rooms/{room}/block
PUT    /v1/rooms/{room}/block {"block":false}
POST   /v1/rooms/{room}/make_room_admin {"user_id":"{user}"}
POST   /v1/join/{room} {"user_id":"{user}"}
GET    /v1/fetch_event/{event}
GET    /v1/event_reports?from=0&limit=10&dir=b
GET    /v1/event_reports/1000000000 404
DELETE /v1/event_reports/1000000000 404
GET    /v1/user_reports?from=0&limit=10&dir=b
GET    /v1/user_reports/1000000000 404
DELETE /v1/user_reports/1000000000 404
GET    /v1/background_updates/status
GET    /v1/background_updates/enabled
POST   /v1/background_updates/enabled {"enabled":true}
POST   /v1/background_updates/start_job {"job_name":"regenerate_directory"}
POST   /v1/background_updates/start_job {"job_name":"nothing"} 400
GET    /v1/federation/destinations?from=0&limit=10&order_by=destination&dir=f
GET    /v1/federation/destinations/elsewhere.example 404
GET    /v1/federation/destinations/elsewhere.example/rooms 404
POST   /v1/federation/destinations/elsewhere.example/reset_connection {} 404
POST   /v1/send_server_notice {"user_id":"{user}","content":{"msgtype":"m.text","body":"hello"}}
PUT    /v1/send_server_notice/{token} {"user_id":"{user}","content":{"msgtype":"m.text","body":"hello"}}
GET    /v1/scheduled_tasks?action_name=purge_history&resource_id={room}&status=complete&max_timestamp=1
POST   /v1/purge_history/{room} {"purge_up_to_ts":4000000000000,"delete_local_events":true}
GET    /v1/purge_history_status/nothing 404
POST   /v1/user/{user}/redact {"rooms":["{room}"],"reason":"x","limit":1}
GET    /v1/user/redact_status/nothing 404
GET    /v2/rooms/{room}/delete_status 404
GET    /v2/rooms/delete_status/nothing 404
DELETE /v2/rooms/{room} {"purge":true,"block":false}
DELETE /v1/rooms/!nowhere:{server} {"purge":true} 404
POST   /v1/deactivate/{other} {"erase":true}
`

// Every request of the tools has its answer, and only administrators get it.
func TestToolCalls(t *testing.T) {
	t.Parallel()
	root, alice, other := newAdmin(t), newUser(t, "alice"), newUser(t, "other")
	roomID := alice.create(obj{"name": "A room"})
	fill := strings.NewReplacer("{user}", alice.id, "{other}", other.id, "{room}", roomID, "{event}", alice.say(roomID, "hello"), "{server}", serverName,
		"{media}", alice.upload("a file"), "{token}", unique("token"), "{free}", unique("free"))
	path := strings.NewReplacer("{user}", esc(alice.id), "{other}", esc(other.id), "{room}", esc(roomID))
	for line := range strings.Lines(toolCalls) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		method, rest, _ := strings.Cut(line, " ")
		where, rest, _ := strings.Cut(strings.TrimSpace(rest), " ")
		want := 200
		if i := strings.LastIndexByte(rest, ' '); i >= 0 || rest != "" && rest[0] != '{' {
			if n, err := strconv.Atoi(rest[i+1:]); err == nil {
				want, rest = n, strings.TrimSpace(rest[:max(i, 0)])
			}
		}
		if !strings.HasPrefix(where, "/_synapse/") {
			where = "/_synapse/admin" + where
		}
		where = fill.Replace(path.Replace(where))
		var body any
		if rest != "" {
			body = fill.Replace(rest)
		}
		if !strings.Contains(where, "/whois/") { // people may ask it of themselves
			alice.fails(403, "M_FORBIDDEN", method, where, body)
		}
		nobody(t).fails(401, "M_MISSING_TOKEN", method, where, body)
		a := root.do(method, where, body)
		if a.status != want || a.At("errcode").String() == "M_UNRECOGNIZED" {
			t.Errorf("%s: %d %.300s, want %d", line, a.status, a.body, want)
		}
	}
}

func TestSynapseLook(t *testing.T) {
	t.Parallel()
	root, alice, bob := newAdmin(t), newUser(t, "alice"), newUser(t, "bob")
	space := alice.create(obj{"name": "Space", "creation_content": obj{"type": "m.space"}})
	roomID := alice.create(obj{"name": "Secret", "invite": list{bob.id}, "initial_state": list{obj{"type": "m.room.history_visibility", "content": obj{"history_visibility": "joined"}}}})
	alice.state(space, "m.space.child", roomID, obj{"via": list{serverName}})
	var said list
	for _, text := range []string{"one", "two", "three"} {
		said = append(said, alice.say(roomID, text))
	}
	bob.join(roomID)
	alice.event(roomID, "m.reaction", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": said[0], "key": "+"}})
	path := adminV1 + "/rooms/" + esc(roomID)

	// Messages: in both directions, by pages, with a filter; also what members who came
	// later do not see.
	same(t, "what bob sees", bodies(bob.ok("GET", room(roomID)+"/messages?dir=b&limit=100", nil).At("chunk")), list{})
	same(t, "backwards", bodies(root.ok("GET", path+"/messages?dir=b&limit=100", nil).At("chunk")), list{"three", "two", "one"})
	var all []string
	for from := ""; ; {
		v := root.ok("GET", path+"/messages?limit=3"+from, nil)
		all = append(all, bodies(v.At("chunk"))...)
		if !v.Exists("end") {
			break
		}
		from = "&from=" + v.At("end").String()
	}
	same(t, "forwards, by pages", all, list{"one", "two", "three"})
	only := url.QueryEscape(`{"types":["m.room.name"]}`)
	same(t, "filtered", types(root.ok("GET", path+"/messages?dir=f&filter="+only, nil).At("chunk")), list{"m.room.name"})
	e := root.ok("GET", path+"/messages?dir=b&limit=1&filter="+url.QueryEscape(`{"types":["m.room.message"]}`), nil).At("chunk", "0")
	same(t, "a member's own", e.At("unsigned").Exists("transaction_id"), false)
	same(t, "no membership", e.At("unsigned").Exists("membership"), false)
	for _, bad := range []string{"dir=x", "limit=-1", "from=x", "filter=x"} {
		if a := root.do("GET", path+"/messages?"+bad, nil); a.status != 400 {
			t.Errorf("%s: %d %s", bad, a.status, a.body)
		}
	}

	v := root.ok("GET", path+"/context/"+esc(said[1].(string))+"?limit=2", nil)
	same(t, "before", bodies(v.At("events_before")), list{"one"})
	same(t, "the event", v.At("event", "content", "body"), "two")
	same(t, "after", bodies(v.At("events_after")), list{"three"})
	if find(v.At("state"), "m.room.name", "").V == nil || v.At("start").String() == "" || v.At("end").String() == "" {
		t.Errorf("context: %s", v.Text())
	}
	root.fails(404, "M_NOT_FOUND", "GET", path+"/context/"+esc("$nothing"), nil)
	root.fails(404, "M_NOT_FOUND", "GET", adminV1+"/rooms/"+esc(space)+"/context/"+esc(said[0].(string)), nil)

	first := root.ok("GET", path+"/timestamp_to_event?ts=0", nil) // forwards, if nothing is said
	same(t, "the first event", root.ok("GET", adminV1+"/fetch_event/"+esc(first.At("event_id").String()), nil).At("event", "type"), "m.room.create")
	future := strconv.FormatInt(time.Now().Add(time.Hour).UnixMilli(), 10)
	same(t, "the last", root.ok("GET", path+"/timestamp_to_event?dir=b&ts="+future, nil).Exists("origin_server_ts"), true)
	root.fails(404, "M_NOT_FOUND", "GET", path+"/timestamp_to_event?dir=f&ts="+future, nil)

	v = root.ok("GET", adminV1+"/fetch_event/"+esc(said[2].(string)), nil).At("event")
	for k, want := range (obj{"event_id": said[2], "room_id": roomID, "sender": alice.id, "type": "m.room.message", "content": obj{"msgtype": "m.text", "body": "three"}, "prev_events": list{said[1]}}) {
		same(t, k, v.At(k), want)
	}
	for _, k := range []string{"auth_events", "depth", "hashes", "signatures", "origin_server_ts", "unsigned"} {
		same(t, k, v.Exists(k), true)
	}
	root.fails(404, "M_NOT_FOUND", "GET", adminV1+"/fetch_event/"+esc("$nothing"), nil)

	var seen list
	for _, r := range root.ok("GET", adminV1+"/rooms/"+esc(space)+"/hierarchy", nil).At("rooms").List() {
		seen = append(seen, r.At("room_id").String())
	}
	same(t, "hierarchy", seen, list{space, roomID})
	same(t, "one level", len(root.ok("GET", adminV1+"/rooms/"+esc(space)+"/hierarchy?max_depth=0", nil).At("rooms").List()), 1)
	page := root.ok("GET", adminV1+"/rooms/"+esc(space)+"/hierarchy?limit=1", nil)
	page = root.ok("GET", adminV1+"/rooms/"+esc(space)+"/hierarchy?limit=1&from="+url.QueryEscape(page.At("next_batch").String()), nil)
	same(t, "next page", page.At("rooms", "0", "room_id"), roomID)
	root.fails(403, "M_FORBIDDEN", "GET", "/_matrix/client/v1/rooms/"+esc(space)+"/hierarchy", nil) // as a person still not

	last := alice.say(roomID, "four")
	v = root.ok("GET", path+"/forward_extremities", nil)
	same(t, "one line", v.At("count"), 1)
	same(t, "its end", v.At("results", "0", "event_id"), last)
	same(t, "nothing to delete", root.ok("DELETE", path+"/forward_extremities", nil), obj{"deleted": 0})

	unknown := adminV1 + "/rooms/" + esc("!nothing:"+serverName)
	for _, rest := range []string{"/messages", "/context/" + esc(last), "/timestamp_to_event?ts=0", "/hierarchy", "/forward_extremities"} {
		root.fails(404, "M_NOT_FOUND", "GET", unknown+rest, nil)
	}

	// An administrator who is asked as a member is one like everybody else.
	root.fails(403, "M_FORBIDDEN", "GET", room(roomID)+"/messages?dir=b", nil)
}

func TestSynapseLargestRooms(t *testing.T) {
	t.Parallel()
	root, alice := newAdmin(t), newUser(t, "alice")
	roomID := alice.create(obj{})
	for range 40 {
		alice.say(roomID, strings.Repeat("long ", 10000))
	}
	v := root.ok("GET", adminV1+"/statistics/database/rooms", nil).At("rooms")
	before, found := 1<<62, false
	for _, r := range v.List() {
		n := r.At("estimated_size").Int()
		if n > before {
			t.Errorf("not by size: %s", v.Text())
		}
		before = n
		if r.At("room_id").String() == roomID {
			if found = true; n < 40*50000 {
				t.Errorf("size: %d", n)
			}
		}
	}
	if !found || len(v.List()) > 10 {
		t.Errorf("the largest rooms: %s", v.Text())
	}
}

func TestSynapseMakeRoomAdmin(t *testing.T) {
	t.Parallel()
	root, alice, bob := newAdmin(t), newUser(t, "alice"), newUser(t, "bob")
	for _, version := range []string{"1", "6", "11", "12"} {
		roomID := alice.create(obj{"room_version": version, "invite": list{bob.id}})
		bob.join(roomID)
		path := adminV1 + "/rooms/" + esc(roomID) + "/make_room_admin"
		// Without a name it is who asks, who is invited as well.
		same(t, "made", root.ok("POST", path, obj{}), obj{})
		same(t, "invited", alice.member(roomID, root.id), "invite")
		root.join(roomID)
		same(t, "bob", root.ok("POST", path, obj{"user_id": bob.id}), obj{})
		levels := bob.ok("GET", room(roomID)+"/state/m.room.power_levels", nil).At("users")
		if n := levels.At(bob.id).Int(); n < 100 || n != levels.At(root.id).Int() {
			t.Errorf("version %s: %s", version, levels.Text())
		}
		bob.state(roomID, "m.room.power_levels", "", obj{"users": levels.V, "state_default": 60})
		before := bob.ok("GET", room(roomID)+"/state/m.room.power_levels?format=event", nil).At("event_id")
		root.ok("POST", path, obj{"user_id": bob.id})
		same(t, "nothing to change", bob.ok("GET", room(roomID)+"/state/m.room.power_levels?format=event", nil).At("event_id"), before.V)
	}
	alias := "hall-" + unique("x")
	open := alice.create(obj{"preset": "public_chat", "room_alias_name": alias})
	root.ok("POST", adminV1+"/rooms/"+esc("#"+alias+":"+serverName)+"/make_room_admin", obj{})
	same(t, "not invited to what is open", alice.member(open, root.id), "")
	root.join(open)
	root.ok("PUT", room(open)+"/state/m.room.topic", obj{"topic": "mine"})

	// Nobody is there who could: the power went away with its owner.
	left := alice.create(obj{"invite": list{bob.id}})
	bob.join(left)
	alice.leave(left)
	root.fails(400, "M_UNKNOWN", "POST", adminV1+"/rooms/"+esc(left)+"/make_room_admin", obj{})
	path := adminV1 + "/rooms/" + esc(open) + "/make_room_admin"
	root.fails(404, "M_NOT_FOUND", "POST", adminV1+"/rooms/"+esc("!nothing:"+serverName)+"/make_room_admin", obj{})
	root.fails(404, "M_NOT_FOUND", "POST", path, obj{"user_id": "@nobody-at-all:" + serverName})
	root.fails(400, "M_INVALID_PARAM", "POST", path, obj{"user_id": "@x:elsewhere.example"})
	root.fails(400, "M_BAD_JSON", "POST", path, obj{"user_id": 1})
	banned := newUser(t, "banned")
	closed := alice.create(obj{})
	alice.ok("POST", room(closed)+"/ban", obj{"user_id": banned.id})
	root.fails(403, "M_FORBIDDEN", "POST", adminV1+"/rooms/"+esc(closed)+"/make_room_admin", obj{"user_id": banned.id})
	if levels := alice.ok("GET", room(closed)+"/state/m.room.power_levels", nil); levels.At("users").Exists(banned.id) {
		t.Errorf("done by half: %s", levels.Text())
	}
}

func TestSynapseJoin(t *testing.T) {
	t.Parallel()
	root, alice, bob := newAdmin(t), newUser(t, "alice"), newUser(t, "bob")
	alias := "hall-" + unique("x")
	open := alice.create(obj{"preset": "public_chat", "room_alias_name": alias})
	same(t, "by alias", root.ok("POST", adminV1+"/join/"+esc("#"+alias+":"+serverName), obj{"user_id": bob.id}), obj{"room_id": open})
	same(t, "joined", alice.member(open, bob.id), "join")
	root.ok("POST", adminV1+"/join/"+esc(open), obj{"user_id": bob.id}) // is there already

	// Into a closed room an administrator takes others only from within it.
	closed := alice.create(obj{"invite": list{root.id}})
	path := adminV1 + "/join/" + esc(closed)
	root.fails(403, "M_FORBIDDEN", "POST", path, obj{"user_id": bob.id})
	same(t, "nothing happened", alice.member(closed, bob.id), "")
	root.join(closed)
	root.ok("POST", path, obj{"user_id": bob.id})
	e := alice.ok("GET", room(closed)+"/state/m.room.member/"+esc(bob.id)+"?format=event", nil)
	same(t, "in", e.At("content", "membership"), "join")
	same(t, "by himself", e.At("sender"), bob.id)
	same(t, "invited by", e.At("unsigned", "prev_sender"), root.id)

	// Invited, or let in by another room: no further invitation.
	carol, dave := newUser(t, "carol"), newUser(t, "dave")
	alice.invite(closed, carol)
	root.leave(closed)
	root.ok("POST", path, obj{"user_id": carol.id})
	restricted := alice.create(obj{"initial_state": list{obj{"type": "m.room.join_rules", "content": obj{"join_rule": "restricted", "allow": list{obj{"type": "m.room_membership", "room_id": open}}}}}})
	root.fails(403, "M_FORBIDDEN", "POST", adminV1+"/join/"+esc(restricted), obj{"user_id": dave.id})
	root.ok("POST", adminV1+"/join/"+esc(restricted), obj{"user_id": bob.id})
	same(t, "let in", alice.ok("GET", room(restricted)+"/state/m.room.member/"+esc(bob.id), nil).At("join_authorised_via_users_server"), alice.id)
	own := alice.create(obj{})
	root.fails(403, "M_FORBIDDEN", "POST", adminV1+"/join/"+esc(own), obj{"user_id": root.id})

	alice.ok("POST", room(open)+"/ban", obj{"user_id": dave.id})
	root.fails(403, "M_FORBIDDEN", "POST", adminV1+"/join/"+esc(open), obj{"user_id": dave.id})
	root.ok("PUT", adminV1+"/rooms/"+esc(open)+"/block", obj{"block": true})
	root.fails(403, "M_FORBIDDEN", "POST", adminV1+"/join/"+esc(open), obj{"user_id": carol.id})
	root.fails(404, "M_NOT_FOUND", "POST", adminV1+"/join/"+esc("!nothing:"+serverName), obj{"user_id": carol.id})
	root.fails(404, "M_NOT_FOUND", "POST", adminV1+"/join/"+esc("#nothing:"+serverName), obj{"user_id": carol.id})
	root.fails(404, "M_NOT_FOUND", "POST", path, obj{"user_id": "@nobody-at-all:" + serverName})
	root.fails(400, "M_INVALID_PARAM", "POST", path, obj{"user_id": "@x:elsewhere.example"})
	root.fails(400, "M_MISSING_PARAM", "POST", path, obj{})
	root.ok("POST", adminV1+"/deactivate/"+esc(carol.id), obj{})
	root.fails(404, "M_NOT_FOUND", "POST", path, obj{"user_id": carol.id})
}

// An administrator lets a person who lost everything replace the cross-signing keys.
func TestSynapseAllowReset(t *testing.T) {
	t.Parallel()
	root, alice := newAdmin(t), newUser(t, "alice")
	keys := func() obj {
		pub, key, _ := ed25519.GenerateKey(rand.Reader)
		self, _, _ := ed25519.GenerateKey(rand.Reader)
		cross := func(usage string, k ed25519.PublicKey) obj {
			return obj{"user_id": alice.id, "usage": list{usage}, "keys": obj{"ed25519:" + b64(k): b64(k)}}
		}
		return obj{"master_key": cross("master", pub), "self_signing_key": signed(cross("self_signing", self), alice.id, "ed25519:"+b64(pub), key)}
	}
	path := userPath(adminV1, alice, "/_allow_cross_signing_replacement_without_uia")
	root.fails(404, "M_NOT_FOUND", "POST", path, obj{})
	alice.ok("POST", "/keys/device_signing/upload", keys())
	if a := alice.do("POST", "/keys/device_signing/upload", keys()); a.status != 401 {
		t.Errorf("without leave: %d %s", a.status, a.body)
	}
	until := time.UnixMilli(int64(root.ok("POST", path, obj{}).At("updatable_without_uia_before_ms").Int()))
	if left := time.Until(until); left < time.Minute || left > time.Hour {
		t.Errorf("until %s", until)
	}
	alice.ok("POST", "/keys/device_signing/upload", keys())
	bob := newUser(t, "bob")
	root.fails(404, "M_NOT_FOUND", "POST", userPath(adminV1, bob, "/_allow_cross_signing_replacement_without_uia"), obj{})
}

// Who judges what was quarantined has to see it; nobody else does.
func TestQuarantinedMediaForAdministrators(t *testing.T) {
	t.Parallel()
	root, alice := newAdmin(t), newUser(t, "alice")
	media := alice.upload("evidence")
	root.ok("POST", "/_synapse/admin/v1/media/quarantine/"+serverName+"/"+media, obj{})
	path := "/_matrix/client/v1/media/download/" + serverName + "/" + media
	const bypass = "?admin_unsafely_bypass_quarantine=true"
	if a := root.do("GET", path+bypass, nil); a.status != 200 || string(a.body) != "evidence" {
		t.Errorf("the administrator gets %d %s", a.status, a.body)
	}
	root.fails(404, "M_NOT_FOUND", "GET", path, nil)
	alice.fails(404, "M_NOT_FOUND", "GET", path+bypass, nil)
	nobody(t).fails(404, "M_NOT_FOUND", "GET", "/_matrix/media/v3/download/"+serverName+"/"+media+bypass, nil)
}
