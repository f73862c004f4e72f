package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"holdfast/store/schema"
)

// reserveStep is how many positions are claimed on disk at a time. A start begins
// at the end of the claimed range, so positions that were given to changes kept
// in memory only (typing, presence) are not handed out twice.
const reserveStep = 1 << 16

func loadReserved(c *conn) (int64, error) {
	var n int64
	err := c.QueryRow("SELECT value FROM store_sequence WHERE name = 'pos'").Scan(&n)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	return n, err
}

// reserve claims further positions in the batch's own transaction.
func (db *DB) reserve(c *conn, begun *bool) error {
	if !*begun {
		if _, err := c.exec("BEGIN IMMEDIATE"); err != nil {
			return err
		}
		*begun = true
	}
	to := db.next + reserveStep
	if _, err := c.exec("INSERT INTO store_sequence (name, value) VALUES ('pos', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value", to); err != nil {
		return err
	}
	db.reserved = to
	return nil
}

// migrate brings the schema to the release's version in one transaction. A file
// that holds data is copied first; Healthy removes the copy.
func (db *DB) migrate(ctx context.Context, w *conn) error {
	steps, err := schema.Migrations()
	if err != nil {
		return err
	}
	var have int
	if err := w.c.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return unavailable(err)
	}
	if have > len(steps) {
		return fmt.Errorf("%w: it has schema %d, this version knows %d; start the newer version, or restore the copy made before the update (%s.before-*)", ErrNewer, have, len(steps), db.path)
	}
	if have == len(steps) {
		return nil
	}
	if have > 0 {
		copyTo := fmt.Sprintf("%s.before-%d", db.path, len(steps))
		if _, err := os.Stat(copyTo); errors.Is(err, os.ErrNotExist) {
			tmp := copyTo + ".tmp"
			os.Remove(tmp)
			if _, err := w.c.ExecContext(ctx, "VACUUM INTO $1", tmp); err != nil {
				return unavailable(err)
			}
			if err := syncFile(tmp); err != nil {
				return err
			}
			if err := os.Rename(tmp, copyTo); err != nil {
				return err
			}
		}
		db.log.Info("the database is brought to a newer schema; a copy is kept until this version has been healthy", "from", have, "to", len(steps), "copy", copyTo)
	}
	if _, err := w.c.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return unavailable(err)
	}
	for i := have; i < len(steps); i++ {
		if _, err := w.c.ExecContext(ctx, steps[i].SQL); err != nil {
			w.c.ExecContext(ctx, "ROLLBACK")
			return fmt.Errorf("migration %s: %w", steps[i].Name, err)
		}
	}
	if _, err := w.c.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", len(steps))); err != nil {
		w.c.ExecContext(ctx, "ROLLBACK")
		return unavailable(err)
	}
	if _, err := w.c.ExecContext(ctx, "COMMIT"); err != nil {
		return unavailable(err)
	}
	return nil
}

// Healthy tells the store that the running version works with the migrated file:
// the copies from before the migration are removed.
func (db *DB) Healthy() error {
	old, err := filepath.Glob(db.path + ".before-*")
	if err != nil {
		return err
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
