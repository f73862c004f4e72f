// Package bulk takes people over from lists: exports of a personnel office, of Active
// Directory or of Entra, or a spreadsheet. A list is compared with the accounts first;
// what would change is shown, and then done as it was shown or not at all.
//
// Invariants:
//   - Nothing changes without the number of a plan, which names every change and what
//     the list and the accounts were: if either is another by then, the plan is void.
//   - An account belongs to a list by what identifies the person there, never by an
//     e-mail address. One that was made otherwise is joined only where that was asked for.
//   - Who is gone from a list is left alone unless that was asked for; then, and where
//     the list says so, the account is locked and its sessions end. Nobody is deleted,
//     owners are never locked, and many at once only where that was asked for, too.
//   - A plan that was interrupted is finished by reading the list again.
package bulk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"holdfast/identity/account"
	"holdfast/store"
	"holdfast/store/audit"
)

// Errors that callers may test for.
var (
	ErrListName = errors.New("the name of a list has 1 to 30 of a-z, 0-9 and -")
	// ErrVoid: the plan is not what would be done now.
	ErrVoid = errors.New("the list or the accounts changed since the plan was shown")
	// ErrAlarm: the plan would lock too many people.
	ErrAlarm = errors.New("too many people would be locked")
)

var listName = regexp.MustCompile(`^[a-z0-9-]{1,30}$`)

// Source is the source of the groups that a list's people are in.
func Source(list string) string { return "list " + list }

// Choices are how a list is taken over.
type Choices struct {
	List   string // its name; people who came by one of the same name are compared with it
	Join   bool   // accounts of the same user name that were made otherwise are the list's from then on
	Gone   bool   // who is not in the list any more is locked
	Names  bool   // displayed names follow the list
	Anyway bool   // also where many are locked
}

// Change is what becomes of somebody.
type Change struct {
	Name   string   `json:"name"` // user name
	Full   string   `json:"full,omitempty"`
	Was    string   `json:"was,omitempty"` // displayed name before
	Groups []string `json:"groups,omitempty"`
	Why    string   `json:"why,omitempty"`

	person Person
	user   account.User
}

// Plan is what taking a list over would change.
type Plan struct {
	Number    string    `json:"number"` // by which it is done
	Format    string    `json:"format"`
	People    int       `json:"people"` // in the list
	Unchanged int       `json:"unchanged"`
	Make      []Change  `json:"make,omitempty"`
	Join      []Change  `json:"join,omitempty"`
	Rename    []Change  `json:"rename,omitempty"`
	Group     []Change  `json:"group,omitempty"` // whose groups change, to these
	Lock      []Change  `json:"lock,omitempty"`
	Unlock    []Change  `json:"unlock,omitempty"`
	Left      []Change  `json:"left,omitempty"`     // left alone, and why
	Problems  []Problem `json:"problems,omitempty"` // lines that are left out
	Notes     []string  `json:"notes,omitempty"`
	Alarm     bool      `json:"alarm,omitempty"` // it locks too many people
}

// Empty reports whether nothing would change.
func (p *Plan) Empty() bool {
	return len(p.Make)+len(p.Join)+len(p.Rename)+len(p.Group)+len(p.Lock)+len(p.Unlock) == 0
}

// Options of New.
type Options struct {
	DB       *store.DB
	Accounts *account.Accounts
	Audit    *audit.Log
	// Lock locks an account and ends its sessions and devices, or unlocks it.
	Lock func(ctx context.Context, userID string, locked bool) error
	// Name and Rename are of the profile that others see; nil: names stay.
	Name   func(ctx context.Context, userID string) (string, error)
	Rename func(ctx context.Context, userID, name string) error
	// Keeps names the directory that an account belongs to; "": none.
	Keeps func(q store.Querier, id string) (string, error)
	// Groups takes a person's groups by a list, in full.
	Groups func(ctx context.Context, id, source string, names []string) error
}

// Lists keeps who came by which list. Its methods are safe for concurrent use.
type Lists struct {
	o    Options
	work sync.Mutex // one list at a time
}

// New prepares the lists.
func New(o Options) *Lists { return &Lists{o: o} }

// Plan compares a list with the accounts. Errors: ErrList, ErrListName.
func (l *Lists) Plan(ctx context.Context, list []byte, c Choices) (Plan, error) {
	l.work.Lock()
	defer l.work.Unlock()
	return l.plan(ctx, list, c)
}

