package appservice

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const good = `
id: irc
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
	for bad, want := range map[string]string{
		strings.Replace(good, "id: irc", "", 1):                           `"id" is missing`,
		strings.Replace(good, "hs_token: H", "hs_token: A", 1):            "must differ",
		strings.Replace(good, "http://127.0.0.1:9000/", "ftp://x", 1):     "not an http",
		strings.Replace(good, "@irc_.*:example", "@irc_(:example", 1):     "regex",
		strings.Replace(good, ": ircbot", ": \"@ircbot:example.org\"", 1): "sender_localpart",
		"- a list": "not a registration",
	} {
		if _, err := Parse([]byte(bad)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
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
	if _, err := Load(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "appservice.dir") {
		t.Fatal(err)
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
