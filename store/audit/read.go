package audit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"holdfast/store"
)

// Filter chooses entries. Zero values choose all.
type Filter struct {
	Actor, Target string
	Event         string    // the event, or with a dot at its end all that begin so
	Since, Until  time.Time // Until is not included
	Before        int64     // entries before this one
	Limit         int       // 0: 100
}

// MaxPage is the most entries that Find gives at once.
const MaxPage = 500

// Find lists entries, the newest first.
func (l *Log) Find(ctx context.Context, f Filter) (out []Entry, err error) {
	query, args := `SELECT `+columns+` FROM audit_log WHERE 1`, []any{}
	add := func(cond string, v any) {
		args = append(args, v)
		query += " AND " + strings.ReplaceAll(cond, "?", "$"+strconv.Itoa(len(args)))
	}
	if f.Actor != "" {
		add("actor = ?", f.Actor)
	}
	if f.Target != "" {
		add("target = ?", f.Target)
	}
	switch {
	case strings.HasSuffix(f.Event, "."):
		add("substr(event, 1, "+strconv.Itoa(len([]rune(f.Event)))+") = ?", f.Event)
	case f.Event != "":
		add("event = ?", f.Event)
	}
	if !f.Since.IsZero() {
		add("at >= ?", f.Since.UnixMilli())
	}
	if !f.Until.IsZero() {
		add("at < ?", f.Until.UnixMilli())
	}
	if f.Before > 0 {
		add("seq < ?", f.Before)
	}
	if f.Limit <= 0 {
		f.Limit = 100
	}
	query += " ORDER BY seq DESC LIMIT " + strconv.Itoa(min(f.Limit, MaxPage))
	out = []Entry{}
	err = l.o.DB.Read(ctx, func(q store.Querier) error {
		rows, err := q.Query(query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			e, err := scan(rows)
			if err != nil {
				return err
			}
			out = append(out, e)
		}
		return rows.Err()
	})
	return out, err
}

// page is how many entries are read in one snapshot: a long one would keep the
// database's log from being emptied.
const page = 1000

// each runs f for the entries from one number to another, in order.
func (l *Log) each(ctx context.Context, from, to int64, f func(e *Entry) error) error {
	for from <= to {
		if err := ctx.Err(); err != nil {
			return err
		}
		var list []Entry
		err := l.o.DB.Read(ctx, func(q store.Querier) error {
			rows, err := q.Query(`SELECT `+columns+` FROM audit_log WHERE seq >= $1 AND seq <= $2 ORDER BY seq LIMIT $3`, from, to, page)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				e, err := scan(rows)
				if err != nil {
					return err
				}
				list = append(list, e)
			}
			return rows.Err()
		})
		if err != nil {
			return err
		}
		for i := range list {
			if err := f(&list[i]); err != nil {
				return err
			}
			from = list[i].Seq + 1
		}
		if len(list) < page {
			return nil
		}
	}
	return nil
}

// ends are the first and the last number of the log.
func (l *Log) ends(ctx context.Context) (first, last int64, err error) {
	err = l.o.DB.Read(ctx, func(q store.Querier) error {
		return q.QueryRow(`SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM audit_log`).Scan(&first, &last)
	})
	return first, last, err
}

// Export writes the entries of a time, as JSON Lines or as CSV. They are those from the
// first to the last of that time, without a gap, so that their chain can be verified.
func (l *Log) Export(ctx context.Context, w io.Writer, since, until time.Time, asCSV bool) error {
	first, last, err := l.ends(ctx)
	if err != nil {
		return err
	}
	at := func(query string, t time.Time, to *int64) error {
		if t.IsZero() {
			return nil
		}
		return l.o.DB.Read(ctx, func(q store.Querier) error { return q.QueryRow(query, t.UnixMilli()).Scan(to) })
	}
	if err := at(`SELECT coalesce(min(seq), 0) FROM audit_log WHERE at >= $1`, since, &first); err != nil {
		return err
	}
	if err := at(`SELECT coalesce(max(seq), 0) FROM audit_log WHERE at < $1`, until, &last); err != nil {
		return err
	}
	buf := bufio.NewWriterSize(w, 1<<16)
	write := func(e *Entry) error {
		buf.Write(e.line(true))
		return buf.WriteByte('\n')
	}
	table := csv.NewWriter(buf)
	if asCSV {
		table.Write([]string{"seq", "time", "actor", "event", "target", "ip", "data", "hash"})
		write = func(e *Entry) error {
			return table.Write([]string{strconv.FormatInt(e.Seq, 10), e.Time().Format("2006-01-02T15:04:05.000Z"), cell(e.Actor), cell(e.Event), cell(e.Target), cell(e.IP), cell(e.Data), hex.EncodeToString(e.Hash)})
		}
	}
	if first > 0 {
		if err := l.each(ctx, first, last, write); err != nil {
			return err
		}
	}
	table.Flush()
	if err := table.Error(); err != nil {
		return err
	}
	return buf.Flush()
}

