package api

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestCreateRoom(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	get := func(id, typ string) Value { return alice.ok("GET", room(id)+"/state/"+typ, nil) }

	for _, c := range []struct{ name, preset, visibility, join, history, guests string }{
		{"no preset", "", "", "invite", "shared", "can_join"},
		{"private visibility", "", "private", "invite", "shared", "can_join"},
		{"public visibility", "", "public", "public", "shared", "forbidden"},
		{"private_chat", "private_chat", "", "invite", "shared", "can_join"},
		{"trusted_private_chat", "trusted_private_chat", "", "invite", "shared", "can_join"},
		{"public_chat", "public_chat", "", "public", "shared", "forbidden"},
		{"private_chat in the directory", "private_chat", "public", "invite", "shared", "can_join"},
	} {
		o := obj{}
		if c.preset != "" {
			o["preset"] = c.preset
		}
		if c.visibility != "" {
			o["visibility"] = c.visibility
		}
		id := alice.create(o)
		same(t, c.name+": join_rule", get(id, "m.room.join_rules").At("join_rule"), c.join)
		same(t, c.name+": history_visibility", get(id, "m.room.history_visibility").At("history_visibility"), c.history)
		same(t, c.name+": guest_access", get(id, "m.room.guest_access").At("guest_access"), c.guests)
		want := "private"
		if c.visibility == "public" {
			want = "public"
		}
		same(t, c.name+": visibility", alice.ok("GET", "/directory/list/room/"+esc(id), nil).At("visibility"), want)
	}

	// All at once, and the order of the first events.
	alias := unique("alias")
	id := alice.create(obj{"name": "A room", "topic": "What for", "room_alias_name": alias, "invite": list{bob.id}, "is_direct": true,
		"creation_content":             obj{"m.federate": false, "type": "m.space", "com.example": 1},
		"initial_state":                list{obj{"type": "m.room.history_visibility", "content": obj{"history_visibility": "joined"}}, obj{"type": "com.example.x", "state_key": "k", "content": obj{"a": 1}}, obj{"type": "m.room.encryption", "state_key": "", "content": obj{"algorithm": "m.megolm.v1.aes-sha2"}}},
		"power_level_content_override": obj{"events": obj{"m.room.name": 100}, "invite": 75}})
	same(t, "name", get(id, "m.room.name").At("name"), "A room")
	same(t, "topic", get(id, "m.room.topic").At("topic"), "What for")
	same(t, "alias", get(id, "m.room.canonical_alias").At("alias"), "#"+alias+":"+serverName)
	same(t, "initial_state before the preset", get(id, "m.room.history_visibility").At("history_visibility"), "joined")
	same(t, "initial_state", alice.ok("GET", room(id)+"/state/com.example.x/k", nil), obj{"a": 1})
	create := get(id, "m.room.create")
	same(t, "m.federate", create.At("m.federate").V, false)
	same(t, "room type", create.At("type"), "m.space")
	same(t, "creation_content", create.At("com.example").Int(), 1)
	pl := get(id, "m.room.power_levels")
	same(t, "override of invite", pl.At("invite").Int(), 75)
	same(t, "override of events", pl.At("events"), obj{"m.room.name": 100})
	same(t, "not overridden", pl.At("ban").Int(), 50)
	inv := alice.ok("GET", room(id)+"/state/m.room.member/"+esc(bob.id), nil)
	same(t, "invite", inv.At("membership"), "invite")
	same(t, "is_direct", inv.At("is_direct").Bool(), true)
	got := types(alice.ok("GET", room(id)+"/messages?dir=f&limit=100", nil).At("chunk"))
	if !slices.Equal(got[:4], []string{"m.room.create", "m.room.member", "m.room.power_levels", "m.room.canonical_alias"}) {
		t.Errorf("order: %v", got)
	}
	if i, j := slices.Index(got, "com.example.x"), slices.Index(got, "m.room.name"); i < 0 || i > j {
		t.Errorf("order: %v", got)
	}
	same(t, "last", got[len(got)-1], "m.room.member")

	// Trusted: who is invited has as much power as the creator.
	id = alice.create(obj{"preset": "trusted_private_chat", "room_version": "11", "invite": list{bob.id}})
	same(t, "power of a trusted guest", get(id, "m.room.power_levels").At("users", bob.id).Int(), 100)
	same(t, "power of the creator", get(id, "m.room.power_levels").At("users", alice.id).Int(), 100)
	id = alice.create(obj{"preset": "trusted_private_chat", "room_version": "12", "invite": list{bob.id}})
	same(t, "additional creators", get(id, "m.room.create").At("additional_creators"), list{bob.id})

	caps := alice.ok("GET", "/capabilities", nil).At("capabilities", "m.room_versions")
	same(t, "default version", get(alice.create(obj{}), "m.room.create").At("room_version"), caps.At("default").String())
	for _, v := range caps.At("available").Keys() {
		same(t, "room_version", get(alice.create(obj{"room_version": v}), "m.room.create").At("room_version"), v)
	}
	if id := alice.create(obj{"room_version": "12"}); strings.Contains(id, ":") {
		t.Errorf("room ID of version 12: %s", id)
	}

	for _, c := range []struct {
		name string
		body any
		code string
	}{
		{"unknown version", obj{"room_version": "ahfgwjyerhgiuveisbruvybseyrugvi"}, "M_UNSUPPORTED_ROOM_VERSION"},
		{"version of a wrong type", obj{"room_version": 1}, "M_BAD_JSON"},
		{"alias taken", obj{"room_alias_name": alias}, "M_ROOM_IN_USE"},
		{"alias with a server", obj{"room_alias_name": "#x:" + serverName}, "M_INVALID_PARAM|M_BAD_ALIAS"},
		{"alias of a wrong type", obj{"room_alias_name": 3}, "M_BAD_JSON"},
		{"visibility", obj{"visibility": "unknown"}, "M_INVALID_PARAM|M_BAD_JSON"},
		{"preset", obj{"preset": "unknown"}, "M_INVALID_PARAM|M_BAD_JSON"},
		{"invite", obj{"invite": list{"bob"}}, "M_INVALID_PARAM"},
		{"invite of a wrong type", obj{"invite": "x"}, "M_BAD_JSON"},
		{"invites of a wrong type", obj{"invite": list{1}}, "M_BAD_JSON"},
		{"name of a wrong type", obj{"name": obj{}}, "M_BAD_JSON"},
		{"topic of a wrong type", obj{"topic": list{}}, "M_BAD_JSON"},
		{"creation_content", obj{"creation_content": "x"}, "M_BAD_JSON"},
		{"initial_state", obj{"initial_state": "x"}, "M_BAD_JSON"},
		{"initial_state of strings", obj{"initial_state": list{"x"}}, "M_BAD_JSON"},
		{"initial_state without a type", obj{"initial_state": list{obj{"content": obj{}}}}, "M_BAD_JSON|M_MISSING_PARAM"},
		{"initial_state with content of a wrong type", obj{"initial_state": list{obj{"type": "x", "content": "y"}}}, "M_BAD_JSON"},
		{"override", obj{"power_level_content_override": "x"}, "M_BAD_JSON"},
		{"override with a string", obj{"power_level_content_override": obj{"ban": "x"}}, "M_BAD_JSON|M_INVALID_ROOM_STATE"},
		{"override of users", obj{"power_level_content_override": obj{"users": obj{"nobody": 3}}}, "M_BAD_JSON|M_INVALID_ROOM_STATE"},
		{"creator among the users of version 12", obj{"room_version": "12", "power_level_content_override": obj{"users": obj{alice.id: 100}}}, "M_BAD_JSON|M_INVALID_ROOM_STATE|M_INVALID_PARAM"},
	} {
		t.Run(c.name, func(t *testing.T) {
			(&user{t: t, token: alice.token}).fails(400, c.code, "POST", "/createRoom", c.body)
		})
	}
	nobody(t).fails(401, "M_MISSING_TOKEN", "POST", "/createRoom", obj{})
}

