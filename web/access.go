package web

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Audit is the log of what happened.
type Audit interface {
	// AuditLog lists entries, the newest first.
	AuditLog(ctx context.Context, f AuditFilter) ([]AuditEntry, error)
	VerifyAudit(ctx context.Context) (AuditReport, error)
	// ExportAudit writes the entries of the filter's time.
	ExportAudit(ctx context.Context, w io.Writer, f AuditFilter, asCSV bool) error
}

// AuditFilter chooses entries; zero values choose all.
type AuditFilter struct {
	Actor, Target, Event string
	Since, Until         time.Time
	Before               int64
}

// AuditEntry is what happened once.
type AuditEntry struct {
	Seq    int64           `json:"seq"`
	At     time.Time       `json:"at"`
	Actor  string          `json:"actor"`
	Event  string          `json:"event"`
	Target string          `json:"target,omitempty"`
	IP     string          `json:"ip,omitempty"`
	Data   json.RawMessage `json:"data"`
}

// AuditReport is what a verification found.
type AuditReport struct {
	OK       bool     `json:"ok"`
	Entries  int64    `json:"entries"`
	Last     int64    `json:"last"`
	Hash     string   `json:"hash"`
	Problems []string `json:"problems"`
	Notes    []string `json:"notes"` // what the log itself tells of breaks
}

// Apps are the applications that sign people in here, and the keys that sign for it.
type Apps interface {
	Apps(ctx context.Context) ([]App, error)
	// CreateApp makes one; its secret is in what it returns, this once. Errors: *Error.
	CreateApp(ctx context.Context, n NewApp) (App, error)
	// AddAppSecret gives a second secret; RemoveAppSecret ends one. Errors: *Error.
	AddAppSecret(ctx context.Context, id string) (App, error)
	RemoveAppSecret(ctx context.Context, id, secret string) error
	// SetAppDisabled switches one off or on, SetAppGroups says who may use it; none:
	// everybody. Errors: *Error.
	SetAppDisabled(ctx context.Context, id string, disabled bool) error
	SetAppGroups(ctx context.Context, id string, groups []string) error
	// SetAppLogout says where an application is told of logouts. Errors: *Error.
	SetAppLogout(ctx context.Context, id string, l AppLogout) error
	RemoveApp(ctx context.Context, id string) error
	Keys(ctx context.Context) ([]Key, error)
	// RotateKey makes the next key, which signs in a day, or at once: then the others are
	// not taken any more.
	RotateKey(ctx context.Context, atOnce bool) error
}

// NewApp asks for an application. URL is where it is.
type NewApp struct {
	Name        string   `json:"name"`
	Template    string   `json:"template"`
	URL         string   `json:"url"`
	Redirects   []string `json:"redirects"`
	Groups      []string `json:"groups"`
	SkipConsent bool     `json:"skip_consent"`
}

// AppLogout is where an application is told that somebody signed out (back-channel
// logout; "": nowhere), and the certificates in PEM that are trusted there ("": those of
// the machine).
type AppLogout struct {
	URL string `json:"url"`
	CA  string `json:"ca"`
}

// App is an application.
type App struct {
	ID        string      `json:"id"`
	Name      string      `json:"name"`
	Template  string      `json:"template"`
	Issuer    string      `json:"issuer"`
	Secret    string      `json:"secret,omitempty"` // only when it is made
	Redirects []string    `json:"redirects"`
	Groups    []string    `json:"groups"`
	Gone      []string    `json:"gone"` // groups that were removed: who was in them may not use it
	Logout    AppLogout   `json:"logout"`
	Disabled  bool        `json:"disabled"`
	Secrets   []AppSecret `json:"secrets"`
	LastUsed  time.Time   `json:"last_used,omitzero"`
}

// AppSecret is a secret of an application, without itself.
type AppSecret struct {
	ID       string    `json:"id"`
	Created  time.Time `json:"created"`
	LastUsed time.Time `json:"last_used,omitzero"`
}

// Key signs ID tokens: it is "next", "signs", or "retired".
type Key struct {
	ID    string    `json:"id"`
	State string    `json:"state"`
	From  time.Time `json:"from"`
}

// Directories are those that people come from.
type Directories interface {
	Directories(ctx context.Context) ([]Directory, error)
	// SetDirectory makes one or changes it. Errors: *Error.
	SetDirectory(ctx context.Context, id string, d DirectorySettings) error
	// TestDirectory reads one and changes nothing. Errors: *Error.
	TestDirectory(ctx context.Context, id string) (DirectoryTest, error)
	// SyncDirectory reads one now; anyway: also where it locks many. Errors: *Error.
	SyncDirectory(ctx context.Context, id string, anyway bool) error
	RemoveDirectory(ctx context.Context, id string) error
}

