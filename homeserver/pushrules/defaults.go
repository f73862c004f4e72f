package pushrules

import "encoding/json"

var (
	notify    = Action{Word: "notify"}
	highlight = Action{Tweak: "highlight"}
	chime     = Action{Tweak: "sound", Value: json.RawMessage(`"default"`)}
	ring      = Action{Tweak: "sound", Value: json.RawMessage(`"ring"`)}
)

func eventMatch(key, pattern string) Condition {
	return Condition{Kind: "event_match", Key: key, Pattern: pattern}
}

// ThreadSubscription is the kind of condition that asks whether an event is in a
// thread that the user is subscribed to, or in one that they are not subscribed to.
// Source: MSC4306
const ThreadSubscription = "io.element.msc4306.thread_subscription"

func threadSubscription(subscribed bool) Condition {
	return Condition{Kind: ThreadSubscription, Subscribed: &subscribed}
}

func members(is string) Condition { return Condition{Kind: "room_member_count", Is: is} }

// Defaults are the predefined rules for a user.
// Spec: cs#predefined-rules (v1.19); source: MSC4306, New Push Rules
func Defaults(userID string) Ruleset {
	me, _ := json.Marshal(userID)
	rule := func(id string, actions Actions, conditions ...Condition) Rule {
		if conditions == nil {
			conditions = []Condition{}
		}
		if actions == nil {
			actions = Actions{}
		}
		return Rule{RuleID: ".m.rule." + id, Default: true, Enabled: id != "master", Conditions: conditions, Actions: actions}
	}
	thread := func(id string, subscribed bool, actions Actions) Rule {
		r := rule(id, actions, threadSubscription(subscribed))
		r.RuleID = ".io.element.msc4306.rule." + id
		return r
	}
	return Ruleset{
		Override: []Rule{
			rule("master", nil),
			rule("suppress_notices", nil, eventMatch("content.msgtype", "m.notice")),
			rule("invite_for_me", Actions{notify, chime}, eventMatch("type", "m.room.member"),
				eventMatch("content.membership", "invite"), eventMatch("state_key", userID)),
			rule("member_event", nil, eventMatch("type", "m.room.member")),
			rule("is_user_mention", Actions{notify, chime, highlight},
				Condition{Kind: "event_property_contains", Key: `content.m\.mentions.user_ids`, Value: me}),
			rule("is_room_mention", Actions{notify, highlight},
				Condition{Kind: "event_property_is", Key: `content.m\.mentions.room`, Value: json.RawMessage("true")},
				Condition{Kind: "sender_notification_permission", Key: "room"}),
			rule("tombstone", Actions{notify, highlight}, eventMatch("type", "m.room.tombstone"), eventMatch("state_key", "")),
			rule("reaction", nil, eventMatch("type", "m.reaction")),
			rule("room.server_acl", nil, eventMatch("type", "m.room.server_acl"), eventMatch("state_key", "")),
			rule("suppress_edits", nil,
				Condition{Kind: "event_property_is", Key: `content.m\.relates_to.rel_type`, Value: json.RawMessage(`"m.replace"`)}),
		},
		Postcontent: []Rule{
			thread("unsubscribed_thread", false, nil),
			thread("subscribed_thread", true, Actions{notify, chime}),
		},
		Underride: []Rule{
			rule("call", Actions{notify, ring}, eventMatch("type", "m.call.invite")),
			rule("encrypted_room_one_to_one", Actions{notify, chime}, members("2"), eventMatch("type", "m.room.encrypted")),
			rule("room_one_to_one", Actions{notify, chime}, members("2"), eventMatch("type", "m.room.message")),
			rule("message", Actions{notify}, eventMatch("type", "m.room.message")),
			rule("encrypted", Actions{notify}, eventMatch("type", "m.room.encrypted")),
		},
	}
}