func TestMembership(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	carol := newUser(t, "carol")
	id := alice.create(obj{"preset": "private_chat", "room_version": "11"})

	bob.fails(403, "M_FORBIDDEN", "POST", room(id)+"/join", nil)
	bob.fails(403, "M_FORBIDDEN", "POST", room(id)+"/invite", obj{"user_id": carol.id})
	alice.fails(400, "M_MISSING_PARAM|M_BAD_JSON", "POST", room(id)+"/invite", obj{})
	alice.fails(400, "M_INVALID_PARAM", "POST", room(id)+"/invite", obj{"user_id": "bob"})
	alice.fails(400, "M_BAD_JSON", "POST", room(id)+"/invite", obj{"user_id": 3})
	alice.ok("POST", room(id)+"/invite", obj{"user_id": bob.id, "reason": "please"})
	e := alice.ok("GET", room(id)+"/state/m.room.member/"+esc(bob.id), nil)
	same(t, "reason", e.At("reason"), "please")
	alice.ok("POST", room(id)+"/invite", obj{"user_id": bob.id}) // again
	same(t, "joined by an empty body", bob.ok("POST", room(id)+"/join", nil).At("room_id"), id)
	same(t, "joined twice", bob.ok("POST", "/join/"+esc(id), nil).At("room_id"), id)
	alice.fails(403, "M_FORBIDDEN", "POST", room(id)+"/invite", obj{"user_id": bob.id})
	same(t, "joined_rooms", bob.ok("GET", "/joined_rooms", nil).At("joined_rooms"), list{id})
	same(t, "joined_members", len(alice.ok("GET", room(id)+"/joined_members", nil).At("joined").Keys()), 2)
	carol.fails(403, "M_FORBIDDEN", "GET", room(id)+"/joined_members", nil)

	// Kick, by who may.
	bob.fails(403, "M_FORBIDDEN", "POST", room(id)+"/kick", obj{"user_id": alice.id})
	alice.fails(403, "M_FORBIDDEN", "POST", room(id)+"/kick", obj{"user_id": carol.id})
	alice.ok("POST", room(id)+"/kick", obj{"user_id": bob.id, "reason": "enough"})
	v := alice.ok("GET", room(id)+"/state/m.room.member/"+esc(bob.id), nil)
	same(t, "kicked", v.At("membership"), "leave")
	same(t, "why", v.At("reason"), "enough")
	alice.fails(400, "M_MISSING_PARAM|M_BAD_JSON", "POST", room(id)+"/kick", obj{})

	// Ban.
	alice.ok("POST", room(id)+"/ban", obj{"user_id": bob.id, "reason": "really"})
	same(t, "banned", alice.member(id, bob.id), "ban")
	alice.fails(403, "M_FORBIDDEN", "POST", room(id)+"/invite", obj{"user_id": bob.id})
	bob.fails(403, "M_FORBIDDEN", "POST", room(id)+"/join", obj{})
	bob.fails(403, "M_FORBIDDEN", "POST", room(id)+"/leave", obj{})
	bob.fails(403, "M_FORBIDDEN", "POST", room(id)+"/unban", obj{"user_id": bob.id})
	alice.ok("POST", room(id)+"/unban", obj{"user_id": bob.id})
	same(t, "unbanned", alice.member(id, bob.id), "leave")
	alice.fails(403, "M_FORBIDDEN|M_BAD_STATE", "POST", room(id)+"/unban", obj{"user_id": bob.id})
	alice.ok("POST", room(id)+"/ban", obj{"user_id": carol.id}) // who never was there
	same(t, "banned", alice.member(id, carol.id), "ban")
	alice.ok("POST", room(id)+"/unban", obj{"user_id": carol.id})

	// Decline, leave, forget.
	alice.invite(id, bob)
	bob.ok("POST", room(id)+"/leave", nil)
	same(t, "declined", alice.member(id, bob.id), "leave")
	bob.ok("POST", room(id)+"/leave", nil)
	alice.invite(id, carol)
	carol.join(id)
	carol.fails(400, "M_UNKNOWN", "POST", room(id)+"/forget", obj{})
	carol.ok("POST", room(id)+"/leave", obj{"reason": "bye"})
	same(t, "reason of leaving", alice.ok("GET", room(id)+"/state/m.room.member/"+esc(carol.id), nil).At("reason"), "bye")
	carol.ok("GET", room(id)+"/messages?dir=b", nil)
	carol.ok("POST", room(id)+"/forget", nil)
	carol.fails(403, "M_FORBIDDEN", "GET", room(id)+"/messages?dir=b", nil)
	carol.ok("POST", room(id)+"/forget", nil)
	alice.invite(id, carol)
	carol.join(id)
	carol.ok("GET", room(id)+"/messages?dir=b", nil)

	// Rooms that are not there.
	none := "!nothing:" + serverName
	alice.fails(404, "M_NOT_FOUND", "POST", "/join/"+esc(none), obj{})
	alice.fails(404, "M_NOT_FOUND", "POST", "/join/"+esc("#nothing:"+serverName), obj{})
	alice.fails(400, "M_INVALID_PARAM", "POST", "/join/nothing", obj{})
	for _, what := range []string{"leave", "invite", "kick", "ban", "unban"} {
		if a := alice.do("POST", room(none)+"/"+what, obj{"user_id": bob.id}); a.status != 403 && a.status != 404 {
			t.Errorf("%s in no room: %d %s", what, a.status, a.body)
		}
	}
	if a := alice.do("POST", room(none)+"/forget", nil); a.status != 400 && a.status != 404 && a.status != 403 {
		t.Errorf("forget of no room: %d %s", a.status, a.body)
	}

	// The same by state events.
	pub := alice.public(bob)
	bob.fails(403, "M_FORBIDDEN", "PUT", room(pub)+"/state/m.room.member/"+esc(alice.id), obj{"membership": "leave"})
	bob.fails(403, "M_FORBIDDEN", "PUT", room(pub)+"/state/m.room.member/"+esc(carol.id), obj{"membership": "join"})
	carol.state(pub, "m.room.member", carol.id, obj{"membership": "join", "displayname": "Only here"})
	same(t, "joined by state", alice.member(pub, carol.id), "join")
	alice.state(pub, "m.room.member", carol.id, obj{"membership": "leave"})
	same(t, "kicked by state", alice.member(pub, carol.id), "leave")
	for _, bad := range []any{obj{}, obj{"membership": "nonsense"}, obj{"membership": 1}, obj{"membership": nil}} {
		if a := alice.do("PUT", room(pub)+"/state/m.room.member/"+esc(alice.id), bad); a.status != 400 && a.status != 403 {
			t.Errorf("membership %v: %d %s", bad, a.status, a.body)
		}
	}
	if a := bob.do("PUT", room(pub)+"/state/m.room.member/nonsense", obj{"membership": "invite"}); a.status != 400 && a.status != 403 {
		t.Errorf("state key of a member: %d %s", a.status, a.body)
	}
	same(t, "who never was there", alice.do("GET", room(pub)+"/state/m.room.member/@x:hs1", nil).status, 404)
}

