// Package factor keeps what people prove who they are with beside a password, or
// instead of one: the secret of their authenticator app, passkeys, and codes on paper
// for the day those are lost.
//
// Invariants:
//   - A secret of an app lies in the database sealed, a code as a keyed hash: neither
//     is of use without the key file.
//   - A step of the clock and a code are used up in the transaction that accepts them:
//     of parallel uses one wins.
//   - A challenge for a passkey is spent before its answer is looked at, belongs to one
//     purpose, origin and browser, and is good once.
//   - Passkeys are bound to the appliance's public name, and work nowhere else.
//   - Recovery codes exist only beside another factor, and go with the last.
package factor

import (
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"strings"
	"time"

	"holdfast/store"
)

// Errors that callers may test for.
var (
	ErrCode  = errors.New("identity: the code is wrong, too old, or was used")
	ErrNone  = errors.New("identity: there is no such second factor")
	ErrExist = errors.New("identity: there is an authenticator app already")
	// ErrNeeded: the last factor must stay.
	ErrNeeded = errors.New("identity: the rules want a second factor, and this is the last")
)

// Options of New.
type Options struct {
	DB     *store.DB
	Key    []byte // that of the key file
	Seal   func(plain []byte) ([]byte, error)
	Unseal func(sealed []byte) ([]byte, error)
	Now    func() time.Time
	RPID   string // the name that passkeys are bound to; "": there are none
	// Organisation is what browsers call the appliance. nil: by RPID.
	Organisation func() string
	// Note writes the audit log: what happened to whose factors. nil: nothing is.
	Note func(ctx context.Context, tx *store.Tx, user, event, name string) error
	// Needed reports whether somebody must keep their last factor. nil: nobody must.
	Needed func(q store.Querier, user string) (bool, error)
}

// Factors keeps the factors.
type Factors struct {
	Options
	codeKey    []byte
	challenges challenges
}

// New prepares the factors.
func New(o Options) (*Factors, error) {
	key, err := hkdf.Key(sha256.New, o.Key, nil, "holdfast recovery codes", 32)
	f := &Factors{Options: o, codeKey: key}
	f.challenges.start()
	return f, err
}

func (f *Factors) note(ctx context.Context, tx *store.Tx, user, event, name string) error {
	if f.Note == nil {
		return nil
	}
	return f.Note(ctx, tx, user, event, name)
}

// State is what somebody has.
type State struct {
	App      bool // an authenticator app
	Passkeys int
	Codes    int // recovery codes that are left
	HadCodes bool
}

// Any reports whether there is a second factor. Codes alone are none.
func (s State) Any() bool { return s.App || s.Passkeys > 0 }

// fewCodes is from when on people are told to make new ones.
const fewCodes = 3

// Few reports whether new recovery codes should be made.
func (s State) Few() bool { return s.Any() && s.Codes <= fewCodes }

const selectState = `SELECT (SELECT count(*) FROM id_totp WHERE user_id = $1),
(SELECT count(*) FROM id_recovery_codes WHERE user_id = $1 AND used = 0),
(SELECT count(*) FROM id_recovery_codes WHERE user_id = $1),
(SELECT count(*) FROM id_passkeys WHERE user_id = $1)`

// Of is what an account has, by its ULID.
func (f *Factors) Of(ctx context.Context, user string) (s State, err error) {
	err = f.DB.Read(ctx, func(q store.Querier) error {
		s, err = f.OfTx(q, user)
		return err
	})
	return s, err
}

// OfTx is Of inside a transaction.
func (f *Factors) OfTx(q store.Querier, user string) (s State, err error) {
	var app, all int
	err = q.QueryRow(selectState, user).Scan(&app, &s.Codes, &all, &s.Passkeys)
	s.App, s.HadCodes = app > 0, all > 0
	return s, err
}

const (
	deleteTOTP  = `DELETE FROM id_totp WHERE user_id = $1`
	deleteCodes = `DELETE FROM id_recovery_codes WHERE user_id = $1`
)

const selectEverybody = `SELECT user_id FROM id_totp UNION SELECT user_id FROM id_passkeys`

// EverybodyTx is who has a second factor, by their ULIDs.
func (f *Factors) EverybodyTx(q store.Querier) (map[string]bool, error) {
	rows, err := q.Query(selectEverybody)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]bool{}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		out[id] = true
	}
	return out, rows.Err()
}

