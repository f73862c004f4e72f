package pdu

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"holdfast/homeserver/mx"
)

// Errors of the JSON functions; they come wrapped in an *mx.Error of code BadJSON
// or NotJSON.
var (
	ErrSyntax    = errors.New("not valid JSON")
	ErrNumber    = errors.New("numbers must be integers between -(2^53)+1 and 2^53-1")
	ErrDuplicate = errors.New("an object has the same key twice")
	ErrUTF8      = errors.New("text is not valid Unicode")
	ErrDepth     = errors.New("objects and lists are nested too deep")
	ErrNotObject = errors.New("not a JSON object")
)

// maxDepth bounds nesting, and with it the stack.
const maxDepth = 200

// MaxInt and MinInt are the range of integers in canonical JSON.
// Spec: appendices#canonical-json
const (
	MaxInt = 1<<53 - 1
	MinInt = -MaxInt
)

// Canonical returns the canonical form of a JSON value: keys sorted, no spaces,
// shortest escapes. It is strict: see the errors. raw is not modified.
// Errors: *mx.Error of code NotJSON (ErrSyntax, ErrUTF8) or BadJSON (ErrNumber,
// ErrDuplicate, ErrDepth). Spec: appendices#canonical-json
func Canonical(raw []byte) ([]byte, error) {
	return AppendCanonical(make([]byte, 0, len(raw)), raw)
}

// AppendCanonical is Canonical into dst. After an error dst's further content is undefined.
func AppendCanonical(dst, raw []byte) ([]byte, error) {
	return appendCanonical(dst, raw, true)
}

func appendCanonical(dst, raw []byte, strict bool) ([]byte, error) {
	s := scanner{b: raw, strict: strict}
	s.space()
	dst, err := s.value(dst, 0)
	if err == nil {
		if s.space(); s.i != len(raw) {
			err = ErrSyntax
		}
	}
	if err != nil {
		return dst, jsonError(err)
	}
	return dst, nil
}

func jsonError(err error) error {
	code := mx.BadJSON
	if errors.Is(err, ErrSyntax) || errors.Is(err, ErrUTF8) {
		code = mx.NotJSON
	}
	return &mx.Error{Code: code, Msg: "The content cannot be sent: " + err.Error() + ".", Err: err}
}

// scanner reads JSON text and writes its canonical form in one pass.
type scanner struct {
	b       []byte
	i       int
	strict  bool // else any number passes as it is written: room versions 1 to 5
	members []member
	tmp     []byte
}

// member is a member of an object being written: its decoded key, and where its
// canonical text stands in the output.
type member struct {
	key        []byte
	start, end int
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) word(dst []byte, w string) ([]byte, error) {
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		return dst, ErrSyntax
	}
	s.i += len(w)
	return append(dst, w...), nil
}

func (s *scanner) value(dst []byte, depth int) ([]byte, error) {
	if depth > maxDepth {
		return dst, ErrDepth
	}
	switch c := s.peek(); c {
	case '{':
		return s.object(dst, depth)
	case '[':
		s.i++
		dst = append(dst, '[')
		s.space()
		if s.peek() == ']' {
			s.i++
			return append(dst, ']'), nil
		}
		for {
			var err error
			if dst, err = s.value(dst, depth+1); err != nil {
				return dst, err
			}
			s.space()
			switch s.peek() {
			case ',':
				s.i++
				s.space()
				dst = append(dst, ',')
			case ']':
				s.i++
				return append(dst, ']'), nil
			default:
				return dst, ErrSyntax
			}
		}
	case '"':
		dst, _, err := s.str(dst, false)
		return dst, err
	case 't':
		return s.word(dst, "true")
	case 'f':
		return s.word(dst, "false")
	case 'n':
		return s.word(dst, "null")
	default:
		if c == '-' || '0' <= c && c <= '9' {
			return s.number(dst)
		}
		return dst, ErrSyntax
	}
}