func TestKnockAndRestricted(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	carol := newUser(t, "carol")
	knock := alice.create(obj{"initial_state": list{obj{"type": "m.room.join_rules", "content": obj{"join_rule": "knock"}}}})
	bob.fails(403, "M_FORBIDDEN", "POST", room(knock)+"/join", nil)
	same(t, "knock", bob.ok("POST", "/knock/"+esc(knock), obj{"reason": "let me in"}).At("room_id"), knock)
	same(t, "knocking", alice.member(knock, bob.id), "knock")
	same(t, "reason", alice.ok("GET", room(knock)+"/state/m.room.member/"+esc(bob.id), nil).At("reason"), "let me in")
	v := bob.sync()
	if find(v.At("rooms", "knock", knock, "knock_state", "events"), "m.room.join_rules", "").V == nil {
		t.Errorf("knock_state: %s", v.At("rooms", "knock").Text())
	}
	bob.fails(403, "M_FORBIDDEN", "POST", room(knock)+"/join", nil)
	alice.invite(knock, bob)
	bob.join(knock)
	bob.fails(403, "M_FORBIDDEN", "POST", "/knock/"+esc(knock), nil)
	carol.ok("POST", "/knock/"+esc(knock), nil)
	carol.leave(knock) // taken back
	same(t, "knock taken back", alice.member(knock, carol.id), "leave")
	carol.ok("POST", "/knock/"+esc(knock), nil)
	alice.ok("POST", room(knock)+"/kick", obj{"user_id": carol.id})
	same(t, "knock refused", alice.member(knock, carol.id), "leave")
	alice.ok("POST", room(knock)+"/ban", obj{"user_id": carol.id})
	carol.fails(403, "M_FORBIDDEN", "POST", "/knock/"+esc(knock), nil)
	carol.fails(403, "M_FORBIDDEN", "POST", "/knock/"+esc(alice.create(obj{})), nil)
	carol.fails(404, "M_NOT_FOUND", "POST", "/knock/"+esc("#nothing:"+serverName), nil)

	space := alice.create(obj{"creation_content": obj{"type": "m.space"}})
	for _, rule := range []string{"restricted", "knock_restricted"} {
		id := alice.create(obj{"initial_state": list{obj{"type": "m.room.join_rules",
			// Conditions that cannot be understood let nobody in, and do not keep the others from it.
			"content": obj{"join_rule": rule, "allow": list{3, obj{"type": "com.example"}, obj{"type": "m.room_membership", "room_id": 5},
				obj{"type": "m.room_membership", "room_id": space, "via": list{serverName}}}}}}})
		dave := newUser(t, "dave")
		dave.fails(403, "M_FORBIDDEN", "POST", room(id)+"/join", nil)
		alice.invite(space, dave)
		dave.fails(403, "M_FORBIDDEN", "POST", room(id)+"/join", nil)
		dave.join(space)
		dave.join(id)
		e := alice.ok("GET", room(id)+"/state/m.room.member/"+esc(dave.id), nil)
		same(t, "authorised via", e.At("join_authorised_via_users_server"), alice.id)
		dave.ok("PUT", "/profile/"+dave.id+"/displayname", obj{"displayname": "Dave"})
		same(t, "a name in a restricted room", alice.ok("GET", room(id)+"/state/m.room.member/"+esc(dave.id), nil).At("displayname"), "Dave")
		dave.leave(space)
		dave.leave(id)
		dave.fails(403, "M_FORBIDDEN", "POST", room(id)+"/join", nil)
		if rule == "knock_restricted" {
			dave.ok("POST", "/knock/"+esc(id), nil)
		}
		alice.invite(id, dave)
		dave.join(id)
	}
}

