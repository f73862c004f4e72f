// Package upstream lets people sign in with other providers, of OpenID Connect and of
// SAML 2.0.
//
// Invariants:
//   - Who somebody is there is the pair of issuer and subject, never a name or an e-mail
//     address. A local account is joined only by whoever proved both.
//   - An answer is good for the browser that asked, once, by state, nonce and PKCE.
//   - ID tokens are signed by a public key that the issuer publishes: not by nothing, nor
//     by the shared secret.
//   - What of SAML may be used once is noted on disk until it is too old anyway.
//   - While a provider is down, sessions go on and local accounts sign in.
package upstream

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"holdfast/identity/account"
	"holdfast/identity/saml"
	"holdfast/identity/trust"
	"holdfast/store"
	"holdfast/store/audit"
)

// Errors that callers may test for.
var (
	ErrNone    = errors.New("upstream: there is no such provider")
	ErrID      = errors.New("upstream: a provider's short name has 1 to 30 of a-z, 0-9 and -")
	ErrTooMany = errors.New("upstream: there are as many providers as can be")
	// ErrSettings is any *SettingsError.
	ErrSettings = errors.New("upstream: the settings cannot work")
	ErrDown     = errors.New("upstream: the provider cannot be reached")
	ErrRefused  = errors.New("upstream: the provider's answer is not good")
	ErrDenied   = errors.New("upstream: the provider did not sign the person in")
	// ErrStale: the person was to prove anew who they are, and the provider does not say
	// that they did.
	ErrStale  = errors.New("upstream: the provider does not say that the person proved anew who they are (auth_time or AuthnInstant is missing or old)")
	ErrTaken  = errors.New("upstream: a local account has the name")
	ErrNoName = errors.New("upstream: the provider gives no user name that can be one here")
	ErrClosed = errors.New("upstream: the provider makes no accounts here")
)

// Bounds of providers.
const (
	maxProviders = 8
	maxAnswer    = 1 << 20 // of a provider
	maxURL       = 2048
	maxText      = 255
	maxIDToken   = 64 << 10
	freshFor     = time.Hour       // discovery is kept
	checkEvery   = 5 * time.Minute // whether a provider answers
	timeout      = 15 * time.Second
)

// algs are the algorithms of ID tokens: with public keys only.
var algs = []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA}

// Config is a provider.
type Config struct {
	Name         string `json:"name"` // on the button
	Issuer       string `json:"issuer"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret,omitempty"`
	// CA are the only authorities, in PEM, that its certificate is trusted by. "": those
	// that the machine trusts.
	CA     string   `json:"ca,omitempty"`
	Scopes []string `json:"scopes,omitempty"` // openid profile
	Mapping
	// Closed makes no accounts: only people who have one here sign in.
	Closed bool `json:"closed,omitempty"`
	// Prompt and ACRs are what the provider is asked for: to have people prove anew who they
	// are, to have them prove it in certain ways. RequireACR refuses other ways.
	Prompt     string   `json:"prompt,omitempty"`
	ACRs       []string `json:"acr_values,omitempty"`
	RequireACR bool     `json:"require_acr,omitempty"`
	// RequireMFA refuses a sign-in there without a second factor; TrustMFA has one there
	// count as one here.
	RequireMFA bool `json:"require_mfa,omitempty"`
	TrustMFA   bool `json:"trust_mfa,omitempty"`
	// SignOut has who signs out here go on to the provider's sign-out. SAML providers that
	// offer single logout are always told.
	SignOut bool `json:"sign_out,omitempty"`
	// SAML is a provider that speaks SAML 2.0, whose entity ID is the Issuer. SubjectClaim
	// is an attribute of it that names a person for ever; "": the persistent name ID does.
	SAML         *saml.Settings `json:"saml,omitempty"`
	SubjectClaim string         `json:"subject_claim,omitempty"`
}

// SettingsError says what is wrong with the settings of a provider.
type SettingsError struct{ Text string }

func (e *SettingsError) Error() string { return e.Text }

// Is reports whether target is ErrSettings.
func (e *SettingsError) Is(target error) bool { return target == ErrSettings }

func wrong(format string, args ...any) error { return &SettingsError{fmt.Sprintf(format, args...)} }

// Provider is a provider as administrators see it, without its secret.
type Provider struct {
	ID     string    `json:"id"`
	Config Config    `json:"config"`
	People int       `json:"people"`         // that are joined
	Only   int       `json:"only"`           // of them, those that have no other way in
	Asked  time.Time `json:"asked,omitzero"` // when it was last asked for something; zero: not since the start
	Down   string    `json:"down,omitempty"` // why it gave no answer then
	// Unheard is why a SAML provider gave no answer that gave none since it was set: it
	// need not be reached from here, only by people's browsers.
	Unheard string `json:"unheard,omitempty"`
	Secret  bool   `json:"secret,omitempty"` // it has one
	// Until is when the last certificate of a SAML provider ends, and its answers with it.
	Until *time.Time `json:"certificate_until,omitempty"`
	// SAML is what a SAML provider has to know.
	SAML *Ours `json:"saml,omitempty"`
}

