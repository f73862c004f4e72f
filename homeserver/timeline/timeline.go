// Package timeline is the read side of rooms: messages, context, state, members,
// relations and threads, as far as history visibility lets the reader see them.
//
// Invariants: every path that gives events to a client goes through a View, except
// where the reader was joined all the while; redacted events are given as they were
// left by redaction; a token means "after position P", in either direction.
package timeline

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// Options of New.
type Options struct {
	DB    *store.DB
	Rooms *rooms.Rooms
	// Filter gives a stored filter. Errors: store.ErrNotFound.
	Filter func(q store.Querier, userID, filterID string) (mx.Raw, error)
	// Ignored gives the users whose messages a user does not want. nil: none.
	Ignored func(q store.Querier, userID string) (map[string]bool, error)
	Now     func() time.Time // nil: time.Now
}

// Timeline answers the read operations. Its methods are safe for concurrent use.
type Timeline struct {
	o      Options
	erased erasures
}

// New makes a Timeline.
func New(o Options) *Timeline {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Timeline{o: o}
}

func (t *Timeline) now() int64 { return t.o.Now().UnixMilli() }

func (t *Timeline) ignored(q store.Querier, userID string) (map[string]bool, error) {
	if t.o.Ignored == nil || userID == "" {
		return nil, nil
	}
	return t.o.Ignored(q, userID)
}

const v3 = "/_matrix/client/v3"

// Routes are the package's operations.
func (t *Timeline) Routes() []route.Route {
	get := func(op, path string, h route.Handler, aliases ...string) route.Route {
		return route.Route{Op: op, Pattern: "GET " + v3 + path, Aliases: append(aliases, "/_matrix/client/r0"+path),
			Auth: route.User, Limit: route.Reads, Handle: h}
	}
	room := "/rooms/{roomID}"
	v1 := "/_matrix/client/v1/rooms/{roomID}"
	unstable := func(path string) string {
		return "/_matrix/client/unstable/rooms/{roomID}" + path
	}
	return []route.Route{
		get("getRoomEvents", room+"/messages", route.Get(t.messages)),
		get("getEventContext", room+"/context/{eventID}", route.Get(t.context)),
		get("getOneRoomEvent", room+"/event/{eventID}", route.Get(t.event)),
		get("getRoomState", room+"/state", route.Get(t.state)),
		get("getRoomStateWithKey", room+"/state/{eventType}/{stateKey}", route.Get(t.stateEvent),
			v3+room+"/state/{eventType}", v3+room+"/state/{eventType}/{$}",
			"/_matrix/client/r0"+room+"/state/{eventType}", "/_matrix/client/r0"+room+"/state/{eventType}/{$}"),
		get("getMembersByRoom", room+"/members", route.Get(t.members)),
		get("getJoinedMembersByRoom", room+"/joined_members", route.Get(t.joinedMembers)),
		{Op: "getRelatingEvents", Auth: route.User, Limit: route.Reads, Handle: route.Get(t.relations),
			Pattern: "GET " + v1 + "/relations/{eventID}", Aliases: []string{unstable("/relations/{eventID}")}},
		{Op: "getRelatingEventsWithRelType", Auth: route.User, Limit: route.Reads, Handle: route.Get(t.relations),
			Pattern: "GET " + v1 + "/relations/{eventID}/{relType}", Aliases: []string{unstable("/relations/{eventID}/{relType}")}},
		{Op: "getRelatingEventsWithRelTypeAndEventType", Auth: route.User, Limit: route.Reads, Handle: route.Get(t.relations),
			Pattern: "GET " + v1 + "/relations/{eventID}/{relType}/{eventType}", Aliases: []string{unstable("/relations/{eventID}/{relType}/{eventType}")}},
		{Op: "getThreadRoots", Auth: route.User, Limit: route.Reads, Handle: route.Get(t.threads),
			Pattern: "GET " + v1 + "/threads", Aliases: []string{"/_matrix/client/unstable/org.matrix.msc3856/rooms/{roomID}/threads"}},
		{Op: "getEventByTimestamp", Auth: route.User, Limit: route.Reads, Handle: route.Get(t.byTimestamp),
			Pattern: "GET " + v1 + "/timestamp_to_event", Aliases: []string{"/_matrix/client/unstable/org.matrix.msc3030/rooms/{roomID}/timestamp_to_event"}},
	}
}

// errNotMember is what somebody gets who may not read in a room, whether it exists or not.
func errNotMember() error { return mx.Errorf(mx.Forbidden, "You are not in this room.") }

