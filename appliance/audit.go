package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"holdfast/appliance/config"
	"holdfast/store/audit"
)

// This file has the audit log: opened here, written by those who change things, read by
// the console and the command line.

func (a *Appliance) openAudit(ctx context.Context) error {
	key, err := a.master.Derive(auditPurpose)
	if err != nil {
		return err
	}
	a.audit, err = audit.Open(ctx, audit.Options{DB: a.db, Key: key, Log: a.logs.component("audit"),
		Alarm: func(string) { a.alarmAudit(a.stopping) }})
	if err != nil {
		return fmt.Errorf("the audit log cannot be opened: %w", err)
	}
	a.onClose(a.audit.Close)
	return a.audit.Append(ctx, audit.Event{Name: "appliance.start", Data: audit.Data{"version": Version}})
}

// keepUndone lays aside the entries of a version that was not kept, before its database is
// thrown away.
func (a *Appliance) keepUndone(ctx context.Context, newer, older string) error {
	key, err := a.master.Derive(auditPurpose)
	if err != nil {
		return err
	}
	return audit.KeepUndone(ctx, key, newer, older)
}

// fromAddress has the audit log know where a request came from.
func fromAddress(r *http.Request) *http.Request {
	ip, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		ip = r.RemoteAddr
	}
	return r.WithContext(audit.From(r.Context(), ip))
}

// auditProblems says what is wrong with the audit log.
func (a *Appliance) auditProblems() []string {
	if t := a.audit.Trouble(); t != "" {
		return []string{"the audit log does not end as it was left: " + t + "; holdfast audit verify shows more"}
	}
	return nil
}

// clockProblems says that the machine's clock went back.
func (a *Appliance) clockProblems() []string {
	if d := a.core.Load().identity.ClockBehind(); d > 0 {
		return []string{fmt.Sprintf("the clock is %s behind a time that has passed already, so tokens and invites expire by that time; set the clock, or if it was ahead before by mistake: holdfast clock accept", d.Round(time.Second))}
	}
	return nil
}

func runClockAccept(ctx context.Context, c *cli, _ []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if err := cl.call(ctx, "POST", "/v1/clock/accept", nil, &struct{}{}); err != nil {
		return err
	}
	fmt.Fprintln(c.out, "The machine's clock is taken for right. What expired while it was ahead may be good again.")
	return nil
}

// alarmAudit tells the administrators of that.
func (a *Appliance) alarmAudit(ctx context.Context) {
	if t := a.audit.Trouble(); t != "" {
		a.alarm(ctx, "The audit log does not end as it was left: "+t+". If nobody put back a backup, find out who had the machine.")
	}
}

// auditEntry is an entry as it is shown.
type auditEntry struct {
	Seq    int64           `json:"seq"`
	At     time.Time       `json:"at"`
	Actor  string          `json:"actor"`
	Event  string          `json:"event"`
	Target string          `json:"target,omitempty"`
	IP     string          `json:"ip,omitempty"`
	Data   json.RawMessage `json:"data"`
}

func toAuditEntries(list []audit.Entry) []auditEntry {
	out := make([]auditEntry, 0, len(list))
	for _, e := range list {
		out = append(out, auditEntry{e.Seq, e.Time(), e.Actor, e.Event, e.Target, e.IP, json.RawMessage(e.Data)})
	}
	return out
}

// auditFilter reads which entries are wanted.
func auditFilter(q url.Values) (f audit.Filter, err error) {
	f = audit.Filter{Actor: q.Get("actor"), Target: q.Get("target"), Event: q.Get("event")}
	for _, x := range []struct {
		name string
		to   *time.Time
	}{{"since", &f.Since}, {"until", &f.Until}} {
		if v := q.Get(x.name); v != "" {
			if *x.to, err = time.Parse(time.RFC3339, v); err != nil {
				return f, fmt.Errorf("%s is no time as 2026-11-29T08:00:00Z", x.name)
			}
		}
	}
	for _, x := range []struct {
		name string
		to   *int64
	}{{"before", &f.Before}} {
		if v := q.Get(x.name); v != "" {
			if *x.to, err = strconv.ParseInt(v, 10, 64); err != nil {
				return f, fmt.Errorf("%s is no number", x.name)
			}
		}
	}
	if v := q.Get("limit"); v != "" {
		if f.Limit, err = strconv.Atoi(v); err != nil || f.Limit < 1 || f.Limit > audit.MaxPage {
			return f, fmt.Errorf("limit must be 1 to %d", audit.MaxPage)
		}
	}
	return f, nil
}

