package media

import (
	"context"
	"errors"
	"sync"
	"time"

	"holdfast/store"
)

// How often what is done in the background is done.
const (
	accessEvery  = time.Minute // access times go to the disk
	expireEvery  = time.Hour   // announced uploads, previews and old media expire
	collectEvery = 24 * time.Hour
	accessStep   = time.Hour // an access time is as exact as this
)

// accesses are the times at which media were asked for, until they are written.
type accesses struct {
	mu sync.Mutex
	at map[string]int64 // media ID → ms
}

// note remembers that somebody asked for media. Most requests find that it was
// noted within the hour.
func (s *Service) note(m record) {
	now := s.o.Now().UnixMilli()
	if now-m.Accessed < accessStep.Milliseconds() && m.Accessed != m.Created {
		return
	}
	s.accesses.mu.Lock()
	defer s.accesses.mu.Unlock()
	if s.accesses.at == nil {
		s.accesses.at = map[string]int64{}
	}
	s.accesses.at[m.ID] = max(now, m.Created+1)
}

// writeAccesses writes what was noted.
func (s *Service) writeAccesses(ctx context.Context) error {
	s.accesses.mu.Lock()
	at := s.accesses.at
	s.accesses.at = nil
	s.accesses.mu.Unlock()
	if len(at) == 0 {
		return nil
	}
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		for id, ms := range at {
			if err := setAccessed(tx, id, ms); err != nil {
				return err
			}
		}
		return nil
	})
}

// Run does what has to be done from time to time, until ctx is done.
func (s *Service) Run(ctx context.Context) {
	tick := time.NewTicker(accessEvery)
	defer tick.Stop()
	var expired, collected time.Time
	report := func(what string, err error) {
		if err != nil && ctx.Err() == nil {
			s.o.Log.Error(what, "err", err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			err := s.writeAccesses(context.WithoutCancel(ctx))
			if err != nil && !errors.Is(err, store.ErrClosed) {
				s.o.Log.Error("when media were last asked for could not be written", "err", err)
			}
			return
		case now := <-tick.C:
			report("when media were last asked for could not be written", s.writeAccesses(ctx))
			if now.Sub(expired) >= expireEvery {
				expired = now
				report("media that has expired could not be deleted", s.Expire(ctx))
			}
			if now.Sub(collected) >= collectEvery {
				collected = now
				freed, err := s.Collect(ctx)
				report("files that nothing names could not be deleted", err)
				if freed > 0 {
					s.o.Log.Info("files that nothing named were deleted", "bytes", freed)
				}
			}
		}
	}
}

// Expire deletes announced uploads that did not come, previews of links that are too
// old, and media that nobody has asked for in the time that is set.
func (s *Service) Expire(ctx context.Context) error {
	if err := s.writeAccesses(ctx); err != nil {
		return err
	}
	now := s.o.Now()
	if err := s.o.DB.Write(ctx, func(tx *store.Tx) error { return deleteExpired(tx, now.UnixMilli()) }); err != nil {
		return err
	}
	if err := s.expirePreviews(ctx); err != nil {
		return err
	}
	if lifetime := s.settings().Lifetime; lifetime > 0 {
		d, err := s.expireAfter(ctx, lifetime)
		if len(d.IDs) > 0 {
			s.o.Log.Info("media that nobody asked for was deleted", "files", len(d.IDs), "bytes", d.Bytes)
		}
		return err
	}
	return nil
}

// collect deletes blobs that nothing names. Where it is cut short, Collect finds the rest.
func (s *Service) collect(ctx context.Context, hashes []string) (freed int64, err error) {
	for _, h := range hashes {
		n, err := s.o.Blobs.Remove(h, func() (used bool, err error) {
			err = s.o.DB.Read(ctx, func(q store.Querier) (err error) {
				used, err = blobUsed(q, h)
				return err
			})
			return used, err
		})
		freed += n
		if err != nil {
			return freed, err
		}
	}
	return freed, nil
}

// Collect deletes all blobs that nothing names: what a crash between a file and its
// record left behind.
func (s *Service) Collect(ctx context.Context) (freed int64, err error) {
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(strayThumbsSQL)
		return err
	})
	if err != nil {
		return 0, err
	}
	err = s.o.Blobs.Each(func(hashes []string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		var stray []string
		err := s.o.DB.Read(ctx, func(q store.Querier) error {
			for _, h := range hashes {
				yes, err := blobUsed(q, h)
				if err != nil {
					return err
				}
				if !yes {
					stray = append(stray, h)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		n, err := s.collect(ctx, stray) // asks again, since it may have come meanwhile
		freed += n
		return err
	})
	return freed, err
}
