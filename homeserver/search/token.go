package search

import (
	"encoding/base64"
	"encoding/json"

	"holdfast/homeserver/mx"
)

// token is where a listing goes on: among what was there when it began.
type token struct {
	UpTo  int64  `json:"u"`           // events up to here are listed
	After int64  `json:"a,omitempty"` // by time: after this event
	Skip  int    `json:"s,omitempty"` // by rank: after this many
	Key   string `json:"k,omitempty"` // of one group: room_id or sender
	Value string `json:"v,omitempty"`
}

func (t token) String() string {
	b, _ := json.Marshal(t) // strings and numbers
	return base64.RawURLEncoding.EncodeToString(b)
}

const maxToken = 2000 // bytes

// parseToken reads a token. Errors: InvalidParam.
func parseToken(s string) (token, error) {
	var t token
	bad := mx.Errorf(mx.InvalidParam, "%.40q is no next_batch that this server gave.", s)
	if len(s) > maxToken {
		return t, bad
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || json.Unmarshal(b, &t) != nil || t.UpTo < 0 || t.After < 0 || t.Skip < 0 ||
		(t.Key != "" && t.Key != groupRoom && t.Key != groupSender) || t.String() != s {
		return token{}, bad
	}
	return t, nil
}
