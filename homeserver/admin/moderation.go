package admin

import (
	"context"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// subject is the account that moderation is about: one that is open, and no other
// administrator's. Spec: cs#server-administration
func (s *Service) subject(ctx context.Context, r *route.Request, change bool) (User, error) {
	u, err := s.local(ctx, r.Param("userID"))
	switch {
	case err != nil:
		return u, err
	case u.Deactivated:
		return u, errNoUser
	case u.UserID == r.UserID && change:
		return u, mx.Errorf(mx.Forbidden, "You cannot do this to your own account.")
	case u.UserID != r.UserID && u.Admin:
		return u, mx.Errorf(mx.Forbidden, "The user is an administrator too. Take that away first.")
	}
	return u, nil
}

type lockedBody struct {
	Locked *bool `json:"locked"`
}

// Spec: cs#get_matrixclientv1adminlockuserid
func (s *Service) getLocked(ctx context.Context, r *route.Request) (lockedBody, error) {
	u, err := s.subject(ctx, r, false)
	return lockedBody{&u.Locked}, err
}

// Spec: cs#put_matrixclientv1adminlockuserid
func (s *Service) putLocked(ctx context.Context, r *route.Request, in lockedBody) (lockedBody, error) {
	u, err := s.subject(ctx, r, true)
	if err != nil {
		return in, err
	}
	if in.Locked == nil {
		return in, mx.Errorf(mx.MissingParam, "Say in locked whether the account shall be locked: true or false.")
	}
	return in, s.o.Accounts.SetLocked(ctx, u.UserID, *in.Locked)
}

type suspendedBody struct {
	Suspended *bool `json:"suspended"`
}

// Spec: cs#get_matrixclientv1adminsuspenduserid
func (s *Service) getSuspended(ctx context.Context, r *route.Request) (suspendedBody, error) {
	u, err := s.subject(ctx, r, false)
	return suspendedBody{&u.Suspended}, err
}

// Spec: cs#put_matrixclientv1adminsuspenduserid
func (s *Service) putSuspended(ctx context.Context, r *route.Request, in suspendedBody) (suspendedBody, error) {
	u, err := s.subject(ctx, r, true)
	if err != nil {
		return in, err
	}
	if in.Suspended == nil {
		return in, mx.Errorf(mx.MissingParam, "Say in suspended whether the account shall be suspended: true or false.")
	}
	return in, s.o.Accounts.SetSuspended(ctx, u.UserID, *in.Suspended)
}

type (
	connection struct {
		IP        string `json:"ip"`
		LastSeen  int64  `json:"last_seen"`
		UserAgent string `json:"user_agent"`
	}
	session struct {
		Connections []connection `json:"connections"`
	}
	whoisDevice struct {
		Sessions []session `json:"sessions"`
	}
	whoisResponse struct {
		UserID  string                 `json:"user_id"`
		Devices map[string]whoisDevice `json:"devices"`
	}
)

// whois tells a user, or an administrator, where the user's devices were last seen.
// A device is one session here. Spec: cs#get_matrixclientv3adminwhoisuserid
func (s *Service) whois(ctx context.Context, r *route.Request) (out whoisResponse, err error) {
	userID := r.Param("userID")
	if userID != r.UserID {
		if !r.Admin {
			return out, mx.Errorf(mx.Forbidden, "Only an administrator may look up others.")
		}
		if _, err := s.local(ctx, userID); err != nil {
			return out, err
		}
		if err := s.intends(ctx, r, "getWhoIs", []string{"userID"}); err != nil {
			return out, err
		}
	}
	out = whoisResponse{userID, map[string]whoisDevice{}}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		list, err := s.o.Devices.List(q, userID)
		for _, d := range list {
			seen := session{Connections: []connection{}}
			if d.SeenTS > 0 {
				seen.Connections = append(seen.Connections, connection{d.SeenIP, d.SeenTS, d.SeenAgent})
			}
			out.Devices[d.ID] = whoisDevice{[]session{seen}}
		}
		return err
	})
	return out, err
}
