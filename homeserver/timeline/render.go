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
	// Membership gives the reader's membership at a position; nil: left out.
	Membership func(pos int64) string
}

// Append writes an event in the client format, with all that belongs into its
// unsigned: the transaction ID to the device that sent it, what it replaced, what
// redacted it, and what relates to it.
func (t *Timeline) Append(dst []byte, q store.Querier, e *rooms.Event, r Reader) ([]byte, error) {
	return t.append(dst, q, e, r, true)
}

func (t *Timeline) append(dst []byte, q store.Querier, e *rooms.Event, r Reader, threads bool) ([]byte, error) {
	o := pdu.ClientOptions{OmitRoomID: r.OmitRoomID, Now: r.Now}
	if e.Sender == r.UserID && r.UserID != "" {
		if e.Txn != "" && e.Device == r.DeviceID {
			o.TransactionID = e.Txn
		}
		o.Extra = e.Extra
	}
	if r.Membership != nil {
		o.Membership = r.Membership(e.Pos)
	}
	if e.Replaces > 0 {
		old, err := t.o.Rooms.EventAt(q, e.Replaces)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if err == nil {
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
	hidden, err := t.hides(q, e, r.UserID)
	if hidden {
		return bare(e), err
	}
	return e.Event, err
}

// Plain is an event as an application service gets it.
func (t *Timeline) Plain(q store.Querier, e *rooms.Event) (mx.Raw, error) {
	return t.Append(nil, q, e, Reader{To: e.Pos, Now: t.now()})
}

// maxReferences is how many references an event's aggregation names.
const maxReferences = 50

// bundle sums up what relates to an event: the last valid edit, the thread under
// it, the events that refer to it. Spec: cs#aggregations-of-child-events
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
	if e.RedactedBy == "" && e.StateKey == nil {
		edit, err := t.lastEdit(q, e, r.To)
		if err != nil {
			return nil, err
		}
		if edit != nil {
			key(mx.RelReplace)
			inner := r
			inner.Membership = nil
			if out, err = t.append(out, q, edit, inner, false); err != nil {
				return nil, err
			}
		}
	}
	if threads {
		th, err := t.o.Rooms.ThreadOf(q, e.ID, r.UserID, r.To)
		if err != nil {
			return nil, err
		}
		if th.Count > 0 {
			latest, err := t.o.Rooms.EventAt(q, th.Latest)
			if err != nil {
				return nil, err
			}
			if ignored[latest.Sender] {
				latest = nil
				list, err := t.o.Rooms.Relations(q, rooms.Relation{EventID: e.ID, RelType: mx.RelThread, UpTo: r.To, Limit: 100})
				if err != nil {
					return nil, err
				}
				th.Count = 0
				for _, x := range list {
					if !ignored[x.Sender] {
						if th.Count++; latest == nil {
							latest = x
						}
					}
				}
			}
			if latest != nil {
				key(mx.RelThread)
				out = append(out, `{"count":`...)
				out = strconv.AppendInt(out, int64(th.Count), 10)
				out = append(out, `,"current_user_participated":`...)
				out = strconv.AppendBool(out, th.Participated || e.Sender == r.UserID)
				out = append(out, `,"latest_event":`...)
				inner := r
				inner.OmitRoomID, inner.Membership = false, nil
				if out, err = t.append(out, q, latest, inner, false); err != nil {
					return nil, err
				}
				out = append(out, '}')
			}
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
			if !ignored[x.Sender] {
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

// lastEdit is the newest valid replacement of an event: same sender, same type, no
// state. Spec: cs#validity-of-replacement-events
func (t *Timeline) lastEdit(q store.Querier, e *rooms.Event, to int64) (*rooms.Event, error) {
	if rel, _ := e.Relation(); rel == mx.RelReplace {
		return nil, nil
	}
	list, err := t.o.Rooms.Relations(q, rooms.Relation{EventID: e.ID, RelType: mx.RelReplace, Type: e.Type, UpTo: to, Limit: 50})
	if err != nil {
		return nil, err
	}
	var best *rooms.Event
	for _, x := range list {
		if x.Sender != e.Sender || x.StateKey != nil || x.RoomID != e.RoomID ||
			e.Type != mx.RoomEncrypted && !pdu.IsObject(pdu.Field(x.Content, "m.new_content")) {
			continue
		}
		if best == nil || x.OriginServerTS > best.OriginServerTS || x.OriginServerTS == best.OriginServerTS && x.ID > best.ID {
			best = x
		}
	}
	return best, nil
}
