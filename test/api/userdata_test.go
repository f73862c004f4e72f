package api

import (
	"strings"
	"testing"
)

func TestProfile(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public(bob)
	p := "/profile/" + alice.id
	same(t, "at first", bob.ok("GET", p, nil).At("displayname"), alice.localpart())
	alice.ok("PUT", p+"/displayname", obj{"displayname": "Alice ✓"})
	alice.ok("PUT", p+"/avatar_url", obj{"avatar_url": "mxc://hs1/abc"})
	same(t, "profile", nobody(t).ok("GET", p, nil), obj{"displayname": "Alice ✓", "avatar_url": "mxc://hs1/abc"})
	same(t, "displayname", nobody(t).ok("GET", p+"/displayname", nil), obj{"displayname": "Alice ✓"})
	same(t, "avatar_url", nobody(t).ok("GET", p+"/avatar_url", nil), obj{"avatar_url": "mxc://hs1/abc"})
	m := bob.ok("GET", room(id)+"/state/m.room.member/"+esc(alice.id), nil)
	same(t, "in the room", m.At("displayname"), "Alice ✓")
	same(t, "in the room", m.At("avatar_url"), "mxc://hs1/abc")
	same(t, "in a new room", alice.ok("GET", room(alice.create(obj{}))+"/state/m.room.member/"+esc(alice.id), nil).At("displayname"), "Alice ✓")
	bob.fails(403, "M_FORBIDDEN", "PUT", p+"/displayname", obj{"displayname": "x"})
	nobody(t).fails(401, "M_MISSING_TOKEN", "PUT", p+"/displayname", obj{"displayname": "x"})
	alice.fails(400, "M_BAD_JSON|M_INVALID_PARAM", "PUT", p+"/displayname", obj{"displayname": 3})
	alice.fails(400, "M_MISSING_PARAM|M_BAD_JSON", "PUT", p+"/displayname", obj{})
	alice.fails(400, "M_BAD_JSON|M_INVALID_PARAM", "PUT", p+"/avatar_url", obj{"avatar_url": list{}})
	alice.ok("PUT", p+"/displayname", obj{"displayname": ""})
	same(t, "removed", bob.ok("GET", p, nil).Exists("displayname"), false)
	same(t, "removed in the room", bob.ok("GET", room(id)+"/state/m.room.member/"+esc(alice.id), nil).Exists("displayname"), false)
	for _, path := range []string{"/profile/@nobody:hs1", "/profile/@nobody:hs1/displayname", "/profile/@nobody:hs1/avatar_url"} {
		bob.fails(404, "M_NOT_FOUND", "GET", path, nil)
	}
	alice.ok("PUT", p+"/com.example.field", obj{"com.example.field": obj{"a": 1}})
	same(t, "own field", bob.ok("GET", p+"/com.example.field", nil), obj{"com.example.field": obj{"a": 1}})
	alice.ok("DELETE", p+"/com.example.field", nil)
	bob.fails(404, "M_NOT_FOUND", "GET", p+"/com.example.field", nil)
	alice.fails(400, "M_BAD_JSON|M_MISSING_PARAM", "PUT", p+"/com.example.field", obj{"other": 1})
	alice.fails(400, "M_PROFILE_TOO_LARGE|M_TOO_LARGE", "PUT", p+"/com.example.big", obj{"com.example.big": strings.Repeat("x", 70000)})
	alice.fails(400, "M_KEY_TOO_LARGE", "PUT", p+"/"+strings.Repeat("x", 256), obj{strings.Repeat("x", 256): 1})
}