// exportAudit writes an export, which is noted itself.
func (a *Appliance) exportAudit(ctx context.Context, w io.Writer, f audit.Filter, asCSV bool) error {
	d := audit.Data{"csv": asCSV}
	for k, t := range map[string]time.Time{"since": f.Since, "until": f.Until} {
		if !t.IsZero() {
			d[k] = t.UTC().Format(time.RFC3339)
		}
	}
	if err := a.audit.Append(ctx, audit.Event{Name: "audit.export", Data: d}); err != nil {
		return err
	}
	return a.audit.Export(ctx, w, f.Since, f.Until, asCSV)
}

// auditControl are the operations of the local socket about the audit log.
func (a *Appliance) auditControl(mux *http.ServeMux, handle func(pattern string, f func(r *http.Request) (any, error))) {
	handle("GET /v1/audit", func(r *http.Request) (any, error) {
		f, err := auditFilter(r.URL.Query())
		if err != nil {
			return nil, err
		}
		list, err := a.audit.Find(r.Context(), f)
		return toAuditEntries(list), err
	})
	handle("GET /v1/audit/verify", func(r *http.Request) (any, error) { return a.audit.Verify(r.Context()) })
	handle("GET /v1/audit/hash", func(r *http.Request) (any, error) {
		seq, err := strconv.ParseInt(r.URL.Query().Get("seq"), 10, 64)
		if err != nil {
			return nil, errors.New("seq is no number")
		}
		hash, err := a.audit.HashOf(r.Context(), seq)
		if errors.Is(err, audit.ErrNoEntry) {
			return "", nil
		}
		return hash, err
	})
	mux.HandleFunc("GET /v1/audit/export", func(w http.ResponseWriter, r *http.Request) {
		f, err := auditFilter(r.URL.Query())
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			json.NewEncoder(w).Encode(controlError{err.Error()})
			return
		}
		if err := a.exportAudit(audit.As(r.Context(), audit.CommandLine), w, f, r.URL.Query().Get("csv") == "true"); err != nil {
			a.log.Error("the audit log could not be exported", "err", err)
			panic(http.ErrAbortHandler) // whoever reads it must not take it for whole
		}
	})
}

type auditFlags struct {
	file, head, out      string
	since, until         string
	actor, target, event string
	limit                int
	csv                  bool
}

func auditTimes(f *flag.FlagSet, c *cli) {
	f.StringVar(&c.audit.since, "since", "", "from this `time` on")
	f.StringVar(&c.audit.until, "until", "", "until before this `time`")
}

// auditTime reads a time of the command line.
func auditTime(name, s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t.UTC().Format(time.RFC3339), nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, s, time.Local); err == nil {
		return t.UTC().Format(time.RFC3339), nil
	}
	if d, err := parseDuration(s); err == nil && d >= 0 {
		return time.Now().Add(-d).UTC().Format(time.RFC3339), nil
	}
	return "", &usageError{fmt.Sprintf("--%s %q is no time; write a day as 2026-11-29, a time as 2026-11-29T08:00:00Z, or a duration as 30d", name, s)}
}

func (c *cli) auditQuery() (url.Values, error) {
	q := url.Values{}
	for name, s := range map[string]string{"since": c.audit.since, "until": c.audit.until} {
		t, err := auditTime(name, s)
		if err != nil {
			return nil, err
		}
		if t != "" {
			q.Set(name, t)
		}
	}
	return q, nil
}

func runAuditVerify(ctx context.Context, c *cli, _ []string) error {
	var (
		r   *audit.Report
		err error
	)
	if c.audit.file != "" {
		r, err = c.verifyFile(ctx)
	} else {
		r, err = c.verifyRunning(ctx)
	}
	if err != nil {
		return err
	}
	if c.json {
		if err := c.printJSON(r); err != nil {
			return err
		}
	} else {
		c.printAudit(r)
	}
	if !r.OK() {
		return errors.New("the audit log is not as it was written; keep it, and a copy of the data folder, as they are")
	}
	return nil
}

func (c *cli) printAudit(r *audit.Report) {
	if r.Entries > 0 {
		fmt.Fprintf(c.out, "%d entries, %d to %d, from %s to %s.\n", r.Entries, r.First, r.Last, r.Since.Local().Format(time.DateTime), r.Until.Local().Format(time.DateTime))
		fmt.Fprintf(c.out, "The last is %d:%s\n", r.Last, r.Hash)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(c.out, "The log itself tells, %s\n", n)
	}
	for _, p := range r.Problems {
		if p.Seq > 0 {
			fmt.Fprintf(c.out, "WRONG  entry %d: %s\n", p.Seq, p.Text)
		} else {
			fmt.Fprintf(c.out, "WRONG  %s\n", p.Text)
		}
	}
	if r.More > 0 {
		fmt.Fprintf(c.out, "WRONG  and %d more\n", r.More)
	}
	switch {
	case !r.OK():
	case r.Keyed:
		fmt.Fprintln(c.out, "It is whole, and as the appliance wrote it.")
	default:
		fmt.Fprintln(c.out, "Its chain is whole. Whether this appliance wrote it was not looked at: that takes identity.key in the data folder.")
	}
}

