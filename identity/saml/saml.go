// Package saml is a SAML 2.0 service provider: it asks identity providers to sign people
// in, reads their answers, and takes part in single logout. It keeps nothing.
//
// Invariants:
//   - Only what a certificate of the configured provider signed is read, and it is read
//     from what the signature covers.
//   - An answer answers a request of this process: there is no sign-in that the provider
//     began. Requests are recognised by their IDs, which are MACs.
//   - An assertion and a sign-out are taken once; whoever keeps that is asked (Once).
//   - Documents that two readers could read differently are refused before they are read.
//   - SHA-1 is not taken. What is encrypted without integrity (CBC) must come in an answer
//     that is signed, or it is not decrypted.
//   - A person is known by a persistent identifier of the provider, or by an attribute
//     that an administrator declared to be one; never by a transient one or an address.
//
// Spec: SAML 2.0 core, bindings, profiles and metadata (OASIS, March 2005, with errata)
package saml

import (
	"bytes"
	"cmp"
	"compress/flate"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/beevik/etree"
	crew "github.com/crewjam/saml"
	"github.com/jonboulle/clockwork"
	dsig "github.com/russellhaering/goxmldsig"
)

// Errors that callers may test for.
var (
	ErrRefused = errors.New("saml: the message is not good")
	ErrDenied  = errors.New("saml: the provider did not sign the person in")
	ErrSubject = errors.New("saml: the provider gives no identifier that stays the same")
	ErrUsed    = errors.New("saml: the message was used before")
	ErrNoSLO   = errors.New("saml: the provider offers no single logout")
)

// Lifetimes.
const (
	askedFor  = 15 * time.Minute // how long somebody has to sign in there
	leaveFor  = 10 * time.Minute // and to sign out
	certYears = 20               // of our own certificate, which the provider pins
)

// maxIdentifier bounds the identifiers of a session; browsers carry them in a cookie.
const maxIdentifier = 256

func init() {
	// The clocks of the two may be apart by this much. An answer is taken once, and answers a
	// request of the last minutes, so that this is no way to use one again.
	crew.MaxClockSkew = 2 * time.Minute
	crew.MaxIssueDelay = 3 * time.Minute
}

// Settings are what is kept of a provider. They have a private key.
type Settings struct {
	IdP
	// Base is the address of here that the provider knows us by.
	Base        string `json:"base"`
	Key         string `json:"key,omitempty"` // PKCS #8, base64
	Certificate string `json:"certificate"`
}

