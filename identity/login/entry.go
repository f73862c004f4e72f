package login

import (
	"errors"
	"net/http"

	"holdfast/identity/account"
)

// showEntry shows what a link that was handed out is for: an invite, or a new password
// for an account that exists. It uses nothing up: link previews fetch links.
func (p *Pages) showEntry(w http.ResponseWriter, r *http.Request) {
	l, err := p.Accounts.LinkByToken(r.Context(), r.PathValue("token"))
	switch {
	case errors.Is(err, account.ErrNoLink):
		p.showInvite(w, r)
	case err != nil:
		p.fail(w, r, err)
	default:
		p.recoverForm(w, r, http.StatusOK, l, "")
	}
}

func (p *Pages) recoverForm(w http.ResponseWriter, r *http.Request, status int, l account.Link, problem string) {
	v := view{Action: r.URL.EscapedPath(), User: l.User, UserID: l.User.UserID, Error: problem, Fixed: l.Kind == account.LinkRecovery,
		NeedsPIN: l.PIN, PIN: r.PostForm.Get("pin")}
	if l.Kind == account.LinkEnrol {
		v.Title = p.text(lang(r), "recover.enrol.title")
	}
	p.render(w, r, status, "recover", "", v)
}

func (p *Pages) doEntry(w http.ResponseWriter, r *http.Request) {
	token, lg := r.PathValue("token"), lang(r)
	l, err := p.Accounts.LinkByToken(r.Context(), token)
	if errors.Is(err, account.ErrNoLink) {
		p.doInvite(w, r)
		return
	}
	if err != nil {
		p.fail(w, r, err)
		return
	}
	password := r.PostForm.Get("password")
	if password != r.PostForm.Get("password2") {
		p.recoverForm(w, r, http.StatusBadRequest, l, p.text(lg, "invite.mismatch"))
		return
	}
	used, err := p.UseLink(r.Context(), token, password, r.PostForm.Get("pin"))
	if status, text := p.pinText(r, err); status != 0 {
		p.recoverForm(w, r, status, l, text)
		return
	}
	if errors.Is(err, account.ErrWeakPassword) { // which does not cost the link
		p.recoverForm(w, r, http.StatusBadRequest, l, p.weakText(r, err))
		return
	}
	if err != nil {
		p.fail(w, r, err)
		return
	}
	p.Log.Info("a password was set by a link", "user", used.User.UserID, "kind", used.Kind)
	if !p.passed(w, r, used.User, "pwd") {
		return
	}
	page := "recovered"
	if used.Kind == account.LinkEnrol {
		page = "welcome"
	}
	p.render(w, r, http.StatusOK, page, "", view{User: used.User, UserID: used.User.UserID})
}

// pinText is what is said about a PIN that was not taken; 0: it is not about that.
func (p *Pages) pinText(r *http.Request, err error) (status int, text string) {
	var slow *account.SlowDown
	switch {
	case errors.As(err, &slow):
		return http.StatusTooManyRequests, p.text(lang(r), "card.slow", "seconds", secondsUp(slow.Wait))
	case errors.Is(err, account.ErrPIN):
		return http.StatusForbidden, p.text(lang(r), "card.wrongPIN")
	}
	return 0, ""
}

// codeForm is a form for a code that is typed where there is no camera, or no address with it.
type codeForm struct {
	About string // begins the keys of its texts
	Path  string // where it is sent
	Field string
	Fill  string // autocomplete
	Most  int    // characters
}

func (p *Pages) askCode(w http.ResponseWriter, r *http.Request, status int, what codeForm, code, problem string) {
	p.render(w, r, status, "typed", "", view{Title: p.text(lang(r), what.About+".title"), Code: code, Error: problem, Typed: what})
}

func (p *Pages) cardForm(w http.ResponseWriter, r *http.Request, status int, code, problem string) {
	p.askCode(w, r, status, codeForm{"card", "/e", "code", "off", 64}, code, problem)
}

// showTypeCode asks for the code of a card, where there is no camera.
func (p *Pages) showTypeCode(w http.ResponseWriter, r *http.Request) {
	p.cardForm(w, r, http.StatusOK, "", "")
}

// doTypeCode leads to where the QR code of the card leads.
func (p *Pages) doTypeCode(w http.ResponseWriter, r *http.Request) {
	given := r.PostForm.Get("code")
	code, ok := account.ParseCode(given)
	if !ok {
		if len(given) > 128 {
			given = ""
		}
		p.cardForm(w, r, http.StatusBadRequest, given, p.text(lang(r), "card.malformed"))
		return
	}
	redirect(w, r, "/e/"+code)
}
