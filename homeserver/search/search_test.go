package search_test

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
	"holdfast/store"
)

type obj = hstest.Obj

// find searches and gives the category's answer.
func find(c *hstest.Client, term string, more obj, batch ...string) hstest.Value {
	events := obj{"search_term": term}
	for k, v := range more {
		events[k] = v
	}
	path := "/search"
	if len(batch) > 0 {
		path += "?next_batch=" + url.QueryEscape(batch[0])
	}
	return c.Must("POST", path, obj{"search_categories": obj{"room_events": events}}).At("search_categories", "room_events")
}

// texts are what the results say, names and topics too.
func texts(v hstest.Value) []string {
	out := []string{}
	for _, r := range v.At("results").List() {
		for _, k := range []string{"body", "name", "topic"} {
			if s := r.At("result", "content", k); s.V != nil {
				out = append(out, s.String())
			}
		}
	}
	return out
}

var recent = obj{"order_by": "recent"}

func expect(t *testing.T, v hstest.Value, want ...string) {
	t.Helper()
	if got := texts(v); !slices.Equal(got, want) && len(got)+len(want) > 0 {
		t.Errorf("found %q, want %q", got, want)
	}
	if v.At("count").Int() < len(want) {
		t.Errorf("counted %d of %d", v.At("count").Int(), len(want))
	}
}

func TestWords(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(obj{"name": "Harbour office", "topic": "Ships and tides"})
	for _, s := range []string{"The quick brown fox", "quick, but not brown", "Über den Fluß", "你好世界", "カタカナとひらがな", "well done 👍🏽 team",
		`she said "stop"`, "foo-bar_baz", "mañana e\u0301te\u0301", "हिन्दी भाषा", "สวัสดีชาวโลก", "null \x00 byte", "C++ and C#", "one two three"} {
		alice.Send(room, s)
	}
	for term, want := range map[string][]string{
		"quick":            {"quick, but not brown", "The quick brown fox"},
		"brown quick":      {"quick, but not brown", "The quick brown fox"},
		`"quick brown"`:    {"The quick brown fox"},
		"qui":              {"quick, but not brown", "The quick brown fox"},
		"QUICK fox":        {"The quick brown fox"},
		"quick cat":        {},
		"uber":             {"Über den Fluß"},
		"fluß":             {"Über den Fluß"},
		"世界":               {"你好世界"},
		"好世":               {"你好世界"},
		"界世":               {},
		"ひらがな":             {"カタカナとひらがな"},
		"👍":                {"well done 👍🏽 team"},
		`"stop"`:           {`she said "stop"`},
		`"stop`:            {`she said "stop"`},
		"foo-bar":          {"foo-bar_baz"},
		"foo-ba":           {},
		"foo-bar_b":        {},
		"qui*":             {"quick, but not brown", "The quick brown fox"},
		"foo!":             {"foo-bar_baz"},
		"manana":           {"mañana e\u0301te\u0301"},
		"\u00e9t\u00e9":    {"mañana e\u0301te\u0301"},
		"ete":              {"mañana e\u0301te\u0301"},
		"हिन्दी":           {"हिन्दी भाषा"},
		"ชาวโลก":           {"สวัสดีชาวโลก"},
		"null byte":        {"null \x00 byte"},
		"c++":              {"C++ and C#"},
		"harbour":          {"Harbour office"},
		"tides":            {"Ships and tides"},
		"one OR four":      {},
		"one NOT two":      {},
		"body:one":         {},
		"one AND three":    {},
		"NEAR(one three)":  {},
		"three one":        {"one two three"},
		"one two three ?!": {"one two three"},
	} {
		t.Run(term, func(t *testing.T) { expect(t, find(alice, term, recent), want...) })
	}
	// Words that mean something to the index mean themselves.
	alice.Send(room, "either this OR that")
	expect(t, find(alice, "this OR that", nil), "either this OR that")
}

