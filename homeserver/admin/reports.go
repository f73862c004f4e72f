package admin

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/reports"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// eventReport is a report of an event; userReport one of a user.
type eventReport struct {
	ID       int64           `json:"id"`
	Received int64           `json:"received_ts"`
	RoomID   string          `json:"room_id"`
	Name     *string         `json:"name"`
	Alias    *string         `json:"canonical_alias"`
	EventID  string          `json:"event_id"`
	Reporter string          `json:"user_id"`
	Reason   string          `json:"reason"`
	Score    *int64          `json:"score"`
	Sender   string          `json:"sender"`
	Event    json.RawMessage `json:"event_json,omitempty"`
}

type userReport struct {
	ID       int64  `json:"id"`
	Received int64  `json:"received_ts"`
	Target   string `json:"target_user_id"`
	Reporter string `json:"user_id"`
	Reason   string `json:"reason"`
}

func (s *Service) eventReport(q store.Querier, rep reports.Report) (out eventReport, err error) {
	out = eventReport{ID: rep.ID, Received: rep.Received, RoomID: rep.RoomID, EventID: rep.EventID, Reporter: rep.Reporter, Reason: rep.Reason, Score: rep.Score, Sender: rep.UserID}
	o, err := s.overview(q, rep.RoomID)
	if errors.Is(err, errNoRoom) {
		return out, nil
	}
	out.Name, out.Alias = text(o.Name), text(o.Alias)
	return out, err
}

// listReports lists reports of a kind by the parameters that both lists have.
func (s *Service) listReports(ctx context.Context, r *route.Request, f reports.Filter, key string, show func(store.Querier, reports.Report) (any, error)) (any, error) {
	q := &query{r: r}
	f.From, f.Limit = q.page()
	f.OldestFirst = q.oneOf("dir", "b", "f") == "f"
	f.Reporter = r.Query("user_id")
	if q.err != nil {
		return nil, q.err
	}
	list, out := []any{}, map[string]any{}
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		found, total, err := reports.List(q, f)
		if err != nil {
			return err
		}
		for _, rep := range found {
			v, err := show(q, rep)
			if err != nil {
				return err
			}
			list = append(list, v)
		}
		out[key], out["total"] = list, total
		if next := f.From + len(found); len(found) > 0 && next < total {
			out["next_token"] = next
		}
		return nil
	})
	return out, err
}

func (s *Service) eventReports(ctx context.Context, r *route.Request) (any, error) {
	f := reports.Filter{Kind: reports.Event, RoomID: r.Query("room_id"), UserID: r.Query("event_sender_user_id")}
	return s.listReports(ctx, r, f, "event_reports", func(q store.Querier, rep reports.Report) (any, error) { return s.eventReport(q, rep) })
}

func toUserReport(rep reports.Report) userReport {
	return userReport{rep.ID, rep.Received, rep.UserID, rep.Reporter, rep.Reason}
}

func (s *Service) userReports(ctx context.Context, r *route.Request) (any, error) {
	f := reports.Filter{Kind: reports.User, UserID: r.Query("target_user_id")}
	return s.listReports(ctx, r, f, "user_reports", func(_ store.Querier, rep reports.Report) (any, error) { return toUserReport(rep), nil })
}

var errNoReport = mx.Errorf(mx.NotFound, "There is no such report.")

// report loads the report that the path names. Errors: NotFound, InvalidParam.
func report(q store.Querier, r *route.Request, kind reports.Kind) (reports.Report, error) {
	id, err := strconv.ParseInt(r.Param("reportID"), 10, 64)
	if err != nil || id < 0 {
		return reports.Report{}, mx.Errorf(mx.InvalidParam, "The ID of a report is a number.")
	}
	rep, err := reports.Get(q, id)
	if errors.Is(err, store.ErrNotFound) || err == nil && rep.Kind != kind {
		err = errNoReport
	}
	return rep, err
}

func (s *Service) getEventReport(ctx context.Context, r *route.Request) (out eventReport, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		rep, err := report(q, r, reports.Event)
		if err != nil {
			return err
		}
		if out, err = s.eventReport(q, rep); err != nil {
			return err
		}
		e, err := s.o.Rooms.EventByID(q, rep.EventID)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err == nil {
			out.Event, err = s.o.Timeline.Plain(q, e)
		}
		return err
	})
	return out, err
}

func (s *Service) getUserReport(ctx context.Context, r *route.Request) (out userReport, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		rep, err := report(q, r, reports.User)
		out = toUserReport(rep)
		return err
	})
	return out, err
}

func (s *Service) deleteReport(kind reports.Kind) route.Handler {
	return func(ctx context.Context, r *route.Request) (any, error) {
		return nil, s.o.DB.Write(ctx, func(tx *store.Tx) error {
			rep, err := report(tx, r, kind)
			if err != nil {
				return err
			}
			return reports.Delete(tx, rep.ID)
		})
	}
}
