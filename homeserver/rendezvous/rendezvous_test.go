package rendezvous

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/homeserver/route"
)

const origin = "https://chat.example.org"

// rig is the service behind the router that it has in the homeserver, with a clock.
type rig struct {
	t   testing.TB
	s   *Service
	h   http.Handler
	now time.Time
}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, now: time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)}
	r.s = New(Options{PublicURL: func(*http.Request) string { return origin }, Now: func() time.Time { return r.now }})
	r.h = route.NewServer(nil, slog.New(slog.DiscardHandler), false, r.s.Routes())
	return r
}

// do makes a request; headers are pairs.
func (r *rig) do(method, to, body string, headers ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, to, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	r.h.ServeHTTP(rec, req)
	return rec
}

// open makes a session and gives its address and ETag.
func (r *rig) open(body string) (url, etag string) {
	r.t.Helper()
	a := r.do("POST", path, body, "Content-Type", "text/plain")
	var out struct{ URL string }
	if err := json.Unmarshal(a.Body.Bytes(), &out); err != nil || a.Code != http.StatusCreated || !strings.HasPrefix(out.URL, origin+path+"/") {
		r.t.Fatalf("%d %s %v", a.Code, a.Body, err)
	}
	r.headers(a)
	return strings.TrimPrefix(out.URL, origin), a.Header().Get("ETag")
}

// headers checks what matrix-rust-sdk demands of each answer about a session.
func (r *rig) headers(a *httptest.ResponseRecorder) {
	r.t.Helper()
	for _, k := range []string{"ETag", "Expires", "Last-Modified"} {
		if a.Header().Get(k) == "" {
			r.t.Errorf("%d without %s", a.Code, k)
		}
	}
	if !strings.Contains(a.Header().Get("Cache-Control"), "no-store") {
		r.t.Errorf("%d may be cached", a.Code)
	}
	if !strings.Contains(a.Header().Get("Access-Control-Expose-Headers"), "ETag") {
		r.t.Errorf("%d hides the ETag from web pages", a.Code)
	}
}

func (r *rig) refused(a *httptest.ResponseRecorder, status int, code string) {
	r.t.Helper()
	var e struct{ Errcode string }
	json.Unmarshal(a.Body.Bytes(), &e)
	if a.Code != status || e.Errcode != code {
		r.t.Errorf("%d %s, want %d %s", a.Code, a.Body, status, code)
	}
}

func TestTwoDevices(t *testing.T) {
	r := newRig(t)
	url, g := r.open("")
	// The scanning device reads the ETag, and writes.
	a := r.do("GET", url, "")
	if a.Code != 200 || a.Body.Len() != 0 || a.Header().Get("Content-Type") != "text/plain" || a.Header().Get("ETag") != g {
		t.Fatalf("%d %q %v", a.Code, a.Body, a.Header())
	}
	r.headers(a)
	if a = r.do("GET", url, "", "If-None-Match", g); a.Code != 304 || a.Body.Len() != 0 {
		t.Fatalf("unchanged: %d", a.Code)
	}
	r.headers(a)
	a = r.do("PUT", url, "first", "Content-Type", "text/plain", "If-Match", g)
	if a.Code != 202 {
		t.Fatalf("write: %d %s", a.Code, a.Body)
	}
	r.headers(a)
	one := a.Header().Get("ETag")
	if a = r.do("GET", url, "", "If-None-Match", g); a.Code != 200 || a.Body.String() != "first" || a.Header().Get("ETag") != one {
		t.Fatalf("read: %d %q", a.Code, a.Body)
	}
	// A payload that is sent again comes too late, whoever sends it; so does a foreign tag.
	for _, tag := range []string{g, `"no"`, "no", ""} {
		a = r.do("PUT", url, "first", "Content-Type", "text/plain; charset=utf-8", "If-Match", tag)
		r.refused(a, http.StatusPreconditionFailed, "M_UNKNOWN")
		if !strings.Contains(a.Body.String(), `"org.matrix.msc4108.errcode":"M_CONCURRENT_WRITE"`) {
			t.Errorf("%s", a.Body)
		}
	}
	if a = r.do("GET", url, ""); a.Body.String() != "first" || a.Header().Get("ETag") != one {
		t.Errorf("a refused write changed it: %q", a.Body)
	}
	// The same payload under the tag that holds is another write.
	if a = r.do("PUT", url, "first", "Content-Type", "text/plain", "If-Match", `"x", W/`+one); a.Code != 202 || a.Header().Get("ETag") == one {
		t.Errorf("%d %s", a.Code, a.Header().Get("ETag"))
	}
	if a = r.do("DELETE", url, ""); a.Code != 204 {
		t.Errorf("delete: %d", a.Code)
	}
	for _, m := range []string{"GET", "DELETE"} {
		r.refused(r.do(m, url, ""), 404, "M_NOT_FOUND")
	}
	r.refused(r.do("PUT", url, "x", "Content-Type", "text/plain", "If-Match", one), 404, "M_NOT_FOUND")
	if len(r.s.m)+len(r.s.by) != 0 {
		t.Errorf("%d sessions and %d addresses are left", len(r.s.m), len(r.s.by))
	}
}

