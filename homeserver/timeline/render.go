package timeline

import (
	"encoding/json"
	"errors"
	"strconv"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/rooms"
	"holdfast/store"
)

// Reader says who reads events, and how they are written out.
type Reader struct {
	UserID, DeviceID string
	To               int64 // position as of which relations are summed up
	Now              int64 // ms, for age
	OmitRoomID       bool  // in /sync
	// View is what the reader may see of the room. nil: everything, and no
	// membership is told.
	View *View
	// Bare has the event itself written in redacted form.
	Bare bool
	// Stripped adds to an invitation or a knock what the room was then, for a reader
	// who is told of it nowhere else.
	Stripped bool
}

// sees reports whether the reader may see an event.
func (r *Reader) sees(e *rooms.Event) bool { return r.View == nil || r.View.Sees(e) }

// Append writes an event in the client format, with all that belongs into its
// unsigned: the transaction ID to the device that sent it, what it replaced, what
// redacted it, and what relates to it.
func (t *Timeline) Append(dst []byte, q store.Querier, e *rooms.Event, r Reader) ([]byte, error) {
	return t.append(dst, q, e, r, true)
}

// AppendRaw writes an event in the federation format: the signed event as other
// servers get it.
func (t *Timeline) AppendRaw(dst []byte, q store.Querier, e *rooms.Event, r Reader) ([]byte, error) {
	hidden, err := t.hides(q, e, r.UserID)
	if err != nil {
		return nil, err
	}
	raw := e.JSON()
	if hidden || r.Bare {
		if raw, err = pdu.Redact(e.Version, raw); err != nil {
			return nil, err
		}
	}
	return append(dst, raw...), nil
}

func (t *Timeline) append(dst []byte, q store.Querier, e *rooms.Event, r Reader, threads bool) ([]byte, error) {
	o := pdu.ClientOptions{OmitRoomID: r.OmitRoomID, Now: r.Now}
	if e.Sender == r.UserID && r.UserID != "" {
		if e.Txn != "" && e.Device == r.DeviceID {
			o.TransactionID = e.Txn
		}
		o.Extra = e.Extra
	}
	if r.View != nil {
		o.Membership = r.View.Membership(e.Pos)
	}
	if e.Replaces > 0 {
		old, err := t.o.Rooms.EventAt(q, e.Replaces)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		// Who was joined had the old content as the state of the room.
		if err == nil && (r.sees(old) || r.View.Membership(e.Pos-1) == mx.Join) {
			o.PrevContent, o.PrevSender, o.ReplacesState = old.Content, old.Sender, old.ID
			hidden, err := t.hides(q, old, r.UserID)
			if err != nil {
				return nil, err
			}
			if hidden {
				o.PrevContent = bare(old).Content
			}
		}
	}
	if e.RedactedBy != "" {
		by, err := t.o.Rooms.EventByID(q, e.RedactedBy)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if err == nil {
			shown, err := t.shown(q, by, r)
			if err != nil {
				return nil, err
			}
			o.RedactedBecause = shown.AppendClient(nil, pdu.ClientOptions{Now: r.Now})
			o.PrevContent = nil
		}
	}
	if r.Stripped {
		if err := t.addStripped(q, e, &o); err != nil {
			return nil, err
		}
	}
	if e.Related() {
		rel, err := t.bundle(q, e, r, threads)
		if err != nil {
			return nil, err
		}
		o.Relations = rel
	}
	shown, err := t.shown(q, e, r)
	if err != nil {
		return nil, err
	}
	return shown.AppendClient(dst, o), nil
}

// shown is an event as the reader may have it.
func (t *Timeline) shown(q store.Querier, e *rooms.Event, r Reader) (*pdu.Event, error) {
	if r.Bare {
		return bare(e), nil
	}
	hidden, err := t.hides(q, e, r.UserID)
	if hidden {
		return bare(e), err
	}
	return e.Event, err
}

// Plain is an event as an application service gets it. With an invitation or a knock
// comes the room's stripped state, since it gets nothing else of the room.
func (t *Timeline) Plain(q store.Querier, e *rooms.Event) (mx.Raw, error) {
	return t.Append(nil, q, e, Reader{To: e.Pos, Now: t.now(), Stripped: true})
}

// addStripped adds the room's stripped state to an invitation or a knock, as of then.
func (t *Timeline) addStripped(q store.Querier, e *rooms.Event, o *pdu.ClientOptions) error {
	if e.Type != mx.RoomMember || e.StateKey == nil {
		return nil
	}
	to := &o.InviteState
	switch e.Membership() {
	case mx.Invite:
	case mx.Knock:
		to = &o.KnockState
	default:
		return nil
	}
	list, err := t.o.Rooms.StrippedAt(q, e)
	if err != nil {
		return err
	}
	out := []byte{'['}
	for i, s := range list {
		if i > 0 {
			out = append(out, ',')
		}
		out = s.AppendStripped(out)
	}
	*to = append(out, ']')
	return nil
}

// maxReferences is how many references an event's aggregation names.
const maxReferences = 50

