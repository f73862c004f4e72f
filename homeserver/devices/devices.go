// Package devices keeps the list of each user's devices.
//
// Invariants: a device that is deleted takes its keys, waiting messages and
// tokens with it, in one transaction (OnDelete); when a device was last seen is
// kept in memory and written at most every few minutes.
package devices

import (
	"context"
	"net/http"
	"sort"
	"sync"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// Limits of what a client names. Longer display names are refused.
const (
	maxNameBytes = 255
	maxIDBytes   = 255
	maxDeletes   = 1000 // devices in one delete_devices
)

// flushEvery is how long it takes at most until "last seen" is on disk.
const flushEvery = 5 * time.Minute

// Options of New.
type Options struct {
	DB *store.DB
	// Confirm makes the person behind a request prove again who they are before
	// devices are deleted (user-interactive authentication); it reads the body's
	// "auth". nil result: proved. Otherwise the 401 to answer. nil: nobody is asked.
	Confirm func(ctx context.Context, r *route.Request) error
	Now     func() time.Time // nil: time.Now
}

// Service answers the package's operations. Its methods are safe for concurrent use.
type Service struct {
	o        Options
	onDelete []func(tx *store.Tx, userID, deviceID string) error
	onRename []func(tx *store.Tx, userID string) error

	mu   sync.Mutex
	seen map[key]sighting // not on disk yet
}

type key struct{ user, device string }

type sighting struct {
	at        time.Time
	ip, agent string
}

// Device is a device as its user sees it.
type Device struct {
	ID          string `json:"device_id"`
	UserID      string `json:"user_id"`
	DisplayName string `json:"display_name,omitempty"`
	SeenTS      int64  `json:"last_seen_ts,omitempty"` // ms
	SeenIP      string `json:"last_seen_ip,omitempty"`
	SeenAgent   string `json:"last_seen_user_agent,omitempty"`
	CreatedTS   int64  `json:"-"` // ms
}

// New makes the service.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{o: o, seen: map[key]sighting{}}
}

// OnDelete adds what else goes with a device: f runs in the transaction that
// deletes it. To be called before the first request.
func (s *Service) OnDelete(f func(tx *store.Tx, userID, deviceID string) error) {
	s.onDelete = append(s.onDelete, f)
}

// OnRename adds who is told when a display name, which other users see with the
// device's keys, has changed. To be called before the first request.
func (s *Service) OnRename(f func(tx *store.Tx, userID string) error) {
	s.onRename = append(s.onRename, f)
}

// Upsert adds a device. One that exists keeps its name, unless it has none.
// Errors: InvalidParam for IDs and names that are too long.
// Spec: cs#post_matrixclientv3login (initial_device_display_name)
func (s *Service) Upsert(tx *store.Tx, userID, deviceID, displayName string) error {
	if deviceID == "" || len(deviceID) > maxIDBytes {
		return mx.Errorf(mx.InvalidParam, "A device ID has 1 to %d bytes.", maxIDBytes)
	}
	if err := checkName(displayName); err != nil {
		return err
	}
	n, err := insertDevice(tx, userID, deviceID, displayName, s.o.Now().UnixMilli())
	if err != nil || n > 0 || displayName == "" {
		return err
	}
	if d, err := loadDevice(tx, userID, deviceID); err != nil || d.DisplayName != "" {
		return err
	}
	return s.rename(tx, userID, deviceID, displayName)
}

func checkName(name string) error {
	if len(name) > maxNameBytes {
		return mx.Errorf(mx.InvalidParam, "A device's name has at most %d bytes.", maxNameBytes)
	}
	return nil
}

// rename does nothing when the name is the old one. Errors: store.ErrNotFound.
func (s *Service) rename(tx *store.Tx, userID, deviceID, displayName string) error {
	d, err := loadDevice(tx, userID, deviceID)
	if err != nil || d.DisplayName == displayName {
		return err
	}
	if err := updateName(tx, userID, deviceID, displayName); err != nil {
		return err
	}
	for _, f := range s.onRename {
		if err := f(tx, userID); err != nil {
			return err
		}
	}
	return nil
}