func TestPowerLevels(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.create(obj{"preset": "public_chat", "room_version": "11"})
	bob.join(id)
	bob.fails(403, "M_FORBIDDEN", "PUT", room(id)+"/state/m.room.name", obj{"name": "mine"})
	bob.fails(403, "M_FORBIDDEN", "PUT", room(id)+"/state/m.room.power_levels", obj{})
	bob.fails(403, "M_FORBIDDEN", "PUT", room(id)+"/state/com.example/x", obj{})
	pl := alice.ok("GET", room(id)+"/state/m.room.power_levels", nil).V.(map[string]any)
	users := pl["users"].(map[string]any)
	users[bob.id] = 50
	alice.state(id, "m.room.power_levels", "", pl)
	bob.state(id, "m.room.name", "", obj{"name": "allowed"})
	bob.fails(403, "M_FORBIDDEN", "POST", room(id)+"/kick", obj{"user_id": alice.id})
	users[bob.id] = 100
	bob.fails(403, "M_FORBIDDEN", "PUT", room(id)+"/state/m.room.power_levels", pl)
	users[bob.id] = 50
	pl["events_default"] = 75
	alice.state(id, "m.room.power_levels", "", pl)
	bob.fails(403, "M_FORBIDDEN", "PUT", room(id)+"/send/m.room.message/1", obj{"body": "x"})
	pl["events_default"] = 0
	for _, bad := range []any{"0", 1.5, nil, list{}, obj{}} {
		pl["ban"] = bad
		if a := alice.do("PUT", room(id)+"/state/m.room.power_levels", pl); a.status != 400 && a.status != 403 {
			t.Errorf("ban %v: %d %s", bad, a.status, a.body)
		}
	}
	pl["ban"] = 50
	for _, bad := range []obj{{"alice": 1}, {bob.id: "50"}, {bob.id: 1.5}} {
		pl["users"] = bad
		if a := alice.do("PUT", room(id)+"/state/m.room.power_levels", pl); a.status != 400 && a.status != 403 {
			t.Errorf("users %v: %d %s", bad, a.status, a.body)
		}
	}
	bob.fails(403, "M_FORBIDDEN", "PUT", room(id)+"/state/com.example/"+esc(alice.id), obj{}) // somebody else's key
	bob.state(id, "com.example", bob.id, obj{"own": true})
	// State that names its owner is not for those with more power either.
	alice.fails(403, "M_FORBIDDEN", "PUT", room(id)+"/state/com.example/"+esc(bob.id), obj{})
	outsider := newUser(t, "out")
	outsider.fails(403, "M_FORBIDDEN", "PUT", room(id)+"/send/m.room.message/1", obj{"body": "x"})
	outsider.fails(403, "M_FORBIDDEN", "PUT", room(id)+"/state/m.room.name", obj{"name": "x"})
}

