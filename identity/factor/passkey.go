package factor

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"holdfast/store"
)

// Errors about passkeys.
var (
	ErrPasskey     = errors.New("identity: the passkey was not accepted")
	ErrPasskeyName = errors.New("identity: the passkey's name is missing or too long")
	ErrManyKeys    = errors.New("identity: the account has as many passkeys as it may")
	ErrNoPasskeys  = errors.New("identity: passkeys cannot be used at this address")
)

// Bounds.
const (
	maxPasskeys    = 20
	maxPasskeyName = 100
	maxResponse    = 32 << 10
	challengeFor   = 15 * time.Minute
	maxSpent       = 20_000
)

// Purposes of a challenge.
const (
	forEnrol  = "enrol"
	forAlone  = "alone"
	forSecond = "second"
)

// RPID is the name that passkeys are bound to: the host of the appliance's public
// address, or "" where it can have none, as an IP address or a name without a dot.
func RPID(publicURL string) string {
	u, err := url.Parse(publicURL)
	if err != nil || u.Scheme != "https" {
		return ""
	}
	host := strings.ToLower(u.Hostname())
	if _, err := netip.ParseAddr(host); err == nil || !strings.Contains(strings.Trim(host, "."), ".") {
		return ""
	}
	return host
}

// PasskeysAt reports whether passkeys can be used by who reached the appliance at an
// origin.
func (f *Factors) PasskeysAt(origin string) bool {
	u, err := url.Parse(origin)
	return err == nil && f.RPID != "" && u.Scheme == "https" && strings.ToLower(u.Hostname()) == f.RPID
}

// Passkey is one of an account's.
type Passkey struct {
	ID       string // of the credential, base64url
	Name     string
	Made     time.Time
	Used     time.Time // zero: never
	Foreign  bool      // it was made for another name of the appliance, and works no more
	Synced   bool      // it is kept by more than one device
	RPID     string
	cred     webauthn.Credential
	userULID string
}

// Person is whose passkeys they are.
type Person struct {
	ID, Name, DisplayName string
	keys                  []webauthn.Credential
}

// WebAuthnID implements webauthn.User.
func (p *Person) WebAuthnID() []byte { return []byte(p.ID) }

// WebAuthnName implements webauthn.User.
func (p *Person) WebAuthnName() string { return p.Name }

// WebAuthnDisplayName implements webauthn.User.
func (p *Person) WebAuthnDisplayName() string {
	if p.DisplayName == "" {
		return p.Name
	}
	return p.DisplayName
}

// WebAuthnCredentials implements webauthn.User.
func (p *Person) WebAuthnCredentials() []webauthn.Credential { return p.keys }

const passkeyColumns = `SELECT cred_id, user_id, name, public_key, sign_count, aaguid, flags, transports, rp_id, created, last_used FROM id_passkeys `

func (f *Factors) scanPasskey(scan func(...any) error) (k Passkey, err error) {
	var flags, count, made, used int64
	var transports string
	if err := scan(&k.cred.ID, &k.userULID, &k.Name, &k.cred.PublicKey, &count, &k.cred.Authenticator.AAGUID, &flags, &transports, &k.RPID, &made, &used); err != nil {
		return k, err
	}
	k.cred.Flags = webauthn.NewCredentialFlags(protocol.AuthenticatorFlags(flags))
	k.cred.Authenticator.SignCount = uint32(count)
	for _, t := range strings.Fields(transports) {
		k.cred.Transport = append(k.cred.Transport, protocol.AuthenticatorTransport(t))
	}
	k.ID, k.Made = base64.RawURLEncoding.EncodeToString(k.cred.ID), time.UnixMilli(made)
	k.Foreign, k.Synced = k.RPID != f.RPID, k.cred.Flags.BackupEligible
	if used != 0 {
		k.Used = time.UnixMilli(used)
	}
	return k, nil
}

const selectPasskeys = passkeyColumns + `WHERE user_id = $1 ORDER BY created, cred_id`

// Passkeys lists those of an account.
func (f *Factors) Passkeys(ctx context.Context, user string) (out []Passkey, err error) {
	err = f.DB.Read(ctx, func(q store.Querier) error {
		rows, err := q.Query(selectPasskeys, user)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			k, err := f.scanPasskey(rows.Scan)
			if err != nil {
				return err
			}
			out = append(out, k)
		}
		return rows.Err()
	})
	return out, err
}

