package api

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"holdfast/homeserver/hstest"
)

// fields are the names of members that some request has, at any depth.
var fields = []string{
	"action", "actions", "add", "additional_creators", "algorithm", "allow", "alias", "alt_aliases", "auth", "auth_data", "avatar_url", "conditions",
	"content", "creation_content", "device_data", "device_id", "device_keys", "devices", "devices_to_delete", "displayname", "display_name", "enabled",
	"event_id", "events", "events_default", "fallback_keys", "filter", "first_message_index", "identifier", "include_all_networks", "inhibit_login",
	"initial_device_display_name", "initial_state", "invite", "invite_3pid", "is_direct", "join_rule", "keys", "limit", "logout_devices", "m.fully_read",
	"m.mentions", "m.new_content", "m.read", "m.read.private", "m.relates_to", "mac", "master_key", "membership", "messages", "name", "new_password", "new_version", "nonce",
	"one_time_keys", "order", "password", "pattern", "power_level_content_override", "predecessor", "preset", "presence", "reason", "redacts", "refresh_token",
	"room", "room_alias_name", "room_id", "room_version", "rooms", "search_term", "self_signing_key", "server", "sessions", "since", "state",
	"status_msg", "thread_id", "timeline", "timeout", "token", "topic", "type", "types", "typing", "url", "user", "user_id", "user_signing_key", "username",
	"users", "users_default", "version", "visibility", "via", "third_party_signed", "replacement_room", "history_visibility", "delay_id", "delay_ms", "session_data",
}

// wrong are values that no field, or few, can take.
var wrong = []string{`null`, `true`, `0`, `-1`, `1.5`, `1e400`, `9007199254740993`, `""`, `"\u0000"`, `"\ud800"`, `[]`, `[null]`, `[[]]`, `[{}]`, `[1]`, `["x"]`, `{}`, `{"":null}`,
	`{"x":null}`, `{"x":[]}`, `{"x":{"y":null}}`, `{"x":{"y":1}}`, `{"x":{"y":{"z":null}}}`, `{"@a:hs1":{"D":null}}`, `{"type":null}`, `[{"type":1}]`, `[{"type":"m.room.member","state_key":"x","content":{"membership":3}}]`}

var all = flag.Bool("all", false, "send each field with every wrong value, not with some of them (minutes)")

// TestWrongTypes sends every request that takes a body with each field of each
// wrong type, and strange values in its path. Nothing may answer 5xx, but where
// the specification asks for it.
func TestWrongTypes(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := newUser(t, "types")
	id := alice.public()
	event := alice.say(id, "x")
	param := regexp.MustCompile(`\{[^}]*\}`)
	values := map[string]string{"{roomID}": id, "{userID}": alice.id, "{eventID}": event, "{eventType}": "m.room.message", "{kind}": "override", "{deviceID}": alice.device,
		"{receiptType}": "m.read", "{alias}": "#types:hs1", "{stateKey}": "", "{keyName}": "displayname", "{serverName}": serverName, "{action}": "send"}
	seen := map[string]bool{}
	for _, rt := range hs.Routes() {
		method, pattern, _ := strings.Cut(rt.Pattern, " ")
		pattern = strings.ReplaceAll(pattern, "{$}", "")
		if seen[rt.Op] || rt.MaxBody < 0 || rt.Op == "logout" || rt.Op == "logout_all" || rt.Op == "sync" {
			continue
		}
		seen[rt.Op] = true
		fill := func(with func(name string) string) string {
			return param.ReplaceAllStringFunc(pattern, func(p string) string { return esc(with(strings.Replace(p, "...", "", 1))) })
		}
		usual := fill(func(p string) string {
			if p == "{txnID}" {
				return unique("t")
			}
			if v, ok := values[p]; ok {
				return v
			}
			return "x"
		})
		page := strings.HasPrefix(rt.Op, "uia") || strings.HasPrefix(rt.Op, "unsubscribe") // for people
		t.Run(rt.Op, func(t *testing.T) {
			t.Parallel()
			u := &user{t: t, id: alice.id, token: alice.token}
			bad := func(a answer) {
				t.Helper()
				if a.status < 500 {
					if a.status >= 400 && a.status != 401 && a.At("errcode").String() == "" && rt.MaxBody >= 0 && !page {
						t.Errorf("%s: %d without a code: %.200s", a.what, a.status, a.body)
					}
					return
				}
				if codes := []string{"M_NOT_YET_UPLOADED"}; !slices.Contains(codes, a.At("errcode").String()) {
					t.Errorf("%s: %d %.300s", a.what, a.status, a.body)
				}
			}
			for _, odd := range []string{"x", "!", "@", "#:", "$", "!a:hs1", "@a:hs1", "\x00", "\xff", "é", "..", "a/b", "%", strings.Repeat("y", 300)} {
				path := fill(func(string) string { return odd })
				bad(u.do(method, path, nil))
				bad(u.do(method, path, obj{}))
			}
			for _, q := range []string{"limit=x", "limit=-1", "limit=99999999999999999999", "from=x", "from=s-1", "to=s99999999999999999", "since=s1_2_3", "dir=x", "filter=%00", "filter=%7B%22room%22:1%7D",
				"user_id=x", "ts=x", "version=x", "timeout=-5", "server=x", "at=x", "kind=x", "before=x&after=y", "%zz", "org.matrix.msc4140.delay=1e9"} {
				bad(u.do(method, usual+"?"+q, nil))
			}
			if method == http.MethodGet || method == http.MethodHead {
				return
			}
			for _, w := range wrong {
				if method != http.MethodDelete {
					bad(u.do(method, usual, w))
				}
			}
			for i, f := range fields {
				for k, w := range wrong {
					// Each field meets one of them, another one in each operation.
					if *all || (k+i*7+len(rt.Op)*3)%len(wrong) == 0 {
						bad(u.do(method, usual, fmt.Sprintf(`{%q:%s}`, f, w)))
					}
				}
			}
		})
	}
	if len(seen) < 100 {
		t.Errorf("only %d operations", len(seen))
	}
}

