// Package push counts what a user has not read: notifications and highlights, in
// the main timeline and in each thread of a room.
//
// Invariants: sending an event costs nothing here: its effect on a member's counts
// is found when that member asks, from the events after the place where the member
// stood when they asked last. Counts held in memory are only ever a shortcut: what
// is lost is found again from the last checkpoint, or from the receipts. A user's
// own message reads its timeline or thread up to it.
//
// One bound: of events that nobody counted yet, the newest maxScan are looked at.
package push

import (
	"container/list"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/homeserver/ephemeral"
	"holdfast/homeserver/eventauth"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/pushrules"
	"holdfast/homeserver/rooms"
	"holdfast/store"
)

// Rooms is what the Counter asks of *rooms.Rooms.
type Rooms interface {
	Last(q store.Querier, roomID string, from, to int64, limit int) (events []*rooms.Event, more bool, err error)
	EventAt(q store.Querier, pos int64) (*rooms.Event, error)
	EventByID(q store.Querier, eventID string) (*rooms.Event, error)
	State(q store.Querier, roomID, typ, key string) (*rooms.Event, error)
	MemberCount(q store.Querier, roomID string) (int, error)
}

// Options of New.
type Options struct {
	DB    *store.DB
	Rooms Rooms
	// ReadUpTo gives how far a user's receipts have come: (*ephemeral.Service).ReadUpTo.
	ReadUpTo func(q store.Querier, roomID, userID string) (ephemeral.ReadUpTo, error)
	// Rules gives a user's push rules: (*userdata.Service).CompiledRules.
	Rules func(q store.Querier, userID string) (*pushrules.Compiled, error)
	// Ignored gives whose events a user does not see: (*userdata.Service).Ignored.
	// nil: nobody's.
	Ignored func(q store.Querier, userID string) (map[string]bool, error)
	// Threads are the users' subscriptions to threads: *threads.Service. nil: nobody
	// has any.
	Threads Threads
	Log     *slog.Logger
}

// Threads is what the Counter asks of *threads.Service. Uses must not ask the database.
type Threads interface {
	Uses(userID string) bool
	Subscribed(q store.Querier, userID, roomID, root string) (bool, error)
}

// Counts are unread notifications, and how many of them highlight.
type Counts struct {
	Notifications int `json:"notification_count"`
	Highlights    int `json:"highlight_count"`
}

// Add adds other counts.
func (c *Counts) Add(o Counts) {
	c.Notifications += o.Notifications
	c.Highlights += o.Highlights
}

// Counter counts. Its methods are safe for concurrent use.
type Counter struct {
	o Options

	mu      sync.Mutex
	entries map[key]*list.Element // of *entry
	lru     *list.List
	cost    int
	rooms   map[string]size
	views   map[int64]*pushrules.View
	ring    []int64 // positions of views, in the order they came
	unsaved map[key]checkpoint

	// What was touched when, so that receipts are read again only when they may
	// have changed.
	touchMu  sync.Mutex
	recounts map[key]int64 // since when events count in another way; room "": in all of a user's
	// recountFloor is where recounts was emptied last.
	recountFloor int64
	seen         atomic.Int64 // position up to which touches were seen
	receipts     map[string]int64
	users        map[string]int64
	floor        int64 // whatever is not in the maps was touched at this position or before

	stop chan struct{}
	done chan struct{}
}

type key struct{ user, room string }

// size is how many have joined a room, as of a position.
type size struct {
	members int
	at      int64
}

// person is what evaluation needs of a user.
type person struct {
	rules   *pushrules.Compiled
	ignored map[string]bool
}

// Bounds of what is held in memory, and of work.
const (
	maxScan       = 2000    // events looked at for one answer
	maxItems      = 400     // unread events of an entry that are held one by one
	maxCost       = 8 << 20 // bytes of entries
	maxViews      = 1024
	maxViewed     = 4096 // bytes of an event whose view is kept
	maxTouched    = 50000
	saveAfter     = 500 // events evaluated since the last checkpoint
	flushInterval = 30 * time.Second
)

