package rooms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"holdfast/homeserver/eventauth"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/pdu"
	"holdfast/store"
)

// batch is a run of events that are built on each other and written together.
type batch struct {
	r   *Rooms
	ctx context.Context
	h   *hotRoom
	seq int64

	events []*built
	also   []func(tx *store.Tx, nid int64) error // further changes of the same write
	undo   []func()
	head   string // to return to
	depth  int64
	last   *pdu.Event
}

type built struct {
	*Event
	entry *entry // of a state event
	old   *entry // that it takes the place of, or nil
}

// change builds in a room and writes what was built. build may be called again,
// when what it built on did not reach the disk.
func (r *Rooms) change(ctx context.Context, roomID string, build func(b *batch) error) error {
	for try := 0; ; try++ {
		// After some bad luck, nobody else gets in between.
		alone := try >= 3
		h, err := r.lock(ctx, roomID, alone)
		if err != nil {
			return err
		}
		if err = r.run(ctx, h, alone, build); err == nil || !errors.Is(err, errStale) || try == 9 {
			return err
		}
	}
}

// run builds under the room's lock, which it gives back, and waits for the disk;
// alone: before it gives the lock back.
func (r *Rooms) run(ctx context.Context, h *hotRoom, alone bool, build func(b *batch) error) error {
	b := &batch{r: r, ctx: ctx, h: h, head: h.head, depth: h.depth, last: h.last}
	p, err := func() (*store.Pending, error) {
		defer h.mu.Unlock()
		if err := build(b); err != nil {
			b.revert()
			return nil, err
		}
		if len(b.events) == 0 && len(b.also) == 0 {
			return nil, nil
		}
		b.seq = h.seq + 1
		h.pending.Add(1)
		p, err := r.db.Queue(ctx, b.write)
		if err != nil {
			h.pending.Done()
			b.revert()
			return nil, err
		}
		h.seq++
		if alone {
			return nil, p.Wait()
		}
		return p, nil
	}()
	if err != nil || p == nil {
		return err
	}
	err = p.Wait()
	r.hot.shrink(h)
	return err
}

func (b *batch) revert() {
	for i := len(b.undo) - 1; i >= 0; i-- {
		b.undo[i]()
	}
	b.h.head, b.h.depth, b.h.last = b.head, b.depth, b.last
}

// get is the room's state event, or nil.
func (b *batch) get(typ, key string) (*pdu.Event, error) {
	return b.r.event(b.ctx, b.h, b.h.state[StateKey{typ, key}])
}

// membership is a user's membership, or "".
func (b *batch) membership(userID string) string {
	if e := b.h.state[StateKey{mx.RoomMember, userID}]; e != nil {
		return e.membership
	}
	return ""
}

// lookup adapts the state for eventauth. An error of reading is kept in err.
func (b *batch) lookup(err *error) eventauth.StateLookup {
	return func(typ, key string) *pdu.Event {
		e, fail := b.get(typ, key)
		if fail != nil && *err == nil {
			*err = fail
		}
		return e
	}
}

// maxDepth is the largest integer of canonical JSON.
const maxDepth = 1<<53 - 1

// add builds an event on those before it and checks it.
func (b *batch) add(n NewEvent) (*Event, error) {
	h := b.h
	proto := pdu.Proto{
		RoomID: h.id, Type: n.Type, Sender: n.Sender, StateKey: n.StateKey, Content: n.Content,
		OriginServerTS: n.Timestamp, Depth: min(h.depth+1, maxDepth), Redacts: n.Redacts, PrevEvents: []string{}, AuthEvents: []string{},
	}
	if proto.OriginServerTS == 0 {
		proto.OriginServerTS = b.r.o.Now().UnixMilli()
	}
	if h.head != "" {
		proto.PrevEvents = []string{h.head}
	}
	for _, k := range eventauth.AuthTypes(h.version, n.Type, n.Sender, n.StateKey, n.Content) {
		if n.asOf != nil {
			if e := n.asOf[StateKey{k.Type, k.StateKey}]; e != nil {
				proto.AuthEvents = append(proto.AuthEvents, e.ID)
			}
		} else if e := h.state[StateKey{k.Type, k.StateKey}]; e != nil {
			proto.AuthEvents = append(proto.AuthEvents, e.id)
		}
	}
	if h.version.EventIDInPDU() {
		if err := b.oldStyle(&proto); err != nil {
			return nil, err
		}
	}
	p, err := pdu.Build(h.version, proto, b.r.key)
	if err != nil {
		return nil, err
	}
	var readErr error
	switch {
	case n.unchecked:
	case n.asOf != nil:
		err = eventauth.Check(h.version, p, func(typ, key string) *pdu.Event {
			if e := n.asOf[StateKey{typ, key}]; e != nil {
				return e.Event
			}
			return nil
		})
	default:
		err = eventauth.Check(h.version, p, b.lookup(&readErr))
	}
	if readErr != nil {
		return nil, readErr
	}
	if err != nil {
		return nil, refused(err)
	}
	e := &Event{Event: p}
	if n.TxnID != "" {
		e.Device, e.Txn = n.DeviceID, n.TxnID
	}
	if len(n.Unsigned) > 0 {
		if e.Extra, err = json.Marshal(n.Unsigned); err != nil {
			return nil, err
		}
	}
	made := &built{Event: e}
	if p.StateKey != nil {
		b.set(made, StateKey{p.Type, *p.StateKey})
	}
	if h.id == "" { // the create event of a version 12 room names it
		h.id = p.RoomID
	}
	h.head, h.depth = p.ID, p.Depth
	if h.version.EventIDInPDU() {
		h.last = p
	}
	b.events = append(b.events, made)
	return e, nil
}

