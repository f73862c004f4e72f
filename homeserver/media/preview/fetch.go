package preview

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// Bounds of a request.
const (
	maxRedirects = 5
	maxPage      = 2 << 20 // bytes, as sent and as unpacked; what is behind is not read
	MaxPicture   = 8 << 20 // bytes
	maxHeader    = 64 << 10
	dialTime     = 5 * time.Second
	handshake    = 8 * time.Second
	headerTime   = 10 * time.Second
	pageTime     = 12 * time.Second // for all redirects and the page; the rest is for its picture
)

// agent is what the fetcher calls itself. The version is left out: it is nobody's
// business.
const agent = "Mozilla/5.0 (compatible; Holdfast; link preview bot)"

// What is asked for: SVG and AVIF are not understood.
const (
	acceptPage    = "text/html,application/xhtml+xml;q=0.9,image/webp;q=0.8,image/png;q=0.8,image/jpeg;q=0.8,image/gif;q=0.8,*/*;q=0.1"
	acceptPicture = "image/webp,image/png,image/jpeg,image/gif,*/*;q=0.1"
)

// Options of New.
type Options struct {
	// Public reports whether an address is one of the Internet. nil: none is.
	Public func(netip.Addr) bool
	Rules  func() Rules // asked at each request
}

// Fetcher fetches pages. Its methods are safe for concurrent use.
type Fetcher struct {
	o      Options
	client *http.Transport

	// Of tests alone: where names are looked up, addresses of their own servers, and
	// less time for a page.
	resolver *net.Resolver
	also     func(netip.AddrPort) bool
	patience time.Duration
}

// New makes a fetcher.
func New(o Options) *Fetcher {
	f := &Fetcher{o: o, patience: pageTime}
	f.client = &http.Transport{
		// No proxy: it would be asked for addresses that nobody has looked at.
		DialContext:            f.dial,
		ForceAttemptHTTP2:      true,
		DisableKeepAlives:      true, // each connection is made under the rules of its moment
		DisableCompression:     true, // unpacked here, within bounds
		TLSHandshakeTimeout:    handshake,
		ResponseHeaderTimeout:  headerTime,
		MaxResponseHeaderBytes: maxHeader,
	}
	return f
}

// dial connects to a host. The check is made on the address that is connected to,
// not on an answer of the name service before it.
func (f *Fetcher) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	rules := f.o.Rules()
	d := net.Dialer{Timeout: dialTime, Resolver: f.resolver, Control: func(_, to string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(to)
		if err != nil {
			return err
		}
		return f.mayDial(rules, host, ap)
	}}
	return d.DialContext(ctx, network, address)
}

// errAddress is why a connection was not made.
var errAddress = errors.New("pages are not fetched from there")

// mayDial reports whether a host may be reached at an address.
func (f *Fetcher) mayDial(rules Rules, host string, ap netip.AddrPort) error {
	a := ap.Addr().Unmap().WithZone("")
	switch {
	case rules.Deny.HasAddr(a) || rules.Deny.HasAddr(embedded(a)):
		return fmt.Errorf("%s is denied: %w", a, errAddress)
	case f.also != nil && f.also(ap):
		return nil
	case f.o.Public != nil && f.o.Public(a):
		return nil
	case rules.Private.HasAddr(a):
		return nil
	case rules.Private.Has(host) && inside(a):
		return nil
	}
	return fmt.Errorf("%s is an address of this machine or of a private network: %w", a, errAddress)
}

// Ranges of IPv6 with IPv4 addresses in them.
var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")
	sixToFour  = netip.MustParsePrefix("2002::/16")
	teredo     = netip.MustParsePrefix("2001::/32")
	compatible = netip.MustParsePrefix("::/96")
	thisHost   = netip.MustParsePrefix("0.0.0.0/8")
)

