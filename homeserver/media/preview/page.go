package preview

import (
	"errors"
	"io"
	"net/url"
	"path"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/html"
	"golang.org/x/net/html/charset"
)

// Bounds of what is told of a page, in characters.
const (
	maxTitle       = 300
	maxDescription = 1000
	maxShort       = 100
	goodParagraph  = 40 // a paragraph of the text that says something
	maxImages      = 3  // that are tried
	maxMetas       = 2000
)

// Page is what was found.
type Page struct {
	URL     *url.URL      // where the redirects ended
	MaxAge  time.Duration // for how long its host says it may be kept; 0: nothing
	Picture bool          // it is no page but a picture

	Title, Description, SiteName, Type, ImageAlt string
	Canonical                                    *url.URL   // as the page says, of its own host; nil: nothing
	Images                                       []*url.URL // the best first
}

func (p *Page) empty() bool {
	return p.Title == "" && p.Description == "" && len(p.Images) == 0
}

// Properties are the page's part of a preview; hasImage: there will be a picture.
// Empty: there is nothing to show. Spec: cs#get_matrixclientv1mediapreview_url
func (p *Page) Properties(hasImage bool) map[string]any {
	out := map[string]any{}
	title := p.Title
	if p.Picture {
		title = cleanText(path.Base(p.URL.Path), maxTitle)
	}
	if p.URL == nil || title == "" && p.Description == "" && !hasImage {
		return out
	}
	for _, t := range []string{p.SiteName, p.URL.Hostname()} {
		if title == "" || title == "/" || title == "." {
			title = t
		}
	}
	set := func(key, value string) {
		if value != "" {
			out[key] = value
		}
	}
	set("og:title", title)
	set("og:description", p.Description)
	set("og:site_name", p.SiteName)
	set("og:type", p.Type)
	set("og:url", p.URL.String())
	if p.Canonical != nil {
		set("og:url", p.Canonical.String())
	}
	if hasImage {
		set("og:image:alt", p.ImageAlt)
	}
	return out
}

// best keeps the values of a field by how much they are trusted.
type best struct {
	value string
	rank  int
}

func (b *best) offer(rank int, value string) {
	if value != "" && (b.rank == 0 || rank < b.rank) {
		b.value, b.rank = value, rank
	}
}

// Ranks of what a page says of itself, the best first. 0 is nothing.
const (
	rankOG = iota + 1
	rankTwitter
	rankMeta
	rankText
	rankGuess
)

// metas are the fields of <meta> that count.
var metas = map[string]struct {
	field string
	rank  int
}{
	"og:title": {"title", rankOG}, "twitter:title": {"title", rankTwitter},
	"og:description": {"description", rankOG}, "twitter:description": {"description", rankTwitter}, "description": {"description", rankMeta},
	"og:site_name": {"site", rankOG}, "application-name": {"site", rankMeta},
	"og:type": {"type", rankOG}, "og:url": {"url", rankOG},
	"og:image:alt": {"alt", rankOG}, "twitter:image:alt": {"alt", rankTwitter},
	"og:image": {"image", rankOG}, "og:image:url": {"image", rankOG}, "og:image:secure_url": {"image", rankOG},
	"twitter:image": {"image", rankTwitter}, "twitter:image:src": {"image", rankTwitter}, "thumbnail": {"image", rankMeta},
}

// quiet are the elements whose text is no text of the page.
var quiet = map[string]bool{"nav": true, "footer": true, "aside": true, "form": true, "select": true, "button": true, "svg": true, "template": true, "dialog": true, "figcaption": true}

// blocks end a paragraph that was left open.
var blocks = map[string]bool{"p": true, "div": true, "ul": true, "ol": true, "table": true, "section": true, "article": true, "blockquote": true, "h1": true, "h2": true, "h3": true, "body": true, "header": true, "main": true, "pre": true}

// raw are the elements whose content comes as text and is none.
var raw = map[string]bool{"script": true, "style": true, "noscript": true, "textarea": true, "iframe": true, "noembed": true, "noframes": true, "xmp": true}

// parser goes through a page once, by its tags: no tree is built, so nesting costs
// nothing.
type parser struct {
	z      *html.Tokenizer
	base   *url.URL // what addresses in the page are relative to
	fields map[string]*best
	images [rankGuess + 1][]string
	metas  int
	quiet  map[string]int // how many of each quiet element are open
	depth  int            // of all of them
	into   *strings.Builder
	end    string // the tag that ends into
	done   func(text string)
	raw    bool // what comes next is a script or the like
	body   bool
}

func (p *parser) field(name string) *best {
	b := p.fields[name]
	if b == nil {
		b = &best{}
		p.fields[name] = b
	}
	return b
}

