package identity

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"holdfast/identity/account"
	"holdfast/identity/opstore"
	"holdfast/identity/register"
	"holdfast/store"
	"holdfast/store/audit"
)

// This file has how an application proves itself where it asks for tokens, what it may
// ask about them, and the applications that administrators make.

// Types and errors of applications, under the names that callers use.
type (
	App       = register.App
	AppConfig = register.AppConfig
	AppSecret = register.Secret
	AppAccess = register.Access
	AppError  = register.Error
	Key       = opstore.Key
)

// Errors that callers may test for.
var (
	ErrNoApp    = register.ErrNoClient
	ErrSecrets  = register.ErrSecrets
	ErrNoSecret = register.ErrNoSecret
	ErrPublic   = register.ErrPublic
	ErrApps     = register.ErrFull
)

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// Bounds of signed assertions.
const (
	maxAssertion   = 8 << 10
	assertionFor   = 10 * time.Minute // the most that one may be good for
	assertionSkew  = 30 * time.Second
	maxAssertionID = 256
)

// errClient is a client that is unknown or did not prove itself.
var errClient = errors.New("the client_id is not known here, or the application did not prove itself as it is set up to")

// errMethods is a request with more than one proof. Spec: RFC 6749 section 2.3
var errMethods = errors.New("use one way of client authentication only")

// proveClient finds the application that a request comes from and checks that it is it:
// by its secret in the header or in the body, by a signed assertion, or not at all for
// a public one. What proved it is taken out of v. Errors: errClient, errMethods; any
// other is transient.
func (s *Service) proveClient(r *http.Request, v url.Values) (*register.Client, error) {
	id, secret, assertion := v.Get("client_id"), v.Get("client_secret"), v.Get("client_assertion")
	user, pass, basic := r.BasicAuth()
	ways := 0
	for _, is := range []bool{basic, secret != "", assertion != ""} {
		if is {
			ways++
		}
	}
	if ways > 1 {
		return nil, errMethods
	}
	if !basic && r.Header.Get("Authorization") != "" {
		return nil, errClient
	}
	method := register.AuthNone
	switch {
	case basic:
		var e1, e2 error
		user, e1 = url.QueryUnescape(user) // RFC 6749 section 2.3.1
		pass, e2 = url.QueryUnescape(pass)
		if e1 != nil || e2 != nil || id != "" && id != user {
			return nil, errClient
		}
		id, secret, method = user, pass, register.AuthBasic
	case secret != "":
		method = register.AuthPost
	case assertion != "":
		if v.Get("client_assertion_type") != assertionType {
			return nil, errClient
		}
		claimed := assertionSubject(assertion)
		if claimed == "" || id != "" && id != claimed {
			return nil, errClient
		}
		id, method = claimed, register.AuthKey
	}
	c, err := s.clients.Client(r.Context(), id)
	if errors.Is(err, register.ErrNoClient) || err == nil && c.Disabled() {
		return nil, errClient
	}
	if err != nil {
		return nil, err
	}
	want := register.AuthNone
	if c.App != nil {
		want = c.App.Auth
	}
	if want != method && !(want == register.AuthSecret && (method == register.AuthBasic || method == register.AuthPost)) {
		return nil, errClient
	}
	switch method {
	case register.AuthBasic, register.AuthPost:
		ok, err := s.clients.CheckSecret(r.Context(), c.ID, secret)
		if err != nil {
			return nil, err
		}
		if !ok {
			s.o.Log.Warn("an application came with a wrong secret", "app", c.ID, "from", r.RemoteAddr)
			s.noteFailed(r, c.ID, "secret")
			return nil, errClient
		}
	case register.AuthKey:
		if err := s.checkAssertion(r, c, assertion); err != nil {
			var trouble *troubleError
			if errors.As(err, &trouble) {
				return nil, err
			}
			s.o.Log.Warn("an application came with a wrong assertion", "app", c.ID, "from", r.RemoteAddr, "err", err)
			s.noteFailed(r, c.ID, "key")
			return nil, errClient
		}
	}
	for _, k := range []string{"client_secret", "client_assertion", "client_assertion_type"} {
		v.Del(k)
	}
	v.Set("client_id", c.ID)
	return c, nil
}

// assertionAlgs are the algorithms of assertions: with public keys only.
var assertionAlgs = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512}

// assertionSubject is whom an assertion says it is of. Nothing is proved by that yet.
func assertionSubject(raw string) string {
	if len(raw) > maxAssertion {
		return ""
	}
	jws, err := jose.ParseSignedCompact(raw, assertionAlgs)
	if err != nil {
		return ""
	}
	var c struct {
		Sub string `json:"sub"`
	}
	json.Unmarshal(jws.UnsafePayloadWithoutVerification(), &c)
	return c.Sub
}