// DropTx takes everything away that an account has.
func (f *Factors) DropTx(tx *store.Tx, user string) error {
	for _, q := range []string{deleteTOTP, deleteCodes, dropPasskeys} {
		if _, err := tx.Exec(q, user); err != nil {
			return err
		}
	}
	return nil
}

// tidyTx drops the recovery codes once there is nothing that they stand in for. Errors:
// ErrNeeded where there must be something.
func (f *Factors) tidyTx(tx *store.Tx, user string) error {
	s, err := f.OfTx(tx, user)
	if err != nil || s.Any() {
		return err
	}
	if f.Needed != nil {
		if needed, err := f.Needed(tx, user); err != nil || needed {
			return cmp.Or(err, ErrNeeded)
		}
	}
	_, err = tx.Exec(deleteCodes, user)
	return err
}

// Recovery codes: how many, and of how many letters, five bits each.
const (
	codeCount   = 10
	codeLetters = 12
)

// The alphabet of Crockford: no I, L, O or U to mistake.
const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// newCode is a code as it is shown, "ABCD-EFGH-JKMN".
func newCode() string {
	var b [codeLetters]byte
	rand.Read(b[:])
	var out strings.Builder
	for i, c := range b {
		if i > 0 && i%4 == 0 {
			out.WriteByte('-')
		}
		out.WriteByte(crockford[c&31])
	}
	return out.String()
}

// ReadCode is a code as people type it without what they may leave out or mistake,
// or "" where it cannot be one.
func ReadCode(s string) string {
	if len(s) > 64 {
		return ""
	}
	var out strings.Builder
	for _, c := range strings.ToUpper(s) {
		switch c {
		case ' ', '-', '\t', '\u2013', '\u2011', '\u00a0':
			continue
		case 'O':
			c = '0'
		case 'I', 'L':
			c = '1'
		}
		if c > 127 || !strings.ContainsRune(crockford, c) {
			return ""
		}
		out.WriteRune(c)
	}
	if out.Len() != codeLetters {
		return ""
	}
	return out.String()
}

func (f *Factors) codeHash(user, plain string) []byte {
	m := hmac.New(sha256.New, f.codeKey)
	m.Write([]byte(user + "\x00" + plain))
	return m.Sum(nil)
}

// NewCodes makes recovery codes, which replace those that were there. They are not
// shown again. Errors: ErrNone without another factor.
func (f *Factors) NewCodes(ctx context.Context, user string) (codes []string, err error) {
	err = f.DB.Write(ctx, func(tx *store.Tx) error {
		codes, err = f.NewCodesTx(ctx, tx, user)
		return err
	})
	return codes, err
}

const insertCode = `INSERT INTO id_recovery_codes (user_id, hash, created, used) VALUES ($1, $2, $3, 0)`

// NewCodesTx is NewCodes inside a transaction.
func (f *Factors) NewCodesTx(ctx context.Context, tx *store.Tx, user string) ([]string, error) {
	s, err := f.OfTx(tx, user)
	if err == nil && !s.Any() {
		err = ErrNone
	}
	if err != nil {
		return nil, err
	}
	if _, err := tx.Exec(deleteCodes, user); err != nil {
		return nil, err
	}
	var codes []string
	for range codeCount {
		c := newCode()
		codes = append(codes, c)
		if _, err := tx.Exec(insertCode, user, f.codeHash(user, ReadCode(c)), f.Now().UnixMilli()); err != nil {
			return nil, err
		}
	}
	return codes, f.note(ctx, tx, user, "factor.codes.new", "")
}

const useCode = `UPDATE id_recovery_codes SET used = $3 WHERE user_id = $1 AND hash = $2 AND used = 0`

// UseCode uses a recovery code up. Errors: ErrCode.
func (f *Factors) UseCode(ctx context.Context, user, code string) error {
	plain := ReadCode(code)
	if plain == "" {
		return ErrCode
	}
	return f.DB.Write(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(useCode, user, f.codeHash(user, plain), f.Now().UnixMilli())
		if err == nil && n == 0 {
			err = ErrCode
		}
		if err != nil {
			return err
		}
		return f.note(ctx, tx, user, "factor.code.use", "")
	})
}