// New makes a Counter. Close it before the store.
func New(o Options) *Counter {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Counter{
		o: o, entries: map[key]*list.Element{}, lru: list.New(), rooms: map[string]size{},
		views: map[int64]*pushrules.View{}, unsaved: map[key]checkpoint{}, receipts: map[string]int64{}, users: map[string]int64{}, recounts: map[key]int64{},
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	o.DB.OnCommit(c.touched)
	c.touchMu.Lock()
	c.floor = o.DB.Pos()
	c.seen.Store(max(c.floor, c.seen.Load()))
	c.touchMu.Unlock()
	go c.run()
	return c
}

// touched listens to commits.
func (c *Counter) touched(pos int64, touches []store.Touch) {
	c.touchMu.Lock()
	for _, t := range touches {
		switch t.Kind {
		case notify.Receipt:
			c.receipts[t.Key] = pos
		case notify.User:
			c.users[t.Key] = pos
		}
	}
	if len(c.receipts) > maxTouched || len(c.users) > maxTouched {
		clear(c.receipts)
		clear(c.users)
		c.floor = pos
	}
	c.seen.Store(pos)
	c.touchMu.Unlock()
}

// fresh reports whether what was read at a position is still right at to.
func (c *Counter) fresh(at, to int64, userID, roomID string) bool {
	if at >= to {
		return true
	}
	c.touchMu.Lock()
	defer c.touchMu.Unlock()
	return c.seen.Load() >= to && at >= c.floor && c.users[userID] <= at && c.receipts[roomID] <= at
}

// Room counts what the user has not read in a room up to position to. threads has
// the counts of those threads that have any, by root; main has the rest.
func (c *Counter) Room(q store.Querier, roomID, userID string, to int64) (main Counts, threads map[string]Counts, err error) {
	e := c.entry(key{userID, roomID})
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := c.bring(q, e, to); err != nil {
		return Counts{}, nil, err
	}
	main, threads = e.counts(to)
	return main, threads, nil
}

// bring brings an entry up to a position. e.mu is held.
func (c *Counter) bring(q store.Querier, e *entry, to int64) error {
	if !e.loaded {
		if err := c.load(q, e); err != nil {
			return err
		}
		e.born = to
	}
	if c.recountedAt(e.key) > e.born {
		e.reset()
		e.born = to
	}
	if !c.fresh(e.readAt, to, e.key.user, e.key.room) || e.readAt == 0 {
		read, err := c.o.ReadUpTo(q, e.key.room, e.key.user)
		if err != nil {
			return err
		}
		if !e.prune(read) {
			// A receipt fell amidst what is only held as a sum: begin anew from it.
			e.reset()
			e.read = read
		}
		e.readAt = to
	}
	if e.pos < to {
		if err := c.advance(q, e, to); err != nil {
			return err
		}
	}
	return nil
}

// Unread tells of one room what Room counts: how many events of it notify and are
// unread, how many of these are invitations to calls, and the positions of the
// newest, oldest first.
func (c *Counter) Unread(q store.Querier, roomID, userID string, to int64) (n, calls int, at []int64, err error) {
	e := c.entry(key{userID, roomID})
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := c.bring(q, e, to); err != nil {
		return 0, 0, nil, err
	}
	main, threads := e.counts(to)
	n = main.Notifications
	for _, t := range threads {
		n += t.Notifications
	}
	for _, it := range e.items {
		if it.pos > to {
			break
		}
		if it.call {
			calls++
		}
		at = append(at, it.pos)
	}
	return n, calls, at, nil
}

// Outcome is what a user's rules say about an event now. Events of those whom the
// user ignores, and redacted ones, notify nobody.
func (c *Counter) Outcome(q store.Querier, userID string, ev *rooms.Event) (out pushrules.Outcome, err error) {
	p, err := c.person(q, userID)
	if err != nil || ev.RedactedBy != "" || p.ignored[ev.Sender] {
		return out, err
	}
	view, err := c.roomView(q, key{userID, ev.RoomID}, ev.Pos, ev.Pos)
	if err != nil {
		return out, err
	}
	return p.rules.Evaluate(c.view(ev), &view), nil
}

// roomView is what rules ask about a room. changed is as members has it.
func (c *Counter) roomView(q store.Querier, k key, changed, to int64) (v pushrules.RoomView, err error) {
	v.DisplayName = func() string { return c.displayName(q, k) }
	v.MayNotify = func(sender, name string) bool { return c.mayNotify(q, k.room, sender, name) }
	if c.o.Threads != nil && c.o.Threads.Uses(k.user) {
		v.Thread = func(v *pushrules.View) (in, subscribed bool) {
			root, err := c.threadOf(q, k.room, v.Relation, v.RelatesTo)
			if err == nil && root != "" {
				subscribed, err = c.o.Threads.Subscribed(q, k.user, k.room, root)
			}
			return err == nil && root != "", subscribed
		}
	}
	v.Members, err = c.members(q, k.room, changed, to)
	return v, err
}

// entry finds or makes the entry of a user and room, and keeps memory bounded.
func (c *Counter) entry(k key) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el := c.entries[k]; el != nil {
		c.lru.MoveToFront(el)
		return el.Value.(*entry)
	}
	e := &entry{key: k, size: baseCost}
	c.entries[k] = c.lru.PushFront(e)
	c.cost += e.size
	c.trim(e)
	return e
}

