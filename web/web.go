// Package web serves the browser's side of the appliance: the built UI, the
// Element Call bundle beside it, and the JSON API of the setup wizard and the
// console.
//
// Invariants: every answer carries a Content-Security-Policy that allows no
// other host; files whose name carries their hash are immutable, all others are
// revalidated; setup answers only the browser that proved the claim code, the
// console only the browser session of an administrator; a request that another
// site started changes nothing; errors are {"error":{"code","message"}} and say
// what to do. The package knows no Matrix and no OAuth: what it shows and
// changes is behind the interfaces in api.go.
package web

import (
	"log/slog"
	"net/http"
	"time"
)

// Options are what the appliance gives to the web peer.
type Options struct {
	Log *slog.Logger

	// Origin is the origin under which the browser reached this request, as the
	// listener knows it ("https://chat.example.org"). It decides the cookie's
	// prefix and is never taken from forwarded headers.
	Origin func(*http.Request) string

	Setup    Setup
	Admins   Admins
	Invites  Invites
	Cards    Cards
	Lists    Lists
	People   People
	Bridges  Bridges
	Status   Status
	Previews Previews
	SelfTest SelfTest
	Push     Push
	Settings Settings
	CallDesk CallDesk

	Audit       Audit
	Apps        Apps
	Directories Directories
	Providers   Providers

	Machine *Machine // nil: the appliance is a program among others
	Console Console  // needed with a Machine
}

// Server answers everything that is neither Matrix, OAuth nor the SFU.
type Server struct {
	Options
	files   *files
	mux     *http.ServeMux
	guard   *http.CrossOriginProtection
	claims  *throttle
	session setupSessions
	handing chan struct{} // bounds how many fetch an update from here at a time
	now     func() time.Time

	patterns []string // of the console's operations, for the test of who may call them
}

// New reads the index of the embedded files. It fails only if the build is
// damaged.
func New(o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	f, err := openFiles(embedded)
	if err != nil {
		return nil, err
	}
	s := &Server{Options: o, files: f, mux: http.NewServeMux(), guard: http.NewCrossOriginProtection(), handing: make(chan struct{}, 2), now: time.Now}
	s.claims = newThrottle(func() time.Time { return s.now() })
	s.routes()
	return s, nil
}

// Handler answers "/", "/setup", "/console", "/assets/", "/element-call/" and
// "/api/".
func (s *Server) Handler() http.Handler { return s.mux }

func (s *Server) routes() {
	api := http.NewServeMux()
	s.setupRoutes(api)
	s.consoleRoutes(api)
	api.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) {
		s.writeError(w, r, &Error{Status: http.StatusNotFound, Code: "not_found", Message: "This address is not part of the API."})
	})
	s.mux.Handle("/api/", s.protect(api))
	s.mux.HandleFunc("/", s.serveFile)
}
