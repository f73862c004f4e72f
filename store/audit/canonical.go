package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The canonical form is that of RFC 8785 for what entries have: the keys sorted, no
// white space, and of the characters only those escaped that must be.

func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s { // what is no UTF-8 becomes U+FFFD
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\b':
			b = append(b, '\\', 'b')
		case r == '\t':
			b = append(b, '\\', 't')
		case r == '\n':
			b = append(b, '\\', 'n')
		case r == '\f':
			b = append(b, '\\', 'f')
		case r == '\r':
			b = append(b, '\\', 'r')
		case r < 0x20:
			b = fmt.Appendf(b, "\\u%04x", r)
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}

// cut gives at most n bytes of a text, in whole characters that are UTF-8.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	const more = "…"
	i := n - len(more)
	for i > 0 && !utf8.RuneStart(s[i]) {
		i--
	}
	return s[:i] + more
}

// encodeData writes what more there is to an event: cut shorter where it would be too
// long, rather than refused. Errors: ErrData.
func encodeData(d Data) (string, error) {
	s, err := encode(d, maxValue, maxData/2)
	if err == nil && len(s) > maxData {
		s, err = encode(d, 32, maxData/8)
	}
	if err == nil && len(s) > maxData {
		s = `{"too_long":true}`
	}
	return s, err
}

// encode cuts texts at a length, and ends lists when there is so much already.
func encode(d Data, text, enough int) (string, error) {
	b := []byte{'{'}
	for i, k := range slices.Sorted(maps.Keys(d)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, k), ':')
		switch v := d[k].(type) {
		case string:
			b = appendString(b, cut(v, text))
		case bool:
			b = strconv.AppendBool(b, v)
		case int:
			b = strconv.AppendInt(b, int64(v), 10)
		case int64:
			b = strconv.AppendInt(b, v, 10)
		case []string:
			b = append(b, '[')
			for j, s := range v {
				if j > 0 {
					b = append(b, ',')
				}
				if len(b) > enough {
					b = appendString(b, fmt.Sprintf("and %d more", len(v)-j))
					break
				}
				b = appendString(b, cut(s, text))
			}
			b = append(b, ']')
		default:
			return "", ErrData
		}
	}
	return string(append(b, '}')), nil
}

// line is an entry as JSON; with signed, its hash and its MAC are in it.
func (e *Entry) line(signed bool) []byte {
	b := make([]byte, 0, 512)
	b = append(b, `{"actor":`...)
	b = appendString(b, e.Actor)
	b = append(b, `,"at":`...)
	b = strconv.AppendInt(b, e.At, 10)
	b = append(b, `,"data":`...)
	b = append(b, e.Data...)
	b = append(b, `,"event":`...)
	b = appendString(b, e.Event)
	if signed {
		b = append(b, `,"hash":"`...)
		b = hex.AppendEncode(b, e.Hash)
		b = append(b, '"')
	}
	b = append(b, `,"ip":`...)
	b = appendString(b, e.IP)
	if signed {
		b = append(b, `,"mac":"`...)
		b = hex.AppendEncode(b, e.MAC)
		b = append(b, '"')
	}
	b = append(b, `,"prev":"`...)
	b = hex.AppendEncode(b, e.Prev)
	b = append(b, `","seq":`...)
	b = strconv.AppendInt(b, e.Seq, 10)
	b = append(b, `,"target":`...)
	b = appendString(b, e.Target)
	return append(b, '}')
}

// sum is the hash that an entry of this content has.
func (e *Entry) sum() []byte {
	h := sha256.Sum256(e.line(false))
	return h[:]
}

var errLine = errors.New("it is no entry of an audit log")
