package cards

import (
	"embed"
	"encoding/json"
	"errors"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
)

// ErrLanguage: there are no texts in this language.
var ErrLanguage = errors.New("cards: there are no texts in this language")

// Standard is the language of who chose none.
const Standard = "en"

// What is printed stands in one table per language, texts/LANGUAGE.json, all with the same
// keys. A new one needs no more than its file. "language" is what the language calls
// itself, "date" how it writes days, in the form of package time.
//
//go:embed texts/*.json
var files embed.FS

var tables = sync.OnceValue(func() map[string]map[string]string {
	all := map[string]map[string]string{}
	names, _ := files.ReadDir("texts")
	for _, n := range names {
		b, err := files.ReadFile(path.Join("texts", n.Name()))
		table := map[string]string{}
		if err == nil {
			err = json.Unmarshal(b, &table)
		}
		if err != nil {
			panic("cards: " + n.Name() + ": " + err.Error())
		}
		all[strings.TrimSuffix(n.Name(), ".json")] = table
	}
	return all
})

// Language is one that cards can be printed in.
type Language struct {
	Tag  string `json:"tag"`  // BCP 47, as "de"
	Name string `json:"name"` // as it calls itself
}

// Languages are those that cards can be printed in, by their tags.
func Languages() (out []Language) {
	for _, tag := range slices.Sorted(maps.Keys(tables())) {
		out = append(out, Language{tag, tables()[tag]["language"]})
	}
	return out
}

// CheckLanguage is the tag of a language; "" is Standard. Errors: ErrLanguage.
func CheckLanguage(tag string) (string, error) {
	if tag == "" {
		tag = Standard
	}
	if tables()[tag] == nil {
		return "", ErrLanguage
	}
	return tag, nil
}
