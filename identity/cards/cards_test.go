package cards_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/sfnt"

	"holdfast/identity/account"
	"holdfast/identity/cards"
	"holdfast/test/need"
)

const fingerprint = "3F:9C:21:AA:07:D4:11:5E:90:B2:C7:3D:44:08:FE:6A:12:9B:77:E0:5C:31:88:D9:AF:02:64:B5:1E:CC:90:7B"

func sheet(testing.TB) cards.Sheet {
	return cards.Sheet{Organisation: "Kreiskrankenhaus Mühlbach", Server: "muehlbach.example", Address: "https://chat.muehlbach.example", Fingerprint: fingerprint,
		Batch: "Ward 7", Kind: account.CardInvite, Expires: time.Date(2026, 12, 13, 9, 30, 0, 0, time.UTC), PerPage: 10}
}

// table is what is printed in a language.
func table(t testing.TB, tag string) (m map[string]string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("texts", tag+".json"))
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var parameter = regexp.MustCompile(`\{[a-z]+\}`)

// Every language has every text, with the same parameters, in letters that the fonts have,
// and all of it has its place on a card.
func TestLanguages(t *testing.T) {
	english := table(t, cards.Standard)
	all := cards.Languages()
	if !slices.ContainsFunc(all, func(l cards.Language) bool { return l == cards.Language{Tag: "de", Name: "Deutsch"} }) || len(all) < 3 {
		t.Errorf("%+v", all)
	}
	for _, l := range all {
		texts := table(t, l.Tag)
		for key, text := range english {
			if texts[key] == "" || !slices.Equal(slices.Sorted(slices.Values(parameter.FindAllString(texts[key], -1))), slices.Sorted(slices.Values(parameter.FindAllString(text, -1)))) {
				t.Errorf("%s: %s is %q, in English %q", l.Tag, key, texts[key], text)
			}
			if l.Tag != cards.Standard && len(text) > 12 && texts[key] == text {
				t.Errorf("%s: %s is not translated", l.Tag, key)
			}
		}
		for key := range texts {
			if english[key] == "" {
				t.Errorf("%s: nothing prints %s", l.Tag, key)
			}
		}
		for _, font := range [][]byte{goregular.TTF, gobold.TTF} {
			f, err := sfnt.Parse(font)
			if err != nil {
				t.Fatal(err)
			}
			for key, text := range texts {
				for _, r := range text {
					if i, err := f.GlyphIndex(nil, r); err != nil || i == 0 {
						t.Errorf("%s: the fonts have no %q of %s", l.Tag, r, key)
					}
				}
			}
		}
		day := time.Date(2026, 12, 13, 9, 30, 0, 0, time.UTC).Format(texts["date"])
		for _, kind := range []string{account.CardInvite, account.CardEnrol, account.CardRecovery} {
			for _, perPage := range []int{1, 10} {
				s := sheet(t)
				s.Language, s.Kind, s.PINs, s.PerPage = l.Tag, kind, true, perPage
				card := some(1, func(c *cards.Card) {
					if kind != account.CardInvite {
						c.UserID, c.Name = "@anna.mueller:muehlbach.example", "Anna Müller"
					}
				})
				words := text(t, draw(t, fmt.Sprintf("%s-%s-%d", l.Tag, kind, perPage), func(b *bytes.Buffer) error { return s.Cards(b, card) }))
				for _, key := range []string{"step1", "step2.pin", "step2." + kind, "step3", "expires", "forAnyone"} {
					want := strings.NewReplacer("{address}", "chat.muehlbach.example"+map[bool]string{true: "/e"}[key == "step1"], "{user}", "anna.mueller", "{date}", day, "{number}", "1").Replace(texts[key])
					if !strings.Contains(strings.ReplaceAll(words, " ", ""), strings.ReplaceAll(want, " ", "")) {
						t.Errorf("%s, %s, %d to a page: %q is not there: %s", l.Tag, kind, perPage, want, words)
					}
				}
			}
		}
	}
	s := sheet(t)
	s.Language = "xx"
	if err := s.Cards(&bytes.Buffer{}, some(1, nil)); !errors.Is(err, cards.ErrLanguage) {
		t.Error(err)
	}
	if tag, err := cards.CheckLanguage(""); tag != cards.Standard || err != nil {
		t.Error(tag, err)
	}
}

