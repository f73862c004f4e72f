package main

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"holdfast/image/uki"
	"holdfast/image/update"
)

// keys are those of who publishes the image. They are kept outside the repository.
type keys struct {
	dir    string
	test   bool               // made here, for development
	signer ed25519.PrivateKey // nil: only the public key is there, nothing is signed
	public []ed25519.PublicKey
	// Those of Secure Boot, where they are used.
	pk, kek, db uki.Signer
}

const (
	updateKey = "update.key" // PKCS #8, PEM
	updatePub = "update.pub" // lines of base64, the first belonging to updateKey
	updatePEM = "update.pem" // the same public key as OpenSSL reads it
)

// secureNames are the keys of Secure Boot: the platform's, that which may change
// what is trusted, and that which signs programs.
var secureNames = []string{"PK", "KEK", "db"}

// openKeys reads the keys from the named folder, or makes keys for development.
func openKeys(o options) (*keys, error) {
	k := &keys{dir: o.keys}
	if o.keys == "" {
		k.dir, k.test = filepath.Join(o.out, "keys"), true
		if _, err := os.Stat(filepath.Join(k.dir, updateKey)); err != nil {
			if err := makeKeys(k.dir, false); err != nil {
				return nil, err
			}
		}
		say("no KEYS=FOLDER was given: using keys for development, %s", k.dir)
	}
	pub, err := os.ReadFile(filepath.Join(k.dir, updatePub))
	if err != nil {
		return nil, fmt.Errorf("the public key of updates: %w; make keys with: make image-keys KEYS=FOLDER", err)
	}
	if k.public, err = update.ParseKeys(pub); err != nil {
		return nil, err
	}
	if len(k.public) == 0 {
		return nil, fmt.Errorf("%s/%s has no key", k.dir, updatePub)
	}
	if err := k.readSigner(); err != nil {
		return nil, err
	}
	if !o.secure {
		return k, nil
	}
	for i, s := range []*uki.Signer{&k.pk, &k.kek, &k.db} {
		if *s, err = readSecure(k.dir, secureNames[i]); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// readSigner reads the private key of updates, if it is there.
func (k *keys) readSigner() error {
	key, err := readKey(filepath.Join(k.dir, updateKey))
	if errors.Is(err, fs.ErrNotExist) {
		say("%s has no %s: updates and checksums are not signed", k.dir, updateKey)
		return nil
	}
	if err != nil {
		return err
	}
	signer, ok := key.(ed25519.PrivateKey)
	if !ok {
		return fmt.Errorf("%s/%s is not an Ed25519 key", k.dir, updateKey)
	}
	if !k.public[0].Equal(signer.Public()) {
		return fmt.Errorf("the first key of %s/%s does not belong to %s", k.dir, updatePub, updateKey)
	}
	k.signer = signer
	return nil
}

func readKey(path string) (crypto.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; PKCS #8 is expected", path, err)
	}
	return key, nil
}

// readSecure reads NAME.key and NAME.crt.
func readSecure(dir, name string) (s uki.Signer, err error) {
	key, err := readKey(filepath.Join(dir, name+".key"))
	if err != nil {
		return s, fmt.Errorf("the key %s of Secure Boot: %w; make keys with: make image-keys KEYS=FOLDER", name, err)
	}
	signer, ok := key.(*rsa.PrivateKey)
	if !ok {
		return s, fmt.Errorf("%s/%s.key is not an RSA key: firmware knows no others", dir, name)
	}
	text, err := os.ReadFile(filepath.Join(dir, name+".crt"))
	if err != nil {
		return s, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return s, fmt.Errorf("%s/%s.crt is not PEM", dir, name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return s, fmt.Errorf("%s/%s.crt: %w", dir, name, err)
	}
	if !signer.PublicKey.Equal(cert.PublicKey) {
		return s, fmt.Errorf("%s/%s.crt does not belong to %[2]s.key", dir, name)
	}
	return uki.Signer{Key: signer, Certificate: cert}, nil
}

// updatePub is the file by which a running image knows what updates to trust.
func (k *keys) updatePub() []byte {
	var b []byte
	if k.test {
		b = append(b, "# keys for development: anyone who built this image can sign for it\n"...)
	}
	for _, p := range k.public {
		b = append(b, base64.StdEncoding.EncodeToString(p)+"\n"...)
	}
	return b
}

// enrolment are the files with which the boot loader makes a machine in setup mode
// trust the image. Each is signed by the key above it.
func (k *keys) enrolment(when time.Time) (files []file, err error) {
	// Who owns a certificate is a GUID; it follows from the certificate.
	sum := sha256.Sum256(k.pk.Certificate.Raw)
	owner := uki.GUID(sum[:16])
	for _, v := range []struct {
		name   string
		vendor uki.GUID
		by, of uki.Signer
	}{
		{"PK", uki.GlobalVariable, k.pk, k.pk},
		{"KEK", uki.GlobalVariable, k.pk, k.kek},
		{"db", uki.SecurityDatabase, k.kek, k.db},
	} {
		b, err := v.by.Variable(v.name, v.vendor, uki.SignatureList(owner, v.of.Certificate), when)
		if err != nil {
			return nil, err
		}
		files = append(files,
			file{"loader/keys/auto/" + v.name + ".auth", b},
			// For firmware menus and for MOK, which take certificates.
			file{"holdfast/secureboot/" + v.name + ".cer", v.of.Certificate.Raw})
	}
	return files, nil
}

// makeKeys makes all keys in a folder. What is there already is an error.
func makeKeys(dir string, tell bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	write := func(name, kind string, der []byte, mode fs.FileMode) error {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return fmt.Errorf("keys are never written over: %w", err)
		}
		if kind == "" {
			_, err = f.Write(der)
		} else {
			err = pem.Encode(f, &pem.Block{Type: kind, Bytes: der})
		}
		return errors.Join(err, f.Close())
	}
	for _, name := range secureNames {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return err
		}
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
		if err != nil {
			return err
		}
		t := &x509.Certificate{
			SerialNumber: serial, Subject: pkix.Name{CommonName: "Holdfast Secure Boot " + name},
			// Firmware does not look at these times.
			NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2049, 12, 31, 0, 0, 0, 0, time.UTC),
			BasicConstraintsValid: true,
		}
		der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
		if err != nil {
			return err
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		if err := errors.Join(write(name+".crt", "CERTIFICATE", der, 0o644), write(name+".key", "PRIVATE KEY", private, 0o600)); err != nil {
			return err
		}
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	publicDER, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return err
	}
	if err := errors.Join(
		write(updatePub, "", []byte(base64.StdEncoding.EncodeToString(public)+"\n"), 0o644),
		write(updatePEM, "PUBLIC KEY", publicDER, 0o644),
		write(updateKey, "PRIVATE KEY", der, 0o600),
	); err != nil {
		return err
	}
	if tell {
		say("%s: update.key signs updates and checksums; PK, KEK and db are for Secure Boot.", dir)
		say("Keep the folder away from the network, with a copy. Who has it decides what appliances run.")
	}
	return nil
}
