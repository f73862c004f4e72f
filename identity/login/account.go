package login

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"holdfast/identity/account"
	"holdfast/identity/opstore"
	"holdfast/identity/register"
)

// Actions of the account page, with the names that older clients use.
// Spec: cs#account-management-url-actions, MSC4191
var actions = map[string]string{
	"":                               "account",
	"org.matrix.profile":             "profile",
	"org.matrix.devices_list":        "devices",
	"org.matrix.sessions_list":       "devices",
	"org.matrix.device_view":         "deviceview",
	"org.matrix.session_view":        "deviceview",
	"session_view":                   "deviceview",
	"org.matrix.device_delete":       "device",
	"org.matrix.session_end":         "device",
	"session_end":                    "device",
	"sessions_list":                  "devices",
	"profile":                        "profile",
	"org.matrix.account_deactivate":  "deactivate",
	"org.matrix.cross_signing_reset": "reset",
	"password":                       "password",
}

// Actions are the actions to announce in the metadata.
func Actions() []string {
	return []string{
		"org.matrix.profile", "org.matrix.devices_list", "org.matrix.device_view", "org.matrix.device_delete",
		"org.matrix.account_deactivate", "org.matrix.cross_signing_reset",
		"org.matrix.sessions_list", "org.matrix.session_view", "org.matrix.session_end",
	}
}

// signedIn is who is signed in, or sends the browser to the login page and back.
func (p *Pages) signedIn(w http.ResponseWriter, r *http.Request) (account.Browser, bool) {
	b, in := p.SignedIn(r)
	if !in {
		next := "/account"
		if r.Method == http.MethodGet {
			next = r.URL.RequestURI()
		}
		redirect(w, r, "/login?"+url.Values{"next": {next}}.Encode())
	}
	return b, in
}

// stepUp is signedIn for what cannot be undone: the sign-in must be fresh.
func (p *Pages) stepUp(w http.ResponseWriter, r *http.Request) (account.Browser, bool) {
	b, in := p.signedIn(w, r)
	if !in {
		return b, false
	}
	fresh, err := p.Fresh(r.Context(), b)
	if err != nil {
		p.fail(w, r, err)
		return b, false
	}
	if !fresh {
		next := "/account"
		if r.Method == http.MethodGet {
			next = r.URL.RequestURI()
		} else if a := r.PostForm.Get("action"); a != "" {
			next = "/account?" + url.Values{"action": {a}}.Encode()
		} else if strings.HasPrefix(r.URL.Path, "/account/security/") {
			next = "/account/security"
		}
		redirect(w, r, "/reauth?"+url.Values{"next": {next}}.Encode())
		return b, false
	}
	return b, true
}

func (p *Pages) showAccount(w http.ResponseWriter, r *http.Request) {
	page, known := actions[r.URL.Query().Get("action")]
	if !known {
		page = "account"
	}
	if page == "reset" || page == "deactivate" {
		if b, ok := p.stepUp(w, r); ok {
			p.accountPage(w, r, http.StatusOK, page, b, "", "")
		}
		return
	}
	signedIn := p.signedIn
	if page == "password" {
		signedIn = p.stepUpSecond
	}
	if b, ok := signedIn(w, r); ok {
		p.accountPage(w, r, http.StatusOK, page, b, "", "")
	}
}

// stepUpSecond is stepUp where the page itself asks for the password: only who has a
// second factor has to prove it anew.
func (p *Pages) stepUpSecond(w http.ResponseWriter, r *http.Request) (account.Browser, bool) {
	b, ok := p.signedIn(w, r)
	if !ok {
		return b, false
	}
	has, err := p.Factors.Of(r.Context(), b.User.ID)
	if err != nil {
		p.fail(w, r, err)
		return b, false
	}
	if has.Any() {
		return p.stepUp(w, r)
	}
	return b, true
}

