// Package threads keeps which threads users are subscribed to, and tells their
// clients of changes (MSC4306, MSC4308). Package push asks it whom messages in
// threads notify.
//
// Invariants: a user subscribes only to threads of rooms that they are joined to,
// and the end of that ends the subscriptions; an event that was there when a
// subscription ended never makes one again by itself; every change that clients are
// told of takes a position of its own, which is its bump_stamp, and touches
// notify.User of its user. Somebody none of whose clients knows subscriptions is
// treated as if there were none: they would miss what is said in threads.
package threads

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/route"
	"holdfast/homeserver/timeline"
	"holdfast/store"
)

// Options of New.
type Options struct {
	DB    *store.DB
	Rooms Rooms
	// Event is an event of a room as a user sees it. Errors: *mx.Error Forbidden or
	// NotFound.
	Event func(q store.Querier, roomID, eventID, userID string) (*rooms.Event, error)
	// Thread is the root of the thread that an event is in, "" for none.
	Thread func(q store.Querier, e *rooms.Event) (root string, err error)
	// Recount is told that a user's messages in a room, in all with "", count in
	// another way after this write.
	Recount func(tx *store.Tx, userID, roomID string) error
}

// Rooms is what the package asks of the rooms.
type Rooms interface {
	IsJoined(q store.Querier, roomID, userID string) (bool, error)
}

// Service keeps subscriptions. Its methods are safe for concurrent use.
type Service struct {
	o Options

	mu    sync.RWMutex
	users map[string]struct{} // those in thread_subscribers
}

// MaxPage bounds the changes in one answer.
const MaxPage = 100

const (
	maxRows = 10_000 // threads of one user, those that they are not subscribed to any more included
	maxBody = 4 << 10
)

// New makes a Service.
func New(o Options) *Service { return &Service{o: o, users: map[string]struct{}{}} }

// Load reads who uses subscriptions, before the first request.
func (s *Service) Load(ctx context.Context) error {
	return s.o.DB.Read(ctx, func(q store.Querier) error {
		return eachUser(q, func(userID string) { s.users[userID] = struct{}{} })
	})
}

// Routes are the package's operations.
func (s *Service) Routes() []route.Route {
	const at = "/_matrix/client/unstable/io.element.msc4306/rooms/{roomID}/thread/{eventID}/subscription"
	return []route.Route{
		{Op: "getThreadSubscription", Pattern: "GET " + at, Auth: route.User, Limit: route.Reads, Handle: route.Get(s.get)},
		{Op: "subscribeToThread", Pattern: "PUT " + at, Auth: route.User, Limit: route.Reads, MaxBody: maxBody, Handle: route.JSON(s.put)},
		{Op: "unsubscribeFromThread", Pattern: "DELETE " + at, Auth: route.User, Limit: route.Reads, Handle: route.Get(s.remove)},
		{Op: "getThreadSubscriptions", Pattern: "GET /_matrix/client/unstable/io.element.msc4308/thread_subscriptions",
			Auth: route.User, Limit: route.Reads, Handle: route.Get(s.list)},
	}
}

// Uses reports whether a client of the user's knows subscriptions. It only looks
// into memory.
func (s *Service) Uses(userID string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, yes := s.users[userID]
	return yes
}

// Use notes that a client of the user's knows subscriptions.
func (s *Service) Use(ctx context.Context, userID string) error {
	if s.Uses(userID) {
		return nil
	}
	return s.o.DB.Write(ctx, func(tx *store.Tx) error { return s.use(tx, userID) })
}

func (s *Service) use(tx *store.Tx, userID string) error {
	if s.Uses(userID) {
		return nil
	}
	if err := insertUser(tx, userID, tx.NextPos()); err != nil {
		return err
	}
	tx.AfterCommit(func() {
		s.mu.Lock()
		s.users[userID] = struct{}{}
		s.mu.Unlock()
	})
	tx.Touch(notify.User, userID)
	return s.o.Recount(tx, userID, "")
}

// Subscribed reports whether a user is subscribed to a thread.
func (s *Service) Subscribed(q store.Querier, userID, roomID, root string) (bool, error) {
	row, err := load(q, userID, roomID, root)
	return row.state != none, err
}

