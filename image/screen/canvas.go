package screen

import (
	"strings"

	"rsc.io/qr"
)

// The size that every screen has: an old VGA console has one line more, and the
// last column is left free since terminals differ in what they do after it.
const (
	rows = 24
	cols = 79
)

type style byte

const (
	plain style = iota
	bold
	inverse
	alarm
	// paper is dark on light whatever the terminal's colours are, for QR codes.
	paper
)

var sgr = [...]string{plain: "0", bold: "0;1", inverse: "0;7", alarm: "0;1;31", paper: "0;37;40"}

type cell struct {
	r rune
	s style
}

// canvas is a screen in memory.
type canvas [rows][cols]cell

func newCanvas() *canvas {
	var c canvas
	for y := range c {
		for x := range c[y] {
			c[y][x].r = ' '
		}
	}
	return &c
}

// printable is a letter that every console's font has, or a question mark. Letters
// of other scripts are none: the kernel's fonts have 256.
func printable(r rune) rune {
	switch {
	case r >= ' ' && r <= '~', r >= 0xa1 && r <= 0xff && r != 0xad, r == '▀', r == '▄', r == '█', r == '─':
		return r
	case r == '–', r == '—', r == '‑':
		return '-'
	case r == '“', r == '”', r == '„':
		return '"'
	case r == '’', r == '‘':
		return '\''
	case r == '…':
		return '.'
	case r == '\t', r == 0xa0:
		return ' '
	}
	return '?'
}

// put writes a text of at most width letters and returns the column after it.
func (c *canvas) put(y, x, width int, s style, text string) int {
	n := 0
	for _, r := range text {
		if n == width || x >= cols || y < 0 || y >= rows {
			break
		}
		c[y][x] = cell{printable(r), s}
		x, n = x+1, n+1
	}
	return x
}

// bar fills a line.
func (c *canvas) bar(y int, left, right string) {
	for x := range c[y] {
		c[y][x] = cell{' ', inverse}
	}
	c.put(y, 1, cols-2-len([]rune(right)), inverse, left)
	c.put(y, cols-1-len([]rune(right)), cols, inverse, right)
}

// wrap breaks a text into lines at blanks.
func wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		for len([]rune(word)) > width { // an address or a path
			if line != "" {
				lines, line = append(lines, line), ""
			}
			lines = append(lines, string([]rune(word)[:width]))
			word = string([]rune(word)[width:])
		}
		switch {
		case line == "":
			line = word
		case len([]rune(line))+1+len([]rune(word)) <= width:
			line += " " + word
		default:
			lines, line = append(lines, line), word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// para writes a wrapped text and returns the line after it.
func (c *canvas) para(y, x, width, most int, s style, text string) int {
	for i, line := range wrap(text, width) {
		if i == most || y >= rows-1 {
			break
		}
		c.put(y, x, width, s, line)
		y++
	}
	return y
}

// code draws a QR code with its light margin, two modules of it in each cell, so
// that they are square on every usual console. It returns the columns it took, 0
// where there is no room.
func (c *canvas) code(y, right int, text string) int {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return 0
	}
	const margin = 2
	size := code.Size + 2*margin
	height := (size + 1) / 2
	if y+height > rows-1 || size > right {
		return 0
	}
	light := func(x, y int) bool {
		x, y = x-margin, y-margin
		return x < 0 || y < 0 || x >= code.Size || y >= code.Size || !code.Black(x, y)
	}
	for row := range height {
		for x := range size {
			r := ' '
			switch top, bottom := light(x, 2*row), 2*row+1 < size && light(x, 2*row+1); {
			case top && bottom:
				r = '█'
			case top:
				r = '▀'
			case bottom:
				r = '▄'
			}
			c[y+row][right-size+x] = cell{r, paper}
		}
	}
	return size
}

// line is a row as a terminal gets it.
func (c *canvas) line(y int) string {
	var b strings.Builder
	s := style(255)
	end := cols
	for end > 0 && c[y][end-1] == (cell{' ', plain}) {
		end--
	}
	for _, x := range c[y][:end] {
		if x.s != s {
			s = x.s
			b.WriteString("\x1b[" + sgr[s] + "m")
		}
		b.WriteRune(x.r)
	}
	b.WriteString("\x1b[0m\x1b[K")
	return b.String()
}
