package kafkaqueue

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"ferry/internal/config"
	"ferry/internal/queue"
	"ferry/internal/record"
	"ferry/internal/retry"
)

// TestLogins goes through every way in of a real broker.
func TestLogins(t *testing.T) {
	sasl, ca := environment(t, "FERRY_TEST_KAFKA_SASL"), environment(t, "FERRY_TEST_KAFKA_CA")
	secure, mutual := environment(t, "FERRY_TEST_KAFKA_TLS"), environment(t, "FERRY_TEST_KAFKA_MTLS")
	pair := "&cert=" + environment(t, "FERRY_TEST_KAFKA_CERT") + "&key=" + environment(t, "FERRY_TEST_KAFKA_KEY")
	for _, url := range []string{
		"kafka://alice:alice-pw@" + sasl + "?sasl=plain",
		"kafka://app:app-pw@" + sasl + "?sasl=scram-sha-256",
		"kafka://app:app-pw@" + sasl + "?sasl=scram-sha-512",
		"kafkas://" + secure + "?ca=" + ca,
		"kafkas://" + mutual + "?ca=" + ca + pair,
	} {
		q, topic := open(t, parse(t, url)), topicName(t)
		w := writerOf(t, q, "p", topic)
		if err := w.Commit(t.Context(), queue.Batch{Records: records("p", 0, 3)}, record.Cursor("a")); err != nil {
			t.Fatalf("%s: %v", url, err)
		}
		holds(t, q, topic, records("p", 0, 3))
	}
	for url, want := range map[string]string{
		"kafka://alice:wrong-pw@" + sasl + "?sasl=plain":       "are the login and sasl in the queue's URL right?",
		"kafka://app:wrong-pw@" + sasl + "?sasl=scram-sha-512": "are the login and sasl in the queue's URL right?",
		"kafkas://" + secure:                             "is ca in the queue's URL the authority of the brokers' certificates?",
		"kafka://" + secure:                              "",
		"kafkas://" + mutual + "?ca=" + ca:               "",
		"kafkas://" + secure + "?server_name=x&ca=" + ca: "is ca in the queue's URL the authority",
	} {
		refused(t, url, want)
	}
}

// refused checks that a wrong login is an error that says what to do, in time.
func refused(t *testing.T, url, want string) {
	t.Helper()
	c, err := ParseURL(config.URL(url))
	if err != nil {
		t.Fatal(err)
	}
	c.Timeout = 3 * time.Second
	begin := time.Now()
	q, err := Open(t.Context(), c)
	if err == nil {
		_ = q.Close(context.Background())
		t.Errorf("%s is let in", url)
		return
	}
	if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "wrong-pw") {
		t.Errorf("%s: %v, want %q", url, err, want)
	}
	if want != "" && !retry.IsPermanent(err) {
		t.Errorf("%s: %v is not permanent", url, err)
	}
	if d := time.Since(begin); d > 8*time.Second {
		t.Errorf("%s: it took %s to be refused", url, d)
	}
}

// TestTokens logs in at a real broker by tokens, from a server and from a file, and goes on when they end: the broker says
// how long a login lasts (KIP-368), and hangs up on who does not renew it.
func TestTokens(t *testing.T) {
	sasl := environment(t, "FERRY_TEST_KAFKA_SASL")
	const lasts = 4 * time.Second
	token := func() string { // the broker's own validator takes those without a signature (KIP-255)
		now := time.Now()
		part := base64.RawURLEncoding.EncodeToString
		return part([]byte(`{"alg":"none"}`)) + "." + part(fmt.Appendf(nil, `{"sub":"app","iat":%d,"exp":%d}`, now.Unix(), now.Add(lasts).Unix())) + "."
	}
	var given atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id, secret, ok := r.BasicAuth(); !ok || id != "me" || secret != "s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		given.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"access_token":%q,"token_type":"bearer","expires_in":%d}`, token(), int(lasts.Seconds()))
	}))
	defer s.Close()
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(token())
	var queues []*Queue
	for _, url := range []string{
		"kafka://me:s3cret@" + sasl + "?sasl=oauthbearer&token_url=" + s.URL,
		"kafka://" + sasl + "?sasl=oauthbearer&token_file=" + file,
	} {
		queues = append(queues, open(t, parse(t, url)))
	}
	var writers []queue.Writer
	var topics []string
	for _, q := range queues {
		topics = append(topics, topicName(t))
		writers = append(writers, writerOf(t, q, "p", topics[len(topics)-1]))
	}
	n := 0
	for end := time.Now().Add(3 * lasts); time.Now().Before(end); n++ {
		write(token())
		for i, w := range writers {
			if err := w.Commit(t.Context(), queue.Batch{Records: records("p", 5*n, 5)}, record.Cursor("a")); err != nil {
				t.Fatalf("commit %d of queue %d: %v", n, i, err)
			}
		}
		<-time.After(200 * time.Millisecond)
	}
	for i, q := range queues {
		holds(t, q, topics[i], records("p", 0, 5*n))
	}
	if got := given.Load(); got < 3 {
		t.Errorf("%d tokens were asked for in %s, although each lasts %s", got, 3*lasts, lasts)
	}
	refused(t, "kafka://me:wrong-pw@"+sasl+"?sasl=oauthbearer&token_url="+s.URL, "are the client's id and secret in the queue's URL right?")
	write("no token at all")
	refused(t, "kafka://"+sasl+"?sasl=oauthbearer&token_file="+file, "are the login and sasl in the queue's URL right?")
}

