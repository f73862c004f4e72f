package userdata_test

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"holdfast/homeserver/apitest"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/userdata"
	"holdfast/store"
)

type object = map[string]any

type world struct {
	*apitest.API
	t       testing.TB
	db      *store.DB
	s       *userdata.Service
	rooms   apitest.Rooms
	public  []string
	changed []userdata.Profile // what was brought into member events
	touch   []store.Touch
}

func setup(t testing.TB, people ...string) *world {
	w := &world{t: t, db: apitest.DB(t), rooms: apitest.Rooms{}}
	w.s = userdata.New(userdata.Options{DB: w.db, ServerName: apitest.Server, Rooms: w.rooms,
		PublicUsers: func(store.Querier) ([]string, error) { return w.public, nil },
		ProfileChanged: func(_ context.Context, userID string, p userdata.Profile) error {
			w.changed = append(w.changed, p)
			return nil
		}})
	w.API = apitest.New(t, w.s.Routes())
	w.write(func(tx *store.Tx) error {
		tx.NextPos() // 0 would mean a first sync
		for _, p := range people {
			name := strings.ToUpper(p[:1]) + p[1:]
			if err := w.s.Create(tx, mx.UserID(p, apitest.Server), name); err != nil {
				return err
			}
		}
		return nil
	})
	w.db.OnCommit(func(_ int64, touched []store.Touch) { w.touch = append(w.touch, touched...) })
	return w
}

