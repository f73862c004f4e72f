// Package opstore keeps sign-ins in progress, sessions and tokens, and is the
// storage behind zitadel/oidc.
//
// Invariants:
//   - Tokens and codes are stored as SHA-256 only. Signing keys are sealed under
//     a key that is not in the database.
//   - A code makes one session. When it comes again, that session ends. So does a
//     device code. What somebody agreed to makes none once their sessions were ended.
//   - The child of a refresh token is derived from it, so that a repeated refresh
//     gives the same pair. The old token is good until its child is first used;
//     when it comes after that, the session ends.
//   - A session and its device are made and removed in one transaction.
//   - Access tokens are looked up from memory; entries are dropped after the
//     commit that changes what they say. That a token is unknown is not remembered.
package opstore

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"holdfast/identity/account"
	"holdfast/identity/register"
	"holdfast/store"
	"holdfast/store/audit"
)

// Errors that callers may test for.
var (
	ErrUnknownToken = errors.New("identity: unknown token")
	ErrExpiredToken = errors.New("identity: the access token has expired")
	ErrRefresh      = errors.New("identity: the refresh token is not valid")
)

// Lifetimes.
const (
	AccessFor  = 5 * time.Minute
	refreshFor = 90 * 24 * time.Hour // idle
	codeFor    = 60 * time.Second
	requestFor = 30 * time.Minute // to sign in
)

// DeviceSink keeps the homeserver's devices in step with sessions.
type DeviceSink interface {
	UpsertDevice(tx *store.Tx, userID, deviceID, displayName string) error
	DeleteDevice(tx *store.Tx, userID, deviceID string) error
}

// Options of New.
type Options struct {
	DB       *store.DB
	Log      *slog.Logger
	Accounts *account.Accounts
	Clients  *register.Registry
	Devices  DeviceSink // nil: none
	Key      []byte     // 32 secret bytes that are not in the database
	Now      func() time.Time
	// DisplayName is the name that others see (by user ID). nil: what it was when the
	// account was made.
	DisplayName func(ctx context.Context, userID string) (string, error)
	// Client tells applications of logouts. nil: they are not told.
	Client *http.Client
	Audit  *audit.Log // nil: nothing is noted
}

// Store keeps sessions and tokens.
type Store struct {
	Options
	cache    cache
	derive   []byte // key of derived tokens
	seal     []byte // key of sealed private keys
	pairwise []byte // key of subjects and session IDs that are an application's own
	signing  signing
	paces    paces
	logouts  logouts
}

// New prepares the store. The signing key is made in the background.
func New(o Options) (*Store, error) {
	s := &Store{Options: o}
	var err error
	if s.derive, err = hkdf.Key(sha256.New, o.Key, nil, "holdfast refresh tokens", 32); err != nil {
		return nil, err
	}
	if s.seal, err = hkdf.Key(sha256.New, o.Key, nil, "holdfast signing keys", 32); err != nil {
		return nil, err
	}
	s.cache.m = map[tokenHash]*entry{}
	s.logouts.wake = make(chan struct{}, 1)
	first := make([]byte, 32)
	rand.Read(first)
	if s.pairwise, err = s.sealedSecret(context.Background(), "subjects", first); err != nil {
		return nil, fmt.Errorf("the secrets of the identity provider cannot be opened: the key file is not the one they were sealed with; restore the key file of this database: %w", err)
	}
	return s, nil
}

// Session is a signed-in application.
type Session struct {
	ID         string
	UserID     string // ULID of the account
	ClientID   string // "": a legacy login
	Scopes     []string
	DeviceID   string // "": no Matrix device
	AuthTime   time.Time
	Created    time.Time
	LastActive time.Time
	Signed
}

// Tokens are what a session is used with.
type Tokens struct {
	Access    string
	Refresh   string        // "": none
	ExpiresIn time.Duration // 0: does not expire
	DeviceID  string
}

const tokenBytes = 32

func random(prefix string) string {
	b := make([]byte, tokenBytes)
	rand.Read(b)
	return prefix + base64.RawURLEncoding.EncodeToString(b)
}

