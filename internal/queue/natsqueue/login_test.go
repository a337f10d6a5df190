package natsqueue

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
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"ferry/internal/config"
	"ferry/internal/queue"
	"ferry/internal/retry"
)

// natsServer starts a server with JetStream that ends with the test, and gives its host and port.
func natsServer(t testing.TB, o server.Options) (*server.Server, string) {
	t.Helper()
	o.Host, o.JetStream, o.StoreDir, o.NoLog, o.NoSigs = "127.0.0.1", true, t.TempDir(), true, true
	if o.Port == 0 {
		o.Port = server.RANDOM_PORT
	}
	s, err := server.NewServer(&o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not become ready")
	}
	return s, s.Addr().String()
}

// openURL opens what a person would type.
func openURL(t testing.TB, u string) (*Queue, error) {
	t.Helper()
	c, err := ParseURL(config.URL(u))
	if err != nil {
		t.Fatal(err)
	}
	c.Timeout = 2 * time.Second
	q, err := Open(t.Context(), c)
	if err == nil {
		t.Cleanup(func() { _ = q.Close(t.Context()) })
	}
	return q, err
}

// works publishes and commits by this URL.
func works(t testing.TB, u string) {
	t.Helper()
	q, err := openURL(t, u)
	if err != nil {
		t.Errorf("%s: %v", config.URL(u), err)
		return
	}
	if err := q.Publish(t.Context(), "orders", one("a")); err != nil {
		t.Errorf("%s: %v", config.URL(u), err)
	}
	w, err := q.OpenWriter(t.Context(), "p", "orders")
	if err == nil {
		err = w.Commit(t.Context(), queue.Batch{Records: one("b")}, []byte("c"))
	}
	if err != nil {
		t.Errorf("%s: %v", config.URL(u), err)
	}
}

// isRefused wants a permanent error that says this and tells no secret.
func isRefused(t testing.TB, u, want string) {
	t.Helper()
	_, err := openURL(t, u)
	switch {
	case err == nil:
		t.Errorf("%s: no error, want %q", config.URL(u), want)
	case !retry.IsPermanent(err) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret"):
		t.Errorf("%s: %v (permanent: %t), want %q", config.URL(u), err, retry.IsPermanent(err), want)
	}
}

func file(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return url.QueryEscape(path)
}

const wrongLogin = "is the login in the queue's URL right?"

func TestUserAndPassword(t *testing.T) {
	_, addr := natsServer(t, server.Options{Username: "ferry", Password: "a/b:s3cret"})
	works(t, "nats://ferry:a/b:s3cret@"+addr+"?create=true")
	works(t, "nats://ferry:a%2Fb%3As3cret@127.0.0.1:1,"+addr+"?create=true") // the second host has the login too
	isRefused(t, "nats://ferry:s3cret@"+addr, wrongLogin)
	isRefused(t, "nats://"+addr, wrongLogin)
}

func TestToken(t *testing.T) {
	_, addr := natsServer(t, server.Options{Authorization: "s3cret-token"})
	works(t, "nats://s3cret-token@"+addr+"?create=true")
	isRefused(t, "nats://s3cret@"+addr, wrongLogin)
}

func TestNKey(t *testing.T) {
	user := must(nkeys.CreateUser())(t)
	_, addr := natsServer(t, server.Options{Nkeys: []*server.NkeyUser{{Nkey: must(user.PublicKey())(t)}}})
	works(t, "nats://"+addr+"?create=true&nkey="+file(t, "seed", must(user.Seed())(t)))
	stranger := must(nkeys.CreateUser())(t)
	isRefused(t, "nats://"+addr+"?nkey="+file(t, "seed", must(stranger.Seed())(t)), wrongLogin)
	if _, err := openURL(t, "nats://"+addr+"?nkey="+file(t, "seed", []byte("s3cret nonsense"))); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("a file without a seed: %v", err)
	}
}

// TestCreds logs in as with a hosted NATS: an operator signs accounts, an account signs users.
func TestCreds(t *testing.T) {
	operator, account := must(nkeys.CreateOperator())(t), must(nkeys.CreateAccount())(t)
	oc := jwt.NewOperatorClaims(must(operator.PublicKey())(t))
	signedOperator := must(oc.Encode(operator))(t)
	ac := jwt.NewAccountClaims(must(account.PublicKey())(t))
	ac.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1, Streams: -1, Consumer: -1}
	resolver := &server.MemAccResolver{}
	if err := resolver.Store(ac.Subject, must(ac.Encode(operator))(t)); err != nil {
		t.Fatal(err)
	}
	system := must(nkeys.CreateAccount())(t)
	sc := jwt.NewAccountClaims(must(system.PublicKey())(t))
	if err := resolver.Store(sc.Subject, must(sc.Encode(operator))(t)); err != nil {
		t.Fatal(err)
	}
	s, addr := natsServer(t, server.Options{
		SystemAccount:    sc.Subject,
		TrustedOperators: []*jwt.OperatorClaims{must(jwt.DecodeOperatorClaims(signedOperator))(t)}, AccountResolver: resolver,
	})
	creds := func(change func(*jwt.UserClaims)) string {
		user := must(nkeys.CreateUser())(t)
		uc := jwt.NewUserClaims(must(user.PublicKey())(t))
		change(uc)
		signed := must(uc.Encode(account))(t)
		return file(t, "ferry.creds", must(jwt.FormatUserConfig(signed, must(user.Seed())(t)))(t))
	}
	good := creds(func(*jwt.UserClaims) {})
	works(t, "nats://"+addr+"?create=true&creds="+good)
	isRefused(t, "nats://"+addr+"?creds="+creds(func(u *jwt.UserClaims) { u.Expires = time.Now().Add(-time.Hour).Unix() }), wrongLogin)
	isRefused(t, "nats://"+addr, wrongLogin)

	// A user who may not ask JetStream is told which subjects ferry needs.
	_, err := openURL(t, "nats://"+addr+"?creds="+creds(func(u *jwt.UserClaims) { u.Pub.Deny.Add("$JS.API.>") }))
	if err == nil || !strings.Contains(err.Error(), "$JS.API.>") || !strings.Contains(err.Error(), "ermissions") {
		t.Errorf("a user without permissions: %v", err)
	}
	// An account without JetStream is no account for ferry.
	ac.Limits.JetStreamLimits = jwt.JetStreamLimits{}
	signed := must(ac.Encode(operator))(t)
	if err := resolver.Store(ac.Subject, signed); err != nil {
		t.Fatal(err)
	}
	s.UpdateAccountClaims(must(s.LookupAccount(ac.Subject))(t), must(jwt.DecodeAccountClaims(signed))(t))
	isRefused(t, "nats://"+addr+"?creds="+good, "not enabled")
}

