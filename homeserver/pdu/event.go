// Package pdu makes and reads room events in the form that servers sign: the
// persistent data unit. Canonical JSON, hashes, signatures, event IDs, redaction
// and size limits stand here, for each room version.
//
// Invariants: everything is pure; an Event is not changed after it was made; its
// JSON is canonical; what Build made passes Parse, Verify and the content hash.
package pdu

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"

	"holdfast/homeserver/mx"
)

// Limits of an event. Spec: cs#size-limits
const (
	MaxPDUBytes   = 65536 // of the canonical JSON with signatures
	MaxFieldBytes = 255   // of sender, room_id, state_key, type and event_id
	maxPrevEvents = 20
	maxAuthEvents = 10
)

// Event is an event of a room. It must not be changed.
type Event struct {
	Version        Version
	ID             string
	RoomID         string // of a version 12 create event too, where it is derived
	Type           string
	Sender         string
	StateKey       *string // nil: not a state event
	Content        json.RawMessage
	OriginServerTS int64 // milliseconds since 1970, as the sender's server claims
	PrevEvents     []string
	AuthEvents     []string // without the create event in version 12
	Depth          int64
	Redacts        string          // event that an m.room.redaction names, wherever the version puts it
	Unsigned       json.RawMessage // what came with the PDU; nil in events that Build made

	json    []byte
	derived atomic.Pointer[any]
}

// Derived returns what f makes of the event, from memory after the first time.
// There is one place for it in each event: eventauth keeps power levels there.
func (e *Event) Derived(f func(*Event) any) any {
	if p := e.derived.Load(); p != nil {
		return *p
	}
	v := f(e)
	e.derived.Store(&v)
	return v
}

// JSON is the canonical, signed PDU. It must not be changed.
func (e *Event) JSON() []byte { return e.json }

// IsState reports whether it is a state event.
func (e *Event) IsState() bool { return e.StateKey != nil }

// StateKeyIs reports whether it is a state event with this key.
func (e *Event) StateKeyIs(key string) bool { return e.StateKey != nil && *e.StateKey == key }

// IsStateOf reports whether it is the state event of this type and key.
func (e *Event) IsStateOf(typ, key string) bool { return e.Type == typ && e.StateKeyIs(key) }

// Membership is content.membership of an m.room.member event, else "".
func (e *Event) Membership() string {
	if e.Type != mx.RoomMember {
		return ""
	}
	return FieldString(e.Content, "membership")
}

// ContentString is a member of the content that is a string, or "".
func (e *Event) ContentString(key string) string { return FieldString(e.Content, key) }

// Relation is the event's m.relates_to: the kind of relation and the event it
// relates to, both empty where there is none. A plain reply is no relation.
func (e *Event) Relation() (relType, eventID string) {
	rel := Field(e.Content, "m.relates_to")
	if rel == nil {
		return "", ""
	}
	if relType = FieldString(rel, "rel_type"); relType == "" {
		return "", ""
	}
	if eventID = FieldString(rel, "event_id"); eventID == "" {
		return "", ""
	}
	return relType, eventID
}

// ThreadRoot is the root of the thread that the event is in by its own relation,
// or "". Spec: cs#threading
func (e *Event) ThreadRoot() string {
	if typ, id := e.Relation(); typ == mx.RelThread {
		return id
	}
	return ""
}

// RoomIDOf is the ID of a version 12 room, from its create event's ID.
func RoomIDOf(createID string) string {
	if createID == "" {
		return ""
	}
	return "!" + createID[1:]
}

// Proto is an event before it is hashed and signed.
type Proto struct {
	RoomID         string // empty for the create event of a version 12 room
	Type           string
	Sender         string
	StateKey       *string
	Content        json.RawMessage // any JSON object; it is made canonical
	OriginServerTS int64
	PrevEvents     []string
	AuthEvents     []string // with the create event, except in version 12
	Depth          int64
	Redacts        string // of m.room.redaction; put where the version wants it

	// Versions 1 and 2: the event's ID, which its maker chooses, and the reference
	// hashes (unpadded base64) of the events that PrevEvents and AuthEvents name.
	EventID string
	Hashes  map[string]string
}

