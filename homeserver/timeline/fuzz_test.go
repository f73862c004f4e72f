package timeline

import (
	"encoding/json"
	"strings"
	"testing"
)

func FuzzToken(f *testing.F) {
	for _, s := range []string{"s0", "s12", "s12_3", "s", "s1_1", "s-1", "s01", "s9223372036854775807", "s9223372036854775808", "t1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err != nil {
			return
		}
		if tok.Pos < 0 || tok.ToDevice < 0 || tok.String() != strings.SplitN(s, "~", 2)[0] {
			t.Fatalf("%q is %+v, %q", s, tok, tok.String())
		}
	})
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{`{}`, `{"room":{"timeline":{"limit":3,"types":["m.*"]},"rooms":[]},"event_fields":["a.b"]}`, `{"presence":{"not_types":["*"]}}`, `[]`, `{"room":1}`} {
		f.Add([]byte(s), "m.room.message", "@a:b")
	}
	f.Fuzz(func(t *testing.T, raw []byte, typ, sender string) {
		flt, err := ParseFilter(raw)
		if err != nil {
			return
		}
		if !json.Valid(raw) {
			t.Fatal("accepted what is not JSON")
		}
		tl := &flt.Room.Timeline
		if n := tl.LimitOr(10, 100); n < 1 || n > 100 {
			t.Fatalf("limit %d", n)
		}
		if tl.EventFilter.All() && !tl.Pass(typ, sender) {
			t.Fatal("a filter that lets all through stops one")
		}
		if tl.None() && tl.Pass(typ, sender) {
			t.Fatal("a filter that lets none through passes one")
		}
	})
}

func FuzzGlob(f *testing.F) {
	f.Add("m.*.x", "m.a.x")
	f.Add("*", "")
	f.Add("a*a", "a")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 40 || len(s) > 40 {
			return
		}
		if got, want := glob(pattern, s), slow(pattern, s); got != want {
			t.Fatalf("glob(%q, %q) is %v", pattern, s, got)
		}
	})
}

// slow is glob by its definition, with a table.
func slow(p, s string) bool {
	row := make([]bool, len(s)+1)
	row[0] = true
	for i := range len(p) {
		next := make([]bool, len(s)+1)
		for j := range next {
			if p[i] == '*' {
				next[j] = row[j] || j > 0 && next[j-1]
			} else {
				next[j] = j > 0 && row[j-1] && s[j-1] == p[i]
			}
		}
		row = next
	}
	return row[len(s)]
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		p, s string
		want bool
	}{{"m.*", "m.room", true}, {"*", "", true}, {"a*a", "a", false}, {"a*b*c", "axbyc", true}, {"a*b*c", "acb", false}, {"", "", true}, {"x", "y", false}} {
		if got := glob(c.p, c.s); got != c.want || slow(c.p, c.s) != c.want {
			t.Errorf("glob(%q, %q) is %v", c.p, c.s, got)
		}
	}
}
