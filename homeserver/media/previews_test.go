package media_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/homeserver/apitest"
	"holdfast/homeserver/media"
	"holdfast/homeserver/media/preview"
	"holdfast/homeserver/mx"
)

const previewPath = "/_matrix/client/v1/media/preview_url?url="

// site is a host whose pages are previewed, and a media service that may fetch them.
type site struct {
	*server
	*httptest.Server
	set  media.Settings
	mu   sync.Mutex
	now  time.Time
	hits atomic.Int64
}

func (s *site) later(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

func (s *site) change(f func(set *media.Settings)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.set)
}

func newSite(t testing.TB, h http.HandlerFunc) *site {
	t.Helper()
	s := &site{now: time.UnixMilli(1_800_000_000_000)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.hits.Add(1)
		h(w, r)
	}))
	t.Cleanup(s.Server.Close)
	u, _ := url.Parse(s.URL)
	var port int
	fmt.Sscan(u.Port(), &port)
	// As an administrator would allow an intranet.
	private, err := preview.ParseHosts([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	s.set.Previews = media.Previews{On: true, Rules: preview.Rules{Private: private, Ports: []int{port}}}
	s.server = serveWith(t, media.Options{
		Settings: func() media.Settings { s.mu.Lock(); defer s.mu.Unlock(); return s.set },
		Now:      func() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return s.now },
	})
	t.Cleanup(s.Service.Close)
	return s
}

func (s *site) ask(path string) string { return previewPath + url.QueryEscape(s.Server.URL+path) }

func pngOf(w, h int) []byte {
	var b bytes.Buffer
	png.Encode(&b, picture(w, h, 255))
	return b.Bytes()
}

func withPicture(w http.ResponseWriter, src string) {
	w.Header().Set("Content-Type", "text/html")
	fmt.Fprintf(w, `<title>T</title><meta property="og:image" content=%q>`, src)
}

func TestPreview(t *testing.T) {
	pic := pngOf(120, 60)
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/pic":
			w.Header().Set("Content-Type", "application/x-lie")
			w.Write(pic)
		default:
			withPicture(w, "/pic")
		}
	})
	alice, bob := s.As("alice", "A"), s.As("bob", "B")
	var p struct {
		Title  string `json:"og:title"`
		URL    string `json:"og:url"`
		Image  string `json:"og:image"`
		Type   string `json:"og:image:type"`
		Width  int    `json:"og:image:width"`
		Height int    `json:"og:image:height"`
		Size   int    `json:"matrix:image:size"`
	}
	alice.OK("GET", s.ask("/a"), nil, &p)
	if p.Title != "T" || p.URL != s.URL+"/a" || p.Type != "image/png" || p.Width != 120 || p.Height != 60 || p.Size != len(pic) {
		t.Errorf("%+v", p)
	}
	id, ok := strings.CutPrefix(p.Image, "mxc://"+apitest.Server+"/")
	if !ok {
		t.Fatal(p.Image)
	}
	a := bob.OK("GET", path("download", id), nil, nil)
	if !bytes.Equal(a.Body, pic) || a.Header.Get("Content-Type") != "image/png" {
		t.Errorf("%q", a.Header)
	}
	bob.OK("GET", path("thumbnail", id)+"?width=32&height=32", nil, nil)
	s.Nobody().Fails("GET", path("download", id), nil, 401, mx.MissingToken)
	// The same for another, without asking the host again; also on the older path and
	// however the address is written.
	again := bob.OK("GET", "/_matrix/media/v3/preview_url?ts=99999999999999&url="+url.QueryEscape(strings.ToUpper(s.URL[:4])+s.URL[4:]+"/a#there"), nil, nil)
	if n := s.hits.Load(); n != 2 || !strings.Contains(string(again.Body), p.Image) {
		t.Errorf("%d hits, %s", n, again.Body)
	}
	// In another language it is another page.
	german := *bob
	german.Header = http.Header{"Accept-Language": {"de-AT,de;q=0.9"}}
	german.OK("GET", s.ask("/a"), nil, nil)
	german.OK("GET", s.ask("/a"), nil, nil)
	if n := s.hits.Load(); n != 4 {
		t.Errorf("%d hits", n)
	}
	// It is nobody's file.
	if _, total, err := s.Usage(context.Background(), media.UsageQuery{Limit: 10}); err != nil || total != 0 {
		t.Error(total, err)
	}
}

