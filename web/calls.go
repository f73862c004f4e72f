package web

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

// CallDesk is what administrators see of calls, and do about them. The ID of a call or
// a participant is the relay's name for it, which may be any text.
type CallDesk interface {
	// Calls lists the calls that run, the longest first: at most limit of them, after
	// the first from.
	Calls(ctx context.Context, from, limit int) (CallReport, error)
	// Call describes one call and the people in it. Errors: *Error 404.
	Call(ctx context.Context, id string) (CallDetails, error)
	// EndCall ends a call for everybody in it. Errors: *Error 404.
	EndCall(ctx context.Context, id string) error
	// RemoveFromCall takes a participant out of a call. Errors: *Error 404.
	RemoveFromCall(ctx context.Context, id, participant string) error
	// TestCalls tries each hop of a call: "token", "signalling", "udp", "tcp", "turn" and
	// "https". Errors: *Error 409 where there are no calls.
	TestCalls(ctx context.Context) ([]Check, error)
	// BrowserTest lets the caller's browser try each way by which media goes. Errors:
	// *Error 409 where there are no calls, 503 where the relay does not run.
	BrowserTest(ctx context.Context) (BrowserTest, error)
}

// BrowserTest is what a browser needs for a test of the way that calls take from it.
type BrowserTest struct {
	// Tokens are for signalling at /livekit/sfu, by way: "udp", "tcp", "turn" and "https".
	// They last for two minutes, and for a room that is nobody's.
	Tokens    map[string]string `json:"tokens"`
	UDP       int               `json:"udp_port"`
	TCP       int               `json:"tcp_port"`
	TURN      int               `json:"turn_port"`
	Addresses []string          `json:"addresses"`
}

// CallReport is how calls are at this moment.
type CallReport struct {
	Enabled      bool       `json:"enabled"` // false: this appliance carries no calls
	Now          time.Time  `json:"now"`
	Total        int        `json:"total"` // calls that run
	Participants int        `json:"participants"`
	Calls        []Call     `json:"calls"`
	Relay        CallRelay  `json:"relay"`
	Limits       CallLimits `json:"limits"`
	TURN         CallTURN   `json:"turn"`
}

// CallRelay is the call relay's process.
type CallRelay struct {
	Running     bool      `json:"running"`
	Since       time.Time `json:"since,omitzero"`
	Restarts    int       `json:"restarts"`
	Reason      string    `json:"reason,omitempty"` // why the last one ended
	MemoryBytes int64     `json:"memory_bytes"`
	UDP         int       `json:"udp_port"`
	TCP         int       `json:"tcp_port"`
	TURN        int       `json:"turn_port"`
	Addresses   []string  `json:"addresses"`
}

// CallLimits are the limits in force; 0 is none.
type CallLimits struct {
	Calls        int `json:"calls"`
	Participants int `json:"participants"` // in one call
}

// CallTURN are the figures of TURN: connections at the HTTPS port, and who is relayed.
type CallTURN struct {
	Relayed     int   `json:"relayed"`
	Connections int   `json:"connections"`
	Accepted    int64 `json:"accepted"`
	Refused     int64 `json:"refused"`
	Expired     int64 `json:"expired"`
}

// Call is a call that runs.
type Call struct {
	ID           string    `json:"id"`
	RoomID       string    `json:"room_id,omitempty"`
	Name         string    `json:"name,omitempty"` // the room's, or its members'
	Began        time.Time `json:"began"`
	Participants int       `json:"participants"`
	Node         string    `json:"node,omitempty"` // the machine that holds it, where that is another
	UpBits       int64     `json:"up_bits"`        // a second, of all together
	DownBits     int64     `json:"down_bits"`
	Loss         float64   `json:"loss"` // the worst connection's part, 0 to 1
	RTT          float64   `json:"rtt_ms"`
}

// CallDetails is a call with the people in it.
type CallDetails struct {
	Call
	People []CallPerson `json:"people"`
}

// CallPerson is somebody in a call, with one device.
type CallPerson struct {
	ID         string      `json:"id"`
	UserID     string      `json:"user_id,omitempty"`
	Name       string      `json:"name,omitempty"`
	DeviceID   string      `json:"device_id,omitempty"`
	DeviceName string      `json:"device_name,omitempty"`
	Client     string      `json:"client,omitempty"`
	Since      time.Time   `json:"since"`
	Path       string      `json:"path"`   // "udp", "tcp", "turn", "https" (TURN at the HTTPS port), or "": not connected
	Family     string      `json:"family"` // "ipv4" or "ipv6"
	Quality    string      `json:"quality"`
	RTT        float64     `json:"rtt_ms"`
	Up         CallLink    `json:"up"`
	Down       CallLink    `json:"down"`
	Tracks     []CallTrack `json:"tracks"`
	Received   []int       `json:"received"` // pictures received, by layer, smallest first
}

// CallLink is one direction of a connection over the last seconds.
type CallLink struct {
	Bits   int64   `json:"bits"`
	Loss   float64 `json:"loss"`
	Jitter float64 `json:"jitter_ms"`
}

// CallTrack is a sound or picture that somebody sends.
type CallTrack struct {
	Kind   string      `json:"kind"`
	Source string      `json:"source"`
	Codec  string      `json:"codec,omitempty"`
	Muted  bool        `json:"muted,omitempty"`
	Layers []CallLayer `json:"layers,omitempty"`
}

// CallLayer is a size in which a picture is sent.
type CallLayer struct {
	Width  uint32 `json:"width,omitempty"`
	Height uint32 `json:"height,omitempty"`
	Bits   int64  `json:"bits"`
}

const callPage = 25 // calls in one answer

func (s *Server) callRoutes(handle func(pattern string, f func(r *http.Request, admin string) (any, error))) {
	handle("GET /api/console/calls", func(r *http.Request, _ string) (any, error) {
		from := 0
		if q := r.URL.Query().Get("from"); q != "" {
			var err error
			if from, err = strconv.Atoi(q); err != nil || from < 0 {
				return nil, &Error{Code: "bad_from", Field: "from", Message: "from is a number from 0."}
			}
		}
		out, err := s.CallDesk.Calls(r.Context(), from, callPage)
		if out.Calls == nil {
			out.Calls = []Call{}
		}
		return out, err
	})
	handle("GET /api/console/calls/one", func(r *http.Request, _ string) (any, error) {
		out, err := s.CallDesk.Call(r.Context(), r.URL.Query().Get("id"))
		if out.People == nil {
			out.People = []CallPerson{}
		}
		return out, err
	})
	handle("POST /api/console/calls/test", func(r *http.Request, _ string) (any, error) { return s.CallDesk.TestCalls(r.Context()) })
	handle("POST /api/console/calls/test/browser", func(r *http.Request, _ string) (any, error) { return s.CallDesk.BrowserTest(r.Context()) })
	type request struct {
		ID          string `json:"id"`
		Participant string `json:"participant"`
	}
	post := func(name string, f func(ctx context.Context, in request) error) {
		handle("POST /api/console/calls/"+name, func(r *http.Request, _ string) (any, error) {
			var in request
			if err := decode(r, &in); err != nil {
				return nil, err
			}
			return struct{}{}, f(r.Context(), in)
		})
	}
	post("end", func(ctx context.Context, in request) error { return s.CallDesk.EndCall(ctx, in.ID) })
	post("remove", func(ctx context.Context, in request) error {
		return s.CallDesk.RemoveFromCall(ctx, in.ID, in.Participant)
	})
}
