package api

import (
	"strings"
	"testing"
)

func TestNewcomers(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public()
	alice.sync()
	bob.ok("PUT", "/presence/"+bob.id+"/status", obj{"presence": "online", "status_msg": "here"})
	bob.join(id)
	v := alice.until("a join", func(v Value) bool {
		return find(v.At("rooms", "join", id, "timeline", "events"), "m.room.member", bob.id).V != nil
	})
	has := func(v Value, who *user) bool {
		for _, e := range v.At("presence", "events").List() {
			if e.At("sender").String() == who.id {
				return true
			}
		}
		return false
	}
	same(t, "presence of who joined", has(v, bob), true)
	v = bob.sync()
	same(t, "presence of the members for who joined", has(v, alice), true)
	carol := newUser(t, "carol")
	carol.join(id)
	v = alice.until("device_lists", func(v Value) bool { return v.Exists("device_lists") })
	same(t, "device list of who joined", v.At("device_lists", "changed"), list{carol.id})
	// One's own device list.
	alice.sync()
	dk, _ := alice.deviceKeys()
	alice.ok("POST", "/keys/upload", obj{"device_keys": dk})
	v = alice.until("device_lists", func(v Value) bool { return v.Exists("device_lists") })
	same(t, "own device list", v.At("device_lists", "changed"), list{alice.id})
	same(t, "no keys", bob.ok("POST", "/keys/query", obj{"device_keys": obj{bob.id: list{}}}).At("device_keys", bob.id), obj{})
}

func TestDeletedTags(t *testing.T) {
	t.Parallel()
	alice := newUser(t, "alice")
	id := alice.public()
	tags := "/user/" + alice.id + "/rooms/" + esc(id) + "/tags"
	alice.ok("PUT", tags+"/u.x", obj{})
	alice.sync()
	alice.ok("DELETE", tags+"/u.x", nil)
	same(t, "deleted", find(alice.sync().At("rooms", "join", id, "account_data", "events"), "m.tag", "*").At("content"), obj{"tags": obj{}})
	// Push rules come with a sync.
	alice.ok("PUT", "/pushrules/global/room/"+esc(id), obj{"actions": list{}})
	v := alice.sync()
	same(t, "push rules", find(v.At("account_data", "events"), "m.push_rules", "*").At("content", "global", "room", "0", "rule_id"), id)
}

func TestDeparted(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public(bob)
	alice.state(id, "m.room.name", "", obj{"name": "before"})
	bob.sync()
	since := bob.since
	alice.say(id, "seen")
	bob.leave(id)
	alice.say(id, "unseen")
	alice.state(id, "m.room.name", "", obj{"name": "after"})
	got := bodies(bob.ok("GET", room(id)+"/messages?dir=f&limit=100&from="+since, nil).At("chunk"))
	same(t, "forward", got, list{"seen"})
	same(t, "name", bob.ok("GET", room(id)+"/state/m.room.name", nil).At("name"), "before")
	bob.fails(403, "M_FORBIDDEN", "POST", room(id)+"/invite", obj{"user_id": "@x:hs1"})
	bob.fails(403, "M_FORBIDDEN", "POST", room(id)+"/ban", obj{"user_id": alice.id})
	bob.fails(403, "M_FORBIDDEN", "POST", room(id)+"/kick", obj{"user_id": alice.id})
	// Kicked, forgotten, asked back.
	bob.join(id)
	alice.ok("POST", room(id)+"/kick", obj{"user_id": bob.id})
	bob.ok("POST", room(id)+"/forget", nil)
	bob.join(id)
	bob.leave(id)
	bob.sync()
	alice.invite(id, bob)
	same(t, "invited again", bob.sync().At("rooms", "invite").Keys(), list{id})
	bob.join(id)
	same(t, "all of it", bodies(bob.ok("GET", room(id)+"/messages?dir=b&limit=100", nil).At("chunk")), list{"unseen", "seen"})
}

