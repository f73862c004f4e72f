package e2ee

import (
	"bytes"
	"context"
	"strconv"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

const (
	maxDehydratedData = 256 << 10
	eventsPerFetch    = 100
)

// Dehydrated devices (MSC3814): a device kept encrypted on the server, which
// receives room keys while its user is signed in nowhere.
func (s *Service) dehydratedRoutes() []route.Route {
	const base = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
	return []route.Route{
		{Op: "putDehydratedDevice", Pattern: "PUT " + base, Auth: route.User, Limit: route.Reads, Handle: route.JSON(s.putDehydrated)},
		{Op: "getDehydratedDevice", Pattern: "GET " + base, Auth: route.User, Limit: route.Reads, Handle: route.Get(s.getDehydrated)},
		{Op: "deleteDehydratedDevice", Pattern: "DELETE " + base, Auth: route.User, Limit: route.Reads, Handle: route.Get(s.deleteDehydrated)},
		// matrix-js-sdk asks with GET and ?from, the Rust SDK with POST and next_batch.
		{Op: "getDehydratedDeviceEvents", Pattern: "GET " + base + "/{deviceID}/events", Auth: route.User, Limit: route.Reads, Handle: route.Get(s.dehydratedEventsFrom)},
		{Op: "postDehydratedDeviceEvents", Pattern: "POST " + base + "/{deviceID}/events", Auth: route.User, Limit: route.Reads, Handle: route.JSON(s.dehydratedEvents)},
	}
}

// IsDehydrated reports whether a device is a user's dehydrated one: it is never
// seen, and yet must not be cleaned away.
func IsDehydrated(q store.Querier, userID, deviceID string) (bool, error) {
	id, _, err := loadDehydrated(q, userID)
	if err == store.ErrNotFound {
		return false, nil
	}
	return id == deviceID, err
}

type dehydratedRequest struct {
	DeviceID   string `json:"device_id"`
	DeviceData mx.Raw `json:"device_data"`
	Name       string `json:"initial_device_display_name"`
	uploadRequest
}

type deviceIDResponse struct {
	DeviceID string `json:"device_id"`
}

func (s *Service) putDehydrated(ctx context.Context, r *route.Request, in dehydratedRequest) (out deviceIDResponse, err error) {
	if in.DeviceID == "" || in.DeviceData == nil || in.DeviceKeys == nil {
		return out, mx.Errorf(mx.MissingParam, "A dehydrated device needs device_id, device_data and device_keys.")
	}
	if len(in.DeviceData) > maxDehydratedData {
		return out, mx.Errorf(mx.TooLarge, "The device_data has at most %d bytes.", maxDehydratedData)
	}
	if bytes.TrimSpace(in.DeviceData)[0] != '{' {
		return out, mx.Errorf(mx.BadJSON, "The device_data must be an object.")
	}
	if in.FallbackKeys == nil {
		in.FallbackKeys = in.UnstableFallbackKeys
	}
	u, err := parseUpload(r.UserID, in.DeviceID, in.uploadRequest)
	if err != nil {
		return out, err
	}
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		old, _, err := loadDehydrated(tx, r.UserID)
		if err != nil && err != store.ErrNotFound {
			return err
		}
		names, err := s.o.Devices.Names(tx, r.UserID)
		if err != nil {
			return err
		}
		if _, taken := names[in.DeviceID]; taken && in.DeviceID != old {
			return mx.Errorf(mx.InvalidParam, "You have a device with this ID already.")
		}
		if old != "" {
			if err := s.o.Devices.Delete(tx, r.UserID, old); err != nil {
				return err
			}
		}
		if err := s.o.Devices.Upsert(tx, r.UserID, in.DeviceID, in.Name); err != nil {
			return err
		}
		if err := upsertDehydrated(tx, r.UserID, in.DeviceID, in.DeviceData); err != nil {
			return err
		}
		_, err = s.store(tx, r.UserID, in.DeviceID, u)
		return err
	})
	return deviceIDResponse{in.DeviceID}, err
}

var errNoDehydrated = mx.Errorf(mx.NotFound, "You have no such dehydrated device.")

type dehydratedResponse struct {
	DeviceID   string `json:"device_id"`
	DeviceData mx.Raw `json:"device_data"`
}

func (s *Service) getDehydrated(ctx context.Context, r *route.Request) (out dehydratedResponse, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		out.DeviceID, out.DeviceData, err = loadDehydrated(q, r.UserID)
		return err
	})
	if err == store.ErrNotFound {
		err = errNoDehydrated
	}
	return out, err
}

func (s *Service) deleteDehydrated(ctx context.Context, r *route.Request) (out deviceIDResponse, err error) {
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if out.DeviceID, _, err = loadDehydrated(tx, r.UserID); err != nil {
			return err
		}
		return s.o.Devices.Delete(tx, r.UserID, out.DeviceID)
	})
	if err == store.ErrNotFound {
		err = errNoDehydrated
	}
	return out, err
}

type eventsRequest struct {
	NextBatch string `json:"next_batch"`
}

type eventsResponse struct {
	Events    []mx.Raw `json:"events"`
	NextBatch string   `json:"next_batch"`
}

func (s *Service) dehydratedEventsFrom(ctx context.Context, r *route.Request) (eventsResponse, error) {
	return s.dehydratedEvents(ctx, r, eventsRequest{r.Query("from")})
}

// dehydratedEvents gives the messages that wait for the dehydrated device. They
// stay until it is replaced or deleted, so that a failed attempt can be repeated.
func (s *Service) dehydratedEvents(ctx context.Context, r *route.Request, in eventsRequest) (out eventsResponse, err error) {
	var from int64
	if in.NextBatch != "" {
		var ok bool
		if from, ok = tokenPos(in.NextBatch); !ok {
			return out, mx.Errorf(mx.InvalidParam, "This is not a token of an earlier answer.")
		}
	}
	to := s.o.DB.Pos()
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		id, _, err := loadDehydrated(q, r.UserID)
		if err == store.ErrNotFound || err == nil && id != r.Param("deviceID") {
			return errNoDehydrated
		}
		if err != nil {
			return err
		}
		var last int64
		out.Events, last, err = s.o.Messages.Since(q, r.UserID, id, from, to, eventsPerFetch)
		out.NextBatch = "d" + strconv.FormatInt(last, 10)
		return err
	})
	if out.Events == nil {
		out.Events = []mx.Raw{}
	}
	return out, err
}
