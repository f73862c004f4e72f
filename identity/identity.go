// Package identity is the appliance's OpenID provider and its accounts: who
// somebody is, which sessions and tokens they hold, and the pages where they
// sign in. zitadel/oidc runs the protocol behind a strict front of ours.
//
// Invariants:
//   - Tokens, codes, invites and cookies are stored as SHA-256 only; signing keys
//     are sealed under a key that is not in the database.
//   - Origins come from Options, never from Host or Forwarded headers.
//   - A session and its device are made and removed in one transaction.
//   - op's router is never mounted: each endpoint checks the request itself and
//     hands op only what passed.
//   - The package knows no Matrix beyond user IDs, device IDs and scopes.
package identity

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"

	"holdfast/identity/account"
	"holdfast/identity/bulk"
	"holdfast/identity/clock"
	"holdfast/identity/factor"
	"holdfast/identity/login"
	"holdfast/identity/opstore"
	"holdfast/identity/register"
	"holdfast/identity/roster"
	"holdfast/identity/upstream"
	"holdfast/store"
	"holdfast/store/audit"
	"holdfast/store/sealed"
)

// Errors that callers may test for.
var (
	ErrUnknownToken  = opstore.ErrUnknownToken
	ErrExpiredToken  = opstore.ErrExpiredToken // refresh it; the session lives
	ErrRefresh       = opstore.ErrRefresh
	ErrLocked        = account.ErrLocked
	ErrDeactivated   = account.ErrDeactivated
	ErrWrongPassword = account.ErrWrongPassword
	ErrUserExists    = account.ErrUserExists
	ErrBadName       = account.ErrBadName
	ErrReserved      = account.ErrReserved
	ErrWeakPassword  = account.ErrWeakPassword
	ErrNoUser        = account.ErrNoUser
	ErrInvite        = account.ErrInvite
	ErrMayNotInvite  = account.ErrMayNotInvite
	ErrPIN           = account.ErrPIN
	ErrEmail         = account.ErrEmail
	ErrEmailInUse    = account.ErrEmailInUse
	ErrEmailToken    = account.ErrEmailToken
	ErrEmailExpired  = account.ErrEmailExpired
	ErrEmailProof    = account.ErrEmailProof
	ErrEmails        = account.ErrEmails
	ErrEmailKept     = account.ErrEmailKept
	ErrNoToken       = account.ErrNoToken
	ErrTokenExists   = account.ErrTokenExists
	ErrDirectory     = account.ErrDirectory
	ErrElsewhere     = account.ErrElsewhere

	ErrDirectoryPassword = account.ErrDirectoryPassword

	ErrLink        = account.ErrLink
	ErrHasPassword = account.ErrHasPassword
	ErrLinkTime    = account.ErrLinkTime

	// ErrSecondFactor: a password alone does not open the account.
	ErrSecondFactor = errors.New("identity: the account has a second factor, which only the sign-in pages ask for")

	ErrPhoneName   = login.ErrPhoneName
	ErrPhoneDevice = login.ErrPhoneDevice
	ErrManyPhones  = login.ErrManyPhones
)

// Types of the packages below, under the names that callers use.
type (
	SlowDown     = account.SlowDown
	WeakPassword = account.WeakPassword
	User         = account.User
	NewUser      = account.NewUser
	NewInvite    = account.NewInvite
	Invite       = account.Invite
	Browser      = account.Browser
	PasswordCost = account.Cost
	ProfileSink  = account.ProfileSink
	DeviceSink   = opstore.DeviceSink
	Principal    = opstore.Principal
	Tokens       = opstore.Tokens
	Email        = account.Email
	EmailRequest = account.EmailRequest
	EmailTicket  = account.EmailTicket
	EmailProof   = account.EmailProof
	Kept         = roster.Kept
	Phones       = login.Phones
	Phone        = login.Phone
	NewPhone     = login.NewPhone
)

