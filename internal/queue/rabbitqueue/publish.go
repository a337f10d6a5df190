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
	good, index, failed := q.sift(route, batch)
	if len(good) > 0 {
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
			return part(fmt.Errorf("publish to %s: %w", topic, err), c.durable, index)
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

// sift takes out the records that can never be published. index tells where the good ones were, nil: all are good.
func (q *Queue) sift(r route, batch []record.Record) (good []record.Record, index []int, failed map[int]error) {
	for i := range batch {
		if err := q.refuse(r, &batch[i]); err != nil {
			if failed == nil {
				failed = make(map[int]error)
			}
			failed[i] = err
		}
	}
	if failed == nil {
		return batch, nil, nil
	}
	for i := range batch {
		if failed[i] == nil {
			good, index = append(good, batch[i]), append(index, i)
		}
	}
	return good, index, failed
}

// part says how far a publish came. It never counts past a record that can never be taken: whoever goes on behind it
// would not hear of it again.
func part(err error, durable int, index []int) error {
	if index != nil {
		good := durable
		durable = 0
		for durable < good && index[durable] == durable {
			durable++
		}
	}
	if durable == 0 {
		return err
	}
	return &queue.PartError{Done: durable, Err: err}
}
