package e2ee_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"holdfast/homeserver/apitest"
	"holdfast/homeserver/mx"
)

const backupPath = "/_matrix/client/v3/room_keys"

func session(first, forwarded int, verified bool, data string) object {
	return object{"first_message_index": first, "forwarded_count": forwarded, "is_verified": verified, "session_data": object{"ciphertext": data}}
}

func newBackup(c *apitest.Client) string {
	var v struct{ Version string }
	c.OK("POST", backupPath+"/version", object{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": object{"public_key": "abc"}}, &v)
	return v.Version
}

type counted struct {
	Count int
	ETag  string
}

func TestBackupVersions(t *testing.T) {
	w := setup(t)
	alice, bob := w.login("alice", "A"), w.login("bob", "B")
	alice.Fails("GET", backupPath+"/version", nil, 404, mx.NotFound)
	alice.Fails("PUT", backupPath+"/keys/!r/s?version=1", session(0, 0, true, "x"), 404, mx.NotFound)
	alice.Fails("POST", backupPath+"/version", object{"algorithm": "a"}, 400, mx.MissingParam)
	alice.Fails("POST", backupPath+"/version", object{"algorithm": "a", "auth_data": "x"}, 400, mx.BadJSON)
	v1 := newBackup(alice)
	bob.Fails("GET", backupPath+"/version/"+v1, nil, 404, mx.NotFound)

	var c counted
	alice.OK("PUT", backupPath+"/keys/!r/s?version="+v1, session(0, 0, true, "x"), &c)
	if c.Count != 1 || c.ETag == "" {
		t.Fatal(c)
	}
	v2 := newBackup(alice)
	if v1 == v2 {
		t.Fatal("two backups have the same version")
	}
	a := alice.Fails("PUT", backupPath+"/keys/!r/s?version="+v1, session(0, 0, true, "x"), 403, mx.WrongRoomKeysVersion)
	if a.JSON(t)["current_version"] != v2 {
		t.Fatal("the answer must name the current version:", string(a.Body))
	}
	alice.Fails("PUT", backupPath+"/keys/!r/s", session(0, 0, true, "x"), 400, mx.MissingParam)

	alice.OK("PUT", backupPath+"/version/"+v2, object{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": object{"public_key": "new"}, "version": v2}, nil)
	alice.Fails("PUT", backupPath+"/version/"+v2, object{"algorithm": "other", "auth_data": object{}}, 400, mx.InvalidParam)
	alice.Fails("PUT", backupPath+"/version/"+v2, object{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": object{}, "version": v1}, 400, mx.InvalidParam)
	alice.Fails("PUT", backupPath+"/version/99", object{"algorithm": "x", "auth_data": object{}}, 404, mx.NotFound)
	got := alice.OK("GET", backupPath+"/version", nil, nil).JSON(t)
	if got["version"] != v2 || got["auth_data"].(object)["public_key"] != "new" || got["count"] != 0.0 || got["etag"] == nil {
		t.Fatal(got)
	}

	alice.OK("DELETE", backupPath+"/version/"+v2, nil, nil)
	alice.OK("DELETE", backupPath+"/version/"+v2, nil, nil) // again is fine
	alice.Fails("DELETE", backupPath+"/version/99", nil, 404, mx.NotFound)
	alice.Fails("GET", backupPath+"/version/"+v2, nil, 404, mx.NotFound)
	if got := alice.OK("GET", backupPath+"/version", nil, nil).JSON(t); got["version"] != v1 || got["count"] != 1.0 {
		t.Fatal("the version before becomes the current one:", got)
	}
	if v3 := newBackup(alice); v3 == v2 || v3 == v1 {
		t.Fatal("the number of a deleted version was used again")
	}
}

func TestBackupKeepsTheBetterKey(t *testing.T) {
	w := setup(t)
	alice := w.login("alice", "A")
	path := backupPath + "/keys/%21r/s?version=" + newBackup(alice)
	stored := func() string {
		var b struct {
			SessionData struct{ Ciphertext string } `json:"session_data"`
		}
		alice.OK("GET", path, nil, &b)
		return b.SessionData.Ciphertext
	}
	var last counted
	for _, step := range []struct {
		name   string
		o      object
		replac bool
	}{
		{"first", session(5, 2, false, "first"), true},
		{"higher index", session(6, 0, false, "higher index"), false},
		{"same, forwarded more", session(5, 3, false, "same, forwarded more"), false},
		{"the same", session(5, 2, false, "the same"), false},
		{"forwarded less", session(5, 1, false, "forwarded less"), true},
		{"lower index", session(4, 9, false, "lower index"), true},
		{"verified", session(8, 9, true, "verified"), true},
		{"unverified", session(0, 0, false, "unverified"), false},
		{"verified, lower index", session(7, 9, true, "verified, lower index"), true},
	} {
		before, had := "", last.Count > 0
		if had {
			before = stored()
		}
		var c counted
		alice.OK("PUT", path, step.o, &c)
		want := step.name
		if !step.replac {
			want = before
		}
		if got := stored(); got != want {
			t.Fatalf("%s: stored is %q, want %q", step.name, got, want)
		}
		if c.Count != 1 || (c.ETag != last.ETag) != step.replac {
			t.Fatalf("%s: count %d, etag %s after %s", step.name, c.Count, c.ETag, last.ETag)
		}
		last = c
	}
}

func TestBackupBulk(t *testing.T) {
	w := setup(t)
	alice := w.login("alice", "A")
	v := "?version=" + newBackup(alice)
	many := object{}
	for i := range 1200 {
		many[fmt.Sprint("s", i)] = session(i, 0, true, "x")
	}
	var c counted
	alice.OK("PUT", backupPath+"/keys"+v, object{"rooms": object{"!one": object{"sessions": many}, "!two": object{"sessions": object{"s": session(0, 0, true, "y")}}}}, &c)
	if c.Count != 1201 {
		t.Fatal(c)
	}
	alice.OK("PUT", backupPath+"/keys/!two"+v, object{"sessions": object{"s2": session(0, 0, true, "z")}}, &c)
	if c.Count != 1202 {
		t.Fatal(c)
	}
	var all struct {
		Rooms map[string]struct{ Sessions map[string]object }
	}
	alice.OK("GET", backupPath+"/keys"+v, nil, &all)
	if len(all.Rooms["!one"].Sessions) != 1200 || len(all.Rooms["!two"].Sessions) != 2 {
		t.Fatal(len(all.Rooms["!one"].Sessions), len(all.Rooms["!two"].Sessions))
	}
	var room struct{ Sessions map[string]object }
	alice.OK("GET", backupPath+"/keys/!two"+v, nil, &room)
	if room.Sessions["s"]["is_verified"] != true || room.Sessions["s"]["session_data"].(object)["ciphertext"] != "y" {
		t.Fatal(room)
	}
	alice.OK("GET", backupPath+"/keys/!none"+v, nil, &room)
	alice.Fails("GET", backupPath+"/keys/!two/none"+v, nil, 404, mx.NotFound)
	etag := c.ETag
	alice.OK("DELETE", backupPath+"/keys/!two/s"+v, nil, &c)
	if c.Count != 1201 || c.ETag == etag {
		t.Fatal(c)
	}
	alice.OK("DELETE", backupPath+"/keys/!two"+v, nil, &c)
	alice.OK("DELETE", backupPath+"/keys"+v, nil, &c)
	if c.Count != 0 {
		t.Fatal(c)
	}
	alice.Fails("GET", backupPath+"/keys?version=77", nil, 404, mx.NotFound)
	alice.Fails("PUT", backupPath+"/keys/!r/s"+v, object{"session_data": object{}}, 400, mx.MissingParam)
	alice.Fails("PUT", backupPath+"/keys/!r/s"+v, session(-1, 0, true, "x"), 400, mx.InvalidParam)
}

func TestDehydratedDevice(t *testing.T) {
	w := setup(t)
	alice, bob := w.login("alice", "A"), w.login("bob", "B")
	const base = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
	alice.Fails("GET", base, nil, 404, mx.NotFound)
	alice.Fails("PUT", base, object{"device_id": "DRY"}, 400, mx.MissingParam)
	put := func(id string) object {
		return object{"device_id": id, "device_data": object{"algorithm": "x", "pickle": id}, "initial_device_display_name": "dry",
			"device_keys":   deviceKeys(t, alice.UserID, id, newKey()),
			"one_time_keys": object{"signed_curve25519:a": object{"key": "a"}}, "fallback_keys": object{"signed_curve25519:f": object{"key": "f"}}}
	}
	alice.Fails("PUT", base, put("A"), 400, mx.InvalidParam) // a real device
	alice.OK("PUT", base, put("DRY"), nil)
	got := alice.OK("GET", base, nil, nil).JSON(t)
	if got["device_id"] != "DRY" || got["device_data"].(object)["pickle"] != "DRY" {
		t.Fatal(got)
	}
	if query(bob, alice.UserID).DeviceKeys[alice.UserID]["DRY"] == nil {
		t.Fatal("others must find the dehydrated device's keys")
	}
	if otk, _ := w.counts(alice, "DRY"); otk["signed_curve25519"] != 1 {
		t.Fatal(otk)
	}
	for i := range 150 {
		bob.OK("PUT", fmt.Sprintf("/_matrix/client/v3/sendToDevice/m.room.encrypted/%d", i), object{"messages": object{alice.UserID: object{"DRY": object{"n": i}}}}, nil)
	}
	read := func(get func(next string) apitest.Answer) {
		t.Helper()
		next, n := "", 0
		for {
			var page struct {
				Events []struct {
					Content struct{ N int }
				}
				Next string `json:"next_batch"`
			}
			a := get(next)
			if err := json.Unmarshal(a.Body, &page); err != nil || a.Status != 200 {
				t.Fatalf("%d %s", a.Status, a.Body)
			}
			if len(page.Events) == 0 {
				break
			}
			for _, e := range page.Events {
				if e.Content.N != n {
					t.Fatalf("message %d came as number %d", e.Content.N, n)
				}
				n++
			}
			next = page.Next
		}
		if n != 150 {
			t.Fatalf("%d of 150 messages", n)
		}
	}
	events := base + "/DRY/events"
	read(func(next string) apitest.Answer { return alice.Do("GET", events+"?from="+next, nil) })
	read(func(next string) apitest.Answer { return alice.Do("POST", events, object{"next_batch": next}) })
	bob.Fails("GET", events, nil, 404, mx.NotFound)
	alice.Fails("GET", events+"?from=nonsense", nil, 400, mx.InvalidParam)

	alice.OK("PUT", base, put("DRY2"), nil) // replaces the first
	if d := query(bob, alice.UserID).DeviceKeys[alice.UserID]; d["DRY"] != nil || d["DRY2"] == nil {
		t.Fatal(d)
	}
	if got := alice.OK("DELETE", base, nil, nil).JSON(t); got["device_id"] != "DRY2" {
		t.Fatal(got)
	}
	alice.Fails("GET", base, nil, 404, mx.NotFound)
	alice.Fails("DELETE", base, nil, 404, mx.NotFound)
}

// FuzzKeys feeds what a client may send as keys: whatever it is, the server must
// neither fail with a fault of its own nor store something it cannot give back.
func FuzzKeys(f *testing.F) {
	w := setup(f)
	alice := w.login("alice", "A")
	f.Add(`{"device_keys":{"user_id":"@alice:example.org","device_id":"A","algorithms":[],"keys":{"ed25519:A":"x"},"signatures":{"@alice:example.org":{"ed25519:A":"y","ed25519:z":""}}}}`)
	f.Add(`{"one_time_keys":{"signed_curve25519:a":{"key":"a","signatures":{}}},"fallback_keys":{"a:":""}}`)
	f.Add(`{"master_key":{"user_id":"@alice:example.org","usage":["master"],"keys":{"ed25519:a":"a"}}}`)
	f.Add(`{"@alice:example.org":{"A":{"signatures":{"@alice:example.org":{"ed25519:A":"x"}}}}}`)
	f.Add(`{"device_keys":{"\u0000":1e9,"a":[[[[]]]]}}`)
	f.Fuzz(func(t *testing.T, body string) {
		alice := alice.In(t)
		for _, p := range []string{uploadPath, crossPath, signaturesPath, queryPath, claimPath} {
			a := alice.Do("POST", p, body)
			if a.Status >= 500 {
				t.Fatalf("%s: %d %s", p, a.Status, a.Body)
			}
			if !json.Valid(a.Body) {
				t.Fatalf("%s: %q", p, a.Body)
			}
		}
		if a := alice.Do("POST", queryPath, `{"device_keys":{"@alice:example.org":[]}}`); a.Status != 200 {
			t.Fatalf("what was stored cannot be read: %s", a.Body)
		}
	})
}
