package push

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pushrules"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/route"
	"holdfast/homeserver/timeline"
	"holdfast/store"
)

// List lists what a user was notified of. Nothing is stored for it: events are
// looked at from the newest back, by the rules as they are now.
type List struct {
	c        *Counter
	rooms    *rooms.Rooms
	timeline *timeline.Timeline
}

// NewList makes a List of what a Counter counts.
func NewList(c *Counter, r *rooms.Rooms, t *timeline.Timeline) *List { return &List{c, r, t} }

// Routes are the package's operations.
func (l *List) Routes() []route.Route {
	return []route.Route{{Op: "getNotifications", Auth: route.User, Limit: route.Reads,
		Pattern: "GET /_matrix/client/v3/notifications", Aliases: []string{"/_matrix/client/r0/notifications"}, Handle: route.Get(l.get)}}
}

// Bounds of one answer.
const (
	defaultListed = 20
	maxListed     = 100
	maxLooked     = 3000 // events looked at; an answer may have fewer than limit then, and a token
	chunk         = 50   // events of a room read at once
)

type notification struct {
	Actions pushrules.Actions `json:"actions"`
	Event   mx.Raw            `json:"event"`
	Read    bool              `json:"read"`
	RoomID  string            `json:"room_id"`
	TS      int64             `json:"ts"`
}

type listResponse struct {
	Next          string         `json:"next_token,omitempty"`
	Notifications []notification `json:"notifications"`
}

// Spec: cs#get_matrixclientv3notifications
func (l *List) get(ctx context.Context, r *route.Request) (out listResponse, err error) {
	out.Notifications = []notification{}
	limit := defaultListed
	if v := r.Query("limit"); v != "" {
		if limit, err = strconv.Atoi(v); err != nil || limit < 1 {
			return out, mx.Errorf(mx.InvalidParam, "The limit must be a number above 0.")
		}
		limit = min(limit, maxListed)
	}
	only := r.Query("only")
	if only != "" && only != "highlight" {
		return out, mx.Errorf(mx.InvalidParam, "The only value of \"only\" is \"highlight\".")
	}
	to := l.c.o.DB.Pos()
	before := to + 1
	if v := r.Query("from"); v != "" {
		if before, err = strconv.ParseInt(v, 10, 64); err != nil || before < 1 {
			return out, mx.Errorf(mx.InvalidParam, "This is no token of an earlier answer. Leave out \"from\" to begin anew.")
		}
		before = min(before, to+1)
	}
	err = l.c.o.DB.Read(ctx, func(q store.Querier) error {
		w := &walk{l: l, q: q, user: r.UserID, to: to}
		if err := w.begin(before); err != nil {
			return err
		}
		for looked := 0; ; looked++ {
			e, s, err := w.next()
			if err != nil || e == nil {
				return err
			}
			n, err := w.judge(e, s, only != "")
			if err != nil {
				return err
			}
			if n != nil {
				n.Event, err = l.timeline.Append(nil, q, e, timeline.Reader{UserID: r.UserID, DeviceID: r.DeviceID, To: to, Now: time.Now().UnixMilli(), OmitRoomID: true, View: s.view})
				if err != nil {
					return err
				}
				out.Notifications = append(out.Notifications, *n)
			}
			if len(out.Notifications) == limit || looked == maxLooked {
				if len(w.streams) > 0 {
					out.Next = strconv.FormatInt(e.Pos, 10)
				}
				return nil
			}
		}
	})
	return out, err
}

// walk goes through the events of a user's rooms, newest first.
type walk struct {
	l       *List
	q       store.Querier
	user    string
	to      int64
	streams streams
}

// stream is what is left of one room.
type stream struct {
	room   string
	top    int64          // no event that is left is newer
	events []*rooms.Event // oldest first; what is read already
	view   *timeline.View // nil: nothing was read yet
	unread func(e *rooms.Event) (bool, error)
	invite bool // the user is invited only; the one event is the invitation
}

// streams is a heap with the newest on top.
type streams []*stream

func (h streams) Len() int           { return len(h) }
func (h streams) Less(i, j int) bool { return h[i].top > h[j].top }
func (h streams) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *streams) Push(x any) { *h = append(*h, x.(*stream)) }

