package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"math"
	"strconv"

	"golang.org/x/image/draw"
	"golang.org/x/image/webp"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// Bounds of decoding: an image is four bytes a pixel in memory.
const (
	maxPixels   = 40 << 20
	maxSide     = 16384
	maxDecoding = 2
)

// Thumbnails are made in these sizes; a request gets the smallest that is at least as
// large, so that nobody can fill the disk by asking for many. Spec: cs#thumbnails
var (
	scaleSizes = [][2]int{{320, 240}, {640, 480}, {800, 600}, {1600, 1200}}
	cropSides  = []int{32, 96, 240, 480, 960, 1920} // of the longer side
)

// cropShapes is how many shapes of a cropped picture there are for each longer side.
// The usual ones, such as 16:9 and 3:2, are met exactly.
const cropShapes = 48

// pickSize is the size to make for a request. What is larger than all sizes gets the
// original: a thumbnail is never smaller than asked for if it need not be.
func pickSize(width, height int, method string) (int, int, string) {
	if method == "crop" {
		longer := max(width, height)
		for _, side := range cropSides {
			if side >= longer {
				shape := func(n int) int { // n of longer, rounded up to a shape
					steps := (n*cropShapes + longer - 1) / longer
					return (steps*side + cropShapes - 1) / cropShapes
				}
				return shape(width), shape(height), method
			}
		}
	} else {
		for _, s := range scaleSizes {
			if s[0] >= width && s[1] >= height {
				return s[0], s[1], method
			}
		}
	}
	return maxSide, maxSide, "scale"
}

