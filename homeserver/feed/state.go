package feed

import (
	"encoding/json"
	"errors"
	"slices"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/userdata"
	"holdfast/store"
)

// state fills in the state that belongs to the room's timeline: all of it (full),
// or what changed since from. With StateAfter it is the state after the timeline,
// else before it. Spec: cs#get_matrixclientv3sync (state, state_after), MSC4222
func (a *answer) state(room *Room, from int64, full, touched bool) error {
	f := &a.r.Filter.Room.State
	lazy := a.r.Filter.Room.State.LazyLoadMembers || a.r.Filter.Room.Timeline.LazyLoadMembers
	redundant := f.IncludeRedundant || a.r.Filter.Room.Timeline.IncludeRedundant
	var (
		state []*rooms.Event
		err   error
	)
	// A change of members or of the name changes the summary.
	summed := full
	for _, e := range room.Events {
		summed = summed || inSummary(e.Type)
	}
	senders := map[string]bool{}
	if lazy {
		for _, e := range room.Events {
			senders[e.Sender] = true
		}
	}
	switch {
	case full:
		if state, err = a.fullState(room, lazy); err == nil && !a.r.StateAfter {
			state, err = a.unshown(room, state, a.to)
		}
	case !touched:
	case a.r.StateAfter:
		if room.Limited {
			state, err = a.f.o.Rooms.StateChanges(a.q, room.ID, from, a.to)
		} else {
			state = lastState(room.Events)
			if !a.r.Filter.Room.Timeline.All() { // events that are state may have been filtered out
				state, err = a.f.o.Rooms.StateChanges(a.q, room.ID, from, a.to)
			}
		}
	case a.r.Filter.Room.Timeline.All():
		if room.Limited && room.Prev > from {
			state, err = a.f.o.Rooms.StateChanges(a.q, room.ID, from, room.Prev)
		}
	default:
		state, err = a.filteredState(room, from, a.to)
	}
	if err != nil {
		return err
	}
	for _, e := range state {
		summed = summed || inSummary(e.Type)
	}
	if summed {
		if room.Summary, err = a.summary(room.ID); err != nil {
			return err
		}
	}
	if lazy {
		if state, err = a.lazy(room, state, senders, full, redundant, a.to); err != nil {
			return err
		}
	}
	if !f.PassRoom(room.ID) {
		return nil
	}
	for _, e := range state {
		if f.PassEvent(e.Event) {
			room.State = append(room.State, e)
		}
	}
	return nil
}

// filteredState gives the state that changed in (from, to] and that the timeline does
// not show, because it begins later or its filter leaves it out.
func (a *answer) filteredState(room *Room, from, to int64) ([]*rooms.Event, error) {
	state, err := a.f.o.Rooms.StateChanges(a.q, room.ID, from, min(room.Prev, to))
	if err != nil {
		return nil, err
	}
	return a.unshown(room, state, to)
}

// unshown adds to the state before the timeline what changed beside it, up to
// position to, and is not shown in it, because its filter leaves it out.
func (a *answer) unshown(room *Room, state []*rooms.Event, to int64) ([]*rooms.Event, error) {
	f := &a.r.Filter.Room.Timeline
	if f.All() || room.Prev >= to {
		return state, nil
	}
	later, err := a.f.o.Rooms.StateChanges(a.q, room.ID, room.Prev, to)
	if err != nil {
		return nil, err
	}
	at := make(map[rooms.StateKey]int, len(state))
	state = slices.Clone(state) // it may be shared
	for i, e := range state {
		at[rooms.StateKey{Type: e.Type, Key: *e.StateKey}] = i
	}
	for _, e := range later {
		ok, err := a.passes(f, e)
		if err != nil {
			return nil, err
		}
		if ok {
			continue
		}
		if i, had := at[rooms.StateKey{Type: e.Type, Key: *e.StateKey}]; had {
			state[i] = e
		} else {
			state = append(state, e)
		}
	}
	return state, nil
}

// lastState gives, of each piece of state that the events change, the last event.
func lastState(events []*rooms.Event) []*rooms.Event {
	var out []*rooms.Event
	for i := len(events) - 1; i >= 0; i-- {
		e := events[i]
		if e.StateKey == nil {
			continue
		}
		seen := false
		for _, o := range out {
			seen = seen || o.Type == e.Type && *o.StateKey == *e.StateKey
		}
		if !seen {
			out = append(out, e)
		}
	}
	return out
}

