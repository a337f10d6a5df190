package redisqueue

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"ferry/internal/config"
	"ferry/internal/queue"
)

// authority signs certificates that are files.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ferry's tests"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.key = a.write("ca", a.cert, nil)
	return a
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// write signs a certificate, and writes it and its key: name.crt and name.key.
func (a *authority) write(name string, cert *x509.Certificate, signer *ecdsa.PrivateKey) *ecdsa.PrivateKey {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".crt": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(a.file(file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return key
}

func (a *authority) sign(name string, serial int64, ips []net.IP, names ...string) {
	a.write(name, &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), DNSNames: names, IPAddresses: ips,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.key)
}

// TestTLS: both sides prove who they are, or nothing is sent.
func TestTLS(t *testing.T) {
	a := newAuthority(t)
	a.sign("server", 2, []net.IP{net.IPv4(127, 0, 0, 1)}, "localhost")
	a.sign("client", 3, nil, "ferry")
	a.sign("elsewhere", 4, nil, "elsewhere.example")
	pool := x509.NewCertPool()
	pool.AddCert(func() *x509.Certificate {
		text, _ := os.ReadFile(a.file("ca.crt"))
		block, _ := pem.Decode(text)
		cert, _ := x509.ParseCertificate(block.Bytes)
		return cert
	}())
	serve := func(name string) string {
		pair, err := tls.LoadX509KeyPair(a.file(name+".crt"), a.file(name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		m := miniredis.NewMiniRedis()
		m.RequireUserAuth("ferry", "s3cret")
		if err := m.StartTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		return m.Addr()
	}
	files := "?create=true&timeout=2s&ca=" + a.file("ca.crt")
	client := "&cert=" + a.file("client.crt") + "&key=" + a.file("client.key")
	good, other := serve("server"), serve("elsewhere")
	try := func(url string) error {
		c, err := ParseURL(config.URL(url))
		if err != nil {
			t.Fatal(err)
		}
		q, err := Open(t.Context(), c)
		if err != nil {
			return err
		}
		return errors.Join(q.Publish(t.Context(), "orders", payload(2, 10)), q.Close(t.Context()))
	}
	if err := try("rediss://ferry:s3cret@" + good + files + client); err != nil {
		t.Fatal(err)
	}
	for what, url := range map[string]string{
		"no certificate of the client": "rediss://ferry:s3cret@" + good + files,
		"an unknown authority":         "rediss://ferry:s3cret@" + good + strings.Replace(files, "&ca="+a.file("ca.crt"), "", 1) + client,
		"a server of another name":     "rediss://ferry:s3cret@" + other + files + client,
	} {
		err := try(url)
		if !errors.Is(err, queue.ErrUnavailable) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := try("rediss://ferry:s3cret@" + good + "?ca=" + a.file("ca.key")); err == nil || !strings.Contains(err.Error(), "holds no certificate in PEM form") {
		t.Errorf("a key for an authority: %v", err)
	}
}

// TestNameOfServer: a cluster and sentinels give addresses; the certificate is for the name that a person has written.
func TestNameOfServer(t *testing.T) {
	for _, tt := range []struct{ host, dialled, want string }{
		{"redis.example:6379", "redis.example:6379", "redis.example"},
		{"redis.example:6379", "10.0.0.7:6379", "redis.example"},
		{"redis.example:6379", "node-3.redis.example:6379", "node-3.redis.example"},
		{"10.0.0.7:6379", "10.0.0.7:6379", "10.0.0.7"},
	} {
		if got := (Config{Hosts: []string{tt.host}}).tlsFor(&tls.Config{}, tt.dialled).ServerName; got != tt.want {
			t.Errorf("%s dialled for %s is expected to be %s, want %s", tt.dialled, tt.host, got, tt.want)
		}
	}
}
