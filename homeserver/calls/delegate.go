package calls

import (
	"context"
	"errors"
	"slices"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/store"
)

// delegation is a delayed leave event that was handed to the server.
type delegation struct {
	at      seat
	delayID string
	delay   time.Duration
}

// timing says how participants are watched.
type timing struct {
	join  time.Duration // how long one who was announced may take to come
	back  time.Duration // how long one may take to come back after a restart
	grace time.Duration // how long one who went may take to come back
	retry time.Duration // after the store could not be written
	check time.Duration // how often to look without being told
}

var defaultTiming = timing{join: 2 * time.Minute, back: time.Minute, grace: 3 * time.Second, retry: 5 * time.Second, check: time.Minute}

// headroom is the part of its delay after which an event is restarted.
const headroom = 0.8

type watch struct {
	d    delegation
	join time.Duration // it may take to come
	wake chan struct{} // something changed
	end  context.CancelFunc
}

// delegate takes over a user's delayed leave event for a participant. An earlier
// delegation for the same participant ends, without its event being touched.
// Errors: *mx.Error BadJSON where the user has no such event waiting in the room.
func (s *Service) delegate(ctx context.Context, userID, roomID, slotID, identity, delayID string) error {
	owner, inRoom, delay, err := s.o.Delayed.Waiting(ctx, delayID)
	var gone *mx.Error
	if errors.As(err, &gone) || (err == nil && (owner != userID || inRoom != roomID)) {
		return errNoEvent()
	}
	if err != nil {
		return err
	}
	room, err := relayRoom(roomID, slotID)
	if err != nil {
		return err
	}
	d := delegation{seat{room, identity}, delayID, delay}
	if err := s.o.DB.Write(ctx, func(tx *store.Tx) error { return upsertDelegation(tx, s.o.Secrets, d) }); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	if old := s.watches[d.at]; old != nil {
		if old.d == d {
			return nil
		}
		old.end()
	}
	s.watch(d, s.timing.join)
	return nil
}

// watch begins to watch a participant, who may take some time to come. s.mu is held.
func (s *Service) watch(d delegation, join time.Duration) {
	w := &watch{d: d, join: join, wake: make(chan struct{}, 1)}
	var ctx context.Context
	ctx, w.end = context.WithCancel(s.ctx)
	s.watches[d.at] = w
	s.wg.Go(func() { s.run(ctx, w) })
}

// changed is told by the relay that a participant came or went.
func (s *Service) changed(room, identity string, joined bool) {
	at := seat{room, identity}
	s.mu.Lock()
	w := s.watches[at]
	if !joined { // the relay renewed the token: it is good for as long from now
		for _, seats := range s.admitted {
			if t, ok := seats[at]; ok {
				t.until = time.Now().Add(tokenTTL)
				seats[at] = t
			}
		}
	}
	s.mu.Unlock()
	if w != nil {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

func (s *Service) present(at seat) bool {
	return slices.Contains(s.o.Media.Participants(at.room), at.identity)
}

// run keeps a delegated event from being sent while its participant is in the
// call, and has it sent when the participant is gone.
func (s *Service) run(ctx context.Context, w *watch) {
	d := w.d
	defer func() {
		s.mu.Lock()
		if s.watches[d.at] == w {
			delete(s.watches, d.at)
		}
		s.mu.Unlock()
		w.end()
	}()
	period := time.Duration(float64(d.delay) * headroom)
	restart := time.Now() // restarting at once tells whether the event still waits
	gone := time.Now().Add(w.join)
	here := false
	for {
		now := time.Now()
		switch present := s.present(d.at); {
		case present:
			here = true
			gone = time.Time{}
		case here:
			here = false
			gone = now.Add(s.timing.grace)
		}
		if !gone.IsZero() && !now.Before(gone) {
			if s.leave(ctx, d) {
				return
			}
			gone = now.Add(s.timing.retry)
		}
		if !now.Before(restart) {
			err := s.o.Delayed.Restart(ctx, d.delayID)
			var refused *mx.Error
			switch {
			case errors.As(err, &refused): // it was sent or cancelled by the client
				s.forget(ctx, d)
				return
			case err != nil && ctx.Err() == nil:
				s.o.Log.Error("a call membership could not be kept; trying again", "err", err)
				restart = now.Add(s.timing.retry)
			default:
				restart = now.Add(period)
			}
		}
		next := min(restart.Sub(now), s.timing.check)
		if !gone.IsZero() {
			next = min(next, gone.Sub(now))
		}
		t := time.NewTimer(max(next, 0))
		select {
		case <-t.C:
		case <-w.wake:
		case <-ctx.Done():
			t.Stop()
			return // replaced, or the server stops
		}
		t.Stop()
	}
}

// leave sends the event, and reports whether the delegation is over.
func (s *Service) leave(ctx context.Context, d delegation) bool {
	err := s.o.Delayed.Send(ctx, d.delayID)
	var refused *mx.Error
	if err != nil && !errors.As(err, &refused) {
		if ctx.Err() == nil {
			s.o.Log.Error("a call membership could not be ended; trying again", "err", err)
		}
		return ctx.Err() != nil
	}
	if refused != nil && refused.Code != mx.NotFound {
		s.o.Log.Info("the leave of a call was refused", "err", err)
	}
	s.forget(ctx, d)
	return true
}

func (s *Service) forget(ctx context.Context, d delegation) {
	err := s.o.DB.Write(context.WithoutCancel(ctx), func(tx *store.Tx) error { return deleteDelegation(tx, s.o.Secrets, d) })
	if err != nil && !errors.Is(err, store.ErrClosed) {
		s.o.Log.Warn("a delegation that is over could not be removed", "err", err)
	}
}