// Options of New.
type Options struct {
	DB       *store.DB
	Log      *slog.Logger
	Accounts *account.Accounts
	Seal     func(string) (string, error)
	Unseal   func(string) (string, error)
	Client   *http.Client
	Now      func() time.Time
	Audit    *audit.Log // nil: nothing is noted
	// DisplayName and Rename are of the profile that others see. nil: it does not follow.
	DisplayName func(ctx context.Context, userID string) (string, error)
	Rename      func(ctx context.Context, userID, displayName string) error
	// OtherWay reports whether somebody without a password has another way in than a
	// provider. nil: nobody has.
	OtherWay func(q store.Querier, x account.User) (bool, error)
	// Lock locks an account and ends its sessions and devices. nil: nobody is locked.
	Lock func(ctx context.Context, userID string, locked bool) error
	// Changed is told by ULID, in the same transaction, that somebody's groups are others now.
	// nil: nobody is told.
	Changed func(tx *store.Tx, id string) error
}

// Upstreams keeps the providers. Its methods are safe for concurrent use.
type Upstreams struct {
	o      Options
	client *http.Client

	mac []byte // recognises our requests of SAML

	mu      sync.Mutex
	open    map[string]*opened
	waiting map[string]waiting // answers of SAML whose browser is on its way, by request
}

type opened struct {
	c     Config
	p     *oidc.Provider // nil: it did not answer yet
	until time.Time      // p is asked for anew then
	asked time.Time
	http  *http.Client
	down  string
	saml  *saml.Provider
	// heard: one of SAML answered since it was set. While it did not, unheard says why.
	heard   bool
	unheard string
	keys    *keys   // nil: not needed since p was asked for
	asks    sparing // for p, on behalf of logout tokens
}

// New loads the providers.
func New(ctx context.Context, o Options) (*Upstreams, error) {
	u := &Upstreams{o: o, open: map[string]*opened{}, mac: make([]byte, 32), waiting: map[string]waiting{}}
	rand.Read(u.mac)
	if u.client = o.Client; u.client == nil {
		u.client = http.DefaultClient
	}
	return u, u.load(ctx)
}

// reach is the client for a provider.
func (u *Upstreams) reach(c Config) (*http.Client, error) {
	base, err := trust.Client(u.client, c.CA)
	if err != nil {
		return nil, &SettingsError{err.Error()}
	}
	out := *base
	out.Timeout = timeout
	rt := out.Transport
	if rt == nil {
		rt = http.DefaultTransport
	}
	out.Transport = bounded{rt}
	out.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &out, nil
}

