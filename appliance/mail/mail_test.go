package mail_test

import (
	"context"
	"errors"
	"net/mail"
	"strings"
	"testing"
	"time"

	hmail "holdfast/appliance/mail"
	"holdfast/appliance/mail/mailtest"
)

const secret = "s3cret of the mail server"

var hello = hmail.Message{To: "anna@example.org", Subject: "Grüße aus dem Büro", Text: "Guten Tag,\n\n.ein Punkt am Anfang und eine sehr lange Zeile, die länger ist als die sechsundsiebzig Zeichen, die erlaubt sind.\nhttps://example.org/x?a=b&c=d\n"}

func at(s *mailtest.Server, security string) hmail.Server {
	return hmail.Server{Host: mailtest.Name, Port: s.Port, Security: security, From: "Holdfast <holdfast@example.org>", CA: s.CA}
}

func checked(t *testing.T, s hmail.Server) hmail.Server {
	t.Helper()
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSend(t *testing.T) {
	for name, c := range map[string]struct {
		o        mailtest.Options
		security string
		user     bool
	}{
		"starttls with PLAIN":      {mailtest.Options{StartTLS: true, User: "holdfast", Password: secret}, hmail.StartTLS, true},
		"tls with LOGIN":           {mailtest.Options{TLS: true, Login: true, User: "holdfast", Password: secret}, hmail.TLS, true},
		"starttls, nobody logs in": {mailtest.Options{StartTLS: true}, hmail.StartTLS, false},
		"in the clear":             {mailtest.Options{}, hmail.None, false},
	} {
		t.Run(name, func(t *testing.T) {
			srv := mailtest.Start(t, c.o)
			s := at(srv, c.security)
			if c.user {
				s.User, s.Password = "holdfast", secret
			}
			if err := checked(t, s).Send(t.Context(), hello); err != nil {
				t.Fatal(err)
			}
			m := srv.Next(t)
			if m.From != "holdfast@example.org" || m.To != hello.To || m.Subject != hello.Subject || m.Text != hello.Text {
				t.Errorf("it came as %+v", m)
			}
			if m.TLS != (c.security != hmail.None) || m.LoggedIn != c.user {
				t.Errorf("tls %v, logged in %v", m.TLS, m.LoggedIn)
			}
			if from, err := mail.ParseAddress(m.Header.Get("From")); err != nil || from.Name != "Holdfast" {
				t.Errorf("From: %s", m.Header.Get("From"))
			}
			if _, err := m.Header.Date(); err != nil {
				t.Errorf("Date: %v", err)
			}
			if id := m.Header.Get("Message-Id"); !strings.HasSuffix(id, "@example.org>") {
				t.Errorf("Message-ID: %s", id)
			}
			for line := range strings.SplitSeq(m.Raw, "\n") {
				if len(line) > 100 {
					t.Errorf("a line of %d bytes: %s", len(line), line)
				}
			}
			if strings.Contains(srv.Said(), "AUTH") {
				t.Error("a login outside of TLS")
			}
		})
	}
}

func TestSendFails(t *testing.T) {
	for name, c := range map[string]struct {
		o      mailtest.Options
		change func(*hmail.Server)
		want   string
	}{
		"no STARTTLS":    {mailtest.Options{User: "holdfast", Password: secret}, nil, "does not offer STARTTLS"},
		"wrong password": {mailtest.Options{StartTLS: true, User: "holdfast", Password: "another"}, nil, "refuses the user or the password (it answers 535)"},
		"no logins":      {mailtest.Options{StartTLS: true}, nil, "takes no user and password"},
		"unknown CA":     {mailtest.Options{StartTLS: true}, func(s *hmail.Server) { s.CA = "" }, "certificate is not trusted"},
		"other name":     {mailtest.Options{StartTLS: true}, func(s *hmail.Server) { s.Host = "127.0.0.1" }, "certificate is not trusted"},
		"tls, not mail":  {mailtest.Options{StartTLS: true}, func(s *hmail.Server) { s.Security = hmail.TLS }, "No safe connection"},
		"mail, not tls":  {mailtest.Options{TLS: true}, func(s *hmail.Server) { s.Security = hmail.None }, "no mail server; a server at port 465"},
		"sender":         {mailtest.Options{StartTLS: true, User: "holdfast", Password: secret, Refuse: map[string]string{"MAIL": "550 not you"}}, nil, "does not take messages from holdfast@example.org: 550"},
		"address":        {mailtest.Options{StartTLS: true, User: "holdfast", Password: secret, Refuse: map[string]string{"RCPT": "550 no such box"}}, nil, "to this address: 550"},
		"content":        {mailtest.Options{StartTLS: true, User: "holdfast", Password: secret, Refuse: map[string]string{"DATA": "552 full"}}, nil, "did not take the message: 552"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := mailtest.Start(t, c.o)
			s := at(srv, hmail.StartTLS)
			s.User, s.Password = "holdfast", secret
			if c.change != nil {
				c.change(&s)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			err := s.Send(ctx, hello)
			var e *hmail.Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if strings.Contains(err.Error(), secret) || strings.Contains(srv.Said(), secret) || strings.Contains(srv.Said(), "AUTH") {
				t.Errorf("the password came out: %v\n%s", err, srv.Said())
			}
			if srv.Waiting() != 0 {
				t.Error("a message was sent all the same")
			}
		})
	}
}

// A server that says nothing is not waited for beyond what the caller allows.
func TestSendEnds(t *testing.T) {
	s := at(mailtest.Start(t, mailtest.Options{Silent: true}), hmail.StartTLS)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := s.Send(ctx, hello); err == nil {
		t.Fatal("a silent server took a message")
	}
	s.Port = 1 // nobody listens
	if err := s.Send(t.Context(), hello); err == nil || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("got %v", err)
	}
}

