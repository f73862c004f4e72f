// Package account keeps the people: accounts, passwords, invites, the sessions
// of their browsers, and the slow-down after failed attempts.
//
// Invariants:
//   - An account's name is never given to somebody else, not even after it was
//     deactivated.
//   - Cookies and invite links are stored as SHA-256, passwords as argon2id.
//   - Checking a password takes as long for a name that does not exist, that has no password,
//     or whose password is kept elsewhere.
//   - An invite is used up in the transaction that makes the account: parallel
//     uses of the last one have one winner. The same holds of a link for a new password,
//     which is used up in the transaction that sets it.
//   - A card is such an invite or link, printed. Its PIN is asked wherever it is used.
package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"holdfast/identity/guess"
	"holdfast/store"
	"holdfast/store/audit"
	"holdfast/store/sealed"
)

// Errors that callers may test for.
var (
	ErrWrongPassword = errors.New("identity: wrong user name or password")
	ErrLocked        = errors.New("identity: the account is locked")
	ErrDeactivated   = errors.New("identity: the account is deactivated")
	ErrUserExists    = errors.New("identity: the user name is taken")
	ErrBadName       = errors.New("identity: user names consist of a-z, 0-9 and . _ = - / +, and together with the server name have at most 255 bytes")
	ErrReserved      = errors.New("identity: the user name is reserved for an application service")
	ErrWeakPassword  = errors.New("identity: the password is too short or too long")
	ErrNoUser        = errors.New("identity: no such user")
	ErrInvite        = errors.New("identity: the invite is used up, expired or revoked")
	// ErrDirectory: the directory that has the password does not answer.
	ErrDirectory = errors.New("identity: the directory cannot be reached")
	// ErrDirectoryPassword: the directory wants its password changed first.
	ErrDirectoryPassword = errors.New("identity: the password has expired in the directory")
	// ErrElsewhere: the account's password is kept in a directory.
	ErrElsewhere = errors.New("identity: the password is kept in a directory")
)

// FromDirectory is the Source of accounts that a directory has the password of.
const FromDirectory = "directory"

// FromList is the Source of accounts that were made of a list of people. They have no
// password at first.
const FromList = "list"

// FromUpstream is the Source of accounts of people whom another provider signs in.
const FromUpstream = "upstream"

// Elsewhere checks passwords that are not kept here.
type Elsewhere interface {
	// SignIn is false where the name is a local account's, or nobody's. Errors:
	// ErrWrongPassword, ErrLocked, ErrDirectory, ErrDirectoryPassword, those of Create.
	SignIn(ctx context.Context, name, password string) (u User, here bool, err error)
	// SignedIn is told of a sign-in with a password that is kept here.
	SignedIn(ctx context.Context, u User)
	// Keeps names the directory that has an account's password, "" for a local one.
	Keeps(q store.Querier, id string) (string, error)
	// KeepsEmails reports whether an account's e-mail addresses follow its directory.
	KeepsEmails(q store.Querier, id string) (bool, error)
}

// SlowDown is returned while attempts are not looked at: after too many failed, or, Busy,
// while as many passwords are waiting to be checked as may.
type SlowDown struct {
	Wait time.Duration
	Busy bool
}

func (e *SlowDown) Error() string {
	if e.Busy {
		return "identity: too many people sign in at once"
	}
	return "identity: too many failed attempts"
}

// States of an account.
const (
	Active      = "active"
	Locked      = "locked"      // may do nothing until it is unlocked
	Deactivated = "deactivated" // closed for good
)

// User is an account.
type User struct {
	ID          string // ULID; the OpenID subject
	UserID      string // "@alice:example.org"
	Localpart   string
	DisplayName string // as given when the account was made
	Admin       bool   // it administers: Roles.Administers
	Roles       Roles  // also those through groups
	State       string // Active, Locked or Deactivated
	Suspended   bool   // may read and leave, not write; also kept while the account is locked
	HasPassword bool
	Created     time.Time
	LastSeen    time.Time // last sign-in; zero: never
}

