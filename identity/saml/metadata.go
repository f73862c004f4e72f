package saml

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	crew "github.com/crewjam/saml"
)

// Bounds of a provider's metadata.
const (
	maxCertificates = 8
	maxText         = 1024
	maxURL          = 2048
)

// ErrMetadata is metadata that cannot be used; what wraps it says why.
var ErrMetadata = errors.New("saml: the metadata cannot be used")

// IdP is an identity provider as its metadata describe it.
type IdP struct {
	EntityID     string   `json:"entity_id"`
	Certificates []string `json:"certificates"` // of its signatures, base64 of DER; several while they change
	// Where sign-ins and sign-outs go, by binding; "": not offered.
	SignInRedirect  string `json:"sso_redirect,omitempty"`
	SignInPost      string `json:"sso_post,omitempty"`
	SignOutRedirect string `json:"slo_redirect,omitempty"`
	SignOutPost     string `json:"slo_post,omitempty"`
	// Where answers to its own sign-outs go, if elsewhere.
	AnswerRedirect string `json:"slo_redirect_answer,omitempty"`
	AnswerPost     string `json:"slo_post_answer,omitempty"`
}

// ParseMetadata reads the metadata of an identity provider. entity chooses one where the
// document describes several. Whoever gives the metadata decides who is trusted: a
// signature on them is not looked at. Errors: ErrMetadata.
func ParseMetadata(raw []byte, entity string, now time.Time) (IdP, error) {
	bad := func(format string, args ...any) (IdP, error) {
		return IdP{}, fmt.Errorf("%w: %s", ErrMetadata, fmt.Sprintf(format, args...))
	}
	if len(raw) > maxMetadata {
		return bad("they are longer than %d KiB; take the provider's own, not those of a federation", maxMetadata>>10)
	}
	// People write comments into these, and nothing here is read by what a signature covers.
	raw, err := uncommented(raw)
	if err == nil {
		err = clean(raw, maxMetadata)
	}
	if err != nil {
		return bad("%v", err)
	}
	var all []crew.EntityDescriptor
	var one crew.EntityDescriptor
	var many crew.EntitiesDescriptor
	if err := xml.Unmarshal(raw, &one); err == nil {
		all = []crew.EntityDescriptor{one}
	} else if e := xml.Unmarshal(raw, &many); e == nil {
		all = entities(many, nil)
	} else {
		return bad("it is not the description of a provider (EntityDescriptor): %v", err)
	}
	var found []crew.EntityDescriptor
	var names []string
	for _, e := range all {
		if len(e.IDPSSODescriptors) == 0 {
			continue
		}
		names = append(names, e.EntityID)
		if entity == "" || e.EntityID == entity {
			found = append(found, e)
		}
	}
	switch {
	case len(names) == 0:
		return bad("no identity provider is described there (IDPSSODescriptor)")
	case len(found) == 0:
		return bad("no identity provider there has the entity ID %.200q", entity)
	case len(found) > 1:
		return bad("there are %d identity providers; say which by its entity ID (--entity-id), as %.200q", len(found), names[0])
	}
	e := found[0]
	if len(e.IDPSSODescriptors) > 1 {
		return bad("the provider describes itself more than once")
	}
	d := e.IDPSSODescriptors[0]
	if !e.ValidUntil.IsZero() && !now.Before(e.ValidUntil) || d.ValidUntil != nil && !now.Before(*d.ValidUntil) {
		return bad("they are out of date (validUntil); get new ones")
	}
	p := IdP{EntityID: strings.TrimSpace(e.EntityID)}
	for _, k := range d.KeyDescriptors {
		if k.Use != "" && k.Use != "signing" {
			continue
		}
		for _, c := range k.KeyInfo.X509Data.X509Certificates {
			text := strings.Join(strings.Fields(c.Data), "")
			if !slices.Contains(p.Certificates, text) {
				p.Certificates = append(p.Certificates, text)
			}
		}
	}
	for _, s := range d.SingleSignOnServices {
		set(&p.SignInRedirect, s, crew.HTTPRedirectBinding, s.Location)
		set(&p.SignInPost, s, crew.HTTPPostBinding, s.Location)
	}
	for _, s := range d.SingleLogoutServices {
		answer := s.ResponseLocation
		if answer == "" {
			answer = s.Location
		}
		set(&p.SignOutRedirect, s, crew.HTTPRedirectBinding, s.Location)
		set(&p.SignOutPost, s, crew.HTTPPostBinding, s.Location)
		set(&p.AnswerRedirect, s, crew.HTTPRedirectBinding, answer)
		set(&p.AnswerPost, s, crew.HTTPPostBinding, answer)
	}
	if err := p.check(); err != nil {
		return IdP{}, err
	}
	return p, nil
}

