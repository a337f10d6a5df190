package rabbitqueue

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// goodbye is how long closing a connection may take.
const goodbye = 2 * time.Second

// heartbeat is how often the broker and we tell each other that we live; a dead connection is found within three.
const heartbeat = 10 * time.Second

// holdBytes is how much a connection holds back before it writes by itself.
const holdBytes = 64 << 10

// dial tries the hosts in turn, beginning with the one that answered last.
func (q *Queue) dial(ctx context.Context, role string) (connection, error) {
	if q.cfg.connect != nil {
		return q.cfg.connect(ctx, role)
	}
	var errs []error
	first := int(q.host.Load())
	for i := range q.cfg.Hosts {
		n := (first + i) % len(q.cfg.Hosts)
		c, err := q.dialHost(ctx, q.cfg.Hosts[n], role)
		if err == nil {
			q.host.Store(int32(n))
			q.welcome.Store(true)
			return c, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", q.cfg.Hosts[n], err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (q *Queue) dialHost(ctx context.Context, host, role string) (connection, error) {
	ctx, cancel := context.WithTimeout(ctx, q.cfg.Timeout)
	defer cancel()
	conn, err := q.cfg.socket(ctx, host)
	if err != nil {
		return nil, err
	}
	// The client's handshake knows no context: its end closes the socket under it.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	held := &heldConn{Conn: conn}
	properties := amqp.NewConnectionProperties()
	properties.SetClientConnectionName("ferry " + role)
	c, err := amqp.Open(held, amqp.Config{
		SASL: q.cfg.login(), Vhost: q.cfg.VHost, Heartbeat: heartbeat, FrameSize: frameMax, Properties: properties,
		Locale: "en_US",
	})
	if err == nil && !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.CloseDeadline(time.Now()) //nolint:errcheck // it ends the client's goroutines; the handshake's error counts
		conn.Close()
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w (%w)", err, cause)
		}
		return nil, err
	}
	return &brokerConn{Connection: c, held: held}, nil
}

// socket opens a connection to a host, with TLS where the URL says so.
func (c Config) socket(ctx context.Context, host string) (net.Conn, error) {
	raw, err := c.Dial(ctx, "tcp", host)
	if err != nil || !c.TLS {
		return raw, err
	}
	t, err := c.tlsConfig(host)
	if err != nil {
		raw.Close()
		return nil, err
	}
	secure := tls.Client(raw, t)
	if err := secure.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return secure, nil
}

func (c Config) login() []amqp.Authentication {
	switch {
	case c.User == "" && c.Cert != "":
		return []amqp.Authentication{&amqp.ExternalAuth{}}
	case c.User == "":
		return []amqp.Authentication{&amqp.PlainAuth{Username: "guest", Password: "guest"}}
	}
	return []amqp.Authentication{&amqp.PlainAuth{Username: c.User, Password: c.Password.Reveal()}}
}

// brokerConn is connection over the real client.
type brokerConn struct {
	*amqp.Connection
	held *heldConn
}

func (c *brokerConn) Channel() (channel, error) {
	ch, err := c.Connection.Channel()
	if err != nil {
		return nil, err // not a typed nil
	}
	return brokerChannel{ch}, nil
}

func (c *brokerConn) Version() string {
	v, _ := c.Properties["version"].(string)
	return v
}

func (c *brokerConn) Hold()        { c.held.hold() }
func (c *brokerConn) Flush() error { return c.held.flush() }

func (c *brokerConn) Close() {
	// A broker that has blocked this connection reads nothing, so a write may be stuck for good: the deadline frees it.
	end := time.Now().Add(goodbye)
	c.held.SetDeadline(end)         //nolint:errcheck // the socket is closed in any case
	c.Connection.CloseDeadline(end) //nolint:errcheck // likewise
	c.held.Close()
}

// heldConn gathers small writes while it is told to hold.
type heldConn struct {
	net.Conn
	mu      sync.Mutex
	holding bool
	buf     []byte
}

func (c *heldConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.holding {
		return c.Conn.Write(p)
	}
	c.buf = append(c.buf, p...)
	if len(c.buf) >= holdBytes {
		if err := c.writeOut(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (c *heldConn) hold() {
	c.mu.Lock()
	c.holding = true
	c.mu.Unlock()
}

func (c *heldConn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holding = false
	return c.writeOut()
}

func (c *heldConn) writeOut() error {
	if len(c.buf) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.buf)
	c.buf = c.buf[:0]
	if cap(c.buf) > 4*holdBytes { // one large record's
		c.buf = nil
	}
	return err
}