// Options of New.
type Options struct {
	ServerName   string                        // of user IDs
	PublicURL    string                        // canonical origin, "https://chat.example.org"; the issuer
	Origin       func(*http.Request) string    // origin a request came in by; nil: PublicURL
	Organisation func() string                 // shown on pages; nil: ServerName
	DB           *store.DB                     //
	Log          *slog.Logger                  // nil: discarded
	Devices      DeviceSink                    // nil: none
	Profiles     ProfileSink                   // nil: none
	Text         func(lang, key string) string // message catalogue; nil: keys are shown
	Key          []byte                        // 32 secret bytes that are not in the database; nil: those of KeyFile
	KeyFile      string                        // 32 secret bytes, made if missing; "": identity.key beside the database
	Mail         login.Mailer                  // nil: no e-mail is sent
	Limits       bool                          // slow down repeated failures and registrations
	Reserved     func(localpart string) bool   // names of application services; nil: none
	Deactivated  func(userID string)           // runs after an account was closed; nil: nothing
	// Locked and Suspended run after an account was locked or suspended, or was not
	// any more. nil: nothing.
	Locked    func(userID string, locked bool)
	Suspended func(userID string, suspended bool)
	// GroupChanged is told that somebody came into a group, by its ULID, or left it, that an
	// account in it was locked or opened, or that it is gone. It must be quick. nil: nothing.
	GroupChanged func(groupID string)
	// Phones fetch their notifications from the appliance. nil: none can.
	Phones Phones
	// DisplayName and Rename are of the profile that others see. nil: the account page
	// does not change it.
	DisplayName func(ctx context.Context, userID string) (string, error)
	Rename      func(ctx context.Context, userID, displayName string) error
	// Avatar, SetProfile and Upload are for people whose name or picture follows a
	// directory: a nil name or picture stays, Upload gives the mxc:// address of a picture.
	// nil: they do not follow.
	Avatar     func(ctx context.Context, userID string) (uri string, err error)
	SetProfile func(ctx context.Context, userID string, name, avatar *string) error
	Upload     func(ctx context.Context, userID, mediaType string, content []byte) (uri string, err error)
	// Alarm tells the administrators of what they must look at. nil: it is only logged.
	Alarm func(ctx context.Context, text string)
	// Tell tells somebody what happened to their account. nil: nobody is told.
	Tell func(ctx context.Context, u User, text string)
	// Policy is what was decided about signing in, as it is now. nil: the zero Policy.
	Policy func() Policy
	// QR draws a text. nil: pages show it as text only.
	QR func(text string) (svg string, err error)
	// Client goes to addresses that administrators named. nil: applications are not told
	// when people sign out.
	Client *http.Client
	// RegistrationOpen lets anybody make an account on the pages.
	RegistrationOpen bool
	// PasswordCost overrides the calibrated cost. Only tests go below account.Floor.
	PasswordCost PasswordCost
	// Now is the clock; nil: the machine's.
	Now func() time.Time
	// Audit keeps what happens to accounts, sessions and what administrators decide. nil:
	// it is not kept.
	Audit *audit.Log
	// MaxClients bounds the registered applications; 0: the default.
	MaxClients int
}

// SessionRequest asks for a session of a legacy login.
type SessionRequest struct {
	UserID      string
	DeviceID    string // "": a new one
	DisplayName string // of a new device
	Refresh     bool   // short access token and a refresh token, instead of a lasting one
}

// Service is the identity provider.
type Service struct {
	o         Options
	accounts  *account.Accounts
	clients   *register.Registry
	sessions  *opstore.Store
	factors   *factor.Factors
	roster    *roster.Roster
	upstreams *upstream.Upstreams
	lists     *bulk.Lists
	pages     *login.Pages
	provider  *op.Provider
	limit     limiter // of registrations
	mails     limiter // of mails that pages send
	devices   limiter // of devices that ask to be signed in
	seal      []byte  // key of Seal
	clock     *clock.Clock

	mu      sync.Mutex
	origins []string // at which requests came in, the canonical one first

	ctx     context.Context // of the upkeep
	stop    context.CancelFunc
	running sync.WaitGroup
}

// maxOrigins bounds the origins that are remembered; there are two in practice.
const maxOrigins = 8