func (l *Lists) plan(ctx context.Context, list []byte, c Choices) (p Plan, err error) {
	if !listName.MatchString(c.List) {
		return p, ErrListName
	}
	r, err := Read(list)
	if err != nil {
		return p, err
	}
	p = Plan{Format: r.Format, People: len(r.People), Problems: r.Problems, Notes: r.Notes}
	var (
		links []link
		users = map[string]account.User{} // by ULID
		names = map[string]account.User{}
		taken map[string]string     // list by ULID
		keeps = map[string]string{} // directory by ULID
	)
	all, err := l.o.Accounts.List(ctx)
	if err != nil {
		return p, err
	}
	for _, u := range all {
		users[u.ID], names[u.Localpart] = u, u
	}
	if err := l.o.DB.Read(ctx, func(q store.Querier) (err error) {
		if taken, err = lists(q); err != nil {
			return err
		}
		for _, person := range r.People {
			if u, ok := names[person.Name]; ok {
				if keeps[u.ID], err = l.o.Keeps(q, u.ID); err != nil {
					return err
				}
			}
		}
		links, err = load(q, c.List)
		return err
	}); err != nil {
		return p, err
	}
	if err := l.groups(ctx, &p, r.People, Source(c.List)); err != nil {
		return p, err
	}
	bySubject, byUser := map[string]link{}, map[string]link{}
	active := 0
	for _, x := range links {
		bySubject[x.subject], byUser[x.user] = x, x
		if !x.locked {
			active++
		}
	}
	there := map[string]bool{} // subjects
	for _, person := range r.People {
		if x, ok := bySubject[person.Subject]; ok {
			there[person.Subject] = true
			if err := l.compare(ctx, &p, c, r.Groups, person, x, users[x.user]); err != nil {
				return p, err
			}
			continue
		}
		ch := Change{Name: person.Name, Full: person.Full, Groups: person.Groups, person: person}
		u, exists := names[person.Name]
		if exists {
			x, ours := byUser[u.ID]
			switch {
			case ours && !there[x.subject] && x.subject == "name:"+x.name:
				// The list has numbers now, and had none before.
				there[x.subject], there[person.Subject] = true, true
				ch.Why, ch.user = "by its number from now on", u
				p.Join = append(p.Join, ch)
				continue
			case ours:
				ch.Why = "the account belongs to somebody else in the list"
			case taken[u.ID] != "":
				ch.Why = "the account belongs to " + taken[u.ID]
			case u.State == account.Deactivated:
				ch.Why = "the account was closed; a name is given once"
			case keeps[u.ID] != "":
				ch.Why = "the account belongs to the directory " + keeps[u.ID]
			case !c.Join:
				ch.Why = "there is an account of this name, which was made otherwise"
			default:
				there[person.Subject] = true
				ch.user = u
				p.Join = append(p.Join, ch)
				continue
			}
			p.Left = append(p.Left, ch)
			continue
		}
		if person.Disabled {
			ch.Why = "disabled in the list, and without an account"
			p.Left = append(p.Left, ch)
			continue
		}
		switch err := l.o.Accounts.CheckName(person.Name, account.FromList); {
		case errors.Is(err, account.ErrReserved):
			ch.Why = "this user name is reserved"
		case err != nil:
			ch.Why = "user names have small letters, digits and . _ = - / + only"
		default:
			p.Make = append(p.Make, ch)
			continue
		}
		p.Left = append(p.Left, ch)
	}
	for _, x := range links {
		u := users[x.user]
		if there[x.subject] || x.locked || u.Err() != nil {
			continue
		}
		ch := Change{Name: u.Localpart, Why: "not in the list any more", user: u, person: Person{Subject: x.subject}}
		l.lockOr(&p, ch, c.Gone)
	}
	p.Alarm = account.TooMany(len(p.Lock), active)
	p.Number, err = number(list, c, p, links)
	return p, err
}

// lockOr notes a change as a lock, or why the account is left alone.
func (l *Lists) lockOr(p *Plan, ch Change, asked bool) {
	switch {
	case ch.user.Roles&account.Owner != 0:
		ch.Why += "; left alone, as it owns the appliance"
		p.Left = append(p.Left, ch)
	case !asked:
		ch.Why += "; left alone, as nobody asked to lock it"
		p.Left = append(p.Left, ch)
	default:
		p.Lock = append(p.Lock, ch)
	}
}

