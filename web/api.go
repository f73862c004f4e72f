package web

import (
	"context"
	"net/http"
	"time"
)

// Error is a mistake that the person in front of the browser can do something
// about. Implementations of the interfaces below return it; any other error
// answers 500 and is only logged.
type Error struct {
	Status  int    // HTTP status; 0: 400
	Code    string // for programs, e.g. "wrong_code"
	Message string // for people: what happened and what to do
	Field   string // the input it is about, as in the request's JSON ("admin.password"), or empty
}

func (e *Error) Error() string { return e.Message }

// Setup is the first start: what is known, who may decide, what was decided.
type Setup interface {
	// State is what the wizard shows. It is asked without any proof of who asks.
	State(ctx context.Context) (State, error)
	// Claim checks the one-time claim code. Errors: *Error 403 "wrong_code",
	// 410 "claimed" when somebody has finished the setup. It does not use the
	// code up; Finish does.
	Claim(ctx context.Context, code string) error
	// Finish applies the choices and creates the first administrator, once.
	// Errors: *Error with Field for what must be corrected, 410 "claimed".
	Finish(ctx context.Context, c Choices) (Finished, error)
}

// NameChecker is implemented by a Setup that can judge a server name before
// Finish; CheckName returns the name in its canonical form.
type NameChecker interface {
	CheckName(ctx context.Context, name string) (string, error)
}

// State is what is known before and after the claim.
type State struct {
	State           string `json:"state"` // "unclaimed" or "claimed"
	Organisation    string `json:"organisation"`
	ServerName      string `json:"server_name"`
	ServerNameFixed bool   `json:"server_name_fixed"` // set by the configuration, or accounts exist
	PublicURL       string `json:"public_url"`
	TLS             TLS    `json:"tls"`
	Version         string `json:"version"`
}

// Claimed says that the setup was finished.
func (s State) Claimed() bool { return s.State == "claimed" }

// TLS is how the appliance proves who it is.
type TLS struct {
	Mode          string `json:"mode"`  // "own-ca", "files", "acme" or "off"
	Fixed         bool   `json:"fixed"` // set by the configuration: the wizard must not ask
	CAFingerprint string `json:"ca_fingerprint,omitempty"`
	CAURL         string `json:"ca_url,omitempty"` // where a browser downloads the CA certificate
}

// Choices are the answers of the wizard.
type Choices struct {
	Organisation string     `json:"organisation"`
	ServerName   string     `json:"server_name"`
	TLS          TLSChoice  `json:"tls"`
	Admin        FirstAdmin `json:"admin"`
}

// TLSChoice is how TLS shall be done. Cert and Key are PEM and only used with
// mode "files", Email only with "acme".
type TLSChoice struct {
	Mode  string `json:"mode"`
	Cert  string `json:"cert,omitempty"`
	Key   string `json:"key,omitempty"`
	Email string `json:"email,omitempty"`
}

// FirstAdmin is the first account.
type FirstAdmin struct {
	Localpart   string `json:"localpart"`
	DisplayName string `json:"display_name"`
	Password    string `json:"password"`
}

// Finished is where the appliance is reached from now on.
type Finished struct {
	Restart bool   `json:"restart"` // the appliance must be started again for a choice to apply
	URL     string `json:"url"`
	UserID  string `json:"user_id"` // "@alice:example.org"
}

// Visitor is the browser session of somebody who is signed in.
type Visitor struct {
	UserID    string // "@alice:example.org"; empty: nobody is signed in
	Admin     bool
	Moderator bool // handles reports, rooms and media
	Auditor   bool // sees what administrators see, and changes nothing
	Weak      bool // the rules want a second factor that they did not prove
	Enrol     bool // ... because they have none yet
	Fresh     bool // they proved lately, and as strongly as they can, who they are
}

// Admins knows the browser sessions of the identity provider.
type Admins interface {
	Visitor(r *http.Request) (Visitor, error)
}

// Invites are the links by which people make their accounts.
type Invites interface {
	CreateInvite(ctx context.Context, n NewInvite) (Invite, error)
	Invites(ctx context.Context) ([]Invite, error)
	// RevokeInvite ends an invite. Errors: *Error 404.
	RevokeInvite(ctx context.Context, id string) error
}

