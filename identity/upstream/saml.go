package upstream

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"holdfast/identity/saml"
	"holdfast/store"
)

// This file has the providers that speak SAML 2.0.

// Bounds of sign-ins that are on their way.
const (
	maxWaiting = 1000
	waitFor    = 2 * time.Minute
)

// soon is how long before the end of a certificate administrators are told.
const soon = 30 * 24 * time.Hour

// Attributes that are looked for where the administrator names none: by the names of
// eduPerson and LDAP, then those that providers give them by default.
var attributes = map[string][]string{
	"user":   {"urn:oid:0.9.2342.19200300.100.1.1", "uid", "username"},
	"name":   {"urn:oid:2.16.840.1.113730.3.1.241", "displayName", "http://schemas.microsoft.com/identity/claims/displayname", "urn:oid:2.5.4.3", "cn"},
	"mail":   {"urn:oid:0.9.2342.19200300.100.1.3", "mail", "email", "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/emailaddress"},
	"groups": {"urn:oid:1.3.6.1.4.1.5923.1.5.1.1", "isMemberOf", "groups", "memberOf", "http://schemas.microsoft.com/ws/2008/06/identity/claims/groups", "http://schemas.xmlsoap.org/claims/Group"},
}

// A second factor, in the words of those who have them: a class of the sign-in, or a
// value of Microsoft's attribute of methods. In manyGroups it says where to ask for groups
// that are too many to name.
const (
	classMFA   = "https://refeds.org/profile/mfa"
	methodsOf  = "http://schemas.microsoft.com/claims/authnmethodsreferences"
	methodMFA  = "http://schemas.microsoft.com/claims/multipleauthn"
	manyGroups = "http://schemas.microsoft.com/claims/groups.link"
)

// Ours is what a SAML provider has to know of here.
type Ours struct {
	EntityID     string   `json:"entity_id"`
	ACS          string   `json:"acs"`
	SLO          string   `json:"slo"`
	Metadata     string   `json:"metadata"`
	Certificate  string   `json:"certificate"`  // ours, in PEM
	Fingerprints []string `json:"fingerprints"` // SHA-256 of the provider's certificates
}

// waiting is somebody whom a provider signed in, whose browser comes next.
type waiting struct {
	who   Person
	until time.Time
}

func (c *Config) checkSAML() error {
	base, err := url.Parse(c.SAML.Base)
	switch {
	case err != nil || base.Scheme != "https" && base.Scheme != "http" || base.Host == "" || base.Path != "" || base.RawQuery != "":
		return wrong("the appliance has no address that the provider could know it by; set public_url")
	case c.ClientID != "" || c.ClientSecret != "" || len(c.Scopes) > 0 || c.CA != "":
		return wrong("client ID, secret, scopes and an authority belong to OpenID providers; with SAML there are none")
	case !plainText(c.Name):
		return wrong("the name on the button must be plain text")
	case len(c.SubjectClaim) > maxText:
		return wrong("the name of an attribute is too long")
	case c.Prompt != "" && c.Prompt != "login":
		return wrong("of a SAML provider only prompt login can be asked")
	}
	if err := c.checkACRs(); err != nil {
		return err
	}
	c.Issuer = c.SAML.EntityID
	return c.Mapping.check()
}

