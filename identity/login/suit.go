package login

import (
	"context"
	"net/http"
	"strings"

	"holdfast/identity/opstore"
)

// maxLocales bounds the parameter ui_locales.
const maxLocales = 200

// Prefer has the pages of a request speak the languages that an application asked for, as
// far as there are texts, before those of the browser. Spec: OpenID Connect Core section
// 3.1.2.1, ui_locales
func Prefer(r *http.Request, locales string) {
	if locales == "" || len(locales) > maxLocales {
		return
	}
	all := strings.Join(strings.Fields(locales), ", ")
	if had := r.Header.Get("Accept-Language"); had != "" {
		all += ", " + had
	}
	r.Header.Set("Accept-Language", all)
}

type popupKey struct{}

// Suit has the pages of a request be as the application asked for: ui_locales and display.
func (p *Pages) Suit(r *http.Request, req *opstore.Request) {
	Prefer(r, req.Locales)
	if req.Popup {
		*r = *r.WithContext(context.WithValue(r.Context(), popupKey{}, true))
	}
}

// leaveOpener lets the page that opened this one in a window of its own go on talking to
// that window, where the application said that it would (display=popup): else the browser
// would part them for good, and the application would never see that its page came back.
func leaveOpener(w http.ResponseWriter, r *http.Request) {
	if r.Context().Value(popupKey{}) != nil {
		w.Header().Set("Cross-Origin-Opener-Policy", "unsafe-none")
	}
}
