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
	"slices"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"holdfast/identity/account"
	"holdfast/store"
	"holdfast/store/audit"
)

// Times of signing keys. A key is published before it signs, so that applications that
// look for keys once a day know it, and after, while somebody may show an ID token of it:
// as long as a browser stays signed in.
const (
	KeyFor       = 90 * 24 * time.Hour
	keyAhead     = 24 * time.Hour
	keyAfter     = 30 * 24 * time.Hour
	keysFreshFor = time.Minute // what another process or the command line changed is seen by then
)

// signing are the keys of ID tokens, in the order in which they sign.
type signing struct {
	mu     sync.Mutex
	list   []*signingKey
	loaded time.Time
}

type signingKey struct {
	id      string
	priv    *rsa.PrivateKey // nil: it does not sign any more
	pub     *rsa.PublicKey
	from    time.Time
	retired time.Time // zero: it signs, or will
	created time.Time
}

func (k *signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k *signingKey) Key() any                                    { return k.priv }
func (k *signingKey) ID() string                                  { return k.id }

type publicKey struct{ k *signingKey }

func (p publicKey) ID() string                         { return p.k.id }
func (p publicKey) Algorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (p publicKey) Use() string                        { return "sig" }
func (p publicKey) Key() any                           { return p.k.pub }

// Key is a signing key as it is shown.
type Key struct {
	ID      string
	State   string // KeyNext, KeySigns or KeyRetired
	Created time.Time
	From    time.Time // it signs since then, or will
	Retired time.Time // zero: not yet
}

// States of a signing key.
const (
	KeyNext    = "next"
	KeySigns   = "signs"
	KeyRetired = "retired"
)

// PrepareKey loads or makes the signing key, so that the first sign-in need not.
func (s *Store) PrepareKey(ctx context.Context) error {
	_, err := s.signer(ctx)
	return err
}

// keys are those that are published.
func (s *Store) keys(ctx context.Context) ([]*signingKey, error) {
	s.signing.mu.Lock()
	defer s.signing.mu.Unlock()
	return s.signing.refresh(ctx, s)
}

// refresh loads the keys if they may have changed, and makes the first. Its owner has
// the lock.
func (g *signing) refresh(ctx context.Context, s *Store) ([]*signingKey, error) {
	now := s.Now()
	if len(g.list) > 0 && now.Sub(g.loaded) < keysFreshFor && !now.Before(g.loaded) {
		return g.list, nil
	}
	list, err := s.loadKeys(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(list, func(k *signingKey) bool { return k.retired.IsZero() && !k.from.After(now) }) {
		k, err := s.makeKey(ctx, now)
		if err != nil {
			return nil, err
		}
		list = append(list, k)
	}
	g.list, g.loaded = list, now
	return list, nil
}

// signer is the key that signs now: the latest whose time has come.
func (s *Store) signer(ctx context.Context) (*signingKey, error) {
	list, err := s.keys(ctx)
	if err != nil {
		return nil, err
	}
	return current(list, s.Now()), nil
}

func current(list []*signingKey, now time.Time) (k *signingKey) {
	for _, x := range list {
		if x.retired.IsZero() && x.priv != nil && !x.from.After(now) && (k == nil || !x.from.Before(k.from)) {
			k = x
		}
	}
	return k
}

// Keys lists the signing keys.
func (s *Store) Keys(ctx context.Context) (out []Key, err error) {
	list, err := s.keys(ctx)
	now := s.Now()
	cur := current(list, now)
	for _, k := range list {
		x := Key{ID: k.id, State: KeyRetired, Created: k.created, From: k.from, Retired: k.retired}
		switch {
		case k == cur:
			x.State = KeySigns
		case k.from.After(now):
			x.State = KeyNext
		}
		out = append(out, x)
	}
	return out, err
}

// RotateKey makes the next signing key: it signs in a day, or with atOnce from now on,
// and the keys before it are then not even published any more: for one that was stolen.
// Without atOnce a next key that there is stays. Errors: any is transient.
func (s *Store) RotateKey(ctx context.Context, atOnce bool) error {
	s.signing.mu.Lock()
	defer s.signing.mu.Unlock()
	list, err := s.signing.refresh(ctx, s)
	if err != nil {
		return err
	}
	now := s.Now()
	if !atOnce {
		if slices.ContainsFunc(list, func(k *signingKey) bool { return k.from.After(now) }) {
			return nil
		}
		_, err = s.makeKey(ctx, now.Add(keyAhead))
	} else {
		var k *signingKey
		if k, err = s.makeKey(ctx, now); err == nil {
			err = s.DB.Write(ctx, func(tx *store.Tx) error {
				if _, err := tx.Exec(`DELETE FROM id_keys WHERE kid <> $1`, k.id); err != nil {
					return err
				}
				return s.Audit.Tx(ctx, tx, audit.Event{Name: "key.drop", Data: audit.Data{"but": k.id}})
			})
		}
	}
	s.signing.list = nil // load them anew
	return err
}

// UpkeepKeys makes the next key in time, takes the private part from keys that have
// done their work, and forgets those that nobody shows a token of any more.
func (s *Store) UpkeepKeys(ctx context.Context) error {
	s.signing.mu.Lock()
	defer s.signing.mu.Unlock()
	s.signing.list = nil
	list, err := s.signing.refresh(ctx, s)
	if err != nil {
		return err
	}
	now := s.Now()
	cur := current(list, now)
	if next := slices.ContainsFunc(list, func(k *signingKey) bool { return k.from.After(now) }); !next && now.Sub(cur.from) >= KeyFor-keyAhead {
		if _, err := s.makeKey(ctx, now.Add(keyAhead)); err != nil {
			return err
		}
		s.Log.Info("the next key for ID tokens was made; it signs in a day")
		s.signing.list = nil
	}
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		for _, k := range list {
			if k != cur && k.retired.IsZero() && !k.from.After(now) {
				if _, err := tx.Exec(`UPDATE id_keys SET retired = $2, sealed = x'' WHERE kid = $1`, k.id, now.UnixMilli()); err != nil {
					return err
				}
				if err := s.Audit.Tx(ctx, tx, audit.Event{Name: "key.retire", Target: k.id}); err != nil {
					return err
				}
				s.signing.list = nil
			}
		}
		_, err := tx.Exec(`DELETE FROM id_keys WHERE retired <> 0 AND retired < $1`, now.Add(-keyAfter).UnixMilli())
		return err
	})
}

