// Package mail sends e-mail through a mail server that an administrator named.
//
// Invariants: a password goes to the server only over TLS, or to this machine
// itself, and is in no error; a server that should encrypt and does not gets
// nothing; every message ends within a time limit; what goes into a header cannot
// begin another.
package mail

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"
)

// How the way to the server is protected.
const (
	StartTLS = "starttls" // begins in the clear and must become TLS before anything is said
	TLS      = "tls"      // TLS from the first byte
	None     = "none"     // not at all: for a server on this machine or a closed network
)

// Time limits of one message.
const (
	dialTime = 10 * time.Second
	sendTime = 30 * time.Second
)

// Server is a mail server and how to use it.
type Server struct {
	Host     string
	Port     int    // 0: the usual one
	Security string // StartTLS, TLS or None
	User     string // "": without logging in
	Password string
	From     string // "Holdfast <holdfast@example.org>" or an address alone
	CA       string // PEM; "": the certificate authorities of the system
}

// Message is a plain text to one person.
type Message struct {
	To, Subject, Text string
	// Unsubscribe is the address that ends messages of this kind. "": it comes once.
	// Spec: RFC 2369, RFC 8058
	Unsubscribe string
}

// Error says at which step a message failed, and what to do about it.
type Error struct {
	What string // a sentence, without the password
	Err  error  // the cause; may be nil
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.What
	}
	return e.What + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Check completes a Server with what is usual, and reports what is wrong with it.
func (s *Server) Check() error {
	if s.Security == "" {
		s.Security = StartTLS
	}
	ports := map[string]int{StartTLS: 587, TLS: 465, None: 25}
	usual, ok := ports[s.Security]
	if !ok {
		return fmt.Errorf("the security %q is not known; it is starttls, tls or none", s.Security)
	}
	if s.Port == 0 {
		s.Port = usual
	}
	if s.Port < 1 || s.Port > 65535 {
		return fmt.Errorf("%d is no port; mail servers take messages at 587 (starttls), 465 (tls) or 25", s.Port)
	}
	if s.Host == "" || len(s.Host) > 253 || strings.ContainsFunc(s.Host, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' || r == '@' }) {
		return fmt.Errorf("%q is no name of a server; write it as in mail.example.org, and the port apart", s.Host)
	}
	if from, err := mail.ParseAddress(s.From); err != nil || !headerSafe(from.Name) {
		return fmt.Errorf("%q cannot be a sender; write an address such as holdfast@example.org, or \"Holdfast <holdfast@example.org>\"", s.From)
	}
	if s.User == "" && s.Password != "" {
		return errors.New("there is a password but no user; name the user, too")
	}
	if s.User != "" && s.Security == None && !local(s.Host) {
		return errors.New("a password would cross the network in the clear; use starttls or tls, or leave the user away")
	}
	if s.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(s.CA)) {
		return errors.New("the certificate authority is not in PEM form (-----BEGIN CERTIFICATE-----)")
	}
	return nil
}

func local(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Send hands a message to the server. Errors are *Error.
func (s Server) Send(ctx context.Context, m Message) error {
	from, err := mail.ParseAddress(s.From)
	if err != nil {
		return &Error{"The sender is not an address", err}
	}
	to, err := mail.ParseAddress(m.To)
	if err != nil || to.Address != m.To {
		return &Error{fmt.Sprintf("%.80q is not an address", m.To), err}
	}
	raw, err := compose(from, to.Address, m, time.Now())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	c, err := s.dial(ctx, from.Address)
	if err != nil {
		return err
	}
	defer c.Close()
	if s.User != "" {
		if err := s.login(c); err != nil {
			return err
		}
	}
	if err := c.Mail(from.Address); err != nil {
		return &Error{"The mail server does not take messages from " + from.Address, err}
	}
	if err := c.Rcpt(to.Address); err != nil {
		return &Error{"The mail server does not take a message to this address", err}
	}
	w, err := c.Data()
	if err == nil {
		if _, err = w.Write(raw); err == nil {
			err = w.Close()
		}
	}
	if err != nil {
		return &Error{"The mail server did not take the message", err}
	}
	c.Quit() // it has the message already
	return nil
}

// dial gives a connection that is as safe as it should be. It ends with ctx.
func (s Server) dial(ctx context.Context, sender string) (*smtp.Client, error) {
	addr := net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
	conn, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, &Error{"The mail server cannot be reached; check its name, its port and the network", err}
	}
	end, _ := ctx.Deadline()
	conn.SetDeadline(end)
	context.AfterFunc(ctx, func() { conn.Close() })
	conf := &tls.Config{ServerName: s.Host, MinVersion: tls.VersionTLS12}
	if s.CA != "" {
		conf.RootCAs = x509.NewCertPool()
		conf.RootCAs.AppendCertsFromPEM([]byte(s.CA))
	}
	if s.Security == TLS {
		t := tls.Client(conn, conf)
		if err := t.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, tlsError(err)
		}
		conn = t
	}
	c, err := smtp.NewClient(conn, s.Host)
	if err != nil {
		conn.Close()
		hint := ""
		if s.Security != TLS {
			hint = "; a server at port 465 speaks TLS from the first byte (security tls)"
		}
		return nil, &Error{"What answers there is no mail server" + hint, err}
	}
	// Some servers refuse who greets as localhost.
	_, domain, _ := strings.Cut(sender, "@")
	if err := c.Hello(domain); err != nil {
		c.Close()
		return nil, &Error{"The mail server does not greet us back", err}
	}
	if s.Security != StartTLS {
		return c, nil
	}
	if ok, _ := c.Extension("STARTTLS"); !ok {
		c.Close()
		return nil, &Error{What: "The mail server does not offer STARTTLS, and without it nothing is sent; use its port for TLS (security tls)"}
	}
	if err := c.StartTLS(conf); err != nil {
		c.Close()
		return nil, tlsError(err)
	}
	return c, nil
}