// Of writes at once that saw the same payload, one counts.
func TestOneWriteWins(t *testing.T) {
	r := newRig(t)
	url, tag := r.open("")
	codes := make([]int, 16)
	var all sync.WaitGroup
	for i := range codes {
		all.Go(func() {
			codes[i] = r.do("PUT", url, fmt.Sprint(i), "Content-Type", "text/plain", "If-Match", tag).Code
		})
	}
	all.Wait()
	slices.Sort(codes)
	if codes[0] != 202 || codes[1] != 412 || codes[15] != 412 {
		t.Fatal(codes)
	}
}

func TestBadRequests(t *testing.T) {
	r := newRig(t)
	url, tag := r.open("kept")
	big := strings.Repeat("x", maxPayload+1)
	r.refused(r.do("POST", path, big, "Content-Type", "text/plain"), 413, "M_TOO_LARGE")
	r.refused(r.do("PUT", url, big, "Content-Type", "text/plain", "If-Match", tag), 413, "M_TOO_LARGE")
	r.refused(r.do("POST", path, "x"), 400, "M_MISSING_PARAM")
	for _, kind := range []string{"application/json", "text/html", "text/plain/x", ";"} {
		r.refused(r.do("POST", path, "x", "Content-Type", kind), 400, "M_INVALID_PARAM")
		r.refused(r.do("PUT", url, "x", "Content-Type", kind, "If-Match", tag), 400, "M_INVALID_PARAM")
	}
	r.refused(r.do("PUT", url, "x", "Content-Type", "text/plain"), 400, "M_MISSING_PARAM")
	r.refused(r.do("PUT", path+"/NONE", "x", "Content-Type", "text/plain", "If-Match", "*"), 404, "M_NOT_FOUND")
	r.refused(r.do("PATCH", url, ""), 405, "M_UNRECOGNIZED")
	// What is not there is not said to be: clients ask for the next proposal first.
	r.refused(r.do("GET", "/_matrix/client/unstable/io.element.msc4388/rendezvous", ""), 404, "M_UNRECOGNIZED")
	if a := r.do("GET", url, ""); a.Body.String() != "kept" {
		t.Errorf("%q", a.Body)
	}
	if full, _ := r.open(big[1:]); r.do("GET", full, "").Body.Len() != maxPayload {
		t.Error("a payload of exactly the limit is cut")
	}
}

func TestBounds(t *testing.T) {
	r := newRig(t)
	var first string
	for i := range maxOfOne {
		if u, _ := r.open(""); i == 0 {
			first = u
		}
	}
	a := r.do("POST", path, "", "Content-Type", "text/plain")
	r.refused(a, 429, "M_LIMIT_EXCEEDED")
	if a.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	r.do("DELETE", first, "") // makes room for one
	second, _ := r.open("")
	r.now = r.now.Add(lifetime)
	r.refused(r.do("GET", second, ""), 404, "M_NOT_FOUND")
	r.open("") // the others' time is over as well
	if len(r.s.m) != 1 || len(r.s.by) != 1 {
		t.Errorf("%d sessions of %d addresses are kept", len(r.s.m), len(r.s.by))
	}
	for i := len(r.s.m); i < maxSessions; i++ {
		r.s.m[fmt.Sprint(i)] = &session{expires: r.now.Add(time.Minute), from: fmt.Sprint(i)}
	}
	r.refused(r.do("POST", path, "", "Content-Type", "text/plain"), 429, "M_LIMIT_EXCEEDED")
}

func TestNetwork(t *testing.T) {
	for in, want := range map[string]string{"192.0.2.1:5": "192.0.2.1", "[2001:db8::1]:5": "2001:db8::/64", "[2001:db8:0:0:9::1]:6": "2001:db8::/64", "[::ffff:192.0.2.1]:5": "::ffff:192.0.2.1", "x": "x"} {
		if got := network(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// FuzzUpdate holds a write to its conditions, whatever the request looks like.
func FuzzUpdate(f *testing.F) {
	f.Add("PUT", "text/plain", `"a"`, "payload", true)
	f.Add("PUT", "text/plain;charset=x", "*", "", false)
	f.Add("GET", "", `W/"a", "b"`, "", true)
	f.Add("DELETE", "text/plain", ",,", strings.Repeat("x", maxPayload+1), true)
	f.Fuzz(func(t *testing.T, method, kind, tags, body string, known bool) {
		switch method {
		case "GET", "PUT", "DELETE":
		default:
			t.Skip()
		}
		r := newRig(t)
		url, tag := r.open("before")
		if known {
			tags += "," + tag
		}
		a := r.do(method, url, body, "Content-Type", kind, "If-Match", tags, "If-None-Match", tags)
		if a.Code >= 500 {
			t.Fatalf("%d %s", a.Code, a.Body)
		}
		x := r.s.m[strings.TrimPrefix(url, path+"/")]
		switch {
		case method == "DELETE":
			if x != nil && a.Code == 204 {
				t.Fatal("it is still there")
			}
		case (x.etag != tag) != (method == "PUT" && a.Code == 202):
			t.Fatalf("%s: %d, the tag is another: %v", method, a.Code, x.etag != tag)
		case method == "PUT" && a.Code == 202:
			if string(x.payload) != body || len(body) > maxPayload || !strings.HasPrefix(strings.ToLower(strings.TrimSpace(kind)), "text/plain") || !strings.Contains(tags, tag) && !strings.Contains(tags, "*") {
				t.Fatalf("accepted %q as %q for %q", body, kind, tags)
			}
		case string(x.payload) != "before":
			t.Fatal("a refused request changed the payload")
		}
	})
}
