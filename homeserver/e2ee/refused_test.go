package e2ee_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"holdfast/homeserver/e2ee"
	"holdfast/homeserver/mx"
	"holdfast/store"
)

// TestKeyLimits: what is too large or of another form is refused, and changes nothing.
func TestKeyLimits(t *testing.T) {
	w := setup(t)
	alice := w.login("alice", "A")
	long := strings.Repeat("x", 17<<10)
	many := object{}
	for i := range 1001 {
		many[fmt.Sprint("signed_curve25519:", i)] = object{"key": "k"}
	}
	huge := deviceKeys(t, alice.UserID, "A", newKey())
	huge["x"] = strings.Repeat("x", 49<<10)
	users := object{}
	for i := range 10001 {
		users[fmt.Sprintf("@u%d:example.org", i)] = []string{}
	}
	claims, signed := object{}, object{}
	for u := range users {
		claims[u] = object{"D": "signed_curve25519"}
		if len(signed) <= 1000 {
			signed[u] = object{}
		}
	}
	for name, c := range map[string]struct {
		path   string
		body   any
		status int
		code   mx.Code
	}{
		"a long key":             {uploadPath, object{"one_time_keys": object{"signed_curve25519:a": object{"key": long}}}, 413, mx.TooLarge},
		"a long name":            {uploadPath, object{"one_time_keys": object{"signed_curve25519:" + strings.Repeat("x", 256): object{"key": "k"}}}, 400, mx.InvalidParam},
		"many keys":              {uploadPath, object{"one_time_keys": many}, 413, mx.TooLarge},
		"long device keys":       {uploadPath, object{"device_keys": huge}, 413, mx.TooLarge},
		"many users":             {queryPath, object{"device_keys": users}, 413, mx.TooLarge},
		"many claims":            {claimPath, object{"one_time_keys": claims}, 413, mx.TooLarge},
		"no claims":              {claimPath, object{}, 400, mx.MissingParam},
		"a claim of a list":      {claimPath, object{"one_time_keys": object{alice.UserID: object{"A": []string{"signed_curve25519"}}}}, 400, mx.BadJSON},
		"many signed users":      {signaturesPath, signed, 413, mx.TooLarge},
		"a long master key":      {crossPath, object{"master_key": object{"x": long}}, 413, mx.TooLarge},
		"a master key of a list": {crossPath, object{"master_key": []string{}}, 400, mx.BadJSON},
		"no master key":          {crossPath, object{}, 400, mx.MissingParam},
		"two keys in one":        {crossPath, object{"master_key": object{"user_id": alice.UserID, "usage": []string{"master"}, "keys": object{"ed25519:a": "a", "ed25519:b": "b"}}}, 400, mx.InvalidParam},
		"a key under a name":     {crossPath, object{"master_key": object{"user_id": alice.UserID, "usage": []string{"master"}, "keys": object{"ed25519:a": newKey().pub}}}, 400, mx.InvalidParam},
		"a short key":            {crossPath, object{"master_key": object{"user_id": alice.UserID, "usage": []string{"master"}, "keys": object{"ed25519:YWJj": "YWJj"}}}, 400, mx.InvalidParam},
	} {
		a := alice.Do("POST", c.path, c.body)
		if a.Status != c.status || !strings.Contains(string(a.Body), `"`+string(c.code)+`"`) {
			t.Errorf("%s: %d %.200s, want %d %s", name, a.Status, a.Body, c.status, c.code)
		}
	}
	long = strings.Repeat("x", 48<<10)
	a := alice.Do("POST", signaturesPath, object{alice.UserID: object{"A": object{"signatures": object{alice.UserID: object{"ed25519:x": "y"}}, "x": long}}})
	if a.Status != 200 || !strings.Contains(string(a.Body), `"M_TOO_LARGE"`) {
		t.Errorf("a long signed key: %d %.200s", a.Status, a.Body)
	}
	if otk, _ := w.counts(alice, "A"); otk["signed_curve25519"] != 0 {
		t.Errorf("refused keys are there: %v", otk)
	}
	// The bound of a device counts what is there already, and an upload beyond it changes nothing.
	delete(many, "signed_curve25519:1000")
	alice.OK("POST", uploadPath, object{"one_time_keys": many}, nil)
	alice.Fails("POST", uploadPath, object{"one_time_keys": object{"signed_curve25519:more": object{"key": "k"}}}, 413, mx.TooLarge)
	if otk, _ := w.counts(alice, "A"); otk["signed_curve25519"] != 1000 {
		t.Errorf("after one too many: %v", otk)
	}
	// Keys belong to a device.
	w.AsAppservice("alice", "", "bridge").Fails("POST", uploadPath, object{}, 400, mx.InvalidParam)
}

