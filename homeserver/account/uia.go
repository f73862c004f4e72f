package account

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
)

// Bounds of interactive authentication.
const (
	uiaFor      = 15 * time.Minute
	maxSessions = 10_000
	maxKept     = 64 << 10 // bytes of a first request that are kept
	// A sign-in at the pages that is older does not confirm anything.
	freshFor = 5 * time.Minute
)

// uia keeps the sessions in memory: they are short, and a restart only means
// that somebody has to confirm again.
type uia struct {
	mu sync.Mutex
	m  map[string]*uiaSession
}

type uiaSession struct {
	id     string
	userID string // "": of somebody who registers
	op     string
	digest [sha256.Size]byte // of the request without auth
	body   []byte            // first request of a registration
	done   []string          // completed stages
	token  string            // registration token that was shown
	until  time.Time
}

// auth is the auth object of a request. Spec: cs#user-interactive-api-in-the-rest-api
type auth struct {
	Type       string      `json:"type"`
	Session    string      `json:"session"`
	Identifier *identifier `json:"identifier"`
	User       string      `json:"user"`
	Password   string      `json:"password"`
	Token      string      `json:"token"`
}

func parseAuth(raw mx.Raw) (a auth, given bool, err error) {
	b := bytes.TrimSpace(raw)
	if len(b) == 0 || string(b) == "null" || string(b) == "{}" {
		return a, false, nil
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return a, false, mx.Errorf(mx.BadJSON, "auth must be an object as the specification describes it.")
	}
	return a, true, nil
}

// withoutAuth is a digest of what a request asks for: a session that was
// confirmed for one thing is of no use for another.
func withoutAuth(r *route.Request) (sum [sha256.Size]byte) {
	var m map[string]any
	if json.Unmarshal(r.RawBody(), &m) == nil {
		delete(m, "auth")
	}
	b, _ := json.Marshal(m)
	return sha256.Sum256(append([]byte(r.Method+" "+r.URL.Path+"\n"), b...))
}

