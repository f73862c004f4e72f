package e2ee_test

import (
	"context"
	"testing"

	"holdfast/homeserver/apitest"
	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
	"holdfast/store"
)

// crossSet is a user's cross-signing keys.
type crossSet struct{ master, self, user key }

func newSet() crossSet { return crossSet{newKey(), newKey(), newKey()} }

// body is the upload of the keys of a user.
func (c crossSet) body(t testing.TB, userID string) object {
	by := func(usage string, k key) object {
		return sign(t, crossKey(userID, usage, k), userID, "ed25519:"+c.master.pub, c.master)
	}
	return object{"master_key": crossKey(userID, "master", c.master), "self_signing_key": by("self_signing", c.self), "user_signing_key": by("user_signing", c.user)}
}

func signatures(o object, userID string) object {
	all, _ := o["signatures"].(object)
	of, _ := all[userID].(object)
	return of
}

// TestCrossSigningNames: signatures name a key by itself, so no two keys and no key and
// device may have one name.
func TestCrossSigningNames(t *testing.T) {
	w := setup(t)
	alice := w.login("alice", "A")
	c := newSet()
	same := c
	same.user = same.self
	alice.Fails("POST", crossPath, same.body(t, alice.UserID), 400, mx.InvalidParam)

	// A device without keys has a name, too.
	w.write(func(tx *store.Tx) error { return w.devices.Upsert(tx, alice.UserID, c.self.pub, "") })
	alice.Fails("POST", crossPath, c.body(t, alice.UserID), 403, mx.Forbidden)
	w.write(func(tx *store.Tx) error { return w.devices.Delete(tx, alice.UserID, c.self.pub) })
	alice.OK("POST", crossPath, c.body(t, alice.UserID), nil)

	// Of keys that are there already.
	for usage, k := range map[string]key{"self_signing": c.user, "user_signing": c.master} {
		body := object{usage + "_key": sign(t, crossKey(alice.UserID, usage, k), alice.UserID, "ed25519:"+c.master.pub, c.master)}
		alice.Fails("POST", crossPath, body, 400, mx.InvalidParam)
	}
	// And the other way round: a device cannot take a key's name.
	device := w.login("alice", c.master.pub)
	device.Fails("POST", uploadPath, object{"device_keys": deviceKeys(t, alice.UserID, c.master.pub, newKey())}, 400, mx.InvalidParam)
}

