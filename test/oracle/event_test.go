package oracle

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	mpdu "maunium.net/go/mautrix/federation/pdu"
	"maunium.net/go/mautrix/id"

	"holdfast/homeserver/pdu"
)

var versions = []pdu.Version{pdu.V3, pdu.V4, pdu.V5, pdu.V6, pdu.V7, pdu.V8, pdu.V9, pdu.V10, pdu.V11, pdu.V12}

func keyOf(string, id.KeyID, time.Time) (id.SigningKey, time.Time, error) {
	return id.SigningKey(base64.RawStdEncoding.EncodeToString(signer.Public())), time.Unix(1<<40, 0), nil
}

func canonical(t *testing.T, raw []byte) []byte {
	t.Helper()
	v := jsontext.Value(bytes.Clone(raw))
	if err := v.Canonicalize(); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return v
}

func mautrixEvent(t *testing.T, raw []byte) *mpdu.PDU {
	t.Helper()
	var e mpdu.PDU
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatalf("mautrix: %v: %s", err, raw)
	}
	return &e
}

// TestCanonical compares canonical JSON.
func TestCanonical(t *testing.T) {
	r := newRandom(t)
	for i := range rounds {
		r.tame = i%2 == 0
		raw := []byte(r.value(5))
		ours, err := pdu.Canonical(raw)
		if err != nil {
			t.Fatalf("%v: %s", err, raw)
		}
		// gomatrixserverlib 2026-05 drops or mixes up some escapes of control
		// characters, so that it only sees every other case; jsontext follows RFC
		// 8785, which sorts like Matrix as long as no key begins above U+E000.
		v := jsontext.Value(bytes.Clone(raw))
		if err := v.Canonicalize(); err != nil {
			t.Fatalf("jsontext: %v: %s", err, raw)
		}
		if !bytes.Equal(ours, v) {
			t.Fatalf("canonical form differs\nraw      %s\nours     %s\njsontext %s", raw, ours, v)
		}
		if !r.tame {
			continue
		}
		theirs, err := gomatrixserverlib.CanonicalJSON(raw)
		if err != nil || !bytes.Equal(ours, theirs) {
			t.Fatalf("canonical form differs\nraw    %s\nours   %s\ntheirs %s", raw, ours, theirs)
		}
	}
}

// TestBuild compares hashes, signatures, event IDs and redaction of our events.
func TestBuild(t *testing.T) {
	r := newRandom(t)
	for i := range rounds {
		r.tame = i%2 == 0
		v := versions[r.IntN(len(versions))]
		p := r.proto(v)
		e, err := pdu.Build(v, p, signer)
		if err != nil {
			t.Fatalf("%v: %+v", err, p)
		}
		compare(t, v, e.ID, e.JSON(), r.tame)

		// What mautrix builds from the same parts is the same to the byte.
		if mautrixKeepsRedacts(v, p.Type, p.Redacts) {
			continue
		}
		m := &mpdu.PDU{Content: jsontext.Value(p.Content), Depth: p.Depth, OriginServerTS: p.OriginServerTS, RoomID: id.RoomID(p.RoomID),
			Sender: id.UserID(p.Sender), StateKey: p.StateKey, Type: p.Type, AuthEvents: []id.EventID{}, PrevEvents: []id.EventID{}}
		for _, x := range p.AuthEvents {
			m.AuthEvents = append(m.AuthEvents, id.EventID(x))
		}
		for _, x := range p.PrevEvents {
			m.PrevEvents = append(m.PrevEvents, id.EventID(x))
		}
		if p.Redacts != "" {
			if v.RedactsInContent() {
				m.Content = jsontext.Value(e.Content)
			} else {
				redacts := id.EventID(p.Redacts)
				m.Redacts = &redacts
			}
		}
		if v.RoomIDIsHash() && p.Type == "m.room.create" {
			m.RoomID = ""
		}
		if err := m.FillContentHash(); err != nil {
			t.Fatal(err)
		}
		if err := m.Sign(id.RoomVersion(v), signer.Server, id.KeyID(signer.ID), signer.Private); err != nil {
			t.Fatal(err)
		}
		theirs, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if theirs = canonical(t, theirs); !bytes.Equal(theirs, e.JSON()) {
			t.Fatalf("v%s: built differently\nours    %s\nmautrix %s", v, e.JSON(), theirs)
		}
	}
}

