package e2ee_test

import (
	"fmt"
	"testing"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
	"holdfast/store"
)

func strs(v hstest.Value) (out []string) {
	for _, x := range v.List() {
		out = append(out, x.String())
	}
	return out
}

func TestDeviceListsThroughSync(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(object{"preset": "public_chat"})
	alice.Sync()
	bob.Sync()

	v := alice.Woken(func() { bob.Join(room) })
	if got := strs(v.At("device_lists", "changed")); len(got) != 1 || got[0] != bob.UserID {
		t.Fatalf("alice shares a room with bob now: %s", v.At("device_lists").Text())
	}
	if got := strs(bob.Sync().At("device_lists", "changed")); len(got) != 1 || got[0] != alice.UserID {
		t.Fatal("bob shares a room with alice now:", got)
	}
	upload := func() {
		bob.Must("POST", "/keys/upload", object{"device_keys": deviceKeys(t, bob.UserID, bob.DeviceID, newKey())})
	}
	v = alice.Woken(upload)
	if got := strs(v.At("device_lists", "changed")); len(got) != 1 || got[0] != bob.UserID {
		t.Fatalf("bob's keys changed: %s", v.Text())
	}
	before := alice.Since
	if got := strs(alice.Sync().At("device_lists", "changed")); len(got) != 0 {
		t.Fatal("told twice:", got)
	}
	upload()
	got := alice.Must("GET", "/keys/changes?from="+before+"&to="+alice.Sync().At("next_batch").String(), nil)
	if c := strs(got.At("changed")); len(c) != 1 || c[0] != bob.UserID {
		t.Fatal(got.Text())
	}
	v = alice.Woken(func() { bob.Leave(room) })
	if got := strs(v.At("device_lists", "left")); len(got) != 1 || got[0] != bob.UserID {
		t.Fatalf("they share no room any more: %s", v.At("device_lists").Text())
	}
	if got := strs(bob.Sync().At("device_lists", "left")); len(got) != 1 || got[0] != alice.UserID {
		t.Fatal(got)
	}
	since := alice.Since
	upload()
	if got := strs(alice.SyncFrom(since).At("device_lists", "changed")); len(got) != 0 {
		t.Fatal("alice hears of somebody she shares nothing with:", got)
	}
}

func TestKeyCountsThroughSync(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	check := func(v hstest.Value, n int, fallback int) {
		t.Helper()
		if got := v.At("device_one_time_keys_count", "signed_curve25519"); got.Int() != n {
			t.Fatalf("want %d keys: %s", n, v.Text())
		}
		for _, name := range []string{"device_unused_fallback_key_types", "org.matrix.msc2732.device_unused_fallback_key_types"} {
			if !v.Exists(name) || len(v.At(name).List()) != fallback {
				t.Fatalf("%s: %s", name, v.Text())
			}
		}
	}
	check(alice.Sync(), 0, 0)
	v := alice.Woken(func() {
		alice.Must("POST", "/keys/upload", object{"one_time_keys": object{"signed_curve25519:a": object{"key": "a"}}, "fallback_keys": object{"signed_curve25519:f": object{"key": "f"}}})
	})
	check(v, 1, 1)
	claim := func() {
		bob.Must("POST", "/keys/claim", object{"one_time_keys": object{alice.UserID: object{alice.DeviceID: "signed_curve25519"}}})
	}
	check(alice.Woken(claim), 0, 1)
	check(alice.Woken(claim), 0, 0)
	hs.Restart()
	check(alice.Sync(), 0, 0)
}

func TestMessagesThroughSync(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	alice.Sync()
	send := func(n int) {
		bob.Must("PUT", fmt.Sprintf("/sendToDevice/m.test/%d", n), object{"messages": object{alice.UserID: object{"*": object{"n": n}}}})
	}
	v := alice.Woken(func() { send(0) })
	if e := v.At("to_device", "events").List(); len(e) != 1 || e[0].At("content", "n").Int() != 0 || e[0].At("sender").String() != bob.UserID {
		t.Fatal(v.Text())
	}
	since := alice.Since
	for n := 1; n <= 250; n++ {
		send(n)
	}
	// An answer that was lost: the same token gives the same again.
	for range 2 {
		if e := alice.SyncFrom(since).At("to_device", "events").List(); len(e) != 100 || e[0].At("content", "n").Int() != 1 {
			t.Fatalf("%d messages, the first is %s", len(e), e[0].Text())
		}
	}
	want := 1
	for range 4 {
		for _, e := range alice.Sync().At("to_device", "events").List() {
			if e.At("content", "n").Int() != want {
				t.Fatalf("message %d came when it was the turn of %d", e.At("content", "n").Int(), want)
			}
			want++
		}
	}
	if want != 251 {
		t.Fatalf("%d of 250 messages came", want-1)
	}
	hs.Restart()
	if e := alice.SyncFrom("").At("to_device", "events").List(); len(e) != 0 {
		t.Fatal("acknowledged messages came again after a restart:", len(e))
	}
}

func TestDeletedDeviceTakesItsKeys(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(object{"preset": "public_chat"})
	bob.Join(room)
	bob.Must("POST", "/keys/upload", object{"device_keys": deviceKeys(t, bob.UserID, bob.DeviceID, newKey())})
	alice.Sync()
	v := alice.Woken(func() {
		w := hs.Homeserver
		if err := hs.DB.Write(t.Context(), func(tx *store.Tx) error { return w.DeleteDevice(tx, bob.UserID, bob.DeviceID) }); err != nil {
			t.Fatal(err)
		}
	})
	if got := strs(v.At("device_lists", "changed")); len(got) != 1 {
		t.Fatal(v.Text())
	}
	got := alice.Must("POST", "/keys/query", object{"device_keys": object{bob.UserID: []string{}}})
	if len(got.At("device_keys", bob.UserID).Keys()) != 0 {
		t.Fatal(got.Text())
	}
	alice.Fails(403, mx.Forbidden, "PUT", "/user/"+bob.UserID+"/account_data/x", object{})
}
