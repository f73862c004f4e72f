package grouprooms

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/rooms"
	"holdfast/store"
	"holdfast/store/audit"
)

// work is what is to be done in the rooms. Only the goroutine of run has it.
type work struct {
	queue []string             // rooms, in turn
	plans map[string]*plan     // of those whose turn it was already
	rules map[string][]applied // by room
}

// applied is a rule in a room.
type applied struct {
	Rule
	level int64 // that it gives there
}

// run does the work until ctx ends.
func (s *Service) run(ctx context.Context) {
	defer close(s.done)
	w := &work{plans: map[string]*plan{}}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		wait := time.Duration(0)
		if len(w.queue) > 0 {
			roomID := w.queue[0]
			w.queue = w.queue[1:]
			more, took, err := s.turn(ctx, w, roomID)
			switch {
			case err != nil && ctx.Err() == nil:
				s.o.Log.Error("people of groups could not be put into a room; it is tried again", "room", roomID, "err", err)
				time.AfterFunc(retryWait, s.compareAll)
			case more:
				w.queue = append(w.queue, roomID)
			}
			// Others have their turn for as long as the write took.
			wait = min(took, maxPause)
		} else {
			wait = every
		}
		pause := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-tick.C:
			s.mu.Lock()
			s.all = true
			s.mu.Unlock()
		case <-s.wake:
		case <-pause.C:
		}
		pause.Stop()
		if err := s.look(ctx, w); err != nil && ctx.Err() == nil {
			s.o.Log.Error("the rules of groups and rooms could not be read; it is tried again", "err", err)
			time.AfterFunc(retryWait, s.compareAll)
		}
	}
}

