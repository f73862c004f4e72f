package appliance_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"holdfast/appliance/appliancetest"
	"holdfast/test/need"
)

// read runs a program that reads what was printed.
func read(t *testing.T, program, pkg string, args ...string) string {
	t.Helper()
	out, err := exec.Command(need.Program(t, program, pkg), args...).Output()
	if err != nil {
		t.Fatalf("%s %q: %v", program, args, err)
	}
	return string(out)
}

// scan reads the QR codes of a PDF, as a camera would. They are in no order.
func scan(t *testing.T, pdf string) []string {
	t.Helper()
	base := filepath.Join(t.TempDir(), "page")
	read(t, "pdftoppm", "poppler-utils", "-r", "150", "-gray", "-png", pdf, base)
	pages, _ := filepath.Glob(base + "*.png")
	return strings.Fields(read(t, "zbarimg", "zbar-tools", append([]string{"--quiet", "--raw"}, pages...)...))
}

var (
	typedCode = regexp.MustCompile(`\b[0-9A-Z]{4}(?:-[0-9A-Z]{4}){3}\b`)
	pinLine   = regexp.MustCompile(`\b(\d{3}) (\d{3})\b`)
)

func words(t *testing.T, pdf string) string {
	return read(t, "pdftotext", "poppler-utils", "-layout", pdf, "-")
}

