// Package store keeps everything Holdfast must not lose in one SQLite file.
//
// Invariants:
//   - What Write answered without an error is on disk: WAL with synchronous=FULL.
//   - There is one writer. Writes that wait run in one transaction, each under its
//     own savepoint, share one commit, and are answered after it (group commit).
//   - Positions come from one sequence for all streams. They become visible in
//     order: when Pos reports a position, its rows are readable and the listeners
//     of OnCommit have run. They and those of OnVisible, which wake who waits, run
//     under the writer, in commit order, before Write returns.
//   - The package knows no Matrix and no OAuth.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Errors that callers may test for. Anything else from the store is unexpected.
var (
	// ErrNotFound is what Row.Scan returns when the query gave no row.
	ErrNotFound = errors.New("store: not found")
	// ErrClosed means that the store is closing or closed.
	ErrClosed = errors.New("store: closed")
	// ErrUnavailable wraps a failure of the disk or the file (full, read-only,
	// busy, I/O error): the write did not happen and may be tried again.
	ErrUnavailable = errors.New("store: the database cannot be used")
	// ErrDamaged means that the file is no database, or one that is damaged.
	ErrDamaged = errors.New("store: the database file is damaged")
	// ErrLocked means that another process has the data folder open.
	ErrLocked = errors.New("store: the data folder is in use by another process")
	// ErrNewer means that the file was written by a later release.
	ErrNewer = errors.New("store: the database was written by a newer version")
)

// Querier is what reads run on: a read snapshot or the write transaction.
type Querier interface {
	// Query runs a statement. Use $1, $2 ... for arguments. The caller closes the rows.
	Query(query string, args ...any) (*sql.Rows, error)
	// QueryRow runs a statement of which one row is wanted.
	QueryRow(query string, args ...any) *Row
}

// Row is the result of QueryRow.
type Row struct {
	rows *sql.Rows
	err  error
	tx   *Tx // of a write, or nil
}

// Scan copies the row's columns. Errors: ErrNotFound when there is no row.
func (r *Row) Scan(dest ...any) error {
	err := unavailable(r.scan(dest))
	if r.tx != nil {
		r.tx.note(err)
	}
	return err
}

func (r *Row) scan(dest []any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return ErrNotFound
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	return r.rows.Close()
}

// Touch names something that a committed write changed. Kind and Key belong to
// the caller; Pos is the position the change has in the sequence.
type Touch struct {
	Kind string
	Key  string
	Pos  int64
}

// Options of Open.
type Options struct {
	// Readers is how many read connections are held. 0: twice the processors, at least 4.
	Readers int
	// Log receives what an operator should know. nil: discarded.
	Log *slog.Logger
	// TakeBack returns to the copy that a migration kept, where the file was written
	// by a newer version. It is for machines on which a new version acknowledges
	// nothing before Healthy: elsewhere it would lose writes.
	TakeBack bool
	// BeforeTakeBack is told which file is about to be thrown away and which takes its
	// place. nil: nobody is. An error of it is logged: the way back is more important.
	BeforeTakeBack func(ctx context.Context, newer, older string) error
}

// DB is an open store. Its methods are safe for concurrent use.
type DB struct {
	path    string
	log     *slog.Logger
	lock    *os.File
	sql     *sql.DB
	readers chan *conn
	nread   int

	queue   chan *write
	empty   chan chan error // who wants the log emptied
	closing chan struct{}
	done    chan struct{}
	once    sync.Once
	clients sync.WaitGroup
	closeMu sync.RWMutex
	closed  bool

	pos      atomic.Int64 // last committed position
	next     int64        // last allocated position; owned by the writer
	reserved int64        // positions up to here are safe to hand out; owned by the writer

	mu        sync.Mutex
	listeners []func(pos int64, touched []Touch) // before Pos reports it
	wakers    []func(pos int64, touched []Touch) // after

	stats   struct{ writes, commits atomic.Int64 }
	failing atomic.Pointer[error] // the disk's last failure; nil since it works again
}

