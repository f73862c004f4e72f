// Package admin is what administrators do: the specification's server
// administration, and the admin API that existing tools know from Synapse.
//
// Invariants: whether the caller is an administrator is checked before anything is
// looked up (route.Admin); roles.go says what moderators and auditors may call; what administrators change, and what they read of others'
// messages, is in the log with their name (audit.go); accounts are the identity provider's, rooms, media and
// devices those of the packages below, and this package only asks them; what takes
// long runs in bounded steps in the background and goes on after a restart.
package admin

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"holdfast/homeserver/devices"
	"holdfast/homeserver/e2ee"
	"holdfast/homeserver/media"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/notices"
	"holdfast/homeserver/push/pusher"
	"holdfast/homeserver/reports"
	"holdfast/homeserver/rooms"
	"holdfast/homeserver/route"
	"holdfast/homeserver/tasks"
	"holdfast/homeserver/timeline"
	"holdfast/homeserver/userdata"
	"holdfast/store"
	"holdfast/store/audit"
)

// Accounts is what the identity provider does for this package. User IDs are full.
// Errors for the client are *mx.Error; others are transient. NotFound is what a
// user gets who is not there, and a closed account where it must be open.
type Accounts interface {
	User(ctx context.Context, userID string) (User, error)
	Users(ctx context.Context) ([]User, error)
	Create(ctx context.Context, n NewUser) (User, error) // errors: UserInUse, InvalidUsername, Exclusive
	Available(ctx context.Context, localpart string) error
	SetLocked(ctx context.Context, userID string, locked bool) error
	SetSuspended(ctx context.Context, userID string, suspended bool) error
	// SetAdmin grants or takes away administration. Errors: Forbidden where only an
	// owner may, or none would be left.
	SetAdmin(ctx context.Context, userID string, admin bool) error
	// MayChange refuses (Forbidden) that the caller changes an owner's account, where
	// they are none. Caller says who that is.
	MayChange(ctx context.Context, userID string) error
	SetPassword(ctx context.Context, userID, password string, logout bool) error // errors: WeakPassword
	Deactivate(ctx context.Context, userID string) error
	// Emails are the addresses that a user has proved.
	Emails(ctx context.Context, userID string) ([]Address, error)
	EmailOwner(ctx context.Context, address string) (User, error)
	// SignInAs gives an access token of a user, without a device; until zero: for good.
	SignInAs(ctx context.Context, userID string, until time.Time) (token string, err error)

	// Words that register accounts. Errors: NotFound, InvalidParam of one that exists.
	Tokens(ctx context.Context) ([]Token, error)
	Token(ctx context.Context, token string) (Token, error)
	TokenWord(length int) string
	CreateToken(ctx context.Context, t Token) error
	ChangeToken(ctx context.Context, token string, change func(*Token)) (Token, error)
	DeleteToken(ctx context.Context, token string) error
}

// User is an account.
type User struct {
	UserID, Localpart              string
	Admin                          bool
	Locked, Suspended, Deactivated bool
	HasPassword                    bool
	Created, LastSeen              time.Time // LastSeen zero: never signed in
}

// Address is an e-mail address of a user.
type Address struct {
	Address          string
	Added, Validated time.Time
}

// NewUser describes an account to make.
type NewUser struct {
	Localpart, DisplayName string
	Password               string // "": no password login
	Admin                  bool
}

// Options of New.
type Options struct {
	DB         *store.DB
	Audit      *audit.Log   // nil: nothing is noted
	Log        *slog.Logger // nil: discarded
	ServerName string
	Version    string   // of the program
	Accounts   Accounts // nil: nobody has an account
	Devices    *devices.Service
	E2EE       *e2ee.Service
	Userdata   *userdata.Service
	Rooms      *rooms.Rooms
	Files      *media.Service
	Timeline   *timeline.Timeline
	Pushers    *pusher.Service
	Notices    *notices.Service
	Tasks      *tasks.Service
	// Sweeps delete what there is of a room that was deleted, at most limit rows at
	// once, and tell how many. Their order must not change between releases that may
	// follow each other amidst a deletion; new ones go to the end.
	Sweeps []func(tx *store.Tx, roomID string, limit int) (int64, error)
	// ForgetCounts has what is unread in a room counted anew, as a sweep does.
	ForgetCounts func(tx *store.Tx, roomID string, limit int) (int64, error)
	Now          func() time.Time // nil: time.Now
}

// Service answers the package's operations. Its methods are safe for concurrent use.
type Service struct {
	o      Options
	rates  rates
	resets resets
}

