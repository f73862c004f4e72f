package sliding

import (
	"encoding/json"
	"errors"
	"strconv"

	"holdfast/homeserver/feed"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/timeline"
	"holdfast/store"
)

// answer is the work on one answer.
type answer struct {
	*feed.Look
	s            *Service
	c            *conn
	r            *request
	user, device string
	since        int64 // to-device messages up to here were acknowledged
	n            int64 // number of the answer
	now          int64 // ms

	t       feed.Touched
	shows   map[string]*show
	counts  []int // of the lists
	direct  map[string]bool
	read    map[string]bool // rooms in which the user may have read something
	tags    map[string]map[string]json.RawMessage
	indexes map[*config]int

	next  map[string]*sent // what the client has of rooms after this answer
	fresh map[string][]*rooms.Event
	begun map[string]bool
	rooms []byte // members of the object of rooms
	ext   []byte // members of the object of extensions
	empty bool   // nothing that is worth answering for
	told  bool   // of a room that is not shown again: the next answer counts anew
}

func (a *answer) make() error {
	a.t = a.Touched(a.c.pos)
	a.c.trimConfigs()
	a.shows, a.next, a.indexes = map[string]*show{}, map[string]*sent{}, map[*config]int{}
	a.fresh, a.begun = map[string][]*rooms.Event{}, map[string]bool{}
	for k := range a.c.Begun {
		a.begun[k] = true
	}
	if err := a.find(); err != nil {
		return err
	}
	if err := a.loadRead(); err != nil {
		return err
	}
	for _, sh := range a.shows {
		if err := a.room(sh); err != nil {
			return err
		}
	}
	for id := range a.read {
		if had, known := a.c.Rooms[id]; known && a.shows[id] == nil && !had.Recount {
			had.Recount = true
			a.next[id] = &had
		}
	}
	news, err := a.extensions()
	a.empty = len(a.rooms) == 0 && !news
	return err
}

// loadRead finds the rooms in which the user may have read something.
func (a *answer) loadRead() error {
	a.read = map[string]bool{}
	if a.r.stable {
		return nil
	}
	for id := range a.t.Receipts {
		a.read[id] = true
	}
	switch {
	case a.t.All:
		for id := range a.c.Rooms {
			a.read[id] = true
		}
	case a.t.User:
		ids, err := a.PrivateReceipts(a.c.pos)
		if err != nil {
			return err
		}
		for _, id := range ids {
			a.read[id] = true
		}
		return a.Recounted(a.c.pos, a.read)
	}
	return nil
}

// finish writes the answer.
func (a *answer) finish() []byte {
	out := append([]byte(`{"pos":"`), token(a.To, a.c.serial, a.n)...)
	out = append(out, '"')
	if a.r.txnID != "" && !a.r.stable {
		out = append(out, `,"txn_id":`...)
		out = pdu.AppendString(out, a.r.txnID)
	}
	out = append(out, `,"lists":{`...)
	for i := range a.r.lists {
		if i > 0 {
			out = append(out, ',')
		}
		out = pdu.AppendString(out, a.r.lists[i].name)
		out = append(out, `:{"count":`...)
		out = strconv.AppendInt(out, int64(a.counts[i]), 10)
		out = append(out, '}')
	}
	out = append(out, `},"rooms":{`...)
	out = append(out, a.rooms...)
	out = append(out, `},"extensions":{`...)
	out = append(out, a.ext...)
	return append(out, `}}`...)
}

// wants is what the rules together want of a room, and its index.
func (a *answer) wants(sh *show) (c *config, index int) {
	c = sh.configs[0]
	for _, o := range sh.configs[1:] {
		if o.text != c.text || o.limit > c.limit { // several rules are rare
			merged := merge(sh.configs)
			return &merged, a.c.configIndex(merged.text)
		}
	}
	index, ok := a.indexes[c]
	if !ok {
		index = a.c.configIndex(c.text)
		a.indexes[c] = index
	}
	return c, index
}

