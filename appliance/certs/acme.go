package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// ACMEOptions say which authority gives certificates for which names.
type ACMEOptions struct {
	Dir       string   // where account and certificates are kept
	Names     []string // DNS names
	Email     string   // may be empty
	Directory string   // "": Let's Encrypt
	RootFile  string   // PEM; "": the system's roots
	Port      int      // of the listener that shows the proof, as this machine sees it; 0: 443
	Log       *slog.Logger
}

// ACME are certificates from an ACME authority, proved over the HTTPS listener
// itself (TLS-ALPN-01): the authority must reach it at port 443 of each name.
type ACME struct {
	config *certmagic.Config
	cache  *certmagic.Cache
	cancel context.CancelFunc
}

// OpenACME starts to manage the certificates in the background: the listener can
// be up before the first one is there, as the proof needs it to be.
func OpenACME(o ACMEOptions) (*ACME, error) {
	log := zap.NewNop() // what matters comes as events
	a := &ACME{}
	a.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return a.config, nil },
		Logger:           log,
	})
	a.config = certmagic.New(a.cache, certmagic.Config{
		Storage: &certmagic.FileStorage{Path: o.Dir},
		Logger:  log,
		// Who asks for another name, or an address, is shown the certificate that there
		// is, as with the other sources: the appliance asks itself by localhost.
		DefaultServerName:  o.Names[0],
		FallbackServerName: o.Names[0],
		OnEvent: func(_ context.Context, event string, data map[string]any) error {
			switch event {
			case "cert_obtained":
				o.Log.Info("the ACME authority gave a certificate", "name", data["identifier"], "renewal", data["renewal"])
			case "cert_failed":
				o.Log.Error("the ACME authority gave no certificate; it will be tried again. The name must lead to this machine, with port 443 reachable from the authority", "name", data["identifier"], "err", data["error"])
			}
			return nil
		},
	})
	issuer := certmagic.ACMEIssuer{
		CA:                   o.Directory,
		Email:                o.Email,
		Agreed:               true,
		DisableHTTPChallenge: true,
		AltTLSALPNPort:       o.Port,
		Logger:               log,
	}
	if issuer.CA == "" {
		issuer.CA = certmagic.LetsEncryptProductionCA
	}
	if o.RootFile != "" {
		pem, err := os.ReadFile(o.RootFile)
		if err != nil {
			return nil, fmt.Errorf("tls.acme_root: %w", err)
		}
		issuer.TrustedRoots = x509.NewCertPool()
		if !issuer.TrustedRoots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls.acme_root: %s has no certificate in PEM", o.RootFile)
		}
	}
	a.config.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(a.config, issuer)}
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	if err := a.config.ManageAsync(ctx, o.Names); err != nil {
		cancel()
		a.cache.Stop()
		return nil, err
	}
	return a, nil
}

// Certificate implements Source.
func (a *ACME) Certificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return a.config.GetCertificate(h)
}

// Close implements Source.
func (a *ACME) Close() {
	a.cancel()
	a.cache.Stop()
}
