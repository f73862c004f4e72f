package web

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"rsc.io/qr"
)

// setupLifetime is how long the browser that proved the claim code may go on,
// and see the closing page after it finished.
const setupLifetime = time.Hour

// setupSessions holds the one browser that does the setup. A right claim code
// takes it over: whoever has the code is in charge.
type setupSessions struct {
	mu      sync.Mutex
	hash    [sha256.Size]byte
	expires time.Time
	admin   string // user ID, once finished
}

func (s *setupSessions) start(now time.Time) string {
	token := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hash, s.expires, s.admin = sha256.Sum256([]byte(token)), now.Add(setupLifetime), ""
	return token
}

func (s *setupSessions) check(token string, now time.Time) (admin string, ok bool) {
	h := sha256.Sum256([]byte(token))
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.admin, now.Before(s.expires) && subtle.ConstantTimeCompare(h[:], s.hash[:]) == 1
}

func (s *setupSessions) finished(admin string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.admin = admin
}

func (s *Server) setupRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/setup", s.endpoint(s.setupState))
	mux.HandleFunc("POST /api/setup/claim", s.endpoint(s.setupClaim))
	mux.HandleFunc("POST /api/setup/check-name", s.endpoint(s.setupCheckName))
	mux.HandleFunc("POST /api/setup/finish", s.endpoint(s.setupFinish))
	mux.HandleFunc("POST /api/setup/invite", s.endpoint(s.setupInvite))
	mux.HandleFunc("POST /api/setup/selftest", s.endpoint(s.setupSelfTest))
	mux.HandleFunc("POST /api/setup/selftest/browser", s.endpoint(s.setupBrowserTest))
	mux.HandleFunc("POST /api/setup/recovery", s.endpoint(s.setupMachine(s.newRecovery)))
	mux.HandleFunc("POST /api/setup/recovery/confirm", s.endpoint(s.setupMachine(s.confirmRecovery)))
	mux.HandleFunc("POST /api/setup/clock", s.endpoint(s.setupMachine(s.setClock)))
}

// setupAnswer is the state, and whether this browser has proved the claim code.
// Disk and Clock are there for who did, on a machine of the appliance's own.
type setupAnswer struct {
	State
	Proved bool        `json:"proved"`
	Disk   *DiskState  `json:"disk,omitempty"`
	Clock  *ClockState `json:"clock,omitempty"`
}

// setupMachine lets the browser that proved the claim code do something with the
// machine, before and right after there is an administrator.
func (s *Server) setupMachine(f func(r *http.Request) (any, error)) func(http.ResponseWriter, *http.Request) (any, error) {
	return func(_ http.ResponseWriter, r *http.Request) (any, error) {
		if _, err := s.setupSession(r); err != nil {
			return nil, err
		}
		if s.Machine == nil {
			return nil, errNoMachine
		}
		return f(r)
	}
}

func (s *Server) setupState(_ http.ResponseWriter, r *http.Request) (any, error) {
	st, err := s.Setup.State(r.Context())
	if err != nil {
		return nil, err
	}
	_, err = s.setupSession(r)
	a := setupAnswer{State: st, Proved: err == nil}
	if a.Proved && s.Machine != nil {
		disk, err := s.Machine.Disk.DiskState(r.Context())
		if err != nil {
			return nil, err
		}
		clock, err := s.Machine.Clock.ClockState(r.Context())
		if err != nil {
			return nil, err
		}
		a.Disk, a.Clock = &disk, &clock
	}
	return a, nil
}

func (s *Server) setupClaim(w http.ResponseWriter, r *http.Request) (any, error) {
	var in struct {
		Code string `json:"code"`
	}
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if len(in.Code) > 100 {
		return nil, &Error{Code: "wrong_code", Status: http.StatusForbidden, Field: "code", Message: "This is not the claim code. It stands on the appliance's console."}
	}
	addr, _, _ := net.SplitHostPort(r.RemoteAddr)
	if wait, ok := s.claims.take(addr); !ok {
		secs := int(wait.Seconds()) + 1
		w.Header().Set("Retry-After", strconv.Itoa(secs))
		return nil, &Error{Status: http.StatusTooManyRequests, Code: "slow_down", Field: "code", Message: fmt.Sprintf("Too many attempts. Wait %d seconds, then type the code as the console shows it.", secs)}
	}
	if err := s.Setup.Claim(r.Context(), strings.TrimSpace(in.Code)); err != nil {
		return nil, err
	}
	s.claims.forget(addr)
	s.setCookie(w, r, s.session.start(s.now()))
	return struct{}{}, nil
}

// cookieName is bound to the host where TLS allows it; plain HTTP is only served
// to the same machine or to a proxy.
func (s *Server) cookieName(r *http.Request) (name string, secure bool) {
	if strings.HasPrefix(s.origin(r), "https://") {
		return "__Host-hf_setup", true
	}
	return "hf_setup", false
}

func (s *Server) origin(r *http.Request) string {
	if s.Origin == nil {
		return ""
	}
	return strings.TrimSuffix(s.Origin(r), "/")
}

func (s *Server) setCookie(w http.ResponseWriter, r *http.Request, token string) {
	name, secure := s.cookieName(r)
	http.SetCookie(w, &http.Cookie{Name: name, Value: token, Path: "/", MaxAge: int(setupLifetime.Seconds()), HttpOnly: true, Secure: secure, SameSite: http.SameSiteStrictMode})
}

func (s *Server) setupSession(r *http.Request) (admin string, err error) {
	name, _ := s.cookieName(r)
	if c, err := r.Cookie(name); err == nil {
		if admin, ok := s.session.check(c.Value, s.now()); ok {
			return admin, nil
		}
	}
	return "", &Error{Status: http.StatusUnauthorized, Code: "not_proved", Message: "Type the claim code first. It stands on the appliance's console."}
}