// trim drops the entries that were used least lately. c.mu is held.
func (c *Counter) trim(keep *entry) {
	for c.cost > maxCost {
		el := c.lru.Back()
		e := el.Value.(*entry)
		if e == keep {
			return
		}
		c.lru.Remove(el)
		delete(c.entries, e.key)
		c.cost -= e.size
	}
}

// settle accounts for an entry's size, and notes its checkpoint when much work
// went into it. e.mu is held.
func (c *Counter) settle(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries[e.key] != nil && c.entries[e.key].Value == e {
		n := e.bytes()
		c.cost += n - e.size
		e.size = n
		c.trim(e)
	}
	if e.work >= saveAfter {
		e.work = 0
		if c.entries[e.key] != nil && c.entries[e.key].Value == e { // else it may have been forgotten
			c.unsaved[e.key] = e.checkpoint()
		}
	}
}

// person gives what evaluation needs of a user.
func (c *Counter) person(q store.Querier, userID string) (p person, err error) {
	if p.rules, err = c.o.Rules(q, userID); err != nil {
		return p, err
	}
	if c.o.Ignored != nil {
		p.ignored, err = c.o.Ignored(q, userID)
	}
	return p, err
}

// view takes an event apart, once for all users.
func (c *Counter) view(e *rooms.Event) *pushrules.View {
	c.mu.Lock()
	v := c.views[e.Pos]
	c.mu.Unlock()
	if v != nil {
		return v
	}
	v = pushrules.NewView(e.Event)
	if len(e.JSON()) > maxViewed {
		return v
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.views[e.Pos] == nil {
		if len(c.ring) >= maxViews {
			delete(c.views, c.ring[0])
			c.ring = c.ring[1:]
		}
		c.ring = append(c.ring, e.Pos)
	}
	c.views[e.Pos] = v
	return v
}

// members gives how many have joined a room. changed is the position of the
// latest member event that the caller knows of.
func (c *Counter) members(q store.Querier, roomID string, changed, to int64) (int, error) {
	c.mu.Lock()
	s, ok := c.rooms[roomID]
	c.mu.Unlock()
	if ok && s.at >= changed {
		return s.members, nil
	}
	n, err := c.o.Rooms.MemberCount(q, roomID)
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.rooms) >= maxTouched {
		clear(c.rooms)
	}
	c.rooms[roomID] = size{n, to}
	return n, nil
}