// fullState is all state before the timeline, or after it, without members if lazy.
func (a *answer) fullState(room *Room, lazy bool) ([]*rooms.Event, error) {
	r := a.f.o.Rooms
	end := a.to // the state is wanted as of this position
	if !a.r.StateAfter && len(room.Events) > 0 {
		end = room.Events[0].Pos - 1
	}
	state, err := r.CurrentState(a.q, room.ID, lazy)
	if err != nil {
		return nil, err
	}
	for _, e := range state {
		if e.Pos > end { // something changed since
			var want func(rooms.StateKey) bool
			if lazy {
				want = func(k rooms.StateKey) bool { return k.Type != mx.RoomMember }
			}
			return r.StateAt(a.q, room.ID, end, want)
		}
	}
	return state, nil
}

// lazy reduces member events to those that the client needs and does not have:
// of who sent something, of itself when it has just joined, of the heroes.
// What the user may see of the state ends with position until.
// Spec: cs#lazy-loading-room-members
func (a *answer) lazy(room *Room, state []*rooms.Event, senders map[string]bool, full, redundant bool, until int64) ([]*rooms.Event, error) {
	need := map[string]bool{}
	for u := range senders {
		need[u] = true
	}
	if full {
		need[a.UserID] = true
	}
	if room.Summary != nil { // the heroes may be others than before
		for _, u := range room.Summary.Heroes {
			need[u] = true
		}
	}
	d := a.device
	d.mu.Lock()
	defer d.mu.Unlock()
	if a.from == 0 {
		d.sent, d.count = map[string]map[string]sentMember{}, 0
	}
	if full { // whoever joins anew begins anew
		d.count -= len(d.sent[room.ID])
		delete(d.sent, room.ID)
	}
	var out []*rooms.Event
	for _, e := range state {
		if e.Type != mx.RoomMember {
			out = append(out, e)
			continue
		}
		if full && !need[*e.StateKey] {
			continue
		}
		// Changes of memberships in a gap are all told.
		delete(need, *e.StateKey)
		d.had(room.ID, *e.StateKey, e.Pos, a.from, a.to)
		out = append(out, e)
	}
	// A member event in the timeline tells the client of its user by itself, but
	// what the user sent before it needs the one before.
	if !a.r.StateAfter {
		for _, e := range room.Events {
			if e.Type == mx.RoomMember && e.StateKey != nil && need[*e.StateKey] && e.Replaces == 0 {
				delete(need, *e.StateKey)
			}
		}
	}
	for u := range need {
		// What changed since is told as a change.
		if m, ok := d.sent[room.ID][u]; ok && m.in <= a.from && !redundant {
			continue
		}
		end := until
		if !a.r.StateAfter && len(room.Events) > 0 {
			end = min(end, room.Events[0].Pos-1)
		}
		e, err := a.f.o.Rooms.StateEventAt(a.q, room.ID, mx.RoomMember, u, end)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !d.had(room.ID, u, e.Pos, a.from, a.to) || redundant {
			out = append(out, e)
		}
	}
	for _, e := range room.Events {
		if e.Type == mx.RoomMember && e.StateKey != nil {
			d.had(room.ID, *e.StateKey, e.Pos, a.from, a.to)
		}
	}
	return out, nil
}

const maxHeroes = 5

// inSummary reports whether state of this type has a part in the summary.
func inSummary(typ string) bool {
	return typ == mx.RoomMember || typ == mx.RoomName || typ == mx.RoomCanonicalAlias
}

// summary counts members, and names heroes where the room has no name.
// Spec: cs#get_matrixclientv3sync (RoomSummary)
func (a *answer) summary(roomID string) (*Summary, error) {
	s := &Summary{}
	var err error
	if s.Joined, s.Invited, err = a.counts(roomID); err != nil {
		return nil, err
	}
	for _, k := range [][2]string{{mx.RoomName, "name"}, {mx.RoomCanonicalAlias, "alias"}} {
		e, err := a.f.o.Rooms.State(a.q, roomID, k[0], "")
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if err == nil && e.ContentString(k[1]) != "" {
			return s, nil
		}
	}
	s.Heroes, err = a.f.o.Rooms.Heroes(a.q, roomID, a.UserID, maxHeroes)
	if s.Heroes == nil { // nobody else was ever there: that has to be told, too
		s.Heroes = []string{}
	}
	return s, err
}