// NewKey makes the key by which our messages are signed and what is meant for us is
// encrypted, and its certificate.
func (s *Settings) NewKey(name string, now time.Time) error {
	key, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(certYears, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	s.Key, s.Certificate = base64.StdEncoding.EncodeToString(pkcs8), base64.StdEncoding.EncodeToString(der)
	return err
}

// PEM is our certificate, as administrators of providers hand it on.
func (s *Settings) PEM() string {
	der, err := base64.StdEncoding.DecodeString(s.Certificate)
	if err != nil {
		return ""
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// Once notes that a message was taken, until it would be too old anyway. Errors: ErrUsed.
type Once func(id string, until time.Time) error

// Options of New.
type Options struct {
	ID       string // short name; part of the addresses
	Settings Settings
	// Persistent asks for an identifier that stays the same; else one is known by an attribute.
	Persistent bool
	Anew       bool     // people prove there anew who they are
	Classes    []string // ways of proving it that are asked for (AuthnContextClassRef)
	MAC        []byte   // of this process
	Now        func() time.Time
}

// Provider is one identity provider, seen from here. Its methods are safe for concurrent use.
type Provider struct {
	o    Options
	key  *rsa.PrivateKey
	cert *x509.Certificate
	peer *crew.EntityDescriptor
}

// New prepares a provider. Errors: ErrMetadata; others when its key cannot be read.
func New(o Options) (*Provider, error) {
	if err := o.Settings.check(); err != nil {
		return nil, err
	}
	p := &Provider{o: o}
	der, err := base64.StdEncoding.DecodeString(o.Settings.Key)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	var ok bool
	if p.key, ok = key.(*rsa.PrivateKey); !ok {
		return nil, errors.New("saml: the key is not RSA")
	}
	if der, err = base64.StdEncoding.DecodeString(o.Settings.Certificate); err == nil {
		p.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		return nil, err
	}
	d := crew.IDPSSODescriptor{}
	for _, c := range o.Settings.Certificates {
		d.KeyDescriptors = append(d.KeyDescriptors, crew.KeyDescriptor{Use: "signing", KeyInfo: crew.KeyInfo{X509Data: crew.X509Data{X509Certificates: []crew.X509Certificate{{Data: c}}}}})
	}
	p.peer = &crew.EntityDescriptor{EntityID: o.Settings.EntityID, IDPSSODescriptors: []crew.IDPSSODescriptor{d}}
	return p, nil
}

// Addresses of here, as the provider has to know them.
func (p *Provider) at(what string) string {
	return p.o.Settings.Base + "/upstream/" + p.o.ID + "/" + what
}

// EntityID is our name for the provider: the address of our metadata.
func (p *Provider) EntityID() string { return p.at("metadata") }

// AssertionURL is where its answers go.
func (p *Provider) AssertionURL() string { return p.at("acs") }

// SignOutURL is where its sign-outs and its answers to ours go.
func (p *Provider) SignOutURL() string { return p.at("slo") }

// clock is the identity provider's own, which does not go back.
type clock struct {
	clockwork.Clock
	now func() time.Time
}

func (c clock) Now() time.Time { return c.now() }

type cache struct{ once Once }

func (c cache) Consume(id string, until time.Time) error {
	err := c.once(id, until)
	if errors.Is(err, ErrUsed) {
		return crew.ErrAssertionReplayed
	}
	return err
}

func (p *Provider) sp(once Once) *crew.ServiceProvider {
	format := crew.PersistentNameIDFormat
	if !p.o.Persistent {
		format = crew.UnspecifiedNameIDFormat
	}
	parse := func(s string) url.URL {
		u, err := url.Parse(s)
		if err != nil { // the base was checked when it was set
			return url.URL{}
		}
		return *u
	}
	sp := &crew.ServiceProvider{
		EntityID: p.EntityID(), MetadataURL: parse(p.at("metadata")), AcsURL: parse(p.at("acs")), SloURL: parse(p.at("slo")),
		Key: p.key, Certificate: p.cert, IDPMetadata: p.peer, AuthnNameIDFormat: format,
		SignatureMethod: dsig.RSASHA256SignatureMethod, SignMetadata: true, MetadataOmitValidUntil: true,
		LogoutBindings:                   []string{crew.HTTPRedirectBinding, crew.HTTPPostBinding},
		AssertionConsumerServiceBindings: []string{crew.HTTPPostBinding},
		RejectSHA1Signatures:             true, RejectUnknownConditions: true, RequireSignedResponseForCBC: true,
		SignatureVerifier: verifier{},
		Clock:             dsig.NewFakeClock(clock{clockwork.NewRealClock(), p.o.Now}),
	}
	if len(p.o.Classes) > 0 {
		sp.RequestedAuthnContext = &crew.RequestedAuthnContext{Comparison: "exact", AuthnContextClassRefs: p.o.Classes}
	}
	if once != nil {
		sp.ReplayCache = cache{once}
	}
	return sp
}

// Metadata describe us to the provider, signed by the key that signs our messages.
func (p *Provider) Metadata() ([]byte, error) {
	el, err := p.sp(nil).SignedMetadata()
	if err != nil {
		return nil, err
	}
	return document(el)
}

func document(el *etree.Element) ([]byte, error) {
	d := etree.NewDocument()
	d.SetRoot(el)
	return d.WriteToBytes()
}

// Going is where a browser goes: to an address, or, with values, to it by a form.
type Going struct {
	URL  string
	Form url.Values
}

// id makes the ID of a request, by which it is recognised in the answer.
func (p *Provider) id(purpose string) string {
	b := make([]byte, 20, 36)
	rand.Read(b[4:])
	binary.BigEndian.PutUint32(b, uint32(p.o.Now().Unix()))
	return "_" + hex.EncodeToString(append(b, p.mac(purpose, b)...))
}

func (p *Provider) mac(purpose string, b []byte) []byte {
	h := hmac.New(sha256.New, p.o.MAC)
	fmt.Fprintf(h, "%s\x00%s\x00%s\x00", purpose, p.o.ID, p.o.Settings.EntityID)
	h.Write(b)
	return h.Sum(nil)[:16]
}

// ours reports whether an ID is of a request that was made here lately.
func (p *Provider) ours(purpose, id string, within time.Duration) bool {
	text, ok := strings.CutPrefix(id, "_")
	b, err := hex.DecodeString(text)
	if !ok || err != nil || len(b) != 36 || !hmac.Equal(b[20:], p.mac(purpose, b[:20])) {
		return false
	}
	age := p.o.Now().Sub(time.Unix(int64(binary.BigEndian.Uint32(b)), 0))
	return age > -time.Minute && age < within
}

// Ask makes a request to sign somebody in.
func (p *Provider) Ask() (to Going, id string, err error) { return p.request(p.o.Anew) }

// AskAnew is Ask for somebody who has to prove anew who they are, whatever session they
// have there (ForceAuthn). Spec: saml-core-2.0-os section 3.4.1
func (p *Provider) AskAnew() (to Going, id string, err error) { return p.request(true) }

func (p *Provider) request(anew bool) (to Going, id string, err error) {
	sp := p.sp(nil)
	s := &p.o.Settings
	at := cmp.Or(s.SignInRedirect, s.SignInPost)
	// Not the binding of the request but that of the answer is by post. It is signed below.
	req, err := sp.MakeAuthenticationRequest(at, crew.HTTPRedirectBinding, crew.HTTPPostBinding)
	if err != nil {
		return to, "", err
	}
	req.ID = p.id("sign-in")
	if anew {
		req.ForceAuthn = &anew
	}
	if s.SignInRedirect != "" {
		u, err := req.Redirect("", sp)
		if err != nil {
			return to, "", err
		}
		return Going{URL: u.String()}, req.ID, nil
	}
	if err := sp.SignAuthnRequest(req); err != nil {
		return to, "", err
	}
	to, err = posted(at, "SAMLRequest", req.Element(), "")
	return to, req.ID, err
}

func posted(at, name string, el *etree.Element, relay string) (Going, error) {
	raw, err := document(el)
	if err != nil {
		return Going{}, err
	}
	v := url.Values{name: {base64.StdEncoding.EncodeToString(raw)}}
	if relay != "" {
		v.Set("RelayState", relay)
	}
	return Going{at, v}, nil
}

// Session is what a provider calls the session that it made somebody's here from.
type Session struct {
	NameID          string `json:"n"`
	Format          string `json:"f,omitempty"`
	NameQualifier   string `json:"q,omitempty"`
	SPNameQualifier string `json:"s,omitempty"`
	Index           string `json:"i,omitempty"`
}

// Assertion is what a provider said of somebody.
type Assertion struct {
	Request    string // what it answers
	Session    Session
	Persistent bool      // the name ID is one that stays the same
	Class      string    // in which way the person proved who they are (AuthnContextClassRef)
	At         time.Time // and when (AuthnInstant); zero: it does not say
	Attributes map[string][]string
}

// Answer reads an answer to a request, which came by post. Errors: ErrRefused, ErrDenied,
// ErrUsed.
func (p *Provider) Answer(encoded string, once Once) (Assertion, error) {
	refuse := func(err error) (Assertion, error) { return Assertion{}, refused(err) }
	raw, root, err := decode(encoded, "Response")
	if err != nil {
		return refuse(err)
	}
	id := root.SelectAttrValue("InResponseTo", "")
	if id == "" {
		return refuse(errors.New("nobody asked for it: sign-ins begin here, not at the provider"))
	}
	if !p.ours("sign-in", id, askedFor) {
		return refuse(errors.New("it answers no request of here, or came too late"))
	}
	sp := p.sp(once)
	a, err := sp.ParseXMLResponse(raw, []string{id}, sp.AcsURL)
	if err != nil {
		return refuse(err)
	}
	now := p.o.Now()
	out := Assertion{Request: id, Attributes: map[string][]string{}}
	if n := a.Subject.NameID; n != nil {
		out.Session = Session{NameID: n.Value, Format: n.Format, NameQualifier: n.NameQualifier, SPNameQualifier: n.SPNameQualifier}
		out.Persistent = n.Format == string(crew.PersistentNameIDFormat) && n.Value != ""
	}
	for _, s := range a.AuthnStatements {
		if s.SessionNotOnOrAfter != nil && !now.Before(*s.SessionNotOnOrAfter) {
			return refuse(errors.New("the session there has ended"))
		}
		if out.Session.Index == "" {
			out.Session.Index = s.SessionIndex
		}
		if s.AuthnInstant.After(out.At) {
			out.At = s.AuthnInstant
		}
		if c := s.AuthnContext.AuthnContextClassRef; c != nil && out.Class == "" {
			out.Class = c.Value
		}
	}
	for _, v := range []string{out.Session.NameID, out.Session.Format, out.Session.NameQualifier, out.Session.SPNameQualifier, out.Session.Index} {
		if len(v) > maxIdentifier {
			return refuse(errors.New("an identifier in it is too long"))
		}
	}
	for _, s := range a.AttributeStatements {
		for _, x := range s.Attributes {
			for _, v := range x.Values {
				text := strings.TrimSpace(v.Value)
				if v.NameID != nil { // eduPersonTargetedID
					text = strings.TrimSpace(v.NameID.Value)
				}
				if text != "" && len(text) <= maxText {
					out.Attributes[x.Name] = append(out.Attributes[x.Name], text)
				}
			}
		}
	}
	return out, nil
}

// refused says why a message is refused, with the library's reason where it has one.
func refused(err error) error {
	var r *crew.InvalidResponseError
	if errors.As(err, &r) && r.PrivateErr != nil {
		err = r.PrivateErr
	}
	var status crew.ErrBadStatus
	switch {
	case errors.As(err, &status):
		return fmt.Errorf("%w: %.200q", ErrDenied, status.Status)
	case errors.Is(err, crew.ErrAssertionReplayed):
		return fmt.Errorf("%w: %w", ErrRefused, ErrUsed)
	}
	return fmt.Errorf("%w: %.400w", ErrRefused, err)
}

// decode reads a message that came by post.
func decode(encoded, want string) (raw []byte, root *etree.Element, err error) {
	encoded = strings.Map(func(r rune) rune {
		if r == '\r' || r == '\n' || r == ' ' || r == '\t' {
			return -1
		}
		return r
	}, encoded)
	if encoded == "" {
		return nil, nil, errors.New("there is no message")
	}
	if base64.StdEncoding.DecodedLen(len(encoded)) > maxMessage+3 {
		return nil, nil, fmt.Errorf("it is longer than %d KiB", maxMessage>>10)
	}
	if raw, err = base64.StdEncoding.DecodeString(encoded); err != nil {
		return nil, nil, errors.New("it is not base64")
	}
	root, err = read(raw, want)
	return raw, root, err
}

func read(raw []byte, want string) (*etree.Element, error) {
	if err := clean(raw, maxMessage); err != nil {
		return nil, err
	}
	d := etree.NewDocument()
	if err := d.ReadFromBytes(raw); err != nil {
		return nil, err
	}
	root := d.Root()
	if root == nil || root.NamespaceURI() != nsProtocol {
		return nil, errors.New("it is no message of SAML 2.0")
	}
	return root, shape(root, want)
}

// LogoutURL is where the provider is told of a sign-out; "": it offers no single logout.
func (p *Provider) LogoutURL() string {
	return cmp.Or(p.o.Settings.SignOutRedirect, p.o.Settings.SignOutPost)
}

// Leave makes the request that ends somebody's session at the provider. Errors: ErrNoSLO.
func (p *Provider) Leave(s Session) (to Going, id string, err error) {
	set, at := &p.o.Settings, p.LogoutURL()
	if at == "" {
		return to, "", ErrNoSLO
	}
	sp := p.sp(nil)
	id = p.id("sign-out")
	req, err := sp.MakeLogoutRequest(at, s.NameID, crew.WithSessionIndex(s.Index), func(r *crew.LogoutRequest) {
		r.ID = id
		r.NameID = &crew.NameID{Value: s.NameID, Format: s.Format, NameQualifier: s.NameQualifier, SPNameQualifier: s.SPNameQualifier}
		until := p.o.Now().Add(leaveFor).UTC()
		r.NotOnOrAfter = &until
	})
	if err != nil {
		return to, "", err
	}
	if set.SignOutRedirect == "" {
		to, err = posted(at, "SAMLRequest", req.Element(), "")
		return to, id, err
	}
	u, err := sp.RedirectLogoutRequestURL(req, "")
	if err != nil {
		return to, "", err
	}
	return Going{URL: u.String()}, id, nil
}

// Message is one of single logout.
type Message struct {
	// Request and Response are the encoded message; one of them is empty.
	Request, Response string
	RelayState        string
	// Query is the query string as it was sent, for one that came by redirect; "": by post.
	Query string
}

func (m Message) request(base string) *http.Request {
	u, _ := url.Parse(base)
	r := &http.Request{Method: http.MethodPost, URL: u, Header: http.Header{}}
	if m.Query != "" {
		r.Method = http.MethodGet
		u.RawQuery = m.Query
		return r
	}
	r.PostForm = url.Values{}
	if m.Request != "" {
		r.PostForm.Set("SAMLRequest", m.Request)
	}
	if m.Response != "" {
		r.PostForm.Set("SAMLResponse", m.Response)
	}
	r.Form = r.PostForm
	return r
}

// look refuses what must not come as far as the library.
func (m Message) look(want string) (*etree.Element, error) {
	encoded := m.Request + m.Response
	if m.Request != "" && m.Response != "" {
		return nil, errors.New("it is request and response at once")
	}
	if m.Query == "" {
		_, root, err := decode(encoded, want)
		return root, err
	}
	if len(m.Query) > maxMessage {
		return nil, errors.New("it is too long")
	}
	packed, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, errors.New("it is not base64")
	}
	raw, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), maxMessage+1))
	if err != nil {
		return nil, errors.New("it cannot be unpacked")
	}
	return read(raw, want)
}

