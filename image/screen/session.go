package screen

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// session is one terminal and who sits at it.
type session struct {
	ctx  context.Context
	out  io.Writer
	info func() Info
	acts Actions
	done chan finished

	page  page
	drawn [rows]string
	whole bool // nothing of what stands on the terminal is known
	y, x  int  // where the upper left corner is
}

// lineQueue is how many lines for a terminal wait while it takes none.
const lineQueue = 64

// run shows the status and takes keys until ctx is done or the terminal ends.
func (s *session) run(in <-chan []byte, lines <-chan string, changed <-chan struct{}) {
	s.done = make(chan finished)
	s.whole = true
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var k keys
	lastKey := time.Now()
	var escape <-chan time.Time
	take := func(pressed []key) {
		for _, p := range pressed {
			lastKey = time.Now()
			s.press(p)
		}
	}
	for s.draw() == nil {
		select {
		case <-s.ctx.Done():
			s.draw() // the last word
			return
		case b, ok := <-in:
			if !ok {
				in = nil // the status is still shown
				continue
			}
			take(k.feed(b))
			escape = nil
			if len(k.part) > 0 {
				escape = time.After(escapeTime)
			}
		case <-escape:
			escape = nil
			take(k.flush())
		case f := <-s.done:
			if s.page == page(f.of) {
				s.page = f.next()
				lastKey = time.Now()
			}
		case line := <-lines:
			s.say(line)
		case <-changed:
		case now := <-tick.C:
			if _, busy := s.page.(*working); s.page != nil && !busy && now.Sub(lastKey) > Idle {
				s.page = nil
			}
		}
	}
}

func (s *session) press(k key) {
	switch {
	case k == keyRedraw:
		s.whole = true
	case s.page != nil:
		s.page = s.page.key(s, k)
	case k == keyEnter:
		s.page = s.enter()
	case k == 'm' || k == 'M':
		s.page = s.guarded(s.info())
	}
}

// draw brings the terminal up to date.
func (s *session) draw() error {
	c := newCanvas()
	in := s.info()
	if s.page == nil {
		status(c, in)
	} else {
		s.page.draw(c, in)
	}
	var b strings.Builder
	if s.whole {
		b.WriteString("\x1b[0m\x1b[?25l\x1b[2J")
		s.drawn = [rows]string{}
	}
	for y := range c {
		line := c.line(y)
		if line != s.drawn[y] {
			fmt.Fprintf(&b, "\x1b[%d;%dH%s", s.y+y+1, s.x+1, line)
			s.drawn[y] = line
		}
	}
	s.whole = false
	if b.Len() == 0 {
		return nil
	}
	_, err := io.WriteString(s.out, b.String())
	return err
}

// say writes a line for whoever records the terminal; the screen is drawn anew.
func (s *session) say(line string) {
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, line)
	fmt.Fprintf(s.out, "\x1b[0m\x1b[%d;1H\r\n%s\r\n", rows, clean)
	s.whole = true
}

// Screens are the terminals of the machine.
type Screens struct {
	ctx     context.Context
	mu      sync.Mutex
	lines   []chan string
	changes []chan struct{}
	wg      sync.WaitGroup
}

// Say writes a line to the terminals that record, the serial ones.
func (s *Screens) Say(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.lines {
		select {
		case c <- line:
		default: // nobody reads that terminal
		}
	}
}

// Changed has the status looked at now, not within a second.
func (s *Screens) Changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.changes {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Wait returns when all terminals were left, after the context's end.
func (s *Screens) Wait() { s.wg.Wait() }
