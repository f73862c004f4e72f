package opstore

import (
	"encoding/json"
	"slices"
	"testing"
)

// FuzzParseClaims reads the parameter claims: whatever it holds, only what is known is
// kept, and that survives being stored with the sign-in.
func FuzzParseClaims(f *testing.F) {
	for _, s := range []string{`{"id_token":{"acr":{"essential":true,"values":["urn:holdfast:acr:2fa"]}}}`, `{"userinfo":{"email":null,"x":{"value":1}}}`, `[]`, `null`, ` {"id_token":null}`,
		`{"id_token":{"sub":{"value":"a","values":[1,null,"b"]}}}`, `{"id_token":{"acr":{"essential":"yes"}}}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		c, err := ParseClaims(raw)
		if err != nil {
			return
		}
		if len(raw) > maxClaims {
			t.Fatal("too long, and taken")
		}
		for _, m := range []map[string]*Claim{c.UserInfo, c.IDToken} {
			for k := range m {
				if scopeOf[k] == "" && !slices.Contains([]string{"acr", "auth_time", "sub", "amr"}, k) {
					t.Fatalf("%q is kept of %q", k, raw)
				}
			}
		}
		p := Params{Claims: c}
		wanted, must := p.ACR()
		if must && len(wanted) == 0 {
			t.Fatalf("%q must have one of nothing", raw)
		}
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseClaims(string(b))
		if err != nil && len(b) <= maxClaims {
			t.Fatalf("%s does not survive: %v", b, err)
		}
		if err == nil && (again.Subject() != c.Subject() || !slices.Equal(again.Scopes(), c.Scopes())) {
			t.Fatalf("%s means something else", b)
		}
	})
}
