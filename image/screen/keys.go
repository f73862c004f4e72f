package screen

import (
	"time"
	"unicode/utf8"
)

// key is one key: a letter, or one of these.
type key rune

const (
	keyEnter key = -iota - 1
	keyEscape
	keyBackspace
	keyUp
	keyDown
	keyRedraw
	keyClear // the line
)

// escapeTime is how long after an escape its sequence may take; a slow serial
// line sends a letter in a tenth of a millisecond.
const escapeTime = 50 * time.Millisecond

// longestSequence is where something is no terminal's sequence any more.
const longestSequence = 16

// keys turns what a terminal sends into keys. It remembers a sequence that has
// begun, at most longestSequence bytes of it.
type keys struct{ part []byte }

// feed takes bytes and returns the keys that are complete.
func (k *keys) feed(b []byte) (out []key) {
	for _, c := range b {
		k.part = append(k.part, c)
		if pressed, done := decode(k.part); done {
			k.part = k.part[:0]
			if pressed != 0 {
				out = append(out, pressed)
			}
		} else if len(k.part) >= longestSequence {
			k.part = k.part[:0]
		}
	}
	return out
}

// flush is for the pause after a lone escape.
func (k *keys) flush() (out []key) {
	if len(k.part) == 1 && k.part[0] == 0x1b {
		out = []key{keyEscape}
	}
	k.part = k.part[:0]
	return out
}

// decode reads one key; done is false while more is to come. Keys that the menu has
// no use for are 0.
func decode(b []byte) (pressed key, done bool) {
	switch c := b[0]; {
	case c == '\r' || c == '\n':
		return keyEnter, true
	case c == 0x08 || c == 0x7f:
		return keyBackspace, true
	case c == 0x0c || c == 0x12: // Ctrl-L, Ctrl-R
		return keyRedraw, true
	case c == 0x15: // Ctrl-U
		return keyClear, true
	case c == 0x1b:
		return sequence(b)
	case c < ' ':
		return 0, true
	case c < utf8.RuneSelf:
		return key(c), true
	}
	if !utf8.FullRune(b) {
		return 0, false
	}
	r, _ := utf8.DecodeRune(b)
	if r == utf8.RuneError {
		return 0, true
	}
	return key(r), true
}

func sequence(b []byte) (key, bool) {
	if len(b) < 2 {
		return 0, false
	}
	if b[1] != '[' && b[1] != 'O' {
		return 0, true
	}
	last := b[len(b)-1]
	if len(b) == 2 || last < 0x40 || last > 0x7e || len(b) == 3 && last == '[' {
		return 0, false // "\x1b[[A" is F1 on the kernel's console
	}
	switch {
	case len(b) == 3 && last == 'A':
		return keyUp, true
	case len(b) == 3 && last == 'B':
		return keyDown, true
	}
	return 0, true
}