var errNoEvent = mx.Errorf(mx.NotFound, "You can see no event with this ID in the room.")

// Page is one reading of a room, as its reader may see it.
type Page struct {
	t      *Timeline
	q      store.Querier
	room   string
	view   *View
	reader Reader
	ignore map[string]bool
}

// AdminReads are the handlers of reading for routes of administrators (route.Admin):
// these see everything in every room. Errors: NotFound where there is no such room.
func (t *Timeline) AdminReads() (messages, context, byTimestamp route.Handler) {
	return route.Get(t.messages), route.Get(t.context), route.Get(t.byTimestamp)
}

// byAdmin reports whether a request came by a route for administrators.
func byAdmin(r *route.Request) bool { return r.Route != nil && r.Route.Auth == route.Admin }

// read opens a snapshot for a reader of a room. Errors: Forbidden; for administrators
// NotFound.
func (t *Timeline) read(ctx context.Context, r *route.Request, f func(p *Page) error) error {
	to := t.o.DB.Pos()
	return t.o.DB.Read(ctx, func(q store.Querier) error {
		if byAdmin(r) {
			p, err := t.enterAll(q, r.Param("roomID"), to)
			if err != nil {
				return err
			}
			return f(p)
		}
		p, err := t.Enter(q, r.Param("roomID"), Reader{UserID: r.UserID, DeviceID: r.DeviceID, To: to})
		if err != nil {
			return err
		}
		return f(p)
	})
}

// Enter begins the reading of a room as of position r.To, inside q's snapshot: View and
// Now of r are set here. Errors: Forbidden.
func (t *Timeline) Enter(q store.Querier, roomID string, r Reader) (*Page, error) {
	p := &Page{t: t, q: q, room: roomID}
	var err error
	if p.view, err = t.View(q, roomID, r.UserID, r.To); err != nil {
		if errors.Is(err, store.ErrNotFound) {
			return nil, errNotMember()
		}
		return nil, err
	}
	if !p.view.Enter() {
		return nil, errNotMember()
	}
	if p.view.Now() != mx.Join && !p.view.WorldReadable() {
		if gone, err := t.o.Rooms.Forgotten(q, roomID, r.UserID); gone || err != nil {
			if err == nil {
				err = errNotMember()
			}
			return nil, err
		}
	}
	if p.ignore, err = t.ignored(q, r.UserID); err != nil {
		return nil, err
	}
	r.Now, r.View = t.now(), p.view
	p.reader = r
	return p, nil
}

// enterAll is Enter for an administrator, who reads what others wrote as it is kept:
// nobody is ignored, and no membership is told. Errors: NotFound.
func (t *Timeline) enterAll(q store.Querier, roomID string, to int64) (*Page, error) {
	if _, err := t.o.Rooms.Number(q, roomID); err != nil {
		if errors.Is(err, store.ErrNotFound) {
			err = mx.Errorf(mx.NotFound, "This server does not know the room.")
		}
		return nil, err
	}
	return &Page{t: t, q: q, room: roomID, view: Everything(), reader: Reader{To: to, Now: t.now()}}, nil
}

// View is what the reader may see.
func (p *Page) View() *View { return p.view }

// Ignores reports whether the reader ignores a user.
func (p *Page) Ignores(userID string) bool { return p.ignore[userID] }

// Sees reports whether the reader sees an event, and wants to.
func (p *Page) Sees(e *rooms.Event) bool {
	return p.view.Sees(e) && (e.StateKey != nil || !p.ignore[e.Sender])
}

// Raw is an event in the client format.
func (p *Page) Raw(e *rooms.Event) (json.RawMessage, error) {
	return p.t.Append(nil, p.q, e, p.reader)
}