// load gives a person their passkeys.
func (f *Factors) load(ctx context.Context, p *Person) error {
	keys, err := f.Passkeys(ctx, p.ID)
	p.keys = nil
	for _, k := range keys {
		if !k.Foreign {
			p.keys = append(p.keys, k.cred)
		}
	}
	return err
}

// challenges makes challenges that need not be remembered: each is signed, says until
// when it is good and, in the signature, for whom and what. Those that came back are
// remembered, so that each does so once.
type challenges struct {
	mu    sync.Mutex
	key   []byte
	spent map[[16]byte]int64
}

func (c *challenges) start() {
	c.key, c.spent = make([]byte, 32), map[[16]byte]int64{}
	rand.Read(c.key)
}

const challengeBytes = 16 + 8 + 16

func (c *challenges) sign(b []byte, bound ...string) []byte {
	m := hmac.New(sha256.New, c.key)
	m.Write(b)
	for _, s := range bound {
		fmt.Fprintf(m, "%d:%s", len(s), s)
	}
	return m.Sum(nil)[:16]
}

func (c *challenges) make(now time.Time, bound ...string) []byte {
	b := make([]byte, 16, challengeBytes)
	rand.Read(b)
	b = binary.BigEndian.AppendUint64(b, uint64(now.Add(challengeFor).UnixMilli()))
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(b, c.sign(b, bound...)...)
}

// take reports whether a challenge is one of ours for this, and spends it.
func (c *challenges) take(b []byte, now time.Time, bound ...string) bool {
	if len(b) != challengeBytes {
		return false
	}
	until := int64(binary.BigEndian.Uint64(b[16:24]))
	c.mu.Lock()
	defer c.mu.Unlock()
	if !hmac.Equal(b[24:], c.sign(b[:24], bound...)) || now.UnixMilli() > until {
		return false
	}
	id := [16]byte(b[:16])
	if _, gone := c.spent[id]; gone {
		return false
	}
	if len(c.spent) >= maxSpent {
		for k, t := range c.spent {
			if t < now.UnixMilli() {
				delete(c.spent, k)
			}
		}
		if len(c.spent) >= maxSpent {
			c.start() // none that is out is good any more: people load the page again
			return false
		}
	}
	c.spent[id] = until
	return true
}

// party is the library, for who reached us at an origin. Errors: ErrNoPasskeys.
func (f *Factors) party(origin string) (*webauthn.WebAuthn, error) {
	if !f.PasskeysAt(origin) {
		return nil, ErrNoPasskeys
	}
	name := f.RPID
	if f.Organisation != nil {
		name = f.Organisation()
	}
	return webauthn.New(&webauthn.Config{
		RPID: f.RPID, RPDisplayName: name, RPOrigins: []string{origin},
		AttestationPreference: protocol.PreferNoAttestation,
		AuthenticatorSelection: protocol.AuthenticatorSelection{
			ResidentKey: protocol.ResidentKeyRequirementPreferred, UserVerification: protocol.VerificationPreferred,
		},
		// Password managers add outputs that nobody asked for.
		ExtensionsUnsolicitedOutputPolicy: protocol.UnsolicitedOutputPolicyIgnore,
	})
}

// BeginPasskey gives the options with which a browser makes a passkey, as JSON.
// browser names it: only there the answer is taken. Errors: ErrNoPasskeys, ErrManyKeys.
func (f *Factors) BeginPasskey(ctx context.Context, p Person, origin string, browser []byte) (string, error) {
	w, err := f.party(origin)
	if err != nil {
		return "", err
	}
	if err := f.load(ctx, &p); err != nil {
		return "", err
	}
	if len(p.keys) >= maxPasskeys {
		return "", ErrManyKeys
	}
	challenge := f.challenges.make(f.Now(), forEnrol, p.ID, origin, string(browser))
	c, _, err := w.BeginRegistration(&p, webauthn.WithExclusions(webauthn.Credentials(p.keys).CredentialDescriptors()),
		func(o *protocol.PublicKeyCredentialCreationOptions) error { o.Challenge = challenge; return nil })
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(c.Response)
	return string(b), err
}

