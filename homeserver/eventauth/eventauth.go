// Package eventauth decides whether a room's state allows an event: the
// authorisation rules of room versions 1 to 12.
//
// Invariants: everything is pure; an event is allowed only if every rule of its
// room version was looked at; an Error names the rule by the number that it has
// in that version's text.
package eventauth

import (
	"strconv"
	"strings"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
)

// Error says which rule refused an event.
type Error struct {
	Rule string // such as "5.3.2"; Spec: rooms/v12#authorization-rules
	Msg  string
	// Malformed: the content is wrong, whoever sends it.
	Malformed bool
}

func (e *Error) Error() string { return "rule " + e.Rule + ": " + e.Msg }

// StateLookup returns the room's state event of a type and key before the event
// that is checked, or nil.
type StateLookup func(typ, key string) *pdu.Event

// Key names a piece of state.
type Key struct{ Type, StateKey string }

// AuthTypes is the state that an event must reference in auth_events, as far as
// it exists. Spec: server-server#auth-events-selection
func AuthTypes(v pdu.Version, typ, sender string, stateKey *string, content []byte) []Key {
	if typ == mx.RoomCreate {
		return nil
	}
	keys := make([]Key, 0, 6)
	if !v.RoomIDIsHash() {
		keys = append(keys, Key{mx.RoomCreate, ""})
	}
	keys = append(keys, Key{mx.RoomPowerLevels, ""}, Key{mx.RoomMember, sender})
	if typ != mx.RoomMember || stateKey == nil {
		return keys
	}
	if *stateKey != sender {
		keys = append(keys, Key{mx.RoomMember, *stateKey})
	}
	membership := pdu.FieldString(content, "membership")
	switch membership {
	case mx.Join, mx.Invite, mx.Knock:
		keys = append(keys, Key{mx.RoomJoinRules, ""})
	}
	if membership == mx.Invite {
		if token, ok := pdu.String(pdu.Path(content, "third_party_invite", "signed", "token")); ok {
			keys = append(keys, Key{mx.RoomThirdPartyInvite, token})
		}
	}
	if membership == mx.Join && v.AtLeast(8) {
		if via := pdu.FieldString(content, "join_authorised_via_users_server"); via != "" && via != sender && via != *stateKey {
			keys = append(keys, Key{mx.RoomMember, via})
		}
	}
	return keys
}

// AuthTypesOf is AuthTypes of an event that exists.
func AuthTypesOf(e *pdu.Event) []Key {
	return AuthTypes(e.Version, e.Type, e.Sender, e.StateKey, e.Content)
}

// Creators are the users who created the room. In version 12 there may be
// several, and they stand above all power levels.
func Creators(v pdu.Version, create *pdu.Event) []string {
	if create == nil {
		return nil
	}
	if !v.AtLeast(11) {
		return []string{create.ContentString("creator")}
	}
	list := []string{create.Sender}
	if v.PrivilegedCreators() {
		more, _ := pdu.Strings(pdu.Field(create.Content, "additional_creators"))
		list = append(list, more...)
	}
	return list
}

// IsCreator reports whether the user is one of the room's creators.
func IsCreator(v pdu.Version, create *pdu.Event, userID string) bool {
	if create == nil {
		return false
	}
	if v.AtLeast(11) && create.Sender == userID {
		return true
	}
	for _, c := range Creators(v, create) {
		if c == userID {
			return true
		}
	}
	return false
}

// Check applies the rules to an event, whose room has this state before it. The
// event's hashes and signatures must have been checked, and its auth_events with
// CheckAuthEvents where it came from elsewhere. For an event that names
// join_authorised_via_users_server, the caller must have verified that server's
// signature; Check only looks that there is one. Errors: *Error.
func Check(v pdu.Version, e *pdu.Event, state StateLookup) error {
	c := checker{v: v, e: e, state: state}
	if rule, msg := c.check(); rule != "" {
		return &Error{number(v, rule), msg, malformed[rule]}
	}
	return nil
}

// malformed are the rules about what a content must be, in version 12's counting.
var malformed = map[string]bool{"1.4": true, "5.1": true, "5.8": true, "10.1": true, "10.2": true, "10.3": true, "10.4": true}

// CheckAuthEvents applies the rules about the events that an event itself names
// as its authority: auth are they, in any order. rejected tells which of them were
// refused. Errors: *Error. Spec: rooms/v12#authorization-rules 3
func CheckAuthEvents(v pdu.Version, e *pdu.Event, auth []*pdu.Event, rejected func(eventID string) bool) error {
	refuse := func(rule, msg string) error { return &Error{Rule: number(v, rule), Msg: msg} }
	if e.Type == mx.RoomCreate {
		return nil
	}
	allowed := AuthTypesOf(e)
	seen := map[Key]bool{}
	for _, a := range auth {
		if a.StateKey == nil {
			return refuse("3.2", "An event among auth_events is no state event.")
		}
		k := Key{a.Type, *a.StateKey}
		if seen[k] {
			return refuse("3.1", "Two events among auth_events have type "+k.Type+".")
		}
		seen[k] = true
		fits := false
		for _, want := range allowed {
			fits = fits || want == k
		}
		if !fits {
			return refuse("3.2", "An event of type "+k.Type+" does not belong into auth_events.")
		}
		if rejected != nil && rejected(a.ID) {
			return refuse("3.3", "An event among auth_events was rejected.")
		}
		if a.RoomID != e.RoomID {
			return refuse("3.5", "An event among auth_events is of another room.")
		}
	}
	if !v.RoomIDIsHash() && !seen[Key{mx.RoomCreate, ""}] {
		return refuse("3.4", "auth_events lack the create event.")
	}
	return nil
}

// number is a rule's number in a version's text, from its number in version 12.
func number(v pdu.Version, rule string) string {
	if v.AtLeast(12) {
		return rule
	}
	if strings.HasPrefix(rule, "aliases.") { // rule 4 of versions 1 to 5
		return "4" + rule[len("aliases"):]
	}
	if rule == "redaction" { // rule 11 of versions 1 and 2
		return "11.3"
	}
	var n []int
	for s := range strings.SplitSeq(rule, ".") {
		i, _ := strconv.Atoi(s)
		n = append(n, i)
	}
	switch {
	case n[0] == 5 && len(n) > 1 && !v.AtLeast(8): // no rule about join_authorised_via_users_server
		if n[1] == 3 && len(n) > 2 && n[2] >= 6 { // nor about restricted rooms
			n[2]--
		}
		if n[1] == 8 && !v.AtLeast(7) { // nor about knocking
			n[1]--
		}
		if n[1] >= 3 {
			n[1]--
		}
	case n[0] == 10 && len(n) > 1: // version 12 has one rule about creators, 10 two about types
		if n[1] >= 4 {
			n[1]--
		}
		if !v.AtLeast(10) {
			n[1] -= 2
		}
	}
	if n[0] >= 3 && (v.AtLeast(6) || n[0] <= 4) {
		n[0]--
	}
	out := make([]string, len(n))
	for i := range n {
		out[i] = strconv.Itoa(n[i])
	}
	return strings.Join(out, ".")
}
