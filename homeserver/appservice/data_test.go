package appservice_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

// What passes and what encryption needs come under both names.
func TestEphemeralAndEncryptionData(t *testing.T) {
	s, plain := newService(t, "irc"), newService(t, "plain")
	hs := withServices(t, s.registration("receive_ephemeral: true\norg.matrix.msc3202: true\n"), plain.registration(""))
	alice := hs.Login(t, "alice")
	ghost := s.as(hs, "irc_ghost", "")
	ghost.Do("PUT", ghost.path("/devices/GHOST"), obj{})
	room, elsewhere := alice.CreateRoom(obj{"preset": "public_chat"}), alice.CreateRoom(nil)
	ghost.join(room)
	id := alice.Send(room, "one")
	private := alice.Send(elsewhere, "private")
	find := func(key, typ string, ok func(e hstest.Value) bool) func() bool {
		return func() bool {
			for _, e := range s.list(key) {
				if e.At("type").String() == typ && ok(e) {
					return true
				}
			}
			return false
		}
	}
	typing := func(n int) func(e hstest.Value) bool {
		return func(e hstest.Value) bool {
			return e.At("room_id").String() == room && e.Exists("content") && len(e.At("content", "user_ids").List()) == n
		}
	}
	alice.Must("PUT", hstest.Room(elsewhere)+"/typing/"+alice.UserID, obj{"typing": true})
	alice.Must("PUT", hstest.Room(room)+"/typing/"+alice.UserID, obj{"typing": true})
	s.until("typing", find("ephemeral", mx.Typing, typing(1)))
	alice.Must("PUT", hstest.Room(room)+"/typing/"+alice.UserID, obj{"typing": false})
	s.until("its end", find("de.sorunome.msc2409.ephemeral", mx.Typing, typing(0)))
	alice.Must("POST", hstest.Room(elsewhere)+"/receipt/m.read/"+url.PathEscape(private), obj{})
	alice.Must("POST", hstest.Room(room)+"/receipt/m.read.private/"+url.PathEscape(id), obj{})
	ghost.must("POST", hstest.Room(room)+"/receipt/m.read.private/"+url.PathEscape(id), obj{})
	alice.Must("POST", hstest.Room(room)+"/receipt/m.read/"+url.PathEscape(id), obj{})
	s.until("a receipt", find("ephemeral", mx.Receipt, func(e hstest.Value) bool {
		return e.At("room_id").String() == room && e.At("content", id, "m.read", alice.UserID, "ts").Int() > 0
	}))
	s.until("its own private receipt", find("ephemeral", mx.Receipt, func(e hstest.Value) bool { return e.At("content", id, "m.read.private").Exists(ghost.UserID) }))
	alice.Must("PUT", "/presence/"+alice.UserID+"/status", obj{"presence": "unavailable"})
	s.until("presence", find("ephemeral", mx.Presence, func(e hstest.Value) bool {
		return e.At("sender").String() == alice.UserID && e.At("content", "presence").String() == "unavailable"
	}))

	send := func(n string) {
		alice.Must("PUT", "/sendToDevice/m.x/"+hstest.Txn(), obj{"messages": obj{ghost.UserID: obj{"GHOST": obj{"n": n}}, alice.UserID: obj{"*": obj{"n": "own"}}}})
	}
	s.set(func() { s.status = 502 })
	send("1")
	s.until("a try", func() bool { return s.refused > 0 })
	hs.Restart()
	send("2")
	s.set(func() { s.status = 0 })
	s.until("both messages", func() bool { return len(s.list("to_device")) >= 2 })
	s.set(func() {
		for i, e := range s.list("to_device") {
			if e.At("to_user_id").String() != ghost.UserID || e.At("to_device_id").String() != "GHOST" || e.At("sender").String() != alice.UserID ||
				e.At("type").String() != "m.x" || e.At("content", "n").String() != []string{"1", "2"}[i] {
				t.Error(e.Text())
			}
		}
		if n := len(s.list("de.sorunome.msc2409.to_device")); n != 2 {
			t.Error("older name:", n)
		}
		for _, x := range s.txns {
			if len(x.body.At("to_device").List()) == 0 {
				continue
			}
			for _, p := range []string{"", "org.matrix.msc3202."} {
				if !x.body.At(p+"device_one_time_keys_count", ghost.UserID, "GHOST").Exists("signed_curve25519") || !x.body.At(p+"device_unused_fallback_key_types", ghost.UserID).Exists("GHOST") {
					t.Error(x.raw)
				}
			}
		}
	})
	// Taken messages do not wait for a sync of the device as well, once we have read
	// that they were taken.
	waiting := func() int {
		return len(ghost.must("GET", "/sync?device_id=GHOST", nil).At("to_device", "events").List())
	}
	for end := time.Now().Add(time.Minute); waiting() != 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("taken messages wait on")
		}
	}
	changed := func(part, user string) func() bool {
		return func() bool {
			for _, x := range s.txns {
				for _, p := range []string{"device_lists", "org.matrix.msc3202.device_lists"} {
					for _, u := range x.body.At(p, part).List() {
						if u.String() == user {
							return true
						}
					}
				}
			}
			return false
		}
	}
	bob, eve := hs.Login(t, "bob"), hs.Login(t, "eve")
	eve.CreateRoom(nil)
	bob.Join(room)
	s.until("bob as one to encrypt for", changed("changed", bob.UserID))
	bob.Leave(room)
	s.until("bob as one who left", changed("left", bob.UserID))
	s.mu.Lock()
	defer s.mu.Unlock()
	if changed("changed", eve.UserID)() {
		t.Error("it hears of somebody with whom it has no room")
	}
	for _, e := range s.list("ephemeral") {
		if e.At("room_id").String() == elsewhere || e.At("content", id, "m.read.private").Exists(alice.UserID) {
			t.Error("this is not its business:", e.Text())
		}
	}
	plain.mu.Lock()
	defer plain.mu.Unlock()
	for _, x := range plain.txns {
		t.Error("one that is in no room and wants nothing got", x.raw)
	}
}

