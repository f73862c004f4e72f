// Package update brings another version of the disk image onto the machine: signed
// bundles, the versions beside each other on the EFI system partition, and the way
// back.
//
// Invariants: nothing of a bundle is looked at before its manifest's signature was
// checked with a key that the running version holds, and nothing of its content
// counts before its SHA-256 was; the running version's file is never written or
// removed, so that there is always one that starts; a version appears under its
// name only when all of it is on disk; a new version counts as good only when it
// was blessed after its own check, and one that was not is left by the boot
// loader after three attempts.
package update

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"
)

// A bundle is, one after the other: magic; the manifest's length, 4 bytes, big
// endian; the manifest, JSON; an Ed25519 signature over all of that; the image.
const (
	magic       = "HFBUNDLE\x00\x01\r\n"
	maxManifest = 64 << 10
	// MaxImage is the largest image that is taken, in bytes. The EFI system
	// partition has room for three of the usual size.
	MaxImage = 400 << 20
)

// Extension is that of a bundle's file name.
const Extension = ".hfu"

// Errors of reading a bundle. Each is wrapped in text for an administrator.
var (
	ErrNotBundle = errors.New("this is not an update of Holdfast: it should be a file whose name ends in " + Extension)
	ErrDamaged   = errors.New("the update is damaged or incomplete: copy it again")
	ErrSignature = errors.New("the update is not signed by who made this appliance, so it is not used")
)

// Manifest is what a bundle says about itself.
type Manifest struct {
	Version string    `json:"version"`
	Arch    string    `json:"arch"`    // "amd64" or "arm64", as Go names them
	Created time.Time `json:"created"` // the commit's time
	Size    int64     `json:"size"`    // of the image, in bytes
	SHA256  string    `json:"sha256"`  // of the image, in hex
	// Schema is the newest database schema that this version reads.
	Schema int `json:"schema"`
	// Notes say in a few lines what is new.
	Notes string `json:"notes,omitempty"`
}

func (m *Manifest) check() error {
	sum, err := hex.DecodeString(m.SHA256)
	switch {
	case CheckVersion(m.Version) != nil, m.Arch == "", len(m.Arch) > 20, err != nil, len(sum) != sha256.Size,
		m.Size <= 0, m.Size > MaxImage, m.Schema < 0:
		return ErrNotBundle
	}
	return nil
}

// Bundle is an opened bundle whose signature is right. Read gives its image; io.EOF
// comes only when the image's SHA-256 is what the manifest says.
type Bundle struct {
	Manifest
	head []byte // all that stands before the image
	r    io.Reader
	left int64
	sum  hash.Hash
}

// Write writes a bundle. The image is read twice: for its hash, and to be copied.
func Write(w io.Writer, m Manifest, image io.ReadSeeker, key ed25519.PrivateKey) error {
	sum := sha256.New()
	n, err := io.Copy(sum, image)
	if err != nil {
		return err
	}
	m.Size, m.SHA256 = n, hex.EncodeToString(sum.Sum(nil))
	if err := m.check(); err != nil {
		return fmt.Errorf("the manifest of version %q for %q with %d bytes is not valid: %w", m.Version, m.Arch, m.Size, err)
	}
	head, err := header(m)
	if err != nil {
		return err
	}
	if _, err := image.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = io.Copy(w, io.MultiReader(bytes.NewReader(head), bytes.NewReader(ed25519.Sign(key, head)), image))
	return err
}

// Head gives what of a bundle stands before its image. A system partition keeps it
// in HeadFile, so that the bundle can be handed on.
func Head(bundle io.Reader, keys []ed25519.PublicKey) (head []byte, version string, err error) {
	b, err := Open(bundle, keys)
	if err != nil {
		return nil, "", err
	}
	return b.head, b.Version, nil
}

// HeadFile is where a version's Head is kept on the system partition.
func HeadFile(version string) string { return "holdfast/" + version + ".head" }

func header(m Manifest) ([]byte, error) {
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(text) > maxManifest {
		return nil, fmt.Errorf("the manifest has %d bytes, more than %d: shorten the notes", len(text), maxManifest)
	}
	head := append([]byte(magic), 0, 0, 0, 0)
	binary.BigEndian.PutUint32(head[len(magic):], uint32(len(text)))
	return append(head, text...), nil
}

// Open reads a bundle's manifest and checks its signature with any of the keys.
// Errors: ErrNotBundle, ErrSignature, ErrDamaged.
func Open(r io.Reader, keys []ed25519.PublicKey) (*Bundle, error) {
	head := make([]byte, len(magic)+4)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, incomplete(err, ErrNotBundle)
	}
	n := binary.BigEndian.Uint32(head[len(magic):])
	if string(head[:len(magic)]) != magic || n == 0 || n > maxManifest {
		return nil, ErrNotBundle
	}
	rest := make([]byte, int(n)+ed25519.SignatureSize)
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil, incomplete(err, ErrDamaged)
	}
	text, sig := rest[:n], rest[n:]
	signed := append(head, text...)
	good := false
	for _, k := range keys {
		good = good || ed25519.Verify(k, signed, sig)
	}
	if !good {
		return nil, ErrSignature
	}
	b := &Bundle{head: append(signed, sig...), r: r, sum: sha256.New()}
	if err := json.Unmarshal(text, &b.Manifest); err != nil {
		return nil, ErrNotBundle
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	b.left = b.Size
	return b, nil
}

// incomplete is as for a short read, and the error itself where reading failed.
func incomplete(err, as error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return as
	}
	return err
}

// Read implements io.Reader. Errors: ErrDamaged.
func (b *Bundle) Read(p []byte) (int, error) {
	if b.left == 0 {
		if hex.EncodeToString(b.sum.Sum(nil)) != strings.ToLower(b.SHA256) {
			return 0, ErrDamaged
		}
		return 0, io.EOF
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	b.sum.Write(p[:n])
	if err != nil && b.left > 0 {
		return n, incomplete(err, ErrDamaged)
	}
	return n, nil
}

// ParseKeys reads public keys: a line each, base64 of 32 bytes; lines that begin
// with # are remarks.
func ParseKeys(text []byte) (keys []ed25519.PublicKey, err error) {
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		k, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(k) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("%.20q is not a public key: base64 of %d bytes is expected", line, ed25519.PublicKeySize)
		}
		keys = append(keys, k)
	}
	return keys, nil
}
