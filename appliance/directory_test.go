package appliance_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/appliance/appliancetest"
	"holdfast/identity/directory/directorytest"
)

// An administrator names a directory at the command line; its people sign in to Matrix,
// and are out when they are gone there. The server of the directory fails, and a local
// administrator is let in and noticed.
func TestDirectory(t *testing.T) {
	dir := directorytest.Start(t)
	dir.AddPerson("anna", "Anna A.", "of the directory")
	dir.AddPerson("bert", "Bert B.", "of the directory")
	dir.AddGroup("ward 3", directorytest.Person("anna"))
	s := appliancetest.Start(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte(dir.CA), 0o600); err != nil {
		t.Fatal(err)
	}
	cli := func(want int, args ...string) string {
		t.Helper()
		out, errOut, code := s.CLI(t, append([]string{"directory"}, args...)...)
		if code != want {
			t.Fatalf("%q: exit code %d, %s %s", args, code, out, errOut)
		}
		return out + errOut
	}
	contains := func(out, want string) {
		t.Helper()
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	typed := func(text string, f func()) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		w.WriteString(text)
		w.Close()
		defer func(old *os.File) { os.Stdin = old }(os.Stdin)
		os.Stdin = r
		f()
	}
	set := func(want int, args ...string) (out string) {
		typed(directorytest.Password+"\n", func() {
			out = cli(want, append([]string{"set", "town", "--url", dir.TLSURL, "--ca", ca, "--bind-dn", directorytest.AdminDN, "--password-stdin", "--base-dn", directorytest.Base}, args...)...)
		})
		return out
	}
	contains(cli(0, "list"), "no directory")
	contains(cli(2, "set", "town"), "--url and --base-dn")
	contains(set(2, "--every", "often"), "duration")
	contains(set(1, "--user-filter", "(uid=*"), "filter of people")
	contains(cli(1, "test", "town"), "no such directory")
	contains(set(0), "is set")
	if out := cli(0, "test", "town"); !strings.Contains(out, "2 people in 1 groups") || !strings.Contains(out, `anna  "Anna A."`) || !strings.Contains(out, "ward 3") {
		t.Error(out)
	}

	login := func(name, password string) (status int, token string, body map[string]any) {
		t.Helper()
		u := appliancetest.NewUser(s)
		status = u.Do(t, "POST", "/_matrix/client/v3/login", map[string]any{
			"type": "m.login.password", "identifier": map[string]string{"type": "m.id.user", "user": name}, "password": password}, &body)
		token, _ = body["access_token"].(string)
		return status, token, body
	}
	status, token, body := login("anna", "of the directory")
	if status != 200 || body["user_id"] != "@anna:hs.test" {
		t.Fatalf("%d %v", status, body)
	}
	anna := appliancetest.NewUser(s)
	anna.Token = token
	var profile struct{ DisplayName string }
	if anna.Do(t, "GET", "/_matrix/client/v3/profile/@anna:hs.test", nil, &profile); profile.DisplayName != "Anna A." {
		t.Errorf("%+v", profile)
	}
	if status, _, body := login("anna", "wrong"); status != 403 {
		t.Errorf("%d %v", status, body)
	}
	if out, errOut, code := s.CLI(t, "user", "password", "anna"); code == 0 || !strings.Contains(errOut, "changed there") {
		t.Errorf("%d %s %s", code, out, errOut)
	}

	admin := s.Login(t, "root", "--admin")
	dir.Stop()
	status, _, body = login("anna", "of the directory")
	if msg, _ := body["error"].(string); status != 403 || !strings.Contains(msg, "cannot be reached") {
		t.Errorf("%d %v", status, body)
	}
	if anna.Do(t, "GET", "/_matrix/client/v3/account/whoami", nil, nil) != 200 {
		t.Error("a session ended with the directory")
	}
	contains(cli(0, "list"), "does not answer")
	doctor, _, _ := s.CLI(t, "doctor")
	contains(doctor, "the directory town does not answer")
	s.Login(t, "root")
	var sync map[string]any
	if admin.Do(t, "GET", "/_matrix/client/v3/sync?timeout=0", nil, &sync); !strings.Contains(text(sync), "root:hs.test signed in with a password of this server") {
		t.Error("no notice of the sign-in")
	}

	dir.Run()
	dir.Delete(directorytest.Person("anna"))
	contains(cli(0, "sync", "town"), "locked: anna")
	var refused map[string]any
	if status := anna.Do(t, "GET", "/_matrix/client/v3/account/whoami", nil, &refused); status != 401 {
		t.Errorf("%d %v", status, refused)
	}
	contains(cli(0, "join", "town", "root", "bert"), "signs in with the password of bert")
	if status, _, body := login("root", "of the directory"); status != 200 {
		t.Errorf("%d %v", status, body)
	}
	contains(cli(0, "remove", "town"), "forgotten")
}

func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}