func (p *Pages) accountPage(w http.ResponseWriter, r *http.Request, status int, page string, b account.Browser, problem, notice string) {
	all, err := p.Sessions.Sessions(r.Context(), b.User.ID)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	v := view{User: b.User, UserID: b.User.UserID, Error: problem, Notice: notice}
	if err = p.showDemand(r, b.User, &v.Factor); err == nil && v.Factor.Wanted {
		v.Factor.State, err = p.Factors.Of(r.Context(), b.User.ID)
	}
	if err != nil {
		p.fail(w, r, err)
		return
	}
	if err = p.Accounts.Local(r.Context(), b.User.ID); errors.Is(err, account.ErrElsewhere) {
		v.Elsewhere, err = true, nil
	}
	if err != nil {
		p.fail(w, r, err)
		return
	}
	if v.Emails, err = p.Accounts.Emails(r.Context(), b.User.ID); err != nil {
		p.fail(w, r, err)
		return
	}
	if v.Kept, err = p.Kept(r.Context(), b.User.UserID); err != nil {
		p.fail(w, r, err)
		return
	}
	v.DisplayName = b.User.DisplayName
	if p.DisplayName != nil {
		if v.DisplayName, err = p.DisplayName(r.Context(), b.User.UserID); err != nil {
			p.fail(w, r, err)
			return
		}
	}
	allowed, err := p.Sessions.Consents(r.Context(), b.User.ID)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	for _, x := range allowed {
		c, err := p.Clients.Client(r.Context(), x.ClientID)
		if errors.Is(err, register.ErrNoClient) {
			continue
		}
		if err != nil {
			p.fail(w, r, err)
			return
		}
		v.Allowed = append(v.Allowed, allowedView{x.ClientID, c.Name(), c.Host(), time.UnixMilli(x.Granted).UTC().Format("2006-01-02"), p.wants(r, x.Scopes)})
	}
	wanted := r.URL.Query().Get("device_id")
	for _, s := range all {
		sv, err := p.sessionView(r, s)
		if err != nil {
			p.fail(w, r, err)
			return
		}
		v.Sessions = append(v.Sessions, sv)
		if wanted != "" && s.DeviceID == wanted {
			v.Session = sv
		}
	}
	if (page == "device" || page == "deviceview") && v.Session.ID == "" {
		page = "devices"
		if wanted != "" {
			v.Notice = p.text(lang(r), "account.noDevice")
		}
	}
	p.render(w, r, status, page, "", v)
}

func (p *Pages) sessionView(r *http.Request, s opstore.Session) (sessionView, error) {
	const minute = "2006-01-02 15:04 UTC"
	v := sessionView{ID: s.ID, DeviceID: s.DeviceID, Active: s.LastActive.UTC().Format(minute), Since: s.Created.UTC().Format(minute)}
	if s.ClientID == "" {
		v.App = p.text(lang(r), "account.legacyApp")
		return v, nil
	}
	c, err := p.Clients.Client(r.Context(), s.ClientID)
	if errors.Is(err, register.ErrNoClient) {
		v.App = p.text(lang(r), "account.unknownApp")
		return v, nil
	}
	if err != nil {
		return v, err
	}
	v.App, v.Host = c.Name(), c.Host()
	return v, nil
}

// maxDisplayName is as long as a display name may be, in bytes.
const maxDisplayName = 256

// doProfile changes the display name, which everybody in the person's rooms is told.
func (p *Pages) doProfile(w http.ResponseWriter, r *http.Request) {
	b, ok := p.signedIn(w, r)
	if !ok {
		return
	}
	l, name := lang(r), strings.TrimSpace(r.PostForm.Get("display_name"))
	kept, err := p.Kept(r.Context(), b.User.UserID)
	switch {
	case err != nil:
		p.fail(w, r, err)
	case kept.Name:
		p.accountPage(w, r, http.StatusForbidden, "profile", b, p.text(l, "profile.kept"), "")
	case p.Rename == nil:
		p.message(w, r, http.StatusNotFound, "trouble")
	case b.User.Suspended:
		p.accountPage(w, r, http.StatusForbidden, "profile", b, p.text(l, "profile.suspended"), "")
	case len(name) > maxDisplayName:
		p.accountPage(w, r, http.StatusBadRequest, "profile", b, p.text(l, "invite.longName"), "")
	default:
		if err := p.Rename(r.Context(), b.User.UserID, name); err != nil {
			p.fail(w, r, err)
			return
		}
		p.accountPage(w, r, http.StatusOK, "profile", b, "", p.text(l, "profile.changed"))
	}
}

