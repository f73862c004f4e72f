package account_test

import (
	"strings"
	"testing"
	"time"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

type obj = map[string]any

// withPassword is the auth object that confirms by password.
func withPassword(c *hstest.Client, password string) obj {
	return obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": c.UserID}, "password": password}
}

// TestWaitingSyncs: an answer that was waited for is given to nobody who was signed out
// or locked meanwhile.
func TestWaitingSyncs(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	for _, c := range []struct {
		name string
		end  func(who *hstest.Client)
		code mx.Code
	}{
		{"nothing", func(*hstest.Client) {}, ""},
		{"locked", func(who *hstest.Client) { hs.Lock(who.UserID, true) }, mx.UserLocked},
		{"suspended", func(who *hstest.Client) { hs.Lock(who.UserID, false); hs.Suspend(who.UserID, true) }, ""},
		{"signed out", func(who *hstest.Client) { hs.Suspend(who.UserID, false); bob.Must("POST", "/logout/all", obj{}) }, mx.UnknownToken},
	} {
		t.Run(c.name, func(t *testing.T) {
			hs.Lock(bob.UserID, false)
			who := hs.Login(t, "bob")
			who.Sync()
			wait := who.SyncAsync(t.Context(), "timeout=300000")
			slide := who.Async(t.Context(), "POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=300000&pos="+
				who.Must("POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", obj{"lists": obj{"a": obj{"ranges": [][]int{{0, 9}}, "timeline_limit": 1, "required_state": [][]string{}}}}).At("pos").String(),
				obj{"lists": obj{"a": obj{"ranges": [][]int{{0, 9}}, "timeline_limit": 1, "required_state": [][]string{}}}})
			time.Sleep(50 * time.Millisecond) // likelier to be waiting by now; right either way
			c.end(who)
			alice.Send(room, "after")
			for _, answers := range []<-chan hstest.Answer{wait, slide} {
				a := <-answers
				got := mx.Code(a.JSON.At("errcode").String())
				if got != c.code || (c.code == "") != strings.Contains(string(a.Body), "after") {
					t.Errorf("%d %s, want %q", a.Status, a.Body, c.code)
				}
			}
		})
	}
}

// TestSessions goes through the operations of accounts and sessions with the identity
// provider that tests have.
func TestSessions(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, tablet, bob := hs.Login(t, "alice"), hs.Login(t, "alice"), hs.Login(t, "bob")
	if got := alice.Must("GET", "/account/3pid", nil).At("threepids").List(); got == nil || len(got) != 0 {
		t.Errorf("addresses: %v", got)
	}
	alice.Fails(400, mx.ThreepidAuthFailed, "POST", "/account/3pid/add", obj{"sid": "x", "client_secret": "y"})

	// Deleting a device asks who it is, for this device alone.
	ask := alice.Do("DELETE", "/devices/"+tablet.DeviceID, obj{})
	if ask.Status != 401 || ask.JSON.At("session").String() == "" {
		t.Fatalf("%d %s", ask.Status, ask.Body)
	}
	auth := withPassword(alice, hstest.Password)
	auth["session"] = ask.JSON.At("session").String()
	if a := bob.Do("DELETE", "/devices/"+bob.DeviceID, obj{"auth": auth}); a.Status != 401 {
		t.Errorf("alice's confirmation did for bob: %d %s", a.Status, a.Body)
	}
	wrong := withPassword(alice, "wrong")
	wrong["session"] = auth["session"]
	if a := alice.Do("DELETE", "/devices/"+tablet.DeviceID, obj{"auth": wrong}); a.Status != 401 || a.JSON.At("errcode").String() != string(mx.Forbidden) {
		t.Errorf("a wrong password: %d %s", a.Status, a.Body)
	}
	alice.Must("DELETE", "/devices/"+tablet.DeviceID, obj{"auth": auth})

	alice.Must("POST", "/account/password", obj{"new_password": "another long password", "auth": withPassword(alice, hstest.Password)})
	login := func(password string) hstest.Answer {
		return bob.Do("POST", "/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": password})
	}
	if a := login(hstest.Password); a.Status != 403 {
		t.Errorf("the old password: %d %s", a.Status, a.Body)
	}
	if a := login("another long password"); a.Status != 200 || a.JSON.At("user_id").String() != alice.UserID {
		t.Errorf("the new password: %d %s", a.Status, a.Body)
	}
	alice.Must("POST", "/logout", obj{})
	alice.Fails(401, mx.UnknownToken, "GET", "/account/whoami", nil)

	hs.Lock(bob.UserID, true)
	bob.Fails(401, mx.UserLocked, "GET", "/account/whoami", nil)
	hs.Lock(bob.UserID, false)
	bob.Must("POST", "/account/deactivate", obj{"auth": withPassword(bob, hstest.Password)})
	bob.Fails(401, mx.UnknownToken, "GET", "/account/whoami", nil)
}
