package register

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	jose "github.com/go-jose/go-jose/v4"

	"holdfast/identity/account"
	"holdfast/identity/trust"
	"holdfast/store"
	"holdfast/store/audit"
)

// This file has the applications that an administrator made: clients with a secret
// or a key, which other programs of the site sign people in with.

// Errors of applications that callers may test for.
var (
	ErrSecrets  = errors.New("identity: an application has two secrets at most")
	ErrNoSecret = errors.New("identity: the application has no such secret")
	ErrPublic   = errors.New("identity: the application does not prove itself by a secret")
)

// Ways in which an application proves itself.
const (
	AuthSecret = "client_secret" // by header or in the body, whichever it prefers
	AuthBasic  = "client_secret_basic"
	AuthPost   = "client_secret_post"
	AuthKey    = "private_key_jwt"
	AuthNone   = "none"
)

// Bounds of applications.
const (
	maxApps    = 500
	maxKeys    = 10
	maxGroups  = 100
	maxSecrets = 2
)

// AppScopes are the scopes that an application may be allowed. The Matrix API is not
// among them: a token of another application is never good for it.
var AppScopes = []string{"openid", "profile", "email", "groups", "offline_access", "phone", "address"}

// AppConfig is what an administrator says about an application.
type AppConfig struct {
	Template     string   `json:"template"`
	Name         string   `json:"name"`
	HomeURI      string   `json:"home_uri,omitempty"`
	RedirectURIs []string `json:"redirect_uris"`
	LogoutURIs   []string `json:"post_logout_redirect_uris,omitempty"`
	// BackchannelURI is told when somebody's sign-in ends.
	BackchannelURI string `json:"backchannel_logout_uri,omitempty"`
	// CA are certificates in PEM: those and no others are trusted at BackchannelURI. "": those
	// of the machine.
	CA     string          `json:"ca,omitempty"`
	Auth   string          `json:"auth_method"`
	JWKS   json.RawMessage `json:"jwks,omitempty"` // public keys, for private_key_jwt
	Scopes []string        `json:"scopes"`
	// WithoutPKCE lets an application with a secret or key leave PKCE out.
	WithoutPKCE bool `json:"without_pkce,omitempty"`
	Device      bool `json:"device_grant,omitempty"`
	// Pairwise gives the application subjects that no other application knows people by.
	Pairwise bool `json:"pairwise,omitempty"`
	// SkipConsent asks nobody whether the application may know them.
	SkipConsent bool `json:"skip_consent,omitempty"`
	// IntrospectAll lets it ask about tokens of all applications, as an API gateway must.
	IntrospectAll bool `json:"introspect_all,omitempty"`
	// MadeUpEmail gives people without an e-mail address one that leads nowhere, for
	// applications that insist on it.
	MadeUpEmail bool `json:"made_up_email,omitempty"`
	// Groups are the names of those whose people may use it, where it is made or changed;
	// none: everybody. App.Access has them afterwards. ChangeApp takes nil for those of before.
	Groups []string `json:"-"`
}

// Access is a group whose people may use an application. It is known by its ULID, so that
// it stays the same under another name, and no other group of its name is taken for it.
type Access struct {
	GroupID string
	Name    string // as it is now, or was when it was removed
	Gone    bool   // it was removed: nobody comes in by it
}

// App is an application that an administrator made.
type App struct {
	ID string
	AppConfig
	Disabled  bool
	Created   time.Time
	CreatedBy string
	LastUsed  time.Time // zero: never
	Secrets   []Secret  // without the secrets themselves
	// Access are the groups whose people may use it. None: everybody. Where all are gone,
	// nobody may.
	Access []Access
	keys   jose.JSONWebKeySet
}

// Secret is one of an application's secrets, without itself.
type Secret struct {
	ID       string
	Created  time.Time
	LastUsed time.Time // zero: never
}

// Confidential reports whether the application proves itself.
func (a *App) Confidential() bool { return a.Auth != AuthNone }

