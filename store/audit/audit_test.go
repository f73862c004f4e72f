package audit_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"holdfast/store"
	"holdfast/store/audit"
)

var key = bytes.Repeat([]byte{7}, 32)

// rig is a log on a real database.
type rig struct {
	t    *testing.T
	path string
	db   *store.DB
	log  *audit.Log
	now  time.Time
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "holdfast.db"), now: time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)}
	r.start()
	t.Cleanup(r.stop)
	return r
}

func (r *rig) start() {
	r.t.Helper()
	var err error
	if r.db, err = store.Open(r.t.Context(), r.path, store.Options{}); err != nil {
		r.t.Fatal(err)
	}
	if r.log, err = audit.Open(r.t.Context(), audit.Options{DB: r.db, Key: key, Now: func() time.Time { return r.now }}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) stop() {
	r.log.Close()
	r.db.Close()
}

func (r *rig) add(event, target string) {
	r.t.Helper()
	ctx := audit.From(audit.As(r.t.Context(), "@olga:example.org"), "192.0.2.7")
	if err := r.log.Append(ctx, audit.Event{Name: event, Target: target, Data: audit.Data{"roles": []string{"admin"}, "n": 3}}); err != nil {
		r.t.Fatal(err)
	}
}

// attack changes the file of a log that does not run, by SQL alone.
func (r *rig) attack(statements ...string) {
	r.t.Helper()
	r.stop()
	db, err := sql.Open("sqlite", r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, s := range append([]string{"DROP TRIGGER audit_log_append", "DROP TRIGGER audit_log_update", "DROP TRIGGER audit_log_delete"}, statements...) {
		if _, err := db.Exec(s); err != nil {
			r.t.Fatalf("%s: %v", s, err)
		}
	}
	if err := db.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.start()
}

func (r *rig) verify() *audit.Report {
	r.t.Helper()
	rep, err := r.log.Verify(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return rep
}

func (r *rig) export(asCSV bool) string {
	r.t.Helper()
	var b bytes.Buffer
	if err := r.log.Export(r.t.Context(), &b, time.Time{}, time.Time{}, asCSV); err != nil {
		r.t.Fatal(err)
	}
	return b.String()
}

func wants(t *testing.T, rep *audit.Report, text string) {
	t.Helper()
	for _, p := range rep.Problems {
		if strings.Contains(p.Text, text) {
			return
		}
	}
	t.Errorf("no problem says %q: %+v", text, rep.Problems)
}

func TestAChainIsWhole(t *testing.T) {
	r := newRig(t)
	for i := range 5 {
		r.add("user.lock", fmt.Sprintf("@u%d:example.org", i))
	}
	rep := r.verify()
	if !rep.OK() || rep.Entries != 5 || rep.Last != 5 {
		t.Fatalf("%+v", rep)
	}
	// It goes on after a stop, and after one that was none.
	r.stop()
	r.start()
	r.add("user.unlock", "@u1:example.org")
	if rep := r.verify(); !rep.OK() || rep.Entries != 6 || r.log.Trouble() != "" {
		t.Fatalf("%+v %s", rep, r.log.Trouble())
	}
	got, err := r.log.Find(t.Context(), audit.Filter{Event: "user.unlock"})
	if err != nil || len(got) != 1 || got[0].Actor != "@olga:example.org" || got[0].IP != "192.0.2.7" || got[0].Data != `{"n":3,"roles":["admin"]}` {
		t.Fatalf("%+v %v", got, err)
	}
	for _, f := range []struct {
		f    audit.Filter
		want int
	}{
		{audit.Filter{Event: "user."}, 6}, {audit.Filter{Event: "user.lock"}, 5}, {audit.Filter{Event: "role."}, 0},
		{audit.Filter{Actor: "@olga:example.org", Limit: 2}, 2}, {audit.Filter{Target: "@u1:example.org"}, 2},
		{audit.Filter{Before: 3}, 2}, {audit.Filter{Since: r.now.Add(time.Second)}, 0}, {audit.Filter{Until: r.now.Add(time.Second)}, 6},
	} {
		if got, err := r.log.Find(t.Context(), f.f); err != nil || len(got) != f.want {
			t.Errorf("%+v gives %d entries, %v", f.f, len(got), err)
		}
	}
}

func TestTheDatabaseRefusesChanges(t *testing.T) {
	r := newRig(t)
	r.add("user.lock", "@a:example.org")
	r.add("user.lock", "@b:example.org")
	for _, q := range []string{
		`UPDATE audit_log SET actor = 'x'`,
		`DELETE FROM audit_log`,
		`DELETE FROM audit_log WHERE seq = 2`,
		`INSERT OR REPLACE INTO audit_log SELECT seq, at, 'x', event, target, ip, data, prev, hash, mac FROM audit_log WHERE seq = 1`,
		`INSERT INTO audit_log SELECT seq + 7, at, 'x', event, target, ip, data, prev, hash, mac FROM audit_log WHERE seq = 1`,
		`INSERT INTO audit_log SELECT NULL, at, 'x', event, target, ip, data, prev, hash, mac FROM audit_log WHERE seq = 1`,
	} {
		err := r.db.Write(t.Context(), func(tx *store.Tx) error { _, err := tx.Exec(q); return err })
		if err == nil || !strings.Contains(err.Error(), "audit log") {
			t.Errorf("%s: %v", q, err)
		}
	}
	if rep := r.verify(); !rep.OK() || rep.Entries != 2 {
		t.Errorf("%+v", rep)
	}
}

func TestWhoHasOnlyTheDatabaseIsNoticed(t *testing.T) {
	for name, a := range map[string]struct {
		sql  []string
		want string
	}{
		"changed":        {[]string{`UPDATE audit_log SET actor = '@other:example.org' WHERE seq = 2`}, "it was changed"},
		"removed amidst": {[]string{`DELETE FROM audit_log WHERE seq = 2`}, "missing"},
		"renumbered":     {[]string{`DELETE FROM audit_log WHERE seq = 2`, `UPDATE audit_log SET seq = seq - 1 WHERE seq > 2`}, "does not follow"},
		"end removed":    {[]string{`DELETE FROM audit_log WHERE seq > 2`}, "is another than the one"},
		"all removed":    {[]string{`DELETE FROM audit_log`}, "is another than the one"},
		"start removed":  {[]string{`DELETE FROM audit_log WHERE seq = 1`}, "before this one are missing"},
		"foreign MAC":    {[]string{`UPDATE audit_log SET mac = zeroblob(32) WHERE seq = 1`}, "by another key"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			for _, u := range []string{"@a:example.org", "@b:example.org", "@c:example.org"} {
				r.add("user.lock", u)
			}
			r.stop()
			r.start()
			// While it runs, the file beside the database is not written anew.
			db, err := sql.Open("sqlite", r.path)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			for _, s := range append([]string{"DROP TRIGGER audit_log_append", "DROP TRIGGER audit_log_update", "DROP TRIGGER audit_log_delete"}, a.sql...) {
				if _, err := db.Exec(s); err != nil {
					t.Fatal(err)
				}
			}
			rep := r.verify()
			if rep.OK() {
				t.Fatal("nothing was noticed")
			}
			if name == "end removed" || name == "all removed" {
				wants(t, rep, "entries are missing at its end")
			} else {
				wants(t, rep, a.want)
			}
		})
	}
}

// Entries that are missing at the end are noticed at the next start, and the log says so
// from then on, where nobody can take it back.
func TestAnOlderCopyIsNoticed(t *testing.T) {
	r := newRig(t)
	r.add("user.lock", "@a:example.org")
	older := filepath.Join(t.TempDir(), "older.db")
	if err := r.db.Snapshot(t.Context(), older); err != nil {
		t.Fatal(err)
	}
	r.add("role.grant", "@mallory:example.org")
	r.stop()
	b, err := os.ReadFile(older)
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(r.path + "-wal")
	os.Remove(r.path + "-shm")
	if err := os.WriteFile(r.path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	if !strings.Contains(r.log.Trouble(), "ends at entry 1, but had 2 before") {
		t.Errorf("trouble is %q", r.log.Trouble())
	}
	r.add("user.unlock", "@a:example.org")
	r.stop()
	r.start()
	if r.log.Trouble() != "" {
		t.Errorf("trouble stays after it was noted: %q", r.log.Trouble())
	}
	rep := r.verify()
	if !rep.OK() || rep.Entries != 3 || len(rep.Notes) != 1 || !strings.Contains(rep.Notes[0], "had 2 before") {
		t.Errorf("%+v", rep)
	}
}

// What is added while the log runs does not hide what was removed at its end before: it is
// noted once, ahead of what is added, and told.
func TestRemovedWhileItRuns(t *testing.T) {
	r := newRig(t)
	r.log.Close()
	told := make(chan string, 2)
	var err error
	if r.log, err = audit.Open(t.Context(), audit.Options{DB: r.db, Key: key, Alarm: func(trouble string) { told <- trouble }}); err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{"@a:example.org", "@b:example.org", "@c:example.org"} {
		r.add("user.lock", u)
	}
	db, err := sql.Open("sqlite", r.path+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range []string{"DROP TRIGGER audit_log_delete", "DELETE FROM audit_log WHERE seq > 1"} {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	// A write that fails says nothing, so the next has to.
	sorry := errors.New("sorry")
	if err := r.db.Write(t.Context(), func(tx *store.Tx) error {
		return errors.Join(sorry, r.log.Tx(t.Context(), tx, audit.Event{Name: "user.unlock"}))
	}); !errors.Is(err, sorry) || r.log.Trouble() != "" {
		t.Fatal(err, r.log.Trouble())
	}
	if err := r.db.Write(t.Context(), func(tx *store.Tx) error {
		return errors.Join(r.log.Tx(t.Context(), tx, audit.Event{Name: "user.unlock"}), r.log.Tx(t.Context(), tx, audit.Event{Name: "user.lock"}))
	}); err != nil {
		t.Fatal(err)
	}
	r.add("user.unlock", "@d:example.org")
	const want = "ends at entry 1, but had 3 before"
	if got := <-told; !strings.Contains(got, want) || r.log.Trouble() != got {
		t.Errorf("told %q, trouble is %q", got, r.log.Trouble())
	}
	rep := r.verify()
	if !rep.OK() || rep.Entries != 5 || len(rep.Notes) != 1 || !strings.Contains(rep.Notes[0], want) {
		t.Errorf("%+v", rep)
	}
	if list, err := r.log.Find(t.Context(), audit.Filter{}); err != nil || list[3].Event != "audit.broken" || list[3].Seq != 2 {
		t.Errorf("%+v %v", list, err)
	}
	r.stop() // which tells all that there is to be told
	r.start()
	if len(told) != 0 || r.log.Trouble() != "" {
		t.Errorf("%d were told again; trouble is %q", len(told), r.log.Trouble())
	}
}

// The whole log written anew, with hashes that fit each other: only the key is missing.
func TestALogWrittenAnewIsNoticed(t *testing.T) {
	r := newRig(t)
	r.add("role.grant", "@mallory:example.org")
	r.stop()
	// A log of the attacker's, by a key of their own.
	other := filepath.Join(t.TempDir(), "other.db")
	db, err := store.Open(t.Context(), other, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	forged, err := audit.Open(t.Context(), audit.Options{DB: db, Key: bytes.Repeat([]byte{9}, 32)})
	if err != nil {
		t.Fatal(err)
	}
	if err := forged.Append(t.Context(), audit.Event{Name: "role.grant", Target: "@innocent:example.org"}); err != nil {
		t.Fatal(err)
	}
	forged.Close()
	db.Close()
	r.start()
	r.attack(`ATTACH '`+other+`' AS o`, `DELETE FROM audit_log`, `INSERT INTO audit_log SELECT * FROM o.audit_log`)
	if !strings.Contains(r.log.Trouble(), "is another than it was") {
		t.Errorf("trouble is %q", r.log.Trouble())
	}
	wants(t, r.verify(), "by another key")
}

func TestTheFileBesideTheDatabase(t *testing.T) {
	r := newRig(t)
	r.add("user.lock", "@a:example.org")
	r.stop()
	head := filepath.Join(filepath.Dir(r.path), "audit.head")
	fi, err := os.Stat(head)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", fi, err)
	}
	if err := os.Remove(head); err != nil {
		t.Fatal(err)
	}
	r.start()
	if !strings.Contains(r.log.Trouble(), "audit.head is missing") {
		t.Errorf("trouble is %q", r.log.Trouble())
	}
	r.stop()
	if err := os.WriteFile(head, []byte(`{"seq":1,"hash":"00","mac":"00"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	if !strings.Contains(r.log.Trouble(), "not written by this appliance") {
		t.Errorf("trouble is %q", r.log.Trouble())
	}
}

func TestAnEntryIsOfItsChange(t *testing.T) {
	r := newRig(t)
	sorry := errors.New("sorry")
	err := r.db.Write(t.Context(), func(tx *store.Tx) error {
		if err := r.log.Tx(t.Context(), tx, audit.Event{Name: "user.lock"}); err != nil {
			return err
		}
		return sorry
	})
	if !errors.Is(err, sorry) {
		t.Fatal(err)
	}
	if rep := r.verify(); rep.Entries != 0 {
		t.Errorf("what did not happen is in the log: %+v", rep)
	}
	// Many at once share commits, and some are undone: the chain is one.
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			r.db.Write(context.Background(), func(tx *store.Tx) error {
				if err := r.log.Tx(context.Background(), tx, audit.Event{Name: "user.lock", Target: fmt.Sprint(i)}); err != nil {
					return err
				}
				if i%3 == 0 {
					return sorry
				}
				return nil
			})
		})
	}
	wg.Wait()
	if rep := r.verify(); !rep.OK() || rep.Entries != 133 {
		t.Errorf("%+v", rep)
	}
	if err := r.log.Append(t.Context(), audit.Event{Name: "x", Data: audit.Data{"f": 1.5}}); !errors.Is(err, audit.ErrData) {
		t.Errorf("a value that no entry has: %v", err)
	}
	// What is too long is cut, not refused.
	if err := r.log.Append(t.Context(), audit.Event{Name: "x", Target: strings.Repeat("ä", 500), Data: audit.Data{
		"a": strings.Repeat("\x01", 5000), "b": strings.Repeat("b", 5000), "c": strings.Fields(strings.Repeat("group ", 5000))}}); err != nil {
		t.Error(err)
	}
	got, _ := r.log.Find(t.Context(), audit.Filter{Event: "x"})
	if len(got) != 1 || len(got[0].Target) > 256 || len(got[0].Data) > 4096 || !json.Valid([]byte(got[0].Data)) || !strings.Contains(got[0].Data, " more") {
		t.Errorf("%+v", got)
	}
	if rep := r.verify(); !rep.OK() {
		t.Errorf("%+v", rep)
	}
	var none *audit.Log
	if none.Append(t.Context(), audit.Event{Name: "x"}) != nil || none.Trouble() != "" {
		t.Error("no log is no error")
	}
	none.Close()
}

func TestExports(t *testing.T) {
	r := newRig(t)
	for i := range 4 {
		r.add("signin.failed", fmt.Sprintf("=cmd|'%d'", i))
		r.now = r.now.Add(time.Hour)
	}
	text := r.export(false)
	rep, err := audit.VerifyExport(strings.NewReader(text), key)
	if err != nil || !rep.OK() || rep.Entries != 4 || !rep.Keyed {
		t.Fatalf("%+v %v", rep, err)
	}
	if h, err := r.log.HashOf(t.Context(), rep.Last); err != nil || h != rep.Hash {
		t.Errorf("%s is not %s, %v", rep.Hash, h, err)
	}
	if _, err := r.log.HashOf(t.Context(), 99); !errors.Is(err, audit.ErrNoEntry) {
		t.Error(err)
	}
	// Without the key the chain alone is looked at.
	if rep, err := audit.VerifyExport(strings.NewReader(text), nil); err != nil || !rep.OK() || rep.Keyed {
		t.Errorf("%+v %v", rep, err)
	}
	lines := strings.SplitAfter(text, "\n")
	for name, bad := range map[string]string{
		"changed":  strings.Replace(text, "192.0.2.7", "192.0.2.8", 1),
		"swapped":  lines[1] + lines[0] + lines[2] + lines[3],
		"removed":  lines[0] + lines[2] + lines[3],
		"spaced":   strings.Replace(text, ",", ", ", 1),
		"rubbish":  text + "{}\n",
		"nothing":  "",
		"not JSON": "hello\n",
	} {
		if rep, err := audit.VerifyExport(strings.NewReader(bad), key); err != nil || rep.OK() {
			t.Errorf("%s: %+v %v", name, rep, err)
		}
	}
	// A part of the log, without a gap.
	var part bytes.Buffer
	from := time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC)
	if err := r.log.Export(t.Context(), &part, from, from.Add(2*time.Hour), false); err != nil {
		t.Fatal(err)
	}
	if rep, err := audit.VerifyExport(&part, key); err != nil || !rep.OK() || rep.First != 2 || rep.Last != 3 {
		t.Errorf("%+v %v", rep, err)
	}
	rows, err := csv.NewReader(strings.NewReader(r.export(true))).ReadAll()
	if err != nil || len(rows) != 5 {
		t.Fatalf("%v %v", rows, err)
	}
	if rows[1][4] != "'=cmd|'0'" || rows[1][2] != "@olga:example.org" || rows[1][1] != "2026-11-01T08:00:00.000Z" {
		t.Errorf("%q", rows[1])
	}
}

// What strangers cause does not fill the disk.
func TestStrangersAreNotedAtABoundedRate(t *testing.T) {
	r := newRig(t)
	try := func(key string) {
		t.Helper()
		if err := r.db.Write(t.Context(), func(tx *store.Tx) error {
			return r.log.Bounded(t.Context(), tx, key, audit.Event{Name: "signin.failed", Actor: audit.Nobody, Target: key})
		}); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		try("anna|192.0.2.1")
	}
	if rep := r.verify(); rep.Entries != 7 { // 1, 2, 4 ... 64
		t.Errorf("100 failures of one make %d entries", rep.Entries)
	}
	for i := range 2000 {
		try(fmt.Sprintf("u%d|192.0.2.1", i))
	}
	if rep := r.verify(); rep.Entries != 200 {
		t.Errorf("2100 failures make %d entries", rep.Entries)
	}
	r.now = r.now.Add(10 * time.Minute)
	try("somebody|192.0.2.1")
	got, err := r.log.Find(t.Context(), audit.Filter{Limit: 1})
	if err != nil || len(got) != 1 || !strings.Contains(got[0].Data, `"not_noted":1807`) {
		t.Errorf("%+v %v", got, err)
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte(`{"actor":"system","at":1,"data":{},"event":"x","hash":"` + strings.Repeat("0", 64) + `","ip":"","mac":"` + strings.Repeat("0", 64) + `","prev":"` + strings.Repeat("0", 64) + `","seq":1,"target":""}`))
	f.Add([]byte(`{"seq":1}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := audit.ParseLine(line)
		if err == nil && (e.Seq < 1 || len(e.Hash) != 32 || !json.Valid(line)) {
			t.Errorf("%q gave %+v", line, e)
		}
		audit.VerifyExport(bytes.NewReader(line), key)
	})
}
