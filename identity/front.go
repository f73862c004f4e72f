package identity

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"holdfast/identity/login"
	"holdfast/identity/opstore"
	"holdfast/identity/register"
)

// Bounds of requests.
const (
	maxParams  = 16 << 10
	maxState   = 4096
	maxNonce   = 1024
	maxValues  = 20
	maxLocales = 200
)

// Handler answers /oauth2/, /login, /logout, /consent, /account, /reauth, /link, /e/, /upstream/,
// /.well-known/openid-configuration and /.well-known/oauth-authorization-server.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	s.pages.Register(mux)
	open := func(pattern string, h http.HandlerFunc) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(pattern, cors(h))
		mux.HandleFunc("OPTIONS "+path, cors(nil))
		if method == http.MethodPost { // so that GET answers 405 with our headers
			mux.HandleFunc("GET "+path, cors(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Allow", "POST, OPTIONS")
				oauthError(w, http.StatusMethodNotAllowed, "invalid_request", "Use POST.")
			}))
		}
	}
	open("GET /.well-known/openid-configuration", s.discovery)
	open("GET /.well-known/oauth-authorization-server", s.discovery)
	open("GET /oauth2/jwks", func(w http.ResponseWriter, r *http.Request) { op.Keys(w, r, opstore.Storage{S: s.sessions}) })
	open("POST /oauth2/token", s.token)
	open("POST /oauth2/device", s.device)
	open("POST /oauth2/revoke", s.revoke)
	open("POST /oauth2/introspect", s.introspect)
	open("POST /oauth2/registration", s.registration)
	mux.HandleFunc("GET /oauth2/userinfo", cors(s.userinfo))
	mux.HandleFunc("POST /oauth2/userinfo", cors(s.userinfo))
	mux.HandleFunc("OPTIONS /oauth2/userinfo", cors(nil))
	mux.HandleFunc("GET /oauth2/authorize", s.authorize)
	mux.HandleFunc("POST /oauth2/authorize", s.authorize)
	mux.HandleFunc("GET /oauth2/authorize/callback", s.callback)
	mux.HandleFunc("GET /oauth2/end_session", s.endOP)
	mux.HandleFunc("POST /oauth2/end_session", s.endOP)
	mux.HandleFunc("/oauth2/", cors(func(w http.ResponseWriter, r *http.Request) {
		oauthError(w, http.StatusNotFound, "invalid_request", "There is no such endpoint.")
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The issuer of everything below is the origin that the appliance decided on.
		mux.ServeHTTP(w, r.WithContext(op.ContextWithIssuer(r.Context(), s.origin(r))))
	})
}

