package appliance

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"holdfast/identity"
	"holdfast/identity/cards"
	"holdfast/web"
)

// This file has printed cards: for the console, the local socket and the command line.

// cardFlags are those of the commands that print cards.
type cardFlags struct {
	count   int
	perPage int
	cards   string // file for the cards
	pins    string // file for their PINs; "": they need none

	language string
}

func paperFlags(f *flag.FlagSet, c *cli) {
	f.IntVar(&c.card.perPage, "per-page", 10, "how many cards on a page: 10 to cut apart, or 1 (`number`)")
	f.StringVar(&c.card.pins, "pins", "", "have each card need a PIN, and write the PINs into this new `file` (PDF), which is kept apart from the cards")
	f.StringVar(&c.card.language, "language", cards.Standard, "the `language` of what is printed: "+languageTags())
}

// languageTags are the languages that cards can be printed in, as a text.
func languageTags() string {
	var tags []string
	for _, l := range cards.Languages() {
		tags = append(tags, l.Tag)
	}
	return strings.Join(tags, ", ")
}

// cardTroubles are the mistakes that people can do something about.
var cardTroubles = []trouble{
	{identity.ErrNoCard, http.StatusNotFound, "not_found", "", "There is no such batch or card any more."},
	{identity.ErrBatchName, http.StatusBadRequest, "bad_name", "name", "Give the cards a name of 1 to 128 bytes, such as Ward 7."},
	{identity.ErrCards, http.StatusBadRequest, "bad_count", "count", "Print 1 to 1,000 cards at once."},
	{identity.ErrCardTime, http.StatusBadRequest, "bad_expiry", "expires_in", "Invites on cards last for at most a year, cards for accounts that there are for 30 days."},
	{identity.ErrReprint, http.StatusConflict, "none_left", "", "Nothing is left to print again: the cards were used or withdrawn."},
	{identity.ErrReprintPINs, http.StatusBadRequest, "pins", "pins", "Whether the cards of a batch need PINs stays as it was. Give a file for the PINs of those that need one, and none for the others."},
	{identity.ErrReprintTime, http.StatusBadRequest, "expired", "expires_in", "The batch has expired. Say how long the new cards last."},
	{cards.ErrLanguage, http.StatusBadRequest, "bad_language", "language", "Cards are not printed in this language. There are: " + languageTags() + "."},
	{cards.ErrPerPage, http.StatusBadRequest, "bad_per_page", "per_page", "Print one card to a page, or ten."},
	{identity.ErrCardSelf, http.StatusConflict, "yourself", "", "You cannot make a recovery card for yourself. Ask another administrator."},
	{identity.ErrHasPassword, http.StatusConflict, "has_password", "", "The account has a password. Make a recovery card instead."},
	{identity.ErrLocked, http.StatusConflict, "locked", "", "The account is locked. Unlock it first."},
	{identity.ErrElsewhere, http.StatusConflict, "elsewhere", "", "A directory has this person's password. It is reset there."},
	{errManyNew, http.StatusBadRequest, "bad_count", "", "There are more than 1,000 new people. Print cards for at most so many at once: split the list."},
}

// cardError is an error as the console shows it.
func cardError(err error) error {
	if shown, ok := told(err, cardTroubles); ok {
		shown.Message = whose(err) + shown.Message
		return shown
	}
	return groupError(err)
}

// cardMessage is an error as the command line prints it, or "".
func cardMessage(err error) string {
	for _, x := range cardTroubles {
		if errors.Is(err, x.err) && (x.err != identity.ErrLocked || whose(err) != "") {
			return strings.TrimSuffix(whose(err)+strings.ToLower(x.text[:1])+x.text[1:], ".")
		}
	}
	return ""
}

// whose names the person whose card could not be made.
func whose(err error) string {
	if e := new(identity.CardError); errors.As(err, &e) {
		return e.User + ": "
	}
	return ""
}

// checkPaper refuses what cannot be printed before cards are made. Errors:
// cards.ErrPerPage, cards.ErrLanguage.
func checkPaper(p web.Paper) error {
	if p.PerPage != 1 && p.PerPage != 10 {
		return cards.ErrPerPage
	}
	_, err := cards.CheckLanguage(p.Language)
	return err
}

