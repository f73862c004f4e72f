package route

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/store"
)

// byName takes a token for the user's name; "admin" is an administrator.
type byName struct{}

func (byName) Authenticate(_ context.Context, token string) (Principal, error) {
	switch token {
	case "gone":
		return Principal{}, &mx.Error{Code: mx.UnknownToken, Msg: "gone", Fields: map[string]any{"soft_logout": true}}
	case "unknown":
		return Principal{}, mx.Errorf(mx.UnknownToken, "unknown")
	case "broken":
		return Principal{}, fmt.Errorf("look it up: %w", store.ErrUnavailable)
	}
	name, device, _ := strings.Cut(token, "/")
	return Principal{UserID: "@" + name + ":x", DeviceID: "D" + device, Admin: name == "admin"}, nil
}

type in struct {
	N    int    `json:"n"`
	Name string `json:"name"`
}

func serve(t *testing.T, log *strings.Builder, limits bool) *Server {
	t.Helper()
	echo := JSON(func(_ context.Context, r *Request, v in) (map[string]any, error) {
		return map[string]any{"n": v.N, "name": v.Name, "user": r.UserID, "id": r.Param("id")}, nil
	})
	fail := func(err error) Handler { return func(context.Context, *Request) (any, error) { return nil, err } }
	return NewServer(byName{}, slog.New(slog.NewTextHandler(log, nil)), limits, []Route{
		{Op: "echo", Auth: User, Limit: Messages, MaxBody: 100, Pattern: "PUT /_matrix/client/v3/echo/{id}", Aliases: []string{"/_matrix/client/r0/echo/{id}"}, Handle: echo},
		{Op: "maybe", Auth: Optional, Pattern: "POST /_matrix/maybe", Handle: echo},
		{Op: "admin", Auth: Admin, Pattern: "GET /_matrix/admin", Handle: Get(func(context.Context, *Request) (Empty, error) { return Empty{}, nil })},
		{Op: "open", Auth: None, Limit: Logins, Pattern: "GET /_matrix/open", Handle: Get(func(context.Context, *Request) (mx.Raw, error) { return mx.Raw(`{"raw":1}`), nil })},
		{Op: "panic", Auth: None, Pattern: "GET /_matrix/secretcause", Handle: fail(errors.New("the secret cause"))},
		{Op: "full", Auth: None, Pattern: "GET /_matrix/full", Handle: fail(fmt.Errorf("x: %w", store.ErrUnavailable))},
		{Op: "fullFile", Auth: None, Pattern: "GET /_matrix/full_file", Handle: fail(&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})},
	})
}

func do(s *Server, method, path, token, body string) (int, http.Header, map[string]any) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.RemoteAddr = "192.0.2.1:1"
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	var m map[string]any
	json.Unmarshal(w.Body.Bytes(), &m)
	return w.Code, w.Header(), m
}