// find is the live session that an auth object names, for this operation and user.
func (u *uia) find(raw mx.Raw, r *route.Request, userID string, now time.Time) *uiaSession {
	a, given, err := parseAuth(raw)
	if err != nil || !given {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	x := u.m[a.Session]
	if x == nil || x.userID != userID || x.op != r.Route.Op || now.After(x.until) {
		return nil
	}
	return x
}

func (u *uia) begin(r *route.Request, userID string, now time.Time) (*uiaSession, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.m == nil {
		u.m = map[string]*uiaSession{}
	}
	if len(u.m) >= maxSessions {
		for k, x := range u.m {
			if now.After(x.until) {
				delete(u.m, k)
			}
		}
		if len(u.m) >= maxSessions {
			return nil, &mx.Error{Code: mx.LimitExceeded, Msg: "Too many confirmations are open. Try again later.", RetryAfter: time.Minute}
		}
	}
	x := &uiaSession{id: rand.Text(), userID: userID, op: r.Route.Op, digest: withoutAuth(r), until: now.Add(uiaFor)}
	if userID == "" && len(r.RawBody()) <= maxKept {
		x.body = bytes.Clone(r.RawBody())
	}
	u.m[x.id] = x
	return x, nil
}

// complete notes a stage.
func (u *uia) complete(x *uiaSession, stage, token string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !slices.Contains(x.done, stage) {
		x.done = append(x.done, stage)
	}
	if token != "" {
		x.token = token
	}
}

// finish ends a session if its stages complete a flow.
func (u *uia) finish(x *uiaSession, flows [][]string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	ok := slices.ContainsFunc(flows, func(f []string) bool {
		return !slices.ContainsFunc(f, func(stage string) bool { return !slices.Contains(x.done, stage) })
	})
	if ok {
		delete(u.m, x.id)
	}
	return ok
}

// step takes a request through interactive authentication. It returns the
// completed session, or the 401 to answer. check judges a stage.
func (u *uia) step(ctx context.Context, s *Service, r *route.Request, raw mx.Raw, userID string, flows [][]string, check func(context.Context, auth) error) (*uiaSession, error) {
	a, given, err := parseAuth(raw)
	if err != nil {
		return nil, err
	}
	x := u.find(raw, r, userID, s.o.Now())
	if x == nil || (userID != "" && x.digest != withoutAuth(r)) {
		if x, err = u.begin(r, userID, s.o.Now()); err != nil {
			return nil, err
		}
		if given && a.Session != "" && a.Type == "" {
			return nil, u.challenge(x, flows, mx.Errorf(mx.Unknown, "The confirmation session is over. Start again."))
		}
	}
	if !given {
		return nil, u.challenge(x, flows, nil)
	}
	if a.Type != "" && a.Type != stageSSO { // that one is completed on its page
		if err := check(ctx, a); err != nil {
			var refused *mx.Error
			if errors.As(err, &refused) && refused.Code != mx.LimitExceeded {
				return nil, u.challenge(x, flows, refused)
			}
			return nil, err
		}
		u.complete(x, a.Type, a.Token)
	}
	if !u.finish(x, flows) {
		return nil, u.challenge(x, flows, nil)
	}
	return x, nil
}

// challenge is the 401 that lists what is left to do.
func (u *uia) challenge(x *uiaSession, flows [][]string, why *mx.Error) error {
	type flow struct {
		Stages []string `json:"stages"`
	}
	var list []flow
	for _, f := range flows {
		list = append(list, flow{f})
	}
	u.mu.Lock()
	done := append([]string{}, x.done...)
	u.mu.Unlock()
	e := &mx.Error{Status: http.StatusUnauthorized, Fields: map[string]any{"flows": list, "params": map[string]any{}, "session": x.id, "completed": done}}
	if why != nil {
		e.Code, e.Msg = why.Code, why.Msg
	}
	return e
}

// Confirm asks that the person proves again who they are (interactive
// authentication) before something that a stolen session must not do. It returns
// nil when the request's auth is complete, or the 401 to answer.
// Spec: cs#user-interactive-authentication-api
func (s *Service) Confirm(ctx context.Context, r *route.Request) error {
	if r.Appservice != "" {
		return nil // an application service has no person to ask
	}
	var in struct {
		Auth mx.Raw `json:"auth"`
	}
	if b := bytes.TrimSpace(r.RawBody()); len(b) > 0 {
		if err := json.Unmarshal(b, &in); err != nil {
			return mx.Errorf(mx.BadJSON, "The request must be a JSON object.")
		}
	}
	_, err := s.uia.step(ctx, s, r, in.Auth, r.UserID, [][]string{{stagePassword}, {stageSSO}}, func(ctx context.Context, a auth) error {
		if a.Type != stagePassword {
			return mx.Errorf(mx.Forbidden, "This stage is not part of any flow.")
		}
		userID := r.UserID
		if a.Identifier != nil || a.User != "" {
			var err error
			if userID, err = s.userOf(a.Identifier, a.User); err != nil {
				return err
			}
		}
		if userID != r.UserID {
			return mx.Errorf(mx.Forbidden, "Confirm with your own password.")
		}
		_, err := s.o.Accounts.VerifyPassword(ctx, userID, a.Password, address(r.Request))
		return err
	})
	return err
}

// ConfirmReset is Confirm for replacing cross-signing keys: sessions of the
// OAuth API approve on the account page (m.oauth), others by Confirm.
// Spec: cs#oauth-authentication, MSC4312
func (s *Service) ConfirmReset(ctx context.Context, r *route.Request) error {
	if r.Appservice != "" || !s.o.Accounts.OAuth(ctx, route.Token(r.Request)) {
		return s.Confirm(ctx, r)
	}
	ok, err := s.o.Accounts.ResetApproved(ctx, r.UserID)
	if err != nil || ok {
		return err
	}
	x, err := s.uia.begin(r, r.UserID, s.o.Now())
	if err != nil {
		return err
	}
	// The second name is what clients looked for before the specification had the first.
	e := s.uia.challenge(x, [][]string{{"m.oauth"}, {"org.matrix.cross_signing_reset"}}, nil).(*mx.Error)
	page := map[string]string{"url": s.o.PublicURL(r.Request) + "/account?action=org.matrix.cross_signing_reset"}
	e.Fields["params"] = map[string]any{"m.oauth": page, "org.matrix.cross_signing_reset": page}
	e.Fields["msg"] = "Approve the reset on your account page, then try again."
	return e
}

var fallbackPage = template.Must(template.New("").Parse(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{.Title}}</title>
<link rel="stylesheet" href="/assets/holdfast.css">
</head>
<body>
<main class="hf-page">
<section class="hf-card">
<h1 class="hf-title">{{.Title}}</h1>
<p>{{.Text}}</p>
{{if .Submit}}<form method="post"><button class="hf-button hf-button--wide" type="submit">{{.Submit}}</button></form>{{end}}
</section>
</main>
</body>
</html>
`))

func (s *Service) page(status int, title, text, submit string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		fallbackPage.Execute(w, map[string]string{"Title": title, "Text": text, "Submit": submit})
	}
}

func (s *Service) say(status int, key string) http.HandlerFunc {
	return s.page(status, s.o.Text("en", "identity."+key+".title"), s.o.Text("en", "identity."+key+".text"), "")
}

// fallbackSession is the session that the page is about, and whether the right
// person is signed in, freshly, in this browser. Otherwise answer is what to do.
func (s *Service) fallbackSession(r *route.Request) (x *uiaSession, answer http.HandlerFunc) {
	s.uia.mu.Lock()
	x = s.uia.m[r.Query("session")]
	s.uia.mu.Unlock()
	if r.Param("stage") != stageSSO || x == nil || x.userID == "" || s.o.Now().After(x.until) {
		return nil, s.say(http.StatusBadRequest, "expired")
	}
	userID, at := s.o.Accounts.SignedIn(r.Request)
	origin := s.o.PublicURL(r.Request)
	if userID != "" && userID != x.userID {
		return nil, s.say(http.StatusForbidden, "otherBrowser")
	}
	if userID == "" || s.o.Now().Sub(at) > freshFor {
		path := "/reauth?"
		if userID == "" {
			path = "/login?"
		}
		to := origin + path + url.Values{"next": {r.URL.RequestURI()}, "hint": {x.userID}}.Encode()
		return nil, func(w http.ResponseWriter, hr *http.Request) { http.Redirect(w, hr, to, http.StatusFound) }
	}
	return x, nil
}

// fallback asks the person to confirm. Spec: cs#fallback
func (s *Service) fallback(_ context.Context, r *route.Request) (any, error) {
	x, answer := s.fallbackSession(r)
	if answer != nil {
		return answer, nil
	}
	action := s.o.Text("en", "identity.uia.action."+x.op)
	text := strings.NewReplacer("{user}", x.userID, "{action}", action).Replace(s.o.Text("en", "identity.uia.text"))
	return s.page(http.StatusOK, s.o.Text("en", "identity.uia.title"), text, s.o.Text("en", "identity.uia.submit")), nil
}

// fallbackSubmit completes the stage. The browser tells where the form was.
func (s *Service) fallbackSubmit(_ context.Context, r *route.Request) (any, error) {
	if err := http.NewCrossOriginProtection().Check(r.Request); err != nil {
		return s.say(http.StatusForbidden, "crossSite"), nil
	}
	x, answer := s.fallbackSession(r)
	if answer != nil {
		return answer, nil
	}
	s.uia.complete(x, stageSSO, "")
	return s.say(http.StatusOK, "uia.done"), nil
}