// New makes the service.
func New(o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Service{o: o, rates: rates{m: map[string]Rate{}}, resets: resets{m: map[string]time.Time{}}}
	s.handleTasks()
	return s
}

const (
	v1 = "/_synapse/admin/v1/"
	v2 = "/_synapse/admin/v2/"
	v3 = "/_synapse/admin/v3/"
)

// Routes are the package's operations.
func (s *Service) Routes() []route.Route {
	const client = "/_matrix/client/"
	var list []route.Route
	add := func(op, pattern string, h route.Handler, aliases ...string) {
		mods, auditors := open(op, pattern)
		list = append(list, route.Route{Op: op, Pattern: pattern, Aliases: aliases, Auth: route.Admin, Moderators: mods, Auditors: auditors,
			Limit: route.Reads, Handle: s.audited(op, pattern, s.guarded(pattern, h))})
	}
	add("getAdminLockUser", "GET "+client+"v1/admin/lock/{userID}", route.Get(s.getLocked))
	add("setAdminLockUser", "PUT "+client+"v1/admin/lock/{userID}", route.JSON(s.putLocked))
	add("getAdminSuspendUser", "GET "+client+"v1/admin/suspend/{userID}", route.Get(s.getSuspended))
	add("setAdminSuspendUser", "PUT "+client+"v1/admin/suspend/{userID}", route.JSON(s.putSuspended))
	list = append(list, route.Route{Op: "getWhoIs", Pattern: "GET " + client + "v3/admin/whois/{userID}", Auth: route.User, Limit: route.Reads, Handle: route.Get(s.whois),
		Aliases: []string{client + "r0/admin/whois/{userID}", v1 + "whois/{userID}"}})

	// What follows is Synapse's admin API, as far as tools use it.
	add("synapseUsers", "GET "+v2+"users", route.Get(s.listV2))
	add("synapseUsersV3", "GET "+v3+"users", route.Get(s.listV3))
	add("synapseUser", "GET "+v2+"users/{userID}", route.Get(s.getUser))
	add("synapsePutUser", "PUT "+v2+"users/{userID}", route.JSON(s.putUser))
	add("synapseUsernameAvailable", "GET "+v1+"username_available", route.Get(s.usernameAvailable))
	add("synapseDeactivate", "POST "+v1+"deactivate/{userID}", route.JSON(s.deactivate))
	add("synapseResetPassword", "POST "+v1+"reset_password/{userID}", route.JSON(s.resetPassword))
	add("synapseSuspend", "PUT "+v1+"suspend/{userID}", route.JSON(s.suspend))
	add("synapseIsAdmin", "GET "+v1+"users/{userID}/admin", route.Get(s.getAdmin))
	add("synapseSetAdmin", "PUT "+v1+"users/{userID}/admin", route.JSON(s.putAdmin))
	add("synapseLoginAs", "POST "+v1+"users/{userID}/login", route.JSON(s.loginAs))
	add("synapseJoinedRooms", "GET "+v1+"users/{userID}/joined_rooms", route.Get(s.joinedRooms))
	add("synapseMemberships", "GET "+v1+"users/{userID}/memberships", route.Get(s.memberships))
	add("synapseAccountData", "GET "+v1+"users/{userID}/accountdata", route.Get(s.accountData))
	add("synapsePushers", "GET "+v1+"users/{userID}/pushers", route.Get(s.pushers))
	add("synapseSentInvites", "GET "+v1+"users/{userID}/sent_invite_count", route.Get(s.sentInvites))
	add("synapseRoomsJoined", "GET "+v1+"users/{userID}/cumulative_joined_room_count", route.Get(s.roomsJoined))
	for op, method := range map[string]string{"synapseShadowBan": "POST ", "synapseLiftShadowBan": "DELETE "} {
		list = append(list, route.Route{Op: op, Pattern: method + v1 + "users/{userID}/shadow_ban", Auth: route.Admin, Limit: route.Reads, Refuse: shadowBan})
	}
	add("synapseRate", "GET "+v1+"users/{userID}/override_ratelimit", route.Get(s.getRate))
	add("synapseSetRate", "POST "+v1+"users/{userID}/override_ratelimit", route.JSON(s.postRate))
	add("synapseDeleteRate", "DELETE "+v1+"users/{userID}/override_ratelimit", route.Get(s.deleteRate))
	add("synapseByProvider", "GET "+v1+"auth_providers/{provider}/users/{externalID}", s.noSuchUser)
	add("synapseByAddress", "GET "+v1+"threepid/{medium}/users/{address}", route.Get(s.byAddress))

	add("synapseDevices", "GET "+v2+"users/{userID}/devices", route.Get(s.listDevices))
	add("synapseCreateDevice", "POST "+v2+"users/{userID}/devices", route.JSON(s.createDevice))
	add("synapseDevice", "GET "+v2+"users/{userID}/devices/{deviceID}", route.Get(s.getDevice))
	add("synapsePutDevice", "PUT "+v2+"users/{userID}/devices/{deviceID}", route.JSON(s.putDevice))
	add("synapseDeleteDevice", "DELETE "+v2+"users/{userID}/devices/{deviceID}", route.Get(s.deleteDevice))
	add("synapseDeleteDevices", "POST "+v2+"users/{userID}/delete_devices", route.JSON(s.deleteDevices))

	add("synapseTokens", "GET "+v1+"registration_tokens", route.Get(s.listTokens))
	add("synapseNewToken", "POST "+v1+"registration_tokens/new", route.JSON(s.newToken))
	add("synapseToken", "GET "+v1+"registration_tokens/{token}", route.Get(s.getToken))
	add("synapsePutToken", "PUT "+v1+"registration_tokens/{token}", route.JSON(s.putToken))
	add("synapseDeleteToken", "DELETE "+v1+"registration_tokens/{token}", route.Get(s.deleteToken))

	add("synapseUserMedia", "GET "+v1+"users/{userID}/media", route.Get(s.userMedia))
	add("synapseDeleteUserMedia", "DELETE "+v1+"users/{userID}/media", route.Get(s.deleteUserMedia))
	add("synapseMedia", "GET "+v1+"media/{serverName}/{mediaID}", route.Get(s.mediaInfo))
	add("synapseDeleteMedia", "DELETE "+v1+"media/{serverName}/{mediaID}", route.Get(s.deleteMedia))
	add("synapseDeleteOldMedia", "POST "+v1+"media/delete", route.Get(s.deleteOldMedia), v1+"media/"+s.o.ServerName+"/delete")
	add("synapsePurgeRemoteMedia", "POST "+v1+"purge_media_cache", route.Get(s.purgeRemote))
	add("synapseQuarantine", "POST "+v1+"media/quarantine/{serverName}/{mediaID}", s.quarantine(true))
	add("synapseUnquarantine", "POST "+v1+"media/unquarantine/{serverName}/{mediaID}", s.quarantine(false))
	add("synapseProtect", "POST "+v1+"media/protect/{mediaID}", s.protect(true))
	add("synapseUnprotect", "POST "+v1+"media/unprotect/{mediaID}", s.protect(false))
	add("synapseQuarantineUser", "POST "+v1+"user/{userID}/media/quarantine", route.Get(s.quarantineUser))
	add("synapseQuarantineRoom", "POST "+v1+"room/{roomID}/media/quarantine", route.Get(s.quarantineRoom), v1+"quarantine_media/{roomID}")
	add("synapseRoomMedia", "GET "+v1+"room/{roomID}/media", route.Get(s.roomMedia))
	add("synapseMediaUsage", "GET "+v1+"statistics/users/media", route.Get(s.mediaUsage))

	add("synapseRooms", "GET "+v1+"rooms", route.Get(s.listRooms))
	add("synapseRoom", "GET "+v1+"rooms/{roomID}", route.Get(s.getRoom))
	add("synapseRoomMembers", "GET "+v1+"rooms/{roomID}/members", route.Get(s.roomMembers))
	add("synapseRoomState", "GET "+v1+"rooms/{roomID}/state", route.Get(s.roomState))
	messages, around, byTimestamp := s.o.Timeline.AdminReads()
	add("synapseRoomMessages", "GET "+v1+"rooms/{roomID}/messages", messages)
	add("synapseEventContext", "GET "+v1+"rooms/{roomID}/context/{eventID}", around)
	add("synapseEventByTimestamp", "GET "+v1+"rooms/{roomID}/timestamp_to_event", byTimestamp)
	add("synapseFetchEvent", "GET "+v1+"fetch_event/{eventID}", route.Get(s.fetchEvent))
	add("synapseHierarchy", "GET "+v1+"rooms/{roomID}/hierarchy", s.o.Rooms.AdminHierarchy())
	add("synapseExtremities", "GET "+v1+"rooms/{roomID}/forward_extremities", route.Get(s.extremities))
	add("synapseDeleteExtremities", "DELETE "+v1+"rooms/{roomID}/forward_extremities", route.Get(s.deleteExtremities))
	add("synapseMakeRoomAdmin", "POST "+v1+"rooms/{roomID}/make_room_admin", route.JSON(s.makeRoomAdmin))
	add("synapseJoin", "POST "+v1+"join/{roomID}", route.JSON(s.join))
	add("synapseLargestRooms", "GET "+v1+"statistics/database/rooms", route.Get(s.largestRooms))
	add("synapseRoomBlock", "GET "+v1+"rooms/{roomID}/block", route.Get(s.getBlock))
	add("synapseBlockRoom", "PUT "+v1+"rooms/{roomID}/block", route.JSON(s.putBlock))
	add("synapseDeleteRoom", "DELETE "+v1+"rooms/{roomID}", route.JSON(s.deleteRoomV1))
	add("synapseDeleteRoomV2", "DELETE "+v2+"rooms/{roomID}", route.JSON(s.deleteRoomV2))
	add("synapseDeleteRoomStatus", "GET "+v2+"rooms/{roomID}/{deleteID}", route.Get(s.deleteStatus))
	add("synapsePurgeHistory", "POST "+v1+"purge_history/{roomID}", route.JSON(s.purge), v1+"purge_history/{roomID}/{eventID}")
	add("synapsePurgeHistoryStatus", "GET "+v1+"purge_history_status/{purgeID}", route.Get(s.purgeStatus))
	add("synapseRedactUser", "POST "+v1+"user/{userID}/redact", route.JSON(s.redactUser))
	add("synapseRedactStatus", "GET "+v1+"user/redact_status/{redactID}", route.Get(s.redactStatus))
	add("synapseTasks", "GET "+v1+"scheduled_tasks", route.Get(s.scheduledTasks))
	add("synapseEventReports", "GET "+v1+"event_reports", route.Get(s.eventReports))
	add("synapseEventReport", "GET "+v1+"event_reports/{reportID}", route.Get(s.getEventReport))
	add("synapseDeleteEventReport", "DELETE "+v1+"event_reports/{reportID}", s.deleteReport(reports.Event))
	add("synapseUserReports", "GET "+v1+"user_reports", route.Get(s.userReports))
	add("synapseUserReport", "GET "+v1+"user_reports/{reportID}", route.Get(s.getUserReport))
	add("synapseDeleteUserReport", "DELETE "+v1+"user_reports/{reportID}", s.deleteReport(reports.User))

	add("synapseNotice", "POST "+v1+"send_server_notice", route.JSON(s.sendNotice))
	add("synapseNoticeOnce", "PUT "+v1+"send_server_notice/{txnID}", route.JSON(s.sendNotice))

	add("synapseVersion", "GET "+v1+"server_version", route.Get(s.version))
	add("essVersion", "GET /_synapse/ess/version", route.Get(s.essVersion))
	add("synapseFeatures", "GET "+v1+"experimental_features/{userID}", route.Get(s.features))
	add("synapsePutFeatures", "PUT "+v1+"experimental_features/{userID}", route.JSON(s.putFeatures))
	add("synapseUpdates", "GET "+v1+"background_updates/status", route.Get(s.updates))
	add("synapseUpdatesEnabled", "GET "+v1+"background_updates/enabled", route.Get(s.updatesEnabled))
	add("synapseEnableUpdates", "POST "+v1+"background_updates/enabled", route.JSON(s.setUpdatesEnabled))
	add("synapseStartUpdate", "POST "+v1+"background_updates/start_job", route.JSON(s.startUpdate))
	add("synapseSearchUsers", "GET "+v1+"search_users/{userID}", route.Get(s.searchUsers))
	add("synapseAllowReset", "POST "+v1+"users/{userID}/_allow_cross_signing_replacement_without_uia", route.Get(s.allowReset))
	list = append(list, route.Route{Op: "synapseAccountValidity", Pattern: "POST " + v1 + "account_validity/validity", Auth: route.Admin, Limit: route.Reads, Refuse: validity})
	add("synapseDestinations", "GET "+v1+"federation/destinations", route.Get(s.destinations))
	add("synapseDestination", "GET "+v1+"federation/destinations/{destination}", s.noSuchDestination)
	add("synapseDestinationRooms", "GET "+v1+"federation/destinations/{destination}/rooms", s.noSuchDestination)
	add("synapseResetDestination", "POST "+v1+"federation/destinations/{destination}/reset_connection", s.noSuchDestination)
	return list
}

var (
	errNotLocal = mx.Errorf(mx.InvalidParam, "The user does not belong to this server.")
	errNoUser   = mx.Errorf(mx.NotFound, "There is no such user.")
)

// local is the account of a user ID of this server. Errors: InvalidParam, NotFound.
func (s *Service) local(ctx context.Context, userID string) (User, error) {
	if !strings.HasPrefix(userID, "@") || mx.Domain(userID) != s.o.ServerName {
		return User{}, errNotLocal
	}
	return s.o.Accounts.User(ctx, userID)
}
