package opstore

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"holdfast/identity/account"
	"holdfast/identity/register"
	"holdfast/store"
	"holdfast/store/audit"
)

// Signed is how somebody signed in, and which claims an application asked for one by
// one. It is kept with the sign-in and then with its session.
type Signed struct {
	AMR    []string `json:"amr,omitempty"` // RFC 8176
	SID    string   `json:"sid,omitempty"` // of the browser session; "": there is none
	Claims *Claims  `json:"claims,omitempty"`
}

func (s Signed) text() string {
	b, err := json.Marshal(s)
	if err != nil || string(b) == "{}" {
		return ""
	}
	return string(b)
}

func parseSigned(raw string) (s Signed, err error) {
	if raw != "" {
		err = json.Unmarshal([]byte(raw), &s)
	}
	return s, err
}

func (s Signed) methods() []string {
	if len(s.AMR) == 0 {
		return []string{"pwd"}
	}
	return s.AMR
}

// Classes of authentication, from the weakest.
const (
	ACROne = "urn:holdfast:acr:1fa"
	ACRTwo = "urn:holdfast:acr:2fa"
	ACRPhr = "phr" // resistant to phishing: OpenID EAP ACR Values 1.0
)

// ACR is the class of a sign-in by these methods.
func ACR(amr []string) string {
	switch {
	case slices.Contains(amr, "hwk") || slices.Contains(amr, "swk"):
		return ACRPhr
	case slices.Contains(amr, "mfa"):
		return ACRTwo
	}
	return ACROne
}

// Reaches reports whether a sign-in by these methods is of one of the wanted classes, or
// of a stronger one.
func Reaches(amr, wanted []string) bool {
	order := []string{ACROne, ACRTwo, ACRPhr}
	have := slices.Index(order, ACR(amr))
	return slices.ContainsFunc(wanted, func(w string) bool {
		n := slices.Index(order, w)
		return n >= 0 && n <= have
	})
}

// Claim is how a claim was asked for. Spec: OpenID Connect Core section 5.5.1
type Claim struct {
	Essential bool  `json:"essential,omitempty"`
	Value     any   `json:"value,omitempty"`
	Values    []any `json:"values,omitempty"`
}

