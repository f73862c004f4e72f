// Package certs gives the listeners their certificates: from the appliance's own
// authority, from files, or from an ACME authority.
//
// Invariants: private keys are stored with mode 0600 and never logged; a leaf of
// the own authority is valid for less than 398 days and is renewed before a third
// of that is left; a certificate that cannot be read or renewed never replaces one
// that works; a change takes effect without a restart.
package certs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Source hands out certificates until it is closed.
type Source interface {
	// Certificate is the one for a connection that begins.
	Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Close stops watching and renewing.
	Close()
}

const (
	leafLife  = 397 * 24 * time.Hour
	leafRenew = leafLife / 3 // renewed when less than this is left
	caLife    = 10 * 365 * 24 * time.Hour
	backdate  = time.Hour // for devices whose clock is behind
)

// Own is the appliance's own certificate authority and its current leaf.
type Own struct {
	dir    string
	log    *slog.Logger
	names  func() []string
	now    func() time.Time
	caCert *x509.Certificate
	caKey  *ecdsa.PrivateKey
	caPEM  []byte
	leaf   atomic.Pointer[tls.Certificate]
	mu     sync.Mutex
	stop   context.CancelFunc
	done   chan struct{}
}

// OpenOwn loads the authority from dir, or makes it there. names lists the DNS
// names and IP addresses that the leaf must be valid for; it is asked again every
// minute, since addresses change. organisation may be empty.
func OpenOwn(dir string, names func() []string, log *slog.Logger) (*Own, error) {
	return openOwn(dir, names, log, time.Now)
}

func openOwn(dir string, names func() []string, log *slog.Logger, now func() time.Time) (*Own, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	o := &Own{dir: dir, log: log, names: names, now: now, done: make(chan struct{})}
	if err := o.loadCA(); errors.Is(err, os.ErrNotExist) {
		if err := o.makeCA(); err != nil {
			return nil, fmt.Errorf("make the certificate authority: %w", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("the certificate authority in %s cannot be used: %w; restore ca.crt and ca.key from a backup, or move both away to get a new authority, which every device then has to trust anew", dir, err)
	}
	if c, err := tls.LoadX509KeyPair(filepath.Join(dir, "leaf.crt"), filepath.Join(dir, "leaf.key")); err == nil {
		c.Leaf, _ = x509.ParseCertificate(c.Certificate[0])
		o.leaf.Store(&c)
	}
	if err := o.Refresh(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	o.stop = stop
	go o.run(ctx)
	return o, nil
}

func (o *Own) run(ctx context.Context) {
	defer close(o.done)
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := o.Refresh(); err != nil {
				o.log.Error("the certificate could not be renewed; the old one stays in use", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// Close implements Source.
func (o *Own) Close() { o.stop(); <-o.done }

// Certificate implements Source.
func (o *Own) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) { return o.leaf.Load(), nil }

// CA is the authority's certificate in PEM, for people to install.
func (o *Own) CA() []byte { return o.caPEM }

// Fingerprint is the SHA-256 of the authority's certificate, as browsers show it:
// "AB:CD:...".
func (o *Own) Fingerprint() string { return Fingerprint(o.caCert.Raw) }

// Fingerprint writes the SHA-256 of a DER certificate as browsers do.
func Fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	parts := make([]string, len(sum))
	for i, b := range sum {
		parts[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(parts, ":")
}

func (o *Own) loadCA() error {
	certPEM, err := os.ReadFile(filepath.Join(o.dir, "ca.crt"))
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(o.dir, "ca.crt"), filepath.Join(o.dir, "ca.key"))
	if err != nil {
		return fmt.Errorf("%v", err) // a missing key is not "there is no authority"
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return errors.New("its key is not an ECDSA key")
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return err
	}
	if !cert.IsCA {
		return errors.New("ca.crt is not a certificate authority")
	}
	o.caCert, o.caKey, o.caPEM = cert, key, certPEM
	return nil
}

func (o *Own) makeCA() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	t := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: strings.TrimSpace("Holdfast " + host), Organization: []string{"Holdfast"}},
		NotBefore:             o.now().Add(-backdate),
		NotAfter:              o.now().Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return err
	}
	// The certificate is written last: it is what says that there is an authority.
	if err := writeKey(filepath.Join(o.dir, "ca.key"), key); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(o.dir, "ca.crt"), certPEM(der), 0o644); err != nil {
		return err
	}
	return o.loadCA()
}

// Refresh makes a new leaf if the current one is missing, about to end, not of
// this authority, or without one of the names.
func (o *Own) Refresh() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	dns, ips := split(o.names())
	now := o.now()
	if c := o.leaf.Load(); c != nil && c.Leaf != nil && c.Leaf.NotAfter.Sub(now) > leafRenew && !c.Leaf.NotBefore.After(now) &&
		c.Leaf.CheckSignatureFrom(o.caCert) == nil && covers(c.Leaf, dns, ips) {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cn := "Holdfast"
	if len(dns) > 0 {
		cn = dns[0]
	}
	if len(cn) > 64 {
		cn = "Holdfast"
	}
	end := now.Add(leafLife - backdate)
	if end.After(o.caCert.NotAfter) {
		end = o.caCert.NotAfter
	}
	t := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: cn},
		NotBefore:    now.Add(-backdate),
		NotAfter:     end,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     dns,
		IPAddresses:  ips,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, o.caCert, &key.PublicKey, o.caKey)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	// Key and chain in this order; a pair that does not match after a crash is
	// not loaded at the next start and made again.
	if err := writeKey(filepath.Join(o.dir, "leaf.key"), key); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(o.dir, "leaf.crt"), append(certPEM(der), o.caPEM...), 0o644); err != nil {
		return err
	}
	o.leaf.Store(&tls.Certificate{Certificate: [][]byte{der, o.caCert.Raw}, PrivateKey: key, Leaf: leaf})
	o.log.Info("a certificate was made", "names", strings.Join(dns, " "), "addresses", fmt.Sprint(ips), "until", end.Format(time.DateOnly))
	return nil
}

