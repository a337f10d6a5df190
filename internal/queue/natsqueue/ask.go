package natsqueue

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ask puts a question again until it is answered or ctx ends. In a cluster only the node that leads a stream answers;
// while another one is about to lead, a question may stay without any answer, and waiting longer for it helps nothing.
// It is for questions alone, which change nothing.
func ask[T any](ctx context.Context, question func(ctx context.Context) (T, error)) (T, error) {
	for wait := 500 * time.Millisecond; ; wait *= 2 {
		once, cancel := context.WithTimeout(ctx, wait)
		answer, err := question(once)
		cancel()
		unanswered := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout)
		if !unanswered || ctx.Err() != nil {
			return answer, err
		}
	}
}

// stream asks for what is known of a topic's stream.
func (q *Queue) stream(ctx context.Context, t topic) (jetstream.Stream, error) {
	return ask(ctx, func(ctx context.Context) (jetstream.Stream, error) { return q.js.Stream(ctx, t.stream()) })
}