// Whatever is typed, the answer is one: results, or what is wrong with it.
func TestAnyInput(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(nil)
	alice.Send(room, "something")
	for _, term := range []string{"", " ", `"`, `""`, `"""`, "*", "^", "^some", "some*", "(", ")", "()", "{", "}", "+", "-", "-some", "NOT", "AND", "OR", "NEAR",
		"NEAR(a b, 5)", "text : some", "search_index : x", "'", "''; DROP TABLE search_index", "\\", "%", "_", "\x00", "a\x00b", "\x02", "\x02some\x03", "\u200d", "\ufe0f", "\ufffd",
		"\U0010ffff", "\ue000", "\u0301", strings.Repeat("(", 1000), strings.Repeat(`"`, 999), strings.Repeat("a", 4096), strings.Repeat("世", 1300), "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "👩‍👩‍👧‍👦", "\u202e"} {
		v := find(alice, term, nil)
		if !v.Exists("results") || !v.Exists("highlights") || v.At("count").Int() < 0 {
			t.Errorf("%.40q: %s", term, v.Text())
		}
	}
	for name, in := range map[string]any{
		"long":        obj{"search_term": strings.Repeat("a", 4097)},
		"many words":  obj{"search_term": words(65)},
		"keys":        obj{"search_term": "x", "keys": []string{"content.url"}},
		"order":       obj{"search_term": "x", "order_by": "rank_desc"},
		"groups":      obj{"search_term": "x", "groupings": obj{"group_by": []obj{{"key": "type"}}}},
		"context":     obj{"search_term": "x", "event_context": obj{"before_limit": -1}},
		"filter":      obj{"search_term": "x", "filter": obj{"limit": "many"}},
		"term":        obj{"search_term": 1},
		"no term":     obj{},
		"event limit": obj{"search_term": "x", "filter": obj{"limit": -1}},
	} {
		if a := alice.Do("POST", "/search", obj{"search_categories": obj{"room_events": in}}); a.Status != 400 || a.JSON.At("errcode").String() == "" {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	alice.Fails(400, mx.MissingParam, "POST", "/search", obj{})
	alice.Fails(400, mx.InvalidParam, "POST", "/search?next_batch=x", obj{"search_categories": obj{"room_events": obj{"search_term": "x"}}})
	if v := alice.Must("POST", "/search", obj{"search_categories": obj{}}); len(v.At("search_categories").Keys()) != 0 {
		t.Errorf("nothing was asked: %s", v.Text())
	}
}

func words(n int) string {
	var l []string
	for i := range n {
		l = append(l, fmt.Sprint("w", i))
	}
	return strings.Join(l, " ")
}

func TestKeysFilterAndTopics(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat", "name": "tide in the name", "topic": "tide in the topic"})
	other := alice.CreateRoom(nil)
	bob.Join(room)
	bob.Send(room, "tide of bob")
	alice.Send(other, "tide elsewhere")
	alice.SendEvent(room, mx.RoomMessage, obj{"msgtype": "m.image", "body": "tide in a picture", "url": "mxc://example.org/a"})
	alice.SendEvent(room, "org.example.note", obj{"body": "tide in an event of another kind"})
	all := []string{"tide in a picture", "tide elsewhere", "tide of bob", "tide in the topic", "tide in the name"}
	expect(t, find(alice, "tide", recent), all...)
	with := func(k string, v any) obj { return obj{"order_by": "recent", k: v} }
	for _, c := range []struct {
		more obj
		want []string
	}{
		{with("keys", []string{}), all},
		{with("keys", []string{"content.name"}), all[4:]},
		{with("keys", []string{"content.topic", "content.name"}), all[3:]},
		{with("keys", []string{"content.body"}), all[:3]},
		{with("filter", nil), all},
		{with("filter", obj{"rooms": []string{other}}), all[1:2]},
		{with("filter", obj{"rooms": []string{}}), nil},
		{with("filter", obj{"not_rooms": []string{other}, "types": []string{"m.room.m*"}}), []string{all[0], all[2]}},
		{with("filter", obj{"senders": []string{bob.UserID}}), all[2:3]},
		{with("filter", obj{"not_senders": []string{alice.UserID}}), all[2:3]},
		{with("filter", obj{"contains_url": true}), all[:1]},
		{with("filter", obj{"contains_url": false, "types": []string{mx.RoomMessage}}), all[1:3]},
		{with("filter", obj{"limit": 2}), all[:2]},
	} {
		if got := texts(find(alice, "tide", c.more)); !slices.Equal(got, c.want) && len(got)+len(c.want) > 0 {
			t.Errorf("%v: %q, want %q", c.more, got, c.want)
		}
	}
	alice.SendState(room, mx.RoomTopic, "", obj{"topic": "plain", "m.topic": obj{"m.text": []obj{{"body": "<b>formattedword</b>", "mimetype": "text/html"}, {"body": "representation"}}}})
	expect(t, find(alice, "representation", nil), "plain")
	expect(t, find(alice, "formattedword", nil))
}

func TestOnlyWhatTheSearcherMaySee(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	room := alice.CreateRoom(obj{"preset": "public_chat", "initial_state": []obj{{"type": mx.RoomHistoryVisibility, "content": obj{"history_visibility": "joined"}}}})
	alice.Send(room, "secret before")
	bob.Join(room)
	alice.Send(room, "secret shared")
	original := alice.Send(room, "secret draft")
	bob.Leave(room)
	alice.Send(room, "secret after")
	alice.SendEvent(room, mx.RoomMessage, obj{"msgtype": "m.text", "body": "* final", "m.new_content": obj{"msgtype": "m.text", "body": "final version"},
		"m.relates_to": obj{"rel_type": "m.replace", "event_id": original}})
	// A former member finds what was said while they were there, in its words of then.
	expect(t, find(bob, "secret", recent), "secret draft", "secret shared")
	v := find(bob, "secret draft", obj{"event_context": obj{}})
	if strings.Contains(v.Text(), "final") || strings.Contains(v.Text(), "secret after") {
		t.Errorf("a former member learns what came later: %s", v.Text())
	}
	expect(t, find(bob, "final", nil))
	expect(t, find(alice, "final", nil), "secret draft")
	expect(t, find(alice, "secret", recent), "secret after", "secret shared", "secret before")
	expect(t, find(carol, "secret", nil))
	carol.Join(room)
	expect(t, find(carol, "secret", nil))
	// What was forgotten is not searched, until one comes back.
	bob.Must("POST", hstest.Room(room)+"/forget", obj{})
	expect(t, find(bob, "secret", nil))
	bob.Join(room)
	expect(t, find(bob, "secret", recent), "secret draft", "secret shared")
	// Of an ignored user nothing is found.
	bob.Must("PUT", "/user/"+bob.UserID+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{alice.UserID: obj{}}})
	expect(t, find(bob, "secret", nil))
}

func TestEncryptedRoomsAreNotSearched(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(obj{"name": "hidden name"})
	alice.Send(room, "hidden words")
	expect(t, find(alice, "hidden", recent), "hidden words", "hidden name")
	alice.SendState(room, mx.RoomEncryption, "", obj{"algorithm": "m.megolm.v1.aes-sha2"})
	expect(t, find(alice, "hidden", nil))
}

func TestEditsAndRedactions(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	id := alice.Send(room, "herring")
	edit := func(c *hstest.Client, text string) string {
		return c.SendEvent(room, mx.RoomMessage, obj{"msgtype": "m.text", "body": "* " + text, "m.new_content": obj{"msgtype": "m.text", "body": text},
			"m.relates_to": obj{"rel_type": "m.replace", "event_id": id}})
	}
	found := func(term string) bool {
		t.Helper()
		v := find(alice, term, nil)
		for _, r := range v.At("results").List() {
			if r.At("result", "event_id").String() != id {
				t.Errorf("%s: another event is found: %s", term, r.Text())
			}
		}
		return len(v.At("results").List()) == 1
	}
	expectFound := func(want string) {
		t.Helper()
		for _, w := range []string{"herring", "mackerel", "salmon", "forgery"} {
			if found(w) != (w == want) {
				t.Errorf("%s is found: %v; the latest text is %s", w, found(w), want)
			}
		}
	}
	expectFound("herring")
	edit(alice, "mackerel")
	expectFound("mackerel")
	edit(bob, "forgery")
	expectFound("mackerel")
	last := edit(alice, "salmon")
	expectFound("salmon")
	if v := find(alice, "salmon", nil); v.At("results", "0", "result", "unsigned", "m.relations", "m.replace", "event_id").String() != last ||
		!slices.Equal(strs(v.At("highlights")), []string{"salmon"}) {
		t.Errorf("%s", v.Text())
	}
	alice.Redact(room, last)
	expectFound("mackerel")
	alice.Redact(room, id)
	expectFound("")
	hs.Restart()
	expectFound("")
	// Nothing of it is left in the file.
	err := hs.DB.Read(context.Background(), func(q store.Querier) error {
		var n int
		if err := q.QueryRow(`SELECT count(*) FROM search_texts WHERE text LIKE '%erring%' OR text LIKE '%salmon%' OR text LIKE '%mackerel%'`).Scan(&n); err != nil {
			return err
		}
		if n != 0 {
			t.Errorf("%d texts are left", n)
		}
		return q.QueryRow(`SELECT count(*) FROM search_index WHERE search_index MATCH 'herring OR salmon OR mackerel'`).Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func strs(v hstest.Value) []string {
	out := []string{}
	for _, s := range v.List() {
		out = append(out, s.String())
	}
	return out
}

func TestOrderRankAndHighlights(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(nil)
	alice.Send(room, "anchor anchor anchor")
	alice.Send(room, "an Anchor among so many other words that it hardly counts for anything at all")
	for i := range 30 {
		alice.Send(room, fmt.Sprint("filler ", i))
	}
	v := find(alice, "anchor", nil) // rank is the default
	if got := texts(v); len(got) != 2 || got[0] != "anchor anchor anchor" {
		t.Errorf("by rank: %q", got)
	}
	r := v.At("results")
	if a, b := r.At("0", "rank").V.(float64), r.At("1", "rank").V.(float64); a <= b || b <= 0 {
		t.Errorf("ranks %v and %v", a, b)
	}
	if got := strs(v.At("highlights")); !slices.Equal(got, []string{"anchor"}) {
		t.Errorf("highlights %q", got)
	}
	if got := texts(find(alice, "anchor", recent)); len(got) != 2 || got[0] == "anchor anchor anchor" {
		t.Errorf("by time: %q", got)
	}
	if r.At("0", "context").V != nil || v.Exists("state") || v.Exists("groups") || v.Exists("next_batch") {
		t.Errorf("there is what was not asked for: %s", v.Text())
	}
	alice.Send(room, "Überraschung 世界地図")
	if got := strs(find(alice, "uberr 地図", nil).At("highlights")); !slices.Equal(got, []string{"Überraschung", "地図"}) {
		t.Errorf("highlights %q", got)
	}
}

func TestContextProfilesAndState(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(nil)
	for i := range 40 {
		alice.Send(room, fmt.Sprint("m", i))
	}
	alice.Send(room, "needle")
	alice.Must("PUT", "/profile/"+alice.UserID+"/displayname", obj{"displayname": "New name"})
	for i := 40; i < 80; i++ {
		alice.Send(room, fmt.Sprint("m", i))
	}
	v := find(alice, "needle", obj{"event_context": obj{"include_profile": true}, "include_state": true})
	c := v.At("results", "0", "context")
	if got := hstest.Bodies(c.At("events_before").List()); !slices.Equal(got, []string{"m39", "m38", "m37", "m36", "m35"}) {
		t.Errorf("before: %q", got)
	}
	if got := c.At("events_after").List(); len(got) != 5 || got[1].At("content", "body").String() != "m40" {
		t.Errorf("after: %s", c.At("events_after").Text())
	}
	if got := c.At("profile_info", alice.UserID, "displayname").String(); got != "alice" {
		t.Errorf("the profile of then is %q", got)
	}
	page := alice.Must("GET", hstest.Room(room)+"/messages?dir=b&limit=1&from="+c.At("start").String(), nil)
	if got := hstest.Bodies(page.At("chunk").List()); !slices.Equal(got, []string{"m34"}) {
		t.Errorf("on from start: %q", got)
	}
	page = alice.Must("GET", hstest.Room(room)+"/messages?dir=f&limit=1&from="+c.At("end").String(), nil)
	if got := hstest.Bodies(page.At("chunk").List()); !slices.Equal(got, []string{"m44"}) {
		t.Errorf("on from end: %q", got)
	}
	if m := hstest.Find(v.At("state", room).List(), mx.RoomMember, alice.UserID); m.At("content", "displayname").String() != "New name" {
		t.Errorf("the current state: %s", v.At("state").Text())
	}
	v = find(alice, "needle", obj{"event_context": obj{"before_limit": 1, "after_limit": 0}})
	c = v.At("results", "0", "context")
	if len(c.At("events_before").List()) != 1 || len(c.At("events_after").List()) != 0 || c.Exists("profile_info") {
		t.Errorf("%s", c.Text())
	}
	v = find(alice, "needle", obj{"event_context": obj{"before_limit": 1000}})
	if n := len(v.At("results", "0", "context", "events_before").List()); n != 20 {
		t.Errorf("%d events of context", n)
	}
}

func TestPagesAndGroups(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	rooms := []string{alice.CreateRoom(obj{"preset": "public_chat"}), alice.CreateRoom(obj{"preset": "public_chat"})}
	var all []string // newest first
	for i := range 30 {
		c := []*hstest.Client{alice, bob, alice}[i%3]
		if i < 2 {
			bob.Join(rooms[i])
		}
		text := fmt.Sprint("gull ", i)
		c.Send(rooms[i%2], text)
		all = append([]string{text}, all...)
	}
	for _, order := range []string{"recent", "rank"} {
		more := obj{"order_by": order, "filter": obj{"limit": 7}, "groupings": obj{"group_by": []obj{{"key": "room_id"}, {"key": "sender"}}}}
		var got []string
		var first hstest.Value
		batch := []string{}
		for page := 0; page < 10; page++ {
			v := find(alice, "gull", more, batch...)
			if page == 0 {
				first = v
				alice.Send(rooms[0], "gull that came while the pages were turned")
			}
			got = append(got, texts(v)...)
			if v.At("count").Int() < 30 {
				t.Errorf("%s: counted %d", order, v.At("count").Int())
			}
			if batch = []string{v.At("next_batch").String()}; batch[0] == "" {
				break
			}
		}
		if order == "rank" {
			slices.Sort(got)
			got = slices.DeleteFunc(got, func(s string) bool { return strings.HasPrefix(s, "gull that") }) // of the round before
			if n := len(slices.Compact(got)); n != 30 {
				t.Errorf("rank: %d of 30 on the pages", n)
			}
		} else if !slices.Equal(got, all) {
			t.Errorf("recent: %q", got)
		}
		// Each group goes on by itself.
		for key, values := range map[string][]string{"room_id": rooms, "sender": {alice.UserID, bob.UserID}} {
			orders := map[int]bool{}
			for _, value := range values {
				g := first.At("groups", key, value)
				orders[g.At("order").Int()] = true
				ids := strs(g.At("results"))
				for next := g.At("next_batch").String(); next != "" && len(ids) < 100; {
					v := find(alice, "gull", more, next)
					for _, r := range v.At("results").List() {
						if r.At("result", key).String() != value {
							t.Errorf("%s: the group of %s has %s", order, value, r.Text())
						}
						ids = append(ids, r.At("result", "event_id").String())
					}
					next = v.At("next_batch").String()
				}
				want := map[string]int{rooms[0]: 15, rooms[1]: 15, alice.UserID: 20, bob.UserID: 10}[value]
				if order == "rank" && (value == rooms[0] || value == alice.UserID) {
					want++
				}
				slices.Sort(ids)
				if n := len(slices.Compact(ids)); n != want || n != len(ids) {
					t.Errorf("%s: the group of %s has %d results, %d different ones, want %d", order, value, len(ids), n, want)
				}
			}
			if !orders[1] || len(orders) != 2 {
				t.Errorf("%s: the orders of the groups by %s: %v", order, key, orders)
			}
		}
	}
}

// What was answered is found at once, also after the program ended at any moment.
func TestNeverStale(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(nil)
	for i := range 40 {
		word := fmt.Sprintf("word%dx", i)
		id := alice.Send(room, word)
		if i%10 == 3 {
			hs.Restart()
		}
		expect(t, find(alice, word, nil), word)
		if i%10 == 7 {
			alice.Redact(room, id)
			expect(t, find(alice, word, nil))
		}
	}
	// More at once than one write of the index takes, and more than is kept for it.
	for i := range 600 {
		alice.Send(room, fmt.Sprintf("many m%dm", i))
	}
	if n := find(alice, "many", nil).At("count").Int(); n != 600 {
		t.Errorf("%d of 600", n)
	}
}

// Events from before there was an index get into it.
func TestOlderEvents(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(obj{"topic": "ancient topic"})
	id := alice.Send(room, "ancient draft")
	alice.SendEvent(room, mx.RoomMessage, obj{"body": "*", "msgtype": "m.text", "m.new_content": obj{"body": "ancient version", "msgtype": "m.text"},
		"m.relates_to": obj{"rel_type": "m.replace", "event_id": id}})
	gone := alice.Send(room, "ancient and gone")
	alice.Redact(room, gone)
	for i := range 300 {
		alice.Send(room, fmt.Sprintf("ancient %d", i))
	}
	find(alice, "ancient", nil)
	// As after the migration: nothing in the index, all events older than it.
	err := hs.DB.Write(context.Background(), func(tx *store.Tx) error {
		for _, sql := range []string{`INSERT INTO search_index (search_index) VALUES ('delete-all')`, `DELETE FROM search_texts`,
			`UPDATE search_progress SET low = (SELECT max(pos) FROM events), high = (SELECT max(pos) FROM events)`} {
			if _, err := tx.Exec(sql); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	hs.Restart()
	alice.Send(room, "ancient no more") // a new one does not wait for the old ones
	expect(t, find(alice, `"no more"`, nil), "ancient no more")
	for {
		if v := find(alice, "ancient", nil); v.At("count").Int() == 303 {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("the old events do not come")
		}
	}
	expect(t, find(alice, "draft", nil))
	expect(t, find(alice, `"ancient version"`, nil), "ancient draft")
	expect(t, find(alice, "gone", nil))
}

// Messages that are deleted leave the index, with their edits, or do not get there.
func TestPurge(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room, other := alice.CreateRoom(nil), alice.CreateRoom(nil)
	first := alice.Send(room, "flotsam one")
	alice.Send(other, "flotsam two")
	expect(t, find(alice, "flotsam", recent), "flotsam two", "flotsam one")
	purge := func() {
		t.Helper()
		for after := int64(0); ; {
			to := hs.DB.Pos()
			err := hs.DB.Write(context.Background(), func(tx *store.Tx) (err error) {
				after, _, err = hs.Rooms.PurgeHistory(tx, room, after, to, true, 3)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if after == to {
				return
			}
		}
	}
	alice.SendEvent(room, mx.RoomMessage, obj{"msgtype": "m.text", "body": "* jetsam", "m.new_content": obj{"msgtype": "m.text", "body": "flotsam jetsam"},
		"m.relates_to": obj{"rel_type": mx.RelReplace, "event_id": first}})
	expect(t, find(alice, "jetsam", recent), "flotsam one")
	alice.Send(room, "flotsam that never gets there")
	alice.Send(room, "the last one stays")
	purge()
	expect(t, find(alice, "flotsam", recent), "flotsam two")
	expect(t, find(alice, "jetsam", recent))
	expect(t, find(alice, "stays", recent), "the last one stays")
	var rows int
	err := hs.DB.Read(context.Background(), func(q store.Querier) error {
		return q.QueryRow(`SELECT count(*) FROM search_texts`).Scan(&rows)
	})
	if err != nil || rows != 2 {
		t.Errorf("there are %d texts, %v", rows, err)
	}
}

// What an erased person wrote is not found by who came later.
func TestErased(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	alice.Send(room, "regretted words")
	if err := hs.Timeline.Erase(context.Background(), alice.UserID); err != nil {
		t.Fatal(err)
	}
	carol.Join(room)
	expect(t, find(bob, "regretted", nil), "regretted words")
	expect(t, find(carol, "regretted", nil))
}