// look queues the rooms of what changed.
func (s *Service) look(ctx context.Context, w *work) error {
	s.mu.Lock()
	all, groups := s.all, s.groups
	s.all, s.groups = false, map[string]bool{}
	s.mu.Unlock()
	if !all && len(groups) == 0 {
		return nil
	}
	changed := map[string]bool{}
	for id, list := range w.rules {
		for _, r := range list {
			changed[id] = changed[id] || groups[r.GroupID]
		}
	}
	if !all {
		err := s.o.DB.Read(ctx, func(q store.Querier) error {
			for id := range groups {
				if _, err := s.o.Name(q, id); errors.Is(err, store.ErrNotFound) {
					all = true
				} else if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if all {
		var err error
		if w.rules, err = s.load(ctx); err != nil {
			return err
		}
		var before []string // what rules did that there are no more
		if err := s.o.DB.Read(ctx, func(q store.Querier) (err error) { before, err = peopledRooms(q); return err }); err != nil {
			return err
		}
		for _, id := range append(before, slices.Collect(maps.Keys(w.rules))...) {
			changed[id] = true
		}
	}
	for _, id := range slices.Sorted(maps.Keys(changed)) {
		if !changed[id] {
			continue
		}
		delete(w.plans, id)
		if !slices.Contains(w.queue, id) {
			w.queue = append(w.queue, id)
		}
	}
	return nil
}

// load reads which rules hold in which rooms, and drops those whose groups are gone.
func (s *Service) load(ctx context.Context) (map[string][]applied, error) {
	var (
		out   map[string][]applied
		moves []move
		gone  []Rule
	)
	err := s.o.DB.Read(ctx, func(q store.Querier) error {
		out = map[string][]applied{}
		rules, err := loadRules(q)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if _, err := s.o.Name(q, r.GroupID); errors.Is(err, store.ErrNotFound) {
				gone = append(gone, r)
				continue
			} else if err != nil {
				return err
			}
			m, err := s.replaced(q, r)
			if err != nil {
				return err
			}
			if m.to != "" {
				moves = append(moves, m)
				r.RoomID = m.to
			}
			ts, err := s.targets(q, r)
			if err != nil {
				return err
			}
			for _, t := range ts {
				a := applied{Rule: r}
				if t.level {
					a.level = r.Level
				}
				out[t.room] = append(out[t.room], a)
			}
		}
		return nil
	})
	if err == nil && len(gone)+len(moves) > 0 {
		err = s.settleRules(ctx, gone, moves)
	}
	if err != nil {
		return nil, err
	}
	ids := map[string]bool{}
	for id := range out {
		ids[id] = true
	}
	s.mu.Lock()
	s.rooms = ids
	s.mu.Unlock()
	return out, nil
}

// move is that a rule follows its room to the one that replaces it.
type move struct {
	rule Rule
	to   string
}

// replaced finds the room that replaces a rule's. Both rooms must say so.
func (s *Service) replaced(q store.Querier, r Rule) (m move, err error) {
	at := r.RoomID
	for range 20 {
		e, err := s.o.Rooms.State(q, at, mx.RoomTombstone, "")
		if errors.Is(err, store.ErrNotFound) {
			return m, nil
		}
		if err != nil {
			return m, err
		}
		to := e.ContentString("replacement_room")
		create, err := s.o.Rooms.State(q, to, mx.RoomCreate, "")
		if errors.Is(err, store.ErrNotFound) {
			return m, nil
		}
		if err != nil {
			return m, err
		}
		if pdu.FieldString(pdu.Field(create.Content, "predecessor"), "room_id") != at {
			return m, nil
		}
		at, m = to, move{r, to}
	}
	return m, nil
}

// settleRules drops the rules of groups that are gone, and has others follow their rooms.
func (s *Service) settleRules(ctx context.Context, gone []Rule, moves []move) error {
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		for _, r := range gone {
			if err := deleteRule(tx, r); err != nil {
				return err
			}
			if err := s.o.Audit.Tx(ctx, tx, audit.Event{Name: "group.room.remove", Data: audit.Data{"room": r.RoomID, "group_gone": true}}); err != nil {
				return err
			}
		}
		for _, m := range moves {
			r := m.rule
			if err := deleteRule(tx, r); err != nil {
				return err
			}
			// In the old room everybody stays: nobody writes there any more.
			if err := carry(tx, r.RoomID, m.to); err != nil {
				return err
			}
			before := r.RoomID
			r.RoomID = m.to
			if _, err := loadRule(tx, r.GroupID, r.RoomID); err == nil {
				continue
			} else if !errors.Is(err, ErrNoRule) {
				return err
			}
			if err := upsertRule(tx, r); err != nil {
				return err
			}
			name, err := s.o.Name(tx, r.GroupID)
			if err != nil {
				return err
			}
			if err := s.o.Audit.Tx(ctx, tx, audit.Event{Name: "group.room.move", Target: name, Data: audit.Data{"room": before, "to": r.RoomID}}); err != nil {
				return err
			}
		}
		return nil
	})
}

// step is what is to be done about somebody in a room.
type step struct {
	user  string
	p     person // as it becomes if all is done
	join  bool
	out   bool
	level *rooms.LevelChange
	drop  bool // nothing is noted of them any more
}

// plan is what is to be done in a room.
type plan struct {
	notes []step // of which only something is noted
	steps []step
}

// plan compares the rules with a room.
func (s *Service) plan(ctx context.Context, roomID string, rules []applied) (*plan, error) {
	type wanted struct {
		level   int64
		takeOut TakeOut
	}
	want := map[string]wanted{}
	var people map[string]person
	membership := map[string]string{}
	known := false
	err := s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		if known, err = s.o.Rooms.Known(q, roomID); err != nil || !known {
			return err
		}
		if people, err = loadPeople(q, roomID); err != nil {
			return err
		}
		for _, r := range rules {
			users, err := s.o.Members(q, r.GroupID)
			if err != nil {
				return err
			}
			for _, u := range users {
				w := want[u]
				w.takeOut = max(w.takeOut, r.TakeOut)
				w.level = max(w.level, r.level)
				want[u] = w
			}
		}
		list, err := s.o.Rooms.MemberList(q, roomID)
		for _, m := range list {
			membership[m.UserID] = m.Membership
		}
		return err
	})
	if err != nil || !known {
		return &plan{}, err
	}
	pl := &plan{}
	add := func(before person, st step) {
		switch {
		case st.join || st.out || st.level != nil:
			pl.steps = append(pl.steps, st)
		case st.drop || before != st.p:
			pl.notes = append(pl.notes, st)
		}
	}
	for _, u := range slices.Sorted(maps.Keys(people)) {
		if _, ok := want[u]; ok {
			continue
		}
		p := people[u]
		now := membership[u]
		here := now == mx.Join || now == mx.Invite || now == mx.Knock
		add(p, step{user: u, p: p, drop: true, level: levelChange(u, p, 0),
			out: here && (p.takeOut == All || p.takeOut == Placed && p.placed && p.state == in)})
	}
	for _, u := range slices.Sorted(maps.Keys(want)) {
		w := want[u]
		before, had := people[u]
		st := step{user: u, p: before}
		st.p.takeOut = w.takeOut
		switch now := membership[u]; {
		case now == mx.Join:
			st.p.state = in
		case had && before.state != waiting:
			st.p.state = left
		default:
			st.join = true
			st.p.state, st.p.placed = in, true
		}
		if st.p.state != left && membership[u] != mx.Ban {
			if before.level != w.level {
				st.level = levelChange(u, before, w.level)
				st.p.level = w.level
			}
		}
		st.p.trouble = ""
		if !had {
			before.state = -1 // not noted yet
		}
		add(before, st)
	}
	return pl, nil
}

