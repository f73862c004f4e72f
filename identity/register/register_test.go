package register

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

func TestRedirectRules(t *testing.T) {
	// The examples of the specification, for the client URI https://example.com/.
	client, _ := url.Parse("https://example.com/")
	for uri, want := range map[string][2]bool{ // web, native
		"https://example.com/callback":          {true, true},
		"https://app.example.com/callback":      {true, true},
		"https://example.com:5173/?query=value": {true, true},
		"https://example.com/callback#fragment": {false, false},
		"http://example.com/callback":           {false, false},
		"http://localhost/":                     {false, true},
		"com.example.app:/callback":             {false, true},
		"com.example:/":                         {false, true},
		"com.example:callback":                  {false, true},
		"http://localhost/callback":             {false, true},
		"http://127.0.0.1/callback":             {false, true},
		"http://[::1]/callback":                 {false, true},
		"example:/callback":                     {false, false},
		"com.example.app://callback":            {false, false},
		"https://localhost/callback":            {false, false},
		"http://localhost:1234/callback":        {false, false},
	} {
		for i, native := range []bool{false, true} {
			if err := checkRedirect(uri, client, native); (err == nil) != want[i] {
				t.Errorf("%s, native %v: %v", uri, native, err)
			}
		}
	}
}

// FuzzRedirect checks that whatever matches is a registered URI, or a registered
// loopback URI with only a port put in.
func FuzzRedirect(f *testing.F) {
	for _, s := range []string{"http://localhost:1/cb", "http://[::1]:65535/cb", "http://localhost:1@evil/cb", "http://localhost/cb", "test.client:/cb", "http://127.0.0.1:080/cb", "\x00", "http://localhost:1/cb?x#y"} {
		f.Add(s)
	}
	registered := []string{"http://localhost/cb", "http://127.0.0.1/cb", "http://[::1]/cb", "test.client:/cb", "https://client.test/cb"}
	f.Fuzz(func(t *testing.T, s string) {
		if MatchRedirect(registered, s, false) {
			for _, r := range registered {
				if r == s {
					return
				}
			}
			t.Fatalf("%q matches without being registered", s)
		}
		if !MatchRedirect(registered, s, true) {
			return
		}
		u, err := url.Parse(s)
		if err != nil {
			t.Fatalf("%q matches but does not parse: %v", s, err)
		}
		if u.User != nil || u.Fragment != "" || u.RawQuery != "" {
			t.Fatalf("%q matches", s)
		}
		if p := u.Port(); p != "" {
			if u.Scheme != "http" || (u.Hostname() != "localhost" && u.Hostname() != "127.0.0.1" && u.Hostname() != "::1") {
				t.Fatalf("%q matches with a port", s)
			}
			s = strings.Replace(s, ":"+p+"/", "/", 1)
		}
		for _, r := range registered {
			if r == s {
				return
			}
		}
		t.Fatalf("%q matches", s)
	})
}

// FuzzParse checks that what is accepted keeps the rules when it is read again.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"client_name":"X","client_uri":"https://example.com/","redirect_uris":["https://example.com/cb"],"application_type":"web"}`))
	f.Add([]byte(`{"client_uri":"https://example.com","redirect_uris":["com.example:/cb","http://localhost/cb"],"application_type":"native","logo_uri":"https://cdn.example.com/l.png"}`))
	f.Add([]byte(`{"client_uri":"https://[::1]/","redirect_uris":["https://[::1]:8/x"]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			if _, ok := err.(*Error); !ok {
				t.Fatalf("%T", err)
			}
			return
		}
		client, err := url.Parse(m.ClientURI)
		if err != nil || client.Scheme != "https" || client.Host == "" || client.User != nil {
			t.Fatalf("client_uri %q", m.ClientURI)
		}
		for _, r := range m.RedirectURIs {
			u, err := url.Parse(r)
			if err != nil || u.User != nil || u.Fragment != "" || strings.Contains(r, "#") {
				t.Fatalf("redirect %q", r)
			}
			switch strings.ToLower(u.Scheme) {
			case "javascript", "data", "vbscript", "file", "":
				// A private scheme may only be the client's own host backwards.
				if !strings.Contains(u.Scheme, ".") {
					t.Fatalf("redirect %q", r)
				}
			case "http":
				if u.Port() != "" || m.ApplicationType != "native" {
					t.Fatalf("redirect %q", r)
				}
			}
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(again); err != nil {
			t.Fatalf("accepted once, refused the second time: %v\n%s", err, again)
		}
	})
}
