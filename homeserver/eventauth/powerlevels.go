package eventauth

import (
	"math"
	"strconv"
	"strings"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
)

// Infinite is the power level of the creators of a version 12 room.
const Infinite = math.MaxInt64

// level reads one power level. Up to version 9, strings and fractions count too.
// Spec: rooms/v9#mroompower_levels-events-accept-values-as-strings
func level(v pdu.Version, raw []byte) (int64, bool) {
	if len(raw) == 0 {
		return 0, false
	}
	if n, ok := pdu.Int(raw); ok {
		return n, true
	}
	if v.IntegerPowerLevels() {
		return 0, false
	}
	if s, ok := pdu.String(raw); ok {
		n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		return n, err == nil
	}
	if v.StrictJSON() || raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || f >= math.MaxInt64 || f <= math.MinInt64 {
		return 0, false
	}
	return int64(f), true
}

// levelMap reads an object of power levels. ok is false if it is no object or
// one of its values is no power level.
func levelMap(v pdu.Version, raw []byte) (m map[string]int64, ok bool) {
	if raw == nil {
		return nil, false
	}
	m, ok = map[string]int64{}, true
	err := pdu.Members(raw, func(k string, val []byte) error {
		n, is := level(v, val)
		if is {
			m[k] = n
		}
		ok = ok && is
		return nil
	})
	return m, ok && err == nil
}

// content is an m.room.power_levels event, read once. Values that are no power
// levels are left out.
type content struct {
	plain                        map[string]int64
	users, events, notifications map[string]int64
}

func readContent(e *pdu.Event) any {
	c := &content{plain: map[string]int64{}}
	pdu.Members(e.Content, func(k string, val []byte) error {
		switch k {
		case "users":
			c.users, _ = levelMap(e.Version, val)
		case "events":
			c.events, _ = levelMap(e.Version, val)
		case "notifications":
			c.notifications, _ = levelMap(e.Version, val)
		default:
			if n, ok := level(e.Version, val); ok {
				c.plain[k] = n
			}
		}
		return nil
	})
	return c
}

// nothing is the content where there is no m.room.power_levels event.
var nothing = &content{}

// levels answers from a room's m.room.power_levels event, with its defaults.
type levels struct {
	v      pdu.Version
	create *pdu.Event
	pl     *pdu.Event // may be nil
	c      *content
}

func newLevels(v pdu.Version, create, pl *pdu.Event) levels {
	l := levels{v, create, pl, nothing}
	if pl != nil {
		l.c = pl.Derived(readContent).(*content)
	}
	return l
}

func (l levels) user(userID string) int64 {
	creator := (l.pl == nil || l.v.PrivilegedCreators()) && IsCreator(l.v, l.create, userID)
	if creator && l.v.PrivilegedCreators() {
		return Infinite
	}
	if n, ok := l.c.users[userID]; ok {
		return n
	}
	if creator {
		return 100
	}
	return l.c.plain["users_default"]
}

func (l levels) event(typ string, state bool) int64 {
	if n, ok := l.c.events[typ]; ok {
		return n
	}
	if !state {
		return l.c.plain["events_default"]
	}
	return l.action("state_default")
}

// action is the level of a plain field. Spec: cs#mroompower_levels
func (l levels) action(name string) int64 {
	if n, ok := l.c.plain[name]; ok {
		return n
	}
	switch name {
	case "ban", "kick", "redact", "state_default":
		return 50
	}
	return 0
}

// PowerLevels are a room's power levels with all defaults applied. Its maps must
// not be changed.
type PowerLevels struct {
	Ban, Kick, Redact, Invite                 int64
	EventsDefault, StateDefault, UsersDefault int64
	Users, Events, Notifications              map[string]int64

	creators []string // with infinite power; version 12
}

// ParsePowerLevels reads a room's power levels. pl is the m.room.power_levels
// event, nil where the room has none.
func ParsePowerLevels(v pdu.Version, create, pl *pdu.Event) *PowerLevels {
	l := newLevels(v, create, pl)
	p := &PowerLevels{
		Ban: l.action("ban"), Kick: l.action("kick"), Redact: l.action("redact"), Invite: l.action("invite"),
		EventsDefault: l.action("events_default"), StateDefault: l.action("state_default"), UsersDefault: l.action("users_default"),
		Users: l.c.users, Events: l.c.events, Notifications: l.c.notifications,
	}
	if v.PrivilegedCreators() {
		p.creators = Creators(v, create)
	} else if pl == nil {
		p.Users = map[string]int64{}
		for _, c := range Creators(v, create) {
			p.Users[c] = 100
		}
	}
	return p
}

// LevelsOf reads the power levels from a room's state.
func LevelsOf(v pdu.Version, state StateLookup) *PowerLevels {
	return ParsePowerLevels(v, state(mx.RoomCreate, ""), state(mx.RoomPowerLevels, ""))
}

// User is a user's power level; Infinite for creators of version 12 rooms.
func (p *PowerLevels) User(userID string) int64 {
	for _, c := range p.creators {
		if c == userID {
			return Infinite
		}
	}
	if n, ok := p.Users[userID]; ok {
		return n
	}
	return p.UsersDefault
}

// Event is the level needed to send events of a type.
func (p *PowerLevels) Event(typ string, state bool) int64 {
	if n, ok := p.Events[typ]; ok {
		return n
	}
	if state {
		return p.StateDefault
	}
	return p.EventsDefault
}

// Notification is the level needed to notify everybody, as with key "room".
func (p *PowerLevels) Notification(key string) int64 {
	if n, ok := p.Notifications[key]; ok {
		return n
	}
	return 50
}

// UserLevel is one user's power level.
func UserLevel(v pdu.Version, create, pl *pdu.Event, userID string) int64 {
	return newLevels(v, create, pl).user(userID)
}

// MayRedact reports whether a redaction by sender is applied to an event of
// targetSender. It trusts each server with its own users' events; what our own
// users may send is MaySendRedaction. Spec: rooms/v11#handling-redactions
func MayRedact(v pdu.Version, state StateLookup, sender, targetSender string) bool {
	if mx.Domain(sender) == mx.Domain(targetSender) {
		return true
	}
	l := newLevels(v, state(mx.RoomCreate, ""), state(mx.RoomPowerLevels, ""))
	return l.user(sender) >= l.action("redact")
}

// MaySendRedaction reports whether one of our users may redact an event of
// targetSender: their own, or with the redact level anybody's.
// Spec: cs#redactions
func MaySendRedaction(v pdu.Version, state StateLookup, sender, targetSender string) bool {
	l := newLevels(v, state(mx.RoomCreate, ""), state(mx.RoomPowerLevels, ""))
	return sender == targetSender || l.user(sender) >= l.action("redact")
}

// MayNotify reports whether a user's power level allows notifications of a key,
// such as "room". pl may be nil. Spec: cs#mroompower_levels (notifications)
func MayNotify(v pdu.Version, create, pl *pdu.Event, userID, key string) bool {
	l := newLevels(v, create, pl)
	need, ok := l.c.notifications[key]
	if !ok {
		need = 50
	}
	return l.user(userID) >= need
}
