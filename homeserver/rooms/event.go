package rooms

import (
	"container/list"
	"sync"
	"sync/atomic"

	"holdfast/homeserver/pdu"
	"holdfast/store"
)

// Event is a stored event. It must not be changed.
type Event struct {
	*pdu.Event
	Pos        int64
	StateGroup int64  // state before the event; 0: none
	Replaces   int64  // position of the state event it took the place of; 0: none
	Device     string // that sent it, where a transaction ID is known
	Txn        string
	RedactedBy string // event ID of its redaction, or ""
	Extra      []byte // JSON object that our server adds to unsigned for the sending device, or nil

	related atomic.Bool // whether other events relate to it
}

// Related reports whether other events relate to it.
func (e *Event) Related() bool { return e.related.Load() }

func (e *Event) size() int { return len(e.JSON())*5/4 + 600 }

// eventCache keeps events by position and ID, the least used of them going when
// there are too many bytes.
type eventCache struct {
	mu    sync.Mutex
	byPos map[int64]*list.Element
	byID  map[string]*list.Element
	lru   *list.List // of *Event
	bytes int
	// purged tells up to which position messages of rooms were deleted since the start.
	purged map[string]int64
}

const maxEventCacheBytes = 12 << 20

func (c *eventCache) init() {
	c.byPos, c.byID, c.lru = map[int64]*list.Element{}, map[string]*list.Element{}, list.New()
}

func (c *eventCache) get(pos int64) *Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el := c.byPos[pos]; el != nil {
		c.lru.MoveToFront(el)
		return el.Value.(*Event)
	}
	return nil
}

func (c *eventCache) getID(id string) *Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el := c.byID[id]; el != nil {
		c.lru.MoveToFront(el)
		return el.Value.(*Event)
	}
	return nil
}

// put keeps an event; one that is there already is kept instead and returned,
// unless replace: so that a reader of an older snapshot does not undo a redaction.
func (c *eventCache) put(e *Event, replace bool) *Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el := c.byPos[e.Pos]; el != nil {
		old := el.Value.(*Event)
		if !replace {
			return old
		}
		c.remove(el)
	}
	if len(c.purged) > 0 && c.isPurged(e) {
		return e
	}
	el := c.lru.PushFront(e)
	c.byPos[e.Pos], c.byID[e.ID] = el, el
	c.bytes += e.size()
	for c.bytes > maxEventCacheBytes {
		c.remove(c.lru.Back())
	}
	return e
}

func (c *eventCache) remove(el *list.Element) {
	e := c.lru.Remove(el).(*Event)
	delete(c.byPos, e.Pos)
	delete(c.byID, e.ID)
	c.bytes -= e.size()
}

// tailCache keeps the last events of rooms in which something was sent lately.
type tailCache struct {
	mu    sync.RWMutex
	rooms map[string]*tail
	used  int // events held
}

// tail has all events of a room after position from, oldest first.
type tail struct {
	from   int64
	events []*Event
}

const (
	maxTail      = 100   // events kept of a room
	maxTailsHeld = 10000 // events kept of all rooms
)

func (c *tailCache) init() { c.rooms = map[string]*tail{} }

func (c *tailCache) append(roomID string, events []*Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.rooms[roomID]
	if t == nil {
		for id, old := range c.rooms { // any: a tail is quickly there again
			if c.used+len(events) <= maxTailsHeld {
				break
			}
			c.used -= len(old.events)
			delete(c.rooms, id)
		}
		t = &tail{from: events[0].Pos - 1}
		c.rooms[roomID] = t
	}
	// Readers hold slices of the array: it is appended to, and copied when it
	// is trimmed, never written over.
	t.events = append(t.events, events...)
	c.used += len(events)
	if n := len(t.events); n > 2*maxTail {
		cut := n - maxTail
		t.from = t.events[cut-1].Pos
		t.events = append(make([]*Event, 0, 2*maxTail+1), t.events[cut:]...)
		c.used -= cut
	}
}