// bounded cuts the answers of a provider.
type bounded struct{ rt http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.rt.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

func (u *Upstreams) load(ctx context.Context) error {
	type row struct {
		id, config string
		heard      int64
	}
	var list []row
	err := u.o.DB.Read(ctx, func(q store.Querier) error {
		rows, err := q.Query(`SELECT id, config, heard FROM id_upstreams`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var x row
			if err := rows.Scan(&x.id, &x.config, &x.heard); err != nil {
				return err
			}
			list = append(list, x)
		}
		return rows.Err()
	})
	for _, x := range list {
		o := &opened{heard: x.heard != 0}
		raw, e := u.o.Unseal(x.config)
		if e == nil {
			e = json.Unmarshal([]byte(raw), &o.c)
		}
		if e == nil {
			o.http, e = u.reach(o.c)
		}
		if e == nil && o.c.SAML != nil {
			o.saml, e = u.speaks(x.id, o.c)
		}
		if e != nil {
			o.c = Config{}
			o.down = "its settings cannot be read; add it anew"
			u.o.Log.Error("the settings of an upstream provider cannot be read; add it anew", "upstream", x.id, "err", e)
		}
		u.open[x.id] = o
	}
	return err
}

func (c *Config) check() error {
	if c.SAML != nil {
		return c.checkSAML()
	}
	c.Issuer = strings.TrimSpace(c.Issuer)
	i, err := url.Parse(c.Issuer)
	switch {
	case err != nil || len(c.Issuer) > maxURL || i.Scheme != "https" && i.Scheme != "http" || i.Host == "" || i.User != nil || i.RawQuery != "" || i.Fragment != "":
		return wrong("the issuer must be an address that begins with https://, as the provider itself names it")
	case c.ClientID == "" || len(c.ClientID) > maxText || len(c.ClientSecret) > maxURL:
		return wrong("the client ID that the provider gave out is missing, or too long")
	case c.Name == "" || len(c.Name) > maxText || strings.ContainsFunc(c.Name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return wrong("the name on the button must be plain text")
	case c.SubjectClaim != "":
		return wrong("an OpenID provider names people by the claim sub; an attribute for that is chosen with SAML alone")
	case len(c.Scopes) > 20 || slices.ContainsFunc(c.Scopes, func(s string) bool { return s == "" || len(s) > maxText || strings.ContainsAny(s, " \t\n") }):
		return wrong("there are too many scopes, or one is not a word")
	case c.Prompt != "" && c.Prompt != "login" && c.Prompt != "consent" && c.Prompt != "select_account":
		return wrong("prompt is login, consent or select_account")
	}
	if err := c.checkACRs(); err != nil {
		return err
	}
	if err := c.Mapping.check(); err != nil {
		return err
	}
	if len(c.Scopes) == 0 {
		c.Scopes = []string{"profile"}
	}
	c.Scopes = slices.DeleteFunc(c.Scopes, func(s string) bool { return s == oidc.ScopeOpenID })
	if c.UserClaim == "" {
		c.UserClaim = "preferred_username"
	}
	if c.NameClaim == "" {
		c.NameClaim = "name"
	}
	if c.MailClaim == "" {
		c.MailClaim = "email"
	}
	if c.GroupsClaim == "" {
		c.GroupsClaim = "groups"
	}
	return nil
}

func (c *Config) checkACRs() error {
	switch {
	case len(c.ACRs) > 20 || slices.ContainsFunc(c.ACRs, func(s string) bool { return s == "" || len(s) > maxText || strings.ContainsAny(s, " \t\n") }):
		return wrong("there are too many values of acr, or one is not a word")
	case c.RequireACR && len(c.ACRs) == 0:
		return wrong("which values of acr are good must be said when one of them is required")
	}
	return nil
}

// Set adds a provider or replaces its settings. Without a secret it keeps the one that it
// has, while issuer and client ID stay the same. Errors: ErrID, ErrTooMany, *SettingsError.
func (u *Upstreams) Set(ctx context.Context, id string, c Config) error {
	if id == "" || len(id) > 30 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return ErrID
	}
	o, err := u.prepare(id, &c)
	if err != nil {
		return err
	}
	if o.http, err = u.reach(c); err != nil {
		return err
	}
	if err := u.o.DB.Read(ctx, func(q store.Querier) error { return c.resolve(q, u.o.Accounts) }); err != nil {
		return err
	}
	u.mu.Lock()
	if o := u.open[id]; o != nil && c.ClientSecret == "" && o.c.Issuer == c.Issuer && o.c.ClientID == c.ClientID {
		c.ClientSecret = o.c.ClientSecret
	}
	u.mu.Unlock()
	o.c = c
	o.heard = u.heardAt(id, o)
	raw, err := json.Marshal(c)
	if err != nil {
		return err
	}
	sealed, err := u.o.Seal(string(raw))
	if err != nil {
		return err
	}
	err = u.o.DB.Write(ctx, func(tx *store.Tx) error {
		var n int
		if err := tx.QueryRow(`SELECT count(*) FROM id_upstreams WHERE id <> $1`, id).Scan(&n); err != nil {
			return err
		}
		if n >= maxProviders {
			return ErrTooMany
		}
		if _, err := tx.Exec(`INSERT INTO id_upstreams (id, config, created, heard) VALUES ($1, $2, $3, 0)
			ON CONFLICT (id) DO UPDATE SET config = excluded.config, heard = CASE WHEN $4 THEN heard ELSE 0 END`, id, sealed, u.o.Now().UnixMilli(), o.heard); err != nil {
			return err
		}
		data := audit.Data{"issuer": c.Issuer}
		if c.SAML != nil { // by whose signatures people come in
			data["certificates"] = c.SAML.Fingerprints()
		}
		return u.note(tx, audit.Event{Name: "upstream.set", Target: id, Data: data})
	})
	if err == nil {
		u.mu.Lock()
		u.open[id] = o
		u.mu.Unlock()
	}
	return err
}

func (u *Upstreams) note(tx *store.Tx, e audit.Event) error { return u.o.Audit.Tx(tx.Context(), tx, e) }

// What becomes of the people of a provider that is removed.
const (
	Keep   = "keep"   // who is joined to it stays so, should it come back
	Unlink = "unlink" // nobody is joined any more
	Lock   = "lock"   // and who has no other way in is locked
)

// Remove forgets a provider, and takes back the groups that it gave. people is Keep,
// Unlink or Lock. It returns how many were locked. Errors: ErrNone, *SettingsError.
func (u *Upstreams) Remove(ctx context.Context, id, people string) (locked int, err error) {
	if people != Keep && people != Unlink && people != Lock {
		return 0, wrong("what becomes of its people is %s, %s or %s", Keep, Unlink, Lock)
	}
	u.mu.Lock()
	o := u.open[id]
	u.mu.Unlock()
	if o == nil {
		return 0, ErrNone
	}
	var only []account.User
	err = u.o.DB.Write(ctx, func(tx *store.Tx) error {
		only = nil
		n, err := tx.Exec(`DELETE FROM id_upstreams WHERE id = $1`, id)
		if err == nil && n == 0 {
			err = ErrNone
		}
		if err != nil {
			return err
		}
		changed, err := u.o.Accounts.TakeAllTx(tx, origin(id))
		if err != nil {
			return err
		}
		for _, id := range changed {
			if u.o.Changed == nil {
				break
			}
			if err := u.o.Changed(tx, id); err != nil {
				return err
			}
		}
		if people != Keep {
			ids, err := scanIDs(tx, o.c.Issuer)
			if err != nil {
				return err
			}
			if only, err = u.onlyHere(tx, ids); err != nil {
				return err
			}
			if _, err := tx.Exec(`DELETE FROM id_upstream_links WHERE issuer = $1`, o.c.Issuer); err != nil {
				return err
			}
		}
		return u.note(tx, audit.Event{Name: "upstream.remove", Target: id, Data: audit.Data{"people": people}})
	})
	if err != nil {
		return 0, err
	}
	u.mu.Lock()
	delete(u.open, id)
	u.mu.Unlock()
	if people != Lock || u.o.Lock == nil {
		return 0, nil
	}
	for _, x := range only {
		if err := u.o.Lock(ctx, x.UserID, true); err != nil {
			return locked, err
		}
		locked++
	}
	return locked, nil
}

// OnlyHere counts the people of a provider who have no other way in. Errors: ErrNone.
func (u *Upstreams) OnlyHere(ctx context.Context, id string) (n int, err error) {
	u.mu.Lock()
	o := u.open[id]
	u.mu.Unlock()
	if o == nil {
		return 0, ErrNone
	}
	err = u.o.DB.Read(ctx, func(q store.Querier) error {
		ids, err := scanIDs(q, o.c.Issuer)
		if err != nil {
			return err
		}
		list, err := u.onlyHere(q, ids)
		n = len(list)
		return err
	})
	return n, err
}

const selectJoined = `SELECT user_id FROM id_upstream_links WHERE issuer = $1 ORDER BY user_id`

func scanIDs(q store.Querier, issuer string) (ids []string, err error) {
	rows, err := q.Query(selectJoined, issuer)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, rows.Err()
}

// onlyHere are those whose account is open and who can sign in with one provider alone:
// they have no password, no directory and no other provider.
func (u *Upstreams) onlyHere(q store.Querier, ids []string) (out []account.User, err error) {
	for _, id := range ids {
		x, err := u.o.Accounts.LoadByID(q, id)
		if errors.Is(err, account.ErrNoUser) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var links int
		if err := q.QueryRow(`SELECT count(DISTINCT issuer) FROM id_upstream_links WHERE user_id = $1`, id).Scan(&links); err != nil {
			return nil, err
		}
		other := x.HasPassword || links > 1
		if !other && u.o.OtherWay != nil {
			if other, err = u.o.OtherWay(q, x); err != nil {
				return nil, err
			}
		}
		if x.Err() == nil && !other {
			out = append(out, x)
		}
	}
	return out, nil
}

// List lists the providers by their short names.
func (u *Upstreams) List(ctx context.Context) ([]Provider, error) {
	u.mu.Lock()
	out := []Provider{}
	for id, o := range u.open {
		p := Provider{ID: id, Config: o.c, Down: o.down, Asked: o.asked, Secret: o.c.ClientSecret != ""}
		p.Config.ClientSecret = ""
		u.describe(&p, o)
		out = append(out, p)
	}
	u.mu.Unlock()
	slices.SortFunc(out, func(a, b Provider) int { return strings.Compare(a.ID, b.ID) })
	groups, err := u.o.Accounts.AllGroups(ctx)
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].Config.names(groups)
	}
	err = u.o.DB.Read(ctx, func(q store.Querier) error {
		for i := range out {
			if err := q.QueryRow(`SELECT count(DISTINCT user_id) FROM id_upstream_links WHERE issuer = $1`, out[i].Config.Issuer).Scan(&out[i].People); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// Button is what the sign-in page shows of a provider.
type Button struct{ ID, Name string }

// Buttons are those of the sign-in page.
func (u *Upstreams) Buttons() (out []Button) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, o := range u.open {
		if o.c.Issuer != "" {
			out = append(out, Button{id, o.c.Name})
		}
	}
	slices.SortFunc(out, func(a, b Button) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Down are the providers that gave no answer last.
func (u *Upstreams) Down() (ids []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, o := range u.open {
		if o.down != "" || u.over(o) != "" {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// answered notes whether a provider answered.
func (u *Upstreams) answered(id string, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	o := u.open[id]
	if o == nil {
		return
	}
	was := o.down
	o.asked = u.o.Now()
	o.down, o.unheard = "", ""
	switch {
	case err != nil && o.saml != nil && !o.heard:
		o.unheard = err.Error()
	case err != nil:
		o.down = err.Error()
	}
	if (was == "") != (o.down == "") {
		u.o.Log.Warn("an upstream provider stopped answering, or answers again", "upstream", id, "err", err)
	}
}

// provider is what discovery said, from memory while it is fresh, and while the provider
// is down also after. Errors: ErrNone, ErrDown.
func (u *Upstreams) provider(ctx context.Context, id string, anew bool) (*oidc.Provider, *opened, error) {
	u.mu.Lock()
	o := u.open[id]
	if o == nil || o.c.Issuer == "" || o.saml != nil {
		u.mu.Unlock()
		return nil, nil, ErrNone
	}
	p, fresh := o.p, o.p != nil && u.o.Now().Before(o.until)
	u.mu.Unlock()
	if fresh && !anew {
		return p, o, nil
	}
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, o.http), timeout)
	defer cancel()
	p, err := oidc.NewProvider(ctx, o.c.Issuer)
	u.answered(id, err)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrDown, err)
	}
	u.mu.Lock()
	if u.open[id] == o {
		o.p, o.until, o.keys = p, u.o.Now().Add(freshFor), nil
	}
	u.mu.Unlock()
	return p, o, nil
}

// Tested is what a provider answered.
type Tested struct {
	At      string // its sign-in page
	SAML    bool
	Unheard string // as in Provider
}

// Test asks a provider what it offers. Errors: ErrNone, ErrDown.
func (u *Upstreams) Test(ctx context.Context, id string) (Tested, error) {
	if u.IsSAML(id) {
		return u.probe(ctx, id)
	}
	p, _, err := u.provider(ctx, id, true)
	if err != nil {
		return Tested{}, err
	}
	return Tested{At: p.Endpoint().AuthURL}, nil
}

// AskAll asks all providers whether they are there, at the same time and for no longer
// than within. What they answer is in List and Down.
func (u *Upstreams) AskAll(ctx context.Context, within time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var wg sync.WaitGroup
	for _, b := range u.Buttons() {
		wg.Go(func() { u.Test(ctx, b.ID) }) // noted in answered
	}
	wg.Wait()
}

// Run looks every few minutes whether the providers answer, until ctx ends.
func (u *Upstreams) Run(ctx context.Context) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		u.AskAll(ctx, timeout)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Asked is what a sign-in with a provider began with. Whoever keeps it for the browser
// seals it.
type Asked struct {
	ID       string    `json:"i"`
	State    string    `json:"s"`
	Nonce    string    `json:"n"`
	Verifier string    `json:"v"`
	Redirect string    `json:"r"`
	Query    string    `json:"q"` // of the sign-in page
	Until    time.Time `json:"u"`
	// Since is from when on the person must have proved there who they are; zero: any session
	// there is enough. Anew: they were asked to do it now.
	Since time.Time `json:"t,omitzero"`
	Anew  bool      `json:"a,omitempty"`
}

// skew is how far the clocks of a provider and of here may be apart, where it says when
// somebody proved who they are.
const skew = 2 * time.Minute

// AnyTime has a session at the provider be enough, however old it is.
const AnyTime time.Duration = -1

func (u *Upstreams) asked(a Asked, within time.Duration) Asked {
	now := u.o.Now()
	a.Until = now.Add(askedFor)
	if within >= 0 {
		a.Since, a.Anew = now.Add(-within), within == 0
	}
	return a
}

// lately checks that somebody proved who they are as lately as was asked. Browsers carry
// the request, so that what it asked for shows only in the answer. Who did it anew did it
// now. Errors: ErrStale.
func (u *Upstreams) lately(a Asked, from *From) error {
	if a.Since.IsZero() {
		return nil
	}
	if from == nil || from.At.Before(a.Since.Add(-skew)) {
		return ErrStale
	}
	if a.Anew {
		from.At = u.o.Now()
	}
	return nil
}

// askedFor is how long somebody has to sign in there.
const askedFor = 15 * time.Minute

func (u *Upstreams) config(p *oidc.Provider, c Config, redirect string) oauth2.Config {
	return oauth2.Config{ClientID: c.ClientID, ClientSecret: c.ClientSecret, Endpoint: p.Endpoint(), RedirectURL: redirect, Scopes: append([]string{oidc.ScopeOpenID}, c.Scopes...)}
}

// Ask begins a sign-in and returns where the browser goes. Errors: ErrNone, ErrDown.
func (u *Upstreams) Ask(ctx context.Context, id, redirect, query string) (to string, a Asked, err error) {
	return u.AskWithin(ctx, id, redirect, query, AnyTime)
}

// AskWithin is Ask for somebody who must have proved there who they are within a time; with
// 0 they do it anew, whatever session they have there. Errors: ErrNone, ErrDown.
// Spec: OpenID Connect Core section 3.1.2.1 (with max_age the provider has to say when)
func (u *Upstreams) AskWithin(ctx context.Context, id, redirect, query string, within time.Duration) (to string, a Asked, err error) {
	p, o, err := u.provider(ctx, id, false)
	if err != nil {
		return "", a, err
	}
	c := o.c
	a = u.asked(Asked{ID: id, State: account.Secret(), Nonce: account.Secret(), Verifier: oauth2.GenerateVerifier(), Redirect: redirect, Query: query}, within)
	conf := u.config(p, c, redirect)
	more := []oauth2.AuthCodeOption{oidc.Nonce(a.Nonce), oauth2.S256ChallengeOption(a.Verifier)}
	switch {
	case a.Anew:
		more = append(more, oauth2.SetAuthURLParam("prompt", "login"))
	case c.Prompt != "":
		more = append(more, oauth2.SetAuthURLParam("prompt", c.Prompt))
	}
	if within >= 0 {
		more = append(more, oauth2.SetAuthURLParam("max_age", strconv.Itoa(int(within/time.Second))))
	}
	if len(c.ACRs) > 0 {
		more = append(more, oauth2.SetAuthURLParam("acr_values", strings.Join(c.ACRs, " ")))
	}
	return conf.AuthCodeURL(a.State, more...), a, nil
}

// Person is somebody whom a provider signed in.
type Person struct {
	Upstream string `json:"up"`
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Name     string `json:"name"` // user name there, in small letters
	Full     string `json:"full"`
	Mail     string `json:"mail,omitempty"` // verified, canonical
	// Groups are the ULIDs of those here that the provider's say. Partly: there are more,
	// which it did not name.
	Groups []string `json:"groups,omitempty"`
	Partly bool     `json:"partly,omitempty"`
	MFA    bool     `json:"mfa,omitempty"` // there was a second factor there, and it counts here
	// From is the session there.
	From *From `json:"-"`
}

// Answered checks the provider's answer to what a browser asked. Errors: ErrNone, ErrDown,
// ErrDenied, ErrRefused, ErrStale. Spec: OpenID Connect Core section 3.1.3.7, RFC 9207
func (u *Upstreams) Answered(ctx context.Context, a Asked, v url.Values) (who Person, err error) {
	if !u.o.Now().Before(a.Until) || a.State == "" || v.Get("state") != a.State {
		return who, fmt.Errorf("%w: it belongs to no sign-in of this browser, or came too late", ErrRefused)
	}
	p, o, err := u.provider(ctx, a.ID, false)
	if err != nil {
		return who, err
	}
	c := o.c
	if iss := v.Get("iss"); iss != "" && iss != c.Issuer {
		return who, fmt.Errorf("%w: it is of another issuer", ErrRefused)
	}
	if e := v.Get("error"); e != "" {
		return who, fmt.Errorf("%w: %.100q", ErrDenied, e)
	}
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, o.http), timeout)
	defer cancel()
	conf := u.config(p, c, a.Redirect)
	token, err := conf.Exchange(ctx, v.Get("code"), oauth2.VerifierOption(a.Verifier))
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) && refused.Response.StatusCode < 500 {
		return who, fmt.Errorf("%w: the code was refused with %.100q", ErrRefused, refused.ErrorCode)
	}
	if err != nil {
		u.answered(a.ID, err)
		return who, fmt.Errorf("%w: %w", ErrDown, err)
	}
	raw, _ := token.Extra("id_token").(string)
	id, said, err := u.verify(ctx, p, c, raw, a.Nonce)
	if err != nil {
		return who, err
	}
	if err := u.ask(ctx, p, c, conf.TokenSource(ctx, token), id.Subject, said); err != nil {
		return who, err
	}
	u.answered(a.ID, nil)
	who, err = personOf(c, id, said)
	who.Upstream = a.ID
	sid, _ := said["sid"].(string)
	if len(sid) > maxText {
		sid = ""
	}
	who.From = &From{Upstream: a.ID, Session: saml.Session{NameID: id.Subject, Index: sid}}
	if at, ok := said["auth_time"].(float64); ok && at > 0 && at < 1<<40 {
		who.From.At = time.Unix(int64(at), 0)
	}
	if err == nil {
		err = u.lately(a, who.From)
	}
	return who, err
}

