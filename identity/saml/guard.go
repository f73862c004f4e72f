package saml

import (
	"bytes"
	"crypto/x509"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"

	"github.com/beevik/etree"
	dsig "github.com/russellhaering/goxmldsig"
)

// Bounds of what a provider sends.
const (
	maxMessage  = 256 << 10 // a message, without base64
	maxMetadata = 1 << 20
	maxDepth    = 32
	maxElements = 20_000
	maxAttrs    = 64 // of one element
)

const (
	nsProtocol  = "urn:oasis:names:tc:SAML:2.0:protocol"
	nsAssertion = "urn:oasis:names:tc:SAML:2.0:assertion"
	nsSignature = "http://www.w3.org/2000/09/xmldsig#"
)

// clean refuses XML that two readers could read differently: document types and what they
// declare, comments (which cut a text in two for some readers), processing instructions,
// and two elements with one ID. It bounds size, depth and number.
func clean(raw []byte, most int) error {
	switch {
	case len(raw) > most:
		return fmt.Errorf("it is longer than %d KiB", most>>10)
	case !utf8.Valid(raw):
		return errors.New("it is not UTF-8")
	}
	var (
		dec   = xml.NewDecoder(bytes.NewReader(raw))
		ids   = map[string]bool{}
		depth int
		roots int
		count int
	)
	for {
		at := dec.InputOffset()
		t, err := dec.Token()
		if err == io.EOF {
			if roots != 1 {
				return errors.New("it is not one document")
			}
			return nil
		}
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case xml.Directive:
			return errors.New("it has a document type, which SAML never has")
		case xml.Comment:
			return errors.New("it has a comment")
		case xml.ProcInst:
			if t.Target != "xml" || at != 0 {
				return errors.New("it has a processing instruction")
			}
		case xml.StartElement:
			if depth == 0 {
				roots++
			}
			depth++
			if count++; count > maxElements || depth > maxDepth || len(t.Attr) > maxAttrs {
				return errors.New("it has too many elements or attributes, or is nested too deeply")
			}
			for _, a := range t.Attr {
				if !isID(a.Name.Local) || a.Name.Space == "xmlns" {
					continue
				}
				if ids[a.Value] {
					return errors.New("two elements have the same ID")
				}
				ids[a.Value] = true
			}
		case xml.EndElement:
			depth--
		}
	}
}

func isID(name string) bool { return name == "ID" || name == "Id" || name == "id" }

// shape refuses a message whose signed parts are not where readers look for them: the
// root has one assertion at most, as its child, and signatures only sign their parent.
// That leaves no place for a second assertion that the signature does not cover.
func shape(root *etree.Element, want string) error {
	if root.Tag != want {
		return fmt.Errorf("it is a %.40s, not a %s", root.Tag, want)
	}
	assertions := 0
	var walk func(el *etree.Element) error
	walk = func(el *etree.Element) error {
		signatures := 0
		for _, c := range el.Child {
			switch c.(type) {
			case *etree.Comment, *etree.Directive, *etree.ProcInst:
				return errors.New("it has a comment or an instruction")
			}
			child, ok := c.(*etree.Element)
			if !ok {
				continue
			}
			switch child.Tag {
			case "Response", "LogoutRequest", "LogoutResponse":
				return fmt.Errorf("there is a %s inside of another element", child.Tag)
			case "Assertion", "EncryptedAssertion":
				if el != root || want != "Response" {
					return errors.New("there is an assertion inside of another element")
				}
				assertions++
			case "Signature":
				if signatures++; signatures > 1 || el != root && (el.Tag != "Assertion" || el.Parent() != root) {
					return errors.New("there is a signature where none belongs")
				}
			case "Object", "Manifest":
				return errors.New("a signature has content of its own")
			}
			if err := walk(child); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk(root); err != nil {
		return err
	}
	if want == "Response" && assertions > 1 {
		return errors.New("there is more than one assertion")
	}
	return nil
}

// Algorithms of signatures: none with SHA-1, and what is signed is the parent of the
// signature as exclusive canonicalisation writes it, nothing cut out of it.
var (
	methods = []string{dsig.RSASHA256SignatureMethod, dsig.RSASHA384SignatureMethod, dsig.RSASHA512SignatureMethod,
		dsig.ECDSASHA256SignatureMethod, dsig.ECDSASHA384SignatureMethod, dsig.ECDSASHA512SignatureMethod}
	digests = []string{"http://www.w3.org/2001/04/xmlenc#sha256", "http://www.w3.org/2001/04/xmldsig-more#sha384", "http://www.w3.org/2001/04/xmlenc#sha512"}
	forms   = []string{string(dsig.CanonicalXML10ExclusiveAlgorithmId), string(dsig.CanonicalXML10ExclusiveWithCommentsAlgorithmId)}
)

// verifier checks the signature of an element, which is detached from its message, and
// gives back what it covers.
type verifier struct{}

func (verifier) VerifySignature(c *dsig.ValidationContext, el *etree.Element) error {
	_, err := verifier{}.VerifySignedElement(c, el)
	return err
}

func (verifier) VerifySignedElement(c *dsig.ValidationContext, el *etree.Element) (*etree.Element, error) {
	switch el.Tag {
	case "Response", "Assertion", "LogoutRequest", "LogoutResponse":
	default:
		return nil, fmt.Errorf("a %.40s has no signature that counts", el.Tag)
	}
	if err := shape(el, el.Tag); err != nil {
		return nil, err
	}
	if err := algorithms(el); err != nil {
		return nil, err
	}
	certs, err := c.CertificateStore.Certificates()
	if err != nil {
		return nil, err
	}
	err = errors.New("there is no certificate to check it by")
	for _, cert := range certs {
		// One by one: a signature that names no certificate may be of any of them.
		one := dsig.NewDefaultValidationContext(&dsig.MemoryX509CertificateStore{Roots: []*x509.Certificate{cert}})
		one.IdAttribute, one.Clock = c.IdAttribute, c.Clock
		var signed *etree.Element
		if signed, err = one.Validate(el); err == nil {
			return signed, nil
		}
	}
	return nil, err
}

func algorithms(el *etree.Element) error {
	var sig *etree.Element
	for _, c := range el.ChildElements() {
		if c.Tag == "Signature" {
			sig = c
		}
	}
	if sig == nil || sig.NamespaceURI() != nsSignature {
		return errors.New("it is not signed")
	}
	one := func(in *etree.Element, name string) *etree.Element {
		var found []*etree.Element
		for _, c := range in.ChildElements() {
			if c.Tag == name {
				found = append(found, c)
			}
		}
		if len(found) != 1 {
			return etree.NewElement(name)
		}
		return found[0]
	}
	of := func(el *etree.Element) string { return el.SelectAttrValue("Algorithm", "") }
	info := one(sig, "SignedInfo")
	ref := one(info, "Reference")
	if m := of(one(info, "SignatureMethod")); !slices.Contains(methods, m) {
		return fmt.Errorf("it is signed by %.80q, which is not taken", m)
	}
	if m := of(one(info, "CanonicalizationMethod")); !slices.Contains(forms, m) {
		return fmt.Errorf("its signature is written by %.80q, which is not taken", m)
	}
	if m := of(one(ref, "DigestMethod")); !slices.Contains(digests, m) {
		return fmt.Errorf("its digest is %.80q, which is not taken", m)
	}
	steps := one(ref, "Transforms").ChildElements()
	if len(steps) != 2 || of(steps[0]) != string(dsig.EnvelopedSignatureAltorithmId) || !slices.Contains(forms, of(steps[1])) {
		return errors.New("its signature does not cover it as a whole")
	}
	return nil
}
