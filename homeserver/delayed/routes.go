package delayed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

const (
	unstable   = "/_matrix/client/unstable/org.matrix.msc4140"
	delayParam = "org.matrix.msc4140.delay"
	maxBody    = maxContent + 4<<10
)

// Routes are the operations on delayed events. Clients use the unstable ones, of
// which acting on an event needs no token; the stable ones are for its owner.
// Spec: MSC4140
func (s *Service) Routes() []route.Route {
	return []route.Route{
		{Op: "scheduleDelayedEvent", Auth: route.User, Limit: route.Messages, MaxBody: maxBody,
			Pattern: "PUT /_matrix/client/v3/rooms/{roomID}/delayed_event/{eventType}/{txnID}",
			Aliases: []string{unstable + "/rooms/{roomID}/delayed_event/{eventType}/{txnID}"},
			Handle:  route.JSON(s.schedule)},
		{Op: "getDelayedEvents", Auth: route.User, Limit: route.Reads,
			Pattern: "GET /_matrix/client/v1/delayed_events", Aliases: []string{unstable + "/delayed_events"},
			Handle: route.Get(s.list)},
		{Op: "getDelayedEvent", Auth: route.User, Limit: route.Reads,
			Pattern: "GET /_matrix/client/v1/delayed_events/{delayID}", Aliases: []string{unstable + "/delayed_events/{delayID}"},
			Handle: route.Get(s.get)},
		{Op: "updateDelayedEvent", Auth: route.User, Limit: route.Reads, MaxBody: 4 << 10,
			Pattern: "POST /_matrix/client/v1/delayed_events/{delayID}/{action}",
			Handle:  route.Get(s.updateOwn)},
		{Op: "updateDelayedEventUnstable", Auth: route.Optional, Limit: route.Reads, MaxBody: 4 << 10,
			Pattern: "POST " + unstable + "/delayed_events/{delayID}/{action}",
			Handle:  route.Get(s.update)},
		{Op: "updateDelayedEventByBody", Auth: route.Optional, Limit: route.Reads, MaxBody: 4 << 10,
			Pattern: "POST " + unstable + "/delayed_events/{delayID}",
			Handle:  route.JSON(s.updateByBody)},
	}
}

// delayable are the operations that take the delay parameter.
var delayable = []string{"sendMessage", "setRoomStateWithKey"}

// Wrap gives the operations that send events the parameter of the proposal's
// earlier form, which today's clients use: with it they answer {"delay_id"} and
// the event is sent later. They are found by Op; their patterns name roomID,
// eventType, and txnID or stateKey.
func (s *Service) Wrap(routes []route.Route) []route.Route {
	out := slices.Clone(routes)
	for i := range out {
		if !slices.Contains(delayable, out[i].Op) {
			continue
		}
		now := out[i].Handle
		out[i].Handle = func(ctx context.Context, r *route.Request) (any, error) {
			if !r.QueryValues().Has(delayParam) {
				return now(ctx, r)
			}
			return s.later(ctx, r)
		}
	}
	return out
}

type scheduled struct {
	DelayID string `json:"delay_id"`
}

func (s *Service) later(ctx context.Context, r *route.Request) (any, error) {
	delay, err := strconv.ParseInt(r.Query(delayParam), 10, 64)
	if err != nil || delay <= 0 {
		return nil, mx.Errorf(mx.InvalidParam, "%s must be a positive number of milliseconds.", delayParam)
	}
	if err := r.NotSuspended(); err != nil {
		return nil, err
	}
	e, err := event(r, delay)
	if err != nil {
		return nil, err
	}
	e.Content = r.RawBody()
	request := ""
	if txn := r.Param("txnID"); txn != "" {
		request = requestKey(r.Param("roomID"), e.Type, txn)
	} else {
		key := r.Param("stateKey")
		e.StateKey = &key
	}
	id, err := s.Schedule(ctx, e, request)
	var refused *mx.Error
	if errors.As(err, &refused) {
		// As clients of the earlier form know these errors. Element Call goes on
		// without a delayed event, or with a shorter delay.
		switch refused.Code {
		case mx.MaxDelayExceeded:
			refused.Code = mx.Unknown
			refused.Fields = map[string]any{"org.matrix.msc4140.errcode": mx.MaxDelayExceeded, "org.matrix.msc4140.max_delay": s.o.MaxDelay.Milliseconds()}
		case mx.LimitExceeded:
			refused = &mx.Error{Code: mx.Unknown, Status: http.StatusBadRequest, Msg: refused.Msg, Fields: map[string]any{"org.matrix.msc4140.errcode": mx.MaxDelayedExceeded}}
		}
		return nil, refused
	}
	if err != nil {
		return nil, err
	}
	return scheduled{id}, nil
}

// event takes from a request what the forms have in common.
func event(r *route.Request, delay int64) (Event, error) {
	if delay > math.MaxInt64/int64(time.Millisecond) {
		delay = math.MaxInt64 / int64(time.Millisecond) // longer than any limit
	}
	e := Event{UserID: r.UserID, DeviceID: r.DeviceID, RoomID: r.Param("roomID"), Type: r.Param("eventType"), Delay: fromMS(delay)}
	if e.Type == "" || len(e.Type) > mx.MaxIDBytes || len(r.Param("stateKey")) > mx.MaxIDBytes || len(r.Param("txnID")) > mx.MaxIDBytes {
		return e, mx.Errorf(mx.InvalidParam, "The event type, state key and transaction ID may have at most %d bytes.", mx.MaxIDBytes)
	}
	if ts := r.Query("ts"); ts != "" && r.Appservice != "" {
		n, err := strconv.ParseInt(ts, 10, 64)
		if err != nil || n < 0 {
			return e, mx.Errorf(mx.InvalidParam, "ts must be a time in milliseconds.")
		}
		e.Timestamp = n
	}
	return e, nil
}

