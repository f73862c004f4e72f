package account

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
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
	flows  [][]string        // as they were last offered
	done   []string          // completed stages, in their order
	token  string            // registration token that was shown
	email  threepidCreds     // proof of an e-mail address that was shown
	mailed threepidCreds     // proof that the stage's page began
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
	// The second spelling is that of older clients.
	Email    *threepidCreds `json:"threepid_creds"`
	OldEmail *threepidCreds `json:"threepidCreds"`
}

// threepidCreds name a proof of an e-mail address.
type threepidCreds struct {
	SID    string `json:"sid"`
	Secret string `json:"client_secret"`
}

func parseAuth(raw mx.Raw) (a auth, given bool, err error) {
	b := bytes.TrimSpace(raw)
	if len(b) == 0 || string(b) == "null" || string(b) == "{}" {
		return a, false, nil
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return a, false, mx.Errorf(mx.BadJSON, "auth must be an object as the specification describes it.")
	}
	if a.Email == nil {
		a.Email = a.OldEmail
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
	if r.Route.Op == opRegister && len(r.RawBody()) <= maxKept {
		x.body = bytes.Clone(r.RawBody())
	}
	u.m[x.id] = x
	return x, nil
}

// turn reports whether a stage was completed before, and whether it is the next
// of a flow that begins with what was completed.
func (x *uiaSession) turn(stage string) (done, next bool) {
	next = slices.ContainsFunc(x.flows, func(f []string) bool {
		n := len(x.done)
		return len(f) > n && slices.Equal(f[:n], x.done) && f[n] == stage
	})
	return slices.Contains(x.done, stage), next
}

// offer notes the flows of a session and says where it stands with a stage.
func (u *uia) offer(x *uiaSession, flows [][]string, stage string) (done, next bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	x.flows = flows
	return x.turn(stage)
}

// complete notes a stage, if it is its turn.
func (u *uia) complete(x *uiaSession, stage string, a auth) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, next := x.turn(stage); !next {
		return
	}
	x.done = append(x.done, stage)
	if stage == stageToken {
		x.token = a.Token
	}
	if stage == stageEmail && a.Email != nil {
		x.email = *a.Email
	}
}

// finish ends a session if its stages complete a flow. It does so once.
func (u *uia) finish(x *uiaSession) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	ok := u.m[x.id] == x && slices.ContainsFunc(x.flows, func(f []string) bool { return slices.Equal(f, x.done) })
	if ok {
		delete(u.m, x.id)
	}
	return ok
}

// step takes a request through interactive authentication. It returns the
// completed session, or the 401 to answer. check judges a stage whose turn it is.
func (u *uia) step(ctx context.Context, s *Service, r *route.Request, raw mx.Raw, userID string, flows [][]string, check func(context.Context, auth) error) (*uiaSession, error) {
	a, given, err := parseAuth(raw)
	if err != nil {
		return nil, err
	}
	x := u.find(raw, r, userID, s.o.Now())
	// Who registers may leave out later what the first request said.
	if x == nil || (r.Route.Op != opRegister && x.digest != withoutAuth(r)) {
		if x, err = u.begin(r, userID, s.o.Now()); err != nil {
			return nil, err
		}
		if given && a.Session != "" && a.Type == "" {
			u.offer(x, flows, "")
			return nil, u.challenge(x, mx.Errorf(mx.Unknown, "The confirmation session is over. Start again."))
		}
	}
	done, next := u.offer(x, flows, a.Type)
	switch {
	case !given:
		return nil, u.challenge(x, nil)
	case a.Type == "" || a.Type == stageSSO || done: // completed on a page, or before: not again
	case !next:
		return nil, u.challenge(x, mx.Errorf(mx.Forbidden, "This stage is in none of the flows, or not yet its turn."))
	default:
		if err := check(ctx, a); err != nil {
			var refused *mx.Error
			if errors.As(err, &refused) && refused.Code != mx.LimitExceeded {
				return nil, u.challenge(x, refused)
			}
			return nil, err
		}
		u.complete(x, a.Type, a)
	}
	if !u.finish(x) {
		return nil, u.challenge(x, nil)
	}
	return x, nil
}

