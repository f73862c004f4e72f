package calls

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

const (
	openIDTTL     = time.Hour
	openIDPerUser = 100 // valid at once; the oldest is dropped
)

// OpenIDToken proves a user to a third party, which asks for it at userinfo.
// Spec: cs#post_matrixclientv3useruseridopenidrequest_token
type OpenIDToken struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ServerName  string `json:"matrix_server_name"`
	ExpiresIn   int    `json:"expires_in"` // seconds
}

func (s *Service) requestToken(ctx context.Context, r *route.Request, _ struct{}) (out OpenIDToken, err error) {
	if r.Param("userID") != r.UserID {
		return out, mx.Errorf(mx.Forbidden, "You can ask for a token for your own user only.")
	}
	token := rand.Text()
	now := time.Now()
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if err := expireTokens(tx, now.UnixMilli()); err != nil {
			return err
		}
		if err := insertToken(tx, hashToken(token), r.UserID, now.Add(openIDTTL).UnixMilli()); err != nil {
			return err
		}
		return trimTokens(tx, r.UserID, openIDPerUser)
	})
	return OpenIDToken{token, "Bearer", s.o.ServerName, int(openIDTTL.Seconds())}, err
}

// Userinfo returns whose OpenID token it is. Errors: *mx.Error UnknownToken.
// Spec: s2s#get_matrixfederationv1openiduserinfo
func (s *Service) Userinfo(ctx context.Context, token string) (sub string, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		sub, err = loadToken(q, hashToken(token), time.Now().UnixMilli())
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return "", mx.Errorf(mx.UnknownToken, "The OpenID token is unknown or has expired.")
	}
	return sub, err
}

func (s *Service) userinfo(ctx context.Context, r *route.Request) (map[string]string, error) {
	token := r.Query("access_token")
	if token == "" {
		return nil, mx.Errorf(mx.MissingToken, "The OpenID token is missing: access_token in the query.")
	}
	sub, err := s.Userinfo(ctx, token)
	if err != nil {
		return nil, err
	}
	return map[string]string{"sub": sub}, nil
}

// DropTokens forgets a user's OpenID tokens, as when the account is closed.
func (s *Service) DropTokens(tx *store.Tx, userID string) error { return trimTokens(tx, userID, 0) }

func hashToken(token string) []byte {
	h := sha256.Sum256([]byte(token))
	return h[:]
}
