package screen

import (
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// terminal understands what a session draws.
type terminal struct {
	mu   sync.Mutex
	rows [25][80]rune
	y, x int
	n    int // bytes drawn
	part string
}

var escapes = regexp.MustCompile(`^\x1b\[([0-9;?]*)([A-Za-z])`)

var unfinished = regexp.MustCompile(`^\x1b(\[[0-9;?]*)?$`)

func (t *terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n += len(p)
	s := t.part + string(p)
	t.part = ""
	for s != "" {
		if unfinished.MatchString(s) || !utf8.FullRuneInString(s) {
			t.part = s
			break
		}
		if m := escapes.FindStringSubmatch(s); m != nil {
			s = s[len(m[0]):]
			switch m[2] {
			case "H":
				y, x, _ := strings.Cut(m[1], ";")
				t.y, _ = strconv.Atoi(y)
				t.x, _ = strconv.Atoi(x)
				t.y, t.x = t.y-1, t.x-1
			case "J":
				t.rows = [25][80]rune{}
			case "K":
				clear(t.rows[t.y][t.x:])
			}
			continue
		}
		r := []rune(s)[0]
		s = s[len(string(r)):]
		switch {
		case r == '\r':
			t.x = 0
		case r == '\n':
			if t.y++; t.y == len(t.rows) {
				t.y--
			}
		case r == 0x1b:
			panic("a sequence that no terminal was meant to get: " + strconv.Quote(s))
		default:
			t.rows[t.y][t.x] = r
			t.x++
		}
	}
	return len(p), nil
}

func (t *terminal) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	for _, row := range t.rows {
		for _, r := range row {
			if r == 0 {
				r = ' '
			}
			b.WriteRune(r)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// sitting is somebody at a terminal.
type sitting struct {
	t    *testing.T
	term *terminal
	in   chan []byte
	line chan string
}

func sit(t *testing.T, info func() Info, do Actions) *sitting {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &sitting{t, &terminal{}, make(chan []byte), make(chan string, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		(&session{ctx: ctx, out: s.term, info: info, acts: do}).run(s.in, s.line, nil)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return s
}

func (s *sitting) press(keys string) {
	for _, k := range keys {
		s.in <- []byte(string(k))
	}
}

// see waits for a text.
func (s *sitting) see(want string) {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if strings.Contains(s.term.text(), want) {
			return
		}
	}
	s.t.Fatalf("%q is not on the screen:\n%s", want, s.term.text())
}

func sample() Info {
	return Info{Name: "Müller & Søn 株式会社", Version: "1.2.3", URL: "https://192.168.100.200", MoreURLs: []string{"https://10.0.0.5"},
		Claim: "ABCD-EFGH-JKMN", QR: "https://192.168.100.200/setup#code=ABCD-EFGH-JKMN", Fingerprint: strings.TrimSuffix(strings.Repeat("AB:", 32), ":"),
		Ports: []Port{{Name: "eno1", MAC: "52:54:00:12:34:56", Link: true, Addresses: []string{"192.168.100.200/24"}, Gateway: "192.168.100.1", DNS: []string{"192.168.100.1"}}},
		Disk:  "encrypted", Clock: "2026-01-01 12:00 UTC", Alarms: []string{"The first thing that is not well.", "The \x1b[2Jsecond."}}
}

func TestStatus(t *testing.T) {
	s := sit(t, sample, Actions{})
	for _, want := range []string{"Müller & Søn ????", "1.2.3", "https://192.168.100.200", "https://10.0.0.5", "ABCD-EFGH-JKMN", "eno1: 192.168.100.200/24", "(automatic)", "! The first thing", "The ?[2Jsecond.", "Enter: menu"} {
		s.see(want)
	}
	// Nothing changed, so nothing is drawn.
	s.term.mu.Lock()
	before := s.term.n
	s.term.mu.Unlock()
	s.press("x\t\x00")
	s.press("\x0c") // but now
	s.see("Enter: menu")
	if before > 8000 {
		t.Errorf("the status takes %d bytes, too long on a serial line", before)
	}
	s.line <- "HOLDFAST READY url=x\x1b[2J"
	s.see("Enter: menu")
}

// Everything that a screen may have to show fits on it.
func TestStatusWithEverything(t *testing.T) {
	in := sample()
	for i := range 8 {
		in.Ports = append(in.Ports, Port{Name: fmt.Sprintf("enp%ds0", i)})
		in.Alarms = append(in.Alarms, strings.Repeat("a long sentence about what is wrong ", 5))
		in.MoreURLs = append(in.MoreURLs, "https://[2001:db8:1234:5678:9abc:def0:1234:5678]")
	}
	in.URL, in.QR = in.MoreURLs[3], in.MoreURLs[3]+"/setup#code=ABCD-EFGH-JKMN"
	c := newCanvas()
	status(c, in)
	if got := c.line(rows - 1); !strings.Contains(got, "Enter: menu") {
		t.Errorf("the last line: %q", got)
	}
	in.Trouble = []string{strings.Repeat("trouble ", 100), "more"}
	status(newCanvas(), in)
}

// The QR code that stands on the canvas is the one that was meant: what is drawn is
// read back module by module.
func TestCode(t *testing.T) {
	c := newCanvas()
	n := c.code(0, cols-1, "https://192.168.100.200/setup#code=ABCD-EFGH-JKMN")
	if n != 33 {
		t.Fatalf("%d columns, want 29 and two margins of 2", n)
	}
	img := image.NewGray(image.Rect(0, 0, n, n+1))
	for y := range (n + 1) / 2 {
		for x := range n {
			cell := c[y][cols-1-n+x]
			if cell.s != paper {
				t.Fatalf("cell %d,%d has style %d", y, x, cell.s)
			}
			top, bottom := cell.r == '█' || cell.r == '▀', cell.r == '█' || cell.r == '▄'
			for i, light := range []bool{top, bottom} {
				if light {
					img.SetGray(x, 2*y+i, color.Gray{255})
				}
			}
		}
	}
	// The three finders, of 7 modules, at their corners behind the margin.
	for _, corner := range []image.Point{{2, 2}, {n - 9, 2}, {2, n - 9}} {
		for i := range 7 {
			for _, p := range []image.Point{{corner.X + i, corner.Y}, {corner.X, corner.Y + i}, {corner.X + 6, corner.Y + i}, {corner.X + i, corner.Y + 6}} {
				if img.GrayAt(p.X, p.Y).Y != 0 {
					t.Fatalf("the finder at %v has a gap at %v", corner, p)
				}
			}
		}
		if img.GrayAt(corner.X+1, corner.Y+1).Y == 0 || img.GrayAt(corner.X+3, corner.Y+3).Y != 0 {
			t.Fatalf("the finder at %v is not one", corner)
		}
	}
	if n := newCanvas().code(0, cols-1, strings.Repeat("x", 2000)); n != 0 {
		t.Errorf("a code that has no room takes %d columns", n)
	}
}

func TestPassword(t *testing.T) {
	in := sample()
	in.Locked = true
	var tries []string
	restarted := make(chan bool, 1)
	s := sit(t, func() Info { return in }, Actions{
		CheckPassword: func(_ context.Context, p string) error {
			if tries = append(tries, p); p != "right" {
				return errors.New("this is not the console password")
			}
			return nil
		},
		Restart: func() { restarted <- true },
	})
	s.press("\r")
	s.see("locked with the console password")
	s.press("wronk\x7fg\r")
	s.see("This is not the console password.")
	s.press("right\r")
	s.see("1  Restart")
	s.press("1no\r")
	s.see("Nothing was done")
	s.press("\x15yes\r")
	<-restarted
	s.see("Open this address")
	if fmt.Sprint(tries) != "[wrong right]" {
		t.Errorf("tried: %q", tries)
	}
	if strings.Contains(s.term.text(), "right") {
		t.Error("the password stands on the screen")
	}
	s.press("m")
	s.see("locked with the console password") // again
	s.in <- []byte{0x1b}
	s.see("Open this address")
}

func TestNetwork(t *testing.T) {
	var got Fixed
	s := sit(t, sample, Actions{
		Automatic: func(context.Context, string) error { return errors.New("nobody answers") },
		Fixed: func(_ context.Context, port string, f Fixed) error {
			if got = f; port != "eno1" {
				return fmt.Errorf("port %q", port)
			}
			return nil
		},
	})
	s.press("\r")
	s.see("1  Network")
	s.press("1")
	s.see("52:54:00:12:34:56")
	s.press("1")
	s.see("Gateway: 192.168.100.1")
	s.press("1")
	s.see("Nobody answers.")
	s.press("\r")
	s.see("Fixed IPv4 address")
	s.press("2")
	s.see("Address with its network")
	s.press("\x1510.1.2.3/16\r")
	s.press("\x1510.1.0.1\r")
	s.press("\x15" + strings.Repeat("9", 3*longestInput))
	s.press("\r")
	s.see("It stays after a restart.")
	if want := (Fixed{"10.1.2.3/16", "10.1.0.1", strings.Repeat("9", longestInput)}); got != want {
		t.Errorf("%+v", got)
	}
}

func TestUnlock(t *testing.T) {
	in := Info{Passphrase: true, Stage: "The data is encrypted."}
	var mu sync.Mutex
	s := sit(t, func() Info { mu.Lock(); defer mu.Unlock(); return in }, Actions{Unlock: func(_ context.Context, p string) error {
		if p != "abc" {
			return errors.New("this passphrase does not open the data")
		}
		mu.Lock()
		in.Passphrase, in.Stage = false, "Starting..."
		mu.Unlock()
		return nil
	}})
	s.see("type the recovery passphrase")
	s.press("\rxyz\r")
	s.see("does not open the data.")
	s.press("abc\r")
	s.see("Starting...")
}

func TestRecoveryNeedsAPassword(t *testing.T) {
	in := sample()
	in.Claim = "" // it is in use, and nobody at the screen has shown who they are
	do := Actions{NewRecovery: func(context.Context) (string, error) { return "AAAAA-BBBBB", nil },
		ConfirmRecovery: func(_ context.Context, typed string) error {
			if typed != "aaaaa bbbbb" {
				return errors.New("this is not it")
			}
			return nil
		},
		AdminInvite: func(context.Context) (string, error) { return "https://10.0.0.1/e/secret", nil }, ShutDown: func() {}}
	s := sit(t, func() Info { return in }, do)
	s.press("\r")
	s.see("1  Shut down")

	in.Locked = true
	do.CheckPassword = func(context.Context, string) error { return nil }
	s = sit(t, func() Info { return in }, do)
	s.press("\r")
	s.press("pw\r")
	s.see("2  Make a new recovery")
	s.press("2yes\r")
	s.see("AAAAA-BBBBB")
	s.press("aaaaa\r")
	s.see("This is not it.")
	s.press(" bbbbb\r")
	s.see("in force now")
	s.press("\r")
	s.see("1  Make a link for a new administrator")
	s.press("1yes\r")
	s.see("https://10.0.0.1/e/secret")
}

func TestKeys(t *testing.T) {
	var k keys
	for in, want := range map[string]string{
		"a": "[97]", "\r": "[-1]", "\x1b[A": "[-4]", "\x1b[B": "[-5]", "\x1bOA": "[-4]", "\x1b[[A": "[0]", "\x1b[15~": "[0]",
		"ü": "[252]", "\xff": "[0]", "\x7f\x08": "[-3 -3]", "\x1b[1;5C": "[0]", "\x1bx": "[0]",
	} {
		got := "["
		for i := range len(in) {
			for _, p := range k.feed([]byte{in[i]}) {
				got += fmt.Sprint(int(p)) + " "
			}
		}
		got = strings.TrimSuffix(got, " ") + "]"
		want := strings.ReplaceAll(want, "[0]", "[]")
		if got != want || len(k.part) != 0 {
			t.Errorf("%q: %s, want %s; %q is left", in, got, want, k.part)
		}
	}
	k.feed([]byte("\x1b"))
	if got := k.flush(); len(got) != 1 || got[0] != keyEscape {
		t.Errorf("a lone escape: %v", got)
	}
}

// Whatever comes by the line, the session neither stops nor grows.
func FuzzSession(f *testing.F) {
	f.Add([]byte("\r\r\r1\x1b[B\x7f"))
	f.Add([]byte("\x1b[[[[[[[[[[[[[[[[[[[[m"))
	f.Fuzz(func(t *testing.T, in []byte) {
		info := sample()
		info.Locked = len(in)%2 == 0
		no := func(context.Context) error { return errors.New("no") }
		s := &session{ctx: t.Context(), out: &terminal{}, info: func() Info { return info }, done: make(chan finished), acts: Actions{
			CheckPassword: func(context.Context, string) error { return nil },
			Automatic:     func(context.Context, string) error { return nil },
			Fixed:         func(context.Context, string, Fixed) error { return errors.New("no") }, NewClaim: no,
			Sticks: func(context.Context) ([]Stick, error) { return []Stick{{Version: "1", Older: true}}, nil },
			Stage:  func(context.Context, Stick) error { return nil }, Log: func(int) []string { return []string{"a\x1b[2J"} },
			Restart: func() {}, ShutDown: func() {},
		}}
		var k keys
		for _, c := range in {
			for _, p := range k.feed([]byte{c}) {
				s.press(p)
			}
			if len(k.part) > longestSequence {
				t.Fatal("a sequence without an end")
			}
			for w, busy := s.page.(*working); busy; w, busy = s.page.(*working) {
				if f := <-s.done; f.of == w {
					s.page = f.next()
				}
			}
			if err := s.draw(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A real terminal line: the kernel's own pair of pseudo terminals.
func TestTerminal(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("this machine gives no pseudo terminals: ", err)
	}
	defer master.Close()
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			if err != nil {
				return
			}
			term.Write(b[:n])
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan bool, 1)
	screens := Run(ctx, []string{fmt.Sprintf("/dev/pts/%d", n)}, sample, Actions{ShutDown: func() { stopped <- true }}, discard())
	s := &sitting{t: t, term: term}
	s.see("Enter: menu")
	screens.Say("HOLDFAST READY")
	master.WriteString("\r")
	s.see("1  Shut down")
	master.WriteString("1")
	s.see("Type yes")
	master.WriteString("yes\r")
	<-stopped
	cancel()
	screens.Wait()
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
