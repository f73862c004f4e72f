package timeline

import (
	"encoding/json"
	"strings"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
)

// EventFilter picks events. A list that is absent does not restrict; one that is
// empty lets nothing through. Spec: cs#post_matrixclientv3useruseridfilter
type EventFilter struct {
	Limit      *int     `json:"limit"`
	Types      []string `json:"types"`
	NotTypes   []string `json:"not_types"`
	Senders    []string `json:"senders"`
	NotSenders []string `json:"not_senders"`
}

// RoomEventFilter picks events of rooms.
type RoomEventFilter struct {
	EventFilter
	Rooms             []string `json:"rooms"`
	NotRooms          []string `json:"not_rooms"`
	ContainsURL       *bool    `json:"contains_url"`
	LazyLoadMembers   bool     `json:"lazy_load_members"`
	IncludeRedundant  bool     `json:"include_redundant_members"`
	ThreadCounts      bool     `json:"unread_thread_notifications"`
	ThreadCountsMSC   bool     `json:"org.matrix.msc3773.unread_thread_notifications"`
	RelatedBySenders  []string `json:"related_by_senders"`
	RelatedByRelTypes []string `json:"related_by_rel_types"`
}

// RoomFilter is the part of a Filter about rooms.
type RoomFilter struct {
	Rooms        []string        `json:"rooms"`
	NotRooms     []string        `json:"not_rooms"`
	IncludeLeave bool            `json:"include_leave"`
	State        RoomEventFilter `json:"state"`
	Timeline     RoomEventFilter `json:"timeline"`
	Ephemeral    RoomEventFilter `json:"ephemeral"`
	AccountData  RoomEventFilter `json:"account_data"`
}

// Filter is what /sync filters by.
type Filter struct {
	EventFields []string    `json:"event_fields"`
	EventFormat string      `json:"event_format"`
	Presence    EventFilter `json:"presence"`
	AccountData EventFilter `json:"account_data"`
	Room        RoomFilter  `json:"room"`
}

// Bounds of a filter.
const (
	maxFilterBytes = 64 << 10
	maxFilterList  = 1000
)

// ParseFilter reads a filter. Errors: BadJSON, NotJSON, TooLarge.
func ParseFilter(raw []byte) (*Filter, error) {
	f := &Filter{}
	if err := parse(raw, f); err != nil {
		return nil, err
	}
	if f.EventFormat != "" && f.EventFormat != "client" && f.EventFormat != "federation" {
		return nil, mx.Errorf(mx.BadJSON, "The event_format of a filter is client or federation.")
	}
	for _, l := range []*EventFilter{&f.Presence, &f.AccountData, &f.Room.State.EventFilter, &f.Room.Timeline.EventFilter,
		&f.Room.Ephemeral.EventFilter, &f.Room.AccountData.EventFilter} {
		if err := l.check(); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// ParseEventFilter reads the filter parameter of /messages and /context. Empty: all.
// Errors: BadJSON, NotJSON, TooLarge.
func ParseEventFilter(raw string) (*RoomEventFilter, error) {
	f := &RoomEventFilter{}
	if raw == "" {
		return f, nil
	}
	if err := parse([]byte(raw), f); err != nil {
		return nil, err
	}
	return f, f.check()
}

func parse(raw []byte, into any) error {
	if len(raw) > maxFilterBytes {
		return mx.Errorf(mx.TooLarge, "The filter is larger than %d bytes.", maxFilterBytes)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		if json.Valid(raw) {
			return mx.Errorf(mx.BadJSON, "The filter has a field of a wrong type: %v.", err)
		}
		return mx.Errorf(mx.NotJSON, "The filter is not valid JSON.")
	}
	return nil
}

func (f *EventFilter) check() error {
	if f.Limit != nil && *f.Limit < 0 {
		return mx.Errorf(mx.BadJSON, "A filter's limit cannot be negative.")
	}
	for _, l := range [][]string{f.Types, f.NotTypes, f.Senders, f.NotSenders} {
		if len(l) > maxFilterList {
			return mx.Errorf(mx.BadJSON, "A list in the filter has more than %d entries.", maxFilterList)
		}
	}
	return nil
}

// LimitOr is the filter's limit, at most most, or def. 0 is taken at its word: nothing
// but whether there was anything.
func (f *EventFilter) LimitOr(def, most int) int {
	if f.Limit == nil {
		return def
	}
	return min(*f.Limit, most)
}

// All reports whether everything passes.
func (f *EventFilter) All() bool {
	return f.Types == nil && f.NotTypes == nil && f.Senders == nil && f.NotSenders == nil
}

// None reports whether nothing can pass.
func (f *EventFilter) None() bool {
	if f.Types != nil && len(f.Types) == 0 || f.Senders != nil && len(f.Senders) == 0 {
		return true
	}
	for _, t := range f.NotTypes {
		if t == "*" {
			return true
		}
	}
	return false
}

// Pass reports whether an event of a type and sender passes.
func (f *EventFilter) Pass(typ, sender string) bool {
	if f.Types != nil && !anyType(f.Types, typ) || anyType(f.NotTypes, typ) {
		return false
	}
	if f.Senders != nil && !has(f.Senders, sender) || has(f.NotSenders, sender) {
		return false
	}
	return true
}

// All reports whether every event of every room passes.
func (f *RoomEventFilter) All() bool {
	return f.EventFilter.All() && f.Rooms == nil && f.NotRooms == nil && f.ContainsURL == nil && f.RelatedBySenders == nil && f.RelatedByRelTypes == nil
}

// PassRoom reports whether events of a room can pass.
func (f *RoomEventFilter) PassRoom(roomID string) bool {
	return (f.Rooms == nil || has(f.Rooms, roomID)) && !has(f.NotRooms, roomID)
}

// PassEvent reports whether an event passes. What others relate to it is not
// looked at: see Timeline.Related.
func (f *RoomEventFilter) PassEvent(e *pdu.Event) bool {
	if !f.Pass(e.Type, e.Sender) || !f.PassRoom(e.RoomID) {
		return false
	}
	if f.ContainsURL != nil {
		_, isString := pdu.String(pdu.Field(e.Content, "url"))
		if isString != *f.ContainsURL {
			return false
		}
	}
	return true
}

// PassRoom reports whether a room is to be shown at all.
func (f *RoomFilter) PassRoom(roomID string) bool {
	return (f.Rooms == nil || has(f.Rooms, roomID)) && !has(f.NotRooms, roomID)
}

func has(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// anyType matches types with * as a wildcard for any run of characters.
func anyType(list []string, typ string) bool {
	for _, p := range list {
		if p == typ || strings.Contains(p, "*") && glob(p, typ) {
			return true
		}
	}
	return false
}

func glob(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	first, last := parts[0], parts[len(parts)-1]
	if !strings.HasPrefix(s, first) {
		return false
	}
	s = s[len(first):]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return strings.HasSuffix(s, last)
}
