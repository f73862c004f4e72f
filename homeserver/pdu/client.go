package pdu

import (
	"encoding/json"
	"strconv"

	"holdfast/homeserver/mx"
)

// ClientOptions say what surrounds an event when a client gets it.
type ClientOptions struct {
	OmitRoomID bool  // /sync: the room stands around it
	Now        int64 // milliseconds; above 0: unsigned.age is given

	TransactionID   string          // only to the device that sent it
	DelayID         string          // likewise (MSC4140)
	Membership      string          // the reader's membership at the event (MSC4115)
	PrevContent     json.RawMessage // of the state event that was replaced
	PrevSender      string
	ReplacesState   string          // its ID
	Relations       json.RawMessage // object of bundled aggregations: unsigned.m.relations
	RedactedBecause json.RawMessage // the redaction in client format
	InviteState     json.RawMessage // array: unsigned.invite_room_state
	KnockState      json.RawMessage // array: unsigned.knock_room_state
	Extra           json.RawMessage // object whose members are put into unsigned as they are
}

// AppendClient writes the event in the form that clients get. Content is copied
// as it stands. Spec: cs#room-event-format
func (e *Event) AppendClient(dst []byte, o ClientOptions) []byte {
	dst = append(dst, `{"content":`...)
	dst = e.appendContent(dst)
	dst = append(dst, `,"event_id":`...)
	dst = AppendString(dst, e.ID)
	dst = append(dst, `,"origin_server_ts":`...)
	dst = strconv.AppendInt(dst, e.OriginServerTS, 10)
	if e.Redacts != "" && e.Type == mx.RoomRedaction {
		// Both places, whatever the version: clients look in either. Spec: rooms/v11#moving-the-redacts-property
		dst = append(dst, `,"redacts":`...)
		dst = AppendString(dst, e.Redacts)
	}
	if !o.OmitRoomID {
		dst = append(dst, `,"room_id":`...)
		dst = AppendString(dst, e.RoomID)
	}
	dst = append(dst, `,"sender":`...)
	dst = AppendString(dst, e.Sender)
	if e.StateKey != nil {
		dst = append(dst, `,"state_key":`...)
		dst = AppendString(dst, *e.StateKey)
	}
	dst = append(dst, `,"type":`...)
	dst = AppendString(dst, e.Type)
	dst = append(dst, `,"unsigned":{`...)
	dst = o.appendUnsigned(dst, e.OriginServerTS)
	return append(dst, "}}"...)
}

func (e *Event) appendContent(dst []byte) []byte {
	if e.Redacts == "" || e.Type != mx.RoomRedaction || e.Version.RedactsInContent() || Field(e.Content, "redacts") != nil {
		return append(dst, e.Content...)
	}
	dst = append(dst, e.Content[:len(e.Content)-1]...)
	if len(e.Content) > 2 {
		dst = append(dst, ',')
	}
	dst = append(dst, `"redacts":`...)
	return append(AppendString(dst, e.Redacts), '}')
}

func (o *ClientOptions) appendUnsigned(dst []byte, ts int64) []byte {
	str := func(key, value string) {
		if value != "" {
			dst = append(appendKey(dst, key), ':')
			dst = AppendString(dst, value)
		}
	}
	raw := func(key string, value []byte) {
		if len(value) > 0 {
			dst = append(appendKey(dst, key), ':')
			dst = append(dst, value...)
		}
	}
	if o.Now > 0 {
		dst = append(dst, `"age":`...)
		dst = strconv.AppendInt(dst, max(0, o.Now-ts), 10)
	}
	raw("invite_room_state", o.InviteState)
	raw("knock_room_state", o.KnockState)
	raw("m.relations", o.Relations)
	str("membership", o.Membership)
	raw("prev_content", o.PrevContent)
	str("prev_sender", o.PrevSender)
	raw("redacted_because", o.RedactedBecause)
	str("replaces_state", o.ReplacesState)
	str("transaction_id", o.TransactionID)
	str("org.matrix.msc4140.delay_id", o.DelayID)
	if len(o.Extra) > 2 {
		Members(o.Extra, func(k string, v []byte) error {
			raw(k, v)
			return nil
		})
	}
	return dst
}

func appendKey(dst []byte, key string) []byte {
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	return AppendString(dst, key)
}

// AppendStripped writes a state event in the short form that invited, knocking
// and previewing users get. Spec: cs#stripped-state
func (e *Event) AppendStripped(dst []byte) []byte {
	dst = append(dst, `{"content":`...)
	dst = append(dst, e.Content...)
	dst = append(dst, `,"sender":`...)
	dst = AppendString(dst, e.Sender)
	dst = append(dst, `,"state_key":`...)
	dst = AppendString(dst, deref(e.StateKey))
	dst = append(dst, `,"type":`...)
	dst = AppendString(dst, e.Type)
	return append(dst, '}')
}
