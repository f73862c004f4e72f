package media_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "golang.org/x/image/webp" // thumbnails are looked at

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

// gifs is an animated GIF: a red frame, then a blue one.
func gifs(w, h, frames int) []byte {
	g := &gif.GIF{}
	for i := range frames {
		m := image.NewPaletted(image.Rect(0, 0, w, h), color.Palette{color.RGBA{255, 0, 0, 255}, color.RGBA{0, 0, 255, 255}})
		for p := range m.Pix {
			m.Pix[p] = uint8(i % 2)
		}
		g.Image, g.Delay = append(g.Image, m), append(g.Delay, 10)
	}
	var b bytes.Buffer
	if err := gif.EncodeAll(&b, g); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// apng says of a PNG that it has two frames.
func apng(w, h int) []byte {
	var b bytes.Buffer
	png.Encode(&b, picture(w, h, 255))
	chunk := append([]byte("\x00\x00\x00\x08acTL\x00\x00\x00\x02\x00\x00\x00\x00"), 0, 0, 0, 0)
	binary.BigEndian.PutUint32(chunk[16:], crc32.ChecksumIEEE(chunk[4:16]))
	const afterHeader = 8 + 25
	return slices.Concat(b.Bytes()[:afterHeader], chunk, b.Bytes()[afterHeader:])
}

// vp8l is a lossless WebP picture of one colour, without its container.
func vp8l(w, h int, c color.NRGBA) []byte {
	var bits, n uint64
	out := []byte{0x2f}
	put := func(v uint64, width uint64) {
		bits |= v << n
		for n += width; n >= 8; n -= 8 {
			out = append(out, byte(bits))
			bits >>= 8
		}
	}
	put(uint64(w-1), 14)
	put(uint64(h-1), 14)
	put(1, 1) // alpha
	put(0, 3) // version
	put(0, 3) // no transform, no colour cache, no groups of codes
	for _, v := range []uint8{c.G, c.R, c.B, c.A} {
		put(0b101, 3) // a simple code with one symbol of eight bits
		put(uint64(v), 8)
	}
	put(0b0001, 4) // of distances: one symbol of one bit
	put(0, 7)      // to the byte
	if len(out)%2 == 1 {
		out = append(out, 0)
	}
	return out
}

func riff(name string, body ...[]byte) []byte {
	b := slices.Concat(body...)
	return slices.Concat([]byte(name), binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b)
}

func le24(n int) []byte { return []byte{byte(n), byte(n >> 8), byte(n >> 16)} }

func still(w, h int, c color.NRGBA) []byte {
	return riff("RIFF", []byte("WEBP"), riff("VP8L", vp8l(w, h, c)))
}

// webps is an animated WebP whose first frame leaves 20 pixels free at the left.
func webps(w, h int) []byte {
	frame := func(x int, c color.NRGBA) []byte {
		return riff("ANMF", le24(x/2), le24(0), le24(w-x-1), le24(h-1), le24(100), []byte{0}, riff("VP8L", vp8l(w-x, h, c)))
	}
	return riff("RIFF", []byte("WEBP"), riff("VP8X", []byte{0x12, 0, 0, 0}, le24(w-1), le24(h-1)), riff("ANIM", make([]byte, 6)),
		frame(20, color.NRGBA{0, 200, 0, 255}), frame(0, color.NRGBA{0, 0, 200, 255}))
}

func TestAnimatedImages(t *testing.T) {
	api := serve(t, media.Settings{})
	alice := api.As("alice", "A")
	for _, c := range []struct {
		name string
		body []byte
		kind string
		at   image.Point // of the still picture
		want color.NRGBA
	}{
		{"gif", gifs(400, 200, 2), "image/gif", image.Pt(5, 5), color.NRGBA{254, 0, 0, 255}},
		{"apng", apng(400, 200), "image/png", image.Pt(0, 0), color.NRGBA{0, 0, 90, 255}},
		{"webp", webps(400, 200), "image/webp", image.Pt(300, 5), color.NRGBA{0, 200, 0, 255}},
	} {
		id := upload(t, alice, "p", "application/octet-stream", c.body)
		for _, size := range []string{"width=96&height=96&method=crop", "width=320&height=240", "width=800&height=600"} {
			a := alice.OK("GET", path("thumbnail", id)+"?animated=true&"+size, nil, nil)
			if !bytes.Equal(a.Body, c.body) || a.Header.Get("Content-Type") != c.kind || !strings.HasPrefix(a.Header.Get("Content-Disposition"), "inline") {
				t.Errorf("%s %s: the animation was changed: %v", c.name, size, a.Header)
			}
			for _, no := range []string{"", "&animated=false"} {
				a := alice.OK("GET", path("thumbnail", id)+"?"+size+no, nil, nil)
				m, kind, err := image.Decode(bytes.NewReader(a.Body))
				if err != nil || "image/"+kind != a.Header.Get("Content-Type") || bytes.Equal(a.Body, c.body) || m.Bounds().Dx() > 400 {
					t.Errorf("%s %s: %s %v", c.name, size+no, a.Header, err)
				} else if size == "width=800&height=600" {
					got := color.NRGBAModel.Convert(m.At(c.at.X, c.at.Y)).(color.NRGBA)
					for i, d := range []int{int(got.R) - int(c.want.R), int(got.G) - int(c.want.G), int(got.B) - int(c.want.B)} {
						if d < -12 || d > 12 {
							t.Errorf("%s: colour %v at %v, want %v (%d)", c.name, got, c.at, c.want, i)
						}
					}
					if _, _, _, alpha := m.At(5, 5).RGBA(); c.name == "webp" && alpha != 0 {
						t.Error("webp: what the frame leaves free is not see-through")
					}
				}
			}
		}
	}
	// What has one frame is no animation.
	for kind, body := range map[string][]byte{"image/gif": gifs(50, 40, 1), "image/webp": still(50, 40, color.NRGBA{1, 2, 3, 255})} {
		id := upload(t, alice, "p", "image/jpeg", body)
		a := alice.OK("GET", path("thumbnail", id)+"?animated=true&width=96&height=96", nil, nil)
		if !bytes.Equal(a.Body, body) || a.Header.Get("Content-Type") != kind {
			t.Errorf("%s: %v", kind, a.Header)
		}
		a = alice.OK("GET", path("thumbnail", id)+"?animated=true&width=32&height=32&method=crop", nil, nil)
		if m, _, err := image.DecodeConfig(bytes.NewReader(a.Body)); err != nil || m.Width != 32 || m.Height != 32 {
			t.Errorf("%s: %v %v", kind, m, err)
		}
	}
	id := upload(t, alice, "p", "", gifs(50, 40, 1))
	alice.Fails("GET", path("thumbnail", id)+"?animated=maybe&width=32&height=32", nil, 400, mx.InvalidParam)
}

// A thumbnail is the mean of what it stands for, not some of its pixels.
func TestThumbnailIsTheMean(t *testing.T) {
	api := serve(t, media.Settings{})
	alice := api.As("alice", "A")
	m := image.NewGray(image.Rect(0, 0, 961, 961))
	for y := range 961 {
		for x := range 961 {
			m.SetGray(x, y, color.Gray{uint8(255 * ((x + y) % 2))})
		}
	}
	var b bytes.Buffer
	png.Encode(&b, m)
	a := alice.OK("GET", path("thumbnail", upload(t, alice, "", "image/png", b.Bytes()))+"?width=96&height=96&method=crop", nil, nil)
	got, _, err := image.Decode(bytes.NewReader(a.Body))
	if err != nil {
		t.Fatal(err)
	}
	for y := range 96 {
		for x := range 96 {
			if v := color.GrayModel.Convert(got.At(x, y)).(color.Gray).Y; v < 118 || v > 138 {
				t.Fatalf("%d at %d, %d", v, x, y)
			}
		}
	}
}

func TestImagesThatCannotBeDecoded(t *testing.T) {
	api := serve(t, media.Settings{})
	alice := api.As("alice", "A")
	var b bytes.Buffer
	png.Encode(&b, picture(100, 100, 255))
	sized := func(w, h uint32) []byte { // without the pixels for it
		out := slices.Clone(b.Bytes())
		binary.BigEndian.PutUint32(out[16:], w)
		binary.BigEndian.PutUint32(out[20:], h)
		binary.BigEndian.PutUint32(out[29:], crc32.ChecksumIEEE(out[12:29]))
		return out
	}
	broken := slices.Clone(b.Bytes())
	copy(broken[60:], "no longer deflated")
	bigFrame := webps(400, 200)
	copy(bigFrame[bytes.Index(bigFrame, []byte("ANMF"))+8+6:], "\xff\xff\xff\xff\xff\xff")
	for _, c := range []struct {
		name   string
		body   []byte
		status int
		code   mx.Code
	}{
		{"many pixels", sized(16383, 16383), 413, mx.TooLarge},
		{"a long side", sized(1<<20, 1), 413, mx.TooLarge},
		{"sixteen bits", still(16384, 16384, color.NRGBA{}), 413, mx.TooLarge},
		{"a large frame", bigFrame, 413, mx.TooLarge},
		{"broken", broken, 400, mx.Unknown},
		{"cut off", b.Bytes()[:200], 400, mx.Unknown},
		{"nothing", nil, 400, mx.Unknown},
		{"text", []byte("just text"), 400, mx.Unknown},
		{"svg", []byte(`<svg xmlns="http://www.w3.org/2000/svg"/>`), 400, mx.Unknown},
		{"webp without frames", riff("RIFF", []byte("WEBP"), riff("VP8X", []byte{2, 0, 0, 0}, le24(99), le24(99))), 400, mx.Unknown},
	} {
		id := upload(t, alice, "", "image/png", c.body)
		for range 2 { // tried, then remembered
			a := alice.Do("GET", path("thumbnail", id)+"?width=32&height=32&method=crop", nil)
			if a.Status != c.status || a.JSON(t)["errcode"] != string(c.code) {
				t.Errorf("%s: %d %s", c.name, a.Status, a.Body)
			}
		}
		if a := alice.OK("GET", path("download", id), nil, nil); !bytes.Equal(a.Body, c.body) {
			t.Errorf("%s: the file itself is not served", c.name)
		}
	}
}

func TestRanges(t *testing.T) {
	api := serve(t, media.Settings{})
	alice := api.As("alice", "A")
	id := upload(t, alice, "x.txt", "text/plain", []byte("0123456789"))
	tag := alice.OK("GET", path("download", id), nil, nil).Header.Get("ETag")
	for _, c := range []struct {
		h      http.Header
		status int
		body   string
		rng    string
	}{
		{http.Header{"Range": {"bytes=0-3"}}, 206, "0123", "bytes 0-3/10"},
		{http.Header{"Range": {"bytes=-2"}}, 206, "89", "bytes 8-9/10"},
		{http.Header{"Range": {"bytes=5-100"}}, 206, "56789", "bytes 5-9/10"},
		{http.Header{"Range": {"bytes=5-"}, "If-Range": {tag}}, 206, "56789", "bytes 5-9/10"},
		{http.Header{"Range": {"bytes=5-"}, "If-Range": {`"other"`}}, 200, "0123456789", ""},
		{http.Header{"Range": {"bytes=10-"}}, 416, "", "bytes */10"},
		{http.Header{"Range": {"bytes=x"}}, 416, "", ""},
	} {
		cl := *alice
		cl.Header = c.h
		a := cl.Do("GET", path("download", id), nil)
		if a.Status != c.status || a.Header.Get("Content-Range") != c.rng {
			t.Errorf("%v: %d %v", c.h, a.Status, a.Header)
		}
		if c.status == 416 {
			a.Want(t, 416, mx.InvalidParam)
			if a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Content-Disposition") != "" {
				t.Errorf("%v", a.Header)
			}
		} else if string(a.Body) != c.body || a.Header.Get("Accept-Ranges") != "bytes" {
			t.Errorf("%v: %q", c.h, a.Body)
		}
	}
}

