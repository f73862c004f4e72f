package opstore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"holdfast/identity/account"
	"holdfast/identity/register"
	"holdfast/store"
)

// Storage is what op runs on. It is apart from Store so that op's method names
// stay out of our API.
//
// op turns any error of a refresh into invalid_grant, which logs people out. So
// errors that are no refusal are noted in the request's context (WithTransient),
// and the front answers 503 instead of what op wrote.
type Storage struct{ S *Store }

var _ op.Storage = Storage{}

type transientKey struct{}

// WithTransient returns a context in which Storage notes transient errors at *err.
func WithTransient(ctx context.Context, err *error) context.Context {
	return context.WithValue(ctx, transientKey{}, err)
}

// note remembers an error that is no refusal, and returns what op may see of it.
func note(ctx context.Context, err error) error {
	if p, ok := ctx.Value(transientKey{}).(*error); ok {
		*p = err
	}
	return oidc.ErrServerError()
}

// grantErr maps errors of codes and refresh tokens.
func grantErr(ctx context.Context, err error) error {
	var oe *oidc.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &oe):
		return oe
	case errors.Is(err, ErrRefresh), errors.Is(err, ErrNoRequest), errors.Is(err, ErrNotAllowed), errors.Is(err, account.ErrNoUser), errors.Is(err, register.ErrNoClient):
		return oidc.ErrInvalidGrant()
	}
	return note(ctx, err)
}

// CreateAuthRequest is not used: the front begins sign-ins with Store.Begin.
func (Storage) CreateAuthRequest(context.Context, *oidc.AuthRequest, string) (op.AuthRequest, error) {
	return nil, oidc.ErrServerError()
}

// AuthRequestByID is not used either.
func (Storage) AuthRequestByID(context.Context, string) (op.AuthRequest, error) {
	return nil, oidc.ErrServerError()
}

// AuthRequestByCode implements op.AuthStorage.
func (st Storage) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	r, err := st.S.byCode(ctx, code)
	if err != nil {
		return nil, grantErr(ctx, err)
	}
	return r, nil
}

// SaveAuthCode implements op.AuthStorage. Errors: ErrNoRequest when a code was given out before.
func (st Storage) SaveAuthCode(ctx context.Context, id, code string) error {
	return st.S.saveCode(ctx, id, code)
}

// DeleteAuthRequest keeps the row, so that a replayed code is noticed; sweep removes it.
func (Storage) DeleteAuthRequest(context.Context, string) error { return nil }

// CreateAccessToken is asked for sign-ins without a refresh token.
func (st Storage) CreateAccessToken(ctx context.Context, request op.TokenRequest) (string, time.Time, error) {
	id, _, exp, err := st.CreateAccessAndRefreshTokens(ctx, request, "")
	return id, exp, err
}

// CreateAccessAndRefreshTokens trades a code or a refresh token.
func (st Storage) CreateAccessAndRefreshTokens(ctx context.Context, request op.TokenRequest, current string) (string, string, time.Time, error) {
	var (
		t   Tokens
		err error
	)
	switch r := request.(type) {
	case *Request:
		t, err = st.S.trade(ctx, r)
	case *refreshRequest:
		t, err = st.S.Rotate(ctx, current, r.narrowed, func(s Session) error {
			if s.ClientID != r.sess.ClientID {
				return ErrRefresh
			}
			return nil
		})
	default:
		err = oidc.ErrUnsupportedGrantType()
	}
	if err != nil {
		return "", "", time.Time{}, grantErr(ctx, err)
	}
	// op counts the life of a token from the machine's clock, in whole seconds.
	return t.Access, t.Refresh, time.Now().Add(t.ExpiresIn + 500*time.Millisecond), nil
}

// TokenRequestByRefreshToken implements op.AuthStorage.
func (st Storage) TokenRequestByRefreshToken(ctx context.Context, token string) (op.RefreshTokenRequest, error) {
	var rs refreshState
	err := st.S.DB.Read(ctx, func(q store.Querier) (err error) {
		rs, err = st.S.loadRefreshState(q, token)
		return err
	})
	if err == nil && rs.consumed {
		_, err = st.S.Rotate(ctx, token, nil, nil) // ends the session
	}
	r := &refreshRequest{sess: rs.sess, scopes: rs.sess.Scopes}
	if err == nil && rs.sess.ClientID != "" {
		if r.client, err = st.S.Clients.Client(ctx, rs.sess.ClientID); err == nil {
			err = st.S.MayUse(ctx, r.client, rs.sess.UserID)
		}
	}
	if err != nil {
		return nil, grantErr(ctx, err)
	}
	r.subject = st.S.Subject(r.client, rs.sess.UserID)
	return r, nil
}

