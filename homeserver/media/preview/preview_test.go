package preview

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// network is a small Internet on the loopback interface: a name server, a host that
// counts as one of the Internet, and one that counts as inside.
type network struct {
	*Fetcher
	rules  Rules
	port   string // of both hosts
	inside atomic.Int64
	asked  atomic.Pointer[http.Request] // the last one of the outer host

	mu    sync.Mutex
	names map[string][]string // what a name leads to: at each question the next, the last ever after
}

func newNetwork(t testing.TB, h http.HandlerFunc) *network {
	t.Helper()
	n := &network{names: map[string][]string{"site.example.": {"127.0.0.1"}}}
	outer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.asked.Store(r)
		h(w, r)
	}))
	t.Cleanup(outer.Close)
	at := outer.Listener.Addr().(*net.TCPAddr).AddrPort()
	n.port = fmt.Sprint(at.Port())
	l, err := net.Listen("tcp", "127.0.0.2:"+n.port)
	if err != nil {
		t.Fatal(err)
	}
	inner := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n.inside.Add(1)
		io.WriteString(w, "<title>secret</title>")
	})}}
	inner.Start()
	t.Cleanup(inner.Close)
	n.rules.Ports = []int{int(at.Port())}
	n.Fetcher = New(Options{Rules: func() Rules { return n.rules }, Public: func(a netip.Addr) bool { return false }})
	n.also = func(ap netip.AddrPort) bool { return ap == at }
	n.resolver = n.nameServer(t)
	return n
}

// leads says what a name leads to.
func (n *network) leads(name string, addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[name] = addresses
}

func (n *network) nameServer(t testing.TB) *net.Resolver {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			k, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:k]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			out := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
			n.mu.Lock()
			list := n.names[q.Name.String()]
			if len(list) == 0 {
				out.RCode = dnsmessage.RCodeNameError
			} else if a := netip.MustParseAddr(list[0]); a.Is4() == (q.Type == dnsmessage.TypeA) {
				h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 0}
				var body dnsmessage.ResourceBody = &dnsmessage.AResource{}
				if a.Is4() {
					body = &dnsmessage.AResource{A: a.As4()}
				} else {
					body = &dnsmessage.AAAAResource{AAAA: a.As16()}
				}
				out.Answers = []dnsmessage.Resource{{Header: h, Body: body}}
				if len(list) > 1 {
					n.names[q.Name.String()] = list[1:]
				}
			}
			n.mu.Unlock()
			if b, err := out.Pack(); err == nil {
				c.WriteTo(b, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", c.LocalAddr().String())
	}}
}

// look fetches a page of the small Internet. "PORT" in the address is the port.
func (n *network) look(t testing.TB, address string) (Page, []byte, error) {
	t.Helper()
	u, err := ParseURL(strings.ReplaceAll(address, "PORT", n.port))
	if err != nil {
		return Page{}, nil, err
	}
	if err := n.Check(u); err != nil {
		return Page{}, nil, err
	}
	var pic []byte
	p, err := n.Page(context.Background(), u, "", func(r io.Reader) (err error) {
		pic, err = io.ReadAll(r)
		return err
	})
	return p, pic, err
}

func say(w http.ResponseWriter, s string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	io.WriteString(w, s)
}

