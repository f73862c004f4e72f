package uki

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"holdfast/test/need"
)

func newSigner(t testing.TB, name string) Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(1700000000, 0), NotAfter: time.Unix(2500000000, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return Signer{key, cert}
}

func TestSign(t *testing.T) {
	program, err := Build(stub(), parts)
	if err != nil {
		t.Fatal(err)
	}
	s, other := newSigner(t, "Holdfast test"), newSigner(t, "another")
	signed, err := s.Sign(program)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := s.Sign(program); !bytes.Equal(signed, again) {
		t.Error("the second signature differs")
	}
	if again, _ := s.Sign(signed); !bytes.Equal(signed, again) {
		t.Error("signing what is signed does not replace the signature")
	}
	if err := Verify(signed, s.Certificate); err != nil {
		t.Error(err)
	}
	if err := Verify(signed, other.Certificate); !errors.Is(err, ErrSignature) {
		t.Errorf("another certificate: %v", err)
	}
	if err := Verify(program, s.Certificate); !errors.Is(err, ErrSignature) {
		t.Errorf("no signature: %v", err)
	}
	for _, at := range []int{100, 1024, len(program) - 1, len(signed) - 20} {
		bad := bytes.Clone(signed)
		bad[at] ^= 1
		if err := Verify(bad, s.Certificate); err == nil {
			t.Errorf("byte %d was changed and the signature is still right", at)
		}
	}
	if plain, err := Unsigned(signed); err != nil || !bytes.Equal(plain, program) {
		t.Errorf("without its signature it is not what it was: %v", err)
	}

	// Others see it as we do.
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	sbverify := need.Program(t, "sbverify", "sbsigntool")
	file := write("signed.efi", signed)
	right := write("right.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate.Raw}))
	wrong := write("wrong.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Certificate.Raw}))
	if out, err := exec.Command(sbverify, "--cert", right, file).CombinedOutput(); err != nil {
		t.Errorf("sbverify: %v\n%s", err, out)
	}
	if out, err := exec.Command(sbverify, "--cert", wrong, file).CombinedOutput(); err == nil {
		t.Errorf("sbverify takes another certificate\n%s", out)
	}
}

func TestSignatureList(t *testing.T) {
	s := newSigner(t, "Holdfast test")
	list := SignatureList(GUID{1, 2, 3}, s.Certificate)
	tool := need.Program(t, "sig-list-to-certs", "efitools")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "list.esl"), list, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool, "list.esl", "cert")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "cert-0.der")); err != nil || !bytes.Equal(b, s.Certificate.Raw) {
		t.Errorf("efitools reads another certificate: %v", err)
	}
}

// A variable's signature must be one that OpenSSL takes, over what the specification
// says.
func TestVariable(t *testing.T) {
	s := newSigner(t, "KEK")
	list := SignatureList(GUID{1}, s.Certificate)
	when := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	b, err := s.Variable("db", SecurityDatabase, list, when)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasSuffix(b, list) || !bytes.Equal(b[:8], []byte{0xea, 0x07, 3, 4, 5, 6, 7, 0}) {
		t.Errorf("it begins with % x", b[:8])
	}
	sig := b[40 : len(b)-len(list)]
	if int(u32(b, 16)) != 24+len(sig) {
		t.Errorf("the certificate's length is %d", u32(b, 16))
	}
	// EDK2 looks for the hash's name at this place before it reads anything else.
	if !bytes.Equal(sig[13:22], []byte{0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01}) {
		t.Errorf("the hash's name is not where firmware looks: % x", sig[:24])
	}
	openssl := need.Program(t, "openssl", "openssl")
	signed := append([]byte("d\x00b\x00"), SecurityDatabase[:]...)
	signed = append(signed, 0x27, 0, 0, 0)
	signed = append(signed, b[:16]...)
	signed = append(signed, list...)
	// OpenSSL wants it wrapped: SEQUENCE { signedData, [0] { ... } }.
	wrapped := append([]byte{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02, 0xa0, 0x82, byte(len(sig) >> 8), byte(len(sig))}, sig...)
	wrapped = append([]byte{0x30, 0x82, byte(len(wrapped) >> 8), byte(len(wrapped))}, wrapped...)
	dir := t.TempDir()
	for name, data := range map[string][]byte{"sig": wrapped, "data": signed, "cert": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate.Raw})} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(openssl, "smime", "-verify", "-inform", "DER", "-in", "sig", "-content", "data", "-binary", "-certfile", "cert", "-nointern", "-noverify", "-out", "/dev/null")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("openssl: %v\n%s", err, out)
	}
}

func FuzzVerify(f *testing.F) {
	s := newSigner(f, "x")
	program, err := Build(stub(), parts)
	if err != nil {
		f.Fatal(err)
	}
	signed, err := s.Sign(program)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add(program)
	sum, _ := Hash(program)
	f.Fuzz(func(t *testing.T, b []byte) {
		if Verify(b, s.Certificate) == nil {
			if got, err := Hash(b); err != nil || got != sum {
				t.Fatal("another program passes")
			}
		}
	})
}