// NewInvite asks for an invite.
type NewInvite struct {
	By        string        // user ID of the administrator
	Origin    string        // origin to build the link with
	Uses      int           // how many accounts it may make
	ExpiresIn time.Duration // from now
	Localpart string        // the user name it is bound to, or empty
	Roles     []string      // names of roles that the account gets
	Groups    []string      // names of groups that it is put into
}

// Invite is a link that makes accounts.
type Invite struct {
	ID        string    `json:"id"`
	URL       string    `json:"url,omitempty"` // only known when it is made: the appliance keeps a hash
	Localpart string    `json:"localpart,omitempty"`
	Roles     []string  `json:"roles,omitempty"`
	Groups    []string  `json:"groups,omitempty"`
	Uses      int       `json:"uses"`
	Used      int       `json:"used"`
	By        string    `json:"by,omitempty"`
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires"`
	Revoked   bool      `json:"revoked"`
}

// Bridges are the programs that were let in by a registration: bridges to other
// networks, and bots.
type Bridges interface {
	Bridges(ctx context.Context) ([]Bridge, error)
	// RemoveBridge ends one. Errors: *Error 404; 409 for one that is registered by a file.
	RemoveBridge(ctx context.Context, id string) error
	// RetryBridge sends now what waits for one. Errors: *Error 404.
	RetryBridge(ctx context.Context, id string) error
}

// Bridge is a bridge or bot. Its tokens are not shown.
type Bridge struct {
	ID        string    `json:"id"`
	URL       string    `json:"url"` // "": nothing is sent to it
	UserID    string    `json:"user_id"`
	File      string    `json:"file,omitempty"` // what registers it; "": the command line did
	Waiting   int64     `json:"waiting"`        // how much it did not take yet
	LastTaken time.Time `json:"last_taken,omitzero"`
	Failing   time.Time `json:"failing_since,omitzero"`
	Trouble   string    `json:"trouble,omitempty"` // why it does not take it
}

// People are the accounts.
type People interface {
	Users(ctx context.Context) ([]User, error)
	// SetDisabled locks an account out or lets it in again. Errors: *Error 404.
	SetDisabled(ctx context.Context, userID string, disabled bool) error
	// SetRole gives somebody a role or takes it away: "owner", "admin", "moderator" or
	// "auditor". Errors: *Error.
	SetRole(ctx context.Context, userID, role string, on bool) error
	Groups(ctx context.Context) ([]Group, error)
	// CreateGroup, RenameGroup and DeleteGroup change groups, which their name finds.
	// Errors: *Error.
	CreateGroup(ctx context.Context, name string) error
	RenameGroup(ctx context.Context, name, to string) error
	DeleteGroup(ctx context.Context, name string) error
	// SetGroupRole gives the members of a group a role or takes it away. Errors: *Error.
	SetGroupRole(ctx context.Context, name, role string, on bool) error
	// Members lists the user IDs of who is in a group. Errors: *Error 404.
	Members(ctx context.Context, name string) ([]string, error)
	// SetMember puts somebody into a group or takes them out. Errors: *Error.
	SetMember(ctx context.Context, name, userID string, in bool) error
	// GroupRooms tells into which rooms a group's people are put, and which rooms there are.
	// Errors: *Error 404.
	GroupRooms(ctx context.Context, name string) (GroupRooms, error)
	// SetGroupRoom, RemoveGroupRoom and ApplyGroupRoom change such a rule; see package
	// homeserver/grouprooms. Errors: *Error.
	SetGroupRoom(ctx context.Context, name string, r GroupRoom) error
	RemoveGroupRoom(ctx context.Context, name, room string, out bool) error
	ApplyGroupRoom(ctx context.Context, name, room string) error
}

// GroupRooms are the rooms of a group, and those that there are.
type GroupRooms struct {
	Rules []GroupRoom `json:"rules"`
	Rooms []Room      `json:"rooms"` // with a name or an alias; at most 1,000
}

