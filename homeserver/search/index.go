package search

import (
	"context"
	"errors"
	"strings"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/timeline"
	"holdfast/store"
)

const (
	atOnce   = 500                   // events put into the index in one write
	maxQueue = 5000                  // events kept in memory for it
	gather   = time.Second           // how long events are gathered before
	pause    = 50 * time.Millisecond // between writes for what is older than the index
)

var types = []string{mx.RoomMessage, mx.RoomName, mx.RoomTopic, mx.RoomRedaction}

// Stored notes an event that the index has to take in. It runs in the transaction
// that stores the event. What the event redacts leaves the index with it.
func (s *Service) Stored(tx *store.Tx, e *rooms.Event) error {
	switch e.Type {
	case mx.RoomMessage, mx.RoomName, mx.RoomTopic:
	case mx.RoomRedaction:
		if err := s.redacted(tx, e); err != nil {
			return err
		}
	default:
		return nil
	}
	tx.AfterCommit(func() {
		s.mu.Lock()
		if len(s.queue) >= maxQueue { // they are read again
			s.queue, s.from = nil, s.queue[len(s.queue)-1].Pos
		}
		s.queue = append(s.queue, e)
		s.mu.Unlock()
		select {
		case s.wake <- struct{}{}:
		default:
		}
	})
	return nil
}

func (s *Service) redacted(tx *store.Tx, e *rooms.Event) error {
	if e.Redacts == "" {
		return nil
	}
	pos, err := s.o.Rooms.EventPos(tx, e.RoomID, e.Redacts)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return removeEvent(tx, pos)
}

// Purged takes events out of the index, with their edits. It belongs into the
// transaction that deletes them, or the room that they are in. What is on its way into
// the index is looked at again.
func (s *Service) Purged(tx *store.Tx, at []int64) error {
	// Whoever has read events before this is committed must not write them after it.
	s.purges.Add(1)
	tx.AfterCommit(func() {
		s.purges.Add(1)
		s.mu.Lock()
		if n := len(s.queue); n > 0 { // they are read again
			s.queue, s.from = nil, s.queue[n-1].Pos
		}
		s.mu.Unlock()
	})
	for _, pos := range at {
		if err := removeEvent(tx, pos); err != nil {
			return err
		}
	}
	return nil
}

// Start reads how far the index is and keeps it up to date until Close.
func (s *Service) Start(ctx context.Context) error {
	err := s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		s.low, s.high, err = loadProgress(q)
		return err
	})
	if err != nil {
		return err
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		s.run(ctx)
	}()
	return nil
}

// Close ends what Start began. What is not in the index yet gets there after the
// next start.
func (s *Service) Close() {
	if s.stop != nil {
		s.stop()
		<-s.done
	}
}

func (s *Service) run(ctx context.Context) {
	wait := func(d time.Duration) bool {
		select {
		case <-time.After(d):
			return true
		case <-ctx.Done():
			return false
		}
	}
	failed := func(err error) {
		if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrClosed) {
			s.o.Log.Error("the search index could not be brought up to date; it is tried again", "err", err)
		}
	}
	older := true
	for {
		failed(s.catchUp(ctx))
		if older {
			more, err := s.older(ctx)
			failed(err)
			if older = more || err != nil; older {
				if !wait(pause) {
					return
				}
				continue
			}
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		}
		if !wait(gather) {
			return
		}
	}
}

// catchUp brings the index up to what is committed when it is called.
func (s *Service) catchUp(ctx context.Context) error {
	to := s.o.DB.Pos()
	s.catching.Lock()
	defer s.catching.Unlock()
	for {
		purges := s.purges.Load()
		list, high, err := s.next(ctx, to)
		if err != nil || high <= s.high {
			return err
		}
		if err := s.write(ctx, list, s.low, high, purges); errors.Is(err, errPurged) {
			continue
		} else if err != nil {
			return err
		}
		s.forget(high)
	}
}

// next gives the events that come next, up to position to, and up to where they go.
func (s *Service) next(ctx context.Context, to int64) (list []*rooms.Event, high int64, err error) {
	s.mu.Lock()
	known := s.from <= s.high
	if known {
		list = s.queue[:min(len(s.queue), atOnce)]
		for len(list) > 0 && list[len(list)-1].Pos > to {
			list = list[:len(list)-1]
		}
	}
	s.mu.Unlock()
	if known {
		if len(list) == 0 {
			return nil, s.high, nil
		}
		return list, list[len(list)-1].Pos, nil
	}
	if s.high >= to {
		return nil, s.high, nil
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		list, err = s.o.Rooms.OfTypes(q, s.high, to, atOnce, false, types...)
		return err
	})
	if high = to; len(list) == atOnce {
		high = list[atOnce-1].Pos
	}
	return list, high, err
}

