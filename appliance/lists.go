package appliance

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"holdfast/identity"
	"holdfast/identity/bulk"
	"holdfast/web"
)

// This file has lists of people: for the local socket and the command line.

// listFlags are those of "user import".
type listFlags struct {
	choices bulk.Choices
	apply   string
	links   string // file for the new accounts' links
}

// enrolFor is how long the links of new accounts are good.
const enrolFor = 7 * 24 * time.Hour

// listAnswer is a plan, or what was done.
type listAnswer struct {
	Plan *bulk.Plan `json:"plan,omitempty"`
	Done *bulk.Done `json:"done,omitempty"`

	Links []linkInfo `json:"links,omitempty"` // of the accounts that were made, where asked for

	Printed *web.Printed `json:"printed,omitempty"` // their cards, the same
}

// errManyNew: there are more new people than cards are printed at once.
var errManyNew = errors.New("too many new people to print cards for")

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
		if q.Get("apply") != "" {
			return a.applyList(r.Context(), b, q, "")
		}
		return a.planList(r.Context(), b, q)
	})
}

func listChoices(q url.Values) bulk.Choices {
	return bulk.Choices{List: q.Get("list"), Join: q.Has("join"), Gone: q.Has("gone"), Names: q.Has("names"), Anyway: q.Has("anyway")}
}

func (a *Appliance) planList(ctx context.Context, list []byte, q url.Values) (listAnswer, error) {
	p, err := a.core.Load().identity.Lists().Plan(ctx, list, listChoices(q))
	return listAnswer{Plan: &p}, err
}

// applyList does what was planned, and makes the links or cards that q asks for.
func (a *Appliance) applyList(ctx context.Context, list []byte, q url.Values, origin string) (listAnswer, error) {
	c, lists := listChoices(q), a.core.Load().identity.Lists()
	paper := web.Paper{PINs: q.Has("pins"), Language: q.Get("language")}
	paper.PerPage, _ = strconv.Atoi(q.Get("cards"))
	if q.Has("cards") {
		if err := checkPaper(paper); err != nil {
			return listAnswer{}, err
		}
		p, err := lists.Plan(ctx, list, c)
		if err != nil {
			return listAnswer{}, err
		}
		if len(p.Make) > identity.MaxCards {
			return listAnswer{}, errManyNew
		}
	}
	d, err := lists.Apply(ctx, list, c, q.Get("apply"))
	a.log.Info("a list of people was taken over", "list", c.List, "made", d.Made, "joined", d.Joined, "locked", d.Locked, "unlocked", d.Unlocked, "complete", err == nil)
	out := listAnswer{Done: &d}
	if err == nil && q.Has("links") {
		out.Links, err = a.enrolLinks(ctx, d.Names)
	}
	if err == nil && q.Has("cards") && len(d.Names) > 0 {
		p, failed := a.printCards(ctx, web.NewBatch{Name: c.List, Kind: identity.CardEnrol, Users: d.Names, ExpiresIn: int64(enrolFor / time.Second), Paper: paper, Origin: origin})
		if out.Printed, err = &p, failed; err != nil {
			err = fmt.Errorf("the accounts were made, but not their cards (make them with holdfast user recover NAME --cards FILE): %w", err)
		}
	}
	return out, err
}

// listError is an error as the console shows it.
func listError(err error) error {
	if m := listMessage(err); m != "" {
		return &web.Error{Status: http.StatusConflict, Code: "changed", Message: strings.ToUpper(m[:1]) + strings.ReplaceAll(strings.ReplaceAll(m[1:], " without --apply", ""), "add --anyway", "say so") + "."}
	}
	if errors.Is(err, bulk.ErrList) || errors.Is(err, bulk.ErrListName) {
		return &web.Error{Code: "bad_list", Message: "The list cannot be used: " + err.Error() + "."}
	}
	return cardError(err)
}

func (a console) PlanList(ctx context.Context, list []byte, q url.Values) (any, error) {
	out, err := a.planList(asCaller(ctx), list, q)
	return out, listError(err)
}

