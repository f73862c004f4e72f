package feed

import (
	"context"
	"errors"
	"sort"
	"sync"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/timeline"
	"holdfast/homeserver/todevice"
	"holdfast/homeserver/userdata"
	"holdfast/store"
)

// Request is what a device asks.
type Request struct {
	From       timeline.Token // Pos 0: everything
	Filter     *timeline.Filter
	FullState  bool // all state of all rooms, whatever changed
	StateAfter bool // state as after the timeline instead of before it
}

// Changes are the answer.
type Changes struct {
	To       timeline.Token
	Empty    bool // nothing that is worth waking a client for
	Joined   []*Room
	Invited  []*Room
	Knocked  []*Room
	Left     []*Room
	Data     []userdata.Data
	Presence []mx.Raw
	ToDevice []mx.Raw

	DevicesChanged, DevicesLeft []string
	OneTimeKeys                 map[string]int
	Fallback                    []string
}

// Room is what changed in a room.
type Room struct {
	ID        string
	Events    []*rooms.Event // the timeline, oldest first
	Limited   bool           // events before these were left out
	Prev      int64          // position before the timeline
	State     []*rooms.Event
	Summary   *Summary
	Data      []userdata.Data
	Ephemeral []mx.Raw
	Main      Counts
	Threads   map[string]Counts
	Stripped  []*rooms.Event // of an invited or knocking user's room
	View      *timeline.View // what the user may see of it
}

// Summary is what a client needs to name a room whose members it does not know.
type Summary struct {
	Heroes          []string
	Joined, Invited int
}

// touches are what changed for the user, in a range, by the touches of commits. In
// a range that the ring does not hold everything may have changed.
type touches struct {
	all                                   bool
	room, receipt, typing                 map[string]bool
	user, device, list, presence, sharing bool
	members                               map[string]bool // users whose membership of some room changed
}

func (s *Session) touches(from, to int64, members map[string]rooms.Member) touches {
	t := touches{room: map[string]bool{}, receipt: map[string]bool{}, typing: map[string]bool{}}
	key := notify.DeviceKey(s.UserID, s.DeviceID)
	held := s.f.ring.each(from, to, func(x *store.Touch) {
		switch x.Kind {
		case notify.Room, notify.Receipt, notify.Typing:
			if _, ok := members[x.Key]; !ok {
				return
			}
			switch x.Kind {
			case notify.Room:
				t.room[x.Key] = true
			case notify.Receipt:
				t.receipt[x.Key] = true
			default:
				t.typing[x.Key] = true
			}
		case notify.User:
			t.user = t.user || x.Key == s.UserID
		case notify.Device:
			t.device = t.device || x.Key == key
		case notify.DevList:
			t.list = true
		case notify.Presence:
			t.presence = true
		case notify.Member:
			t.sharing = true
			if t.members == nil {
				t.members = map[string]bool{}
			}
			t.members[x.Key] = true
		}
	})
	t.all = !held || from == 0 // a first sync gets everything, on a fresh store too
	return t
}

// Bounds of a room's timeline in one answer.
const (
	defaultTimeline = 10
	maxTimeline     = 200
	maxLooked       = 2000 // events looked at for a timeline
)

// answer is the work on one answer.
type answer struct {
	*Session
	q       store.Querier
	r       Request
	from    int64
	to      int64
	members map[string]rooms.Member
	t       touches
	ignore  map[string]bool
	allData map[string][]userdata.Data // account data of all rooms, once it was needed
	out     *Changes
}

// Since finds what changed for the device since r.From and calls render with it,
// in the snapshot it was read from.
func (s *Session) Since(ctx context.Context, r Request, render func(q store.Querier, c *Changes) error) error {
	return again(func() error { return s.since(ctx, r, render) })
}

// again does once more what met a room that was deleted after it began: it then finds
// how the user left it.
func again(f func() error) (err error) {
	for range 3 {
		if err = f(); !errors.Is(err, store.ErrNotFound) {
			break
		}
	}
	return err
}