// New prepares the identity provider. Start begins its upkeep, which ends with ctx
// or Close.
func New(ctx context.Context, o Options) (*Service, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Origin == nil {
		o.Origin = func(*http.Request) string { return o.PublicURL }
	}
	if o.Organisation == nil {
		o.Organisation = func() string { return o.ServerName }
	}
	if o.Text == nil {
		o.Text = func(_, key string) string { return key }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	passing, err := clock.Open(ctx, o.DB, o.Now)
	if err != nil {
		return nil, err
	}
	machine := o.Now
	o.Now = passing.Now
	if o.KeyFile == "" {
		o.KeyFile = keyFileOf(o.DB)
	}
	if o.PasswordCost == (PasswordCost{}) && !o.Limits {
		o.PasswordCost = account.Floor
	}
	key := o.Key
	if key == nil {
		if key, err = loadKeyFile(o.KeyFile); err != nil {
			return nil, err
		}
	}
	s := &Service{o: o, clock: passing, origins: []string{o.PublicURL}}
	if s.seal, err = hkdf.Key(sha256.New, key, nil, "holdfast settings", 32); err != nil {
		return nil, err
	}
	known, err := hkdf.Key(sha256.New, key, nil, "holdfast known browsers", 32)
	if err != nil {
		return nil, err
	}
	tokens, err := hkdf.Key(sha256.New, key, nil, "holdfast registration tokens", 32)
	if err != nil {
		return nil, err
	}
	secrets, err := sealed.New(tokens)
	if err != nil {
		return nil, err
	}
	s.accounts = account.New(account.Options{Secrets: secrets, DB: o.DB, ServerName: o.ServerName, Cost: o.PasswordCost, Limits: o.Limits,
		Profiles: o.Profiles, Reserved: o.Reserved, Now: o.Now, Key: known, Audit: o.Audit, Organisation: o.Organisation, GroupChanged: o.GroupChanged,
		MinPassword: s.minPassword, Lifetimes: s.lifetimes})
	if err := s.accounts.SealTokens(ctx); err != nil {
		return nil, err
	}
	s.clients = register.New(register.Options{DB: o.DB, Now: o.Now, Live: opstore.LiveClients, Origins: s.seenOrigins, MaxClients: o.MaxClients, Audit: o.Audit, Accounts: s.accounts})
	s.sessions, err = opstore.New(opstore.Options{DB: o.DB, Log: o.Log, Accounts: s.accounts, Clients: s.clients, Devices: o.Devices, Key: key, Now: o.Now,
		DisplayName: o.DisplayName, Client: o.Client, Audit: o.Audit})
	if err != nil {
		return nil, err
	}
	s.factors, err = factor.New(factor.Options{DB: o.DB, Key: key, Now: machine, RPID: factor.RPID(o.PublicURL), Organisation: o.Organisation, Note: s.noteFactor, Needed: s.factorNeeded,
		Seal:   func(b []byte) ([]byte, error) { return opstore.Seal(s.seal, b) },
		Unseal: func(b []byte) ([]byte, error) { return opstore.Unseal(s.seal, b) }})
	if err != nil {
		return nil, err
	}
	s.accounts.OnEnd(func(tx *store.Tx, userID, sid string) error {
		if err := s.upstreams.EndedTx(tx, sid); err != nil {
			return err
		}
		return s.sessions.BrowserEndedTx(tx, userID, sid)
	})
	s.accounts.OnGroupRename(s.groupRenamed)
	s.roster, err = roster.New(ctx, roster.Options{DB: o.DB, Log: o.Log, Accounts: s.accounts, Seal: s.Seal, Unseal: s.Unseal,
		Lock: s.lockOut, DisplayName: o.DisplayName, Avatar: o.Avatar, SetProfile: o.SetProfile, Upload: o.Upload, Groups: s.directoryGroups, Alarm: o.Alarm, Now: o.Now, Audit: o.Audit})
	if err != nil {
		return nil, err
	}
	s.accounts.Ask(s.roster)
	rename := o.Rename
	if rename != nil {
		rename = s.renameUnlessKept
	}
	s.upstreams, err = upstream.New(ctx, upstream.Options{DB: o.DB, Log: o.Log, Accounts: s.accounts, Seal: s.Seal, Unseal: s.Unseal, Client: o.Client, Now: o.Now, Audit: o.Audit,
		DisplayName: o.DisplayName, Rename: rename, Changed: s.regrouped, Lock: s.lockOut, OtherWay: s.otherWay})
	if err != nil {
		return nil, err
	}
	s.roster.Others(s.upstreams.Down)
	s.lists = bulk.New(bulk.Options{DB: o.DB, Accounts: s.accounts, Audit: o.Audit, Lock: s.lockOut, Name: o.DisplayName, Rename: o.Rename,
		Keeps: s.roster.Keeps, Groups: s.listGroups})
	s.pages = login.New(login.Options{Accounts: s.accounts, Sessions: s.sessions, Clients: s.clients, Upstreams: s.upstreams, Factors: s.factors, QR: o.QR, ServerName: o.ServerName, PublicURL: o.PublicURL,
		Organisation: o.Organisation, RegistrationOpen: o.RegistrationOpen, Origin: o.Origin, Text: o.Text, Log: o.Log, Now: o.Now,
		Demand: s.demand, Refuse: s.refuse, SetPassword: s.changePassword, UseLink: s.useLink, Deactivate: s.deactivate, EndSession: s.endSession, EndEverything: s.endEverything,
		Phones: o.Phones, Mail: o.Mail, MayMail: s.mayMail, DisplayName: o.DisplayName, Rename: o.Rename, Kept: s.Kept})
	// The issuer is the origin a request came in by, which only the appliance decides.
	issuer := func(bool) (op.IssuerFromRequest, error) { return o.Origin, nil }
	s.provider, err = op.NewProvider(&op.Config{CodeMethodS256: true, GrantTypeRefreshToken: true}, opstore.Storage{S: s.sessions}, issuer,
		op.WithCrypto(opstore.Crypto{S: s.sessions}), op.WithCORSOptions(nil))
	if err != nil {
		return nil, err
	}
	s.ctx, s.stop = context.WithCancel(ctx)
	return s, nil
}

// Seal protects a secret of the appliance that lies in the database, by the key
// that does not.
func (s *Service) Seal(secret string) (string, error) {
	b, err := opstore.Seal(s.seal, []byte(secret))
	return base64.RawStdEncoding.EncodeToString(b), err
}

// Unseal gives back what Seal protected.
func (s *Service) Unseal(sealed string) (string, error) {
	b, err := base64.RawStdEncoding.DecodeString(sealed)
	if err == nil {
		b, err = opstore.Unseal(s.seal, b)
	}
	if err != nil {
		return "", fmt.Errorf("the key file is not the one that it was sealed with: %w", err)
	}
	return string(b), nil
}

// mayMail takes one mail from the allowance of an address.
func (s *Service) mayMail(r *http.Request) time.Duration {
	if !s.o.Limits {
		return 0
	}
	return s.mails.allow(r, s.o.Now())
}

// Start begins the upkeep, once Devices can be told of what it ends.
func (s *Service) Start() {
	s.running.Go(func() { s.upkeep(s.ctx) })
	s.running.Go(func() { s.roster.Run(s.ctx) })
	s.running.Go(func() { s.watchClock(s.ctx) })
	s.running.Go(func() { s.sessions.RunLogouts(s.ctx) })
	s.running.Go(func() { s.upstreams.Run(s.ctx) })
}

// Directories are those that people come from.
func (s *Service) Directories() *roster.Roster { return s.roster }

// Lists are the lists of people that accounts were made of.
func (s *Service) Lists() *bulk.Lists { return s.lists }

// otherWay reports whether somebody has a way in besides a password and other providers.
func (s *Service) otherWay(q store.Querier, u User) (bool, error) {
	directory, err := s.roster.Keeps(q, u.ID)
	if err != nil || directory != "" {
		return directory != "", err
	}
	has, err := s.factors.OfTx(q, u.ID)
	return has.Passkeys > 0, err
}

// Upstreams are the other providers that sign people in here.
func (s *Service) Upstreams() *upstream.Upstreams { return s.upstreams }

// Close ends the upkeep. Call it before the store is closed.
func (s *Service) Close() {
	s.stop()
	s.running.Wait()
	if err := s.clock.Keep(context.Background(), true); err != nil {
		s.o.Log.Warn("the time could not be noted", "err", err)
	}
}

// upkeep makes the signing key and sweeps every hour.
func (s *Service) upkeep(ctx context.Context) {
	if err := s.sessions.PrepareKey(ctx); err != nil && ctx.Err() == nil {
		s.o.Log.Error("there is no key to sign with; sign-ins will fail", "err", err)
	}
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if err := s.sessions.UpkeepKeys(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.Error("the keys for ID tokens could not be looked after", "err", err)
		}
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.Error("expired sessions could not be removed", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// sweep removes what has expired, and ends sessions that have no token left.
func (s *Service) sweep(ctx context.Context) error {
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if err := s.accounts.SweepTx(tx); err != nil {
			return err
		}
		return s.sessions.SweepTx(tx)
	})
}

func keyFileOf(db *store.DB) string { return filepath.Join(filepath.Dir(db.Path()), "identity.key") }

// DerivedKey is a key of 32 bytes for another purpose, which comes from the key file
// beside the database, so that the database alone does not have it; the file is made if
// it is missing.
func DerivedKey(db *store.DB, purpose string) ([]byte, error) {
	return derivedKey(keyFileOf(db), purpose)
}

func derivedKey(path, purpose string) ([]byte, error) {
	key, err := loadKeyFile(path)
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, key, nil, purpose, 32)
}

