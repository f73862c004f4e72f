package sliding

import (
	"cmp"
	"encoding/json"
	"slices"
	"sync"

	"holdfast/homeserver/feed"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/rooms"
	"holdfast/store"
)

// show is a room that rules of the request match.
type show struct {
	m       rooms.Member
	configs []*config
	lists   []string
	sub     bool
}

// candidate is a room with its place in the order of activity.
type candidate struct {
	m    rooms.Member
	last int64
}

// find says which rooms the request shows and may have something new.
func (a *answer) find() error {
	if ok, err := a.findQuickly(); ok || err != nil {
		return err
	}
	if err := a.loadDirect(); err != nil {
		return err
	}
	all := make([]candidate, 0, len(a.Members))
	for _, m := range a.Members {
		ok, err := a.eligible(m)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		last, err := a.Last(m)
		if err != nil {
			return err
		}
		all = append(all, candidate{m, last})
	}
	sortByActivity(all)
	a.counts = make([]int, len(a.r.lists))
	for i := range a.r.lists {
		l := &a.r.lists[i]
		pass, err := a.passing(l)
		if err != nil {
			return err
		}
		for _, c := range all {
			yes, err := pass(c)
			if err != nil {
				return err
			}
			if !yes {
				continue
			}
			if l.in(a.counts[i]) {
				a.shown(c.m).add(&l.config, l.name)
			}
			a.counts[i]++
		}
	}
	for id, conf := range a.r.subs {
		m, ok := a.Members[id]
		if !ok {
			continue
		}
		if ok, err := a.eligible(m); !ok || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		sh := a.shown(m)
		sh.sub = true
		sh.add(conf, "")
	}
	return nil
}

func sortByActivity(list []candidate) {
	slices.SortFunc(list, func(x, y candidate) int {
		return cmp.Or(cmp.Compare(y.last, x.last), cmp.Compare(x.m.RoomID, y.m.RoomID))
	})
}

// findQuickly finds the rooms to show among those that were touched, where nothing
// else can have changed what the request shows: a room comes into a window only by
// an event of its own. ok is false where that does not hold.
func (a *answer) findQuickly() (ok bool, err error) {
	c := a.c
	if a.t.All || a.t.User || c.shape != a.r.shape || c.pos == 0 || c.counts == nil {
		return false, nil
	}
	for i := range a.r.lists {
		if f := &a.r.lists[i].filter; len(f.Spaces) > 0 || f.Encrypted != nil {
			return false, nil
		}
	}
	if !a.r.stable {
		for id := range a.t.Receipts { // the user may have read it, on another device
			had, known := c.Rooms[id]
			if !known || a.Members[id].Membership != mx.Join {
				continue
			}
			now, err := a.Unread(id)
			if err != nil || now.Notifications != had.Unread || now.Highlights != had.Loud {
				return false, err
			}
		}
	}
	var touched []candidate
	for id := range a.t.Rooms {
		m := a.Members[id]
		if m.Pos > c.pos {
			return false, nil
		}
		if m.Membership != mx.Join {
			continue
		}
		last, err := a.Last(m)
		if err != nil {
			return false, err
		}
		touched = append(touched, candidate{m, last})
	}
	a.counts, a.direct = c.counts, c.direct
	sortByActivity(touched)
	for i := range a.r.lists {
		l := &a.r.lists[i]
		pass, err := a.passing(l)
		if err != nil {
			return false, err
		}
		at := 0
		for _, t := range touched {
			yes, err := pass(t)
			if err != nil {
				return false, err
			}
			if !yes {
				continue
			}
			if l.in(at) {
				a.shown(t.m).add(&l.config, l.name)
			}
			at++
		}
	}
	for _, t := range touched {
		if conf := a.r.subs[t.m.RoomID]; conf != nil {
			sh := a.shown(t.m)
			sh.sub = true
			sh.add(conf, "")
		}
	}
	return true, nil
}

func (a *answer) shown(m rooms.Member) *show {
	sh := a.shows[m.RoomID]
	if sh == nil {
		sh = &show{m: m}
		a.shows[m.RoomID] = sh
	}
	return sh
}

