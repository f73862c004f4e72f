package web

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"holdfast/store/audit"
)

func (s *Server) consoleRoutes(mux *http.ServeMux) {
	// admit refuses who may not call an operation, and says in the context who does. All
	// that is not named for a role is the administrators'.
	admit := func(pattern string, r *http.Request) (*http.Request, string, error) {
		v, err := s.Admins.Visitor(r)
		if err != nil {
			return nil, "", err
		}
		if v.UserID == "" {
			return nil, "", &Error{Status: http.StatusUnauthorized, Code: "signed_out", Message: "Sign in first."}
		}
		if !v.Admin && !(v.Auditor && strings.HasPrefix(pattern, "GET ")) && !(v.Moderator && slices.Contains(moderators, pattern)) {
			if v.Auditor || v.Moderator {
				return nil, "", &Error{Status: http.StatusForbidden, Code: "role", Message: "Only an administrator may do this. Your role does not include it."}
			}
			return nil, "", &Error{Status: http.StatusForbidden, Code: "not_admin", Message: "Only an administrator can open the console. You are signed in as " + v.UserID + "."}
		}
		if v.Enrol {
			return nil, "", &Error{Status: http.StatusForbidden, Code: "second_factor", Message: "Only who has a second factor may open the console here. Sign in again: you are shown how to add one."}
		}
		if v.Weak {
			return nil, "", &Error{Status: http.StatusForbidden, Code: "reauth", Message: "Only who signed in with a second factor may open the console here. Sign in again."}
		}
		if !strings.HasPrefix(pattern, "GET ") && !slices.Contains(harmless, pattern) && !v.Fresh {
			return nil, "", errReauth
		}
		return r.WithContext(context.WithValue(audit.As(r.Context(), v.UserID), callerKey{}, v.UserID)), v.UserID, nil
	}
	handle := func(pattern string, f func(r *http.Request, admin string) (any, error)) {
		s.patterns = append(s.patterns, pattern)
		mux.HandleFunc(pattern, s.endpoint(func(_ http.ResponseWriter, r *http.Request) (any, error) {
			in, who, err := admit(pattern, r)
			if err != nil {
				return nil, err
			}
			return f(in, who)
		}))
	}
	s.accessRoutes(handle, func(pattern string, f func(w http.ResponseWriter, r *http.Request) error) {
		s.patterns = append(s.patterns, pattern)
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			in, _, err := admit(pattern, r)
			if err == nil {
				err = f(w, in)
			}
			if err != nil {
				s.writeError(w, r, err)
			}
		})
	})
	handle("GET /api/console/me", func(r *http.Request, admin string) (any, error) {
		v, err := s.Admins.Visitor(r)
		return map[string]any{"user_id": admin, "machine": s.Machine != nil, "admin": v.Admin, "moderator": v.Moderator, "reads": v.Admin || v.Auditor}, err
	})
	handle("GET /api/console/status", func(r *http.Request, _ string) (any, error) { return s.Status.Status(r.Context()) })
	handle("GET /api/console/push", s.push)
	handle("POST /api/console/selftest", func(r *http.Request, _ string) (any, error) { return s.selfTest(r) })
	handle("GET /api/console/users", func(r *http.Request, _ string) (any, error) {
		users, err := s.People.Users(r.Context())
		if users == nil {
			users = []User{}
		}
		return users, err
	})
	handle("POST /api/console/users/{userID}/disabled", s.setDisabled)
	s.groupRoutes(handle)
	handle("GET /api/console/invites", func(r *http.Request, _ string) (any, error) {
		invites, err := s.Invites.Invites(r.Context())
		if invites == nil {
			invites = []Invite{}
		}
		return invites, err
	})
	handle("POST /api/console/invites", func(r *http.Request, admin string) (any, error) {
		var in inviteRequest
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		if len(in.Roles)+len(in.Groups) > 0 { // a stolen session could make itself another administrator
			v, err := s.Admins.Visitor(r)
			if err == nil && !v.Fresh {
				err = errReauth
			}
			if err != nil {
				return nil, err
			}
		}
		return s.invite(r, in, admin)
	})
	handle("DELETE /api/console/invites/{id}", func(r *http.Request, _ string) (any, error) {
		return struct{}{}, s.Invites.RevokeInvite(r.Context(), r.PathValue("id"))
	})
	s.cardRoutes(handle)
	s.settingsRoutes(handle)
	s.callRoutes(handle)
	handle("GET /api/console/bridges", func(r *http.Request, _ string) (any, error) {
		bridges, err := s.Bridges.Bridges(r.Context())
		if bridges == nil {
			bridges = []Bridge{}
		}
		return bridges, err
	})
	// The ID may be anything, so it is not in the path.
	bridge := func(name string, f func(ctx context.Context, id string) error) {
		handle("POST /api/console/bridges/"+name, func(r *http.Request, _ string) (any, error) {
			var in struct {
				ID string `json:"id"`
			}
			if err := decode(r, &in); err != nil {
				return nil, err
			}
			return struct{}{}, f(r.Context(), in.ID)
		})
	}
	bridge("remove", func(ctx context.Context, id string) error { return s.Bridges.RemoveBridge(ctx, id) })
	bridge("retry", func(ctx context.Context, id string) error { return s.Bridges.RetryBridge(ctx, id) })
	s.machineRoutes(mux, handle)
}