// read goes through a page. What was found before an error counts. Errors: those of r.
func (p *Page) read(r io.Reader, contentType string) error {
	utf, err := charset.NewReader(r, contentType)
	if err != nil {
		return ignoreEOF(err)
	}
	s := &parser{z: html.NewTokenizer(io.LimitReader(utf, 2*maxPage)), base: p.URL, fields: map[string]*best{}, quiet: map[string]int{}}
	err = s.run()
	get := func(name string, limit int) string { return cleanText(s.field(name).value, limit) }
	p.Title, p.Description = get("title", maxTitle), get("description", maxDescription)
	p.SiteName, p.Type, p.ImageAlt = get("site", maxShort), get("type", maxShort), get("alt", maxTitle)
	if u := s.resolve(get("url", maxURL)); u != nil && u.Host == p.URL.Host { // another host's name would lie to the reader
		p.Canonical = u
	}
	seen := map[string]bool{}
	for _, list := range s.images {
		for _, raw := range list {
			u := s.resolve(raw)
			if u == nil || seen[u.String()] || strings.HasSuffix(strings.ToLower(u.Path), ".svg") {
				continue
			}
			if seen[u.String()] = true; len(p.Images) < maxImages {
				p.Images = append(p.Images, u)
			}
		}
	}
	return ignoreEOF(err)
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

func (s *parser) resolve(raw string) *url.URL {
	raw = strings.TrimSpace(raw)
	if raw == "" || len(raw) > maxURL {
		return nil
	}
	to, err := s.base.Parse(raw)
	if err != nil {
		return nil
	}
	u, err := ParseURL(to.String())
	if err != nil {
		return nil
	}
	return u
}

// complete reports whether nothing better can come in the page's text.
func (s *parser) complete() bool {
	for _, name := range []string{"title", "description"} {
		if b := s.field(name); b.rank == 0 || b.rank > rankText {
			return false
		}
	}
	return len(s.images[rankOG])+len(s.images[rankTwitter])+len(s.images[rankMeta]) > 0
}

func (s *parser) run() error {
	for {
		switch s.z.Next() {
		case html.ErrorToken:
			s.close()
			return s.z.Err()
		case html.TextToken:
			if s.into != nil && !s.raw && s.into.Len() < 8*maxDescription {
				s.into.Write(s.z.Text())
			}
			s.raw = false
		case html.StartTagToken, html.SelfClosingTagToken:
			name, more := s.z.TagName()
			s.raw = raw[string(name)]
			s.start(string(name), more)
			if s.body && s.complete() {
				return nil
			}
		case html.EndTagToken:
			name, _ := s.z.TagName()
			tag := string(name)
			if tag == s.end {
				s.close()
			}
			if s.quiet[tag] > 0 {
				s.quiet[tag]--
				s.depth--
			}
		}
	}
}

// close gives the text that was collected to whom it is for.
func (s *parser) close() {
	if s.into == nil {
		return
	}
	text, done := s.into.String(), s.done
	s.into, s.end, s.done = nil, "", nil
	done(text)
}

func (s *parser) collect(tag string, done func(string)) {
	s.close()
	s.into, s.end, s.done = &strings.Builder{}, tag, done
}

// attrs are a tag's attributes; of two with one name the first counts.
func (s *parser) attrs(more bool) map[string]string {
	out := map[string]string{}
	for more && len(out) < 100 {
		var k, v []byte
		k, v, more = s.z.TagAttr()
		if _, twice := out[string(k)]; !twice {
			out[string(k)] = string(v)
		}
	}
	return out
}

func (s *parser) start(tag string, more bool) {
	if blocks[tag] && s.end != "title" {
		s.close()
	}
	switch tag {
	case "meta":
		if s.metas++; s.metas <= maxMetas {
			s.meta(s.attrs(more))
		}
	case "base":
		if u := s.resolve(s.attrs(more)["href"]); u != nil {
			s.base = u
		}
	case "link":
		a := s.attrs(more)
		switch strings.ToLower(a["rel"]) {
		case "image_src":
			s.image(rankMeta, a["href"])
		case "canonical":
			s.field("url").offer(rankMeta, a["href"])
		}
	case "title":
		if s.depth == 0 { // a drawing has one, too
			s.collect(tag, func(t string) { s.field("title").offer(rankText, cleanText(t, maxTitle)) })
		}
	case "body":
		s.body = true
	case "br":
		if s.into != nil {
			s.into.WriteByte(' ')
		}
	case "h1":
		if s.depth == 0 {
			s.collect(tag, func(t string) { s.field("title").offer(rankGuess, cleanText(t, maxTitle)) })
		}
	case "p":
		if s.depth == 0 {
			s.collect(tag, func(t string) {
				if t = cleanText(t, maxDescription); utf8.RuneCountInString(t) >= goodParagraph {
					s.field("description").offer(rankText, t)
				}
			})
		}
	case "img":
		if s.depth == 0 {
			s.image(rankGuess, s.attrs(more)["src"])
		}
	}
	if quiet[tag] {
		s.quiet[tag]++
		s.depth++
	}
}

func (s *parser) meta(a map[string]string) {
	for _, key := range []string{a["property"], a["name"], a["itemprop"]} {
		m, ok := metas[strings.ToLower(strings.TrimSpace(key))]
		if !ok {
			continue
		}
		if m.field == "image" {
			s.image(m.rank, a["content"])
		} else {
			s.field(m.field).offer(m.rank, strings.TrimSpace(a["content"]))
		}
		return
	}
}

func (s *parser) image(rank int, raw string) {
	if raw = strings.TrimSpace(raw); raw != "" && len(raw) <= maxURL && len(s.images[rank]) < 2*maxImages {
		s.images[rank] = append(s.images[rank], raw)
	}
}

// cleanText makes text of a page fit to be shown: one line, without characters that
// do something, at most limit characters.
func cleanText(s string, limit int) string {
	var b strings.Builder
	n, space := 0, false
	for _, r := range s {
		switch {
		case unicode.IsSpace(r):
			space = n > 0
			continue
		case r == utf8.RuneError, unicode.IsControl(r), r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x200e, r == 0x200f, r == 0xfeff:
			continue
		}
		need := 1
		if space {
			need = 2
		}
		if n+need > limit {
			return b.String() + "…"
		}
		if space {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
		n, space = n+need, false
	}
	return b.String()
}
