package oracle

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"maunium.net/go/mautrix/federation/eventauth"
	mpdu "maunium.net/go/mautrix/federation/pdu"
	"maunium.net/go/mautrix/id"

	ours "holdfast/homeserver/eventauth"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
)

var users = []string{"@root:one.example", "@co:one.example", "@mod:one.example", "@al:one.example", "@bo:two.example", "@ev:three.example"}

// room is a room that random events are tried on.
type room struct {
	t     *testing.T
	r     random
	v     pdu.Version
	state map[ours.Key]*pdu.Event
	id    string
	last  string
	depth int64
	byID  map[string]*pdu.Event
	tally map[string]int
}

func (m *room) lookup(typ, key string) *pdu.Event { return m.state[ours.Key{Type: typ, StateKey: key}] }

// level is the text of a power level.
func (m *room) level() string {
	if m.v.IntegerPowerLevels() && m.r.IntN(40) == 0 { // before, what is no number is everybody's own guess
		return m.r.value(1)
	}
	if !m.v.IntegerPowerLevels() && m.r.IntN(10) == 0 {
		return pick(m.r, `"50"`, `" 10 "`, `"-5"`, `"+7"`, `"007"`)
	}
	return strconv.Itoa(pick(m.r, -1, 0, 1, 25, 50, 50, 75, 99, 100, 101))
}

func (m *room) levels() string {
	base := map[string]string{}
	if pl := m.lookup(mx.RoomPowerLevels, ""); pl != nil && m.r.IntN(4) > 0 {
		pdu.Members(pl.Content, func(k string, v []byte) error { base[k] = string(v); return nil })
	}
	for range m.r.IntN(3) {
		k := pick(m.r, "ban", "kick", "redact", "invite", "users_default", "events_default", "state_default")
		if m.r.IntN(4) == 0 {
			delete(base, k)
		} else {
			base[k] = m.level()
		}
	}
	for range 1 + m.r.IntN(3) {
		name := pick(m.r, "users", "users", "events", "notifications")
		sub := map[string]string{}
		if old, ok := base[name]; ok {
			pdu.Members([]byte(old), func(k string, v []byte) error { sub[k] = string(v); return nil })
		}
		var k string
		switch name {
		case "users":
			k = users[m.r.IntN(len(users))]
			if m.r.IntN(30) == 0 {
				k = pick(m.r, "nobody", "@x")
			}
		case "events":
			k = pick(m.r, "m.room.topic", "m.room.power_levels", "m.room.message", "m.room.join_rules")
		default:
			k = "room"
		}
		if m.r.IntN(4) == 0 {
			delete(sub, k)
		} else {
			sub[k] = m.level()
		}
		base[name] = object(sub)
	}
	return object(base)
}

func object(members map[string]string) string {
	var list []string
	for k, v := range members {
		list = append(list, strconv.Quote(k)+":"+v)
	}
	return "{" + strings.Join(list, ",") + "}"
}

// build makes an event with the auth events that it ought to have.
func (m *room) build(typ, sender string, key *string, content string) *pdu.Event {
	p := pdu.Proto{RoomID: m.id, Type: typ, Sender: sender, StateKey: key, Content: []byte(content), OriginServerTS: 1700000000000 + m.depth,
		Depth: m.depth, PrevEvents: []string{}, AuthEvents: []string{}}
	if m.last != "" {
		p.PrevEvents = []string{m.last}
	}
	for _, k := range ours.AuthTypes(m.v, typ, sender, key, p.Content) {
		if e := m.state[k]; e != nil {
			p.AuthEvents = append(p.AuthEvents, e.ID)
		}
	}
	k := signer
	k.Server = mx.Domain(sender)
	e, err := pdu.Build(m.v, p, k)
	if err != nil {
		m.t.Fatal(err)
	}
	if via := e.ContentString("join_authorised_via_users_server"); via != "" && m.r.IntN(6) > 0 {
		k.Server = mx.Domain(via)
		raw, err := pdu.SignPDU(m.v, e.JSON(), k)
		if err != nil {
			m.t.Fatal(err)
		}
		if e, err = pdu.Parse(m.v, e.ID, raw); err != nil {
			m.t.Fatal(err)
		}
	}
	return e
}

