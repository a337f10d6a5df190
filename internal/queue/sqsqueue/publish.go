package sqsqueue

import (
	"context"
	"fmt"

	"ferry/internal/queue"
	"ferry/internal/record"
)

// Publish implements queue.Publisher. Requests of ten records follow each other within a message group; on a standard
// queue several are on their way at once.
func (q *Queue) Publish(ctx context.Context, topic string, batch []record.Record) error {
	if err := q.calls.Enter(); err != nil {
		return err
	}
	defer q.calls.Leave()
	if len(batch) == 0 {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("publish to %s: nothing written: %w", topic, context.Cause(ctx))
	}
	t, err := q.topic(ctx, topic, true)
	if err != nil {
		return err
	}
	c := &call{batch: batch, states: make([]state, len(batch)), done: make(chan struct{})}
	items := make([]*item, 0, len(batch))
	for i := range batch {
		m := pack(&batch[i])
		if err := q.tooLarge(&batch[i], &m, t); err != nil {
			c.take(i, result{err: err, never: true})
			continue
		}
		items = append(items, &item{call: c, index: i, message: m, group: q.group(topic, &batch[i])})
	}
	t.sender.enqueue(c, items)
	select {
	case <-c.done:
	case <-ctx.Done():
		t.sender.abandon(c, topic, context.Cause(ctx))
	}
	return t.sender.outcome(c)
}

// Refused implements queue.Refuser: what is too large. What else SQS refuses is found out by sending it.
func (q *Queue) Refused(ctx context.Context, topic string, batch []record.Record) (map[int]error, error) {
	if err := q.calls.Enter(); err != nil {
		return nil, err
	}
	defer q.calls.Leave()
	t, err := q.topic(ctx, topic, true)
	if err != nil {
		return nil, err
	}
	failed := make(map[int]error)
	for i := range batch {
		m := pack(&batch[i])
		if err := q.tooLarge(&batch[i], &m, t); err != nil {
			failed[i] = err
		}
	}
	return failed, nil
}

// tooLarge tells a record that no message of this queue can hold.
func (q *Queue) tooLarge(r *record.Record, m *message, t *target) error {
	if n, limit := r.Size(), q.info.Limits.RecordBytes; n > limit {
		return &queue.TooLargeError{Size: n, Limit: limit}
	}
	if m.size > t.limit {
		return &queue.TooLargeError{Size: m.size, Limit: t.limit}
	}
	return nil
}

// group gives the message group of a record: what records share their order. A standard queue has none.
func (q *Queue) group(topic string, r *record.Record) string {
	if !q.cfg.FIFO {
		return ""
	}
	if q.cfg.Group == groupByKey && r.Key != "" {
		return token(r.Key)
	}
	if p := r.Header(record.HeaderPipeline); p != "" && q.cfg.Group != groupByTopic {
		return token(p)
	}
	return token(topic)
}

// outcome words what became of a call, in the contract's errors.
func (s *sender) outcome(c *call) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.err == nil {
		if len(c.refused) == 0 {
			return nil
		}
		return &queue.BatchError{Failed: c.refused, Total: len(c.batch)}
	}
	done := 0
	for done < len(c.states) && c.states[done] == stored {
		done++
	}
	return queue.Partly(done, c.refused, c.err)
}
