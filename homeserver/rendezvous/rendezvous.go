// Package rendezvous lets two devices of a person exchange a few messages before
// one of them is signed in, as signing in with a QR code needs it (the sessions of
// MSC4108). What goes through is encrypted between the devices.
//
// Invariants: sessions are in memory only, bounded in number, size and time; each
// write has an ETag of its own, so that a payload sent again with the ETag it was
// first sent with changes nothing; who knows a session's address may do everything
// with it, and the address cannot be guessed.
package rendezvous

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
)

// Bounds: at most 8 MiB of payloads in all.
const (
	maxPayload  = 4096 // bytes. MSC4108: 4 KB
	maxSessions = 2000
	maxOfOne    = 20 // sessions of one address at a time
	// Clients give up at the time that the first answer names, so it leaves enough
	// to find a password and type it.
	lifetime = 10 * time.Minute
)

const path = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous"

// Options of New.
type Options struct {
	PublicURL func(*http.Request) string // origin that a request came in by
	Now       func() time.Time           // nil: the machine's
}

// Service keeps the sessions. Its methods are safe for concurrent use.
type Service struct {
	o  Options
	mu sync.Mutex
	m  map[string]*session
	by map[string]int // sessions by the address that made them
}

// session is what one device left for the other.
type session struct {
	payload  []byte
	etag     string
	modified time.Time
	expires  time.Time
	from     string
}

// New makes a Service.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{o: o, m: map[string]*session{}, by: map[string]int{}}
}

// Routes are the package's operations.
func (s *Service) Routes() []route.Route {
	return []route.Route{
		{Op: "createRendezvousSession", Pattern: "POST " + path, Limit: route.Rendezvous, MaxBody: maxPayload, Handle: s.create},
		{Op: "getRendezvousSession", Pattern: "GET " + path + "/{sessionID}", Limit: route.Reads, Handle: s.get},
		{Op: "updateRendezvousSession", Pattern: "PUT " + path + "/{sessionID}", Limit: route.Reads, MaxBody: maxPayload, Handle: s.update},
		{Op: "deleteRendezvousSession", Pattern: "DELETE " + path + "/{sessionID}", Limit: route.Reads, Handle: s.remove},
	}
}

var errNone = &mx.Error{Code: mx.NotFound, Msg: "There is no such rendezvous session, or no longer. Begin again."}

// create answers POST: a session with its first payload.
func (s *Service) create(_ context.Context, r *route.Request) (any, error) {
	if err := plainText(r); err != nil {
		return nil, err
	}
	now, from := s.o.Now(), network(r.RemoteAddr)
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, x := range s.m {
		if !now.Before(x.expires) {
			s.drop(id, x)
		}
	}
	if len(s.m) >= maxSessions || s.by[from] >= maxOfOne {
		return nil, &mx.Error{Code: mx.LimitExceeded, Msg: "Too many rendezvous sessions are open. Try again in a minute.", RetryAfter: time.Minute}
	}
	id := rand.Text()
	x := &session{expires: now.Add(lifetime), from: from}
	x.put(r.RawBody(), now)
	s.m[id] = x
	s.by[from]++
	body, err := json.Marshal(map[string]string{"url": s.o.PublicURL(r.Request) + path + "/" + id})
	if err != nil {
		return nil, err
	}
	return x.answer(http.StatusCreated, "application/json", body), nil
}

// get answers GET: the payload, or that it is still the one that the asker has.
func (s *Service) get(_ context.Context, r *route.Request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, err := s.find(r)
	if err != nil {
		return nil, err
	}
	if names(r.Header.Values("If-None-Match"), x.etag) {
		return x.answer(http.StatusNotModified, "", nil), nil
	}
	return x.answer(http.StatusOK, "text/plain", x.payload), nil
}

// update answers PUT: another payload, in place of the one that the sender saw.
func (s *Service) update(_ context.Context, r *route.Request) (any, error) {
	if err := plainText(r); err != nil {
		return nil, err
	}
	seen := r.Header.Values("If-Match")
	if len(seen) == 0 {
		return nil, mx.Errorf(mx.MissingParam, "Send the ETag of the payload that is to be replaced in the If-Match header.")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x, err := s.find(r)
	if err != nil {
		return nil, err
	}
	if !names(seen, x.etag) {
		// Without the ETag: who was overtaken has to read first.
		return nil, &mx.Error{Code: mx.Unknown, Status: http.StatusPreconditionFailed, Msg: "The payload is another meanwhile. Read it first.",
			Fields: map[string]any{"org.matrix.msc4108.errcode": "M_CONCURRENT_WRITE"}}
	}
	x.put(r.RawBody(), s.o.Now())
	return x.answer(http.StatusAccepted, "", nil), nil
}

// remove answers DELETE.
func (s *Service) remove(_ context.Context, r *route.Request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, err := s.find(r)
	if err != nil {
		return nil, err
	}
	s.drop(r.Param("sessionID"), x)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }), nil
}

// find is the live session that a request is about. Errors: NotFound.
func (s *Service) find(r *route.Request) (*session, error) {
	id := r.Param("sessionID")
	x := s.m[id]
	if x != nil && !s.o.Now().Before(x.expires) {
		s.drop(id, x)
		x = nil
	}
	if x == nil {
		return nil, errNone
	}
	return x, nil
}

func (s *Service) drop(id string, x *session) {
	delete(s.m, id)
	if s.by[x.from]--; s.by[x.from] <= 0 {
		delete(s.by, x.from)
	}
}

// put replaces the payload, under an ETag that there never was.
func (x *session) put(payload []byte, now time.Time) {
	x.payload, x.modified, x.etag = payload, now, `"`+rand.Text()+`"`
}

// answer writes with the headers that clients insist on, in every answer.
func (x *session) answer(status int, contentType string, body []byte) http.HandlerFunc {
	etag, expires, modified := x.etag, x.expires, x.modified
	return func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("ETag", etag)
		h.Set("Expires", expires.UTC().Format(http.TimeFormat))
		h.Set("Last-Modified", modified.UTC().Format(http.TimeFormat))
		h.Set("Cache-Control", "no-store, no-transform")
		h.Set("Pragma", "no-cache")
		h.Set("X-Content-Type-Options", "nosniff")
		if contentType != "" { // without a charset: clients compare
			h.Set("Content-Type", contentType)
		}
		w.WriteHeader(status)
		if len(body) > 0 {
			w.Write(body)
		}
	}
}

// plainText refuses payloads of another kind, so that nobody's browser can be
// brought to show one.
func plainText(r *route.Request) error {
	ct := r.Header.Get("Content-Type")
	if ct == "" {
		return mx.Errorf(mx.MissingParam, "Send the payload with the Content-Type text/plain.")
	}
	if kind, _, err := mime.ParseMediaType(ct); err != nil || kind != "text/plain" {
		return mx.Errorf(mx.InvalidParam, "The Content-Type of a payload must be text/plain.")
	}
	return nil
}

// names reports whether a list of entity tags has a payload's. Weak ones count: a
// proxy that compresses makes ours weak, and they never stand for two payloads.
func names(header []string, etag string) bool {
	for _, line := range header {
		for one := range strings.SplitSeq(line, ",") {
			one = strings.TrimSpace(one)
			if one == "*" || strings.TrimPrefix(one, "W/") == etag {
				return true
			}
		}
	}
	return false
}

// network is what one person has of addresses: of IPv6 the first 64 bits.
func network(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() && !ip.Is4In6() {
		if p, err := ip.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return host
}
