// Package register keeps the applications that may ask for a sign-in: those that
// registered themselves (RFC 7591), those that administrators made, and the
// appliance's own web client.
//
// Invariants: a redirect URI is compared byte for byte, only the port of a
// loopback address is free; secrets are kept as SHA-256, two at most; an application
// that is for some groups knows them by their IDs, and where they are removed it is for
// nobody, never for everybody; the same registration gives the same client; nothing a
// client that registered itself names is ever fetched; clients without a session are the
// first to go when there are too many.
package register

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"holdfast/identity/account"
	"holdfast/store"
	"holdfast/store/audit"
)

// FirstParty is the client ID of the appliance's own web client. It is trusted:
// nobody is asked whether it may act for them.
const FirstParty = "holdfast-web"

// Errors that callers may test for.
var (
	ErrNoClient = errors.New("identity: no such client")
	ErrFull     = errors.New("identity: too many clients are registered")
)

// Bounds of the registry.
const (
	maxClients  = 2000             // registered by themselves
	gcBatch     = 500              // removed at a time
	freshFor    = 10 * time.Minute // a client without a session is kept at least so long
	touchPeriod = 24 * time.Hour   // last_used is this exact
)

// Options of New.
type Options struct {
	DB  *store.DB
	Now func() time.Time
	// Live reports which of the clients have sessions that are alive.
	Live func(q store.Querier) (map[string]bool, error)
	// Origins are those at which the first-party client may be served.
	Origins func() []string
	// MaxClients overrides how many registered clients are kept. 0: 2000.
	MaxClients int
	Audit      *audit.Log // nil: nothing is noted
	// Accounts know the groups whose people may use an application.
	Accounts *account.Accounts
}

// Registry keeps the clients.
type Registry struct{ Options }

// New prepares the registry.
func New(o Options) *Registry {
	if o.MaxClients == 0 {
		o.MaxClients = maxClients
	}
	return &Registry{o}
}

