// Package pushrules decides which events notify a user, and how: the rules of a
// user, the predefined ones among them, and their evaluation. Nothing is stored
// here.
//
// Invariants: everything is pure; a user's own events never notify; an unknown
// condition never matches; evaluation takes time linear in the event, whatever
// the pattern.
package pushrules

import (
	"encoding/json"
	"slices"
	"strings"

	"holdfast/homeserver/mx"
)

// Kinds of rules, in the order in which they are tried.
const (
	Override = "override"
	Content  = "content"
	// Postcontent holds rules of the server alone (MSC4306).
	Postcontent = "postcontent"
	Room        = "room"
	Sender      = "sender"
	Underride   = "underride"
)

// Kinds is all kinds in the order in which they are tried.
var Kinds = []string{Override, Content, Postcontent, Room, Sender, Underride}

// master is the one default rule that stands before users' own rules.
const master = ".m.rule.master"

// Rule is one push rule as clients see it. Spec: cs#push-rules
type Rule struct {
	RuleID     string      `json:"rule_id"`
	Default    bool        `json:"default"`
	Enabled    bool        `json:"enabled"`
	Conditions []Condition `json:"conditions,omitzero"` // nil for kinds that have none
	Pattern    string      `json:"pattern,omitempty"`   // of kind content
	Actions    Actions     `json:"actions"`
}

// Condition is a condition of an override, postcontent or underride rule. Fields of conditions
// that are not known here survive a round trip.
type Condition struct {
	Kind    string
	Key     string
	Pattern string
	Is      string
	Value   json.RawMessage
	// Subscribed is what a condition of ThreadSubscription asks for; nil: nothing matches.
	Subscribed *bool

	raw json.RawMessage
}

type conditionJSON struct {
	Kind    string          `json:"kind"`
	Key     string          `json:"key,omitempty"`
	Pattern *string         `json:"pattern,omitempty"`
	Is      string          `json:"is,omitempty"`
	Value   json.RawMessage `json:"value,omitempty"`

	Subscribed *bool `json:"subscribed,omitempty"`
}

