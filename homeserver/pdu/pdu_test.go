package pdu

import (
	"crypto/ed25519"
	"strings"
	"testing"

	"holdfast/homeserver/mx"
)

func testKey() SigningKey {
	return SigningKey{ID: "ed25519:a1", Server: "hs.example", Private: ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", 32)))}
}

func ptr[T any](v T) *T { return &v }

func message(content string) Proto {
	return Proto{RoomID: "!room:hs.example", Type: "m.room.message", Sender: "@alice:hs.example", Content: []byte(content),
		OriginServerTS: 1700000000000, Depth: 12, PrevEvents: []string{"$" + strings.Repeat("p", 43)},
		AuthEvents: []string{"$" + strings.Repeat("a", 43), "$" + strings.Repeat("b", 43), "$" + strings.Repeat("c", 43)}}
}

func TestBuildParse(t *testing.T) {
	key := testKey()
	for _, v := range []Version{V3, V6, V10, V11, V12} {
		for name, p := range map[string]Proto{
			"message":   message(`{"msgtype":"m.text", "body":"h\u00e9 \"q\" \\ \n"}`),
			"redaction": {RoomID: "!r:hs.example", Type: mx.RoomRedaction, Sender: "@a:hs.example", Content: []byte(`{"reason":"x"}`), Redacts: "$" + strings.Repeat("r", 43)},
			"create":    {RoomID: "!r:hs.example", Type: mx.RoomCreate, StateKey: ptr(""), Sender: "@a:hs.example", Content: []byte(`{"room_version":"` + string(v) + `"}`)},
			"member":    {RoomID: "!r:hs.example", Type: mx.RoomMember, StateKey: ptr("@a:hs.example"), Sender: "@a:hs.example", Content: []byte(`{"membership":"join","displayname":"A"}`)},
		} {
			e, err := Build(v, p, key)
			if err != nil {
				t.Fatalf("v%s %s: %v", v, name, err)
			}
			c, err := Canonical(e.JSON())
			if err != nil || string(c) != string(e.JSON()) {
				t.Errorf("v%s %s: not canonical (%v):\n%s\n%s", v, name, err, e.JSON(), c)
			}
			if !HashMatches(e.JSON()) {
				t.Errorf("v%s %s: content hash is wrong", v, name)
			}
			if err := Verify(v, e.JSON(), key.Server, key.ID, key.Public()); err != nil {
				t.Errorf("v%s %s: %v", v, name, err)
			}
			back, err := Parse(v, "", e.JSON())
			if err != nil {
				t.Fatalf("v%s %s: %v", v, name, err)
			}
			if back.ID != e.ID || back.RoomID != e.RoomID || back.Redacts != e.Redacts || back.Depth != e.Depth || string(back.Content) != string(e.Content) || len(back.AuthEvents) != len(e.AuthEvents) {
				t.Errorf("v%s %s: parsed back as %+v, built %+v", v, name, back, e)
			}
			r, redacted, err := Receive(v, e.JSON())
			if err != nil || redacted || r.ID != e.ID {
				t.Errorf("v%s %s: received as %+v %v %v", v, name, r, redacted, err)
			}
			// The ID and the signature survive redaction.
			red, err := Redact(v, e.JSON())
			if err != nil {
				t.Fatal(err)
			}
			if id, _ := ID(v, red); id != e.ID {
				t.Errorf("v%s %s: redaction changed the ID", v, name)
			}
			if err := Verify(v, red, key.Server, key.ID, key.Public()); err != nil {
				t.Errorf("v%s %s: redacted: %v", v, name, err)
			}
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	key := testKey()
	p := message(`{"msgtype":"m.text","body":"Hello, this is a message of a usual length.","m.mentions":{"user_ids":["@bob:hs.example"]}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Build(V11, p, key); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	e, err := Build(V11, message(`{"msgtype":"m.text","body":"Hello, this is a message of a usual length."}`), testKey())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(V11, e.ID, e.JSON()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendClient(b *testing.B) {
	e, err := Build(V11, message(`{"msgtype":"m.text","body":"Hello, this is a message of a usual length."}`), testKey())
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = e.AppendClient(buf[:0], ClientOptions{OmitRoomID: true, Now: 1700000000100, Membership: "join"})
	}
}
