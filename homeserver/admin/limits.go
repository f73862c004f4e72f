package admin

import (
	"context"
	"sync"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// Rate is a limit that an administrator set for one user. PerSecond 0: none.
type Rate struct {
	PerSecond int64 `json:"messages_per_second"`
	Burst     int64 `json:"burst_count"`
}

// rates are the limits of all those who have one of their own.
type rates struct {
	mu sync.RWMutex
	m  map[string]Rate
}

func (x *rates) set(userID string, r *Rate) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if r == nil {
		delete(x.m, userID)
	} else {
		x.m[userID] = *r
	}
}

// RateOf is a user's own limit, for the limiter of requests. Limits of others do not
// change it. The rate is a number of requests a second, 0 for no limit.
func (s *Service) RateOf(userID string) (perSecond, burst float64, own bool) {
	s.rates.mu.RLock()
	defer s.rates.mu.RUnlock()
	r, own := s.rates.m[userID]
	return float64(r.PerSecond), float64(r.Burst), own
}

// Start reads what the service keeps in memory and goes on with what was begun.
// Close ends it.
func (s *Service) Start(ctx context.Context) error {
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		m, err := listRates(q)
		s.rates.m = m
		return err
	})
	if err != nil {
		return err
	}
	return s.startTasks(ctx)
}

func (s *Service) getRate(ctx context.Context, r *route.Request) (any, error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return nil, err
	}
	s.rates.mu.RLock()
	defer s.rates.mu.RUnlock()
	if rate, ok := s.rates.m[u.UserID]; ok {
		return rate, nil
	}
	return route.Empty{}, nil
}

// maxRate bounds what can be set: beyond it the numbers mean no limit.
const maxRate = 1_000_000

func (s *Service) postRate(ctx context.Context, r *route.Request, in Rate) (Rate, error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return in, err
	}
	if in.PerSecond < 0 || in.Burst < 0 || in.PerSecond > maxRate || in.Burst > maxRate {
		return in, mx.Errorf(mx.InvalidParam, "messages_per_second and burst_count must be whole numbers from 0 to %d.", maxRate)
	}
	return in, s.storeRate(ctx, u.UserID, &in)
}

func (s *Service) deleteRate(ctx context.Context, r *route.Request) (out route.Empty, err error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return out, err
	}
	return out, s.storeRate(ctx, u.UserID, nil)
}

func (s *Service) storeRate(ctx context.Context, userID string, rate *Rate) error {
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		tx.AfterCommit(func() { s.rates.set(userID, rate) })
		return updateRate(tx, userID, rate)
	})
}