func plainText(s string) bool {
	return s != "" && len(s) <= maxText && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// speaks prepares a provider of SAML.
func (u *Upstreams) speaks(id string, c Config) (*saml.Provider, error) {
	return saml.New(saml.Options{ID: id, Settings: *c.SAML, Persistent: c.SubjectClaim == "", Anew: c.Prompt == "login", Classes: c.ACRs, MAC: u.mac, Now: u.o.Now})
}

// prepare checks settings and opens a provider for them. A SAML provider keeps the key
// that it had, which the other side knows.
func (u *Upstreams) prepare(id string, c *Config) (*opened, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	o := &opened{}
	if c.SAML != nil {
		s := *c.SAML
		s.Key, s.Certificate = "", ""
		u.mu.Lock()
		if had := u.open[id]; had != nil && had.c.SAML != nil {
			s.Key, s.Certificate = had.c.SAML.Key, had.c.SAML.Certificate
		}
		u.mu.Unlock()
		if s.Key == "" {
			if err := s.NewKey(hostOf(s.Base), u.o.Now()); err != nil {
				return nil, err
			}
		}
		c.SAML = &s
		var err error
		if o.saml, err = u.speaks(id, *c); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func hostOf(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// samlOf is a provider of SAML.
func (u *Upstreams) samlOf(id string) (*saml.Provider, Config, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	o := u.open[id]
	if o == nil || o.saml == nil {
		return nil, Config{}, false
	}
	return o.saml, o.c, true
}

// IsSAML reports whether a provider speaks SAML 2.0.
func (u *Upstreams) IsSAML(id string) bool {
	_, _, ok := u.samlOf(id)
	return ok
}

// Base is the address of here that a SAML provider knows.
func (u *Upstreams) Base(id string) string {
	if _, c, ok := u.samlOf(id); ok {
		return c.SAML.Base
	}
	return ""
}

// probe looks whether the sign-in page of a provider is there, and asks it for nothing: any
// answer will do, also by a certificate that only browsers trust, unless somebody in between
// says that nobody is behind. One that never answered since it was set is not down: it may
// be that only browsers can reach it. Errors: ErrNone, ErrDown.
func (u *Upstreams) probe(ctx context.Context, id string) (t Tested, err error) {
	u.mu.Lock()
	o := u.open[id]
	heard := o != nil && o.heard
	u.mu.Unlock()
	if o == nil || o.saml == nil {
		return t, ErrNone
	}
	t = Tested{At: signInAt(o.c), SAML: true}
	err = look(ctx, o.http, t.At)
	if err == nil && !heard {
		err := u.o.DB.Write(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(`UPDATE id_upstreams SET heard = $2 WHERE id = $1`, id, u.o.Now().UnixMilli())
			return err
		})
		if err != nil {
			return t, err
		}
		u.mu.Lock()
		o.heard = true
		u.mu.Unlock()
	}
	u.answered(id, err)
	switch {
	case err != nil && heard:
		return t, fmt.Errorf("%w: %w", ErrDown, err)
	case err != nil:
		t.Unheard = err.Error()
	}
	return t, nil
}

func look(ctx context.Context, c *http.Client, at string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, at, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if cert := (*tls.CertificateVerificationError)(nil); errors.As(err, &cert) {
		return nil
	}
	if err != nil {
		return err
	}
	resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fmt.Errorf("%s answers %s", at, resp.Status)
	}
	return nil
}

// signInAt is where the browsers of a provider's people go.
func signInAt(c Config) string {
	if c.SAML == nil {
		return ""
	}
	return cmp.Or(c.SAML.SignInRedirect, c.SAML.SignInPost)
}

// heardAt reports whether a provider that is set answered where it is to be now.
func (u *Upstreams) heardAt(id string, o *opened) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	had := u.open[id]
	return had != nil && had.heard && signInAt(had.c) == signInAt(o.c)
}

// describe adds what is particular to SAML.
func (u *Upstreams) describe(p *Provider, o *opened) {
	if o.saml == nil {
		return
	}
	s := *o.c.SAML
	s.Key = ""
	p.Config.SAML = &s
	until := s.Until()
	p.Until = &until
	p.Unheard = o.unheard
	p.SAML = &Ours{EntityID: o.saml.EntityID(), ACS: o.saml.AssertionURL(), SLO: o.saml.SignOutURL(), Metadata: o.saml.EntityID(), Certificate: s.PEM(), Fingerprints: s.Fingerprints()}
	if p.Down == "" {
		p.Down = u.over(o)
	}
}

// over says that no certificate of a provider counts any more.
func (u *Upstreams) over(o *opened) string {
	if o.saml != nil && !u.o.Now().Before(o.c.SAML.Until()) {
		return "its certificate has expired, so that its answers are refused; set it anew with its new metadata"
	}
	return ""
}

// Expiring are the providers of SAML whose last certificate ends soon, and when.
func (u *Upstreams) Expiring() map[string]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := map[string]time.Time{}
	for id, o := range u.open {
		if o.saml == nil {
			continue
		}
		if until := o.c.SAML.Until(); until.Before(u.o.Now().Add(soon)) {
			out[id] = until
		}
	}
	return out
}