// replace puts in a changed event.
func (c *tailCache) replace(roomID string, e *Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.rooms[roomID]
	if t == nil {
		return
	}
	for i, old := range t.events {
		if old.Pos == e.Pos {
			t.events = append([]*Event(nil), t.events...)
			t.events[i] = e
			return
		}
	}
}

// last returns the newest events of (from, to], oldest first, at most limit of
// them, and whether there are more. ok: the tail knows.
func (c *tailCache) last(roomID string, from, to int64, limit int) (events []*Event, more, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	t := c.rooms[roomID]
	if t == nil {
		return nil, false, false
	}
	end := len(t.events)
	for end > 0 && t.events[end-1].Pos > to {
		end--
	}
	start := end
	for start > 0 && t.events[start-1].Pos > from {
		if end-start == limit {
			return t.events[start:end:end], true, true
		}
		start--
	}
	if start == 0 && from < t.from {
		return nil, false, false // older ones may be missing
	}
	return t.events[start:end:end], false, true
}

// oldest reports whether the tail holds everything after from.
func (c *tailCache) covers(roomID string, from int64) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	t := c.rooms[roomID]
	return t != nil && from >= t.from
}

// EventAt returns the event at a position. Errors: store.ErrNotFound.
func (r *Rooms) EventAt(q store.Querier, pos int64) (*Event, error) {
	if e := r.cache.get(pos); e != nil {
		return e, nil
	}
	e, err := loadEventAt(q, pos)
	if err != nil {
		return nil, err
	}
	return r.keep(q, e), nil
}

// EventByID returns an event. Errors: store.ErrNotFound.
func (r *Rooms) EventByID(q store.Querier, eventID string) (*Event, error) {
	if e := r.cache.getID(eventID); e != nil {
		return e, nil
	}
	e, err := loadEventByID(q, eventID)
	if err != nil {
		return nil, err
	}
	return r.keep(q, e), nil
}

// keep puts an event that was read into the cache, if what was read is committed.
func (r *Rooms) keep(q store.Querier, e *Event) *Event {
	if _, writing := q.(*store.Tx); writing {
		return e
	}
	return r.cache.put(e, false)
}

// EventPos is the position of an event of a room. Errors: store.ErrNotFound when
// the room has no such event.
func (r *Rooms) EventPos(q store.Querier, roomID, eventID string) (int64, error) {
	e, err := r.EventByID(q, eventID)
	if err != nil {
		return 0, err
	}
	if e.RoomID != roomID {
		return 0, store.ErrNotFound
	}
	return e.Pos, nil
}

// Last returns the newest events of a room in (from, to], oldest first, at most
// limit of them, and whether there are more in the range.
func (r *Rooms) Last(q store.Querier, roomID string, from, to int64, limit int) (events []*Event, more bool, err error) {
	if events, more, ok := r.tails.last(roomID, from, to, limit); ok {
		return events, more, nil
	}
	nid, err := r.nid(q, roomID)
	if err != nil {
		return nil, false, err
	}
	list, err := r.loadRange(q, selectLast, nid, from, to, limit+1)
	if err != nil {
		return nil, false, err
	}
	if more = len(list) > limit; more {
		list = list[:limit]
	}
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list, more, nil
}

// First returns the oldest events of a room in (from, to], oldest first, at most
// limit of them, and whether there are more in the range.
func (r *Rooms) First(q store.Querier, roomID string, from, to int64, limit int) (events []*Event, more bool, err error) {
	if r.tails.covers(roomID, from) {
		if events, more, ok := r.tails.last(roomID, from, to, 2*maxTail+1); ok && !more {
			if len(events) > limit {
				return events[:limit], true, nil
			}
			return events, false, nil
		}
	}
	nid, err := r.nid(q, roomID)
	if err != nil {
		return nil, false, err
	}
	list, err := r.loadRange(q, selectFirst, nid, from, to, limit+1)
	if err != nil {
		return nil, false, err
	}
	if len(list) > limit {
		return list[:limit], true, nil
	}
	return list, false, nil
}
