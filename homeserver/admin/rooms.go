package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// room is a room in the list of rooms.
type room struct {
	RoomID      string  `json:"room_id"`
	Name        *string `json:"name"`
	Alias       *string `json:"canonical_alias"`
	Joined      int     `json:"joined_members"`
	Local       int     `json:"joined_local_members"`
	Version     string  `json:"version"`
	Creator     string  `json:"creator"`
	Encryption  *string `json:"encryption"`
	Federatable bool    `json:"federatable"`
	Public      bool    `json:"public"`
	JoinRules   *string `json:"join_rules"`
	GuestAccess *string `json:"guest_access"`
	Visibility  *string `json:"history_visibility"`
	State       int     `json:"state_events"`
	Type        *string `json:"room_type"`
}

type roomDetails struct {
	room
	Topic       *string `json:"topic"`
	Avatar      *string `json:"avatar"`
	Devices     int     `json:"joined_local_devices"`
	Forgotten   bool    `json:"forgotten"`
	Tombstoned  bool    `json:"tombstoned"`
	Replacement *string `json:"replacement_room"`
}

func toRoom(o rooms.Overview) room {
	return room{RoomID: o.RoomID, Name: text(o.Name), Alias: text(o.Alias), Joined: o.Joined, Local: o.Local, Version: o.Version, Creator: o.Creator,
		Encryption: text(o.Encryption), Federatable: o.Federates, Public: o.Public, JoinRules: text(o.JoinRule), GuestAccess: text(o.GuestAccess),
		Visibility: text(o.Visibility), State: o.State, Type: text(o.Type)}
}

// roomOrders compare rooms. Numbers and flags come largest first, as tools expect.
var roomOrders = map[string]func(a, b room) int{
	"name":                 func(a, b room) int { return texts(a.Name, b.Name) },
	"canonical_alias":      func(a, b room) int { return texts(a.Alias, b.Alias) },
	"joined_members":       func(a, b room) int { return b.Joined - a.Joined },
	"joined_local_members": func(a, b room) int { return b.Local - a.Local },
	"version":              func(a, b room) int { return cmp.Or(len(b.Version)-len(a.Version), cmp.Compare(b.Version, a.Version)) },
	"creator":              func(a, b room) int { return cmp.Compare(a.Creator, b.Creator) },
	"encryption":           func(a, b room) int { return texts(a.Encryption, b.Encryption) },
	"federatable":          func(a, b room) int { return flags(b.Federatable, a.Federatable) },
	"public":               func(a, b room) int { return flags(b.Public, a.Public) },
	"join_rules":           func(a, b room) int { return texts(a.JoinRules, b.JoinRules) },
	"guest_access":         func(a, b room) int { return texts(a.GuestAccess, b.GuestAccess) },
	"history_visibility":   func(a, b room) int { return texts(a.Visibility, b.Visibility) },
	"state_events":         func(a, b room) int { return b.State - a.State },
}

func (s *Service) listRooms(ctx context.Context, r *route.Request) (any, error) {
	q := &query{r: r}
	from, limit := q.page()
	by := q.oneOf("order_by", "name", "alphabetical", "size", "canonical_alias", "joined_members", "joined_local_members", "version", "creator",
		"encryption", "federatable", "public", "join_rules", "guest_access", "history_visibility", "state_events")
	switch by {
	case "alphabetical":
		by = "name"
	case "size":
		by = "joined_members"
	}
	back := q.oneOf("dir", "f", "b") == "b"
	public, empty := q.flag("public_rooms"), q.flag("empty_rooms")
	if r.QueryValues().Has("search_term") && r.Query("search_term") == "" {
		q.fail("search_term is empty. Leave it out to see all rooms.")
	}
	if q.err != nil {
		return nil, q.err
	}
	exact := r.Query("search_term")
	term := strings.ToLower(exact)
	list := []room{}
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		all, err := s.o.Rooms.Overviews(q, "")
		for _, o := range all {
			alias, _, _ := strings.Cut(o.Alias, ":")
			switch {
			case term != "" && !strings.Contains(strings.ToLower(o.Name), term) && !strings.Contains(strings.ToLower(alias), term) && !strings.Contains(o.RoomID, exact),
				public != nil && o.Public != *public,
				empty != nil && (o.Joined == 0) != *empty:
				continue
			}
			list = append(list, toRoom(o))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b room) int {
		c := roomOrders[by](a, b)
		if back {
			c = -c
		}
		return cmp.Or(c, cmp.Compare(a.RoomID, b.RoomID))
	})
	part, next := cut(list, from, limit)
	out := map[string]any{"rooms": part, "offset": from, "total_rooms": len(list)}
	if next > 0 {
		out["next_batch"] = next
	}
	if from > 0 {
		out["prev_batch"] = max(0, from-limit)
	}
	return out, nil
}

