package audit

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"holdfast/store"
)

// What a version wrote that was not kept is thrown away together with its database. Its
// entries are not: they are laid beside the database before, and the log says at its next
// start that they were undone, why, and where they are.

// undoneFile has them until the log has said so.
const undoneFile = "audit.undone"

// maxUndone bounds what is read back. A version that is being tried writes a few entries.
const maxUndone = 16 << 20

// undone is what the file has. The MAC is of the lines: nobody without the key can excuse
// entries that are missing.
type undone struct {
	Lines []string `json:"lines"`
	MAC   string   `json:"mac"`
}

func (u *undone) sum(key []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte("holdfast audit undone\x00"))
	for _, l := range u.Lines {
		m.Write([]byte(l + "\n"))
	}
	return m.Sum(nil)
}

// KeepUndone lays the entries aside that the database newer has and older, which is about
// to take its place, has not.
func KeepUndone(ctx context.Context, key []byte, newer, older string) error {
	var last int64
	err := readFile(ctx, older, func(db *sql.DB) error {
		return db.QueryRowContext(ctx, `SELECT coalesce(max(seq), 0) FROM audit_log`).Scan(&last)
	})
	if err != nil {
		return err
	}
	var u undone
	err = readFile(ctx, newer, func(db *sql.DB) error {
		return eachIn(ctx, db, last, func(e *Entry) error {
			u.Lines = append(u.Lines, string(e.line(true)))
			return nil
		})
	})
	if err != nil || len(u.Lines) == 0 {
		return err
	}
	u.MAC = hex.EncodeToString(u.sum(key))
	b, err := json.Marshal(u)
	if err != nil {
		return err
	}
	return writeWhole(filepath.Join(filepath.Dir(newer), undoneFile), b)
}

// readUndone reads the entries that were laid aside. None is no error.
func readUndone(path string, key []byte) (out []Entry, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxUndone+1))
	if err != nil {
		return nil, err
	}
	return parseUndone(b, key)
}

var errUndone = errors.New("it was not written by this appliance")

func parseUndone(b, key []byte) (out []Entry, err error) {
	var u undone
	if len(b) > maxUndone || json.Unmarshal(b, &u) != nil || len(u.Lines) == 0 {
		return nil, errUndone
	}
	if sum, err := hex.DecodeString(u.MAC); err != nil || !hmac.Equal(sum, u.sum(key)) {
		return nil, errUndone
	}
	for i, l := range u.Lines {
		e, err := ParseLine([]byte(l))
		if err != nil {
			return nil, err
		}
		if !e.sound(key) || i > 0 && (e.Seq != out[i-1].Seq+1 || !hmac.Equal(e.Prev, out[i-1].Hash)) {
			return nil, fmt.Errorf("entry %d in it is not as it was written", e.Seq)
		}
		out = append(out, e)
	}
	return out, nil
}

// has reports whether the head is one of the entries.
func has(list []Entry, h head) bool {
	if len(list) == 0 {
		return false
	}
	i := h.seq - list[0].Seq
	return i >= 0 && i < int64(len(list)) && hmac.Equal(list[i].Hash, h.hash)
}

// follows reports whether entries that were laid aside are those that came after the end
// of the log, up to the one that the head file knows.
func follows(list []Entry, last Entry, kept head) bool {
	prev := last.Hash
	if last.Seq == 0 {
		prev = make([]byte, sha256.Size)
	}
	if len(list) == 0 || list[0].Seq != last.Seq+1 || !hmac.Equal(list[0].Prev, prev) {
		return false
	}
	if kept.seq <= last.Seq {
		return true
	}
	return has(list, kept)
}