// TestWrongContents sends state and messages whose contents the server itself reads,
// with each field of each wrong type, and then reads the room in every way.
func TestWrongContents(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public(bob)
	target := alice.say(id, "x")
	for typ, names := range map[string][]string{
		"m.room.name": {"name"}, "m.room.topic": {"topic", "m.topic"}, "m.room.avatar": {"url", "info"}, "m.room.canonical_alias": {"alias", "alt_aliases"},
		"m.room.join_rules": {"join_rule", "allow"}, "m.room.history_visibility": {"history_visibility"}, "m.room.guest_access": {"guest_access"},
		"m.room.member":       {"membership", "displayname", "avatar_url", "join_authorised_via_users_server", "third_party_invite"},
		"m.room.power_levels": {"users", "events", "ban", "notifications", "users_default"}, "m.room.tombstone": {"replacement_room"}, "m.space.child": {"via", "order"},
		"m.room.encryption": {"algorithm"}, "m.room.server_acl": {"allow", "deny"}, "m.room.pinned_events": {"pinned"}, "m.room.third_party_invite": {"public_key", "public_keys"},
		"org.matrix.msc3401.call.member": {"memberships", "application"},
	} {
		key := ""
		if typ == "m.room.member" {
			key = alice.id
		}
		for _, n := range names {
			for _, w := range wrong {
				a := alice.do("PUT", room(id)+"/state/"+typ+"/"+esc(key), fmt.Sprintf(`{%q:%s}`, n, w))
				if a.status >= 500 {
					t.Errorf("%s %s %s: %d %.200s", typ, n, w, a.status, a.body)
				}
				if a.status == 200 && typ == "m.room.join_rules" {
					alice.state(id, typ, "", obj{"join_rule": "public"})
				}
			}
		}
	}
	for _, n := range []string{"body", "msgtype", "m.relates_to", "m.new_content", "m.mentions", "url", "format", "formatted_body"} {
		for _, w := range wrong {
			if a := bob.do("PUT", room(id)+"/send/m.room.message/"+unique("t"), fmt.Sprintf(`{%q:%s}`, n, w)); a.status >= 500 {
				t.Errorf("%s %s: %d %.200s", n, w, a.status, a.body)
			}
		}
	}
	for _, n := range []string{"rel_type", "event_id", "key", "m.in_reply_to", "is_falling_back"} {
		for _, w := range wrong {
			for _, rel := range []string{"m.annotation", "m.thread", "m.replace", "m.reference"} {
				var v any
				if json.Unmarshal([]byte(w), &v) != nil {
					continue
				}
				c := obj{"rel_type": rel, "event_id": target, "key": "k"}
				c[n] = json.RawMessage(w)
				if a := bob.do("PUT", room(id)+"/send/m.room.message/"+unique("t"), obj{"body": 1, "m.relates_to": c}); a.status >= 500 {
					t.Errorf("%s %s %s: %d %.200s", rel, n, w, a.status, a.body)
				}
			}
		}
	}
	alice.ok("GET", room(id)+"/state", nil)
	alice.ok("GET", room(id)+"/members", nil)
	alice.ok("GET", room(id)+"/joined_members", nil)
	alice.ok("GET", room(id)+"/messages?dir=b&limit=1000", nil)
	alice.ok("GET", room(id)+"/context/"+esc(target)+"?limit=100", nil)
	alice.ok("GET", "/_matrix/client/v1"+room(id)+"/relations/"+esc(target)+"?recurse=true", nil)
	alice.ok("GET", "/_matrix/client/v1"+room(id)+"/threads", nil)
	alice.ok("GET", "/_matrix/client/v1"+room(id)+"/hierarchy", nil)
	alice.ok("GET", "/_matrix/client/v1/room_summary/"+esc(id), nil)
	nobody(t).ok("GET", "/publicRooms", nil)
	for _, u := range []*user{alice, bob} {
		u.sync("full_state=true")
		u.sync(`filter={"room":{"state":{"lazy_load_members":true},"timeline":{"limit":100}}}`)
	}
	newUser(t, "late").join(id)
}