// TestFakeLogins is TestLogins without a broker.
func TestFakeLogins(t *testing.T) {
	certificate, ca := selfSigned(t)
	c := fake(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "alice", "alice-pw"), kfake.Superuser("SCRAM-SHA-256", "app", "app-pw"),
		kfake.Superuser("SCRAM-SHA-512", "app", "app-pw"), kfake.TLS(&tls.Config{Certificates: []tls.Certificate{certificate}}))
	host := c.ListenAddrs()[0]
	for _, url := range []string{
		"kafkas://alice:alice-pw@" + host + "?sasl=plain&ca=" + ca,
		"kafkas://app:app-pw@" + host + "?sasl=scram-sha-256&ca=" + ca,
		"kafkas://app:app-pw@" + host + "?sasl=scram-sha-512&server_name=localhost&ca=" + ca,
	} {
		if err := open(t, parse(t, url)).Publish(t.Context(), "orders", records("p", 0, 1)); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	for _, login := range []string{"alice:wrong-pw@" + host + "?sasl=plain", "app:wrong-pw@" + host + "?sasl=scram-sha-256"} {
		// This one hangs up without a word, as some do.
		c := parse(t, "kafkas://"+login+"&ca="+ca)
		if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "or another sasl or login?") {
			t.Errorf("%s: %v", login, err)
		}
	}
	refused(t, "kafkas://alice:alice-pw@"+host+"?sasl=plain", "is ca in the queue's URL the authority")
	refused(t, "kafka://alice:wrong-pw@"+host+"?sasl=plain", "")
}

// selfSigned makes a certificate for this machine, and a file with it.
func selfSigned(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// TestTokenFile reads the token anew each time.
func TestTokenFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	c := Config{SASL: saslOAuth, TokenFile: file}
	for _, want := range []string{"one", "two", ""} {
		if err := os.WriteFile(file, []byte(want+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := c.tokenFromFile(t.Context())
		if got.Token != want || (want == "") != (err != nil) {
			t.Errorf("token %q, %v, want %q", got.Token, err, want)
		}
	}
}

// TestTokenURL asks once for a token that is still good, and gives no secret away when it is refused.
func TestTokenURL(t *testing.T) {
	var asked atomic.Int32
	var answer atomic.Value
	answer.Store(`{"access_token":"t0ken","token_type":"bearer","expires_in":3600}`)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		id, secret, ok := r.BasicAuth()
		if err := r.ParseForm(); err != nil || !ok || id != "me" || secret != "s3cret" || r.Form.Get("grant_type") != "client_credentials" || r.Form.Get("scope") != "a b" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error":"invalid_client","error_description":"s3cret is wrong"}`))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(answer.Load().(string)))
	}))
	defer s.Close()
	c := Config{User: "me", Password: "s3cret", TokenURL: s.URL, Scope: "a  b", Timeout: 5 * time.Second}
	good := &tokens{cfg: c}
	for range 3 {
		got, err := good.get(t.Context())
		if err != nil || got.Token != "t0ken" {
			t.Fatalf("token %q, %v", got.Token, err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times for one token", n)
	}
	c.User = "other"
	_, err := (&tokens{cfg: c}).get(t.Context())
	if err == nil || !retry.IsPermanent(err) || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "invalid_client") {
		t.Errorf("refused: %v", err)
	}
	moved := httptest.NewServer(http.RedirectHandler(s.URL, http.StatusTemporaryRedirect))
	defer moved.Close()
	c.User, c.TokenURL = "me", moved.URL
	if got, err := (&tokens{cfg: c}).get(t.Context()); err == nil {
		t.Errorf("the secret went on to another address, for token %q", got.Token)
	}
	c.TokenURL = s.URL
	s.Close()
	if _, err = (&tokens{cfg: c}).get(t.Context()); !errors.Is(err, queue.ErrUnavailable) {
		t.Errorf("nobody there: %v, want ErrUnavailable", err)
	}
}