// MarshalJSON gives the condition as it came, or as its fields say.
func (c Condition) MarshalJSON() ([]byte, error) {
	if c.raw != nil {
		return c.raw, nil
	}
	j := conditionJSON{Kind: c.Kind, Key: c.Key, Is: c.Is, Value: c.Value, Subscribed: c.Subscribed}
	if c.Kind == "event_match" {
		j.Pattern = &c.Pattern
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads a condition.
func (c *Condition) UnmarshalJSON(b []byte) error {
	var j conditionJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*c = Condition{Kind: j.Kind, Key: j.Key, Is: j.Is, Value: j.Value, Subscribed: j.Subscribed, raw: slices.Clone(b)}
	if j.Pattern != nil {
		c.Pattern = *j.Pattern
	}
	return nil
}

// Action is one action of a rule: a bare word such as "notify", or a tweak.
type Action struct {
	Word  string          // "notify"; empty for a tweak
	Tweak string          // "sound", "highlight"
	Value json.RawMessage // of the tweak; nil: none
}

// Actions are a rule's actions. The historical actions dont_notify and coalesce
// are dropped when read. Spec: cs#historical-actions
type Actions []Action

// MarshalJSON gives an array, never null.
func (a Actions) MarshalJSON() ([]byte, error) {
	out := make([]any, len(a))
	for i, x := range a {
		switch {
		case x.Word != "":
			out[i] = x.Word
		case x.Value == nil:
			out[i] = map[string]any{"set_tweak": x.Tweak}
		default:
			out[i] = map[string]any{"set_tweak": x.Tweak, "value": x.Value}
		}
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads actions.
func (a *Actions) UnmarshalJSON(b []byte) error {
	var list []json.RawMessage
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	*a = make(Actions, 0, len(list))
	for _, raw := range list {
		var x Action
		if len(raw) > 0 && raw[0] == '"' {
			if err := json.Unmarshal(raw, &x.Word); err != nil {
				return err
			}
			if x.Word == "dont_notify" || x.Word == "coalesce" || x.Word == "" {
				continue
			}
		} else {
			var t struct {
				Tweak string          `json:"set_tweak"`
				Value json.RawMessage `json:"value"`
			}
			if err := json.Unmarshal(raw, &t); err != nil {
				return err
			}
			if t.Tweak == "" {
				return mx.Errorf(mx.BadJSON, "An action must be a word or a set_tweak.")
			}
			x.Tweak, x.Value = t.Tweak, t.Value
		}
		*a = append(*a, x)
	}
	return nil
}

// Notify reports whether the actions notify.
func (a Actions) Notify() bool {
	for _, x := range a {
		if x.Word == "notify" {
			return true
		}
	}
	return false
}

// Highlight reports whether the actions highlight.
func (a Actions) Highlight() bool {
	for _, x := range a {
		if x.Tweak == "highlight" {
			return x.Value == nil || string(x.Value) != "false"
		}
	}
	return false
}

// Ruleset is all rules of a user, each kind in order of priority. It marshals as
// the "global" part of GET /pushrules/ and of m.push_rules.
type Ruleset struct {
	Override    []Rule `json:"override"`
	Content     []Rule `json:"content"`
	Postcontent []Rule `json:"postcontent"`
	Room        []Rule `json:"room"`
	Sender      []Rule `json:"sender"`
	Underride   []Rule `json:"underride"`
}

// MarshalJSON gives an array for each kind, empty or not.
func (r Ruleset) MarshalJSON() ([]byte, error) {
	type plain Ruleset
	for _, kind := range Kinds {
		if p := r.kind(kind); *p == nil {
			*p = []Rule{}
		}
	}
	return json.Marshal(plain(r))
}

func (r *Ruleset) kind(kind string) *[]Rule {
	switch kind {
	case Override:
		return &r.Override
	case Content:
		return &r.Content
	case Postcontent:
		return &r.Postcontent
	case Room:
		return &r.Room
	case Sender:
		return &r.Sender
	case Underride:
		return &r.Underride
	}
	return nil
}

// Rules are the rules of a kind; ok is false if there is no such kind.
func (r *Ruleset) Rules(kind string) (rules []Rule, ok bool) {
	if p := r.kind(kind); p != nil {
		return *p, true
	}
	return nil, false
}

func errNoRule(kind, id string) error {
	return mx.Errorf(mx.NotFound, "There is no %.20s push rule %.100q.", kind, id)
}

// Get returns a rule, which may be changed in place. Errors: *mx.Error NotFound.
func (r *Ruleset) Get(kind, id string) (*Rule, error) {
	if p := r.kind(kind); p != nil {
		for i := range *p {
			if (*p)[i].RuleID == id {
				return &(*p)[i], nil
			}
		}
	}
	return nil, errNoRule(kind, id)
}

// Limits of a user's own rules.
const (
	maxRules      = 1000 // of a kind
	maxRuleID     = 255
	maxPattern    = 1024
	maxConditions = 50
)

// Put adds or replaces a rule of the user's own. before and after name another of
// the user's rules of the kind, which the rule is put next to; at most one is
// looked at, before first. A new rule without either comes first, an existing one
// stays where it is. Errors: *mx.Error InvalidParam, NotFound, Unknown, TooLarge.
// Spec: cs#put_matrixclientv3pushrulesglobalkindruleid
func (r *Ruleset) Put(kind string, rule Rule, before, after string) error {
	p := r.kind(kind)
	switch {
	case p == nil:
		return mx.Errorf(mx.InvalidParam, "There is no kind of push rules called %.20q.", kind)
	case kind == Postcontent: // Source: MSC4306
		return mx.Errorf(mx.InvalidParam, "Rules of the kind postcontent belong to the server. Enable, disable or change the actions of those that are there instead.")
	case strings.HasPrefix(rule.RuleID, "."):
		return mx.Errorf(mx.InvalidParam, "Rule IDs that begin with a dot belong to the server. Enable, disable or change the actions of that rule instead.")
	case rule.RuleID == "" || strings.ContainsAny(rule.RuleID, `/\`) && kind != Room && kind != Sender:
		return mx.Errorf(mx.InvalidParam, "A rule ID must not be empty nor hold slashes.")
	case len(rule.RuleID) > maxRuleID || len(rule.Pattern) > maxPattern || len(rule.Conditions) > maxConditions:
		return mx.Errorf(mx.TooLarge, "The rule's ID, pattern or list of conditions is too long.")
	case kind == Content && rule.Pattern == "":
		return mx.Errorf(mx.MissingParam, "A content rule needs a pattern.")
	}
	for _, c := range rule.Conditions {
		if len(c.raw)+len(c.Pattern) > 4*maxPattern || len(c.Pattern) > maxPattern {
			return mx.Errorf(mx.TooLarge, "A condition of the rule is too long.")
		}
	}
	rule.Default, rule.Enabled = false, true
	if rule.Actions == nil {
		rule.Actions = Actions{}
	}
	switch kind {
	case Override, Underride:
		rule.Pattern = ""
		if rule.Conditions == nil {
			rule.Conditions = []Condition{}
		}
	case Content:
		rule.Conditions = nil
	default:
		rule.Pattern, rule.Conditions = "", nil
	}
	find := func(list []Rule, id string) int {
		return slices.IndexFunc(list, func(x Rule) bool { return x.RuleID == id })
	}
	list := slices.Clone(*p)
	at := find(list, rule.RuleID)
	if at >= 0 {
		rule.Enabled = list[at].Enabled
		if before == "" && after == "" {
			list[at] = rule
			*p = list
			return nil
		}
		list = slices.Delete(list, at, at+1)
	} else if len(list) >= maxRules {
		return mx.Errorf(mx.TooLarge, "There are too many push rules. Delete some first.")
	}
	at = 0
	if len(list) > 0 && list[0].RuleID == master {
		at = 1
	}
	if other := before + after; other != "" {
		if before != "" {
			other = before
		}
		i := find(list, other)
		if i < 0 || list[i].Default {
			return mx.Errorf(mx.Unknown, "before/after rule not found: %.100s", other)
		}
		at = i
		if before == "" {
			at = i + 1
		}
	}
	*p = slices.Insert(list, at, rule)
	return nil
}

// Delete removes a rule of the user's own. Errors: *mx.Error NotFound, InvalidParam.
func (r *Ruleset) Delete(kind, id string) error {
	if p := r.kind(kind); p != nil {
		for i, x := range *p {
			if x.RuleID != id {
				continue
			}
			if x.Default {
				return mx.Errorf(mx.InvalidParam, "A rule of the server cannot be deleted. Disable it instead.")
			}
			*p = slices.Delete(slices.Clone(*p), i, i+1)
			return nil
		}
	}
	return errNoRule(kind, id)
}

// SetEnabled turns a rule on or off. Errors: *mx.Error NotFound.
func (r *Ruleset) SetEnabled(kind, id string, enabled bool) error {
	rule, err := r.Get(kind, id)
	if err == nil {
		rule.Enabled = enabled
	}
	return err
}

// SetActions changes what a rule does. Errors: *mx.Error NotFound.
func (r *Ruleset) SetActions(kind, id string, a Actions) error {
	rule, err := r.Get(kind, id)
	if err == nil {
		if a == nil {
			a = Actions{}
		}
		rule.Actions = a
	}
	return err
}

// Custom is what of the rules is the user's doing: their own rules, and those
// default rules that they changed. It is what needs to be stored.
func (r Ruleset) Custom(userID string) Ruleset {
	var out Ruleset
	defaults := Defaults(userID)
	for _, kind := range Kinds {
		to := out.kind(kind)
		for _, rule := range *r.kind(kind) {
			if rule.Default {
				if d, err := defaults.Get(kind, rule.RuleID); err == nil && d.Enabled == rule.Enabled && sameActions(d.Actions, rule.Actions) {
					continue
				}
			}
			*to = append(*to, rule)
		}
	}
	return out
}

// Compose is the whole of a user's rules, from what Custom returned: their own
// before the defaults, with the changes to those. Defaults of a later release
// appear of themselves.
func Compose(userID string, custom Ruleset) Ruleset {
	out := Defaults(userID)
	for _, kind := range Kinds {
		p := out.kind(kind)
		var own []Rule
		for _, rule := range *custom.kind(kind) {
			if !rule.Default {
				own = append(own, rule)
			} else if d, err := out.Get(kind, rule.RuleID); err == nil {
				d.Enabled, d.Actions = rule.Enabled, rule.Actions
			}
		}
		at := 0
		if len(*p) > 0 && (*p)[0].RuleID == master {
			at = 1
		}
		*p = slices.Insert(*p, at, own...)
	}
	return out
}

func sameActions(a, b Actions) bool {
	return slices.EqualFunc(a, b, func(x, y Action) bool {
		return x.Word == y.Word && x.Tweak == y.Tweak && string(x.Value) == string(y.Value)
	})
}