func tlsError(err error) error {
	var verify *tls.CertificateVerificationError
	if errors.As(err, &verify) {
		return &Error{"The mail server's certificate is not trusted; use the name that it was made for, or give its certificate authority", err}
	}
	return &Error{"No safe connection to the mail server came about", err}
}

// login proves who we are by PLAIN or, where a server knows only that, LOGIN.
func (s Server) login(c *smtp.Client) error {
	ok, offered := c.Extension("AUTH")
	kinds := strings.Fields(strings.ToUpper(offered))
	var how smtp.Auth
	switch {
	case ok && slices.Contains(kinds, "PLAIN"):
		how = smtp.PlainAuth("", s.User, s.Password, s.Host)
	case ok && slices.Contains(kinds, "LOGIN"):
		how = &loginAuth{s}
	default:
		return &Error{What: "The mail server takes no user and password here (AUTH PLAIN or LOGIN); leave the user away, or use another port"}
	}
	if err := c.Auth(how); err != nil {
		// Some servers repeat what they were given.
		var said *textproto.Error
		if errors.As(err, &said) {
			return &Error{What: fmt.Sprintf("The mail server refuses the user or the password (it answers %d)", said.Code)}
		}
		return &Error{"The mail server did not let us log in", err}
	}
	return nil
}

// loginAuth is the LOGIN mechanism: user and password, one after the other.
type loginAuth struct{ s Server }

func (a *loginAuth) Start(server *smtp.ServerInfo) (string, []byte, error) {
	if !server.TLS && !local(server.Name) {
		return "", nil, errors.New("the connection is not encrypted")
	}
	return "LOGIN", nil, nil
}

func (a *loginAuth) Next(asked []byte, more bool) ([]byte, error) {
	if !more {
		return nil, nil
	}
	switch strings.ToLower(strings.Trim(string(asked), " :\x00")) {
	case "username", "user name":
		return []byte(a.s.User), nil
	case "password":
		return []byte(a.s.Password), nil
	}
	return nil, errors.New("it asks for what we do not know")
}

func headerSafe(s string) bool { return !strings.ContainsAny(s, "\r\n\x00") }

// compose makes the message as it goes over the wire.
func compose(from *mail.Address, to string, m Message, now time.Time) ([]byte, error) {
	if strings.ContainsAny(m.Unsubscribe, "<> ") || !headerSafe(m.Unsubscribe) || !headerSafe(m.Subject) || !headerSafe(to) || !headerSafe(from.String()) {
		return nil, &Error{What: "A line of the message's head would end early"}
	}
	_, domain, _ := strings.Cut(from.Address, "@")
	var b bytes.Buffer
	for _, h := range [][2]string{
		{"From", from.String()}, {"To", "<" + to + ">"}, {"Subject", mime.QEncoding.Encode("utf-8", m.Subject)},
		{"Date", now.Format(time.RFC1123Z)}, {"Message-ID", "<" + strings.ToLower(rand.Text()) + "@" + domain + ">"},
		{"Auto-Submitted", "auto-generated"}, {"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=utf-8"}, {"Content-Transfer-Encoding", "quoted-printable"},
	} {
		b.WriteString(h[0] + ": " + h[1] + "\r\n")
	}
	if m.Unsubscribe != "" {
		// One line each: a long line in the head may have 998 bytes.
		b.WriteString("List-Unsubscribe: <" + m.Unsubscribe + ">\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n")
	}
	b.WriteString("\r\n")
	q := quotedprintable.NewWriter(&b)
	if _, err := io.WriteString(q, strings.ReplaceAll(m.Text, "\n", "\r\n")); err != nil {
		return nil, err
	}
	return b.Bytes(), q.Close()
}