func (p *Pages) doEnd(w http.ResponseWriter, r *http.Request) {
	b, ok := p.signedIn(w, r)
	if !ok {
		return
	}
	if err := p.EndSession(r.Context(), b.User, r.PostForm.Get("session")); err != nil {
		p.fail(w, r, err)
		return
	}
	p.accountPage(w, r, http.StatusOK, "devices", b, "", p.text(lang(r), "account.ended"))
}

// doWithdraw takes back what the person allowed an application.
func (p *Pages) doWithdraw(w http.ResponseWriter, r *http.Request) {
	b, ok := p.signedIn(w, r)
	if !ok {
		return
	}
	if err := p.Sessions.Withdraw(r.Context(), b.User, r.PostForm.Get("app")); err != nil {
		p.fail(w, r, err)
		return
	}
	p.accountPage(w, r, http.StatusOK, "account", b, "", p.text(lang(r), "account.withdrawn"))
}

func (p *Pages) doPassword(w http.ResponseWriter, r *http.Request) {
	b, ok := p.stepUpSecond(w, r)
	if !ok {
		return
	}
	l := lang(r)
	if r.PostForm.Get("password") != r.PostForm.Get("password2") {
		p.accountPage(w, r, http.StatusBadRequest, "password", b, p.text(l, "invite.mismatch"), "")
		return
	}
	if _, err := p.Accounts.VerifyAt(r.Context(), b.User.Localpart, r.PostForm.Get("current"), p.at(r, b.User.Localpart)); err != nil {
		if status, text := p.attemptText(r, err); status != 0 {
			p.accountPage(w, r, status, "password", b, text, "")
			return
		}
		p.fail(w, r, err)
		return
	}
	err := p.SetPassword(r.Context(), b.User, r.PostForm.Get("password"), b.Hash, r.PostForm.Get("end_others") != "")
	if errors.Is(err, account.ErrWeakPassword) {
		p.accountPage(w, r, http.StatusBadRequest, "password", b, p.weakText(r, err), "")
		return
	}
	if errors.Is(err, account.ErrElsewhere) {
		p.accountPage(w, r, http.StatusForbidden, "password", b, p.text(l, "login.elsewhere"), "")
		return
	}
	if err != nil {
		p.fail(w, r, err)
		return
	}
	p.accountPage(w, r, http.StatusOK, "account", b, "", p.text(l, "account.passwordChanged"))
}

func (p *Pages) doReset(w http.ResponseWriter, r *http.Request) {
	b, ok := p.stepUp(w, r)
	if !ok {
		return
	}
	if err := p.Accounts.ApproveReset(r.Context(), b.User.ID, resetFor); err != nil {
		p.fail(w, r, err)
		return
	}
	p.message(w, r, http.StatusOK, "resetApproved")
}

func (p *Pages) doDeactivate(w http.ResponseWriter, r *http.Request) {
	b, ok := p.stepUp(w, r)
	if !ok {
		return
	}
	if r.PostForm.Get("confirm") != b.User.Localpart {
		p.accountPage(w, r, http.StatusBadRequest, "deactivate", b, p.text(lang(r), "deactivate.confirmWrong"), "")
		return
	}
	err := p.Deactivate(r.Context(), b.User)
	if errors.Is(err, account.ErrLastOwner) {
		p.accountPage(w, r, http.StatusConflict, "deactivate", b, p.text(lang(r), "deactivate.lastOwner"), "")
		return
	}
	if err != nil {
		p.fail(w, r, err)
		return
	}
	p.setCookie(w, r, sessionCookie, "", 0)
	p.message(w, r, http.StatusOK, "deactivated")
}
