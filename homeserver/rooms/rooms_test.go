package rooms_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"holdfast/homeserver/eventauth"
	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/pdu"
	"holdfast/homeserver/rooms"
	"holdfast/store"
)

type obj = hstest.Obj

// checkChain verifies every event of a room: a line of prev_events, hashes,
// signatures and the authorisation rules against the state before it.
func checkChain(t *testing.T, hs *hstest.HS, roomID string) {
	t.Helper()
	key := hs.Rooms.SigningKey()
	err := hs.DB.Read(context.Background(), func(q store.Querier) error {
		events, more, err := hs.Rooms.First(q, roomID, 0, hs.DB.Pos(), 10000)
		if err != nil || more || len(events) == 0 {
			return fmt.Errorf("%d events, more %v: %v", len(events), more, err)
		}
		last := ""
		for i, e := range events {
			if i > 0 && !slices.Equal(e.PrevEvents, []string{last}) || i == 0 && len(e.PrevEvents) != 0 {
				t.Errorf("event %d %s follows %v, not %s", i, e.Type, e.PrevEvents, last)
			}
			if e.Depth != int64(i+1) {
				t.Errorf("event %d has depth %d", i, e.Depth)
			}
			last = e.ID
			if e.RedactedBy == "" && !pdu.HashMatches(e.JSON()) {
				t.Errorf("event %d: the content hash is wrong", i)
			}
			if err := pdu.Verify(e.Version, e.JSON(), key.Server, key.ID, key.Public()); err != nil {
				t.Errorf("event %d: %v", i, err)
			}
			if id, err := pdu.ID(e.Version, e.JSON()); err != nil || id != e.ID {
				t.Errorf("event %d has ID %s, its hash gives %s (%v)", i, e.ID, id, err)
			}
			before, err := hs.Rooms.StateBefore(q, e, nil)
			if err != nil {
				return err
			}
			state := map[rooms.StateKey]*pdu.Event{}
			for _, s := range before {
				state[rooms.StateKey{Type: s.Type, Key: *s.StateKey}] = s.Event
			}
			if err := eventauth.Check(e.Version, e.Event, func(typ, key string) *pdu.Event { return state[rooms.StateKey{Type: typ, Key: key}] }); err != nil {
				t.Errorf("event %d %s: %v", i, e.Type, err)
			}
		}
		// The current state is the state after the last event.
		now, err := hs.Rooms.CurrentState(q, roomID, false)
		if err != nil {
			return err
		}
		at, err := hs.Rooms.StateAt(q, roomID, hs.DB.Pos(), nil)
		if err != nil {
			return err
		}
		ids := func(list []*rooms.Event) (out []string) {
			for _, e := range list {
				out = append(out, e.ID)
			}
			slices.Sort(out)
			return out
		}
		if !slices.Equal(ids(now), ids(at)) {
			t.Errorf("current state has %d events, the state after the last event %d", len(now), len(at))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCreate(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	for _, version := range []string{"", "10", "11", "12"} {
		for _, preset := range []string{"", "private_chat", "trusted_private_chat", "public_chat"} {
			t.Run(version+" "+preset, func(t *testing.T) {
				o := obj{"name": "Name", "topic": "Topic", "invite": []string{bob.UserID}, "is_direct": true,
					"initial_state":    []obj{{"type": "m.room.encryption", "content": obj{"algorithm": "m.megolm.v1.aes-sha2"}}},
					"creation_content": obj{"m.federate": false, "room_version": "1", "creator": "@mallory:example.org"}}
				if version != "" {
					o["room_version"] = version
				}
				if preset != "" {
					o["preset"] = preset
				}
				room := alice.CreateRoom(o)
				state := alice.Must("GET", hstest.Room(room)+"/state", nil).List()
				get := func(typ, key string) hstest.Value { return hstest.Find(state, typ, key).At("content") }
				want := version
				if want == "" {
					want = "11"
				}
				if got := get(mx.RoomCreate, "").At("room_version").String(); got != want {
					t.Errorf("version %s", got)
				}
				if c := get(mx.RoomCreate, ""); c.At("m.federate").V != false || c.Exists("creator") != (want == "10") || want == "10" && c.At("creator").String() != alice.UserID {
					t.Errorf("create: %s", c.Text())
				}
				rule := map[string]string{"public_chat": "public"}[preset]
				if rule == "" {
					rule = "invite"
				}
				if get(mx.RoomJoinRules, "").At("join_rule").String() != rule || get(mx.RoomHistoryVisibility, "").At("history_visibility").String() != "shared" ||
					get("m.room.encryption", "").At("algorithm").String() == "" || get(mx.RoomName, "").At("name").String() != "Name" || get(mx.RoomTopic, "").At("topic").String() != "Topic" {
					t.Errorf("state: %v", state)
				}
				inv := get(mx.RoomMember, bob.UserID)
				if inv.At("membership").String() != "invite" || !inv.At("is_direct").Bool() || inv.At("displayname").String() != "bob" {
					t.Errorf("invitation: %s", inv.Text())
				}
				pl := get(mx.RoomPowerLevels, "")
				if want == "12" {
					if pl.At("users").Exists(alice.UserID) || room[0] != '!' || strings.Contains(room, ":") {
						t.Errorf("version 12: room %s, power levels %s", room, pl.Text())
					}
					if preset == "trusted_private_chat" && get(mx.RoomCreate, "").At("additional_creators", "0").String() != bob.UserID {
						t.Errorf("version 12: those invited to a trusted chat are creators too: %s", get(mx.RoomCreate, "").Text())
					}
				} else {
					if pl.At("users", alice.UserID).Int() != 100 || (pl.At("users", bob.UserID).Int() == 100) != (preset == "trusted_private_chat") {
						t.Errorf("power levels %s", pl.Text())
					}
				}
				bob.Join(room)
				bob.Send(room, "hello")
				checkChain(t, hs, room)
			})
		}
	}
	alice.Fails(400, mx.UnsupportedRoom, "POST", "/createRoom", obj{"room_version": "9999"})
	alice.Fails(400, mx.InvalidParam, "POST", "/createRoom", obj{"preset": "nonsense"})
	alice.Fails(400, mx.InvalidRoomState, "POST", "/createRoom", obj{"power_level_content_override": obj{"users": obj{bob.UserID: 100}, "events": obj{"m.room.name": 100}}, "name": "x"})
	room := alice.CreateRoom(obj{"power_level_content_override": obj{"events_default": 10}})
	if got := alice.Must("GET", hstest.Room(room)+"/state/m.room.power_levels", nil).At("events_default").Int(); got != 10 {
		t.Errorf("events_default %d", got)
	}
}

func TestMemberships(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	room := alice.CreateRoom(nil)
	p := hstest.Room(room)
	bob.Fails(403, mx.Forbidden, "POST", p+"/join", obj{})
	bob.Fails(403, mx.Forbidden, "PUT", p+"/send/m.room.message/1", obj{"body": "x"})
	bob.Fails(403, mx.Forbidden, "POST", p+"/invite", obj{"user_id": carol.UserID})
	alice.Invite(room, bob)
	alice.Invite(room, bob) // again: nothing happens
	bob.Join(room)
	bob.Join(room)
	if got := bob.Must("GET", "/joined_rooms", nil).At("joined_rooms", "0").String(); got != room {
		t.Errorf("joined_rooms %s", got)
	}
	alice.Fails(403, mx.Forbidden, "POST", p+"/invite", obj{"user_id": bob.UserID})
	bob.Fails(403, mx.Forbidden, "POST", p+"/kick", obj{"user_id": alice.UserID})
	bob.Fails(403, mx.Forbidden, "POST", p+"/ban", obj{"user_id": carol.UserID})
	alice.Must("POST", p+"/kick", obj{"user_id": bob.UserID, "reason": "rude"})
	alice.Fails(403, mx.Forbidden, "POST", p+"/kick", obj{"user_id": bob.UserID})
	if m := alice.Must("GET", p+"/state/m.room.member/"+bob.UserID, nil); m.At("membership").String() != "leave" || m.At("reason").String() != "rude" {
		t.Errorf("kicked: %s", m.Text())
	}
	bob.Fails(403, mx.Forbidden, "PUT", p+"/send/m.room.message/2", obj{"body": "x"})
	alice.Must("POST", p+"/ban", obj{"user_id": bob.UserID})
	alice.Fails(403, mx.Forbidden, "POST", p+"/invite", obj{"user_id": bob.UserID})
	alice.Fails(403, mx.Forbidden, "POST", p+"/unban", obj{"user_id": carol.UserID})
	bob.Fails(403, mx.Forbidden, "POST", p+"/leave", obj{})
	alice.Must("POST", p+"/unban", obj{"user_id": bob.UserID})
	alice.Invite(room, bob)
	bob.Leave(room)
	bob.Leave(room)
	alice.Fails(400, mx.Unknown, "POST", p+"/forget", obj{})
	bob.Must("POST", p+"/forget", obj{})
	carol.Fails(403, mx.Forbidden, "POST", p+"/leave", obj{})
	alice.Fails(404, mx.NotFound, "POST", "/rooms/!nowhere:example.org/join", obj{})
	alice.Fails(400, mx.InvalidParam, "POST", p+"/invite", obj{"user_id": "carol"})
	checkChain(t, hs, room)
}

func TestRestrictedJoin(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob, carol := hs.Login(t, "alice"), hs.Login(t, "bob"), hs.Login(t, "carol")
	space := alice.CreateRoom(obj{"preset": "public_chat", "creation_content": obj{"type": "m.space"}})
	room := alice.CreateRoom(obj{"initial_state": []obj{{"type": mx.RoomJoinRules, "content": obj{"join_rule": "restricted",
		"allow": []obj{{"type": "m.room_membership", "room_id": space}}}}}})
	alice.SendState(space, mx.SpaceChild, room, obj{"via": []string{"example.org"}})
	carol.Fails(403, mx.Forbidden, "POST", hstest.Room(room)+"/join", obj{})
	bob.Join(space)
	bob.Join(room)
	if m := alice.Must("GET", hstest.Room(room)+"/state/m.room.member/"+bob.UserID, nil); m.At("join_authorised_via_users_server").String() != alice.UserID {
		t.Errorf("joined by %s", m.Text())
	}
	checkChain(t, hs, room)
	h := bob.Must("GET", "/_matrix/client/v1/rooms/"+url.PathEscape(space)+"/hierarchy", nil).At("rooms").List()
	if len(h) != 2 || h[1].At("room_id").String() != room || h[0].At("children_state", "0", "state_key").String() != room {
		t.Errorf("hierarchy %v", h)
	}
	if s := bob.Must("GET", "/_matrix/client/v1/room_summary/"+url.PathEscape(room), nil); s.At("join_rule").String() != "restricted" || s.At("membership").String() != "join" {
		t.Errorf("summary %s", s.Text())
	}
	carol.Fails(404, mx.NotFound, "GET", "/_matrix/client/v1/room_summary/"+url.PathEscape(room), nil)
}

func TestState(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	p := hstest.Room(room)
	one := alice.SendState(room, mx.RoomTopic, "", obj{"topic": "a", "x": 1})
	if again := alice.SendState(room, mx.RoomTopic, "", obj{"x": 1, "topic": "a"}); again != one {
		t.Error("identical state made another event")
	}
	if other := alice.SendState(room, mx.RoomTopic, "", obj{"topic": "b"}); other == one {
		t.Error("other state did not make another event")
	}
	bob.Fails(403, mx.Forbidden, "PUT", p+"/state/m.room.topic", obj{"topic": "c"})
	bob.Fails(403, mx.Forbidden, "PUT", p+"/state/m.room.create", obj{})
	alice.Fails(404, mx.NotFound, "GET", p+"/state/m.room.nothing", nil)
	alice.Must("PUT", p+"/state/m.custom/key%2Fwith%20odd%3Achars", obj{"v": 1})
	if got := alice.Must("GET", p+"/state/m.custom/key%2Fwith%20odd%3Achars", nil).At("v").Int(); got != 1 {
		t.Errorf("a state key with odd characters: %d", got)
	}
	alice.Fails(400, mx.NotJSON, "PUT", p+"/send/m.room.message/bad", []byte(`{"a":`))
	alice.Fails(400, mx.BadJSON, "PUT", p+"/send/m.room.message/bad2", []byte(`[]`))
	alice.Fails(400, mx.BadJSON, "PUT", p+"/send/m.room.message/bad3", []byte(`{"n":1.5}`))
	alice.Fails(413, mx.TooLarge, "PUT", p+"/send/m.room.message/big", obj{"body": strings.Repeat("x", 66000)})
	alice.Fails(400, mx.BadAlias, "PUT", p+"/state/m.room.canonical_alias", obj{"alias": "#nothere:example.org"})
}

func TestRedaction(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	for _, version := range []string{"10", "11", "12"} {
		room := alice.CreateRoom(obj{"preset": "public_chat", "room_version": version})
		bob.Join(room)
		p := hstest.Room(room)
		id := bob.Send(room, "regret")
		others := alice.Send(room, "mine")
		bob.Fails(403, mx.Forbidden, "PUT", p+"/redact/"+others+"/x"+version, obj{})
		bob.Fails(404, mx.NotFound, "PUT", p+"/redact/$nothere/y"+version, obj{})
		elsewhere := alice.CreateRoom(nil)
		foreign := alice.Send(elsewhere, "there")
		alice.Fails(404, mx.NotFound, "PUT", p+"/redact/"+foreign+"/z"+version, obj{})
		by := bob.Must("PUT", p+"/redact/"+id+"/t"+version, obj{"reason": "oops"}).At("event_id").String()
		e := alice.Must("GET", p+"/event/"+id, nil)
		because := e.At("unsigned", "redacted_because")
		if len(e.At("content").Keys()) != 0 || because.At("event_id").String() != by || because.At("content", "reason").String() != "oops" ||
			because.At("redacts").String() != id || because.At("content", "redacts").String() != id {
			t.Errorf("version %s: %s", version, e.Text())
		}
		topic := alice.SendState(room, mx.RoomTopic, "", obj{"topic": "secret"})
		alice.Redact(room, topic)
		if got := alice.Must("GET", p+"/state/m.room.topic", nil); got.Exists("topic") {
			t.Errorf("version %s: redacted state still says %s", version, got.Text())
		}
		alice.Send(room, "after")
		checkChain(t, hs, room)
		err := hs.DB.Read(context.Background(), func(q store.Querier) error {
			e, err := hs.Rooms.EventByID(q, id)
			if err == nil && strings.Contains(string(e.JSON()), "regret") {
				t.Error("the text is still in the database")
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestDeletedAliasIsNoAddress(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"room_alias_name": "main", "preset": "public_chat"})
	bob.Join(room)
	name := func(c *hstest.Client, local string) {
		t.Helper()
		c.Must("PUT", "/directory/room/"+url.PathEscape("#"+local+":example.org"), obj{"room_id": room})
	}
	drop := func(c *hstest.Client, local string) {
		t.Helper()
		c.Must("DELETE", "/directory/room/"+url.PathEscape("#"+local+":example.org"), nil)
	}
	addresses := func() string { return alice.Must("GET", hstest.Room(room)+"/state/m.room.canonical_alias", nil).Text() }
	name(alice, "one")
	name(alice, "two")
	name(bob, "bobs")
	name(alice, "silent")
	alice.SendState(room, mx.RoomCanonicalAlias, "", obj{"alias": "#main:example.org", "alt_aliases": []string{"#one:example.org", "#two:example.org", "#bobs:example.org"}, "org.example.kept": true})
	alice.Sync()
	drop(alice, "silent") // no address: nothing to tell
	if v := alice.Sync(); v.At("rooms", "join", room).V != nil {
		t.Errorf("an alias that is no address changed the room: %s", v.Text())
	}
	drop(alice, "one")
	if got, want := addresses(), `{"alias":"#main:example.org","alt_aliases":["#two:example.org","#bobs:example.org"],"org.example.kept":true}`; got != want {
		t.Errorf("addresses are %s, want %s", got, want)
	}
	// Who made an alias can delete it without the power to change the addresses.
	before := addresses()
	drop(bob, "bobs")
	if got := addresses(); got != before {
		t.Errorf("bob changed the addresses: %s", got)
	}
	drop(alice, "main")
	drop(alice, "two")
	if got, want := addresses(), `{"alt_aliases":["#bobs:example.org"],"org.example.kept":true}`; got != want {
		t.Errorf("addresses are %s, want %s", got, want)
	}
}

func TestAliasesAndDirectory(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"room_alias_name": "kitchen", "visibility": "public", "name": "Kitchen", "topic": "food"})
	alice.Fails(400, mx.RoomInUse, "POST", "/createRoom", obj{"room_alias_name": "kitchen"})
	alias := url.PathEscape("#kitchen:example.org")
	if got := bob.Must("GET", "/directory/room/"+alias, nil); got.At("room_id").String() != room || got.At("servers", "0").String() != hstest.Server {
		t.Errorf("alias: %s", got.Text())
	}
	if got := bob.Must("POST", "/join/"+alias, obj{}).At("room_id").String(); got != room {
		t.Errorf("joined %s", got)
	}
	bob.Must("PUT", "/directory/room/"+url.PathEscape("#second:example.org"), obj{"room_id": room})
	bob.Fails(409, mx.RoomInUse, "PUT", "/directory/room/"+url.PathEscape("#second:example.org"), obj{"room_id": room})
	bob.Fails(400, mx.InvalidParam, "PUT", "/directory/room/"+url.PathEscape("#second:elsewhere.org"), obj{"room_id": room})
	if got := bob.Must("GET", hstest.Room(room)+"/aliases", nil).At("aliases").List(); len(got) != 2 {
		t.Errorf("aliases %v", got)
	}
	bob.Fails(403, mx.Forbidden, "DELETE", "/directory/room/"+alias, nil)
	alice.Must("DELETE", "/directory/room/"+url.PathEscape("#second:example.org"), nil)
	bob.Fails(404, mx.NotFound, "GET", "/directory/room/"+url.PathEscape("#second:example.org"), nil)
	for i := range 3 {
		alice.CreateRoom(obj{"visibility": "public", "name": fmt.Sprint("R", i)})
	}
	private := alice.CreateRoom(obj{"name": "hidden"})
	page := bob.Must("GET", "/publicRooms?limit=2", nil)
	if page.At("total_room_count_estimate").Int() != 4 || len(page.At("chunk").List()) != 2 || page.At("chunk", "0", "room_id").String() != room ||
		page.At("chunk", "0", "num_joined_members").Int() != 2 || page.At("chunk", "0", "canonical_alias").String() != "#kitchen:example.org" {
		t.Errorf("directory %s", page.Text())
	}
	next := bob.Must("GET", "/publicRooms?limit=2&since="+page.At("next_batch").String(), nil)
	if len(next.At("chunk").List()) != 2 || next.Exists("next_batch") {
		t.Errorf("second page %s", next.Text())
	}
	if got := bob.Must("POST", "/publicRooms", obj{"filter": obj{"generic_search_term": "FOOD"}}).At("chunk").List(); len(got) != 1 {
		t.Errorf("search %v", got)
	}
	bob.Fails(403, mx.Forbidden, "PUT", "/directory/list/room/"+room, obj{"visibility": "private"})
	alice.Must("PUT", "/directory/list/room/"+private, obj{"visibility": "public"})
	if got := bob.Must("GET", "/directory/list/room/"+private, nil).At("visibility").String(); got != "public" {
		t.Errorf("visibility %s", got)
	}
}

func TestUpgrade(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	for _, to := range []string{"11", "12"} {
		alias := "up" + to
		room := alice.CreateRoom(obj{"preset": "public_chat", "room_version": "10", "name": "Old", "room_alias_name": alias})
		bob.Join(room)
		bob.Fails(403, mx.Forbidden, "POST", hstest.Room(room)+"/upgrade", obj{"new_version": to})
		alice.Fails(400, mx.UnsupportedRoom, "POST", hstest.Room(room)+"/upgrade", obj{"new_version": "x"})
		next := alice.Must("POST", hstest.Room(room)+"/upgrade", obj{"new_version": to}).At("replacement_room").String()
		if got := alice.Must("GET", hstest.Room(room)+"/state/m.room.tombstone", nil).At("replacement_room").String(); got != next {
			t.Errorf("tombstone names %s", got)
		}
		create := alice.Must("GET", hstest.Room(next)+"/state/m.room.create", nil)
		if create.At("predecessor", "room_id").String() != room || create.At("room_version").String() != to {
			t.Errorf("create %s", create.Text())
		}
		if got := alice.Must("GET", hstest.Room(next)+"/state/m.room.name", nil).At("name").String(); got != "Old" {
			t.Errorf("name %s", got)
		}
		if got := bob.Must("GET", "/directory/room/"+url.PathEscape("#"+alias+":example.org"), nil).At("room_id").String(); got != next {
			t.Errorf("the alias leads to %s", got)
		}
		bob.Fails(403, mx.Forbidden, "PUT", hstest.Room(room)+"/send/m.room.message/1"+to, obj{"body": "x"})
		bob.Join(next)
		checkChain(t, hs, room)
		checkChain(t, hs, next)
	}
}

func TestProfileReachesRooms(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(nil)
	alice.Must("PUT", "/profile/"+alice.UserID+"/displayname", obj{"displayname": "Alice Liddell"})
	alice.SyncUntil(func(v hstest.Value) bool {
		return alice.Must("GET", hstest.Room(room)+"/state/m.room.member/"+alice.UserID, nil).At("displayname").String() == "Alice Liddell"
	})
	checkChain(t, hs, room)
}

// Many write into one room at once, also state, some in vain, and with repeated
// transaction IDs: the room stays a line and nothing is lost or doubled.
func TestConcurrentWriters(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	var wg sync.WaitGroup
	var mu sync.Mutex
	sent := map[string]bool{}
	for w := range 12 {
		c := hs.Login(t, fmt.Sprint("u", w))
		wg.Go(func() {
			c.Join(room)
			for i := range 30 {
				content, _ := json.Marshal(obj{"body": fmt.Sprint(w, " ", i), "msgtype": "m.text"})
				n := rooms.NewEvent{RoomID: room, Sender: c.UserID, DeviceID: c.DeviceID, TxnID: fmt.Sprint(i), Type: mx.RoomMessage, Content: content}
				id, err := hs.Rooms.Send(context.Background(), n)
				if err != nil {
					t.Error(err)
					return
				}
				if i%5 == 0 {
					again, err := hs.Rooms.Send(context.Background(), n)
					if err != nil || again != id {
						t.Errorf("repeated: %s, %v, want %s", again, err, id)
					}
				}
				mu.Lock()
				if sent[id] {
					t.Error("an ID twice")
				}
				sent[id] = true
				mu.Unlock()
				if i%7 == 0 {
					c.Do("PUT", hstest.Room(room)+"/state/m.room.topic", obj{"topic": "may not"})
				}
				if i%10 == 9 {
					c.Leave(room)
					c.Join(room)
				}
			}
		})
	}
	wg.Wait()
	checkChain(t, hs, room)
	found := 0
	err := hs.DB.Read(context.Background(), func(q store.Querier) error {
		events, _, err := hs.Rooms.First(q, room, 0, hs.DB.Pos(), 10000)
		for _, e := range events {
			if e.Type == mx.RoomMessage {
				found++
				if !sent[e.ID] {
					t.Error("an event that nobody was told of")
				}
			}
		}
		return err
	})
	if err != nil || found != len(sent) || found != 12*30 {
		t.Fatalf("%d messages stored, %d acknowledged, %v", found, len(sent), err)
	}
	hs.Restart()
	checkChain(t, hs, room)
}

// What was built on an event that did not reach the disk is built anew.
func TestFailedWrite(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(nil)
	fail := errors.New("no")
	n := 0
	hs.Rooms.Hook(func(tx *store.Tx, e *rooms.Event) error {
		if n++; e.Type == "fail" || n%7 == 0 && e.Type == "m.odd" {
			return fail
		}
		return nil
	})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 20 {
				typ := "m.ok"
				if w == 0 {
					typ = "fail"
				}
				if w == 1 {
					typ = "m.odd"
				}
				key := fmt.Sprint(w, "-", i)
				_, err := hs.Rooms.Send(context.Background(), rooms.NewEvent{RoomID: room, Sender: alice.UserID, Type: typ, StateKey: &key, Content: json.RawMessage(`{}`)})
				if typ == "m.ok" && err != nil || typ == "fail" && !errors.Is(err, fail) {
					t.Errorf("%s: %v", typ, err)
				}
			}
		})
	}
	wg.Wait()
	checkChain(t, hs, room)
}