// Providers are those elsewhere that sign people in here.
type Providers interface {
	Providers(ctx context.Context) ([]Provider, error)
	// SetProvider adds one or changes it. Errors: *Error.
	SetProvider(ctx context.Context, id string, f ProviderForm) error
	// TestProvider asks one now. unheard is as in Provider. Errors: *Error.
	TestProvider(ctx context.Context, id string) (unheard string, err error)
	// ProviderPeople counts the people of one, and those that have no other way in.
	// Errors: *Error.
	ProviderPeople(ctx context.Context, id string) (all, only int, err error)
	// RemoveProvider removes one; people is "keep", "unlink" or "lock". It returns how many
	// were locked. Errors: *Error.
	RemoveProvider(ctx context.Context, id, people string) (locked int, err error)
}

// ProviderSettings are those of a provider. An empty secret leaves the one that is kept.
type ProviderSettings struct {
	Name          string            `json:"name"`
	Issuer        string            `json:"issuer"`
	ClientID      string            `json:"client_id"`
	ClientSecret  string            `json:"client_secret,omitempty"`
	CA            string            `json:"ca"`
	Scopes        []string          `json:"scopes"`
	UserClaim     string            `json:"user_claim"`
	NameClaim     string            `json:"name_claim"`
	NameFollows   bool              `json:"name_follows"`
	MailClaim     string            `json:"mail_claim"`
	MailTrusted   bool              `json:"mail_trusted"`
	MailTaken     bool              `json:"mail_taken"`
	GroupsClaim   string            `json:"groups_claim"`
	Groups        map[string]string `json:"groups"` // there: here
	RequireClaim  string            `json:"require_claim"`
	RequireValues []string          `json:"require_values"`
	Domains       []string          `json:"domains"`
	Closed        bool              `json:"closed"`
	Prompt        string            `json:"prompt"`
	ACRs          []string          `json:"acr_values"`
	RequireACR    bool              `json:"require_acr"`
	RequireMFA    bool              `json:"require_mfa"`
	TrustMFA      bool              `json:"trust_mfa"`
	SignOut       bool              `json:"sign_out"`
	SubjectClaim  string            `json:"subject_claim"` // of SAML; "": the persistent name ID
}

// ProviderForm sets a provider. The issuer of one of SAML is what its metadata say, which
// are given as they are, or by their address, or are those that there are.
type ProviderForm struct {
	ProviderSettings
	Kind        string `json:"kind"` // "openid" or "saml"
	Metadata    string `json:"metadata,omitempty"`
	MetadataURL string `json:"metadata_url,omitempty"`
	EntityID    string `json:"entity_id,omitempty"` // which of several they describe
}

// maxProvider bounds a ProviderForm, in bytes: metadata of 1 MiB in JSON.
const maxProvider = 3 << 20

const providerPath = "/api/console/upstreams/"

// Provider is a provider, and what it answered when it was last asked.
type Provider struct {
	ID       string           `json:"id"`
	Kind     string           `json:"kind"` // "openid" or "saml"
	Settings ProviderSettings `json:"settings"`
	Secret   bool             `json:"secret"`                 // it has one
	Redirect string           `json:"redirect_uri,omitempty"` // of OpenID Connect
	SAML     *ProviderSAML    `json:"saml,omitempty"`
	People   int              `json:"people"`
	Asked    time.Time        `json:"asked,omitzero"` // zero: not since the start
	Down     string           `json:"down,omitempty"` // why it gave no answer then
	// Unheard is why one gave no answer that never gave one, and need not: only browsers
	// go there.
	Unheard string `json:"unheard,omitempty"`
}

// ProviderSAML is what a provider of SAML 2.0 and the appliance know of each other.
type ProviderSAML struct {
	// What the provider has to know. Certificate is PEM.
	Metadata    string `json:"metadata"` // their address, which is also our entity ID
	ACS         string `json:"acs"`
	SLO         string `json:"slo"`
	Certificate string `json:"certificate"`
	// Moved is the address of here that it knows, if that is another now.
	Moved string `json:"moved,omitempty"`
	// What its metadata say: its sign-in page, SHA-256 of its certificates, when the last of
	// them ends, and whether it offers single logout.
	SignIn       string    `json:"sign_in"`
	Fingerprints []string  `json:"fingerprints"`
	Until        time.Time `json:"certificate_until"`
	SingleLogout bool      `json:"single_logout"`
}

