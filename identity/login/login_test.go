package login

import (
	"net/url"
	"strings"
	"testing"
)

// FuzzNext checks that a page to go on to is always on the same origin, as a
// browser resolves it: it takes backslashes for slashes and drops tabs and newlines.
func FuzzNext(f *testing.F) {
	for _, s := range []string{"/account", "//evil.test", "/\\evil.test", "/\t/evil.test", "https://evil.test", "/%2f%2fevil.test", "/a?b=//c", "/.//evil.test", "", "/..//evil.test"} {
		f.Add(s)
	}
	base, _ := url.Parse("https://chat.example.org/login")
	f.Fuzz(func(t *testing.T, s string) {
		next := SafeNext(s)
		if next == "" {
			return
		}
		seen := strings.NewReplacer("\\", "/", "\t", "", "\n", "", "\r", "").Replace(next)
		u, err := base.Parse(seen)
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if u.Scheme != "https" || u.Host != "chat.example.org" || strings.HasPrefix(seen, "//") {
			t.Fatalf("%q leads to %s", s, u)
		}
	})
}

// FuzzFormSource checks that a redirect URI cannot add anything else to the
// Content-Security-Policy.
func FuzzFormSource(f *testing.F) {
	for _, s := range []string{"https://app.test/cb", "http://127.0.0.1:8080/cb", "http://[::1]:1/cb", "com.example.app:/cb", "https://a;script-src *", "https://*/", "x y:", "", "https://a,b/", "https://%27self%27/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		src := formSource(s)
		if strings.ContainsAny(src, " ;,'\"*\t\r\n") {
			t.Fatalf("%q gives the source %q", s, src)
		}
	})
}

// FuzzSSOTarget checks that a login token is never sent to a script or to nowhere.
func FuzzSSOTarget(f *testing.F) {
	for _, s := range []string{"https://element.test/?a=b", "javascript:alert(1)", "JAVASCRIPT:alert(1)", "element://x", "https://u@h/", "//h", "data:,x", " https://h/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, ok := ssoTarget(s)
		if !ok {
			return
		}
		out := strings.ToLower(u.String())
		for _, bad := range []string{"javascript:", "data:", "vbscript:", "file:", "blob:", "about:", "/", "http:///", "https:///"} {
			if strings.HasPrefix(out, bad) {
				t.Fatalf("%q is accepted as %q", s, out)
			}
		}
		if u.User != nil || u.Scheme == "" {
			t.Fatalf("%q is accepted", s)
		}
	})
}