// cors lets any web application call an endpoint, without cookies.
func cors(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		hd := w.Header()
		hd.Set("Access-Control-Allow-Origin", "*")
		hd.Set("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
		hd.Set("Access-Control-Allow-Headers", "Accept, Accept-Language, Authorization, Content-Type, X-Requested-With")
		hd.Set("Access-Control-Max-Age", "86400")
		if h == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		h(w, r)
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func noStore(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Pragma", "no-cache")
}

// oauthError answers in the shape of RFC 6749 section 5.2.
func oauthError(w http.ResponseWriter, status int, code, msg string) {
	noStore(w)
	writeJSON(w, status, map[string]string{"error": code, "error_description": msg})
}

// unavailable answers to trouble of ours. It must never look like a refusal, on
// which clients throw their sessions away.
func (s *Service) unavailable(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		s.o.Log.Error("an OAuth request failed for now", "path", r.URL.Path, "err", err)
	}
	w.Header().Set("Retry-After", "1")
	oauthError(w, http.StatusServiceUnavailable, "temporarily_unavailable", "The server has trouble at the moment. Try again.")
}

// Metadata is the authorization server's metadata at an origin, for auth_metadata
// and discovery. Spec: cs#server-metadata-discovery, RFC 8414
func (s *Service) Metadata(origin string) map[string]any {
	prompts := []string{"none", "login", "consent", "select_account"}
	if s.o.RegistrationOpen { // otherwise it leads to a page that says who makes accounts
		prompts = append(prompts, "create")
	}
	proofs := []string{register.AuthBasic, register.AuthPost, register.AuthKey}
	return map[string]any{
		"issuer":                                                   origin,
		"authorization_endpoint":                                   origin + "/oauth2/authorize",
		"token_endpoint":                                           origin + "/oauth2/token",
		"device_authorization_endpoint":                            origin + "/oauth2/device",
		"revocation_endpoint":                                      origin + "/oauth2/revoke",
		"introspection_endpoint":                                   origin + "/oauth2/introspect",
		"registration_endpoint":                                    origin + "/oauth2/registration",
		"userinfo_endpoint":                                        origin + "/oauth2/userinfo",
		"end_session_endpoint":                                     origin + "/oauth2/end_session",
		"jwks_uri":                                                 origin + "/oauth2/jwks",
		"response_types_supported":                                 []string{"code"},
		"response_modes_supported":                                 []string{"query", "fragment", "form_post"},
		"grant_types_supported":                                    []string{"authorization_code", "refresh_token", register.DeviceGrant},
		"code_challenge_methods_supported":                         []string{"S256"},
		"token_endpoint_auth_methods_supported":                    append([]string{"none"}, proofs...),
		"revocation_endpoint_auth_methods_supported":               append([]string{"none"}, proofs...),
		"introspection_endpoint_auth_methods_supported":            proofs,
		"token_endpoint_auth_signing_alg_values_supported":         assertionAlgs,
		"revocation_endpoint_auth_signing_alg_values_supported":    assertionAlgs,
		"introspection_endpoint_auth_signing_alg_values_supported": assertionAlgs,
		"subject_types_supported":                                  []string{"public", "pairwise"},
		"id_token_signing_alg_values_supported":                    []string{"RS256"},
		"scopes_supported":                                         []string{"openid", "profile", "email", "groups", "offline_access", "urn:matrix:client:api:*", "urn:matrix:client:device:*", "urn:matrix:org.matrix.msc2967.client:api:*", "urn:matrix:org.matrix.msc2967.client:device:*"},
		"claims_supported":                                         []string{"sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "at_hash", "c_hash", "azp", "amr", "acr", "sid", "name", "preferred_username", "email", "email_verified", "groups"},
		"claims_parameter_supported":                               true,
		"acr_values_supported":                                     s.classes(),
		"request_parameter_supported":                              false,
		"request_uri_parameter_supported":                          false,
		"authorization_response_iss_parameter_supported":           true,
		"prompt_values_supported":                                  prompts,
		"display_values_supported":                                 []string{"page", "popup"},
		"ui_locales_supported":                                     []string{"en"},
		"backchannel_logout_supported":                             s.o.Client != nil,
		"backchannel_logout_session_supported":                     s.o.Client != nil,
		"account_management_uri":                                   origin + "/account",
		"account_management_actions_supported":                     login.Actions(),
	}
}

func (s *Service) discovery(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, http.StatusOK, s.Metadata(s.origin(r)))
}

// params parses parameters and refuses repeated ones.
func params(raw string) (url.Values, error) {
	if len(raw) > maxParams {
		return nil, errors.New("the request is too long")
	}
	v, err := url.ParseQuery(raw)
	if err != nil {
		return nil, errors.New("the parameters are not form-encoded")
	}
	for k, vals := range v {
		if len(vals) > 1 {
			return nil, fmt.Errorf("the parameter %.40q is repeated", k)
		}
	}
	return v, nil
}

// form reads the body of a POST that must have no query.
func form(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if r.URL.RawQuery != "" {
		return nil, errors.New("parameters belong in the body")
	}
	ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || ct != "application/x-www-form-urlencoded" {
		return nil, errors.New("the body must be application/x-www-form-urlencoded")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxParams+1))
	if err != nil {
		return nil, errors.New("the body is too long")
	}
	return params(string(b))
}

// respond sends the browser back to the application with the answer. op would
// escape a fragment twice, and knows no iss (RFC 9207).
func (s *Service) respond(w http.ResponseWriter, r *http.Request, redirectURI, mode, issuer string, v url.Values) {
	v.Set("iss", issuer)
	if mode == "form_post" {
		s.pages.FormPost(w, r, redirectURI, v)
		return
	}
	sep := "?"
	switch {
	case mode == "fragment":
		sep = "#"
	case strings.HasSuffix(redirectURI, "?"):
		sep = ""
	case strings.Contains(redirectURI, "?"):
		sep = "&"
	}
	noStore(w)
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("Location", redirectURI+sep+v.Encode())
	w.WriteHeader(http.StatusSeeOther)
}