func TestAnswers(t *testing.T) {
	var log strings.Builder
	s := serve(t, &log, false)
	const v3 = "/_matrix/client/v3/echo/"
	for _, c := range []struct {
		method, path, token, body string
		status                    int
		key                       string
		value                     any
	}{
		{"PUT", v3 + "a%2Fb%20c", "alice", `{"n":1,"name":"é"}`, 200, "id", "a/b c"},
		{"PUT", "/_matrix/client/r0/echo/x?access_token=bob", "", "", 200, "user", "@bob:x"},
		{"PUT", v3 + "x", "", "", 401, "errcode", "M_MISSING_TOKEN"},
		{"PUT", v3 + "x", "gone", "", 401, "soft_logout", true},
		{"PUT", v3 + "x", "broken", "", 503, "errcode", "M_UNKNOWN"},
		{"PUT", v3 + "x", "alice", `{"n":`, 400, "errcode", "M_NOT_JSON"},
		{"PUT", v3 + "x", "alice", "{\"name\":\"\xff\"}", 400, "errcode", "M_NOT_JSON"},
		{"PUT", v3 + "x", "alice", `[1]`, 400, "errcode", "M_BAD_JSON"},
		{"PUT", v3 + "x", "alice", `{"n":"one"}`, 400, "errcode", "M_BAD_JSON"},
		{"PUT", v3 + "x", "alice", `{"name":"` + strings.Repeat("a", 100) + `"}`, 413, "errcode", "M_TOO_LARGE"},
		{"GET", v3 + "x", "alice", "", 405, "errcode", "M_UNRECOGNIZED"},
		{"GET", "/_matrix/nothing", "", "", 404, "errcode", "M_UNRECOGNIZED"},
		{"GET", "/_matrix//open", "", "", 404, "errcode", "M_UNRECOGNIZED"},
		{"POST", "/_matrix/maybe", "", `{}`, 200, "user", ""},
		{"POST", "/_matrix/maybe", "alice", `{}`, 200, "user", "@alice:x"},
		{"POST", "/_matrix/maybe", "gone", `{}`, 401, "errcode", "M_UNKNOWN_TOKEN"},
		{"GET", "/_matrix/admin", "alice", "", 403, "errcode", "M_FORBIDDEN"},
		{"GET", "/_matrix/admin", "admin", "", 200, "", nil},
		{"GET", "/_matrix/open", "", "", 200, "raw", 1.0},
		{"GET", "/_matrix/full", "", "", 503, "errcode", "M_UNKNOWN"},
		{"GET", "/_matrix/full_file", "", "", 503, "errcode", "M_UNKNOWN"},
		{"GET", "/_matrix/secretcause", "", "", 500, "errcode", "M_UNKNOWN"},
	} {
		status, h, m := do(s, c.method, c.path, c.token, c.body)
		if status != c.status || (c.key != "" && m[c.key] != c.value) {
			t.Errorf("%s %s %.20q: %d %v", c.method, c.path, c.body, status, m)
		}
		if h.Get("Access-Control-Allow-Origin") != "*" || h.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: headers %v", c.method, c.path, h)
		}
		if strings.Contains(fmt.Sprint(m), "secret cause") {
			t.Error("the cause of a failure was told to the client")
		}
	}
	if status, h, _ := do(s, "OPTIONS", v3+"x", "", ""); status != 204 || !strings.Contains(h.Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Errorf("preflight: %d %v", status, h)
	}
	if !strings.Contains(log.String(), "the secret cause") {
		t.Error("the cause of a failure is not in the log")
	}
	if strings.Contains(log.String(), "alice") || strings.Contains(log.String(), "access_token") {
		t.Errorf("a token is in the log: %s", log.String())
	}
}

// TestLimits runs on a clock of its own: what a bucket holds depends on time alone.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, new(strings.Builder), true)
		put := func(user string) (int, map[string]any) {
			status, _, m := do(s, "PUT", "/_matrix/client/v3/echo/x", user, "{}")
			return status, m
		}
		burst := int(rates[Messages].burst)
		for i := range burst {
			if status, m := put("alice"); status != 200 {
				t.Fatalf("request %d: %d %v", i, status, m)
			}
		}
		status, m := put("alice")
		if status != 429 || m["errcode"] != "M_LIMIT_EXCEEDED" || m["retry_after_ms"] != 100.0 {
			t.Fatalf("%d %v", status, m)
		}
		if status, _ := put("bob"); status != 200 {
			t.Error("another user is held up")
		}
		time.Sleep(100 * time.Millisecond)
		if status, _ := put("alice"); status != 200 {
			t.Error("refused after the time that was told")
		}
		// Another device of hers goes on, until all of them together are too busy.
		all := 1 + burst
		for i := 0; ; i++ {
			if status, _ := put(fmt.Sprintf("alice/%d", i%5)); status != 200 {
				break
			}
			all++
		}
		if all != devicesOfUser*burst+3 { // three came back while time passed
			t.Errorf("%d requests of all devices", all)
		}
		// Tokens that are none are limited by address, of IPv6 by network.
		for range int(rates[Reads].burst) {
			do(s, "PUT", "/_matrix/client/v3/echo/x", "unknown", "{}")
		}
		status, h, m := do(s, "PUT", "/_matrix/client/v3/echo/x", "unknown", "{}")
		if status != 429 || h.Get("Retry-After") != "1" || m["retry_after_ms"] != 20.0 {
			t.Errorf("with wrong tokens: %d %v %v", status, h, m)
		}
		if addressOf("[2001:db8:1:2:3::4]:5") != addressOf("[2001:db8:1:2::9]:80") || addressOf("[2001:db8:1:3::9]:80") == addressOf("[2001:db8:1:2::9]:80") || addressOf("192.0.2.1:5") != "192.0.2.1" {
			t.Error("addresses")
		}
		// Somebody without an account is limited by address, and buckets are forgotten.
		for range int(rates[Logins].burst) {
			do(s, "GET", "/_matrix/open", "", "")
		}
		if status, _, _ := do(s, "GET", "/_matrix/open", "", ""); status != 429 {
			t.Errorf("by address: %d", status)
		}
		time.Sleep(2 * maxIdle)
		put("carol")
		if n := len(s.limit.buckets); n != 2 { // of carol and of her device
			t.Errorf("%d buckets are kept", n)
		}
	})
}