func (s *Server) setupCheckName(_ http.ResponseWriter, r *http.Request) (any, error) {
	if _, err := s.setupSession(r); err != nil {
		return nil, err
	}
	var in struct {
		ServerName string `json:"server_name"`
	}
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	name, err := s.checkName(r.Context(), in.ServerName)
	if err != nil {
		return nil, err
	}
	return map[string]string{"server_name": name}, nil
}

func (s *Server) checkName(ctx context.Context, name string) (string, error) {
	name = strings.ToLower(strings.TrimSpace(name))
	if err := plausibleName(name); err != nil {
		return "", err
	}
	if c, ok := s.Setup.(NameChecker); ok {
		return c.CheckName(ctx, name)
	}
	return name, nil
}

// plausibleName refuses what people paste by mistake, with a reason for each.
func plausibleName(name string) error {
	bad := func(msg string) error { return &Error{Code: "bad_server_name", Field: "server_name", Message: msg} }
	switch {
	case name == "":
		return bad("Type a server name, for example example.org.")
	case strings.Contains(name, "://"):
		return bad("A server name has no https:// before it. Type only the name, for example example.org.")
	case strings.ContainsAny(name, "/@ "):
		return bad("A server name has no slash, @ or space. Type only the name, for example example.org.")
	case len(name) > 230:
		return bad("The server name is too long: user IDs carry it and are limited to 255 characters.")
	}
	return nil
}

func (s *Server) setupFinish(_ http.ResponseWriter, r *http.Request) (any, error) {
	if _, err := s.setupSession(r); err != nil {
		return nil, err
	}
	var in Choices
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	in.Organisation = strings.TrimSpace(in.Organisation)
	in.Admin.DisplayName = strings.TrimSpace(in.Admin.DisplayName)
	switch {
	case in.Organisation == "":
		return nil, &Error{Code: "missing", Field: "organisation", Message: "Type the name of your organisation."}
	case len(in.Organisation) > 200:
		return nil, &Error{Code: "too_long", Field: "organisation", Message: "Shorten the organisation's name to at most 200 bytes."}
	case len(in.Admin.DisplayName) > 200:
		return nil, &Error{Code: "too_long", Field: "admin.display_name", Message: "Shorten the name to at most 200 bytes."}
	case len(in.Admin.Password) > 1000:
		return nil, &Error{Code: "too_long", Field: "admin.password", Message: "Shorten the password to at most 1,000 bytes."}
	}
	var err error
	if in.ServerName, err = s.checkName(r.Context(), in.ServerName); err != nil {
		return nil, err
	}
	switch in.TLS.Mode {
	case "own-ca", "acme", "off":
		in.TLS.Cert, in.TLS.Key = "", ""
	case "files":
		if err := checkPair(in.TLS.Cert, in.TLS.Key); err != nil {
			return nil, err
		}
	default:
		return nil, &Error{Code: "bad_tls", Field: "tls.mode", Message: "Choose one of: own-ca, files, acme, off."}
	}
	done, err := s.Setup.Finish(r.Context(), in)
	if err != nil {
		return nil, err
	}
	s.session.finished(done.UserID)
	return done, nil
}

func (s *Server) setupInvite(_ http.ResponseWriter, r *http.Request) (any, error) {
	admin, err := s.setupFinished(r)
	if err != nil {
		return nil, err
	}
	return s.invite(r, inviteRequest{}, admin)
}

func (s *Server) setupSelfTest(_ http.ResponseWriter, r *http.Request) (any, error) {
	if _, err := s.setupFinished(r); err != nil {
		return nil, err
	}
	return s.selfTest(r)
}

func (s *Server) setupBrowserTest(_ http.ResponseWriter, r *http.Request) (any, error) {
	if _, err := s.setupFinished(r); err != nil {
		return nil, err
	}
	return s.CallDesk.BrowserTest(r.Context())
}

func (s *Server) setupFinished(r *http.Request) (admin string, err error) {
	if admin, err = s.setupSession(r); err != nil {
		return "", err
	}
	if admin == "" {
		return "", &Error{Status: http.StatusConflict, Code: "not_finished", Message: "Finish the setup first: there is no account yet."}
	}
	return admin, nil
}

func (s *Server) selfTest(r *http.Request) (any, error) {
	ctx, cancel := context.WithTimeout(r.Context(), 30*time.Second)
	defer cancel()
	checks, err := s.SelfTest.SelfTest(ctx)
	if err != nil {
		return nil, err
	}
	if checks == nil {
		return nil, errors.New("the self-test answered nothing")
	}
	return checks, nil
}

// QRCode draws text as a QR code, for pages of the other peers.
func QRCode(text string) (string, error) { return qrSVG(text) }

// qrSVG draws text as a QR code. The drawing is one path, black on white, with
// the quiet zone that scanners need.
func qrSVG(text string) (string, error) {
	code, err := qr.Encode(text, qr.M)
	if err != nil {
		return "", err
	}
	const quiet = 4
	size := code.Size + 2*quiet
	var path strings.Builder
	for y := range code.Size {
		for x := 0; x < code.Size; x++ {
			run := 0
			for x+run < code.Size && code.Black(x+run, y) {
				run++
			}
			if run > 0 {
				fmt.Fprintf(&path, "M%d %dh%dv1h-%dz", x+quiet, y+quiet, run, run)
				x += run
			}
		}
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" shape-rendering="crispEdges"><path fill="#fff" d="M0 0h%dv%dH0z"/><path d="%s"/></svg>`, size, size, size, size, path.String()), nil
}