// Build hashes and signs an event and gives it its ID.
// Errors: *mx.Error with codes TooLarge, BadJSON, NotJSON, UnsupportedRoom.
func Build(v Version, p Proto, key SigningKey) (*Event, error) {
	if !Supported(v) {
		return nil, mx.Errorf(mx.UnsupportedRoom, "Events for rooms of version %q cannot be made here.", string(v))
	}
	bare := v.RoomIDIsHash() && p.Type == mx.RoomCreate && p.StateKey != nil && *p.StateKey == ""
	if bare {
		p.RoomID = ""
	}
	if err := checkFields(&p); err != nil {
		return nil, err
	}
	if v.EventIDInPDU() {
		if p.EventID == "" {
			return nil, fmt.Errorf("pdu: an event of room version %s needs an ID", v)
		}
		for _, id := range slices.Concat(p.PrevEvents, p.AuthEvents) {
			if p.Hashes[id] == "" {
				return nil, fmt.Errorf("pdu: the hash of %s is not given", id)
			}
		}
	}
	if !IsObject(p.Content) {
		if len(p.Content) > 0 && !json.Valid(p.Content) {
			return nil, mx.Errorf(mx.NotJSON, "The content of an event must be a JSON object.")
		}
		return nil, mx.Errorf(mx.BadJSON, "The content of an event must be a JSON object.")
	}
	if p.Redacts != "" && v.RedactsInContent() {
		c, err := withString(p.Content, "redacts", p.Redacts)
		if err != nil {
			return nil, err
		}
		p.Content = c
	}
	each := 3
	if v.EventIDInPDU() {
		each = 3 + len(`[,{"sha256":""}]`) + 43
	}
	size := len(p.Content) + 1024
	for _, id := range p.AuthEvents {
		size += len(id) + each
	}
	for _, id := range p.PrevEvents {
		size += len(id) + each
	}

	// One buffer holds the PDU. The keys of the envelope are written in canonical
	// order; hashes and signatures are put in once they are known.
	b := make([]byte, 0, size+len(p.Content)/8)
	b = append(b, `{"auth_events":`...)
	b = appendReferences(b, v, p.AuthEvents, p.Hashes)
	b = append(b, `,"content":`...)
	contentAt := len(b)
	b, err := appendCanonical(b, p.Content, v.StrictJSON())
	if err != nil {
		return nil, err
	}
	contentEnd := len(b)
	b = append(b, `,"depth":`...)
	b = strconv.AppendInt(b, p.Depth, 10)
	if v.EventIDInPDU() {
		b = append(b, `,"event_id":`...)
		b = AppendString(b, p.EventID)
	}
	hashesAt := len(b)
	b = append(b, `,"origin_server_ts":`...)
	b = strconv.AppendInt(b, p.OriginServerTS, 10)
	b = append(b, `,"prev_events":`...)
	b = appendReferences(b, v, p.PrevEvents, p.Hashes)
	redactsAt := len(b)
	if p.Redacts != "" && !v.RedactsInContent() {
		b = append(b, `,"redacts":`...)
		b = AppendString(b, p.Redacts)
	}
	redactsEnd := len(b)
	if !bare {
		b = append(b, `,"room_id":`...)
		b = AppendString(b, p.RoomID)
	}
	b = append(b, `,"sender":`...)
	b = AppendString(b, p.Sender)
	sigAt := len(b)
	if p.StateKey != nil {
		b = append(b, `,"state_key":`...)
		b = AppendString(b, *p.StateKey)
	}
	b = append(b, `,"type":`...)
	b = AppendString(b, p.Type)
	b = append(b, '}')
	if len(b) > MaxPDUBytes {
		return nil, tooLarge(len(b))
	}
	contentHash := sha256.Sum256(b)

	var hashes [72]byte
	h := append(hashes[:0], `,"hashes":{"sha256":"`...)
	h = base64.RawStdEncoding.AppendEncode(h, contentHash[:])
	h = append(h, `"}`...)

	// What is signed, and what the ID is the hash of, is the redacted event.
	red := make([]byte, 0, len(b)-(contentEnd-contentAt)+len(h)+256)
	red = append(red, b[:contentAt]...)
	red = appendRedactedContent(red, v, p.Type, b[contentAt:contentEnd])
	red = append(red, b[contentEnd:hashesAt]...)
	red = append(red, h...)
	red = append(red, b[hashesAt:redactsAt]...)
	red = append(red, b[redactsEnd:]...)
	ref := sha256.Sum256(red)
	sig := key.sign(red)

	out := make([]byte, 0, len(b)+len(h)+len(key.Server)+len(key.ID)+128)
	out = append(out, b[:hashesAt]...)
	out = append(out, h...)
	out = append(out, b[hashesAt:sigAt]...)
	out = append(out, `,"signatures":{`...)
	out = AppendString(out, key.Server)
	out = append(out, ":{"...)
	out = AppendString(out, key.ID)
	out = append(out, `:"`...)
	out = base64.RawStdEncoding.AppendEncode(out, sig)
	out = append(out, `"}}`...)
	out = append(out, b[sigAt:]...)
	if len(out) > MaxPDUBytes {
		return nil, tooLarge(len(out))
	}

	e := &Event{
		Version: v, ID: eventID(v, ref), RoomID: p.RoomID, Type: p.Type, Sender: p.Sender, StateKey: p.StateKey,
		Content: out[contentAt:contentEnd:contentEnd], OriginServerTS: p.OriginServerTS, PrevEvents: p.PrevEvents,
		AuthEvents: p.AuthEvents, Depth: p.Depth, json: out,
	}
	if v.EventIDInPDU() {
		e.ID = p.EventID
	}
	if bare {
		e.RoomID = RoomIDOf(e.ID)
	}
	e.Redacts = p.Redacts
	if e.Redacts == "" && e.Type == mx.RoomRedaction && v.RedactsInContent() {
		e.Redacts = FieldString(e.Content, "redacts")
	}
	return e, nil
}