const auditPurpose = "holdfast audit log"

// AuditKey is the key of the audit log's MACs.
func AuditKey(db *store.DB) ([]byte, error) { return DerivedKey(db, auditPurpose) }

// AuditKeyOf is AuditKey by the path of the key file.
func AuditKeyOf(path string) ([]byte, error) { return derivedKey(path, auditPurpose) }

// loadKeyFile reads the secret under which keys are sealed, or makes it.
func loadKeyFile(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b = make([]byte, 32)
		rand.Read(b)
		return b, writeKeyFile(path, b)
	}
	if err != nil {
		return nil, err
	}
	if len(b) != 32 {
		return nil, fmt.Errorf("identity: %s should have 32 bytes and has %d; restore it from a backup", path, len(b))
	}
	return b, nil
}

func writeKeyFile(path string, b []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if e := f.Sync(); err == nil {
		err = e
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// origin is the origin a request came in by. It is remembered for the redirect
// URIs of our own web client.
func (s *Service) origin(r *http.Request) string {
	o := s.o.Origin(r)
	s.mu.Lock()
	if !slices.Contains(s.origins, o) && len(s.origins) < maxOrigins {
		s.origins = append(slices.Clip(s.origins), o)
	}
	s.mu.Unlock()
	return o
}

func (s *Service) seenOrigins() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.origins
}

// Lookup returns whose access token it is, from memory where it can. Use it only
// for the Matrix API: tokens of other applications are unknown to it.
// Errors: ErrUnknownToken, ErrExpiredToken, ErrLocked (with the principal), ErrDeactivated.
func (s *Service) Lookup(ctx context.Context, token string) (Principal, error) {
	p, err := s.sessions.Lookup(ctx, token)
	if (err == nil || errors.Is(err, ErrLocked)) && !p.Matrix() {
		return Principal{}, ErrUnknownToken
	}
	return p, err
}

// CreateUser makes an account. Errors: ErrUserExists, ErrBadName, ErrReserved,
// ErrWeakPassword, ErrInvite.
func (s *Service) CreateUser(ctx context.Context, n NewUser) (User, error) {
	return s.accounts.Create(ctx, n)
}

// Available reports whether a name could be registered. Errors: ErrUserExists, ErrBadName, ErrReserved.
func (s *Service) Available(ctx context.Context, localpart string) error {
	if err := s.accounts.CheckName(localpart, "register"); err != nil {
		return err
	}
	return s.accounts.Available(ctx, localpart)
}

// User finds an account by its user ID or localpart. Errors: ErrNoUser.
func (s *Service) User(ctx context.Context, userID string) (User, error) {
	return s.accounts.ByUserID(ctx, userID)
}

// Users lists all accounts by name.
func (s *Service) Users(ctx context.Context) ([]User, error) { return s.accounts.List(ctx) }

// VerifyPassword checks a password; from is the address it came from, for the
// slow-down. It is for applications that know no second factor. Errors:
// ErrWrongPassword, *SlowDown, ErrLocked, ErrDeactivated, ErrSecondFactor, ErrFactorMissing.
func (s *Service) VerifyPassword(ctx context.Context, userID, password, from string) (User, error) {
	u, err := s.accounts.Verify(ctx, userID, password, from)
	if err != nil || s.policy().PasswordAlone {
		return u, err
	}
	has, err := s.factors.Of(ctx, u.ID)
	if err != nil {
		return u, err
	}
	if has.Any() {
		return u, ErrSecondFactor
	}
	d, err := s.demand(ctx, u)
	if err == nil && d.Overdue(s.o.Now()) {
		err = ErrFactorMissing
	}
	return u, err
}

// SetPassword sets a password, and ends all sessions except those of the device
// keepDevice ("": none is kept) unless keepAll. Errors: ErrNoUser, ErrWeakPassword.
func (s *Service) SetPassword(ctx context.Context, userID, password, keepDevice string, keepAll bool) error {
	return s.setPassword(ctx, userID, password, "cli", keepDevice, keepAll)
}

// ChangePassword is SetPassword for people themselves, whose passwords must not be weak.
func (s *Service) ChangePassword(ctx context.Context, userID, password, keepDevice string, keepAll bool) error {
	return s.setPassword(ctx, userID, password, "self", keepDevice, keepAll)
}

func (s *Service) setPassword(ctx context.Context, userID, password, source, keepDevice string, keepAll bool) error {
	name, _ := s.accounts.Localpart(userID)
	hash, err := s.accounts.HashPassword(ctx, password, source, name)
	if err != nil {
		return err
	}
	return s.withUser(ctx, userID, func(tx *store.Tx, u User) error {
		if u.State == account.Deactivated {
			return ErrDeactivated
		}
		if err := s.accounts.SetPasswordTx(tx, u.ID, hash, nil); err != nil || keepAll {
			return err
		}
		return s.sessions.EndAllTx(tx, u, keepDevice, "password changed")
	})
}

// changePassword is SetPassword for the account page.
func (s *Service) changePassword(ctx context.Context, u User, password string, keepBrowser []byte, endOthers bool) error {
	hash, err := s.accounts.HashPassword(ctx, password, "page", u.Localpart, u.DisplayName)
	if err != nil {
		return err
	}
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if err := s.accounts.SetPasswordTx(tx, u.ID, hash, keepBrowser); err != nil || !endOthers {
			return err
		}
		return s.sessions.EndAllTx(tx, u, "", "password changed")
	})
}

