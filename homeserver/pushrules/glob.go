package pushrules

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// glob is a pattern with * (any characters) and ? (one), matched without regard
// to case. Its states are the characters matched so far, kept as a set of bits,
// so that matching takes time linear in the text.
// Spec: appendices#glob-style-matching
type glob struct {
	literal string // the pattern, if it has no wildcards
	plain   bool
	n       int               // characters other than *
	char    map[rune][]uint64 // states from which a character leads on
	any     []uint64          // states from which any character leads on
	star    []uint64          // states that any character keeps
}

func fold(r rune) rune {
	if r < utf8.RuneSelf {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}
	return unicode.ToLower(unicode.ToUpper(r))
}

func compileGlob(pattern string) *glob {
	if len(pattern) > maxPattern {
		pattern = pattern[:maxPattern]
	}
	g := &glob{literal: pattern, plain: !strings.ContainsAny(pattern, "*?")}
	for _, r := range pattern {
		if r != '*' {
			g.n++
		}
	}
	words := g.n/64 + 1
	g.any, g.star, g.char = make([]uint64, words), make([]uint64, words), map[rune][]uint64{}
	i := 0
	for _, r := range pattern {
		set := g.any
		switch r {
		case '*':
			g.star[i/64] |= 1 << (i % 64)
			continue
		case '?':
		default:
			r = fold(r)
			if set = g.char[r]; set == nil {
				set = make([]uint64, words)
				g.char[r] = set
			}
		}
		set[i/64] |= 1 << (i % 64)
		i++
	}
	return g
}

// step leads the states on by a character.
func (g *glob) step(s []uint64, r rune) {
	chars := g.char[fold(r)]
	var carry uint64
	for w, x := range s {
		on := g.any[w]
		if chars != nil {
			on |= chars[w]
		}
		on &= x
		s[w] = on<<1 | carry | x&g.star[w]
		carry = on >> 63
	}
}

func (g *glob) done(s []uint64) bool { return s[g.n/64]&(1<<(g.n%64)) != 0 }

// match reports whether the pattern matches all of the text.
func (g *glob) match(text string) bool {
	if g.plain {
		return strings.EqualFold(text, g.literal)
	}
	var buf [4]uint64
	s := append(buf[:0], g.any...)
	clear(s)
	s[0] = 1
	for _, r := range text {
		g.step(s, r)
	}
	return g.done(s)
}

func word(r rune) bool {
	return '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || r == '_'
}

// matchWords reports whether the pattern matches a part of the text that begins
// and ends at a word boundary.
func (g *glob) matchWords(text string) bool {
	if g.n == 0 {
		return false
	}
	var buf [4]uint64
	s := append(buf[:0], g.any...)
	clear(s)
	before := rune(' ')
	for i := 0; i <= len(text); {
		after, size := rune(' '), 1
		if i < len(text) {
			after, size = utf8.DecodeRuneInString(text[i:])
		}
		if boundary := !word(before) || !word(after); boundary {
			if g.done(s) {
				return true
			}
			s[0] |= 1
		}
		if i < len(text) {
			g.step(s, after)
		}
		before = after
		i += size
	}
	return false
}