// verifyRunning has the running appliance read its log.
func (c *cli) verifyRunning(ctx context.Context) (*audit.Report, error) {
	cl, err := c.client()
	if err != nil {
		return nil, err
	}
	cl.http.Timeout = 0 // a log of years takes a while
	r := &audit.Report{}
	if err := cl.call(ctx, "GET", "/v1/audit/verify", nil, r); err != nil {
		return nil, err
	}
	if c.audit.head == "" {
		return r, nil
	}
	text, want, _ := strings.Cut(c.audit.head, ":")
	seq, err := strconv.ParseInt(text, 10, 64)
	if err != nil || len(want) != 64 {
		return nil, &usageError{"--head takes what audit verify printed as the last entry: its number, a colon, and the hash"}
	}
	return r, c.compareHash(ctx, cl, r, seq, strings.ToLower(want))
}

// compareHash adds a problem where the log has another entry of a number.
func (c *cli) compareHash(ctx context.Context, cl *controlClient, r *audit.Report, seq int64, want string) error {
	var have string
	if err := cl.call(ctx, "GET", "/v1/audit/hash?seq="+strconv.FormatInt(seq, 10), nil, &have); err != nil {
		return err
	}
	switch have {
	case want:
	case "":
		r.Problems = append(r.Problems, audit.Problem{Seq: seq, Text: "the appliance's log has no such entry (any more)"})
	default:
		r.Problems = append(r.Problems, audit.Problem{Seq: seq, Text: "the appliance's log has another entry of this number"})
	}
	return nil
}

// verifyFile reads the log in a database file, or an export, and compares it with the appliance that runs on the data
// folder, if there is one.
func (c *cli) verifyFile(ctx context.Context) (*audit.Report, error) {
	in, database := io.Reader(os.Stdin), false
	if c.audit.file != "-" {
		f, err := os.Open(c.audit.file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		var first [len(sqliteFile)]byte
		n, _ := f.ReadAt(first[:], 0)
		in, database = f, string(first[:n]) == sqliteFile
	}
	cfg, err := config.Load(c.in)
	if err != nil {
		return nil, err
	}
	if database {
		cfg.Data = filepath.Dir(c.audit.file) // the key that it was written with lies beside it
	}
	var key []byte
	if k, err := c.masterOffline(cfg); err != nil {
		return nil, err
	} else if k != nil {
		if key, err = k.Derive(auditPurpose); err != nil {
			return nil, err
		}
	}
	if database {
		return audit.VerifyDatabase(ctx, c.audit.file, key)
	}
	r, err := audit.VerifyExport(in, key)
	if err != nil || !r.OK() {
		return r, err
	}
	cl := newControlClient(cfg.Data)
	if err := c.compareHash(ctx, cl, r, r.Last, r.Hash); errors.Is(err, errNotRunning) {
		return r, nil
	} else if err != nil {
		return nil, err
	}
	return r, nil
}

func runAuditExport(ctx context.Context, c *cli, _ []string) error {
	q, err := c.auditQuery()
	if err != nil {
		return err
	}
	q.Set("csv", strconv.FormatBool(c.audit.csv))
	cl, err := c.client()
	if err != nil {
		return err
	}
	if c.audit.out == "-" {
		return cl.stream(ctx, "/v1/audit/export?"+q.Encode(), c.out)
	}
	f, err := os.OpenFile(c.audit.out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = cl.stream(ctx, "/v1/audit/export?"+q.Encode(), f)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		os.Remove(c.audit.out)
		return err
	}
	fmt.Fprintf(c.out, "The audit log is in %s.\n", c.audit.out)
	return nil
}

func runAuditList(ctx context.Context, c *cli, _ []string) error {
	q, err := c.auditQuery()
	if err != nil {
		return err
	}
	for k, v := range map[string]string{"actor": c.audit.actor, "target": c.audit.target, "event": c.audit.event} {
		if v != "" {
			q.Set(k, v)
		}
	}
	q.Set("limit", strconv.Itoa(c.audit.limit))
	cl, err := c.client()
	if err != nil {
		return err
	}
	var list []auditEntry
	if err := cl.call(ctx, "GET", "/v1/audit?"+q.Encode(), nil, &list); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(list)
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NUMBER\tTIME\tWHO\tWHAT\tTO\tFROM\tMORE")
	for _, e := range list {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", e.Seq, e.At.Local().Format(time.DateTime), e.Actor, e.Event, e.Target, e.IP, e.Data)
	}
	return w.Flush()
}
