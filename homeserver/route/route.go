// Package route turns HTTP requests into calls of the homeserver's functions:
// it authenticates, limits, decodes, encodes, and maps errors to answers.
//
// Invariants: an operation is declared once, as a Route; errors.go alone maps
// codes to HTTP statuses; every answer, errors too, carries the CORS headers;
// an unknown path answers 404 and a wrong method 405, both M_UNRECOGNIZED;
// bodies are bounded and neither they nor tokens are logged.
package route

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"holdfast/homeserver/mx"
)

// Auth says who may call an operation.
type Auth int

// The kinds of authentication.
const (
	None     Auth = iota // anybody; a token is not looked at
	Optional             // anybody; a valid token is honoured, a wrong one refused (MSC4026)
	User                 // an access token of a user's device, or of an application service
	Admin                // a user who administers the appliance
	Federation
)

// Limit names a bucket of the rate limiter.
type Limit int

// The buckets. Their rates stand in limit.go.
const (
	Unlimited  Limit = iota
	Reads            // cheap requests of a signed-in user
	Messages         // sending events
	Membership       // joins, invites, room creation
	Logins           // password and token checks, by address
	Uploads          // media
	Reports          // of what is inappropriate: somebody reads them
	Rendezvous       // sessions in which two devices meet, by address
	Previews         // of links: the server asks another one
)

// Principal is who makes a request.
type Principal struct {
	UserID     string // "@alice:example.org"; empty: nobody
	DeviceID   string // empty for an application service without a device
	Admin      bool
	Moderator  bool   // handles reports, rooms and media
	Auditor    bool   // reads what administrators see
	Appservice string // ID of the application service whose token was used, or empty
	Unlimited  bool   // its requests are not limited in rate
	Suspended  bool
	Guest      bool
}

// Authenticator resolves access tokens. It is the identity provider's.
type Authenticator interface {
	// Authenticate returns whose token it is. Errors are *mx.Error with codes
	// UnknownToken (Fields soft_logout where it applies) or UserLocked, which comes
	// with the principal; any other error means that it could not be found out.
	Authenticate(ctx context.Context, token string) (Principal, error)
}

// Request is a request whose sender is known.
type Request struct {
	*http.Request
	Principal
	Route *Route

	query url.Values
	body  []byte
}

// NotSuspended refuses what a suspended user may not do. Spec: cs#account-suspension
func (r *Request) NotSuspended() error {
	if r.Suspended {
		return mx.Errorf(mx.UserSuspended, "Your account is suspended: you can read, leave rooms, take back what you sent, and sign out.")
	}
	return nil
}

// Param is a path parameter by its name in the pattern, decoded.
func (r *Request) Param(name string) string { return r.PathValue(name) }

// Query is the first value of a query parameter, or "".
func (r *Request) Query(name string) string { return r.QueryValues().Get(name) }

// QueryValues are all query parameters.
func (r *Request) QueryValues() url.Values {
	if r.query == nil {
		r.query = r.URL.Query()
	}
	return r.query
}

// Int is a query parameter that is a whole number of 0 or more, or def where it is
// absent. Errors: InvalidParam.
func (r *Request) Int(name string, def int) (int, error) {
	s := r.Query(name)
	if s == "" && !r.QueryValues().Has(name) {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, mx.Errorf(mx.InvalidParam, "The parameter %s must be a whole number of 0 or more.", name)
	}
	return n, nil
}

// Bool is a query parameter that is true or false, which is what it is where it is
// absent. Errors: InvalidParam.
func (r *Request) Bool(name string) (bool, error) {
	switch r.Query(name) {
	case "true":
		return true, nil
	case "false", "":
		return false, nil
	}
	return false, mx.Errorf(mx.InvalidParam, "The parameter %s must be true or false.", name)
}

// Handler answers a request. A nil result answers {}; a result that is an
// http.HandlerFunc writes the answer itself; mx.Raw is written as it is;
// anything else is encoded as JSON.
type Handler func(ctx context.Context, r *Request) (any, error)

// Route is one operation of an API.
type Route struct {
	Op      string   // operationId of the specification, or our own name for it
	Pattern string   // pattern of net/http.ServeMux, with its method
	Aliases []string // further paths of the same operation (without method): unstable prefixes, r0
	Auth    Auth
	Limit   Limit
	MaxBody int64 // bytes; 0: 1 MiB; below 0: no body is read, the handler streams it
	Handle  Handler
	Refuse  *Refusal // nil: Handle answers
	// Moderators and Auditors have an operation of administrators open to these, too.
	Moderators, Auditors bool
	Locked               bool // also for a user whose account is locked: signing out only. Spec: cs#account-locking
	// Waits marks an answer that may come much later than it was asked for: whether it
	// may still be given is asked once more.
	Waits bool
	// NewUsers lets an application service name a user whose account does not exist
	// yet in user_id.
	NewUsers bool
}

// Refusal says that an operation of the specification is deliberately not done,
// and how that is answered. The generated list of operations shows both.
type Refusal struct {
	Reason string // one sentence, for whoever looks the operation up
	Answer *mx.Error
}

// JSON makes a handler of a function that takes the decoded body. The body must
// be a JSON object; an empty one counts as {}.
func JSON[In, Out any](f func(context.Context, *Request, In) (Out, error)) Handler {
	return func(ctx context.Context, r *Request) (any, error) {
		var in In
		if err := r.decode(&in); err != nil {
			return nil, err
		}
		out, err := f(ctx, r, in)
		if err != nil {
			return nil, err
		}
		return out, nil
	}
}

// Get makes a handler of a function that takes no body.
func Get[Out any](f func(context.Context, *Request) (Out, error)) Handler {
	return func(ctx context.Context, r *Request) (any, error) {
		out, err := f(ctx, r)
		if err != nil {
			return nil, err
		}
		return out, nil
	}
}

// Empty is the answer {}.
type Empty struct{}