// challenge is the 401 that lists what is left to do.
func (u *uia) challenge(x *uiaSession, why *mx.Error) error {
	type flow struct {
		Stages []string `json:"stages"`
	}
	var list []flow
	u.mu.Lock()
	for _, f := range x.flows {
		list = append(list, flow{f})
	}
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
	if err := r.Decode(&in); err != nil {
		return err
	}
	flows := [][]string{{stagePassword}, {stageSSO}}
	if mailed := r.Route.Op == opPassword || r.Route.Op == opAdd3PID; mailed && s.mailReady() {
		flows = append(flows, []string{stageEmail})
	}
	done, err := s.uia.step(ctx, s, r, in.Auth, r.UserID, flows, func(ctx context.Context, a auth) error {
		if a.Type == stageEmail {
			p, err := s.provedEmail(ctx, ProofPassword, a)
			if err == nil && p.Owner != r.UserID {
				err = errNotOwn
			}
			return err
		}
		userID := r.UserID
		if a.Identifier != nil || a.User != "" {
			var err error
			if userID, err = s.userOf(ctx, a.Identifier, a.User); err != nil {
				return err
			}
		}
		if userID != r.UserID {
			return mx.Errorf(mx.Forbidden, "Confirm with your own password.")
		}
		_, err := s.o.Accounts.VerifyPassword(ctx, userID, a.Password, address(r.Request))
		return err
	})
	if err != nil || done.email.SID == "" {
		return err
	}
	_, err = s.o.Accounts.UseEmail(ctx, ProofPassword, done.email.SID, done.email.Secret)
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
	s.uia.offer(x, [][]string{{"m.oauth"}, {"org.matrix.cross_signing_reset"}}, "")
	e := s.uia.challenge(x, nil).(*mx.Error)
	page := map[string]string{"url": s.o.PublicURL(r.Request) + "/account?action=org.matrix.cross_signing_reset"}
	e.Fields["params"] = map[string]any{"m.oauth": page, "org.matrix.cross_signing_reset": page}
	e.Fields["msg"] = "Approve the reset on your account page, then try again."
	return e
}

// fallbackStages are the stages that a page can complete.
var fallbackStages = []string{stageSSO, stagePassword, stageToken, stageDummy, stageEmail}

