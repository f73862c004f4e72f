package account

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"

	"holdfast/store"
	"holdfast/store/audit"
	"holdfast/store/sealed"
)

// RegistrationToken is a word that registers accounts. Who has it may make that many.
type RegistrationToken struct {
	Token     string
	Uses      *int64 // nil: no bound
	Completed int64
	Expires   *int64 // ms; nil: never
}

// Valid reports whether an account can be made with it now.
func (t RegistrationToken) Valid(now time.Time) bool {
	return (t.Uses == nil || t.Completed < *t.Uses) && (t.Expires == nil || *t.Expires > now.UnixMilli())
}

// Errors about registration tokens.
var (
	ErrNoToken     = errors.New("identity: no such registration token")
	ErrTokenExists = errors.New("identity: the registration token exists")
)

const tokenAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-"

// NewTokenWord makes a word of n characters that nobody guesses if n is large.
func NewTokenWord(n int) string {
	out := make([]byte, 0, n)
	var b [1]byte
	for len(out) < n {
		rand.Read(b[:])
		if int(b[0]) < len(tokenAlphabet)*3 { // no character is likelier than another
			out = append(out, tokenAlphabet[int(b[0])%len(tokenAlphabet)])
		}
	}
	return string(out)
}

const tokenColumns = `SELECT token, uses, completed, expires FROM id_registration_tokens `

// tokenPurpose is what tokens are sealed for. They are no hashes, since administrators
// see them listed.
const tokenPurpose = "registration token"

// sealedToken is a token as the database has it.
func (a *Accounts) sealedToken(token string) string { return a.Secrets.Token(tokenPurpose, token) }

// SealTokens seals those that an earlier version kept in clear.
func (a *Accounts) SealTokens(ctx context.Context) error {
	return sealed.Once(ctx, a.DB, "id_registration_tokens", func(tx *store.Tx) (bool, error) {
		return sealed.Rewrite(tx, "id_registration_tokens", "token", func(row map[string]any) error {
			row["token"] = a.sealedToken(row["token"].(string))
			return nil
		})
	})
}

func (a *Accounts) scanToken(scan func(...any) error) (t RegistrationToken, err error) {
	var uses, expires sql.NullInt64
	if err := scan(&t.Token, &uses, &t.Completed, &expires); err != nil {
		if errors.Is(err, store.ErrNotFound) {
			err = ErrNoToken
		}
		return t, err
	}
	if t.Token, err = a.Secrets.Open(tokenPurpose, t.Token); err != nil {
		return t, err
	}
	if uses.Valid {
		t.Uses = &uses.Int64
	}
	if expires.Valid {
		t.Expires = &expires.Int64
	}
	return t, nil
}

// RegistrationTokens lists them by word.
func (a *Accounts) RegistrationTokens(ctx context.Context) (out []RegistrationToken, err error) {
	err = a.DB.Read(ctx, func(q store.Querier) error {
		rows, err := q.Query(tokenColumns)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			t, err := a.scanToken(rows.Scan)
			if err != nil {
				return err
			}
			out = append(out, t)
		}
		return rows.Err()
	})
	slices.SortFunc(out, func(a, b RegistrationToken) int { return strings.Compare(a.Token, b.Token) })
	return out, err
}

// RegistrationToken loads one. Errors: ErrNoToken.
func (a *Accounts) RegistrationToken(ctx context.Context, token string) (t RegistrationToken, err error) {
	err = a.DB.Read(ctx, func(q store.Querier) error {
		t, err = a.scanToken(q.QueryRow(tokenColumns+`WHERE token = $1`, a.sealedToken(token)).Scan)
		return err
	})
	return t, err
}

// CreateRegistrationToken adds one. Errors: ErrTokenExists.
func (a *Accounts) CreateRegistrationToken(ctx context.Context, t RegistrationToken) error {
	return a.DB.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`INSERT INTO id_registration_tokens (token, uses, expires, created) VALUES ($1, $2, $3, $4)`, a.sealedToken(t.Token), t.Uses, t.Expires, a.Now().UnixMilli())
		if store.IsConflict(err) {
			return ErrTokenExists
		}
		if err != nil {
			return err
		}
		return a.noteToken(tx, "token.create", t)
	})
}

// ChangeRegistrationToken changes how often and how long one can be used. Errors: ErrNoToken, change's.
func (a *Accounts) ChangeRegistrationToken(ctx context.Context, token string, change func(*RegistrationToken) error) (t RegistrationToken, err error) {
	err = a.DB.Write(ctx, func(tx *store.Tx) error {
		if t, err = a.scanToken(tx.QueryRow(tokenColumns+`WHERE token = $1`, a.sealedToken(token)).Scan); err != nil {
			return err
		}
		if err := change(&t); err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE id_registration_tokens SET uses = $2, expires = $3 WHERE token = $1`, a.sealedToken(token), t.Uses, t.Expires); err != nil {
			return err
		}
		return a.noteToken(tx, "token.change", t)
	})
	return t, err
}

// DeleteRegistrationToken removes one. Errors: ErrNoToken.
func (a *Accounts) DeleteRegistrationToken(ctx context.Context, token string) error {
	return a.DB.Write(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(`DELETE FROM id_registration_tokens WHERE token = $1`, a.sealedToken(token))
		if err == nil && n == 0 {
			err = ErrNoToken
		}
		if err != nil {
			return err
		}
		return a.noteToken(tx, "token.delete", RegistrationToken{})
	})
}

// noteToken has in the audit log what happened to a word that registers accounts, but
// not the word.
func (a *Accounts) noteToken(tx *store.Tx, event string, t RegistrationToken) error {
	d := audit.Data{}
	if t.Uses != nil {
		d["uses"] = *t.Uses
	}
	if t.Expires != nil {
		d["expires"] = time.UnixMilli(*t.Expires).UTC().Format(time.RFC3339)
	}
	return a.Audit.Tx(tx.Context(), tx, audit.Event{Name: event, Data: d})
}

const useTokenSQL = `UPDATE id_registration_tokens SET completed = completed + 1
WHERE token = $1 AND (uses IS NULL OR completed < uses) AND (expires IS NULL OR expires > $2)`

// useRegistrationToken counts a use. Errors: ErrInvite.
func (a *Accounts) useRegistrationToken(tx *store.Tx, token string, now time.Time) error {
	n, err := tx.Exec(useTokenSQL, a.sealedToken(token), now.UnixMilli())
	if err == nil && n == 0 {
		err = ErrInvite
	}
	return err
}