func TestSend(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	phone := alice.login()
	id := alice.public(bob)
	path := room(id) + "/send/m.room.message/txn1"
	body := obj{"msgtype": "m.text", "body": "once"}
	first := alice.ok("PUT", path, body).At("event_id").String()
	same(t, "the same transaction", alice.ok("PUT", path, body).At("event_id"), first)
	same(t, "with r0", alice.ok("PUT", "/_matrix/client/r0"+path, body).At("event_id"), first)
	if phone.ok("PUT", path, body).At("event_id").String() == first {
		t.Error("a transaction ID of another device")
	}
	if alice.ok("PUT", room(id)+"/send/m.other/txn1", body).At("event_id").String() == first {
		t.Error("a transaction ID of another event type")
	}
	other := alice.public()
	if alice.ok("PUT", room(other)+"/send/m.room.message/txn1", body).At("event_id").String() == first {
		t.Error("a transaction ID of another room")
	}
	e := alice.ok("GET", room(id)+"/event/"+esc(first), nil)
	same(t, "transaction_id to the device", e.At("unsigned", "transaction_id"), "txn1")
	same(t, "room_id", e.At("room_id"), id)
	if e.At("origin_server_ts").Int() <= 0 || !e.At("unsigned").Exists("age") {
		t.Errorf("event: %s", e.Text())
	}
	for _, u := range []*user{phone, bob} {
		if u.ok("GET", room(id)+"/event/"+esc(first), nil).At("unsigned").Exists("transaction_id") {
			t.Error("a transaction ID was shown to another device")
		}
	}
	alice.fails(404, "M_NOT_FOUND", "GET", room(id)+"/event/"+esc("$nothing"), nil)
	alice.fails(404, "M_NOT_FOUND", "GET", room(other)+"/event/"+esc(first), nil)
	alice.fails(403, "M_FORBIDDEN", "PUT", room(id)+"/send/m.room.create/x", obj{})
	alice.fails(400, "M_NOT_JSON|M_BAD_JSON", "PUT", room(id)+"/send/m.room.message/x", nil)
	if a := alice.do("PUT", room(id)+"/send/m.room.member/x", obj{"membership": "join"}); a.status != 400 && a.status != 403 {
		t.Errorf("a member event that is no state: %d %s", a.status, a.body)
	}
	if a := alice.do("PUT", room("!nothing:hs1")+"/send/m.room.message/x", obj{}); a.status != 403 && a.status != 404 {
		t.Errorf("in no room: %d %s", a.status, a.body)
	}
	for _, long := range []string{strings.Repeat("x", 256)} {
		if a := alice.do("PUT", room(id)+"/send/"+long+"/x", obj{}); a.status != 400 && a.status != 413 {
			t.Errorf("a long type: %d %s", a.status, a.body)
		}
		if a := alice.do("PUT", room(id)+"/state/com.example/"+long, obj{}); a.status != 400 && a.status != 413 {
			t.Errorf("a long state key: %d %s", a.status, a.body)
		}
	}
	// Exactly what was sent comes back.
	text := "Ünïcödé ✓ \U0001F600 \u2028 <script>&amp; \"q\" \\ \t"
	id2 := alice.event(id, "m.room.message", obj{"body": text, "n": obj{"deep": list{1, nil, true, -0}}})
	v := alice.ok("GET", room(id)+"/event/"+esc(id2), nil).At("content")
	same(t, "body", v.At("body"), text)
	same(t, "nested", v.At("n"), obj{"deep": list{1, nil, true, 0}})
}