func TestHeadersCannotBeAdded(t *testing.T) {
	srv := mailtest.Start(t, mailtest.Options{StartTLS: true})
	s := checked(t, at(srv, hmail.StartTLS))
	for _, m := range []hmail.Message{
		{To: "anna@example.org\r\nBcc: eve@example.org", Subject: "x", Text: "x"},
		{To: "anna@example.org", Subject: "x\r\nBcc: eve@example.org", Text: "x"},
		{To: "Anna <anna@example.org>", Subject: "x", Text: "x"},
		{To: "", Subject: "x", Text: "x"},
		{To: "anna@example.org", Subject: "x", Text: "x", Unsubscribe: "https://x\r\nBcc: eve@example.org"},
		{To: "anna@example.org", Subject: "x", Text: "x", Unsubscribe: "https://x>, <mailto:eve@example.org"},
	} {
		if err := s.Send(t.Context(), m); err == nil {
			t.Errorf("%+v was sent", m)
		}
	}
	if srv.Waiting() != 0 {
		t.Error("something was sent")
	}
}

func TestCheck(t *testing.T) {
	s := hmail.Server{Host: "mail.example.org", From: "holdfast@example.org"}
	if err := s.Check(); err != nil || s.Security != hmail.StartTLS || s.Port != 587 {
		t.Errorf("%+v: %v", s, err)
	}
	for want, s := range map[string]hmail.Server{
		"security":           {Host: "h", From: "a@b", Security: "ssl"},
		"port":               {Host: "h", From: "a@b", Port: 70000},
		"name of a server":   {Host: "https://mail.example.org", From: "a@b"},
		"cannot be a sender": {Host: "h", From: "nobody"},
		"no user":            {Host: "h", From: "a@b", Password: secret},
		"in the clear":       {Host: "mail.example.org", From: "a@b", Security: hmail.None, User: "u", Password: secret},
		"is not in PEM form": {Host: "h", From: "a@b", CA: "x"},
	} {
		err := s.Check()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	onThis := hmail.Server{Host: "localhost", From: "a@b", Security: hmail.None, User: "u", Password: secret}
	if err := onThis.Check(); err != nil {
		t.Error(err)
	}
}
