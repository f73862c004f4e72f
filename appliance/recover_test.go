package appliance_test

import (
	"encoding/csv"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"holdfast/appliance/appliancetest"
)

func login(t *testing.T, s *appliancetest.Server, name, password string) int {
	t.Helper()
	return appliancetest.NewUser(s).Do(t, "POST", "/_matrix/client/v3/login", passwordLogin(name, password), nil)
}

func passwordLogin(name, password string) map[string]any {
	return map[string]any{"type": "m.login.password", "identifier": map[string]string{"type": "m.id.user", "user": name}, "password": password}
}

// useLink sets a password on the page of a link.
func useLink(t *testing.T, s *appliancetest.Server, link, password string) int {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.PostForm(s.URL+u.Path, url.Values{"password": {password}, "password2": {password}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestUserRecoverCLI(t *testing.T) {
	s := appliancetest.Start(t)
	if _, e, code := s.CLI(t, "user", "add", "anna", "--password", "what she forgot"); code != 0 {
		t.Fatal(e)
	}
	out, e, code := s.CLI(t, "user", "recover", "anna", "--json", "--expires", "2h")
	var l struct {
		URL  string
		User string `json:"user_id"`
	}
	if err := json.Unmarshal([]byte(out), &l); err != nil || code != 0 || l.User != "@anna:hs.test" {
		t.Fatal(out, e, err)
	}
	if n := useLink(t, s, l.URL, "stapler battery lamp"); n != 200 {
		t.Fatalf("the link: %d", n)
	}
	if n := useLink(t, s, l.URL, "stapler battery two"); n != 410 {
		t.Fatalf("the link again: %d", n)
	}
	// She is told, where she reads it.
	anna := appliancetest.NewUser(s)
	var in struct {
		Token string `json:"access_token"`
	}
	if n := anna.Do(t, "POST", "/_matrix/client/v3/login", passwordLogin("anna", "stapler battery lamp"), &in); n != 200 {
		t.Fatalf("the new password: %d", n)
	}
	anna.Token = in.Token
	var sync json.RawMessage
	if n := anna.Do(t, "GET", "/_matrix/client/v3/sync", nil, &sync); n != 200 || !strings.Contains(string(sync), "Your account was recovered") {
		t.Fatalf("%d %s", n, sync)
	}
	if out, e, code := s.CLI(t, "user", "recover", "@anna:hs.test"); code != 0 || !strings.Contains(out, "/e/") || !strings.Contains(out, "For @anna:hs.test, once") || strings.Count(out, "\n") < 15 {
		t.Errorf("%d %s %s", code, out, e)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"user", "recover", "nobody"}, 1, "no such user"},
		{[]string{"user", "recover", "anna", "--expires", "soon"}, 2, "7d"},
		{[]string{"user", "recover", "anna", "--expires", "90d"}, 1, "at most 30 days"},
		{[]string{"user", "recover"}, 2, "say which NAME"},
	} {
		if _, e, code := s.CLI(t, c.args...); code != c.code || !strings.Contains(e, c.want) {
			t.Errorf("%q: %d %s", c.args, code, e)
		}
	}
}

func TestImportLinks(t *testing.T) {
	s := appliancetest.Start(t)
	dir := t.TempDir()
	list, file := filepath.Join(dir, "people.csv"), filepath.Join(dir, "links.csv")
	if err := os.WriteFile(list, []byte("username,displayname\nanna,Anna A.\nbob,=HYPERLINK(1)\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	plan, e, code := s.CLI(t, "user", "import", list)
	number := regexp.MustCompile(`--apply ([0-9a-f]{12})`).FindStringSubmatch(plan)
	if code != 0 || number == nil {
		t.Fatal(plan, e)
	}
	if _, e, code := s.CLI(t, "user", "import", list, "--links", file); code != 2 || !strings.Contains(e, "--apply") {
		t.Fatalf("%d %s", code, e)
	}
	if _, _, code := s.CLI(t, "user", "import", list, "--links", file, "--apply", "000000000000"); code != 1 {
		t.Fatal("another number was taken")
	}
	if _, err := os.Stat(file); err == nil {
		t.Fatal("nothing was done, and there is a file of links")
	}
	// A file that is there already stays as it is, and nothing happens.
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, e, code := s.CLI(t, "user", "import", list, "--links", file, "--apply", number[1]); code != 1 || !strings.Contains(e, "nothing was done") {
		t.Fatalf("%d %s", code, e)
	}
	if b, _ := os.ReadFile(file); string(b) != "mine" {
		t.Fatalf("%q", b)
	}
	os.Remove(file)
	out, e, code := s.CLI(t, "user", "import", list, "--links", file, "--apply", number[1])
	if code != 0 || !strings.Contains(out, "2 accounts made") || strings.Contains(out, "/e/") {
		t.Fatal(out, e)
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatal(fi, err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil || len(rows) != 3 || strings.Join(rows[0], ",") != "username,displayname,link" || rows[1][0] != "anna" || rows[1][1] != "Anna A." || rows[2][1] != "'=HYPERLINK(1)" {
		t.Fatalf("%q %v", rows, err)
	}
	if n := useLink(t, s, rows[1][2], "stapler battery lamp"); n != 200 {
		t.Fatalf("the link: %d", n)
	}
	if n := login(t, s, "anna", "stapler battery lamp"); n != 200 {
		t.Fatalf("the first password: %d", n)
	}
	if n := login(t, s, "bob", "stapler battery lamp"); n != 403 {
		t.Fatalf("somebody else: %d", n)
	}
}