func TestState(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public(bob)
	e := alice.ok("PUT", room(id)+"/state/m.room.name", obj{"name": "one"}).At("event_id").String()
	same(t, "the same again", alice.ok("PUT", room(id)+"/state/m.room.name/", obj{"name": "one"}).At("event_id"), e)
	for _, p := range []string{"/state/m.room.name", "/state/m.room.name/"} {
		same(t, p, alice.ok("GET", room(id)+p, nil), obj{"name": "one"})
		same(t, "r0 "+p, alice.ok("GET", "/_matrix/client/r0"+room(id)+p, nil), obj{"name": "one"})
	}
	full := alice.ok("GET", room(id)+"/state/m.room.name?format=event", nil)
	same(t, "format=event", full.At("event_id"), e)
	same(t, "sender", full.At("sender"), alice.id)
	same(t, "format=content", alice.ok("GET", room(id)+"/state/m.room.name?format=content", nil), obj{"name": "one"})
	alice.fails(400, "M_INVALID_PARAM", "GET", room(id)+"/state/m.room.name?format=nonsense", nil)
	if alice.state(id, "m.room.name", "", obj{"name": "two"}) == e {
		t.Error("other content, same event")
	}
	alice.fails(404, "M_NOT_FOUND", "GET", room(id)+"/state/m.room.avatar", nil)
	alice.fails(404, "M_NOT_FOUND", "GET", room(id)+"/state/m.room.name/key", nil)
	all := alice.ok("GET", room(id)+"/state", nil)
	name := find(all, "m.room.name", "")
	same(t, "name", name.At("content", "name"), "two")
	same(t, "room_id", name.At("room_id"), id)
	same(t, "replaces", name.At("unsigned", "prev_content"), obj{"name": "one"})
	out := newUser(t, "out")
	out.fails(403, "M_FORBIDDEN", "GET", room(id)+"/state", nil)
	out.fails(403, "M_FORBIDDEN", "GET", room(id)+"/state/m.room.name", nil)
	out.fails(403, "M_FORBIDDEN", "GET", room(id)+"/members", nil)
	out.fails(403, "M_FORBIDDEN", "GET", room(id)+"/messages?dir=b", nil)
	alice.fails(400, "M_NOT_JSON|M_BAD_JSON", "PUT", room(id)+"/state/m.room.name", nil)
	for _, p := range []string{"/state", "/members", "/messages?dir=b", "/state/m.room.name", "/joined_members"} {
		if a := alice.do("GET", room("!nothing:hs1")+p, nil); a.status != 403 && a.status != 404 {
			t.Errorf("%s of no room: %d %s", p, a.status, a.body)
		}
	}
	// After leaving: the state as it was then.
	bob.leave(id)
	alice.state(id, "m.room.name", "", obj{"name": "three"})
	same(t, "state after leaving", bob.ok("GET", room(id)+"/state/m.room.name", nil), obj{"name": "two"})
	same(t, "all state after leaving", find(bob.ok("GET", room(id)+"/state", nil), "m.room.name", "").At("content", "name"), "two")
}

func TestRedaction(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	for _, v := range []string{"10", "11", "12"} {
		id := alice.create(obj{"preset": "public_chat", "room_version": v})
		bob.join(id)
		mine, his := alice.say(id, "mine"), bob.say(id, "his")
		bob.fails(403, "M_FORBIDDEN", "PUT", room(id)+"/redact/"+esc(mine)+"/1", obj{})
		r := alice.ok("PUT", room(id)+"/redact/"+esc(his)+"/2", obj{"reason": "spam"}).At("event_id").String()
		same(t, "the same transaction", alice.ok("PUT", room(id)+"/redact/"+esc(his)+"/2", obj{"reason": "spam"}).At("event_id"), r)
		e := bob.ok("GET", room(id)+"/event/"+esc(his), nil)
		same(t, "content", e.At("content"), obj{})
		same(t, "redacted_because", e.At("unsigned", "redacted_because", "event_id"), r)
		same(t, "reason", e.At("unsigned", "redacted_because", "content", "reason"), "spam")
		red := bob.ok("GET", room(id)+"/event/"+esc(r), nil)
		same(t, "type", red.At("type"), "m.room.redaction")
		same(t, "redacts in the content", red.At("content", "redacts"), his)
		same(t, "redacts at the top", red.At("redacts"), his)
		bob.ok("PUT", room(id)+"/redact/"+esc(bob.say(id, "own"))+"/3", nil)
		alice.fails(404, "M_NOT_FOUND", "PUT", room(id)+"/redact/"+esc("$nothing")+"/4", obj{})
		// State loses its content, members keep their membership.
		n := alice.state(id, "m.room.name", "", obj{"name": "gone"})
		alice.ok("PUT", room(id)+"/redact/"+esc(n)+"/5", obj{})
		same(t, "redacted state", alice.ok("GET", room(id)+"/state/m.room.name", nil), obj{})
		m := alice.ok("GET", room(id)+"/state/m.room.member/"+esc(bob.id)+"?format=event", nil).At("event_id").String()
		alice.ok("PUT", room(id)+"/redact/"+esc(m)+"/6", obj{})
		same(t, "redacted member", alice.member(id, bob.id), "join")
		if v == "11" {
			r := alice.event(id, "m.room.redaction", obj{"redacts": alice.say(id, "by send")})
			same(t, "redacted by /send", alice.ok("GET", room(id)+"/event/"+esc(r), nil).At("type"), "m.room.redaction")
		}
	}
}