// conn is one SQLite connection with its prepared statements.
type conn struct {
	c     *sql.Conn
	stmts map[string]*sql.Stmt
}

// maxStmts bounds the prepared statements of a connection. SQL is constant text
// nearly everywhere; lists of varying length are why there is a bound.
const maxStmts = 1024

// close gives the connection back, without statements: SQLite would keep the file
// open for them, and with it the log that the last connection removes.
func (c *conn) close() error {
	for _, s := range c.stmts {
		s.Close()
	}
	clear(c.stmts)
	return c.c.Close()
}

func (c *conn) stmt(query string) (*sql.Stmt, error) {
	if s, ok := c.stmts[query]; ok {
		return s, nil
	}
	if len(c.stmts) >= maxStmts {
		for _, s := range c.stmts {
			s.Close()
		}
		clear(c.stmts)
	}
	s, err := c.c.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, fmt.Errorf("prepare %.80q: %w", query, unavailable(err))
	}
	c.stmts[query] = s
	return s, nil
}

// Statements run without a context on purpose: the driver starts a goroutine for
// each cancellable statement, which costs more than most of them do.

func (c *conn) Query(query string, args ...any) (*sql.Rows, error) {
	s, err := c.stmt(query)
	if err != nil {
		return nil, err
	}
	rows, err := s.Query(args...)
	return rows, unavailable(err)
}

func (c *conn) QueryRow(query string, args ...any) *Row {
	rows, err := c.Query(query, args...)
	return &Row{rows: rows, err: err}
}

func (c *conn) exec(query string, args ...any) (sql.Result, error) {
	s, err := c.stmt(query)
	if err != nil {
		return nil, err
	}
	res, err := s.Exec(args...)
	return res, unavailable(err)
}

// Tx is one write inside the writer's transaction. It is valid until the function
// that received it returns, and only on that function's goroutine.
type Tx struct {
	db       *DB
	ctx      context.Context
	c        *conn
	pos      int64
	begun    *bool
	saved    bool
	failed   error // of the disk; nothing runs after it
	touched  []Touch
	commit   []func()
	rollback []func()
}

// Context is the one that Write was called with: for what it says of who asks. That it
// was cancelled says nothing any more.
func (tx *Tx) Context() context.Context { return tx.ctx }

// begin opens the transaction, and this write's savepoint, when the write first
// needs them: a write that touches memory only costs no disk access.
func (tx *Tx) begin() error {
	if tx.failed != nil {
		return tx.failed
	}
	if tx.saved {
		return nil
	}
	if !*tx.begun {
		if _, err := tx.c.exec("BEGIN IMMEDIATE"); err != nil {
			return tx.note(err)
		}
		*tx.begun = true
	}
	if _, err := tx.c.exec("SAVEPOINT w"); err != nil {
		return tx.note(err)
	}
	tx.saved = true
	return nil
}

// note remembers a failure of the disk. SQLite may have ended the transaction by
// itself then: a further statement would be committed on its own.
func (tx *Tx) note(err error) error {
	if ofDisk(err) {
		tx.failed = err
	}
	return err
}

// Query implements Querier; it sees this write's own changes and those of the
// writes before it.
func (tx *Tx) Query(query string, args ...any) (*sql.Rows, error) {
	if err := tx.begin(); err != nil {
		return nil, err
	}
	rows, err := tx.c.Query(query, args...)
	return rows, tx.note(err)
}

// QueryRow implements Querier.
func (tx *Tx) QueryRow(query string, args ...any) *Row {
	if err := tx.begin(); err != nil {
		return &Row{err: err}
	}
	r := tx.c.QueryRow(query, args...)
	r.tx = tx
	return r
}