// TestReplacedKeysTakeTheirSignatures: what a replaced key signed, and who signed it,
// is worth nothing any more.
func TestReplacedKeysTakeTheirSignatures(t *testing.T) {
	w := setup(t)
	alice, bob := w.login("alice", "A"), w.login("bob", "B")
	w.join("!r", "alice")
	w.join("!r", "bob")
	a, b := newSet(), newSet()
	dev := newKey()
	keys := deviceKeys(t, alice.UserID, "A", dev)
	alice.OK("POST", uploadPath, object{"device_keys": keys}, nil)
	// The device vouches for the new master key in the upload; forged words are dropped.
	body := a.body(t, alice.UserID)
	master := sign(t, crossKey(alice.UserID, "master", a.master), alice.UserID, "ed25519:A", dev)
	w.login("alice", "A2").OK("POST", uploadPath, object{"device_keys": deviceKeys(t, alice.UserID, "A2", newKey())}, nil)
	master = sign(t, master, alice.UserID, "ed25519:A2", newKey())
	body["master_key"] = sign(t, master, alice.UserID, "ed25519:NONE", newKey())
	alice.OK("POST", crossPath, body, nil)
	bob.OK("POST", crossPath, b.body(t, bob.UserID), nil)
	if s := signatures(query(bob, alice.UserID).Master[alice.UserID], alice.UserID); s["ed25519:A"] == nil || len(s) != 1 {
		t.Errorf("the master key's signatures: %v", s)
	}
	fails := func(c *apitest.Client, body object) (n int) {
		t.Helper()
		var out struct{ Failures map[string]object }
		c.OK("POST", signaturesPath, body, &out)
		return len(out.Failures)
	}
	if fails(alice, object{alice.UserID: object{"A": sign(t, keys, alice.UserID, "ed25519:"+a.self.pub, a.self)},
		bob.UserID: object{b.master.pub: sign(t, crossKey(bob.UserID, "master", b.master), alice.UserID, "ed25519:"+a.user.pub, a.user)}}) != 0 {
		t.Fatal("good signatures were refused")
	}
	has := func(what string, o object, keyID string, want bool) {
		t.Helper()
		if got := signatures(o, alice.UserID)[keyID] != nil; got != want {
			t.Errorf("%s: signed is %v", what, got)
		}
	}
	has("the device", query(bob, alice.UserID).DeviceKeys[alice.UserID]["A"], "ed25519:"+a.self.pub, true)
	has("bob", query(alice, bob.UserID).Master[bob.UserID], "ed25519:"+a.user.pub, true)

	// Another self-signing key alone: the master key and what the others signed stay.
	from := w.db.Pos()
	next := a
	next.self = newKey()
	alice.OK("POST", crossPath, object{"self_signing_key": next.body(t, alice.UserID)["self_signing_key"]}, nil)
	w.wantChanges(bob, from, []string{alice.UserID}, nil)
	has("the device, of the old key", query(bob, alice.UserID).DeviceKeys[alice.UserID]["A"], "ed25519:"+a.self.pub, false)
	has("the device, of itself", query(bob, alice.UserID).DeviceKeys[alice.UserID]["A"], "ed25519:A", true)
	has("the master key", query(bob, alice.UserID).Master[alice.UserID], "ed25519:A", true)
	has("bob", query(alice, bob.UserID).Master[bob.UserID], "ed25519:"+a.user.pub, true)
	if fails(alice, object{alice.UserID: object{"A": sign(t, keys, alice.UserID, "ed25519:"+a.self.pub, a.self)}}) != 1 {
		t.Error("a replaced key still signs")
	}
	// Another master key: all goes.
	alice.OK("POST", crossPath, newSet().body(t, alice.UserID), nil)
	has("bob, after all", query(alice, bob.UserID).Master[bob.UserID], "ed25519:"+a.user.pub, false)
	has("the master key, after all", query(bob, alice.UserID).Master[alice.UserID], "ed25519:A", false)
}

// TestUploadsAtOnce: while somebody confirms who they are, another device is quicker.
func TestUploadsAtOnce(t *testing.T) {
	w := setup(t)
	alice := w.login("alice", "A")
	first, quick, slow := newSet(), newSet(), newSet()
	alice.OK("POST", crossPath, first.body(t, alice.UserID), nil)
	w.asking = func() {
		w.asking = nil
		alice.OK("POST", crossPath, quick.body(t, alice.UserID), nil)
	}
	alice.Fails("POST", crossPath, slow.body(t, alice.UserID), 403, mx.Forbidden)
	if got := query(alice, alice.UserID).Master[alice.UserID]["keys"].(object); got["ed25519:"+quick.master.pub] == nil {
		t.Errorf("the master key: %v", got)
	}
}

// TestDeviceKeysComeAsTheyWere: the server does not judge what a device says of itself,
// which is for those who read it, but adds nothing and takes nothing away.
func TestDeviceKeysComeAsTheyWere(t *testing.T) {
	w := setup(t)
	alice, bob := w.login("alice", "A"), w.login("bob", "B")
	keys := deviceKeys(t, alice.UserID, "A", newKey())
	keys["org.example.more"] = object{"n": 1}
	keys["unsigned"] = object{"device_display_name": "not from here"}
	keys["signatures"].(object)[bob.UserID] = object{"ed25519:B": "forged"}
	alice.OK("POST", uploadPath, object{"device_keys": keys}, nil)
	got := query(bob, alice.UserID).DeviceKeys[alice.UserID]["A"]
	if got["unsigned"].(object)["device_display_name"] != "A of alice" {
		t.Errorf("unsigned: %v", got["unsigned"])
	}
	if got["org.example.more"] == nil || signatures(got, alice.UserID)["ed25519:A"] != signatures(keys, alice.UserID)["ed25519:A"] || signatures(got, bob.UserID) != nil {
		t.Errorf("%v", got)
	}
}

