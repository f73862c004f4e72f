package pusher

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/pdu"
	"holdfast/store"
)

// Bounds of delivery.
const (
	requestTimeout = 30 * time.Second
	maxRequests    = 32             // at once
	maxAnswer      = 64 << 10       // bytes of a gateway's answer
	maxWaiting     = 20             // notifications that a gateway is told after it was away; older ones only count
	maxAge         = 24 * time.Hour // of an event that is still pushed
	defaultWait    = 2 * time.Second
	maxWait        = time.Hour
	saveEvery      = time.Second
	closeGrace     = 3 * time.Second
	roomsAtOnce    = 50 // counted in one read
)

// user is somebody who has pushers.
type user struct {
	id string

	// Guarded by Service.mu.
	senders map[int64]*sender
	dirty   map[string]struct{} // rooms whose counts may have changed
	moved   bool                // memberships may have changed
	all     bool                // counts of any room may have changed
	held    bool                // is told nothing for now
	joined  map[string]struct{}

	mu      chan struct{} // held while counting
	unread  map[string]unread
	invites []note
}

// unread is what is unread in one room.
type unread struct {
	n, calls int
	at       []int64 // the newest
}

// note is an event that may have to be pushed.
type note struct {
	pos  int64
	room string
}

// sender is a pusher at work. All is guarded by Service.mu.
type sender struct {
	record
	user           *user
	running, again bool
	looked         time.Time // when a pusher by e-mail looked last
	gone           bool
	problem        string // why the gateway took no notification
	timer          *time.Timer
}

// Start begins to push. Close ends it.
func (s *Service) Start(ctx context.Context) error {
	s.ctx, s.stop = context.WithCancel(ctx)
	s.requests, s.abort = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.sealRows(ctx); err != nil {
		return err
	}
	var all []record
	err := s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		all, err = s.listAll(q)
		return err
	})
	if err != nil {
		return fmt.Errorf("pusher: %w", err)
	}
	s.o.DB.OnVisible(s.touched)
	byUser := map[string][]record{}
	for _, r := range all {
		byUser[r.userID] = append(byUser[r.userID], r)
	}
	for id, list := range byUser {
		held, err := s.held(id)
		if err != nil {
			return fmt.Errorf("pusher: %w", err)
		}
		s.reconcile(id, list, held)
	}
	s.wg.Go(s.dispatch)
	s.wg.Go(s.save)
	return nil
}

// Close ends pushing and notes how far it came. It is called before the store
// closes. Requests that are under way are waited for, so that they are not repeated,
// but not long.
func (s *Service) Close() {
	if s.stop == nil {
		return
	}
	s.mu.Lock()
	s.closed = true
	for _, u := range s.users {
		for _, x := range u.senders {
			if x.timer != nil {
				x.timer.Stop()
			}
		}
	}
	s.mu.Unlock()
	s.stop()
	t := time.AfterFunc(closeGrace, s.abort)
	s.wg.Wait()
	t.Stop()
	s.abort()
	s.flush()
}

// touched notes what a commit changed. It runs under the writer, and costs nothing
// where there are no pushers.
func (s *Service) touched(_ int64, touches []store.Touch) {
	if !s.any.Load() {
		return
	}
	s.noteMu.Lock()
	for _, t := range touches {
		switch t.Kind {
		case notify.Room, notify.Receipt:
			s.notes.rooms[t.Key] = struct{}{}
		case notify.User:
			s.notes.people[t.Key] = struct{}{}
		case notify.Member:
			s.notes.members[t.Key] = struct{}{}
		}
	}
	s.noteMu.Unlock()
	s.signal()
}

// held reports whether a user is told nothing for now.
func (s *Service) held(userID string) (bool, error) {
	if s.o.Held == nil {
		return false, nil
	}
	return s.o.Held(s.ctx, userID)
}

// Reload is to be called when Options.Held says another thing of a user than before.
// Until that is read nothing is told.
func (s *Service) Reload(userID string) {
	s.mu.Lock()
	if u := s.users[userID]; u != nil {
		u.held = true
	}
	s.mu.Unlock()
	s.reload(userID)
}

