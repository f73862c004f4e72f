package sliding_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

// The bodies that Element X sends, byte for byte as matrix-rust-sdk and ruma write
// them (room_list_service, encryption_sync_service and notification_client).
const (
	xState = `[["m.room.name",""],["m.room.encryption",""],["m.room.member","$LAZY"],["m.room.member","$ME"],["m.room.topic",""],["m.room.avatar",""],["m.room.canonical_alias",""],` +
		`["m.room.power_levels",""],["org.matrix.msc3401.call.member","*"],["m.room.join_rules",""],["m.room.tombstone",""],["m.room.create",""],["m.room.history_visibility",""],` +
		`["io.element.functional_members",""],["m.space.parent","*"],["m.space.child","*"],["org.matrix.msc3672.beacon_info","*"]`
	xRoomList = `{"conn_id":"room-list","lists":{"all_rooms":{"ranges":[[0,%d]],"required_state":` + xState + `],"timeline_limit":1,"filters":{}}}%s,` +
		`"extensions":{"account_data":{"enabled":true},"receipts":{"enabled":true,"rooms":["*"]},"typing":{"enabled":true}}}`
	xSubscription = `,"room_subscriptions":{"%s":{"required_state":` + xState + `,["m.room.pinned_events",""]],"timeline_limit":20}}`
	xEncryption   = `{"conn_id":"encryption","extensions":{"to_device":{"enabled":true%s},"e2ee":{"enabled":true}}}`
	xPushState    = `[["m.room.encryption",""],["m.room.member","$LAZY"],["m.room.member","$ME"],["m.room.canonical_alias",""],["m.room.name",""],["m.room.avatar",""],["m.room.power_levels",""],` +
		`["m.room.join_rules",""],["org.matrix.msc3401.call.member","*"],["m.room.create",""],["io.element.functional_members",""]]`
	xNotification = `{"conn_id":"notifications","lists":{"invites":{"ranges":[[0,16]],"required_state":` + xPushState + `,"timeline_limit":8,"filters":{"is_invite":true}}},` +
		`"room_subscriptions":{"%s":{"required_state":` + xPushState + `,"timeline_limit":16}},"extensions":{"account_data":{"enabled":true}}}`
)

// xAnswer is what ruma reads. A field of another type, or null where it reads a
// list or map, fails the whole answer.
type xAnswer struct {
	Pos        string
	Lists      xMap[struct{ Count uint }]
	Rooms      xMap[xRoom]
	Extensions struct {
		ToDevice *struct {
			NextBatch string `json:"next_batch"`
			Events    xList[xEvent]
		} `json:"to_device"`
		E2EE struct {
			DeviceLists struct{ Changed, Left xList[string] } `json:"device_lists"`
			Counts      xMap[uint]                            `json:"device_one_time_keys_count"`
			Fallback    *[]string                             `json:"device_unused_fallback_key_types"`
		}
		AccountData struct {
			Global xList[xEvent]
			Rooms  xMap[[]xEvent]
		} `json:"account_data"`
		Receipts, Typing struct{ Rooms xMap[xEvent] }
	}
}

type xRoom struct {
	Name, Avatar, PrevBatch      *string
	Initial, IsDM                *bool
	InviteState                  *[]xEvent `json:"invite_state"`
	Highlight                    *uint     `json:"highlight_count"`
	Notifications                *uint     `json:"notification_count"`
	Timeline                     xList[xEvent]
	RequiredState                xList[xEvent] `json:"required_state"`
	Limited                      bool
	Joined, Invited, Live, Stamp *uint
	Heroes                       *[]struct {
		UserID string  `json:"user_id"`
		Name   *string `json:"displayname"`
		Avatar *string `json:"avatar_url"`
	}
}

