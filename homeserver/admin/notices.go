package admin

import (
	"context"
	"encoding/json"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/notices"
	"holdfast/homeserver/route"
)

// sendNotice tells a user something. With a transaction ID, repeating the request
// sends nothing.
func (s *Service) sendNotice(ctx context.Context, r *route.Request, in struct {
	UserID   string          `json:"user_id"`
	Type     string          `json:"type"`
	StateKey *string         `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}) (any, error) {
	switch {
	case in.UserID == "":
		return nil, mx.Errorf(mx.MissingParam, "Name the user in user_id.")
	case len(in.Content) == 0:
		return nil, mx.Errorf(mx.MissingParam, "content, which is the event's content, is missing.")
	}
	u, err := s.local(ctx, in.UserID)
	if err == nil && u.Deactivated {
		err = errNoUser
	}
	if err != nil {
		return nil, err
	}
	noted(ctx, "user", u.UserID)
	id, err := s.o.Notices.Send(ctx, notices.Notice{UserID: u.UserID, Type: in.Type, StateKey: in.StateKey, Content: in.Content, By: r.UserID, Txn: r.Param("txnID")})
	return map[string]string{"event_id": id}, err
}
