// Package roster keeps which people come from directories: it signs them in with the
// directory's password, makes their accounts, and follows what becomes of them there.
//
// Invariants:
//   - An account belongs to a directory's subject (entryUUID, objectGUID), never to a
//     name or an e-mail address: whoever gets a freed name there does not get the account.
//   - An account that was made here is joined to a directory by an administrator only.
//   - Who is gone or disabled in the directory is locked here and all sessions end;
//     nobody is ever deleted.
//   - A reading that would lock too many people changes nothing until an administrator
//     agrees.
//   - While a directory is down, sessions go on and local accounts sign in.
package roster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/identity/account"
	"holdfast/identity/directory"
	"holdfast/store"
	"holdfast/store/audit"
)

// Errors that callers may test for.
var (
	ErrNoDirectory = errors.New("roster: there is no such directory")
	ErrBadID       = errors.New("roster: a directory's short name has 1 to 30 of a-z, 0-9 and -")
	ErrTooMany     = errors.New("roster: there are as many directories as can be")
	// ErrAlarm: the reading would lock too many people and was not taken.
	ErrAlarm = errors.New("roster: too many people would be locked")
	// ErrJoin: the account cannot be joined to the person.
	ErrJoin = errors.New("roster: cannot be joined")
)

const (
	maxDirectories = 8
	defaultEvery   = 15 * time.Minute
	firstAfter     = 30 * time.Second // of the start
	alarmAgain     = time.Hour        // an alarm of the same account
)

// Config is a directory and how it is followed.
type Config struct {
	directory.Config
	Every    time.Duration `json:"every,omitempty"`    // between readings; 15 minutes
	Everyone bool          `json:"everyone,omitempty"` // make accounts at the reading, not only at the first sign-in
	// What follows the directory: displayed names, pictures, and e-mail addresses. Nobody
	// changes them here then.
	Names    bool `json:"names,omitempty"`
	Pictures bool `json:"pictures,omitempty"`
	Mail     bool `json:"mail,omitempty"`
}

// Report is what a reading found and did.
type Report struct {
	At       time.Time `json:"at"`
	People   int       `json:"people"`   // in the directory
	Accounts int       `json:"accounts"` // of them, here
	Made     []string  `json:"made,omitempty"`
	// Renamed, Pictured and Mailed have another name, picture or address than before.
	Renamed  []string `json:"renamed,omitempty"`
	Pictured []string `json:"pictured,omitempty"`
	Mailed   []string `json:"mailed,omitempty"`
	Locked   []string `json:"locked,omitempty"`
	Unlocked []string `json:"unlocked,omitempty"`
	// Taken are people whose user name is a local account's, or no user name.
	Taken []string `json:"taken,omitempty"`
	// GroupsRenamed are groups with another name than before, as "from -> to", and
	// GroupsTaken those that are left out, as another group has their name.
	GroupsRenamed []string `json:"groups_renamed,omitempty"`
	GroupsTaken   []string `json:"groups_taken,omitempty"`
	// MailTaken are people whose address another account has, and PicturesLeft those whose
	// picture is not taken, as "name: why".
	MailTaken    []string `json:"mail_taken,omitempty"`
	PicturesLeft []string `json:"pictures_left,omitempty"`
	Alarm        bool     `json:"alarm,omitempty"` // nothing was changed
	Error        string   `json:"error,omitempty"`
}

// Directory is a directory as administrators see it, without its password.
type Directory struct {
	ID     string    `json:"id"`
	Config Config    `json:"config"`
	Synced time.Time `json:"synced,omitzero"`
	Report Report    `json:"report"`
	Down   string    `json:"down,omitempty"` // why the last question got no answer
}

// Options of New.
type Options struct {
	DB       *store.DB
	Log      *slog.Logger
	Accounts *account.Accounts
	Seal     func(string) (string, error)
	Unseal   func(string) (string, error)
	// Lock locks an account and ends its sessions and devices, or unlocks it.
	Lock func(ctx context.Context, userID string, locked bool) error
	// DisplayName, Avatar and SetProfile are of the profile that others see; a nil name or
	// picture stays. Upload stores a picture under an mxc:// address. nil: nothing follows.
	DisplayName func(ctx context.Context, userID string) (string, error)
	Avatar      func(ctx context.Context, userID string) (uri string, err error)
	SetProfile  func(ctx context.Context, userID string, name, avatar *string) error
	Upload      func(ctx context.Context, userID, mediaType string, content []byte) (uri string, err error)
	// Groups takes a person's groups in a directory, in full. nil: they are dropped.
	Groups func(ctx context.Context, userID, directory string, groups []account.DirectoryGroup) error
	// Alarm tells the administrators.
	Alarm func(ctx context.Context, text string)
	Now   func() time.Time
	Audit *audit.Log // nil: nothing is noted
}

