package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"sync"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/pdu"
	"holdfast/store"
)

// What is deleted for good: the older messages of a room, or all of a room. It goes in
// steps, each a small write; who calls them keeps the place.
//
// Of a room's history all state stays, since later events are judged and shown by it.
// A room that is deleted is emptied of its members, then taken out of sight in one
// write (its row goes, by which everything is found), and what it leaves behind is
// deleted by and by.

// keepDepartures is how long it is remembered how users left rooms that are gone.
const keepDepartures = 180 * 24 * time.Hour

// forever is the position up to which a room is purged that is gone.
const forever = math.MaxInt64

// closings are the rooms that are being deleted: nobody can join them.
type closings struct {
	mu sync.RWMutex
	m  map[string]bool
}

func (c *closings) has(roomID string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.m[roomID]
}

// CloseJoins keeps everybody from joining a room that is going to be deleted, until the
// program ends or open is called.
func (r *Rooms) CloseJoins(roomID string) (open func()) {
	r.closing.mu.Lock()
	if r.closing.m == nil {
		r.closing.m = map[string]bool{}
	}
	r.closing.m[roomID] = true
	r.closing.mu.Unlock()
	return func() {
		r.closing.mu.Lock()
		delete(r.closing.m, roomID)
		r.closing.mu.Unlock()
	}
}

// OnPurge has f called in the write that deletes events, with their positions. To be
// called before the first request.
func (r *Rooms) OnPurge(f func(tx *store.Tx, at []int64) error) { r.purged = append(r.purged, f) }

const selectPurge = `SELECT pos, event_id, state_key IS NOT NULL, sender, CASE WHEN type = 'm.room.redaction' THEN json END
	FROM events WHERE room = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4`

const (
	deleteEvent    = `DELETE FROM events WHERE pos = $1`
	existsTarget   = `SELECT EXISTS (SELECT 1 FROM events WHERE event_id = $1 AND redacted_by = $2)`
	existsRedacted = `SELECT EXISTS (SELECT 1 FROM events WHERE room = $1 AND state_key IS NOT NULL AND redacted_by = $2)`
	selectLastPos  = `SELECT coalesce(max(pos), 0) FROM events WHERE room = $1`
)

// PurgeHistory deletes messages of a room, looking at no more than limit events of
// (after, upTo], and tells where to go on: next is upTo at the end. State stays, and so
// does the room's last event, and the redaction of something that stays. local: also
// what was sent by users of this server. Errors: store.ErrNotFound.
func (r *Rooms) PurgeHistory(tx *store.Tx, roomID string, after, upTo int64, local bool, limit int) (next int64, n int, err error) {
	nid, err := r.nid(tx, roomID)
	if err != nil {
		return 0, 0, err
	}
	var last int64
	if err := tx.QueryRow(selectLastPos, nid).Scan(&last); err != nil {
		return 0, 0, err
	}
	type row struct {
		pos        int64
		id, sender string
		state      bool
		json       []byte
	}
	var list []row
	rows, err := tx.Query(selectPurge, nid, after, upTo, limit)
	if err != nil {
		return 0, 0, err
	}
	for rows.Next() {
		var x row
		if err := rows.Scan(&x.pos, &x.id, &x.state, &x.sender, &x.json); err != nil {
			rows.Close()
			return 0, 0, err
		}
		list = append(list, x)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return 0, 0, err
	}
	if next = upTo; len(list) == limit {
		next = list[limit-1].pos
	}
	var gone []int64
	for _, x := range list {
		if x.state || x.pos == last || !local && mx.Domain(x.sender) == r.o.ServerName {
			continue
		}
		if x.json != nil {
			// What it redacted was sent before it: if it is to go, it is gone already.
			target := pdu.FieldString(x.json, "redacts")
			if target == "" {
				target = pdu.FieldString(pdu.Field(x.json, "content"), "redacts")
			}
			var there bool
			if target == "" { // it was redacted itself, and with it went what it names
				err = tx.QueryRow(existsRedacted, nid, x.id).Scan(&there)
			} else {
				err = tx.QueryRow(existsTarget, target, x.id).Scan(&there)
			}
			if err != nil {
				return 0, 0, err
			}
			if there {
				continue
			}
		}
		if _, err := tx.Exec(deleteEvent, x.pos); err != nil {
			return 0, 0, err
		}
		gone = append(gone, x.pos)
	}
	if len(gone) == 0 {
		return next, 0, nil
	}
	for _, f := range r.purged {
		if err := f(tx, gone); err != nil {
			return 0, 0, err
		}
	}
	tx.AfterCommit(func() {
		r.cache.purge(roomID, next)
		r.tails.drop(roomID)
	})
	return next, len(gone), nil
}