// printCards makes a batch of cards, as documents that nobody can have again.
func (a *Appliance) printCards(ctx context.Context, n web.NewBatch) (web.Printed, error) {
	if err := checkPaper(n.Paper); err != nil {
		return web.Printed{}, err
	}
	roles, err := parseRoles(n.Roles)
	if err != nil {
		return web.Printed{}, err
	}
	in := identity.NewBatch{Name: n.Name, Kind: n.Kind, Count: n.Count, Users: n.Users, Roles: roles, Groups: n.Groups, ExpiresIn: time.Duration(n.ExpiresIn) * time.Second, PINs: n.PINs}
	b, err := a.core.Load().identity.CreateBatch(ctx, in)
	if err != nil {
		return web.Printed{}, err
	}
	a.log.Info("cards were made", "batch", b.ID, "kind", b.Kind, "cards", len(b.Cards))
	return a.draw(ctx, b, n.Paper, n.Origin)
}

// reprint makes new cards in the place of some that were not used.
func (a *Appliance) reprint(ctx context.Context, n web.Reprint) (web.Printed, error) {
	if err := checkPaper(n.Paper); err != nil {
		return web.Printed{}, err
	}
	b, err := a.core.Load().identity.Reprint(ctx, identity.Reprint{ID: n.ID, ExpiresIn: time.Duration(n.ExpiresIn) * time.Second, PINs: n.PINs})
	if err != nil {
		return web.Printed{}, err
	}
	a.log.Info("cards were made anew", "batch", b.ID, "kind", b.Kind, "cards", len(b.Cards))
	return a.draw(ctx, b, n.Paper, n.Origin)
}

// draw makes the documents of new cards.
func (a *Appliance) draw(ctx context.Context, b identity.Batch, p web.Paper, origin string) (web.Printed, error) {
	s := cards.Sheet{Organisation: a.organisation(), Server: a.ServerName(), Address: strings.TrimSuffix(a.inviteURL("", origin), "/e/"), Batch: b.Name, Kind: b.Kind,
		PINs: b.PINs, Expires: b.Expires, PerPage: p.PerPage, Language: p.Language}
	if own := a.ownCA(); own != nil && a.hasTLS() {
		s.Fingerprint = own.Fingerprint()
	}
	var list []cards.Card
	for _, c := range b.Cards {
		list = append(list, cards.Card{Number: c.Number, UserID: c.UserID, Name: c.DisplayName, Code: c.Code, Typed: identity.ShowCode(c.Code), PIN: c.PIN})
	}
	out := web.Printed{Batch: toBatch(b)}
	var doc bytes.Buffer
	err := s.Cards(&doc, list)
	out.Cards = bytes.Clone(doc.Bytes())
	if err == nil && b.PINs {
		doc.Reset()
		err = s.PINList(&doc, list)
		out.PINs = doc.Bytes()
	}
	if err != nil { // nobody has them, so nobody shall use them
		for _, c := range b.Cards {
			_, gone := a.core.Load().identity.RevokeCards(ctx, c.ID)
			err = errors.Join(err, gone)
		}
		return web.Printed{}, err
	}
	return out, nil
}

func toBatch(b identity.Batch) web.Batch {
	out := web.Batch{ID: b.ID, Name: b.Name, Kind: b.Kind, PINs: b.PINs, Roles: b.Roles.Names(), Groups: b.Groups, By: b.CreatedBy, Created: b.Created, Expires: b.Expires,
		Open: b.Open, Used: b.Used, Expired: b.Expired, Withdrawn: b.Withdrawn}
	for _, c := range b.Cards {
		out.Cards = append(out.Cards, web.Card{ID: c.ID, Number: c.Number, State: c.State, UserID: c.UserID, DisplayName: c.DisplayName})
	}
	return out
}

func (a *Appliance) batches(ctx context.Context) ([]web.Batch, error) {
	list, err := a.core.Load().identity.Batches(ctx)
	out := []web.Batch{}
	for _, b := range list {
		out = append(out, toBatch(b))
	}
	return out, err
}

func (a console) PrintCards(ctx context.Context, n web.NewBatch) (web.Printed, error) {
	p, err := a.printCards(asCaller(ctx), n)
	return p, cardError(err)
}

func (a console) Reprint(ctx context.Context, n web.Reprint) (web.Printed, error) {
	p, err := a.reprint(asCaller(ctx), n)
	return p, cardError(err)
}

func (a console) Languages() (out []web.Language) {
	for _, l := range cards.Languages() {
		out = append(out, web.Language{Tag: l.Tag, Name: l.Name})
	}
	return out
}

