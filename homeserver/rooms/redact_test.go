package rooms_test

import (
	"slices"
	"testing"

	"holdfast/homeserver"
	"holdfast/homeserver/hstest"
	"holdfast/homeserver/mx"
)

// What relates to a redacted event goes with it where that is asked for, as far as
// the sender may redact it. Spec: MSC3912
func TestRedactRelated(t *testing.T) {
	for _, body := range []string{"with_rel_types", "org.matrix.msc3912.with_relations"} {
		hs := hstest.New(t, nil)
		alice, bob := hs.Login(t, "alice"), hs.Login(t, "bob")
		room := alice.CreateRoom(obj{"preset": "public_chat"})
		bob.Join(room)
		relate := func(c *hstest.Client, to, rel, text string) string {
			content := obj{"msgtype": "m.text", "body": text, "m.relates_to": obj{"rel_type": rel, "event_id": to}}
			if rel == mx.RelReplace {
				content["m.new_content"] = obj{"msgtype": "m.text", "body": text}
			}
			return c.SendEvent(room, "m.room.message", content)
		}
		gone := func(id string) bool {
			return alice.Must("GET", hstest.Room(room)+"/event/"+id, nil).At("unsigned").Exists("redacted_because")
		}
		message := bob.Send(room, "hello")
		edit := relate(bob, message, mx.RelReplace, "hello!")
		editOfEdit := relate(bob, edit, mx.RelReplace, "no edit that counts")
		forged := relate(alice, message, mx.RelReplace, "not by its author")
		mine, hers := relate(bob, message, mx.RelThread, "mine"), relate(alice, message, mx.RelThread, "hers")
		reference := relate(bob, message, mx.RelReference, "points at it")

		bob.Fails(400, mx.InvalidParam, "PUT", hstest.Room(room)+"/redact/"+message+"/many", obj{body: slices.Repeat([]string{"m.x"}, 21)})
		bob.Must("PUT", hstest.Room(room)+"/redact/"+message+"/one", obj{body: []string{mx.RelReplace, mx.RelThread}, "reason": "regret"})
		for id, want := range map[string]bool{message: true, edit: true, mine: true, editOfEdit: false, forged: false, hers: false, reference: false} {
			if gone(id) != want {
				t.Errorf("%s: event redacted: %v\n%s", body, !want, alice.Must("GET", hstest.Room(room)+"/event/"+id, nil).Text())
			}
		}
		if got := alice.Must("GET", hstest.Room(room)+"/event/"+edit, nil).At("unsigned", "redacted_because", "content", "reason").String(); got != "regret" {
			t.Errorf("the reason at what went along: %q", got)
		}
		// The moderator does the same to the rest, and the request may be repeated.
		for range 2 {
			alice.Must("PUT", hstest.Room(room)+"/redact/"+message+"/two", obj{body: []string{"*"}})
		}
		if !gone(hers) || !gone(reference) || gone(forged) || gone(editOfEdit) {
			t.Error("the moderator's redaction took the wrong events along")
		}
		redactions := 0
		for _, e := range alice.Must("GET", hstest.Room(room)+"/messages?dir=b&limit=100", nil).At("chunk").List() {
			if e.At("type").String() == mx.RoomRedaction {
				redactions++
			}
		}
		if redactions != 6 {
			t.Errorf("%d redactions, 6 expected", redactions)
		}
	}
}

// A server may demand that rooms are encrypted.
func TestForcedEncryption(t *testing.T) {
	hs := hstest.New(t, func(o *homeserver.Options) {
		o.ForcesEncryption = func(preset string) bool { return preset != "public_chat" }
	})
	alice := hs.Login(t, "alice")
	features := alice.Must("GET", "/_matrix/client/versions", nil).At("unstable_features")
	for preset, want := range map[string]bool{"public": false, "private": true, "trusted_private": true} {
		if got := features.At("io.element.e2ee_forced." + preset); !features.Exists("io.element.e2ee_forced."+preset) || got.Bool() != want {
			t.Errorf("io.element.e2ee_forced.%s: %s", preset, got.Text())
		}
	}
	encryption := func(o obj) hstest.Answer {
		return alice.Do("GET", hstest.Room(alice.CreateRoom(o))+"/state/m.room.encryption", nil)
	}
	for name, o := range map[string]obj{
		"plain":        {},
		"private":      {"preset": "private_chat"},
		"trusted":      {"preset": "trusted_private_chat", "is_direct": true},
		"no algorithm": {"initial_state": []obj{{"type": "m.room.encryption", "content": obj{}}}},
	} {
		if a := encryption(o); a.Status != 200 || a.JSON.At("algorithm").String() != "m.megolm.v1.aes-sha2" {
			t.Errorf("%s: %d %s", name, a.Status, a.JSON.Text())
		}
	}
	own := obj{"initial_state": []obj{{"type": "m.room.encryption", "content": obj{"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 7}}}}
	if a := encryption(own); a.JSON.At("rotation_period_msgs").Int() != 7 {
		t.Errorf("the client's own settings are lost: %s", a.JSON.Text())
	}
	for name, o := range map[string]obj{
		"public":  {"preset": "public_chat"},
		"visible": {"visibility": "public"},
		"space":   {"creation_content": obj{"type": "m.space"}},
	} {
		if a := encryption(o); a.Status != 404 {
			t.Errorf("%s: %d %s", name, a.Status, a.JSON.Text())
		}
	}
}