// refreshRequest implements op.RefreshTokenRequest.
type refreshRequest struct {
	sess     Session
	scopes   []string
	narrowed []string
	client   *register.Client
	subject  string // by which the client knows the person
}

func (r *refreshRequest) GetAMR() []string       { return r.sess.methods() }
func (r *refreshRequest) GetAudience() []string  { return []string{r.sess.ClientID} }
func (r *refreshRequest) GetAuthTime() time.Time { return r.sess.AuthTime }
func (r *refreshRequest) GetClientID() string    { return r.sess.ClientID }
func (r *refreshRequest) GetScopes() []string    { return r.scopes }
func (r *refreshRequest) GetSubject() string     { return r.subject }
func (r *refreshRequest) SetCurrentScopes(s []string) {
	r.scopes, r.narrowed = s, slices.Clone(s)
}

// TerminateSession is not used: the front ends sessions itself.
func (Storage) TerminateSession(context.Context, string, string) error { return nil }

// RevokeToken is not used: revocation is the front's.
func (Storage) RevokeToken(context.Context, string, string, string) *oidc.Error {
	return oidc.ErrServerError()
}

// GetRefreshTokenInfo belongs to revocation.
func (Storage) GetRefreshTokenInfo(context.Context, string, string) (string, string, error) {
	return "", "", op.ErrInvalidRefreshToken
}

// SigningKey implements op.AuthStorage.
func (st Storage) SigningKey(ctx context.Context) (op.SigningKey, error) {
	k, err := st.S.signer(ctx)
	if err != nil {
		return nil, note(ctx, err)
	}
	return k, nil
}

// SignatureAlgorithms implements op.AuthStorage.
func (Storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}

// KeySet implements op.AuthStorage.
func (st Storage) KeySet(ctx context.Context) ([]op.Key, error) {
	list, err := st.S.keys(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]op.Key, len(list))
	for i, k := range list {
		out[i] = publicKey{k}
	}
	return out, nil
}

// GetClientByClientID implements op.OPStorage.
func (st Storage) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	c, err := st.S.Clients.Client(ctx, id)
	if errors.Is(err, register.ErrNoClient) {
		return nil, oidc.ErrInvalidClient().WithDescription("unknown client")
	}
	if err != nil {
		return nil, note(ctx, err)
	}
	return c.OP(), nil
}

type clientKey struct{}

// WithClient notes in a context which client with a secret or key proved itself to
// the front.
func WithClient(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, clientKey{}, id)
}

// AuthorizeClientIDSecret asks what the front found. It never sees a secret.
func (Storage) AuthorizeClientIDSecret(ctx context.Context, id, _ string) error {
	if proved, _ := ctx.Value(clientKey{}).(string); proved == "" || proved != id {
		return oidc.ErrInvalidClient()
	}
	return nil
}

// SetUserinfoFromScopes is empty on purpose: SetUserinfoFromRequest does it.
func (Storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

// SetUserinfoFromRequest fills the claims of an ID token.
func (st Storage) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, r op.IDTokenRequest, scopes []string) error {
	var (
		client *register.Client
		signed Signed
		userID string
		again  bool
	)
	switch r := r.(type) {
	case *Request:
		client, signed, userID = r.client, r.signed, r.UserID
	case *refreshRequest:
		client, signed, userID, again = r.client, r.sess.Signed, r.sess.UserID, true
	default:
		return oidc.ErrServerError()
	}
	var asked map[string]*Claim
	if signed.Claims != nil {
		asked = signed.Claims.IDToken
	}
	if err := st.claims(ctx, info, client, userID, scopes, asked); err != nil {
		return note(ctx, err)
	}
	if sid := st.S.SessionID(r.GetClientID(), signed.SID); sid != "" {
		info.AppendClaims("sid", sid)
	}
	if again { // op knows it of first ID tokens only
		info.AppendClaims("acr", ACR(signed.methods()))
	}
	return nil
}

// SetUserinfoFromToken answers the userinfo endpoint. tokenID is the access token itself.
func (st Storage) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, tokenID, subject, _ string) error {
	p, err := st.S.Lookup(ctx, tokenID)
	if err != nil {
		return note(ctx, err) // op has just looked it up: it was good then
	}
	if p.ID != subject || !slices.Contains(p.Scopes, oidc.ScopeOpenID) {
		return ErrUnknownToken
	}
	c, err := st.S.Clients.Client(ctx, p.ClientID)
	if errors.Is(err, register.ErrNoClient) {
		return ErrUnknownToken
	}
	var sess Session
	if err == nil {
		err = st.S.DB.Read(ctx, func(q store.Querier) (err error) {
			if sess, err = loadSession(q, p.SessionID); err != nil {
				return err
			}
			return st.S.mayUse(q, c, p.ID)
		})
	}
	if errors.Is(err, ErrRefresh) || errors.Is(err, ErrNotAllowed) {
		return ErrUnknownToken
	}
	var asked map[string]*Claim
	if sess.Claims != nil {
		asked = sess.Claims.UserInfo
	}
	if err == nil {
		err = st.claims(ctx, info, c, p.ID, p.Scopes, asked)
	}
	if err != nil {
		return note(ctx, err)
	}
	return nil
}