// Exec runs a statement that changes rows and returns how many it changed.
func (tx *Tx) Exec(query string, args ...any) (int64, error) {
	if err := tx.begin(); err != nil {
		return 0, err
	}
	res, err := tx.c.exec(query, args...)
	if err != nil {
		return 0, tx.note(err)
	}
	return res.RowsAffected()
}

// NextPos takes the next position of the sequence. Positions of a write that
// fails are never seen: gaps are allowed, disorder is not.
func (tx *Tx) NextPos() int64 {
	tx.db.next++
	tx.pos = tx.db.next
	return tx.pos
}

// Touch notes that something changed at the write's latest position (a new one
// if it has none yet). Listeners get it after the commit.
func (tx *Tx) Touch(kind, key string) {
	if tx.pos == 0 {
		tx.NextPos()
	}
	tx.touched = append(tx.touched, Touch{kind, key, tx.pos})
}

// AfterCommit runs f once the write is on disk, under the writer, before the
// listeners and before Write returns. f must be quick and must not write.
func (tx *Tx) AfterCommit(f func()) { tx.commit = append(tx.commit, f) }

// OnRollback runs f if the write does not reach the disk, whether its function
// failed or the shared commit did. It undoes what the function changed in memory.
func (tx *Tx) OnRollback(f func()) { tx.rollback = append(tx.rollback, f) }

func (tx *Tx) undo() {
	for i := len(tx.rollback) - 1; i >= 0; i-- {
		tx.rollback[i]()
	}
}

type write struct {
	ctx  context.Context
	fn   func(*Tx) error
	tx   *Tx
	err  error
	done chan error
}

