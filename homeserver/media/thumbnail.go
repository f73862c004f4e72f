package media

import (
	"bytes"
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/route"
	"holdfast/store"
)

// maxDecoding is how many images are decoded at once.
const maxDecoding = 2

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
	moving := r.Query("animated")
	switch moving {
	case "", "true", "false":
	default:
		return nil, mx.Errorf(mx.InvalidParam, "animated must be true or false.")
	}
	m, err := s.find(ctx, r, false)
	if err != nil {
		return nil, err
	}
	t := thumb{Hash: m.Hash}
	t.Width, t.Height, t.Method = pickSize(min(width, maxSide), min(height, maxSide), method)
	if moving == "true" {
		if contentType, err := s.animated(ctx, m); err != nil {
			return nil, err
		} else if contentType != "" { // it is left as it is
			return s.content(m.Hash, contentType, thumbName(contentType))
		}
	}
	if t, err = s.thumb(ctx, t); err != nil {
		return nil, err
	}
	return s.content(t.Blob, t.Type, thumbName(t.Type))
}

func thumbName(contentType string) string {
	return "thumbnail." + strings.TrimPrefix(contentType, "image/")
}

// animated is the type of an animated image, or "".
func (s *Service) animated(ctx context.Context, m record) (contentType string, err error) {
	err = s.decoding(ctx, m.Hash, func(f source) error {
		p, err := inspect(f)
		if err == nil && p.animated {
			contentType = p.mediaType()
		}
		if errors.Is(err, errNoImage) {
			err = nil // the thumbnail will say so
		}
		return err
	})
	return contentType, err
}

// decoding gives a blob to f when few others decode.
func (s *Service) decoding(ctx context.Context, hash string, f func(source) error) error {
	select {
	case s.decode <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.decode }()
	file, err := s.open(hash)
	if err != nil {
		return err
	}
	defer file.Close()
	return f(file)
}

// What cannot be decoded is remembered, by what it answered, under a width that
// says how images were decoded then.
const (
	cannot    = "none"
	decoderNo = 1
	isTooBig  = "too large"
	isNoImage = "no image"
)

// thumb finds a thumbnail or makes it.
func (s *Service) thumb(ctx context.Context, t thumb) (thumb, error) {
	load := func() (found bool, err error) {
		err = s.o.DB.Read(ctx, func(q store.Querier) error {
			if t, found, err = loadThumb(q, t); err != nil || found {
				return err
			}
			no, never, err := loadThumb(q, thumb{Hash: t.Hash, Width: decoderNo, Method: cannot})
			if err == nil && never {
				return noThumb(no.Type)
			}
			return err
		})
		return found, err
	}
	if found, err := load(); err != nil || found {
		return t, err
	}
	err := s.decoding(ctx, t.Hash, func(f source) error {
		if found, err := load(); err != nil || found { // another request has made it
			return err
		}
		var reason string
		switch err := s.makeThumb(ctx, f, &t); {
		case errors.Is(err, errTooBig):
			reason = isTooBig
		case errors.Is(err, errNoImage):
			reason = isNoImage
		default:
			return err
		}
		err := s.o.DB.Write(ctx, func(tx *store.Tx) error {
			return insertThumb(tx, thumb{Hash: t.Hash, Width: decoderNo, Method: cannot, Type: reason})
		})
		if err != nil {
			return err
		}
		return noThumb(reason)
	})
	return t, err
}

func noThumb(reason string) error {
	if reason == isTooBig {
		return mx.Errorf(mx.TooLarge, "The image is too large to make a thumbnail of it.")
	}
	return &mx.Error{Code: mx.Unknown, Msg: "No thumbnail can be made of this file.", Status: http.StatusBadRequest}
}

// makeThumb makes and keeps a thumbnail of what f has. Errors: errNoImage, errTooBig.
func (s *Service) makeThumb(ctx context.Context, f source, t *thumb) error {
	p, err := inspect(f)
	if err != nil {
		return err
	}
	w, h := p.upright()
	dw, dh := fit(w, h, t.Width, t.Height, t.Method)
	if dw == w && dh == h && !p.animated { // as it is
		t.Type, t.Blob = p.mediaType(), t.Hash
		return s.o.DB.Write(ctx, func(tx *store.Tx) error { return insertThumb(tx, *t) })
	}
	var out bytes.Buffer
	if t.Type, err = render(&out, f, p, dw, dh); err != nil {
		return err
	}
	ref, release, err := s.o.Blobs.Put(ctx, &out, int64(out.Len()))
	if err != nil {
		return err
	}
	defer release()
	t.Blob, t.Size = ref.Hash, ref.Size
	return s.o.DB.Write(ctx, func(tx *store.Tx) error { return insertThumb(tx, *t) })
}

// fit gives the thumbnail's size, never above the original's. Spec: cs#thumbnails
func fit(w, h, width, height int, method string) (dw, dh int) {
	if w <= width && h <= height { // the original
		return w, h
	}
	size := func(n int, f float64, most int) int { return min(most, max(1, int(math.Round(float64(n)*f)))) }
	if method == "crop" {
		f := min(1, float64(w)/float64(width), float64(h)/float64(height))
		return size(width, f, w), size(height, f, h)
	}
	f := min(1, float64(width)/float64(w), float64(height)/float64(h))
	return size(w, f, w), size(h, f, h)
}