// compare notes what changes for somebody who has an account by this list.
// inGroups: the list says who is in which groups.
func (l *Lists) compare(ctx context.Context, p *Plan, c Choices, inGroups bool, person Person, x link, u account.User) error {
	ch := Change{Name: u.Localpart, Full: person.Full, person: person, user: u}
	if u.ID == "" || u.State == account.Deactivated {
		ch.Name, ch.Why = person.Name, "the account was closed"
		p.Left = append(p.Left, ch)
		return nil
	}
	changed := false
	switch {
	case person.Disabled && !x.locked && u.Err() == nil:
		ch.Why = "disabled in the list"
		l.lockOr(p, ch, true)
		return nil
	case person.Disabled:
		p.Unchanged++
		return nil
	case x.locked:
		ch.Why = "in the list again"
		p.Unlock = append(p.Unlock, ch)
		changed = true
	}
	if c.Names && l.o.Rename != nil && l.o.Name != nil && person.Full != "" && person.Full != x.full {
		was, err := l.o.Name(ctx, u.UserID)
		if err != nil {
			return err
		}
		if was != person.Full {
			to := ch
			to.Was, to.Why = was, ""
			p.Rename = append(p.Rename, to)
			changed = true
		}
	}
	groups, err := l.o.Accounts.Groups(ctx, u.ID)
	if err != nil {
		return err
	}
	if inGroups && !slices.Equal(ofSource(groups, Source(c.List)), person.Groups) {
		to := ch
		to.Groups, to.Why = person.Groups, ""
		p.Group = append(p.Group, to)
		changed = true
	}
	if !changed {
		p.Unchanged++
	}
	return nil
}

// ofSource are the names of somebody's groups from a source, sorted.
func ofSource(groups []account.Group, source string) []string {
	out := []string{}
	for _, g := range groups {
		if g.Source == source {
			out = append(out, g.Name)
		}
	}
	slices.Sort(out)
	return out
}

// groups leaves those groups out that the list cannot put people into, and says so. A
// group that was made here may carry a role, which no list gives.
func (l *Lists) groups(ctx context.Context, p *Plan, people []Person, source string) error {
	all, err := l.o.Accounts.AllGroups(ctx)
	if err != nil {
		return err
	}
	const (
		unknown = iota
		ours
		others
		bad
	)
	kinds, spelled := map[string]int{}, map[string]string{} // by the name in small letters
	for _, g := range all {
		kinds[strings.ToLower(g.Name)], spelled[strings.ToLower(g.Name)] = others, g.Name
		if g.Source == source {
			kinds[strings.ToLower(g.Name)] = ours
		}
	}
	var foreign, impossible []string
	for i := range people {
		kept := []string{}
		for _, name := range people[i].Groups {
			key := strings.ToLower(name)
			if kinds[key] == unknown {
				kinds[key], spelled[key] = ours, name
				if account.CheckGroupName(name) != nil {
					kinds[key] = bad
					impossible = append(impossible, name)
				}
			}
			switch kinds[key] {
			case ours:
				if !slices.Contains(kept, spelled[key]) {
					kept = append(kept, spelled[key])
				}
			case others:
				if !slices.Contains(foreign, spelled[key]) {
					foreign = append(foreign, spelled[key])
				}
			}
		}
		slices.Sort(kept)
		people[i].Groups = kept
	}
	for _, x := range []struct {
		names []string
		why   string
	}{
		{foreign, "These groups were made here, by a directory or by another list; nobody is put into them: %s"},
		{impossible, "These are no names of groups (1 to 128 bytes, no commas), and are left out: %s"},
	} {
		if len(x.names) > 0 {
			slices.Sort(x.names)
			more := ""
			if n := len(x.names) - shownGroups; n > 0 {
				x.names, more = x.names[:shownGroups], fmt.Sprintf(" and %d more", n)
			}
			p.Notes = append(p.Notes, fmt.Sprintf(x.why, strings.Join(x.names, "; "))+more)
		}
	}
	return nil
}

const shownGroups = 20 // in a note

