package store_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"holdfast/store"
)

func open(t testing.TB) *store.DB {
	t.Helper()
	db, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "holdfast.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestFailedWriteLeavesNothing(t *testing.T) {
	db, ctx := open(t), context.Background()
	mine := errors.New("mine")
	undone := false
	err := db.Write(ctx, func(tx *store.Tx) error {
		tx.OnRollback(func() { undone = true })
		tx.Touch("k", "v")
		if _, err := tx.Exec("INSERT INTO store_sequence (name, value) VALUES ('x', 1)"); err != nil {
			return err
		}
		return mine
	})
	if !errors.Is(err, mine) || !undone {
		t.Fatalf("err %v, undone %v", err, undone)
	}
	err = db.Read(ctx, func(q store.Querier) error {
		var n int
		return q.QueryRow("SELECT value FROM store_sequence WHERE name = 'x'").Scan(&n)
	})
	if !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("want ErrNotFound, got %v", err)
	}
}
