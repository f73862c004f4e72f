package mx

import (
	"strings"
	"unicode/utf8"
)

// MaxIDBytes is the longest identifier of any kind, sigil and server included.
// Spec: appendices#identifier-grammar
const MaxIDBytes = 255

// maxServerNameBytes leaves room for a localpart in every identifier.
const maxServerNameBytes = 230

// UserID joins a localpart and a server name. It does not check them.
func UserID(localpart, server string) string { return "@" + localpart + ":" + server }

// RoomAlias joins a localpart and a server name. It does not check them.
func RoomAlias(localpart, server string) string { return "#" + localpart + ":" + server }

// ParseUserID splits a user ID. It accepts historical localparts, which other
// servers and old accounts still have; ValidLocalpart says what a new one may
// be. Errors: InvalidParam. Spec: appendices#user-identifiers
func ParseUserID(s string) (localpart, server string, err error) {
	localpart, server, ok := split('@', s)
	if !ok {
		return "", "", Errorf(InvalidParam, "%.60q is not a user ID: write it as @name:%s.", s, "server")
	}
	return localpart, server, nil
}

// ValidUserID reports whether ParseUserID accepts s.
func ValidUserID(s string) bool { _, _, ok := split('@', s); return ok }

// ParseAlias splits a room alias. Errors: InvalidParam. Spec: appendices#room-aliases
func ParseAlias(s string) (localpart, server string, err error) {
	localpart, server, ok := split('#', s)
	if !ok || localpart == "" {
		return "", "", Errorf(InvalidParam, "%.60q is not a room alias: write it as #name:%s.", s, "server")
	}
	return localpart, server, nil
}

// ParseRoomID checks a room ID and returns the server in it, which is empty for
// rooms of version 12 and later: their ID is a hash without a domain, and no
// server can be read from any room ID about who takes part.
// Errors: InvalidParam. Spec: appendices#room-ids
func ParseRoomID(s string) (opaque, server string, err error) {
	if opaque, server, ok := split('!', s); ok {
		return opaque, server, nil
	}
	if validHash('!', s) {
		return s[1:], "", nil
	}
	return "", "", Errorf(InvalidParam, "%.60q is not a room ID.", s)
}

// ValidRoomID reports whether ParseRoomID accepts s.
func ValidRoomID(s string) bool { _, _, err := ParseRoomID(s); return err == nil }

// ParseEventID checks an event ID of any room version and returns the server in
// it, which only versions 1 and 2 have. Errors: InvalidParam.
// Spec: appendices#event-ids
func ParseEventID(s string) (server string, err error) {
	if _, server, ok := split('$', s); ok {
		return server, nil
	}
	if validHash('$', s) {
		return "", nil
	}
	return "", Errorf(InvalidParam, "%.60q is not an event ID.", s)
}

// ValidEventID reports whether ParseEventID accepts s.
func ValidEventID(s string) bool { _, err := ParseEventID(s); return err == nil }

// Domain is the server of a user ID, alias or other ID with a domain: what
// stands after the first colon. It is empty where there is none.
func Domain(id string) string {
	_, server, _ := strings.Cut(id, ":")
	return server
}

// Localpart is what stands between the sigil and the first colon.
func Localpart(id string) string {
	if id == "" {
		return ""
	}
	localpart, _, _ := strings.Cut(id[1:], ":")
	return localpart
}

// split cuts "<sigil>localpart:server". A localpart may hold any character but
// NUL and colon, and may be empty: so much is found in old rooms.
func split(sigil byte, s string) (localpart, server string, ok bool) {
	if len(s) < 2 || len(s) > MaxIDBytes || s[0] != sigil {
		return "", "", false
	}
	localpart, server, ok = strings.Cut(s[1:], ":")
	if !ok || strings.IndexByte(localpart, 0) >= 0 || !utf8.ValidString(localpart) {
		return "", "", false
	}
	if _, _, ok := SplitServerName(server); !ok {
		return "", "", false
	}
	return localpart, server, true
}

