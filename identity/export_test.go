package identity

import (
	"context"
	"net/http"
	"time"
)

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

// Limiter counts what comes by address.
type Limiter struct{ l limiter }

// MaxAddresses is how many addresses are counted.
const MaxAddresses = maxAddresses

// Allow takes one from the allowance of an address.
func (l *Limiter) Allow(from string, now time.Time) bool {
	return l.l.allow(&http.Request{RemoteAddr: from}, now) == 0
}

// Addresses are those that are counted.
func (l *Limiter) Addresses() int { return len(l.l.m) }
