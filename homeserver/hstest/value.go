package hstest

import (
	"encoding/json"
	"strconv"
	"strings"
)

// Value is a piece of decoded JSON, or nothing.
type Value struct{ V any }

// At goes down: each part is the name of a member or the index of an element, where
// -1 is the last one. What is not there is the empty Value.
func (v Value) At(parts ...string) Value {
	for _, p := range parts {
		switch x := v.V.(type) {
		case map[string]any:
			v = Value{x[p]}
		case []any:
			i, err := strconv.Atoi(p)
			if i < 0 {
				i += len(x)
			}
			if err != nil || i < 0 || i >= len(x) {
				return Value{}
			}
			v = Value{x[i]}
		default:
			return Value{}
		}
	}
	return v
}

// Exists reports whether there is anything, null included.
func (v Value) Exists(name string) bool {
	m, _ := v.V.(map[string]any)
	_, ok := m[name]
	return ok
}

// String is a string, or "".
func (v Value) String() string { s, _ := v.V.(string); return s }

// Int is a number, or -1.
func (v Value) Int() int {
	if f, ok := v.V.(float64); ok {
		return int(f)
	}
	return -1
}

// Bool is true, or false.
func (v Value) Bool() bool { b, _ := v.V.(bool); return b }

// List is the elements.
func (v Value) List() []Value {
	l, _ := v.V.([]any)
	out := make([]Value, len(l))
	for i := range l {
		out[i] = Value{l[i]}
	}
	return out
}

// Keys are the names of the members.
func (v Value) Keys() []string {
	m, _ := v.V.(map[string]any)
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	return out
}

// Text is the JSON again.
func (v Value) Text() string { b, _ := json.Marshal(v.V); return string(b) }

// Joined is a joined room of a sync.
func (v Value) Joined(roomID string) Value { return v.At("rooms", "join", roomID) }

// Timeline are the events of a joined room of a sync.
func (v Value) Timeline(roomID string) []Value {
	return v.Joined(roomID).At("timeline", "events").List()
}

// Bodies are the texts of events, those without one left out.
func Bodies(events []Value) []string {
	out := []string{}
	for _, e := range events {
		if b := e.At("content", "body"); b.V != nil {
			out = append(out, b.String())
		}
	}
	return out
}

// Types are the types of events.
func Types(events []Value) []string {
	out := []string{}
	for _, e := range events {
		out = append(out, strings.TrimPrefix(e.At("type").String(), "m.room."))
	}
	return out
}

// Find is the event of a type and state key among events.
func Find(events []Value, typ, key string) Value {
	for _, e := range events {
		if e.At("type").String() == typ && e.Exists("state_key") && e.At("state_key").String() == key {
			return e
		}
	}
	return Value{}
}