// validHash accepts "<sigil>" and 43 characters of unpadded base64, either
// alphabet: a SHA-256 hash.
func validHash(sigil byte, s string) bool {
	if len(s) != 44 || s[0] != sigil {
		return false
	}
	for i := 1; i < len(s); i++ {
		c := s[i]
		if !alnum(c) && c != '-' && c != '_' && c != '+' && c != '/' {
			return false
		}
	}
	return true
}

func digit(c byte) bool { return '0' <= c && c <= '9' }
func alnum(c byte) bool { return digit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

// ValidLocalpart checks the localpart of a new account: a-z, 0-9 and ._=-/+ .
// Errors: InvalidUsername. Spec: appendices#user-identifiers
func ValidLocalpart(localpart string) error {
	if localpart == "" {
		return Errorf(InvalidUsername, "Choose a user name.")
	}
	for i := range len(localpart) {
		c := localpart[i]
		if !digit(c) && !('a' <= c && c <= 'z') && strings.IndexByte("._=-/+", c) < 0 {
			return Errorf(InvalidUsername, "A user name may hold a-z, 0-9 and the characters . _ = - / +")
		}
	}
	return nil
}

// ValidNewUserID checks a user ID for a new account: the strict localpart and
// the length with the server name. Errors: InvalidUsername.
func ValidNewUserID(localpart, server string) error {
	if err := ValidLocalpart(localpart); err != nil {
		return err
	}
	if n := len(UserID(localpart, server)) - MaxIDBytes; n > 0 {
		return Errorf(InvalidUsername, "The user name is %d characters too long.", n)
	}
	return nil
}

// ValidServerName checks a server name: a DNS name (a dot is not needed), an
// IPv4 address or an IPv6 address in brackets, with an optional port.
// Errors: InvalidParam. Spec: appendices#server-name
func ValidServerName(s string) error {
	if _, _, ok := SplitServerName(s); !ok || len(s) > maxServerNameBytes {
		return Errorf(InvalidParam, "%.60q is not a server name: use a DNS name or an IP address, with a port if need be.", s)
	}
	return nil
}

// SplitServerName splits a server name in its host (an IPv6 address keeps its
// brackets) and its port, which is empty where there is none.
func SplitServerName(s string) (host, port string, ok bool) {
	if s == "" || len(s) > MaxIDBytes {
		return "", "", false
	}
	if s[0] == '[' {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", "", false
		}
		host, port = s[:end+1], s[end+1:]
		inner := host[1:end]
		if len(inner) < 2 || len(inner) > 45 {
			return "", "", false
		}
		for i := range len(inner) {
			c := inner[i]
			if !digit(c) && !('a' <= c && c <= 'f') && !('A' <= c && c <= 'F') && c != ':' && c != '.' {
				return "", "", false
			}
		}
		if port == "" {
			return host, "", true
		}
		if port[0] != ':' {
			return "", "", false
		}
		port = port[1:]
	} else {
		var colon bool
		host, port, colon = strings.Cut(s, ":")
		if host == "" {
			return "", "", false
		}
		for i := range len(host) {
			if c := host[i]; !alnum(c) && c != '-' && c != '.' {
				return "", "", false
			}
		}
		if !colon {
			return host, "", true
		}
	}
	if len(port) < 1 || len(port) > 5 {
		return "", "", false
	}
	for i := range len(port) {
		if !digit(port[i]) {
			return "", "", false
		}
	}
	return host, port, true
}

// ValidContentURI reports whether s is an mxc:// address of media. Spec: cs#matrix-content-mxc-uris
func ValidContentURI(s string) bool {
	rest, ok := strings.CutPrefix(s, "mxc://")
	server, id, found := strings.Cut(rest, "/")
	return ok && found && ValidServerName(server) == nil && id != "" && len(id) <= 255 &&
		!strings.ContainsFunc(id, func(r rune) bool { return r > 0x7f || !alnum(byte(r)) && r != '_' && r != '-' })
}
