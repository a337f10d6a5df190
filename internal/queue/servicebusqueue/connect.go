package servicebusqueue

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"
	"github.com/Azure/go-amqp"
	"golang.org/x/net/websocket"

	"ferry/internal/queue"
)

// connection is one connection to the namespace, with the links on it. The SDK dials when it is first used, and mends
// what it can; when it stays silent the connection is thrown away as a whole and the next call makes another.
type connection struct {
	client *azservicebus.Client

	mu        sync.Mutex
	senders   map[string]*sender
	receivers map[string]*receiver
	closing   bool // no more links are made: those that come now would not be closed with the others
}

// sender sends to one topic, for any number of callers at once. It keeps from them what the SDK bears badly: two that open
// the link at the same time, and one that mends it while another closes it, would leave a link behind that nobody closes
// and whose login is renewed for good.
type sender struct {
	*azservicebus.Sender

	calls   queue.Calls // under way
	opening slot        // guards opened
	opened  bool
}

// errClosing is for who comes when a link is being closed already. The next try finds another.
var errClosing = errors.New("the link is being closed")

// use runs f with the link open, and not closed before f is done.
func (s *sender) use(ctx context.Context, f func() (sent, error)) (sent, error) {
	if s.calls.Enter() != nil {
		return sent{}, errClosing
	}
	defer s.calls.Leave()
	if err := s.open(ctx); err != nil {
		return sent{}, err
	}
	return f()
}

// open makes the link, unless it was made.
func (s *sender) open(ctx context.Context) error {
	if err := s.opening.take(ctx); err != nil {
		return err
	}
	defer s.opening.leave()
	if s.opened {
		return nil
	}
	_, err := s.NewMessageBatch(ctx, nil)
	s.opened = err == nil
	return err
}

// leave waits a moment for those who use the link, and lets nobody in any more.
func (s *sender) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, goodbye/2)
	defer cancel()
	if leaving := s.calls.Close(); leaving != nil {
		_ = leaving.Wait(ctx) // who is stuck goes on when the connection is closed
	}
}

func (s *sender) close(ctx context.Context) error {
	s.leave(ctx)
	return s.Sender.Close(ctx)
}

// oneMore is how often the SDK tries again within a call: once, at once, which reopens links and connections that
// Service Bus has closed for being idle. More patience is the caller's.
var oneMore = azservicebus.RetryOptions{MaxRetries: 1, RetryDelay: 20 * time.Millisecond, MaxRetryDelay: 100 * time.Millisecond}

func newConnection(cfg Config, identity azcore.TokenCredential) (*connection, error) {
	options := &azservicebus.ClientOptions{ApplicationID: "ferry", RetryOptions: oneMore}
	host, emulator := cfg.host()
	options.NewWebSocketConn = func(ctx context.Context, args azservicebus.NewWebSocketConnArgs) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
		defer cancel()
		switch {
		case emulator:
			return cfg.Dial(ctx, "tcp", withPort(host, "5672"))
		case cfg.WebSocket:
			return dialWebSocket(ctx, cfg, host, args.Host)
		}
		return dialTLS(ctx, cfg, host, "5671")
	}
	c := &connection{senders: make(map[string]*sender), receivers: make(map[string]*receiver)}
	var err error
	if cfg.ConnectionString != "" {
		c.client, err = azservicebus.NewClientFromConnectionString(cfg.ConnectionString.Reveal(), options)
	} else {
		c.client, err = azservicebus.NewClient(cfg.Namespace, identity, options)
	}
	return c, err
}

// identity is who logs in, nil with a connection string.
func (c Config) identity() (azcore.TokenCredential, error) {
	switch {
	case c.ConnectionString != "":
		return nil, nil
	case c.credential != nil:
		return c.credential, nil
	case c.ClientID != "":
		return azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ID: azidentity.ClientID(c.ClientID)})
	}
	return azidentity.NewDefaultAzureCredential(nil)
}

func withPort(host, port string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(host, port)
}

func dialTLS(ctx context.Context, cfg Config, host, port string) (net.Conn, error) {
	address := withPort(host, port)
	raw, err := cfg.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	name, _, _ := net.SplitHostPort(address)
	own := cfg.tls.Clone()
	own.ServerName = name
	conn := tls.Client(raw, own)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		var untrusted *tls.CertificateVerificationError
		if errors.As(err, &untrusted) {
			err = certificateError{err}
		}
		return nil, err
	}
	return conn, nil
}

// certificateError is a broker's certificate that is not trusted. The mark makes the SDK give it back as it is, and not
// try again.
type certificateError struct{ error }

func (certificateError) NonRetriable()   {}
func (e certificateError) Unwrap() error { return e.error }

// dialWebSocket carries AMQP over a WebSocket (subprotocol "amqp", OASIS AMQP over WebSocket binding).
func dialWebSocket(ctx context.Context, cfg Config, host, address string) (net.Conn, error) {
	raw, err := dialTLS(ctx, cfg, host, "443")
	if err != nil {
		return nil, err
	}
	return overWebSocket(ctx, raw, host, address)
}

