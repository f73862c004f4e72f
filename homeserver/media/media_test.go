package media_test

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/homeserver/apitest"
	"holdfast/homeserver/media"
	"holdfast/homeserver/mx"
	"holdfast/store/blob"
)

// server is a media service on a store and a folder of its own.
type server struct {
	*apitest.API
	*media.Service
	dir string // of the blobs
}

func serve(t testing.TB, set media.Settings) *server {
	t.Helper()
	return serveWith(t, media.Options{Settings: func() media.Settings { return set }})
}

func serveWith(t testing.TB, o media.Options) *server {
	t.Helper()
	s := &server{dir: t.TempDir()}
	blobs, err := blob.Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	o.DB, o.Blobs, o.ServerName = apitest.DB(t), blobs, apitest.Server
	s.Service = media.New(o)
	s.API = apitest.New(t, s.Routes())
	return s
}

// files counts the blobs on the disk.
func (s *server) files(t testing.TB) (n int) {
	t.Helper()
	err := filepath.WalkDir(s.dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func upload(t testing.TB, c *apitest.Client, name, contentType string, body []byte) (mediaID string) {
	t.Helper()
	a := c.Raw("POST", "/_matrix/media/v3/upload?filename="+url.QueryEscape(name), contentType, bytes.NewReader(body))
	uri, _ := a.JSON(t)["content_uri"].(string)
	id, ok := strings.CutPrefix(uri, "mxc://"+apitest.Server+"/")
	if !ok {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	return id
}

func path(what, id string) string {
	return "/_matrix/client/v1/media/" + what + "/" + apitest.Server + "/" + id
}

func TestUploadAndDownload(t *testing.T) {
	api := serve(t, media.Settings{})
	alice, bob := api.As("alice", "A"), api.As("bob", "B")
	body := []byte("hello, world")
	id := upload(t, alice, "../my notes.txt", "Text/Plain; charset=utf-8; x=y", body)
	a := bob.OK("GET", path("download", id), nil, nil)
	if !bytes.Equal(a.Body, body) {
		t.Fatalf("%q", a.Body)
	}
	for h, want := range map[string]string{
		"Content-Type":                 "text/plain; charset=utf-8; x=y",
		"Content-Disposition":          `inline; filename="my notes.txt"`,
		"X-Content-Type-Options":       "nosniff",
		"Cross-Origin-Resource-Policy": "cross-origin",
		"Access-Control-Allow-Origin":  "*",
	} {
		if got := a.Header.Get(h); got != want {
			t.Errorf("%s: %q, want %q", h, got, want)
		}
	}
	if !strings.Contains(a.Header.Get("Content-Security-Policy"), "sandbox") {
		t.Error("no sandbox")
	}
	ranged := *bob
	ranged.Header = http.Header{"Range": {"bytes=7-"}}
	if a := ranged.Do("GET", path("download", id), nil); a.Status != http.StatusPartialContent || string(a.Body) != "world" {
		t.Errorf("range: %d %q", a.Status, a.Body)
	}
	ranged.Header = http.Header{"If-None-Match": {a.Header.Get("ETag")}}
	if a := ranged.Do("GET", path("download", id), nil); a.Status != http.StatusNotModified {
		t.Errorf("etag: %d", a.Status)
	}
	if a := bob.OK("GET", path("download", id)+"/r%C3%A9sum%C3%A9.txt", nil, nil); !strings.Contains(a.Header.Get("Content-Disposition"), "utf-8''r%C3%A9sum%C3%A9.txt") {
		t.Errorf("%q", a.Header.Get("Content-Disposition"))
	}
}

func TestWhatABrowserCouldRunIsSaved(t *testing.T) {
	api := serve(t, media.Settings{})
	alice := api.As("alice", "A")
	for sent, want := range map[string][2]string{
		"text/html":              {"text/html", "attachment"},
		"TEXT/HTML; charset=x":   {"text/html; charset=x", "attachment"},
		"image/svg+xml":          {"image/svg+xml", "attachment"},
		"image/png":              {"image/png", "inline"},
		"no type at all":         {"application/octet-stream", "attachment"},
		"":                       {"application/octet-stream", "attachment"},
		"text/html\r\nX-Evil: 1": {"application/octet-stream", "attachment"},
	} {
		id := upload(t, alice, "", sent, []byte("<script>"))
		a := alice.OK("GET", path("download", id), nil, nil)
		if a.Header.Get("Content-Type") != want[0] || a.Header.Get("Content-Disposition") != want[1] {
			t.Errorf("%q: %q %q", sent, a.Header.Get("Content-Type"), a.Header.Get("Content-Disposition"))
		}
	}
}

func TestRefusals(t *testing.T) {
	api := serve(t, media.Settings{MaxUpload: 10, UserQuota: 15, TotalQuota: 25})
	alice, bob := api.As("alice", "A"), api.As("bob", "B")
	up := "/_matrix/media/v3/upload"
	alice.Raw("POST", up, "", strings.NewReader("12345678901")).Want(t, 413, mx.TooLarge)
	alice.Raw("POST", up, "", io.MultiReader(strings.NewReader("123456"), strings.NewReader("78901"))).Want(t, 413, mx.TooLarge) // length not announced
	api.Nobody().Raw("POST", up, "", strings.NewReader("1")).Want(t, 401, mx.MissingToken)
	id := upload(t, alice, "", "", []byte("1234567890"))
	alice.Raw("POST", up, "", strings.NewReader("123456")).Want(t, 403, mx.Forbidden)
	alice.Raw("POST", up, "", io.MultiReader(strings.NewReader("123"), strings.NewReader("456"))).Want(t, 403, mx.Forbidden)
	upload(t, bob, "", "", []byte("1234567890")) // has a quota of his own
	upload(t, bob, "", "", []byte("12345"))
	api.As("carol", "C").Raw("POST", up, "", strings.NewReader("1")).Want(t, 403, mx.Forbidden) // all together
	if n := api.files(t); n != 2 {
		t.Errorf("%d files for two contents", n)
	}
	api.Nobody().Fails("GET", path("download", id), nil, 401, mx.MissingToken)
	bob.Fails("GET", path("download", "none"), nil, 404, mx.NotFound)
	bob.Fails("GET", "/_matrix/client/v1/media/download/other.example/"+id, nil, 404, mx.NotFound)
	bob.Fails("GET", path("thumbnail", id)+"?width=0&height=1", nil, 400, mx.InvalidParam)
	bob.Fails("GET", path("thumbnail", id)+"?width=1&height=1&method=x", nil, 400, mx.InvalidParam)
	bob.Fails("GET", path("thumbnail", id)+"?width=1&height=1", nil, 400, mx.Unknown)
	bob.Fails("GET", "/_matrix/client/v1/media/preview_url?url=http://x.example", nil, 403, mx.Forbidden)
	for _, p := range []string{"v3/download/", "r0/thumbnail/", "v1/download/"} { // frozen
		bob.Fails("GET", "/_matrix/media/"+p+apitest.Server+"/"+id+"?width=1&height=1", nil, 404, mx.NotFound)
	}
	for _, p := range []string{"/_matrix/client/v1/media/config", "/_matrix/media/v3/config"} {
		if m := alice.OK("GET", p, nil, nil).JSON(t); m["m.upload.size"] != 10.0 {
			t.Error(p, m)
		}
	}
}

func TestContentThatComesLater(t *testing.T) {
	now := time.Now()
	api := serveWith(t, media.Options{Now: func() time.Time { return now }})
	alice, bob := api.As("alice", "A"), api.As("bob", "B")
	create := func() string {
		m := alice.OK("POST", "/_matrix/media/v1/create", "", nil).JSON(t)
		if m["unused_expires_at"].(float64) <= float64(now.UnixMilli()) {
			t.Error(m)
		}
		return strings.TrimPrefix(m["content_uri"].(string), "mxc://"+apitest.Server+"/")
	}
	id := create()
	put := "/_matrix/media/v3/upload/" + apitest.Server + "/" + id
	bob.Fails("GET", path("download", id)+"?timeout_ms=0", nil, 504, mx.NotYetUploaded)
	bob.Fails("GET", path("download", id)+"?timeout_ms=soon", nil, 400, mx.InvalidParam)
	bob.Raw("PUT", put, "", strings.NewReader("x")).Want(t, 403, mx.Forbidden)
	got := make(chan apitest.Answer)
	go func() { got <- bob.Do("GET", path("download", id), nil) }()
	time.Sleep(20 * time.Millisecond) // likelier to be waiting by now; right either way
	if a := alice.Raw("PUT", put, "text/plain", strings.NewReader("late")); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if a := <-got; a.Status != 200 || string(a.Body) != "late" {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	alice.Raw("PUT", put, "", strings.NewReader("again")).Want(t, 409, mx.CannotOverwriteMedia)
	old := create()
	now = now.Add(25 * time.Hour)
	alice.Raw("PUT", "/_matrix/media/v3/upload/"+apitest.Server+"/"+old, "", strings.NewReader("x")).Want(t, 404, mx.NotFound)
	bob.Fails("GET", path("download", old), nil, 404, mx.NotFound) // at once: nothing will come
	for range 50 {
		create()
	}
	alice.Fails("POST", "/_matrix/media/v1/create", "", 429, mx.LimitExceeded)
}

func picture(w, h int, alpha uint8) image.Image {
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			m.SetNRGBA(x, y, color.NRGBA{uint8(255 * x / w), uint8(255 * y / h), 90, alpha})
		}
	}
	return m
}

func TestThumbnails(t *testing.T) {
	api := serve(t, media.Settings{})
	alice := api.As("alice", "A")
	var asPNG, asJPEG, clear, large, small bytes.Buffer
	png.Encode(&asPNG, picture(1000, 500, 255))
	png.Encode(&clear, picture(1000, 500, 120))
	png.Encode(&small, picture(50, 40, 255))
	png.Encode(&large, image.NewGray(image.Rect(0, 0, 2400, 1800)))
	jpeg.Encode(&asJPEG, picture(1000, 500, 255), nil)
	turned := append([]byte("\xff\xd8\xff\xe1\x00\x22Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"), asJPEG.Bytes()[2:]...)
	for _, c := range []struct {
		name          string
		body          []byte
		query         string
		width, height int
		contentType   string
	}{
		{"scale", asPNG.Bytes(), "width=300&height=200&method=scale", 320, 160, "image/jpeg"},
		{"see-through", clear.Bytes(), "width=300&height=200", 320, 160, "image/png"},
		{"crop", asPNG.Bytes(), "width=90&height=90&method=crop", 96, 96, "image/jpeg"},
		{"jpeg", asJPEG.Bytes(), "width=640&height=480", 640, 320, "image/jpeg"},
		{"turned", turned, "width=640&height=480", 240, 480, "image/jpeg"},
		{"smaller than asked for", small.Bytes(), "width=90&height=90&method=crop", 50, 40, "image/png"},
		{"crop to 2:1", asPNG.Bytes(), "width=64&height=32&method=crop", 96, 48, "image/jpeg"},
		{"crop to 9:16", asPNG.Bytes(), "width=90&height=160&method=crop", 135, 240, "image/jpeg"},
		{"crop to a line", asPNG.Bytes(), "width=400&height=1&method=crop", 480, 10, "image/jpeg"},
		{"crop larger than all sizes", asPNG.Bytes(), "width=1921&height=10&method=crop", 1000, 500, "image/png"},
		{"larger than all sizes", large.Bytes(), "width=1700&height=1300&method=scale", 2400, 1800, "image/png"},
		{"never larger", asPNG.Bytes(), "width=5000&height=5000", 1000, 500, "image/png"},
	} {
		id := upload(t, alice, "p", "image/png", c.body)
		for range 2 { // made, then kept
			a := alice.OK("GET", path("thumbnail", id)+"?"+c.query, nil, nil)
			m, _, err := image.DecodeConfig(bytes.NewReader(a.Body))
			if err != nil || m.Width != c.width || m.Height != c.height || a.Header.Get("Content-Type") != c.contentType {
				t.Errorf("%s: %d x %d %s %v", c.name, m.Width, m.Height, a.Header.Get("Content-Type"), err)
			}
		}
	}
}

func TestBombIsRefused(t *testing.T) {
	api := serve(t, media.Settings{})
	alice := api.As("alice", "A")
	var b bytes.Buffer
	png.Encode(&b, image.NewGray(image.Rect(0, 0, 1, 1)))
	bomb := b.Bytes()
	copy(bomb[16:], []byte{0, 0, 0x3f, 0xff, 0, 0, 0x3f, 0xff}) // 16383 x 16383 pixels
	id := upload(t, alice, "", "image/png", bomb)
	alice.Fails("GET", path("thumbnail", id)+"?width=10&height=10", nil, 400, mx.Unknown)
}

func FuzzUpload(f *testing.F) {
	var p bytes.Buffer
	png.Encode(&p, picture(200, 100, 255))
	f.Add("name.txt", "text/html; charset=utf-8", p.Bytes())
	f.Add("../../x\x00\u202egnp", "image/\xff", []byte("GIF89a"))
	f.Add("", "a/b; c=\"\\\"", []byte("\xff\xd8\xff\xe1\x00\x10Exif\x00\x00II*\x00\x08\x00\x00\x00"))
	api := serve(f, media.Settings{MaxUpload: 1 << 20})
	f.Fuzz(func(t *testing.T, name, contentType string, body []byte) {
		c := api.As("alice", "A").In(t)
		id := upload(t, c, name, contentType, body)
		a := c.OK("GET", path("download", id), nil, nil)
		if !bytes.Equal(a.Body, body) {
			t.Fatal("content differs")
		}
		for _, h := range []string{"Content-Type", "Content-Disposition"} {
			if v := a.Header.Get(h); v == "" || strings.ContainsAny(v, "\r\n\x00") {
				t.Fatalf("%s: %q", h, v)
			}
		}
		if a := c.Do("GET", fmt.Sprintf("%s?width=%d&height=%d", path("thumbnail", id), 32, 32), nil); a.Status != 200 && a.Status != 400 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
	})
}