const panicked = "panicked"

// verdicts are the three answers; the empty string means allowed.
func (m *room) verdicts(e *pdu.Event) (our, mautrix, gmsl string) {
	var auth []*pdu.Event
	for _, id := range e.AuthEvents {
		auth = append(auth, m.byID[id])
	}
	err := ours.CheckAuthEvents(m.v, e, auth, nil)
	if err == nil {
		err = ours.Check(m.v, e, m.lookup)
	}
	var refused *ours.Error
	if errors.As(err, &refused) {
		our = refused.Rule
	} else if err != nil {
		m.t.Fatal(err)
	}

	get := func(ids []id.EventID) ([]*mpdu.PDU, error) {
		var list []*mpdu.PDU
		for _, x := range ids {
			if a := m.byID[string(x)]; a != nil {
				list = append(list, mautrixEvent(m.t, a.JSON()))
			}
		}
		return list, nil
	}
	func() {
		// mautrix 0.29 panics when a power level of a user is taken away.
		defer func() {
			if recover() != nil {
				mautrix = panicked
			}
		}()
		if err := eventauth.Authorize(id.RoomVersion(m.v), mautrixEvent(m.t, e.JSON()), get, keyOf); err != nil {
			mautrix = err.Error()
		}
	}()

	impl := gomatrixserverlib.MustGetRoomVersion(gomatrixserverlib.RoomVersion(m.v))
	parse := func(e *pdu.Event) gomatrixserverlib.PDU {
		g, err := impl.NewEventFromTrustedJSONWithEventID(e.ID, e.JSON(), false)
		if err != nil {
			m.t.Fatalf("%v: %s", err, e.JSON())
		}
		return g
	}
	var list []gomatrixserverlib.PDU
	for _, a := range auth {
		list = append(list, parse(a))
	}
	if c := m.lookup(mx.RoomCreate, ""); c != nil && m.v.RoomIDIsHash() && e.Type != mx.RoomCreate {
		list = append(list, parse(c))
	}
	provider, err := gomatrixserverlib.NewAuthEvents(list)
	if err != nil {
		m.t.Fatal(err)
	}
	err = gomatrixserverlib.Allowed(parse(e), provider, func(_ spec.RoomID, s spec.SenderID) (*spec.UserID, error) {
		return spec.NewUserID(string(s), true)
	})
	if err != nil {
		gmsl = err.Error()
	}
	return our, mautrix, gmsl
}

// try compares the verdicts on an event and, if it is allowed, applies it.
func (m *room) try(typ, sender string, key *string, content string) {
	e := m.build(typ, sender, key, content)
	our, mautrix, gmsl := m.verdicts(e)
	m.tally[e.Type+" "+our]++
	if bad := m.disagreement(e, our, mautrix, gmsl); bad != "" {
		var state strings.Builder
		for k, s := range m.state {
			fmt.Fprintf(&state, "  %s %q by %s: %s\n", k.Type, k.StateKey, s.Sender, s.Content)
		}
		m.t.Errorf("v%s: %s\nours    %q\nmautrix %q\ngmsl    %q\nevent   %s\nstate\n%s", m.v, bad, our, mautrix, gmsl, e.JSON(), state.String())
		m.t.FailNow()
	}
	if our != "" {
		return
	}
	m.byID[e.ID], m.last = e, e.ID
	m.depth++
	if e.StateKey != nil {
		m.state[ours.Key{Type: e.Type, StateKey: *e.StateKey}] = e
	}
	if m.id == "" {
		m.id = e.RoomID
	}
}

// disagreement says who is of another opinion than we, leaving out the cases in
// which an oracle is known not to follow the specification.
func (m *room) disagreement(e *pdu.Event, our, mautrix, gmsl string) string {
	// mautrix wants the signature of who vouches for a join before version 8 too.
	early := !m.v.AtLeast(8) && e.ContentString("join_authorised_via_users_server") != ""
	if (our == "") != (mautrix == "") && !early && mautrix != panicked {
		return "mautrix disagrees"
	}
	if (our == "") != (gmsl == "") && !m.gmslKnown(e, our) {
		return "gomatrixserverlib disagrees"
	}
	return ""
}