func requestKey(roomID, eventType, txnID string) string {
	return url.PathEscape(roomID) + "/" + url.PathEscape(eventType) + "/" + url.PathEscape(txnID)
}

type scheduleRequest struct {
	DelayMS  int64           `json:"delay_ms"`
	StateKey *string         `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

func (s *Service) schedule(ctx context.Context, r *route.Request, in scheduleRequest) (out scheduled, err error) {
	if err := r.NotSuspended(); err != nil {
		return out, err
	}
	e, err := event(r, in.DelayMS)
	if err != nil {
		return out, err
	}
	if in.StateKey != nil && len(*in.StateKey) > mx.MaxIDBytes {
		return out, mx.Errorf(mx.InvalidParam, "The state key may have at most %d bytes.", mx.MaxIDBytes)
	}
	e.StateKey, e.Content = in.StateKey, in.Content
	out.DelayID, err = s.Schedule(ctx, e, "new/"+requestKey(e.RoomID, e.Type, r.Param("txnID")))
	var refused *mx.Error
	if errors.As(err, &refused) && refused.Code == mx.MaxDelayExceeded {
		err = mx.Errorf(mx.Forbidden, "The delay may be at most %d ms on this server.", s.o.MaxDelay.Milliseconds())
	}
	return out, err
}

func (s *Service) updateOwn(ctx context.Context, r *route.Request) (route.Empty, error) {
	err := s.act(ctx, r.Param("delayID"), r.UserID, r.Param("action"))
	if errors.Is(err, errDone) {
		err = &mx.Error{Code: mx.Unknown, Status: http.StatusConflict, Msg: "The delayed event was sent or cancelled before."}
	}
	return route.Empty{}, err
}

// update answers 404 where the proposal's latest text has 409: clients that use
// the unstable paths take 404 for "schedule a new one" and give up at 409.
func (s *Service) update(ctx context.Context, r *route.Request) (route.Empty, error) {
	return route.Empty{}, lost(s.act(ctx, r.Param("delayID"), "", r.Param("action")))
}

func (s *Service) updateByBody(ctx context.Context, r *route.Request, in struct {
	Action string `json:"action"`
}) (route.Empty, error) {
	if in.Action == "" {
		return route.Empty{}, mx.Errorf(mx.MissingParam, "The action is missing: send, cancel or restart.")
	}
	return route.Empty{}, lost(s.act(ctx, r.Param("delayID"), "", in.Action))
}

// item describes an event, in the words of the proposal's successive forms.
func (r row) item() map[string]any {
	d := r.Delay.Milliseconds()
	m := map[string]any{
		"delay_id": r.DelayID, "room_id": r.RoomID, "type": r.Type, "content": r.Content,
		"delay_ms": d, "delay": d,
		"scheduled_at": r.sinceTS, "running_since": r.sinceTS, "delayed_since_ts": r.sinceTS,
	}
	if r.StateKey != nil {
		m["state_key"] = *r.StateKey
	}
	return m
}

// end describes how an event was finalised.
func (r row) end() map[string]any {
	m := map[string]any{"finalised_ts": r.finalisedTS, "outcome": r.outcome(), "reason": "action"}
	switch {
	case r.failure != "":
		m["error"], m["reason"] = json.RawMessage(r.failure), "error"
	case r.eventID != "":
		m["event_id"] = r.eventID
		if r.finalisedTS >= r.sinceTS+r.Delay.Milliseconds() {
			m["reason"] = "delay"
		}
	}
	return m
}

func (s *Service) get(ctx context.Context, r *route.Request) (map[string]any, error) {
	d, err := s.load(ctx, r.Param("delayID"))
	if errors.Is(err, store.ErrNotFound) || (err == nil && d.UserID != r.UserID) {
		return nil, mx.Errorf(mx.NotFound, "You have no such delayed event.")
	}
	if err != nil {
		return nil, err
	}
	m := d.item()
	if d.dueTS == 0 {
		end := d.end()
		m["finalised"] = end
		for _, k := range []string{"finalised_ts", "event_id", "error"} {
			if v, ok := end[k]; ok {
				m[k] = v
			}
		}
	}
	return m, nil
}

func (s *Service) list(ctx context.Context, r *route.Request) (map[string]any, error) {
	status, ids := r.Query("status"), r.QueryValues()["delay_id"]
	if status != "" && status != "scheduled" && status != "finalised" {
		return nil, mx.Errorf(mx.InvalidParam, "status must be scheduled or finalised.")
	}
	wanted := func(d row) bool { return len(ids) == 0 || slices.Contains(ids, d.DelayID) }
	out := map[string]any{}
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		if status != "finalised" {
			rows, err := s.listRows(q, listWaitingSQL, r.UserID, s.o.MaxPerUser)
			if err != nil {
				return err
			}
			items := []map[string]any{}
			for _, d := range rows {
				if wanted(d) {
					items = append(items, d.item())
				}
			}
			out["delayed_events"], out["scheduled"] = items, items
		}
		if status != "scheduled" && strings.HasPrefix(r.URL.Path, unstable) {
			rows, err := s.listRows(q, listFinalisedSQL, r.UserID, keepPerUser)
			if err != nil {
				return err
			}
			items := []map[string]any{}
			for _, d := range rows {
				if wanted(d) {
					m := d.end()
					m["delayed_event"] = d.item()
					items = append(items, m)
				}
			}
			out["finalised"] = items
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list delayed events: %w", err)
	}
	return out, nil
}