// TestKeysOfADeviceThatWent: a request that was under way when its device was signed
// out leaves no keys.
func TestKeysOfADeviceThatWent(t *testing.T) {
	w := setup(t)
	alice := w.login("alice", "A")
	w.write(func(tx *store.Tx) error { return w.devices.Delete(tx, alice.UserID, "A") })
	alice.Fails("POST", uploadPath, object{"device_keys": deviceKeys(t, alice.UserID, "A", newKey())}, 401, mx.UnknownToken)
	alice.Fails("POST", uploadPath, object{"one_time_keys": object{"signed_curve25519:a": object{"key": "a"}}}, 401, mx.UnknownToken)
	if got := query(alice, alice.UserID); len(got.DeviceKeys[alice.UserID]) != 0 {
		t.Errorf("keys of no device: %v", got)
	}
}

func TestBackupLimits(t *testing.T) {
	w := setup(t)
	alice := w.login("alice", "A")
	long := strings.Repeat("x", 65<<10)
	alice.Fails("POST", backupPath+"/version", object{"algorithm": "a", "auth_data": object{"x": long}}, 413, mx.TooLarge)
	alice.Fails("POST", backupPath+"/version", object{"algorithm": strings.Repeat("a", 256), "auth_data": object{}}, 413, mx.TooLarge)
	v := "?version=" + newBackup(alice)
	alice.Fails("PUT", backupPath+"/keys/!r/s"+v, session(0, 0, true, long), 413, mx.TooLarge)
	text := session(0, 0, true, "x")
	text["session_data"] = "x"
	alice.Fails("PUT", backupPath+"/keys/!r/s"+v, text, 400, mx.BadJSON)
	alice.Fails("PUT", backupPath+"/keys/!r"+v, object{}, 400, mx.MissingParam)
	alice.Fails("PUT", backupPath+"/keys"+v, object{}, 400, mx.MissingParam)
	alice.Fails("PUT", backupPath+"/keys/!r/"+strings.Repeat("s", 256)+v, session(0, 0, true, "x"), 400, mx.InvalidParam)
	// One bad key among good ones: none is stored.
	alice.Fails("PUT", backupPath+"/keys/!r"+v, object{"sessions": object{"a": session(0, 0, true, "x"), "b": session(-1, 0, true, "x")}}, 400, mx.InvalidParam)
	for _, path := range []string{"/keys", "/keys/!r", "/keys/!r/s"} {
		alice.Fails("GET", backupPath+path, nil, 400, mx.MissingParam)
		alice.Fails("DELETE", backupPath+path, nil, 400, mx.MissingParam)
		alice.Fails("DELETE", backupPath+path+"?version=9", nil, 404, mx.NotFound)
		alice.Fails("GET", backupPath+path+"?version=9", nil, 404, mx.NotFound)
	}
	if got := alice.OK("GET", backupPath+"/version", nil, nil).JSON(t); got["count"] != 0.0 {
		t.Errorf("refused keys are there: %v", got)
	}
}

func TestDehydratedLimits(t *testing.T) {
	w := setup(t)
	alice := w.login("alice", "A")
	const base = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
	put := func(change object) object {
		o := object{"device_id": "DRY", "device_data": object{"x": 1}, "device_keys": deviceKeys(t, alice.UserID, "DRY", newKey())}
		for k, v := range change {
			o[k] = v
		}
		return o
	}
	alice.Fails("PUT", base, put(object{"device_data": object{"x": strings.Repeat("x", 257<<10)}}), 413, mx.TooLarge)
	alice.Fails("PUT", base, put(object{"device_data": "x"}), 400, mx.BadJSON)
	alice.Fails("PUT", base, put(object{"device_keys": deviceKeys(t, alice.UserID, "OTHER", newKey())}), 400, mx.InvalidParam)
	alice.Fails("PUT", base, put(object{"device_keys": nil}), 400, mx.BadJSON)
	alice.Fails("GET", base, nil, 404, mx.NotFound)
	// The older name of the fallback keys does as well.
	alice.OK("PUT", base, put(object{"org.matrix.msc2732.fallback_keys": object{"signed_curve25519:f": object{"key": "f"}}}), nil)
	if _, fallback := w.counts(alice, "DRY"); len(fallback) != 1 {
		t.Errorf("fallback keys: %v", fallback)
	}
	// Deleted like any other device, it is gone as a dehydrated one, too.
	alice.OK("DELETE", "/_matrix/client/v3/devices/DRY", object{}, nil)
	alice.Fails("GET", base, nil, 404, mx.NotFound)
	alice.OK("PUT", base, put(nil), nil)
	alice.OK("PUT", base, put(nil), nil) // the same ID again replaces it
	var dry bool
	err := w.db.Read(context.Background(), func(q store.Querier) (err error) {
		dry, err = e2ee.IsDehydrated(q, alice.UserID, "DRY")
		return err
	})
	if err != nil || !dry {
		t.Errorf("%v %v", dry, err)
	}
}