// TestBuildOld does the same for versions 1 and 2, whose events carry an ID and the
// hashes of those they name; mautrix does not know their form.
func TestBuildOld(t *testing.T) {
	r := newRandom(t)
	r.tame = true
	for i := range rounds {
		v := []pdu.Version{pdu.V1, pdu.V2}[i%2]
		p := r.proto(v)
		p.EventID, p.Hashes = r.id("$")+":one.example", map[string]string{}
		for _, list := range [][]string{p.PrevEvents, p.AuthEvents} {
			for _, id := range list {
				p.Hashes[id] = r.id("$")[1:]
			}
		}
		e, err := pdu.Build(v, p, signer)
		if err != nil {
			t.Fatalf("%v: %+v", err, p)
		}
		room := gomatrixserverlib.MustGetRoomVersion(gomatrixserverlib.RoomVersion(v))
		g, err := room.NewEventFromUntrustedJSON(e.JSON())
		if err != nil {
			t.Fatalf("v%s: gomatrixserverlib refuses: %v\n%s", v, err, e.JSON())
		}
		if g.Redacted() || g.EventID() != e.ID || !slices.Equal(g.PrevEventIDs(), p.PrevEvents) || !slices.Equal(g.AuthEventIDs(), p.AuthEvents) {
			t.Fatalf("v%s: gomatrixserverlib reads %s, %v, %v (redacted %v) in\n%s", v, g.EventID(), g.PrevEventIDs(), g.AuthEventIDs(), g.Redacted(), e.JSON())
		}
		redacted, err := room.RedactEventJSON(e.JSON())
		if err != nil {
			t.Fatal(err)
		}
		if err := gomatrixserverlib.VerifyJSON(signer.Server, gomatrixserverlib.KeyID(signer.ID), signer.Public(), redacted); err != nil {
			t.Fatalf("v%s: gomatrixserverlib: %v\n%s", v, err, e.JSON())
		}
		again, err := pdu.Parse(v, "", e.JSON())
		if err != nil || again.ID != e.ID || !slices.Equal(again.PrevEvents, p.PrevEvents) {
			t.Fatalf("v%s: read back as %+v: %v", v, again, err)
		}
	}
}

// mautrixKeepsRedacts: mautrix 0.29 keeps the top-level redacts of redactions up to
// version 10 when it redacts them; the specification's list does not have it.
func mautrixKeepsRedacts(v pdu.Version, typ, redacts string) bool {
	return !v.RedactsInContent() && typ == "m.room.redaction" && redacts != ""
}

// compare checks what all three make of an event; gomatrixserverlib only looks at
// tame ones.
func compare(t *testing.T, v pdu.Version, eventID string, raw []byte, tame bool) {
	t.Helper()
	m := mautrixEvent(t, raw)
	if !m.VerifyContentHash() {
		t.Fatalf("v%s: mautrix finds another content hash\n%s", v, raw)
	}
	if m.Redacts == nil || !mautrixKeepsRedacts(v, m.Type, string(*m.Redacts)) {
		if mid, err := m.GetEventID(id.RoomVersion(v)); err != nil || string(mid) != eventID {
			t.Fatalf("v%s: event ID %s, mautrix %s %v\n%s", v, eventID, mid, err, raw)
		}
		if err := m.VerifySignature(id.RoomVersion(v), signer.Server, keyOf); err != nil {
			t.Fatalf("v%s: mautrix: %v\n%s", v, err, raw)
		}
	}
	compareRedaction(t, v, raw, tame)
	if !tame {
		return
	}
	room := gomatrixserverlib.MustGetRoomVersion(gomatrixserverlib.RoomVersion(v))
	g, err := room.NewEventFromUntrustedJSON(raw)
	if err != nil {
		t.Fatalf("v%s: gomatrixserverlib refuses: %v\n%s", v, err, raw)
	}
	if g.Redacted() {
		t.Fatalf("v%s: gomatrixserverlib finds another content hash\n%s", v, raw)
	}
	if g.EventID() != eventID {
		t.Fatalf("v%s: event ID %s, gomatrixserverlib %s\n%s", v, eventID, g.EventID(), raw)
	}
	redacted, err := room.RedactEventJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := gomatrixserverlib.VerifyJSON(signer.Server, gomatrixserverlib.KeyID(signer.ID), signer.Public(), redacted); err != nil {
		t.Fatalf("v%s: gomatrixserverlib: %v\n%s", v, err, raw)
	}
}

