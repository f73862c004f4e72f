package search

import "testing"

func FuzzToken(f *testing.F) {
	for _, t := range []token{{}, {UpTo: 5, After: 3}, {UpTo: 1 << 60, Skip: 20, Key: groupRoom, Value: "!a:b"}} {
		f.Add(t.String())
	}
	f.Add("e30")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := parseToken(s)
		if err == nil && (tok.String() != s || tok.UpTo < 0 || tok.After < 0 || tok.Skip < 0) {
			t.Fatalf("%q is %+v", s, tok)
		}
	})
}
