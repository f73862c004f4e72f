package web

import (
	_ "embed"
	"encoding/json"
	"sync"
)

// The message catalogue of the user interface is also that of the pages that the
// appliance writes itself, so that a text is translated once.
//
//go:embed ui/src/i18n/en.json
var english []byte

var catalogue = sync.OnceValue(func() map[string]string {
	m := map[string]string{}
	if err := json.Unmarshal(english, &m); err != nil {
		panic("web: the message catalogue in this build is damaged: " + err.Error())
	}
	return m
})

// Text is a text of the catalogue, or "" for a key that it does not have. There
// is only English yet, so lang does not matter.
func Text(lang, key string) string { return catalogue()[key] }
