package appservice

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const good = `id: irc
url: http://127.0.0.1:9000/
as_token: A
hs_token: H
sender_localpart: ircbot
rate_limited: false
namespaces:
  users:
    - {exclusive: true, regex: "@irc_.*:example\\.org"}
  aliases:
    - {exclusive: false, regex: "#irc_.*"}
`

func TestParse(t *testing.T) {
	r, err := Parse([]byte(good))
	if err != nil || r.URL != "http://127.0.0.1:9000" {
		t.Fatalf("%+v %v", r, err)
	}
	if r.RateLimited || !r.Namespaces.Users[0].Exclusive || r.Ephemeral || r.Encryption {
		t.Fatalf("%+v", r)
	}
	line := func(n int) string { return fmt.Sprintf("line %d: ", n) }
	for bad, want := range map[string]string{
		strings.Replace(good, "id: irc", "", 1):                             `"id" is missing`,
		strings.Replace(good, "url: http", "# url: http", 1):                "write url: null",
		strings.Replace(good, "hs_token: H", "hs_token: A", 1):              line(4) + "hs_token: it must differ",
		strings.Replace(good, "hs_token: H", "hs_token: 12", 1):             line(4) + "hs_token: a text is wanted here; put it into quotes",
		strings.Replace(good, "hs_token: H", "hs_token: [H]", 1):            line(4) + "hs_token: a text is wanted",
		strings.Replace(good, "as_token: A", `as_token: "a b"`, 1):          line(3) + "as_token: a token has letters",
		strings.Replace(good, "http://127.0.0.1:9000/", "ftp://x", 1):       line(2) + "url: ",
		strings.Replace(good, "http://127.0.0.1:9000/", "http://x/?a=b", 1): line(2) + "url: ",
		strings.Replace(good, "@irc_.*:example", "@irc_(:example", 1):       line(9) + "namespaces.users.regex: ",
		strings.Replace(good, "@irc_.*:example", "@(?!irc):example", 1):     line(9) + "namespaces.users.regex: ",
		strings.Replace(good, "exclusive: true, ", "", 1):                   line(9) + "namespaces.users: each entry has a regex",
		strings.Replace(good, "exclusive: true", `exclusive: "yes"`, 1):     line(9) + "namespaces.users.exclusive: it is true or false",
		strings.Replace(good, "exclusive: true", "exlusive: true", 1):       line(9) + `namespaces.users has no key "exlusive"; did you mean exclusive?`,
		strings.Replace(good, ": ircbot", ": \"@ircbot:example.org\"", 1):   line(5) + "sender_localpart: ",
		strings.Replace(good, ": ircbot", ": _server", 1):                   line(5) + "sender_localpart: ",
		strings.Replace(good, "rate_limited: false", "rate_limited: 0", 1):  line(6) + "rate_limited: it is true or false",
		strings.Replace(good, "rate_limited", "ratelimited", 1):             line(6) + `the registration has no key "ratelimited"; did you mean rate_limited?`,
		strings.Replace(good, "  users:", "  user:", 1):                     line(8) + `namespaces has no key "user"; did you mean users?`,
		good + "hs_token: X\n":                        line(12) + `the key "hs_token" is there twice`,
		good + "protocols: irc\n":                     line(12) + "protocols: it is a list",
		good + "---\nid: b\n":                         "a second document begins here",
		strings.Replace(good, "id: irc", "id: 12", 1): line(1) + `id: a text is wanted here; put it into quotes: "12"`,
		good + "urls: x\n":                            line(12) + `the registration has no key "urls"; did you mean url?`,
		"id: 5: x":                                    "line 1: this is not YAML",
		"":                                            "empty",
		"- a list":                                    "line 1: the registration must be",
	} {
		if _, err := Parse([]byte(bad)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// What other homeservers accept is accepted.
func TestParseWhatBridgesWrite(t *testing.T) {
	for _, text := range []string{
		good + "de.sorunome.msc2409.push_ephemeral: true\nreceive_ephemeral: true\norg.matrix.msc3202: true\nio.element.msc4190: true\nprotocols: [irc]\n",
		good + "heisenbridge: {media_url: 'https://example.org'}\npush_ephemeral: true\norg.matrix.msc3202: true\nprotocols: [irc]\n",
		good + "push_ephemeral: true\norg.matrix.msc3202: true\nprotocols: [irc]\n",
		good + "de.sorunome.msc2409.push_ephemeral: true\nreceive_ephemeral: false\norg.matrix.msc3202: true\nprotocols: [irc]\n",
	} {
		if r, err := Parse([]byte(text)); err != nil || !r.Ephemeral || !r.Encryption || len(r.Protocols) != 1 {
			t.Errorf("%+v %v", r, err)
		}
	}
	for _, text := range []string{
		strings.Replace(good, "http://127.0.0.1:9000/", "null", 1),
		strings.Replace(good, "http://127.0.0.1:9000/", `""`, 1),
	} {
		if r, err := Parse([]byte(text)); err != nil || r.URL != "" {
			t.Errorf("%+v %v", r, err)
		}
	}
	r, err := Parse([]byte("id: b\nurl: null\nas_token: A\nhs_token: H\nsender_localpart: b\nnamespaces: {users: [{regex: '^@b_.+:x$', exclusive: false, group_id: +g:x}]}\n"))
	if err != nil || !r.RateLimited {
		t.Fatal(r, err)
	}
	// From the beginning, and to the end only if it says so.
	for name, want := range map[string]bool{"@b_1:x": true, "@b_1:xy": false, "x@b_1:x": false} {
		if r.Namespaces.Users[0].matches(name) != want {
			t.Error(name)
		}
	}
	if r, _ = Parse([]byte(good)); !r.Namespaces.Aliases[0].matches("#irc_x:example.org") || r.Namespaces.Aliases[0].matches("##irc_") {
		t.Error("an expression without anchors")
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.yaml", good)
	write("notes.txt", "not read")
	if rs, err := Load(dir); err != nil || len(rs) != 1 {
		t.Fatal(rs, err)
	}
	write("b.yml", strings.Replace(good, "id: irc", "id: other", 1))
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "b.yml") || !strings.Contains(err.Error(), "as_token") {
		t.Fatal(err)
	}
	write("b.yml", strings.Replace(good, "as_token: A", "as_token: B", 1))
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), `the id "irc" is also that of `+filepath.Join(dir, "a.yaml")) {
		t.Fatal(err)
	}
	write("b.yml", strings.NewReplacer("id: irc", "id: b", "as_token: A", "as_token: B").Replace(good))
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "sender_localpart") {
		t.Fatal(err)
	}
	write("b.yml", strings.NewReplacer("id: irc", "id: b", "as_token: A", "as_token: B", ": ircbot", ": b", "protocol", "x").Replace(good)+"protocol: [x]\n")
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "b.yml")+":12: ") {
		t.Fatal(err)
	}
	write("b.yml", strings.Repeat("#", maxRegistration+1))
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Fatal(err)
	}
	if _, err := Load(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "appservice.dir") {
		t.Fatal(err)
	}
}

