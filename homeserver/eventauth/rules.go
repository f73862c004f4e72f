package eventauth

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
)

// checker applies the rules to one event. Its methods return the number of the
// rule that refuses, in version 12's counting, and why; no number means allowed.
type checker struct {
	v      pdu.Version
	e      *pdu.Event
	state  StateLookup
	create *pdu.Event
	levels levels
}

func (c *checker) check() (rule, msg string) {
	e := c.e
	if e.Type == mx.RoomCreate {
		return c.checkCreate()
	}
	c.create = c.state(mx.RoomCreate, "")
	switch {
	case c.v.RoomIDIsHash() && (c.create == nil || pdu.RoomIDOf(c.create.ID) != e.RoomID):
		return "2", "The room's ID is not that of a create event."
	case c.create == nil:
		return "3.4", "The room has no create event."
	case c.create.RoomID != e.RoomID:
		return "3.5", "The create event is of another room."
	}
	if string(pdu.Field(c.create.Content, "m.federate")) == "false" && mx.Domain(e.Sender) != mx.Domain(c.create.Sender) {
		return "4", "This room is closed to other servers."
	}
	c.levels = newLevels(c.v, c.create, c.state(mx.RoomPowerLevels, ""))

	if e.Type == mx.RoomAliases && !c.v.AtLeast(6) {
		switch {
		case e.StateKey == nil:
			return "aliases.1", "An m.room.aliases event needs a state_key."
		case *e.StateKey != mx.Domain(e.Sender):
			return "aliases.2", "The state_key must be the sender's server."
		}
		return "", ""
	}
	if e.Type == mx.RoomMember {
		return c.checkMember()
	}
	if c.membership(e.Sender) != mx.Join {
		return "6", "You are not in this room."
	}
	sender := c.levels.user(e.Sender)
	if e.Type == mx.RoomThirdPartyInvite {
		if sender < c.levels.action("invite") {
			return "7.1", "You may not invite people to this room."
		}
		return "", ""
	}
	if need := c.levels.event(e.Type, e.StateKey != nil); sender < need {
		return "8", fmt.Sprintf("Sending %s needs power level %d; yours is %d.", e.Type, need, sender)
	}
	if e.StateKey != nil && len(*e.StateKey) > 0 && (*e.StateKey)[0] == '@' && *e.StateKey != e.Sender {
		return "9", "State whose key is a user ID can only be set by that user."
	}
	if e.Type == mx.RoomPowerLevels {
		return c.checkPowerLevels(sender)
	}
	if e.Type == mx.RoomRedaction && !c.v.AtLeast(3) {
		if sender < c.levels.action("redact") && mx.Domain(e.Redacts) != mx.Domain(e.ID) {
			return "redaction", "You may not remove other people's messages here."
		}
	}
	return "", ""
}

func (c *checker) checkCreate() (rule, msg string) {
	e := c.e
	if len(e.PrevEvents) > 0 {
		return "1.1", "A create event must be the room's first."
	}
	if c.v.RoomIDIsHash() {
		if pdu.Field(e.JSON(), "room_id") != nil {
			return "1.2", "A create event of this room version has no room_id."
		}
	} else if mx.Domain(e.RoomID) != mx.Domain(e.Sender) {
		return "1.2", "The room's ID must be of the sender's server."
	}
	if raw := pdu.Field(e.Content, "room_version"); raw != nil {
		if s, ok := pdu.String(raw); !ok || !pdu.Supported(pdu.Version(s)) {
			return "1.3", "The room version is not known."
		}
	}
	if !c.v.AtLeast(11) && pdu.Field(e.Content, "creator") == nil {
		return "1.4", "The create event lacks the creator."
	}
	if raw := pdu.Field(e.Content, "additional_creators"); c.v.PrivilegedCreators() && raw != nil {
		list, ok := pdu.Strings(raw)
		for _, u := range list {
			ok = ok && mx.ValidUserID(u)
		}
		if !ok {
			return "1.4", "additional_creators must be a list of user IDs."
		}
	}
	return "", ""
}

// membership is a user's membership in the room, "leave" for those never seen.
func (c *checker) membership(userID string) string {
	m := c.state(mx.RoomMember, userID)
	if m == nil {
		return mx.Leave
	}
	if s := m.Membership(); s != "" {
		return s
	}
	return mx.Leave
}

func (c *checker) joinRule() string {
	if r := c.state(mx.RoomJoinRules, ""); r != nil {
		if s := r.ContentString("join_rule"); s != "" {
			return s
		}
	}
	return mx.JoinInvite
}