func TestAliasesAndDirectory(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public(bob)
	alias := "#" + unique("directory") + ":" + serverName
	path := "/directory/room/" + esc(alias)
	alice.fails(404, "M_NOT_FOUND", "GET", path, nil)
	alice.ok("PUT", path, obj{"room_id": id})
	same(t, "room of the alias", nobody(t).ok("GET", path, nil).At("room_id"), id)
	same(t, "servers", nobody(t).ok("GET", path, nil).At("servers"), list{serverName})
	alice.fails(409, "M_UNKNOWN|M_ROOM_IN_USE", "PUT", path, obj{"room_id": id})
	alice.fails(400, "M_INVALID_PARAM", "PUT", "/directory/room/nonsense", obj{"room_id": id})
	alice.fails(400, "M_INVALID_PARAM", "GET", "/directory/room/"+esc("#nonsense"), nil)
	alice.fails(400, "M_MISSING_PARAM|M_BAD_JSON", "PUT", "/directory/room/"+esc("#y"+alias[1:]), obj{})
	alice.fails(404, "M_NOT_FOUND", "DELETE", "/directory/room/"+esc("#z"+alias[1:]), nil)
	same(t, "joined by alias", newUser(t, "join").ok("POST", "/join/"+esc(alias), nil).At("room_id"), id)
	same(t, "aliases", alice.ok("GET", room(id)+"/aliases", nil).At("aliases"), list{alias})
	newUser(t, "out").fails(403, "M_FORBIDDEN", "GET", room(id)+"/aliases", nil)

	// The canonical alias must lead here.
	alice.state(id, "m.room.canonical_alias", "", obj{"alias": alias})
	alice.fails(400, "M_BAD_ALIAS", "PUT", room(id)+"/state/m.room.canonical_alias", obj{"alias": "#nothing:" + serverName})
	alice.fails(400, "M_BAD_ALIAS", "PUT", room(id)+"/state/m.room.canonical_alias", obj{"alias": alias, "alt_aliases": list{"#nothing:" + serverName}})
	if a := alice.do("PUT", room(id)+"/state/m.room.canonical_alias", obj{"alias": "nonsense"}); a.status != 400 {
		t.Errorf("nonsense as an alias: %d", a.status)
	}
	alice.fails(400, "M_BAD_ALIAS", "PUT", room(alice.public())+"/state/m.room.canonical_alias", obj{"alias": alias})

	// Who may delete it: its maker, and those with power.
	own := "#" + unique("own") + ":" + serverName
	bob.ok("PUT", "/directory/room/"+esc(own), obj{"room_id": id})
	bob.fails(403, "M_FORBIDDEN", "DELETE", path, nil)
	bob.ok("DELETE", "/directory/room/"+esc(own), nil)
	alice.ok("DELETE", path, nil)
	alice.fails(404, "M_NOT_FOUND", "GET", path, nil)

	// The directory.
	word := unique("word")
	pub := alice.create(obj{"visibility": "public", "name": "Name " + word, "topic": "Topic", "room_alias_name": word})
	bob.join(pub)
	v := nobody(t).ok("GET", "/publicRooms", nil)
	var entry Value
	for _, e := range v.At("chunk").List() {
		if e.At("room_id").String() == pub {
			entry = e
		}
	}
	same(t, "entry", entry, obj{"room_id": pub, "name": "Name " + word, "topic": "Topic", "canonical_alias": "#" + word + ":" + serverName,
		"num_joined_members": 2, "world_readable": false, "guest_can_join": false, "join_rule": "public", "room_version": entry.At("room_version").String()})
	v = alice.ok("POST", "/publicRooms", obj{"filter": obj{"generic_search_term": strings.ToUpper(word)}})
	same(t, "searched", len(v.At("chunk").List()), 1)
	for range 3 {
		alice.create(obj{"visibility": "public", "name": "Name " + word})
	}
	search := obj{"filter": obj{"generic_search_term": word}, "limit": 3}
	v = alice.ok("POST", "/publicRooms", search)
	same(t, "first page", len(v.At("chunk").List()), 3)
	search["since"] = v.At("next_batch").String()
	v = alice.ok("POST", "/publicRooms", search)
	same(t, "second page", len(v.At("chunk").List()), 1)
	same(t, "no more", v.Exists("next_batch"), false)
	if !v.Exists("prev_batch") {
		t.Errorf("prev_batch: %s", v.Text())
	}
	alice.ok("GET", "/publicRooms?limit=1&server="+serverName, nil)
	alice.ok("POST", "/publicRooms", nil)
	alice.fails(400, "M_BAD_JSON", "POST", "/publicRooms", obj{"filter": "x"})
	alice.fails(400, "M_INVALID_PARAM", "GET", "/publicRooms?since=nonsense", nil)
	alice.fails(400, "M_INVALID_PARAM", "GET", "/publicRooms?limit=nonsense", nil)
	list := "/directory/list/room/" + esc(pub)
	bob.fails(403, "M_FORBIDDEN", "PUT", list, obj{"visibility": "private"})
	alice.fails(400, "M_INVALID_PARAM|M_BAD_JSON", "PUT", list, obj{"visibility": "nonsense"})
	alice.ok("PUT", list, obj{"visibility": "private"})
	same(t, "visibility", nobody(t).ok("GET", list, nil).At("visibility"), "private")
	alice.ok("PUT", list, obj{})
	same(t, "visibility without one", nobody(t).ok("GET", list, nil).At("visibility"), "public")
	alice.fails(404, "M_NOT_FOUND", "GET", "/directory/list/room/"+esc("!nothing:hs1"), nil)
	alice.fails(404, "M_NOT_FOUND", "PUT", "/directory/list/room/"+esc("!nothing:hs1"), obj{"visibility": "public"})
}