// List is Raw of each.
func (p *Page) List(events []*rooms.Event) ([]json.RawMessage, error) {
	out := make([]json.RawMessage, 0, len(events))
	for _, e := range events {
		raw, err := p.Raw(e)
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	return out, nil
}

// Bounds of one answer.
const (
	defaultLimit = 10
	maxLimit     = 1000
	maxLooked    = 5000 // events looked at for one page; the rest comes with the next
	lookAtOnce   = 100
)

func limitOf(r *route.Request, f *RoomEventFilter, def int) (int, error) {
	n := def
	if f != nil {
		n = f.LimitOr(def, maxLimit)
	}
	if s := r.Query("limit"); s != "" {
		v, err := strconv.Atoi(s)
		if err != nil || v < 0 {
			return 0, mx.Errorf(mx.InvalidParam, "The limit must be a number of 0 or more.")
		}
		if f != nil && f.Limit != nil {
			v = min(v, *f.Limit)
		}
		n = min(v, maxLimit)
	}
	return n, nil
}

// scan gathers up to limit events that pass, walking from position at: back from
// it (at included) down to stop, or forward (after it) up to stop. next is where to
// go on, ok whether there may be more.
func (p *Page) scan(at, stop int64, back bool, limit int, pass func(e *rooms.Event) (bool, error)) (out []*rooms.Event, next int64, more bool, err error) {
	next = at
	if limit == 0 {
		return nil, next, true, nil
	}
	for looked := 0; len(out) < limit; {
		var (
			batch []*rooms.Event
			rest  bool
		)
		n := min(lookAtOnce, max(limit-len(out), 20))
		if back {
			batch, rest, err = p.t.o.Rooms.Last(p.q, p.room, stop, next, n)
		} else {
			batch, rest, err = p.t.o.Rooms.First(p.q, p.room, next, stop, n)
		}
		if err != nil {
			return nil, 0, false, err
		}
		for i := range batch {
			e := batch[i]
			if back {
				e = batch[len(batch)-1-i]
			}
			if len(out) == limit {
				return out, next, true, nil
			}
			if back {
				next = e.Pos - 1
			} else {
				next = e.Pos
			}
			ok, err := pass(e)
			if err != nil {
				return nil, 0, false, err
			}
			if ok {
				out = append(out, e)
			}
		}
		if looked += len(batch); !rest || looked >= maxLooked {
			return out, next, rest, nil
		}
	}
	return out, next, true, nil
}

// Passes makes the test of a filter and of visibility.
func (p *Page) Passes(f *RoomEventFilter) func(e *rooms.Event) (bool, error) {
	return func(e *rooms.Event) (bool, error) {
		if !p.Sees(e) || !f.PassEvent(e.Event) {
			return false, nil
		}
		return p.t.Related(p.q, f, e, p.reader.To)
	}
}

// Related applies the part of a filter that asks what relates to the event, as of
// position to.
func (t *Timeline) Related(q store.Querier, f *RoomEventFilter, e *rooms.Event, to int64) (bool, error) {
	if f.RelatedByRelTypes == nil && f.RelatedBySenders == nil {
		return true, nil
	}
	if !e.Related() {
		return false, nil
	}
	list, err := t.o.Rooms.Relations(q, rooms.Relation{EventID: e.ID, UpTo: to, Limit: maxLimit})
	if err != nil {
		return false, err
	}
	for _, x := range list {
		rel, _ := x.Relation()
		if x.RoomID == e.RoomID && (f.RelatedByRelTypes == nil || has(f.RelatedByRelTypes, rel)) && (f.RelatedBySenders == nil || has(f.RelatedBySenders, x.Sender)) {
			return true, nil
		}
	}
	return false, nil
}

type messagesResponse struct {
	Chunk []json.RawMessage `json:"chunk"`
	Start string            `json:"start"`
	End   string            `json:"end,omitempty"`
	State []json.RawMessage `json:"state,omitempty"`
}

// tokenOr is the place that a parameter names, or def.
func tokenOr(r *route.Request, name string, def int64) (int64, error) {
	s := r.Query(name)
	if s == "" {
		return def, nil
	}
	t, err := ParseToken(s)
	return t.Pos, err
}

// Spec: cs#get_matrixclientv3roomsroomidmessages
func (t *Timeline) messages(ctx context.Context, r *route.Request) (out messagesResponse, err error) {
	back := true
	switch dir := r.Query("dir"); {
	case dir == "f", dir == "" && byAdmin(r): // the admin API goes forward where nothing is said
		back = false
	case dir == "b":
	case dir == "":
		return out, mx.Errorf(mx.MissingParam, "Send dir: b for back or f for forward.")
	default:
		return out, mx.Errorf(mx.InvalidParam, "dir is b for back or f for forward.")
	}
	f, err := ParseEventFilter(r.Query("filter"))
	if err != nil {
		return out, err
	}
	limit, err := limitOf(r, f, defaultLimit)
	if err != nil {
		return out, err
	}
	out.Chunk = []json.RawMessage{}
	err = t.read(ctx, r, func(p *Page) error {
		def, stop := p.reader.To, int64(0)
		if !back {
			def, stop = 0, p.reader.To
		}
		from, err := tokenOr(r, "from", def)
		if err != nil {
			return err
		}
		if stop, err = tokenOr(r, "to", stop); err != nil {
			return err
		}
		from = min(from, p.reader.To)
		out.Start = At(from).String()
		if s := r.Query("from"); s != "" {
			out.Start = s
		}
		if f.None() {
			return nil
		}
		events, next, more, err := p.scan(from, min(stop, p.reader.To), back, limit, p.Passes(f))
		if err != nil {
			return err
		}
		if more { // anything that the reader may see?
			var left []*rooms.Event
			if left, _, more, err = p.scan(next, min(stop, p.reader.To), back, 1, p.Passes(&RoomEventFilter{})); err != nil {
				return err
			}
			if more || len(left) > 0 {
				out.End = At(next).String()
			}
		}
		if out.Chunk, err = p.List(events); err != nil {
			return err
		}
		if f.LazyLoadMembers {
			out.State, err = p.memberState(events)
		}
		return err
	})
	return out, err
}

// memberState gives the member events of those who sent the events.
func (p *Page) memberState(events []*rooms.Event) ([]json.RawMessage, error) {
	if len(events) == 0 {
		return nil, nil
	}
	senders := map[string]bool{}
	newest := events[0]
	for _, e := range events {
		senders[e.Sender] = true
		if e.Pos > newest.Pos {
			newest = e
		}
	}
	var state []*rooms.Event
	for u := range senders {
		e, err := p.t.o.Rooms.StateEventAt(p.q, p.room, mx.RoomMember, u, newest.Pos)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		state = append(state, e)
	}
	return p.List(state)
}

type contextResponse struct {
	Start  string            `json:"start"`
	End    string            `json:"end"`
	Before []json.RawMessage `json:"events_before"`
	Event  json.RawMessage   `json:"event"`
	After  []json.RawMessage `json:"events_after"`
	State  []json.RawMessage `json:"state"`
}

// find is an event of the room that the reader may see. Errors: NotFound.
func (p *Page) find(eventID string) (*rooms.Event, error) {
	e, err := p.t.o.Rooms.EventByID(p.q, eventID)
	if errors.Is(err, store.ErrNotFound) || err == nil && (e.RoomID != p.room || e.Pos > p.reader.To || !p.view.Sees(e)) {
		return nil, errNoEvent
	}
	return e, err
}

// Around gives the events before an event, newest first, and after it, oldest first,
// as many as asked for of those that pass the filter, and the tokens to go on from.
func (p *Page) Around(e *rooms.Event, nBefore, nAfter int, f *RoomEventFilter) (before, after []*rooms.Event, start, end Token, err error) {
	from, to := e.Pos-1, e.Pos
	if before, from, _, err = p.scan(from, 0, true, nBefore, p.Passes(f)); err == nil {
		after, to, _, err = p.scan(to, p.reader.To, false, nAfter, p.Passes(f))
	}
	return before, after, At(from), At(to), err
}

// Recent gives the newest events that the reader sees, oldest first, at most limit,
// and the tokens before and after them. Of a room that the reader has left these end
// with the leaving.
func (p *Page) Recent(limit int) (events []*rooms.Event, start, end Token, err error) {
	to := p.reader.To
	if left, ok := p.view.Left(); ok && !p.view.WorldReadable() {
		to = left
	}
	events, from, _, err := p.scan(to, 0, true, limit, p.Passes(&RoomEventFilter{}))
	slices.Reverse(events)
	return events, At(from), At(to), err
}

// MayHide reports whether some of what a user wrote may be hidden from the reader;
// Hides tells it of an event.
func (p *Page) MayHide(sender string) bool {
	_, erased := p.t.erased.since(sender)
	return erased
}

// Hides reports whether the reader gets an event in redacted form, because its
// sender was erased.
func (p *Page) Hides(e *rooms.Event) (bool, error) { return p.t.hides(p.q, e, p.reader.UserID) }

// LastEdit is the newest valid replacement of an event that the reader sees, or nil.
func (p *Page) LastEdit(e *rooms.Event) (*rooms.Event, error) { return p.t.lastEdit(p.q, e, p.reader) }

// Spec: cs#get_matrixclientv3roomsroomidcontexteventid
func (t *Timeline) context(ctx context.Context, r *route.Request) (out contextResponse, err error) {
	f, err := ParseEventFilter(r.Query("filter"))
	if err != nil {
		return out, err
	}
	limit, err := limitOf(r, f, defaultLimit)
	if err != nil {
		return out, err
	}
	out.Before, out.After, out.State = []json.RawMessage{}, []json.RawMessage{}, []json.RawMessage{}
	err = t.read(ctx, r, func(p *Page) error {
		e, err := p.find(r.Param("eventID"))
		if err != nil {
			return err
		}
		if out.Event, err = p.Raw(e); err != nil {
			return err
		}
		before, after, start, end, err := p.Around(e, limit/2, limit-limit/2, f)
		if err != nil {
			return err
		}
		out.Start, out.End = start.String(), end.String()
		if out.Before, err = p.List(before); err != nil {
			return err
		}
		if out.After, err = p.List(after); err != nil {
			return err
		}
		last := e
		if len(after) > 0 {
			last = after[len(after)-1]
		}
		var want func(rooms.StateKey) bool
		if f.LazyLoadMembers {
			senders := map[string]bool{e.Sender: true}
			for _, x := range append(append([]*rooms.Event{}, before...), after...) {
				senders[x.Sender] = true
			}
			want = func(k rooms.StateKey) bool { return k.Type != mx.RoomMember || senders[k.Key] }
		}
		at := last.Pos
		// Who left sees the end of a later invitation, but not what became of the room.
		if until, ok := p.view.StateUntil(at); ok {
			at = until
		}
		state, err := t.o.Rooms.StateAt(p.q, p.room, at, want)
		if err != nil {
			return err
		}
		passed := state[:0:0]
		for _, x := range state {
			if f.PassEvent(x.Event) {
				passed = append(passed, x)
			}
		}
		out.State, err = p.List(passed)
		return err
	})
	return out, err
}

// Visible is an event of a room, where a user may see it now. Errors: *mx.Error
// Forbidden or NotFound.
func (t *Timeline) Visible(q store.Querier, roomID, eventID, userID string) (*rooms.Event, error) {
	p, err := t.Enter(q, roomID, Reader{UserID: userID, To: t.o.DB.Pos()})
	if err != nil {
		return nil, err
	}
	return p.find(eventID)
}

func (t *Timeline) event(ctx context.Context, r *route.Request) (out mx.Raw, err error) {
	err = t.read(ctx, r, func(p *Page) error {
		e, err := p.find(r.Param("eventID"))
		if err != nil {
			return err
		}
		out, err = p.Raw(e)
		return err
	})
	return out, hidden(err)
}

// hidden is the error of an operation on one event: where the room may not be
// read, the event is not found. Spec: cs#get_matrixclientv3roomsroomideventeventid
func hidden(err error) error {
	var e *mx.Error
	if errors.As(err, &e) && e.Code == mx.Forbidden {
		return errNoEvent
	}
	return err
}

// State is the state that the reader may see: the current one, or that at which
// a former member left.
func (p *Page) State(want func(rooms.StateKey) bool) ([]*rooms.Event, error) {
	if left, ok := p.view.Left(); ok && !p.view.WorldReadable() {
		return p.t.o.Rooms.StateAt(p.q, p.room, left, want)
	}
	all, err := p.t.o.Rooms.CurrentState(p.q, p.room, false)
	if err != nil || want == nil {
		return all, err
	}
	var out []*rooms.Event
	for _, e := range all {
		if want(rooms.StateKey{Type: e.Type, Key: *e.StateKey}) {
			out = append(out, e)
		}
	}
	return out, nil
}

func (t *Timeline) state(ctx context.Context, r *route.Request) (out any, err error) {
	err = t.read(ctx, r, func(p *Page) error {
		list, err := p.State(nil)
		if err != nil {
			return err
		}
		out, err = p.List(list)
		return err
	})
	return out, err
}

// Spec: cs#get_matrixclientv3roomsroomidstateeventtypestatekey
func (t *Timeline) stateEvent(ctx context.Context, r *route.Request) (out mx.Raw, err error) {
	format := r.Query("format")
	switch format {
	case "", "content", "event":
	default:
		return nil, mx.Errorf(mx.InvalidParam, "format is content or event.")
	}
	err = t.read(ctx, r, func(p *Page) error {
		typ, key := r.Param("eventType"), r.Param("stateKey")
		var e *rooms.Event
		if left, ok := p.view.Left(); ok && !p.view.WorldReadable() {
			if e, err = t.o.Rooms.StateEventAt(p.q, p.room, typ, key, left); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		} else if e, err = t.o.Rooms.State(p.q, p.room, typ, key); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if e == nil {
			return mx.Errorf(mx.NotFound, "The room has no such state.")
		}
		if format == "event" {
			out, err = p.Raw(e)
			return err
		}
		hidden, err := t.hides(p.q, e, r.UserID)
		if out = mx.Raw(e.Content); hidden {
			out = mx.Raw(bare(e).Content)
		}
		return err
	})
	return out, err
}

// Spec: cs#get_matrixclientv3roomsroomidmembers
func (t *Timeline) members(ctx context.Context, r *route.Request) (any, error) {
	chunk := []json.RawMessage{}
	for _, name := range []string{"membership", "not_membership"} {
		switch r.Query(name) {
		case "", mx.Join, mx.Invite, mx.Knock, mx.Leave, mx.Ban:
		default:
			return nil, mx.Errorf(mx.InvalidParam, "%s is join, invite, knock, leave or ban.", name)
		}
	}
	err := t.read(ctx, r, func(p *Page) error {
		want := func(k rooms.StateKey) bool { return k.Type == mx.RoomMember }
		var (
			list []*rooms.Event
			err  error
		)
		if r.Query("at") != "" {
			at, err := tokenOr(r, "at", 0)
			if err != nil {
				return err
			}
			at = min(at, p.reader.To)
			if left, ok := p.view.Left(); ok && !p.view.WorldReadable() {
				at = min(at, left)
			}
			if list, err = t.o.Rooms.StateAt(p.q, p.room, at, want); err != nil {
				return err
			}
		} else if list, err = p.State(want); err != nil {
			return err
		}
		only, not := r.Query("membership"), r.Query("not_membership")
		for _, e := range list {
			m := e.Membership()
			// Either parameter alone picks; with both, whichever holds.
			if only != "" && not != "" && m != only && m == not || only != "" && not == "" && m != only || only == "" && not != "" && m == not {
				continue
			}
			raw, err := p.Raw(e)
			if err != nil {
				return err
			}
			chunk = append(chunk, raw)
		}
		return nil
	})
	return map[string]any{"chunk": chunk}, err
}

type joinedMember struct {
	DisplayName string `json:"display_name,omitempty"`
	AvatarURL   string `json:"avatar_url,omitempty"`
}

func (t *Timeline) joinedMembers(ctx context.Context, r *route.Request) (any, error) {
	joined := map[string]joinedMember{}
	err := t.read(ctx, r, func(p *Page) error {
		if p.view.Now() != mx.Join {
			return errNotMember()
		}
		list, err := t.o.Rooms.MemberList(p.q, p.room, mx.Join)
		if err != nil {
			return err
		}
		at := make([]int64, len(list))
		for i, m := range list {
			at[i] = m.Pos
		}
		events, err := t.o.Rooms.EventsAt(p.q, at)
		for _, e := range events {
			joined[*e.StateKey] = joinedMember{e.ContentString("displayname"), e.ContentString("avatar_url")}
		}
		return err
	})
	return map[string]any{"joined": joined}, err
}

// Spec: cs#get_matrixclientv1roomsroomidtimestamp_to_event
func (t *Timeline) byTimestamp(ctx context.Context, r *route.Request) (any, error) {
	ts, err := strconv.ParseInt(r.Query("ts"), 10, 64)
	if err != nil || ts < 0 {
		return nil, mx.Errorf(mx.InvalidParam, "ts must be a time in milliseconds.")
	}
	dir := r.Query("dir")
	if dir == "" && byAdmin(r) {
		dir = "f"
	}
	if dir != "f" && dir != "b" {
		return nil, mx.Errorf(mx.InvalidParam, "dir is b for back or f for forward.")
	}
	out := map[string]any{}
	err = t.read(ctx, r, func(p *Page) error {
		beyond := int64(0)
		if dir == "b" {
			beyond = p.reader.To + 1
		}
		for looked := 0; looked < maxLooked; {
			list, err := t.o.Rooms.Nearest(p.q, p.room, ts, dir == "f", beyond, lookAtOnce)
			if err != nil {
				return err
			}
			for _, e := range list {
				if e.Pos <= p.reader.To && p.view.Sees(e) {
					out["event_id"], out["origin_server_ts"] = e.ID, e.OriginServerTS
					return nil
				}
				beyond = e.Pos
			}
			if looked += len(list); len(list) < lookAtOnce {
				break
			}
		}
		return mx.Errorf(mx.NotFound, "You can see no event of the room on that side of the time.")
	})
	return out, err
}