// Recounted names the rooms in which a user's messages count in another way since a
// change of (from, to]; all says that they do in every room.
func (s *Service) Recounted(q store.Querier, userID string, from, to int64) (roomIDs []string, all bool, err error) {
	if !s.Uses(userID) {
		return nil, false, nil
	}
	since, err := userSince(q, userID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, false, err
	}
	if since > from && since <= to {
		return nil, true, nil
	}
	roomIDs, err = changedRooms(q, userID, from, to)
	return roomIDs, false, err
}

// errAbsent is one answer, so that nobody finds out which rooms and events there are.
func errAbsent() error {
	return mx.Errorf(mx.NotFound, "You can see no such thread: the room or the event that it begins with is not there, or not for you.")
}

// target finds the thread of a request, as far as its sender may see it.
func (s *Service) target(q store.Querier, r *route.Request) (roomID, root string, err error) {
	roomID, root = r.Param("roomID"), r.Param("eventID")
	_, err = s.o.Event(q, roomID, root, r.UserID)
	var refused *mx.Error
	if errors.As(err, &refused) || errors.Is(err, store.ErrNotFound) {
		err = errAbsent()
	}
	return roomID, root, err
}

type subscription struct {
	Automatic bool `json:"automatic"`
}

// Source: MSC4306, Retrieving thread subscription
func (s *Service) get(ctx context.Context, r *route.Request) (out subscription, err error) {
	return out, s.o.DB.Read(ctx, func(q store.Querier) error {
		roomID, root, err := s.target(q, r)
		if err != nil {
			return err
		}
		row, err := load(q, r.UserID, roomID, root)
		if err != nil {
			return err
		}
		if row.state == none {
			return mx.Errorf(mx.NotFound, "You are not subscribed to this thread.")
		}
		out.Automatic = row.state == automatic
		return nil
	})
}

type putRequest struct {
	// Automatic is the event that made the client subscribe, nil where the user chose to.
	Automatic *string `json:"automatic"`
}

// Source: MSC4306, Subscribing to a thread
func (s *Service) put(ctx context.Context, r *route.Request, in putRequest) (out route.Empty, err error) {
	var roomID, root string
	var cause int64
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		if roomID, root, err = s.target(q, r); err != nil || in.Automatic == nil {
			return err
		}
		cause, err = s.cause(q, r.UserID, roomID, root, *in.Automatic)
		return err
	})
	if err != nil {
		return out, err
	}
	return out, s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if joined, err := s.o.Rooms.IsJoined(tx, roomID, r.UserID); err != nil || !joined {
			if err == nil {
				err = errAbsent()
			}
			return err
		}
		if err := s.use(tx, r.UserID); err != nil {
			return err
		}
		return s.subscribe(tx, r.UserID, roomID, root, cause)
	})
}

// cause is the position of the event that made a client subscribe. Errors: NotInThread.
func (s *Service) cause(q store.Querier, userID, roomID, root, eventID string) (int64, error) {
	outside := mx.Errorf(mx.NotInThread, "%.80q is no event of this thread that you can see. Name the message in it that mentions the user, or leave \"automatic\" out.", eventID)
	e, err := s.o.Event(q, roomID, eventID, userID)
	var refused *mx.Error
	if errors.As(err, &refused) || errors.Is(err, store.ErrNotFound) {
		return 0, outside
	}
	if err != nil {
		return 0, err
	}
	thread, err := s.o.Thread(q, e)
	if err == nil && thread != root {
		err = outside
	}
	return e.Pos, err
}

// subscribe subscribes a user. cause is the position of the event that made their
// client do so, 0 where they chose to. Errors: ConflictingUnsubscription.
func (s *Service) subscribe(tx *store.Tx, userID, roomID, root string, cause int64) error {
	row, err := load(tx, userID, roomID, root)
	if err != nil {
		return err
	}
	to := manual
	if cause > 0 {
		to = automatic
	}
	switch {
	case row.state == manual || row.state == to: // a choice stands over what clients do by themselves
		return nil
	case to == automatic && cause <= row.endedAt:
		return mx.Errorf(mx.ConflictingUnsubscription, "The user has unsubscribed from this thread after that event was sent.")
	}
	if !row.there {
		if err := s.makeRoom(tx, userID); err != nil {
			return err
		}
	}
	return s.set(tx, userID, roomID, root, to, row.endedAt)
}

