package opstore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"

	"holdfast/identity/account"
	"holdfast/identity/register"
	"holdfast/store"
)

// Params are the checked parameters of a sign-in.
type Params struct {
	RedirectURI  string   `json:"redirect_uri"`
	ResponseMode string   `json:"response_mode"` // "query", "fragment" or "form_post"
	State        string   `json:"state,omitempty"`
	Nonce        string   `json:"nonce,omitempty"`
	Scopes       []string `json:"scopes"`
	DeviceID     string   `json:"device_id,omitempty"`
	Challenge    string   `json:"challenge"` // S256; "": a client with a secret did without
	Prompt       []string `json:"prompt,omitempty"`
	MaxAge       *uint    `json:"max_age,omitempty"`
	LoginHint    string   `json:"login_hint,omitempty"`
	Subject      string   `json:"subject,omitempty"` // of an id_token_hint or of claims: nobody else will do
	Issuer       string   `json:"issuer"`
	Locales      string   `json:"ui_locales,omitempty"`
	Popup        bool     `json:"popup,omitempty"`  // display=popup: the application's page waits for this one
	Claims       *Claims  `json:"claims,omitempty"` // asked for one by one
	ACRValues    []string `json:"acr_values,omitempty"`
}

// ACR are the classes of authentication that were asked for, by claims or acr_values, and
// whether one of them is a must; else they are a wish. Spec: OpenID Connect Core sections
// 3.1.2.1 and 5.5.1.1
func (p *Params) ACR() (wanted []string, must bool) {
	if wanted, must = p.Claims.ACR(); must {
		return wanted, len(wanted) > 0
	}
	return slices.Concat(wanted, p.ACRValues), false
}

// Steps of a sign-in. Each is reached once, in this order.
const (
	stateOpen = "open" // nobody agreed yet
	stateDone = "done" // the person signed in and agreed
	stateCode = "code" // the code was given out
	stateUsed = "used" // the code was traded
)

// Request is a sign-in in progress. It implements op.AuthRequest.
type Request struct {
	ID       string
	ClientID string
	Params
	UserID   string // ULID; "": nobody yet
	AuthTime time.Time
	Created  time.Time
	browser  []byte
	state    string
	session  string
	codeExp  int64
	signed   Signed
	client   *register.Client // of who trades the code
	subject  string           // by which that client knows the person
}

// Errors that callers may test for.
var (
	ErrNoRequest = errors.New("identity: no such sign-in, or it took too long")
	ErrBrowser   = errors.New("identity: the sign-in was begun in another browser")
)

// Begin stores a sign-in. browser is the hash of the cookie of the browser it was
// begun in.
func (s *Store) Begin(ctx context.Context, c *register.Client, p Params, browser []byte) (string, error) {
	raw, err := json.Marshal(p)
	if err != nil {
		return "", err
	}
	id := account.Secret()
	return id, s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := s.Clients.UsedTx(tx, c); err != nil {
			return err
		}
		_, err := tx.Exec(insertRequest, id, c.ID, browser, string(raw), stateOpen, s.Now().Add(requestFor).UnixMilli())
		return err
	})
}

const insertRequest = `INSERT INTO id_auth_requests (id, client_id, browser_hash, params, user_id, auth_time, state, code_expires, session_id, expires, signed)
VALUES ($1, $2, $3, $4, '', 0, $5, 0, '', $6, '')`

const requestColumns = `SELECT id, client_id, browser_hash, params, user_id, auth_time, state, code_expires, session_id, expires, signed FROM id_auth_requests `

func scanRequest(row *store.Row) (*Request, error) {
	r := &Request{}
	var raw, signed string
	var at, expires int64
	err := row.Scan(&r.ID, &r.ClientID, &r.browser, &raw, &r.UserID, &at, &r.state, &r.codeExp, &r.session, &expires, &signed)
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrNoRequest
	}
	if err != nil {
		return nil, err
	}
	if r.signed, err = parseSigned(signed); err != nil {
		return nil, err
	}
	r.AuthTime = time.UnixMilli(at)
	r.Created = time.UnixMilli(expires).Add(-requestFor) // until the code is given out
	return r, json.Unmarshal([]byte(raw), &r.Params)
}