// Err is why the account must not be used, or nil.
func (u User) Err() error {
	switch u.State {
	case Locked:
		return ErrLocked
	case Deactivated:
		return ErrDeactivated
	}
	return nil
}

// ProfileSink receives the display name of a new account.
type ProfileSink interface {
	SetDisplayName(tx *store.Tx, userID, displayName string) error
}

// Options of New.
type Options struct {
	DB         *store.DB
	ServerName string
	Cost       Cost // zero: calibrated
	Limits     bool // slow down after failures
	Profiles   ProfileSink
	Reserved   func(localpart string) bool
	Now        func() time.Time
	Key        []byte     // signs what names browsers that somebody signed in with
	Audit      *audit.Log // nil: nothing is noted
	Secrets    *sealed.Box
	// Organisation is a name that no password should consist of. nil: none.
	Organisation func() string
	// MinPassword is how many characters a new password has at least, MinPassword or more.
	// nil: MinPassword.
	MinPassword func() int
	// Lifetimes are those of browser sessions, as they are now. nil: StandardLifetimes.
	Lifetimes func() Lifetimes
	// GroupChanged is told, after the write, that somebody came into a group, by its ULID, or
	// left it, that an account in it was locked or opened, or that the group is gone. It must
	// be quick. nil: nobody is told.
	GroupChanged func(groupID string)
}

// Accounts keeps the accounts.
type Accounts struct {
	Options
	hasher    *hasher
	turns     turns
	elsewhere Elsewhere // nil: all passwords are here
	onEnd     func(tx *store.Tx, userID, sid string) error
	// groupRenamed runs in the write that renames a group.
	groupRenamed func(tx *store.Tx, g Group) error
}

// New prepares the accounts.
func New(o Options) *Accounts { return &Accounts{Options: o, hasher: newHasher(o.Cost)} }

// Ask has Verify ask elsewhere first. Call it before the accounts are used.
func (a *Accounts) Ask(e Elsewhere) { a.elsewhere = e }

// UserID is the full ID of a localpart.
func (a *Accounts) UserID(localpart string) string { return "@" + localpart + ":" + a.ServerName }

// Localpart is the localpart of a user ID of this server, or of a bare name.
func (a *Accounts) Localpart(name string) (string, bool) {
	name = strings.TrimSpace(name)
	if rest, ok := strings.CutPrefix(name, "@"); ok {
		l, server, full := strings.Cut(rest, ":")
		return l, !full || server == a.ServerName
	}
	return name, true
}

// MinPassword is the fewest characters that a new password may have, whoever sets it: no
// setting goes below. Source: NIST SP 800-63B section 3.1.1.2 (the least where there can be
// a second factor)
const MinPassword = 8

const maxPassword = 512 // bytes

// NewUser describes an account to make.
type NewUser struct {
	Localpart   string
	DisplayName string
	Password    string // "": no password login until one is set
	Admin       bool
	Invite      string // token of an invite to use up, or ""
	PIN         string // of the invite's card; "": it has none, or nobody typed it
	Source      string // "setup", "cli", "invite", "register", "admin-api", "appservice", FromDirectory, FromList, FromUpstream
	// EmailSID and EmailSecret name the proof of an e-mail address that the account
	// gets; "": none.
	EmailSID, EmailSecret string
	// Also runs in the transaction that makes the account; nil: nothing.
	Also func(tx *store.Tx, u User) error
}

// CheckName reports whether a localpart may be given to a new account.
// Errors: ErrBadName, ErrReserved. Spec: appendices#user-identifiers
func (a *Accounts) CheckName(localpart, source string) error {
	if localpart == "" || len(a.UserID(localpart)) > 255 {
		return ErrBadName
	}
	for _, c := range localpart {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.ContainsRune("._=-/+", c)) {
			return ErrBadName
		}
	}
	if source != "appservice" && a.Reserved != nil && a.Reserved(localpart) {
		return ErrReserved
	}
	return nil
}

