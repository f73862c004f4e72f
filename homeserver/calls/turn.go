package calls

import (
	"context"
	"errors"
	"net/http"
	"time"

	"holdfast/homeserver/route"
)

// TURN gives a user credentials of the TURN server, at addresses that fit the way
// that the request came. ok is false where there is none.
type TURN func(userID string, r *http.Request) (c Credentials, ok bool, err error)

// Credentials are those of a TURN server, for TTL from now.
type Credentials struct {
	Username, Password string
	URIs               []string
	TTL                time.Duration
}

// turnServer answers with credentials for calls that clients set up by themselves,
// or with {} where there is no TURN server: clients do without then.
// Spec: cs#get_matrixclientv3voipturnserver
func (s *Service) turnServer(_ context.Context, r *route.Request) (any, error) {
	if s.o.TURN == nil {
		return route.Empty{}, nil
	}
	if err := r.NotSuspended(); err != nil {
		return nil, err
	}
	c, ok, err := s.o.TURN(r.UserID, r.Request)
	if err != nil {
		return nil, err
	}
	if !ok {
		return route.Empty{}, nil
	}
	if len(c.URIs) == 0 {
		return nil, errors.New("calls: the TURN server has no address")
	}
	return map[string]any{"username": c.Username, "password": c.Password, "uris": c.URIs, "ttl": int64(c.TTL.Seconds())}, nil
}