// Request finds an open sign-in that was begun in the browser with this cookie
// hash. Errors: ErrNoRequest, ErrBrowser.
func (s *Store) Request(ctx context.Context, id string, browser []byte) (r *Request, err error) {
	err = s.DB.Read(ctx, func(q store.Querier) error {
		r, err = s.request(q, id, browser)
		return err
	})
	if err == nil && r.state != stateOpen && r.state != stateDone {
		err = ErrNoRequest
	}
	return r, err
}

func (s *Store) request(q store.Querier, id string, browser []byte) (*Request, error) {
	r, err := scanRequest(q.QueryRow(requestColumns+`WHERE id = $1 AND expires > $2`, id, s.Now().UnixMilli()))
	if err != nil {
		return nil, err
	}
	if len(browser) == 0 || !slices.Equal(browser, r.browser) {
		return nil, ErrBrowser
	}
	return r, nil
}

// Agree notes who signed in and agreed. It happens once. Errors: ErrNoRequest, ErrBrowser.
func (s *Store) Agree(ctx context.Context, id string, browser []byte, b account.Browser) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		r, err := s.request(tx, id, browser)
		if err != nil {
			return err
		}
		signed := Signed{AMR: Methods(b), SID: b.SID, Claims: r.Claims}
		n, err := tx.Exec(`UPDATE id_auth_requests SET state = 'done', user_id = $2, auth_time = $3, signed = $4 WHERE id = $1 AND state = 'open'`, id, b.User.ID, b.AuthTime.UnixMilli(), signed.text())
		if err == nil && n == 0 {
			err = ErrNoRequest
		}
		return err
	})
}

// End removes a sign-in that the person or we refused. Errors: ErrNoRequest, ErrBrowser.
func (s *Store) End(ctx context.Context, id string, browser []byte) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		if _, err := s.request(tx, id, browser); err != nil {
			return err
		}
		n, err := tx.Exec(`DELETE FROM id_auth_requests WHERE id = $1 AND state IN ('open', 'done')`, id)
		if err == nil && n == 0 {
			err = ErrNoRequest
		}
		return err
	})
}

// saveCode stores the hash of the one code of a sign-in.
func (s *Store) saveCode(ctx context.Context, id, code string) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		now := s.Now()
		// The row outlives the code a little, so that a replay is noticed.
		n, err := tx.Exec(`UPDATE id_auth_requests SET state = 'code', code_hash = $2, code_expires = $3, expires = $4 WHERE id = $1 AND state = 'done'`,
			id, account.Hash(code), now.Add(codeFor).UnixMilli(), now.Add(10*time.Minute).UnixMilli())
		if err == nil && n == 0 {
			err = ErrNoRequest
		}
		return err
	})
}

// byCode finds the sign-in of a code that is good now. A code that was used ends
// the session it made. Errors: ErrNoRequest.
func (s *Store) byCode(ctx context.Context, code string) (r *Request, err error) {
	if len(code) > maxToken {
		return nil, ErrNoRequest
	}
	err = s.DB.Read(ctx, func(q store.Querier) error {
		r, err = scanRequest(q.QueryRow(requestColumns+`WHERE code_hash = $1`, account.Hash(code)))
		return err
	})
	if err != nil {
		return nil, err
	}
	if r.state == stateUsed {
		return nil, s.replayed(ctx, r.session)
	}
	if r.state != stateCode || s.Now().UnixMilli() >= r.codeExp {
		return nil, ErrNoRequest
	}
	if r.client, err = s.Clients.Client(ctx, r.ClientID); err != nil {
		return nil, err
	}
	r.subject = s.Subject(r.client, r.UserID)
	return r, s.MayUse(ctx, r.client, r.UserID)
}

func (s *Store) replayed(ctx context.Context, session string) error {
	s.Log.Warn("a code was traded twice; the session it made was ended")
	if err := s.DB.Write(ctx, func(tx *store.Tx) error { return s.EndTx(tx, session, "code used twice", true) }); err != nil {
		return err
	}
	return ErrNoRequest
}

