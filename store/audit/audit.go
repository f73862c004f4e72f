// Package audit keeps the log of what happened to people, credentials, sessions,
// roles, applications and settings, and of who looked at what is private.
//
// Invariants:
//   - An entry is written in the transaction of the change that it tells of: there is
//     none without the other.
//   - Entries are added at the end; triggers refuse all else. Each has the hash of the
//     one before, so that a change to one shows in all that follow, and a MAC by a key
//     outside the database, so that who has only the database cannot write it anew.
//   - The hash of the last entry is also in a file beside the database, so that entries
//     missing at the end are noticed. No entry is added before it was looked whether the
//     end is the one that the last entry made: else the next would hide what is missing.
//   - There are no secrets in it: no passwords, tokens, codes or keys, nor their hashes.
//   - What strangers can cause, as failed sign-ins, is noted at a bounded rate.
package audit

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"holdfast/store"
)

// Actors that are no user.
const (
	System      = "system"       // the appliance by itself
	CommandLine = "command-line" // whoever commands it at the machine
	Setup       = "setup"        // whoever has the claim code
	Nobody      = "nobody"       // somebody who is not signed in
)

// Limits of an entry, in bytes. What is longer is cut off.
const (
	maxName  = 256
	maxValue = 512
	maxData  = 4096
)

// Who does something, and from where.
type Who struct {
	Actor string // user ID or one of the words above; "": Nobody with an address, else System
	IP    string // "": it did not come over the network
}

type whoKey struct{}

// From says from which address what is done with the context was asked for.
func From(ctx context.Context, ip string) context.Context {
	w := WhoOf(ctx)
	w.IP = ip
	return context.WithValue(ctx, whoKey{}, w)
}

// As says who asked for what is done with the context.
func As(ctx context.Context, actor string) context.Context {
	w := WhoOf(ctx)
	w.Actor = actor
	return context.WithValue(ctx, whoKey{}, w)
}

// WhoOf is who asked for what is done with the context.
func WhoOf(ctx context.Context) Who {
	w, _ := ctx.Value(whoKey{}).(Who)
	return w
}

// Data tells more of an event. Values are strings, integers, booleans and lists of
// strings; others are an error.
type Data map[string]any

// Event is what happened. The context says who did it and from where, unless Actor does.
type Event struct {
	Name   string // what happened: "user.lock"
	Target string // to whom or what: a user ID, the name of a group
	Actor  string // "": the context's
	Data   Data
}

// Entry is an event in the log.
type Entry struct {
	Seq    int64
	At     int64 // ms since 1970
	Actor  string
	Event  string
	Target string
	IP     string
	Data   string // canonical JSON, an object
	Prev   []byte
	Hash   []byte
	MAC    []byte
}

// Time is when it happened.
func (e *Entry) Time() time.Time { return time.UnixMilli(e.At).UTC() }

// Options of Open.
type Options struct {
	DB   *store.DB
	Key  []byte // of the MACs: 32 bytes that are not in the database
	Head string // the file with the last hash; "": audit.head beside the database
	Log  *slog.Logger
	Now  func() time.Time // nil: time.Now
	// Alarm is told of trouble that begins while the log is open. nil: it is only logged.
	Alarm func(trouble string)
}

// Log is the audit log. Its methods are safe for concurrent use. A nil Log notes
// nothing.
type Log struct {
	o     Options
	bound bound

	mu      sync.Mutex
	head    head          // last that is committed
	written head          // last that the file has
	wake    chan struct{} // the head changed
	trouble string        // what is wrong with the log
	told    string        // trouble that is not to be told (again)
	noted   int64         // number of the head that the running write says is missing
	done    chan struct{}
	closing chan struct{}
	once    sync.Once
}

// Errors.
var (
	// ErrData means that an event has a value that no entry can have. It is a mistake of
	// the caller.
	ErrData = errors.New("audit: the event has a value that is none of those an entry may have")
	// ErrNoEntry means that the log has no entry of that number.
	ErrNoEntry = errors.New("audit: there is no such entry")
)