// set writes what clients are told of.
func (s *Service) set(tx *store.Tx, userID, roomID, root string, to state, endedAt int64) error {
	if err := upsert(tx, userID, roomID, root, to, endedAt, tx.NextPos()); err != nil {
		return err
	}
	tx.Touch(notify.User, userID)
	return s.o.Recount(tx, userID, roomID)
}

// makeRoom sees that a user has at most maxRows threads: it forgets that which they
// unsubscribed from first. Errors: TooLarge.
func (s *Service) makeRoom(tx *store.Tx, userID string) error {
	n, err := count(tx, userID)
	if err != nil || n < maxRows {
		return err
	}
	forgot, err := forgetOldest(tx, userID)
	if err == nil && forgot == 0 {
		err = mx.Errorf(mx.TooLarge, "You are subscribed to %d threads. Unsubscribe from some first.", n)
	}
	return err
}

// Source: MSC4306, Unsubscribing from a thread
func (s *Service) remove(ctx context.Context, r *route.Request) (out route.Empty, err error) {
	var roomID, root string
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		roomID, root, err = s.target(q, r)
		return err
	})
	if err != nil {
		return out, err
	}
	return out, s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if err := s.use(tx, r.UserID); err != nil {
			return err
		}
		row, err := load(tx, r.UserID, roomID, root)
		if err != nil {
			return err
		}
		now := tx.NextPos()
		if row.state != none {
			return s.set(tx, r.UserID, roomID, root, none, now)
		}
		// There is nothing to tell, but what was said until now must not subscribe them.
		if !row.there {
			if err := s.makeRoom(tx, r.UserID); err != nil {
				return err
			}
		}
		return upsert(tx, r.UserID, roomID, root, none, now, row.pos)
	})
}

// Stored is a hook of rooms: who leaves a room has no subscriptions there any more.
func (s *Service) Stored(tx *store.Tx, e *rooms.Event) error {
	if e.Type != mx.RoomMember || e.StateKey == nil || e.Membership() == mx.Join || !s.Uses(*e.StateKey) {
		return nil
	}
	userID := *e.StateKey
	roots, err := subscribedRoots(tx, userID, e.RoomID)
	if err != nil {
		return err
	}
	for _, root := range roots {
		if err := s.set(tx, userID, e.RoomID, root, none, e.Pos); err != nil {
			return err
		}
	}
	return nil
}

// Deactivated removes what is kept of a user whose account is closed.
func (s *Service) Deactivated(tx *store.Tx, userID string) error {
	tx.AfterCommit(func() {
		s.mu.Lock()
		delete(s.users, userID)
		s.mu.Unlock()
	})
	return deleteUser(tx, userID)
}

// DeleteRoom deletes what is kept of a room that is gone, at most limit rows at once,
// and tells how many.
func (s *Service) DeleteRoom(tx *store.Tx, roomID string, limit int) (int64, error) {
	return deleteRoom(tx, roomID, limit)
}

// Changes are subscriptions that changed, as clients get them.
type Changes struct {
	Subscribed   map[string]map[string]Subscribed   `json:"subscribed,omitempty"` // by room and root
	Unsubscribed map[string]map[string]Unsubscribed `json:"unsubscribed,omitempty"`
	PrevBatch    string                             `json:"prev_batch,omitempty"` // of sliding sync: there are older ones
	End          string                             `json:"end,omitempty"`        // of the endpoint, likewise
}

// Subscribed is a subscription.
type Subscribed struct {
	Automatic bool  `json:"automatic"`
	Stamp     int64 `json:"bump_stamp"`
}

// Unsubscribed is one that ended.
type Unsubscribed struct {
	Stamp int64 `json:"bump_stamp"`
}

// Empty reports whether nothing changed.
func (c *Changes) Empty() bool { return len(c.Subscribed)+len(c.Unsubscribed) == 0 }