func TestTLS(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	cert := ca.certificate(t, "nats.internal")
	_, addr := natsServer(t, server.Options{TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert.pair}, MinVersion: tls.VersionTLS12}, TLSTimeout: 5})
	named := "&server_name=nats.internal"
	works(t, "tls://"+addr+"?create=true&ca="+ca.file+named)
	works(t, "nats://"+addr+"?create=true&ca="+ca.file+named) // the server asks for TLS
	isRefused(t, "tls://"+addr+"?ca="+ca.file, "server_name")
	isRefused(t, "tls://"+addr+"?ca="+other.file+named, "the parameter ca")
	isRefused(t, "tls://"+addr+"?server_name=nats.internal", "the parameter ca")

	_, plain := natsServer(t, server.Options{})
	isRefused(t, "tls://"+plain, "nats:// instead of tls://")
}

func TestClientCertificate(t *testing.T) {
	ca := newAuthority(t)
	cert, client := ca.certificate(t, "127.0.0.1"), ca.certificate(t, "ferry")
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	for _, first := range []bool{false, true} {
		_, addr := natsServer(t, server.Options{TLSHandshakeFirst: first, TLSTimeout: 5, TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{cert.pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS12,
		}})
		u := "tls://" + addr + "?create=true&ca=" + ca.file
		if first {
			u += "&handshake_first=true"
		}
		works(t, u+"&cert="+client.file+"&key="+client.key)
		if _, err := openURL(t, u); err == nil {
			t.Error("no client certificate is asked for")
		}
	}
}

// TestPrepare: missing topics are named all at once, with the fix, and none is made.
func TestPrepare(t *testing.T) {
	_, addr := natsServer(t, server.Options{})
	q, err := openURL(t, "nats://"+addr)
	if err != nil {
		t.Fatal(err)
	}
	err = q.Prepare(t.Context(), "orders", "a b", "returns.eu")
	const want = `topic "a b" cannot be a NATS subject: use letters, digits, - and _, with single dots between
no such topic: orders, returns.eu; make their streams first, or let ferry make them: create=true in the queue's URL`
	if err == nil || err.Error() != want || !errors.Is(err, queue.ErrNoTopic) || !retry.IsPermanent(err) {
		t.Errorf("prepare: %v\nwant %s", err, want)
	}
	if err := q.Publish(t.Context(), "orders", one("a")); !errors.Is(err, queue.ErrNoTopic) || !retry.IsPermanent(err) || !strings.Contains(err.Error(), "create=true") {
		t.Errorf("publish to a missing topic: %v", err)
	}
	if all, err := q.Topics(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("topics %q (%v) although none was to be made", all, err)
	}
	making, err := openURL(t, "nats://"+addr+"?create=true")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := making.Prepare(t.Context(), "orders", "returns.eu"); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.Prepare(t.Context(), "orders", "returns.eu"); err != nil {
		t.Errorf("topics that are there: %v", err)
	}
	if err := q.Publish(t.Context(), "orders.dead", one("a")); err != nil {
		t.Errorf("publish to the dead letters of a topic that is there: %v", err)
	}
}

// must lets a test fail where a value cannot be had.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its certificate, for ca=
}

type signed struct {
	pair      tls.Certificate
	file, key string // for cert= and key=
}

func newAuthority(t testing.TB) *authority {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, form, form, key.Public(), key))(t)
	return &authority{must(x509.ParseCertificate(der))(t), key, file(t, "ca.pem", pemOf("CERTIFICATE", der))}
}

func (a *authority) certificate(t testing.TB, name string) signed {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	form := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		form.DNSNames, form.IPAddresses = nil, []net.IP{ip}
	}
	der := must(x509.CreateCertificate(rand.Reader, form, a.cert, key.Public(), a.key))(t)
	private := pemOf("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key))(t))
	public := pemOf("CERTIFICATE", der)
	return signed{must(tls.X509KeyPair(public, private))(t), file(t, "cert.pem", public), file(t, "key.pem", private)}
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
