package register

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of a registration.
const (
	MaxBody      = 16 << 10
	maxURI       = 2048
	maxRedirects = 20
	maxName      = 200
)

// DeviceGrant is the grant type of devices that are signed in on another's page.
// Spec: RFC 8628
const DeviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// Metadata is what a client registered, checked and without what we do not use.
// Spec: cs#client-metadata
type Metadata struct {
	ClientName              string   `json:"client_name,omitempty"`
	ClientURI               string   `json:"client_uri"`
	LogoURI                 string   `json:"logo_uri,omitempty"`
	TOSURI                  string   `json:"tos_uri,omitempty"`
	PolicyURI               string   `json:"policy_uri,omitempty"`
	RedirectURIs            []string `json:"redirect_uris"`
	PostLogoutRedirectURIs  []string `json:"post_logout_redirect_uris,omitempty"`
	ApplicationType         string   `json:"application_type"`
	GrantTypes              []string `json:"grant_types"`
	ResponseTypes           []string `json:"response_types"`
	TokenEndpointAuthMethod string   `json:"token_endpoint_auth_method"`
}

// Error is a refused registration, in the shape of RFC 7591 section 3.2.2.
type Error struct {
	Code string `json:"error"` // invalid_redirect_uri or invalid_client_metadata
	Msg  string `json:"error_description"`
}

func (e *Error) Error() string { return e.Code + ": " + e.Msg }

func badMetadata(format string, args ...any) error {
	return &Error{"invalid_client_metadata", fmt.Sprintf(format, args...)}
}

func badRedirect(format string, args ...any) error {
	return &Error{"invalid_redirect_uri", fmt.Sprintf(format, args...)}
}

// Parse reads and checks a registration. Errors: *Error.
func Parse(body []byte) (Metadata, error) {
	var m Metadata
	if len(body) > MaxBody {
		return m, badMetadata("The registration is larger than %d bytes.", MaxBody)
	}
	if b := bytes.TrimSpace(body); len(b) == 0 || b[0] != '{' {
		return m, badMetadata("The registration must be a JSON object.")
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return m, badMetadata("The registration is not the JSON that RFC 7591 describes.")
	}
	if !utf8.ValidString(m.ClientName) || len(m.ClientName) > maxName || strings.ContainsFunc(m.ClientName, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return m, badMetadata("client_name must be plain text of at most %d bytes.", maxName)
	}
	client, err := httpsURI(m.ClientURI)
	if err != nil {
		return m, badMetadata("client_uri is required and %v.", err)
	}
	for name, uri := range map[string]string{"logo_uri": m.LogoURI, "tos_uri": m.TOSURI, "policy_uri": m.PolicyURI} {
		if uri == "" {
			continue
		}
		u, err := httpsURI(uri)
		if err != nil {
			return m, badMetadata("%s %v.", name, err)
		}
		if !within(u, client) {
			return m, badMetadata("%s must be on the host of client_uri.", name)
		}
	}
	switch m.ApplicationType {
	case "":
		m.ApplicationType = "web"
	case "web", "native":
	default:
		return m, badMetadata("application_type must be web or native.")
	}
	switch m.TokenEndpointAuthMethod {
	case "", "none":
		m.TokenEndpointAuthMethod = "none"
	default:
		return m, badMetadata("Only public clients can register: token_endpoint_auth_method must be none.")
	}
	code, device := len(m.GrantTypes) == 0 || slices.Contains(m.GrantTypes, "authorization_code"), slices.Contains(m.GrantTypes, DeviceGrant)
	if !code && !device {
		return m, badMetadata("grant_types must contain authorization_code or %s.", DeviceGrant)
	}
	if code && len(m.ResponseTypes) > 0 && !slices.Contains(m.ResponseTypes, "code") {
		return m, badMetadata("response_types must contain code.")
	}
	m.ResponseTypes, m.GrantTypes = []string{}, []string{}
	if code {
		m.ResponseTypes, m.GrantTypes = []string{"code"}, []string{"authorization_code"}
	}
	m.GrantTypes = append(m.GrantTypes, "refresh_token")
	if device {
		m.GrantTypes = append(m.GrantTypes, DeviceGrant)
	}
	if code && len(m.RedirectURIs) == 0 || len(m.RedirectURIs) > maxRedirects || len(m.PostLogoutRedirectURIs) > maxRedirects {
		return m, badRedirect("Between 1 and %d redirect_uris are needed.", maxRedirects)
	}
	if m.RedirectURIs == nil {
		m.RedirectURIs = []string{}
	}
	for _, uri := range slices.Concat(m.RedirectURIs, m.PostLogoutRedirectURIs) {
		if err := checkRedirect(uri, client, m.ApplicationType == "native"); err != nil {
			return m, err
		}
	}
	return m, nil
}

