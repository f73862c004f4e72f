package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// What only SQLite has stands in this file.

var writerPragmas = []string{
	"busy_timeout=10000",
	"journal_mode=WAL",
	"synchronous=FULL",
	"foreign_keys=ON",
	"secure_delete=ON",
	"temp_store=MEMORY",
	"cache_size=-32768",
	"wal_autocheckpoint=4000",
	"journal_size_limit=67108864",
}

var readerPragmas = []string{
	"busy_timeout=10000",
	"query_only=ON",
	"temp_store=MEMORY",
	"cache_size=-4096",
}

// unavailable marks failures of the disk or the file, so that callers can tell
// them from their own mistakes. Other errors are returned as they are.
func unavailable(err error) error {
	if err == nil || ofDisk(err) {
		return err
	}
	var se *sqlite.Error
	if errors.As(err, &se) {
		switch se.Code() & 0xff {
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR,
			sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM:
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	return err
}

// ofDisk reports whether err is what unavailable made.
func ofDisk(err error) bool {
	return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrDamaged)
}

// private makes the file where it is missing, for this user alone. SQLite gives
// its log the same mode, and would let everybody read a new file.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err == nil && fi.Size() == 0 { // perhaps new
		err = syncDir(filepath.Dir(path))
	}
	if err == nil && fi.Mode().Perm()&0o077 != 0 {
		err = f.Chmod(0o600)
	}
	if err != nil && !errors.Is(err, os.ErrPermission) { // another's file that this user may write
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// IsConflict reports whether err is a violated UNIQUE or PRIMARY KEY constraint.
func IsConflict(err error) bool {
	var se *sqlite.Error
	return errors.As(err, &se) && (se.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || se.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

// In returns "($from, ... )" with n placeholders, for lists: `WHERE id IN `+store.In(2, len(ids)).
// n must be between 1 and 500.
func In(from, n int) string {
	var b strings.Builder
	b.WriteByte('(')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "$%d", from+i)
	}
	b.WriteByte(')')
	return b.String()
}

// Args turns a list into arguments, after those in head.
func Args[T any](head []any, list []T) []any {
	out := make([]any, 0, len(head)+len(list))
	out = append(out, head...)
	for _, v := range list {
		out = append(out, v)
	}
	return out
}

// lockFile takes an exclusive lock that the kernel drops when the process ends,
// however it ends.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w (%s)", ErrLocked, path)
	}
	return f, nil
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// syncDir makes what was renamed in a folder last.
func syncDir(dir string) error { return syncFile(dir) }
