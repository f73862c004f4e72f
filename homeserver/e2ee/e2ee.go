// Package e2ee keeps the public keys of devices and users, the signatures between
// them, encrypted key backups and dehydrated devices, and tells who must fetch
// keys again.
//
// Invariants: a one-time key is given out once, in the order of upload; a
// signature by another key than a device's own is stored only after it was
// verified; a user-signing key is given to its user only; each change to a user's
// devices or cross-signing keys takes a position in the list stream.
package e2ee

import (
	"context"
	"sync"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// Rooms is what the package asks of the rooms.
type Rooms interface {
	JoinedRooms(q store.Querier, userID string) ([]string, error)
	// Members lists the users with a membership of a room.
	Members(q store.Querier, roomID, membership string) ([]string, error)
	// SharedUsers lists who is joined to a room that userID is joined to.
	SharedUsers(q store.Querier, userID string) ([]string, error)
}

// Devices is what the package asks of the device list.
type Devices interface {
	// Names maps the user's device IDs to display names.
	Names(q store.Querier, userID string) (map[string]string, error)
	// Upsert adds a device or, with a name, renames it.
	Upsert(tx *store.Tx, userID, deviceID, displayName string) error
	// Delete removes a device with all that belongs to it.
	Delete(tx *store.Tx, userID, deviceID string) error
}

// Messages is what dehydrated devices ask of the to-device queue.
type Messages interface {
	// Since gives a device's messages in (from, to], at most limit, and the
	// position of the last one given.
	Since(q store.Querier, userID, deviceID string, from, to int64, limit int) ([]mx.Raw, int64, error)
}

// Options of New.
type Options struct {
	DB         *store.DB
	ServerName string
	Rooms      Rooms
	Devices    Devices
	Messages   Messages
	// ConfirmReset makes the person behind a request prove again who they are
	// before cross-signing keys are replaced (user-interactive authentication); it
	// reads the body's "auth". nil result: proved. Otherwise the 401 to answer.
	// nil: nobody is asked.
	ConfirmReset func(ctx context.Context, r *route.Request) error
}

// Service answers the package's operations. Its methods are safe for concurrent use.
type Service struct {
	o Options

	mu     sync.Mutex
	counts map[string]*deviceCounts // by notify.DeviceKey
	gen    int                      // grows when counts is emptied
}

type deviceCounts struct {
	otk      map[string]int
	fallback []string
}

// maxCounts bounds the counts in memory: about 200 bytes each.
const maxCounts = 20000

// New makes the service.
func New(o Options) *Service { return &Service{o: o, counts: map[string]*deviceCounts{}} }

// Routes are the package's operations.
func (s *Service) Routes() []route.Route {
	var out []route.Route
	out = append(out, s.keyRoutes()...)
	out = append(out, s.crossSigningRoutes()...)
	out = append(out, s.backupRoutes()...)
	return append(out, s.dehydratedRoutes()...)
}

// Counts gives how many one-time keys a device has left, by algorithm
// (signed_curve25519 always, even if 0), and the algorithms whose fallback key is
// not used yet (never nil). It is answered from memory after the first time; the
// results must not be changed.
func (s *Service) Counts(q store.Querier, userID, deviceID string) (otk map[string]int, unusedFallback []string, err error) {
	k := notify.DeviceKey(userID, deviceID)
	s.mu.Lock()
	c, gen := s.counts[k], s.gen
	s.mu.Unlock()
	if c == nil {
		if c, err = loadCounts(q, userID, deviceID); err != nil {
			return nil, nil, err
		}
		s.mu.Lock()
		// A writer that was quicker knows better.
		if newer := s.counts[k]; newer != nil {
			c = newer
		} else if gen == s.gen {
			s.putCounts(k, c)
		}
		s.mu.Unlock()
	}
	return c.otk, c.fallback, nil
}

// putCounts needs s.mu.
func (s *Service) putCounts(k string, c *deviceCounts) {
	if len(s.counts) >= maxCounts {
		clear(s.counts)
		s.gen++
	}
	s.counts[k] = c
}

// recount is to be called after the last change of a device's keys in a write.
func (s *Service) recount(tx *store.Tx, userID, deviceID string) (*deviceCounts, error) {
	c, err := loadCounts(tx, userID, deviceID)
	if err != nil {
		return nil, err
	}
	k := notify.DeviceKey(userID, deviceID)
	tx.AfterCommit(func() {
		s.mu.Lock()
		s.putCounts(k, c)
		s.mu.Unlock()
	})
	tx.Touch(notify.Device, k)
	return c, nil
}

// Changed notes that a user's devices or cross-signing keys changed.
func (s *Service) Changed(tx *store.Tx, userID string) error {
	if err := upsertListChange(tx, userID, tx.NextPos()); err != nil {
		return err
	}
	tx.Touch(notify.DevList, userID)
	return nil
}

// Renamed notes that a user's device has another name: with its keys it is seen
// by others.
func (s *Service) Renamed(tx *store.Tx, userID string) error { return s.Changed(tx, userID) }

// DeviceDeleted removes the keys of a device that goes.
func (s *Service) DeviceDeleted(tx *store.Tx, userID, deviceID string) error {
	had, err := deleteDeviceKeys(tx, userID, deviceID)
	if err != nil {
		return err
	}
	k := notify.DeviceKey(userID, deviceID)
	tx.AfterCommit(func() {
		s.mu.Lock()
		delete(s.counts, k)
		s.gen++
		s.mu.Unlock()
	})
	if had {
		return s.Changed(tx, userID)
	}
	return nil
}

// Deactivated removes the keys and backups of an account that is closed. Its
// devices are deleted by who calls it.
func (s *Service) Deactivated(tx *store.Tx, userID string) error {
	if err := deleteUser(tx, userID); err != nil {
		return err
	}
	return s.Changed(tx, userID)
}

// Membership is to be called in the transaction of every m.room.member event,
// with its position: joined says whether the user is joined from then on. What
// is no change is passed over.
func (s *Service) Membership(tx *store.Tx, roomID, userID string, joined bool, pos int64) error {
	return insertSharing(tx, roomID, userID, joined, pos)
}

// ChangedLists lists whose devices or cross-signing keys changed in (from, to].
func (s *Service) ChangedLists(q store.Querier, from, to int64) ([]string, error) {
	return listChanged(q, "", from, to)
}

// Sharing gives, by room, who joined or left it in (from, to].
func (s *Service) Sharing(q store.Querier, from, to int64) (map[string]map[string]bool, error) {
	return listSharing(q, from, to, "")
}

// ListChanges gives whose keys userID must fetch again and whom they share no
// room with any more, for (from, to]. With from 0 there is nothing to tell: who
// starts anew fetches what they need.
//
// Spec: cs#tracking-the-device-list-for-a-user
func (s *Service) ListChanges(q store.Querier, userID string, from, to int64) (changed, left []string, err error) {
	if from <= 0 || from >= to {
		return nil, nil, nil
	}
	users, err := listChanged(q, userID, from, to)
	if err != nil {
		return nil, nil, err
	}
	own, err := listOwnSharing(q, userID, from, to)
	if err != nil {
		return nil, nil, err
	}
	others, err := listSharing(q, from, to, userID)
	if err != nil {
		return nil, nil, err
	}
	if len(users) == 0 && len(own) == 0 && len(others) == 0 {
		return nil, nil, nil
	}
	list, err := s.o.Rooms.SharedUsers(q, userID)
	if err != nil {
		return nil, nil, err
	}
	shared := map[string]bool{}
	for _, u := range list {
		shared[u] = true
	}
	out, gone := map[string]bool{}, map[string]bool{}
	for _, u := range users {
		if u == userID || shared[u] {
			out[u] = true
		}
	}
	if len(own) > 0 || len(others) > 0 {
		n := newlyShared{q: q, rooms: s.o.Rooms, userID: userID, own: own, others: others, shared: shared}
		if err := n.find(out, gone); err != nil {
			return nil, nil, err
		}
	}
	return keysOf(out), keysOf(gone), nil
}

func keysOf(m map[string]bool) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	return out
}

