package identity

import (
	"context"
	"errors"

	"holdfast/identity/account"
	"holdfast/store"
)

// CheckPassword reports whether people may choose a password. Errors: ErrWeakPassword.
func (s *Service) CheckPassword(password string) error { return s.accounts.CheckPassword(password) }

// Kept is what of an account a directory keeps. It is nothing where there is no account.
func (s *Service) Kept(ctx context.Context, userID string) (k Kept, err error) {
	u, err := s.User(ctx, userID)
	if errors.Is(err, ErrNoUser) {
		return Kept{}, nil
	}
	if err != nil {
		return k, err
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		k, err = s.roster.Kept(q, u.ID)
		return err
	})
	return k, err
}

// renameUnlessKept changes a displayed name as another provider says, unless a directory
// keeps it.
func (s *Service) renameUnlessKept(ctx context.Context, userID, name string) error {
	k, err := s.Kept(ctx, userID)
	if err != nil || k.Name {
		return err
	}
	return s.o.Rename(ctx, userID, name)
}

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
