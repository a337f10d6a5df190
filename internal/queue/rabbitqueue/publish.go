package rabbitqueue

import (
	"context"
	"errors"
	"fmt"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// Publish implements queue.Publisher. All records of a call are on their way at once, together with those of other
// calls; it returns when the broker has confirmed each. When the broker refuses one in the middle, those behind it may
// be durable all the same: who tries again publishes them a second time, behind it and with the same ids, so that the
// last copies are in order. A call that gave up (its context, an alarm) and is tried again on the same connection
// within a minute waits for what it had sent, and sends nothing twice.
func (q *Queue) Publish(ctx context.Context, topic string, batch []record.Record) error {
	if err := q.enterTopic(topic); err != nil {
		return err
	}
	defer q.calls.Leave()
	if len(batch) == 0 {
		return nil
	}
	route := q.route(topic)
	failed := q.refused(route, batch)
	if good := queue.Without(batch, failed); len(good) > 0 {
		if err := q.ensure(ctx, topic); err != nil {
			return fmt.Errorf("publish to %s: %w", topic, err)
		}
		s, err := q.publisher.get(ctx)
		if err != nil {
			return fmt.Errorf("publish to %s: %w", topic, err)
		}
		known := q.knows(topic)
		c := &call{route: route, records: good}
		if err := s.publish(ctx, c); err != nil {
			if known && errors.Is(err, queue.ErrNoTopic) {
				err = gone(err)
			}
			return queue.Partly(c.durable, failed, fmt.Errorf("publish to %s: %w", topic, err))
		}
		q.wrote(topic)
	}
	if failed != nil {
		return &queue.BatchError{Failed: failed, Total: len(batch)}
	}
	return nil
}

// gone is a missing topic that was there before. That may clear by itself, so the mark of the permanent is left behind: a
// broker that comes up again takes connections before it routes to every queue.
func gone(err error) error {
	return fmt.Errorf("%w any more, or not yet after a restart of the broker: %s", queue.ErrNoTopic, err.Error())
}

// Refused implements queue.Refuser.
func (q *Queue) Refused(_ context.Context, topic string, batch []record.Record) (map[int]error, error) {
	if err := q.enterTopic(topic); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	return q.refused(q.route(topic), batch), nil
}

// refused finds the records that can never be published.
func (q *Queue) refused(r route, batch []record.Record) (failed map[int]error) {
	for i := range batch {
		if err := q.refuse(r, &batch[i]); err != nil {
			if failed == nil {
				failed = make(map[int]error)
			}
			failed[i] = err
		}
	}
	return failed
}