func (c *checker) checkMember() (rule, msg string) {
	e := c.e
	membership, ok := pdu.String(pdu.Field(e.Content, "membership"))
	if e.StateKey == nil || !ok {
		return "5.1", "A member event needs a state_key and a membership."
	}
	target := *e.StateKey
	if raw := pdu.Field(e.Content, "join_authorised_via_users_server"); raw != nil && c.v.AtLeast(8) {
		via, ok := pdu.String(raw)
		if !ok || pdu.Path(e.JSON(), "signatures", mx.Domain(via)) == nil {
			return "5.2.1", "The server that vouches for the join has not signed it."
		}
	}
	switch membership {
	case mx.Join:
		return c.checkJoin(target)
	case mx.Invite:
		return c.checkInvite(target)
	case mx.Leave:
		return c.checkLeave(target)
	case mx.Ban:
		switch {
		case c.membership(e.Sender) != mx.Join:
			return "5.6.1", "You are not in this room."
		case c.levels.user(e.Sender) < c.levels.action("ban") || c.levels.user(target) >= c.levels.user(e.Sender):
			return "5.6.3", "You may not ban this user."
		}
		return "", ""
	case mx.Knock:
		if !c.v.AtLeast(7) {
			break
		}
		join := c.joinRule()
		switch {
		case join != mx.JoinKnock && !(c.v.AtLeast(10) && join == mx.JoinKnockRestricted):
			return "5.7.1", "This room does not take requests to join."
		case e.Sender != target:
			return "5.7.2", "You can only ask to join for yourself."
		}
		switch c.membership(e.Sender) {
		case mx.Ban, mx.Invite, mx.Join:
			return "5.7.4", "You are banned, invited or joined already."
		}
		return "", ""
	}
	return "5.8", "The membership is not known in this room version."
}

func (c *checker) checkJoin(target string) (rule, msg string) {
	e := c.e
	if len(e.PrevEvents) == 1 && e.PrevEvents[0] == c.create.ID && c.isFirst(target) {
		return "", ""
	}
	if e.Sender != target {
		return "5.3.2", "You can only join for yourself."
	}
	membership := c.membership(target)
	if membership == mx.Ban {
		return "5.3.3", "You are banned from this room."
	}
	known := membership == mx.Join || membership == mx.Invite
	switch rule := c.joinRule(); {
	case rule == mx.JoinPublic:
		return "", ""
	case rule == mx.JoinInvite, rule == mx.JoinKnock && c.v.AtLeast(7):
		if known {
			return "", ""
		}
	case rule == mx.JoinRestricted && c.v.AtLeast(8), rule == mx.JoinKnockRestricted && c.v.AtLeast(10):
		if known {
			return "", ""
		}
		via := e.ContentString("join_authorised_via_users_server")
		if via == "" || c.membership(via) != mx.Join || c.levels.user(via) < c.levels.action("invite") {
			return "5.3.5.2", "No member who may invite vouches for your join."
		}
		return "", ""
	}
	return "5.3.7", "You are not invited to this room."
}

// isFirst: the user whose join may follow the create event.
func (c *checker) isFirst(userID string) bool {
	if c.v.AtLeast(11) {
		return userID == c.create.Sender
	}
	return userID == c.create.ContentString("creator")
}

func (c *checker) checkInvite(target string) (rule, msg string) {
	e := c.e
	if third := pdu.Field(e.Content, "third_party_invite"); third != nil {
		return c.checkThirdParty(target, third)
	}
	if c.membership(e.Sender) != mx.Join {
		return "5.4.2", "You are not in this room."
	}
	switch c.membership(target) {
	case mx.Join:
		return "5.4.3", "The user is in this room already."
	case mx.Ban:
		return "5.4.3", "The user is banned from this room."
	}
	if c.levels.user(e.Sender) < c.levels.action("invite") {
		return "5.4.5", "You may not invite people to this room."
	}
	return "", ""
}

func (c *checker) checkThirdParty(target string, third []byte) (rule, msg string) {
	if c.membership(target) == mx.Ban {
		return "5.4.1.1", "The user is banned from this room."
	}
	signed := pdu.Field(third, "signed")
	if signed == nil {
		return "5.4.1.2", "The invitation is not signed."
	}
	mxid, okID := pdu.String(pdu.Field(signed, "mxid"))
	token, okToken := pdu.String(pdu.Field(signed, "token"))
	switch {
	case !okID || !okToken:
		return "5.4.1.3", "The signed invitation needs mxid and token."
	case mxid != target:
		return "5.4.1.4", "The invitation is for another user."
	}
	offer := c.state(mx.RoomThirdPartyInvite, token)
	switch {
	case offer == nil:
		return "5.4.1.5", "There is no such invitation in this room."
	case offer.Sender != c.e.Sender:
		return "5.4.1.6", "The invitation was made by another user."
	case !signedByAny(signed, offer.Content):
		return "5.4.1.8", "The invitation's signature is wrong."
	}
	return "", ""
}

