package syncv3_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

func TestToDevice(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	bob.Sync()
	send := func(n int) {
		alice.Must("PUT", fmt.Sprintf("/sendToDevice/m.test/%s", hstest.Txn()), obj{"messages": obj{bob.UserID: obj{bob.DeviceID: obj{"n": n}}}})
	}
	numbers := func(v hstest.Value) []int {
		out := []int{}
		for _, e := range v.At("to_device", "events").List() {
			out = append(out, e.At("content", "n").Int())
		}
		return out
	}
	wait := bob.SyncAsync(context.Background(), "timeout=5000")
	time.Sleep(20 * time.Millisecond)
	send(1)
	a := <-wait
	if got := numbers(a.JSON); !slices.Equal(got, []int{1}) {
		t.Fatalf("got %s", a.Body)
	}
	// The answer was lost: it comes again, also after a restart.
	if got := numbers(bob.SyncFrom(bob.Since)); !slices.Equal(got, []int{1}) {
		t.Fatalf("a message that was not acknowledged: %v", got)
	}
	hs.Restart()
	v := bob.Sync()
	if got := numbers(v); !slices.Equal(got, []int{1}) {
		t.Fatalf("after a restart: %v", got)
	}
	if got := numbers(bob.Sync("timeout=0")); len(got) != 0 {
		t.Fatalf("an acknowledged message came again: %v", got)
	}
	// More than an answer holds come in order, in several answers, each at once.
	const many = 230
	for i := range many {
		send(i)
	}
	var got []int
	for range 3 {
		part := numbers(bob.Woken(func() {}))
		if len(part) > 100 {
			t.Fatalf("%d messages in one answer", len(part))
		}
		got = append(got, part...)
	}
	if len(got) != many || !slices.IsSorted(got) {
		t.Fatalf("%d messages: %v", len(got), got)
	}
	if got := numbers(bob.Sync("timeout=0")); len(got) != 0 {
		t.Fatalf("after all: %v", got)
	}
	if v := alice.Sync(); v.Exists("to_device") {
		t.Fatalf("somebody else's: %s", v.Text())
	}
}

