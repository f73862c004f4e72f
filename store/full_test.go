package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"holdfast/store"
)

// fullEnv makes the test binary the process that has a small disk of its own.
const fullEnv = "HOLDFAST_TEST_FULL"

// TestFullDisk runs the steps of fullDisk on a file system of 16 MiB.
func TestFullDisk(t *testing.T) {
	dir := os.Getenv(fullEnv)
	if dir == "" {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), fullEnv+"="+t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		if os.Geteuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
		}
		out, err := cmd.CombinedOutput()
		switch {
		case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ENOSPC), bytes.Contains(out, []byte("SKIP")):
			t.Skipf("no file system of its own can be mounted here: %v", err)
		case err != nil:
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	must(t, syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
	for name, f := range map[string]func(*testing.T, string){
		"commit": fullAtCommit, "inside a write": fullInside, "migration": fullAtMigration,
	} {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
			t.Skip(err)
		}
		t.Run(name, func(t *testing.T) { f(t, dir) })
		must(t, syscall.Unmount(dir, syscall.MNT_DETACH))
	}
}

func openFull(t *testing.T, path string) *store.DB {
	t.Helper()
	db, err := store.Open(context.Background(), path, store.Options{Readers: 2})
	must(t, err)
	must(t, db.Write(context.Background(), func(tx *store.Tx) error {
		_, err := tx.Exec("CREATE TABLE IF NOT EXISTS full (id TEXT PRIMARY KEY, body BLOB NOT NULL)")
		return err
	}))
	return db
}

func insert(db *store.DB, id string, bytes int) error {
	return db.Write(context.Background(), func(tx *store.Tx) error {
		_, err := tx.Exec("INSERT INTO full (id, body) VALUES ($1, randomblob($2))", id, bytes)
		return err
	})
}

func ids(t *testing.T, db *store.DB) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	must(t, db.Read(context.Background(), func(q store.Querier) error {
		var ok string
		if err := q.QueryRow("PRAGMA integrity_check").Scan(&ok); err != nil || ok != "ok" {
			t.Errorf("integrity_check: %q %v", ok, err)
		}
		rows, err := q.Query("SELECT id FROM full")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return err
			}
			out[id] = true
		}
		return rows.Err()
	}))
	return out
}

// expect sees that what stands in the file is what was acknowledged, now and
// after the file was opened again.
func expect(t *testing.T, db *store.DB, acked map[string]bool) *store.DB {
	t.Helper()
	for range 2 {
		got := ids(t, db)
		for id := range acked {
			if !got[id] {
				t.Errorf("%s was acknowledged and is lost", id)
			}
		}
		for id := range got {
			if !acked[id] {
				t.Errorf("%s was refused and is there", id)
			}
		}
		path := db.Path()
		must(t, db.Close())
		db = openFull(t, path)
	}
	return db
}

// fullAtCommit writes from many goroutines until the disk is full, sees that each
// write is either kept or refused with a typed error, and goes on once there is room.
func fullAtCommit(t *testing.T, dir string) {
	ballast := filepath.Join(dir, "ballast")
	must(t, os.WriteFile(ballast, make([]byte, 8<<20), 0o600))
	db := openFull(t, filepath.Join(dir, "commit.db"))
	var (
		mu    sync.Mutex
		acked = map[string]bool{}
		wg    sync.WaitGroup
	)
	for w := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				id := fmt.Sprintf("%d-%d", w, i)
				err := insert(db, id, 20_000)
				if err != nil {
					if !errors.Is(err, store.ErrUnavailable) {
						t.Errorf("a full disk answered %v", err)
					}
					return
				}
				mu.Lock()
				acked[id] = true
				mu.Unlock()
			}
			t.Error("the disk never became full")
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	if err := db.WriteError(); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("WriteError says %v on a full disk", err)
	}
	// A small write may still fit: Probe says what it found, and WriteError agrees.
	if err := db.Probe(context.Background()); err != nil && !errors.Is(err, store.ErrUnavailable) || (err == nil) != (db.WriteError() == nil) {
		t.Errorf("Probe says %v, WriteError %v", err, db.WriteError())
	}
	if got := ids(t, db); len(got) != len(acked) { // reading goes on
		t.Errorf("%d rows, %d acknowledged", len(got), len(acked))
	}
	must(t, os.Remove(ballast))
	must(t, db.Probe(context.Background())) // the same process, without a restart
	if err := db.WriteError(); err != nil {
		t.Errorf("WriteError says %v after a write that succeeded", err)
	}
	must(t, insert(db, "room again", 20_000))
	acked["room again"] = true
	db = expect(t, db, acked)
	must(t, db.Close())
}