func (s *show) add(c *config, list string) {
	s.configs = append(s.configs, c)
	if list != "" {
		s.lists = append(s.lists, list)
	}
}

// eligible reports whether a room is one of the user's list. Of those that the user
// is not in any more these are the ones that the client has, and those that somebody
// else put them out of. Source: MSC4186, Lists.
func (a *answer) eligible(m rooms.Member) (bool, error) {
	switch m.Membership {
	case mx.Join, mx.Knock:
		return true, nil
	case mx.Invite:
		return !a.Ignores(m.Sender), nil
	case mx.Leave, mx.Ban:
		had, known := a.c.Rooms[m.RoomID]
		if m.Forgotten || m.Gone { // until the client knows
			return known && had.At < m.Pos, nil
		}
		if known {
			return true, nil
		}
		if m.Sender == a.user {
			return false, nil
		}
		_, member, err := a.Member(m)
		return member, err
	}
	return false, nil
}

// passing makes a test of a list's filter.
func (a *answer) passing(l *list) (func(candidate) (bool, error), error) {
	f := &l.filter
	var inSpaces map[string]bool
	if f.Spaces != nil {
		var err error
		if inSpaces, err = a.children(f.Spaces); err != nil {
			return nil, err
		}
	}
	if f.Tags != nil || f.NotTags != nil {
		if err := a.loadTags(); err != nil {
			return nil, err
		}
	}
	return func(c candidate) (bool, error) {
		id := c.m.RoomID
		switch {
		case f.DM != nil && a.direct[id] != *f.DM,
			f.Invited != nil && (c.m.Membership == mx.Invite) != *f.Invited,
			f.Spaces != nil && !inSpaces[id],
			f.Tags != nil && !a.tagged(id, f.Tags),
			f.NotTags != nil && a.tagged(id, f.NotTags):
			return false, nil
		}
		if c.m.Gone { // nothing more is known of it, and its client has to be told
			return true, nil
		}
		if f.RoomTypes != nil || f.NotRoomTypes != nil {
			typ, err := a.s.kinds.typ(a, id)
			if err != nil {
				return false, err
			}
			if f.RoomTypes != nil && !hasType(f.RoomTypes, typ) || hasType(f.NotRoomTypes, typ) {
				return false, nil
			}
		}
		if f.Encrypted != nil {
			enc, err := a.s.kinds.encrypted(a, c)
			if err != nil || enc != *f.Encrypted {
				return false, err
			}
		}
		return true, nil
	}, nil
}

func hasType(types []*string, typ string) bool {
	return slices.ContainsFunc(types, func(t *string) bool { return t == nil && typ == "" || t != nil && *t == typ })
}

// children are the rooms in spaces that the user is joined to.
func (a *answer) children(spaces []string) (map[string]bool, error) {
	in := map[string]bool{}
	for _, id := range spaces {
		if a.Members[id].Membership != mx.Join {
			continue
		}
		state, err := a.s.o.Rooms.CurrentState(a.Q, id, true)
		if err != nil {
			return nil, err
		}
		for _, e := range state {
			var c struct {
				Via []string `json:"via"`
			}
			if e.Type == mx.SpaceChild && e.StateKey != nil && json.Unmarshal(e.Content, &c) == nil && len(c.Via) > 0 {
				in[*e.StateKey] = true
			}
		}
	}
	return in, nil
}

// loadDirect reads which rooms are direct chats. Spec: cs#mdirect
func (a *answer) loadDirect() error {
	a.direct = map[string]bool{}
	raw, err := a.s.o.Userdata.AccountData(a.Q, a.user, "", mx.Direct)
	if err == store.ErrNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	var chats map[string]json.RawMessage
	if json.Unmarshal(raw, &chats) != nil {
		return nil
	}
	for _, list := range chats {
		var ids []string
		if json.Unmarshal(list, &ids) == nil {
			for _, id := range ids {
				a.direct[id] = true
			}
		}
	}
	return nil
}