func (s *Session) since(ctx context.Context, r Request, render func(q store.Querier, c *Changes) error) error {
	to, members, err := s.now(ctx)
	if err != nil {
		return err
	}
	from := r.From
	if from.Pos > to { // of another life of this database: begin where we are
		// What the device has of its to-device messages is not known then.
		from = timeline.Token{Pos: to}
	}
	if r.Filter == nil {
		r.Filter = &timeline.Filter{}
	}
	r.From = from
	if err := s.acknowledge(ctx, from); err != nil {
		return err
	}
	return s.f.o.DB.Read(ctx, func(q store.Querier) error {
		a := &answer{Session: s, q: q, r: r, from: from.Pos, to: to, members: members, out: &Changes{}}
		a.t = s.touches(from.Pos, to, members)
		if err := a.find(); err != nil {
			return err
		}
		return render(q, a.out)
	})
}

// acknowledge removes the to-device messages that the device has shown to have.
func (s *Session) acknowledge(ctx context.Context, from timeline.Token) error {
	if from.ToDevice == 0 || s.device.idle() {
		return nil
	}
	pending := false
	err := s.f.o.DB.Read(ctx, func(q store.Querier) (err error) {
		pending, err = todevice.Pending(q, s.UserID, s.DeviceID, from.ToDevice)
		return err
	})
	if err != nil || !pending {
		return err
	}
	return s.f.o.DB.Write(ctx, func(tx *store.Tx) error {
		return todevice.Ack(tx, s.UserID, s.DeviceID, from.ToDevice)
	})
}

func (a *answer) find() (err error) {
	o, out := &a.f.o, a.out
	if a.ignore, err = a.ignored(a.q, a.to); err != nil {
		return err
	}
	if err := a.toDevice(); err != nil {
		return err
	}
	if out.OneTimeKeys, out.Fallback, err = o.E2EE.Counts(a.q, a.UserID, a.DeviceID); err != nil {
		return err
	}
	if a.from > 0 && (a.t.all || a.t.list || a.t.sharing) {
		if out.DevicesChanged, out.DevicesLeft, err = o.E2EE.ListChanges(a.q, a.UserID, a.from, a.to); err != nil {
			return err
		}
	}
	var roomData map[string][]userdata.Data
	private := map[string]bool{}
	if a.t.all || a.t.user || a.r.FullState {
		from := a.from
		if a.r.FullState {
			from = 0
		}
		var global []userdata.Data
		if global, roomData, err = o.Userdata.AccountDataSince(a.q, a.UserID, from, a.to); err != nil {
			return err
		}
		for _, d := range global {
			if a.r.Filter.AccountData.Pass(d.Type, a.UserID) {
				out.Data = append(out.Data, d)
			}
		}
		if a.from > 0 {
			ids, err := o.Ephemeral.PrivateRooms(a.q, a.UserID, a.from, a.to)
			if err != nil {
				return err
			}
			for _, id := range ids {
				private[id] = true
			}
			if err := a.recounted(a.from, private); err != nil {
				return err
			}
		}
	}
	if (a.t.all || a.t.presence || a.t.sharing) && !a.r.Filter.Presence.None() {
		if err := a.presence(); err != nil {
			return err
		}
	}
	if err := a.rooms(roomData, private); err != nil {
		return err
	}
	out.Empty = len(out.Joined)+len(out.Invited)+len(out.Knocked)+len(out.Left)+len(out.Data)+len(out.Presence)+len(out.ToDevice)+
		len(out.DevicesChanged)+len(out.DevicesLeft) == 0 && !a.t.device && a.from > 0
	return nil
}

// recounted notes the rooms whose counts changed without an event or a receipt.
func (a *answer) recounted(from int64, rooms map[string]bool) error {
	if a.f.o.Recounted == nil {
		return nil
	}
	ids, all, err := a.f.o.Recounted(a.q, a.UserID, from, a.to)
	if err != nil {
		return err
	}
	for _, id := range ids {
		rooms[id] = true
	}
	if all {
		for id, m := range a.members {
			if m.Membership == mx.Join {
				rooms[id] = true
			}
		}
	}
	return nil
}

func (a *answer) toDevice() error {
	a.out.To = timeline.At(a.to)
	if a.DeviceID == "" || a.r.From.ToDevice == a.r.From.Pos && a.device.idle() {
		return nil
	}
	list, last, err := todevice.Since(a.q, a.UserID, a.DeviceID, a.r.From.ToDevice, a.to, todevice.MaxPerSync)
	if err != nil {
		return err
	}
	a.device.found(len(list) == 0 && last == a.to, a.to)
	a.out.ToDevice = list
	a.out.To.ToDevice = last
	return nil
}

