// Package syncv3 renders the feed as GET /sync.
//
// Invariants: a token that this server gave, in this or an earlier run, is always
// understood; a request with a token of the future is answered like one with the
// latest; a long poll ends when its client is gone; one-time-key counts and the
// unused fallback keys are in every answer; with state_after asked for, `state` is
// left out and state_after is there for every joined and left room, empty or not.
package syncv3

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/homeserver/feed"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/route"
	"holdfast/homeserver/timeline"
	"holdfast/store"
)

// Options of New.
type Options struct {
	DB   *store.DB
	Feed *feed.Feed
	// Timeline writes events out.
	Timeline *timeline.Timeline
	// Filter gives a stored filter. Errors: store.ErrNotFound.
	Filter func(q store.Querier, userID, filterID string) (mx.Raw, error)
	// Synced notes the presence that a device asked for. nil: nobody asks.
	Synced func(ctx context.Context, userID, deviceID, setPresence string) error
}

// Sync answers GET /sync.
type Sync struct {
	o Options

	mu      sync.Mutex
	filters map[filterKey]*timeline.Filter
}

type filterKey struct{ user, text string }

// Bounds.
const (
	maxTimeout = 5 * time.Minute
	maxFilters = 1000 // parsed filters kept
	maxKept    = 2048 // bytes of an inline filter that is worth keeping
)

// New makes a Sync.
func New(o Options) *Sync { return &Sync{o: o, filters: map[filterKey]*timeline.Filter{}} }

// Routes are the package's operations.
func (s *Sync) Routes() []route.Route {
	return []route.Route{{Op: "sync", Pattern: "GET /_matrix/client/v3/sync", Aliases: []string{"/_matrix/client/r0/sync"},
		Auth: route.User, Limit: route.Reads, Waits: true, Handle: s.sync}}
}

// filter is the filter that the request names by ID or gives in JSON.
func (s *Sync) filter(ctx context.Context, userID, text string) (*timeline.Filter, error) {
	if text == "" {
		return &timeline.Filter{}, nil
	}
	k := filterKey{text: text}
	if !strings.HasPrefix(text, "{") {
		k.user = userID
	}
	s.mu.Lock()
	f := s.filters[k]
	s.mu.Unlock()
	if f != nil {
		return f, nil
	}
	raw := []byte(text)
	if k.user != "" {
		err := s.o.DB.Read(ctx, func(q store.Querier) error {
			stored, err := s.o.Filter(q, userID, text)
			raw = stored
			return err
		})
		if errors.Is(err, store.ErrNotFound) {
			return nil, mx.Errorf(mx.InvalidParam, "You have no filter %.40q: upload it first, or give it in JSON.", text)
		}
		if err != nil {
			return nil, err
		}
	}
	f, err := timeline.ParseFilter(raw)
	if err != nil {
		return nil, err
	}
	if len(text) <= maxKept {
		s.mu.Lock()
		if len(s.filters) >= maxFilters {
			clear(s.filters)
		}
		s.filters[k] = f
		s.mu.Unlock()
	}
	return f, nil
}

// request reads the parameters.
func (s *Sync) request(ctx context.Context, r *route.Request) (req feed.Request, timeout time.Duration, err error) {
	if req.Filter, err = s.filter(ctx, r.UserID, r.Query("filter")); err != nil {
		return req, 0, err
	}
	if since := r.Query("since"); since != "" {
		if req.From, err = timeline.ParseToken(since); err != nil {
			return req, 0, err
		}
	}
	ms, err := r.Int("timeout", 0)
	if err != nil {
		return req, 0, err
	}
	timeout = time.Duration(min(int64(ms), maxTimeout.Milliseconds())) * time.Millisecond
	if req.FullState, err = r.Bool("full_state"); err != nil {
		return req, 0, err
	}
	switch p := r.Query("set_presence"); p {
	case "", "online", "offline", "unavailable":
	default:
		return req, 0, mx.Errorf(mx.InvalidParam, "set_presence is online, unavailable or offline.")
	}
	return req, timeout, nil
}

