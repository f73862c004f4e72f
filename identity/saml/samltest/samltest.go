// Package samltest is a SAML 2.0 identity provider for tests, made with crewjam/saml. It
// serves sign-in and single logout over HTTP, and also gives out its messages before they
// are sent, so that tests can bend them.
//
// Invariants: only tests use it; it takes requests that are signed by a service provider
// that it knows, as a real one, and shares none of its code with package saml.
package samltest

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/xml"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/beevik/etree"
	crew "github.com/crewjam/saml"
	dsig "github.com/russellhaering/goxmldsig"
)

// IdP is an identity provider where somebody is always signed in.
type IdP struct {
	*crew.IdentityProvider
	Server *httptest.Server
	Key    *rsa.PrivateKey
	// Bend changes assertions before they are signed.
	Bend func(*crew.Assertion)

	mu     sync.Mutex
	person *crew.Session
	known  map[string]*crew.EntityDescriptor
	plain  bool // encrypt nothing
	parts  []crew.SessionParticipant
	ended  []string // names of those who were signed out
}

// Keys are made once a process: it takes its time.
var Keys = [3]func() *rsa.PrivateKey{sync.OnceValue(newKey), sync.OnceValue(newKey), sync.OnceValue(newKey)}

func newKey() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
}

// New starts a provider, whose key is the first of Keys. It ends with the test.
func New(t testing.TB) *IdP {
	t.Helper()
	i, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Server.Close)
	return i
}

// Start is New for programs that run tests, which close its server themselves.
func Start() (*IdP, error) {
	key := Keys[0]()
	cert, err := certificate(key, time.Now().Add(-time.Hour), time.Now().AddDate(2, 0, 0))
	if err != nil {
		return nil, err
	}
	i := &IdP{Key: key, known: map[string]*crew.EntityDescriptor{}}
	mux := http.NewServeMux()
	i.Server = httptest.NewServer(mux)
	host := strings.TrimPrefix(i.Server.URL, "http://")
	at := func(path string) url.URL { return url.URL{Scheme: "http", Host: host, Path: path} }
	i.IdentityProvider = &crew.IdentityProvider{
		Key: key, Certificate: cert, Logger: log.New(io.Discard, "", 0),
		MetadataURL: at("/metadata"), SSOURL: at("/sso"), LogoutURL: at("/slo"),
		ServiceProviderProvider: i, SessionProvider: i, AssertionMaker: i,
		SignatureMethod: dsig.RSASHA256SignatureMethod, RejectSHA1Signatures: true, WantAuthnRequestsSigned: true,
		NameIDFormats:  []crew.NameIDFormat{crew.PersistentNameIDFormat},
		LogoutBindings: []string{crew.HTTPRedirectBinding, crew.HTTPPostBinding},
	}
	if os.Getenv("SAMLTEST_LOG") != "" {
		i.Logger = log.New(os.Stderr, "idp: ", 0)
	}
	mux.HandleFunc("/sso", i.ServeSSO)
	mux.HandleFunc("/slo", i.ServeSLO)
	mux.HandleFunc("/metadata", i.ServeMetadata)
	mux.HandleFunc("/out", func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		p := i.person
		i.mu.Unlock()
		i.StartLogout(w, r, p, "")
	})
	return i, nil
}