// oldStyle gives an event of room versions 1 and 2 its ID, and the hashes of the
// events that it names.
func (b *batch) oldStyle(p *pdu.Proto) error {
	p.EventID = "$" + randomID() + ":" + b.r.o.ServerName
	p.Hashes = map[string]string{}
	for _, id := range slices.Concat(p.PrevEvents, p.AuthEvents) {
		if p.Hashes[id] != "" {
			continue
		}
		var named *pdu.Event
		for _, e := range b.events {
			if e.ID == id {
				named = e.Event.Event
			}
		}
		if named == nil {
			for _, e := range b.h.state {
				if e.id == id {
					named = e.ev
				}
			}
		}
		if named == nil && id == b.h.head {
			named = b.h.last
		}
		if named == nil {
			err := b.r.db.Read(b.ctx, func(q store.Querier) error {
				e, err := b.r.EventByID(q, id)
				if err == nil {
					named = e.Event
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		h, err := pdu.ReferenceHash(b.h.version, named.JSON())
		if err != nil {
			return err
		}
		p.Hashes[id] = pdu.Base64(h[:])
	}
	return nil
}

// set puts a new state event into the state.
func (b *batch) set(made *built, k StateKey) {
	h := b.h
	made.entry = &entry{id: made.ID, ev: made.Event.Event, membership: intern(made.Membership())}
	made.old = h.state[k]
	old, bytes := made.old, made.entry.size()
	if old != nil {
		bytes -= old.size()
	}
	h.state[k] = made.entry
	h.grow(&b.r.hot, bytes)
	b.undo = append(b.undo, func() {
		h.grow(&b.r.hot, -bytes)
		if old == nil {
			delete(h.state, k)
		} else {
			h.state[k] = old
		}
	})
}

// refused turns a refusal of the authorisation rules into what the client gets.
func refused(err error) error {
	var e *eventauth.Error
	if !errors.As(err, &e) {
		return err
	}
	code := mx.Forbidden
	if e.Malformed {
		code = mx.BadJSON
	}
	return &mx.Error{Code: code, Msg: e.Msg, Err: err}
}

// write runs in the store's writer.
func (b *batch) write(tx *store.Tx) error {
	h := b.h
	before := h.w
	tx.OnRollback(func() {
		h.w = before
		h.broken.Store(true)
		h.pending.Done()
	})
	tx.AfterCommit(func() { b.committed() })
	if h.broken.Load() || h.w.seq+1 != b.seq {
		return errStale
	}
	h.w.seq = b.seq
	// A room that is new gets its row from the first of these.
	for _, f := range b.also {
		if err := f(tx, h.w.nid); err != nil {
			return err
		}
	}
	for _, e := range b.events {
		if err := b.writeEvent(tx, e); err != nil {
			return err
		}
	}
	if len(b.events) > 0 {
		tx.Touch(notify.Room, h.id)
	}
	return nil
}

func (b *batch) writeEvent(tx *store.Tx, e *built) error {
	h, r := b.h, b.r
	e.Pos, e.StateGroup = tx.NextPos(), h.w.group
	if e.old != nil {
		e.Replaces = e.old.pos
	}
	if err := storeEvent(tx, h.w.nid, e.Event); err != nil {
		if e.Txn != "" && store.IsConflict(err) {
			return errRepeated
		}
		return err
	}
	if e.StateKey != nil {
		e.entry.pos = e.Pos
		if err := storeState(tx, h.w.nid, e.Event); err != nil {
			return err
		}
		if e.old == nil {
			h.w.size++
		}
		chain := h.w.chain + 1
		if h.w.group == 0 || chain >= max(minChain, h.w.size) {
			chain = 0
		}
		if err := storeGroup(tx, h.w.nid, e.Event, h.w.group, chain); err != nil {
			return err
		}
		h.w.group, h.w.chain = e.Pos, chain
		if e.Type == mx.RoomMember {
			if err := storeMember(tx, h.w.nid, e.Event, e.entry.membership); err != nil {
				return err
			}
			tx.Touch(notify.Member, *e.StateKey)
		}
	}
	if e.Redacts != "" && e.Type == mx.RoomRedaction {
		if err := r.redactStored(tx, h, e.Event); err != nil {
			return err
		}
	}
	for _, f := range r.hooks {
		if err := f(tx, e.Event); err != nil {
			return err
		}
	}
	return nil
}

// redactStored leaves of an event what redaction leaves. The original is gone
// with this write.
func (r *Rooms) redactStored(tx *store.Tx, h *hotRoom, by *Event) error {
	target, err := loadEventByID(tx, by.Redacts)
	if errors.Is(err, store.ErrNotFound) || err == nil && (target.RoomID != by.RoomID || target.RedactedBy != "") {
		return nil
	}
	if err != nil {
		return err
	}
	raw, err := pdu.Redact(h.version, target.JSON())
	if err != nil {
		return err
	}
	p, err := pdu.Parse(h.version, target.ID, raw)
	if err != nil {
		return err
	}
	if err := storeRedacted(tx, target.Pos, raw, by.ID); err != nil {
		return err
	}
	left := &Event{Event: p, Pos: target.Pos, StateGroup: target.StateGroup, Replaces: target.Replaces,
		Device: target.Device, Txn: target.Txn, RedactedBy: by.ID, Extra: target.Extra}
	left.related.Store(target.Related())
	tx.AfterCommit(func() {
		r.cache.put(left, true)
		r.tails.replace(h.id, left)
	})
	return nil
}

// committed runs in the writer once the batch is on disk.
func (b *batch) committed() {
	r := b.r
	if len(b.events) > 0 {
		list := make([]*Event, len(b.events))
		for i, e := range b.events {
			list[i] = e.Event
			r.cache.put(e.Event, true)
			if _, to := e.Relation(); to != "" {
				if target := r.cache.getID(to); target != nil {
					target.related.Store(true)
				}
			}
		}
		r.tails.append(b.h.id, list)
	}
	b.h.pending.Done()
}

// errRepeated means that the device's transaction ID was used before.
var errRepeated = errors.New("rooms: the transaction ID was used before")

// Send checks, signs and stores an event, and returns its ID. State that is
// there already in the same words is not sent again: the old event's ID is returned.
// Errors: *mx.Error Forbidden, NotFound, TooLarge, BadJSON.
func (r *Rooms) Send(ctx context.Context, n NewEvent) (eventID string, err error) {
	if n.Type == mx.RoomMember && n.StateKey != nil && *n.StateKey == n.Sender && r.o.MayShow != nil && pdu.FieldString(n.Content, "membership") == mx.Join {
		if err := r.o.MayShow(ctx, n.Sender, n.Content); err != nil {
			return "", err
		}
	}
	if n.TxnID == "" || n.DeviceID == "" {
		n.TxnID = ""
		return r.send(ctx, n)
	}
	k := txnKey{n.Sender, n.DeviceID, n.TxnID, n.RoomID, n.Type}
	t, mine := r.txns.begin(k)
	if !mine {
		select {
		case <-t.done:
			return t.id, t.err
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	eventID, err = r.send(ctx, n)
	if errors.Is(err, errRepeated) {
		err = r.db.Read(ctx, func(q store.Querier) error {
			nid, err := r.nid(q, n.RoomID)
			if err == nil {
				eventID, err = loadTxn(q, nid, k)
			}
			return err
		})
	}
	r.txns.end(k, t, eventID, err)
	return eventID, err
}

func (r *Rooms) send(ctx context.Context, n NewEvent) (eventID string, err error) {
	if n.Type == "" {
		return "", mx.Errorf(mx.InvalidParam, "The event needs a type.")
	}
	if n.Type == mx.RoomCreate {
		return "", mx.Errorf(mx.Forbidden, "A room is created once.")
	}
	if n.StateKey == nil {
		if id, err := r.checkRelation(ctx, n); id != "" || err != nil {
			return id, err
		}
	}
	err = r.change(ctx, n.RoomID, func(b *batch) error {
		if n.StateKey != nil {
			old, err := b.get(n.Type, *n.StateKey)
			if err != nil {
				return err
			}
			if old != nil && old.Sender == n.Sender {
				c, err := pdu.Canonical(n.Content)
				if err != nil {
					return err
				}
				if bytes.Equal(c, old.Content) && b.membership(n.Sender) == mx.Join {
					eventID = old.ID
					return nil
				}
			}
			if err := b.checkState(&n); err != nil {
				return err
			}
		}
		if n.Type == mx.RoomRedaction && n.Redacts == "" {
			n.Redacts = pdu.FieldString(n.Content, "redacts")
		}
		if n.Redacts != "" && n.Type == mx.RoomRedaction {
			if err := b.checkRedaction(n); err != nil {
				return err
			}
		}
		e, err := b.add(n)
		if err != nil {
			return err
		}
		eventID = e.ID
		return nil
	})
	return eventID, err
}

// checkRelation refuses a thread in a thread, and a reaction that its sender has
// sent before. The ID is that of the same request.
func (r *Rooms) checkRelation(ctx context.Context, n NewEvent) (eventID string, err error) {
	relates := pdu.Field(n.Content, "m.relates_to")
	switch pdu.FieldString(relates, "rel_type") {
	case mx.RelThread:
		return "", r.checkThread(ctx, n.RoomID, pdu.FieldString(relates, "event_id"))
	case mx.RelAnnotation:
		return r.annotated(ctx, n, relates)
	}
	return "", nil
}

// checkThread refuses a thread under an event that relates to another one. A plain
// reply may begin a thread. Spec: cs#validation-of-mthread-relationships
func (r *Rooms) checkThread(ctx context.Context, roomID, rootID string) error {
	return r.db.Read(ctx, func(q store.Querier) error {
		root, err := r.EventByID(q, rootID)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if rel, _ := root.Relation(); rel != "" && root.RoomID == roomID {
			return mx.Errorf(mx.Unknown, "A thread cannot begin at an event that relates to another one. Send it to the thread's root.")
		}
		return nil
	})
}

// annotated refuses a reaction that its sender has sent before.
// Spec: cs#server-behaviour-24 (avoiding duplicate annotations)
func (r *Rooms) annotated(ctx context.Context, n NewEvent, relates []byte) (eventID string, err error) {
	key := pdu.FieldString(relates, "key")
	err = r.db.Read(ctx, func(q store.Querier) error {
		had, err := r.annotations(q, pdu.FieldString(relates, "event_id"), n.Type, n.Sender)
		for _, e := range had {
			switch {
			case e.RoomID != n.RoomID || pdu.FieldString(pdu.Field(e.Content, "m.relates_to"), "key") != key:
			case n.TxnID != "" && e.Txn == n.TxnID && e.Device == n.DeviceID:
				eventID = e.ID
			default:
				return mx.Errorf(mx.DuplicateAnnotation, "You have reacted like this already.")
			}
		}
		return err
	})
	return eventID, err
}

// checkState applies what the server asks of state beyond the rooms' rules.
func (b *batch) checkState(n *NewEvent) error {
	switch n.Type {
	case mx.RoomMember:
		c, err := b.authoriseJoin(*n.StateKey, n.Content)
		if err != nil {
			return err
		}
		n.Content = c
		if pdu.FieldString(c, "membership") == mx.Invite && b.membership(*n.StateKey) != mx.Invite {
			return b.mayInvite(n.Sender, *n.StateKey)
		}
		if *n.StateKey == n.Sender && pdu.FieldString(c, "membership") == mx.Leave {
			return b.mustStay(n.Sender)
		}
	case mx.RoomCanonicalAlias:
		return b.checkAliases(n.Content)
	}
	return nil
}

// checkRedaction lets people take back what they sent, and those with the power
// what others sent. Spec: cs#put_matrixclientv3roomsroomidredacteventidtxnid
func (b *batch) checkRedaction(n NewEvent) error {
	var target *Event
	err := b.r.db.Read(b.ctx, func(q store.Querier) (err error) {
		target, err = b.r.EventByID(q, n.Redacts)
		return err
	})
	if errors.Is(err, store.ErrNotFound) || err == nil && target.RoomID != n.RoomID {
		return mx.Errorf(mx.NotFound, "The room has no event with this ID.")
	}
	if err != nil {
		return err
	}
	if target.Type == mx.RoomCreate {
		return mx.Errorf(mx.Forbidden, "The create event cannot be redacted.")
	}
	if target.Sender != n.Sender {
		var readErr error
		pl := eventauth.LevelsOf(b.h.version, b.lookup(&readErr))
		if readErr != nil {
			return readErr
		}
		if pl.User(n.Sender) < pl.Redact {
			return mx.Errorf(mx.Forbidden, "You may not redact what others sent in this room.")
		}
	}
	// The state in memory must not keep what the event said.
	if target.StateKey != nil {
		k := StateKey{target.Type, *target.StateKey}
		if old := b.h.state[k]; old != nil && old.id == target.ID {
			raw, err := pdu.Redact(b.h.version, target.JSON())
			if err != nil {
				return err
			}
			p, err := pdu.Parse(b.h.version, target.ID, raw)
			if err != nil {
				return err
			}
			b.h.state[k] = &entry{id: old.id, membership: old.membership, ev: p, pos: target.Pos}
			b.undo = append(b.undo, func() { b.h.state[k] = old })
		}
	}
	return nil
}