// some makes cards of codes that are told apart by their number.
func some(n int, f func(*cards.Card)) (out []cards.Card) {
	for i := range n {
		code := fmt.Sprintf("4XKD90WMRT2B%04d", i+1)
		c := cards.Card{Number: i + 1, Code: code, Typed: account.ShowCode(code), PIN: fmt.Sprintf("%06d", 734000+i)}
		if f != nil {
			f(&c)
		}
		out = append(out, c)
	}
	return out
}

// keep writes a document where its pages can be looked at (HOLDFAST_E2E_EVIDENCE).
func keep(t testing.TB, name string, pdf []byte) string {
	t.Helper()
	dir := os.Getenv("HOLDFAST_E2E_EVIDENCE")
	if dir == "" {
		dir = t.TempDir()
	}
	path := filepath.Join(dir, "cards-"+name+".pdf")
	if err := os.WriteFile(path, pdf, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func draw(t testing.TB, name string, write func(b *bytes.Buffer) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	return keep(t, name, b.Bytes())
}

func run(t testing.TB, program, pkg string, args ...string) string {
	t.Helper()
	out, err := exec.Command(need.Program(t, program, pkg), args...).Output()
	if exit := new(exec.ExitError); program == "zbarimg" && errors.As(err, &exit) && exit.ExitCode() == 4 {
		err = nil // there is no code on the page
	}
	if err != nil {
		t.Fatalf("%s %q: %v", program, args, err)
	}
	return string(out)
}

// codes reads the QR codes of each page, as a camera would.
func codes(t testing.TB, pdf string, dpi int) (pages [][]string) {
	t.Helper()
	base := strings.TrimSuffix(pdf, ".pdf")
	run(t, "pdftoppm", "poppler-utils", "-r", fmt.Sprint(dpi), "-gray", "-png", pdf, base)
	pictures, _ := filepath.Glob(base + "-[0-9]*.png")
	for _, p := range pictures {
		pages = append(pages, strings.Fields(run(t, "zbarimg", "zbar-tools", "--quiet", "--raw", p)))
	}
	return pages
}

func text(t testing.TB, pdf string) string {
	return strings.Join(strings.Fields(run(t, "pdftotext", "poppler-utils", pdf, "-")), " ")
}

// What stands on the paper is read back by programs that know nothing of how it was made.
func TestCards(t *testing.T) {
	for name, c := range map[string]struct {
		perPage, cards, pages int
		change                func(*cards.Sheet)
		each                  func(*cards.Card)
		want                  []string
	}{
		"ten": {10, 14, 2, nil, nil, []string{"Choose a user name and a password.", "Card 14"}},
		"ten-named": {10, 10, 1, func(s *cards.Sheet) { s.Kind, s.PINs = account.CardEnrol, true }, func(c *cards.Card) {
			c.UserID, c.Name = fmt.Sprintf("@person%d:muehlbach.example", c.Number), []string{"Anna Müller", "Ελένη Παπαδοπούλου", "Анна Смирнова", "Łukasz Żółć"}[c.Number%4]
		}, []string{"Ελένη Παπαδοπούλου", "Анна Смирнова", "Łukasz Żółć", "@person3:muehlbach.example", "Your user name is person3.", "Type the PIN"}},
		"one": {1, 2, 2, func(s *cards.Sheet) { s.Kind = account.CardRecovery }, func(c *cards.Card) { c.UserID, c.Name = "@anna:muehlbach.example", "Anna Müller" },
			[]string{"For Anna Müller", "Choose a new password."}},
		"one-invite": {1, 1, 1, func(s *cards.Sheet) { s.PINs = true }, nil, []string{"Choose a user name", "Type the PIN"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := sheet(t)
			s.PerPage = c.perPage
			if c.change != nil {
				c.change(&s)
			}
			all := some(c.cards, c.each)
			pdf := draw(t, name, func(b *bytes.Buffer) error { return s.Cards(b, all) })
			pages := codes(t, pdf, map[int]int{1: 60, 10: 150}[c.perPage])
			if len(pages) != c.pages {
				t.Errorf("%d pages, want %d", len(pages), c.pages)
			}
			seen := map[string]bool{}
			for _, p := range pages {
				if len(p) > c.perPage {
					t.Errorf("%d codes on a page", len(p))
				}
				for _, link := range p {
					seen[link] = true
				}
			}
			words := text(t, pdf)
			bare := strings.ReplaceAll(words, " ", "")
			for _, card := range all {
				if !seen["https://chat.muehlbach.example/e/"+card.Code] {
					t.Errorf("no QR code leads to card %d: %q", card.Number, pages)
				}
				if !strings.Contains(words, card.Typed) {
					t.Errorf("the code of card %d is not there to be typed", card.Number)
				}
				if strings.Contains(words, card.PIN) {
					t.Errorf("the PIN of card %d is on it", card.Number)
				}
			}
			if len(seen) != len(all) {
				t.Errorf("%d codes for %d cards", len(seen), len(all))
			}
			if n := strings.Count(bare, fingerprint); n != len(all) {
				t.Errorf("the fingerprint is there %d times for %d cards", n, len(all))
			}
			if n := strings.Count(words, "13 December 2026, 09:30 UTC"); n != len(all) {
				t.Errorf("the day is there %d times for %d cards", n, len(all))
			}
			for _, w := range append(c.want, "Kreiskrankenhaus Mühlbach", "chat.muehlbach.example/e and type", "chat.muehlbach.example/ca.crt") {
				if !strings.Contains(words, w) {
					t.Errorf("%q is not there: %s", w, words)
				}
			}
			if strings.Contains(words, "{") || strings.Contains(words, "cards.") {
				t.Errorf("something was not filled in: %s", words)
			}
		})
	}
	s := sheet(t)
	s.PerPage = 3
	if err := s.Cards(&bytes.Buffer{}, some(1, nil)); err != cards.ErrPerPage {
		t.Error(err)
	}
	s = sheet(t)
	s.Fingerprint = ""
	if words := text(t, draw(t, "no-authority", func(b *bytes.Buffer) error { return s.Cards(b, some(1, nil)) })); strings.Contains(words, "ca.crt") {
		t.Error(words)
	}
}

func TestPINList(t *testing.T) {
	s := sheet(t)
	all := some(60, func(c *cards.Card) {
		if c.Number == 2 {
			c.UserID, c.Name = "@anna:muehlbach.example", "Anna Müller"
		}
	})
	pdf := draw(t, "pins", func(b *bytes.Buffer) error { return s.PINList(b, all) })
	words := text(t, pdf)
	for _, c := range all {
		if !strings.Contains(words, c.PIN[:3]+" "+c.PIN[3:]) {
			t.Errorf("no PIN of card %d", c.Number)
		}
		if strings.Contains(words, c.Typed) || strings.Contains(words, c.Code) {
			t.Errorf("the code of card %d is beside its PIN", c.Number)
		}
	}
	for _, w := range []string{"PINs of the cards: Ward 7", "Anna Müller @anna:muehlbach.example", "Page 3"} {
		if !strings.Contains(words, w) {
			t.Errorf("%q is not there", w)
		}
	}
	if n := len(codes(t, pdf, 50)); n != 3 {
		t.Errorf("%d pages", n)
	}
}

// Whatever somebody calls themselves, the others' cards are as they should be, and the
// QR code leads to the right place.
func TestCardsOfStrangeNames(t *testing.T) {
	s := sheet(t)
	s.Address, s.Organisation = "https://"+strings.Repeat("a-long-part.", 12)+"example", strings.Repeat("Very Long Organisation ", 20)
	names := []string{strings.Repeat("W", 300), "日本語の名前", "👩‍⚕️ Anna", "(a) \\ %PDF )", "a\nb\x00c\r", "\u202egnp.exe", "", "\xff\xfe"}
	s.Kind = account.CardEnrol
	all := some(len(names), func(c *cards.Card) {
		c.UserID, c.Name = "@x"+strings.Repeat("y", 200)+":muehlbach.example", names[c.Number-1]
	})
	for _, perPage := range []int{1, 10} {
		s.PerPage = perPage
		pdf := draw(t, fmt.Sprintf("strange-%d", perPage), func(b *bytes.Buffer) error { return s.Cards(b, all) })
		seen := 0
		for _, p := range codes(t, pdf, map[int]int{1: 75, 10: 200}[perPage]) {
			for _, link := range p {
				if !regexp.MustCompile(`^https://[a-z.-]+/e/4XKD90WMRT2B\d{4}$`).MatchString(link) {
					t.Errorf("%q", link)
				}
				seen++
			}
		}
		if seen != len(all) {
			t.Errorf("%d of %d codes can be read, %d to a page", seen, len(all), perPage)
		}
		words := text(t, pdf)
		for _, w := range []string{"??????", "(a) \\ %PDF )", "a b"} {
			if !strings.Contains(words, w) {
				t.Errorf("%q is not there", w)
			}
		}
	}
	s.Address = "https://" + strings.Repeat("x", 5000)
	if err := s.Cards(&bytes.Buffer{}, all); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Error(err)
	}
}
