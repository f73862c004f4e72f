package admin

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/route"
	"holdfast/homeserver/tasks"
	"holdfast/store"
)

// What takes long is done by tasks. Their actions have the names that tools know.
const (
	deleteRoom   = "shutdown_and_purge_room"
	purgeHistory = "purge_history"
	redactUser   = "redact_all_events"
)

// Sizes of one write of a task: each is to take a few milliseconds.
const (
	usersAtOnce  = 25
	eventsAtOnce = 100
	rowsAtOnce   = 200
	lookedAtOnce = 2000 // events looked at in one read
)

func (s *Service) handleTasks() {
	s.o.Tasks.Handle(deleteRoom, s.runDelete)
	s.o.Tasks.Handle(purgeHistory, s.runPurge)
	s.o.Tasks.Handle(redactUser, s.runRedact)
}

// startTasks goes on with what was begun. Rooms that are being deleted take nobody in,
// from before the first request on.
func (s *Service) startTasks(ctx context.Context) error {
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		list, err := s.o.Tasks.List(q, tasks.Filter{Action: deleteRoom})
		for _, t := range list {
			if !t.Status.Ended() {
				s.o.Rooms.CloseJoins(t.Resource)
			}
		}
		return err
	})
	if err == nil {
		s.o.Tasks.Start(ctx)
	}
	return err
}

// Deleting rooms.

type deleteBody struct {
	NewRoomUser string `json:"new_room_user_id"`
	Name        string `json:"room_name"`
	Message     string `json:"message"`
	Block       bool   `json:"block"`
	Purge       *bool  `json:"purge"`
	Force       bool   `json:"force_purge"`
}

type deleteParams struct {
	By          string `json:"by"`
	NewRoomUser string `json:"new_room_user,omitempty"`
	Name        string `json:"name,omitempty"`
	Message     string `json:"message,omitempty"`
	Block       bool   `json:"block"`
	Purge       bool   `json:"purge"`
	Force       bool   `json:"force"`
}

// shutdown is the result of taking the people out of a room.
type shutdown struct {
	Kicked  []string `json:"kicked_users"`
	Failed  []string `json:"failed_to_kick_users"`
	Aliases []string `json:"local_aliases"`
	NewRoom *string  `json:"new_room_id"`
}

func noShutdown() shutdown {
	return shutdown{Kicked: []string{}, Failed: []string{}, Aliases: []string{}}
}

const (
	maxNotice   = 10_000 // bytes
	maxRoomName = 255
)

func (s *Service) deleteParams(ctx context.Context, r *route.Request, in deleteBody) (p deleteParams, known bool, err error) {
	roomID := r.Param("roomID")
	if err := checkRoomID(roomID); err != nil {
		return p, false, err
	}
	p = deleteParams{By: r.UserID, NewRoomUser: in.NewRoomUser, Name: in.Name, Message: in.Message, Block: in.Block, Purge: in.Purge == nil || *in.Purge, Force: in.Force}
	if in.NewRoomUser != "" && (!mx.ValidUserID(in.NewRoomUser) || mx.Domain(in.NewRoomUser) != s.o.ServerName) {
		return p, false, mx.Errorf(mx.InvalidParam, "new_room_user_id must be a user of this server.")
	}
	if len(in.Name) > maxRoomName || len(in.Message) > maxNotice {
		return p, false, mx.Errorf(mx.InvalidParam, "room_name has at most %d bytes, message at most %d.", maxRoomName, maxNotice)
	}
	if p.Name == "" {
		p.Name = "Your room was closed"
	}
	if p.Message == "" {
		p.Message = "The administrators of this server have closed the room that you were in. Ask them if you have questions."
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		known, err = s.o.Rooms.Known(q, roomID)
		return err
	})
	return p, known, err
}

func (s *Service) scheduleDelete(ctx context.Context, r *route.Request, p deleteParams) (id string, err error) {
	id, err = s.o.Tasks.Schedule(ctx, deleteRoom, r.Param("roomID"), p, "This room is being deleted already.")
	if err == nil {
		noted(ctx, "task", id)
		noted(ctx, "purge", strconv.FormatBool(p.Purge))
		noted(ctx, "force", strconv.FormatBool(p.Force))
	}
	return id, err
}

