package admin

import (
	"context"
	"encoding/json"
	"errors"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// fetchEvent gives an event as it is stored, with its hashes and signatures.
func (s *Service) fetchEvent(ctx context.Context, r *route.Request) (any, error) {
	event := map[string]any{}
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		e, err := s.o.Rooms.EventByID(q, r.Param("eventID"))
		if errors.Is(err, store.ErrNotFound) {
			return mx.Errorf(mx.NotFound, "This server has no event with this ID.")
		}
		if err != nil {
			return err
		}
		whole := map[string]json.RawMessage{}
		if err := json.Unmarshal(e.JSON(), &whole); err != nil {
			return err
		}
		for k, v := range whole {
			event[k] = v
		}
		noted(ctx, "roomID", e.RoomID)
		unsigned := map[string]any{"age_ts": e.OriginServerTS}
		if e.RedactedBy != "" {
			unsigned["redacted_by"] = e.RedactedBy
		}
		event["event_id"], event["room_id"], event["unsigned"] = e.ID, e.RoomID, unsigned
		return nil
	})
	return map[string]any{"event": event}, err
}

type extremity struct {
	EventID    string `json:"event_id"`
	StateGroup int64  `json:"state_group"`
	Depth      int64  `json:"depth"`
	Received   int64  `json:"received_ts"`
}

// extremities are a room's events that none follows. Its events form a line, so there
// is one.
func (s *Service) extremities(ctx context.Context, r *route.Request) (any, error) {
	id, err := s.o.Rooms.ResolveKnown(ctx, r.Param("roomID"))
	if err != nil {
		return nil, err
	}
	var e *rooms.Event
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		e, err = s.o.Rooms.Newest(q, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	return map[string]any{"count": 1, "results": []extremity{{e.ID, e.StateGroup, e.Depth, e.OriginServerTS}}}, nil
}

// deleteExtremities finds nothing to delete: one is as few as there can be.
func (s *Service) deleteExtremities(ctx context.Context, r *route.Request) (any, error) {
	_, err := s.o.Rooms.ResolveKnown(ctx, r.Param("roomID"))
	return map[string]int{"deleted": 0}, err
}

// whom is the local user that a body names, by default the administrator who asks.
func (s *Service) whom(ctx context.Context, r *route.Request, userID string) (string, error) {
	if userID == "" {
		return r.UserID, nil
	}
	u, err := s.local(ctx, userID)
	if err == nil && u.Deactivated {
		err = errNoUser
	}
	return u.UserID, err
}

type userBody struct {
	UserID string `json:"user_id"`
}

func (s *Service) makeRoomAdmin(ctx context.Context, r *route.Request, in userBody) (out route.Empty, err error) {
	userID, err := s.whom(ctx, r, in.UserID)
	if err != nil {
		return out, err
	}
	id, err := s.o.Rooms.ResolveKnown(ctx, r.Param("roomID"))
	if err != nil {
		return out, err
	}
	by, err := s.o.Rooms.MakeAdmin(ctx, id, userID)
	noted(ctx, "user", userID)
	noted(ctx, "in_the_name_of", by)
	return out, err
}

func (s *Service) join(ctx context.Context, r *route.Request, in userBody) (any, error) {
	if in.UserID == "" {
		return nil, mx.Errorf(mx.MissingParam, "Name the user in user_id.")
	}
	userID, err := s.whom(ctx, r, in.UserID)
	if err != nil {
		return nil, err
	}
	id, err := s.o.Rooms.ResolveKnown(ctx, r.Param("roomID"))
	if err != nil {
		return nil, err
	}
	noted(ctx, "user", userID)
	return map[string]string{"room_id": id}, s.o.Rooms.Bring(ctx, id, r.UserID, userID)
}

// largest is how many rooms the statistics of the database name.
const largest = 10

func (s *Service) largestRooms(ctx context.Context, _ *route.Request) (any, error) {
	type size struct {
		RoomID string `json:"room_id"`
		Bytes  int64  `json:"estimated_size"`
	}
	list := []size{}
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		found, err := s.o.Rooms.Largest(q, largest)
		for _, x := range found {
			list = append(list, size{x.RoomID, x.Bytes})
		}
		return err
	})
	return map[string]any{"rooms": list}, err
}
