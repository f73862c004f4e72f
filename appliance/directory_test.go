package appliance_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
	s, _ := withMail(t)
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

	// Who is put into a group there gets into its room here at the next reading, and is out
	// again when taken out; under another name it is the same group, with its rooms, its
	// applications and its roles.
	dir.Run()
	call := func(method, path string, body, into any) {
		t.Helper()
		if status := admin.Do(t, method, "/_matrix/client/v3"+path, body, into); status != 200 {
			t.Fatalf("%s %s: %d", method, path, status)
		}
	}
	holdfast := func(args ...string) string {
		t.Helper()
		out, errOut, code := s.CLI(t, args...)
		if code != 0 {
			t.Fatalf("%q: exit code %d, %s %s", args, code, out, errOut)
		}
		return out
	}
	var room struct {
		ID string `json:"room_id"`
	}
	call("POST", "/createRoom", map[string]any{"preset": "private_chat", "name": "Ward 3"}, &room)
	until := func(who string, in bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			var m struct{ Joined map[string]any }
			call("GET", "/rooms/"+url.PathEscape(room.ID)+"/joined_members", nil, &m)
			if (m.Joined["@"+who+":hs.test"] != nil) == in {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s in the room: %v; %s", who, !in, holdfast("group", "room", "list"))
			}
		}
	}
	holdfast("group", "room", "add", "ward 3", room.ID)
	holdfast("app", "add", "Charts", "--template", "grafana", "--url", "https://charts.hs.test", "--group", "ward 3")
	until("anna", true)
	login("bert", "of the directory")
	until("bert", false)
	ward := "cn=ward 3,ou=groups," + directorytest.Base
	dir.Set(ward, "member", directorytest.Person("anna"), directorytest.Person("bert"))
	cli(0, "sync", "town")
	until("bert", true)
	dir.Rename(ward, "cn=ward 4")
	dir.AddGroup("ward 3", directorytest.Person("bert"))
	contains(cli(0, "sync", "town"), "renamed groups: ward 3 -> ward 4")
	contains(holdfast("group", "room", "list", "ward 4"), room.ID)
	contains(holdfast("app", "list", "--json"), `"ward 4"`)
	until("bert", true)
	dir.Set("cn=ward 4,ou=groups,"+directorytest.Base, "member", directorytest.Person("anna"))
	cli(0, "sync", "town")
	until("bert", false) // though in the group that has the name now
	until("anna", true)

	// Names, pictures and addresses follow the directory from now on, into the rooms; who
	// tries to change them here is told where they come from, and clients know before.
	ofAnna := "/_matrix/client/v3/profile/@anna:hs.test"
	if status := anna.Do(t, "PUT", ofAnna+"/displayname", map[string]string{"displayname": "Nan"}, nil); status != 200 {
		t.Errorf("%d: the name is the person's own before", status)
	}
	dir.Set(directorytest.Person("anna"), "jpegPhoto", directorytest.Picture("jpeg", 96, 7))
	contains(set(0, "--names", "--pictures", "--mail"), "is set")
	contains(cli(0, "test", "town"), "e-mail: anna@example.org  picture: image/jpeg, ")
	out := cli(0, "sync", "town")
	contains(out, "renamed: anna\n")
	contains(out, "other pictures: anna\n")
	contains(out, "other e-mail addresses: anna, bert\n")
	member := func() (id string, content map[string]string) {
		t.Helper()
		var e struct {
			EventID string            `json:"event_id"`
			Content map[string]string `json:"content"`
		}
		call("GET", "/rooms/"+url.PathEscape(room.ID)+"/state/m.room.member/@anna:hs.test?format=event", nil, &e)
		return e.EventID, e.Content
	}
	id, content := member()
	mxc, ok := strings.CutPrefix(content["avatar_url"], "mxc://")
	if !ok || content["displayname"] != "Anna A." {
		t.Errorf("the room shows %v", content)
	}
	if status := anna.Do(t, "GET", "/_matrix/client/v1/media/thumbnail/"+mxc+"?width=32&height=32", nil, nil); status != 200 {
		t.Errorf("%d: the picture is not served", status)
	}
	refusedBy := func(who *appliancetest.User, method, path string, body any, says string) {
		t.Helper()
		var e struct{ Errcode, Error string }
		if status := who.Do(t, method, path, body, &e); status != 403 || e.Errcode != "M_FORBIDDEN" || !strings.Contains(e.Error, "town") || !strings.Contains(e.Error, says) {
			t.Errorf("%s %s: %d %+v", method, path, status, e)
		}
	}
	refusedBy(anna, "PUT", ofAnna+"/displayname", map[string]string{"displayname": "Nan"}, "display name")
	refusedBy(anna, "DELETE", ofAnna+"/displayname", nil, "display name")
	refusedBy(anna, "PUT", ofAnna+"/avatar_url", map[string]string{"avatar_url": "mxc://hs.test/own"}, "picture")
	refusedBy(anna, "DELETE", ofAnna+"/avatar_url", nil, "picture")
	refusedBy(anna, "POST", "/_matrix/client/v3/account/3pid/delete", map[string]string{"medium": "email", "address": "anna@example.org"}, "e-mail")
	inRoom := "/_matrix/client/v3/rooms/" + url.PathEscape(room.ID) + "/state/m.room.member/@anna:hs.test"
	refusedBy(anna, "PUT", inRoom, map[string]string{"membership": "join", "displayname": "Nan", "avatar_url": content["avatar_url"]}, "display name")
	refusedBy(anna, "PUT", inRoom, map[string]string{"membership": "join", "displayname": "Anna A."}, "picture")
	if status := anna.Do(t, "PUT", ofAnna+"/m.tz", map[string]string{"m.tz": "Europe/Vienna"}, nil); status != 200 {
		t.Errorf("%d: what no directory keeps cannot be changed", status)
	}
	for who, want := range map[*appliancetest.User]string{
		anna:  `"m.3pid_changes":{"enabled":false} "m.profile_fields":{"disallowed":["displayname","avatar_url"],"enabled":true} "m.set_avatar_url":{"enabled":false} "m.set_displayname":{"enabled":false}`,
		admin: `"m.3pid_changes":{"enabled":true} "m.profile_fields":{"enabled":true} "m.set_avatar_url":{"enabled":true} "m.set_displayname":{"enabled":true}`,
	} {
		var caps struct{ Capabilities map[string]any }
		who.Do(t, "GET", "/_matrix/client/v3/capabilities", nil, &caps)
		var got []string
		for _, k := range []string{"m.3pid_changes", "m.profile_fields", "m.set_avatar_url", "m.set_displayname"} {
			got = append(got, text(k)+":"+text(caps.Capabilities[k]))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("capabilities %s, want %s", got, want)
		}
	}
	// Administrators' tools send back what they were given; another name would not last.
	tool := "/_synapse/admin/v2/users/@anna:hs.test"
	refusedBy(admin, "PUT", tool, map[string]any{"displayname": "Nan"}, "set it back")
	refusedBy(admin, "PUT", tool, map[string]any{"displayname": "Anna A.", "avatar_url": ""}, "set it back")
	if status := admin.Do(t, "PUT", tool, map[string]any{"displayname": "Anna A.", "avatar_url": content["avatar_url"]}, nil); status != 200 {
		t.Errorf("%d", status)
	}
	// A reading that finds nothing new is no event in a room; one that does is one.
	cli(0, "sync", "town")
	if now, _ := member(); now != id {
		t.Error("a reading that found nothing new made an event")
	}
	dir.Set(directorytest.Person("anna"), "displayName", "Anna B.")
	dir.Set(directorytest.Person("anna"), "jpegPhoto")
	cli(0, "sync", "town")
	var replaced struct {
		Content  map[string]string
		Unsigned struct {
			Replaces string `json:"replaces_state"`
		}
	}
	call("GET", "/rooms/"+url.PathEscape(room.ID)+"/state/m.room.member/@anna:hs.test?format=event", nil, &replaced)
	if replaced.Content["displayname"] != "Anna B." || replaced.Content["avatar_url"] != "" || replaced.Unsigned.Replaces != id {
		t.Errorf("%+v", replaced)
	}

	dir.Delete(directorytest.Person("anna"))
	contains(cli(0, "sync", "town"), "locked: anna")
	until("anna", false)
	var refused map[string]any
	if status := anna.Do(t, "GET", "/_matrix/client/v3/account/whoami", nil, &refused); status != 401 {
		t.Errorf("%d %v", status, refused)
	}
	contains(cli(1, "join", "town", "root", "bert"), "has an account already")
	dir.AddPerson("carl", "Carl C.", "of the directory")
	contains(cli(0, "join", "town", "root", "carl"), "signs in with the password of carl")
	if status, _, body := login("root", "of the directory"); status != 200 {
		t.Errorf("%d %v", status, body)
	}

	// The console shows the same, and keeps what it has no field for; a directory that
	// becomes another kind gets what suits that one.
	s.Login(t, "boss", "--admin")
	browser, base := signIn(t, s, "boss")
	console := func(method, path string, body, into any) {
		t.Helper()
		req, _ := http.NewRequest(method, base+"/api/console/directories"+path, strings.NewReader(text(body)))
		for k, v := range map[string]string{"Content-Type": "application/json", "Origin": base, "Sec-Fetch-Site": "same-origin"} {
			req.Header.Set(k, v)
		}
		resp, err := browser.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(into); resp.StatusCode != 200 || err != nil {
			t.Fatalf("%s %s: %d %v %v", method, path, resp.StatusCode, into, err)
		}
	}
	dir.Set(directorytest.Person("carl"), "jpegPhoto", directorytest.Picture("jpeg", 96, 7))
	var tested struct{ First []map[string]any }
	console("POST", "/town/test", map[string]any{}, &tested)
	if got := text(tested); !strings.Contains(got, `"full_name":"Carl C."`) || !strings.Contains(got, `"picture":"image/jpeg, `) || !strings.Contains(got, `"groups":["ward 3"]`) {
		t.Errorf("the console's test shows %s", got)
	}
	var list []struct {
		Settings map[string]any
		Config   map[string]any
	}
	console("GET", "", nil, &list)
	if x := list[0].Settings; x["names"] != true || x["pictures"] != true || x["mail"] != true || x["picture_attr"] != "jpegPhoto" {
		t.Errorf("the console shows %v", x)
	}
	change := list[0].Settings
	change["kind"], change["mail"], change["full_attr"] = "ad", false, "description"
	console("PUT", "/town", change, &struct{}{})
	if err := json.Unmarshal([]byte(cli(0, "list", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]any{"kind": "ad", "names": true, "pictures": true, "mail": nil, "full_attr": "description", "mail_attr": "mail", "picture_attr": "thumbnailPhoto",
		"id_attr": "objectGUID", "group_id_attr": "objectGUID", "name_attr": "sAMAccountName", "login_attrs": []any{"sAMAccountName", "userPrincipalName"}, "base_dn": directorytest.Base} {
		if got := list[0].Config[k]; text(got) != text(want) {
			t.Errorf("%s is %v, not %v", k, got, want)
		}
	}
	contains(cli(0, "remove", "town"), "forgotten")
}

func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}
