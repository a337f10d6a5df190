package natsqueue

import (
	"context"
	"fmt"

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