// refuse answers an application with an error of a sign-in.
func (s *Service) refuse(w http.ResponseWriter, r *http.Request, req *opstore.Request, code string) {
	v := url.Values{"error": {code}}
	if req.State != "" {
		v.Set("state", req.State)
	}
	s.respond(w, r, req.RedirectURI, req.ResponseMode, req.Issuer, v)
}

var challengeLength = 43 // of base64url(SHA-256)

func validChallenge(c string) bool {
	return len(c) == challengeLength && strings.Trim(c, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// refusal is an error that the application is told about.
type refusal struct{ code, msg string }

// authorize begins a sign-in. Until the application and its redirect URI are
// known, errors are pages; afterwards they go to the application.
// Spec: cs#authorization-code-flow, RFC 6749 section 4.1.1
func (s *Service) authorize(w http.ResponseWriter, r *http.Request) {
	var (
		v   url.Values
		err error
	)
	if r.Method == http.MethodPost {
		v, err = form(w, r)
	} else {
		v, err = params(r.URL.RawQuery)
	}
	if err != nil {
		s.pages.Message(w, r, http.StatusBadRequest, "badRequest")
		return
	}
	client, err := s.clients.Client(r.Context(), v.Get("client_id"))
	if err == nil && client.Disabled() {
		s.pages.Message(w, r, http.StatusForbidden, "appOff")
		return
	}
	if errors.Is(err, register.ErrNoClient) {
		s.pages.Message(w, r, http.StatusBadRequest, "badClient")
		return
	}
	if err != nil {
		s.o.Log.Error("a sign-in could not begin", "err", err)
		s.pages.Message(w, r, http.StatusServiceUnavailable, "trouble")
		return
	}
	uri := v.Get("redirect_uri")
	if !client.MatchRedirect(uri) {
		s.pages.Message(w, r, http.StatusBadRequest, "badRedirect")
		return
	}
	issuer := s.origin(r)
	p := opstore.Params{RedirectURI: uri, ResponseMode: "query", State: v.Get("state"), Nonce: v.Get("nonce"), LoginHint: v.Get("login_hint"), Issuer: issuer}
	if bad := s.checkAuthorize(r, v, client, &p); bad != nil {
		out := url.Values{"error": {bad.code}, "error_description": {bad.msg}}
		if p.State != "" && len(p.State) <= maxState {
			out.Set("state", p.State)
		}
		s.respond(w, r, uri, p.ResponseMode, issuer, out)
		return
	}
	browser := s.pages.EnsureBrowser(w, r)
	b, in := s.pages.SignedIn(r)
	none := slices.Contains(p.Prompt, "none")
	refuse := func(code string) { s.refuse(w, r, &opstore.Request{Params: p}, code) }
	if none {
		switch {
		case !in || !login.Fresh(&opstore.Request{Params: p, Created: s.o.Now()}, s.sessions.Subject(client, b.User.ID), b, s.o.Now()):
			refuse("login_required")
			return
		}
		enough, err := s.pages.Enough(r.Context(), b)
		switch {
		case err != nil:
			refuse("temporarily_unavailable")
			return
		case !enough:
			refuse("login_required")
			return
		}
		if err := s.sessions.MayUse(r.Context(), client, b.User.ID); err != nil {
			refuse(map[bool]string{true: "access_denied", false: "temporarily_unavailable"}[errors.Is(err, opstore.ErrNotAllowed)])
			return
		}
		if wanted, must := p.ACR(); must && !opstore.Reaches(opstore.Methods(b), wanted) {
			refuse("unmet_authentication_requirements")
			return
		}
		switch ask, err := s.sessions.MustAsk(r.Context(), client, &opstore.Request{Params: p}, b.User.ID); {
		case err != nil:
			refuse("temporarily_unavailable")
			return
		case ask:
			refuse("consent_required")
			return
		}
	}
	id, err := s.sessions.Begin(r.Context(), client, p, browser)
	if err == nil && none {
		err = s.sessions.Agree(r.Context(), id, browser, b)
	}
	if err != nil {
		s.o.Log.Error("a sign-in could not begin", "err", err)
		refuse("temporarily_unavailable")
		return
	}
	next := client.OP().LoginURL(url.QueryEscape(id))
	switch {
	case none:
		next = "/oauth2/authorize/callback?id=" + url.QueryEscape(id)
	case slices.Contains(p.Prompt, "create"):
		next = "/login/create?request=" + url.QueryEscape(id)
	}
	noStore(w)
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// checkAuthorize checks what comes after the redirect URI and fills p.
func (s *Service) checkAuthorize(r *http.Request, v url.Values, c *register.Client, p *opstore.Params) *refusal {
	switch m := v.Get("response_mode"); m {
	case "", "query":
	case "fragment", "form_post":
		p.ResponseMode = m
	default:
		return &refusal{"invalid_request", "response_mode must be query, fragment or form_post."}
	}
	if len(p.State) > maxState || len(p.Nonce) > maxNonce {
		return &refusal{"invalid_request", "state or nonce is too long."}
	}
	if v.Has("request") {
		return &refusal{"request_not_supported", "Request objects are not supported."}
	}
	if v.Has("request_uri") {
		return &refusal{"request_uri_not_supported", "Request objects are not supported."}
	}
	switch v.Get("response_type") {
	case "code":
	case "":
		return &refusal{"invalid_request", "response_type is missing."}
	default:
		return &refusal{"unsupported_response_type", "response_type must be code."}
	}
	if p.Challenge = v.Get("code_challenge"); p.Challenge == "" && !v.Has("code_challenge_method") && !c.PKCE() {
		// It proves itself when it trades the code, and was set up to do without.
	} else if v.Get("code_challenge_method") != "S256" || !validChallenge(p.Challenge) {
		return &refusal{"invalid_request", "PKCE is required: a code_challenge with the method S256."}
	}
	var err error
	if p.Scopes, p.DeviceID, err = opstore.CheckScopes(v.Get("scope")); err != nil {
		return &refusal{"invalid_scope", err.Error()}
	}
	if bad := c.Refuses(p.Scopes); bad != "" {
		return &refusal{"invalid_scope", "The application may not have the scope " + bad + "."}
	}
	if c.Confidential() && !slices.Contains(p.Scopes, oidc.ScopeOpenID) {
		return &refusal{"invalid_scope", "The scope must contain openid."}
	}
	if raw := v.Get("claims"); raw != "" {
		if p.Claims, err = opstore.ParseClaims(raw); err != nil {
			return &refusal{"invalid_request", err.Error()}
		}
		p.Subject = p.Claims.Subject()
	}
	p.Prompt = strings.Fields(v.Get("prompt"))
	for _, x := range p.Prompt {
		if !slices.Contains([]string{"none", "login", "create", "consent", "select_account"}, x) || (x == "none" && len(p.Prompt) > 1) {
			return &refusal{"invalid_request", "prompt has a value or combination that is not supported."}
		}
	}
	p.ACRValues = strings.Fields(v.Get("acr_values"))
	if p.Locales = v.Get("ui_locales"); len(p.ACRValues) > maxValues || len(p.Locales) > maxLocales {
		return &refusal{"invalid_request", "acr_values or ui_locales is too long."}
	}
	p.Popup = v.Get("display") == "popup"
	if m := v.Get("max_age"); m != "" {
		n, err := strconv.ParseUint(m, 10, 31)
		if err != nil {
			return &refusal{"invalid_request", "max_age must be a number of seconds."}
		}
		age := uint(n)
		p.MaxAge = &age
	}
	if hint := v.Get("id_token_hint"); hint != "" {
		sub, err := op.ValidateAuthReqIDTokenHint(r.Context(), hint, s.provider.IDTokenHintVerifier(r.Context()))
		if err != nil {
			return &refusal{"login_required", "The id_token_hint is not valid."}
		}
		p.Subject = sub
	}
	return nil
}

// callback gives out the code of a sign-in that is done: once, and only to the
// browser that began it.
func (s *Service) callback(w http.ResponseWriter, r *http.Request) {
	req, err := s.sessions.Request(r.Context(), r.URL.Query().Get("id"), s.pages.BrowserHash(r))
	if err == nil && !req.Done() {
		err = opstore.ErrNoRequest
	}
	var resp *op.CodeResponseType
	if err == nil {
		resp, err = op.BuildAuthResponseCodeResponsePayload(r.Context(), req, s.provider)
	}
	switch {
	case errors.Is(err, opstore.ErrBrowser):
		s.pages.Message(w, r, http.StatusForbidden, "otherBrowser")
		return
	case errors.Is(err, opstore.ErrNoRequest):
		s.pages.Message(w, r, http.StatusBadRequest, "expired")
		return
	case err != nil:
		s.o.Log.Error("a code could not be made", "err", err)
		s.pages.Message(w, r, http.StatusServiceUnavailable, "trouble")
		return
	}
	s.pages.Suit(r, req)
	v := url.Values{"code": {resp.Code}}
	if resp.State != "" {
		v.Set("state", resp.State)
	}
	s.respond(w, r, req.RedirectURI, req.ResponseMode, req.Issuer, v)
}

// recorder keeps what op writes, so that the front can look at it first.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func newRecorder() *recorder                    { return &recorder{header: http.Header{}, status: http.StatusOK} }
func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) WriteHeader(status int)      { w.status = status }
func (w *recorder) Write(b []byte) (int, error) { return w.body.Write(b) }

// withForm is a request whose parsed form is exactly v.
func withForm(r *http.Request, v url.Values) *http.Request {
	r2 := r.Clone(r.Context())
	r2.Body, r2.Form, r2.PostForm = http.NoBody, v, v
	return r2
}

// token trades codes and refresh tokens. Spec: RFC 6749 section 3.2
func (s *Service) token(w http.ResponseWriter, r *http.Request) {
	noStore(w)
	v, err := form(w, r)
	if err != nil {
		oauthError(w, http.StatusBadRequest, "invalid_request", err.Error())
		return
	}
	switch v.Get("grant_type") {
	case string(oidc.GrantTypeCode), string(oidc.GrantTypeRefreshToken):
	case register.DeviceGrant:
		s.collect(w, r, v)
		return
	case "":
		oauthError(w, http.StatusBadRequest, "invalid_request", "grant_type is missing.")
		return
	default:
		oauthError(w, http.StatusBadRequest, "unsupported_grant_type", "Use authorization_code, refresh_token or "+register.DeviceGrant+".")
		return
	}
	c, err := s.proveClient(r, v)
	if err != nil {
		s.clientError(w, r, err)
		return
	}
	var transient error
	r2 := withForm(r, v)
	r2.Header.Del("Authorization")
	ctx := opstore.WithTransient(r2.Context(), &transient)
	if c.Confidential() {
		ctx = opstore.WithClient(ctx, c.ID)
	}
	r2 = r2.WithContext(ctx)
	rec := newRecorder()
	op.Exchange(rec, r2, s.provider)
	if transient != nil || rec.status >= 500 {
		if transient == nil {
			transient = fmt.Errorf("op answered %d", rec.status)
		}
		s.unavailable(w, r, transient)
		return
	}
	var out map[string]any
	if err := json.Unmarshal(rec.body.Bytes(), &out); err != nil {
		s.unavailable(w, r, err)
		return
	}
	if rec.status == http.StatusOK {
		tidyToken(out)
	}
	writeJSON(w, rec.status, out)
}

// tidyToken takes out of an answer what was not asked for: the ID token without
// openid, and the offline_access that Matrix sessions are given silently.
func tidyToken(out map[string]any) {
	scope, _ := out["scope"].(string)
	scopes := strings.Fields(scope)
	if !slices.Contains(scopes, oidc.ScopeOpenID) {
		delete(out, "id_token")
	}
	if strings.Contains(scope, "urn:matrix:") {
		scopes = slices.DeleteFunc(scopes, func(x string) bool { return x == oidc.ScopeOfflineAccess })
		out["scope"] = strings.Join(scopes, " ")
	}
}

var errOtherClient = errors.New("the token belongs to another application")

// revoke ends the session of a token. Who has the token may; an unknown one is
// no error. Spec: cs#token-revocation, RFC 7009
func (s *Service) revoke(w http.ResponseWriter, r *http.Request) {
	noStore(w)
	v, err := form(w, r)
	if err == nil && v.Get("token") == "" {
		err = errors.New("token is missing")
	}
	if err != nil {
		oauthError(w, http.StatusBadRequest, "invalid_request", err.Error())
		return
	}
	id := v.Get("client_id")
	if r.Header.Get("Authorization") != "" || v.Has("client_secret") || v.Has("client_assertion") {
		c, err := s.proveClient(r, v)
		if err != nil {
			s.clientError(w, r, err)
			return
		}
		id = c.ID
	}
	err = s.sessions.Revoke(r.Context(), v.Get("token"), func(x opstore.Session) error {
		if id != "" && id != x.ClientID {
			return errOtherClient
		}
		return nil
	})
	switch {
	case errors.Is(err, errOtherClient):
		oauthError(w, http.StatusUnauthorized, "invalid_client", "The token belongs to another application.")
	case err != nil:
		s.unavailable(w, r, err)
	default:
		writeJSON(w, http.StatusOK, struct{}{})
	}
}

// registration registers an application. Spec: cs#dynamic-client-registration-flow, RFC 7591
func (s *Service) registration(w http.ResponseWriter, r *http.Request) {
	noStore(w)
	if s.o.Limits {
		if wait := s.limit.allow(r, s.o.Now()); wait > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds()+1)))
			oauthError(w, http.StatusTooManyRequests, "temporarily_unavailable", "Too many registrations. Try again later.")
			return
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, register.MaxBody+1))
	var m register.Metadata
	if err == nil {
		m, err = register.Parse(body)
	} else {
		err = &register.Error{Code: "invalid_client_metadata", Msg: "The registration is too long."}
	}
	var bad *register.Error
	if errors.As(err, &bad) {
		writeJSON(w, http.StatusBadRequest, bad)
		return
	}
	c, err := s.clients.Create(r.Context(), m)
	if errors.Is(err, register.ErrFull) {
		w.Header().Set("Retry-After", "600")
		oauthError(w, http.StatusTooManyRequests, "temporarily_unavailable", "Too many applications are registered. Try again later.")
		return
	}
	if err != nil {
		s.unavailable(w, r, err)
		return
	}
	writeJSON(w, http.StatusCreated, struct {
		ID     string `json:"client_id"`
		Issued int64  `json:"client_id_issued_at"`
		register.Metadata
	}{c.ID, s.o.Now().Unix(), c.Metadata})
}

