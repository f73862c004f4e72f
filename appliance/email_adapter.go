package appliance

import (
	"context"
	"errors"
	"time"

	"holdfast/homeserver/account"
	"holdfast/homeserver/mx"
	"holdfast/identity"
	idaccount "holdfast/identity/account"
)

// This file goes on with identity_adapter.go: e-mail addresses.

func (a accounts) CheckPassword(password string) error {
	return matrixError(a.id.CheckPassword(password))
}

func (a accounts) CanonicalEmail(address string) (string, error) {
	s, err := identity.CanonicalEmail(address)
	return s, matrixError(err)
}

func (a accounts) EmailOwner(ctx context.Context, address string) (string, error) {
	u, err := a.id.EmailOwner(ctx, address)
	if errors.Is(err, identity.ErrNoUser) {
		return "", nil
	}
	return u.UserID, err
}

func (a accounts) Emails(ctx context.Context, userID string) ([]account.Email, error) {
	list, err := a.id.Emails(ctx, userID)
	if errors.Is(err, identity.ErrNoUser) { // an application service's sender
		return nil, nil
	}
	out := make([]account.Email, len(list))
	for i, e := range list {
		out[i] = account.Email(e)
	}
	return out, matrixError(err)
}

func (a accounts) AddEmail(ctx context.Context, userID, sid, secret string) error {
	return matrixError(a.id.AddEmail(ctx, userID, sid, secret))
}

func (a accounts) RemoveEmail(ctx context.Context, userID, address string) error {
	err := a.id.RemoveEmail(ctx, userID, address)
	if errors.Is(err, identity.ErrNoUser) {
		return nil
	}
	return matrixError(err)
}

// proofHours is how long a mail's token is good.
const proofHours = int(idaccount.ProofFor / time.Hour)

func (a accounts) BeginEmail(ctx context.Context, r account.EmailRequest) (account.EmailTicket, error) {
	t, err := a.id.BeginEmail(ctx, identity.EmailRequest(r))
	var slow *identity.SlowDown
	if errors.As(err, &slow) {
		err = &mx.Error{Code: mx.LimitExceeded, Msg: "Too many messages were sent to this address. Look among the junk mail, or try again later.", RetryAfter: slow.Wait}
	}
	return account.EmailTicket{SID: t.SID, Token: t.Token, Owner: t.Owner.UserID, Send: t.Send, Hours: proofHours,
		NotSent: func(ctx context.Context) error { return a.id.EmailNotSent(ctx, t) }}, matrixError(err)
}

func toProof(p identity.EmailProof) account.EmailProof {
	return account.EmailProof{SID: p.SID, Purpose: p.Purpose, Address: p.Address, Owner: p.Owner.UserID, NextLink: p.NextLink}
}

func (a accounts) EmailByToken(ctx context.Context, sid, token string) (account.EmailProof, error) {
	p, err := a.id.EmailByToken(ctx, sid, token)
	return toProof(p), matrixError(err)
}

func (a accounts) SubmitEmail(ctx context.Context, sid string, secret *string, token string) (account.EmailProof, error) {
	p, err := a.id.SubmitEmail(ctx, sid, secret, token)
	return toProof(p), matrixError(err)
}

func (a accounts) ProvedEmail(ctx context.Context, purpose, sid, secret string) (account.EmailProof, error) {
	p, err := a.id.ProvedEmail(ctx, purpose, sid, secret)
	return toProof(p), matrixError(err)
}

func (a accounts) UseEmail(ctx context.Context, purpose, sid, secret string) (account.EmailProof, error) {
	p, err := a.id.UseEmail(ctx, purpose, sid, secret)
	return toProof(p), matrixError(err)
}