const insertPasskey = `INSERT INTO id_passkeys (cred_id, user_id, name, public_key, sign_count, aaguid, flags, transports, rp_id, created, last_used)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0)`

const countPasskeys = `SELECT count(*) FROM id_passkeys WHERE user_id = $1`

// AddPasskey keeps a passkey that a browser made. codes are recovery codes, made with
// the first factor. Errors: ErrPasskey, ErrPasskeyName, ErrNoPasskeys, ErrManyKeys.
func (f *Factors) AddPasskey(ctx context.Context, p Person, origin string, browser []byte, response, name string) (methods, codes []string, err error) {
	if name, err = passkeyName(name); err != nil {
		return nil, nil, err
	}
	w, err := f.party(origin)
	if err != nil {
		return nil, nil, err
	}
	if len(response) > maxResponse {
		return nil, nil, ErrPasskey
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes([]byte(response))
	if err != nil {
		return nil, nil, ErrPasskey
	}
	said := parsed.Response.CollectedClientData.Challenge
	challenge, err := base64.RawURLEncoding.DecodeString(said)
	if err != nil || !f.challenges.take(challenge, f.Now(), forEnrol, p.ID, origin, string(browser)) {
		return nil, nil, ErrPasskey
	}
	cred, err := w.CreateCredential(&p, webauthn.SessionData{Challenge: said, RelyingPartyID: f.RPID, UserID: p.WebAuthnID(),
		UserVerification: protocol.VerificationPreferred, CredParams: webauthn.CredentialParametersDefault()}, parsed)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrPasskey, err)
	}
	var transports []string
	for _, t := range cred.Transport {
		if s := string(t); len(s) < 32 && !strings.ContainsAny(s, " \t\r\n") && len(transports) < 8 {
			transports = append(transports, s)
		}
	}
	err = f.DB.Write(ctx, func(tx *store.Tx) error {
		var n int
		if err := tx.QueryRow(countPasskeys, p.ID).Scan(&n); err != nil {
			return err
		}
		if n >= maxPasskeys {
			return ErrManyKeys
		}
		_, err := tx.Exec(insertPasskey, cred.ID, p.ID, name, cred.PublicKey, cred.Authenticator.SignCount, cred.Authenticator.AAGUID,
			int64(cred.Flags.ProtocolValue()), strings.Join(transports, " "), f.RPID, f.Now().UnixMilli())
		if store.IsConflict(err) {
			return ErrPasskey
		}
		if err != nil {
			return err
		}
		if err := f.note(ctx, tx, p.ID, "factor.passkey.add", name); err != nil {
			return err
		}
		s, err := f.OfTx(tx, p.ID)
		if err != nil || s.HadCodes {
			return err
		}
		codes, err = f.NewCodesTx(ctx, tx, p.ID)
		return err
	})
	return proved(cred), codes, err
}

// proved are the methods of RFC 8176 that a use of a passkey shows.
func proved(c *webauthn.Credential) []string {
	if c.Flags.BackupEligible {
		return []string{"swk"} // it leaves its device
	}
	return []string{"hwk"}
}

// BeginSignIn gives the options with which a browser asks for a passkey, as JSON: of one
// account as its second factor, or, with a Person without an ID, of whoever it is, who
// then needs no password. Errors: ErrNoPasskeys, ErrNone.
func (f *Factors) BeginSignIn(ctx context.Context, p Person, second bool, origin string, browser []byte) (string, error) {
	w, err := f.party(origin)
	if err != nil {
		return "", err
	}
	purpose, verify := forAlone, protocol.VerificationRequired
	owner := ""
	if second {
		purpose, verify, owner = forSecond, protocol.VerificationPreferred, p.ID
	}
	challenge := f.challenges.make(f.Now(), purpose, owner, origin, string(browser))
	set := func(o *protocol.PublicKeyCredentialRequestOptions) error {
		o.Challenge, o.UserVerification = challenge, verify
		return nil
	}
	var c *protocol.CredentialAssertion
	if p.ID == "" {
		c, _, err = w.BeginDiscoverableLogin(set)
	} else {
		if err := f.load(ctx, &p); err != nil {
			return "", err
		}
		if len(p.keys) == 0 {
			return "", ErrNone
		}
		c, _, err = w.BeginLogin(&p, set)
	}
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(c.Response)
	return string(b), err
}