func (w *world) write(f func(tx *store.Tx) error) {
	w.t.Helper()
	if err := w.db.Write(context.Background(), f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) since(user string, from int64) (global map[string]string, rooms map[string]map[string]string) {
	w.t.Helper()
	global, rooms = map[string]string{}, map[string]map[string]string{}
	err := w.db.Read(context.Background(), func(q store.Querier) error {
		g, byRoom, err := w.s.AccountDataSince(q, user, from, w.db.Pos())
		for _, d := range g {
			global[d.Type] = string(d.Content)
		}
		for id, list := range byRoom {
			rooms[id] = map[string]string{}
			for _, d := range list {
				rooms[id][d.Type] = string(d.Content)
			}
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return global, rooms
}

func (w *world) touched(kind, key string) bool {
	found := slices.ContainsFunc(w.touch, func(x store.Touch) bool { return x.Kind == kind && x.Key == key })
	w.touch = nil
	return found
}

func profilePath(user, field string) string {
	p := "/_matrix/client/v3/profile/" + user
	if field != "" {
		p += "/" + field
	}
	return p
}

func TestProfile(t *testing.T) {
	w := setup(t, "alice")
	alice, bob := w.As("alice", "A"), w.As("bob", "B")
	if got := w.Nobody().OK("GET", profilePath(alice.UserID, ""), nil, nil).JSON(t); got["displayname"] != "Alice" || len(got) != 1 {
		t.Fatal(got)
	}
	alice.OK("PUT", profilePath(alice.UserID, "displayname"), object{"displayname": "Alice <3"}, nil)
	alice.OK("PUT", profilePath(alice.UserID, "avatar_url"), object{"avatar_url": "mxc://example.org/a"}, nil)
	if len(w.changed) != 2 || w.changed[1] != (userdata.Profile{DisplayName: "Alice <3", AvatarURL: "mxc://example.org/a"}) {
		t.Fatal("rooms were told:", w.changed)
	}
	alice.OK("PUT", profilePath(alice.UserID, "avatar_url"), object{"avatar_url": "mxc://example.org/a"}, nil)
	alice.OK("PUT", profilePath(alice.UserID, "m.tz"), object{"m.tz": "Europe/Amsterdam"}, nil)
	alice.OK("PUT", "/_matrix/client/unstable/uk.tcpip.msc4133/profile/"+alice.UserID+"/org.example.team", object{"org.example.team": []int{1, 2}}, nil)
	if len(w.changed) != 2 {
		t.Fatal("what no member event shows is not brought there:", w.changed)
	}
	got := bob.OK("GET", profilePath(alice.UserID, ""), nil, nil).JSON(t)
	if got["displayname"] != "Alice <3" || got["avatar_url"] != "mxc://example.org/a" || got["m.tz"] != "Europe/Amsterdam" || len(got["org.example.team"].([]any)) != 2 {
		t.Fatal(got)
	}
	if got := bob.OK("GET", profilePath(alice.UserID, "m.tz"), nil, nil).JSON(t); got["m.tz"] != "Europe/Amsterdam" || len(got) != 1 {
		t.Fatal(got)
	}
	alice.OK("DELETE", profilePath(alice.UserID, "m.tz"), nil, nil)
	alice.OK("DELETE", profilePath(alice.UserID, "m.tz"), nil, nil) // again is fine
	alice.OK("DELETE", profilePath(alice.UserID, "displayname"), nil, nil)
	bob.Fails("GET", profilePath(alice.UserID, "m.tz"), nil, 404, mx.NotFound)
	bob.Fails("GET", profilePath(alice.UserID, "displayname"), nil, 404, mx.NotFound)
	if w.changed[len(w.changed)-1].DisplayName != "" {
		t.Fatal("rooms keep a deleted name")
	}
	bob.Fails("GET", profilePath("@nobody:example.org", ""), nil, 404, mx.NotFound)
	bob.Fails("GET", profilePath("nobody", ""), nil, 400, mx.InvalidParam)
	bob.Fails("PUT", profilePath(alice.UserID, "displayname"), object{"displayname": "x"}, 403, mx.Forbidden)
	bob.Fails("DELETE", profilePath(alice.UserID, "displayname"), nil, 403, mx.Forbidden)
	w.Nobody().Fails("PUT", profilePath(alice.UserID, "displayname"), object{"displayname": "x"}, 401, mx.MissingToken)
}

func TestProfileLimits(t *testing.T) {
	w := setup(t, "alice")
	alice := w.As("alice", "A")
	for _, c := range []struct {
		field string
		body  any
		code  mx.Code
	}{
		{"displayname", object{"displayname": 5}, mx.BadJSON},
		{"displayname", object{"displayname": strings.Repeat("x", 257)}, mx.InvalidParam},
		{"displayname", object{"displayname": "a\x00"}, mx.InvalidParam},
		{"displayname", object{"name": "x"}, mx.MissingParam},
		{"displayname", `[]`, mx.BadJSON},
		{"avatar_url", object{"avatar_url": strings.Repeat("x", 1001)}, mx.InvalidParam},
		{"avatar_url", object{"avatar_url": "https://example.org/me.png"}, mx.InvalidParam},
		{"avatar_url", object{"avatar_url": "mxc://example.org"}, mx.InvalidParam},
		{"avatar_url", object{"avatar_url": "mxc://example.org/../x"}, mx.InvalidParam},
		{"m.tz", object{"m.tz": 1}, mx.BadJSON},
		{"nodots", object{"nodots": 1}, mx.InvalidParam},
		{"Org.Example", object{"Org.Example": 1}, mx.InvalidParam},
		{"a." + strings.Repeat("x", 254), object{"a." + strings.Repeat("x", 254): 1}, "M_KEY_TOO_LARGE"},
		{"a.big", object{"a.big": strings.Repeat("x", 64<<10)}, "M_PROFILE_TOO_LARGE"},
	} {
		alice.Fails("PUT", profilePath(alice.UserID, c.field), c.body, 400, c.code)
	}
	alice.OK("PUT", profilePath(alice.UserID, "a.one"), object{"a.one": strings.Repeat("x", 40<<10)}, nil)
	alice.Fails("PUT", profilePath(alice.UserID, "a.two"), object{"a.two": strings.Repeat("x", 30<<10)}, 400, "M_PROFILE_TOO_LARGE")
	if got := alice.OK("GET", profilePath(alice.UserID, ""), nil, nil).JSON(t); got["a.two"] != nil || got["a.one"] == nil {
		t.Fatal("the profile holds", len(got), "fields")
	}
}

const room = "!room:example.org"

func TestAccountData(t *testing.T) {
	w := setup(t, "alice")
	alice, bob := w.As("alice", "A"), w.As("bob", "B")
	base := "/_matrix/client/v3/user/" + alice.UserID
	from := w.db.Pos()
	alice.Fails("GET", base+"/account_data/m.direct", nil, 404, mx.NotFound)
	alice.OK("PUT", base+"/account_data/m.direct", `{"@bob:example.org": ["!a:b"], "n": 0.5}`, nil)
	if !w.touched(notify.User, alice.UserID) {
		t.Fatal("nobody is woken")
	}
	alice.OK("PUT", base+"/rooms/"+room+"/account_data/org.example", `{"x": 1}`, nil)
	if got := alice.OK("GET", base+"/account_data/m.direct", nil, nil); string(got.Body) != `{"@bob:example.org":["!a:b"],"n":0.5}` {
		t.Fatal(string(got.Body))
	}
	alice.Fails("GET", base+"/account_data/org.example", nil, 404, mx.NotFound) // that was in the room
	global, rooms := w.since(alice.UserID, from)
	if len(global) != 1 || global["m.direct"] == "" || len(rooms) != 1 || rooms[room]["org.example"] != `{"x":1}` {
		t.Fatal(global, rooms)
	}
	// The same again is a change: clients wait for the echo.
	from = w.db.Pos()
	alice.OK("PUT", base+"/account_data/m.direct", `{"@bob:example.org": ["!a:b"], "n": 0.5}`, nil)
	if global, rooms := w.since(alice.UserID, from); len(global) != 1 || len(rooms) != 0 {
		t.Fatal(global, rooms)
	}
	if global, _ := w.since(bob.UserID, 0); len(global) != 1 || global["m.push_rules"] == "" {
		t.Fatal("a first sync has the push rules and nothing else:", global)
	}
	for _, path := range []string{"/account_data/m.push_rules", "/account_data/m.fully_read", "/rooms/" + room + "/account_data/m.fully_read"} {
		alice.Fails("PUT", base+path, `{}`, http.StatusMethodNotAllowed, mx.BadJSON)
	}
	alice.Fails("PUT", base+"/account_data/a.b", `[]`, 400, mx.BadJSON)
	alice.Fails("PUT", base+"/account_data/a.b", `{`, 400, mx.NotJSON)
	alice.Fails("PUT", base+"/account_data/a.b", nil, 400, mx.NotJSON)
	alice.Fails("PUT", base+"/account_data/a.b", `{"x":"`+strings.Repeat("x", 300<<10)+`"}`, 413, mx.TooLarge)
	alice.Fails("PUT", base+"/rooms/nonsense/account_data/a.b", `{}`, 400, mx.InvalidParam)
	bob.Fails("PUT", base+"/account_data/a.b", `{}`, 403, mx.Forbidden)
	bob.Fails("GET", base+"/account_data/m.direct", nil, 403, mx.Forbidden)
}

func TestIgnoredUsers(t *testing.T) {
	w := setup(t, "alice")
	alice := w.As("alice", "A")
	ignored := func() (m map[string]bool) {
		w.db.Read(t.Context(), func(q store.Querier) (err error) {
			m, err = w.s.Ignored(q, alice.UserID)
			return err
		})
		return m
	}
	if len(ignored()) != 0 {
		t.Fatal(ignored())
	}
	path := "/_matrix/client/v3/user/" + alice.UserID + "/account_data/m.ignored_user_list"
	alice.OK("PUT", path, `{"ignored_users": {"@eve:example.org": {}}}`, nil)
	if !ignored()["@eve:example.org"] {
		t.Fatal("the list in memory is old")
	}
	alice.OK("PUT", path, `{"ignored_users": 5}`, nil)
	if len(ignored()) != 0 {
		t.Fatal(ignored())
	}
}

func TestTags(t *testing.T) {
	w := setup(t, "alice")
	alice, bob := w.As("alice", "A"), w.As("bob", "B")
	base := "/_matrix/client/v3/user/" + alice.UserID + "/rooms/" + room + "/tags"
	from := w.db.Pos()
	if got := alice.OK("GET", base, nil, nil); string(got.Body) != "{\"tags\":{}}\n" {
		t.Fatal(string(got.Body))
	}
	alice.OK("PUT", base+"/m.favourite", object{"order": 0.25}, nil)
	alice.OK("PUT", base+"/u.work", nil, nil)
	alice.OK("DELETE", base+"/m.nothing", nil, nil)
	_, rooms := w.since(alice.UserID, from)
	if rooms[room]["m.tag"] != `{"tags":{"m.favourite":{"order":0.25},"u.work":{}}}` {
		t.Fatal(rooms)
	}
	alice.OK("DELETE", base+"/m.favourite", nil, nil)
	var got struct{ Tags map[string]object }
	alice.OK("GET", base, nil, &got)
	if len(got.Tags) != 1 || got.Tags["u.work"] == nil {
		t.Fatal(got)
	}
	alice.Fails("PUT", base+"/x", object{"order": "first"}, 400, mx.BadJSON)
	alice.Fails("PUT", base+"/"+strings.Repeat("x", 256), nil, 400, mx.InvalidParam)
	bob.Fails("GET", base, nil, 403, mx.Forbidden)
	// A client may put anything into m.tag: the endpoints go on.
	alice.OK("PUT", "/_matrix/client/v3/user/"+alice.UserID+"/rooms/"+room+"/account_data/m.tag", `{"tags": 7}`, nil)
	alice.OK("PUT", base+"/u.work", nil, nil)
	alice.OK("GET", base, nil, &got)
}

func TestFilters(t *testing.T) {
	w := setup(t, "alice")
	alice, bob := w.As("alice", "A"), w.As("bob", "B")
	path := "/_matrix/client/v3/user/" + alice.UserID + "/filter"
	id := func(body string) string {
		var got struct {
			ID string `json:"filter_id"`
		}
		alice.OK("POST", path, body, &got)
		return got.ID
	}
	one := id(`{"room":{"timeline":{"limit":10}},"event_fields":["type"]}`)
	if one == "" || one[0] == '{' {
		t.Fatal(one)
	}
	if again := id(` {"event_fields":["type"], "room":{"timeline":{"limit":10}}}`); again != one {
		t.Fatal("the same filter has two IDs:", one, again)
	}
	if other := id(`{"room":{"timeline":{"limit":11}}}`); other == one {
		t.Fatal("two filters have one ID")
	}
	id(`{}`)
	id(`{"room":{"rooms":[]},"org.example":0.5}`)
	if got := alice.OK("GET", path+"/"+one, nil, nil).JSON(t); got["room"].(object)["timeline"].(object)["limit"] != 10.0 {
		t.Fatal(got)
	}
	alice.Fails("GET", path+"/none", nil, 404, mx.NotFound)
	bob.Fails("GET", path+"/"+one, nil, 403, mx.Forbidden)
	bob.Fails("GET", "/_matrix/client/v3/user/"+bob.UserID+"/filter/"+one, nil, 404, mx.NotFound)
	for _, bad := range []string{`[]`, `{"room":[]}`, `{"room":{"rooms":"!a:b"}}`, `{"room":{"timeline":{"limit":"5"}}}`, `{"room":{"state":{"limit":-1}}}`,
		`{"presence":{"not_senders":[1]}}`, `{"event_format":"x"}`, `{"event_fields":"x"}`, `{"room":{"timeline":{"lazy_load_members":1}}}`} {
		alice.Fails("POST", path, bad, 400, mx.BadJSON)
	}
	alice.Fails("POST", path, `{"x":"`+strings.Repeat("x", 70<<10)+`"}`, 413, mx.TooLarge)
}

func TestPushRules(t *testing.T) {
	w := setup(t, "alice")
	alice, bob := w.As("alice", "A"), w.As("bob", "B")
	const base = "/_matrix/client/v3/pushrules"
	type rule struct {
		ID      string `json:"rule_id"`
		Default bool
		Enabled bool
		Pattern string
		Actions []any
	}
	var all struct{ Global map[string][]rule }
	alice.OK("GET", base+"/", nil, &all)
	if len(all.Global["override"]) < 5 || all.Global["override"][0].ID != ".m.rule.master" || len(all.Global["underride"]) == 0 {
		t.Fatal(all.Global)
	}
	alice.OK("GET", base, nil, nil)
	var global map[string][]rule
	alice.OK("GET", base+"/global/", nil, &global)
	if len(global) != 6 { // the five of the specification and postcontent (MSC4306)
		t.Fatal(global)
	}

	from := w.db.Pos()
	alice.OK("PUT", base+"/global/content/cake", object{"pattern": "cake*", "actions": []any{"notify"}}, nil)
	if !w.touched(notify.User, alice.UserID) {
		t.Fatal("nobody is woken")
	}
	data, _ := w.since(alice.UserID, from)
	var synced struct{ Global map[string][]rule }
	if err := json.Unmarshal([]byte(data["m.push_rules"]), &synced); err != nil || synced.Global["content"][0].ID != "cake" {
		t.Fatal(err, data)
	}
	alice.OK("PUT", base+"/global/content/tea?after=cake", object{"pattern": "tea", "actions": []any{}}, nil)
	alice.OK("GET", base+"/", nil, &all)
	if c := all.Global["content"]; c[0].ID != "cake" || c[1].ID != "tea" || !c[1].Enabled || c[1].Default {
		t.Fatal(c)
	}
	alice.OK("PUT", base+"/global/override/.m.rule.master/enabled", object{"enabled": true}, nil)
	var enabled struct{ Enabled bool }
	alice.OK("GET", base+"/global/override/.m.rule.master/enabled", nil, &enabled)
	if !enabled.Enabled {
		t.Fatal("the rule is still off")
	}
	alice.OK("PUT", base+"/global/underride/.m.rule.message/actions", object{"actions": []any{"notify", object{"set_tweak": "highlight"}}}, nil)
	var actions struct{ Actions []any }
	alice.OK("GET", base+"/global/underride/.m.rule.message/actions", nil, &actions)
	if len(actions.Actions) != 2 {
		t.Fatal(actions)
	}
	var one rule
	alice.OK("GET", base+"/global/content/cake", nil, &one)
	if one.Pattern != "cake*" {
		t.Fatal(one)
	}
	err := w.db.Read(t.Context(), func(q store.Querier) error {
		r, err := w.s.Rules(q, alice.UserID)
		if m, _ := r.Get("override", ".m.rule.master"); m == nil || !m.Enabled {
			t.Error("the rules for evaluation are old")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// A second service on the same store has the same rules: they are stored.
	other := userdata.New(userdata.Options{DB: w.db, ServerName: apitest.Server, Rooms: w.rooms})
	var again struct{ Global map[string][]rule }
	apitest.New(t, other.Routes()).As("alice", "A").OK("GET", base+"/", nil, &again)
	if c := again.Global["content"]; len(c) < 2 || c[0].ID != "cake" || c[1].ID != "tea" {
		t.Fatal(again.Global["content"])
	}
	if !again.Global["override"][0].Enabled {
		t.Fatal("the change of a default rule was not stored")
	}
	bob.OK("GET", base+"/", nil, &all)
	if all.Global["override"][0].Enabled {
		t.Fatal("alice's change is in bob's rules")
	}

	alice.OK("DELETE", base+"/global/content/cake", nil, nil)
	alice.Fails("GET", base+"/global/content/cake", nil, 404, mx.NotFound)
	alice.Fails("DELETE", base+"/global/content/cake", nil, 404, mx.NotFound)
	alice.Fails("PUT", base+"/global/content/cake/enabled", object{"enabled": true}, 404, mx.NotFound)
	alice.Fails("PUT", base+"/global/content/tea/enabled", object{}, 400, mx.MissingParam)
	alice.Fails("PUT", base+"/global/content/tea/actions", object{}, 400, mx.MissingParam)
	alice.Fails("PUT", base+"/global/content/x", object{"pattern": "x"}, 400, mx.MissingParam)
	alice.Fails("PUT", base+"/global/content/.x", object{"pattern": "x", "actions": []any{}}, 400, mx.InvalidParam)
	alice.Fails("PUT", base+"/global/content/x?before=none", object{"pattern": "x", "actions": []any{}}, 400, mx.Unknown)
	alice.Fails("PUT", base+"/global/nokind/x", object{"actions": []any{}}, 400, mx.InvalidParam)
}

func TestUserDirectory(t *testing.T) {
	w := setup(t, "alice", "bob", "carol", "bobby", "dave")
	alice := w.As("alice", "A")
	w.rooms["!a"] = []string{alice.UserID, "@bob:example.org"}
	w.public = []string{"@bobby:example.org"}
	search := func(body any) (ids []string, limited bool) {
		var got struct {
			Limited bool
			Results []struct {
				UserID string `json:"user_id"`
				Name   string `json:"display_name"`
			}
		}
		alice.OK("POST", "/_matrix/client/v3/user_directory/search", body, &got)
		for _, r := range got.Results {
			ids = append(ids, mx.Localpart(r.UserID))
			if r.Name == "" {
				t.Error("no name")
			}
		}
		return ids, got.Limited
	}
	want := func(term string, ids ...string) {
		t.Helper()
		if got, _ := search(object{"search_term": term}); !slices.Equal(got, ids) {
			t.Fatalf("%q: %v, want %v", term, got, ids)
		}
	}
	want("bob", "bob", "bobby")
	want("BOBB", "bobby")
	want("aro")            // carol shares nothing
	want("carol", "carol") // but she is named in full
	want("@dave:example.org", "dave")
	want("alice") // not oneself
	w.As("bobby", "B").OK("PUT", profilePath("@bobby:example.org", "displayname"), object{"displayname": "Robert Ångström"}, nil)
	want("ångström", "bobby")
	want("robert ång", "bobby")
	want("robert xyz")
	if got, limited := search(object{"search_term": "", "limit": 1}); len(got) != 1 || !limited {
		t.Fatal(got, limited)
	}
	w.write(func(tx *store.Tx) error { return w.s.Deactivated(tx, "@bob:example.org") })
	want("bob", "bobby")
	alice.Fails("GET", profilePath("@bob:example.org", ""), nil, 404, mx.NotFound)
}

func FuzzAccountData(f *testing.F) {
	w := setup(f, "alice")
	c := w.As("alice", "A")
	f.Add("m.direct", `{"a":[1,2.5,{"b":null}]}`)
	f.Add("m.tag", `{"tags":{"x":1}}`)
	f.Add("m.ignored_user_list", `{"ignored_users":{"@a:b":5}}`)
	f.Add("x", ` {"a":"\ud800"} `)
	f.Fuzz(func(t *testing.T, typ, body string) {
		alice := c.In(t)
		base := "/_matrix/client/v3/user/" + alice.UserID
		path := base + "/account_data/" + urlEscape(typ)
		if a := alice.Do("PUT", path, body); a.Status == 200 {
			if got := alice.OK("GET", path, nil, nil); !json.Valid(got.Body) || got.Body[0] != '{' {
				t.Fatalf("stored %q, got %q", body, got.Body)
			}
		} else if a.Status >= 500 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		for method, path := range map[string]string{"POST": base + "/filter", "PUT": "/_matrix/client/v3/pushrules/global/override/x"} {
			if a := alice.Do(method, path, body); a.Status >= 500 {
				t.Fatalf("%s: %d %s", path, a.Status, a.Body)
			}
		}
		if a := alice.Do("GET", "/_matrix/client/v3/pushrules/", nil); a.Status != 200 || !json.Valid(a.Body) {
			t.Fatalf("push rules: %d %s", a.Status, a.Body)
		}
	})
}

// urlEscape makes one path segment of anything.
func urlEscape(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	b.WriteByte('x')
	for i := range len(s) {
		b.WriteByte('%')
		b.WriteByte(hex[s[i]>>4])
		b.WriteByte(hex[s[i]&15])
	}
	return b.String()
}
