package pdu

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"holdfast/homeserver/mx"
)

// TestVectors are the examples of the specification. Spec: appendices#cryptographic-test-vectors
func TestVectors(t *testing.T) {
	seed, err := base64.RawStdEncoding.DecodeString("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	key := SigningKey{ID: "ed25519:1", Server: "domain", Private: ed25519.NewKeyFromSeed(seed)}
	for in, want := range map[string]string{
		`{}`:                    `{"signatures":{"domain":{"ed25519:1":"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"}}}`,
		`{"one":1,"two":"Two"}`: `{"one":1,"signatures":{"domain":{"ed25519:1":"KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"}},"two":"Two"}`,
	} {
		got, err := SignJSON([]byte(in), key)
		if err != nil || string(got) != want {
			t.Errorf("%s is signed %s %v\nwant %s", in, got, err, want)
		}
		if err := VerifyJSON(got, "domain", "ed25519:1", key.Public()); err != nil {
			t.Error(err)
		}
	}
	// The example event is of the first room version.
	raw, err := Canonical([]byte(`{"content":{"body":"Here is the message content"},"event_id":"$0:domain","hashes":{"sha256":"onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g"},"origin":"domain","origin_server_ts":1000000,"type":"m.room.message","room_id":"!r:domain","sender":"@u:domain","signatures":{"domain":{"ed25519:1":"Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"}},"unsigned":{"age_ts":1000000}}`))
	if err != nil {
		t.Fatal(err)
	}
	if !HashMatches(raw) {
		t.Error("the content hash of the example is not found")
	}
	if err := Verify(V1, raw, "domain", "ed25519:1", key.Public()); err != nil {
		t.Errorf("the signature of the example: %v", err)
	}
}

func mxCode(err error) mx.Code {
	var e *mx.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func TestBuildRefuses(t *testing.T) {
	long := strings.Repeat("x", 256)
	for name, c := range map[string]struct {
		v      Version
		change func(*Proto)
		code   mx.Code
	}{
		"unknown version":  {"x", func(*Proto) {}, mx.UnsupportedRoom},
		"long type":        {V11, func(p *Proto) { p.Type = long }, mx.TooLarge},
		"long state key":   {V11, func(p *Proto) { p.StateKey = &long }, mx.TooLarge},
		"long sender":      {V11, func(p *Proto) { p.Sender = "@" + long }, mx.TooLarge},
		"list":             {V11, func(p *Proto) { p.Content = []byte(`[]`) }, mx.BadJSON},
		"nothing":          {V11, func(p *Proto) { p.Content = nil }, mx.BadJSON},
		"broken":           {V11, func(p *Proto) { p.Content = []byte(`{"a":`) }, mx.NotJSON},
		"two objects":      {V11, func(p *Proto) { p.Content = []byte(`{}{}`) }, mx.NotJSON},
		"fraction":         {V11, func(p *Proto) { p.Content = []byte(`{"a":1.5}`) }, mx.BadJSON},
		"time":             {V11, func(p *Proto) { p.OriginServerTS = 1 << 53 }, mx.BadJSON},
		"depth":            {V11, func(p *Proto) { p.Depth = -1 }, mx.BadJSON},
		"large":            {V11, func(p *Proto) { p.Content = []byte(`{"body":"` + strings.Repeat("x", 65000) + `"}`) }, mx.TooLarge},
		"very large":       {V11, func(p *Proto) { p.Content = []byte(`{"body":"` + strings.Repeat("x", 70000) + `"}`) }, mx.TooLarge},
		"broken redaction": {V11, func(p *Proto) { p.Redacts, p.Content = "$x", []byte(`{"a`) }, mx.NotJSON},
	} {
		p := message(`{}`)
		c.change(&p)
		if _, err := Build(c.v, p, testKey()); mxCode(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	// The largest event there is: its size is that of the signed PDU.
	p := message(`{"body":""}`)
	e, err := Build(V11, p, testKey())
	if err != nil {
		t.Fatal(err)
	}
	for spare, want := range map[int]mx.Code{0: "", 1: mx.TooLarge} {
		p.Content = []byte(`{"body":"` + strings.Repeat("x", MaxPDUBytes-len(e.JSON())+spare) + `"}`)
		got, err := Build(V11, p, testKey())
		if mxCode(err) != want || err == nil && len(got.JSON()) != MaxPDUBytes {
			t.Errorf("%d bytes beyond the limit: %v", spare, err)
		}
	}
	if _, err := Build(V5, Proto{RoomID: "!r:hs", Sender: "@a:hs", Type: "x", Content: []byte(`{"a":1.5}`)}, testKey()); err != nil {
		t.Errorf("a fraction in version 5: %v", err)
	}
}

func TestRedactionEvent(t *testing.T) {
	for _, c := range []struct {
		v        Version
		top, con bool
	}{{V10, true, false}, {V11, false, true}, {V12, false, true}} {
		e, err := Build(c.v, Proto{RoomID: "!r:hs", Sender: "@a:hs", Type: mx.RoomRedaction, Content: []byte(`{"reason":"r"}`), Redacts: "$target"}, testKey())
		if err != nil {
			t.Fatal(err)
		}
		if top, con := Field(e.JSON(), "redacts") != nil, Field(e.Content, "redacts") != nil; top != c.top || con != c.con || e.Redacts != "$target" {
			t.Errorf("v%s: redacts at the top %v, in the content %v", c.v, top, con)
		}
		// Clients find it in both places.
		var client struct {
			Redacts string
			Content struct{ Redacts, Reason string }
		}
		if err := json.Unmarshal(e.AppendClient(nil, ClientOptions{}), &client); err != nil || client.Redacts != "$target" || client.Content.Redacts != "$target" || client.Content.Reason != "r" {
			t.Errorf("v%s: to clients %+v %v", c.v, client, err)
		}
	}
}

func TestAppendClient(t *testing.T) {
	p := message(`{"body":"x"}`)
	p.StateKey = ptr("k\"")
	e, err := Build(V11, p, testKey())
	if err != nil {
		t.Fatal(err)
	}
	got := string(e.AppendClient([]byte("-"), ClientOptions{}))
	want := `-{"content":{"body":"x"},"event_id":"` + e.ID + `","origin_server_ts":1700000000000,"room_id":"!room:hs.example","sender":"@alice:hs.example","state_key":"k\"","type":"m.room.message","unsigned":{}}`
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	got = string(e.AppendClient(nil, ClientOptions{OmitRoomID: true, Now: 1700000000500, TransactionID: "t", Membership: "join", PrevContent: []byte(`{"a":1}`), ReplacesState: "$r",
		Relations: []byte(`{"m.thread":{}}`), RedactedBecause: []byte(`{}`), Extra: []byte(`{"x":{"y":[1]},"z":"\""}`), DelayID: "d"}))
	want = `{"content":{"body":"x"},"event_id":"` + e.ID + `","origin_server_ts":1700000000000,"sender":"@alice:hs.example","state_key":"k\"","type":"m.room.message","unsigned":{"age":500,"m.relations":{"m.thread":{}},"membership":"join","prev_content":{"a":1},"redacted_because":{},"replaces_state":"$r","transaction_id":"t","org.matrix.msc4140.delay_id":"d","x":{"y":[1]},"z":"\""}}`
	if got != want || !json.Valid([]byte(got)) {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := string(e.AppendStripped(nil)); got != `{"content":{"body":"x"},"sender":"@alice:hs.example","state_key":"k\"","type":"m.room.message"}` {
		t.Errorf("%s", got)
	}
}

func TestRedactContent(t *testing.T) {
	all := `{"aliases":1,"allow":1,"ban":1,"creator":1,"events":1,"events_default":1,"history_visibility":1,"invite":1,"join_authorised_via_users_server":1,"join_rule":1,"kick":1,"membership":1,"notifications":1,"redact":1,"redacts":1,"state_default":1,"third_party_invite":{"display_name":1,"signed":{"x":1}},"users":1,"users_default":1}`
	for _, c := range []struct {
		typ      string
		from, to int // versions
		want     string
	}{
		{mx.RoomMember, 1, 8, `{"membership":1}`},
		{mx.RoomMember, 9, 10, `{"join_authorised_via_users_server":1,"membership":1}`},
		{mx.RoomMember, 11, 12, `{"join_authorised_via_users_server":1,"membership":1,"third_party_invite":{"signed":{"x":1}}}`},
		{mx.RoomCreate, 1, 10, `{"creator":1}`},
		{mx.RoomCreate, 11, 12, all},
		{mx.RoomJoinRules, 1, 7, `{"join_rule":1}`},
		{mx.RoomJoinRules, 8, 12, `{"allow":1,"join_rule":1}`},
		{mx.RoomPowerLevels, 1, 10, `{"ban":1,"events":1,"events_default":1,"kick":1,"redact":1,"state_default":1,"users":1,"users_default":1}`},
		{mx.RoomPowerLevels, 11, 12, `{"ban":1,"events":1,"events_default":1,"invite":1,"kick":1,"redact":1,"state_default":1,"users":1,"users_default":1}`},
		{mx.RoomAliases, 1, 5, `{"aliases":1}`},
		{mx.RoomAliases, 6, 12, `{}`},
		{mx.RoomHistoryVisibility, 1, 12, `{"history_visibility":1}`},
		{mx.RoomRedaction, 1, 10, `{}`},
		{mx.RoomRedaction, 11, 12, `{"redacts":1}`},
		{mx.RoomMessage, 1, 12, `{}`},
	} {
		for i, v := range []Version{V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12} {
			if n := i + 1; n < c.from || n > c.to {
				continue
			}
			if got := string(RedactContent(v, c.typ, []byte(all))); got != c.want {
				t.Errorf("v%s %s: %s\nwant %s", v, c.typ, got, c.want)
			}
		}
	}
	raw := []byte(`{"content":{},"membership":"x","origin":"o","other":1,"prev_state":[],"type":"x","unsigned":{}}`)
	for v, want := range map[Version]string{V10: `{"content":{},"membership":"x","origin":"o","prev_state":[],"type":"x"}`, V11: `{"content":{},"type":"x"}`} {
		if got, err := Redact(v, raw); err != nil || string(got) != want {
			t.Errorf("v%s: %s %v", v, got, err)
		}
	}
}

func TestReceive(t *testing.T) {
	good, err := Build(V11, message(`{"body":"x"}`), testKey())
	if err != nil {
		t.Fatal(err)
	}
	set := func(key, value string) []byte {
		b, err := without(good.JSON(), key)
		if err != nil {
			t.Fatal(err)
		}
		if value == "" {
			return b
		}
		b, err = Canonical(append(append(b[:len(b)-1], `,"`+key+`":`+value...), '}'))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string]struct {
		v    Version
		raw  []byte
		code mx.Code
	}{
		"version":        {"x", good.JSON(), mx.UnsupportedRoom},
		"broken":         {V11, []byte(`{`), mx.NotJSON},
		"list":           {V11, []byte(`[]`), mx.BadJSON},
		"no type":        {V11, set("type", ""), mx.BadJSON},
		"no content":     {V11, set("content", ""), mx.BadJSON},
		"type number":    {V11, set("type", "1"), mx.BadJSON},
		"depth text":     {V11, set("depth", `"1"`), mx.BadJSON},
		"depth below 0":  {V11, set("depth", `-1`), mx.BadJSON},
		"prev_events":    {V11, set("prev_events", `[["$a",{}]]`), mx.BadJSON},
		"sender":         {V11, set("sender", `"alice"`), mx.BadJSON},
		"room":           {V11, set("room_id", `"room"`), mx.BadJSON},
		"long state key": {V11, set("state_key", `"`+strings.Repeat("x", 256)+`"`), mx.TooLarge},
		"many prev":      {V11, set("prev_events", `[`+strings.Repeat(`"$a",`, 20)+`"$a"]`), mx.BadJSON},
		"large":          {V11, set("content", `{"b":"`+strings.Repeat("x", 66000)+`"}`), mx.TooLarge},
	} {
		if _, _, err := Receive(c.v, c.raw); mxCode(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	e, redacted, err := Receive(V11, set("content", `{"body":"changed"}`))
	if err != nil || !redacted || string(e.Content) != `{}` || e.ID != good.ID {
		t.Errorf("a changed event: %v %v %+v", redacted, err, e)
	}
	e, redacted, err = Receive(V11, set("unsigned", `{"age":1}`))
	if err != nil || redacted || e.ID != good.ID || Field(e.JSON(), "unsigned") != nil {
		t.Errorf("with unsigned: %v %v", redacted, err)
	}
	if err := Verify(V11, good.JSON(), "hs.example", "ed25519:other", testKey().Public()); !errors.Is(err, ErrNoSignature) {
		t.Errorf("another key: %v", err)
	}
	if err := Verify(V11, set("depth", "13"), "hs.example", "ed25519:a1", testKey().Public()); !errors.Is(err, ErrBadSignature) {
		t.Errorf("another depth: %v", err)
	}
	two, err := SignPDU(V11, good.JSON(), SigningKey{ID: "ed25519:b", Server: "a.example", Private: testKey().Private})
	if err != nil || Verify(V11, two, "hs.example", "ed25519:a1", testKey().Public()) != nil || Verify(V11, two, "a.example", "ed25519:b", testKey().Public()) != nil {
		t.Errorf("two signatures: %v %s", err, two)
	}
}

func TestRelation(t *testing.T) {
	for content, want := range map[string][3]string{
		`{"m.relates_to":{"rel_type":"m.thread","event_id":"$r"}}`:  {"m.thread", "$r", "$r"},
		`{"m.relates_to":{"rel_type":"m.replace","event_id":"$r"}}`: {"m.replace", "$r", ""},
		`{"m.relates_to":{"m.in_reply_to":{"event_id":"$r"}}}`:      {},
		`{"m.relates_to":{"rel_type":"m.thread"}}`:                  {},
		`{"m.relates_to":7}`: {},
		`{}`:                 {},
	} {
		e := &Event{Content: []byte(content)}
		typ, id := e.Relation()
		if got := [3]string{typ, id, e.ThreadRoot()}; got != want {
			t.Errorf("%s: %v", content, got)
		}
	}
}

// FuzzReceive: what is accepted can be read back, is within the limits, and keeps its ID.
func FuzzReceive(f *testing.F) {
	for _, v := range []Version{V1, V6, V11, V12} {
		p := message(`{"body":"x"}`)
		if e, err := Build(v, p, testKey()); err == nil {
			f.Add(string(v), e.JSON())
		}
	}
	f.Add("1", []byte(`{"auth_events":[["$a:b",{"sha256":"x"}]],"content":{},"event_id":"$0:domain","prev_events":[],"room_id":"!r:d","sender":"@u:d","type":"X"}`))
	f.Add("12", []byte(`{"auth_events":[],"content":{},"prev_events":[],"sender":"@u:d","state_key":"","type":"m.room.create"}`))
	f.Fuzz(func(t *testing.T, version string, raw []byte) {
		v := Version(version)
		e, _, err := Receive(v, raw)
		if err != nil {
			return
		}
		if len(e.JSON()) > MaxPDUBytes || len(e.Type) > MaxFieldBytes || !mx.ValidUserID(e.Sender) {
			t.Errorf("accepted: %q", raw)
		}
		back, err := Parse(v, "", e.JSON())
		if err != nil || back.ID != e.ID || back.RoomID != e.RoomID {
			t.Errorf("%q comes back as %+v %v", raw, back, err)
		}
		red, err := Redact(v, e.JSON())
		if err != nil {
			t.Fatal(err)
		}
		if id, err := ID(v, red); err != nil || id != e.ID {
			t.Errorf("%q: redaction changes the ID from %s to %s %v", raw, e.ID, id, err)
		}
		if c := e.AppendClient(nil, ClientOptions{}); !json.Valid(c) {
			t.Errorf("%q is no JSON for clients: %q", raw, c)
		}
	})
}
