package webpush_test

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"holdfast/homeserver"
	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/push/webpush"
)

type obj = map[string]any

// A message in a room wakes a browser by way of its maker's push service, which
// learns nothing of it; when the subscription ends, so does the pusher.
func TestFromRoomToBrowser(t *testing.T) {
	b := webpush.NewBrowser(t)
	srv := httptest.NewTLSServer(b)
	defer srv.Close()
	var hs *hstest.HS
	hs = hstest.New(t, func(o *homeserver.Options) {
		o.Own = func(u *url.URL) bool { return "http://"+u.Host == hs.URL }
		o.PushWait = time.Millisecond
		o.Client = srv.Client()
		o.WebPushKey = func(context.Context) ([]byte, error) { return webpush.NewKey() }
		o.WebPushSubject = func() string { return "https://chat.example.org" }
	})
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	info := bob.Must("GET", "/_matrix/client/unstable/holdfast/web_push", nil)
	at := b.At(srv.URL)
	pusher := obj{"kind": "http", "app_id": info.At("app_id").V, "pushkey": at.P256dh, "app_display_name": "Holdfast", "device_display_name": "Browser", "lang": "en",
		"data": obj{"url": hs.URL + "/_matrix/push/v1/notify", "endpoint": at.Endpoint, "auth": at.Auth}}
	bad := func(key, endpoint string) obj {
		out := obj{}
		for k, v := range pusher {
			out[k] = v
		}
		out["pushkey"], out["data"] = key, obj{"url": hs.URL + "/_matrix/push/v1/notify", "endpoint": endpoint, "auth": at.Auth}
		return out
	}
	bob.Fails(400, mx.InvalidParam, "POST", "/pushers/set", bad("nokey", at.Endpoint))
	bob.Fails(400, mx.InvalidParam, "POST", "/pushers/set", bad(at.P256dh, "http://push.example/x"))
	room := alice.CreateRoom(obj{"preset": "private_chat", "invite": []string{bob.UserID}})
	bob.Join(room)
	bob.Must("POST", "/pushers/set", pusher)
	id := alice.Send(room, "the secret text")
	var got struct {
		EventID string `json:"event_id"`
		RoomID  string `json:"room_id"`
		Counts  struct{ Unread int }
	}
	select {
	case text := <-b.Got:
		var all obj
		if err := json.Unmarshal([]byte(text), &got); err != nil || got.EventID != id || got.RoomID != room || got.Counts.Unread != 1 {
			t.Errorf("the browser got %s", text)
		}
		json.Unmarshal([]byte(text), &all)
		if all["content"] != nil || all["sender"] != nil {
			t.Errorf("more than the event's ID left the server: %s", text)
		}
	case <-time.After(time.Minute):
		t.Fatal("nothing came")
	}
	if key := info.At("key").String(); key != b.Vapid {
		t.Errorf("the server is known by %s and told clients %s", b.Vapid, key)
	}
	b.Status.Store(410)
	alice.Send(room, "another")
	for end := time.Now().Add(time.Minute); len(bob.Must("GET", "/pushers", nil).At("pushers").List()) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the pusher of a subscription that ended stays")
		}
	}
}