// Roster keeps the directories. Its methods are safe for concurrent use.
type Roster struct {
	o Options

	mu      sync.Mutex
	open    map[string]*opened   // by ID; those whose settings can be read
	alarmed map[string]time.Time // by account: when its last alarm was

	work sync.Mutex // one reading at a time
	kick chan struct{}

	others func() []string
}

// Others names what else people sign in with and does not answer, for the alarm when a
// local administrator signs in meanwhile. Call it before the roster is used.
func (r *Roster) Others(down func() []string) { r.others = down }

type opened struct {
	dir  *directory.Directory
	c    Config
	next time.Time // of the next reading
	down string
}

// New loads the directories.
func New(ctx context.Context, o Options) (*Roster, error) {
	r := &Roster{o: o, open: map[string]*opened{}, alarmed: map[string]time.Time{}, kick: make(chan struct{}, 1)}
	rows, err := r.load(ctx)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		c, err := r.config(row.config)
		var d *directory.Directory
		if err == nil {
			d, err = directory.Open(c.Config)
		}
		if err != nil {
			o.Log.Error("a directory cannot be used; set it anew", "directory", row.id, "err", err)
			continue
		}
		r.open[row.id] = &opened{dir: d, c: c, next: o.Now().Add(firstAfter)}
	}
	return r, nil
}

func (r *Roster) config(sealed string) (c Config, err error) {
	plain, err := r.o.Unseal(sealed)
	if err == nil {
		err = json.Unmarshal([]byte(plain), &c)
	}
	return c, err
}

// Run reads the directories when it is time, until ctx ends.
func (r *Roster) Run(ctx context.Context) {
	for {
		wait := time.Hour
		r.mu.Lock()
		var due []string
		for id, d := range r.open {
			if w := d.next.Sub(r.o.Now()); w <= 0 {
				due = append(due, id)
			} else {
				wait = min(wait, w)
			}
		}
		r.mu.Unlock()
		slices.Sort(due)
		for _, id := range due {
			if _, err := r.Sync(ctx, id, false); err != nil && ctx.Err() == nil {
				r.o.Log.Warn("a directory was not read", "directory", id, "err", err)
			}
		}
		if len(due) > 0 {
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-r.kick:
		case <-t.C:
		}
		t.Stop()
	}
}

func (r *Roster) get(id string) (*opened, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := r.open[id]; d != nil {
		return d, nil
	}
	return nil, ErrNoDirectory
}