func (s *Sync) sync(ctx context.Context, r *route.Request) (any, error) {
	begun := time.Now()
	req, timeout, err := s.request(ctx, r)
	if err != nil {
		return nil, err
	}
	stable, err := r.Bool("use_state_after")
	if err != nil {
		return nil, err
	}
	unstable, err := r.Bool("org.matrix.msc4222.use_state_after")
	if err != nil {
		return nil, err
	}
	req.StateAfter = stable || unstable
	if s.o.Synced != nil {
		if err := s.o.Synced(ctx, r.UserID, r.DeviceID, r.Query("set_presence")); err != nil {
			return nil, err
		}
	}
	session := s.o.Feed.Open(r.UserID, r.DeviceID)
	defer session.Close()
	if req.From.Pos == 0 || req.FullState {
		timeout = 0
	}
	w := writer{s: s, req: req, user: r.UserID, device: r.DeviceID, stable: stable, unstable: unstable, format: req.Filter.EventFormat}
	for {
		var to int64
		empty := false
		err := session.Since(ctx, req, func(q store.Querier, c *feed.Changes) error {
			to, empty = c.To.Pos, c.Empty
			if empty && time.Since(begun) < timeout {
				return nil
			}
			empty = false
			w.q = q
			return w.write(c)
		})
		if err != nil {
			return nil, err
		}
		if !empty {
			body := w.out
			return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Content-Type", "application/json")
				rw.Header().Set("Cache-Control", "no-store")
				rw.Write(body)
				if cap(body) <= maxPooled {
					buffers.Put(&body)
				}
			}), nil
		}
		session.Wait(ctx, to, timeout-time.Since(begun))
		if ctx.Err() != nil {
			// The client is gone, or the server stops: answer at once with what there is.
			ctx, timeout = context.WithoutCancel(ctx), 0
		}
	}
}

// buffers are for answers: most are small, and there are many.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}

// maxPooled bounds, in bytes, what is kept: the first sync of somebody in many rooms
// is rare.
const maxPooled = 128 << 10

// writer renders one answer.
type writer struct {
	s            *Sync
	q            store.Querier
	req          feed.Request
	user, device string
	stable       bool // state_after was asked for by its stable name
	unstable     bool
	format       string
	out          []byte
	now          int64
	to           int64
}

// key begins a member of an object.
func (w *writer) key(k string) {
	if c := w.out[len(w.out)-1]; c != '{' && c != '[' {
		w.out = append(w.out, ',')
	}
	w.out = append(append(append(w.out, '"'), k...), `":`...)
}

func (w *writer) raw(s string) { w.out = append(w.out, s...) }

func (w *writer) json(k string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.key(k)
	w.out = append(w.out, b...)
	return nil
}

// events writes {"events":[...]}.
func (w *writer) raws(k string, list []mx.Raw) {
	if len(list) == 0 {
		return
	}
	w.key(k)
	w.raw(`{"events":[`)
	for i, e := range list {
		if i > 0 {
			w.raw(",")
		}
		w.out = append(w.out, e...)
	}
	w.raw("]}")
}

