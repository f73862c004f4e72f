package store_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/store"
	"holdfast/store/schema"
)

// crashEnv makes the test binary the process that is killed.
const crashEnv = "HOLDFAST_TEST_CRASH"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		crashWriter(path)
		return
	}
	os.Exit(m.Run())
}

// crashWriter writes from eight goroutines until it is killed, and prints each
// write after it was acknowledged: "<row> <position>".
func crashWriter(path string) {
	ctx := context.Background()
	db, err := store.Open(ctx, path, store.Options{Readers: 1})
	if err != nil {
		fmt.Fprintln(os.Stderr, "open:", err)
		os.Exit(3)
	}
	err = db.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec("CREATE TABLE IF NOT EXISTS crash (id TEXT PRIMARY KEY, pos INTEGER NOT NULL UNIQUE, body BLOB NOT NULL)")
		return err
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "create:", err)
		os.Exit(3)
	}
	out := os.Stdout // unbuffered: one write call a line
	body := bytes.Repeat([]byte("x"), 700)
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d-%d-%d", os.Getpid(), w, i)
				var pos int64
				err := db.Write(ctx, func(tx *store.Tx) error {
					pos = tx.NextPos()
					_, err := tx.Exec("INSERT INTO crash (id, pos, body) VALUES ($1, $2, $3)", id, pos, body)
					return err
				})
				if err != nil {
					fmt.Fprintln(os.Stderr, "write:", err)
					os.Exit(3)
				}
				fmt.Fprintf(out, "%s %d\n", id, pos)
			}
		}()
	}
	select {}
}

