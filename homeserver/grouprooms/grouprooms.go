// Package grouprooms keeps which groups' people are put into which rooms and spaces, with
// which power level, and does it.
//
// Invariants:
//   - What is done to somebody and the note of it are one write. Only what a rule did is
//     undone: who was in a room before stays, unless the rule says otherwise; a power
//     level is taken back only while it is the one that was given.
//   - Who leaves a room by themselves, or is put out by others, is not put in again until
//     they come into the group anew or an administrator asks for it.
//   - People are put into rooms as members whom others could invite: the rooms' rules hold.
//     What they allow nobody is told, and tried again.
//   - The work runs beside the requests, in small writes with pauses, and all rooms get
//     their turns. A stop loses nothing: each start, and every few minutes, all is compared.
package grouprooms

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/rooms"
	"holdfast/store"
	"holdfast/store/audit"
)

// TakeOut says what becomes of who leaves the group.
type TakeOut int

// The values of TakeOut.
const (
	Stay   TakeOut = iota // nobody is taken out
	Placed                // whom a rule put in is taken out
	All                   // also who was in before
)

// Rule is that the people of a group are in a room.
type Rule struct {
	GroupID string
	RoomID  string
	Level   int64 // power level that they get; 0: the room's default
	TakeOut TakeOut
	Rooms   bool // the room is a space, and they are in its rooms, too
	Created time.Time
}

// Status is a rule and what became of it.
type Status struct {
	Rule
	Group    string // its name
	Name     string // of the room; "": it has none
	Alias    string
	Space    bool
	InRooms  int // in how many rooms they are put, with the space itself
	People   int // in the group, whose accounts are open
	In       int // of them in the room
	Left     int // who left it again, or were put out by others
	Waiting  int // who are not in it yet
	Troubles []string
}

// Errors. They are for administrators.
var (
	ErrNoRule = errors.New("grouprooms: there is no such rule")
	ErrLevel  = errors.New("grouprooms: a power level is 1 to 100")
	ErrSpace  = errors.New("grouprooms: the room is no space")
	ErrNotice = errors.New("grouprooms: nobody else can be in a room of the server's notices")
	ErrMany   = errors.New("grouprooms: there are as many rules as can be")
)

const (
	maxRules   = 1000
	maxSpace   = 200 // rooms of a space
	maxChoices = 1000
	maxLevel   = 100              // the most that is given
	batchSize  = 20               // people whose membership changes in one write
	noteSize   = 200              // people of whom only something is noted
	maxPause   = time.Second      // after a write
	every      = 10 * time.Minute // all is compared
	retryWait  = 30 * time.Second // after an error
)

// reason is in the member events: why somebody is in a room, or not any more. It does not
// name the group, which the room's people need not know.
const (
	reasonIn  = "By decision of this server's administrators: who is in a certain group is in this room."
	reasonOut = "By decision of this server's administrators: not any more in a group whose people are in this room."
)

// Options of New.
type Options struct {
	DB    *store.DB
	Rooms *rooms.Rooms
	Audit *audit.Log
	Log   *slog.Logger
	// Members are the user IDs of who is in a group and whose account is open.
	Members func(q store.Querier, groupID string) ([]string, error)
	// Name is a group's name. Errors: store.ErrNotFound.
	Name func(q store.Querier, groupID string) (string, error)
	Now  func() time.Time // nil: time.Now
}

// Service keeps the rules. Its methods are safe for concurrent use.
type Service struct {
	o    Options
	wake chan struct{}
	stop context.CancelFunc
	done chan struct{}

	mu     sync.Mutex
	all    bool
	groups map[string]bool // that changed
	rooms  map[string]bool // that rules put people into
}

// New makes the service. Start has it work.
func New(o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{o: o, wake: make(chan struct{}, 1), all: true, groups: map[string]bool{}, rooms: map[string]bool{}}
}

// Start does what is to be done, until Close.
func (s *Service) Start(ctx context.Context) {
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.done = make(chan struct{})
	go s.run(ctx)
	s.poke()
}

// Close ends the work where it is.
func (s *Service) Close() {
	if s.stop != nil {
		s.stop()
		<-s.done
	}
}

// Changed is told that somebody came into a group or left it, that an account in it was
// locked or opened, or that the group is gone. It is quick.
func (s *Service) Changed(groupID string) {
	s.mu.Lock()
	s.groups[groupID] = true
	s.mu.Unlock()
	s.poke()
}

func (s *Service) compareAll() {
	s.mu.Lock()
	s.all = true
	s.mu.Unlock()
	s.poke()
}

