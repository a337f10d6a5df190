package rabbitqueue

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// mapError turns what the client says into the contract's errors. It keeps the cause.
func (q *Queue) mapError(what string, err error) error {
	if err == nil || errors.Is(err, queue.ErrClosed) || errors.Is(err, queue.ErrUnavailable) {
		return err
	}
	if errors.Is(err, context.Canceled) { // the caller's own wish
		return fmt.Errorf("%s: %w", what, err)
	}
	never := func(hint string) error { return retry.Permanent(fmt.Errorf("%s: %w (%s)", what, err, hint)) }
	var certificate *tls.CertificateVerificationError
	var name x509.HostnameError
	var said *amqp.Error
	switch {
	case errors.As(err, &name):
		return never("the certificate is of another name: set server_name to the one that it has")
	case errors.As(err, &certificate):
		return never("is ca the authority that signed the broker's certificate?")
	case errors.Is(err, amqp.ErrSASL):
		return never("the broker offers no way to log in that ferry knows: it needs PLAIN, or EXTERNAL with cert and key")
	case errors.As(err, &said) && !said.Server && q.welcome.Load():
		// The client takes a connection that breaks in its handshake for a refused login. This one was let in before.
	case errors.As(err, &said):
		switch said.Code {
		case amqp.NotFound:
			if isComing(said.Reason) {
				break
			}
			return retry.Permanent(fmt.Errorf("%s: %w: %w", what, queue.ErrNoTopic, err))
		case amqp.AccessRefused:
			if !said.Server {
				return never("is the login in the queue's URL right? guest is let in from the broker's own machine only")
			}
			return never("the login lacks this right in the vhost: configure to declare, write to publish, read to receive")
		case amqp.NotAllowed:
			if strings.Contains(said.Reason, "limit") { // of connections or channels
				break
			}
			return never("is the vhost in the queue's URL right, and may this login use it?")
		case amqp.PreconditionFailed, amqp.ContentTooLarge, amqp.NotImplemented:
			return retry.Permanent(fmt.Errorf("%s: %w", what, err))
		}
	}
	// Timeouts, lost connections, a broker that stops.
	return fmt.Errorf("%s: %w: %w", what, queue.ErrUnavailable, err)
}

// isComing tells a queue that is there and does not answer yet or any more from one that is missing: RabbitMQ has the
// same code for both.
func isComing(reason string) bool {
	return strings.Contains(reason, "is down or inaccessible") || strings.Contains(reason, "is stopped by supervisor") ||
		strings.Contains(reason, "process crashed")
}

// roundTrip runs calls of the client, which know no context, and returns when they are done, when the context ends or
// when the configured time is over. A connection that does not answer in time is closed, which ends the calls. late
// is called with what came after nobody waited for it any more; it may be nil.
func roundTrip[T any](ctx context.Context, q *Queue, conn connection, f func() (T, error), late func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done, gone := make(chan result), make(chan struct{})
	slow, stop := context.WithTimeout(context.WithoutCancel(ctx), q.cfg.Timeout)
	closing := context.AfterFunc(slow, conn.Close)
	go func() {
		value, err := f()
		closing()
		stop()
		select {
		case done <- result{value, err}:
		case <-gone:
			if late != nil && err == nil {
				late(value)
			}
		}
	}()
	var none T
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		close(gone)
		return none, context.Cause(ctx)
	}
}