// verify checks an ID token, and returns what it says. Errors: ErrRefused.
func (u *Upstreams) verify(ctx context.Context, p *oidc.Provider, c Config, raw, nonce string) (id *oidc.IDToken, said map[string]any, err error) {
	if raw == "" || len(raw) > maxIDToken {
		return nil, nil, fmt.Errorf("%w: there is no ID token", ErrRefused)
	}
	id, err = p.Verifier(&oidc.Config{ClientID: c.ClientID, SupportedSigningAlgs: algs, Now: u.o.Now}).Verify(ctx, raw)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err := id.Claims(&said); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	azp, _ := said["azp"].(string)
	switch {
	case nonce == "" || id.Nonce != nonce:
		return nil, nil, fmt.Errorf("%w: the nonce is another", ErrRefused)
	case len(id.Audience) > 1 && azp == "", azp != "" && azp != c.ClientID:
		return nil, nil, fmt.Errorf("%w: it was made for another application", ErrRefused)
	case id.Subject == "" || len(id.Subject) > maxText:
		return nil, nil, fmt.Errorf("%w: there is no subject", ErrRefused)
	}
	return id, said, nil
}

// ask adds to what the ID token says what is wanted and only the provider's userinfo
// has. Without an answer about groups, or what is required, nobody comes in: groups would
// be taken away that are there. Errors: ErrDown, ErrRefused.
// Spec: OpenID Connect Core section 5.3
func (u *Upstreams) ask(ctx context.Context, p *oidc.Provider, c Config, token oauth2.TokenSource, subject string, said map[string]any) error {
	missing := func(names []string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return find(said, n) == nil })
	}
	must := missing(c.must())
	if p.UserInfoEndpoint() == "" || !must && !missing(c.may()) {
		return nil
	}
	info, err := p.UserInfo(ctx, token)
	var more map[string]any
	if err == nil {
		err = info.Claims(&more)
	}
	switch {
	case err != nil && !must:
		return nil
	case err != nil:
		return fmt.Errorf("%w: its userinfo gives no answer that can be used: %w", ErrDown, err)
	case info.Subject != subject: // somebody else's, perhaps of another's access token
		return fmt.Errorf("%w: the userinfo is about somebody else", ErrRefused)
	}
	for k, v := range more {
		if _, has := said[k]; !has {
			said[k] = v
		}
	}
	return nil
}