var errReauth = &Error{Status: http.StatusForbidden, Code: "reauth", Message: "Confirm at /reauth that it is you, then try again: you signed in more than five minutes ago, or without your second factor."}

// harmless are the operations that need no new proof of who asks: they change nothing
// that a stolen session could use, or cannot wait.
var harmless = []string{"POST /api/console/selftest", "POST /api/console/invites", "DELETE /api/console/invites/{id}", "POST /api/console/cards/{id}/revoke", "POST " + listPath + "plan", "POST /api/console/mail/test",
	"POST /api/console/calls/end", "POST /api/console/calls/remove", "POST /api/console/bridges/retry", "POST /api/console/machine/network/confirm", "POST /api/console/machine/recovery/confirm"}

// moderators are the operations of the console that moderators may call.
var moderators = []string{"GET /api/console/me", "GET /api/console/status", "GET /api/console/users", "GET /api/console/groups",
	"GET /api/console/calls", "GET /api/console/calls/one", "POST /api/console/calls/end", "POST /api/console/calls/remove"}

type callerKey struct{}

// Caller is the user ID of who called the operation of the console that runs in ctx,
// or "".
func Caller(ctx context.Context) string {
	s, _ := ctx.Value(callerKey{}).(string)
	return s
}

// groupRoutes are about roles and groups. The name of a group may be anything, so it
// is not in the path.
func (s *Server) groupRoutes(handle func(pattern string, f func(r *http.Request, admin string) (any, error))) {
	type request struct {
		Name string `json:"name"`
		To   string `json:"to"`
		User string `json:"user_id"`
		Role string `json:"role"`
		On   bool   `json:"on"`
	}
	post := func(name string, f func(ctx context.Context, in request, admin string) error) {
		handle("POST /api/console/"+name, func(r *http.Request, admin string) (any, error) {
			var in request
			if err := decode(r, &in); err != nil {
				return nil, err
			}
			return struct{}{}, f(r.Context(), in, admin)
		})
	}
	handle("GET /api/console/groups", func(r *http.Request, _ string) (any, error) { return s.People.Groups(r.Context()) })
	handle("GET /api/console/groups/members", func(r *http.Request, _ string) (any, error) {
		return s.People.Members(r.Context(), r.URL.Query().Get("name"))
	})
	handle("GET /api/console/groups/rooms", func(r *http.Request, _ string) (any, error) {
		return s.People.GroupRooms(r.Context(), r.URL.Query().Get("name"))
	})
	for _, name := range []string{"set", "remove", "apply"} {
		handle("POST /api/console/groups/rooms/"+name, func(r *http.Request, _ string) (any, error) {
			var in struct {
				Name    string `json:"name"`
				Room    string `json:"room"` // ID or alias
				Level   int64  `json:"level"`
				TakeOut string `json:"take_out"`
				Rooms   bool   `json:"rooms"`
				Out     bool   `json:"out"`
			}
			if err := decode(r, &in); err != nil {
				return nil, err
			}
			switch name {
			case "set":
				return struct{}{}, s.People.SetGroupRoom(r.Context(), in.Name, GroupRoom{Room: Room{RoomID: in.Room}, Level: in.Level, TakeOut: in.TakeOut, Rooms: in.Rooms})
			case "remove":
				return struct{}{}, s.People.RemoveGroupRoom(r.Context(), in.Name, in.Room, in.Out)
			}
			return struct{}{}, s.People.ApplyGroupRoom(r.Context(), in.Name, in.Room)
		})
	}
	post("groups/create", func(ctx context.Context, in request, _ string) error { return s.People.CreateGroup(ctx, in.Name) })
	post("groups/rename", func(ctx context.Context, in request, _ string) error {
		return s.People.RenameGroup(ctx, in.Name, in.To)
	})
	post("groups/delete", func(ctx context.Context, in request, _ string) error { return s.People.DeleteGroup(ctx, in.Name) })
	post("groups/role", func(ctx context.Context, in request, _ string) error {
		return s.People.SetGroupRole(ctx, in.Name, in.Role, in.On)
	})
	post("groups/member", func(ctx context.Context, in request, _ string) error {
		return s.People.SetMember(ctx, in.Name, in.User, in.On)
	})
	post("users/role", func(ctx context.Context, in request, admin string) error {
		if in.User == admin && !in.On {
			return &Error{Status: http.StatusConflict, Code: "yourself", Message: "You cannot take a role away from yourself. Ask another administrator."}
		}
		return s.People.SetRole(ctx, in.User, in.Role, in.On)
	})
}

