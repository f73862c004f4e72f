package opstore

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"

	jose "github.com/go-jose/go-jose/v4"

	"holdfast/identity/account"
	"holdfast/store"
)

// signing is the key of ID tokens, loaded or made once.
type signing struct {
	mu  sync.Mutex
	key *signingKey
}

type signingKey struct {
	id   string
	priv *rsa.PrivateKey
}

func (k *signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k *signingKey) Key() any                                    { return k.priv }
func (k *signingKey) ID() string                                  { return k.id }

type publicKey struct{ k *signingKey }

func (p publicKey) ID() string                         { return p.k.id }
func (p publicKey) Algorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (p publicKey) Use() string                        { return "sig" }
func (p publicKey) Key() any                           { return p.k.priv.Public() }

// PrepareKey loads or makes the signing key, so that the first sign-in need not.
func (s *Store) PrepareKey(ctx context.Context) error {
	_, err := s.key(ctx)
	return err
}

func (s *Store) key(ctx context.Context) (*signingKey, error) {
	s.signing.mu.Lock()
	defer s.signing.mu.Unlock()
	if s.signing.key != nil {
		return s.signing.key, nil
	}
	k, err := s.loadKey(ctx)
	if errors.Is(err, store.ErrNotFound) {
		k, err = s.makeKey(ctx)
	}
	if err != nil {
		return nil, err
	}
	s.signing.key = k
	return k, nil
}

func (s *Store) loadKey(ctx context.Context) (*signingKey, error) {
	k := &signingKey{}
	var sealed []byte
	err := s.DB.Read(ctx, func(q store.Querier) error {
		return q.QueryRow(`SELECT kid, sealed FROM id_keys WHERE alg = 'RS256' ORDER BY created DESC LIMIT 1`).Scan(&k.id, &sealed)
	})
	if err != nil {
		return nil, err
	}
	der, err := Unseal(s.seal, sealed)
	if err != nil {
		return nil, fmt.Errorf("the signing key cannot be opened: the key file is not the one it was sealed with; restore the key file of this database: %w", err)
	}
	any, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	var ok bool
	if k.priv, ok = any.(*rsa.PrivateKey); !ok {
		return nil, errors.New("the signing key is of another kind")
	}
	return k, nil
}

func (s *Store) makeKey(ctx context.Context) (*signingKey, error) {
	priv, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, err
	}
	sealed, err := Seal(s.seal, der)
	if err != nil {
		return nil, err
	}
	k := &signingKey{account.NewULID(s.Now()), priv}
	return k, s.DB.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`INSERT INTO id_keys (kid, alg, sealed, created) VALUES ($1, 'RS256', $2, $3)`, k.id, sealed, s.Now().UnixMilli())
		return err
	})
}

func gcm(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(b)
}

// Seal encrypts and authenticates under a key of 32 bytes.
func Seal(key, plain []byte) ([]byte, error) {
	g, err := gcm(key)
	if err != nil {
		return nil, err
	}
	return g.Seal(nil, nil, plain, nil), nil
}

// Unseal opens what Seal made.
func Unseal(key, sealed []byte) ([]byte, error) {
	g, err := gcm(key)
	if err != nil {
		return nil, err
	}
	return g.Open(nil, nil, sealed, nil)
}
