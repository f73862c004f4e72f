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
	case errors.Is(err, ErrRefresh), errors.Is(err, ErrNoRequest), errors.Is(err, account.ErrNoUser), errors.Is(err, register.ErrNoClient):
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
	if err != nil {
		return nil, grantErr(ctx, err)
	}
	return &refreshRequest{sess: rs.sess, scopes: rs.sess.Scopes}, nil
}

// refreshRequest implements op.RefreshTokenRequest.
type refreshRequest struct {
	sess     Session
	scopes   []string
	narrowed []string
}

func (r *refreshRequest) GetAMR() []string       { return []string{"pwd"} }
func (r *refreshRequest) GetAudience() []string  { return []string{r.sess.ClientID} }
func (r *refreshRequest) GetAuthTime() time.Time { return r.sess.AuthTime }
func (r *refreshRequest) GetClientID() string    { return r.sess.ClientID }
func (r *refreshRequest) GetScopes() []string    { return r.scopes }
func (r *refreshRequest) GetSubject() string     { return r.sess.UserID }
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
	k, err := st.S.key(ctx)
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
	k, err := st.S.key(ctx)
	if err != nil {
		return nil, err
	}
	return []op.Key{publicKey{k}}, nil
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

// AuthorizeClientIDSecret refuses: all clients are public.
func (Storage) AuthorizeClientIDSecret(context.Context, string, string) error {
	return oidc.ErrInvalidClient()
}

// SetUserinfoFromScopes is empty on purpose: SetUserinfoFromRequest does it.
func (Storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

// SetUserinfoFromRequest fills the claims of an ID token.
func (st Storage) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, r op.IDTokenRequest, scopes []string) error {
	if err := st.claims(ctx, info, r.GetSubject(), scopes); err != nil {
		return note(ctx, err)
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
	if err := st.claims(ctx, info, subject, p.Scopes); err != nil {
		return note(ctx, err)
	}
	return nil
}

func (st Storage) claims(ctx context.Context, info *oidc.UserInfo, id string, scopes []string) error {
	info.Subject = id
	if !slices.Contains(scopes, oidc.ScopeProfile) {
		return nil
	}
	u, err := st.S.Accounts.ByID(ctx, id)
	if err != nil {
		return err
	}
	info.PreferredUsername, info.Name = u.Localpart, u.DisplayName
	return nil
}

// SetIntrospectionFromToken is not used: there are no clients with secrets yet.
func (Storage) SetIntrospectionFromToken(context.Context, *oidc.IntrospectionResponse, string, string, string) error {
	return ErrUnknownToken
}

// GetPrivateClaimsFromScopes belongs to JWT access tokens, which are not given out.
func (Storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil
}

// GetKeyByIDAndClientID belongs to signed client assertions, which are not accepted.
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