// plainURI refuses what makes two readers of a URI disagree about it.
func plainURI(s string) error {
	if s == "" || len(s) > maxURI {
		return fmt.Errorf("must have between 1 and %d bytes", maxURI)
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\\\"<>^`{|}", c) >= 0 {
			return fmt.Errorf("must be a plain URI")
		}
	}
	if strings.Contains(s, "#") {
		return fmt.Errorf("must not have a fragment")
	}
	return nil
}

// httpsURI parses an absolute https URI without user information or fragment.
func httpsURI(s string) (*url.URL, error) {
	if err := plainURI(s); err != nil {
		return nil, err
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || !strings.HasPrefix(s, "https://") || u.Hostname() == "" || u.Opaque != "" {
		return nil, fmt.Errorf("must be an https URI with a host")
	}
	if u.User != nil || strings.Contains(u.Host, "@") {
		return nil, fmt.Errorf("must not have a user name or password")
	}
	return u, nil
}

// within reports whether u is on the host of base, or below it.
func within(u, base *url.URL) bool {
	h, b := strings.ToLower(u.Hostname()), strings.ToLower(base.Hostname())
	return h == b || strings.HasSuffix(h, "."+b)
}

// checkRedirect applies the rules for redirect URIs. Spec: cs#redirect-uri-validation
func checkRedirect(s string, client *url.URL, native bool) error {
	if err := plainURI(s); err != nil {
		return badRedirect("A redirect URI %v.", err)
	}
	if strings.HasPrefix(s, "https://") {
		u, err := httpsURI(s)
		if err != nil {
			return badRedirect("A redirect URI %v.", err)
		}
		if !within(u, client) {
			return badRedirect("A redirect URI must be on the host of client_uri.")
		}
		return nil
	}
	if !native {
		return badRedirect("A redirect URI of a web client must begin with https://.")
	}
	if strings.HasPrefix(s, "http:") {
		host, port, rest, ok := cutLoopback(s)
		if !ok || port != "" || (rest != "" && rest[0] != '/') {
			return badRedirect("An http redirect URI must be on %s without a port: http://localhost/..., http://127.0.0.1/... or http://[::1]/....", cmpOr(host, "a loopback address"))
		}
		return nil
	}
	// A private-use scheme is the client's host name backwards, as it is or continued.
	scheme, rest, ok := strings.Cut(s, ":")
	labels := strings.Split(strings.ToLower(client.Hostname()), ".")
	slices.Reverse(labels)
	reversed := strings.Join(labels, ".")
	if !ok || len(labels) < 2 || (scheme != reversed && !strings.HasPrefix(scheme, reversed+".")) || !validScheme(scheme) {
		return badRedirect("The scheme of a private redirect URI must begin with %s, the host of client_uri backwards.", reversed)
	}
	if strings.HasPrefix(rest, "//") {
		return badRedirect("A private redirect URI must not have a host: write %s:/...", scheme)
	}
	if u, err := url.Parse(s); err != nil || u.Host != "" || u.User != nil {
		return badRedirect("A redirect URI must be a plain URI.")
	}
	return nil
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func validScheme(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || i > 0 && (c >= '0' && c <= '9' || c == '.' || c == '-' || c == '+')) {
			return false
		}
	}
	return s != ""
}

// cutLoopback splits "http://<loopback host>[:port]<rest>".
func cutLoopback(s string) (host, port, rest string, ok bool) {
	for _, host := range []string{"localhost", "127.0.0.1", "[::1]"} {
		after, found := strings.CutPrefix(s, "http://"+host)
		if !found {
			continue
		}
		if digits, found := strings.CutPrefix(after, ":"); found {
			n := 0
			for n < len(digits) && digits[n] >= '0' && digits[n] <= '9' {
				n++
			}
			port, after = digits[:n], digits[n:]
			if n == 0 || n > 5 || port[0] == '0' || (n == 5 && port > "65535") {
				return "", "", "", false
			}
		}
		if after == "" || after[0] == '/' || after[0] == '?' {
			return host, port, after, true
		}
	}
	return "", "", "", false
}

// MatchRedirect reports whether uri is one of the registered redirect URIs:
// equal byte for byte, except that the port of a loopback address is free for
// native clients. Spec: RFC 8252 section 7.3
func MatchRedirect(registered []string, uri string, native bool) bool {
	if plainURI(uri) != nil {
		return false
	}
	if slices.Contains(registered, uri) {
		return true
	}
	if !native {
		return false
	}
	host, _, rest, ok := cutLoopback(uri)
	if !ok {
		return false
	}
	return slices.ContainsFunc(registered, func(r string) bool {
		h, p, rr, ok := cutLoopback(r)
		return ok && p == "" && h == host && rr == rest
	})
}
