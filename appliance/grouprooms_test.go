package appliance_test

import (
	"encoding/json"
	"encoding/pem"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/appliancetest"
)

// At the command line a group's people are put into a room: those who are in it, come
// into it and leave it, whose accounts are locked and opened again. Who is in the room
// sees it; the audit log has it.
func TestGroupRooms(t *testing.T) {
	s := appliancetest.Start(t)
	owner, anna := s.Login(t, "owner"), s.Login(t, "anna")
	s.Login(t, "bert")
	cli := func(want int, args ...string) string {
		t.Helper()
		out, errOut, code := s.CLI(t, args...)
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
	var room struct {
		ID string `json:"room_id"`
	}
	if owner.Do(t, "POST", "/_matrix/client/v3/createRoom", map[string]any{"preset": "private_chat", "name": "Ward 3", "room_alias_name": "ward3"}, &room) != 200 {
		t.Fatal("no room")
	}
	joined := func(who string) bool {
		var m struct{ Joined map[string]any }
		owner.Do(t, "GET", "/_matrix/client/v3/rooms/"+url.PathEscape(room.ID)+"/joined_members", nil, &m)
		return m.Joined["@"+who+":hs.test"] != nil
	}
	until := func(who string, in bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); joined(who) != in; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s in the room: %v; %s", who, !in, cli(0, "group", "room", "list"))
			}
		}
	}
	contains(cli(0, "group", "room", "list"), "No rule")
	cli(0, "group", "add", "nurses")
	cli(0, "group", "join", "nurses", "anna")
	for _, x := range []struct {
		code int
		args string
		want string
	}{
		{1, "nobody #ward3:hs.test", "no such group"},
		{1, "nurses #ward4:hs.test", "no such room"},
		{1, "nurses #ward3:hs.test --rooms", "no space"},
		{2, "nurses #ward3:hs.test --level 101", "1 to 100"},
		{2, "nurses #ward3:hs.test --take-out maybe", "yes, no or all"},
		{2, "nurses", "GROUP ROOM"},
	} {
		contains(cli(x.code, append([]string{"group", "room", "add"}, strings.Fields(x.args)...)...), x.want)
	}
	contains(cli(0, "group", "room", "add", "nurses", "#ward3:hs.test", "--level", "moderator"), "are put into #ward3:hs.test")
	until("anna", true)
	cli(0, "group", "join", "nurses", "bert")
	until("bert", true)
	var levels struct{ Users map[string]int }
	for end := time.Now().Add(time.Minute); levels.Users["@bert:hs.test"] != 50; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(levels)
		}
		anna.Do(t, "GET", "/_matrix/client/v3/rooms/"+url.PathEscape(room.ID)+"/state/m.room.power_levels", nil, &levels)
	}
	out := cli(0, "group", "room", "list", "Nurses")
	for _, want := range []string{"nurses: Ward 3 (#ward3:hs.test)", "2 of 2 people are in it", "power level 50", "is taken out"} {
		contains(out, want)
	}
	contains(cli(0, "group", "room", "list", "--json"), `"in": 2`)

	// A lock takes somebody out, and the unlock brings them back.
	cli(0, "user", "disable", "bert")
	until("bert", false)
	cli(0, "user", "disable", "bert", "--undo")
	until("bert", true)
	// A group keeps its rooms under another name.
	cli(0, "group", "add", "staff")
	cli(0, "app", "add", "Charts", "--template", "grafana", "--url", "https://charts.hs.test", "--group", "nurses", "--group", "staff")
	cli(0, "group", "rename", "nurses", " carers ")
	var apps []struct {
		ID     string `json:"client_id"`
		Groups []string
	}
	if err := json.Unmarshal([]byte(cli(0, "app", "list", "--json")), &apps); err != nil || len(apps) != 1 || strings.Join(apps[0].Groups, " ") != "carers staff" {
		t.Errorf("the application is for %v, %v", apps, err)
	}
	// Who may use it, and where it is told of logouts, can be changed.
	file := filepath.Join(t.TempDir(), "ca.pem")
	change := func(code int, want string, args ...string) {
		t.Helper()
		contains(cli(code, append([]string{"app", "change", apps[0].ID}, args...)...), want)
	}
	change(1, "say what is to be changed")
	change(1, "exclude each other", "--everybody", "--group", "staff")
	change(1, "There is no group \"cooks\" here", "--group", "cooks")
	change(0, "It is for everybody", "--everybody")
	change(0, "It is for staff", "--group", "staff")
	change(1, "cannot be read", "--ca-file", file)
	tls := httptest.NewTLSServer(nil)
	defer tls.Close()
	own := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tls.Certificate().Raw}))
	for text, want := range map[string]string{"x": "one or more certificates in PEM", own: "a certificate of the authority that you named"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		code := 0
		if text == "x" {
			code = 1
		}
		change(code, want, "--ca-file", file, "--logout-url", "https://charts.hs.test/out")
	}
	change(1, "does not begin with https://", "--logout-url", "none")
	change(0, "a certificate that this machine trusts", "--ca-file", "none")
	change(0, "It is for staff", "--logout-url", "none")
	cli(0, "group", "remove", "staff")
	contains(cli(0, "app", "list"), "nobody: staff was removed")
	contains(cli(1, "app", "change", "nothing", "--everybody"), "there is no application of this id")
	cli(0, "group", "leave", "carers", "anna")
	until("anna", false)
	cli(0, "group", "join", "carers", "anna")
	until("anna", true)
	if s.Login(t, "bert").Do(t, "POST", "/_matrix/client/v3/rooms/"+url.PathEscape(room.ID)+"/leave", map[string]any{}, nil) != 200 {
		t.Fatal("bert cannot leave")
	}
	cli(0, "group", "room", "apply", "carers", room.ID)
	until("bert", true)
	contains(cli(1, "group", "room", "apply", "carers", "!other:hs.test"), "no such rule")
	contains(cli(0, "group", "room", "remove", "carers", room.ID, "--out"), "taken out")
	until("anna", false)
	until("bert", false)
	if !joined("owner") {
		t.Error("the owner is out")
	}
	contains(cli(1, "group", "room", "remove", "carers", room.ID), "no such rule")
	log := cli(0, "audit", "list", "--event", "group.room.")
	for _, want := range []string{"group.room.set", "group.room.people", "group.room.apply", "group.room.remove", "command-line", "system", "@anna:hs.test"} {
		contains(log, want)
	}
	contains(cli(0, "audit", "verify"), "whole")
}