// Open opens the store at path (a file, created with its folder if missing),
// migrates it, and starts the writer. Errors: ErrLocked, ErrNewer, ErrDamaged,
// ErrUnavailable.
func Open(ctx context.Context, path string, o Options) (*DB, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Readers <= 0 {
		o.Readers = max(4, 2*runtime.GOMAXPROCS(0))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := private(path); err != nil {
		return nil, err
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, err
	}
	db := &DB{
		path: path, log: o.Log, lock: lock, nread: o.Readers,
		readers: make(chan *conn, o.Readers),
		queue:   make(chan *write, 1024),
		empty:   make(chan chan error),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
	}
	err = finishTakeBack(path)
	if err == nil {
		err = db.open(ctx)
	}
	if o.TakeBack && errors.Is(err, ErrNewer) {
		db.sql.Close()
		if err = db.takeBack(ctx, err, o.BeforeTakeBack); err == nil {
			err = db.open(ctx)
		}
	}
	if err != nil {
		if db.sql != nil {
			db.sql.Close()
		}
		lock.Close()
		return nil, err
	}
	return db, nil
}

func dsn(path string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?_txlock=immediate"
}

func (db *DB) open(ctx context.Context) error {
	stablePlans()
	pool, err := sql.Open("sqlite", dsn(db.path))
	if err != nil {
		return err
	}
	db.sql = pool
	pool.SetMaxOpenConns(db.nread + 1)
	pool.SetMaxIdleConns(db.nread + 1)
	w, err := db.connect(ctx, writerPragmas)
	if err != nil {
		return unavailable(err)
	}
	if err := db.migrate(ctx, w); err != nil {
		return err
	}
	if db.next, err = loadReserved(w); err != nil {
		return err
	}
	db.reserved = db.next
	db.pos.Store(db.next)
	for range db.nread {
		r, err := db.connect(ctx, readerPragmas)
		if err != nil {
			return unavailable(err)
		}
		db.readers <- r
	}
	go func() {
		defer close(db.done)
		db.run(w)
		w.close()
	}()
	return nil
}

func (db *DB) connect(ctx context.Context, pragmas []string) (*conn, error) {
	c, err := db.sql.Conn(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range pragmas {
		if _, err := c.ExecContext(ctx, "PRAGMA "+p); err != nil {
			return nil, fmt.Errorf("PRAGMA %s: %w", p, err)
		}
	}
	return &conn{c, map[string]*sql.Stmt{}}, nil
}

// Pos is the last committed position. A snapshot opened after Pos was read holds
// every row up to it.
func (db *DB) Pos() int64 { return db.pos.Load() }

// Path is the database file.
func (db *DB) Path() string { return db.path }

// OnCommit adds a listener. It is called under the writer after each commit that
// touched something, in commit order, before Pos reports the commit: what is kept
// in memory about the store is brought up to date here. It must be quick.
func (db *DB) OnCommit(f func(pos int64, touched []Touch)) {
	db.mu.Lock()
	db.listeners = append(db.listeners[:len(db.listeners):len(db.listeners)], f)
	db.mu.Unlock()
}

// OnVisible adds a listener like OnCommit's that is called once Pos reports the
// commit: to wake those who will look.
func (db *DB) OnVisible(f func(pos int64, touched []Touch)) {
	db.mu.Lock()
	db.wakers = append(db.wakers[:len(db.wakers):len(db.wakers)], f)
	db.mu.Unlock()
}

// reader is a read snapshot. It begins with its first statement, so that a read
// which memory answered costs nothing.
type reader struct {
	c     *conn
	begun bool
}

func (r *reader) begin() error {
	if r.begun {
		return nil
	}
	if _, err := r.c.exec("BEGIN"); err != nil {
		return unavailable(err)
	}
	r.begun = true
	return nil
}

func (r *reader) Query(query string, args ...any) (*sql.Rows, error) {
	if err := r.begin(); err != nil {
		return nil, err
	}
	return r.c.Query(query, args...)
}

func (r *reader) QueryRow(query string, args ...any) *Row {
	if err := r.begin(); err != nil {
		return &Row{err: err}
	}
	return r.c.QueryRow(query, args...)
}

// Read runs fn on a consistent snapshot, which is taken at fn's first statement.
// fn must not write and must not keep q.
func (db *DB) Read(ctx context.Context, fn func(q Querier) error) error {
	var c *conn
	select {
	case c = <-db.readers:
	default:
		select {
		case c = <-db.readers:
		case <-ctx.Done():
			return ctx.Err()
		case <-db.done:
			return ErrClosed
		}
	}
	r := &reader{c: c}
	defer func() {
		if r.begun {
			c.exec("ROLLBACK")
		}
		db.readers <- c
	}()
	return fn(r)
}

// Write queues fn and waits until it is on disk. fn runs once, on the writer's
// goroutine; if it returns an error its changes are undone and Write returns that
// error. fn must not block, and must not call Write or Read.
//
// A cancelled ctx only prevents a write that has not been queued: afterwards the
// answer is awaited, so that the caller knows what happened.
func (db *DB) Write(ctx context.Context, fn func(tx *Tx) error) error {
	p, err := db.Queue(ctx, fn)
	if err != nil {
		return err
	}
	return p.Wait()
}

// Pending is a write that was queued.
type Pending struct {
	db *DB
	w  *write
}

// Queue is Write without the wait: writes that one goroutine queues run in the
// order it queued them. Wait must be called on what it returns.
func (db *DB) Queue(ctx context.Context, fn func(tx *Tx) error) (*Pending, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	db.closeMu.RLock()
	if db.closed {
		db.closeMu.RUnlock()
		return nil, ErrClosed
	}
	db.clients.Add(1)
	db.closeMu.RUnlock()
	w := &write{ctx: ctx, fn: fn, done: make(chan error, 1)}
	select {
	case db.queue <- w:
		return &Pending{db, w}, nil
	case <-ctx.Done():
		db.clients.Done()
		return nil, ctx.Err()
	}
}

// Wait returns once the write is on disk or was undone. Call it once.
func (p *Pending) Wait() error {
	defer p.db.clients.Done()
	return <-p.w.done
}

// Limits of one group commit: a batch ends when nobody waits, when it is this
// large, or when it has run this long, so that the first in it is not kept.
const (
	maxBatch     = 256
	maxBatchTime = 20 * time.Millisecond
)

func (db *DB) run(c *conn) {
	for {
		select {
		case w := <-db.queue:
			db.batch(c, w)
		case done := <-db.empty:
			done <- emptyLog(c)
		case <-db.closing:
			for { // no new clients come in; serve those that are queued
				select {
				case w := <-db.queue:
					db.batch(c, w)
				default:
					c.exec("PRAGMA wal_checkpoint(TRUNCATE)")
					return
				}
			}
		}
	}
}

func (db *DB) batch(c *conn, first *write) {
	// Those whose last write was just answered are about to queue the next one:
	// let them, so that this commit serves them all.
	runtime.Gosched()
	var (
		begun  bool
		batch  []*write
		start  = time.Now()
		lost   error // why the transaction of the batch is no more
		failed error // why nothing of the batch is on disk
	)
	for w := first; w != nil; {
		w.tx = &Tx{db: db, ctx: w.ctx, c: c, begun: &begun}
		w.err = unavailable(call(w))
		if w.err == nil {
			w.err = w.tx.failed
		}
		if w.tx.saved {
			if w.err != nil {
				_, lost = c.exec("ROLLBACK TO w")
			}
			if _, err := c.exec("RELEASE w"); lost == nil {
				lost = err
			}
			if lost != nil {
				// When the disk fails, SQLite may roll back the whole transaction at once.
				// What stood in it before is gone too; what came after would be committed
				// by itself.
				if !ofDisk(w.err) {
					w.err = fmt.Errorf("%w: the transaction was lost: %w", ErrUnavailable, errors.Join(w.err, lost))
				}
				failed = w.err
			}
		}
		if w.err != nil {
			w.tx.undo()
			w.tx.touched, w.tx.commit = nil, nil
		}
		batch = append(batch, w)
		w = nil
		if failed == nil && len(batch) < maxBatch && time.Since(start) < maxBatchTime {
			select {
			case w = <-db.queue:
			default:
			}
		}
	}
	if failed == nil && db.next > db.reserved {
		failed = db.reserve(c, &begun)
	}
	if begun {
		if failed == nil {
			if _, failed = c.exec("COMMIT"); failed == nil {
				db.stats.commits.Add(1)
			}
		}
		if failed != nil {
			c.exec("ROLLBACK") // of what SQLite has not rolled back by itself
			db.log.Error("a group commit failed; its writes were refused", "writes", len(batch), "err", failed)
		}
	}
	db.noteHealth(begun, failed, batch)
	if failed != nil {
		db.reserved = 0 // read back what the file has before the next position is handed out
		if r, err := loadReserved(c); err == nil {
			db.reserved = r
		}
		for i := len(batch) - 1; i >= 0; i-- {
			if w := batch[i]; w.err == nil {
				w.err = failed
				w.tx.undo()
			}
		}
	} else {
		db.publish(batch)
	}
	for _, w := range batch {
		w.done <- w.err
	}
}

// emptyLog brings the write-ahead log into the file and cuts it to nothing.
func emptyLog(c *conn) error {
	var busy, frames, done int
	if err := c.QueryRow("PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &done); err != nil {
		return err
	}
	if busy != 0 {
		return fmt.Errorf("%w: the log could not be emptied, for somebody reads", ErrUnavailable)
	}
	return nil
}

// EmptyLog brings what was written into the database file, and leaves nothing in the log
// beside it: for after something was overwritten that must not stay.
func (db *DB) EmptyLog(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case db.empty <- done:
		return <-done
	case <-ctx.Done():
		return ctx.Err()
	case <-db.done:
		return ErrClosed
	}
}

// noteHealth keeps what WriteError reports: the disk's last failure, until a
// commit succeeds.
func (db *DB) noteHealth(begun bool, failed error, batch []*write) {
	if failed == nil {
		for _, w := range batch {
			if ofDisk(w.err) {
				failed = w.err
			}
		}
	}
	switch {
	case ofDisk(failed):
		db.failing.Store(&failed)
	case begun && failed == nil:
		db.failing.Store(nil)
	}
}

// WriteError is why the last write that reached for the disk could not be done,
// or nil when it was.
func (db *DB) WriteError() error {
	if p := db.failing.Load(); p != nil {
		return *p
	}
	return nil
}

// Probe tells whether the disk takes writes. It is for those who ask often: it
// tries only where the last write failed.
func (db *DB) Probe(ctx context.Context) error {
	if db.WriteError() == nil {
		return nil
	}
	return db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec("INSERT INTO store_sequence (name, value) VALUES ('probe', 1) ON CONFLICT (name) DO UPDATE SET value = 1")
		return err
	})
}

