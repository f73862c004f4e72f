package identity

import (
	"context"

	"holdfast/identity/opstore"
	"holdfast/store"
	"holdfast/store/audit"
)

// classes are those of sign-ins that people can reach here.
func (s *Service) classes() []string {
	out := []string{opstore.ACROne, opstore.ACRTwo}
	if s.factors.RPID != "" {
		out = append(out, opstore.ACRPhr)
	}
	return out
}

// noteFactor writes into the audit log what happened to the second factors of an account.
func (s *Service) noteFactor(ctx context.Context, tx *store.Tx, id, event, name string) error {
	u, err := s.accounts.LoadByID(tx, id)
	if err != nil {
		return err
	}
	ev := audit.Event{Name: event, Target: u.UserID}
	if audit.WhoOf(ctx).Actor == "" {
		ev.Actor = u.UserID // on a page of theirs
	}
	if name != "" {
		ev.Data = audit.Data{"name": name}
	}
	return s.o.Audit.Tx(ctx, tx, ev)
}
