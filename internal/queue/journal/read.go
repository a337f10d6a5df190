package journal

import (
	"context"
	"errors"
	"time"

	"ferry/internal/queue"
)

// The reader's side waits for what is confirmed, so that it is seen. Where a topic takes nothing, what it holds is shown
// all the same.

// settled waits for what was confirmed for a topic before.
func (q *Queue) settled(ctx context.Context, topic string) error {
	q.mu.Lock()
	until := q.last
	q.mu.Unlock()
	err := q.arrived(ctx, topic, until)
	if errors.Is(err, errBlocked) {
		return nil
	}
	return err
}

// Browse implements queue.Reader.
func (q *Queue) Browse(ctx context.Context, topic string, from int64, limit int) ([]queue.Stored, error) {
	if err := q.settled(ctx, topic); err != nil {
		return nil, err
	}
	return q.Queue.Browse(ctx, topic, from, limit)
}

// Receive implements queue.Reader.
func (q *Queue) Receive(ctx context.Context, topic string, limit int, wait time.Duration) ([]queue.Delivery, error) {
	if err := q.settled(ctx, topic); err != nil {
		return nil, err
	}
	return q.Queue.Receive(ctx, topic, limit, wait)
}

// Stats implements queue.Reader.
func (q *Queue) Stats(ctx context.Context, topic string) (queue.Stats, error) {
	if err := q.settled(ctx, topic); err != nil {
		return queue.Stats{}, err
	}
	return q.Queue.Stats(ctx, topic)
}

// Remove deletes single records, where the queue behind can.
func (q *Queue) Remove(ctx context.Context, topic string, positions ...int64) error {
	r, ok := q.Queue.(interface {
		Remove(ctx context.Context, topic string, positions ...int64) error
	})
	if !ok {
		return errors.ErrUnsupported
	}
	if err := q.settled(ctx, topic); err != nil {
		return err
	}
	return r.Remove(ctx, topic, positions...)
}