// WeakPassword says why a password is not taken. It is an ErrWeakPassword.
type WeakPassword struct {
	Why   guess.Why // guess.Fine: too short, or too long
	Least int       // characters that a password must have; 0: it is too long
}

func (e *WeakPassword) Error() string {
	switch e.Why {
	case guess.Word:
		return "identity: the password is one of those that are tried first"
	case guess.Simple:
		return "identity: the password is a row of keys or a repetition"
	case guess.Name:
		return "identity: the password is little more than a name that others know"
	}
	return ErrWeakPassword.Error()
}

// Is reports whether target is ErrWeakPassword.
func (e *WeakPassword) Is(target error) bool { return target == ErrWeakPassword }

// Text says it to people who use the API.
func (e *WeakPassword) Text() string {
	switch e.Why {
	case guess.Word:
		return "This password is one of those that are tried first. Take several words that have nothing to do with each other."
	case guess.Simple:
		return "This password is a row of keys or a repetition. Take several words that have nothing to do with each other."
	case guess.Name:
		return "This password is little more than a name that others know. Take several words that have nothing to do with you."
	}
	if e.Least > 0 {
		return fmt.Sprintf("The password is too short: it needs at least %d characters.", e.Least)
	}
	return fmt.Sprintf("The password is too long: it has more than %d bytes.", maxPassword)
}

// LeastPassword is how many characters a new password has at least, whoever sets it.
func (a *Accounts) LeastPassword() int {
	if a.MinPassword == nil {
		return MinPassword
	}
	return max(MinPassword, a.MinPassword())
}

// checkPassword refuses passwords that are too short, and where people choose for themselves
// those that are easy to guess. names are some that a guesser knows.
func (a *Accounts) checkPassword(password, source string, names ...string) error {
	if least := a.LeastPassword(); utf8.RuneCountInString(password) < least {
		return &WeakPassword{Least: least}
	}
	if len(password) > maxPassword {
		return &WeakPassword{}
	}
	if source == "cli" || source == "admin-api" { // an administrator knows what they do
		return nil
	}
	if why := guess.Check(password, a.about(names...)...); why != guess.Fine {
		return &WeakPassword{Why: why}
	}
	return nil
}

// about are the names that whoever guesses the password of somebody knows.
func (a *Accounts) about(names ...string) []string {
	names = append(names, a.ServerName)
	if a.Organisation != nil {
		names = append(names, a.Organisation())
	}
	return names
}