// deleteRoomV1 answers when the room is deleted. A room that is not known can be blocked.
func (s *Service) deleteRoomV1(ctx context.Context, r *route.Request, in deleteBody) (any, error) {
	p, known, err := s.deleteParams(ctx, r, in)
	if err != nil {
		return nil, err
	}
	if !known {
		if !p.Block {
			return nil, errNoRoom
		}
		return noShutdown(), s.o.Rooms.Block(ctx, r.Param("roomID"), r.UserID, true)
	}
	id, err := s.scheduleDelete(ctx, r, p)
	if err != nil {
		return nil, err
	}
	t, err := s.o.Tasks.Wait(ctx, id)
	if err != nil {
		return nil, err
	}
	if t.Status != tasks.Complete {
		return nil, mx.Errorf(mx.Unknown, "The room was not deleted. %s", t.Error)
	}
	return shutdownOf(t)
}

func (s *Service) deleteRoomV2(ctx context.Context, r *route.Request, in deleteBody) (any, error) {
	p, known, err := s.deleteParams(ctx, r, in)
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, errNoRoom
	}
	id, err := s.scheduleDelete(ctx, r, p)
	return map[string]string{"delete_id": id}, err
}

func shutdownOf(t tasks.Task) (shutdown, error) {
	out := noShutdown()
	if t.Result == nil {
		return out, nil
	}
	return out, json.Unmarshal(t.Result, &out)
}

type deleteStatus struct {
	ID       string       `json:"delete_id"`
	RoomID   string       `json:"room_id"`
	Status   tasks.Status `json:"status"`
	Error    string       `json:"error,omitempty"`
	Shutdown shutdown     `json:"shutdown_room"`
}

func toDeleteStatus(t tasks.Task) (out deleteStatus, err error) {
	out = deleteStatus{ID: t.ID, RoomID: t.Resource, Status: t.Status, Error: t.Error}
	out.Shutdown, err = shutdownOf(t)
	return out, err
}

func (s *Service) deleteStatuses(ctx context.Context, r *route.Request) (any, error) {
	if err := checkRoomID(r.Param("roomID")); err != nil {
		return nil, err
	}
	results := []deleteStatus{}
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		list, err := s.o.Tasks.List(q, tasks.Filter{Action: deleteRoom, Resource: r.Param("roomID")})
		if err != nil {
			return err
		}
		for _, t := range list {
			st, err := toDeleteStatus(t)
			if err != nil {
				return err
			}
			results = append(results, st)
		}
		return nil
	})
	if err == nil && len(results) == 0 {
		err = mx.Errorf(mx.NotFound, "Nobody has deleted this room lately.")
	}
	return map[string]any{"results": results}, err
}

// task is a task of an action by its ID. Errors: NotFound.
func (s *Service) task(ctx context.Context, id, action string) (t tasks.Task, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		t, err = s.o.Tasks.Get(q, id)
		return err
	})
	if errors.Is(err, store.ErrNotFound) || err == nil && t.Action != action {
		err = mx.Errorf(mx.NotFound, "Nothing is known under this ID. What has ended is forgotten after a week.")
	}
	return t, err
}

// deleteStatus answers two operations whose paths only differ in where delete_status
// stands: of one deletion, and of all of a room.
func (s *Service) deleteStatus(ctx context.Context, r *route.Request) (any, error) {
	if r.Param("roomID") != "delete_status" {
		if r.Param("deleteID") != "delete_status" {
			return nil, mx.Errorf(mx.Unrecognized, "There is no such operation.")
		}
		return s.deleteStatuses(ctx, r)
	}
	t, err := s.task(ctx, r.Param("deleteID"), deleteRoom)
	if err != nil {
		return nil, err
	}
	return toDeleteStatus(t)
}

