package identity

import "context"

// PasswordWork is how much work passwords have cost since the start.
func (s *Service) PasswordWork() uint64 { return s.accounts.PasswordWork() }

// Sweep is what the upkeep does every hour.
func (s *Service) Sweep(ctx context.Context) error { return s.sweep(ctx) }

// DeliverLogouts tells applications of logouts that are due.
func (s *Service) DeliverLogouts(ctx context.Context) error {
	_, err := s.sessions.DeliverLogouts(ctx)
	return err
}

func (s *Service) UpkeepKeys(ctx context.Context) error { return s.sessions.UpkeepKeys(ctx) }