func (s *Service) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Stored is a hook of the rooms: a space has other rooms, or a room is replaced.
func (s *Service) Stored(tx *store.Tx, e *rooms.Event) error {
	switch e.Type {
	case mx.SpaceChild, mx.SpaceParent, mx.RoomTombstone:
	default:
		return nil
	}
	s.mu.Lock()
	mine := s.rooms[e.RoomID] || e.StateKey != nil && s.rooms[*e.StateKey]
	s.mu.Unlock()
	if mine {
		tx.AfterCommit(s.compareAll)
	}
	return nil
}

// DeleteRoom forgets the people of a room that is gone, at most limit at once, and tells
// how many that were. Its rules stay, and tell that it is gone.
func (s *Service) DeleteRoom(tx *store.Tx, roomID string, limit int) (int64, error) {
	return deletePeople(tx, roomID, limit)
}

// Set makes a rule or changes it. Its room may be named by its alias. Errors:
// store.ErrNotFound for the group, ErrLevel, ErrSpace, ErrNotice, ErrMany, *mx.Error
// NotFound for the room.
func (s *Service) Set(ctx context.Context, r Rule) (Rule, error) {
	if r.Level < 0 || r.Level > maxLevel {
		return r, ErrLevel
	}
	id, err := s.o.Rooms.ResolveKnown(ctx, r.RoomID)
	if err != nil {
		return r, err
	}
	r.RoomID, r.Created = id, s.o.Now()
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		name, err := s.o.Name(tx, r.GroupID)
		if err != nil {
			return err
		}
		switch whose, err := s.o.Rooms.NoticesOf(tx, r.RoomID); {
		case err != nil:
			return err
		case whose != "":
			return ErrNotice
		}
		if r.Rooms {
			create, err := s.o.Rooms.State(tx, r.RoomID, mx.RoomCreate, "")
			if err != nil {
				return err
			}
			if create.ContentString("type") != "m.space" {
				return ErrSpace
			}
		}
		all, err := loadRules(tx)
		if err != nil {
			return err
		}
		if len(all) >= maxRules {
			return ErrMany
		}
		if err := upsertRule(tx, r); err != nil {
			return err
		}
		tx.AfterCommit(s.compareAll)
		return s.o.Audit.Tx(ctx, tx, audit.Event{Name: "group.room.set", Target: name,
			Data: audit.Data{"room": r.RoomID, "level": r.Level, "take_out": r.TakeOut.String(), "rooms": r.Rooms}})
	})
	return r, err
}

// String is how administrators write it.
func (t TakeOut) String() string { return [...]string{"no", "yes", "all"}[t] }

// ParseTakeOut reads what String wrote.
func ParseTakeOut(s string) (t TakeOut, ok bool) {
	for t := range All + 1 {
		if t.String() == s {
			return t, true
		}
	}
	return 0, false
}

// Remove removes a rule. Its people stay where they are, without the power level, or with
// out are taken out as if they had left the group. Errors: ErrNoRule.
func (s *Service) Remove(ctx context.Context, groupID, room string, out bool) error {
	id := s.find(ctx, room)
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		r, err := loadRule(tx, groupID, id)
		if err != nil {
			return err
		}
		ts, err := s.targets(tx, r)
		if err != nil {
			return err
		}
		for _, t := range append(ts, target{room: r.RoomID}) {
			if err := setTakeOut(tx, t.room, out); err != nil {
				return err
			}
		}
		if err := deleteRule(tx, r); err != nil {
			return err
		}
		name, err := s.o.Name(tx, groupID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		tx.AfterCommit(s.compareAll)
		return s.o.Audit.Tx(ctx, tx, audit.Event{Name: "group.room.remove", Target: name, Data: audit.Data{"room": r.RoomID, "out": out}})
	})
}

// Apply puts those in again who left a rule's rooms. Errors: ErrNoRule.
func (s *Service) Apply(ctx context.Context, groupID, room string) error {
	id := s.find(ctx, room)
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		r, err := loadRule(tx, groupID, id)
		if err != nil {
			return err
		}
		users, err := s.o.Members(tx, groupID)
		if err != nil {
			return err
		}
		ts, err := s.targets(tx, r)
		if err != nil {
			return err
		}
		for _, t := range ts {
			joined, err := s.o.Rooms.Members(tx, t.room, mx.Join)
			if err != nil {
				return err
			}
			slices.Sort(joined)
			for _, u := range users {
				// Whether they left may not be noted yet.
				if _, in := slices.BinarySearch(joined, u); in {
					continue
				}
				if err := waitAgain(tx, t.room, u); err != nil {
					return err
				}
			}
		}
		name, err := s.o.Name(tx, groupID)
		if err != nil {
			return err
		}
		tx.AfterCommit(s.compareAll)
		return s.o.Audit.Tx(ctx, tx, audit.Event{Name: "group.room.apply", Target: name, Data: audit.Data{"room": r.RoomID}})
	})
}