func TestAccountData(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public()
	for _, base := range []string{"/user/" + alice.id, "/user/" + alice.id + "/rooms/" + esc(id)} {
		p := base + "/account_data/com.example"
		alice.fails(404, "M_NOT_FOUND", "GET", p, nil)
		alice.ok("PUT", p, obj{"a": obj{"b": list{1, "x"}}})
		same(t, "data", alice.ok("GET", p, nil), obj{"a": obj{"b": list{1, "x"}}})
		bob.fails(403, "M_FORBIDDEN", "GET", p, nil)
		bob.fails(403, "M_FORBIDDEN", "PUT", p, obj{})
		alice.fails(400, "M_BAD_JSON|M_NOT_JSON", "PUT", p, list{})
		alice.fails(400, "M_NOT_JSON", "PUT", p, "{")
		alice.fails(405, "M_BAD_JSON", "PUT", base+"/account_data/m.fully_read", obj{"event_id": "$x"})
		alice.fails(405, "M_BAD_JSON", "PUT", base+"/account_data/m.push_rules", obj{})
	}
	alice.fails(400, "M_INVALID_PARAM", "PUT", "/user/"+alice.id+"/rooms/nonsense/account_data/x", obj{})
	tags := "/user/" + alice.id + "/rooms/" + esc(id) + "/tags"
	same(t, "no tags", alice.ok("GET", tags, nil).At("tags"), obj{})
	alice.ok("PUT", tags+"/m.favourite", obj{"order": 0.25})
	alice.ok("PUT", tags+"/u.x", nil)
	same(t, "tags", alice.ok("GET", tags, nil).At("tags"), obj{"m.favourite": obj{"order": 0.25}, "u.x": obj{}})
	alice.ok("DELETE", tags+"/u.x", nil)
	same(t, "tags", alice.ok("GET", tags, nil).At("tags"), obj{"m.favourite": obj{"order": 0.25}})
	bob.fails(403, "M_FORBIDDEN", "GET", tags, nil)
	bob.fails(403, "M_FORBIDDEN", "PUT", tags+"/u.x", obj{})
	alice.fails(400, "M_BAD_JSON|M_INVALID_PARAM", "PUT", tags+"/u.x", obj{"order": "x"})
}

