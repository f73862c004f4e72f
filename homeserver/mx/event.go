package mx

import "encoding/json"

// Event types that the server itself looks at.
const (
	RoomCreate            = "m.room.create"
	RoomMember            = "m.room.member"
	RoomPowerLevels       = "m.room.power_levels"
	RoomJoinRules         = "m.room.join_rules"
	RoomHistoryVisibility = "m.room.history_visibility"
	RoomThirdPartyInvite  = "m.room.third_party_invite"
	RoomGuestAccess       = "m.room.guest_access"
	RoomName              = "m.room.name"
	RoomTopic             = "m.room.topic"
	RoomAvatar            = "m.room.avatar"
	RoomCanonicalAlias    = "m.room.canonical_alias"
	RoomAliases           = "m.room.aliases" // historical: special only in room versions 1 to 5
	RoomEncryption        = "m.room.encryption"
	RoomTombstone         = "m.room.tombstone"
	RoomServerACL         = "m.room.server_acl"
	RoomPinnedEvents      = "m.room.pinned_events"
	RoomMessage           = "m.room.message"
	RoomEncrypted         = "m.room.encrypted"
	RoomRedaction         = "m.room.redaction"
	RoomRetention         = "m.room.retention"
	Reaction              = "m.reaction"
	Sticker               = "m.sticker"
	SpaceChild            = "m.space.child"
	SpaceParent           = "m.space.parent"
	CallMember            = "org.matrix.msc3401.call.member"
	PollStart             = "m.poll.start"
	PollStartUnstable     = "org.matrix.msc3381.poll.start"
)

// Account data types that the server itself looks at.
const (
	PushRules        = "m.push_rules"
	FullyRead        = "m.fully_read"
	Direct           = "m.direct"
	IgnoredUserList  = "m.ignored_user_list"
	InvitePermission = "m.invite_permission_config"
	Tag              = "m.tag"
	MarkedUnread     = "m.marked_unread"
)

// Ephemeral event and receipt types.
const (
	Typing      = "m.typing"
	Receipt     = "m.receipt"
	Presence    = "m.presence"
	Read        = "m.read"
	ReadPrivate = "m.read.private"
)

// Memberships of m.room.member.
const (
	Join   = "join"
	Invite = "invite"
	Leave  = "leave"
	Ban    = "ban"
	Knock  = "knock"
)

// Rules of m.room.join_rules.
const (
	JoinPublic          = "public"
	JoinInvite          = "invite"
	JoinKnock           = "knock"
	JoinPrivate         = "private"
	JoinRestricted      = "restricted"
	JoinKnockRestricted = "knock_restricted"
)

// Values of m.room.history_visibility.
const (
	VisibilityWorldReadable = "world_readable"
	VisibilityShared        = "shared"
	VisibilityInvited       = "invited"
	VisibilityJoined        = "joined"
)

// Relation types (rel_type of m.relates_to).
const (
	RelThread     = "m.thread"
	RelReplace    = "m.replace"
	RelAnnotation = "m.annotation"
	RelReference  = "m.reference"
)

// MemberContent is the content of m.room.member.
type MemberContent struct {
	Membership                string `json:"membership"`
	DisplayName               string `json:"displayname,omitempty"`
	AvatarURL                 string `json:"avatar_url,omitempty"`
	Reason                    string `json:"reason,omitempty"`
	IsDirect                  bool   `json:"is_direct,omitempty"`
	JoinAuthorisedViaUsersSrv string `json:"join_authorised_via_users_server,omitempty"`
	ThirdPartyInvite          Raw    `json:"third_party_invite,omitempty"`
}

// PowerLevelsContent is the content of m.room.power_levels as the server writes
// it. It is read with eventauth.ParsePowerLevels, which knows the room version's
// rules for wrong types.
type PowerLevelsContent struct {
	Ban           *int64           `json:"ban,omitempty"`
	Events        map[string]int64 `json:"events,omitempty"`
	EventsDefault *int64           `json:"events_default,omitempty"`
	Invite        *int64           `json:"invite,omitempty"`
	Kick          *int64           `json:"kick,omitempty"`
	Notifications map[string]int64 `json:"notifications,omitempty"`
	Redact        *int64           `json:"redact,omitempty"`
	StateDefault  *int64           `json:"state_default,omitempty"`
	Users         map[string]int64 `json:"users,omitempty"`
	UsersDefault  *int64           `json:"users_default,omitempty"`
}

// JoinRulesContent is the content of m.room.join_rules.
type JoinRulesContent struct {
	JoinRule string      `json:"join_rule"`
	Allow    []JoinAllow `json:"allow,omitempty"`
}

// JoinAllow is one condition of a restricted join rule.
type JoinAllow struct {
	Type   string `json:"type"` // "m.room_membership"
	RoomID string `json:"room_id,omitempty"`
}

// UnmarshalJSON leaves a condition empty that is not written as it should be: the
// others count all the same. Spec: cs#restricted-rooms
func (a *JoinAllow) UnmarshalJSON(b []byte) error {
	type plain JoinAllow
	var p plain
	if json.Unmarshal(b, &p) != nil {
		p = plain{}
	}
	*a = JoinAllow(p)
	return nil
}