// Create makes an account. Errors: ErrBadName, ErrReserved, ErrUserExists,
// ErrWeakPassword, ErrInvite, ErrPIN, *SlowDown, ErrEmailProof, ErrEmailInUse.
func (a *Accounts) Create(ctx context.Context, n NewUser) (User, error) {
	var hash string
	var invite Invite
	// The invite is looked at before the costly hash and used up with the insert.
	if n.Invite != "" {
		inv, err := a.InviteByToken(ctx, n.Invite)
		if err != nil {
			return User{}, err
		}
		if inv.PIN {
			if err := a.checkPIN(ctx, inv.ID, n.Invite, n.PIN); err != nil {
				return User{}, err
			}
		}
		invite = inv
		if inv.Localpart != "" {
			n.Localpart = inv.Localpart
		}
		n.Admin = false // the invite alone says what the account may do
	}
	if err := a.CheckName(n.Localpart, n.Source); err != nil {
		return User{}, err
	}
	if n.Password != "" || (n.Source != "appservice" && n.Source != "cli" && n.Source != FromDirectory && n.Source != FromList && n.Source != FromUpstream) {
		if err := a.checkPassword(n.Password, n.Source, n.Localpart, n.DisplayName); err != nil {
			return User{}, err
		}
		if err := a.Available(ctx, n.Localpart); err != nil {
			return User{}, err
		}
		var err error
		if hash, err = a.hasher.hash(ctx, n.Password); err != nil {
			return User{}, err
		}
	}
	u := User{
		ID: NewULID(a.Now()), UserID: a.UserID(n.Localpart), Localpart: n.Localpart, DisplayName: n.DisplayName,
		Roles: firstRoles(n) | invite.Roles, State: Active, HasPassword: hash != "", Created: a.Now(),
	}
	u.Admin = u.Roles.Administers()
	err := a.DB.Write(ctx, func(tx *store.Tx) error {
		if n.Invite != "" {
			var err error
			if invite, err = a.useInviteTx(tx, n.Invite); err != nil {
				return err
			}
		}
		if err := insertUser(tx, u, n.Source); err != nil {
			if store.IsConflict(err) {
				return ErrUserExists
			}
			return err
		}
		if err := a.grant(tx, u.ID, u.Roles); err != nil {
			return err
		}
		if hash != "" {
			if err := upsertPassword(tx, u.ID, hash, a.Now()); err != nil {
				return err
			}
		}
		if a.Profiles != nil {
			if err := a.Profiles.SetDisplayName(tx, u.UserID, u.DisplayName); err != nil {
				return err
			}
		}
		if n.EmailSID != "" {
			if err := a.AddEmailTx(tx, u.ID, ProofRegister, n.EmailSID, n.EmailSecret); err != nil {
				return err
			}
		}
		if n.Also != nil {
			if err := n.Also(tx, u); err != nil {
				return err
			}
		}
		d := audit.Data{"source": n.Source, "password": hash != ""}
		if u.Roles != 0 {
			d["roles"] = u.Roles.Names()
		}
		if invite.ID != "" {
			d["invite"] = invite.ID
			if _, err := tx.Exec(cardUsedBy, invite.ID, u.ID); err != nil { // if it is a card
				return err
			}
		}
		if err := a.Audit.Tx(ctx, tx, audit.Event{Name: "user.create", Target: u.UserID, Data: d}); err != nil || len(invite.groupIDs) == 0 {
			return err
		}
		if err := a.joinInvitedTx(tx, invite, u); err != nil {
			return err
		}
		var err error
		u, err = a.LoadByID(tx, u.ID) // with the roles of its groups
		return err
	})
	if err != nil {
		return User{}, err
	}
	return u, nil
}

// Available reports whether a name is free. Errors: ErrUserExists.
func (a *Accounts) Available(ctx context.Context, localpart string) error {
	_, err := a.ByLocalpart(ctx, localpart)
	switch {
	case errors.Is(err, ErrNoUser):
		return nil
	case err == nil:
		return ErrUserExists
	}
	return err
}

// ByLocalpart loads an account. Errors: ErrNoUser.
func (a *Accounts) ByLocalpart(ctx context.Context, localpart string) (u User, err error) {
	err = a.DB.Read(ctx, func(q store.Querier) error {
		u, err = a.LoadByLocalpart(q, localpart)
		return err
	})
	return u, err
}

// ByUserID loads an account by its full user ID or localpart. Errors: ErrNoUser.
func (a *Accounts) ByUserID(ctx context.Context, userID string) (User, error) {
	l, ok := a.Localpart(userID)
	if !ok {
		return User{}, ErrNoUser
	}
	return a.ByLocalpart(ctx, l)
}

// ByID loads an account by its ULID. Errors: ErrNoUser.
func (a *Accounts) ByID(ctx context.Context, id string) (u User, err error) {
	err = a.DB.Read(ctx, func(q store.Querier) error {
		u, err = a.LoadByID(q, id)
		return err
	})
	return u, err
}

// Verify is VerifyAt for who comes without a browser.
func (a *Accounts) Verify(ctx context.Context, name, password, from string) (User, error) {
	return a.VerifyAt(ctx, name, password, At{Address: from})
}