func (s *scanner) object(dst []byte, depth int) ([]byte, error) {
	s.i++
	dst = append(dst, '{')
	s.space()
	if s.peek() == '}' {
		s.i++
		return append(dst, '}'), nil
	}
	base, first, sorted := len(s.members), len(dst), true
	for {
		if s.peek() != '"' {
			return dst, ErrSyntax
		}
		start := len(dst)
		var key []byte
		var err error
		if dst, key, err = s.str(dst, true); err != nil {
			return dst, err
		}
		if s.space(); s.peek() != ':' {
			return dst, ErrSyntax
		}
		s.i++
		s.space()
		dst = append(dst, ':')
		if dst, err = s.value(dst, depth+1); err != nil {
			return dst, err
		}
		if n := len(s.members); n > base && bytes.Compare(s.members[n-1].key, key) >= 0 {
			sorted = false
		}
		s.members = append(s.members, member{key, start, len(dst)})
		s.space()
		if s.peek() == ',' {
			s.i++
			s.space()
			dst = append(dst, ',')
			continue
		}
		if s.peek() != '}' {
			return dst, ErrSyntax
		}
		s.i++
		break
	}
	if !sorted {
		ms := s.members[base:]
		slices.SortFunc(ms, func(a, b member) int { return bytes.Compare(a.key, b.key) })
		s.tmp = append(s.tmp[:0], dst[first:]...)
		dst = dst[:first]
		for i, m := range ms {
			if i > 0 {
				if bytes.Equal(ms[i-1].key, m.key) {
					return dst, ErrDuplicate
				}
				dst = append(dst, ',')
			}
			dst = append(dst, s.tmp[m.start-first:m.end-first]...)
		}
	}
	s.members = s.members[:base]
	return append(dst, '}'), nil
}

func (s *scanner) number(dst []byte) ([]byte, error) {
	start := s.i
	if s.peek() == '-' {
		s.i++
	}
	digits := s.i
	for s.i < len(s.b) && '0' <= s.b[s.i] && s.b[s.i] <= '9' {
		s.i++
	}
	n := s.i - digits
	if n == 0 || n > 1 && s.b[digits] == '0' {
		return dst, ErrSyntax
	}
	whole := true
	if s.peek() == '.' {
		whole = false
		if s.i++; !s.digits() {
			return dst, ErrSyntax
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		whole = false
		s.i++
		if c := s.peek(); c == '+' || c == '-' {
			s.i++
		}
		if !s.digits() {
			return dst, ErrSyntax
		}
	}
	text := s.b[start:s.i]
	if whole && n <= 16 {
		v, err := strconv.ParseInt(string(text), 10, 64)
		if err == nil && v <= MaxInt && v >= MinInt {
			return strconv.AppendInt(dst, v, 10), nil // -0 becomes 0
		}
	}
	if s.strict {
		return dst, ErrNumber
	}
	return append(dst, text...), nil
}

func (s *scanner) digits() bool {
	start := s.i
	for s.i < len(s.b) && '0' <= s.b[s.i] && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i > start
}

// str reads a string, writes it canonically and, if wanted, returns its decoded
// text, which shares memory with the input where nothing was escaped.
func (s *scanner) str(dst []byte, want bool) (out, text []byte, err error) {
	s.i++
	start := s.i
	dst = append(dst, '"')
	for s.i < len(s.b) { // the usual case: nothing is escaped
		c := s.b[s.i]
		if c == '"' {
			text = s.b[start:s.i]
			if !utf8.Valid(text) {
				return dst, nil, ErrUTF8
			}
			s.i++
			return append(append(dst, text...), '"'), text, nil
		}
		if c == '\\' {
			break
		}
		if c < 0x20 {
			return dst, nil, ErrSyntax
		}
		s.i++
	}
	s.i = start
	var decoded []byte
	body := len(dst)
	for s.i < len(s.b) {
		c := s.b[s.i]
		switch {
		case c == '"':
			s.i++
			if !utf8.Valid(dst[body:]) {
				return dst, nil, ErrUTF8
			}
			return append(dst, '"'), decoded, nil
		case c < 0x20:
			return dst, nil, ErrSyntax
		case c != '\\':
			dst = append(dst, c)
			if want {
				decoded = append(decoded, c)
			}
			s.i++
		default:
			r, err := s.escape()
			if err != nil {
				return dst, nil, err
			}
			dst = appendRune(dst, r)
			if want {
				decoded = utf8.AppendRune(decoded, r)
			}
		}
	}
	return dst, nil, ErrSyntax
}

// escape reads one escape sequence, two for a surrogate pair.
func (s *scanner) escape() (rune, error) {
	s.i++
	c := s.peek()
	s.i++
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
		r, ok := s.hex4()
		if !ok {
			return 0, ErrSyntax
		}
		if !utf16.IsSurrogate(r) {
			return r, nil
		}
		if s.peek() != '\\' || s.i+1 >= len(s.b) || s.b[s.i+1] != 'u' {
			return 0, ErrUTF8
		}
		s.i += 2
		r2, ok := s.hex4()
		if !ok {
			return 0, ErrSyntax
		}
		if r = utf16.DecodeRune(r, r2); r == utf8.RuneError {
			return 0, ErrUTF8
		}
		return r, nil
	}
	return 0, ErrSyntax
}

