// Package oldsync answers the operations by which clients followed their rooms
// before there was /sync: /initialSync, /events, and their like for one room or event.
// The specification has deprecated them; bots in use still call them.
//
// Invariants: their tokens are those of /sync; /events tells every event that the
// user may see after a token once, in the order of positions, and has no gaps.
package oldsync

import (
	"context"
	"encoding/json"
	"errors"
	"sort"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/route"
	"holdfast/homeserver/timeline"
	"holdfast/homeserver/userdata"
	"holdfast/store"
)

// Options of New.
type Options struct {
	DB       *store.DB
	Hub      *notify.Hub
	Rooms    *rooms.Rooms
	Timeline *timeline.Timeline
	// AccountData gives a user's account data that changed in (from, to].
	AccountData func(q store.Querier, userID string, from, to int64) (global []userdata.Data, byRoom map[string][]userdata.Data, err error)
	// Presence gives the presence that changed in (from, to] of the users that visible accepts.
	Presence func(from, to int64, visible func(userID string) bool) []mx.Raw
	// Ignored gives the users of whom a user wants nothing.
	Ignored func(q store.Querier, userID string) (map[string]bool, error)
}

// Service answers. Its methods are safe for concurrent use.
type Service struct{ o Options }

// New makes a Service.
func New(o Options) *Service { return &Service{o} }

// Routes are the package's operations.
func (s *Service) Routes() []route.Route {
	get := func(op, path string, h route.Handler) route.Route {
		return route.Route{Op: op, Pattern: "GET /_matrix/client/v3" + path, Aliases: []string{"/_matrix/client/r0" + path}, Auth: route.User, Limit: route.Reads, Waits: true, Handle: h}
	}
	return []route.Route{
		get("initialSync", "/initialSync", route.Get(s.initial)),
		get("roomInitialSync", "/rooms/{roomID}/initialSync", route.Get(s.room)),
		get("getEvents", "/events", route.Get(s.events)), // with room_id it is peekEvents
		get("getOneEvent", "/events/{eventID}", route.Get(s.event)),
	}
}

type initialResponse struct {
	End         string          `json:"end"`
	Presence    []mx.Raw        `json:"presence"`
	Rooms       []roomInfo      `json:"rooms"`
	AccountData []userdata.Data `json:"account_data"`
}

type roomInfo struct {
	RoomID      string            `json:"room_id"`
	Membership  string            `json:"membership,omitempty"`
	Invite      json.RawMessage   `json:"invite,omitempty"`
	Messages    *messages         `json:"messages,omitempty"`
	State       []json.RawMessage `json:"state,omitempty"`
	Visibility  string            `json:"visibility"`
	AccountData []userdata.Data   `json:"account_data,omitempty"`
}

type messages struct {
	Start string            `json:"start"`
	End   string            `json:"end"`
	Chunk []json.RawMessage `json:"chunk"`
}

const (
	defaultMessages = 10
	maxMessages     = 100
)

// Spec: cs#get_matrixclientv3initialsync
func (s *Service) initial(ctx context.Context, r *route.Request) (out initialResponse, err error) {
	limit, err := r.Int("limit", defaultMessages)
	if err != nil {
		return out, err
	}
	archived, err := r.Bool("archived")
	if err != nil {
		return out, err
	}
	to := s.o.DB.Pos()
	out.End, out.Rooms, out.Presence, out.AccountData = timeline.At(to).String(), []roomInfo{}, []mx.Raw{}, []userdata.Data{}
	return out, s.o.DB.Read(ctx, func(q store.Querier) error {
		global, byRoom, err := s.o.AccountData(q, r.UserID, 0, to)
		if err != nil {
			return err
		}
		out.AccountData = append(out.AccountData, global...)
		var failed error
		out.Presence = append(out.Presence, s.o.Presence(0, to, func(userID string) bool {
			ok, err := s.o.Rooms.ShareRoom(q, r.UserID, userID)
			failed = errors.Join(failed, err)
			return ok || userID == r.UserID
		})...)
		if failed != nil {
			return failed
		}
		ignored, err := s.o.Ignored(q, r.UserID)
		if err != nil {
			return err
		}
		list, err := s.o.Rooms.Rooms(q, r.UserID)
		if err != nil {
			return err
		}
		sort.Slice(list, func(i, j int) bool { return list[i].Pos < list[j].Pos })
		for _, m := range list {
			info := roomInfo{RoomID: m.RoomID, Membership: m.Membership}
			switch {
			case m.Pos > to:
				continue
			case m.Membership == mx.Invite:
				if ignored[m.Sender] {
					continue
				}
				e, err := s.o.Rooms.EventAt(q, m.Pos)
				if err != nil {
					return err
				}
				view, err := s.o.Timeline.View(q, m.RoomID, r.UserID, to)
				if err != nil {
					return err
				}
				if info.Invite, err = s.o.Timeline.Append(nil, q, e, timeline.Reader{UserID: r.UserID, DeviceID: r.DeviceID, To: to, Now: time.Now().UnixMilli(), View: view}); err != nil {
					return err
				}
			case m.Membership == mx.Join, archived && !m.Forgotten && (m.Membership == mx.Leave || m.Membership == mx.Ban):
				p, err := s.o.Timeline.Enter(q, m.RoomID, timeline.Reader{UserID: r.UserID, DeviceID: r.DeviceID, To: to})
				var refused *mx.Error
				if errors.As(err, &refused) { // an invitation that came to nothing
					continue
				}
				if err != nil {
					return err
				}
				if err := fill(&info, p, limit); err != nil {
					return err
				}
				info.AccountData = byRoom[m.RoomID]
			default:
				continue
			}
			if err := s.visibility(q, &info); err != nil {
				return err
			}
			out.Rooms = append(out.Rooms, info)
		}
		return nil
	})
}