// levelChange is how somebody comes to a level; nil: there is nothing to change.
func levelChange(userID string, p person, level int64) *rooms.LevelChange {
	if p.given == level {
		return nil
	}
	return &rooms.LevelChange{UserID: userID, From: p.given, To: level, Back: p.back}
}

// turn does a part of what is to be done in a room.
func (s *Service) turn(ctx context.Context, w *work, roomID string) (more bool, took time.Duration, err error) {
	p := w.plans[roomID]
	if p == nil {
		if p, err = s.plan(ctx, roomID, w.rules[roomID]); err != nil {
			return false, 0, err
		}
		w.plans[roomID] = p
	}
	begun := time.Now()
	switch {
	case len(p.notes) > 0:
		n := min(len(p.notes), noteSize)
		err = s.note(ctx, roomID, p.notes[:n])
		p.notes = p.notes[n:]
	case len(p.steps) > 0:
		n := min(len(p.steps), batchSize)
		err = s.place(ctx, roomID, p.steps[:n])
		p.steps = p.steps[n:]
	}
	if more = err == nil && len(p.notes)+len(p.steps) > 0; !more {
		delete(w.plans, roomID)
	}
	return more, time.Since(begun), err
}

func (s *Service) note(ctx context.Context, roomID string, list []step) error {
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		for _, st := range list {
			if err := keep(tx, roomID, st); err != nil {
				return err
			}
		}
		return nil
	})
}

func keep(tx *store.Tx, roomID string, st step) error {
	if st.drop {
		return deletePerson(tx, roomID, st.user)
	}
	return upsertPerson(tx, roomID, st.user, st.p)
}

// place does what is to be done about a few people.
func (s *Service) place(ctx context.Context, roomID string, list []step) error {
	come := rooms.Placing{Reason: reasonIn}
	leave := rooms.Placing{Reason: reasonOut}
	var coming, going []step
	for _, st := range list {
		p, steps := &come, &coming
		if st.drop {
			p, steps = &leave, &going
		}
		*steps = append(*steps, st)
		switch {
		case st.out:
			p.Out = append(p.Out, st.user)
		case st.join:
			p.Join = append(p.Join, st.user)
		}
		if st.level != nil {
			p.Levels = append(p.Levels, *st.level)
		}
	}
	for _, x := range []struct {
		p     rooms.Placing
		steps []step
	}{{leave, going}, {come, coming}} {
		if len(x.steps) == 0 {
			continue
		}
		x.p.Also = func(tx *store.Tx, done rooms.Placed) error { return s.placed(ctx, tx, roomID, x.steps, done) }
		if _, err := s.o.Rooms.Place(ctx, roomID, x.p); err != nil {
			return err
		}
	}
	return nil
}

// placed notes what was done, in the write that did it.
func (s *Service) placed(ctx context.Context, tx *store.Tx, roomID string, list []step, done rooms.Placed) error {
	for _, st := range list {
		if why := done.Refused[st.user]; why != "" {
			st.p.trouble = why
			if st.join {
				st.p.state, st.p.placed = waiting, false
			}
			st.drop = false
		}
		if c := st.level; c != nil {
			before, changed := done.Levels[st.user]
			why := done.Refused[rooms.LevelOf(st.user)]
			switch {
			case changed && c.From == 0:
				st.p.given, st.p.back = c.To, before
			case changed:
				st.p.given = c.To
			case st.p.state == waiting && !st.drop:
				st.p.level = -1 // not settled
			case why != "":
				st.p.trouble, st.p.level = why, -1
				if st.drop { // it is tried again, and who comes back is put in again
					st.drop, st.p.state = false, waiting
				}
			default: // somebody else's decision
				st.p.given, st.p.back = 0, nil
			}
		}
		if err := keep(tx, roomID, st); err != nil {
			return err
		}
	}
	d := audit.Data{}
	var levels []string
	for _, st := range list {
		if _, changed := done.Levels[st.user]; changed {
			levels = append(levels, st.user)
		}
	}
	for name, users := range map[string][]string{"joined": done.Joined, "out": done.Out, "levels": levels} {
		if len(users) > 0 {
			d[name] = users
		}
	}
	if len(d) == 0 {
		return nil
	}
	return s.o.Audit.Tx(ctx, tx, audit.Event{Name: "group.room.people", Target: roomID, Data: d})
}
