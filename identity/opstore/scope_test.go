package opstore

import (
	"strings"
	"testing"
)

// FuzzScopes checks that whatever is granted has at most one device, in one
// spelling, and nothing that is not known.
func FuzzScopes(f *testing.F) {
	for _, s := range []string{"openid", "urn:matrix:client:api:* urn:matrix:client:device:A", "urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:client:device:A",
		"urn:synapse:admin:*", "urn:matrix:client:device:a%2fb urn:matrix:client:api:*", "  ", "openid\tprofile", "urn:matrix:client:api:* urn:matrix:client:device:A urn:matrix:client:device:A"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		scopes, device, err := CheckScopes(s)
		if err != nil {
			if _, ok := err.(*ErrScope); !ok {
				t.Fatalf("%T", err)
			}
			return
		}
		var api, devices int
		seen := map[string]bool{}
		for _, v := range scopes {
			if seen[v] {
				t.Fatalf("%q: repeated %q", s, v)
			}
			seen[v] = true
			rest, ok := strings.CutPrefix(v, "urn:matrix:client:")
			if !ok {
				rest, ok = strings.CutPrefix(v, "urn:matrix:org.matrix.msc2967.client:")
			}
			switch {
			case ok && rest == "api:*":
				api++
			case ok && rest == "device:"+device && ValidDeviceID(device):
				devices++
			case !ok && !strings.Contains(v, ":"):
			default:
				t.Fatalf("%q: granted %q", s, v)
			}
		}
		if api > 1 || devices != api || (device != "") != (devices == 1) || len(scopes) == 0 {
			t.Fatalf("%q: %v %q", s, scopes, device)
		}
		if strings.Contains(s, "urn:matrix:client:") && strings.Contains(s, "msc2967") {
			t.Fatalf("%q: mixed spellings were granted", s)
		}
	})
}

// FuzzUserCode checks that whatever counts as a code is one that could be given out,
// and that every code that is given out is read again.
func FuzzUserCode(f *testing.F) {
	for _, s := range []string{"BCDF-GHJK", "bcdf ghjk", "", "BCDFGHJ", "AAAA-AAAA", "B C.D_F-G H J K", "\u212aCDF-GHJK"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if code, ok := ParseUserCode(s); ok && (len(code) != userCodeLength || strings.Trim(code, userCodeLetters) != "") {
			t.Fatalf("%q is taken for %q", s, code)
		}
		made := newUserCode()
		if again, ok := ParseUserCode(strings.ToLower(ShowUserCode(made))); !ok || again != made {
			t.Fatalf("%q is read as %q", made, again)
		}
	})
}
