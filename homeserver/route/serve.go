package route

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"unicode/utf8"

	"holdfast/homeserver/mx"
)

const defaultMaxBody = 1 << 20

// Server answers the routes it was given.
type Server struct {
	mux   *http.ServeMux
	auth  Authenticator
	log   *slog.Logger
	limit *limiter       // nil: no limits
	apps  Appservices    // nil: none
	known *http.ServeMux // the same routes without a catch-all: tells 404 from 405

	seen func(userID, deviceID, address, agent string) // nil: nobody asks
}

// OnSeen has f called for every request of a device; it must be quick. To be
// called before the first request.
func (s *Server) OnSeen(f func(userID, deviceID, address, agent string)) { s.seen = f }

// RateOf has f asked for limits of single users; it must be quick. To be called
// before the first request.
func (s *Server) RateOf(f func(userID string) (perSecond, burst float64, own bool)) {
	if s.limit != nil {
		s.limit.own = f
	}
}

// Appservices authenticates application services, which may act as any user of
// their namespaces.
type Appservices interface {
	// Authenticate returns false when the token is no application service's.
	// Errors: Forbidden when it may not act as that user, or the user has no account;
	// UnknownDevice when the device is not the user's.
	Authenticate(ctx context.Context, token string, as As) (Principal, bool, error)
}

// As is who an application service asks to be in a request.
type As struct {
	UserID   string // "": its sender
	DeviceID string // "": none
	NewUser  bool   // the user needs no account yet
}

// UseAppservices is called before the first request.
func (s *Server) UseAppservices(a Appservices) { s.apps = a }

// NewServer registers routes. Two routes for the same path are a mistake of ours
// and panic at start.
func NewServer(auth Authenticator, log *slog.Logger, limits bool, routes []Route) *Server {
	s := &Server{mux: http.NewServeMux(), known: http.NewServeMux(), auth: auth, log: log}
	s.mux.HandleFunc("/", s.unknown)
	if limits {
		s.limit = newLimiter()
	}
	for i := range routes {
		rt := &routes[i]
		method, _, _ := strings.Cut(rt.Pattern, " ")
		for _, p := range append([]string{rt.Pattern}, rt.Aliases...) {
			if !strings.Contains(p, " ") {
				p = method + " " + p
			}
			h := s.serve(rt)
			s.mux.Handle(p, h)
			s.known.Handle(p, h)
		}
	}
	return s
}

// ServeHTTP answers a request, or 404/405 M_UNRECOGNIZED.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization, If-Match, If-None-Match")
	h.Set("Access-Control-Expose-Headers", "ETag, Retry-After")
	h.Set("Access-Control-Max-Age", "86400")
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	// The mux would redirect paths that it can clean; no operation has such a path.
	if p := r.URL.EscapedPath(); strings.Contains(p, "//") || strings.Contains(p, "/./") || strings.Contains(p, "/../") {
		WriteError(w, r, s.log, mx.Errorf(mx.Unrecognized, "This server has no %s %s.", r.Method, r.URL.Path))
		return
	}
	s.mux.ServeHTTP(w, r)
}

// unknown answers what no route takes.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request) {
	e := mx.Errorf(mx.Unrecognized, "This server has no %s %s.", r.Method, r.URL.Path)
	probe := statusProbe{h: http.Header{}}
	s.known.ServeHTTP(&probe, r)
	if probe.code == http.StatusMethodNotAllowed {
		e.Status = http.StatusMethodNotAllowed
	}
	WriteError(w, r, s.log, e)
}

// statusProbe keeps only the status that the mux would have answered.
type statusProbe struct {
	h    http.Header
	code int
}

func (p *statusProbe) Header() http.Header         { return p.h }
func (p *statusProbe) Write(b []byte) (int, error) { return len(b), nil }
func (p *statusProbe) WriteHeader(code int)        { p.code = code }

func (s *Server) serve(rt *Route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		r := &Request{Request: hr, Route: rt}
		out, err := s.call(w, r)
		if err != nil {
			WriteError(w, hr, s.log, err)
			return
		}
		switch v := out.(type) {
		case http.HandlerFunc:
			v(w, hr)
		case mx.Raw:
			w.Header().Set("Content-Type", "application/json")
			w.Write(v)
		case nil:
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, "{}")
		default:
			var buf bytes.Buffer
			enc := json.NewEncoder(&buf)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(v); err != nil {
				WriteError(w, hr, s.log, fmt.Errorf("encode the answer of %s: %w", rt.Op, err))
				return
			}
			w.Header().Set("Content-Type", "application/json")
			w.Write(buf.Bytes())
		}
	})
}

