package audit_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/store/audit"
)

// update plays an update that is not kept: entries of the new version, then the database
// from before. keep says whether the store laid the entries aside.
func update(r *rig, keep bool, k []byte) {
	r.t.Helper()
	older := filepath.Join(r.t.TempDir(), "older.db")
	if err := r.db.Snapshot(r.t.Context(), older); err != nil {
		r.t.Fatal(err)
	}
	r.add("appliance.start", "")
	r.add("clock.back", "")
	r.stop()
	if keep {
		if err := audit.KeepUndone(r.t.Context(), k, r.path, older); err != nil {
			r.t.Fatal(err)
		}
	}
	b, err := os.ReadFile(older)
	if err != nil {
		r.t.Fatal(err)
	}
	os.Remove(r.path + "-wal")
	os.Remove(r.path + "-shm")
	if err := os.WriteFile(r.path, b, 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.start()
}

func TestAnUpdateThatWasNotKeptIsTold(t *testing.T) {
	r := newRig(t)
	r.add("user.lock", "@a:example.org")
	update(r, true, key)
	if r.log.Trouble() != "" {
		t.Errorf("a false alarm: %s", r.log.Trouble())
	}
	rep := r.verify()
	if !rep.OK() || rep.Entries != 2 || len(rep.Notes) != 1 || !strings.Contains(rep.Notes[0], "entries 2 to 3 was undone") {
		t.Fatalf("%+v", rep)
	}
	got, err := r.log.Find(t.Context(), audit.Filter{Event: "audit.undone"})
	if err != nil || len(got) != 1 || !strings.Contains(got[0].Data, "2 appliance.start") {
		t.Fatalf("%+v %v", got, err)
	}
	// The entries are kept, whole.
	list, _ := filepath.Glob(filepath.Join(filepath.Dir(r.path), "audit.undone-2-3-*.jsonl"))
	if len(list) != 1 {
		t.Fatal(list)
	}
	f, err := os.Open(list[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if rep, err := audit.VerifyExport(f, key); err != nil || !rep.OK() || rep.First != 2 || rep.Last != 3 {
		t.Errorf("%+v %v", rep, err)
	}
	// It is said once, and a real loss afterwards alarms.
	r.stop()
	r.start()
	if rep := r.verify(); rep.Entries != 2 || r.log.Trouble() != "" {
		t.Errorf("%+v %s", rep, r.log.Trouble())
	}
	r.add("role.grant", "@mallory:example.org")
	r.attack(`DELETE FROM audit_log WHERE seq > 1`)
	if !strings.Contains(r.log.Trouble(), "ends at entry 1, but had 3 before") {
		t.Errorf("trouble is %q", r.log.Trouble())
	}
}

func TestALossIsNotExcused(t *testing.T) {
	for name, f := range map[string]func(r *rig){
		"nothing laid aside":     func(r *rig) { update(r, false, nil) },
		"written by another key": func(r *rig) { update(r, true, make([]byte, 32)) },
		"of another end": func(r *rig) {
			update(r, true, key)
			r.add("user.lock", "@b:example.org")
			r.stop()
			os.WriteFile(filepath.Join(filepath.Dir(r.path), "audit.undone"), []byte(`{"lines":["x"],"mac":"00"}`), 0o600)
			r.start()
			r.attack(`DELETE FROM audit_log WHERE seq > 2`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.t = t
			r.add("user.lock", "@a:example.org")
			f(r)
			if !strings.Contains(r.log.Trouble(), "before: an older copy") {
				t.Errorf("trouble is %q", r.log.Trouble())
			}
		})
	}
}

func TestVerifyDatabase(t *testing.T) {
	r := newRig(t)
	r.add("user.lock", "@a:example.org")
	r.add("user.lock", "@b:example.org")
	if rep, err := audit.VerifyDatabase(t.Context(), r.path, key); err != nil || rep.Entries != 2 {
		t.Fatalf("while it runs: %+v %v", rep, err)
	}
	r.stop()
	rep, err := audit.VerifyDatabase(t.Context(), r.path, key)
	if err != nil || !rep.OK() || rep.Entries != 2 || !rep.Keyed {
		t.Fatalf("%+v %v", rep, err)
	}
	if _, err := os.Stat(r.path + "-wal"); err == nil {
		t.Error("reading made files")
	}
	r.start()
	r.attack(`UPDATE audit_log SET actor = 'x' WHERE seq = 1`)
	r.stop()
	if rep, err := audit.VerifyDatabase(t.Context(), r.path, key); err != nil || rep.OK() {
		t.Errorf("%+v %v", rep, err)
	}
	r.start()
}