// Admits reports whether the people of a group, by its ULID, may use an application that
// is not for everybody.
func (a *App) Admits(groupID string) bool {
	return slices.ContainsFunc(a.Access, func(x Access) bool { return !x.Gone && x.GroupID == groupID })
}

func hasSecret(auth string) bool { return auth == AuthSecret || auth == AuthBasic || auth == AuthPost }

// Templates are kinds of applications, with what is particular about each.
var Templates = []string{"generic", "nextcloud", "grafana", "gitea", "jitsi", "public"}

// FromTemplate is how an application of a kind is set up that is reached at a base
// address, as https://cloud.example.org. Errors: *Error.
func FromTemplate(template, name, base string) (AppConfig, error) {
	c := AppConfig{Template: template, Name: name, HomeURI: base, Auth: AuthSecret, Scopes: []string{"openid", "profile", "email", "groups", "offline_access"}}
	b := strings.TrimRight(base, "/")
	need := func() error {
		if base == "" {
			return badMetadata("The template %s needs the address of the application, such as https://%s.example.org.", template, template)
		}
		u, err := homeURI(base)
		if err == nil && (u.RawQuery != "" || u.ForceQuery) {
			err = badMetadata("The address of the application must end before the question mark.")
		}
		return err
	}
	switch template {
	case "generic":
		return c, nil
	case "public":
		c.Auth = AuthNone
		return c, nil
	case "nextcloud": // the app user_oidc
		c.RedirectURIs = []string{b + "/apps/user_oidc/code", b + "/index.php/apps/user_oidc/code"}
		c.LogoutURIs = []string{b, b + "/", b + "/index.php/"}
		c.BackchannelURI = b + "/index.php/apps/user_oidc/backchannel-logout/Holdfast" // by the name of the provider there
	case "grafana":
		c.RedirectURIs = []string{b + "/login/generic_oauth"}
		c.LogoutURIs = []string{b + "/login"}
		c.WithoutPKCE, c.MadeUpEmail = true, true
	case "gitea":
		c.RedirectURIs = []string{b + "/user/oauth2/Holdfast/callback"} // by the name of the source there
		c.LogoutURIs = []string{b + "/"}
		c.WithoutPKCE, c.MadeUpEmail = true, true
	case "jitsi": // the adapter jitsi-oidc-adapter or an equal one
		c.RedirectURIs = []string{b + "/oidc/tokenize", b + "/oidc/callback"}
		c.WithoutPKCE, c.MadeUpEmail = true, true
		c.Scopes = []string{"openid", "profile", "email"}
	default:
		return c, badMetadata("There is no template %.40q. There are: %s.", template, strings.Join(Templates, ", "))
	}
	return c, need()
}