// must are the claims that decide who comes in, and with what.
func (c *Config) must() (out []string) {
	if len(c.Domains) > 0 {
		out = append(out, c.MailClaim)
	}
	if len(c.Groups) > 0 {
		out = append(out, c.GroupsClaim)
	}
	if c.RequireClaim != "" {
		out = append(out, c.RequireClaim)
	}
	return out
}

// may are the claims without which somebody comes in as well.
func (c *Config) may() []string {
	out := []string{c.UserClaim, c.NameClaim}
	if c.MailTaken {
		out = append(out, c.MailClaim)
	}
	return out
}

// find is a claim by its name, or by a path with dots into objects.
func find(said map[string]any, name string) any {
	if v, ok := said[name]; ok {
		return v
	}
	for i, r := range name {
		if r != '.' {
			continue
		}
		if inner, ok := said[name[:i]].(map[string]any); ok {
			if v := find(inner, name[i+1:]); v != nil {
				return v
			}
		}
	}
	return nil
}

// texts are the values of a claim as texts; what is longer than a text may be is left out.
func texts(v any) (out []string) {
	switch v := v.(type) {
	case string:
		if len(v) <= maxText {
			out = append(out, v)
		}
	case bool:
		out = append(out, strconv.FormatBool(v))
	case float64:
		out = append(out, strconv.FormatFloat(v, 'f', -1, 64))
	case []any:
		for _, x := range v[:min(len(v), maxGroups+1)] {
			if _, nested := x.([]any); !nested {
				out = append(out, texts(x)...)
			}
		}
	}
	return out
}

