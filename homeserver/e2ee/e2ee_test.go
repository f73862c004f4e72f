package e2ee_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"

	"holdfast/homeserver/apitest"
	"holdfast/homeserver/devices"
	"holdfast/homeserver/e2ee"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/notify"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/route"
	"holdfast/homeserver/todevice"
	"holdfast/store"
)

type world struct {
	*apitest.API
	t       testing.TB
	db      *store.DB
	e       *e2ee.Service
	devices *devices.Service
	rooms   apitest.Rooms
	asked   int    // how often a confirmation was asked for
	refuse  bool   // whether it is refused
	asking  func() // what happens while a confirmation is asked for
}

func setup(t testing.TB) *world {
	w := &world{t: t, db: apitest.DB(t), rooms: apitest.Rooms{}}
	w.devices = devices.New(devices.Options{DB: w.db})
	td := todevice.New(todevice.Options{DB: w.db, Devices: w.devices})
	w.e = e2ee.New(e2ee.Options{DB: w.db, ServerName: apitest.Server, Rooms: w.rooms, Devices: w.devices, Messages: td,
		ConfirmReset: func(context.Context, *route.Request) error {
			w.asked++
			if w.asking != nil {
				w.asking()
			}
			if w.refuse {
				return &mx.Error{Status: http.StatusUnauthorized, Fields: map[string]any{"flows": []any{}}}
			}
			return nil
		}})
	w.devices.OnDelete(w.e.DeviceDeleted)
	w.devices.OnDelete(td.DeviceDeleted)
	w.devices.OnRename(w.e.Renamed)
	w.API = apitest.New(t, w.e.Routes(), w.devices.Routes(), td.Routes())
	return w
}

// login adds a device and gives its client.
func (w *world) login(localpart, device string) *apitest.Client {
	w.t.Helper()
	c := w.As(localpart, device)
	w.write(func(tx *store.Tx) error { return w.devices.Upsert(tx, c.UserID, device, device+" of "+localpart) })
	return c
}