// apps knows one application service.
type apps struct{}

func (apps) Authenticate(_ context.Context, token string, as As) (Principal, bool, error) {
	if token != "as" {
		return Principal{}, false, nil
	}
	if as.UserID == "@other:x" {
		return Principal{}, true, mx.Errorf(mx.Forbidden, "not yours")
	}
	return Principal{UserID: as.UserID, DeviceID: as.DeviceID, Appservice: "as", Unlimited: as.UserID != "@slow:x"}, true, nil
}

func TestAppservicesActAsTheirUsers(t *testing.T) {
	s := serve(t, new(strings.Builder), true)
	s.UseAppservices(apps{})
	for range 2 * int(rates[Messages].burst) {
		if status, _, m := do(s, "PUT", "/_matrix/client/v3/echo/x?user_id=@mine:x", "as", "{}"); status != 200 || m["user"] != "@mine:x" {
			t.Fatalf("%d %v", status, m)
		}
	}
	if status, _, _ := do(s, "PUT", "/_matrix/client/v3/echo/x?user_id=@other:x", "as", "{}"); status != 403 {
		t.Errorf("%d", status)
	}
	last := 0
	for range 2 * int(rates[Messages].burst) {
		last, _, _ = do(s, "PUT", "/_matrix/client/v3/echo/x?user_id=@slow:x", "as", "{}")
	}
	if last != 429 {
		t.Errorf("one that is to be limited is not: %d", last)
	}
	if status, _, m := do(s, "GET", "/_matrix/admin", "as", ""); status != 403 {
		t.Errorf("an application service passed for an administrator: %d %v", status, m)
	}
	if status, _, m := do(s, "PUT", "/_matrix/client/v3/echo/x?user_id=@mine:x", "alice", "{}"); status != 200 || m["user"] != "@alice:x" {
		t.Errorf("a person acted as somebody else: %d %v", status, m)
	}
}

// TestOwnLimit is of users whose limit an administrator changed.
func TestOwnLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, new(strings.Builder), true)
		s.RateOf(func(userID string) (perSecond, burst float64, own bool) {
			return map[string]float64{"@slow:x": 1}[userID], 3, userID == "@slow:x" || userID == "@free:x"
		})
		put := func(user string) int {
			status, _, _ := do(s, "PUT", "/_matrix/client/v3/echo/x", user, "{}")
			return status
		}
		for i := range 3 {
			if put("slow") != 200 {
				t.Fatalf("request %d of 3 was refused", i)
			}
		}
		if put("slow") != 429 {
			t.Fatal("the user's own limit was passed")
		}
		time.Sleep(time.Second)
		if put("slow") != 200 || put("slow") != 429 {
			t.Fatal("one a second is the limit")
		}
		for range int(rates[Messages].burst) * 2 {
			if put("free") != 200 {
				t.Fatal("a user without limit was limited")
			}
		}
		for range int(rates[Messages].burst) {
			if put("usual") != 200 {
				t.Fatal("another user is limited")
			}
		}
		if put("usual") != 429 {
			t.Fatal("nobody else is limited any more")
		}
	})
}
