package pushrules

import (
	"strconv"
	"strings"

	"holdfast/homeserver/pdu"
)

// View is an event taken apart for evaluation. One View serves all users. It must
// not be changed.
type View struct {
	Sender string
	RoomID string
	// Relation is the kind of the event's relation, and RelatesTo the event that it
	// relates to; empty where there is none.
	Relation, RelatesTo string

	body  string
	props map[string]property // by path, dots in names escaped
}

// property is a value that conditions can look at.
type property struct {
	text string // of a string, decoded; of another plain value, its JSON
	str  bool
	list []property // of an array: its plain values
	arr  bool
}

// Limits of what of an event conditions can see.
const (
	maxProperties = 300
	maxPathDepth  = 8
)

// NewView takes an event apart.
func NewView(e *pdu.Event) *View {
	v := &View{Sender: e.Sender, RoomID: e.RoomID, props: make(map[string]property, 12)}
	v.Relation, v.RelatesTo = e.Relation()
	str := func(s string) property { return property{text: s, str: true} }
	v.props["type"] = str(e.Type)
	v.props["sender"] = str(e.Sender)
	v.props["room_id"] = str(e.RoomID)
	v.props["event_id"] = str(e.ID)
	if e.StateKey != nil {
		v.props["state_key"] = str(*e.StateKey)
	}
	if e.Redacts != "" {
		v.props["redacts"] = str(e.Redacts)
	}
	v.add("content", e.Content, 0)
	if p := v.props["content.body"]; p.str {
		v.body = p.text
	}
	return v
}