// find is the ID of a room of a rule, which may be gone.
func (s *Service) find(ctx context.Context, room string) string {
	if id, err := s.o.Rooms.ResolveKnown(ctx, room); err == nil {
		return id
	}
	return room
}

// target is a room that a rule puts people into.
type target struct {
	room  string
	level bool // with the rule's power level
}

// targets are the rooms of a rule that there are.
func (s *Service) targets(q store.Querier, r Rule) ([]target, error) {
	if known, err := s.o.Rooms.Known(q, r.RoomID); err != nil || !known {
		return nil, err
	}
	list := []target{{r.RoomID, true}}
	if !r.Rooms {
		return list, nil
	}
	inside, err := s.o.Rooms.RoomsOf(q, r.RoomID, maxSpace)
	for _, x := range inside {
		list = append(list, target{x.RoomID, x.Own})
	}
	return list, err
}

// List tells the rules, by group and room.
func (s *Service) List(ctx context.Context) (out []Status, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		all, err := loadRules(q)
		if err != nil {
			return err
		}
		for _, r := range all {
			st, err := s.status(q, r)
			if errors.Is(err, store.ErrNotFound) {
				continue // the group is gone, and the rule with it soon
			}
			if err != nil {
				return err
			}
			out = append(out, st)
		}
		return nil
	})
	slices.SortStableFunc(out, func(a, b Status) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Name, b.Name), cmp.Compare(a.RoomID, b.RoomID))
	})
	return out, err
}

// Choice is a room that a rule can be made for.
type Choice struct {
	RoomID, Name, Alias string
	Space               bool
}

// Choices are the rooms that people tell apart, by a name or an alias: spaces first, at
// most 1,000.
func (s *Service) Choices(ctx context.Context) (out []Choice, err error) {
	err = s.o.DB.Read(ctx, func(q store.Querier) error {
		all, err := s.o.Rooms.Overviews(q, "")
		if err != nil {
			return err
		}
		for _, r := range all {
			if r.Name == "" && r.Alias == "" || r.Tombstoned {
				continue
			}
			if whose, err := s.o.Rooms.NoticesOf(q, r.RoomID); err != nil || whose != "" {
				if err != nil {
					return err
				}
				continue
			}
			out = append(out, Choice{r.RoomID, r.Name, r.Alias, r.Type == "m.space"})
		}
		return nil
	})
	slices.SortFunc(out, func(a, b Choice) int {
		if a.Space != b.Space {
			if a.Space {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(strings.ToLower(cmp.Or(a.Name, a.Alias)), strings.ToLower(cmp.Or(b.Name, b.Alias))), cmp.Compare(a.RoomID, b.RoomID))
	})
	return out[:min(len(out), maxChoices)], err
}

func (s *Service) status(q store.Querier, r Rule) (st Status, err error) {
	st.Rule = r
	if st.Group, err = s.o.Name(q, r.GroupID); err != nil {
		return st, err
	}
	users, err := s.o.Members(q, r.GroupID)
	if err != nil {
		return st, err
	}
	st.People = len(users)
	over, err := s.o.Rooms.Overviews(q, r.RoomID)
	if err != nil {
		return st, err
	}
	if len(over) == 0 {
		st.Waiting, st.Troubles = len(users), []string{"The room is not there any more."}
		return st, nil
	}
	st.Name, st.Alias, st.Space = over[0].Name, over[0].Alias, over[0].Type == "m.space"
	ts, err := s.targets(q, r)
	if err != nil {
		return st, err
	}
	st.InRooms = len(ts)
	if by, yes := s.o.Rooms.Blocked(r.RoomID); yes {
		st.Troubles = append(st.Troubles, fmt.Sprintf("The room is blocked, by %s: nobody can join it.", by))
	}
	count := map[string]int{}
	for _, t := range ts {
		people, err := loadPeople(q, t.room)
		if err != nil {
			return st, err
		}
		for _, u := range users {
			p, ok := people[u]
			if ok && p.trouble != "" {
				count[p.trouble]++
			}
			if t.room != r.RoomID {
				continue
			}
			switch {
			case !ok || p.state == waiting:
				st.Waiting++
			case p.state == in:
				st.In++
			case p.state == left:
				st.Left++
			}
		}
	}
	var texts []string
	for text := range count {
		texts = append(texts, text)
	}
	slices.SortFunc(texts, func(a, b string) int { return cmp.Or(count[b]-count[a], cmp.Compare(a, b)) })
	for _, text := range texts[:min(len(texts), 3)] {
		st.Troubles = append(st.Troubles, fmt.Sprintf("%s (%d)", text, count[text]))
	}
	return st, nil
}