// left gives the end of a room that the user has left: what they could still see of
// it, and which of its account data changed. nil: nothing.
func (a *answer) left(m rooms.Member, data []userdata.Data) (*Room, error) {
	if m.Gone {
		room := &Room{ID: m.RoomID, Prev: m.Pos}
		e, err := a.f.o.Rooms.Departure(a.q, m.RoomID, a.UserID)
		if err != nil {
			return nil, err
		}
		f := &a.r.Filter.Room.Timeline
		if f.PassRoom(m.RoomID) && !f.None() && f.PassEvent(e.Event) {
			room.Events, room.Prev = []*rooms.Event{e}, e.Pos-1
		}
		return room, nil
	}
	view, err := a.f.o.Timeline.View(a.q, m.RoomID, a.UserID, a.to)
	if err != nil {
		return nil, err
	}
	room := &Room{ID: m.RoomID, Prev: m.Pos, View: view}
	from := a.from
	// told: the client knows that they left. was: it has the state as of from.
	told, was := from >= m.Pos && !a.r.FullState, from > 0 && view.Membership(from) == mx.Join
	if m.Forgotten { // only the end is left to know
		e, err := a.f.o.Rooms.StateEventAt(a.q, m.RoomID, mx.RoomMember, a.UserID, m.Pos)
		if err == nil && a.r.Filter.Room.Timeline.PassEvent(e.Event) {
			room.Events, room.Prev = []*rooms.Event{e}, e.Pos-1
		}
		return room, err
	}
	if err := a.roomData(room, data, !was && !told && !a.r.FullState); err != nil {
		return nil, err
	}
	if told {
		if len(room.Data) == 0 {
			return nil, nil
		}
		return room, nil
	}
	f := &a.r.Filter.Room.Timeline
	if f.PassRoom(m.RoomID) && !f.None() {
		if err := a.pick(room, from, m.Pos, f.LimitOr(defaultTimeline, maxTimeline), f, view.Sees); err != nil {
			return nil, err
		}
	}
	if len(room.Events) > 0 {
		room.Prev = room.Events[0].Pos - 1
	}
	end := m.Pos
	if !a.r.StateAfter && len(room.Events) > 0 {
		end = room.Prev
	}
	// The last member event may be the end of another invitation, or a ban, long after
	// they left: what became of the room meanwhile is not theirs.
	until, member := view.StateUntil(end)
	if !member { // an invitation declined or taken back: the state is not theirs
		room.Limited = false
		return room, nil
	}
	sf := &a.r.Filter.Room.State
	full := !was && until > from || a.r.FullState
	var state []*rooms.Event
	switch {
	case full:
		state, err = a.f.o.Rooms.StateAt(a.q, m.RoomID, until, nil)
	case from >= until:
	case a.r.StateAfter, room.Limited:
		state, err = a.f.o.Rooms.StateChanges(a.q, m.RoomID, from, until)
	case !f.All():
		state, err = a.f.o.Rooms.StateChanges(a.q, m.RoomID, from, min(room.Prev, until))
	}
	if last, _ := view.StateUntil(m.Pos); err == nil && !a.r.StateAfter {
		state, err = a.unshown(room, state, last)
	}
	if err != nil {
		return nil, err
	}
	if sf.LazyLoadMembers || f.LazyLoadMembers {
		senders := map[string]bool{}
		for _, e := range room.Events {
			senders[e.Sender] = true
		}
		if state, err = a.lazy(room, state, senders, full, sf.IncludeRedundant || f.IncludeRedundant, until); err != nil {
			return nil, err
		}
	}
	if !sf.PassRoom(m.RoomID) {
		return room, nil
	}
	for _, e := range state {
		if sf.PassEvent(e.Event) {
			room.State = append(room.State, e)
		}
	}
	return room, nil
}

func ephemeralEvent(typ string, content mx.Raw) mx.Raw {
	b := append([]byte(`{"type":"`), typ...)
	b = append(b, `","content":`...)
	return append(append(b, content...), '}')
}

func typingEvent(users []string, ignore map[string]bool) mx.Raw {
	list := []string{}
	for _, u := range users {
		if !ignore[u] {
			list = append(list, u)
		}
	}
	content, _ := json.Marshal(map[string]any{"user_ids": list})
	return ephemeralEvent(mx.Typing, content)
}