func (a console) Batches(ctx context.Context) ([]web.Batch, error) { return a.batches(ctx) }

func (a console) Batch(ctx context.Context, id string) (web.Batch, error) {
	b, err := a.id().Batch(ctx, id)
	return toBatch(b), cardError(err)
}

func (a console) Link(ctx context.Context, n web.NewLink) (web.Invite, error) {
	ctx = asCaller(ctx)
	if n.UserID == web.Caller(ctx) {
		return web.Invite{}, cardError(identity.ErrCardSelf)
	}
	make := a.id().RecoveryLink
	if n.Kind == identity.CardEnrol {
		make = a.id().EnrolLink
	}
	l, err := make(ctx, n.UserID, time.Duration(n.ExpiresIn)*time.Second)
	if errors.Is(err, identity.ErrLinkTime) {
		err = identity.ErrCardTime
	}
	if err != nil {
		return web.Invite{}, cardError(err)
	}
	a.log.Info("a link was made in the console", "user", l.User.UserID, "kind", l.Kind, "link", l.ID)
	return web.Invite{ID: l.ID, URL: a.inviteURL(l.Token, n.Origin), Localpart: l.User.Localpart, Uses: 1, By: l.CreatedBy, Expires: l.Expires}, nil
}

func (a console) RevokeCards(ctx context.Context, id string) (int, error) {
	n, err := a.id().RevokeCards(asCaller(ctx), id)
	return n, cardError(err)
}

// cardControl are the operations of the local socket about cards.
func (a *Appliance) cardControl(handle func(pattern string, f func(r *http.Request) (any, error))) {
	handle("POST /v1/cards", func(r *http.Request) (any, error) {
		var in web.NewBatch
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		return a.printCards(r.Context(), in)
	})
	handle("GET /v1/cards", func(r *http.Request) (any, error) { return a.batches(r.Context()) })
	handle("GET /v1/cards/{id}", func(r *http.Request) (any, error) {
		b, err := a.core.Load().identity.Batch(r.Context(), r.PathValue("id"))
		return toBatch(b), err
	})
	handle("POST /v1/cards/{id}/reprint", func(r *http.Request) (any, error) {
		in := web.Reprint{ID: r.PathValue("id")}
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		return a.reprint(r.Context(), in)
	})
	handle("POST /v1/cards/{id}/revoke", func(r *http.Request) (any, error) {
		n, err := a.core.Load().identity.RevokeCards(r.Context(), r.PathValue("id"))
		return map[string]int{"cards": n}, err
	})
}

// newFiles are files that are made before what is to be written exists, since it is known
// once: a file that is in the way is found while nothing has happened yet.
type newFiles []*os.File

// open makes a file that only its owner can read.
func (n *newFiles) open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		n.drop()
		return nil, fmt.Errorf("the file cannot be made, so nothing was done: %w", err)
	}
	*n = append(*n, f)
	return f, nil
}

// drop removes them.
func (n *newFiles) drop() {
	for _, f := range *n {
		f.Close()
		os.Remove(f.Name())
	}
	*n = nil
}