// Since gives the last changes of (from, to], at most limit; older ones are behind
// PrevBatch.
func (s *Service) Since(q store.Querier, userID string, from, to int64, limit int) (c Changes, err error) {
	if !s.Uses(userID) {
		return c, nil
	}
	c, next, err := s.page(q, userID, pageToken{to, from}, from, limit)
	c.PrevBatch = next
	return c, err
}

// page gives the last changes of (after, t.upTo], and the token of those before.
func (s *Service) page(q store.Querier, userID string, t pageToken, after int64, limit int) (c Changes, next string, err error) {
	limit = min(limit, MaxPage)
	list, err := changes(q, userID, after, t.upTo, limit+1)
	if err != nil {
		return c, "", err
	}
	if len(list) > limit {
		list = list[:limit]
		next = pageToken{list[limit-1].pos - 1, t.after}.String()
	}
	c.Subscribed, c.Unsubscribed = map[string]map[string]Subscribed{}, map[string]map[string]Unsubscribed{}
	for _, x := range list {
		if x.state == none {
			put(c.Unsubscribed, x.roomID, x.root, Unsubscribed{x.pos})
		} else {
			put(c.Subscribed, x.roomID, x.root, Subscribed{x.state == automatic, x.pos})
		}
	}
	return c, next, nil
}

func put[V any](m map[string]map[string]V, roomID, root string, v V) {
	if m[roomID] == nil {
		m[roomID] = map[string]V{}
	}
	m[roomID][root] = v
}

// pageToken is where to read on, backwards: changes of (after, upTo]. after is where
// the answer of sliding sync began that had too many of them. Its client would name
// that itself, by the pos of its request; but where it had just begun to ask for
// subscriptions its pos is later than what it lacks.
type pageToken struct{ upTo, after int64 }

// String is the token as clients get it: "t<upTo>_<after>".
func (t pageToken) String() string {
	b := strconv.AppendInt([]byte{'t'}, t.upTo, 10)
	return string(strconv.AppendInt(append(b, '_'), t.after, 10))
}

// parsePageToken reads a token. Errors: InvalidParam.
func parsePageToken(s string) (t pageToken, err error) {
	bad := mx.Errorf(mx.InvalidParam, "%.40q is no token that this server gave. Send a prev_batch or end as \"from\", or leave it out.", s)
	rest, ok := strings.CutPrefix(s, "t")
	upTo, after, two := strings.Cut(rest, "_")
	if !ok || !two || len(s) > 42 {
		return t, bad
	}
	var e1, e2 error
	t.upTo, e1 = strconv.ParseInt(upTo, 10, 64)
	t.after, e2 = strconv.ParseInt(after, 10, 64)
	if e1 != nil || e2 != nil || t.upTo < 0 || t.after < 0 || t.String() != s {
		return pageToken{}, bad
	}
	return t, nil
}

// Source: MSC4308, Companion endpoint
func (s *Service) list(ctx context.Context, r *route.Request) (out Changes, err error) {
	switch r.Query("dir") {
	case "b":
	case "":
		return out, mx.Errorf(mx.MissingParam, "Send dir: b for back.")
	default:
		return out, mx.Errorf(mx.InvalidParam, "Subscriptions are read backwards only: dir is b.")
	}
	limit, err := r.Int("limit", MaxPage)
	if err != nil {
		return out, err
	}
	if limit == 0 {
		return out, mx.Errorf(mx.InvalidParam, "The limit must be a number above 0.")
	}
	t := pageToken{upTo: s.o.DB.Pos()}
	if v := r.Query("from"); v != "" {
		given, err := parsePageToken(v)
		if err != nil {
			return out, err
		}
		t = pageToken{min(given.upTo, t.upTo), given.after}
	}
	after := int64(0)
	if v := r.Query("to"); v != "" {
		to, err := timeline.ParseToken(v)
		if err != nil {
			return out, err
		}
		if after = to.Pos; r.Query("from") != "" {
			after = min(after, t.after)
		}
	}
	if err := s.Use(ctx, r.UserID); err != nil {
		return out, err
	}
	return out, s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		out, out.End, err = s.page(q, r.UserID, t, after, limit)
		return err
	})
}