// reload has a user's pushers read again. It may run after a commit.
func (s *Service) reload(users ...string) {
	s.noteMu.Lock()
	for _, u := range users {
		s.notes.reload[u] = struct{}{}
	}
	s.noteMu.Unlock()
	s.signal()
}

func (s *Service) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// dispatch tells users' pushers what was touched.
func (s *Service) dispatch() {
	for {
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			return
		}
		s.noteMu.Lock()
		n := s.notes
		s.notes = newNotes()
		s.noteMu.Unlock()
		for id := range n.reload {
			var list []record
			err := s.o.DB.Read(s.ctx, func(q store.Querier) (err error) {
				list, err = s.listOf(q, id)
				return err
			})
			held := false
			if err == nil && len(list) > 0 {
				held, err = s.held(id)
			}
			if err != nil {
				if s.ctx.Err() == nil {
					s.o.Log.Error("pushers could not be read; trying again", "user", id, "err", err)
					time.AfterFunc(saveEvery, func() { s.reload(id) })
				}
				continue
			}
			s.reconcile(id, list, held)
		}
		s.mu.Lock()
		touched := map[*user]struct{}{}
		for id := range n.rooms {
			for u := range s.inRoom[id] {
				u.dirty[id] = struct{}{}
				touched[u] = struct{}{}
			}
		}
		for id := range n.people {
			if u := s.users[id]; u != nil {
				u.all = true
				touched[u] = struct{}{}
			}
		}
		for id := range n.members {
			if u := s.users[id]; u != nil {
				u.moved = true
				touched[u] = struct{}{}
			}
		}
		for u := range touched {
			for _, x := range u.senders {
				s.schedule(x)
			}
		}
		s.mu.Unlock()
	}
}

// reconcile makes a user's senders what the rows say.
func (s *Service) reconcile(id string, list []record, held bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[id]
	if u == nil {
		if len(list) == 0 {
			return
		}
		u = &user{id: id, senders: map[int64]*sender{}, dirty: map[string]struct{}{}, joined: map[string]struct{}{}, moved: true,
			mu: make(chan struct{}, 1), unread: map[string]unread{}}
		s.users[id] = u
	}
	u.held = held
	old := u.senders
	u.senders = map[int64]*sender{}
	for _, r := range list {
		x := old[r.id]
		if x == nil {
			x = &sender{record: r, user: u}
		} else {
			if x.pos > r.pos {
				r.pos = x.pos // what was sent may not be on disk yet
			}
			if x.badge >= 0 {
				r.badge = x.badge
			}
			if r.setTS == x.setTS {
				r.failures, r.retryTS = x.failures, x.retryTS
			}
			x.record = r
		}
		delete(old, r.id)
		u.senders[r.id] = x
		s.schedule(x)
	}
	for _, x := range old {
		s.end(x)
	}
	s.settle(u)
}

// end stops a sender whose pusher is no more. s.mu is held.
func (s *Service) end(x *sender) {
	x.gone = true
	delete(s.unsaved, x.id)
	if x.timer != nil {
		x.timer.Stop()
	}
}

// settle forgets a user without pushers. s.mu is held.
func (s *Service) settle(u *user) {
	if len(u.senders) == 0 && s.users[u.id] == u {
		delete(s.users, u.id)
		for id := range u.joined {
			s.leave(u, id)
		}
	}
	s.any.Store(len(s.users) > 0)
}

// leave is the end of a user's interest in a room. s.mu is held.
func (s *Service) leave(u *user, roomID string) {
	delete(s.inRoom[roomID], u)
	if len(s.inRoom[roomID]) == 0 {
		delete(s.inRoom, roomID)
	}
}

