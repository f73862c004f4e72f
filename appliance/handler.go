package appliance

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"holdfast/homeserver/push/unifiedpush"
	callrelay "holdfast/sfu"
)

// clientHandler is what browsers and clients reach. A switch on the path, not a
// ServeMux: that one would redirect paths with "//" or "..", which Matrix
// identifiers may have when they are decoded.
func (a *Appliance) clientHandler() http.Handler {
	var sfu http.Handler = http.NotFoundHandler()
	if a.sfu != nil {
		relay := http.StripPrefix("/livekit/sfu", a.sfu.Handler())
		sfu = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			relay.ServeHTTP(w, r.WithContext(callrelay.WithReach(r.Context(), a.reach(r))))
		})
	}
	ui := a.web.Handler()
	return a.wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := a.core.Load()
		switch p := r.URL.Path; {
		case under(p, "/_matrix"), under(p, "/_synapse"), under(p, "/.well-known/matrix"), under(p, "/livekit/jwt"):
			c.homeserver.ServeHTTP(w, r)
		case under(p, "/oauth2"), under(p, "/login"), under(p, "/logout"), under(p, "/consent"), under(p, "/account"),
			under(p, "/reauth"), under(p, "/link"), under(p, "/e"), under(p, "/upstream"), strings.HasPrefix(p, "/.well-known/o"):
			c.pages.ServeHTTP(w, r)
		case unifiedpush.Serves(p):
			c.phones.ServeHTTP(w, r)
		case under(p, "/livekit/sfu"):
			sfu.ServeHTTP(w, r)
		case p == "/ca.crt":
			a.serveCA(w, r)
		case under(p, "/.well-known"):
			http.NotFound(w, r)
		default:
			ui.ServeHTTP(w, r)
		}
	}))
}

// under reports whether a path is prefix or below it.
func under(path, prefix string) bool {
	return strings.HasPrefix(path, prefix) && (len(path) == len(prefix) || path[len(prefix)] == '/')
}

func (a *Appliance) federationHandler() http.Handler {
	return a.wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.core.Load().federation.ServeHTTP(w, r)
	}))
}

// serveCA lets people download the own authority's certificate.
func (a *Appliance) serveCA(w http.ResponseWriter, r *http.Request) {
	own := a.ownCA()
	if own == nil {
		http.Error(w, "This appliance does not use a certificate authority of its own.", http.StatusNotFound)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/x-x509-ca-cert")
	h.Set("Content-Disposition", `attachment; filename="holdfast-ca.crt"`)
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodHead {
		w.Write(own.CA())
	}
}

// redirect sends browsers to the same place on HTTPS. Only addresses: whatever
// else arrives here, as a form's content or a token, has been seen by everybody on
// the way and is not encouraged by working.
func (a *Appliance) redirect(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/ca.crt" {
		a.serveCA(w, r)
		return
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "Use https:// here.", http.StatusMisdirectedRequest)
		return
	}
	// A foreign name would make of this a way to send people anywhere.
	if host != a.cfg.PublicHost() && !a.ownName(host) {
		http.Redirect(w, r, a.sharedURL()+"/", http.StatusTemporaryRedirect)
		return
	}
	to := *r.URL
	to.Scheme, to.Host = "https", hostPort(host, strconv.Itoa(a.httpsPort()), "443")
	http.Redirect(w, r, to.String(), http.StatusTemporaryRedirect)
}

// wrap does what every request needs: it counts, logs, survives panics, ends
// uploads that stall and long polls at a stop.
func (a *Appliance) wrap(next http.Handler) http.Handler {
	log := a.logs.component("http")
	hsts := a.tlsMode() == "files" || a.tlsMode() == "acme"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w}
		if a.trial.Load() && !loopback(r) {
			notYet(w)
			return
		}
		if state, ok := r.Context().Value(tlsKey{}).(*tls.ConnectionState); ok && r.TLS == nil {
			r.TLS = state
		}
		a.realAddr(r)
		r = fromAddress(r)
		if r.TLS != nil && hsts {
			// Not with the own authority: a device that does not trust it yet must be
			// able to look at the warning and go on.
			w.Header().Set("Strict-Transport-Security", "max-age=31536000")
		}
		if r.Body != nil && r.ContentLength != 0 {
			r.Body = &stallReader{r.Body, http.NewResponseController(w)}
		}
		if longPoll(r) {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(a.stopping, cancel)()
			r = r.WithContext(ctx)
		}
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				log.Error("a request failed by a mistake in the program", "method", r.Method, "pattern", r.Pattern, "panic", p, "stack", string(debug.Stack()))
				if rec.status == 0 {
					w.Header().Set("Content-Type", "application/json")
					rec.WriteHeader(http.StatusInternalServerError)
					io.WriteString(rec, `{"errcode":"M_UNKNOWN","error":"The server made a mistake. It is in its log."}`)
				}
			}
			took := time.Since(start)
			a.metrics.request(r, rec.code(), took)
			if log.Enabled(r.Context(), slog.LevelDebug) {
				path := r.URL.Path
				if unifiedpush.Serves(path) {
					path = r.Pattern // the names of topics are secrets
				}
				log.Debug("request", "method", r.Method, "path", path, "pattern", r.Pattern, "status", rec.code(), "ms", took.Milliseconds(), "from", r.RemoteAddr)
			}
		}()
		next.ServeHTTP(rec, r)
	})
}

// longPoll reports whether a request may wait for something to happen. A stop of
// the appliance ends its context.
func longPoll(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/_matrix/client/") && strings.HasSuffix(r.URL.Path, "/sync") ||
		r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/sync") ||
		r.Method == http.MethodGet && unifiedpush.Streams(r.URL.Path)
}

// realAddr replaces the address of a proxy on this machine by the one it names,
// so that limits and logs are about people. Others could name any address and
// are not believed.
func (a *Appliance) realAddr(r *http.Request) {
	via := r.Header.Values("X-Forwarded-For")
	if len(via) == 0 {
		return
	}
	l, _ := r.Context().Value(listenerKey{}).(*listener)
	if l == nil || l.tls || !loopback(r) {
		return
	}
	last := via[len(via)-1]
	if i := strings.LastIndexByte(last, ','); i >= 0 {
		last = last[i+1:]
	}
	if ip, err := netip.ParseAddr(strings.TrimSpace(last)); err == nil {
		r.RemoteAddr = netip.AddrPortFrom(ip, 0).String()
	}
}

// stallReader gives each piece of a body its own time, instead of the whole.
type stallReader struct {
	io.ReadCloser
	c *http.ResponseController
}

func (s *stallReader) Read(p []byte) (int, error) {
	s.c.SetReadDeadline(time.Now().Add(stallTime))
	n, err := s.ReadCloser.Read(p)
	if err == io.EOF {
		s.c.SetReadDeadline(time.Time{})
	}
	return n, err
}

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(code int) {
	if r.status == 0 && code >= 200 {
		r.status = code
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Flush implements http.Flusher.
func (r *recorder) Flush() { http.NewResponseController(r.ResponseWriter).Flush() }

// Hijack implements http.Hijacker, for WebSockets.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	r.status = http.StatusSwitchingProtocols
	return http.NewResponseController(r.ResponseWriter).Hijack()
}

// ReadFrom lets files be sent without copying them through our memory.
func (r *recorder) ReadFrom(src io.Reader) (int64, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return io.Copy(r.ResponseWriter, src)
}

func (r *recorder) code() int {
	if r.status == 0 {
		return http.StatusOK
	}
	return r.status
}

func statusClass(code int) string { return strconv.Itoa(code/100) + "xx" }