// advance evaluates the events between where the entry stands and to.
func (c *Counter) advance(q store.Querier, e *entry, to int64) error {
	from := e.pos
	if from == 0 {
		from = e.read.Unthreaded
	}
	if from >= to {
		e.pos = max(e.pos, to)
		return nil
	}
	events, _, err := c.o.Rooms.Last(q, e.key.room, from, to, maxScan)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if len(events) == 0 {
		e.pos = to
		return nil
	}
	p, err := c.person(q, e.key.user)
	if err != nil {
		return err
	}
	var lastMember int64
	for _, ev := range events {
		if ev.Type == mx.RoomMember {
			lastMember = ev.Pos
		}
	}
	view, err := c.roomView(q, e.key, max(1, lastMember), to)
	if err != nil {
		return err
	}
	for _, ev := range events {
		if err := c.apply(q, e, p, &view, ev); err != nil {
			return err
		}
	}
	e.pos = to
	e.work += len(events)
	c.settle(e)
	return nil
}

// apply brings one event into the entry's counts.
func (c *Counter) apply(q store.Querier, e *entry, p person, view *pushrules.RoomView, ev *rooms.Event) error {
	switch {
	case ev.Sender == e.key.user:
		if ev.IsStateOf(mx.RoomMember, e.key.user) {
			fresh, err := c.joined(q, ev)
			if fresh {
				e.clear()
			}
			return err
		}
		if ev.Type == mx.RoomRedaction {
			break
		}
		if !ev.IsState() {
			thread, err := c.Thread(q, ev)
			if err == nil {
				e.dropUpTo(thread, ev.Pos)
			}
			return err
		}
		return nil
	case ev.RedactedBy != "" || p.ignored[ev.Sender]:
		return nil
	}
	if ev.Type == mx.RoomRedaction && ev.Redacts != "" {
		target, err := c.o.Rooms.EventByID(q, ev.Redacts)
		if errors.Is(err, store.ErrNotFound) {
			err = nil
		} else if err == nil && target.RedactedBy == ev.ID {
			e.remove(target.Pos)
		}
		if err != nil || ev.Sender == e.key.user {
			return err
		}
	}
	if ev.Pos <= e.read.Unthreaded {
		return nil
	}
	out := p.rules.Evaluate(c.view(ev), view)
	if !out.Notify {
		return nil
	}
	thread, err := c.Thread(q, ev)
	if err != nil {
		return err
	}
	if ev.Pos > e.readOf(thread) {
		e.add(ev.Pos, thread, out.Highlight, ev.Type == "m.call.invite")
	}
	return nil
}

// joined reports whether a member event made the user join, rather than changed
// what they are called. What happened before a join is not unread.
func (c *Counter) joined(q store.Querier, ev *rooms.Event) (bool, error) {
	if ev.Membership() != mx.Join {
		return false, nil
	}
	if ev.Replaces == 0 {
		return true, nil
	}
	old, err := c.o.Rooms.EventAt(q, ev.Replaces)
	if errors.Is(err, store.ErrNotFound) {
		return true, nil
	}
	return err == nil && old.Membership() != mx.Join, err
}

// maxHops is how far relations are followed to find a thread.
// Spec: cs#marking-notifications-as-read
const maxHops = 3

// Thread is the root of the thread that the event belongs to, "" for the main
// timeline. What relates to an event in a thread is in it as well.
func (c *Counter) Thread(q store.Querier, ev *rooms.Event) (string, error) {
	typ, parent := ev.Relation()
	return c.threadOf(q, ev.RoomID, typ, parent)
}

