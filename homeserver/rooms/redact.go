package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// maxRelTypes bounds the relation types of one redaction.
const maxRelTypes = 20

// mayRedact lets a suspended user take back only what they sent themselves.
// Spec: cs#account-suspension
func (r *Rooms) mayRedact(ctx context.Context, q *route.Request, eventID string) error {
	if !q.Suspended {
		return nil
	}
	return r.db.Read(ctx, func(s store.Querier) error {
		e, err := r.EventByID(s, eventID)
		if err == nil && e.Sender == q.UserID || errors.Is(err, store.ErrNotFound) { // the latter is refused later
			return nil
		}
		if err != nil {
			return err
		}
		return q.NotSuspended()
	})
}

type redactRequest struct {
	Reason json.RawMessage `json:"reason"`
	// With names the relation types whose events go too; "*" is all.
	With         []string `json:"with_rel_types"`
	WithUnstable []string `json:"org.matrix.msc3912.with_relations"`
}

// redact answers the redaction of an event, and of what relates to it where that
// is asked for. A request that was cut off does the rest when it is repeated.
// Spec: cs#put_matrixclientv3roomsroomidredacteventidtxnid, MSC3912
func (r *Rooms) redact(ctx context.Context, q *route.Request, in redactRequest) (eventIDResponse, error) {
	if err := r.mayRedact(ctx, q, q.Param("eventID")); err != nil {
		return eventIDResponse{}, err
	}
	content := map[string]json.RawMessage{}
	if in.Reason != nil {
		content["reason"] = in.Reason
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return eventIDResponse{}, err
	}
	n := NewEvent{RoomID: q.Param("roomID"), Sender: q.UserID, DeviceID: device(q), TxnID: q.Param("txnID"),
		Type: mx.RoomRedaction, Content: raw, Redacts: q.Param("eventID")}
	with := append(in.With, in.WithUnstable...)
	if len(with) > maxRelTypes {
		return eventIDResponse{}, mx.Errorf(mx.InvalidParam, "At most %d relation types can go with a redaction. Use \"*\" for all.", maxRelTypes)
	}
	id, err := r.Send(ctx, n)
	if err == nil && len(with) > 0 {
		err = r.redactRelated(ctx, q, n, with)
	}
	return eventIDResponse{id}, err
}

// redactRelated redacts what relates to the event that n redacted, as far as the
// sender may.
func (r *Rooms) redactRelated(ctx context.Context, q *route.Request, n NewEvent, types []string) error {
	var target *Event
	err := r.db.Read(ctx, func(s store.Querier) (err error) {
		target, err = r.EventByID(s, n.Redacts)
		return err
	})
	if err != nil {
		return err
	}
	const batch = 100
	for after := int64(0); ; {
		var list []*Event
		err := r.db.Read(ctx, func(s store.Querier) (err error) {
			list, err = r.Relations(s, Relation{EventID: target.ID, After: after, UpTo: math.MaxInt64, Limit: batch, OldestFirst: true})
			return err
		})
		if err != nil || len(list) == 0 {
			return err
		}
		for _, e := range list {
			after = e.Pos
			rel, _ := e.Relation()
			switch {
			case !slices.Contains(types, rel) && !slices.Contains(types, "*"):
				continue
			case e.RoomID != target.RoomID || rel == mx.RelReplace && (e.Sender != target.Sender || e.Type != target.Type):
				continue // no relation that counts
			case q.Suspended && e.Sender != q.UserID:
				continue
			}
			_, err := r.Send(ctx, NewEvent{RoomID: n.RoomID, Sender: n.Sender, Type: mx.RoomRedaction, Content: n.Content, Redacts: e.ID})
			var refused *mx.Error
			if errors.As(err, &refused) && (refused.Code == mx.Forbidden || refused.Code == mx.NotFound) {
				continue
			}
			if err != nil {
				return err
			}
		}
	}
}

// TakeBack redacts an event in its sender's name, whether or not the sender is in the
// room any more: it is judged as if it had been sent right after what it redacts.
// Errors: *mx.Error.
func (r *Rooms) TakeBack(ctx context.Context, roomID, eventID, reason string) error {
	var target *Event
	state := map[StateKey]*Event{}
	err := r.db.Read(ctx, func(q store.Querier) error {
		var err error
		if target, err = r.EventByID(q, eventID); err != nil {
			return err
		}
		list, err := r.StateBefore(q, target, nil)
		for _, e := range list {
			state[StateKey{e.Type, *e.StateKey}] = e
		}
		if target.StateKey != nil {
			state[StateKey{target.Type, *target.StateKey}] = target
		}
		return err
	})
	if errors.Is(err, store.ErrNotFound) || err == nil && target.RoomID != roomID {
		return mx.Errorf(mx.NotFound, "The room has no event with this ID.")
	}
	if err != nil || target.RedactedBy != "" {
		return err
	}
	n := NewEvent{RoomID: roomID, Sender: target.Sender, Type: mx.RoomRedaction, Content: redactionContent(reason), Redacts: eventID, asOf: state}
	return r.change(ctx, roomID, func(b *batch) error {
		if err := b.checkRedaction(n); err != nil {
			return err
		}
		_, err := b.add(n)
		return err
	})
}

// RedactAs redacts an event in a member's name. Errors: *mx.Error.
func (r *Rooms) RedactAs(ctx context.Context, roomID, userID, eventID, reason string) error {
	_, err := r.Send(ctx, NewEvent{RoomID: roomID, Sender: userID, Type: mx.RoomRedaction, Content: redactionContent(reason), Redacts: eventID})
	return err
}

func redactionContent(reason string) json.RawMessage {
	if reason == "" {
		return json.RawMessage(`{}`)
	}
	raw, _ := json.Marshal(map[string]string{"reason": reason})
	return raw
}