func (w *world) write(f func(tx *store.Tx) error) {
	w.t.Helper()
	if err := w.db.Write(context.Background(), f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) join(room, localpart string)  { w.member(room, localpart, true) }
func (w *world) leave(room, localpart string) { w.member(room, localpart, false) }

func (w *world) member(room, localpart string, joined bool) {
	w.t.Helper()
	id := mx.UserID(localpart, apitest.Server)
	w.write(func(tx *store.Tx) error { return w.e.Membership(tx, room, id, joined, tx.NextPos()) })
	if joined {
		w.rooms[room] = append(w.rooms[room], id)
	} else {
		w.rooms[room] = slices.DeleteFunc(slices.Clone(w.rooms[room]), func(s string) bool { return s == id })
	}
}

// changes are ListChanges since a position, sorted.
func (w *world) changes(c *apitest.Client, from int64) (changed, left []string) {
	w.t.Helper()
	err := w.db.Read(context.Background(), func(q store.Querier) (err error) {
		changed, left, err = w.e.ListChanges(q, c.UserID, from, w.db.Pos())
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	slices.Sort(changed)
	slices.Sort(left)
	return changed, left
}

func (w *world) wantChanges(c *apitest.Client, from int64, changed, left []string) {
	w.t.Helper()
	gotC, gotL := w.changes(c, from)
	if !slices.Equal(gotC, changed) || !slices.Equal(gotL, left) {
		w.t.Fatalf("%s: changed %v left %v, want %v and %v", c.UserID, gotC, gotL, changed, left)
	}
}

func (w *world) counts(c *apitest.Client, device string) (map[string]int, []string) {
	w.t.Helper()
	var otk map[string]int
	var fallback []string
	err := w.db.Read(context.Background(), func(q store.Querier) (err error) {
		otk, fallback, err = w.e.Counts(q, c.UserID, device)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return otk, fallback
}

// key is an ed25519 key pair with its name in base64.
type key struct {
	priv ed25519.PrivateKey
	pub  string
}

func newKey() key {
	pub, priv, _ := ed25519.GenerateKey(rand.Reader)
	return key{priv, pdu.Base64(pub)}
}

type object = map[string]any

// sign adds a signature of user's key named id ("ed25519:...") to an object.
func sign(t testing.TB, o object, user, id string, k key) object {
	t.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	b, err = pdu.SignJSON(b, pdu.SigningKey{ID: id, Server: user, Private: k.priv})
	if err != nil {
		t.Fatal(err)
	}
	var out object
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func deviceKeys(t testing.TB, user, device string, k key) object {
	return sign(t, object{
		"user_id": user, "device_id": device, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys": object{"ed25519:" + device: k.pub, "curve25519:" + device: newKey().pub},
	}, user, "ed25519:"+device, k)
}

func crossKey(user, usage string, k key) object {
	return object{"user_id": user, "usage": []string{usage}, "keys": object{"ed25519:" + k.pub: k.pub}}
}

const uploadPath = "/_matrix/client/v3/keys/upload"
const queryPath = "/_matrix/client/v3/keys/query"
const claimPath = "/_matrix/client/v3/keys/claim"
const crossPath = "/_matrix/client/v3/keys/device_signing/upload"
const signaturesPath = "/_matrix/client/v3/keys/signatures/upload"

type queried struct {
	DeviceKeys  map[string]map[string]object `json:"device_keys"`
	Master      map[string]object            `json:"master_keys"`
	SelfSigning map[string]object            `json:"self_signing_keys"`
	UserSigning map[string]object            `json:"user_signing_keys"`
	Failures    map[string]any               `json:"failures"`
}

func query(c *apitest.Client, users ...string) (out queried) {
	ask := object{}
	for _, u := range users {
		ask[u] = []string{}
	}
	c.OK("POST", queryPath, object{"device_keys": ask}, &out)
	return out
}

func TestUploadRefusesWhatIsWrong(t *testing.T) {
	w := setup(t)
	alice := w.login("alice", "A")
	k := newKey()
	for name, body := range map[string]any{
		"null":         `{"device_keys": null}`,
		"string":       `{"device_keys": "x"}`,
		"other user":   object{"device_keys": deviceKeys(t, "@bob:example.org", "A", k)},
		"other device": object{"device_keys": deviceKeys(t, alice.UserID, "B", k)},
		"no algorithm": object{"one_time_keys": object{"AAAA": "x"}},
		"number":       object{"one_time_keys": object{"signed_curve25519:A": 1}},
		"two of a kind": object{"fallback_keys": object{
			"signed_curve25519:A": object{"key": "a"}, "signed_curve25519:B": object{"key": "b"}}},
	} {
		if a := alice.Do("POST", uploadPath, body); a.Status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	if got := query(alice, alice.UserID); len(got.DeviceKeys[alice.UserID]) != 0 {
		t.Error("something was stored:", got)
	}
}

func TestOneTimeKeysAreClaimedOnceInOrder(t *testing.T) {
	w := setup(t)
	alice, bob := w.login("alice", "A"), w.login("bob", "B")
	otk := func(n int) object {
		return object{fmt.Sprintf("signed_curve25519:K%02d", n): object{"key": fmt.Sprint("key", n)}}
	}
	var up struct {
		Counts map[string]int `json:"one_time_key_counts"`
	}
	alice.OK("POST", uploadPath, object{}, &up)
	if n, ok := up.Counts["signed_curve25519"]; !ok || n != 0 {
		t.Fatal("a device without keys has to hear 0:", up)
	}
	for _, n := range []int{7, 3, 9, 1} { // IDs out of order on purpose
		alice.OK("POST", uploadPath, object{"one_time_keys": otk(n)}, &up)
	}
	if up.Counts["signed_curve25519"] != 4 {
		t.Fatal(up)
	}
	alice.OK("POST", uploadPath, object{"one_time_keys": otk(9)}, &up) // the same again is fine
	alice.Fails("POST", uploadPath, object{"one_time_keys": object{"signed_curve25519:K09": object{"key": "other"}}}, 400, mx.Unknown)
	alice.OK("POST", uploadPath, object{"fallback_keys": object{"signed_curve25519:F": object{"key": "f", "fallback": true}}}, &up)
	if _, fallback := w.counts(alice, "A"); !slices.Equal(fallback, []string{"signed_curve25519"}) {
		t.Fatal("unused fallback key:", fallback)
	}
	pos := w.db.Pos()
	claim := func() string {
		var got struct {
			Keys map[string]map[string]map[string]any `json:"one_time_keys"`
		}
		bob.OK("POST", claimPath, object{"one_time_keys": object{alice.UserID: object{"A": "signed_curve25519"}}}, &got)
		for id := range got.Keys[alice.UserID]["A"] {
			return id
		}
		return ""
	}
	for _, want := range []string{"K07", "K03", "K09", "K01", "F", "F"} {
		if got := claim(); got != "signed_curve25519:"+want {
			t.Fatalf("claimed %s, want %s", got, want)
		}
	}
	otks, fallback := w.counts(alice, "A")
	if otks["signed_curve25519"] != 0 || fallback == nil || len(fallback) != 0 {
		t.Fatal("after all were claimed:", otks, fallback)
	}
	if w.db.Pos() == pos {
		t.Fatal("a claim must take a position, so that the device hears of it")
	}
	// The used key again does not make it unused; a new one does.
	alice.OK("POST", uploadPath, object{"fallback_keys": object{"signed_curve25519:F": object{"key": "f", "fallback": true}}}, nil)
	if _, fallback := w.counts(alice, "A"); len(fallback) != 0 {
		t.Fatal("a used fallback key came back as unused")
	}
	alice.OK("POST", uploadPath, object{"fallback_keys": object{"signed_curve25519:G": object{"key": "g", "fallback": true}}}, nil)
	if _, fallback := w.counts(alice, "A"); len(fallback) != 1 {
		t.Fatal("a new fallback key is not unused")
	}
	var got struct {
		Failures map[string]any `json:"failures"`
	}
	bob.OK("POST", claimPath, object{"one_time_keys": object{"@eve:far.example": object{"A": "signed_curve25519"}}}, &got)
	if _, ok := got.Failures["far.example"]; !ok {
		t.Fatal("an unreachable server must be among the failures")
	}
}

func TestClaimsAtTheSameTimeNeverShareAKey(t *testing.T) {
	w := setup(t)
	alice := w.login("alice", "A")
	keys := object{}
	for i := range 40 {
		keys[fmt.Sprintf("signed_curve25519:K%d", i)] = object{"key": fmt.Sprint(i)}
	}
	alice.OK("POST", uploadPath, object{"one_time_keys": keys}, nil)
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c := w.As(fmt.Sprint("u", i), "D")
			for range 6 {
				var got struct {
					Keys map[string]map[string]map[string]any `json:"one_time_keys"`
				}
				a := c.Do("POST", claimPath, object{"one_time_keys": object{alice.UserID: object{"A": "signed_curve25519"}}})
				json.Unmarshal(a.Body, &got)
				mu.Lock()
				for id := range got.Keys[alice.UserID]["A"] {
					seen[id]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s was given %d times", id, n)
		}
	}
	if len(seen) != 40 {
		t.Errorf("%d of 40 keys were given", len(seen))
	}
}

func TestCountsKeepUpWithTheirCache(t *testing.T) {
	w := setup(t)
	alice := w.login("alice", "A")
	if otk, _ := w.counts(alice, "A"); otk["signed_curve25519"] != 0 {
		t.Fatal(otk)
	}
	alice.OK("POST", uploadPath, object{"one_time_keys": object{"signed_curve25519:a": object{"key": "a"}}}, nil)
	if otk, _ := w.counts(alice, "A"); otk["signed_curve25519"] != 1 {
		t.Fatal(otk)
	}
	// A write that fails must not be seen.
	alice.Do("POST", uploadPath, object{"one_time_keys": object{"signed_curve25519:b": object{"key": "b"}, "signed_curve25519:a": object{"key": "x"}}})
	if otk, _ := w.counts(alice, "A"); otk["signed_curve25519"] != 1 {
		t.Fatal("after a refused upload:", otk)
	}
	w.write(func(tx *store.Tx) error { return w.devices.Delete(tx, alice.UserID, "A") })
	if otk, _ := w.counts(alice, "A"); otk["signed_curve25519"] != 0 {
		t.Fatal("after the device went:", otk)
	}
}

func TestQueryShowsWhatTheAskerMaySee(t *testing.T) {
	w := setup(t)
	alice, bob := w.login("alice", "A"), w.login("bob", "B")
	device, master, self, user := newKey(), newKey(), newKey(), newKey()
	alice.OK("POST", uploadPath, object{"device_keys": deviceKeys(t, alice.UserID, "A", device)}, nil)
	signed := func(usage string, k key) object {
		return sign(t, crossKey(alice.UserID, usage, k), alice.UserID, "ed25519:"+master.pub, master)
	}
	alice.OK("POST", crossPath, object{
		"master_key": crossKey(alice.UserID, "master", master), "self_signing_key": signed("self_signing", self), "user_signing_key": signed("user_signing", user),
	}, nil)
	got := query(bob, alice.UserID, "@nobody:example.org", "@x:far.example")
	d := got.DeviceKeys[alice.UserID]["A"]
	if d == nil || d["unsigned"].(object)["device_display_name"] != "A of alice" {
		t.Fatal("device:", d)
	}
	if d["keys"].(object)["ed25519:A"] != device.pub || d["signatures"].(object)[alice.UserID].(object)["ed25519:A"] == nil {
		t.Fatal("the keys are not those uploaded:", d)
	}
	if got.Master[alice.UserID] == nil || got.SelfSigning[alice.UserID] == nil {
		t.Fatal("bob needs alice's master and self-signing key:", got)
	}
	if len(got.UserSigning) != 0 {
		t.Fatal("a user-signing key is for its user only")
	}
	if _, ok := got.Failures["far.example"]; !ok {
		t.Fatal("failures:", got.Failures)
	}
	if got := query(alice, alice.UserID); got.UserSigning[alice.UserID] == nil {
		t.Fatal("alice must see her own user-signing key")
	}
	bob.Fails("POST", queryPath, `{"device_keys": {"@alice:example.org": {"A": true}}}`, 400, mx.BadJSON)
	bob.Fails("POST", queryPath, `{}`, 400, mx.MissingParam)
	var one queried
	bob.OK("POST", queryPath, object{"device_keys": object{alice.UserID: []string{"NONE"}}}, &one)
	if len(one.DeviceKeys[alice.UserID]) != 0 {
		t.Fatal("only named devices may be answered")
	}
}

func TestCrossSigningUpload(t *testing.T) {
	w := setup(t)
	alice := w.login("alice", "A")
	master, self, other := newKey(), newKey(), newKey()
	selfKey := sign(t, crossKey(alice.UserID, "self_signing", self), alice.UserID, "ed25519:"+master.pub, master)

	alice.Fails("POST", crossPath, object{"self_signing_key": selfKey}, 400, mx.MissingParam)
	alice.Fails("POST", crossPath, object{"master_key": crossKey("@bob:example.org", "master", master)}, 400, mx.InvalidParam)
	alice.Fails("POST", crossPath, object{"master_key": crossKey(alice.UserID, "self_signing", master)}, 400, mx.InvalidParam)
	forged := sign(t, crossKey(alice.UserID, "self_signing", self), alice.UserID, "ed25519:"+master.pub, other)
	alice.Fails("POST", crossPath, object{"master_key": crossKey(alice.UserID, "master", master), "self_signing_key": forged}, 400, mx.InvalidSignature)
	alice.Fails("POST", crossPath, object{"master_key": crossKey(alice.UserID, "master", master), "self_signing_key": crossKey(alice.UserID, "self_signing", self)}, 400, mx.InvalidSignature)

	w.refuse = true // whoever is asked is refused: the first upload must not ask
	alice.OK("POST", crossPath, object{"master_key": crossKey(alice.UserID, "master", master), "self_signing_key": selfKey}, nil)
	pos := w.db.Pos()
	alice.OK("POST", crossPath, object{"master_key": crossKey(alice.UserID, "master", master), "self_signing_key": selfKey}, nil)
	if w.asked != 0 || w.db.Pos() != pos {
		t.Fatal("the same keys again change nothing and need no confirmation")
	}
	if a := alice.Do("POST", crossPath, object{"master_key": crossKey(alice.UserID, "master", other)}); a.Status != 401 || w.asked != 1 {
		t.Fatalf("replacing the keys must be confirmed: %d %s", a.Status, a.Body)
	}
	if got := query(alice, alice.UserID); got.Master[alice.UserID]["keys"].(object)["ed25519:"+master.pub] == nil {
		t.Fatal("the keys were replaced without confirmation")
	}
	w.refuse = false
	alice.OK("POST", crossPath, object{"master_key": crossKey(alice.UserID, "master", other)}, nil)
	got := query(alice, alice.UserID)
	if got.Master[alice.UserID]["keys"].(object)["ed25519:"+other.pub] == nil || len(got.SelfSigning) != 0 {
		t.Fatal("a new master key replaces the old one, and those it signed go:", got)
	}
	w.refuse = true
	as := w.AsAppservice("alice", "A", "bridge")
	as.OK("POST", crossPath, object{"master_key": crossKey(alice.UserID, "master", newKey())}, nil)
}

func TestSignatureUploadsAreVerified(t *testing.T) {
	w := setup(t)
	alice, bob := w.login("alice", "A"), w.login("bob", "B")
	w.join("!r", "alice")
	w.join("!r", "bob")
	type user struct {
		id, device                string
		dev, master, self, signer key
		deviceKeys                object
	}
	make := func(c *apitest.Client, device string) user {
		u := user{c.UserID, device, newKey(), newKey(), newKey(), newKey(), nil}
		u.deviceKeys = deviceKeys(t, u.id, device, u.dev)
		c.OK("POST", uploadPath, object{"device_keys": u.deviceKeys}, nil)
		by := func(usage string, k key) object {
			return sign(t, crossKey(u.id, usage, k), u.id, "ed25519:"+u.master.pub, u.master)
		}
		c.OK("POST", crossPath, object{"master_key": crossKey(u.id, "master", u.master), "self_signing_key": by("self_signing", u.self), "user_signing_key": by("user_signing", u.signer)}, nil)
		return u
	}
	a, b := make(alice, "A"), make(bob, "B")
	send := func(c *apitest.Client, user, target string, o object) map[string]map[string]struct {
		Code mx.Code `json:"errcode"`
	} {
		var out struct {
			Failures map[string]map[string]struct {
				Code mx.Code `json:"errcode"`
			} `json:"failures"`
		}
		c.OK("POST", signaturesPath, object{user: object{target: o}}, &out)
		return out.Failures
	}
	refused := func(name string, c *apitest.Client, user, target string, o object, code mx.Code) {
		t.Helper()
		pos := w.db.Pos()
		if got := send(c, user, target, o)[user][target].Code; got != code {
			t.Errorf("%s: got %q, want %s", name, got, code)
		}
		if w.db.Pos() != pos {
			t.Errorf("%s: something changed", name)
		}
	}
	bobMaster := crossKey(b.id, "master", b.master)
	tampered := func(o object) object {
		c := object{}
		for k, v := range o {
			c[k] = v
		}
		c["algorithms"] = []string{"evil"}
		return c
	}
	bare := func(o object) object {
		c := object{}
		for k, v := range o {
			if k != "signatures" {
				c[k] = v
			}
		}
		return c
	}
	refused("a wrong key's signature", alice, b.id, b.master.pub, sign(t, bobMaster, a.id, "ed25519:"+a.signer.pub, newKey()), mx.InvalidSignature)
	refused("self-signing key on another's master", alice, b.id, b.master.pub, sign(t, bobMaster, a.id, "ed25519:"+a.self.pub, a.self), mx.InvalidSignature)
	refused("user-signing key on another's device", alice, b.id, "B", sign(t, b.deviceKeys, a.id, "ed25519:"+a.signer.pub, a.signer), mx.InvalidSignature)
	refused("no signature by the sender", alice, b.id, b.master.pub, sign(t, bobMaster, b.id, "ed25519:"+b.self.pub, b.self), mx.InvalidSignature)
	refused("in another's name", bob, a.id, "A", sign(t, a.deviceKeys, b.id, "ed25519:"+a.self.pub, a.self), mx.InvalidSignature)
	refused("changed object", alice, a.id, "A", sign(t, tampered(bare(a.deviceKeys)), a.id, "ed25519:"+a.self.pub, a.self), mx.InvalidSignature)
	refused("unknown device", alice, a.id, "NONE", sign(t, a.deviceKeys, a.id, "ed25519:"+a.self.pub, a.self), mx.NotFound)
	refused("unknown master", alice, b.id, newKey().pub, sign(t, bobMaster, a.id, "ed25519:"+a.signer.pub, a.signer), mx.NotFound)
	refused("no object", alice, a.id, "A", object{"signatures": "x"}, mx.InvalidParam)

	// One good and one bad in a request: each is judged alone.
	from := w.db.Pos()
	var out struct {
		Failures map[string]map[string]any `json:"failures"`
	}
	alice.OK("POST", signaturesPath, object{a.id: object{
		"A":          sign(t, a.deviceKeys, a.id, "ed25519:"+a.self.pub, a.self),
		a.master.pub: sign(t, crossKey(a.id, "master", a.master), a.id, "ed25519:A", newKey()),
	}}, &out)
	if len(out.Failures[a.id]) != 1 || out.Failures[a.id][a.master.pub] == nil {
		t.Fatal("failures:", out.Failures)
	}
	d := query(bob, a.id).DeviceKeys[a.id]["A"]["signatures"].(object)[a.id].(object)
	if d["ed25519:"+a.self.pub] == nil || d["ed25519:A"] == nil {
		t.Fatal("the signatures are not merged:", d)
	}
	w.wantChanges(bob, from, []string{a.id}, nil)

	// Alice's device vouches for her master key.
	if f := send(alice, a.id, a.master.pub, sign(t, crossKey(a.id, "master", a.master), a.id, "ed25519:A", a.dev)); len(f) != 0 {
		t.Fatal(f)
	}
	if sigs := query(bob, a.id).Master[a.id]["signatures"].(object)[a.id].(object); sigs["ed25519:A"] == nil {
		t.Fatal("the device's signature on the master key is missing")
	}
	// Alice verifies bob: she alone sees it and hears of it.
	from = w.db.Pos()
	if f := send(alice, b.id, b.master.pub, sign(t, bobMaster, a.id, "ed25519:"+a.signer.pub, a.signer)); len(f) != 0 {
		t.Fatal(f)
	}
	if sigs, _ := query(alice, b.id).Master[b.id]["signatures"].(object); sigs[a.id] == nil {
		t.Fatal("alice does not see her signature on bob's key")
	}
	if sigs, _ := query(bob, b.id).Master[b.id]["signatures"].(object); sigs[a.id] != nil {
		t.Fatal("bob sees alice's signature")
	}
	w.wantChanges(alice, from, []string{b.id}, nil)
	w.wantChanges(bob, from, nil, nil)

	// New device keys: what was signed was the old ones.
	alice.OK("POST", uploadPath, object{"device_keys": deviceKeys(t, a.id, "A", newKey())}, nil)
	d = query(bob, a.id).DeviceKeys[a.id]["A"]["signatures"].(object)[a.id].(object)
	if d["ed25519:"+a.self.pub] != nil {
		t.Fatal("the signature on the old keys stands under the new ones")
	}
}

func TestUploadedDeviceKeysCannotBringForgedSignatures(t *testing.T) {
	w := setup(t)
	alice := w.login("alice", "A")
	master, self, dev := newKey(), newKey(), newKey()
	alice.OK("POST", crossPath, object{"master_key": crossKey(alice.UserID, "master", master),
		"self_signing_key": sign(t, crossKey(alice.UserID, "self_signing", self), alice.UserID, "ed25519:"+master.pub, master)}, nil)
	keys := deviceKeys(t, alice.UserID, "A", dev)
	id := "ed25519:" + self.pub
	alice.OK("POST", uploadPath, object{"device_keys": sign(t, keys, alice.UserID, id, newKey())}, nil)
	if s := query(alice, alice.UserID).DeviceKeys[alice.UserID]["A"]["signatures"].(object)[alice.UserID].(object); s[id] != nil {
		t.Fatal("a forged self-signing signature was stored")
	}
	alice.OK("POST", uploadPath, object{"device_keys": sign(t, keys, alice.UserID, id, self)}, nil)
	if s := query(alice, alice.UserID).DeviceKeys[alice.UserID]["A"]["signatures"].(object)[alice.UserID].(object); s[id] == nil {
		t.Fatal("a good self-signing signature was dropped")
	}
}

func TestListChanges(t *testing.T) {
	w := setup(t)
	alice, bob, carol := w.login("alice", "A"), w.login("bob", "B"), w.login("carol", "C")
	w.join("!one", "alice")
	w.join("!one", "bob")

	from := w.db.Pos()
	dev := newKey()
	keys := deviceKeys(t, bob.UserID, "B", dev)
	bob.OK("POST", uploadPath, object{"device_keys": keys}, nil)
	w.wantChanges(alice, from, []string{bob.UserID}, nil)
	w.wantChanges(bob, from, []string{bob.UserID}, nil) // one's other devices
	w.wantChanges(carol, from, nil, nil)
	w.wantChanges(alice, 0, nil, nil)

	from = w.db.Pos()
	bob.OK("POST", uploadPath, object{"device_keys": keys}, nil)
	w.wantChanges(alice, from, nil, nil) // nothing changed

	w.join("!one", "carol")
	w.wantChanges(alice, from, []string{carol.UserID}, nil)
	w.wantChanges(carol, from, []string{alice.UserID, bob.UserID}, nil)

	from = w.db.Pos()
	w.write(func(tx *store.Tx) error { // a changed profile is a join again
		return w.e.Membership(tx, "!one", carol.UserID, true, tx.NextPos())
	})
	w.wantChanges(alice, from, nil, nil)
	w.join("!two", "alice")
	w.join("!two", "bob")
	w.wantChanges(alice, from, nil, nil) // they shared a room all the time

	from = w.db.Pos()
	w.leave("!one", "carol")
	w.wantChanges(alice, from, nil, []string{carol.UserID})
	w.wantChanges(carol, from, nil, []string{alice.UserID, bob.UserID})
	w.leave("!one", "bob")
	w.wantChanges(alice, from, nil, []string{carol.UserID}) // bob is still in !two

	from = w.db.Pos()
	w.leave("!two", "bob")
	w.leave("!two", "alice")
	w.wantChanges(alice, from, nil, []string{bob.UserID})
	w.wantChanges(bob, from, nil, []string{alice.UserID})

	w.join("!three", "alice")
	w.join("!three", "bob")
	from = w.db.Pos()
	bob.OK("PUT", "/_matrix/client/v3/devices/B", object{"display_name": "new"}, nil)
	w.wantChanges(alice, from, []string{bob.UserID}, nil)
	from = w.db.Pos()
	w.write(func(tx *store.Tx) error { return w.devices.Delete(tx, bob.UserID, "B") })
	w.wantChanges(alice, from, []string{bob.UserID}, nil)
	if got := query(alice, bob.UserID); len(got.DeviceKeys[bob.UserID]) != 0 {
		t.Fatal("the keys of a deleted device are still there")
	}
	var got struct{ Changed, Left []string }
	alice.OK("GET", fmt.Sprintf("/_matrix/client/v3/keys/changes?from=s%d&to=s%d", from, w.db.Pos()), nil, &got)
	if !slices.Equal(got.Changed, []string{bob.UserID}) || got.Left == nil {
		t.Fatal(got)
	}
	alice.Fails("GET", "/_matrix/client/v3/keys/changes?from=nonsense&to=s1", nil, 400, mx.InvalidParam)
	alice.Fails("GET", "/_matrix/client/v3/keys/changes?from=s1", nil, 400, mx.MissingParam)
}

func TestChangesWakeThoseWhoWait(t *testing.T) {
	w := setup(t)
	alice, bob := w.login("alice", "A"), w.login("bob", "B")
	var mu sync.Mutex
	var got []store.Touch
	w.db.OnCommit(func(_ int64, touched []store.Touch) {
		mu.Lock()
		got = append(got, touched...)
		mu.Unlock()
	})
	want := func(kind, key string) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if !slices.ContainsFunc(got, func(x store.Touch) bool { return x.Kind == kind && x.Key == key }) {
			t.Fatalf("no touch of %s %s in %v", kind, key, got)
		}
		got = nil
	}
	alice.OK("POST", uploadPath, object{"device_keys": deviceKeys(t, alice.UserID, "A", newKey())}, nil)
	want(notify.DevList, alice.UserID)
	alice.OK("POST", uploadPath, object{"one_time_keys": object{"signed_curve25519:a": object{"key": "a"}}}, nil)
	want(notify.Device, notify.DeviceKey(alice.UserID, "A"))
	bob.OK("POST", claimPath, object{"one_time_keys": object{alice.UserID: object{"A": "signed_curve25519"}}}, nil)
	want(notify.Device, notify.DeviceKey(alice.UserID, "A"))
}
