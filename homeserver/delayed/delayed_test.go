package delayed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/homeserver/apitest"
	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

const (
	alice = "@alice:example.org"
	bob   = "@bob:example.org"
	room  = "!room:example.org"
)

// sent stands in for rooms.Send: it notes events, once for each TxnID.
type sent struct {
	mu     sync.Mutex
	events []Event
	at     []time.Time
	byTxn  map[string]string
	err    error
}

func (s *sent) send(_ context.Context, e Event) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return "", s.err
	}
	if s.byTxn == nil {
		s.byTxn = map[string]string{}
	}
	if id, ok := s.byTxn[e.TxnID]; ok {
		return id, nil
	}
	s.events = append(s.events, e)
	s.at = append(s.at, time.Now())
	id := fmt.Sprintf("$%d", len(s.events))
	s.byTxn[e.TxnID] = id
	return id, nil
}

func (s *sent) types() (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		out = append(out, e.Type)
	}
	return out
}

func (s *sent) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func open(t testing.TB, path string) *store.DB {
	t.Helper()
	db, err := store.Open(context.Background(), path, store.Options{Readers: 2})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func service(t testing.TB, db *store.DB, out *sent, change func(*Options)) *Service {
	t.Helper()
	o := Options{DB: db, Secrets: apitest.Secrets(), Send: out.send, IsJoined: func(_ store.Querier, r, u string) (bool, error) { return r == room, nil }}
	if change != nil {
		change(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ev(typ string, d time.Duration) Event {
	key := "key"
	return Event{UserID: alice, DeviceID: "DEV", RoomID: room, Type: typ, StateKey: &key, Content: json.RawMessage(`{"a":1}`), Delay: d}
}

func schedule(t *testing.T, s *Service, e Event) string {
	t.Helper()
	id, err := s.Schedule(t.Context(), e, "")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func code(err error) mx.Code {
	var e *mx.Error
	if errors.As(err, &e) {
		return e.Code
	}
	if err == nil {
		return ""
	}
	return mx.Code("not an mx.Error: " + err.Error())
}

func TestTimes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		db := open(t, path)
		defer db.Close()
		out := &sent{}
		s := service(t, db, out, nil)
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		begun := time.Now()
		schedule(t, s, ev("later", 20*time.Second))
		restarted := schedule(t, s, ev("restarted", 10*time.Second))
		cancelled := schedule(t, s, ev("cancelled", 5*time.Second))
		now := schedule(t, s, ev("now", time.Hour))
		schedule(t, s, ev("sooner", 3*time.Second)) // after later ones: the timer must be shortened

		if err := s.Cancel(t.Context(), cancelled); err != nil {
			t.Fatal(err)
		}
		if err := s.Send(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		for range 5 { // 45 s: kept alive every 9 s
			time.Sleep(9 * time.Second)
			if err := s.Restart(t.Context(), restarted); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if got, want := out.types(), []string{"now", "sooner", "later"}; !slices.Equal(got, want) {
			t.Fatalf("before the last delay ran out: sent %v, want %v", got, want)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got, want := out.types(), []string{"now", "sooner", "later", "restarted"}; !slices.Equal(got, want) {
			t.Fatalf("sent %v, want %v", got, want)
		}
		for i, want := range []time.Duration{0, 3 * time.Second, 20 * time.Second, 55 * time.Second} {
			if got := out.at[i].Sub(begun); got < want || got > want+100*time.Millisecond {
				t.Errorf("%s was sent after %v, want %v", out.events[i].Type, got, want)
			}
		}
		// Asking again for what was done succeeds; for anything else the event is gone.
		for _, c := range []struct {
			name string
			do   func(context.Context, string) error
			id   string
			want mx.Code
		}{
			{"send again", s.Send, now, ""},
			{"send what was due", s.Send, restarted, ""},
			{"cancel again", s.Cancel, cancelled, ""},
			{"send after cancel", s.Send, cancelled, mx.NotFound},
			{"cancel after send", s.Cancel, now, mx.NotFound},
			{"restart after send", s.Restart, now, mx.NotFound},
			{"restart after cancel", s.Restart, cancelled, mx.NotFound},
			{"unknown", s.Restart, "nobody", mx.NotFound},
		} {
			if got := code(c.do(t.Context(), c.id)); got != c.want {
				t.Errorf("%s: %q, want %q", c.name, got, c.want)
			}
		}
		if len(out.events) != 4 {
			t.Errorf("sent %v", out.types())
		}
	})
}

func TestOverdueAtStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		db := open(t, path)
		out := &sent{}
		s := service(t, db, out, nil)
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		schedule(t, s, ev("third", 30*time.Second))
		schedule(t, s, ev("first", 10*time.Second))
		schedule(t, s, ev("second", 20*time.Second))
		schedule(t, s, ev("much later", time.Hour))
		s.Close()
		db.Close()

		time.Sleep(time.Minute) // the server is off
		if len(out.types()) != 0 {
			t.Fatal("sent after Close")
		}
		db = open(t, path)
		defer db.Close()
		s = service(t, db, out, nil)
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		synctest.Wait()
		if got, want := out.types(), []string{"first", "second", "third"}; !slices.Equal(got, want) {
			t.Fatalf("sent %v, want %v", got, want)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := out.types(); len(got) != 4 {
			t.Fatalf("sent %v", got)
		}
	})
}

func TestFailures(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		db := open(t, path)
		defer db.Close()
		out := &sent{}
		s := service(t, db, out, nil)
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer s.Close()

		// The disk fails: the event stays and is sent when it works again.
		out.fail(store.ErrUnavailable)
		schedule(t, s, ev("kept", time.Second))
		time.Sleep(7 * time.Second)
		out.fail(nil)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got := out.types(); len(got) != 1 {
			t.Fatalf("sent %v", got)
		}
		// Refused at its time: it is done with, and the owner can read why.
		out.fail(mx.Errorf(mx.Forbidden, "No."))
		id := schedule(t, s, ev("refused", time.Second))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		r, err := s.load(t.Context(), id)
		if err != nil || r.dueTS != 0 || !strings.Contains(r.failure, "M_FORBIDDEN") {
			t.Fatalf("%+v %v", r, err)
		}
		// Refused when asked to send now: the caller is told, and it stays.
		id = schedule(t, s, ev("refused now", time.Hour))
		if got := code(s.Send(t.Context(), id)); got != mx.Forbidden {
			t.Fatal(got)
		}
		out.fail(nil)
		if err := s.Send(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSchedule(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	defer db.Close()
	s := service(t, db, &sent{}, func(o *Options) { o.MaxPerUser = 2; o.MaxDelay = 24 * time.Hour })
	for _, c := range []struct {
		name   string
		change func(*Event)
		want   mx.Code
	}{
		{"no delay", func(e *Event) { e.Delay = 0 }, mx.InvalidParam},
		{"too long", func(e *Event) { e.Delay = 25 * time.Hour }, mx.MaxDelayExceeded},
		{"not an object", func(e *Event) { e.Content = json.RawMessage(`[]`) }, mx.BadJSON},
		{"null", func(e *Event) { e.Content = json.RawMessage(`null`) }, mx.BadJSON},
		{"empty", func(e *Event) { e.Content = nil }, mx.BadJSON},
		{"too large", func(e *Event) { e.Content = json.RawMessage(`{"a":"` + strings.Repeat("x", maxContent) + `"}`) }, mx.TooLarge},
		{"not in the room", func(e *Event) { e.RoomID = "!other:example.org" }, mx.Forbidden},
	} {
		e := ev("m.test", 24*time.Hour)
		c.change(&e)
		if _, err := s.Schedule(t.Context(), e, ""); code(err) != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	one, err := s.Schedule(t.Context(), ev("m.test", time.Hour), "txn")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.Schedule(t.Context(), ev("m.test", time.Hour), "txn"); err != nil || again != one {
		t.Fatalf("the retry got %q, %v, want %q", again, err, one)
	}
	schedule(t, s, ev("m.test", time.Hour))
	if _, err := s.Schedule(t.Context(), ev("m.test", time.Hour), ""); code(err) != mx.LimitExceeded {
		t.Fatalf("over the limit: %v", err)
	}
	if again, err := s.Schedule(t.Context(), ev("m.test", time.Hour), "txn"); err != nil || again != one {
		t.Fatalf("the retry at the limit got %q, %v", again, err)
	}
	other := ev("m.test", time.Hour)
	other.UserID = bob
	schedule(t, s, other) // the limit is each user's own
	if user, r, d, err := s.Waiting(t.Context(), one); err != nil || user != alice || r != room || d != time.Hour {
		t.Fatal(user, r, d, err)
	}
	if err := db.Write(t.Context(), func(tx *store.Tx) error { return s.Drop(tx, alice) }); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := s.Waiting(t.Context(), one); code(err) != mx.NotFound {
		t.Fatal(err)
	}
}

type tokens struct{}

func (tokens) Authenticate(_ context.Context, token string) (route.Principal, error) {
	switch token {
	case "alice":
		return route.Principal{UserID: alice, DeviceID: "A"}, nil
	case "bob":
		return route.Principal{UserID: bob, DeviceID: "B"}, nil
	}
	return route.Principal{}, mx.Errorf(mx.UnknownToken, "No.")
}

func call(t testing.TB, h http.Handler, token, method, path, body string) (int, map[string]any) {
	t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	var out map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		t.Fatalf("%s %s: %d %q", method, path, w.Code, w.Body)
	}
	return w.Code, out
}

func server(t testing.TB, out *sent, change func(*Options)) (http.Handler, *Service) {
	t.Helper()
	db := open(t, filepath.Join(t.TempDir(), "db"))
	t.Cleanup(func() { db.Close() })
	s := service(t, db, out, change)
	at := func(what string) route.Handler {
		return func(context.Context, *route.Request) (any, error) { return map[string]string{"event_id": what}, nil }
	}
	routes := s.Wrap([]route.Route{
		{Op: "sendMessage", Auth: route.User, Pattern: "PUT /_matrix/client/v3/rooms/{roomID}/send/{eventType}/{txnID}", Handle: at("$sent")},
		{Op: "setRoomStateWithKey", Auth: route.User, Pattern: "PUT /_matrix/client/v3/rooms/{roomID}/state/{eventType}/{stateKey}",
			Aliases: []string{"/_matrix/client/v3/rooms/{roomID}/state/{eventType}"}, Handle: at("$state")},
		{Op: "other", Auth: route.None, Pattern: "GET /other", Handle: at("$other")},
	})
	return route.NewServer(tokens{}, slog.New(slog.NewTextHandler(io.Discard, nil)), false, append(routes, s.Routes()...)), s
}

func TestHTTP(t *testing.T) {
	out := &sent{}
	h, s := server(t, out, func(o *Options) { o.MaxPerUser = 4; o.MaxDelay = 48 * time.Hour })
	const v3 = "/_matrix/client/v3/rooms/!room:example.org/"
	mustID := func(status int, m map[string]any) string {
		t.Helper()
		id, _ := m["delay_id"].(string)
		if status != 200 || len(id) < 20 {
			t.Fatalf("%d %v", status, m)
		}
		return id
	}
	// Without the parameter nothing changes.
	if _, m := call(t, h, "alice", "PUT", v3+"send/m.room.message/1", `{}`); m["event_id"] != "$sent" {
		t.Fatal(m)
	}
	// The earlier form.
	msg := mustID(call(t, h, "alice", "PUT", v3+"send/m.room.message/1?org.matrix.msc4140.delay=3600000", `{"body":"x"}`))
	if again := mustID(call(t, h, "alice", "PUT", v3+"send/m.room.message/1?org.matrix.msc4140.delay=3600000", `{"body":"x"}`)); again != msg {
		t.Fatal("a retried request made a second event")
	}
	state := mustID(call(t, h, "alice", "PUT", v3+"state/org.matrix.msc3401.call.member/_@alice:example.org_A_m.call?org.matrix.msc4140.delay=86400000", `{}`))
	noKey := mustID(call(t, h, "alice", "PUT", v3+"state/m.room.topic?org.matrix.msc4140.delay=1000", `{"topic":"t"}`))
	// The new form.
	fresh := mustID(call(t, h, "alice", "PUT", "/_matrix/client/unstable/org.matrix.msc4140/rooms/!room:example.org/delayed_event/m.room.topic/1", `{"delay_ms":5000,"state_key":"","content":{"topic":"u"}}`))
	for _, c := range []struct {
		token, path, body string
		status            int
		code, msc         any
	}{
		{"alice", v3 + "send/t/2?org.matrix.msc4140.delay=0", `{}`, 400, "M_INVALID_PARAM", nil},
		{"alice", v3 + "send/t/2?org.matrix.msc4140.delay=x", `{}`, 400, "M_INVALID_PARAM", nil},
		{"alice", v3 + "send/t/2?org.matrix.msc4140.delay=99999999999999999999", `{}`, 400, "M_INVALID_PARAM", nil},
		{"alice", v3 + "send/t/2?org.matrix.msc4140.delay=9223372036854775807", `{}`, 400, "M_UNKNOWN", "M_MAX_DELAY_EXCEEDED"},
		{"alice", v3 + "send/t/2?org.matrix.msc4140.delay=1000", `[]`, 400, "M_BAD_JSON", nil},
		{"alice", v3 + "send/t/2?org.matrix.msc4140.delay=1000", `{}`, 400, "M_UNKNOWN", "M_MAX_DELAYED_EVENTS_EXCEEDED"},
		{"alice", v3 + "delayed_event/t/2", `{"delay_ms":1000,"content":{}}`, 429, "M_LIMIT_EXCEEDED", nil},
		{"bob", v3 + "delayed_event/t/2", `{"delay_ms":172800001,"content":{}}`, 403, "M_FORBIDDEN", nil},
		{"bob", v3 + "delayed_event/t/2", `{"delay_ms":1000}`, 400, "M_BAD_JSON", nil},
		{"", v3 + "delayed_event/t/2", `{"delay_ms":1000,"content":{}}`, 401, "M_MISSING_TOKEN", nil},
	} {
		status, m := call(t, h, c.token, "PUT", c.path, c.body)
		if status != c.status || m["errcode"] != c.code || m["org.matrix.msc4140.errcode"] != c.msc {
			t.Errorf("PUT %s %s: %d %v", c.path, c.body, status, m)
		}
		if c.msc == "M_MAX_DELAY_EXCEEDED" && m["org.matrix.msc4140.max_delay"] != float64(172800000) {
			t.Errorf("the limit is not told: %v", m)
		}
	}
	// Lists.
	const un = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
	_, m := call(t, h, "alice", "GET", un, "")
	if n := len(m["scheduled"].([]any)); n != 4 {
		t.Errorf("%d scheduled, want 4: %v", n, m)
	}
	first := m["delayed_events"].([]any)[0].(map[string]any) // the soonest
	if first["delay_id"] != noKey || first["delay_ms"] != 1000.0 || first["state_key"] != "" || first["room_id"] != room {
		t.Errorf("%v", first)
	}
	if _, m := call(t, h, "bob", "GET", un, ""); len(m["scheduled"].([]any)) != 0 {
		t.Errorf("bob sees alice's: %v", m)
	}
	if status, _ := call(t, h, "bob", "GET", un+"/"+msg, ""); status != 404 {
		t.Errorf("bob reads alice's event: %d", status)
	}
	// Acting: by the ID alone on the unstable paths, by the owner on the stable ones.
	const v1 = "/_matrix/client/v1/delayed_events/"
	for _, c := range []struct {
		token, path, body string
		status            int
	}{
		{"", un + "/" + state + "/restart", "", 200},
		{"alice", un + "/" + state + "/restart", "", 200},
		{"wrong", un + "/" + state + "/restart", "", 401},
		{"", un + "/" + msg, `{"action":"send"}`, 200},
		{"", un + "/" + msg, `{}`, 400},
		{"", un + "/" + noKey, `{"action":"explode"}`, 400},
		{"", v1 + noKey + "/cancel", "", 401},
		{"bob", v1 + noKey + "/cancel", "", 404},
		{"alice", v1 + noKey + "/cancel", "", 200},
		{"alice", v1 + noKey + "/cancel", "", 200},
		{"alice", v1 + noKey + "/send", "", 409},
		{"alice", un + "/" + noKey + "/restart", "", 404},
		{"", un + "/none/send", "", 404},
	} {
		if status, m := call(t, h, c.token, "POST", c.path, c.body); status != c.status {
			t.Errorf("POST %s %s as %q: %d %v, want %d", c.path, c.body, c.token, status, m, c.status)
		}
	}
	_, m = call(t, h, "alice", "GET", v1+msg, "")
	if m["event_id"] != "$1" || m["finalised_ts"] == nil {
		t.Errorf("the sent event: %v", m)
	}
	_, m = call(t, h, "alice", "GET", un+"?status=finalised", "")
	if fin := m["finalised"].([]any); len(fin) != 2 || m["scheduled"] != nil {
		t.Errorf("finalised: %v", m)
	}
	if e := out.events[0]; e.Type != "m.room.message" || string(e.Content) != `{"body":"x"}` || e.DeviceID != "A" || e.DelayID != msg || e.StateKey != nil {
		t.Errorf("%+v", e)
	}
	if _, _, d, err := s.Waiting(t.Context(), fresh); err != nil || d != 5*time.Second {
		t.Error(d, err)
	}
}

func FuzzSchedule(f *testing.F) {
	f.Add(`{"delay_ms":1000,"content":{"a":1},"state_key":"x"}`, "1000")
	f.Add(`{"delay_ms":-1,"content":null}`, "")
	f.Add(`{"delay_ms":1e400,"content":[]}`, "-9223372036854775808")
	h, _ := server(f, &sent{}, func(o *Options) { o.MaxPerUser = 1 << 30 })
	f.Fuzz(func(t *testing.T, body, delay string) {
		for _, path := range []string{"delayed_event/m.x/1", "send/m.x/1?org.matrix.msc4140.delay=" + urlEscape(delay)} {
			status, _ := call(t, h, "alice", "PUT", "/_matrix/client/v3/rooms/!room:example.org/"+path, body)
			if status >= 500 {
				t.Fatalf("%s %q: %d", path, body, status)
			}
		}
	})
}

func urlEscape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}