// withUser is asked for changes that must not happen to an owner by who is none.
// Errors: ErrNoUser, ErrOwner, fn's.
func (s *Service) withUser(ctx context.Context, userID string, fn func(tx *store.Tx, u User) error) error {
	return s.asked(ctx, userID, func(tx *store.Tx, u User) error {
		if err := s.accounts.MayChangeTx(ctx, tx, u); err != nil {
			return err
		}
		return fn(tx, u)
	})
}

// asked runs fn in a write with an account, whose tokens are read anew afterwards.
func (s *Service) asked(ctx context.Context, userID string, fn func(tx *store.Tx, u User) error) error {
	l, ok := s.accounts.Localpart(userID)
	if !ok {
		return ErrNoUser
	}
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		u, err := s.accounts.LoadByLocalpart(tx, l)
		if err != nil {
			return err
		}
		tx.AfterCommit(func() { s.sessions.DropUser(u.ID) })
		return fn(tx, u)
	})
}

// HashPassword gives the argon2id hash of a password that belongs to no account, as
// that of the machine's own screen. Errors: ErrWeakPassword.
func (s *Service) HashPassword(ctx context.Context, password string) (string, error) {
	return s.accounts.HashPassword(ctx, password, "console")
}

// VerifyHash reports whether a password fits a hash of HashPassword.
func (s *Service) VerifyHash(ctx context.Context, hash, password string) (bool, error) {
	return s.accounts.VerifyHash(ctx, hash, password)
}

