package store

import (
	"strings"
	"unicode"
)

// What only SQLite has stands in this file too: its index of words, FTS5.

// FullText is an index of the words of a table. The table has an integer key and
// its words in a column "text", which must be what Text made.
type FullText struct{ Index string }

// Add puts a row's words into the index.
func (x FullText) Add(tx *Tx, row int64, text string) error {
	_, err := tx.Exec(`INSERT INTO `+x.Index+` (rowid, text) VALUES ($1, $2)`, row, text)
	return err
}

// AddFrom is Add of every row that a statement selects: its key and its text.
func (x FullText) AddFrom(tx *Tx, query string, args ...any) error {
	_, err := tx.Exec(`INSERT INTO `+x.Index+` (rowid, text) `+query, args...)
	return err
}

// Remove takes a row's words out of the index; text is what Add was given.
func (x FullText) Remove(tx *Tx, row int64, text string) error {
	_, err := tx.Exec(`INSERT INTO `+x.Index+` (`+x.Index+`, rowid, text) VALUES ('delete', $1, $2)`, row, text)
	return err
}

// From is the FROM clause that joins the index to the table's column key. The index
// is gone through first, whatever the planner thinks of the sizes.
func (x FullText) From(table, key string) string {
	return ` FROM ` + x.Index + ` CROSS JOIN ` + table + ` ON ` + key + ` = ` + x.Index + `.rowid `
}

// Matches is the condition that the row matches the TextQuery in the argument, such as "$1".
func (x FullText) Matches(arg string) string { return x.Index + ` MATCH ` + arg }

// Rank is the expression of how well the row matches: the higher the better.
func (x FullText) Rank() string { return `-bm25(` + x.Index + `)` }

// Marked is the expression of the row's text in which Marks finds the words that matched.
func (x FullText) Marked() string { return `highlight(` + x.Index + `, 0, char(2), char(3))` }

// InJSON is the condition's right side for a list of any length, which the argument
// holds as a JSON array: `WHERE room IN `+store.InJSON("$1").
func InJSON(arg string) string { return `(SELECT value FROM json_each(` + arg + `))` }

// Text is a text as the index takes it: signs of scripts that put no spaces between
// words, and symbols, become words of their own, so that any run of them is found.
func Text(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for _, r := range s {
		switch {
		case alone(r):
			b.WriteByte(' ')
			b.WriteRune(r)
			b.WriteByte(' ')
		case unicode.IsControl(r), r == unicode.ReplacementChar, unicode.Is(unicode.Variation_Selector, r), r == 0x200d:
			b.WriteByte(' ')
		default:
			b.WriteRune(r)
		}
	}
	return strings.TrimSpace(b.String())
}

// alone reports whether a sign is a word of its own.
func alone(r rune) bool {
	switch {
	case r < 0x80:
		return false
	case 0x3040 <= r && r <= 0x30ff, 0xff66 <= r && r <= 0xff9f: // with the signs that several scripts share
		return true
	}
	return unicode.Is(unicode.So, r) || unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar)
}

// inWord reports whether the index takes a sign for a part of a word.
func inWord(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.Co, unicode.So)
}

// TextQuery is what to look for in the language of the index, and of how many words
// or phrases it is made.
type TextQuery struct {
	Match string
	Parts int
}

// minPrefix is how many signs a word has at least that also stands for longer ones.
const minPrefix = 3

// ParseQuery makes a query of what a person typed: all the words have to be there,
// in any order, the longer ones also as beginnings of words; what stands in double
// quotes as it is. Nothing in the text has another meaning. Parts is 0 when it
// holds no word.
func ParseQuery(typed string) TextQuery {
	var parts []string
	seen := map[string]bool{}
	add := func(s string, quoted bool) {
		s = strings.Join(strings.Fields(strings.ReplaceAll(Text(s), `"`, " ")), " ")
		last, n, ended := rune(0), 0, false // of the last word
		for _, r := range s {
			if !inWord(r) {
				ended = true
				continue
			}
			if ended {
				n, ended = 0, false
			}
			last = r
			n++
		}
		if last == 0 {
			return
		}
		s = `"` + s + `"`
		if !quoted && n >= minPrefix && !alone(last) {
			s += `*`
		}
		if !seen[s] {
			seen[s] = true
			parts = append(parts, s)
		}
	}
	for typed != "" {
		before, rest, open := strings.Cut(typed, `"`)
		for _, w := range strings.Fields(before) {
			add(w, false)
		}
		if !open {
			break
		}
		phrase, after, closed := strings.Cut(rest, `"`)
		if !closed { // a quote that ends nowhere is none
			typed = rest
			continue
		}
		add(phrase, true)
		typed = after
	}
	return TextQuery{strings.Join(parts, " AND "), len(parts)}
}

// Marks gives the words that matched, of a text that Marked selected.
func Marks(s string) []string {
	var out []string
	for {
		_, rest, ok := strings.Cut(s, "\x02")
		if !ok {
			return out
		}
		word, after, _ := strings.Cut(rest, "\x03")
		out = append(out, untext(word))
		s = after
	}
}

// untext takes out the spaces that Text put around signs.
func untext(s string) string {
	var b strings.Builder
	fields := strings.Fields(s)
	for i, f := range fields {
		if i > 0 && !(single(f) && single(fields[i-1])) {
			b.WriteByte(' ')
		}
		b.WriteString(f)
	}
	return b.String()
}

func single(s string) bool {
	r := []rune(s)
	return len(r) == 1 && alone(r[0])
}
