package web

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// checkPair says whether a pasted certificate and key can be used.
func checkPair(cert, key string) error {
	if cert == "" {
		return &Error{Code: "missing", Field: "tls.cert", Message: "Add the certificate, as PEM, with its chain after it."}
	}
	if key == "" {
		return &Error{Code: "missing", Field: "tls.key", Message: "Add the private key, as PEM."}
	}
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		return &Error{Code: "bad_certificate", Field: "tls.cert", Message: "The certificate and the key do not work together: " + err.Error() + ". Both must be PEM, the key without a passphrase."}
	}
	leaf := pair.Leaf
	if leaf == nil {
		if leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return errors.New("a certificate that was just parsed cannot be parsed")
		}
	}
	if time.Now().After(leaf.NotAfter) {
		return &Error{Code: "expired_certificate", Field: "tls.cert", Message: fmt.Sprintf("The certificate ended on %s. Renew it, or check the appliance's clock.", leaf.NotAfter.Format("2 January 2006"))}
	}
	return nil
}
