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
	"encoding/hex"
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

// A database's note of the key that it is sealed with is among the names in store_sealed.
const keyNote = "key "

// fingerprint tells one key from another, and nothing else about it.
func (b *Box) fingerprint() string {
	m := hmac.New(sha256.New, b.mac)
	m.Write([]byte("which key this is"))
	return keyNote + hex.EncodeToString(m.Sum(nil)[:16])
}

// Check refuses a key that is not the one that the database notes. A database without a
// note is of an earlier version, or new. Errors: ErrKey.
func (b *Box) Check(ctx context.Context, db *store.DB) error {
	return db.Read(ctx, func(q store.Querier) error {
		var name string
		err := q.QueryRow(`SELECT name FROM store_sealed WHERE name LIKE $1`, keyNote+"%").Scan(&name)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return nil
		case err == nil && name != b.fingerprint():
			return ErrKey
		}
		return err
	})
}

// Note has the database know its key from now on: for when its secrets were opened with it.
func (b *Box) Note(ctx context.Context, db *store.DB) error {
	return db.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`INSERT INTO store_sealed (name) VALUES ($1) ON CONFLICT DO NOTHING`, b.fingerprint())
		return err
	})
}

// emptied is after the name of what was sealed once the log was emptied, too.
const emptied = ", log emptied"

// Once runs f unless it was done for this database: it seals what an earlier version kept
// in clear. f and the note that it was done are one write. Where f changed something, the
// database's log, which may have the clear text, is emptied, after a loss of power before
// that at the next start.
func Once(ctx context.Context, db *store.DB, name string, f func(tx *store.Tx) (changed bool, err error)) error {
	var changed bool
	note := func(tx *store.Tx, name string) error {
		_, err := tx.Exec(`INSERT INTO store_sealed (name) VALUES ($1) ON CONFLICT DO NOTHING`, name)
		return err
	}
	err := db.Write(ctx, func(tx *store.Tx) error {
		var done int
		if err := tx.QueryRow(`SELECT count(*) FROM store_sealed WHERE name IN ($1, $2)`, name, name+emptied).Scan(&done); err != nil || done == 2 {
			return err
		}
		if done == 1 {
			changed = true // by a run that was cut short
			return nil
		}
		var err error
		if changed, err = f(tx); err != nil {
			return err
		}
		if !changed {
			if err := note(tx, name+emptied); err != nil {
				return err
			}
		}
		return note(tx, name)
	})
	if err != nil || !changed {
		return err
	}
	if err := db.EmptyLog(ctx); err != nil {
		return err
	}
	return db.Write(ctx, func(tx *store.Tx) error { return note(tx, name+emptied) })
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