func (db *DB) publish(batch []*write) {
	var touched []Touch
	for _, w := range batch {
		if w.err == nil {
			db.stats.writes.Add(1)
			for _, f := range w.tx.commit {
				f()
			}
			touched = append(touched, w.tx.touched...)
		}
	}
	if len(touched) == 0 {
		db.pos.Store(db.next)
		return
	}
	db.mu.Lock()
	listeners, wakers := db.listeners, db.wakers
	db.mu.Unlock()
	for _, f := range listeners {
		f(db.next, touched)
	}
	db.pos.Store(db.next)
	for _, f := range wakers {
		f(db.next, touched)
	}
}

// call runs a write's function. A panic in one must not take down the others of
// the batch, nor leave the writer's transaction open.
func call(w *write) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("store: panic in a write: %v\n%s", p, debug.Stack())
		}
	}()
	return w.fn(w.tx)
}

// Stats are counters since Open.
type Stats struct {
	Writes  int64 // writes that reached the disk
	Commits int64 // commits they shared: each is one fsync of the log
}

// Stats returns the counters.
func (db *DB) Stats() Stats {
	return Stats{db.stats.writes.Load(), db.stats.commits.Load()}
}

// Snapshot writes a consistent, compact copy of the database to path, which must
// not exist. Writers and readers go on meanwhile.
func (db *DB) Snapshot(ctx context.Context, path string) error {
	c, err := sql.Open("sqlite", dsn(db.path))
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.ExecContext(ctx, "VACUUM INTO $1", path); err != nil {
		return unavailable(err)
	}
	return syncFile(path)
}

