package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/route"
	"holdfast/store"
)

const v3 = "/_matrix/client/v3"

// both gives a path below /_matrix/client/v3 with its r0 alias.
func both(rt route.Route, method, path string) route.Route {
	rt.Pattern = method + " " + v3 + path
	rt.Aliases = append(rt.Aliases, "/_matrix/client/r0"+path)
	rt.Auth = max(rt.Auth, route.User)
	return rt
}

// Routes are the package's operations.
func (r *Rooms) Routes() []route.Route {
	room := "/rooms/{roomID}"
	return []route.Route{
		both(route.Route{Op: "createRoom", Limit: route.Membership, Handle: route.JSON(r.create)}, "POST", "/createRoom"),
		both(route.Route{Op: "joinRoom", Limit: route.Membership, Handle: route.JSON(r.join)}, "POST", "/join/{roomID}"),
		both(route.Route{Op: "joinRoomById", Limit: route.Membership, Handle: route.JSON(r.join)}, "POST", room+"/join"),
		both(route.Route{Op: "knockRoom", Limit: route.Membership, Handle: route.JSON(r.knock)}, "POST", "/knock/{roomID}"),
		both(route.Route{Op: "inviteUser", Limit: route.Membership, Handle: r.other(func(ctx context.Context, q *route.Request, in otherRequest) error {
			if err := r.askUsers(ctx, in.UserID); err != nil {
				return err
			}
			return r.Invite(ctx, q.Param("roomID"), q.UserID, in.UserID, in.Reason, in.IsDirect)
		})}, "POST", room+"/invite"),
		both(route.Route{Op: "kick", Limit: route.Membership, Handle: r.other(func(ctx context.Context, q *route.Request, in otherRequest) error {
			return r.Kick(ctx, q.Param("roomID"), q.UserID, in.UserID, in.Reason)
		})}, "POST", room+"/kick"),
		both(route.Route{Op: "ban", Limit: route.Membership, Handle: r.other(func(ctx context.Context, q *route.Request, in otherRequest) error {
			return r.Ban(ctx, q.Param("roomID"), q.UserID, in.UserID, in.Reason)
		})}, "POST", room+"/ban"),
		both(route.Route{Op: "unban", Limit: route.Membership, Handle: r.other(func(ctx context.Context, q *route.Request, in otherRequest) error {
			return r.Unban(ctx, q.Param("roomID"), q.UserID, in.UserID, in.Reason)
		})}, "POST", room+"/unban"),
		both(route.Route{Op: "leaveRoom", Limit: route.Membership, Handle: route.JSON(r.leave)}, "POST", room+"/leave"),
		both(route.Route{Op: "forgetRoom", Limit: route.Membership, Handle: route.JSON(r.forget)}, "POST", room+"/forget"),
		both(route.Route{Op: "getJoinedRooms", Limit: route.Reads, Handle: route.Get(r.joinedRooms)}, "GET", "/joined_rooms"),
		both(route.Route{Op: "sendMessage", Limit: route.Messages, Handle: r.sendMessage}, "PUT", room+"/send/{eventType}/{txnID}"),
		both(route.Route{Op: "setRoomStateWithKey", Limit: route.Messages, Handle: r.setState,
			Aliases: []string{v3 + room + "/state/{eventType}", v3 + room + "/state/{eventType}/{$}",
				"/_matrix/client/r0" + room + "/state/{eventType}", "/_matrix/client/r0" + room + "/state/{eventType}/{$}"}},
			"PUT", room+"/state/{eventType}/{stateKey}"),
		both(route.Route{Op: "redactEvent", Limit: route.Messages, Handle: route.JSON(r.redact)}, "PUT", room+"/redact/{eventID}/{txnID}"),
		both(route.Route{Op: "setRoomAlias", Limit: route.Reads, Handle: route.JSON(r.putAlias)}, "PUT", "/directory/room/{alias}"),
		both(route.Route{Op: "deleteRoomAlias", Limit: route.Reads, Handle: route.Get(r.deleteAlias)}, "DELETE", "/directory/room/{alias}"),
		{Op: "getRoomIdByAlias", Auth: route.Optional, Limit: route.Reads, Handle: route.Get(r.getAlias),
			Pattern: "GET " + v3 + "/directory/room/{alias}", Aliases: []string{"/_matrix/client/r0/directory/room/{alias}"}},
		both(route.Route{Op: "getLocalAliases", Limit: route.Reads, Handle: route.Get(r.roomAliases),
			Aliases: []string{"/_matrix/client/unstable/org.matrix.msc2432/rooms/{roomID}/aliases"}}, "GET", room+"/aliases"),
		{Op: "getRoomVisibilityOnDirectory", Auth: route.Optional, Limit: route.Reads, Handle: route.Get(r.getListed),
			Pattern: "GET " + v3 + "/directory/list/room/{roomID}", Aliases: []string{"/_matrix/client/r0/directory/list/room/{roomID}"}},
		both(route.Route{Op: "setRoomVisibilityOnDirectory", Limit: route.Reads, Handle: route.JSON(r.putListed)}, "PUT", "/directory/list/room/{roomID}"),
		{Op: "getPublicRooms", Auth: route.Optional, Limit: route.Reads, Handle: route.Get(r.getPublicRooms),
			Pattern: "GET " + v3 + "/publicRooms", Aliases: []string{"/_matrix/client/r0/publicRooms"}},
		both(route.Route{Op: "queryPublicRooms", Limit: route.Reads, Handle: route.JSON(r.postPublicRooms)}, "POST", "/publicRooms"),
		both(route.Route{Op: "upgradeRoom", Limit: route.Membership, Handle: route.JSON(r.upgrade)}, "POST", room+"/upgrade"),
		{Op: "getRoomSummary", Auth: route.Optional, Limit: route.Reads, Handle: route.Get(r.getSummary),
			Pattern: "GET /_matrix/client/v1/room_summary/{roomID}",
			Aliases: []string{"/_matrix/client/unstable/im.nheko.summary/rooms/{roomID}/summary", "/_matrix/client/unstable/im.nheko.summary/summary/{roomID}"}},
		{Op: "getSpaceHierarchy", Auth: route.User, Limit: route.Reads, Handle: route.Get(r.getHierarchy),
			Pattern: "GET /_matrix/client/v1/rooms/{roomID}/hierarchy"},
		{Op: "getMutualRooms", Auth: route.User, Limit: route.Reads, Handle: route.Get(r.getMutual),
			Pattern: "GET /_matrix/client/v1/mutual_rooms",
			Aliases: []string{"/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"}},
	}
}