// fill adds what a room says and is.
func fill(info *roomInfo, p *timeline.Page, limit int) error {
	events, start, end, err := p.Recent(min(limit, maxMessages))
	if err != nil {
		return err
	}
	info.Messages = &messages{Start: start.String(), End: end.String()}
	if info.Messages.Chunk, err = p.List(events); err != nil {
		return err
	}
	state, err := p.State(nil)
	if err != nil {
		return err
	}
	info.State, err = p.List(state)
	return err
}

func (s *Service) visibility(q store.Querier, info *roomInfo) error {
	public, err := s.o.Rooms.Listed(q, info.RoomID)
	info.Visibility = "private"
	if public {
		info.Visibility = "public"
	}
	return err
}

// room is initial for one room, also for who may only look into it.
// Spec: cs#get_matrixclientv3roomsroomidinitialsync
func (s *Service) room(ctx context.Context, r *route.Request) (out roomInfo, err error) {
	limit, err := r.Int("limit", defaultMessages)
	if err != nil {
		return out, err
	}
	to := s.o.DB.Pos()
	out.RoomID = r.Param("roomID")
	return out, s.o.DB.Read(ctx, func(q store.Querier) error {
		p, err := s.o.Timeline.Enter(q, out.RoomID, timeline.Reader{UserID: r.UserID, DeviceID: r.DeviceID, To: to})
		if err != nil {
			return err
		}
		out.Membership = p.View().Now()
		if err := fill(&out, p, limit); err != nil {
			return err
		}
		_, byRoom, err := s.o.AccountData(q, r.UserID, 0, to)
		if err != nil {
			return err
		}
		out.AccountData = byRoom[out.RoomID]
		return s.visibility(q, &out)
	})
}

// Spec: cs#get_matrixclientv3eventseventid
func (s *Service) event(ctx context.Context, r *route.Request) (out mx.Raw, err error) {
	absent := mx.Errorf(mx.NotFound, "You can see no event with this ID.")
	to := s.o.DB.Pos()
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		e, err := s.o.Rooms.EventByID(q, r.Param("eventID"))
		if errors.Is(err, store.ErrNotFound) {
			return absent
		}
		if err != nil {
			return err
		}
		p, err := s.o.Timeline.Enter(q, e.RoomID, timeline.Reader{UserID: r.UserID, DeviceID: r.DeviceID, To: to})
		var refused *mx.Error
		if errors.As(err, &refused) || err == nil && (e.Pos > to || !p.View().Sees(e)) {
			return absent
		}
		if err != nil {
			return err
		}
		out, err = p.Raw(e)
		return err
	})
	return out, err
}

type eventsResponse struct {
	Start string            `json:"start"`
	End   string            `json:"end"`
	Chunk []json.RawMessage `json:"chunk"`
}

const (
	maxEvents  = 100 // in one answer
	maxTimeout = 2 * time.Minute
)