// SetDisabled locks an account, so that none of its tokens work, or unlocks it:
// its sessions then go on. Errors: ErrNoUser, ErrDeactivated.
func (s *Service) SetDisabled(ctx context.Context, userID string, disabled bool) error {
	state := account.Active
	if disabled {
		state = account.Locked
	}
	var id string
	err := s.withUser(ctx, userID, func(tx *store.Tx, u User) error {
		id = u.UserID
		if err := s.accounts.SetStateTx(tx, u, state); err != nil || !disabled {
			return err
		}
		return s.sessions.LogoutUserTx(tx, u.ID)
	})
	if err == nil && s.o.Locked != nil {
		s.o.Locked(id, disabled)
	}
	return err
}

// lockOut locks an account and ends its sessions with their devices, or unlocks it.
func (s *Service) lockOut(ctx context.Context, userID string, locked bool) error {
	err := s.SetDisabled(ctx, userID, locked)
	if errors.Is(err, ErrLastOwner) {
		s.o.Log.Error("a directory or a list would lock the last owner of the appliance, who stays", "user", userID)
		return nil
	}
	if err != nil || !locked {
		return err
	}
	return s.withUser(ctx, userID, func(tx *store.Tx, u User) error {
		return s.sessions.EndAllTx(tx, u, "", "locked by the directory or list")
	})
}

// SetSuspended suspends an account, which may then read but not write, or restores
// it. Whether it is locked is another matter. Errors: ErrNoUser, ErrDeactivated.
func (s *Service) SetSuspended(ctx context.Context, userID string, suspended bool) error {
	var id string
	err := s.withUser(ctx, userID, func(tx *store.Tx, u User) error {
		id = u.UserID
		return s.accounts.SetSuspendedTx(tx, u, suspended)
	})
	if err == nil && s.o.Suspended != nil {
		s.o.Suspended(id, suspended)
	}
	return err
}

// SetAdmin grants or takes away administration. Errors: ErrNoUser, ErrOwner, ErrLastOwner.
func (s *Service) SetAdmin(ctx context.Context, userID string, admin bool) error {
	return s.withUser(ctx, userID, func(tx *store.Tx, u User) error { return s.accounts.SetAdminTx(ctx, tx, u, admin) })
}

