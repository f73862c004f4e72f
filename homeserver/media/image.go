package media

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"math"
	"time"

	"golang.org/x/image/webp"
)

// Bounds of decoding. What an image takes in memory is known from its header.
const (
	maxSide        = 32767
	maxDecoded     = 160 << 20 // bytes in memory
	maxDecodeTime  = time.Minute
	maxFramesBytes = 16 << 20 // of a GIF are looked through for a second frame
	maxFrameBytes  = 32 << 20 // of an animated WebP's first frame
)

var (
	errNoImage = errors.New("not a PNG, JPEG, GIF or WebP image that can be read")
	errTooBig  = errors.New("the image is too large to decode")
)

// source is what images are read from.
type source interface {
	io.ReadSeeker
	io.ReaderAt
}

// picture is what the header of an image tells.
type picture struct {
	format        string // "png", "jpeg", "gif" or "webp"
	width, height int    // as it is stored
	turn          int    // how it is to be turned, 1 to 8 (EXIF tag 0x0112)
	animated      bool
	decoded       int64 // bytes in memory
}

// mediaType is the image's real type, whatever was said at the upload.
func (p picture) mediaType() string { return "image/" + p.format }

// upright is the size as it is seen.
func (p picture) upright() (w, h int) {
	if p.turn >= 5 {
		return p.height, p.width
	}
	return p.width, p.height
}

// inspect reads an image's header. Errors: errNoImage, and those of the disk.
func inspect(r source) (p picture, err error) {
	head := make([]byte, 64<<10)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return p, err
	}
	head = head[:n]
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return p, err
	}
	in := bufio.NewReader(r)
	p.turn, err = 1, nil
	var c image.Config
	perPixel := int64(4)
	switch {
	case bytes.HasPrefix(head, []byte("\x89PNG\r\n\x1a\n")):
		p.format = "png"
		c, err = png.DecodeConfig(in)
		switch c.ColorModel {
		case color.GrayModel:
			perPixel = 1
		case color.Gray16Model:
			perPixel = 2
		case color.RGBA64Model, color.NRGBA64Model:
			perPixel = 8
		}
		if _, ok := c.ColorModel.(color.Palette); ok {
			perPixel = 1
		}
		p.animated = err == nil && animatedPNG(r)
	case bytes.HasPrefix(head, []byte("\xff\xd8\xff")):
		p.format = "jpeg"
		c, err = jpeg.DecodeConfig(in)
		var progressive bool
		p.turn, progressive = exif(head)
		if perPixel = 3; c.ColorModel == color.GrayModel {
			perPixel = 1
		} else if c.ColorModel == color.CMYKModel {
			perPixel = 4
		}
		if progressive { // all coefficients are kept besides
			perPixel *= 5
		}
	case bytes.HasPrefix(head, []byte("GIF8")):
		p.format = "gif"
		c, err = gif.DecodeConfig(in)
		perPixel = 5 // the first frame, and the screen it is drawn on
		p.animated = err == nil && animatedGIF(io.NewSectionReader(r, 0, maxFramesBytes))
	case len(head) >= 12 && string(head[:4]) == "RIFF" && string(head[8:12]) == "WEBP":
		p.format = "webp"
		perPixel = 8 // of a lossless one
		if c, p.animated = animatedWebP(head); p.animated {
			perPixel = 12 // its frame is decoded, placed, and drawn on the whole
		} else {
			c, err = webp.DecodeConfig(in)
		}
	default:
		return p, errNoImage
	}
	if err != nil {
		return p, fmt.Errorf("%w: %w", errNoImage, err)
	}
	if c.Width <= 0 || c.Height <= 0 {
		return p, fmt.Errorf("%w: %d x %d pixels", errNoImage, c.Width, c.Height)
	}
	p.width, p.height = c.Width, c.Height
	if p.width > maxSide || p.height > maxSide {
		p.decoded = math.MaxInt64
	} else {
		p.decoded = int64(p.width) * int64(p.height) * perPixel
	}
	return p, nil
}

// render writes a still picture of the image, of the size given: what is beyond its
// shape is cut off, and it is never made larger. Errors: errNoImage, errTooBig.
func render(out io.Writer, r source, p picture, width, height int) (contentType string, err error) {
	defer func() {
		if v := recover(); v != nil { // decoders of hostile input
			err = fmt.Errorf("%w: %v", errNoImage, v)
		}
	}()
	if p.decoded > maxDecoded {
		return "", fmt.Errorf("%w: %d x %d pixels", errTooBig, p.width, p.height)
	}
	src, err := decode(r, p)
	if errors.Is(err, errTooBig) {
		return "", err
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", errNoImage, err)
	}
	if p.turn >= 5 {
		width, height = height, width
	}
	area := src.Bounds()
	w, h := area.Dx(), area.Dy()
	width, height = min(width, w), min(height, h)
	cw, ch := w, h // the middle of the picture, in the shape asked for
	if int64(w)*int64(height) > int64(h)*int64(width) {
		cw = min(w, max(width, h*width/height))
	} else {
		ch = min(h, max(height, w*height/width))
	}
	x, y := area.Min.X+(w-cw)/2, area.Min.Y+(h-ch)/2
	dst := rotate(shrink(src, image.Rect(x, y, x+cw, y+ch), width, height), p.turn)
	if dst.Opaque() {
		return "image/jpeg", jpeg.Encode(out, dst, &jpeg.Options{Quality: 82})
	}
	return "image/png", png.Encode(out, dst)
}