// events waits for events after a token, in all rooms of the user, or in one that
// the user is in: there is no peeking into others.
// Spec: cs#get_matrixclientv3events, cs#get_matrixclientv3events-1 (peekEvents)
func (s *Service) events(ctx context.Context, r *route.Request) (out eventsResponse, err error) {
	ms, err := r.Int("timeout", 0)
	if err != nil {
		return out, err
	}
	end := time.Now().Add(min(time.Duration(min(ms, 1<<30))*time.Millisecond, maxTimeout))
	from := s.o.DB.Pos()
	if f := r.Query("from"); f != "" {
		t, err := timeline.ParseToken(f)
		if err != nil {
			return out, err
		}
		from = min(t.Pos, from)
	}
	roomID, one := r.Query("room_id"), r.QueryValues().Has("room_id")
	out.Start = timeline.At(from).String()
	sub := s.o.Hub.Subscribe()
	defer sub.Close()
	for {
		var to, next int64
		// The keys first, then the position: what comes between is seen, or wakes.
		if err := s.o.DB.Read(ctx, func(q store.Querier) error { return s.subscribe(q, sub, r.UserID, roomID, one) }); err != nil {
			return out, err
		}
		to = s.o.DB.Pos()
		err := s.o.DB.Read(ctx, func(q store.Querier) (err error) {
			out.Chunk, next, err = s.since(q, r, roomID, one, from, to)
			return err
		})
		if err != nil {
			return out, err
		}
		out.End = timeline.At(next).String()
		if len(out.Chunk) > 0 || !sub.Wait(ctx, to, time.Until(end)) {
			return out, nil
		}
	}
}

// subscribe waits for what changes in the rooms. Errors: Forbidden.
func (s *Service) subscribe(q store.Querier, sub *notify.Sub, userID, roomID string, one bool) error {
	if one {
		joined, err := s.o.Rooms.IsJoined(q, roomID, userID)
		if err == nil && !joined {
			err = mx.Errorf(mx.Forbidden, "You are not in this room, and this server lets nobody look in from outside.")
		}
		if err == nil {
			sub.Set([]notify.Key{{Kind: notify.Room, Key: roomID}, {Kind: notify.Member, Key: userID}})
		}
		return err
	}
	list, err := s.o.Rooms.JoinedRooms(q, userID)
	if err != nil {
		return err
	}
	keys := []notify.Key{{Kind: notify.Member, Key: userID}}
	for _, id := range list {
		keys = append(keys, notify.Key{Kind: notify.Room, Key: id})
	}
	sub.Set(keys)
	return nil
}

// since gives the first events in (from, to] that the user may see, and where to go
// on: behind the last one, or at to.
func (s *Service) since(q store.Querier, r *route.Request, roomID string, one bool, from, to int64) ([]json.RawMessage, int64, error) {
	list, err := s.o.Rooms.Rooms(q, r.UserID)
	if err != nil {
		return nil, 0, err
	}
	type seen struct {
		pos int64
		raw json.RawMessage
	}
	var all []seen
	for _, m := range list {
		if m.Forgotten || one && m.RoomID != roomID || m.Membership != mx.Join && m.Pos <= from {
			continue
		}
		end := to
		if m.Membership != mx.Join {
			end = min(to, m.Pos)
		}
		view, err := s.o.Timeline.View(q, m.RoomID, r.UserID, to)
		if err != nil {
			return nil, 0, err
		}
		ignored, err := s.o.Ignored(q, r.UserID)
		if err != nil {
			return nil, 0, err
		}
		reader := timeline.Reader{UserID: r.UserID, DeviceID: r.DeviceID, To: to, Now: time.Now().UnixMilli(), View: view}
		for at, n := from, 0; n < maxEvents; {
			events, more, err := s.o.Rooms.First(q, m.RoomID, at, end, maxEvents)
			if err != nil {
				return nil, 0, err
			}
			for _, e := range events {
				at = e.Pos
				// An invitation is told to whom it is for.
				mine := e.IsStateOf(mx.RoomMember, r.UserID) && e.Membership() == mx.Invite && !ignored[e.Sender]
				if !mine && (!view.Sees(e) || e.StateKey == nil && ignored[e.Sender]) {
					continue
				}
				raw, err := s.o.Timeline.Append(nil, q, e, reader)
				if err != nil {
					return nil, 0, err
				}
				all = append(all, seen{e.Pos, raw})
				n++
			}
			if !more {
				break
			}
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].pos < all[j].pos })
	if len(all) > maxEvents {
		all = all[:maxEvents]
		to = all[maxEvents-1].pos
	}
	chunk := make([]json.RawMessage, len(all))
	for i, e := range all {
		chunk[i] = e.raw
	}
	// Where a room had as many, what it has beyond them was not looked at.
	if len(all) == maxEvents {
		to = all[maxEvents-1].pos
	}
	return chunk, to, nil
}