// homeURI parses an address of an application on the site: http is taken as well,
// since a test machine or one behind a tunnel may have no certificate.
func homeURI(s string) (*url.URL, error) {
	if err := plainURI(s); err != nil {
		return nil, badMetadata("The address %v.", err)
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || u.Opaque != "" {
		return nil, badMetadata("An address must begin with https:// (or http://), have a host, and no user name or password.")
	}
	return u, nil
}

// checkAppRedirect checks a redirect URI that an administrator typed. Plain http is
// for addresses of a private network or this machine only: over the Internet the code
// would be read on the way.
func checkAppRedirect(s string) error {
	if err := plainURI(s); err != nil {
		return badRedirect("A redirect URI %v.", err)
	}
	scheme, rest, _ := strings.Cut(s, ":")
	switch scheme {
	case "https", "http":
		u, err := homeURI(s)
		if err != nil {
			return badRedirect("A redirect URI must be an https address with a host, and without a user name or password.")
		}
		if scheme == "http" && !onSite(u.Hostname()) {
			return badRedirect("The redirect URI %s must begin with https://: http is for addresses of a private network.", s)
		}
		return nil
	case "javascript", "data", "vbscript", "file", "blob", "about":
		return badRedirect("The scheme %s: is not taken.", scheme)
	}
	// Of a program on people's own machines, as RFC 8252 section 7.1 has it.
	if !validScheme(scheme) || !strings.Contains(scheme, ".") || strings.HasPrefix(rest, "//") {
		return badRedirect("A redirect URI must begin with https://, or with a scheme such as org.example.app:/ for a program.")
	}
	return nil
}

// onSite reports whether a host can only be on the site: a private address, this
// machine, a name without dots or one below a top level that the Internet has not.
func onSite(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast()
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if !strings.Contains(host, ".") {
		return host != ""
	}
	for _, top := range []string{".local", ".internal", ".lan", ".home.arpa", ".test", ".localhost", ".intranet", ".corp"} {
		if strings.HasSuffix(host, top) {
			return true
		}
	}
	return false
}

// check validates a configuration and puts it in order. Errors: *Error.
func (c *AppConfig) check() (keys jose.JSONWebKeySet, err error) {
	if c.Name = strings.TrimSpace(c.Name); c.Name == "" || !utf8.ValidString(c.Name) || len(c.Name) > maxName || strings.ContainsFunc(c.Name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return keys, badMetadata("The name must be plain text of 1 to %d bytes.", maxName)
	}
	if !slices.Contains(Templates, c.Template) {
		return keys, badMetadata("There is no template %.40q. There are: %s.", c.Template, strings.Join(Templates, ", "))
	}
	if c.HomeURI != "" {
		if _, err := homeURI(c.HomeURI); err != nil {
			return keys, err
		}
	}
	c.RedirectURIs = slices.Compact(slices.Sorted(slices.Values(c.RedirectURIs)))
	c.LogoutURIs = slices.Compact(slices.Sorted(slices.Values(c.LogoutURIs)))
	if len(c.RedirectURIs) == 0 && !c.Device || len(c.RedirectURIs) > maxRedirects || len(c.LogoutURIs) > maxRedirects {
		return keys, badRedirect("Between 1 and %d redirect URIs are needed.", maxRedirects)
	}
	for _, u := range slices.Concat(c.RedirectURIs, c.LogoutURIs) {
		if err := checkAppRedirect(u); err != nil {
			return keys, err
		}
	}
	if c.BackchannelURI != "" {
		if _, err := homeURI(c.BackchannelURI); err != nil {
			return keys, err
		}
		if err := checkAppRedirect(c.BackchannelURI); err != nil {
			return keys, err
		}
	}
	if c.CA = strings.TrimSpace(c.CA); c.CA != "" {
		if !strings.HasPrefix(c.BackchannelURI, "https://") {
			return keys, badMetadata("A certificate authority is for the address where the application is told of logouts, and that does not begin with https://. Name one, or leave the certificate authority out.")
		}
		if _, err := trust.Pool(c.CA); err != nil {
			return keys, badMetadata("About the certificate authority of the application: %v.", err)
		}
	}
	switch c.Auth {
	case AuthSecret, AuthBasic, AuthPost:
		c.JWKS = nil
	case AuthNone:
		c.JWKS = nil
		if c.WithoutPKCE {
			return keys, badMetadata("An application without a secret cannot leave PKCE out.")
		}
		if c.IntrospectAll {
			return keys, badMetadata("An application without a secret cannot ask about tokens.")
		}
	case AuthKey:
		if keys, err = parseJWKS(c.JWKS); err != nil {
			return keys, err
		}
	default:
		return keys, badMetadata("The authentication method must be one of client_secret, client_secret_basic, client_secret_post, private_key_jwt and none.")
	}
	if !slices.Contains(c.Scopes, "openid") {
		c.Scopes = append([]string{"openid"}, c.Scopes...)
	}
	for _, s := range c.Scopes {
		if !slices.Contains(AppScopes, s) {
			return keys, badMetadata("The scope %.60q cannot be allowed. There are: %s.", s, strings.Join(AppScopes, ", "))
		}
	}
	c.Scopes = slices.Compact(slices.Sorted(slices.Values(c.Scopes)))
	return keys, nil
}

// parseJWKS reads public keys for signatures. Private and shared ones are refused,
// so that nobody keeps them here. Errors: *Error.
func parseJWKS(raw json.RawMessage) (keys jose.JSONWebKeySet, err error) {
	if len(raw) == 0 || len(raw) > MaxBody || !bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) || json.Unmarshal(raw, &keys) != nil || len(keys.Keys) == 0 || len(keys.Keys) > maxKeys {
		return keys, badMetadata("jwks must be a JSON Web Key Set with 1 to %d keys; an address of one is not fetched.", maxKeys)
	}
	for _, k := range keys.Keys {
		switch p := k.Key.(type) {
		case *rsa.PublicKey:
			if p.N.BitLen() < 2048 {
				return keys, badMetadata("An RSA key in jwks must have at least 2048 bits.")
			}
		case *ecdsa.PublicKey:
		default:
			return keys, badMetadata("jwks must have public RSA or EC keys only. Keep the private key to the application.")
		}
		if k.Use != "" && k.Use != "sig" {
			return keys, badMetadata("The keys in jwks must be for signatures.")
		}
	}
	return keys, nil
}