// Leaving is what a provider wants to end.
type Leaving struct {
	ID      string // of its request
	NameID  string
	Indexes []string // none: every session
	relay   string
}

// Names reports whether a session of the person is to end.
func (l Leaving) Names(index string) bool {
	return len(l.Indexes) == 0 || slices.Contains(l.Indexes, index)
}

// Left reads a provider's request to end somebody's sessions. Errors: ErrRefused, ErrUsed.
func (p *Provider) Left(m Message, once Once) (Leaving, error) {
	if _, err := m.look("LogoutRequest"); err != nil {
		return Leaving{}, refused(err)
	}
	req, err := p.sp(once).ValidateLogoutRequest(m.request(p.at("slo")))
	if err != nil {
		return Leaving{}, refused(err)
	}
	out := Leaving{ID: req.ID, NameID: req.NameID.Value, relay: m.RelayState}
	for _, i := range req.AllSessionIndexes() {
		if i.Value != "" {
			out.Indexes = append(out.Indexes, i.Value)
		}
	}
	if len(out.Indexes) > 100 || len(req.ID) > maxText {
		return Leaving{}, refused(errors.New("it names too many sessions"))
	}
	return out, nil
}

// Done answers a provider's request, whose sessions have ended. Errors: ErrNoSLO.
func (p *Provider) Done(l Leaving) (Going, error) {
	s := &p.o.Settings
	sp := p.sp(nil)
	at := cmp.Or(s.AnswerRedirect, s.AnswerPost)
	if at == "" {
		return Going{}, ErrNoSLO
	}
	if s.AnswerRedirect == "" {
		resp, err := sp.MakeLogoutResponse(at, l.ID)
		if err != nil {
			return Going{}, err
		}
		return posted(at, "SAMLResponse", resp.Element(), l.relay)
	}
	// The library takes the address from the metadata.
	peer := *p.peer
	d := peer.IDPSSODescriptors[0]
	d.SingleLogoutServices = []crew.Endpoint{{Binding: crew.HTTPRedirectBinding, Location: at}}
	peer.IDPSSODescriptors = []crew.IDPSSODescriptor{d}
	sp.IDPMetadata = &peer
	u, err := sp.MakeRedirectLogoutResponse(l.ID, l.relay)
	if err != nil {
		return Going{}, err
	}
	return Going{URL: u.String()}, nil
}

// Ended reads the answer to Leave; id is of its request. Errors: ErrRefused, ErrDenied:
// the provider did not end everything.
func (p *Provider) Ended(m Message) (id string, err error) {
	root, err := m.look("LogoutResponse")
	if err != nil {
		return "", refused(err)
	}
	id = root.SelectAttrValue("InResponseTo", "")
	if !p.ours("sign-out", id, leaveFor) {
		return "", refused(errors.New("it answers no request of here"))
	}
	resp, err := p.sp(nil).ParseLogoutResponse(m.request(p.at("slo")), []string{id})
	if err != nil {
		return id, refused(err)
	}
	if c := resp.Status.StatusCode.StatusCode; c != nil && c.Value == crew.StatusPartialLogout {
		return id, fmt.Errorf("%w: it did not end everything", ErrDenied)
	}
	return id, nil
}
