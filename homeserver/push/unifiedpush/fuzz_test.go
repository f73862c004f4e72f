package unifiedpush

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/homeserver/apitest"
	"holdfast/homeserver/mx"
	"holdfast/store"
)

// A list of topics that is taken has valid names only, each once.
func FuzzTopics(f *testing.F) {
	for _, s := range []string{"", ",", "upAbCdEfGh1234", "upAbCdEfGh1234,upAbCdEfGh1234", "up,alerts", "../x", "upäöüäöüäöüäöü"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := parseTopics(s)
		if err != nil {
			var p *problem
			if !errors.As(err, &p) || p.Msg == "" {
				t.Errorf("%q: %v tells nothing", s, err)
			}
			return
		}
		if len(list) == 0 || len(list) > maxTopics {
			t.Errorf("%q gives %d topics", s, len(list))
		}
		slices.Sort(list)
		if len(slices.Compact(slices.Clone(list))) != len(list) {
			t.Errorf("%q gives a topic twice", s)
		}
		for _, n := range list {
			if !validTopic(n) || url.PathEscape(n) != n {
				t.Errorf("%q gives the topic %q", s, n)
			}
			if !Serves("/"+n) || !Serves("/"+n+"/ws") {
				t.Errorf("%q is not served", n)
			}
		}
	})
}

// since is read, or refused with a reason; it never asks for the future of a duration.
func FuzzSince(f *testing.F) {
	for _, s := range []string{"", "all", "none", "latest", "10m", "3d", "-1", "1700000000", "99999999999999999999", "NaN", "1e9h", "abcdefghijkl"} {
		f.Add(s, true)
	}
	now := time.UnixMilli(1_700_000_000_000)
	f.Fuzz(func(t *testing.T, s string, poll bool) {
		got, err := parseSince(s, poll, now)
		if err != nil {
			if err != error(errSince) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if got.time < 0 || strings.ContainsAny(s, "hmsd") && got.time > now.UnixMilli() {
			t.Errorf("%q is %+v", s, got)
		}
	})
}

// A notification is delivered, or refused with a typed error, whatever it is; only
// pushkeys that it names are rejected.
func FuzzNotify(f *testing.F) {
	for _, s := range []string{``, `{}`, `[]`, `null`, `{"devices":[]}`, `{"devices":[{"app_id":"a","pushkey":"https://h/upAbCdEfGh1234"}]}`,
		`{"devices":[{"app_id":"holdfast.web","pushkey":"k","data":{"endpoint":1}}]}`, `{"devices":[{"app_id":"a","pushkey":"://"}],"counts":7}`} {
		f.Add([]byte(s), true)
	}
	db, err := store.Open(context.Background(), filepath.Join(f.TempDir(), "holdfast.db"), store.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { db.Close() })
	s := New(Options{DB: db, Secrets: apitest.Secrets(), Own: func(u *url.URL) bool { return u.Host == "h" }})
	f.Fuzz(func(t *testing.T, raw []byte, outside bool) {
		if len(raw) > maxNotify {
			return
		}
		rejected, err := s.deliver(context.Background(), mx.Raw(raw), outside)
		var e *mx.Error
		if err != nil && (!errors.As(err, &e) || e.Msg == "") {
			t.Errorf("%q: %v", raw, err)
		}
		var n struct {
			Devices []struct{ Pushkey string }
		}
		for _, key := range rejected {
			if json.Unmarshal(raw, &n) != nil || !slices.ContainsFunc(n.Devices, func(d struct{ Pushkey string }) bool { return d.Pushkey == key }) {
				t.Errorf("%q rejects %q", raw, key)
			}
		}
	})
}