func checkFields(p *Proto) error {
	for _, f := range []struct{ name, value string }{{"room_id", p.RoomID}, {"sender", p.Sender}, {"type", p.Type}, {"state_key", deref(p.StateKey)}, {"redacts", p.Redacts}, {"event_id", p.EventID}} {
		if len(f.value) > MaxFieldBytes {
			return mx.Errorf(mx.TooLarge, "The event's %s is %d bytes long; %d are allowed.", f.name, len(f.value), MaxFieldBytes)
		}
	}
	if p.Depth > MaxInt || p.Depth < 0 || p.OriginServerTS > MaxInt || p.OriginServerTS < MinInt {
		return jsonError(ErrNumber)
	}
	return nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func tooLarge(n int) error {
	return mx.Errorf(mx.TooLarge, "The event is %d bytes long; %d are allowed. Send large content as a file.", n, MaxPDUBytes)
}

// withString sets one member of an object.
func withString(object []byte, key, value string) ([]byte, error) {
	out := append(make([]byte, 0, len(object)+len(key)+len(value)+8), '{')
	err := Members(object, func(k string, v []byte) error {
		if k != key {
			out = AppendString(out, k)
			out = append(append(append(out, ':'), v...), ',')
		}
		return nil
	})
	if err != nil {
		return nil, jsonError(err)
	}
	out = AppendString(out, key)
	out = append(out, ':')
	out = AppendString(out, value)
	return append(out, '}'), nil
}

// appendReferences writes prev_events or auth_events, which in versions 1 and 2 are
// pairs of an ID and its hash.
func appendReferences(b []byte, v Version, list []string, hashes map[string]string) []byte {
	b = append(b, '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		if v.EventIDInPDU() {
			b = append(b, '[')
			b = AppendString(b, s)
			b = append(b, `,{"sha256":`...)
			b = AppendString(b, hashes[s])
			b = append(b, "}]"...)
			continue
		}
		b = AppendString(b, s)
	}
	return append(b, ']')
}