// noteFailed has in the audit log that somebody came as an application and could not
// prove it.
func (s *Service) noteFailed(r *http.Request, client, method string) {
	ctx := context.WithoutCancel(r.Context())
	err := s.o.DB.Write(ctx, func(tx *store.Tx) error {
		return s.o.Audit.Bounded(ctx, tx, "app|"+client+"|"+account.Network(audit.WhoOf(ctx).IP), audit.Event{Name: "app.failed", Actor: audit.Nobody, Target: client, Data: audit.Data{"method": method}})
	})
	if err != nil {
		s.o.Log.Error("an application's failed attempt could not be noted", "app", client, "err", err)
	}
}

// checkAssertion checks a signed assertion. Spec: RFC 7523 section 3
func (s *Service) checkAssertion(r *http.Request, c *register.Client, raw string) error {
	jws, err := jose.ParseSignedCompact(raw, assertionAlgs)
	if err != nil {
		return err
	}
	key, err := c.App.Key(jws.Signatures[0].Header.KeyID)
	if err != nil {
		return err
	}
	if key.Algorithm != "" && key.Algorithm != jws.Signatures[0].Header.Algorithm {
		return errors.New("the key is for another algorithm")
	}
	body, err := jws.Verify(key)
	if err != nil {
		return err
	}
	a, aud, err := parseAssertion(body)
	if err != nil {
		return err
	}
	o, now := s.origin(r), s.o.Now()
	exp := time.Unix(int64(a.Exp), 0)
	switch {
	case a.Iss != c.ID || a.Sub != c.ID:
		return errors.New("iss and sub must be the client_id")
	case !slices.ContainsFunc(aud, func(x string) bool { return x == o || x == o+"/oauth2/token" || x == o+r.URL.Path }):
		return errors.New("aud must be the issuer or the token endpoint")
	case a.Exp <= 0 || !now.Before(exp.Add(assertionSkew)):
		return errors.New("it has expired")
	case exp.Sub(now) > assertionFor:
		return errors.New("exp is too far ahead")
	case a.Nbf > 0 && time.Unix(int64(a.Nbf), 0).After(now.Add(assertionSkew)):
		return errors.New("it is not valid yet")
	case a.Jti == "" || len(a.Jti) > maxAssertionID:
		return errors.New("jti is missing")
	}
	first, err := s.sessions.FirstUse(r.Context(), c.ID, a.Jti, exp.Add(assertionSkew))
	switch {
	case err != nil:
		return &troubleError{err}
	case !first:
		return errors.New("it was used before")
	}
	return nil
}

// troubleError is trouble of ours, and no fault of an assertion.
type troubleError struct{ err error }

func (e *troubleError) Error() string { return e.err.Error() }
func (e *troubleError) Unwrap() error { return e.err }

// assertionClaims are those of a signed assertion that count.
type assertionClaims struct {
	Iss, Sub, Jti string
	Aud           any
	Exp, Nbf      float64
}

// maxTime bounds times in assertions: beyond it numbers of seconds mean nothing.
const maxTime = 1 << 40

// parseAssertion reads the claims of an assertion, and whom it is for.
func parseAssertion(body []byte) (a assertionClaims, aud []string, err error) {
	if err := json.Unmarshal(body, &a); err != nil {
		return a, nil, err
	}
	if a.Exp > maxTime || a.Nbf > maxTime {
		return a, nil, errors.New("exp or nbf is no time")
	}
	switch x := a.Aud.(type) {
	case string:
		aud = []string{x}
	case []any:
		for _, y := range x {
			if t, ok := y.(string); ok {
				aud = append(aud, t)
			}
		}
	}
	return a, aud, nil
}

// clientError answers to an application that did not prove itself.
func (s *Service) clientError(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, errMethods):
		oauthError(w, http.StatusBadRequest, "invalid_request", "Use one way of client authentication only.")
	case errors.Is(err, errClient):
		if r.Header.Get("Authorization") != "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="OAuth"`)
		}
		oauthError(w, http.StatusUnauthorized, "invalid_client", "The client_id is not registered here, is switched off, or the application did not prove itself as it is set up to.")
	default:
		s.unavailable(w, r, err)
	}
}

