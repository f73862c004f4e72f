package sealed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/store"
	"holdfast/store/sealed"
)

func box(t testing.TB, b byte) *sealed.Box {
	t.Helper()
	x, err := sealed.New(bytes.Repeat([]byte{b}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestBox(t *testing.T) {
	a, other := box(t, 1), box(t, 2)
	for _, plain := range []string{"", "x", strings.Repeat("länger ", 500), "\x00\xff"} {
		s, tok := a.Seal("one", plain), a.Token("one", plain)
		if s == a.Seal("one", plain) {
			t.Error("a value looks the same twice")
		}
		if tok != a.Token("one", plain) || tok == a.Token("two", plain) || tok == other.Token("one", plain) {
			t.Error("a token's form does not follow from value, purpose and key alone")
		}
		for _, kept := range []string{s, tok} {
			if plain != "" && len(plain) > 3 && strings.Contains(kept, plain) {
				t.Error("the value is in clear")
			}
			if got, err := a.Open("one", kept); err != nil || got != plain {
				t.Errorf("%q, %v", got, err)
			}
			if _, err := a.Open("two", kept); !errors.Is(err, sealed.ErrKey) {
				t.Errorf("for another purpose: %v", err)
			}
			if _, err := other.Open("one", kept); !errors.Is(err, sealed.ErrKey) {
				t.Errorf("by another key: %v", err)
			}
			bad := []byte(kept)
			bad[len(bad)/2] ^= 1
			if _, err := a.Open("one", string(bad)); !errors.Is(err, sealed.ErrKey) {
				t.Errorf("changed: %v", err)
			}
		}
	}
	for _, s := range []string{"", "AAAA", "no base64!", strings.Repeat("A", 100)} {
		if _, err := a.Open("one", s); !errors.Is(err, sealed.ErrKey) {
			t.Errorf("%q: %v", s, err)
		}
	}
	if _, err := sealed.New([]byte("short")); err == nil {
		t.Error("a short key is taken")
	}
}

// TestNothingStaysInClear seals a table that has grown and shrunk, as one of years has:
// no byte of a clear value is left in the file or its log. It happens once.
func TestNothingStaysInClear(t *testing.T) {
	ctx, path, b := context.Background(), filepath.Join(t.TempDir(), "holdfast.db"), box(t, 1)
	db, err := store.Open(ctx, path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	word := func(i int) string { return fmt.Sprintf("clear-word-%d-%s", i, strings.Repeat("z", i%300)) }
	write := func(f func(tx *store.Tx) error) {
		t.Helper()
		if err := db.Write(ctx, f); err != nil {
			t.Fatal(err)
		}
	}
	write(func(tx *store.Tx) error {
		_, err := tx.Exec(`CREATE TABLE words (word TEXT PRIMARY KEY, n INTEGER, note BLOB)`)
		return err
	})
	for from := 0; from < 3000; from += 500 {
		write(func(tx *store.Tx) error {
			for i := from; i < from+500; i++ {
				if _, err := tx.Exec(`INSERT INTO words VALUES ($1, $2, NULL)`, word(i*7919%3000), i); err != nil {
					return err
				}
			}
			return nil
		})
		write(func(tx *store.Tx) error { _, err := tx.Exec(`DELETE FROM words WHERE n % 3 = 1`); return err })
	}
	found := func() (n int) {
		for _, f := range []string{path, path + "-wal"} {
			raw, err := os.ReadFile(f)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			n += bytes.Count(raw, []byte("clear-word-"))
		}
		return n
	}
	if found() < 1000 {
		t.Fatal("the words are not even there")
	}
	times := 0
	once := func() error {
		return sealed.Once(ctx, db, "words", func(tx *store.Tx) (bool, error) {
			times++
			return sealed.Rewrite(tx, "words", "rowid", func(row map[string]any) error {
				row["word"] = b.Token("word", row["word"].(string))
				return nil
			})
		})
	}
	// One that fails changes nothing.
	if err := sealed.Once(ctx, db, "words", func(tx *store.Tx) (bool, error) {
		if _, err := sealed.Rewrite(tx, "words", "rowid", func(row map[string]any) error { row["word"] = row["n"]; return nil }); err != nil {
			return false, err
		}
		return false, errors.New("no")
	}); err == nil {
		t.Fatal("the failure is not told")
	}
	for range 2 {
		if err := once(); err != nil {
			t.Fatal(err)
		}
	}
	if times != 1 {
		t.Errorf("it was done %d times", times)
	}
	// A loss of power between the sealing and the emptying of the log: the next start does that.
	log := func() int64 {
		fi, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return fi.Size()
	}
	write(func(tx *store.Tx) error {
		_, err := tx.Exec(`DELETE FROM store_sealed WHERE name = 'words, log emptied'`)
		return err
	})
	before := log()
	for range 2 {
		if err := once(); err != nil {
			t.Fatal(err)
		}
	}
	var notes int
	if err := db.Read(ctx, func(q store.Querier) error {
		return q.QueryRow(`SELECT count(*) FROM store_sealed WHERE name LIKE 'words%'`).Scan(&notes)
	}); err != nil || notes != 2 || times != 1 || log() >= before {
		t.Errorf("%d notes, done %d times, a log of %d bytes, %d before: %v", notes, times, log(), before, err)
	}
	if n := found(); n != 0 {
		t.Errorf("%d clear words are left in the file or its log", n)
	}
	var n, last int
	if err := db.Read(ctx, func(q store.Querier) error {
		if err := q.QueryRow(`SELECT count(*) FROM words`).Scan(&n); err != nil {
			return err
		}
		return q.QueryRow(`SELECT n FROM words WHERE word = $1`, b.Token("word", word(2999*7919%3000))).Scan(&last)
	}); err != nil || n != 2000 || last != 2999 {
		t.Errorf("%d rows, the last has %d: %v", n, last, err)
	}
}

// A database opens with no other key than its own, once it knows that.
func TestCheck(t *testing.T) {
	ctx, a, other := t.Context(), box(t, 1), box(t, 2)
	db, err := store.Open(ctx, filepath.Join(t.TempDir(), "holdfast.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, b := range []*sealed.Box{a, other} {
		if err := b.Check(ctx, db); err != nil {
			t.Errorf("a new database: %v", err)
		}
	}
	for range 2 {
		if err := a.Note(ctx, db); err != nil {
			t.Fatal(err)
		}
		if err := a.Check(ctx, db); err != nil {
			t.Error(err)
		}
	}
	if err := other.Check(ctx, db); !errors.Is(err, sealed.ErrKey) {
		t.Errorf("another key: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	b := box(f, 1)
	f.Add(b.Seal("p", "value"))
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		plain, err := b.Open("p", s)
		if err == nil && plain != "value" {
			t.Errorf("%q opens to %q", s, plain)
		}
	})
}
