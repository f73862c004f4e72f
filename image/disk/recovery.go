package disk

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"strings"
)

// A recovery passphrase is six groups of five signs out of thirty, 147 bits. The
// signs are chosen for paper and for foreign keyboards: no I, L, O and U beside 1
// and 0, and no Y and Z, which German keyboards have the other way round. The
// passphrase of the key slot is the text as it is printed, so that it can be typed
// into cryptsetup.
const (
	alphabet  = "0123456789ABCDEFGHJKMNPQRSTVWX"
	groups    = 6
	groupSize = 5
)

func newRecovery() string {
	var b strings.Builder
	for i := range groups * groupSize {
		if i > 0 && i%groupSize == 0 {
			b.WriteByte('-')
		}
		for {
			var r [1]byte
			rand.Read(r[:])
			if n := int(r[0]); n < 256/len(alphabet)*len(alphabet) {
				b.WriteByte(alphabet[n%len(alphabet)])
				break
			}
		}
	}
	return b.String()
}

// parseRecovery gives the printed form of what somebody typed: in either case, with
// any or no signs between the groups, and with letters that look like digits.
func parseRecovery(typed string) (string, error) {
	var signs []byte
	for _, c := range strings.ToUpper(typed) {
		switch c {
		case 'O':
			c = '0'
		case 'I', 'L':
			c = '1'
		}
		switch {
		case c < 128 && strings.ContainsRune(alphabet, c):
			signs = append(signs, byte(c))
		case c >= 'A' && c <= 'Z':
			return "", fmt.Errorf("a recovery passphrase has no %c", c)
		}
		if len(signs) > 10*groups*groupSize {
			break
		}
	}
	if len(signs) != groups*groupSize {
		return "", fmt.Errorf("a recovery passphrase has %d letters and digits, and this has %d", groups*groupSize, len(signs))
	}
	var parts []string
	for i := 0; i < len(signs); i += groupSize {
		parts = append(parts, string(signs[i:i+groupSize]))
	}
	return strings.Join(parts, "-"), nil
}

// sameRecovery compares what was typed with what was made, and tells where it is
// not the same; who types it was shown it a moment ago. Errors: ErrNotTheSame.
func sameRecovery(made, typed string) error {
	got, err := parseRecovery(typed)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotTheSame, err)
	}
	if subtle.ConstantTimeCompare([]byte(made), []byte(got)) == 1 {
		return nil
	}
	a, b := strings.Split(made, "-"), strings.Split(got, "-")
	for i := range a {
		if a[i] != b[i] {
			return fmt.Errorf("%w: look at group %d again", ErrNotTheSame, i+1)
		}
	}
	return ErrNotTheSame
}
