package pdu

import (
	"holdfast/homeserver/mx"
)

// Redact keeps only what room version v protects from redaction. raw is a PDU in
// canonical form and is not modified; the result is canonical too. Signatures and
// hashes stay, unsigned goes. Errors: *mx.Error BadJSON.
// Spec: rooms/v11#redactions
func Redact(v Version, raw []byte) ([]byte, error) {
	typ := FieldString(raw, "type")
	out := append(make([]byte, 0, len(raw)), '{')
	err := members(raw, func(k, val []byte) error {
		switch string(k) {
		case "event_id", "type", "room_id", "sender", "state_key", "hashes", "signatures", "depth",
			"prev_events", "auth_events", "origin_server_ts":
			out = appendMember(out, k, val)
		case "prev_state", "origin", "membership":
			if !v.AtLeast(11) {
				out = appendMember(out, k, val)
			}
		case "content":
			out = appendMember(out, k, nil)
			out = appendRedactedContent(out, v, typ, val)
		}
		return nil
	})
	if err != nil {
		return nil, jsonError(err)
	}
	return append(out, '}'), nil
}

// RedactContent is the content that is left of an event of a type.
func RedactContent(v Version, typ string, content []byte) []byte {
	return appendRedactedContent(make([]byte, 0, 64), v, typ, content)
}

// keeps reports whether redaction keeps a member of the content.
func keeps(v Version, typ string, key []byte) bool {
	switch typ {
	case mx.RoomCreate:
		return v.AtLeast(11) || string(key) == "creator"
	case mx.RoomMember:
		switch string(key) {
		case "membership":
			return true
		case "join_authorised_via_users_server":
			return v.AtLeast(9)
		}
	case mx.RoomJoinRules:
		switch string(key) {
		case "join_rule":
			return true
		case "allow":
			return v.AtLeast(8)
		}
	case mx.RoomPowerLevels:
		switch string(key) {
		case "ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default":
			return true
		case "invite":
			return v.AtLeast(11)
		}
	case mx.RoomAliases:
		return !v.AtLeast(6) && string(key) == "aliases"
	case mx.RoomHistoryVisibility:
		return string(key) == "history_visibility"
	case mx.RoomRedaction:
		return v.AtLeast(11) && string(key) == "redacts"
	}
	return false
}

func appendRedactedContent(out []byte, v Version, typ string, content []byte) []byte {
	out = append(out, '{')
	switch typ {
	case mx.RoomCreate, mx.RoomMember, mx.RoomJoinRules, mx.RoomPowerLevels, mx.RoomAliases,
		mx.RoomHistoryVisibility, mx.RoomRedaction:
	default:
		return append(out, '}')
	}
	members(content, func(k, val []byte) error {
		switch {
		case keeps(v, typ, k):
			out = appendMember(out, k, val)
		case typ == mx.RoomMember && v.AtLeast(11) && string(k) == "third_party_invite":
			if signed := Field(val, "signed"); signed != nil {
				out = appendMember(out, k, nil)
				out = append(out, `{"signed":`...)
				out = append(append(out, signed...), '}')
			}
		}
		return nil
	})
	return append(out, '}')
}
