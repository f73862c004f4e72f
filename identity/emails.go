package identity

import (
	"context"

	"holdfast/identity/account"
	"holdfast/store"
)

// CheckPassword reports whether people may choose a password. Errors: ErrWeakPassword.
func (s *Service) CheckPassword(password string) error { return s.accounts.CheckPassword(password) }

// CanonicalEmail is an e-mail address in the form in which addresses are kept and
// compared. Errors: ErrEmail.
func CanonicalEmail(s string) (string, error) { return account.CanonicalEmail(s) }

// BeginEmail begins to prove an e-mail address. Errors: *SlowDown.
func (s *Service) BeginEmail(ctx context.Context, r EmailRequest) (EmailTicket, error) {
	return s.accounts.BeginEmail(ctx, r)
}

// EmailNotSent takes a ticket back whose mail could not be sent.
func (s *Service) EmailNotSent(ctx context.Context, t EmailTicket) error {
	return s.accounts.EmailNotSent(ctx, t)
}

// EmailByToken finds a proof by what was mailed. Errors: ErrEmailToken, ErrEmailExpired.
func (s *Service) EmailByToken(ctx context.Context, sid, token string) (EmailProof, error) {
	return s.accounts.EmailByToken(ctx, sid, token)
}

// SubmitEmail proves an address by what was mailed; secret is the client's, or nil
// on the page of the mail. Errors: ErrEmailToken, ErrEmailExpired.
func (s *Service) SubmitEmail(ctx context.Context, sid string, secret *string, token string) (EmailProof, error) {
	return s.accounts.SubmitEmail(ctx, sid, secret, token)
}

// ProvedEmail finds a proof that may be used. Errors: ErrEmailProof.
func (s *Service) ProvedEmail(ctx context.Context, purpose, sid, secret string) (EmailProof, error) {
	return s.accounts.ProvedEmail(ctx, purpose, sid, secret)
}

// UseEmail uses a proof up. Errors: ErrEmailProof.
func (s *Service) UseEmail(ctx context.Context, purpose, sid, secret string) (EmailProof, error) {
	return s.accounts.UseEmail(ctx, purpose, sid, secret)
}

// AddEmail gives an account the address of a proof. Errors: ErrNoUser,
// ErrEmailProof, ErrEmailInUse, ErrEmails.
func (s *Service) AddEmail(ctx context.Context, userID, sid, secret string) error {
	return s.withUser(ctx, userID, func(tx *store.Tx, u User) error {
		return s.accounts.AddEmailTx(tx, u.ID, account.ProofAdd, sid, secret)
	})
}

// RemoveEmail takes an address from an account. Errors: ErrNoUser.
func (s *Service) RemoveEmail(ctx context.Context, userID, address string) error {
	u, err := s.User(ctx, userID)
	if err != nil {
		return err
	}
	return s.accounts.RemoveEmail(ctx, u.ID, address)
}

// Emails lists an account's addresses. Errors: ErrNoUser.
func (s *Service) Emails(ctx context.Context, userID string) ([]Email, error) {
	u, err := s.User(ctx, userID)
	if err != nil {
		return nil, err
	}
	return s.accounts.Emails(ctx, u.ID)
}

// EmailOwner is whose address it is. Errors: ErrNoUser.
func (s *Service) EmailOwner(ctx context.Context, address string) (User, error) {
	return s.accounts.EmailOwner(ctx, address)
}
