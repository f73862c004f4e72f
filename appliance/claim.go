package appliance

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"rsc.io/qr"

	"holdfast/appliance/settings"
	"holdfast/store"
	"holdfast/web"
)

// claim guards the setup: whoever reads the console may become the first admin.
// Its code is one of 2^60, its hash is all that is kept, a wrong guess makes the
// next one wait, and finishing the setup removes it.
type claim struct {
	mu    sync.Mutex
	next  time.Time // no guess is looked at before
	wrong int
	shown string // the code of this start, for the machine's screen
}

// Crockford's 32 characters, of which none is mistaken for another.
const claimLetters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

const (
	claimLength  = 12
	longestPause = 2 * time.Second
)

func newClaimCode() string {
	var b [claimLength]byte
	rand.Read(b[:]) // never fails
	var s strings.Builder
	for i, c := range b {
		if i > 0 && i%4 == 0 {
			s.WriteByte('-')
		}
		s.WriteByte(claimLetters[c&31])
	}
	return s.String()
}

// normalCode is a code as it is hashed: people type small letters, spaces, and
// letters for digits.
func normalCode(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == 'o' || r == 'O':
			return '0'
		case r == 'i' || r == 'I' || r == 'l' || r == 'L':
			return '1'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		}
		return -1
	}, s)
}

func hashCode(code string) string {
	h := sha256.Sum256([]byte("holdfast claim code\x00" + normalCode(code)))
	return hex.EncodeToString(h[:])
}

// openClaim makes a claim code for this start, unless there is an administrator.
// The code of an earlier start cannot be shown again, since only its hash is kept.
func (a *Appliance) openClaim(ctx context.Context) (code string, err error) {
	if claimed, err := a.claimed(ctx); claimed || err != nil {
		return "", err
	}
	code = newClaimCode()
	if err := a.settings.Put(ctx, map[string]string{settings.ClaimHash: hashCode(code)}); err != nil {
		return "", err
	}
	a.claim.mu.Lock()
	defer a.claim.mu.Unlock()
	a.claim.shown = code
	return code, nil
}

var (
	errClaimed   = &web.Error{Status: http.StatusGone, Code: "claimed", Message: "This appliance was set up already. Log in instead."}
	errWrongCode = &web.Error{Status: http.StatusForbidden, Code: "wrong_code", Field: "code", Message: "This is not the claim code. It stands on the appliance's console; a new start makes a new one."}
)

// check compares a code with a hash. Errors: *web.Error.
func (c *claim) check(want, code string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Before(c.next) {
		return &web.Error{Status: http.StatusTooManyRequests, Code: "slow_down", Field: "code", Message: "That was too quick after a wrong code. Wait two seconds, then try again."}
	}
	if subtle.ConstantTimeCompare([]byte(hashCode(code)), []byte(want)) == 1 {
		c.wrong = 0
		return nil
	}
	c.wrong++
	pause := min(longestPause, time.Duration(1<<min(c.wrong, 10))*100*time.Millisecond)
	c.next = now.Add(pause)
	return errWrongCode
}

// finishTx marks the setup as finished, once. Errors: errClaimed.
func (a *Appliance) finishTx(tx *store.Tx) error {
	ok, err := a.settings.ClaimTx(tx, settings.Claimed, "yes")
	if err != nil {
		return err
	}
	if !ok {
		return errClaimed
	}
	return a.settings.PutTx(tx, map[string]string{settings.ClaimHash: ""})
}

// banner tells the person at the console where to go.
func (a *Appliance) banner(code string) {
	if a.out == nil {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nHoldfast %s is ready (%d ms).\n\n", Version, time.Since(a.started).Milliseconds())
	local, shared := a.localURL(), a.sharedURL()
	if local != "" {
		fmt.Fprintf(&b, "  On this machine:       %s\n", local)
	}
	if shared != local && !strings.Contains(shared, "://localhost") {
		fmt.Fprintf(&b, "  From other machines:   %s\n", shared)
		for _, u := range a.moreURLs(shared) {
			fmt.Fprintf(&b, "                         %s\n", u)
		}
	}
	if own := a.ownCA(); own != nil && a.hasTLS() {
		fmt.Fprintf(&b, "\n  Their browsers warn until they trust this appliance's certificate authority:\n    %s/ca.crt  with the SHA-256 fingerprint\n    %s\n    %s\n", shared, own.Fingerprint()[:47], own.Fingerprint()[48:])
	}
	if code != "" {
		base := local
		if base == "" {
			base = shared
		}
		fmt.Fprintf(&b, "\n  Nobody has claimed this appliance yet. Open %s and type this code:\n\n      %s\n", base+"/setup", code)
		if a.hasTLS() && !strings.Contains(shared, "://localhost") {
			b.WriteString("\n  or scan this from a phone in the same network:\n\n")
			writeQR(&b, shared+"/setup#code="+code)
		}
	}
	b.WriteByte('\n')
	io.WriteString(a.out, b.String())
}

func (a *Appliance) hasTLS() bool {
	for _, l := range a.listens {
		if l.name == "https" {
			return true
		}
	}
	return false
}

// moreURLs are further addresses in the network.
func (a *Appliance) moreURLs(but string) (out []string) {
	if a.cfg.PublicURL != "" {
		return nil
	}
	for _, l := range a.listens {
		if l.name != "https" {
			continue
		}
		for _, ip := range lanAddrs() {
			if u := "https://" + hostPort(ip.String(), l.port(), "443"); u != but && ip.Is4() && l.reaches(ip) {
				out = append(out, u)
			}
		}
	}
	return out
}

// writeQR draws a QR code with half blocks, light on dark terminals and dark on
// light ones: the quiet zone is drawn, too.
func writeQR(w io.Writer, text string) {
	c, err := qr.Encode(text, qr.L)
	if err != nil {
		return
	}
	const quiet = 2
	dark := func(x, y int) bool { return x >= 0 && y >= 0 && x < c.Size && y < c.Size && c.Black(x, y) }
	for y := -quiet; y < c.Size+quiet; y += 2 {
		var b strings.Builder
		b.WriteString("      ")
		for x := -quiet; x < c.Size+quiet; x++ {
			switch top, bottom := dark(x, y), dark(x, y+1); {
			case top && bottom:
				b.WriteString(" ")
			case top:
				b.WriteString("▄")
			case bottom:
				b.WriteString("▀")
			default:
				b.WriteString("█")
			}
		}
		fmt.Fprintln(w, b.String())
	}
}
