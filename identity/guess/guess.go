// Package guess knows passwords that are tried first: those that many people have, with
// the changes that people make to them, rows of keys, repetitions, and the names that a
// guesser knows.
//
// Invariants:
//   - It asks nobody: the list is in the program.
//   - words.bin has the first four bytes of the SHA-256 of each word, sorted. A password
//     that is in no list is taken for one in about 140,000 times.
//
// The words are the list of passwords of zxcvbn 4.4.2 (LICENSE.zxcvbn), by make.go.
package guess

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"sort"
	"strings"
	"unicode"
)

//go:embed words.bin
var words []byte

// Why a password is refused.
type Why string

// The reasons.
const (
	Fine   Why = ""
	Word   Why = "common" // many people have it, or nearly so
	Simple Why = "simple" // rows of keys, or the same again and again
	Name   Why = "name"   // little more than a name that is known
)

// The part of a password that people add to a word they know: as long as this it makes
// no password by itself.
const tail = 5

// leftover is how much a password must have beside names.
const leftover = 6

// Check says why a password should not be taken. about are names that a guesser knows:
// the person's, the organisation's, the server's.
func Check(password string, about ...string) Why {
	low := strings.ToLower(password)
	plain := unleet(low)
	for _, s := range []string{low, plain} {
		if listed(s) {
			return Word
		}
	}
	// "Sunshine2024!" and "!!sunshine" are the word with the usual trimmings.
	for _, s := range []string{low, plain} {
		core := strings.TrimFunc(s, func(r rune) bool { return !unicode.IsLetter(r) })
		if len(s)-len(core) <= tail && (listed(core) || core != "" && len(core)%2 == 0 && core[:len(core)/2] == core[len(core)/2:] && listed(core[:len(core)/2])) {
			return Word
		}
	}
	if simple(low) {
		return Simple
	}
	rest := low
	named := false
	for _, a := range about {
		for _, name := range strings.FieldsFunc(strings.ToLower(a), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
			if len([]rune(name)) < 3 {
				continue
			}
			for _, variant := range []string{name, reverse(name)} {
				if strings.Contains(rest, variant) || strings.Contains(unleet(rest), variant) {
					named = true
					rest = strings.ReplaceAll(rest, variant, "")
					if u := unleet(rest); strings.Contains(u, variant) {
						rest = strings.ReplaceAll(u, variant, "")
					}
				}
			}
		}
	}
	if named && (len([]rune(rest)) < leftover || simple(rest) || listed(strings.Trim(rest, " -_.!"))) {
		return Name
	}
	return Fine
}

func listed(s string) bool {
	if len(s) < 4 {
		return false
	}
	h := sha256.Sum256([]byte(s))
	n := len(words) / 4
	i := sort.Search(n, func(i int) bool { return bytes.Compare(words[i*4:i*4+4], h[:4]) >= 0 })
	return i < n && bytes.Equal(words[i*4:i*4+4], h[:4])
}

// unleet undoes what people write instead of letters.
func unleet(s string) string {
	return strings.NewReplacer("0", "o", "1", "i", "3", "e", "4", "a", "5", "s", "7", "t", "@", "a", "$", "s", "!", "i").Replace(s)
}

func reverse(s string) string {
	r := []rune(s)
	for i, j := 0, len(r)-1; i < j; i, j = i+1, j-1 {
		r[i], r[j] = r[j], r[i]
	}
	return string(r)
}

var rows = []string{"abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "qwertzuiop", "azertyuiop", "asdfghjkl", "zxcvbnm", "yxcvbnm", "1qaz2wsx3edc4rfv5tgb6yhn7ujm"}

// simple reports whether few of a password's characters are more than the next of a row,
// or a repetition.
func simple(s string) bool {
	r := []rune(s)
	if len(r) == 0 {
		return true
	}
	worth := 1
	seen := map[rune]bool{r[0]: true}
	for i := 1; i < len(r); i++ {
		seen[r[i]] = true
		if !follows(r[i-1], r[i]) {
			worth++
		}
	}
	for unit := 1; unit <= 4 && unit*2 <= len(r); unit++ {
		same := true
		for i := unit; i < len(r) && same; i++ {
			same = r[i] == r[i-unit]
		}
		if same {
			return true
		}
	}
	return worth <= 3 || len(seen) <= 3
}

// follows reports whether b is the next of a row after a, in either direction, or a again.
func follows(a, b rune) bool {
	if a == b {
		return true
	}
	for _, row := range rows {
		if strings.Contains(row, string([]rune{a, b})) || strings.Contains(row, string([]rune{b, a})) {
			return true
		}
	}
	return false
}
