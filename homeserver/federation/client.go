package federation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/homeserver/mx"
)

// Bounds of a question to another server.
const (
	askTime    = 10 * time.Second // in all, with finding the server
	maxAnswer  = 64 << 10         // bytes
	maxAsking  = 16               // questions at once
	maxTargets = 4                // hosts of one server that are tried
	findTime   = 3 * time.Second  // for each step of finding it: without a name server each runs out
	defaultTLS = "8448"
)

// ErrNoAnswer means that the other server could not be asked, or gave no answer that
// can be used.
var ErrNoAnswer = errors.New("federation: the other server gave no answer")

// ErrUnknownThere means that the other server does not know the token.
var ErrUnknownThere = errors.New("federation: the other server does not know the token")

// Client asks other servers. It is safe for concurrent use.
type Client struct {
	servers  []string
	base     *http.Transport
	resolver *net.Resolver
	asking   chan struct{}
}

// NewClient makes a client that asks the servers of a list and no others. connect is
// how connections are made, nil: in any way; roots are the authorities that the servers'
// certificates are checked with, nil: the system's.
func NewClient(servers []string, connect *http.Client, roots *x509.CertPool) *Client {
	base, _ := http.DefaultTransport.(*http.Transport)
	if connect != nil {
		if t, ok := connect.Transport.(*http.Transport); ok {
			base = t
		}
	}
	base = base.Clone()
	base.Proxy = nil
	base.DisableKeepAlives = true
	if base.TLSClientConfig == nil {
		base.TLSClientConfig = &tls.Config{}
	}
	base.TLSClientConfig.RootCAs = roots
	if base.DialContext == nil {
		base.DialContext = (&net.Dialer{}).DialContext
	}
	return &Client{servers: servers, base: base, resolver: net.DefaultResolver, asking: make(chan struct{}, maxAsking)}
}

// Listed reports whether a server is one of those that are asked.
func (c *Client) Listed(server string) bool { return c != nil && slices.Contains(c.servers, server) }

// Userinfo asks a server of the list whose OpenID token it is, and believes it about its
// own users only. Errors: ErrNoAnswer, ErrUnknownThere.
// Spec: server-server#get_matrixfederationv1openiduserinfo
func (c *Client) Userinfo(ctx context.Context, server, token string) (userID string, err error) {
	if !c.Listed(server) {
		return "", fmt.Errorf("%w: it is not in the list", ErrNoAnswer)
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	select {
	case c.asking <- struct{}{}:
		defer func() { <-c.asking }()
	case <-ctx.Done():
		return "", fmt.Errorf("%w: too many are asked at once", ErrNoAnswer)
	}
	err = ErrNoAnswer
	for _, t := range c.find(ctx, server) {
		var body []byte
		var status int
		status, body, err = c.get(ctx, t, "/_matrix/federation/v1/openid/userinfo?"+url.Values{"access_token": {token}}.Encode(), 0)
		switch {
		case err != nil:
			continue // perhaps another host of it answers
		case status == http.StatusUnauthorized || status == http.StatusForbidden:
			return "", ErrUnknownThere
		case status != http.StatusOK:
			return "", fmt.Errorf("%w: status %d", ErrNoAnswer, status)
		}
		var out struct {
			Sub string `json:"sub"`
		}
		if err := json.Unmarshal(body, &out); err != nil {
			return "", fmt.Errorf("%w: %w", ErrNoAnswer, err)
		}
		if _, domain, err := mx.ParseUserID(out.Sub); err != nil || domain != server {
			return "", fmt.Errorf("%w: it names a user who is not its own", ErrNoAnswer)
		}
		return out.Sub, nil
	}
	return "", err
}

// target is where a server is asked.
type target struct {
	address string // to connect to, HOST:PORT
	name    string // that its certificate has
	host    string // of the Host header
}

// find says where a server is asked. Spec: server-server#resolving-server-names
func (c *Client) find(ctx context.Context, server string) []target {
	host, port, ok := mx.SplitServerName(server)
	if !ok {
		return nil
	}
	if literal(host) || port != "" { // 1 and 2
		return []target{at(host, port, server)}
	}
	if to := c.delegated(ctx, host); to != "" { // 3
		server = to
		if host, port, ok = mx.SplitServerName(to); !ok {
			return nil
		}
		if literal(host) || port != "" { // 3.1 and 3.2
			return []target{at(host, port, server)}
		}
	}
	for _, service := range []string{"matrix-fed", "matrix"} { // 3.3 and 4
		asked, cancel := context.WithTimeout(ctx, findTime/2)
		_, found, err := c.resolver.LookupSRV(asked, service, "tcp", host)
		cancel()
		if err != nil || len(found) == 0 {
			continue
		}
		var out []target
		for _, r := range found[:min(len(found), maxTargets)] {
			out = append(out, target{net.JoinHostPort(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port))), host, host})
		}
		return out
	}
	return []target{at(host, "", server)} // 3.5 and 5
}

func literal(host string) bool {
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil
}

func at(host, port, server string) target {
	if port == "" {
		port = defaultTLS
	}
	host = strings.Trim(host, "[]")
	return target{net.JoinHostPort(host, port), host, server}
}

// delegated is the name that a server's well-known file has, or "".
func (c *Client) delegated(ctx context.Context, host string) string {
	ctx, cancel := context.WithTimeout(ctx, findTime)
	defer cancel()
	status, body, err := c.get(ctx, target{net.JoinHostPort(host, "443"), host, host}, "/.well-known/matrix/server", 3)
	if err != nil || status != http.StatusOK {
		return ""
	}
	var out struct {
		Server string `json:"m.server"`
	}
	if json.Unmarshal(body, &out) != nil || mx.ValidServerName(out.Server) != nil {
		return ""
	}
	return out.Server
}

// get asks a target over TLS. redirects are followed only where a number is given.
func (c *Client) get(ctx context.Context, t target, path string, redirects int) (status int, body []byte, err error) {
	tr := c.base.Clone()
	defer tr.CloseIdleConnections()
	first := net.JoinHostPort(t.name, "443") // what the URL stands for; a redirect is another
	connect := c.base.DialContext
	tr.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == first {
			address = t.address
		}
		return connect(ctx, network, address)
	}
	left := redirects
	cl := &http.Client{Transport: tr, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if left--; left < 0 || r.URL.Scheme != "https" {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	name := t.name
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+name+path, nil)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: its name cannot be asked", ErrNoAnswer)
	}
	req.Host = t.host
	resp, err := cl.Do(req)
	if err != nil {
		var u *url.Error // has the token in its text
		if errors.As(err, &u) {
			err = u.Err
		}
		return 0, nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = errors.New("the answer is too long")
	}
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	return resp.StatusCode, body, nil
}
