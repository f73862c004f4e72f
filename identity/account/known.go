package account

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

// A browser keeps what names it to the accounts that signed in with it, so that
// attempts of others at those accounts are no hindrance in it. It opens nothing.
const (
	knownBytes = 12
	macBytes   = 16
	maxKnown   = 4 // accounts that a browser is known by
	maxCookie  = 512
)

// NewKnown is the value of the cookie that makes a browser known to an account, added
// to what it has.
func (a *Accounts) NewKnown(cookie, localpart string) string {
	if a.KnownIn(cookie, localpart) != "" {
		return cookie
	}
	nonce := make([]byte, knownBytes)
	rand.Read(nonce)
	all := append([]string{base64.RawURLEncoding.EncodeToString(append(nonce, a.knownMAC(nonce, localpart)...))}, strings.Split(cookie, ".")...)
	if cookie == "" || len(cookie) > maxCookie {
		all = all[:1]
	}
	return strings.Join(all[:min(len(all), maxKnown)], ".")
}

// KnownIn is by what a browser with this cookie is known to an account, or "".
func (a *Accounts) KnownIn(cookie, localpart string) Known {
	if len(cookie) > maxCookie || len(a.Key) == 0 {
		return ""
	}
	for _, s := range strings.Split(cookie, ".") {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err == nil && len(b) == knownBytes+macBytes && hmac.Equal(b[knownBytes:], a.knownMAC(b[:knownBytes], localpart)) {
			return Known(s)
		}
	}
	return ""
}

func (a *Accounts) knownMAC(nonce []byte, localpart string) []byte {
	m := hmac.New(sha256.New, a.Key)
	m.Write(nonce)
	m.Write([]byte(strings.ToLower(localpart)))
	return m.Sum(nil)[:macBytes]
}
