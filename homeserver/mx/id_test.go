package mx

import (
	"strings"
	"testing"
)

func TestServerName(t *testing.T) {
	for _, s := range []string{"example.org", "localhost", "hs", "hs:8448", "1.2.3.4", "1.2.3.4:80", "[::1]", "[2001:db8::1]:8448",
		"[::ffff:1.2.3.4]", "EXAMPLE.org", "a-b.c", "xn--bcher-kva.example", strings.Repeat("a", 230)} {
		if err := ValidServerName(s); err != nil {
			t.Errorf("%q is refused: %v", s, err)
		}
	}
	for _, s := range []string{"", ":80", "ex_ample.org", "example.org:", "example.org:port", "example.org:123456", "[::1", "::1", "[]", "[:]x",
		"[::1]x", "[::1]80", "[zz::1]", "a b", "exämple.org", "a/b", "example.org:8:8", strings.Repeat("a", 231)} {
		if ValidServerName(s) == nil {
			t.Errorf("%q is accepted", s)
		}
	}
	if host, port, ok := SplitServerName("[2001:db8::1]:8448"); !ok || host != "[2001:db8::1]" || port != "8448" {
		t.Errorf("split in %q %q %v", host, port, ok)
	}
}

func TestUserID(t *testing.T) {
	for s, want := range map[string][2]string{
		"@alice:example.org":         {"alice", "example.org"},
		"@alice:hs":                  {"alice", "hs"},
		"@a:[::1]:8448":              {"a", "[::1]:8448"},
		"@a:1.2.3.4:80":              {"a", "1.2.3.4:80"},
		"@Old Näme!:example.org":     {"Old Näme!", "example.org"}, // historical
		"@:example.org":              {"", "example.org"},          // historical
		"@_irc_x=2f/y+z-:sub.hs:443": {"_irc_x=2f/y+z-", "sub.hs:443"},
	} {
		l, d, err := ParseUserID(s)
		if err != nil || l != want[0] || d != want[1] {
			t.Errorf("%q parses as %q %q %v", s, l, d, err)
		}
		if UserID(l, d) != s || Domain(s) != want[1] || Localpart(s) != want[0] {
			t.Errorf("%q does not come back", s)
		}
	}
	for _, s := range []string{"", "@", "alice", "@alice", "@alice:", "alice:hs", "#alice:hs", "@a:exa mple", "@a\x00b:hs", "@a\xff:hs",
		"@" + strings.Repeat("a", 255) + ":hs"} {
		if ValidUserID(s) {
			t.Errorf("%q is accepted", s)
		}
	}
	for _, s := range []string{"alice", "a.b_c=d-e/f+0"} {
		if err := ValidNewUserID(s, "hs"); err != nil {
			t.Errorf("%q is refused: %v", s, err)
		}
	}
	for _, s := range []string{"", "Alice", "a b", "ä", "a:b", "a@b", strings.Repeat("a", 252)} {
		if ValidNewUserID(s, "hs") == nil {
			t.Errorf("%q is accepted for a new account", s)
		}
	}
}

func TestRoomAndEventID(t *testing.T) {
	hash := strings.Repeat("aB-_9", 9)[:43]
	for s, server := range map[string]string{"!abc:example.org": "example.org", "!" + hash: "", "!x:[::1]:80": "[::1]:80"} {
		if _, d, err := ParseRoomID(s); err != nil || d != server {
			t.Errorf("%q: %q %v", s, d, err)
		}
	}
	for _, s := range []string{"", "!", "!abc", "abc:hs", "#a:hs", "!" + hash + "x", "!" + hash[:42], "!" + strings.Replace(hash, "a", ".", 1)} {
		if ValidRoomID(s) {
			t.Errorf("%q is accepted", s)
		}
	}
	for _, s := range []string{"$" + hash, "$old:example.org", "$" + strings.Replace(hash, "-", "+", -1)} {
		if !ValidEventID(s) {
			t.Errorf("%q is refused", s)
		}
	}
	for _, s := range []string{"$", "$abc", hash, "!" + hash} {
		if ValidEventID(s) {
			t.Errorf("%q is accepted", s)
		}
	}
	if _, _, err := ParseAlias("#:hs"); err == nil {
		t.Error("an alias without a name is accepted")
	}
}

// FuzzID: whatever parses fits the limits and comes back as it was.
func FuzzID(f *testing.F) {
	for _, s := range []string{"@alice:example.org", "!x:[::1]:80", "$" + strings.Repeat("a", 43), "#a:b", "@:h", "!", "@a:b:c", "[::1]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if l, d, err := ParseUserID(s); err == nil {
			if UserID(l, d) != s || len(s) > MaxIDBytes || strings.ContainsAny(l, ":\x00") {
				t.Errorf("%q parses as %q %q", s, l, d)
			}
			if _, _, ok := SplitServerName(d); !ok {
				t.Errorf("%q has the server %q", s, d)
			}
		}
		if o, d, err := ParseRoomID(s); err == nil && s != "!"+o && s != "!"+o+":"+d {
			t.Errorf("%q parses as %q %q", s, o, d)
		}
		if ValidEventID(s) && (s[0] != '$' || len(s) > MaxIDBytes) {
			t.Errorf("%q is an event ID", s)
		}
		if host, port, ok := SplitServerName(s); ok {
			if port != "" {
				host += ":" + port
			}
			if host != s {
				t.Errorf("%q splits in %q %q", s, host, port)
			}
		}
	})
}