func TestThirdPartyNetworks(t *testing.T) {
	a, b, dead := newService(t, "a"), newService(t, "b"), newService(t, "dead")
	hs := withServices(t, a.registration("protocols: [irc, x]\n"), b.registration("protocols: [irc]\n"), dead.registration("protocols: [irc, gone]\n"))
	dead.web.Close()
	alice := hs.Login(t, "alice")
	answers := func(network string) func(r *http.Request) (int, any) {
		return func(r *http.Request) (int, any) {
			switch path := strings.TrimPrefix(r.URL.Path, "/base/_matrix/app/v1/thirdparty/"); path {
			case "protocol/irc":
				return 200, obj{"user_fields": []string{"nick"}, "location_fields": []string{"channel"}, "field_types": obj{}, "icon": "mxc://x/y",
					"instances": []obj{{"network_id": network, "desc": network, "fields": obj{}}}}
			case "location/irc":
				if q := r.URL.Query(); q.Get("channel") != "#x" || len(q) != 1 {
					t.Errorf("fields: %v", q)
				}
				return 200, []any{obj{"alias": "#" + network, "protocol": "irc", "fields": obj{}}, obj{"alias": 1}, "x"}
			case "user":
				if r.URL.Query().Get("userid") == "@b:x" && network == "netb" {
					return 200, []obj{{"userid": "@b:x", "protocol": "irc", "fields": obj{}}}
				}
				return 200, []obj{}
			}
			return 404, obj{"errcode": "M_NOT_FOUND"}
		}
	}
	a.set(func() { a.answer = answers("neta") })
	b.set(func() { b.answer = answers("netb") })
	v := alice.Must("GET", "/thirdparty/protocols", nil)
	if v.Exists("x") || v.Exists("gone") || !v.Exists("irc") {
		t.Fatal(v.Text())
	}
	var instances []string
	for _, i := range v.At("irc", "instances").List() {
		instances = append(instances, i.At("instance_id").String())
	}
	if !slices.Equal(instances, []string{"a|neta", "b|netb"}) {
		t.Error(instances)
	}
	asked := func() (n int) { a.set(func() { n = len(a.asked) }); return n }
	before := asked()
	alice.Must("GET", "/thirdparty/protocol/irc", nil)
	alice.Fails(404, mx.NotFound, "GET", "/thirdparty/protocol/x", nil)
	alice.Fails(404, mx.NotFound, "GET", "/thirdparty/protocol/other", nil)
	if asked() != before {
		t.Error("asked again at once")
	}
	if v := alice.Must("GET", "/thirdparty/location/irc?channel=%23x&access_token=secret", nil); len(v.List()) != 2 {
		t.Error(v.Text())
	}
	if v := alice.Must("GET", "/thirdparty/user?userid=@b:x", nil); len(v.List()) != 1 {
		t.Error(v.Text())
	}
	alice.Fails(404, mx.NotFound, "GET", "/thirdparty/user?userid=@c:x", nil)
	alice.Fails(404, mx.NotFound, "GET", "/thirdparty/user/irc?nick=x", nil)
	alice.Fails(404, mx.NotFound, "GET", "/thirdparty/location/other", nil)
	alice.Fails(400, mx.MissingParam, "GET", "/thirdparty/location", nil)

	// The directories of networks.
	main, irc := alice.CreateRoom(obj{"visibility": "public", "preset": "public_chat"}), alice.CreateRoom(nil)
	bot := *alice
	bot.Token = a.token
	bot.Must("PUT", "/directory/list/appservice/neta/"+url.PathEscape(irc), obj{"visibility": "public"})
	bot.Fails(404, mx.NotFound, "PUT", "/directory/list/appservice/neta/"+url.PathEscape("!none:x"), obj{"visibility": "public"})
	bot.Fails(400, mx.InvalidParam, "PUT", "/directory/list/appservice/neta/"+url.PathEscape(irc), obj{"visibility": "x"})
	bot.Fails(400, mx.MissingParam, "PUT", "/directory/list/appservice/neta/"+url.PathEscape(irc), obj{})
	alice.Fails(403, mx.Forbidden, "PUT", "/directory/list/appservice/neta/"+url.PathEscape(irc), obj{"visibility": "public"})
	rooms := func(o obj) (out []string) {
		for _, r := range alice.Must("POST", "/publicRooms", o).At("chunk").List() {
			out = append(out, r.At("room_id").String())
		}
		slices.Sort(out)
		return out
	}
	both := []string{main, irc}
	slices.Sort(both)
	for _, c := range []struct {
		ask  obj
		want []string
	}{
		{obj{}, []string{main}}, {obj{"third_party_instance_id": "a|neta"}, []string{irc}}, {obj{"include_all_networks": true}, both},
		{obj{"third_party_instance_id": "b|neta"}, nil}, {obj{"third_party_instance_id": "%|"}, nil},
	} {
		if got := rooms(c.ask); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.ask, got, c.want)
		}
	}
	alice.Fails(400, mx.InvalidParam, "POST", "/publicRooms", obj{"include_all_networks": true, "third_party_instance_id": "a|neta"})
	bot.Must("PUT", "/directory/list/appservice/neta/"+url.PathEscape(irc), obj{"visibility": "private"})
	if got := rooms(obj{"third_party_instance_id": "a|neta"}); got != nil {
		t.Error(got)
	}
}

