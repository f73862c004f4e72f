package api

import (
	"strings"
	"testing"
)

// TestHTTP: what holds for every path.
func TestHTTP(t *testing.T) {
	t.Parallel()
	u, n := newUser(t, "http"), nobody(t)
	id := u.public()
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/_matrix/client/v3/no/such/thing", 404}, {"GET", "/_matrix/client/unstable/nothing", 404}, {"GET", "/_matrix/nothing", 404},
		{"POST", "/_matrix/client/v3/nothing", 404}, {"GET", "/_matrix/client/v9/sync", 404}, {"GET", "/_matrix/media/v3/nothing", 404},
		{"GET", "/_matrix/federation/v9/x", 404}, {"GET", "/_matrix/key/v9/x", 404}, {"GET", "/_matrix", 404}, {"GET", "/_matrix/", 404},
		{"PUT", "/_matrix/client/v3/sync", 405}, {"GET", "/_matrix/client/v3/createRoom", 405}, {"PUT", "/_matrix/client/v3/login", 405},
		{"PATCH", "/_matrix/client/v3/login", 405}, {"DELETE", "/_matrix/client/versions", 405}, {"POST", "/_matrix/client/v3/account/whoami", 405},
		{"POST", "/_matrix/client/v3/keys/changes", 405}, {"GET", "/_matrix/media/v3/upload", 405},
	} {
		a := u.fails(c.status, "M_UNRECOGNIZED", c.method, c.path, nil)
		if a.header.Get("Access-Control-Allow-Origin") != "*" || !strings.HasPrefix(a.header.Get("Content-Type"), "application/json") {
			t.Errorf("%s: headers of an error: %v", a.what, a.header)
		}
	}
	for _, p := range []string{"/sync", "/nothing", "/login", room(id) + "/send/m.room.message/1", "/_matrix/media/v3/upload", "/.well-known/matrix/client"} {
		a := n.do("OPTIONS", p, nil)
		if a.status != 200 && a.status != 204 {
			t.Errorf("OPTIONS %s: %d", p, a.status)
		}
		for k, want := range map[string]string{"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": "PUT", "Access-Control-Allow-Headers": "Authorization"} {
			if !strings.Contains(a.header.Get(k), want) {
				t.Errorf("OPTIONS %s: %s is %q", p, k, a.header.Get(k))
			}
		}
	}
	a := n.fails(401, "M_MISSING_TOKEN", "GET", "/sync", nil)
	same(t, "CORS of a 401", a.header.Get("Access-Control-Allow-Origin"), "*")
	// HEAD is GET without the body; a path may be percent-encoded anywhere.
	if a := n.do("HEAD", "/_matrix/client/versions", nil); a.status != 200 || len(a.body) != 0 {
		t.Errorf("HEAD: %d", a.status)
	}
	u.ok("GET", "/rooms/"+strings.ReplaceAll(strings.ReplaceAll(id, "!", "%21"), ":", "%3A")+"/state", nil)
	u.ok("GET", "/rooms/"+id+"/state", nil)
	u.ok("GET", "/profile/"+strings.ReplaceAll(u.id, "@", "%40"), nil)
	u.ok("PUT", room(id)+"/state/com.example.slash/a%2Fb%20c%3F", obj{"n": 1})
	same(t, "state key with a slash", u.ok("GET", room(id)+"/state/com.example.slash/a%2Fb%20c%3F", nil).At("n").Int(), 1)
	// Content-Type does not matter for JSON.
	for _, ct := range []string{"", "text/plain", "application/x-www-form-urlencoded"} {
		if a := u.send("POST", "/createRoom", ct, strings.NewReader("{}")); a.status != 200 {
			t.Errorf("createRoom as %q: %d %s", ct, a.status, a.body)
		}
	}
}

// TestBadJSON: what is no JSON, or not the JSON that events are made of.
func TestBadJSON(t *testing.T) {
	t.Parallel()
	u := newUser(t, "json")
	id := u.public()
	for _, c := range []struct{ name, body, code string }{
		{"cut off", `{"body":`, "M_NOT_JSON"}, {"no JSON", `body`, "M_NOT_JSON"}, {"array", `[]`, "M_BAD_JSON|M_NOT_JSON"}, {"string", `"x"`, "M_BAD_JSON|M_NOT_JSON"},
		{"null", `null`, "M_BAD_JSON|M_NOT_JSON"}, {"two values", `{} {}`, "M_NOT_JSON"}, {"NaN", `{"n":NaN}`, "M_NOT_JSON|M_BAD_JSON"},
		{"Infinity", `{"n":Infinity}`, "M_NOT_JSON|M_BAD_JSON"}, {"-Infinity", `{"n":-Infinity}`, "M_NOT_JSON|M_BAD_JSON"},
		{"not UTF-8", "{\"body\":\"\xff\xfe\"}", "M_NOT_JSON"}, {"float", `{"n":1.5}`, "M_BAD_JSON"}, {"exponent", `{"n":1e400}`, "M_BAD_JSON|M_NOT_JSON"},
		{"too large a number", `{"n":9007199254740992}`, "M_BAD_JSON"}, {"too small a number", `{"n":-9007199254740992}`, "M_BAD_JSON"},
		{"deep", strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000), "M_BAD_JSON|M_NOT_JSON|M_TOO_LARGE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := &user{t: t, id: u.id, token: u.token}
			path := room(id) + "/send/m.room.message/" + unique("t")
			if c.name == "deep" {
				if a := u.do("PUT", path, c.body); a.status != 400 && a.status != 413 {
					t.Errorf("%d %s", a.status, a.body)
				}
				return
			}
			u.fails(400, c.code, "PUT", path, c.body)
			u.fails(400, c.code, "PUT", room(id)+"/state/com.example/x", c.body)
		})
	}
	u.ok("PUT", room(id)+"/send/m.room.message/"+unique("t"), `{"n":9007199254740991,"m":-9007199254740991}`)
	u.fails(413, "M_TOO_LARGE", "PUT", room(id)+"/send/m.room.message/"+unique("t"), obj{"body": strings.Repeat("x", 66000)})
	u.fails(413, "M_TOO_LARGE", "PUT", room(id)+"/send/m.room.message/"+unique("t"), obj{"body": strings.Repeat("x", 5<<20)})
	u.fails(413, "M_TOO_LARGE", "POST", "/createRoom", obj{"name": strings.Repeat("x", 5<<20)})
	for _, path := range []string{"/createRoom", "/join/" + esc(id), "/keys/query", "/keys/upload", "/user_directory/search", "/publicRooms", "/user/" + u.id + "/filter"} {
		u.fails(400, "M_NOT_JSON", "POST", path, `{"x"`)
		u.fails(400, "M_NOT_JSON|M_BAD_JSON", "POST", path, `[1]`)
		u.fails(400, "M_NOT_JSON", "POST", path, "{\"x\":\"\xff\"}")
	}
}
