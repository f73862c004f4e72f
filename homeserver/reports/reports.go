// Package reports takes what users report as inappropriate - events, rooms, other
// users - and keeps it for the administrators, who read it with List and Get.
//
// Invariants: an event is reported only by who is in its room and may see it; a
// room or a user by anybody; a report says nothing that its reporter did not write
// or could not read; numbers of reports are never used twice.
package reports

import (
	"context"
	"errors"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// Kind is what a report is about.
type Kind string

// The kinds of reports.
const (
	Event Kind = "event"
	Room  Kind = "room"
	User  Kind = "user"
)

// Report is one report.
type Report struct {
	ID       int64
	Kind     Kind
	RoomID   string // of Event and Room
	EventID  string // of Event
	UserID   string // whom it is about: the sender of the event, or the user
	Reporter string
	Reason   string
	Score    *int64 // of Event, from older clients: -100 is most offensive, 0 least; or nil
	Received int64  // ms
}

// Filter picks reports. What is empty does not restrict.
type Filter struct {
	Kind        Kind
	RoomID      string
	UserID      string // whom they are about
	Reporter    string
	From, Limit int // how many are left out first, and how many given then
	OldestFirst bool
}

// Options of New.
type Options struct {
	DB    *store.DB
	Rooms *rooms.Rooms
	// Event is an event of a room as a user sees it. Errors: *mx.Error Forbidden or
	// NotFound.
	Event func(q store.Querier, roomID, eventID, userID string) (*rooms.Event, error)
	// UserExists reports whether the server knows a user.
	UserExists func(q store.Querier, userID string) (bool, error)
	Now        func() time.Time // nil: time.Now
}

// Service takes reports. Its methods are safe for concurrent use.
type Service struct{ o Options }

// New makes a Service.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{o}
}

const v3 = "/_matrix/client/v3"

// Routes are the package's operations.
func (s *Service) Routes() []route.Route {
	post := func(op, path string, h route.Handler, aliases ...string) route.Route {
		return route.Route{Op: op, Pattern: "POST " + v3 + path, Aliases: aliases, Auth: route.User, Limit: route.Reports, MaxBody: 64 << 10, Handle: h}
	}
	return []route.Route{
		post("reportEvent", "/rooms/{roomID}/report/{eventID}", route.JSON(s.event), "/_matrix/client/r0/rooms/{roomID}/report/{eventID}"),
		post("reportRoom", "/rooms/{roomID}/report", route.JSON(s.room), "/_matrix/client/unstable/org.matrix.msc4151/rooms/{roomID}/report"),
		post("reportUser", "/users/{userID}/report", route.JSON(s.user), "/_matrix/client/unstable/org.matrix.msc4260/users/{userID}/report"),
	}
}

type request struct {
	Reason *string `json:"reason"`
	Score  *int64  `json:"score"`
}

// maxReason bounds a reason: it is written by a person, and read by one.
const maxReason = 10_000

func (in request) reason(required bool) (string, error) {
	switch {
	case in.Reason != nil && len(*in.Reason) > maxReason:
		return "", mx.Errorf(mx.TooLarge, "The reason is longer than %d bytes.", maxReason)
	case in.Reason != nil:
		return *in.Reason, nil
	case required:
		return "", mx.Errorf(mx.MissingParam, "Send a reason; it may be empty.")
	}
	return "", nil
}

// Spec: cs#post_matrixclientv3roomsroomidreporteventid
func (s *Service) event(ctx context.Context, r *route.Request, in request) (out route.Empty, err error) {
	rep := Report{Kind: Event, RoomID: r.Param("roomID"), EventID: r.Param("eventID"), Reporter: r.UserID, Score: in.Score}
	if rep.Reason, err = in.reason(false); err != nil {
		return out, err
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		// One answer, so that nobody finds out which rooms and events there are.
		absent := mx.Errorf(mx.NotFound, "The event was not found, or you are not in its room.")
		joined, err := s.o.Rooms.IsJoined(q, rep.RoomID, r.UserID)
		if err != nil {
			return err
		}
		if !joined {
			return absent
		}
		e, err := s.o.Event(q, rep.RoomID, rep.EventID, r.UserID)
		var own *mx.Error
		if errors.As(err, &own) {
			return absent
		}
		if err != nil {
			return err
		}
		rep.UserID = e.Sender
		return nil
	})
	if err != nil {
		return out, err
	}
	return out, s.store(ctx, rep)
}

// room takes a report of a room, also from who is not in it.
// Spec: cs#post_matrixclientv3roomsroomidreport
func (s *Service) room(ctx context.Context, r *route.Request, in request) (out route.Empty, err error) {
	rep := Report{Kind: Room, RoomID: r.Param("roomID"), Reporter: r.UserID}
	if rep.Reason, err = in.reason(true); err != nil {
		return out, err
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		known, err := s.o.Rooms.Known(q, rep.RoomID)
		if err == nil && !known {
			err = mx.Errorf(mx.NotFound, "The room was not found.")
		}
		return err
	})
	if err != nil {
		return out, err
	}
	return out, s.store(ctx, rep)
}

// user takes a report of a user, also from who shares no room with them.
// Spec: cs#post_matrixclientv3usersuseridreport
func (s *Service) user(ctx context.Context, r *route.Request, in request) (out route.Empty, err error) {
	rep := Report{Kind: User, UserID: r.Param("userID"), Reporter: r.UserID}
	if rep.Reason, err = in.reason(true); err != nil {
		return out, err
	}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		known, err := s.o.UserExists(q, rep.UserID)
		if err == nil && !known {
			err = mx.Errorf(mx.NotFound, "The user was not found.")
		}
		return err
	})
	if err != nil {
		return out, err
	}
	return out, s.store(ctx, rep)
}

func (s *Service) store(ctx context.Context, rep Report) error {
	rep.Received = s.o.Now().UnixMilli()
	return s.o.DB.Write(ctx, func(tx *store.Tx) error { return insert(tx, rep) })
}
