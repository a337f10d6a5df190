package queueurl

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// TLS is the client's side of TLS 1.2 or later by the files that a URL's parameters name: ca holds the authorities that
// are trusted in place of the system's, cert and key what the client shows of itself, all in PEM form, each empty when
// not given. The error names the parameter.
func TLS(ca, cert, key string) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("read ca of the queue URL: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read ca of the queue URL: %s holds no certificate in PEM form", ca)
		}
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("read cert and key of the queue URL: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}
