package appliance_test

import (
	"database/sql"
	"encoding/json"
	"net/http"
	"net/http/cookiejar"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"holdfast/appliance/appliancetest"
)

// The audit log from the command line: it has what was done, is exported, verified, and
// tells when somebody who has the database changed it.
func TestAuditLog(t *testing.T) {
	s := appliancetest.Start(t)
	cli := func(want int, args ...string) string {
		t.Helper()
		out, errOut, code := s.CLI(t, append([]string{"audit"}, args...)...)
		if code != want {
			t.Fatalf("audit %v: %d\n%s%s", args, code, out, errOut)
		}
		return out + errOut
	}
	contains := func(have string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(have, w) {
				t.Errorf("%q is not in\n%s", w, have)
			}
		}
	}
	root := s.Login(t, "root", "--admin")
	anna := s.Login(t, "anna")
	var room struct {
		ID string `json:"room_id"`
	}
	if st := anna.Do(t, "POST", "/_matrix/client/v3/createRoom", map[string]any{}, &room); st != 200 {
		t.Fatal(st)
	}
	// What an administrator reads of others, changes, and is refused.
	if st := root.Do(t, "GET", "/_synapse/admin/v1/rooms/"+room.ID+"/messages", nil, nil); st != 200 {
		t.Fatal(st)
	}
	if st := root.Do(t, "PUT", "/_synapse/admin/v2/users/@anna:hs.test", map[string]any{"locked": true}, nil); st != 200 {
		t.Fatal(st)
	}
	if st := root.Do(t, "POST", "/_synapse/admin/v1/deactivate/@nobody:hs.test", map[string]any{}, nil); st != 404 {
		t.Fatal(st)
	}
	if st := root.Do(t, "GET", "/_synapse/admin/v1/rooms", nil, nil); st != 200 { // no secret: not noted
		t.Fatal(st)
	}
	if out, errOut, code := s.CLI(t, "login", "set", "--password", "off"); code != 0 {
		t.Fatal(out, errOut)
	}
	list := cli(0, "list", "--limit", "50")
	contains(list, "command-line", "user.create", "appliance.start", "session.start", "setting.change", `{"login.password":"off"}`, "synapseRoomMessages", room.ID, "admin.failed")
	contains(cli(0, "list", "--actor", "@root:hs.test", "--event", "user.", "--since", "1h"), "user.lock", "@anna:hs.test", "127.0.0.1")
	if strings.Contains(list, "synapseRooms") {
		t.Error("a list of rooms is noted")
	}
	cli(2, "list", "--since", "yesterday")
	cli(1, "list", "--limit", "9999")

	verified := cli(0, "verify")
	contains(verified, "It is whole, and as the appliance wrote it.")
	head := regexp.MustCompile(`The last is (\d+:[0-9a-f]{64})`).FindStringSubmatch(verified)
	if head == nil {
		t.Fatal(verified)
	}
	file := filepath.Join(t.TempDir(), "audit.jsonl")
	cli(0, "export", "--out", file)
	cli(1, "export", "--out", file) // it is there
	contains(cli(0, "verify", "--file", file), "It is whole")
	contains(cli(0, "export", "--csv", "--since", "2020-01-01"), "seq,time,actor", "@root:hs.test,user.lock,@anna:hs.test")
	contains(cli(0, "list", "--event", "audit.export"), "command-line")
	lines, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(lines)) {
		if !json.Valid([]byte(line)) {
			t.Errorf("%s", line)
		}
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(lines), "user.lock", "user.none", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	contains(cli(1, "verify", "--file", file), "WRONG", "it was changed")
	cli(0, "verify", "--head", head[1])
	contains(cli(1, "verify", "--head", strings.Replace(head[1], head[1][len(head[1])-8:], "00000000", 1)), "another entry of this number")
	if err := os.WriteFile(file, lines, 0o600); err != nil {
		t.Fatal(err)
	}

	// Whoever has the database takes back what they did. The key for ID tokens takes a while
	// to make; once it is noted, the appliance adds nothing by itself until it stops.
	for end := time.Now().Add(time.Minute); !strings.Contains(cli(0, "list", "--event", "key.create"), "key.create"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("there is no key to sign with")
		}
	}
	db, err := sql.Open("sqlite", filepath.Join(s.Data, "holdfast.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`UPDATE audit_log SET actor = 'x' WHERE event = 'user.lock'`); err == nil || !strings.Contains(err.Error(), "not changed") {
		t.Fatalf("a change is not refused: %v", err)
	}
	for _, q := range []string{`DROP TRIGGER audit_log_delete`, `DELETE FROM audit_log WHERE seq > 5`} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	contains(cli(1, "verify"), "entries are missing at its end")
	contains(cli(1, "verify", "--file", file), "no such entry")
	db.Close()
	s.Restart(t)
	doctor, _, code := s.CLI(t, "doctor")
	if code != 1 {
		t.Errorf("doctor: %d", code)
	}
	contains(doctor, "the audit log does not end as it was left")
	contains(cli(0, "list", "--event", "audit.broken"), "the log ends at entry 5")
	contains(cli(0, "verify"), "The log itself tells")
	var sync map[string]any
	if st := root.Do(t, "GET", "/_matrix/client/v3/sync?timeout=0", nil, &sync); st != 200 || !strings.Contains(text(sync), "The audit log does not end as it was left") {
		t.Error("no notice to the administrator")
	}
	resp, err := http.Get(s.URL + "/api/console/audit")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode == 200 {
		t.Error("anybody may read it")
	}
}