// fullInside fills the disk by one write that is larger than SQLite's cache, in
// the middle of a batch: SQLite then rolls the whole transaction back by itself.
func fullInside(t *testing.T, dir string) {
	db, ctx := openFull(t, filepath.Join(dir, "inside.db")), context.Background()
	hold := make(chan struct{})
	queue := func(fn func(*store.Tx) error) *store.Pending {
		p, err := db.Queue(ctx, fn)
		must(t, err)
		return p
	}
	row := func(tx *store.Tx, id string, bytes int) error {
		_, err := tx.Exec("INSERT INTO full (id, body) VALUES ($1, randomblob($2))", id, bytes)
		return err
	}
	undone := map[string]bool{}
	small := func(id string) *store.Pending {
		return queue(func(tx *store.Tx) error {
			tx.OnRollback(func() { undone[id] = true })
			return row(tx, id, 100)
		})
	}
	pending := map[string]*store.Pending{}
	first := queue(func(*store.Tx) error { <-hold; return nil })
	pending["before"] = small("before")
	pending["large"] = queue(func(tx *store.Tx) error {
		for i := range 60 {
			row(tx, fmt.Sprintf("large %d", i), 1<<20) // its errors are ignored: that must harm nobody
		}
		return nil
	})
	pending["after"] = small("after")
	close(hold)
	acked := map[string]bool{}
	first.Wait()
	for id, p := range pending {
		switch err := p.Wait(); {
		case err == nil:
			acked[id] = true
		case !errors.Is(err, store.ErrUnavailable):
			t.Errorf("%s: %v", id, err)
		}
	}
	if acked["large"] {
		t.Error("a write that does not fit on the disk was acknowledged")
	}
	for _, id := range []string{"before", "after"} {
		if acked[id] == undone[id] {
			t.Errorf("%s: acknowledged %v, undone in memory %v", id, acked[id], undone[id])
		}
	}
	must(t, insert(db, "goes on", 100))
	acked["goes on"] = true
	db = expect(t, db, acked)
	must(t, db.Close())
}

// fullAtMigration has no room for the copy before a migration: the start is
// refused, leaves the file as it was, and takes no further room.
func fullAtMigration(t *testing.T, dir string) {
	path := filepath.Join(dir, "migration.db")
	raw(t, path, "CREATE TABLE big (b)", "INSERT INTO big VALUES (zeroblob(9000000))", "PRAGMA user_version = 1")
	if _, err := store.Open(context.Background(), path, store.Options{}); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("%v", err)
	}
	if left, _ := filepath.Glob(path + ".before*"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if n := raw(t, path, "SELECT length(b) FROM big"); n != 9000000 {
		t.Error(n)
	}
}

// A file that is none, or is damaged, is told from a disk that fails.
func TestDamagedFile(t *testing.T) {
	ctx := context.Background()
	good := filepath.Join(t.TempDir(), "holdfast.db")
	db, err := store.Open(ctx, good, store.Options{})
	must(t, err)
	must(t, store.Check(ctx, good)) // also while it is open
	must(t, db.Close())
	must(t, store.Check(ctx, good))
	whole, err := os.ReadFile(good)
	must(t, err)
	for name, damage := range map[string]func(b []byte) []byte{
		"no database": func(b []byte) []byte { return []byte(strings.Repeat("not a database. ", 1024)) },
		"cut off":     func(b []byte) []byte { return b[:len(b)/2] },
		"overwritten": func(b []byte) []byte { return append(append([]byte{}, b[:4096]...), make([]byte, len(b)-4096)...) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "holdfast.db")
			must(t, os.WriteFile(path, damage(whole), 0o600))
			if err := store.Check(ctx, path); !errors.Is(err, store.ErrDamaged) {
				t.Errorf("Check: %v", err)
			}
			if db, err := store.Open(ctx, path, store.Options{}); !errors.Is(err, store.ErrDamaged) {
				t.Errorf("Open: %v", err)
				if db != nil {
					db.Close()
				}
			}
		})
	}
	newer := filepath.Join(t.TempDir(), "holdfast.db")
	raw(t, newer, "PRAGMA user_version = 9999")
	if err := store.Check(ctx, newer); !errors.Is(err, store.ErrNewer) {
		t.Errorf("Check: %v", err)
	}
	if err := store.Check(ctx, filepath.Join(t.TempDir(), "none.db")); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Check of no file: %v", err)
	}
}

// Nobody else on the machine reads the file, whatever the umask and the folder's mode.
func TestFileIsPrivate(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "holdfast.db")
	must(t, os.WriteFile(path, nil, 0o644)) // as an earlier release left it
	db, err := store.Open(context.Background(), path, store.Options{})
	must(t, err)
	defer db.Close()
	for _, f := range []string{path, path + "-wal", path + "-shm", path + ".lock"} {
		fi, err := os.Stat(f)
		must(t, err)
		if fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", filepath.Base(f), fi.Mode().Perm())
		}
	}
}