// gmslKnown are the cases in which gomatrixserverlib does not do as the rules say.
func (m *room) gmslKnown(e *pdu.Event, our string) bool {
	switch {
	case strings.HasSuffix(our, ".2.1"):
		return true // it does not look at the signature of who vouches for a join,
	case e.Membership() == mx.Leave && strings.HasSuffix(our, ".5.1"), e.Membership() == mx.Leave && our == "4.4.1":
		return true // it lets those leave who are not there,
	case e.Membership() == mx.Join && m.member(e.Sender) != mx.Leave && m.member(e.Sender) != mx.Ban:
		return true // nor at the join rule for those who are there or invited, and it refuses those who knocked,
	case !m.v.AtLeast(10) && (e.Membership() == mx.Knock || e.Membership() == mx.Join) && m.joinRule() == mx.JoinKnockRestricted:
		return true // nor at the version for knock_restricted;
	case e.Type == mx.RoomPowerLevels:
		return true // it compares with the defaults where a level was not set, and gives v12 creators no power over notifications
	}
	return false
}

func (m *room) member(userID string) string {
	if e := m.lookup(mx.RoomMember, userID); e != nil {
		return e.Membership()
	}
	return mx.Leave
}

func (m *room) joinRule() string {
	if e := m.lookup(mx.RoomJoinRules, ""); e != nil {
		return e.ContentString("join_rule")
	}
	return mx.JoinInvite
}

// TestAuth tries random events on random rooms.
func TestAuth(t *testing.T) {
	r := newRandom(t)
	r.tame = true
	tally := map[string]int{}
	for range rounds / 20 {
		v := pick(r, pdu.V6, pdu.V7, pdu.V8, pdu.V9, pdu.V10, pdu.V10, pdu.V11, pdu.V11, pdu.V12, pdu.V12)
		m := &room{t: t, r: r, v: v, id: "!room:one.example", state: map[ours.Key]*pdu.Event{}, byID: map[string]*pdu.Event{}, tally: tally}
		if v.RoomIDIsHash() {
			m.id = ""
		}
		m.run()
	}
	for k, n := range tally {
		t.Logf("%6d %s", n, k)
	}
}

func str(s string) *string { return &s }

func (m *room) run() {
	r := m.r
	create := map[string]string{"room_version": strconv.Quote(string(m.v))}
	if !m.v.AtLeast(11) && r.IntN(10) > 0 {
		create["creator"] = `"@root:one.example"`
	}
	if r.IntN(6) == 0 {
		create["m.federate"] = "false"
	}
	if m.v.PrivilegedCreators() && r.IntN(3) > 0 {
		create["additional_creators"] = pick(r, `["@co:one.example"]`, `["@co:one.example"]`, `["@co:one.example","@bo:two.example"]`, `[]`, `["nobody"]`, `"@co:one.example"`)
	}
	m.try(mx.RoomCreate, "@root:one.example", str(""), object(create))
	if m.last == "" {
		return
	}
	if r.IntN(4) == 0 {
		m.try(mx.RoomMember, "@al:one.example", str("@al:one.example"), `{"membership":"join"}`)
	}
	m.try(mx.RoomMember, "@root:one.example", str("@root:one.example"), `{"membership":"join"}`)
	if r.IntN(4) > 0 {
		users := `"@root:one.example":100,`
		if m.v.PrivilegedCreators() {
			users = ""
		}
		m.try(mx.RoomPowerLevels, "@root:one.example", str(""), `{"users":{`+users+`"@mod:one.example":50},"events":{"m.room.power_levels":`+pick(r, "0", "50", "100")+`},"invite":`+m.level()+`}`)
	}
	for range 60 {
		sender, target := users[r.IntN(len(users))], users[r.IntN(len(users))]
		if r.IntN(2) == 0 {
			target = sender
		}
		switch r.IntN(10) {
		case 0, 1, 2, 3, 4:
			c := map[string]string{"membership": strconv.Quote(pick(r, "join", "join", "join", "invite", "invite", "leave", "ban", "knock", "knock", "dance"))}
			if r.IntN(4) == 0 {
				c["join_authorised_via_users_server"] = strconv.Quote(users[r.IntN(len(users))])
			}
			if r.IntN(40) == 0 {
				delete(c, "membership")
			}
			m.try(mx.RoomMember, sender, str(target), object(c))
		case 5:
			m.try(mx.RoomJoinRules, pick(r, sender, "@root:one.example"), str(""), `{"join_rule":"`+pick(r, "public", "invite", "knock", "restricted", "knock_restricted", "private", "odd")+`"}`)
		case 6, 7:
			m.try(mx.RoomPowerLevels, pick(r, sender, "@root:one.example"), str(""), m.levels())
		case 8:
			m.try(pick(r, mx.RoomTopic, "x.y"), sender, pick(r, str(""), str(target), str("@")), `{}`)
		default:
			m.try(pick(r, mx.RoomMessage, mx.RoomRedaction, mx.RoomThirdPartyInvite), sender, pick(r, nil, str("tok")), `{}`)
		}
	}
}