// child derives a token from the refresh token that is traded for it.
func (s *Store) child(prefix, parent string) string {
	m := hmac.New(sha256.New, s.derive)
	m.Write([]byte(prefix + "\x00" + parent))
	return prefix + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// Prefixes of tokens, so that secret scanners and people can tell them.
const (
	oauthAccess   = "mat_"
	oauthRefresh  = "mrt_"
	legacyAccess  = "hat_"
	legacyRefresh = "hrt_"
	loginToken    = "hlt_"
	codePrefix    = "hac_"
	maxToken      = 512 // bytes; longer ones are not even hashed
)

// StartTx makes a session with its tokens and device. A live session of the same
// user and device ends. lasting asks for an access token that does not expire.
func (s *Store) StartTx(tx *store.Tx, u account.User, sess *Session, deviceName string, refresh, lasting bool) (Tokens, error) {
	now := s.Now()
	sess.ID, sess.UserID, sess.Created, sess.LastActive = account.NewULID(now), u.ID, now, now
	if sess.DeviceID != "" {
		if err := s.endDeviceTx(tx, u, sess.DeviceID, "signed in again", false); err != nil {
			return Tokens{}, err
		}
		if s.Devices != nil {
			if err := s.Devices.UpsertDevice(tx, u.UserID, sess.DeviceID, deviceName); err != nil {
				return Tokens{}, err
			}
		}
	}
	if err := insertSession(tx, sess); err != nil {
		return Tokens{}, err
	}
	if err := s.noteSession(tx, "session.start", u, *sess, nil); err != nil {
		return Tokens{}, err
	}
	if err := s.Accounts.SeenTx(tx, u.ID); err != nil {
		return Tokens{}, err
	}
	ap, rp := oauthAccess, oauthRefresh
	if sess.ClientID == "" {
		ap, rp = legacyAccess, legacyRefresh
	}
	t := Tokens{Access: random(ap), DeviceID: sess.DeviceID}
	var refreshHash []byte
	if refresh {
		t.Refresh = random(rp)
		refreshHash = account.Hash(t.Refresh)
		if err := insertRefresh(tx, refreshHash, sess.ID, nil, now, now.Add(refreshFor)); err != nil {
			return Tokens{}, err
		}
	}
	var expires int64
	if !lasting {
		t.ExpiresIn = AccessFor
		expires = now.Add(AccessFor).UnixMilli()
	}
	return t, upsertAccess(tx, account.Hash(t.Access), sess.ID, refreshHash, sess.Scopes, expires)
}

// StartUntilTx makes a session without a device and without a refresh token, whose
// access token works until a time, zero for no end.
func (s *Store) StartUntilTx(tx *store.Tx, u account.User, sess *Session, until time.Time) (token string, err error) {
	now := s.Now()
	sess.ID, sess.UserID, sess.Created, sess.LastActive = account.NewULID(now), u.ID, now, now
	if err := insertSession(tx, sess); err != nil {
		return "", err
	}
	if err := s.noteSession(tx, "session.start", u, *sess, audit.Data{"acts_as": true}); err != nil {
		return "", err
	}
	var expires int64
	if !until.IsZero() {
		expires = until.UnixMilli()
	}
	token = random(legacyAccess)
	return token, upsertAccess(tx, account.Hash(token), sess.ID, nil, sess.Scopes, expires)
}

// refreshState is what presenting a refresh token means.
type refreshState struct {
	sess     Session
	user     account.User
	hash     []byte
	consumed bool
}

// loadRefreshState finds a refresh token. Errors: ErrRefresh, account.ErrLocked of a
// legacy session.
func (s *Store) loadRefreshState(q store.Querier, token string) (rs refreshState, err error) {
	if len(token) > maxToken {
		return rs, ErrRefresh
	}
	rs.hash = account.Hash(token)
	sessID, expires, consumed, err := loadRefresh(q, rs.hash)
	if err != nil {
		return rs, err
	}
	if rs.sess, err = loadSession(q, sessID); err != nil {
		return rs, err
	}
	if rs.consumed = consumed != 0; rs.consumed {
		return rs, nil
	}
	if s.Now().UnixMilli() >= expires {
		return rs, ErrRefresh
	}
	if rs.user, err = s.Accounts.LoadByID(q, rs.sess.UserID); err != nil {
		return rs, err
	}
	// A locked account keeps its sessions: a refusal would have the client forget
	// them. The token it gets opens nothing until the account is unlocked. At the
	// legacy API the client is told.
	err = rs.user.Err()
	if errors.Is(err, account.ErrLocked) && rs.sess.ClientID != "" {
		err = nil
	}
	if err != nil && !errors.Is(err, account.ErrLocked) {
		err = ErrRefresh
	}
	return rs, err
}

// Rotate trades a refresh token for the next pair. check is asked, with the
// session, before anything changes; nil: nothing is asked. scopes narrow the
// access token; nil: all of the session's. Errors: ErrRefresh, check's; any other
// is transient.
func (s *Store) Rotate(ctx context.Context, token string, scopes []string, check func(Session) error) (Tokens, error) {
	var (
		t      Tokens
		reused bool
	)
	err := s.DB.Write(ctx, func(tx *store.Tx) error {
		rs, err := s.loadRefreshState(tx, token)
		if err != nil {
			return err
		}
		if check != nil {
			if err := check(rs.sess); err != nil {
				return err
			}
		}
		if rs.consumed {
			reused = true
			return s.EndTx(tx, rs.sess.ID, "refresh token used twice", true)
		}
		now := s.Now()
		// Presenting this token proves that the answer with it arrived.
		if err := s.arrivedTx(tx, rs.hash); err != nil {
			return err
		}
		ap, rp := oauthAccess, oauthRefresh
		if rs.sess.ClientID == "" {
			ap, rp = legacyAccess, legacyRefresh
		}
		t = Tokens{Access: s.child(ap, token), Refresh: s.child(rp, token), ExpiresIn: AccessFor, DeviceID: rs.sess.DeviceID}
		ch := account.Hash(t.Refresh)
		if err := insertRefresh(tx, ch, rs.sess.ID, rs.hash, now, now.Add(refreshFor)); err != nil {
			return err
		}
		if scopes == nil {
			scopes = rs.sess.Scopes
		}
		ah := account.Hash(t.Access)
		if err := upsertAccess(tx, ah, rs.sess.ID, ch, scopes, now.Add(AccessFor).UnixMilli()); err != nil {
			return err
		}
		tx.AfterCommit(func() { s.cache.drop(func(h tokenHash, _ *entry) bool { return h == tokenHash(ah) }) })
		return touchSession(tx, rs.sess.ID, now)
	})
	if err == nil && reused {
		s.Log.Warn("a refresh token was used after its successor; its session was ended")
		err = ErrRefresh
	}
	if err != nil {
		return Tokens{}, err
	}
	return t, nil
}

// arrivedTx notes that the pair with a refresh token's hash is in use: the token
// it replaced, and the access tokens given out with that one, are over.
func (s *Store) arrivedTx(tx *store.Tx, refresh []byte) error {
	parent, err := loadParent(tx, refresh)
	if err != nil || parent == nil {
		return err
	}
	now := s.Now()
	n, err := consumeRefresh(tx, parent, now)
	if err != nil || n == 0 {
		return err
	}
	if err := expireAccess(tx, parent, now); err != nil {
		return err
	}
	tx.AfterCommit(func() {
		s.cache.drop(func(_ tokenHash, e *entry) bool { return e.refresh != nil && slices.Equal(e.refresh, parent) })
	})
	return nil
}

// EndTx ends a session: its tokens die, with deleteDevice its device goes, and its
// application is told. Ending a session that has ended does nothing.
func (s *Store) EndTx(tx *store.Tx, id, reason string, deleteDevice bool) error {
	sess, err := loadSession(tx, id)
	if errors.Is(err, ErrRefresh) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.endTx(tx, id, reason, deleteDevice); err != nil || sess.ClientID == "" {
		return err
	}
	return s.logoutTx(tx, loginsOfOne, sess.UserID, sess.ClientID, sess.SID)
}

// endTx is EndTx of which nobody has to be told.
func (s *Store) endTx(tx *store.Tx, id, reason string, deleteDevice bool) error {
	sess, err := loadSession(tx, id)
	if errors.Is(err, ErrRefresh) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := endSession(tx, id, reason, s.Now()); err != nil {
		return err
	}
	tx.AfterCommit(func() { s.cache.drop(func(_ tokenHash, e *entry) bool { return e.SessionID == id }) })
	u, err := s.Accounts.LoadByID(tx, sess.UserID)
	if err != nil {
		return err
	}
	if err := s.noteSession(tx, "session.end", u, sess, audit.Data{"reason": reason}); err != nil {
		return err
	}
	if !deleteDevice || sess.DeviceID == "" || s.Devices == nil {
		return nil
	}
	return s.Devices.DeleteDevice(tx, u.UserID, sess.DeviceID)
}

// noteSession has in the audit log that a session began or ended.
func (s *Store) noteSession(tx *store.Tx, event string, u account.User, sess Session, d audit.Data) error {
	if d == nil {
		d = audit.Data{}
	}
	d["session"] = sess.ID
	for k, v := range map[string]string{"client": sess.ClientID, "device": sess.DeviceID} {
		if v != "" {
			d[k] = v
		}
	}
	return s.Audit.Tx(tx.Context(), tx, audit.Event{Name: event, Target: u.UserID, Actor: account.By(tx, u), Data: d})
}

func (s *Store) endDeviceTx(tx *store.Tx, u account.User, deviceID, reason string, deleteDevice bool) error {
	ids, err := listDeviceSessions(tx, u.ID, deviceID)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := s.EndTx(tx, id, reason, deleteDevice); err != nil {
			return err
		}
	}
	return nil
}

