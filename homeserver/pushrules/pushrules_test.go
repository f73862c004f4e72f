package pushrules

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
)

var update = flag.Bool("update", false, "rewrite golden files")

const me = "@me:hs"

var key = pdu.SigningKey{ID: "ed25519:1", Server: "hs", Private: ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", 32)))}

func event(t testing.TB, typ string, stateKey *string, content string) *pdu.Event {
	t.Helper()
	e, err := pdu.Build(pdu.V11, pdu.Proto{RoomID: "!r:hs", Sender: "@you:hs", Type: typ, StateKey: stateKey, Content: []byte(content)}, key)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func ptr(s string) *string { return &s }

// TestDefaults: what a client gets, to the byte, and which default rule decides.
func TestDefaults(t *testing.T) {
	got, err := json.MarshalIndent(Defaults(me), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/defaults.json"
	if *update {
		if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || strings.TrimSpace(string(want)) != string(got) {
		t.Errorf("the default rules are not those of %s (%v):\n%s", golden, err, got)
	}

	mod := func(sender, name string) bool { return sender == "@you:hs" && name == "room" }
	type any2 struct {
		typ     string
		state   *string
		content string
		members int
		may     func(string, string) bool
		rule    string
		notify  bool
		high    bool
	}
	for name, c := range map[string]any2{
		"message":               {typ: "m.room.message", content: `{"body":"x"}`, members: 3, rule: ".m.rule.message", notify: true},
		"message for two":       {typ: "m.room.message", content: `{"body":"x"}`, members: 2, rule: ".m.rule.room_one_to_one", notify: true},
		"encrypted":             {typ: "m.room.encrypted", content: `{}`, members: 3, rule: ".m.rule.encrypted", notify: true},
		"encrypted for two":     {typ: "m.room.encrypted", content: `{}`, members: 2, rule: ".m.rule.encrypted_room_one_to_one", notify: true},
		"notice":                {typ: "m.room.message", content: `{"body":"x","msgtype":"m.notice"}`, rule: ".m.rule.suppress_notices"},
		"call":                  {typ: "m.call.invite", content: `{}`, rule: ".m.rule.call", notify: true},
		"a call rings for me":   {typ: "org.matrix.msc4075.rtc.notification", content: `{"m.mentions":{"user_ids":["@me:hs"]},"notification_type":"ring"}`, rule: ".m.rule.is_user_mention", notify: true, high: true},
		"a call rings for all":  {typ: "org.matrix.msc4075.rtc.notification", content: `{"m.mentions":{"room":true},"notification_type":"ring"}`, may: mod, rule: ".m.rule.is_room_mention", notify: true, high: true},
		"a call rings for some": {typ: "org.matrix.msc4075.rtc.notification", content: `{"m.mentions":{"user_ids":["@a:b"]},"notification_type":"ring"}`, rule: ""},
		"a call is declined":    {typ: "org.matrix.msc4310.rtc.decline", content: `{"m.relates_to":{"rel_type":"m.reference","event_id":"$x"}}`, rule: ""},
		"mention":               {typ: "m.room.message", content: `{"body":"x","m.mentions":{"user_ids":["@a:b","@me:hs"]}}`, rule: ".m.rule.is_user_mention", notify: true, high: true},
		"mention of another":    {typ: "m.room.message", content: `{"body":"@me:hs","m.mentions":{"user_ids":["@a:b"]}}`, members: 9, rule: ".m.rule.message", notify: true},
		"mention, no list":      {typ: "m.room.message", content: `{"body":"x","m.mentions":{"user_ids":"@me:hs"}}`, members: 9, rule: ".m.rule.message", notify: true},
		"room":                  {typ: "m.room.message", content: `{"m.mentions":{"room":true}}`, may: mod, rule: ".m.rule.is_room_mention", notify: true, high: true},
		"room without power":    {typ: "m.room.message", content: `{"m.mentions":{"room":true}}`, members: 9, rule: ".m.rule.message", notify: true},
		"room as text":          {typ: "m.room.message", content: `{"m.mentions":{"room":"true"}}`, may: mod, members: 9, rule: ".m.rule.message", notify: true},
		"edit":                  {typ: "m.room.message", content: `{"m.relates_to":{"rel_type":"m.replace","event_id":"$x"}}`, rule: ".m.rule.suppress_edits"},
		"edit that mentions":    {typ: "m.room.message", content: `{"m.relates_to":{"rel_type":"m.replace","event_id":"$x"},"m.mentions":{"user_ids":["@me:hs"]}}`, rule: ".m.rule.is_user_mention", notify: true, high: true},
		"reaction":              {typ: "m.reaction", content: `{}`, rule: ".m.rule.reaction"},
		"tombstone":             {typ: "m.room.tombstone", state: ptr(""), content: `{}`, rule: ".m.rule.tombstone", notify: true, high: true},
		"no state":              {typ: "m.room.tombstone", content: `{}`, rule: ""},
		"server acl":            {typ: "m.room.server_acl", state: ptr(""), content: `{}`, rule: ".m.rule.room.server_acl"},
		"invite for me":         {typ: "m.room.member", state: ptr(me), content: `{"membership":"invite"}`, rule: ".m.rule.invite_for_me", notify: true},
		"invite for another":    {typ: "m.room.member", state: ptr("@a:b"), content: `{"membership":"invite"}`, rule: ".m.rule.member_event"},
		"topic":                 {typ: "m.room.topic", state: ptr(""), content: `{}`, rule: ""},
		"a dot is not a branch": {typ: "m.room.message", content: `{"m":{"mentions":{"room":true}}}`, may: mod, members: 9, rule: ".m.rule.message", notify: true},
	} {
		out := Compile(me, Defaults(me)).Evaluate(NewView(event(t, c.typ, c.state, c.content)), &RoomView{Members: c.members, MayNotify: c.may})
		if out.RuleID != c.rule || out.Notify != c.notify || out.Highlight != c.high {
			t.Errorf("%s: %+v, want rule %q notify %v highlight %v", name, out, c.rule, c.notify, c.high)
		}
	}
	if out := Compile("@you:hs", Defaults("@you:hs")).Evaluate(NewView(event(t, "m.room.message", nil, `{}`)), &RoomView{}); out.RuleID != "" {
		t.Errorf("an own message: %+v", out)
	}
}

// TestDefaultsAreTheSpecifications compares the default rules, to the byte in canonical
// JSON and in their order, with the definitions of the specification's text (v1.19),
// where the user's ID is a placeholder, and those of postcontent with MSC4306's.
func TestDefaultsAreTheSpecifications(t *testing.T) {
	text, err := os.ReadFile("testdata/specification.json")
	if err != nil {
		t.Fatal(err)
	}
	var want map[string][]json.RawMessage
	if err := json.Unmarshal([]byte(strings.ReplaceAll(string(text), "[the user's Matrix ID]", me)), &want); err != nil {
		t.Fatal(err)
	}
	defaults := Defaults(me)
	for _, kind := range Kinds {
		rules, _ := defaults.Rules(kind)
		if len(rules) != len(want[kind]) {
			t.Errorf("%d rules of kind %s, want %d", len(rules), kind, len(want[kind]))
			continue
		}
		for i, rule := range rules {
			raw, err := json.Marshal(rule)
			if err != nil {
				t.Fatal(err)
			}
			got, err := pdu.Canonical(raw)
			if err != nil {
				t.Fatal(err)
			}
			text, err := pdu.Canonical(want[kind][i])
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(text) {
				t.Errorf("%s rule %d:\n%s\nwant\n%s", kind, i, got, text)
			}
		}
	}
}

func TestConditions(t *testing.T) {
	e := event(t, "m.room.message", nil, `{"body":"Lunch at A.B's, 12 o'clock","n":5,"null":null,"yes":true,"deep":{"a.b":{"c":"X"},"back\\slash":"y"},"list":["a",1,null,true,{"x":1}],"empty":""}`)
	for cond, want := range map[string]bool{
		`{"kind":"event_match","key":"content.body","pattern":"lunch"}`:           true,
		`{"kind":"event_match","key":"content.body","pattern":"lun"}`:             false,
		`{"kind":"event_match","key":"content.body","pattern":"lun?h"}`:           true,
		`{"kind":"event_match","key":"content.body","pattern":"l*h"}`:             true,
		`{"kind":"event_match","key":"content.body","pattern":"unc"}`:             false,
		`{"kind":"event_match","key":"content.body","pattern":"LUNCH AT"}`:        true,
		`{"kind":"event_match","key":"content.body","pattern":"clock"}`:           true,
		`{"kind":"event_match","key":"content.body","pattern":"a.b"}`:             true,
		`{"kind":"event_match","key":"content.body","pattern":"a?b"}`:             true,
		`{"kind":"event_match","key":"content.body","pattern":""}`:                false,
		`{"kind":"event_match","key":"content.body","pattern":"*"}`:               false,
		`{"kind":"event_match","key":"content.empty","pattern":""}`:               true,
		`{"kind":"event_match","key":"content.empty","pattern":"*"}`:              true,
		`{"kind":"event_match","key":"content.n","pattern":"5"}`:                  false,
		`{"kind":"event_match","key":"content.none","pattern":"*"}`:               false,
		`{"kind":"event_match","key":"type","pattern":"m.room.*"}`:                true,
		`{"kind":"event_match","key":"type","pattern":"room"}`:                    false,
		`{"kind":"event_match","key":"type","pattern":"M.ROOM.MESSAGE"}`:          true,
		`{"kind":"event_match","key":"room_id","pattern":"!r:hs"}`:                true,
		`{"kind":"event_match","key":"sender","pattern":"@*:hs"}`:                 true,
		`{"kind":"event_match","key":"content.deep.a\\.b.c","pattern":"x"}`:       true,
		`{"kind":"event_match","key":"content.deep.a.b.c","pattern":"x"}`:         false,
		`{"kind":"event_match","key":"content.deep.back\\\\slash","pattern":"y"}`: true,
		`{"kind":"event_match","key":"content.deep.back\\slash","pattern":"y"}`:   true,
		`{"kind":"event_property_is","key":"content.n","value":5}`:                true,
		`{"kind":"event_property_is","key":"content.n","value":"5"}`:              false,
		`{"kind":"event_property_is","key":"content.null","value":null}`:          true,
		`{"kind":"event_property_is","key":"content.none","value":null}`:          false,
		`{"kind":"event_property_is","key":"content.yes","value":true}`:           true,
		`{"kind":"event_property_is","key":"content.yes","value":1}`:              false,
		`{"kind":"event_property_is","key":"content.deep","value":{}}`:            false,
		`{"kind":"event_property_is","key":"content.n"}`:                          false,
		`{"kind":"event_property_contains","key":"content.list","value":"a"}`:     true,
		`{"kind":"event_property_contains","key":"content.list","value":"A"}`:     false,
		`{"kind":"event_property_contains","key":"content.list","value":1}`:       true,
		`{"kind":"event_property_contains","key":"content.list","value":null}`:    true,
		`{"kind":"event_property_contains","key":"content.body","value":"Lunch"}`: false,
		`{"kind":"room_member_count","is":"3"}`:                                   true,
		`{"kind":"room_member_count","is":"==3"}`:                                 true,
		`{"kind":"room_member_count","is":"<3"}`:                                  false,
		`{"kind":"room_member_count","is":">=3"}`:                                 true,
		`{"kind":"room_member_count","is":"=>3"}`:                                 false,
		`{"kind":"room_member_count","is":"<=3"}`:                                 true,
		`{"kind":"room_member_count","is":"<=2"}`:                                 false,
		`{"kind":"room_member_count","is":">2"}`:                                  true,
		`{"kind":"room_member_count","is":">3"}`:                                  false,
		`{"kind":"room_member_count","is":"==4"}`:                                 false,
		`{"kind":"event_property_contains","key":"content.list","value":{"x":1}}`: false,
		`{"kind":"event_property_contains","key":"content.none","value":"a"}`:     false,
		`{"kind":"event_property_is","key":"content.list","value":"a"}`:           false,
		`{"kind":"room_member_count","is":"three"}`:                               false,
		`{"kind":"room_member_count"}`:                                            false,
		`{"kind":"contains_display_name"}`:                                        true,
		`{"kind":"sender_notification_permission","key":"room"}`:                  true,
		`{"kind":"sender_notification_permission","key":"other"}`:                 false,
		`{"kind":"org.example.future","key":"type"}`:                              false,
		`{}`: false,
	} {
		var c Condition
		if err := json.Unmarshal([]byte(cond), &c); err != nil {
			t.Fatal(err)
		}
		var back strings.Builder
		enc := json.NewEncoder(&back)
		enc.SetEscapeHTML(false)
		if enc.Encode(c) != nil || strings.TrimSpace(back.String()) != cond {
			t.Errorf("%s comes back as %s", cond, back.String())
		}
		rules := Ruleset{Override: []Rule{{RuleID: "r", Enabled: true, Conditions: []Condition{c}, Actions: Actions{notify}}}}
		room := RoomView{Members: 3, DisplayName: func() string { return "a.B's" }, MayNotify: func(s, k string) bool { return k == "room" }}
		if got := Compile(me, rules).Evaluate(NewView(e), &room).Notify; got != want {
			t.Errorf("%s: %v, want %v", cond, got, want)
		}
		// Of a room about which nothing is known, what asks about it is not true.
		asks := c.Kind == "contains_display_name" || c.Kind == "sender_notification_permission"
		if got := Compile(me, rules).Evaluate(NewView(e), &RoomView{Members: 3}).Notify; got != (want && !asks) {
			t.Errorf("%s without the room: %v", cond, got)
		}
		// All conditions have to hold; a rule without any always does.
		rules.Override[0].Conditions = []Condition{c, {Kind: "org.example.future"}}
		if Compile(me, rules).Evaluate(NewView(e), &room).Notify {
			t.Errorf("%s and what never holds: it matches", cond)
		}
		rules.Override[0].Conditions = nil
		if !Compile(me, rules).Evaluate(NewView(e), &room).Notify {
			t.Error("a rule without conditions does not match")
		}
	}
	// The spec's own example of a redaction's and a state event's properties.
	redaction, err := pdu.Build(pdu.V10, pdu.Proto{RoomID: "!r:hs", Sender: "@you:hs", Type: "m.room.redaction", Content: []byte(`{}`), Redacts: "$x"}, key)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]bool{"redacts": true, "event_id": true, "state_key": false} {
		rules := Ruleset{Override: []Rule{{RuleID: "r", Enabled: true, Conditions: []Condition{eventMatch(key, "*")}, Actions: Actions{notify}}}}
		if got := Compile(me, rules).Evaluate(NewView(redaction), &RoomView{}).Notify; got != want {
			t.Errorf("%s of a redaction: %v", key, got)
		}
	}
}

// Threads: who is subscribed is notified whatever the room's settings are, others only
// of what mentions them or has their keywords.
func TestThreadSubscription(t *testing.T) {
	r := Defaults(me)
	for _, rule := range []struct {
		kind, id, pattern string
		actions           Actions
	}{{Room, "!r:hs", "", nil}, {Content, "c", "tea", Actions{notify, highlight}}, {Sender, "@you:hs", "", Actions{notify}}} {
		if err := r.Put(rule.kind, Rule{RuleID: rule.id, Pattern: rule.pattern, Actions: rule.actions}, "", ""); err != nil {
			t.Fatal(err)
		}
	}
	const in = `"m.relates_to":{"rel_type":"m.thread","event_id":"$root"}`
	asked := 0
	room := func(inThread, subscribed bool) *RoomView {
		return &RoomView{Members: 3, Thread: func(v *View) (bool, bool) {
			asked++
			return inThread && v.Relation != "" && v.RelatesTo == "$root", subscribed
		}}
	}
	for _, c := range []struct {
		content string
		room    *RoomView
		rule    string
	}{
		{`{"body":"x",` + in + `}`, room(true, true), ".io.element.msc4306.rule.subscribed_thread"},
		{`{"body":"x",` + in + `}`, room(true, false), ".io.element.msc4306.rule.unsubscribed_thread"},
		{`{"body":"x",` + in + `}`, &RoomView{Members: 3}, "!r:hs"},
		{`{"body":"x",` + in + `}`, room(false, true), "!r:hs"},
		{`{"body":"tea",` + in + `}`, room(true, false), "c"},
		{`{"body":"x","m.mentions":{"user_ids":["` + me + `"]},` + in + `}`, room(true, false), ".m.rule.is_user_mention"},
		{`{"body":"x"}`, room(true, true), "!r:hs"},
	} {
		if out := Compile(me, r).Evaluate(NewView(event(t, "m.room.message", nil, c.content)), c.room); out.RuleID != c.rule {
			t.Errorf("%s: %+v, want %s", c.content, out, c.rule)
		}
	}
	// Nothing is asked about events that relate to no other.
	if asked = 0; Compile(me, r).Evaluate(NewView(event(t, "m.room.message", nil, `{"body":"x"}`)), room(true, true)).RuleID != "!r:hs" || asked != 0 {
		t.Errorf("%d questions about a message outside of threads", asked)
	}
	for _, cond := range []string{`{"kind":"io.element.msc4306.thread_subscription"}`, `{"kind":"io.element.msc4306.thread_subscription","subscribed":null}`, `{"kind":"thread_subscription","subscribed":true}`} {
		var c Condition
		if err := json.Unmarshal([]byte(cond), &c); err != nil {
			t.Fatal(err)
		}
		rules := Ruleset{Override: []Rule{{RuleID: "r", Enabled: true, Conditions: []Condition{c}, Actions: Actions{notify}}}}
		if Compile(me, rules).Evaluate(NewView(event(t, "m.room.message", nil, `{`+in+`}`)), room(true, true)).Notify {
			t.Errorf("%s matches", cond)
		}
	}
}

func TestActions(t *testing.T) {
	var a Actions
	if err := json.Unmarshal([]byte(`["dont_notify","coalesce","notify",{"set_tweak":"highlight","value":false},{"set_tweak":"sound","value":"x"}]`), &a); err != nil {
		t.Fatal(err)
	}
	if b, _ := json.Marshal(a); string(b) != `["notify",{"set_tweak":"highlight","value":false},{"set_tweak":"sound","value":"x"}]` || a.Highlight() || !a.Notify() {
		t.Errorf("%s %v", b, a.Highlight())
	}
	if b, _ := json.Marshal(Actions(nil)); string(b) != `[]` {
		t.Errorf("%s", b)
	}
	for _, bad := range []string{`[1]`, `{}`, `[{}]`, `"notify"`} {
		if json.Unmarshal([]byte(bad), &a) == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

func code(err error) mx.Code {
	var e *mx.Error
	errors.As(err, &e)
	if e == nil {
		return ""
	}
	return e.Code
}

func TestPut(t *testing.T) {
	r := Defaults(me)
	ids := func(kind string) (out []string) {
		list, _ := r.Rules(kind)
		for _, x := range list {
			if !x.Default {
				out = append(out, x.RuleID)
			}
		}
		return out
	}
	put := func(kind, id, before, after string) mx.Code {
		return code(r.Put(kind, Rule{RuleID: id, Pattern: "p"}, before, after))
	}
	for _, step := range []struct{ id, before, after, want string }{
		{"a", "", "", "a"}, {"b", "", "", "b a"}, {"c", "a", "", "b c a"}, {"d", "", "b", "b d c a"}, {"a", "", "", "b d c a"}, {"a", "b", "", "a b d c"}, {"c", "d", "a", "a b c d"},
	} {
		if c := put(Override, step.id, step.before, step.after); c != "" || strings.Join(ids(Override), " ") != step.want {
			t.Errorf("%+v: %s %v", step, c, ids(Override))
		}
	}
	if r.Override[0].RuleID != master || r.Override[1].Conditions == nil || r.Override[1].Pattern != "" {
		t.Errorf("the first are %+v", r.Override[:2])
	}
	for _, c := range []struct {
		kind, id, before string
		want             mx.Code
	}{
		{Override, ".dot", "", mx.InvalidParam}, {Postcontent, "x", "", mx.InvalidParam}, {"odd", "x", "", mx.InvalidParam}, {Override, "", "", mx.InvalidParam}, {Override, "a/b", "", mx.InvalidParam},
		{Override, "x", "nobody", mx.Unknown}, {Override, "x", ".m.rule.reaction", mx.Unknown}, {Override, strings.Repeat("x", 300), "", mx.TooLarge},
	} {
		if got := put(c.kind, c.id, c.before, ""); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
	var long Condition
	if err := json.Unmarshal([]byte(`{"kind":"event_match","key":"type","pattern":"`+strings.Repeat("x", 1025)+`"}`), &long); err != nil {
		t.Fatal(err)
	}
	for name, rule := range map[string]Rule{"a long condition": {RuleID: "x", Conditions: []Condition{long}},
		"many conditions": {RuleID: "x", Conditions: make([]Condition, 51)}, "a long pattern": {RuleID: "x", Pattern: strings.Repeat("x", 1025)}} {
		if c := code(r.Put(Override, rule, "", "")); c != mx.TooLarge {
			t.Errorf("%s: %q", name, c)
		}
	}
	full := Defaults(me)
	for i := range 1000 {
		full.Room = append(full.Room, Rule{RuleID: fmt.Sprint("!", i)})
	}
	if c := code(full.Put(Room, Rule{RuleID: "!new"}, "", "")); c != mx.TooLarge {
		t.Errorf("one rule too many: %q", c)
	}
	if c := code(full.Put(Room, Rule{RuleID: "!7"}, "", "")); c != "" {
		t.Errorf("one that is there: %q", c)
	}
	if c := code(r.Put(Content, Rule{RuleID: "x"}, "", "")); c != mx.MissingParam {
		t.Errorf("a content rule without a pattern: %q", c)
	}
	if c := code(r.Delete(Override, ".m.rule.reaction")); c != mx.InvalidParam {
		t.Errorf("a default rule is deleted: %q", c)
	}
	if c := code(r.Delete(Override, "zzz")); c != mx.NotFound {
		t.Errorf("no rule is deleted: %q", c)
	}
	if err := r.Delete(Override, "c"); err != nil || strings.Join(ids(Override), " ") != "a b d" {
		t.Errorf("%v %v", err, ids(Override))
	}
	if r.SetEnabled(Override, "a", false) != nil || r.SetActions(Underride, ".m.rule.message", nil) != nil || code(r.SetEnabled(Room, "x", true)) != mx.NotFound {
		t.Error("rules cannot be changed")
	}
	put(Override, "a", "", "")
	if rule, _ := r.Get(Override, "a"); rule.Enabled {
		t.Error("a new text turns a rule on again")
	}

	// What is stored makes the same rules again.
	raw, err := json.Marshal(r.Custom(me))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(raw), `"default":true`); n != 1 {
		t.Errorf("%d default rules are stored, want the one that was changed: %s", n, raw)
	}
	var custom Ruleset
	if err := json.Unmarshal(raw, &custom); err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(r)
	b, _ := json.Marshal(Compose(me, custom))
	if string(a) != string(b) {
		t.Errorf("stored and read:\n%s\n%s", a, b)
	}
	if !reflect.DeepEqual(Defaults(me).Custom(me), Ruleset{}) {
		t.Error("something of the defaults is stored")
	}
}

func TestOtherKinds(t *testing.T) {
	r := Defaults(me)
	for _, rule := range []struct{ kind, id, pattern string }{{Room, "!r:hs", ""}, {Sender, "@you:hs", ""}, {Content, "c", "te?"}} {
		if err := r.Put(rule.kind, Rule{RuleID: rule.id, Pattern: rule.pattern, Actions: Actions{notify, highlight}}, "", ""); err != nil {
			t.Fatal(err)
		}
	}
	view := NewView(event(t, "m.room.message", nil, `{"body":"Tea"}`))
	for _, want := range []string{Content, Room, Sender, Underride} {
		out := Compile(me, r).Evaluate(view, &RoomView{Members: 5})
		if out.Kind != want {
			t.Errorf("%+v, want kind %s", out, want)
		}
		if p := r.kind(want); want != Underride {
			(*p)[0].Enabled = false
		}
	}
	b, err := json.Marshal(Ruleset{})
	if err != nil || string(b) != `{"override":[],"content":[],"postcontent":[],"room":[],"sender":[],"underride":[]}` {
		t.Errorf("%s %v", b, err)
	}
}

// FuzzGlob compares the matcher with a regular expression made from the pattern.
func FuzzGlob(f *testing.F) {
	for _, c := range [][2]string{{"a*b?", "AxxBy"}, {"*", ""}, {"", ""}, {"lunc?*", "Lunch plans"}, {"ex*ple", "An exciting triple-whammy"}, {"é?", "ÉÜ"}, {"**a", "aaa"}} {
		f.Add(c[0], c[1])
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > 100 || len(text) > 500 || strings.ToValidUTF8(pattern, "") != pattern || strings.ToValidUTF8(text, "") != text {
			compileGlob(pattern).matchWords(text) // must not panic
			return
		}
		for _, r := range pattern + text { // folding of other letters is our own choice
			if r >= 0x80 {
				return
			}
		}
		q := regexp.QuoteMeta(pattern)
		q = strings.ReplaceAll(strings.ReplaceAll(q, `\*`, `.*`), `\?`, `.`)
		g := compileGlob(pattern)
		if want := regexp.MustCompile(`(?is)\A` + q + `\z`).MatchString(text); g.match(text) != want {
			t.Errorf("%q on %q: %v", pattern, text, !want)
		}
		if g.n == 0 {
			return
		}
		// At a boundary: the edge of the text, or next to what is no word character.
		edge := func(i int) bool {
			return i == 0 || i == len(text) || !word(rune(text[i-1])) || !word(rune(text[i]))
		}
		whole, want := regexp.MustCompile(`(?is)\A`+q+`\z`), false
		for i := 0; i <= len(text) && len(text) < 60; i++ {
			for j := i; j <= len(text); j++ {
				want = want || edge(i) && edge(j) && whole.MatchString(text[i:j])
			}
		}
		if len(text) < 60 && g.matchWords(text) != want {
			t.Errorf("words: %q on %q: %v", pattern, text, !want)
		}
	})
}

func BenchmarkEvaluate(b *testing.B) {
	c := Compile(me, Defaults(me))
	v := NewView(event(b, "m.room.message", nil, `{"msgtype":"m.text","body":"Hello, this is a message of a usual length.","m.mentions":{}}`))
	room := RoomView{Members: 50}
	b.ReportAllocs()
	for b.Loop() {
		c.Evaluate(v, &room)
	}
}

// BenchmarkHostile is a pattern made to be slow, on a long text.
func BenchmarkHostile(b *testing.B) {
	g := compileGlob(strings.Repeat("a*", 500) + "b")
	text := strings.Repeat("a ", 30000)
	for b.Loop() {
		g.matchWords(text)
	}
}