const (
	insertApp     = `INSERT INTO id_apps (id, config, disabled, created, created_by, last_used) VALUES ($1, $2, 0, $3, $4, 0)`
	countApps     = `SELECT count(*) FROM id_apps`
	selectApp     = `SELECT id, config, disabled, created, created_by, last_used FROM id_apps WHERE id = $1`
	selectApps    = `SELECT id, config, disabled, created, created_by, last_used FROM id_apps ORDER BY created`
	updateApp     = `UPDATE id_apps SET config = $2, disabled = $3 WHERE id = $1`
	deleteApp     = `DELETE FROM id_apps WHERE id = $1`
	touchApp      = `UPDATE id_apps SET last_used = $2 WHERE id = $1`
	insertSecret  = `INSERT INTO id_app_secrets (app_id, id, hash, created, last_used) VALUES ($1, $2, $3, $4, 0)`
	selectSecrets = `SELECT id, hash, created, last_used FROM id_app_secrets WHERE app_id = $1 ORDER BY created, id`
	deleteSecret  = `DELETE FROM id_app_secrets WHERE app_id = $1 AND id = $2`
	dropSecrets   = `DELETE FROM id_app_secrets WHERE app_id = $1`
	insertAccess  = `INSERT INTO id_app_groups (app_id, group_id, gone) VALUES ($1, $2, '') ON CONFLICT DO NOTHING`
	selectAccess  = `SELECT group_id, gone FROM id_app_groups WHERE app_id = $1 ORDER BY group_id`
	selectByGroup = `SELECT app_id FROM id_app_groups WHERE group_id = $1 AND gone = '' ORDER BY app_id`
	dropAccess    = `DELETE FROM id_app_groups WHERE app_id = $1`
	goneAccess    = `UPDATE id_app_groups SET gone = $2 WHERE group_id = $1`
	touchSecret   = `UPDATE id_app_secrets SET last_used = $3 WHERE app_id = $1 AND id = $2`
)

// CreateApp makes an application. Its secret is returned once; "" for one without.
// Errors: *Error, ErrFull.
func (g *Registry) CreateApp(ctx context.Context, c AppConfig, by string) (a *App, secret string, err error) {
	keys, err := c.check()
	if err != nil {
		return nil, "", err
	}
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, "", err
	}
	now := g.Now()
	a = &App{ID: account.NewULID(now), AppConfig: c, Created: now, CreatedBy: by, keys: keys}
	err = g.DB.Write(ctx, func(tx *store.Tx) error {
		var n int
		if err := tx.QueryRow(countApps).Scan(&n); err != nil {
			return err
		}
		if n >= maxApps {
			return ErrFull
		}
		if _, err := tx.Exec(insertApp, a.ID, string(raw), now.UnixMilli(), by); err != nil {
			return err
		}
		if err := g.setAccess(tx, a, c.Groups); err != nil {
			return err
		}
		if hasSecret(c.Auth) {
			if secret, err = g.addSecret(tx, a); err != nil {
				return err
			}
		}
		return g.note(tx, "app.create", a, a.noted())
	})
	return a, secret, err
}