// schedule has a sender look for what there is to send. s.mu is held.
func (s *Service) schedule(x *sender) {
	switch {
	case x.gone || s.closed || !x.enabled || x.user.held:
	case x.running:
		x.again = true
	case x.isMail() && time.Since(x.looked) < s.lookEvery():
		s.later(x, s.lookEvery()-time.Since(x.looked))
	default:
		x.running = true
		s.wg.Go(func() { s.run(x) })
	}
}

func (s *Service) run(x *sender) {
	for {
		more := s.step(x)
		s.mu.Lock()
		// What is touched while e-mail is looked at is seen the next time.
		if again := x.again && x.isMail(); (!more && !x.again) || again || x.gone || s.closed || !x.enabled || x.user.held {
			x.running, x.again = false, false
			if again {
				s.schedule(x)
			}
			s.mu.Unlock()
			return
		}
		x.again = false
		s.mu.Unlock()
	}
}

// later schedules a sender anew after a while. s.mu is held.
func (s *Service) later(x *sender, d time.Duration) {
	if x.timer != nil {
		x.timer.Stop()
	}
	if s.closed || x.gone {
		return
	}
	x.timer = time.AfterFunc(d, func() {
		s.mu.Lock()
		s.schedule(x)
		s.mu.Unlock()
	})
}

// step sends one request at most, and reports whether to look again at once.
func (s *Service) step(x *sender) (more bool) {
	s.mu.Lock()
	r := x.record
	if wait := time.Until(time.UnixMilli(r.retryTS)); wait > 0 {
		s.later(x, wait)
		s.mu.Unlock()
		return false
	}
	s.mu.Unlock()
	if r.isMail() {
		return s.stepMail(x, r)
	}
	waiting, total, err := s.count(x.user, r.pos)
	if err != nil {
		return s.trouble(x, err)
	}
	if len(waiting) > maxWaiting {
		waiting = waiting[len(waiting)-maxWaiting:]
	}
	var body []byte
	to := r.pos
	if len(waiting) > 0 {
		n := waiting[0]
		to = n.pos
		err := s.o.DB.Read(s.ctx, func(q store.Querier) (err error) {
			body, err = s.notification(q, r, n, total)
			return err
		})
		if err != nil {
			return s.trouble(x, err)
		}
		if body == nil { // the rules changed, or it is too old
			s.mu.Lock()
			x.pos = max(x.pos, to)
			s.unsaved[x.id] = x
			s.mu.Unlock()
			return true
		}
	} else {
		if r.badge == total.n || r.badge < 0 {
			s.mu.Lock()
			if x.badge != total.n {
				x.badge = total.n
				s.unsaved[x.id] = x
			}
			s.mu.Unlock()
			return false
		}
		// The one place where zero is said: a badge has to go.
		counts := map[string]int{"unread": total.n}
		if total.calls > 0 {
			counts["missed_calls"] = total.calls
		}
		if body, err = encode(map[string]any{"counts": counts, "prio": "low", "devices": []any{device(r, nil)}}); err != nil {
			return s.trouble(x, err)
		}
	}
	s.mu.Lock()
	held := x.user.held
	s.mu.Unlock()
	if held {
		return false
	}
	rejected, wait, err := s.post(r, body)
	if err != nil && s.ctx.Err() != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.gone {
		return false
	}
	switch {
	case rejected:
		s.wg.Go(func() { s.rejected(r) })
		x.enabled = false
		return false
	case err != nil:
		if x.failures++; x.failures == 1 {
			s.o.Log.Warn("a push gateway took no notification; what is unread is sent again later", "gateway", hostOf(r.at), "app", r.appID, "user", r.userID, "err", err)
		}
		x.problem = err.Error()
		wait = max(wait, s.o.FirstWait<<min(x.failures-1, 20))
		wait = min(wait, maxWait)
		x.retryTS = time.Now().Add(wait).UnixMilli()
		s.later(x, wait)
	default:
		x.pos, x.badge = max(x.pos, to), total.n
		x.failures, x.retryTS, x.problem = 0, 0, ""
		more = true
	}
	s.unsaved[x.id] = x
	return more
}