func writeNew(f *os.File, b []byte) error {
	_, err := f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// openCards makes the files of --cards and --pins.
func (c *cli) openCards(n *newFiles) (cardFile, pinFile *os.File, err error) {
	if c.card.cards == "" {
		if c.card.pins != "" {
			return nil, nil, &usageError{"--pins goes with --cards: the PINs are of the cards"}
		}
		return nil, nil, nil
	}
	if c.card.perPage != 1 && c.card.perPage != 10 {
		return nil, nil, &usageError{"--per-page is 1 or 10"}
	}
	if cardFile, err = n.open(c.card.cards); err == nil && c.card.pins != "" {
		pinFile, err = n.open(c.card.pins)
	}
	return cardFile, pinFile, err
}

// savePrinted writes what was printed and says so.
func (c *cli) savePrinted(p web.Printed, cardFile, pinFile *os.File) error {
	err := writeNew(cardFile, p.Cards)
	if err == nil && pinFile != nil {
		err = writeNew(pinFile, p.PINs)
	}
	if err != nil {
		return fmt.Errorf("the cards were made, but could not be written (withdraw them with holdfast invite revoke %s): %w", p.Batch.ID, err)
	}
	if c.json {
		return c.printJSON(p.Batch)
	}
	fmt.Fprintf(c.out, "%d cards are in %s, good until %s. Whoever has one can use it, once.\n", len(p.Batch.Cards), c.card.cards, p.Batch.Expires.Local().Format("2006-01-02 15:04"))
	if pinFile != nil {
		fmt.Fprintf(c.out, "Their PINs are in %s: hand them out apart.\n", c.card.pins)
	}
	fmt.Fprintf(c.out, "Only hashes of them are kept. If some are lost, this ends those that were not used and prints others:\n  holdfast invite reprint %s --cards FILE\nTo withdraw them: holdfast invite revoke %[1]s\n", p.Batch.ID)
	return nil
}

func (c *cli) lasts() (int64, error) {
	d, err := parseDuration(c.expires)
	if err != nil || d < time.Second {
		return 0, &usageError{fmt.Sprintf("--expires %q is not a duration; write for example 30m, 12h or 7d", c.expires)}
	}
	return int64(d / time.Second), nil
}

// paper is what the options say about how cards are printed.
func (c *cli) paper() web.Paper {
	return web.Paper{PINs: c.card.pins != "", PerPage: c.card.perPage, Language: c.card.language}
}

// printNew has the appliance print new cards.
func (c *cli) printNew(ctx context.Context, n web.NewBatch) (err error) {
	if n.ExpiresIn, err = c.lasts(); err != nil {
		return err
	}
	n.Paper = c.paper()
	return c.printInto(ctx, "/v1/cards", n)
}

// printInto has the appliance print cards into the files of --cards and --pins.
func (c *cli) printInto(ctx context.Context, path string, in any) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var files newFiles
	cardFile, pinFile, err := c.openCards(&files)
	if err != nil {
		return err
	}
	var out web.Printed
	if err := cl.call(ctx, "POST", path, in, &out); err != nil {
		files.drop()
		return err
	}
	return c.savePrinted(out, cardFile, pinFile)
}

func runInviteBatch(ctx context.Context, c *cli, args []string) error {
	switch {
	case c.card.cards == "":
		return &usageError{"name the file for the cards, as --cards cards.pdf"}
	case c.card.count < 1:
		return &usageError{"--count must be at least 1"}
	}
	return c.printNew(ctx, web.NewBatch{Name: args[0], Kind: identity.CardInvite, Count: c.card.count, Roles: c.inviteRoles(), Groups: c.groups})
}

func runInviteReprint(ctx context.Context, c *cli, args []string) (err error) {
	n := web.Reprint{Paper: c.paper()}
	if c.card.cards == "" {
		return &usageError{"name the file for the cards, as --cards cards.pdf"}
	}
	if c.expires != "" {
		if n.ExpiresIn, err = c.lasts(); err != nil {
			return err
		}
	}
	return c.printInto(ctx, "/v1/cards/"+url.PathEscape(args[0])+"/reprint", n)
}

func runInviteList(ctx context.Context, c *cli, args []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if len(args) == 1 {
		var b web.Batch
		if err := cl.call(ctx, "GET", "/v1/cards/"+url.PathEscape(args[0]), nil, &b); err != nil {
			return err
		}
		if c.json {
			return c.printJSON(b)
		}
		w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "CARD\tID\tSTATE\tWHOSE")
		for _, x := range b.Cards {
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", x.Number, x.ID, x.State, x.UserID)
		}
		return w.Flush()
	}
	var list []web.Batch
	if err := cl.call(ctx, "GET", "/v1/cards", nil, &list); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(c.out, "No cards were printed yet. holdfast invite batch NAME --count 10 --cards FILE prints some.")
		return nil
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tNAME\tKIND\tOPEN\tUSED\tEXPIRED\tWITHDRAWN\tUNTIL")
	for _, b := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\n", b.ID, b.Name, b.Kind, b.Open, b.Used, b.Expired, b.Withdrawn, b.Expires.Local().Format("2006-01-02 15:04"))
	}
	return w.Flush()
}

func runInviteRevoke(ctx context.Context, c *cli, args []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var out struct {
		Cards int `json:"cards"`
	}
	if err := cl.call(ctx, "POST", "/v1/cards/"+url.PathEscape(args[0])+"/revoke", nil, &out); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(out)
	}
	fmt.Fprintf(c.out, "Withdrawn: %d. Accounts that cards made stay.\n", out.Cards)
	return nil
}