// purge forgets the messages of a room up to a position, all events with forever, and
// takes none of them again from readers of an older snapshot.
func (c *eventCache) purge(roomID string, upTo int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.purged == nil {
		c.purged = map[string]int64{}
	}
	c.purged[roomID] = max(c.purged[roomID], upTo)
	for el := c.lru.Front(); el != nil; {
		next := el.Next()
		if c.isPurged(el.Value.(*Event)) {
			c.remove(el)
		}
		el = next
	}
}

func (c *eventCache) isPurged(e *Event) bool {
	upTo, ok := c.purged[e.RoomID]
	return ok && (upTo == forever || e.StateKey == nil && e.Pos <= upTo)
}

// drop forgets a room's last events.
func (c *tailCache) drop(roomID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.rooms[roomID]; t != nil {
		c.used -= len(t.events)
		delete(c.rooms, roomID)
	}
}

const selectMembersAfter = `SELECT user_id FROM room_members WHERE room = $1 AND membership = $2 AND user_id > $3 ORDER BY user_id LIMIT $4`

// MembersAfter lists users with a membership of a room, in the order of their IDs after
// one of these, at most limit.
func (r *Rooms) MembersAfter(q store.Querier, roomID, membership, after string, limit int) ([]string, error) {
	nid, err := r.nid(q, roomID)
	if err != nil {
		return nil, err
	}
	return strs(q.Query(selectMembersAfter, nid, membership, after, limit))
}