type roomIDResponse struct {
	RoomID string `json:"room_id"`
}

func (r *Rooms) create(ctx context.Context, q *route.Request, in Create) (roomIDResponse, error) {
	if err := q.NotSuspended(); err != nil {
		return roomIDResponse{}, err
	}
	if in.Alias != "" {
		if err := r.mayTake(mx.RoomAlias(in.Alias, r.o.ServerName), q); err != nil {
			return roomIDResponse{}, err
		}
	}
	if err := r.askUsers(ctx, in.Invite...); err != nil {
		return roomIDResponse{}, err
	}
	if r.o.ForcesEncryption != nil && q.Appservice == "" && r.o.ForcesEncryption(in.preset()) {
		in.encrypt()
	}
	id, err := r.Create(ctx, q.UserID, in)
	return roomIDResponse{id}, err
}

// askUsers asks application services for users of theirs that nobody made yet.
func (r *Rooms) askUsers(ctx context.Context, users ...string) error {
	if r.o.AskUser == nil {
		return nil
	}
	for _, u := range users {
		if err := r.o.AskUser(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// resolve is the room of an ID or alias. An application service may make it now.
func (r *Rooms) resolve(ctx context.Context, idOrAlias string) (id string, err error) {
	find := func(s store.Querier) error {
		id, err = r.Resolve(s, idOrAlias)
		return err
	}
	err = r.db.Read(ctx, find)
	var e *mx.Error
	if r.o.AskAlias == nil || !errors.As(err, &e) || e.Code != mx.NotFound || mx.Domain(idOrAlias) != r.o.ServerName {
		return id, err
	}
	switch made, ask := r.o.AskAlias(ctx, idOrAlias); {
	case ask != nil:
		return "", ask
	case !made:
		return "", err
	}
	return id, r.db.Read(ctx, find)
}

func (r *Rooms) join(ctx context.Context, q *route.Request, in map[string]json.RawMessage) (out roomIDResponse, err error) {
	if q.Suspended { // before an application service is asked for a name
		if err := r.mayAct(ctx, q, q.Param("roomID")); err != nil {
			return out, err
		}
	}
	if out.RoomID, err = r.resolve(ctx, q.Param("roomID")); err != nil {
		return out, err
	}
	reason := ""
	if raw, ok := in["reason"]; ok && json.Unmarshal(raw, &reason) != nil {
		return out, mx.Errorf(mx.BadJSON, "The reason must be a string.")
	}
	if signed, ok := in["third_party_signed"]; ok && string(signed) != "null" {
		return out, r.joinSigned(ctx, out.RoomID, q.UserID, reason, signed)
	}
	return out, r.Join(ctx, out.RoomID, q.UserID, reason, nil)
}

type reasonRequest struct {
	Reason string `json:"reason"`
}

func (r *Rooms) knock(ctx context.Context, q *route.Request, in reasonRequest) (out roomIDResponse, err error) {
	if err := q.NotSuspended(); err != nil {
		return out, err
	}
	if out.RoomID, err = r.resolve(ctx, q.Param("roomID")); err != nil {
		return out, err
	}
	return out, r.Knock(ctx, out.RoomID, q.UserID, in.Reason)
}

func (r *Rooms) leave(ctx context.Context, q *route.Request, in reasonRequest) (route.Empty, error) {
	return route.Empty{}, r.leaveIf(ctx, q.Param("roomID"), q.UserID, in.Reason, func(b *batch) error { return b.mustStay(q.UserID) })
}

func (r *Rooms) forget(ctx context.Context, q *route.Request, _ struct{}) (route.Empty, error) {
	return route.Empty{}, r.Forget(ctx, q.Param("roomID"), q.UserID)
}

type otherRequest struct {
	UserID   string `json:"user_id"`
	Reason   string `json:"reason"`
	IsDirect bool   `json:"is_direct"`

	Medium string `json:"medium"`
}

// other makes a handler of what one user does to another.
func (r *Rooms) other(f func(ctx context.Context, q *route.Request, in otherRequest) error) route.Handler {
	return route.JSON(func(ctx context.Context, q *route.Request, in otherRequest) (route.Empty, error) {
		if err := q.NotSuspended(); err != nil {
			return route.Empty{}, err
		}
		if in.UserID == "" && in.Medium != "" {
			return route.Empty{}, mx.Errorf(mx.ThreepidNotFound, "This server cannot invite by e-mail address or telephone number.")
		}
		if in.UserID == "" {
			return route.Empty{}, mx.Errorf(mx.MissingParam, "Name the user in user_id.")
		}
		return route.Empty{}, f(ctx, q, in)
	})
}

func (r *Rooms) joinedRooms(ctx context.Context, q *route.Request) (any, error) {
	list := []string{}
	err := r.db.Read(ctx, func(s store.Querier) error {
		ids, err := r.JoinedRooms(s, q.UserID)
		list = append(list, ids...)
		return err
	})
	return map[string]any{"joined_rooms": list}, err
}

type eventIDResponse struct {
	EventID string `json:"event_id"`
}

// maxTimestamp is the largest integer that canonical JSON has.
const maxTimestamp = 1<<53 - 1

// timestamp is the ts parameter, which only application services may give.
func timestamp(q *route.Request) (int64, error) {
	ts := q.Query("ts")
	if ts == "" || q.Appservice == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(ts, 10, 64)
	if err != nil || n <= 0 || n > maxTimestamp {
		return 0, mx.Errorf(mx.InvalidParam, "ts must be a time in milliseconds since 1970.")
	}
	return n, nil
}

func (r *Rooms) sendMessage(ctx context.Context, q *route.Request) (any, error) {
	body := json.RawMessage(q.RawBody())
	var err error
	if q.Param("eventType") == mx.RoomRedaction {
		err = r.mayRedact(ctx, q, pdu.FieldString(body, "redacts"))
	} else {
		err = r.mayAct(ctx, q, q.Param("roomID"))
	}
	if err != nil {
		return nil, err
	}
	ts, err := timestamp(q)
	if err != nil {
		return nil, err
	}
	if len(body) == 0 {
		return nil, mx.Errorf(mx.NotJSON, "Send the event's content as a JSON object.")
	}
	id, err := r.Send(ctx, NewEvent{RoomID: q.Param("roomID"), Sender: q.UserID, DeviceID: device(q), TxnID: q.Param("txnID"),
		Type: q.Param("eventType"), Content: body, Timestamp: ts})
	if err != nil {
		return nil, err
	}
	return eventIDResponse{id}, nil
}

// device scopes transaction IDs. An application service without a device has one
// scope of its own for each user.
func device(q *route.Request) string {
	if q.DeviceID == "" && q.Appservice != "" {
		return "appservice " + q.Appservice
	}
	return q.DeviceID
}

func (r *Rooms) setState(ctx context.Context, q *route.Request) (any, error) {
	body, key := json.RawMessage(q.RawBody()), q.Param("stateKey")
	leaving := q.Param("eventType") == mx.RoomMember && key == q.UserID && pdu.FieldString(body, "membership") == mx.Leave
	if err := r.mayAct(ctx, q, q.Param("roomID")); err != nil && !leaving {
		return nil, err
	}
	ts, err := timestamp(q)
	if err != nil {
		return nil, err
	}
	if len(body) == 0 {
		return nil, mx.Errorf(mx.NotJSON, "Send the event's content as a JSON object.")
	}
	id, err := r.Send(ctx, NewEvent{RoomID: q.Param("roomID"), Sender: q.UserID, Type: q.Param("eventType"), StateKey: &key, Content: body, Timestamp: ts})
	if err != nil {
		return nil, err
	}
	return eventIDResponse{id}, nil
}

func noRoom(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return errNoRoom
	}
	return err
}