func TestPage(t *testing.T) {
	n := newNetwork(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "there?x=1", http.StatusFound)
		default:
			w.Header().Set("Cache-Control", "public, max-age=7200")
			say(w, `<head><meta property="og:title" content="Hello"><meta property="og:image" content="/a.png"></head>`)
		}
	})
	u, _ := ParseURL("http://site.example:" + n.port + "/moved#part")
	p, err := n.Page(context.Background(), u, "pt-BR", nil)
	if err != nil {
		t.Fatal(err)
	}
	if p.Title != "Hello" || p.URL.String() != "http://site.example:"+n.port+"/there?x=1" || p.MaxAge != 2*time.Hour || len(p.Images) != 1 || p.Images[0].String() != "http://site.example:"+n.port+"/a.png" {
		t.Errorf("%+v", p)
	}
	r := n.asked.Load()
	for h, want := range map[string]string{"Accept-Language": "pt-BR,pt;q=0.9,*;q=0.5", "User-Agent": agent, "Referer": "", "Cookie": "", "Authorization": "", "X-Forwarded-For": ""} {
		if got := r.Header.Get(h); got != want {
			t.Errorf("%s: %q, want %q", h, got, want)
		}
	}
	if len(r.Header) != 5 { // and Accept, Accept-Encoding, Connection
		t.Errorf("more is told than has to be: %v", r.Header)
	}
}

func TestNoProxyAndNoCookies(t *testing.T) {
	proxied := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the proxy was asked") }))
	defer proxied.Close()
	t.Setenv("HTTP_PROXY", proxied.URL)
	t.Setenv("http_proxy", proxied.URL)
	n := newNetwork(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Cookie") != "" {
			t.Error("a cookie came back")
		}
		http.SetCookie(w, &http.Cookie{Name: "who", Value: "you"})
		if r.URL.Path == "/" {
			http.Redirect(w, r, "/x", http.StatusFound)
			return
		}
		say(w, "<title>x</title>")
	})
	if p, _, err := n.look(t, "http://site.example:PORT/"); err != nil || p.Title != "x" {
		t.Error(p, err)
	}
}

