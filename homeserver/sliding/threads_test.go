package sliding_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

// What Element X's connection for the room list sends where the server has thread
// subscriptions, byte for byte as matrix-rust-sdk and ruma write it.
const (
	xThreads = `{"conn_id":"room-list","lists":{"all_rooms":{"ranges":[[0,19]],"required_state":` + xState + `],"timeline_limit":1,"filters":{}}},` +
		`"extensions":{"account_data":{"enabled":true},"receipts":{"enabled":true,"rooms":["*"]},"typing":{"enabled":true},"io.element.msc4308.thread_subscriptions":{"enabled":true,"limit":10}}}`
	xSubscribe = `{}`
	xAutomatic = `{"automatic":"%s"}`
	xCatchUp   = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions?dir=b"
)

// xChanges is what ruma reads of thread subscriptions, from either place.
type xChanges struct {
	Subscribed xMap[xMap[struct {
		Automatic *bool
		Stamp     *uint `json:"bump_stamp"`
	}]]
	Unsubscribed xMap[xMap[struct {
		Stamp *uint `json:"bump_stamp"`
	}]]
	PrevBatch *string `json:"prev_batch"`
	End       *string
}

func xRead(t *testing.T, raw []byte) (c xChanges) {
	t.Helper()
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatalf("Element X cannot read this: %v\n%s", err, raw)
	}
	for _, room := range c.Subscribed {
		for id, s := range room {
			if s.Automatic == nil || s.Stamp == nil {
				t.Fatalf("%s: a field is missing: %s", id, raw)
			}
		}
	}
	for _, room := range c.Unsubscribed {
		for id, s := range room {
			if s.Stamp == nil {
				t.Fatalf("%s: the stamp is missing: %s", id, raw)
			}
		}
	}
	return c
}

func (c xChanges) count() (n int) {
	for _, m := range c.Subscribed {
		n += len(m)
	}
	for _, m := range c.Unsubscribed {
		n += len(m)
	}
	return n
}

func subscription(room, root string) string {
	return "/_matrix/client/unstable/io.element.msc4306" + hstest.Room(room) + "/thread/" + url.PathEscape(root) + "/subscription"
}

