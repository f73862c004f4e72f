// Package cards draws enrolment cards as PDF, for paper of the size A4: one to a page, or
// ten with marks to cut them apart.
//
// Invariants: a card's PIN is on no page with its code; PINs are a document of their own.
// What people chose as names is drawn as text, cut where it is too long, and what the
// fonts have no sign for becomes a question mark. What is printed is in the language that
// was chosen for it, whatever the pages speak to which it leads.
package cards

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"

	"codeberg.org/go-pdf/fpdf"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/gomonobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/sfnt"
	"rsc.io/qr"
)

// ErrPerPage: cards are printed one to a page or ten to a page.
var ErrPerPage = errors.New("cards: one or ten to a page")

// Sheet is what all cards of a batch have in common.
type Sheet struct {
	Organisation string
	Server       string // its name, which is part of user IDs
	Address      string // where it is reached, as https://chat.example.org
	Fingerprint  string // of its certificate authority; "": browsers know it
	Batch        string // the batch's name
	Kind         string // what the cards are for: account.CardInvite and so on
	PINs         bool   // the cards need their PIN
	Expires      time.Time
	PerPage      int    // 1 or 10
	Language     string // of what is printed; "": Standard
}

// Card is one card.
type Card struct {
	Number int
	UserID string // whose it is; "": nobody's in particular
	Name   string // their displayed name
	Code   string // as in the address
	Typed  string // the same as it is typed
	PIN    string
}

// The page, in millimetres.
const (
	pageW, pageH = 210.0, 297.0
	cardW, cardH = 91.0, 55.0
	left, top    = (pageW - 2*cardW) / 2, (pageH - 5*cardH) / 2
	margin       = 20.0
	point        = 25.4 / 72 // of a font's size, in millimetres
	lineHeight   = 1.25
)

// Names of the fonts.
const (
	plain = ""
	bold  = "B"
	mono  = "mono"
)

var signs = sync.OnceValues(func() (*sfnt.Font, error) { return sfnt.Parse(goregular.TTF) })

// doc is a document that is drawn.
type doc struct {
	*fpdf.Fpdf
	Sheet
	signs *sfnt.Font
	buf   sfnt.Buffer
	texts map[string]string
}

func (s Sheet) begin(title string) (*doc, error) {
	f, err := signs()
	if err != nil {
		return nil, err
	}
	lang, err := CheckLanguage(s.Language)
	if err != nil {
		return nil, err
	}
	d := &doc{Fpdf: fpdf.New("P", "mm", "A4", ""), Sheet: s, signs: f, texts: tables()[lang]}
	d.AddUTF8FontFromBytes("go", plain, goregular.TTF)
	d.AddUTF8FontFromBytes("go", bold, gobold.TTF)
	d.AddUTF8FontFromBytes(mono, plain, gomonobold.TTF)
	d.SetMargins(0, 0, 0)
	d.SetAutoPageBreak(false, 0)
	d.SetCellMargin(0)
	d.SetTitle(d.clean(title), true)
	d.SetAuthor(d.clean(s.Organisation), true)
	d.SetProducer("Holdfast", true)
	d.SetLang(lang)
	d.SetLineWidth(0.1)
	return d, d.Error()
}

// clean is a text in signs that the fonts have, in one line.
func (d *doc) clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		if i, err := d.signs.GlyphIndex(&d.buf, r); err != nil || i == 0 || r > 0xffff {
			return '?'
		}
		return r
	}, s)
}

// say is a text of the language with {name} parameters filled in.
func (d *doc) say(key string, args ...string) string {
	for i := range args {
		if i%2 == 0 {
			args[i] = "{" + args[i] + "}"
		}
	}
	return d.clean(strings.NewReplacer(args...).Replace(d.texts[key]))
}

func (d *doc) font(style string, size float64) {
	if style == mono {
		d.SetFont(mono, plain, size)
		return
	}
	d.SetFont("go", style, size)
}

// line draws one line, smaller where it is too long, and in the end cut.
func (d *doc) line(x, y, w float64, style string, size float64, align, text string) {
	text = d.clean(text)
	d.font(style, size)
	for least := size * 0.7; size > least && d.GetStringWidth(text) > w; size -= 0.25 {
		d.font(style, size)
	}
	if d.GetStringWidth(text) > w {
		r := []rune(text)
		for len(r) > 0 && d.GetStringWidth(string(r)+"…") > w {
			r = r[:len(r)-1]
		}
		text = string(r) + "…"
	}
	d.SetXY(x, y)
	d.CellFormat(w, size*point*lineHeight, text, "", 0, align, false, 0, "")
}

// part is a paragraph of a flow.
type part struct {
	text  string
	style string
	scale float64 // of the flow's size; 0: 1
	after float64 // space below, in lines
}

