package login

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
)

// submitScript sends the one form of the page; it alone may run there.
const submitScript = `document.forms[0].submit()`

var (
	submitHash = func() string {
		h := sha256.Sum256([]byte(submitScript))
		return base64.StdEncoding.EncodeToString(h[:])
	}()
	formPost = template.Must(template.New("").Parse(`<!doctype html>
<html lang="{{.Lang}}">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{{.Title}}</title><link rel="stylesheet" href="/assets/holdfast.css"></head>
<body><main class="hf-page">
<form class="hf-card" method="post" action="{{.To}}">
{{range $k, $v := .Values}}<input type="hidden" name="{{$k}}" value="{{index $v 0}}">
{{end}}<h1 class="hf-title">{{.Title}}</h1>
<button class="hf-button hf-button--wide" type="submit">{{.Go}}</button>
</form>
</main><script>` + submitScript + `</script></body>
</html>
`))
)

// FormPost sends the browser back to an application with the answer in a form, which a
// page of ours sends on. Spec: OAuth 2.0 Form Post Response Mode
func (p *Pages) FormPost(w http.ResponseWriter, r *http.Request, to string, v url.Values) {
	l := lang(r)
	var buf bytes.Buffer
	err := formPost.Execute(&buf, map[string]any{"Lang": l, "Title": p.text(l, "formPost.title"), "Go": p.text(l, "formPost.go"), "To": template.URL(to), "Values": v}) // #nosec: it is a registered redirect URI
	if err != nil {
		p.fail(w, r, err)
		return
	}
	SecurityHeaders(w, to)
	leaveOpener(w, r)
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'sha256-"+submitHash+"'; form-action "+formSource(to)+"; frame-ancestors 'none'; base-uri 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Type", "text/html; charset=utf-8")
	w.Write(buf.Bytes())
}
