package media

import (
	"bytes"
	"errors"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"testing"
)

func FuzzImage(f *testing.F) {
	var a, b, c bytes.Buffer
	m := image.NewNRGBA(image.Rect(0, 0, 40, 30))
	png.Encode(&a, m)
	jpeg.Encode(&b, m, nil)
	gif.Encode(&c, m, nil)
	for _, seed := range [][]byte{a.Bytes(), b.Bytes(), c.Bytes(),
		append([]byte("\xff\xd8\xff\xe1\x00\x22Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"), b.Bytes()[2:]...),
		[]byte("RIFF\x40\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x12\x00\x00\x00\x3b\x00\x00\x1d\x00\x00ANMF\x28\x00\x00\x00\x00\x00\x00\x00\x00\x00\x3b\x00\x00\x1d\x00\x00\x64\x00\x00\x00VP8L\x0e\x00\x00\x00\x2f\x3b\x40\x07\x10\x28\x00\x00\x00\x00\x00\x00\x00\x00")} {
		f.Add(seed, 32, 32, "crop")
		f.Add(seed, 320, 240, "scale")
	}
	f.Fuzz(func(t *testing.T, body []byte, width, height int, method string) {
		if width <= 0 || height <= 0 || width > maxSide || height > maxSide {
			return
		}
		r := bytes.NewReader(body)
		p, err := inspect(r)
		if err != nil {
			if !errors.Is(err, errNoImage) {
				t.Fatal(err)
			}
			return
		}
		if p.decoded > 1<<20 { // the sizes that are refused are tested elsewhere; this is for speed
			return
		}
		w, h := p.upright()
		dw, dh := fit(w, h, width, height, method)
		if dw < 1 || dh < 1 || dw > w || dh > h {
			t.Fatalf("%d x %d of %d x %d", dw, dh, w, h)
		}
		var out bytes.Buffer
		if _, err := render(&out, r, p, dw, dh); err != nil {
			if !errors.Is(err, errNoImage) && !errors.Is(err, errTooBig) {
				t.Fatal(err)
			}
			return
		}
		c, _, err := image.DecodeConfig(io.Reader(&out))
		if err != nil || c.Width != dw || c.Height != dh {
			t.Fatalf("%d x %d, want %d x %d: %v", c.Width, c.Height, dw, dh, err)
		}
	})
}

func TestTurns(t *testing.T) {
	src := image.NewRGBA(image.Rect(0, 0, 3, 2))
	src.Pix[0] = 1 // at the upper left
	for turn, want := range map[int]image.Point{1: {0, 0}, 2: {2, 0}, 3: {2, 1}, 4: {0, 1}, 5: {0, 0}, 6: {1, 0}, 7: {1, 2}, 8: {0, 2}} {
		got := rotate(src, turn)
		if got.RGBAAt(want.X, want.Y).R != 1 {
			t.Errorf("%d: not at %v", turn, want)
		}
	}
}
