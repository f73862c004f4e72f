package rooms

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/store"
	"holdfast/store/sealed"
)

const selectKey = `SELECT key_id, private FROM server_keys WHERE expired IS NULL ORDER BY created DESC LIMIT 1`

// keyPurpose is what the private signing key is sealed for.
const keyPurpose = "server signing key"

func loadKey(q store.Querier, secrets *sealed.Box) (id string, seed []byte, err error) {
	var kept []byte
	if err = q.QueryRow(selectKey).Scan(&id, &kept); err != nil {
		return id, nil, err
	}
	text, err := secrets.Open(keyPurpose, string(kept))
	return id, []byte(text), err
}

func insertKey(tx *store.Tx, secrets *sealed.Box, id string, seed []byte, now int64) error {
	_, err := tx.Exec(`INSERT INTO server_keys (key_id, private, created) VALUES ($1, $2, $3)`, id, []byte(secrets.Seal(keyPurpose, string(seed))), now)
	return err
}

// sealKeys seals what an earlier version kept in clear.
func sealKeys(ctx context.Context, o Options) error {
	return sealed.Once(ctx, o.DB, "server_keys", func(tx *store.Tx) (bool, error) {
		return sealed.Rewrite(tx, "server_keys", "created", func(row map[string]any) error {
			row["private"] = []byte(o.Secrets.Seal(keyPurpose, string(row["private"].([]byte))))
			return nil
		})
	})
}

// nid is the number of a room. Errors: store.ErrNotFound.
func (r *Rooms) nid(q store.Querier, roomID string) (int64, error) {
	if v, ok := r.nids.m.Load(roomID); ok {
		return v.(int64), nil
	}
	var nid int64
	if err := q.QueryRow(`SELECT nid FROM rooms WHERE room_id = $1`, roomID).Scan(&nid); err != nil {
		return 0, err
	}
	if _, writing := q.(*store.Tx); !writing {
		r.nids.m.Store(roomID, nid)
		if _, gone := r.nids.gone.Load(roomID); gone {
			r.nids.m.Delete(roomID)
		}
	}
	return nid, nil
}

// Number is the number that a room has in rows of the database. Errors: store.ErrNotFound.
func (r *Rooms) Number(q store.Querier, roomID string) (int64, error) { return r.nid(q, roomID) }

// insertRoom adds a room. Its number is a position, so that none is used twice, also
// after rooms were deleted.
func insertRoom(tx *store.Tx, roomID string, v pdu.Version, public bool, now int64) (nid int64, err error) {
	nid = tx.NextPos()
	_, err = tx.Exec(`INSERT INTO rooms (nid, room_id, version, public, created) VALUES ($1, $2, $3, $4, $5)`, nid, roomID, string(v), public, now)
	return nid, err
}

// Version is a room's version. Errors: store.ErrNotFound.
func (r *Rooms) Version(q store.Querier, roomID string) (pdu.Version, error) {
	var v string
	err := q.QueryRow(`SELECT version FROM rooms WHERE room_id = $1`, roomID).Scan(&v)
	return pdu.Version(v), err
}

const eventColumns = `e.pos, e.event_id, e.state_group, e.replaces, e.device, e.txn, e.redacted_by, e.extra, e.json, r.version,
	EXISTS (SELECT 1 FROM events x WHERE x.relates_to = e.event_id)`

const fromEvents = ` FROM events e JOIN rooms r ON r.nid = e.room `

const (
	selectEventAt   = `SELECT ` + eventColumns + fromEvents + `WHERE e.pos = $1`
	selectEventByID = `SELECT ` + eventColumns + fromEvents + `WHERE e.event_id = $1`
	selectLast      = `SELECT ` + eventColumns + fromEvents + `WHERE e.room = $1 AND e.pos > $2 AND e.pos <= $3 ORDER BY e.pos DESC LIMIT $4`
	selectFirst     = `SELECT ` + eventColumns + fromEvents + `WHERE e.room = $1 AND e.pos > $2 AND e.pos <= $3 ORDER BY e.pos LIMIT $4`
)

type scanner interface{ Scan(dest ...any) error }

func scanEvent(row scanner) (*Event, error) {
	var (
		e                      Event
		id, version            string
		device, txn, by, extra sql.NullString
		raw                    []byte
		related                bool
	)
	if err := row.Scan(&e.Pos, &id, &e.StateGroup, &e.Replaces, &device, &txn, &by, &extra, &raw, &version, &related); err != nil {
		return nil, err
	}
	p, err := pdu.Parse(pdu.Version(version), id, raw)
	if err != nil {
		return nil, err
	}
	e.Event, e.Device, e.Txn, e.RedactedBy = p, device.String, txn.String, by.String
	if extra.Valid {
		e.Extra = []byte(extra.String)
	}
	e.related.Store(related)
	return &e, nil
}

