package rooms

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/store"
)

// hotRoom is a room as the next event to be built finds it: it runs ahead of the
// database by the events that are queued.
type hotRoom struct {
	id      string
	version pdu.Version

	mu     sync.Mutex // held while an event is built and queued
	loaded bool
	gone   bool       // shut to be deleted: nothing is built in it any more
	head   string     // event ID of the last event
	last   *pdu.Event // the last event, in versions that name events with their hashes
	depth  int64
	state  map[StateKey]*entry
	seq    int64 // number of the last batch queued
	bytes  int   // about how much memory state takes

	// broken means that a queued batch did not reach the disk: what was built on
	// it is refused, and the room is read again.
	broken  atomic.Bool
	pending sync.WaitGroup // batches queued and not yet answered; added to under mu

	w written // owned by the store's writer
}

// written is what the writer knows of a room.
type written struct {
	nid   int64
	seq   int64 // number of the last batch written
	group int64 // state group after the last event
	chain int   // its distance from a snapshot
	size  int   // pieces of state, for the distance of snapshots
}

// entry is one piece of state.
type entry struct {
	id         string
	membership string     // of a member event
	ev         *pdu.Event // nil: not read yet; guarded by the room's mu
	pos        int64      // written by the writer; fixed where ev is nil
}

func (e *entry) size() int {
	if e.ev != nil {
		return 400 + len(e.ev.JSON())
	}
	return 300
}

// hotCache holds the rooms that were built in lately.
type hotCache struct {
	mu    sync.Mutex
	rooms map[string]*hotRoom
	bytes atomic.Int64
}

const maxHotBytes = 24 << 20

func (c *hotCache) init() { c.rooms = map[string]*hotRoom{} }

// shrink forgets rooms that nobody builds in until the rest fits.
func (c *hotCache) shrink(keep *hotRoom) {
	if c.bytes.Load() <= maxHotBytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.rooms {
		if c.bytes.Load() <= maxHotBytes*3/4 {
			return
		}
		if h == keep || !h.mu.TryLock() {
			continue
		}
		// What is queued must be written before somebody reads the room again:
		// whoever locks it next sees that it is not loaded, and waits for that.
		h.forget(c)
		h.mu.Unlock()
	}
}

// forget drops the state. The hotRoom itself stays: others may wait for its lock.
func (h *hotRoom) forget(c *hotCache) {
	c.bytes.Add(-int64(h.bytes))
	h.loaded, h.state, h.bytes, h.last = false, nil, 0, nil
}

func (h *hotRoom) grow(c *hotCache, n int) {
	h.bytes += n
	c.bytes.Add(int64(n))
}

var errStale = errors.New("rooms: the event was built on one that was not written")

// lock returns the room ready to be built in, locked; alone: with nothing of it
// still queued. Errors: errNoRoom.
func (r *Rooms) lock(ctx context.Context, roomID string, alone bool) (*hotRoom, error) {
	r.hot.mu.Lock()
	h := r.hot.rooms[roomID]
	if h == nil {
		h = &hotRoom{id: roomID}
		r.hot.rooms[roomID] = h
	}
	r.hot.mu.Unlock()
	h.mu.Lock()
	if h.gone {
		h.mu.Unlock()
		return nil, errNoRoom
	}
	if alone {
		h.pending.Wait()
	}
	if h.loaded && !h.broken.Load() {
		return h, nil
	}
	if h.loaded {
		h.forget(&r.hot)
	}
	h.pending.Wait()
	err := r.db.Read(ctx, func(q store.Querier) error { return r.load(q, h) })
	if err == nil {
		return h, nil
	}
	h.mu.Unlock()
	if errors.Is(err, store.ErrNotFound) {
		// Unknown IDs must not fill the memory. Whoever waits for h finds no room either.
		r.hot.mu.Lock()
		if r.hot.rooms[roomID] == h {
			delete(r.hot.rooms, roomID)
		}
		r.hot.mu.Unlock()
		return nil, errNoRoom
	}
	return nil, err
}

// load reads the room. Nothing of it is queued.
func (r *Rooms) load(q store.Querier, h *hotRoom) error {
	var version string
	w := written{}
	if err := q.QueryRow(`SELECT nid, version FROM rooms WHERE room_id = $1`, h.id).Scan(&w.nid, &version); err != nil {
		return err
	}
	h.version = pdu.Version(version)
	last, err := scanEvent(q.QueryRow(`SELECT `+eventColumns+fromEvents+`WHERE e.room = $1 ORDER BY e.pos DESC LIMIT 1`, w.nid))
	if err != nil {
		return err
	}
	h.head, h.depth = last.ID, last.Depth
	if h.version.EventIDInPDU() {
		h.last = last.Event
	}
	w.group = last.StateGroup
	if last.StateKey != nil {
		w.group = last.Pos
	}
	if err := q.QueryRow(`SELECT chain FROM state_groups WHERE id = $1`, w.group).Scan(&w.chain); err != nil {
		return err
	}
	h.state = map[StateKey]*entry{}
	rows, err := q.Query(`SELECT s.type, s.state_key, s.event, e.event_id, coalesce(m.membership, ''),
			CASE WHEN s.type = 'm.room.member' THEN NULL ELSE e.json END
		FROM room_state s JOIN events e ON e.pos = s.event
		LEFT JOIN room_members m ON s.type = 'm.room.member' AND m.user_id = s.state_key AND m.room = s.room
		WHERE s.room = $1`, w.nid)
	if err != nil {
		return err
	}
	defer rows.Close()
	bytes := 0
	for rows.Next() {
		var (
			k   StateKey
			e   entry
			raw []byte
		)
		if err := rows.Scan(&k.Type, &k.Key, &e.pos, &e.id, &e.membership, &raw); err != nil {
			return err
		}
		if raw != nil {
			if e.ev, err = pdu.Parse(h.version, e.id, raw); err != nil {
				return err
			}
		}
		e.membership = intern(e.membership)
		h.state[k] = &e
		bytes += e.size()
	}
	if err := rows.Err(); err != nil {
		return err
	}
	w.size = len(h.state)
	h.w, h.seq = w, 0
	h.broken.Store(false)
	h.loaded = true
	h.grow(&r.hot, bytes)
	return nil
}

// intern gives the constant for a membership, so that members share it.
func intern(m string) string {
	switch m {
	case mx.Join:
		return mx.Join
	case mx.Leave:
		return mx.Leave
	case mx.Invite:
		return mx.Invite
	case mx.Ban:
		return mx.Ban
	case mx.Knock:
		return mx.Knock
	case "":
		return ""
	}
	return m
}

// event gives an entry's event, and reads it if need be.
func (r *Rooms) event(ctx context.Context, h *hotRoom, e *entry) (*pdu.Event, error) {
	if e == nil {
		return nil, nil
	}
	if e.ev == nil {
		err := r.db.Read(ctx, func(q store.Querier) error {
			ev, err := r.EventAt(q, e.pos)
			if err == nil {
				e.ev = ev.Event
				h.grow(&r.hot, len(e.ev.JSON()))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return e.ev, nil
}