// introspect tells an application with a secret about a token: its own, or any if it is
// set up to ask about those of others. Of all others it says that they are not good.
// Spec: RFC 7662
func (s *Service) introspect(w http.ResponseWriter, r *http.Request) {
	noStore(w)
	v, err := form(w, r)
	if err == nil && v.Get("token") == "" {
		err = errors.New("token is missing")
	}
	if err != nil {
		oauthError(w, http.StatusBadRequest, "invalid_request", err.Error())
		return
	}
	c, err := s.proveClient(r, v)
	if err == nil && !c.Confidential() {
		err = errClient // a public one has proved nothing
	}
	if err != nil {
		s.clientError(w, r, err)
		return
	}
	i, err := s.sessions.Introspect(r.Context(), v.Get("token"))
	if err == nil && i.Session.ClientID != c.ID && !c.App.IntrospectAll {
		err = ErrUnknownToken
	}
	of := c
	if err == nil && i.Session.ClientID != c.ID && i.Session.ClientID != "" {
		of, err = s.clients.Client(r.Context(), i.Session.ClientID)
		if errors.Is(err, register.ErrNoClient) {
			err = ErrUnknownToken
		}
	}
	if err == nil && i.Session.ClientID != "" {
		err = s.sessions.MayUse(r.Context(), of, i.User.ID)
	}
	if errors.Is(err, ErrUnknownToken) || errors.Is(err, opstore.ErrNotAllowed) {
		writeJSON(w, http.StatusOK, map[string]bool{"active": false})
		return
	}
	if err != nil {
		s.unavailable(w, r, err)
		return
	}
	out := map[string]any{
		"active": true, "iss": s.origin(r), "sub": s.sessions.Subject(of, i.User.ID), "client_id": i.Session.ClientID, "aud": i.Session.ClientID,
		"scope": strings.Join(i.Scopes, " "), "auth_time": i.Session.AuthTime.Unix(), "iat": i.Session.Created.Unix(),
	}
	if !of.Pairwise() {
		out["username"] = i.User.Localpart
	}
	if i.Expires != 0 {
		out["exp"] = i.Expires / 1000
	}
	if !i.Refresh {
		out["token_type"] = "Bearer"
	}
	writeJSON(w, http.StatusOK, out)
}

// AppTemplate is how an application of a kind is set up at an address. Errors: *AppError.
func AppTemplate(template, name, address string) (AppConfig, error) {
	return register.FromTemplate(template, name, address)
}

// CreateApp makes an application; its secret is returned once. Errors: *AppError.
func (s *Service) CreateApp(ctx context.Context, c AppConfig, by string) (*App, string, error) {
	return s.clients.CreateApp(ctx, c, by)
}

// Apps lists the applications that administrators made.
func (s *Service) Apps(ctx context.Context) ([]*App, error) { return s.clients.Apps(ctx) }

// ChangeApp changes an application. Switched off, its sessions end; where it is for other
// groups, those of who may not use it any more do. Errors: ErrNoApp, *AppError.
func (s *Service) ChangeApp(ctx context.Context, id string, change func(*App) error) (a *App, err error) {
	err = s.o.DB.Write(ctx, func(tx *store.Tx) error {
		var to, ca string
		a, err = s.clients.ChangeApp(tx, id, func(x *App) error {
			to, ca = x.BackchannelURI, x.CA
			return change(x)
		})
		if err == nil && (a.BackchannelURI != to || a.CA != ca) {
			err = s.sessions.RetryTx(tx, id)
		}
		if err != nil {
			return err
		}
		switch {
		case a.Disabled:
			return s.sessions.EndClientTx(tx, id, "application switched off", false)
		case a.Groups != nil:
			return s.sessions.NarrowedTx(tx, id)
		}
		return nil
	})
	return a, err
}

// DeleteApp removes an application with its sessions and what people allowed it.
// Errors: ErrNoApp.
func (s *Service) DeleteApp(ctx context.Context, id string) error {
	return s.o.DB.Write(ctx, func(tx *store.Tx) error {
		if err := s.sessions.EndClientTx(tx, id, "application removed", true); err != nil {
			return err
		}
		return s.clients.DeleteAppTx(tx, id)
	})
}

// AddAppSecret gives an application a second secret. Errors: ErrNoApp, ErrSecrets, ErrPublic.
func (s *Service) AddAppSecret(ctx context.Context, id string) (string, error) {
	return s.clients.AddSecret(ctx, id)
}

// DeleteAppSecret makes a secret useless. Errors: ErrNoSecret.
func (s *Service) DeleteAppSecret(ctx context.Context, id, secretID string) error {
	return s.clients.DeleteSecret(ctx, id, secretID)
}

// SigningKeys lists the keys of ID tokens.
func (s *Service) SigningKeys(ctx context.Context) ([]Key, error) { return s.sessions.Keys(ctx) }

// RotateKey makes the next signing key, which signs in a day, or at once.
func (s *Service) RotateKey(ctx context.Context, atOnce bool) error {
	return s.sessions.RotateKey(ctx, atOnce)
}