func (a console) ApplyList(ctx context.Context, list []byte, q url.Values, origin string) (any, error) {
	out, err := a.applyList(asCaller(ctx), list, q, origin)
	return out, listError(err)
}

// enrolLinks makes links for the first passwords of new accounts.
func (a *Appliance) enrolLinks(ctx context.Context, names []string) ([]linkInfo, error) {
	out := make([]linkInfo, 0, len(names))
	for _, n := range names {
		l, err := a.core.Load().identity.EnrolLink(ctx, a.userID(n), enrolFor)
		if err != nil {
			return nil, fmt.Errorf("the accounts were made, but not their links (make them with holdfast user recover NAME): %s: %w", n, err)
		}
		out = append(out, linkInfo{l.User.UserID, l.User.Localpart, l.User.DisplayName, a.inviteURL(l.Token, ""), l.Expires})
	}
	return out, nil
}

// writeLinks writes links as a table with one line a person.
func writeLinks(f *os.File, links []linkInfo) error {
	w := csv.NewWriter(f)
	w.Write([]string{"username", "displayname", "link"})
	for _, l := range links {
		w.Write([]string{noFormula(l.Localpart), noFormula(l.DisplayName), l.URL})
	}
	w.Flush()
	return errors.Join(w.Error(), f.Sync(), f.Close())
}

// noFormula keeps a spreadsheet from calculating with what is a text.
func noFormula(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
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
	query := listQuery(c.list.choices, c.list.apply)
	var (
		files newFiles
		file  *os.File
	)
	// Before anything is done: links and cards are shown once. Whoever reads them has the accounts.
	if c.list.links != "" || c.card.cards != "" {
		switch {
		case c.list.apply == "":
			return &usageError{"--links and --cards go with --apply: they are made for the accounts that are"}
		case c.list.links != "" && c.card.cards != "":
			return &usageError{"take --links or --cards: the newer of two withdraws the older"}
		}
	}
	cardFile, pinFile, err := c.openCards(&files)
	if err != nil {
		return err
	}
	if cardFile != nil {
		query.Set("cards", strconv.Itoa(c.card.perPage))
		query.Set("language", c.card.language)
		if pinFile != nil {
			query.Set("pins", "yes")
		}
	}
	if c.list.links != "" {
		if file, err = files.open(c.list.links); err != nil {
			return err
		}
		query.Set("links", "yes")
	}
	var out listAnswer
	if err := cl.send(ctx, "POST", "/v1/users/import?"+query.Encode(), bytes.NewReader(b), &out); err != nil {
		files.drop()
		return err
	}
	if file != nil {
		if err := writeLinks(file, out.Links); err != nil {
			return fmt.Errorf("the accounts were made, but the links could not be written (make them with holdfast user recover NAME): %w", err)
		}
		out.Links = nil // they are in the file
	}
	if cardFile != nil && out.Printed == nil { // nobody is new
		files.drop()
	}
	switch {
	case out.Printed != nil:
		if !c.json {
			c.printDone(out.Done)
		}
		return c.savePrinted(*out.Printed, cardFile, pinFile)
	case c.json:
		return c.printJSON(out)
	case out.Done != nil:
		d := out.Done
		c.printDone(d)
		switch {
		case file != nil:
			fmt.Fprintf(c.out, "Links for the new accounts' passwords are in %s, good for seven days. Whoever has one has the account.\n", c.list.links)
		case d.Made > 0:
			fmt.Fprintln(c.out, "The new accounts have no password yet.")
		}
		return nil
	}
	c.printPlan(out.Plan)
	return nil
}

func (c *cli) printDone(d *bulk.Done) {
	fmt.Fprintf(c.out, "Done: %d accounts made, %d joined, %d renamed, %d with other groups, %d locked, %d unlocked.\n",
		d.Made, d.Joined, d.Renamed, d.Grouped, d.Locked, d.Unlocked)
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
