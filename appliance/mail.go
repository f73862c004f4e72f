package appliance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"holdfast/appliance/mail"
	"holdfast/appliance/settings"
	"holdfast/homeserver"
	"holdfast/web"
)

// mailer sends the homeserver's mails through the server of the settings, as they
// are at that moment.
type mailer struct{ a *Appliance }

var _ homeserver.Mailer = mailer{}

// Ready reports whether a mail server is set.
func (m mailer) Ready() bool { return m.a.settings.Get(settings.MailHost) != "" }

// Send sends a plain text.
func (m mailer) Send(ctx context.Context, to, subject, text string) error {
	s, err := m.a.mailServer()
	if err != nil {
		return err
	}
	return s.Send(ctx, mail.Message{To: to, Subject: subject, Text: text})
}

// SendList sends a plain text of a kind that comes again.
func (m mailer) SendList(ctx context.Context, to, subject, text, unsubscribe string) error {
	s, err := m.a.mailServer()
	if err != nil {
		return err
	}
	return s.Send(ctx, mail.Message{To: to, Subject: subject, Text: text, Unsubscribe: unsubscribe})
}

var errNoMail = errors.New("no mail server is set; holdfast mail set --help says how")

// mailServer is the mail server of the settings. Errors: errNoMail.
func (a *Appliance) mailServer() (s mail.Server, err error) {
	get := a.settings.Get
	s = mail.Server{Host: get(settings.MailHost), Security: get(settings.MailSecurity), User: get(settings.MailUser), From: get(settings.MailFrom), CA: get(settings.MailCA)}
	if s.Host == "" {
		return s, errNoMail
	}
	if s.Port, err = strconv.Atoi(get(settings.MailPort)); err != nil {
		return s, err
	}
	if sealed := get(settings.MailPassword); sealed != "" {
		if s.Password, err = a.core.Load().identity.Unseal(sealed); err != nil {
			return s, fmt.Errorf("the password of the mail server cannot be read, set it anew: %w", err)
		}
	}
	return s, nil
}

// setMailServer checks and keeps a mail server; a zero one turns mail off. Without
// a password the one that there is stays, if host and user are the same.
func (a *Appliance) setMailServer(ctx context.Context, s mail.Server) error {
	values := map[string]string{}
	for _, k := range []string{settings.MailHost, settings.MailPort, settings.MailSecurity, settings.MailUser, settings.MailPassword, settings.MailFrom, settings.MailCA} {
		values[k] = ""
	}
	if s == (mail.Server{}) {
		return a.settings.Put(ctx, values)
	}
	if s.User != "" && s.Password == "" && s.Host == a.settings.Get(settings.MailHost) && s.User == a.settings.Get(settings.MailUser) {
		if old, err := a.mailServer(); err == nil {
			s.Password = old.Password
		}
	}
	if s.User != "" && s.Password == "" {
		return &mailMistake{errNoPassword}
	}
	if err := s.Check(); err != nil {
		return &mailMistake{err}
	}
	values[settings.MailHost], values[settings.MailPort], values[settings.MailSecurity] = s.Host, strconv.Itoa(s.Port), s.Security
	values[settings.MailUser], values[settings.MailFrom], values[settings.MailCA] = s.User, s.From, s.CA
	if s.Password != "" {
		sealed, err := a.core.Load().identity.Seal(s.Password)
		if err != nil {
			return err
		}
		values[settings.MailPassword] = sealed
	}
	return a.settings.Put(ctx, values)
}

var errNoPassword = errors.New("a user needs a password, too; give it with --password-stdin")

// mailMistake is a mistake in what an administrator typed.
type mailMistake struct{ error }

// Unwrap returns what is wrong.
func (m *mailMistake) Unwrap() error { return m.error }

// testMail sends a message to try the mail server. Errors: errNoMail, *mail.Error.
func (a *Appliance) testMail(ctx context.Context, to string) error {
	fill := strings.NewReplacer("{organisation}", a.organisation(), "{url}", a.sharedURL())
	return mailer{a}.Send(ctx, to, fill.Replace(web.Text("en", "mail.test.subject")), fill.Replace(web.Text("en", "mail.test.text"))+"\n")
}