func overWebSocket(ctx context.Context, raw net.Conn, host, address string) (net.Conn, error) {
	w, err := websocket.NewConfig(address, "https://"+host)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	w.Protocol = []string{"amqp"}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() }) // the handshake knows no context
	conn, err := websocket.NewClient(w, raw)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("open a WebSocket: %w", err)
	}
	conn.PayloadType = websocket.BinaryFrame
	return conn, nil
}

// sender gives the one sender of a topic. It does not block: open makes the link.
func (c *connection) sender(topic string) (*sender, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil, errClosing
	}
	if s := c.senders[topic]; s != nil {
		return s, nil
	}
	link, err := c.client.NewSender(topic, nil)
	if err != nil {
		return nil, err
	}
	s := &sender{Sender: link, opening: make(slot, 1)}
	c.senders[topic] = s
	return s, nil
}

// close closes the connection and its links.
func (c *connection) close(ctx context.Context) error {
	c.mu.Lock()
	c.closing = true
	senders := slices.Collect(maps.Values(c.senders))
	c.mu.Unlock()
	var wg sync.WaitGroup
	for _, s := range senders {
		wg.Go(func() { s.leave(ctx) })
	}
	wg.Wait()
	return c.client.Close(ctx)
}

// drop lets go of a sender whose link may be dead. The SDK reopens a link that the broker has detached for some reasons
// only, and would go on failing with the others for good.
func (c *connection) drop(topic string, s *sender) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.senders[topic] != s {
		return false
	}
	delete(c.senders, topic)
	return true
}

// dropSender is drop when the error does not say that the link is alive: a refusal of a message alone leaves it so.
func (q *Queue) dropSender(c *connection, topic string, s *sender, err error) {
	var said *amqp.Error
	var link *amqp.LinkError
	if errors.As(err, &said) && !errors.As(err, &link) || !c.drop(topic, s) {
		return
	}
	q.closeLater(s.close)
}

// closeLater lets go of something beside what goes on.
func (q *Queue) closeLater(f func(context.Context) error) {
	q.closing.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), goodbye)
		defer cancel()
		_ = f(ctx) // what it could not say, the broker finds out by itself
	})
}

// goodbye is how long closing a connection may take.
const goodbye = 2 * time.Second

// conn gives the present connection.
func (q *Queue) conn() (*connection, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.now != nil {
		return q.now, nil
	}
	c, err := newConnection(q.cfg, q.identity)
	if err != nil {
		return nil, mapError("connect to Service Bus", err)
	}
	q.now = c
	return c, nil
}

// lose throws a connection away when the error says that it is lost, and not only that the caller's patience is over.
// Others that are at work on it fail too; those after them use a new one.
func (q *Queue) lose(ctx context.Context, c *connection, err error) {
	if ctx.Err() != nil || !lost(err) {
		return
	}
	q.mu.Lock()
	if q.now != c {
		q.mu.Unlock()
		return
	}
	q.now = nil
	q.mu.Unlock()
	q.closeLater(c.close)
}

// newAdmin makes the client of the management calls. Its transport dials as the queue does.
func newAdmin(cfg Config, identity azcore.TokenCredential) (*admin.Client, *http.Transport, error) {
	transport := &http.Transport{
		DialContext: cfg.Dial, TLSHandshakeTimeout: cfg.Timeout, ResponseHeaderTimeout: cfg.Timeout,
		MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second, ForceAttemptHTTP2: true,
		TLSClientConfig: cfg.tls.Clone(), Proxy: http.ProxyFromEnvironment,
	}
	options := &admin.ClientOptions{ClientOptions: azcore.ClientOptions{
		Retry:     policy.RetryOptions{MaxRetries: -1},
		Telemetry: policy.TelemetryOptions{ApplicationID: "ferry"},
		Transport: &http.Client{Transport: transport},
	}}
	if host, emulator := cfg.host(); emulator {
		at := cfg.Management
		if at == "" {
			at = withPort(host, "5300")
		}
		options.Transport = &http.Client{Transport: plain{transport, at}}
		transport.Proxy = nil
	}
	var c *admin.Client
	var err error
	if cfg.ConnectionString != "" {
		c, err = admin.NewClientFromConnectionString(cfg.ConnectionString.Reveal(), options)
	} else {
		c, err = admin.NewClient(cfg.Namespace, identity, options)
	}
	return c, transport, err
}

// plain sends the management calls of an emulator to its address, without TLS.
type plain struct {
	next *http.Transport
	host string
}

func (p plain) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL = &url.URL{Scheme: "http", Host: p.host, Path: r.URL.Path, RawQuery: r.URL.RawQuery}
	r.Host = p.host
	return p.next.RoundTrip(r)
}