// TestConfirmedByPassword replaces keys through the whole homeserver.
func TestConfirmedByPassword(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	const path = "/keys/device_signing/upload"
	alice.Must("POST", path, newSet().body(t, alice.UserID))
	next := newSet().body(t, alice.UserID)
	ask := alice.Do("POST", path, next)
	if ask.Status != 401 || ask.JSON.At("session").String() == "" {
		t.Fatalf("%d %s", ask.Status, ask.Body)
	}
	auth := object{"type": "m.login.password", "identifier": object{"type": "m.id.user", "user": "alice"}, "password": hstest.Password, "session": ask.JSON.At("session").String()}
	// What is confirmed is this request, not another one.
	other := newSet().body(t, alice.UserID)
	other["auth"] = object{"session": ask.JSON.At("session").String()}
	if a := alice.Do("POST", path, other); a.Status != 401 {
		t.Errorf("other keys in the same session: %d %s", a.Status, a.Body)
	}
	next["auth"] = auth
	alice.Must("POST", path, next)
}

// TestClosedAccountLeavesNoKeys: who closes the account takes devices, keys, backups,
// messages that wait and signatures along, and those who shared a room hear of it.
func TestClosedAccountLeavesNoKeys(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := bob.CreateRoom(object{"preset": "public_chat"})
	alice.Join(room)
	a, b := newSet(), newSet()
	for c, set := range map[*hstest.Client]crossSet{alice: a, bob: b} {
		c.Must("POST", "/keys/upload", object{"device_keys": deviceKeys(t, c.UserID, c.DeviceID, newKey()),
			"one_time_keys": object{"signed_curve25519:a": object{"key": "a"}}, "fallback_keys": object{"signed_curve25519:f": object{"key": "f"}}})
		c.Must("POST", "/keys/device_signing/upload", set.body(t, c.UserID))
	}
	alice.Must("POST", "/keys/signatures/upload", object{bob.UserID: object{b.master.pub: sign(t, crossKey(bob.UserID, "master", b.master), alice.UserID, "ed25519:"+a.user.pub, a.user)}})
	alice.Must("POST", "/room_keys/version", object{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": object{"public_key": "x"}})
	alice.Must("PUT", "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device", object{"device_id": "DRY", "device_data": object{}, "device_keys": deviceKeys(t, alice.UserID, "DRY", newKey())})
	bob.Must("PUT", "/sendToDevice/m.test/1", object{"messages": object{alice.UserID: object{"*": object{"n": 1}}}})
	bob.Sync()

	alice.Must("POST", "/account/deactivate", object{"auth": object{"type": "m.login.password", "identifier": object{"type": "m.id.user", "user": "alice"}, "password": hstest.Password}})
	v := bob.Sync()
	if got := strs(v.At("device_lists", "left")); len(got) != 1 || got[0] != alice.UserID {
		t.Errorf("left: %s", v.At("device_lists").Text())
	}
	got := bob.Must("POST", "/keys/query", object{"device_keys": object{alice.UserID: []string{}}})
	if len(got.At("device_keys", alice.UserID).Keys()) != 0 || got.At("master_keys", alice.UserID).V != nil || got.At("self_signing_keys", alice.UserID).V != nil {
		t.Errorf("keys of a closed account: %s", got.Text())
	}
	claimed := bob.Must("POST", "/keys/claim", object{"one_time_keys": object{alice.UserID: object{alice.DeviceID: "signed_curve25519"}}})
	if len(claimed.At("one_time_keys").Keys()) != 0 {
		t.Errorf("claimed: %s", claimed.Text())
	}
	for _, table := range []string{"devices", "device_messages", "e2ee_device_keys", "e2ee_one_time_keys", "e2ee_fallback_keys", "e2ee_cross_signing_keys", "e2ee_backups", "e2ee_backup_keys", "e2ee_dehydrated"} {
		var n int
		err := hs.DB.Read(context.Background(), func(q store.Querier) error {
			return q.QueryRow(`SELECT count(*) FROM `+table+` WHERE user_id = $1`, alice.UserID).Scan(&n)
		})
		if err != nil || n != 0 {
			t.Errorf("%d rows are left in %s (%v)", n, table, err)
		}
	}
	var n int
	err := hs.DB.Read(context.Background(), func(q store.Querier) error {
		return q.QueryRow(`SELECT count(*) FROM e2ee_signatures WHERE user_id = $1 OR signer = $1`, alice.UserID).Scan(&n)
	})
	if err != nil || n != 0 {
		t.Errorf("%d signatures are left (%v)", n, err)
	}
}
