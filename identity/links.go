package identity

import (
	"context"
	"time"

	"holdfast/identity/account"
	"holdfast/store"
	"holdfast/store/audit"
)

// Link sets a new password once, for an account that exists.
type Link struct {
	account.Link
	URL string // on the canonical origin
}

// RecoveryLink makes a link for somebody who lost everything: it sets a new password,
// takes second factors away and ends all sessions. Errors: ErrNoUser, ErrOwner, ErrLocked,
// ErrDeactivated, ErrElsewhere, ErrLinkTime.
func (s *Service) RecoveryLink(ctx context.Context, userID string, lasts time.Duration) (Link, error) {
	return s.link(ctx, userID, account.LinkRecovery, lasts)
}

// EnrolLink makes a link for the first password of an account. Errors: those of
// RecoveryLink, ErrHasPassword.
func (s *Service) EnrolLink(ctx context.Context, userID string, lasts time.Duration) (Link, error) {
	return s.link(ctx, userID, account.LinkEnrol, lasts)
}

func (s *Service) link(ctx context.Context, userID, kind string, lasts time.Duration) (l Link, err error) {
	err = s.withUser(ctx, userID, func(tx *store.Tx, u User) error {
		l.Link, err = s.accounts.CreateLinkTx(ctx, tx, u, kind, lasts)
		return err
	})
	l.URL = s.o.PublicURL + "/e/" + l.Token
	return l, err
}

// useLink sets a password by a link: the link, the password, the second factors and the
// sessions change together or not at all.
func (s *Service) useLink(ctx context.Context, token, password, pin string) (l account.Link, err error) {
	if l, err = s.accounts.LinkWithPIN(ctx, token, pin); err != nil {
		return l, err
	}
	hash, err := s.accounts.HashPassword(ctx, password, "page", l.User.Localpart, l.User.DisplayName)
	if err != nil {
		return l, err
	}
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if l, err = s.accounts.UseLinkTx(tx, token); err != nil {
			return err
		}
		u := l.User
		tx.AfterCommit(func() { s.sessions.DropUser(u.ID) })
		by := l.CreatedBy
		if by == "" {
			by = audit.CommandLine
		}
		if err := s.o.Audit.Tx(ctx, tx, audit.Event{Name: "user.recover", Actor: account.By(tx, u), Target: u.UserID, Data: audit.Data{
			"link": l.ID, "kind": l.Kind, "link_by": by}}); err != nil {
			return err
		}
		if err := s.accounts.SetPasswordTx(tx, u.ID, hash, nil); err != nil {
			return err
		}
		if l.Kind == account.LinkRecovery {
			had, err := s.factors.OfTx(tx, u.ID)
			if err != nil {
				return err
			}
			if err := s.factors.DropTx(tx, u.ID); err != nil {
				return err
			}
			if had.Any() {
				if err := s.noteFactor(ctx, tx, u.ID, "factor.reset", ""); err != nil {
					return err
				}
			}
		}
		return s.sessions.EndAllTx(tx, u, "", "recovered by a link")
	})
	if err == nil && l.Kind == account.LinkRecovery && s.o.Tell != nil {
		s.o.Tell(context.WithoutCancel(ctx), l.User, s.o.Text("en", "identity.recover.told"))
	}
	return l, err
}