func (a *answer) presence() error {
	var failed error
	list := a.f.o.Ephemeral.Presence(a.from, a.to, func(userID string) bool {
		if !a.r.Filter.Presence.Pass(mx.Presence, userID) {
			return false
		}
		if userID == a.UserID {
			return true
		}
		if a.ignore[userID] {
			return false
		}
		ok, err := a.f.o.Rooms.ShareRoom(a.q, a.UserID, userID)
		if err != nil {
			failed = err
		}
		return ok
	})
	if a.from > 0 {
		met, err := a.met()
		if err != nil {
			return err
		}
		list = append(a.f.o.Ephemeral.PresenceBefore(a.from, func(userID string) bool {
			if userID == a.UserID || a.ignore[userID] || met != nil && !met[userID] || !a.r.Filter.Presence.Pass(mx.Presence, userID) {
				return false
			}
			ok, err := a.f.o.Rooms.CameToShare(a.q, a.UserID, userID, a.from)
			if err != nil {
				failed = err
			}
			return ok
		}), list...)
	}
	if n := a.r.Filter.Presence.LimitOr(len(list), len(list)); n < len(list) { // the newest: what changed before is of less use
		list = list[len(list)-n:]
	}
	a.out.Presence = list
	return failed
}

// met are the users with whom the user may have come to share a room in the range: of
// whom the client knows no presence yet. nil: all.
func (a *answer) met() (map[string]bool, error) {
	if a.t.all {
		return nil, nil
	}
	met := map[string]bool{}
	for u := range a.t.members {
		met[u] = true
	}
	if !met[a.UserID] {
		return met, nil
	}
	for id, m := range a.members {
		if m.Membership != mx.Join || m.Pos <= a.from {
			continue
		}
		users, err := a.f.o.Rooms.Members(a.q, id, mx.Join)
		if err != nil {
			return nil, err
		}
		for _, u := range users {
			met[u] = true
		}
	}
	return met, nil
}