func TestPowerLevelShapes(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.create(obj{"preset": "public_chat", "room_version": "11", "power_level_content_override": obj{"users": obj{alice.id: 100}, "events_default": 50}})
	bob.join(id)
	bob.fails(403, "M_FORBIDDEN", "PUT", room(id)+"/send/m.room.message/1", obj{"body": "x"})
	alice.ok("PUT", room(id)+"/state/m.room.power_levels", obj{"users": obj{alice.id: 100}})
	bob.say(id, "default 0")
	alice.ok("PUT", room(id)+"/state/m.room.power_levels", obj{})
	alice.fails(403, "M_FORBIDDEN", "PUT", room(id)+"/state/m.room.power_levels", obj{"users": obj{alice.id: 100}})
	// What nobody could send, in each version's own counting of the rules.
	for _, version := range []string{"10", "11", "12"} {
		id := alice.create(obj{"room_version": version})
		for _, bad := range []obj{{"ban": "50"}, {"events": list{}}, {"users": list{}}, {"users": obj{"nonsense": 1}}, {"notifications": obj{"room": 1.0, "x": "y"}}} {
			alice.fails(400, "M_BAD_JSON", "PUT", room(id)+"/state/m.room.power_levels", bad)
		}
		alice.fails(400, "M_BAD_JSON", "PUT", room(id)+"/state/m.room.member/"+esc(alice.id), obj{"membership": "nonsense"})
	}
	// Version 12: creators stand above.
	id = alice.create(obj{"preset": "public_chat", "room_version": "12"})
	bob.join(id)
	alice.fails(400, "M_BAD_JSON|M_INVALID_PARAM|M_FORBIDDEN", "PUT", room(id)+"/state/m.room.power_levels", obj{"users": obj{"nonsense": 1}})
	alice.ok("PUT", room(id)+"/state/m.room.power_levels", obj{"users": obj{bob.id: 9007199254740991}})
	bob.fails(403, "M_FORBIDDEN", "POST", room(id)+"/kick", obj{"user_id": alice.id})
	alice.ok("POST", room(id)+"/kick", obj{"user_id": bob.id})
}

func TestMediaTypes(t *testing.T) {
	t.Parallel()
	alice := newUser(t, "alice")
	for ct, want := range map[string]string{"text/plain": "inline", "text/plain; charset=utf-8": "inline", "text/css": "inline", "text/csv": "inline", "image/png": "inline", "image/jpeg": "inline",
		"image/gif": "inline", "image/webp": "inline", "video/mp4": "inline", "audio/ogg": "inline", "application/json": "inline", "text/html": "attachment", "image/svg+xml": "attachment",
		"application/octet-stream": "attachment", "application/javascript": "attachment"} {
		a := alice.send("POST", "/_matrix/media/v3/upload?filename=name%3Btest.bin", ct, strings.NewReader("{}"))
		a = alice.do("GET", "/_matrix/client/v1/media/download/"+strings.TrimPrefix(a.At("content_uri").String(), "mxc://"), nil)
		cd := a.header.Get("Content-Disposition")
		if !strings.HasPrefix(cd, want) || !strings.Contains(cd, `filename="name;test.bin"`) {
			t.Errorf("%s: %q", ct, cd)
		}
	}
	for _, p := range []string{"/_matrix/media/v3/config", "/_matrix/media/r0/config", "/_matrix/client/v1/media/config"} {
		alice.ok("GET", p, nil)
	}
}

func TestUserNames(t *testing.T) {
	t.Parallel()
	n := nobody(t)
	plus := unique("a+b")
	same(t, "plus", n.ok("POST", "/register", obj{"username": plus, "password": "пароль пароль", "auth": dummy}).At("user_id"), "@"+plus+":"+serverName)
	n.ok("POST", "/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": plus}, "password": "пароль пароль"})
	n.fails(400, "M_INVALID_USERNAME|M_EXCLUSIVE", "POST", "/register", obj{"username": "", "password": password, "auth": dummy})
	n.fails(400, "M_WEAK_PASSWORD", "POST", "/register", obj{"username": unique("weak"), "password": "1", "auth": dummy})
	// The original password auth of a session: the user in the old place.
	u := newUser(t, "old")
	a := u.do("POST", "/account/password", obj{"new_password": "another good password"})
	u.ok("POST", "/account/password", obj{"new_password": "another good password", "auth": obj{"type": "m.login.password", "user": u.id, "password": password, "session": a.At("session").String()}})
	u.ok("POST", "/account/password", obj{"new_password": password, "auth": obj{"type": "m.login.password", "user": u.localpart(), "password": "another good password"}})
}

func TestProfileEverywhere(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	a, b := alice.public(bob), alice.public(bob)
	bob.sync()
	alice.ok("PUT", "/profile/"+alice.id+"/displayname", obj{"displayname": "New"})
	v := bob.sync()
	for _, id := range []string{a, b} {
		same(t, "renamed", find(v.At("rooms", "join", id, "timeline", "events"), "m.room.member", alice.id).At("content", "displayname"), "New")
	}
	// A name of one room only stays out of the profile.
	alice.state(a, "m.room.member", alice.id, obj{"membership": "join", "displayname": "Only here"})
	same(t, "profile", bob.ok("GET", "/profile/"+alice.id+"/displayname", nil).At("displayname"), "New")
	r := bob.ok("POST", "/user_directory/search", obj{"search_term": "Only here"})
	for _, p := range r.At("results").List() {
		if p.At("user_id").String() == alice.id {
			t.Errorf("the directory knows a room's name: %s", p.Text())
		}
	}
}