func TestPreviewOfAPicture(t *testing.T) {
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "image/jpeg")
		w.Write(gifs(64, 64, 2))
	})
	var p map[string]any
	s.As("alice", "A").OK("GET", s.ask("/my%20cat.gif"), nil, &p)
	if p["og:title"] != "my cat.gif" || p["og:image:type"] != "image/gif" || p["og:image:width"] != 64.0 || s.hits.Load() != 1 {
		t.Error(p, s.hits.Load())
	}
}

// Pictures that are refused: the preview does without, and nothing stays on the disk.
func TestPreviewsWithoutPictures(t *testing.T) {
	bomb := pngOf(100, 100) // says it is 50,000 pixels wide and high
	binary.BigEndian.PutUint32(bomb[16:], 50_000)
	binary.BigEndian.PutUint32(bomb[20:], 50_000)
	binary.BigEndian.PutUint32(bomb[29:], crc32.ChecksumIEEE(bomb[12:29]))
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if page, ok := strings.CutPrefix(r.URL.Path, "/page/"); ok {
			withPicture(w, "/"+page)
			return
		}
		w.Header().Set("Content-Type", "image/png")
		switch r.URL.Path {
		case "/bomb":
			w.Write(bomb)
		case "/svg":
			w.Header().Set("Content-Type", "image/svg+xml")
			io.WriteString(w, `<svg xmlns="http://www.w3.org/2000/svg" width="100" height="100"><script>alert(1)</script></svg>`)
		case "/html":
			io.WriteString(w, "<html><script>alert(1)</script></html>")
		case "/pixel":
			w.Write(pngOf(1, 1))
		case "/large":
			w.Write(pngOf(100, 100))
			w.Write(make([]byte, preview.MaxPicture))
		case "/short": // ends before it said it would
			w.Header().Set("Content-Length", "100000")
			w.Write(pngOf(100, 100))
		case "/away":
			http.Redirect(w, r, "http://169.254.169.254/x.png", http.StatusFound)
		case "/gone":
			w.WriteHeader(http.StatusGone)
		}
	})
	alice := s.As("alice", "A")
	for _, what := range []string{"bomb", "svg", "html", "pixel", "large", "short", "away", "gone"} {
		for _, where := range []string{"/page/" + what, "/" + what} {
			a := alice.Do("GET", s.ask(where), nil)
			if strings.Contains(string(a.Body), "og:image") || where != "/"+what && (a.Status != 200 || a.JSON(t)["og:title"] != "T") || a.Status >= 500 {
				t.Errorf("%s: %d %s", where, a.Status, a.Body)
			}
		}
	}
	if n := s.files(t); n != 0 {
		t.Errorf("%d files stayed", n)
	}
}

func TestPreviewRefusals(t *testing.T) {
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) })
	alice := s.As("alice", "A")
	for query, want := range map[string]mx.Code{
		"":                          mx.MissingParam,
		"url=":                      mx.MissingParam,
		"url=%zz":                   mx.MissingParam,
		"url=x.example":             mx.InvalidParam,
		"url=ftp://x.example/":      mx.InvalidParam,
		"url=http://a:b@x.example/": mx.InvalidParam,
		"url=http://x.example/%00":  mx.InvalidParam,
		"url=http://x.example/%ff":  mx.InvalidParam,
		"url=http://x.example/%0a":  mx.InvalidParam,
		"url=http://2130706433/":    mx.InvalidParam,
		"url=http://x.example/" + strings.Repeat("x", 5000): mx.InvalidParam,
		"url=http://1.1.1.1/&ts=x":                          mx.InvalidParam,
		"url=http://1.1.1.1/&ts=-1":                         mx.InvalidParam,
		"url=http://10.0.0.1/":                              mx.Forbidden,
		"url=http://169.254.169.254/":                       mx.Forbidden,
		"url=http://[::1]/":                                 mx.Forbidden,
		"url=http://x.example:25/":                          mx.Forbidden,
		"url=" + s.URL + "/":                                mx.NotFound,
	} {
		status := map[mx.Code]int{mx.MissingParam: 400, mx.InvalidParam: 400, mx.Forbidden: 403, mx.NotFound: 404}[want]
		alice.Fails("GET", "/_matrix/client/v1/media/preview_url?"+query, nil, status, want)
	}
	s.Nobody().Fails("GET", s.ask("/"), nil, 401, mx.MissingToken)
	// A failure is remembered for a while, or until the rules change.
	hits := s.hits.Load()
	alice.Fails("GET", s.ask("/"), nil, 404, mx.NotFound)
	if s.hits.Load() != hits {
		t.Error("asked again at once")
	}
	s.later(11 * time.Minute)
	alice.Fails("GET", s.ask("/"), nil, 404, mx.NotFound)
	if s.hits.Load() != hits+1 {
		t.Error("not asked again")
	}
	if err := s.PreviewsChanged(t.Context()); err != nil {
		t.Fatal(err)
	}
	alice.Fails("GET", s.ask("/"), nil, 404, mx.NotFound)
	if s.hits.Load() != hits+2 {
		t.Error("not forgotten")
	}
	s.change(func(set *media.Settings) { set.Previews.Rules.Deny, _ = preview.ParseHosts([]string{"127.0.0.1"}) })
	alice.Fails("GET", s.ask("/"), nil, 403, mx.Forbidden)
	s.change(func(set *media.Settings) { set.Previews.On = false })
	alice.Fails("GET", s.ask("/"), nil, 403, mx.Forbidden)
	alice.Fails("GET", "/_matrix/client/v1/media/preview_url", nil, 403, mx.Forbidden)
	if s.PreviewsOn() {
		t.Error("on")
	}
}