// hostOf is the host of a gateway.
func hostOf(at string) string {
	u, err := url.Parse(at)
	if err != nil {
		return ""
	}
	return u.Host
}

// Trouble is a gateway that takes no notifications.
type Trouble struct {
	Gateway string    // its host
	Pushers int       // that wait for it
	Next    time.Time // the next attempt
	Err     string    // what went wrong last; "": not tried since the start
}

// Troubles lists the gateways that took no notification when they were asked last.
func (s *Service) Troubles() []Trouble {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := map[string]*Trouble{}
	for _, u := range s.users {
		for _, x := range u.senders {
			if x.failures == 0 || !x.enabled {
				continue
			}
			host := hostOf(x.at)
			if x.isMail() {
				host = "e-mail"
			}
			t := m[host]
			if t == nil {
				t = &Trouble{Gateway: host}
				m[host] = t
			}
			t.Pushers++
			if next := time.UnixMilli(x.retryTS); t.Next.IsZero() || next.Before(t.Next) {
				t.Next = next
			}
			if x.problem != "" {
				t.Err = x.problem
			}
		}
	}
	out := make([]Trouble, 0, len(m))
	for _, host := range slices.Sorted(maps.Keys(m)) {
		out = append(out, *m[host])
	}
	return out
}

// RetryLocal has a user's pushers at this server's own gateway try again at once, as
// after a phone has come for the first time.
func (s *Service) RetryLocal(userID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[userID]
	if u == nil || s.o.IsLocal == nil {
		return
	}
	for _, x := range u.senders {
		if x.failures > 0 && s.o.IsLocal(x.at) {
			x.failures, x.retryTS = 0, 0
			s.schedule(x)
		}
	}
}

// trouble is for what is no fault of a gateway: the database, in the main.
func (s *Service) trouble(x *sender, err error) bool {
	if s.ctx.Err() != nil {
		return false
	}
	s.o.Log.Error("a notification could not be made; trying again", "user", x.user.id, "err", err)
	s.mu.Lock()
	s.later(x, 5*time.Second)
	s.mu.Unlock()
	return false
}

// count brings a user's counts up to date, and tells what is unread after a
// position, oldest first, and how much is unread in all.
func (s *Service) count(u *user, after int64) (waiting []note, total unread, err error) {
	select {
	case u.mu <- struct{}{}:
		defer func() { <-u.mu }()
	case <-s.ctx.Done():
		return nil, total, s.ctx.Err()
	}
	select {
	case s.reads <- struct{}{}:
		defer func() { <-s.reads }()
	case <-s.ctx.Done():
		return nil, total, s.ctx.Err()
	}
	s.mu.Lock()
	dirty, moved, all := u.dirty, u.moved, u.all
	u.dirty, u.moved, u.all = map[string]struct{}{}, false, false
	s.mu.Unlock()
	defer func() {
		if err != nil {
			s.mu.Lock()
			maps.Copy(u.dirty, dirty)
			u.moved, u.all = u.moved || moved, u.all || all
			s.mu.Unlock()
		}
	}()
	if moved {
		if err := s.moved(u, dirty); err != nil {
			return nil, total, err
		}
	}
	if all { // private receipts and threads that are not followed any more: they can only take away
		for id := range u.unread {
			dirty[id] = struct{}{}
		}
	}
	s.mu.Lock()
	joined := u.joined
	s.mu.Unlock()
	to := s.o.DB.Pos()
	for list := range slices.Chunk(slices.Collect(maps.Keys(dirty)), roomsAtOnce) {
		err := s.o.DB.Read(s.ctx, func(q store.Querier) error {
			for _, id := range list {
				if _, in := joined[id]; !in {
					delete(u.unread, id)
					continue
				}
				n, calls, at, err := s.o.Counter.Unread(q, id, u.id, to)
				if err != nil {
					return err
				}
				if n == 0 {
					delete(u.unread, id)
					continue
				}
				u.unread[id] = unread{n, calls, at[max(0, len(at)-maxWaiting):]}
			}
			return nil
		})
		if err != nil {
			return nil, total, err
		}
	}
	for id, r := range u.unread {
		total.n += r.n
		total.calls += r.calls
		for _, pos := range r.at {
			if pos > after {
				waiting = append(waiting, note{pos, id})
			}
		}
	}
	for _, n := range u.invites {
		if n.pos > after {
			waiting = append(waiting, n)
		}
	}
	slices.SortFunc(waiting, func(a, b note) int { return cmp.Compare(a.pos, b.pos) })
	return waiting, total, nil
}

