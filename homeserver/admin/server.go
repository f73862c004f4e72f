package admin

import (
	"context"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
)

// version names this program where tools expect Synapse: they show it as it is.
func (s *Service) version(context.Context, *route.Request) (any, error) {
	return map[string]string{"server_version": "Holdfast " + s.o.Version}, nil
}

// features answers for switches of single users, of which there are none.
func (s *Service) features(ctx context.Context, r *route.Request) (any, error) {
	if _, err := s.local(ctx, r.Param("userID")); err != nil {
		return nil, err
	}
	return map[string]any{"features": map[string]bool{}}, nil
}

func (s *Service) putFeatures(ctx context.Context, r *route.Request, in struct {
	Features map[string]bool `json:"features"`
}) (any, error) {
	if _, err := s.local(ctx, r.Param("userID")); err != nil {
		return nil, err
	}
	if len(in.Features) > 0 {
		return nil, mx.Errorf(mx.InvalidParam, "This server has no features that are switched for single users: what it can do, all have.")
	}
	return route.Empty{}, nil
}

// updates answers for changes of the database that run beside the server. Here they
// run before it starts, so that there is never one.
func (s *Service) updates(context.Context, *route.Request) (any, error) {
	return map[string]any{"enabled": true, "current_updates": map[string]any{}}, nil
}

func (s *Service) updatesEnabled(context.Context, *route.Request) (any, error) {
	return map[string]bool{"enabled": true}, nil
}

func (s *Service) setUpdatesEnabled(_ context.Context, _ *route.Request, in struct {
	Enabled *bool `json:"enabled"`
}) (any, error) {
	if in.Enabled == nil {
		return nil, mx.Errorf(mx.MissingParam, "enabled is missing.")
	}
	if !*in.Enabled {
		return nil, mx.Errorf(mx.InvalidParam, "Nothing runs beside this server that could be paused.")
	}
	return map[string]bool{"enabled": true}, nil
}
