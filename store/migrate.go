package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

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
	have, know, err := versions(func(n *int) error { return w.c.QueryRowContext(ctx, "PRAGMA user_version").Scan(n) })
	if err != nil {
		return err
	}
	if have > know {
		return newer(db.path, have, know)
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
				os.Remove(tmp) // the disk may be full
				return unavailable(err)
			}
			if err := os.Chmod(tmp, 0o600); err != nil {
				return err
			}
			if err := syncFile(tmp); err != nil {
				return err
			}
			if err := os.Rename(tmp, copyTo); err != nil {
				return err
			}
			if err := syncDir(filepath.Dir(copyTo)); err != nil {
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
			return fmt.Errorf("migration %s: %w", steps[i].Name, unavailable(err))
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

// versions are the schema of a file, which ask reads, and the one of this release.
func versions(ask func(*int) error) (have, know int, err error) {
	steps, err := schema.Migrations()
	if err != nil {
		return 0, 0, err
	}
	err = unavailable(ask(&have))
	return have, len(steps), err
}

func newer(path string, have, know int) error {
	return fmt.Errorf("%w: it has schema %d, this version knows %d; start the newer version, or restore the copy made before the update (%s.before-*)", ErrNewer, have, know, path)
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

// takeBack puts the copy from before a migration in the place of a file that was
// written by a newer version. It gives the cause back where there is no copy.
func (db *DB) takeBack(ctx context.Context, cause error, tell func(ctx context.Context, newer, older string) error) error {
	copies, err := filepath.Glob(db.path + ".before-*[0-9]")
	if err != nil || len(copies) == 0 {
		return cause
	}
	// One migration leaves one copy. Of several the one of the oldest schema is the
	// state that was left first.
	slices.SortFunc(copies, func(a, b string) int { return copySchema(a) - copySchema(b) })
	db.log.Warn("the newer version was not kept; the database from before it is used again", "copy", copies[0])
	if tell != nil {
		if err := tell(ctx, db.path, copies[0]); err != nil {
			db.log.Error("what the newer version wrote could not be looked through before it goes", "err", err)
		}
	}
	if err := os.Rename(copies[0], db.path+returning); err != nil {
		return unavailable(err)
	}
	if err := syncDir(filepath.Dir(db.path)); err != nil {
		return err
	}
	return finishTakeBack(db.path)
}

// returning is the suffix of a copy that is on its way into the file's place.
const returning = ".returning"

// finishTakeBack ends a takeBack, also one that was cut off. The log that belongs
// to the newer file goes first: it must not be applied to the older one.
func finishTakeBack(path string) error {
	if _, err := os.Stat(path + returning); err != nil {
		return nil
	}
	for _, f := range []string{path + "-wal", path + "-shm"} {
		if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
			return unavailable(err)
		}
	}
	if err := os.Rename(path+returning, path); err != nil {
		return unavailable(err)
	}
	return syncDir(filepath.Dir(path))
}

func copySchema(path string) int {
	n, _ := strconv.Atoi(path[strings.LastIndexByte(path, '-')+1:])
	return n
}