// What must not be reached is not reached, by whatever way it is tried.
func TestAttacks(t *testing.T) {
	var n *network
	n = newNetwork(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/to":
			w.Header().Set("Location", strings.ReplaceAll(r.URL.Query().Get("u"), "PORT", n.port))
			w.WriteHeader(http.StatusFound)
		case r.URL.Path == "/loop":
			http.Redirect(w, r, "/loop", http.StatusMovedPermanently)
		case strings.HasPrefix(r.URL.Path, "/down/"):
			if k := r.URL.Path[len("/down/"):]; k == "0" {
				say(w, "<title>deep</title>")
			} else {
				http.Redirect(w, r, "/down/"+string(k[0]-1), http.StatusTemporaryRedirect)
			}
		case r.URL.Path == "/error":
			http.Error(w, "<title>x</title>", http.StatusNotFound)
		case r.URL.Path == "/packed":
			w.Header().Set("Content-Encoding", "br")
			say(w, "x")
		case r.URL.Path == "/nogzip":
			w.Header().Set("Content-Encoding", "gzip")
			say(w, "x")
		case r.URL.Path == "/headers":
			for i := range 3000 {
				w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 100))
			}
		case r.URL.Path == "/again":
			http.Redirect(w, r, "http://rebind.example:"+n.port+"/again", http.StatusFound)
		case r.URL.Path == "/hang":
			<-r.Context().Done()
		case r.URL.Path == "/drip":
			w.Header().Set("Content-Type", "text/html")
			for r.Context().Err() == nil {
				io.WriteString(w, "<")
				w.(http.Flusher).Flush()
				time.Sleep(time.Millisecond)
			}
		default:
			say(w, "<title>ok</title>")
		}
	})
	n.patience = 500 * time.Millisecond
	n.leads("inside.example.", "127.0.0.2")
	n.leads("meta.example.", "169.254.169.254")
	n.leads("six.example.", "::ffff:127.0.0.2")
	n.leads("sixlocal.example.", "::1")
	n.leads("nat64.example.", "64:ff9b::7f00:2")
	n.leads("denied.example.", "127.0.0.1")
	n.leads("rebind.example.", "127.0.0.1", "127.0.0.2")
	n.rules.Deny, _ = ParseHosts([]string{"denied.example", "*.bad.example", "203.0.113.0/24"})
	to := func(u string) string { return "http://site.example:PORT/to?u=" + url.QueryEscape(u) }
	for _, c := range []struct {
		address string
		want    Kind
	}{
		// By literal addresses, in all ways to write them.
		{"http://127.0.0.2:PORT/", Refused},
		{"http://[::ffff:127.0.0.2]:PORT/", Refused},
		{"http://[::1]:PORT/", Refused},
		{"http://[::]:PORT/", Refused},
		{"http://[64:ff9b::7f00:2]:PORT/", Refused},
		{"http://[2002:7f00:2::]:PORT/", Refused},
		{"http://[fe80::1%25lo]:PORT/", BadURL},
		{"http://0.0.0.0:PORT/", Refused},
		{"http://169.254.169.254/latest/meta-data/", Refused},
		{"http://10.0.0.1/", Refused},
		{"http://2130706434:PORT/", BadURL},
		{"http://0x7f000002:PORT/", BadURL},
		{"http://0177.0.0.2:PORT/", BadURL},
		{"http://127.2:PORT/", BadURL},
		{"http://127.0.0.2.:PORT/", Refused},
		{"http://１２７.0.0.２:PORT/", Refused},
		{"http://①②⑦.0.0.2:PORT/", Refused},
		// By names.
		{"http://inside.example:PORT/", Unreachable},
		{"http://INSIDE.example.:PORT/", Unreachable},
		{"http://meta.example/", Unreachable},
		{"http://six.example:PORT/", Unreachable},
		{"http://sixlocal.example:PORT/", Unreachable},
		{"http://nat64.example:PORT/", Unreachable},
		{"http://nobody.example:PORT/", Unreachable},
		// By redirects.
		{to("http://127.0.0.2:PORT/"), Refused},
		{to("http://inside.example:PORT/"), Unreachable},
		{to("http://169.254.169.254/"), Refused},
		{to("//127.0.0.2:PORT/"), Refused},
		{to("http://[::ffff:7f00:2]:PORT/"), Refused},
		{to("http://2130706434:PORT/"), Redirects},
		{to("http://user:pass@site.example:PORT/"), Redirects},
		{to("file:///etc/passwd"), Redirects},
		{to("gopher://127.0.0.2:PORT/"), Redirects},
		{to("javascript:alert(1)"), Redirects},
		{to("http://denied.example:PORT/"), Refused},
		{to("http://site.example:22/"), Refused},
		{to(""), Redirects}, // to itself, ever on
		{"http://rebind.example:PORT/again", Unreachable},
		{"http://site.example:PORT/loop", Redirects},
		{"http://site.example:PORT/down/6", Redirects},
		{"http://site.example:PORT/down/5", ""},
		// By the rules.
		{"http://denied.example:PORT/", Refused},
		{"http://x.bad.example:PORT/", Refused},
		{"http://203.0.113.7/", Refused},
		{"http://site.example:22/", Refused},
		{"http://site.example:6379/", Refused},
		// By what comes.
		{"http://site.example:PORT/error", BadStatus},
		{"http://site.example:PORT/packed", Unreadable},
		{"http://site.example:PORT/nogzip", Unreadable},
		{"http://site.example:PORT/headers", Unreachable},
		{"http://site.example:PORT/hang", Slow},
		{"http://site.example:PORT/drip", Slow},
		{"https://site.example:PORT/", Unreachable}, // no TLS there
		{"http://site.example:PORT/", ""},
	} {
		p, _, err := n.look(t, c.address)
		if c.want == "" {
			if err != nil || p.Title == "" {
				t.Errorf("%s: %+v %v", c.address, p, err)
			}
			continue
		}
		var e *Error
		if !errors.As(err, &e) || e.Kind != c.want {
			t.Errorf("%s: %v %+v, want %s", c.address, err, p, c.want)
		}
	}
	if k := n.inside.Load(); k != 0 {
		t.Errorf("the host inside was asked %d times", k)
	}
}

