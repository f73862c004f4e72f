package store_test

import (
	"context"
	"path/filepath"
	"slices"
	"testing"

	"holdfast/store"
)

// FuzzQuery sees that the index takes every query that ParseQuery makes, and that a
// text is found by itself, in quotes or not.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{"", `"`, `a "b c" d`, "世界 hello*", "👍🏽", "NOT OR (", "é e\u0301", "\x00\x02", "हिन्दी", "foo-bar", "\U000e0001"} {
		f.Add(s)
	}
	db, err := store.Open(context.Background(), filepath.Join(f.TempDir(), "x.db"), store.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { db.Close() })
	x := store.FullText{Index: "search_index"}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 2000 {
			return
		}
		q := store.ParseQuery(s)
		text := store.Text(s)
		if store.Text(text) != text && len(text) < 100 {
			// Spaces may grow; words must not change.
			if a, b := store.ParseQuery(text), store.ParseQuery(store.Text(text)); a != b {
				t.Fatalf("%q becomes %q", text, store.Text(text))
			}
		}
		err := db.Write(context.Background(), func(tx *store.Tx) error {
			if err := x.Add(tx, 1, text); err != nil {
				return err
			}
			if q.Parts > 0 {
				var n int
				if err := tx.QueryRow(`SELECT count(*) FROM search_index WHERE `+x.Matches("$1"), q.Match).Scan(&n); err != nil {
					t.Errorf("%q became %q: %v", s, q.Match, err)
				} else if n != 1 && known(s) {
					t.Errorf("%q is not found by itself (%q)", s, q.Match)
				}
			}
			return x.Remove(tx, 1, text)
		})
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
	})
}

// known leaves out signs that the index has no word for: those of a newer Unicode
// than its own.
func known(s string) bool {
	for _, r := range s {
		if r > 0x3000 && !(0x4e00 <= r && r < 0x9fa5) {
			return false
		}
	}
	return true
}

func TestMarks(t *testing.T) {
	for in, want := range map[string][]string{
		"none":                      nil,
		"a \x02b\x03 c \x02d e\x03": {"b", "d e"},
		"\x02世 界\x03":               {"世界"},
		"\x02世 abc 界\x03":           {"世 abc 界"},
		"\x02open":                  {"open"},
	} {
		if got := store.Marks(in); !slices.Equal(got, want) {
			t.Errorf("%q: %q", in, got)
		}
	}
}