// note has in the audit log what happened to an application.
func (g *Registry) note(tx *store.Tx, event string, a *App, d audit.Data) error {
	if a.Name != "" {
		if d == nil {
			d = audit.Data{}
		}
		d["name"] = a.Name
	}
	return g.Audit.Tx(tx.Context(), tx, audit.Event{Name: event, Target: a.ID, Data: d})
}

// noted is how an application is set up, as far as it decides who gets to know what.
func (a *App) noted() audit.Data {
	groups := []string{}
	for _, x := range a.Access {
		if !x.Gone {
			groups = append(groups, x.Name)
		}
	}
	return audit.Data{"redirects": a.RedirectURIs, "groups": groups, "for_all": len(a.Access) == 0, "scopes": a.Scopes, "auth": a.Auth, "disabled": a.Disabled,
		"skip_consent": a.SkipConsent, "introspect_all": a.IntrospectAll, "logout": a.BackchannelURI, "own_ca": a.CA != ""}
}

func (g *Registry) addSecret(tx *store.Tx, a *App) (string, error) {
	b := make([]byte, 32)
	rand.Read(b)
	secret := "hcs_" + base64.RawURLEncoding.EncodeToString(b)
	x := Secret{ID: account.NewULID(g.Now()), Created: g.Now()}
	a.Secrets = append(a.Secrets, x)
	_, err := tx.Exec(insertSecret, a.ID, x.ID, account.Hash(secret), x.Created.UnixMilli())
	return secret, err
}

// ChangeApp changes an application's configuration or switches it off or on.
// change runs in the transaction. Errors: ErrNoClient, *Error, change's.
func (g *Registry) ChangeApp(tx *store.Tx, id string, change func(*App) error) (*App, error) {
	a, err := g.LoadApp(tx, id)
	if err == nil {
		err = g.loadAccess(tx, a)
	}
	if err != nil {
		return nil, err
	}
	had := a.Auth
	if err := change(a); err != nil {
		return nil, err
	}
	if hasSecret(had) != hasSecret(a.Auth) || (had == AuthNone) != (a.Auth == AuthNone) {
		return nil, badMetadata("How an application proves itself cannot be changed between secrets, keys and nothing. Make another application.")
	}
	if a.keys, err = a.check(); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(a.AppConfig)
	if err != nil {
		return nil, err
	}
	off := 0
	if a.Disabled {
		off = 1
	}
	if _, err = tx.Exec(updateApp, id, string(raw), off); err != nil {
		return nil, err
	}
	if a.Groups != nil {
		if err := g.setAccess(tx, a, a.Groups); err != nil {
			return nil, err
		}
	}
	return a, g.note(tx, "app.change", a, a.noted())
}

// setAccess makes the groups whose people may use an application exactly these.
func (g *Registry) setAccess(tx *store.Tx, a *App, names []string) error {
	if len(names) > maxGroups {
		return badMetadata("An application can be for %d groups at most.", maxGroups)
	}
	if _, err := tx.Exec(dropAccess, a.ID); err != nil {
		return err
	}
	for _, n := range names {
		x, err := g.Accounts.LoadGroup(tx, n)
		if errors.Is(err, account.ErrNoGroup) {
			return badMetadata("There is no group %.100q here. Make it first; a directory's is there once somebody in it came in.", n)
		}
		if err != nil {
			return err
		}
		if _, err := tx.Exec(insertAccess, a.ID, x.ID); err != nil {
			return err
		}
	}
	return g.loadAccess(tx, a)
}

