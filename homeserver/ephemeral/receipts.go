package ephemeral

import (
	"context"
	"encoding/json"
	"slices"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// mainThread is the thread_id of events in no thread.
const mainThread = "main"

// receipt is one row of room_receipts.
type receipt struct {
	roomID, userID, typ, thread, eventID string
	eventPos, ts, pos                    int64
}

type receiptRequest struct {
	Thread mx.Raw `json:"thread_id"`
}

// Spec: cs#post_matrixclientv3roomsroomidreceiptreceipttypeeventid
func (s *Service) postReceipt(ctx context.Context, r *route.Request, in receiptRequest) (out route.Empty, err error) {
	typ, thread := r.Param("receiptType"), ""
	switch typ {
	case mx.Read, mx.ReadPrivate, mx.FullyRead:
	default:
		return out, mx.Errorf(mx.InvalidParam, "A receipt is m.read, m.read.private or m.fully_read.")
	}
	if in.Thread != nil {
		if typ == mx.FullyRead {
			return out, mx.Errorf(mx.InvalidParam, "m.fully_read knows no threads.")
		}
		if json.Unmarshal(in.Thread, &thread) != nil || thread == "" {
			return out, mx.Errorf(mx.InvalidParam, "The thread_id must be a string and not empty.")
		}
		if thread != mainThread && !mx.ValidEventID(thread) {
			return out, mx.Errorf(mx.InvalidParam, "The thread_id must be %q or an event ID.", mainThread)
		}
	}
	return out, s.mark(ctx, r, []mark{{typ, thread, r.Param("eventID")}})
}

type markersRequest struct {
	FullyRead   string `json:"m.fully_read"`
	Read        string `json:"m.read"`
	ReadPrivate string `json:"m.read.private"`
}

// Spec: cs#post_matrixclientv3roomsroomidread_markers
func (s *Service) postMarkers(ctx context.Context, r *route.Request, in markersRequest) (out route.Empty, err error) {
	var marks []mark
	for _, m := range []mark{{mx.FullyRead, "", in.FullyRead}, {mx.Read, "", in.Read}, {mx.ReadPrivate, "", in.ReadPrivate}} {
		if m.eventID != "" {
			marks = append(marks, m)
		}
	}
	if len(marks) == 0 {
		return out, s.o.DB.Read(ctx, func(q store.Querier) error { return s.joined(q, r.Param("roomID"), r.UserID) })
	}
	return out, s.mark(ctx, r, marks)
}

type mark struct{ typ, thread, eventID string }

// mark moves receipts and markers of a request's user forward, never back.
func (s *Service) mark(ctx context.Context, r *route.Request, marks []mark) error {
	roomID, userID := r.Param("roomID"), r.UserID
	s.Active(userID)
	at := make([]int64, len(marks))
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		if err := s.joined(q, roomID, userID); err != nil {
			return err
		}
		for i, m := range marks {
			pos, err := s.o.Rooms.EventPos(q, roomID, m.eventID)
			if err == store.ErrNotFound {
				err = mx.Errorf(mx.NotFound, "The room has no event %.80q.", m.eventID)
			}
			if err != nil {
				return err
			}
			at[i] = pos
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		for i, m := range marks {
			if err := s.move(tx, roomID, userID, m, at[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Service) move(tx *store.Tx, roomID, userID string, m mark, eventPos int64) error {
	old, err := loadReceiptPos(tx, roomID, userID, m.typ, m.thread)
	if err != nil && err != store.ErrNotFound {
		return err
	}
	if err == nil && old >= eventPos {
		return nil
	}
	rc := receipt{roomID, userID, m.typ, m.thread, m.eventID, eventPos, s.o.Now().UnixMilli(), tx.NextPos()}
	if err := upsertReceipt(tx, rc); err != nil {
		return err
	}
	switch m.typ {
	case mx.Read:
		tx.Touch(notify.Receipt, roomID)
	case mx.ReadPrivate:
		tx.Touch(notify.User, userID)
	case mx.FullyRead:
		// The row above only keeps the marker from moving back.
		content, err := json.Marshal(map[string]string{"event_id": m.eventID})
		if err != nil {
			return err
		}
		return s.o.SetRoomData(tx, userID, roomID, mx.FullyRead, content)
	}
	return nil
}

// Receipts gives the content of the m.receipt event for what changed in (from, to]
// (from 0: all), or nil. Private receipts are only those of forUser; those of ignored
// users are left out.
func (s *Service) Receipts(q store.Querier, roomID, forUser string, from, to int64, ignored map[string]bool) (mx.Raw, error) {
	list, err := listReceipts(q, roomID, forUser, from, to)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(rc receipt) bool { return ignored[rc.userID] })
	if len(list) == 0 {
		return nil, nil
	}
	type entry struct {
		TS     int64  `json:"ts"`
		Thread string `json:"thread_id,omitempty"`
	}
	content := map[string]map[string]map[string]entry{}
	for _, rc := range list {
		byType := content[rc.eventID]
		if byType == nil {
			byType = map[string]map[string]entry{}
			content[rc.eventID] = byType
		}
		if byType[rc.typ] == nil {
			byType[rc.typ] = map[string]entry{}
		}
		// A user may have an unthreaded and a threaded receipt on one event, for
		// which the content has one place: the unthreaded one says more.
		if have, ok := byType[rc.typ][rc.userID]; !ok || have.Thread != "" {
			byType[rc.typ][rc.userID] = entry{rc.ts, rc.thread}
		}
	}
	return json.Marshal(content)
}

// Receipt is how far a user has read a room or one of its threads.
type Receipt struct {
	RoomID, UserID, Type, Thread, EventID string
	TS, Pos                               int64 // ms; of the change
}

// ReceiptsAfter lists the receipts of all users and rooms, private ones too, that
// changed in (from, to], oldest change first, at most limit.
func (s *Service) ReceiptsAfter(q store.Querier, from, to int64, limit int) ([]Receipt, error) {
	return listReceiptsAfter(q, from, to, limit)
}

// PrivateRooms lists the rooms in which the user's private receipts moved in
// (from, to]: they touch notify.User, not notify.Receipt.
func (s *Service) PrivateRooms(q store.Querier, userID string, from, to int64) ([]string, error) {
	return listPrivateRooms(q, userID, from, to)
}

// Read reports whether a public or private receipt of the user in a room moved in
// (from, to].
func (s *Service) Read(q store.Querier, roomID, userID string, from, to int64) (bool, error) {
	return ownMoved(q, roomID, userID, from, to)
}

// ReadUpTo are positions of events up to which a user has read a room. A user's
// own events count as read too: who counts has to see to that.
type ReadUpTo struct {
	Unthreaded int64            // covers all threads
	Main       int64            // thread "main"
	Threads    map[string]int64 // by thread root; nil: none
}

// ReadUpTo gives how far the user's receipts, public and private, have come.
func (s *Service) ReadUpTo(q store.Querier, roomID, userID string) (out ReadUpTo, err error) {
	list, err := listOwnReceipts(q, roomID, userID)
	for _, rc := range list {
		switch rc.thread {
		case "":
			out.Unthreaded = max(out.Unthreaded, rc.eventPos)
		case mainThread:
			out.Main = max(out.Main, rc.eventPos)
		default:
			if out.Threads == nil {
				out.Threads = map[string]int64{}
			}
			out.Threads[rc.thread] = max(out.Threads[rc.thread], rc.eventPos)
		}
	}
	return out, err
}

// DeleteRoom deletes receipts of a room that is gone, at most limit at once, and tells
// how many; nobody types in it any more.
func (s *Service) DeleteRoom(tx *store.Tx, roomID string, limit int) (int64, error) {
	tx.AfterCommit(func() {
		s.mu.Lock()
		delete(s.typing, roomID)
		s.mu.Unlock()
	})
	return deleteRoom(tx, roomID, limit)
}

// Deactivated removes the receipts and the presence of an account that is closed.
func (s *Service) Deactivated(tx *store.Tx, userID string) error {
	tx.AfterCommit(func() {
		s.mu.Lock()
		delete(s.presence, userID)
		s.mu.Unlock()
	})
	if err := deletePresence(tx, userID); err != nil {
		return err
	}
	return deleteReceipts(tx, userID)
}