// number is what a plan is called: of all that it depends on and of all that it says.
func number(list []byte, c Choices, p Plan, links []link) (string, error) {
	sum := sha256.Sum256(list)
	c.Anyway = false
	p.Number = ""
	b, err := json.Marshal(struct {
		List    string
		Choices Choices
		Plan    Plan
		People  int
	}{hex.EncodeToString(sum[:]), c, p, len(links)})
	if err != nil {
		return "", err
	}
	sum = sha256.Sum256(b)
	return hex.EncodeToString(sum[:6]), nil
}

// Done is what was changed.
type Done struct {
	Made, Joined, Renamed, Grouped, Locked, Unlocked int
	Names                                            []string `json:"names,omitempty"` // of the accounts that were made
}

// Apply does what a plan says. Errors: those of Plan, ErrVoid, ErrAlarm. After another
// error a part may be done: the next plan has the rest.
func (l *Lists) Apply(ctx context.Context, list []byte, c Choices, plan string) (d Done, err error) {
	l.work.Lock()
	defer l.work.Unlock()
	p, err := l.plan(ctx, list, c)
	if err != nil {
		return d, err
	}
	if p.Number != plan {
		return d, ErrVoid
	}
	if p.Alarm && !c.Anyway {
		return d, fmt.Errorf("%w: %d", ErrAlarm, len(p.Lock))
	}
	if err := l.o.Audit.Append(ctx, audit.Event{Name: "list.apply", Target: c.List, Data: audit.Data{"plan": p.Number, "people": p.People,
		"make": len(p.Make), "join": len(p.Join), "rename": len(p.Rename), "groups": len(p.Group), "lock": len(p.Lock), "unlock": len(p.Unlock)}}); err != nil {
		return d, err
	}
	for _, step := range []struct {
		changes []Change
		count   *int
		do      func(Change) error
	}{
		{p.Make, &d.Made, func(ch Change) error {
			d.Names = append(d.Names, ch.Name)
			return l.make(ctx, c.List, ch)
		}},
		{p.Join, &d.Joined, func(ch Change) error { return l.join(ctx, c.List, ch) }},
		{p.Unlock, &d.Unlocked, func(ch Change) error { return l.lock(ctx, c.List, ch, false) }},
		{p.Rename, &d.Renamed, func(ch Change) error { return l.rename(ctx, c.List, ch) }},
		{p.Group, &d.Grouped, func(ch Change) error {
			return l.o.Groups(ctx, ch.user.ID, Source(c.List), ch.person.Groups)
		}},
		{p.Lock, &d.Locked, func(ch Change) error { return l.lock(ctx, c.List, ch, true) }},
	} {
		for _, ch := range step.changes {
			if err := step.do(ch); err != nil {
				return d, fmt.Errorf("%s: %w", ch.Name, err)
			}
			*step.count++
		}
	}
	return d, nil
}

func (l *Lists) make(ctx context.Context, list string, ch Change) error {
	n := account.NewUser{Localpart: ch.Name, DisplayName: ch.Full, Source: account.FromList}
	n.Also = func(tx *store.Tx, u account.User) error {
		return insert(tx, list, link{subject: ch.person.Subject, user: u.ID, name: ch.person.Name, full: ch.person.Full})
	}
	u, err := l.o.Accounts.Create(ctx, n)
	if err != nil || len(ch.Groups) == 0 {
		return err
	}
	return l.o.Groups(ctx, u.ID, Source(list), ch.Groups)
}

func (l *Lists) join(ctx context.Context, list string, ch Change) error {
	if err := l.o.DB.Write(ctx, func(tx *store.Tx) error {
		return insert(tx, list, link{subject: ch.person.Subject, user: ch.user.ID, name: ch.person.Name})
	}); err != nil || len(ch.Groups) == 0 {
		return err
	}
	return l.o.Groups(ctx, ch.user.ID, Source(list), ch.Groups)
}

func (l *Lists) rename(ctx context.Context, list string, ch Change) error {
	if err := l.o.Rename(ctx, ch.user.UserID, ch.Full); err != nil {
		return err
	}
	return l.o.DB.Write(ctx, func(tx *store.Tx) error { return setFull(tx, list, ch.person.Subject, ch.Full) })
}

func (l *Lists) lock(ctx context.Context, list string, ch Change, locked bool) error {
	// First what is asked for, then the note of it: a stop in between repeats it.
	if err := l.o.Lock(ctx, ch.user.UserID, locked); err != nil {
		return err
	}
	return l.o.DB.Write(ctx, func(tx *store.Tx) error { return setLocked(tx, list, ch.person.Subject, locked) })
}
