package upstream

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/beevik/etree"
	crew "github.com/crewjam/saml"
	"github.com/crewjam/saml/xmlenc"
	dsig "github.com/russellhaering/goxmldsig"

	"holdfast/identity/account"
	"holdfast/identity/saml"
	"holdfast/identity/saml/samltest"
	"holdfast/store"
)

const (
	persistent = string(crew.PersistentNameIDFormat)
	transient  = string(crew.TransientNameIDFormat)
)

// samlRig is a SAML provider and the appliance's side of it.
type samlRig struct {
	*testing.T
	u   *Upstreams
	idp *samltest.IdP
	now time.Time // 0: the machine's
}

func newSAMLRig(t *testing.T) *samlRig {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "x.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	r := &samlRig{T: t, idp: samltest.New(t)}
	now := func() time.Time {
		if r.now.IsZero() {
			return time.Now()
		}
		return r.now
	}
	same := func(s string) (string, error) { return s, nil }
	accounts := account.New(account.Options{DB: db, ServerName: "hs.test", Now: now})
	r.u, err = New(t.Context(), Options{DB: db, Log: quiet(), Accounts: accounts, Seal: same, Unseal: same, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	accounts.OnEnd(func(tx *store.Tx, _, sid string) error { return r.u.EndedTx(tx, sid) })
	r.set("s", Config{})
	r.idp.SignIn("id-of-dora", persistent, "Dora", "Dora D", "s1")
	return r
}

// ourKey is made once: it takes its time.
var ourKey = sync.OnceValue(func() saml.Settings {
	var s saml.Settings
	if err := s.NewKey("hs.test", time.Now()); err != nil {
		panic(err)
	}
	return s
})

func (r *samlRig) set(id string, c Config) {
	r.Helper()
	if r.u.open[id] == nil { // as if it had been there, with its key
		k := ourKey()
		r.u.open[id] = &opened{c: Config{SAML: &k}}
	}
	p, err := saml.ParseMetadata(r.idp.XML(r.T), "", time.Now())
	if err != nil {
		r.Fatal(err)
	}
	c.Name, c.SAML = "S", &saml.Settings{IdP: p, Base: "https://hs.test"}
	if err := r.u.Set(r.Context(), id, c); err != nil {
		r.Fatal(err)
	}
	raw, err := r.u.Metadata(id)
	if err != nil {
		r.Fatal(err)
	}
	r.idp.Know(r.T, raw)
}

func (r *samlRig) ask() (Asked, string) {
	r.Helper()
	to, asked, err := r.u.AskSAML("s", "next=x")
	if err != nil || to.Form != nil {
		r.Fatalf("%+v %v", to, err)
	}
	return asked, to.URL
}

func (r *samlRig) answer(raw []byte) error {
	return r.u.AnswerSAML(r.Context(), "s", base64.StdEncoding.EncodeToString(raw))
}

// good is a sign-in that must work.
func (r *samlRig) good(bend func(*crew.Assertion)) Person {
	r.Helper()
	asked, to := r.ask()
	r.idp.Bend = bend
	defer func() { r.idp.Bend = nil }()
	if err := r.answer(samltest.Bytes(r.T, r.idp.Respond(r.T, to))); err != nil {
		r.Fatal(err)
	}
	who, err := r.u.Come(asked)
	if err != nil {
		r.Fatal(err)
	}
	return who
}

// assertionOnly is an answer whose assertion alone is signed, as many providers do.
func (r *samlRig) assertionOnly(to string) *etree.Element {
	return samltest.Unsign(r.idp.Respond(r.T, to))
}

// evil is an assertion about somebody else.
func evil(a *etree.Element) *etree.Element {
	e := samltest.Unsign(a.Copy())
	e.CreateAttr("ID", "evil")
	e.FindElement("./Subject/NameID").SetText("id-of-the-owner")
	return e
}

// 38: an answer that is unsigned, wrapped, for others, replayed, or that nobody asked for
// signs nobody in. Each is tried with a request that is good, and the good answer to
// that works after it.
// Spec: SAML 2.0 core 2.3.3, 2.4.1.2, 2.5.1; profiles 4.1.4.3, 4.1.4.5
func TestAttack38SAMLAnswers(t *testing.T) {
	r := newSAMLRig(t)
	r.idp.Plain(true)
	other := samltest.Keys[1]()
	otherCert := samltest.Certificate(t, other, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	child := samltest.Child
	sign := func(el *etree.Element) *etree.Element {
		return samltest.Sign(t, el, r.idp.Key, r.idp.Certificate, "")
	}
	// bent is an answer with an assertion that the provider signed as it is.
	bent := func(bend func(*crew.Assertion)) func(string) []byte {
		return func(to string) []byte {
			r.idp.Bend = bend
			defer func() { r.idp.Bend = nil }()
			return samltest.Bytes(t, r.idp.Respond(t, to))
		}
	}
	// wrapped changes an answer whose assertion alone is signed.
	wrapped := func(f func(resp, a *etree.Element)) func(string) []byte {
		return func(to string) []byte {
			resp := r.assertionOnly(to)
			f(resp, child(resp, "Assertion"))
			return samltest.Bytes(t, resp)
		}
	}
	// resigned changes the answer and signs it anew, as the provider or not.
	resigned := func(f func(resp *etree.Element) *etree.Element) func(string) []byte {
		return func(to string) []byte { return samltest.Bytes(t, f(r.idp.Respond(t, to))) }
	}
	text := func(old, new string) func(string) []byte {
		return func(to string) []byte {
			return samltest.Replace(t, samltest.Bytes(t, r.assertionOnly(to)), old, new)
		}
	}
	used := samltest.Bytes(t, func() *etree.Element {
		asked, to := r.ask()
		el := r.idp.Respond(t, to)
		if err := r.answer(samltest.Bytes(t, el)); err != nil {
			t.Fatal(err)
		}
		if who, err := r.u.Come(asked); err != nil || who.Subject != "persistent id-of-dora" || who.Issuer != r.idp.MetadataURL.String() || who.Name != "dora" || who.Full != "Dora D" {
			t.Fatalf("%+v %v", who, err)
		}
		if _, err := r.u.Come(asked); !errors.Is(err, ErrRefused) {
			t.Fatalf("it comes twice: %v", err)
		}
		return el
	}())
	for what, make := range map[string]func(to string) []byte{
		"unsigned": wrapped(func(_, a *etree.Element) { samltest.Unsign(a) }),
		"signed by another": resigned(func(resp *etree.Element) *etree.Element {
			a := child(resp, "Assertion")
			resp.RemoveChild(a)
			resp.AddChild(samltest.Sign(t, a, other, otherCert, ""))
			return samltest.Sign(t, resp, other, otherCert, "")
		}),
		"signed by another, under the certificate of the provider": resigned(func(resp *etree.Element) *etree.Element {
			a := child(resp, "Assertion")
			resp.RemoveChild(a)
			resp.AddChild(samltest.Sign(t, a, other, r.idp.Certificate, ""))
			return samltest.Unsign(resp)
		}),
		"changed after it was signed": text("id-of-dora", "id-of-the-owner"),
		// Signature wrapping: the signed assertion is there, and another is to be read.
		"wrapped: another assertion before the signed one": wrapped(func(resp, a *etree.Element) { resp.InsertChildAt(a.Index(), evil(a)) }),
		"wrapped: another assertion after the signed one":  wrapped(func(resp, a *etree.Element) { resp.AddChild(evil(a)) }),
		"wrapped: the signed assertion inside of another": wrapped(func(resp, a *etree.Element) {
			e := evil(a)
			resp.RemoveChild(a)
			e.AddChild(a)
			resp.AddChild(e)
		}),
		"wrapped: another with the signature, the signed one after it": wrapped(func(resp, a *etree.Element) {
			e := evil(a)
			sig := child(a, "Signature").Copy()
			e.InsertChildAt(1, sig)
			samltest.Unsign(a)
			resp.InsertChildAt(a.Index(), e)
		}),
		"wrapped: the signed one in the signature of another": wrapped(func(resp, a *etree.Element) {
			e := evil(a)
			sig := child(a, "Signature").Copy()
			resp.RemoveChild(a)
			samltest.Unsign(a)
			o := sig.CreateElement("ds:Object")
			o.AddChild(a)
			e.InsertChildAt(1, sig)
			resp.AddChild(e)
		}),
		"wrapped: the signed one in extensions": wrapped(func(resp, a *etree.Element) {
			e := evil(a)
			resp.RemoveChild(a)
			x := resp.CreateElement("samlp:Extensions")
			x.AddChild(a)
			resp.AddChild(e)
		}),
		"wrapped: the same ID twice": wrapped(func(resp, a *etree.Element) {
			e := evil(a)
			e.CreateAttr("ID", a.SelectAttrValue("ID", ""))
			resp.InsertChildAt(a.Index(), e)
		}),
		"wrapped: the signed answer in another": resigned(func(resp *etree.Element) *etree.Element {
			outer := resp.Copy()
			samltest.Unsign(outer)
			outer.CreateAttr("ID", "evil")
			a := child(outer, "Assertion")
			outer.RemoveChild(a)
			outer.AddChild(evil(a))
			sig := child(resp, "Signature").Copy()
			samltest.Unsign(resp)
			o := sig.CreateElement("ds:Object")
			o.AddChild(resp)
			outer.InsertChildAt(1, sig)
			return outer
		}),
		"wrapped: the signed answer after its signature": resigned(func(resp *etree.Element) *etree.Element {
			outer := samltest.Unsign(resp.Copy())
			outer.CreateAttr("ID", "evil")
			a := child(outer, "Assertion")
			outer.RemoveChild(a)
			outer.AddChild(evil(a))
			outer.AddChild(child(resp, "Signature").Copy())
			outer.AddChild(samltest.Unsign(resp))
			return outer
		}),
		"two assertions that are signed": resigned(func(resp *etree.Element) *etree.Element {
			a := child(resp, "Assertion").Copy()
			a.CreateAttr("ID", "second")
			resp.AddChild(sign(a))
			return sign(resp)
		}),
		"a signature of the whole document by no name": wrapped(func(_, a *etree.Element) {
			a.FindElement("./Signature/SignedInfo/Reference").CreateAttr("URI", "")
		}),
		"for another application":      bent(func(a *crew.Assertion) { a.Conditions.AudienceRestrictions[0].Audience.Value = "https://evil.test" }),
		"for everybody":                bent(func(a *crew.Assertion) { a.Conditions.AudienceRestrictions = nil }),
		"for another address":          bent(func(a *crew.Assertion) { recipient(a).Recipient = "https://evil.test/acs" }),
		"for another provider of here": bent(func(a *crew.Assertion) { recipient(a).Recipient = "https://hs.test/upstream/t/acs" }),
		"of another issuer":            bent(func(a *crew.Assertion) { a.Issuer.Value = "https://evil.test" }),
		"too old":                      bent(func(a *crew.Assertion) { a.Conditions.NotOnOrAfter = time.Now().Add(-time.Hour) }),
		"confirmed too long ago":       bent(func(a *crew.Assertion) { recipient(a).NotOnOrAfter = time.Now().Add(-time.Hour) }),
		"made too long ago":            bent(func(a *crew.Assertion) { a.IssueInstant = time.Now().Add(-time.Hour) }),
		"of the future":                bent(func(a *crew.Assertion) { a.IssueInstant = time.Now().Add(time.Hour) }),
		"not valid yet":                bent(func(a *crew.Assertion) { a.Conditions.NotBefore = time.Now().Add(time.Hour) }),
		"without conditions":           bent(func(a *crew.Assertion) { a.Conditions = nil }),
		"without confirmation":         bent(func(a *crew.Assertion) { a.Subject.SubjectConfirmations = nil }),
		"confirmed by another method": bent(func(a *crew.Assertion) {
			a.Subject.SubjectConfirmations[0].Method = "urn:oasis:names:tc:SAML:2.0:cm:sender-vouches"
		}),
		"without a sign-in": bent(func(a *crew.Assertion) { a.AuthnStatements = nil }),
		"of a session that ended": bent(func(a *crew.Assertion) {
			past := time.Now().Add(-time.Hour)
			a.AuthnStatements[0].SessionNotOnOrAfter = &past
		}),
		"that nobody asked for, confirmed": bent(func(a *crew.Assertion) { recipient(a).InResponseTo = "" }),
		"of another's request":             bent(func(a *crew.Assertion) { x, _ := r.ask(); recipient(a).InResponseTo = x.State }),
		"about nobody":                     bent(func(a *crew.Assertion) { a.Subject.NameID.Value = "" }),
		"about a transient name":           bent(func(a *crew.Assertion) { a.Subject.NameID.Format = transient }),
		"about an address":                 bent(func(a *crew.Assertion) { a.Subject.NameID.Format = string(crew.EmailAddressNameIDFormat) }),
		"about a name of no format":        bent(func(a *crew.Assertion) { a.Subject.NameID.Format = "" }),
		"about a name that is too long":    bent(func(a *crew.Assertion) { a.Subject.NameID.Value = strings.Repeat("x", 300) }),
		"that nobody asked for": resigned(func(resp *etree.Element) *etree.Element {
			resp.RemoveAttr("InResponseTo")
			return sign(resp)
		}),
		"to a request of nobody": resigned(func(resp *etree.Element) *etree.Element {
			resp.CreateAttr("InResponseTo", "_"+strings.Repeat("ab", 36))
			return sign(resp)
		}),
		"to another address": resigned(func(resp *etree.Element) *etree.Element {
			resp.CreateAttr("Destination", "https://evil.test/acs")
			return sign(resp)
		}),
		"by another issuer": resigned(func(resp *etree.Element) *etree.Element {
			child(resp, "Issuer").SetText("https://evil.test")
			return sign(resp)
		}),
		"replayed": func(string) []byte { return used },
		"replayed in another answer": func(to string) []byte {
			resp := r.assertionOnly(to)
			resp.RemoveChild(child(resp, "Assertion"))
			resp.AddChild(child(samltest.Element(t, used), "Assertion"))
			return samltest.Bytes(t, resp)
		},
		"signed with SHA-1": resigned(func(resp *etree.Element) *etree.Element {
			a := child(resp, "Assertion")
			resp.RemoveChild(a)
			resp.AddChild(samltest.Sign(t, a, r.idp.Key, r.idp.Certificate, dsig.RSASHA1SignatureMethod))
			return samltest.Unsign(resp)
		}),
		"signed with SHA-1 around a good one": resigned(func(resp *etree.Element) *etree.Element {
			return samltest.Sign(t, resp, r.idp.Key, r.idp.Certificate, dsig.RSASHA1SignatureMethod)
		}),
		"with a comment in the name": func(to string) []byte {
			r.idp.SignIn("id-of-dora", persistent, "Dora", "Dora D", "s1")
			return samltest.Replace(t, samltest.Bytes(t, r.assertionOnly(to)), "id-of-dora", "id-of<!-- x -->-dora")
		},
		"with a comment that was signed": func(to string) []byte {
			// A provider whose people choose their names signs this; exclusive
			// canonicalisation leaves comments out, so the signature stays good.
			resp := r.assertionOnly(to)
			child(child(child(resp, "Assertion"), "Subject"), "NameID").InsertChildAt(0, etree.NewComment("x"))
			return samltest.Bytes(t, resp)
		},
		"with a processing instruction": text("<saml:Subject>", "<?x y?><saml:Subject>"),
		"with a document type": func(to string) []byte {
			return append([]byte(`<!DOCTYPE r [<!ENTITY who "id-of-the-owner">]>`), samltest.Replace(t, samltest.Bytes(t, r.assertionOnly(to)), "id-of-dora", "&who;")...)
		},
		"with an entity of outside": func(to string) []byte {
			return append([]byte(`<!DOCTYPE r SYSTEM "file:///etc/passwd">`), samltest.Bytes(t, r.idp.Respond(t, to))...)
		},
		"too large": func(to string) []byte {
			return append(samltest.Bytes(t, r.idp.Respond(t, to)), make([]byte, 300<<10)...)
		},
		"twice": func(to string) []byte {
			raw := samltest.Bytes(t, r.idp.Respond(t, to))
			return append(raw, raw...)
		},
		"deep":              func(string) []byte { return []byte(strings.Repeat("<a>", 5000) + strings.Repeat("</a>", 5000)) },
		"no XML":            func(string) []byte { return []byte("x") },
		"nothing":           func(string) []byte { return nil },
		"an assertion only": func(to string) []byte { return samltest.Bytes(t, child(r.idp.Respond(t, to), "Assertion")) },
	} {
		t.Run(what, func(t *testing.T) {
			asked, to := r.ask()
			raw := make(to)
			if err := r.answer(raw); !errors.Is(err, ErrRefused) {
				t.Errorf("%v\n%s", err, raw)
			} else if testing.Verbose() {
				t.Log(err)
			}
			if who, err := r.u.Come(asked); !errors.Is(err, ErrRefused) {
				t.Fatalf("it signs in %+v %v", who, err)
			}
			if err := r.answer(samltest.Bytes(t, r.assertionOnly(to))); err != nil {
				t.Fatalf("the good answer: %v", err)
			}
			if _, err := r.u.Come(asked); err != nil {
				t.Fatalf("the good answer: %v", err)
			}
		})
	}
	// Too late, for the browser and the answer.
	asked, to := r.ask()
	raw := samltest.Bytes(t, r.idp.Respond(t, to))
	if err := r.answer(raw); err != nil {
		t.Fatal(err)
	}
	r.now = time.Now().Add(3 * time.Minute)
	if _, err := r.u.Come(asked); !errors.Is(err, ErrRefused) {
		t.Errorf("a browser that came too late: %v", err)
	}
	r.now = time.Time{}
	asked, to = r.ask()
	r.now = time.Now().Add(askedFor + time.Minute)
	if err := r.answer(samltest.Bytes(t, r.idp.Respond(t, to))); !errors.Is(err, ErrRefused) {
		t.Errorf("an answer that came too late: %v", err)
	}
	r.now = time.Time{}
	// A status that is not success is a refusal of the provider's.
	_, to = r.ask()
	resp := samltest.Unsign(r.idp.Respond(t, to))
	resp.RemoveChild(child(resp, "Assertion"))
	resp.FindElement("./Status/StatusCode").CreateAttr("Value", "urn:oasis:names:tc:SAML:2.0:status:Responder")
	if err := r.answer(samltest.Bytes(t, resp)); !errors.Is(err, ErrDenied) {
		t.Errorf("a sign-in that was denied: %v", err)
	}
	// The certificates run out, and the provider with them.
	r.now = time.Now().AddDate(3, 0, 0)
	if len(r.u.Down()) != 1 || len(r.u.Expiring()) != 1 {
		t.Errorf("%v %v", r.u.Down(), r.u.Expiring())
	}
	r.now = time.Time{}
	if len(r.u.Down()) != 0 || len(r.u.Expiring()) != 0 {
		t.Errorf("%v %v", r.u.Down(), r.u.Expiring())
	}
}

func recipient(a *crew.Assertion) *crew.SubjectConfirmationData {
	return a.Subject.SubjectConfirmations[0].SubjectConfirmationData
}

// TestSAMLEncrypted: what the provider encrypts for us is read, where nobody could have
// changed what is encrypted.
func TestSAMLEncrypted(t *testing.T) {
	r := newSAMLRig(t)
	gcm, cbc := xmlenc.OAEP(), xmlenc.OAEP()
	gcm.BlockCipher, cbc.BlockCipher = xmlenc.AES256GCM, xmlenc.AES256CBC
	for _, enc := range []xmlenc.Encrypter{nil, gcm, cbc} {
		r.idp.AssertionEncrypter = enc
		if who := r.good(nil); who.Name != "dora" {
			t.Fatalf("%+v", who)
		}
	}
	r.idp.AssertionEncrypter = gcm
	_, to := r.ask()
	if err := r.answer(samltest.Bytes(t, r.assertionOnly(to))); err != nil {
		t.Errorf("GCM in an unsigned answer: %v", err)
	}
	r.idp.AssertionEncrypter = cbc
	_, to = r.ask()
	if err := r.answer(samltest.Bytes(t, r.assertionOnly(to))); !errors.Is(err, ErrRefused) {
		t.Errorf("CBC in an unsigned answer: %v", err)
	}
	// Encrypted for us by somebody, and not signed inside.
	r.idp.AssertionEncrypter = gcm
	forger := samltest.New(t)
	forger.Key, forger.IdentityProvider.Key = samltest.Keys[1](), samltest.Keys[1]()
	forger.Certificate = samltest.Certificate(t, samltest.Keys[1](), time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	forger.MetadataURL = r.idp.MetadataURL
	raw, _ := r.u.Metadata("s")
	forger.Know(t, raw)
	forger.SSOURL = r.idp.SSOURL
	forger.SignIn("id-of-the-owner", persistent, "owner", "Owner", "x")
	_, to = r.ask()
	if err := r.answer(samltest.Bytes(t, samltest.Unsign(forger.Respond(t, to)))); !errors.Is(err, ErrRefused) {
		t.Errorf("signed by another, and encrypted: %v", err)
	}
}

// TestSAMLPeople: who somebody is, by name ID or attribute, and what of it is taken.
func TestSAMLPeople(t *testing.T) {
	r := newSAMLRig(t)
	who := r.good(nil)
	x, err := r.u.Account(t.Context(), who)
	if err != nil || x.Localpart != "dora" || x.DisplayName != "Dora D" {
		t.Fatalf("%+v %v", x, err)
	}
	// 40: the same name, somebody else.
	r.idp.SignIn("id-of-another", persistent, "dora", "Dora", "s2")
	if y, err := r.u.Account(t.Context(), r.good(nil)); !errors.Is(err, ErrTaken) {
		t.Fatalf("%+v %v", y, err)
	}
	// The same identifier that another scope qualifies is somebody else as well.
	r.idp.SignIn("id-of-dora", persistent, "dora", "Dora", "s2")
	if who := r.good(func(a *crew.Assertion) { a.Subject.NameID.NameQualifier = "https://other.test" }); who.Subject == "persistent id-of-dora" {
		t.Fatalf("%+v", who)
	}
	// By an attribute, with a name ID that changes each time.
	r.set("s", Config{SubjectClaim: "employee", Mapping: Mapping{UserClaim: "login", NameClaim: "shown"}})
	attr := func(name string, values ...string) crew.Attribute {
		a := crew.Attribute{Name: name}
		for _, v := range values {
			a.Values = append(a.Values, crew.AttributeValue{Type: "xs:string", Value: v})
		}
		return a
	}
	r.idp.SignIn("changes", transient, "x", "y", "s3", attr("employee", "4711"), attr("login", " Emil "), attr("shown", "Emil E"))
	if who = r.good(nil); who.Subject != "attribute employee 4711" || who.Name != "emil" || who.Full != "Emil E" {
		t.Fatalf("%+v", who)
	}
	for what, a := range map[string]crew.Attribute{"twice": attr("employee", "1", "2"), "empty": attr("employee", " "), "missing": attr("other", "1")} {
		r.idp.SignIn("changes", transient, "x", "y", "s3", a, attr("login", "emil"))
		_, to := r.ask()
		if err := r.answer(samltest.Bytes(t, r.idp.Respond(t, to))); !errors.Is(err, ErrRefused) {
			t.Errorf("the attribute is %s: %v", what, err)
		}
	}
	// The key stays when the settings change, and the list shows none.
	all, err := r.u.List(t.Context())
	if err != nil || len(all) != 1 || all[0].Config.SAML.Key != "" || all[0].SAML.EntityID != "https://hs.test/upstream/s/metadata" || len(all[0].SAML.Fingerprints) != 1 {
		t.Fatalf("%+v %v", all, err)
	}
	before := all[0].Config.SAML.Certificate
	r.set("s", Config{})
	if all, _ = r.u.List(t.Context()); all[0].Config.SAML.Certificate != before {
		t.Error("the key is another one")
	}
	// A provider that changes its key names both, and signs by either.
	p, _ := saml.ParseMetadata(r.idp.XML(t), "", time.Now())
	next := samltest.Keys[1]()
	nextCert := samltest.Certificate(t, next, time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0))
	p.Certificates = append(p.Certificates, base64.StdEncoding.EncodeToString(nextCert.Raw))
	if err := r.u.Set(t.Context(), "s", Config{Name: "S", SAML: &saml.Settings{IdP: p, Base: "https://hs.test"}}); err != nil {
		t.Fatal(err)
	}
	r.idp.SignIn("id-of-dora", persistent, "Dora", "Dora D", "s1")
	r.good(nil)
	r.idp.IdentityProvider.Key, r.idp.Certificate = next, nextCert
	r.good(nil)
}

// TestSAMLWhoMayComeIn: what is mapped of attributes, and who comes in by them.
func TestSAMLWhoMayComeIn(t *testing.T) {
	r := newSAMLRig(t)
	var crew1 string
	err := r.u.o.DB.Write(t.Context(), func(tx *store.Tx) error {
		g, err := r.u.o.Accounts.CreateGroupTx(tx, "Crew", account.LocalGroup)
		crew1 = g.ID
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	many := func(name string, values ...string) crew.Attribute {
		a := crew.Attribute{Name: name}
		for _, v := range values {
			a.Values = append(a.Values, crew.AttributeValue{Type: "xs:string", Value: v})
		}
		return a
	}
	class := func(of string) func(*crew.Assertion) {
		return func(a *crew.Assertion) {
			a.AuthnStatements[0].AuthnContext.AuthnContextClassRef = &crew.AuthnContextClassRef{Value: of}
		}
	}
	for i, x := range []struct {
		c    Config
		said []crew.Attribute
		bend func(*crew.Assertion)
		err  error
	}{
		{Config{Mapping: Mapping{Groups: map[string]string{"cn=sailors,dc=x": "Crew"}}}, []crew.Attribute{many("memberOf", "cn=cooks,dc=x", "cn=sailors,dc=x")}, nil, nil},
		{Config{Mapping: Mapping{RequireClaim: "memberOf", RequireValues: []string{"staff"}}}, []crew.Attribute{many("memberOf", "staff")}, nil, nil},
		{Config{Mapping: Mapping{RequireClaim: "memberOf", RequireValues: []string{"staff"}}}, []crew.Attribute{many("memberOf", "guest")}, nil, ErrNotAdmitted},
		{Config{Mapping: Mapping{Domains: []string{"town.example"}}}, []crew.Attribute{many("mail", "d@town.example")}, nil, ErrNotAdmitted},
		{Config{Mapping: Mapping{Domains: []string{"town.example"}, MailTrusted: true}}, []crew.Attribute{many("mail", "d@town.example")}, nil, nil},
		{Config{RequireMFA: true}, nil, nil, ErrRefused},
		{Config{RequireMFA: true}, nil, class("https://refeds.org/profile/mfa"), nil},
		{Config{RequireMFA: true}, []crew.Attribute{many(methodsOf, "x", methodMFA)}, nil, nil},
		{Config{ACRs: []string{"gold"}, RequireACR: true}, nil, class("gold"), nil},
		{Config{ACRs: []string{"gold"}, RequireACR: true}, nil, class("tin"), ErrRefused},
	} {
		r.set("s", x.c)
		r.idp.SignIn("id-of-dora", persistent, "dora", "Dora", "s1", x.said...)
		asked, to := r.ask()
		r.idp.Bend = x.bend
		err := r.answer(samltest.Bytes(t, r.idp.Respond(t, to)))
		r.idp.Bend = nil
		if !errors.Is(err, x.err) || x.err == nil && err != nil {
			t.Errorf("%d: %v, want %v", i, err, x.err)
		}
		who, err := r.u.Come(asked)
		if (err == nil) != (x.err == nil) || i == 0 && (len(who.Groups) != 1 || who.Groups[0] != crew1) || who.MFA {
			t.Errorf("%d: %+v %v", i, who, err)
		}
	}
	// What is asked of the provider.
	r.set("s", Config{Prompt: "login", ACRs: []string{"gold", "silver"}})
	_, to := r.ask()
	req, err := crew.NewIdpAuthnRequest(r.idp.IdentityProvider, httptest.NewRequest("GET", to, nil))
	if err == nil {
		err = req.Validate()
	}
	if err != nil || req.Request.ForceAuthn == nil || !*req.Request.ForceAuthn || !slices.Equal(req.Request.RequestedAuthnContext.ClassRefs(), []string{"gold", "silver"}) {
		t.Fatalf("%+v %v", req.Request, err)
	}
	p, _ := saml.ParseMetadata(r.idp.XML(t), "", time.Now())
	for i, c := range []Config{{Prompt: "consent"}, {RequireACR: true}, {ClientID: "x"}, {Scopes: []string{"x"}}, {Mapping: Mapping{Domains: []string{"*"}}}, {SubjectClaim: strings.Repeat("x", 300)}} {
		c.Name, c.SAML = "S", &saml.Settings{IdP: p, Base: "https://hs.test"}
		if err := r.u.Set(t.Context(), "s", c); err == nil {
			t.Errorf("%d is taken: %+v", i, c)
		}
	}
	for _, base := range []string{"", "hs.test", "https://hs.test/x", "ftp://hs.test"} {
		if err := r.u.Set(t.Context(), "s", Config{Name: "S", SAML: &saml.Settings{IdP: p, Base: base}}); err == nil {
			t.Errorf("the address %q is taken", base)
		}
	}
	if err := r.u.Set(t.Context(), "o", Config{Name: "O", Issuer: "https://x.test", ClientID: "x", SubjectClaim: "y"}); err == nil {
		t.Error("a subject is chosen of OpenID Connect")
	}
}

// TestSAMLByPost asks a provider that takes requests by post alone.
func TestSAMLByPost(t *testing.T) {
	r := newSAMLRig(t)
	p, err := saml.ParseMetadata(r.idp.XML(t), "", time.Now())
	if err != nil || p.SignInPost == "" || p.SignOutPost == "" {
		t.Fatalf("%+v %v", p, err)
	}
	p.SignInRedirect, p.SignOutRedirect, p.AnswerRedirect = "", "", ""
	if err := r.u.Set(t.Context(), "s", Config{Name: "S", SAML: &saml.Settings{IdP: p, Base: "https://hs.test"}}); err != nil {
		t.Fatal(err)
	}
	to, _, err := r.u.AskSAML("s", "")
	if err != nil || to.URL != p.SignInPost || len(to.Form) != 1 {
		t.Fatalf("%+v %v", to, err)
	}
	resp, err := r.idp.Server.Client().PostForm(to.URL, to.Form)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v %v", resp, err)
	}
	resp.Body.Close()
	to.Form.Set("SAMLRequest", strings.Replace(to.Form.Get("SAMLRequest"), "A", "B", 1))
	if resp, err = r.idp.Server.Client().PostForm(to.URL, to.Form); err != nil || resp.StatusCode == 200 {
		t.Fatalf("the provider took a request that was changed: %v", err)
	}
	resp.Body.Close()
}

// TestSAMLMetadata reads metadata as they come, and refuses what cannot be used.
func TestSAMLMetadata(t *testing.T) {
	r := newSAMLRig(t)
	good := string(r.idp.XML(t))
	now := time.Now()
	if _, err := saml.ParseMetadata([]byte("<?xml version=\"1.0\"?>\n<!-- ours -->\n"+good), r.idp.MetadataURL.String(), now); err != nil {
		t.Fatal(err)
	}
	several := `<EntitiesDescriptor xmlns="urn:oasis:names:tc:SAML:2.0:metadata">` + good + strings.ReplaceAll(good, r.idp.Server.URL+"/metadata", "https://second.test") + `</EntitiesDescriptor>`
	if _, err := saml.ParseMetadata([]byte(several), "", now); !errors.Is(err, saml.ErrMetadata) || !strings.Contains(err.Error(), "--entity-id") {
		t.Fatal(err)
	}
	if p, err := saml.ParseMetadata([]byte(several), "https://second.test", now); err != nil || p.EntityID != "https://second.test" {
		t.Fatalf("%+v %v", p, err)
	}
	ours, _ := r.u.Metadata("s")
	small, _ := rsa.GenerateKey(rand.Reader, 1024)
	weak := base64.StdEncoding.EncodeToString(samltest.Certificate(t, small, now, now.Add(time.Hour)).Raw)
	p, _ := saml.ParseMetadata([]byte(good), "", now)
	for what, raw := range map[string]string{
		"nothing": "", "no XML": "x", "another thing": "<html/>", "a service provider": string(ours),
		"an entity": `<!DOCTYPE x [<!ENTITY a "b">]>` + good, "too much": good + strings.Repeat(" ", 1<<20),
		"no certificate":   strings.ReplaceAll(good, p.Certificates[0], ""),
		"a bad one":        strings.ReplaceAll(good, p.Certificates[0], "AAAA"),
		"a weak one":       strings.ReplaceAll(good, p.Certificates[0], weak),
		"no sign-in":       strings.ReplaceAll(good, "SingleSignOnService", "NameIDMappingService"),
		"a bad address":    strings.ReplaceAll(good, r.idp.Server.URL+"/sso", "javascript:alert(1)"),
		"out of date":      strings.Replace(good, "<EntityDescriptor ", `<EntityDescriptor x="" `, 1),
		"an open comment":  good + "<!-- ",
		"another's wanted": good,
	} {
		entity := ""
		at := now
		switch what {
		case "another's wanted":
			entity = "https://other.test"
		case "out of date":
			at = now.AddDate(1, 0, 0)
		}
		if p, err := saml.ParseMetadata([]byte(raw), entity, at); !errors.Is(err, saml.ErrMetadata) {
			t.Errorf("%s: %+v %v", what, p, err)
		}
	}
}

// TestSAMLSignOut: a provider ends the sessions that it names, and those alone; and is
// told of the end of one here.
func TestSAMLSignOut(t *testing.T) {
	r := newSAMLRig(t)
	who := r.good(nil)
	x, err := r.u.Account(t.Context(), who)
	if err != nil {
		t.Fatal(err)
	}
	begin := func(from From) (sid string, alive func() bool) {
		t.Helper()
		secret, err := r.u.o.Accounts.StartBrowser(t.Context(), x, []string{"fed"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := r.u.o.Accounts.BrowserByCookie(t.Context(), secret)
		if err == nil && from.Upstream != "" {
			err = r.u.Began(t.Context(), x, b.SID, from)
		}
		if err != nil {
			t.Fatal(err)
		}
		return b.SID, func() bool { _, err := r.u.o.Accounts.BrowserByCookie(t.Context(), secret); return err == nil }
	}
	second := *who.From
	second.Session.Index = "s2"
	first, one := begin(*who.From)
	_, two := begin(second)
	_, local := begin(From{})
	meta, _ := r.u.Metadata("s")
	sp := r.idp.Know(t, meta)
	// request is a sign-out as the provider makes it.
	request := func(bend func(*crew.LogoutRequest)) saml.Message {
		now := time.Now().UTC()
		req := &crew.LogoutRequest{ID: "id-" + account.Secret(), Version: "2.0", IssueInstant: now, Destination: sp.SPSSODescriptors[0].SingleLogoutServices[0].Location,
			Issuer: &crew.Issuer{Value: r.idp.MetadataURL.String()}, NameID: &crew.NameID{Value: "id-of-dora", Format: persistent}, SessionIndex: &crew.SessionIndex{Value: "s1"}}
		bend(req)
		raw := samltest.Bytes(t, samltest.Sign(t, req.Element(), r.idp.Key, r.idp.Certificate, ""))
		return saml.Message{Request: base64.StdEncoding.EncodeToString(raw), RelayState: "back"}
	}
	edit := func(m saml.Message, f func(*etree.Element)) saml.Message {
		raw, _ := base64.StdEncoding.DecodeString(m.Request)
		el := samltest.Element(t, raw)
		f(el)
		m.Request = base64.StdEncoding.EncodeToString(samltest.Bytes(t, el))
		return m
	}
	plain := func(*crew.LogoutRequest) {}
	for what, m := range map[string]saml.Message{
		"unsigned":             edit(request(plain), func(el *etree.Element) { samltest.Unsign(el) }),
		"changed":              edit(request(plain), func(el *etree.Element) { samltest.Child(el, "NameID").SetText("id-of-emil") }),
		"of another issuer":    request(func(q *crew.LogoutRequest) { q.Issuer.Value = "https://evil.test" }),
		"to another":           request(func(q *crew.LogoutRequest) { q.Destination = "https://evil.test" }),
		"too old":              request(func(q *crew.LogoutRequest) { q.IssueInstant = time.Now().Add(-time.Hour) }),
		"about nobody":         request(func(q *crew.LogoutRequest) { q.NameID = nil }),
		"unsigned by redirect": {Request: "x", Query: "SAMLRequest=x"},
		"request and answer":   {Request: "x", Response: "y"},
	} {
		if to, err := r.u.LeftSAML(t.Context(), "s", m); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %+v %v", what, to, err)
		}
	}
	if !one() || !two() || !local() {
		t.Fatal("a request that was refused ended a session")
	}
	m := request(plain)
	to, err := r.u.LeftSAML(t.Context(), "s", m)
	if err != nil || one() || !two() || !local() {
		t.Fatalf("%v: %v %v %v", err, one(), two(), local())
	}
	q := must(url.Parse(to.URL)).Query()
	if !strings.HasPrefix(to.URL, r.idp.LogoutURL.String()) || q.Get("SAMLResponse") == "" || q.Get("Signature") == "" || q.Get("RelayState") != "back" {
		t.Fatalf("%+v", to)
	}
	if _, err := r.u.LeftSAML(t.Context(), "s", m); !errors.Is(err, saml.ErrUsed) {
		t.Fatalf("replayed: %v", err)
	}
	if _, ok, err := r.u.Leave(t.Context(), first, "https://hs.test"); ok || err != nil {
		t.Fatalf("a session that has ended is left: %v", err)
	}
	// Without an index all of the person's, but not those of another's.
	_, one = begin(*who.From)
	if _, err := r.u.LeftSAML(t.Context(), "s", request(func(q *crew.LogoutRequest) { q.NameID.Value, q.SessionIndex = "id-of-emil", nil })); err != nil || !one() || !two() {
		t.Fatalf("%v: %v %v", err, one(), two())
	}
	if _, err := r.u.LeftSAML(t.Context(), "s", request(func(q *crew.LogoutRequest) { q.SessionIndex = nil })); err != nil || one() || two() || !local() {
		t.Fatalf("%v: %v %v %v", err, one(), two(), local())
	}
}

// FuzzSAMLAnswer reads what a browser posts for a provider: nothing of it signs anybody in
// that the provider did not sign.
func FuzzSAMLAnswer(f *testing.F) {
	key := samltest.Keys[0]()
	cert := base64.StdEncoding.EncodeToString(samltest.Certificate(f, key, time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)).Raw)
	s := saml.Settings{IdP: saml.IdP{EntityID: "https://idp.test", Certificates: []string{cert}, SignInRedirect: "https://idp.test/sso"}, Base: "https://hs.test"}
	s.Key, s.Certificate = ourKey().Key, ourKey().Certificate
	p, err := saml.New(saml.Options{ID: "s", Settings: s, Persistent: true, MAC: []byte("mac"), Now: time.Now})
	if err != nil {
		f.Fatal(err)
	}
	_, id, err := p.Ask()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`<samlp:Response xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol" InResponseTo="ID" ID="a" Version="2.0"><saml:Assertion xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" ID="b"/></samlp:Response>`))
	f.Add([]byte(`<samlp:Response xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol" InResponseTo="ID" ID="a" Version="2.0"><ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#"><ds:SignedInfo><ds:CanonicalizationMethod Algorithm="http://www.w3.org/2001/10/xml-exc-c14n#"/><ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"/><ds:Reference URI="#a"><ds:Transforms><ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/><ds:Transform Algorithm="http://www.w3.org/2001/10/xml-exc-c14n#"/></ds:Transforms><ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmlenc#sha256"/><ds:DigestValue>x</ds:DigestValue></ds:Reference></ds:SignedInfo><ds:SignatureValue>x</ds:SignatureValue></ds:Signature></samlp:Response>`))
	f.Add([]byte(`<samlp:Response xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol" InResponseTo="ID" ID="a" Version="2.0"><saml:EncryptedAssertion xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion"><xenc:EncryptedData xmlns:xenc="http://www.w3.org/2001/04/xmlenc#"><xenc:EncryptionMethod Algorithm="http://www.w3.org/2009/xmlenc11#aes256-gcm"/><xenc:CipherData><xenc:CipherValue>AAAA</xenc:CipherValue></xenc:CipherData></xenc:EncryptedData></saml:EncryptedAssertion></samlp:Response>`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		// The ID of a request that is good, so that more is read than that.
		raw = []byte(strings.ReplaceAll(string(raw), `"ID"`, `"`+id+`"`))
		a, err := p.Answer(base64.StdEncoding.EncodeToString(raw), func(string, time.Time) error { return nil })
		if err == nil || a.Session.NameID != "" {
			t.Fatalf("it signs in %+v", a)
		}
	})
}

// FuzzMetadata reads what an address that an administrator gave answers: what is taken of it
// can be used.
func FuzzMetadata(f *testing.F) {
	key := samltest.Keys[0]()
	cert := base64.StdEncoding.EncodeToString(samltest.Certificate(f, key, time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)).Raw)
	one := `<EntityDescriptor xmlns="urn:oasis:names:tc:SAML:2.0:metadata" entityID="https://idp.test"><!-- x --><IDPSSODescriptor protocolSupportEnumeration="urn:oasis:names:tc:SAML:2.0:protocol"><KeyDescriptor><KeyInfo xmlns="http://www.w3.org/2000/09/xmldsig#"><X509Data><X509Certificate>` + cert +
		`</X509Certificate></X509Data></KeyInfo></KeyDescriptor><SingleLogoutService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect" Location="https://idp.test/slo"/><SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST" Location="https://idp.test/sso"/></IDPSSODescriptor></EntityDescriptor>`
	if _, err := saml.ParseMetadata([]byte(one), "", time.Now()); err != nil {
		f.Fatal(err)
	}
	f.Add(one, "")
	f.Add(`<EntitiesDescriptor xmlns="urn:oasis:names:tc:SAML:2.0:metadata">`+one+strings.ReplaceAll(one, "idp.test", "two.test")+`</EntitiesDescriptor>`, "https://two.test")
	f.Add(`<!DOCTYPE x [<!ENTITY a "b">]>`+one, "")
	f.Fuzz(func(t *testing.T, raw, entity string) {
		p, err := saml.ParseMetadata([]byte(raw), entity, time.Now())
		if err != nil {
			if !errors.Is(err, saml.ErrMetadata) {
				t.Fatal(err)
			}
			return
		}
		if entity != "" && p.EntityID != strings.TrimSpace(entity) || len(p.Fingerprints()) == 0 || p.Until().IsZero() {
			t.Fatalf("%+v", p)
		}
		s := saml.Settings{IdP: p, Base: "https://hs.test", Key: ourKey().Key, Certificate: ourKey().Certificate}
		if _, err := saml.New(saml.Options{ID: "s", Settings: s, Persistent: true, MAC: []byte("mac"), Now: time.Now}); err != nil {
			t.Fatalf("%v: %+v", err, p)
		}
	})
}