var pathEscaper = strings.NewReplacer(`\`, `\\`, `.`, `\.`)

func (v *View) add(path string, object []byte, depth int) {
	if depth > maxPathDepth {
		return
	}
	pdu.Members(object, func(k string, val []byte) error {
		if len(v.props) >= maxProperties {
			return pdu.ErrDepth
		}
		if strings.ContainsAny(k, `\.`) {
			k = pathEscaper.Replace(k)
		}
		switch p := path + "." + k; val[0] {
		case '{':
			v.add(p, val, depth+1)
		case '[':
			var list []property
			pdu.Elements(val, func(x []byte) error {
				if len(list) >= maxProperties {
					return pdu.ErrDepth
				}
				if x[0] != '{' && x[0] != '[' {
					list = append(list, plain(x))
				}
				return nil
			})
			v.props[p] = property{list: list, arr: true}
		default:
			v.props[p] = plain(val)
		}
		return nil
	})
}

func plain(raw []byte) property {
	if s, ok := pdu.String(raw); ok {
		return property{text: s, str: true}
	}
	return property{text: string(raw)}
}

// RoomView is what conditions ask about the room, for one user.
type RoomView struct {
	Members int // joined
	// DisplayName is the user's name in the room; contains_display_name asks for it.
	// nil: none.
	DisplayName func() string
	// MayNotify reports whether the sender's power level allows notifications of
	// this key ("room"). nil: no.
	MayNotify func(sender, key string) bool
	// Thread reports whether an event is in a thread, and whether the user is
	// subscribed to it. It is asked of events that relate to another only. nil: no
	// client of the user knows subscriptions, and conditions that ask for them match
	// nothing.
	Thread func(v *View) (in, subscribed bool)
}

// Outcome is what the rules say about an event.
type Outcome struct {
	Kind, RuleID string // of the rule that matched; empty: none did
	Actions      Actions
	Notify       bool
	Highlight    bool
}

// Compiled is a user's rules made ready for evaluation.
type Compiled struct {
	userID string
	rules  []compiled
}

type compiled struct {
	out   Outcome
	conds []condition
}

// condition is one condition made ready; a nil test never matches.
type condition func(v *View, r *RoomView) bool

// Compile makes rules ready for evaluation.
func Compile(userID string, r Ruleset) *Compiled {
	c := &Compiled{userID: userID}
	for _, kind := range Kinds {
		for _, rule := range *r.kind(kind) {
			if !rule.Enabled {
				continue
			}
			x := compiled{out: Outcome{Kind: kind, RuleID: rule.RuleID, Actions: rule.Actions, Notify: rule.Actions.Notify()}}
			// What is highlighted but does not notify would be counted as nothing.
			x.out.Highlight = x.out.Notify && rule.Actions.Highlight()
			switch kind {
			case Content:
				g := compileGlob(rule.Pattern)
				x.conds = append(x.conds, func(v *View, _ *RoomView) bool { return v.body != "" && g.matchWords(v.body) })
			case Room:
				id := rule.RuleID
				x.conds = append(x.conds, func(v *View, _ *RoomView) bool { return v.RoomID == id })
			case Sender:
				id := rule.RuleID
				x.conds = append(x.conds, func(v *View, _ *RoomView) bool { return v.Sender == id })
			default:
				for _, cond := range rule.Conditions {
					x.conds = append(x.conds, compileCondition(cond))
				}
			}
			c.rules = append(c.rules, x)
		}
	}
	return c
}

// normalPath gives a dot-separated path the one form that View uses.
func normalPath(key string) string {
	if !strings.Contains(key, `\`) {
		return key
	}
	var b strings.Builder
	for i := 0; i < len(key); i++ {
		switch {
		case key[i] != '\\':
			b.WriteByte(key[i])
		case i+1 < len(key) && (key[i+1] == '.' || key[i+1] == '\\'):
			b.WriteString(key[i : i+2])
			i++
		default: // a lone backslash stands for itself
			b.WriteString(`\\`)
		}
	}
	return b.String()
}

func never(*View, *RoomView) bool { return false }

func compileCondition(c Condition) condition {
	key := normalPath(c.Key)
	switch c.Kind {
	case "event_match":
		g := compileGlob(c.Pattern)
		if key == "content.body" {
			return func(v *View, _ *RoomView) bool { return v.body != "" && g.matchWords(v.body) }
		}
		return func(v *View, _ *RoomView) bool {
			p, ok := v.props[key]
			return ok && p.str && g.match(p.text)
		}
	case "event_property_is", "event_property_contains":
		val, err := pdu.Canonical(c.Value)
		if err != nil || val[0] == '{' || val[0] == '[' {
			return never
		}
		want := plain(val)
		if c.Kind == "event_property_is" {
			return func(v *View, _ *RoomView) bool {
				p, ok := v.props[key]
				return ok && !p.arr && p.str == want.str && p.text == want.text
			}
		}
		return func(v *View, _ *RoomView) bool {
			for _, p := range v.props[key].list {
				if p.str == want.str && p.text == want.text {
					return true
				}
			}
			return false
		}
	case "contains_display_name":
		return func(v *View, r *RoomView) bool {
			if r.DisplayName == nil || v.body == "" {
				return false
			}
			name := r.DisplayName()
			return name != "" && literal(name).matchWords(v.body)
		}
	case "room_member_count":
		return memberCount(c.Is)
	case "sender_notification_permission":
		name := c.Key
		return func(v *View, r *RoomView) bool { return r.MayNotify != nil && r.MayNotify(v.Sender, name) }
	}
	if c.Kind == ThreadSubscription && c.Subscribed != nil {
		want := *c.Subscribed
		return func(v *View, r *RoomView) bool {
			if v.Relation == "" || r.Thread == nil {
				return false
			}
			in, subscribed := r.Thread(v)
			return in && subscribed == want
		}
	}
	return never
}

// literal is a glob in which * and ? stand for themselves.
func literal(text string) *glob {
	g := &glob{char: map[rune][]uint64{}}
	for range text {
		g.n++
	}
	words := g.n/64 + 1
	g.any, g.star = make([]uint64, words), make([]uint64, words)
	i := 0
	for _, r := range text {
		r = fold(r)
		if g.char[r] == nil {
			g.char[r] = make([]uint64, words)
		}
		g.char[r][i/64] |= 1 << (i % 64)
		i++
	}
	return g
}

func memberCount(is string) condition {
	digits := strings.TrimLeft(is, "=<>")
	n, err := strconv.Atoi(digits)
	if err != nil {
		return never
	}
	switch is[:len(is)-len(digits)] {
	case "", "==":
		return func(_ *View, r *RoomView) bool { return r.Members == n }
	case "<":
		return func(_ *View, r *RoomView) bool { return r.Members < n }
	case ">":
		return func(_ *View, r *RoomView) bool { return r.Members > n }
	case "<=":
		return func(_ *View, r *RoomView) bool { return r.Members <= n }
	case ">=":
		return func(_ *View, r *RoomView) bool { return r.Members >= n }
	}
	return never
}

// Evaluate tells what the first rule that matches says about an event.
// Spec: cs#push-rules
func (c *Compiled) Evaluate(v *View, r *RoomView) Outcome {
	if v.Sender == c.userID {
		return Outcome{}
	}
rules:
	for i := range c.rules {
		for _, cond := range c.rules[i].conds {
			if !cond(v, r) {
				continue rules
			}
		}
		return c.rules[i].out
	}
	return Outcome{}
}
