package push_test

import (
	"fmt"
	"net/url"
	"slices"
	"testing"

	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

// listed are the bodies of a page, those that were read in brackets, and its token.
func listed(c *hstest.Client, query string) (out []string, next string) {
	v := c.Must("GET", "/notifications"+query, nil)
	for _, n := range v.At("notifications").List() {
		s := n.At("event", "content", "body").String()
		if s == "" {
			s = n.At("event", "content", "membership").String()
		}
		if n.At("read").V == true {
			s = "(" + s + ")"
		}
		out = append(out, s)
	}
	return out, v.At("next_token").String()
}

func TestNotifications(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	if got, next := listed(bob, ""); got != nil || next != "" {
		t.Errorf("%v %q", got, next)
	}
	one := alice.CreateRoom(m{"preset": "public_chat"})
	two := alice.CreateRoom(m{"preset": "public_chat"})
	alice.Send(one, "before bob came")
	bob.Join(one)
	bob.Join(two)
	alice.Send(one, "a")
	read := alice.Send(two, "b")
	bob.Must("POST", hstest.Room(two)+"/receipt/m.read/"+read, m{})
	alice.SendEvent(two, mx.RoomMessage, m{"msgtype": "m.notice", "body": "quiet"})
	alice.SendEvent(two, mx.RoomMessage, m{"msgtype": "m.text", "body": "c", "m.mentions": m{"user_ids": []string{bob.UserID}}})
	gone := alice.Send(one, "redacted")
	alice.Redact(one, gone)
	bob.SendEvent(one, mx.RoomMessage, m{"msgtype": "m.text", "body": "mine"})
	alice.Send(one, "d")
	invited := alice.CreateRoom(m{"invite": []string{bob.UserID}})

	want := []string{"invite", "d", "c", "(b)", "(a)"}
	if got, next := listed(bob, ""); !slices.Equal(got, want) || next != "" {
		t.Errorf("%v %q, want %v", got, next, want)
	}
	if got, _ := listed(bob, "?only=highlight"); !slices.Equal(got, []string{"c"}) {
		t.Errorf("highlights: %v", got)
	}
	var all []string
	for next := ""; ; {
		got, n := listed(bob, "?limit=2&from="+url.QueryEscape(next))
		if len(got) > 2 {
			t.Fatalf("more than two: %v", got)
		}
		all = append(all, got...)
		if next = n; n == "" {
			break
		}
	}
	if !slices.Equal(all, want) {
		t.Errorf("by pages: %v, want %v", all, want)
	}
	first := bob.Must("GET", "/notifications?limit=1", nil).At("notifications").List()[0]
	if first.At("room_id").String() != invited || first.At("ts").V == nil || first.At("event", "room_id").V != nil ||
		first.At("actions").List()[0].String() != "notify" {
		t.Errorf("%s", first.Text())
	}
	// Highlights by pages, over what is none.
	alice.SendEvent(one, mx.RoomMessage, m{"msgtype": "m.text", "body": "e", "m.mentions": m{"user_ids": []string{bob.UserID}}})
	all = nil
	for next := ""; ; {
		got, n := listed(bob, "?only=highlight&limit=1&from="+next)
		if all = append(all, got...); n == "" {
			break
		}
		next = n
	}
	if !slices.Equal(all, []string{"e", "c"}) {
		t.Errorf("highlights by pages: %v", all)
	}
	// A room of one's own says nothing; a room that was left neither.
	if got, _ := listed(alice, ""); !slices.Equal(got, []string{"mine"}) && !slices.Equal(got, []string{"(mine)"}) {
		t.Errorf("alice: %v", got)
	}
	bob.Leave(one)
	if got, _ := listed(bob, ""); !slices.Equal(got, []string{"invite", "c", "(b)"}) {
		t.Errorf("after leaving: %v", got)
	}
	for _, q := range []string{"?limit=0", "?limit=x", "?only=all", "?from=x", "?from=-1"} {
		bob.Fails(400, mx.InvalidParam, "GET", "/notifications"+q, nil)
	}
	// Many: what is counted as a sum is unread too, and no page is too long.
	for i := range 450 {
		alice.Send(two, fmt.Sprint(i))
	}
	n, unread := 0, 0
	for next := ""; ; {
		got, more := listed(bob, "?limit=1000&from="+next)
		for _, s := range got {
			if n++; s[0] != '(' {
				unread++
			}
		}
		if next = more; more == "" {
			break
		}
	}
	if n != 453 || unread != 452 {
		t.Errorf("%d are listed, %d of them unread, want 453 and 452", n, unread)
	}
}

// The creators of a room of version 12 stand in no power levels, and may notify the
// whole room; others need the power.
func TestRoomMention(t *testing.T) {
	hs := hstest.New(t, nil)
	alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
	for _, version := range []string{"11", "12"} {
		room := alice.CreateRoom(m{"preset": "public_chat", "room_version": version})
		bob.Join(room)
		all := m{"msgtype": "m.text", "body": version, "m.mentions": m{"room": true}}
		alice.SendEvent(room, mx.RoomMessage, all)
		bob.SendEvent(room, mx.RoomMessage, all)
	}
	if got, _ := listed(bob, "?only=highlight"); !slices.Equal(got, []string{"(12)", "(11)"}) {
		t.Errorf("bob: %v", got)
	}
	if got, _ := listed(alice, "?only=highlight"); got != nil {
		t.Errorf("alice: %v", got)
	}
}