// trade uses a code up and starts its session. Errors: ErrNoRequest.
func (s *Store) trade(ctx context.Context, r *Request) (t Tokens, err error) {
	var twice string
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		var state, session string
		if err := tx.QueryRow(`SELECT state, session_id FROM id_auth_requests WHERE id = $1`, r.ID).Scan(&state, &session); err != nil {
			if errors.Is(err, store.ErrNotFound) {
				err = ErrNoRequest
			}
			return err
		}
		if state == stateUsed {
			twice = session
			return nil
		}
		u, err := s.Accounts.LoadByID(tx, r.UserID)
		if err != nil {
			return err
		}
		if u.Err() != nil {
			return ErrNoRequest
		}
		c, err := s.Clients.Load(tx, r.ClientID)
		if err == nil {
			err = s.mayUse(tx, c, u.ID) // nobody could end later what begins now
		}
		if err != nil {
			return err
		}
		sess := &Session{ClientID: r.ClientID, Scopes: r.Scopes, DeviceID: r.DeviceID, AuthTime: r.AuthTime, Signed: r.signed}
		if sess.SID != "" {
			// Who signed out meanwhile is out: nobody could tell the application later.
			if lives, err := s.Accounts.BrowserLives(tx, u.ID, sess.SID); err != nil || !lives {
				return cmp.Or(err, ErrNoRequest)
			}
		}
		if slices.Contains(r.Scopes, oidc.ScopeOpenID) {
			if err := s.loginTx(tx, c, u.ID, sess.SID, r.Issuer); err != nil {
				return err
			}
		}
		refresh := slices.Contains(r.GetScopes(), oidc.ScopeOfflineAccess)
		if t, err = s.StartTx(tx, u, sess, c.Name(), refresh, false); err != nil {
			return err
		}
		_, err = tx.Exec(`UPDATE id_auth_requests SET state = 'used', session_id = $2 WHERE id = $1 AND state = 'code'`, r.ID, sess.ID)
		return err
	})
	if err == nil && twice != "" {
		err = s.replayed(ctx, twice)
	}
	return t, err
}

// What follows is op.AuthRequest.

func (r *Request) GetID() string          { return r.ID }
func (r *Request) GetACR() string         { return ACR(r.signed.methods()) }
func (r *Request) GetAMR() []string       { return r.signed.methods() }
func (r *Request) GetAudience() []string  { return []string{r.ClientID} }
func (r *Request) GetAuthTime() time.Time { return r.AuthTime }
func (r *Request) GetClientID() string    { return r.ClientID }
func (r *Request) GetCodeChallenge() *oidc.CodeChallenge {
	if r.Challenge == "" {
		return nil // and op then takes no verifier either
	}
	return &oidc.CodeChallenge{Challenge: r.Challenge, Method: oidc.CodeChallengeMethodS256}
}
func (r *Request) GetNonce() string                   { return r.Nonce }
func (r *Request) GetRedirectURI() string             { return r.RedirectURI }
func (r *Request) GetResponseType() oidc.ResponseType { return oidc.ResponseTypeCode }
func (r *Request) GetResponseMode() oidc.ResponseMode { return oidc.ResponseMode(r.ResponseMode) }
func (r *Request) GetState() string                   { return r.State }
func (r *Request) GetSubject() string                 { return r.subject }
func (r *Request) Done() bool                         { return r.state == stateDone }

// GetScopes adds offline_access for Matrix sessions: their clients expect a
// refresh token and never ask for that scope. The front takes it out of answers.
func (r *Request) GetScopes() []string { return withOffline(r.Scopes, r.DeviceID) }

func withOffline(scopes []string, deviceID string) []string {
	if deviceID != "" && !offline(scopes) {
		return append(slices.Clone(scopes), oidc.ScopeOfflineAccess)
	}
	return scopes
}

// offline reports whether scopes let a session outlive the browser session it came from.
func offline(scopes []string) bool { return slices.Contains(scopes, oidc.ScopeOfflineAccess) }