func eventID(v Version, ref [32]byte) string {
	var buf [44]byte
	b := append(buf[:0], '$')
	if v.AtLeast(4) {
		b = base64.RawURLEncoding.AppendEncode(b, ref[:])
	} else {
		b = base64.RawStdEncoding.AppendEncode(b, ref[:])
	}
	return string(b)
}

// errShape means that a PDU lacks a field or has one of the wrong type.
var errShape = errors.New("a field of the event is missing or has the wrong type")

// Parse reads an event of our own store: raw must be what JSON returned, and id
// its ID (empty: computed from the hash). raw is kept, not copied.
// Errors: errors that mean a damaged store.
func Parse(v Version, id string, raw []byte) (*Event, error) {
	e := &Event{Version: v, ID: id, json: raw}
	var bad string
	err := members(raw, func(k, val []byte) error {
		ok := true
		switch string(k) {
		case "auth_events":
			e.AuthEvents, ok = references(v, val)
		case "content":
			e.Content = val[:len(val):len(val)]
			ok = IsObject(val)
		case "depth":
			e.Depth, ok = Int(val)
		case "event_id":
			if v.EventIDInPDU() {
				e.ID, ok = String(val)
			}
		case "origin_server_ts":
			e.OriginServerTS, ok = Int(val)
		case "prev_events":
			e.PrevEvents, ok = references(v, val)
		case "redacts":
			if !v.RedactsInContent() {
				e.Redacts, _ = String(val)
			}
		case "room_id":
			e.RoomID, ok = String(val)
		case "sender":
			e.Sender, ok = String(val)
		case "state_key":
			var key string
			key, ok = String(val)
			e.StateKey = &key
		case "type":
			e.Type, ok = String(val)
		case "unsigned":
			e.Unsigned = val[:len(val):len(val)]
		}
		if !ok {
			bad = string(k)
			return errShape
		}
		return nil
	})
	if err == nil && (e.Content == nil || e.Sender == "" || e.Type == "") {
		err = errShape
	}
	if err != nil {
		return nil, fmt.Errorf("pdu: event %s: %w %s", id, err, bad)
	}
	if e.ID == "" {
		if e.ID, err = ID(v, raw); err != nil {
			return nil, fmt.Errorf("pdu: %w", err)
		}
	}
	if v.RedactsInContent() && e.Type == mx.RoomRedaction {
		e.Redacts = FieldString(e.Content, "redacts")
	}
	if e.RoomID == "" && v.RoomIDIsHash() && e.IsStateOf(mx.RoomCreate, "") {
		e.RoomID = RoomIDOf(e.ID)
	}
	return e, nil
}

// references reads prev_events or auth_events, which in versions 1 and 2 are
// pairs of an ID and its hashes.
func references(v Version, raw []byte) ([]string, bool) {
	if !v.EventIDInPDU() {
		return Strings(raw)
	}
	var list []string
	err := Elements(raw, func(pair []byte) error {
		n := 0
		err := Elements(pair, func(x []byte) error {
			if n++; n == 1 {
				id, ok := String(x)
				if !ok {
					return errShape
				}
				list = append(list, id)
			}
			return nil
		})
		if err == nil && n == 0 {
			err = errShape
		}
		return err
	})
	return list, err == nil
}

