package pdu

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"

	"holdfast/homeserver/mx"
)

// SigningKey is a server's key for signing events.
type SigningKey struct {
	ID      string // with its algorithm, such as "ed25519:a1"
	Server  string // server name that signs
	Private ed25519.PrivateKey
}

func (k SigningKey) sign(b []byte) []byte { return ed25519.Sign(k.Private, b) }

// Public is the public half of the key.
func (k SigningKey) Public() ed25519.PublicKey { return k.Private.Public().(ed25519.PublicKey) }

// Errors of verification.
var (
	ErrNoSignature  = errors.New("there is no signature by this key")
	ErrBadSignature = errors.New("the signature is wrong")
)

// Base64 encodes bytes as Matrix does: standard alphabet, no padding.
func Base64(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

// DecodeBase64 decodes unpadded base64, and forgives padding.
// Spec: appendices#unpadded-base64
func DecodeBase64(s string) ([]byte, error) {
	for len(s) > 0 && s[len(s)-1] == '=' {
		s = s[:len(s)-1]
	}
	return base64.RawStdEncoding.DecodeString(s)
}

// Verify checks one server's signature of a PDU in canonical form.
// Errors: ErrNoSignature, ErrBadSignature, or *mx.Error for what is no event.
// Spec: server-server#validating-hashes-and-signatures-on-received-events
func Verify(v Version, raw []byte, server, keyID string, pub ed25519.PublicKey) error {
	b, err := signedForm(v, raw)
	if err != nil {
		return err
	}
	return verify(b, Field(raw, "signatures"), server, keyID, pub)
}

// SignPDU adds a signature to a PDU in canonical form and returns the new PDU.
// A restricted join is signed by two servers so.
func SignPDU(v Version, raw []byte, key SigningKey) ([]byte, error) {
	b, err := signedForm(v, raw)
	if err != nil {
		return nil, err
	}
	return addSignature(raw, key, key.sign(b))
}

// SignJSON signs an object of any kind, such as a server's keys or a join rule's
// third-party token, and returns it in canonical form with the signature added.
// Errors: *mx.Error. Spec: appendices#signing-json
func SignJSON(object []byte, key SigningKey) ([]byte, error) {
	c, err := Canonical(object)
	if err != nil {
		return nil, err
	}
	if !IsObject(c) {
		return nil, jsonError(ErrNotObject)
	}
	b, err := without(c, "signatures", "unsigned")
	if err != nil {
		return nil, jsonError(err)
	}
	return addSignature(c, key, key.sign(b))
}

// VerifyJSON checks a signature of an object: entity is a server name or a user
// ID, keyID the key with its algorithm. Errors: ErrNoSignature, ErrBadSignature,
// or *mx.Error. Spec: appendices#checking-for-a-signature
func VerifyJSON(object []byte, entity, keyID string, pub ed25519.PublicKey) error {
	c, err := Canonical(object)
	if err != nil {
		return err
	}
	b, err := without(c, "signatures", "unsigned")
	if err != nil {
		return jsonError(err)
	}
	return verify(b, Field(c, "signatures"), entity, keyID, pub)
}

func verify(signed, signatures []byte, entity, keyID string, pub ed25519.PublicKey) error {
	s, ok := String(Path(signatures, entity, keyID))
	if !ok {
		return fmt.Errorf("%s %s: %w", entity, keyID, ErrNoSignature)
	}
	sig, err := DecodeBase64(s)
	if err != nil || len(pub) != ed25519.PublicKeySize || !ed25519.Verify(pub, signed, sig) {
		return fmt.Errorf("%s %s: %w", entity, keyID, ErrBadSignature)
	}
	return nil
}

// addSignature puts a signature into an object that is canonical.
func addSignature(object []byte, key SigningKey, sig []byte) ([]byte, error) {
	own := append(make([]byte, 0, 160), '{')
	own = AppendString(own, key.Server)
	own = append(own, ":{"...)
	own = AppendString(own, key.ID)
	own = append(own, ':')
	own = AppendString(own, Base64(sig))
	// Members of the entity and of the other entities are kept; what stood there
	// under the same key is replaced. Canonical puts all in order.
	old := Field(object, "signatures")
	if old != nil && !IsObject(old) {
		return nil, mx.Errorf(mx.BadJSON, "The signatures of an object must be an object.")
	}
	if old != nil {
		mine := Field(old, key.Server)
		if err := members(mine, func(k, v []byte) error {
			if string(k) != key.ID {
				own = appendMember(own, k, v)
			}
			return nil
		}); err != nil && mine != nil {
			return nil, jsonError(err)
		}
	}
	own = append(own, '}')
	if old != nil {
		if err := members(old, func(k, v []byte) error {
			if string(k) != key.Server {
				own = appendMember(own, k, v)
			}
			return nil
		}); err != nil {
			return nil, jsonError(err)
		}
	}
	own = append(own, '}')
	rest, err := without(object, "signatures")
	if err != nil {
		return nil, jsonError(err)
	}
	rest = appendMember(rest[:len(rest)-1], []byte("signatures"), own)
	return appendCanonical(make([]byte, 0, len(rest)+1), append(rest, '}'), false)
}
