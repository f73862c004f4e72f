package sliding

import (
	"encoding/json"
	"net/http/httptest"
	"testing"

	"holdfast/homeserver/route"
)

func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		`{}`,
		`{"conn_id":"a","lists":{"l":{"ranges":[[0,19],[30,40]],"timeline_limit":1,"required_state":[["m.room.member","$LAZY"],["*","*"],["a","$ME"]],"filters":{"is_dm":true,"room_types":[null,"m.space"]}}}}`,
		`{"lists":{"l":{"range":[0,19],"timeline_limit":9,"required_state":{"include":[{}],"exclude":[{"type":"a"}],"lazy_members":true}}},"timeout":5,"pos":"s1~1.1"}`,
		`{"room_subscriptions":{"!a:b":{"timeline_limit":99999999999,"required_state":[["a","b"]]}},"extensions":{"to_device":{"enabled":true,"limit":-1},"receipts":{"enabled":true,"rooms":["*"]}}}`,
	} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, stable bool) {
		var in wire
		if json.Unmarshal(b, &in) != nil {
			return
		}
		r := route.WithPrincipal(t.Context(), httptest.NewRequest("POST", "/", nil), route.Principal{UserID: "@a:b", DeviceID: "D"})
		q, err := parse(r, in, stable)
		if err != nil {
			return
		}
		if q.timeout < 0 || q.timeout > maxTimeout || len(q.lists) > maxLists || len(q.subs) > maxUnstableSubs {
			t.Fatalf("out of bounds: %+v", q)
		}
		var all []*config
		for i := range q.lists {
			l := &q.lists[i]
			for _, w := range l.ranges {
				if w[0] < 0 || w[1] < w[0] {
					t.Fatalf("the range %v", w)
				}
			}
			all = append(all, &l.config)
		}
		for _, c := range q.subs {
			all = append(all, c)
		}
		merged := merge(all)
		for _, c := range all {
			if c.limit < 0 || c.limit > maxTimeline || merged.limit < c.limit {
				t.Fatalf("the limits %d, %d", c.limit, merged.limit)
			}
			// What one rule wants, all together want; and a text is read as it was written.
			again := parseConfig(c.text)
			for _, k := range [][2]string{{"m.room.name", ""}, {"m.room.member", "@a:b"}, {"a", "b"}} {
				if c.picks(k[0], k[1]) && !merged.picks(k[0], k[1]) || c.picks(k[0], k[1]) != again.picks(k[0], k[1]) {
					t.Fatalf("%v is wanted by %q and not by %q", k, c.text, merged.text)
				}
			}
		}
	})
}

func FuzzToken(f *testing.F) {
	for _, s := range []string{token(1, 1, 1), token(1<<60, 1<<40, 1<<40), "s1~1", "s1~-1.1", "s1~01.1", "~."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if pos, serial, n, ok := parseToken(s); ok && token(pos, serial, n) != s {
			t.Fatalf("%q is %q", s, token(pos, serial, n))
		}
	})
}
