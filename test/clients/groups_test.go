package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix"
)

// command runs the program's command line on the server's folder.
func (s *server) command(t *testing.T, want int, args ...string) string {
	t.Helper()
	cmd := exec.Command(s.bin, append(args, "--data", s.data)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != want {
		t.Fatalf("holdfast %s: exit code %d, %v\n%s", strings.Join(args, " "), code, err, &out)
	}
	return out.String()
}

func contains(t *testing.T, out string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("no %q in %s", w, out)
		}
	}
}

// Groups and roles by the command line, as scripts call it: what it prints, what it refuses
// and with which exit code, and that a role counts at once.
func TestGroupsAndRoles(t *testing.T) {
	s := start(t)
	s.addUser(t, "anna")
	s.addUser(t, "paul")
	list := func(into any, args ...string) {
		t.Helper()
		if err := json.Unmarshal([]byte(s.command(t, 0, append(args, "--json")...)), into); err != nil {
			t.Fatal(err)
		}
	}
	contains(t, s.command(t, 0, "group", "list"), "no groups yet")
	contains(t, s.command(t, 0, "group", "add", "Operations"), "The group Operations was made")
	contains(t, s.command(t, 0, "group", "add", "ward 3"), "was made")
	contains(t, s.command(t, 1, "group", "add", "operations"), "there is a group of this name")
	contains(t, s.command(t, 1, "group", "add", "a, b"), "no commas")
	contains(t, s.command(t, 2, "group", "add"), "NAME")
	contains(t, s.command(t, 0, "group", "join", "Operations", "anna", "@paul:hs.test"), "anna is in Operations", "paul:hs.test is in Operations")
	contains(t, s.command(t, 1, "group", "join", "Operations", "nobody"), "no such user")
	contains(t, s.command(t, 1, "group", "join", "nothing", "anna"), "no such group")
	contains(t, s.command(t, 0, "group", "members", "operations"), "@anna:hs.test\n@paul:hs.test\n")
	contains(t, s.command(t, 0, "group", "leave", "Operations", "paul"), "not in Operations any more")
	contains(t, s.command(t, 0, "group", "rename", "Operations", "Ops"), "is called Ops now")
	contains(t, s.command(t, 1, "group", "rename", "Ops", "Ward 3"), "there is a group of this name")
	contains(t, s.command(t, 1, "group", "members", "Operations"), "no such group")

	contains(t, s.command(t, 0, "role", "grant", "auditor", "--group", "Ops"), "The group Ops has the role auditor")
	contains(t, s.command(t, 0, "role", "grant", "moderator", "paul"), "Paul has the role moderator")
	contains(t, s.command(t, 1, "role", "grant", "owner", "--group", "Ops"), "a group cannot own")
	contains(t, s.command(t, 1, "role", "grant", "king", "paul"), "no such role")
	contains(t, s.command(t, 2, "role", "grant", "moderator"), "a user, or --group")
	var roles []struct {
		UserID string `json:"user_id"`
		Group  string
		Roles  []string
	}
	list(&roles, "role", "list")
	got := map[string]string{}
	for _, r := range roles {
		got[r.UserID+r.Group] = strings.Join(r.Roles, " ")
	}
	if want := map[string]string{"Ops": "auditor", "@anna:hs.test": "auditor", "@paul:hs.test": "moderator"}; len(got) != len(want) || got["Ops"] != want["Ops"] || got["@anna:hs.test"] != "auditor" || got["@paul:hs.test"] != "moderator" {
		t.Errorf("%v, want %v", got, want)
	}
	// A role opens the API of administrators at once, and closes it again.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	paul, err := mautrix.NewClient(s.url, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := paul.Login(ctx, &mautrix.ReqLogin{Type: mautrix.AuthTypePassword, Password: password, StoreCredentials: true,
		Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: "paul"}}); err != nil {
		t.Fatal(err)
	}
	reports := func() error {
		_, err := paul.MakeRequest(ctx, "GET", s.url+"/_synapse/admin/v1/event_reports", nil, nil)
		return err
	}
	if err := reports(); err != nil {
		t.Errorf("a moderator may not read reports: %v", err)
	}
	contains(t, s.command(t, 0, "role", "revoke", "moderator", "paul"), "Moderator was taken from paul")
	if err := reports(); err == nil {
		t.Error("reports are read without the role")
	}
	s.command(t, 0, "role", "grant", "owner", "anna")
	contains(t, s.command(t, 1, "role", "revoke", "owner", "anna"), "last account that owns")
	contains(t, s.command(t, 0, "group", "remove", "Ops"), "its people stay")
	list(&roles, "role", "list")
	if len(roles) != 1 || strings.Join(roles[0].Roles, " ") != "owner" {
		t.Errorf("%v", roles)
	}
	contains(t, s.command(t, 0, "audit", "list", "--event", "group."), "group.create", "group.rename", "group.delete", "command-line")
}
