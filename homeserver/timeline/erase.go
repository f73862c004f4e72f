package timeline

import (
	"context"
	"sync"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/rooms"
	"holdfast/store"
)

// erasures are the users whose account was closed with the wish to be forgotten,
// and since which position. Few do, so all are in memory.
type erasures struct {
	mu sync.RWMutex
	m  map[string]int64
}

func (x *erasures) since(userID string) (pos int64, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	pos, ok = x.m[userID]
	return pos, ok
}

const (
	listErased   = `SELECT user_id, pos FROM erased_users`
	insertErased = `INSERT INTO erased_users (user_id, pos) VALUES ($1, $2) ON CONFLICT (user_id) DO NOTHING`
)

// Load reads who was erased. To be called before the first request.
func (t *Timeline) Load(ctx context.Context) error {
	m := map[string]int64{}
	err := t.o.DB.Read(ctx, func(q store.Querier) error {
		rows, err := q.Query(listErased)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			var pos int64
			if err := rows.Scan(&id, &pos); err != nil {
				return err
			}
			m[id] = pos
		}
		return rows.Err()
	})
	t.erased.mu.Lock()
	t.erased.m = m
	t.erased.mu.Unlock()
	return err
}

// Erase has what a user wrote shown in redacted form to those who join a room from
// now on; who was joined before goes on seeing it. Nothing is deleted.
// Spec: cs#post_matrixclientv3accountdeactivate (erase)
func (t *Timeline) Erase(ctx context.Context, userID string) error {
	return t.o.DB.Write(ctx, func(tx *store.Tx) error {
		pos := tx.NextPos()
		n, err := tx.Exec(insertErased, userID, pos)
		if err == nil && n > 0 {
			tx.AfterCommit(func() {
				t.erased.mu.Lock()
				t.erased.m[userID] = pos
				t.erased.mu.Unlock()
			})
		}
		return err
	})
}

// hides reports whether a reader gets an event in redacted form, because its
// sender was erased before the reader was in the room. The room's own state, as its
// name, stays: it is not the person's alone.
func (t *Timeline) hides(q store.Querier, e *rooms.Event, readerID string) (bool, error) {
	pos, erased := t.erased.since(e.Sender)
	if !erased || readerID == "" || readerID == e.Sender || e.Pos > pos || e.StateKey != nil && !e.IsStateOf(mx.RoomMember, e.Sender) {
		return false, nil
	}
	list, err := t.o.Rooms.MembershipHistory(q, e.RoomID, readerID)
	if err != nil {
		return false, err
	}
	for _, c := range list {
		if c.Membership == mx.Join && c.Pos < pos {
			return false, nil
		}
	}
	return true, nil
}

// bare is an event with what redaction leaves of its content.
func bare(e *rooms.Event) *pdu.Event {
	return &pdu.Event{Version: e.Version, ID: e.ID, RoomID: e.RoomID, Type: e.Type, Sender: e.Sender, StateKey: e.StateKey,
		Content: pdu.RedactContent(e.Version, e.Type, e.Content), OriginServerTS: e.OriginServerTS, Redacts: e.Redacts}
}

// Erased reports whether a user asked to be forgotten.
func (t *Timeline) Erased(userID string) bool {
	_, yes := t.erased.since(userID)
	return yes
}
