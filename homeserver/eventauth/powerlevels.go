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

// levels reads single power levels straight from the events, without decoding
// the rest: an m.room.power_levels event can have thousands of users.
type levels struct {
	v          pdu.Version
	create, pl *pdu.Event // pl may be nil
}

func (l levels) field(name string) (int64, bool) {
	if l.pl == nil {
		return 0, false
	}
	return level(l.v, pdu.Field(l.pl.Content, name))
}

func (l levels) in(name, key string) (int64, bool) {
	if l.pl == nil {
		return 0, false
	}
	return level(l.v, pdu.Path(l.pl.Content, name, key))
}

func (l levels) user(userID string) int64 {
	creator := (l.pl == nil || l.v.PrivilegedCreators()) && IsCreator(l.v, l.create, userID)
	if creator && l.v.PrivilegedCreators() {
		return Infinite
	}
	if n, ok := l.in("users", userID); ok {
		return n
	}
	if creator {
		return 100
	}
	n, _ := l.field("users_default")
	return n
}

func (l levels) event(typ string, state bool) int64 {
	if n, ok := l.in("events", typ); ok {
		return n
	}
	if !state {
		n, _ := l.field("events_default")
		return n
	}
	return l.action("state_default")
}

// action is the level of a plain field. Spec: cs#mroompower_levels
func (l levels) action(name string) int64 {
	if n, ok := l.field(name); ok {
		return n
	}
	switch name {
	case "ban", "kick", "redact", "state_default":
		return 50
	}
	return 0
}

// PowerLevels are a room's power levels with all defaults applied.
type PowerLevels struct {
	Ban, Kick, Redact, Invite                 int64
	EventsDefault, StateDefault, UsersDefault int64
	Users, Events, Notifications              map[string]int64

	creators []string // with infinite power; version 12
}

// ParsePowerLevels reads a room's power levels. pl is the m.room.power_levels
// event, nil where the room has none.
func ParsePowerLevels(v pdu.Version, create, pl *pdu.Event) *PowerLevels {
	l := levels{v, create, pl}
	p := &PowerLevels{
		Ban: l.action("ban"), Kick: l.action("kick"), Redact: l.action("redact"), Invite: l.action("invite"),
		EventsDefault: l.action("events_default"), StateDefault: l.action("state_default"), UsersDefault: l.action("users_default"),
		Users: map[string]int64{}, Events: map[string]int64{}, Notifications: map[string]int64{},
	}
	if v.PrivilegedCreators() {
		p.creators = Creators(v, create)
	} else if pl == nil && create != nil {
		for _, c := range Creators(v, create) {
			p.Users[c] = 100
		}
	}
	if pl == nil {
		return p
	}
	for name, m := range map[string]*map[string]int64{"users": &p.Users, "events": &p.Events, "notifications": &p.Notifications} {
		if read, _ := levelMap(v, pdu.Field(pl.Content, name)); read != nil {
			*m = read
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

// UserLevel is one user's power level, without decoding the others'.
func UserLevel(v pdu.Version, create, pl *pdu.Event, userID string) int64 {
	return levels{v, create, pl}.user(userID)
}

// MayRedact reports whether a redaction by sender is applied to an event of
// targetSender. It trusts each server with its own users' events; what our own
// users may send is MaySendRedaction. Spec: rooms/v11#handling-redactions
func MayRedact(v pdu.Version, state StateLookup, sender, targetSender string) bool {
	if mx.Domain(sender) == mx.Domain(targetSender) {
		return true
	}
	l := levels{v, state(mx.RoomCreate, ""), state(mx.RoomPowerLevels, "")}
	return l.user(sender) >= l.action("redact")
}

// MaySendRedaction reports whether one of our users may redact an event of
// targetSender: their own, or with the redact level anybody's.
// Spec: cs#redactions
func MaySendRedaction(v pdu.Version, state StateLookup, sender, targetSender string) bool {
	l := levels{v, state(mx.RoomCreate, ""), state(mx.RoomPowerLevels, "")}
	return sender == targetSender || l.user(sender) >= l.action("redact")
}

// MayNotify reports whether a user's power level allows notifications of a key,
// such as "room". pl may be nil. Spec: cs#mroompower_levels (notifications)
func MayNotify(v pdu.Version, create, pl *pdu.Event, userID, key string) bool {
	l := levels{v, create, pl}
	need, ok := l.in("notifications", key)
	if !ok {
		need = 50
	}
	return l.user(userID) >= need
}
