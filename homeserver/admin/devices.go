package admin

import (
	"context"
	"errors"
	"net/http"

	"holdfast/homeserver/devices"
	"holdfast/homeserver/e2ee"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

type device struct {
	devices.Device
	Dehydrated bool `json:"dehydrated"`
}

var errNoDevice = mx.Errorf(mx.NotFound, "The user has no device with this ID.")

func (s *Service) listDevices(ctx context.Context, r *route.Request) (any, error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return nil, err
	}
	out := []device{}
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		list, err := s.o.Devices.List(q, u.UserID)
		if err != nil {
			return err
		}
		for _, d := range list {
			dry, err := e2ee.IsDehydrated(q, u.UserID, d.ID)
			if err != nil {
				return err
			}
			out = append(out, device{d, dry})
		}
		return nil
	})
	return map[string]any{"devices": out, "total": len(out)}, err
}

func (s *Service) createDevice(ctx context.Context, r *route.Request, in struct {
	ID string `json:"device_id"`
}) (any, error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return nil, err
	}
	if u.Deactivated {
		return nil, mx.Errorf(mx.InvalidParam, "The account was closed.")
	}
	if in.ID == "" {
		return nil, mx.Errorf(mx.MissingParam, "device_id is missing.")
	}
	if err := s.o.DB.Write(ctx, func(tx *store.Tx) error { return s.o.Devices.Upsert(tx, u.UserID, in.ID, "") }); err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		w.Write([]byte("{}"))
	}), nil
}

func (s *Service) getDevice(ctx context.Context, r *route.Request) (any, error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return nil, err
	}
	var out device
	err = s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		if out.Device, err = s.o.Devices.Get(q, u.UserID, r.Param("deviceID")); err != nil {
			return err
		}
		out.Dehydrated, err = e2ee.IsDehydrated(q, u.UserID, out.ID)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		err = errNoDevice
	}
	return out, err
}

func (s *Service) putDevice(ctx context.Context, r *route.Request, in struct {
	Name *string `json:"display_name"`
}) (out route.Empty, err error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return out, err
	}
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if in.Name == nil {
			_, err := s.o.Devices.Get(tx, u.UserID, r.Param("deviceID"))
			return err
		}
		return s.o.Devices.Rename(tx, u.UserID, r.Param("deviceID"), *in.Name)
	})
	if errors.Is(err, store.ErrNotFound) {
		err = errNoDevice
	}
	return out, err
}

func (s *Service) deleteDevice(ctx context.Context, r *route.Request) (out route.Empty, err error) {
	u, err := s.local(ctx, r.Param("userID"))
	if err != nil {
		return out, err
	}
	return out, s.removeDevices(ctx, u.UserID, []string{r.Param("deviceID")})
}

// maxDeletes bounds the devices that one request deletes.
const maxDeletes = 1000

func (s *Service) deleteDevices(ctx context.Context, r *route.Request, in struct {
	Devices []string `json:"devices"`
}) (out route.Empty, err error) {
	u, err := s.local(ctx, r.Param("userID"))
	switch {
	case err != nil:
		return out, err
	case in.Devices == nil:
		return out, mx.Errorf(mx.MissingParam, "Name the devices to delete in devices.")
	case len(in.Devices) > maxDeletes:
		return out, mx.Errorf(mx.InvalidParam, "At most %d devices can be deleted at once.", maxDeletes)
	}
	return out, s.removeDevices(ctx, u.UserID, in.Devices)
}

// removeDevices deletes devices with their sessions. What is not there is passed over.
func (s *Service) removeDevices(ctx context.Context, userID string, ids []string) error {
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		for _, id := range ids {
			_, err := s.o.Devices.Get(tx, userID, id)
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err == nil {
				err = s.o.Devices.Delete(tx, userID, id)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
