// Package trust makes clients that trust a certificate authority of a site's own, for one
// place that an administrator named and nowhere else.
//
// Invariants:
//   - A client with authorities of its own trusts no other, and the one that it was made
//     from trusts none of them.
//   - What is given must be certificates alone: a private key is not taken.
package trust

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
)

// maxPEM bounds what an administrator gives.
const maxPEM = 64 << 10

// ErrPEM is what is no certificate that could be trusted.
var ErrPEM = errors.New("the file with the certificate authority must have one or more certificates in PEM, -----BEGIN CERTIFICATE-----, and nothing that is secret")

// Pool reads certificates. Errors: ErrPEM.
func Pool(text string) (*x509.CertPool, error) {
	if len(text) > maxPEM {
		return nil, ErrPEM
	}
	pool, n, rest := x509.NewCertPool(), 0, []byte(text)
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			return nil, ErrPEM
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, ErrPEM
		}
		pool.AddCert(c)
		n++
	}
	if n == 0 {
		return nil, ErrPEM
	}
	return pool, nil
}

// Client is base, or, where there are certificates, one that trusts only them. Errors: ErrPEM.
func Client(base *http.Client, text string) (*http.Client, error) {
	if text == "" {
		return base, nil
	}
	pool, err := Pool(text)
	if err != nil {
		return nil, err
	}
	c := *base
	if c.Transport == nil {
		c.Transport = http.DefaultTransport
	}
	rt, ok := c.Transport.(*http.Transport)
	if !ok {
		// What it keeps away from, another would not.
		return nil, errors.New("identity/trust: the client's transport is none of net/http")
	}
	rt = rt.Clone()
	if rt.TLSClientConfig == nil {
		rt.TLSClientConfig = &tls.Config{}
	}
	rt.TLSClientConfig.RootCAs = pool
	c.Transport = rt
	return &c, nil
}
