package api

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"net/url"
	"strings"
	"testing"
)

func TestToDevice(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	phone := bob.login()
	bob.sync()
	phone.sync()
	path := "/sendToDevice/com.example.msg/"
	txn := unique("t")
	body := obj{"messages": obj{bob.id: obj{bob.device: obj{"n": 1}}}}
	alice.ok("PUT", path+txn, body)
	alice.ok("PUT", path+txn, body) // the same
	v := bob.until("to_device", func(v Value) bool { return v.Exists("to_device") })
	same(t, "to_device", v.At("to_device", "events"), list{obj{"content": obj{"n": 1}, "sender": alice.id, "type": "com.example.msg"}})
	same(t, "once", bob.sync().Exists("to_device"), false)
	same(t, "not the other device", phone.sync().Exists("to_device"), false)
	alice.ok("PUT", path+unique("t"), obj{"messages": obj{bob.id: obj{"*": obj{"n": 2}}}})
	for _, u := range []*user{bob, phone} {
		v := u.until("to_device", func(v Value) bool { return v.Exists("to_device") })
		same(t, "to all", v.At("to_device", "events", "0", "content", "n").Int(), 2)
	}
	// An answer that was lost comes again.
	since := bob.since
	alice.ok("PUT", path+unique("t"), obj{"messages": obj{bob.id: obj{bob.device: obj{"n": 3}}}})
	for range 2 {
		bob.since = since
		same(t, "again", bob.sync().At("to_device", "events", "0", "content", "n").Int(), 3)
	}
	// Many come in order, over several answers.
	for i := range 230 {
		alice.ok("PUT", path+unique("t"), obj{"messages": obj{bob.id: obj{bob.device: obj{"i": i}}}})
	}
	n := 0
	for range 6 {
		for _, e := range bob.sync().At("to_device", "events").List() {
			if e.At("content", "i").Int() != n {
				t.Fatalf("number %d is %s", n, e.Text())
			}
			n++
		}
	}
	same(t, "all of them", n, 230)
	alice.ok("PUT", path+unique("t"), obj{"messages": obj{"@nobody:hs1": obj{"X": obj{}}}})
	alice.ok("PUT", path+unique("t"), obj{"messages": obj{}})
	for _, bad := range []any{obj{"messages": "x"}, obj{"messages": obj{bob.id: "x"}}, obj{"messages": obj{bob.id: obj{"X": "y"}}}, list{}} {
		alice.fails(400, "M_BAD_JSON|M_NOT_JSON|M_INVALID_PARAM", "PUT", path+unique("t"), bad)
	}
	alice.fails(400, "M_MISSING_PARAM|M_BAD_JSON", "PUT", path+unique("t"), obj{})
}

// signed signs an object as the specification says.
func signed(o obj, userID, keyID string, key ed25519.PrivateKey) obj {
	bare := obj{}
	for k, v := range o {
		if k != "signatures" && k != "unsigned" {
			bare[k] = v
		}
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf) // sorts keys; canonical for what is signed here
	enc.SetEscapeHTML(false)
	enc.Encode(bare)
	sig := ed25519.Sign(key, bytes.TrimSpace(buf.Bytes()))
	sigs, _ := o["signatures"].(obj)
	if sigs == nil {
		sigs = obj{}
	}
	mine, _ := sigs[userID].(obj)
	if mine == nil {
		mine = obj{}
	}
	mine[keyID] = base64.RawStdEncoding.EncodeToString(sig)
	sigs[userID] = mine
	o["signatures"] = sigs
	return o
}

func b64(k ed25519.PublicKey) string { return base64.RawStdEncoding.EncodeToString(k) }

