package appservice

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/store"
)

// Waits between tries of a transaction that a service did not take.
const (
	firstWait = time.Second
	maxWait   = 5 * time.Minute
)

// nextWait is how long to wait after a failure that followed a wait.
func nextWait(before time.Duration) time.Duration {
	if before == 0 {
		return firstWait
	}
	return min(2*before, maxWait)
}

// Limits of one transaction.
const (
	maxQueued   = 100     // events and to-device messages
	maxBytes    = 2 << 20 // of events and to-device messages; the one that goes over it is the last
	maxReceipts = 500
	pushTime    = time.Minute // until it must be answered
)

// lazySave is how many positions without anything of interest go by before the
// cursor is saved: a restart looks at no more than these again.
const lazySave = 10_000

// state is how the pushing goes, for whoever asks.
type state struct {
	lastOK  time.Time // when a transaction was last taken
	failing time.Time // since when they are not; zero: they are
	why     string
}

// Start begins to push. A service that is seen for the first time gets what
// happens from now on.
func (s *Service) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run, s.stop = context.WithCancel(ctx)
	apps := s.all()
	err := s.o.DB.Write(ctx, func(tx *store.Tx) error {
		known, err := texts(tx, listCursorsSQL)
		if err != nil {
			return err
		}
		for _, id := range known {
			if s.byID(id) != nil {
				continue
			}
			s.o.Log.Info("an application service is not registered any more: what waited for it is dropped", "appservice", id)
			if err := forget(tx, id); err != nil {
				return err
			}
		}
		for _, a := range apps {
			if err := begin(tx, a); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, a := range apps {
		s.start(a)
	}
	s.began = true
	s.o.DB.OnVisible(s.touched)
	return nil
}

// begin makes the cursor of a service that is seen for the first time.
func begin(tx *store.Tx, a *app) error {
	_, known, err := loadCursor(tx, a.ID)
	if err != nil || known {
		return err
	}
	return saveCursor(tx, a.ID, cursor{pos: tx.NextPos()})
}

// start needs s.mu.
func (s *Service) start(a *app) {
	ctx, stop := context.WithCancel(s.run)
	a.stop = stop
	if a.URL == "" {
		close(a.done)
		return
	}
	s.wg.Go(func() {
		defer close(a.done)
		s.push(ctx, a)
	})
}

// Close ends the pushing. What was not acknowledged is sent again at the next Start.
func (s *Service) Close() {
	s.mu.Lock()
	stop := s.stop
	s.mu.Unlock()
	if stop != nil {
		stop()
		s.wg.Wait()
	}
}

func (s *Service) push(ctx context.Context, a *app) {
	var wait time.Duration
	for ctx.Err() == nil {
		more, err := s.pushOnce(ctx, a)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			wait = nextWait(wait)
			a.failed(err)
			s.o.Log.Warn("an application service did not take its events; they are kept and sent again", "appservice", a.ID, "again_in", wait, "err", err)
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-a.kick:
				wait = 0
			case <-ctx.Done():
			}
			t.Stop()
			continue
		}
		wait = 0
		if !more {
			select {
			case <-a.wake:
			case <-ctx.Done():
			}
		}
	}
}

func (a *app) failed(err error) {
	a.mu.Lock()
	if a.state.failing.IsZero() {
		a.state.failing = time.Now()
	}
	a.state.why = err.Error()
	a.mu.Unlock()
}

func (a *app) took() {
	a.mu.Lock()
	a.state = state{lastOK: time.Now()}
	a.mu.Unlock()
}

// pushOnce delivers the transaction under way, or makes and delivers the next one
// if there is something to send. It reports whether there may be more.
func (s *Service) pushOnce(ctx context.Context, a *app) (more bool, err error) {
	var t stored
	err = s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		if !a.loaded {
			if a.cursor, _, err = loadCursor(q, a.ID); err != nil {
				return err
			}
			a.loaded, a.saved = true, a.cursor.pos
		}
		t, err = loadTxn(q, a.ID)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		var some bool
		if t, some, err = s.next(ctx, a); err == nil && !some {
			return false, nil
		}
	}
	if err != nil {
		return false, err
	}
	reach, cancel := context.WithTimeout(ctx, pushTime)
	defer cancel()
	id := url.PathEscape(t.txn)
	status, _, err := s.ask(reach, a, call{method: http.MethodPut, path: "/_matrix/app/v1/transactions/" + id, older: "/transactions/" + id, body: json.RawMessage(t.body)})
	if err != nil {
		return false, err
	}
	if status/100 != 2 {
		return false, fmt.Errorf("it answered %d", status)
	}
	a.took()
	// Also if we are about to end: it need not come again.
	return true, s.o.DB.Write(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		if err := s.acknowledged(tx, a, t); err != nil {
			return err
		}
		return deleteTxn(tx, a.ID)
	})
}