var userID = regexp.MustCompile(`^@[a-z0-9._=/+-]+:[A-Za-z0-9.:\[\]-]+$`)

// cell keeps a spreadsheet from taking what somebody typed for a formula.
func cell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) && !userID.MatchString(s) {
		return "'" + s
	}
	return s
}

// Problem is something that is not as it was written.
type Problem struct {
	Seq  int64  `json:"seq"` // of the entry; 0: of the log
	Text string `json:"text"`
}

// Report is what a verification found.
type Report struct {
	Entries  int64     `json:"entries"`
	First    int64     `json:"first"`
	Last     int64     `json:"last"`
	Hash     string    `json:"hash"`            // of the last entry
	Since    time.Time `json:"since,omitzero"`  // of the first entry
	Until    time.Time `json:"until,omitzero"`  // of the last
	Keyed    bool      `json:"keyed"`           // the MACs were looked at, too
	Problems []Problem `json:"problems"`        // the first ones
	Notes    []string  `json:"notes,omitempty"` // what the log itself tells of breaks
	More     int64     `json:"more,omitempty"`  // problems that are not listed
}

// OK reports whether nothing is wrong.
func (r *Report) OK() bool { return len(r.Problems) == 0 }

const maxProblems = 20

func (r *Report) problem(seq int64, format string, args ...any) {
	if len(r.Problems) >= maxProblems {
		r.More++
		return
	}
	r.Problems = append(r.Problems, Problem{seq, fmt.Sprintf(format, args...)})
}

// checker goes along a chain.
type checker struct {
	r    *Report
	key  []byte // nil: MACs are not looked at
	prev []byte
}

func (c *checker) next(e *Entry) {
	r := c.r
	switch {
	case r.Entries == 0:
		r.First, r.Since, c.prev = e.Seq, e.Time(), e.Prev
		if e.Seq == 1 {
			c.prev = make([]byte, sha256.Size)
		}
	case e.Seq != r.Last+1:
		r.problem(e.Seq, "the entries between %d and this one are missing", r.Last)
	}
	if !hmac.Equal(c.prev, e.Prev) {
		r.problem(e.Seq, "it does not follow on the entry before it")
	}
	if !hmac.Equal(e.Hash, e.sum()) {
		r.problem(e.Seq, "it was changed: its hash is of another content")
	} else if c.key != nil && !hmac.Equal(e.MAC, mac(c.key, e.Hash)) {
		r.problem(e.Seq, "it was not written by this appliance: its MAC is by another key")
	}
	if e.Event == "audit.broken" {
		var d struct {
			Trouble string `json:"trouble"`
		}
		json.Unmarshal([]byte(e.Data), &d)
		r.Notes = append(r.Notes, fmt.Sprintf("%s, entry %d: %s", e.Time().Format(time.DateTime), e.Seq, d.Trouble))
	}
	if e.Event == "audit.undone" {
		r.Notes = append(r.Notes, undoneNote(e))
	}
	r.Entries, r.Last, r.Until, r.Hash, c.prev = r.Entries+1, e.Seq, e.Time(), hex.EncodeToString(e.Hash), e.Hash
}