// loadAccess loads the groups whose people may use an application, with their names, by name.
func (g *Registry) loadAccess(q store.Querier, a *App) error {
	if err := loadAccessIDs(q, a); err != nil {
		return err
	}
	for i, x := range a.Access {
		if x.Gone {
			continue
		}
		name, err := g.Accounts.GroupName(q, x.GroupID)
		if errors.Is(err, store.ErrNotFound) {
			name, err, a.Access[i].Gone = x.GroupID, nil, true
		}
		if err != nil {
			return err
		}
		a.Access[i].Name = name
	}
	slices.SortFunc(a.Access, func(x, y Access) int { return strings.Compare(x.Name, y.Name) })
	return nil
}

// loadAccessIDs is loadAccess without the names of groups that there are: it is enough for
// who may come in.
func loadAccessIDs(q store.Querier, a *App) error {
	rows, err := q.Query(selectAccess, a.ID)
	if err != nil {
		return err
	}
	defer rows.Close()
	a.Access = nil
	for rows.Next() {
		var x Access
		if err := rows.Scan(&x.GroupID, &x.Name); err != nil {
			return err
		}
		x.Gone = x.Name != ""
		a.Access = append(a.Access, x)
	}
	return rows.Err()
}

// GroupGoneTx notes that a group is being removed, and returns the applications that its
// people could use through it. The note keeps an application that was for it alone from
// being everybody's.
func (g *Registry) GroupGoneTx(tx *store.Tx, group account.Group) (ids []string, err error) {
	rows, err := tx.Query(selectByGroup, group.ID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	rows.Close()
	if _, err := tx.Exec(goneAccess, group.ID, group.Name); err != nil {
		return nil, err
	}
	for _, id := range ids {
		a, err := g.LoadApp(tx, id)
		if err == nil {
			err = g.loadAccess(tx, a)
		}
		if err == nil {
			d := a.noted()
			d["group_removed"] = group.Name
			err = g.note(tx, "app.change", a, d)
		}
		if err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// DeleteAppTx removes an application. Errors: ErrNoClient.
func (g *Registry) DeleteAppTx(tx *store.Tx, id string) error {
	n, err := tx.Exec(deleteApp, id)
	if err == nil && n == 0 {
		return ErrNoClient
	}
	if err == nil {
		_, err = tx.Exec(dropSecrets, id)
	}
	if err == nil {
		_, err = tx.Exec(dropAccess, id)
	}
	if err != nil {
		return err
	}
	return g.note(tx, "app.delete", &App{ID: id}, nil)
}

// AddSecret gives an application a second secret, which is returned once.
// Errors: ErrNoClient, ErrSecrets, ErrPublic.
func (g *Registry) AddSecret(ctx context.Context, id string) (secret string, err error) {
	err = g.DB.Write(ctx, func(tx *store.Tx) error {
		a, err := g.LoadApp(tx, id)
		if err != nil {
			return err
		}
		if !hasSecret(a.Auth) {
			return ErrPublic
		}
		if len(a.Secrets) >= maxSecrets {
			return ErrSecrets
		}
		if secret, err = g.addSecret(tx, a); err != nil {
			return err
		}
		return g.note(tx, "app.secret.add", a, audit.Data{"secret": a.Secrets[len(a.Secrets)-1].ID})
	})
	return secret, err
}

// DeleteSecret makes a secret useless. Errors: ErrNoSecret.
func (g *Registry) DeleteSecret(ctx context.Context, id, secretID string) error {
	return g.DB.Write(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(deleteSecret, id, secretID)
		if err == nil && n == 0 {
			err = ErrNoSecret
		}
		if err != nil {
			return err
		}
		return g.note(tx, "app.secret.remove", &App{ID: id}, audit.Data{"secret": secretID})
	})
}

func scanApp(scan func(...any) error) (*App, error) {
	a := &App{}
	var raw string
	var off, created, used int64
	if err := scan(&a.ID, &raw, &off, &created, &a.CreatedBy, &used); err != nil {
		return nil, err
	}
	a.Disabled, a.Created = off != 0, time.UnixMilli(created)
	if used != 0 {
		a.LastUsed = time.UnixMilli(used)
	}
	if err := json.Unmarshal([]byte(raw), &a.AppConfig); err != nil {
		return nil, err
	}
	if a.Auth == AuthKey {
		if err := json.Unmarshal(a.JWKS, &a.keys); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (g *Registry) loadSecrets(q store.Querier, a *App) (hashes [][]byte, err error) {
	rows, err := q.Query(selectSecrets, a.ID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var x Secret
		var h []byte
		var created, used int64
		if err := rows.Scan(&x.ID, &h, &created, &used); err != nil {
			return nil, err
		}
		x.Created = time.UnixMilli(created)
		if used != 0 {
			x.LastUsed = time.UnixMilli(used)
		}
		a.Secrets, hashes = append(a.Secrets, x), append(hashes, h)
	}
	return hashes, rows.Err()
}

// LoadApp finds an application that an administrator made. Errors: ErrNoClient.
func (g *Registry) LoadApp(q store.Querier, id string) (*App, error) {
	a, err := scanApp(q.QueryRow(selectApp, id).Scan)
	if errors.Is(err, store.ErrNotFound) {
		err = ErrNoClient
	}
	if err != nil {
		return nil, err
	}
	if _, err = g.loadSecrets(q, a); err != nil {
		return nil, err
	}
	return a, loadAccessIDs(q, a)
}

func loadApps(q store.Querier) (out []*App, err error) {
	rows, err := q.Query(selectApps)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		a, err := scanApp(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, rows.Err()
}

// Apps lists the applications that administrators made.
func (g *Registry) Apps(ctx context.Context) (out []*App, err error) {
	err = g.DB.Read(ctx, func(q store.Querier) error {
		if out, err = loadApps(q); err != nil {
			return err
		}
		for _, a := range out {
			if _, err := g.loadSecrets(q, a); err != nil {
				return err
			}
			if err := g.loadAccess(q, a); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// CheckSecret reports whether a secret is one of the application's.
func (g *Registry) CheckSecret(ctx context.Context, id, secret string) (ok bool, err error) {
	if len(secret) > 512 {
		return false, nil
	}
	h := account.Hash(secret)
	var used string
	err = g.DB.Read(ctx, func(q store.Querier) error {
		a := &App{ID: id}
		hashes, err := g.loadSecrets(q, a)
		for i, x := range hashes {
			if subtle.ConstantTimeCompare(x, h) == 1 {
				ok = true
				if g.Now().Sub(a.Secrets[i].LastUsed) >= touchPeriod {
					used = a.Secrets[i].ID
				}
			}
		}
		return err
	})
	if err != nil || used == "" {
		return ok, err
	}
	return true, g.DB.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(touchSecret, id, used, g.Now().UnixMilli())
		return err
	})
}

// Key is the key of the application with an ID, or its only one where no ID is named.
func (a *App) Key(kid string) (*jose.JSONWebKey, error) {
	for i, k := range a.keys.Keys {
		if k.KeyID == kid || kid == "" && len(a.keys.Keys) == 1 {
			return &a.keys.Keys[i], nil
		}
	}
	return nil, fmt.Errorf("the application has no key %.40q", kid)
}

// client is the application as the provider sees it.
func (a *App) client() *Client {
	m := Metadata{ClientName: a.Name, ClientURI: a.HomeURI, RedirectURIs: a.RedirectURIs, PostLogoutRedirectURIs: a.LogoutURIs,
		ApplicationType: "web", GrantTypes: []string{"authorization_code", "refresh_token"}, ResponseTypes: []string{"code"}, TokenEndpointAuthMethod: a.Auth}
	if a.Auth == AuthNone {
		m.ApplicationType = "native" // its loopback ports are free
	}
	if a.Device {
		m.GrantTypes = append(m.GrantTypes, DeviceGrant)
	}
	c := &Client{ID: a.ID, Metadata: m, App: a}
	if !a.LastUsed.IsZero() {
		c.lastUsed = a.LastUsed.UnixMilli()
	}
	return c
}
