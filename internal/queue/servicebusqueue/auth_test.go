package servicebusqueue

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"golang.org/x/net/websocket"

	"ferry/internal/queue"
	"ferry/internal/queue/servicebusqueue/servicebustest"
	"ferry/internal/retry"
)

// TestWrongKey: a refused login is permanent, and the error shows no key.
func TestWrongKey(t *testing.T) {
	s := serve(t, servicebustest.Options{})
	const key = "d3Jvbmc="
	c := parse(t, s.ConnectionStringFor(servicebustest.Key{Name: servicebustest.DefaultKeyName, Secret: key}))
	_, err := Open(within(t), c)
	if !retry.IsPermanent(err) || !strings.Contains(err.Error(), "is the login in the queue's URL right") {
		t.Fatalf("open with a wrong key: %v", err)
	}
	if strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "sig=") {
		t.Fatalf("the error shows the login: %v", err)
	}
}

// TestRights: each right that is missing is named where it is missed.
func TestRights(t *testing.T) {
	s := serve(t, servicebustest.Options{Keys: []servicebustest.Key{
		{Name: "root", Secret: "cm9vdA==", Rights: servicebustest.Send | servicebustest.Listen | servicebustest.Manage},
		{Name: "send", Secret: "c2VuZA==", Rights: servicebustest.Send},
		{Name: "listen", Secret: "bGlzdGVu", Rights: servicebustest.Listen},
	}})
	for _, name := range []string{"orders", "orders.dead"} {
		if err := s.CreateQueue(name, servicebustest.QueueOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	sender := open(t, parse(t, s.ConnectionStringFor(servicebustest.Key{Name: "send", Secret: "c2VuZA=="})))
	if err := sender.Prepare(within(t), "orders"); err != nil { // by links, for the login may do no more
		t.Fatal(err)
	}
	if err := sender.Prepare(within(t), "nothing"); !errors.Is(err, queue.ErrNoTopic) || !strings.Contains(err.Error(), "nothing, nothing.dead") {
		t.Fatalf("prepare of a missing topic: %v", err)
	}
	if err := sender.Publish(within(t), "orders", recs("a")); err != nil {
		t.Fatal(err)
	}
	if _, err := sender.Receive(within(t), "orders", 1, 0); !retry.IsPermanent(err) || !strings.Contains(err.Error(), "Data Receiver") {
		t.Fatalf("receive with a login that may only send: %v", err)
	}
	if _, err := sender.Stats(within(t), "orders"); !retry.IsPermanent(err) || !strings.Contains(err.Error(), "Manage") {
		t.Fatalf("stats with a login that may only send: %v", err)
	}
	c := parse(t, s.ConnectionStringFor(servicebustest.Key{Name: "listen", Secret: "bGlzdGVu"}))
	c.Topics = []string{"orders"}
	if _, err := Open(within(t), c); !retry.IsPermanent(err) || !strings.Contains(err.Error(), "Data Sender") {
		t.Fatalf("open with a login that may only listen: %v", err)
	}
}

// identity is an Entra ID of the test's.
type identity struct {
	token string
	err   error
}

func (i identity) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if len(o.Scopes) != 1 || !strings.Contains(o.Scopes[0], "servicebus.azure.net") {
		return azcore.AccessToken{}, errors.New("unexpected scope")
	}
	return azcore.AccessToken{Token: i.token, ExpiresOn: time.Now().Add(time.Hour)}, i.err
}

// front stands before a server as the cloud does: TLS for AMQP on 5671; TLS with HTTP, and WebSockets, on 443. It gives
// a Config that dials it.
func front(t *testing.T, s *servicebustest.Server) Config {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/$servicebus/websocket", websocket.Server{
		Handshake: func(c *websocket.Config, _ *http.Request) error {
			if len(c.Protocol) != 1 || c.Protocol[0] != "amqp" {
				return websocket.ErrBadWebSocketProtocol
			}
			return nil
		},
		Handler: func(w *websocket.Conn) {
			w.PayloadType = websocket.BinaryFrame
			pipe(t, w, s.Address())
		},
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host, out.RequestURI = "http", s.Address(), ""
		tr := &http.Transport{DisableKeepAlives: true}
		resp, err := tr.RoundTrip(out)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	})
	web := httptest.NewTLSServer(mux)
	t.Cleanup(web.Close)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", web.TLS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go pipe(t, c, s.Address())
		}
	}()
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	return Config{
		Namespace: "example.com", // the name in httptest's certificate
		Timeout:   2 * time.Second,
		tls:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			at, ok := map[string]string{
				"example.com:5671": listener.Addr().String(), "example.com:443": web.Listener.Addr().String(),
			}[address]
			if !ok {
				t.Errorf("dialled %s", address)
				return nil, errors.New("no such host")
			}
			return (&net.Dialer{}).DialContext(ctx, network, at)
		},
	}
}

// pipe carries bytes both ways until one end closes.
func pipe(t *testing.T, c net.Conn, to string) {
	s, err := net.Dial("tcp", to)
	if err != nil {
		t.Error(err)
		return
	}
	go func() {
		_, _ = io.Copy(s, c)
		_ = s.Close()
		_ = c.Close()
	}()
	_, _ = io.Copy(c, s)
	_ = c.Close()
	_ = s.Close()
}

// TestIdentity: an identity instead of a key, over TLS and over a WebSocket, with the management calls.
func TestIdentity(t *testing.T) {
	for name, through443 := range map[string]bool{"TLS": false, "WebSocket": true} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, servicebustest.Options{Token: "a-token"})
			c := front(t, s)
			c.credential, c.WebSocket, c.Create = identity{token: "a-token"}, through443, true
			q := open(t, c)
			if err := q.Prepare(within(t), "orders"); err != nil {
				t.Fatal(err)
			}
			if err := q.Publish(within(t), "orders", recs("a", "b")); err != nil {
				t.Fatal(err)
			}
			d, err := q.Receive(within(t), "orders", 2, time.Second)
			if err != nil || len(d) != 2 {
				t.Fatalf("received %d, %v", len(d), err)
			}
			if err := q.Ack(within(t), "orders", d[0].Receipt, d[1].Receipt); err != nil {
				t.Fatal(err)
			}
			holds(t, s, "orders")
			if i := q.Info(); i.Tier != queue.Deduplicated || i.Server != "standard tier" {
				t.Fatalf("info %+v", i)
			}
			c.credential = identity{token: "another"}
			if _, err := Open(within(t), c); !retry.IsPermanent(err) {
				t.Fatalf("open with a token that is refused: %v", err)
			}
		})
	}
}

// TestCertificate: one that is not trusted is an error, and nothing is sent.
func TestCertificate(t *testing.T) {
	s := serve(t, servicebustest.Options{Token: "a-token"})
	c := front(t, s)
	c.credential, c.tls = identity{token: "a-token"}, nil
	_, err := Open(within(t), c)
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Fatalf("open with a certificate that nobody knows: %v", err)
	}
	if !retry.IsPermanent(err) {
		t.Fatalf("it can clear by itself: %v", err)
	}
}