// mailInfo is a mail server on the local socket. The password goes in, never out.
type mailInfo struct {
	Host        string `json:"host"`
	Port        int    `json:"port"`
	Security    string `json:"security"`
	User        string `json:"user,omitempty"`
	Password    string `json:"password,omitempty"`
	HasPassword bool   `json:"has_password"`
	From        string `json:"from"`
	CA          string `json:"ca,omitempty"`
}

// mailControl are the operations of the local socket about mail.
func (a *Appliance) mailControl(handle func(pattern string, f func(r *http.Request) (any, error))) {
	show := func() (any, error) {
		s, err := a.mailServer()
		if errors.Is(err, errNoMail) {
			return mailInfo{}, nil
		}
		return mailInfo{Host: s.Host, Port: s.Port, Security: s.Security, User: s.User, HasPassword: s.Password != "", From: s.From, CA: s.CA}, err
	}
	handle("GET /v1/mail", func(*http.Request) (any, error) { return show() })
	handle("PUT /v1/mail", func(r *http.Request) (any, error) {
		var in mailInfo
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		s := mail.Server{Host: in.Host, Port: in.Port, Security: in.Security, User: in.User, Password: in.Password, From: in.From, CA: in.CA}
		if err := a.setMailServer(r.Context(), s); err != nil {
			return nil, err
		}
		return show()
	})
	handle("POST /v1/mail/test", func(r *http.Request) (any, error) {
		var in struct {
			To string `json:"to"`
		}
		if err := readJSON(r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, a.testMail(r.Context(), in.To)
	})
}

func runMailSet(ctx context.Context, c *cli, _ []string) error {
	in := mailInfo{Host: c.mail.host, Port: c.mail.port, Security: c.mail.security, User: c.mail.user, From: c.mail.from}
	if in.Host == "" || in.From == "" {
		return &usageError{"a mail server needs --host and --from"}
	}
	if c.passwordStdin {
		line, err := bufio.NewReader(io.LimitReader(os.Stdin, 1<<16)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("the password cannot be read from standard input: %w", err)
		}
		if in.Password = strings.TrimRight(line, "\r\n"); in.Password == "" {
			return errors.New("no password came on standard input; its first line is the password")
		}
	}
	if c.mail.ca != "" {
		b, err := os.ReadFile(c.mail.ca)
		if err != nil {
			return fmt.Errorf("the certificate authority cannot be read: %w", err)
		}
		in.CA = string(b)
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	var out mailInfo
	if err := cl.call(ctx, "PUT", "/v1/mail", in, &out); err != nil {
		return err
	}
	return c.printMail(out)
}

func (c *cli) printMail(m mailInfo) error {
	if c.json {
		return c.printJSON(m)
	}
	if m.Host == "" {
		fmt.Fprintln(c.out, "No mail server is set, so no e-mail is sent. holdfast mail set names one.")
		return nil
	}
	fmt.Fprintf(c.out, "E-mail goes through %s, port %d (%s), from %s.\n", m.Host, m.Port, m.Security, m.From)
	if m.User != "" {
		fmt.Fprintf(c.out, "It logs in as %s. The password is not shown.\n", m.User)
	}
	if m.CA != "" {
		fmt.Fprintln(c.out, "Only the given certificate authority is trusted.")
	}
	fmt.Fprintln(c.out, "holdfast mail test ADDRESS tries it.")
	return nil
}

func runMailShow(ctx context.Context, c *cli, _ []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var out mailInfo
	if err := cl.call(ctx, "GET", "/v1/mail", nil, &out); err != nil {
		return err
	}
	return c.printMail(out)
}

func runMailOff(ctx context.Context, c *cli, _ []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if err := cl.call(ctx, "PUT", "/v1/mail", mailInfo{}, &mailInfo{}); err != nil {
		return err
	}
	fmt.Fprintln(c.out, "No e-mail is sent any more, and the mail server's password is forgotten.")
	return nil
}

func runMailTest(ctx context.Context, c *cli, args []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if err := cl.call(ctx, "POST", "/v1/mail/test", map[string]string{"to": args[0]}, &struct{}{}); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "The mail server took a message to %s. If it does not arrive, look among the junk mail, and in the mail server's log.\n", args[0])
	return nil
}