// room writes what a room that is shown has new, if anything.
func (a *answer) room(sh *show) error {
	m := sh.m
	had, known := a.c.Rooms[m.RoomID]
	if m.Membership == mx.Invite || m.Membership == mx.Knock {
		return a.stripped(sh, had, known)
	}
	want, index := a.wants(sh)
	initial := !known || had.Partial && m.Membership == mx.Join
	dm := a.direct[m.RoomID]
	last, err := a.Last(m)
	if err != nil {
		return err
	}
	news := initial || last > had.At
	expand := !initial && want.limit > had.Limit
	changed := !initial && had.Config != index
	counts := feed.Counts{Notifications: had.Unread, Highlights: had.Loud}
	if !a.r.stable && m.Membership == mx.Join && (news || expand || changed || had.Recount || a.read[m.RoomID]) {
		if counts, err = a.Unread(m.RoomID); err != nil {
			return err
		}
	}
	counted := counts.Notifications != had.Unread || counts.Highlights != had.Loud
	if !news && !expand && !changed && dm == had.DM && !counted {
		return nil
	}

	from := had.At
	if initial {
		from = 0
	}
	room := &feed.Room{ID: m.RoomID, Prev: a.To}
	if (news || expand) && want.limit > 0 {
		begin := from
		if expand {
			begin = 0
		}
		if room, err = a.Events(m, begin, want.limit); err != nil {
			return err
		}
	}
	expanded := expand && len(room.Events) > 0 && room.Events[0].Pos <= had.At
	state, touched, err := a.state(m, room, want, had, initial, news, changed, room.Limited && !expanded)
	if err != nil {
		return err
	}
	if !initial && !expanded && len(room.Events)+len(state)+len(touched) == 0 && dm == had.DM && !counted {
		if changed || expand { // as it was, by new rules
			s := had
			s.Config, s.Limit, s.Recount = index, max(had.Limit, want.limit), false
			a.next[m.RoomID] = &s
		}
		return nil
	}

	s := &sent{At: a.end(m), Limit: want.limit, Config: index, DM: dm, Unread: counts.Notifications, Loud: counts.Highlights, Partial: m.Membership != mx.Join}
	if !initial && !expand && !room.Limited {
		s.Limit = min(had.Limit+len(room.Events), maxTimeline)
	}
	a.next[m.RoomID] = s
	if m.Gone || m.Forgotten { // told once, it is in no list any more
		a.told = true
	}
	if m.Gone {
		a.next[m.RoomID] = nil
	}
	if initial {
		a.fresh[m.RoomID] = room.Events
	}
	return a.write(sh, room, state, touched, initial, expanded, dm != had.DM, counts)
}

// state picks the state events to send, and tells what of the room changed at all:
// pieces of state by type. gap says that events before the timeline are left out.
func (a *answer) state(m rooms.Member, room *feed.Room, want *config, had sent, initial, news, changed, gap bool) (list []*rooms.Event, touched map[string]bool, err error) {
	r := a.s.o.Rooms
	touched = map[string]bool{}
	var all []*rooms.Event // candidates
	in := map[rooms.StateKey]bool{}
	lazy := want.lazy()
	add := func(e *rooms.Event) {
		k := rooms.StateKey{Type: e.Type, Key: *e.StateKey}
		if !in[k] {
			in[k] = true
			list = append(list, e)
		}
	}
	until, member, err := a.Member(m)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case m.Gone:
		e, err := r.Departure(a.Q, m.RoomID, a.user)
		if err != nil {
			return nil, nil, err
		}
		add(e)
		return list, touched, nil
	case !member: // an invitation that ended: only that is theirs to know
		e, err := r.StateEventAt(a.Q, m.RoomID, mx.RoomMember, a.user, m.Pos)
		if err == nil {
			add(e)
		} else if !errors.Is(err, store.ErrNotFound) {
			return nil, nil, err
		}
		return list, touched, nil
	case m.Membership != mx.Join && (initial || changed):
		all, err = r.StateAt(a.Q, m.RoomID, until, func(k rooms.StateKey) bool { return want.picks(k.Type, k.Key) })
	case initial || changed:
		all, err = a.current(m.RoomID, want)
	}
	if err != nil {
		return nil, nil, err
	}
	var before *config
	if changed && had.Config >= 0 && had.Config < len(a.c.Configs) {
		before = parseConfig(a.c.Configs[had.Config])
	}
	for _, e := range all {
		if want.picks(e.Type, *e.StateKey) && (before == nil || !before.picks(e.Type, *e.StateKey)) {
			add(e)
		}
	}
	if !initial && news {
		changes, err := r.StateChanges(a.Q, m.RoomID, had.At, until)
		if err != nil {
			return nil, nil, err
		}
		for _, e := range changes {
			touched[e.Type] = true
			// In a gap the client forgets which members it had. Source: MSC4186, Lazy loaded memberships
			if want.picks(e.Type, *e.StateKey) || lazy && e.Type == mx.RoomMember && !gap {
				add(e)
			}
		}
	}
	if lazy {
		if gap || initial {
			a.c.lazies -= len(a.c.lazy[m.RoomID])
			delete(a.c.lazy, m.RoomID)
		}
		need := map[string]bool{}
		for _, e := range room.Events {
			need[e.Sender] = true
			if e.Type == mx.RoomMember && e.StateKey != nil {
				need[*e.StateKey] = true
			}
		}
		for u := range need {
			if in[rooms.StateKey{Type: mx.RoomMember, Key: u}] {
				continue
			}
			e, err := r.StateEventAt(a.Q, m.RoomID, mx.RoomMember, u, until)
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return nil, nil, err
			}
			if !a.c.had(m.RoomID, u, e.Pos, a.n) {
				add(e)
			}
		}
	}
	return list, touched, nil
}