// wanted are the values that the claim may have; nil: any.
func (c *Claim) wanted() (out []string) {
	if c == nil {
		return nil
	}
	for _, v := range append([]any{c.Value}, c.Values...) {
		if s, ok := v.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// Claims are those that an application asked for one by one.
type Claims struct {
	UserInfo map[string]*Claim `json:"userinfo,omitempty"`
	IDToken  map[string]*Claim `json:"id_token,omitempty"`
}

const maxClaims = 4096 // bytes of the parameter

// scopeOf is the scope that gives a claim; others are known by no scope.
var scopeOf = map[string]string{
	"name": "profile", "preferred_username": "profile", "updated_at": "profile",
	"email": "email", "email_verified": "email", "groups": "groups",
}

// ParseClaims reads the parameter claims. Claims that are not known are left out: who
// asks for them must do without. Spec: OpenID Connect Core section 5.5
func ParseClaims(raw string) (*Claims, error) {
	if len(raw) > maxClaims {
		return nil, errors.New("claims is too long")
	}
	var c Claims
	if !strings.HasPrefix(strings.TrimSpace(raw), "{") || json.Unmarshal([]byte(raw), &c) != nil {
		return nil, errors.New("claims must be a JSON object as OpenID Connect Core section 5.5 has it")
	}
	for _, m := range []map[string]*Claim{c.UserInfo, c.IDToken} {
		for k := range m {
			if scopeOf[k] == "" && k != "acr" && k != "auth_time" && k != "sub" && k != "amr" {
				delete(m, k)
			}
		}
	}
	return &c, nil
}

// Scopes are those whose content the claims are part of, for the consent page.
func (c *Claims) Scopes() (out []string) {
	if c == nil {
		return nil
	}
	for _, m := range []map[string]*Claim{c.UserInfo, c.IDToken} {
		for k := range m {
			if s := scopeOf[k]; s != "" && !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	slices.Sort(out)
	return out
}

// ACR are the classes that were asked for, and whether one of them is a must.
func (c *Claims) ACR() (wanted []string, essential bool) {
	if c == nil || c.IDToken["acr"] == nil {
		return nil, false
	}
	return c.IDToken["acr"].wanted(), c.IDToken["acr"].Essential
}

// Subject is the subject that was asked for, or "".
func (c *Claims) Subject() string {
	if c != nil {
		for _, m := range []map[string]*Claim{c.IDToken, c.UserInfo} {
			if w := m["sub"].wanted(); len(w) > 0 {
				return w[0]
			}
		}
	}
	return ""
}

// sealedSecret loads a secret of the provider from the database, or keeps first there.
func (s *Store) sealedSecret(ctx context.Context, name string, first []byte) (secret []byte, err error) {
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		var sealed []byte
		err := tx.QueryRow(`SELECT sealed FROM id_sealed WHERE name = $1`, name).Scan(&sealed)
		if errors.Is(err, store.ErrNotFound) {
			secret = first
			if sealed, err = Seal(s.seal, first); err != nil {
				return err
			}
			_, err = tx.Exec(`INSERT INTO id_sealed (name, sealed) VALUES ($1, $2)`, name, sealed)
			return err
		}
		if err != nil {
			return err
		}
		secret, err = Unseal(s.seal, sealed)
		return err
	})
	return secret, err
}

// Subject is the name by which an application knows somebody: the account's ULID, or,
// for applications that want one of their own, what only they see. That is derived by
// a secret, by the account and the application. Spec: OpenID Connect Core section 8.1
func (s *Store) Subject(c *register.Client, userID string) string {
	if c == nil || !c.Pairwise() {
		return userID
	}
	m := hmac.New(sha256.New, s.pairwise)
	m.Write([]byte(c.ID + "\x00" + userID))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// SessionID names a browser session to an application, which no other knows it by.
func (s *Store) SessionID(clientID, sid string) string {
	if sid == "" {
		return ""
	}
	m := hmac.New(sha256.New, s.pairwise)
	m.Write([]byte("sid\x00" + clientID + "\x00" + sid))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil)[:18])
}

// ErrNotAllowed is returned for somebody who may not use an application.
var ErrNotAllowed = errors.New("identity: the person may not use this application")

// MayUse reports whether somebody may use an application: it is on, and they are in one
// of its groups, if it has any. Errors: ErrNotAllowed.
func (s *Store) MayUse(ctx context.Context, c *register.Client, userID string) error {
	if !c.Disabled() && !c.Restricted() {
		return nil
	}
	return s.DB.Read(ctx, func(q store.Querier) error { return s.mayUse(q, c, userID) })
}

func (s *Store) mayUse(q store.Querier, c *register.Client, userID string) error {
	if c.Disabled() {
		return ErrNotAllowed
	}
	if !c.Restricted() {
		return nil
	}
	groups, err := s.Accounts.LoadGroups(q, userID)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if c.App.Admits(g.ID) {
			return nil
		}
	}
	return ErrNotAllowed
}

const (
	// An application without a refresh token has no session any more when its access
	// token has expired; that it signed somebody in is known all the same.
	selectUsed = `SELECT client_id FROM id_sessions WHERE user_id = $1 AND ended = 0 AND client_id <> '' UNION SELECT client_id FROM id_logins WHERE user_id = $1`
	selectUses = `SELECT user_id FROM id_sessions WHERE client_id = $1 AND ended = 0 UNION SELECT user_id FROM id_logins WHERE client_id = $1`
)