// deleteCursor is how far the deletion of a room has come.
type deleteCursor struct {
	NewRoom string `json:"new_room,omitempty"`
	Said    bool   `json:"said,omitempty"`
	Moved   bool   `json:"moved,omitempty"`  // the aliases
	Forgot  string `json:"forgot,omitempty"` // the last user who has forgotten the room
	Number  int64  `json:"number,omitempty"` // of the room in the database, once it is out of sight
	Rows    bool   `json:"rows,omitempty"`   // its events are deleted
	Swept   int    `json:"swept,omitempty"`  // so many of Sweeps are done
}

// runDelete takes everybody out of a room, into another where one is wanted, and deletes
// all of it.
func (s *Service) runDelete(ctx context.Context, r *tasks.Run) error {
	var p deleteParams
	var c deleteCursor
	if err := errors.Join(r.Read(&p), r.Resume(&c)); err != nil {
		return err
	}
	out, err := shutdownOf(r.Task)
	if err != nil {
		return err
	}
	defer s.o.Rooms.CloseJoins(r.Resource)()
	d := &deletion{s: s, r: r, p: p, c: c, out: out}
	if c.Number == 0 {
		if err := d.empty(ctx); err != nil {
			return err
		}
		if !p.Purge {
			return d.forget(ctx)
		}
		if err := d.hide(ctx); err != nil {
			return err
		}
	}
	return d.sweep(ctx)
}

// deletion is the deletion of a room at work.
type deletion struct {
	s   *Service
	r   *tasks.Run
	p   deleteParams
	c   deleteCursor
	out shutdown
}

func (d *deletion) save(tx *store.Tx) error { return d.r.Save(tx, d.c, d.out) }

// write is a write with the cursor, as change leaves it.
func (d *deletion) write(ctx context.Context, change func(tx *store.Tx) error) error {
	c, out := d.c, d.out
	err := d.r.Write(ctx, func(tx *store.Tx) error {
		if err := change(tx); err != nil {
			return err
		}
		return d.save(tx)
	})
	if err != nil && ctx.Err() == nil {
		d.c, d.out = c, out
	}
	return err
}

// gone says that a room that is not there any more is nothing to work on.
func gone(err error) error {
	var e *mx.Error
	if errors.Is(err, store.ErrNotFound) || errors.As(err, &e) && e.Code == mx.NotFound {
		return tasks.ErrGone
	}
	return err
}

// empty takes everybody out of the room.
func (d *deletion) empty(ctx context.Context) error {
	rs, roomID := d.s.o.Rooms, d.r.Resource
	if d.p.Block {
		if err := rs.Block(ctx, roomID, d.p.By, true); err != nil {
			return err
		}
	}
	if d.p.NewRoomUser != "" {
		if err := d.replace(ctx); err != nil {
			return err
		}
	}
	failed := map[string]bool{}
	for {
		n := 0
		for _, kind := range []string{mx.Join, mx.Invite, mx.Knock} {
			for after := ""; ; {
				var users []string
				err := d.s.o.DB.Read(ctx, func(q store.Querier) (err error) {
					users, err = rs.MembersAfter(q, roomID, kind, after, usersAtOnce)
					return err
				})
				if err != nil {
					return gone(err)
				}
				if len(users) == 0 {
					break
				}
				after = users[len(users)-1]
				users = slices.DeleteFunc(users, func(u string) bool { return failed[u] })
				begun := time.Now()
				some, err := d.kick(ctx, users)
				if err != nil {
					return gone(err)
				}
				for _, u := range some {
					failed[u] = true
				}
				n += len(users) - len(some)
				if err := d.r.Pause(ctx, time.Since(begun)); err != nil {
					return err
				}
			}
		}
		if n == 0 { // nobody came meanwhile
			break
		}
	}
	d.out.Failed = d.out.Failed[:0]
	for u := range failed {
		d.out.Failed = append(d.out.Failed, u)
	}
	slices.Sort(d.out.Failed)
	if err := d.write(ctx, func(*store.Tx) error { return nil }); err != nil {
		return err
	}
	if len(failed) > 0 && d.p.Purge {
		return mx.Errorf(mx.Unknown, "There are still people in the room who could not be taken out: failed_to_kick_users names them. Nothing was deleted; force_purge does it all the same.")
	}
	return nil
}