// Pop implements heap.Interface.
func (h *streams) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// begin finds the rooms that have something before a position.
func (w *walk) begin(before int64) error {
	last, err := w.l.rooms.Activity(w.q, w.user)
	if err != nil {
		return err
	}
	for id, pos := range last {
		w.streams = append(w.streams, &stream{room: id, top: min(pos, before-1)})
	}
	invites, err := w.l.rooms.Rooms(w.q, w.user, mx.Invite)
	if err != nil {
		return err
	}
	for _, m := range invites {
		if m.Pos < before {
			w.streams = append(w.streams, &stream{room: m.RoomID, top: m.Pos, invite: true})
		}
	}
	heap.Init(&w.streams)
	return nil
}

// next is the next older event, nil at the end.
func (w *walk) next() (*rooms.Event, *stream, error) {
	for len(w.streams) > 0 {
		s := w.streams[0]
		if len(s.events) == 0 {
			if err := w.read(s); err != nil {
				return nil, nil, err
			}
			if len(s.events) == 0 {
				heap.Pop(&w.streams)
			} else {
				heap.Fix(&w.streams, 0)
			}
			continue
		}
		e := s.events[len(s.events)-1]
		s.events = s.events[:len(s.events)-1]
		s.top = e.Pos - 1
		if s.invite || s.view.Membership(e.Pos) != mx.Join {
			heap.Pop(&w.streams) // what was before the user came is no news
		} else {
			if len(s.events) > 0 {
				s.top = s.events[len(s.events)-1].Pos
			}
			heap.Fix(&w.streams, 0)
		}
		if s.invite || s.view.Membership(e.Pos) == mx.Join {
			return e, s, nil
		}
	}
	return nil, nil, nil
}

// read reads more of a room.
func (w *walk) read(s *stream) (err error) {
	if s.view == nil {
		if s.view, err = w.l.timeline.View(w.q, s.room, w.user, w.to); err != nil {
			return err
		}
	}
	if s.invite {
		e, err := w.l.rooms.EventAt(w.q, s.top)
		if err == nil {
			s.events = append(s.events, e)
		}
		return err
	}
	if s.unread == nil {
		if s.unread, err = w.l.c.isUnread(w.q, s.room, w.user, w.to); err != nil {
			return err
		}
	}
	events, _, err := w.l.rooms.Last(w.q, s.room, 0, s.top, chunk)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	s.events = slices.Clone(events)
	if n := len(s.events); n > 0 {
		s.top = s.events[n-1].Pos
	}
	return err
}

// judge tells how an event notified, nil if it did not.
func (w *walk) judge(e *rooms.Event, s *stream, highlights bool) (*notification, error) {
	if e.Sender == w.user {
		return nil, nil
	}
	out, err := w.l.c.Outcome(w.q, w.user, e)
	if err != nil || !out.Notify || highlights && !out.Highlight || !s.invite && !s.view.Sees(e) {
		return nil, err
	}
	n := &notification{Actions: out.Actions, RoomID: e.RoomID, TS: e.OriginServerTS}
	if !s.invite {
		unread, err := s.unread(e)
		if err != nil {
			return nil, err
		}
		n.Read = !unread
	}
	return n, nil
}

// isUnread tells of events of a room whether they count as unread.
func (c *Counter) isUnread(q store.Querier, roomID, userID string, to int64) (func(*rooms.Event) (bool, error), error) {
	e := c.entry(key{userID, roomID})
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := c.bring(q, e, to); err != nil {
		return nil, err
	}
	items := slices.Clone(e.items)
	folded := make(map[string]sum, len(e.folded))
	for k, v := range e.folded {
		folded[k] = v
	}
	return func(ev *rooms.Event) (bool, error) {
		if _, ok := slices.BinarySearchFunc(items, ev.Pos, func(it item, pos int64) int { return cmp.Compare(it.pos, pos) }); ok {
			return true, nil
		}
		if len(folded) == 0 {
			return false, nil
		}
		thread, err := c.Thread(q, ev)
		s, ok := folded[thread]
		return ok && ev.Pos > s.After && ev.Pos <= s.UpTo, err
	}, nil
}