// EndDeviceTx ends the sessions of a device that is being deleted.
func (s *Store) EndDeviceTx(tx *store.Tx, u account.User, deviceID string) error {
	return s.endDeviceTx(tx, u, deviceID, "device deleted", false)
}

// EndAllTx ends a user's sessions with their devices, except those of the device keep ("": none).
func (s *Store) EndAllTx(tx *store.Tx, u account.User, keep, reason string) error {
	all, err := listSessions(tx, u.ID)
	if err != nil {
		return err
	}
	for _, sess := range all {
		if keep != "" && sess.DeviceID == keep {
			continue
		}
		if err := s.EndTx(tx, sess.ID, reason, true); err != nil {
			return err
		}
	}
	for _, q := range []string{dropRequests, dropGrants} {
		if _, err := tx.Exec(q, u.ID); err != nil {
			return err
		}
	}
	return s.LogoutUserTx(tx, u.ID)
}

// Sessions lists a user's live sessions, the latest first.
func (s *Store) Sessions(ctx context.Context, id string) (out []Session, err error) {
	err = s.DB.Read(ctx, func(q store.Querier) error {
		out, err = listSessions(q, id)
		return err
	})
	slices.SortFunc(out, func(a, b Session) int { return b.LastActive.Compare(a.LastActive) })
	return out, err
}

