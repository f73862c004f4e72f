package account

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
	"strings"

	"holdfast/homeserver/route"
)

// page is one of the few pages that the Matrix API has.
type page struct {
	Title, Text, Error string
	Submit             string // label of the button; "": there is no form
	Fields             []field
	Hidden             map[string]string
	Script             template.JS // runs on the page
	Connect            bool        // whether the script may ask this server
	Next               string      // address that the form's answer may lead to; "": none but ours
}

// field is what a page may ask for.
type field struct{ Name, Label, Type, Autocomplete string }

// authDone tells the application behind a page that its stage is complete. Spec: cs#fallback
const authDone template.JS = `if (window.onAuthDone) { window.onAuthDone(); } else if (window.opener && window.opener.postMessage) { window.opener.postMessage("authDone", "*"); }`

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
{{if or .Error .Connect}}<p class="hf-error" role="alert"{{if not .Error}} hidden{{end}}>{{.Error}}</p>{{end}}
{{if .Submit}}<form method="post">
{{range $name, $value := .Hidden}}<input type="hidden" name="{{$name}}" value="{{$value}}">
{{end}}{{range .Fields}}<div class="hf-field"><label for="{{.Name}}">{{.Label}}</label><input id="{{.Name}}" name="{{.Name}}" type="{{.Type}}" autocomplete="{{.Autocomplete}}" required maxlength="512"></div>
{{end}}<button class="hf-button hf-button--wide" type="submit">{{.Submit}}</button>
</form>{{end}}
</section>
</main>
{{if .Script}}<script>{{.Script}}</script>{{end}}
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
		if p.Script != "" {
			sum := sha256.Sum256([]byte(p.Script))
			script = "script-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; "
		}
		if p.Connect {
			script += "connect-src 'self'; "
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

// logIn sends the form of the login page, and gives the answer to the application
// that shows the page. Spec: cs#login-fallback
const logIn template.JS = `document.querySelector("form").addEventListener("submit", async (e) => {
	e.preventDefault();
	const form = new FormData(e.target), problem = document.querySelector("[role=alert]"), button = document.querySelector("button");
	const body = {type: "m.login.password", identifier: {type: "m.id.user", user: form.get("username")}, password: form.get("password")};
	const given = new URLSearchParams(location.search);
	for (const k of ["device_id", "initial_device_display_name"]) if (given.has(k)) body[k] = given.get(k);
	if (given.get("refresh_token") === "true") body.refresh_token = true;
	button.disabled = true;
	problem.hidden = true;
	let answer;
	try {
		const r = await fetch("/_matrix/client/v3/login", {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});
		answer = await r.json();
	} catch (err) {
		answer = {error: String(err)};
	}
	button.disabled = false;
	if (!answer.access_token) {
		problem.textContent = answer.error;
		problem.hidden = false;
		return;
	}
	if (window.matrixLogin && window.matrixLogin.onLogin) window.matrixLogin.onLogin(answer);
	e.target.remove();
});`

// loginPage is for clients that know none of our ways to sign in. Spec: cs#login-fallback
func (s *Service) loginPage(context.Context, *route.Request) (any, error) {
	return page{Title: s.text("identity.fallback.title"), Text: strings.ReplaceAll(s.text("identity.fallback.text"), "{server}", s.o.ServerName), Submit: s.text("identity.login.submit"),
		Fields: []field{{"username", s.text("identity.login.username"), "text", "username"}, {"password", s.text("identity.login.password"), "password", "current-password"}},
		Script: logIn, Connect: true}.show(http.StatusOK), nil
}
