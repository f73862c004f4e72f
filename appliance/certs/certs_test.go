package certs

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var quiet = slog.New(slog.DiscardHandler)

func leafOf(t *testing.T, s Source) *x509.Certificate {
	t.Helper()
	c, err := s.Certificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf
}

func TestOwnAuthority(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	names := []string{"chat.example.org", "localhost", "10.1.2.3", "::1", "localhost"}
	open := func() *Own {
		t.Helper()
		o, err := openOwn(dir, func() []string { return names }, quiet, func() time.Time { return now })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(o.Close)
		return o
	}
	o := open()
	first := leafOf(t, o)
	if life := first.NotAfter.Sub(first.NotBefore); life > 398*24*time.Hour {
		t.Errorf("the leaf lives %v; phones take 398 days at most", life)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(o.CA()) {
		t.Fatal("CA is not PEM")
	}
	for _, n := range []string{"chat.example.org", "localhost", "10.1.2.3", "::1"} {
		if _, err := first.Verify(x509.VerifyOptions{Roots: roots, DNSName: n}); err != nil {
			t.Errorf("%s: %v", n, err)
		}
	}
	for _, f := range []string{"ca.key", "leaf.key"} {
		if fi, err := os.Stat(filepath.Join(dir, f)); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f, fi, err)
		}
	}

	// A restart keeps both; a new address and the passing of time make a new leaf.
	same := open()
	if same.Fingerprint() != o.Fingerprint() || !leafOf(t, same).Equal(first) {
		t.Error("a restart made new certificates")
	}
	names = append(names, "10.9.9.9")
	if err := o.Refresh(); err != nil || leafOf(t, o).Equal(first) {
		t.Error("a new address did not get into the certificate", err)
	}
	second := leafOf(t, o)
	now = second.NotAfter.Add(-leafRenew + time.Minute)
	if err := o.Refresh(); err != nil || !leafOf(t, o).NotAfter.After(second.NotAfter) {
		t.Error("a leaf near its end was not renewed", err)
	}

	// An authority without its key is not silently replaced: devices trust it.
	os.Remove(filepath.Join(dir, "ca.key"))
	if _, err := OpenOwn(dir, func() []string { return names }, quiet); err == nil {
		t.Error("a lost key made a new authority")
	}
}

func TestFilesAreReadAgain(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	make1 := func() (crt, key []byte) {
		d := filepath.Join(src, time.Now().Format("150405.000000000"))
		o, err := OpenOwn(d, func() []string { return []string{"a.b"} }, quiet)
		if err != nil {
			t.Fatal(err)
		}
		o.Close()
		crt, _ = os.ReadFile(filepath.Join(d, "leaf.crt"))
		key, _ = os.ReadFile(filepath.Join(d, "leaf.key"))
		return crt, key
	}
	crt, key := filepath.Join(dst, "crt"), filepath.Join(dst, "key")
	write := func(c, k []byte) {
		if err := os.WriteFile(crt, c, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(key, k, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenFiles(crt, key, quiet); err == nil {
		t.Fatal("missing files were accepted")
	}
	c1, k1 := make1()
	write(c1, k1)
	f, err := OpenFiles(crt, key, quiet)
	if err != nil {
		t.Fatal(err)
	}
	f.Close() // the test calls load itself
	first := leafOf(t, f)
	c2, k2 := make1()
	write(c2, k1) // half replaced
	if err := f.load(); err == nil || !leafOf(t, f).Equal(first) {
		t.Fatal("a pair that does not match was used", err)
	}
	write(c2, k2)
	if err := f.load(); err != nil || leafOf(t, f).Equal(first) {
		t.Fatal("the new pair is not used", err)
	}
	os.Remove(crt)
	if err := f.load(); err != nil || leafOf(t, f) == nil {
		t.Fatal(err)
	}
}

func TestSwitchUnderConnections(t *testing.T) {
	var w Switch
	open := func() *Own {
		o, err := OpenOwn(t.TempDir(), func() []string { return []string{"localhost"} }, quiet)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	a, b := open(), open()
	w.Set(a)
	t.Cleanup(w.Close)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", w.TLS())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	trusts := func(o *Own) error {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(o.CA())
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", ln.Addr().String(), &tls.Config{RootCAs: pool, ServerName: "localhost"})
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := trusts(a); err != nil {
		t.Fatal(err)
	}
	w.Set(b)
	if err := trusts(b); err != nil {
		t.Fatal(err)
	}
	if trusts(a) == nil {
		t.Fatal("the old authority is still in use")
	}
}