// What Generate writes is what Parse reads, with tokens of its own each time.
func TestGenerate(t *testing.T) {
	text, err := Generate("example.org", Draft{ID: "irc", URL: "http://127.0.0.1:29300"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Parse(text)
	if err != nil || r.ID != "irc" || r.URL != "http://127.0.0.1:29300" || r.SenderLocalpart != "ircbot" || r.RateLimited || r.Ephemeral || r.Encryption ||
		len(r.ASToken) < 43 || len(r.HSToken) < 43 || len(r.Namespaces.Users) != 1 || !r.Namespaces.Users[0].Exclusive {
		t.Fatalf("%+v %v", r, err)
	}
	for name, want := range map[string]bool{"@irc_a:example.org": true, "@irc_a:exampleXorg": false, "@irc_a:example.org.evil": false, "@ircbot:example.org": false} {
		if r.Namespaces.Users[0].matches(name) != want {
			t.Error(name)
		}
	}
	again, err := Generate("example.org", Draft{ID: "irc", URL: "http://127.0.0.1:29300"})
	if err != nil || string(again) == string(text) || strings.Contains(string(again), r.ASToken) || strings.Contains(string(again), r.HSToken) {
		t.Fatal(string(again), err)
	}
	text, err = Generate("example.org", Draft{ID: "Some Thing", Sender: "thing", Users: []string{"@a_.*", "@b: #x"}, Aliases: []string{"#a_.*"}, Rooms: []string{"!x.*"},
		Shared: true, Protocols: []string{"x"}, Ephemeral: true, Encryption: true})
	if err != nil {
		t.Fatal(err)
	}
	r, err = Parse(text)
	if err != nil || r.ID != "Some Thing" || r.URL != "" || r.SenderLocalpart != "thing" || !r.Ephemeral || !r.Encryption || len(r.Protocols) != 1 ||
		len(r.Namespaces.Users) != 2 || r.Namespaces.Users[1].Regex != "@b: #x" || r.Namespaces.Users[0].Exclusive || r.Namespaces.Aliases[0].Exclusive || r.Namespaces.Rooms[0].Regex != "!x.*" {
		t.Fatalf("%+v %v", r, err)
	}
	for want, d := range map[string]Draft{
		"gives no user names":              {ID: "Irc", URL: "http://x"},
		"url: ":                            {ID: "irc", URL: "127.0.0.1:29300"},
		"sender_localpart: ":               {ID: "irc", URL: "http://x", Sender: "@a:b"},
		"namespaces.users.regex: \"(\"":    {ID: "irc", URL: "http://x", Users: []string{"("}},
		"namespaces.aliases.regex: a text": {ID: "irc", URL: "http://x", Aliases: []string{""}},
		"id: a text is wanted":             {Sender: "x", Users: []string{"@x"}},
		"protocols: it has more than":      {ID: "irc", Protocols: []string{strings.Repeat("x", 300)}},
	} {
		if _, err := Generate("example.org", d); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	// An ID is no way into the file's other lines.
	text, err = Generate("example.org", Draft{ID: "a\nurl: http://evil", Sender: "x", Users: []string{"@x"}})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := Parse(text); err != nil || r.URL != "" || r.ID != "a\nurl: http://evil" {
		t.Fatalf("%+v %v", r, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err == nil && (r.ID == "" || r.ASToken == r.HSToken) {
			t.Fatal("accepted", string(b))
		}
	})
}