// UnmarshalJSON takes the names with underscores, which the short fields lack.
func (r *xRoom) UnmarshalJSON(b []byte) error {
	type plain xRoom
	var names struct {
		PrevBatch *string `json:"prev_batch"`
		IsDM      *bool   `json:"is_dm"`
		Joined    *uint   `json:"joined_count"`
		Invited   *uint   `json:"invited_count"`
		Live      *uint   `json:"num_live"`
		Stamp     *uint   `json:"bump_stamp"`
	}
	if err := json.Unmarshal(b, (*plain)(r)); err != nil {
		return err
	}
	if err := json.Unmarshal(b, &names); err != nil {
		return err
	}
	r.PrevBatch, r.IsDM, r.Joined, r.Invited, r.Live, r.Stamp = names.PrevBatch, names.IsDM, names.Joined, names.Invited, names.Live, names.Stamp
	return nil
}

type xEvent struct {
	Type     string
	StateKey *string `json:"state_key"`
	Sender   string
	EventID  string `json:"event_id"`
	Content  map[string]any
}

type xList[T any] []T

func (l *xList[T]) UnmarshalJSON(b []byte) error {
	if bytes.Equal(b, []byte("null")) {
		return fmt.Errorf("null where a list has to be")
	}
	return json.Unmarshal(b, (*[]T)(l))
}

type xMap[T any] map[string]T

func (m *xMap[T]) UnmarshalJSON(b []byte) error {
	if bytes.Equal(b, []byte("null")) {
		return fmt.Errorf("null where a map has to be")
	}
	return json.Unmarshal(b, (*map[string]T)(m))
}

// elementX is one connection of it.
type elementX struct {
	t   *testing.T
	c   *hstest.Client
	pos string
}

// ask sends a body and reads the answer as strictly as the client. timeout < 0: none.
func (x *elementX) ask(body string, timeout int) xAnswer {
	x.t.Helper()
	q := url.Values{}
	if x.pos != "" {
		q.Set("pos", x.pos)
	}
	if timeout >= 0 {
		q.Set("timeout", fmt.Sprint(timeout))
	}
	a := x.c.Do("POST", unstable+"?"+q.Encode(), []byte(body))
	if a.Status != 200 {
		x.t.Fatalf("%d %s", a.Status, a.Body)
	}
	var v xAnswer
	if err := json.Unmarshal(a.Body, &v); err != nil || v.Pos == "" {
		x.t.Fatalf("Element X cannot read this: %v\n%s", err, a.Body)
	}
	x.pos = v.Pos
	return v
}

func (r xRoom) state(typ, key string) *xEvent {
	i := slices.IndexFunc(r.RequiredState, func(e xEvent) bool { return e.Type == typ && e.StateKey != nil && *e.StateKey == key })
	if i < 0 {
		return nil
	}
	return &r.RequiredState[i]
}