// SingleLogout reports whether it is told of sign-outs.
func (p *IdP) SingleLogout() bool { return p.SignOutRedirect != "" || p.SignOutPost != "" }

func set(to *string, e crew.Endpoint, binding, at string) {
	if *to == "" && e.Binding == binding {
		*to = strings.TrimSpace(at)
	}
}

func entities(d crew.EntitiesDescriptor, out []crew.EntityDescriptor) []crew.EntityDescriptor {
	out = append(out, d.EntityDescriptors...)
	for _, x := range d.EntitiesDescriptors {
		out = entities(x, out)
	}
	return out
}

// check says what is wrong with a provider. Errors: ErrMetadata.
func (p *IdP) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrMetadata, fmt.Sprintf(format, args...))
	}
	if p.EntityID == "" || len(p.EntityID) > maxText {
		return bad("the provider has no entity ID, or one that is too long")
	}
	if p.SignInRedirect == "" && p.SignInPost == "" {
		return bad("the provider offers no sign-in by redirect or post (SingleSignOnService)")
	}
	for _, at := range []string{p.SignInRedirect, p.SignInPost, p.SignOutRedirect, p.SignOutPost, p.AnswerRedirect, p.AnswerPost} {
		if at == "" {
			continue
		}
		u, err := url.Parse(at)
		if err != nil || len(at) > maxURL || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.Fragment != "" {
			return bad("%.200q is no address of a web page", at)
		}
	}
	certs, err := p.certificates()
	switch {
	case err != nil:
		return bad("a certificate cannot be read: %v", err)
	case len(certs) == 0:
		return bad("the provider names no certificate for its signatures (KeyDescriptor)")
	case len(certs) > maxCertificates:
		return bad("the provider names more than %d certificates", maxCertificates)
	}
	for _, c := range certs {
		switch k := c.PublicKey.(type) {
		case *rsa.PublicKey:
			if k.N.BitLen() < 2048 {
				return bad("a certificate has an RSA key of %d bits; 2048 is the least that is taken", k.N.BitLen())
			}
		case *ecdsa.PublicKey:
			if k.Curve.Params().BitSize < 256 {
				return bad("a certificate has a key on a curve of %d bits; 256 is the least that is taken", k.Curve.Params().BitSize)
			}
		default:
			return bad("a certificate has a key that is neither RSA nor ECDSA")
		}
	}
	return nil
}

func (p *IdP) certificates() (out []*x509.Certificate, err error) {
	for _, text := range p.Certificates {
		der, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, err
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// Fingerprints are SHA-256 of the certificates, to be compared with the provider's.
func (p *IdP) Fingerprints() (out []string) {
	certs, _ := p.certificates()
	for _, c := range certs {
		h := sha256.Sum256(c.Raw)
		out = append(out, strings.ToUpper(hex.EncodeToString(h[:])))
	}
	return out
}

// Until is when the last of its certificates ends: from then on its answers are refused.
func (p *IdP) Until() (until time.Time) {
	certs, _ := p.certificates()
	for _, c := range certs {
		if c.NotAfter.After(until) {
			until = c.NotAfter
		}
	}
	return until
}

// uncommented is XML without its comments.
func uncommented(raw []byte) ([]byte, error) {
	out := make([]byte, 0, len(raw))
	for {
		before, rest, found := bytes.Cut(raw, []byte("<!--"))
		out = append(out, before...)
		if !found {
			return out, nil
		}
		var ok bool
		if _, raw, ok = bytes.Cut(rest, []byte("-->")); !ok {
			return nil, errors.New("a comment does not end")
		}
	}
}