func (s *scanner) hex4() (r rune, ok bool) {
	if len(s.b)-s.i < 4 {
		return 0, false
	}
	for range 4 {
		c := s.b[s.i]
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
		s.i++
	}
	return r, true
}

const hexDigits = "0123456789abcdef"

// appendRune writes a character of a string the canonical way.
func appendRune(dst []byte, r rune) []byte {
	switch {
	case r == '"' || r == '\\':
		return append(dst, '\\', byte(r))
	case r >= 0x20:
		return utf8.AppendRune(dst, r)
	case r == '\b':
		return append(dst, '\\', 'b')
	case r == '\f':
		return append(dst, '\\', 'f')
	case r == '\n':
		return append(dst, '\\', 'n')
	case r == '\r':
		return append(dst, '\\', 'r')
	case r == '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[r>>4], hexDigits[r&15])
}

// AppendString writes s as a canonical JSON string. Bytes that are not UTF-8
// become U+FFFD.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		n := 1
		r := rune(c)
		if c >= utf8.RuneSelf {
			if r, n = utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
		}
		dst = append(dst, s[start:i]...)
		dst = appendRune(dst, r)
		i += n
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}

// Members calls f with each member of a JSON object: the decoded key and the
// value's text as it stands, both valid only while raw is. It stops at f's first
// error. Only the structure is checked: use Canonical first on what came from
// outside. Errors: ErrNotObject, ErrSyntax, or f's.
func Members(raw []byte, f func(key string, value []byte) error) error {
	return members(raw, func(k, v []byte) error { return f(string(k), v) })
}

// members is Members without making strings of the keys.
func members(raw []byte, f func(key, value []byte) error) error {
	s := scanner{b: raw}
	if s.space(); s.peek() != '{' {
		return ErrNotObject
	}
	s.i++
	if s.space(); s.peek() == '}' {
		return nil
	}
	for {
		if s.peek() != '"' {
			return ErrSyntax
		}
		key, err := s.skipString()
		if err != nil {
			return err
		}
		if s.space(); s.peek() != ':' {
			return ErrSyntax
		}
		s.i++
		s.space()
		start := s.i
		if err := s.skip(0); err != nil {
			return err
		}
		if key = key[1 : len(key)-1]; bytes.IndexByte(key, '\\') >= 0 {
			key = unescape(key)
		}
		if err := f(key, raw[start:s.i]); err != nil {
			return err
		}
		s.space()
		switch s.peek() {
		case ',':
			s.i++
			s.space()
		case '}':
			return nil
		default:
			return ErrSyntax
		}
	}
}

// Elements calls f with the text of each element of a JSON array.
func Elements(raw []byte, f func(value []byte) error) error {
	s := scanner{b: raw}
	if s.space(); s.peek() != '[' {
		return fmt.Errorf("%w: a list is needed", ErrSyntax)
	}
	s.i++
	if s.space(); s.peek() == ']' {
		return nil
	}
	for {
		start := s.i
		if err := s.skip(0); err != nil {
			return err
		}
		if err := f(raw[start:s.i]); err != nil {
			return err
		}
		s.space()
		switch s.peek() {
		case ',':
			s.i++
			s.space()
		case ']':
			return nil
		default:
			return ErrSyntax
		}
	}
}