// end is the position up to which there can be something new of a room.
func (a *answer) end(m rooms.Member) int64 {
	if m.Membership == mx.Join {
		return a.To
	}
	return m.Pos
}

// current is at least the current state that is wanted.
func (a *answer) current(roomID string, want *config) ([]*rooms.Event, error) {
	r := a.s.o.Rooms
	for _, f := range want.state {
		if f.all(mx.RoomMember) {
			return r.CurrentState(a.Q, roomID, false)
		}
	}
	var list []*rooms.Event
	var err error
	if want.wildcards() {
		if list, err = r.CurrentState(a.Q, roomID, true); err != nil {
			return nil, err
		}
	}
	for _, f := range want.state {
		for _, e := range f.Include {
			if e.Key == nil || e.Type != nil && *e.Type != mx.RoomMember && want.wildcards() {
				continue
			}
			typ := mx.RoomMember
			if e.Type != nil {
				typ = *e.Type
			}
			one, err := r.State(a.Q, roomID, typ, *e.Key)
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return nil, err
			}
			list = append(list, one)
		}
	}
	return list, nil
}

// field begins a member of the room's object.
func (a *answer) field(name string) {
	if a.rooms[len(a.rooms)-1] != '{' {
		a.rooms = append(a.rooms, ',')
	}
	a.rooms = append(append(append(a.rooms, '"'), name...), `":`...)
}

func (a *answer) number(name string, n int64) {
	a.field(name)
	a.rooms = strconv.AppendInt(a.rooms, n, 10)
}

func (a *answer) text(name, s string) {
	a.field(name)
	a.rooms = pdu.AppendString(a.rooms, s)
}

func (a *answer) json(name string, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		a.field(name)
		a.rooms = append(a.rooms, b...)
	}
	return err
}

func (a *answer) events(name string, list []*rooms.Event, room *feed.Room) error {
	a.field(name)
	a.rooms = append(a.rooms, '[')
	for i, e := range list {
		if i > 0 {
			a.rooms = append(a.rooms, ',')
		}
		var err error
		if a.rooms, err = a.s.o.Timeline.Append(a.rooms, a.Q, e, timeline.Reader{UserID: a.user, DeviceID: a.device, To: a.To, Now: a.now,
			OmitRoomID: true, View: room.View}); err != nil {
			return err
		}
	}
	a.rooms = append(a.rooms, ']')
	return nil
}

// begin opens the object of a room and writes what all of them have.
func (a *answer) begin(sh *show) error {
	if len(a.rooms) > 0 {
		a.rooms = append(a.rooms, ',')
	}
	a.rooms = pdu.AppendString(a.rooms, sh.m.RoomID)
	a.rooms = append(a.rooms, ":{"...)
	stamp, err := a.s.bumps.stamp(a.Look, a.s.o.Rooms, sh.m)
	if err != nil {
		return err
	}
	a.number("bump_stamp", stamp)
	a.text("membership", sh.m.Membership)
	if a.r.stable && len(sh.lists) > 0 {
		return a.json("lists", sh.lists)
	}
	return nil
}

// stripped writes a room that the user is invited to or knocks at, once.
func (a *answer) stripped(sh *show, had sent, known bool) error {
	m := sh.m
	if known && had.Partial && had.At >= m.Pos {
		return nil
	}
	state, err := a.s.o.Rooms.Stripped(a.Q, m.RoomID, a.user)
	if err != nil {
		return err
	}
	if err := a.begin(sh); err != nil {
		return err
	}
	if !known {
		a.field("initial")
		a.rooms = append(a.rooms, "true"...)
	}
	name := "invite_state"
	if a.r.stable {
		name = "stripped_state"
	}
	a.field(name)
	a.rooms = append(a.rooms, '[')
	for i, e := range state {
		if i > 0 {
			a.rooms = append(a.rooms, ',')
		}
		a.rooms = e.AppendStripped(a.rooms)
	}
	a.rooms = append(a.rooms, "]}"...)
	a.next[m.RoomID] = &sent{At: a.To, Config: -1, Partial: true}
	return nil
}