// VerifyAt checks a name and password; from is where they came from.
// Errors: ErrWrongPassword (also for unknown names), *SlowDown, and after the
// right password ErrLocked, ErrDeactivated; of people in a directory also ErrDirectory
// and ErrDirectoryPassword.
func (a *Accounts) VerifyAt(ctx context.Context, name, password string, from At) (User, error) {
	localpart, own := a.Localpart(name)
	localpart = strings.ToLower(localpart)
	ps := places(localpart, from)
	done, err := a.attempt(ctx, ps)
	if err != nil {
		return User{}, err
	}
	defer done()
	// The work for a password is done for every name, whoever keeps its password, and while a
	// directory is asked: else the time would tell who is known, and where.
	checking, stop := context.WithCancel(ctx)
	defer stop()
	checked := make(chan checkedHere, 1)
	go func() { checked <- a.checkHere(checking, localpart, own, password) }()
	if a.elsewhere != nil && own {
		u, here, err := a.elsewhere.SignIn(ctx, strings.TrimPrefix(localpart, "@"), password)
		if here && err != nil {
			if c := <-checked; c.err != nil {
				return User{}, c.err
			}
		}
		switch {
		case !here:
		case errors.Is(err, ErrWrongPassword):
			if err := a.wrong(ctx, ps, u, "directory"); err != nil {
				return User{}, err
			}
			return User{}, ErrWrongPassword
		case err != nil:
			return User{}, a.refused(ctx, u, err)
		default:
			if err := a.succeeded(ctx, ps); err != nil {
				return User{}, err
			}
			return u, a.refused(ctx, u, u.Err())
		}
	}
	c := <-checked
	if c.err != nil {
		return User{}, c.err
	}
	u := c.u
	if !c.right {
		if err := a.wrong(ctx, ps, u, "password"); err != nil {
			return User{}, err
		}
		return User{}, ErrWrongPassword
	}
	if err := a.succeeded(ctx, ps); err != nil {
		return User{}, err
	}
	if a.elsewhere != nil && u.Err() == nil {
		a.elsewhere.SignedIn(ctx, u)
	}
	return u, a.refused(ctx, u, u.Err())
}

// checkedHere is whether a password is the one that is kept here for a name, and whose.
type checkedHere struct {
	u     User
	right bool
	err   error
}

// checkHere does as much work for a name that has no password here as for one that has.
func (a *Accounts) checkHere(ctx context.Context, localpart string, own bool, password string) (c checkedHere) {
	var stored, other string
	c.err = a.DB.Read(ctx, func(q store.Querier) (err error) {
		if other, err = decoy(q, localpart); err != nil || !own {
			return err
		}
		if c.u, err = a.LoadByLocalpart(q, localpart); errors.Is(err, ErrNoUser) {
			return nil
		}
		if err == nil {
			stored, err = loadPassword(q, c.u.ID)
		}
		return err
	})
	if c.err != nil {
		return c
	}
	known := stored != ""
	if !known {
		stored = other
	}
	if len(password) > maxPassword {
		password = ""
	}
	c.right, c.err = a.hasher.verify(ctx, stored, password)
	c.right = c.right && known
	return c
}

// VerifyHash reports whether a password is the one of a hash that HashPassword made.
func (a *Accounts) VerifyHash(ctx context.Context, hash, password string) (bool, error) {
	return a.hasher.verify(ctx, hash, password)
}

// CheckPassword reports whether people may choose a password, who have these names.
// Errors: ErrWeakPassword.
func (a *Accounts) CheckPassword(password string, names ...string) error {
	return a.checkPassword(password, "self", names...)
}

// PasswordMark changes with the password that an account has here; "": it has none. It
// tells nothing of it.
func (a *Accounts) PasswordMark(ctx context.Context, id string) (mark string, err error) {
	err = a.DB.Read(ctx, func(q store.Querier) error {
		stored, err := loadPassword(q, id)
		if stored != "" {
			mark = base64.RawStdEncoding.EncodeToString(Hash("mark\x00" + stored)[:16])
		}
		return err
	})
	return mark, err
}

