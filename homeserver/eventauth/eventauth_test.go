package eventauth

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
)

const creator, mod, al, bo, far = "@creator:hs", "@mod:hs", "@al:hs", "@bo:hs", "@far:other"

var key = pdu.SigningKey{ID: "ed25519:1", Server: "hs", Private: ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", 32)))}

func ptr(s string) *string { return &s }

// room is a room's state, for building and checking events on.
type room struct {
	t     testing.TB
	v     pdu.Version
	id    string
	last  []string
	state map[Key]*pdu.Event
}

// newRoom has a creator, a moderator (50), and power levels.
func newRoom(t testing.TB, v pdu.Version) *room {
	r := bare(t, v, `{"creator":"`+creator+`","room_version":"`+string(v)+`"}`)
	r.set(mx.RoomMember, creator, creator, `{"membership":"join"}`)
	r.member(mod, mx.Join)
	users := `"` + creator + `":100,`
	if v.PrivilegedCreators() {
		users = ""
	}
	r.set(mx.RoomPowerLevels, creator, "", `{"users":{`+users+`"`+mod+`":50},"invite":50,"events":{"m.room.name":60},"notifications":{"room":50}}`)
	return r
}

// bare has its create event only.
func bare(t testing.TB, v pdu.Version, create string) *room {
	r := &room{t: t, v: v, id: "!r:hs", state: map[Key]*pdu.Event{}}
	if v.RoomIDIsHash() {
		r.id = ""
	}
	e := r.build(mx.RoomCreate, creator, ptr(""), create)
	r.id, r.last = e.RoomID, []string{e.ID}
	r.state[Key{mx.RoomCreate, ""}] = e
	return r
}

func (r *room) build(typ, sender string, stateKey *string, content string) *pdu.Event {
	r.t.Helper()
	e, err := pdu.Build(r.v, pdu.Proto{RoomID: r.id, Type: typ, Sender: sender, StateKey: stateKey, Content: []byte(content), PrevEvents: r.last}, key)
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

// set puts state in place without checking it.
func (r *room) set(typ, sender, stateKey, content string) *pdu.Event {
	e := r.build(typ, sender, &stateKey, content)
	r.state[Key{typ, stateKey}] = e
	r.last = []string{e.ID}
	return e
}

func (r *room) member(user, membership string) {
	r.set(mx.RoomMember, user, user, `{"membership":"`+membership+`"}`)
}

func (r *room) lookup(typ, stateKey string) *pdu.Event { return r.state[Key{typ, stateKey}] }

func rule(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Rule
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func (r *room) check(e *pdu.Event) string { return rule(Check(r.v, e, r.lookup)) }

func membership(m string) string { return `{"membership":"` + m + `"}` }

// TestMembership has each rule about members, in the numbers of versions 8 to 11;
// version 12 has them under 5 instead of 4.
func TestMembership(t *testing.T) {
	join := func(rule string) func(*room) {
		return func(r *room) { r.set(mx.RoomJoinRules, creator, "", `{"join_rule":"`+rule+`"}`) }
	}
	is := func(m string) func(*room) { return func(r *room) { r.member(al, m) } }
	both := func(f ...func(*room)) func(*room) {
		return func(r *room) {
			for _, f := range f {
				f(r)
			}
		}
	}
	nothing := func(*room) {}
	via := func(u string) string {
		return `{"membership":"join","join_authorised_via_users_server":"` + u + `"}`
	}
	for _, c := range []struct {
		name           string
		state          func(*room)
		sender, target string
		content        string
		rule           string
		from           int // version from which on the case holds
	}{
		{"no membership", nothing, al, al, `{}`, "4.1", 8},
		{"membership is no text", nothing, al, al, `{"membership":1}`, "4.1", 8},
		{"unknown membership", nothing, al, al, membership("dance"), "4.8", 8},
		{"vouched for, not signed", join("public"), al, al, via(far), "4.2.1", 8},
		{"vouched for by no user", join("public"), al, al, `{"membership":"join","join_authorised_via_users_server":7}`, "4.2.1", 8},

		{"join for another", join("public"), mod, al, membership("join"), "4.3.2", 8},
		{"join, banned", both(join("public"), is("ban")), al, al, membership("join"), "4.3.3", 8},
		{"join, public", join("public"), al, al, membership("join"), "", 8},
		{"join, no rule", nothing, al, al, membership("join"), "4.3.7", 8},
		{"join, invite", join("invite"), al, al, membership("join"), "4.3.7", 8},
		{"join, invited", both(join("invite"), is("invite")), al, al, membership("join"), "", 8},
		{"join, joined", both(join("invite"), is("join")), al, al, membership("join"), "", 8},
		{"join, knocked", both(join("knock"), is("knock")), al, al, membership("join"), "4.3.7", 8},
		{"join, knock and invited", both(join("knock"), is("invite")), al, al, membership("join"), "", 8},
		{"join, odd rule", both(join("odd"), is("invite")), al, al, membership("join"), "4.3.7", 8},
		{"join, private", both(join("private"), is("invite")), al, al, membership("join"), "4.3.7", 8},
		{"restricted, invited", both(join("restricted"), is("invite")), al, al, membership("join"), "", 8},
		{"restricted, nobody vouches", join("restricted"), al, al, membership("join"), "4.3.5.2", 8},
		{"restricted, vouched for", join("restricted"), al, al, via(mod), "", 8},
		{"restricted, vouched for by one without power", both(join("restricted"), func(r *room) { r.member(bo, "join") }), al, al, via(bo), "4.3.5.2", 8},
		{"restricted, vouched for by one not there", join("restricted"), al, al, via("@gone:hs"), "4.3.5.2", 8},
		{"knock_restricted, vouched for", join("knock_restricted"), al, al, via(mod), "", 10},

		{"invite by a stranger", nothing, bo, al, membership("invite"), "4.4.2", 8},
		{"invite one who is there", is("join"), mod, al, membership("invite"), "4.4.3", 8},
		{"invite one who is banned", is("ban"), mod, al, membership("invite"), "4.4.3", 8},
		{"invite", nothing, mod, al, membership("invite"), "", 8},
		{"invite one who knocks", is("knock"), mod, al, membership("invite"), "", 8},
		{"invite without power", is("join"), al, bo, membership("invite"), "4.4.5", 8},

		{"leave", is("join"), al, al, membership("leave"), "", 8},
		{"decline", is("invite"), al, al, membership("leave"), "", 8},
		{"take back a knock", is("knock"), al, al, membership("leave"), "", 8},
		{"leave twice", is("leave"), al, al, membership("leave"), "4.5.1", 8},
		{"leave a ban", is("ban"), al, al, membership("leave"), "4.5.1", 8},
		{"kick by a stranger", is("join"), bo, al, membership("leave"), "4.5.2", 8},
		{"kick", is("join"), mod, al, membership("leave"), "", 8},
		{"kick without power", both(is("join"), func(r *room) { r.member(bo, "join") }), bo, al, membership("leave"), "4.5.5", 8},
		{"kick the creator", nothing, mod, creator, membership("leave"), "4.5.5", 8},
		{"unban", is("ban"), mod, al, membership("leave"), "", 8},
		{"unban without power", both(is("ban"), func(r *room) { r.member(bo, "join") }), bo, al, membership("leave"), "4.5.3", 8},

		{"ban by a stranger", is("join"), bo, al, membership("ban"), "4.6.1", 8},
		{"ban", is("join"), mod, al, membership("ban"), "", 8},
		{"ban one not there", nothing, mod, al, membership("ban"), "", 8},
		{"ban without power", is("join"), al, bo, membership("ban"), "4.6.3", 8},
		{"ban an equal", func(r *room) {
			r.member(al, "join")
			r.set(mx.RoomPowerLevels, creator, "", `{"users":{"`+mod+`":50,"`+al+`":50}}`)
		}, mod, al, membership("ban"), "4.6.3", 8},

		{"knock, invite", join("invite"), al, al, membership("knock"), "4.7.1", 8},
		{"knock", join("knock"), al, al, membership("knock"), "", 8},
		{"knock for another", join("knock"), bo, al, membership("knock"), "4.7.2", 8},
		{"knock, banned", both(join("knock"), is("ban")), al, al, membership("knock"), "4.7.4", 8},
		{"knock, invited", both(join("knock"), is("invite")), al, al, membership("knock"), "4.7.4", 8},
		{"knock again", both(join("knock"), is("knock")), al, al, membership("knock"), "", 8},
		{"knock, knock_restricted", join("knock_restricted"), al, al, membership("knock"), "", 10},
	} {
		for _, v := range []pdu.Version{pdu.V8, pdu.V9, pdu.V10, pdu.V11, pdu.V12} {
			if !v.AtLeast(c.from) {
				continue
			}
			r := newRoom(t, v)
			c.state(r)
			want := c.rule
			if v == pdu.V12 && want != "" {
				want = "5" + want[1:]
			}
			if got := r.check(r.build(mx.RoomMember, c.sender, ptr(c.target), c.content)); got != want {
				t.Errorf("v%s %s: rule %q, want %q", v, c.name, got, want)
			}
		}
	}
	r := newRoom(t, pdu.V11)
	if got := r.check(r.build(mx.RoomMember, al, nil, membership("join"))); got != "4.1" {
		t.Errorf("no state_key: %q", got)
	}
}

// TestOldMembership has what versions 6 and 7 number otherwise or do not know.
func TestOldMembership(t *testing.T) {
	for _, c := range []struct {
		v              pdu.Version
		join, prev     string
		sender, member string
		content        string
		rule           string
	}{
		{pdu.V6, "knock", "", al, al, membership("knock"), "4.6"},
		{pdu.V6, "knock", "invite", al, al, membership("join"), "4.2.6"},
		{pdu.V6, "invite", "knock", al, al, membership("leave"), "4.4.1"},
		{pdu.V6, "public", "ban", al, al, membership("join"), "4.2.3"},
		{pdu.V6, "public", "", al, al, `{"membership":"join","join_authorised_via_users_server":"@x:y"}`, ""},
		{pdu.V7, "knock", "", al, al, membership("knock"), ""},
		{pdu.V7, "knock_restricted", "", al, al, membership("knock"), "4.6.1"},
		{pdu.V7, "restricted", "invite", al, al, membership("join"), "4.2.6"},
		{pdu.V7, "invite", "", al, al, membership("dance"), "4.7"},
		{pdu.V7, "invite", "join", mod, al, membership("invite"), "4.3.3"},
		{pdu.V9, "knock_restricted", "invite", al, al, membership("join"), "4.3.7"},
		{pdu.V9, "knock_restricted", "", al, al, membership("knock"), "4.7.1"},
		{pdu.V5, "invite", "", al, al, membership("join"), "5.2.6"},
		{pdu.V1, "invite", "join", al, mod, membership("ban"), "5.5.3"},
	} {
		r := newRoom(t, max(c.v, pdu.V3)) // events of versions 1 and 2 are not made here
		r.set(mx.RoomJoinRules, creator, "", `{"join_rule":"`+c.join+`"}`)
		if c.prev != "" {
			r.member(al, c.prev)
		}
		e := r.build(mx.RoomMember, c.sender, ptr(c.member), c.content)
		r.v = c.v
		if got := r.check(e); got != c.rule {
			t.Errorf("v%s %s %s %s: rule %q, want %q", c.v, c.join, c.prev, c.content, got, c.rule)
		}
	}
}

func TestCreate(t *testing.T) {
	for _, c := range []struct {
		v            pdu.Version
		room, sender string
		content      string
		prev         bool
		rule         string
	}{
		{v: pdu.V10, room: "!r:hs", sender: creator, content: `{"creator":"x"}`},
		{v: pdu.V10, room: "!r:hs", sender: creator, content: `{}`, rule: "1.4"},
		{v: pdu.V11, room: "!r:hs", sender: creator, content: `{}`},
		{v: pdu.V11, room: "!r:hs", sender: creator, content: `{}`, prev: true, rule: "1.1"},
		{v: pdu.V11, room: "!r:other", sender: creator, content: `{}`, rule: "1.2"},
		{v: pdu.V11, room: "!r:hs", sender: creator, content: `{"room_version":"99"}`, rule: "1.3"},
		{v: pdu.V11, room: "!r:hs", sender: creator, content: `{"room_version":11}`, rule: "1.3"},
		{v: pdu.V11, room: "!r:hs", sender: creator, content: `{"additional_creators":7}`},
		{v: pdu.V12, sender: creator, content: `{"room_version":"12"}`},
		{v: pdu.V12, sender: creator, content: `{"additional_creators":[]}`},
		{v: pdu.V12, sender: creator, content: `{"additional_creators":["@a:b"]}`},
		{v: pdu.V12, sender: creator, content: `{"additional_creators":["a"]}`, rule: "1.4"},
		{v: pdu.V12, sender: creator, content: `{"additional_creators":[7]}`, rule: "1.4"},
		{v: pdu.V12, sender: creator, content: `{"additional_creators":"@a:b"}`, rule: "1.4"},
		{v: pdu.V12, sender: creator, content: `{"room_version":"x"}`, rule: "1.3"},
		{v: pdu.V12, sender: creator, content: `{}`, prev: true, rule: "1.1"},
	} {
		p := pdu.Proto{RoomID: c.room, Type: mx.RoomCreate, Sender: c.sender, StateKey: ptr(""), Content: []byte(c.content)}
		if c.prev {
			p.PrevEvents = []string{"$x"}
		}
		e, err := pdu.Build(c.v, p, key)
		if err != nil {
			t.Fatal(err)
		}
		if got := rule(Check(c.v, e, func(string, string) *pdu.Event { return nil })); got != c.rule {
			t.Errorf("%+v: rule %q", c, got)
		}
	}
	// A version 12 create event that names a room.
	e, err := pdu.Parse(pdu.V12, "$x", []byte(`{"content":{},"prev_events":[],"auth_events":[],"room_id":"!x","sender":"@a:b","state_key":"","type":"m.room.create"}`))
	if err != nil || rule(Check(pdu.V12, e, nil)) != "1.2" {
		t.Errorf("%v %v", err, Check(pdu.V12, e, nil))
	}
}

func TestOtherEvents(t *testing.T) {
	for _, c := range []struct {
		name, typ, sender string
		key               *string
		content           string
		rule11, rule12    string
	}{
		{"message by a stranger", mx.RoomMessage, bo, nil, `{}`, "5", "6"},
		{"message", mx.RoomMessage, mod, nil, `{}`, "", ""},
		{"topic", mx.RoomTopic, mod, ptr(""), `{}`, "", ""},
		{"topic without power", mx.RoomTopic, al, ptr(""), `{}`, "7", "8"},
		{"name needs more", mx.RoomName, mod, ptr(""), `{}`, "7", "8"},
		{"name by the creator", mx.RoomName, creator, ptr(""), `{}`, "", ""},
		{"state of another user", "x.y", mod, ptr(al), `{}`, "8", "9"},
		{"own state", "x.y", mod, ptr(mod), `{}`, "", ""},
		{"third-party invite", mx.RoomThirdPartyInvite, mod, ptr("t"), `{}`, "", ""},
		{"third-party invite without power", mx.RoomThirdPartyInvite, al, ptr("t"), `{}`, "6.1", "7.1"},
		{"redaction", mx.RoomRedaction, al, nil, `{"redacts":"$x"}`, "", ""},
	} {
		for _, v := range []pdu.Version{pdu.V11, pdu.V12} {
			r := newRoom(t, v)
			r.member(al, mx.Join)
			want := c.rule11
			if v == pdu.V12 {
				want = c.rule12
			}
			if got := r.check(r.build(c.typ, c.sender, c.key, c.content)); got != want {
				t.Errorf("v%s %s: rule %q, want %q", v, c.name, got, want)
			}
		}
	}
	// Rooms without power levels: the creator has 100, state needs 50.
	r := bare(t, pdu.V11, `{}`)
	first := r.build(mx.RoomMember, creator, ptr(creator), membership("join"))
	if got := r.check(first); got != "" {
		t.Errorf("the creator's join: %q", got)
	}
	if got := r.check(r.build(mx.RoomMember, al, ptr(al), membership("join"))); got != "4.3.7" {
		t.Errorf("another's join first: %q", got)
	}
	r.member(creator, mx.Join)
	r.member(al, mx.Join)
	if a, b := r.check(r.build(mx.RoomTopic, creator, ptr(""), `{}`)), r.check(r.build(mx.RoomTopic, al, ptr(""), `{}`)); a != "" || b != "7" {
		t.Errorf("topics without power levels: %q %q", a, b)
	}
	// No create event, and that of another room.
	delete(r.state, Key{mx.RoomCreate, ""})
	if got := r.check(first); got != "2.4" {
		t.Errorf("no create event: %q", got)
	}
	r = newRoom(t, pdu.V12)
	r.id = "!" + strings.Repeat("x", 43)
	if got := r.check(r.build(mx.RoomMessage, creator, nil, `{}`)); got != "2" {
		t.Errorf("another room: %q", got)
	}
	// Closed to other servers.
	for v, want := range map[pdu.Version]string{pdu.V11: "3", pdu.V12: "4"} {
		r := bare(t, v, `{"m.federate":false}`)
		r.set(mx.RoomJoinRules, creator, "", `{"join_rule":"public"}`)
		if a, b := r.check(r.build(mx.RoomMember, far, ptr(far), membership("join"))), r.check(r.build(mx.RoomMember, al, ptr(al), membership("join"))); a != want || b != "" {
			t.Errorf("v%s: m.federate: %q %q", v, a, b)
		}
	}
	// Versions 1 to 5 have a rule about aliases, 1 and 2 one about redactions.
	r = newRoom(t, pdu.V5)
	for k, want := range map[string]string{"hs": "", "other": "4.2"} {
		if got := r.check(r.build(mx.RoomAliases, al, ptr(k), `{}`)); got != want {
			t.Errorf("aliases of %s: %q", k, got)
		}
	}
	if got := r.check(r.build(mx.RoomAliases, al, nil, `{}`)); got != "4.1" {
		t.Errorf("aliases without a key: %q", got)
	}
	r.v = pdu.V3
	r.member(al, mx.Join)
	e := r.build(mx.RoomRedaction, al, nil, `{}`)
	if got := rule(Check(pdu.V2, &pdu.Event{Version: pdu.V2, ID: "$a:other", Redacts: "$b:hs", RoomID: e.RoomID, Type: e.Type, Sender: e.Sender, Content: e.Content}, r.lookup)); got != "11.3" {
		t.Errorf("redaction in version 2: %q", got)
	}
}

func TestPowerLevels(t *testing.T) {
	// Before: mod 50, invite 50, m.room.name 60, notifications.room 50, creator 100.
	for _, c := range []struct {
		name, sender, content string
		rule                  string // in the numbers of versions 10 and 11
	}{
		{"same", mod, `{"users":{"@creator:hs":100,"@mod:hs":50},"invite":50,"events":{"m.room.name":60},"notifications":{"room":50}}`, ""},
		{"text for a number", mod, `{"ban":"50"}`, "9.1"},
		{"text in events", mod, `{"events":{"x":"1"}}`, "9.2"},
		{"events is a list", mod, `{"events":[]}`, "9.2"},
		{"notifications", mod, `{"notifications":{"room":true}}`, "9.2"},
		{"users", mod, `{"users":{"@a:b":"1"}}`, "9.3"},
		{"users is null", mod, `{"users":null}`, "9.3"},
		{"no user ID", mod, `{"users":{"a":1}}`, "9.3"},
		{"set ban within", mod, `{"users":{"@creator:hs":100,"@mod:hs":50},"ban":50,"invite":50,"events":{"m.room.name":60},"notifications":{"room":50}}`, ""},
		{"set ban above", mod, `{"users":{"@creator:hs":100,"@mod:hs":50},"ban":51,"invite":50,"events":{"m.room.name":60},"notifications":{"room":50}}`, "9.5.2"},
		{"drop invite", mod, `{"users":{"@creator:hs":100,"@mod:hs":50},"events":{"m.room.name":60},"notifications":{"room":50}}`, ""},
		{"drop an event above", mod, `{"users":{"@creator:hs":100,"@mod:hs":50},"invite":50,"notifications":{"room":50}}`, "9.6.1"},
		{"change an event above", mod, `{"users":{"@creator:hs":100,"@mod:hs":50},"invite":50,"events":{"m.room.name":10},"notifications":{"room":50}}`, "9.6.1"},
		{"add an event above", mod, `{"users":{"@creator:hs":100,"@mod:hs":50},"invite":50,"events":{"m.room.name":60,"x":51},"notifications":{"room":50}}`, "9.7.1"},
		{"notifications above", mod, `{"users":{"@creator:hs":100,"@mod:hs":50},"invite":50,"events":{"m.room.name":60},"notifications":{"room":51}}`, "9.7.1"},
		{"add a user within", mod, `{"users":{"@creator:hs":100,"@mod:hs":50,"@al:hs":50},"invite":50,"events":{"m.room.name":60},"notifications":{"room":50}}`, ""},
		{"add a user above", mod, `{"users":{"@creator:hs":100,"@mod:hs":50,"@al:hs":51},"invite":50,"events":{"m.room.name":60},"notifications":{"room":50}}`, "9.9.1"},
		{"raise oneself", mod, `{"users":{"@creator:hs":100,"@mod:hs":51},"invite":50,"events":{"m.room.name":60},"notifications":{"room":50}}`, "9.9.1"},
		{"lower oneself", mod, `{"users":{"@creator:hs":100,"@mod:hs":0},"invite":50,"events":{"m.room.name":60},"notifications":{"room":50}}`, ""},
		{"drop the creator", mod, `{"users":{"@mod:hs":50},"invite":50,"events":{"m.room.name":60},"notifications":{"room":50}}`, "9.8.1"},
		{"anything by the creator", creator, `{"users":{"@creator:hs":100},"ban":99,"events":{"x":100}}`, ""},
		{"above the creator", creator, `{"users":{"@creator:hs":100,"@al:hs":101}}`, "9.9.1"},
	} {
		for _, v := range []pdu.Version{pdu.V10, pdu.V11} {
			r := newRoom(t, v)
			// mod may send power levels here.
			r.set(mx.RoomPowerLevels, creator, "", `{"users":{"@creator:hs":100,"@mod:hs":50},"invite":50,"events":{"m.room.name":60},"notifications":{"room":50}}`)
			if got := r.check(r.build(mx.RoomPowerLevels, c.sender, ptr(""), c.content)); got != c.rule {
				t.Errorf("v%s %s: rule %q, want %q", v, c.name, got, c.rule)
			}
		}
	}
	// Version 12: creators are named nowhere and bound by nothing.
	r := newRoom(t, pdu.V12)
	for content, want := range map[string]string{
		`{"users":{"@creator:hs":100}}`:         "10.4",
		`{"users":{"@al:hs":9007199254740991}}`: "",
		`{"ban":1.5}`:                           "not an event",
		`{"users":{"@mod:hs":50},"state_default":200,"events":{"m.room.tombstone":150}}`: "",
	} {
		if want == "not an event" {
			if _, err := pdu.Canonical([]byte(content)); err == nil {
				t.Errorf("%s is canonical", content)
			}
			continue
		}
		if got := r.check(r.build(mx.RoomPowerLevels, creator, ptr(""), content)); got != want {
			t.Errorf("v12 %s: rule %q, want %q", content, got, want)
		}
	}
	r = bare(t, pdu.V12, `{"additional_creators":["@al:hs"]}`)
	r.member(al, mx.Join)
	if got := r.check(r.build(mx.RoomPowerLevels, al, ptr(""), `{"users":{"@al:hs":100}}`)); got != "10.4" {
		t.Errorf("an additional creator in users: %q", got)
	}
	if got := r.check(r.build(mx.RoomPowerLevels, al, ptr(""), `{"users":{"@mod:hs":100}}`)); got != "" {
		t.Errorf("power levels by an additional creator: %q", got)
	}
	// Up to version 9 text counts as a number.
	r = newRoom(t, pdu.V9)
	r.set(mx.RoomPowerLevels, creator, "", `{"users":{"@mod:hs":" 0050 "},"state_default":"+50","users_default":"-1"}`)
	if got := r.check(r.build(mx.RoomTopic, mod, ptr(""), `{}`)); got != "" {
		t.Errorf("v9, levels as text: %q", got)
	}
	if got := r.check(r.build(mx.RoomPowerLevels, mod, ptr(""), `{"users":{"@mod:hs":"x"}}`)); got != "9.1" {
		t.Errorf("v9, a level that is no number: %q", got)
	}
}

func TestThirdPartyInvite(t *testing.T) {
	r := newRoom(t, pdu.V11)
	offer := `{"public_keys":[{"public_key":"AAAA"},{"public_key":"` + pdu.Base64(key.Public()) + `"}]}`
	r.set(mx.RoomThirdPartyInvite, mod, "tok", offer)
	signed, err := pdu.SignJSON([]byte(`{"mxid":"`+al+`","token":"tok"}`), key)
	if err != nil {
		t.Fatal(err)
	}
	good := `{"signed":` + string(signed) + `}`
	invite := func(sender, target, third string) string {
		return r.check(r.build(mx.RoomMember, sender, ptr(target), `{"membership":"invite","third_party_invite":`+third+`}`))
	}
	for _, c := range []struct{ sender, target, third, rule string }{
		{mod, al, good, ""},
		{mod, bo, good, "4.4.1.4"},
		{creator, al, good, "4.4.1.6"},
		{mod, al, `{}`, "4.4.1.2"},
		{mod, al, `{"signed":{"mxid":"@al:hs"}}`, "4.4.1.3"},
		{mod, al, strings.Replace(good, `"tok"`, `"other"`, 1), "4.4.1.5"},
		{mod, al, strings.Replace(good, `"mxid"`, `"x":1,"mxid"`, 1), "4.4.1.8"},
	} {
		if got := invite(c.sender, c.target, c.third); got != c.rule {
			t.Errorf("%+v: rule %q", c, got)
		}
	}
	r.set(mx.RoomThirdPartyInvite, mod, "tok", `{"public_key":"`+pdu.Base64(key.Public())+`"}`)
	if got := invite(mod, al, good); got != "" {
		t.Errorf("single key: %q", got)
	}
	r.set(mx.RoomThirdPartyInvite, mod, "tok", `{}`)
	if got := invite(mod, al, good); got != "4.4.1.8" {
		t.Errorf("no key: %q", got)
	}
	r.member(al, mx.Ban)
	if got := invite(mod, al, good); got != "4.4.1.1" {
		t.Errorf("banned: %q", got)
	}
}

func TestAuthTypes(t *testing.T) {
	k := func(typ, key string) Key { return Key{typ, key} }
	create, pl, rules := k(mx.RoomCreate, ""), k(mx.RoomPowerLevels, ""), k(mx.RoomJoinRules, "")
	member := func(u string) Key { return k(mx.RoomMember, u) }
	for _, c := range []struct {
		typ, sender string
		key         *string
		content     string
		want        []Key
	}{
		{mx.RoomCreate, al, ptr(""), `{}`, nil},
		{mx.RoomMessage, al, nil, `{}`, []Key{create, pl, member(al)}},
		{mx.RoomMember, al, ptr(al), membership("join"), []Key{create, pl, member(al), rules}},
		{mx.RoomMember, al, ptr(al), `{"membership":"join","join_authorised_via_users_server":"@mod:hs"}`, []Key{create, pl, member(al), rules, member(mod)}},
		{mx.RoomMember, mod, ptr(al), membership("ban"), []Key{create, pl, member(mod), member(al)}},
		{mx.RoomMember, al, ptr(al), membership("knock"), []Key{create, pl, member(al), rules}},
		{mx.RoomMember, mod, ptr(al), `{"membership":"invite","third_party_invite":{"signed":{"token":"t"}}}`, []Key{create, pl, member(mod), member(al), rules, k(mx.RoomThirdPartyInvite, "t")}},
	} {
		for _, v := range []pdu.Version{pdu.V11, pdu.V12} {
			want := c.want
			if v == pdu.V12 && len(want) > 0 {
				want = want[1:] // the room's ID says which create event
			}
			if got := AuthTypes(v, c.typ, c.sender, c.key, []byte(c.content)); !slices.Equal(got, want) {
				t.Errorf("v%s %s: %v, want %v", v, c.content, got, want)
			}
		}
	}
}

func TestCheckAuthEvents(t *testing.T) {
	for _, v := range []pdu.Version{pdu.V11, pdu.V12} {
		r := newRoom(t, v)
		e := r.build(mx.RoomMessage, mod, nil, `{}`)
		create, pl, me := r.lookup(mx.RoomCreate, ""), r.lookup(mx.RoomPowerLevels, ""), r.lookup(mx.RoomMember, mod)
		other := newRoom(t, v)
		other.id = "!" + strings.Repeat("o", 43)
		elsewhere := other.build(mx.RoomMember, mod, ptr(mod), membership("join"))
		base := []*pdu.Event{pl, me}
		noCreate := "2.4"
		n := "2"
		if v == pdu.V12 {
			noCreate, n = "", "3"
		} else {
			base = append(base, create)
		}
		for name, c := range map[string]struct {
			auth []*pdu.Event
			rule string
		}{
			"right":      {base, ""},
			"no create":  {[]*pdu.Event{pl, me}, noCreate},
			"twice":      {append(slices.Clone(base), pl), n + ".1"},
			"too much":   {append(slices.Clone(base), r.lookup(mx.RoomMember, creator)), n + ".2"},
			"no state":   {append(slices.Clone(base), e), n + ".2"},
			"other room": {[]*pdu.Event{create, pl, elsewhere}, n + ".5"},
			"create":     {[]*pdu.Event{create, pl, me}, map[pdu.Version]string{pdu.V11: "", pdu.V12: "3.2"}[v]},
		} {
			if v == pdu.V12 && name == "other room" {
				c.auth = c.auth[1:]
			}
			if got := rule(CheckAuthEvents(v, e, c.auth, nil)); got != c.rule {
				t.Errorf("v%s %s: rule %q, want %q", v, name, got, c.rule)
			}
		}
		if got := rule(CheckAuthEvents(v, e, base, func(id string) bool { return id == pl.ID })); got != n+".3" {
			t.Errorf("v%s rejected: rule %q", v, got)
		}
	}
}

func TestLevels(t *testing.T) {
	r := newRoom(t, pdu.V12)
	p := LevelsOf(r.v, r.lookup)
	if p.User(creator) != Infinite || p.User(mod) != 50 || p.User(al) != 0 || p.Event(mx.RoomName, true) != 60 || p.Event(mx.RoomMessage, false) != 0 || p.StateDefault != 50 || p.Notification("room") != 50 || p.Redact != 50 || p.Invite != 50 {
		t.Errorf("%+v", p)
	}
	for _, c := range []struct {
		sender, target string
		may, send      bool
	}{{mod, al, true, true}, {al, al, true, true}, {al, bo, true, false}, {far, al, false, false}, {creator, far, true, true}} {
		if got := MayRedact(r.v, r.lookup, c.sender, c.target); got != c.may {
			t.Errorf("MayRedact(%s, %s) = %v", c.sender, c.target, got)
		}
		if got := MaySendRedaction(r.v, r.lookup, c.sender, c.target); got != c.send {
			t.Errorf("MaySendRedaction(%s, %s) = %v", c.sender, c.target, got)
		}
	}
	none := LevelsOf(pdu.V11, bare(t, pdu.V11, `{}`).lookup)
	if none.User(creator) != 100 || none.User(al) != 0 || none.StateDefault != 50 || none.Invite != 0 {
		t.Errorf("without power levels: %+v", none)
	}
	create, pl := r.lookup(mx.RoomCreate, ""), r.lookup(mx.RoomPowerLevels, "")
	if !MayNotify(r.v, create, pl, mod, "room") || MayNotify(r.v, create, pl, al, "room") || UserLevel(r.v, create, pl, mod) != 50 {
		t.Error("notification levels are wrong")
	}
}

func BenchmarkCheck(b *testing.B) {
	for _, users := range []int{10, 1000} {
		b.Run(fmt.Sprint(users, " users"), func(b *testing.B) {
			r := newRoom(b, pdu.V11)
			var list []string
			for i := range users {
				list = append(list, fmt.Sprintf(`"@user%05d:hs":10`, i))
			}
			r.set(mx.RoomPowerLevels, creator, "", `{"events_default":10,"users":{`+strings.Join(list, ",")+`}}`)
			u := fmt.Sprintf("@user%05d:hs", users-1)
			r.member(u, mx.Join)
			e := r.build(mx.RoomMessage, u, nil, `{"body":"x"}`)
			b.ReportAllocs()
			for b.Loop() {
				if err := Check(r.v, e, r.lookup); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