// What was uploaded before the freeze is served without a token, what came after is not.
func TestFrozenPaths(t *testing.T) {
	now := time.Now()
	set := media.Settings{OpenBefore: now.Add(1000 * time.Hour)}
	api := serveWith(t, media.Options{Now: func() time.Time { return now }, Settings: func() media.Settings { return set }})
	alice, nobody := api.As("alice", "A"), api.Nobody()
	var pic bytes.Buffer
	png.Encode(&pic, picture(100, 100, 255))
	before := upload(t, alice, "p.png", "image/png", pic.Bytes())
	m := alice.OK("POST", "/_matrix/media/v1/create", "", nil).JSON(t)
	_, announced, _ := strings.Cut(m["content_uri"].(string), apitest.Server+"/")
	now = now.Add(time.Second)
	set.OpenBefore = now
	now = now.Add(time.Second)
	after := upload(t, alice, "p.png", "image/png", pic.Bytes())
	if a := alice.Raw("PUT", "/_matrix/media/v3/upload/"+apitest.Server+"/"+announced, "image/png", &pic); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	for _, v := range []string{"v3", "r0", "v1"} {
		for _, id := range []string{before, after, announced} {
			for _, p := range []string{"download/" + apitest.Server + "/" + id + "?allow_remote=false", "download/" + apitest.Server + "/" + id + "/x.png", "thumbnail/" + apitest.Server + "/" + id + "?width=32&height=32&method=crop"} {
				a := nobody.Do("GET", "/_matrix/media/"+v+"/"+p, nil)
				if id == before && (a.Status != 200 || !strings.HasPrefix(a.Header.Get("Content-Disposition"), "inline")) {
					t.Errorf("%s: %d %s", p, a.Status, a.Body)
				}
				if id != before {
					a.Want(t, 404, mx.NotFound)
				}
			}
		}
	}
	for _, id := range []string{before, after, announced} {
		alice.OK("GET", path("download", id), nil, nil)
	}
}