// HashPassword prepares SetPasswordTx, for who has these names. Errors: ErrWeakPassword.
func (a *Accounts) HashPassword(ctx context.Context, password, source string, names ...string) (string, error) {
	if err := a.checkPassword(password, source, names...); err != nil {
		return "", err
	}
	return a.hasher.hash(ctx, password)
}

// SetPasswordTx stores a password's hash and ends the browser sessions except
// the one with the hash keep. Links for another password are withdrawn. Errors: ErrElsewhere.
func (a *Accounts) SetPasswordTx(tx *store.Tx, id, hash string, keep []byte) error {
	if err := a.LocalTx(tx, id); err != nil {
		return err
	}
	if err := a.note(tx, "password.set", id, nil); err != nil {
		return err
	}
	if err := upsertPassword(tx, id, hash, a.Now()); err != nil {
		return err
	}
	if _, err := tx.Exec(revokeLinks, id); err != nil {
		return err
	}
	return a.EndBrowsersTx(tx, id, keep)
}

// Local is LocalTx in a read of its own.
func (a *Accounts) Local(ctx context.Context, id string) error {
	return a.DB.Read(ctx, func(q store.Querier) error { return a.LocalTx(q, id) })
}

// LocalTx refuses an account whose password is kept in a directory. Errors: ErrElsewhere.
func (a *Accounts) LocalTx(q store.Querier, id string) error {
	if a.elsewhere == nil {
		return nil
	}
	dir, err := a.elsewhere.Keeps(q, id)
	if err == nil && dir != "" {
		err = ErrElsewhere
	}
	return err
}

// DropPasswordTx takes an account's password away.
func (a *Accounts) DropPasswordTx(tx *store.Tx, id string) error {
	if err := a.note(tx, "password.remove", id, nil); err != nil {
		return err
	}
	return deletePassword(tx, id)
}

// TooMany reports whether a directory or a list that locks so many of its people at once
// is rather wrong than right: more than a fifth of those whose accounts are open, and more
// than two, as two who leave a team of six are no accident.
func TooMany(locked, open int) bool { return locked > 2 && 5*locked > open }

// SetStateTx changes an account's state. Browser sessions end unless it becomes
// active; a deactivated account loses its password, e-mail addresses, roles and groups,
// and never comes back. Errors: ErrDeactivated, ErrLastOwner.
func (a *Accounts) SetStateTx(tx *store.Tx, u User, state string) error {
	if u.State == Deactivated && state != Deactivated {
		return ErrDeactivated
	}
	if state != Active {
		if err := keepOwner(tx, u); err != nil {
			return err
		}
	}
	groups, err := a.LoadGroups(tx, u.ID)
	if err != nil {
		return err
	}
	for _, g := range groups {
		a.groupChanged(tx, g)
	}
	if err := updateState(tx, u.ID, state); err != nil {
		return err
	}
	if err := a.note(tx, stateEvents[state], u.ID, nil); err != nil {
		return err
	}
	if state == Deactivated {
		if err := deletePassword(tx, u.ID); err != nil {
			return err
		}
		if err := deleteEmails(tx, u.ID); err != nil {
			return err
		}
		for _, q := range []string{dropGrants, leaveGroups, dropGivenOf} {
			if _, err := tx.Exec(q, u.ID); err != nil {
				return err
			}
		}
	}
	if state != Active {
		return a.EndBrowsersTx(tx, u.ID, nil)
	}
	return nil
}

var stateEvents = map[string]string{Active: "user.unlock", Locked: "user.lock", Deactivated: "user.close"}

