// Package unlock serves the page by which the recovery passphrase is typed in a
// browser while the data is not open, so before there is a configuration, an
// account or a certificate.
//
// Invariants: the page tells nothing of the machine but that it waits; a passphrase
// is never logged, kept or sent back; guesses are made one after the other, and
// slowed down for each address and for all; nothing happens on GET, nor by a form of
// another site. It works without JavaScript. Whoever is connected can take neither
// memory nor connections without bound.
package unlock

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/base64"
	"errors"
	"html/template"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/netutil"

	"holdfast/appliance/certs"
	"holdfast/image/disk"
	"holdfast/web"
)

// Options of Serve.
type Options struct {
	// Addr is where HTTPS is served, such as ":443".
	Addr string
	// Redirect is where plain HTTP is answered with the way to Addr; "" is nowhere.
	Redirect string
	// Try opens the data. Its error is disk.ErrWrongPassphrase for a wrong guess.
	Try func(ctx context.Context, passphrase string) error
	// Fingerprint is told the certificate's, for the machine's screen; "" at the end.
	Fingerprint func(string)
	// Text is the message catalogue; nil is the product's.
	Text func(key string) string
	Log  *slog.Logger

	now func() time.Time
}

const (
	maxConns = 128
	maxForm  = 4 << 10
	// A guess takes about a second; a few wait for their turn.
	writeTime = 90 * time.Second
)

// Serve serves the page until a passphrase fits, and gives nil then. With the end of
// ctx it gives the context's error. Its ports are free when it returns.
func Serve(ctx context.Context, o Options) error {
	if o.Text == nil {
		o.Text = func(key string) string { return web.Text("en", key) }
	}
	if o.now == nil {
		o.now = time.Now
	}
	cert, err := certificate()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return err
	}
	p := &page{Options: o, gate: newGate(o.now), opened: make(chan struct{})}
	if p.form, err = template.New("page").Funcs(template.FuncMap{"t": o.Text}).Parse(pageHTML); err != nil {
		l.Close()
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	secure := p.server(ctx, p.handler())
	secure.TLSConfig.Certificates = []tls.Certificate{cert}
	servers, listeners := []*http.Server{secure}, []net.Listener{l}
	failed := make(chan error, 1)
	go func() { failed <- secure.ServeTLS(netutil.LimitListener(l, maxConns), "", "") }()
	if o.Redirect != "" {
		// Without it the page is still there.
		if plain, err := net.Listen("tcp", o.Redirect); err != nil {
			o.Log.Warn("plain HTTP is not answered", "err", err)
		} else {
			s := p.server(ctx, redirect(l.Addr()))
			servers, listeners = append(servers, s), append(listeners, plain)
			go s.Serve(netutil.LimitListener(plain, maxConns))
		}
	}
	o.Fingerprint(certs.Fingerprint(cert.Certificate[0]))
	defer o.Fingerprint("")
	select {
	case err = <-failed:
	case <-p.opened:
	case <-ctx.Done():
		err = ctx.Err()
	}
	// The answer to the right passphrase is on its way yet.
	end, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	for _, s := range servers {
		if s.Shutdown(end) != nil {
			s.Close()
		}
	}
	// A server that had not begun yet does not know its listener, and the appliance
	// is about to listen there.
	for _, l := range listeners {
		l.Close()
	}
	return err
}

func (p *page) server(ctx context.Context, h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       20 * time.Second,
		WriteTimeout:      writeTime,
		IdleTimeout:       20 * time.Second,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug),
	}
}

// certificate makes one for this start alone. The clock may be wrong as long as the
// data is not open, so it is valid for long.
func certificate() (c tls.Certificate, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return c, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return c, err
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "Holdfast, waiting for the recovery passphrase"},
		NotBefore:    time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2049, 12, 31, 0, 0, 0, 0, time.UTC),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

// The style is part of the page: after the right passphrase there is no second
// answer.
var styleHash = func() string {
	sum := sha256.Sum256([]byte(pageCSS))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}()

type page struct {
	Options
	form   *template.Template
	gate   *gate
	opened chan struct{}
}

func (p *page) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { p.show(w, http.StatusOK, view{}) })
	mux.HandleFunc("POST /{$}", p.try)
	mux.HandleFunc("/", p.other)
	guarded := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src '"+styleHash+"'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		guarded.ServeHTTP(w, r)
	})
}

// other answers what would reach the appliance if it ran: people are led to the
// page, programs come again later.
func (p *page) other(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/html") {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Retry-After", "30")
	w.WriteHeader(http.StatusServiceUnavailable)
	io.WriteString(w, `{"errcode":"M_UNKNOWN","error":"The appliance has not started yet."}`)
}

type view struct {
	Problem string // key of the catalogue, ""
	Wait    int    // seconds
	Done    bool
}

// Style is the page's style sheet.
func (view) Style() template.CSS { return template.CSS(pageCSS) }

func (p *page) show(w http.ResponseWriter, status int, v view) {
	var b bytes.Buffer
	if err := p.form.Execute(&b, v); err != nil {
		p.Log.Error("the page for the passphrase could not be made", "err", err)
		http.Error(w, "The page could not be made.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

func (p *page) try(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		status := http.StatusBadRequest
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			status = http.StatusRequestEntityTooLarge
		}
		p.show(w, status, view{Problem: "unlock.wrong"})
		return
	}
	pass := r.PostForm.Get("passphrase")
	if pass == "" {
		p.show(w, http.StatusBadRequest, view{Problem: "unlock.empty"})
		return
	}
	from := address(r.RemoteAddr)
	leave, wait := p.gate.enter(r.Context(), from)
	if leave == nil {
		seconds := int((wait + time.Second - 1) / time.Second)
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
		p.show(w, http.StatusTooManyRequests, view{Problem: "unlock.wait", Wait: seconds})
		return
	}
	select {
	case <-p.opened: // somebody else's fitted, a moment ago
		leave(true)
		p.show(w, http.StatusOK, view{Done: true})
		return
	default:
	}
	// Who goes away leaves no guess half done: its result counts all the same.
	err := p.Try(context.WithoutCancel(r.Context()), pass)
	wrong := errors.Is(err, disk.ErrWrongPassphrase)
	if err == nil {
		close(p.opened)
	}
	leave(!wrong)
	switch {
	case err == nil:
		p.Log.Info("the data was opened in a browser", "from", from)
		p.show(w, http.StatusOK, view{Done: true})
	case wrong:
		p.Log.Warn("a wrong recovery passphrase was typed in a browser", "from", from)
		p.show(w, http.StatusForbidden, view{Problem: "unlock.wrong"})
	default:
		p.Log.Error("the data could not be opened", "err", err)
		p.show(w, http.StatusInternalServerError, view{Problem: "unlock.trouble"})
	}
}

// address is who guesses: an address, or the network that a provider gives to one
// customer.
func address(remote string) netip.Prefix {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	a := ap.Addr().Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// redirect leads from plain HTTP to the page at the same name.
func redirect(https net.Addr) http.Handler {
	_, port, _ := net.SplitHostPort(https.String())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = strings.Trim(r.Host, "[]")
		}
		for _, c := range host {
			if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.ContainsRune(".-:", c)) {
				host = ""
			}
		}
		if host == "" || r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "Use https:// here.", http.StatusMisdirectedRequest)
			return
		}
		if port != "443" || strings.Contains(host, ":") {
			host = net.JoinHostPort(host, port)
		}
		http.Redirect(w, r, "https://"+host+"/", http.StatusTemporaryRedirect)
	})
}
