package syncv3_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

// One filter picks the same events in /sync, /messages and /context.
func TestEventFiltersEverywhere(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	first := alice.SendEvent(room, mx.RoomMessage, obj{"msgtype": "m.text", "body": "common one"})
	alice.SendEvent(room, mx.RoomMessage, obj{"msgtype": "m.file", "body": "common two", "url": "mxc://a/b"})
	bob.SendEvent(room, mx.RoomMessage, obj{"msgtype": "m.text", "body": "common three"})
	alice.SendEvent(room, "m.other", obj{"body": "other"})
	for _, c := range []struct {
		filter string
		want   []string
	}{
		{`{"types":["m.room.message"]}`, []string{"common one", "common two", "common three"}},
		{`{"types":["m.r*m.m*s*"]}`, []string{"common one", "common two", "common three"}},
		{`{"types":["*"],"not_types":["m.o*","m.room.[!m]","m.room.member"]}`, []string{"common one", "common two", "common three"}},
		{`{"types":[]}`, []string{}},
		{`{"not_types":["*"]}`, []string{}},
		{`{"senders":["` + bob.UserID + `"]}`, []string{"common three"}},
		{`{"senders":[]}`, []string{}},
		{`{"senders":["` + bob.UserID + `","` + alice.UserID + `"],"not_senders":["` + alice.UserID + `"]}`, []string{"common three"}},
		{`{"contains_url":true}`, []string{"common two"}},
		{`{"contains_url":false,"types":["m.room.message"]}`, []string{"common one", "common three"}},
		{`{"rooms":["` + room + `"],"types":["m.other"]}`, []string{"other"}},
		{`{"rooms":[]}`, []string{}},
		{`{"rooms":["` + room + `"],"not_rooms":["` + room + `"]}`, []string{}},
	} {
		got := hstest.Bodies(alice.SyncFrom("", `filter={"room":{"timeline":`+strings.Replace(c.filter, "{", `{"limit":50,`, 1)+`}}`).Timeline(room))
		if !slices.Equal(got, c.want) {
			t.Errorf("sync %s: %v", c.filter, got)
		}
		q := "&filter=" + url.QueryEscape(c.filter)
		got = hstest.Bodies(alice.Must("GET", hstest.Room(room)+"/messages?dir=f&limit=50"+q, nil).At("chunk").List())
		if !slices.Equal(got, c.want) {
			t.Errorf("messages %s: %v", c.filter, got)
		}
		v := alice.Must("GET", hstest.Room(room)+"/context/"+url.PathEscape(first)+"?limit=50"+q, nil)
		after := slices.DeleteFunc(slices.Clone(c.want), func(s string) bool { return s == "common one" })
		if got = hstest.Bodies(v.At("events_after").List()); !slices.Equal(got, after) {
			t.Errorf("context %s: %v", c.filter, got)
		}
	}
}

func TestEventFieldsAndFormat(t *testing.T) {
	hs := hstest.New(t, nil)
	alice := hs.Login(t, "alice")
	room := alice.CreateRoom(nil)
	alice.SendEvent(room, "m.test", obj{"a.b": 1, "a": obj{"b": 2, "c": 3}})
	for fields, want := range map[string]string{
		`"content.a\\.b"`:         `{"content":{"a.b":1}}`,
		`"content.a.b"`:           `{"content":{"a":{"b":2}}}`,
		`"content.a","type"`:      `{"content":{"a":{"b":2,"c":3}},"type":"m.test"}`,
		`"content.none.x","none"`: `{}`,
		``:                        `{}`,
	} {
		v := alice.SyncFrom("", `filter={"event_fields":[`+fields+`],"room":{"timeline":{"limit":1}}}`)
		if e := v.Timeline(room); len(e) != 1 || e[0].Text() != want {
			t.Errorf("%s: %v, want %s", fields, e, want)
		}
	}
	e := alice.SyncFrom("", `filter={"event_format":"federation","room":{"timeline":{"limit":1}}}`).Timeline(room)
	if len(e) != 1 || !e[0].Exists("hashes") || !e[0].Exists("prev_events") || e[0].Exists("unsigned") {
		t.Errorf("federation format: %v", e)
	}
}

func TestIgnoredAndAgain(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	ignore := func(users obj) {
		alice.Must("PUT", "/user/"+alice.UserID+"/account_data/m.ignored_user_list", obj{"ignored_users": users})
	}
	ignore(obj{bob.UserID: obj{}})
	alice.Sync()
	id := bob.Send(room, "unheard")
	bob.SendState(room, mx.RoomMember, bob.UserID, obj{"membership": "join", "displayname": "B"})
	bob.Must("POST", hstest.Room(room)+"/receipt/m.read/"+url.PathEscape(id), obj{})
	bob.Must("PUT", hstest.Room(room)+"/typing/"+bob.UserID, obj{"typing": true, "timeout": 30000})
	other := bob.CreateRoom(nil)
	bob.Invite(other, alice)
	v := alice.Sync()
	if got := hstest.Bodies(v.Timeline(room)); len(got) != 0 || hstest.Find(v.Timeline(room), mx.RoomMember, bob.UserID).V == nil {
		t.Errorf("state comes, messages do not: %s", v.Text())
	}
	if strings.Contains(v.Joined(room).At("ephemeral").Text(), bob.UserID) || v.At("rooms").Exists("invite") {
		t.Errorf("of whom alice ignores: %s", v.Text())
	}
	ignore(obj{})
	bob.Send(room, "heard")
	if got := hstest.Bodies(alice.Sync().Timeline(room)); !slices.Equal(got, []string{"heard"}) {
		t.Errorf("no longer ignored: %v", got)
	}
	v = alice.SyncFrom("")
	if got := hstest.Bodies(v.Timeline(room)); !slices.Equal(got, []string{"unheard", "heard"}) || !v.At("rooms", "invite").Exists(other) {
		t.Errorf("from nothing: %s", v.Text())
	}
}

// A sync token is a place in /messages, in both directions; what is none is refused.
func TestSyncTokensInMessages(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	room := alice.CreateRoom(obj{"preset": "public_chat"})
	bob.Join(room)
	alice.Send(room, "before")
	alice.Sync()
	alice.Send(room, "after")
	path := hstest.Room(room) + "/messages?limit=1&from="
	for _, c := range []*hstest.Client{alice, bob} { // a token is a place, whosever it was
		for dir, want := range map[string]string{"b": "before", "f": "after"} {
			if got := hstest.Bodies(c.Must("GET", path+alice.Since+"&dir="+dir, nil).At("chunk").List()); !slices.Equal(got, []string{want}) {
				t.Errorf("%s: %v, want %s", dir, got, want)
			}
		}
	}
	for _, bad := range []string{"s-1", "x", "s1_", "s1e3", "t5"} {
		alice.Fails(400, mx.InvalidParam, "GET", path+bad+"&dir=b", nil)
		alice.Fails(400, mx.InvalidParam, "GET", "/sync?since="+bad, nil)
	}
}