// acknowledged removes the to-device messages that a service took for devices
// that are its alone. A service that does not say that it has encryption may have
// ignored them, and ask for them by sync.
func (s *Service) acknowledged(tx *store.Tx, a *app, t stored) error {
	if !a.Encryption || s.o.Took == nil {
		return nil
	}
	var body struct {
		ToDevice []struct {
			User   string `json:"to_user_id"`
			Device string `json:"to_device_id"`
		} `json:"to_device"`
	}
	if err := json.Unmarshal(t.body, &body); err != nil {
		return err
	}
	seen := map[[2]string]bool{}
	for _, m := range body.ToDevice {
		k := [2]string{m.User, m.Device}
		if seen[k] || !s.alone(a, m.User) {
			continue
		}
		seen[k] = true
		if err := s.o.Took(tx, m.User, m.Device, t.upTo); err != nil {
			return err
		}
	}
	return nil
}

// transaction is the body of a transaction: each thing under its stable and its
// older name. Spec: as#put_matrixappv1transactionstxnid, MSC2409, MSC3202, MSC4203
type transaction struct {
	Events []mx.Raw `json:"events"`

	Ephemeral    []mx.Raw `json:"ephemeral,omitempty"`
	EphemeralOld []mx.Raw `json:"de.sorunome.msc2409.ephemeral,omitempty"`

	ToDevice    []mx.Raw `json:"to_device,omitempty"`
	ToDeviceOld []mx.Raw `json:"de.sorunome.msc2409.to_device,omitempty"`

	Lists    *deviceLists `json:"device_lists,omitempty"`
	ListsOld *deviceLists `json:"org.matrix.msc3202.device_lists,omitempty"`

	OneTime    keyCounts `json:"device_one_time_keys_count,omitempty"`
	OneTimeOld keyCounts `json:"org.matrix.msc3202.device_one_time_keys_count,omitempty"`

	Fallback    fallbackKeys `json:"device_unused_fallback_key_types,omitempty"`
	FallbackOld fallbackKeys `json:"org.matrix.msc3202.device_unused_fallback_key_types,omitempty"`
}

type (
	deviceLists struct {
		Changed []string `json:"changed"`
		Left    []string `json:"left"`
	}
	keyCounts    map[string]map[string]map[string]int // user, device, algorithm
	fallbackKeys map[string]map[string][]string       // user, device
)

func (t *transaction) empty() bool {
	return len(t.Events)+len(t.Ephemeral)+len(t.ToDevice)+len(t.OneTime) == 0 && t.Lists == nil
}

// next makes the next transaction out of what waits and stores it.
func (s *Service) next(ctx context.Context, a *app) (t stored, some bool, err error) {
	dirty := a.takeDirty()
	defer func() {
		if err != nil {
			for k := range dirty {
				a.markDirty(k[0], k[1])
			}
		}
	}()
	from, to := a.cursor.pos, s.o.DB.Pos()
	var body transaction
	err = s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		body, to, err = s.collect(q, a, from, to, dirty)
		return err
	})
	if err != nil {
		return t, false, err
	}
	c := cursor{pos: max(to, from), txn: a.cursor.txn}
	if body.empty() {
		a.cursor = c
		if c.pos-a.saved > lazySave {
			if err = s.o.DB.Write(ctx, func(tx *store.Tx) error { return saveCursor(tx, a.ID, c) }); err == nil {
				a.saved = c.pos
			}
		}
		return t, false, err
	}
	c.txn++
	if t.body, err = json.Marshal(body); err != nil {
		return t, false, err
	}
	// The number alone would come again for other contents after an older copy of
	// the database was restored, and the service would take it for a repetition.
	sum := sha256.Sum256(t.body)
	t.txn, t.upTo = strconv.FormatInt(c.txn, 10)+"."+hex.EncodeToString(sum[:6]), c.pos
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if err := insertTxn(tx, a.ID, t); err != nil {
			return err
		}
		if err := deleteQueued(tx, a.ID, t.upTo); err != nil {
			return err
		}
		return saveCursor(tx, a.ID, c)
	})
	if err == nil {
		a.cursor, a.saved = c, c.pos
	}
	return t, true, err
}