// DirectorySettings are how a directory is read. An empty password leaves the one that is
// there.
type DirectorySettings struct {
	Kind        string   `json:"kind"` // "ldap" or "ad"
	URLs        []string `json:"urls"`
	BaseDN      string   `json:"base_dn"`
	BindDN      string   `json:"bind_dn"`
	Password    string   `json:"password,omitempty"`
	CA          string   `json:"ca"`
	UserFilter  string   `json:"user_filter"`
	GroupFilter string   `json:"group_filter"`
	Everyone    bool     `json:"everyone"`
	// Names, Pictures and Mail follow the directory, by these attributes. An empty one is
	// what suits the kind.
	Names       bool   `json:"names"`
	Pictures    bool   `json:"pictures"`
	Mail        bool   `json:"mail"`
	FullAttr    string `json:"full_attr"`
	MailAttr    string `json:"mail_attr"`
	PictureAttr string `json:"picture_attr"`
}

// Directory is a directory and how its last reading went.
type Directory struct {
	ID       string            `json:"id"`
	Settings DirectorySettings `json:"settings"`
	Synced   time.Time         `json:"synced,omitzero"`
	People   int               `json:"people"`
	Accounts int               `json:"accounts"`
	Made     []string          `json:"made"`
	Locked   []string          `json:"locked"` // with Alarm: those that would be
	Unlocked []string          `json:"unlocked"`
	Taken    []string          `json:"taken"`
	// GroupsRenamed are groups that have another name now, GroupsTaken those whose name
	// another group has, MailTaken people whose address another account has, and
	// PicturesLeft people whose picture is not taken, with the reason.
	GroupsRenamed []string `json:"groups_renamed"`
	GroupsTaken   []string `json:"groups_taken"`
	MailTaken     []string `json:"mail_taken"`
	PicturesLeft  []string `json:"pictures_left"`
	Alarm         bool     `json:"alarm"`
	Error         string   `json:"error,omitempty"`
	Down          string   `json:"down,omitempty"`
}

// DirectoryTest is what a test reading found.
type DirectoryTest struct {
	People int               `json:"people"`
	Groups int               `json:"groups"`
	First  []DirectoryPerson `json:"first"` // a few, to look at
}

// DirectoryPerson is somebody as a test reading shows them.
type DirectoryPerson struct {
	Name    string   `json:"name"`
	Full    string   `json:"full_name"`
	Mail    string   `json:"mail"`
	Picture string   `json:"picture"` // what it is, or why it is not taken; "": none
	Groups  []string `json:"groups"`
}

// auditTimeout ends an export that nobody fetches.
const auditTimeout = 10 * time.Minute

func auditQuery(q url.Values) (f AuditFilter, err error) {
	bad := func(field string) error {
		return &Error{Code: "bad_filter", Field: field, Message: fmt.Sprintf("%s cannot be understood. A time is written as 2026-11-29T08:00:00Z.", field)}
	}
	f = AuditFilter{Actor: q.Get("actor"), Target: q.Get("target"), Event: q.Get("event")}
	if v := q.Get("since"); v != "" {
		if f.Since, err = time.Parse(time.RFC3339, v); err != nil {
			return f, bad("since")
		}
	}
	if v := q.Get("until"); v != "" {
		if f.Until, err = time.Parse(time.RFC3339, v); err != nil {
			return f, bad("until")
		}
	}
	if v := q.Get("before"); v != "" {
		if f.Before, err = strconv.ParseInt(v, 10, 64); err != nil || f.Before < 1 {
			return f, bad("before")
		}
	}
	return f, nil
}

