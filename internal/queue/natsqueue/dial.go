package natsqueue

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/nats-io/nats.go"

	"ferry/internal/queue"
)

// Dial connects to the servers of c with its login, for what lies beside the queue on the same servers (the state
// store). The connection reconnects by itself and belongs to the caller.
func (c Config) Dial(ctx context.Context) (*nats.Conn, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	opts := append([]nats.Option{
		nats.Name("ferry"), nats.MaxReconnects(-1), nats.Timeout(c.Timeout),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // the default prints to stderr
	}, c.login()...)
	nc, err := nats.Connect(c.Servers, opts...)
	if err != nil {
		return nil, fmt.Errorf("%w: connect to NATS: %w", queue.ErrUnavailable, err)
	}
	return nc, nil
}

// dialer is nats.CustomDialer out of Config.DialContext.
type dialer struct {
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	timeout time.Duration
}

func (d dialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d.timeout)
	defer cancel()
	return d.dial(ctx, network, address)
}

// login is how the connections to Servers are made and who makes them.
func (c Config) login() []nats.Option {
	var opts []nats.Option
	if c.DialContext != nil {
		opts = append(opts, nats.SetCustomDialer(dialer{c.DialContext, c.Timeout}))
	}
	if c.Creds != "" {
		opts = append(opts, nats.UserCredentials(c.Creds))
	}
	if c.CA != "" {
		opts = append(opts, nats.RootCAs(c.CA))
	}
	if c.Cert != "" {
		opts = append(opts, nats.ClientCert(c.Cert, c.Key))
	}
	return opts
}