func TestUpgradeAndSpaces(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	old := alice.create(obj{"preset": "public_chat", "room_version": "10", "name": "Old", "room_alias_name": unique("up"),
		"initial_state": list{obj{"type": "m.room.server_acl", "content": obj{"allow": list{"*"}}}}})
	bob.join(old)
	bob.fails(403, "M_FORBIDDEN", "POST", room(old)+"/upgrade", obj{"new_version": "11"})
	alice.fails(400, "M_UNSUPPORTED_ROOM_VERSION", "POST", room(old)+"/upgrade", obj{"new_version": "nonsense"})
	alice.fails(400, "M_MISSING_PARAM|M_BAD_JSON|M_UNSUPPORTED_ROOM_VERSION", "POST", room(old)+"/upgrade", obj{})
	alice.fails(404, "M_NOT_FOUND", "POST", room("!nothing:hs1")+"/upgrade", obj{"new_version": "11"})
	id := alice.ok("POST", room(old)+"/upgrade", obj{"new_version": "11"}).At("replacement_room").String()
	same(t, "tombstone", alice.ok("GET", room(old)+"/state/m.room.tombstone", nil).At("replacement_room"), id)
	create := alice.ok("GET", room(id)+"/state/m.room.create", nil)
	same(t, "predecessor", create.At("predecessor", "room_id"), old)
	if create.At("predecessor", "event_id").String() == "" {
		t.Errorf("predecessor: %s", create.Text())
	}
	for _, typ := range []string{"m.room.name", "m.room.server_acl", "m.room.join_rules", "m.room.canonical_alias"} {
		alice.ok("GET", room(id)+"/state/"+typ, nil)
	}
	bob.join(id)

	space := alice.create(obj{"preset": "public_chat", "creation_content": obj{"type": "m.space"}, "name": "Space"})
	child, hidden := alice.create(obj{"preset": "public_chat", "name": "Child"}), alice.create(obj{})
	alice.state(space, "m.space.child", child, obj{"via": list{serverName}, "order": "b"})
	alice.state(space, "m.space.child", hidden, obj{"via": list{serverName}, "order": "a"})
	alice.state(space, "m.space.child", "!gone:hs1", obj{})
	const v1 = "/_matrix/client/v1"
	rooms := alice.ok("GET", v1+room(space)+"/hierarchy", nil).At("rooms").List()
	same(t, "rooms for alice", len(rooms), 3)
	same(t, "the space first", rooms[0].At("room_id"), space)
	same(t, "children_state", len(rooms[0].At("children_state").List()), 2)
	same(t, "room_type", rooms[0].At("room_type"), "m.space")
	rooms = bob.ok("GET", v1+room(space)+"/hierarchy", nil).At("rooms").List()
	same(t, "rooms for bob", len(rooms), 2)
	v := alice.ok("GET", v1+room(space)+"/hierarchy?limit=1", nil)
	alice.ok("GET", v1+room(space)+"/hierarchy?limit=1&from="+url.QueryEscape(v.At("next_batch").String()), nil)
	alice.fails(400, "M_INVALID_PARAM", "GET", v1+room(space)+"/hierarchy?from=nonsense", nil)
	if a := bob.do("GET", v1+room(hidden)+"/hierarchy", nil); a.status != 403 && a.status != 404 {
		t.Errorf("hierarchy of a hidden room: %d", a.status)
	}
	s := bob.ok("GET", v1+"/room_summary/"+esc(child), nil)
	same(t, "summary", s.At("name"), "Child")
	bob.fails(404, "M_NOT_FOUND", "GET", v1+"/room_summary/"+esc(hidden), nil)
}
