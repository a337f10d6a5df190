package rabbitqueue

import (
	"context"

	"ferry/internal/queue"
)

// Browse implements queue.Reader for streams. A queue cannot be looked at without taking: giving records back would
// change their order and count as a delivery.
func (q *Queue) Browse(ctx context.Context, topic string, from int64, max int) ([]queue.Stored, error) {
	if err := q.enterTopic(topic); err != nil {
		return nil, err
	}
	defer q.busy.Done()
	if q.cfg.Type != typeStream {
		return nil, q.unsupported(ctx, "browse", topic, "a RabbitMQ queue cannot be looked at without taking records out: receive them, or use type=stream")
	}
	return nil, nil
}
