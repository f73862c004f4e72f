package unlock

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/image/disk"
)

// clock is a clock that stands still.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// locked is a served page.
type locked struct {
	t        *testing.T
	url      string
	plain    string
	client   *http.Client
	clock    *clock
	log      *bytes.Buffer
	done     chan error
	cancel   func()
	prints   chan string
	mu       sync.Mutex
	guesses  []string
	err      error // other than wrong
	parallel int
}

const right = "RIGHT-RIGHT"

func (l *locked) try(_ context.Context, pass string) error {
	l.mu.Lock()
	l.parallel++
	if l.parallel > 1 {
		l.t.Error("two guesses at once")
	}
	l.guesses = append(l.guesses, pass)
	err := l.err
	l.mu.Unlock()
	defer func() { l.mu.Lock(); l.parallel--; l.mu.Unlock() }()
	if err == nil && pass != right {
		err = fmt.Errorf("%w: and more", disk.ErrWrongPassphrase)
	}
	return err
}

func serve(t *testing.T) *locked {
	t.Helper()
	l := &locked{t: t, clock: &clock{t: time.Unix(1e9, 0)}, log: &bytes.Buffer{}, done: make(chan error, 1), prints: make(chan string, 2)}
	free := func() string {
		c, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.Addr().String()
	}
	addr, plain := free(), free()
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	go func() {
		l.done <- Serve(ctx, Options{Addr: addr, Redirect: plain, Try: l.try, Fingerprint: func(s string) { l.prints <- s },
			Log: slog.New(slog.NewTextHandler(l.log, nil)), now: l.clock.now})
	}()
	print := <-l.prints
	t.Cleanup(cancel)
	l.url, l.plain = "https://"+addr, "http://"+plain
	l.client = &http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
			sum := sha256.Sum256(s.PeerCertificates[0].Raw)
			if got := strings.ReplaceAll(print, ":", ""); got != fmt.Sprintf("%X", sum) {
				return fmt.Errorf("the fingerprint is not the certificate's: %s", got)
			}
			return nil
		}}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(l.client.CloseIdleConnections)
	return l
}

