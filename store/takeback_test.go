package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"holdfast/store"
)

// newerOver makes a file with the position 4711 and over it what a newer version
// leaves that was not kept: its copy of the file, and a migrated file.
func newerOver(t *testing.T, path string) {
	t.Helper()
	db, err := store.Open(context.Background(), path, store.Options{})
	must(t, err)
	must(t, db.Write(context.Background(), func(tx *store.Tx) error {
		_, err := tx.Exec("INSERT INTO store_sequence (name, value) VALUES ('kept', 4711)")
		return err
	}))
	must(t, db.Snapshot(context.Background(), path+".before-9999"))
	must(t, db.Close())
	raw(t, path, "UPDATE store_sequence SET value = 1 WHERE name = 'kept'", "CREATE TABLE later (x)", "PRAGMA user_version = 9999")
}

func kept(t *testing.T, path string, o store.Options) int {
	t.Helper()
	db, err := store.Open(context.Background(), path, o)
	must(t, err)
	defer db.Close()
	var n int
	must(t, db.Read(context.Background(), func(q store.Querier) error {
		return q.QueryRow("SELECT value FROM store_sequence WHERE name = 'kept'").Scan(&n)
	}))
	return n
}

// TestTakeBack returns to the file from before a newer version, only when asked to.
func TestTakeBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "holdfast.db")
	newerOver(t, path)
	if _, err := store.Open(context.Background(), path, store.Options{}); !errors.Is(err, store.ErrNewer) {
		t.Fatalf("without being asked: %v", err)
	}
	if n := kept(t, path, store.Options{TakeBack: true}); n != 4711 {
		t.Errorf("the value is %d", n)
	}
	if left, _ := filepath.Glob(path + ".*ing"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if n := kept(t, path, store.Options{}); n != 4711 {
		t.Errorf("at the next start the value is %d", n)
	}
}

// TestTakeBackCutOff goes on where the power went, wherever that was.
func TestTakeBackCutOff(t *testing.T) {
	for name, cut := range map[string]func(path string){
		"before the log was removed": func(path string) {
			must(t, os.Rename(path+".before-9999", path+".returning"))
			must(t, os.WriteFile(path+"-wal", []byte("of the newer file"), 0o600))
		},
		"before the copy took its place": func(path string) { must(t, os.Rename(path+".before-9999", path+".returning")) },
		"after all": func(path string) {
			must(t, errors.Join(os.RemoveAll(path+"-wal"), os.RemoveAll(path+"-shm")))
			must(t, os.Rename(path+".before-9999", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "holdfast.db")
			newerOver(t, path)
			cut(path)
			// Whatever is started next finishes it.
			if n := kept(t, path, store.Options{}); n != 4711 {
				t.Errorf("the value is %d", n)
			}
		})
	}
}

// TestTakeBackWithoutCopy refuses the file of a newer version, as ever.
func TestTakeBackWithoutCopy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "holdfast.db")
	raw(t, path, "PRAGMA user_version = 9999")
	if _, err := store.Open(context.Background(), path, store.Options{TakeBack: true}); !errors.Is(err, store.ErrNewer) {
		t.Fatal(err)
	}
}

// TestTakeBackTells names both files while both are still there.
func TestTakeBackTells(t *testing.T) {
	path := filepath.Join(t.TempDir(), "holdfast.db")
	newerOver(t, path)
	told := 0
	if n := kept(t, path, store.Options{TakeBack: true, BeforeTakeBack: func(_ context.Context, newer, older string) error {
		told++
		for _, f := range []string{newer, older} {
			if _, err := os.Stat(f); err != nil {
				t.Error(err)
			}
		}
		return errors.New("the way back is more important")
	}}); n != 4711 || told != 1 {
		t.Errorf("the value is %d, told %d times", n, told)
	}
}
