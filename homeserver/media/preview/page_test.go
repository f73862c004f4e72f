package preview

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func parse(t testing.TB, at, page string) Page {
	t.Helper()
	u, err := ParseURL(at)
	if err != nil {
		t.Fatal(err)
	}
	p := Page{URL: u}
	if err := p.read(strings.NewReader(page), "text/html; charset=utf-8"); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWhatAPageSays(t *testing.T) {
	long := "This paragraph is long enough to say what the page is about."
	for name, c := range map[string]struct{ page, title, description, image string }{
		"graph": {`<html><head><title>T</title><meta name="description" content="D"><meta property="og:title" content=" A &amp; B "><meta property="og:description" content="OD">
			<meta name="twitter:image" content="/t.png"><meta property="og:image" content="/o.png"></head><body><h1>H</h1><img src=i.png>`, "A & B", "OD", "https://x.example/o.png"},
		"graph by name":       {`<meta name="og:title" content="N"><meta name="OG:Description" content="OD">`, "N", "OD", ""},
		"card":                {`<title>T</title><meta name="twitter:title" content="TT"><meta name="twitter:description" content="TD"><meta property="twitter:image:src" content="t.png">`, "TT", "TD", "https://x.example/dir/t.png"},
		"first one":           {`<meta property="og:title" content="1"><meta property="og:title" content="2">`, "1", "", ""},
		"empty ones":          {`<meta property="og:title" content=" "><title>T</title><meta property="og:description"><meta name=description content=D>`, "T", "D", ""},
		"order":               {`<meta name="twitter:title" content="TT"><meta property="og:title" content="OT">`, "OT", "", ""},
		"title":               {"<title>\n a\t title </title>", "a title", "", ""},
		"title in a drawing":  {`<svg><title>drawing</title></svg><title>T</title>`, "T", "", ""},
		"markup in the title": {`<title>1 < 2 <b>x</b></title>`, "1 < 2 <b>x</b>", "", ""},
		"heading":             {`<body><h1>A <em>great</em> <br>thing</h1><h1>B</h1>`, "A great thing", "", ""},
		"paragraph":           {`<title>T</title><nav><p>` + long + ` (menu)</p></nav><p>short</p><p>` + long + `<script>var x = 1</script> <a href=x>More</a>.<p>` + long + long, "T", long + " More.", ""},
		"open paragraph":      {`<p>` + long, "", long, ""},
		"picture of the text": {`<title>T</title><footer><img src=no.png></footer><img src="data:image/png;base64,AAAA"><img src="logo.svg"><img src=yes.png>`, "T", "", "https://x.example/dir/yes.png"},
		"base":                {`<base href="https://y.example/z/"><link rel=image_src href="p.png">`, "", "", "https://y.example/z/p.png"},
		"bad pictures":        {`<meta property=og:image content="javascript:alert(1)"><meta property=og:image content="http://a:b@x.example/"><meta property=og:image content="//z.example/1.png">`, "", "", "https://z.example/1.png"},
		"scripts":             {`<script><title>no</title></script><style>p{}</style><noscript><meta property=og:title content=no></noscript><!-- <title>no</title> --><title>yes</title>`, "yes", "", ""},
		"nothing":             {``, "", "", ""},
		"no page":             {"\x00\x01\x02%PDF-1.4", "", "", ""},
		"bidi":                {"<title>a\u202etxt.exe\u2066b\u0000\u200f</title>", "atxt.exeb", "", ""},
		"emoji stays":         {"<title>👩‍👩‍👧 family</title>", "👩‍👩‍👧 family", "", ""},
	} {
		p := parse(t, "https://x.example/dir/page", c.page)
		image := ""
		if len(p.Images) > 0 {
			image = p.Images[0].String()
		}
		if p.Title != c.title || p.Description != c.description || image != c.image {
			t.Errorf("%s: %q %q %q", name, p.Title, p.Description, image)
		}
	}
}

func TestProperties(t *testing.T) {
	p := parse(t, "https://x.example/a?b=c", `<meta property=og:title content=T><meta property=og:type content=article><meta property=og:site_name content=S><meta property=og:url content=/canonical>
		<meta property=og:image content=a.png><meta property=og:image:alt content=Alt><meta property=og:video content="https://tracker.example/v.mp4"><meta property=og:audio content="https://tracker.example/a.mp3">`)
	want := map[string]any{"og:title": "T", "og:type": "article", "og:site_name": "S", "og:url": "https://x.example/canonical", "og:image:alt": "Alt"}
	if got := p.Properties(true); !reflect.DeepEqual(got, want) {
		t.Error(got)
	}
	delete(want, "og:image:alt")
	if got := p.Properties(false); !reflect.DeepEqual(got, want) {
		t.Error(got)
	}
	// Another host's address would tell the reader that the page is there.
	p = parse(t, "https://x.example/a", `<title>T</title><meta property=og:url content="https://bank.example/">`)
	if got := p.Properties(false)["og:url"]; got != "https://x.example/a" {
		t.Error(got)
	}
	// A description without a title is shown under the host's name.
	p = parse(t, "https://x.example/a", `<meta name=description content=D>`)
	if got := p.Properties(false)["og:title"]; got != "x.example" {
		t.Error(got)
	}
	u, _ := ParseURL("https://x.example/dir/my%20cat.png?size=1")
	p = Page{URL: u, Picture: true}
	if got := p.Properties(true)["og:title"]; got != "my cat.png" || len(p.Properties(true)) != 2 {
		t.Error(p.Properties(true))
	}
	if got := p.Properties(false); len(got) != 0 && got["og:title"] == "" {
		t.Error(got)
	}
}

func TestParseURL(t *testing.T) {
	for raw, want := range map[string]string{
		"http://x.example":                       "http://x.example/",
		"HTTPS://X.Example.:443/A#b":             "https://x.example/A",
		"http://x.example:80?q":                  "http://x.example/?q",
		"http://x.example:0443/":                 "http://x.example:443/",
		"https://münchen.example/straße?q=ü":     "https://xn--mnchen-3ya.example/stra%C3%9Fe?q=ü",
		"http://[2001:DB8::1]:80/":               "http://[2001:db8::1]/",
		"http://[::ffff:1.2.3.4]/":               "http://1.2.3.4/",
		"http://a_b.example/":                    "http://a_b.example/",
		"http://x.example/a/../b":                "http://x.example/a/../b",
		"  http://x.example/ ":                   "http://x.example/",
		"http://intranet/":                       "http://intranet/",
		"http://x.example/%00":                   "http://x.example/%00",
		"":                                       "",
		"x.example":                              "",
		"//x.example/":                           "",
		"/etc/passwd":                            "",
		"ftp://x.example/":                       "",
		"file:///etc/passwd":                     "",
		"http:x.example":                         "",
		"http://":                                "",
		"http:///path":                           "",
		"http://:80/":                            "",
		"http://user@x.example/":                 "",
		"http://user:pw@x.example/":              "",
		"http://@x.example/":                     "",
		"http://x.example:0/":                    "",
		"http://x.example:65536/":                "",
		"http://x.example:-1/":                   "",
		"http://x.example:port/":                 "",
		"http://x .example/":                     "",
		"http://x..example/":                     "",
		"http://.example/":                       "",
		"http://x.example\\@y.example/":          "",
		"http://x.example%2f.y.example/":         "",
		"http://x.ex*mple/":                      "",
		"http://[::1%25lo]/":                     "",
		"http://[::1/":                           "",
		"http://x.example/\x00":                  "",
		"http://x.example/\r\nHost: y":           "",
		"http://x.example/\xff":                  "",
		"http://x.example/\u0085":                "",
		"http://1.2.3/":                          "",
		"http://1.2.3.4.5/":                      "",
		"http://1.2.3.256/":                      "",
		"http://0x7f.0.0.1/":                     "",
		"http://127.0.0.0x1/":                    "",
		"http://017700000001/":                   "",
		"http://x.example/" + long(maxURL):       "",
		"http://" + long(64) + ".example/":       "",
		"http://" + strings.Repeat("a.", 200):    "",
		"http://xn--zzzzzzzzzzz-99999.example/x": "",
	} {
		u, err := ParseURL(raw)
		switch {
		case want == "" && (err == nil || KindOf(err) != BadURL):
			t.Errorf("%q: %v %v", raw, u, err)
		case want != "" && (err != nil || u.String() != want):
			t.Errorf("%q: %v %v, want %s", raw, u, err, want)
		}
	}
}

func long(n int) string { return strings.Repeat("a", n) }

func TestHosts(t *testing.T) {
	h, err := ParseHosts([]string{"Wiki.Example", "*.corp.example", "10.0.0.0/8", "192.0.2.1", "[2001:db8::1]", "fd00::/8", "bücher.example"})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{"wiki.example": true, "a.wiki.example": false, "a.corp.example": true, "a.b.corp.example": true, "corp.example": false, "xcorp.example": false,
		"10.1.2.3": true, "11.1.2.3": false, "192.0.2.1": true, "2001:db8::1": true, "fd12::1": true, "xn--bcher-kva.example": true} {
		if h.Has(host) != want {
			t.Errorf("%s: %v", host, !want)
		}
	}
	if !h.HasAddr(netip.MustParseAddr("::ffff:10.0.0.1")) {
		t.Error("mapped")
	}
	for _, bad := range []string{"", "*", "*.", "http://x.example", "x.example:80", "x.example/", "10.0.0.0/40", "::ffff:10.0.0.0/104", "a b", "300.1.1.1", "*.*.example", "fe80::1%lo/64"} {
		if _, err := ParseHosts([]string{bad}); err == nil || !strings.Contains(err.Error(), "is no host") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestLanguage(t *testing.T) {
	for header, want := range map[string]string{"": "", "de": "de", "de-DE,de;q=0.9,en;q=0.8": "de-DE", "en;q=0.1, fr": "fr", "zh-Hant-TW": "zh-TW", "*": "", "nonsense!": "", "und": "", "mul": "",
		"pt-BR-x-secret": "pt-BR", strings.Repeat("de,", 10_000): "de", "x-secret": "", "de-u-co-phonebk": "de"} {
		if got := Language(header); got != want {
			t.Errorf("%.40q: %q, want %q", header, got, want)
		}
	}
}

func FuzzPage(f *testing.F) {
	f.Add([]byte(`<html><head><title>T</title><base href=/x/><meta property=og:title content=A><meta property=og:image content=a.png></head><body><h1>H<p>text<img src=x>`), "text/html")
	f.Add([]byte("\xff\xfe<\x00t\x00i\x00t\x00l\x00e\x00>\x00"), "text/html; charset=utf-16le")
	f.Add([]byte(`<meta charset=shift_jis><title>`+"\x83e\x83X\x83g"), "")
	f.Add([]byte(`<svg><title>x</svg><nav><p></nav><script></script><!-- --><![CDATA[`), "text/html;charset=x")
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		p := Page{URL: &url.URL{Scheme: "https", Host: "x.example", Path: "/p"}}
		if err := p.read(bytes.NewReader(body), contentType); err != nil {
			return
		}
		for _, s := range []string{p.Title, p.Description, p.SiteName, p.Type, p.ImageAlt} {
			if !utf8.ValidString(s) || utf8.RuneCountInString(s) > maxDescription+1 || strings.ContainsFunc(s, unicode.IsControl) || s != strings.TrimSpace(s) {
				t.Errorf("%q", s)
			}
		}
		if len(p.Images) > maxImages {
			t.Errorf("%d pictures", len(p.Images))
		}
		urls := p.Images
		if p.Canonical != nil {
			urls = append(urls, p.Canonical)
			if p.Canonical.Host != p.URL.Host {
				t.Error(p.Canonical)
			}
		}
		for _, u := range urls {
			if u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
				t.Error(u)
			}
		}
		if _, err := json.Marshal(p.Properties(true)); err != nil {
			t.Error(err)
		}
	})
}

func FuzzURL(f *testing.F) {
	for _, s := range []string{"http://x.example/", "HTTPS://user@[::1%25a]:443/#x", "http://１２７.0.0.1/", "http://0x7f.1", "http://xn--a/", "http://a\\b@c/", "//x", "http://1.2.3.4:080/?%zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := ParseURL(raw)
		if err != nil {
			if KindOf(err) != BadURL {
				t.Fatal(err)
			}
			return
		}
		if u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Fragment != "" || portOf(u) < 1 || portOf(u) > 65535 {
			t.Fatalf("%q: %v", raw, u)
		}
		again, err := ParseURL(u.String()) // it is in its one form
		if len(u.String()) <= maxURL && (err != nil || again.String() != u.String()) {
			t.Fatalf("%q: %v, then %v %v", raw, u, again, err)
		}
		h := u.Hostname()
		if strings.HasSuffix(h, ".") || h != strings.ToLower(h) {
			t.Fatal(h)
		}
		if _, err := netip.ParseAddr(h); err != nil && strings.Trim(h[strings.LastIndex(h, ".")+1:], "0123456789") == "" {
			t.Fatalf("%q: %s looks like an address", raw, h)
		}
	})
}