// TestKill kills a writing process 200 times at random moments and looks for
// every write that it acknowledged, in a file that must be intact. The file is
// the same throughout, so recovery is itself cut short now and then.
func TestKill(t *testing.T) {
	rounds := 200
	if testing.Short() {
		rounds = 20
	}
	path := filepath.Join(t.TempDir(), "holdfast.db")
	acked := map[string]int64{}
	var last int64
	writing := 0 // kills that met a process that had acknowledged something
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := func() {
			time.AfterFunc(time.Duration(rand.IntN(100))*time.Millisecond, func() { cmd.Process.Kill() })
		}
		early := round%4 == 3 // while it opens and recovers the file, perhaps
		if early {
			kill()
		}
		r := bufio.NewReader(out)
		lines := 0
		for ; ; lines++ {
			line, err := r.ReadString('\n')
			if lines == 0 && !early {
				kill()
			}
			if err != nil { // a line without its end was not acknowledged
				if err != io.EOF {
					t.Fatal(err)
				}
				break
			}
			var id string
			var pos int64
			if _, err := fmt.Sscan(line, &id, &pos); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			acked[id] = pos
			last = max(last, pos)
		}
		cmd.Wait()
		if stderr.Len() > 0 {
			t.Fatalf("round %d: %s", round, stderr.String())
		}
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !ws.Signaled() || ws.Signal() != syscall.SIGKILL {
			t.Fatalf("round %d: the process was not killed: %v", round, cmd.ProcessState)
		}
		if lines > 0 {
			writing++
		}
	}
	if writing < rounds/2 {
		t.Errorf("only %d of %d kills met a process that wrote", writing, rounds)
	}
	db, err := store.Open(context.Background(), path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if db.Pos() < last {
		t.Errorf("the sequence starts again at %d, but %d was handed out", db.Pos(), last)
	}
	found := 0
	err = db.Read(context.Background(), func(q store.Querier) error {
		var ok string
		if err := q.QueryRow("PRAGMA integrity_check").Scan(&ok); err != nil || ok != "ok" {
			t.Errorf("integrity_check: %q %v", ok, err)
		}
		rows, err := q.Query("SELECT id, pos FROM crash")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			var pos int64
			if err := rows.Scan(&id, &pos); err != nil {
				return err
			}
			if want, ok := acked[id]; ok {
				found++
				if want != pos {
					t.Errorf("%s stands at %d, was acknowledged at %d", id, pos, want)
				}
			}
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	if found != len(acked) || found == 0 {
		t.Errorf("%d of %d acknowledged writes were found", found, len(acked))
	}
	t.Logf("%d kills, %d of them while it wrote, %d acknowledged writes", rounds, writing, len(acked))
}

// TestPositionsAreSeenInOrder: what a reader saw up to Pos is all there will ever
// be up to there, though writers run concurrently and some of them fail.
func TestPositionsAreSeenInOrder(t *testing.T) {
	db, ctx := open(t), context.Background()
	must(t, db.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec("CREATE TABLE ordered (pos INTEGER PRIMARY KEY)")
		return err
	}))
	var listened []int64
	var lastPos int64
	db.OnVisible(func(pos int64, _ []store.Touch) {
		if db.Pos() != pos {
			t.Errorf("woken for %d, but Pos is %d", pos, db.Pos())
		}
	})
	db.OnCommit(func(pos int64, touched []store.Touch) { // under the writer: no lock needed
		if pos < lastPos {
			t.Errorf("commits were published at %d, then at %d", lastPos, pos)
		}
		if db.Pos() >= pos { // a reader of Pos would not find in memory what this listener has yet to note
			t.Errorf("Pos reports %d before its listeners ran", pos)
		}
		lastPos = pos
		for _, c := range touched {
			listened = append(listened, c.Pos)
		}
	})
	stop := make(chan struct{})
	var writers, readers sync.WaitGroup
	for range 16 {
		writers.Go(func() {
			for i := range 200 {
				err := db.Write(ctx, func(tx *store.Tx) error {
					for range 1 + i%3 {
						if _, err := tx.Exec("INSERT INTO ordered (pos) VALUES ($1)", tx.NextPos()); err != nil {
							return err
						}
						tx.Touch("t", "x")
					}
					if i%7 == 3 {
						return io.ErrUnexpectedEOF
					}
					return nil
				})
				if err != nil && err != io.ErrUnexpectedEOF {
					t.Error(err)
				}
			}
		})
	}
	type seen struct{ to, count, sum int64 }
	count := func(to int64) (s seen) {
		s.to = to
		must(t, db.Read(ctx, func(q store.Querier) error {
			return q.QueryRow("SELECT count(*), coalesce(sum(pos), 0) FROM ordered WHERE pos <= $1", to).Scan(&s.count, &s.sum)
		}))
		return s
	}
	views := make([][]seen, 4)
	for i := range views {
		readers.Go(func() {
			for len(views[i]) < 500 {
				if to := db.Pos(); len(views[i]) == 0 || views[i][len(views[i])-1].to != to {
					views[i] = append(views[i], count(to))
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	checked := 0
	for _, v := range views {
		for _, was := range v {
			if now := count(was.to); now != was {
				t.Fatalf("up to %d a reader saw %+v, later %+v", was.to, was, now)
			}
			checked++
		}
	}
	for i := 1; i < len(listened); i++ {
		if listened[i] <= listened[i-1] {
			t.Fatalf("listeners saw %d after %d", listened[i], listened[i-1])
		}
	}
	if total := count(db.Pos()); int(total.count) != len(listened) {
		t.Errorf("%d rows, %d published", total.count, len(listened))
	}
	t.Logf("%d views checked", checked)
}

// A kill does not show whether a commit reached the disk, since the kernel keeps
// what was written: that commits are fsynced rests on these settings.
func TestCommitsAreSynced(t *testing.T) {
	db := open(t)
	must(t, db.Write(context.Background(), func(tx *store.Tx) error {
		for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"} {
			var got string
			if err := tx.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
				t.Errorf("%s is %q %v, not %q", pragma, got, err, want)
			}
		}
		return nil
	}))
}

func TestPanicInAWriteHarmsNobodyElse(t *testing.T) {
	db, ctx := open(t), context.Background()
	if err := db.Write(ctx, func(*store.Tx) error { panic("boom") }); err == nil {
		t.Fatal("no error")
	}
	must(t, db.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec("CREATE TABLE after (x)")
		return err
	}))
}

func TestReadersCannotWrite(t *testing.T) {
	db := open(t)
	err := db.Read(context.Background(), func(q store.Querier) error {
		rows, err := q.Query("INSERT INTO store_sequence (name, value) VALUES ('x', 1) RETURNING value")
		if err == nil {
			rows.Next()
			err = rows.Err()
			rows.Close()
		}
		return err
	})
	if err == nil {
		t.Fatal("a reader wrote")
	}
}

func TestClosedStoreAnswersSo(t *testing.T) {
	ctx := context.Background()
	db, err := store.Open(ctx, filepath.Join(t.TempDir(), "holdfast.db"), store.Options{})
	must(t, err)
	must(t, db.Read(ctx, func(q store.Querier) error { return q.QueryRow("SELECT count(*) FROM store_sequence").Scan(new(int)) }))
	must(t, db.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec("INSERT INTO store_sequence (name, value) VALUES ('x', 1)")
		return err
	}))
	must(t, db.Close())
	if left, _ := filepath.Glob(db.Path() + "-*"); len(left) != 0 {
		t.Errorf("a closed store is one file, but there are %v", left)
	}
	if err := db.Read(ctx, func(store.Querier) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if err := db.Write(ctx, func(*store.Tx) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	again, err := store.Open(ctx, db.Path(), store.Options{})
	must(t, err)
	must(t, again.Close())
}

func TestSecondProcessIsRefused(t *testing.T) {
	db := open(t)
	if _, err := store.Open(context.Background(), db.Path(), store.Options{}); err == nil {
		t.Fatal("opened twice")
	}
}

func TestSnapshotIsWholeAndOpens(t *testing.T) {
	db, ctx := open(t), context.Background()
	must(t, db.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec("INSERT INTO store_sequence (name, value) VALUES ('snap', 7)")
		return err
	}))
	to := filepath.Join(t.TempDir(), "copy.db")
	must(t, db.Snapshot(ctx, to))
	again, err := store.Open(ctx, to, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	var n int
	must(t, again.Read(ctx, func(q store.Querier) error {
		return q.QueryRow("SELECT value FROM store_sequence WHERE name = 'snap'").Scan(&n)
	}))
	if n != 7 {
		t.Fatal(n)
	}
}