func (s *Server) setDisabled(r *http.Request, admin string) (any, error) {
	var in struct {
		Disabled bool `json:"disabled"`
	}
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	user := r.PathValue("userID")
	if user == admin && in.Disabled {
		return nil, &Error{Status: http.StatusConflict, Code: "yourself", Message: "You cannot lock yourself out. Ask another administrator."}
	}
	return struct{}{}, s.People.SetDisabled(r.Context(), user, in.Disabled)
}

// inviteRequest asks for an invite; ExpiresIn is in seconds.
type inviteRequest struct {
	Uses      int      `json:"uses"`
	ExpiresIn int64    `json:"expires_in"`
	Localpart string   `json:"localpart"`
	Roles     []string `json:"roles"`
	Groups    []string `json:"groups"`
}

const (
	defaultInvite  = 7 * 24 * time.Hour
	longestInvite  = 365 * 24 * time.Hour
	mostInviteUses = 10_000
)

func (s *Server) invite(r *http.Request, in inviteRequest, by string) (any, error) {
	n := NewInvite{By: by, Roles: in.Roles, Groups: in.Groups, Origin: s.origin(r), Uses: in.Uses, ExpiresIn: time.Duration(in.ExpiresIn) * time.Second, Localpart: strings.ToLower(strings.TrimPrefix(strings.TrimSpace(in.Localpart), "@"))}
	if n.Uses == 0 {
		n.Uses = 1
	}
	if in.ExpiresIn == 0 {
		n.ExpiresIn = defaultInvite
	}
	switch {
	case n.Uses < 0 || n.Uses > mostInviteUses:
		return nil, &Error{Code: "bad_uses", Field: "uses", Message: "An invite can be used 1 to 10,000 times."}
	case in.ExpiresIn < 0 || in.ExpiresIn > int64(longestInvite/time.Second):
		return nil, &Error{Code: "bad_expiry", Field: "expires_in", Message: "An invite can be valid for one second to one year."}
	case n.Localpart != "" && n.Uses != 1:
		return nil, &Error{Code: "bad_uses", Field: "uses", Message: "An invite for one user name can be used once."}
	case len(n.Localpart) > 200:
		return nil, &Error{Code: "too_long", Field: "localpart", Message: "Shorten the user name."}
	}
	inv, err := s.Invites.CreateInvite(r.Context(), n)
	return withQR(inv, err)
}

// withQR is an invite with the QR code of its link.
func withQR(inv Invite, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	svg, err := qrSVG(inv.URL)
	if err != nil {
		return nil, err
	}
	return struct {
		Invite
		QR string `json:"qr_svg"`
	}{inv, svg}, nil
}