// Delete removes a device and, by the functions of OnDelete, all that belongs to
// it. A device that is not there is no error, but its leftovers go too.
func (s *Service) Delete(tx *store.Tx, userID, deviceID string) error {
	if _, err := deleteDevice(tx, userID, deviceID); err != nil {
		return err
	}
	for _, f := range s.onDelete {
		if err := f(tx, userID, deviceID); err != nil {
			return err
		}
	}
	tx.AfterCommit(func() {
		s.mu.Lock()
		delete(s.seen, key{userID, deviceID})
		s.mu.Unlock()
	})
	return nil
}

// DeleteAll removes all devices of a user but keep, which may be empty.
func (s *Service) DeleteAll(tx *store.Tx, userID, keep string) error {
	ids, err := s.IDs(tx, userID)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if id != keep {
			if err := s.Delete(tx, userID, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// IDs lists a user's devices.
func (s *Service) IDs(q store.Querier, userID string) ([]string, error) { return listIDs(q, userID) }

// Names maps a user's device IDs to display names.
func (s *Service) Names(q store.Querier, userID string) (map[string]string, error) {
	return listNames(q, userID)
}

// List gives a user's devices with the newest "last seen" first.
func (s *Service) List(q store.Querier, userID string) ([]Device, error) {
	list, err := listDevices(q, userID)
	if err != nil {
		return nil, err
	}
	for i := range list {
		s.freshen(&list[i])
	}
	sort.SliceStable(list, func(i, j int) bool { return list[i].SeenTS > list[j].SeenTS })
	return list, nil
}

// Get gives one device. Errors: store.ErrNotFound.
func (s *Service) Get(q store.Querier, userID, deviceID string) (Device, error) {
	d, err := loadDevice(q, userID, deviceID)
	s.freshen(&d)
	return d, err
}

// freshen puts in what is known but not on disk yet.
func (s *Service) freshen(d *Device) {
	s.mu.Lock()
	if v, ok := s.seen[key{d.UserID, d.ID}]; ok {
		d.SeenTS, d.SeenIP, d.SeenAgent = v.at.UnixMilli(), v.ip, v.agent
	}
	s.mu.Unlock()
}

// LastSeen gives when each user's devices were last seen (ms), for administrators.
func (s *Service) LastSeen(q store.Querier) (map[string]int64, error) {
	out, err := listLastSeen(q)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range s.seen {
		out[k.user] = max(out[k.user], v.at.UnixMilli())
	}
	return out, nil
}

// Rename gives a device of a user another name. Errors: store.ErrNotFound, InvalidParam.
func (s *Service) Rename(tx *store.Tx, userID, deviceID, displayName string) error {
	if err := checkName(displayName); err != nil {
		return err
	}
	return s.rename(tx, userID, deviceID, displayName)
}

// Seen notes that a device made a request. It costs no disk access.
func (s *Service) Seen(userID, deviceID, ip, agent string) {
	if deviceID == "" {
		return
	}
	if len(agent) > 512 {
		agent = agent[:512]
	}
	s.mu.Lock()
	s.seen[key{userID, deviceID}] = sighting{s.o.Now(), ip, agent}
	s.mu.Unlock()
}

// Flush writes what Seen noted.
func (s *Service) Flush(ctx context.Context) error {
	s.mu.Lock()
	seen := s.seen
	s.seen = map[key]sighting{}
	s.mu.Unlock()
	if len(seen) == 0 {
		return nil
	}
	err := s.o.DB.Write(ctx, func(tx *store.Tx) error {
		for k, v := range seen {
			if err := updateSeen(tx, k.user, k.device, v.at.UnixMilli(), v.ip, v.agent); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.mu.Lock()
		for k, v := range seen {
			if _, newer := s.seen[k]; !newer {
				s.seen[k] = v
			}
		}
		s.mu.Unlock()
	}
	return err
}

// Run flushes from time to time until ctx ends, and then once more.
func (s *Service) Run(ctx context.Context) {
	t := time.NewTicker(flushEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			_ = s.Flush(ctx) // kept and tried again
		case <-ctx.Done():
			_ = s.Flush(context.WithoutCancel(ctx))
			return
		}
	}
}

// Routes are the package's operations.
func (s *Service) Routes() []route.Route {
	return []route.Route{
		{Op: "getDevices", Pattern: "GET /_matrix/client/v3/devices", Aliases: []string{"/_matrix/client/r0/devices"},
			Auth: route.User, Limit: route.Reads, Handle: route.Get(s.getDevices)},
		{Op: "getDevice", Pattern: "GET /_matrix/client/v3/devices/{deviceID}", Aliases: []string{"/_matrix/client/r0/devices/{deviceID}"},
			Auth: route.User, Limit: route.Reads, Handle: route.Get(s.getDevice)},
		{Op: "updateDevice", Pattern: "PUT /_matrix/client/v3/devices/{deviceID}", Aliases: []string{"/_matrix/client/r0/devices/{deviceID}"},
			Auth: route.User, Limit: route.Reads, Handle: route.JSON(s.putDevice)},
		{Op: "deleteDevice", Pattern: "DELETE /_matrix/client/v3/devices/{deviceID}", Aliases: []string{"/_matrix/client/r0/devices/{deviceID}"},
			Auth: route.User, Limit: route.Reads, Handle: route.JSON(s.deleteDevice)},
		{Op: "deleteDevices", Pattern: "POST /_matrix/client/v3/delete_devices", Aliases: []string{"/_matrix/client/r0/delete_devices"},
			Auth: route.User, Limit: route.Reads, Handle: route.JSON(s.deleteDevices)},
	}
}

type devicesResponse struct {
	Devices []Device `json:"devices"`
}

func (s *Service) getDevices(ctx context.Context, r *route.Request) (out devicesResponse, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		out.Devices, err = s.List(q, r.UserID)
		return err
	})
	if out.Devices == nil {
		out.Devices = []Device{}
	}
	return out, err
}

var errNoDevice = mx.Errorf(mx.NotFound, "You have no device with this ID.")

func (s *Service) getDevice(ctx context.Context, r *route.Request) (d Device, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		d, err = s.Get(q, r.UserID, r.Param("deviceID"))
		return err
	})
	return d, notFound(err)
}