// The claim code opens the setup once: who comes second is told that it is over.
func TestAttack36SecondClaim(t *testing.T) {
	s := appliancetest.Start(t)
	c := &http.Client{}
	choices := map[string]any{"organisation": "Ward 7", "server_name": "hs.test", "tls": map[string]string{"mode": "off"},
		"admin": map[string]string{"localpart": "anna", "display_name": "Anna", "password": "correct horse battery"}}
	code := s.ClaimCode()
	if st, out := post(t, c, s.URL+"/api/setup/finish", choices); st != 401 {
		t.Fatalf("without the code: %d %v", st, out)
	}
	c.Jar, _ = cookiejar.New(nil)
	if st, out := post(t, c, s.URL+"/api/setup/claim", map[string]string{"code": code}); st != 200 {
		t.Fatalf("%d %v", st, out)
	}
	// Two who have proved it finish at once: one becomes the owner.
	results := make(chan int, 4)
	for i := range 4 {
		go func() {
			mine := map[string]any{}
			for k, v := range choices {
				mine[k] = v
			}
			mine["admin"] = map[string]string{"localpart": "anna" + string(rune('a'+i)), "display_name": "Anna", "password": "correct horse battery"}
			st, _ := post(t, c, s.URL+"/api/setup/finish", mine)
			results <- st
		}()
	}
	won, gone := 0, 0
	for range 4 {
		switch st := <-results; st {
		case 200:
			won++
		case 410:
			gone++
		default:
			t.Errorf("a finish answers %d", st)
		}
	}
	if won != 1 || gone != 3 {
		t.Errorf("%d became owner, %d were refused", won, gone)
	}
	if st, _ := post(t, c, s.URL+"/api/setup/claim", map[string]string{"code": code}); st != 410 {
		t.Errorf("a second claim answers %d", st)
	}
	if out, _, _ := s.CLI(t, "role", "list"); strings.Count(out, "owner") != 1 {
		t.Error(out)
	}
	if out, _, code := s.CLI(t, "claim"); code == 0 {
		t.Error(out)
	}
	out, _, _ := s.CLI(t, "audit", "list", "--actor", "setup")
	for _, w := range []string{"claim.prove", "user.create", `"roles":["owner"]`, `"organisation":"Ward 7"`, "127.0.0.1"} {
		if !strings.Contains(out, w) {
			t.Errorf("%q is not in\n%s", w, out)
		}
	}
}