// kick takes users out of the room, into the new one first, so that nobody is in
// neither if it is interrupted. It returns those who could not be.
func (d *deletion) kick(ctx context.Context, users []string) (failed []string, err error) {
	if len(users) == 0 {
		return nil, nil
	}
	rs := d.s.o.Rooms
	if d.c.NewRoom != "" {
		if _, err := rs.Admit(ctx, d.c.NewRoom, users); err != nil {
			return nil, err
		}
	}
	before := len(d.out.Kicked)
	d.out.Kicked = append(d.out.Kicked, users...)
	failed, err = rs.Depart(ctx, d.r.Resource, users, d.p.Force, d.save)
	if err != nil {
		d.out.Kicked = d.out.Kicked[:before]
		return nil, err
	}
	if len(failed) > 0 {
		d.out.Kicked = slices.DeleteFunc(d.out.Kicked, func(u string) bool { return slices.Contains(failed, u) })
	}
	return failed, nil
}

// replace makes the room that people are moved to, says there what happened, and moves
// the aliases.
func (d *deletion) replace(ctx context.Context) error {
	rs, user := d.s.o.Rooms, d.p.NewRoomUser
	if d.c.NewRoom == "" {
		// Who is moved can read, and no more.
		levels := map[string]json.RawMessage{"users_default": json.RawMessage("-10")}
		_, err := rs.Create(ctx, user, rooms.Create{Preset: "public_chat", Name: d.p.Name, PowerLevels: levels, With: func(tx *store.Tx, roomID string) error {
			d.c.NewRoom, d.out.NewRoom = roomID, &roomID
			tx.OnRollback(func() { d.c.NewRoom, d.out.NewRoom = "", nil })
			return d.save(tx)
		}})
		if err != nil {
			return err
		}
	}
	if !d.c.Said {
		content, err := json.Marshal(map[string]string{"msgtype": "m.text", "body": d.p.Message})
		if err != nil {
			return err
		}
		// The transaction makes it one message, also if this is done again.
		_, err = rs.Send(ctx, rooms.NewEvent{RoomID: d.c.NewRoom, Sender: user, DeviceID: "admin", TxnID: d.r.ID, Type: mx.RoomMessage, Content: content})
		if err != nil {
			return err
		}
		d.c.Said = true
	}
	if d.c.Moved {
		return nil
	}
	return gone(d.write(ctx, func(tx *store.Tx) error {
		list, err := rs.MoveAliases(tx, d.r.Resource, d.c.NewRoom, user)
		d.out.Aliases, d.c.Moved = append([]string{}, list...), true
		return err
	}))
}

// forget hides the room, which stays, from those who were in it.
func (d *deletion) forget(ctx context.Context) error {
	for more := true; more; {
		err := d.write(ctx, func(tx *store.Tx) error {
			last, err := d.s.o.Rooms.ForgetMembers(tx, d.r.Resource, d.c.Forgot, rowsAtOnce)
			more, d.c.Forgot = last != "", last
			return err
		})
		if err != nil {
			return gone(err)
		}
	}
	return nil
}

// hide takes the room out of sight.
func (d *deletion) hide(ctx context.Context) error {
	rs, roomID := d.s.o.Rooms, d.r.Resource
	if err := rs.Shut(ctx, roomID); err != nil {
		return gone(err)
	}
	defer func() {
		if d.c.Number == 0 {
			rs.Unshut(roomID)
		}
	}()
	for n := 1; n > 0; {
		err := d.write(ctx, func(tx *store.Tx) (err error) {
			n, err = rs.DropMembers(tx, roomID, usersAtOnce)
			return err
		})
		if err != nil {
			return gone(err)
		}
	}
	return gone(d.write(ctx, func(tx *store.Tx) (err error) {
		n, err := rs.Delete(tx, roomID)
		d.c.Number = n
		return err
	}))
}