// Room names a room.
type Room struct {
	RoomID string `json:"room_id"`
	Name   string `json:"name"`
	Alias  string `json:"alias,omitempty"`
	Space  bool   `json:"space"`
}

// GroupRoom is that a group's people are put into a room, and how far that is.
type GroupRoom struct {
	Room
	Level    int64    `json:"level"`    // power level that they get; 0: the room's default
	TakeOut  string   `json:"take_out"` // who leaves the group is out: "yes", "no", or "all" who are in the room
	Rooms    bool     `json:"rooms"`    // of a space: also its rooms
	InRooms  int      `json:"in_rooms"`
	People   int      `json:"people"` // in the group
	In       int      `json:"in"`     // of them in the room
	Left     int      `json:"left"`
	Waiting  int      `json:"waiting"`
	Troubles []string `json:"troubles"` // why some are not in it
}

// Group is a group of people.
type Group struct {
	Name    string   `json:"name"`
	Source  string   `json:"source"` // "local", or the directory that says who is in it
	Members int      `json:"members"`
	Roles   []string `json:"roles"` // that its members have through it
}

// User is one account.
type User struct {
	UserID      string    `json:"user_id"`
	DisplayName string    `json:"display_name"`
	Admin       bool      `json:"admin"`
	Roles       []string  `json:"roles"` // also those through groups
	Disabled    bool      `json:"disabled"`
	HasPassword bool      `json:"has_password"` // here; a directory or another provider may have one
	Devices     int       `json:"devices"`
	Created     time.Time `json:"created"`
	LastSeen    time.Time `json:"last_seen,omitzero"`
}

// Status is how the appliance is.
type Status interface {
	Status(ctx context.Context) (Report, error)
}

// Report is a snapshot of the running appliance.
type Report struct {
	Version       string    `json:"version"`
	ServerName    string    `json:"server_name"`
	PublicURL     string    `json:"public_url"`
	TLS           TLS       `json:"tls"`
	Started       time.Time `json:"started"`
	Now           time.Time `json:"now"`
	Users         int       `json:"users"`
	Rooms         int       `json:"rooms"`
	Events        int64     `json:"events"`
	DatabaseBytes int64     `json:"database_bytes"`
	MediaBytes    int64     `json:"media_bytes"`
	DiskFreeBytes int64     `json:"disk_free_bytes"`
	MemoryBytes   int64     `json:"memory_bytes"` // resident set of the process
	Calls         Calls     `json:"calls"`
}

// Calls is what the SFU carries at this moment.
type Calls struct {
	Rooms        int `json:"rooms"`
	Participants int `json:"participants"`
	Tracks       int `json:"tracks"`
	// Draining: the appliance is about to stop, and nobody new is let into a call.
	Draining bool `json:"draining"`
}

// SelfTest runs the appliance through what people will do, as a client would:
// a login, a message, a media upload and a relayed call.
type SelfTest interface {
	SelfTest(ctx context.Context) ([]Check, error)
}

// Check is one line of the self-test.
type Check struct {
	Name    string `json:"name"` // "login", "message", "media" or "call"; those of TestCalls: a hop of a call
	OK      bool   `json:"ok"`
	Skipped bool   `json:"skipped,omitempty"` // it was not tried, or cannot be judged
	Detail  string `json:"detail"`            // what was seen; on failure also what to do
	MS      int64  `json:"ms"`                // how long it took, in milliseconds
}

// Previews is how links are previewed.
type Previews interface {
	LinkPreviews(ctx context.Context) (LinkPreviews, error)
	// SetLinkPreviews changes all of it. Errors: *Error with Field for an entry that is
	// no host.
	SetLinkPreviews(ctx context.Context, p LinkPreviews) error
}

// LinkPreviews are the rules for previews of links. Hosts are names, "*." and a name,
// IP addresses or ranges of them.
type LinkPreviews struct {
	Enabled bool     `json:"enabled"`
	Allow   []string `json:"allow"`   // only these; empty: all
	Deny    []string `json:"deny"`    // not these
	Private []string `json:"private"` // these may be in a private network
}