func TestPushRules(t *testing.T) {
	t.Parallel()
	alice := newUser(t, "alice")
	for _, p := range []string{"/pushrules/", "/pushrules", "/_matrix/client/r0/pushrules/"} {
		v := alice.ok("GET", p, nil)
		for _, kind := range []string{"override", "content", "room", "sender", "underride"} {
			if !v.At("global").Exists(kind) {
				t.Errorf("%s: no %s", p, kind)
			}
		}
	}
	same(t, ".m.rule.master", alice.ok("GET", "/pushrules/global/override/.m.rule.master", nil).At("enabled").V, false)
	same(t, "global", alice.ok("GET", "/pushrules/global/", nil).Exists("override"), true)
	alice.ok("PUT", "/pushrules/global/override/.m.rule.master/enabled", obj{"enabled": true})
	same(t, "enabled", alice.ok("GET", "/pushrules/global/override/.m.rule.master/enabled", nil), obj{"enabled": true})
	alice.ok("PUT", "/pushrules/global/underride/.m.rule.message/actions", obj{"actions": list{}})
	same(t, "actions", alice.ok("GET", "/pushrules/global/underride/.m.rule.message/actions", nil), obj{"actions": list{}})

	body := obj{"actions": list{"notify", obj{"set_tweak": "sound", "value": "default"}}}
	put := func(kind, rule string, extra obj) {
		t.Helper()
		b := obj{"actions": body["actions"]}
		for k, v := range extra {
			b[k] = v
		}
		alice.ok("PUT", "/pushrules/global/"+kind+"/"+rule, b)
	}
	put("content", "one", obj{"pattern": "cake*lie"})
	put("content", "two", obj{"pattern": "x"})
	put("room", "%21room:hs1", nil)
	put("sender", "%40bob:hs1", nil)
	put("override", "cond", obj{"conditions": list{obj{"kind": "event_match", "key": "type", "pattern": "m.x"}}})
	put("underride", "under", obj{"conditions": list{}})
	v := alice.ok("GET", "/pushrules/global/content/one", nil)
	same(t, "rule", v, obj{"rule_id": "one", "default": false, "enabled": true, "pattern": "cake*lie", "actions": body["actions"]})
	alice.ok("PUT", "/pushrules/global/content/three?before=one", obj{"actions": list{}, "pattern": "y"})
	alice.ok("PUT", "/pushrules/global/content/four?after=one", obj{"actions": list{}, "pattern": "y"})
	var order []string
	for _, r := range alice.ok("GET", "/pushrules/", nil).At("global", "content").List() {
		if !r.At("default").Bool() {
			order = append(order, r.At("rule_id").String())
		}
	}
	same(t, "order", order, list{"two", "three", "one", "four"})
	alice.ok("DELETE", "/pushrules/global/content/two", nil)
	alice.fails(404, "M_NOT_FOUND", "GET", "/pushrules/global/content/two", nil)
	for _, c := range []struct {
		method, path string
		body         any
		status       int
		code         string
	}{
		{"DELETE", "/pushrules/global/content/two", nil, 404, "M_NOT_FOUND"},
		{"DELETE", "/pushrules/global/override/.m.rule.master", nil, 400, "M_INVALID_PARAM|M_UNKNOWN|M_FORBIDDEN|M_CANNOT_DELETE_DEFAULT_RULE"},
		{"PUT", "/pushrules/global/override/.mine", obj{"actions": list{}, "conditions": list{}}, 400, "M_INVALID_PARAM|M_UNKNOWN"},
		{"PUT", "/pushrules/global/content/x", obj{"actions": list{}}, 400, "M_MISSING_PARAM|M_BAD_JSON|M_INVALID_PARAM"},
		{"PUT", "/pushrules/global/content/x", obj{"pattern": "x"}, 400, "M_MISSING_PARAM|M_BAD_JSON"},
		{"PUT", "/pushrules/global/content/x", obj{"pattern": "x", "actions": "notify"}, 400, "M_BAD_JSON"},
		{"PUT", "/pushrules/global/content/x", obj{"pattern": 1, "actions": list{}}, 400, "M_BAD_JSON"},
		{"PUT", "/pushrules/global/content/x?before=nothing", obj{"pattern": "x", "actions": list{}}, 400, "M_NOT_FOUND|M_UNKNOWN"},
		{"PUT", "/pushrules/global/nonsense/x", obj{"actions": list{}}, 400, "M_INVALID_PARAM|M_UNRECOGNIZED|M_UNKNOWN"},
		{"GET", "/pushrules/global/nonsense/x", nil, 404, "M_NOT_FOUND"},
		{"GET", "/pushrules/device/override/.m.rule.master", nil, 404, "M_UNRECOGNIZED"},
		{"PUT", "/pushrules/device/content/x", obj{"pattern": "x", "actions": list{}}, 404, "M_UNRECOGNIZED"},
		{"GET", "/pushrules/device/", nil, 404, "M_UNRECOGNIZED"},
		{"GET", "/pushrules/global/override/nothing/enabled", nil, 404, "M_NOT_FOUND"},
		{"GET", "/pushrules/global/override/nothing/actions", nil, 404, "M_NOT_FOUND"},
		{"PUT", "/pushrules/global/override/nothing/enabled", obj{"enabled": true}, 404, "M_NOT_FOUND"},
		{"PUT", "/pushrules/global/override/nothing/actions", obj{"actions": list{}}, 404, "M_NOT_FOUND"},
		{"PUT", "/pushrules/global/override/.m.rule.master/enabled", obj{"enabled": "x"}, 400, "M_BAD_JSON"},
	} {
		alice.fails(c.status, c.code, c.method, c.path, c.body)
	}
}

func TestUserDirectory(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	name := unique("Zebedee")
	bob.ok("PUT", "/profile/"+bob.id+"/displayname", obj{"displayname": name})
	alice.public(bob)
	v := alice.ok("POST", "/user_directory/search", obj{"search_term": strings.ToLower(name), "limit": 5})
	same(t, "found", v.At("results", "0", "user_id"), bob.id)
	same(t, "display_name", v.At("results", "0", "display_name"), name)
	same(t, "limited", v.At("limited").V, false)
	same(t, "nobody", len(alice.ok("POST", "/user_directory/search", obj{"search_term": "nobody-is-called-this"}).At("results").List()), 0)
	alice.fails(400, "M_BAD_JSON", "POST", "/user_directory/search", obj{"search_term": 3})
	alice.fails(400, "M_BAD_JSON", "POST", "/user_directory/search", obj{"search_term": "x", "limit": "y"})
	alice.fails(400, "M_MISSING_PARAM|M_BAD_JSON", "POST", "/user_directory/search", obj{})
	v = alice.ok("GET", "/_matrix/client/v1/mutual_rooms?user_id="+bob.id, nil)
	same(t, "mutual rooms", len(v.At("joined").List()), 1)
}
