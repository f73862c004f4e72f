package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"holdfast/appliance/certs"
	"holdfast/appliance/config"
	"holdfast/appliance/settings"
)

const (
	headerTime     = 10 * time.Second // to send a request's headers
	idleTime       = 3 * time.Minute  // longer than a long poll's pause
	stallTime      = time.Minute      // between two pieces of a request's body
	maxHeaderBytes = 64 << 10
)

// listener is one open port.
type listener struct {
	name string // "https", "http", "redirect", "federation", "metrics"
	tls  bool
	ln   net.Listener
	srv  *http.Server
}

type listenerKey struct{}

// listen opens the ports.
func (a *Appliance) listen() error {
	for _, l := range []struct {
		name, addr string
		tls        bool
	}{
		{"https", a.cfg.Listen.HTTPS, true},
		{"http", a.cfg.Listen.HTTP, false},
		{"redirect", a.cfg.Listen.Redirect, false},
		{"federation", a.cfg.Listen.Federation, a.cfg.TLS.Mode != "off"},
		{"metrics", a.cfg.Listen.Metrics, false},
	} {
		if l.addr == "" {
			continue
		}
		ln, err := net.Listen("tcp", l.addr)
		key := "listen." + l.name
		if err != nil && l.name == "metrics" && !a.cfg.Explicit(key) && errors.Is(err, syscall.EADDRINUSE) {
			// A second appliance on the machine is not stopped by a default.
			a.log.Warn("the port for metrics is taken, so this appliance has none; set listen.metrics to another", "addr", l.addr)
			continue
		}
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			return fmt.Errorf("%s: %s: %s is used by another program; stop it, or choose another address with --set %s=IP:PORT", a.cfg.Source(key), key, l.addr, key)
		case errors.Is(err, syscall.EACCES):
			return fmt.Errorf("%s: %s: this user may not listen on %s; choose a port above 1023 with --set %s=:8443, or start as root", a.cfg.Source(key), key, l.addr, key)
		case err != nil:
			return fmt.Errorf("%s: %s: %w; the address must be one of this machine", a.cfg.Source(key), key, err)
		}
		open := &listener{name: l.name, tls: l.tls, ln: newDoor(ln)}
		a.listens = append(a.listens, open)
		a.onClose(func() { ln.Close() })
	}
	return nil
}

// serve starts to answer on the open ports.
func (a *Appliance) serve() {
	for _, l := range a.listens {
		var h http.Handler
		switch l.name {
		case "metrics":
			h = a.metricsHandler()
		case "redirect":
			h = a.wrap(http.HandlerFunc(a.redirect))
		case "federation":
			h = a.federationHandler()
		default:
			h = a.clientHandler()
		}
		l.srv = &http.Server{
			Handler:           h,
			ReadHeaderTimeout: headerTime,
			IdleTimeout:       idleTime,
			MaxHeaderBytes:    maxHeaderBytes,
			ErrorLog:          slog.NewLogLogger(a.logs.component("http").Handler(), slog.LevelDebug),
			ConnContext:       tlsContext,
			ConnState:         settledHTTP,
			BaseContext:       func(net.Listener) context.Context { return context.WithValue(context.Background(), listenerKey{}, l) },
		}
		go func() {
			var err error
			if l.tls && l.name == "https" && a.sfu != nil {
				l.srv.TLSConfig = a.certs.TLS()
				err = l.srv.Serve(newSniffer(l.ln, l.srv.TLSConfig, a.serveTURN))
			} else if l.tls {
				l.srv.TLSConfig = a.certs.TLS()
				err = l.srv.ServeTLS(l.ln, "", "")
			} else {
				err = l.srv.Serve(l.ln)
			}
			if !errors.Is(err, http.ErrServerClosed) {
				a.netErrs <- fmt.Errorf("listen.%s stopped: %w", l.name, err)
			}
		}()
	}
}

// dropped counts the connections that the ports' limits ended.
func (a *Appliance) dropped() (n int64) {
	for _, l := range a.listens {
		if d, ok := l.ln.(*door); ok {
			n += d.dropped.Load()
		}
	}
	return n
}

func (l *listener) shutdown(ctx context.Context) {
	if l.srv == nil {
		l.ln.Close()
		return
	}
	if l.srv.Shutdown(ctx) != nil {
		l.srv.Close()
	}
}

// tlsMode is the mode in effect: the configuration's, else the wizard's.
func (a *Appliance) tlsMode() string {
	if m := a.settings.Get(settings.TLSMode); m != "" && !a.cfg.Explicit("tls.mode") {
		return m
	}
	return a.cfg.TLS.Mode
}

// openCerts gives the listeners their certificates.
func (a *Appliance) openCerts() error {
	src, err := a.certSource(a.tlsMode(), a.settings.Get(settings.TLSEmail))
	if err != nil || src == nil {
		return err
	}
	a.certs.Set(src)
	return nil
}

func (a *Appliance) tlsDir() string { return filepath.Join(a.cfg.Data, "tls") }

// certSource opens the certificates of a mode; nil for "off".
func (a *Appliance) certSource(mode, email string) (certs.Source, error) {
	log := a.log
	switch mode {
	case "own-ca":
		return certs.OpenOwn(a.tlsDir(), a.names, log)
	case "files":
		cert, key := a.cfg.TLS.Cert, a.cfg.TLS.Key
		if a.cfg.TLS.Mode != "files" { // the wizard's
			cert, key = certs.Stored(a.tlsDir())
		}
		src, err := certs.OpenFiles(cert, key, log)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			return nil, fmt.Errorf("%s: tls.cert, tls.key: %w", a.cfg.Source("tls.cert"), err)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: tls.cert: %w", a.cfg.Source("tls.cert"), err)
		}
		return src, nil
	case "acme":
		host := a.cfg.PublicHost()
		if host == "" {
			host = config.Host(a.settings.Get(settings.ServerName))
		}
		if a.cfg.TLS.ACMEEmail != "" {
			email = a.cfg.TLS.ACMEEmail
		}
		return certs.OpenACME(certs.ACMEOptions{
			Dir: filepath.Join(a.cfg.Data, "acme"), Names: []string{host}, Email: email,
			Directory: a.cfg.TLS.ACMEDirectory, RootFile: a.cfg.TLS.ACMERoot, Port: a.httpsPort(), Log: log,
		})
	}
	return nil, nil
}

func (a *Appliance) httpsPort() int {
	for _, l := range a.listens {
		if l.name == "https" {
			port, _ := strconv.Atoi(l.port())
			return port
		}
	}
	return 0
}

// ownCA is the own authority, or nil where another mode is in use.
func (a *Appliance) ownCA() *certs.Own {
	o, _ := a.certs.Current().(*certs.Own)
	return o
}