// rooms goes through the user's rooms.
func (a *answer) rooms(data map[string][]userdata.Data, private map[string]bool) error {
	initial := a.from == 0
	touched := a.t.room
	if a.t.all && !initial {
		var joined []string
		for id, m := range a.members {
			if m.Membership == mx.Join {
				joined = append(joined, id)
			}
		}
		list, err := a.f.o.Rooms.TouchedRooms(a.q, joined, a.from, a.to)
		if err != nil {
			return err
		}
		for _, id := range list {
			touched[id] = true
		}
	}
	var ids []string
	if initial || a.r.FullState || a.t.all {
		for id := range a.members {
			ids = append(ids, id)
		}
	} else {
		seen := map[string]bool{}
		add := func(id string) {
			if _, ok := a.members[id]; ok && !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
		for _, m := range []map[string]bool{a.t.room, a.t.receipt, a.t.typing, private} {
			for id := range m {
				add(id)
			}
		}
		for id := range data {
			add(id)
		}
	}
	if len(ids) > 1 {
		sort.Strings(ids)
	}
	for _, id := range ids {
		m := a.members[id]
		if !a.r.Filter.Room.PassRoom(id) || m.Pos > a.to {
			continue
		}
		changed := m.Pos > a.from
		switch {
		case m.Membership == mx.Join:
			room, err := a.joined(m, touched[id], data[id], private[id])
			if err != nil {
				return err
			}
			if room != nil {
				a.out.Joined = append(a.out.Joined, room)
			}
		case m.Membership == mx.Invite && changed:
			if a.ignore[m.Sender] {
				continue
			}
			if a.f.o.InvitesBlocked != nil && m.Sender != a.f.o.Rooms.NoticesUser() {
				blocked, err := a.f.o.InvitesBlocked(a.q, a.UserID)
				if err != nil {
					return err
				}
				if blocked {
					continue
				}
			}
			fallthrough
		case m.Membership == mx.Knock && changed:
			stripped, err := a.f.o.Rooms.Stripped(a.q, id, a.UserID)
			if err != nil {
				return err
			}
			room := &Room{ID: id, Stripped: stripped}
			if m.Membership == mx.Invite {
				a.out.Invited = append(a.out.Invited, room)
			} else {
				a.out.Knocked = append(a.out.Knocked, room)
			}
		case (m.Membership == mx.Leave || m.Membership == mx.Ban) && (changed && !initial || a.r.Filter.Room.IncludeLeave && !m.Forgotten && !m.Gone && (initial || a.r.FullState || len(data[id]) > 0)):
			room, err := a.left(m, data[id])
			if err != nil {
				return err
			}
			if room != nil {
				a.out.Left = append(a.out.Left, room)
			}
		}
	}
	return nil
}

// joined gives what changed in a joined room, nil for nothing.
func (a *answer) joined(m rooms.Member, touched bool, data []userdata.Data, private bool) (*Room, error) {
	from, full := a.from, a.r.FullState
	room := &Room{ID: m.RoomID, Prev: a.to}
	view, fresh := (*timeline.View)(nil), false
	if m.Pos > from {
		// Joined meanwhile, or only renamed?
		v, err := a.f.o.Timeline.View(a.q, m.RoomID, a.UserID, a.to)
		if err != nil {
			return nil, err
		}
		view = v
		if from == 0 || v.Membership(from) != mx.Join {
			fresh, from, touched = true, 0, true
		}
		room.View = v
	} else {
		room.View = timeline.Joined(a.UserID, m.Pos, func() (*timeline.View, error) {
			return a.f.o.Timeline.View(a.q, m.RoomID, a.UserID, a.to)
		})
	}
	if touched {
		if err := a.timeline(room, from, view, m); err != nil {
			return nil, err
		}
	}
	if err := a.state(room, from, full || fresh, touched); err != nil {
		return nil, err
	}
	if err := a.roomData(room, data, fresh && !full); err != nil {
		return nil, err
	}
	if !private && (a.t.all || a.t.receipt[m.RoomID]) && a.from > 0 && !a.receiptsPass(m.RoomID) {
		// The counts change, though the receipt is not to be shown.
		var err error
		if private, err = a.f.o.Ephemeral.Read(a.q, m.RoomID, a.UserID, a.from, a.to); err != nil {
			return nil, err
		}
	}
	if err := a.ephemeral(room, fresh, private); err != nil {
		return nil, err
	}
	if len(room.Events) == 0 && len(room.State) == 0 && len(room.Data) == 0 && len(room.Ephemeral) == 0 && room.Summary == nil && !fresh && !full && !room.Limited && !private {
		return nil, nil
	}
	if a.f.o.Unread != nil {
		var err error
		if room.Main, room.Threads, err = a.f.o.Unread(a.q, m.RoomID, a.UserID, a.to); err != nil {
			return nil, err
		}
	}
	return room, nil
}

// roomData fills in the account data of a room that passes the filter: data, or all
// there is, for tags and the like may be older than the membership.
func (a *answer) roomData(room *Room, data []userdata.Data, all bool) error {
	f := &a.r.Filter.Room.AccountData
	if f.None() || !f.PassRoom(room.ID) {
		return nil
	}
	if all && a.from > 0 {
		if a.allData == nil {
			_, byRoom, err := a.f.o.Userdata.AccountDataSince(a.q, a.UserID, 0, a.to)
			if err != nil {
				return err
			}
			a.allData = byRoom
			if byRoom == nil {
				a.allData = map[string][]userdata.Data{}
			}
		}
		data = a.allData[room.ID]
	}
	for _, d := range data {
		if f.Pass(d.Type, a.UserID) {
			room.Data = append(room.Data, d)
		}
	}
	return nil
}

// receiptsPass reports whether receipts of a room are to be shown.
func (a *answer) receiptsPass(roomID string) bool {
	f := &a.r.Filter.Room.Ephemeral
	return !f.None() && f.PassRoom(roomID) && f.Pass(mx.Receipt, "")
}

// passes reports whether an event passes a filter and is not one that the user
// ignores.
func (a *answer) passes(f *timeline.RoomEventFilter, e *rooms.Event) (bool, error) {
	if !f.PassEvent(e.Event) || e.StateKey == nil && a.ignore[e.Sender] {
		return false, nil
	}
	return a.f.o.Timeline.Related(a.q, f, e, a.to)
}

// timeline fills in the room's newest events of (from, to]. view nil: the user was
// joined all the while and sees them all.
func (a *answer) timeline(room *Room, from int64, view *timeline.View, m rooms.Member) error {
	f := &a.r.Filter.Room.Timeline
	if !f.PassRoom(room.ID) {
		return nil
	}
	limit := f.LimitOr(defaultTimeline, maxTimeline)
	sees := func(e *rooms.Event) bool { return view == nil || e.Pos > m.Pos || view.Sees(e) }
	if view == nil && f.All() && len(a.ignore) == 0 && limit > 0 { // nearly always
		events, more, err := a.f.o.Rooms.Last(a.q, room.ID, from, a.to, limit)
		if err != nil {
			return err
		}
		room.Events, room.Limited = events, more
	} else if !f.None() {
		if err := a.pick(room, from, a.to, limit, f, sees); err != nil {
			return err
		}
	}
	if len(room.Events) > 0 {
		room.Prev = room.Events[0].Pos - 1
	}
	return nil
}

// pick gathers the newest events that pass a filter, down to the first that the
// user may not see: were it left out of the midst, its change of state would be
// lost to the client.
func (a *answer) pick(room *Room, from, to int64, limit int, f *timeline.RoomEventFilter, sees func(*rooms.Event) bool) error {
	var back []*rooms.Event
	for looked := 0; ; {
		n := max(limit, 20)
		batch, more, err := a.f.o.Rooms.Last(a.q, room.ID, from, to, n)
		if err != nil {
			return err
		}
		for i := len(batch) - 1; i >= 0; i-- {
			e := batch[i]
			to = e.Pos - 1
			if !sees(e) {
				room.Limited = true
				break
			}
			ok, err := a.passes(f, e)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			if len(back) == limit {
				room.Limited = true
				break
			}
			back = append(back, e)
		}
		if looked += len(batch); room.Limited || !more {
			break
		}
		if looked >= maxLooked {
			room.Limited = true
			break
		}
	}
	for i, j := 0, len(back)-1; i < j; i, j = i+1, j-1 {
		back[i], back[j] = back[j], back[i]
	}
	room.Events = back
	return nil
}

func (a *answer) ephemeral(room *Room, fresh, private bool) error {
	f, o := &a.r.Filter.Room.Ephemeral, &a.f.o
	if f.None() || !f.PassRoom(room.ID) {
		return nil
	}
	from := a.from
	if fresh {
		from = 0
	}
	if (fresh || a.t.all || a.t.receipt[room.ID] || private) && f.Pass(mx.Receipt, "") {
		content, err := o.Ephemeral.Receipts(a.q, room.ID, a.UserID, from, a.to, a.ignore)
		if err != nil {
			return err
		}
		if content != nil {
			room.Ephemeral = append(room.Ephemeral, ephemeralEvent(mx.Receipt, content))
		}
	}
	if (fresh || a.t.all || a.t.typing[room.ID]) && f.Pass(mx.Typing, "") {
		users, changed := o.Ephemeral.Typing(room.ID, from)
		if changed && (len(users) > 0 || !fresh) {
			room.Ephemeral = append(room.Ephemeral, typingEvent(users, a.ignore))
		}
	}
	return nil
}

// countCache keeps the last answer about each room's size, as many readers ask for
// the same position.
type countCache struct {
	mu sync.Mutex
	m  map[string]roomCounts
}

type roomCounts struct {
	at              int64
	joined, invited int
}

func (a *answer) counts(roomID string) (joined, invited int, err error) {
	c := &a.f.counts
	c.mu.Lock()
	have, ok := c.m[roomID]
	c.mu.Unlock()
	if ok && have.at == a.to {
		return have.joined, have.invited, nil
	}
	joined, invited, err = a.f.o.Rooms.Counts(a.q, roomID)
	if err != nil {
		return 0, 0, err
	}
	c.mu.Lock()
	if len(c.m) > 1000 {
		clear(c.m)
	}
	c.m[roomID] = roomCounts{a.to, joined, invited}
	c.mu.Unlock()
	return joined, invited, nil
}