// userinfo tells an application about its user. The token comes in the header or
// in the body of a POST, never in the URL. Spec: OpenID Connect Core section 5.3
func (s *Service) userinfo(w http.ResponseWriter, r *http.Request) {
	noStore(w)
	v := url.Values{}
	if r.URL.RawQuery != "" {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_request"`)
		oauthError(w, http.StatusBadRequest, "invalid_request", "The token does not belong in the URL.")
		return
	}
	if r.Method == http.MethodPost && r.Header.Get("Authorization") == "" {
		var err error
		if v, err = form(w, r); err != nil {
			oauthError(w, http.StatusBadRequest, "invalid_request", err.Error())
			return
		}
	}
	var transient error
	r2 := withForm(r, v)
	r2 = r2.WithContext(opstore.WithTransient(r2.Context(), &transient))
	rec := newRecorder()
	op.Userinfo(rec, r2, s.provider)
	if rec.status == http.StatusUnauthorized {
		// op says so as well when the token could not be looked up.
		token, _ := op.ParseUserinfoRequest(r2, s.provider.Decoder())
		if _, err := s.sessions.Lookup(r.Context(), token); !refused(err) {
			transient = cmp.Or(err, errors.New("the access token is good now"))
		}
	}
	if transient != nil {
		s.unavailable(w, r, transient)
		return
	}
	if rec.status != http.StatusOK {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		oauthError(w, http.StatusUnauthorized, "invalid_token", "The access token is not valid here, or lacks the scope openid.")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(rec.body.Bytes())
}

// refused reports whether an error of Lookup is about the token and no trouble of ours.
func refused(err error) bool {
	return errors.Is(err, ErrUnknownToken) || errors.Is(err, ErrExpiredToken) || errors.Is(err, ErrLocked) || errors.Is(err, ErrDeactivated)
}
