package api

import (
	"strings"
	"testing"
	"time"
)

const serverUser = "@_server:" + serverName

// notice sends a notice and returns the event's ID.
func (u *user) notice(to *user, content obj) string {
	u.t.Helper()
	return u.ok("POST", adminV1+"/send_server_notice", obj{"user_id": to.id, "content": content}).At("event_id").String()
}

func text(s string) obj { return obj{"msgtype": "m.text", "body": s} }

// noticesOf is the room of a user's notices by its tag.
func noticesOf(t *testing.T, v Value) (roomID string, in Value) {
	t.Helper()
	rooms, _ := v.At("rooms", "join").V.(map[string]any)
	for id := range rooms {
		r := v.At("rooms", "join", id)
		if find(r.At("account_data", "events"), "m.tag", "*").At("content", "tags").Exists("m.server_notice") {
			if roomID != "" {
				t.Errorf("two rooms of notices: %s and %s", roomID, id)
			}
			roomID, in = id, r
		}
	}
	return roomID, in
}

func TestServerNotices(t *testing.T) {
	t.Parallel()
	root, alice, bob := newAdmin(t), newUser(t, "alice"), newUser(t, "bob")
	alice.sync()
	first := root.notice(alice, text("The server rests on Sunday"))
	v := alice.until("a notice", func(v Value) bool { _, r := noticesOf(t, v); return len(bodies(r.At("timeline", "events"))) > 0 })
	roomID, r := noticesOf(t, v)
	if v.At("rooms", "invite", roomID).V != nil {
		t.Error("an invitation flashed by")
	}
	same(t, "the notice", bodies(r.At("timeline", "events")), list{"The server rests on Sunday"})
	e := alice.ok("GET", room(roomID)+"/event/"+esc(first), nil)
	same(t, "sender", e.At("sender"), serverUser)
	same(t, "unread", r.At("unread_notifications", "notification_count"), 1)
	same(t, "tags", alice.ok("GET", "/user/"+esc(alice.id)+"/rooms/"+esc(roomID)+"/tags", nil), obj{"tags": obj{"m.server_notice": obj{}}})
	same(t, "name", alice.ok("GET", room(roomID)+"/state/m.room.name", nil).At("name"), "Server notices")
	if a := alice.do("GET", room(roomID)+"/state/m.room.encryption", nil); a.status != 404 {
		t.Errorf("encrypted: %s", a.body)
	}
	// The server's user looks like one, but is none.
	same(t, "profile", alice.ok("GET", "/profile/"+esc(serverUser), nil).Exists("displayname"), true)
	for _, term := range []string{"_server", serverUser} {
		for _, p := range alice.ok("POST", "/user_directory/search", obj{"search_term": term}).At("results").List() {
			same(t, "found people", p.At("user_id").String() == serverUser, false)
		}
	}
	root.fails(404, "M_NOT_FOUND", "GET", adminV2+"/users/"+esc(serverUser), nil)
	same(t, "in the list", names(root.ok("GET", adminV3+"/users?user_id="+esc(serverUser), nil)), list{})
	nobody(t).fails(400, "M_EXCLUSIVE", "POST", "/register", obj{"username": "_server", "password": password, "auth": obj{"type": "m.login.dummy"}})
	root.fails(400, "M_EXCLUSIVE", "PUT", adminV2+"/users/"+esc(serverUser), obj{"password": password})
	if a := root.do("GET", adminV1+"/username_available?username=_server", nil); a.status != 400 {
		t.Errorf("available: %d %s", a.status, a.body)
	}
	if a := nobody(t).do("POST", "/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": serverUser}, "password": ""}); a.status == 200 {
		t.Errorf("login: %s", a.body)
	}
	own := alice.create(obj{})
	alice.fails(403, "M_INVITE_BLOCKED", "POST", room(own)+"/invite", obj{"user_id": serverUser})
	alice.fails(403, "M_INVITE_BLOCKED", "PUT", room(own)+"/state/m.room.member/"+esc(serverUser), obj{"membership": "invite"})
	alice.fails(403, "M_INVITE_BLOCKED", "POST", "/createRoom", obj{"invite": list{serverUser}})

	// Reading is all that she can do there.
	alice.fails(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", "POST", room(roomID)+"/leave", obj{})
	alice.fails(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", "PUT", room(roomID)+"/state/m.room.member/"+esc(alice.id), obj{"membership": "leave"})
	alice.fails(400, "M_UNKNOWN", "POST", room(roomID)+"/forget", obj{})
	for what, ask := range map[string]struct {
		method, path string
		body         obj
	}{
		"write":    {"PUT", "/send/m.room.message/x", text("hello?")},
		"react":    {"PUT", "/send/m.reaction/x", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": first, "key": "+"}}},
		"call":     {"PUT", "/state/org.matrix.msc3401.call.member/_" + esc(alice.id) + "_x", obj{"application": "m.call"}},
		"invite":   {"POST", "/invite", obj{"user_id": bob.id}},
		"kick":     {"POST", "/kick", obj{"user_id": serverUser}},
		"ban":      {"POST", "/ban", obj{"user_id": serverUser}},
		"name":     {"PUT", "/state/m.room.name", obj{"name": "Mine"}},
		"levels":   {"PUT", "/state/m.room.power_levels", obj{"users": obj{alice.id: 100}}},
		"encrypt":  {"PUT", "/state/m.room.encryption", obj{"algorithm": "m.megolm.v1.aes-sha2"}},
		"open":     {"PUT", "/state/m.room.join_rules", obj{"join_rule": "public"}},
		"pin":      {"PUT", "/state/m.room.pinned_events", obj{"pinned": list{first}}},
		"redact":   {"PUT", "/redact/" + esc(first) + "/x", obj{}},
		"upgrade":  {"POST", "/upgrade", obj{"new_version": "11"}},
		"threepid": {"PUT", "/state/m.room.third_party_invite/x", obj{"display_name": "x"}},
	} {
		if a := alice.do(ask.method, room(roomID)+ask.path, ask.body); a.status != 403 || a.At("errcode").String() != "M_FORBIDDEN" {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	bob.fails(403, "M_FORBIDDEN", "POST", room(roomID)+"/join", obj{})
	alice.ok("POST", room(roomID)+"/receipt/m.read/"+esc(first), obj{})
	alice.ok("PUT", "/profile/"+esc(alice.id)+"/displayname", obj{"displayname": "Alice the Second"})
	same(t, "her new name is there too", alice.ok("GET", room(roomID)+"/state/m.room.member/"+esc(alice.id), nil).At("displayname"), "Alice the Second")

	// The next notices go into the same room; state and the specification's own kind pass
	// through as they are.
	limit := root.ok("POST", adminV1+"/send_server_notice", obj{"user_id": alice.id, "content": obj{"msgtype": "m.server_notice", "body": "Full", "server_notice_type": "m.server_notice.usage_limit_reached",
		"limit_type": "monthly_active_user", "admin_contact": "mailto:root@example.org"}}).At("event_id").String()
	root.ok("POST", adminV1+"/send_server_notice", obj{"user_id": alice.id, "type": "m.room.pinned_events", "state_key": "", "content": obj{"pinned": list{limit}}})
	c := alice.ok("GET", room(roomID)+"/event/"+esc(limit), nil)
	same(t, "kind", c.At("content", "server_notice_type"), "m.server_notice.usage_limit_reached")
	same(t, "the same room", c.At("room_id"), roomID)
	same(t, "pinned", alice.ok("GET", room(roomID)+"/state/m.room.pinned_events", nil), obj{"pinned": list{limit}})
	root.ok("POST", adminV1+"/send_server_notice", obj{"user_id": alice.id, "type": "m.room.redaction", "content": obj{"redacts": first, "reason": "wrong day"}})
	same(t, "taken back", alice.ok("GET", room(roomID)+"/event/"+esc(first), nil).At("content"), obj{})

	// Once, by transaction ID: of one administrator, for one user.
	once := adminV1 + "/send_server_notice/" + unique("txn")
	body := obj{"user_id": alice.id, "content": text("once")}
	id := root.ok("PUT", once, body).At("event_id").String()
	same(t, "again", root.ok("PUT", once, body).At("event_id"), id)
	same(t, "for bob", root.ok("PUT", once, obj{"user_id": bob.id, "content": text("once")}).At("event_id").String() == id, false)
	same(t, "as often", strings.Count(strings.Join(bodies(alice.ok("GET", room(roomID)+"/messages?dir=b&limit=50", nil).At("chunk")), " "), "once"), 1)

	for _, bad := range []struct {
		status int
		code   string
		body   any
	}{
		{400, "M_MISSING_PARAM", obj{"content": text("x")}}, {400, "M_MISSING_PARAM", obj{"user_id": alice.id}},
		{400, "M_BAD_JSON", obj{"user_id": alice.id, "content": "x"}}, {400, "M_BAD_JSON", obj{"user_id": 1, "content": text("x")}}, {400, "M_BAD_JSON", obj{"user_id": alice.id, "content": nil}},
		{404, "M_NOT_FOUND", obj{"user_id": "@nobody-at-all:" + serverName, "content": text("x")}}, {404, "M_NOT_FOUND", obj{"user_id": serverUser, "content": text("x")}},
		{400, "M_INVALID_PARAM", obj{"user_id": "@x:elsewhere.example", "content": text("x")}}, {400, "M_INVALID_PARAM", obj{"user_id": "x", "content": text("x")}},
		{413, "M_TOO_LARGE", obj{"user_id": alice.id, "content": text(strings.Repeat("x", 70000))}},
		{403, "M_FORBIDDEN", obj{"user_id": alice.id, "type": "m.room.member", "state_key": alice.id, "content": obj{"membership": "leave"}}},
		{403, "M_FORBIDDEN", obj{"user_id": alice.id, "type": "m.room.encryption", "state_key": "", "content": obj{"algorithm": "m.megolm.v1.aes-sha2"}}},
	} {
		root.fails(bad.status, bad.code, "POST", adminV1+"/send_server_notice", bad.body)
		alice.fails(403, "M_FORBIDDEN", "POST", adminV1+"/send_server_notice", bad.body)
	}
}

// A suspended user reads notices, and the room stays where it is.
func TestServerNoticesSuspended(t *testing.T) {
	t.Parallel()
	root, alice := newAdmin(t), newUser(t, "alice")
	root.ok("PUT", suspendPath+esc(alice.id), obj{"suspended": true})
	root.notice(alice, text("You are suspended because ..."))
	roomID, r := noticesOf(t, alice.sync())
	same(t, "read", bodies(r.At("timeline", "events")), list{"You are suspended because ..."})
	alice.fails(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", "POST", room(roomID)+"/leave", obj{})
	// It is the room's power that counts there: an administrator who takes part may give it.
	alice.fails(403, "M_FORBIDDEN", "PUT", room(roomID)+"/send/m.room.message/1", text("why?"))
	root.ok("POST", adminV1+"/rooms/"+esc(roomID)+"/make_room_admin", obj{})
	root.join(roomID)
	levels := root.ok("GET", room(roomID)+"/state/m.room.power_levels", nil).V.(map[string]any)
	levels["users"].(map[string]any)[alice.id] = 0
	root.state(roomID, "m.room.power_levels", "", levels)
	alice.say(roomID, "why?")
	same(t, "heard", bodies(root.ok("GET", room(roomID)+"/messages?dir=b&limit=1", nil).At("chunk")), list{"why?"})
	alice.fails(403, "M_USER_SUSPENDED", "PUT", room(root.public())+"/send/m.room.message/1", text("elsewhere"))
	// The administrator is told things in a room of their own, and may leave this one.
	root.notice(root, text("to myself"))
	own, _ := noticesOf(t, root.sync())
	same(t, "another room", own != "" && own != roomID, true)
	root.leave(roomID)
	root.fails(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", "POST", room(own)+"/leave", obj{})
}

// Closed with its account, a room of notices is left empty.
func TestServerNoticesClosed(t *testing.T) {
	t.Parallel()
	root, alice := newAdmin(t), newUser(t, "alice")
	root.notice(alice, text("Good bye"))
	roomID, _ := noticesOf(t, alice.sync())
	root.ok("POST", adminV1+"/deactivate/"+esc(alice.id), obj{"erase": true})
	same(t, "nobody left", root.ok("GET", adminV1+"/rooms/"+esc(roomID)+"/members", nil), obj{"members": list{}, "total": 0})
	root.fails(404, "M_NOT_FOUND", "POST", adminV1+"/send_server_notice", obj{"user_id": alice.id, "content": text("x")})
}

// A room of notices that an administrator deleted is made anew with the next notice.
func TestServerNoticesRoomDeleted(t *testing.T) {
	t.Parallel()
	root, alice := newAdmin(t), newUser(t, "alice")
	for _, purge := range []bool{true, false} {
		root.notice(alice, text("before"))
		roomID, _ := noticesOf(t, alice.sync())
		id := root.ok("DELETE", adminV2+"/rooms/"+esc(roomID), obj{"purge": purge}).At("delete_id").String()
		for range 600 {
			if s := root.ok("GET", adminV2+"/rooms/delete_status/"+esc(id), nil).At("status").String(); s == "complete" {
				break
			} else if s == "failed" {
				t.Fatal("the room could not be deleted")
			}
			time.Sleep(100 * time.Millisecond)
		}
		same(t, "out", alice.ok("GET", "/joined_rooms", nil), obj{"joined_rooms": list{}})
		root.notice(alice, text("after"))
		alice.since = ""
		next, r := noticesOf(t, alice.sync())
		same(t, "another room", next != roomID, true)
		same(t, "told", bodies(r.At("timeline", "events")), list{"after"})
		root.ok("DELETE", adminV2+"/rooms/"+esc(next), obj{})
		for range 600 {
			if alice.do("GET", room(next)+"/state", nil).status == 403 {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		alice.since = ""
	}
}