func (s *Server) call(w http.ResponseWriter, r *Request) (out any, err error) {
	if err := s.authenticate(r); err != nil {
		if e := s.limit.wrongToken(r); e != nil {
			return nil, e
		}
		return nil, err
	}
	if err := s.limit.allow(r); err != nil {
		return nil, err
	}
	if max := r.Route.MaxBody; max >= 0 && r.ContentLength != 0 {
		if max == 0 {
			max = defaultMaxBody
		}
		r.body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, max))
		var big *http.MaxBytesError
		if errors.As(err, &big) {
			return nil, mx.Errorf(mx.TooLarge, "The request is larger than %d bytes.", max)
		}
		if err != nil {
			return nil, mx.Errorf(mx.NotJSON, "The request ended early.")
		}
		if !utf8.Valid(r.body) { // encoding/json would take it, and change it
			return nil, mx.Errorf(mx.NotJSON, "The request is not UTF-8.")
		}
	}
	if no := r.Route.Refuse; no != nil {
		return nil, no.Answer
	}
	out, err = r.Route.Handle(r.Context(), r)
	if r.Route.Waits {
		if err := s.still(r); err != nil {
			return nil, err
		}
	}
	return out, err
}

// still reports who lost the access while an answer was waited for: signed out, locked
// or closed. A token that merely expired or was replaced meanwhile is good for what it
// was sent with.
func (s *Server) still(r *Request) error {
	if r.Appservice != "" {
		return nil
	}
	_, err := s.auth.Authenticate(r.Context(), Token(r.Request))
	var e *mx.Error
	if !errors.As(err, &e) || e.Code == mx.UnknownToken && e.Fields["soft_logout"] == true {
		return nil
	}
	return e
}

func (s *Server) authenticate(r *Request) error {
	if r.Route.Auth == None || r.Route.Auth == Federation {
		return nil
	}
	token := Token(r.Request)
	if token == "" {
		if r.Route.Auth == Optional {
			return nil
		}
		return mx.Errorf(mx.MissingToken, "Send an access token in the Authorization header.")
	}
	if s.apps != nil {
		device := r.Query("device_id")
		if device == "" {
			device = r.Query("org.matrix.msc3202.device_id")
		}
		p, ok, err := s.apps.Authenticate(r.Context(), token, As{UserID: r.Query("user_id"), DeviceID: device, NewUser: r.Route.NewUsers})
		if err != nil {
			return err
		}
		if ok && r.Route.Auth == Admin && !p.Admin {
			return mx.Errorf(mx.Forbidden, "Only an administrator may do this, not an application service.")
		}
		if ok {
			return s.enter(r, p)
		}
	}
	p, err := s.auth.Authenticate(r.Context(), token)
	if err != nil && !(r.Route.Locked && isLocked(err)) {
		return err
	}
	return s.enter(r, p)
}

// enter makes a principal the sender of a request.
func (s *Server) enter(r *Request, p Principal) error {
	if s.seen != nil && p.DeviceID != "" {
		address, _, _ := net.SplitHostPort(r.RemoteAddr)
		s.seen(p.UserID, p.DeviceID, address, r.UserAgent())
	}
	if r.Route.Auth == Admin && !p.Admin && !(p.Moderator && r.Route.Moderators) && !(p.Auditor && r.Route.Auditors) {
		return mx.Errorf(mx.Forbidden, "Only an administrator may do this.")
	}
	r.Principal = p
	return nil
}

func isLocked(err error) bool {
	var e *mx.Error
	return errors.As(err, &e) && e.Code == mx.UserLocked
}

// Token is the request's access token, or "".
func Token(r *http.Request) string {
	if scheme, t, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(t)
	}
	return r.URL.Query().Get("access_token")
}

// Decode reads the body, which is a JSON object or empty, as JSON does. Errors:
// NotJSON, BadJSON.
func (r *Request) Decode(into any) error { return r.decode(into) }

func (r *Request) decode(into any) error {
	b := bytes.TrimSpace(r.body)
	if len(b) == 0 {
		return nil
	}
	if b[0] != '{' && json.Valid(b) {
		return mx.Errorf(mx.BadJSON, "The request must be a JSON object.")
	}
	if err := json.Unmarshal(b, into); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return mx.Errorf(mx.BadJSON, "The field %q must be %s.", wrong.Field, wrong.Type)
		}
		var own *mx.Error
		if errors.As(err, &own) {
			return own
		}
		return mx.Errorf(mx.NotJSON, "The request is not valid JSON.")
	}
	return nil
}

// RawBody is the request's body as it came. It is empty for a route that streams.
func (r *Request) RawBody() []byte { return r.body }

// WithPrincipal is a request as a principal makes it, for calls inside the server.
func WithPrincipal(ctx context.Context, hr *http.Request, p Principal) *Request {
	return &Request{Request: hr.WithContext(ctx), Principal: p}
}
