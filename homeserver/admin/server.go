package admin

import (
	"context"
	"sync"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// version names this program where tools expect Synapse: they show it as it is.
func (s *Service) version(context.Context, *route.Request) (any, error) {
	return map[string]string{"server_version": "Holdfast " + s.o.Version}, nil
}

// essVersion says that this server is no edition of Element's suite, which Element's
// console asks first.
func (s *Service) essVersion(context.Context, *route.Request) (any, error) {
	return map[string]any{"version": nil, "edition": nil}, nil
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

// startUpdate answers for jobs that set right what Synapse counts and finds by the
// way. Here counts and the directory are read as they are, so that they are right.
func (s *Service) startUpdate(_ context.Context, _ *route.Request, in struct {
	Name string `json:"job_name"`
}) (out route.Empty, err error) {
	switch in.Name {
	case "":
		return out, mx.Errorf(mx.MissingParam, "job_name is missing.")
	case "populate_stats_process_rooms", "regenerate_directory":
		return out, nil
	}
	return out, mx.Errorf(mx.InvalidParam, "This server has no job %.80q.", in.Name)
}

// validity is refused: accounts do not expire.
var validity = &route.Refusal{
	Reason: "Accounts do not expire, so that there is nothing to renew.",
	Answer: &mx.Error{Code: mx.InvalidParam, Msg: "Accounts of this server do not expire. To end one, lock or deactivate it."},
}

// destinations answers for other servers, with none of which this one speaks.
func (s *Service) destinations(_ context.Context, r *route.Request) (any, error) {
	q := &query{r: r}
	q.page()
	q.oneOf("dir", "f", "b")
	return map[string]any{"destinations": []any{}, "total": 0}, q.err
}

func (s *Service) noSuchDestination(context.Context, *route.Request) (any, error) {
	return nil, mx.Errorf(mx.NotFound, "This server speaks to no other server of that name.")
}

const resetTime = 10 * time.Minute

// resets are the users who may replace their cross-signing keys without proving who
// they are, and until when. They are few and soon over, so they are only in memory.
type resets struct {
	mu sync.Mutex
	m  map[string]time.Time
}

// MayReset reports whether an administrator let a user replace cross-signing keys
// without proving who they are.
func (s *Service) MayReset(userID string) bool {
	s.resets.mu.Lock()
	defer s.resets.mu.Unlock()
	return s.o.Now().Before(s.resets.m[userID])
}

func (s *Service) allowReset(ctx context.Context, r *route.Request) (any, error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return nil, err
	}
	has := false
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		has, err = s.o.E2EE.HasMasterKey(q, u.UserID)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !has {
		return nil, mx.Errorf(mx.NotFound, "The user has no cross-signing key that could be replaced: the first one needs no proof.")
	}
	now := s.o.Now()
	s.resets.mu.Lock()
	defer s.resets.mu.Unlock()
	for id, until := range s.resets.m {
		if !now.Before(until) {
			delete(s.resets.m, id)
		}
	}
	s.resets.m[u.UserID] = now.Add(resetTime)
	return map[string]int64{"updatable_without_uia_before_ms": now.Add(resetTime).UnixMilli()}, nil
}