func TestPrivateHosts(t *testing.T) {
	n := newNetwork(t, func(http.ResponseWriter, *http.Request) {})
	n.leads("wiki.example.", "127.0.0.2")
	n.leads("other.example.", "127.0.0.2")
	set := func(list ...string) {
		t.Helper()
		var err error
		if n.rules.Private, err = ParseHosts(list); err != nil {
			t.Fatal(err)
		}
	}
	set("wiki.example") // a name does not open this machine
	if _, _, err := n.look(t, "http://wiki.example:PORT/"); KindOf(err) != Unreachable {
		t.Error(err)
	}
	for _, c := range []struct {
		host, addr string
		want       bool
	}{{"wiki.example", "10.0.0.1", true}, {"wiki.example", "192.168.1.1", true}, {"wiki.example", "100.64.0.1", true}, {"wiki.example", "fd00::1", true}, {"wiki.example", "2a00::1", true},
		{"other.example", "10.0.0.1", false}, {"wiki.example", "169.254.169.254", false}, {"wiki.example", "127.0.0.1", false}, {"wiki.example", "::1", false}, {"wiki.example", "fe80::1", false},
		{"wiki.example", "224.0.0.1", false}, {"wiki.example", "0.0.0.0", false}, {"wiki.example", "64:ff9b::a00:1", false}, {"wiki.example", "2002:a00:1::", false}, {"wiki.example", "::ffff:127.0.0.1", false}} {
		if err := n.mayDial(n.rules, c.host, netip.AddrPortFrom(netip.MustParseAddr(c.addr), 80)); (err == nil) != c.want {
			t.Errorf("%s at %s: %v", c.host, c.addr, err)
		}
	}
	set("127.0.0.0/30") // an address does
	for _, host := range []string{"wiki.example", "127.0.0.2"} {
		if p, _, err := n.look(t, "http://"+host+":PORT/"); err != nil || p.Title != "secret" {
			t.Error(p, err)
		}
	}
	n.rules.Deny, _ = ParseHosts([]string{"127.0.0.2"}) // and what is denied is denied
	if _, _, err := n.look(t, "http://wiki.example:PORT/"); KindOf(err) != Unreachable {
		t.Error(err)
	}
	set()
	n.rules.Deny = Hosts{}
	n.rules.Allow, _ = ParseHosts([]string{"site.example"})
	if _, _, err := n.look(t, "http://other.example:PORT/"); KindOf(err) != Refused {
		t.Error(err)
	}
}

func TestSizes(t *testing.T) {
	var sent atomic.Int64
	endless := func(w io.Writer, r *http.Request, start string) {
		io.WriteString(w, start)
		chunk := bytes.Repeat([]byte("<p>"), 10_000)
		for r.Context().Err() == nil {
			k, err := w.Write(chunk)
			sent.Add(int64(k))
			if err != nil {
				return
			}
		}
	}
	n := newNetwork(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		switch r.URL.Path {
		case "/endless":
			endless(w, r, "<title>endless</title>")
		case "/bomb":
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			endless(z, r, "<title>bomb</title>")
		case "/empty": // members with nothing in them: much to read, nothing to unpack
			w.Header().Set("Content-Encoding", "gzip")
			var one bytes.Buffer
			gzip.NewWriter(&one).Close()
			endless(w, r, strings.Repeat(one.String(), 1000))
		case "/picture":
			w.Header().Set("Content-Type", "image/png")
			endless(w, r, "\x89PNG\r\n\x1a\n")
		case "/deep":
			say(w, "<title>deep</title>"+strings.Repeat("<div>", 300_000)+strings.Repeat("<p a=b c=d", 10_000))
		case "/long":
			say(w, "<title>"+strings.Repeat("é ", 2000)+"</title><meta name=description content='"+strings.Repeat("x", 100_000)+"'>")
		}
	})
	for path, want := range map[string]string{"/endless": "endless", "/bomb": "bomb", "/empty": "", "/deep": "deep"} {
		if p, _, err := n.look(t, "http://site.example:PORT"+path); err != nil || p.Title != want {
			t.Errorf("%s: %+v %v", path, p, err)
		}
	}
	p, _, err := n.look(t, "http://site.example:PORT/long")
	if err != nil || len([]rune(p.Title)) > maxTitle+1 || !strings.HasSuffix(p.Title, "é…") || len([]rune(p.Description)) != maxDescription+1 {
		t.Errorf("%v %d %d", err, len([]rune(p.Title)), len(p.Description))
	}
	p, pic, err := n.look(t, "http://site.example:PORT/picture")
	if err != nil || !p.Picture || len(pic) != MaxPicture+1 { // whoever takes it sees that it is more than it takes
		t.Errorf("%+v %d %v", p, len(pic), err)
	}
	// The sender may be ahead by what the kernel holds.
	if k := sent.Load(); k > 4<<30 {
		t.Errorf("%d bytes were taken", k)
	}
}