// deviceKeys makes a device's keys.
func (u *user) deviceKeys() (obj, ed25519.PrivateKey) {
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	curve, _, _ := ed25519.GenerateKey(rand.Reader) // any 32 bytes do
	return signed(obj{"user_id": u.id, "device_id": u.device, "algorithms": list{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"},
		"keys": obj{"ed25519:" + u.device: b64(pub), "curve25519:" + u.device: b64(curve)}}, u.id, "ed25519:"+u.device, key), key
}

func (u *user) oneTime(id string, key ed25519.PrivateKey, fallback bool) obj {
	pub, _, _ := ed25519.GenerateKey(rand.Reader)
	o := obj{"key": b64(pub)}
	if fallback {
		o["fallback"] = true
	}
	return signed(o, u.id, "ed25519:"+u.device, key)
}

func TestKeys(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	alice.public(bob)
	bob.sync()
	dk, key := alice.deviceKeys()
	ot := obj{}
	for i := range 2 {
		ot[fmt.Sprintf("signed_curve25519:AAA%d", i)] = alice.oneTime("", key, false)
	}
	v := alice.ok("POST", "/keys/upload", obj{"device_keys": dk, "one_time_keys": ot, "fallback_keys": obj{"signed_curve25519:FB": alice.oneTime("", key, true)}})
	same(t, "counts", v.At("one_time_key_counts", "signed_curve25519").Int(), 2)
	same(t, "counts", alice.ok("POST", "/keys/upload", obj{}).At("one_time_key_counts", "signed_curve25519").Int(), 2)
	alice.ok("POST", "/keys/upload", obj{"one_time_keys": ot}) // the same again
	alice.fails(400, "M_INVALID_PARAM|M_UNKNOWN|M_BAD_JSON", "POST", "/keys/upload", obj{"one_time_keys": obj{"signed_curve25519:AAA0": alice.oneTime("", key, false)}})
	v = alice.sync()
	same(t, "in a sync", v.At("device_one_time_keys_count", "signed_curve25519").Int(), 2)
	same(t, "unused", v.At("device_unused_fallback_key_types"), list{"signed_curve25519"})
	v = bob.until("device_lists", func(v Value) bool { return v.Exists("device_lists") })
	same(t, "changed", v.At("device_lists", "changed"), list{alice.id})

	v = bob.ok("POST", "/keys/query", obj{"device_keys": obj{alice.id: list{}}})
	got := v.At("device_keys", alice.id, alice.device)
	same(t, "device keys", got.At("keys"), dk["keys"])
	same(t, "failures", v.At("failures"), obj{})
	same(t, "one device", bob.ok("POST", "/keys/query", obj{"device_keys": obj{alice.id: list{alice.device}}}).At("device_keys", alice.id).Keys(), list{alice.device})
	same(t, "another device", bob.ok("POST", "/keys/query", obj{"device_keys": obj{alice.id: list{"NONE"}}}).At("device_keys", alice.id).Keys(), list{})
	for _, bad := range []any{obj{"device_keys": "x"}, obj{"device_keys": obj{alice.id: "x"}}, obj{"device_keys": obj{alice.id: obj{}}}, obj{"device_keys": list{}}, obj{"device_keys": obj{alice.id: list{1}}}} {
		bob.fails(400, "M_BAD_JSON|M_INVALID_PARAM", "POST", "/keys/query", bad)
	}

	claim := func() string {
		v := bob.ok("POST", "/keys/claim", obj{"one_time_keys": obj{alice.id: obj{alice.device: "signed_curve25519"}}})
		keys := v.At("one_time_keys", alice.id, alice.device).Keys()
		if len(keys) != 1 {
			return ""
		}
		return keys[0]
	}
	same(t, "first", claim(), "signed_curve25519:AAA0")
	same(t, "second", claim(), "signed_curve25519:AAA1")
	same(t, "fallback", claim(), "signed_curve25519:FB")
	same(t, "fallback again", claim(), "signed_curve25519:FB")
	v = alice.sync()
	same(t, "none left", v.At("device_one_time_keys_count", "signed_curve25519").Int(), 0)
	same(t, "used", v.At("device_unused_fallback_key_types"), list{})
	v = bob.ok("POST", "/keys/claim", obj{"one_time_keys": obj{alice.id: obj{"NONE": "signed_curve25519"}, "@nobody:hs1": obj{"X": "signed_curve25519"}}})
	same(t, "no such device", v.At("one_time_keys").Text() == "{}" || len(v.At("one_time_keys", alice.id, "NONE").Keys()) == 0, true)
	for _, bad := range []any{obj{"one_time_keys": "x"}, obj{"one_time_keys": obj{alice.id: "x"}}, obj{"one_time_keys": obj{alice.id: obj{"X": 1}}}} {
		bob.fails(400, "M_BAD_JSON|M_INVALID_PARAM", "POST", "/keys/claim", bad)
	}
	wrong, _ := bob.deviceKeys()
	for _, bad := range []any{obj{"device_keys": "x"}, obj{"device_keys": wrong}, obj{"one_time_keys": "x"}, obj{"one_time_keys": obj{"nonsense": "x"}}, obj{"fallback_keys": list{}}} {
		alice.fails(400, "M_BAD_JSON|M_INVALID_PARAM|M_INVALID_SIGNATURE|M_UNKNOWN", "POST", "/keys/upload", bad)
	}
	// Changes between two tokens; who leaves is left.
	from := bob.since
	carol := newUser(t, "carol")
	id := bob.public(carol)
	bob.sync()
	v = bob.ok("GET", "/keys/changes?from="+from+"&to="+bob.since, nil)
	same(t, "newly shared", v.At("changed"), list{carol.id})
	from = bob.since
	carol.leave(id)
	bob.sync()
	same(t, "left", bob.ok("GET", "/keys/changes?from="+from+"&to="+bob.since, nil).At("left"), list{carol.id})
	bob.fails(400, "M_INVALID_PARAM|M_MISSING_PARAM", "GET", "/keys/changes?from=x&to=y", nil)
	bob.fails(400, "M_INVALID_PARAM|M_MISSING_PARAM", "GET", "/keys/changes", nil)
	// Logged out, the keys are gone.
	alice.login().ok("GET", "/devices", nil)
	alice.ok("POST", "/logout", nil)
	same(t, "gone", bob.ok("POST", "/keys/query", obj{"device_keys": obj{alice.id: list{}}}).At("device_keys", alice.id, alice.device).V, nil)
}

func TestCrossSigning(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	alice.public(bob)
	dk, _ := alice.deviceKeys()
	alice.ok("POST", "/keys/upload", obj{"device_keys": dk})
	mpub, master, _ := ed25519.GenerateKey(rand.Reader)
	spub, self, _ := ed25519.GenerateKey(rand.Reader)
	upub, _, _ := ed25519.GenerateKey(rand.Reader)
	cross := func(usage string, pub ed25519.PublicKey) obj {
		return obj{"user_id": alice.id, "usage": list{usage}, "keys": obj{"ed25519:" + b64(pub): b64(pub)}}
	}
	body := obj{"master_key": cross("master", mpub),
		"self_signing_key": signed(cross("self_signing", spub), alice.id, "ed25519:"+b64(mpub), master),
		"user_signing_key": signed(cross("user_signing", upub), alice.id, "ed25519:"+b64(mpub), master)}
	alice.ok("POST", "/keys/device_signing/upload", body) // the first needs no confirmation
	alice.ok("POST", "/keys/device_signing/upload", body) // nor does the same again
	// A device cannot have its name.
	nobody(t).fails(403, "M_FORBIDDEN", "POST", "/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": alice.id}, "password": password, "device_id": b64(mpub)})
	v := alice.ok("POST", "/keys/query", obj{"device_keys": obj{alice.id: list{}}})
	for _, k := range []string{"master_keys", "self_signing_keys", "user_signing_keys"} {
		if !v.At(k).Exists(alice.id) {
			t.Errorf("no %s", k)
		}
	}
	v = bob.ok("POST", "/keys/query", obj{"device_keys": obj{alice.id: list{}}})
	same(t, "master for bob", v.At("master_keys").Exists(alice.id), true)
	same(t, "user_signing for bob", v.At("user_signing_keys").Exists(alice.id), false)

	// New keys take the password.
	mpub2, master2, _ := ed25519.GenerateKey(rand.Reader)
	next := obj{"master_key": cross("master", mpub2), "self_signing_key": signed(cross("self_signing", spub), alice.id, "ed25519:"+b64(mpub2), master2)}
	if a := alice.do("POST", "/keys/device_signing/upload", next); a.status != 401 || len(a.At("flows").List()) == 0 {
		t.Errorf("new keys: %d %s", a.status, a.body)
	}
	for _, bad := range []any{obj{"master_key": "x"}, obj{"master_key": obj{}}, obj{"master_key": cross("self_signing", mpub2)}} {
		if a := alice.do("POST", "/keys/device_signing/upload", bad); a.status != 400 && a.status != 401 {
			t.Errorf("%v: %d %s", bad, a.status, a.body)
		}
	}
	// Signatures: right ones are kept, forged ones refused.
	bare := obj{"user_id": alice.id, "device_id": alice.device, "algorithms": dk["algorithms"], "keys": dk["keys"]}
	good := signed(bare, alice.id, "ed25519:"+b64(spub), self)
	v = alice.ok("POST", "/keys/signatures/upload", obj{alice.id: obj{alice.device: good}})
	same(t, "failures", v.At("failures"), obj{})
	v = bob.ok("POST", "/keys/query", obj{"device_keys": obj{alice.id: list{}}})
	if v.At("device_keys", alice.id, alice.device, "signatures", alice.id, "ed25519:"+b64(spub)).String() == "" {
		t.Errorf("no signature: %s", v.At("device_keys").Text())
	}
	good["signatures"] = obj{alice.id: obj{"ed25519:" + b64(spub): base64.RawStdEncoding.EncodeToString(make([]byte, 64))}}
	v = alice.ok("POST", "/keys/signatures/upload", obj{alice.id: obj{alice.device: good}})
	same(t, "forged", v.At("failures", alice.id, alice.device, "errcode"), "M_INVALID_SIGNATURE")
}

