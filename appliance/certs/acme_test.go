package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// authority is as much of an ACME server (RFC 8555) as one order needs. It does
// the TLS-ALPN-01 check of RFC 8737 for real, at the address that it is given.
type authority struct {
	t      *testing.T
	url    string
	dial   string // where names lead to
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	mu     sync.Mutex
	thumb  string
	nonce  int
	proved bool
	name   string
	issued []byte
	tried  []string
}

func newAuthority(t *testing.T) (*authority, *httptest.Server) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	a := &authority{t: t, key: key, cert: cert}
	srv := httptest.NewTLSServer(a)
	a.url = srv.URL
	t.Cleanup(srv.Close)
	return a, srv
}

func (a *authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.nonce++
	w.Header().Set("Replay-Nonce", "n"+strconv.Itoa(a.nonce))
	w.Header().Set("Content-Type", "application/json")
	answer := func(code int, v any) {
		w.WriteHeader(code)
		json.NewEncoder(w).Encode(v)
	}
	var jws struct{ Protected, Payload string }
	var head struct{ JWK *jose.JSONWebKey }
	var payload struct {
		Identifiers []struct{ Type, Value string }
		CSR         string
	}
	if r.Method == http.MethodPost {
		json.NewDecoder(r.Body).Decode(&jws)
		b, _ := base64.RawURLEncoding.DecodeString(jws.Protected)
		json.Unmarshal(b, &head)
		b, _ = base64.RawURLEncoding.DecodeString(jws.Payload)
		json.Unmarshal(b, &payload)
	}
	id := func() map[string]string { return map[string]string{"type": "dns", "value": a.name} }
	order := func() map[string]any {
		o := map[string]any{"status": "pending", "identifiers": []any{id()}, "authorizations": []string{a.url + "/authz"}, "finalize": a.url + "/finalize"}
		if a.proved {
			o["status"] = "ready"
		}
		if a.issued != nil {
			o["status"], o["certificate"] = "valid", a.url+"/cert"
		}
		return o
	}
	state := func() string {
		if a.proved {
			return "valid"
		}
		return "pending"
	}
	challenge := func() map[string]string {
		return map[string]string{"type": "tls-alpn-01", "url": a.url + "/challenge", "token": "token", "status": state()}
	}
	switch r.URL.Path {
	case "/dir":
		answer(200, map[string]string{"newNonce": a.url + "/nonce", "newAccount": a.url + "/account", "newOrder": a.url + "/order"})
	case "/nonce":
	case "/account":
		if head.JWK != nil {
			sum, err := head.JWK.Thumbprint(crypto.SHA256)
			if err != nil {
				a.t.Error(err)
			}
			a.thumb = base64.RawURLEncoding.EncodeToString(sum)
		}
		w.Header().Set("Location", a.url+"/account/1")
		answer(201, map[string]string{"status": "valid"})
	case "/order":
		if len(payload.Identifiers) == 1 {
			a.name = payload.Identifiers[0].Value
		}
		w.Header().Set("Location", a.url+"/order/1")
		answer(201, order())
	case "/order/1":
		answer(200, order())
	case "/authz":
		answer(200, map[string]any{"status": state(), "identifier": id(), "challenges": []any{challenge()}})
	case "/challenge":
		if err := a.prove(); err != nil {
			a.tried = append(a.tried, err.Error())
		} else {
			a.proved = true
		}
		answer(200, challenge())
	case "/finalize":
		der, _ := base64.RawURLEncoding.DecodeString(payload.CSR)
		if err := a.issue(der); err != nil {
			a.t.Error(err)
		}
		w.Header().Set("Location", a.url+"/order/1")
		answer(200, order())
	case "/cert":
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		w.Write(a.issued)
	default:
		answer(404, map[string]string{"type": "urn:ietf:params:acme:error:malformed", "detail": r.URL.Path})
	}
}

var acmeIdentifier = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}

// prove connects as RFC 8737 says and looks for the proof in the certificate.
func (a *authority) prove() error {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", a.dial, &tls.Config{ServerName: a.name, NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true})
	if err != nil {
		return err
	}
	defer c.Close()
	st := c.ConnectionState()
	if st.NegotiatedProtocol != "acme-tls/1" {
		return fmt.Errorf("the protocol is %q", st.NegotiatedProtocol)
	}
	sum := sha256.Sum256([]byte("token." + a.thumb))
	want, _ := asn1.Marshal(sum[:])
	for _, e := range st.PeerCertificates[0].Extensions {
		if e.Id.Equal(acmeIdentifier) && e.Critical && bytes.Equal(e.Value, want) {
			return nil
		}
	}
	return fmt.Errorf("the certificate for %v has no proof", st.PeerCertificates[0].DNSNames)
}

func (a *authority) issue(der []byte) error {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: csr.DNSNames, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	leaf, err := x509.CreateCertificate(rand.Reader, t, a.cert, csr.PublicKey, a.key)
	if err != nil {
		return err
	}
	a.issued = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})...)
	return nil
}

// A certificate comes from an authority that checks over the very listener that
// then uses it, and a later start has it from the disk.
func TestACME(t *testing.T) {
	a, srv := newAuthority(t)
	dir := t.TempDir()
	root := filepath.Join(dir, "root.pem")
	if err := os.WriteFile(root, certPEM(srv.Certificate().Raw), 0o600); err != nil {
		t.Fatal(err)
	}
	var w Switch
	t.Cleanup(w.Close)
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := tls.NewListener(raw, w.TLS())
	hs := &http.Server{Handler: http.NotFoundHandler(), ErrorLog: nil}
	go hs.Serve(ln)
	t.Cleanup(func() { hs.Close() })
	a.dial = raw.Addr().String()
	port := raw.Addr().(*net.TCPAddr).Port
	open := func() {
		t.Helper()
		s, err := OpenACME(ACMEOptions{Dir: filepath.Join(dir, "acme"), Names: []string{"chat.example.org"}, Directory: a.url + "/dir", RootFile: root, Port: port, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		w.Set(s)
	}
	open()
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	served := func() error {
		c, err := tls.Dial("tcp", a.dial, &tls.Config{RootCAs: roots, ServerName: "chat.example.org"})
		if err == nil {
			c.Close()
		}
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if err = served(); err == nil {
			break
		}
		if time.Now().After(deadline) {
			a.mu.Lock()
			defer a.mu.Unlock()
			t.Fatalf("no certificate: %v; the authority saw %v", err, a.tried)
		}
	}
	// Whoever knows it by another name sees it all the same.
	for _, name := range []string{"", "localhost"} {
		c, err := tls.Dial("tcp", a.dial, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err != nil {
			t.Fatalf("asked for %q: %v", name, err)
		}
		if err := c.ConnectionState().PeerCertificates[0].VerifyHostname("chat.example.org"); err != nil {
			t.Errorf("asked for %q: %v", name, err)
		}
		c.Close()
	}
	srv.Close() // the next start must not need it
	open()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if err = served(); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("after a restart:", err)
		}
	}
}
