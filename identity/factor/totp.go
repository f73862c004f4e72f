package factor

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6238 as every app has it; HMAC does not need collision resistance
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"holdfast/store"
)

// What authenticator apps take without being told: SHA-1, six digits, thirty seconds.
const (
	secretBytes = 20
	digits      = 6
	stepSeconds = 30
	window      = 1 // steps before and after the present one
)

var base32NoPad = base32.StdEncoding.WithPadding(base32.NoPadding)

// NewSecret is a secret for an authenticator app, as people type it.
func NewSecret() string {
	b := make([]byte, secretBytes)
	rand.Read(b)
	return base32NoPad.EncodeToString(b)
}

// KeyURI is what the app reads from a QR code.
// Format: https://github.com/google/google-authenticator/wiki/Key-Uri-Format
func KeyURI(issuer, account, secret string) string {
	// A colon ends the issuer in the label.
	issuer = strings.ReplaceAll(issuer, ":", " ")
	return "otpauth://totp/" + url.PathEscape(issuer) + ":" + url.PathEscape(account) + "?secret=" + secret +
		"&issuer=" + strings.ReplaceAll(url.QueryEscape(issuer), "+", "%20")
}

// code is the code of a step. Spec: RFC 4226 section 5.3, RFC 6238 section 4.2
func code(secret []byte, step int64) string {
	m := hmac.New(sha1.New, secret)
	binary.Write(m, binary.BigEndian, step)
	h := m.Sum(nil)
	o := h[len(h)-1] & 15
	n := binary.BigEndian.Uint32(h[o:o+4]) & 0x7fffffff
	return fmt.Sprintf("%0*d", digits, n%1_000_000)
}

// match is the step that a code belongs to, of those after last. Errors: ErrCode.
func match(secret []byte, typed string, now time.Time, last int64) (int64, error) {
	typed = strings.Map(func(r rune) rune {
		if r == ' ' || r == '-' || r == '\u00a0' {
			return -1
		}
		return r
	}, typed)
	at := now.Unix() / stepSeconds
	found := int64(-1)
	for step := at - window; step <= at+window; step++ {
		if subtle.ConstantTimeCompare([]byte(code(secret, step)), []byte(typed)) == 1 && step > last {
			found = step
		}
	}
	if found < 0 {
		return 0, ErrCode
	}
	return found, nil
}

const insertTOTP = `INSERT INTO id_totp (user_id, sealed, last_step, created) VALUES ($1, $2, $3, $4)`

// AddApp keeps the secret of an authenticator app, once a code shows that the app has
// it. codes are recovery codes, made with the first factor. Errors: ErrCode, ErrExist.
func (f *Factors) AddApp(ctx context.Context, user, secret, typed string) (codes []string, err error) {
	plain, err := base32NoPad.DecodeString(secret)
	if err != nil || len(plain) != secretBytes {
		return nil, ErrCode
	}
	step, err := match(plain, typed, f.Now(), 0)
	if err != nil {
		return nil, err
	}
	sealed, err := f.Seal(plain)
	if err != nil {
		return nil, err
	}
	err = f.DB.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(insertTOTP, user, sealed, step, f.Now().UnixMilli()); err != nil {
			if store.IsConflict(err) {
				return ErrExist
			}
			return err
		}
		if err := f.note(ctx, tx, user, "factor.app.add", ""); err != nil {
			return err
		}
		s, err := f.OfTx(tx, user)
		if err != nil || s.HadCodes {
			return err
		}
		codes, err = f.NewCodesTx(ctx, tx, user)
		return err
	})
	return codes, err
}

const (
	selectTOTP = `SELECT sealed, last_step FROM id_totp WHERE user_id = $1`
	updateStep = `UPDATE id_totp SET last_step = $2 WHERE user_id = $1 AND last_step < $2`
)

// UseApp checks a code of the authenticator app, whose step is used up with it.
// Errors: ErrCode, also where there is no app.
func (f *Factors) UseApp(ctx context.Context, user, typed string) error {
	return f.DB.Write(ctx, func(tx *store.Tx) error {
		var sealed []byte
		var last int64
		if err := tx.QueryRow(selectTOTP, user).Scan(&sealed, &last); err != nil {
			if errors.Is(err, store.ErrNotFound) {
				return ErrCode
			}
			return err
		}
		secret, err := f.Unseal(sealed)
		if err != nil {
			return fmt.Errorf("an authenticator app's secret cannot be opened; the key file is not the one it was sealed with: %w", err)
		}
		step, err := match(secret, typed, f.Now(), last)
		if err != nil {
			return err
		}
		n, err := tx.Exec(updateStep, user, step)
		if err == nil && n == 0 {
			err = ErrCode
		}
		return err
	})
}

// RemoveApp forgets the authenticator app. Errors: ErrNeeded.
func (f *Factors) RemoveApp(ctx context.Context, user string) error {
	return f.DB.Write(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(deleteTOTP, user)
		if err != nil || n == 0 {
			return err
		}
		if err := f.note(ctx, tx, user, "factor.app.remove", ""); err != nil {
			return err
		}
		return f.tidyTx(tx, user)
	})
}