// FetchMetadata gets a provider's own metadata from an address that an administrator gave.
// Errors: *SettingsError.
func (u *Upstreams) FetchMetadata(ctx context.Context, at string) ([]byte, error) {
	to, err := url.Parse(at)
	if err != nil || len(at) > maxURL || to.Scheme != "https" && to.Scheme != "http" || to.Host == "" || to.User != nil {
		return nil, wrong("%.100q is not the address of a file; it begins with https://", at)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	resp, err := u.client.Do(req)
	if err != nil {
		return nil, wrong("the metadata cannot be fetched; give them as a file: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, wrong("the metadata cannot be fetched; give them as a file: the answer is %s", resp.Status)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, wrong("the metadata did not arrive complete; give them as a file: %v", err)
	}
	return raw, nil // saml.ParseMetadata refuses more than maxAnswer
}

// Metadata describe us to a SAML provider. Errors: ErrNone.
func (u *Upstreams) Metadata(id string) ([]byte, error) {
	p, _, ok := u.samlOf(id)
	if !ok {
		return nil, ErrNone
	}
	return p.Metadata()
}

// once notes that a message of a provider was taken.
func (u *Upstreams) once(ctx context.Context, issuer string) saml.Once {
	return func(id string, until time.Time) error {
		return u.o.DB.Write(ctx, func(tx *store.Tx) error { return u.onceTx(tx, issuer, id, until) })
	}
}

func (u *Upstreams) onceTx(tx *store.Tx, issuer, id string, until time.Time) error {
	h := sha256.Sum256([]byte(issuer + "\x00" + id))
	if _, err := tx.Exec(`DELETE FROM id_upstream_used WHERE until < $1`, u.o.Now().UnixMilli()); err != nil {
		return err
	}
	n, err := tx.Exec(`INSERT INTO id_upstream_used (hash, until) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING`, h[:], until.UnixMilli())
	if err == nil && n == 0 {
		err = saml.ErrUsed
	}
	return err
}

// AskSAML begins a sign-in and says where the browser goes. Errors: ErrNone.
func (u *Upstreams) AskSAML(id, query string) (to saml.Going, a Asked, err error) {
	return u.AskSAMLWithin(id, query, AnyTime)
}

// AskSAMLWithin is AskSAML for somebody who must have proved there who they are within a
// time. SAML has no word for that but that they do it anew. Errors: ErrNone.
func (u *Upstreams) AskSAMLWithin(id, query string, within time.Duration) (to saml.Going, a Asked, err error) {
	p, _, ok := u.samlOf(id)
	if !ok {
		return to, a, ErrNone
	}
	ask := p.Ask
	if within >= 0 {
		ask, within = p.AskAnew, 0
	}
	to, request, err := ask()
	if err != nil {
		return to, a, err
	}
	return to, u.asked(Asked{ID: id, State: request, Query: query}, within), nil
}

// AnswerSAML reads what a browser posts, which cannot show whose browser it is: browsers
// send no cookie of ours along with a form of another site. Who was signed in waits until
// the browser comes again, and with a cookie. Errors: ErrNone, ErrDenied, ErrRefused,
// ErrNotAdmitted.
func (u *Upstreams) AnswerSAML(ctx context.Context, id, encoded string) error {
	p, c, ok := u.samlOf(id)
	if !ok {
		return ErrNone
	}
	a, err := p.Answer(encoded, u.once(ctx, c.Issuer))
	switch {
	case errors.Is(err, saml.ErrDenied):
		return fmt.Errorf("%w: %w", ErrDenied, err)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	who, err := named(c, a)
	if err != nil {
		return err
	}
	who.Upstream, who.Issuer = id, c.Issuer
	who.From = &From{id, a.Session, a.At}
	now := u.o.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	oldest := ""
	for k, w := range u.waiting {
		if !now.Before(w.until) {
			delete(u.waiting, k)
		} else if oldest == "" || w.until.Before(u.waiting[oldest].until) {
			oldest = k
		}
	}
	if len(u.waiting) >= maxWaiting { // all of them are answers that the provider signed
		delete(u.waiting, oldest)
	}
	u.waiting[a.Request] = waiting{who, now.Add(waitFor)}
	return nil
}

// Come is who was signed in for what a browser asked, once. Errors: ErrRefused, ErrStale.
func (u *Upstreams) Come(a Asked) (Person, error) {
	now := u.o.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	w, ok := u.waiting[a.State]
	delete(u.waiting, a.State)
	if !ok || a.State == "" || w.who.Upstream != a.ID || !now.Before(w.until) || !now.Before(a.Until) {
		return Person{}, fmt.Errorf("%w: no answer to what this browser asked is there", ErrRefused)
	}
	return w.who, u.lately(a, w.who.From)
}

// named is whom an assertion names, and with what. Errors: ErrRefused, ErrNotAdmitted.
func named(c Config, a saml.Assertion) (who Person, err error) {
	// The prefix keeps the two kinds apart, and both from the subjects of OpenID Connect,
	// should the settings change or an issuer speak both.
	switch {
	case c.SubjectClaim != "":
		v := a.Attributes[c.SubjectClaim]
		if len(v) != 1 || len(v[0]) > maxText {
			return who, fmt.Errorf("%w: the attribute %.100q, by which people are known, is there %d times, or too long", ErrRefused, c.SubjectClaim, len(v))
		}
		who.Subject = "attribute " + c.SubjectClaim + " " + v[0]
	case a.Session.NameID == "":
		return who, fmt.Errorf("%w: %w", ErrRefused, saml.ErrSubject)
	case !a.Persistent:
		return who, fmt.Errorf("%w: %w (its name ID is %.100q, not persistent); have it send a persistent one, or name an attribute with --subject-claim", ErrRefused, saml.ErrSubject, a.Session.Format)
	default:
		who.Subject = "persistent " + a.Session.NameID
		if a.Session.NameQualifier != "" && a.Session.NameQualifier != c.Issuer {
			who.Subject += " of " + a.Session.NameQualifier
		}
	}
	// The names that are looked for by default are tried in turn.
	m := c.Mapping
	find := func(claim *string, kind string) {
		if *claim != "" {
			return
		}
		for _, n := range attributes[kind] {
			if *claim = n; len(a.Attributes[n]) > 0 {
				return
			}
		}
	}
	find(&m.UserClaim, "user")
	find(&m.NameClaim, "name")
	find(&m.MailClaim, "mail")
	find(&m.GroupsClaim, "groups")
	get := func(name string) []string { return a.Attributes[name] }
	first := func(name string) string {
		if v := get(name); len(v) > 0 && len(v[0]) <= maxText {
			return v[0]
		}
		return ""
	}
	who.Name, who.Full = strings.ToLower(first(m.UserClaim)), first(m.NameClaim)
	mfa := a.Class == classMFA || slices.Contains(get(methodsOf), methodMFA)
	reached := slices.Contains(c.ACRs, a.Class)
	switch {
	case c.RequireACR && !reached:
		return who, fmt.Errorf("%w: the person did not prove who they are in a way that is required (class %.100q)", ErrRefused, a.Class)
	case c.RequireMFA && !mfa:
		return who, fmt.Errorf("%w: the provider does not say that there was a second factor", ErrRefused)
	}
	who.MFA = c.TrustMFA && (mfa || c.RequireACR)
	// SAML has no word for an address that was verified: an administrator says so.
	return who, m.admit(&who, get, false, len(get(manyGroups)) > 0)
}

// LeftSAML ends the sessions that a provider names, and answers it. Errors: ErrNone,
// ErrRefused.
func (u *Upstreams) LeftSAML(ctx context.Context, id string, m saml.Message) (to saml.Going, err error) {
	p, c, ok := u.samlOf(id)
	if !ok {
		return to, ErrNone
	}
	l, err := p.Left(m, u.once(ctx, c.Issuer))
	if err != nil {
		return to, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	err = u.o.DB.Write(ctx, func(tx *store.Tx) error { return u.endTx(tx, id, c.Issuer, l.NameID, l.Names) })
	if err != nil {
		return to, err
	}
	to, err = p.Done(l)
	if errors.Is(err, saml.ErrNoSLO) {
		return to, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return to, err
}

// EndedSAML reads a provider's answer to a sign-out. Errors: ErrNone, ErrRefused;
// ErrDenied: somebody may be signed in there still.
func (u *Upstreams) EndedSAML(id string, m saml.Message) (request string, err error) {
	p, _, ok := u.samlOf(id)
	if !ok {
		return "", ErrNone
	}
	request, err = p.Ended(m)
	switch {
	case errors.Is(err, saml.ErrDenied):
		err = fmt.Errorf("%w: %w", ErrDenied, err)
	case err != nil:
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return request, err
}