// newlyShared finds, from the joins and leaves of a time, who came to share a
// room with a user and who ceased to.
type newlyShared struct {
	q      store.Querier
	rooms  Rooms
	userID string
	own    map[string]bool            // rooms that the user joined or left meanwhile
	others map[string]map[string]bool // room → users who joined or left meanwhile
	shared map[string]bool            // who shares a room at the end

	members map[string]map[string]bool
}

func (n *newlyShared) find(changed, left map[string]bool) error {
	rooms, err := n.rooms.JoinedRooms(n.q, n.userID)
	if err != nil {
		return err
	}
	candidates := map[string]bool{}
	mine := map[string]bool{}
	for _, room := range rooms {
		mine[room] = true
		for u := range n.others[room] {
			candidates[u] = true
		}
	}
	for room := range n.own {
		members, err := n.membersOf(room)
		if err != nil {
			return err
		}
		for u := range members {
			candidates[u] = true
		}
		for u := range n.others[room] { // they may have left before or after the user did
			candidates[u] = true
		}
	}
	delete(candidates, n.userID)
	for u := range candidates {
		if !n.shared[u] {
			left[u] = true
			continue
		}
		if changed[u] {
			continue
		}
		before, err := n.sharedThroughout(u, rooms)
		if err != nil {
			return err
		}
		if !before {
			changed[u] = true
		}
	}
	return nil
}

// sharedThroughout reports whether there is a room that both were in all the time.
func (n *newlyShared) sharedThroughout(u string, rooms []string) (bool, error) {
	for _, room := range rooms {
		if n.own[room] || n.others[room][u] {
			continue
		}
		members, err := n.membersOf(room)
		if err != nil {
			return false, err
		}
		if members[u] {
			return true, nil
		}
	}
	return false, nil
}

func (n *newlyShared) membersOf(room string) (map[string]bool, error) {
	if m, ok := n.members[room]; ok {
		return m, nil
	}
	list, err := n.rooms.Members(n.q, room, mx.Join)
	if err != nil {
		return nil, err
	}
	m := make(map[string]bool, len(list))
	for _, u := range list {
		m[u] = true
	}
	if n.members == nil {
		n.members = map[string]map[string]bool{}
	}
	n.members[room] = m
	return m, nil
}