// enrol fills in the form of a card for a new account.
func enrol(t *testing.T, s *appliancetest.Server, path, name, pin string) int {
	t.Helper()
	resp, err := http.PostForm(s.URL+path, url.Values{"username": {name}, "password": {"stapler battery lamp"}, "password2": {"stapler battery lamp"}, "pin": {pin}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// typeCode types a code at /e and gives where it leads.
func typeCode(t *testing.T, s *appliancetest.Server, code string) string {
	t.Helper()
	c := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.PostForm(s.URL+"/e", url.Values{"code": {code}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.Header.Get("Location")
}

func pathOf(t *testing.T, link string) string {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil || !strings.HasPrefix(u.Path, "/e/") {
		t.Fatalf("%q: %v", link, err)
	}
	return u.Path
}

// The way of a card: printed, scanned or typed, used once, listed, withdrawn.
func TestInviteBatch(t *testing.T) {
	s := appliancetest.Start(t)
	dir := t.TempDir()
	file, pins := filepath.Join(dir, "cards.pdf"), filepath.Join(dir, "pins.pdf")
	if _, e, code := s.CLI(t, "group", "add", "Ward 7"); code != 0 {
		t.Fatal(e)
	}
	out, e, code := s.CLI(t, "invite", "batch", "Ward 7", "--count", "12", "--role", "moderator", "--group", "ward 7", "--cards", file, "--pins", pins)
	id := regexp.MustCompile(`invite revoke ([0-9A-Z]{26})`).FindStringSubmatch(out)
	if code != 0 || id == nil || !strings.Contains(out, "12 cards are in") {
		t.Fatal(out, e)
	}
	for _, f := range []string{file, pins} {
		if fi, err := os.Stat(f); err != nil || fi.Mode().Perm() != 0o600 {
			t.Fatal(fi, err)
		}
	}
	links, codes := scan(t, file), typedCode.FindAllString(words(t, file), -1)
	var digits []string
	for _, m := range pinLine.FindAllStringSubmatch(words(t, pins), -1) {
		digits = append(digits, m[1]+m[2])
	}
	if len(links) != 12 || len(codes) != 12 || len(digits) != 12 {
		t.Fatalf("%d links, %d codes, %d PINs", len(links), len(codes), len(digits))
	}
	// Cards stand beside each other in rows of two, as the text is read; the PINs in the order of their numbers.
	for i, c := range codes {
		path := typeCode(t, s, strings.ToLower(c))
		if !slices.ContainsFunc(links, func(l string) bool { return pathOf(t, l) == path }) {
			t.Errorf("card %d: its code leads to %q, and no QR code does", i+1, path)
		}
	}
	first := typeCode(t, s, codes[0])
	if n := enrol(t, s, first, "anna", digits[1]); n != http.StatusForbidden && digits[0] != digits[1] {
		t.Errorf("another card's PIN: %d", n)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[int]int{}
	for i := range 4 {
		wg.Go(func() {
			n := enrol(t, s, first, fmt.Sprintf("racer%d", i), digits[0])
			mu.Lock()
			defer mu.Unlock()
			got[n]++
		})
	}
	wg.Wait()
	if got[200] != 1 || got[http.StatusGone] != 3 {
		t.Errorf("of four at once: %v", got)
	}
	if n := enrol(t, s, typeCode(t, s, codes[11]), "zoe", digits[11]); n != 200 {
		t.Errorf("the last card: %d", n)
	}
	if out, _, _ := s.CLI(t, "role", "list"); !strings.Contains(out, "@zoe:hs.test") {
		t.Errorf("the role was not given: %s", out)
	}
	if out, _, _ := s.CLI(t, "group", "members", "Ward 7"); !strings.Contains(out, "@zoe:hs.test") {
		t.Errorf("the group was not given: %s", out)
	}
	var b struct {
		Open, Used int
		Cards      []struct {
			ID, State string
			Number    int
			UserID    string `json:"user_id"`
		}
	}
	out, e, _ = s.CLI(t, "invite", "list", id[1], "--json")
	if err := json.Unmarshal([]byte(out), &b); err != nil || b.Open != 10 || b.Used != 2 || len(b.Cards) != 12 || b.Cards[11].UserID != "@zoe:hs.test" || b.Cards[11].State != "used" {
		t.Fatal(out, e, err)
	}
	if out, e, code := s.CLI(t, "invite", "revoke", b.Cards[2].ID); code != 0 || !strings.Contains(out, "Withdrawn: 1") {
		t.Error(out, e)
	}
	if n := enrol(t, s, typeCode(t, s, codes[2]), "eve", digits[2]); n != http.StatusGone {
		t.Errorf("a withdrawn card: %d", n)
	}
	// Card 5 is lost: it is printed again, in German, with another code and PIN.
	lost, lostPIN := filepath.Join(dir, "lost.pdf"), filepath.Join(dir, "lost-pin.pdf")
	if _, e, code := s.CLI(t, "invite", "reprint", b.Cards[4].ID, "--cards", lost); code != 1 || !strings.Contains(e, "need PINs stays") {
		t.Error(code, e)
	}
	if out, e, code := s.CLI(t, "invite", "reprint", b.Cards[4].ID, "--cards", lost, "--pins", lostPIN, "--language", "de", "--per-page", "1"); code != 0 || !strings.Contains(out, "1 cards are in") {
		t.Fatal(out, e)
	}
	text := words(t, lost)
	anew, pin := typedCode.FindAllString(text, -1), pinLine.FindStringSubmatch(words(t, lostPIN))
	if len(anew) != 1 || pin == nil || !strings.Contains(text, "Karte 5") || !strings.Contains(strings.Join(strings.Fields(text), " "), "Einmal gültig, bis") {
		t.Fatalf("%q %q %s", anew, pin, text)
	}
	if n := enrol(t, s, typeCode(t, s, codes[4]), "eve", digits[4]); n != http.StatusGone {
		t.Errorf("the lost card: %d", n)
	}
	if n := enrol(t, s, typeCode(t, s, anew[0]), "ida", pin[1]+pin[2]); n != 200 {
		t.Errorf("the new card: %d", n)
	}
	if out, e, code := s.CLI(t, "invite", "revoke", id[1]); code != 0 || !strings.Contains(out, "Withdrawn: 8") {
		t.Error(out, e)
	}
	for i := 3; i < 11; i++ {
		if n := enrol(t, s, typeCode(t, s, codes[i]), "eve", digits[i]); n != http.StatusGone {
			t.Errorf("card %d of a withdrawn batch: %d", i+1, n)
		}
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"invite", "batch", "x", "--cards", file}, 1, "nothing was done"},
		{[]string{"invite", "batch", "x", "--cards", filepath.Join(dir, "new.pdf"), "--pins", pins}, 1, "nothing was done"},
		{[]string{"invite", "batch", "x"}, 2, "--cards cards.pdf"},
		{[]string{"invite", "batch"}, 2, "say which NAME"},
		{[]string{"invite", "batch", "x", "--cards", filepath.Join(dir, "a.pdf"), "--count", "1001"}, 1, "1 to 1,000 cards"},
		{[]string{"invite", "batch", "x", "--cards", filepath.Join(dir, "a.pdf"), "--per-page", "4"}, 2, "1 or 10"},
		{[]string{"invite", "batch", "x", "--cards", filepath.Join(dir, "a.pdf"), "--expires", "2y"}, 2, "7d"},
		{[]string{"invite", "batch", "x", "--cards", filepath.Join(dir, "a.pdf"), "--expires", "900d"}, 1, "at most a year"},
		{[]string{"invite", "batch", "x", "--cards", filepath.Join(dir, "a.pdf"), "--role", "king"}, 1, "no such role"},
		{[]string{"invite", "batch", "x", "--cards", filepath.Join(dir, "a.pdf"), "--language", "xx"}, 1, "de, en, fr"},
		{[]string{"invite", "reprint", id[1], "--cards", filepath.Join(dir, "a.pdf"), "--pins", filepath.Join(dir, "new.pdf")}, 1, "used or withdrawn"},
		{[]string{"invite", "reprint", id[1]}, 2, "--cards cards.pdf"},
		{[]string{"invite", "reprint", "01JXXXXXXXXXXXXXXXXXXXXXXX", "--cards", filepath.Join(dir, "a.pdf")}, 1, "no such batch"},
		{[]string{"invite", "revoke", "01JXXXXXXXXXXXXXXXXXXXXXXX"}, 1, "no such batch"},
		{[]string{"invite", "list", "nothing"}, 1, "no such batch"},
	} {
		if _, e, code := s.CLI(t, c.args...); code != c.code || !strings.Contains(e, c.want) {
			t.Errorf("%q: %d %s", c.args, code, e)
		}
	}
	for _, f := range []string{"new.pdf", "a.pdf"} {
		if _, err := os.Stat(filepath.Join(dir, f)); err == nil {
			t.Errorf("nothing was done, and there is %s", f)
		}
	}
	var list []struct{ Name string }
	if out, e, _ := s.CLI(t, "invite", "list", "--json"); json.Unmarshal([]byte(out), &list) != nil || len(list) != 1 {
		t.Error(out, e)
	}
}

// Cards for people whom there are: by list, and for somebody who lost everything.
func TestCardsForPeople(t *testing.T) {
	s := appliancetest.Start(t)
	dir := t.TempDir()
	list, file, pins := filepath.Join(dir, "people.csv"), filepath.Join(dir, "cards.pdf"), filepath.Join(dir, "pins.pdf")
	if err := os.WriteFile(list, []byte("username,displayname\nanna,Anna Müller\nben,Ben B.\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	plan, e, _ := s.CLI(t, "user", "import", list)
	number := regexp.MustCompile(`--apply ([0-9a-f]{12})`).FindStringSubmatch(plan)
	if number == nil {
		t.Fatal(plan, e)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--cards", file}, "--apply"},
		{[]string{"--cards", file, "--links", pins, "--apply", number[1]}, "--links or --cards"},
		{[]string{"--pins", file, "--apply", number[1]}, "--pins goes with --cards"},
	} {
		if _, e, code := s.CLI(t, append([]string{"user", "import", list}, c.args...)...); code != 2 || !strings.Contains(e, c.want) {
			t.Errorf("%q: %d %s", c.args, code, e)
		}
	}
	out, e, code := s.CLI(t, "user", "import", list, "--apply", number[1], "--cards", file, "--pins", pins, "--per-page", "1")
	if code != 0 || !strings.Contains(out, "2 accounts made") || !strings.Contains(out, "2 cards are in") {
		t.Fatal(out, e)
	}
	text := words(t, file)
	if links := scan(t, file); len(links) != 2 || !strings.Contains(text, "For Anna Müller") || !strings.Contains(text, "@ben:hs.test") {
		t.Fatalf("%q %s", links, text)
	}
	codes, digits := typedCode.FindAllString(text, -1), pinLine.FindAllStringSubmatch(words(t, pins), -1)
	if len(codes) != 2 || len(digits) != 2 {
		t.Fatalf("%q %q", codes, digits)
	}
	form := url.Values{"password": {"stapler battery lamp"}, "password2": {"stapler battery lamp"}, "pin": {digits[0][1] + digits[0][2]}}
	for _, want := range []int{200, http.StatusGone} {
		resp, err := http.PostForm(s.URL+typeCode(t, s, codes[0]), form)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%d, want %d", resp.StatusCode, want)
		}
	}
	if n := login(t, s, "anna", "stapler battery lamp"); n != 200 {
		t.Errorf("the first password: %d", n)
	}
	// The same list again has nobody new, and prints nothing.
	plan, _, _ = s.CLI(t, "user", "import", list, "--json")
	var p struct{ Plan struct{ Number string } }
	if err := json.Unmarshal([]byte(plan), &p); err != nil {
		t.Fatal(err, plan)
	}
	none := filepath.Join(dir, "none.pdf")
	if out, e, code := s.CLI(t, "user", "import", list, "--apply", p.Plan.Number, "--cards", none); code != 0 || !strings.Contains(out, "0 accounts made") {
		t.Error(out, e)
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("cards for nobody")
	}

	lost := filepath.Join(dir, "anna.pdf")
	if out, e, code := s.CLI(t, "user", "recover", "anna", "--cards", lost, "--per-page", "1"); code != 0 || !strings.Contains(out, "1 cards are in") {
		t.Fatal(out, e)
	}
	links := scan(t, lost)
	if len(links) != 1 || useLink(t, s, links[0], "lamp stapler orbit") != 200 || login(t, s, "anna", "lamp stapler orbit") != 200 {
		t.Errorf("%q", links)
	}
	if _, e, code := s.CLI(t, "user", "recover", "nobody", "--cards", none); code != 1 || !strings.Contains(e, "no such user") {
		t.Error(code, e)
	}
	if b, err := os.ReadFile(lost); err != nil || !bytes.HasPrefix(b, []byte("%PDF-")) {
		t.Error(err)
	}
}
