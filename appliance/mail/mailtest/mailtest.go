// Package mailtest is a mail server for tests: it speaks SMTP over a real socket,
// with TLS and logins, and keeps what it is sent.
//
// Invariants: it is imported by tests only; a message counts only when the client
// was told that it was taken.
package mailtest

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"mime"
	"net"
	"net/mail"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"mime/quotedprintable"
)

// Name is the name in the server's certificate; it leads to this machine.
const Name = "localhost"

// Options of a server.
type Options struct {
	TLS      bool   // from the first byte
	StartTLS bool   // offered
	Login    bool   // AUTH LOGIN instead of PLAIN
	User     string // "": nobody logs in
	Password string
	Refuse   map[string]string // answers instead of the usual ones, by command: "RCPT": "550 no such box"
	Silent   bool              // takes connections and says nothing
}

// Message is what was sent.
type Message struct {
	From, To      string // of the envelope
	Header        mail.Header
	Subject       string
	Text          string
	Raw           string
	TLS, LoggedIn bool
}

// Server is a running server.
type Server struct {
	Port int
	CA   string // PEM of its certificate

	o    Options
	ln   net.Listener
	conf *tls.Config

	mu     sync.Mutex
	mails  []Message
	seen   int
	said   []string
	refuse map[string]string
}

// Start runs a server that ends with the test.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s := &Server{o: o, refuse: o.Refuse}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail"}, DNSNames: []string{Name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s.CA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	s.conf = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	if s.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.Port = s.ln.Addr().(*net.TCPAddr).Port
	var open sync.WaitGroup
	var conns sync.Map
	open.Go(func() {
		for {
			conn, err := s.ln.Accept()
			if err != nil {
				return
			}
			conns.Store(conn, nil)
			open.Go(func() {
				defer conn.Close()
				defer conns.Delete(conn)
				s.serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		s.ln.Close()
		conns.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		open.Wait()
	})
	return s
}

// Refuse changes what is refused: command → answer.
func (s *Server) Refuse(m map[string]string) {
	s.mu.Lock()
	s.refuse = m
	s.mu.Unlock()
}

// Next is the next message that was not looked at. Messages are there as soon as
// their client was told so.
func (s *Server) Next(t testing.TB) Message {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == len(s.mails) {
		t.Fatal("no further mail was sent")
	}
	s.seen++
	return s.mails[s.seen-1]
}

// Waiting is how many messages nobody looked at.
func (s *Server) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mails) - s.seen
}

// Said is all that clients sent outside of TLS.
func (s *Server) Said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.said, "\n")
}

type session struct {
	s        *Server
	conn     net.Conn
	t        *textproto.Conn
	secure   bool
	loggedIn bool
	from, to string
}

func (s *Server) serve(conn net.Conn) {
	if s.o.Silent {
		io.Copy(io.Discard, conn)
		return
	}
	c := &session{s: s, conn: conn}
	if s.o.TLS {
		c.conn, c.secure = tls.Server(conn, s.conf), true
	}
	c.t = textproto.NewConn(c.conn)
	c.say("220 mail ready")
	for {
		line, err := c.read()
		if err != nil {
			return
		}
		verb, rest, _ := strings.Cut(line, " ")
		if !c.command(strings.ToUpper(verb), rest) {
			return
		}
	}
}

func (c *session) read() (string, error) {
	line, err := c.t.ReadLine()
	if err == nil && !c.secure {
		c.s.mu.Lock()
		c.s.said = append(c.s.said, line)
		c.s.mu.Unlock()
	}
	return line, err
}

func (c *session) say(f string, args ...any) { c.t.PrintfLine(f, args...) }

// command answers one command; false ends the connection.
func (c *session) command(verb, rest string) bool {
	s := c.s
	s.mu.Lock()
	no := s.refuse[verb]
	s.mu.Unlock()
	if no != "" {
		c.say("%s", no)
		return true
	}
	switch verb {
	case "EHLO":
		lines := []string{"mail"}
		if s.o.StartTLS && !c.secure {
			lines = append(lines, "STARTTLS")
		}
		if s.o.User != "" {
			kind := "PLAIN"
			if s.o.Login {
				kind = "LOGIN"
			}
			lines = append(lines, "AUTH "+kind)
		}
		for i, l := range lines {
			sep := "-"
			if i == len(lines)-1 {
				sep = " "
			}
			c.say("250%s%s", sep, l)
		}
	case "STARTTLS":
		c.say("220 go on")
		c.conn, c.secure = tls.Server(c.conn, s.conf), true
		c.t = textproto.NewConn(c.conn)
	case "AUTH":
		c.auth(rest)
	case "MAIL":
		if s.o.User != "" && !c.loggedIn {
			c.say("530 log in first")
			break
		}
		c.from = between(rest)
		c.say("250 ok")
	case "RCPT":
		c.to = between(rest)
		c.say("250 ok")
	case "DATA":
		c.say("354 go on")
		b, err := io.ReadAll(c.t.DotReader())
		if err != nil {
			return false
		}
		m, err := parse(string(b))
		if err != nil {
			c.say("554 %v", err)
			break
		}
		m.From, m.To, m.TLS, m.LoggedIn = c.from, c.to, c.secure, c.loggedIn
		s.mu.Lock()
		s.mails = append(s.mails, m)
		s.mu.Unlock()
		c.say("250 taken")
	case "QUIT":
		c.say("221 bye")
		return false
	default:
		c.say("500 what?")
	}
	return true
}

func (c *session) auth(rest string) {
	kind, first, _ := strings.Cut(rest, " ")
	var user, password string
	if c.s.o.Login {
		if kind != "LOGIN" {
			c.say("504 LOGIN only")
			return
		}
		c.say("334 %s", base64.StdEncoding.EncodeToString([]byte("Username:")))
		a, _ := c.read()
		c.say("334 %s", base64.StdEncoding.EncodeToString([]byte("Password:")))
		b, _ := c.read()
		u, _ := base64.StdEncoding.DecodeString(a)
		p, _ := base64.StdEncoding.DecodeString(b)
		user, password = string(u), string(p)
	} else {
		b, _ := base64.StdEncoding.DecodeString(first)
		if f := strings.Split(string(b), "\x00"); len(f) == 3 {
			user, password = f[1], f[2]
		}
	}
	if c.loggedIn = user == c.s.o.User && password == c.s.o.Password; c.loggedIn {
		c.say("235 welcome")
	} else {
		// As servers do that help too much.
		c.say("535 %s with the password %s is not known", user, password)
	}
}

// between is the address in "FROM:<address> ...".
func between(s string) string {
	_, s, _ = strings.Cut(s, "<")
	s, _, _ = strings.Cut(s, ">")
	return s
}

func parse(raw string) (Message, error) {
	m, err := mail.ReadMessage(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		return Message{}, err
	}
	if how := m.Header.Get("Content-Transfer-Encoding"); how != "quoted-printable" {
		return Message{}, fmt.Errorf("the encoding is %q", how)
	}
	text, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil {
		return Message{}, err
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	return Message{Header: m.Header, Subject: subject, Text: strings.ReplaceAll(string(text), "\r\n", "\n"), Raw: raw}, err
}
