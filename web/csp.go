package web

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"regexp"
	"strings"
)

// appCSP lets the application load from its own origin only. WebAssembly is the
// Matrix cryptography; blob: are decrypted images, media and the crypto worker;
// data: are placeholder images.
const appCSP = "default-src 'none'; " +
	"script-src 'self' 'wasm-unsafe-eval'; " +
	"style-src 'self'; " +
	"img-src 'self' blob: data:; " +
	"media-src 'self' blob:; " +
	"font-src 'self'; " +
	"connect-src 'self'; " +
	"worker-src 'self' blob:; " +
	"frame-src 'self'; " +
	"manifest-src 'self'; " +
	"base-uri 'none'; form-action 'self'; object-src 'none'; frame-ancestors 'none'"

// elementCallCSP is what the Element Call bundle needs, which is served as its
// makers built it. It still reaches no other host. What is wider than appCSP:
// inline styles (its style sheets are partly set from scripts), the inline
// scripts of its index.html (each by its hash), data: and blob: for its sounds,
// fonts, emoji, audio worklets and the background blur; only our own pages may
// frame it.
func elementCallCSP(scriptHashes []string) string {
	return strings.Replace(elementCallPolicy, "HASHES", strings.Join(scriptHashes, " "), 1)
}

const elementCallPolicy = "default-src 'none'; " +
	"script-src 'self' 'wasm-unsafe-eval' blob: HASHES; " +
	"style-src 'self' 'unsafe-inline'; " +
	"img-src 'self' blob: data:; " +
	"media-src 'self' blob: data:; " +
	"font-src 'self' data:; " +
	"connect-src 'self' blob: data:; " +
	"worker-src 'self' blob:; " +
	"base-uri 'none'; form-action 'none'; object-src 'none'; frame-ancestors 'self'"

func commonHeaders(h http.Header) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(self), microphone=(self), display-capture=(self), fullscreen=(self), autoplay=(self), speaker-selection=(self), clipboard-write=(self), screen-wake-lock=(self), geolocation=(), payment=(), usb=(), serial=(), hid=(), midi=(), browsing-topics=()")
}

var inlineScript = regexp.MustCompile(`(?s)<script>(.*?)</script>`)

// scriptHashes are the CSP sources of a page's inline scripts.
func scriptHashes(html []byte) []string {
	var out []string
	for _, m := range inlineScript.FindAllSubmatch(html, -1) {
		sum := sha256.Sum256(m[1])
		out = append(out, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	}
	return out
}