func (a *app) takeDirty() map[[2]string]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := a.dirty
	a.dirty = map[[2]string]bool{}
	return d
}

// collect gathers what interests a service, up to a position that it returns:
// to, or before that where there is more than one transaction holds.
func (s *Service) collect(q store.Querier, a *app, from, to int64, dirty map[[2]string]bool) (t transaction, end int64, err error) {
	t.Events = []mx.Raw{}
	var receipts []Receipt
	if a.Ephemeral {
		if receipts, err = s.o.Ephemeral.ReceiptsAfter(q, from, to, maxReceipts); err != nil {
			return t, from, err
		}
		if len(receipts) == maxReceipts {
			to = receipts[maxReceipts-1].Pos
		}
	}
	list, err := listQueued(q, a.ID, to, maxQueued)
	if err != nil {
		return t, from, err
	}
	size := 0
	for i, r := range list {
		raw := mx.Raw(r.message)
		if r.message == nil {
			raw, err = s.o.Rooms.Event(q, r.pos)
			if errors.Is(err, store.ErrNotFound) {
				continue // it was purged
			}
			if err != nil {
				return t, from, err
			}
			t.Events = append(t.Events, raw)
		} else {
			t.ToDevice = append(t.ToDevice, raw)
		}
		if size += len(raw); size > maxBytes || i == maxQueued-1 {
			to = r.pos
			break
		}
	}
	if a.Ephemeral && to > from {
		if err := s.ephemeral(q, a, &t, receipts, from, to); err != nil {
			return t, from, err
		}
	}
	if a.Encryption && (to > from || len(dirty) > 0) {
		if err := s.encryption(q, a, &t, from, to, dirty); err != nil {
			return t, from, err
		}
	}
	t.EphemeralOld, t.ToDeviceOld, t.ListsOld, t.OneTimeOld, t.FallbackOld = t.Ephemeral, t.ToDevice, t.Lists, t.OneTime, t.Fallback
	return t, to, nil
}

// ephemeral adds receipts, typing and presence. Spec: as#pushing-ephemeral-data
func (s *Service) ephemeral(q store.Querier, a *app, t *transaction, receipts []Receipt, from, to int64) error {
	in := map[string]bool{} // rooms
	interested := func(roomID string) (bool, error) {
		if ok, known := in[roomID]; known {
			return ok, nil
		}
		ok, err := s.interested(q, a, roomID, false)
		in[roomID] = ok
		return ok, err
	}
	add := func(e any) error {
		b, err := json.Marshal(e)
		t.Ephemeral = append(t.Ephemeral, b)
		return err
	}
	type entry struct {
		TS     int64  `json:"ts"`
		Thread string `json:"thread_id,omitempty"`
	}
	type event struct {
		Type    string `json:"type"`
		RoomID  string `json:"room_id"`
		Content any    `json:"content"`
	}
	content := map[string]map[string]map[string]map[string]entry{} // room, event, type, user
	var order []string
	for _, r := range receipts {
		if r.Pos > to {
			break
		}
		if r.Type == mx.ReadPrivate && !s.owns(a, r.UserID) {
			continue
		}
		if ok, err := interested(r.RoomID); err != nil || !ok {
			if err != nil {
				return err
			}
			continue
		}
		if content[r.RoomID] == nil {
			content[r.RoomID] = map[string]map[string]map[string]entry{}
			order = append(order, r.RoomID)
		}
		byType := content[r.RoomID][r.EventID]
		if byType == nil {
			byType = map[string]map[string]entry{}
			content[r.RoomID][r.EventID] = byType
		}
		if byType[r.Type] == nil {
			byType[r.Type] = map[string]entry{}
		}
		// One place for an unthreaded and a threaded one: the first says more.
		if have, ok := byType[r.Type][r.UserID]; !ok || have.Thread != "" {
			byType[r.Type][r.UserID] = entry{r.TS, r.Thread}
		}
	}
	for _, room := range order {
		if err := add(event{mx.Receipt, room, content[room]}); err != nil {
			return err
		}
	}
	for room, users := range s.o.Ephemeral.TypingRooms(from, to) {
		ok, err := interested(room)
		if err != nil {
			return err
		}
		if ok {
			if err := add(event{mx.Typing, room, map[string][]string{"user_ids": users}}); err != nil {
				return err
			}
		}
	}
	var failed error
	t.Ephemeral = append(t.Ephemeral, s.o.Ephemeral.Presence(from, to, func(userID string) bool {
		ok, err := s.concerns(q, a, userID)
		if err != nil {
			failed = err
		}
		return ok
	})...)
	return failed
}