// signedByAny: one of the signatures is by one of the keys that the offer names.
func signedByAny(signed, offer []byte) bool {
	var keys []ed25519.PublicKey
	add := func(raw []byte) {
		s, ok := pdu.String(raw)
		if !ok || len(keys) == 16 {
			return
		}
		b, err := pdu.DecodeBase64(s)
		if err != nil {
			b, err = base64.RawURLEncoding.DecodeString(s)
		}
		if err == nil && len(b) == ed25519.PublicKeySize {
			keys = append(keys, b)
		}
	}
	add(pdu.Field(offer, "public_key"))
	pdu.Elements(pdu.Field(offer, "public_keys"), func(k []byte) error {
		add(pdu.Field(k, "public_key"))
		return nil
	})
	found := false
	tries := 0
	pdu.Members(pdu.Field(signed, "signatures"), func(server string, sigs []byte) error {
		return pdu.Members(sigs, func(id string, _ []byte) error {
			for _, k := range keys {
				if tries++; !found && tries <= 64 {
					found = pdu.VerifyJSON(signed, server, id, k) == nil
				}
			}
			return nil
		})
	})
	return found
}

func (c *checker) checkLeave(target string) (rule, msg string) {
	e := c.e
	if e.Sender == target {
		switch m := c.membership(target); {
		case m == mx.Invite, m == mx.Join, m == mx.Knock && c.v.AtLeast(7):
			return "", ""
		}
		return "5.5.1", "You are not in this room."
	}
	if c.membership(e.Sender) != mx.Join {
		return "5.5.2", "You are not in this room."
	}
	sender := c.levels.user(e.Sender)
	if c.membership(target) == mx.Ban && sender < c.levels.action("ban") {
		return "5.5.3", "You may not lift bans in this room."
	}
	if sender < c.levels.action("kick") || c.levels.user(target) >= sender {
		return "5.5.5", "You may not remove this user."
	}
	return "", ""
}

// actions are the plain levels of m.room.power_levels.
var actions = []string{"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"}

func (c *checker) checkPowerLevels(sender int64) (rule, msg string) {
	next := c.e.Content
	if c.v.IntegerPowerLevels() {
		for _, name := range actions {
			if raw := pdu.Field(next, name); raw != nil {
				if _, ok := level(c.v, raw); !ok {
					return "10.1", name + " must be an integer."
				}
			}
		}
		for _, name := range []string{"events", "notifications"} {
			if raw := pdu.Field(next, name); raw != nil {
				if _, ok := levelMap(c.v, raw); !ok {
					return "10.2", name + " must be an object of integers."
				}
			}
		}
	}
	rawUsers := pdu.Field(next, "users")
	users, ok := levelMap(c.v, rawUsers)
	if rawUsers != nil && !ok {
		return "10.3", "users must be an object of integers."
	}
	for u := range users {
		if !mx.ValidUserID(u) {
			return "10.3", "users has a key that is not a user ID."
		}
		if c.v.PrivilegedCreators() && IsCreator(c.v, c.create, u) {
			return "10.4", "The room's creators have no entry in users: they stand above all power levels."
		}
	}
	if c.levels.pl == nil {
		return "", ""
	}
	old := c.levels.pl.Content

	for _, name := range actions {
		was, had := level(c.v, pdu.Field(old, name))
		now, has := level(c.v, pdu.Field(next, name))
		if had == has && was == now {
			continue
		}
		if had && was > sender {
			return "10.6.1", "You may not change " + name + "."
		}
		if has && now > sender {
			return "10.6.2", "You may not set " + name + " above your own power level."
		}
	}
	maps := []string{"events", "notifications"}
	if !c.v.AtLeast(6) {
		maps = maps[:1]
	}
	for _, name := range maps {
		was, _ := levelMap(c.v, pdu.Field(old, name))
		now, _ := levelMap(c.v, pdu.Field(next, name))
		for k, x := range was {
			if y, has := now[k]; (!has || x != y) && x > sender {
				return "10.7.1", "You may not change the power level of " + k + "."
			}
		}
		for k, y := range now {
			if x, had := was[k]; (!had || x != y) && y > sender {
				return "10.8.1", "You may not set the power level of " + k + " above your own."
			}
		}
	}
	was, _ := levelMap(c.v, pdu.Field(old, "users"))
	for u, x := range was {
		if y, has := users[u]; (!has || x != y) && u != c.e.Sender && x >= sender {
			return "10.9.1", "You may not change the power level of " + u + ", which is not below yours."
		}
	}
	for u, y := range users {
		if x, had := was[u]; (!had || x != y) && y > sender {
			return "10.10.1", "You may not give " + u + " more power than you have."
		}
	}
	return "", ""
}