// Open begins to write the log, and looks whether its end is the one that the head file
// knows: if it is not, that is noted in the log itself, and Trouble tells it.
func Open(ctx context.Context, o Options) (*Log, error) {
	if len(o.Key) != 32 {
		return nil, errors.New("audit: the key needs 32 bytes")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Head == "" {
		o.Head = filepath.Join(filepath.Dir(o.DB.Path()), "audit.head")
	}
	l := &Log{o: o, wake: make(chan struct{}, 1), done: make(chan struct{}), closing: make(chan struct{})}
	if err := l.begin(ctx); err != nil {
		return nil, err
	}
	l.told = l.trouble
	go l.keepHead()
	return l, nil
}

// begin compares the log's end with the head file, and notes what is not as it was left.
func (l *Log) begin(ctx context.Context) error {
	kept, problem := readHead(l.o.Head, l.o.Key)
	aside, err := readUndone(filepath.Join(filepath.Dir(l.o.Head), undoneFile), l.o.Key)
	if err != nil {
		l.o.Log.Warn("the entries that a version wrote which was not kept cannot be used", "file", undoneFile, "err", err)
	}
	said := false // what was undone
	err = l.o.DB.Write(ctx, func(tx *store.Tx) error {
		last, err := lastEntry(tx)
		if err != nil {
			return err
		}
		switch {
		case problem == "" && follows(aside, last, kept) && (last.Seq == 0 || last.sound(l.o.Key)):
			said = true
			return l.noteUndone(ctx, tx, aside)
		case problem == "" && l.undoneSaid(tx, aside):
			if said = true; has(aside, kept) { // the power went before the head file was written
				kept = head{last.Seq, last.Hash}
			}
		}
		if problem == "" {
			problem, err = l.compare(tx, kept, last)
			if err != nil {
				return err
			}
		}
		if last.Seq > 0 && problem == "" && !last.sound(l.o.Key) {
			problem = fmt.Sprintf("entry %d, the last, is not as the appliance wrote it", last.Seq)
		}
		if problem == "" {
			h := head{last.Seq, last.Hash}
			tx.AfterCommit(func() { l.setHead(h) })
			return nil
		}
		l.trouble = problem
		l.o.Log.Error("the audit log does not end as it was left", "trouble", problem)
		_, err = l.add(ctx, tx, last, broken(problem, kept))
		return err
	})
	if err != nil || !said {
		return err
	}
	// First the head file, then the other: so long it excuses what is missing.
	if l.flush(); l.written.seq > 0 {
		os.Remove(filepath.Join(filepath.Dir(l.o.Head), undoneFile))
	}
	return nil
}

// compare says what is wrong with the log's end, or "".
func (l *Log) compare(q store.Querier, kept head, last Entry) (string, error) {
	switch {
	case kept.seq == 0 && last.Seq == 0:
		return "", nil
	case kept.seq == 0:
		return fmt.Sprintf("the file %s is missing, by which entries that are removed at the end would be noticed", filepath.Base(l.o.Head)), nil
	case kept.seq > last.Seq:
		return fmt.Sprintf("the log ends at entry %d, but had %d before: an older copy of the database was put back, or entries were removed", last.Seq, kept.seq), nil
	}
	e, err := load(q, kept.seq)
	if err != nil {
		return "", err
	}
	if !hmac.Equal(e.Hash, kept.hash) {
		return fmt.Sprintf("entry %d is another than it was: another copy of the database was put in place, or the log was written anew", kept.seq), nil
	}
	return "", nil
}

// Trouble is what is wrong with the log since this start, or "".
func (l *Log) Trouble() string {
	if l == nil {
		return ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trouble
}

// Tx adds an entry in the write that makes the change. If the write fails, there is none.
func (l *Log) Tx(ctx context.Context, tx *store.Tx, ev Event) error {
	if l == nil {
		return nil
	}
	last, err := lastEntry(tx)
	if err != nil {
		return err
	}
	if last, err = l.goOn(tx, last); err != nil {
		return err
	}
	_, err = l.add(ctx, tx, last, ev)
	return err
}

// goOn looks whether the log ends as this process left it, before an entry is added: what
// was removed at the end while it runs would otherwise never be noticed, since the file
// beside the database goes along with what is added. It says so in an entry, and returns the
// last one.
func (l *Log) goOn(tx *store.Tx, last Entry) (Entry, error) {
	l.mu.Lock()
	h, noted := l.head, l.noted
	l.mu.Unlock()
	if h.seq == 0 || h.seq == noted || last.Seq > h.seq || last.Seq == h.seq && hmac.Equal(last.Hash, h.hash) {
		return last, nil
	}
	problem, err := l.compare(tx, h, last)
	if err != nil || problem == "" {
		return last, err
	}
	note := func(seq int64) { l.mu.Lock(); l.noted = seq; l.mu.Unlock() }
	note(h.seq)
	tx.OnRollback(func() { note(noted) })
	tx.AfterCommit(func() {
		l.o.Log.Error("the audit log does not end as it was left", "trouble", problem)
		l.mu.Lock()
		l.trouble, l.noted = problem, 0
		l.mu.Unlock()
	})
	return l.add(context.Background(), tx, last, broken(problem, h))
}

// broken is the entry that the log does not end as it was left.
func broken(problem string, kept head) Event {
	return Event{Name: "audit.broken", Actor: System, Data: Data{"trouble": problem, "kept_seq": kept.seq, "kept_hash": hex.EncodeToString(kept.hash)}}
}

// add adds an entry after the last.
func (l *Log) add(ctx context.Context, tx *store.Tx, last Entry, ev Event) (Entry, error) {
	data, err := encodeData(ev.Data)
	if err != nil {
		return last, fmt.Errorf("%w: %s", err, ev.Name)
	}
	w := WhoOf(ctx)
	if ev.Actor != "" {
		w.Actor = ev.Actor
	}
	switch {
	case w.Actor == "" && w.IP != "":
		w.Actor = Nobody
	case w.Actor == "":
		w.Actor = System
	}
	e := Entry{Seq: last.Seq + 1, At: l.o.Now().UnixMilli(), Actor: cut(w.Actor, maxName), Event: cut(ev.Name, maxName),
		Target: cut(ev.Target, maxName), IP: cut(w.IP, maxName), Data: data, Prev: last.Hash}
	if e.Seq == 1 {
		e.Prev = make([]byte, sha256.Size)
	}
	e.Hash = e.sum()
	e.MAC = mac(l.o.Key, e.Hash)
	if _, err := tx.Exec(insertEntry, e.Seq, e.At, e.Actor, e.Event, e.Target, e.IP, e.Data, e.Prev, e.Hash, e.MAC); err != nil {
		return last, err
	}
	tx.AfterCommit(func() { l.setHead(head{e.Seq, e.Hash}) })
	return e, nil
}

// Append adds an entry by itself: for what changes nothing in the database, as reading.
func (l *Log) Append(ctx context.Context, ev Event) error {
	if l == nil {
		return nil
	}
	return l.o.DB.Write(ctx, func(tx *store.Tx) error { return l.Tx(ctx, tx, ev) })
}

// Bounded is Tx for what strangers can cause as often as they like. Of a key, as a name
// and an address, the first is noted, and then the second, fourth, eighth...; of all keys
// together as many as a budget allows. How many were not noted stands in the next that is.
func (l *Log) Bounded(ctx context.Context, tx *store.Tx, key string, ev Event) error {
	if l == nil {
		return nil
	}
	note, times, skipped := l.bound.take(key, l.o.Now())
	if !note {
		return nil
	}
	more := Data{}
	for k, v := range ev.Data {
		more[k] = v
	}
	if times > 1 {
		more["times"] = times
	}
	if skipped > 0 {
		more["not_noted"] = skipped
	}
	ev.Data = more
	return l.Tx(ctx, tx, ev)
}

func mac(key, hash []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte("holdfast audit entry\x00"))
	m.Write(hash)
	return m.Sum(nil)
}

// sound reports whether an entry, by itself, is as it was written.
func (e *Entry) sound(key []byte) bool {
	return hmac.Equal(e.Hash, e.sum()) && hmac.Equal(e.MAC, mac(key, e.Hash))
}

const columns = `seq, at, actor, event, target, ip, data, prev, hash, mac`

const (
	insertEntry = `INSERT INTO audit_log (` + columns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`
	selectLast  = `SELECT ` + columns + ` FROM audit_log ORDER BY seq DESC LIMIT 1`
	selectEntry = `SELECT ` + columns + ` FROM audit_log WHERE seq = $1`
)

type scanner interface{ Scan(dest ...any) error }

func scan(r scanner) (e Entry, err error) {
	err = r.Scan(&e.Seq, &e.At, &e.Actor, &e.Event, &e.Target, &e.IP, &e.Data, &e.Prev, &e.Hash, &e.MAC)
	return e, err
}

// lastEntry is the zero Entry for an empty log.
func lastEntry(q store.Querier) (Entry, error) {
	e, err := scan(q.QueryRow(selectLast))
	if errors.Is(err, store.ErrNotFound) {
		return Entry{}, nil
	}
	return e, err
}

func load(q store.Querier, seq int64) (Entry, error) {
	e, err := scan(q.QueryRow(selectEntry, seq))
	if errors.Is(err, store.ErrNotFound) {
		err = ErrNoEntry
	}
	return e, err
}