// TestUpgradeKeepsSettings: who follows to the new room finds the own tags, push
// rules and the mark as a direct chat there; a room that only says that it
// replaces another one gets nothing.
func TestUpgradeKeepsSettings(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	old := alice.public(bob)
	for _, u := range []*user{alice, bob} {
		u.ok("PUT", "/user/"+u.id+"/rooms/"+esc(old)+"/tags/m.favourite", obj{"order": 0.5})
		u.ok("PUT", "/pushrules/global/room/"+esc(old), obj{"actions": list{}})
		u.ok("PUT", "/pushrules/global/override/"+esc(old), obj{"actions": list{}, "conditions": list{obj{"kind": "event_match", "key": "room_id", "pattern": old}}})
		u.ok("PUT", "/pushrules/global/room/"+esc(old)+"/enabled", obj{"enabled": false})
		u.ok("PUT", "/user/"+u.id+"/account_data/m.direct", obj{"@x:hs1": list{old}})
	}
	has := func(u *user, id string) bool {
		t.Helper()
		tags := len(u.ok("GET", "/user/"+u.id+"/rooms/"+esc(id)+"/tags", nil).At("tags").Keys()) > 0
		rule := u.do("GET", "/pushrules/global/room/"+esc(id), nil)
		mute := u.do("GET", "/pushrules/global/override/"+esc(id), nil)
		direct := u.ok("GET", "/user/"+u.id+"/account_data/m.direct", nil).At("@x:hs1")
		listed := strings.Contains(direct.Text(), id)
		if tags != (rule.status == 200) || tags != (mute.status == 200) || tags != listed {
			t.Errorf("%s: tags %v, rule %d, mute %d, direct %s", id, tags, rule.status, mute.status, direct.Text())
		}
		if tags {
			same(t, "a rule that is off", rule.At("enabled").V, false)
			same(t, "condition", mute.At("conditions", "0", "pattern"), id)
			same(t, "the old room's", u.ok("GET", "/pushrules/global/override/"+esc(old), nil).At("conditions", "0", "pattern"), old)
		}
		return tags
	}
	false1 := alice.create(obj{"preset": "public_chat", "creation_content": obj{"predecessor": obj{"room_id": old}}})
	bob.join(false1)
	same(t, "a false successor", has(bob, false1), false)
	bob.sync()
	next := alice.ok("POST", room(old)+"/upgrade", obj{"new_version": "12"}).At("replacement_room").String()
	same(t, "who upgrades", has(alice, next), true)
	same(t, "before joining", has(bob, next), false)
	bob.join(next)
	same(t, "who follows", has(bob, next), true)
	v := bob.sync()
	same(t, "in /sync", find(v.At("rooms", "join", next, "account_data", "events"), "m.tag", "*").At("content", "tags"), obj{"m.favourite": obj{"order": 0.5}})
	if find(v.At("account_data", "events"), "m.push_rules", "*").V == nil || find(v.At("account_data", "events"), "m.direct", "*").V == nil {
		t.Errorf("account data of the sync: %v", types(v.At("account_data", "events")))
	}
	// What is set in the new room is not set again by joining once more.
	bob.ok("DELETE", "/user/"+bob.id+"/rooms/"+esc(next)+"/tags/m.favourite", nil)
	bob.leave(next)
	bob.join(next)
	same(t, "tags after another join", bob.ok("GET", "/user/"+bob.id+"/rooms/"+esc(next)+"/tags", nil).At("tags"), obj{})
}

// TestThreadInThread: a thread begins at an event that relates to no other; a
// plain reply may begin one.
func TestThreadInThread(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public(bob)
	relate := func(relType, to string) obj {
		return obj{"msgtype": "m.text", "body": "x", "m.relates_to": obj{"rel_type": relType, "event_id": to}}
	}
	root := alice.say(id, "root")
	for _, relType := range []string{"m.thread", "m.reference", "m.replace"} {
		e := alice.event(id, "m.room.message", relate(relType, root))
		bob.fails(400, "M_UNKNOWN", "PUT", room(id)+"/send/m.room.message/"+unique("t"), relate("m.thread", e))
	}
	reply := alice.event(id, "m.room.message", obj{"msgtype": "m.text", "body": "x", "m.relates_to": obj{"m.in_reply_to": obj{"event_id": root}}})
	bob.event(id, "m.room.message", relate("m.thread", reply))
	bob.event(id, "m.room.message", relate("m.thread", root))
	var roots []string
	for _, e := range alice.ok("GET", "/_matrix/client/v1"+room(id)+"/threads", nil).At("chunk").List() {
		roots = append(roots, e.At("event_id").String())
	}
	same(t, "threads", roots, list{root, reply})
}
