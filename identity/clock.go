package identity

import (
	"context"
	"fmt"
	"time"

	"holdfast/store"
	"holdfast/store/audit"
)

// clockEvery is how often the machine's clock is looked at.
const clockEvery = time.Minute

// watchClock notes the time as it passes, and tells when the machine's clock went back.
func (s *Service) watchClock(ctx context.Context) {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	told := false
	for {
		if err := s.clock.Keep(ctx, false); err != nil && ctx.Err() == nil {
			s.o.Log.Error("the time could not be noted", "err", err)
		}
		behind := s.clock.Behind()
		if behind > 0 && !told {
			s.clockAlarm(ctx, behind)
		}
		told = behind > 0
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// clockAlarm tells that the machine's clock went back.
func (s *Service) clockAlarm(ctx context.Context, behind time.Duration) {
	behind = behind.Round(time.Second)
	s.o.Log.Error("the machine's clock was set back; what has expired stays expired", "behind", behind)
	if err := s.o.Audit.Append(ctx, audit.Event{Name: "clock.back", Data: audit.Data{"behind_seconds": int64(behind / time.Second)}}); err != nil && ctx.Err() == nil {
		s.o.Log.Error("that the clock went back could not be noted", "err", err)
	}
	if s.o.Alarm != nil {
		s.o.Alarm(ctx, fmt.Sprintf("The machine's clock is %s behind a time that has passed already. Set it right. If it was ahead before by mistake: holdfast clock accept", behind))
	}
}

// ClockBehind is how far the machine's clock is behind a time that has passed; 0: it is not.
func (s *Service) ClockBehind() time.Duration { return s.clock.Behind() }

// AcceptClock takes the machine's clock for right, also where it is behind: it was ahead by
// mistake. What expired meanwhile may be good again.
func (s *Service) AcceptClock(ctx context.Context) error {
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		was, is, err := s.clock.AcceptTx(tx)
		if err != nil {
			return err
		}
		return s.o.Audit.Tx(ctx, tx, audit.Event{Name: "clock.accept", Data: audit.Data{"was": was.UTC().Format(time.RFC3339), "is": is.UTC().Format(time.RFC3339)}})
	})
}