// fallbackSession is the session that the page is about, and whether the right
// person is signed in, freshly, in this browser where the stage asks for that.
// Otherwise answer is what to do.
func (s *Service) fallbackSession(r *route.Request) (x *uiaSession, answer http.HandlerFunc) {
	stage := r.Param("stage")
	s.uia.mu.Lock()
	x = s.uia.m[r.Query("session")]
	done, next := false, false
	if x != nil {
		done, next = x.turn(stage)
	}
	s.uia.mu.Unlock()
	switch {
	case x == nil || s.o.Now().After(x.until) || !slices.Contains(fallbackStages, stage):
		return nil, s.say(http.StatusBadRequest, "expired")
	case done:
		return nil, s.confirmed()
	case !next:
		return nil, s.say(http.StatusBadRequest, "expired")
	case stage != stageSSO:
		return x, nil
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

// confirmed is the page after a stage.
func (s *Service) confirmed() http.HandlerFunc {
	return page{Title: s.text("identity.uia.done.title"), Text: s.text("identity.uia.done.text"), Script: authDone}.show(http.StatusOK)
}

// fallbackPage asks the person to complete a stage.
func (s *Service) fallbackPage(x *uiaSession, stage string) page {
	text := "identity.uia.text"
	if x.userID == "" {
		text = "identity.uia.register"
	}
	p := page{Title: s.text("identity.uia.title"), Submit: s.text("identity.uia.submit"),
		Text: strings.NewReplacer("{user}", x.userID, "{action}", s.text("identity.uia.action."+x.op), "{server}", s.o.ServerName).Replace(s.text(text))}
	switch stage {
	case stagePassword:
		p.Fields = []field{{"password", s.text("identity.login.password"), "password", "current-password"}}
	case stageEmail:
		s.uia.mu.Lock()
		mailed := x.mailed.SID != ""
		s.uia.mu.Unlock()
		if mailed {
			p.Text, p.Submit = s.text("identity.uia.mailed"), s.text("identity.uia.goOn")
			p.Hidden = map[string]string{"mailed": "1"}
			break
		}
		p.Submit = s.text("identity.uia.sendMail")
		p.Fields = []field{{"email", s.text("identity.uia.email"), "email", "email"}}
	case stageToken:
		p.Fields = []field{{"token", s.text("identity.uia.token"), "text", "off"}}
	}
	return p
}

// fallback asks the person to confirm. Spec: cs#fallback
func (s *Service) fallback(_ context.Context, r *route.Request) (any, error) {
	x, answer := s.fallbackSession(r)
	if answer != nil {
		return answer, nil
	}
	return s.fallbackPage(x, r.Param("stage")).show(http.StatusOK), nil
}

// fallbackSubmit completes the stage. The browser tells where the form was.
func (s *Service) fallbackSubmit(ctx context.Context, r *route.Request) (any, error) {
	if err := http.NewCrossOriginProtection().Check(r.Request); err != nil {
		return s.say(http.StatusForbidden, "crossSite"), nil
	}
	x, answer := s.fallbackSession(r)
	if answer != nil {
		return answer, nil
	}
	form, err := url.ParseQuery(string(r.RawBody()))
	if err != nil {
		return s.say(http.StatusBadRequest, "expired"), nil
	}
	stage := r.Param("stage")
	a := auth{Password: form.Get("password"), Token: strings.TrimSpace(form.Get("token"))}
	var refused error
	switch stage {
	case stagePassword:
		_, refused = s.o.Accounts.VerifyPassword(ctx, x.userID, a.Password, address(r.Request))
	case stageToken:
		refused = s.checkInvite(ctx, a.Token)
	case stageEmail:
		if form.Get("mailed") == "" {
			if refused = s.fallbackMail(ctx, r, x, form.Get("email")); refused == nil {
				return s.fallbackPage(x, stage).show(http.StatusOK), nil
			}
			break
		}
		s.uia.mu.Lock()
		a.Email = &threepidCreds{x.mailed.SID, x.mailed.Secret}
		s.uia.mu.Unlock()
		var p EmailProof
		if p, refused = s.provedEmail(ctx, proofOf(x.op), a); refused == nil && x.userID != "" && p.Owner != x.userID {
			refused = errNotOwn
		}
	}
	var e *mx.Error
	if errors.As(refused, &e) {
		p := s.fallbackPage(x, stage)
		p.Error = e.Msg
		return p.show(route.Status(e)), nil
	}
	if refused != nil {
		return nil, refused
	}
	s.uia.complete(x, stage, a)
	return s.confirmed(), nil
}

var errNotOwn = mx.Errorf(mx.Forbidden, "Confirm with an e-mail address of your own.")

// proofOf is what an address is proved for in the stage of an operation.
func proofOf(op string) string {
	if op == opRegister {
		return ProofRegister
	}
	return ProofPassword
}

// fallbackMail sends the mail that the page of the e-mail stage asks for.
func (s *Service) fallbackMail(ctx context.Context, r *route.Request, x *uiaSession, email string) error {
	if !s.mailReady() {
		return errNoMail
	}
	address, err := s.o.Accounts.CanonicalEmail(strings.TrimSpace(email))
	if err != nil {
		return err
	}
	c := threepidCreds{Secret: rand.Text()}
	if c.SID, err = s.sendProof(ctx, r, EmailRequest{Purpose: proofOf(x.op), Address: address, Secret: c.Secret, Attempt: 1}); err != nil {
		return err
	}
	s.uia.mu.Lock()
	x.mailed = c
	s.uia.mu.Unlock()
	return nil
}