func loadEventAt(q store.Querier, pos int64) (*Event, error) {
	return scanEvent(q.QueryRow(selectEventAt, pos))
}

func loadEventByID(q store.Querier, id string) (*Event, error) {
	return scanEvent(q.QueryRow(selectEventByID, id))
}

// loadRange runs a statement that gives events, and keeps them in the cache.
func (r *Rooms) loadRange(q store.Querier, query string, args ...any) ([]*Event, error) {
	rows, err := q.Query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []*Event
	for rows.Next() {
		e, err := scanEvent(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, r.keep(q, e))
	}
	return list, rows.Err()
}

const insertEvent = `INSERT INTO events (pos, room, event_id, type, state_key, sender, ts, state_group, replaces, device, txn, relates_to, rel_type, extra, json)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`

func null(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func storeEvent(tx *store.Tx, nid int64, e *Event) error {
	var stateKey, extra any
	if e.StateKey != nil {
		stateKey = *e.StateKey
	}
	if len(e.Extra) > 0 {
		extra = string(e.Extra)
	}
	relType, relatesTo := e.Relation()
	_, err := tx.Exec(insertEvent, e.Pos, nid, e.ID, e.Type, stateKey, e.Sender, e.OriginServerTS, e.StateGroup, e.Replaces,
		null(e.Device), null(e.Txn), null(relatesTo), null(relType), extra, e.JSON())
	return err
}

const selectTxn = `SELECT event_id FROM events WHERE sender = $1 AND device = $2 AND txn = $3 AND room = $4 AND type = $5`

func loadTxn(q store.Querier, nid int64, k txnKey) (eventID string, err error) {
	err = q.QueryRow(selectTxn, k.user, k.device, k.txn, nid, k.typ).Scan(&eventID)
	return eventID, err
}

const redactEvent = `UPDATE events SET json = $2, redacted_by = $3, relates_to = NULL, rel_type = NULL WHERE pos = $1`

func storeRedacted(tx *store.Tx, pos int64, raw []byte, by string) error {
	_, err := tx.Exec(redactEvent, pos, raw, by)
	return err
}

const upsertState = `INSERT INTO room_state (room, type, state_key, event) VALUES ($1, $2, $3, $4)
	ON CONFLICT (room, type, state_key) DO UPDATE SET event = excluded.event`

func storeState(tx *store.Tx, nid int64, e *Event) error {
	_, err := tx.Exec(upsertState, nid, e.Type, *e.StateKey, e.Pos)
	return err
}

const insertGroup = `INSERT INTO state_groups (id, prev, chain, type, state_key) VALUES ($1, $2, $3, $4, $5)`

// storeGroup adds the group after a state event, as a change of the group prev,
// or as a snapshot of the current state where chain is 0.
func storeGroup(tx *store.Tx, nid int64, e *Event, prev int64, chain int) error {
	var p any
	if chain > 0 {
		p = prev
	}
	if _, err := tx.Exec(insertGroup, e.Pos, p, chain, e.Type, *e.StateKey); err != nil || chain > 0 {
		return err
	}
	_, err := tx.Exec(`INSERT INTO state_snapshots (state_group, type, state_key, event)
		SELECT $1, type, state_key, event FROM room_state WHERE room = $2`, e.Pos, nid)
	return err
}

const selectGroup = `WITH RECURSIVE c (id, prev, chain, type, state_key) AS (
		SELECT id, prev, chain, type, state_key FROM state_groups WHERE id = $1
		UNION ALL
		SELECT g.id, g.prev, g.chain, g.type, g.state_key FROM c JOIN state_groups g ON g.id = c.prev)
	SELECT c.chain, c.id, c.type, c.state_key FROM c WHERE c.chain > 0
	UNION ALL
	SELECT 0, s.event, s.type, s.state_key FROM state_snapshots s
		WHERE s.state_group = (SELECT id FROM c WHERE chain = 0)`

// StateKey names one piece of state.
type StateKey struct{ Type, Key string }

// loadGroup is the state that a group stands for: positions of events.
func loadGroup(q store.Querier, group int64) (map[StateKey]int64, error) {
	state := map[StateKey]int64{}
	if group == 0 {
		return state, nil
	}
	rows, err := q.Query(selectGroup, group)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	at := map[StateKey]int{} // the nearest group of the chain wins
	for rows.Next() {
		var (
			chain int
			pos   int64
			k     StateKey
		)
		if err := rows.Scan(&chain, &pos, &k.Type, &k.Key); err != nil {
			return nil, err
		}
		if n, ok := at[k]; !ok || chain > n {
			at[k], state[k] = chain, pos
		}
	}
	return state, rows.Err()
}

const upsertMember = `INSERT INTO room_members (user_id, room, membership, sender, event) VALUES ($1, $2, $3, $4, $5)
	ON CONFLICT (user_id, room) DO UPDATE SET membership = excluded.membership, sender = excluded.sender, event = excluded.event, forgotten = 0`

func storeMember(tx *store.Tx, nid int64, e *Event, membership string) error {
	_, err := tx.Exec(upsertMember, *e.StateKey, nid, membership, e.Sender, e.Pos)
	return err
}

const selectMembership = `SELECT m.membership, m.event, m.forgotten FROM room_members m WHERE m.user_id = $1 AND m.room = $2`

func loadMembership(q store.Querier, nid int64, userID string) (membership string, pos int64, forgotten bool, err error) {
	err = q.QueryRow(selectMembership, userID, nid).Scan(&membership, &pos, &forgotten)
	return membership, pos, forgotten, err
}

// Member is one user's membership of one room.
type Member struct {
	RoomID     string
	UserID     string
	Membership string
	Sender     string // of the member event
	Pos        int64  // of the member event
	Forgotten  bool
	Gone       bool // the room was deleted since; of it there is only the Departure
}

// Rooms lists a user's memberships, those of the kinds given, or all.
func (r *Rooms) Rooms(q store.Querier, userID string, kinds ...string) ([]Member, error) {
	query := `SELECT r.room_id, m.user_id, m.membership, m.sender, m.event, m.forgotten
		FROM room_members m JOIN rooms r ON r.nid = m.room WHERE m.user_id = $1`
	if len(kinds) > 0 {
		query += ` AND m.membership IN ` + store.In(2, len(kinds))
	}
	return scanMembers(q.Query(query, store.Args([]any{userID}, kinds)...))
}

func scanMembers(rows *sql.Rows, err error) ([]Member, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []Member
	for rows.Next() {
		var m Member
		if err := rows.Scan(&m.RoomID, &m.UserID, &m.Membership, &m.Sender, &m.Pos, &m.Forgotten); err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, rows.Err()
}

// MemberList lists a room's members of the kinds given, or all, in the order of
// their member events.
func (r *Rooms) MemberList(q store.Querier, roomID string, kinds ...string) ([]Member, error) {
	nid, err := r.nid(q, roomID)
	if err != nil {
		return nil, err
	}
	query := `SELECT '', m.user_id, m.membership, m.sender, m.event, m.forgotten FROM room_members m WHERE m.room = $1`
	if len(kinds) > 0 {
		query += ` AND m.membership IN ` + store.In(2, len(kinds))
	}
	list, err := scanMembers(q.Query(query+` ORDER BY m.event`, store.Args([]any{nid}, kinds)...))
	for i := range list {
		list[i].RoomID = roomID
	}
	return list, err
}

func strs(rows *sql.Rows, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, rows.Err()
}

// Members lists the users with a membership of a room. A room that is not there, or not
// any more, has none.
func (r *Rooms) Members(q store.Querier, roomID, membership string) ([]string, error) {
	nid, err := r.nid(q, roomID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return strs(q.Query(`SELECT user_id FROM room_members WHERE room = $1 AND membership = $2`, nid, membership))
}

// JoinedRooms lists the rooms that a user is joined to.
func (r *Rooms) JoinedRooms(q store.Querier, userID string) ([]string, error) {
	return strs(q.Query(`SELECT r.room_id FROM room_members m JOIN rooms r ON r.nid = m.room WHERE m.user_id = $1 AND m.membership = 'join'`, userID))
}

// SharedUsers lists the users, not userID itself, who are joined to a room that
// userID is joined to.
func (r *Rooms) SharedUsers(q store.Querier, userID string) ([]string, error) {
	return strs(q.Query(`SELECT DISTINCT o.user_id FROM room_members m JOIN room_members o ON o.room = m.room AND o.membership = 'join'
		WHERE m.user_id = $1 AND m.membership = 'join' AND o.user_id <> $1`, userID))
}

// ShareRoom reports whether two users are joined to a room together.
func (r *Rooms) ShareRoom(q store.Querier, a, b string) (bool, error) {
	var yes bool
	err := q.QueryRow(`SELECT EXISTS (SELECT 1 FROM room_members m JOIN room_members o ON o.room = m.room AND o.user_id = $2 AND o.membership = 'join'
		WHERE m.user_id = $1 AND m.membership = 'join')`, a, b).Scan(&yes)
	return yes, err
}

// CameToShare reports whether two users are joined to a room together and were not at
// a position, as far as their memberships of now tell: after a change of name it may
// say yes though they were.
func (r *Rooms) CameToShare(q store.Querier, a, b string, since int64) (bool, error) {
	const together = `SELECT 1 FROM room_members m JOIN room_members o ON o.room = m.room AND o.user_id = $2 AND o.membership = 'join'
		WHERE m.user_id = $1 AND m.membership = 'join'`
	var yes bool
	err := q.QueryRow(`SELECT EXISTS (`+together+`) AND NOT EXISTS (`+together+` AND m.event <= $3 AND o.event <= $3)`, a, b, since).Scan(&yes)
	return yes, err
}

const selectOpenness = `SELECT s.room, s.event FROM rooms r JOIN room_state s ON s.room = r.nid AND s.type = $1 AND s.state_key = ''`

// PublicUsers lists the users who are joined to a room that anybody may find, join
// or read. Spec: cs#post_matrixclientv3user_directorysearch
func (r *Rooms) PublicUsers(q store.Querier) ([]string, error) {
	type at struct{ room, event int64 }
	var state []at
	for _, typ := range []string{mx.RoomJoinRules, mx.RoomHistoryVisibility} {
		rows, err := q.Query(selectOpenness, typ)
		if err != nil {
			return nil, err
		}
		for rows.Next() {
			var a at
			if err := rows.Scan(&a.room, &a.event); err != nil {
				rows.Close()
				return nil, err
			}
			state = append(state, a)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return nil, err
		}
	}
	open := map[int64]bool{}
	for _, a := range state {
		if open[a.room] {
			continue
		}
		e, err := r.EventAt(q, a.event)
		if err != nil {
			return nil, err
		}
		open[a.room] = e.ContentString("join_rule") == "public" || e.ContentString("history_visibility") == mx.VisibilityWorldReadable
	}
	out, err := strs(q.Query(`SELECT DISTINCT m.user_id FROM rooms r JOIN room_members m ON m.room = r.nid AND m.membership = 'join' WHERE r.public = 1`))
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, u := range out {
		seen[u] = true
	}
	for room, yes := range open {
		if !yes {
			continue
		}
		list, err := strs(q.Query(`SELECT user_id FROM room_members WHERE room = $1 AND membership = 'join'`, room))
		if err != nil {
			return nil, err
		}
		for _, u := range list {
			if !seen[u] {
				seen[u] = true
				out = append(out, u)
			}
		}
	}
	return out, nil
}

// Counts are how many are joined to a room and invited.
func (r *Rooms) Counts(q store.Querier, roomID string) (joined, invited int, err error) {
	nid, err := r.nid(q, roomID)
	if err != nil {
		return 0, 0, err
	}
	err = q.QueryRow(`SELECT count(*) FILTER (WHERE membership = 'join'), count(*) FILTER (WHERE membership = 'invite')
		FROM room_members WHERE room = $1 AND membership IN ('join', 'invite')`, nid).Scan(&joined, &invited)
	return joined, invited, err
}

// MemberCount is how many are joined to a room.
func (r *Rooms) MemberCount(q store.Querier, roomID string) (int, error) {
	joined, _, err := r.Counts(q, roomID)
	return joined, err
}

// Membership is a user's membership of a room, "" for none.
func (r *Rooms) Membership(q store.Querier, roomID, userID string) (string, error) {
	nid, err := r.nid(q, roomID)
	if err == store.ErrNotFound {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	m, _, _, err := loadMembership(q, nid, userID)
	if err == store.ErrNotFound {
		return "", nil
	}
	return m, err
}

// Forgotten reports whether a user has left a room and forgotten it.
func (r *Rooms) Forgotten(q store.Querier, roomID, userID string) (bool, error) {
	nid, err := r.nid(q, roomID)
	if err != nil {
		return false, err
	}
	_, _, forgotten, err := loadMembership(q, nid, userID)
	if err == store.ErrNotFound {
		err = nil
	}
	return forgotten, err
}

// IsJoined reports whether a user is joined to a room.
func (r *Rooms) IsJoined(q store.Querier, roomID, userID string) (bool, error) {
	m, err := r.Membership(q, roomID, userID)
	return m == "join", err
}

// Known reports whether the server has the room.
func (r *Rooms) Known(q store.Querier, roomID string) (bool, error) {
	_, err := r.nid(q, roomID)
	if err == store.ErrNotFound {
		return false, nil
	}
	return err == nil, err
}

// State is the current state event of a type and key. Errors: store.ErrNotFound.
func (r *Rooms) State(q store.Querier, roomID, typ, key string) (*Event, error) {
	nid, err := r.nid(q, roomID)
	if err != nil {
		return nil, err
	}
	var pos int64
	if err := q.QueryRow(`SELECT event FROM room_state WHERE room = $1 AND type = $2 AND state_key = $3`, nid, typ, key).Scan(&pos); err != nil {
		return nil, err
	}
	return r.EventAt(q, pos)
}

// CurrentState is all current state, members too unless noMembers.
func (r *Rooms) CurrentState(q store.Querier, roomID string, noMembers bool) ([]*Event, error) {
	nid, err := r.nid(q, roomID)
	if err != nil {
		return nil, err
	}
	if noMembers { // two ranges of the index, around the members
		return r.eventsOf(q, `SELECT event FROM room_state WHERE room = $1 AND type < 'm.room.member'
			UNION ALL SELECT event FROM room_state WHERE room = $1 AND type > 'm.room.member'`, nid)
	}
	return r.eventsOf(q, `SELECT event FROM room_state WHERE room = $1`, nid)
}

// eventsOf gives the events whose positions a statement selects.
func (r *Rooms) eventsOf(q store.Querier, query string, args ...any) ([]*Event, error) {
	rows, err := q.Query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var at []int64
	for rows.Next() {
		var pos int64
		if err := rows.Scan(&pos); err != nil {
			return nil, err
		}
		at = append(at, pos)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	return r.EventsAt(q, at)
}

// EventsAt gives the events at positions, in their order.
func (r *Rooms) EventsAt(q store.Querier, at []int64) ([]*Event, error) {
	out := make([]*Event, len(at))
	var missing []int64
	where := map[int64]int{}
	for i, pos := range at {
		if e := r.cache.get(pos); e != nil {
			out[i] = e
		} else {
			missing, where[pos] = append(missing, pos), i
		}
	}
	for len(missing) > 0 {
		n := 1 // lists of few lengths, so that their statements stay prepared
		for n < len(missing) && n < 256 {
			n *= 2
		}
		part := missing[:min(n, len(missing))]
		missing = missing[len(part):]
		args := make([]int64, n)
		copy(args, part)
		list, err := r.loadRange(q, `SELECT `+eventColumns+fromEvents+`WHERE e.pos IN `+store.In(1, n), store.Args(nil, args)...)
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			out[where[e.Pos]] = e
		}
	}
	kept := out[:0]
	for _, e := range out {
		if e != nil {
			kept = append(kept, e)
		}
	}
	return kept, nil
}

// StateBefore is the state before an event, of the types and keys that want
// accepts (nil: all).
func (r *Rooms) StateBefore(q store.Querier, e *Event, want func(StateKey) bool) ([]*Event, error) {
	state, err := loadGroup(q, e.StateGroup)
	if err != nil {
		return nil, err
	}
	return r.pick(q, state, want)
}

// StateAt is the state at a position: after the last event of the room up to it.
func (r *Rooms) StateAt(q store.Querier, roomID string, pos int64, want func(StateKey) bool) ([]*Event, error) {
	last, _, err := r.Last(q, roomID, 0, pos, 1)
	if err != nil || len(last) == 0 {
		return nil, err
	}
	state, err := loadGroup(q, last[0].StateGroup)
	if err != nil {
		return nil, err
	}
	if e := last[0]; e.StateKey != nil {
		state[StateKey{e.Type, *e.StateKey}] = e.Pos
	}
	return r.pick(q, state, want)
}

func (r *Rooms) pick(q store.Querier, state map[StateKey]int64, want func(StateKey) bool) ([]*Event, error) {
	at := make([]int64, 0, len(state))
	for k, pos := range state {
		if want == nil || want(k) {
			at = append(at, pos)
		}
	}
	return r.EventsAt(q, at)
}

// StateChanges gives, for each piece of state that changed in (from, to], its
// last event of that range.
func (r *Rooms) StateChanges(q store.Querier, roomID string, from, to int64) ([]*Event, error) {
	if events, more, ok := r.tails.last(roomID, from, to, 2*maxTail+1); ok && !more {
		return lastStates(events), nil
	}
	nid, err := r.nid(q, roomID)
	if err != nil {
		return nil, err
	}
	return r.eventsOf(q, `SELECT max(pos) FROM events WHERE room = $1 AND state_key IS NOT NULL AND pos > $2 AND pos <= $3
		GROUP BY type, state_key ORDER BY 1`, nid, from, to)
}

// lastStates keeps, of events in their order, the last one for each piece of state.
func lastStates(events []*Event) (list []*Event) {
	var seen map[StateKey]bool
	for _, e := range slices.Backward(events) {
		if e.StateKey == nil {
			continue
		}
		k := StateKey{e.Type, *e.StateKey}
		if seen[k] {
			continue
		}
		if seen == nil {
			seen = map[StateKey]bool{}
		}
		seen[k] = true
		list = append(list, e)
	}
	slices.Reverse(list)
	return list
}

// StateHistory gives all events that ever set one piece of state, oldest first.
func (r *Rooms) StateHistory(q store.Querier, roomID, typ, key string) ([]*Event, error) {
	nid, err := r.nid(q, roomID)
	if err != nil {
		return nil, err
	}
	return r.eventsOf(q, `SELECT pos FROM events WHERE room = $1 AND type = $2 AND state_key = $3 ORDER BY pos`, nid, typ, key)
}

// Change is a membership change: what it became, and where.
type Change struct {
	Pos        int64
	Membership string
}

// MembershipHistory gives a user's memberships of a room, oldest first.
func (r *Rooms) MembershipHistory(q store.Querier, roomID, userID string) ([]Change, error) {
	list, err := r.StateHistory(q, roomID, "m.room.member", userID)
	if err != nil {
		return nil, err
	}
	out := make([]Change, len(list))
	for i, e := range list {
		out[i] = Change{e.Pos, e.Membership()}
	}
	return out, nil
}

// TouchedRooms picks those of the rooms that have an event in (from, to].
func (r *Rooms) TouchedRooms(q store.Querier, roomIDs []string, from, to int64) ([]string, error) {
	var out []string
	for _, id := range roomIDs {
		nid, err := r.nid(q, id)
		if err != nil {
			return nil, err
		}
		var one int
		err = q.QueryRow(`SELECT 1 FROM events WHERE room = $1 AND pos > $2 AND pos <= $3 LIMIT 1`, nid, from, to).Scan(&one)
		if err == nil {
			out = append(out, id)
		} else if err != store.ErrNotFound {
			return nil, err
		}
	}
	return out, nil
}

// Relation selects events that relate to an event.
type Relation struct {
	EventID, RelType, Type string // RelType and Type: "" for any
	After, UpTo            int64  // positions: (After, UpTo]
	Limit                  int
	OldestFirst            bool
}

// Relations lists events that relate to one, and are not redacted.
func (r *Rooms) Relations(q store.Querier, s Relation) ([]*Event, error) {
	var b strings.Builder
	b.WriteString(`SELECT ` + eventColumns + fromEvents + `WHERE e.relates_to = $1 AND e.pos > $2 AND e.pos <= $3`)
	args := []any{s.EventID, s.After, s.UpTo, s.Limit}
	if s.RelType != "" {
		b.WriteString(` AND e.rel_type = $5`)
		args = append(args, s.RelType)
		if s.Type != "" {
			b.WriteString(` AND e.type = $6`)
			args = append(args, s.Type)
		}
	}
	if s.OldestFirst {
		b.WriteString(` ORDER BY e.pos LIMIT $4`)
	} else {
		b.WriteString(` ORDER BY e.pos DESC LIMIT $4`)
	}
	return r.loadRange(q, b.String(), args...)
}

// annotations lists what a user has annotated an event with, by events of a type.
func (r *Rooms) annotations(q store.Querier, eventID, typ, sender string) ([]*Event, error) {
	return r.loadRange(q, `SELECT `+eventColumns+fromEvents+`WHERE e.relates_to = $1 AND e.rel_type = 'm.annotation' AND e.type = $2 AND e.sender = $3`,
		eventID, typ, sender)
}

// Thread is what is known of a thread.
type Thread struct {
	Count        int
	Latest       int64 // position
	Participated bool  // whether the user wrote in it
}

// ThreadOf sums up the thread under an event as of a position. Count is 0 where
// there is none. What other rooms relate to the event is no part of it.
func (r *Rooms) ThreadOf(q store.Querier, rootID, userID string, upTo int64) (Thread, error) {
	var t Thread
	var latest sql.NullInt64
	err := q.QueryRow(`SELECT count(*), max(pos), coalesce(max(sender = $2), 0) FROM events
		WHERE relates_to = $1 AND rel_type = 'm.thread' AND pos <= $3 AND room = (SELECT room FROM events WHERE event_id = $1)`,
		rootID, userID, upTo).Scan(&t.Count, &latest, &t.Participated)
	t.Latest = latest.Int64
	return t, err
}

// Threads lists the roots of a room's threads whose latest event is before
// position before, the last active first, with the position of that event.
// With mine only those in which userID wrote.
func (r *Rooms) Threads(q store.Querier, roomID, userID string, mine bool, before int64, limit int) (roots []string, at []int64, err error) {
	nid, err := r.nid(q, roomID)
	if err != nil {
		return nil, nil, err
	}
	having := ``
	if mine {
		having = ` AND (max(x.sender = $4) OR (SELECT sender FROM events WHERE event_id = x.relates_to) = $4)`
	} else {
		having = ` AND $4 = $4`
	}
	rows, err := q.Query(`SELECT x.relates_to, max(x.pos) FROM events x WHERE x.relates_to IS NOT NULL AND x.rel_type = 'm.thread' AND x.room = $1
		GROUP BY x.relates_to HAVING max(x.pos) < $2`+having+` ORDER BY 2 DESC LIMIT $3`, nid, before, limit, userID)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		var pos int64
		if err := rows.Scan(&id, &pos); err != nil {
			return nil, nil, err
		}
		roots, at = append(roots, id), append(at, pos)
	}
	return roots, at, rows.Err()
}

// Nearest gives events of a room from a time (ms) on, the nearest first: those at or
// after it when forward, and after position beyond; else at or before it, and before
// position beyond. It goes by positions, as the room's history does.
func (r *Rooms) Nearest(q store.Querier, roomID string, ts int64, forward bool, beyond int64, limit int) ([]*Event, error) {
	nid, err := r.nid(q, roomID)
	if err != nil {
		return nil, err
	}
	query := `SELECT ` + eventColumns + fromEvents + `WHERE e.room = $1 AND e.ts <= $2 AND e.pos < $3 ORDER BY e.pos DESC LIMIT $4`
	if forward {
		query = `SELECT ` + eventColumns + fromEvents + `WHERE e.room = $1 AND e.ts >= $2 AND e.pos > $3 ORDER BY e.pos LIMIT $4`
	}
	return r.loadRange(q, query, nid, ts, beyond, limit)
}

func storeForgotten(tx *store.Tx, nid int64, userID string) error {
	_, err := tx.Exec(`UPDATE room_members SET forgotten = 1 WHERE user_id = $1 AND room = $2`, userID, nid)
	return err
}

// After lists the events of all rooms after a position, oldest first.
func (r *Rooms) After(q store.Querier, pos int64, limit int) ([]*Event, error) {
	return r.loadRange(q, `SELECT `+eventColumns+fromEvents+`WHERE e.pos > $1 ORDER BY e.pos LIMIT $2`, pos, limit)
}

// OfTypes lists events of types in all rooms in (after, upTo], the oldest first, or
// the newest with newestFirst.
func (r *Rooms) OfTypes(q store.Querier, after, upTo int64, limit int, newestFirst bool, types ...string) ([]*Event, error) {
	order := ``
	if newestFirst {
		order = ` DESC`
	}
	return r.loadRange(q, `SELECT `+eventColumns+fromEvents+`WHERE e.pos > $1 AND e.pos <= $2 AND e.type IN `+store.In(4, len(types))+
		` ORDER BY e.pos`+order+` LIMIT $3`, store.Args([]any{after, upTo, limit}, types)...)
}

// Heroes are the members, joined or invited, that a client names a room by: the
// first ones, but not except; where there are none, those who left.
func (r *Rooms) Heroes(q store.Querier, roomID, except string, limit int) ([]string, error) {
	nid, err := r.nid(q, roomID)
	if err != nil {
		return nil, err
	}
	for _, kinds := range []string{`('join', 'invite')`, `('leave', 'ban')`} {
		list, err := strs(q.Query(`SELECT user_id FROM room_members WHERE room = $1 AND membership IN `+kinds+` AND user_id <> $2 ORDER BY event LIMIT $3`, nid, except, limit))
		if err != nil || len(list) > 0 {
			return list, err
		}
	}
	return nil, nil
}

// Stripped is the state that an invited or knocking user may see: what the room
// is, and their own membership. Spec: cs#stripped-state
func (r *Rooms) Stripped(q store.Querier, roomID, userID string) ([]*Event, error) {
	nid, err := r.nid(q, roomID)
	if err != nil {
		return nil, err
	}
	list, err := r.eventsOf(q, `SELECT event FROM room_state WHERE room = $1 AND state_key = '' AND type IN
		('m.room.create', 'm.room.join_rules', 'm.room.canonical_alias', 'm.room.avatar', 'm.room.name', 'm.room.encryption', 'm.room.topic')
		ORDER BY event`, nid)
	if err != nil {
		return nil, err
	}
	own, err := r.State(q, roomID, "m.room.member", userID)
	if err == store.ErrNotFound {
		return list, nil
	}
	if err != nil {
		return nil, err
	}
	if own.Sender != userID { // who invites can be named
		by, err := r.State(q, roomID, "m.room.member", own.Sender)
		if err == nil {
			list = append(list, by)
		} else if err != store.ErrNotFound {
			return nil, err
		}
	}
	return append(list, own), nil
}

// strippedTypes are what a room tells of itself to those who are invited or knock.
var strippedTypes = []string{mx.RoomCreate, mx.RoomJoinRules, mx.RoomCanonicalAlias, mx.RoomAvatar, mx.RoomName, mx.RoomEncryption, mx.RoomTopic}

// StrippedAt is what Stripped was right after the invitation or knock e.
func (r *Rooms) StrippedAt(q store.Querier, e *Event) ([]*Event, error) {
	list, err := r.StateBefore(q, e, func(k StateKey) bool {
		return k.Key == "" && slices.Contains(strippedTypes, k.Type) || k.Type == mx.RoomMember && k.Key == e.Sender && e.Sender != *e.StateKey
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b *Event) int { return cmp.Compare(a.Pos, b.Pos) })
	return append(list, e), nil
}

// Totals are how many rooms and events there are, for the console.
func (r *Rooms) Totals(q store.Querier) (rooms, events int64, err error) {
	if err = q.QueryRow(`SELECT count(*) FROM rooms`).Scan(&rooms); err != nil {
		return 0, 0, err
	}
	err = q.QueryRow(`SELECT count(*) FROM events`).Scan(&events)
	return rooms, events, err
}

const (
	selectHolding      = `SELECT json FROM events WHERE room = $1 AND instr(json, $2) > 0 ORDER BY pos`
	selectStateHolding = `SELECT e.json FROM room_state s JOIN events e ON e.pos = s.event WHERE instr(e.json, $1) > 0`
)

// EventsHolding gives f the events of a room in whose JSON a text stands, in order.
// f must not keep them.
func (r *Rooms) EventsHolding(q store.Querier, roomID, text string, f func(event json.RawMessage)) error {
	nid, err := r.nid(q, roomID)
	if err != nil {
		return err
	}
	return eachJSON(f)(q.Query(selectHolding, nid, []byte(text)))
}

// StateHolding gives f the current state events of all rooms in whose JSON a text
// stands. f must not keep them.
func (r *Rooms) StateHolding(q store.Querier, text string, f func(event json.RawMessage)) error {
	return eachJSON(f)(q.Query(selectStateHolding, []byte(text)))
}

func eachJSON(f func(json.RawMessage)) func(*sql.Rows, error) error {
	return func(rows *sql.Rows, err error) error {
		if err != nil {
			return err
		}
		defer rows.Close()
		var raw sql.RawBytes
		for rows.Next() {
			if err := rows.Scan(&raw); err != nil {
				return err
			}
			f(json.RawMessage(raw))
		}
		return rows.Err()
	}
}

// memberEvents are the member events of all rooms, by an index.
const memberEvents = ` FROM rooms r JOIN events e ON e.room = r.nid AND e.type = 'm.room.member' AND e.state_key IS NOT NULL
	WHERE e.ts >= $2 AND json_extract(CAST(e.json AS TEXT), '$.content.membership') = `

// InvitesSent counts the invitations that a user has sent since a time (ms).
func (r *Rooms) InvitesSent(q store.Querier, userID string, since int64) (n int, err error) {
	return n, q.QueryRow(`SELECT count(*)`+memberEvents+`'invite' AND e.sender = $1`, userID, since).Scan(&n)
}

// JoinsMade counts the rooms that a user has joined since a time (ms), also those
// that the user is not in any more.
func (r *Rooms) JoinsMade(q store.Querier, userID string, since int64) (n int, err error) {
	return n, q.QueryRow(`SELECT count(DISTINCT e.room)`+memberEvents+`'join' AND e.state_key = $1`, userID, since).Scan(&n)
}