// skipString passes over a string and returns its text with the quotes.
func (s *scanner) skipString() ([]byte, error) {
	start := s.i
	s.i++
	for {
		n := bytes.IndexByte(s.b[s.i:], '"')
		if n < 0 {
			return nil, ErrSyntax
		}
		esc := bytes.IndexByte(s.b[s.i:s.i+n], '\\')
		if esc < 0 {
			s.i += n + 1
			return s.b[start:s.i], nil
		}
		if s.i += esc + 2; s.i > len(s.b) {
			return nil, ErrSyntax
		}
	}
}

// skip passes over a value, checking its structure.
func (s *scanner) skip(depth int) error {
	if depth > maxDepth {
		return ErrDepth
	}
	switch c := s.peek(); c {
	case '"':
		_, err := s.skipString()
		return err
	case '{', '[':
		s.i++
		s.space()
		if s.peek() == c+2 { // '}' and ']' stand two after their opening
			s.i++
			return nil
		}
		for {
			if c == '{' {
				if s.peek() != '"' {
					return ErrSyntax
				}
				if _, err := s.skipString(); err != nil {
					return err
				}
				if s.space(); s.peek() != ':' {
					return ErrSyntax
				}
				s.i++
				s.space()
			}
			if err := s.skip(depth + 1); err != nil {
				return err
			}
			s.space()
			switch s.peek() {
			case ',':
				s.i++
				s.space()
			case c + 2:
				s.i++
				return nil
			default:
				return ErrSyntax
			}
		}
	default:
		start := s.i
		for s.i < len(s.b) {
			switch c := s.b[s.i]; {
			case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '+', c == '.', c == 'E':
				s.i++
				continue
			}
			break
		}
		if s.i == start {
			return ErrSyntax
		}
		return nil
	}
}

// text decodes a JSON string with its quotes. Broken escapes decode to U+FFFD.
func text(raw []byte) string {
	in := raw[1 : len(raw)-1]
	if bytes.IndexByte(in, '\\') < 0 {
		return string(in)
	}
	return string(unescape(in))
}

func unescape(in []byte) []byte {
	s := scanner{b: in}
	out := make([]byte, 0, len(in))
	for s.i < len(in) {
		if in[s.i] != '\\' {
			out = append(out, in[s.i])
			s.i++
			continue
		}
		r, err := s.escape()
		if err != nil {
			r = utf8.RuneError
		}
		out = utf8.AppendRune(out, r)
	}
	return out
}

// String decodes a JSON string. ok is false for any other value.
func String(raw []byte) (s string, ok bool) {
	if len(raw) < 2 || raw[0] != '"' || raw[len(raw)-1] != '"' {
		return "", false
	}
	return text(raw), true
}

// Int decodes a JSON integer. ok is false for any other value.
func Int(raw []byte) (n int64, ok bool) {
	n, err := strconv.ParseInt(string(raw), 10, 64)
	return n, err == nil && raw[0] != '+'
}

// Strings decodes an array of strings. ok is false for any other value.
func Strings(raw []byte) (list []string, ok bool) {
	err := Elements(raw, func(v []byte) error {
		s, ok := String(v)
		if !ok {
			return ErrSyntax
		}
		list = append(list, s)
		return nil
	})
	return list, err == nil
}

var errFound = errors.New("found")

// Field is the text of one member of a JSON object, or nil. It does not decode
// the others.
func Field(object []byte, key string) []byte {
	var found []byte
	members(object, func(k, v []byte) error {
		if string(k) == key {
			found = v
			return errFound
		}
		return nil
	})
	return found
}

// FieldString is a member of a JSON object that is a string, or "".
func FieldString(object []byte, key string) string {
	s, _ := String(Field(object, key))
	return s
}

// Path follows members down, as in Path(content, "m.relates_to", "event_id").
func Path(object []byte, keys ...string) []byte {
	for _, k := range keys {
		if object = Field(object, k); object == nil {
			return nil
		}
	}
	return object
}

// IsObject reports whether the text begins a JSON object.
func IsObject(raw []byte) bool {
	s := scanner{b: raw}
	s.space()
	return s.peek() == '{'
}