// Element X learns of what its user subscribed to elsewhere: at the start what is newest,
// the rest by its catching up, then each change, and a lost answer again.
func TestElementXThreads(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := bob.CreateRoom(obj{"preset": "public_chat"})
	alice.Join(room)
	if f := alice.Must("GET", "/_matrix/client/versions", nil).At("unstable_features", "org.matrix.msc4306"); !f.Bool() {
		t.Fatal("the server does not announce thread subscriptions")
	}
	var roots []string
	for i := range 25 {
		roots = append(roots, bob.Send(room, fmt.Sprint("root ", i)))
		alice.Must("PUT", subscription(room, roots[i]), []byte(xSubscribe))
	}
	type answer struct {
		Pos        string
		Extensions map[string]json.RawMessage
	}
	pos := ""
	ask := func(timeout int) (v answer, body []byte) {
		t.Helper()
		q := url.Values{"timeout": {fmt.Sprint(timeout)}}
		if pos != "" {
			q.Set("pos", pos)
		}
		a := alice.Do("POST", unstable+"?"+q.Encode(), []byte(xThreads))
		if err := json.Unmarshal(a.Body, &v); a.Status != 200 || err != nil {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		return v, a.Body
	}
	v, _ := ask(0)
	c := xRead(t, v.Extensions[subscriptions])
	if _, ok := c.Subscribed[room][roots[24]]; c.count() != 10 || !ok || c.PrevBatch == nil {
		t.Fatalf("at the start: %s", v.Extensions[subscriptions])
	}
	n, from := c.count(), *c.PrevBatch
	for pages := 0; from != ""; pages++ {
		a := alice.Do("GET", xCatchUp+"&from="+url.QueryEscape(from), nil)
		c = xRead(t, a.Body)
		if n += c.count(); a.Status != 200 || pages > 5 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		if from = ""; c.End != nil {
			from = *c.End
		}
	}
	if n != 25 {
		t.Errorf("%d of 25 subscriptions", n)
	}
	pos = v.Pos
	if v, _ = ask(0); v.Extensions[subscriptions] != nil {
		t.Errorf("nothing changed: %s", v.Extensions[subscriptions])
	}

	// Waiting, it is woken by what another device does.
	pos = v.Pos
	waiting := make(chan answer)
	go func() { v, _ := ask(60000); waiting <- v }()
	time.Sleep(50 * time.Millisecond) // likelier to be waiting by now; right either way
	alice.Must("DELETE", subscription(room, roots[3]), nil)
	v = <-waiting
	c = xRead(t, v.Extensions[subscriptions])
	if _, ok := c.Unsubscribed[room][roots[3]]; !ok || c.count() != 1 || c.PrevBatch != nil {
		t.Errorf("unsubscribed: %s", v.Extensions[subscriptions])
	}
	// The answer was lost: the same bytes again.
	_, first := ask(0)
	if _, again := ask(0); string(first) != string(again) || !strings.Contains(string(first), "unsubscribed") {
		t.Errorf("a lost answer:\n%s\nagain:\n%s", first, again)
	}
	pos = v.Pos
	cause := bob.SendEvent(room, mx.RoomMessage, obj{"msgtype": "m.text", "body": "you", "m.relates_to": obj{"rel_type": "m.thread", "event_id": roots[3]}})
	alice.Must("PUT", subscription(room, roots[3]), []byte(fmt.Sprintf(xAutomatic, cause)))
	v, _ = ask(0)
	c = xRead(t, v.Extensions[subscriptions])
	if s, ok := c.Subscribed[room][roots[3]]; !ok || !*s.Automatic {
		t.Errorf("subscribed automatically: %s", v.Extensions[subscriptions])
	}

	// More than one answer holds while the client was away: it catches up from its own pos.
	lower := v.Pos
	hs.Restart()
	for _, r := range roots[:15] {
		alice.Must("DELETE", subscription(room, r), nil)
	}
	pos = v.Pos
	v, _ = ask(0)
	c = xRead(t, v.Extensions[subscriptions])
	if c.count() != 10 || c.PrevBatch == nil {
		t.Fatalf("after the restart: %s", v.Extensions[subscriptions])
	}
	a := alice.Do("GET", xCatchUp+"&from="+url.QueryEscape(*c.PrevBatch)+"&to="+url.QueryEscape(lower), nil)
	if c = xRead(t, a.Body); c.count() != 5 || c.End != nil {
		t.Errorf("the rest: %s", a.Body)
	}
	if n, _, err := leaveAll(hs, alice); err != nil || n != 0 {
		t.Errorf("%d subscriptions after the account was closed: %v", n, err)
	}
}

func leaveAll(hs *hstest.HS, c *hstest.Client) (n int, body string, err error) {
	err = hs.LeaveAll(context.Background(), c.UserID)
	a := c.Do("GET", xCatchUp, nil)
	for _, kind := range []string{"subscribed", "unsubscribed"} {
		n += len(a.JSON.At(kind).Keys())
	}
	return n, string(a.Body), err
}

// Both forms of the API, a client that begins to ask in the midst of a connection, and
// requests that are none.
func TestThreadSubscriptions(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(nil)
	var roots []string
	for i := range 4 {
		roots = append(roots, alice.Send(room, fmt.Sprint(i)))
		alice.Must("PUT", subscription(room, roots[i]), obj{})
	}
	for name, path := range map[string]string{"unstable": unstable, "stable": stable} {
		ask := func(pos string, ext any) hstest.Answer {
			t.Helper()
			body, query := obj{"conn_id": name}, ""
			if ext != nil {
				body["extensions"] = obj{subscriptions: ext}
			}
			if pos != "" && path == stable {
				body["pos"] = pos
			} else if pos != "" {
				query = "?pos=" + url.QueryEscape(pos)
			}
			return alice.Do("POST", path+query, body)
		}
		plain := ask("", nil)
		if plain.Status != 200 || plain.JSON.At("extensions").Exists(subscriptions) {
			t.Fatalf("%s: %d %s", name, plain.Status, plain.Body)
		}
		off := ask(plain.JSON.At("pos").String(), obj{"enabled": false, "limit": 2})
		if off.Status != 200 || off.JSON.At("extensions").Exists(subscriptions) {
			t.Errorf("%s: switched off: %s", name, off.Body)
		}
		// All that there is, though the connection is older: what the catching up reads ends
		// where this answer begins, not where the client's pos is.
		pos := off.JSON.At("pos").String()
		a := ask(pos, obj{"enabled": true, "limit": 3})
		told := a.JSON.At("extensions", subscriptions)
		if a.Status != 200 || len(told.At("subscribed", room).Keys()) != 3 {
			t.Fatalf("%s: %d %s", name, a.Status, a.Body)
		}
		rest := alice.Must("GET", xCatchUp+"&from="+url.QueryEscape(told.At("prev_batch").String())+"&to="+url.QueryEscape(pos), nil)
		if !rest.At("subscribed", room).Exists(roots[0]) || rest.Exists("end") {
			t.Errorf("%s: the rest: %s", name, rest.Text())
		}
		// Another limit is another request: the last answer is made anew.
		if b := ask(pos, obj{"enabled": true, "limit": 1}); len(b.JSON.At("extensions", subscriptions, "subscribed", room).Keys()) != 1 {
			t.Errorf("%s: again, with another limit: %s", name, b.Body)
		}
		for _, bad := range []any{obj{"enabled": true, "limit": 0}, obj{"enabled": true, "limit": -1}} {
			if a := ask("", bad); a.Status != 400 || a.JSON.At("errcode").String() != "M_INVALID_PARAM" {
				t.Errorf("%s: %v: %d %s", name, bad, a.Status, a.Body)
			}
		}
		for _, bad := range []any{obj{"enabled": true, "limit": 1e30}, obj{"enabled": "yes"}, obj{"enabled": true, "limit": 1.5}, 5} {
			if a := ask("", bad); a.Status != 400 || a.JSON.At("errcode").String() != "M_BAD_JSON" {
				t.Errorf("%s: %v: %d %s", name, bad, a.Status, a.Body)
			}
		}
	}
	// What a request may ask for at most is bounded.
	for i := range 120 {
		alice.Must("PUT", subscription(room, alice.Send(room, fmt.Sprint("more ", i))), obj{})
	}
	a := alice.Do("POST", unstable, obj{"extensions": obj{subscriptions: obj{"enabled": true, "limit": 1 << 40}}})
	if told := a.JSON.At("extensions", subscriptions); len(told.At("subscribed", room).Keys()) != 100 || !told.Exists("prev_batch") {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// The counts of rooms that a connection shows change with a subscription alone.
func TestThreadSubscriptionCounts(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := bob.CreateRoom(obj{"preset": "public_chat"})
	alice.Join(room)
	root := bob.Send(room, "root")
	bob.SendEvent(room, mx.RoomMessage, obj{"msgtype": "m.text", "body": "in it", "m.relates_to": obj{"rel_type": "m.thread", "event_id": root}})
	l := &loop{t: t, c: alice, body: obj{"lists": obj{"l": obj{"ranges": [][]int{{0, 9}}, "timeline_limit": 1, "required_state": [][]string{}}}}}
	counts := func(want int) {
		t.Helper()
		if r := l.next().At("rooms", room); r.At("notification_count").Int() != want {
			t.Errorf("%s, want %d unread", r.Text(), want)
		}
	}
	counts(2)
	alice.Must("DELETE", subscription(room, root), nil) // the first use
	counts(1)
	alice.Must("PUT", subscription(room, root), obj{})
	counts(2)
	alice.Must("DELETE", subscription(room, root), nil)
	counts(1)
}