// personOf is whom a provider signed in. Errors: ErrRefused, ErrNotAdmitted.
func personOf(c Config, id *oidc.IDToken, said map[string]any) (who Person, err error) {
	get := func(name string) []string { return texts(find(said, name)) }
	text := func(name string) string {
		if s, ok := find(said, name).(string); ok && len(s) <= maxText {
			return strings.TrimSpace(s)
		}
		return ""
	}
	who = Person{Issuer: id.Issuer, Subject: id.Subject, Name: strings.ToLower(text(c.UserClaim)), Full: text(c.NameClaim)}
	mfa := slices.Contains(get("amr"), "mfa") // RFC 8176
	switch {
	case c.RequireACR && !slices.Contains(c.ACRs, text("acr")):
		return who, fmt.Errorf("%w: the person did not prove who they are in a way that is required (acr %.100q)", ErrRefused, text("acr"))
	case c.RequireMFA && !mfa:
		return who, fmt.Errorf("%w: the provider does not say that there was a second factor (amr without mfa)", ErrRefused)
	}
	who.MFA = c.TrustMFA && (mfa || c.RequireACR)
	verified := slices.Contains(get("email_verified"), "true")
	// Some leave out groups where there are many, and say where to ask for them.
	elsewhere, _ := said["_claim_names"].(map[string]any)
	_, partly := elsewhere[c.GroupsClaim]
	return who, c.admit(&who, get, verified, partly)
}