// note has something in the audit log that happened to an account, by its ULID.
func (a *Accounts) note(tx *store.Tx, event, id string, d audit.Data) error {
	if a.Audit == nil {
		return nil
	}
	u, err := a.LoadByID(tx, id)
	if err != nil {
		return err
	}
	return a.Audit.Tx(tx.Context(), tx, audit.Event{Name: event, Target: u.UserID, Actor: By(tx, u), Data: d})
}

// By is who changes something of an account: whom the context names, else, where it was
// asked for over the network, the person themselves.
func By(tx *store.Tx, u User) string {
	who := audit.WhoOf(tx.Context())
	if who.Actor == "" && who.IP != "" {
		return u.UserID
	}
	return who.Actor
}

// SetSuspendedTx suspends an account or restores it. Errors: ErrDeactivated.
func (a *Accounts) SetSuspendedTx(tx *store.Tx, u User, suspended bool) error {
	if u.State == Deactivated {
		return ErrDeactivated
	}
	if err := updateSuspended(tx, u.ID, suspended); err != nil {
		return err
	}
	event := "user.restore"
	if suspended {
		event = "user.suspend"
	}
	return a.Audit.Tx(tx.Context(), tx, audit.Event{Name: event, Target: u.UserID})
}

// SetAdminTx grants or takes away administration, ownership with it. Errors: ErrOwner,
// ErrLastOwner, ErrDeactivated.
func (a *Accounts) SetAdminTx(ctx context.Context, tx *store.Tx, u User, admin bool) error {
	if admin {
		return a.GrantTx(ctx, tx, u, Admin)
	}
	return a.RevokeTx(ctx, tx, u, Owner|Admin)
}

// firstRoles are the roles of a new account: whoever sets the appliance up owns it.
func firstRoles(n NewUser) Roles {
	switch {
	case !n.Admin:
		return 0
	case n.Source == "setup":
		return Owner
	}
	return Admin
}

// List returns all accounts by name.
func (a *Accounts) List(ctx context.Context) (us []User, err error) {
	err = a.DB.Read(ctx, func(q store.Querier) error {
		us, err = a.listUsers(q)
		return err
	})
	return us, err
}

// ApproveReset lets a user's cross-signing keys be replaced for a while.
func (a *Accounts) ApproveReset(ctx context.Context, id string, window time.Duration) error {
	return a.DB.Write(ctx, func(tx *store.Tx) error {
		if err := a.note(tx, "reset.approve", id, nil); err != nil {
			return err
		}
		return upsertReset(tx, id, a.Now().Add(window))
	})
}

// ResetApproved reports whether ApproveReset's window is open.
func (a *Accounts) ResetApproved(ctx context.Context, id string) (ok bool, err error) {
	err = a.DB.Read(ctx, func(q store.Querier) error {
		ok, err = loadReset(q, id, a.Now())
		return err
	})
	return ok, err
}

// Hash is how secrets are stored: SHA-256. It suits values that are long and random.
func Hash(secret string) []byte {
	h := sha256.Sum256([]byte(secret))
	return h[:]
}

// Secret makes a secret of 256 random bits.
func Secret() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base32Lower.EncodeToString(b)
}

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// NewULID makes an identifier that sorts by time: 48 bits of milliseconds, 80 random.
func NewULID(now time.Time) string {
	var b [16]byte
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		b[i] = byte(ms >> (40 - 8*i))
	}
	rand.Read(b[6:])
	var out [26]byte
	// 128 bits from the right, five at a time.
	hi := uint64(b[0])<<56 | uint64(b[1])<<48 | uint64(b[2])<<40 | uint64(b[3])<<32 | uint64(b[4])<<24 | uint64(b[5])<<16 | uint64(b[6])<<8 | uint64(b[7])
	lo := uint64(b[8])<<56 | uint64(b[9])<<48 | uint64(b[10])<<40 | uint64(b[11])<<32 | uint64(b[12])<<24 | uint64(b[13])<<16 | uint64(b[14])<<8 | uint64(b[15])
	for i := 25; i >= 0; i-- {
		out[i] = crockford[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return string(out[:])
}
