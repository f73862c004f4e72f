package pdu

// Version is a room version.
type Version string

// The stable room versions.
const (
	V1  Version = "1"
	V2  Version = "2"
	V3  Version = "3"
	V4  Version = "4"
	V5  Version = "5"
	V6  Version = "6"
	V7  Version = "7"
	V8  Version = "8"
	V9  Version = "9"
	V10 Version = "10"
	V11 Version = "11"
	V12 Version = "12"
)

// Versions are all of them, oldest first.
var Versions = []Version{V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12}

// Default is the version of rooms that do not ask for one, unless the server is set to another.
const Default = V11

// number is the version as a number, or 0 if it is none that we know. Stable
// versions build on each other, so that rules say "from version n on".
func (v Version) number() int {
	if len(v) == 1 && '1' <= v[0] && v[0] <= '9' {
		return int(v[0] - '0')
	}
	switch v {
	case V10:
		return 10
	case V11:
		return 11
	case V12:
		return 12
	}
	return 0
}

// Supported reports whether events of rooms of this version can be checked.
func Supported(v Version) bool { return v.number() > 0 }

// Creatable reports whether rooms of this version may be created here.
func Creatable(v Version) bool { return Supported(v) }

// AtLeast reports whether v is room version n or a later one.
func (v Version) AtLeast(n int) bool { return v.number() >= n }

// EventIDInPDU: events carry their own, chosen ID (versions 1 and 2), instead
// of being named by their hash.
func (v Version) EventIDInPDU() bool { return !v.AtLeast(3) }

// StrictJSON: canonical JSON is enforced. Spec: rooms/v6
func (v Version) StrictJSON() bool { return v.AtLeast(6) }

// IntegerPowerLevels: power levels must be integers, not strings. Spec: rooms/v10
func (v Version) IntegerPowerLevels() bool { return v.AtLeast(10) }

// RedactsInContent: m.room.redaction names its target in its content. Spec: rooms/v11
func (v Version) RedactsInContent() bool { return v.AtLeast(11) }

// RoomIDIsHash: the room's ID is the reference hash of its create event, which
// has no room_id and is not listed in auth_events. Spec: rooms/v12
func (v Version) RoomIDIsHash() bool { return v.AtLeast(12) }

// PrivilegedCreators: the room's creators stand above all power levels. Spec: rooms/v12
func (v Version) PrivilegedCreators() bool { return v.AtLeast(12) }