// Revoke ends the session that an access or refresh token belongs to. It reports
// whose client it was; unknown tokens are no error. check sees the session first.
func (s *Store) Revoke(ctx context.Context, token string, check func(Session) error) error {
	if len(token) > maxToken {
		return nil
	}
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		hash := account.Hash(token)
		id, _, _, err := loadRefresh(tx, hash)
		if errors.Is(err, ErrRefresh) {
			id, err = loadAccessSession(tx, hash)
		}
		if errors.Is(err, ErrUnknownToken) {
			return nil
		}
		if err != nil {
			return err
		}
		sess, err := loadSession(tx, id)
		if errors.Is(err, ErrRefresh) {
			return nil
		}
		if err != nil {
			return err
		}
		if check != nil {
			if err := check(sess); err != nil {
				return err
			}
		}
		return s.endTx(tx, id, "revoked", true) // by who is asked to tell themselves
	})
}

// CreateLoginToken makes a token that signs in once within ttl.
func (s *Store) CreateLoginToken(ctx context.Context, id string, ttl time.Duration) (string, error) {
	t := random(loginToken)
	return t, s.DB.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(insertLoginToken, account.Hash(t), id, s.Now().Add(ttl).UnixMilli())
		return err
	})
}

// ConsumeLoginToken uses a login token up and returns whose it is. Errors: ErrUnknownToken.
func (s *Store) ConsumeLoginToken(ctx context.Context, token string) (u account.User, err error) {
	if len(token) > maxToken {
		return u, ErrUnknownToken
	}
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		var id string
		var expires int64
		err := tx.QueryRow(consumeLoginToken, account.Hash(token)).Scan(&id, &expires)
		if errors.Is(err, store.ErrNotFound) || (err == nil && s.Now().UnixMilli() >= expires) {
			return ErrUnknownToken
		}
		if err != nil {
			return err
		}
		u, err = s.Accounts.LoadByID(tx, id)
		return err
	})
	if err == nil {
		err = u.Err()
	}
	return u, err
}