// Depart takes users out of a room, as if each had left, in one write. Who is not in it
// is passed over; those whom the room's rules do not let go are returned, unless force,
// which asks no rules. with, which may be nil, is part of the write.
func (r *Rooms) Depart(ctx context.Context, roomID string, users []string, force bool, with func(tx *store.Tx) error) (failed []string, err error) {
	err = r.change(ctx, roomID, func(b *batch) error {
		failed = nil
		if with != nil {
			b.also = append(b.also, func(tx *store.Tx, _ int64) error { return with(tx) })
		}
		for _, u := range users {
			switch b.membership(u) {
			case mx.Join, mx.Invite, mx.Knock:
			default:
				continue
			}
			_, err := b.add(NewEvent{Sender: u, Type: mx.RoomMember, StateKey: &u, Content: json.RawMessage(`{"membership":"leave"}`), unchecked: force})
			var refusal *mx.Error
			if errors.As(err, &refusal) {
				failed = append(failed, u)
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	return failed, err
}

// Admit joins users to a room, in one write, and returns those who were refused.
func (r *Rooms) Admit(ctx context.Context, roomID string, users []string) (failed []string, err error) {
	contents := map[string]json.RawMessage{}
	for _, u := range users {
		if contents[u], err = r.memberContent(ctx, memberChange{target: u, membership: mx.Join}); err != nil {
			return nil, err
		}
	}
	err = r.change(ctx, roomID, func(b *batch) error {
		failed = nil
		for _, u := range users {
			if b.membership(u) == mx.Join {
				continue
			}
			c, err := b.authoriseJoin(u, contents[u])
			if err == nil {
				_, err = b.add(NewEvent{Sender: u, Type: mx.RoomMember, StateKey: &u, Content: c})
			}
			var refusal *mx.Error
			if errors.As(err, &refusal) {
				failed = append(failed, u)
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	return failed, err
}

// MoveAliases has a room's local aliases lead to another, and belong to a user.
// Errors: store.ErrNotFound.
func (r *Rooms) MoveAliases(tx *store.Tx, from, to, owner string) ([]string, error) {
	list, err := r.Aliases(tx, from)
	if err != nil {
		return nil, err
	}
	old, err := r.nid(tx, from)
	if err != nil {
		return nil, err
	}
	nid, err := r.nid(tx, to)
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(`UPDATE room_aliases SET room = $2, creator = $3 WHERE room = $1`, old, nid, owner)
	return list, err
}

// Shut waits for what is being sent to a room, and lets nothing in any more. It can be
// taken back with Unshut. Errors: NotFound.
func (r *Rooms) Shut(ctx context.Context, roomID string) error {
	h, err := r.lock(ctx, roomID, true)
	if err != nil {
		return err
	}
	h.forget(&r.hot)
	h.gone = true
	h.mu.Unlock()
	return nil
}

// Unshut takes Shut back.
func (r *Rooms) Unshut(roomID string) {
	r.hot.mu.Lock()
	h := r.hot.rooms[roomID]
	r.hot.mu.Unlock()
	if h != nil {
		h.mu.Lock()
		h.gone = false
		h.mu.Unlock()
	}
}

// ForgetMembers hides a room from those who have left it, after a user in the order of
// their IDs and at most limit of them, and names the last; "": there were no more.
// Errors: store.ErrNotFound.
func (r *Rooms) ForgetMembers(tx *store.Tx, roomID, after string, limit int) (last string, err error) {
	nid, err := r.nid(tx, roomID)
	if err != nil {
		return "", err
	}
	list, err := strs(tx.Query(selectMembersAfter, nid, mx.Leave, after, limit))
	if err != nil {
		return "", err
	}
	for _, u := range list {
		if err := storeForgotten(tx, nid, u); err != nil {
			return "", err
		}
		tx.Touch(notify.Member, u)
		last = u
	}
	return last, nil
}

const (
	selectMembers = `SELECT m.user_id, m.membership, m.forgotten, e.pos, e.event_id, e.ts, e.json
		FROM room_members m JOIN events e ON e.pos = m.event WHERE m.room = $1 LIMIT $2`
	insertDeparture = `INSERT INTO room_departures (user_id, room_id, pos, version, event_id, ts, json) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (user_id, room_id) DO NOTHING`
	deleteMember = `DELETE FROM room_members WHERE user_id = $1 AND room = $2`
)

// ErrNotEmpty means that there are still people in a room.
var ErrNotEmpty = errors.New("rooms: there are still people in the room")

// DropMembers forgets the memberships of a room that everybody has left, at most limit
// at once. How somebody left it lately is kept for their devices. Errors: ErrNotEmpty,
// store.ErrNotFound.
func (r *Rooms) DropMembers(tx *store.Tx, roomID string, limit int) (n int, err error) {
	nid, err := r.nid(tx, roomID)
	if err != nil {
		return 0, err
	}
	v, err := r.Version(tx, roomID)
	if err != nil {
		return 0, err
	}
	type row struct {
		user, membership, id string
		forgotten            bool
		pos, ts              int64
		json                 []byte
	}
	var list []row
	rows, err := tx.Query(selectMembers, nid, limit)
	if err != nil {
		return 0, err
	}
	for rows.Next() {
		var x row
		if err := rows.Scan(&x.user, &x.membership, &x.forgotten, &x.pos, &x.id, &x.ts, &x.json); err != nil {
			rows.Close()
			return 0, err
		}
		list = append(list, x)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return 0, err
	}
	now := r.o.Now()
	for _, x := range list {
		if x.membership != mx.Leave && x.membership != mx.Ban {
			return 0, ErrNotEmpty
		}
		if !x.forgotten && x.ts >= now.Add(-keepDepartures).UnixMilli() {
			if _, err := tx.Exec(insertDeparture, x.user, roomID, x.pos, string(v), x.id, now.UnixMilli(), x.json); err != nil {
				return 0, err
			}
		}
		if _, err := tx.Exec(deleteMember, x.user, nid); err != nil {
			return 0, err
		}
		tx.Touch(notify.Member, x.user)
	}
	return len(list), nil
}

// Delete takes a room out of sight that was shut and has no members any more, with its
// aliases. It returns the number by which DeleteRows finds what it left behind.
// Errors: ErrNotEmpty, store.ErrNotFound.
func (r *Rooms) Delete(tx *store.Tx, roomID string) (nid int64, err error) {
	if nid, err = r.nid(tx, roomID); err != nil {
		return 0, err
	}
	var some bool
	if err := tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM room_members WHERE room = $1)`, nid).Scan(&some); err != nil {
		return 0, err
	}
	if some {
		return 0, ErrNotEmpty
	}
	if _, err := tx.Exec(`DELETE FROM room_aliases WHERE room = $1`, nid); err != nil {
		return 0, err
	}
	if _, err := tx.Exec(`DELETE FROM rooms WHERE nid = $1`, nid); err != nil {
		return 0, err
	}
	if _, err := tx.Exec(`DELETE FROM room_departures WHERE ts < $1`, r.o.Now().Add(-keepDepartures).UnixMilli()); err != nil {
		return 0, err
	}
	for _, f := range r.purged { // whatever they hold of the room is stale
		if err := f(tx, nil); err != nil {
			return 0, err
		}
	}
	tx.AfterCommit(func() {
		r.cache.purge(roomID, forever)
		r.tails.drop(roomID)
		r.nids.gone.Store(roomID, true)
		r.nids.m.Delete(roomID)
		r.hot.mu.Lock() // who has it waits in vain: it is shut
		delete(r.hot.rooms, roomID)
		r.hot.mu.Unlock()
	})
	return nid, nil
}

const (
	selectLeft       = `SELECT pos, state_key IS NOT NULL FROM events WHERE room = $1 ORDER BY pos LIMIT $2`
	deleteSnapshot   = `DELETE FROM state_snapshots WHERE (state_group, type, state_key) IN (SELECT state_group, type, state_key FROM state_snapshots WHERE state_group = $1 LIMIT $2)`
	deleteGroup      = `DELETE FROM state_groups WHERE id = $1`
	deleteStateRows  = `DELETE FROM room_state WHERE (room, type, state_key) IN (SELECT room, type, state_key FROM room_state WHERE room = $1 LIMIT $2)`
	maxSnapshotRows  = 500
	deleteDepartures = `DELETE FROM room_departures WHERE user_id = $1`
)

// DeleteRows deletes what a room that is gone has left behind, about limit rows at once,
// and reports whether there may be more.
func (r *Rooms) DeleteRows(tx *store.Tx, nid int64, limit int) (more bool, err error) {
	type row struct {
		pos   int64
		state bool
	}
	var list []row
	rows, err := tx.Query(selectLeft, nid, limit)
	if err != nil {
		return false, err
	}
	for rows.Next() {
		var x row
		if err := rows.Scan(&x.pos, &x.state); err != nil {
			rows.Close()
			return false, err
		}
		list = append(list, x)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return false, err
	}
	if len(list) == 0 {
		n, err := tx.Exec(deleteStateRows, nid, limit)
		return n > 0, err
	}
	var gone []int64
	budget := int64(maxSnapshotRows) // of snapshots in this write
	for _, x := range list {
		if x.state {
			n, err := tx.Exec(deleteSnapshot, x.pos, budget)
			if err != nil {
				return false, err
			}
			if budget -= n; budget <= 0 { // there may be more of it
				break
			}
			if _, err := tx.Exec(deleteGroup, x.pos); err != nil {
				return false, err
			}
		}
		if _, err := tx.Exec(deleteEvent, x.pos); err != nil {
			return false, err
		}
		gone = append(gone, x.pos)
	}
	if len(gone) == 0 {
		return true, nil
	}
	for _, f := range r.purged {
		if err := f(tx, gone); err != nil {
			return false, err
		}
	}
	return true, nil
}

const (
	selectDepartures  = `SELECT room_id, pos, version, event_id, json FROM room_departures WHERE user_id = $1`
	selectDeparture   = `SELECT room_id, pos, version, event_id, json FROM room_departures WHERE user_id = $1 AND room_id = $2`
	selectDepartureAt = `SELECT room_id, pos, version, event_id, json FROM room_departures WHERE pos = $1`
)

func scanDeparture(row scanner) (*Event, error) {
	var (
		roomID, version, id string
		raw                 []byte
		e                   Event
	)
	if err := row.Scan(&roomID, &e.Pos, &version, &id, &raw); err != nil {
		return nil, err
	}
	var err error
	e.Event, err = pdu.Parse(pdu.Version(version), id, raw)
	return &e, err
}

// Departures lists how a user left rooms that were deleted since.
func (r *Rooms) Departures(q store.Querier, userID string) ([]Member, error) {
	rows, err := q.Query(selectDepartures, userID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []Member
	for rows.Next() {
		e, err := scanDeparture(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, Member{RoomID: e.RoomID, UserID: userID, Membership: intern(e.Membership()), Sender: e.Sender, Pos: e.Pos, Gone: true})
	}
	return list, rows.Err()
}

// Departure is the event by which a user left a room that was deleted since.
// Errors: store.ErrNotFound.
func (r *Rooms) Departure(q store.Querier, roomID, userID string) (*Event, error) {
	return scanDeparture(q.QueryRow(selectDeparture, userID, roomID))
}

// DepartureAt is Departure by the event's position.
func (r *Rooms) DepartureAt(q store.Querier, pos int64) (*Event, error) {
	return scanDeparture(q.QueryRow(selectDepartureAt, pos))
}

// DropDepartures forgets how a user left rooms that are gone.
func (r *Rooms) DropDepartures(tx *store.Tx, userID string) error {
	_, err := tx.Exec(deleteDepartures, userID)
	return err
}

// SentBy lists positions and IDs of what a user sent to a room, newest first, that can
// be redacted: messages of all kinds, and joins. It looks at no more than limit events
// before a position, and tells where to go on; 0: there is nothing older.
func (r *Rooms) SentBy(q store.Querier, roomID, userID string, before int64, limit int) (list []Sent, next int64, err error) {
	nid, err := r.nid(q, roomID)
	if err != nil {
		return nil, 0, err
	}
	rows, err := q.Query(selectSent, nid, before, limit, userID)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var s Sent
		var mine bool
		if err := rows.Scan(&s.Pos, &s.EventID, &s.TS, &mine); err != nil {
			return nil, 0, err
		}
		n, next = n+1, s.Pos
		if mine {
			list = append(list, s)
		}
	}
	if n < limit {
		next = 0
	}
	return list, next, rows.Err()
}

// Sent is an event that somebody sent.
type Sent struct {
	Pos, TS int64
	EventID string
}

const selectSent = `SELECT pos, event_id, ts, sender = $4 AND redacted_by IS NULL AND type <> 'm.room.redaction' AND
		(state_key IS NULL OR type = 'm.room.member' AND state_key = $4 AND json_extract(CAST(json AS TEXT), '$.content.membership') = 'join')
	FROM events WHERE room = $1 AND pos < $2 ORDER BY pos DESC LIMIT $3`