// bundle sums up what relates to an event, as far as the reader may see it: the last
// valid edit, the thread under it, the events that refer to it.
// Spec: cs#aggregations-of-child-events
func (t *Timeline) bundle(q store.Querier, e *rooms.Event, r Reader, threads bool) ([]byte, error) {
	ignored, err := t.ignored(q, r.UserID)
	if err != nil {
		return nil, err
	}
	out := []byte{'{'}
	key := func(k string) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, '"'), k...), `":`...)
	}
	noEdit := r.Bare
	r.Bare = false
	edit, err := t.lastEdit(q, e, r)
	if err != nil {
		return nil, err
	}
	if edit != nil && !noEdit {
		key(mx.RelReplace)
		if out, err = t.append(out, q, edit, r, false); err != nil {
			return nil, err
		}
	}
	if threads {
		th, latest, err := t.thread(q, e, r, ignored)
		if err != nil {
			return nil, err
		}
		if latest != nil {
			key(mx.RelThread)
			out = append(out, `{"count":`...)
			out = strconv.AppendInt(out, int64(th.Count), 10)
			out = append(out, `,"current_user_participated":`...)
			out = strconv.AppendBool(out, th.Participated || e.Sender == r.UserID)
			out = append(out, `,"latest_event":`...)
			inner := r
			inner.OmitRoomID = false
			if out, err = t.append(out, q, latest, inner, false); err != nil {
				return nil, err
			}
			out = append(out, '}')
		}
	}
	refs, err := t.o.Rooms.Relations(q, rooms.Relation{EventID: e.ID, RelType: mx.RelReference, UpTo: r.To, Limit: maxReferences, OldestFirst: true})
	if err != nil {
		return nil, err
	}
	if len(refs) > 0 {
		type ref struct {
			EventID string `json:"event_id"`
		}
		list := []ref{}
		for _, x := range refs {
			if x.RoomID == e.RoomID && !ignored[x.Sender] && r.sees(x) {
				list = append(list, ref{x.ID})
			}
		}
		if len(list) > 0 {
			raw, err := json.Marshal(map[string]any{"chunk": list})
			if err != nil {
				return nil, err
			}
			key(mx.RelReference)
			out = append(out, raw...)
		}
	}
	if len(out) == 1 {
		return nil, nil
	}
	return append(out, '}'), nil
}

// maxThread is how many events of a thread are counted one by one, where it takes
// that: for a reader who may not see them all, or ignores somebody in it.
const maxThread = 5000

// thread sums up the thread under an event, and gives the last event in it; both
// without what the reader may not see or ignores. latest is nil for no thread.
// Spec: cs#server-side-aggregation-of-mthread-relationships
func (t *Timeline) thread(q store.Querier, e *rooms.Event, r Reader, ignored map[string]bool) (th rooms.Thread, latest *rooms.Event, err error) {
	th, err = t.o.Rooms.ThreadOf(q, e.ID, r.UserID, r.To)
	if err != nil || th.Count == 0 {
		return th, nil, err
	}
	if len(ignored) == 0 && (r.View == nil || r.View.SeesSince(e.Pos)) {
		latest, err = t.o.Rooms.EventAt(q, th.Latest)
		return th, latest, err
	}
	list, err := t.o.Rooms.Relations(q, rooms.Relation{EventID: e.ID, RelType: mx.RelThread, UpTo: r.To, Limit: maxThread})
	th.Count = 0
	for _, x := range list {
		if x.RoomID == e.RoomID && !ignored[x.Sender] && r.sees(x) {
			if th.Count++; latest == nil {
				latest = x
			}
		}
	}
	return th, latest, err
}

// lastEdit is the newest valid replacement of an event that the reader may see: same
// sender, same type, no state. It is nil for none, and of a redacted event.
// Spec: cs#validity-of-replacement-events
func (t *Timeline) lastEdit(q store.Querier, e *rooms.Event, r Reader) (*rooms.Event, error) {
	if rel, _ := e.Relation(); rel == mx.RelReplace || e.RedactedBy != "" || e.StateKey != nil {
		return nil, nil
	}
	list, err := t.o.Rooms.Relations(q, rooms.Relation{EventID: e.ID, RelType: mx.RelReplace, Type: e.Type, UpTo: r.To, Limit: 50})
	if err != nil {
		return nil, err
	}
	var best *rooms.Event
	for _, x := range list {
		if ValidEdit(e, x) && r.sees(x) && (best == nil || x.OriginServerTS > best.OriginServerTS || x.OriginServerTS == best.OriginServerTS && x.ID > best.ID) {
			best = x
		}
	}
	return best, nil
}

// ValidEdit reports whether edit, which relates to e by m.replace, is a valid
// replacement of it. Spec: cs#validity-of-replacement-events
func ValidEdit(e, edit *rooms.Event) bool {
	return edit.Sender == e.Sender && edit.Type == e.Type && edit.StateKey == nil && e.StateKey == nil && edit.RoomID == e.RoomID &&
		(e.Type == mx.RoomEncrypted || pdu.IsObject(pdu.Field(edit.Content, "m.new_content")))
}