// Joined are the providers that somebody has joined the account to.
func (u *Upstreams) Joined(ctx context.Context, userID string) (out []Button, err error) {
	issuers := map[string]bool{}
	err = u.o.DB.Read(ctx, func(q store.Querier) error {
		rows, err := q.Query(`SELECT issuer FROM id_upstream_links WHERE user_id = $1`, userID)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var issuer string
			if err := rows.Scan(&issuer); err != nil {
				return err
			}
			issuers[issuer] = true
		}
		return rows.Err()
	})
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, o := range u.open {
		if issuers[o.c.Issuer] {
			out = append(out, Button{id, o.c.Name})
		}
	}
	slices.SortFunc(out, func(a, b Button) int { return strings.Compare(a.Name, b.Name) })
	return out, err
}

// Is reports whether a provider named the owner of an account that exists, by its ULID.
func (u *Upstreams) Is(ctx context.Context, who Person, id string) (is bool, err error) {
	err = u.o.DB.Read(ctx, func(q store.Querier) error {
		return q.QueryRow(`SELECT EXISTS (SELECT 1 FROM id_upstream_links WHERE issuer = $1 AND subject = $2 AND user_id = $3)`, who.Issuer, who.Subject, id).Scan(&is)
	})
	return is, err
}

// Account finds the account of somebody, or makes it. Errors: ErrTaken: a local account
// has the name and must be proved; ErrNoName; ErrClosed.
func (u *Upstreams) Account(ctx context.Context, who Person) (account.User, error) {
	var x account.User
	err := u.o.DB.Read(ctx, func(q store.Querier) error {
		var id string
		if err := q.QueryRow(`SELECT user_id FROM id_upstream_links WHERE issuer = $1 AND subject = $2`, who.Issuer, who.Subject).Scan(&id); err != nil {
			return err
		}
		var err error
		x, err = u.o.Accounts.LoadByID(q, id)
		return err
	})
	if err == nil {
		return x, u.follow(ctx, who, x)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return x, err
	}
	_, err = u.o.Accounts.ByLocalpart(ctx, who.Name)
	if err == nil {
		return x, ErrTaken
	}
	if !errors.Is(err, account.ErrNoUser) {
		return x, err
	}
	u.mu.Lock()
	closed := u.open[who.Upstream] == nil || u.open[who.Upstream].c.Closed
	u.mu.Unlock()
	if closed {
		return x, ErrClosed
	}
	full := who.Full
	if full == "" {
		full = who.Name
	}
	x, err = u.o.Accounts.Create(ctx, account.NewUser{Localpart: who.Name, DisplayName: full, Source: account.FromUpstream,
		Also: func(tx *store.Tx, x account.User) error { return u.joinTx(tx, who, x) }})
	switch {
	case errors.Is(err, account.ErrUserExists):
		return x, ErrTaken
	case errors.Is(err, account.ErrBadName), errors.Is(err, account.ErrReserved):
		return x, ErrNoName
	}
	return x, err
}

func (u *Upstreams) joinTx(tx *store.Tx, who Person, x account.User) error {
	if _, err := tx.Exec(`INSERT INTO id_upstream_links (issuer, subject, user_id, created) VALUES ($1, $2, $3, $4)`, who.Issuer, who.Subject, x.ID, u.o.Now().UnixMilli()); err != nil {
		return err
	}
	if err := u.followTx(tx, who, x); err != nil {
		return err
	}
	return u.note(tx, audit.Event{Name: "upstream.join", Target: x.UserID, Data: audit.Data{"upstream": who.Upstream, "issuer": who.Issuer}})
}

// Join gives somebody at a provider a local account, which they proved that they own.
func (u *Upstreams) Join(ctx context.Context, who Person, x account.User) error {
	return u.o.DB.Write(ctx, func(tx *store.Tx) error { return u.joinTx(tx, who, x) })
}