// Deactivate closes an account for good: its sessions end and its password goes.
func (s *Service) Deactivate(ctx context.Context, userID string) error {
	var id string
	err := s.withUser(ctx, userID, func(tx *store.Tx, u User) error {
		id = u.UserID
		if err := s.accounts.SetStateTx(tx, u, account.Deactivated); err != nil {
			return err
		}
		if err := s.factors.DropTx(tx, u.ID); err != nil {
			return err
		}
		return s.sessions.EndAllTx(tx, u, "", "account closed")
	})
	if err == nil && s.o.Deactivated != nil {
		s.o.Deactivated(id)
	}
	return err
}

func (s *Service) deactivate(ctx context.Context, u User) error { return s.Deactivate(ctx, u.UserID) }

func (s *Service) endSession(ctx context.Context, u User, id string) error {
	all, err := s.sessions.Sessions(ctx, u.ID)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, func(x opstore.Session) bool { return x.ID == id }) {
		return nil // ended already, or somebody else's
	}
	return s.o.DB.Write(ctx, func(tx *store.Tx) error { return s.sessions.EndTx(tx, id, "ended on the account page", true) })
}

// endEverything signs somebody out of all browsers, applications and devices.
func (s *Service) endEverything(ctx context.Context, u User) error {
	return s.withUser(ctx, u.UserID, func(tx *store.Tx, u User) error {
		if err := s.accounts.EndBrowsersTx(tx, u.ID, nil); err != nil {
			return err
		}
		return s.sessions.EndAllTx(tx, u, "", "signed out everywhere")
	})
}

// StartSession makes a session with its device. Errors: ErrNoUser, ErrLocked, ErrDeactivated.
func (s *Service) StartSession(ctx context.Context, r SessionRequest) (t Tokens, err error) {
	l, ok := s.accounts.Localpart(r.UserID)
	if !ok {
		return Tokens{}, ErrNoUser
	}
	if r.DeviceID == "" {
		r.DeviceID = rand.Text()[:10]
	}
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		u, err := s.accounts.LoadByLocalpart(tx, l)
		if err != nil {
			return err
		}
		if err := u.Err(); err != nil {
			return err
		}
		sess := &opstore.Session{DeviceID: r.DeviceID, AuthTime: s.o.Now()}
		t, err = s.sessions.StartTx(tx, u, sess, r.DisplayName, r.Refresh, !r.Refresh)
		return err
	})
	return t, err
}

// Refresh rotates a refresh token of a legacy login. Errors: ErrRefresh; others
// are transient: answer 503.
func (s *Service) Refresh(ctx context.Context, refresh string) (Tokens, error) {
	return s.sessions.Rotate(ctx, refresh, nil, func(x opstore.Session) error {
		if x.ClientID != "" {
			return ErrRefresh
		}
		return nil
	})
}

// EndDevice ends a device's sessions and deletes the device.
func (s *Service) EndDevice(ctx context.Context, userID, deviceID string) error {
	return s.withUser(ctx, userID, func(tx *store.Tx, u User) error {
		if err := s.sessions.EndDeviceTx(tx, u, deviceID); err != nil || s.o.Devices == nil || deviceID == "" {
			return err
		}
		return s.o.Devices.DeleteDevice(tx, u.UserID, deviceID)
	})
}

// EndDeviceTx ends a device's sessions inside the transaction that deletes the device.
func (s *Service) EndDeviceTx(tx *store.Tx, userID, deviceID string) error {
	l, ok := s.accounts.Localpart(userID)
	if !ok || deviceID == "" {
		return nil
	}
	u, err := s.accounts.LoadByLocalpart(tx, l)
	if errors.Is(err, ErrNoUser) {
		return nil // a user of an application service has no account
	}
	if err != nil {
		return err
	}
	return s.sessions.EndDeviceTx(tx, u, deviceID)
}

// EndAll ends all sessions of a user and deletes their devices, except those of keepDevice.
func (s *Service) EndAll(ctx context.Context, userID, keepDevice string) error {
	return s.withUser(ctx, userID, func(tx *store.Tx, u User) error {
		return s.sessions.EndAllTx(tx, u, keepDevice, "signed out everywhere")
	})
}

// CreateInvite makes an invite link; who asks is in the context (WithActor). Errors:
// ErrBadName, ErrReserved, ErrUserExists, ErrMayNotInvite, ErrOwner, ErrNoGroup, ErrGroupSource.
func (s *Service) CreateInvite(ctx context.Context, n NewInvite) (Invite, error) {
	inv, err := s.accounts.CreateInvite(ctx, n)
	inv.URL = s.o.PublicURL + "/e/" + inv.Token
	return inv, err
}

// Invites lists invites, newest first.
func (s *Service) Invites(ctx context.Context) ([]Invite, error) { return s.accounts.Invites(ctx) }