var errNoRoom = mx.Errorf(mx.NotFound, "This server does not know the room.")

// overview is one room. Errors: NotFound.
func (s *Service) overview(q store.Querier, roomID string) (o rooms.Overview, err error) {
	if roomID == "" {
		return o, errNoRoom
	}
	list, err := s.o.Rooms.Overviews(q, roomID)
	if err == nil && len(list) == 0 {
		err = errNoRoom
	}
	if err != nil {
		return o, err
	}
	return list[0], nil
}

func (s *Service) getRoom(ctx context.Context, r *route.Request) (out roomDetails, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		o, err := s.overview(q, r.Param("roomID"))
		if err != nil {
			return err
		}
		out = roomDetails{room: toRoom(o), Topic: text(o.Topic), Avatar: text(o.Avatar), Tombstoned: o.Tombstoned, Replacement: text(o.Replacement)}
		members, err := s.o.Rooms.MemberList(q, o.RoomID)
		if err != nil {
			return err
		}
		out.Forgotten = true
		for _, m := range members {
			if mx.Domain(m.UserID) != s.o.ServerName {
				continue
			}
			out.Forgotten = out.Forgotten && m.Forgotten
			if m.Membership == mx.Join {
				ids, err := s.o.Devices.IDs(q, m.UserID)
				if err != nil {
					return err
				}
				out.Devices += len(ids)
			}
		}
		return nil
	})
	return out, err
}

func (s *Service) roomMembers(ctx context.Context, r *route.Request) (any, error) {
	list := []string{}
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		if _, err := s.overview(q, r.Param("roomID")); err != nil {
			return err
		}
		members, err := s.o.Rooms.MemberList(q, r.Param("roomID"), mx.Join)
		for _, m := range members {
			list = append(list, m.UserID)
		}
		return err
	})
	return map[string]any{"members": list, "total": len(list)}, err
}

func (s *Service) roomState(ctx context.Context, r *route.Request) (any, error) {
	list := []json.RawMessage{}
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		if _, err := s.overview(q, r.Param("roomID")); err != nil {
			return err
		}
		state, err := s.o.Rooms.CurrentState(q, r.Param("roomID"), false)
		if err != nil {
			return err
		}
		for _, e := range state {
			if t := r.Query("type"); t != "" && e.Type != t {
				continue
			}
			raw, err := s.o.Timeline.Plain(q, e)
			if err != nil {
				return err
			}
			list = append(list, raw)
		}
		return nil
	})
	return map[string]any{"state": list}, err
}

type blockBody struct {
	Block  *bool  `json:"block"`
	UserID string `json:"user_id,omitempty"`
}

func checkRoomID(id string) error {
	_, _, err := mx.ParseRoomID(id)
	return err
}

func (s *Service) getBlock(_ context.Context, r *route.Request) (blockBody, error) {
	by, yes := s.o.Rooms.Blocked(r.Param("roomID"))
	return blockBody{&yes, by}, checkRoomID(r.Param("roomID"))
}

func (s *Service) putBlock(ctx context.Context, r *route.Request, in blockBody) (any, error) {
	if err := checkRoomID(r.Param("roomID")); err != nil {
		return nil, err
	}
	if in.Block == nil {
		return nil, mx.Errorf(mx.MissingParam, "Say in block whether the room shall be blocked: true or false.")
	}
	return map[string]bool{"block": *in.Block}, s.o.Rooms.Block(ctx, r.Param("roomID"), r.UserID, *in.Block)
}