// decode decodes the first frame.
func decode(r source, p picture) (image.Image, error) {
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(&until{r, time.Now().Add(maxDecodeTime)}, 64<<10)
	var m image.Image
	var err error
	switch p.format {
	case "png":
		return png.Decode(in)
	case "jpeg":
		return jpeg.Decode(in)
	case "gif":
		m, err = gif.Decode(in)
	default:
		if !p.animated {
			return webp.Decode(in)
		}
		m, err = firstFrame(r)
	}
	if err != nil {
		return nil, err
	}
	// A frame may be smaller than the picture.
	if all := image.Rect(0, 0, p.width, p.height); m.Bounds() != all {
		whole := image.NewRGBA(all)
		draw.Draw(whole, m.Bounds(), m, m.Bounds().Min, draw.Src)
		return whole, nil
	}
	return m, nil
}

// until ends what takes too long: a few bytes can ask a decoder for much work.
type until struct {
	r  io.Reader
	at time.Time
}

func (u *until) Read(p []byte) (int, error) {
	if time.Now().After(u.at) {
		return 0, fmt.Errorf("%w in %v", errTooBig, maxDecodeTime)
	}
	return u.r.Read(p)
}

// shrink makes a picture of an area of another, by the mean of the pixels that fall
// on each new one. The new size is at most the area's.
func shrink(src image.Image, area image.Rectangle, width, height int) *image.RGBA {
	dst := image.NewRGBA(image.Rect(0, 0, width, height))
	w, h := area.Dx(), area.Dy()
	row := image.NewRGBA(image.Rect(0, 0, w, 1))
	across := make([]float32, 4*width) // the mean of a row
	sum := make([]float32, 4*width)    // of the rows so far, weighed
	fx, fy := float64(w)/float64(width), float64(h)/float64(height)
	out := 0
	emit := func() {
		line := dst.Pix[out*dst.Stride : out*dst.Stride+4*width]
		for i, v := range sum {
			line[i] = uint8(min(255, v/float32(fy)+0.5))
		}
		clear(sum)
		out++
	}
	for y := range h {
		draw.Draw(row, row.Bounds(), src, image.Pt(area.Min.X, area.Min.Y+y), draw.Src)
		shrinkRow(across, row.Pix, fx)
		end := float64(out+1) * fy
		part := float32(min(1, end-float64(y))) // of this row that falls on the new row
		for i, v := range across {
			sum[i] += v * part
		}
		if float64(y+1) >= end-1e-6 {
			emit()
			if rest := 1 - part; rest > 1e-6 && out < height {
				for i, v := range across {
					sum[i] += v * rest
				}
			}
		}
	}
	for out < height { // rounding at the last row
		emit()
	}
	return dst
}

func shrinkRow(out []float32, pix []uint8, f float64) {
	n := len(pix) / 4
	for i := range len(out) / 4 {
		from, to := float64(i)*f, float64(i+1)*f
		var s [4]float32
		for x := int(from); x < n && float64(x) < to; x++ {
			part := float32(min(float64(x+1), to) - max(float64(x), from))
			px := pix[4*x : 4*x+4 : 4*x+4]
			s[0] += float32(px[0]) * part
			s[1] += float32(px[1]) * part
			s[2] += float32(px[2]) * part
			s[3] += float32(px[3]) * part
		}
		for c := range s {
			out[4*i+c] = s[c] / float32(f)
		}
	}
}

// rotate turns a picture upright.
func rotate(src *image.RGBA, turn int) *image.RGBA {
	if turn <= 1 {
		return src
	}
	w, h := src.Rect.Dx(), src.Rect.Dy()
	dw, dh := w, h
	if turn >= 5 {
		dw, dh = h, w
	}
	dst := image.NewRGBA(image.Rect(0, 0, dw, dh))
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
			dst.SetRGBA(dx, dy, src.RGBAAt(x, y))
		}
	}
	return dst
}

// exif reads from the beginning of a JPEG how it is to be turned, and whether it is
// progressive.
func exif(b []byte) (turn int, progressive bool) {
	turn = 1
	for i := 2; i+4 <= len(b) && b[i] == 0xff; {
		marker, size := b[i+1], int(b[i+2])<<8|int(b[i+3])
		switch {
		case marker == 0xff: // filling
			i++
			continue
		case marker == 0xc2:
			return turn, true
		case marker == 0xc0, marker == 0xc1, marker == 0xda, size < 2:
			return turn, false
		}
		if seg := b[i+4 : min(len(b), i+2+size)]; marker == 0xe1 && bytes.HasPrefix(seg, []byte("Exif\x00\x00")) {
			turn = tiffOrientation(seg[6:])
		}
		i += 2 + size
	}
	return turn, true // it may be: its header is longer than was read
}

