package rabbitqueue

import (
	"errors"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"ferry/internal/queue"
	"ferry/internal/retry"
)

// A handshake that breaks looks to the client like a refused login. That is the end only for a login that was never let in.
func TestBrokenHandshake(t *testing.T) {
	for _, broken := range []*amqp.Error{amqp.ErrCredentials, amqp.ErrVhost} {
		q := new(Queue)
		if err := q.mapError("connect to RabbitMQ", broken); !retry.IsPermanent(err) || errors.Is(err, queue.ErrUnavailable) {
			t.Errorf("%s at first: %v, want the end", broken.Reason, err)
		}
		q.welcome.Store(true)
		if err := q.mapError("connect to RabbitMQ", broken); retry.IsPermanent(err) || !errors.Is(err, queue.ErrUnavailable) {
			t.Errorf("%s after a connection: %v, want ErrUnavailable", broken.Reason, err)
		}
	}
}