// Certificate is a certificate of a key, signed by itself.
func Certificate(t testing.TB, key *rsa.PrivateKey, from, until time.Time) *x509.Certificate {
	t.Helper()
	c, err := certificate(key, from, until)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func certificate(key *rsa.PrivateKey, from, until time.Time) (*x509.Certificate, error) {
	c := &x509.Certificate{SerialNumber: big.NewInt(from.UnixNano()), Subject: pkix.Name{CommonName: "idp"}, NotBefore: from, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// XML are its metadata.
func (i *IdP) XML(t testing.TB) []byte {
	t.Helper()
	raw, err := xml.MarshalIndent(i.Metadata(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Know makes it know a service provider by its metadata.
func (i *IdP) Know(t testing.TB, metadata []byte) *crew.EntityDescriptor {
	t.Helper()
	d, err := i.Learn(metadata)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Learn is Know without a test.
func (i *IdP) Learn(metadata []byte) (*crew.EntityDescriptor, error) {
	var d crew.EntityDescriptor
	if err := xml.Unmarshal(metadata, &d); err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.known[d.EntityID] = &d
	return &d, nil
}

// Plain has it encrypt nothing.
func (i *IdP) Plain(yes bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.plain = yes
}

// SignIn has somebody be signed in there, in a session with an index.
func (i *IdP) SignIn(nameID, format, user, full, index string, more ...crew.Attribute) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.person = &crew.Session{ID: index, CreateTime: time.Now(), ExpireTime: time.Now().Add(time.Hour), Index: index, NameID: nameID, NameIDFormat: format,
		UserName: user, UserCommonName: full, CustomAttributes: more}
}

// Ended are the names of those whom a service provider signed out there.
func (i *IdP) Ended() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]string(nil), i.ended...)
}

// GetServiceProvider is for the library.
func (i *IdP) GetServiceProvider(_ *http.Request, id string) (*crew.EntityDescriptor, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	d := i.known[id]
	if d == nil {
		return nil, os.ErrNotExist
	}
	if !i.plain {
		return d, nil
	}
	x := *d
	x.SPSSODescriptors = append([]crew.SPSSODescriptor(nil), d.SPSSODescriptors...)
	var keys []crew.KeyDescriptor
	for _, k := range d.SPSSODescriptors[0].KeyDescriptors {
		if k.Use == "signing" {
			keys = append(keys, k)
		}
	}
	x.SPSSODescriptors[0].KeyDescriptors = keys
	return &x, nil
}

// GetSession is for the library.
func (i *IdP) GetSession(w http.ResponseWriter, _ *http.Request, _ *crew.IdpAuthnRequest) *crew.Session {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.person == nil {
		http.Error(w, "nobody is signed in", http.StatusForbidden)
	}
	return i.person
}

// MakeAssertion is for the library.
func (i *IdP) MakeAssertion(req *crew.IdpAuthnRequest, s *crew.Session) error {
	err := crew.DefaultAssertionMaker{}.MakeAssertion(req, s)
	if err == nil && i.Bend != nil {
		i.Bend(req.Assertion)
	}
	return err
}

// InvalidateSession is for the library.
func (i *IdP) InvalidateSession(_ http.ResponseWriter, _ *http.Request, req *crew.IdpLogoutRequest) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.person != nil && req.MatchesSession(i.person) {
		i.ended = append(i.ended, i.person.UserName)
		i.person, i.parts = nil, nil
	}
	return nil
}

// AddSessionParticipant is for the library.
func (i *IdP) AddSessionParticipant(_ *http.Request, _ *crew.Session, p crew.SessionParticipant) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.parts = []crew.SessionParticipant{p}
	return nil
}

// SessionParticipants is for the library.
func (i *IdP) SessionParticipants(_ *http.Request, match func(*crew.Session) bool) ([]crew.SessionParticipant, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.person == nil || !match(i.person) {
		return nil, nil
	}
	return append([]crew.SessionParticipant(nil), i.parts...), nil
}

// Respond is its answer to a request by redirect: signed, and its assertion as well.
func (i *IdP) Respond(t testing.TB, to string) *etree.Element {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, to, nil)
	r.RemoteAddr = net.JoinHostPort("192.0.2.1", "1")
	req, err := crew.NewIdpAuthnRequest(i.IdentityProvider, r)
	if err == nil {
		err = req.Validate()
	}
	if err != nil {
		t.Fatalf("the request is not good: %v", err)
	}
	i.mu.Lock()
	p := i.person
	i.mu.Unlock()
	if err := i.MakeAssertion(req, p); err != nil {
		t.Fatal(err)
	}
	if err := req.MakeResponse(); err != nil {
		t.Fatal(err)
	}
	return req.ResponseEl
}

// Sign signs an element anew, by a key and an algorithm; "": RSA with SHA-256.
func Sign(t testing.TB, el *etree.Element, key *rsa.PrivateKey, cert *x509.Certificate, method string) *etree.Element {
	t.Helper()
	Unsign(el)
	c, err := dsig.NewSigningContext(key, [][]byte{cert.Raw})
	if err != nil {
		t.Fatal(err)
	}
	c.Canonicalizer = dsig.MakeC14N10ExclusiveCanonicalizerWithPrefixList("")
	if method == "" {
		method = dsig.RSASHA256SignatureMethod
	}
	if err := c.SetSignatureMethod(method); err != nil {
		t.Fatal(err)
	}
	out, err := c.SignEnveloped(el)
	if err != nil {
		t.Fatal(err)
	}
	// The schema wants it after the issuer.
	sig := out.Child[len(out.Child)-1]
	out.RemoveChildAt(len(out.Child) - 1)
	at := 0
	for n, ch := range out.Child {
		if e, ok := ch.(*etree.Element); ok && e.Tag == "Issuer" {
			at = n + 1
		}
	}
	out.InsertChildAt(at, sig)
	return out
}

// Unsign removes the signature of an element.
func Unsign(el *etree.Element) *etree.Element {
	for _, c := range el.ChildElements() {
		if c.Tag == "Signature" {
			el.RemoveChild(c)
		}
	}
	return el
}

// Bytes are an element as a document.
func Bytes(t testing.TB, el *etree.Element) []byte {
	t.Helper()
	d := etree.NewDocument()
	d.SetRoot(el.Copy())
	raw, err := d.WriteToBytes()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Element reads a document.
func Element(t testing.TB, raw []byte) *etree.Element {
	t.Helper()
	d := etree.NewDocument()
	if err := d.ReadFromBytes(raw); err != nil {
		t.Fatal(err)
	}
	return d.Root()
}

// Child is the first child of a name.
func Child(el *etree.Element, tag string) *etree.Element {
	for _, c := range el.ChildElements() {
		if c.Tag == tag {
			return c
		}
	}
	return nil
}

// Replace is a document with one text put for another, which must be in it.
func Replace(t testing.TB, raw []byte, old, new string) []byte {
	t.Helper()
	if !strings.Contains(string(raw), old) {
		t.Fatalf("%q is not in %s", old, raw)
	}
	return bytes.ReplaceAll(raw, []byte(old), []byte(new))
}