func covers(c *x509.Certificate, dns []string, ips []net.IP) bool {
	for _, d := range dns {
		if !slices.Contains(c.DNSNames, d) {
			return false
		}
	}
	for _, ip := range ips {
		if !slices.ContainsFunc(c.IPAddresses, ip.Equal) {
			return false
		}
	}
	return true
}

// split sorts names into DNS names and addresses, without doubles and without
// what cannot be in a certificate.
func split(names []string) (dns []string, ips []net.IP) {
	for _, n := range names {
		if a, err := netip.ParseAddr(n); err == nil {
			ip := net.IP(a.WithZone("").AsSlice())
			if !slices.ContainsFunc(ips, ip.Equal) {
				ips = append(ips, ip)
			}
		} else if n != "" && !slices.Contains(dns, n) {
			dns = append(dns, n)
		}
	}
	return dns, ips
}

func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// writeFile replaces path atomically and durably.
func writeFile(path string, b []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Files are a certificate and key that somebody else keeps up to date.
type Files struct {
	cert, key string
	log       *slog.Logger
	pair      atomic.Pointer[tls.Certificate]
	seen      [2][]byte
	refused   [2][]byte
	stop      context.CancelFunc
	done      chan struct{}
}

const fileCheck = 2 * time.Second

// OpenFiles loads a certificate chain and key in PEM, and loads them again when
// the files change.
func OpenFiles(cert, key string, log *slog.Logger) (*Files, error) {
	f := &Files{cert: cert, key: key, log: log, done: make(chan struct{})}
	if err := f.load(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	go func() {
		defer close(f.done)
		tick := time.NewTicker(fileCheck)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if err := f.load(); err != nil {
					log.Error("the new certificate cannot be used; the old one stays in use", "err", err)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return f, nil
}

func (f *Files) load() error {
	var now [2][]byte
	var err error
	if now[0], err = os.ReadFile(f.cert); err == nil {
		now[1], err = os.ReadFile(f.key)
	}
	if err != nil {
		if f.pair.Load() != nil && errors.Is(err, os.ErrNotExist) {
			return nil // being replaced
		}
		return fmt.Errorf("%w; check the name and who may read it", err)
	}
	same := func(a [2][]byte) bool { return bytes.Equal(a[0], now[0]) && bytes.Equal(a[1], now[1]) }
	if f.pair.Load() != nil && (same(f.seen) || same(f.refused)) {
		return nil
	}
	pair, err := tls.X509KeyPair(now[0], now[1])
	if err != nil {
		f.refused = now
		return fmt.Errorf("%s and %s do not make a pair: %w", f.cert, f.key, err)
	}
	pair.Leaf, _ = x509.ParseCertificate(pair.Certificate[0])
	if f.pair.Load() != nil {
		f.log.Info("the certificate was read again", "until", pair.Leaf.NotAfter.Format(time.DateOnly))
	}
	if left := time.Until(pair.Leaf.NotAfter); left < 30*24*time.Hour {
		f.log.Warn("the certificate ends soon; replace the files", "until", pair.Leaf.NotAfter.Format(time.DateTime))
	}
	f.seen = now
	f.pair.Store(&pair)
	return nil
}

// Certificate implements Source.
func (f *Files) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return f.pair.Load(), nil
}

// Close implements Source.
func (f *Files) Close() { f.stop(); <-f.done }

// NotAfter is when the first certificate of a PEM file ends.
func NotAfter(path string) (time.Time, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return time.Time{}, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return time.Time{}, fmt.Errorf("%s has no certificate in PEM", path)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", path, err)
	}
	return c.NotAfter, nil
}

// Store keeps a certificate chain and its key, both PEM, in dir, for OpenFiles.
func Store(dir string, cert, key []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, storedKey), key, 0o600); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, storedCert), cert, 0o644)
}

const storedCert, storedKey = "own.crt", "own.key"

// Stored is where Store keeps them.
func Stored(dir string) (cert, key string) {
	return filepath.Join(dir, storedCert), filepath.Join(dir, storedKey)
}