func TestKeyBackup(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	alice.fails(404, "M_NOT_FOUND", "GET", "/room_keys/version", nil)
	auth := obj{"public_key": "abcdefg", "signatures": obj{}}
	create := obj{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": auth}
	ver := alice.ok("POST", "/room_keys/version", create).At("version").String()
	v := alice.ok("GET", "/room_keys/version", nil)
	same(t, "version", v.At("version"), ver)
	same(t, "count", v.At("count").Int(), 0)
	same(t, "auth_data", v.At("auth_data"), auth)
	etag := v.At("etag").String()
	session := func(first, forwarded int, verified bool, s string) obj {
		return obj{"first_message_index": first, "forwarded_count": forwarded, "is_verified": verified, "session_data": obj{"ciphertext": s}}
	}
	key := "/room_keys/keys/" + esc("!r:hs1") + "/" + esc("s+/1") + "?version=" + ver
	v = alice.ok("PUT", key, session(3, 0, false, "one"))
	same(t, "count", v.At("count").Int(), 1)
	if v.At("etag").String() == etag {
		t.Error("the etag stayed")
	}
	same(t, "session", alice.ok("GET", key, nil).At("session_data", "ciphertext"), "one")
	alice.ok("PUT", key, session(5, 0, false, "worse"))
	same(t, "kept", alice.ok("GET", key, nil).At("session_data", "ciphertext"), "one")
	alice.ok("PUT", key, session(1, 0, false, "better"))
	same(t, "replaced", alice.ok("GET", key, nil).At("session_data", "ciphertext"), "better")
	alice.ok("PUT", key, session(9, 0, true, "verified"))
	same(t, "verified wins", alice.ok("GET", key, nil).At("session_data", "ciphertext"), "verified")
	alice.ok("PUT", "/room_keys/keys?version="+ver, obj{"rooms": obj{"!b:hs1": obj{"sessions": obj{"x": session(0, 0, false, "x"), "y": session(0, 0, false, "y")}}}})
	alice.ok("PUT", "/room_keys/keys/"+esc("!c:hs1")+"?version="+ver, obj{"sessions": obj{"z": session(0, 0, false, "z")}})
	same(t, "all", len(alice.ok("GET", "/room_keys/keys?version="+ver, nil).At("rooms").Keys()), 3)
	same(t, "a room", len(alice.ok("GET", "/room_keys/keys/"+esc("!b:hs1")+"?version="+ver, nil).At("sessions").Keys()), 2)
	same(t, "count", alice.ok("DELETE", "/room_keys/keys/"+esc("!b:hs1")+"?version="+ver, nil).At("count").Int(), 2)
	same(t, "an empty room", alice.ok("GET", "/room_keys/keys/"+esc("!b:hs1")+"?version="+ver, nil).At("sessions"), obj{})
	alice.fails(404, "M_NOT_FOUND", "GET", "/room_keys/keys/"+esc("!b:hs1")+"/x?version="+ver, nil)

	alice.ok("PUT", "/room_keys/version/"+ver, obj{"algorithm": create["algorithm"], "auth_data": obj{"public_key": "abcdefg", "signatures": obj{"x": obj{}}}, "version": ver})
	alice.fails(400, "M_INVALID_PARAM", "PUT", "/room_keys/version/"+ver, obj{"algorithm": "m.other", "auth_data": auth, "version": ver})
	alice.fails(400, "M_INVALID_PARAM", "PUT", "/room_keys/version/"+ver, obj{"algorithm": create["algorithm"], "auth_data": auth, "version": "other"})
	ver2 := alice.ok("POST", "/room_keys/version", create).At("version").String()
	a := alice.fails(403, "M_WRONG_ROOM_KEYS_VERSION", "PUT", key, session(0, 0, true, "late"))
	same(t, "current_version", a.At("current_version"), ver2)
	alice.ok("DELETE", "/room_keys/version/"+ver2, nil)
	alice.fails(404, "M_NOT_FOUND", "GET", "/room_keys/version/"+ver2, nil)
	alice.fails(404, "M_NOT_FOUND", "GET", "/room_keys/version/nonsense", nil)
	alice.fails(404, "M_NOT_FOUND", "GET", "/room_keys/keys?version=12345", nil)
	bob.fails(404, "M_NOT_FOUND", "GET", "/room_keys/version/"+ver, nil)
	alice.fails(400, "M_BAD_JSON|M_MISSING_PARAM", "POST", "/room_keys/version", obj{"algorithm": 3, "auth_data": auth})
	alice.fails(400, "M_BAD_JSON|M_MISSING_PARAM", "POST", "/room_keys/version", obj{"algorithm": "x"})
}

func TestMedia(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	upload := func(name, ct string, b []byte) string {
		t.Helper()
		a := alice.send("POST", "/_matrix/media/v3/upload?filename="+url.QueryEscape(name), ct, bytes.NewReader(b))
		if a.status != 200 {
			t.Fatalf("upload: %d %s", a.status, a.body)
		}
		return strings.TrimPrefix(a.At("content_uri").String(), "mxc://")
	}
	const down = "/_matrix/client/v1/media/download/"
	data := []byte("some bytes \x00\xff")
	mxc := upload("a name.txt", "text/plain", data)
	a := bob.do("GET", down+mxc, nil)
	if a.status != 200 || !bytes.Equal(a.body, data) || a.header.Get("Content-Type") != "text/plain" {
		t.Errorf("download: %d %q %v", a.status, a.body, a.header)
	}
	for k, want := range map[string]string{"Content-Disposition": "a name.txt", "Content-Security-Policy": "sandbox", "Cross-Origin-Resource-Policy": "cross-origin", "Access-Control-Allow-Origin": "*"} {
		if !strings.Contains(a.header.Get(k), want) {
			t.Errorf("%s: %q", k, a.header.Get(k))
		}
	}
	if a := bob.do("GET", down+mxc+"/other.txt", nil); !strings.Contains(a.header.Get("Content-Disposition"), "other.txt") {
		t.Errorf("file name: %v", a.header)
	}
	mxc = upload("ünïcode ☕.bin", "application/octet-stream", data)
	if cd := bob.do("GET", down+mxc, nil).header.Get("Content-Disposition"); !strings.HasPrefix(cd, "attachment") || !strings.Contains(cd, "filename*=utf-8''%C3%BCn%C3%AFcode") {
		t.Errorf("file name: %q", cd)
	}
	if a := bob.do("GET", down+upload("x.html", "text/html", data), nil); !strings.HasPrefix(a.header.Get("Content-Disposition"), "attachment") {
		t.Errorf("HTML is shown: %v", a.header)
	}
	upload("empty", "text/plain", nil)
	nobody(t).fails(401, "M_MISSING_TOKEN", "GET", down+mxc, nil)
	bob.fails(404, "M_NOT_FOUND", "GET", down+"hs1/nothing", nil)
	if a := bob.do("GET", down+"elsewhere.invalid/x", nil); a.status != 404 && a.status != 502 && a.status != 504 {
		t.Errorf("media of another server: %d", a.status)
	}
	if a := bob.send("POST", "/_matrix/media/v3/upload", "text/plain", io.LimitReader(zeros{}, 1<<30)); a.status != 413 {
		t.Errorf("too large: %d %.100s", a.status, a.body)
	}
	v := bob.ok("GET", "/_matrix/client/v1/media/config", nil)
	if v.At("m.upload.size").Int() <= 0 {
		t.Errorf("config: %s", v.Text())
	}
	// Thumbnails.
	img := image.NewRGBA(image.Rect(0, 0, 400, 200))
	for i := range img.Pix {
		img.Pix[i] = byte(i)
	}
	img.Set(0, 0, color.White)
	var buf bytes.Buffer
	png.Encode(&buf, img)
	mxc = upload("i.png", "image/png", buf.Bytes())
	for _, c := range []struct {
		query string
		w, h  int
	}{{"width=32&height=32&method=scale", 0, 0}, {"width=32&height=32&method=crop", 0, 0}, {"width=2000&height=2000", 0, 0}} {
		a := bob.do("GET", "/_matrix/client/v1/media/thumbnail/"+mxc+"?"+c.query, nil)
		if _, _, err := image.DecodeConfig(bytes.NewReader(a.body)); a.status != 200 || err != nil && !strings.HasPrefix(a.header.Get("Content-Type"), "image/") {
			t.Errorf("thumbnail %s: %d %v", c.query, a.status, err)
		}
	}
	for _, q := range []string{"width=x&height=1", "width=0&height=0", "width=-1&height=5", "", "width=1&height=1&method=x"} {
		if a := bob.do("GET", "/_matrix/client/v1/media/thumbnail/"+mxc+"?"+q, nil); a.status != 400 {
			t.Errorf("thumbnail %q: %d", q, a.status)
		}
	}
	// Created first, uploaded later.
	v = alice.ok("POST", "/_matrix/media/v1/create", nil)
	id := strings.TrimPrefix(v.At("content_uri").String(), "mxc://")
	bob.fails(504, "M_NOT_YET_UPLOADED", "GET", down+id+"?timeout_ms=10", nil)
	bob.fails(403, "M_FORBIDDEN", "PUT", "/_matrix/media/v3/upload/"+id, obj{})
	alice.ok("PUT", "/_matrix/media/v3/upload/"+id, obj{"now": "here"})
	same(t, "uploaded", bob.ok("GET", down+id, nil), obj{"now": "here"})
	alice.fails(409, "M_CANNOT_OVERWRITE_MEDIA", "PUT", "/_matrix/media/v3/upload/"+id, obj{})
	if a := alice.do("PUT", "/_matrix/media/v3/upload/hs1/nothing", obj{}); a.status != 404 && a.status != 403 {
		t.Errorf("upload to nothing: %d", a.status)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestDelayedEvents(t *testing.T) {
	t.Parallel()
	alice, bob := newUsers(t)
	id := alice.public(bob)
	const delayed = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
	path := room(id) + "/send/m.room.message/"
	d := alice.ok("PUT", path+unique("t")+"?org.matrix.msc4140.delay=60000", obj{"msgtype": "m.text", "body": "later"}).At("delay_id").String()
	alice.ok("POST", delayed+"/"+d, obj{"action": "restart"})
	bob.sync()
	alice.ok("POST", delayed+"/"+d, obj{"action": "send"})
	same(t, "sent", bodies(bob.until("it", func(v Value) bool { return v.At("rooms", "join", id).V != nil }).At("rooms", "join", id, "timeline", "events")), list{"later"})
	d = alice.ok("PUT", room(id)+"/state/com.example/k?org.matrix.msc4140.delay=60000", obj{"n": 1}).At("delay_id").String()
	alice.ok("POST", delayed+"/"+d, obj{"action": "cancel"})
	alice.fails(404, "M_NOT_FOUND", "GET", room(id)+"/state/com.example/k", nil)
	alice.ok("PUT", path+unique("t")+"?org.matrix.msc4140.delay=300", obj{"msgtype": "m.text", "body": "soon"})
	bob.until("the delayed one", func(v Value) bool {
		got := bodies(v.At("rooms", "join", id, "timeline", "events"))
		return len(got) == 1 && got[0] == "soon"
	})
	if a := alice.do("POST", delayed+"/nothing", obj{"action": "send"}); a.status != 404 {
		t.Errorf("no such event: %d %s", a.status, a.body)
	}
	alice.ok("GET", delayed, nil)
	// Its sender knows it by the delay_id; a transaction ID nobody has sent.
	d = alice.ok("PUT", path+unique("t")+"?org.matrix.msc4140.delay=60000", obj{"msgtype": "m.text", "body": "mine"}).At("delay_id").String()
	alice.ok("POST", delayed+"/"+d+"/send", nil)
	e := alice.ok("GET", room(id)+"/messages?dir=b&limit=1", nil).At("chunk", "0", "unsigned")
	same(t, "delay_id", e.At("org.matrix.msc4140.delay_id"), d)
	same(t, "transaction_id", e.Exists("transaction_id"), false)
	same(t, "for others", bob.ok("GET", room(id)+"/messages?dir=b&limit=1", nil).At("chunk", "0", "unsigned").Exists("org.matrix.msc4140.delay_id"), false)
	for _, name := range []string{"m.delayed_events", "org.matrix.msc4140.delayed_events"} {
		most := alice.ok("GET", "/capabilities", nil).At("capabilities", name)
		if most.At("max_scheduled").Int() <= 0 || most.At("max_delay_ms").Int() < 24*3600*1000 {
			t.Errorf("capability: %s", most.Text())
		}
		alice.fails(403, "M_FORBIDDEN", "PUT", room(id)+"/delayed_event/m.room.message/"+unique("t"),
			obj{"delay_ms": most.At("max_delay_ms").Int() + 1, "content": obj{}})
	}
	for _, bad := range []string{"x", "-1"} {
		if a := alice.do("PUT", path+unique("t")+"?org.matrix.msc4140.delay="+bad, obj{}); a.status != 400 {
			t.Errorf("delay %s: %d", bad, a.status)
		}
	}
}