// threadOf is Thread of an event of a room that relates to parent.
func (c *Counter) threadOf(q store.Querier, roomID, typ, parent string) (string, error) {
	for range maxHops {
		if typ == "" {
			return "", nil
		}
		if typ == mx.RelThread {
			return parent, nil
		}
		next, err := c.o.Rooms.EventByID(q, parent)
		if errors.Is(err, store.ErrNotFound) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		if next.RoomID != roomID {
			return "", nil
		}
		typ, parent = next.Relation()
	}
	return "", nil
}

func (c *Counter) displayName(q store.Querier, k key) string {
	m, err := c.o.Rooms.State(q, k.room, mx.RoomMember, k.user)
	if err != nil || m == nil {
		return ""
	}
	return m.ContentString("displayname")
}

func (c *Counter) mayNotify(q store.Querier, roomID, sender, key string) bool {
	create, err := c.o.Rooms.State(q, roomID, mx.RoomCreate, "")
	if err != nil || create == nil {
		return false
	}
	var levels *pdu.Event
	if pl, err := c.o.Rooms.State(q, roomID, mx.RoomPowerLevels, ""); err == nil && pl != nil {
		levels = pl.Event
	}
	return eventauth.MayNotify(create.Version, create.Event, levels, sender, key)
}

// Recount has what a user has not read in a room, in all rooms with "", counted anew
// after this write, since events count in another way then.
func (c *Counter) Recount(tx *store.Tx, userID, roomID string) error {
	pos := tx.NextPos()
	tx.AfterCommit(func() {
		c.touchMu.Lock()
		defer c.touchMu.Unlock()
		if len(c.recounts) > maxTouched {
			clear(c.recounts)
			c.recountFloor = pos
		}
		c.recounts[key{userID, roomID}] = pos
	})
	if roomID == "" {
		_, err := tx.Exec(deleteUserSQL, userID)
		return err
	}
	_, err := tx.Exec(deleteEntrySQL, userID, roomID)
	return err
}

// recountedAt is the position of the last change after which what is held of an entry
// is not right any more.
func (c *Counter) recountedAt(k key) int64 {
	c.touchMu.Lock()
	defer c.touchMu.Unlock()
	return max(c.recountFloor, c.recounts[k], c.recounts[key{user: k.user}])
}

// DeleteRoom forgets what was counted in a room whose events, or some of them, were
// deleted: checkpoints, at most limit at once, and what is in memory. It tells how many.
// Where the room is still there, it is counted anew when somebody asks.
func (c *Counter) DeleteRoom(tx *store.Tx, roomID string, limit int) (int64, error) {
	tx.AfterCommit(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for k, el := range c.entries {
			if k.room == roomID {
				c.cost -= el.Value.(*entry).size
				c.lru.Remove(el)
				delete(c.entries, k)
			}
		}
		for k := range c.unsaved {
			if k.room == roomID {
				delete(c.unsaved, k)
			}
		}
		delete(c.rooms, roomID)
	})
	return tx.Exec(deleteRoomSQL, roomID, limit)
}

// run writes checkpoints now and then.
func (c *Counter) run() {
	defer close(c.done)
	t := time.NewTicker(flushInterval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			c.flush()
		case <-c.stop:
			c.flush()
			return
		}
	}
}

func (c *Counter) flush() {
	c.mu.Lock()
	batch := c.unsaved
	c.unsaved = map[key]checkpoint{}
	c.mu.Unlock()
	if len(batch) == 0 {
		return
	}
	err := c.o.DB.Write(context.Background(), func(tx *store.Tx) error {
		for k, cp := range batch {
			if c.recountedAt(k) > cp.born { // it waited here while that was written
				continue
			}
			if err := saveCheckpoint(tx, k, cp); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrClosed) {
		c.o.Log.Warn("counts of unread messages were not saved; they are counted again when needed", "err", err)
	}
}

// Close writes what should outlast a restart. Call it before the store closes.
func (c *Counter) Close() {
	close(c.stop)
	<-c.done
}
