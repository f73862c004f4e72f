package admin

import (
	"context"
	"encoding/json"
	"regexp"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
)

// Token is a word that registers accounts.
type Token struct {
	Token     string `json:"token"`
	Uses      *int64 `json:"uses_allowed"` // nil: no bound
	Pending   int64  `json:"pending"`      // always 0: a use counts when the account is made
	Completed int64  `json:"completed"`
	Expires   *int64 `json:"expiry_time"` // ms; nil: never
}

func (t Token) valid(now int64) bool {
	return (t.Uses == nil || t.Completed < *t.Uses) && (t.Expires == nil || *t.Expires > now)
}

var tokenForm = regexp.MustCompile(`^[A-Za-z0-9._~-]{1,64}$`)

const (
	defaultTokenLength = 16
	maxTokenLength     = 64
)

func (s *Service) listTokens(ctx context.Context, r *route.Request) (any, error) {
	q := &query{r: r}
	valid := q.flag("valid")
	if q.err != nil {
		return nil, q.err
	}
	list, err := s.o.Accounts.Tokens(ctx)
	out := []Token{}
	for _, t := range list {
		if valid == nil || t.valid(s.o.Now().UnixMilli()) == *valid {
			out = append(out, t)
		}
	}
	return map[string]any{"registration_tokens": out}, err
}

func (s *Service) getToken(ctx context.Context, r *route.Request) (Token, error) {
	return s.o.Accounts.Token(ctx, r.Param("token"))
}

// optional reads a number that may be null. set: it was given.
func optional(raw json.RawMessage, name string) (v *int64, set bool, err error) {
	if len(raw) == 0 {
		return nil, false, nil
	}
	if json.Unmarshal(raw, &v) != nil || v != nil && *v < 0 {
		return nil, false, mx.Errorf(mx.InvalidParam, "%s must be null or a whole number that is not negative.", name)
	}
	return v, true, nil
}

type tokenRequest struct {
	Token   *string         `json:"token"`
	Length  *int64          `json:"length"`
	Uses    json.RawMessage `json:"uses_allowed"`
	Expires json.RawMessage `json:"expiry_time"`
}

// bounds are the bounds of a token that a request sets.
func (s *Service) bounds(in tokenRequest) (uses, expires *int64, setUses, setExpires bool, err error) {
	if uses, setUses, err = optional(in.Uses, "uses_allowed"); err != nil {
		return
	}
	if expires, setExpires, err = optional(in.Expires, "expiry_time"); err != nil {
		return
	}
	if expires != nil && *expires < s.o.Now().UnixMilli() {
		err = mx.Errorf(mx.InvalidParam, "expiry_time must be a time in milliseconds that is still to come.")
	}
	return
}

func (s *Service) newToken(ctx context.Context, _ *route.Request, in tokenRequest) (t Token, err error) {
	if t.Uses, t.Expires, _, _, err = s.bounds(in); err != nil {
		return t, err
	}
	length := int64(defaultTokenLength)
	if in.Length != nil {
		length = *in.Length
	}
	switch {
	case in.Token != nil && !tokenForm.MatchString(*in.Token):
		return t, mx.Errorf(mx.InvalidParam, "A token has 1 to %d characters of A-Z a-z 0-9 . _ ~ -", maxTokenLength)
	case length < 1 || length > maxTokenLength:
		return t, mx.Errorf(mx.InvalidParam, "length must be between 1 and %d.", maxTokenLength)
	case in.Token != nil:
		t.Token = *in.Token
	default:
		t.Token = s.o.Accounts.TokenWord(int(length))
	}
	return t, s.o.Accounts.CreateToken(ctx, t)
}

func (s *Service) putToken(ctx context.Context, r *route.Request, in tokenRequest) (t Token, err error) {
	uses, expires, setUses, setExpires, err := s.bounds(in)
	if err != nil {
		return t, err
	}
	return s.o.Accounts.ChangeToken(ctx, r.Param("token"), func(t *Token) {
		if setUses {
			t.Uses = uses
		}
		if setExpires {
			t.Expires = expires
		}
	})
}

func (s *Service) deleteToken(ctx context.Context, r *route.Request) (out route.Empty, err error) {
	return out, s.o.Accounts.DeleteToken(ctx, r.Param("token"))
}