func (w *writer) write(c *feed.Changes) error {
	w.out = append((*buffers.Get().(*[]byte))[:0], '{')
	w.now, w.to = time.Now().UnixMilli(), c.To.Pos
	w.key("next_batch")
	w.out = append(append(append(w.out, '"'), c.To.String()...), '"')

	if err := w.json("device_one_time_keys_count", counts(c.OneTimeKeys)); err != nil {
		return err
	}
	fallback := c.Fallback
	if fallback == nil {
		fallback = []string{}
	}
	if err := w.json("device_unused_fallback_key_types", fallback); err != nil {
		return err
	}
	if err := w.json("org.matrix.msc2732.device_unused_fallback_key_types", fallback); err != nil {
		return err
	}
	if len(c.DevicesChanged)+len(c.DevicesLeft) > 0 {
		type lists struct {
			Changed []string `json:"changed,omitempty"`
			Left    []string `json:"left,omitempty"`
		}
		if err := w.json("device_lists", lists{c.DevicesChanged, c.DevicesLeft}); err != nil {
			return err
		}
	}
	w.raws("to_device", c.ToDevice)
	w.raws("presence", c.Presence)
	if len(c.Data) > 0 {
		if err := w.json("account_data", map[string]any{"events": c.Data}); err != nil {
			return err
		}
	}
	if len(c.Joined)+len(c.Invited)+len(c.Knocked)+len(c.Left) > 0 {
		w.key("rooms")
		w.raw("{")
		for _, kind := range []struct {
			name  string
			rooms []*feed.Room
			write func(*feed.Room) error
		}{{"join", c.Joined, w.joined}, {"invite", c.Invited, w.invited}, {"knock", c.Knocked, w.knocked}, {"leave", c.Left, w.left}} {
			if len(kind.rooms) == 0 {
				continue
			}
			w.key(kind.name)
			w.raw("{")
			for i, r := range kind.rooms {
				if i > 0 {
					w.raw(",")
				}
				w.out = pdu.AppendString(w.out, r.ID)
				w.raw(":")
				if err := kind.write(r); err != nil {
					return err
				}
			}
			w.raw("}")
		}
		w.raw("}")
	}
	w.raw("}")
	return nil
}

// counts always has signed_curve25519: a client takes its absence for none, but
// some only look at its value.
func counts(c map[string]int) map[string]int {
	if _, ok := c["signed_curve25519"]; ok {
		return c
	}
	out := map[string]int{"signed_curve25519": 0}
	for k, v := range c {
		out[k] = v
	}
	return out
}

func (w *writer) event(e *rooms.Event, r *feed.Room) error {
	start := len(w.out)
	reader := timeline.Reader{UserID: w.user, DeviceID: w.device, To: w.to, Now: w.now, OmitRoomID: true, View: r.View}
	render := w.s.o.Timeline.Append
	if w.format == "federation" {
		render = w.s.o.Timeline.AppendRaw
	}
	out, err := render(w.out, w.q, e, reader)
	if err != nil {
		return err
	}
	w.out = out
	if fields := w.req.Filter.EventFields; fields != nil {
		small, err := onlyFields(w.out[start:], fields)
		if err != nil {
			return err
		}
		w.out = append(w.out[:start], small...)
	}
	return nil
}

func (w *writer) list(k string, events []*rooms.Event, r *feed.Room) error {
	w.key(k)
	w.raw(`{"events":[`)
	for i, e := range events {
		if i > 0 {
			w.raw(",")
		}
		if err := w.event(e, r); err != nil {
			return err
		}
	}
	w.raw("]}")
	return nil
}

func (w *writer) state(r *feed.Room) error {
	if !w.req.StateAfter {
		return w.list("state", r.State, r)
	}
	if w.stable {
		if err := w.list("state_after", r.State, r); err != nil {
			return err
		}
	}
	if w.unstable {
		return w.list("org.matrix.msc4222.state_after", r.State, r)
	}
	return nil
}

func (w *writer) timeline(r *feed.Room) error {
	w.key("timeline")
	w.raw(`{"events":[`)
	for i, e := range r.Events {
		if i > 0 {
			w.raw(",")
		}
		if err := w.event(e, r); err != nil {
			return err
		}
	}
	w.raw(`],"limited":`)
	w.out = strconv.AppendBool(w.out, r.Limited)
	w.raw(`,"prev_batch":"`)
	w.raw(timeline.At(r.Prev).String())
	w.raw(`"}`)
	return nil
}