func (l *locked) do(method, path string, header map[string]string, body io.Reader) (*http.Response, string) {
	l.t.Helper()
	at := l.url + path
	if strings.HasPrefix(path, "http:") {
		at = path
	}
	r, err := http.NewRequest(method, at, body)
	if err != nil {
		l.t.Fatal(err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for k, v := range header {
		if k == "Host" {
			r.Host = v
		}
		r.Header.Set(k, v)
	}
	resp, err := l.client.Do(r)
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return resp, string(b)
}

func (l *locked) guess(pass string) (int, string) {
	l.t.Helper()
	resp, b := l.do("POST", "/", nil, strings.NewReader(url.Values{"passphrase": {pass}}.Encode()))
	return resp.StatusCode, b
}

func TestPage(t *testing.T) {
	l := serve(t)
	resp, b := l.do("GET", "/", nil, nil)
	h := resp.Header
	if resp.StatusCode != 200 || !strings.Contains(b, "Recovery passphrase") || !strings.Contains(b, `method="post"`) || strings.Contains(b, "<script") {
		t.Fatal(resp.StatusCode, b)
	}
	if strings.Contains(b, "unlock.") {
		t.Fatal("a text is missing from the catalogue", b)
	}
	if !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") || h.Get("Cache-Control") != "no-store" || h.Get("X-Frame-Options") != "DENY" || h.Get("Server") != "" {
		t.Fatal(h)
	}
	_, style, _ := strings.Cut(b, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	sum := sha256.Sum256([]byte(style))
	if !strings.Contains(style, "--hf-accent") || !strings.Contains(h.Get("Content-Security-Policy"), base64.StdEncoding.EncodeToString(sum[:])) {
		t.Fatal("the style is not the one that the page's policy allows")
	}
	// Programs come again later; people are led to the page.
	if resp, b := l.do("GET", "/_matrix/client/v3/sync", nil, nil); resp.StatusCode != 503 || !strings.Contains(b, "M_UNKNOWN") || resp.Header.Get("Retry-After") == "" {
		t.Fatal(resp.StatusCode, b)
	}
	if resp, _ := l.do("GET", "/console", map[string]string{"Accept": "text/html,*/*"}, nil); resp.StatusCode != 303 || resp.Header.Get("Location") != "/" {
		t.Fatal(resp.StatusCode)
	}
	for host, want := range map[string]string{"10.0.0.7": "https://10.0.0.7:" + l.url[strings.LastIndex(l.url, ":")+1:] + "/", "chat.example": "https://chat.example:", "a<b": "", "evil.test/x": ""} {
		resp, _ := l.do("GET", l.plain+"/x", map[string]string{"Host": host}, nil)
		if got := resp.Header.Get("Location"); want == "" && (resp.StatusCode < 400 || got != "") || !strings.HasPrefix(got, want) {
			t.Fatal(host, resp.StatusCode, got)
		}
	}
	if resp, _ := l.do("POST", l.plain+"/", nil, strings.NewReader("passphrase=x")); resp.StatusCode != http.StatusMisdirectedRequest {
		t.Fatal(resp.StatusCode)
	}
	if len(l.guesses) != 0 {
		t.Fatal(l.guesses)
	}
}

func TestUnlock(t *testing.T) {
	l := serve(t)
	if code, b := l.guess(""); code != 400 || !strings.Contains(b, "Type the passphrase") {
		t.Fatal(code, b)
	}
	if code, b := l.guess("wrong-secret"); code != 403 || !strings.Contains(b, "not the passphrase") || strings.Contains(b, "wrong-secret") {
		t.Fatal(code, b)
	}
	l.mu.Lock()
	l.err = errors.New("the disk is broken at sector 7")
	l.mu.Unlock()
	if code, b := l.guess(right); code != 500 || strings.Contains(b, "sector") {
		t.Fatal(code, b)
	}
	l.mu.Lock()
	l.err = nil
	l.mu.Unlock()
	code, b := l.guess(right)
	if code != 200 || !strings.Contains(b, "is starting") || !strings.Contains(b, `http-equiv="refresh"`) {
		t.Fatal(code, b)
	}
	if err := <-l.done; err != nil {
		t.Fatal(err)
	}
	if print := <-l.prints; print != "" {
		t.Fatal(print)
	}
	if _, err := l.client.Get(l.url); err == nil {
		t.Fatal("it is still served")
	}
	if s := l.log.String(); strings.Contains(s, "wrong-secret") || strings.Contains(s, right) || !strings.Contains(s, "sector 7") || !strings.Contains(s, "127.0.0.1") {
		t.Fatal(s)
	}
}

func TestStops(t *testing.T) {
	l := serve(t)
	l.do("GET", "/", nil, nil)
	l.cancel()
	if err := <-l.done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// TestPortsAreFree stops it as soon as it listens: its servers may not have begun.
func TestPortsAreFree(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	a, b := listen(), listen()
	addrs := []string{a.Addr().String(), b.Addr().String()}
	a.Close()
	b.Close()
	for range 50 {
		err := Serve(ctx, Options{Addr: addrs[0], Redirect: addrs[1], Fingerprint: func(string) {}, Log: slog.New(slog.DiscardHandler)})
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		for _, addr := range addrs {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				t.Fatalf("after the end: %v", err)
			}
			l.Close()
		}
	}
}

func TestForeignForms(t *testing.T) {
	l := serve(t)
	form := func() io.Reader { return strings.NewReader("passphrase=" + right) }
	for _, h := range []map[string]string{{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.test"}} {
		if resp, _ := l.do("POST", "/", h, form()); resp.StatusCode != 403 {
			t.Fatal(h, resp.StatusCode)
		}
	}
	if resp, _ := l.do("GET", "/?passphrase="+right, nil, nil); resp.StatusCode != 200 {
		t.Fatal(resp.StatusCode)
	}
	if resp, _ := l.do("POST", "/?passphrase="+right, nil, strings.NewReader("")); resp.StatusCode != 400 {
		t.Fatal(resp.StatusCode)
	}
	if resp, _ := l.do("POST", "/", nil, strings.NewReader("passphrase="+strings.Repeat("A", 1<<20))); resp.StatusCode != 413 {
		t.Fatal(resp.StatusCode)
	}
	if resp, _ := l.do("GET", "/"+strings.Repeat("a", 40<<10), nil, nil); resp.StatusCode != 431 {
		t.Fatal(resp.StatusCode)
	}
	if len(l.guesses) != 0 {
		t.Fatal(l.guesses)
	}
}

func TestSlowsDown(t *testing.T) {
	l := serve(t)
	for i := range freeGuesses {
		if code, _ := l.guess(fmt.Sprint(i)); code != 403 {
			t.Fatal(i, code)
		}
	}
	wait := 2 * time.Second
	for range 8 {
		if resp, b := l.do("POST", "/", nil, strings.NewReader("passphrase="+right)); resp.StatusCode != 429 || resp.Header.Get("Retry-After") != fmt.Sprint(wait.Seconds()) ||
			!strings.Contains(b, "Seconds to wait: "+fmt.Sprint(wait.Seconds())) {
			t.Fatal(resp.StatusCode, resp.Header, wait)
		}
		l.clock.pass(wait - time.Millisecond)
		if code, _ := l.guess(right); code != 429 {
			t.Fatal(code)
		}
		l.clock.pass(time.Millisecond)
		if code, _ := l.guess("wrong"); code != 403 {
			t.Fatal(code)
		}
		wait = min(2*wait, longestWait)
	}
	l.clock.pass(longestWait)
	if code, _ := l.guess(right); code != 200 {
		t.Fatal(code)
	}
}

func TestGate(t *testing.T) {
	c := &clock{t: time.Unix(1e9, 0)}
	g := newGate(c.now)
	addr := func(i int) netip.Prefix { return address(fmt.Sprintf("10.%d.%d.%d:9", i>>16, i>>8&255, i&255)) }
	guess := func(from netip.Prefix, ok bool) bool {
		leave, _ := g.enter(context.Background(), from)
		if leave == nil {
			return false
		}
		leave(ok)
		return true
	}
	// Many addresses, each wrong once: all together are slowed down, and somebody new is not.
	for i := range allGuesses {
		if !guess(addr(i), false) {
			t.Fatal(i)
		}
	}
	if guess(addr(3), false) {
		t.Fatal("all together are not slowed down")
	}
	if !guess(addr(1000), true) {
		t.Fatal("somebody new has to wait for others")
	}
	c.pass(allPause)
	if !guess(addr(3), false) || guess(addr(4), false) {
		t.Fatal("not one in each pause")
	}
	// Memory has a bound, and those who must wait longest are kept.
	for range 9 {
		c.pass(longestWait)
		guess(addr(5), false)
	}
	for i := range maxRecords + 200 {
		guess(addr(10000+i), false)
	}
	if len(g.by) > maxRecords || g.by[addr(5)] == nil {
		t.Fatal(len(g.by))
	}
	for in, want := range map[string]string{"[2001:db8::1]:5": "2001:db8::/64", "[fe80::1%eth0]:5": "fe80::/64", "[::ffff:10.1.2.3]:5": "10.1.2.3/32", "nonsense": "invalid Prefix"} {
		if got := address(in).String(); got != want {
			t.Error(in, got)
		}
	}
	// Who waits is not many.
	g.turn <- struct{}{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range maxWaiting {
		wg.Go(func() { g.enter(ctx, addr(100000+i)) })
	}
	for {
		g.mu.Lock()
		n := g.waiting
		g.mu.Unlock()
		if n == maxWaiting {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if leave, wait := g.enter(ctx, addr(200000)); leave != nil || wait <= 0 {
		t.Fatal("too many wait")
	}
	cancel()
	wg.Wait()
}

// The page has the product's look.
func TestTokens(t *testing.T) {
	b, err := os.ReadFile("../../web/ui/src/design/tokens.css")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^ +(--hf-[\w-]+: [^;]+;)`)
	light, dark, _ := strings.Cut(string(b), "@media (prefers-color-scheme: dark)")
	ownLight, ownDark, _ := strings.Cut(pageCSS, "@media (prefers-color-scheme: dark)")
	n := 0
	for _, pair := range [][2]string{{ownLight, light}, {ownDark, dark}} {
		for _, m := range line.FindAllStringSubmatch(pair[0], -1) {
			n++
			if !strings.Contains(pair[1], m[1]) {
				t.Errorf("tokens.css has another value than %s", m[1])
			}
		}
	}
	if n < 30 {
		t.Fatal(n)
	}
}