func TestNewerFileIsRefused(t *testing.T) {
	path, ctx := filepath.Join(t.TempDir(), "holdfast.db"), context.Background()
	raw(t, path, "PRAGMA user_version = 9999")
	if _, err := store.Open(ctx, path, store.Options{}); !errors.Is(err, store.ErrNewer) {
		t.Fatal(err)
	}
}

// TestOlderFileIsCopiedThenMigrated starts from the first migration with a row in
// it, and finds the row in the migrated file and the old file beside it.
func TestOlderFileIsCopiedThenMigrated(t *testing.T) {
	path, ctx := filepath.Join(t.TempDir(), "holdfast.db"), context.Background()
	steps, err := schema.Migrations()
	must(t, err)
	raw(t, path, steps[0].SQL, "INSERT INTO store_sequence (name, value) VALUES ('pos', 4711)", "PRAGMA user_version = 1")
	db, err := store.Open(ctx, path, store.Options{})
	must(t, err)
	defer db.Close()
	if db.Pos() != 4711 {
		t.Errorf("position %d", db.Pos())
	}
	copies, _ := filepath.Glob(path + ".before-*")
	if len(copies) != 1 {
		t.Fatalf("copies: %v", copies)
	}
	if v := raw(t, copies[0], "SELECT value FROM store_sequence WHERE name = 'pos'"); v != 4711 {
		t.Errorf("the copy has %d", v)
	}
	must(t, db.Healthy())
	if copies, _ = filepath.Glob(path + ".before-*"); len(copies) != 0 {
		t.Errorf("kept after Healthy: %v", copies)
	}
}

// raw runs statements on a file without the store and returns the last one's value.
func raw(t *testing.T, path string, statements ...string) (value int) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	must(t, err)
	defer db.Close()
	for _, s := range statements {
		if strings.HasPrefix(s, "SELECT") {
			must(t, db.QueryRow(s).Scan(&value))
		} else {
			_, err = db.Exec(s)
			must(t, err)
		}
	}
	return value
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// BenchmarkWrite measures committed writes a second for 1, 16 and 64 writers, of
// five statements each, as a message takes. fsyncs/write is the share of commits.
func BenchmarkWrite(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			db, ctx := open(b), context.Background()
			must(b, db.Write(ctx, func(tx *store.Tx) error {
				_, err := tx.Exec(`CREATE TABLE bench_events (pos INTEGER PRIMARY KEY, room INTEGER NOT NULL, id TEXT NOT NULL UNIQUE, json BLOB NOT NULL);
					CREATE INDEX bench_room ON bench_events (room, pos);
					CREATE TABLE bench_txn (device TEXT, txn TEXT, id TEXT, PRIMARY KEY (device, txn)) WITHOUT ROWID;
					CREATE TABLE bench_head (room INTEGER PRIMARY KEY, pos INTEGER)`)
				return err
			}))
			json := bytes.Repeat([]byte("j"), 600)
			before := db.Stats()
			b.ResetTimer()
			var wg sync.WaitGroup
			for w := range writers {
				n := b.N / writers
				if w < b.N%writers {
					n++
				}
				wg.Go(func() {
					for i := range n {
						err := db.Write(ctx, func(tx *store.Tx) error {
							pos, id, dev, txn := tx.NextPos(), fmt.Sprintf("$%d-%d", w, i), fmt.Sprint("d", w), fmt.Sprint(i)
							var have string
							if err := tx.QueryRow("SELECT id FROM bench_txn WHERE device = $1 AND txn = $2", dev, txn).Scan(&have); err != store.ErrNotFound {
								return fmt.Errorf("txn: %v", err)
							}
							if err := tx.QueryRow("SELECT pos FROM bench_head WHERE room = $1", w).Scan(new(int64)); err != nil && err != store.ErrNotFound {
								return err
							}
							if _, err := tx.Exec("INSERT INTO bench_events (pos, room, id, json) VALUES ($1, $2, $3, $4)", pos, w, id, json); err != nil {
								return err
							}
							if _, err := tx.Exec("INSERT INTO bench_txn (device, txn, id) VALUES ($1, $2, $3)", dev, txn, id); err != nil {
								return err
							}
							_, err := tx.Exec("INSERT INTO bench_head (room, pos) VALUES ($1, $2) ON CONFLICT (room) DO UPDATE SET pos = excluded.pos", w, pos)
							return err
						})
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			after := db.Stats()
			b.ReportMetric(float64(after.Writes-before.Writes)/b.Elapsed().Seconds(), "writes/s")
			b.ReportMetric(float64(after.Commits-before.Commits)/float64(after.Writes-before.Writes), "fsyncs/write")
		})
	}
}
