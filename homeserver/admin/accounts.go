package admin

import (
	"context"
	"encoding/json"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

func (s *Service) deactivate(ctx context.Context, r *route.Request, in struct {
	Erase bool `json:"erase"`
}) (any, error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return nil, err
	}
	if u.UserID == r.UserID {
		return nil, mx.Errorf(mx.Forbidden, "Close your own account in your client's settings.")
	}
	if !u.Deactivated {
		if err := s.o.Accounts.Deactivate(ctx, u.UserID); err != nil {
			return nil, err
		}
	}
	if in.Erase {
		if err := s.o.Timeline.Erase(context.WithoutCancel(ctx), u.UserID); err != nil {
			return nil, err
		}
	}
	return map[string]string{"id_server_unbind_result": "no-support"}, nil
}

func (s *Service) byAddress(ctx context.Context, r *route.Request) (any, error) {
	if r.Param("medium") != "email" {
		return nil, errNoUser
	}
	u, err := s.o.Accounts.EmailOwner(ctx, r.Param("address"))
	if err != nil {
		return nil, err
	}
	return map[string]string{"user_id": u.UserID}, nil
}

func (s *Service) resetPassword(ctx context.Context, r *route.Request, in struct {
	Password *string `json:"new_password"`
	Logout   *bool   `json:"logout_devices"`
}) (out route.Empty, err error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return out, err
	}
	if in.Password == nil {
		return out, mx.Errorf(mx.MissingParam, "new_password is missing.")
	}
	return out, s.o.Accounts.SetPassword(ctx, u.UserID, *in.Password, in.Logout == nil || *in.Logout)
}

func (s *Service) suspend(ctx context.Context, r *route.Request, in struct {
	Suspend *bool `json:"suspend"`
}) (any, error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return nil, err
	}
	switch {
	case in.Suspend == nil:
		return nil, mx.Errorf(mx.MissingParam, "Say in suspend whether the account shall be suspended: true or false.")
	case u.UserID == r.UserID:
		return nil, mx.Errorf(mx.Forbidden, "You cannot do this to your own account.")
	}
	if err := s.o.Accounts.SetSuspended(ctx, u.UserID, *in.Suspend); err != nil {
		return nil, err
	}
	return map[string]bool{"user_" + u.UserID + "_suspended": *in.Suspend}, nil
}

type adminBody struct {
	Admin *bool `json:"admin"`
}

func (s *Service) getAdmin(ctx context.Context, r *route.Request) (adminBody, error) {
	u, err := s.local(ctx, r.Param("userID"))
	return adminBody{&u.Admin}, err
}

func (s *Service) putAdmin(ctx context.Context, r *route.Request, in adminBody) (out route.Empty, err error) {
	u, err := s.local(ctx, r.Param("userID"))
	switch {
	case err != nil:
		return out, err
	case in.Admin == nil:
		return out, mx.Errorf(mx.MissingParam, "Say in admin whether the user shall be an administrator: true or false.")
	case u.UserID == r.UserID && !*in.Admin:
		return out, mx.Errorf(mx.Forbidden, "You cannot take administration away from yourself.")
	}
	return out, s.o.Accounts.SetAdmin(ctx, u.UserID, *in.Admin)
}

func (s *Service) usernameAvailable(ctx context.Context, r *route.Request) (any, error) {
	if !r.QueryValues().Has("username") {
		return nil, mx.Errorf(mx.MissingParam, "username is missing.")
	}
	if err := s.o.Accounts.Available(ctx, r.Query("username")); err != nil {
		return nil, err
	}
	return map[string]bool{"available": true}, nil
}

// loginAs gives a token that acts as a user, without a device. It is in the log, so
// that administrators answer for it.
func (s *Service) loginAs(ctx context.Context, r *route.Request, in struct {
	Until *int64 `json:"valid_until_ms"`
}) (any, error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return nil, err
	}
	if u.UserID == r.UserID {
		return nil, mx.Errorf(mx.InvalidParam, "You are signed in as this user already.")
	}
	var until time.Time
	if in.Until != nil {
		if until = time.UnixMilli(*in.Until); !until.After(s.o.Now()) {
			return nil, mx.Errorf(mx.InvalidParam, "valid_until_ms must be a time in milliseconds that is still to come.")
		}
	}
	token, err := s.o.Accounts.SignInAs(ctx, u.UserID, until)
	if err != nil {
		return nil, err
	}
	s.o.Log.Warn("an administrator signed in as another user", "administrator", r.UserID, "user", u.UserID)
	return map[string]string{"access_token": token}, nil
}

func (s *Service) joinedRooms(ctx context.Context, r *route.Request) (any, error) {
	list := []string{}
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		ids, err := s.o.Rooms.JoinedRooms(q, r.Param("userID"))
		list = append(list, ids...)
		return err
	})
	return map[string]any{"joined_rooms": list, "total": len(list)}, err
}

func (s *Service) memberships(ctx context.Context, r *route.Request) (any, error) {
	out := map[string]string{}
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		list, err := s.o.Rooms.Rooms(q, r.Param("userID"))
		for _, m := range list {
			out[m.RoomID] = m.Membership
		}
		return err
	})
	return map[string]any{"memberships": out}, err
}

func (s *Service) accountData(ctx context.Context, r *route.Request) (any, error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return nil, err
	}
	global, rooms := map[string]json.RawMessage{}, map[string]map[string]json.RawMessage{}
	to := s.o.DB.Pos()
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		all, byRoom, err := s.o.Userdata.AccountDataSince(q, u.UserID, 0, to)
		for _, d := range all {
			global[d.Type] = d.Content
		}
		for id, list := range byRoom {
			rooms[id] = map[string]json.RawMessage{}
			for _, d := range list {
				rooms[id][d.Type] = d.Content
			}
		}
		return err
	})
	return map[string]any{"account_data": map[string]any{"global": global, "rooms": rooms}}, err
}

func (s *Service) pushers(ctx context.Context, r *route.Request) (any, error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		list, err := s.o.Pushers.List(q, u.UserID)
		out["pushers"], out["total"] = list, len(list)
		return err
	})
	return out, err
}

// since is the from_ts of the counts below.
func since(r *route.Request) (int64, error) {
	if !r.QueryValues().Has("from_ts") {
		return 0, mx.Errorf(mx.MissingParam, "from_ts is missing.")
	}
	q := &query{r: r}
	return q.number("from_ts", 0), q.err
}

func (s *Service) sentInvites(ctx context.Context, r *route.Request) (any, error) {
	from, err := since(r)
	if err != nil {
		return nil, err
	}
	var n int
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		n, err = s.o.Rooms.InvitesSent(q, r.Param("userID"), from)
		return err
	})
	return map[string]int{"invite_count": n}, err
}

func (s *Service) roomsJoined(ctx context.Context, r *route.Request) (any, error) {
	from, err := since(r)
	if err != nil {
		return nil, err
	}
	var n int
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		n, err = s.o.Rooms.JoinsMade(q, r.Param("userID"), from)
		return err
	})
	return map[string]int{"cumulative_joined_room_count": n}, err
}

// shadowBan is refused: who is banned would believe to be heard.
var shadowBan = &route.Refusal{
	Reason: "What an appliance answers is true: it does not drop in silence what it has said to have sent. Accounts are suspended or locked instead.",
	Answer: &mx.Error{Code: mx.Forbidden, Msg: "This server does not drop in silence what people send. Suspend or lock the account instead."},
}

// noSuchUser answers for what this server keeps of nobody.
func (s *Service) noSuchUser(context.Context, *route.Request) (any, error) { return nil, errNoUser }