// Rooms and users are made by their service when somebody asks for them.
func TestNamesOnDemand(t *testing.T) {
	s := newService(t, "irc")
	hs := withServices(t, s.registration(""))
	alice := hs.Login(t, "alice")
	ghost := s.as(hs, "irc_ghost", "")
	room := ghost.must("POST", "/createRoom", obj{"preset": "public_chat"}).At("room_id").String()
	alias := "#irc_room:" + hstest.Server
	var asked []string
	s.set(func() {
		s.answer = func(r *http.Request) (int, any) {
			name, _ := url.PathUnescape(strings.TrimPrefix(r.URL.EscapedPath(), "/base/_matrix/app/v1/"))
			asked = append(asked, name)
			switch name {
			case "rooms/" + alias:
				ghost.must("PUT", "/directory/room/"+url.PathEscape(alias), obj{"room_id": room})
				return 200, obj{}
			case "users/@irc_new:" + hstest.Server:
				return 200, obj{}
			}
			return 404, obj{"errcode": "M_NOT_FOUND"}
		}
	})
	if v := alice.Must("POST", "/join/"+url.PathEscape(alias), obj{}); v.At("room_id").String() != room {
		t.Fatal(v.Text())
	}
	alice.Must("GET", "/directory/room/"+url.PathEscape(alias), nil)
	for range 2 { // it said no a moment ago
		alice.Fails(404, mx.NotFound, "GET", "/directory/room/"+url.PathEscape("#irc_none:"+hstest.Server), nil)
	}
	alice.Fails(404, mx.NotFound, "GET", "/directory/room/"+url.PathEscape("#other:"+hstest.Server), nil)
	own := alice.CreateRoom(nil)
	alice.Must("POST", hstest.Room(own)+"/invite", obj{"user_id": "@irc_new:" + hstest.Server})
	alice.Must("POST", hstest.Room(own)+"/invite", obj{"user_id": ghost.UserID})
	s.set(func() {
		if want := []string{"rooms/" + alias, "rooms/#irc_none:" + hstest.Server, "users/@irc_new:" + hstest.Server}; !slices.Equal(asked, want) {
			t.Errorf("asked %q, want %q", asked, want)
		}
	})
	s.web.Close()
	alice.Fails(408, mx.Unknown, "POST", "/join/"+url.PathEscape("#irc_late:"+hstest.Server), obj{})
}