// concerns reports whether a user is the service's, shares a room with one who is,
// or is in a room that interests it.
func (s *Service) concerns(q store.Querier, a *app, userID string) (bool, error) {
	if s.owns(a, userID) {
		return true, nil
	}
	users, err := s.o.Rooms.SharedUsers(q, userID)
	if err != nil {
		return false, err
	}
	for _, u := range users {
		if s.owns(a, u) {
			return true, nil
		}
	}
	if len(a.Namespaces.Rooms) == 0 && len(a.Namespaces.Aliases) == 0 {
		return false, nil
	}
	list, err := s.o.Rooms.JoinedRooms(q, userID)
	if err != nil {
		return false, err
	}
	for _, id := range list {
		if ok, err := s.interested(q, a, id, false); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// encryption adds what the service needs to keep its devices able to encrypt.
// Spec: MSC3202
func (s *Service) encryption(q store.Querier, a *app, t *transaction, from, to int64, dirty map[[2]string]bool) error {
	for _, m := range t.ToDevice {
		var target struct {
			User   string `json:"to_user_id"`
			Device string `json:"to_device_id"`
		}
		if err := json.Unmarshal(m, &target); err != nil {
			return err
		}
		dirty[[2]string{target.User, target.Device}] = true
	}
	for k := range dirty {
		user, device := k[0], k[1]
		if s.o.DeviceExists != nil {
			if ok, err := s.o.DeviceExists(q, user, device); err != nil || !ok {
				if err != nil {
					return err
				}
				continue
			}
		}
		otk, fallback, err := s.o.Keys.Counts(q, user, device)
		if err != nil {
			return err
		}
		if t.OneTime == nil {
			t.OneTime, t.Fallback = keyCounts{}, fallbackKeys{}
		}
		if t.OneTime[user] == nil {
			t.OneTime[user], t.Fallback[user] = map[string]map[string]int{}, map[string][]string{}
		}
		t.OneTime[user][device], t.Fallback[user][device] = otk, fallback
	}
	return s.lists(q, a, t, from, to)
}

// lists adds whose keys the service must fetch again and whom it shares no room
// with any more. One whom it knew already may be named again.
func (s *Service) lists(q store.Querier, a *app, t *transaction, from, to int64) error {
	changed, left := map[string]bool{}, map[string]bool{}
	users, err := s.o.Keys.ChangedLists(q, from, to)
	if err != nil {
		return err
	}
	for _, u := range users {
		ok, err := s.concerns(q, a, u)
		if err != nil {
			return err
		}
		if ok {
			changed[u] = true
		}
	}
	moved, err := s.o.Keys.Sharing(q, from, to)
	if err != nil {
		return err
	}
	check := map[string]bool{}
	for room, who := range moved {
		ok, err := s.interested(q, a, room, false)
		if err != nil {
			return err
		}
		own := false
		for u := range who {
			own = own || s.owns(a, u)
		}
		if !ok && !own {
			continue
		}
		for u := range who {
			check[u] = true
		}
		if own {
			members, err := s.o.Rooms.Members(q, room, mx.Join)
			if err != nil {
				return err
			}
			for _, u := range members {
				check[u] = true
			}
		}
	}
	for u := range check {
		if s.owns(a, u) || changed[u] {
			continue
		}
		ok, err := s.concerns(q, a, u)
		if err != nil {
			return err
		}
		if ok {
			changed[u] = true
		} else {
			left[u] = true
		}
	}
	if len(changed)+len(left) > 0 {
		t.Lists = &deviceLists{Changed: keysOf(changed), Left: keysOf(left)}
	}
	return nil
}

// withTarget adds to a to-device message whom it is for.
func withTarget(msg mx.Raw, userID, deviceID string) ([]byte, error) {
	var m map[string]mx.Raw
	if err := json.Unmarshal(msg, &m); err != nil {
		return nil, err
	}
	var err error
	if m["to_user_id"], err = json.Marshal(userID); err != nil {
		return nil, err
	}
	if m["to_device_id"], err = json.Marshal(deviceID); err != nil {
		return nil, err
	}
	return json.Marshal(m)
}

// cutDevice is the reverse of notify.DeviceKey: a user ID has no "|".
func cutDevice(key string) (user, device string, ok bool) { return strings.Cut(key, "|") }

func keysOf(m map[string]bool) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