// flow draws paragraphs into a box, in as small a size as it takes, down to half; what
// then does not fit is left out. It gives the height that they took.
func (d *doc) flow(x, y, w, h, size float64, parts ...part) float64 {
	for least := size / 2; ; size -= 0.25 {
		if used := d.parts(x, y, w, h, size, parts, false); used <= h || size <= least {
			return d.parts(x, y, w, h, size, parts, true)
		}
	}
}

func (d *doc) parts(x, y, w, h, size float64, parts []part, draw bool) (used float64) {
	for _, p := range parts {
		s := size
		if p.scale != 0 {
			s *= p.scale
		}
		d.font(p.style, s)
		step := s * point * lineHeight
		for _, l := range d.SplitText(p.text, w) {
			if draw && used+step <= h+0.01 {
				d.SetXY(x, y+used)
				d.CellFormat(w, step, l, "", 0, "L", false, 0, "")
			}
			used += step
		}
		used += p.after * step
	}
	return used
}

// code draws a QR code with its quiet zone.
func (d *doc) code(x, y, size float64, c Card) error {
	code, err := qr.Encode(d.Address+"/e/"+c.Code, qr.M)
	if err != nil {
		return fmt.Errorf("cards: the address is too long for a QR code: %w", err)
	}
	name := "qr" + c.Code
	d.RegisterImageOptionsReader(name, fpdf.ImageOptions{ImageType: "PNG"}, bytes.NewReader(code.PNG()))
	d.ImageOptions(name, x, y, size, size, false, fpdf.ImageOptions{ImageType: "PNG"}, 0, "")
	return d.Error()
}

// host is the address as people type it.
func (d *doc) host() string { return strings.TrimPrefix(d.Address, "https://") }

// steps are what to do, with the code after the first.
func (d *doc) steps(c Card, codeScale float64) []part {
	second := d.say("step2."+d.Kind, "user", d.localpart(c))
	if d.PINs {
		second = d.say("step2.pin") + " " + second
	}
	return []part{
		{text: "1. " + d.say("step1", "address", d.host()+"/e"), after: 0.2},
		{text: c.Typed, style: mono, scale: codeScale, after: 0.3},
		{text: "2. " + second, after: 0.3},
		{text: "3. " + d.say("step3", "address", d.host()), after: 0.3},
	}
}

func (d *doc) localpart(c Card) string {
	l, _, _ := strings.Cut(strings.TrimPrefix(c.UserID, "@"), ":")
	return l
}

// who is whose card it is, and under which name in the server.
func (d *doc) who(c Card) (name, id string) {
	switch {
	case c.UserID == "":
		return "", ""
	case c.Name == "" || c.Name == d.localpart(c):
		return c.UserID, ""
	}
	return c.Name, c.UserID
}

func (d *doc) until() string { return d.Expires.Format(d.texts["date"]) }

// Cards writes the cards. Errors: ErrPerPage, ErrLanguage, and of an address that is too long.
func (s Sheet) Cards(w io.Writer, cards []Card) error {
	if s.PerPage != 1 && s.PerPage != 10 {
		return ErrPerPage
	}
	d, err := s.begin(s.Batch)
	if err != nil {
		return err
	}
	for i, c := range cards {
		if i%s.PerPage == 0 {
			d.AddPage()
		}
		if s.PerPage == 1 {
			err = d.whole(c)
		} else {
			if i%10 == 0 {
				d.marks()
			}
			err = d.small(left+float64(i%10%2)*cardW, top+float64(i%10/2)*cardH, c)
		}
		if err != nil {
			return err
		}
	}
	return d.Output(w)
}

// marks are where to cut.
func (d *doc) marks() {
	const gap, long = 1.5, 5.0
	d.SetDrawColor(120, 120, 120)
	for i := range 3 {
		x := left + float64(i)*cardW
		d.Line(x, top-gap-long, x, top-gap)
		d.Line(x, top+5*cardH+gap, x, top+5*cardH+gap+long)
	}
	for i := range 6 {
		y := top + float64(i)*cardH
		d.Line(left-gap-long, y, left-gap, y)
		d.Line(left+2*cardW+gap, y, left+2*cardW+gap+long, y)
	}
	// Where four cards meet.
	for i := range 4 {
		y := top + float64(i+1)*cardH
		d.Line(pageW/2-1, y, pageW/2+1, y)
		d.Line(pageW/2, y-1, pageW/2, y+1)
	}
}