func (w *writer) joined(r *feed.Room) error {
	w.raw("{")
	if err := w.timeline(r); err != nil {
		return err
	}
	if err := w.state(r); err != nil {
		return err
	}
	w.raws("ephemeral", r.Ephemeral)
	if err := w.data(r); err != nil {
		return err
	}
	if s := r.Summary; s != nil {
		w.key("summary")
		w.raw(`{"m.joined_member_count":`)
		w.out = strconv.AppendInt(w.out, int64(s.Joined), 10)
		w.raw(`,"m.invited_member_count":`)
		w.out = strconv.AppendInt(w.out, int64(s.Invited), 10)
		if s.Heroes != nil {
			if err := w.json("m.heroes", s.Heroes); err != nil {
				return err
			}
		}
		w.raw("}")
	}
	main := r.Main
	f := &w.req.Filter.Room.Timeline
	if f.ThreadCounts || f.ThreadCountsMSC {
		if len(r.Threads) > 0 {
			if f.ThreadCounts {
				if err := w.json("unread_thread_notifications", r.Threads); err != nil {
					return err
				}
			}
			if f.ThreadCountsMSC {
				if err := w.json("org.matrix.msc3773.unread_thread_notifications", r.Threads); err != nil {
					return err
				}
			}
		}
	} else {
		for _, c := range r.Threads {
			main.Notifications += c.Notifications
			main.Highlights += c.Highlights
		}
	}
	w.key("unread_notifications")
	w.raw(`{"notification_count":`)
	w.out = strconv.AppendInt(w.out, int64(main.Notifications), 10)
	w.raw(`,"highlight_count":`)
	w.out = strconv.AppendInt(w.out, int64(main.Highlights), 10)
	w.raw("}}")
	return nil
}

func (w *writer) stripped(k string, r *feed.Room) error {
	w.raw("{")
	w.key(k)
	w.raw(`{"events":[`)
	for i, e := range r.Stripped {
		if i > 0 {
			w.raw(",")
		}
		w.out = e.AppendStripped(w.out)
	}
	w.raw("]}}")
	return nil
}

func (w *writer) invited(r *feed.Room) error { return w.stripped("invite_state", r) }
func (w *writer) knocked(r *feed.Room) error { return w.stripped("knock_state", r) }

func (w *writer) left(r *feed.Room) error {
	w.raw("{")
	if err := w.timeline(r); err != nil {
		return err
	}
	if err := w.state(r); err != nil {
		return err
	}
	if err := w.data(r); err != nil {
		return err
	}
	w.raw("}")
	return nil
}

func (w *writer) data(r *feed.Room) error {
	if len(r.Data) == 0 {
		return nil
	}
	return w.json("account_data", map[string]any{"events": r.Data})
}

// onlyFields keeps the fields of an event that the filter's event_fields name:
// paths with dots, where "\." is a dot in a name.
func onlyFields(event []byte, fields []string) ([]byte, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(event, &all); err != nil {
		return nil, err
	}
	out := map[string]any{}
	for _, f := range fields {
		pick(all, out, path(f))
	}
	return json.Marshal(out)
}

func path(f string) []string {
	var out []string
	var part strings.Builder
	for i := 0; i < len(f); i++ {
		switch {
		case f[i] == '\\' && i+1 < len(f) && (f[i+1] == '.' || f[i+1] == '\\'):
			i++
			part.WriteByte(f[i])
		case f[i] == '.':
			out = append(out, part.String())
			part.Reset()
		default:
			part.WriteByte(f[i])
		}
	}
	return append(out, part.String())
}

func pick(from map[string]json.RawMessage, to map[string]any, path []string) {
	raw, ok := from[path[0]]
	if !ok {
		return
	}
	if len(path) == 1 {
		to[path[0]] = raw
		return
	}
	var inner map[string]json.RawMessage
	if json.Unmarshal(raw, &inner) != nil {
		return
	}
	sub, ok := to[path[0]].(map[string]any)
	if !ok {
		if _, whole := to[path[0]]; whole {
			return
		}
		sub = map[string]any{}
	}
	pick(inner, sub, path[1:])
	if len(sub) > 0 {
		to[path[0]] = sub
	}
}