// thumbnail serves a smaller picture. Spec: cs#get_matrixclientv1mediathumbnailservernamemediaid
func (s *Service) thumbnail(ctx context.Context, r *route.Request) (any, error) {
	width, err1 := strconv.Atoi(r.Query("width"))
	height, err2 := strconv.Atoi(r.Query("height"))
	if err1 != nil || err2 != nil || width <= 0 || height <= 0 {
		return nil, mx.Errorf(mx.InvalidParam, "width and height must be numbers of pixels above 0.")
	}
	method := r.Query("method")
	switch method {
	case "":
		method = "scale"
	case "scale", "crop":
	default:
		return nil, mx.Errorf(mx.InvalidParam, "method must be scale or crop.")
	}
	m, err := s.find(ctx, r)
	if err != nil {
		return nil, err
	}
	t := thumb{Hash: m.Hash}
	t.Width, t.Height, t.Method = pickSize(min(width, maxSide), min(height, maxSide), method)
	var have bool
	err = s.o.DB.Read(ctx, func(q store.Querier) (err error) {
		t, have, err = loadThumb(q, t)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !have {
		if err := s.makeThumb(ctx, m, &t); err != nil {
			return nil, err
		}
	}
	if t.Blob == m.Hash { // the original is small enough
		return s.content(m.Hash, m.Type, m.Name)
	}
	return s.content(t.Blob, t.Type, "thumbnail")
}

var errNoThumb = errors.New("no thumbnail can be made of this")

func (s *Service) makeThumb(ctx context.Context, m record, t *thumb) error {
	select {
	case s.decode <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.decode }()
	f, err := s.o.Blobs.Open(m.Hash)
	if err != nil {
		return err
	}
	defer f.Close()
	var out bytes.Buffer
	small, contentType, err := render(&out, f, t.Width, t.Height, t.Method)
	switch {
	case errors.Is(err, errNoThumb):
		return &mx.Error{Code: mx.Unknown, Msg: "No thumbnail can be made of this file.", Status: 400, Err: err}
	case err != nil:
		return err
	case small:
		t.Type, t.Blob, t.Size = m.Type, m.Hash, m.Size
	default:
		ref, release, err := s.o.Blobs.Put(ctx, &out, int64(out.Len()))
		if err != nil {
			return err
		}
		defer release()
		t.Type, t.Blob, t.Size = contentType, ref.Hash, ref.Size
	}
	return s.o.DB.Write(ctx, func(tx *store.Tx) error { return insertThumb(tx, *t) })
}

// render writes a thumbnail of the image that r has. small means that the image
// fits as it is and nothing was written. Errors: errNoThumb.
func render(out io.Writer, r io.ReadSeeker, width, height int, method string) (small bool, contentType string, err error) {
	defer func() {
		if p := recover(); p != nil { // decoders of hostile input
			err = fmt.Errorf("%w: %v", errNoThumb, p)
		}
	}()
	cfg, format, err := decodeConfig(r)
	if err != nil {
		return false, "", fmt.Errorf("%w: %w", errNoThumb, err)
	}
	if cfg.Width <= 0 || cfg.Height <= 0 || cfg.Width > maxSide || cfg.Height > maxSide || cfg.Width*cfg.Height > maxPixels {
		return false, "", fmt.Errorf("%w: %d x %d pixels", errNoThumb, cfg.Width, cfg.Height)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return false, "", err
	}
	turn := 1
	if format == "jpeg" {
		if turn, err = orientation(r); err != nil {
			return false, "", err
		}
	}
	w, h := cfg.Width, cfg.Height
	if turn >= 5 {
		w, h = h, w
	}
	dw, dh, crop := fit(w, h, width, height, method)
	if dw >= w && dh >= h && !crop {
		return true, "", nil
	}
	src, err := decodeImage(r, format)
	if err != nil {
		return false, "", fmt.Errorf("%w: %w", errNoThumb, err)
	}
	src = rotate(src, turn)
	area := src.Bounds()
	if crop { // the middle of the picture, in the shape asked for
		cw, ch := area.Dx(), area.Dy()
		if cw*dh > ch*dw {
			cw = max(1, ch*dw/dh)
		} else {
			ch = max(1, cw*dh/dw)
		}
		x, y := area.Min.X+(area.Dx()-cw)/2, area.Min.Y+(area.Dy()-ch)/2
		area = image.Rect(x, y, x+cw, y+ch)
	}
	dst := image.NewNRGBA(image.Rect(0, 0, dw, dh))
	draw.CatmullRom.Scale(dst, dst.Bounds(), src, area, draw.Src, nil)
	if opaque(dst) {
		return false, "image/jpeg", jpeg.Encode(out, dst, &jpeg.Options{Quality: 82})
	}
	return false, "image/png", png.Encode(out, dst)
}

// fit gives the thumbnail's size, never above the original's, and whether the
// picture must be cropped to that shape.
func fit(w, h, width, height int, method string) (dw, dh int, crop bool) {
	if w <= width && h <= height { // the original
		return w, h, false
	}
	if method == "crop" {
		f := min(1, float64(w)/float64(width), float64(h)/float64(height))
		dw, dh = max(1, int(math.Round(float64(width)*f))), max(1, int(math.Round(float64(height)*f)))
		return dw, dh, dw != w || dh != h
	}
	f := min(1, float64(width)/float64(w), float64(height)/float64(h))
	return max(1, int(math.Round(float64(w)*f))), max(1, int(math.Round(float64(h)*f))), false
}

func decodeConfig(r io.Reader) (image.Config, string, error) {
	var head [16]byte
	n, _ := io.ReadFull(r, head[:])
	r = io.MultiReader(bytes.NewReader(head[:n]), r)
	switch b := head[:n]; {
	case bytes.HasPrefix(b, []byte("\x89PNG\r\n\x1a\n")):
		c, err := png.DecodeConfig(r)
		return c, "png", err
	case bytes.HasPrefix(b, []byte("\xff\xd8\xff")):
		c, err := jpeg.DecodeConfig(r)
		return c, "jpeg", err
	case bytes.HasPrefix(b, []byte("GIF8")):
		c, err := gif.DecodeConfig(r)
		return c, "gif", err
	case len(b) >= 12 && string(b[:4]) == "RIFF" && string(b[8:12]) == "WEBP":
		c, err := webp.DecodeConfig(r)
		return c, "webp", err
	}
	return image.Config{}, "", errors.New("not a PNG, JPEG, GIF or WebP image")
}

// decodeImage decodes the first frame.
func decodeImage(r io.Reader, format string) (image.Image, error) {
	switch format {
	case "png":
		return png.Decode(r)
	case "jpeg":
		return jpeg.Decode(r)
	case "gif":
		return gif.Decode(r)
	default:
		return webp.Decode(r)
	}
}

// orientation reads how a photograph is turned (EXIF tag 0x0112), 1 to 8, and
// rewinds r.
func orientation(r io.ReadSeeker) (int, error) {
	head := make([]byte, 64<<10)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 1, err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return 1, err
	}
	return exifOrientation(head[:n]), nil
}

func exifOrientation(b []byte) int {
	for i := 2; i+4 <= len(b) && b[i] == 0xff; {
		marker, size := b[i+1], int(b[i+2])<<8|int(b[i+3])
		if size < 2 || i+2+size > len(b) {
			return 1
		}
		seg := b[i+4 : i+2+size]
		if marker == 0xe1 && bytes.HasPrefix(seg, []byte("Exif\x00\x00")) {
			return tiffOrientation(seg[6:])
		}
		if marker == 0xda {
			return 1
		}
		i += 2 + size
	}
	return 1
}

func tiffOrientation(t []byte) int {
	if len(t) < 8 {
		return 1
	}
	u16 := func(o int) int { return int(t[o])<<8 | int(t[o+1]) }
	if t[0] == 'I' {
		u16 = func(o int) int { return int(t[o+1])<<8 | int(t[o]) }
	}
	u32 := func(o int) int {
		if t[0] == 'I' {
			return u16(o+2)<<16 | u16(o)
		}
		return u16(o)<<16 | u16(o+2)
	}
	o := u32(4)
	if o < 8 || o+2 > len(t) {
		return 1
	}
	for i := range u16(o) {
		e := o + 2 + 12*i
		if e+12 > len(t) {
			return 1
		}
		if u16(e) == 0x0112 {
			if v := u16(e + 8); v >= 1 && v <= 8 {
				return v
			}
		}
	}
	return 1
}

// rotate turns an image upright.
func rotate(src image.Image, turn int) image.Image {
	if turn <= 1 {
		return src
	}
	b := src.Bounds()
	w, h := b.Dx(), b.Dy()
	dw, dh := w, h
	if turn >= 5 {
		dw, dh = h, w
	}
	dst := image.NewNRGBA(image.Rect(0, 0, dw, dh))
	for y := range h {
		for x := range w {
			dx, dy := x, y
			switch turn {
			case 2:
				dx = w - 1 - x
			case 3:
				dx, dy = w-1-x, h-1-y
			case 4:
				dy = h - 1 - y
			case 5:
				dx, dy = y, x
			case 6:
				dx, dy = h-1-y, x
			case 7:
				dx, dy = h-1-y, w-1-x
			case 8:
				dx, dy = y, w-1-x
			}
			dst.SetNRGBA(dx, dy, color.NRGBAModel.Convert(src.At(b.Min.X+x, b.Min.Y+y)).(color.NRGBA))
		}
	}
	return dst
}

func opaque(m *image.NRGBA) bool {
	for i := 3; i < len(m.Pix); i += 4 {
		if m.Pix[i] != 0xff {
			return false
		}
	}
	return true
}