// What was announced expires when it was said to, also in a server that started since.
func TestAnnouncedUploadsExpireOverARestart(t *testing.T) {
	now := time.Now()
	db, dir := apitest.DB(t), t.TempDir()
	start := func() *apitest.API {
		blobs, err := blob.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		return apitest.New(t, media.New(media.Options{DB: db, Blobs: blobs, ServerName: apitest.Server, Now: func() time.Time { return now }}).Routes())
	}
	create := func(api *apitest.API) string {
		m := api.As("alice", "A").OK("POST", "/_matrix/media/v1/create", "", nil).JSON(t)
		if m["unused_expires_at"] != float64(now.Add(24*time.Hour).UnixMilli()) {
			t.Error(m)
		}
		_, id, _ := strings.Cut(m["content_uri"].(string), apitest.Server+"/")
		return "/_matrix/media/v3/upload/" + apitest.Server + "/" + id
	}
	api := start()
	early := create(api)
	now = now.Add(time.Hour)
	late := create(api)
	now = now.Add(23*time.Hour + time.Second)
	api = start()
	alice := api.As("alice", "A")
	alice.Raw("PUT", early, "", strings.NewReader("x")).Want(t, 404, mx.NotFound)
	if a := alice.Raw("PUT", late, "", strings.NewReader("x")); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

func TestSuspendedUsersUploadNothing(t *testing.T) {
	api := serve(t, media.Settings{})
	id := upload(t, api.As("alice", "A"), "", "", []byte("x"))
	alice := api.AsSuspended("alice", "A")
	alice.Raw("POST", "/_matrix/media/v3/upload", "", strings.NewReader("x")).Want(t, 403, mx.UserSuspended)
	alice.Raw("PUT", "/_matrix/media/v3/upload/"+apitest.Server+"/"+id, "", strings.NewReader("x")).Want(t, 403, mx.UserSuspended)
	alice.Fails("POST", "/_matrix/media/v1/create", nil, 403, mx.UserSuspended)
	alice.OK("GET", path("download", id), nil, nil)
}

// Only the announced length is needed to refuse a file that is too large.
func TestTooLargeIsRefusedBeforeItIsRead(t *testing.T) {
	api := serve(t, media.Settings{MaxUpload: 10})
	body := bytes.NewReader(make([]byte, 11))
	api.As("alice", "A").Raw("POST", "/_matrix/media/v3/upload", "", body).Want(t, 413, mx.TooLarge)
	if body.Len() != 11 {
		t.Errorf("%d bytes were read", 11-body.Len())
	}
}

func TestFileNames(t *testing.T) {
	api := serve(t, media.Settings{})
	alice := api.As("alice", "A")
	for name, want := range map[string]string{
		"plain.txt":               "inline; filename=plain.txt",
		`quo"te\back.txt`:         `inline; filename=back.txt`,
		`quo"te.txt`:              `inline; filename="quo\"te.txt"`,
		"two words.txt":           `inline; filename="two words.txt"`,
		"r\u00e9sum\u00e9.txt":    "inline; filename*=utf-8''r%C3%A9sum%C3%A9.txt",
		"line\r\nX-Evil: 1":       `inline; filename="lineX-Evil: 1"`,
		"\u202etxt.exe":           "inline; filename=txt.exe",
		"":                        "inline",
		strings.Repeat("é", 2000): "inline; filename*=utf-8''" + strings.Repeat("%C3%A9", 127),
	} {
		id := upload(t, alice, name, "text/plain", []byte("x"))
		if got := alice.OK("GET", path("download", id), nil, nil).Header.Get("Content-Disposition"); got != want {
			t.Errorf("%.20q: %q, want %q", name, got, want)
		}
	}
}

func FuzzUpload(f *testing.F) {
	var p bytes.Buffer
	png.Encode(&p, picture(200, 100, 255))
	f.Add("name.txt", "text/html; charset=utf-8", p.Bytes())
	f.Add("../../x\x00\u202egnp", "image/\xff", []byte("GIF89a"))
	f.Add("", "image/gif", gifs(40, 30, 2))
	f.Add("", "image/png", apng(40, 30))
	f.Add("", "image/webp", webps(60, 30))
	f.Add("", "image/webp", still(60, 30, color.NRGBA{1, 2, 3, 4}))
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
		for _, animated := range []bool{false, true} {
			a := c.Do("GET", fmt.Sprintf("%s?width=32&height=32&method=crop&animated=%v", path("thumbnail", id), animated), nil)
			if a.Status != 200 && a.Status != 400 && a.Status != 413 {
				t.Fatalf("%d %s", a.Status, a.Body)
			}
		}
	})
}