// ids are the directories in the order in which they are asked.
func (r *Roster) ids() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]string, 0, len(r.open))
	for id := range r.open {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// answered notes whether a directory answered.
func (r *Roster) answered(id string, err error) {
	why := ""
	if errors.Is(err, directory.ErrUnavailable) || errors.Is(err, directory.ErrRefused) {
		why = err.Error()
	}
	r.mu.Lock()
	d := r.open[id]
	changed := d != nil && (d.down == "") != (why == "")
	if d != nil {
		d.down = why
	}
	r.mu.Unlock()
	switch {
	case changed && why != "":
		r.o.Log.Warn("a directory does not answer; sessions go on, local accounts can sign in", "directory", id, "err", err)
	case changed:
		r.o.Log.Info("a directory answers again", "directory", id)
	}
}

// Down names the directories that did not answer when they were last asked.
func (r *Roster) Down() (ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, d := range r.open {
		if d.down != "" {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func badID(id string) bool {
	ok := len(id) > 0 && len(id) <= 30
	for _, c := range id {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	return !ok
}

// Set makes a directory or changes it. Without a password the one that there is stays,
// if the reader and the servers are the same. Errors: ErrBadID, ErrTooMany,
// directory.ErrConfig.
func (r *Roster) Set(ctx context.Context, id string, c Config) error {
	if badID(id) {
		return ErrBadID
	}
	r.mu.Lock()
	old, n := r.open[id], len(r.open)
	r.mu.Unlock()
	if old == nil && n >= maxDirectories {
		return ErrTooMany
	}
	// To another server a password goes only when it is given again.
	if old != nil && c.Password == "" && c.BindDN == old.c.BindDN && slices.Equal(c.URLs, old.c.URLs) {
		c.Password = old.c.Password
	}
	if c.Every == 0 {
		c.Every = defaultEvery
	}
	if c.Every < time.Minute || c.Every > 24*time.Hour {
		return fmt.Errorf("%w: a directory is read every minute to every day", directory.ErrConfig)
	}
	d, err := directory.Open(c.Config)
	if err != nil {
		return err
	}
	plain, err := json.Marshal(c)
	if err != nil {
		return err
	}
	sealed, err := r.o.Seal(string(plain))
	if err != nil {
		return err
	}
	err = r.o.DB.Write(ctx, func(tx *store.Tx) error {
		if err := upsertDirectory(tx, id, sealed, r.o.Now()); err != nil {
			return err
		}
		if err := forgetStamps(tx, id); err != nil { // pictures are read anew
			return err
		}
		// Known by another attribute, all groups would be others.
		if old != nil && !strings.EqualFold(old.c.Defaults().GroupIDAttr, c.Defaults().GroupIDAttr) {
			if err := r.o.Accounts.ForgetDirectoryIDsTx(tx, id); err != nil {
				return err
			}
		}
		return r.o.Audit.Tx(ctx, tx, audit.Event{Name: "directory.set", Target: id, Data: audit.Data{"kind": c.Kind, "urls": c.URLs, "base_dn": c.BaseDN,
			"bind_dn": c.BindDN, "user_filter": c.UserFilter, "group_filter": c.GroupFilter, "everyone": c.Everyone, "names": c.Names, "pictures": c.Pictures, "mail": c.Mail}})
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.open[id] = &opened{dir: d, c: c, next: r.o.Now().Add(firstAfter)}
	r.mu.Unlock()
	select {
	case r.kick <- struct{}{}:
	default:
	}
	return nil
}

// Remove forgets a directory. Its people keep their accounts, which have no way in
// until an administrator gives them a password or a card. Errors: ErrNoDirectory.
func (r *Roster) Remove(ctx context.Context, id string) error {
	r.work.Lock()
	defer r.work.Unlock()
	err := r.o.DB.Write(ctx, func(tx *store.Tx) error {
		if err := deleteDirectory(tx, id); err != nil {
			return err
		}
		return r.o.Audit.Tx(ctx, tx, audit.Event{Name: "directory.remove", Target: id})
	})
	if err == nil {
		r.mu.Lock()
		delete(r.open, id)
		r.mu.Unlock()
	}
	return err
}

// List gives the directories, without their passwords.
func (r *Roster) List(ctx context.Context) ([]Directory, error) {
	rows, err := r.load(ctx)
	if err != nil {
		return nil, err
	}
	out := []Directory{}
	for _, row := range rows {
		d := Directory{ID: row.id, Synced: row.synced, Report: row.report}
		if c, err := r.config(row.config); err == nil {
			d.Config = c
			d.Config.Config = c.Config.Defaults()
			d.Config.Password = ""
		} else {
			d.Down = "its settings cannot be read; set it anew"
		}
		r.mu.Lock()
		if o := r.open[row.id]; o != nil && o.down != "" {
			d.Down = o.down
		}
		r.mu.Unlock()
		out = append(out, d)
	}
	return out, nil
}

// Keeps reports in which directory an account's password is, or "".
func (r *Roster) Keeps(q store.Querier, id string) (string, error) {
	l, err := loadLink(q, id)
	return l.directory, err
}

// SignIn checks a password where the person's account is, or may come to be, in a
// directory. It is false for names that are local accounts', and for those that no
// directory knows. Errors: account.ErrWrongPassword (of an account that is in a
// directory), ErrLocked, ErrDirectory, ErrDirectoryPassword, ErrUserExists, ErrBadName,
// ErrReserved.
func (r *Roster) SignIn(ctx context.Context, name, password string) (u account.User, here bool, err error) {
	ids := r.ids()
	if len(ids) == 0 {
		return u, false, nil
	}
	var l link
	known := false
	err = r.o.DB.Read(ctx, func(q store.Querier) error {
		var err error
		if u, err = r.o.Accounts.LoadByLocalpart(q, strings.ToLower(name)); err != nil {
			return err
		}
		known = true
		l, err = loadLink(q, u.ID)
		return err
	})
	if err != nil && !errors.Is(err, account.ErrNoUser) {
		return account.User{}, true, err
	}
	if known && l.directory == "" {
		return account.User{}, false, nil
	}
	if known {
		d, err := r.get(l.directory)
		if err != nil {
			return account.User{}, true, account.ErrDirectory
		}
		// By the directory's own name: that here stays when the person is renamed there.
		p, err := d.dir.SignIn(ctx, l.name, password)
		r.answered(l.directory, err)
		if err != nil {
			return u, true, told(err)
		}
		if p.Subject != l.subject { // the name is somebody else's now
			return account.User{}, true, account.ErrWrongPassword
		}
		return r.signedIn(ctx, l.directory, p, u)
	}
	down := false
	for _, id := range ids {
		d, err := r.get(id)
		if err != nil {
			continue
		}
		p, err := d.dir.SignIn(ctx, name, password)
		r.answered(id, err)
		switch {
		case err == nil:
			return r.found(ctx, id, p)
		case errors.Is(err, directory.ErrWrongPassword):
		case errors.Is(err, directory.ErrUnavailable), errors.Is(err, directory.ErrRefused):
			down = true
		default:
			return account.User{}, true, told(err)
		}
	}
	if down {
		return account.User{}, true, account.ErrDirectory
	}
	return account.User{}, false, nil
}

// SignedIn raises an alarm where a local administrator signs in while a directory is
// down: that is what the account is for, and nobody should find out later.
func (r *Roster) SignedIn(ctx context.Context, u account.User) {
	down := r.Down()
	if r.others != nil {
		down = append(down, r.others()...)
	}
	if !u.Admin || len(down) == 0 {
		return
	}
	if err := r.o.Audit.Append(context.WithoutCancel(ctx), audit.Event{Name: "signin.breakglass", Actor: u.UserID, Target: u.UserID, Data: audit.Data{"directories": down}}); err != nil {
		r.o.Log.Error("a sign-in while a directory does not answer could not be noted", "user", u.UserID, "err", err)
	}
	now := r.o.Now()
	r.mu.Lock()
	again := now.Sub(r.alarmed[u.ID]) < alarmAgain
	if !again {
		r.alarmed[u.ID] = now
	}
	r.mu.Unlock()
	if again {
		return
	}
	r.o.Log.Warn("a local administrator signed in while a directory does not answer", "user", u.UserID, "directories", down)
	if r.o.Alarm != nil {
		r.o.Alarm(ctx, fmt.Sprintf("%s signed in with a password of this server while %s, which people sign in with, cannot be reached.", u.UserID, strings.Join(down, ", ")))
	}
}

// told is what the person is told.
func told(err error) error {
	switch {
	case errors.Is(err, directory.ErrWrongPassword):
		return account.ErrWrongPassword
	case errors.Is(err, directory.ErrDisabled):
		return account.ErrLocked
	case errors.Is(err, directory.ErrChangePassword):
		return account.ErrDirectoryPassword
	case errors.Is(err, directory.ErrUnavailable), errors.Is(err, directory.ErrRefused):
		return account.ErrDirectory
	}
	return err
}

// found lets somebody in who proved a directory's password under a name that no
// account has: an account of theirs may have another, or is made now.
func (r *Roster) found(ctx context.Context, id string, p directory.Person) (account.User, bool, error) {
	u, err := r.bySubject(ctx, id, p.Subject)
	if errors.Is(err, account.ErrNoUser) {
		u, err = r.make(ctx, id, p)
	}
	if err != nil {
		return account.User{}, true, err
	}
	return r.signedIn(ctx, id, p, u)
}

func (r *Roster) signedIn(ctx context.Context, id string, p directory.Person, u account.User) (account.User, bool, error) {
	if u.State == account.Locked {
		// The directory may have let them in again since the last reading.
		var l link
		if err := r.o.DB.Read(ctx, func(q store.Querier) (err error) { l, err = loadLink(q, u.ID); return err }); err != nil {
			return u, true, err
		}
		if l.locked {
			if err := r.lock(ctx, id, p.Subject, u, false); err != nil {
				return u, true, err
			}
			u.State = account.Active
		}
	}
	if err := r.follow(ctx, id, p, u); err != nil {
		return u, true, err
	}
	return u, true, nil
}

// by has the audit log name the directory where nobody else asked.
func by(ctx context.Context, id string) context.Context {
	if audit.WhoOf(ctx).Actor == "" {
		return audit.As(ctx, "directory "+id)
	}
	return ctx
}

// follow takes over what the directory says of a person.
func (r *Roster) follow(ctx context.Context, id string, p directory.Person, u account.User) error {
	if u.Err() != nil {
		return nil
	}
	ctx = by(ctx, id)
	if r.o.Groups != nil {
		if err := r.o.Groups(ctx, u.ID, id, groups(p.Groups)); err != nil {
			return err
		}
	}
	d, err := r.get(id)
	if err != nil {
		return nil // removed meanwhile
	}
	pictures := d.dir.Pictures()
	defer pictures.Close()
	_, err = r.profile(ctx, id, d.c, pictures, p, u)
	if errors.Is(err, directory.ErrUnavailable) || errors.Is(err, directory.ErrRefused) {
		r.o.Log.Warn("a picture could not be read; the next reading does it", "directory", id, "user", u.UserID, "err", err)
		return nil
	}
	return err
}

// groups are a directory's as the accounts take them.
func groups(in []directory.Group) []account.DirectoryGroup {
	out := make([]account.DirectoryGroup, len(in))
	for i, g := range in {
		out[i] = account.DirectoryGroup{ID: g.ID, Name: g.Name}
	}
	return out
}

func (r *Roster) bySubject(ctx context.Context, id, subject string) (u account.User, err error) {
	err = r.o.DB.Read(ctx, func(q store.Querier) error {
		userID, err := loadSubject(q, id, subject)
		if err == nil {
			u, err = r.o.Accounts.LoadByID(q, userID)
		}
		return err
	})
	return u, err
}

// make makes the account of somebody in a directory.
func (r *Roster) make(ctx context.Context, id string, p directory.Person) (account.User, error) {
	n := account.NewUser{Localpart: p.Name, DisplayName: p.Full, Source: account.FromDirectory}
	n.Also = func(tx *store.Tx, u account.User) error {
		return insertLink(tx, id, p.Subject, u.ID, p.Name, p.Full)
	}
	return r.o.Accounts.Create(by(ctx, id), n)
}

// Join gives a local account to somebody in a directory, whose password it has from
// then on. Errors: ErrNoDirectory, account.ErrNoUser, ErrJoin, those of directory.
func (r *Roster) Join(ctx context.Context, id, userID, name string) error {
	d, err := r.get(id)
	if err != nil {
		return err
	}
	all, err := d.dir.Read(ctx)
	if r.answered(id, err); err != nil {
		return err
	}
	people := all.People
	i := slices.IndexFunc(people, func(p directory.Person) bool { return p.Name == strings.ToLower(name) })
	if i < 0 {
		return fmt.Errorf("%w: there is nobody named %s in the directory", ErrJoin, name)
	}
	p := people[i]
	u, err := r.o.Accounts.ByUserID(ctx, userID)
	if err != nil {
		return err
	}
	return r.o.DB.Write(ctx, func(tx *store.Tx) error {
		if _, err := loadSubject(tx, id, p.Subject); err == nil {
			return fmt.Errorf("%w: %s has an account already", ErrJoin, name)
		} else if !errors.Is(err, account.ErrNoUser) {
			return err
		}
		if l, err := loadLink(tx, u.ID); err != nil || l.directory != "" {
			if err == nil {
				err = fmt.Errorf("%w: the account belongs to the directory %s", ErrJoin, l.directory)
			}
			return err
		}
		if u.State == account.Deactivated {
			return account.ErrDeactivated
		}
		if err := r.o.Accounts.DropPasswordTx(tx, u.ID); err != nil {
			return err
		}
		if err := insertLink(tx, id, p.Subject, u.ID, p.Name, p.Full); err != nil {
			return err
		}
		return r.o.Audit.Tx(ctx, tx, audit.Event{Name: "directory.join", Target: u.UserID, Data: audit.Data{"directory": id, "name": p.Name}})
	})
}

func (r *Roster) lock(ctx context.Context, id, subject string, u account.User, locked bool) error {
	ctx = by(ctx, id)
	// First what is asked for, then the note of it: a stop in between repeats it.
	if err := r.o.Lock(ctx, u.UserID, locked); err != nil {
		return err
	}
	return r.o.DB.Write(ctx, func(tx *store.Tx) error { return updateLocked(tx, id, subject, locked) })
}

// Sync reads a directory and takes over what changed. anyway: also where it locks
// many. Errors: ErrNoDirectory, ErrAlarm, those of directory.
func (r *Roster) Sync(ctx context.Context, id string, anyway bool) (Report, error) {
	r.work.Lock()
	defer r.work.Unlock()
	d, err := r.get(id)
	if err != nil {
		return Report{}, err
	}
	asked := audit.WhoOf(ctx).Actor != ""
	ctx = by(ctx, id)
	report := Report{}
	defer func() {
		r.mu.Lock()
		d.next = r.o.Now().Add(d.c.Every)
		r.mu.Unlock()
	}()
	all, err := d.dir.Read(ctx)
	r.answered(id, err)
	if err == nil {
		report, err = r.take(ctx, id, d, all, anyway)
	}
	report.At = r.o.Now()
	if err != nil {
		report.Error = err.Error()
	}
	alarmed, e := r.keep(ctx, id, report, err == nil, asked, anyway)
	if e != nil && err == nil {
		err = e
	}
	if report.Alarm && !alarmed {
		r.o.Log.Error("a directory lost too many people at once; nothing was changed", "directory", id, "people", report.People, "would_be_locked", len(report.Locked))
		if r.o.Alarm != nil {
			r.o.Alarm(ctx, fmt.Sprintf("The directory %q lost %d of the %d people who have accounts here. Nothing was changed. If that is right: holdfast directory sync %s --anyway", id, len(report.Locked), report.Accounts, id))
		}
	}
	return report, err
}

// take applies a reading.
func (r *Roster) take(ctx context.Context, id string, d *opened, all directory.Reading, anyway bool) (Report, error) {
	people, c, pictures := all.People, d.c, d.dir.Pictures()
	defer pictures.Close()
	report := Report{People: len(people)}
	var links []link
	if err := r.o.DB.Read(ctx, func(q store.Querier) (err error) { links, err = listLinks(q, id); return err }); err != nil {
		return report, err
	}
	report.Accounts = len(links)
	now := make(map[string]directory.Person, len(people))
	for _, p := range people {
		now[p.Subject] = p
	}
	active := 0
	for _, l := range links {
		if l.locked {
			continue
		}
		active++
		if p, ok := now[l.subject]; !ok || p.Disabled {
			report.Locked = append(report.Locked, l.name)
		}
	}
	if n := len(report.Locked); !anyway && account.TooMany(n, active) {
		report.Alarm = true
		return report, fmt.Errorf("%w: %d of %d", ErrAlarm, n, active)
	}
	report.Locked = nil
	if r.o.Groups != nil && !c.NoGroups {
		if err := r.o.DB.Write(ctx, func(tx *store.Tx) (err error) {
			report.GroupsRenamed, report.GroupsTaken, err = r.o.Accounts.FollowDirectoryTx(tx, id, groups(all.Groups))
			return err
		}); err != nil {
			return report, err
		}
	}
	has := map[string]bool{}
	for _, l := range links {
		has[l.subject] = true
		u, err := r.o.Accounts.ByID(ctx, l.user)
		if err != nil {
			return report, err
		}
		if u.State == account.Deactivated {
			continue
		}
		p, there := now[l.subject]
		switch gone := !there || p.Disabled; {
		case gone && !l.locked:
			err = r.lock(ctx, id, l.subject, u, true)
			report.Locked = append(report.Locked, u.Localpart)
		case !gone && l.locked:
			err = r.lock(ctx, id, l.subject, u, false)
			report.Unlocked = append(report.Unlocked, u.Localpart)
			u.State = account.Active
		}
		if err != nil {
			return report, err
		}
		if !there || u.Err() != nil {
			continue
		}
		if r.o.Groups != nil {
			if err := r.o.Groups(ctx, u.ID, id, groups(p.Groups)); err != nil {
				return report, err
			}
		}
		done, err := r.profile(ctx, id, c, pictures, p, u)
		if err != nil {
			return report, err
		}
		done.add(&report, u.Localpart)
	}
	for _, p := range people {
		if has[p.Subject] || p.Disabled {
			continue
		}
		_, err := r.o.Accounts.ByLocalpart(ctx, p.Name)
		switch {
		case err == nil, r.o.Accounts.CheckName(p.Name, account.FromDirectory) != nil:
			report.Taken = append(report.Taken, p.Name)
			continue
		case !errors.Is(err, account.ErrNoUser):
			return report, err
		}
		if !c.Everyone {
			continue
		}
		u, err := r.make(ctx, id, p)
		if err == nil && r.o.Groups != nil {
			err = r.o.Groups(ctx, u.ID, id, groups(p.Groups))
		}
		var done followed
		if err == nil {
			done, err = r.profile(ctx, id, c, pictures, p, u)
		}
		if err != nil {
			return report, err
		}
		done.pictured, done.mailed = false, false // of a new account that is no news
		done.add(&report, u.Localpart)
		report.Made = append(report.Made, p.Name)
		report.Accounts++
	}
	return report, nil
}