func compareRedaction(t *testing.T, v pdu.Version, raw []byte, tame bool) {
	t.Helper()
	ours, err := pdu.Redact(v, raw)
	if err != nil {
		t.Fatal(err)
	}
	room := gomatrixserverlib.MustGetRoomVersion(gomatrixserverlib.RoomVersion(v))
	theirs, err := room.RedactEventJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	// gomatrixserverlib keeps unsigned in its redacted events, and loses keys that
	// need escapes.
	g := map[string]jsontext.Value{}
	if err := json.Unmarshal(theirs, &g); err != nil {
		t.Fatal(err)
	}
	delete(g, "unsigned")
	theirs, _ = json.Marshal(g)
	if theirs = canonical(t, theirs); tame && !bytes.Equal(ours, theirs) {
		t.Fatalf("v%s: redacted differently\nraw    %s\nours   %s\ngmsl   %s", v, raw, ours, theirs)
	}
	mautrix := mautrixEvent(t, raw)
	if mautrix.Redacts != nil && mautrixKeepsRedacts(v, mautrix.Type, string(*mautrix.Redacts)) {
		return
	}
	m, err := json.Marshal(mautrix.Redact(id.RoomVersion(v)))
	if err != nil {
		t.Fatal(err)
	}
	if m = canonical(t, m); !bytes.Equal(ours, m) {
		t.Fatalf("v%s: redacted differently\nraw     %s\nours    %s\nmautrix %s", v, raw, ours, m)
	}
}

// TestReceive reads events that gomatrixserverlib built, with fields that our own
// events do not have.
func TestReceive(t *testing.T) {
	r := newRandom(t)
	r.tame = true
	for range rounds / 3 {
		v := versions[r.IntN(len(versions))]
		p := r.proto(v)
		room := gomatrixserverlib.MustGetRoomVersion(gomatrixserverlib.RoomVersion(v))
		b := room.NewEventBuilder()
		b.SenderID, b.RoomID, b.Type, b.StateKey = p.Sender, p.RoomID, p.Type, p.StateKey
		b.PrevEvents, b.AuthEvents, b.Depth, b.Content = p.PrevEvents, p.AuthEvents, p.Depth, spec.RawJSON(p.Content)
		if !v.RedactsInContent() {
			b.Redacts = p.Redacts
		}
		if v.RoomIDIsHash() && p.Type == "m.room.create" {
			b.RoomID = ""
		}
		g, err := b.Build(time.UnixMilli(p.OriginServerTS), "one.example", gomatrixserverlib.KeyID(signer.ID), signer.Private)
		if err != nil {
			t.Fatalf("v%s: %v", v, err)
		}
		e, redacted, err := pdu.Receive(v, g.JSON())
		if err != nil || redacted {
			t.Fatalf("v%s: refused (redacted %v): %v\n%s", v, redacted, err, g.JSON())
		}
		if e.ID != g.EventID() {
			t.Fatalf("v%s: event ID %s, theirs %s\n%s", v, e.ID, g.EventID(), g.JSON())
		}
		if err := pdu.Verify(v, e.JSON(), signer.Server, signer.ID, signer.Public()); err != nil {
			t.Fatalf("v%s: %v\n%s", v, err, g.JSON())
		}
		other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte("o"), 32)).Public().(ed25519.PublicKey)
		if pdu.Verify(v, e.JSON(), signer.Server, signer.ID, other) == nil {
			t.Fatalf("v%s: another key verifies", v)
		}
		compareRedaction(t, v, e.JSON(), true)

		// A changed body must not pass as it is; the ID stays.
		changed := append(append(bytes.TrimSuffix(bytes.Clone(e.JSON()), []byte("}")), `,"zzz":1`...), '}')
		c, redacted, err := pdu.Receive(v, changed)
		if err != nil || !redacted || c.ID != e.ID {
			t.Fatalf("v%s: a changed event: redacted %v, %v", v, redacted, err)
		}
		h, err := room.NewEventFromUntrustedJSON(changed)
		if err != nil || !h.Redacted() || h.EventID() != c.ID {
			t.Fatalf("v%s: a changed event to gomatrixserverlib: %v", v, err)
		}
	}
}

// TestSignJSON compares signatures of plain objects.
func TestSignJSON(t *testing.T) {
	r := newRandom(t)
	r.tame = true
	for range rounds / 3 {
		raw := []byte(r.object(3, map[string]string{"unsigned": `{"x":1}`}))
		ours, err := pdu.SignJSON(raw, signer)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := gomatrixserverlib.SignJSON(signer.Server, gomatrixserverlib.KeyID(signer.ID), signer.Private, raw)
		if err != nil {
			t.Fatal(err)
		}
		if theirs = canonical(t, theirs); !bytes.Equal(ours, theirs) {
			t.Fatalf("signed differently\nours %s\ngmsl %s", ours, theirs)
		}
		if err := pdu.VerifyJSON(theirs, signer.Server, signer.ID, signer.Public()); err != nil {
			t.Fatal(err)
		}
	}
}
