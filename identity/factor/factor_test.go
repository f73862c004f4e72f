package factor

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/identity/opstore"
	"holdfast/store"
)

// The codes of RFC 6238 appendix B, of which six digits are shown.
func TestCodesOfTheRFC(t *testing.T) {
	secret := []byte("12345678901234567890")
	for unix, want := range map[int64]string{59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130"} {
		if got := code(secret, unix/stepSeconds); got != want {
			t.Errorf("at %d: %s, want %s", unix, got, want)
		}
	}
}

type rig struct {
	*Factors
	db  *store.DB
	now time.Time
}

func newRig(t *testing.T) *rig {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "holdfast.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	key := make([]byte, 32)
	rand.Read(key)
	r := &rig{db: db, now: time.Unix(1_800_000_000, 0)}
	r.Factors, err = New(Options{DB: db, Key: key, Now: func() time.Time { return r.now },
		Seal:   func(b []byte) ([]byte, error) { return opstore.Seal(key, b) },
		Unseal: func(b []byte) ([]byte, error) { return opstore.Unseal(key, b) }})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// app is what the person's telephone shows.
func (r *rig) app(secret string, steps int64) string {
	b, _ := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
	return code(b, r.now.Unix()/stepSeconds+steps)
}

func TestApp(t *testing.T) {
	r, ctx, secret := newRig(t), context.Background(), NewSecret()
	if _, err := r.AddApp(ctx, "u", secret, r.app(secret, 5)); !errors.Is(err, ErrCode) {
		t.Fatalf("an app was added with a wrong code: %v", err)
	}
	codes, err := r.AddApp(ctx, "u", secret, r.app(secret, 0))
	if err != nil || len(codes) != codeCount {
		t.Fatalf("%v, %d codes", err, len(codes))
	}
	second := NewSecret()
	if _, err := r.AddApp(ctx, "u", second, r.app(second, 0)); !errors.Is(err, ErrExist) {
		t.Fatalf("a second app: %v", err)
	}
	if err := r.UseApp(ctx, "u", r.app(secret, 0)); !errors.Is(err, ErrCode) {
		t.Fatalf("the step that added the app was taken again: %v", err)
	}
	for _, off := range []int64{-2, 2} {
		if err := r.UseApp(ctx, "u", r.app(secret, off)); !errors.Is(err, ErrCode) {
			t.Errorf("a code %d steps away: %v", off, err)
		}
	}
	r.now = r.now.Add(5 * stepSeconds * time.Second)
	if err := r.UseApp(ctx, "u", r.app(secret, -1)); err != nil {
		t.Fatalf("a step ago: %v", err)
	}
	spaced := r.app(secret, 1)
	if err := r.UseApp(ctx, "u", spaced[:3]+" "+spaced[3:]); err != nil {
		t.Fatalf("a step ahead, with a space: %v", err)
	}
	// The steps before the one that was used are gone, too.
	if err := r.UseApp(ctx, "u", r.app(secret, 0)); !errors.Is(err, ErrCode) {
		t.Fatalf("an older step after a newer: %v", err)
	}
	if err := r.UseApp(ctx, "other", r.app(secret, 0)); !errors.Is(err, ErrCode) {
		t.Fatal("somebody else's")
	}
}

func TestParallelUses(t *testing.T) {
	r, ctx, secret := newRig(t), context.Background(), NewSecret()
	codes, err := r.AddApp(ctx, "u", secret, r.app(secret, 0))
	if err != nil {
		t.Fatal(err)
	}
	r.now = r.now.Add(time.Hour)
	for name, use := range map[string]func() error{
		"app":  func() error { return r.UseApp(ctx, "u", r.app(secret, 0)) },
		"code": func() error { return r.UseCode(ctx, "u", codes[3]) },
	} {
		var won, lost int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				err := use()
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won++
				case errors.Is(err, ErrCode):
					lost++
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won != 1 || lost != 15 {
			t.Errorf("%s: %d won, %d lost", name, won, lost)
		}
	}
}

func TestRecoveryCodes(t *testing.T) {
	r, ctx, secret := newRig(t), context.Background(), NewSecret()
	if _, err := r.NewCodes(ctx, "u"); !errors.Is(err, ErrNone) {
		t.Fatalf("codes without a factor: %v", err)
	}
	codes, err := r.AddApp(ctx, "u", secret, r.app(secret, 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.UseCode(ctx, "other", codes[0]); !errors.Is(err, ErrCode) {
		t.Fatalf("somebody else's code: %v", err)
	}
	for i, c := range codes[:7] {
		if s, _ := r.Of(ctx, "u"); s.Codes != codeCount-i || s.Few() {
			t.Fatalf("%+v", s)
		}
		if err := r.UseCode(ctx, "u", " "+c[:4]+c[5:]+" "); err != nil {
			t.Fatal(err)
		}
		if err := r.UseCode(ctx, "u", c); !errors.Is(err, ErrCode) {
			t.Fatalf("twice: %v", err)
		}
	}
	if s, _ := r.Of(ctx, "u"); !s.Few() {
		t.Fatalf("few are not called few: %+v", s)
	}
	fresh, err := r.NewCodes(ctx, "u")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.UseCode(ctx, "u", codes[9]); !errors.Is(err, ErrCode) {
		t.Fatal("a code that was replaced")
	}
	if err := r.UseCode(ctx, "u", fresh[9]); err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveApp(ctx, "u"); err != nil {
		t.Fatal(err)
	}
	if s, _ := r.Of(ctx, "u"); s != (State{}) {
		t.Fatalf("left: %+v", s)
	}
}

func TestReadCode(t *testing.T) {
	for in, want := range map[string]string{
		"abcd-efgh-jkmn": "ABCDEFGHJKMN", "oil0 – 0000 0000": "011000000000", "ABCD-EFGH-JKM": "", "ABCD-EFGH-JKMNN": "", "ABCD-EFGH-JKMU": "", "": "",
		"ÀBCD-EFGH-JKMN": "",
	} {
		if got := ReadCode(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// What lies in the file is of no use by itself (attack 46).
func TestNothingInTheClear(t *testing.T) {
	r, ctx, secret := newRig(t), context.Background(), NewSecret()
	codes, err := r.AddApp(ctx, "u", secret, r.app(secret, 0))
	if err != nil {
		t.Fatal(err)
	}
	plain, _ := base32NoPad.DecodeString(secret)
	err = r.db.Read(ctx, func(q store.Querier) error {
		var sealed, hash []byte
		if err := q.QueryRow(selectTOTP, "u").Scan(&sealed, new(int64)); err != nil {
			return err
		}
		if bytes.Contains(sealed, plain) || bytes.Contains(sealed, []byte(secret)) {
			t.Error("the secret lies in the clear")
		}
		other, _ := New(Options{Key: make([]byte, 32)})
		for _, c := range codes {
			if err := q.QueryRow(`SELECT hash FROM id_recovery_codes WHERE user_id = 'u' AND hash = $1`, other.codeHash("u", ReadCode(c))).Scan(&hash); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("a code can be tried without the key file: %v", err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestKeyURI(t *testing.T) {
	u, err := url.Parse(KeyURI("Example: Org & Co", "anna@example.org", "ABC"))
	if err != nil || u.Scheme != "otpauth" || u.Host != "totp" || u.Path != "/Example  Org & Co:anna@example.org" {
		t.Fatalf("%v %+v", err, u)
	}
	if q := u.Query(); q.Get("secret") != "ABC" || q.Get("issuer") != "Example  Org & Co" {
		t.Fatal(q)
	}
}
