package web

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxBody bounds a request of the API, in bytes: certificates with a chain and
// a key fit with room to spare.
const maxBody = 256 << 10

// protect bounds bodies, refuses requests that another site started, and keeps
// answers out of caches.
func (s *Server) protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		h.Set("Cache-Control", "no-store")
		commonHeaders(h)
		if err := s.guard.Check(r); err != nil {
			s.writeError(w, r, &Error{Status: http.StatusForbidden, Code: "cross_origin", Message: "This request was started by another site and was refused. Open the appliance's own address and try again."})
			return
		}
		most := int64(maxBody)
		if r.URL.Path == updatePath {
			most = maxBundle // only administrators get to have it read
		} else if strings.HasPrefix(r.URL.Path, listPath) {
			most = maxList // the same
		} else if strings.HasPrefix(r.URL.Path, providerPath) {
			most = maxProvider // the same
		}
		r.Body = http.MaxBytesReader(w, r.Body, most)
		next.ServeHTTP(w, r)
	})
}

// endpoint makes a handler of a function that answers JSON.
func (s *Server) endpoint(f func(w http.ResponseWriter, r *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		out, err := f(w, r)
		if err != nil {
			s.writeError(w, r, err)
			return
		}
		writeJSON(w, http.StatusOK, out)
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		http.Error(w, `{"error":{"code":"internal","message":"The answer could not be written."}}`, http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

func (s *Server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	var e *Error
	if !errors.As(err, &e) {
		id := rand.Text()[:12]
		if r.Context().Err() == nil {
			s.Log.Error("a request of the web API failed", "id", id, "method", r.Method, "path", r.URL.Path, "err", err)
		}
		e = &Error{Status: http.StatusInternalServerError, Code: "internal", Message: "Something went wrong in the appliance. Its log has the cause under " + id + "."}
	}
	body := map[string]any{"code": e.Code, "message": e.Message}
	if e.Field != "" {
		body["field"] = e.Field
	}
	status := e.Status
	if status == 0 {
		status = http.StatusBadRequest
	}
	writeJSON(w, status, map[string]any{"error": body})
}

// decode reads the body as one JSON object. Unknown fields are refused: they are
// a mistake of the page or an attempt at something that does not exist.
func decode(r *http.Request, into any) error {
	if t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); t != "application/json" {
		return &Error{Status: http.StatusUnsupportedMediaType, Code: "not_json", Message: "Send the request as application/json."}
	}
	raw, err := io.ReadAll(r.Body)
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return &Error{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Message: fmt.Sprintf("The request is larger than %d KiB. Send a smaller file.", tooLarge.Limit>>10)}
	}
	if err != nil {
		return &Error{Code: "unreadable", Message: "The request did not arrive complete. Try again."}
	}
	return decodeObject(raw, into)
}

func decodeObject(raw []byte, into any) error {
	if t := bytes.TrimLeft(raw, " \t\r\n"); len(t) == 0 || t[0] != '{' {
		return &Error{Code: "bad_json", Message: "The request must be one JSON object."}
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return &Error{Code: "bad_json", Message: "The request could not be understood: " + strings.TrimPrefix(err.Error(), "json: ") + "."}
	}
	if _, err := d.Token(); err != io.EOF {
		return &Error{Code: "bad_json", Message: "The request must be one JSON object and nothing after it."}
	}
	return nil
}

// throttle slows guesses down: each address has a few quick attempts, then must
// wait between them, and all addresses together have a bound too.
type throttle struct {
	now     func() time.Time
	mu      sync.Mutex
	all     window
	perAddr map[string]*window
}

type window struct {
	count int
	since time.Time
}

const (
	throttleWindow  = time.Minute
	triesPerAddress = 5
	triesTogether   = 60
	maxThrottleKeys = 4096
)

func newThrottle(now func() time.Time) *throttle {
	return &throttle{now: now, perAddr: map[string]*window{}}
}

// take counts an attempt. It returns how long to wait when there were too many.
func (t *throttle) take(addr string) (time.Duration, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	w := t.perAddr[addr]
	if w == nil {
		if len(t.perAddr) >= maxThrottleKeys {
			clear(t.perAddr)
		}
		w = &window{}
		t.perAddr[addr] = w
	}
	for _, x := range []*window{w, &t.all} {
		if now.Sub(x.since) >= throttleWindow {
			x.count, x.since = 0, now
		}
	}
	if w.count >= triesPerAddress {
		return throttleWindow - now.Sub(w.since), false
	}
	if t.all.count >= triesTogether {
		return throttleWindow - now.Sub(t.all.since), false
	}
	w.count++
	t.all.count++
	return 0, true
}

// forget gives an address its attempts back after a right answer.
func (t *throttle) forget(addr string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.perAddr, addr)
}