const selectKeys = `SELECT kid, sealed, created, active_from, retired, public FROM id_keys WHERE alg = 'RS256' ORDER BY max(active_from, created)`

func (s *Store) loadKeys(ctx context.Context) (list []*signingKey, err error) {
	err = s.DB.Read(ctx, func(q store.Querier) error {
		rows, err := q.Query(selectKeys)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			k := &signingKey{}
			var sealed, public []byte
			var created, from, retired int64
			if err := rows.Scan(&k.id, &sealed, &created, &from, &retired, &public); err != nil {
				return err
			}
			k.created = time.UnixMilli(created)
			k.from = time.UnixMilli(max(from, created))
			if retired != 0 {
				k.retired = time.UnixMilli(retired)
			}
			if err := s.openKey(k, sealed, public); err != nil {
				return err
			}
			list = append(list, k)
		}
		return rows.Err()
	})
	return list, err
}

func (s *Store) openKey(k *signingKey, sealed, public []byte) error {
	if len(sealed) > 0 {
		der, err := Unseal(s.seal, sealed)
		if err != nil {
			return fmt.Errorf("the signing key cannot be opened: the key file is not the one it was sealed with; restore the key file of this database: %w", err)
		}
		any, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			return err
		}
		priv, ok := any.(*rsa.PrivateKey)
		if !ok {
			return errors.New("the signing key is of another kind")
		}
		k.priv, k.pub = priv, &priv.PublicKey
		return nil
	}
	var err error
	k.pub, err = x509.ParsePKCS1PublicKey(public)
	return err
}

func (s *Store) makeKey(ctx context.Context, from time.Time) (*signingKey, error) {
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
	now := s.Now()
	k := &signingKey{id: account.NewULID(now), priv: priv, pub: &priv.PublicKey, from: from, created: now}
	return k, s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := s.Audit.Tx(ctx, tx, audit.Event{Name: "key.create", Target: k.id, Data: audit.Data{"signs_from": from.UTC().Format(time.RFC3339)}}); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO id_keys (kid, alg, sealed, created, active_from, retired, public) VALUES ($1, 'RS256', $2, $3, $4, 0, $5)`, k.id, sealed, now.UnixMilli(), from.UnixMilli(), x509.MarshalPKCS1PublicKey(k.pub))
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