const (
	selectPasskey = passkeyColumns + `WHERE cred_id = $1`
	usePasskey    = `UPDATE id_passkeys SET sign_count = $2, flags = $3, last_used = $4 WHERE cred_id = $1 AND (sign_count < $2 OR sign_count = 0 AND $2 = 0)`
)

// SignIn checks what a browser answered, for the account second, or, where that is "",
// for whoever's passkey it is. Its challenge is spent before anything else is looked at.
// Errors: ErrPasskey, ErrNoPasskeys.
func (f *Factors) SignIn(ctx context.Context, second, origin string, browser []byte, response string) (user string, methods []string, err error) {
	w, err := f.party(origin)
	if err != nil {
		return "", nil, err
	}
	if len(response) > maxResponse {
		return "", nil, ErrPasskey
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes([]byte(response))
	if err != nil {
		return "", nil, ErrPasskey
	}
	purpose, verify := forAlone, protocol.VerificationRequired
	if second != "" {
		purpose, verify = forSecond, protocol.VerificationPreferred
	}
	said := parsed.Response.CollectedClientData.Challenge
	challenge, err := base64.RawURLEncoding.DecodeString(said)
	if err != nil || !f.challenges.take(challenge, f.Now(), purpose, second, origin, string(browser)) {
		return "", nil, ErrPasskey
	}
	var key Passkey
	err = f.DB.Read(ctx, func(q store.Querier) error {
		key, err = f.scanPasskey(q.QueryRow(selectPasskey, parsed.RawID).Scan)
		return err
	})
	if errors.Is(err, store.ErrNotFound) || err == nil && (second != "" && key.userULID != second || key.Foreign) {
		err = ErrPasskey
	}
	if err != nil {
		return "", nil, err
	}
	p := &Person{ID: key.userULID, keys: []webauthn.Credential{key.cred}}
	cred, err := w.ValidateLogin(p, webauthn.SessionData{Challenge: said, RelyingPartyID: f.RPID, UserID: p.WebAuthnID(), UserVerification: verify}, parsed)
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", ErrPasskey, err)
	}
	// A device that counts never counts back: then there are two of it.
	if cred.Authenticator.CloneWarning {
		return "", nil, fmt.Errorf("%w: its counter went back", ErrPasskey)
	}
	err = f.DB.Write(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(usePasskey, cred.ID, cred.Authenticator.SignCount, int64(cred.Flags.ProtocolValue()), f.Now().UnixMilli())
		if err == nil && n == 0 {
			err = ErrPasskey
		}
		return err
	})
	return p.ID, proved(cred), err
}

func passkeyName(s string) (string, error) {
	s = strings.TrimSpace(s)
	if s == "" || len(s) > maxPasskeyName || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) {
		return "", ErrPasskeyName
	}
	return s, nil
}

const (
	renamePasskey = `UPDATE id_passkeys SET name = $3 WHERE cred_id = $1 AND user_id = $2`
	deletePasskey = `DELETE FROM id_passkeys WHERE cred_id = $1 AND user_id = $2`
	dropPasskeys  = `DELETE FROM id_passkeys WHERE user_id = $1`
)

// RenamePasskey gives a passkey another name. Errors: ErrPasskeyName.
func (f *Factors) RenamePasskey(ctx context.Context, user, id, name string) error {
	name, err := passkeyName(name)
	if err != nil {
		return err
	}
	return f.changePasskey(ctx, user, id, "factor.passkey.rename", name, renamePasskey, name)
}

// RemovePasskey takes a passkey away. Errors: ErrNeeded.
func (f *Factors) RemovePasskey(ctx context.Context, user, id string) error {
	return f.changePasskey(ctx, user, id, "factor.passkey.remove", "", deletePasskey)
}

func (f *Factors) changePasskey(ctx context.Context, user, id, event, name, query string, more ...any) error {
	cred, err := base64.RawURLEncoding.DecodeString(id)
	if err != nil || len(id) > 2048 {
		return nil // one that is not there
	}
	return f.DB.Write(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(query, append([]any{cred, user}, more...)...)
		if err != nil || n == 0 {
			return err
		}
		if err := f.note(ctx, tx, user, event, name); err != nil {
			return err
		}
		return f.tidyTx(tx, user)
	})
}
