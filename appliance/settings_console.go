package appliance

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"holdfast/appliance/mail"
	"holdfast/web"
)

// This file goes on with console.go: what administrators decide in the console. It is
// the same that the command line decides, by the same checks.

var _ web.Settings = console{}

func (a console) MailServer(context.Context) (web.MailServer, error) {
	s, err := a.mailServer()
	if errors.Is(err, errNoMail) {
		return web.MailServer{}, nil
	}
	return web.MailServer{Host: s.Host, Port: s.Port, Security: s.Security, User: s.User, HasPassword: s.Password != "", From: s.From, CA: s.CA}, err
}

func (a console) SetMailServer(ctx context.Context, m web.MailServer) error {
	s := mail.Server{Host: m.Host, Port: m.Port, Security: m.Security, User: m.User, Password: m.Password, From: m.From, CA: m.CA}
	if s.Host == "" {
		s = mail.Server{} // off
	}
	err := a.setMailServer(ctx, s)
	if errors.Is(err, errNoPassword) {
		return &web.Error{Code: "no_password", Field: "password", Message: "A user needs a password, too."}
	}
	var wrong *mailMistake
	if errors.As(err, &wrong) {
		return &web.Error{Code: "bad_mail_server", Message: sentence(wrong.Error())}
	}
	return err
}

func (a console) TestMail(ctx context.Context, to string) error {
	err := a.testMail(ctx, to)
	var said *mail.Error
	switch {
	case errors.Is(err, errNoMail):
		return &web.Error{Status: http.StatusConflict, Code: "no_mail_server", Message: "No mail server is set."}
	case errors.As(err, &said):
		return &web.Error{Status: http.StatusBadGateway, Code: "not_sent", Message: sentence(said.Error())}
	}
	return err
}

func (a console) FileRules(context.Context) (web.FileRules, error) {
	return web.FileRules(a.fileRules()), nil
}

func (a console) SetFileRules(ctx context.Context, f web.FileRules) error {
	err := a.setFileRules(ctx, fileRules(f))
	var wrong *ruleError
	if errors.As(err, &wrong) { // the first of them
		return &web.Error{Code: "bad_rule", Field: strings.ReplaceAll(wrong.option, "-", "_"), Message: sentence(wrong.text)}
	}
	return err
}

// sentence makes one of an error's text.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}