func TestDeviceLists(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	alice.Sync()
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	alice.Sync()
	lists := func(v hstest.Value) (changed, left []string) {
		for _, u := range v.At("device_lists", "changed").List() {
			changed = append(changed, u.String())
		}
		for _, u := range v.At("device_lists", "left").List() {
			left = append(left, u.String())
		}
		return changed, left
	}
	bob.Join(room)
	if changed, _ := lists(alice.Sync()); !slices.Contains(changed, bob.UserID) {
		t.Errorf("who came to share a room: %v", changed)
	}
	wait := alice.SyncAsync(context.Background(), "timeout=5000")
	time.Sleep(20 * time.Millisecond)
	bob.Must("POST", "/keys/upload", obj{"device_keys": obj{"user_id": bob.UserID, "device_id": bob.DeviceID, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys": obj{"curve25519:" + bob.DeviceID: strings.Repeat("A", 43), "ed25519:" + bob.DeviceID: strings.Repeat("A", 43)}, "signatures": obj{bob.UserID: obj{}}}})
	a := <-wait
	if changed, _ := lists(a.JSON); !slices.Equal(changed, []string{bob.UserID}) {
		t.Errorf("whose keys changed: %s", a.Body)
	}
	alice.Since = a.JSON.At("next_batch").String()
	bob.Leave(room)
	if _, left := lists(alice.Sync()); !slices.Equal(left, []string{bob.UserID}) {
		t.Errorf("who shares no room any more: %v", left)
	}
}

func TestOneTimeKeyCounts(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	key := func(n string) obj {
		return obj{"key": strings.Repeat(n, 43), "signatures": obj{alice.UserID: obj{"ed25519:" + alice.DeviceID: "x"}}}
	}
	alice.Must("POST", "/keys/upload", obj{"one_time_keys": obj{"signed_curve25519:A": key("A"), "signed_curve25519:B": key("B")},
		"fallback_keys": obj{"signed_curve25519:F": key("F")}})
	v := alice.Sync()
	if v.At("device_one_time_keys_count", "signed_curve25519").Int() != 2 || v.At("device_unused_fallback_key_types", "0").String() != "signed_curve25519" ||
		v.At("org.matrix.msc2732.device_unused_fallback_key_types", "0").String() != "signed_curve25519" {
		t.Fatalf("counts: %s", v.Text())
	}
	wait := alice.SyncAsync(context.Background(), "timeout=5000")
	time.Sleep(20 * time.Millisecond)
	bob.Must("POST", "/keys/claim", obj{"one_time_keys": obj{alice.UserID: obj{alice.DeviceID: "signed_curve25519"}}})
	a := <-wait
	if a.JSON.At("device_one_time_keys_count", "signed_curve25519").Int() != 1 {
		t.Fatalf("after a claim: %s", a.Body)
	}
	for range 2 {
		bob.Must("POST", "/keys/claim", obj{"one_time_keys": obj{alice.UserID: obj{alice.DeviceID: "signed_curve25519"}}})
	}
	v = alice.SyncFrom(a.JSON.At("next_batch").String())
	if v.At("device_one_time_keys_count", "signed_curve25519").Int() != 0 || len(v.At("device_unused_fallback_key_types").List()) != 0 || !v.Exists("device_unused_fallback_key_types") {
		t.Fatalf("when all are used: %s", v.Text())
	}
}

func TestTyping(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	alice.Sync()
	typing := func(v hstest.Value) (string, bool) {
		for _, e := range v.Joined(room).At("ephemeral", "events").List() {
			if e.At("type").String() == mx.Typing {
				return e.At("content", "user_ids").Text(), true
			}
		}
		return "", false
	}
	set := func(on bool) {
		bob.Must("PUT", hstest.Room(room)+"/typing/"+bob.UserID, obj{"typing": on, "timeout": 30000})
	}
	wait := alice.SyncAsync(context.Background(), "timeout=5000")
	time.Sleep(20 * time.Millisecond)
	set(true)
	a := <-wait
	if who, ok := typing(a.JSON); !ok || who != `["@bob:example.org"]` {
		t.Fatalf("typing: %s", a.Body)
	}
	alice.Since = a.JSON.At("next_batch").String()
	wait = alice.SyncAsync(context.Background(), "timeout=5000")
	time.Sleep(20 * time.Millisecond)
	set(false)
	a = <-wait
	if who, ok := typing(a.JSON); !ok || who != `[]` {
		t.Fatalf("the end of typing must be sent: %s", a.Body)
	}
}

func TestReceiptsAndCounts(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	phone := hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	bob.Sync()
	phone.Sync()
	alice.Sync()
	root := alice.Send(room, "root")
	alice.SendEvent(room, mx.RoomMessage, obj{"body": "threaded", "msgtype": "m.text", "m.relates_to": obj{"rel_type": "m.thread", "event_id": root}})
	last := alice.Send(room, "hello")
	count := func(v hstest.Value) int {
		return v.Joined(room).At("unread_notifications", "notification_count").Int()
	}
	v := bob.SyncFrom(bob.Since)
	if count(v) != 3 || v.Joined(room).Exists("unread_thread_notifications") {
		t.Fatalf("without being asked, threads are in the one count: %s", v.Text())
	}
	bob.Filter = `{"room":{"timeline":{"unread_thread_notifications":true}}}`
	v = bob.SyncFrom(bob.Since)
	if count(v) != 2 || v.Joined(room).At("unread_thread_notifications", root, "notification_count").Int() != 1 {
		t.Fatalf("asked for threads: %s", v.Text())
	}
	bob.Filter = ""
	bob.Since = v.At("next_batch").String()
	phone.Sync()

	// A private receipt is seen by the user's devices only, and moves their counts.
	wait := phone.SyncAsync(context.Background(), "timeout=5000")
	time.Sleep(20 * time.Millisecond)
	bob.Must("POST", hstest.Room(room)+"/receipt/m.read.private/"+last, obj{})
	a := <-wait
	if !strings.Contains(string(a.Body), "m.read.private") || count(a.JSON) != 0 {
		t.Fatalf("private receipt at the other device: %s", a.Body)
	}
	if v := alice.Sync(); strings.Contains(v.Text(), "m.read.private") {
		t.Fatalf("a private receipt was told to others: %s", v.Text())
	}
	again := alice.Send(room, "again")
	if v := bob.Sync(); count(v) != 1 {
		t.Fatalf("one more: %s", v.Text())
	}
	bob.Must("POST", hstest.Room(room)+"/receipt/m.read/"+again, obj{})
	if v := alice.SyncUntil(func(v hstest.Value) bool { return strings.Contains(v.Text(), "m.receipt") }); !strings.Contains(v.Text(), again) {
		t.Fatalf("a public receipt: %s", v.Text())
	}
	if v := bob.Sync(); count(v) != 0 {
		t.Fatalf("after reading: %s", v.Text())
	}
	alice.Send(room, "x")
	bob.Send(room, "my own message reads what was before")
	if v := bob.Sync(); count(v) != 0 {
		t.Fatalf("after one's own message: %s", v.Text())
	}
}

func TestAccountData(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	phone := hs.Login(t, "alice")
	room := alice.CreateRoom(nil)
	v := phone.Sync()
	if !strings.Contains(v.Text(), "m.push_rules") {
		t.Errorf("a first sync has the push rules: %s", v.Text())
	}
	alice.Must("PUT", "/user/"+alice.UserID+"/account_data/m.secret_storage.default_key", obj{"key": "k"})
	wait := phone.SyncAsync(context.Background(), "timeout=5000")
	a := <-wait
	if a.JSON.At("account_data", "events", "0", "type").String() != "m.secret_storage.default_key" {
		t.Fatalf("global: %s", a.Body)
	}
	phone.Since = a.JSON.At("next_batch").String()
	alice.Must("PUT", "/user/"+alice.UserID+"/rooms/"+room+"/tags/m.favourite", obj{"order": 0.5})
	if v := phone.Sync(); v.Joined(room).At("account_data", "events", "0", "type").String() != "m.tag" || v.Exists("account_data") {
		t.Fatalf("of a room: %s", v.Text())
	}
	alice.Must("PUT", "/user/"+alice.UserID+"/account_data/m.other", obj{})
	if v := phone.SyncFrom(phone.Since, `filter={"account_data":{"types":["m.this"]}}`, "timeout=100"); v.Exists("account_data") {
		t.Fatalf("filtered: %s", v.Text())
	}
}

func TestPresence(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	for _, p := range []string{"offline", "unavailable", "online"} {
		alice.Sync("set_presence=" + p)
	}
	alice.Fails(400, mx.InvalidParam, "GET", "/sync?set_presence=dancing", nil)
	wait := alice.SyncAsync(context.Background(), "timeout=5000", "set_presence=online")
	time.Sleep(20 * time.Millisecond)
	bob.Must("PUT", "/presence/"+bob.UserID+"/status", obj{"presence": "unavailable", "status_msg": "away"})
	a := <-wait
	if !strings.Contains(string(a.Body), "away") {
		a.JSON = alice.SyncUntil(func(v hstest.Value) bool { return strings.Contains(v.Text(), "away") })
	}
	stranger := hs.Login(t, "stranger")
	if v := stranger.Sync(); strings.Contains(v.Text(), "away") {
		t.Fatalf("told to a stranger: %s", v.Text())
	}
}

func TestRoomsInCommonAfterRingIsLost(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	one, two := alice.CreateRoom(obj{"preset": "public_chat"}), alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(one)
	bob.Join(two)
	alice.Sync()
	bob.Send(one, "in one")
	bob.Must("POST", hstest.Room(two)+"/receipt/m.read/"+bob.Send(two, "in two"), obj{})
	alice.Must("PUT", "/user/"+alice.UserID+"/account_data/m.x", obj{})
	live := alice.SyncFrom(alice.Since)
	hs.Restart()
	cold := alice.SyncFrom(alice.Since)
	for _, v := range []hstest.Value{live, cold} {
		if got := hstest.Bodies(v.Timeline(one)); !slices.Equal(got, []string{"in one"}) {
			t.Errorf("timeline of one: %v", got)
		}
		if got := hstest.Bodies(v.Timeline(two)); !slices.Equal(got, []string{"in two"}) {
			t.Errorf("timeline of two: %v", got)
		}
		if !strings.Contains(v.Joined(two).At("ephemeral").Text(), "m.read") || v.At("account_data", "events", "0", "type").String() != "m.x" {
			t.Errorf("receipt or account data: %s", v.Text())
		}
	}
}

// A filter's limit of presence keeps the newest.
func TestPresenceLimit(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	since := alice.Sync("set_presence=offline").At("next_batch").String()
	for _, u := range []string{"bob", "carol", "dave"} {
		c := hs.Login(t, u)
		c.Join(room)
		c.Must("PUT", "/presence/"+c.UserID+"/status", obj{"presence": "online", "status_msg": u})
	}
	alice.Filter = `{"presence":{"limit":2}}`
	got := []string{}
	for _, e := range alice.SyncFrom(since, "set_presence=offline").At("presence", "events").List() {
		got = append(got, e.At("content", "status_msg").String())
	}
	if !slices.Equal(got, []string{"carol", "dave"}) {
		t.Errorf("presence of %v", got)
	}
}