// Create registers a client, or finds the one with the same metadata. Errors: ErrFull.
func (g *Registry) Create(ctx context.Context, m Metadata) (*Client, error) {
	// Order and repetition do not make another client.
	m.RedirectURIs = slices.Compact(slices.Sorted(slices.Values(m.RedirectURIs)))
	m.PostLogoutRedirectURIs = slices.Compact(slices.Sorted(slices.Values(m.PostLogoutRedirectURIs)))
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(raw)
	c := &Client{ID: account.NewULID(g.Now()), Metadata: m}
	err = g.DB.Write(ctx, func(tx *store.Tx) error {
		err := tx.QueryRow(selectByDigest, digest[:]).Scan(&c.ID)
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err := g.makeRoom(tx); err != nil {
			return err
		}
		_, err = tx.Exec(insertClient, c.ID, digest[:], string(raw), g.Now().UnixMilli())
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

const (
	selectByDigest = `SELECT id FROM id_clients WHERE digest = $1`
	insertClient   = `INSERT INTO id_clients (id, digest, metadata, created, last_used) VALUES ($1, $2, $3, $4, 0)`
	countClients   = `SELECT count(*) FROM id_clients`
	selectOldest   = `SELECT id FROM id_clients WHERE created < $1 ORDER BY max(created, last_used)`
	deleteClient   = `DELETE FROM id_clients WHERE id = $1`
)

// makeRoom removes clients that nobody is signed in with, oldest first, once
// there are too many. Clients with live sessions are never removed.
func (g *Registry) makeRoom(tx *store.Tx) error {
	var n int
	if err := tx.QueryRow(countClients).Scan(&n); err != nil || n < g.MaxClients {
		return err
	}
	live, err := g.Live(tx)
	if err != nil {
		return err
	}
	rows, err := tx.Query(selectOldest, g.Now().Add(-freshFor).UnixMilli())
	if err != nil {
		return err
	}
	var idle []string
	for rows.Next() && len(idle) < gcBatch {
		var id string
		if err := rows.Scan(&id); err != nil {
			rows.Close()
			return err
		}
		if !live[id] {
			idle = append(idle, id)
		}
	}
	if err := rows.Close(); err != nil {
		return err
	}
	if len(idle) == 0 {
		return ErrFull
	}
	for _, id := range idle {
		if _, err := tx.Exec(deleteClient, id); err != nil {
			return err
		}
	}
	return nil
}

const selectClient = `SELECT metadata, last_used FROM id_clients WHERE id = $1`

// Client finds a client by its ID. Errors: ErrNoClient.
func (g *Registry) Client(ctx context.Context, id string) (c *Client, err error) {
	err = g.DB.Read(ctx, func(q store.Querier) error {
		c, err = g.Load(q, id)
		return err
	})
	return c, err
}

// Load is Client inside a read or write.
func (g *Registry) Load(q store.Querier, id string) (*Client, error) {
	if id == FirstParty {
		m := Metadata{ClientName: "Holdfast", ApplicationType: "web", TokenEndpointAuthMethod: "none", GrantTypes: []string{"authorization_code", "refresh_token", DeviceGrant}}
		for _, o := range g.Origins() {
			m.RedirectURIs = append(m.RedirectURIs, o+"/")
		}
		m.PostLogoutRedirectURIs = m.RedirectURIs
		return &Client{ID: id, Metadata: m, Trusted: true}, nil
	}
	c := &Client{ID: id}
	var raw string
	err := q.QueryRow(selectClient, id).Scan(&raw, &c.lastUsed)
	if errors.Is(err, store.ErrNotFound) {
		a, err := g.LoadApp(q, id)
		if err != nil {
			return nil, err
		}
		return a.client(), nil
	}
	if err != nil {
		return nil, err
	}
	return c, json.Unmarshal([]byte(raw), &c.Metadata)
}

const touchClient = `UPDATE id_clients SET last_used = $2 WHERE id = $1`

// UsedTx notes that a sign-in with a client began.
func (g *Registry) UsedTx(tx *store.Tx, c *Client) error {
	now := g.Now()
	if c.Trusted || now.Sub(time.UnixMilli(c.lastUsed)) < touchPeriod {
		return nil
	}
	q := touchClient
	if c.App != nil {
		q = touchApp
	}
	_, err := tx.Exec(q, c.ID, now.UnixMilli())
	return err
}

// Client is an application.
type Client struct {
	ID string
	Metadata
	Trusted  bool // no consent page
	App      *App // nil: nobody made it here
	lastUsed int64
}

// Confidential reports whether the client proves itself when it asks for tokens.
func (c *Client) Confidential() bool { return c.App != nil && c.App.Confidential() }

// Disabled reports whether an administrator switched the application off.
func (c *Client) Disabled() bool { return c.App != nil && c.App.Disabled }

// Restricted reports whether only the people of some groups may use it.
func (c *Client) Restricted() bool { return c.App != nil && len(c.App.Access) > 0 }

// PKCE reports whether a sign-in must have a code challenge.
func (c *Client) PKCE() bool { return c.App == nil || !c.App.WithoutPKCE }

// Silent reports whether people are not asked about it.
func (c *Client) Silent() bool { return c.Trusted || c.App != nil && c.App.SkipConsent }

// Pairwise reports whether it knows people by subjects of its own.
func (c *Client) Pairwise() bool { return c.App != nil && c.App.Pairwise }

// Remembered reports whether what people allowed it is kept. That asks for an address
// that only the application gets answers at: a program on people's machines can be
// imitated by another. Spec: RFC 8252 section 8.6
func (c *Client) Remembered(redirectURI string) bool {
	return c.Confidential() || strings.HasPrefix(redirectURI, "https://")
}

// Refuses is the first of the scopes that the client may not have, or "".
func (c *Client) Refuses(scopes []string) string {
	for _, s := range scopes {
		if c.App != nil && !slices.Contains(c.App.Scopes, s) || c.App == nil && !c.Trusted && s == "groups" {
			return s
		}
	}
	return ""
}

// Name is what people are shown: the name, or else the host.
func (c *Client) Name() string {
	if c.ClientName != "" {
		return c.ClientName
	}
	return c.Host()
}

// Host is the host of the client's home page.
func (c *Client) Host() string {
	if u, err := httpsURI(c.ClientURI); err == nil {
		return u.Host
	}
	if c.App == nil {
		return ""
	}
	for _, s := range append([]string{c.ClientURI}, c.Metadata.RedirectURIs...) {
		if u, err := url.Parse(s); err == nil && u.Host != "" {
			return u.Host
		}
	}
	return ""
}

// Devices reports whether the client may sign devices in that are confirmed elsewhere.
func (c *Client) Devices() bool { return slices.Contains(c.Metadata.GrantTypes, DeviceGrant) }

// MatchRedirect reports whether the client may be answered at uri.
func (c *Client) MatchRedirect(uri string) bool {
	return MatchRedirect(c.Metadata.RedirectURIs, uri, c.Metadata.ApplicationType == "native")
}

// What follows is op.Client. Redirect URIs, scopes and PKCE are checked by
// our front before op sees a request.

// OP is the client as the protocol engine wants it.
func (c *Client) OP() op.Client { return opClient{c} }

type opClient struct{ c *Client }

// The life of an ID token. It is proof of a sign-in, not a session.
const idTokenLifetime = 10 * time.Minute

func (o opClient) GetID() string                    { return o.c.ID }
func (o opClient) RedirectURIs() []string           { return o.c.Metadata.RedirectURIs }
func (o opClient) PostLogoutRedirectURIs() []string { return o.c.Metadata.PostLogoutRedirectURIs }
func (o opClient) ApplicationType() op.ApplicationType {
	if o.c.Metadata.ApplicationType == "native" {
		return op.ApplicationTypeNative
	}
	return op.ApplicationTypeUserAgent
}

// AuthMethod is "none" for public clients, of whom op then insists on PKCE. Others have
// proved themselves to our front, which the storage is asked about.
func (o opClient) AuthMethod() oidc.AuthMethod {
	if o.c.Confidential() {
		return oidc.AuthMethodBasic
	}
	return oidc.AuthMethodNone
}
func (o opClient) ResponseTypes() []oidc.ResponseType {
	return []oidc.ResponseType{oidc.ResponseTypeCode}
}
func (o opClient) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken}
}
func (o opClient) LoginURL(id string) string           { return "/login?request=" + id }
func (o opClient) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeBearer }
func (o opClient) IDTokenLifetime() time.Duration      { return idTokenLifetime }
func (o opClient) DevMode() bool                       { return false }
func (o opClient) RestrictAdditionalIdTokenScopes() func([]string) []string {
	return func(s []string) []string { return s }
}
func (o opClient) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return func(s []string) []string { return s }
}
func (o opClient) IsScopeAllowed(string) bool           { return true }
func (o opClient) IDTokenUserinfoClaimsAssertion() bool { return true }
func (o opClient) ClockSkew() time.Duration             { return 0 }
