// Package sealed protects secrets that lie in the database and must be read again:
// tokens that are listed or sent, private keys, what other services gave out.
//
// Invariants: the key is not in the database; what is sealed is authenticated, and
// belongs to the one purpose that it was sealed for, so that a value that is moved to
// another column does not open; the sealed form of a token is always the same, so that
// it is found by its value; what was in clear before leaves nothing behind in the
// database file or its log.
package sealed

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"

	"holdfast/store"
)

// ErrKey means that something was sealed with another key, for another purpose, or was changed.
var ErrKey = errors.New("a secret in the database cannot be opened: the master key is not the one that it was sealed with; restore the key file of this database")

// Box seals and opens.
type Box struct {
	aead cipher.AEAD
	mac  []byte // gives tokens their nonces
}

// New makes a box from a key of 32 bytes.
func New(key []byte) (*Box, error) {
	if len(key) != 32 {
		return nil, errors.New("sealed: the key needs 32 bytes")
	}
	enc, err := hkdf.Key(sha256.New, key, nil, "holdfast sealed values", 32)
	if err != nil {
		return nil, err
	}
	mac, err := hkdf.Key(sha256.New, key, nil, "holdfast sealed values, nonces", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(enc)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &Box{aead, mac}, nil
}

func (b *Box) seal(purpose, plain string, nonce []byte) string {
	out := b.aead.Seal(nonce, nonce, []byte(plain), []byte(purpose))
	return base64.RawURLEncoding.EncodeToString(out)
}

// Seal protects a value. Each time it looks otherwise.
func (b *Box) Seal(purpose, plain string) string {
	nonce := make([]byte, b.aead.NonceSize())
	rand.Read(nonce)
	return b.seal(purpose, plain, nonce)
}

// Token protects a value by which rows are found: the same value gives the same form. Its
// nonce comes from the value, so that one nonce is never used for two.
func (b *Box) Token(purpose, plain string) string {
	m := hmac.New(sha256.New, b.mac)
	m.Write([]byte(purpose + "\x00" + plain))
	return b.seal(purpose, plain, m.Sum(nil)[:b.aead.NonceSize()])
}

// Open gives back what Seal or Token protected for the same purpose. Errors: ErrKey.
func (b *Box) Open(purpose, sealed string) (string, error) {
	raw, err := base64.RawURLEncoding.DecodeString(sealed)
	n := b.aead.NonceSize()
	if err != nil || len(raw) < n {
		return "", fmt.Errorf("%w (%s)", ErrKey, purpose)
	}
	plain, err := b.aead.Open(nil, raw[:n], raw[n:], []byte(purpose))
	if err != nil {
		return "", fmt.Errorf("%w (%s)", ErrKey, purpose)
	}
	return string(plain), nil
}

// Once runs f unless it was done for this database: it seals what an earlier version kept
// in clear. f and the note that it was done are one write. Where f changed something, the
// database's log, which may have the clear text, is emptied.
func Once(ctx context.Context, db *store.DB, name string, f func(tx *store.Tx) (changed bool, err error)) error {
	var changed bool
	err := db.Write(ctx, func(tx *store.Tx) error {
		err := tx.QueryRow(`SELECT name FROM store_sealed WHERE name = $1`, name).Scan(new(string))
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if changed, err = f(tx); err != nil {
			return err
		}
		_, err = tx.Exec(`INSERT INTO store_sealed (name) VALUES ($1)`, name)
		return err
	})
	if err != nil || !changed {
		return err
	}
	return db.EmptyLog(ctx)
}

// Rewrite changes every row of a table, in the given order, by column. The table is
// emptied and filled anew: SQLite overwrites pages that become free (secure_delete), but
// not what lies between the rows of a page that stays.
func Rewrite(tx *store.Tx, table, order string, change func(row map[string]any) error) (changed bool, err error) {
	rows, err := tx.Query(`SELECT * FROM ` + table + ` ORDER BY ` + order)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return false, err
	}
	var all [][]any
	for rows.Next() {
		values, to := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			to[i] = &values[i]
		}
		if err := rows.Scan(to...); err != nil {
			return false, err
		}
		all = append(all, values)
	}
	if err := rows.Err(); err != nil || len(all) == 0 {
		return false, err
	}
	rows.Close()
	if _, err := tx.Exec(`DELETE FROM ` + table); err != nil {
		return false, err
	}
	names, marks := "", ""
	for i, c := range columns {
		if i > 0 {
			names, marks = names+", ", marks+", "
		}
		names, marks = names+c, marks+fmt.Sprintf("$%d", i+1)
	}
	row := make(map[string]any, len(columns))
	for _, values := range all {
		for i, c := range columns {
			row[c] = values[i]
		}
		if err := change(row); err != nil {
			return false, err
		}
		for i, c := range columns {
			values[i] = row[c]
		}
		if _, err := tx.Exec(`INSERT INTO `+table+` (`+names+`) VALUES (`+marks+`)`, values...); err != nil {
			return false, err
		}
	}
	return true, nil
}