// noteUndone says in the log what was undone, and keeps the entries in a file that can be
// verified as an export.
func (l *Log) noteUndone(ctx context.Context, tx *store.Tx, list []Entry) error {
	first, last := &list[0], &list[len(list)-1]
	name := fmt.Sprintf("audit.undone-%d-%d-%x.jsonl", first.Seq, last.Seq, last.Hash[:4])
	var text bytes.Buffer
	var events []string
	for i := range list {
		e := &list[i]
		text.Write(e.line(true))
		text.WriteByte('\n')
		events = append(events, fmt.Sprintf("%d %s %s", e.Seq, e.Event, e.Target))
	}
	dir := filepath.Dir(l.o.Head)
	if err := writeWhole(filepath.Join(dir, name), text.Bytes()); err != nil {
		return err
	}
	l.o.Log.Warn("entries of the audit log were undone together with the version that wrote them", "first", first.Seq, "last", last.Seq, "file", name)
	return l.Tx(ctx, tx, Event{Name: "audit.undone", Actor: System, Data: Data{
		"first": first.Seq, "last": last.Seq, "hash": hex.EncodeToString(last.Hash), "file": name, "events": events,
		"reason": "the version that wrote them was not kept; the database from before the update is used again"}})
}

// undoneSaid reports whether the log says already that entries were undone: the file
// outlived a loss of power.
func (l *Log) undoneSaid(q store.Querier, list []Entry) bool {
	if len(list) == 0 {
		return false
	}
	e, err := load(q, list[0].Seq)
	return err == nil && e.Event == "audit.undone" && bytes.Contains([]byte(e.Data), []byte(hex.EncodeToString(list[len(list)-1].Hash)))
}

// undoneNote tells people of such an entry.
func undoneNote(e *Entry) string {
	var d struct {
		First, Last  int64
		Reason, File string
	}
	json.Unmarshal([]byte(e.Data), &d)
	return fmt.Sprintf("%s, entry %d: what were entries %d to %d was undone: %s; they are in %s", e.Time().Format(time.DateTime), e.Seq, d.First, d.Last, d.Reason, d.File)
}

func writeWhole(path string, b []byte) error {
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if e := f.Sync(); err == nil {
		err = e
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	return err
}

// readFile opens a database file to read. Nothing is changed in it.
func readFile(ctx context.Context, path string, f func(db *sql.DB) error) error {
	mode := "?mode=ro"
	if st, err := os.Stat(path + "-wal"); err != nil || st.Size() == 0 {
		mode += "&immutable=1" // nobody writes: not even the files beside it are made
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+mode)
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	return f(db)
}

func eachIn(ctx context.Context, db *sql.DB, after int64, f func(e *Entry) error) error {
	rows, err := db.QueryContext(ctx, `SELECT `+columns+` FROM audit_log WHERE seq > $1 ORDER BY seq`, after)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		e, err := scan(rows)
		if err != nil {
			return err
		}
		if err := f(&e); err != nil {
			return err
		}
	}
	return rows.Err()
}

// VerifyDatabase reads the log in a database file, also one that no appliance runs on:
// the chain, the MACs (without a key they are not looked at), and that it has the end that
// the head file beside it knows. An error means that the file could not be read.
func VerifyDatabase(ctx context.Context, path string, key []byte) (*Report, error) {
	r := &Report{Keyed: key != nil, Problems: []Problem{}}
	name := filepath.Join(filepath.Dir(path), "audit.head")
	var kept head
	if key != nil {
		var problem string
		if kept, problem = readHead(name, key); problem != "" {
			r.problem(0, "%s", problem)
		}
	}
	c := &checker{r: r, key: key}
	err := readFile(ctx, path, func(db *sql.DB) error {
		return eachIn(ctx, db, 0, func(e *Entry) error {
			if r.Entries == 0 && e.Seq != 1 {
				r.problem(e.Seq, "the entries before this one are missing")
			}
			c.next(e)
			if e.Seq == kept.seq && !hmac.Equal(e.Hash, kept.hash) {
				r.problem(e.Seq, "it is another than the one that %s knows", name)
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	if kept.seq > r.Last {
		r.problem(0, "the log ends at entry %d, but had %d before: entries are missing at its end, or this is an older copy", r.Last, kept.seq)
	}
	return r, nil
}