// hero is a member that a room without a name is called after.
type hero struct {
	UserID string `json:"user_id"`
	Name   string `json:"displayname,omitempty"`
	Avatar string `json:"avatar_url,omitempty"`
}

// write writes the object of a room that the user is or was in.
func (a *answer) write(sh *show, room *feed.Room, state []*rooms.Event, touched map[string]bool, initial, expanded, dmChanged bool, counts feed.Counts) error {
	m := sh.m
	if err := a.begin(sh); err != nil {
		return err
	}
	yes := func(name string) {
		a.field(name)
		a.rooms = append(a.rooms, "true"...)
	}
	if initial {
		yes("initial")
	}
	if expanded {
		if a.r.stable {
			yes("expanded_timeline")
		} else {
			yes("unstable_expanded_timeline")
		}
	}
	if dm := a.direct[m.RoomID]; dm && initial || dmChanged {
		a.field("is_dm")
		a.rooms = strconv.AppendBool(a.rooms, dm)
	}
	if err := a.about(m, touched, initial); err != nil {
		return err
	}
	if len(state) > 0 || initial {
		if err := a.events("required_state", state, room); err != nil {
			return err
		}
	}
	if len(room.Events) > 0 || initial {
		if err := a.events("timeline", room.Events, room); err != nil {
			return err
		}
		a.text("prev_batch", timeline.At(room.Prev).String())
		a.field("limited")
		a.rooms = strconv.AppendBool(a.rooms, room.Limited)
		live := 0
		for _, e := range room.Events {
			if a.c.pos > 0 && e.Pos > a.c.pos {
				live++
			}
		}
		a.number("num_live", int64(live))
	}
	if !a.r.stable {
		a.number("notification_count", int64(counts.Notifications))
		a.number("highlight_count", int64(counts.Highlights))
	}
	a.rooms = append(a.rooms, '}')
	return nil
}

// about writes a room's name, avatar, heroes and number of members, what of it
// changed. Of a room that the user has left it is what it was then.
func (a *answer) about(m rooms.Member, touched map[string]bool, initial bool) error {
	until, member, err := a.Member(m)
	if err != nil || !member {
		return err
	}
	read := func(typ, key string) (string, error) {
		e, err := a.s.o.Rooms.StateEventAt(a.Q, m.RoomID, typ, "", until)
		if errors.Is(err, store.ErrNotFound) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		return e.ContentString(key), nil
	}
	named := ""
	for _, f := range []struct{ typ, key, name string }{{mx.RoomName, "name", "name"}, {mx.RoomAvatar, "url", "avatar"}} {
		if !initial && !touched[f.typ] {
			continue
		}
		v, err := read(f.typ, f.key)
		if err != nil {
			return err
		}
		switch {
		case v != "":
			a.text(f.name, v)
		case !initial: // taken away
			a.field(f.name)
			a.rooms = append(a.rooms, "null"...)
		}
		if f.typ == mx.RoomName {
			named = v
		}
	}
	if m.Membership != mx.Join || !initial && !touched[mx.RoomMember] && !touched[mx.RoomName] {
		return nil
	}
	sum, err := a.Summary(m.RoomID)
	if err != nil {
		return err
	}
	a.number("joined_count", int64(sum.Joined))
	a.number("invited_count", int64(sum.Invited))
	if !initial && !touched[mx.RoomName] {
		if named, err = read(mx.RoomName, "name"); err != nil {
			return err
		}
	}
	if named != "" {
		return nil
	}
	ids := sum.Heroes
	if ids == nil { // it has an alias: not what this API calls a name
		if ids, err = a.s.o.Rooms.Heroes(a.Q, m.RoomID, a.user, 5); err != nil {
			return err
		}
	}
	heroes := []hero{}
	for _, id := range ids {
		h := hero{UserID: id}
		e, err := a.s.o.Rooms.State(a.Q, m.RoomID, mx.RoomMember, id)
		if err == nil {
			h.Name, h.Avatar = e.ContentString("displayname"), e.ContentString("avatar_url")
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		heroes = append(heroes, h)
	}
	return a.json("heroes", heroes)
}