// sweep deletes what the room has left behind.
func (d *deletion) sweep(ctx context.Context) error {
	for !d.c.Rows {
		err := d.write(ctx, func(tx *store.Tx) error {
			more, err := d.s.o.Rooms.DeleteRows(tx, d.c.Number, eventsAtOnce)
			d.c.Rows = !more
			return err
		})
		if err != nil {
			return err
		}
	}
	for d.c.Swept < len(d.s.o.Sweeps) {
		err := d.write(ctx, func(tx *store.Tx) error {
			n, err := d.s.o.Sweeps[d.c.Swept](tx, d.r.Resource, rowsAtOnce)
			if err == nil && n < rowsAtOnce {
				d.c.Swept++
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Purging history.

type purgeBody struct {
	EventID *string         `json:"purge_up_to_event_id"`
	TS      json.RawMessage `json:"purge_up_to_ts"`
	Local   bool            `json:"delete_local_events"`
}

type purgeParams struct {
	UpTo  int64 `json:"up_to"` // position
	Local bool  `json:"local"`
}

type purgeCursor struct {
	After  int64 `json:"after"`
	Purged int   `json:"purged"`
	Done   bool  `json:"done,omitempty"` // all but the counts of what is unread
}

func (s *Service) purge(ctx context.Context, r *route.Request, in purgeBody) (any, error) {
	roomID := r.Param("roomID")
	if err := checkRoomID(roomID); err != nil {
		return nil, err
	}
	eventID := r.Param("eventID")
	if eventID == "" && in.EventID != nil {
		eventID = *in.EventID
	}
	var ts int64
	switch {
	case eventID != "":
	case len(in.TS) == 0:
		return nil, mx.Errorf(mx.BadJSON, "Say up to where: purge_up_to_event_id or purge_up_to_ts.")
	case json.Unmarshal(in.TS, &ts) != nil || ts < 0 || string(in.TS) == "null":
		return nil, mx.Errorf(mx.BadJSON, "purge_up_to_ts must be a time in milliseconds.")
	}
	p := purgeParams{Local: in.Local}
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		if ok, err := s.o.Rooms.Known(q, roomID); err != nil || !ok {
			if err == nil {
				err = errNoRoom
			}
			return err
		}
		if eventID == "" {
			// As tools know it: the last event of that time stays.
			list, err := s.o.Rooms.Nearest(q, roomID, ts, false, math.MaxInt64, 1)
			if err == nil && len(list) == 0 {
				err = mx.Errorf(mx.NotFound, "The room has no event of that time or before.")
			}
			if err == nil {
				p.UpTo = list[0].Pos - 1
			}
			return err
		}
		e, err := s.o.Rooms.EventByID(q, eventID)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return mx.Errorf(mx.NotFound, "There is no event with this ID.")
		case err == nil && e.RoomID != roomID:
			return mx.Errorf(mx.InvalidParam, "The event is one of another room.")
		case err == nil:
			p.UpTo = e.Pos - 1
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	id, err := s.o.Tasks.Schedule(ctx, purgeHistory, roomID, p, "The history of this room is being purged already.")
	if err != nil {
		return nil, err
	}
	noted(ctx, "task", id)
	noted(ctx, "local", strconv.FormatBool(p.Local))
	return map[string]string{"purge_id": id}, nil
}

func (s *Service) purgeStatus(ctx context.Context, r *route.Request) (any, error) {
	t, err := s.task(ctx, r.Param("purgeID"), purgeHistory)
	if err != nil {
		return nil, err
	}
	out := map[string]any{"status": t.Status}
	switch t.Status {
	case tasks.Scheduled: // tools know three
		out["status"] = tasks.Active
	case tasks.Cancelled:
		out["status"], out["error"] = tasks.Failed, "The room is not there any more."
	case tasks.Failed:
		out["error"] = t.Error
	}
	return out, nil
}

// runPurge deletes the messages of a room up to a position.
func (s *Service) runPurge(ctx context.Context, r *tasks.Run) error {
	var p purgeParams
	var c purgeCursor
	if err := errors.Join(r.Read(&p), r.Resume(&c)); err != nil {
		return err
	}
	result := func() any { return map[string]int{"purged_events": c.Purged} }
	for !c.Done {
		next := c
		err := r.Write(ctx, func(tx *store.Tx) error {
			at, n, err := s.o.Rooms.PurgeHistory(tx, r.Resource, c.After, p.UpTo, p.Local, eventsAtOnce)
			if err != nil {
				return err
			}
			next = purgeCursor{After: at, Purged: c.Purged + n, Done: at >= p.UpTo}
			return r.Save(tx, next, map[string]int{"purged_events": next.Purged})
		})
		if err != nil {
			return gone(err)
		}
		c = next
	}
	if c.Purged == 0 {
		return nil
	}
	// What is unread is counted anew.
	for n := int64(rowsAtOnce); n == rowsAtOnce; {
		err := r.Write(ctx, func(tx *store.Tx) (err error) {
			if n, err = s.o.ForgetCounts(tx, r.Resource, rowsAtOnce); err != nil {
				return err
			}
			return r.Save(tx, c, result())
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Redacting all that somebody wrote.

type redactBody struct {
	Rooms    *[]string `json:"rooms"`
	Reason   string    `json:"reason"`
	Limit    *int      `json:"limit"`
	UseAdmin bool      `json:"use_admin"`
	After    *int64    `json:"after_ts"`
	Before   *int64    `json:"before_ts"`
}

type redactParams struct {
	By     string   `json:"by"` // who redacts; the user themselves, or an administrator
	Rooms  []string `json:"rooms"`
	Reason string   `json:"reason,omitempty"`
	Limit  int      `json:"limit"` // events in each room
	After  int64    `json:"after"` // ms
	Before int64    `json:"before"`
}

// redactCursor says where the search for events goes on.
type redactCursor struct {
	Room   int   `json:"room"`   // index
	Before int64 `json:"before"` // position; 0: the room's end
	Found  int   `json:"found"`  // in this room
	Sum    int   `json:"sum"`    // redacted, in all rooms
}

type redactResult struct {
	Failed map[string]string `json:"failed_redactions"`
	Sum    int               `json:"redacted"`
}

const (
	defaultRedacted = 1000
	maxRedactRooms  = 10_000
	maxReason       = 1000
	maxFailures     = 10_000 // that are told one by one
	redactedAtOnce  = 10     // between two pauses
)

func (s *Service) redactUser(ctx context.Context, r *route.Request, in redactBody) (any, error) {
	user := r.Param("userID")
	if !mx.ValidUserID(user) {
		return nil, mx.Errorf(mx.InvalidParam, "This is no user ID.")
	}
	if in.Rooms == nil {
		return nil, mx.Errorf(mx.MissingParam, "Name the rooms in rooms; an empty list means all.")
	}
	if len(*in.Rooms) > maxRedactRooms || len(in.Reason) > maxReason {
		return nil, mx.Errorf(mx.InvalidParam, "At most %d rooms can be named, and the reason has at most %d bytes.", maxRedactRooms, maxReason)
	}
	p := redactParams{Rooms: *in.Rooms, Reason: in.Reason, Limit: defaultRedacted, Before: math.MaxInt64}
	if in.Limit != nil {
		if p.Limit = *in.Limit; p.Limit < 1 {
			return nil, mx.Errorf(mx.InvalidParam, "limit must be a number above 0.")
		}
	}
	if in.After != nil {
		p.After = *in.After
	}
	if in.Before != nil {
		p.Before = *in.Before
	}
	if in.UseAdmin || mx.Domain(user) != s.o.ServerName {
		p.By = r.UserID
	}
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		for _, id := range p.Rooms {
			if ok, err := s.o.Rooms.Known(q, id); err != nil || !ok {
				if err == nil {
					err = mx.Errorf(mx.NotFound, "This server does not know the room %.300s.", id)
				}
				return err
			}
		}
		if len(p.Rooms) > 0 {
			return nil
		}
		p.Rooms = []string{}
		list, err := s.o.Rooms.Rooms(q, user, mx.Join, mx.Leave, mx.Ban)
		for _, m := range list {
			p.Rooms = append(p.Rooms, m.RoomID)
		}
		slices.Sort(p.Rooms)
		return err
	})
	if err != nil {
		return nil, err
	}
	id, err := s.o.Tasks.Schedule(ctx, redactUser, user, p, "What this user wrote is being redacted already.")
	if err != nil {
		return nil, err
	}
	noted(ctx, "task", id)
	return map[string]string{"redact_id": id}, nil
}

func (s *Service) redactStatus(ctx context.Context, r *route.Request) (any, error) {
	t, err := s.task(ctx, r.Param("redactID"), redactUser)
	if err != nil {
		return nil, err
	}
	out := map[string]any{"status": t.Status}
	switch t.Status {
	case tasks.Complete:
		res := redactResult{Failed: map[string]string{}}
		if t.Result != nil {
			if err := json.Unmarshal(t.Result, &res); err != nil {
				return nil, err
			}
		}
		out["failed_redactions"] = res.Failed
	case tasks.Failed:
		out["error"] = t.Error
	}
	return out, nil
}

// runRedact redacts what a user sent, room by room, newest first.
func (s *Service) runRedact(ctx context.Context, r *tasks.Run) error {
	var p redactParams
	var c redactCursor
	res := redactResult{Failed: map[string]string{}}
	err := errors.Join(r.Read(&p), r.Resume(&c))
	if r.Result != nil {
		err = errors.Join(err, json.Unmarshal(r.Result, &res))
	}
	if err != nil {
		return err
	}
	for c.Room < len(p.Rooms) {
		roomID := p.Rooms[c.Room]
		if c.Before == 0 {
			c.Before = math.MaxInt64
		}
		var list []rooms.Sent
		var next int64
		err := s.o.DB.Read(ctx, func(q store.Querier) error {
			list, next, err = s.o.Rooms.SentBy(q, roomID, r.Resource, c.Before, lookedAtOnce)
			return err
		})
		if errors.Is(err, store.ErrNotFound) { // deleted meanwhile
			list, next, err = nil, 0, nil
		}
		if err != nil {
			return err
		}
		begun := time.Now()
		for i, e := range list {
			if c.Found >= p.Limit {
				next = 0
				break
			}
			c.Found++
			if e.TS < p.After || e.TS > p.Before {
				continue
			}
			if p.By == "" {
				err = s.o.Rooms.TakeBack(ctx, roomID, e.EventID, p.Reason)
			} else {
				err = s.o.Rooms.RedactAs(ctx, roomID, p.By, e.EventID, p.Reason)
			}
			var refusal *mx.Error
			switch {
			case err == nil:
				c.Sum++
			case errors.As(err, &refusal):
				if len(res.Failed) < maxFailures {
					res.Failed[e.EventID] = refusal.Msg
				}
			default:
				return err
			}
			if (i+1)%redactedAtOnce == 0 {
				// What is redacted is not found again: the place need not be exact.
				if err := r.Pause(ctx, time.Since(begun)); err != nil {
					return err
				}
				begun = time.Now()
			}
		}
		c.Before = next
		if next == 0 {
			c.Room, c.Found = c.Room+1, 0
		}
		res.Sum = c.Sum
		if err := r.Write(ctx, func(tx *store.Tx) error { return r.Save(tx, c, res) }); err != nil {
			return err
		}
	}
	return nil
}

// scheduledTasks lists tasks.
func (s *Service) scheduledTasks(ctx context.Context, r *route.Request) (any, error) {
	q := &query{r: r}
	f := tasks.Filter{Action: r.Query("action_name"), Resource: r.Query("resource_id"), Before: q.number("max_timestamp", 0)}
	names := []string{""}
	for _, st := range tasks.Statuses {
		names = append(names, string(st))
	}
	f.Status = tasks.Status(q.oneOf("status", names...))
	if q.err != nil {
		return nil, q.err
	}
	type task struct {
		ID       string          `json:"id"`
		Action   string          `json:"action"`
		Status   tasks.Status    `json:"status"`
		Changed  int64           `json:"timestamp_ms"`
		Resource *string         `json:"resource_id"`
		Result   json.RawMessage `json:"result"`
		Error    *string         `json:"error"`
	}
	out := []task{}
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		list, err := s.o.Tasks.List(q, f)
		for _, t := range list {
			out = append(out, task{t.ID, t.Action, t.Status, t.Changed, text(t.Resource), t.Result, text(t.Error)})
		}
		return err
	})
	return map[string]any{"scheduled_tasks": out}, err
}