// Element X starts, opens a chat, gets a call, is woken by a push, loses answers and
// comes back after a restart of the server.
func TestElementX(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	encrypted := []obj{{"type": "m.room.encryption", "content": obj{"algorithm": "m.megolm.v1.aes-sha2"}}}
	var rooms []string
	for i := range 22 {
		rooms = append(rooms, bob.CreateRoom(obj{"name": fmt.Sprint("room ", i), "invite": []string{alice.UserID}, "initial_state": encrypted}))
		alice.Join(rooms[i])
		bob.SendEvent(rooms[i], "m.room.encrypted", obj{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "AwgA"})
	}
	direct := alice.CreateRoom(obj{"preset": "trusted_private_chat", "is_direct": true, "invite": []string{bob.UserID}, "initial_state": encrypted})
	bob.Join(direct)
	alice.Must("PUT", "/user/"+alice.UserID+"/account_data/m.direct", obj{bob.UserID: []string{direct}})
	space := alice.CreateRoom(obj{"name": "Department", "creation_content": obj{"type": "m.space"}})
	alice.SendState(space, mx.SpaceChild, rooms[3], obj{"via": []string{"example.org"}})
	invited := bob.CreateRoom(obj{"name": "Meeting", "invite": []string{alice.UserID}, "initial_state": encrypted})
	const all = 25

	// Starting: the first window at once, then the rest.
	list := &elementX{t: t, c: alice}
	seen := map[string]xRoom{}
	start := list.ask(fmt.Sprintf(xRoomList, 19, ""), 0)
	if start.Lists["all_rooms"].Count != all || len(start.Rooms) != 20 {
		t.Fatalf("%d rooms of %d", len(start.Rooms), start.Lists["all_rooms"].Count)
	}
	if d := start.Extensions.AccountData.Global; !slices.ContainsFunc(d, func(e xEvent) bool { return e.Type == "m.push_rules" }) ||
		!slices.ContainsFunc(d, func(e xEvent) bool { return e.Type == "m.direct" }) {
		t.Errorf("account data: %+v", d)
	}
	rest := list.ask(fmt.Sprintf(xRoomList, 99, ""), 0)
	for _, v := range []xAnswer{start, rest} {
		for id, r := range v.Rooms {
			if _, twice := seen[id]; twice {
				t.Errorf("%s came twice", id)
			}
			seen[id] = r
		}
	}
	if len(seen) != all || seen[space].Name == nil || seen[space].state("m.space.child", rooms[3]) == nil {
		t.Errorf("%d rooms, and the space %+v", len(seen), seen[space])
	}
	for id, r := range seen {
		switch {
		case r.Initial == nil || !*r.Initial || r.Stamp == nil:
			t.Errorf("%s: %+v", id, r)
		case id == invited:
			if r.InviteState == nil || len(*r.InviteState) == 0 || len(r.Timeline) != 0 {
				t.Errorf("the invitation: %+v", r)
			}
		case r.state("m.room.member", alice.UserID) == nil || r.state("m.room.create", "") == nil || r.state("m.room.power_levels", "") == nil || len(r.Timeline) != 1 ||
			r.Live == nil || *r.Live != 0:
			t.Errorf("%s: %+v", id, r)
		case id != space && r.state("m.room.encryption", "") == nil:
			t.Errorf("%s looks as if it were not encrypted", id)
		}
	}
	if r := seen[direct]; r.IsDM == nil || !*r.IsDM || r.Heroes == nil || len(*r.Heroes) != 1 || (*r.Heroes)[0].UserID != bob.UserID || r.Joined == nil || *r.Joined != 2 {
		t.Errorf("the direct chat: %+v", r)
	}
	if r := seen[rooms[0]]; r.Notifications == nil || *r.Notifications != 1 {
		t.Errorf("nothing is unread: %+v", r)
	}

	// The connection for keys: its own position, and messages until they are taken.
	keys := &elementX{t: t, c: alice}
	k := keys.ask(fmt.Sprintf(xEncryption, ""), 0)
	if k.Extensions.E2EE.Fallback == nil || k.Extensions.ToDevice == nil || k.Extensions.ToDevice.NextBatch == "" {
		t.Fatalf("keys: %+v", k.Extensions)
	}
	if _, ok := k.Extensions.E2EE.Counts["signed_curve25519"]; !ok {
		t.Errorf("no count of one-time keys: the client would not make any: %+v", k.Extensions.E2EE)
	}
	since := func(v xAnswer) string {
		return fmt.Sprintf(xEncryption, fmt.Sprintf(`,"since":%q`, v.Extensions.ToDevice.NextBatch))
	}
	waiting := make(chan xAnswer)
	go func() { waiting <- keys.ask(since(k), 30000) }()
	time.Sleep(50 * time.Millisecond)
	bob.Must("PUT", "/sendToDevice/m.room.encrypted/"+hstest.Txn(), obj{"messages": obj{alice.UserID: obj{alice.DeviceID: obj{"ciphertext": obj{}}}}})
	if k = <-waiting; len(k.Extensions.ToDevice.Events) != 1 || k.Extensions.ToDevice.Events[0].Sender != bob.UserID {
		t.Errorf("to-device: %+v", k.Extensions.ToDevice)
	}

	// Opening a chat answers at once, with more of its timeline.
	for i := range 30 {
		bob.SendEvent(rooms[5], "m.room.encrypted", obj{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": fmt.Sprint(i)})
	}
	bob.SendState(rooms[5], "m.room.pinned_events", "", obj{"pinned": []string{"$x"}})
	open := fmt.Sprintf(xRoomList, all-1, fmt.Sprintf(xSubscription, rooms[5]))
	v := list.ask(open, 30000)
	if r := v.Rooms[rooms[5]]; len(r.Timeline) != 20 || !r.Limited || r.PrevBatch == nil || r.state("m.room.pinned_events", "") == nil {
		t.Errorf("the chat that was opened: %d events, %+v", len(r.Timeline), r)
	}
	alice.Must("GET", hstest.Room(rooms[5])+"/messages?dir=b&limit=30&from="+url.QueryEscape(*v.Rooms[rooms[5]].PrevBatch), nil)

	// A call and a message while it waits; the answer to the first is lost and comes again.
	go func() { waiting <- list.ask(open, 30000) }()
	time.Sleep(50 * time.Millisecond)
	before := list.pos
	bob.SendState(rooms[5], "org.matrix.msc3401.call.member", "_"+bob.UserID+"_"+bob.DeviceID, obj{"application": "m.call"})
	lost := <-waiting
	list.pos = before
	again := list.ask(open, 0)
	for _, v := range []xAnswer{lost, again} {
		r := v.Rooms[rooms[5]]
		if len(v.Rooms) != 1 || r.state("org.matrix.msc3401.call.member", "_"+bob.UserID+"_"+bob.DeviceID) == nil && !slices.ContainsFunc(r.Timeline, func(e xEvent) bool { return e.Type == "org.matrix.msc3401.call.member" }) {
			t.Errorf("the call: %+v", v.Rooms)
		}
	}
	live := bob.SendEvent(rooms[5], "m.room.encrypted", obj{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "live"})
	if r := list.ask(open, 30000).Rooms[rooms[5]]; len(r.Timeline) != 1 || r.Timeline[0].EventID != live || r.Live == nil || *r.Live != 1 || r.Initial != nil && *r.Initial {
		t.Errorf("the message: %+v", r)
	}

	// A push wakes a process of its own, which takes nothing from the others.
	push := &elementX{t: t, c: alice}
	p := push.ask(fmt.Sprintf(xNotification, rooms[5]), 1000)
	if r := p.Rooms[rooms[5]]; len(r.Timeline) != 16 || r.Timeline[15].EventID != live || r.state("m.room.member", bob.UserID) == nil || r.state("m.room.power_levels", "") == nil {
		t.Errorf("for the push: %+v", r)
	}
	if r := p.Rooms[invited]; r.InviteState == nil || p.Lists["invites"].Count != 1 {
		t.Errorf("for the push: %+v %+v", p.Lists, r)
	}
	alice.Must("POST", hstest.Room(rooms[5])+"/receipt/m.read/"+url.PathEscape(live), obj{})
	if r := list.ask(open, 30000).Rooms[rooms[5]]; r.Notifications == nil || *r.Notifications != 0 {
		t.Errorf("read, but %+v", r)
	}

	// The server is started again: every connection goes on where it was.
	hs.Restart()
	bob.SendEvent(rooms[7], "m.room.encrypted", obj{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "after"})
	if v := list.ask(open, 30000); len(v.Rooms) != 1 || len(v.Rooms[rooms[7]].Timeline) != 1 {
		t.Errorf("after the restart: %+v", v.Rooms)
	}
	if k = keys.ask(since(k), 0); len(k.Extensions.ToDevice.Events) != 0 || len(k.Extensions.E2EE.DeviceLists.Changed) != 0 {
		t.Errorf("after the restart: %+v", k.Extensions)
	}
	// A position nobody gave out makes it start anew.
	a := alice.Do("POST", unstable+"?timeout=0&pos="+url.QueryEscape(strings.Repeat("x", 20)), []byte(fmt.Sprintf(xRoomList, 19, "")))
	if a.Status != 400 || a.JSON.At("errcode").String() != "M_UNKNOWN_POS" {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}