func TestTypes(t *testing.T) {
	n := newNetwork(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil
		if ct := r.URL.Query().Get("type"); ct != "" {
			w.Header().Set("Content-Type", ct)
		}
		if r.URL.Path == "/none" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		io.WriteString(w, "<html><title>a p\xe4ge</title>")
	})
	for query, want := range map[string]string{
		"?type=text/html":                       "a päge",
		"?type=TEXT/HTML":                       "a päge",
		"?type=text/html%3Bcharset=iso-8859-1":  "a päge",
		"?type=text/html%3Bcharset=iso-8859-5":  "a pфge",
		"?type=text/html%3Bcharset=nonsense":    "a päge",
		"?type=text/html%3Bcharset=utf-8":       "a pge",
		"?type=application/xhtml%2Bxml":         "a päge",
		"?type=application/pdf":                 "",
		"?type=text/plain":                      "",
		"?type=application/json":                "",
		"?type=application/octet-stream":        "",
		"?type=video/mp4":                       "",
		"":                                      "a päge", // nothing was said: looked at
		"?type=text/html%3Bx":                   "a päge",
		"none?type=text/html":                   "",
		"?type=multipart/mixed%3Bboundary=html": "",
	} {
		p, pic, err := n.look(t, "http://site.example:PORT/"+query)
		if err != nil || p.Title != want || pic != nil || len(p.Properties(false)) > 0 != (want != "") {
			t.Errorf("%s: %+v %v", query, p, err)
		}
	}
}

// Over TLS the certificate has to be the name's.
func TestTLS(t *testing.T) {
	n := newNetwork(t, func(http.ResponseWriter, *http.Request) {})
	site := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { say(w, "<title>"+r.Proto+"</title>") }))
	site.EnableHTTP2 = true
	site.Config.ErrorLog = log.New(io.Discard, "", 0)
	site.StartTLS()
	t.Cleanup(site.Close)
	at := site.Listener.Addr().(*net.TCPAddr).AddrPort()
	n.rules.Ports = append(n.rules.Ports, int(at.Port()))
	n.port = fmt.Sprint(at.Port())
	n.also = func(ap netip.AddrPort) bool { return ap == at }
	n.leads("example.com.", "127.0.0.1") // the certificate's
	n.leads("other.example.", "127.0.0.1")
	if _, _, err := n.look(t, "https://example.com:PORT/"); KindOf(err) != Unreachable {
		t.Errorf("an unknown authority: %v", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(site.Certificate())
	n.client.TLSClientConfig = &tls.Config{RootCAs: roots}
	if p, _, err := n.look(t, "https://example.com:PORT/"); err != nil || p.Title == "" {
		t.Errorf("%+v %v", p, err)
	}
	if _, _, err := n.look(t, "https://other.example:PORT/"); KindOf(err) != Unreachable {
		t.Errorf("another's certificate: %v", err)
	}
}
