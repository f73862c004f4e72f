package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"holdfast/image/update"
)

// keys are those of who publishes the image. They are kept outside the repository.
type keys struct {
	dir    string
	test   bool               // made here, for development
	signer ed25519.PrivateKey // nil: only the public key is there, nothing is signed
	public []ed25519.PublicKey
}

const (
	updateKey = "update.key" // PKCS #8, PEM
	updatePub = "update.pub" // lines of base64, the first belonging to updateKey
)

// openKeys reads the keys from the named folder, or makes keys for development.
func openKeys(o options) (*keys, error) {
	k := &keys{dir: o.keys}
	if o.keys == "" {
		k.dir, k.test = filepath.Join(o.out, "keys"), true
		if err := makeKeys(k.dir); err != nil {
			return nil, err
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
	text, err := os.ReadFile(filepath.Join(k.dir, updateKey))
	if errors.Is(err, fs.ErrNotExist) {
		say("%s has no %s: nothing is signed", k.dir, updateKey)
		return k, nil
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s/%s is not PEM", k.dir, updateKey)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	signer, ok := key.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s/%s is not an Ed25519 key", k.dir, updateKey)
	}
	if !k.public[0].Equal(signer.Public()) {
		return nil, fmt.Errorf("the first key of %s/%s does not belong to %s", k.dir, updatePub, updateKey)
	}
	k.signer = signer
	return k, nil
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

// makeKeys makes a key of updates in a folder that has none.
func makeKeys(dir string) error {
	path := filepath.Join(dir, updateKey)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, updatePub), []byte(base64.StdEncoding.EncodeToString(public)+"\n"), 0o644); err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}