// TestThirdParty compares what is made of invitations by e-mail address. mautrix
// 0.29 looks for the keys in the wrong event, so that it is not asked.
func TestThirdParty(t *testing.T) {
	r := newRandom(t)
	r.tame = true
	for _, v := range []pdu.Version{pdu.V10, pdu.V11, pdu.V12} {
		m := &room{t: t, r: r, v: v, id: "!room:one.example", state: map[ours.Key]*pdu.Event{}, byID: map[string]*pdu.Event{}, tally: map[string]int{}}
		if v.RoomIDIsHash() {
			m.id = ""
		}
		m.try(mx.RoomCreate, "@root:one.example", str(""), `{"creator":"@root:one.example","room_version":"`+string(v)+`"}`)
		m.try(mx.RoomMember, "@root:one.example", str("@root:one.example"), `{"membership":"join"}`)
		key := pdu.Base64(signer.Public())
		other := pdu.Base64(make([]byte, 32))
		m.try(mx.RoomThirdPartyInvite, "@root:one.example", str("tok"), `{"display_name":"b","public_key":"`+other+`","public_keys":[{"public_key":"`+key+`"}]}`)
		if m.lookup(mx.RoomThirdPartyInvite, "tok") == nil {
			t.Fatal("the offer was refused")
		}
		signed, err := pdu.SignJSON([]byte(`{"mxid":"@bo:two.example","token":"tok"}`), signer)
		if err != nil {
			t.Fatal(err)
		}
		forged := strings.Replace(string(signed), `"tok"`, `"kot"`, 1)
		wrong := strings.Replace(string(signed), `"ed25519:a_1":"`, `"ed25519:a_1":"A`, 1)
		for name, c := range map[string]struct {
			sender, target, third, want string
		}{
			"right":          {"@root:one.example", "@bo:two.example", `{"signed":` + string(signed) + `}`, ""},
			"another user":   {"@root:one.example", "@ev:three.example", `{"signed":` + string(signed) + `}`, "5.4.1.4"},
			"another token":  {"@root:one.example", "@bo:two.example", `{"signed":` + forged + `}`, "5.4.1.5"},
			"another sender": {"@al:one.example", "@bo:two.example", `{"signed":` + string(signed) + `}`, "5.4.1.6"},
			"changed":        {"@root:one.example", "@bo:two.example", `{"signed":` + wrong + `}`, "5.4.1.8"},
			"no token":       {"@root:one.example", "@bo:two.example", `{"signed":{"mxid":"@bo:two.example"}}`, "5.4.1.3"},
			"not signed":     {"@root:one.example", "@bo:two.example", `{"display_name":"x"}`, "5.4.1.2"},
		} {
			e := m.build(mx.RoomMember, c.sender, str(c.target), `{"membership":"invite","third_party_invite":`+c.third+`}`)
			our, _, gmsl := m.verdicts(e)
			want := c.want
			if want != "" && !v.AtLeast(12) {
				want = "4" + want[1:]
			}
			// gomatrixserverlib does not compare the senders.
			if our != want || (our == "") != (gmsl == "") && name != "another sender" {
				t.Errorf("v%s %s: ours %q, want %q, gomatrixserverlib %q", v, name, our, want, gmsl)
			}
		}
	}
}