// claims fills in what scopes and single claims give. What there is none of is left
// out, also where it was essential. Spec: OpenID Connect Core sections 5.4 and 5.5
func (st Storage) claims(ctx context.Context, info *oidc.UserInfo, c *register.Client, id string, scopes []string, asked map[string]*Claim) error {
	info.Subject = st.S.Subject(c, id)
	want := func(claim string) bool {
		if _, one := asked[claim]; one {
			return c.Refuses([]string{scopeOf[claim]}) == ""
		}
		return slices.Contains(scopes, scopeOf[claim])
	}
	if want("name") || want("preferred_username") || want("email") || want("email_verified") {
		u, err := st.S.Accounts.ByID(ctx, id)
		if err != nil {
			return err
		}
		if want("preferred_username") {
			info.PreferredUsername = u.Localpart
		}
		if want("name") {
			info.Name = u.DisplayName
			if st.S.DisplayName != nil {
				if info.Name, err = st.S.DisplayName(ctx, u.UserID); err != nil {
					return err
				}
			}
			if info.Name == "" {
				info.Name = u.Localpart
			}
		}
		if want("email") || want("email_verified") {
			if err := st.email(ctx, info, c, u, want); err != nil {
				return err
			}
		}
	}
	if want("groups") {
		groups, err := st.S.Accounts.Groups(ctx, id)
		if err != nil {
			return err
		}
		names := make([]string, len(groups))
		for i, g := range groups {
			names[i] = g.Name
		}
		info.AppendClaims("groups", names)
	}
	return nil
}

// email fills in the account's first address, which the person proved; or else one
// that leads nowhere, for applications that insist on one.
func (st Storage) email(ctx context.Context, info *oidc.UserInfo, c *register.Client, u account.User, want func(string) bool) error {
	list, err := st.S.Accounts.Emails(ctx, u.ID)
	if err != nil {
		return err
	}
	switch {
	case len(list) > 0:
		if want("email") {
			info.Email = list[0].Address
		}
		if want("email_verified") {
			info.EmailVerified = true
		}
	case c.App != nil && c.App.MadeUpEmail && want("email"):
		// Nobody can own a name below invalid, so no account elsewhere has this address.
		host := strings.Trim(strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
				return r
			}
			return '-'
		}, strings.ToLower(st.S.Accounts.ServerName)), ".-")
		// What some applications do not take in an address is written so that no two names
		// have the same: they may know people by it.
		info.Email = strings.NewReplacer("/", "+2f", "=", "+3d", "+", "+2b").Replace(u.Localpart) + "@" + host + ".invalid"
		info.AppendClaims("email_verified", false)
	}
	return nil
}

// SetIntrospectionFromToken is not used: introspection is the front's.
func (Storage) SetIntrospectionFromToken(context.Context, *oidc.IntrospectionResponse, string, string, string) error {
	return ErrUnknownToken
}

// GetPrivateClaimsFromScopes belongs to JWT access tokens, which are not given out.
func (Storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil
}

// GetKeyByIDAndClientID belongs to signed client assertions, which the front checks.
func (Storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, oidc.ErrInvalidClient()
}

// ValidateJWTProfileScopes belongs to signed client assertions as well.
func (Storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, oidc.ErrInvalidScope()
}

// Health implements op.Storage.
func (Storage) Health(context.Context) error { return nil }

// Crypto makes the strings that op hands out: access tokens are those of the
// store, not encryptions, and codes are random.
type Crypto struct{ S *Store }

var _ op.Crypto = Crypto{}

// Encrypt turns "<access token>:<subject>" into the token, and a request's ID into a new code.
func (Crypto) Encrypt(s string) (string, error) {
	if token, _, ok := strings.Cut(s, ":"); ok {
		return token, nil
	}
	return random(codePrefix), nil
}

// Decrypt finds whose access token it is: "<access token>:<subject>".
func (c Crypto) Decrypt(token string) (string, error) {
	p, err := c.S.Lookup(context.Background(), token)
	if err != nil {
		return "", err
	}
	return token + ":" + p.ID, nil
}