// forget takes out of the queue what is in the index.
func (s *Service) forget(high int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for n < len(s.queue) && s.queue[n].Pos <= high {
		n++
	}
	if s.queue = s.queue[n:]; len(s.queue) == 0 {
		s.queue = nil
	}
}

// older takes in some events that were there before the index was; more reports
// whether any are left.
func (s *Service) older(ctx context.Context) (more bool, err error) {
	s.catching.Lock()
	defer s.catching.Unlock()
	if s.low == 0 {
		return false, nil
	}
	purges := s.purges.Load()
	var list []*rooms.Event
	err = s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		list, err = s.o.Rooms.OfTypes(q, 0, s.low, atOnce, true, types[:3]...)
		return err
	})
	if err != nil {
		return true, err
	}
	low := int64(0)
	if len(list) == atOnce {
		low = list[atOnce-1].Pos - 1
	}
	err = s.write(ctx, list, low, s.high, purges)
	if errors.Is(err, errPurged) {
		return true, nil
	}
	return low > 0, err
}

var errPurged = errors.New("search: events were deleted since they were read")

// write puts events into the index and moves on what it covers, in one write. Errors:
// errPurged, if events were deleted since there were as many purges.
func (s *Service) write(ctx context.Context, list []*rooms.Event, low, high, purges int64) error {
	err := s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if s.purges.Load() != purges {
			return errPurged
		}
		rows := make([]row, 0, len(list))
		for _, e := range list {
			if e.Type == mx.RoomRedaction {
				continue
			}
			r, err := s.row(tx, e)
			if err != nil {
				return err
			}
			if r.text != "" {
				rows = append(rows, r)
			}
		}
		if err := insert(tx, rows); err != nil {
			return err
		}
		for _, e := range list {
			if e.Type == mx.RoomRedaction { // what it redacts got here after it was stored
				if err := s.redacted(tx, e); err != nil {
					return err
				}
			}
		}
		return storeProgress(tx, low, high)
	})
	if err == nil {
		s.low, s.high = low, high
	}
	return err
}

// row is what can be found of an event; its text is empty for nothing.
// Spec: cs#search-categories
func (s *Service) row(tx *store.Tx, e *rooms.Event) (r row, err error) {
	var text string
	event := e.Pos
	switch {
	case e.RedactedBy != "":
	case e.Type == mx.RoomMessage && e.StateKey == nil:
		r.key = "body"
		content := e.Content
		if rel, to := e.Relation(); rel == mx.RelReplace {
			edited, err := s.o.Rooms.EventByID(tx, to)
			if errors.Is(err, store.ErrNotFound) {
				return r, nil
			}
			if err != nil {
				return r, err
			}
			if rel, _ := edited.Relation(); rel == mx.RelReplace || edited.RedactedBy != "" || !timeline.ValidEdit(edited, e) {
				return r, nil
			}
			content, event = pdu.Field(e.Content, "m.new_content"), edited.Pos
		}
		text = pdu.FieldString(content, "body")
	case e.IsStateOf(mx.RoomName, ""):
		r.key, text = "name", e.ContentString("name")
	case e.IsStateOf(mx.RoomTopic, ""):
		r.key, text = "topic", topic(e.Content)
	}
	if text = store.Text(text); text == "" {
		return r, nil
	}
	r.pos, r.event, r.sender, r.text = e.Pos, event, e.Sender, text
	r.room, err = s.o.Rooms.Number(tx, e.RoomID)
	return r, err
}

// topic is what a topic says: its plain texts in both forms. Spec: cs#mroomtopic
func topic(content []byte) string {
	parts := []string{pdu.FieldString(content, "topic")}
	// What is no list says nothing.
	_ = pdu.Elements(pdu.Path(content, "m.topic", "m.text"), func(t []byte) error {
		mime, body := pdu.FieldString(t, "mimetype"), pdu.FieldString(t, "body")
		if (mime == "" || mime == "text/plain") && body != parts[0] {
			parts = append(parts, body)
		}
		return nil
	})
	return strings.Join(parts, "\n")
}