// RevokeInvite makes an invite useless. Errors: ErrInvite when there is none.
func (s *Service) RevokeInvite(ctx context.Context, id string) error {
	return s.accounts.RevokeInvite(ctx, id)
}

// InviteValid reports whether an invite's token could be used now.
func (s *Service) InviteValid(ctx context.Context, token string) (bool, error) {
	_, err := s.accounts.InviteByToken(ctx, token)
	if errors.Is(err, ErrInvite) {
		return false, nil
	}
	return err == nil, err
}

// RegistrationToken is a word that registers accounts.
type RegistrationToken = account.RegistrationToken

// NewTokenWord makes a word for one, of that many characters.
func NewTokenWord(length int) string { return account.NewTokenWord(length) }

// RegistrationTokens lists the words that register accounts.
func (s *Service) RegistrationTokens(ctx context.Context) ([]RegistrationToken, error) {
	return s.accounts.RegistrationTokens(ctx)
}

// RegistrationToken loads one. Errors: ErrNoToken.
func (s *Service) RegistrationToken(ctx context.Context, token string) (RegistrationToken, error) {
	return s.accounts.RegistrationToken(ctx, token)
}

// CreateRegistrationToken adds one. Errors: ErrTokenExists.
func (s *Service) CreateRegistrationToken(ctx context.Context, t RegistrationToken) error {
	return s.accounts.CreateRegistrationToken(ctx, t)
}

// ChangeRegistrationToken changes one. Errors: ErrNoToken, change's.
func (s *Service) ChangeRegistrationToken(ctx context.Context, token string, change func(*RegistrationToken) error) (RegistrationToken, error) {
	return s.accounts.ChangeRegistrationToken(ctx, token, change)
}

// DeleteRegistrationToken removes one. Errors: ErrNoToken.
func (s *Service) DeleteRegistrationToken(ctx context.Context, token string) error {
	return s.accounts.DeleteRegistrationToken(ctx, token)
}

// SignInAs gives a token that acts as a user without a device of theirs, until a time,
// zero for no end. EndToken ends it. Errors: ErrNoUser, ErrLocked, ErrDeactivated.
func (s *Service) SignInAs(ctx context.Context, userID string, until time.Time) (token string, err error) {
	err = s.withUser(ctx, userID, func(tx *store.Tx, u User) error {
		if err := u.Err(); err != nil {
			return err
		}
		t, err := s.sessions.StartUntilTx(tx, u, &opstore.Session{AuthTime: s.o.Now()}, until)
		token = t
		return err
	})
	return token, err
}

// EndToken ends the session that an access token belongs to, with its device. An
// unknown token is no error.
func (s *Service) EndToken(ctx context.Context, token string) error {
	return s.sessions.Revoke(ctx, token, nil)
}

// BrowserSession is who is signed in at the pages in the request's browser.
// It does not check where the request came from: use http.CrossOriginProtection.
func (s *Service) BrowserSession(r *http.Request) (Browser, bool) { return s.pages.SignedIn(r) }

// Fresh reports whether a person proved lately who they are, as strongly as they can.
func (s *Service) Fresh(ctx context.Context, b Browser) (bool, error) { return s.pages.Fresh(ctx, b) }

// SignIn starts a browser session and sets its cookie, for who just chose a password.
func (s *Service) SignIn(w http.ResponseWriter, r *http.Request, userID string) error {
	u, err := s.User(r.Context(), userID)
	if err != nil {
		return err
	}
	if err := u.Err(); err != nil {
		return err
	}
	return s.pages.SignIn(w, r, u, "pwd")
}

// CreateLoginToken makes a token that logs in once within ttl (m.login.token).
func (s *Service) CreateLoginToken(ctx context.Context, userID string, ttl time.Duration) (string, error) {
	u, err := s.User(ctx, userID)
	if err != nil {
		return "", err
	}
	return s.sessions.CreateLoginToken(ctx, u.ID, ttl)
}

// ConsumeLoginToken returns whose login token it is and makes it useless.
// Errors: ErrUnknownToken, ErrLocked, ErrDeactivated.
func (s *Service) ConsumeLoginToken(ctx context.Context, token string) (userID string, err error) {
	u, err := s.sessions.ConsumeLoginToken(ctx, token)
	return u.UserID, err
}

// ResetApproved reports whether the person approved, on the account page, that
// their cross-signing keys may be replaced now.
func (s *Service) ResetApproved(ctx context.Context, userID string) (bool, error) {
	u, err := s.User(ctx, userID)
	if err != nil {
		return false, err
	}
	return s.accounts.ResetApproved(ctx, u.ID)
}