func notFound(err error) error {
	if err == store.ErrNotFound {
		return errNoDevice
	}
	return err
}

type putDeviceRequest struct {
	DisplayName *string `json:"display_name"`
}

// putDevice renames a device; an application service may create one (MSC4190).
// Spec: cs#put_matrixclientv3devicesdeviceid
func (s *Service) putDevice(ctx context.Context, r *route.Request, in putDeviceRequest) (any, error) {
	name, created := "", false
	if in.DisplayName != nil {
		name = *in.DisplayName
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	err := s.o.DB.Write(ctx, func(tx *store.Tx) error {
		_, err := loadDevice(tx, r.UserID, r.Param("deviceID"))
		if err == store.ErrNotFound && r.Appservice != "" {
			created = true
			return s.Upsert(tx, r.UserID, r.Param("deviceID"), name)
		}
		if err != nil || in.DisplayName == nil {
			return err
		}
		return s.rename(tx, r.UserID, r.Param("deviceID"), name)
	})
	if err != nil {
		return nil, notFound(err)
	}
	if created {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusCreated)
			w.Write([]byte("{}"))
		}), nil
	}
	return route.Empty{}, nil
}

type deleteRequest struct {
	Devices []string `json:"devices"`
}

func (s *Service) deleteDevice(ctx context.Context, r *route.Request, _ struct{}) (route.Empty, error) {
	return route.Empty{}, s.remove(ctx, r, []string{r.Param("deviceID")})
}

func (s *Service) deleteDevices(ctx context.Context, r *route.Request, in deleteRequest) (route.Empty, error) {
	if in.Devices == nil {
		return route.Empty{}, mx.Errorf(mx.MissingParam, "Name the devices to delete in %q.", "devices")
	}
	if len(in.Devices) > maxDeletes {
		return route.Empty{}, mx.Errorf(mx.InvalidParam, "At most %d devices can be deleted at once.", maxDeletes)
	}
	return route.Empty{}, s.remove(ctx, r, in.Devices)
}

func (s *Service) remove(ctx context.Context, r *route.Request, ids []string) error {
	if s.o.Confirm != nil && r.Appservice == "" {
		if err := s.o.Confirm(ctx, r); err != nil {
			return err
		}
	}
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		for _, id := range ids {
			_, err := loadDevice(tx, r.UserID, id)
			if err == store.ErrNotFound {
				continue
			}
			if err == nil {
				err = s.Delete(tx, r.UserID, id)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