// moved brings a user's rooms and invitations up to date. New rooms become dirty;
// their touches are heard before their counts are read.
func (s *Service) moved(u *user, dirty map[string]struct{}) error {
	var joined []string
	var invites []note
	err := s.o.DB.Read(s.ctx, func(q store.Querier) (err error) {
		if joined, err = s.o.Rooms.JoinedRooms(q, u.id); err != nil {
			return err
		}
		list, err := s.o.Rooms.Rooms(q, u.id, mx.Invite)
		for _, m := range list {
			invites = append(invites, note{m.Pos, m.RoomID})
		}
		return err
	})
	if err != nil {
		return err
	}
	u.invites = invites
	now := make(map[string]struct{}, len(joined))
	for _, id := range joined {
		now[id] = struct{}{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users[u.id] != u {
		return nil
	}
	for id := range u.joined {
		if _, ok := now[id]; !ok {
			s.leave(u, id)
			delete(u.unread, id)
		}
	}
	for id := range now {
		if _, ok := u.joined[id]; ok {
			continue
		}
		dirty[id] = struct{}{}
		if s.inRoom[id] == nil {
			s.inRoom[id] = map[*user]struct{}{}
		}
		s.inRoom[id][u] = struct{}{}
	}
	u.joined = now
	return nil
}

// notification makes the body of a request about an event, nil where it does not
// notify any more. Spec: push-gateway#post_matrixpushv1notify
func (s *Service) notification(q store.Querier, r record, n note, total unread) ([]byte, error) {
	ev, err := s.o.Rooms.EventAt(q, n.pos)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if time.Since(time.UnixMilli(ev.OriginServerTS)) > maxAge {
		return nil, nil
	}
	out, err := s.o.Counter.Outcome(q, r.userID, ev)
	if err != nil || !out.Notify {
		return nil, err
	}
	counts := map[string]int{}
	if total.n > 0 {
		counts["unread"] = total.n
	}
	if total.calls > 0 {
		counts["missed_calls"] = total.calls
	}
	tweaks := map[string]any{}
	prio := "low"
	for _, a := range out.Actions {
		switch {
		case a.Tweak == "":
		case a.Value != nil:
			tweaks[a.Tweak] = a.Value
		case a.Tweak == "highlight":
			tweaks[a.Tweak] = true
		default:
			tweaks[a.Tweak] = ""
		}
	}
	// What makes a sound is to be heard at once; of an encrypted event only the
	// client knows whether it does.
	if _, sound := tweaks["sound"]; sound || out.Highlight || ev.Type == mx.RoomEncrypted {
		prio = "high"
	}
	m := map[string]any{"event_id": ev.ID, "room_id": ev.RoomID, "counts": counts, "prio": prio}
	if pdu.FieldString(r.data, "format") == "event_id_only" {
		m["devices"] = []any{device(r, nil)}
		return encode(m)
	}
	m["devices"] = []any{device(r, tweaks)}
	m["type"], m["sender"], m["content"] = ev.Type, ev.Sender, ev.Content
	if ev.Type == mx.RoomMember && ev.StateKey != nil {
		m["user_is_target"] = *ev.StateKey == r.userID
		m["membership"] = ev.Membership() // of earlier releases of the specification
	}
	for _, f := range []struct{ name, typ, key, field string }{
		{"sender_display_name", mx.RoomMember, ev.Sender, "displayname"},
		{"room_name", mx.RoomName, "", "name"},
		{"room_alias", mx.RoomCanonicalAlias, "", "alias"},
	} {
		st, err := s.o.Rooms.State(q, ev.RoomID, f.typ, f.key)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if v := st.ContentString(f.field); v != "" {
			m[f.name] = v
		}
	}
	return encode(m)
}

// device is a pusher as its gateway knows it.
func device(r record, tweaks map[string]any) map[string]any {
	var data map[string]json.RawMessage
	if json.Unmarshal(r.data, &data) != nil {
		data = map[string]json.RawMessage{}
	}
	delete(data, "url")
	d := map[string]any{"app_id": r.appID, "pushkey": r.pushkey, "pushkey_ts": r.setTS / 1000, "data": data}
	if tweaks != nil {
		d["tweaks"] = tweaks
	}
	return d
}

func encode(notification map[string]any) ([]byte, error) {
	return json.Marshal(map[string]any{"notification": notification})
}

// post sends a request to a pusher's gateway. wait is what the gateway asks for
// before the next one.
func (s *Service) post(r record, body []byte) (rejected bool, wait time.Duration, err error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-s.ctx.Done():
		return false, 0, s.ctx.Err()
	}
	if s.o.Local != nil {
		if gone, ok, err := s.o.Local(s.requests, r.at, body); ok {
			var e *mx.Error
			if errors.As(err, &e) {
				wait = e.RetryAfter
			}
			return slices.Contains(gone, r.pushkey), wait, err
		}
	}
	req, err := http.NewRequestWithContext(s.requests, http.MethodPost, r.at, bytes.NewReader(body))
	if err != nil {
		return false, 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return false, 0, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode/100 != 2 {
		if n, bad := strconv.Atoi(resp.Header.Get("Retry-After")); bad == nil && n > 0 {
			wait = time.Duration(min(n, int(maxWait.Seconds()))) * time.Second
		}
		return false, wait, fmt.Errorf("it answered %d", resp.StatusCode)
	}
	if err != nil {
		return false, 0, err
	}
	return rejects(answer, r.pushkey), 0, nil
}

// rejects reports whether a gateway's answer rejects a pushkey. An answer that says
// nothing rejects nothing.
func rejects(answer []byte, pushkey string) bool {
	var a struct {
		Rejected []string `json:"rejected"`
	}
	return json.Unmarshal(answer, &a) == nil && slices.Contains(a.Rejected, pushkey)
}

// rejected removes the pushers with a pushkey that their gateway does not take any
// more; those of another gateway stay.
func (s *Service) rejected(r record) {
	err := s.o.DB.Write(context.WithoutCancel(s.ctx), func(tx *store.Tx) error {
		return s.drop(tx, `app_id = $1 AND pushkey = $2 AND url = $3`, r.appID, s.storedKey(r.pushkey), s.o.Secrets.Token(urlPurpose, r.at))
	})
	if err != nil {
		s.o.Log.Error("a pusher that its gateway rejected could not be removed", "app", r.appID, "user", r.userID, "err", err)
		return
	}
	s.o.Log.Info("a push gateway rejected a pushkey; its pusher is removed", "app", r.appID, "user", r.userID)
}

// save notes now and then how far the pushers have come.
func (s *Service) save() {
	t := time.NewTicker(saveEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			s.flush()
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *Service) flush() {
	s.mu.Lock()
	list := make(map[int64]progress, len(s.unsaved))
	for id, x := range s.unsaved {
		list[id] = x.progress
	}
	batch := s.unsaved
	s.unsaved = map[int64]*sender{}
	s.mu.Unlock()
	if len(list) == 0 {
		return
	}
	err := s.o.DB.Write(context.WithoutCancel(s.ctx), func(tx *store.Tx) error {
		for id, p := range list {
			if err := saveProgress(tx, id, p); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.o.Log.Warn("how far notifications came was not noted; trying again", "err", err)
		s.mu.Lock()
		for id, x := range batch {
			if _, newer := s.unsaved[id]; !newer && !x.gone {
				s.unsaved[id] = x
			}
		}
		s.mu.Unlock()
	}
}
