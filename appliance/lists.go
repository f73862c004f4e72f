package appliance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"holdfast/identity/bulk"
)

// This file has lists of people: for the local socket and the command line.

// listFlags are those of "user import".
type listFlags struct {
	choices bulk.Choices
	apply   string
}

// listAnswer is a plan, or what was done.
type listAnswer struct {
	Plan *bulk.Plan `json:"plan,omitempty"`
	Done *bulk.Done `json:"done,omitempty"`
}

func listQuery(c bulk.Choices, apply string) url.Values {
	v := url.Values{"list": {c.List}, "apply": {apply}}
	for _, x := range []struct {
		name string
		on   bool
	}{{"join", c.Join}, {"gone", c.Gone}, {"names", c.Names}, {"anyway", c.Anyway}} {
		if x.on {
			v.Set(x.name, "yes")
		}
	}
	return v
}

// listControl are the operations of the local socket about lists of people.
func (a *Appliance) listControl(handle func(pattern string, f func(r *http.Request) (any, error))) {
	handle("POST /v1/users/import", func(r *http.Request) (any, error) {
		b, err := io.ReadAll(io.LimitReader(r.Body, bulk.MaxBytes+1))
		if err != nil {
			return nil, err
		}
		q := r.URL.Query()
		c := bulk.Choices{List: q.Get("list"), Join: q.Has("join"), Gone: q.Has("gone"), Names: q.Has("names"), Anyway: q.Has("anyway")}
		lists := a.core.Load().identity.Lists()
		if number := q.Get("apply"); number != "" {
			d, err := lists.Apply(r.Context(), b, c, number)
			a.log.Info("a list of people was taken over", "list", c.List, "made", d.Made, "joined", d.Joined, "locked", d.Locked, "unlocked", d.Unlocked, "complete", err == nil)
			return listAnswer{Done: &d}, err
		}
		p, err := lists.Plan(r.Context(), b, c)
		return listAnswer{Plan: &p}, err
	})
}

// listMessage says what a failed command about lists means.
func listMessage(err error) string {
	switch {
	case errors.Is(err, bulk.ErrVoid):
		return "the list or the accounts changed since this number was printed, or the options are others; look at the changes again without --apply"
	case errors.Is(err, bulk.ErrAlarm):
		return "it would lock more than a fifth of the list's people, so nothing was changed; if that is right, add --anyway"
	}
	return ""
}

func runUserImport(ctx context.Context, c *cli, args []string) error {
	var in io.Reader = os.Stdin
	if args[0] != "-" {
		f, err := os.Open(args[0])
		if err != nil {
			return fmt.Errorf("the list cannot be read: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, bulk.MaxBytes+1))
	if err != nil {
		return fmt.Errorf("the list cannot be read: %w", err)
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	var out listAnswer
	if err := cl.send(ctx, "POST", "/v1/users/import?"+listQuery(c.list.choices, c.list.apply).Encode(), bytes.NewReader(b), &out); err != nil {
		return err
	}
	switch {
	case c.json:
		return c.printJSON(out)
	case out.Done != nil:
		d := out.Done
		fmt.Fprintf(c.out, "Done: %d accounts made, %d joined, %d renamed, %d with other groups, %d locked, %d unlocked.\n",
			d.Made, d.Joined, d.Renamed, d.Grouped, d.Locked, d.Unlocked)
		if d.Made > 0 {
			fmt.Fprintln(c.out, "The new accounts have no password yet.")
		}
		return nil
	}
	c.printPlan(out.Plan)
	return nil
}

// shownChanges are as many of each kind as are printed; --json has all.
const shownChanges = 200

func (c *cli) printPlan(p *bulk.Plan) {
	fmt.Fprintf(c.out, "%d people in the list (%s), %d of them as they are.\n", p.People, p.Format, p.Unchanged)
	for _, n := range p.Notes {
		fmt.Fprintf(c.out, "Note: %s\n", n)
	}
	if len(p.Problems) > 0 {
		fmt.Fprintf(c.out, "\nLines that are left out: %d\n", len(p.Problems))
		for _, x := range p.Problems {
			fmt.Fprintf(c.out, "  line %d: %s\n", x.Line, x.Text)
		}
	}
	for _, x := range []struct {
		what    string
		changes []bulk.Change
		detail  func(bulk.Change) string
	}{
		{"New accounts", p.Make, func(x bulk.Change) string { return calledAs(x.Full) + grouped(x.Groups) }},
		{"Accounts that the list takes over", p.Join, func(x bulk.Change) string { return grouped(x.Groups) + why(x) }},
		{"Other displayed names", p.Rename, func(x bulk.Change) string { return fmt.Sprintf("  %q, was %q", x.Full, x.Was) }},
		{"Other groups", p.Group, func(x bulk.Change) string { return grouped(x.Groups) }},
		{"Unlocked", p.Unlock, why},
		{"Locked, and signed out", p.Lock, why},
		{"Left alone", p.Left, why},
	} {
		if len(x.changes) == 0 {
			continue
		}
		fmt.Fprintf(c.out, "\n%s: %d\n", x.what, len(x.changes))
		for _, ch := range x.changes[:min(len(x.changes), shownChanges)] {
			fmt.Fprintf(c.out, "  %s%s\n", ch.Name, x.detail(ch))
		}
		if n := len(x.changes) - shownChanges; n > 0 {
			fmt.Fprintf(c.out, "  and %d more; --json lists all\n", n)
		}
	}
	fmt.Fprintln(c.out)
	switch {
	case p.Empty():
		fmt.Fprintln(c.out, "There is nothing to change.")
	case p.Alarm:
		fmt.Fprintf(c.out, "Nothing was changed. ALARM: it locks more than a fifth of the list's people. If that is right,\nthe same command with --anyway --apply %s does it.\n", p.Number)
	default:
		fmt.Fprintf(c.out, "Nothing was changed. The same command with --apply %s does it.\n", p.Number)
	}
}

func calledAs(full string) string {
	if full == "" {
		return ""
	}
	return fmt.Sprintf("  %q", full)
}

func grouped(groups []string) string {
	if len(groups) == 0 {
		return "  no groups"
	}
	return "  groups: " + strings.Join(groups, ", ")
}

func why(x bulk.Change) string {
	if x.Why == "" {
		return ""
	}
	return "  (" + x.Why + ")"
}
