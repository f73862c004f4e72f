package certs

import (
	"crypto/tls"
	"errors"
	"sync/atomic"
)

// Switch is a Source that can be exchanged while listeners use it.
type Switch struct{ current atomic.Pointer[Source] }

// Set makes s the source of all new connections and closes the one before it.
func (w *Switch) Set(s Source) {
	if old := w.current.Swap(&s); old != nil {
		(*old).Close()
	}
}

// Current is the source in use, or nil.
func (w *Switch) Current() Source {
	if s := w.current.Load(); s != nil {
		return *s
	}
	return nil
}

// Certificate implements Source.
func (w *Switch) Certificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if s := w.Current(); s != nil {
		return s.Certificate(h)
	}
	return nil, errors.New("there is no certificate")
}

// TLS is the configuration of a listener. "acme-tls/1" is how an ACME authority
// asks for its proof.
func (w *Switch) TLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1", "acme-tls/1"},
		GetCertificate: w.Certificate,
	}
}

// Close implements Source.
func (w *Switch) Close() {
	if old := w.current.Swap(nil); old != nil {
		(*old).Close()
	}
}