// LeftTx follows that somebody, by their ULID, is in fewer groups: applications that they
// may not use any more are told, and end for them. Those with offline_access get no new
// token instead, until their person is back; with all they end as well.
func (s *Store) LeftTx(tx *store.Tx, userID string, all bool) error {
	ids, err := strings1(tx, selectUsed, userID)
	if err != nil {
		return err
	}
	for _, id := range ids {
		c, err := s.Clients.Load(tx, id)
		if errors.Is(err, register.ErrNoClient) {
			continue
		}
		if err == nil {
			err = s.endUnlessTx(tx, c, userID, all)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// NarrowedTx follows that an application is for other people than before: it ends for
// those who may not use it any more.
func (s *Store) NarrowedTx(tx *store.Tx, clientID string) error {
	c, err := s.Clients.Load(tx, clientID)
	if err != nil {
		return err
	}
	ids, err := strings1(tx, selectUses, clientID)
	for _, id := range ids {
		if err == nil {
			err = s.endUnlessTx(tx, c, id, true)
		}
	}
	return err
}

// endUnlessTx ends an application for somebody who may not use it, and has it told.
func (s *Store) endUnlessTx(tx *store.Tx, c *register.Client, userID string, all bool) error {
	err := s.mayUse(tx, c, userID)
	if !errors.Is(err, ErrNotAllowed) {
		return err
	}
	list, err := listSessions(tx, userID)
	if err != nil {
		return err
	}
	for _, x := range list {
		if x.ClientID == c.ID && (all || !offline(x.Scopes)) {
			if err := s.EndTx(tx, x.ID, "not in a group for it any more", true); err != nil {
				return err
			}
		}
	}
	return s.logoutTx(tx, loginsOfApp, userID, c.ID)
}

// Consent is what somebody allowed an application.
type Consent struct {
	ClientID string
	Scopes   []string
	Granted  int64 // ms
}

const (
	selectConsent  = `SELECT scopes FROM id_consents WHERE user_id = $1 AND client_id = $2`
	selectConsents = `SELECT client_id, scopes, granted FROM id_consents WHERE user_id = $1 ORDER BY granted`
	upsertConsent  = `INSERT INTO id_consents (user_id, client_id, scopes, granted) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_id, client_id) DO UPDATE SET scopes = excluded.scopes, granted = excluded.granted`
	deleteConsent = `DELETE FROM id_consents WHERE user_id = $1 AND client_id = $2`
)

func loadConsent(q store.Querier, userID, clientID string) ([]string, error) {
	var scopes string
	err := q.QueryRow(selectConsent, userID, clientID).Scan(&scopes)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return strings.Fields(scopes), err
}

// wanted are the scopes of a request that its person is asked about: those of the
// parameter, and those behind single claims.
func (r *Request) wanted() []string {
	out := slices.Clone(r.Scopes)
	for _, s := range r.Claims.Scopes() {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// Wanted are the scopes of a request that its person is asked about.
func (r *Request) Wanted() []string { return r.wanted() }

// MustAsk reports whether somebody has to be asked whether an application may have what
// it wants. The Matrix API is always asked about: each time is another device.
func (s *Store) MustAsk(ctx context.Context, c *register.Client, r *Request, userID string) (bool, error) {
	// The page that asks shows the account as well, and lets people choose another.
	if slices.Contains(r.Prompt, "consent") || slices.Contains(r.Prompt, "select_account") {
		return true, nil
	}
	if c.Silent() {
		return false, nil
	}
	if r.DeviceID != "" || !c.Remembered(r.RedirectURI) {
		return true, nil
	}
	var had []string
	err := s.DB.Read(ctx, func(q store.Querier) (err error) {
		had, err = loadConsent(q, userID, c.ID)
		return err
	})
	for _, w := range r.wanted() {
		if !slices.Contains(had, w) {
			return true, err
		}
	}
	return false, err
}

// Remember keeps what somebody allowed an application, if it is one for that.
func (s *Store) Remember(ctx context.Context, c *register.Client, r *Request, userID string) error {
	if c.Trusted || r.DeviceID != "" || !c.Remembered(r.RedirectURI) {
		return nil
	}
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		had, err := loadConsent(tx, userID, c.ID)
		if err != nil {
			return err
		}
		all := slices.Compact(slices.Sorted(slices.Values(append(had, r.wanted()...))))
		if _, err = tx.Exec(upsertConsent, userID, c.ID, strings.Join(all, " "), s.Now().UnixMilli()); err != nil {
			return err
		}
		u, err := s.Accounts.LoadByID(tx, userID)
		if err != nil {
			return err
		}
		return s.Audit.Tx(ctx, tx, audit.Event{Name: "consent.give", Target: u.UserID, Actor: account.By(tx, u), Data: audit.Data{"client": c.ID, "scopes": all}})
	})
}

// Consents lists what somebody allowed applications.
func (s *Store) Consents(ctx context.Context, userID string) (out []Consent, err error) {
	err = s.DB.Read(ctx, func(q store.Querier) error {
		rows, err := q.Query(selectConsents, userID)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var c Consent
			var scopes string
			if err := rows.Scan(&c.ClientID, &scopes, &c.Granted); err != nil {
				return err
			}
			c.Scopes = strings.Fields(scopes)
			out = append(out, c)
		}
		return rows.Err()
	})
	return out, err
}

// Withdraw takes back what somebody allowed an application, and ends its sessions.
func (s *Store) Withdraw(ctx context.Context, u account.User, clientID string) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(deleteConsent, u.ID, clientID); err != nil {
			return err
		}
		if err := s.Audit.Tx(ctx, tx, audit.Event{Name: "consent.withdraw", Target: u.UserID, Actor: account.By(tx, u), Data: audit.Data{"client": clientID}}); err != nil {
			return err
		}
		all, err := listSessions(tx, u.ID)
		if err != nil {
			return err
		}
		for _, x := range all {
			if x.ClientID == clientID {
				if err := s.EndTx(tx, x.ID, "allowance withdrawn", true); err != nil {
					return err
				}
			}
		}
		return s.logoutTx(tx, loginsOfApp, u.ID, clientID)
	})
}