func (s *Server) accessRoutes(handle func(pattern string, f func(r *http.Request, admin string) (any, error)), raw func(pattern string, f func(w http.ResponseWriter, r *http.Request) error)) {
	// What somebody may use without a name, since it may be anything, is in the body.
	handle("GET /api/console/audit", func(r *http.Request, _ string) (any, error) {
		f, err := auditQuery(r.URL.Query())
		if err != nil {
			return nil, err
		}
		return s.Audit.AuditLog(r.Context(), f)
	})
	handle("GET /api/console/audit/verify", func(r *http.Request, _ string) (any, error) { return s.Audit.VerifyAudit(r.Context()) })
	raw("GET /api/console/audit/export", func(w http.ResponseWriter, r *http.Request) error {
		f, err := auditQuery(r.URL.Query())
		if err != nil {
			return err
		}
		asCSV := r.URL.Query().Get("format") == "csv"
		kind, name := "application/jsonl", "audit.jsonl"
		if asCSV {
			kind, name = "text/csv; charset=utf-8", "audit.csv"
		}
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(auditTimeout))
		if err := s.Audit.ExportAudit(r.Context(), w, f, asCSV); err != nil {
			s.Log.Error("the audit log could not be exported", "err", err)
			panic(http.ErrAbortHandler) // whoever saves it must not take it for whole
		}
		return nil
	})

	handle("GET /api/console/apps", func(r *http.Request, _ string) (any, error) { return s.Apps.Apps(r.Context()) })
	handle("POST /api/console/apps", func(r *http.Request, _ string) (any, error) {
		var in NewApp
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return s.Apps.CreateApp(r.Context(), in)
	})
	handle("DELETE /api/console/apps/{id}", func(r *http.Request, _ string) (any, error) {
		return struct{}{}, s.Apps.RemoveApp(r.Context(), r.PathValue("id"))
	})
	handle("POST /api/console/apps/{id}/secrets", func(r *http.Request, _ string) (any, error) {
		return s.Apps.AddAppSecret(r.Context(), r.PathValue("id"))
	})
	handle("DELETE /api/console/apps/{id}/secrets/{secret}", func(r *http.Request, _ string) (any, error) {
		return struct{}{}, s.Apps.RemoveAppSecret(r.Context(), r.PathValue("id"), r.PathValue("secret"))
	})
	handle("POST /api/console/apps/{id}/disabled", func(r *http.Request, _ string) (any, error) {
		var in struct {
			Disabled bool `json:"disabled"`
		}
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, s.Apps.SetAppDisabled(r.Context(), r.PathValue("id"), in.Disabled)
	})
	handle("PUT /api/console/apps/{id}/groups", func(r *http.Request, _ string) (any, error) {
		var in struct {
			Groups []string `json:"groups"`
		}
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, s.Apps.SetAppGroups(r.Context(), r.PathValue("id"), in.Groups)
	})
	handle("PUT /api/console/apps/{id}/logout", func(r *http.Request, _ string) (any, error) {
		var in AppLogout
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, s.Apps.SetAppLogout(r.Context(), r.PathValue("id"), in)
	})
	handle("GET /api/console/keys", func(r *http.Request, _ string) (any, error) { return s.Apps.Keys(r.Context()) })
	handle("POST /api/console/keys/rotate", func(r *http.Request, _ string) (any, error) {
		var in struct {
			AtOnce bool `json:"at_once"`
		}
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, s.Apps.RotateKey(r.Context(), in.AtOnce)
	})

	handle("GET /api/console/directories", func(r *http.Request, _ string) (any, error) {
		return s.Directories.Directories(r.Context())
	})
	handle("PUT /api/console/directories/{id}", func(r *http.Request, _ string) (any, error) {
		var in DirectorySettings
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, s.Directories.SetDirectory(r.Context(), r.PathValue("id"), in)
	})
	handle("DELETE /api/console/directories/{id}", func(r *http.Request, _ string) (any, error) {
		return struct{}{}, s.Directories.RemoveDirectory(r.Context(), r.PathValue("id"))
	})
	handle("POST /api/console/directories/{id}/test", func(r *http.Request, _ string) (any, error) {
		return s.Directories.TestDirectory(r.Context(), r.PathValue("id"))
	})
	handle("POST /api/console/directories/{id}/sync", func(r *http.Request, _ string) (any, error) {
		var in struct {
			Anyway bool `json:"anyway"`
		}
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, s.Directories.SyncDirectory(r.Context(), r.PathValue("id"), in.Anyway)
	})

	handle("GET /api/console/upstreams", func(r *http.Request, _ string) (any, error) {
		return s.Providers.Providers(r.Context())
	})
	handle("PUT "+providerPath+"{id}", func(r *http.Request, _ string) (any, error) {
		var in ProviderForm
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, s.Providers.SetProvider(r.Context(), r.PathValue("id"), in)
	})
	handle("POST /api/console/upstreams/{id}/test", func(r *http.Request, _ string) (any, error) {
		unheard, err := s.Providers.TestProvider(r.Context(), r.PathValue("id"))
		return map[string]string{"unheard": unheard}, err
	})
	handle("GET /api/console/upstreams/{id}/people", func(r *http.Request, _ string) (any, error) {
		all, only, err := s.Providers.ProviderPeople(r.Context(), r.PathValue("id"))
		return map[string]int{"people": all, "only": only}, err
	})
	handle("POST /api/console/upstreams/{id}/remove", func(r *http.Request, _ string) (any, error) {
		var in struct {
			People string `json:"people"`
		}
		if err := decode(r, &in); err != nil {
			return nil, err
		}
		n, err := s.Providers.RemoveProvider(r.Context(), r.PathValue("id"), in.People)
		return map[string]int{"locked": n}, err
	})
}
