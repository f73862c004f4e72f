package clients

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
)

// slapd runs Debian's LDAP server with one person, until the test ends.
func slapd(t *testing.T, name, full, password string) (address, base string) {
	t.Helper()
	program, err := exec.LookPath("slapd")
	if err != nil {
		program = "/usr/sbin/slapd"
	}
	if _, err := os.Stat(program); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("slapd is missing: apt-get install slapd")
		}
		t.Skip("slapd is missing: apt-get install slapd")
	}
	dir, err := os.MkdirTemp("", "slapd") // not below a path that is too long for it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	base = "dc=example,dc=org"
	for file, text := range map[string]string{
		"slapd.conf": fmt.Sprintf("include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\ninclude /etc/ldap/schema/inetorgperson.schema\n"+
			"pidfile %[1]s/pid\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\ndatabase mdb\nsuffix %[2]q\ndirectory %[1]s\n"+
			"access to attrs=userPassword by anonymous auth by * none\naccess to * by * read\n", dir, base),
		"people.ldif": fmt.Sprintf("dn: %[1]s\nobjectClass: dcObject\nobjectClass: organization\no: example\ndc: example\n\n"+
			"dn: uid=%[2]s,%[1]s\nobjectClass: inetOrgPerson\nuid: %[2]s\ncn: %[3]s\nsn: %[3]s\ndisplayName: %[3]s\nuserPassword: %[4]s\n", base, name, full, password),
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	conf := filepath.Join(dir, "slapd.conf")
	if out, err := exec.Command(program, "-T", "add", "-f", conf, "-l", filepath.Join(dir, "people.ldif")).CombinedOutput(); err != nil {
		t.Fatalf("slapadd: %v\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	cmd := exec.Command(program, "-f", conf, "-h", "ldap://"+at, "-d", "0")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", at)
		if err == nil {
			c.Close()
			return "ldap://" + at, base
		}
		if time.Now().After(end) {
			t.Fatalf("slapd does not answer: %v", err)
		}
	}
}

// Whose name and picture follow a directory is told by mautrix-go, as by any client, that
// they are changed there, and could have asked before.
func TestProfileOfADirectory(t *testing.T) {
	ctx := context.Background()
	address, base := slapd(t, "anna", "Anna of the directory", password)
	s := start(t)
	s.addUser(t, "paul")
	contains(t, s.command(t, 0, "directory", "set", "town", "--url", address, "--base-dn", base, "--names", "--pictures"), "is set")
	login := func(name string) *mautrix.Client {
		t.Helper()
		cli, err := mautrix.NewClient(s.url, "", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cli.Login(ctx, &mautrix.ReqLogin{Type: mautrix.AuthTypePassword, Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: name},
			Password: password, StoreCredentials: true}); err != nil {
			t.Fatal(err)
		}
		return cli
	}
	for name, free := range map[string]bool{"anna": false, "paul": true} {
		cli := login(name)
		caps, err := cli.Capabilities(ctx)
		if err != nil || caps.SetDisplayname.IsEnabled() != free || caps.SetAvatarURL.IsEnabled() != free {
			t.Errorf("%s: %+v %v", name, caps, err)
		}
		for what, set := range map[string]func() error{
			"display name": func() error { return cli.SetDisplayName(ctx, "Somebody else") },
			"picture":      func() error { return cli.SetAvatarURL(ctx, id.ContentURI{Homeserver: "hs.test", FileID: "own"}) },
		} {
			err := set()
			if free && err != nil || !free && (!errors.Is(err, mautrix.MForbidden) || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), "directory (town)")) {
				t.Errorf("%s changes the %s: %v", name, what, err)
			}
		}
		want := map[bool]string{false: "Anna of the directory", true: "Somebody else"}[free]
		if p, err := cli.GetOwnDisplayName(ctx); err != nil || p.DisplayName != want {
			t.Errorf("%s is called %+v, %v", name, p, err)
		}
	}
}