// loadTags reads the tags of all rooms.
func (a *answer) loadTags() error {
	if a.tags != nil {
		return nil
	}
	a.tags = map[string]map[string]json.RawMessage{}
	_, byRoom, err := a.Data(0)
	if err != nil {
		return err
	}
	for id, list := range byRoom {
		for _, d := range list {
			var c struct {
				Tags map[string]json.RawMessage `json:"tags"`
			}
			if d.Type == mx.Tag && json.Unmarshal(d.Content, &c) == nil {
				a.tags[id] = c.Tags
			}
		}
	}
	return nil
}

func (a *answer) tagged(roomID string, tags []string) bool {
	have := a.tags[roomID]
	return slices.ContainsFunc(tags, func(t string) bool { _, ok := have[t]; return ok })
}

// maxKept bounds the rooms of which something is kept for all connections.
const maxKept = 200_000

// kinds keeps the types of rooms, which never change, and which are encrypted,
// which does not end.
type kinds struct {
	mu    sync.Mutex
	types map[string]string
	enc   map[string]int64 // position as of which it was not; -1: it is
}

func (k *kinds) init() { k.types, k.enc = map[string]string{}, map[string]int64{} }

func (k *kinds) typ(a *answer, id string) (string, error) {
	k.mu.Lock()
	typ, ok := k.types[id]
	k.mu.Unlock()
	if ok {
		return typ, nil
	}
	all, err := a.s.o.Rooms.Types(a.Q, a.user)
	if err != nil {
		return "", err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.types) > maxKept {
		clear(k.types)
	}
	for id, typ := range all {
		k.types[id] = typ
	}
	return all[id], nil
}

func (k *kinds) encrypted(a *answer, c candidate) (bool, error) {
	id := c.m.RoomID
	k.mu.Lock()
	at, ok := k.enc[id]
	k.mu.Unlock()
	if ok && (at < 0 || at >= c.last) {
		return at < 0, nil
	}
	yes, err := a.s.o.Rooms.Encrypted(a.Q, id)
	if err != nil {
		return false, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.enc) > maxKept {
		clear(k.enc)
	}
	k.enc[id] = a.To
	if yes {
		k.enc[id] = -1
	}
	return yes, nil
}

// bumps keeps when something was last said in rooms.
type bumps struct {
	mu sync.Mutex
	m  map[string]bump
}

type bump struct{ at, stamp int64 }

func (b *bumps) init() { b.m = map[string]bump{} }

// bumping are the types of events that are proper activity. Source: MSC4186, bump_stamp.
var bumping = map[string]bool{mx.RoomCreate: true, mx.RoomMessage: true, mx.RoomEncrypted: true, "m.sticker": true,
	"m.call.invite": true, "m.poll.start": true, "org.matrix.msc3381.poll.start": true, "m.beacon_info": true, "org.matrix.msc3672.beacon_info": true}

// maxLooked bounds the events that are looked at for the last activity.
const maxLooked = 2000

func (b *bumps) stamp(l *feed.Look, r *rooms.Rooms, m rooms.Member) (int64, error) {
	if m.Membership != mx.Join {
		return m.Pos, nil
	}
	b.mu.Lock()
	have := b.m[m.RoomID]
	b.mu.Unlock()
	found := have.stamp
	to := l.To
	for looked := 0; to > have.at; {
		events, more, err := r.Last(l.Q, m.RoomID, have.at, to, 20)
		if err != nil {
			return 0, err
		}
		hit := false
		for i := len(events) - 1; i >= 0 && !hit; i-- {
			if hit = bumping[events[i].Type]; hit {
				found = events[i].Pos
			}
		}
		if hit || !more {
			break
		}
		to = events[0].Pos - 1
		if looked += len(events); looked >= maxLooked {
			found = max(found, to)
			break
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.m) > maxKept {
		clear(b.m)
	}
	if l.To > b.m[m.RoomID].at {
		b.m[m.RoomID] = bump{l.To, found}
	}
	return found, nil
}