// Verify reads the whole log: the chain, the MACs, and that it has the end that the head
// file knows.
func (l *Log) Verify(ctx context.Context) (*Report, error) {
	r := &Report{Keyed: true, Problems: []Problem{}}
	l.mu.Lock()
	wrote, known := l.written.seq > 0, l.head
	l.mu.Unlock()
	kept, problem := readHead(l.o.Head, l.o.Key) // before the log is read: it only grows
	if problem != "" {
		r.problem(0, "%s", problem)
	}
	_, last, err := l.ends(ctx)
	if err != nil {
		return nil, err
	}
	c := &checker{r: r, key: l.o.Key}
	err = l.each(ctx, 1, last, func(e *Entry) error {
		if r.Entries == 0 && e.Seq != 1 {
			r.problem(e.Seq, "the entries before this one are missing")
		}
		c.next(e)
		if e.Seq == known.seq && !hmac.Equal(e.Hash, known.hash) {
			r.problem(e.Seq, "it is another than the one that was written")
		}
		if e.Seq == kept.seq && !hmac.Equal(e.Hash, kept.hash) {
			r.problem(e.Seq, "it is another than the one that %s knows", l.o.Head)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	switch had := max(kept.seq, known.seq); {
	case had > r.Last:
		r.problem(0, "the log ends at entry %d, but had %d before: entries are missing at its end", r.Last, had)
	case kept.seq == 0 && problem == "" && wrote:
		r.problem(0, "the file %s is missing", l.o.Head)
	}
	return r, nil
}

// HashOf is the hash of an entry, to compare an export with. Errors: ErrNoEntry.
func (l *Log) HashOf(ctx context.Context, seq int64) (hash string, err error) {
	err = l.o.DB.Read(ctx, func(q store.Querier) error {
		e, err := load(q, seq)
		hash = hex.EncodeToString(e.Hash)
		return err
	})
	return hash, err
}

// maxLine bounds a line of an export.
const maxLine = 64 << 10

// VerifyExport reads an export in JSON Lines. Without a key the MACs are not looked at.
// An error means that the file could not be read; what is wrong with it is in the report.
func VerifyExport(in io.Reader, key []byte) (*Report, error) {
	r := &Report{Keyed: key != nil, Problems: []Problem{}}
	c := &checker{r: r, key: key}
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	for n := 1; lines.Scan(); n++ {
		e, err := ParseLine(lines.Bytes())
		if err != nil {
			r.problem(0, "line %d: %v", n, err)
			continue
		}
		c.next(&e)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if r.Entries == 0 && r.OK() {
		r.problem(0, "the file has no entries")
	}
	return r, nil
}

// ParseLine reads a line of an export. Its data are taken as they are written.
func ParseLine(line []byte) (e Entry, err error) {
	var x struct {
		Actor  *string         `json:"actor"`
		At     *int64          `json:"at"`
		Data   json.RawMessage `json:"data"`
		Event  *string         `json:"event"`
		Hash   string          `json:"hash"`
		IP     *string         `json:"ip"`
		MAC    string          `json:"mac"`
		Prev   string          `json:"prev"`
		Seq    *int64          `json:"seq"`
		Target *string         `json:"target"`
	}
	if len(line) > maxLine || json.Unmarshal(line, &x) != nil || x.Actor == nil || x.At == nil || x.Event == nil || x.IP == nil || x.Seq == nil || x.Target == nil || *x.Seq < 1 {
		return e, errLine
	}
	e = Entry{Seq: *x.Seq, At: *x.At, Actor: *x.Actor, Event: *x.Event, Target: *x.Target, IP: *x.IP, Data: string(x.Data)}
	for _, f := range []struct {
		from string
		to   *[]byte
	}{{x.Hash, &e.Hash}, {x.MAC, &e.MAC}, {x.Prev, &e.Prev}} {
		if *f.to, err = hex.DecodeString(f.from); err != nil || len(*f.to) != sha256.Size {
			return e, errLine
		}
	}
	// One form only: else two files that differ would be the same log.
	if !bytes.Equal(bytes.TrimSpace(line), e.line(true)) {
		return e, fmt.Errorf("%w in its canonical form", errLine)
	}
	return e, nil
}