// Receive reads an event that came from another server: it is made canonical
// (numbers are held to the version's rules), its shape and sizes are checked, and
// it gets its ID. Where the content hash does not match, the event is redacted,
// as the specification wants it; redacted says so. Signatures are not checked:
// see Verify. Errors: *mx.Error with codes TooLarge, BadJSON, NotJSON.
// Spec: server-server#checks-performed-on-receipt-of-a-pdu
func Receive(v Version, raw []byte) (e *Event, redacted bool, err error) {
	if !Supported(v) {
		return nil, false, mx.Errorf(mx.UnsupportedRoom, "Rooms of version %q are not known here.", string(v))
	}
	b, err := appendCanonical(make([]byte, 0, len(raw)), raw, v.StrictJSON())
	if err != nil {
		return nil, false, err
	}
	if b, err = without(b, "unsigned", "age_ts"); err != nil {
		return nil, false, jsonError(err)
	}
	if len(b) > MaxPDUBytes {
		return nil, false, tooLarge(len(b))
	}
	if !HashMatches(b) {
		if b, err = Redact(v, b); err != nil {
			return nil, false, err
		}
		redacted = true
	}
	if e, err = Parse(v, "", b); err != nil {
		return nil, false, &mx.Error{Code: mx.BadJSON, Msg: "The event cannot be read.", Err: err}
	}
	if v.RoomIDIsHash() && e.IsStateOf(mx.RoomCreate, "") && Field(b, "room_id") != nil {
		return nil, false, mx.Errorf(mx.BadJSON, "A create event of room version %s has no room_id.", string(v))
	}
	if !mx.ValidUserID(e.Sender) || !mx.ValidRoomID(e.RoomID) {
		return nil, false, mx.Errorf(mx.BadJSON, "The event's sender or room_id is not valid.")
	}
	for _, s := range []string{e.ID, e.RoomID, e.Sender, e.Type, deref(e.StateKey)} {
		if len(s) > MaxFieldBytes {
			return nil, false, mx.Errorf(mx.TooLarge, "A field of the event is longer than %d bytes.", MaxFieldBytes)
		}
	}
	if len(e.PrevEvents) > maxPrevEvents || len(e.AuthEvents) > maxAuthEvents || e.Depth < 0 {
		return nil, false, mx.Errorf(mx.BadJSON, "The event has too many prev_events or auth_events.")
	}
	return e, redacted, nil
}

// without removes members of a canonical object.
func without(object []byte, keys ...string) ([]byte, error) {
	out := append(make([]byte, 0, len(object)), '{')
	err := members(object, func(k, v []byte) error {
		for _, key := range keys {
			if string(k) == key {
				return nil
			}
		}
		out = appendMember(out, k, v)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return append(out, '}'), nil
}

func appendMember(out, k, v []byte) []byte {
	if len(out) > 0 && out[len(out)-1] != '{' {
		out = append(out, ',')
	}
	out = AppendString(out, string(k))
	out = append(out, ':')
	return append(out, v...)
}

// ContentHash is the hash that stands in hashes.sha256 of a canonical PDU.
// Spec: server-server#calculating-the-content-hash-for-an-event
func ContentHash(raw []byte) ([32]byte, error) {
	b, err := without(raw, "unsigned", "signatures", "hashes")
	if err != nil {
		return [32]byte{}, jsonError(err)
	}
	return sha256.Sum256(b), nil
}

// HashMatches reports whether the content hash of a canonical PDU is right.
func HashMatches(raw []byte) bool {
	want, ok := String(Path(raw, "hashes", "sha256"))
	if !ok {
		return false
	}
	h, err := base64.RawStdEncoding.DecodeString(want)
	if err != nil {
		return false
	}
	got, err := ContentHash(raw)
	return err == nil && bytes.Equal(h, got[:])
}

// ReferenceHash is the hash that names a canonical PDU: that of its redacted form
// without signatures and unsigned. Spec: server-server#calculating-the-reference-hash-for-an-event
func ReferenceHash(v Version, raw []byte) ([32]byte, error) {
	b, err := signedForm(v, raw)
	if err != nil {
		return [32]byte{}, err
	}
	return sha256.Sum256(b), nil
}

// ID is the ID of a canonical PDU.
func ID(v Version, raw []byte) (string, error) {
	if v.EventIDInPDU() {
		if id := FieldString(raw, "event_id"); id != "" {
			return id, nil
		}
		return "", mx.Errorf(mx.BadJSON, "The event has no event_id.")
	}
	h, err := ReferenceHash(v, raw)
	if err != nil {
		return "", err
	}
	return eventID(v, h), nil
}

// signedForm is the redacted event without signatures and unsigned.
func signedForm(v Version, raw []byte) ([]byte, error) {
	b, err := Redact(v, raw)
	if err != nil {
		return nil, err
	}
	b, err = without(b, "signatures", "unsigned")
	if err != nil {
		return nil, jsonError(err)
	}
	return b, nil
}
