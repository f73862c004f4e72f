package timeline

import (
	"strconv"
	"strings"

	"holdfast/homeserver/mx"
)

// Token is a place in the sequence of everything that happens: after position
// Pos. /sync, sliding sync, /messages and /relations understand each other's.
type Token struct {
	Pos int64
	// ToDevice is the position up to which the device got its to-device messages,
	// where that is not Pos: there were more of them than one answer holds.
	ToDevice int64
}

// String is the token as clients get it: "s<pos>" or "s<pos>_<to-device>".
func (t Token) String() string {
	b := strconv.AppendInt([]byte{'s'}, t.Pos, 10)
	if t.ToDevice != t.Pos {
		b = strconv.AppendInt(append(b, '_'), t.ToDevice, 10)
	}
	return string(b)
}

// At is the token after a position.
func At(pos int64) Token { return Token{pos, pos} }

// ParseToken reads a token. After "~" sliding sync's have a part of their own, which
// says nothing about the place. Errors: InvalidParam.
func ParseToken(s string) (Token, error) {
	bad := mx.Errorf(mx.InvalidParam, "%.40q is no token that this server gave.", s)
	s, own, _ := strings.Cut(s, "~")
	rest, ok := strings.CutPrefix(s, "s")
	if len(own) > 40 {
		return Token{}, bad
	}
	if !ok || len(s) > 40 {
		return Token{}, bad
	}
	pos, dev, two := strings.Cut(rest, "_")
	t := Token{}
	var err error
	if t.Pos, err = number(pos); err != nil {
		return Token{}, bad
	}
	t.ToDevice = t.Pos
	if two {
		if t.ToDevice, err = number(dev); err != nil || t.ToDevice == t.Pos {
			return Token{}, bad
		}
	}
	return t, nil
}

// number reads what AppendInt writes of a number of 0 or more, and nothing else.
func number(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err == nil && (n < 0 || strconv.FormatInt(n, 10) != s) {
		err = strconv.ErrSyntax
	}
	return n, err
}