// EndClientTx ends all sessions of an application, and what led to more; with forget,
// also what people allowed it.
func (s *Store) EndClientTx(tx *store.Tx, clientID, reason string, forget bool) error {
	ids, err := strings1(tx, `SELECT id FROM id_sessions WHERE client_id = $1 AND ended = 0`, clientID)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := s.EndTx(tx, id, reason, true); err != nil {
			return err
		}
	}
	drop := []string{`DELETE FROM id_auth_requests WHERE client_id = $1 AND state IN ('open', 'done', 'code')`, `DELETE FROM id_device_grants WHERE client_id = $1 AND state IN ('open', 'agreed')`}
	if forget {
		drop = append(drop, `DELETE FROM id_consents WHERE client_id = $1`)
	}
	for _, q := range drop {
		if _, err := tx.Exec(q, clientID); err != nil {
			return err
		}
	}
	return s.logoutTx(tx, loginsOfClient, clientID)
}

// Introspection is what a resource may know about a token. Spec: RFC 7662
type Introspection struct {
	Session Session
	User    account.User
	Scopes  []string
	Expires int64 // ms; 0: never
	Refresh bool
}

// Introspect finds a token that is good now: an access token or a refresh token.
// Errors: ErrUnknownToken; any other is transient.
func (s *Store) Introspect(ctx context.Context, token string) (i Introspection, err error) {
	if token == "" || len(token) > maxToken {
		return i, ErrUnknownToken
	}
	hash, now := account.Hash(token), s.Now().UnixMilli()
	err = s.DB.Read(ctx, func(q store.Querier) error {
		row, err := loadAccess(q, hash)
		id := row.session
		i.Scopes, i.Expires = row.scopes, row.expires
		if errors.Is(err, ErrUnknownToken) {
			var consumed int64
			if id, i.Expires, consumed, err = loadRefresh(q, hash); err == nil && consumed != 0 {
				return ErrUnknownToken
			}
			i.Refresh = true
		}
		if err != nil {
			return err
		}
		if i.Expires != 0 && now >= i.Expires {
			return ErrUnknownToken
		}
		if i.Session, err = loadSession(q, id); err != nil {
			return err
		}
		if i.Refresh {
			i.Scopes = i.Session.Scopes
		}
		if i.User, err = s.Accounts.LoadByID(q, i.Session.UserID); err != nil {
			return err
		}
		if i.User.Err() != nil {
			return ErrUnknownToken
		}
		return nil
	})
	if errors.Is(err, ErrRefresh) || errors.Is(err, account.ErrNoUser) {
		err = ErrUnknownToken
	}
	return i, err
}

// Methods are those by which somebody signed in at the pages. Spec: RFC 8176
func Methods(b account.Browser) []string {
	if len(b.Methods) == 0 {
		return []string{"pwd"}
	}
	return b.Methods
}
