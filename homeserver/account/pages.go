package account

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
)

// page is one of the few pages that the Matrix API has.
type page struct {
	Title, Text, Error string
	Submit             string // label of the button; "": there is no form
	Field              *field
	Hidden             map[string]string
	Done               bool   // tells the application that opened the page
	Next               string // address that the form's answer may lead to; "": none but ours
}

// field is the one field that a page may ask for.
type field struct{ Name, Label, Type, Autocomplete string }

// authDone tells the application behind a page that its stage is complete. Spec: cs#fallback
const authDone = `if (window.onAuthDone) { window.onAuthDone(); } else if (window.opener && window.opener.postMessage) { window.opener.postMessage("authDone", "*"); }`

var pageTemplate = template.Must(template.New("").Parse(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{.Title}}</title>
<link rel="stylesheet" href="/assets/holdfast.css">
</head>
<body>
<main class="hf-page">
<section class="hf-card">
<h1 class="hf-title">{{.Title}}</h1>
<p>{{.Text}}</p>
{{if .Error}}<p class="hf-error" role="alert">{{.Error}}</p>{{end}}
{{if .Submit}}<form method="post">
{{range $name, $value := .Hidden}}<input type="hidden" name="{{$name}}" value="{{$value}}">
{{end}}{{with .Field}}<label class="hf-field"><span class="hf-field__label">{{.Label}}</span><input class="hf-input" name="{{.Name}}" type="{{.Type}}" autocomplete="{{.Autocomplete}}" required maxlength="512"></label>
{{end}}<button class="hf-button hf-button--wide" type="submit">{{.Submit}}</button>
</form>{{end}}
</section>
</main>
{{if .Done}}<script>` + authDone + `</script>{{end}}
</body>
</html>
`))

// show answers with a page.
func (p page) show(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		form, script := "'self'", ""
		if u, err := url.Parse(p.Next); err == nil && p.Next != "" {
			form += " " + u.Scheme + "://" + u.Host
		}
		if p.Done {
			sum := sha256.Sum256([]byte(authDone))
			script = "script-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; "
		}
		var b bytes.Buffer
		if err := pageTemplate.Execute(&b, p); err != nil {
			http.Error(w, "The page could not be made.", http.StatusInternalServerError)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; "+script+"form-action "+form+"; frame-ancestors 'none'; base-uri 'none'")
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		w.Write(b.Bytes())
	}
}

func (s *Service) text(key string) string { return s.o.Text("en", key) }

// say answers with a page that only says something.
func (s *Service) say(status int, key string) http.HandlerFunc {
	return page{Title: s.text("identity." + key + ".title"), Text: s.text("identity." + key + ".text")}.show(status)
}