func TestPreviewsExpire(t *testing.T) {
	var version atomic.Int64
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/pic" {
			w.Write(pngOf(40+int(version.Load()), 40))
			return
		}
		w.Header().Set("Cache-Control", "max-age=5") // an hour it holds at least
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<title>v%d</title><meta property="og:image" content="/pic">`, version.Load())
	})
	alice := s.As("alice", "A")
	ask := func(params string) (title, image string) {
		t.Helper()
		m := alice.OK("GET", s.ask("/")+params, nil, nil).JSON(t)
		title, _ = m["og:title"].(string)
		image, _ = m["og:image"].(string)
		return title, strings.TrimPrefix(image, "mxc://"+apitest.Server+"/")
	}
	first := s.now.UnixMilli()
	_, old := ask("")
	version.Store(1)
	s.later(50 * time.Minute)
	if title, _ := ask(""); title != "v0" {
		t.Error(title)
	}
	s.later(20 * time.Minute)
	title, image := ask("")
	if title != "v1" || image == old {
		t.Error(title)
	}
	if title, _ := ask(fmt.Sprintf("&ts=%d", first+1000)); title != "v0" { // as it was then
		t.Error(title)
	}
	if title, _ := ask(fmt.Sprintf("&ts=%d", first-1000)); title != "v1" { // nothing is known of then
		t.Error(title)
	}
	if err := s.Expire(t.Context()); err != nil || s.files(t) != 2 {
		t.Error(err, s.files(t))
	}
	s.later(7*24*time.Hour - 5*time.Minute) // the first is old now, the second not yet
	if err := s.Expire(t.Context()); err != nil || s.files(t) != 1 {
		t.Error(err, s.files(t))
	}
	alice.Fails("GET", path("download", old), nil, 404, mx.NotFound)
	alice.OK("GET", path("download", image), nil, nil)
	// Turned off, nothing tells what people read.
	s.change(func(set *media.Settings) { set.Previews.On = false })
	if err := s.PreviewsChanged(t.Context()); err != nil || s.files(t) != 0 {
		t.Error(err, s.files(t))
	}
	alice.Fails("GET", path("download", image), nil, 404, mx.NotFound)
	s.change(func(set *media.Settings) { set.Previews.On = true })
	hits := s.hits.Load()
	if ask(fmt.Sprintf("&ts=%d", first+1000)); s.hits.Load() != hits+2 {
		t.Error("something was kept")
	}
}

func TestPreviewPicturesInQuarantine(t *testing.T) {
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/pic" {
			w.Write(pngOf(50, 50))
			return
		}
		withPicture(w, "/pic")
	})
	alice := s.As("alice", "A")
	m := alice.OK("GET", s.ask("/"), nil, nil).JSON(t)
	id := strings.TrimPrefix(m["og:image"].(string), "mxc://"+apitest.Server+"/")
	if n, err := s.Quarantine(t.Context(), id, "@admin:"+apitest.Server, true); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	for _, where := range []string{"/", "/other"} { // what is known, and what comes anew
		m := alice.OK("GET", s.ask(where), nil, nil).JSON(t)
		if m["og:title"] != "T" || len(m) != 2 {
			t.Errorf("%s: %v", where, m)
		}
	}
	// An administrator deletes it: then it is as if nobody had asked.
	if _, err := s.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	hits := s.hits.Load()
	if m := alice.OK("GET", s.ask("/"), nil, nil).JSON(t); m["og:title"] != "T" || m["og:image"] != nil || s.hits.Load() != hits+2 {
		t.Error(m, s.hits.Load()-hits)
	}
}

func TestPreviewsTakeBoundedSpace(t *testing.T) {
	pic := append(pngOf(50, 50), make([]byte, 10_000)...)
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if n, ok := strings.CutPrefix(r.URL.Path, "/pic"); ok {
			w.Write(append(pic[:len(pic):len(pic)], n...))
			return
		}
		withPicture(w, "/pic"+r.URL.Path[1:])
	})
	s.change(func(set *media.Settings) {
		set.Previews.Space, set.UserQuota, set.TotalQuota = int64(3*len(pic)+10), 100, 100
	})
	alice := s.As("alice", "A")
	for i := range 8 {
		if m := alice.OK("GET", s.ask(fmt.Sprintf("/%d", i)), nil, nil).JSON(t); m["og:image"] == nil {
			t.Error(m)
		}
		s.later(time.Second)
	}
	if n := s.files(t); n != 3 {
		t.Errorf("%d files", n)
	}
	upload(t, alice, "", "", make([]byte, 100)) // the quotas are people's
	s.change(func(set *media.Settings) { set.Previews.Space = int64(len(pic) + 10) })
	if err := s.PreviewsChanged(t.Context()); err != nil || s.files(t) != 2 {
		t.Error(err, s.files(t))
	}
	if a := alice.OK("GET", s.ask("/7"), nil, nil).JSON(t); a["og:image"] == nil { // the newest stayed
		t.Error(a)
	}
}

// Many who ask for a page at once have it fetched once, and one user's pages are
// fetched a few at a time.
func TestPreviewsAtOnce(t *testing.T) {
	var running, most atomic.Int64
	goOn := make(chan struct{})
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		n := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		select {
		case <-goOn:
		case <-r.Context().Done():
		}
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<title>T</title>")
	})
	var wait sync.WaitGroup
	var answered, refused atomic.Int64
	ask := func(c *apitest.Client, path string) {
		wait.Go(func() {
			switch a := c.Do("GET", s.ask(path), nil); a.Status {
			case 200:
				answered.Add(1)
			case 429:
				refused.Add(1)
				a.Want(t, 429, mx.LimitExceeded)
				if a.Header.Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
				close(goOn) // there is one of these
			default:
				t.Errorf("%s: %d %s", path, a.Status, a.Body)
			}
		})
	}
	for i := range 20 {
		ask(s.As(fmt.Sprint("user", i), "A"), "/same")
	}
	for i := range 41 { // the last to come, whichever it is, is one too many
		ask(s.As("alice", "A"), fmt.Sprint("/", i))
	}
	wait.Wait()
	if answered.Load() != 60 || refused.Load() != 1 || s.hits.Load() != 41 || most.Load() > 4 {
		t.Errorf("%d answered, %d refused, %d hits, %d at once", answered.Load(), refused.Load(), s.hits.Load(), most.Load())
	}
}

// A server that ends does not wait for pages, and remembers nothing wrong of them.
func TestPreviewsEnd(t *testing.T) {
	began := make(chan struct{})
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
	})
	done := make(chan apitest.Answer)
	go func() { done <- s.As("alice", "A").Do("GET", s.ask("/"), nil) }()
	<-began
	s.Service.Close()
	if a := <-done; a.Status == 200 || a.Status == 404 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if a := s.As("alice", "A").Do("GET", s.ask("/x"), nil); a.Status == 200 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

func TestTryPreview(t *testing.T) {
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/pic" {
			w.Write(pngOf(50, 40))
			return
		}
		if r.URL.Path == "/bad" {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		withPicture(w, "/pic")
	})
	m, err := s.TryPreview(t.Context(), s.URL)
	if err != nil || m["og:title"] != "T" || m["og:image:width"] != 50 || m["og:image"] != nil || s.files(t) != 0 {
		t.Error(m, err, s.files(t))
	}
	for u, want := range map[string]string{s.URL + "/bad": "502 Bad Gateway", "http://10.0.0.1/": "private", "x": "http or https", "http://x.invalid/": "x.invalid"} {
		if _, err := s.TryPreview(t.Context(), u); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", u, err)
		}
	}
}