// embedded is the IPv4 address in an IPv6 address, or the zero Addr.
func embedded(a netip.Addr) netip.Addr {
	b := a.As16()
	switch {
	case !a.Is6():
	case nat64.Contains(a), compatible.Contains(a):
		return netip.AddrFrom4([4]byte(b[12:16]))
	case sixToFour.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return netip.Addr{}
}

// inside reports whether an address can be one of a private network. A name that was
// allowed there must not lead to this machine itself, to a cloud's service for its
// machines, or through a translator to either; for that the address has to be named.
func inside(a netip.Addr) bool {
	for _, p := range []netip.Prefix{nat64, localNAT64, sixToFour, teredo, compatible, thisHost} {
		if p.Contains(a) {
			return false
		}
	}
	return a.IsGlobalUnicast() // not loopback, link-local, multicast, unspecified or broadcast
}

// Check reports whether the rules allow an address of ParseURL, as far as that can be
// said without resolving its name. Errors: *Error of kind Refused.
func (f *Fetcher) Check(u *url.URL) error {
	rules, host := f.o.Rules(), u.Hostname()
	refuse := func(msg string) error { return &Error{Kind: Refused, Msg: msg} }
	switch {
	case rules.Deny.Has(host) || !rules.Allow.Empty() && !rules.Allow.Has(host):
		return refuse("This server makes no previews of pages of this host.")
	case !rules.port(portOf(u)):
		return refuse("This server makes no previews of pages at this port.")
	}
	if a, err := netip.ParseAddr(host); err == nil {
		if err := f.mayDial(rules, host, netip.AddrPortFrom(a, uint16(portOf(u)))); err != nil {
			return &Error{Kind: Refused, Msg: "This server makes no previews of pages in private networks.", Err: err}
		}
	}
	return nil
}

// get asks for an address and follows redirects. The answer is a success. Errors: *Error.
func (f *Fetcher) get(ctx context.Context, u *url.URL, lang, accept string) (*http.Response, error) {
	for n := 0; ; n++ {
		if err := f.Check(u); err != nil {
			return nil, err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return nil, fail(Redirects, err)
		}
		req.Header.Set("User-Agent", agent)
		req.Header.Set("Accept", accept)
		req.Header.Set("Accept-Encoding", "gzip")
		if lang != "" {
			req.Header.Set("Accept-Language", acceptLanguage(lang))
		}
		resp, err := f.client.RoundTrip(req) // of one hop; there are no cookies
		switch {
		case err != nil && isTimeout(ctx, err):
			return nil, fail(Slow, err)
		case err != nil:
			return nil, fail(Unreachable, err)
		}
		resp.Request = req
		switch resp.StatusCode {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
			resp.Body.Close()
			if n == maxRedirects {
				return nil, fail(Redirects, fmt.Errorf("more than %d redirects", maxRedirects))
			}
			to, err := u.Parse(resp.Header.Get("Location"))
			if err == nil {
				u, err = ParseURL(to.String())
			}
			if err != nil {
				return nil, fail(Redirects, err)
			}
			continue
		}
		if resp.StatusCode < 200 || resp.StatusCode > 299 {
			resp.Body.Close()
			return nil, fail(BadStatus, errors.New(resp.Status))
		}
		return resp, nil
	}
}

// acceptLanguage asks for a language, also of another region.
func acceptLanguage(lang string) string {
	if base, _, ok := strings.Cut(lang, "-"); ok {
		return lang + "," + base + ";q=0.9,*;q=0.5"
	}
	return lang + ",*;q=0.5"
}

func isTimeout(ctx context.Context, err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// unpacked is an answer's body: at most max bytes as sent, and as many unpacked. What
// is more ends it as io.EOF does, or with an error of gzip.
func unpacked(resp *http.Response, max int64) (io.Reader, error) {
	sent := io.LimitReader(resp.Body, max)
	switch strings.ToLower(strings.TrimSpace(resp.Header.Get("Content-Encoding"))) {
	case "", "identity":
		return sent, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(sent)
		if err != nil {
			return nil, fail(Unreadable, err)
		}
		return io.LimitReader(z, max), nil
	}
	return nil, fail(Unreadable, errors.New("an encoding that was not asked for"))
}

// Page fetches a page. If it is a picture, take gets it, and what take returns is
// returned. A page of another type is an empty Page. Errors: *Error, and those of take.
func (f *Fetcher) Page(ctx context.Context, u *url.URL, lang string, take func(io.Reader) error) (Page, error) {
	timed, stop := context.WithTimeout(ctx, f.patience)
	defer stop()
	resp, err := f.get(timed, u, lang, acceptPage)
	if err != nil {
		return Page{}, err
	}
	defer resp.Body.Close()
	p := Page{URL: resp.Request.URL, MaxAge: maxAge(resp.Header)}
	if resp.StatusCode == http.StatusNoContent {
		return p, nil
	}
	body, err := unpacked(resp, MaxPicture+1)
	if err != nil {
		return Page{}, err
	}
	in := bufio.NewReader(body)
	said := resp.Header.Get("Content-Type")
	kind, _, err := mime.ParseMediaType(said)
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		start, _ := in.Peek(512)
		kind, _, _ = strings.Cut(http.DetectContentType(start), ";")
		said = kind // the encoding that comes with it is a guess
	}
	switch {
	case kind == "text/html" || kind == "application/xhtml+xml":
		err := p.read(io.LimitReader(in, maxPage), said)
		if err != nil && isTimeout(timed, err) && p.empty() {
			return Page{}, fail(Slow, err)
		}
		return p, nil // whatever ended it, this much is known
	case strings.HasPrefix(kind, "image/"):
		p.Picture = true
		return p, take(in)
	}
	return p, nil
}

// Picture fetches a picture and gives it to take, which must read no more than
// MaxPicture bytes. Errors: *Error, and those of take.
func (f *Fetcher) Picture(ctx context.Context, u *url.URL, lang string, take func(io.Reader) error) error {
	resp, err := f.get(ctx, u, lang, acceptPicture)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.ContentLength > MaxPicture {
		return fail(Unreadable, fmt.Errorf("a picture of %d bytes", resp.ContentLength))
	}
	body, err := unpacked(resp, MaxPicture+1)
	if err != nil {
		return err
	}
	return take(body)
}

// maxAge is for how long an answer may be kept, as its host says; 0: it says nothing.
func maxAge(h http.Header) time.Duration {
	for _, part := range strings.Split(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if strings.EqualFold(name, "max-age") {
			if d, err := time.ParseDuration(strings.Trim(value, `"`) + "s"); err == nil && d > 0 {
				return d
			}
		}
	}
	return 0
}