// Check looks at the file at path without changing it, also while a process uses
// it: that it is a database, of a version that this one knows, whole. It reads the
// whole file. Errors: ErrNewer, ErrDamaged, ErrUnavailable.
func Check(ctx context.Context, path string) error {
	c, err := sql.Open("sqlite", dsn(path)+"&mode=ro")
	if err != nil {
		return err
	}
	defer c.Close()
	have, know, err := versions(func(n *int) error { return c.QueryRowContext(ctx, "PRAGMA user_version").Scan(n) })
	if err != nil {
		return err
	}
	if have > know {
		return newer(path, have, know)
	}
	var first string
	if err := c.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&first); err != nil {
		return unavailable(err)
	}
	if first != "ok" {
		return fmt.Errorf("%w: %s", ErrDamaged, first)
	}
	return nil
}

// Close waits for the writes that are queued and the reads under way, then closes
// the file.
func (db *DB) Close() error {
	var err error
	db.once.Do(func() {
		db.closeMu.Lock()
		db.closed = true
		db.closeMu.Unlock()
		db.clients.Wait()
		close(db.closing)
		<-db.done
		for range db.nread { // reads under way end first
			err = errors.Join(err, (<-db.readers).close())
		}
		err = errors.Join(err, db.sql.Close())
		if e := db.lock.Close(); err == nil {
			err = e
		}
	})
	return err
}