// small draws one of ten cards.
func (d *doc) small(x, y float64, c Card) error {
	const pad, qrSize = 3.5, 29.0
	w := cardW - 2*pad
	x, y = x+pad, y+pad
	d.line(x, y, w-16, bold, 9, "L", d.Organisation)
	d.SetTextColor(90, 90, 90)
	d.line(x+w-15, y+0.6, 15, plain, 6, "R", d.say("forAnyone", "number", fmt.Sprint(c.Number)))
	d.SetTextColor(0, 0, 0)
	if name, id := d.who(c); name != "" {
		d.line(x, y+4.2, w/2-1, bold, 7.5, "L", name)
		d.line(x+w/2, y+4.3, w/2, plain, 6.5, "R", id)
	} else {
		d.line(x, y+4.2, w, plain, 6.5, "L", d.say(d.Kind)+" · "+d.host())
	}
	if err := d.code(x-1.5, y+8, qrSize, c); err != nil {
		return err
	}
	right := x + qrSize
	parts := append(d.steps(c, 1.55), part{text: d.say("expires", "date", d.until()), scale: 0.88})
	d.flow(right, y+8.5, w-qrSize, qrSize, 6.5, parts...)
	if d.Fingerprint != "" {
		d.SetTextColor(60, 60, 60)
		d.flow(x, y+38.3, w, cardH-pad*2-38.3, 5.5,
			part{text: d.say("authorityShort", "address", d.host())}, part{text: halves(d.Fingerprint), style: mono})
		d.SetTextColor(0, 0, 0)
	}
	return d.Error()
}

// halves breaks a fingerprint in the middle.
func halves(s string) string {
	if i := strings.IndexByte(s[len(s)/2:], ':'); i >= 0 {
		i += len(s)/2 + 1
		return s[:i] + "\n" + s[i:]
	}
	return s
}

// whole draws a card that has a page.
func (d *doc) whole(c Card) error {
	const w = pageW - 2*margin
	d.line(margin, margin, w, bold, 24, "L", d.Organisation)
	d.SetTextColor(90, 90, 90)
	d.line(margin, margin+11, w, plain, 12, "L", d.host())
	d.SetTextColor(0, 0, 0)
	d.line(margin, 48, w, bold, 18, "L", d.say(d.Kind))
	if name, id := d.who(c); name != "" {
		d.line(margin, 58, w, plain, 13, "L", d.say("for")+" "+name)
		d.line(margin, 64.5, w, plain, 11, "L", id)
	}
	const size = 84.0
	if err := d.code(margin-6, 72, size, c); err != nil {
		return err
	}
	x := margin - 6 + size + 4
	d.flow(x, 80, pageW-margin-x, size-8, 12.5, d.steps(c, 1.25)...)
	d.flow(margin, 166, w, 22, 12, part{text: d.say("expires", "date", d.until())})
	if d.Fingerprint != "" {
		d.SetDrawColor(120, 120, 120)
		d.Rect(margin, 200, w, 28, "D")
		d.flow(margin+5, 204, w-10, 20, 10, part{text: d.say("authority", "address", d.host()), after: 0.5}, part{text: halves(d.Fingerprint), style: mono})
	}
	d.SetTextColor(90, 90, 90)
	d.line(margin, pageH-margin, w/2, plain, 9, "L", d.Batch)
	d.line(pageW/2, pageH-margin, w/2, plain, 9, "R", d.say("forAnyone", "number", fmt.Sprint(c.Number)))
	d.SetTextColor(0, 0, 0)
	return d.Error()
}

// PINList writes the PINs of the cards, as a list that is kept apart from them. Errors:
// ErrLanguage.
func (s Sheet) PINList(w io.Writer, cards []Card) error {
	d, err := s.begin(s.Batch)
	if err != nil {
		return err
	}
	const row, rows, first = 8.0, 26, 62.0
	const full = pageW - 2*margin
	for i, c := range cards {
		y := first + float64(i%rows)*row
		if i%rows == 0 {
			d.AddPage()
			d.line(margin, margin, full, bold, 16, "L", d.say("pins.title", "name", d.Batch))
			d.flow(margin, margin+10, full, 20, 11, part{text: d.say("pins.text")})
			d.line(margin, first-row, 20, bold, 11, "L", d.say("pins.number"))
			d.line(margin+22, first-row, full-62, bold, 11, "L", d.say("pins.who"))
			d.line(margin+full-38, first-row, 38, bold, 11, "L", d.say("pins.pin"))
			d.line(margin, pageH-margin, full, plain, 9, "R", d.say("pins.page", "page", fmt.Sprint(i/rows+1)))
		}
		d.SetDrawColor(180, 180, 180)
		d.Line(margin, y-1, margin+full, y-1)
		d.line(margin, y, 20, plain, 11, "L", fmt.Sprint(c.Number))
		who, id := d.who(c)
		if id != "" {
			who += "  " + id
		}
		d.line(margin+22, y, full-62, plain, 11, "L", who)
		d.line(margin+full-38, y-0.4, 38, mono, 13, "L", c.PIN[:len(c.PIN)/2]+" "+c.PIN[len(c.PIN)/2:])
	}
	return d.Output(w)
}