func tiffOrientation(t []byte) int {
	if len(t) < 8 {
		return 1
	}
	var order binary.ByteOrder = binary.BigEndian
	if t[0] == 'I' {
		order = binary.LittleEndian
	}
	o := int64(order.Uint32(t[4:]))
	if o < 8 || o+2 > int64(len(t)) {
		return 1
	}
	for i := range int64(order.Uint16(t[o:])) {
		e := o + 2 + 12*i
		if e+12 > int64(len(t)) {
			return 1
		}
		if order.Uint16(t[e:]) == 0x0112 {
			if v := int(order.Uint16(t[e+8:])); v >= 1 && v <= 8 {
				return v
			}
		}
	}
	return 1
}

// animatedPNG looks for the animation's header, which stands before the picture.
func animatedPNG(r io.ReaderAt) bool {
	var head [12]byte
	for off, n := int64(8), 0; n < 1000; n++ {
		if _, err := r.ReadAt(head[:], off); err != nil {
			return false
		}
		switch size := binary.BigEndian.Uint32(head[:]); string(head[4:8]) {
		case "acTL":
			return size == 8 && binary.BigEndian.Uint32(head[8:]) > 1
		case "IDAT", "IEND":
			return false
		default:
			off += 12 + int64(size)
		}
	}
	return false
}

// animatedGIF looks for a second frame.
func animatedGIF(r io.Reader) bool {
	b := bufio.NewReader(r)
	var buf [13]byte
	read := func(n int) []byte {
		if _, err := io.ReadFull(b, buf[:n]); err != nil {
			return nil
		}
		return buf[:n]
	}
	skipTable := func(flags byte) bool {
		if flags&0x80 == 0 {
			return true
		}
		_, err := b.Discard(3 << (flags&7 + 1))
		return err == nil
	}
	skipBlocks := func() bool {
		for {
			n, err := b.ReadByte()
			if err != nil {
				return false
			}
			if n == 0 {
				return true
			}
			if _, err := b.Discard(int(n)); err != nil {
				return false
			}
		}
	}
	h := read(13)
	if h == nil || !skipTable(h[10]) {
		return false
	}
	for frames := 0; ; {
		kind, err := b.ReadByte()
		if err != nil {
			return false
		}
		switch kind {
		case 0x21: // an extension
			if read(1) == nil || !skipBlocks() {
				return false
			}
		case 0x2c:
			if frames++; frames > 1 {
				return true
			}
			d := read(9)
			if d == nil || !skipTable(d[8]) || read(1) == nil || !skipBlocks() {
				return false
			}
		default:
			return false
		}
	}
}

// animatedWebP reads the size of an animated WebP.
func animatedWebP(head []byte) (image.Config, bool) {
	if len(head) < 30 || string(head[12:16]) != "VP8X" || head[20]&0x02 == 0 {
		return image.Config{}, false
	}
	return image.Config{ColorModel: color.NRGBAModel, Width: u24(head[24:]) + 1, Height: u24(head[27:]) + 1}, true
}

func u24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }

// firstFrame decodes the first frame of an animated WebP, which the decoder does not
// know: it is given as a picture of its own.
func firstFrame(r io.ReaderAt) (image.Image, error) {
	var head [8]byte
	for off, n := int64(12), 0; n < 1000; n++ {
		if _, err := r.ReadAt(head[:], off); err != nil {
			return nil, err
		}
		size := int64(binary.LittleEndian.Uint32(head[4:]))
		if string(head[:4]) != "ANMF" {
			off += 8 + size + size&1
			continue
		}
		if size < 24 || size > maxFrameBytes {
			return nil, fmt.Errorf("%w: a frame of %d bytes", errTooBig, size)
		}
		frame := make([]byte, size)
		if _, err := r.ReadAt(frame, off+8); err != nil {
			return nil, err
		}
		x, y, w, h := 2*u24(frame), 2*u24(frame[3:]), u24(frame[6:])+1, u24(frame[9:])+1
		if int64(w)*int64(h)*8 > maxDecoded {
			return nil, fmt.Errorf("%w: a frame of %d x %d pixels", errTooBig, w, h)
		}
		alone := []byte("RIFF\x00\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00")
		if string(frame[16:20]) == "ALPH" {
			alone[20] = 0x10
		}
		alone = append(alone, frame[6:12]...)
		alone = append(alone, frame[16:]...)
		binary.LittleEndian.PutUint32(alone[4:], uint32(len(alone)-8))
		m, err := webp.Decode(bytes.NewReader(alone))
		if err != nil {
			return nil, err
		}
		placed := image.NewRGBA(image.Rect(x, y, x+w, y+h))
		draw.Draw(placed, placed.Bounds(), m, m.Bounds().Min, draw.Src)
		return placed, nil
	}
	return nil, errNoImage
}