// SweepTx removes what has expired, and ends the sessions that nothing can be done
// with any more, together with their devices.
func (s *Store) SweepTx(tx *store.Tx) error {
	dead, err := strings1(tx, selectDeadSessions, s.Now().UnixMilli(), sweepBatch)
	if err != nil {
		return err
	}
	for _, id := range dead {
		if err := s.endTx(tx, id, "not used any more", true); err != nil { // the sign-in goes on
			return err
		}
	}
	return sweep(tx, s.Now())
}

// Scopes of the Matrix APIs, in the stable and the unstable spelling.
const (
	stablePrefix   = "urn:matrix:client:"
	unstablePrefix = "urn:matrix:org.matrix.msc2967.client:"
)

// ErrScope says what is wrong with a list of scopes.
type ErrScope struct{ Msg string }

func (e *ErrScope) Error() string { return e.Msg }

// plainScopes are those of OpenID Connect that are granted to any application.
var plainScopes = []string{"openid", "profile", "email", "groups", "offline_access"}

// emptyScopes are those that nothing is known for here. Asking for them is no fault, and
// gives nothing. Spec: OpenID Connect Core section 5.4
var emptyScopes = []string{"phone", "address"}

// CheckScopes checks a requested scope: known values only; if any Matrix value is
// there, then the full client API with exactly one device, in one spelling. It
// returns the values without repetition, and the device ID. Errors: *ErrScope.
// Spec: cs#scope
func CheckScopes(scope string) (scopes []string, deviceID string, err error) {
	if len(scope) > 1024 {
		return nil, "", &ErrScope{"The scope is too long."}
	}
	var stable, unstable, api bool
	devices := 0
	for _, v := range strings.Split(scope, " ") {
		if v == "" || slices.Contains(scopes, v) || slices.Contains(emptyScopes, v) {
			continue
		}
		scopes = append(scopes, v)
		rest, isStable := strings.CutPrefix(v, stablePrefix)
		rest2, isUnstable := strings.CutPrefix(v, unstablePrefix)
		switch {
		case isStable:
			stable = true
		case isUnstable:
			unstable, rest = true, rest2
		case slices.Contains(plainScopes, v):
			continue
		default:
			return nil, "", &ErrScope{"The scope has a value that this server does not grant."}
		}
		if rest == "api:*" {
			api = true
			continue
		}
		id, ok := strings.CutPrefix(rest, "device:")
		if !ok || !ValidDeviceID(id) {
			return nil, "", &ErrScope{"The scope has a value that this server does not grant."}
		}
		deviceID = id
		devices++
	}
	switch {
	case len(scopes) == 0:
		return nil, "", &ErrScope{"The scope is empty."}
	case stable && unstable:
		return nil, "", &ErrScope{"The scope mixes the stable and the unstable Matrix spelling."}
	case devices > 1:
		return nil, "", &ErrScope{"The scope names more than one device."}
	case api != (devices == 1):
		return nil, "", &ErrScope{"The client API and one device belong together in the scope."}
	}
	return scopes, deviceID, nil
}

// ValidDeviceID reports whether a client may choose this device ID in a scope:
// unreserved URI characters only. Spec: cs#device-id-allocation
func ValidDeviceID(id string) bool {
	if id == "" || len(id) > 255 {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0) {
			return false
		}
	}
	return true
}

// matrixAPI reports whether scopes cover the client-server API.
func matrixAPI(scopes []string) bool {
	return slices.Contains(scopes, stablePrefix+"api:*") || slices.Contains(scopes, unstablePrefix+"api:*")
}
